"""Jobs of a build: scan files, write their references, and combine files into sets.

Workers receive picklable jobs, one per file, and the settings of the build. They scan each file,
write its references, and return its row of the journal as plain values. A file that cannot be
scanned becomes a row; an output that cannot be written ends the batch. Transient errors of networks
and servers are retried with exponential backoff. Workers must see a local folder under the same
path as the process that builds the catalog.

A combined set is one document for several files, with the axes of the sequence first. This module
decides which files form a set, its name, and when it is written again. `combined.json` lists all.
"""

from __future__ import annotations

import datetime
import errno
import functools
import hashlib
import io
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codecs.table import COMPRESSIONS
from ..errors import (
    CatalogError,
    MalformedTiff,
    SelectionError,
    SourceError,
    TiffrefError,
    collect_warnings,
)
from ..io.allow import is_local
from ..io.http import RETRIED_STATUSES
from ..io.remote import open_source
from ..io.urls import split_chain, to_document_url, to_full_url, warn_about_signatures
from ..metadata.cf import parse_date, read_time_coordinate
from ..metadata.gdal import with_bands
from ..metadata.report import Report
from ..model.array import Array, Group
from ..model.manifest import MISSING, Source
from ..references import References, write_document
from ..sequences.inputs import FileList
from ..sequences.stack import scan_sequence
from ..signatures import public_url
from ..tiff.scan import scan
from ..tiff.sidecars import file_states, has_sidecars, sidecar_state
from .executors import Pool, run_batches
from .index import outline_of_points
from .storage import Folder, Journal, checksum

FORMATS: Mapping[str, str] = {"json": ".json", "parquet": ".parq"}
"""File name extension of each format of references."""
_UNSAFE = re.compile(r'[\x00-\x1f%?*:"<>|{}\\\ud800-\udfff]')
"""Characters that some file systems reject; fsspec takes braces in paths of parquet references for
fields of a template."""
_MAX_NAME_BYTES = 240


@dataclass(frozen=True, slots=True)
class Job:
    """One file to scan.

    `output` is the path of its references in the catalog. `size`, `mtime`, `etag` and the state of
    its `sidecars` and other local files of its set are those of the last scan, None for a new file;
    a file that still has them is skipped. `fields` are values from its name or the table that lists
    it; `bands` is the band metadata of a STAC item, as in `FileList`.
    """

    url: str
    name: str
    output: str
    size: int | None = None
    mtime: float | None = None
    etag: str | None = None
    sidecars: Sequence[Any] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    bands: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """Options that all jobs of a build share, as in `build` and `BuildOptions`.

    `root` is the address of the common folder of the files of the first build; documents have
    `prefix` instead, unless it is None.
    """

    folder: Folder
    root: str
    prefix: str | None = None
    format: str = "json"
    scan: Mapping[str, Any] = field(default_factory=dict)
    storage_options: Mapping[str, Any] | None = None
    retries: int = 3
    backoff_s: float = 0.5
    keep_signature: bool = False

    def rename(self, url: str) -> str:
        """Return the address of a file to write in documents."""
        if self.prefix is None and self.keep_signature:
            return to_full_url(url)
        inner, address = split_address(url)
        if self.prefix is not None and address.startswith(self.root):
            address = self.prefix + address[len(self.root) :]
        return inner + address


def split_address(url: str) -> tuple[str, str]:
    """Split the address of a file in documents, as `split_chain`."""
    # paths of jobs are absolute, so that this needs no slow look-up of the working directory
    is_path = url.startswith("/")
    return ("", f"file://{url}") if is_path else split_chain(to_document_url(url))


def make_jobs(
    inputs: FileList, fields: Mapping[str, Sequence[Any]], settings: Settings
) -> list[Job]:
    """Return a job for each distinct file.

    Raises
    ------
    SelectionError
        If the references of two files would have the same path.
    """
    warn_about_signatures(inputs.urls, is_kept=settings.keep_signature)
    suffix = FORMATS.get(settings.format, "")
    jobs: dict[str, Job] = {}
    outputs: dict[str, str] = {}
    for n, url in enumerate(inputs.urls):
        name = url if settings.keep_signature else public_url(url)
        if name in jobs:
            continue
        output = reference_path(url, settings.root, suffix)
        if outputs.setdefault(output, name) != name:
            raise SelectionError(
                "the references of two files would have the same path",
                url=name,
                got=output,
                expected=f"a path other than that of {outputs[output]}",
            )
        own = {key: values[n] for key, values in fields.items() if values[n] is not None}
        bands = inputs.bands[n] if inputs.bands else ()
        jobs[name] = Job(url, name, output, fields=own, bands=bands)
    return list(jobs.values())


def reference_path(url: str, root: str, suffix: str) -> str:
    """Return the path of the references of a file in the catalog.

    It includes the folders below the root and the file's extension, so that files with the same
    name or stem do not collide.

    Examples
    --------
    >>> reference_path("/data/a/x.tif", "file:///data/", ".json")
    'references/a/x.tif.json'
    >>> reference_path("s3://other/x.tif", "file:///data/", ".json")
    'references/_elsewhere/s3/other/x.tif.json'
    """
    inner, address = split_address(url)
    if root and address.startswith(root):
        name = inner + address[len(root) :]
    else:
        name = "_elsewhere/" + f"{inner}{address}".replace("://", "/", 1)
    parts = [_safe(part) for part in name.split("/") if part]
    parts[-1] = _shorten(parts[-1]) + suffix
    return "/".join(["references", *map(_shorten, parts[:-1]), parts[-1]])


def _safe(part: str) -> str:
    """Escape unsafe characters; distinct parts stay distinct."""
    if part in (".", ".."):
        return part.replace(".", "%2E")
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", part)


def _shorten(part: str) -> str:
    data = os.fsencode(part)
    if len(data) <= _MAX_NAME_BYTES:
        return part
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[: _MAX_NAME_BYTES - 17].decode('utf-8', 'ignore')}~{digest}"


def file_facts(references: References) -> dict[str, Any]:
    """Return the columns that describe the image of a file."""
    array = references.group[references.main_path]
    codec = array.codecs[0]
    compression = COMPRESSIONS[codec.compression].name
    levels = [level for series in references.series[:1] for level in series["levels"]]
    refused = [
        level["refused"] for series in references.series for level in series["levels"]
        if "refused" in level
    ]  # fmt: skip
    return {
        "shape": list(array.shape),
        "dims": list(array.dims),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "codec": compression + (f"+predictor{codec.predictor}" if codec.predictor != 1 else ""),
        "nbytes": array.nbytes,
        "n_levels": len(levels),
        "n_series": len(references.series),
        "nodata": _number(array.fill_value),
        **_place(references.group, array),
        "time": _time(references),
        "created": _iso(array.attributes.get("date_created")),
        "refused": refused,
        **_chunk_facts(references),
    }


def _place(group: Group, array: Array) -> dict[str, Any]:
    crs = group.attributes.get("proj:code") or group.attributes.get("proj:wkt2")
    transform = group.attributes.get("spatial:transform")
    columns = {"crs": crs, "transform": transform, "raster": group.attributes.get("spatial:shape")}
    mapping = group.children.get(str(array.attributes.get("grid_mapping")))
    if transform is None and mapping is not None:
        outline = outline_of_points(crs, mapping.attributes)
        columns |= {} if outline is None else {"outline": outline}
    return columns


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, complex):
        return None
    number = float(value)
    return number if np.isfinite(number) else None


def _time(references: References) -> str | None:
    """Return the acquisition time of the image in ISO 8601 format."""
    variable = references.group.children.get("time")
    if isinstance(variable, Array) and variable.shape == ():
        number = np.frombuffer(variable.manifest.inlined[0], "<i8")[0]
        moment = read_time_coordinate(variable.attributes["units"], int(number))
        if moment is not None:
            return moment.replace(tzinfo=None).isoformat()
    return _iso(references.group[references.main_path].attributes.get("time_coverage_start"))


def _iso(text: Any) -> str | None:
    moment = parse_date(str(text))
    if moment is not None and moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return None if moment is None else moment.isoformat()


def _chunk_facts(references: References) -> dict[str, Any]:
    """Return counts and sizes of the chunks of all arrays of a file."""
    # one pass over all arrays: for a few chunks, a NumPy call costs more than the work
    manifests = [array.manifest for _, array in references.group.arrays() if array.manifest.sources]
    none: list[NDArray[Any]] = [np.empty(0, np.uint64)]
    source = np.concatenate([manifest.source for manifest in manifests] or none)
    length = np.concatenate([manifest.length for manifest in manifests] or none)
    n_chunks, n_missing = len(source), 0
    if n_chunks and source.min() < 0:
        n_missing = int((source == MISSING).sum())
        length = length[source >= 0]
    return {
        "n_chunks": n_chunks,
        "missing_chunks": n_missing,
        "stored_bytes": int(length.sum()),
        "largest_chunk": int(length.max(initial=0)),
    }


T = TypeVar("T")

_RETRY_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET,
        errno.EHOSTUNREACH, errno.EINTR, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
        errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
_RETRY_S3_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"})
"""Error codes of S3-compatible stores."""
_CLIENT_MODULES = ("aiohttp", "botocore", "urllib3", "requests", "gcsfs")
_RETRY_NAMES = ("Timeout", "Connection", "Disconnected", "Incomplete", "Payload")


def is_transient(error: BaseException) -> bool:
    """Return whether an operation may succeed if it is retried after this error."""
    cause: BaseException | None = error if isinstance(error, SourceError) else None
    while cause is not None and not _is_transient_cause(cause):
        cause = cause.__cause__
    return cause is not None


def _is_transient_cause(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if getattr(error, "errno", None) in _RETRY_ERRNOS:
        return True
    if getattr(error, "status", None) in RETRIED_STATUSES:
        return True
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("Error", {}).get("Code") in _RETRY_S3_CODES
    # by name: clients have dozens of such classes, and may not be installed
    is_client = type(error).__module__.startswith(_CLIENT_MODULES)
    return is_client and any(name in type(error).__name__ for name in _RETRY_NAMES)


def with_retries(work: Callable[[], T], retries: int, backoff_s: float) -> T:
    """Call a function; after transient errors, retry up to `retries` times, with backoff."""
    for attempt in range(retries):
        try:
            return work()
        except SourceError as error:
            if not is_transient(error):
                raise
        time.sleep(backoff_s * 2**attempt)
    return work()


def failed_row(job: Job, error: BaseException) -> dict[str, Any]:
    """Return the row of a file that cannot be scanned."""
    return {"url": job.name, **_failure(error), "fields": dict(job.fields)}


def _failure(error: BaseException) -> dict[str, Any]:
    return {"status": "failed", "error": str(error), "error_type": type(error).__name__}


def run_jobs(settings: Settings, jobs: Sequence[Job]) -> list[dict[str, Any] | None]:
    """Scan files and write their references.

    Returns
    -------
    The new row of the journal for each file; None for a file that has not changed.

    Raises
    ------
    CatalogError
        If references cannot be written.
    """
    rows: list[dict[str, Any] | None] = []
    for job in jobs:
        try:
            scan_one = functools.partial(_scan, job, settings)
            rows.append(with_retries(scan_one, settings.retries, settings.backoff_s))
        except CatalogError:
            raise
        except TiffrefError as error:
            rows.append(failed_row(job, error))
            settings.folder.remove(job.output)  # may exist from before the file changed
    return rows


def _scan(job: Job, settings: Settings) -> dict[str, Any] | None:
    """Scan one file and write its references; return its row, None if it has not changed."""
    with closing(open_source(job.url, settings.storage_options)) as opened:
        is_wanted = has_sidecars(settings.scan.get("sidecars"), opened.source.url)
        sidecars = sidecar_state(opened.source.url) if is_wanted else []
        members = file_states(name for name, *_ in job.sidecars if Path(name).is_absolute())
        if _is_unchanged(job, opened.source) and [*sidecars, *members] == [*job.sidecars]:
            return None
        with collect_warnings() as warnings:
            references = scan(opened, **settings.scan)
            if job.bands:
                report = Report(job.url)
                group = references.group.map_arrays(
                    lambda _, array: with_bands(array, job.bands, report)
                )
                references = replace(references, group=group)
            if warnings.truncation and not settings.scan.get("allow_holes"):
                raise MalformedTiff(warnings.truncation)  # "ok" means complete
            written = {}
            if settings.format != "none":
                size, crc = write_references(references, job.output, settings)
                written = {"references": job.output, "document_size": size, "document_crc": crc}
        others = (source for source in references.sources if source.url != opened.source.url)
        sidecars += [[one.url, one.size, one.mtime] for one in others if is_local(one.url)]
        return {
            "url": job.name, "status": "ok", "size": opened.source.size,
            "mtime": opened.source.mtime, "etag": opened.source.etag, **written,
            "fields": dict(job.fields), **file_facts(references),
            **({"warnings": list(warnings)} if warnings else {}),
            **({"sidecars": sidecars} if sidecars else {}),
        }  # fmt: skip


def write_references(references: References, path: str, settings: Settings) -> tuple[int, int]:
    """Write a document atomically, in the format of its name; return its size and CRC-32."""
    write = functools.partial(write_document, references, rename=settings.rename)
    if path.endswith(".json") and len(references.sources) == 1:  # small enough to write in memory
        buffer = io.BytesIO()
        write(buffer)
        settings.folder.put(path, document := buffer.getvalue())
        return len(document), zlib.crc32(document)
    with settings.folder.staging(path) as staged:
        write(staged)
        result = checksum(staged)
    assert result is not None
    return result


def _is_unchanged(job: Job, now: Source) -> bool:
    if job.size is None or job.size != now.size:
        return False
    if job.etag is not None or now.etag is not None:
        return job.etag == now.etag
    return job.mtime is not None and job.mtime == now.mtime


RECORD = "combined.json"
_COMBINED = "combined"
_RECORD_S = 5.0
"""Seconds between writes of the record, which is long if there are thousands of sets; after a kill,
sets that are not in it are written again."""
_MEMBER_COLUMNS = ("url", "size", "mtime", "etag", "sidecars", "fields")
"""Columns of the files of a set; if any changes, the set is written again."""
_SCAN_OPTIONS = ("series", "level", "key", "chunkmode", "fillvalue", "zattrs")
"""Arguments of `scan` that `scan_sequence` takes as well."""


@dataclass(frozen=True, slots=True)
class CombinedSettings:
    """Options of combined sets.

    `pattern` defines the axes; `group_by` are names of fields or columns of the index; `format` is
    "parquet" or "json"; `options` are passed to `scan_sequence`.
    """

    pattern: str | None
    group_by: Sequence[str]
    format: str
    options: Mapping[str, Any]


_CombinedSet = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""One set to write: its row in the record, and columns of its files."""


def combine_groups(
    pool: Pool,
    journal: Journal,
    order: Iterable[str],
    settings: Settings,
    combined: CombinedSettings,
    signed: Mapping[str, str],
    show: Callable[[int, int, int], None],
) -> list[dict[str, Any]]:
    """Write a combined set for each group of files, and the record of all sets.

    A set is skipped if its files have not changed since the last build. Apart from the sets being
    written, only the addresses of files are in memory.

    Parameters
    ----------
    signed
        Signed URLs of files, by the unsigned address that the journal has.
    show
        Called with the numbers of all sets, finished sets, and failed sets.

    Returns
    -------
    A row for each set: `name`, `keys`, `status`, `path` or `error`, `n_files`, `shape`.
    """
    folder = settings.folder
    previous = {row["name"]: row for row in _read_record(folder)}
    groups = _group_files(journal.rows(order), combined.group_by)
    done: dict[str, dict[str, Any]] = {}
    n_failed = 0
    written_s = time.monotonic()

    def record(row: dict[str, Any]) -> None:
        nonlocal written_s, n_failed
        done[row["name"]] = row
        n_failed += row["status"] != "ok"
        show(len(groups), len(done), n_failed)
        if time.monotonic() > written_s + _RECORD_S:
            _write_record(folder, {**previous, **done}.values())
            written_s = time.monotonic()

    def changed_sets() -> Iterator[tuple[_CombinedSet]]:
        is_complete = folder.completeness_check()
        show(len(groups), 0, 0)
        for name, (keys, urls) in groups.items():
            planned = _plan_set(name, keys, journal.rows(urls), settings, combined, signed)
            old = previous.get(name, {"status": "none"})
            is_same = old["status"] == "ok" and old["state"] == planned[0]["state"]
            if is_same and is_complete(old["path"], old["document_size"], old["document_crc"]):
                record(old)
            else:
                yield (planned,)

    run_batches(
        pool,
        functools.partial(_write_combined_set, settings, combined),
        changed_sets(),
        on_result=record,
        on_failure=lambda planned, error: record({**planned[0], **_failure(error)}),
    )
    rows = [done[name] for name in groups]
    for path in {row.get("path") for row in previous.values()} - {row.get("path") for row in rows}:
        if path is not None:
            folder.remove(path)
    if rows != list(previous.values()):
        _write_record(folder, rows)
    return rows


def _read_record(folder: Folder) -> list[dict[str, Any]]:
    """Return the rows of `combined.json`; none if it does not exist or is damaged."""
    try:
        return json.loads(folder.read(RECORD) or b"[]")
    except ValueError:  # it is not flushed to disk: possible after a power loss
        return []


def _write_record(folder: Folder, rows: Iterable[Mapping[str, Any]]) -> None:
    folder.put(RECORD, json.dumps(list(rows), indent=1).encode() + b"\n")


def _group_files(
    rows: Iterable[Mapping[str, Any]], group_by: Sequence[str]
) -> dict[str, tuple[tuple[Any, ...], list[str]]]:
    """Return keys and files of each group, by its name."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row["status"] == "ok":
            keys = tuple(_key(row, name) for name in group_by)
            groups.setdefault(keys, []).append(row["url"])
    named: dict[str, tuple[tuple[Any, ...], list[str]]] = {}
    for keys, urls in sorted(groups.items(), key=lambda item: str(item[0])):
        name = "_".join(_format_key(key) for key in keys) or "all"
        if name in named or len(name) > 100:
            name = f"{name[:100]}~{hashlib.sha256(repr(keys).encode()).hexdigest()[:8]}"
        named[name] = keys, urls
    return named


def _key(row: Mapping[str, Any], name: str) -> Any:
    fields = row.get("fields", {})
    value = fields.get(name, row.get(name, fields))
    if isinstance(value, Mapping):
        raise SelectionError(
            "cannot group files by a field or column that does not exist", url=row["url"],
            got=name, expected=sorted({*fields, "crs", "dtype", "codec", "shape", "dims"}),
        )  # fmt: skip
    return tuple(value) if isinstance(value, list) else value


def _format_key(key: Any) -> str:
    text = "x".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return "".join(c if c.isalnum() or c in "-+." else "-" for c in text).strip(".") or "none"


def _plan_set(
    name: str,
    keys: Sequence[Any],
    rows: Iterable[Mapping[str, Any]],
    settings: Settings,
    combined: CombinedSettings,
    signed: Mapping[str, str],
) -> _CombinedSet:
    members: list[dict[str, Any]] = [
        {column: row.get(column) for column in _MEMBER_COLUMNS} for row in rows
    ]
    inputs = [members, combined.pattern, combined.format, dict(combined.options),
              settings.prefix, dict(settings.scan)]  # fmt: skip
    text = json.dumps(inputs, sort_keys=True, default=str)
    row = {
        "name": name,
        "keys": dict(zip(combined.group_by, keys, strict=True)),
        "state": hashlib.sha256(text.encode()).hexdigest(),
        "n_files": len(members),
    }
    for member in members:
        member["url"] = signed.get(member["url"], member["url"])
    return row, members


def _write_combined_set(
    settings: Settings, combined: CombinedSettings, sets: tuple[_CombinedSet]
) -> dict[str, Any]:
    """Scan and write one set, in a worker; return its row."""
    ((row, members),) = sets
    options = {name: settings.scan[name] for name in _SCAN_OPTIONS if name in settings.scan}
    path = f"{_COMBINED}/{row['name']}{FORMATS[combined.format]}"
    try:
        references = scan_sequence(
            _sequence_input(members, combined),
            pattern=combined.pattern,
            storage_options=settings.storage_options,
            **{**options, **combined.options},
        )
        size, crc = write_references(references, path, settings)
    except CatalogError:
        raise
    except TiffrefError as error:
        return {**row, **_failure(error)}
    return {
        **row, "status": "ok", "path": path,
        "shape": references.group[references.main_path].sizes,
        "document_size": size, "document_crc": crc,
    }  # fmt: skip


def _sequence_input(members: Sequence[Mapping[str, Any]], combined: CombinedSettings) -> Any:
    """Return the files for `scan_sequence`; without a pattern, as a table with their fields."""
    urls = [row["url"] for row in members]
    names = dict.fromkeys(name for row in members for name in row["fields"] or {})
    if combined.pattern is not None or not names:
        return urls
    columns = {name: [row["fields"].get(name) for row in members] for name in names}
    varying = {k: v for k, v in columns.items() if k not in combined.group_by and len(set(v)) > 1}
    return {"url": urls, **varying}
