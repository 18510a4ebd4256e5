"""Chunk keys, parsed a column at a time.

Owns the way from the keys of a document to arrays and chunk indices: keys are joined to one text,
and NumPy finds in it where an array's path ends and which numbers follow. Only runs of keys with
the same path cost a step in Python, not keys.

Follows the Zarr v2 specification ("Chunks"; `dimension_separator`) and Zarr v3's chunk key
encodings "default" and "v2".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChunkIndex", "KeyRule", "parse_keys"]

_BLOCK_ROWS = 65_536
_SLASH, _ZERO = ord("/"), ord("0")
_MAX_DIGITS = 18
"""Digits of an index that still fits 63 bits."""


@dataclass(frozen=True, slots=True)
class KeyRule:
    """How an array's chunk keys are spelled after its path: `lead`, then indices with `separator`.

    `lead` is "c/" in Zarr v3, else empty; `scalar` the key of the chunk of an array without
    dimensions.
    """

    lead: str
    separator: str
    scalar: str


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """Chunks of one array: `rows` `(n,)` of the list of keys, `flat` `(n,)` index in C order."""

    rows: NDArray[np.intp]
    flat: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _KeyText:
    """Keys joined by NUL; `start` and `end` `(n,)` bound each in `codes`."""

    codes: NDArray[np.uint8]
    start: NDArray[np.intp]
    end: NDArray[np.intp]
    slash: NDArray[np.intp]


def parse_keys(
    keys: Sequence[str],
    grids: Mapping[str, tuple[int, ...]],
    rules: Mapping[str, KeyRule],
) -> tuple[dict[str, ChunkIndex], NDArray[np.intp]]:
    """Find the array and the chunk of every key.

    Parameters
    ----------
    keys
        Chunk keys, without NUL.
    grids
        Path of each array to its chunk grid.
    rules
        Path of each array to the spelling of its keys.

    Returns
    -------
    chunks, strays
        For each array its chunks; and the rows of `keys` that name a chunk of no array.
    """
    text = _join(keys)
    owner = _find_owners(text, len(keys), list(grids))
    is_stray = np.ones(len(keys), np.bool_)
    chunks: dict[str, ChunkIndex] = {}
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(grids) + 1))
    for row, (path, grid) in enumerate(grids.items()):
        rows = order[bounds[row] : bounds[row + 1]]
        start = text.start[rows] + (len(path.encode()) + 1 if path else 0)
        flat = _parse_chunks(text.codes, start, text.end[rows], grid, rules[path])
        is_chunk = flat >= 0
        chunks[path] = ChunkIndex(rows[is_chunk], flat[is_chunk])
        is_stray[rows[is_chunk]] = False
    return chunks, np.flatnonzero(is_stray)


def _join(keys: Sequence[str]) -> _KeyText:
    data = ("\0".join(keys) + "\0").encode("utf-8", "surrogatepass") if keys else b""
    codes = np.frombuffer(data, np.uint8)
    end = np.flatnonzero(codes == 0)
    start = np.concatenate([[0], end[:-1] + 1]) if keys else end
    return _KeyText(codes, start, end, np.flatnonzero(codes == _SLASH))


def _find_owners(text: _KeyText, n_keys: int, paths: Sequence[str]) -> NDArray[np.int32]:
    """Give for each key the row of the array whose path it begins with, or -1.

    Arrays do not lie in arrays, so that the deepest path that fits is the only one; the root comes
    last.
    """
    owner = np.full(n_keys, -1, np.int32)
    depth_of = [path.count("/") + 1 if path else 0 for path in paths]
    for depth in sorted(set(depth_of), reverse=True):
        table = {
            path.encode("utf-8", "surrogatepass"): row
            for row, path in enumerate(paths)
            if depth_of[row] == depth
        }
        free = np.flatnonzero(owner < 0)
        if depth == 0:
            owner[free] = table[b""]
            continue
        slash = np.searchsorted(text.slash, text.start[free]) + depth - 1
        has_depth = slash < len(text.slash)
        free, slash = free[has_depth], text.slash[slash[has_depth]]
        inside = slash < text.end[free]
        _claim(text, free[inside], slash[inside], table, owner)
    return owner


def _claim(
    text: _KeyText,
    rows: NDArray[np.intp],
    path_end: NDArray[np.intp],
    table: Mapping[bytes, int],
    owner: NDArray[np.int32],
) -> None:
    """Enter into `owner` whose keys these are, one look-up for each run of equal paths."""
    for first in range(0, len(rows), _BLOCK_ROWS):
        block = rows[first : first + _BLOCK_ROWS]
        start = text.start[block]
        length = path_end[first : first + _BLOCK_ROWS] - start
        matrix = _gather(text.codes, start, length)
        differs = (matrix[1:] != matrix[:-1]).any(axis=1)
        runs = np.concatenate([[0], np.flatnonzero(differs) + 1, [len(block)]])
        for begin, end in zip(runs[:-1].tolist(), runs[1:].tolist(), strict=True):
            path = matrix[begin, : length[begin]].tobytes()
            owner[block[begin:end]] = table.get(path, -1)


def _gather(
    codes: NDArray[np.uint8], start: NDArray[np.intp], length: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Give texts as the rows of a matrix, NUL to their right."""
    column = np.arange(int(length.max(initial=0)))
    matrix = codes.take(start[:, None] + column, mode="clip")
    matrix[column >= length[:, None]] = 0
    return matrix


def _parse_chunks(
    codes: NDArray[np.uint8],
    start: NDArray[np.intp],
    end: NDArray[np.intp],
    grid: tuple[int, ...],
    rule: KeyRule,
) -> NDArray[np.intp]:
    """Give the flat chunk index of keys of one array, -1 where there is no such chunk."""
    flat = np.full(len(start), -1, np.intp)
    lead = (rule.lead if grid else rule.scalar).encode()
    for first in range(0, len(start), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        length = end[block] - start[block]
        head = _gather(codes, start[block], np.minimum(length, len(lead)))
        is_led = length >= len(lead)
        if lead and head.shape[1] == len(lead):
            is_led &= (head == np.frombuffer(lead, np.uint8)).all(axis=1)
        if not grid:
            flat[block] = np.where(is_led & (length == len(lead)), 0, -1)
            continue
        led = np.flatnonzero(is_led)
        text = _gather(codes, start[block][led] + len(lead), length[led] - len(lead))
        flat[first + led] = _parse_indices(text, grid, ord(rule.separator))
    return flat


def _parse_indices(
    text: NDArray[np.uint8], grid: tuple[int, ...], separator: int
) -> NDArray[np.intp]:
    """Read "1.0.12" from the rows of a matrix and give flat indices, -1 for what is none."""
    n_rows, width = text.shape
    column = np.ascontiguousarray(text.T)
    every = np.arange(n_rows)
    numbers = np.zeros((len(grid) + 1, n_rows), np.int64)
    field = np.zeros(n_rows, np.intp)
    n_digits = np.zeros(n_rows, np.intp)
    is_good = np.full(n_rows, width > 0)
    is_zero = np.zeros(n_rows, np.bool_)
    for position in range(width):
        digit = column[position] - np.uint8(_ZERO)
        is_digit = digit < 10
        is_separator = column[position] == separator
        is_good &= is_digit | is_separator | (column[position] == 0)
        is_good &= ~(is_separator & (n_digits == 0))  # no number before it
        is_good &= ~(is_digit & is_zero)  # "01" is another key than "1"
        is_zero = is_digit & (digit == 0) & (n_digits == 0)
        number = numbers[field, every] * 10 + digit
        numbers[field[is_digit], every[is_digit]] = number[is_digit]
        n_digits = np.where(is_separator, 0, n_digits + is_digit)
        is_good &= n_digits <= _MAX_DIGITS
        field = np.minimum(field + is_separator, len(grid))
    is_good &= (field == len(grid) - 1) & (n_digits > 0)
    index = numbers[: len(grid)]
    is_good &= (index < np.array(grid)[:, None]).all(axis=0)
    flat = np.full(n_rows, -1, np.intp)
    if is_good.any():
        flat[is_good] = np.ravel_multi_index(tuple(index[:, is_good]), grid)
    return flat
