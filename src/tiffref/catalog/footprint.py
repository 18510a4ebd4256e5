"""Footprints: where images lie on the globe, as geometries of the index.

Owns the outline of a raster in longitude and latitude, and its binary form. Systems are resolved by
pyproj; without it, only rasters in longitude and latitude have footprints.

References: GeoParquet 1.1.0 (encoding WKB, OGC:CRS84); RFC 7946, section 3.1.6 for the order of
points, 3.1.9 for footprints that cross the antimeridian, 5.3 for those that hold a pole; OGC
06-103r4 for WKB.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Footprint", "footprint", "outline_of", "ring_bounds", "to_geojson", "to_wkb"]

_COARSE = np.linspace(0, 4, 17)
"""Where an outline has points at least: straight lines of a projection are curves on the globe."""
_MAX_STEP = 2.0
"""Degrees between neighbours: chords of 2 degrees are within 0.01 of what they stand for."""
_MAX_HALVINGS = 16
_DECIMALS = 9
"""Of a degree: a tenth of a millimetre. Last digits differ between versions of PROJ."""
_AT_POLE = 1e-7
"""Degrees from a pole, or from half a turn, that are rounding of coordinates."""

Ring = NDArray[np.float64]
"""`(n, 2)` longitudes and latitudes, counterclockwise, the first point again at the end."""
Footprint = tuple[Ring, ...]
"""One ring, or two where the image crosses the antimeridian."""


def outline_of(transform: Sequence[float], raster: Sequence[int], at: Any) -> NDArray[np.float64]:
    """Give points of the outline of a raster in its own system.

    Parameters
    ----------
    transform
        (a, b, c, d, e, f) from pixels to the system.
    raster
        (rows, columns).
    at
        `(n,)` float, how far along: 0 is the first pixel's corner, 1 to 3 are the next corners,
        down the first column first, and 4 is the first again.

    Returns
    -------
    `(n, 2)` float64.
    """
    at = np.asarray(at, float)
    row = raster[0] * np.minimum(np.maximum(1.5 - np.abs(at - 1.5), 0.0), 1.0)
    column = raster[1] * np.minimum(np.maximum(1.5 - np.abs(at - 2.5), 0.0), 1.0)
    a, b, c, d, e, f = transform
    outline = np.empty((len(at), 2))
    outline[:, 0] = a * column + b * row + c
    outline[:, 1] = d * column + e * row + f
    return outline


@dataclass(frozen=True, slots=True)
class _Projection:
    """The way between a system and longitude and latitude.

    `is_plain`: the system has longitude and latitude itself, so that its straight lines stay.
    """

    to_globe: Callable[[Any, Any], tuple[Any, Any]]
    from_globe: Callable[[Any, Any], tuple[Any, Any]]
    is_plain: bool


@functools.lru_cache(maxsize=64)
def _projection(crs: str) -> _Projection | None:
    """Resolve a system; None if it cannot be told."""
    try:
        import pyproj
    except ImportError:
        same = lambda x, y: (x, y)  # noqa: E731
        return _Projection(same, same, True) if crs in ("EPSG:4326", "OGC:CRS84") else None
    try:
        system = pyproj.CRS(crs)
        there = pyproj.Transformer.from_crs(system, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError:
        return None
    back = functools.partial(there.transform, direction="INVERSE")
    return _Projection(there.transform, back, system.is_geographic and not system.is_derived)


def footprint(
    crs: str | None, transform: Sequence[float], raster: Sequence[int]
) -> Footprint | None:
    """Give the footprint of a raster.

    Parameters
    ----------
    crs
        "EPSG:32633", or WKT.
    transform
        (a, b, c, d, e, f) from pixels to the system.
    raster
        (rows, columns).

    Returns
    -------
    None where it cannot be told: no system, or edges that have no place on the globe.
    """
    projection = _projection(crs) if crs is not None else None
    if projection is None:
        return None
    points = _project(projection, transform, raster, _COARSE)
    if points is None:
        return None
    if _is_small(points):
        return (_finished(points),)
    if not projection.is_plain:
        points = _refined(projection, transform, raster, points)
        if points is None:
            return None
        if (gap := _find_gap(points)) is not None:
            return _split(_around_gap(points, *gap))
    # x past 180 is how a raster in degrees crosses the antimeridian, a jump how others do
    points[:, 0] = np.unwrap(points[:, 0], period=360.0)
    turn = points[-1, 0] - points[0, 0]
    if abs(turn) < 180.0:
        return _split(points)
    pole = _pole_inside(projection, transform, raster)
    if pole is None:
        pole = np.copysign(90.0, points[:, 1].mean())
    return (_around_pole(points if turn > 0 else points[::-1], pole),)


def _project(
    projection: _Projection,
    transform: Sequence[float],
    raster: Sequence[int],
    at: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """Give points of the outline on the globe; None if some have no place there."""
    points = outline_of(transform, raster, at)
    points[:, 0], points[:, 1] = projection.to_globe(points[:, 0], points[:, 1])
    if not np.isfinite(points).all():
        return None
    np.clip(points[:, 1], -90.0, 90.0, out=points[:, 1])
    return points


def _is_small(points: NDArray[np.float64]) -> bool:
    """Say whether an outline is far from the poles and the antimeridian, as most are."""
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    is_short = east - west < _MAX_STEP and north - south < _MAX_STEP
    return bool(is_short and west >= -180 and east <= 180 and max(-south, north) < 89)


def _refined(
    projection: _Projection,
    transform: Sequence[float],
    raster: Sequence[int],
    points: NDArray[np.float64] | None,
) -> NDArray[np.float64] | None:
    """Add points where neighbours lie far apart; at a pole they always do."""
    at = _COARSE
    for _ in range(_MAX_HALVINGS):
        if points is None:
            break
        steps = np.abs(np.diff(points, axis=0))
        steps[:, 0] = np.minimum(steps[:, 0], np.abs(360.0 - steps[:, 0]))
        is_far = (steps > _MAX_STEP).any(axis=1)
        if not is_far.any():
            break
        at = np.sort(np.concatenate([at, (at[:-1] + at[1:])[is_far] / 2]))
        points = _project(projection, transform, raster, at)
    return points


def _find_gap(points: NDArray[np.float64]) -> tuple[int, int] | None:
    """Find where an outline goes through a pole, which has any longitude.

    Returns
    -------
    Indices of the last point before the pole and of the first after it.
    """
    n = len(points) - 1
    is_pole = np.abs(points[:-1, 1]) > 90.0 - _AT_POLE
    if is_pole.sum() == 1:
        k = int(np.flatnonzero(is_pole)[0])
        return (k - 1) % n, (k + 1) % n
    # more points at a pole are an edge that lies there, as the upper one of a map of the world
    steps = np.abs(np.diff(points[:, 0]))
    halves = np.flatnonzero(np.abs(steps - 180.0) < _AT_POLE)
    return None if len(halves) != 1 or is_pole.any() else (int(halves[0]), (int(halves[0]) + 1) % n)


def _around_gap(points: NDArray[np.float64], before: int, after: int) -> NDArray[np.float64]:
    """Give the outline from pole to pole, where it leaves one meridian for another."""
    n = len(points) - 1
    order = (after + np.arange((before - after) % n + 1)) % n
    rest = points[order]
    rest[:, 0] = np.unwrap(rest[:, 0], period=360.0)
    pole = np.copysign(90.0, rest[0, 1])
    ends = [[rest[0, 0], pole]], [[rest[-1, 0], pole]]
    return np.concatenate([ends[0], rest, ends[1], ends[0]])


def _pole_inside(
    projection: _Projection, transform: Sequence[float], raster: Sequence[int]
) -> float | None:
    """Say which pole lies in a raster."""
    a, b, c, d, e, f = transform
    for latitude in (90.0, -90.0):
        x, y = projection.from_globe(0.0, latitude)
        if np.isfinite([x, y]).all():
            column, row = np.linalg.solve([[a, b], [d, e]], [x - c, y - f])
            if 0 <= row <= raster[0] and 0 <= column <= raster[1]:
                return latitude
    return None


def _around_pole(points: NDArray[np.float64], pole: float) -> Ring:
    """Give the ring of an outline that goes once around the globe, eastward."""
    cut = 360.0 * np.ceil((points[0, 0] - 180.0) / 360.0) + 180.0
    first, second = points[points[:, 0] < cut], points[points[:, 0] >= cut]
    at_cut = np.interp(cut, points[:, 0], points[:, 1])
    ring = np.concatenate(
        [
            [[-180.0, at_cut]],
            second - [cut + 180.0, 0.0],
            first[1:] - [cut - 180.0, 0.0],  # its first point is the last of the other part
            [[180.0, at_cut], [180.0, pole], [-180.0, pole]],
        ]
    )
    return _finished(ring)


def _split(points: NDArray[np.float64]) -> Footprint:
    """Cut an outline at the antimeridian."""
    x = points[:, 0]
    if np.ptp(x) >= 360.0:
        south, north = points[:, 1].min(), points[:, 1].max()
        around = [[-180.0, south], [180.0, south], [180.0, north], [-180.0, north]]
        return (_finished(np.array(around)),)
    shift = 360.0 * np.floor((x.min() + 180.0) / 360.0)
    points = np.round(points - [shift, 0.0], _DECIMALS)
    if points[:, 0].max() <= 180.0:
        return (_finished(points),)
    east, west = _clip(points, 180.0, True), _clip(points, 180.0, False)
    return _finished(east), _finished(west - [360.0, 0.0])


def _finished(ring: Ring) -> Ring:
    """Round, close, and turn a ring so that it goes counterclockwise."""
    ring = np.round(ring, _DECIMALS)
    ring = ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    area = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()
    return ring if area >= 0 else ring[::-1]


def _clip(ring: NDArray[np.float64], limit: float, below: bool) -> Ring:
    """Keep the part of a ring on one side of a meridian (Sutherland and Hodgman)."""
    kept = []
    for start, end in itertools.pairwise(ring):
        inside = [(point[0] <= limit) == below for point in (start, end)]
        if inside[0]:
            kept.append(start)
        if inside[0] != inside[1]:
            share = (limit - start[0]) / (end[0] - start[0])
            kept.append(np.array([limit, start[1] + share * (end[1] - start[1])]))
    return np.array(kept)


def ring_bounds(rings: Footprint) -> list[float]:
    """Give west, south, east and north; west is more than east across the antimeridian."""
    south = min(float(ring[:, 1].min()) for ring in rings)
    north = max(float(ring[:, 1].max()) for ring in rings)
    return [float(rings[0][:, 0].min()), south, float(rings[-1][:, 0].max()), north]


def to_wkb(rings: Footprint) -> bytes:
    """Give a polygon, or a multipolygon of two, as little-endian WKB."""
    polygons = [
        struct.pack("<BIII", 1, 3, 1, len(ring)) + ring.astype("<f8").tobytes() for ring in rings
    ]
    if len(polygons) == 1:
        return polygons[0]
    return struct.pack("<BII", 1, 6, len(polygons)) + b"".join(polygons)


def to_geojson(rings: Footprint) -> dict[str, Any]:
    """Give the geometry as GeoJSON."""
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": [rings[0].tolist()]}
    return {"type": "MultiPolygon", "coordinates": [[ring.tolist()] for ring in rings]}
