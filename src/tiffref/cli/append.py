"""`tiffref append`: more files for a document that `tiffref stack` wrote.

Owns the arguments; the work is `tiffref.append_sequence`.
"""

from __future__ import annotations

import argparse

from . import console, output, stack

__all__ = ["HELP", "add_arguments", "run"]

HELP = "add files to a reference document of many TIFF files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("document", metavar="DOC", help="what tiffref stack wrote")
    parser.add_argument("files", nargs="+", metavar="FILES", help="as for tiffref stack")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help=f"{output.HELP}; by default DOC itself"
    )
    stack.add_sequence_arguments(parser)
    console.add_allow_argument(parser, "DOC")


def run(arguments: argparse.Namespace) -> int:
    """Add files and write; 1 where places are left empty."""
    from ..references import References
    from ..sequences.append import append_sequence

    arguments.output = arguments.output or arguments.document
    options = dict(arguments.storage_option) or None
    before = References.open(arguments.document, allow=arguments.allow)
    after = append_sequence(
        before,
        arguments.files[0] if len(arguments.files) == 1 else arguments.files,
        pattern=arguments.pattern,
        allow_holes=arguments.allow_holes,
        level=arguments.level,
        chunkmode=arguments.chunkmode,
        storage_options=options,
        workers=arguments.workers,
        progress=True,
    )
    if after is before and arguments.output == arguments.document:
        if arguments.json:
            console.print_json(stack.summarise(after, arguments.output))
        else:
            print(f"{arguments.output}: nothing new")
        return console.OK
    return stack.finish(after, arguments, zarr_format=2)
