"""Documents as we write them, read a block of lines at a time.

Owns the shortest way from the text of a reference document to columns. `kerchunk` writes one
reference on each line, so that lines of equal layout (the same address, numbers of as many digits)
differ in digits alone: they are put under one another as a matrix, in which all other columns must
equal those of the first line. Nothing is guessed, and no chunk costs a Python object. A document
that differs in anything is left to the general reader.

Follows the layout of `kerchunk.write_json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .assemble import ChunkColumns
from .documents import join_key
from .metadata import ArrayMetadata

__all__ = ["Lines", "Split", "parse_lines", "split_document"]

_Block = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Flat index, row of addresses, offset and length of some chunks."""

_HEAD = b'{"version":1,"refs":{\n'
_FOOT = b"\n}}\n"
_BLOCK_BYTES = 1 << 20
"""Text handled at once: it and what is made of it stay in the cache of a core."""
_MAX_LAYOUTS = 256
"""Layouts in one block. A stack of small files has one for each, and the general reader is faster.
"""
_MAX_DIGITS = 18
"""Digits of a number that fits 63 bits in any case."""
_EXACT_DIGITS = 15
"""Digits of a number that a float64 holds exactly."""
_NEWLINE, _ZERO = ord("\n"), ord("0")
_IS_TEXT = b'":"'
_IS_RANGE = b'":["'
_FIRST_KEY = re.compile(
    rb'"((?:[^"\\]*/)?c/(?=[0-9]+(?:/[0-9]+)*\Z)|(?:[^"\\]*/)?(?=[0-9]+(?:\.[0-9]+)*\Z))'
)
"""The key of a line up to its closing quote: what all keys of the array begin with, and indices."""


@dataclass(frozen=True, slots=True)
class Split:
    """A document in two parts: `document`, all lines whose value is text, parsed; and `runs`.

    Each run is a stretch of lines whose keys begin alike, with byte ranges as values: what they
    begin with, and where they start and stop in the text.
    """

    document: Mapping[str, Any]
    runs: list[tuple[bytes, int, int]]


@dataclass(frozen=True, slots=True)
class Lines:
    """Byte ranges of chunks by the path of their array; `source` is a row of `urls`."""

    urls: dict[str, int] = field(default_factory=dict)
    chunks: dict[str, ChunkColumns] = field(default_factory=dict)


def split_document(text: bytes) -> Split | None:
    """Split the text of a document; None if it is not laid out as we write it."""
    if not text.startswith(_HEAD) or not text.endswith(_FOOT):
        return None
    stop = len(text) - len(_FOOT) + 1  # with the end of the last line, which has no comma
    if text.endswith(b",\n", 0, stop):
        return None
    runs: list[tuple[bytes, int, int]] = []
    kept: list[bytes] = []
    at = len(_HEAD)
    while at < stop:
        next_range = text.find(_IS_RANGE, at, stop)
        start = stop if next_range < 0 else text.rfind(b"\n", at - 1, next_range) + 1
        kept.append(text[at:start])
        if start == stop:
            break
        if not text.endswith(b",\n", 0, start) and start != len(_HEAD):
            return None
        first = _FIRST_KEY.match(text[start:next_range])
        if first is None:
            return None
        prefix = first[1]
        at = _find_end(text, prefix, start, stop)
        if not text.endswith(b",\n", start, at) and at != stop:
            return None
        runs.append((prefix, start, at))
    lines = b"".join(kept).removesuffix(b"\n").removesuffix(b",")
    try:
        refs = json.loads(b"{" + lines + b"}")
    except (ValueError, RecursionError):
        return None
    is_plain = all(isinstance(value, str) for value in refs.values())
    # a key that is there twice is the general reader's business
    is_single = len(refs) == lines.count(b"\n") + bool(lines)
    return Split({"version": 1, "refs": refs}, runs) if is_plain and is_single and runs else None


def _find_end(text: bytes, prefix: bytes, start: int, stop: int) -> int:
    """Give where the lines end whose keys begin with `prefix`, or sooner, at one that has text."""
    last = max(start, text.rfind(b'\n"' + prefix, start, stop) + 1)
    end = text.find(b"\n", last, stop) + 1
    if text.find(_IS_TEXT, last, end) < 0:
        return end
    first = text.find(_IS_TEXT, start, end)  # of the lines with text, which come last
    return text.rfind(b"\n", start, first) + 1


def parse_lines(
    text: bytes,
    split: Split,
    arrays: Mapping[str, ArrayMetadata],
    taken: Mapping[str, NDArray[np.integer]],
) -> Lines | None:
    """Read all runs of a document; None if one is not what it should be.

    Parameters
    ----------
    text, split
        The document.
    arrays
        Its arrays by path.
    taken
        Flat indices of chunks that lines with text name, by path.
    """
    owners = {_spell_prefix(path, array): path for path, array in arrays.items() if array.grid}
    lines = Lines()
    blocks: dict[str, list[_Block]] = {}
    for prefix, start, stop in split.runs:
        path = owners.get(prefix)
        if path is None:
            return None
        for block in _iter_blocks(text, start, stop):
            found = _parse_block(block, prefix, arrays[path], lines.urls)
            if found is None:
                return None
            blocks.setdefault(path, []).append(found)
    for path, parts in blocks.items():
        flat, source, offset, length = (np.concatenate(c) for c in zip(*parts, strict=True))
        if not _is_distinct(flat, taken[path]):
            return None
        columns = source, offset.astype(np.uint64), length.astype(np.uint64)
        lines.chunks[path] = ChunkColumns(flat, *columns, {})
    return lines


def _is_distinct(flat: NDArray[np.integer], taken: NDArray[np.integer]) -> bool:
    """Tell whether every chunk is named once."""
    if len(taken) or (np.diff(flat) <= 0).any():
        return len(np.unique(np.concatenate([flat, taken]))) == len(flat) + len(taken)
    return True


def _spell_prefix(path: str, array: ArrayMetadata) -> bytes:
    return json.dumps(join_key(path, array.rule.lead))[1:-1].encode()


def _iter_blocks(text: bytes, start: int, stop: int) -> Iterator[bytes]:
    """Give whole lines, each with its comma, also where it is the last line of the document."""
    while start < stop:
        end = stop
        if stop - start > _BLOCK_BYTES:
            end = text.rfind(b"\n", start, start + _BLOCK_BYTES) + 1 or stop
        block = text[start:end]
        yield block if block.endswith(b",\n") else block[:-1] + b",\n"
        start = end


def _parse_block(
    block: bytes, prefix: bytes, array: ArrayMetadata, places: dict[str, int]
) -> _Block | None:
    """Read one block; new addresses are entered into `places`. None if it is anything else."""
    codes = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(codes == _NEWLINE) + 1
    starts = np.concatenate([[0], ends[:-1]])
    n_codes = ends - starts
    pattern = _compile_line(prefix, array)
    source = np.empty(len(starts), np.int32)
    numbers = np.empty((len(array.grid) + 2, len(starts)), np.int64)
    n_layouts = 0
    for width in np.flatnonzero(np.bincount(n_codes)).tolist():
        rest = np.flatnonzero(n_codes == width)
        while len(rest):
            first = int(starts[rest[0]])
            layout = _read_layout(pattern, block[first : first + width])
            n_layouts += 1
            if layout is None or n_layouts > _MAX_LAYOUTS:
                return None
            is_same, digits = _match(layout, _gather(codes, starts[rest], width))
            if digits is None:
                return None
            rows, rest = rest[is_same], rest[~is_same]
            source[rows] = places.setdefault(layout.url, len(places))
            for column, span in zip(numbers, layout.numbers, strict=True):
                column[rows] = _parse_digits(digits[:, slice(*span)])
    *index, offset, length = numbers
    if any(i.max() >= n for i, n in zip(index, array.grid, strict=True)) or not length.all():
        return None
    return np.ravel_multi_index(tuple(index), array.grid), source, offset, length


# ---- lines of equal layout


@dataclass(frozen=True, slots=True)
class _Layout:
    """What lines share with the one that `codes` are of, digits at `numbers` aside."""

    codes: NDArray[np.uint8]
    url: str
    numbers: list[tuple[int, int]]


def _compile_line(prefix: bytes, array: ArrayMetadata) -> re.Pattern[bytes]:
    separator = re.escape(array.rule.separator.encode())
    index = separator.join([rb"([0-9]+)"] * len(array.grid))
    return re.compile(
        rb'"' + re.escape(prefix) + index + rb'":\[("(?:[^"\\]|\\.)+"),([0-9]+),([0-9]+)\],\n'
    )


def _read_layout(pattern: re.Pattern[bytes], line: bytes) -> _Layout | None:
    """Read the layout of a line; None if it is no reference, or one with a template."""
    match = pattern.fullmatch(line)
    if match is None:
        return None
    *index, url, offset, length = range(1, len(match.groups()) + 1)
    numbers = [match.span(group) for group in (*index, offset, length)]
    try:
        address = json.loads(match[url])
    except ValueError:
        return None
    if "{" in address or max(stop - start for start, stop in numbers) > _MAX_DIGITS:
        return None
    return _Layout(np.frombuffer(line, np.uint8), address, numbers)


def _match(
    layout: _Layout, lines: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], NDArray[np.uint8] | None]:
    """Find the lines of a layout.

    Returns
    -------
    is_same, digits
        Which of `lines` they are; and of these, the values of digits in the columns of numbers.
        None if a number has leading zeros.
    """
    least, most = layout.codes.copy(), np.zeros_like(layout.codes)
    for start, stop in layout.numbers:
        least[start:stop], most[start:stop] = _ZERO, 9
    digits = lines - least
    fits = digits <= most
    is_same = np.ones(len(lines), np.bool_)
    if not fits.all():
        is_same = fits.all(axis=1)
        digits = digits[is_same]
    leading = [start for start, stop in layout.numbers if stop - start > 1]
    return is_same, (digits if digits[:, leading].all() else None)


def _gather(codes: NDArray[np.uint8], starts: NDArray[np.intp], width: int) -> NDArray[np.uint8]:
    """Give the `width` codes from each of `starts` on as rows."""
    windows = np.ndarray((len(codes) - width + 1,), f"V{width}", codes, 0, (1,))
    return windows[starts].view(np.uint8).reshape(-1, width)


def _parse_digits(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Give numbers from the values of their digits, `(n, k)`."""
    low, high = digits[:, -_EXACT_DIGITS:], digits[:, :-_EXACT_DIGITS]
    # products of floats are the only ones of matrices that NumPy hands to BLAS
    value = (low @ 10.0 ** np.arange(low.shape[1])[::-1]).astype(np.int64)
    return value + _parse_digits(high) * 10**_EXACT_DIGITS if high.shape[1] else value
