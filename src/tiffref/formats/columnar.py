"""Read reference documents with a regular layout in columns.

References with the same URL, numbers of digits and white space differ only in digits. Such are
those that we, `json.dumps`, ujson, orjson and tifffile write. Their lines are stacked as a matrix,
in which all other columns must equal those of the first line, so that nothing is guessed and no
chunk needs a Python object. All other documents are left to the general reader.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.manifest import INLINED, MISSING, Columns
from .load import FileText
from .zarr_metadata import ArrayMetadata

_END_BYTES = 1 << 10
"""Bytes at either end that are searched for braces."""
_FIRST_BYTES, _METADATA_BYTES = 1 << 20, 1 << 26
"""Bytes that are searched for the first byte range, which follows the metadata, then if need be."""


def _compile(pattern: str) -> re.Pattern[bytes]:
    """Compile a pattern in which "_" matches JSON white space."""
    return re.compile(pattern.replace("_", r"[ \t\r\n]*").encode())


_ENDS = (
    (True, _compile(r'_\{_"version"_:_1_,_"refs"_:_\{(_)"'), _compile(r"_\}_\}_\Z")),
    (False, _compile(r'_\{(_)"'), _compile(r"_\}_\Z")),
)
"""Whether it is version 1; the beginning and the end of such a document."""
_RANGE = _compile(r'"(_:_)(\[_)"(?:[^"\\]|\\.)+"(_,_)[0-9]+(_,_)[0-9]+(_\])(?:(_,_)")?')


class Irregular(ValueError):
    """The layout of a document is irregular; the general reader has to read it."""


Text = bytes | FileText
"""The text of a document, in memory or in a file."""


@dataclass(frozen=True, slots=True)
class Spacing:
    """The layout of a document.

    References are at `start` to `stop` of the text, inside "refs" if `is_wrapped` (version 1, else
    version 0), with `separator` between them. A byte range is its key, `colon`, `opening`, the URL,
    `commas[0]`, offset, `commas[1]`, length, `closing`.
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
        """Text that occurs only between a key and a byte range: quotes in strings are escaped."""
        return b'"' + self.colon + self.opening + b'"'

    @property
    def is_text(self) -> bytes:
        """Text that occurs only between a key and a string value."""
        return b'"' + self.colon + b'"'


def find_spacing(text: Text) -> Spacing:
    """Find the layout of a document by its ends and its first byte range.

    Raises
    ------
    Irregular
        If it is.
    """
    head, foot = text[:_END_BYTES], text[max(0, len(text) - _END_BYTES) : len(text)]
    for is_wrapped, begins, ends in _ENDS:
        begin, end = begins.match(head), ends.search(foot)
        if begin is None or end is None:
            continue
        first = _RANGE.search(text[:_FIRST_BYTES]) or _RANGE.search(text[:_METADATA_BYTES])
        if first is None:
            break
        colon, opening, *commas, closing, separator = first.groups()
        return Spacing(
            is_wrapped,
            begin.end(1),
            len(text) - len(foot) + end.start(),
            separator or b"," + begin[1],  # there is no separator if no reference follows
            colon,
            opening,
            (commas[0], commas[1]),
            closing,
        )
    raise Irregular("no such ends, or no byte range")


_Block = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Flat index, URL index, offset and length of some chunks."""

_BLOCK_BYTES = 1 << 20
"""Text per block: it and the derived arrays fit in the cache of a core."""
_MAX_LAYOUTS = 256
"""Layouts per block. A stack of small files has one per file; the general reader is then faster."""
_MAX_DIGITS = 18
"""Digits of a number that always fits 63 bits."""
_EXACT_DIGITS = 15
"""Digits of a number that float64 represents exactly."""
_QUOTE, _ZERO = ord('"'), ord("0")
_FIRST_KEY = re.compile(
    rb'"((?:(?:[^"\\\x00-\x1f]|\\/)*\\?/)?c\\?/(?=[0-9]+(?:\\?/[0-9]+)*\Z)'
    rb'|(?:(?:[^"\\\x00-\x1f]|\\/)*\\?/)?(?=[0-9]+(?:\.[0-9]+)*\Z))'
)
"""The key of a line up to its closing quote: the common beginning of the array's keys, and indices.

ujson writes "\\/" for "/".
"""


@dataclass(frozen=True, slots=True)
class Split:
    """A document in two parts: `document`, the parsed references with string values; and `runs`.

    Each run is a sequence of lines of `text` with byte ranges, whose keys have the same beginning:
    that beginning, and start and stop in the text.
    """

    text: Text
    document: Mapping[str, Any]
    runs: list[tuple[bytes, int, int]]
    spacing: Spacing


def split_document(text: Text) -> Split:
    """Split the text of a document.

    Raises
    ------
    ValueError, RecursionError
        If its layout is irregular.
    """
    spacing = find_spacing(text)
    separator, stop = spacing.separator, spacing.stop
    runs: list[tuple[bytes, int, int]] = []
    metadata: list[bytes] = []
    position = spacing.start
    while position < stop:
        next_range = text.find(spacing.is_range, position, stop)
        if next_range < 0:
            metadata.append(text[position:stop])
            break
        mark = text.rfind(separator + b'"', position, next_range)
        start = position if mark < 0 else mark + len(separator)
        first = _FIRST_KEY.match(text[start:next_range])
        if first is None:
            raise Irregular("a key")
        metadata.append(text[position:start])
        position = _find_end(text, spacing, first[1], start)
        if position <= start:
            raise Irregular("text between byte ranges")
        runs.append((first[1], start, position))
    else:  # the document ends with a run, so the text before it ends with a separator
        metadata = [b"".join(metadata).removesuffix(separator)]
    refs = json.loads(b"{" + b"".join(metadata) + b"}", object_pairs_hook=_unique)
    if not runs or not all(isinstance(value, str) for value in refs.values()):
        raise Irregular("other values")
    document = {"version": 1, "refs": refs} if spacing.is_wrapped else refs
    return Split(text, document, runs, spacing)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Irregular("a key occurs twice")
    return members


def _find_end(text: Text, spacing: Spacing, prefix: bytes, start: int) -> int:
    """Return the end of the lines whose keys begin with `prefix`, or the first with a string."""
    separator, stop = spacing.separator, spacing.stop
    mark = text.rfind(separator + b'"' + prefix, start, stop)
    last = start if mark < 0 else mark + len(separator)
    next_mark = text.find(spacing.closing + separator + b'"', last, stop)
    end = stop if next_mark < 0 else next_mark + len(spacing.closing + separator)
    if text.find(spacing.is_text, last, end) < 0:
        return end
    first = text.find(spacing.is_text, start, end)
    mark = text.rfind(separator + b'"', start, first)
    return start if mark < 0 else mark + len(separator)


def parse_lines(
    split: Split, arrays: Mapping[str, ArrayMetadata], inlined: Mapping[str, NDArray[np.integer]]
) -> tuple[list[str], dict[str, Columns]]:
    """Parse all runs of a document.

    Parameters
    ----------
    split
        The document.
    arrays
        Its arrays by path.
    inlined
        Flat indices of inlined chunks, by path.

    Returns
    -------
    urls, columns
        URLs, and the columns of whole arrays by path, in which `source` is a row of `urls`.

    Raises
    ------
    Irregular
        If a run is.
    """
    owners: dict[str | None, str] = {
        array.rule.below(path).lead: path for path, array in arrays.items() if array.grid
    }
    urls: dict[str, int] = {}
    columns: dict[str, Columns] = {}
    for prefix, start, stop in split.runs:
        path = owners.get(json.loads(f'"{prefix.decode()}"'))
        if path is None or path in columns:
            raise Irregular(prefix)
        grid = arrays[path].grid
        columns[path] = missing_columns(math.prod(grid))
        columns[path].source[inlined[path]] = INLINED
        pattern = _compile_line(prefix, arrays[path], split.spacing)
        for block in _iter_blocks(split.text, start, stop, split.spacing):
            chunks = _parse_block(block, pattern, grid, split.spacing, urls)
            _store_chunks(columns[path], chunks)
    return list(urls), columns


def missing_columns(n_chunks: int) -> Columns:
    """Return columns in which all chunks are missing."""
    offset, length = np.zeros((2, n_chunks), np.uint64)
    return Columns(np.full(n_chunks, MISSING, np.int32), offset, length, {})


def _store_chunks(columns: Columns, block: _Block) -> None:
    flat, source, offset, length = block
    is_ascending = bool((np.diff(flat) > 0).all())
    is_unique = is_ascending or len(np.unique(flat)) == len(flat)
    if not is_unique or (columns.source[flat] != MISSING).any():
        raise Irregular("a chunk occurs twice")
    columns.source[flat], columns.offset[flat], columns.length[flat] = source, offset, length


def _iter_blocks(text: Text, start: int, stop: int, spacing: Spacing) -> Iterator[bytes]:
    """Yield blocks of whole lines, each with its separator, even the last of the document."""
    mark = spacing.closing + spacing.separator + b'"'
    while start < stop:
        is_last = start + _BLOCK_BYTES >= stop
        cut = -1 if is_last else text.rfind(mark, start, start + _BLOCK_BYTES)
        end = stop if cut < 0 else cut + len(mark) - 1
        yield text[start:end] + (spacing.separator if end == spacing.stop else b"")
        start = end


def _parse_block(
    block: bytes,
    pattern: re.Pattern[bytes],
    grid: tuple[int, ...],
    spacing: Spacing,
    url_rows: dict[str, int],
) -> _Block:
    """Parse one block, and add new URLs to `url_rows`."""
    codes = np.frombuffer(block, np.uint8)
    ends = _find_ends(codes, spacing.closing + spacing.separator)
    if not len(ends) or ends[-1] != len(codes):
        raise Irregular("text between byte ranges")
    starts = np.concatenate([[0], ends[:-1]])
    n_codes = ends - starts
    source = np.empty(len(starts), np.int32)
    numbers = np.empty((len(grid) + 2, len(starts)), np.int64)
    begins: dict[str, int] = {}
    urls: dict[str, int] = {}
    n_layouts = 0
    for width in np.flatnonzero(np.bincount(n_codes)).tolist():
        rest = np.flatnonzero(n_codes == width)
        while len(rest):
            first = int(starts[rest[0]])
            line = block[first : first + width]
            url, spans = _read_layout(pattern, line)
            n_layouts += 1
            if n_layouts > _MAX_LAYOUTS:
                raise Irregular("too many layouts")
            windows = np.ndarray((len(codes) - width + 1,), f"V{width}", codes, 0, (1,))
            lines = windows[starts[rest]].view(np.uint8).reshape(-1, width)
            is_same, digits = _match(np.frombuffer(line, np.uint8), spans, lines)
            rows, rest = rest[is_same], rest[~is_same]
            source[rows] = urls.setdefault(url, len(urls))
            begins[url] = min(int(rows[0]), begins.get(url, len(starts)))
            for column, span in zip(numbers, spans, strict=True):
                column[rows] = _parse_digits(digits[:, slice(*span)])
    *index, offset, length = numbers
    if any(i.max() >= n for i, n in zip(index, grid, strict=True)) or not length.all():
        raise Irregular("a chunk outside of the grid, or without bytes")
    for url in sorted(begins, key=begins.__getitem__):
        url_rows.setdefault(url, len(url_rows))
    source = np.array([url_rows[url] for url in urls], np.int32)[source]
    return np.ravel_multi_index(tuple(index), grid), source, offset, length


def _find_ends(codes: NDArray[np.uint8], mark: bytes) -> NDArray[np.intp]:
    """Return the end of each line: after `mark`, if a quote or nothing follows.

    A URL may end with the mark and a quote. The remainder is then not a valid line, which is
    noticed when it is parsed.
    """
    ends = np.flatnonzero(codes[: len(codes) - len(mark) + 1] == mark[0]) + len(mark)
    for position, code in enumerate(mark[1:], start=1):
        ends = ends[codes[ends - len(mark) + position] == code]
    is_last = ends == len(codes)
    return ends[is_last | (codes[np.minimum(ends, len(codes) - 1)] == _QUOTE)]


# ---- lines of the same layout


def _compile_line(prefix: bytes, array: ArrayMetadata, spacing: Spacing) -> re.Pattern[bytes]:
    separator = re.escape(array.rule.separator.encode())
    if b"\\/" in prefix:
        separator = separator.replace(b"/", rb"\\/")
    index = separator.join([rb"([0-9]+)"] * len(array.grid))
    quoted = rb'("(?:[^"\\]|\\.)+")'
    parts = [
        *(b'"' + prefix, index, b'"' + spacing.colon + spacing.opening, quoted),
        *(spacing.commas[0], rb"([0-9]+)", spacing.commas[1], rb"([0-9]+)"),
        spacing.closing + spacing.separator,
    ]
    return re.compile(b"".join(part if n % 2 else re.escape(part) for n, part in enumerate(parts)))


def _read_layout(pattern: re.Pattern[bytes], line: bytes) -> tuple[str, list[tuple[int, int]]]:
    """Return the URL of a line, and where its numbers are."""
    match = pattern.fullmatch(line)
    if match is None:
        raise Irregular(line)
    *index, url, offset, length = range(1, len(match.groups()) + 1)
    numbers = [match.span(group) for group in (*index, offset, length)]
    address = json.loads(match[url].decode())
    if "{" in address or max(stop - start for start, stop in numbers) > _MAX_DIGITS:
        raise Irregular(line)
    return address, numbers


def _match(
    first: NDArray[np.uint8], spans: list[tuple[int, int]], lines: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Return a mask of the lines that differ from the first only in digits, and their values."""
    low, span = first.copy(), np.zeros_like(first)
    for start, stop in spans:
        low[start:stop], span[start:stop] = _ZERO, 9
    digits = lines - low
    fits = digits <= span
    is_same: Any = np.ones(len(lines), np.bool_)
    if not fits.all():
        is_same = fits.all(axis=1)
        digits = digits[is_same]
    leading = [start for start, stop in spans if stop - start > 1]
    if not digits[:, leading].all():
        raise Irregular("a number with leading zeros")
    return is_same, digits


def _parse_digits(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return numbers from the values of their digits, `(n, k)`."""
    low, high = digits[:, -_EXACT_DIGITS:], digits[:, :-_EXACT_DIGITS]
    # as floats, because NumPy uses BLAS only for matrix products of floats
    value = (low @ 10.0 ** np.arange(low.shape[1])[::-1]).astype(np.int64)
    return value + _parse_digits(high) * 10**_EXACT_DIGITS if high.shape[1] else value
