"""Build a catalog of many files: `tiffref.catalog.build`.

Owns the order of a build: take the folder, find the files, leave out what is finished, run the
rest on an executor, write the journal, then the index and what else is made of it: STAC items, and
combined sets, which are files as arrays with the axes of their sequence in front. Nothing here
opens an image: workers do (see `worker`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CatalogError, SelectionError, TiffrefError
from ..formats.kerchunk import write_json
from ..formats.parquet import write_parquet
from ..io.local import local_path
from ..io.urls import has_scheme
from ..model.array import Array
from ..model.manifest import Source
from ..references import References
from ..sequences.inputs import find_files, natural_key, read_fields
from ..sequences.stack import scan_sequence
from .build_summary import Counts, Progress, Summary, write_report
from .executors import JobQueue, Pool, open_pool
from .index import INDEX, INDEX_SEAL, field_kinds, import_pyarrow, seal_index, write_index
from .jobs import (
    FORMATS,
    Batch,
    Job,
    Journal,
    Settings,
    agree,
    batches,
    make_jobs,
    plan_products,
    record_products,
    shared_root,
)
from .stac import write_stac
from .storage import Folder, IsComplete, LocalFolder, RemoteFolder, checksum
from .worker import Done, encode_row, failed_row, main_path, run_batch

__all__ = [
    "RECORD",
    "BuildOptions",
    "CombinedSettings",
    "GroupTask",
    "Run",
    "build",
    "combine_group",
    "combine_groups",
]

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
        """Return the jobs that are to be done: new files, failed ones, and what is not in place."""
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

    def _is_in_place(self, row: Mapping[str, Any], holds: IsComplete) -> bool:
        """Return whether the references that the journal tells of are there, whole."""
        if row.get("references") is None:
            return self.settings.format == "none"
        return holds(row["references"], row["document_size"], row["document_crc"])

    def scan(self, pool: Pool, todo: Sequence[Job]) -> None:
        """Have the jobs done."""
        self.show(self.counts)
        queue = JobQueue(pool, run_batch, self._record, _singles, self._record_lost)
        queue.work(batches(todo, self.settings, pool.n_workers))

    def _record(self, done: Done) -> None:
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

    def _record_lost(self, batch: Batch, error: BaseException) -> None:
        rows = tuple(failed_row(job, error) for job in batch.jobs)
        self._record(Done(rows, len(rows), first_error=str(error)))

    def show(self, counts: Counts) -> None:
        """Show how far it has come."""
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


RECORD = "combined.json"
_FOLDER = "combined"
_RECORD_S = 5.0
"""How often the record is written: with thousands of sets it is long, and sets made since are but
made again."""


@dataclass(frozen=True, slots=True)
class CombinedSettings:
    """How files are combined.

    `pattern` gives their axes; `group_by` names fields or columns of the index; `format` is
    "parquet" or "json"; `options` go to `scan_sequence`.
    """

    pattern: str | None
    group_by: tuple[str, ...]
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupTask:
    """One set to make: `row` is what is known of it, `members` are what is known of its files."""

    row: Mapping[str, Any]
    members: tuple[Mapping[str, Any], ...]
    settings: Settings
    wanted: CombinedSettings


def combine_groups(
    pool: Pool,
    journal: Journal,
    order: Iterable[str],
    settings: Settings,
    wanted: CombinedSettings,
    show: Callable[[Counts], None],
) -> list[dict[str, Any]]:
    """Write a combined set for each group of files, and the record of all sets.

    A set whose files are those of the last run is left as it is. Of files that are not at work now
    only the addresses are in memory.

    Parameters
    ----------
    pool
        Who makes them.
    journal, order
        What is known of the files, and their order.
    settings, wanted
        Of the build, and of its combined sets.
    show
        Called with how far it has come.

    Returns
    -------
    A row for each set: `name`, `keys`, `status`, `path` or `error`, `n_files`, `shape`.
    """
    folder = settings.folder
    before = {row["name"]: row for row in _read_record(folder)}
    groups = _group(journal.rows(order), wanted.group_by)
    names = _names(groups)
    done: dict[str, dict[str, Any]] = {}

    counts = Counts(len(groups), what="combined set")
    written_s = time.monotonic()

    def take(row: dict[str, Any]) -> None:
        nonlocal written_s
        done[row["name"]] = row
        counts.n_done += 1
        counts.n_failed += row["status"] != "ok"
        show(counts)
        if time.monotonic() > written_s + _RECORD_S:
            _write_record(folder, {**before, **done}.values())
            written_s = time.monotonic()

    def tasks() -> Iterator[GroupTask]:
        holds = folder.survey()
        show(counts)
        for keys, urls in groups.items():
            task = _task(names[keys], keys, journal.rows(urls), settings, wanted)
            known = before.get(task.row["name"], {})
            if known.get("state") == task.row["state"] and _is_in_place(holds, known):
                take(known)
            else:
                yield task

    queue = JobQueue(pool, combine_group, take, lambda task: (task,),
                      lambda task, error: take({**task.row, **_failed(error)}))  # fmt: skip
    queue.work(tasks())
    found = [done[name] for name in names.values()]
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
) -> dict[tuple[Any, ...], list[str]]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row["status"] == "ok":
            keys = tuple(_key(row, name) for name in group_by)
            groups.setdefault(keys, []).append(row["url"])
    return dict(sorted(groups.items(), key=lambda item: str(item[0])))


def _task(
    name: str,
    keys: Sequence[Any],
    rows: Iterable[Mapping[str, Any]],
    settings: Settings,
    wanted: CombinedSettings,
) -> GroupTask:
    members = tuple(
        {column: row.get(column) for column in ("url", "size", "mtime", "etag", "fields")}
        for row in rows
    )
    row = {
        "name": name,
        "keys": dict(zip(wanted.group_by, keys, strict=True)),
        "state": _state(members, settings, wanted),
        "n_files": len(members),
    }
    return GroupTask(row, members, settings, wanted)


def _key(row: Mapping[str, Any], name: str) -> Any:
    fields = row.get("fields", {})
    value = fields.get(name, row.get(name, fields))
    if isinstance(value, Mapping):
        raise SelectionError(
            "files cannot be grouped by what they do not have", url=row["url"], got=name,
            expected=sorted({*fields, "crs", "dtype", "codec", "shape", "dims"}),
        )  # fmt: skip
    return tuple(value) if isinstance(value, list) else value


def _names(groups: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], str]:
    """Name each group by its keys, as a file may be called."""
    names: dict[tuple[Any, ...], str] = {}
    for keys in groups:
        text = "_".join(_format_key(key) for key in keys) or "all"
        if text in names.values() or len(text) > 100:
            digest = hashlib.sha256(repr(keys).encode()).hexdigest()[:8]
            text = f"{text[:100]}~{digest}"
        names[keys] = text
    return names


def _format_key(key: Any) -> str:
    text = "x".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return "".join(c if c.isalnum() or c in "-+." else "-" for c in text).strip(".") or "none"


def _state(
    members: Sequence[Mapping[str, Any]], settings: Settings, wanted: CombinedSettings
) -> str:
    """Return a digest of what a set is made of."""
    what = [list(members), wanted.pattern, wanted.format, dict(wanted.options),
            settings.prefix, dict(settings.scan)]  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _is_in_place(holds: IsComplete, row: Mapping[str, Any]) -> bool:
    if row["status"] != "ok":
        return False
    return holds(row["path"], row["document_size"], row["document_crc"])


def combine_group(task: GroupTask) -> dict[str, Any]:
    """Make one set, and return its row.

    Raises
    ------
    CatalogError
        If it cannot be written.
    """
    settings, wanted = task.settings, task.wanted
    try:
        references = scan_sequence(
            _table(task.members, wanted),
            pattern=wanted.pattern,
            storage_options=settings.storage_options,
            **{**_known(settings.scan), **wanted.options},
        )
        path = f"{_FOLDER}/{task.row['name']}{FORMATS[wanted.format]}"
        found = _write(references, path, settings, wanted.format)
    except CatalogError:
        raise
    except TiffrefError as error:
        return {**task.row, **_failed(error)}
    array = references.group[main_path(references)]
    assert isinstance(array, Array)
    return {
        **task.row, "status": "ok", "path": path,
        "shape": dict(zip(array.dims, array.shape, strict=True)),
        "document_size": found[0], "document_crc": found[1],
    }  # fmt: skip


def _failed(error: BaseException) -> dict[str, Any]:
    return {"status": "failed", "error": str(error), "error_type": type(error).__name__}


def _known(scan: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of `scan` that `scan_sequence` takes as well."""
    names = ("series", "level", "key", "chunkmode", "fillvalue", "zattrs")
    return {name: scan[name] for name in names if name in scan}


def _table(members: Sequence[Mapping[str, Any]], wanted: CombinedSettings) -> Any:
    """Return the files, with the fields that came from a table if there not a pattern."""
    urls = [row["url"] for row in members]
    names = dict.fromkeys(name for row in members for name in row["fields"] or {})
    if wanted.pattern is not None or not names:
        return urls
    columns = {name: [row["fields"].get(name) for row in members] for name in names}
    varying = {k: v for k, v in columns.items() if k not in wanted.group_by and len(set(v)) > 1}
    return {"url": urls, **varying}


def _write(references: References, path: str, settings: Settings, format: str) -> tuple[int, int]:
    """Put a set in place, whole; return its size and checksum."""
    write = write_json if format == "json" else write_parquet
    with settings.folder.making(path) as made:
        options: dict[str, Any] = {"rename": settings.rename, "series": references.series}
        write(references.group, made, is_sealed=references.allow is None, **options)
        found = checksum(made)
    assert found is not None
    return found


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
    """Build a catalog of TIFF files, or go on with one.

    A build can be killed at any moment and started again: finished files are not scanned again, and
    the catalog is the same as that of an undisturbed run. A file that cannot be scanned is a row
    with its error. What was made once of a catalog (`stack`, `stac`) is kept up by later builds of
    it, asked for or not.

    Parameters
    ----------
    files
        A folder, glob, readable pattern, listing file, CSV or Parquet table, STAC items, or several
        of these.
    output
        Folder of the catalog, new, empty, or that of the same catalog before: a path, or a URL of
        an fsspec file system that can write.
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
    stac
        Write a STAC collection with an item for each file, in `stac/`.
    workers
        How many workers; with more than 1, processes (see `BuildOptions.executor`). They write into
        `output` themselves, and make combined sets, one each.
    update
        Look at finished files too: changed ones are scanned again, deleted ones marked.
    storage_options
        For the file system of `files`.
    options
        Further options by name, with the defaults of `BuildOptions`.

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
    more = BuildOptions(**options)
    import_pyarrow()
    _check(format, more.stack_format, stack, group_by, more.per_file)
    place = _open_folder(output, more.output_options)
    found = find_files(files, assets=more.assets, storage_options=storage_options)
    fields = read_fields(found, pattern)
    text = pattern or found.pattern
    plan: dict[str, Any] = {
        "root": shared_root(found.urls),
        "format": format if more.per_file else "none",
        "prefix": _slashed(url_prefix),
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
        held = open_things.enter_context(place.claim(more.wait_for_lock))
        journal = open_things.enter_context(Journal(held.journal, held.keep))
        plan = agree(held.folder, plan)
        products = plan_products(held.folder, {"stack": stack and sets, "stac": stac})
        settings = Settings(
            held.folder, plan["root"], plan["prefix"], plan["format"],
            dict(more.scan_options or {}), storage_options, more.retries, more.backoff_s,
        )  # fmt: skip
        jobs = make_jobs(found, fields, settings.root, FORMATS.get(plan["format"], ""))
        if show is not None:
            open_things.callback(show.close)
        run = Run(journal, settings, show, more.fail_fast, Counts())
        is_remote = has_scheme(place.address) or any(has_scheme(job.url) for job in jobs[:1])
        with open_pool(more.executor, workers, more.scheduler, is_remote) as pool:
            run.scan(pool, run.choose(jobs, update))
            if update:
                run.mark_deleted({job.url for job in jobs})
            order = sorted(journal, key=natural_key)
            combined = _combine(run, pool, order, products)
        _write_products(run, order, products)
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


def _combine(
    run: Run, pool: Pool, order: Sequence[str], products: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if "stack" not in products:
        return []
    how = CombinedSettings(**products["stack"])
    return combine_groups(pool, run.journal, order, run.settings, how, run.show)


def _write_products(
    run: Run,
    order: Sequence[str],
    products: Mapping[str, Any],
) -> None:
    """Write the index, when all that it speaks of is on the disk, and what else is wanted."""
    folder, rows = run.settings.folder, run.journal.rows
    with folder.making(INDEX) as made:
        write_index(rows(order), made, field_kinds(rows(order)))
        seal = seal_index(made.read_bytes())
        if run.counts.n_done:
            folder.flush()
    if seal is not None:
        folder.put(INDEX_SEAL, seal)
    if "stac" in products:
        write_stac(run.settings, rows(order))
    if products:
        record_products(folder, products)
