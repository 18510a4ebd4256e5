"""What a worker does with a batch of jobs.

Owns the one function that executors run: scan each file, write its references, and return the
lines of the journal, with what is measured of each image as plain values. A bad file becomes a
line; an output that cannot be written ends the batch. Errors of a busy network or server are
retried after a pause that doubles. A folder on a disk must be there under the same path as in the
process that builds the catalog.
"""

from __future__ import annotations

import datetime
import errno
import io
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codecs.table import COMPRESSIONS
from ..errors import SourceError, TiffrefError, collect_warnings
from ..formats.kerchunk import write_json
from ..formats.parquet import write_parquet
from ..io.source import open_source
from ..metadata.gdal import with_bands
from ..metadata.report import Report
from ..metadata.time import read_time_coordinate
from ..model.array import Array
from ..model.codec import SegmentCodec
from ..model.manifest import MISSING, Source
from ..references import References
from ..tiff.scan import scan
from .jobs import Batch, Job, Settings
from .storage import checksum

__all__ = [
    "Done",
    "encode_row",
    "failed_row",
    "file_facts",
    "is_transient",
    "main_path",
    "retried",
    "run_batch",
]


def main_path(references: References) -> str:
    """Return the path of the array that a file is described by: level 0 of its first series."""
    for row in references.series:
        for level in row["levels"]:
            if "path" in level:
                return level["path"]
    return next(path for path, _ in references.group.arrays())


def file_facts(references: References) -> dict[str, Any]:
    """Measure the image of a file: its form, its place and time, and its chunks."""
    array = references.group[main_path(references)]
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
    array = references.group[main_path(references)]
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
        "main": main_path(references),
    }


def encode_row(
    url: str, source: Source | None, status: str, facts: Mapping[str, Any]
) -> tuple[str, bytes]:
    """Return the line of the journal for one file."""
    row: dict[str, Any] = {"url": url, "status": status}
    if source is not None:
        row.update(size=source.size, mtime=source.mtime, etag=source.etag)
    row.update(facts)
    return url, json.dumps(row, separators=(",", ":")).encode() + b"\n"


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
    return isinstance(error, SourceError) and any(_may_pass(cause) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


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
    """Do something, again after errors that may pass.

    Parameters
    ----------
    retries
        How often to try again.
    backoff_s
        Seconds before the first time; the pause doubles each time.
    """
    for attempt in range(retries):
        try:
            return work()
        except SourceError as error:
            if not is_transient(error):
                raise
        sleep(backoff_s * 2**attempt)
    return work()


@dataclass(frozen=True, slots=True, eq=False)
class _Scanned:
    """What a scan found of one file.

    `facts` are for its row of the index. `document` is the JSON text; None in other formats.
    """

    source: Source
    references: References
    facts: Mapping[str, Any]
    document: bytes | None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a batch.

    `rows` are URLs with their lines, files that have not changed left out; `n_unchanged` counts
    those. `n_bytes` is what the images take that were looked at. `written` names one of the files
    that were written.
    """

    rows: tuple[tuple[str, bytes], ...]
    n_failed: int = 0
    n_unchanged: int = 0
    n_bytes: int = 0
    first_error: str | None = None
    written: str | None = None


def run_batch(batch: Batch) -> Done:
    """Scan the files of a batch and write their references.

    Raises
    ------
    CatalogError
        If references cannot be written.
    """
    rows: list[tuple[str, bytes]] = []
    n_unchanged = n_failed = n_bytes = 0
    first_error = last_written = None
    for job in batch.jobs:
        try:
            scanned = _scan(job, batch.settings)
        except TiffrefError as error:
            n_failed += 1
            first_error = first_error or str(error)
            rows.append(failed_row(job, error))
            batch.settings.folder.remove(job.output)  # of the file as it was before it changed
            continue
        if scanned is None:
            n_unchanged += 1
            continue
        n_bytes += scanned.source.size or 0
        facts = {"fields": dict(job.fields), **scanned.facts}
        if batch.settings.format != "none":
            written = _write(scanned, job, batch.settings)
            facts = {"references": job.output, **written, **facts}
            last_written = job.output
        rows.append(encode_row(job.url, scanned.source, "ok", facts))
    return Done(tuple(rows), n_failed, n_unchanged, n_bytes, first_error, last_written)


def failed_row(job: Job, error: BaseException) -> tuple[str, bytes]:
    """Return the line of a file that cannot be scanned."""
    facts = {
        "error": f"{error}",
        "error_type": type(error).__name__,
        "fields": dict(job.fields),
    }
    return encode_row(job.url, None, "failed", facts)


def _scan(job: Job, settings: Settings) -> _Scanned | None:
    """Scan one file; None if it is still what the job says that it was."""
    return retried(lambda: _scan_once(job, settings), settings.retries, settings.backoff_s)


def _scan_once(job: Job, settings: Settings) -> _Scanned | None:
    with closing(open_source(job.url, settings.storage_options)) as there:
        if _is_unchanged(job, there.source):
            return None
        with collect_warnings() as warnings:
            references = _with_bands(scan(there, **settings.scan), job)
            facts = file_facts(references)
            document = _document(references, settings) if settings.format == "json" else None
        if warnings:
            facts["warnings"] = list(warnings)
        return _Scanned(there.source, references, facts, document)


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


def _document(references: References, settings: Settings) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"rename": settings.rename, "series": references.series}
    write_json(references.group, buffer, is_sealed=references.allow is None, **options)
    return buffer.getvalue()


def _is_unchanged(job: Job, now: Source) -> bool:
    if job.size is None or job.size != now.size:
        return False
    if job.etag is not None or now.etag is not None:
        return job.etag == now.etag
    return job.mtime is not None and job.mtime == now.mtime


def _write(scanned: _Scanned, job: Job, settings: Settings) -> Mapping[str, int]:
    """Put the references of a file in place; return their size and checksum."""
    document, references = scanned.document, scanned.references
    if document is not None:
        settings.folder.put(job.output, document)
        return {"document_size": len(document), "document_crc": zlib.crc32(document)}
    with settings.folder.making(job.output) as made:
        options: dict[str, Any] = {"rename": settings.rename, "series": references.series}
        write_parquet(references.group, made, is_sealed=references.allow is None, **options)
        found = checksum(made)
    assert found is not None
    return {"document_size": found[0], "document_crc": found[1]}
