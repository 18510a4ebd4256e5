"""The argument parser of all commands, which says what is wrong where it is wrong.

Owns what argparse does not do: it leaves wrong options of a command to the program, whose usage
does not show what there is, and takes bounds in the west for options. It also spells hints for a
terminal: errors name arguments as Python has them.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .console import USAGE

__all__ = ["Parser", "print_help", "spell_options"]

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
        """Give the long options, as `--level`."""
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
