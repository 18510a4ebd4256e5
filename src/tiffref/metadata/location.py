"""Where a raster lies, as a value that can be compared by its meaning.

Owns when two files are at one place: their transformations put the corners at the same points, to a
small part of a pixel, and their coordinate systems are the same but for names. It reads what a scan
has written into a group, so that files and documents compare alike.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..model.array import Array, Group
from .geo import GeoLevel
from .geokeys import Affine

__all__ = ["TOLERANCE", "Location", "locate", "locate_level", "unify_locations"]

TOLERANCE = 1e-3
"""Of a pixel: writers round the corners of tiles."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a raster lies.

    `system` is the coordinate system without its names, `label` what to call it. `others` are
    control points, sensor model and GeoKeys, where these place it. Two that are equal are at one
    place; so are those that `is_at` says so of.
    """

    system: str = ""
    label: str = ""
    unit: str = ""
    transform: Affine | None = None
    shape: tuple[int, int] = (0, 0)
    others: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.transform is None:
            return self.label or ("control points" if any(self.others) else "no georeference")
        a, b, c, d, e, f = self.transform
        unit = f" {self.unit}" if self.unit else ""
        turned = f", rotation {b:.12g}, {d:.12g}" if b or d else ""
        return (
            f"{self.label or 'no coordinate system'}, origin {c:.15g}, {f:.15g}{unit}, "
            f"pixel size {a:.12g} x {e:.12g}{turned}"
        )

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        assert self.transform is not None
        a, b, _, d, e, _ = self.transform
        return math.hypot(a, d), math.hypot(b, e)

    def is_at(self, other: Location) -> bool:
        """Return whether another raster lies where this one does."""
        if (self.system, self.others) != (other.system, other.others):
            return False
        if self.transform is None or other.transform is None:
            return self.transform is other.transform
        rows, columns = self.shape
        limit = TOLERANCE * min(self.pixel)
        off = [one - two for one, two in zip(self.transform, other.transform, strict=True)]
        a, b, c, d, e, f = off
        return all(
            abs(a * column + b * row + c) <= limit and abs(d * column + e * row + f) <= limit
            for column, row in ((0, 0), (columns, 0), (0, rows), (columns, rows))
        )

    def cells(self) -> Iterator[tuple[Any, ...]]:
        """Yield keys of which rasters at one place have one in common."""
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
    """Find where the image of a group lies.

    Parameters
    ----------
    group
        With the attributes and variables that a scan gives it.
    """
    mapping, x = group.children.get("spatial_ref"), group.children.get("x")
    system = mapping.attributes if isinstance(mapping, Array) else {}
    return _locate(system, x, group.attributes)


def locate_level(level: GeoLevel) -> Location:
    """Find where a georeferenced level lies; its axes are `y` and `x`."""
    return _locate(level.system or {}, level.variables.get("x"), level.attributes)


def _locate(system: Mapping[str, Any], x: Any, attributes: Mapping[str, Any]) -> Location:
    wkt, transform = system.get("crs_wkt"), attributes.get("spatial:transform")
    meaning, label = _system(wkt) if isinstance(wkt, str) else ("", "")
    return Location(
        meaning,
        label,
        str(x.attributes.get("units", "")) if isinstance(x, Array) else "",
        tuple(map(float, transform)) if transform is not None else None,  # type: ignore[arg-type]
        tuple(attributes.get("spatial:shape", (0, 0))),
        tuple(system.get(name) for name in ("gcps", "rpcs")),
    )


def unify_locations(locations: Sequence[Location]) -> list[Location]:
    """Return for each location the first one that is at the same place."""
    exact: dict[Location, Location] = {}
    near: dict[Any, list[Location]] = {}
    for one in locations:
        if one in exact:
            continue
        known = (two for cell in one.cells() for two in near.get(cell, ()) if two.is_at(one))
        exact[one] = first = next(known, one)
        if first is one:
            for cell in one.cells():
                near.setdefault(cell, []).append(one)
    return [exact[one] for one in locations]


@functools.lru_cache(maxsize=64)
def _system(wkt: str) -> tuple[str, str]:
    """Return what a system means, and what to call it."""
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError:
        return wkt, wkt[:60]
    try:
        crs = CRS.from_wkt(wkt)
    except CRSError:
        return wkt, wkt[:60]
    code = crs.to_authority(min_confidence=70)  # equivalent, whatever its name
    if code is not None:
        return ":".join(code), ":".join(code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PROJ strings lose something of most systems
            label = crs.to_proj4()
    except CRSError:
        label = crs.name  # of a local system
    return json.dumps(_without_names(crs.to_json_dict()), sort_keys=True), label


_NAMED = frozenset({"method", "datum", "datum_ensemble"})
"""Parts whose name says what they are."""


def _without_names(node: Any, part: str = "") -> Any:
    if isinstance(node, list):
        return [_without_names(item, part) for item in node]
    if not isinstance(node, dict):
        return node
    gone = {"$schema", "scope", "area", "bbox", "usages", "remarks", "id", "abbreviation"}
    if part not in _NAMED and "value" not in node:
        gone.add("name")
    return {name: _without_names(item, name) for name, item in node.items() if name not in gone}
