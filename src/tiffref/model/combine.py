"""Combine arrays: place many in a larger one, merge, reindex and transpose them.

Arrays combine if they agree in all aspects that `aspects_of` lists; one error reports all
differences together. Axes are reordered by renumbering chunks if the samples of each chunk keep
their order, by splitting chunks that are runs of uncompressed planes, or else by transposes that
the codec undoes. All operations are on columns, without loops over chunks. Nothing is opened.

Reference: Zarr v3, codec `transpose`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ManifestMismatch, UnsupportedTiff
from .array import Array, chunk_grid
from .codec import ForeignCodec, SegmentCodec
from .manifest import INLINED, MISSING, Manifest, Source

_NONE = "none"
_MAX_SHOWN, _MAX_GROUPS = 3, 8
"""Files and aspects that a message names, and groups that it lists."""

Codec = SegmentCodec | ForeignCodec


@dataclass(frozen=True, slots=True)
class CompatibleGroup:
    """Arrays or files that combine with one another.

    Attributes
    ----------
    aspects
        Aspect -> its hashable value, which all members share.
    members
        Indices of the arrays or files.
    """

    aspects: Mapping[str, Any]
    members: tuple[int, ...]


def aspects_of(array: Array, free_dims: Sequence[str] = ()) -> dict[str, Any]:
    """Return the properties in which arrays must agree to be combined.

    Parameters
    ----------
    free_dims
        Dimensions along which arrays may differ in length.
    """
    codecs = tuple(dict.fromkeys(_strict_codec(codec) for codec in array.codecs))
    fill = array.fill_value
    return {
        "dtype": array.dtype.str.lstrip("<>=|"),
        "dimensions": array.dims,
        "shape": tuple(-1 if dim in free_dims else n for dim, n in array.sizes.items()),
        "chunk shape": array.chunks,
        "nodata": None if fill is None else repr(np.asarray(fill).item()),
        "compression": tuple(getattr(codec, "compression", None) for codec in codecs),
        "predictor": tuple(getattr(codec, "predictor", None) for codec in codecs),
        "byte order": tuple(getattr(codec, "byteorder", None) for codec in codecs),
        "codec": codecs,
    }


STORAGE = frozenset({"compression", "predictor", "byte order", "codec"})
"""Aspects of storage only: arrays that differ in nothing else combine once decoded."""


def _strict_codec(codec: Codec) -> Codec:
    """Return the codec without the parameters that only make it accept more segments."""
    if isinstance(codec, ForeignCodec):
        return codec
    # edge and fill accept short segments, ends_exactly LZW segments without an end code
    return replace(_without_lzw_end(codec), edge=None, fill=None)


def _without_lzw_end(codec: SegmentCodec) -> SegmentCodec:
    others = {name: value for name, value in codec.parameters.items() if name != "ends_exactly"}
    return replace(codec, parameters=others)


def group_compatible(aspects: Sequence[Mapping[str, Any]]) -> list[CompatibleGroup]:
    """Group by equal aspects, largest group first."""
    members = indices_by_key(tuple(values.items()) for values in aspects)
    groups = [CompatibleGroup(aspects[indices[0]], tuple(indices)) for indices in members]
    return sorted(groups, key=lambda group: -len(group.members))


def indices_by_key(keys: Iterable[Any]) -> list[list[int]]:
    """Group the indices of equal keys, in the order of their first ones."""
    indices: dict[Any, list[int]] = {}
    for n, key in enumerate(keys):
        indices.setdefault(key, []).append(n)
    return [*indices.values()]


def mismatch_error(groups: Sequence[CompatibleGroup], labels: Sequence[str]) -> ManifestMismatch:
    """Build the error that lists how groups differ, their files, and which would combine.

    Parameters
    ----------
    groups
        At least two.
    labels
        Name of each member: a path or URL.

    Returns
    -------
    The error, with the groups as plain values in its attribute `groups`.
    """
    # files with different arrays have different aspects; the codec counts only if no other differs
    every = dict.fromkeys(name for group in groups for name in group.aspects)
    differing = [name for name in every if len({g.aspects.get(name, _NONE) for g in groups}) > 1]
    names = [name for name in differing if name != "codec"] or differing
    listed: list[dict[str, Any]] = [
        {
            "count": len(group.members),
            "files": [labels[n] for n in group.members[:_MAX_SHOWN]],
            **{name: _describe(group.aspects.get(name, _NONE)) for name in names},
        }
        for group in groups
    ]
    lines = []
    for number, group in enumerate(listed[:_MAX_GROUPS], 1):
        files = ", ".join(str(file) for file in group["files"])
        more = ", ..." if group["count"] > _MAX_SHOWN else ""
        values = ", ".join(f"{name} {group[name]}" for name in names[:_MAX_SHOWN])
        noun = "file" if group["count"] == 1 else "files"
        lines.append(f"  group {number}: {group['count']} {noun} with {values}: {files}{more}")
    if len(groups) > _MAX_GROUPS:
        lines.append(f"  and {len(groups) - _MAX_GROUPS} more groups")
    n_files = sum(len(group.members) for group in groups)
    rest = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    differences = f"{', '.join(names[:_MAX_SHOWN])}{rest}"
    error = ManifestMismatch(
        f"{n_files} files do not combine: {len(groups)} groups differ in {differences}\n"
        + "\n".join(lines),
        hint=_mismatch_hint(groups, names),
    )
    error.groups = listed  # type: ignore[attr-defined]
    return error


def _mismatch_hint(groups: Sequence[CompatibleGroup], differing: Sequence[str]) -> str:
    hint = "\non_mismatch='split' makes one array of each group."
    if "georeference" in differing:
        hint += " mosaic=True puts files side by side by their georeference."
    decoded = indices_by_key(
        tuple((name, value) for name, value in group.aspects.items() if name not in STORAGE)
        for group in groups
    )
    several = [indices for indices in decoded if len(indices) > 1]
    if several:
        together = "; ".join(
            "groups " + ", ".join(str(n + 1) for n in indices[:8])
            for indices in several[:_MAX_SHOWN]
        ).capitalize()
        hint += (
            f" {together} differ only in how they are stored: on_mismatch='decode' combines them in"
            " one array, which can be read but not exported."
        )
    return hint


def _describe(value: Any) -> str:
    # a value that all levels, or all codecs of an array, share is shown once
    while isinstance(value, tuple) and len(set(value)) == 1:
        if len(value) > 1 and isinstance(value[0], int):
            break
        value = value[0]
    if isinstance(value, SegmentCodec):
        value = value.to_config()
    text = str(value).replace("'", "") if isinstance(value, tuple) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def unify_codecs(arrays: Sequence[Array]) -> tuple[tuple[Codec, ...], list[tuple[int, ...]]]:
    """Build one table of codecs for many arrays.

    Of codecs that differ only in accepting short segments, the one that accepts them is used.
    Codecs with different edges stay apart, because short segments of both may have the same length.

    Returns
    -------
    codecs, rows
        The table, and for each array the row of each of its own codecs.
    """
    table: dict[Codec, list[int]] = {}
    codecs: list[Codec] = []
    rows: dict[int, tuple[int, ...]] = {}
    for array in arrays:
        if id(array.codecs) not in rows:
            own = tuple(_codec_row(codec, table, codecs) for codec in array.codecs)
            rows[id(array.codecs)] = own
    return tuple(codecs), [rows[id(array.codecs)] for array in arrays]


def _codec_row(codec: Codec, table: dict[Codec, list[int]], codecs: list[Codec]) -> int:
    rows = table.setdefault(_strict_codec(codec), [])
    for row in rows:
        both = _unify_pair(codecs[row], codec)
        if both is not None:
            codecs[row] = both
            return row
    rows.append(len(codecs))
    codecs.append(codec)
    return rows[-1]


def _unify_pair(first: Codec, second: Codec) -> Codec | None:
    """Return a codec that accepts the segments of both; None if there is none."""
    if first == second or not (
        isinstance(first, SegmentCodec) and isinstance(second, SegmentCodec)
    ):
        return first
    if first.parameters != second.parameters:  # they differ in ends_exactly
        first, second = _without_lzw_end(first), _without_lzw_end(second)
    whole = first.shape[:3]
    # a codec whose edge segments are whole accepts any edge of the other
    if first.edge in (None, whole) and second.edge is not None:
        first, second = second, first
    if second.edge not in (None, whole, first.edge):
        return None
    return first


def place_arrays(
    arrays: Sequence[Array],
    origins: NDArray[np.int64],
    shape: Sequence[int],
    dims: Sequence[str] = (),
) -> Array:
    """Place arrays in a larger one.

    Parameters
    ----------
    arrays
        Arrays of the same chunks, dtype and dimensions.
    origins
        `(n_arrays, n_dims)`, in samples: position of the first sample of each array.
    shape
        Shape of the result; chunks that no array covers are missing.
    dims
        Names of new leading axes.

    Raises
    ------
    ManifestMismatch
        If an array does not start and end on chunk boundaries or lies partly outside, if two arrays
        overlap, or if a new axis has the name of a dimension.
    """
    first = arrays[0]
    taken = sorted(set(dims) & set(first.dims))
    if taken:
        raise ManifestMismatch(
            "a new axis has the name of a dimension of the files",
            got=taken[0],
            hint="Rename the field, or concatenate along the dimension.",
        )
    ones = (1,) * len(dims)
    chunks = (*ones, *first.chunks)
    _check_aligned(arrays, origins, shape, chunks, (*dims, *first.dims))
    grid = chunk_grid(shape, chunks)
    strides = np.array([math.prod(grid[axis + 1 :]) for axis in range(len(grid))], np.int64)
    first_chunks = (origins // np.array(chunks, np.int64)) @ strides
    codecs, rows = unify_codecs(arrays)
    manifest = _scatter(arrays, first_chunks, strides[len(dims) :], grid, rows)
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
    first_chunks: NDArray[np.int64],
    strides: NDArray[np.int64],
    grid: tuple[int, ...],
    rows: Sequence[tuple[int, ...]],
) -> Manifest:
    """Copy the columns of many manifests into one, each at the flat index of its first chunk."""
    sources, columns = _source_columns(arrays, rows)
    n_chunks = math.prod(grid)
    source = np.full(n_chunks, MISSING, np.int32)
    offset, length = np.zeros(n_chunks, np.uint64), np.zeros(n_chunks, np.uint64)
    count = np.zeros(n_chunks, np.int32)
    inlined: dict[int, bytes] = {}
    for members in map(np.array, indices_by_key(array.manifest.shape for array in arrays)):
        relative = _relative_indices(arrays[members[0]], strides)
        index = (first_chunks[members][:, None] + relative).reshape(-1)
        np.add.at(count, index, 1)
        source[index] = np.concatenate([columns[n] for n in members])
        offset[index] = np.concatenate([arrays[n].manifest.offset for n in members])
        length[index] = np.concatenate([arrays[n].manifest.length for n in members])
        for n in members:
            for flat, data in arrays[n].manifest.inlined.items():
                inlined[int(first_chunks[n] + relative[flat])] = data
    if (count > 1).any():
        flat = int(np.flatnonzero(count > 1)[0])
        names = [
            _source_url(array)
            for n, array in enumerate(arrays)
            if flat in first_chunks[n] + _relative_indices(array, strides)
        ]
        raise ManifestMismatch(f"{len(names)} files overlap", got=", ".join(names[:_MAX_SHOWN]))
    return Manifest(grid, sources, source, offset, length, inlined)


def _relative_indices(array: Array, strides: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return flat indices of an array's chunks in the larger grid, relative to its first chunk."""
    grid = array.manifest.shape
    return (np.indices(grid).reshape(len(grid), math.prod(grid)).T @ strides).reshape(-1)


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
    # the last chunk of a file may be padded, so nothing can follow it
    wrong = (origins % steps != 0) | ((ends % steps != 0) & (ends != whole))
    wrong |= (origins < 0) | (ends > whole)
    if not wrong.any():
        return
    n, axis = (int(i) for i in np.argwhere(wrong)[0])
    raise ManifestMismatch(
        f"{int(wrong.any(axis=1).sum())} of {len(arrays)} files do not fall on chunk boundaries"
        f" along '{dims[axis]}'",
        url=_source_url(arrays[n]),
        got=f"samples {int(origins[n, axis])} to {int(ends[n, axis])} of {int(whole[axis])}",
        expected=f"multiples of {int(steps[axis])}",
        hint="All chunks of an array have one size, so that nothing can follow a partial chunk."
        " chunkmode='tile' may give smaller ones. Unless files overlap, xarray joins them: "
        "xr.open_mfdataset(files, engine='tiffref', overviews=False, combine='by_coords').",
    )


def _source_columns(
    arrays: Sequence[Array], rows: Sequence[tuple[int, ...]]
) -> tuple[tuple[Source, ...], list[NDArray[np.int32]]]:
    """Return one table of distinct sources, and the source column of each array for it."""
    table: dict[Source, int] = {}
    columns = []
    for array, codec_rows in zip(arrays, rows, strict=True):
        new_rows = []
        for source in array.manifest.sources:
            row = codec_rows[source.codec]
            own = source if row == source.codec else replace(source, codec=row)
            new_rows.append(table.setdefault(own, len(table)))
        # MISSING (-1) and INLINED (-2) index the last two entries
        lookup = np.array([*new_rows, INLINED, MISSING], np.int32)
        columns.append(lookup[array.manifest.source])
    return tuple(table), columns


def reindex_axis(array: Array, axis: int, positions: NDArray[np.int64], length: int) -> Array:
    """Move the elements of an axis, whose chunks have length 1, to new positions.

    Parameters
    ----------
    positions
        `(n,)`, new position of each element; all other positions are missing.
    length
        New length of the axis.
    """
    assert array.chunks[axis] == 1, array.chunks
    before, after = array.manifest.shape[:axis], array.manifest.shape[axis + 1 :]
    # the chunks of the array, and those of a missing element at the end, which -1 selects
    chunks = np.arange(array.manifest.n_chunks).reshape(array.manifest.shape)
    missing = np.full((*before, 1, *after), MISSING)
    order = np.full(length, -1)
    order[positions] = np.arange(len(positions))
    flat = np.concatenate([chunks, missing], axis).take(order, axis).reshape(-1)
    manifest = select_chunks(array.manifest, flat, (*before, length, *after))
    shape = (*array.shape[:axis], length, *array.shape[axis + 1 :])
    return replace(array, shape=shape, manifest=manifest)


def merge_arrays(first: Array, second: Array) -> Array:
    """Fill the missing chunks of an array from another array of the same grid.

    Raises
    ------
    ManifestMismatch
        If both have the same chunk.
    """
    both = (first.manifest.source != MISSING) & (second.manifest.source != MISSING)
    if both.any():
        n = int(np.flatnonzero(both)[0])
        names = [_source_url(array, array.manifest.source[n]) for array in (first, second)]
        raise ManifestMismatch(
            "two files have the same coordinates", got=" and ".join(names),
            hint="Leave out one of them.",
        )  # fmt: skip
    assert first.manifest.shape == second.manifest.shape
    codecs, rows = unify_codecs([first, second])
    sources, (ours, theirs) = _source_columns([first, second], rows)
    is_second = theirs != MISSING
    manifest = Manifest(
        first.manifest.shape,
        sources,
        np.where(is_second, theirs, ours),
        np.where(is_second, second.manifest.offset, first.manifest.offset),
        np.where(is_second, second.manifest.length, first.manifest.length),
        {**first.manifest.inlined, **second.manifest.inlined},
    )
    return replace(first, codecs=codecs, manifest=manifest)


def _source_url(array: Array, row: int = 0) -> str:
    sources = array.manifest.sources
    return sources[max(0, int(row))].url if sources else "an array without sources"


_ROTATED = (1, 2, 0)
_SELF_INVERSE = ((1, 0, 2), (1, 0))
"""Two transposes that together equal `_ROTATED`, each its own inverse."""


def permute_axes(array: Array, order: Sequence[int], *, self_inverse: bool = False) -> Array:
    """Return the array with its axes in another order.

    Parameters
    ----------
    order
        For each axis of the result, the axis of `array`.
    self_inverse
        Write the rotation that moves samples first as two transposes that are each their own
        inverse. GDAL 3.12 applies any other transpose the wrong way round; zarrita.js 0.7 is wrong
        with two. Maps use two, microscopy images one, with metadata that makes GDAL refuse them.

    Raises
    ------
    UnsupportedTiff
        If the codec of the array cannot be combined with a transpose.

    Examples
    --------
    >>> image = Array.from_values(np.zeros((4, 6, 3), "u1"), ("y", "x", "s"))
    >>> permute_axes(image, (2, 0, 1)).codec.transposes
    ((1, 2, 0),)
    """
    order = tuple(order)
    if order == tuple(range(len(order))):
        return array
    n_split = _n_axes_to_split(array, order)
    array = _split_chunks(array, n_split) if n_split and _is_plain(array) else array
    chunks = tuple(array.chunks[axis] for axis in order)
    codecs = array.codecs
    if not _keeps_sample_order(array.chunks, order):
        stored = _stored_order(array.chunks, order)
        transposes: tuple[tuple[int, ...], ...] = (trim_order(stored),)
        if self_inverse and transposes == (_ROTATED,):
            transposes = _SELF_INVERSE
        shape = tuple(chunks[axis] for axis in stored)
        codecs = tuple(_transpose_codec(codec, transposes, shape) for codec in codecs)
    manifest, grid = array.manifest, tuple(array.grid[axis] for axis in order)
    if _keeps_sample_order(array.grid, order):
        manifest = replace(manifest, shape=grid)
    else:
        flat = np.arange(manifest.n_chunks).reshape(array.grid).transpose(order).reshape(-1)
        manifest = select_chunks(manifest, flat, grid)
    return replace(
        array,
        shape=tuple(array.shape[axis] for axis in order),
        chunks=chunks,
        dims=tuple(array.dims[axis] for axis in order),
        codecs=codecs,
        manifest=manifest,
    )


def trim_order(order: Sequence[int]) -> tuple[int, ...]:
    """Remove the leading axes that stay in place from an axis order, and renumber the rest.

    >>> trim_order([0, 2, 3, 1])
    (1, 2, 0)
    """
    n_fixed = next((n for n, axis in enumerate(order) if n != axis), len(order))
    return tuple(axis - n_fixed for axis in order[n_fixed:])


def is_self_inverse(order: Sequence[int]) -> bool:
    """Return whether applying an axis order twice restores the original order."""
    return all(order[axis] == n for n, axis in enumerate(order))


def with_transposes(
    codec: SegmentCodec, transposes: tuple[tuple[int, ...], ...], stored: Sequence[int]
) -> SegmentCodec | None:
    """Return the codec of chunks that are transposed before they are stored.

    Parameters
    ----------
    codec
        Codec of the stored samples.
    transposes
        As in `SegmentCodec`.
    stored
        Shape of the stored chunk.

    Returns
    -------
    The codec, or None if the axes of the chunk do not match those of the codec.
    """
    n_moved = max(map(len, transposes), default=0)
    if n_moved > 4:  # a segment has four axes
        return None
    if codec.shape[4 - n_moved :] == tuple(stored[len(stored) - n_moved :]):
        return replace(codec, transposes=transposes)
    padded = (*(1,) * (4 - len(stored)), *stored)
    first = padded[-4] if n_moved == 4 else math.prod(padded[:-3])
    shape = (first, padded[-3], padded[-2], padded[-1])
    # a predictor depends on rows and samples, so its shape cannot change
    if codec.predictor not in (0, 1) or codec.edge or math.prod(shape) != codec.n_samples:
        return None
    return replace(codec, shape=shape, transposes=transposes)


def _transpose_codec(
    codec: Codec, transposes: tuple[tuple[int, ...], ...], stored: tuple
) -> SegmentCodec:
    transposed = None
    if isinstance(codec, SegmentCodec) and not codec.transposes:
        transposed = with_transposes(codec, transposes, stored)
    if transposed is None:
        raise UnsupportedTiff(
            "the axes of the chunks cannot be transposed",
            got=f"chunks of {stored} samples",
            hint="Keep the axes as they are stored: axes='as-stored'.",
        )
    return transposed


def _keeps_sample_order(chunks: Sequence[int], order: Sequence[int]) -> bool:
    """Return whether the samples of a chunk stay in the same order."""
    long = [axis for axis in order if chunks[axis] != 1]
    return long == sorted(long)


def _stored_order(chunks: Sequence[int], order: Sequence[int]) -> list[int]:
    """Return the axes of a permuted chunk in the order in which its samples are stored.

    The position of axes of length 1 is arbitrary; they are placed to need the fewest moves.
    """
    position = {axis: n for n, axis in enumerate(order)}
    stored = [position[axis] for axis in range(len(order)) if chunks[axis] != 1]
    n_fixed = next(n for n, axis in enumerate(sorted(stored)) if stored[n] != axis)
    tail = stored[n_fixed:]
    return [*(axis for axis in range(len(order)) if axis not in tail), *tail]


def select_chunks(manifest: Manifest, flat: NDArray[np.int64], shape: tuple[int, ...]) -> Manifest:
    """Return the manifest of some chunks of another one.

    Parameters
    ----------
    flat
        `(n,)`, flat index of each chunk in the grid of `manifest`, in C order, or `MISSING`.
    shape
        Chunk grid of the result.
    """
    is_given = flat != MISSING
    source = np.where(is_given, manifest.source[flat], MISSING)
    offset, length = (np.where(is_given, c[flat], 0) for c in (manifest.offset, manifest.length))
    indices = np.flatnonzero(source == INLINED).tolist() if manifest.inlined else []
    inlined = {n: manifest.inlined[int(flat[n])] for n in indices}
    return Manifest(shape, manifest.sources, source, offset, length, inlined)


def select_index(array: Array, place: Mapping[str, int]) -> Array:
    """Index an array on some dimensions, by name, which must have chunks of length 1."""
    index = tuple(place.get(dim, slice(None)) for dim in array.dims)
    axes = [axis for axis, dim in enumerate(array.dims) if dim not in place]
    grid = array.manifest.shape
    flat = np.arange(array.manifest.n_chunks).reshape(grid)[index].reshape(-1)
    part = select_chunks(array.manifest, flat, tuple(grid[axis] for axis in axes))
    used, column = np.unique(part.source[part.source >= 0], return_inverse=True)
    source = part.source.copy()
    source[source >= 0] = column
    sources = tuple(part.sources[n] for n in used.tolist())
    manifest = replace(part, sources=sources, source=source)
    return replace(
        array,
        shape=tuple(array.shape[axis] for axis in axes),
        chunks=tuple(array.chunks[axis] for axis in axes),
        dims=tuple(array.dims[axis] for axis in axes),
        manifest=manifest,
    )


def split_chunks(array: Array, dim: str) -> Array | None:
    """Return the array with chunks of length 1 along a dimension; None if they cannot be split."""
    axis = array.dims.index(dim)
    if array.chunks[axis] == 1:
        return array
    return _split_chunks(array, axis + 1) if _is_plain(array) else None


def _is_plain(array: Array) -> bool:
    """Return whether all chunks are uncompressed, so that they can be split between rows."""
    n_bytes, manifest = math.prod(array.chunks) * array.dtype.itemsize, array.manifest
    is_whole = (manifest.length == n_bytes) | (manifest.source < 0)
    return (
        bool(is_whole.all())
        and not manifest.inlined
        and all(
            isinstance(codec, SegmentCodec) and codec.is_plain and codec.edge is None
            for codec in array.codecs
        )
    )


def _n_axes_to_split(array: Array, order: Sequence[int]) -> int:
    """Return how many leading axes to split so that the samples of chunks keep their order.

    If no number does, it is that of the axes before those of a plane, if their order changes: then
    a segment, which has four axes, can be transposed.
    """
    for n_split in range(len(order) - 1):
        if _keeps_sample_order((*(1,) * n_split, *array.chunks[n_split:]), order):
            return n_split
    n_planes = len(order) - 3
    return n_planes if [axis for axis in order if axis < n_planes] != [*range(n_planes)] else 0


def _split_chunks(array: Array, n_split: int) -> Array:
    """Split uncompressed chunks along the leading axes to a length of 1."""
    manifest, inner = array.manifest, array.chunks[n_split:]
    chunks = (*(1,) * n_split, *inner)
    grid = chunk_grid(array.shape, chunks)
    index = np.indices(grid[:n_split]).reshape(n_split, -1)
    steps = np.array(array.chunks[:n_split])[:, None]
    rest = math.prod(grid[n_split:])
    outer = np.ravel_multi_index(tuple(index // steps), manifest.shape[:n_split])
    within = np.ravel_multi_index(tuple(index % steps), array.chunks[:n_split])
    flat = (outer[:, None] * rest + np.arange(rest)).reshape(-1)
    n_bytes = math.prod(inner) * array.dtype.itemsize
    shift = np.repeat(within * n_bytes, rest).astype(np.uint64)
    columns = manifest.source[flat], manifest.offset[flat] + shift
    length = np.full(len(flat), n_bytes, np.uint64)
    shape: Any = (1, 1, 1, *inner)[-4:] if len(inner) <= 4 else (1, 1, 1, math.prod(inner))
    codecs = tuple(replace(codec, shape=shape) for codec in array.codecs)  # type: ignore[call-arg]
    split = Manifest(grid, manifest.sources, *columns, length)
    return replace(array, chunks=chunks, codecs=codecs, manifest=split)
