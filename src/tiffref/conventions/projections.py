"""Map projections of GeoTIFF in the terms of PROJ.

Owns the table from the method codes of GeoKey 3075 to conversions in PROJJSON. Reading the table
is the only logic here; units and datums are for `crs`.

References: OGC 19-008r4, annex C (map projection methods); EPSG Guidance Note 7-2; the method and
parameter names are those of PROJ's `proj_constants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .geokeys import GeoKeys

__all__ = ["METHODS", "conversion_of"]


class Parameter(NamedTuple):
    """One parameter of a projection method.

    `kind` is "angle", "length" or "scale"; `keys` are the GeoKeys it may be stored in, the
    right one first: writers disagree about "natural origin", "false origin" and "center".
    """

    name: str
    code: int | None
    kind: str
    keys: tuple[int, ...]
    default: float = 0.0


class Method(NamedTuple):
    """One projection method: PROJ's name, the EPSG code where it has one, and its parameters."""

    name: str
    code: int | None
    parameters: tuple[Parameter, ...]


_LATS, _LONGS = (3081, 3085, 3089), (3080, 3084, 3088)
_LAT = Parameter("Latitude of natural origin", 8801, "angle", _LATS)
_LONG = Parameter("Longitude of natural origin", 8802, "angle", _LONGS)
_SCALE = Parameter("Scale factor at natural origin", 8805, "scale", (3092, 3093), 1.0)
_EAST = Parameter("False easting", 8806, "length", (3082, 3090, 3086))
_NORTH = Parameter("False northing", 8807, "length", (3083, 3091, 3087))
_FALSE_LAT = Parameter("Latitude of false origin", 8821, "angle", (3085, 3081, 3089))
_FALSE_LONG = Parameter("Longitude of false origin", 8822, "angle", (3084, 3080, 3088))
_PARALLEL_1 = Parameter("Latitude of 1st standard parallel", 8823, "angle", (3078,))
_PARALLEL_2 = Parameter("Latitude of 2nd standard parallel", 8824, "angle", (3079,))
_FALSE_EAST = Parameter("Easting at false origin", 8826, "length", (3086, 3082, 3090))
_FALSE_NORTH = Parameter("Northing at false origin", 8827, "length", (3087, 3083, 3091))
_CENTER_LAT = Parameter("Latitude of projection centre", 8811, "angle", (3089, 3081, 3085))
_CENTER_LONG = Parameter("Longitude of projection centre", 8812, "angle", (3088, 3080, 3084))
_AZIMUTH = Parameter("Azimuth of initial line", 8813, "angle", (3094,))
_GRID_ANGLE = Parameter("Angle from Rectified to Skew Grid", 8814, "angle", (3096, 3094))
_CENTER_SCALE = Parameter("Scale factor on initial line", 8815, "scale", (3093, 3092), 1.0)
_CENTER_EAST = Parameter("Easting at projection centre", 8816, "length", (3090, 3082, 3086))
_CENTER_NORTH = Parameter("Northing at projection centre", 8817, "length", (3091, 3083, 3087))
_POLE_LONG = Parameter("Longitude of natural origin", 8802, "angle", (3095, *_LONGS))
_ORIGIN_LONG = Parameter("Longitude of origin", 8833, "angle", (3095, *_LONGS))
_POLE_PARALLEL = Parameter("Latitude of standard parallel", 8832, "angle", _LATS)

_NATURAL = (_LAT, _LONG, _SCALE, _EAST, _NORTH)
_PLAIN = (_LAT, _LONG, _EAST, _NORTH)
_CONIC = (_FALSE_LAT, _FALSE_LONG, _PARALLEL_1, _PARALLEL_2, _FALSE_EAST, _FALSE_NORTH)
_OBLIQUE = (_CENTER_LAT, _CENTER_LONG, _AZIMUTH, _GRID_ANGLE, _CENTER_SCALE)
_WORLD = (_LONG, _EAST, _NORTH)

METHODS: Mapping[int, Method] = {
    1: Method("Transverse Mercator", 9807, _NATURAL),
    3: Method("Hotine Oblique Mercator (variant A)", 9812, (*_OBLIQUE, _EAST, _NORTH)),
    4: Method("Laborde Oblique Mercator", 9813, (*_OBLIQUE[:3], _CENTER_SCALE, _EAST, _NORTH)),
    5: Method(
        "Hotine Oblique Mercator (variant B)",
        9815,
        (
            _CENTER_LAT,
            _CENTER_LONG,
            # the Swiss system is the case of a central line that runs straight east
            _AZIMUTH._replace(keys=(), default=90.0),
            _GRID_ANGLE._replace(keys=(), default=90.0),
            _CENTER_SCALE._replace(keys=()),
            _CENTER_EAST,
            _CENTER_NORTH,
        ),
    ),
    7: Method("Mercator (variant A)", 9804, _NATURAL),
    8: Method("Lambert Conic Conformal (2SP)", 9802, _CONIC),
    9: Method("Lambert Conic Conformal (1SP)", 9801, _NATURAL),
    10: Method("Lambert Azimuthal Equal Area", 9820, _PLAIN),
    11: Method("Albers Equal Area", 9822, _CONIC),
    12: Method("Azimuthal Equidistant", 1125, _PLAIN),
    13: Method(
        "Equidistant Conic", 1119,
        (_FALSE_LAT, _FALSE_LONG, _PARALLEL_1, _PARALLEL_2, _FALSE_EAST, _FALSE_NORTH),
    ),
    14: Method("Stereographic", None, _NATURAL),
    15: Method("Polar Stereographic (variant A)", 9810, (_LAT, _POLE_LONG, _SCALE, _EAST, _NORTH)),
    16: Method("Oblique Stereographic", 9809, _NATURAL),
    17: Method("Equidistant Cylindrical", 1028, (_PARALLEL_1, *_PLAIN)),
    18: Method("Cassini-Soldner", 9806, _PLAIN),
    19: Method("Gnomonic", None, _PLAIN),
    20: Method("Miller Cylindrical", None, _WORLD),
    21: Method("Orthographic", 9840, _PLAIN),
    22: Method("American Polyconic", 9818, _PLAIN),
    23: Method("Robinson", None, _WORLD),
    24: Method("Sinusoidal", None, _WORLD),
    25: Method("Van Der Grinten", None, _WORLD),
    26: Method("New Zealand Map Grid", 9811, _PLAIN),
    27: Method("Transverse Mercator (South Orientated)", 9808, _NATURAL),
    28: Method("Lambert Cylindrical Equal Area", 9835, (_PARALLEL_1, *_WORLD)),
    9815: Method(
        "Hotine Oblique Mercator (variant B)", 9815, (*_OBLIQUE, _CENTER_EAST, _CENTER_NORTH)
    ),
}  # fmt: skip
"""Methods by their code in GeoKey 3075. Modified Alaska (2), Rosenmund's double projection in other
forms and spherical oblique Mercator (6) have no counterpart in PROJ's model of conversions."""

_MERCATOR_2SP = Method("Mercator (variant B)", 9805, (_PARALLEL_1, *_WORLD))
_POLAR_B = Method(
    "Polar Stereographic (variant B)", 9829, (_POLE_PARALLEL, _ORIGIN_LONG, _EAST, _NORTH)
)


def conversion_of(
    keys: GeoKeys, angle: float, unit: str | Mapping[str, Any]
) -> dict[str, Any] | None:
    """Give the conversion that a user-defined projected system names, in PROJJSON.

    Parameters
    ----------
    keys
        GeoKeys of the IFD.
    angle
        Degrees in one unit of the angular parameters.
    unit
        Linear unit of the false origin, in PROJJSON.

    Returns
    -------
    conversion
        None if the method is unknown or not said.
    """
    method = _method_of(keys, angle)
    if method is None:
        return None
    parameters = []
    for parameter in method.parameters:
        value = keys.number(*parameter.keys)
        value = parameter.default if value is None else value * _factor(parameter, angle)
        one: dict[str, Any] = {
            "name": parameter.name, "value": value, "unit": _UNITS.get(parameter.kind, unit)
        }  # fmt: skip
        if parameter.code is not None:
            one["id"] = {"authority": "EPSG", "code": parameter.code}
        parameters.append(one)
    found: dict[str, Any] = {"name": method.name}
    if method.code is not None:
        found["id"] = {"authority": "EPSG", "code": method.code}
    return {"name": "unnamed", "method": found, "parameters": parameters}


_UNITS = {"angle": "degree", "scale": "unity"}


def _factor(parameter: Parameter, angle: float) -> float:
    return angle if parameter.kind == "angle" else 1.0


def _method_of(keys: GeoKeys, angle: float) -> Method | None:
    code = keys.values.get(3075)
    if code == 7 and keys.number(3078) is not None and keys.number(3092) is None:
        return _MERCATOR_2SP
    if code == 15:
        # a latitude that is not the pole is that of true scale, if no scale is given
        latitude = (keys.number(*_LATS) or 0.0) * angle
        scale = keys.number(3092, 3093)
        if scale in (None, 1.0) and abs(abs(latitude) - 90) > 1e-8:
            return _POLAR_B
    return METHODS.get(code) if isinstance(code, int) else None
