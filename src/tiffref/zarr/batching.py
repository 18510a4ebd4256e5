"""Concurrent requests for chunks, put together, and those that zarr is about to make.

Zarr asks a store for one chunk at a time, several times at once. Requests that arrive in the same
turn of the event loop are merged into ranges per source and fetched together. Decoding then spreads
the next requests over some milliseconds. Where answers take as long as a network does, these are
waited for: until there are as many as last time, which is how many zarr keeps under way, or for a
fraction of the time that an answer takes.

Chunks that zarr will most probably ask for next are asked for with them, and dropped if nobody
comes for them. What zarr makes of a selection is a box of the chunk grid in C order, of which no
more than `async.concurrency` chunks are asked for at once. Where a remote source takes 20 ms for an
answer, that limit is most of the time of a read. Once so many chunks have been asked for in order,
the rest of the row and the next rows follow with high probability. Dask's threads read chunk by
chunk, mostly from the last to the first, and overtake one another. What is asked for in vain is
bounded: never more than was asked for in this order, and a quarter of it beyond a square, which
most windows are. Requests in any other order are never followed up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

import zarr

from ..errors import TiffrefError
from ..model.array import Array
from ..model.manifest import MISSING, Source
from ..read.engine import MAX_GAP_BYTES, MAX_RANGE_BYTES
from ..read.fetch import Fetcher, fetch_pool
from ..read.selection import Ranges, check_range, plan_ranges

__all__ = ["ReadAhead", "Requests"]

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


# ---- requests

_MAX_LINGER_S = 0.02
_LINGER_FRACTION = 0.5
_BUSY_S = 0.1
"""Requests this soon after an answer belong to the same read."""
_MAX_AHEAD_BYTES = 1 << 24
_KEPT_S = 3.0
"""Answers that nobody came for are dropped after so long, and asked for again if need be."""

Answer = asyncio.Future[memoryview | None]
Place = tuple[Source, int, int]


@dataclass(slots=True, eq=False)
class _Request:
    """A byte range to fetch; an answer to one that `is_ahead` may fail to come, which is None."""

    source: Source
    offset: int
    length: int
    answer: Answer
    is_ahead: bool = False
    answered_at: float = math.inf


@dataclass(slots=True)
class _Turn:
    """What one event loop has asked for and not got.

    `requests` are not sent yet, and `timer` will send them. `ahead` are those sent for chunks that
    nobody asked for yet, by their places, and `n_ahead_bytes` the bytes of all of them.
    """

    requests: list[_Request] = field(default_factory=list)
    timer: asyncio.Handle | None = None
    runs: ReadAhead = field(default_factory=ReadAhead)
    ahead: dict[Place, _Request] = field(default_factory=dict)
    n_ahead_bytes: int = 0
    used_at: float = 0.0
    is_watched: bool = False

    def take(self, place: Place) -> _Request | None:
        """Remove what was asked for ahead."""
        found = self.ahead.pop(place, None)
        self.n_ahead_bytes -= found.length if found else 0
        return found


class Requests:
    """Requests of one store under way, for each event loop that asks."""

    def __init__(self, fetch: Fetcher) -> None:
        self._fetch = fetch
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._latency_s = 0.0
        self._answered_at = 0.0
        self._n_usual = 0

    async def read_chunk(self, array: Array, flat: int, place: Place) -> memoryview:
        """Read a whole chunk, and those ahead of it; errors as of `Fetcher`."""
        loop = asyncio.get_running_loop()
        turn = self._turns.setdefault(loop, _Turn())
        self._ask_ahead(loop, turn, array, flat)
        found = turn.take(place)
        if found is not None and not _is_old(found, loop):
            data = await found.answer
            if data is not None:
                return data
        return await self.read(*place)

    async def read(self, source: Source, offset: int, length: int) -> memoryview:
        """Read a byte range, together with what others ask for now; errors as of `Fetcher`."""
        check_range(offset, length)  # here: an error in the batch would keep all of it waiting
        loop = asyncio.get_running_loop()
        turn = self._turns.setdefault(loop, _Turn())
        answer: Answer = loop.create_future()
        self._put(loop, turn, _Request(source, offset, length, answer))
        data = await answer
        assert data is not None
        return data

    # ---- what nobody asked for yet

    def _ask_ahead(
        self, loop: asyncio.AbstractEventLoop, turn: _Turn, array: Array, flat: int
    ) -> None:
        if self._fetch.verify == "always":  # which promises a check after the request, not before
            return
        turn.used_at = loop.time()
        n_at_once = zarr.config.get("async.concurrency")
        try:
            flats = turn.runs.note(array, flat, n_at_once or array.manifest.n_chunks)
            places = [array.manifest.at(one) for one in flats]
        except TiffrefError:  # of references that are loaded for it; who needs them is told
            return
        for row, offset, length in places:
            if row < 0:
                continue
            source = array.manifest.sources[row]
            place = (source, offset, length)
            is_there = length and (source.size is None or offset + length <= source.size)
            is_small = turn.n_ahead_bytes + length <= _MAX_AHEAD_BYTES
            if not is_there or not is_small or place in turn.ahead:
                continue
            request = turn.ahead[place] = _Request(*place, loop.create_future(), is_ahead=True)
            turn.n_ahead_bytes += length
            self._put(loop, turn, request)
        if turn.ahead and not turn.is_watched:
            turn.is_watched = True
            loop.call_later(_KEPT_S, self._drop_old, loop, turn)

    def _drop_old(self, loop: asyncio.AbstractEventLoop, turn: _Turn) -> None:
        """Drop what nobody came for, and the runs of an idle store, now and later."""
        for place in [place for place, one in turn.ahead.items() if _is_old(one, loop)]:
            turn.take(place)
        if loop.time() - turn.used_at > _KEPT_S:
            turn.runs.clear()
        turn.is_watched = bool(turn.ahead)
        if turn.is_watched:
            loop.call_later(_KEPT_S, self._drop_old, loop, turn)

    # ---- sending

    def _put(self, loop: asyncio.AbstractEventLoop, turn: _Turn, request: _Request) -> None:
        """Put a request with those that are sent next."""
        turn.requests.append(request)
        if turn.timer is None:
            turn.timer = self._schedule(loop, turn)
        n_asked = sum(not one.is_ahead for one in turn.requests)
        if request.is_ahead or n_asked == self._n_usual:
            turn.timer.cancel()
            turn.timer = loop.call_soon(self._send, loop, turn)

    def _schedule(self, loop: asyncio.AbstractEventLoop, turn: _Turn) -> asyncio.Handle:
        is_busy = time.monotonic() - self._answered_at < _BUSY_S
        linger = min(_MAX_LINGER_S, self._latency_s * _LINGER_FRACTION) if is_busy else 0.0
        if linger:
            return loop.call_later(linger, self._send, loop, turn)
        return loop.call_soon(self._send, loop, turn)

    def _send(self, loop: asyncio.AbstractEventLoop, turn: _Turn) -> None:
        requests, turn.requests, turn.timer = turn.requests, [], None
        self._n_usual = sum(not one.is_ahead for one in requests) or self._n_usual
        task = loop.create_task(self._serve(requests))
        self._tasks.add(task)  # the loop itself keeps no strong reference
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, requests: list[_Request]) -> None:
        """Fetch merged ranges and hand each request its part, all at the same time.

        Zarr keeps a fixed number of requests under way; answered together they are also followed
        up together.
        """
        sources, ranges = _merge(requests)
        before = time.monotonic()
        reads = (
            fetch_pool().submit(
                self._fetch.read,
                sources[ranges.source[i]],
                int(ranges.start[i]),
                int(ranges.stop[i] - ranges.start[i]),
            )
            for i in range(len(ranges))
        )
        answers = await asyncio.gather(*map(asyncio.wrap_future, reads), return_exceptions=True)
        self._answered_at = time.monotonic()
        self._latency_s = self._answered_at - before
        failed: list[_Request] = []
        for i, answer in enumerate(answers):
            members = [requests[k] for k in ranges.members(i).tolist()]
            if isinstance(answer, BaseException):
                failed += _fail(members, answer)
            else:
                _deliver(members, memoryview(answer), int(ranges.start[i]))
        if failed:
            await self._serve(failed)


def _is_old(request: _Request, loop: asyncio.AbstractEventLoop) -> bool:
    return loop.time() - request.answered_at > _KEPT_S


def _merge(requests: list[_Request]) -> tuple[list[Source], Ranges]:
    sources = list(dict.fromkeys(one.source for one in requests))
    row = {source: i for i, source in enumerate(sources)}
    ranges = plan_ranges(
        np.array([row[one.source] for one in requests], np.int32),
        np.array([one.offset for one in requests], np.uint64),
        np.array([one.length for one in requests], np.uint64),
        max_gap_bytes=MAX_GAP_BYTES,
        max_range_bytes=MAX_RANGE_BYTES,
    )
    return sources, ranges


def _deliver(requests: list[_Request], data: memoryview, start: int) -> None:
    for one in requests:
        if not one.answer.done():  # else whoever asked has given up
            one.answer.set_result(data[one.offset - start :][: one.length])
            one.answered_at = one.answer.get_loop().time()


def _fail(requests: list[_Request], error: BaseException) -> list[_Request]:
    """Fail requests of one range; return those that what was asked for ahead may have spoiled."""
    asked = [one for one in requests if not one.is_ahead]
    for one in requests:
        if one.is_ahead and not one.answer.done():
            one.answer.set_result(None)
    if len(asked) < len(requests):
        return asked
    for one in asked:
        if not one.answer.done():
            one.answer.set_exception(error)
    return []
