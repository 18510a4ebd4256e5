"""Shared by all commands: exit codes, messages, progress, output, and the argument parser.

Results go to standard output, everything else to standard error through the logger `tiffref`.
Progress is shown only if standard error is a terminal. The parser improves on argparse: a command
reports its own unknown options, with suggestions, and negative numbers such as western longitudes
are not taken for options. Hints of errors, which name Python arguments, are rewritten to name
options.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import did_you_mean, printable
from ..formats.summary import count
from ..io.urls import misnamed_references
from ..signatures import redact

if TYPE_CHECKING:
    from ..references import References

OK, INVALID, USAGE, ACCESS, INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(Exception):
    """Arguments that are valid for argparse one by one, but not together."""


_LOG = logging.getLogger("tiffref")
_NOTE = 25
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "note": _NOTE}
_VERBOSE = ("fsspec", "s3fs", "gcsfs", "aiohttp")
"""Loggers of other packages that -vv also shows; not botocore, which prints headers with tokens."""

_ALLOWED_CONTROLS = "\n\t"
"""Control characters that are printed as they are."""


class _Formatter(logging.Formatter):
    """Formats a record as `tiffref: warning: message`."""

    def format(self, record: logging.LogRecord) -> str:
        kind = "note" if record.levelno == _NOTE else record.levelname.lower()
        package = "" if record.name == "tiffref" else f"{record.name}: "
        message = printable(record.getMessage(), _ALLOWED_CONTROLS)
        return f"tiffref: {kind}: {package}{redact(message)}"


@contextmanager
def log_to_stderr(verbosity: int) -> Iterator[None]:
    """Write log messages to standard error within the context.

    Parameters
    ----------
    verbosity
        -1 for errors only, 0 for warnings too, 1 for each step, 2 for all details.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    loggers = [_LOG, *(map(logging.getLogger, _VERBOSE) if verbosity > 1 else ())]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel((logging.ERROR, _NOTE, logging.INFO, logging.DEBUG)[min(verbosity, 2) + 1])
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def report(message: str, kind: str = "error") -> None:
    """Write one message to standard error: an error, a warning or a note."""
    _LOG.log(_LEVELS[kind], "%s", message)


def say(text: str) -> None:
    """Print a line of a summary, unless `--quiet` is given."""
    if _LOG.isEnabledFor(_NOTE):
        print(printable(text, _ALLOWED_CONTROLS))


@contextmanager
def progress(message: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a message within the context, if standard error is a terminal.

    Yields a callback that shows how many IFDs and bytes were read; None without a terminal.
    """
    from ..io.progress import show_line, show_scan_progress

    start = time.perf_counter()
    is_shown = sys.stderr.isatty() and _LOG.isEnabledFor(_NOTE)
    if is_shown:
        message = redact(message)
        show_line(f"{message} ...")
    try:
        yield show_scan_progress(message) if is_shown else None
    finally:
        if is_shown:
            show_line()
    _LOG.info("%s (%.2f s)", message, time.perf_counter() - start)


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    # NaN and infinities, which JSON lacks, become strings, as in Zarr
    plain = json.loads(json.dumps(value, default=str), parse_constant=str)
    text = json.dumps(plain, indent=2, ensure_ascii=False)
    # JSON allows these unescaped, but terminals interpret them
    print(_TERMINAL_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


_TERMINAL_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def show_result(arguments: argparse.Namespace, facts: Mapping[str, Any], *lines: str) -> None:
    """Print what a command wrote, or would write: facts with `--json`, else lines."""
    if arguments.json:
        print_json(facts)
        return
    would = "would write " if arguments.dry_run else ""
    for line in lines:
        say(f"{would}{line}")


class OneOrMany(argparse.Action):
    """Store one name as a string, which may be a pattern or table, and several as a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


class Merge(argparse.Action):
    """Merge the values of a repeated option into one dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **values})


def parse_pair(text: str, form: str = "NAME=VALUE") -> tuple[str, str]:
    """Split NAME=VALUE; messages call it `form`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return name, value


def parse_option(text: str) -> dict[str, Any]:
    """Parse NAME=VALUE; a value that is not JSON is a string."""
    name, value = parse_pair(text)
    try:
        return {name: json.loads(value)}
    except json.JSONDecodeError:
        return {name: value}


Arguments = Mapping[str, Mapping[str, Any]]
"""Options of `add_argument` by the names of an argument; arguments by the title of their group."""

OUTPUT_HELP = "JSON file to write, or parquet if it ends in .parq or .parquet"
JSON: Arguments = {"--json": {"action": "store_true", "help": "print JSON"}}
DRY_RUN: Arguments = {"--dry-run": {"action": "store_true", "help": "write nothing"}}
FORMAT: Arguments = {
    "--format": {
        "choices": ("json", "parquet"),
        "help": "format of the references (default: by the extension of the output)",
    },
}  # fmt: skip
LEVEL: Arguments = {"--level": {"type": int, "metavar": "N", "help": "only this pyramid level"}}
ZARR_FORMAT: Arguments = {
    "--zarr-format": {
        "type": int, "choices": (2, 3), "default": 2,
        "help": "Zarr metadata to write; xarray's kerchunk engine reads 2 only (default: 2)",
    },
}  # fmt: skip
_COMMON: Arguments = {
    "-v --verbose": {
        "action": "count", "default": 0, "help": "log each step; -vv: with all details",
    },
    "-q --quiet": {"action": "store_true", "help": "print only errors"},
}  # fmt: skip


def options_of(what: str, name: str = "storage") -> Arguments:
    """Return an option for the arguments of a file system."""
    return {
        f"--{name}-option": {
            "metavar": "NAME=VALUE", "dest": f"{name}_options", "action": Merge,
            "type": parse_option,
            "help": f"option of the file system of {what}, such as anon=true; may be repeated",
        },
    }  # fmt: skip


def allow_of(what: str) -> Arguments:
    """Return an option for the addresses that a document may read."""
    return {
        "--allow": {
            "metavar": "PREFIX", "action": "append",
            "help": f"let {what} read addresses that start with this; '*' for all; may be repeated",
        },
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A command: one line of help, examples, arguments, and a function to run or actions."""

    help: str
    examples: str = ""
    arguments: Arguments = field(default_factory=dict)
    run: Callable[[argparse.Namespace], int] | None = None
    actions: Mapping[str, Command] = field(default_factory=dict)

    def add_to(self, parser: argparse.ArgumentParser, metavar: str = "ACTION") -> None:
        """Add the arguments and actions to a parser."""
        parser.set_defaults(run=self.run or (lambda _: _print_help(parser)), parser=parser)
        _add_arguments(parser, {**self.arguments, **(_COMMON if self.help else {})})
        if not self.actions:
            return
        actions = parser.add_subparsers(metavar=metavar)
        for name, action in self.actions.items():
            added = actions.add_parser(
                name,
                help=action.help,
                description=f"{action.help[0].upper()}{action.help[1:]}.",
                epilog=f"examples:\n{action.examples}" if action.examples else None,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            action.add_to(added)


def _add_arguments(parser: Any, arguments: Arguments) -> None:
    for names, options in arguments.items():
        if all(isinstance(option, Mapping) for option in options.values()):
            _add_arguments(parser.add_argument_group(names), options)
        else:
            parser.add_argument(*names.split(), **options)


def _print_help(parser: argparse.ArgumentParser) -> int:
    """Print the help if there is no command; return the exit code of a usage error."""
    parser.print_help(sys.stderr)
    return USAGE


def pick(arguments: argparse.Namespace, names: str) -> dict[str, Any]:
    """Return some arguments, to pass them on under the same names."""
    return {name: getattr(arguments, name) for name in names.split()}


def only_image(names: Sequence[str], command: str) -> str:
    """Return the only name.

    Raises
    ------
    UsageError
        If there are several, for example because a shell has expanded a glob.
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
    """Return the name of the output, by default that of a stem.

    Raises
    ------
    UsageError
        As in `check_output`; or if the default exists.
    """
    if output is not None:
        return check_output(output, form)
    name = f"{stem}.{'parq' if form == 'parquet' else 'json'}"
    if os.path.exists(name):  # noqa: PTH110 - takes names of any length
        raise UsageError(f"{name} already exists; to replace it, use -o {name}")
    return name


def check_output(output: str, form: str | None = None) -> str:
    """Return the name of the output.

    Raises
    ------
    UsageError
        If it stands for standard output, is that of a Zarr store, or does not match the format.
    """
    if output == "-":
        raise UsageError("only tiffref scan writes to standard output; give the name of a file")
    extension = output.rstrip("/").lower().rpartition(".")[2]
    misnamed = misnamed_references(output)
    if misnamed:
        raise UsageError(f"{output}: {misnamed[0]}; name them {misnamed[1]}")
    if form and (extension in ("parq", "parquet")) != (form == "parquet"):
        raise UsageError(f"{output}: the extension does not match --format {form}")
    return output


_OPTION = re.compile(r"--[a-z][a-z-]*")
_INVALID_CHOICE = re.compile(
    r"argument (?P<what>COMMAND|ACTION|SHELL): invalid choice: '(?P<value>[^']*)' "
    r"\(choose from (?P<choices>.*)\)"
)
_NEGATIVE_NUMBERS = re.compile(r"-[0-9.][0-9.,eE+-]*")
_ARGUMENT = re.compile(
    r"\b(?P<name>[a-z_]+)=(?:True|'(?P<value>[^']*)'|\['(?P<item>[^']*)'\]|\{(?P<pairs>'[^}]*)\}"
    r"|(?P<number>\d+)|(?=[.,;:]|$))"
)


class Parser(argparse.ArgumentParser):
    """A parser that reports its own unknown arguments, with suggestions."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse all arguments; leave none to the parent parser."""
        given = sys.argv[1:] if args is None else args
        parsed, rest = super().parse_known_args(_join_numbers(given), namespace)
        if rest:
            self.error(self._describe_unknown(rest[0]))
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Print the error and where to find the options, and exit."""
        wrong = _INVALID_CHOICE.match(message)
        if wrong:
            choices = re.findall(r"[\w-]+", wrong["choices"])
            hint = did_you_mean(wrong["value"], choices, 0.7) or f"Choose from {', '.join(choices)}"
            if wrong["what"] == "COMMAND" and os.path.exists(wrong["value"]):  # noqa: PTH110
                hint = f"For a file: tiffref info {shlex.quote(wrong['value'])}"
            message = (
                f"unknown {wrong['what'].lower()} {wrong['value']}; {hint[0].lower()}{hint[1:]}"
            )
        message = re.sub("invalid int value: ('.*')", r"\1 is not a whole number", message)
        print(printable(f"tiffref: error: {message}"), file=sys.stderr)
        self.exit(USAGE, f"See {self.prog} --help.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a message; unlike argparse, raise errors of a full or closed output."""
        (file or sys.stderr).write(message)

    def options(self) -> list[str]:
        """Return the long options, such as `--level`."""
        names = {name for action in self._actions for name in action.option_strings}
        return sorted(filter(_OPTION.fullmatch, names))

    def _describe_unknown(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument: {argument}"
        name = argument.partition("=")[0]
        hint = did_you_mean(name, self.options(), 0.7)  # "--level" is not --help
        if hint is None and self._subparsers is not None:
            hint = "Options of a command come after it"
        return f"unknown option {name}" + (f"; {hint[0].lower()}{hint[1:]}" if hint else "")


def _join_numbers(arguments: Sequence[str]) -> list[str]:
    """Join options with negative numbers, which argparse would take for options.

    >>> _join_numbers(["query", "--bounds", "-10,40,5.5,50", "images"])
    ['query', '--bounds=-10,40,5.5,50', 'images']
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and _OPTION.fullmatch(joined[-1]) and _NEGATIVE_NUMBERS.fullmatch(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def name_options(text: str, options: Sequence[str]) -> str:
    """Replace Python arguments in a text by the options of a command.

    >>> name_options("allow_holes=True leaves them missing.", ["--allow-holes"])
    '--allow-holes leaves them missing.'
    >>> name_options("on_mismatch='split' makes two.", ["--on-mismatch"])
    '--on-mismatch split makes two.'
    >>> name_options("on_mismatch='split' makes two.", [])
    "on_mismatch='split' (in Python) makes two."
    >>> name_options("Write it without url=.", ["--url-prefix"])
    'Write it without --url-prefix.'
    """

    def replace(match: re.Match[str]) -> str:
        name = f"--{match['name'].replace('_', '-')}"
        option = next((one for one in (name, f"{name}-prefix") if one in options), None)
        if option is None:
            before = text[: match.start()]
            is_advice = not before or before.endswith(("\n", ". ", "Pass ", "with "))
            return f"{match[0]} (in Python)" if is_advice else match[0]
        if match["pairs"]:
            pairs = re.findall("'(.*?)': '(.*?)'", match["pairs"])
            return " ".join(f"{option} {name}={value}" for name, value in pairs)
        value = match["value"] or match["item"] or match["number"]
        return f"{option} {shlex.quote(value)}" if value else option

    return _ARGUMENT.sub(replace, text)


ADDRESSES: Arguments = {
    "--url-prefix": {
        "metavar": "URL", "dest": "url",
        "help": "folder in which readers find the TIFFs, such as s3://bucket/folder/",
    },
    "--keep-signature": {
        "action": "store_true",
        "help": "keep signatures and passwords in addresses; by default, they are removed",
    },
}  # fmt: skip
"""Options for the addresses of TIFFs in documents."""


def write_references(
    references: References, output: str, zarr_format: int = 2, **addresses: Any
) -> None:
    """Write references, with progress.

    Raises
    ------
    UsageError
        If the output is parquet, and the Zarr format 3.
    """
    from ..formats.parquet import is_parquet

    if zarr_format != 2 and is_parquet(output):
        raise UsageError(
            f"{output}: parquet references support Zarr 2 only; omit --zarr-format, or write JSON"
        )
    with progress(f"writing {output}"):
        references.write_fsspec(output, **addresses, zarr_format=zarr_format)


def count_arrays(references: References) -> dict[str, int]:
    """Count images and their chunks, and separately coordinates."""
    from ..references import level_paths

    arrays = dict(references.group.arrays())
    images = [arrays[path] for path in level_paths(references.series) if path in arrays]
    counted = images or [*arrays.values()]
    return {
        "arrays": len(counted),
        "chunks": sum(array.manifest.n_chunks for array in counted),
        "coordinates": len(arrays) - len(counted),
    }


def format_counts(counts: Mapping[str, int]) -> str:
    """Format counts as one line.

    >>> format_counts({"arrays": 2, "chunks": 8, "coordinates": 1})
    '2 arrays, 8 chunks, 1 coordinate'
    """
    parts = [count(counts["arrays"], "array"), count(counts["chunks"], "chunk")]
    if counts["coordinates"]:
        parts.append(count(counts["coordinates"], "coordinate"))
    return ", ".join(parts)
