"""The command line: `tiffref COMMAND ...`.

Contains the table of commands, the exit codes, and the display of errors and warnings. Commands are
in the other modules, and import what they need when they run, so that `--help` and completion stay
fast.

Exit codes: 0 done; 1 the input is invalid or unsupported, or only part of the work was done; 2
usage error; 3 something could not be read or written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence

from ..errors import MissingExtra, SelectionError, SourceError, TiffrefError
from . import catalog_commands, commands, console, document_commands

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (console.UsageError, console.USAGE),
    (SelectionError, console.USAGE),
    (MissingExtra, console.USAGE),
    (SourceError, console.ACCESS),
    (TiffrefError, console.INVALID),
    (OSError, console.ACCESS),
)
"""Exit code by class of error; the first match counts."""


class _Version(argparse.Action):
    """Print the version; looking it up takes longer than all of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"tiffref {version('tiffref')}")
        parser.exit()


def build_parser() -> console.Parser:
    """Build the parser of all commands."""
    parser = console.Parser(
        prog="tiffref",
        description="Make TIFF files readable as Zarr without copying a byte.",
        epilog="Exit codes: 0 done, 1 invalid or partial, 2 usage, 3 reading or writing failed.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    console.Command("", actions=COMMANDS).add_to(parser, "COMMAND")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Arguments after the program's name; by default, those of this process.

    Returns
    -------
    int
        The exit code.
    """
    try:
        parsed = build_parser().parse_args(arguments)
    except SystemExit as stop:  # argparse exits after --help and after a usage error
        return stop.code if isinstance(stop.code, int) else console.USAGE
    verbosity = -1 if getattr(parsed, "quiet", False) else getattr(parsed, "verbose", 0)
    options = parsed.parser.options()
    with console.log_to_stderr(verbosity), warnings.catch_warnings():
        warnings.simplefilter("default")
        # without the line of code, which does not help users
        warnings.showwarning = lambda message, *_, **__: console.report(
            console.name_options(str(message), options), "warning"
        )
        try:
            code = parsed.run(parsed)
        except BrokenPipeError:
            return console.INVALID  # the reader closed the pipe (`tiffref info x.tif | head`)
        except KeyboardInterrupt:
            console.report("interrupted")
            return console.INTERRUPTED
        except tuple(kind for kind, _ in EXIT_CODES) as error:
            console.report(console.name_options(describe(error), options))
            return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    return code


def describe(error: BaseException) -> str:
    """Return the message of an error; the name of its class only if there is no message."""
    if isinstance(error, OSError) and not isinstance(error, TiffrefError) and error.strerror:
        # errors of files are a SourceError: what has no name was printed
        return f"{error.filename or 'standard output'}: {error.strerror}"
    return str(error) or type(error).__name__


_BASH = """\
_tiffref() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} options
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _tiffref tiffref
"""


def _completion(arguments: argparse.Namespace) -> int:
    print(_SHELLS[arguments.shell](_list_options()), end="")
    return console.OK


def _list_options() -> dict[str, list[str]]:
    """Return the options of each command, including those of its actions."""
    words = {}
    for name, command in COMMANDS.items():
        options: set[str] = set()
        for part in (command, *command.actions.values()):
            part.add_to(parser := console.Parser())
            options |= {*parser.options()}
        words[name] = [*sorted(options), *sorted(command.actions)]
    return words


def _bash(options: Mapping[str, list[str]]) -> str:
    cases = "\n".join(f'    {name}) options="{" ".join(o)}" ;;' for name, o in options.items())
    return _BASH.format(cases=cases, commands=" ".join(options))


def _fish(options: Mapping[str, list[str]]) -> str:
    lines = [f"complete -c tiffref -n __fish_use_subcommand -a '{' '.join(options)}'"]
    for name, words in options.items():
        rule = f"complete -c tiffref -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{rule} -l {o[2:]}" if o[:2] == "--" else f"{rule} -a {o}" for o in words]
    return "\n".join(lines) + "\n"


_SHELLS: Mapping[str, Callable[[Mapping[str, list[str]]], str]] = {
    "bash": _bash,
    "zsh": lambda options: f"autoload -U +X bashcompinit && bashcompinit\n{_bash(options)}",
    "fish": _fish,
}


COMMANDS: Mapping[str, console.Command] = {
    "info": document_commands.COMMANDS["info"],  # first in the help
    **commands.COMMANDS,
    **catalog_commands.COMMANDS,
    **document_commands.COMMANDS,
    "completion": console.Command(
        "print a script that lets a shell complete commands and options",
        """\
  source <(tiffref completion bash)
  tiffref completion zsh >> ~/.zshrc
  tiffref completion fish > ~/.config/fish/completions/tiffref.fish""",
        {"shell": {"choices": tuple(_SHELLS), "metavar": "SHELL", "help": "bash, zsh or fish"}},
        _completion,
    ),
}
