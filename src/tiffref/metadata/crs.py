"""Convert GeoKeys to a coordinate reference system (a pyproj `CRS`).

Precedence: an EPSG code over parameters, an ESRI string over user-defined parameters. Handles
user-defined datums, ellipsoids and prime meridians, shifts to WGS 84, and the projection methods of
GeoTIFF. pyproj is imported only if there are keys.

References: OGC 19-008r4, section 7.5 (CRS requirements), annexes B and C; EPSG Guidance Note 7-2.
Names of methods and parameters are those of PROJ's `proj_constants`. Nonconforming files are
interpreted like in libgeotiff and GDAL.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import requires_extra
from .geokeys import USER_DEFINED, GeoKeys, key_label
from .report import Recorder, Report

if TYPE_CHECKING:
    from pyproj import CRS

__all__ = ["METHODS", "build_crs", "citation", "from_epsg", "geographic", "height_unit"]


class Parameter(NamedTuple):
    """One parameter of a projection method.

    `kind` is "angle", "length" or "scale"; `keys` are the GeoKeys it may be stored in, the correct
    one first: writers disagree about "natural origin", "false origin" and "center".
    """

    name: str
    code: int | None
    kind: str
    keys: tuple[int, ...]
    default: float = 0.0


class Method(NamedTuple):
    """One projection method: PROJ's name, the EPSG code if any, and its parameters."""

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
_GRID_ANGLE = Parameter("Angle from Rectified to Skew Grid", 8814, "angle", (3096,), 90.0)
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
            # the Swiss oblique Mercator is the special case of an azimuth of 90 degrees
            _AZIMUTH._replace(keys=(), default=90.0),
            _GRID_ANGLE._replace(keys=()),
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
"""Methods by their code in GeoKey 3075. Modified Alaska (2), other forms of Rosenmund's double
projection, and spherical oblique Mercator (6) do not exist in PROJ's model of conversions."""

_MERCATOR_2SP = Method(
    "Mercator (variant B)", 9805, (_PARALLEL_1._replace(keys=(3078, *_LATS)), *_WORLD)
)
_POLAR_B = Method(
    "Polar Stereographic (variant B)", 9829, (_POLE_PARALLEL, _ORIGIN_LONG, _EAST, _NORTH)
)


def conversion_of(
    keys: GeoKeys, angle: float, unit: str | Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the conversion of a user-defined projected CRS, in PROJJSON.

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
        None if the method is unknown or missing.
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
    if code == 7 and keys.number(3092) in (None, 1.0) and keys.number(3078, *_LATS):
        return _MERCATOR_2SP  # like GDAL, which reads the latitude of origin as standard parallel
    if code == 15:
        # without a scale, a latitude other than that of the pole is the latitude of true scale
        latitude = (keys.number(*_LATS) or 0.0) * angle
        scale = keys.number(3092, 3093)
        if scale in (None, 1.0) and abs(abs(latitude) - 90) > 1e-8:
            return _POLAR_B
    return METHODS.get(code) if isinstance(code, int) else None


@functools.lru_cache(maxsize=1024)
def from_epsg(code: int) -> CRS:
    """Return a CRS by its EPSG code; a deprecated projected CRS is replaced by its only successor.

    Like GDAL. Successors of geographic systems may have other units or prime meridians.
    """
    from pyproj import CRS

    crs = CRS.from_epsg(code)
    if crs.is_deprecated and not crs.type_name.startswith("Geo"):
        # pyproj returns objects of a private class here, so they are looked up by code
        successors = {one.to_authority(min_confidence=100) for one in crs.get_non_deprecated()}
        if len(successors) == 1 and (successor := successors.pop()) is not None:
            return CRS.from_authority(*successor)
    return crs


@functools.lru_cache(maxsize=1024)
def _unit_of_code(code: int) -> tuple[str, float]:
    """Return name and size of the unit of a projected CRS, also of a deprecated one.

    The deprecated code of "NAD83 / Maine East (ftUS)" is in metres, despite its name.
    """
    from pyproj import CRS

    own = CRS.from_epsg(code)
    first = (own if own.is_projected else from_epsg(code)).axis_info[0]
    return first.unit_name, first.unit_conversion_factor


def look_up(keys: GeoKeys, key: int, report: Report) -> CRS | None:
    """Return the CRS of the EPSG code in a key; report an unknown code."""
    from pyproj.exceptions import CRSError

    code = keys.code(key)
    if code is None:
        return None
    try:
        return from_epsg(code)
    except CRSError:
        report.add(key_label(key), "unknown EPSG code", got=code)
        return None


@functools.lru_cache(maxsize=8)
def _units(category: str) -> dict[int, tuple[str, float]]:
    from pyproj.database import get_units_map

    table = get_units_map(auth_name="EPSG", category=category, allow_deprecated=True)
    return {int(unit.code): (unit.name, unit.conv_factor) for unit in table.values()}


def unit_of(
    keys: GeoKeys, code_key: int, size_key: int, category: str, report: Report
) -> tuple[str, float]:
    """Return the name of a unit and its size in metres or radians."""
    default = {"linear": ("metre", 1.0), "angular": ("degree", math.radians(1))}[category]
    code = keys.code(code_key)
    if code is not None:
        known = _units(category)
        if code in known:
            return known[code]
        report.add(key_label(code_key), "unknown unit", got=code)
        return default
    size = keys.number(size_key)
    is_user_defined = keys.values.get(code_key) == USER_DEFINED
    if size is None or not 0 < size < 1e12 or not (is_user_defined or code_key not in keys.values):
        return default
    return "unknown", size


def in_degrees(name: str, radians: float) -> float:
    """Return the size of an angular unit in degrees."""
    # exact for degrees, the usual case
    return 1.0 if name == "degree" else math.degrees(radians)


def json_unit(kind: str, name: str, size: float) -> str | Mapping[str, Any]:
    """Return a unit in PROJJSON; `kind` is "LinearUnit" or "AngularUnit"."""
    if name in ("metre", "degree"):
        return name
    return {"type": kind, "name": name, "conversion_factor": size}


def citation(keys: GeoKeys, key: int, part: str) -> str:
    """Return one part of a citation such as "GCS Name = x|Datum = y|"."""
    text = keys.text(key)
    if "=" not in text:
        return text if part.endswith("Name") else ""
    found = re.search(rf"{part}\s*=\s*([^|]*)", text)
    return found.group(1).strip() if found else ""


def geographic(keys: GeoKeys, report: Report, is_base: bool = False) -> CRS | None:
    """Build the geographic or geocentric CRS, from its code or its datum.

    Parameters
    ----------
    keys
        GeoKeys of an IFD.
    report
        Receives their defects.
    is_base
        Whether it is the base of a projected CRS, which uses the ellipsoid of the keys.
    """
    crs = look_up(keys, 2048, report)
    if crs is not None and (crs.is_geographic or crs.is_geocentric):
        # GeoTIFF 1.0 only has two-dimensional systems, whatever code a writer uses
        crs = crs.to_2d() if crs.is_geographic and keys.version < (1, 1) else crs
    elif crs is not None and crs.is_projected and not is_base and 3072 not in keys.values:
        return crs  # as in GDAL
    elif keys.code(2048) is not None and crs is None and not _has_datum(keys):
        return None
    else:
        crs = _user_geographic(keys, report)
    return _with_keys_ellipsoid(crs, keys, report) if crs is not None and is_base else crs


def _with_keys_ellipsoid(crs: CRS, keys: GeoKeys, report: Report) -> CRS:
    """Replace the ellipsoid of a CRS by that of the keys if they differ; often it is a sphere.

    GDAL also projects on it. Longitudes and latitudes themselves do not depend on it.
    """
    from pyproj import CRS

    own = _ellipsoid(keys, report) if 2056 in keys.values or 2057 in keys.values else None
    known = crs.ellipsoid
    if own is None or known is None:
        return crs
    major = own.get("radius", own.get("semi_major_axis"))
    inverse = own.get("inverse_flattening", 0.0 if "radius" in own else None)
    if inverse is None and "semi_minor_axis" in own:
        inverse = major / (major - own["semi_minor_axis"])
    is_same = major is not None and math.isclose(major, known.semi_major_metre, rel_tol=1e-7)
    if inverse is None or (
        is_same and math.isclose(inverse, known.inverse_flattening, rel_tol=1e-6)
    ):
        return crs
    report.add(
        key_label(2057),
        f"differs from the ellipsoid of {crs.name}; this one is used",
        got=f"{major:.10g} m",
    )
    datum = {"type": "GeodeticReferenceFrame", "name": f"unknown, as {crs.name}", "ellipsoid": own}
    meridian = crs.prime_meridian
    if meridian is not None:
        datum["prime_meridian"] = meridian.to_json_dict()
    system = crs.to_json_dict()["coordinate_system"]
    return CRS.from_json_dict(
        {"type": "GeographicCRS", "name": crs.name, "datum": datum, "coordinate_system": system}
    )


def _has_datum(keys: GeoKeys) -> bool:
    return any(key in keys.values for key in (2050, 2056, 2057))


def _user_geographic(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    datum = _datum(keys, report)
    if datum is None:
        return None
    name, radians = unit_of(keys, 2054, 2055, "angular", report)
    unit = json_unit("AngularUnit", name, radians)
    axes = [
        {"name": "Latitude", "abbreviation": "lat", "direction": "north", "unit": unit},
        {"name": "Longitude", "abbreviation": "lon", "direction": "east", "unit": unit},
    ]
    place = "datum_ensemble" if datum.get("type") == "DatumEnsemble" else "datum"
    crs = CRS.from_json_dict(
        {
            "type": "GeographicCRS",
            "name": citation(keys, 2049, "GCS Name") or "unknown",
            place: datum,
            "coordinate_system": {"subtype": "ellipsoidal", "axis": axes},
        }
    )
    return crs


def _look_up_part(keys: GeoKeys, key: int, kind: Any, report: Report) -> dict[str, Any] | None:
    """Return the object of the EPSG code in a key, in PROJJSON; None without a code."""
    from pyproj.exceptions import CRSError

    code = keys.code(key)
    if code is None:
        return None
    try:
        return kind.from_epsg(code).to_json_dict()
    except CRSError:
        report.add(key_label(key), "unknown EPSG code", got=code)
        return None


def _datum(keys: GeoKeys, report: Report) -> dict[str, Any] | None:
    from pyproj.crs import Datum

    known = _look_up_part(keys, 2050, Datum, report)
    if known is not None:
        own = known.get("prime_meridian", {"name": "Greenwich"})["name"]
        meridian = _prime_meridian(keys, report) if 2051 in keys.values else {"name": own}
        if meridian["name"] == own:
            return known
        return {
            "type": "GeodeticReferenceFrame",
            "name": known["name"],
            "ellipsoid": known["ellipsoid"],
            "prime_meridian": meridian,
        }
    ellipsoid = _ellipsoid(keys, report)
    if ellipsoid is None:
        return None
    return {
        "type": "GeodeticReferenceFrame",
        "name": citation(keys, 2049, "Datum") or "unknown",
        "ellipsoid": ellipsoid,
        "prime_meridian": _prime_meridian(keys, report),
    }


def _ellipsoid(keys: GeoKeys, report: Report) -> dict[str, Any] | None:
    from pyproj.crs import Ellipsoid

    known = _look_up_part(keys, 2056, Ellipsoid, report)
    if known is not None:
        return known
    major, minor, inverse = keys.number(2057), keys.number(2058), keys.number(2059)
    if major is None or not 1.0 <= major < 1e12:
        if major is not None:
            report.add(key_label(2057), "not a valid semi-major axis", got=major)
        return None
    name = citation(keys, 2049, "Ellipsoid") or "unknown"
    if inverse is None and minor is not None and 0 < minor <= major:
        inverse = 0.0 if minor == major else major / (major - minor)
    if not inverse:
        return {"name": name, "radius": major}
    return {"name": name, "semi_major_axis": major, "inverse_flattening": inverse}


def _prime_meridian(keys: GeoKeys, report: Report) -> dict[str, Any]:
    from pyproj.crs import PrimeMeridian

    known = _look_up_part(keys, 2051, PrimeMeridian, report)
    if known is not None:
        return known
    name, radians = unit_of(keys, 2054, 2055, "angular", report)
    longitude = (keys.number(2061) or 0.0) * in_degrees(name, radians)
    default = "Greenwich" if longitude == 0 else "unknown"
    return {"name": citation(keys, 2049, "Primem") or default, "longitude": longitude}


def with_shift(crs: CRS, keys: GeoKeys) -> CRS:
    """Bind a user-defined CRS to WGS 84 by the three or seven parameters of GeoKey 2062.

    A CRS of EPSG is not bound, since PROJ's database has its transformations. Local and geocentric
    ones cannot be bound.
    """
    from pyproj import CRS

    shift = keys.values.get(2062)
    if not isinstance(shift, tuple) or len(shift) not in (3, 7):
        return crs
    if not (crs.is_geographic or crs.is_projected):
        return crs
    if crs.to_authority(min_confidence=100) is not None:
        return crs
    name, code = _SHIFTS[len(shift)]
    parameters = [
        {"name": label, "value": value, "unit": unit, "id": {"authority": "EPSG", "code": number}}
        for value, (label, number, unit) in zip(shift, _SHIFT_PARAMETERS, strict=False)
    ]
    return CRS.from_json_dict(
        {
            "type": "BoundCRS",
            "source_crs": crs.to_json_dict(),
            "target_crs": from_epsg(4326).to_json_dict(),
            "transformation": {
                "name": f"Transformation from {crs.name} to WGS84",
                "method": {"name": name, "id": {"authority": "EPSG", "code": code}},
                "parameters": parameters,
            },
        }
    )


_SHIFTS = {
    3: ("Geocentric translations (geog2D domain)", 9603),
    7: ("Position Vector transformation (geog2D domain)", 9606),
}
_ARC_SECOND = {
    "type": "AngularUnit", "name": "arc-second", "conversion_factor": 4.84813681109535993589914e-06
}  # fmt: skip
_PPM = {"type": "ScaleUnit", "name": "parts per million", "conversion_factor": 1e-06}
_SHIFT_PARAMETERS = (
    ("X-axis translation", 8605, "metre"),
    ("Y-axis translation", 8606, "metre"),
    ("Z-axis translation", 8607, "metre"),
    ("X-axis rotation", 8608, _ARC_SECOND),
    ("Y-axis rotation", 8609, _ARC_SECOND),
    ("Z-axis rotation", 8610, _ARC_SECOND),
    ("Scale difference", 8611, _PPM),
)


PROJECTED, GEOGRAPHIC, GEOCENTRIC = 1, 2, 3
_PE_STRING = re.compile(r"ESRI PE String\s*=\s*([^|]*)", re.IGNORECASE)


def build_crs(keys: GeoKeys, report: Report) -> CRS | None:
    """Build the coordinate reference system of GeoKeys.

    Parameters
    ----------
    keys
        GeoKeys of an IFD.
    report
        Receives their defects.

    Returns
    -------
    crs
        None if the keys do not describe one.

    Raises
    ------
    MissingExtra
        If pyproj is not installed.
    """
    with requires_extra("geo", "pyproj is needed for coordinate systems"):
        from pyproj.exceptions import ProjError
    if not keys.values:
        return None
    try:
        horizontal = _horizontal(keys, report)
        if horizontal is None:
            return None
        crs = _with_height(with_shift(horizontal, keys), keys, report)
        if not _is_registered(crs, keys):
            crs.from_wkt(crs.to_wkt())  # some names make WKT that cannot be parsed
        return crs
    except (ProjError, ValueError, ArithmeticError) as error:
        report.add(key_label(_main_key(keys)), "the coordinate system is not valid", got=error)
        return None


def _is_registered(crs: CRS, keys: GeoKeys) -> bool:
    """Return whether a CRS is an unmodified one of EPSG."""
    from pyproj.exceptions import CRSError

    codes = (keys.code(3072), keys.code(2048))
    try:
        return any(code is not None and crs is from_epsg(code) for code in codes)
    except CRSError:
        return False


def _main_key(keys: GeoKeys) -> int:
    return next((key for key in (3072, 3075, 2048, 2050) if key in keys.values), 1024)


def _horizontal(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    model = keys.values.get(1024, 0)
    if keys.code(3072) is not None and model != GEOGRAPHIC:
        model = PROJECTED
    own_key = {PROJECTED: 3072, GEOGRAPHIC: 2048, GEOCENTRIC: 2048}.get(model)
    esri = _esri_string(keys)
    if esri and (own_key is None or look_up(keys, own_key, report) is None):
        # ArcGIS marks any model as user-defined, and adds the key of the geographic CRS
        crs = CRS.from_wkt(esri)
        code = crs.to_epsg(min_confidence=90) if crs.is_geographic else None
        # ESRI lists longitude first, which makes no difference for rasters
        is_known = code is not None and crs.equals(from_epsg(code), ignore_axis_order=True)
        return from_epsg(code) if is_known else crs
    is_plain = model != USER_DEFINED and 3072 not in keys.values
    if own_key is None and is_plain and keys.code(2048) is not None:
        model = GEOGRAPHIC
    if model == GEOGRAPHIC and keys.code(3072) is not None and 2048 not in keys.values:
        found = look_up(keys, 3072, report)
        if found is not None and found.is_geographic:
            return found
        report.add(key_label(3072), "ignored, since the model is geographic", got=keys.code(3072))
    builders = {PROJECTED: _projected, GEOGRAPHIC: geographic, GEOCENTRIC: _geocentric}
    return builders.get(model, _engineering)(keys, report)


def _geocentric(keys: GeoKeys, report: Report) -> CRS | None:
    """Build a geocentric CRS, from its code or the datum of the keys."""
    base = geographic(keys, report)
    if base is None or base.is_geocentric:
        return base
    found = base.to_json_dict()
    own, size = (2052, 2053) if 2052 in keys.values else (3076, 3077)
    unit = json_unit("LinearUnit", *unit_of(keys, own, size, "linear", report))
    axes = [
        {"name": f"Geocentric {axis}", "abbreviation": axis, "direction": f"geocentric{axis}",
         "unit": unit}
        for axis in "XYZ"
    ]  # fmt: skip
    place = "datum_ensemble" if "datum_ensemble" in found else "datum"
    return base.from_json_dict(
        {
            "type": "GeodeticCRS",
            "name": keys.text(1026) or keys.text(2049) or "unnamed",
            place: found[place],
            "coordinate_system": {"subtype": "Cartesian", "axis": axes},
        }
    )


def _esri_string(keys: GeoKeys) -> str:
    """Return the ESRI WKT in a citation, "" if there is none."""
    # GeogCitation only describes a geographic CRS
    places = (3073, 1026, 2049) if keys.values.get(1024) != GEOGRAPHIC else (2049,)
    found = (_PE_STRING.search(keys.text(key)) for key in places)
    return next((one.group(1).strip() for one in found if one), "")


# ---- projected


def _projected(keys: GeoKeys, report: Report) -> CRS | None:
    crs = look_up(keys, 3072, report)
    if crs is not None and crs.is_projected:
        # state planes are often used in feet
        is_named = 3076 in keys.values
        unit = _keys_unit(keys, report) if is_named else _unit_of_code(keys.values[3072])
        return _with_unit(crs, *unit)
    if crs is not None and (crs.is_geographic or crs.is_geocentric):
        return crs  # like GDAL; some writers store any code here
    if crs is not None:
        report.add(key_label(3072), "not a projected system", got=crs.name)
    return _user_projected(keys, report)


def _keys_unit(keys: GeoKeys, report: Report) -> tuple[str, float]:
    return unit_of(keys, 3076, 3077, "linear", report)


def _with_unit(crs: CRS, name: str, size: float) -> CRS:
    """Set the linear unit of a projected CRS, `size` in metres."""
    if math.isclose(size, crs.axis_info[0].unit_conversion_factor, rel_tol=1e-9):
        return crs
    found = crs.to_json_dict()
    # a compound system has the projected one and heights as components
    for axis in found.get("components", [found])[0]["coordinate_system"]["axis"]:
        axis["unit"] = json_unit("LinearUnit", name, size)
    for one in (found, *found.get("components", [])[:1]):
        one.pop("id", None)
        one["name"] += f" ({name})"
    return crs.from_json_dict(found)


def _web_mercator(keys: GeoKeys, title: str, report: Report) -> CRS | None:
    """Return Web Mercator if the title names it, since GeoTIFF has no method code for it.

    Like GDAL, which ignores all parameters, and with Google's name the unit, too.
    """
    if 3075 not in keys.values or title.lower() not in (_GOOGLE_MERCATOR, _ESRI_MERCATOR):
        return None
    crs = from_epsg(3857)
    is_in_metres = title.lower() == _GOOGLE_MERCATOR
    return crs if is_in_metres else _with_unit(crs, *_keys_unit(keys, report))


_GOOGLE_MERCATOR = "google maps global mercator"
_ESRI_MERCATOR = "wgs_1984_web_mercator_auxiliary_sphere"


def _user_projected(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    title = citation(keys, 3073, "PCS Name") or citation(keys, 1026, "PCS Name")
    if (web_mercator := _web_mercator(keys, title, report)) is not None:
        return web_mercator
    base = geographic(keys, report, is_base=True)
    unit = json_unit("LinearUnit", *_keys_unit(keys, report))
    angle_name, radians = unit_of(keys, 2054, 2055, "angular", report)
    if base is not None and base.is_geographic and not {2054, 2055} & set(keys.values):
        first = base.axis_info[0]  # like GDAL, for systems in grads
        angle_name, radians = first.unit_name, first.unit_conversion_factor
    conversion = _known_conversion(keys, report)
    if conversion is None:
        conversion = conversion_of(keys, in_degrees(angle_name, radians), unit)
    if conversion is None:
        if 3075 in keys.values or 3074 in keys.values:
            report.add(key_label(3075), "unknown projection method", got=keys.values.get(3075))
        is_local = base is None or any(3072 <= key < 4096 for key in keys.values)
        return _engineering(keys, report) if is_local else base
    if base is None:
        if not {2048, 2050} & keys.values.keys():  # others are reported where they are looked up
            report.add(key_label(2048), "a projection without a geographic system is ignored")
        return None
    return CRS.from_json_dict(
        {
            "type": "ProjectedCRS",
            "name": title or "unnamed",
            "base_crs": base.to_json_dict(),
            "conversion": conversion,
            "coordinate_system": {"subtype": "Cartesian", "axis": _axes(conversion, unit)},
        }
    )


def _axes(conversion: Mapping[str, Any], unit: Any) -> list[dict[str, Any]]:
    """Return the axes; those of a polar CRS point away from, or to, the pole."""
    method = conversion["method"]["name"]
    directions: tuple[str, str] = ("east", "north")
    if method.endswith("(South Orientated)"):
        directions = ("west", "south")
    elif method.startswith("Polar Stereographic"):
        latitude = conversion["parameters"][0]["value"]
        directions = ("south", "south") if latitude > 0 else ("north", "north")
    return [
        {"name": name, "abbreviation": name[0], "direction": direction, "unit": unit}
        for name, direction in zip(("Easting", "Northing"), directions, strict=True)
    ]


def _known_conversion(keys: GeoKeys, report: Report) -> dict[str, Any] | None:
    """Return the conversion of the EPSG code in GeoKey 3074, such as a UTM zone."""
    from pyproj.crs import CoordinateOperation
    from pyproj.exceptions import CRSError

    code = keys.code(3074)
    if code is None:
        return None
    try:
        found = CoordinateOperation.from_epsg(code).to_json_dict()
    except CRSError:
        report.add(key_label(3074), "unknown EPSG code", got=code)
        return None
    return found if found.get("type") == "Conversion" else None


# ---- engineering and compound


def _engineering(keys: GeoKeys, report: Report) -> CRS | None:
    """Return a local CRS, which only has a unit."""
    from pyproj import CRS

    name, size = _keys_unit(keys, report)
    title = keys.text(1026) or keys.text(3073) or keys.text(2049) or "unnamed"
    title = " ".join(title.replace('"', "'").split())
    return CRS.from_wkt(
        f'LOCAL_CS["{title}",UNIT["{name}",{size!r}],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    )


def _with_height(crs: CRS, keys: GeoKeys, report: Report) -> CRS:
    """Add the vertical CRS.

    Vertical codes of GeoTIFF 1.0 are not EPSG codes; like in GDAL, only those of 1.1 are used, and
    a name alone is not a system. An ESRI string may include the vertical CRS already.
    """
    from pyproj import CRS

    is_given = any(key in keys.values for key in (4096, 4098, 4099))
    if keys.version < (1, 1) or not is_given or crs.is_compound:
        return crs
    known = look_up(keys, 4096, report)
    if known is None and keys.code(4096) not in (None, *_OLD_VERTICAL):
        return crs
    if known is not None and known.is_geographic and len(known.axis_info) == 3:
        # PROJ's geoid grids do this: heights above the ellipsoid belong to the geographic CRS
        return known if crs.is_geographic else crs
    vertical = known.to_json_dict() if known is not None else _user_vertical(keys, report)
    if known is not None and not known.is_vertical:
        report.add(key_label(4096), "not a vertical system", got=known.name)
        return crs
    return CRS.from_json_dict(
        {
            "type": "CompoundCRS",
            "name": keys.text(1026) or f"{crs.name} + {vertical['name']}",
            "components": [crs.to_json_dict(), vertical],
        }
    )


_OLD_VERTICAL = range(5001, 5200)
"""Vertical codes of GeoTIFF 1.0, section 6.3.4.1, which many files of heights have."""


def height_unit(crs: CRS, keys: GeoKeys) -> str:
    """Return the unit of the heights of a CRS, "" without any.

    As in GDAL, vertical keys of GeoTIFF 1.0 only give this unit.
    """
    if keys.version < (1, 1):
        crs = _with_height(crs, replace(keys, version=(1, 1)), Recorder())
    return crs.sub_crs_list[-1].axis_info[0].unit_name if crs.is_compound else ""


def _user_vertical(keys: GeoKeys, report: Report) -> dict[str, Any]:
    from pyproj.crs import Datum
    from pyproj.exceptions import CRSError

    datum: dict[str, Any] = {"type": "VerticalReferenceFrame", "name": "unknown"}
    code = keys.code(4098)
    if code is not None:
        try:
            datum = Datum.from_epsg(code).to_json_dict()
        except CRSError:
            report.add(key_label(4098), "unknown EPSG code", got=code)
    name, size = unit_of(keys, 4099, 0, "linear", report)
    unit = json_unit("LinearUnit", name, size)
    axis = {"name": "Up", "abbreviation": "H", "direction": "up", "unit": unit}
    return {
        "type": "VerticalCRS",
        "name": keys.text(4097) or "unknown",
        "datum": datum,
        "coordinate_system": {"subtype": "vertical", "axis": [axis]},
    }
