"""Combine scanned files into one group with coordinates.

Refuses files that differ, several files with the same coordinates, and missing files; builds the
arrays of all levels, their coordinates, and mosaics of georeferenced files on one pixel grid.
`model.combine` combines the columns, and checks that files fall on chunk boundaries.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import MAGIC, wrap_inlined
from ..errors import ManifestMismatch, SelectionError, first_few
from ..formats.zarr_metadata import to_plain
from ..metadata.geo import (
    TOLERANCE,
    GeoLevel,
    Location,
    describe_level,
    fit_layout,
    grid_mappings,
    is_geozarr,
    multiscales,
    read_georeference,
    unify_locations,
    with_conventions,
)
from ..metadata.geokeys import Affine, Placement
from ..metadata.ngff import IMAGE_ATTRIBUTES, insert_axes
from ..metadata.report import Report
from ..model.array import Array, Group
from ..model.combine import (
    STORAGE,
    aspects_of,
    group_compatible,
    mismatch_error,
    place_arrays,
)
from ..model.manifest import INLINED
from ..references import References, damage_of
from .coordinates import Axis, warn_of_differing
from .file_scans import GEO_TAGS, Part, without_tags

METADATA = frozenset({"georeference", "nodata"})
"""Differences between files that the user may ignore."""
_VALUE_ATTRIBUTES = ("scale_factor", "add_offset", "scales", "offsets", "units")
"""Attributes that define the meaning of values."""
MAX_REPORTED = 1000
_WITHOUT_OVERVIEWS = "Pass level=0 to drop overviews."
_AXIS_TYPES = {
    **dict.fromkeys(("t", "time", "date", "datetime"), "time"),
    **dict.fromkeys(("c", "channel", "band", "wavelength"), "channel"),
    "z": "space",
}
"""Name of an axis -> its type in OME-NGFF."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Options for combining files.

    `concat` maps fields to existing dimensions along which files are joined; other fields become
    new axes. Fields in `plate` are positions on a plate, not axes of the images.
    """

    concat: Mapping[str, str] = field(default_factory=dict)
    is_mosaic: bool = False
    on_mismatch: str = "error"
    ignore: frozenset[str] = frozenset()
    allow_holes: bool = False
    plate: frozenset[str] = frozenset()


def compare(parts: Sequence[Part], plan: Plan) -> list[NDArray[np.int64]]:
    """Group files that can be combined.

    Returns
    -------
    The indices of the files of each group; a single group unless `on_mismatch` is "split".
    """
    is_split = plan.on_mismatch == "split"
    if "georeference" in plan.ignore or (plan.is_mosaic and not is_split):
        places = [Location()] * len(parts)
    else:
        places = [part.location.grid if plan.is_mosaic else part.location for part in parts]
    places = unify_locations(places)
    orders = band_orders([next(iter(part.arrays.values()), None) for part in parts])
    aspects = [
        {**_aspects(part, location, plan), "bands": order}
        for part, location, order in zip(parts, places, orders, strict=True)
    ]
    if plan.on_mismatch == "decode":
        aspects = [
            {name: value for name, value in one.items() if name not in STORAGE} for one in aspects
        ]
    groups = group_compatible(aspects)
    if len(groups) > 1 and not is_split:
        raise mismatch_error(groups, [part.url for part in parts])
    return [np.array(g.members) for g in sorted(groups, key=lambda g: g.members[0])]


def _aspects(part: Part, location: Location, plan: Plan) -> dict[str, Any]:
    """Return all properties of a file that must agree with the other files of its sequence."""
    free = (*plan.concat.values(), *(("y", "x") if plan.is_mosaic else ()))
    aspects: dict[str, Any] = {"levels": tuple(sorted(part.arrays))}
    for path, array in part.arrays.items():
        suffix = _suffix(path)
        own = array_aspects(array, (*free, *(f"{dim}{suffix}" for dim in free)))
        for name, value in own.items():
            aspects[name] = value if len(part.arrays) == 1 else (*aspects.get(name, ()), value)
    aspects["georeference"] = location
    is_whole = not any(array.manifest.is_missing.any() for array in part.arrays.values())
    if "nodata" in plan.ignore and is_whole:
        aspects["nodata"] = None  # only without missing chunks, which read as this value
    return aspects


def _suffix(path: str) -> str:
    """Return what the dimensions of a level end with; masks have those of their image."""
    return path.removeprefix("mask" if path.startswith("mask") else "image")


def array_aspects(array: Array, free_dims: Sequence[str]) -> dict[str, Any]:
    """Return what must agree in arrays that are combined: `aspects_of`, and the meaning of values.

    The meaning is equal for a file and its document: `scale` is scale, offset and units as text;
    `photometric` is "WhiteIsZero" if 0 is white, which inverts values, else None.
    """
    values = {name: to_plain(array.attributes.get(name)) for name in _VALUE_ATTRIBUTES}
    tags = json.loads(array.attributes.get("tiff_tags", "{}"))
    return {
        **aspects_of(array, free_dims),
        "scale": repr({name: value for name, value in values.items() if value is not None}),
        "photometric": "WhiteIsZero" if tags.get("PhotometricInterpretation") == 0 else None,
    }


def band_orders(arrays: Sequence[Array | None]) -> list[tuple[str, ...]]:
    """Return names and colors of bands, if other files have the same ones in a different order.

    Other differences are ignored: names may contain the date, and not all writers name bands.
    """
    orders: list[tuple[str, ...]] = [()] * len(arrays)
    for attribute in ("long_name", "color_interpretation", "channel_names"):
        values = [array and array.attributes.get(attribute) for array in arrays]
        bands = [tuple(map(str, names)) if isinstance(names, list) else () for names in values]
        variants: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for names in bands:
            variants.setdefault(tuple(sorted(names)), set()).add(names)
        for n, names in enumerate(bands):
            if len(variants[tuple(sorted(names))]) > 1:
                orders[n] += names
    return orders


def combine(
    parts: Sequence[Part],
    axes: Sequence[Axis],
    mask: NDArray[np.bool_],
    plan: Plan,
    record: Mapping[str, Any],
) -> References:
    """Combine files into one group.

    Parameters
    ----------
    parts
        The files that can be read.
    mask
        Which of the files on the axes these are.
    """
    index = np.array([axis.index for axis in axes], np.int64).reshape(len(axes), len(mask)).T
    lengths = [axis.length for axis in axes]
    report = {} if plan.is_mosaic else _check_occupied(index, mask, axes, parts, plan)
    index = index[mask]
    new = [n for n, axis in enumerate(axes) if axis.name not in plan.concat]
    dims = [axes[n].name for n in new]
    joined = {
        plan.concat[axis.name]: (axis, index[:, n]) for n, axis in enumerate(axes) if n not in new
    }
    images: dict[str, Array] = {}
    for path in parts[0].arrays:
        arrays = [part.arrays[path] for part in parts]
        if plan.is_mosaic:
            inner, shape = _mosaic_origins(parts, path)
        else:
            inner, shape = _joined_origins(arrays, joined, _suffix(path))
        tables = {id(array.codecs): array.codecs for array in arrays}
        if len({codec for table in tables.values() for codec in table}) > 1:
            arrays = [_with_wrapped_chunks(array) for array in arrays]
        origins = np.concatenate([index[:, new], inner], axis=1)
        try:
            images[path] = place_arrays(arrays, origins, (*(lengths[n] for n in new), *shape), dims)
        except ManifestMismatch as error:
            error.hint = _WITHOUT_OVERVIEWS if plan.is_mosaic and _suffix(path) else error.hint
            raise
        if plan.is_mosaic:
            _check_covered(images[path], arrays, dims, plan, report)
    described = [dim for dim in dims if dim not in plan.plate]
    variables, attributes, placed = (
        _describe_mosaic(parts, images)
        if plan.is_mosaic
        else _describe_whole(parts, images, described, joined)
    )
    children: dict[str, Array | Group] = {
        path: _describe_image(image, parts, path).with_attributes(**placed.get(path, {}))
        for path, image in images.items()
    }
    children |= variables
    children |= {axes[n].name: child for n in new if (child := axes[n].to_array()) is not None}
    sequence = {**record, "dims": dims, "files": len(mask), **report}
    added = {"sequence": sequence, **damage_of(part.references for part in parts)}
    series = tuple({**row, **added} for row in parts[0].references.series)
    return References(Group(children, attributes), series)


def _check_occupied(
    index: NDArray[np.int64],
    mask: NDArray[np.bool_],
    axes: Sequence[Axis],
    parts: Sequence[Part],
    plan: Plan,
) -> dict[str, Any]:
    """Refuse several files with the same coordinates, and missing files unless allowed."""
    lengths = [axis.length for axis in axes]
    n_places = math.prod(lengths)
    if n_places > max(1 << 24, 64 * len(mask)):
        raise ManifestMismatch(
            f"{len(mask)} files leave nearly all of {n_places} positions empty",
            got=", ".join(f"{axis.name} {axis.length}" for axis in axes),
            hint="Use fewer axes.",
        )
    count = np.zeros(lengths, np.int64)
    np.add.at(count, tuple(index[mask].T), 1)
    if (count > 1).any():
        place = tuple(np.argwhere(count > 1)[0])
        at = np.flatnonzero((index[mask] == place).all(axis=1))
        raise ManifestMismatch(
            f"{int((count > 1).sum())} positions have more than one file",
            got=f"{describe_place(axes, place)}: {first_few(parts[n].url for n in at.tolist())}",
            hint="Add a field that distinguishes them to the pattern, or leave out some files.",
        )
    empty = np.argwhere(count == 0)
    if not len(empty):
        return {}
    places = [describe_place(axes, tuple(location)) for location in empty[:MAX_REPORTED]]
    if not plan.allow_holes:
        raise ManifestMismatch(
            f"{len(empty)} of {n_places} positions have no file",
            got=first_few(places, "; "),
            hint=_needless_axis_hint(count, axes)
            + "Pass allow_holes=True to leave them missing, with a list in the references.",
        )
    return {"n_holes": len(empty), "holes": places}


def _needless_axis_hint(n_files: NDArray[np.int64], axes: Sequence[Axis]) -> str:
    """Suggest to leave out a field that depends on the others, such as the satellite of a date."""
    for n, axis in enumerate(axes):
        if axis.length > 1 and axis.name != "time" and (n_files.sum(axis=n) == 1).all():
            return f"Leave out the field '{axis.name}', in a pattern by {{}} in its place. "
    return ""


def describe_place(axes: Sequence[Axis], location: Sequence[int]) -> str:
    """Return the coordinates of a position, such as "time=2024-01-05, band=B04"."""
    texts = (
        f"{axis.name}={n if axis.values is None else axis.values[n]}"
        for axis, n in zip(axes, location, strict=True)
    )
    return ", ".join(texts)


def _joined_origins(
    arrays: Sequence[Array], joined: Mapping[str, tuple[Axis, NDArray]], suffix: str
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Return the origin of each array along the joined dimensions, and the total shape."""
    first = arrays[0]
    origins = np.zeros((len(arrays), len(first.shape)), np.int64)
    shape = list(first.shape)
    for dim, (axis, index) in joined.items():
        name = dim if dim in first.dims else f"{dim}{suffix}"
        if name not in first.dims:
            raise SelectionError(
                "concat is not a dimension of the files", got=dim, expected=", ".join(first.dims)
            )
        n = first.dims.index(name)
        sizes = np.array([array.shape[n] for array in arrays])
        extent = np.zeros(axis.length, np.int64)
        np.maximum.at(extent, index, sizes)
        if (extent[index] != sizes).any():
            bad = int(np.flatnonzero(extent[index] != sizes)[0])
            raise ManifestMismatch(
                f"files at the same position along '{dim}' differ in length",
                url=arrays[bad].manifest.sources[0].url,
                got=int(sizes[bad]),
                expected=int(extent[index[bad]]),
            )
        origins[:, n] = (np.cumsum(extent) - extent)[index]
        shape[n] = int(extent.sum())
    return origins, tuple(shape)


def _check_covered(
    whole: Array, arrays: Sequence[Array], dims: Sequence[str], plan: Plan, report: dict[str, Any]
) -> None:
    n_holes = whole.manifest.n_chunks - sum(array.manifest.n_chunks for array in arrays)
    if n_holes and not plan.allow_holes:
        fewer = f"There is one mosaic for each {', '.join(dims)}: use fewer fields. "
        raise ManifestMismatch(
            f"{n_holes} of {whole.manifest.n_chunks} chunks of the mosaic have no file",
            hint=f"{fewer if dims else ''}Pass allow_holes=True to leave them missing.",
        )
    report["n_holes"] = max(n_holes, report.get("n_holes", 0))


def _with_wrapped_chunks(array: Array) -> Array:
    """Add their codec to inlined chunks, since the combined array has codecs of other files too."""
    codec: Any = array.codecs[0]
    inlined = {
        n: data if data[: len(MAGIC)] == MAGIC else wrap_inlined(codec, data)
        for n, data in array.manifest.inlined.items()
    }
    return replace(array, manifest=array.manifest.with_inlined(inlined))


def _describe_image(whole: Array, parts: Sequence[Part], path: str) -> Array:
    """Keep the attributes and the fill value that are equal in all files, without GeoZarr."""
    arrays = [part.arrays[path] for part in parts]
    distinct = {id(array.attributes): array.attributes for array in arrays}
    differing = frozenset(
        code for code in GEO_TAGS if len({repr(part.georeference.get(code)) for part in parts}) > 1
    )
    first, *others = (without_tags(attributes, differing) for attributes in distinct.values())
    shared = {
        name: value
        for name, value in first.items()
        if not is_geozarr(name)
        and all(name in other and repr(other[name]) == repr(value) for other in others)
    }
    fills = {repr(array.fill_value) for array in arrays}
    fill_value = whole.fill_value if len(fills) == 1 else None
    return replace(whole, attributes=shared, fill_value=fill_value)


def _describe_whole(
    parts: Sequence[Part],
    images: Mapping[str, Array],
    dims: Sequence[str],
    joined: Iterable[str],
) -> tuple[dict[str, Array], dict[str, Any], dict[str, dict[str, Any]]]:
    """Return coordinates, group attributes, and GeoZarr attributes per array, of the combination.

    `images` are the combined arrays by path, `dims` the new axes. Coordinates of the dimensions
    along which files were `joined` are dropped.
    """
    if len(set(map(id, unify_locations([part.location for part in parts])))) > 1:
        return {}, {}, {}
    dropped = {*joined, *(f"{dim}{_suffix(path)}" for dim in joined for path in images)}
    group = parts[0].references.group
    variables = {
        name: child
        for name, child in group.children.items()
        if name not in images
        and isinstance(child, Array)
        and bool((child.manifest.source == INLINED).all())
        and not dropped & set(child.dims)
        and not (name == "time" and not child.dims)
    }
    if parts[0].location.is_empty:  # georeferences were compared
        # files with equal metadata share their references
        distinct: dict[int, Part] = {}
        for part in parts:
            distinct.setdefault(id(part.references), part)
        groups = {part.url: part.references.group for part in distinct.values()}
        warn_of_differing(groups, dropped)
    placed = {
        path: _geozarr_attributes(array, bool(dropped)) for path, array in parts[0].arrays.items()
    }
    if dropped:
        attributes = {
            name: value
            for name, value in group.attributes.items()
            if name not in IMAGE_ATTRIBUTES and not is_geozarr(name)
        }
        attributes |= _geozarr_attributes(group, is_system=True)
    else:
        named = [{"name": dim, "type": _AXIS_TYPES.get(dim.lower(), "other")} for dim in dims]
        attributes = fit_layout(insert_axes(group, named), images)
    return variables, attributes, placed


def _geozarr_attributes(node: Array | Group | GeoLevel, is_system: bool = False) -> dict[str, Any]:
    """Return the GeoZarr attributes of a node, or only those of its CRS."""
    wanted = "proj:" if is_system else ("proj:", "spatial:")
    return with_conventions(
        {name: v for name, v in node.attributes.items() if name.startswith(wanted)}
    )


def _plane(array: Array, path: str) -> dict[str, int]:
    """Return the number of rows and columns of a level of a mosaic, by dimension."""
    sizes, suffix = array.sizes, _suffix(path)
    dims = f"y{suffix}", f"x{suffix}"
    if re.fullmatch(r"(_\d+)?", suffix) is None or not set(dims) <= sizes.keys():
        raise ManifestMismatch(
            "a mosaic has one image of each file, with its mask",
            got=path,
            hint="series=0 leaves out all others.",
        )
    return {dim: sizes[dim] for dim in dims}


def _mosaic_origins(parts: Sequence[Part], path: str) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Return the origin of the array of each file in the mosaic, and the shape of the mosaic.

    Origins are `(n_files, n_dims)`, in samples. Overviews have the location of their full image, in
    their own pixels. Raises `ManifestMismatch` if files have no georeference, or their pixel grids
    do not align.
    """
    corners = _corners(parts, path)
    corners -= corners.min(axis=0)
    pixels = np.rint(corners).astype(np.int64)
    distance = np.abs(corners - pixels).max(axis=1)
    if (distance > TOLERANCE).any():
        n = int(distance.argmax())
        raise ManifestMismatch(
            f"{int((distance > TOLERANCE).sum())} of {len(parts)} files are off the pixel grid",
            url=parts[n].url,
            got=f"off by {distance[n]:.3f} pixels",
            hint=_WITHOUT_OVERVIEWS if _suffix(path) else "Resample them first.",
        )
    first = parts[0].arrays[path]
    ends = pixels + [[*_plane(part.arrays[path], path).values()] for part in parts]
    origins = np.zeros((len(parts), len(first.shape)), np.int64)
    shape = list(first.shape)
    for n, dim in enumerate(_plane(first, path)):
        axis = first.dims.index(dim)
        origins[:, axis] = pixels[:, n]
        shape[axis] = int(ends[:, n].max())
    return origins, tuple(shape)


def _corners(parts: Sequence[Part], path: str) -> NDArray[np.float64]:
    """Return (row, column) of the corner of each file, `(n_files, 2)`, in pixels of its level."""
    first = parts[0].location
    reference = _transform(parts[0])
    corners = []
    for part in parts:
        a, b, c, d, e, f = _transform(part)
        is_same_grid = np.allclose(
            (a, b, d, e), np.take(reference, (0, 1, 3, 4)), rtol=1e-9, atol=0
        )
        if not is_same_grid or part.location.system != first.system:
            raise ManifestMismatch(
                "files of the mosaic differ in pixel size or coordinate reference system",
                url=part.url,
                got=part.location,
                expected=f"{first} as in {parts[0].url}",
                hint="on_mismatch='split' makes one mosaic for each.",
            )
        n_rows, n_columns = _plane(part.arrays[path], path).values()
        all_rows, all_columns = _plane(part.arrays["image"], "image").values()
        corners.append((f / e * n_rows / all_rows, c / a * n_columns / all_columns))
    return np.array(corners)


def _transform(part: Part) -> Affine:
    transform = part.location.transform
    if transform is None or transform[1] or transform[3]:
        raise ManifestMismatch(
            "a file of the mosaic has no georeference, or is rotated",
            url=part.url,
            expected="ModelPixelScale (33550) and one ModelTiepoint (33922)",
            hint="Or use fields for rows and columns: concat={'row': 'y', 'column': 'x'}.",
        )
    return transform


def _describe_mosaic(
    parts: Sequence[Part], arrays: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what `_describe_whole` does, of a mosaic; `arrays` are its levels, by path."""
    corners = _corners(parts, "image")
    top, left = corners.argmin(axis=0)
    a, _, x, _, e, _ = _transform(parts[left])
    y = _transform(parts[top])[5]
    report = Report(parts[0].url)
    reference = read_georeference(parts[0].georeference, report)
    reference = replace(reference, placement=Placement((a, 0.0, x, 0.0, e, y)))
    planes = {path: _plane(array, path) for path, array in arrays.items()}
    levels = {
        path: describe_level(reference, plane, [*planes["image"].values()], report)
        for path, plane in planes.items()
    }
    used = {dim for array in arrays.values() for dim in array.dims}
    variables = {
        name: child
        for name, child in parts[0].references.group.children.items()
        if isinstance(child, Array) and child.dims == (name,) and name in used
    }  # such as bands; x and y follow
    for level in levels.values():
        variables |= level.variables
    variables |= grid_mappings(levels)[0]
    images = [(p, arrays[p], level) for p, level in levels.items() if p.startswith("image")]
    placed = {path: _geozarr_attributes(level) for path, level in levels.items()}
    return variables, multiscales(images), placed
