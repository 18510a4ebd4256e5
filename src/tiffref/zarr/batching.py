"""Merge concurrent requests for chunks, and read ahead.

Zarr requests single chunks from a store, several of them concurrently. Requests that arrive in the
same iteration of the event loop are merged into byte ranges per source and fetched together. The
next requests are spread over some milliseconds by decoding. With the latency of a network, it pays
to wait for them: until there are as many as last time, which is zarr's concurrency, or for a
fraction of the latency.

Chunks that zarr will probably request next are fetched along, and dropped if they are not
requested. Zarr reads a selection as a box of the chunk grid in C order, with at most
`async.concurrency` chunks at a time; with a latency of 20 ms, this limit accounts for most of the
time of a read. Once that many chunks have been requested in order, the rest of the row and the next
rows follow with high probability. Dask's threads read chunk by chunk, mostly from the last to the
first, and out of order. The number of unused chunks is bounded: never more than were requested in
this order, and a quarter of that beyond a square, which most windows are. There is no read-ahead
for requests in any other order.
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

_MAX_RUNS = 32
_MAX_CHUNKS = 18
"""Rows are added while fewer chunks are ahead: of a 9 x 9 window, two rows too many are read."""
_ROW_CHUNKS = 8
"""Chunks read ahead at a time in a row of unknown length."""
_MAX_MISSING = 256
"""Consecutive missing chunks, for which zarr's reads cause no request."""
_MAX_SKIPPED = 4


@dataclass(slots=True)
class _Run:
    """Chunks of one array that were requested in order.

    `first` and `last` bound the box along each axis; `last` is None if not known yet. `current` is
    the chunk requested last; `n_ahead` chunks after it, up to `front`, have been read ahead.
    `skipped` are chunks before `current` that have not been requested. If `is_reversed`, chunks are
    counted from the end of the grid.
    """

    array: Array
    grid: tuple[int, ...]
    first: tuple[int, ...]
    current: tuple[int, ...]
    last: list[int | None]
    front: tuple[int, ...]
    n_chunks: int = 1
    n_ahead: int = 0
    skipped: set[tuple[int, ...]] = field(default_factory=set)
    is_reversed: bool = False

    @classmethod
    def begin(cls, array: Array, flat: int, is_reversed: bool) -> _Run:
        grid = tuple(n for n in array.grid if n > 1)
        index = _unravel(math.prod(grid) - 1 - flat if is_reversed else flat, grid)
        last: list[int | None] = [None] * len(grid)
        return cls(array, grid, index, index, last, index, is_reversed=is_reversed)

    def flat(self, index: tuple[int, ...]) -> int:
        flat = 0
        for i, n in zip(index, self.grid, strict=True):
            flat = flat * n + i
        return self._mirror(flat)

    def _mirror(self, flat: int) -> int:
        return math.prod(self.grid) - 1 - flat if self.is_reversed else flat

    def follow(self, flat: int) -> bool:
        """Add a chunk if it continues the run; return whether it does."""
        index = _unravel(self._mirror(flat), self.grid)
        if index in self.skipped:
            self.skipped.remove(index)
            self.n_chunks += 1
            return True
        before = self.current
        passed: list[tuple[int, ...]] = []
        for _ in range(_MAX_MISSING):
            axis = self._next_axis(before, index)
            if axis is not None:
                is_expected = index == self.after(before)
                for k in range(axis + 1, len(index)):
                    self.last[k] = before[k]
                self.current = index
                self.n_chunks += 1
                self.n_ahead -= 1 + len(passed)
                if not is_expected or self.n_ahead < 0:  # not to the chunks that were read ahead
                    self.n_ahead, self.front = 0, index
                self.skipped.update(passed)
                return True
            following = self.after(before)
            if following is None:
                break
            if not self._is_missing(following):
                passed.append(following)
                max_skipped = min(_MAX_SKIPPED, self.n_chunks // 2)
                if len(passed) + len(self.skipped) > max_skipped:
                    break
            before = following
        return False

    def _next_axis(self, before: tuple[int, ...], index: tuple[int, ...]) -> int | None:
        """Return the axis along which a chunk follows another one; None if it does not."""
        axis = next((k for k, i in enumerate(index) if i != before[k]), None)
        if axis is None or index[axis] != before[axis] + 1 or index[axis] == self._stop(axis):
            return None
        is_next = all(
            index[k] == self.first[k] and self.last[k] in (None, before[k])
            for k in range(axis + 1, len(index))
        )
        return axis if is_next else None

    def _stop(self, axis: int) -> int:
        last = self.last[axis]
        return self.grid[axis] if last is None else last + 1

    def after(self, index: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the next chunk in the box; None at the end of the grid."""
        for axis in reversed(range(len(index))):
            if index[axis] + 1 < self._stop(axis):
                return (*index[:axis], index[axis] + 1, *self.first[axis + 1 :])
        return None

    def extend(self) -> Iterator[list[tuple[int, ...]]]:
        """Yield rows of chunks to read ahead."""
        while self.n_ahead < _MAX_CHUNKS:
            row = self._next_row()
            if not row or self.n_ahead + len(row) > self._limit(row[0]):
                return
            self.front = row[-1]
            row = [index for index in row if not self._is_missing(index)]
            self.n_ahead += len(row)
            yield row

    def _next_row(self) -> list[tuple[int, ...]]:
        """Return the rest of the row of `front`, or the next row."""
        row: list[tuple[int, ...]] = []
        index = self.after(self.front)
        max_chunks = _ROW_CHUNKS if self.last[-1:] == [None] else _MAX_CHUNKS
        while index is not None and (not row or index[:-1] == row[-1][:-1]):
            row.append(index)
            index = self.after(index) if len(row) < max_chunks else None
        return row

    def _limit(self, index: tuple[int, ...]) -> int:
        """Return how many chunks may be ahead, up to this one; fewer if it is less likely."""
        last = self.last[-1]
        if last is None:
            return self.n_chunks // 2
        if index[:-1] == self.current[:-1]:
            return self.n_chunks
        is_within_square = index[-2] - self.first[-2] <= last - self.first[-1]
        return self.n_chunks if is_within_square else self.n_chunks // 4

    def _is_missing(self, index: tuple[int, ...]) -> bool:
        return self.array.manifest.at(self.flat(index))[0] == MISSING


@dataclass(slots=True)
class ReadAhead:
    """Recognizes sequential reads, several of which may be interleaved."""

    _runs: list[_Run] = field(default_factory=list)

    def record(self, array: Array, flat: int, concurrency: int) -> list[int]:
        """Record the request of a chunk, and find the chunks to read ahead.

        Parameters
        ----------
        array, flat
            The chunk.
        concurrency
            Chunks that zarr requests concurrently; read-ahead starts after this many.

        Returns
        -------
        flats
            Chunks of the array; some may be repeated if a prediction was wrong.
        """
        for run in sorted(self._runs, key=lambda run: -run.n_chunks):
            if run.array is array and run.follow(flat):
                break
        else:
            started = [_Run.begin(array, flat, is_reversed) for is_reversed in (False, True)]
            self._runs = [*self._runs[2 - _MAX_RUNS :], *started]
            return []
        if run.n_chunks < concurrency:
            return []
        return [run.flat(index) for row in run.extend() for index in row]


def _unravel(flat: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(flat // math.prod(grid[k + 1 :]) % n for k, n in enumerate(grid))


# ---- requests

_MAX_LINGER_S = 0.02
_LINGER_FRACTION = 0.5
_BUSY_S = 0.1
"""Requests this soon after a response belong to the same read."""
_MAX_AHEAD_BYTES = 1 << 24
_AHEAD_LIFETIME_S = 3.0
"""Time after which chunks that were read ahead, but not requested, are dropped."""

DataFuture = asyncio.Future[memoryview | None]
ByteRange = tuple[Source, int, int]


@dataclass(slots=True, eq=False)
class _Request:
    """A byte range to fetch; if `is_ahead`, the result of `future` is None on failure."""

    source: Source
    offset: int
    length: int
    is_ahead: bool = False
    finished_at: float = math.inf
    future: DataFuture = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_expired(self) -> bool:
        return asyncio.get_running_loop().time() - self.finished_at > _AHEAD_LIFETIME_S


@dataclass(slots=True)
class _LoopState:
    """The pending requests of one event loop.

    `requests` are not sent yet; `timer` will send them. `ahead` are requests for chunks that were
    read ahead and not yet requested, by byte range, and `n_ahead_bytes` their total size.
    """

    requests: list[_Request] = field(default_factory=list)
    timer: asyncio.Handle | None = None
    runs: ReadAhead = field(default_factory=ReadAhead)
    ahead: dict[ByteRange, _Request] = field(default_factory=dict)
    n_ahead_bytes: int = 0
    used_at: float = 0.0
    is_watched: bool = False

    def pop_ahead(self, byte_range: ByteRange) -> _Request | None:
        """Remove and return the request of a chunk that was read ahead."""
        request = self.ahead.pop(byte_range, None)
        self.n_ahead_bytes -= request.length if request else 0
        return request


class Requests:
    """The pending requests of one store, for each event loop."""

    def __init__(self, fetch: Fetcher) -> None:
        self._fetch = fetch
        self._states: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._latency_s = 0.0
        self._finished_at = 0.0
        self._n_previous = 0

    async def read_chunk(self, array: Array, flat: int, byte_range: ByteRange) -> memoryview:
        """Read a whole chunk, and read ahead; errors as in `Fetcher`."""
        state = self._loop_state()
        self._read_ahead(state, array, flat)
        request = state.pop_ahead(byte_range)
        if request is not None and not request.is_expired:
            data = await request.future
            if data is not None:
                return data
        return await self.read(*byte_range)

    async def read(self, source: Source, offset: int, length: int) -> memoryview:
        """Read a byte range, merged with concurrent requests; errors as in `Fetcher`."""
        check_range(offset, length)  # here, because an error in a batch would leave all pending
        request = _Request(source, offset, length)
        self._enqueue(self._loop_state(), request)
        data = await request.future
        assert data is not None
        return data

    def _loop_state(self) -> _LoopState:
        return self._states.setdefault(asyncio.get_running_loop(), _LoopState())

    # ---- read-ahead

    def _read_ahead(self, state: _LoopState, array: Array, flat: int) -> None:
        if self._fetch.verify == "always":  # the check must follow the request of the chunk
            return
        loop = asyncio.get_running_loop()
        state.used_at = loop.time()
        concurrency = zarr.config.get("async.concurrency")
        try:
            flats = state.runs.record(array, flat, concurrency or array.manifest.n_chunks)
            ranges = [array.manifest.at(following) for following in flats]
        except TiffrefError:  # from loading references lazily; raised again when they are needed
            return
        for row, offset, length in ranges:
            if row < 0:
                continue
            source = array.manifest.sources[row]
            key = (source, offset, length)
            is_valid = length and (source.size is None or offset + length <= source.size)
            is_small = state.n_ahead_bytes + length <= _MAX_AHEAD_BYTES
            if not is_valid or not is_small or key in state.ahead:
                continue
            request = state.ahead[key] = _Request(*key, is_ahead=True)
            state.n_ahead_bytes += length
            self._enqueue(state, request)
        if state.ahead and not state.is_watched:
            state.is_watched = True
            loop.call_later(_AHEAD_LIFETIME_S, self._drop_expired, state)

    def _drop_expired(self, state: _LoopState) -> None:
        """Drop expired chunks, and the runs of an idle store; repeat while there are chunks."""
        loop = asyncio.get_running_loop()
        for key in [key for key, request in state.ahead.items() if request.is_expired]:
            state.pop_ahead(key)
        if loop.time() - state.used_at > _AHEAD_LIFETIME_S:
            state.runs = ReadAhead()
        state.is_watched = bool(state.ahead)
        if state.is_watched:
            loop.call_later(_AHEAD_LIFETIME_S, self._drop_expired, state)

    # ---- sending

    def _enqueue(self, state: _LoopState, request: _Request) -> None:
        """Add a request to those that are sent next, soon or together with the following ones."""
        loop = asyncio.get_running_loop()
        state.requests.append(request)
        n_requested = sum(not pending.is_ahead for pending in state.requests)
        if request.is_ahead or n_requested == self._n_previous:
            if state.timer is not None:
                state.timer.cancel()
            state.timer = loop.call_soon(self._send, state)
        elif state.timer is None:
            is_busy = time.monotonic() - self._finished_at < _BUSY_S
            linger = min(_MAX_LINGER_S, self._latency_s * _LINGER_FRACTION) if is_busy else 0.0
            state.timer = loop.call_later(linger, self._send, state)

    def _send(self, state: _LoopState) -> None:
        requests, state.requests, state.timer = state.requests, [], None
        self._n_previous = sum(not request.is_ahead for request in requests) or self._n_previous
        task = asyncio.get_running_loop().create_task(self._fetch_requests(requests))
        self._tasks.add(task)  # the event loop keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _fetch_requests(self, requests: list[_Request]) -> None:
        """Fetch merged ranges, and finish all requests at the same time.

        Zarr keeps a fixed number of requests pending; if they finish together, the next ones also
        arrive together.
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
        results = await asyncio.gather(*map(asyncio.wrap_future, reads), return_exceptions=True)
        self._finished_at = time.monotonic()
        self._latency_s = self._finished_at - before
        retried: list[_Request] = []
        for i, result in enumerate(results):
            members = [requests[k] for k in ranges.members(i).tolist()]
            if isinstance(result, BaseException):
                retried += _fail(members, result)
            else:
                _deliver(members, memoryview(result), int(ranges.start[i]))
        if retried:
            await self._fetch_requests(retried)


def _merge(requests: list[_Request]) -> tuple[list[Source], Ranges]:
    rows: dict[Source, int] = {}
    ranges = plan_ranges(
        np.array([rows.setdefault(request.source, len(rows)) for request in requests], np.int32),
        np.array([request.offset for request in requests], np.uint64),
        np.array([request.length for request in requests], np.uint64),
        max_gap_bytes=MAX_GAP_BYTES,
        max_range_bytes=MAX_RANGE_BYTES,
    )
    return list(rows), ranges


def _deliver(requests: list[_Request], data: memoryview, start: int) -> None:
    for request in requests:
        if not request.future.done():  # it may be cancelled
            request.future.set_result(data[request.offset - start :][: request.length])
            request.finished_at = request.future.get_loop().time()


def _fail(requests: list[_Request], error: BaseException) -> list[_Request]:
    """Fail the requests of one range; return those to retry without the chunks read ahead."""
    requested = [request for request in requests if not request.is_ahead]
    for request in requests:
        if request.is_ahead and not request.future.done():
            request.future.set_result(None)
    if len(requested) < len(requests):
        return requested
    for request in requested:
        if not request.future.done():
            request.future.set_exception(error)
    return []
