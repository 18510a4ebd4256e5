"""Arrays made of arrays: many placed in a larger one, merged and reindexed; axes in another order.

Owns how chunk grids are put together, the aspects in which arrays must agree for that, and the one
error that lists all differences together. Owns how an order of axes is put into an array: by other
chunk keys where the samples of a chunk stay as they are, by smaller chunks where chunks are runs of
plain planes, else by transposes that its codec undoes. Pure operations on columns: there is no loop
over chunks, and where many arrays share a grid none over positions either. It opens nothing.

Reference: Zarr v3, codec `transpose`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ManifestMismatch, UnsupportedTiff
from .array import Array, chunk_grid
from .codec import ForeignCodec, SegmentCodec
from .manifest import INLINED, MISSING, Manifest, Source

STORAGE = frozenset({"compression", "predictor", "byte order", "codec"})
"""Aspects that say only how samples are stored: arrays that differ in them can be read decoded."""

_NONE = "none"


@dataclass(frozen=True, slots=True)
class Kind:
    """Arrays or files that combine with one another.

    Attributes
    ----------
    aspects
        What they agree in: aspect -> a hashable value that says it.
    members
        Their indices.
    """

    aspects: Mapping[str, Any]
    members: tuple[int, ...] = field(default=())


def aspects_of(array: Array, free_dims: Sequence[str] = ()) -> dict[str, Any]:
    """Return everything about an array that must agree for it to be combined.

    Parameters
    ----------
    free_dims
        Dimensions along which arrays may differ in length.
    """
    shape = tuple(
        -1 if dim in free_dims else n for dim, n in zip(array.dims, array.shape, strict=True)
    )
    codecs = tuple(dict.fromkeys(without_leniency(codec) for codec in array.codecs))
    return {
        "dtype": array.dtype.str.lstrip("<>=|"),
        "dimensions": array.dims,
        "shape": shape,
        "chunk shape": array.chunks,
        "nodata": None if array.fill_value is None else repr(array.fill_value),
        "compression": tuple(getattr(codec, "compression", None) for codec in codecs),
        "predictor": tuple(getattr(codec, "predictor", None) for codec in codecs),
        "byte order": tuple(getattr(codec, "byteorder", None) for codec in codecs),
        "codec": codecs,
    }


def without_leniency(codec: SegmentCodec | ForeignCodec) -> SegmentCodec | ForeignCodec:
    """Return a codec without what only lets it take more segments."""
    if isinstance(codec, ForeignCodec):
        return codec
    # these only let it take short segments as well, or segments of LZW that lack their end code
    return replace(_without_end(codec), edge=None, fill=None)


def _without_end(codec: SegmentCodec) -> SegmentCodec:
    """Return a codec that takes segments of LZW whether they end exactly or not."""
    if "ends_exactly" not in codec.parameters:
        return codec
    others = {name: value for name, value in codec.parameters.items() if name != "ends_exactly"}
    return replace(codec, parameters=others)


def group_compatible(aspects: Sequence[Mapping[str, Any]]) -> list[Kind]:
    """Group by equal aspects, largest group first."""
    kinds: dict[Any, list[int]] = {}
    for n, one in enumerate(aspects):
        kinds.setdefault(tuple(one.items()), []).append(n)
    found = [Kind(aspects[members[0]], tuple(members)) for members in kinds.values()]
    return sorted(found, key=lambda kind: -len(kind.members))


def differing(kinds: Sequence[Kind]) -> list[str]:
    """Name the aspects in which groups differ; "codec" only where nothing says it plainer."""
    # groups of files with other arrays have other aspects
    every = dict.fromkeys(name for kind in kinds for name in kind.aspects)
    first = kinds[0].aspects
    names = [
        name
        for name in every
        if any(kind.aspects.get(name, _NONE) != first.get(name, _NONE) for kind in kinds)
    ]
    plain = [name for name in names if name != "codec"]
    return plain or names


def mismatch(kinds: Sequence[Kind], labels: Sequence[str], limit: int = 8) -> ManifestMismatch:
    """Explain in one error how all groups differ, which files they are, and which would combine.

    Parameters
    ----------
    kinds
        At least two.
    labels
        Name of each member: a path or URL.
    limit
        Groups to list in full.

    Returns
    -------
    The error, with the groups as plain values in its attribute `groups`.
    """
    names = differing(kinds)
    groups: list[dict[str, Any]] = [
        {
            "count": len(kind.members),
            "files": [labels[n] for n in kind.members[:_SHOWN]],
            **{name: _describe(kind.aspects.get(name, _NONE)) for name in names},
        }
        for kind in kinds
    ]
    lines = []
    for number, group in enumerate(groups[:limit], 1):
        files = ", ".join(str(one) for one in group["files"])
        more = ", ..." if group["count"] > _SHOWN else ""
        values = ", ".join(f"{name} {group[name]}" for name in names[:_SHOWN])
        noun = "file" if group["count"] == 1 else "files"
        lines.append(f"  group {number}: {group['count']} {noun} with {values}: {files}{more}")
    if len(groups) > limit:
        lines.append(f"  and {len(groups) - limit} more groups")
    n_files = sum(len(kind.members) for kind in kinds)
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    differences = f"{', '.join(names[:_SHOWN])}{rest}"
    error = ManifestMismatch(
        f"{n_files} files do not combine: {len(kinds)} groups differ in {differences}\n"
        + "\n".join(lines),
        hint=_advise(kinds),
    )
    error.groups = groups  # type: ignore[attr-defined]
    return error


def _advise(kinds: Sequence[Kind]) -> str:
    """Describe which groups would combine, and how."""
    mixed: dict[Any, list[int]] = {}
    for number, kind in enumerate(kinds, 1):
        rest = tuple((k, v) for k, v in kind.aspects.items() if k not in STORAGE)
        mixed.setdefault(rest, []).append(number)
    several = [numbers for numbers in mixed.values() if len(numbers) > 1]
    hint = "\nEach group combines for itself: on_mismatch='split' makes one array of each."
    if "georeference" in differing(kinds):
        hint += " mosaic=True puts files side by side by their georeference."
    if several:
        together = "; ".join(
            "groups " + ", ".join(map(str, numbers[:8])) for numbers in several[:_SHOWN]
        ).capitalize()
        hint += (
            f" {together} differ only in how they are stored: on_mismatch='decode' keeps them in"
            " one array, which can be read but not exported."
        )
    return hint


def _describe(value: Any) -> str:
    # say once what all levels, or all codecs of an array, have alike
    while isinstance(value, tuple) and (len(value) == 1 or _are_alike(value)):
        value = value[0]
    if isinstance(value, SegmentCodec):
        value = value.to_config()
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _are_alike(values: tuple[Any, ...]) -> bool:
    return bool(values) and isinstance(values[0], tuple) and len(set(values)) == 1


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
    """Return the codec that takes the segments of two that differ in leniency, if there is one."""
    if one == other or not (isinstance(one, SegmentCodec) and isinstance(other, SegmentCodec)):
        return one
    if one.parameters != other.parameters:  # one of them says where its segments end
        one, other = _without_end(one), _without_end(other)
    whole = one.shape[:3]
    # whole segments at the edge leave the word to the other
    if one.edge in (None, whole) and other.edge is not None:
        one, other = other, one
    if other.edge not in (None, whole, one.edge):
        return None
    return one


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
    """Make one table of sources, each once, and return the source column of each array in it."""
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
