"""What a worker does with a batch of jobs.

Owns the one function that executors run: scan each file, write its references, and give back the
lines of the journal. A bad file becomes a line; an output that cannot be written ends the batch.
A folder on a disk must be there under the same path as in the process that builds the catalog.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..errors import TiffrefError
from ..formats.kerchunk import write_json
from ..formats.parquet import write_parquet
from ..model.manifest import Source
from ..references import References
from ..scanner.source import open_source
from ..scanner.tiff import scan
from .folder import checksum
from .outline import encode_row, file_facts
from .plan import Batch, Job, Settings
from .transient import retried
from .warned import noted

__all__ = ["Done", "failed_row", "run_batch"]


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
    with noted():  # once for all files: setting filters of warnings takes time
        return _run(batch)


def _run(batch: Batch) -> Done:
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
    """Give the line of a file that cannot be told."""
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
        with noted() as warnings:
            references = scan(there, **settings.scan)
            facts = file_facts(references)
            document = _document(references, settings) if settings.format == "json" else None
        if warnings:
            facts["warnings"] = list(warnings)
        return _Scanned(there.source, references, facts, document)


def _document(references: References, settings: Settings) -> bytes:
    buffer = io.BytesIO()
    write_json(references.group, buffer, rename=settings.rename, series=references.series)
    return buffer.getvalue()


def _is_unchanged(job: Job, now: Source) -> bool:
    if job.size is None or job.size != now.size:
        return False
    if job.etag is not None or now.etag is not None:
        return job.etag == now.etag
    return job.mtime is not None and job.mtime == now.mtime


def _write(scanned: _Scanned, job: Job, settings: Settings) -> Mapping[str, int]:
    """Put the references of a file in place; give their size and checksum."""
    document, references = scanned.document, scanned.references
    if document is not None:
        settings.folder.put(job.output, document)
        return {"document_size": len(document), "document_crc": zlib.crc32(document)}
    with settings.folder.making(job.output) as made:
        write_parquet(references.group, made, rename=settings.rename, series=references.series)
        found = checksum(made)
    assert found is not None
    return {"document_size": found[0], "document_crc": found[1]}
