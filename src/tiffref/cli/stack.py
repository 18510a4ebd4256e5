"""`tiffref stack`: from many TIFFs to one reference document.

Owns the arguments and the summary; the work is `tiffref.scan_sequence`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import console, output

if TYPE_CHECKING:
    from ..references import References

__all__ = ["HELP", "add_arguments", "add_sequence_arguments", "finish", "run"]

HELP = "write kerchunk references of many TIFF files as one array"
_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "files", nargs="+", metavar="FILES",
        help="TIFF files; a glob or a pattern such as 'S2_{time:%%Y%%m%%d}_{band}.tif', in quotes; "
        "or a CSV file or STAC items",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=output.HELP)
    add_sequence_arguments(parser)
    parser.add_argument("--axes", metavar="A,B", help="order of the new axes, as time,band")
    parser.add_argument(
        "--time-from", choices=("DateTime", "AcquisitionDate"),
        help="take an axis 'time' from this tag of the files",
    )  # fmt: skip
    parser.add_argument(
        "--concat", metavar="[FIELD=]DIM", action="append", default=[],
        help="join files along one of their own dimensions; may be repeated with a field of the "
        "pattern for each",
    )  # fmt: skip
    parser.add_argument("--mosaic", action="store_true", help="place files by their georeference")
    parser.add_argument(
        "--on-mismatch", choices=("error", "split"), default="error",
        help="what to do about files that do not combine (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ignore", action="append", default=[], choices=("georeference", "nodata"),
        help="differences between files to overlook; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=2, help="Zarr metadata to write"
    )


def add_sequence_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `stack` and `append` share."""
    parser.add_argument(
        "--pattern", metavar="P",
        help="how names give coordinates: with {fields}, a regular expression, or a preset such as "
        "sentinel-2",
    )  # fmt: skip
    parser.add_argument("--level", type=int, metavar="N", help="one pyramid level only")
    parser.add_argument(
        "--chunkmode", choices=("tile",), help="one chunk for each strip or tile as stored"
    )
    parser.add_argument(
        "--allow-holes", action="store_true",
        help="leave chunks missing where no file is or a file cannot be read",
    )  # fmt: skip
    parser.add_argument("--url-prefix", metavar="URL", help="where readers find the TIFFs")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that read files")
    console.add_options_argument(parser, "--storage-option", "FILES")
    console.add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scan all files, write, and say what was written; 1 where places are left empty."""
    from ..sequences.sequence import scan_sequence

    references = scan_sequence(
        arguments.files[0] if len(arguments.files) == 1 else arguments.files,
        pattern=arguments.pattern,
        axesorder=arguments.axes.split(",") if arguments.axes else None,
        time_from=arguments.time_from,
        concat=_parse_concat(arguments.concat),
        mosaic=arguments.mosaic,
        on_mismatch=arguments.on_mismatch,
        ignore=arguments.ignore,
        allow_holes=arguments.allow_holes,
        level=arguments.level,
        chunkmode=arguments.chunkmode,
        storage_options=dict(arguments.storage_option) or None,
        workers=arguments.workers,
        progress=True,
    )
    return finish(references, arguments, arguments.zarr_format)


def _parse_concat(texts: list[str]) -> str | dict[str, str] | None:
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    if any(not equals for _, equals, _ in pairs):
        raise console.UsageError("--concat given more than once takes FIELD=DIM")
    return {field: dim for field, _, dim in pairs} or None


def finish(references: References, arguments: argparse.Namespace, zarr_format: int) -> int:
    """Write the document and tell what is in it."""
    output.write_references(references, arguments.output, arguments.url_prefix, zarr_format)
    summary = summarise(references, arguments.output)
    if arguments.json:
        console.print_json(summary)
    else:
        for array in summary["arrays"]:
            shape = ", ".join(f"{dim} {n}" for dim, n in array["shape"].items())
            files = console.count(summary["files"], "file")
            print(f"{arguments.output}: {array['path']} ({shape}), {files}")
    for row in summary["unreadable"]:
        console.report(f"left out: {row['reason']}", "warning")
    if summary["holes"]:
        named = "; ".join(summary["empty"][:_SHOWN])
        more = "; ..." if named and summary["holes"] > _SHOWN else ""
        which = f": {named}{more}" if named else ""
        console.report(
            f"{console.count(summary['holes'], 'place')} without a file{which}", "warning"
        )
    return console.INVALID if summary["holes"] or summary["unreadable"] else console.OK


def summarise(references: References, where: str) -> dict[str, Any]:
    """Say what a document holds, as JSON values."""
    records = [row["sequence"] for row in references.series if "sequence" in row]
    paths = [
        level["path"] for row in references.series for level in row["levels"] if "path" in level
    ]
    arrays = [
        {"path": path, "shape": dict(zip(array.dims, array.shape, strict=True))}
        for path, array in references.group.arrays()
        if path in paths
    ]
    return {
        "output": where,
        "files": len(references.sources),
        "arrays": arrays,
        "holes": sum(record.get("n_holes", 0) for record in records),
        "empty": [place for record in records for place in record.get("holes", [])],
        "unreadable": [row for record in records for row in record.get("unreadable", [])],
    }
