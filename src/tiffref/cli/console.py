"""What all commands share: exit codes, messages, progress, output, and the parser of arguments.

Results go to standard output, everything else to standard error through the logger `tiffref`, and
progress only where standard error is a terminal. The parser says what is wrong where it is wrong:
argparse leaves wrong options of a command to the program, whose usage does not show what there is,
and takes bounds in the west for options. Hints of errors name arguments as Python has them; they
are rendered as options here.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from ..errors import did_you_mean, printable, redact
from ..formats.summary import count
from ..io.urls import misnamed_references

if TYPE_CHECKING:
    from ..references import References

OK, INVALID, USAGE, ACCESS, INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(Exception):
    """Arguments that argparse accepts one by one and that make no sense together."""


_LOG = logging.getLogger("tiffref")
_NOTE = 25
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "note": _NOTE}
_VERBOSE = ("fsspec", "s3fs", "gcsfs", "aiohttp", "botocore")
"""Loggers of other packages that -vv shows too."""


_LAYOUT = "\n\t"
"""Control characters that our own texts have."""


class _Formatter(logging.Formatter):
    """A line as `tiffref: warning: message`."""

    def format(self, record: logging.LogRecord) -> str:
        kind = "note" if record.levelno == _NOTE else record.levelname.lower()
        where = "" if record.name == "tiffref" else f"{record.name}: "
        return f"tiffref: {kind}: {where}{printable(record.getMessage(), _LAYOUT)}"


@contextmanager
def log_to_stderr(verbosity: int) -> Iterator[None]:
    """Let what is logged be written to standard error, as long as the context lasts.

    Parameters
    ----------
    verbosity
        -1 for errors only, 0 for warnings too, 1 for what is done, 2 for all details.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    loggers = [_LOG, *(map(logging.getLogger, _VERBOSE) if verbosity > 1 else ())]
    before = [(one, one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.propagate = False
        one.setLevel((logging.ERROR, _NOTE, logging.INFO, logging.DEBUG)[min(verbosity, 2) + 1])
    try:
        yield
    finally:
        for one, level, propagate in before:
            one.removeHandler(handler)
            one.setLevel(level)
            one.propagate = propagate


def report(message: str, kind: str = "error") -> None:
    """Write one message to standard error: an error, a warning or a note."""
    _LOG.log(_LEVELS[kind], "%s", message)


def say(text: str) -> None:
    """Print one line of a summary, unless only errors are wanted."""
    if _LOG.isEnabledFor(_NOTE):
        print(printable(text, _LAYOUT))


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning without the place in the code, which does not help a user."""
    report(str(message), "warning")


@contextmanager
def progress(message: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show what is being done while it is done, where standard error is a terminal.

    Gets a callback that shows how many directories and bytes were read, where there is a terminal.
    """
    start, message = time.perf_counter(), redact(message)
    if not sys.stderr.isatty() or not _LOG.isEnabledFor(_NOTE):
        yield None
        _LOG.info("%s (%.2f s)", message, time.perf_counter() - start)
        return
    from ..io.progress import show_scan_progress

    sys.stderr.write(f"{message} ...")
    sys.stderr.flush()
    try:
        yield show_scan_progress(message)
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
    _LOG.info("%s (%.2f s)", message, time.perf_counter() - start)


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    text = json.dumps(_encode_numbers(value), indent=2, ensure_ascii=False, default=str)
    # what JSON need not spell may be an order to a terminal
    print(_ORDERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


_ORDERS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _encode_numbers(value: Any) -> Any:
    """Spell numbers that JSON does not know as Zarr does: "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, dict):
        return {name: _encode_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_encode_numbers(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


class OneOrMany(argparse.Action):
    """Keep one name as text, so that a pattern or table is taken for one, and several as a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Store the name or names."""
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


class Merge(argparse.Action):
    """Put what an option gives each time into one dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Add to the dictionary."""
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **values})


def parse_option(text: str) -> dict[str, Any]:
    """Parse NAME=VALUE; the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return {name: json.loads(value)}
    except json.JSONDecodeError:
        return {name: value}  # a plain word needs no quotes


Arguments = Mapping[str, Mapping[str, Any]]
"""Names of an argument -> what argparse takes; or the title of a group -> the arguments in it."""

OUTPUT_HELP = "JSON file to write, or parquet if it ends in .parq or .parquet"
JSON: Arguments = {"--json": {"action": "store_true", "help": "print JSON"}}
DRY_RUN: Arguments = {"--dry-run": {"action": "store_true", "help": "do everything but write"}}
FORMAT: Arguments = {
    "--format": {
        "choices": ("json", "parquet"), "help": "format of the references (default: by the name)",
    },
}  # fmt: skip
LEVEL: Arguments = {"--level": {"type": int, "metavar": "N", "help": "only this pyramid level"}}
_COMMON: Arguments = {
    "-v --verbose": {
        "action": "count", "default": 0, "help": "log each step; twice: with all details",
    },
    "-q --quiet": {"action": "store_true", "help": "print only errors"},
}  # fmt: skip


def options_of(what: str, name: str = "storage") -> Arguments:
    """Return an option that collects the arguments of a file system."""
    return {
        f"--{name}-option": {
            "metavar": "NAME=VALUE", "dest": f"{name}_options", "action": Merge,
            "type": parse_option,
            "help": f"option of the file system that opens {what}, such as anon=true; repeatable",
        },
    }  # fmt: skip


def allow_of(what: str) -> Arguments:
    """Return an option that collects the addresses that a document is trusted with."""
    return {
        "--allow": {
            "metavar": "PREFIX", "action": "append",
            "help": f"let {what} read addresses that start with this, '*' for all; "
            "may be repeated",
        },
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A command: help (one line), examples, arguments, and what runs it; or actions of its own."""

    help: str
    examples: str = ""
    arguments: Arguments = field(default_factory=dict)
    run: Callable[[argparse.Namespace], int] | None = None
    actions: Mapping[str, Command] = field(default_factory=dict)

    def add_to(self, parser: argparse.ArgumentParser, metavar: str = "ACTION") -> None:
        """Add the arguments and actions to a parser."""
        parser.set_defaults(run=self.run or (lambda _: _print_help(parser)), parser=parser)
        _add_arguments(parser, self.arguments)
        actions = parser.add_subparsers(metavar=metavar) if self.actions else None
        for name, action in self.actions.items():
            assert actions is not None
            action.add_to(
                actions.add_parser(
                    name,
                    help=action.help,
                    description=f"{action.help[0].upper()}{action.help[1:]}.",
                    epilog=f"examples:\n{action.examples}" if action.examples else None,
                    formatter_class=argparse.RawDescriptionHelpFormatter,
                )
            )
        if self.help:
            _add_arguments(parser, _COMMON)


def _add_arguments(parser: Any, arguments: Arguments) -> None:
    for names, options in arguments.items():
        if all(isinstance(one, Mapping) for one in options.values()):
            _add_arguments(parser.add_argument_group(names), options)
        else:
            parser.add_argument(*names.split(), **options)


def _print_help(parser: argparse.ArgumentParser) -> int:
    """Show the help if no command was named; the exit code says that one is missing."""
    parser.print_help(sys.stderr)
    return USAGE


def pick(arguments: argparse.Namespace, names: str) -> dict[str, Any]:
    """Return arguments that a function takes under the same names."""
    return {name: getattr(arguments, name) for name in names.split()}


def only_image(names: Sequence[str], command: str) -> str:
    """Return the only name; of several, say what else to do with them.

    Raises
    ------
    UsageError
        If there are several, as where a shell has expanded a glob.
    """
    if len(names) == 1:
        return names[0]
    shown = " ".join(shlex.quote(name) for name in names[:2]) + (" ..." if len(names) > 2 else "")
    raise UsageError(
        f"tiffref {command} takes one image, got {len(names)}"
        f"\n  as one array: tiffref stack {shown} -o refs.json"
        f"\n  as a catalog: tiffref catalog build {shown} -o CATALOG"
    )


def default_output(output: str | None, stem: str, form: str | None) -> str:
    """Return the name to write to: the one given, or one made of a stem.

    Raises
    ------
    UsageError
        If the name contradicts the format, or names a Zarr store, or one that was not given exists.
    """
    if output is None:
        name = f"{stem}.{'parq' if form == 'parquet' else 'json'}"
        if Path(name).exists():
            raise UsageError(f"{name} exists already; to replace it, use -o {name}")
        return name
    ending = output.rstrip("/").lower().rpartition(".")[2]
    misnamed = misnamed_references(output)
    if misnamed:
        raise UsageError(f"{output}: {misnamed[0]}; name them {misnamed[1]}")
    if form and (ending in ("parq", "parquet")) != (form == "parquet"):
        raise UsageError(f"{output}: the name does not go with --format {form}")
    return output


_OPTION = re.compile(r"--[a-z][a-z-]*")
_INVALID_CHOICE = re.compile(
    r"argument (?P<what>COMMAND|ACTION|SHELL): invalid choice: '(?P<value>[^']*)' "
    r"\(choose from (?P<choices>.*)\)"
)
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

    def error(self, message: str) -> NoReturn:
        """Describe in a line or two what is wrong, and where all options are listed."""
        wrong = _INVALID_CHOICE.match(message)
        if wrong:
            named = re.findall(r"[\w-]+", wrong["choices"])
            hint = did_you_mean(wrong["value"], named) or f"There are {', '.join(named)}"
            if wrong["what"] == "COMMAND" and Path(wrong["value"]).exists():
                hint = f"For a file: tiffref info {shlex.quote(wrong['value'])}"
            message = (
                f"there is no {wrong['what'].lower()} {wrong['value']}; {hint[0].lower()}{hint[1:]}"
            )
        print(f"tiffref: error: {message}", file=sys.stderr)
        self.exit(USAGE, f"See {self.prog} --help.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Let an error out that argparse passes over: the help may be all that is wanted."""
        (file or sys.stderr).write(message)

    def options(self) -> list[str]:
        """Return the long options, as `--level`."""
        return sorted(set(_OPTION.findall(self.format_usage())))

    def _refuse(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"one argument too many: {argument}"
        name = argument.partition("=")[0]
        near = did_you_mean(name, self.options())
        return f"unknown option {name}" + (f"; {near[0].lower()}{near[1:]}" if near else "")


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


def name_options(text: str, options: Sequence[str]) -> str:
    """Spell arguments of Python as options where the command has them.

    >>> name_options("allow_holes=True leaves them missing.", ["--allow-holes"])
    '--allow-holes leaves them missing.'
    >>> name_options("on_mismatch='split' makes two.", ["--on-mismatch"])
    '--on-mismatch split makes two.'
    """

    def spell(match: re.Match[str]) -> str:
        option = f"--{match['name'].replace('_', '-')}"
        if option not in options:
            return match[0]
        value = match["value"] or match["item"]
        return f"{option} {shlex.quote(value)}" if value else option

    return _ARGUMENT.sub(spell, text)


ADDRESSES: Arguments = {
    "--url-prefix": {
        "metavar": "URL",
        "help": "where readers find the TIFFs: this, then the file name (s3://bucket/folder/)",
    },
    "--keep-signature": {
        "action": "store_true",
        "help": "keep signatures and passwords in addresses; by default they are removed",
    },
}
"""How documents name the TIFFs."""


def addresses_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what `ADDRESSES` gave, as exports take it."""
    return {"url": arguments.url_prefix, "keep_signature": arguments.keep_signature}


def write_references(
    references: References, output: str, zarr_format: int = 2, **addresses: Any
) -> None:
    """Write references, and show that while it takes.

    Raises
    ------
    UsageError
        If parquet is to hold Zarr 3.
    """
    from ..formats.parquet import is_parquet

    if zarr_format != 2 and is_parquet(output):
        raise UsageError(
            f"{output}: parquet references hold Zarr 2 only; leave out --zarr-format, or write JSON"
        )
    with progress(f"writing {output}"):
        references.write_fsspec(output, **addresses, zarr_format=zarr_format)


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


def format_counts(counts: Mapping[str, int]) -> str:
    """Format the counts in one line.

    >>> format_counts({"arrays": 2, "chunks": 8, "coordinates": 1})
    '2 arrays, 8 chunks, 1 coordinate'
    """
    parts = [count(counts["arrays"], "array"), count(counts["chunks"], "chunk")]
    if counts["coordinates"]:
        parts.append(count(counts["coordinates"], "coordinate"))
    return ", ".join(parts)
