"""Concurrent requests for chunks, put together.

Zarr asks a store for one chunk at a time, several times at once. Requests that arrive in the same
turn of the event loop are merged into ranges per source and fetched together. Decoding then spreads
the next requests over some milliseconds. Where answers take as long as a network does, these are
waited for: until there are as many as last time, which is how many zarr keeps under way, or for a
fraction of the time that an answer takes.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from ..model.manifest import Source
from ..read.engine import MAX_GAP_BYTES, MAX_RANGE_BYTES
from ..read.fetch import Fetcher
from ..read.pools import fetch_pool
from ..read.ranges import check_range, plan_ranges

__all__ = ["Requests"]

_MAX_LINGER_S = 0.02
_LINGER_FRACTION = 0.5
_BUSY_S = 0.1
"""Requests this soon after an answer belong to the same read."""


@dataclass(slots=True)
class _Batch:
    """Requests that are not sent yet, and what will send them."""

    timer: asyncio.Handle
    requests: list[tuple[Source, int, int, asyncio.Future[memoryview]]] = field(
        default_factory=list
    )


class Requests:
    """Requests of one store under way, for each event loop that asks."""

    def __init__(self, fetch: Fetcher) -> None:
        self._fetch = fetch
        self._batches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Batch] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._latency_s = 0.0
        self._answered_at = 0.0
        self._n_usual = 0

    async def read(self, source: Source, offset: int, length: int) -> memoryview:
        """Read a byte range, together with what others ask for now; errors as of `Fetcher`."""
        check_range(offset, length)  # here: an error in the batch would keep all of it waiting
        loop = asyncio.get_running_loop()
        batch = self._batches.get(loop)
        if batch is None:
            batch = self._batches[loop] = _Batch(self._schedule(loop))
        future: asyncio.Future[memoryview] = loop.create_future()
        batch.requests.append((source, offset, length, future))
        if len(batch.requests) == self._n_usual:
            batch.timer.cancel()
            batch.timer = loop.call_soon(self._send, loop)
        return await future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
        is_busy = time.monotonic() - self._answered_at < _BUSY_S
        linger = min(_MAX_LINGER_S, self._latency_s * _LINGER_FRACTION) if is_busy else 0.0
        if linger:
            return loop.call_later(linger, self._send, loop)
        return loop.call_soon(self._send, loop)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._batches.pop(loop)
        self._n_usual = len(batch.requests)
        task = loop.create_task(self._serve(batch.requests))
        self._tasks.add(task)  # the loop itself keeps no strong reference
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, pending: list[tuple[Source, int, int, asyncio.Future[memoryview]]]
    ) -> None:
        """Fetch merged ranges and hand each request its part, all at the same time.

        Zarr keeps a fixed number of requests under way; answered together they are also followed
        up together.
        """
        sources = list(dict.fromkeys(source for source, *_ in pending))
        row = {source: i for i, source in enumerate(sources)}
        ranges = plan_ranges(
            np.array([row[source] for source, *_ in pending], np.int32),
            np.array([offset for _, offset, *_ in pending], np.uint64),
            np.array([length for *_, length, _ in pending], np.uint64),
            max_gap_bytes=MAX_GAP_BYTES,
            max_range_bytes=MAX_RANGE_BYTES,
        )
        before = time.monotonic()
        answers = await asyncio.gather(
            *(
                asyncio.wrap_future(
                    fetch_pool().submit(
                        self._fetch.read,
                        sources[ranges.source[i]],
                        int(ranges.start[i]),
                        int(ranges.stop[i] - ranges.start[i]),
                    )
                )
                for i in range(len(ranges))
            ),
            return_exceptions=True,
        )
        self._answered_at = time.monotonic()
        self._latency_s = self._answered_at - before
        for i, answer in enumerate(answers):
            for k in ranges.members(i).tolist():
                _, offset, length, future = pending[k]
                if future.done():
                    continue  # whoever asked has given up
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    low = offset - int(ranges.start[i])
                    future.set_result(memoryview(answer)[low : low + length])
