"""`tiffref catalog build|open|query|show`: archives of TIFFs.

Owns the arguments and how results read; the work is `tiffref.catalog`'s.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import console
from .console import print_help

if TYPE_CHECKING:
    from ..catalog import Catalog

__all__ = ["EXAMPLES", "HELP", "add_arguments", "run", "show"]

HELP = "build a catalog of many TIFF files, search it, open what was found"
EXAMPLES = """\
  tiffref catalog build scenes/ -o catalog/
  tiffref catalog build 's3://bucket/**/*.tif' -o catalog/ --storage-option anon=true
  tiffref catalog query catalog/ --bounds 5,45,11,48 --time 2022-05
  tiffref catalog open catalog/ --where band=B04 -o cube.json"""
_COLUMNS = ("url", "status", "shape", "dtype", "codec", "crs", "time", "error")
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.set_defaults(act=lambda _: print_help(parser))
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    for name, (text, add, act) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        add(action)
        console.add_common_arguments(action)
        action.set_defaults(act=act, parser=action)


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    return arguments.act(arguments)


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILES",
        help="folders, globs, patterns, listing files (.txt), tables (.csv, .parquet), STAC items",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", default="catalog", metavar="FOLDER",
        help="of the catalog: path or URL (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("json", "parquet"), default="json",
        help="of the references of each file (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--url-prefix", metavar="URL", help="where readers find the TIFFs")
    parser.add_argument(
        "--asset", action="append", metavar="KEY", help="asset of STAC items; may be repeated"
    )
    parser.add_argument("--level", type=int, metavar="N", help="one pyramid level only")
    parser.add_argument(
        "--no-references", action="store_true", help="write the index, no references of each file"
    )
    _add_outputs(parser)
    _add_running(parser)
    console.add_dry_run_argument(parser)
    console.add_options_argument(parser, "--storage-option", "FILES")
    console.add_options_argument(parser, "--output-option", "FOLDER")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("combined sets and catalogs")
    group.add_argument("--pattern", metavar="P", help="how names give fields, as for tiffref stack")
    group.add_argument(
        "--stack", nargs="?", const=True, default=False, metavar="P",
        help="combine files too; P is a pattern as for --pattern",
    )  # fmt: skip
    group.add_argument(
        "--group-by", metavar="A,B", help="a combined set for each value of these, as tile or crs"
    )
    group.add_argument("--mosaic", action="store_true", help="combine files by their georeference")
    group.add_argument(
        "--allow-holes", action="store_true", help="leave places of combined sets empty"
    )
    group.add_argument(
        "--stack-format", choices=("parquet", "json"), default="parquet",
        help="of combined sets (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--stac", action="store_true", help="write a STAC collection with items")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    group.add_argument("--workers", type=int, metavar="N", help="how many; 2 or more: processes")
    group.add_argument(
        "--executor", choices=("serial", "threads", "processes", "dask"), help="who does the work"
    )
    group.add_argument("--scheduler", metavar="URL", help="of Dask, as tcp://host:8786")
    group.add_argument(
        "--update", action="store_true", help="scan changed files again, mark deleted ones"
    )
    group.add_argument(
        "--wait", action="store_true", help="wait while another build of this catalog runs"
    )
    group.add_argument("--fail-fast", action="store_true", help="stop at the first bad file")
    group.add_argument(
        "--retries", type=int, default=3, metavar="N",
        help="tries after errors that may pass (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--report", metavar="FILE", help="JSON Lines: a line for each file")


def _build(arguments: argparse.Namespace) -> int:
    """Build and sum up; 1 where some files failed."""
    from .. import catalog

    if arguments.dry_run:
        return _list_inputs(arguments)
    pattern = arguments.pattern or (arguments.stack if isinstance(arguments.stack, str) else None)
    options = {name: True for name in ("mosaic", "allow_holes") if getattr(arguments, name)}
    summary = catalog.build(
        arguments.files[0] if len(arguments.files) == 1 else arguments.files,
        arguments.output,
        format=arguments.format,
        url_prefix=arguments.url_prefix,
        pattern=pattern,
        stack=bool(arguments.stack),
        group_by=_split(arguments.group_by),
        stack_options=options,
        stack_format=arguments.stack_format,
        per_file=not arguments.no_references,
        stac=arguments.stac,
        executor=arguments.executor,
        workers=arguments.workers,
        scheduler=arguments.scheduler,
        update=arguments.update,
        wait_for_lock=arguments.wait,
        fail_fast=arguments.fail_fast,
        retries=arguments.retries,
        report=arguments.report,
        progress=not arguments.quiet,
        assets=arguments.asset,
        scan_options={} if arguments.level is None else {"level": arguments.level},
        storage_options=dict(arguments.storage_option) or None,
        output_options=dict(arguments.output_option) or None,
    )
    if arguments.json:
        console.print_json(summary.to_json())
    else:
        console.say(summary.output)
        console.say(console.format_table([list(row) for row in summary.table()]))
    for name, error in [*summary.failures, *summary.combined_failed]:
        console.report(error if name in error else f"{name}: {error}", "warning")
    if summary.failed > len(summary.failures):
        console.report(f"{summary.failed - len(summary.failures):,} more failed", "warning")
    return console.OK if summary.is_complete else console.INVALID


def _list_inputs(arguments: argparse.Namespace) -> int:
    """Describe which files a build would scan."""
    from ..sequences.inputs import find_files

    files = arguments.files[0] if len(arguments.files) == 1 else arguments.files
    options = dict(arguments.storage_option) or None
    found = find_files(files, assets=arguments.asset, storage_options=options)
    for url in found.urls[:_SHOWN]:
        console.say(url)
    if len(found.urls) > _SHOWN:
        console.say(f"... {len(found.urls) - _SHOWN:,} more")
    console.say(f"would build {arguments.output}: {console.count(len(found.urls), 'file')}")
    return console.OK


def _split(text: str | None) -> Sequence[str]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("catalog", metavar="CATALOG", help="its folder: path or URL")
    parser.add_argument("--bounds", metavar="W,S,E,N", type=_parse_bounds, help="in degrees")
    parser.add_argument(
        "--time", metavar="T[/T]", help="2022-05, or 2022-05-01/2022-05-09; .. leaves an end open"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", type=_parse_pair,
        help="may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--status", choices=("ok", "failed", "deleted", "all"), default="ok",
        help="(default: %(default)s)",
    )  # fmt: skip
    console.add_options_argument(parser, "--storage-option", "CATALOG")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _parse_bounds(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not W,S,E,N")
    return numbers


def _parse_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE")
    return name, value


def _search(arguments: argparse.Namespace) -> Catalog:
    from .. import catalog

    options = dict(arguments.storage_option) or None
    opened = catalog.open(arguments.catalog, options, allow=getattr(arguments, "allow", None))
    where: dict[str, Any] = {}
    for name, value in arguments.where:
        where.setdefault(name, []).append(value)
    return opened.query(
        bounds=arguments.bounds,
        time=_parse_time(arguments.time),
        status=None if arguments.status == "all" else arguments.status,
        where=where,
    )


def _parse_time(text: str | None) -> Any:
    if text is None or "/" not in text:
        return text
    first, _, last = text.partition("/")
    return tuple(None if part in ("", "..") else part for part in (first, last))


def _query(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 if nothing was."""
    found = _search(arguments)
    rows = _plain_rows(found)
    if arguments.json:
        console.print_json(rows)
    else:
        for row in rows:
            print(row["url"])
    if not rows:
        console.report(f"{arguments.catalog}: nothing was found", "warning")
    return console.OK if rows else console.INVALID


def _plain_rows(found: Catalog) -> list[dict[str, Any]]:
    names = [name for name in found.table.column_names if name != "geometry"]
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in found.table.select(names).to_pylist()
    ]


def show(folder: str, storage_options: Any = None, as_json: bool = False) -> int:
    """Print a whole catalog in numbers, and its first rows; return the exit code."""
    from .. import catalog

    return _show_found(folder, catalog.open(folder, storage_options), as_json)


def _show(arguments: argparse.Namespace) -> int:
    """Print what a search finds, in numbers and its first rows."""
    return _show_found(arguments.catalog, _search(arguments), arguments.json)


def _show_found(name: str, found: Catalog, as_json: bool) -> int:
    from collections import Counter

    status = Counter(found.table["status"].to_pylist())
    combined = found.combined()
    if as_json:
        console.print_json(
            {"catalog": name, "files": len(found), "status": status,
             "columns": found.table.column_names, "combined": combined}
        )  # fmt: skip
        return console.OK
    print(f"{name}: {console.count(len(found), 'file')}"
          + "".join(f", {n:,} {name}" for name, n in sorted(status.items())))  # fmt: skip
    rows = _plain_rows(type(found)(found.folder, found.table.slice(0, _SHOWN)))
    if rows:
        names = [column for column in _COLUMNS if any(column in row for row in rows)]
        cells = [[_format(row.get(column)) for column in names] for row in rows]
        print(console.format_table([list(names), *cells]))
    if len(found) > _SHOWN:
        print(f"  ... {len(found) - _SHOWN:,} more")
    for row in combined:
        what = row.get("path") or row["error"]
        print(f"combined {row['name']}: {console.count(row['n_files'], 'file')}, {what}")
    return console.OK


def _format(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(str, value))
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _add_open(parser: argparse.ArgumentParser) -> None:
    _add_search(parser)
    console.add_allow_argument(parser, "CATALOG")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"references to what was found: {console.OUTPUT_HELP}",
    )


def _open(arguments: argparse.Namespace) -> int:
    """Print what was found as one dataset, or write its references."""
    found = _search(arguments)
    if arguments.output:
        references = found.references() if len(found) == 1 else found.stack()
        console.write_references(references, arguments.output)
        print(f"{arguments.output}: {console.count(len(found), 'file')}")
        return console.OK
    with found.open() as dataset:
        if arguments.json:
            print(json.dumps(dataset.to_dict(data=False), default=str, indent=2))
        else:
            print(dataset)
    return console.OK


_ACTIONS: dict[str, tuple[str, Any, Any]] = {
    "build": ("build a catalog, or go on with one", _add_build, _build),
    "open": ("open what a search finds as one dataset", _add_open, _open),
    "query": ("list the files that a search finds", _add_search, _query),
    "show": ("show what is in a catalog", _add_search, _show),
}
"""Name of each action: its help, its arguments, and what it does."""
