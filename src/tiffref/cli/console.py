"""The terminal side of all commands: exit codes, messages, progress, arguments, output.

Results go to standard output, everything else to standard error, and progress only where standard
error is a terminal. The parser does what argparse does not: it refuses wrong options of a command
where its own usage is shown, takes negative bounds for numbers, and writes hints with the options
of the command line where errors name arguments of Python. References are written as JSON or
Parquet, by the name of the output.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ..references import References

__all__ = [
    "ACCESS",
    "INTERRUPTED",
    "INVALID",
    "OK",
    "OUTPUT_HELP",
    "USAGE",
    "Parser",
    "UsageError",
    "add_allow_argument",
    "add_json_argument",
    "add_options_argument",
    "add_source_arguments",
    "count",
    "count_arrays",
    "format_bytes",
    "format_table",
    "print_help",
    "print_json",
    "progress",
    "report",
    "say_warning",
    "spell_options",
    "tell_counts",
    "wrap",
    "write_references",
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
    """Format a number of bytes in binary units.

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
    """Format a number of things.

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


_OPTION = re.compile(r"--[a-z][a-z-]*")
_NUMBERS = re.compile(r"-[0-9.][0-9.,eE+-]*")
_ARGUMENT = re.compile(r"\b(?P<name>[a-z_]+)=(?:True|'(?P<value>[^']*)'|\['(?P<item>[^']*)'\])")


class Parser(argparse.ArgumentParser):
    """A parser that refuses what it does not know itself, and says what may have been meant."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse all arguments; none is left to the parser above."""
        given = sys.argv[1:] if args is None else args
        found, rest = super().parse_known_args(list(_join_numbers(given)), namespace)
        if rest:
            self.error(self._refuse(rest[0]))
        return found, rest

    def options(self) -> list[str]:
        """Return the long options, as `--level`."""
        return sorted(set(_OPTION.findall(self.format_usage())))

    def _refuse(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"one argument too many: {argument}"
        name = argument.partition("=")[0]
        near = difflib.get_close_matches(name, self.options(), 1)
        return f"unknown option {name}" + (f"; did you mean {near[0]}?" if near else "")


def _join_numbers(arguments: Sequence[str]) -> Iterator[str]:
    """Join options with numbers below 0, where argparse takes the minus for another option.

    >>> list(_join_numbers(["query", "--bounds", "-10,40,5.5,50", "images"]))
    ['query', '--bounds=-10,40,5.5,50', 'images']
    """
    before = None
    for argument in arguments:
        if before is not None and _OPTION.fullmatch(before) and _NUMBERS.fullmatch(argument):
            before = f"{before}={argument}"
            continue
        if before is not None:
            yield before
        before = argument
    if before is not None:
        yield before


def print_help(parser: argparse.ArgumentParser) -> int:
    """Show what there is to whoever named no command; that is wrong use all the same."""
    parser.print_help(sys.stderr)
    return USAGE


def spell_options(text: str, options: Sequence[str]) -> str:
    """Spell arguments of Python as options where the command has them.

    >>> spell_options("allow_holes=True leaves them missing.", ["--allow-holes"])
    '--allow-holes leaves them missing.'
    >>> spell_options("on_mismatch='split' makes two.", ["--on-mismatch"])
    '--on-mismatch split makes two.'
    """

    def spell(match: re.Match[str]) -> str:
        option = f"--{match['name'].replace('_', '-')}"
        if option not in options:
            return match[0]
        value = match["value"] or match["item"]
        return f"{option} {shlex.quote(value)}" if value else option

    return _ARGUMENT.sub(spell, text)


OUTPUT_HELP = "JSON file to write, or parquet if it ends in .parq or .parquet"


def write_references(
    references: References, output: str, url_prefix: str | None = None, zarr_format: int = 2
) -> None:
    """Write references, and say so while it takes.

    Parameters
    ----------
    references
        What to write.
    output
        File or URL; a folder of parquet references where the name ends in .parq or .parquet.
    url_prefix
        Where readers find the TIFFs.
    zarr_format
        2 or 3; parquet references hold 2 only.

    Raises
    ------
    UsageError
        If parquet is to hold Zarr 3.
    """
    from ..formats.parquet import is_parquet

    with progress(f"writing {output}"):
        if not is_parquet(output):
            references.write_fsspec(output, url_prefix, zarr_format=zarr_format)
        elif zarr_format == 2:
            references.to_parquet(output, url_prefix)
        else:
            raise UsageError(
                f"{output}: parquet references hold Zarr 2 only; leave out --zarr-format, or "
                "write JSON"
            )


def count_arrays(references: References) -> dict[str, int]:
    """Count images and their chunks; coordinates, which nobody asked for, by themselves."""
    levels = (level for row in references.series for level in row["levels"])
    arrays = dict(references.group.arrays())
    images = {level.get("path") for level in levels} & set(arrays)
    counted = [array for path, array in arrays.items() if path in images or not images]
    return {
        "arrays": len(counted),
        "chunks": sum(array.manifest.n_chunks for array in counted),
        "coordinates": len(arrays) - len(counted),
    }


def tell_counts(counts: Mapping[str, int]) -> str:
    """Format the counts in one line.

    >>> tell_counts({"arrays": 2, "chunks": 8, "coordinates": 1})
    '2 arrays, 8 chunks, 1 coordinate'
    """
    told = [count(counts["arrays"], "array"), count(counts["chunks"], "chunk")]
    if counts["coordinates"]:
        told.append(count(counts["coordinates"], "coordinate"))
    return ", ".join(told)
