"""The chunks that a read touches, in columns, and where their samples go.

Owns the state of one read between planning and placing: arithmetic on the columns of a manifest,
no I/O. Where the stored bytes are the samples as they stand, byte ranges are cut to the selected
samples, so that a small window of a large uncompressed chunk reads only its part.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model.codec import ForeignCodec, SegmentCodec
from ..model.node import Array
from .decode import is_stored_plain
from .selection import Axis, Selection, plan_axis

__all__ = ["Piece", "Reading", "locate", "plan_reading"]

Places = Iterable[tuple[slice, ...]]


class Piece(NamedTuple):
    """A chunk to fetch, and what is wanted of it.

    `offset` and `length` say where it is in its source; with `is_plain` they are those of the
    selected samples alone. `region` is where these go in the result, and `inner` which samples of
    the chunk they are; `is_whole` tells that they are all of them.
    """

    offset: int
    length: int
    is_plain: bool
    region: tuple[slice, ...]
    inner: tuple[slice, ...]
    is_whole: bool


@dataclass(slots=True)
class Reading:
    """One read under way: the chunks it touches, in columns, and where their samples go.

    Row `j` stands for chunk `flat[j]` of the array; rows are in C order of the `shape` that the
    axes span. `rows` are those that are fetched now; `source`, `offset`, `length`, `is_plain` and
    `pieces` say what of them, each in the order of `rows`; `locate` sets them. `keys` tell those of
    them that are kept when they are decoded from all chunks of all files.
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

    @property
    def sample_strides(self) -> tuple[int, ...]:
        """Stored samples between selected neighbours along each dimension of a chunk."""
        return tuple(map(operator.mul, self.steps, _strides(self.array.chunks)))

    def codec(self, k: int) -> SegmentCodec | ForeignCodec:
        """How the fetched chunk `k` decodes."""
        return self.array.codecs[self.array.manifest.sources[self.source[k]].codec]

    def name(self, chosen: NDArray[np.int64], identities: Mapping[int, tuple[int, ...]]) -> None:
        """Give chunks keys, by what `Fetcher.identity` tells of their sources.

        Arrays may share a codec and bytes, and have them in another shape.
        """
        array, sources = self.array, self.array.manifest.sources
        kind = array.chunks, array.dtype.str
        leads = {
            row: (id(array.codecs[sources[row].codec]), *kind, *identity)
            for row, identity in identities.items()
        }
        for k, row in zip(chosen.tolist(), self.source[chosen].tolist(), strict=True):
            self.keys[k] = leads[row], self.pieces[k].offset, self.pieces[k].length

    def is_partial(self, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell of which fetched chunks some samples of the array are not selected."""
        is_partial = np.zeros(1, np.bool_)
        for axis in self.axes:
            is_partial = np.logical_or.outer(is_partial, ~np.array(axis.is_all)).reshape(-1)
        return is_partial[self.rows[chosen]]

    def places(self, rows: NDArray[np.int64]) -> tuple[Places, Places, Iterable[bool]]:
        """Give, for each chunk, where its samples go, which of them, and whether that is all."""
        if not self.axes:
            return [()] * len(rows), [()] * len(rows), [True] * len(rows)
        positions = [column.tolist() for column in np.unravel_index(rows, self.shape)]

        def combine(values: Iterable[list[Any]]) -> Iterator[tuple[Any, ...]]:
            # column by column: for a small window, a loop over chunks took as long as all the rest
            along = zip(values, positions, strict=True)
            return zip(*(map(value.__getitem__, at) for value, at in along), strict=True)

        regions = combine(axis.out for axis in self.axes)
        inners = combine(axis.inner for axis in self.axes)
        return regions, inners, map(all, combine(axis.is_whole for axis in self.axes))


def plan_reading(array: Array, wanted: Selection, target: NDArray) -> Reading:
    """Find the chunks that a selection touches."""
    columns = wanted.first, wanted.step, wanted.counts, array.chunks, array.shape
    axes = list(map(plan_axis, *columns))
    shape = tuple(len(axis.chunk) for axis in axes)
    flat = np.zeros(1, np.int64)
    for axis, stride in zip(axes, _strides(array.manifest.shape), strict=True):
        flat = np.add.outer(flat, np.array(axis.chunk, np.int64) * stride).reshape(-1)
    return Reading(array, target, axes, wanted.step, shape, flat)


@functools.lru_cache(maxsize=1024)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the C-order strides of a shape, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def locate(
    reading: Reading,
    rows: NDArray[np.int64],
    source: NDArray[np.int32],
    offset: NDArray[np.uint64],
    length: NDArray[np.uint64],
) -> None:
    """Note the byte ranges of the chunks to fetch, cut to the selected samples if plain."""
    array, manifest = reading.array, reading.array.manifest
    itemsize = np.uint64(array.dtype.itemsize)
    is_plain = np.zeros(len(rows), bool)
    if any(is_stored_plain(codec) for codec in array.codecs):
        plain = np.array([is_stored_plain(codec) for codec in array.codecs])
        codec_of = np.array([item.codec for item in manifest.sources], np.intp)
        # a shorter one does not hold its samples: decoding says what is wrong with it
        is_whole = length >= np.uint64(math.prod(array.chunks)) * itemsize
        is_plain = plain[codec_of[source]] & is_whole
        low, high = _sample_span(reading, rows)
        offset = np.where(is_plain, offset + low * itemsize, offset)
        length = np.where(is_plain, (high - low) * itemsize, length)
    reading.rows, reading.source, reading.is_plain = rows, source, is_plain
    reading.offset, reading.length = offset, length
    columns = (column.tolist() for column in (offset, length, is_plain))
    reading.pieces = list(map(Piece._make, zip(*columns, *reading.places(rows), strict=True)))
    reading.keys = {}


def _sample_span(
    reading: Reading, rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Give the first selected sample of each chunk and the end of the last, in C order."""
    low, high = np.zeros(1, np.int64), np.ones(1, np.int64)
    for axis, stride in zip(reading.axes, _strides(reading.array.chunks), strict=True):
        first = np.array([inner.start for inner in axis.inner], np.int64)
        last = np.array([inner.stop for inner in axis.inner], np.int64) - 1
        low = np.add.outer(low, first * stride).reshape(-1)
        high = np.add.outer(high, last * stride).reshape(-1)
    return low[rows].astype(np.uint64), high[rows].astype(np.uint64)
