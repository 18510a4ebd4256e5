"""Many arrays into one: stack, concatenate, place as mosaic, reindex and merge.

Owns how chunk grids are put together; what may be put together is said by `model.alike`. Pure
operations on columns: there is no loop over chunks, and where many arrays share a grid none over
positions either. It opens nothing; files are said by their sources alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import ManifestMismatch
from .alike import without_leniency
from .codec import ForeignCodec, SegmentCodec
from .grid import chunk_grid
from .manifest import INLINED, MISSING, Manifest, Source
from .node import Array

__all__ = ["merge", "occupied", "place", "reindex", "stack", "unify_codecs"]

_SHOWN = 3

Codec = SegmentCodec | ForeignCodec


def unify_codecs(arrays: Sequence[Array]) -> tuple[tuple[Codec, ...], list[tuple[int, ...]]]:
    """Make one table of codecs for many arrays.

    Codecs that differ only in taking short segments as well become the one that takes them; not
    those that take segments of different edges, of which one may be as long as another's.

    Returns
    -------
    codecs, rows
        The table, and for each array the row of each of its own codecs.
    """
    table: dict[Codec, list[int]] = {}
    codecs: list[Codec] = []
    rows, known = [], {}
    for array in arrays:
        key = id(array.codecs)
        if key not in known:
            known[key] = tuple(_row_of(codec, table, codecs) for codec in array.codecs)
        rows.append(known[key])
    return tuple(codecs), rows


def _row_of(codec: Codec, table: dict[Codec, list[int]], codecs: list[Codec]) -> int:
    rows = table.setdefault(without_leniency(codec), [])
    for row in rows:
        both = _unified(codecs[row], codec)
        if both is not None:
            codecs[row] = both
            return row
    rows.append(len(codecs))
    codecs.append(codec)
    return rows[-1]


def _unified(one: Codec, other: Codec) -> Codec | None:
    """Give the codec that takes the segments of two that differ in leniency, if there is one."""
    if one == other or not (isinstance(one, SegmentCodec) and isinstance(other, SegmentCodec)):
        return one
    whole = one.shape[:3]
    # whole segments at the edge leave the word to the other
    if one.edge in (None, whole) and other.edge is not None:
        one, other = other, one
    if other.edge not in (None, whole, one.edge):
        return None
    return one


def stack(
    arrays: Sequence[Array],
    index: NDArray[np.int64],
    lengths: Sequence[int],
    dims: Sequence[str],
) -> Array:
    """Put arrays of one shape side by side on new axes in front.

    Parameters
    ----------
    arrays
        Alike in everything but, at most, their codecs.
    index
        `(n_arrays, n_axes)` position of each array on the new axes.
    lengths, dims
        Length and name of each new axis. Positions that no array takes are missing.

    Raises
    ------
    ManifestMismatch
        If two arrays take one position, or a name is a dimension of the arrays already.
    """
    inner = np.zeros((len(arrays), len(arrays[0].shape)), np.int64)
    origins = np.concatenate([np.asarray(index, np.int64), inner], axis=1)
    return place(arrays, origins, (*lengths, *arrays[0].shape), dims)


def place(
    arrays: Sequence[Array],
    origins: NDArray[np.int64],
    shape: Sequence[int],
    dims: Sequence[str] = (),
) -> Array:
    """Put arrays into a larger one.

    Parameters
    ----------
    arrays
        Alike in chunks, dtype and dimensions.
    origins
        `(n_arrays, n_dims)`, in samples: where the first sample of each array goes.
    shape
        Of the result; what no array covers is missing.
    dims
        Names of new axes, in front of the arrays' own.

    Raises
    ------
    ManifestMismatch
        If an array does not lie on chunk boundaries, reaches outside, two arrays overlap, or a new
        axis has the name of a dimension.
    """
    first = arrays[0]
    taken = sorted(set(dims) & set(first.dims))
    if taken:
        raise ManifestMismatch(
            "a new axis has the name of a dimension of the files",
            got=taken[0],
            hint="Name the field otherwise, or concatenate along the dimension.",
        )
    ones = (1,) * len(dims)
    chunks = (*ones, *first.chunks)
    _check_aligned(arrays, origins, shape, chunks, (*dims, *first.dims))
    grid = chunk_grid(shape, chunks)
    strides = np.array([math.prod(grid[axis + 1 :]) for axis in range(len(grid))], np.int64)
    base = (origins // np.array(chunks, np.int64)) @ strides
    codecs, rows = unify_codecs(arrays)
    manifest = _scatter(arrays, base, strides[len(dims) :], grid, rows)
    return replace(
        first,
        shape=tuple(int(n) for n in shape),
        chunks=chunks,
        dims=(*dims, *first.dims),
        codecs=codecs,
        manifest=manifest,
    )


def _scatter(
    arrays: Sequence[Array],
    base: NDArray[np.int64],
    strides: NDArray[np.int64],
    grid: tuple[int, ...],
    rows: Sequence[tuple[int, ...]],
) -> Manifest:
    """Write the columns of many manifests into those of one, each from its `base` on."""
    sources, columns = _source_columns(arrays, rows)
    n_chunks = math.prod(grid)
    source = np.full(n_chunks, MISSING, np.int32)
    offset, length = np.zeros(n_chunks, np.uint64), np.zeros(n_chunks, np.uint64)
    count = np.zeros(n_chunks, np.int32)
    inlined: dict[int, bytes] = {}
    for members in _by_grid(arrays):
        pattern = _pattern(arrays[members[0]], strides)
        at = (base[members][:, None] + pattern).reshape(-1)
        np.add.at(count, at, 1)
        source[at] = np.concatenate([columns[n] for n in members])
        offset[at] = np.concatenate([arrays[n].manifest.offset for n in members])
        length[at] = np.concatenate([arrays[n].manifest.length for n in members])
        for n in members:
            for flat, data in arrays[n].manifest.inlined.items():
                inlined[int(base[n] + pattern[flat])] = data
    if (count > 1).any():
        flat = int(np.flatnonzero(count > 1)[0])
        names = [
            _name(array)
            for n, array in enumerate(arrays)
            if flat in base[n] + _pattern(array, strides)
        ]
        raise ManifestMismatch(f"{len(names)} files cover one place", got=", ".join(names[:_SHOWN]))
    return Manifest(grid, sources, source, offset, length, inlined)


def _pattern(array: Array, strides: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat places of an array's chunks in the larger grid, counted from its first."""
    own = array.manifest.shape
    return (np.indices(own).reshape(len(own), math.prod(own)).T @ strides).reshape(-1)


def _check_aligned(
    arrays: Sequence[Array],
    origins: NDArray[np.int64],
    shape: Sequence[int],
    chunks: tuple[int, ...],
    dims: tuple[str, ...],
) -> None:
    sizes = np.ones((len(arrays), len(chunks)), np.int64)
    sizes[:, len(chunks) - len(arrays[0].shape) :] = [array.shape for array in arrays]
    ends, whole, steps = origins + sizes, np.array(shape), np.array(chunks)
    # the last chunk of a file may be padded: nothing can follow it
    wrong = (origins % steps != 0) | ((ends % steps != 0) & (ends != whole))
    wrong |= (origins < 0) | (ends > whole)
    if not wrong.any():
        return
    n, axis = (int(i) for i in np.argwhere(wrong)[0])
    raise ManifestMismatch(
        f"{int(wrong.any(axis=1).sum())} of {len(arrays)} files do not fall on chunk boundaries"
        f" along '{dims[axis]}'",
        url=_name(arrays[n]),
        got=f"samples {int(origins[n, axis])} to {int(ends[n, axis])} of {int(whole[axis])}",
        expected=f"multiples of {int(steps[axis])}",
        hint="chunkmode='tile' may give smaller chunks; else the files have to be resampled.",
    )


def _by_grid(arrays: Sequence[Array]) -> list[NDArray[np.int64]]:
    """Group arrays by the shape of their chunk grid."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for n, array in enumerate(arrays):
        groups.setdefault(array.manifest.shape, []).append(n)
    return [np.array(members) for members in groups.values()]


def _source_columns(
    arrays: Sequence[Array], rows: Sequence[tuple[int, ...]]
) -> tuple[tuple[Source, ...], list[NDArray[np.int32]]]:
    """Make one table of sources, each once, and give the source column of each array in it."""
    table: dict[Source, int] = {}
    columns = []
    for array, codec_rows in zip(arrays, rows, strict=True):
        manifest = array.manifest
        moved = [
            table.setdefault(
                source
                if codec_rows[source.codec] == source.codec
                else replace(source, codec=codec_rows[source.codec]),
                len(table),
            )
            for source in manifest.sources
        ]
        # the last two entries catch MISSING (-1) and INLINED (-2)
        lookup = np.array([*moved, INLINED, MISSING], np.int32)
        columns.append(lookup[manifest.source])
    return tuple(table), columns


def occupied(index: NDArray[np.int64], lengths: Sequence[int]) -> NDArray[np.int64]:
    """Count the files at each position of the new axes.

    Parameters
    ----------
    index
        `(n_files, n_axes)`.
    lengths
        Of the axes.

    Returns
    -------
    `lengths` int64.
    """
    flat = (
        np.ravel_multi_index(tuple(index.T), tuple(lengths))
        if len(lengths)
        else (np.zeros(len(index), np.int64))
    )
    return np.bincount(flat, minlength=math.prod(lengths)).reshape(tuple(lengths))


def reindex(array: Array, axis: int, positions: NDArray[np.int64], length: int) -> Array:
    """Spread an array along an axis whose chunks have length 1.

    Parameters
    ----------
    positions
        `(n,)` new position of each of the array's; others are missing.
    length
        New length of the axis.
    """
    assert array.chunks[axis] == 1, array.chunks
    old = array.manifest
    grid = (*old.shape[:axis], length, *old.shape[axis + 1 :])
    where = np.ix_(*(positions if n == axis else np.arange(k) for n, k in enumerate(old.shape)))
    flat = np.arange(math.prod(grid)).reshape(grid)[where].reshape(-1)
    source = np.full(math.prod(grid), MISSING, np.int32)
    offset, lengths = np.zeros(len(source), np.uint64), np.zeros(len(source), np.uint64)
    source[flat], offset[flat], lengths[flat] = old.source, old.offset, old.length
    inlined = {int(flat[n]): data for n, data in old.inlined.items()}
    manifest = Manifest(grid, old.sources, source, offset, lengths, inlined)
    shape = (*array.shape[:axis], length, *array.shape[axis + 1 :])
    return replace(array, shape=shape, manifest=manifest)


def merge(first: Array, second: Array) -> Array:
    """Fill the missing chunks of an array with those of another one of the same grid.

    Raises
    ------
    ManifestMismatch
        If both have a chunk at one place.
    """
    both = (first.manifest.source != MISSING) & (second.manifest.source != MISSING)
    if both.any():
        n = int(np.flatnonzero(both)[0])
        names = [_name(array, array.manifest.source[n]) for array in (first, second)]
        raise ManifestMismatch("two files cover one place", got=" and ".join(names))
    assert first.manifest.shape == second.manifest.shape
    codecs, rows = unify_codecs([first, second])
    sources, (ours, theirs) = _source_columns([first, second], rows)
    take = theirs != MISSING
    manifest = Manifest(
        first.manifest.shape,
        sources,
        np.where(take, theirs, ours),
        np.where(take, second.manifest.offset, first.manifest.offset),
        np.where(take, second.manifest.length, first.manifest.length),
        {**first.manifest.inlined, **second.manifest.inlined},
    )
    return replace(first, codecs=codecs, manifest=manifest)


def _name(array: Array, row: int = 0) -> str:
    sources = array.manifest.sources
    return sources[max(0, int(row))].url if sources else "an array without sources"
