"""`tiffref.validation`: is a reference document right?

Owns the arguments and how the report reads; the checks are `tiffref.validation`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from . import console

if TYPE_CHECKING:
    from ..formats.findings import Finding
    from ..validation import Report

__all__ = ["HELP", "add_arguments", "run"]

HELP = "check a reference document, its sources and their pixels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "document", metavar="REFS", help="JSON file, or folder of parquet references: path or URL"
    )
    parser.add_argument(
        "--sources", action="store_true",
        help="look whether the sources are there, unchanged, and long enough",
    )  # fmt: skip
    parser.add_argument(
        "--pixels", type=_parse_count, default=0, metavar="N",
        help="decode N chunks of each array, or all, and compare them with the TIFF",
    )  # fmt: skip
    parser.add_argument(
        "--untrusted", action="store_true",
        help="list every host and path that reading the document would touch; open none of them",
    )  # fmt: skip
    parser.add_argument(
        "--allow", action="append", metavar="PREFIX",
        help="open only sources whose URL begins so; may be repeated (default: all)",
    )  # fmt: skip
    console.add_options_argument(parser, "--storage-option", "REFS")
    console.add_options_argument(parser, "--source-option", "the sources")
    console.add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check and report; 1 where an error was found."""
    from ..validation import validate

    with console.progress(f"checking {arguments.document}"):
        report = validate(
            arguments.document,
            sources=arguments.sources and not arguments.untrusted,
            pixels=0 if arguments.untrusted else arguments.pixels,
            storage_options=dict(arguments.storage_option) or None,
            source_options=dict(arguments.source_option) or None,
            allow=arguments.allow,
        )
    if arguments.json:
        console.print_json(report.to_json())
    else:
        print("\n".join(tell(arguments.document, report, bool(arguments.pixels))))
        if arguments.untrusted:
            print("\n".join(tell_touches(report)))
    return console.OK if report.ok else console.INVALID


def tell(document: str, report: Report, compared: bool) -> Iterator[str]:
    """Give the lines that a person reads: the verdict, then each finding."""
    counts = [
        console.count(sum(finding.severity == kind for finding in report.findings), kind)
        for kind in ("error", "warning")
        if any(finding.severity == kind for finding in report.findings)
    ]
    verdict = ["valid"] if report.ok else []
    if compared:
        counts.append(f"{console.count(report.n_chunks_compared, 'chunk')} compared")
    yield f"{document}: {', '.join(verdict + counts)}"
    for finding in report.findings:
        yield f"  {_describe(finding)}"


def tell_touches(report: Report) -> Iterator[str]:
    """Give each host that reading would touch, and below it each path."""
    for host, paths in sorted(report.touches.items()):
        yield f"  touches {host}"
        yield from (f"    {path!r}" for path in sorted(set(paths)))


def _describe(finding: Finding) -> str:
    return f"{finding.severity}: {finding.to_error()}"


def _parse_count(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of chunks nor all")
    return int(text)
