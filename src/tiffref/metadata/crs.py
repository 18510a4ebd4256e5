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
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import requires_extra
from .geokeys import USER_DEFINED, GeoKeys, key_label
from .report import Recorder, Report

if TYPE_CHECKING:
    from pyproj import CRS
    from pyproj.crs import Datum, Ellipsoid, PrimeMeridian

_T = TypeVar("_T")


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
_SWISS = (
    _AZIMUTH._replace(keys=(), default=90.0),
    _GRID_ANGLE._replace(keys=()),
    _CENTER_SCALE._replace(keys=()),
)
"""The Swiss oblique Mercator is the special case of an azimuth of 90 degrees."""
_WORLD = (_LONG, _EAST, _NORTH)

METHODS: Mapping[int, Method] = {
    1: Method("Transverse Mercator", 9807, _NATURAL),
    3: Method("Hotine Oblique Mercator (variant A)", 9812, (*_OBLIQUE, _EAST, _NORTH)),
    4: Method("Laborde Oblique Mercator", 9813, (*_OBLIQUE[:3], _CENTER_SCALE, _EAST, _NORTH)),
    5: Method(
        "Hotine Oblique Mercator (variant B)", 9815,
        (_CENTER_LAT, _CENTER_LONG, *_SWISS, _CENTER_EAST, _CENTER_NORTH),
    ),
    7: Method("Mercator (variant A)", 9804, _NATURAL),
    8: Method("Lambert Conic Conformal (2SP)", 9802, _CONIC),
    9: Method("Lambert Conic Conformal (1SP)", 9801, _NATURAL),
    10: Method("Lambert Azimuthal Equal Area", 9820, _PLAIN),
    11: Method("Albers Equal Area", 9822, _CONIC),
    12: Method("Azimuthal Equidistant", 1125, _PLAIN),
    13: Method("Equidistant Conic", 1119, _CONIC),
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


class Unit(NamedTuple):
    """A unit: "linear" or "angular", its name, and its size in metres or radians."""

    kind: str
    name: str
    size: float

    @property
    def json(self) -> str | Mapping[str, Any]:
        """The unit in PROJJSON."""
        if self.name in ("metre", "degree"):
            return self.name
        kind = f"{self.kind.title()}Unit"
        return {"type": kind, "name": self.name, "conversion_factor": self.size}

    @property
    def degrees(self) -> float:
        """Size of an angular unit in degrees; exact for degrees, the usual case."""
        return 1.0 if self.name == "degree" else math.degrees(self.size)


_METRE, _DEGREE = Unit("linear", "metre", 1.0), Unit("angular", "degree", math.radians(1))


def _linear_unit(keys: GeoKeys, report: Report, code_key: int = 3076, size_key: int = 3077) -> Unit:
    return _unit(keys, code_key, size_key, _METRE, report)


def _angular_unit(keys: GeoKeys, report: Report) -> Unit:
    return _unit(keys, 2054, 2055, _DEGREE, report)


def _unit(keys: GeoKeys, code_key: int, size_key: int, default: Unit, report: Report) -> Unit:
    code = keys.code(code_key)
    if code is not None:
        units = _units(default.kind)
        if code not in units:
            report.add(key_label(code_key), "unknown unit", got=code)
        return units.get(code, default)
    size = keys.number(size_key)
    is_used = keys.values.get(code_key, USER_DEFINED) == USER_DEFINED
    if not is_used or size is None or not 0 < size < 1e12:
        return default
    return Unit(default.kind, "unknown", size)


@functools.lru_cache(maxsize=8)
def _units(kind: str) -> dict[int, Unit]:
    from pyproj.database import get_units_map

    table = get_units_map(auth_name="EPSG", category=kind, allow_deprecated=True)
    return {int(unit.code): Unit(kind, unit.name, unit.conv_factor) for unit in table.values()}


@functools.lru_cache(maxsize=1024)
def _unit_of_code(code: int) -> Unit:
    """Return the unit of a projected CRS, also of a deprecated one.

    The deprecated code of "NAD83 / Maine East (ftUS)" is in metres, despite its name.
    """
    from pyproj import CRS

    own = CRS.from_epsg(code)
    axis = (own if own.is_projected else from_epsg(code)).axis_info[0]
    return Unit("linear", axis.unit_name, axis.unit_conversion_factor)


def _identified(name: str, code: int | None, **fields: Any) -> dict[str, Any]:
    id_ = {} if code is None else {"id": {"authority": "EPSG", "code": code}}
    return {"name": name, **fields, **id_}


def _coordinate_system(subtype: str, unit: Unit, *axes: tuple[str, str, str]) -> dict[str, Any]:
    """Return a coordinate system in PROJJSON; `axes` are name, abbreviation and direction."""
    described = [
        {"name": name, "abbreviation": short, "direction": direction, "unit": unit.json}
        for name, short, direction in axes
    ]
    return {"type": "CoordinateSystem", "subtype": subtype, "axis": described}


@functools.lru_cache(maxsize=1024)
def from_epsg(code: int) -> CRS:
    """Return a CRS by its EPSG code; a deprecated projected CRS is replaced by its only successor.

    Like GDAL. Successors of geographic systems may have other units or prime meridians.
    """
    from pyproj import CRS

    crs = CRS.from_epsg(code)
    if crs.is_deprecated and not crs.type_name.startswith("Geo"):
        # pyproj returns objects of a private class here, so they are looked up by code
        successors = {new.to_authority(min_confidence=100) for new in crs.get_non_deprecated()}
        if len(successors) == 1 and (successor := successors.pop()) is not None:
            return CRS.from_authority(*successor)
    return crs


def _look_up(keys: GeoKeys, key: int, report: Report, build: Callable[[int], _T]) -> _T | None:
    """Return the object of the EPSG code in a key; report an unknown code."""
    from pyproj.exceptions import CRSError

    code = keys.code(key)
    try:
        return None if code is None else build(code)
    except CRSError:
        report.add(key_label(key), "unknown EPSG code", got=code)
        return None


def _citation(keys: GeoKeys, key: int, part: str) -> str:
    """Return one part of a citation such as "GCS Name = x|Datum = y|"."""
    text = keys.text(key)
    if "=" not in text:
        return text if part.endswith("Name") else ""
    match = re.search(rf"{part}\s*=\s*([^|]*)", text)
    return match[1].strip() if match else ""


# ---- geographic and geocentric


def _geographic(keys: GeoKeys, report: Report, is_base: bool = False) -> CRS | None:
    """Build the geographic or geocentric CRS, from its code or its datum.

    The base of a projected CRS (`is_base`) uses the ellipsoid of the keys.
    """
    from pyproj.crs import GeographicCRS

    crs = _look_up(keys, 2048, report, from_epsg)
    if crs is not None and (crs.is_geographic or crs.is_geocentric):
        # GeoTIFF 1.0 only has two-dimensional systems, whatever code a writer uses
        crs = crs.to_2d() if crs.is_geographic and keys.version < (1, 1) else crs
    elif crs is not None and crs.is_projected and not is_base and 3072 not in keys.values:
        return crs  # as in GDAL
    else:
        is_unknown = crs is None and keys.code(2048) is not None
        has_datum = not is_unknown or {2050, 2056, 2057} & set(keys.values)
        datum = _datum(keys, report) if has_datum else None
        if datum is None:
            return None
        axes = ("Latitude", "lat", "north"), ("Longitude", "lon", "east")
        system = _coordinate_system("ellipsoidal", _angular_unit(keys, report), *axes)
        crs = GeographicCRS(_citation(keys, 2049, "GCS Name") or "unknown", datum, system)
    return _with_keys_ellipsoid(crs, keys, report) if crs is not None and is_base else crs


def _with_keys_ellipsoid(crs: CRS, keys: GeoKeys, report: Report) -> CRS:
    """Replace the ellipsoid of a CRS by that of the keys if they differ; often it is a sphere.

    GDAL also projects on it. Longitudes and latitudes themselves do not depend on it.
    """
    from pyproj.crs import GeographicCRS
    from pyproj.crs.datum import CustomDatum

    own = _ellipsoid(keys, report) if 2056 in keys.values or 2057 in keys.values else None
    other = crs.ellipsoid
    if own is None or other is None:
        return crs
    if math.isclose(own.semi_major_metre, other.semi_major_metre, rel_tol=1e-7) and math.isclose(
        own.inverse_flattening, other.inverse_flattening, rel_tol=1e-6
    ):
        return crs
    report.add(
        key_label(2057),
        f"differs from the ellipsoid of {crs.name}; this one is used",
        got=f"{own.semi_major_metre:.10g} m",
    )
    datum = CustomDatum(f"unknown, as {crs.name}", own, crs.prime_meridian or "Greenwich")
    return GeographicCRS(crs.name, datum, crs.coordinate_system)


def _datum(keys: GeoKeys, report: Report) -> Datum | None:
    from pyproj.crs.datum import CustomDatum, Datum

    datum = _look_up(keys, 2050, report, Datum.from_epsg)
    if datum is not None:
        own = datum.prime_meridian
        meridian = _prime_meridian(keys, report) if 2051 in keys.values else own
        if meridian is None or meridian.name == (own.name if own is not None else "Greenwich"):
            return datum
        # pyproj does not know the ellipsoid of an ensemble
        shape = datum.to_json_dict().get("ellipsoid")  # None of a datum of heights
        return CustomDatum(datum.name, {"type": "Ellipsoid", **shape}, meridian) if shape else datum
    ellipsoid = _ellipsoid(keys, report)
    if ellipsoid is None:
        return None
    name = _citation(keys, 2049, "Datum") or "unknown"
    return CustomDatum(name, ellipsoid, _prime_meridian(keys, report))


def _ellipsoid(keys: GeoKeys, report: Report) -> Ellipsoid | None:
    from pyproj.crs.datum import CustomEllipsoid, Ellipsoid

    ellipsoid = _look_up(keys, 2056, report, Ellipsoid.from_epsg)
    if ellipsoid is not None:
        return ellipsoid
    major, minor, inverse = keys.number(2057), keys.number(2058), keys.number(2059)
    if major is None or not 1.0 <= major < 1e12:
        if major is not None:
            report.add(key_label(2057), "not a valid semi-major axis", got=major)
        return None
    name = _citation(keys, 2049, "Ellipsoid") or "unknown"
    if inverse is None and minor is not None and 0 < minor <= major:
        inverse = 0.0 if minor == major else major / (major - minor)
    if not inverse:
        return CustomEllipsoid(name, radius=major)
    return CustomEllipsoid(name, major, inverse)


def _prime_meridian(keys: GeoKeys, report: Report) -> PrimeMeridian:
    from pyproj.crs.datum import CustomPrimeMeridian, PrimeMeridian

    meridian = _look_up(keys, 2051, report, PrimeMeridian.from_epsg)
    if meridian is not None:
        return meridian
    longitude = (keys.number(2061) or 0.0) * _angular_unit(keys, report).degrees
    default = "Greenwich" if longitude == 0 else "unknown"
    return CustomPrimeMeridian(longitude, _citation(keys, 2049, "Primem") or default)


def _geocentric(keys: GeoKeys, report: Report) -> CRS | None:
    """Build a geocentric CRS, from its code or the datum of the keys."""
    from pyproj import CRS

    base = _geographic(keys, report)
    if base is None or base.is_geocentric:
        return base
    described = base.to_json_dict()
    if described["type"] != "GeographicCRS":  # a projected or compound one
        return base
    size_keys = (2052, 2053) if 2052 in keys.values else (3076, 3077)
    axes = ((f"Geocentric {axis}", axis, f"geocentric{axis}") for axis in "XYZ")
    part = "datum_ensemble" if "datum_ensemble" in described else "datum"
    return CRS.from_json_dict(
        {
            "type": "GeodeticCRS",
            "name": keys.text(1026) or keys.text(2049) or "unnamed",
            part: described[part],
            "coordinate_system": _coordinate_system(
                "Cartesian", _linear_unit(keys, report, *size_keys), *axes
            ),
        }
    )


# ---- shift to WGS 84


def _with_shift(crs: CRS, keys: GeoKeys) -> CRS:
    """Bind a user-defined CRS to WGS 84 by the three or seven parameters of GeoKey 2062.

    A CRS of EPSG is not bound, since PROJ's database has its transformations. Local and geocentric
    ones cannot be bound.
    """
    from pyproj.crs import BoundCRS
    from pyproj.crs.coordinate_operation import ToWGS84Transformation

    shift = keys.values.get(2062)
    if not isinstance(shift, tuple) or len(shift) not in (3, 7):
        return crs
    is_bindable = crs.is_geographic or crs.is_projected
    if not is_bindable or crs.to_authority(min_confidence=100) is not None:
        return crs
    transformation = ToWGS84Transformation(crs, *shift).to_json_dict()
    if len(shift) == 3:  # as in GDAL
        transformation["method"] = _identified("Geocentric translations (geog2D domain)", 9603)
        del transformation["parameters"][3:]
    return BoundCRS(crs, from_epsg(4326), transformation)


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
        crs = _with_height(_with_shift(horizontal, keys), keys, report)
        codes = [_look_up(keys, key, Recorder(), from_epsg) for key in (3072, 2048)]
        if not any(crs is of_code for of_code in codes):
            crs.from_wkt(crs.to_wkt())  # some names make WKT that cannot be parsed
        return crs
    except (ProjError, ValueError, ArithmeticError) as error:
        main_key = next((key for key in (3072, 3075, 2048, 2050) if key in keys.values), 1024)
        report.add(key_label(main_key), "the coordinate system is not valid", got=error)
        return None


def _horizontal(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    model = keys.values.get(1024, 0)
    if keys.code(3072) is not None and model != GEOGRAPHIC:
        model = PROJECTED
    own_key = {PROJECTED: 3072, GEOGRAPHIC: 2048, GEOCENTRIC: 2048}.get(model)
    # GeogCitation only describes a geographic CRS
    citations = (2049,) if keys.values.get(1024) == GEOGRAPHIC else (3073, 1026, 2049)
    matches = (_PE_STRING.search(keys.text(key)) for key in citations)
    esri = next((match[1].strip() for match in matches if match), "")
    if esri and (own_key is None or _look_up(keys, own_key, report, from_epsg) is None):
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
        misplaced = _look_up(keys, 3072, report, from_epsg)
        if misplaced is not None and misplaced.is_geographic:
            return misplaced
        report.add(key_label(3072), "ignored, since the model is geographic", got=keys.code(3072))
    builders = {PROJECTED: _projected, GEOGRAPHIC: _geographic, GEOCENTRIC: _geocentric}
    return builders.get(model, _engineering)(keys, report)


# ---- projected


def _projected(keys: GeoKeys, report: Report) -> CRS | None:
    crs = _look_up(keys, 3072, report, from_epsg)
    if crs is not None and crs.is_projected:
        # state planes are often used in feet
        is_named = 3076 in keys.values
        return _with_unit(
            crs, _linear_unit(keys, report) if is_named else _unit_of_code(keys.values[3072])
        )
    if crs is not None and (crs.is_geographic or crs.is_geocentric):
        return crs  # like GDAL; some writers store any code here
    if crs is not None:
        report.add(key_label(3072), "not a projected system", got=crs.name)
    return _user_projected(keys, report)


def _with_unit(crs: CRS, unit: Unit) -> CRS:
    if math.isclose(unit.size, crs.axis_info[0].unit_conversion_factor, rel_tol=1e-9):
        return crs
    described = crs.to_json_dict()
    # a compound system has the projected one and heights as components
    components = described.get("components", [])
    for axis in (*components, described)[0]["coordinate_system"]["axis"]:
        axis["unit"] = unit.json
    for part in (described, *components[:1]):
        part.pop("id", None)
        part["name"] += f" ({unit.name})"
    return crs.from_json_dict(described)


def _web_mercator(keys: GeoKeys, title: str, report: Report) -> CRS | None:
    """Return Web Mercator if the title names it, since GeoTIFF has no method code for it.

    Like GDAL, which ignores all parameters, and with Google's name the unit, too.
    """
    if 3075 not in keys.values or title.lower() not in (_GOOGLE_MERCATOR, _ESRI_MERCATOR):
        return None
    crs = from_epsg(3857)
    is_in_metres = title.lower() == _GOOGLE_MERCATOR
    return crs if is_in_metres else _with_unit(crs, _linear_unit(keys, report))


_GOOGLE_MERCATOR = "google maps global mercator"
_ESRI_MERCATOR = "wgs_1984_web_mercator_auxiliary_sphere"


def _user_projected(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj.crs import CoordinateOperation, ProjectedCRS

    title = _citation(keys, 3073, "PCS Name") or _citation(keys, 1026, "PCS Name")
    if (web_mercator := _web_mercator(keys, title, report)) is not None:
        return web_mercator
    base = _geographic(keys, report, is_base=True)
    unit, angle = _linear_unit(keys, report), _angular_unit(keys, report)
    if base is not None and base.is_geographic and not {2054, 2055} & set(keys.values):
        axis = base.axis_info[0]  # like GDAL, for systems in grads
        angle = Unit("angular", axis.unit_name, axis.unit_conversion_factor)
    operation = _look_up(keys, 3074, report, CoordinateOperation.from_epsg)  # such as a UTM zone
    conversion: Any = operation.to_json_dict() if operation is not None else {}
    if conversion.get("type") != "Conversion":
        conversion = _conversion(keys, angle.degrees, unit)
    if conversion is None:
        if 3075 in keys.values or 3074 in keys.values:
            report.add(key_label(3075), "unknown projection method", got=keys.values.get(3075))
        is_local = base is None or any(3072 <= key < 4096 for key in keys.values)
        return _engineering(keys, report) if is_local else base
    if base is None:
        if not {2048, 2050} & keys.values.keys():  # others are reported where they are looked up
            report.add(key_label(2048), "a projection without a geographic system is ignored")
        return None
    method, east, north = conversion["method"]["name"], "east", "north"
    if method.endswith("(South Orientated)"):
        east, north = "west", "south"
    elif method.startswith("Polar Stereographic"):  # both axes point away from, or to, the pole
        east = north = "south" if conversion["parameters"][0]["value"] > 0 else "north"
    axes = ("Easting", "E", east), ("Northing", "N", north)
    system = _coordinate_system("Cartesian", unit, *axes)
    return ProjectedCRS(conversion, title or "unnamed", system, base)


def _conversion(keys: GeoKeys, angle: float, unit: Unit) -> dict[str, Any] | None:
    """Return the conversion of a user-defined projected CRS, None without a known method.

    `angle` are the degrees in one unit of its angles, `unit` is that of the false origin.
    """
    method = _method_of(keys, angle)
    if method is None:
        return None
    units = {"angle": "degree", "scale": "unity", "length": unit.json}
    parameters = []
    for parameter in method.parameters:
        number = keys.number(*parameter.keys)
        factor = angle if parameter.kind == "angle" else 1.0
        value = parameter.default if number is None else number * factor
        parameters.append(
            _identified(parameter.name, parameter.code, value=value, unit=units[parameter.kind])
        )
    identified = _identified(method.name, method.code)
    return {"type": "Conversion", "name": "unnamed", "method": identified, "parameters": parameters}


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


# ---- engineering and compound


def _engineering(keys: GeoKeys, report: Report) -> CRS | None:
    """Return a local CRS, which only has a unit."""
    from pyproj import CRS

    unit = _linear_unit(keys, report)
    title = keys.text(1026) or keys.text(3073) or keys.text(2049) or "unnamed"
    title = " ".join(title.replace('"', "'").split())
    return CRS.from_wkt(
        f'LOCAL_CS["{title}",UNIT["{unit.name}",{unit.size!r}],'
        'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    )


def _with_height(crs: CRS, keys: GeoKeys, report: Report) -> CRS:
    """Add the vertical CRS.

    Vertical codes of GeoTIFF 1.0 are not EPSG codes; like in GDAL, only those of 1.1 are used, and
    a name alone is not a system. A CRS with three axes has heights already, as ESRI strings may.
    """
    from pyproj.crs import CompoundCRS, Datum, VerticalCRS

    if keys.version < (1, 1) or not {4096, 4098, 4099} & set(keys.values) or len(crs.axis_info) > 2:
        return crs
    vertical = _look_up(keys, 4096, report, from_epsg)
    if vertical is None and keys.code(4096) not in (None, *_OLD_VERTICAL):
        return crs
    if vertical is not None and vertical.is_geographic and len(vertical.axis_info) == 3:
        # PROJ's geoid grids do this: heights above the ellipsoid belong to the geographic CRS
        return vertical if crs.is_geographic else crs
    if vertical is not None and not vertical.is_vertical:
        report.add(key_label(4096), "not a vertical system", got=vertical.name)
        return crs
    if vertical is None:
        unknown = {"type": "VerticalReferenceFrame", "name": "unknown"}
        datum = _look_up(keys, 4098, report, Datum.from_epsg) or unknown
        unit = _linear_unit(keys, report, 4099, 0)
        system = _coordinate_system("vertical", unit, ("Up", "H", "up"))
        vertical = VerticalCRS(keys.text(4097) or "unknown", datum, system)
    return CompoundCRS(keys.text(1026) or f"{crs.name} + {vertical.name}", [crs, vertical])


_OLD_VERTICAL = range(5001, 5200)
"""Vertical codes of GeoTIFF 1.0, section 6.3.4.1, which many files of heights have."""


def height_unit(crs: CRS, keys: GeoKeys) -> str:
    """Return the unit of the heights of a CRS, "" without any.

    As in GDAL, vertical keys of GeoTIFF 1.0 only give this unit.
    """
    if keys.version < (1, 1):
        crs = _with_height(crs, replace(keys, version=(1, 1)), Recorder())
    return crs.sub_crs_list[-1].axis_info[0].unit_name if crs.is_compound else ""
