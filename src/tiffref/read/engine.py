"""Read a region of an array: plan, fetch and decode its chunks.

The chunks that a selection intersects are found by arithmetic on the columns of the manifest,
merged into byte ranges (`selection`), fetched (`fetch`) and decoded directly into the result
(`chunks`). For uncompressed chunks, only the bytes of the selected samples are read. Requests and
decoding run on different thread pools, with at most `MAX_IN_FLIGHT_BYTES` between them, so that
regions of images larger than memory can be read.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff, SelectionError
from ..io.progress import Progress, ProgressCounter
from ..model.array import Array
from ..model.codec import SegmentCodec
from ..model.manifest import INLINED, MISSING
from .chunks import (
    CACHE,
    Decoder,
    decode_chunk,
    decode_inlined,
    decode_whole,
    is_stored_plain,
    make_decoder,
    stored_dtype,
    view_plain,
)
from .fetch import N_CORES, N_FETCHERS, Fetcher, decode_pool, fetch_pool, wait_for_result
from .selection import Axis, Ranges, Selection, parse_selection, plan_axis, plan_ranges

Regions = Iterable[tuple[slice, ...]]


class Piece(NamedTuple):
    """A chunk to fetch, and its selected samples.

    `offset` and `length` are its byte range; if `is_plain`, that of the selected samples only.
    `region` are the slices of the result, and `inner` those of the chunk; `is_whole` if the whole
    chunk is selected.
    """

    offset: int
    length: int
    is_plain: bool
    region: tuple[slice, ...]
    inner: tuple[slice, ...]
    is_whole: bool


@dataclass(slots=True)
class Reading:
    """The state of one read: its chunks, in columns, and where their samples go.

    Row `j` is chunk `flat[j]` of the array; rows are in C order of the `shape` that the axes span.
    `rows` are those being fetched, and `source`, `offset`, `length`, `is_plain` and `pieces` are
    columns for them, set by `set_ranges`. `keys` are the cache keys of those to be cached.
    """

    array: Array
    target: NDArray
    axes: list[Axis]
    steps: tuple[int, ...]
    shape: tuple[int, ...]
    flat: NDArray[np.int64]
    rows: NDArray[np.int64] = field(init=False)
    source: NDArray[np.int32] = field(init=False)
    offset: NDArray[np.uint64] = field(init=False)
    length: NDArray[np.uint64] = field(init=False)
    is_plain: NDArray[np.bool_] = field(init=False)
    pieces: list[Piece] = field(init=False)
    keys: dict[int, Hashable] = field(init=False)
    progress: ProgressCounter | None = None
    decoders: dict[tuple[int, bool], Decoder] = field(default_factory=dict)

    def count(self, n_chunks: int) -> None:
        """Report chunks that are finished."""
        if self.progress is not None:
            self.progress.add(n_chunks)

    @property
    def sample_strides(self) -> tuple[int, ...]:
        """Strides of the selected samples within a chunk, in samples."""
        return tuple(map(operator.mul, self.steps, _strides(self.array.chunks)))

    def codec(self, k: int) -> Any:
        """Return the codec of the fetched chunk `k`."""
        return self.array.codecs[self.array.manifest.sources[self.source[k]].codec]

    def decoder(self, k: int) -> Decoder:
        """Return the decoder of the fetched chunk `k`; chunks of one codec share it.

        Chunks that end within the array are never cropped: one that is has lost rows or columns.
        """
        array, number = self.array, self.array.manifest.sources[self.source[k]].codec
        codec, is_whole = array.codecs[number], False
        if isinstance(codec, SegmentCodec) and codec.edge is not None:
            index = np.unravel_index(self.flat[self.rows[k]], array.grid)
            ends = np.multiply(np.add(index, 1), array.chunks)
            is_whole = bool((ends <= array.shape).all())
        decoder = self.decoders.get((number, is_whole))
        if decoder is None:
            codec = replace(codec, edge=None) if is_whole else codec
            decoder = self.decoders[number, is_whole] = make_decoder(codec)
        return decoder

    def set_keys(
        self, chosen: NDArray[np.int64], identities: Mapping[int, tuple[int, ...]]
    ) -> None:
        """Set the cache keys of chunks, from `Fetcher.identity` of their sources.

        Keys include chunk shape and dtype, because arrays may share codec and bytes.
        """
        array, sources = self.array, self.array.manifest.sources
        prefixes = {
            row: (id(array.codecs[sources[row].codec]), array.chunks, array.dtype.str, *identity)
            for row, identity in identities.items()
        }
        for k, row in zip(chosen.tolist(), self.source[chosen].tolist(), strict=True):
            self.keys[k] = prefixes[row], self.pieces[k].offset, self.pieces[k].length

    def is_partial(self, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these chunks are only partly selected."""
        is_partial = np.zeros(1, np.bool_)
        for axis in self.axes:
            is_partial = np.logical_or.outer(is_partial, ~np.array(axis.is_all)).reshape(-1)
        return is_partial[self.rows[chosen]]

    def regions(self, rows: NDArray[np.int64]) -> tuple[Regions, Regions, Iterable[bool]]:
        """Return slices of the result and of the chunk, and whether it is whole, for each chunk."""
        if not self.axes:
            return [()] * len(rows), [()] * len(rows), [True] * len(rows)
        positions = [column.tolist() for column in np.unravel_index(rows, self.shape)]

        def combine(values: Iterable[list[Any]]) -> Iterator[tuple[Any, ...]]:
            # by columns: for a small window, a loop over chunks took half of the time
            columns = zip(values, positions, strict=True)
            return zip(*(map(value.__getitem__, index) for value, index in columns), strict=True)

        regions = combine(axis.out for axis in self.axes)
        inners = combine(axis.inner for axis in self.axes)
        return regions, inners, map(all, combine(axis.is_whole for axis in self.axes))


def plan_reading(array: Array, selection: Selection, target: NDArray) -> Reading:
    """Find the chunks that a selection intersects."""
    columns = selection.first, selection.step, selection.counts, array.chunks, array.shape
    axes = list(map(plan_axis, *columns))
    shape = tuple(len(axis.chunk) for axis in axes)
    flat = np.zeros(1, np.int64)
    for axis, stride in zip(axes, _strides(array.manifest.shape), strict=True):
        flat = np.add.outer(flat, np.array(axis.chunk, np.int64) * stride).reshape(-1)
    return Reading(array, target, axes, selection.step, shape, flat)


@functools.lru_cache(maxsize=1024)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the C-order strides of a shape, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def set_ranges(
    reading: Reading,
    rows: NDArray[np.int64],
    source: NDArray[np.int32],
    offset: NDArray[np.uint64],
    length: NDArray[np.uint64],
) -> None:
    """Set the byte ranges of the chunks to fetch; of plain chunks, only those of the selection."""
    array, manifest = reading.array, reading.array.manifest
    itemsize = np.uint64(array.dtype.itemsize)
    is_plain = np.zeros(len(rows), bool)
    if any(is_stored_plain(codec) for codec in array.codecs):
        plain = np.array([is_stored_plain(codec) for codec in array.codecs])
        codec_of = np.array([item.codec for item in manifest.sources], np.intp)
        # decoding raises the error for shorter ones
        is_whole = length >= np.uint64(math.prod(array.chunks)) * itemsize
        is_plain = plain[codec_of[source]] & is_whole
        low, high = _sample_span(reading, rows)
        offset = np.where(is_plain, offset + low * itemsize, offset)
        length = np.where(is_plain, (high - low) * itemsize, length)
    reading.rows, reading.source, reading.is_plain = rows, source, is_plain
    reading.offset, reading.length = offset, length
    columns = (column.tolist() for column in (offset, length, is_plain))
    reading.pieces = list(map(Piece._make, zip(*columns, *reading.regions(rows), strict=True)))
    reading.keys = {}


def _sample_span(
    reading: Reading, rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first selected sample of each chunk and the end of the last, as flat indices."""
    low, high = np.zeros(1, np.int64), np.ones(1, np.int64)
    for axis, stride in zip(reading.axes, _strides(reading.array.chunks), strict=True):
        first = np.array([inner.start for inner in axis.inner], np.int64)
        last = np.array([inner.stop for inner in axis.inner], np.int64) - 1
        low = np.add.outer(low, first * stride).reshape(-1)
        high = np.add.outer(high, last * stride).reshape(-1)
    return low[rows].astype(np.uint64), high[rows].astype(np.uint64)


_buffers = threading.local()
_MIN_RUN = 8
"""Plain chunks from which copying neighbours together is faster than one by one."""
MAX_CHUNKS = 1 << 16
"""Chunks per batch: each needs some hundred bytes of memory while it is read."""
MAX_GAP_BYTES = 1 << 16
MAX_RANGE_BYTES = 1 << 24
MIN_RANGE_BYTES = 1 << 20
MAX_IN_FLIGHT_BYTES = 1 << 27
LOCAL_GAP_BYTES = 1 << 12
"""Copying larger gaps from the page cache costs more than another system call."""
LOCAL_RANGE_BYTES = 1 << 18
"""Local ranges are small, to stay in the cache of the core that decodes them."""
LOCAL_PLAIN_RANGE_BYTES = 1 << 20
"""Without decoding: 256 tiles of 64 KiB took 9.0 ms at 256 KiB, 3.7 ms at 1 MiB."""
_LOCAL_BUFFER_BYTES = 1 << 21
"""Longer ranges, which are one large chunk, get a new buffer."""
TASK_BYTES = 1 << 18
"""Fetched bytes per decoding task, so that ranges of many megabytes still use all cores."""
LOCAL_TASK_BYTES = 1 << 19
"""Decoded bytes per thread: windows of 512 x 512 bytes take a sixth less wall time if a core is
idle, and a tenth more CPU time; smaller ones gain nothing."""


def read_array(
    array: Array,
    selection: Any,
    *,
    fetch: Fetcher,
    out: NDArray | None = None,
    progress: Progress | None = None,
) -> NDArray:
    """Read a region of an array.

    Parameters
    ----------
    array
        Array to read.
    selection
        NumPy basic indexing: integers, slices with any step, Ellipsis, None.
    fetch
        Fetcher of the sources.
    out
        Array of the result's shape and the array's dtype to read into.
    progress
        Called with the number of chunks read and their total, by one thread at a time.

    Returns
    -------
    result
        `out`, or a new array; equal to the whole array in memory indexed by `selection`.

    Raises
    ------
    SelectionError
        If the selection does not fit the array.
    SourceError
        If a source cannot be read, or returns fewer bytes than requested.
    MalformedTiff
        If the bytes of a chunk do not decode.
    """
    parsed = parse_selection(selection, array.shape)
    target = make_target(array, parsed, out)
    if target.size:
        _read_into(array, parsed, target, fetch, progress)
    return target[parsed.index] if out is None else out


class _TooLarge(SelectionError, MemoryError):
    """The selection needs more memory than there is."""


def make_target(array: Array, selection: Selection, out: NDArray | None) -> NDArray:
    """Return the array to read into, in ascending order along all dimensions."""
    if out is None:
        try:
            return np.empty(selection.counts, array.dtype)
        except (MemoryError, ValueError) as error:  # the latter for more than 2**63 bytes
            raise _TooLarge(
                "the selection does not fit in memory",
                got=f"{array.dtype} samples of shape {selection.counts}",
                hint="Read a part, or a smaller level.",
            ) from error
    if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (selection.shape, array.dtype):
        raise SelectionError(
            "the output array does not fit the selection",
            got=f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__,
            expected=f"{array.dtype} {selection.shape}",
        )
    return out[selection.inverse]


def _read_into(
    array: Array, selection: Selection, target: NDArray, fetch: Fetcher, progress: Progress | None
) -> None:
    reading = plan_reading(array, selection, target)
    reading.progress = None if progress is None else ProgressCounter(progress, len(reading.flat))
    source, offset, length = array.manifest.take(reading.flat)
    rows = np.flatnonzero(source >= 0)
    if len(rows) < len(source):
        _fill_missing(reading, np.flatnonzero(source == MISSING), fetch)
        inlined = np.flatnonzero(source == INLINED)
        regions, inners, _ = reading.regions(inlined)
        for n, region, inner in zip(inlined.tolist(), regions, inners, strict=True):
            reading.target[region] = decode_inlined(array, reading.flat.item(n))[inner]
        reading.count(len(source) - len(rows))
    for first in range(0, len(rows), MAX_CHUNKS):
        batch = rows[first : first + MAX_CHUNKS]
        set_ranges(reading, batch, source[batch], offset[batch], length[batch])
        for is_local, chosen in _split_by_access(reading, fetch):
            if not is_local:
                _read_remote(reading, chosen, fetch)
                continue
            uncached = _read_cached(reading, chosen, fetch)
            reading.count(len(chosen) - len(uncached))
            if len(uncached):
                _read_local(reading, uncached, fetch)


def _fill_missing(reading: Reading, rows: NDArray[np.int64], fetch: Fetcher) -> None:
    if len(rows):
        fetch.check_missing(reading.array.manifest, reading.flat[rows])
    fill = reading.array.fill_value
    value = 0 if fill is None else fill
    if len(rows) == len(reading.flat):
        reading.target[...] = value
        return
    regions, _, _ = reading.regions(rows)
    for region in regions:
        reading.target[region] = value


def _split_by_access(reading: Reading, fetch: Fetcher) -> Iterator[tuple[bool, NDArray[np.int64]]]:
    """Split the chunks to fetch into those of local and of remote sources."""
    sources = reading.array.manifest.sources
    if len(sources) == 1:
        yield fetch.is_local(sources[0]), np.arange(len(reading.source))
        return
    used = np.unique(reading.source)
    is_local = np.zeros(len(sources), bool)
    is_local[[i for i in used.tolist() if fetch.is_local(sources[i])]] = True
    chosen = is_local[reading.source]
    for value in (True, False):
        rows = np.flatnonzero(chosen == value)
        if len(rows):
            yield value, rows


def _read_cached(reading: Reading, chosen: NDArray[np.int64], fetch: Fetcher) -> NDArray[np.int64]:
    """Read chunks from the cache; return those that are not in it."""
    _choose_to_cache(reading, chosen, fetch)
    if not len(CACHE) or not reading.keys:
        return chosen
    is_uncached = np.ones(len(reading.rows), np.bool_)
    blocks = CACHE.find(reading.keys.values())
    for k, block in zip(reading.keys, blocks, strict=True):
        if block is not None:
            piece = reading.pieces[k]
            reading.target[piece.region] = block[piece.inner]
            is_uncached[k] = False
    return chosen[is_uncached[chosen]]


def _choose_to_cache(reading: Reading, chosen: NDArray[np.int64], fetch: Fetcher) -> None:
    """Choose the chunks to cache, and set their keys.

    If the selection includes some chunks only in part, all of its chunks are cached; if that would
    fill much of the cache, only the partial ones.
    """
    array = reading.array
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if not CACHE.accepts(n_bytes) or all(all(axis.is_all) for axis in reading.axes):
        return
    chosen = chosen[~reading.is_plain[chosen]]
    if not CACHE.accepts(n_bytes * len(chosen)):
        chosen = chosen[reading.is_partial(chosen)]
    identities = {}
    for row in set(reading.source[chosen].tolist()):
        identity = fetch.identity(array.manifest.sources[row])
        if identity is None:
            chosen = chosen[reading.source[chosen] != row]
        else:
            identities[row] = identity
    reading.set_keys(chosen, identities)


# ---- local files: read and decoded in the same thread, the caller being one of the threads


def _read_local(reading: Reading, chosen: NDArray[np.int64], fetch: Fetcher) -> None:
    is_plain = reading.is_plain[chosen]
    max_bytes = LOCAL_PLAIN_RANGE_BYTES if is_plain.all() else LOCAL_RANGE_BYTES
    ranges = _merge(reading, chosen, LOCAL_GAP_BYTES, max_bytes)
    pending = deque(range(len(ranges)))
    n_samples = int(np.count_nonzero(~is_plain)) * math.prod(reading.array.chunks)
    n_bytes = n_samples * reading.array.dtype.itemsize + int(reading.length[chosen[is_plain]].sum())
    n_tasks = min(len(ranges), N_CORES, n_bytes // LOCAL_TASK_BYTES + 1)
    work = functools.partial(_read_ranges, reading, chosen, ranges, pending, fetch)
    tasks = [decode_pool().submit(work) for _ in range(n_tasks - 1)]
    try:
        work()
        for task in tasks:
            if not task.cancel():  # a task that has not started has nothing left to do
                task.result()
    finally:
        pending.clear()
        _cancel_or_wait(tasks)


def _read_ranges(
    reading: Reading, chosen: NDArray[np.int64], ranges: Ranges, pending: deque[int], fetch: Fetcher
) -> None:
    """Read and decode pending ranges until none is left."""
    sources = reading.array.manifest.sources
    buffer = _take_buffer(min(_LOCAL_BUFFER_BYTES, ranges.longest))
    while True:
        try:
            i = pending.popleft()
        except IndexError:
            _buffers.unused = buffer
            return
        members = chosen[ranges.members(i)]
        source, start, stop = sources[ranges.source[i]], int(ranges.start[i]), int(ranges.stop[i])
        if len(members) == 1:
            direct = _direct_buffer(reading, int(members[0]))
            if direct is not None:
                fetch.read_into(source, start, direct)
                reading.count(1)
                continue
        if 0 < stop - start <= len(buffer):
            data = buffer[: stop - start]
            fetch.read_into(source, start, data)
        else:
            whole = fetch.read(source, start, stop - start) if stop else fetch.read_all(source)
            data = memoryview(whole)
        _decode_range(reading, members, start, data)


def _take_buffer(n_bytes: int) -> memoryview:
    """Take this thread's buffer for ranges, reused because new memory costs page faults.

    While in use it is not available, because a decoder may read another store in the same thread.
    """
    buffer = vars(_buffers).pop("unused", None)
    if buffer is None or len(buffer) < n_bytes:
        buffer = memoryview(np.empty(n_bytes, np.uint8))
    return buffer


def _direct_buffer(reading: Reading, k: int) -> memoryview | None:
    """Return the memory of the result into which a plain chunk can be read directly, if any."""
    piece, codec = reading.pieces[k], reading.codec(k)
    if not piece.is_plain:
        return None
    region = reading.target[piece.region]
    is_native = stored_dtype(codec) == reading.array.dtype
    if not is_native or region.nbytes != piece.length or not region.flags.c_contiguous:
        return None
    return memoryview(region.reshape(-1).view(np.uint8))


# ---- remote sources: concurrent requests; each response is decoded when it arrives


def _read_remote(reading: Reading, chosen: NDArray[np.int64], fetch: Fetcher) -> None:
    total = int(reading.length[chosen].sum())
    limit = min(MAX_RANGE_BYTES, max(MIN_RANGE_BYTES, total // N_FETCHERS))
    ranges = _merge(reading, chosen, MAX_GAP_BYTES, limit)
    sources = reading.array.manifest.sources
    sizes = [
        stop - start or sources[source].size or MAX_RANGE_BYTES
        for start, stop, source in zip(
            ranges.start.tolist(), ranges.stop.tolist(), ranges.source.tolist(), strict=True
        )
    ]
    in_flight: deque[tuple[Future[list[Future[None]]], int]] = deque()
    n_in_flight = 0
    try:
        for i, n_bytes in enumerate(sizes):
            while in_flight and n_in_flight + n_bytes > MAX_IN_FLIGHT_BYTES:
                n_in_flight -= _finish_oldest(in_flight)
            task = fetch_pool().submit(_fetch_range, reading, chosen, ranges, i, fetch)
            in_flight.append((task, n_bytes))
            n_in_flight += n_bytes
        while in_flight:
            _finish_oldest(in_flight)
    finally:
        _cancel_or_wait([future for future, _ in in_flight])


def _fetch_range(
    reading: Reading, chosen: NDArray[np.int64], ranges: Ranges, i: int, fetch: Fetcher
) -> list[Future[None]]:
    """Fetch one range, and submit tasks that decode its chunks."""
    source = reading.array.manifest.sources[ranges.source[i]]
    start, stop = int(ranges.start[i]), int(ranges.stop[i])
    data = fetch.read(source, start, stop - start) if stop else fetch.read_all(source)
    members = chosen[ranges.members(i)]
    n_bytes = np.cumsum(reading.length[members])
    cuts = np.flatnonzero(np.diff(n_bytes // np.uint64(TASK_BYTES))) + 1
    return [
        decode_pool().submit(_decode_range, reading, share, start, memoryview(data))
        for share in np.split(members, cuts)
    ]


def _finish_oldest(in_flight: deque[tuple[Future[list[Future[None]]], int]]) -> int:
    """Wait until the oldest range is decoded; return its bytes."""
    future, n_bytes = in_flight[0]
    for decoding in wait_for_result(future):
        wait_for_result(decoding)
    in_flight.popleft()
    return n_bytes


# ---- local and remote


def _merge(reading: Reading, chosen: NDArray[np.int64], max_gap: int, max_range: int) -> Ranges:
    return plan_ranges(
        reading.source[chosen],
        reading.offset[chosen],
        reading.length[chosen],
        max_gap_bytes=max_gap,
        max_range_bytes=max_range,
    )


def _decode_range(
    reading: Reading, members: NDArray[np.int64], start: int, data: memoryview
) -> None:
    """Decode the chunks of a range that starts at byte `start` of its source."""
    array, codec = reading.array, reading.codec(members[0])
    if len(members) >= _MIN_RUN and reading.is_plain[members].all():
        _copy_plain(reading, codec, members, start, data)
        reading.count(len(members))
        return
    for k in members.tolist():
        piece, key = reading.pieces[k], reading.keys.get(k)
        region = reading.target[piece.region]
        low = piece.offset - start
        part = data[low : low + piece.length] if piece.length else data
        if piece.is_plain:
            region[...] = view_plain(codec, part, region.shape, reading.sample_strides)
            continue
        try:
            decoder = reading.decoder(k)
            if key is None:
                decode_chunk(array, decoder, part, region, None if piece.is_whole else piece.inner)
            else:
                block = decode_whole(array, decoder, part)
                region[...] = block[piece.inner]
                CACHE.put(key, block, codec)
        except MalformedTiff as error:
            raise _add_location(error, reading, k) from error.__cause__
    reading.count(len(members))


def _copy_plain(
    reading: Reading,
    codec: SegmentCodec,
    members: NDArray[np.int64],
    start: int,
    data: memoryview,
) -> None:
    """Copy plain chunks; those that are adjacent in file and array, together."""
    pieces, shape = reading.pieces, reading.array.chunks
    axis = max((k for k, n in enumerate(reading.shape) if n > 1), default=0)
    for run in np.split(members, _run_starts(reading, members, axis)):
        first, last = pieces[run[0]], pieces[run[-1]]
        part = data[first.offset - start : last.offset + last.length - start]
        if len(run) == 1:
            region = reading.target[first.region]
            region[...] = view_plain(codec, part, region.shape, reading.sample_strides)
            continue
        span = slice(first.region[axis].start, last.region[axis].stop)
        region = reading.target[(*first.region[:axis], span, *first.region[axis + 1 :])]
        stored = view_plain(codec, part, (len(run), *shape), _strides((len(run), *shape)))
        # splitting one dimension in two never copies, whatever the strides
        region = region.reshape(*shape[:axis], len(run), *shape[axis:])
        region[...] = np.moveaxis(stored, 0, axis)


def _run_starts(reading: Reading, members: NDArray[np.int64], axis: int) -> NDArray[np.intp]:
    """Find the members that are not adjacent to the previous one in file and array."""
    if not reading.axes:
        return np.arange(1, len(members))
    rows, offset = reading.rows[members], reading.offset[members]
    is_whole = np.array([reading.pieces[k].is_whole for k in members.tolist()])
    is_next = (offset[1:] == offset[:-1] + reading.length[members[:-1]]) & (np.diff(rows) == 1)
    is_next &= (rows[1:] % reading.shape[axis] != 0) & is_whole[1:] & is_whole[:-1]
    return np.flatnonzero(~is_next) + 1


def _add_location(error: MalformedTiff, reading: Reading, k: int) -> MalformedTiff:
    """Add source and chunk to the error of a chunk that does not decode."""
    array, source = reading.array, reading.array.manifest.sources[reading.source[k]]
    index = np.unravel_index(reading.flat[reading.rows[k]], array.grid) if array.grid else ()
    key = ".".join(str(int(i)) for i in index) or "0"
    error.url = error.url or source.url
    chunk = f"chunk {key} ({reading.length[k]} bytes at {reading.offset[k]})"
    error.tag = f"{chunk}, {error.tag}" if error.tag is not None else chunk
    return error


def _cancel_or_wait(futures: list[Future[Any]]) -> None:
    """Cancel tasks, and wait for those that have started and still write into the result.

    After Ctrl-C there is no waiting: a request may hang for a minute.
    """
    started = [future for future in futures if not future.cancel()]
    if isinstance(sys.exception(), KeyboardInterrupt):
        return
    if started:  # `wait` is slow, even without futures
        wait(started)
    for future in started:
        if not future.exception() and isinstance(future.result(), list):
            _cancel_or_wait(future.result())
