"""Parse the GeoKey directory of a GeoTIFF, and the tags that locate the raster.

The raster is located by an affine transform, ground control points or RPCs. The CRS is left to
`crs`.

References: OGC 19-008r4 (GeoTIFF 1.1), section 7.1 and requirement class "Raster to Model
Coordinate Transformation"; GeoTIFF 1.0, section 2.4. Precedence of the tags and treatment of
negative scales follow GDAL.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .report import Report

DIRECTORY, DOUBLES, TEXTS = 34735, 34736, 34737
_GEO_TAGS = frozenset({33550, 33922, 34264, 50844, DIRECTORY})
USER_DEFINED = 32767
_DIRECTORY_LABEL = "GeoKeyDirectory (34735)"
_FLOATS = frozenset({float})

KEY_NAMES: Mapping[int, str] = {
    1024: "GTModelType", 1025: "GTRasterType", 1026: "GTCitation", 2048: "GeodeticCRS",
    2049: "GeodeticCitation", 2050: "GeodeticDatum", 2051: "PrimeMeridian",
    2052: "GeogLinearUnits", 2053: "GeogLinearUnitSize", 2054: "GeogAngularUnits",
    2055: "GeogAngularUnitSize", 2056: "Ellipsoid", 2057: "EllipsoidSemiMajorAxis",
    2058: "EllipsoidSemiMinorAxis", 2059: "EllipsoidInvFlattening", 2060: "GeogAzimuthUnits",
    2061: "PrimeMeridianLongitude", 2062: "GeogTOWGS84", 3072: "ProjectedCRS",
    3073: "ProjectedCitation", 3074: "Projection", 3075: "ProjMethod", 3076: "ProjLinearUnits",
    3077: "ProjLinearUnitSize", 3078: "ProjStdParallel1", 3079: "ProjStdParallel2",
    3080: "ProjNatOriginLong", 3081: "ProjNatOriginLat", 3082: "ProjFalseEasting",
    3083: "ProjFalseNorthing", 3084: "ProjFalseOriginLong", 3085: "ProjFalseOriginLat",
    3086: "ProjFalseOriginEasting", 3087: "ProjFalseOriginNorthing", 3088: "ProjCenterLong",
    3089: "ProjCenterLat", 3090: "ProjCenterEasting", 3091: "ProjCenterNorthing",
    3092: "ProjScaleAtNatOrigin", 3093: "ProjScaleAtCenter", 3094: "ProjAzimuthAngle",
    3095: "ProjStraightVertPoleLong", 3096: "ProjRectifiedGridAngle", 4096: "Vertical",
    4097: "VerticalCitation", 4098: "VerticalDatum", 4099: "VerticalUnits",
    5120: "CoordinateEpoch",
}  # fmt: skip
"""Names of keys, without the suffix "GeoKey" of the specification."""


@dataclass(frozen=True, slots=True)
class GeoKeys:
    """GeoKeys of one IFD.

    `values` maps a key to an int, a float, a tuple of floats or a string. `version` is (1, 0) or
    (1, 1) for the two editions of GeoTIFF. `defects` lists what was wrong, as (key label, what).
    """

    values: Mapping[int, Any] = field(default_factory=dict)
    version: tuple[int, int] = (1, 0)
    defects: tuple[tuple[str, str], ...] = ()

    def code(self, key: int) -> int | None:
        """Return an EPSG code or enumeration; None if absent, 0 or "user-defined"."""
        value = self.values.get(key)
        return value if isinstance(value, int) and value not in (0, USER_DEFINED) else None

    def number(self, *keys: int) -> float | None:
        """Return the first finite number among some keys."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, tuple) and value:
                value = value[0]
            if isinstance(value, int | float) and np.isfinite(value):
                return float(value)
        return None

    def text(self, key: int) -> str:
        """Return a citation, "" if absent."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def named(self) -> dict[str, Any]:
        """Return the keys by name, as JSON values."""
        return {
            KEY_NAMES.get(key, str(key)): list(value) if isinstance(value, tuple) else value
            for key, value in self.values.items()
        }


def key_label(key: int) -> str:
    """Return the name of a key for a message: "ProjectedCRS (GeoKey 3072)"."""
    return f"{KEY_NAMES.get(key, 'unknown key')} (GeoKey {key})"


def is_georeferenced(tags: Mapping[int, Any]) -> bool:
    """Return whether an IFD has any georeferencing tag."""
    return not _GEO_TAGS.isdisjoint(tags)


def numbers(value: Any) -> tuple[float, ...]:
    """Return the value of a tag as a tuple of floats, also for a single number."""
    if isinstance(value, int | float):
        return (float(value),)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, tuple | list):
        return ()
    if type(value) is tuple and _FLOATS.issuperset(map(type, value)):
        return value  # fast path
    return tuple(float(v) for v in value if isinstance(v, int | float))


def parse_geokeys(tags: Mapping[int, Any]) -> GeoKeys:
    """Parse the GeoKeys of an IFD.

    Keys that point outside the tag that stores them are left out and listed in `defects`.

    Parameters
    ----------
    tags
        Tags by number, with plain values.

    References
    ----------
    OGC 19-008r4, requirement class GeoKeyDirectory: header of four SHORTs, then four per key.
    """
    own = tuple((code, tags[code]) for code in (DIRECTORY, DOUBLES, TEXTS) if code in tags)
    try:
        return _parse_cached(own)
    except TypeError:  # arrays cannot be cache keys
        return _parse_cached.__wrapped__(own)


@functools.lru_cache(maxsize=1024)
def _parse_cached(own: tuple[tuple[int, Any], ...]) -> GeoKeys:
    # cached: most files of a collection share them
    tags = dict(own)
    shorts = list(numbers(tags.get(DIRECTORY)))
    directory = [int(n) for n in shorts] if all(map(math.isfinite, shorts)) else []
    if DIRECTORY not in tags:
        return GeoKeys()
    _, revision, minor, n_keys = directory[:4] if len(directory) >= 4 else (1, 1, 0, 1)
    defects: list[tuple[str, str]] = []
    if len(directory) < 4 + 4 * n_keys:
        defects.append((_DIRECTORY_LABEL, "the GeoKey directory is truncated"))
    values: dict[int, Any] = {}
    for at in range(4, min(len(directory) - 3, 4 + 4 * n_keys), 4):
        key, *entry = directory[at : at + 4]
        if key == 0:
            continue  # padding of some writers
        value = _key_value(tags, directory, entry)
        if value is None:
            defects.append((key_label(key), "the GeoKey points outside its tag"))
        else:
            values[key] = value
    return GeoKeys(values, (revision, minor), tuple(defects))


def _key_value(tags: Mapping[int, Any], directory: Sequence[int], entry: Sequence[int]) -> Any:
    location, count, value = entry
    if location == 0:
        return value
    if location == DOUBLES:
        values = numbers(tags.get(DOUBLES))[value : value + count]
        if len(values) != count or not count:
            return None
        return values[0] if count == 1 else values
    if location == TEXTS:
        text = tags.get(TEXTS)
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        if not isinstance(text, str) or value > len(text):
            return None
        # as in C, a text ends at the first NUL
        return text[value : value + count].partition("\0")[0].rstrip("| ").strip()
    if location == DIRECTORY:
        codes = directory[value : value + count]
        return codes[0] if len(codes) == count == 1 else None
    return None


SCALE, TIEPOINTS, MATRIX, RPCS = 33550, 33922, 34264, 50844
_PLACEMENT_TAGS = {
    SCALE: ("ModelPixelScale (33550)", 2),
    TIEPOINTS: ("ModelTiepoint (33922)", 6),
    MATRIX: ("ModelTransformation (34264)", 16),
    RPCS: ("RPCCoefficient (50844)", 92),
}
"""Label and least number of values of the tags that locate a raster."""

MAX_COORDINATE = 1 << 22
"""Largest number of rows or columns with coordinates; larger rasters only have the transform."""

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): x = a column + b row + c, y = d column + e row + f, where (0, 0) is the outer
corner of the first pixel."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Georeferencing of a raster, without its CRS.

    `transform` is None without tags, or with control points only. `gcps` are (row, column, x, y, z)
    in pixels and model units. `is_point` is true if the tags refer to pixel centres (PixelIsPoint);
    the values here always refer to corners. `rpcs` is the RPC sensor model, with GDAL's names in
    lower case.
    """

    transform: Affine | None = None
    gcps: tuple[tuple[float, float, float, float, float], ...] = ()
    is_point: bool = False
    rpcs: Mapping[str, Any] | None = None

    def of_level(self, columns: float, rows: float) -> Placement:
        """Return the placement of an overview, one pixel of which covers `columns` by `rows`."""
        if columns == rows == 1:
            return self
        transform, rpcs = self.transform, self.rpcs
        if transform is not None:
            a, b, c, d, e, f = transform
            transform = (a * columns, b * rows, c, d * columns, e * rows, f)
        gcps = tuple((row / rows, column / columns, *xyz) for row, column, *xyz in self.gcps)
        if rpcs is not None:
            scaled = {
                f"{name}_{what}": (rpcs[f"{name}_{what}"] + half) / factor - half
                for name, factor in (("line", rows), ("samp", columns))
                for what, half in (("off", 0.5), ("scale", 0.0))
            }
            rpcs = {**rpcs, **scaled}
        return Placement(transform, gcps, self.is_point, rpcs)  # type: ignore[arg-type]


def parse_placement(tags: Mapping[int, Any], keys: GeoKeys, report: Report) -> Placement:
    """Parse the placement of the raster of one IFD.

    Parameters
    ----------
    tags
        Tags of the IFD, by number.
    keys
        GeoKeys of the same IFD, for GTRasterType.
    report
        Receives defects of the tags.
    """
    is_point = keys.values.get(1025) == 2
    half = 0.5 if is_point else 0.0
    values = [numbers(tags.get(tag)) for tag in _PLACEMENT_TAGS]
    for (tag, (label, n)), some in zip(_PLACEMENT_TAGS.items(), values, strict=True):
        if tag in tags and len(some) < n:
            report.add(label, f"has fewer than {n} numbers", got=len(some))
    scale, ties, matrix, coefficients = values
    transform: Affine | None = None
    gcps: tuple[Any, ...] = ()
    if len(scale) >= 2 and 0 not in scale[:2]:
        a, e = scale[0], -abs(scale[1])  # y decreases with the row, whatever the sign of the scale
        transform = (a, 0.0, 0.0, 0.0, e, 0.0)
        if len(ties) >= 6:
            column, row, _, x, y, _ = ties[:6]
            transform = _shift_to_corner((a, 0.0, x - column * a, 0.0, e, y - row * e), half)
        transform = _checked(SCALE, transform, report)
    elif len(matrix) >= 16:
        a, b, _, c, d, e, _, f = matrix[:8]
        transform = _checked(MATRIX, _shift_to_corner((a, b, c, d, e, f), half), report)
    elif len(ties) >= 6:
        gcps = _gcps(ties, half, report)
    if RPCS in tags and transform is not None:
        a, b, c, d, e, f = transform
        if (abs(a), b, d, abs(e)) == (1, 0, 0, 1) and max(abs(c), abs(f)) <= 0.5:
            transform = None  # an identity in pixels, meaningless beside a sensor model
    return Placement(transform, gcps, is_point, _rpc_model(coefficients, report))


def _checked(tag: int, transform: Affine, report: Report) -> Affine | None:
    """Return a transform if it is finite and can be inverted; report others."""
    a, b, _, d, e, _ = transform
    if not all(map(math.isfinite, transform)):
        defect = "the transform is not finite"
    elif a * e == b * d:
        defect = "the pixel size is 0"
    else:
        return transform
    report.add(_PLACEMENT_TAGS[tag][0], defect, got=transform)
    return None


def _rpc_model(coefficients: Sequence[float], report: Report) -> dict[str, Any] | None:
    if len(coefficients) < 92:
        return None
    if not all(map(math.isfinite, coefficients[:92])):
        report.add(_PLACEMENT_TAGS[RPCS][0], "has numbers that are not finite")
        return None
    series = {
        name: list(coefficients[12 + 20 * n : 32 + 20 * n]) for n, name in enumerate(RPC_SERIES)
    }
    return {**dict(zip(RPC_NUMBERS, coefficients, strict=False)), **series}


RPC_NUMBERS = (
    "err_bias", "err_rand", "line_off", "samp_off", "lat_off", "long_off", "height_off",
    "line_scale", "samp_scale", "lat_scale", "long_scale", "height_scale",
)  # fmt: skip
RPC_SERIES = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
"""GDAL's names of the values of tag 50844, in order: single numbers, then series of 20."""


def height_packing(tags: Mapping[int, Any], keys: GeoKeys) -> dict[str, float]:
    """Return scale and offset of the samples of an elevation raster; empty if not given.

    As in GDAL, they are the third numbers of ModelPixelScale and ModelTiepoint, and only count with
    a vertical CRS of GeoTIFF 1.1.
    """
    scale, ties = numbers(tags.get(SCALE)), numbers(tags.get(TIEPOINTS))
    is_of_heights = 4096 in keys.values and keys.version >= (1, 1)
    if not is_of_heights or len(scale) < 3 or scale[2] == 0 or len(ties) < 6:
        return {}
    return {"scale": scale[2], "offset": ties[5] - ties[2] * scale[2]}


def _shift_to_corner(transform: Affine, half: float) -> Affine:
    if not half:
        return transform
    a, b, c, d, e, f = transform
    return (a, b, c - (a * half + b * half), d, e, f - (d * half + e * half))


def _gcps(ties: tuple[float, ...], half: float, report: Report) -> tuple[Any, ...]:
    points = [
        (row + half, column + half, x, y, z)
        for column, row, _, x, y, z in zip(*(ties[n::6] for n in range(6)), strict=False)
    ]
    finite = tuple(point for point in points if np.isfinite(point).all())
    if len(finite) < len(points):
        label, _ = _PLACEMENT_TAGS[TIEPOINTS]
        report.add(label, "tiepoints are not finite", got=len(points) - len(finite))
    return finite


def bounds_of(transform: Affine, shape: tuple[int, int]) -> list[float]:
    """Return the bounding box of an image of (rows, columns): x min, y min, x max, y max."""
    a, b, c, d, e, f = transform
    corners = [(column, row) for column in (0, shape[1]) for row in (0, shape[0])]
    x = [a * column + b * row + c for column, row in corners]
    y = [d * column + e * row + f for column, row in corners]
    return [min(x), min(y), max(x), max(y)]


def pixel_centres(step: float, cross: float, origin: float, n: int) -> NDArray | None:
    """Return the pixel centres along one axis of a raster that is not rotated.

    Operations are in the order of the package affine, so that the numbers equal those of other
    readers to the last bit.

    Parameters
    ----------
    step, cross, origin
        Coefficients of the transform for this axis: a, b, c for x; e, d, f for y.
    n
        Pixels along the axis.

    Returns
    -------
    `(n,)` float64; None for a rotated or huge raster or on overflow.
    """
    if cross != 0 or n > MAX_COORDINATE:
        return None
    start = step * 0.5 + cross * 0.5 + origin
    # evenly spaced values between finite ends are finite
    if n and not (math.isfinite(start) and math.isfinite((n - 1) * step + start)):
        return None
    return np.arange(n) * step + 0.0 * cross + start
