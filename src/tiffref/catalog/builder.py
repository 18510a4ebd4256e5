"""Build a catalog of many files: `tiffref.catalog.build`.

Owns the order of a build: take the folder, find the files, leave out what is finished, run the
rest on an executor, write the journal, then the index and what else is made of it: STAC items, and
combined sets. Two small files keep the plan, which must be the same in each build of a catalog, and
the products, which are made again each time. Also owns the numbers of a build: its progress as a
bar on a terminal or lines in a log, its summary and its report. Nothing here opens an image:
workers do.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from ..errors import CatalogError, SelectionError, check_arguments
from ..formats.summary import count, format_bytes
from ..io.atomic import open_atomic
from ..io.urls import has_scheme, local_path, shared_folder, to_document_url
from ..sequences.inputs import find_files, natural_key, read_fields, read_plain
from ..sequences.stack import SequenceOptions, scan_sequence
from ..tiff.scan import scan
from .executors import JobQueue, Pool, check_pool_options, open_pool
from .index import INDEX, INDEX_SEAL, field_kinds, import_pyarrow, seal_index, write_index
from .stac import write_stac
from .storage import STATE, Folder, IsComplete, Journal, LocalFolder, RemoteFolder
from .worker import (
    FORMATS,
    CombinedSettings,
    Done,
    Job,
    Settings,
    combine_groups,
    make_jobs,
    run_jobs,
)

_PLAN = f"{STATE}/plan.json"
_PRODUCTS = f"{STATE}/products.json"
_VERSION = 1
_BATCH_FILES = 64
"""Files that a worker gets at once: some 20 ms of work, far more than handing it over takes."""
_MIN_BATCHES = 8
_OWN_COLUMNS = frozenset({"error", "error_type", "references", "document_size", "document_crc"})
"""What the row of a deleted file has no more."""


_DRAW_S = 0.1
_LINE_S = 10.0
_WIDTH = 24


@dataclass(slots=True)
class Counts:
    """How far a build has come.

    `n_jobs` files are to be looked at; of these `n_done` have been, among them `n_failed` and
    `n_unchanged`. `n_skipped` were finished by an earlier run. `n_bytes` is what the images take.
    `what` is counted.
    """

    n_jobs: int = 0
    n_done: int = 0
    n_failed: int = 0
    n_unchanged: int = 0
    n_skipped: int = 0
    n_bytes: int = 0
    what: str = "file"


@dataclass(slots=True)
class Progress:
    """Shows counts on a stream: redrawn on a terminal, now and then a line elsewhere."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    _start: float | None = None
    _shown: float = 0.0
    _what: str = ""

    def update(self, counts: Counts) -> None:
        """Show where the build is."""
        now = self.clock()
        if self._start is None or self._what != counts.what:
            self._start = self._shown = now
            self._what = counts.what
            if not self.stream.isatty():
                todo = count(counts.n_jobs, counts.what)
                self._write(f"catalog: {todo} to do, {counts.n_skipped:,} finished before\n")
            return
        is_last = counts.n_done == counts.n_jobs
        wait = _DRAW_S if self.stream.isatty() else _LINE_S
        if not is_last and now - self._shown < wait:
            return
        self._shown = now
        text = self._text(counts, now - self._start)
        if self.stream.isatty():
            filled = _WIDTH * counts.n_done // max(1, counts.n_jobs)
            self._write(f"\r\x1b[K[{'#' * filled}{'.' * (_WIDTH - filled)}] {text}")
        else:
            self._write(f"catalog: {text}\n")

    def close(self) -> None:
        """Wipe the bar."""
        if self.stream.isatty():
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def _text(self, counts: Counts, elapsed_s: float) -> str:
        rate = counts.n_done / elapsed_s if elapsed_s > 0 else 0.0
        left = (counts.n_jobs - counts.n_done) / rate if rate else 0.0
        parts = [
            f"{counts.n_done:,} of {count(counts.n_jobs, counts.what)}",
            f"{rate:,.0f}/s",
            f"{counts.n_failed:,} failed",
            f"{format_bytes(counts.n_bytes)} of images" if counts.n_bytes else "",
            f"{timedelta(seconds=int(left))} left",
        ]
        return ", ".join(part for part in parts if part)


_SHOWN = 5
_HIDDEN = frozenset({"document_size", "document_crc", "raster"})


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a build in numbers.

    Attributes
    ----------
    output
        Folder of the catalog.
    files
        Rows of the index.
    ok, failed, deleted
        Rows by status.
    scanned, unchanged, skipped
        Files that this run scanned, checked and found unchanged, or skipped as finished.
    bytes
        Size of the images that this run scanned.
    chunks
        Number of chunks of all files.
    warned
        Number of files with invalid metadata.
    errors
        Number of files by kind of error.
    failures
        (url, error) of the first few files that failed.
    combined, combined_failed
        Combined sets that were written, and (name, error) of those that failed.
    """

    output: str
    files: int
    ok: int
    failed: int
    deleted: int
    scanned: int
    unchanged: int
    skipped: int
    bytes: int
    chunks: int
    warned: int
    errors: Mapping[str, int]
    failures: Sequence[tuple[str, str]]
    combined: int
    combined_failed: Sequence[tuple[str, str]]

    @property
    def is_complete(self) -> bool:
        """Nothing failed."""
        return not self.failed and not self.combined_failed

    @classmethod
    def of(
        cls,
        counts: Counts,
        rows: Iterable[Mapping[str, Any]],
        combined: Sequence[Mapping[str, Any]],
        output: str,
    ) -> Summary:
        """Sum up a build.

        Parameters
        ----------
        counts, rows, combined, output
            What this run did, the rows of the index and of combined sets, and the folder.
        """
        status: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        failures: list[tuple[str, str]] = []
        n_chunks = n_warned = 0
        for row in rows:
            status[row["status"]] += 1
            n_chunks += row.get("n_chunks", 0) if row["status"] == "ok" else 0
            n_warned += bool(row.get("warnings"))
            if row["status"] == "failed":
                errors[row["error_type"]] += 1
                if len(failures) < _SHOWN:
                    failures.append((row["url"], row["error"]))
        bad = [(row["name"], row["error"]) for row in combined if row["status"] != "ok"]
        return cls(
            output, status.total(), status["ok"], status["failed"], status["deleted"],
            counts.n_done - counts.n_unchanged, counts.n_unchanged, counts.n_skipped,
            counts.n_bytes, n_chunks, n_warned, dict(errors), failures,
            len(combined) - len(bad), bad,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)

    def table(self) -> Iterator[tuple[str, str]]:
        """Return the rows of the summary table, those that say something."""
        yield "files", f"{self.files:,}"
        yield "  ok", f"{self.ok:,}"
        for name in ("failed", "deleted", "warned"):
            if getattr(self, name):
                yield f"  {name}", f"{getattr(self, name):,}"
        for kind, n in sorted(self.errors.items()):
            yield f"    {kind}", f"{n:,}"
        yield "scanned now", f"{self.scanned:,}"
        if self.unchanged:
            yield "unchanged", f"{self.unchanged:,}"
        if self.skipped:
            yield "finished before", f"{self.skipped:,}"
        yield "chunks", f"{self.chunks:,}"
        if self.combined or self.combined_failed:
            yield "combined sets", f"{self.combined:,}"


def write_report(
    path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], summary: Summary
) -> None:
    """Write a line of JSON for each file, and one for the build at the end.

    Raises
    ------
    SourceError
        If it cannot be written.
    """
    with open_atomic(path) as file:
        for row in rows:
            kept = {key: value for key, value in row.items() if key not in _HIDDEN}
            file.write(_line(kept))
        file.write(_line({"summary": summary.to_json()}))


def _line(row: Mapping[str, Any]) -> bytes:
    # names that are no UTF-8 become what JSON escapes them as
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


@dataclass(slots=True)
class _Run:
    """What is known of a catalog, and what is being done about it."""

    journal: Journal
    settings: Settings
    progress: Progress | None
    fail_fast: bool
    counts: Counts
    is_shared: bool = False

    def choose(self, jobs: Sequence[Job], update: bool) -> list[Job]:
        """Return the jobs that are to be done: new files, failed ones, and what is not in place."""
        todo = []
        holds = self.settings.folder.survey()
        for job in jobs:
            row = self.journal.get(job.name)
            if row is None or row["status"] != "ok" or not self._is_in_place(row, holds):
                todo.append(job)
            elif update and (has_scheme(job.url) or Path(job.url).exists()):
                known = replace(job, size=row["size"], mtime=row["mtime"], etag=row["etag"])
                todo.append(known)
        self.counts.n_jobs = len(todo)
        self.counts.n_skipped = len(jobs) - len(todo)
        return todo

    def _is_in_place(self, row: Mapping[str, Any], holds: IsComplete) -> bool:
        """Return whether the references that the journal lists are there, whole."""
        if row.get("references") is None:
            return self.settings.format == "none"
        return holds(row["references"], row["document_size"], row["document_crc"])

    def scan(self, pool: Pool, todo: Sequence[Job]) -> None:
        """Have the jobs done, in batches small enough that all workers have some."""
        self.show(self.counts)
        size = max(1, min(_BATCH_FILES, len(todo) // (_MIN_BATCHES * pool.n_workers)))
        batches = (tuple(todo[at : at + size]) for at in range(0, len(todo), size))
        run = functools.partial(run_jobs, self.settings)
        JobQueue(pool, run, self._record, self._record_lost).work(batches)

    def _record(self, done: Done) -> None:
        if done.written is not None and not self.is_shared:
            self._check_shared(done.written)
        if done.rows:
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

    def _check_shared(self, name: str) -> None:
        """Check once that what a worker wrote is where this process finds it."""
        self.is_shared = self.settings.folder.has(name)
        if not self.is_shared:
            raise CatalogError(
                "the workers write into another folder",
                url=self.settings.folder.address,
                got=f"no {name}",
                hint="Give a folder that all workers share under one path, or the URL of a store.",
            )

    def _record_lost(self, job: Job, error: BaseException) -> None:
        done = Done()
        done.fail(job, error)
        self._record(done)

    def show(self, counts: Counts) -> None:
        """Show how far it has come."""
        if self.progress is not None:
            self.progress.update(counts)

    def _show_combined(self, n_sets: int, n_done: int, n_failed: int) -> None:
        self.show(Counts(n_sets, n_done, n_failed, what="combined set"))

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
            rows.append({**kept, "status": "deleted"})
        if rows:
            self.journal.append(rows)

    def write_products(
        self,
        pool: Pool,
        order: Sequence[str],
        products: Mapping[str, Any],
        signed: Mapping[str, str],
    ) -> list[dict[str, Any]]:
        """Write combined sets, the index when all that it speaks of is on the disk, and STAC.

        Parameters
        ----------
        signed
            Name to URL of the files that are read by another address than the journal has.

        Returns
        -------
        The record of the combined sets.
        """
        folder, rows = self.settings.folder, self.journal.rows
        combined = []
        if "stack" in products:
            how = CombinedSettings(**products["stack"], signed=signed)
            combined = combine_groups(
                pool, self.journal, order, self.settings, how, self._show_combined
            )
        with folder.making(INDEX) as made:
            write_index(rows(order), made, field_kinds(rows(order)))
            seal = seal_index(made.read_bytes())
            if self.counts.n_done:
                folder.flush()
        if seal is not None:
            folder.put(INDEX_SEAL, seal)
        if "stac" in products:
            write_stac(self.settings, rows(order))
        if products and _read(folder, _PRODUCTS) != products:
            folder.put(_PRODUCTS, _encode(products))
        return combined


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Further options of `build`, given by name.

    Attributes
    ----------
    executor, scheduler
        Who does the work: "serial", "threads", "processes", "dask", a Dask `Client`, or any object
        with the interface of `concurrent.futures.Executor`; and the address of a Dask scheduler. By
        default this process for local files, threads for remote ones, processes if `workers` is
        given, Dask if `scheduler` is.
    stack_options, stack_format
        Further arguments of `scan_sequence` for combined sets, and their format: "parquet" or
        "json".
    per_file
        Write references of each file; if not, files are only indexed.
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
    output_options
        For the file system of the output.
    keep_signature
        Keep signatures and passwords of addresses in the catalog and its references: whoever reads
        them has access as you have. By default they are left out, and readers need their own.
    """

    executor: Any = None
    scheduler: str | None = None
    stack_options: Mapping[str, Any] | None = None
    stack_format: str = "parquet"
    per_file: bool = True
    wait_for_lock: bool = False
    fail_fast: bool = False
    retries: int = 3
    backoff_s: float = 0.5
    report: str | os.PathLike[str] | None = None
    progress: bool | Progress = False
    assets: Sequence[str] | None = None
    scan_options: Mapping[str, Any] | None = None
    output_options: Mapping[str, Any] | None = None
    keep_signature: bool = False


def build(
    files: Any,
    output: str | os.PathLike[str],
    *,
    format: str = "json",
    url_prefix: str | None = None,
    pattern: str | None = None,
    stack: bool = False,
    group_by: Sequence[str] = (),
    stac: bool = False,
    workers: int | None = None,
    update: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Summary:
    """Build a catalog of TIFF files, or continue a build.

    A build can be killed at any moment and started again. Finished files are not scanned again, and
    the result is the same as without the interruption. A file that cannot be scanned becomes a row
    with its error. Later builds of the same catalog update its combined sets and STAC items even
    if `stack` and `stac` are not given again.

    Parameters
    ----------
    files
        A folder, glob, pattern with fields, listing file, CSV or Parquet table, STAC items, or a
        sequence of these.
    output
        Folder of the catalog: a path, or a URL of an fsspec file system that can write. It must be
        new, empty, or hold an earlier build of the same catalog.
    format
        Format of the references of each file, "json" or "parquet".
    url_prefix
        Address that replaces the common folder of the files in documents.
    pattern
        How to read fields from file names, as in `scan_sequence`. Each field is a column of the
        index.
    stack
        Also combine the files into sets, as `scan_sequence` does with `pattern`. They are in
        `combined/`.
    group_by
        Fields or columns of the index, such as "tile" or "crs". Each value has its own set.
    stac
        Also write a STAC collection with an item for each file, in `stac/`.
    workers
        Number of workers; more than 1 are processes (see `BuildOptions.executor`).
    update
        Check finished files too: changed files are scanned again, and deleted ones are marked.
    storage_options
        Options of the fsspec file system of `files`.
    options
        Further options; see `BuildOptions` for their names and defaults.

    Returns
    -------
    Numbers of files by what became of them, with the first errors.

    Raises
    ------
    CatalogError
        If the folder holds something else, another process is building it, or it cannot be written;
        if no scheduler answers, or workers keep dying.
    SourceError
        If there are no files.
    SelectionError
        If the arguments contradict each other.
    MissingExtra
        If a required package is not installed.
    """
    check_arguments(options, build, BuildOptions)
    more = BuildOptions(**options)
    import_pyarrow()
    _check(format, more, stack, group_by)
    check_pool_options(more.executor, workers)
    place = _open_folder(output, more.output_options)
    found = find_files(files, assets=more.assets, storage_options=storage_options)
    fields = read_fields(found, pattern, read=read_plain)
    text = pattern or found.pattern
    plan: dict[str, Any] = {
        "root": shared_folder([to_document_url(url) for url in found.urls]),
        "format": format if more.per_file else "none",
        "prefix": url_prefix and url_prefix.removesuffix("/") + "/",
        "scan": dict(more.scan_options or {}),
        "pattern": text,
    }
    sets = {
        "pattern": text,
        "group_by": list(group_by),
        "format": more.stack_format,
        "options": dict(more.stack_options or {}),
    }
    show = Progress() if more.progress is True else more.progress or None
    with contextlib.ExitStack() as open_things:
        folder, journal = open_things.enter_context(place.claim(more.wait_for_lock))
        plan = _agree(folder, plan)
        products = _plan_products(folder, {"stack": stack and sets, "stac": stac})
        settings = Settings(
            folder, plan["root"], plan["prefix"], plan["format"],
            dict(more.scan_options or {}), storage_options, more.retries, more.backoff_s,
            more.keep_signature,
        )  # fmt: skip
        jobs = make_jobs(found, fields, settings)
        if show is not None:
            open_things.callback(show.close)
        run = _Run(journal, settings, show, more.fail_fast, Counts())
        is_remote = has_scheme(place.address) or any(has_scheme(job.url) for job in jobs[:1])
        with open_pool(more.executor, workers, more.scheduler, is_remote) as pool:
            run.scan(pool, run.choose(jobs, update))
            if update:
                run.mark_deleted({job.name for job in jobs})
            order = sorted(journal, key=natural_key)
            signed = {job.name: job.url for job in jobs if job.name != job.url}
            combined = run.write_products(pool, order, products, signed)
        summary = Summary.of(run.counts, journal.rows(order), combined, place.address)
        if more.report is not None:
            write_report(more.report, journal.rows(order), summary)
        return summary


def _open_folder(
    output: str | os.PathLike[str], options: Mapping[str, Any] | None
) -> LocalFolder | RemoteFolder:
    text = local_path(os.fspath(output))
    if has_scheme(text):
        return RemoteFolder(text.rstrip("/"), dict(options or {}))
    return LocalFolder(os.path.abspath(text))  # noqa: PTH100 - links stay as the user gave them


def _check(format: str, more: BuildOptions, stack: bool, group_by: Sequence[str]) -> None:
    for given in (format, more.stack_format):
        if given not in FORMATS:
            raise SelectionError("unknown format", got=repr(given), expected=sorted(FORMATS))
    check_arguments(more.scan_options or (), scan)
    check_arguments(more.stack_options or (), scan_sequence, SequenceOptions)
    if group_by and not stack:
        raise SelectionError("group_by is for combined sets", hint="Give stack=True as well.")


def _agree(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Record how a catalog is built, or check that it is built the same way as before.

    Returns
    -------
    The recorded plan.

    Raises
    ------
    CatalogError
        If it was built otherwise.
    """
    plan: dict[str, Any] = json.loads(_encode({"version": _VERSION, **wanted}))
    known = _read(folder, _PLAN)
    if known is None:
        folder.put(_PLAN, _encode(plan))
        folder.flush()
        return plan
    for name, value in plan.items():
        if name != "root" and known.get(name) != value:
            raise CatalogError(
                f"the catalog was built with another {name}",
                url=folder.address,
                got=value,
                expected=known.get(name) or "none",
                hint="Build into a new folder, or with the options it was built with.",
            )
    return known


def _plan_products(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be made besides the index: what is wanted, and what was made before.

    What a build has made once, each later one keeps up: sets and items of files as they were before
    would be wrong. `wanted` has for each product how it is made, or False.
    """
    try:
        asked = json.loads(_encode({name: how for name, how in wanted.items() if how}))
    except TypeError as error:
        raise SelectionError(
            "options of combined sets are recorded as JSON", got=str(error),
            expected="texts, numbers and lists of these",
        ) from error  # fmt: skip
    return {**(_read(folder, _PRODUCTS) or {}), **asked}


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1).encode()


def _read(folder: Folder, name: str) -> dict[str, Any] | None:
    """Read a record; None if there is none."""
    text = folder.read(name)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise CatalogError(
            "the catalog's plan cannot be read", url=f"{folder.address}/{name}", got=str(error),
            hint="Build into a new folder.",
        ) from error  # fmt: skip
