"""`tiffref.catalog.build`: many files to a catalog.

Owns the order of a build: claim the folder, find the files, leave out what is finished, hand out
the rest, write the journal, and then, when all is in it, what is made of it. What workers do is in
`worker`; nothing here opens an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CatalogError, SelectionError
from ..formats.urls import has_scheme
from ..model.manifest import Source
from .combined import CombinedSettings, combine_groups
from .executors import Pool, open_pool
from .index import field_kinds, import_pyarrow, write_index
from .inputs import find_files, order_key, read_fields
from .intake import write_intake
from .outline import encode_row
from .plan import FORMATS, Batch, Job, Settings, batches, make_jobs, shared_root
from .progress import Counts, Progress
from .report import Summary, write_report
from .stac import write_stac
from .state import INDEX, CatalogFolder, Journal, checksum, explain_output
from .worker import Done, failed_row, remove_references, run_batch

__all__ = ["build"]

_AHEAD = 3
"""Batches in flight for each worker: enough that none waits, and few in memory."""
_STRIKES = 2
"""How often a file may be at work when its worker dies, before it is taken for the cause."""


def build(
    files: Any,
    output: str | os.PathLike[str],
    *,
    format: str = "json",
    url_prefix: str | None = None,
    pattern: str | None = None,
    stack: bool = False,
    group_by: Sequence[str] = (),
    stack_options: Mapping[str, Any] | None = None,
    stack_format: str = "parquet",
    per_file: bool = True,
    stac: bool = False,
    intake: bool = False,
    executor: Any = None,
    workers: int | None = None,
    scheduler: str | None = None,
    update: bool = False,
    wait_for_lock: bool = False,
    fail_fast: bool = False,
    retries: int = 3,
    backoff_s: float = 0.5,
    report: str | os.PathLike[str] | None = None,
    progress: bool | Progress = False,
    assets: Sequence[str] | None = None,
    scan_options: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Summary:
    """Build a catalog of TIFF files, or go on with one.

    A build can be killed at any moment and started again: finished files are not scanned again, and
    the catalog is the same as that of an undisturbed run. A file that cannot be scanned is a row
    with its error.

    Parameters
    ----------
    files
        A folder, glob, readable pattern, listing file, CSV or Parquet table, STAC items, or several
        of these; see `catalog.inputs.find_files`.
    output
        Local folder of the catalog: new, empty, or that of the same catalog before.
    format
        Of the references of each file: "json" or "parquet".
    url_prefix
        What documents say instead of the folder that the files share.
    pattern
        How names give fields, as in `scan_sequence`; the fields become columns of the index.
    stack
        Combine files too, as `scan_sequence` does with `pattern`, into sets in `combined/`.
    group_by
        Fields or columns of the index (as "tile" or "crs"): a combined set for each value.
    stack_options
        Further arguments of `scan_sequence` for combined sets.
    stack_format
        Of combined sets: "parquet" or "json".
    per_file
        Write references of each file; if not, files are only indexed.
    stac
        Write a STAC collection with an item for each file, in `stac/`.
    intake
        Write `intake.yaml`, a catalog for intake 2.
    executor, workers, scheduler
        Who does the work: "serial", "threads", "processes", "dask", a Dask `Client`, or any object
        with the face of `concurrent.futures.Executor`; how many workers; the address of a Dask
        scheduler. By default this process for local files, threads for remote ones, processes if
        `workers` is given, Dask if `scheduler` is. Workers write into `output` themselves.
    update
        Look at finished files too: changed ones are scanned again, deleted ones marked.
    wait_for_lock
        Wait while another build of this catalog is running; by default that is an error.
    fail_fast
        Stop at the first file that cannot be scanned.
    retries, backoff_s
        How often a file is tried again after an error that may pass, and the first pause, which
        doubles.
    report
        JSON Lines file to write: a line for each file, and one for the build.
    progress
        Show it on standard error.
    assets
        Keys of the assets of STAC items.
    scan_options
        Further arguments of `scan`, as `level` or `layout`.
    storage_options
        For the file system of URLs.

    Returns
    -------
    What happened, in numbers.

    Raises
    ------
    CatalogError
        If the folder belongs to something else, is being built by somebody else, or cannot be
        written; if no scheduler answers, or the workers die again and again.
    SourceError
        If there are no files.
    SelectionError
        If the arguments make no sense together.
    MissingExtra
        If a package is needed that is not installed.
    """
    import_pyarrow()
    path = _local(output)
    _check(format, stack_format, stack, group_by, per_file)
    found = find_files(files, assets=assets, storage_options=storage_options)
    fields = read_fields(found, pattern)
    text = pattern or found.pattern
    folder = CatalogFolder(path)
    with folder.locked(wait_for_lock), folder.scratch() as scratch:
        plan = folder.agree(
            {
                "root": shared_root(found.urls),
                "format": format if per_file else "none",
                "prefix": _slashed(url_prefix),
                "scan": dict(scan_options or {}),
                "pattern": text,
            }
        )
        settings = Settings(
            str(folder.path), str(scratch), plan["root"], plan["prefix"],
            plan["format"], dict(scan_options or {}), storage_options, retries, backoff_s,
        )  # fmt: skip
        jobs = make_jobs(found.urls, fields, settings.root, FORMATS.get(plan["format"], ""))
        journal = Journal(folder.journal)
        show = progress if isinstance(progress, Progress) else Progress() if progress else None
        try:
            run = _Run(folder, journal, settings, show, fail_fast, Counts())
            todo = run.choose(jobs, update)
            remote = any(has_scheme(job.url) for job in todo[:1])
            with open_pool(executor, workers, scheduler, remote) as pool:
                run.work(pool, todo)
            if update:
                run.mark_deleted({job.url for job in jobs})
            order = sorted(journal, key=order_key)
            combined: list[dict[str, Any]] = []
            if stack:
                sets = CombinedSettings(text, tuple(group_by), stack_format, stack_options or {})
                combined = combine_groups(folder, settings, sets, run.rows(order))
            _finish(run, order, stac, intake, combined)
            summary = Summary.of(run.counts, run.rows(order), combined, str(folder.path))
            if report is not None:
                write_report(report, run.rows(order), summary)
            return summary
        finally:
            if show is not None:
                show.close()
            journal.close()


def _local(output: str | os.PathLike[str]) -> Path:
    text = os.fspath(output).removeprefix("file://")
    if has_scheme(text):
        raise CatalogError(
            "a catalog is built in a local folder",
            url=text,
            hint="Build it locally with url_prefix, and copy the folder when it is finished.",
        )
    return Path(text)


def _slashed(prefix: str | None) -> str | None:
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _check(
    format: str, stack_format: str, stack: bool, group_by: Sequence[str], per_file: bool
) -> None:
    for given in (format, stack_format):
        if given not in FORMATS:
            raise SelectionError("unknown format", got=repr(given), expected=sorted(FORMATS))
    if group_by and not stack:
        raise SelectionError("group_by is for combined sets", hint="Give stack=True (--stack).")


@dataclass(slots=True)
class _Run:
    """One run of a build: what is known, and what is being done."""

    folder: CatalogFolder
    journal: Journal
    settings: Settings
    progress: Progress | None
    fail_fast: bool
    counts: Counts

    def rows(self, order: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Give the rows of the journal."""
        for url in order:
            yield self.journal[url]

    def choose(self, jobs: Sequence[Job], update: bool) -> list[Job]:
        """Give the jobs that are to be done: new files, failed ones, and what is not in place."""
        todo = []
        for job in jobs:
            row = self.journal.get(job.url)
            if row is None or row["status"] != "ok" or not self._is_in_place(row):
                todo.append(job)
            elif update and (has_scheme(job.url) or Path(job.url).exists()):
                known = replace(job, size=row["size"], mtime=row["mtime"], etag=row["etag"])
                todo.append(known)
        self.counts.n_jobs = len(todo)
        self.counts.n_skipped = len(jobs) - len(todo)
        return todo

    def _is_in_place(self, row: Mapping[str, Any]) -> bool:
        """Say whether the references that the journal tells of are on the disk, whole."""
        if row.get("references") is None:
            return self.settings.format == "none"
        found = checksum(self.folder.path / row["references"])
        return found == (row["document_size"], row["document_crc"])

    def work(self, pool: Pool, todo: Sequence[Job]) -> None:
        """Hand out the jobs, a few batches ahead of the workers, and note what comes back."""
        self._show()
        waiting = batches(todo, self.settings, pool.n_workers)
        running: dict[Future, Batch] = {}
        orphans: list[Batch] = []
        while True:
            while len(running) < _AHEAD * pool.n_workers and (batch := next(waiting, None)):
                if not _submit(pool, running, batch):
                    orphans.append(batch)
            if not running:
                break
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenExecutor) for future in ended):
                wait(running)  # a pool that has lost a worker gives up everything it was given
                ended = set(running)
            orphans += [batch for future in ended if (batch := running.pop(future))
                        and not self._take(future, batch)]  # fmt: skip
            if orphans and pool.restart is not None:
                self._alone(pool, orphans)
                orphans = []
        self._alone(pool, orphans)

    def _take(self, future: Future, batch: Batch) -> bool:
        """Note what became of a batch; False if its worker did not live to tell."""
        error = future.exception()
        if error is not None:
            if isinstance(error, CatalogError):
                raise error
            return False
        self._note(future.result())
        return True

    def _note(self, done: Done) -> None:
        if done.rows:
            self.journal.append(done.rows)
        self.counts.n_done += len(done.rows) + done.n_unchanged
        self.counts.n_failed += done.n_failed
        self.counts.n_unchanged += done.n_unchanged
        self.counts.n_bytes += done.n_bytes
        self._show()
        if self.fail_fast and done.n_failed:
            raise CatalogError(
                "stopped at the first file that cannot be scanned",
                url=str(self.folder.path),
                got=done.first_error,
                hint="Leave out fail_fast (--fail-fast) to go on without such files.",
            )

    def _show(self) -> None:
        if self.progress is not None:
            self.progress.update(self.counts)

    def _alone(self, pool: Pool, lost: Sequence[Batch]) -> None:
        """Do jobs one at a time after a worker died: the one that kills it is then known."""
        pool.revive()
        for batch in lost:
            for job in batch.jobs:
                self._one(pool, Batch((job,), batch.settings))

    def _one(self, pool: Pool, single: Batch) -> None:
        error: BaseException | None = None
        for _ in range(_STRIKES):
            running: dict[Future, Batch] = {}
            if not _submit(pool, running, single):
                raise CatalogError(
                    "the executor takes no more work",
                    url=str(self.folder.path),
                    got=None if error is None else f"{type(error).__name__}: {error}",
                    hint="Start the build again: it goes on where it stopped.",
                )
            (future,) = running
            if self._take(future, single):
                return
            error = future.exception()
            if not isinstance(error, BrokenExecutor):
                break
            pool.revive()
        assert error is not None
        self._note(Done((failed_row(single.jobs[0], error),), 1, first_error=str(error)))

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
                with explain_output(self.folder.path):
                    remove_references(self.folder.path / row["references"])
            kept = {key: value for key, value in row.items() if key not in _OWN_COLUMNS}
            source = Source(url, row.get("size"), row.get("mtime"), row.get("etag"))
            rows.append(encode_row(url, source, "deleted", kept))
        if rows:
            self.journal.append(rows)


_OWN_COLUMNS = frozenset({"url", "status", "size", "mtime", "etag", "references", "error",
                          "error_type", "document_size", "document_crc"})  # fmt: skip


def _submit(pool: Pool, running: dict[Future, Batch], batch: Batch) -> bool:
    try:
        running[pool.executor.submit(run_batch, batch)] = batch
    except (BrokenExecutor, RuntimeError):  # RuntimeError: shut down by its owner
        return False
    return True


def _finish(
    run: _Run,
    order: Sequence[str],
    stac: bool,
    intake: bool,
    combined: Sequence[Mapping[str, Any]],
) -> None:
    """Write what is made of the journal: the index, and the catalogs for others."""
    folder = run.folder
    fields = field_kinds(run.rows(order))
    with explain_output(folder.path / INDEX):
        scratch = Path(run.settings.scratch) / INDEX
        write_index(run.rows(order), scratch, fields)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(folder.path / INDEX)
    if stac:
        write_stac(folder, run.settings, run.rows(order))
    if intake:
        write_intake(folder, run.rows(order), combined)
