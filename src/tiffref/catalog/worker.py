"""What a worker does with a batch of jobs.

Owns the one function that executors run: scan each file, write its references, and give back the
lines of the journal. A bad file becomes a line; an output that cannot be written ends the batch.
A folder on a disk must be there under the same path as in the process that builds the catalog.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass

from ..errors import TiffrefError
from ..formats.parquet import write_parquet
from .folder import checksum
from .outline import encode_row
from .plan import Batch, Job, Settings
from .scanning import FileScanner, Scanned
from .transient import retried
from .warned import noted

__all__ = ["Done", "failed_row", "run_batch"]

_HERE = threading.local()
"""The scanner of each thread, for the build that it worked for last."""


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
    with noted():  # once for all: setting filters of warnings takes as long as telling a file
        return _run(batch)


def _run(batch: Batch) -> Done:
    scanner = _scanner_for(batch.settings)
    rows: list[tuple[str, bytes]] = []
    n_unchanged = n_failed = n_bytes = 0
    first_error = last_written = None
    for job in batch.jobs:
        try:
            scanned = _scan(scanner, job, batch.settings)
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


def _scanner_for(settings: Settings) -> FileScanner:
    known = getattr(_HERE, "known", None)
    if known is None or known[0] != settings:
        _HERE.known = known = (settings, FileScanner(settings))
    return known[1]


def _scan(scanner: FileScanner, job: Job, settings: Settings) -> Scanned | None:
    return retried(lambda: scanner.scan(job), settings.retries, settings.backoff_s)


def _write(scanned: Scanned, job: Job, settings: Settings) -> dict[str, int]:
    """Put the references of a file in place; give their size and checksum."""
    document, references = scanned.document, scanned.references
    if document is not None:
        settings.folder.put(job.output, document)
        return {"document_size": len(document), "document_crc": zlib.crc32(document)}
    assert references is not None
    with settings.folder.making(job.output) as made:
        write_parquet(references.group, made, rename=settings.rename, series=references.series)
        found = checksum(made)
    assert found is not None
    return {"document_size": found[0], "document_crc": found[1]}
