"""Where the pixels of a GeoTIFF are: an affine transformation, or ground control points.

Owns the three tags that place a raster, and what comes first where several are present. Coordinates
are those of the model; which system they are in is for `crs`.

References: OGC 19-008r4, requirement class "Raster to Model Coordinate Transformation"; the order
of the tags, and what becomes of negative scales, follow GDAL's reader.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geokeys import GeoKeys, numbers
from .report import Report

__all__ = [
    "MATRIX",
    "MAX_COORDINATE",
    "Affine",
    "Placement",
    "bounds_of",
    "centres",
    "place",
    "scaled",
]

SCALE, TIEPOINTS, MATRIX = 33550, 33922, 34264
_SCALE_LABEL = "ModelPixelScale (33550)"
_TIEPOINT_LABEL = "ModelTiepoint (33922)"
_MATRIX_LABEL = "ModelTransformation (34264)"

MAX_COORDINATE = 1 << 22
"""Rows or columns up to which coordinates are written; a larger raster has its transformation."""

_MAX_KEPT = 1 << 14

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): x = a column + b row + c, y = d column + e row + f; (0, 0) is the outer
corner of the first pixel."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a raster is.

    `transform` is None without tags, or with control points only. `gcps` are (row, column, x, y, z)
    in pixels and model units. `is_point` says that the tags speak of pixel centres; the values here
    always speak of corners.
    """

    transform: Affine | None = None
    gcps: tuple[tuple[float, float, float, float, float], ...] = ()
    is_point: bool = False


def place(tags: Mapping[int, Any], keys: GeoKeys, report: Report) -> Placement:
    """Read the placement of the raster of one IFD.

    Parameters
    ----------
    tags
        Tags of the IFD, by number.
    keys
        GeoKeys of the same IFD, for GTRasterType.
    report
        Takes what is wrong with the tags.
    """
    is_point = keys.values.get(1025) == 2
    half = 0.5 if is_point else 0.0
    scale, ties, matrix = (numbers(tags.get(tag)) for tag in (SCALE, TIEPOINTS, MATRIX))
    for tag, label, found, n in (
        (SCALE, _SCALE_LABEL, scale, 2),
        (TIEPOINTS, _TIEPOINT_LABEL, ties, 6),
        (MATRIX, _MATRIX_LABEL, matrix, 16),
    ):
        if tag in tags and len(found) < n:
            report.add(label, f"has less than {n} numbers", got=len(found))
    transform: Affine | None = None
    label = _SCALE_LABEL
    if len(scale) >= 2 and scale[0] != 0 and scale[1] != 0:
        transform = _from_scale(scale, ties, half)
    elif len(matrix) >= 16:
        label = _MATRIX_LABEL
        a, b, _, c, d, e, _, f = matrix[:8]
        transform = _shifted((a, b, c, d, e, f), half)
    elif len(ties) >= 6:
        return Placement(None, _gcps(ties, half, report), is_point)
    if transform is not None and not all(map(math.isfinite, transform)):
        report.add(label, "the transformation is not finite", got=transform)
        transform = None
    elif transform is not None and transform[0] * transform[4] == transform[1] * transform[3]:
        report.add(label, "pixels have no size", got=transform)
        transform = None
    return Placement(transform, (), is_point)


def _from_scale(scale: tuple[float, ...], ties: tuple[float, ...], half: float) -> Affine:
    # rows go down whatever sign writers give the scale
    a, e = scale[0], -abs(scale[1])
    if len(ties) < 6:
        return (a, 0.0, 0.0, 0.0, e, 0.0)
    column, row, _, x, y, _ = ties[:6]
    return _shifted((a, 0.0, x - column * a, 0.0, e, y - row * e), half)


def _shifted(transform: Affine, half: float) -> Affine:
    if not half:
        return transform
    a, b, c, d, e, f = transform
    return (a, b, c - (a * half + b * half), d, e, f - (d * half + e * half))


def _gcps(ties: tuple[float, ...], half: float, report: Report) -> tuple[Any, ...]:
    points = [
        (row + half, column + half, x, y, z)
        for column, row, _, x, y, z in zip(*(ties[n::6] for n in range(6)), strict=False)
    ]
    kept = tuple(point for point in points if np.isfinite(point).all())
    if len(kept) < len(points):
        report.add(_TIEPOINT_LABEL, "tiepoints are not finite", got=len(points) - len(kept))
    return kept


def scaled(transform: Affine, columns: float, rows: float) -> Affine:
    """Give the transformation of an overview: `columns` and `rows` say how many pixels of the full
    image go into one of its own."""
    a, b, c, d, e, f = transform
    return (a * columns, b * rows, c, d * columns, e * rows, f)


def bounds_of(transform: Affine, shape: tuple[int, int]) -> list[float]:
    """Give the box around an image of (rows, columns): least x and y, then greatest."""
    a, b, c, d, e, f = transform
    corners = [(column, row) for column in (0, shape[1]) for row in (0, shape[0])]
    x = [a * column + b * row + c for column, row in corners]
    y = [d * column + e * row + f for column, row in corners]
    return [min(x), min(y), max(x), max(y)]


def centres(step: float, cross: float, origin: float, n: int) -> NDArray | None:
    """Give the pixel centres along one axis of a raster that is not rotated.

    The order of the operations is that of the package affine, so that the numbers are those of
    other readers to the last bit.

    Parameters
    ----------
    step, cross, origin
        Of the transformation of this axis: a, b, c for x; e, d, f for y.
    n
        Pixels along the axis.

    Returns
    -------
    `(n,)` float64; None for a rotated or huge raster or on overflow.
    """
    if cross != 0 or n > MAX_COORDINATE:
        return None
    with np.errstate(over="ignore"):
        found = _steps(step, cross, n) + (step * 0.5 + cross * 0.5 + origin)
    # between finite ends of even steps all is finite
    return found if not n or (math.isfinite(found[0]) and math.isfinite(found[-1])) else None


def _steps(step: float, cross: float, n: int) -> NDArray:
    """Give the distances of pixels from the first along one axis."""
    make = _make_steps if n <= _MAX_KEPT else _make_steps.__wrapped__
    return make(step, cross, n)


@functools.lru_cache(maxsize=64)
def _make_steps(step: float, cross: float, n: int) -> NDArray:
    # the files of a collection have mostly the same
    return np.arange(n) * step + np.zeros(n) * cross
