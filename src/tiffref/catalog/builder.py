"""Build a catalog of many files: `tiffref.catalog.build`.

A build locks the folder, finds the files, skips those that are finished, scans the rest on an
executor, and writes the journal, the index, combined sets and STAC items. `plan.json` records the
options that must be the same in each build of a catalog; `products.json` records what each build
writes again. This module also reports progress (a bar on a terminal, lines in a log), the summary
and the report. Images are opened in workers only.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
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

from ..errors import CatalogError, SelectionError, check_arguments, checked, requires_extra
from ..formats.summary import count, format_bytes
from ..io.atomic import write_atomic
from ..io.urls import check_address, has_scheme, local_path, shared_folder
from ..sequences.inputs import find_files, natural_key, read_fields, read_plain
from ..sequences.stack import SequenceOptions, scan_sequence
from ..tiff.scan import ScanOptions, scan
from .executors import OPENERS, Pool, open_pool, run_batches
from .index import INDEX, INDEX_SEAL, field_types, import_pyarrow, seal_index, write_index
from .stac import write_stac
from .storage import STATE, Folder, IsComplete, Journal, LocalFolder, RemoteFolder
from .worker import (
    FORMATS,
    CombinedSettings,
    Job,
    Settings,
    combine_groups,
    failed_row,
    make_jobs,
    run_jobs,
    split_address,
)

_PLAN = f"{STATE}/plan.json"
_PRODUCTS = f"{STATE}/products.json"
_VERSION = 1
_BATCH_FILES = 64
"""Files per batch: about 20 ms of work, much more than it takes to submit a batch."""
_MIN_BATCHES = 8
_RESULT_COLUMNS = frozenset({"error", "error_type", "references", "document_size", "document_crc"})
"""Columns that are removed from the row of a deleted file."""

_REDRAW_S = 0.1
_LOG_LINE_S = 10.0
_BAR_WIDTH = 24


@dataclass(slots=True)
class Counts:
    """Counts of a build, for its progress.

    `n_done` of `n_jobs` files are done, of which `n_failed` failed and `n_unchanged` have not
    changed. `n_skipped` were finished by an earlier build. `n_bytes` is the size of the scanned
    files. `what` is the noun for the counted things.
    """

    n_jobs: int = 0
    n_done: int = 0
    n_failed: int = 0
    n_unchanged: int = 0
    n_skipped: int = 0
    n_bytes: int = 0
    what: str = "file"


@dataclass(slots=True)
class BuildProgress:
    """Shows progress on a stream: a bar on a terminal, a line every 10 s elsewhere."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    _start: float | None = None
    _last_shown: float = 0.0
    _what: str = ""

    def update(self, counts: Counts) -> None:
        """Show the counts, unless the last update was a moment ago."""
        now = self.clock()
        if self._start is None or self._what != counts.what:
            self._start = self._last_shown = now
            self._what = counts.what
            if not self.stream.isatty():
                todo = count(counts.n_jobs, counts.what)
                self._write(f"catalog: {todo} to do, {counts.n_skipped:,} finished before\n")
            return
        is_last = counts.n_done == counts.n_jobs
        wait = _REDRAW_S if self.stream.isatty() else _LOG_LINE_S
        if not is_last and now - self._last_shown < wait:
            return
        self._last_shown = now
        text = self._text(counts, now - self._start)
        if self.stream.isatty():
            filled = _BAR_WIDTH * counts.n_done // max(1, counts.n_jobs)
            self._write(f"\r\x1b[K[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {text}")
        else:
            self._write(f"catalog: {text}\n")

    def close(self) -> None:
        """Erase the bar."""
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


_MAX_SHOWN_FAILURES = 5
_INTERNAL_COLUMNS = frozenset({"document_size", "document_crc", "raster", "outline", "sidecars"})


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a build, in numbers.

    Attributes
    ----------
    output
        Folder of the catalog.
    files
        Rows of the index.
    ok, failed, deleted
        Rows by status.
    scanned, unchanged, skipped
        Files that this build scanned, checked and found unchanged, or skipped as finished.
    bytes
        Total size of the files that this build scanned.
    chunks
        Number of chunks of all files.
    warned
        Number of files with invalid metadata.
    errors
        Number of files by kind of error.
    failures
        (url, error) of the first few files that failed.
    combined, combined_failed
        Number of combined sets, and (name, error) of those that failed.
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
        """Whether nothing failed."""
        return not self.failed and not self.combined_failed

    @classmethod
    def of(
        cls,
        counts: Counts,
        rows: Iterable[Mapping[str, Any]],
        combined: Sequence[Mapping[str, Any]],
        output: str,
    ) -> Summary:
        """Summarize a build.

        Parameters
        ----------
        counts, rows, combined, output
            Counts of this build, rows of the index and of `combined.json`, and the folder.
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
                if len(failures) < _MAX_SHOWN_FAILURES:
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
        """Return label and value of each row of the summary; most zeros are left out."""
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


def _json_line(row: Mapping[str, Any]) -> bytes:
    row = {key: value for key, value in row.items() if key not in _INTERNAL_COLUMNS}
    # bytes of file names that are not UTF-8 become JSON escapes
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


@dataclass(slots=True)
class _BuildRun:
    """One build of a catalog."""

    journal: Journal
    settings: Settings
    show: Callable[[Counts], None]
    fail_fast: bool
    counts: Counts
    is_shared: bool = False

    def select_jobs(self, jobs: Sequence[Job], update: bool) -> list[Job]:
        """Return the jobs to run: files that are new, failed, or have incomplete references.

        With `update` also finished files, so that workers check whether they have changed.
        """
        todo = []
        is_complete = self.settings.folder.completeness_check()
        for job in jobs:
            row = self.journal.get(job.name)
            if row is None or row["status"] != "ok" or not self._has_references(row, is_complete):
                todo.append(job)
            elif update and (has_scheme(job.url) or Path(job.url).exists()):
                known = {name: row[name] for name in ("size", "mtime", "etag")}
                todo.append(replace(job, **known, sidecars=row.get("sidecars", ())))
        self.counts.n_jobs = len(todo)
        self.counts.n_skipped = len(jobs) - len(todo)
        return todo

    def _has_references(self, row: Mapping[str, Any], is_complete: IsComplete) -> bool:
        if row.get("references") is None:
            return self.settings.format == "none"
        return is_complete(row["references"], row["document_size"], row["document_crc"])

    def scan(self, pool: Pool, todo: Sequence[Job]) -> None:
        """Run the jobs, in batches small enough that every worker gets some."""
        self.show(self.counts)
        size = max(1, min(_BATCH_FILES, len(todo) // (_MIN_BATCHES * pool.n_workers)))
        batches = (tuple(todo[start : start + size]) for start in range(0, len(todo), size))
        run = functools.partial(run_jobs, self.settings)
        run_batches(
            pool, run, batches, self._record_result,
            lambda job, error: self._record_result([failed_row(job, error)]),
        )  # fmt: skip

    def _record_result(self, results: Sequence[dict[str, Any] | None]) -> None:
        rows = [row for row in results if row is not None]
        failed = [row for row in rows if row["status"] == "failed"]
        written = next((row["references"] for row in rows if "references" in row), None)
        if written is not None and not self.is_shared:
            self._check_shared(written)
        if rows:
            self.journal.append(rows)
        self.counts.n_done += len(results)
        self.counts.n_failed += len(failed)
        self.counts.n_unchanged += len(results) - len(rows)
        self.counts.n_bytes += sum(row.get("size") or 0 for row in rows)
        self.show(self.counts)
        if self.fail_fast and failed:
            raise CatalogError(
                "stopped at the first file that cannot be scanned",
                url=self.settings.folder.address,
                got=failed[0]["error"],
                hint="Without fail_fast (--fail-fast), a build continues after such files.",
            )

    def _check_shared(self, name: str) -> None:
        """Check that this process finds a file that a worker wrote."""
        self.is_shared = self.settings.folder.exists(name)
        if not self.is_shared:
            raise CatalogError(
                "the workers write into another folder",
                url=self.settings.folder.address,
                got=f"no {name}",
                hint="Use a folder that all workers share under the same path, or a URL.",
            )

    def mark_deleted(self, listed: set[str]) -> None:
        """Mark files that no longer exist, and remove their references.

        A local file is deleted if its path does not exist, a remote one if it is no longer listed.
        A listed file that was never found stays failed: the list is wrong.
        """
        rows = []
        for url in list(self.journal):
            exists = url in listed if has_scheme(url) else Path(url).exists()
            row = self.journal[url]
            never_found = row["status"] == "failed" and url in listed
            if exists or never_found or row["status"] == "deleted":
                continue
            if row.get("references"):
                self.settings.folder.remove(row["references"])
            rest = {key: value for key, value in row.items() if key not in _RESULT_COLUMNS}
            rows.append({**rest, "status": "deleted"})
        if rows:
            self.journal.append(rows)

    def write_products(
        self,
        pool: Pool,
        order: Sequence[str],
        products: Mapping[str, Any],
        signed: Mapping[str, str],
    ) -> list[dict[str, Any]]:
        """Write combined sets, then flush all references to disk and write the index and STAC.

        `signed` has signed URLs by the unsigned address that the journal has. Return the rows of
        `combined.json`.
        """
        folder, rows = self.settings.folder, self.journal.rows
        combined = []
        if "stack" in products:
            how = CombinedSettings(**products["stack"])
            combined = combine_groups(
                pool, self.journal, order, self.settings, how, signed,
                lambda n, done, failed: self.show(Counts(n, done, failed, what="combined set")),
            )  # fmt: skip
        with folder.staging(INDEX) as path:
            write_index(rows(order), path, field_types(rows(order)))
            seal = seal_index(path.read_bytes())
            if self.counts.n_done:
                folder.flush()
        if seal is not None:
            folder.put(INDEX_SEAL, seal)
        if "stac" in products:
            write_stac(self.settings, rows(order))
        if products and _read_json(folder, _PRODUCTS) != products:
            folder.put(_PRODUCTS, _to_json(products))
        return combined


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Further keyword options of `build`.

    Attributes
    ----------
    executor, scheduler
        Where files are scanned: "serial", "threads", "processes", "dask", a Dask `Client`, or any
        `concurrent.futures.Executor`; and the address of a Dask scheduler. By default, this process
        for local files, threads for remote ones, processes if `workers` is given, and Dask if
        `scheduler` is.
    stack_options, stack_format
        Further arguments of `scan_sequence` for combined sets, and their format: "parquet" or
        "json".
    per_file
        Write references of each file; if false, files are only indexed.
    wait_for_lock
        Wait while another build of this catalog is running; by default, that is an error.
    fail_fast
        Stop at the first file that cannot be scanned.
    retries, backoff_s
        Number of retries after a transient error, and the pause before the first, which doubles.
    report
        JSON Lines file to write: one line per file, and the summary last.
    progress
        Show progress on standard error.
    assets
        Keys of the assets to take from STAC items.
    scan_options
        Further arguments of `scan`, such as `level` or `layout`.
    output_options
        Options of the fsspec file system of the output.
    keep_signature
        Keep signatures and passwords of URLs in the catalog and its references: whoever reads them
        has the same access as you. By default, they are removed, and readers need their own.
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
    progress: bool | BuildProgress = False
    assets: Sequence[str] | None = None
    scan_options: Mapping[str, Any] | None = None
    output_options: Mapping[str, Any] | None = None
    keep_signature: bool = False


@checked(BuildOptions)
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

    A build can be killed at any time and restarted: finished files are not scanned again, and the
    result is the same as without the interruption. A file that cannot be scanned becomes a row with
    its error. Later builds of the same catalog update its combined sets and STAC items even if
    `stack` and `stac` are not given again.

    Parameters
    ----------
    files
        A folder, glob, pattern with fields, listing file, CSV or Parquet table, STAC items, or a
        sequence of these.
    output
        Folder of the catalog: a path, or a URL of a writable fsspec file system. It must be new,
        empty, or contain an earlier build of the same catalog.
    format
        Format of the references of each file, "json" or "parquet".
    url_prefix
        Address to write in documents instead of the common folder of the files.
    pattern
        Pattern of the file names, as in `scan_sequence`. Each field is a column of the index.
    stack
        Also combine the files into sets in `combined/`, as `scan_sequence` does with `pattern`.
    group_by
        Fields or columns of the index, such as "tile" or "crs". Each value gets its own set.
    stac
        Also write a STAC collection with one item per file, in `stac/`.
    workers
        Number of workers; more than 1 are processes (see `BuildOptions.executor`).
    update
        Check finished files too: scan files again that changed, or whose local sidecar files did,
        and mark deleted ones.
    storage_options
        Options of the fsspec file system of `files`.
    options
        Further options; see `BuildOptions` for their names and defaults.

    Returns
    -------
    Counts of files by status, and the first errors.

    Raises
    ------
    CatalogError
        If the folder contains something else, cannot be written, or another process builds it; if
        the Dask scheduler does not answer, or workers keep dying.
    SourceError
        If there are no files.
    SelectionError
        If the arguments contradict each other.
    MissingExtra
        If a required package is not installed.
    """
    more = BuildOptions(**options)
    import_pyarrow()
    with requires_extra("catalog", "footprints of images need shapely"):
        import shapely  # noqa: F401 - before hours of scanning
    _check_options(format, more, stack, group_by)
    if workers is not None and workers < 1:
        raise SelectionError("invalid number of workers", got=workers, expected="1 or more")
    target = _open_folder(output, more.output_options)
    inputs = find_files(files, assets=more.assets, storage_options=storage_options)
    fields = read_fields(inputs, pattern, read=read_plain)
    pattern = pattern or inputs.pattern
    plan: dict[str, Any] = {
        "root": shared_folder([split_address(url)[1] for url in inputs.urls]),
        "format": format if more.per_file else "none",
        "prefix": url_prefix and url_prefix.removesuffix("/") + "/",
        "scan": dict(more.scan_options or {}),
        "pattern": pattern,
    }
    sets = {
        "pattern": pattern,
        "group_by": list(group_by),
        "format": more.stack_format,
        "options": dict(more.stack_options or {}),
    }
    progress = more.progress
    if isinstance(progress, int):
        progress = progress and BuildProgress()
    with contextlib.ExitStack() as resources:
        folder, journal = resources.enter_context(target.claim(more.wait_for_lock))
        plan = _check_plan(folder, plan)
        products = _merge_products(folder, {"stack": stack and sets, "stac": stac})
        settings = Settings(
            folder, plan["root"], plan["prefix"], plan["format"],
            dict(more.scan_options or {}), storage_options, more.retries, more.backoff_s,
            more.keep_signature,
        )  # fmt: skip
        jobs = make_jobs(inputs, fields, settings)
        if progress:
            resources.callback(progress.close)
        show = progress.update if progress else (lambda counts: None)
        run = _BuildRun(journal, settings, show, more.fail_fast, Counts())
        is_remote = has_scheme(target.address) or any(has_scheme(job.url) for job in jobs[:1])
        with open_pool(more.executor, workers, more.scheduler, is_remote) as pool:
            run.scan(pool, run.select_jobs(jobs, update))
            if update:
                run.mark_deleted({job.name for job in jobs})
            order = sorted(journal, key=natural_key)
            signed = {job.name: job.url for job in jobs if job.name != job.url}
            combined = run.write_products(pool, order, products, signed)
        summary = Summary.of(run.counts, journal.rows(order), combined, target.address)
        if more.report is not None:
            lines = itertools.chain(journal.rows(order), [{"summary": summary.to_json()}])
            write_atomic(more.report, map(_json_line, lines))
        return summary


def _open_folder(output: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Folder:
    text = local_path(check_address(output))
    if has_scheme(text):
        address = text.rstrip("/")
        if address.endswith(":"):
            raise SelectionError("the URL names no folder", url=text)
        return RemoteFolder(address, dict(options or {}))
    return LocalFolder(os.path.abspath(text))  # noqa: PTH100 - do not resolve symbolic links


def _check_options(format: str, more: BuildOptions, stack: bool, group_by: Sequence[str]) -> None:
    for given in (format, more.stack_format):
        if given not in FORMATS:
            raise SelectionError("unknown format", got=repr(given), expected=sorted(FORMATS))
    check_arguments(more.scan_options or {}, scan, ScanOptions)
    check_arguments(more.stack_options or {}, scan_sequence, SequenceOptions)
    if isinstance(more.executor, str) and more.executor not in OPENERS:
        raise SelectionError("unknown executor", got=repr(more.executor), expected=tuple(OPENERS))
    if not isinstance(more.executor, str | None) and not hasattr(more.executor, "submit"):
        raise SelectionError(
            "not an executor",
            got=type(more.executor).__name__,
            expected="an object with submit()",
        )
    if not isinstance(more.progress, int | BuildProgress | None):
        raise SelectionError("not a BuildProgress or True", got=type(more.progress).__name__)
    if group_by and not stack:
        raise SelectionError("group_by needs combined sets", hint="Add stack=True (--stack).")


def _check_plan(folder: Folder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded plan; record that of a new catalog, or raise if it had other options."""
    plan: dict[str, Any] = json.loads(_to_json({"version": _VERSION, **options}))
    recorded = _read_json(folder, _PLAN)
    if recorded is None:
        folder.put(_PLAN, _to_json(plan))
        folder.flush()
        return plan
    for name, value in plan.items():
        if name != "root" and recorded.get(name) != value:
            raise CatalogError(
                f"the catalog was built with another {name}",
                url=folder.address,
                got=value,
                expected=recorded.get(name) or "none",
                hint="Build into a new folder, or use the options of the first build.",
            )
    return recorded


def _merge_products(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the products to write: those of this build and of earlier builds.

    Sets and items that are not written again would describe outdated files. `wanted` has the
    options of each product, or False.
    """
    try:
        asked = json.loads(_to_json({name: how for name, how in wanted.items() if how}))
    except TypeError as error:
        raise SelectionError(
            "options of combined sets must be JSON values", got=str(error),
            expected="strings, numbers and lists of these",
        ) from error  # fmt: skip
    return {**(_read_json(folder, _PRODUCTS) or {}), **asked}


def _to_json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1).encode()


def _read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    text = folder.read(name)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise CatalogError(
            "the catalog's plan cannot be read", url=f"{folder.address}/{name}", got=str(error),
            hint="Build into a new folder.",
        ) from error  # fmt: skip
