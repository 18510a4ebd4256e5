"""Which chunks to ask for before zarr does.

Owns the recognition of reads in the order of their chunks, which is what zarr makes of a selection:
a box of the chunk grid in C order, of which no more than `async.concurrency` chunks are asked for
at once. Where a remote source takes 20 ms for an answer, that limit is most of the time of a read.
Once so many chunks have been asked for in order, the rest of the row and the next rows follow with
high probability. No I/O here.

What is asked for in vain is bounded: never more than was asked for in this order, and a quarter of
it beyond a square, which most windows are. Requests in any other order are never followed up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..model.array import Array
from ..model.manifest import MISSING

__all__ = ["ReadAhead"]

_MAX_RUNS = 16
_MAX_CHUNKS = 18
"""A row is added while fewer are ahead: of a window of 9 x 9, two rows are asked for in vain."""
_ROW_CHUNKS = 8
"""Steps in which a row of unknown length is followed."""
_MAX_SKIPPED = 256
"""Missing chunks in a row, which zarr asks for without a request."""


@dataclass(slots=True)
class _Run:
    """Chunks of one array that were asked for in order.

    `first` and `last` bound the box along each axis, `last` being None where it is not known yet;
    `at` is the chunk asked for last, and `front` the last one asked for ahead, `n_ahead` after it.
    """

    array: Array
    grid: tuple[int, ...]
    first: tuple[int, ...]
    at: tuple[int, ...]
    last: list[int | None]
    front: tuple[int, ...]
    n_chunks: int = 1
    n_ahead: int = 0

    def follow(self, index: tuple[int, ...]) -> bool:
        """Take a chunk as the next one, unless it is not."""
        before = self.at
        for _ in range(_MAX_SKIPPED):
            if self._continues(before, index):
                self._move(before, index)
                return True
            skipped = self.after(before)
            if skipped is None or not self._is_missing(skipped):
                break
            before = skipped
        return False

    def _continues(self, before: tuple[int, ...], index: tuple[int, ...]) -> bool:
        axis = next((k for k, i in enumerate(index) if i != before[k]), None)
        if axis is None or index[axis] != before[axis] + 1 or index[axis] == self._stop(axis):
            return False
        inner = range(axis + 1, len(index))
        return all(index[k] == self.first[k] for k in inner) and all(
            self.last[k] in (None, before[k]) for k in inner
        )

    def _stop(self, axis: int) -> int:
        last = self.last[axis]
        return self.grid[axis] if last is None else last + 1

    def _move(self, before: tuple[int, ...], index: tuple[int, ...]) -> None:
        axis = next(k for k, i in enumerate(index) if i != before[k])
        expected = self.after(before)
        for k in range(axis + 1, len(index)):
            self.last[k] = before[k]
        self.at = index
        self.n_chunks += 1
        if index != expected or not self.n_ahead:  # what is ahead is not on the way
            self.n_ahead, self.front = 0, index
        else:
            self.n_ahead -= 1

    def after(self, index: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the chunk after one, or None at the end of the grid."""
        for axis in reversed(range(len(index))):
            if index[axis] + 1 < self._stop(axis):
                return (*index[:axis], index[axis] + 1, *self.first[axis + 1 :])
        return None

    def extend(self) -> Iterator[list[tuple[int, ...]]]:
        """Yield row after row of the chunks to ask for ahead."""
        while self.n_ahead < _MAX_CHUNKS:
            row = self._next_row()
            if not row or self.n_ahead + len(row) > self._limit(row[0]):
                return
            self.front = row[-1]
            row = [index for index in row if not self._is_missing(index)]
            self.n_ahead += len(row)
            yield row

    def _next_row(self) -> list[tuple[int, ...]]:
        """Return the rest of the row of the front, or the row after it."""
        row: list[tuple[int, ...]] = []
        index = self.after(self.front)
        longest = _ROW_CHUNKS if self.last[-1:] == [None] else _MAX_CHUNKS
        while index is not None and (not row or index[:-1] == row[-1][:-1]):
            row.append(index)
            index = self.after(index) if len(row) < longest else None
        return row

    def _limit(self, index: tuple[int, ...]) -> int:
        """Return how many chunks may be ahead, as many as were asked for where one is likely."""
        last = self.last[-1]
        if last is None:
            return self.n_chunks // 2
        if index[:-1] == self.at[:-1]:
            return self.n_chunks
        is_within_square = index[-2] - self.first[-2] <= last - self.first[-1]
        return self.n_chunks if is_within_square else self.n_chunks // 4

    def _is_missing(self, index: tuple[int, ...]) -> bool:
        return self.array.manifest.at(_ravel(index, self.grid))[0] == MISSING


@dataclass(slots=True)
class ReadAhead:
    """Recognizes reads under way, several of which may be mixed."""

    _runs: list[_Run] = field(default_factory=list)

    def note(self, array: Array, flat: int, n_at_once: int) -> list[int]:
        """Note that a chunk is asked for, and find those to ask for ahead.

        Parameters
        ----------
        array, flat
            The chunk.
        n_at_once
            Chunks that zarr asks for at once: only after so many is there anything to gain.

        Returns
        -------
        flats
            Chunks of the array; some again where the way of a read was foreseen wrongly.
        """
        grid = tuple(n for n in array.grid if n > 1)
        index = _unravel(flat, grid)
        for run in reversed(self._runs):
            if run.array is array and run.follow(index):
                break
        else:
            unknown: list[int | None] = [None] * len(index)
            run = _Run(array, grid, index, index, unknown, index)
            self._runs = [*self._runs[1 - _MAX_RUNS :], run]
        if run.n_chunks < n_at_once:
            return []
        return [_ravel(index, grid) for row in run.extend() for index in row]

    def clear(self) -> None:
        """Forget all reads."""
        self._runs.clear()


def _ravel(index: tuple[int, ...], grid: tuple[int, ...]) -> int:
    flat = 0
    for i, n in zip(index, grid, strict=True):
        flat = flat * n + i
    return flat


def _unravel(flat: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(flat // math.prod(grid[k + 1 :]) % n for k, n in enumerate(grid))
