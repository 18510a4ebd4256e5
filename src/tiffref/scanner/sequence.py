"""Many files to references: `scan_sequence`.

Owns the order of the work: find the files, read their names, scan them, compare them, and put their
arrays together with the coordinates beside them. How columns are combined is `model.combine`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.inlined import MAGIC, wrap_inlined
from ..errors import ManifestMismatch, SelectionError
from ..model.codec import SegmentCodec
from ..model.combine import (
    STORAGE,
    Kind,
    aspects_of,
    group_alike,
    mismatch,
    occupied,
    place,
)
from ..model.manifest import INLINED
from ..model.node import Array, Group
from ..references import References
from .coordinates import Axis, axis_array, make_axis, order_axes, read_values
from .dates import read_dates
from .files import Part, Progress, place_of, scan_files, unreadable
from .inputs import list_files
from .mosaic import mosaic_coordinates, mosaic_origins
from .names import parse_pattern, read_names

__all__ = ["scan_sequence"]

_SHOWN = 3
_MAX_REPORTED = 1000
_MODES = ("error", "split", "decode")
_METADATA = frozenset({"georeference", "nodata"})
_PERSONAL = ("TIFFTAG_DATETIME", "TIFFTAG_ARTIST", "TIFFTAG_HOSTCOMPUTER", "TIFFTAG_DOCUMENTNAME",
             "TIFFTAG_PAGENAME")  # fmt: skip
"""Attributes that say something of one file, not of the series."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was asked for, beside the files."""

    concat: Mapping[str, str]
    is_mosaic: bool
    on_mismatch: str
    ignore: frozenset[str]
    allow_holes: bool


def scan_sequence(
    files: Any,
    *,
    pattern: str | None = None,
    formats: Mapping[str, str] | None = None,
    axesorder: Sequence[str | int] | None = None,
    categories: Mapping[str, Mapping[str, int]] | None = None,
    time_from: str | None = None,
    concat: str | Mapping[str, str] | None = None,
    mosaic: bool = False,
    on_mismatch: str = "error",
    ignore: Sequence[str] = (),
    allow_holes: bool = False,
    series: int | None = 0,
    level: int | None = None,
    key: int | slice | Sequence[int] | None = None,
    chunkmode: Any = None,
    fillvalue: Any = None,
    zattrs: Mapping[str, Any] | None = None,
    assets: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: Progress | bool | None = None,
) -> References:
    """Find where the bytes of a series of TIFF files are, as one array with coordinates.

    Parameters
    ----------
    files
        Paths or URLs; a glob or readable pattern; a CSV file, DataFrame or mapping of columns; STAC
        items; tifffile's `FileSequence`.
    pattern
        How names give coordinates: `"S2A_{tile}_{time:%Y%m%d}_{band}.tif"`, a regular expression
        with named groups, a glob, or a preset ("sentinel-2", "landsat", "modis", "cellvoyager",
        "opera", "incell", "micromanager", "axes"). Without one the files are counted.
    formats
        Field -> "int", "float", "str" or a format of `strptime`.
    axesorder
        Order of the new axes, by name or by place in the pattern.
    categories
        Field -> {label: index}, which orders labels.
    time_from
        Take an axis `time` from the files: "DateTime" (tag 306) or "AcquisitionDate" (OME-XML).
    concat
        Dimension of the files to join them along, instead of stacking on a new axis; or field ->
        dimension for several.
    mosaic
        Place files by their georeference along y and x.
    on_mismatch
        "error"; "split" makes a group `part_0`, `part_1`, ... for files that combine; "decode"
        keeps files that differ only in how they are stored in one array, which can be read but not
        exported.
    ignore
        Of "georeference" and "nodata": differences to overlook; the first file's holds for all.
    allow_holes
        Leave chunks missing where no file is, or a file cannot be read; `References.series` has the
        report. By default that is an error.
    series, level, key, chunkmode, fillvalue
        For each file, as in `scan`; by default the first series with all its levels.
    zattrs
        Attributes to add at the root.
    assets
        Keys of the assets of STAC items.
    storage_options
        For the fsspec file system of URLs.
    workers
        Threads; by default 1 for local files, 16 for remote ones.
    progress
        Called with the number of files done and of all; True draws a bar on a terminal.

    Returns
    -------
    References with `image`, `image_1`, ... and a coordinate for each new axis. The dimension is the
    sorted set of the values that occur.

    Raises
    ------
    SourceError
        If there are no files, or some cannot be read.
    ManifestMismatch
        If files do not combine, take one place, or leave holes; or names do not match.
    SelectionError
        If the options make no sense together.
    """
    plan = _plan(concat, mosaic, on_mismatch, ignore, allow_holes)
    listed = list_files(files, assets=assets, storage_options=storage_options)
    fields = _read_fields(listed.urls, pattern or listed.pattern, formats, listed.columns)
    options = {
        "series": None if key is not None else series,
        "level": level,
        "key": key,
        "chunkmode": chunkmode,
        "fillvalue": fillvalue,
        "storage_options": storage_options,
    }
    parts, failures = scan_files(
        listed.urls, options, workers=workers, progress=progress, ignores_place=mosaic
    )
    if failures and (not allow_holes or len(failures) == len(parts)):
        raise unreadable(failures, listed.urls)
    if time_from is not None:
        fields = {"time": read_dates(parts, time_from), **fields}
    names = order_axes(_axis_names(fields, plan), axesorder)
    here = np.array([n for n, part in enumerate(parts) if part is not None])
    kinds = _compare([parts[n] for n in here], plan)  # type: ignore[misc]
    record = {
        "pattern": pattern or listed.pattern,
        "formats": dict(formats or {}),
        "time_from": time_from,
        "concat": dict(plan.concat),
        "unreadable": [
            {"url": listed.urls[n], "reason": str(error)}
            for n, error in list(failures.items())[:_MAX_REPORTED]
        ],
    }
    built = []
    for members in kinds:
        chosen = here[members] if len(kinds) > 1 else np.arange(len(parts))
        own = {name: values[chosen] for name, values in fields.items()}
        axes = {name: make_axis(name, own[name], (categories or {}).get(name)) for name in own}
        for name in names:
            if name not in axes:
                axes[name] = _counted(name, len(chosen))
        mask = np.array([parts[n] is not None for n in chosen])
        built.append(
            _combine([parts[n] for n in chosen[mask]], [axes[name] for name in names], mask, plan,
                     record)
        )  # fmt: skip
    return _finish(built, zattrs or {})


def _plan(
    concat: str | Mapping[str, str] | None,
    mosaic: bool,
    on_mismatch: str,
    ignore: Sequence[str],
    allow_holes: bool,
) -> _Plan:
    if on_mismatch not in _MODES:
        raise SelectionError("unknown on_mismatch", got=repr(on_mismatch), expected=_MODES)
    unknown = set(ignore) - _METADATA
    if unknown:
        raise SelectionError(
            "cannot be ignored: pixels would come out different",
            got=sorted(unknown),
            expected=sorted(_METADATA),
        )
    joined = {concat: concat} if isinstance(concat, str) else dict(concat or {})
    if mosaic and joined:
        raise SelectionError("concat and mosaic exclude one another", got=joined)
    return _Plan(joined, mosaic, on_mismatch, frozenset(ignore), allow_holes)


def _read_fields(
    urls: Sequence[str],
    pattern: str | None,
    formats: Mapping[str, str] | None,
    columns: Mapping[str, Sequence[Any]],
) -> dict[str, NDArray]:
    """Give the values of all fields: those of a table, and those that names say."""
    kinds = dict(formats or {})
    texts: dict[str, Sequence[Any]] = dict(columns)
    if pattern is not None:
        parsed = parse_pattern(pattern, formats)
        texts |= read_names(urls, parsed)
        kinds = dict(parsed.formats)
    return {name: read_values(name, column, kinds.get(name)) for name, column in texts.items()}


def _axis_names(fields: Mapping[str, Any], plan: _Plan) -> list[str]:
    """Name the axes; files that nothing is known of are counted along `i`, or what they join."""
    if fields:
        unknown = sorted(set(plan.concat) - set(fields))
        if unknown and not (len(plan.concat) == 1 and not fields):
            raise SelectionError("concat names no field", got=unknown, expected=sorted(fields))
        return list(fields)
    if plan.is_mosaic:
        return []
    return list(plan.concat) or ["i"]


def _counted(name: str, n: int) -> Axis:
    return Axis(name, None, np.arange(n), n)


def _compare(parts: Sequence[Part], plan: _Plan) -> list[NDArray[np.int64]]:
    """Find which files combine.

    Returns
    -------
    The indices of the files of each group: one group, unless files may be split.
    """
    known: dict[Any, dict[str, Any]] = {}
    aspects = []
    for part in parts:
        place = () if plan.is_mosaic or "georeference" in plan.ignore else place_of(part.notes)
        key = (id(part.model), place)
        if key not in known:
            known[key] = _aspects(part, place, plan)
        aspects.append(known[key])
    kinds = group_alike(aspects)
    if len(kinds) > 1 and plan.on_mismatch == "decode":
        kinds = _join_stored(kinds)
    if len(kinds) > 1 and plan.on_mismatch != "split":
        raise mismatch(kinds, [part.url for part in parts])
    return [np.array(kind.members) for kind in sorted(kinds, key=lambda kind: kind.members[0])]


def _aspects(part: Part, place: tuple, plan: _Plan) -> dict[str, Any]:
    """Say everything about a file that must agree with the others of its sequence."""
    free = (*plan.concat.values(), *(("y", "x") if plan.is_mosaic else ()))
    found: dict[str, Any] = {"levels": tuple(sorted(part.arrays))}
    for path, array in part.arrays.items():
        suffix = path.removeprefix("image")
        one = aspects_of(array, (*free, *(f"{dim}{suffix}" for dim in free)))
        for name, value in one.items():
            found[name] = value if len(part.arrays) == 1 else (*found.get(name, ()), value)
        scale = {k: array.attributes.get(k) for k in ("scale_factor", "add_offset", "units")}
        found["scale"] = (*found.get("scale", ()), repr(scale))
    found["georeference"] = place
    for name in plan.ignore:
        found[name] = None
    return found


def _join_stored(kinds: Sequence[Kind]) -> list[Kind]:
    """Join groups that differ only in how samples are stored."""
    joined: dict[Any, list[Kind]] = {}
    for kind in kinds:
        rest = tuple((k, v) for k, v in kind.aspects.items() if k not in STORAGE)
        joined.setdefault(rest, []).append(kind)
    return [
        Kind(group[0].aspects, tuple(sorted(n for kind in group for n in kind.members)))
        for group in joined.values()
    ]


def _combine(
    parts: Sequence[Part],
    axes: Sequence[Axis],
    mask: NDArray[np.bool_],
    plan: _Plan,
    record: Mapping[str, Any],
) -> References:
    """Put files that combine into one group.

    Parameters
    ----------
    parts
        The files that can be read.
    mask
        Which of the files of the axes they are.
    """
    index = np.stack([axis.index for axis in axes], axis=1) if axes else np.zeros((len(mask), 0), int)
    lengths = [axis.length for axis in axes]
    report = {} if plan.is_mosaic else _check_filled(index, mask, axes, parts, plan)
    index = index[mask]
    new = [n for n, axis in enumerate(axes) if axis.name not in plan.concat]
    dims = [axes[n].name for n in new]
    joined = {plan.concat[axis.name]: (axis, index[:, n]) for n, axis in enumerate(axes) if n not in new}
    model = parts[0].model
    children: dict[str, Array | Group] = {}
    for path in parts[0].arrays:
        arrays = [part.arrays[path] for part in parts]
        suffix = path.removeprefix("image")
        if plan.is_mosaic:
            inner, shape = mosaic_origins(parts, path, suffix)
        else:
            inner, shape = _joined_origins(arrays, joined, suffix)
        if len({codec for array in _distinct(arrays) for codec in array.codecs}) > 1:
            arrays = [_self_describing(array) for array in arrays]
        children[path] = _describe(
            place(
                arrays,
                np.concatenate([index[:, new], inner], axis=1),
                (*(lengths[n] for n in new), *shape),
                dims,
            ),
            parts, path,
        )  # fmt: skip
        if plan.is_mosaic:
            _check_covered(children[path], arrays, plan, report)  # type: ignore[arg-type]
    # coordinates of the files come first to be seen first, those of the sequence replace them
    constant = _constants(model, children)
    if plan.is_mosaic:
        constant = mosaic_coordinates(constant, parts, children)
    taken = {dim for dim in joined} | {f"{d}_{n}" for d in joined for n in range(1, 32)}
    for name, child in constant.items():
        if not (isinstance(child, Array) and taken & set(child.dims)):
            children.setdefault(name, child)
    for n in new:
        child = axis_array(axes[n])
        if child is not None:
            children[axes[n].name] = child
    sequence = {**record, "dims": dims, "files": len(mask), **report}
    series = tuple({**row, "sequence": sequence} for row in model.series)
    return References(Group(children, dict(model.group.attributes)), series)


def _distinct(arrays: Sequence[Array]) -> list[Array]:
    """Give one array for each table of codecs."""
    return list({id(array.codecs): array for array in arrays}.values())


def _check_filled(
    index: NDArray[np.int64],
    mask: NDArray[np.bool_],
    axes: Sequence[Axis],
    parts: Sequence[Part],
    plan: _Plan,
) -> dict[str, Any]:
    """Refuse two files at one place, and places without a file unless they are allowed."""
    lengths = [axis.length for axis in axes]
    n_places = math.prod(lengths)
    if n_places > max(1 << 24, 64 * len(mask)):
        raise ManifestMismatch(
            f"{len(mask)} files leave nearly all of {n_places} places empty",
            got=", ".join(f"{axis.name} {axis.length}" for axis in axes),
            hint="Stack on fewer axes.",
        )
    count = occupied(index[mask], lengths)
    if (count > 1).any():
        where = tuple(np.argwhere(count > 1)[0])
        at = np.flatnonzero((index[mask] == where).all(axis=1))
        raise ManifestMismatch(
            f"{int((count > 1).sum())} places are taken by more than one file",
            got=f"{_say_place(axes, where)}: {', '.join(parts[n].url for n in at[:_SHOWN])}",
            hint="Add what tells them apart to the pattern, or leave files out.",
        )
    empty = np.argwhere(count == 0)
    if not len(empty):
        return {}
    places = [_say_place(axes, tuple(where)) for where in empty[:_MAX_REPORTED]]
    if not plan.allow_holes:
        raise ManifestMismatch(
            f"{len(empty)} of {n_places} places have no file",
            got="; ".join(places[:_SHOWN]) + ("; ..." if len(empty) > _SHOWN else ""),
            hint="allow_holes=True leaves them missing and lists them.",
        )
    return {"n_holes": len(empty), "holes": places}


def _say_place(axes: Sequence[Axis], where: Sequence[int]) -> str:
    said = (
        f"{axis.name}={n if axis.values is None else axis.values[n]}"
        for axis, n in zip(axes, where, strict=True)
    )
    return ", ".join(said)


def _joined_origins(
    arrays: Sequence[Array], joined: Mapping[str, tuple[Axis, NDArray]], suffix: str
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Find where each array goes along the dimensions that are joined."""
    first = arrays[0]
    origins = np.zeros((len(arrays), len(first.shape)), np.int64)
    shape = list(first.shape)
    for dim, (axis, index) in joined.items():
        name = dim if dim in first.dims else f"{dim}{suffix}"
        if name not in first.dims:
            raise SelectionError(
                "concat names no dimension of the files", got=dim, expected=first.dims
            )
        n = first.dims.index(name)
        sizes = np.array([array.shape[n] for array in arrays])
        extent = np.zeros(axis.length, np.int64)
        np.maximum.at(extent, index, sizes)
        if (extent[index] != sizes).any():
            bad = int(np.flatnonzero(extent[index] != sizes)[0])
            raise ManifestMismatch(
                f"files at one place along '{dim}' differ in length",
                url=arrays[bad].manifest.sources[0].url,
                got=int(sizes[bad]),
                expected=int(extent[index[bad]]),
            )
        origins[:, n] = (np.cumsum(extent) - extent)[index]
        shape[n] = int(extent.sum())
    return origins, tuple(shape)


def _check_covered(
    whole: Array, arrays: Sequence[Array], plan: _Plan, report: dict[str, Any]
) -> None:
    n_holes = whole.manifest.n_chunks - sum(array.manifest.n_chunks for array in arrays)
    if n_holes and not plan.allow_holes:
        raise ManifestMismatch(
            f"{n_holes} of {whole.manifest.n_chunks} chunks of the mosaic have no file",
            hint="allow_holes=True leaves them missing.",
        )
    report["n_holes"] = max(n_holes, report.get("n_holes", 0))


def _self_describing(array: Array) -> Array:
    """Let inlined chunks say how they decode, since the array will have codecs of other files."""
    if not array.manifest.inlined:
        return array
    codec = array.codecs[0]
    assert isinstance(codec, SegmentCodec)
    plain = replace(codec, parameters={k: v for k, v in codec.parameters.items() if k != "is_mixed"})
    inlined = {
        n: data if data[: len(MAGIC)] == MAGIC else wrap_inlined(plain, data)
        for n, data in array.manifest.inlined.items()
    }
    return replace(array, manifest=replace(array.manifest, inlined=inlined))


def _describe(whole: Array, parts: Sequence[Part], path: str) -> Array:
    """Keep the attributes that all files agree in."""
    models = {id(part.model): part.arrays[path].attributes for part in parts}
    first, *others = models.values()
    kept = {
        name: value
        for name, value in first.items()
        if name not in _PERSONAL
        and all(name in other and repr(other[name]) == repr(value) for other in others)
    }
    return replace(whole, attributes=kept)


def _constants(model: References, children: Mapping[str, Any]) -> dict[str, Array | Group]:
    """Give what holds for all files: coordinates and the like, without any bytes in files."""
    return {
        name: child
        for name, child in model.group.children.items()
        if name not in children
        and isinstance(child, Array)
        and (child.manifest.source == INLINED).all()
    }


def _finish(built: Sequence[References], zattrs: Mapping[str, Any]) -> References:
    if len(built) == 1:
        return References(built[0].group.with_attributes(**zattrs), built[0].series)
    children = {f"part_{n}": one.group for n, one in enumerate(built)}
    series = tuple(
        {**row, "levels": [{**level, "path": f"part_{n}/{level['path']}"} for level in row["levels"]]}
        for n, one in enumerate(built)
        for row in one.series
    )
    return References(Group(children, dict(zattrs)), series)
