"""Where a document puts white space between its references.

Owns telling the layout of a text that holds one reference after the other, all spaced alike: ours,
with a line for each, what `json.dumps`, orjson and ujson give, what tifffile writes. What is found
at one reference is taken for all; whether they are so is seen when they are read (`lines`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Spacing", "Text", "find_spacing"]

_END_BYTES = 1 << 10
"""How much of either end is looked at for braces."""
_FIRST_BYTES = (1 << 20, 1 << 26)
"""Where the first byte range is looked for, first in less; metadata come before it."""


def _compile(pattern: str) -> re.Pattern[bytes]:
    """Compile a pattern in which "_" stands for the white space of JSON."""
    return re.compile(pattern.replace("_", r"[ \t\r\n]*").encode())


_ENDS = (
    (True, _compile(r'_\{_"version"_:_1_,_"refs"_:_\{(_)"'), _compile(r"_\}_\}_\Z")),
    (False, _compile(r'_\{(_)"'), _compile(r"_\}_\Z")),
)
"""Whether it is version 1, how a document then begins, and how it ends."""
_RANGE = _compile(r'"(_:_)(\[_)"(?:[^"\\]|\\.)+"(_,_)[0-9]+(_,_)[0-9]+(_\])(?:(_,_)")?')


class Text(Protocol):
    """The text of a document, in memory or in a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> bytes: ...

    def find(self, part: bytes, start: int, stop: int, /) -> int: ...

    def rfind(self, part: bytes, start: int, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Spacing:
    """The layout of a document.

    References lie from `start` to `stop` of the text, inside of "refs" if `is_wrapped` (version 1,
    else version 0). `separator` stands between two of them. A reference with a byte range is its
    key, `colon`, `opening`, the address, `commas[0]`, offset, `commas[1]`, length, `closing`.
    """

    is_wrapped: bool
    start: int
    stop: int
    separator: bytes
    colon: bytes
    opening: bytes
    commas: tuple[bytes, bytes]
    closing: bytes

    @property
    def is_range(self) -> bytes:
        """What is in the text only between a key and a byte range: quotes in texts are escaped."""
        return b'"' + self.colon + self.opening + b'"'

    @property
    def is_text(self) -> bytes:
        """What is in the text only between a key and a value that is text."""
        return b'"' + self.colon + b'"'


def find_spacing(text: Text) -> Spacing | None:
    """Tell the layout of a document by its ends and its first byte range; None without one."""
    head, foot = text[:_END_BYTES], text[max(0, len(text) - _END_BYTES) : len(text)]
    for is_wrapped, begins, ends in _ENDS:
        begin, end = begins.match(head), ends.search(foot)
        first = _find_first(text) if begin and end else None
        if begin is None or end is None or first is None:
            continue
        colon, opening, *commas, closing, separator = first.groups()
        return Spacing(
            is_wrapped,
            begin.end(1),
            len(text) - len(foot) + end.start(),
            separator or b"," + begin[1],  # none where no reference follows
            colon,
            opening,
            (commas[0], commas[1]),
            closing,
        )
    return None


def _find_first(text: Text) -> re.Match[bytes] | None:
    for n_bytes in _FIRST_BYTES:
        found = _RANGE.search(text[:n_bytes])
        if found is not None or n_bytes >= len(text):
            return found
    return None
