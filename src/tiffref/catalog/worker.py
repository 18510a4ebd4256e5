"""The jobs of a build, and what a worker does with them.

Owns what workers get (a job for each file, and the settings of the build; everything pickles), what
the files of references are called, and what executors run: scan each file, write its references,
and return the rows of the journal, with what is measured of each image as plain values. A bad file
becomes a row; an output that cannot be written ends the batch. Errors of a busy network or server
are retried after a pause that doubles. A folder on a disk must be there under the same path as in
the process that builds the catalog.

Also owns combined sets, files as arrays with the axes of their sequence in front: which files make
a set, what it is called, when it is made again, and the record of all sets. Workers make one each.
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
from ..formats.kerchunk import write_json
from ..formats.parquet import write_parquet
from ..io.open import open_source
from ..io.urls import public_url, to_document_url, to_full_url, warn_about_signatures
from ..metadata.cf import read_time_coordinate
from ..metadata.gdal import with_bands
from ..metadata.report import Report
from ..model.array import Array
from ..model.codec import SegmentCodec
from ..model.manifest import MISSING, Source
from ..references import References
from ..sequences.inputs import FileList
from ..sequences.stack import scan_sequence
from ..tiff.scan import scan
from .executors import JobQueue, Pool
from .storage import Folder, Journal, checksum

FORMATS: Mapping[str, str] = {"json": ".json", "parquet": ".parq"}
"""Format of the references of one file -> what their names end in."""
_UNSAFE = re.compile(r'[\x00-\x1f%?*:"<>|\\]')
_MAX_NAME_BYTES = 240


@dataclass(frozen=True, slots=True)
class Job:
    """One file to scan.

    `output` is where its references go, below the catalog's folder. `size`, `mtime` and `etag` are
    of the file when it was scanned last, None for a new one: a worker that finds it so leaves it
    alone. `fields` are values of its name, or of the table it is listed in; `bands` what a STAC
    item says of its bands, as in `FileList`.
    """

    url: str
    name: str
    output: str
    size: int | None = None
    mtime: float | None = None
    etag: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    bands: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all jobs of a build, as of `build` and `BuildOptions`.

    `root` is the address of the folder that the files of the first build share, and `prefix` what
    documents say instead of it; None leaves addresses as they are.
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
        """Return the address that documents have for a file."""
        if self.prefix is None and self.keep_signature:
            return to_full_url(url)
        address = _address(url)
        if self.prefix is None or not address.startswith(self.root):
            return address
        return self.prefix + address[len(self.root) :]


def _address(url: str) -> str:
    # paths of jobs are full already: no need to ask for the working folder, as others must
    return f"file://{url}" if url.startswith("/") else to_document_url(url)


def make_jobs(
    found: FileList, fields: Mapping[str, Sequence[Any]], settings: Settings
) -> list[Job]:
    """Return a job for each file, each file once.

    Raises
    ------
    SelectionError
        If two files would have the same references.
    """
    warn_about_signatures(found.urls, is_kept=settings.keep_signature)
    suffix = FORMATS.get(settings.format, "")
    jobs: dict[str, Job] = {}
    outputs: dict[str, str] = {}
    for n, url in enumerate(found.urls):
        name = url if settings.keep_signature else public_url(url)
        if name in jobs:
            continue
        output = reference_path(url, settings.root, suffix)
        if outputs.setdefault(output, name) != name:
            raise SelectionError(
                "two files would have their references in one place",
                url=name,
                got=output,
                expected=f"another place than that of {outputs[output]}",
            )
        own = {key: values[n] for key, values in fields.items() if values[n] is not None}
        bands = found.bands[n] if found.bands else ()
        jobs[name] = Job(url, name, output, fields=own, bands=bands)
    return list(jobs.values())


def reference_path(url: str, root: str, suffix: str) -> str:
    """Return where the references of a file go.

    Folders below the root stay, so that two files of the same name never meet, and so does the
    ending: `a.tif` and `a.tiff` may lie side by side.

    Examples
    --------
    >>> reference_path("/data/a/x.tif", "file:///data/", ".json")
    'references/a/x.tif.json'
    >>> reference_path("s3://other/x.tif", "file:///data/", ".json")
    'references/_elsewhere/s3/other/x.tif.json'
    """
    address = _address(url)
    if root and address.startswith(root):
        name = address[len(root) :]
    else:
        name = "_elsewhere/" + address.replace("://", "/", 1)
    parts = [_safe(part) for part in name.split("/") if part]
    parts[-1] = _shorten(parts[-1]) + suffix
    return "/".join(["references", *map(_shorten, parts[:-1]), parts[-1]])


def _safe(part: str) -> str:
    """Spell a part of an address so that every file system takes it, and no two become one."""
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
    """Measure the image of a file: its form, its place and time, and its chunks."""
    array = references.group[references.main_path]
    assert isinstance(array, Array)
    attributes = references.group.attributes
    levels = [level for row in references.series[:1] for level in row["levels"]]
    refused = [
        level["refused"] for row in references.series for level in row["levels"]
        if "refused" in level
    ]  # fmt: skip
    return {
        "shape": list(array.shape),
        "dims": list(array.dims),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "codec": _name_codec(array),
        "nbytes": array.nbytes,
        "n_levels": len(levels),
        "n_series": len(references.series),
        "nodata": _number(array.fill_value),
        "crs": attributes.get("proj:code") or attributes.get("proj:wkt2"),
        "transform": attributes.get("spatial:transform"),
        "raster": attributes.get("spatial:shape"),
        "time": _time(references),
        "refused": refused,
        **_chunk_facts(references),
    }


def _name_codec(array: Array) -> str:
    codec = array.codecs[0]
    if not isinstance(codec, SegmentCodec):
        return "foreign"
    name = COMPRESSIONS[codec.compression].name if codec.compression in COMPRESSIONS else "unknown"
    return name if codec.predictor == 1 else f"{name}+predictor{codec.predictor}"


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, complex):
        return None
    number = float(value)
    return number if np.isfinite(number) else None


def _time(references: References) -> str | None:
    """Return when the image was taken, or else made, as ISO text."""
    variable = references.group.children.get("time")
    if isinstance(variable, Array) and variable.shape == ():
        units = str(variable.attributes.get("units", ""))
        data = variable.manifest.inlined.get(0, b"")
        if len(data) == 8:
            number = np.frombuffer(data, variable.dtype.newbyteorder("<"))[0]
            moment = read_time_coordinate(units, int(number))
            if moment is not None:
                return moment.replace(tzinfo=None).isoformat()
    array = references.group[references.main_path]
    made = array.attributes.get("time_coverage_start") or array.attributes.get("date_created")
    return _iso(made)


def _iso(text: Any) -> str | None:
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return moment.isoformat()


def _chunk_facts(references: References) -> dict[str, Any]:
    """Measure the chunks of all arrays of a file together."""
    # looked at together: a look takes longer than the few chunks of a level
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

_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET,
        errno.EHOSTUNREACH, errno.EINTR, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
        errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers by which a server says "later"; 404 and 403 say "never"."""
_STATUS = re.compile(r"HTTP status (\d{3})$")
_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"})
"""Codes of S3 and kin."""
_CLIENTS = ("aiohttp", "botocore", "urllib3", "requests", "gcsfs")
_KINDS = ("Timeout", "Connection", "Disconnected", "Incomplete", "Payload")


def is_transient(error: BaseException) -> bool:
    """Return whether an error may be gone the next time."""
    cause: BaseException | None = error if isinstance(error, SourceError) else None
    while cause is not None and not _may_pass(cause):
        cause = cause.__cause__
    return cause is not None


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if getattr(error, "errno", None) in _ERRNOS or getattr(error, "status", None) in _STATUSES:
        return True
    if isinstance(error, SourceError):
        found = _STATUS.search(str(error.got))
        return found is not None and int(found[1]) in _STATUSES
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return answer.get("Error", {}).get("Code") in _CODES
    # clients have dozens of classes for this, that need not be installed
    is_client = type(error).__module__.startswith(_CLIENTS)
    return is_client and any(kind in type(error).__name__ for kind in _KINDS)


def retried(
    work: Callable[[], T],
    retries: int,
    backoff_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Do something, again after errors that may pass: `retries` times, with pauses that double."""
    for attempt in range(retries):
        try:
            return work()
        except SourceError as error:
            if not is_transient(error):
                raise
        sleep(backoff_s * 2**attempt)
    return work()


@dataclass(slots=True)
class Done:
    """What became of some jobs.

    `rows` are those of the journal, files that have not changed left out; `n_unchanged` counts
    those. `n_bytes` is what the images take that were looked at. `written` names one of the files
    that were written.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    n_failed: int = 0
    n_unchanged: int = 0
    n_bytes: int = 0
    first_error: str | None = None
    written: str | None = None

    def fail(self, job: Job, error: BaseException) -> None:
        """Note that a file cannot be scanned."""
        self.n_failed += 1
        self.first_error = self.first_error or str(error)
        self.rows.append(
            {
                "url": job.name, "status": "failed", "error": str(error),
                "error_type": type(error).__name__, "fields": dict(job.fields),
            }
        )  # fmt: skip


def run_jobs(settings: Settings, jobs: Sequence[Job]) -> Done:
    """Scan files and write their references.

    Raises
    ------
    CatalogError
        If references cannot be written.
    """
    done = Done()
    for job in jobs:
        try:
            scan_one = functools.partial(_scan, job, settings)
            row = retried(scan_one, settings.retries, settings.backoff_s)
        except CatalogError:
            raise
        except TiffrefError as error:
            done.fail(job, error)
            settings.folder.remove(job.output)  # of the file as it was before it changed
            continue
        if row is None:
            done.n_unchanged += 1
            continue
        done.rows.append(row)
        done.n_bytes += row["size"] or 0
        done.written = row.get("references", done.written)
    return done


def _scan(job: Job, settings: Settings) -> dict[str, Any] | None:
    """Scan one file, and write its references; None if it has not changed since."""
    with closing(open_source(job.url, settings.storage_options)) as there:
        if _is_unchanged(job, there.source):
            return None
        with collect_warnings() as warnings:
            references = _with_bands(scan(there, **settings.scan), job)
            if warnings.truncation and not settings.scan.get("allow_holes"):
                raise MalformedTiff(warnings.truncation)  # a row that is "ok" is whole
            written = {}
            if settings.format != "none":
                size, crc = write_references(references, job.output, settings, settings.format)
                written = {"references": job.output, "document_size": size, "document_crc": crc}
        return {
            "url": job.name, "status": "ok", **state_of(there.source), **written,
            "fields": dict(job.fields), **file_facts(references),
            **({"warnings": list(warnings)} if warnings else {}),
        }  # fmt: skip


def state_of(source: Source) -> dict[str, Any]:
    """Return by what a file is known again."""
    return {"size": source.size, "mtime": source.mtime, "etag": source.etag}


def write_references(
    references: References, path: str, settings: Settings, format: str
) -> tuple[int, int]:
    """Put a document in place, whole; return its size and checksum."""
    options: dict[str, Any] = {
        "rename": settings.rename, "series": references.series,
        "is_sealed": references.allow is None,
    }  # fmt: skip
    if format == "json" and len(references.sources) == 1:  # of many files it may be long
        buffer = io.BytesIO()
        write_json(references.group, buffer, **options)
        settings.folder.put(path, document := buffer.getvalue())
        return len(document), zlib.crc32(document)
    write = write_json if format == "json" else write_parquet
    with settings.folder.making(path) as made:
        write(references.group, made, **options)
        found = checksum(made)
    assert found is not None
    return found


def _with_bands(references: References, job: Job) -> References:
    """Add what the STAC item of a file says of its bands."""
    if not job.bands:
        return references
    report = Report(job.url)
    children = {
        name: with_bands(child, job.bands, report) if isinstance(child, Array) else child
        for name, child in references.group.children.items()
    }
    return replace(references, group=references.group.with_children(children))


def _is_unchanged(job: Job, now: Source) -> bool:
    if job.size is None or job.size != now.size:
        return False
    if job.etag is not None or now.etag is not None:
        return job.etag == now.etag
    return job.mtime is not None and job.mtime == now.mtime


RECORD = "combined.json"
_COMBINED = "combined"
_RECORD_S = 5.0
"""How often the record is written: with thousands of sets it is long, and sets made since are but
made again."""
_MEMBER = ("url", "size", "mtime", "etag", "fields")
"""What a set is made of: these columns of each of its files."""
_SCAN_OPTIONS = ("series", "level", "key", "chunkmode", "fillvalue", "zattrs")
"""Arguments of `scan` that `scan_sequence` takes as well."""


@dataclass(frozen=True, slots=True)
class CombinedSettings:
    """How files are combined.

    `pattern` gives their axes; `group_by` names fields or columns of the index; `format` is
    "parquet" or "json"; `options` go to `scan_sequence`; `signed` are addresses by which files are
    read, where the journal has another one.
    """

    pattern: str | None
    group_by: Sequence[str]
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)
    signed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Set:
    """One set to make: `row` is what is known of it, `members` are what is known of its files."""

    row: Mapping[str, Any]
    members: Sequence[Mapping[str, Any]]


def combine_groups(
    pool: Pool,
    journal: Journal,
    order: Iterable[str],
    settings: Settings,
    wanted: CombinedSettings,
    show: Callable[[int, int, int], None],
) -> list[dict[str, Any]]:
    """Write a combined set for each group of files, and the record of all sets.

    A set whose files are those of the last run is left as it is. Of files that are not at work now
    only the addresses are in memory.

    Parameters
    ----------
    show
        Called with the number of sets, of those done, and of those that failed.

    Returns
    -------
    A row for each set: `name`, `keys`, `status`, `path` or `error`, `n_files`, `shape`.
    """
    folder = settings.folder
    before = {row["name"]: row for row in _read_record(folder)}
    groups = _group(journal.rows(order), wanted.group_by)
    done: dict[str, dict[str, Any]] = {}
    n_failed = 0
    written_s = time.monotonic()

    def take(row: dict[str, Any]) -> None:
        nonlocal written_s, n_failed
        done[row["name"]] = row
        n_failed += row["status"] != "ok"
        show(len(groups), len(done), n_failed)
        if time.monotonic() > written_s + _RECORD_S:
            _write_record(folder, {**before, **done}.values())
            written_s = time.monotonic()

    def pieces() -> Iterator[tuple[_Set]]:
        holds = folder.survey()
        show(len(groups), 0, 0)
        for name, (keys, urls) in groups.items():
            one = _describe_set(name, keys, journal.rows(urls), settings, wanted)
            known = before.get(name, {"status": "none"})
            is_same = known["status"] == "ok" and known["state"] == one.row["state"]
            if is_same and holds(known["path"], known["document_size"], known["document_crc"]):
                take(known)
            else:
                yield (one,)

    run = functools.partial(_combine, settings, replace(wanted, signed={}))
    JobQueue(pool, run, take, lambda one, error: take(_failed(one, error))).work(pieces())
    found = [done[name] for name in groups]
    for path in {row.get("path") for row in before.values()} - {row.get("path") for row in found}:
        if path is not None:
            folder.remove(path)
    if found != list(before.values()):
        _write_record(folder, found)
    return found


def _read_record(folder: Folder) -> list[dict[str, Any]]:
    """Return the record of combined sets; none if there is no record, and they are made again."""
    try:
        return json.loads(folder.read(RECORD) or b"[]")
    except ValueError:  # nothing waits for the disk: power was lost
        return []


def _write_record(folder: Folder, rows: Iterable[Mapping[str, Any]]) -> None:
    folder.put(RECORD, json.dumps(list(rows), indent=1).encode() + b"\n")


def _group(
    rows: Iterable[Mapping[str, Any]], group_by: Sequence[str]
) -> dict[str, tuple[tuple[Any, ...], list[str]]]:
    """Return for the name of each group its keys and its files."""
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
            "files cannot be grouped by what they do not have", url=row["url"], got=name,
            expected=sorted({*fields, "crs", "dtype", "codec", "shape", "dims"}),
        )  # fmt: skip
    return tuple(value) if isinstance(value, list) else value


def _format_key(key: Any) -> str:
    """Spell a key as a file may be called."""
    text = "x".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return "".join(c if c.isalnum() or c in "-+." else "-" for c in text).strip(".") or "none"


def _describe_set(
    name: str,
    keys: Sequence[Any],
    rows: Iterable[Mapping[str, Any]],
    settings: Settings,
    wanted: CombinedSettings,
) -> _Set:
    members: list[dict[str, Any]] = [
        {column: row.get(column) for column in _MEMBER} for row in rows
    ]
    made_of = [members, wanted.pattern, wanted.format, dict(wanted.options),
               settings.prefix, dict(settings.scan)]  # fmt: skip
    text = json.dumps(made_of, sort_keys=True, default=str)
    row = {
        "name": name,
        "keys": dict(zip(wanted.group_by, keys, strict=True)),
        "state": hashlib.sha256(text.encode()).hexdigest(),
        "n_files": len(members),
    }
    read = [{**one, "url": wanted.signed.get(one["url"], one["url"])} for one in members]
    return _Set(row, read)


def _combine(settings: Settings, wanted: CombinedSettings, sets: tuple[_Set]) -> dict[str, Any]:
    """Make one set, in a worker, and return its row."""
    (one,) = sets
    known = {name: settings.scan[name] for name in _SCAN_OPTIONS if name in settings.scan}
    path = f"{_COMBINED}/{one.row['name']}{FORMATS[wanted.format]}"
    try:
        references = scan_sequence(
            _table(one.members, wanted),
            pattern=wanted.pattern,
            storage_options=settings.storage_options,
            **{**known, **wanted.options},
        )
        size, crc = write_references(references, path, settings, wanted.format)
    except CatalogError:
        raise
    except TiffrefError as error:
        return _failed(one, error)
    array = references.group[references.main_path]
    assert isinstance(array, Array)
    return {
        **one.row, "status": "ok", "path": path,
        "shape": dict(zip(array.dims, array.shape, strict=True)),
        "document_size": size, "document_crc": crc,
    }  # fmt: skip


def _failed(one: _Set, error: BaseException) -> dict[str, Any]:
    return {**one.row, "status": "failed", "error": str(error), "error_type": type(error).__name__}


def _table(members: Sequence[Mapping[str, Any]], wanted: CombinedSettings) -> Any:
    """Return the files, with the fields that came from a table if there is no pattern."""
    urls = [row["url"] for row in members]
    names = dict.fromkeys(name for row in members for name in row["fields"] or {})
    if wanted.pattern is not None or not names:
        return urls
    columns = {name: [row["fields"].get(name) for row in members] for name in names}
    varying = {k: v for k, v in columns.items() if k not in wanted.group_by and len(set(v)) > 1}
    return {"url": urls, **varying}
