"""`tiffref.catalog.build`: many files to a catalog.

Owns the order of a build: claim the folder, find the files, leave out what is finished, hand out
the rest, write the journal, and then, when all is in it, what is made of it. What workers do is in
`worker`; nothing here opens an image.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..access.allow import remember_addresses
from ..errors import SelectionError
from ..formats.urls import has_scheme
from ..sequences.inputs import natural_key
from .combined import CombinedSettings, combine_groups
from .executors import Pool, open_pool
from .folder import LocalFolder
from .index import INDEX, field_kinds, import_pyarrow, index_address, write_index
from .inputs import find_files, read_fields
from .intake import write_intake
from .journal import Journal
from .plan import FORMATS, Settings, make_jobs, shared_root
from .progress import Counts, Progress
from .record import agree, plan_products, record_products
from .remote import RemoteFolder
from .report import Summary, write_report
from .run import Run
from .stac import write_stac

__all__ = ["build"]


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
    output_options: Mapping[str, Any] | None = None,
) -> Summary:
    """Build a catalog of TIFF files, or go on with one.

    A build can be killed at any moment and started again: finished files are not scanned again, and
    the catalog is the same as that of an undisturbed run. A file that cannot be scanned is a row
    with its error. What was made once of a catalog (`stack`, `stac`, `intake`) is kept up by later
    builds of it, asked for or not.

    Parameters
    ----------
    files
        A folder, glob, readable pattern, listing file, CSV or Parquet table, STAC items, or several
        of these; see `catalog.inputs.find_files`.
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
        `workers` is given, Dask if `scheduler` is. Workers write into `output` themselves,
        and make combined sets, one each.
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
    storage_options, output_options
        For the file systems of `files` and of `output`.

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
    _check(format, stack_format, stack, group_by, per_file)
    place = _open_folder(output, output_options)
    found = find_files(files, assets=assets, storage_options=storage_options)
    fields = read_fields(found, pattern)
    text = pattern or found.pattern
    plan: dict[str, Any] = {
        "root": shared_root(found.urls),
        "format": format if per_file else "none",
        "prefix": _slashed(url_prefix),
        "scan": dict(scan_options or {}),
        "pattern": text,
    }
    sets = {
        "pattern": text,
        "group_by": list(group_by),
        "format": stack_format,
        "options": dict(stack_options or {}),
    }
    show = progress if isinstance(progress, Progress) else Progress() if progress else None
    with contextlib.ExitStack() as open_things:
        held = open_things.enter_context(place.held(wait_for_lock))
        journal = open_things.enter_context(Journal(held.journal, held.keep))
        plan = agree(held.folder, plan)
        products = plan_products(
            held.folder, {"stack": stack and sets, "stac": stac, "intake": intake}
        )
        settings = Settings(
            held.folder, plan["root"], plan["prefix"], plan["format"], dict(scan_options or {}),
            storage_options, retries, backoff_s,
        )  # fmt: skip
        jobs = make_jobs(found.urls, fields, settings.root, FORMATS.get(plan["format"], ""))
        if show is not None:
            open_things.callback(show.close)
        run = Run(journal, settings, show, fail_fast, Counts())
        is_remote = has_scheme(place.address) or any(has_scheme(job.url) for job in jobs[:1])
        with open_pool(executor, workers, scheduler, is_remote) as pool:
            run.scan(pool, run.choose(jobs, update))
            if update:
                run.mark_deleted({job.url for job in jobs})
            order = sorted(journal, key=natural_key)
            combined = _combine(run, pool, order, products)
        _write_products(run, order, products, combined)
        remember_addresses([index_address(place.address)])
        summary = Summary.of(run.counts, journal.rows(order), combined, place.address)
        if report is not None:
            write_report(report, journal.rows(order), summary)
        return summary


def _open_folder(
    output: str | os.PathLike[str], options: Mapping[str, Any] | None
) -> LocalFolder | RemoteFolder:
    text = os.fspath(output).removeprefix("file://")
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
    combined: Sequence[Mapping[str, Any]],
) -> None:
    """Write the index, when all that it speaks of is on the disk, and what else is wanted."""
    folder, rows = run.settings.folder, run.journal.rows
    with folder.making(INDEX) as made:
        write_index(rows(order), made, field_kinds(rows(order)))
        if run.counts.n_done:
            folder.flush()
    if "stac" in products:
        write_stac(run.settings, rows(order))
    if "intake" in products:
        write_intake(folder, rows(order), combined)
    if products:
        record_products(folder, products)
