"""`tiffref convert`: references in another format.

Owns the arguments; the work is `tiffref.catalog.convert`.
"""

from __future__ import annotations

import argparse

from . import console, output

__all__ = ["HELP", "add_arguments", "run"]

HELP = "write references in another format: JSON, parquet, Zarr 3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("source", metavar="REFS", help="JSON file, or folder of parquet references")
    parser.add_argument(
        "target", metavar="TARGET", help="what to write; parquet if it ends in .parq or .parquet"
    )
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=2, help="of JSON (default: 2)"
    )
    parser.add_argument(
        "--reference-version", type=int, choices=(0, 1), default=1,
        help="of the JSON document (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--record-size", type=int, default=100_000, metavar="N",
        help="chunks in one parquet file (default: 100000)",
    )  # fmt: skip
    console.add_options_argument(parser, "--storage-option", "REFS and TARGET")
    console.add_allow_argument(parser, "REFS")
    console.add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from .. import catalog

    with console.progress(f"writing {arguments.target}"):
        references = catalog.convert(
            arguments.source,
            arguments.target,
            zarr_format=arguments.zarr_format,
            version=arguments.reference_version,
            record_size=arguments.record_size,
            storage_options=dict(arguments.storage_option) or None,
            allow=arguments.allow,
        )
    counts = output.count_arrays(references)
    if arguments.json:
        console.print_json({"output": arguments.target, **counts})
    else:
        print(f"{arguments.target}: {output.tell_counts(counts)}")
    return console.OK
