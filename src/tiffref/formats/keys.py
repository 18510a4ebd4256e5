"""Write and parse chunk keys, singly and in columns.

`KeyRule` writes the keys of an array's chunks; `parse_key` and `parse_keys` find the array and the
chunk of keys. Columns of keys are written as `(n, width)` matrices of ASCII codes, in which NUL is
padding (it never occurs in JSON: RFC 8259, section 7). To be parsed, the keys of an array are
joined to one text, which one regular expression checks and NumPy reads.

Follows the Zarr v2 specification ("Chunks"; `dimension_separator`) and Zarr v3's chunk key
encodings "default" and "v2".
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_ROWS = 65_536
"""Chunks per block: enough to amortize NumPy's cost per call, and about 10 MB of text."""

FEW_ROWS = 192
"""Rows up to which Python's own formatting is faster than NumPy's cost per call."""

_INDEX = "(?:0|[1-9][0-9]{0,17})"
"""An index: "01" is a different key than "1", and 18 digits fit 63 bits."""
_IS_INDEX = re.compile(_INDEX).fullmatch


def join_key(path: str, name: str) -> str:
    """Return the key of a name below the node at `path`; the path of the root is ""."""
    return f"{path}/{name}" if path else name


@dataclass(frozen=True, slots=True)
class KeyRule:
    """The format of an array's chunk keys: `lead`, then indices joined by `separator`.

    `lead` is "c/" in Zarr v3, else empty; `below` adds the array's path. `scalar` is the key of the
    only chunk of an array without dimensions.
    """

    lead: str
    separator: str
    scalar: str

    @classmethod
    def written(cls, path: str, zarr_format: int) -> KeyRule:
        """Return the rule for documents that we write: "image/0.0" in v2, "image/c/0/0" in v3."""
        return _WRITTEN_RULES[zarr_format].below(path)

    def below(self, path: str) -> KeyRule:
        """Return the rule with the path of the array in front."""
        return KeyRule(join_key(path, self.lead), self.separator, join_key(path, self.scalar))

    def all_keys(self, grid: tuple[int, ...]) -> list[str]:
        """Return the keys of all chunks of a grid of at most `FEW_ROWS`, in C order."""
        return _all_keys(self.lead, grid, self.separator) if grid else [self.scalar]

    def keys(self, grid: tuple[int, ...], flat: NDArray[np.integer]) -> list[str]:
        """Return the keys of chunks by their indices in C order.

        >>> KeyRule.written("image", 3).keys((2, 3), np.array([4]))
        ['image/c/1/1']
        """
        if math.prod(grid) <= FEW_ROWS:
            keys = self.all_keys(grid)
            return [keys[number] for number in flat.tolist()]
        text = join_columns(len(flat), [*self.columns(grid, flat), b"\n"])
        return text.decode().split("\n")[:-1]

    def columns(
        self, grid: tuple[int, ...], flat: NDArray[np.integer]
    ) -> list[bytes | NDArray[np.uint8]]:
        """Return columns of UTF-8 text that `join_columns` joins to the keys of chunks.

        Parameters
        ----------
        grid
            Chunks along each dimension.
        flat
            `(n,)` flat chunk indices in C order.
        """
        if not grid:
            return [self.scalar.encode()]
        columns: list[bytes | NDArray[np.uint8]] = [self.lead.encode()]
        for index in np.unravel_index(flat, grid):
            columns += [format_numbers(index), self.separator.encode()]
        return columns[:-1]


@functools.lru_cache(maxsize=512)
def _all_keys(lead: str, grid: tuple[int, ...], separator: str) -> list[str]:
    indices = itertools.product(*(map(str, range(n_chunks)) for n_chunks in grid))
    return [lead + separator.join(index) for index in indices]


_WRITTEN_RULES = {2: KeyRule("", ".", "0"), 3: KeyRule("c/", "/", "c")}
_WRITTEN_KEYS = {
    2: re.compile(r"(?:(.*)/)?([^/]*)", re.DOTALL),
    # the last part "c": the path of an array may contain one too
    3: re.compile(r"(?:(.*)/)?c(?:/(.*))?", re.DOTALL),
}
"""Zarr format -> keys of chunks: path of the array, and indices."""


def parse_key(
    key: str, grids: Mapping[str, tuple[int, ...]], zarr_format: int
) -> tuple[str, int] | None:
    """Find the array and the chunk of one key, in the format of `KeyRule.written`.

    Parameters
    ----------
    key
        A key of a store.
    grids
        Path of each array -> its chunk grid.
    zarr_format
        2 or 3.

    Returns
    -------
    path, flat
        Path of the array, and index of the chunk in C order; None if there is no such chunk.
    """
    rule, match = _WRITTEN_RULES[zarr_format], _WRITTEN_KEYS[zarr_format].fullmatch(key)
    path = match[1] or "" if match else ""
    grid = grids.get(path)
    if match is None or grid is None:
        return None
    if not grid:
        return (path, 0) if key == rule.below(path).scalar else None
    texts = (match[2] or "").split(rule.separator)
    if len(texts) != len(grid) or not all(map(_IS_INDEX, texts)):
        return None
    flat = 0
    for index, n_chunks in zip(map(int, texts), grid, strict=True):
        if index >= n_chunks:
            return None
        flat = flat * n_chunks + index
    return path, flat


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """Chunks of one array: `rows` `(n,)` in the list of keys, `flat` `(n,)` indices in C order."""

    rows: NDArray[np.intp]
    flat: NDArray[np.intp]


def parse_keys(
    keys: Sequence[str], grids: Mapping[str, tuple[int, ...]], rules: Mapping[str, KeyRule]
) -> tuple[dict[str, ChunkIndex], NDArray[np.intp]]:
    """Find the array and the chunk of every key.

    Parameters
    ----------
    keys
        Chunk keys, without NUL.
    grids
        Path of each array -> its chunk grid; no array is inside another one.
    rules
        Path of each array -> the format of its keys.

    Returns
    -------
    chunks, strays
        Path of each array -> its chunks; and the rows of `keys` that are no chunk of any array.
    """
    members: dict[str, list[int]] = {path: [] for path in grids}
    strays: list[int] = []
    depth = max((path.count("/") + 1 for path in grids), default=0)
    prefix, own = "/", strays  # no key begins with "/"
    for row, key in enumerate(keys):
        if not key.startswith(prefix):
            outer = itertools.accumulate(key.split("/", depth)[:-1], join_key)
            path = next((name for name in outer if name in members), "")
            prefix, own = f"{path}/", members.get(path, strays)
        own.append(row)
    chunks = {}
    is_stray = np.ones(len(keys), np.bool_)
    for path, rows in members.items():
        n_codes = len(join_key(path, ""))
        flat = _parse_indices([keys[row][n_codes:] for row in rows], grids[path], rules[path])
        chunks[path] = ChunkIndex(np.array(rows, np.intp)[flat >= 0], flat[flat >= 0])
        is_stray[chunks[path].rows] = False
    return chunks, np.flatnonzero(is_stray)


def _parse_indices(texts: Sequence[str], grid: tuple[int, ...], rule: KeyRule) -> NDArray[np.intp]:
    """Return the flat chunk indices of keys of one array, without its path; -1 if invalid."""
    if not grid:
        return np.array([0 if text == rule.scalar else -1 for text in texts], np.intp)
    flat = np.full(len(texts), -1, np.intp)
    index = re.escape(rule.separator).join([_INDEX] * len(grid))
    pattern = f"(?:\0{re.escape(rule.lead)}{index})"
    joined = "\0".join(["", *texts])
    if not re.fullmatch(f"{pattern}*+", joined):
        is_good = [re.fullmatch(pattern, f"\0{text}") is not None for text in texts]
        flat[is_good] = _parse_indices(list(itertools.compress(texts, is_good)), grid, rule)
    elif texts:
        numbers = joined.replace(f"\0{rule.lead}", rule.separator)[1:]
        indices = np.fromstring(numbers, np.int64, sep=rule.separator).reshape(-1, len(grid)).T
        is_inside = (indices < np.array(grid)[:, None]).all(axis=0)
        flat[is_inside] = np.ravel_multi_index(tuple(indices[:, is_inside]), grid)
    return flat


_GROUP = 10_000
"""Numbers are written in groups of four digits, with one table lookup per group."""


def _digit_table() -> NDArray[np.uint32]:
    numbers = np.arange(_GROUP)[:, None]
    powers = np.array([1000, 100, 10, 1])
    digits = (numbers // powers % 10 + ord("0")).astype(np.uint8)
    without_zeros = np.where(numbers >= powers, digits, 0).astype(np.uint8)
    return np.concatenate([digits, without_zeros]).view(np.uint32).ravel()


_DIGITS = _digit_table()
"""Row `i`: the four digits of `i`; row `10000 + i`: the same, with NUL for leading zeros."""


def format_numbers(values: ArrayLike) -> NDArray[np.uint8]:
    """Write a column of numbers in decimal.

    Parameters
    ----------
    values
        `(n,)` integers, 0 or more.

    Returns
    -------
    text
        `(n, width)` uint8, ASCII digits, padded with NUL on the left.

    Examples
    --------
    >>> join_columns(2, [format_numbers([0, 1203]), b";"])
    b'0;1203;'
    """
    numbers = np.asarray(values, np.uint64)
    n_groups = -(-len(str(int(numbers.max(initial=0)))) // 4)
    text = np.empty((len(numbers), n_groups), np.uint32)
    rest = numbers
    for column in reversed(range(n_groups)):
        higher = rest // np.uint64(_GROUP)
        group = (rest - higher * np.uint64(_GROUP)).astype(np.intp)
        group[higher == 0] += _GROUP
        text[:, column] = _DIGITS.take(group)
        rest = higher
    matrix = text.view(np.uint8)
    matrix[numbers == 0, -1] = ord("0")
    return matrix


def pick_texts(texts: Sequence[bytes], rows: NDArray[np.integer]) -> bytes | NDArray[np.uint8]:
    """Return a column of texts from a table of few texts.

    Parameters
    ----------
    texts
        The table, without NUL.
    rows
        `(n,)` integers, the row of `texts` for each; at least one.

    Returns
    -------
    text
        The text if all are equal, else `(n, width)` uint8, padded with NUL on the right.
    """
    if (rows == rows[0]).all():
        return texts[int(rows[0])]
    used, inverse = np.unique(rows, return_inverse=True)
    table = np.array([texts[row] for row in used.tolist()], np.bytes_)
    return table.view(np.uint8).reshape(len(used), -1)[inverse]


def join_columns(n_rows: int, columns: Sequence[bytes | NDArray[np.uint8]]) -> bytes:
    """Join columns of text row by row, without NULs.

    Parameters
    ----------
    n_rows
        Number of rows.
    columns
        Each is a text that all rows share, or `(n_rows, width)` uint8.
    """
    widths = [len(column) if isinstance(column, bytes) else column.shape[1] for column in columns]
    matrix = np.empty((n_rows, sum(widths)), np.uint8)
    start = 0
    for column, width in zip(columns, widths, strict=True):
        constant = isinstance(column, bytes)
        matrix[:, start : start + width] = np.frombuffer(column, np.uint8) if constant else column
        start += width
    return matrix.tobytes().translate(None, b"\0")
