"""`tiffref catalog build|open|query|show`: arguments and output; see `tiffref.catalog`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from ..formats.summary import count, format_table
from . import console

if TYPE_CHECKING:
    import pyarrow

    from ..catalog import Catalog

_COLUMNS = ("url", "status", "shape", "dtype", "codec", "crs", "time", "error")
_MAX_ROWS = 20


def _parse_bounds(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not W,S,E,N")
    return numbers


_BUILD_ARGUMENTS: console.Arguments = {
    "files": {
        "nargs": "+", "action": console.OneOrMany, "metavar": "FILES",
        "help": "folders, globs, patterns, lists (.txt), tables (.csv, .parquet) or STAC items",
    },
    "-o --output": {
        "default": "catalog", "metavar": "FOLDER",
        "help": "folder of the catalog: path or URL (default: %(default)s)",
    },
    "--format": {
        "choices": ("json", "parquet"), "default": "json",
        "help": "format of the references of each file (default: %(default)s)",
    },
    **console.ADDRESSES,
    "--asset": {
        "action": "append", "metavar": "KEY", "dest": "assets",
        "help": "key of the assets to take from STAC items; may be repeated",
    },
    **console.LEVEL,
    "--no-references": {
        "action": "store_false", "dest": "per_file",
        "help": "write only the index, no references",
    },
    "combined sets and catalogs": {
        "--pattern": {"metavar": "P", "help": "pattern of file names, with {fields}"},
        "--stack": {
            "nargs": "?", "const": True, "default": False, "metavar": "P",
            "help": "also combine files into sets; P as for --pattern",
        },
        "--group-by": {
            "metavar": "A,B", "default": (),
            "type": lambda text: tuple(part.strip() for part in text.split(",")),
            "help": "write a combined set for each value of these columns",
        },
        "--mosaic": {"action": "store_true", "help": "join adjacent files by their georeference"},
        "--allow-holes": {"action": "store_true", "help": "allow combined sets with missing files"},
        "--stack-format": {
            "choices": ("parquet", "json"), "default": "parquet",
            "help": "format of combined sets (default: %(default)s)",
        },
        "--stac": {"action": "store_true", "help": "also write a STAC collection with items"},
    },
    "running": {
        "--workers": {
            "type": int, "metavar": "N", "help": "number of workers; 2 or more are processes",
        },
        "--executor": {
            "choices": ("serial", "threads", "processes", "dask"), "help": "how to run the workers",
        },
        "--scheduler": {"metavar": "URL", "help": "Dask scheduler, such as tcp://host:8786"},
        "--update": {
            "action": "store_true", "help": "also scan changed files and mark deleted ones",
        },
        "--wait": {
            "action": "store_true", "dest": "wait_for_lock",
            "help": "wait while another build of this catalog is running",
        },
        "--fail-fast": {"action": "store_true", "help": "stop at the first file that fails"},
        "--retries": {
            "type": int, "default": 3, "metavar": "N",
            "help": "retries after transient errors (default: %(default)s)",
        },
        "--report": {"metavar": "FILE", "help": "write a report: JSON Lines, one line per file"},
    },
    **console.DRY_RUN,
    **console.options_of("FILES"),
    **console.options_of("FOLDER", "output"),
    "--json": {"action": "store_true", "help": "print the summary as JSON"},
}  # fmt: skip


def _build(arguments: argparse.Namespace) -> int:
    """Build a catalog and print the summary; return 1 if files failed."""
    from .. import catalog

    if arguments.dry_run:
        return _list_inputs(arguments)
    pattern = arguments.pattern or (arguments.stack if isinstance(arguments.stack, str) else None)
    names = (
        "format keep_signature group_by stack_format per_file stac executor workers "
        "scheduler update wait_for_lock fail_fast retries report assets storage_options "
        "output_options"
    )
    summary = catalog.build(
        arguments.files,
        arguments.output,
        pattern=pattern,
        url_prefix=arguments.url,
        stack=bool(arguments.stack),
        stack_options={name: True for name in ("mosaic", "allow_holes") if vars(arguments)[name]},
        progress=not arguments.quiet,
        scan_options={} if arguments.level is None else {"level": arguments.level},
        **console.pick(arguments, names),
    )
    if arguments.json:
        console.print_json(summary.to_json())
    else:
        console.say(summary.output)
        console.say(format_table([list(row) for row in summary.table()]))
    for name, error in [*summary.failures, *summary.combined_failed]:
        text = error if name in error else f"{name}: {error}"
        console.report(console.name_options(text, arguments.parser.options()), "warning")
    if summary.failed > len(summary.failures):
        console.report(f"{summary.failed - len(summary.failures):,} more failed", "warning")
    return console.OK if summary.is_complete else console.INVALID


def _list_inputs(arguments: argparse.Namespace) -> int:
    from ..sequences.inputs import find_files

    inputs = find_files(arguments.files, **console.pick(arguments, "assets storage_options"))
    for url in inputs.urls[:_MAX_ROWS]:
        console.say(url)
    if len(inputs.urls) > _MAX_ROWS:
        console.say(f"... {len(inputs.urls) - _MAX_ROWS:,} more")
    console.say(f"would build {arguments.output}: {count(len(inputs.urls), 'file')}")
    return console.OK


_SEARCH_ARGUMENTS: console.Arguments = {
    "catalog": {"metavar": "CATALOG", "help": "folder of the catalog: path or URL"},
    "--bounds": {"metavar": "W,S,E,N", "type": _parse_bounds,
        "help": "files whose bounding box intersects this one, in degrees",
    },
    "--time": {
        "metavar": "T[/T]",
        "help": "files of this time: 2022-05, or 2022-05-01/2022-05-09; .. is an open end",
    },
    "--where": {
        "action": "append", "default": [], "metavar": "COLUMN=VALUE",
        "type": lambda text: console.parse_pair(text, "COLUMN=VALUE"),
        "help": "files with this value in this column; may be repeated",
    },
    "--status": {
        "choices": ("ok", "failed", "deleted", "all"), "default": "ok",
        "help": "files with this status (default: %(default)s)",
    },
    **console.options_of("CATALOG"),
    "--json": {"action": "store_true", "help": "print JSON"},
}  # fmt: skip
_OPEN_ARGUMENTS: console.Arguments = {
    **_SEARCH_ARGUMENTS,
    **console.allow_of("CATALOG"),
    "-o --output": {
        "metavar": "FILE", "help": f"write references to the files found: {console.OUTPUT_HELP}",
    },
}  # fmt: skip


def _search(arguments: argparse.Namespace) -> Catalog:
    from .. import catalog

    allow = getattr(arguments, "allow", None)
    where: dict[str, Any] = {}
    for name, value in arguments.where:
        where.setdefault(name, []).append(value)
    return catalog.open(arguments.catalog, arguments.storage_options, allow=allow).query(
        bounds=arguments.bounds,
        time=arguments.time,
        status=None if arguments.status == "all" else arguments.status,
        where=where,
    )


def _query(arguments: argparse.Namespace) -> int:
    """Print the files found; return 1 if there are none."""
    rows = _plain_rows(_search(arguments).table)
    if arguments.json:
        console.print_json(rows)
    else:
        for row in rows:
            print(row["url"])
    if not rows:
        console.report(f"{arguments.catalog}: no files found", "warning")
    return console.OK if rows else console.INVALID


def _plain_rows(table: pyarrow.Table) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in table.drop_columns("geometry").to_pylist()
    ]


def show(name: str, catalog: Catalog, as_json: bool) -> int:
    """Print counts and the first rows of a catalog or query result."""
    combined = catalog.combined()
    if as_json:
        status = Counter(catalog.table["status"].to_pylist())
        console.print_json(
            {"catalog": name, "files": len(catalog), "status": status,
             "columns": catalog.table.column_names, "combined": combined}
        )  # fmt: skip
        return console.OK
    print(f"{name}: {catalog.summary}")
    rows = _plain_rows(catalog.table.slice(0, _MAX_ROWS))
    if rows:
        names = [column for column in _COLUMNS if any(column in row for row in rows)]
        cells = [[_format(row.get(column)) for column in names] for row in rows]
        print(format_table([list(names), *cells]))
    if len(catalog) > _MAX_ROWS:
        print(f"  ... {len(catalog) - _MAX_ROWS:,} more")
    for row in combined:
        result = row.get("path") or row["error"]
        print(f"combined {row['name']}: {count(row['n_files'], 'file')}, {result}")
    return console.OK


def _format(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(str, value))
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _open(arguments: argparse.Namespace) -> int:
    """Print the files found as one dataset, or write references to them."""
    catalog = _search(arguments)
    if arguments.output:
        references = catalog.references() if len(catalog) == 1 else catalog.stack()
        console.write_references(references, arguments.output)
        print(f"{arguments.output}: {count(len(catalog), 'file')}")
        return console.OK
    with catalog.open() as dataset:
        if arguments.json:
            print(json.dumps(dataset.to_dict(data=False), default=str, indent=2))
        else:
            print(dataset)
    return console.OK


COMMANDS = {
    "catalog": console.Command(
        "build a catalog of many TIFF files, search it, and open the result",
        """\
  tiffref catalog build scenes/ -o catalog/
  tiffref catalog build 's3://bucket/**/*.tif' -o catalog/ --storage-option anon=true
  tiffref catalog query catalog/ --bounds 5,45,11,48 --time 2022-05
  tiffref catalog open catalog/ --where band=B04 -o cube.json""",
        actions={
            "build": console.Command(
                "build a catalog, or continue a build",
                """\
  tiffref catalog build scenes/ -o catalog/
  tiffref catalog build 's3://bucket/**/*.tif' -o catalog/ --storage-option anon=true
  tiffref catalog build 'S2_{time:%Y%m%d}_{band}.tif' -o catalog/ --update --workers 8""",
                _BUILD_ARGUMENTS,
                _build,
            ),
            "open": console.Command(
                "open files of a catalog as one dataset",
                "  tiffref catalog open catalog/ --where band=B04 -o cube.json",
                _OPEN_ARGUMENTS,
                _open,
            ),
            "query": console.Command(
                "list files of a catalog",
                """\
  tiffref catalog query catalog/ --bounds 5,45,11,48 --time 2022-05
  tiffref catalog query catalog/ --status failed""",
                _SEARCH_ARGUMENTS,
                _query,
            ),
            "show": console.Command(
                "summarize a catalog",
                "  tiffref catalog show catalog/",
                _SEARCH_ARGUMENTS,
                lambda arguments: show(arguments.catalog, _search(arguments), arguments.json),
            ),
        },
    ),
}
