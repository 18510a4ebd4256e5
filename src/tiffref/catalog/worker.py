"""What a worker does with a batch of jobs.

Owns the one function that executors run: scan each file, write its references, and give back the
lines of the journal. A bad file becomes a line; an output that cannot be written ends the batch.
It needs the catalog's folder under the same path as the process that builds it.
"""

from __future__ import annotations

import os
import shutil
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import TiffrefError
from ..formats.parquet import write_parquet
from ..references import References
from .outline import encode_row
from .plan import Batch, Job, Settings
from .scanning import FileScanner, Scanned
from .state import checksum, explain_output
from .transient import retried

__all__ = ["Done", "failed_row", "remove_references", "run_batch"]

_HERE = threading.local()
"""The scanner of each thread, for the build that it worked for last."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a batch.

    `rows` are URLs with their lines, files that have not changed left out; `n_unchanged` counts
    those. `n_bytes` is what the images take that were looked at.
    """

    rows: tuple[tuple[str, bytes], ...]
    n_failed: int = 0
    n_unchanged: int = 0
    n_bytes: int = 0
    first_error: str | None = None


def run_batch(batch: Batch) -> Done:
    """Scan the files of a batch and write their references.

    Raises
    ------
    CatalogError
        If references cannot be written.
    """
    scanner = _scanner_for(batch.settings)
    rows: list[tuple[str, bytes]] = []
    n_unchanged = n_failed = n_bytes = 0
    first_error = None
    for job in batch.jobs:
        try:
            scanned = _scan(scanner, job, batch.settings)
        except TiffrefError as error:
            n_failed += 1
            first_error = first_error or str(error)
            rows.append(failed_row(job, error))
            target = Path(batch.settings.folder, job.output)
            with explain_output(target):
                remove_references(target)  # of the file as it was before it changed
            continue
        if scanned is None:
            n_unchanged += 1
            continue
        n_bytes += scanned.source.size or 0
        facts = {"fields": dict(job.fields), **scanned.facts}
        if batch.settings.format != "none":
            written = _write(scanned, job, batch.settings)
            facts = {"references": job.output, **written, **facts}
        rows.append(encode_row(job.url, scanned.source, "ok", facts))
    return Done(tuple(rows), n_failed, n_unchanged, n_bytes, first_error)


def failed_row(job: Job, error: BaseException) -> tuple[str, bytes]:
    """Give the line of a file that cannot be told."""
    facts = {
        "error": f"{error}",
        "error_type": type(error).__name__,
        "fields": dict(job.fields),
    }
    return encode_row(job.url, None, "failed", facts)


def remove_references(target: Path) -> None:
    """Remove the references of a file, if there are any."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def _scanner_for(settings: Settings) -> FileScanner:
    known = getattr(_HERE, "known", None)
    if known is None or known[0] != settings:
        _HERE.known = known = (settings, FileScanner(settings))
    return known[1]


def _scan(scanner: FileScanner, job: Job, settings: Settings) -> Scanned | None:
    return retried(lambda: scanner.scan(job), settings.retries, settings.backoff_s)


def _write(scanned: Scanned, job: Job, settings: Settings) -> dict[str, int]:
    """Put the references of a file in place; give their size and checksum."""
    target = os.path.join(settings.folder, job.output)  # noqa: PTH118 - for each of many files
    name = f"{os.getpid()}-{threading.get_ident()}"
    scratch = os.path.join(settings.scratch, name)  # noqa: PTH118
    with explain_output(target):
        if scanned.document is None:
            assert scanned.references is not None
            return _write_parquet(scanned.references, Path(scratch), Path(target), settings)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(scanned.document)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        try:
            os.replace(scratch, target)  # noqa: PTH105
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            os.replace(scratch, target)  # noqa: PTH105
    size = len(scanned.document)
    return {"document_size": size, "document_crc": zlib.crc32(scanned.document)}


def _write_parquet(
    references: References, scratch: Path, target: Path, settings: Settings
) -> dict[str, int]:
    write_parquet(references.group, scratch, rename=settings.rename, series=references.series)
    found = checksum(scratch)
    assert found is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        # killed between these two lines, the build finds no checksum and scans the file again
        shutil.rmtree(target)
    scratch.rename(target)
    return {"document_size": found[0], "document_crc": found[1]}
