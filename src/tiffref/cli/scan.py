"""`tiffref scan`: from a TIFF to a reference document.

Owns the arguments and the summary; the work is `tiffref.scan` and `References.write_fsspec`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console, output

if TYPE_CHECKING:
    from ..references import References

__all__ = ["HELP", "add_arguments", "run"]

HELP = "write kerchunk references of a TIFF file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    console.add_source_arguments(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE",
        help=f"{output.HELP}; - is standard output",
    )  # fmt: skip
    parser.add_argument(
        "--url-prefix", metavar="URL",
        help="where readers find the TIFF: this followed by its file name (s3://bucket/folder/)",
    )  # fmt: skip
    parser.add_argument("--series", type=int, metavar="N", help="one series only")
    parser.add_argument("--level", type=int, metavar="N", help="one pyramid level only")
    parser.add_argument(
        "--layout", choices=("dataset", "tree"), default="dataset",
        help="all levels in the root group, or a group per level (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=2,
        help="Zarr metadata to write; xarray's kerchunk engine reads 2 only (default: 2)",
    )  # fmt: skip
    console.add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scan, write, and say what was written; 1 where a level could not be expressed."""
    from ..scanner.tiff import scan

    to_stdout = arguments.output == "-"
    if to_stdout and arguments.json:
        raise console.UsageError("-o - and --json both write to standard output; choose one")
    if not to_stdout and _is_same_file(arguments.output, arguments.image):
        raise console.UsageError(f"{arguments.output}: the output would replace the image itself")
    with console.progress(f"scanning {arguments.image}"):
        references = scan(
            arguments.image,
            series=arguments.series,
            level=arguments.level,
            layout=arguments.layout,
            storage_options=dict(arguments.storage_option) or None,
        )
    if to_stdout:
        document = references.to_kerchunk(
            url=arguments.url_prefix, zarr_format=arguments.zarr_format
        )
        json.dump(document, sys.stdout)
        sys.stdout.write("\n")
    else:
        output.write_references(
            references, arguments.output, arguments.url_prefix, arguments.zarr_format
        )
    summary = summarise(references, arguments.output)
    for refused in summary["refused"]:
        console.report(
            f"series {refused['series']} level {refused['level']} is left out: {refused['reason']}",
            "warning",
        )
    if arguments.json:
        console.print_json(summary)
    elif not to_stdout:
        print(f"{arguments.output}: {output.tell_counts(summary)}")
    return console.INVALID if summary["refused"] else console.OK


def summarise(references: References, where: str) -> dict[str, Any]:
    """Say what a document holds and what was left out of it, as JSON values."""
    arrays = list(references.group.arrays())
    refused = [
        {"series": i, "level": j, "reason": level["refused"]}
        for i, series in enumerate(references.series)
        for j, level in enumerate(series["levels"])
        if "refused" in level
    ]
    return {
        "output": where,
        **output.count_arrays(references),
        "missing_chunks": sum(int(array.manifest.is_missing.sum()) for _, array in arrays),
        "refused": refused,
    }


def _is_same_file(where: str, image: str) -> bool:
    try:
        return Path(where).samefile(image)
    except OSError:
        return False  # one of them does not exist, or is a URL
