"""`tiffref convert`, `rewrite`, `refresh` and `validate`: work on reference documents.

Owns their arguments and what they report; the work is `tiffref.catalog.convert` and `rewrite`,
`tiffref.refresh` and `tiffref.validate`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from . import console

if TYPE_CHECKING:
    from ..formats.findings import Finding
    from ..validation import Report

__all__ = [
    "CONVERT_EXAMPLES",
    "CONVERT_HELP",
    "REFRESH_EXAMPLES",
    "REFRESH_HELP",
    "REWRITE_EXAMPLES",
    "REWRITE_HELP",
    "VALIDATE_EXAMPLES",
    "VALIDATE_HELP",
    "add_convert_arguments",
    "add_refresh_arguments",
    "add_rewrite_arguments",
    "add_validate_arguments",
    "run_convert",
    "run_refresh",
    "run_rewrite",
    "run_validate",
]

CONVERT_HELP = "write references in another format: JSON, parquet, Zarr 3"
CONVERT_EXAMPLES = """\
  tiffref convert refs.json refs.parq
  tiffref convert refs.json refs-v3.json --zarr-format 3"""


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from .. import catalog

    target = console.default_output(arguments.target, "", None)
    with console.progress(f"writing {target}"):
        references = catalog.convert(
            arguments.source,
            target,
            zarr_format=arguments.zarr_format,
            version=arguments.reference_version,
            record_size=arguments.record_size,
            storage_options=dict(arguments.storage_option) or None,
            allow=arguments.allow,
        )
    counts = console.count_arrays(references)
    if arguments.json:
        console.print_json({"output": target, **counts})
    else:
        console.say(f"{target}: {console.format_counts(counts)}")
    return console.OK


REWRITE_HELP = "change the addresses of the files in references"
REWRITE_EXAMPLES = """\
  tiffref rewrite refs.json --from file:///data/ --to https://host/data/
  tiffref rewrite refs.json --from s3://a/ --to s3://b/ -o moved.json"""


def add_rewrite_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_rewrite(arguments: argparse.Namespace) -> int:
    """Rewrite, and say how many files have another address."""
    from .. import catalog

    if len(arguments.before) != len(arguments.after):
        raise console.UsageError("each --from needs a --to")
    target = console.default_output(arguments.output or arguments.document, "", None)
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
        console.say(f"{target}: {console.count(n_moved, 'file')} with another address")
    return console.OK


REFRESH_HELP = "bring references up to date with files that have changed"
REFRESH_EXAMPLES = """\
  tiffref refresh refs.json
  tiffref refresh refs.json --dry-run"""


def add_refresh_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "document", metavar="REFS", help="JSON file, or folder of parquet references"
    )
    console.add_options_argument(parser, "--storage-option", "REFS")
    console.add_options_argument(parser, "--source-option", "the files")
    console.add_allow_argument(parser, "REFS")
    console.add_dry_run_argument(parser)
    console.add_json_argument(parser)


def run_refresh(arguments: argparse.Namespace) -> int:
    """Refresh, and say what became of the files."""
    from ..documents import refresh

    with console.progress(f"refreshing {arguments.document}"):
        done = refresh(
            arguments.document,
            storage_options=dict(arguments.storage_option) or None,
            source_options=dict(arguments.source_option) or None,
            allow=arguments.allow,
            dry_run=arguments.dry_run,
        )
    if arguments.json:
        rows = {name: getattr(done, name) for name in ("unchanged", "accepted", "rescanned")}
        console.print_json({"output": arguments.document, **rows})
        return console.OK
    would = "would be " if arguments.dry_run else "was "
    for name, what in (
        ("accepted", "accepted, its segments are the same"),
        ("rescanned", "scanned again"),
    ):
        for url in getattr(done, name):
            console.say(f"{url}: {would}{what}")
    console.say(f"{arguments.document}: {console.count(len(done.unchanged), 'file')} unchanged")
    return console.OK


VALIDATE_HELP = "check a reference document, its sources and their pixels"
VALIDATE_EXAMPLES = """\
  tiffref validate refs.json
  tiffref validate refs.json --sources --pixels 10
  tiffref validate theirs.json --untrusted"""


def add_validate_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_validate(arguments: argparse.Namespace) -> int:
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
        print("\n".join(format_report(arguments.document, report, bool(arguments.pixels))))
        if arguments.untrusted:
            print("\n".join(format_touches(report)))
    return console.OK if report.ok else console.INVALID


def format_report(document: str, report: Report, compared: bool) -> Iterator[str]:
    """Return the lines that a person reads: the verdict, then each finding."""
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


def format_touches(report: Report) -> Iterator[str]:
    """Return each host that reading would touch, and below it each path."""
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
