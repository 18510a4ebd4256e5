"""The chunks that a read touches, in columns, and where their samples go.

Owns the state of one read between planning and placing: arithmetic on the columns of a manifest,
no I/O. Where the stored bytes are the samples as they stand, byte ranges are cut to the selected
samples, so that a small window of a large uncompressed chunk reads only its part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..model.codec import ForeignCodec, SegmentCodec
from ..model.node import Array
from .decode import is_stored_plain
from .selection import Axis, Selection, plan_axis

__all__ = ["Reading", "locate", "plan_reading"]


@dataclass(slots=True)
class Reading:
    """One read under way: the chunks it touches, in columns, and where their samples go.

    Row `j` stands for the chunk at `position[j]` of the axes. `rows` are those that are fetched;
    `source`, `offset`, `length` say from where, and `is_plain` that `offset` and `length` are
    those of the selected samples alone, each in the order of `rows`.
    """

    array: Array
    target: NDArray
    axes: list[Axis]
    steps: tuple[int, ...]
    flat: NDArray[np.int64]
    position: NDArray[np.int64]
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    source: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    offset: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    length: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    is_plain: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def sample_strides(self) -> tuple[int, ...]:
        """Stored samples between selected neighbours along each dimension of a chunk."""
        return tuple(
            step * stride
            for step, stride in zip(self.steps, _strides(self.array.chunks), strict=True)
        )

    def codec(self, k: int) -> SegmentCodec | ForeignCodec:
        """How the fetched chunk `k` decodes."""
        return self.array.codecs[self.array.manifest.sources[self.source[k]].codec]

    def region(self, row: int) -> tuple[slice, ...]:
        """Where a chunk's samples go."""
        return tuple(
            axis.out[p] for axis, p in zip(self.axes, self.position[row].tolist(), strict=True)
        )

    def inner(self, row: int) -> tuple[slice, ...] | None:
        """Which samples of a chunk are selected; None for all."""
        at = self.position[row].tolist()
        if all(axis.is_whole[p] for axis, p in zip(self.axes, at, strict=True)):
            return None
        return tuple(axis.inner[p] for axis, p in zip(self.axes, at, strict=True))


def plan_reading(array: Array, wanted: Selection, target: NDArray) -> Reading:
    """Find the chunks that a selection touches."""
    axes = [
        plan_axis(*values)
        for values in zip(wanted.first, wanted.step, wanted.counts, array.chunks, strict=True)
    ]
    shape = tuple(len(axis.chunk) for axis in axes)
    flat = _outer_sum([axis.chunk for axis in axes], array.grid)
    position = (
        np.stack(np.unravel_index(np.arange(len(flat)), shape), -1)
        if shape
        else (np.zeros((1, 0), np.int64))
    )
    return Reading(array, target, axes, wanted.step, flat, position)


def _outer_sum(columns: Sequence[NDArray[np.int64]], grid: Sequence[int]) -> NDArray[np.int64]:
    """Give the C-order index in a grid of all combinations of indices along its dimensions."""
    total = np.zeros(1, np.int64)
    for column, stride in zip(columns, _strides(grid), strict=True):
        total = (total[:, None] + column * stride).reshape(-1)
    return total


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
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


def _sample_span(
    reading: Reading, rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Give the first selected sample of each chunk and the end of the last, in C order."""
    low = np.zeros(len(rows), np.int64)
    high = np.ones(len(rows), np.int64)
    for d, stride in enumerate(_strides(reading.array.chunks)):
        axis, at = reading.axes[d], reading.position[rows, d]
        low += axis.low[at] * stride
        high += (axis.low[at] + axis.extent[at] - 1) * stride
    return low.astype(np.uint64), high.astype(np.uint64)
