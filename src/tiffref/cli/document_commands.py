"""`tiffref convert`, `rewrite`, `refresh` and `validate`: work on reference documents.

Owns their arguments and what they report; the work is that of `tiffref.documents` and
`tiffref.validate`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ..formats.summary import count
from . import console

if TYPE_CHECKING:
    from ..validation import Report

_DOCUMENT: console.Arguments = {
    "document": {
        "metavar": "REFS", "help": "JSON file, or folder of parquet references: path or URL",
    },
}  # fmt: skip
_CONVERT_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "target": {
        "metavar": "TARGET", "help": "what to write; parquet if it ends in .parq or .parquet",
    },
    "--zarr-format": {
        "type": int, "choices": (2, 3), "default": 2, "help": "of JSON (default: 2)",
    },
    "--reference-version": {
        "type": int, "choices": (0, 1), "default": 1, "dest": "version",
        "help": "of the JSON document (default: 1)",
    },
    "--record-size": {
        "type": int, "default": 100_000, "metavar": "N",
        "help": "chunks in one parquet file (default: 100000)",
    },
    **console.options_of("REFS and TARGET"),
    **console.allow_of("REFS"),
    **console.DRY_RUN,
    **console.JSON,
}  # fmt: skip
_REWRITE_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "--from": {
        "dest": "before", "action": "append", "required": True, "metavar": "PREFIX",
        "help": "beginning of addresses, such as s3://a/; may be repeated, with a --to for each",
    },
    "--to": {
        "dest": "after", "action": "append", "required": True, "metavar": "PREFIX",
        "help": "what replaces it, such as https://b/",
    },
    "-o --output": {"metavar": "TARGET", "help": "what to write; by default REFS itself"},
    **console.options_of("REFS and TARGET"),
    **console.allow_of("REFS"),
    **console.DRY_RUN,
    **console.JSON,
}  # fmt: skip
_REFRESH_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    **console.options_of("REFS"),
    **console.options_of("the files", "source"),
    **console.allow_of("REFS"),
    **console.DRY_RUN,
    **console.JSON,
}


def _convert(arguments: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from ..documents import convert

    target = console.default_output(arguments.target, "", None)
    names = "zarr_format version record_size storage_options allow dry_run"
    with console.progress(f"writing {target}"):
        references = convert(arguments.document, target, **console.pick(arguments, names))
    counts = console.count_arrays(references)
    if arguments.json:
        console.print_json({"output": target, **counts})
    else:
        would = "would write " if arguments.dry_run else ""
        console.say(f"{would}{target}: {console.format_counts(counts)}")
    return console.OK


def _rewrite(arguments: argparse.Namespace) -> int:
    """Rewrite, and say how many files have another address."""
    from ..documents import rewrite

    if len(arguments.before) != len(arguments.after):
        raise console.UsageError("each --from needs a --to")
    moves = dict(zip(arguments.before, arguments.after, strict=True))
    target = arguments.document
    if arguments.output:
        target = console.default_output(arguments.output, "", None)
    options = console.pick(arguments, "storage_options allow dry_run")
    with console.progress(f"writing {target}"):
        n_moved = rewrite(arguments.document, target, moves, **options)
    if arguments.json:
        console.print_json({"output": target, "moved": n_moved})
    else:
        would = "would write " if arguments.dry_run else ""
        console.say(f"{would}{target}: {count(n_moved, 'file')} with another address")
    return console.OK


def _refresh(arguments: argparse.Namespace) -> int:
    """Refresh, and say what became of the files."""
    from ..documents import refresh

    options = console.pick(arguments, "storage_options source_options allow dry_run")
    with console.progress(f"refreshing {arguments.document}"):
        done = refresh(arguments.document, **options)
    if arguments.json:
        rows = {name: getattr(done, name) for name in ("unchanged", "accepted", "rescanned")}
        console.print_json({"output": arguments.document, **rows})
        return console.OK
    would = "would be" if arguments.dry_run else "was"
    for url in done.accepted:
        console.say(f"{url}: {would} accepted, its segments are the same")
    for url in done.rescanned:
        console.say(f"{url}: {would} scanned again")
    console.say(f"{arguments.document}: {count(len(done.unchanged), 'file')} unchanged")
    return console.OK


def _parse_count(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of chunks nor all")
    return int(text)


_VALIDATE_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "--sources": {
        "action": "store_true",
        "help": "check that the sources exist, are unchanged, and are long enough",
    },
    "--pixels": {
        "type": _parse_count, "default": 0, "metavar": "N",
        "help": "decode N chunks of each array, or all, and compare them with the TIFF",
    },
    "--untrusted": {
        "action": "store_true",
        "help": "list every host and path that the document would read, and open none of them",
    },
    "--allow": {
        "action": "append", "metavar": "PREFIX",
        "help": "open only sources whose URL starts with this; may be repeated (default: all)",
    },
    **console.options_of("REFS"),
    **console.options_of("the sources", "source"),
    **console.JSON,
}  # fmt: skip


def _validate(arguments: argparse.Namespace) -> int:
    """Check and report; 1 where an error was found."""
    from ..validation import validate

    with console.progress(f"checking {arguments.document}"):
        report = validate(
            arguments.document,
            sources=arguments.sources and not arguments.untrusted,
            pixels=0 if arguments.untrusted else arguments.pixels,
            **console.pick(arguments, "storage_options source_options allow"),
        )
    if arguments.json:
        console.print_json(report.to_json())
    else:
        print("\n".join(_format_report(arguments, report)))
    return console.OK if report.ok else console.INVALID


def _format_report(arguments: argparse.Namespace, report: Report) -> Iterator[str]:
    """Return the lines that a person reads: the verdict, each finding, each host and its paths."""
    counts = [
        count(sum(finding.severity == kind for finding in report.findings), kind)
        for kind in ("error", "warning")
        if any(finding.severity == kind for finding in report.findings)
    ]
    verdict = ["valid"] if report.ok else []
    if arguments.pixels:
        counts.append(f"{count(report.n_chunks_compared, 'chunk')} compared")
    yield f"{arguments.document}: {', '.join(verdict + counts)}"
    for finding in report.findings:
        yield f"  {finding.severity}: {finding.to_error()}"
    for host, paths in sorted(report.touches.items()) if arguments.untrusted else ():
        yield f"  touches {host}"
        yield from (f"    {path!r}" for path in sorted(set(paths)))


COMMANDS = {
    "convert": console.Command(
        "write references in another format: JSON, parquet, Zarr 3",
        """\
  tiffref convert refs.json refs.parq
  tiffref convert refs.json refs-v3.json --zarr-format 3""",
        _CONVERT_ARGUMENTS,
        _convert,
    ),
    "rewrite": console.Command(
        "change the addresses of the files in references",
        """\
  tiffref rewrite refs.json --from file:///data/ --to https://host/data/
  tiffref rewrite refs.json --from s3://a/ --to s3://b/ -o moved.json
  tiffref rewrite refs.json --from s3://a/ --to s3://b/ --dry-run""",
        _REWRITE_ARGUMENTS,
        _rewrite,
    ),
    "refresh": console.Command(
        "update references after their files changed",
        """\
  tiffref refresh refs.json
  tiffref refresh refs.json --dry-run""",
        _REFRESH_ARGUMENTS,
        _refresh,
    ),
    "validate": console.Command(
        "check a reference document, its sources and their pixels",
        """\
  tiffref validate refs.json
  tiffref validate refs.json --sources --pixels 10
  tiffref validate theirs.json --untrusted""",
        _VALIDATE_ARGUMENTS,
        _validate,
    ),
}
