"""One run of a build: which files are looked at, and what becomes of them.

Owns the way from jobs to lines of the journal. It opens no image: workers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CatalogError
from ..formats.urls import has_scheme
from ..model.manifest import Source
from .executors import Pool
from .folder import Holds
from .handing import Handing
from .journal import Journal
from .outline import encode_row
from .plan import Batch, Job, Settings, batches
from .progress import Counts, Progress
from .worker import Done, failed_row, run_batch

__all__ = ["Run"]

_OWN_COLUMNS = frozenset({"url", "status", "size", "mtime", "etag", "references", "error",
                          "error_type", "document_size", "document_crc"})  # fmt: skip


@dataclass(slots=True)
class Run:
    """What is known of a catalog, and what is being done about it."""

    journal: Journal
    settings: Settings
    progress: Progress | None
    fail_fast: bool
    counts: Counts
    _is_shared: bool = False

    def choose(self, jobs: Sequence[Job], update: bool) -> list[Job]:
        """Give the jobs that are to be done: new files, failed ones, and what is not in place."""
        todo = []
        holds = self.settings.folder.survey()
        for job in jobs:
            row = self.journal.get(job.url)
            if row is None or row["status"] != "ok" or not self._is_in_place(row, holds):
                todo.append(job)
            elif update and (has_scheme(job.url) or Path(job.url).exists()):
                known = replace(job, size=row["size"], mtime=row["mtime"], etag=row["etag"])
                todo.append(known)
        self.counts.n_jobs = len(todo)
        self.counts.n_skipped = len(jobs) - len(todo)
        return todo

    def _is_in_place(self, row: Mapping[str, Any], holds: Holds) -> bool:
        """Say whether the references that the journal tells of are there, whole."""
        if row.get("references") is None:
            return self.settings.format == "none"
        return holds(row["references"], row["document_size"], row["document_crc"])

    def scan(self, pool: Pool, todo: Sequence[Job]) -> None:
        """Have the jobs done."""
        self.show(self.counts)
        handing = Handing(pool, run_batch, self._note, _singles, self._note_lost)
        handing.work(batches(todo, self.settings, pool.n_workers))

    def _note(self, done: Done) -> None:
        if done.rows:
            self._check_shared(done)
            self.journal.append(done.rows)
        self.counts.n_done += len(done.rows) + done.n_unchanged
        self.counts.n_failed += done.n_failed
        self.counts.n_unchanged += done.n_unchanged
        self.counts.n_bytes += done.n_bytes
        self.show(self.counts)
        if self.fail_fast and done.n_failed:
            raise CatalogError(
                "stopped at the first file that cannot be scanned",
                url=self.settings.folder.address,
                got=done.first_error,
                hint="Leave out fail_fast (--fail-fast) to go on without such files.",
            )

    def _check_shared(self, done: Done) -> None:
        """See once that what a worker wrote is where this process finds it."""
        if self._is_shared or done.written is None:
            return
        self._is_shared = self.settings.folder.has(done.written)
        if not self._is_shared:
            raise CatalogError(
                "the workers write into another folder",
                url=self.settings.folder.address,
                got=f"no {done.written}",
                hint="Give a folder that all workers share under one path, or the URL of a store.",
            )

    def _note_lost(self, batch: Batch, error: BaseException) -> None:
        rows = tuple(failed_row(job, error) for job in batch.jobs)
        self._note(Done(rows, len(rows), first_error=str(error)))

    def show(self, counts: Counts) -> None:
        """Tell how far it has come."""
        if self.progress is not None:
            self.progress.update(counts)

    def mark_deleted(self, listed: set[str]) -> None:
        """Mark files that are no longer there, and remove their references.

        A local file is looked for; one elsewhere is gone when it is no longer listed. A list that
        names a file which never was there is wrong, though: that row stays failed.
        """
        rows = []
        for url in list(self.journal):
            is_there = url in listed if has_scheme(url) else Path(url).exists()
            row = self.journal[url]
            is_wrong = row["status"] == "failed" and url in listed
            if is_there or is_wrong or row["status"] == "deleted":
                continue
            if row.get("references"):
                self.settings.folder.remove(row["references"])
            kept = {key: value for key, value in row.items() if key not in _OWN_COLUMNS}
            source = Source(url, row.get("size"), row.get("mtime"), row.get("etag"))
            rows.append(encode_row(url, source, "deleted", kept))
        if rows:
            self.journal.append(rows)


def _singles(batch: Batch) -> list[Batch]:
    return [replace(batch, jobs=(job,)) for job in batch.jobs]
