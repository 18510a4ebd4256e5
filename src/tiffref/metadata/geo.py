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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from ..errors import MissingExtra
from ..model.array import Array, Group
from .cf import PLAIN_AXES, System, spatial_ref, system_attributes
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

_MAX_CACHED_LENGTH = 1 << 11
"""Longer coordinates are not cached; the cache holds 2048 of up to 16 KiB."""


@dataclass(frozen=True, slots=True)
class GeoReference:
    """Georeference of one IFD."""

    keys: GeoKeys
    placement: Placement
    system: System | None = None


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
        return GeoReference(keys, placement)


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
    reference: GeoReference, plane: Mapping[str, int], full: Sequence[int], report: Report
) -> GeoLevel:
    """Build the coordinates of one level.

    Parameters
    ----------
    reference
        Georeference of the full-size image.
    plane
        Rows and columns of this level, by the name of their dimension: {"y": 512, "x": 512}.
    full
        (rows, columns) of the full-size image.
    """
    n_rows, n_columns = plane.values()
    placement = reference.placement.of_level(full[1] / n_columns, full[0] / n_rows)
    crs, transform = reference.system, placement.transform
    variables: dict[str, Array] = {}
    if transform is not None:
        a, b, c, d, e, f = transform
        x, y = _axis_coordinate(a, b, c, n_columns), _axis_coordinate(e, d, f, n_rows)
        if x is not None and y is not None:
            axes = crs.axes if crs is not None else PLAIN_AXES
            for name, array, own in zip([*plane][::-1], (x, y), axes, strict=True):
                variables[name] = array.as_variable((name,), own)
        elif b == d == 0 and max(n_rows, n_columns) <= MAX_COORDINATE:
            report.add("ModelPixelScale (33550)", "coordinates are not finite", got=transform)
            transform = None
    attributes: dict[str, Any] = dict(crs.geozarr) if crs is not None else {}
    if transform is not None:
        attributes |= {
            "spatial:dimensions": list(plane),
            "spatial:shape": [n_rows, n_columns],
            "spatial:transform": list(transform),
            "spatial:bbox": bounds_of(transform, (n_rows, n_columns)),
            "spatial:registration": "pixel",
        }
    attributes = with_conventions(attributes)
    system = None
    if any((crs, transform, placement.gcps, placement.rpcs)):
        system = system_attributes(crs, placement)
    if reference.keys.values and crs is None:
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


def _axis_coordinate(step: float, cross: float, origin: float, n: int) -> Array | None:
    """Return the pixel centres along an axis as an array without name and attributes."""
    make = _cached_coordinate if n <= _MAX_CACHED_LENGTH else _cached_coordinate.__wrapped__
    return make(step, cross, origin, n)


@functools.lru_cache(maxsize=2048)
def _cached_coordinate(step: float, cross: float, origin: float, n: int) -> Array | None:
    # cached: tiles of a grid share rows and columns
    centres = pixel_centres(step, cross, origin, n)
    return Array.from_values(centres, ("",)) if centres is not None else None


# ---- GeoZarr

_CONVENTIONS: Mapping[str, Mapping[str, str]] = {
    name: {
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}"
        "/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "uuid": uuid,
        "name": name,
        "description": description,
    }
    for name, uuid, description in (
        ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f",
         "Coordinate reference system information for geospatial data"),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
        ("multiscales", "d35379db-88df-4056-af3a-620245f8e347",
         "Multiscale layout of zarr datasets"),
    )
}  # fmt: skip


def with_conventions(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Add `zarr_conventions`, which declares the conventions that the attributes follow."""
    used = {name.partition(":")[0] for name in attributes}
    entries = [entry for name, entry in _CONVENTIONS.items() if name in used]
    return {**attributes, "zarr_conventions": entries} if entries else dict(attributes)


def is_geozarr(name: str) -> bool:
    """Return whether an attribute belongs to the `proj` or `spatial` convention of GeoZarr."""
    return name == "zarr_conventions" or name.startswith(("proj:", "spatial:"))


def multiscales(levels: Sequence[tuple[str, Array, GeoLevel]]) -> dict[str, Any]:
    """Return the GeoZarr attributes of the group that holds the levels of an image.

    Parameters
    ----------
    levels
        Path, array and georeference of each level, the full-size one first.
    """
    full = levels[0][2]
    attributes = {name: v for name, v in full.attributes.items() if is_geozarr(name)}
    if len(levels) > 1 and full.transform is not None:
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

    def shape(path: str | None) -> tuple[int, ...]:
        array = arrays.get(f"{path}", arrays.get(f"{path}/image"))
        return () if array is None else array.shape

    entries = []
    for entry in layout["layout"]:
        full, own = shape(entry.get("derived_from")), shape(entry["asset"])
        if "transform" in entry and full and len(full) == len(own):
            entry = {**entry, "transform": _scaling(n / m for n, m in zip(full, own, strict=True))}
        entries.append(entry)
    return {**attributes, "multiscales": {**layout, "layout": entries}}


def _scaling(factors: Iterable[float]) -> dict[str, list[float]]:
    scale = list(factors)
    return {"scale": scale, "translation": [0.0] * len(scale)}


def _layout(
    level: tuple[str, Array, GeoLevel], first: tuple[str, Array, GeoLevel]
) -> dict[str, Any]:
    path, array, geo = level
    entry: dict[str, Any] = {"asset": path}
    if path != first[0]:
        # GDAL ignores levels without one number per dimension
        full, own = (
            [(dim.partition("_")[0], n) for dim, n in image.sizes.items()]
            for image in (first[1], array)
        )
        entry["derived_from"] = first[0]
        entry["transform"] = _scaling(dict(full).get(dim, n) / n for dim, n in own)
    names = ("spatial:shape", "spatial:transform")
    return entry | {name: geo.attributes[name] for name in names if name in geo.attributes}


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
    def is_empty(self) -> bool:
        """Whether the raster has no georeference."""
        return not (self.system or self.transform or any(self.others))

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        assert self.transform is not None
        a, b, _, d, e, _ = self.transform
        return math.hypot(a, d), math.hypot(b, e)

    @property
    def grid(self) -> Location:
        """The location without its origin: equal for files of one mosaic."""
        if self.transform is None:
            return self
        a, b, _, d, e, _ = self.transform
        return replace(self, transform=(a, b, 0.0, d, e, 0.0))

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
            column, row = math.floor(x / width + right), math.floor(y / height + down)
            yield self.system, column, row, right, down


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


def locate_array(array: Array, group: Group) -> Location:
    """Return the location of one array, such as an overview, of a group."""
    mapping = group.children.get(str(array.attributes.get("grid_mapping")))
    return _locate(mapping.attributes if isinstance(mapping, Array) else {}, None, array.attributes)


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
    for location in locations:
        if location in exact:
            continue
        same = (
            candidate
            for cell in location.hash_keys()
            for candidate in near.get(cell, ())
            if candidate.is_at(location)
        )
        exact[location] = first = next(same, location)
        if first is location:
            for cell in location.hash_keys():
                near.setdefault(cell, []).append(location)
    return [exact[location] for location in locations]


@functools.lru_cache(maxsize=64)
def _comparable_crs(wkt: str) -> tuple[str, str]:
    """Return a form of the CRS without names and order, for comparison, and a display name."""
    try:
        from pyproj import CRS

        crs = CRS.from_wkt(wkt)
    except (ImportError, RuntimeError):  # pyproj's errors are RuntimeErrors
        return wkt, wkt[:60]
    codes = (crs.to_authority(name, 70) for name in ("EPSG", "ESRI", "IAU_2015"))
    if (code := next(filter(None, codes), None)) is not None:  # equivalent, if names differ
        crs, label = CRS.from_authority(*code), ":".join(code)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PROJ strings lose details of most systems
                label = crs.to_proj4()
        except RuntimeError:
            label = crs.name  # a local system
    return json.dumps(_without_names(crs.to_json_dict()), sort_keys=True), label


def _without_names(node: Any, part: str = "") -> Any:
    if isinstance(node, list):  # the order of axes does not matter: rasters have x, y
        return sorted((_without_names(item, part) for item in node), key=repr)
    if isinstance(node, str):  # PROJ replaces ensembles by a datum in older WKT
        return node.removesuffix(" ensemble")
    if not isinstance(node, dict):
        return node
    dropped = {
        "$schema", "scope", "area", "bbox", "usages", "remarks", "id", "abbreviation", "type",
        "members", "accuracy",
    }  # fmt: skip
    if part not in ("method", "datum", "datum_ensemble") and "value" not in node:
        dropped.add("name")  # these are defined by their name
    items = [item for item in node.items() if item[0] not in dropped]
    return {name.removesuffix("_ensemble"): _without_names(value, name) for name, value in items}
