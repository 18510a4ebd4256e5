"""Which chunks to ask for before zarr does.

Owns the recognition of reads in the order of their chunks, which is what zarr makes of a selection:
a box of the chunk grid in C order, of which no more than `async.concurrency` chunks are asked for
at once. Where a remote source takes 20 ms for an answer, that limit is most of the time of a read.
Once so many chunks have been asked for in order, the rest of the row and the next rows follow with
high probability. Dask's threads read chunk by chunk, mostly from the last to the first, and
overtake one another. No I/O here.

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
_MAX_MISSING = 256
"""Missing chunks in a row, which zarr asks for without a request."""
_MAX_OVERTAKEN = 4


@dataclass(slots=True)
class _Run:
    """Chunks of one array that were asked for in order.

    `first` and `last` bound the box along each axis, `last` being None where it is not known yet;
    `at` is the chunk asked for last, and `front` the last one asked for ahead, `n_ahead` after it.
    `overtaken` are those that should have been asked for before. Of a run that `is_reversed`,
    chunks are counted from the end of the grid.
    """

    array: Array
    grid: tuple[int, ...]
    first: tuple[int, ...]
    at: tuple[int, ...]
    last: list[int | None]
    front: tuple[int, ...]
    n_chunks: int = 1
    n_ahead: int = 0
    overtaken: set[tuple[int, ...]] = field(default_factory=set)
    is_reversed: bool = False

    @classmethod
    def begin(cls, array: Array, flat: int) -> _Run:
        grid = tuple(n for n in array.grid if n > 1)
        index = _unravel(flat, grid)
        return cls(array, grid, index, index, [None] * len(grid), index)

    def index(self, flat: int) -> tuple[int, ...]:
        return _unravel(self._mirror(flat), self.grid)

    def flat(self, index: tuple[int, ...]) -> int:
        return self._mirror(_ravel(index, self.grid))

    def _mirror(self, flat: int) -> int:
        return math.prod(self.grid) - 1 - flat if self.is_reversed else flat

    def follow(self, flat: int) -> bool:
        """Take a chunk as the next one, unless it is not."""
        if self._follow(self.index(flat)):
            return True
        if self.n_chunks > 1:
            return False
        self._turn()
        if self._follow(self.index(flat)):
            return True
        self._turn()
        return False

    def _turn(self) -> None:
        first = self.flat(self.first)
        self.is_reversed = not self.is_reversed
        self.first = self.at = self.front = self.index(first)

    def _follow(self, index: tuple[int, ...]) -> bool:
        if index in self.overtaken:
            self.overtaken.remove(index)
            self.n_chunks += 1
            return True
        before = self.at
        passed: list[tuple[int, ...]] = []
        for _ in range(_MAX_MISSING):
            if self._continues(before, index):
                self._move(before, index, len(passed))
                self.overtaken.update(passed)
                return True
            skipped = self.after(before)
            if skipped is None:
                break
            if not self._is_missing(skipped):
                passed.append(skipped)
                n_most = min(_MAX_OVERTAKEN, self.n_chunks // 2)
                if len(passed) + len(self.overtaken) > n_most:
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

    def _move(self, before: tuple[int, ...], index: tuple[int, ...], n_passed: int) -> None:
        axis = next(k for k, i in enumerate(index) if i != before[k])
        is_expected = index == self.after(before)
        for k in range(axis + 1, len(index)):
            self.last[k] = before[k]
        self.at = index
        self.n_chunks += 1
        self.n_ahead -= 1 + n_passed
        if not is_expected or self.n_ahead < 0:  # what is ahead is not on the way
            self.n_ahead, self.front = 0, index

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
        return self.array.manifest.at(self.flat(index))[0] == MISSING


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
            Chunks of the array; some again where the way of a read was not the one expected.
        """
        for run in sorted(self._runs, key=lambda run: -run.n_chunks):
            if run.array is array and run.follow(flat):
                break
        else:
            run = _Run.begin(array, flat)
            self._runs = [*self._runs[1 - _MAX_RUNS :], run]
        if run.n_chunks < n_at_once:
            return []
        return [run.flat(index) for row in run.extend() for index in row]

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
