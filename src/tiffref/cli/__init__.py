"""The command line: `tiffref COMMAND ...`.

Owns the table of commands, the exit codes, and how errors and warnings read on a terminal. What a
command does is in the module of its name; what it needs is imported when it runs, so that `--help`
and completion stay quick. It knows nothing of TIFF.

Exit codes: 0 done; 1 the input is invalid, unsupported, or only a part of the work was done; 2 the
command was used wrongly; 3 something could not be read or written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from ..errors import MissingExtra, SelectionError, SourceError, TiffrefError
from . import catalog_command, commands, completion, info
from . import document_commands as documents
from .console import (
    ACCESS,
    INTERRUPTED,
    INVALID,
    USAGE,
    Parser,
    UsageError,
    add_common_arguments,
    log_to_stderr,
    name_options,
    print_help,
    report,
    show_warning,
)

__all__ = ["build_parser", "main"]

COMMANDS = {
    "info": (info.HELP, info.EXAMPLES, info.add_arguments, info.run),
    "scan": (
        commands.SCAN_HELP, commands.SCAN_EXAMPLES, commands.add_scan_arguments, commands.run_scan,
    ),
    "stack": (
        commands.STACK_HELP, commands.STACK_EXAMPLES, commands.add_stack_arguments,
        commands.run_stack,
    ),
    "append": (
        commands.APPEND_HELP, commands.APPEND_EXAMPLES, commands.add_append_arguments,
        commands.run_append,
    ),
    "catalog": (
        catalog_command.HELP, catalog_command.EXAMPLES, catalog_command.add_arguments,
        catalog_command.run,
    ),
    "convert": (
        documents.CONVERT_HELP, documents.CONVERT_EXAMPLES, documents.add_convert_arguments,
        documents.run_convert,
    ),
    "rewrite": (
        documents.REWRITE_HELP, documents.REWRITE_EXAMPLES, documents.add_rewrite_arguments,
        documents.run_rewrite,
    ),
    "refresh": (
        documents.REFRESH_HELP, documents.REFRESH_EXAMPLES, documents.add_refresh_arguments,
        documents.run_refresh,
    ),
    "validate": (
        documents.VALIDATE_HELP, documents.VALIDATE_EXAMPLES, documents.add_validate_arguments,
        documents.run_validate,
    ),
    "completion": (
        completion.COMPLETION_HELP, completion.COMPLETION_EXAMPLES,
        completion.add_completion_arguments, completion.run_completion,
    ),
}  # fmt: skip
"""Name of each command: help (one line), examples, what adds its arguments, what runs it."""

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, USAGE),
    (SelectionError, USAGE),
    (MissingExtra, USAGE),
    (SourceError, ACCESS),
    (TiffrefError, INVALID),
    (OSError, ACCESS),
)
"""Exit code of each error that a user can cause; the first row that fits counts."""


class _Version(argparse.Action):
    """Print the version, which takes longer to find than all of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"tiffref {version('tiffref')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = Parser(
        prog="tiffref",
        description="Make TIFF files readable as Zarr without copying a byte.",
        epilog="Exit codes: 0 done, 1 invalid or partial, 2 usage, 3 access.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.set_defaults(run=lambda _: print_help(parser), parser=parser)
    group = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (text, examples, add_arguments, run) in COMMANDS.items():
        command = group.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.set_defaults(run=run, parser=command)
        add_arguments(command)
        add_common_arguments(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        What follows the program's name; that of this process if not given.

    Returns
    -------
    int
        The exit code.
    """
    try:
        parsed = build_parser().parse_args(arguments)
    except SystemExit as stop:  # argparse leaves this way after --help and after a usage error
        return stop.code if isinstance(stop.code, int) else USAGE
    verbosity = -1 if getattr(parsed, "quiet", False) else getattr(parsed, "verbose", 0)
    with log_to_stderr(verbosity), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show_warning
        try:
            code = parsed.run(parsed)
            sys.stdout.flush()
        except BrokenPipeError:
            # the reader of our output has gone (`tiffref info x.tif | head`): end without a word,
            # and keep the interpreter from flushing into the closed pipe again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return INVALID
        except KeyboardInterrupt:
            report("interrupted")
            return INTERRUPTED
        except tuple(kind for kind, _ in EXIT_CODES) as error:
            report(name_options(describe(error), parsed.parser.options()))
            return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    return code


def describe(error: BaseException) -> str:
    """Format an error as one paragraph, without its class where the message stands alone."""
    if isinstance(error, OSError) and not isinstance(error, TiffrefError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__
