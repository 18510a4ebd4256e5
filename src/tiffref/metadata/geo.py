"""GeoTIFF: CRS and coordinates of the levels of an image, and comparison of locations.

Builds `spatial_ref`, `x` and `y` and the attributes that refer to them, for CF and GeoZarr, from
the parts made by `crs`, `geokeys` and `cf`. Two files have the same location if their transforms
agree at the corners within a small part of a pixel, and their CRS are equal except for names. This
is read from the groups that a scan produces, so files and documents compare in the same way.

References: CF conventions 1.11; zarr-conventions `proj`, `spatial` and `multiscales`, version 0.1.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from ..errors import MissingExtra
from ..model.array import Array, Group
from .cf import PLAIN_AXES, System, coordinate, spatial_ref, system_attributes
from .crs import build_crs, from_epsg, height_unit
from .geokeys import (
    MAX_COORDINATE,
    Affine,
    GeoKeys,
    Placement,
    bounds_of,
    parse_geokeys,
    parse_placement,
    pixel_centres,
)
from .report import Recorder, Report

__all__ = [
    "TOLERANCE",
    "GeoLevel",
    "GeoReference",
    "Location",
    "describe_level",
    "fit_layout",
    "grid_mappings",
    "is_geozarr",
    "locate",
    "locate_level",
    "multiscales",
    "read_georeference",
    "unify_locations",
    "with_conventions",
]

_MAX_KEPT_LENGTH = 1 << 14
"""Longer coordinates are not cached; the cache holds 2048 packed ones."""


@dataclass(frozen=True, slots=True)
class GeoReference:
    """Georeference of one IFD."""

    keys: GeoKeys
    placement: Placement
    system: System | None = None
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class GeoLevel:
    """Coordinates and attributes of one level of a georeferenced image.

    `variables` are its coordinates, `system` the attributes of its grid mapping variable without
    the transform, None if it has none.
    """

    variables: Mapping[str, Array] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    transform: Affine | None = None
    system: Mapping[str, Any] | None = None


def read_georeference(tags: Mapping[int, Any], report: Report) -> GeoReference:
    """Parse the georeference of an IFD. Defects go to `report`; valid parts are used."""
    keys = parse_geokeys(tags)
    for label, what in keys.defects:
        report.add(label, what)
    placement = parse_placement(tags, keys, report)
    try:
        system, defects = _build_system(keys.version, tuple(sorted(keys.values.items())))
        defects.repeat(report)
        if system is None and placement.rpcs is not None:
            system = _sensor_system()
        return GeoReference(keys, placement, system)
    except MissingExtra as error:
        report.note(
            "GeoKeyDirectory (34735)",
            "the coordinate system is left out, as pyproj is not installed",
            hint=f"{error.hint}",
        )
        return GeoReference(keys, placement, None, False)


@functools.lru_cache(maxsize=1024)
def _build_system(
    version: tuple[int, int], values: tuple[tuple[int, Any], ...]
) -> tuple[System | None, Recorder]:
    """Build the CRS of GeoKeys, and collect their defects; cached, as many files share them."""
    defects = Recorder()
    keys = GeoKeys(dict(values), version)
    crs = build_crs(keys, defects)
    return None if crs is None else System(crs, height_unit(crs, keys)), defects


@functools.cache
def _sensor_system() -> System:
    return System(from_epsg(4326))  # RPC sensor models always use WGS 84


def describe_level(
    reference: GeoReference,
    shape: tuple[int, int],
    full_shape: tuple[int, int],
    names: tuple[str, str],
    report: Report,
) -> GeoLevel:
    """Build the coordinates of one level.

    Parameters
    ----------
    reference
        Georeference of the full-size image.
    shape, full_shape
        (rows, columns) of this level, and of the full-size image.
    names
        Names of the dimensions along rows and columns: ("y", "x").
    """
    y_name, x_name = names
    (n_rows, n_columns), (all_rows, all_columns) = shape, full_shape
    placement = reference.placement.of_level(all_columns / n_columns, all_rows / n_rows)
    transform = placement.transform
    variables: dict[str, Array] = {}
    if transform is not None:
        found = _coordinates(transform, n_columns, n_rows)
        if found is not None:
            axes = reference.system.axes if reference.system is not None else PLAIN_AXES
            for name, array, own in zip((x_name, y_name), found, axes, strict=True):
                variables[name] = array.as_variable((name,), own)
        elif transform[1] == transform[3] == 0 and max(shape) <= MAX_COORDINATE:
            report.add("ModelPixelScale (33550)", "coordinates are not finite", got=transform)
            transform = None
    attributes = with_conventions(_node_attributes(reference.system, transform, shape, names))
    system = None
    if any((reference.system, transform, placement.gcps, placement.rpcs)):
        system = system_attributes(reference.system, placement)
    if reference.keys.values and (reference.system is None or not reference.is_complete):
        attributes["geo_keys"] = json.dumps(reference.keys.named())
    return GeoLevel(variables, attributes, transform, system)


def grid_mappings(levels: Mapping[str, GeoLevel]) -> tuple[dict[str, Array], dict[str, str]]:
    """Build the grid mapping variables of the levels in one group.

    Levels of one CRS share a variable, so that a dataset has a single grid mapping. It holds the
    transform if all levels have the same; otherwise readers derive it from the coordinates. Levels
    without coordinates (rotated rasters), and those of one row or column, whose coordinates have no
    step, only share a variable if their transforms are equal.

    Parameters
    ----------
    levels
        Levels of one group, by the name of their array.

    Returns
    -------
    variables, names
        The variables by name, and the name of the variable of each array.
    """
    shared: dict[Any, list[str]] = {}
    for name, level in levels.items():
        if level.system is not None:
            references = tuple(level.system.get(name) for name in ("crs_wkt", "gcps", "rpcs"))
            sizes = [axis.shape[0] for axis in level.variables.values()]
            placed = level.transform if min(sizes, default=1) == 1 else None
            shared.setdefault((references, placed), []).append(name)
    variables, names = {}, {}
    for n, members in enumerate(shared.values()):
        mapping = f"spatial_ref_{n}" if n else "spatial_ref"
        transforms = {levels[name].transform for name in members}
        system = levels[members[0]].system
        assert system is not None
        variables[mapping] = spatial_ref(system, transforms.pop() if len(transforms) == 1 else None)
        names.update(dict.fromkeys(members, mapping))
    return variables, names


def _coordinates(transform: Affine, n_columns: int, n_rows: int) -> tuple[Array, Array] | None:
    """Return the pixel centres along x and y as arrays without names and attributes."""
    a, b, c, d, e, f = transform
    found = []
    for step, cross, origin, n in ((a, b, c, n_columns), (e, d, f, n_rows)):
        make = _axis_coordinate if n <= _MAX_KEPT_LENGTH else _axis_coordinate.__wrapped__
        found.append(make(step, cross, origin, n))
    x, y = found
    return None if x is None or y is None else (x, y)


@functools.lru_cache(maxsize=2048)
def _axis_coordinate(step: float, cross: float, origin: float, n: int) -> Array | None:
    # cached: tiles of a grid share rows and columns, and packing took a third of a scan
    found = pixel_centres(step, cross, origin, n)
    return coordinate(found, "") if found is not None else None


# ---- GeoZarr

_CONVENTIONS: Mapping[str, tuple[str, str]] = {
    "proj": (
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    "multiscales": ("d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
}
_REPOSITORIES = "zarr-conventions"


def with_conventions(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Add `zarr_conventions`, which declares the conventions that the attributes follow."""
    entries = _declarations(tuple(attributes))
    return {**attributes, "zarr_conventions": [*entries]} if entries else dict(attributes)


@functools.lru_cache(maxsize=256)
def _declarations(names: tuple[str, ...]) -> tuple[Mapping[str, str], ...]:
    """Return the `zarr_conventions` entries for attributes of these names."""
    used = {name.partition(":")[0] for name in names}
    return tuple(entry for name, entry in _DECLARATIONS.items() if name in used)


def _declaration(name: str) -> dict[str, str]:
    uuid, description = _CONVENTIONS[name]
    path = f"{_REPOSITORIES}/{name}"
    return {
        "schema_url": f"https://raw.githubusercontent.com/{path}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/{path}/blob/v0.1/README.md",
        "uuid": uuid,
        "name": name,
        "description": description,
    }


_DECLARATIONS = {name: _declaration(name) for name in _CONVENTIONS}


def is_geozarr(name: str) -> bool:
    """Return whether an attribute belongs to the `proj` or `spatial` convention of GeoZarr."""
    return name == "zarr_conventions" or name.startswith(("proj:", "spatial:"))


def _node_attributes(
    system: System | None, transform: Affine | None, shape: tuple[int, int], names: tuple[str, str]
) -> dict[str, Any]:
    """Return the GeoZarr attributes of one level."""
    found: dict[str, Any] = dict(system.geozarr) if system is not None else {}
    if transform is not None:
        found["spatial:dimensions"] = list(names)
        found["spatial:shape"] = list(shape)
        found["spatial:transform"] = list(transform)
        found["spatial:bbox"] = bounds_of(transform, shape)
        found["spatial:registration"] = "pixel"
    return found


def multiscales(levels: Sequence[tuple[str, Array, GeoLevel]]) -> dict[str, Any]:
    """Return the GeoZarr attributes of the group that holds the levels of an image.

    Parameters
    ----------
    levels
        Path, array and georeference of each level, the full-size one first.
    """
    attributes = {name: v for name, v in levels[0][2].attributes.items() if is_geozarr(name)}
    if len(levels) > 1 and levels[0][2].transform is not None:
        attributes["multiscales"] = {"layout": [_layout(level, levels[0]) for level in levels]}
    return with_conventions(attributes)


def fit_layout(attributes: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Update the `multiscales` layout of a group after the axes of its arrays have changed.

    Parameters
    ----------
    arrays
        Arrays of the group, by path.
    """
    layout = attributes.get("multiscales")
    if not isinstance(layout, dict) or not isinstance(layout.get("layout"), list):
        return dict(attributes)
    shapes = {}
    for entry in layout["layout"]:
        array = arrays.get(entry["asset"], arrays.get(f"{entry['asset']}/image"))
        shapes[entry["asset"]] = array.shape if array is not None else ()
    entries = []
    for entry in layout["layout"]:
        full, own = shapes.get(entry.get("derived_from")), shapes[entry["asset"]]
        if "transform" in entry and full and len(full) == len(own):
            scale = [n / m for n, m in zip(full, own, strict=True)]
            entry = {**entry, "transform": {"scale": scale, "translation": [0.0] * len(scale)}}
        entries.append(entry)
    return {**attributes, "multiscales": {**layout, "layout": entries}}


def _layout(
    level: tuple[str, Array, GeoLevel], first: tuple[str, Array, GeoLevel]
) -> dict[str, Any]:
    path, array, geo = level
    entry: dict[str, Any] = {"asset": path}
    if path != first[0]:
        # GDAL ignores levels without one number per dimension
        full = {
            dim.partition("_")[0]: n for dim, n in zip(first[1].dims, first[1].shape, strict=True)
        }
        own = [dim.partition("_")[0] for dim in array.dims]
        scale = [full.get(dim, n) / n for dim, n in zip(own, array.shape, strict=True)]
        entry["derived_from"] = first[0]
        entry["transform"] = {"scale": scale, "translation": [0.0] * len(scale)}
    for name in ("spatial:shape", "spatial:transform"):
        if name in geo.attributes:
            entry[name] = geo.attributes[name]
    return entry


TOLERANCE = 1e-3
"""In pixels: writers round the corners of tiles."""


@dataclass(frozen=True, slots=True)
class Location:
    """Location of a raster.

    `system` is the CRS without names, `label` its display name. `others` are ground control points
    and sensor model. Equal locations are the same place; `is_at` also compares with a tolerance.
    """

    system: str = ""
    label: str = ""
    unit: str = ""
    transform: Affine | None = None
    shape: tuple[int, int] = (0, 0)
    others: tuple[Any, ...] = ()

    def __str__(self) -> str:
        parts = [self.label] if self.label else []
        if self.transform is not None:
            a, b, c, d, e, f = self.transform
            unit = f" {self.unit}" if self.unit else ""
            parts = parts or ["no coordinate system"]
            parts += [f"origin {c:.15g}, {f:.15g}{unit}", f"pixel size {a:.12g} x {e:.12g}"]
            parts += [f"rotation {b:.12g}, {d:.12g}"] if b or d else []
        for name, text in zip(("control points", "sensor model"), self.others, strict=False):
            if text:  # too long to show, and two that differ must not look alike
                parts.append(f"{name} of checksum {crc32(str(text).encode()):08x}")
        return ", ".join(parts) or "no georeference"

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        assert self.transform is not None
        a, b, _, d, e, _ = self.transform
        return math.hypot(a, d), math.hypot(b, e)

    def is_at(self, other: Location) -> bool:
        """Return whether another raster has the same location within the tolerance."""
        if (self.system, self.others) != (other.system, other.others):
            return False
        if self.transform is None or other.transform is None:
            return self.transform is other.transform
        rows, columns = self.shape
        limit = TOLERANCE * min(self.pixel)
        difference = [one - two for one, two in zip(self.transform, other.transform, strict=True)]
        a, b, c, d, e, f = difference
        return all(
            abs(a * column + b * row + c) <= limit and abs(d * column + e * row + f) <= limit
            for column, row in ((0, 0), (columns, 0), (0, rows), (columns, rows))
        )

    def hash_keys(self) -> Iterator[tuple[Any, ...]]:
        """Yield hash keys; rasters at the same location have at least one in common."""
        if self.transform is None:
            yield self.system, self.others
            return
        _, _, x, _, _, y = self.transform
        width, height = self.pixel
        for right, down in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)):
            yield (
                self.system,
                math.floor(x / width + right),
                math.floor(y / height + down),
                right,
                down,
            )


def locate(group: Group) -> Location:
    """Return the location of the image of a group.

    Parameters
    ----------
    group
        A group as produced by a scan.
    """
    mapping, x = group.children.get("spatial_ref"), group.children.get("x")
    system = mapping.attributes if isinstance(mapping, Array) else {}
    return _locate(system, x, group.attributes)


def locate_level(level: GeoLevel) -> Location:
    """Return the location of a georeferenced level with axes `y` and `x`."""
    return _locate(level.system or {}, level.variables.get("x"), level.attributes)


def _locate(system: Mapping[str, Any], x: Any, attributes: Mapping[str, Any]) -> Location:
    wkt, transform = system.get("crs_wkt"), attributes.get("spatial:transform")
    crs_key, label = _comparable_crs(wkt) if isinstance(wkt, str) else ("", "")
    return Location(
        crs_key,
        label,
        str(x.attributes.get("units", "")) if isinstance(x, Array) else "",
        tuple(map(float, transform)) if transform is not None else None,  # type: ignore[arg-type]
        tuple(attributes.get("spatial:shape", (0, 0))),
        tuple(system.get(name) for name in ("gcps", "rpcs")),
    )


def unify_locations(locations: Sequence[Location]) -> list[Location]:
    """Replace each location by the first one at the same place."""
    exact: dict[Location, Location] = {}
    near: dict[Any, list[Location]] = {}
    for one in locations:
        if one in exact:
            continue
        known = (two for cell in one.hash_keys() for two in near.get(cell, ()) if two.is_at(one))
        exact[one] = first = next(known, one)
        if first is one:
            for cell in one.hash_keys():
                near.setdefault(cell, []).append(one)
    return [exact[one] for one in locations]


@functools.lru_cache(maxsize=64)
def _comparable_crs(wkt: str) -> tuple[str, str]:
    """Return a form of the CRS without names, for comparison, and a display name."""
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError:
        return wkt, wkt[:60]
    try:
        crs = CRS.from_wkt(wkt)
    except CRSError:
        return wkt, wkt[:60]
    code = crs.to_authority(min_confidence=70)  # equivalent, though names may differ
    if code is not None:
        return ":".join(code), ":".join(code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PROJ strings lose details of most systems
            label = crs.to_proj4()
    except CRSError:
        label = crs.name  # a local system
    return json.dumps(_without_names(crs.to_json_dict()), sort_keys=True), label


_DEFINED_BY_NAME = frozenset({"method", "datum", "datum_ensemble"})
"""Parts that are defined by their name."""


def _without_names(node: Any, part: str = "") -> Any:
    if isinstance(node, list):
        return [_without_names(item, part) for item in node]
    if not isinstance(node, dict):
        return node
    dropped = {"$schema", "scope", "area", "bbox", "usages", "remarks", "id", "abbreviation"}
    if part not in _DEFINED_BY_NAME and "value" not in node:
        dropped.add("name")
    return {name: _without_names(item, name) for name, item in node.items() if name not in dropped}
