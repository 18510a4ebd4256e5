"""Footprints: where images lie on the globe, as geometries of the index.

Owns the outline of a raster in longitude and latitude, and its binary form. Systems are resolved by
pyproj; without it, only rasters in longitude and latitude have footprints.

References: GeoParquet 1.1.0 (encoding WKB, OGC:CRS84); RFC 7946, section 3.1.9, for footprints that
cross the antimeridian; OGC 06-103r4 for WKB.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Footprint", "footprint", "outline_of", "ring_bounds", "to_geojson", "to_wkb"]

_EDGE_POINTS = 4
"""Points along each edge: straight lines of a projection are curves on the globe."""
_DECIMALS = 9
"""Of a degree: a tenth of a millimetre. Last digits differ between versions of PROJ."""


def _unit_outline() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give columns and rows of the outline of a raster of one by one."""
    t = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    zero, one = np.zeros_like(t), np.ones_like(t)
    return (
        np.concatenate([zero, t, one, 1 - t, [0]]),
        np.concatenate([t, one, 1 - t, zero, [0]]),
    )


_UNIT = _unit_outline()

Ring = NDArray[np.float64]
"""`(n, 2)` longitudes and latitudes, the first point again at the end."""
Footprint = tuple[Ring, ...]
"""One ring, or two where the image crosses the antimeridian."""


def outline_of(transform: Sequence[float], raster: Sequence[int]) -> NDArray[np.float64]:
    """Give the outline of a raster in its own system.

    Parameters
    ----------
    transform
        (a, b, c, d, e, f) from pixels to the system.
    raster
        (rows, columns).

    Returns
    -------
    `(n, 2)` float64, counterclockwise for a raster whose rows go down.
    """
    column, row = _UNIT[0] * raster[1], _UNIT[1] * raster[0]
    a, b, c, d, e, f = transform
    outline = np.empty((len(row), 2))
    outline[:, 0] = a * column + b * row + c
    outline[:, 1] = d * column + e * row + f
    return outline


@functools.lru_cache(maxsize=64)
def _to_globe(crs: str) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    """Give the way from a system to longitude and latitude; None if it cannot be told."""
    try:
        import pyproj
    except ImportError:
        return (lambda x, y: (x, y)) if crs in ("EPSG:4326", "OGC:CRS84") else None
    try:
        return pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform
    except pyproj.exceptions.ProjError:
        return None


def footprint(crs: str | None, outline: NDArray[np.float64]) -> Footprint | None:
    """Give the footprint of a raster.

    Parameters
    ----------
    crs
        "EPSG:32633", or WKT.
    outline
        As `outline_of` gives it.

    Returns
    -------
    None where it cannot be told: no system, or points that have no place on the globe.
    """
    transform = _to_globe(crs) if crs is not None else None
    if transform is None:
        return None
    x, y = (np.asarray(values) for values in transform(outline[:, 0], outline[:, 1]))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    # x past 180 is how a raster in degrees crosses the antimeridian, a jump how others do
    x = np.unwrap(x, period=360.0)
    x = x - 360.0 * np.floor((x.min() + 180.0) / 360.0)
    ring = np.round(np.stack([x, np.clip(y, -90, 90)], axis=1), _DECIMALS)
    if ring[:, 0].max() <= 180.0:
        return (_closed(ring),)
    east, west = _clip(ring, 180.0, True), _clip(ring, 180.0, False)
    return _closed(east), _closed(west - np.array([360.0, 0.0]))


def _closed(ring: Ring) -> Ring:
    return ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])


def _clip(ring: Ring, limit: float, below: bool) -> Ring:
    """Keep the part of a ring on one side of a meridian (Sutherland and Hodgman)."""
    kept = []
    for start, end in itertools.pairwise(ring):
        inside = [(point[0] <= limit) == below for point in (start, end)]
        if inside[0]:
            kept.append(start)
        if inside[0] != inside[1]:
            share = (limit - start[0]) / (end[0] - start[0])
            kept.append(np.array([limit, start[1] + share * (end[1] - start[1])]))
    return np.round(np.array(kept), _DECIMALS)


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
