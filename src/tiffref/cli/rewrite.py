"""`tiffref rewrite`: references to files that have moved.

Owns the arguments; the work is `tiffref.catalog.rewrite`.
"""

from __future__ import annotations

import argparse

from . import console

__all__ = ["HELP", "add_arguments", "run"]

HELP = "change the addresses of the files in references"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "document", metavar="REFS", help="JSON file, or folder of parquet references"
    )
    parser.add_argument(
        "--from", dest="before", action="append", required=True, metavar="PREFIX",
        help="beginning of addresses, as s3://a/; may be repeated, with a --to for each",
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="after", action="append", required=True, metavar="PREFIX",
        help="what stands there instead, as https://b/",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="TARGET", help="what to write; by default REFS itself"
    )
    console.add_options_argument(parser, "--storage-option", "REFS and TARGET")
    console.add_allow_argument(parser, "REFS")
    console.add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Rewrite, and say how many files have another address."""
    from .. import catalog

    if len(arguments.before) != len(arguments.after):
        raise console.UsageError("each --from needs a --to")
    target = arguments.output or arguments.document
    with console.progress(f"writing {target}"):
        n_moved = catalog.rewrite(
            arguments.document,
            target,
            dict(zip(arguments.before, arguments.after, strict=True)),
            storage_options=dict(arguments.storage_option) or None,
            allow=arguments.allow,
        )
    if arguments.json:
        console.print_json({"output": target, "moved": n_moved})
    else:
        print(f"{target}: {console.count(n_moved, 'file')} with another address")
    return console.OK
