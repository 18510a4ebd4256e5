"""The chunks that a read touches, in columns, and where their samples go.

Owns the state of one read between planning and placing: arithmetic on the columns of a manifest,
no I/O. Where the stored bytes are the samples as they stand, byte ranges are cut to the selected
samples, so that a small window of a large uncompressed chunk reads only its part.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
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
    identities: dict[int, tuple[int, ...] | None] = field(default_factory=dict)
    """Of sources of whose chunks some are kept: row of the source to `Fetcher.identity`."""

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

    def keys(self, chosen: NDArray[np.int64]) -> list[Hashable | None]:
        """What tells fetched chunks from all chunks of all files; None where nothing does.

        Arrays may share a codec and bytes, and have them in another shape.
        """
        if not self.identities:
            return [None] * len(chosen)
        leads = {}
        for source, identity in self.identities.items():
            codec = self.array.codecs[self.array.manifest.sources[source].codec]
            kind = id(codec), self.array.chunks, self.array.dtype.str
            leads[source] = None if identity is None else (*kind, *identity)
        columns = (c[chosen].tolist() for c in (self.source, self.offset, self.length))
        return [
            None if leads.get(source) is None else (leads[source], offset, length)
            for source, offset, length in zip(*columns, strict=True)
        ]

    def is_partial(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell of which chunks not all samples are selected."""
        is_partial = np.zeros(len(rows), np.bool_)
        for d, axis in enumerate(self.axes):
            is_partial |= ~np.array(axis.is_whole, np.bool_)[self.position[rows, d]]
        return is_partial

    def slices(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...] | None]]:
        """Give where the samples of each chunk go, and which of them they are; None for all."""
        axes = self.axes
        # lists, since this is most of what a small window costs
        for at in self.position[rows].tolist():
            region = tuple([axis.out[p] for axis, p in zip(axes, at, strict=True)])
            if all([axis.is_whole[p] for axis, p in zip(axes, at, strict=True)]):  # noqa: C419
                yield region, None
            else:
                yield region, tuple([axis.inner[p] for axis, p in zip(axes, at, strict=True)])


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
