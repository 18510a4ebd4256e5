"""`tiffref completion`: a script by which a shell completes commands and options.

Owns the scripts of bash, zsh and fish, which are made from the parser and know nothing of files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from . import console

__all__ = ["COMPLETION_EXAMPLES", "COMPLETION_HELP", "add_completion_arguments", "run_completion"]

COMPLETION_HELP = "print a script that lets a shell complete commands and options"
COMPLETION_EXAMPLES = """\
  source <(tiffref completion bash)
  tiffref completion zsh >> ~/.zshrc
  tiffref completion fish > ~/.config/fish/completions/tiffref.fish"""

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


def add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("shell", choices=tuple(_SHELLS), metavar="SHELL", help="bash, zsh or fish")


def run_completion(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from . import build_parser

    print(_SHELLS[arguments.shell](_list_options(build_parser())), end="")
    return console.OK


def _list_options(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Return the options of each command, those of its actions among them."""
    found = {}
    for name, command in _subparsers(parser).items():
        parts = [command, *_subparsers(command).values()]
        options = {o for part in parts for action in part._actions for o in action.option_strings}
        found[name] = sorted(option for option in options if option.startswith("--"))
        found[name] += sorted(_subparsers(command))
    return found


def _subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    groups = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return groups[0].choices if groups else {}


def _bash(options: Mapping[str, list[str]]) -> str:
    cases = "\n".join(f'    {name}) options="{" ".join(o)}" ;;' for name, o in options.items())
    return _BASH.format(cases=cases, commands=" ".join(options))


def _zsh(options: Mapping[str, list[str]]) -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash(options)}"


def _fish(options: Mapping[str, list[str]]) -> str:
    lines = [f"complete -c tiffref -n __fish_use_subcommand -a '{' '.join(options)}'"]
    for name, found in options.items():
        where = f"complete -c tiffref -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{where} -l {o[2:]}" if o[:2] == "--" else f"{where} -a {o}" for o in found]
    return "\n".join(lines) + "\n"


_SHELLS: Mapping[str, Callable[[Mapping[str, list[str]]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
