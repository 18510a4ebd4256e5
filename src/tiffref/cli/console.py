"""What all commands share of the terminal: exit codes, messages, progress, JSON output.

Results go to standard output, everything else to standard error, and progress only where standard
error is a terminal.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = [
    "ACCESS",
    "INTERRUPTED",
    "INVALID",
    "OK",
    "USAGE",
    "UsageError",
    "add_allow_argument",
    "add_json_argument",
    "add_options_argument",
    "add_source_arguments",
    "count",
    "format_bytes",
    "format_table",
    "print_json",
    "progress",
    "report",
    "say_warning",
    "wrap",
]

OK, INVALID, USAGE, ACCESS, INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(Exception):
    """Arguments that argparse accepts one by one and that make no sense together."""


def report(message: str, kind: str = "error") -> None:
    """Write one message to standard error."""
    print(f"tiffref: {kind}: {message}", file=sys.stderr)


def say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning without the place in the code, which tells a user nothing."""
    report(str(message), "warning")


@contextmanager
def progress(message: str) -> Iterator[None]:
    """Show what is being done while it is done, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    sys.stderr.write(f"{message} ...")
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    print(json.dumps(_spell_numbers(value), indent=2, ensure_ascii=False, default=str))


def _spell_numbers(value: Any) -> Any:
    """Spell numbers that JSON does not know as Zarr does: "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, dict):
        return {name: _spell_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_spell_numbers(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command that opens a TIFF takes."""
    parser.add_argument("image", metavar="IMG", help="TIFF file: a path or a URL")
    add_options_argument(parser, "--storage-option", "IMG")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes the output one JSON document."""
    parser.add_argument("--json", action="store_true", help="print JSON, not sentences")


def add_options_argument(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    """Add an option that collects the arguments of a file system as (name, value) pairs."""
    parser.add_argument(
        name,
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_parse_option,
        help=f"option of the file system that opens {what}, as anon=true; may be repeated",
    )


def add_allow_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add an option that collects the addresses that a document is trusted with."""
    parser.add_argument(
        "--allow", metavar="PREFIX", action="append",
        help=f"let {what} name sources whose address begins so, '*' for all; may be repeated",
    )  # fmt: skip


def _parse_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value  # a plain word needs no quotes


def format_bytes(n: int) -> str:
    """Say a number of bytes in binary units.

    >>> format_bytes(999), format_bytes(2048), format_bytes(5_000_000)
    ('999 B', '2.0 KiB', '4.8 MiB')
    """
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{n} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def count(n: int, noun: str) -> str:
    """Say a number of things.

    >>> count(1, "chunk"), count(2500, "chunk")
    ('1 chunk', '2,500 chunks')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def wrap(text: str, indent: str = "  ") -> str:
    """Lay a sentence out in lines of at most 80 columns, the further ones deeper."""
    return textwrap.fill(
        text,
        80,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_table(rows: list[list[str]], indent: str = "  ") -> str:
    """Lay rows out in left-aligned columns; the first row is the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
