"""Arrays with their axes in another order.

Owns how an order of axes is put into an array: by other chunk keys where the samples of a chunk
stay as they are, by smaller chunks where chunks are runs of plain planes, else by transposes that
its codec undoes. Pure operations on columns. Which order is wanted is for `conventions` to say.

Reference: Zarr v3, codec `transpose`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedTiff
from .array import Array, chunk_grid
from .codec import ForeignCodec, SegmentCodec
from .manifest import INLINED, Manifest

_ROTATED = (1, 2, 0)
_SELF_INVERSE = ((1, 0, 2), (1, 0))
"""Two transposes that do what `_ROTATED` does, each its own inverse."""


def permute(array: Array, order: Sequence[int], *, self_inverse: bool = False) -> Array:
    """Return the array with its axes in another order.

    Parameters
    ----------
    order
        For each axis of the result, the axis of `array` that it is.
    self_inverse
        Write the rotation that puts samples first as two transposes that are each their own
        inverse. GDAL 3.12 takes no other transpose the right way round, zarrita.js 0.7 is wrong
        with two: maps take this, microscopes the single one, which GDAL is made to refuse.

    Raises
    ------
    UnsupportedTiff
        If the codec of the array cannot take a transpose.

    Examples
    --------
    >>> image = Array.from_values(np.zeros((4, 6, 3), "u1"), ("y", "x", "s"))
    >>> permute(image, (2, 0, 1)).codec.transposes
    ((1, 2, 0),)
    """
    order = tuple(order)
    if order == tuple(range(len(order))):
        return array
    if not _is_kept(array.chunks, order):
        n_split = _n_split(array, order)
        array = array if n_split is None else _split(array, n_split)
    chunks = tuple(array.chunks[axis] for axis in order)
    codecs = array.codecs
    if not _is_kept(array.chunks, order):
        stored = _stored_order(array.chunks, order)
        transposes: tuple[tuple[int, ...], ...] = (trim_order(stored),)
        if self_inverse and transposes == (_ROTATED,):
            transposes = _SELF_INVERSE
        shape = tuple(chunks[axis] for axis in stored)
        codecs = tuple(_transposed(codec, transposes, shape) for codec in codecs)
    return replace(
        array,
        shape=tuple(array.shape[axis] for axis in order),
        chunks=chunks,
        dims=tuple(array.dims[axis] for axis in order),
        codecs=codecs,
        manifest=_permuted(array.manifest, order),
    )


def trim_order(order: Sequence[int]) -> tuple[int, ...]:
    """Return an order of axes counted on the last of them, without the first that stay.

    >>> trim_order([0, 2, 3, 1])
    (1, 2, 0)
    """
    lead = next((n for n, axis in enumerate(order) if n != axis), len(order))
    return tuple(axis - lead for axis in order[lead:])


def is_self_inverse(order: Sequence[int]) -> bool:
    """Return whether an order of axes, taken twice, leaves them as they were."""
    return all(order[axis] == n for n, axis in enumerate(order))


def with_transposes(
    codec: SegmentCodec, transposes: tuple[tuple[int, ...], ...], stored: Sequence[int]
) -> SegmentCodec | None:
    """Return the codec of chunks that are transposed before they are stored.

    Parameters
    ----------
    codec
        Of the stored samples.
    transposes
        As in `SegmentCodec`.
    stored
        Shape of the stored chunk.

    Returns
    -------
    None if the axes of the chunk are not those of the codec.
    """
    n_moved = max(map(len, transposes), default=0)
    if n_moved > 4:  # a segment has no more axes
        return None
    if codec.shape[4 - n_moved :] == tuple(stored[len(stored) - n_moved :]):
        return replace(codec, transposes=transposes)
    padded = (*(1,) * (4 - len(stored)), *stored)
    first = padded[-4] if n_moved == 4 else math.prod(padded[:-3])
    shape = (first, padded[-3], padded[-2], padded[-1])
    # where there is a predictor, rows and samples are what the codec says
    if codec.predictor not in (0, 1) or codec.edge or math.prod(shape) != codec.n_samples:
        return None
    return replace(codec, shape=shape, transposes=transposes)


def _transposed(
    codec: SegmentCodec | ForeignCodec, transposes: tuple[tuple[int, ...], ...], stored: tuple
) -> SegmentCodec:
    found = None
    if isinstance(codec, SegmentCodec) and not codec.transposes:
        found = with_transposes(codec, transposes, stored)
    if found is None:
        raise UnsupportedTiff(
            "the axes of the chunks cannot be transposed",
            got=f"chunks of {stored} samples",
            hint="Take the axes as they are stored (axes='as-stored').",
        )
    return found


def _is_kept(chunks: Sequence[int], order: Sequence[int]) -> bool:
    """Return whether the samples of a chunk stay in their order."""
    long = [axis for axis in order if chunks[axis] != 1]
    return long == sorted(long)


def _stored_order(chunks: Sequence[int], order: Sequence[int]) -> list[int]:
    """Return the axes of a chunk, which are in `order`, in the order of the stored samples.

    Axes of one sample may be stored anywhere: they go where the others need no more moves.
    """
    place = {axis: n for n, axis in enumerate(order)}
    stored = [place[axis] for axis in range(len(order)) if chunks[axis] != 1]
    n_kept = next(n for n, axis in enumerate(sorted(stored)) if stored[n] != axis)
    first = sorted(stored)[n_kept]
    tail = stored[n_kept:]
    short = [axis for axis in range(first, len(order)) if axis not in tail]
    return [*range(first), *short, *tail]


def _permuted(manifest: Manifest, order: Sequence[int]) -> Manifest:
    """Return the manifest of a grid with its axes in another order."""
    shape = tuple(manifest.shape[axis] for axis in order)
    if _is_kept(manifest.shape, order):
        return manifest.with_shape(shape)
    flat = np.arange(manifest.n_chunks).reshape(manifest.shape).transpose(order).reshape(-1)
    return gather(manifest, flat, shape)


def gather(manifest: Manifest, flat: NDArray[np.int64], shape: tuple[int, ...]) -> Manifest:
    """Return the manifest of some chunks of another one.

    Parameters
    ----------
    flat
        `(n,)` index of each chunk in C order of the grid that it is in.
    shape
        Chunk grid of the result.
    """
    source = manifest.source[flat]
    places = np.flatnonzero(source == INLINED).tolist() if manifest.inlined else []
    inlined = {n: manifest.inlined[int(flat[n])] for n in places}
    columns = source, manifest.offset[flat], manifest.length[flat]
    return Manifest(shape, manifest.sources, *columns, inlined)


def _n_split(array: Array, order: Sequence[int]) -> int | None:
    """Return how many of the first axes to split, so that the samples of chunks stay in order.

    Only chunks of plain samples can be split, and rows are not.
    """
    is_plain = all(isinstance(codec, SegmentCodec) and codec.is_plain and codec.edge is None
                   for codec in array.codecs)  # fmt: skip
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    manifest = array.manifest
    is_whole = ((manifest.length == n_bytes) | (manifest.source < 0)).all()
    if not is_plain or not is_whole or manifest.inlined:
        return None
    for n_split in range(1, len(order) - 1):
        if _is_kept((*(1,) * n_split, *array.chunks[n_split:]), order):
            return n_split
    return None


def _split(array: Array, n_split: int) -> Array:
    """Cut chunks of plain samples along the first axes to a length of 1."""
    manifest, inner = array.manifest, array.chunks[n_split:]
    chunks = (*(1,) * n_split, *inner)
    grid = chunk_grid(array.shape, chunks)
    index = np.indices(grid[:n_split]).reshape(n_split, -1)
    cuts = np.array(array.chunks[:n_split])[:, None]
    rest = math.prod(grid[n_split:])
    outer = np.ravel_multi_index(tuple(index // cuts), manifest.shape[:n_split])
    within = np.ravel_multi_index(tuple(index % cuts), array.chunks[:n_split])
    flat = (outer[:, None] * rest + np.arange(rest)).reshape(-1)
    n_bytes = math.prod(inner) * array.dtype.itemsize
    shift = np.repeat(within * n_bytes, rest).astype(np.uint64)
    columns = manifest.source[flat], manifest.offset[flat] + shift
    length = np.full(len(flat), n_bytes, np.uint64)
    shape: Any = (*(1,) * (4 - len(inner)), *inner) if len(inner) <= 4 else None
    codecs = tuple(
        codec.with_shape(shape or (1, 1, 1, math.prod(inner)))
        for codec in array.codecs
        if isinstance(codec, SegmentCodec)
    )
    split = Manifest(grid, manifest.sources, *columns, length)
    return replace(array, chunks=chunks, codecs=codecs, manifest=split)
