"""GeoKeys to a coordinate reference system.

Owns what each key means and which one wins where keys contradict: an EPSG code before parameters,
an ESRI string before made-up parameters. The system itself is pyproj's, which is imported only when
there are keys.

References: OGC 19-008r4, section 7.5 (CRS requirements) and annex B; for writers that deviate, the
behaviour of libgeotiff and GDAL.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra
from .geokeys import USER_DEFINED, GeoKeys, key_label
from .projections import conversion_of
from .report import Report

if TYPE_CHECKING:
    from pyproj import CRS

__all__ = ["build_crs"]

PROJECTED, GEOGRAPHIC, GEOCENTRIC = 1, 2, 3
_PE_STRING = re.compile(r"ESRI PE String\s*=\s*(.*)", re.IGNORECASE | re.DOTALL)


def build_crs(keys: GeoKeys, report: Report) -> CRS | None:
    """Build the coordinate reference system that GeoKeys describe.

    Parameters
    ----------
    keys
        GeoKeys of an IFD.
    report
        Takes what is wrong with them.

    Returns
    -------
    crs
        None if they describe none.

    Raises
    ------
    MissingExtra
        If pyproj is not installed.
    """
    try:
        from pyproj.exceptions import ProjError
    except ImportError as error:
        raise MissingExtra(
            "pyproj is needed for coordinate systems", hint="pip install tiffref[geo]"
        ) from error
    if not keys.values:
        return None
    try:
        horizontal = _horizontal(keys, report)
        if horizontal is None:
            return None
        return _with_height(_with_shift(horizontal, keys), keys, report)
    except (ProjError, ValueError, ArithmeticError) as error:
        report.add(key_label(_main_key(keys)), "the coordinate system makes no sense", got=error)
        return None


def _main_key(keys: GeoKeys) -> int:
    return next((key for key in (3072, 3075, 2048, 2050) if key in keys.values), 1024)


def _horizontal(keys: GeoKeys, report: Report) -> CRS | None:
    model = keys.values.get(1024)
    if keys.code(3072) is not None and model != GEOGRAPHIC:
        model = PROJECTED
    elif model not in (PROJECTED, GEOGRAPHIC, GEOCENTRIC) and keys.code(2048) is not None:
        model = GEOGRAPHIC
    builders = {PROJECTED: _projected, GEOGRAPHIC: _geographic, GEOCENTRIC: _geographic}
    return builders.get(model, _engineering)(keys, report)


# ---- codes


@functools.lru_cache(maxsize=256)
def _from_epsg(code: int) -> CRS:
    """Look up a system; a withdrawn code gives its one successor, as GDAL does it."""
    from pyproj import CRS

    crs = CRS.from_epsg(code)
    if crs.is_deprecated:
        successors = crs.get_non_deprecated()
        if len(successors) == 1:
            return successors[0]
    return crs


def _lookup(keys: GeoKeys, key: int, report: Report) -> CRS | None:
    from pyproj.exceptions import CRSError

    code = keys.code(key)
    if code is None:
        return None
    try:
        return _from_epsg(code)
    except CRSError:
        report.add(key_label(key), "no such EPSG code", got=code)
        return None


@functools.lru_cache(maxsize=8)
def _units(category: str) -> dict[int, tuple[str, float]]:
    from pyproj.database import get_units_map

    table = get_units_map(auth_name="EPSG", category=category, allow_deprecated=True)
    return {int(unit.code): (unit.name, unit.conv_factor) for unit in table.values()}


def _unit(
    keys: GeoKeys, code_key: int, size_key: int, category: str, report: Report
) -> tuple[str, float]:
    """Name a unit and give its size in metres or radians."""
    default = {"linear": ("metre", 1.0), "angular": ("degree", math.radians(1))}[category]
    code = keys.code(code_key)
    if code is not None:
        known = _units(category)
        if code in known:
            return known[code]
        report.add(key_label(code_key), "no such unit", got=code)
        return default
    size = keys.number(size_key)
    is_user_defined = keys.values.get(code_key) == USER_DEFINED
    if size is None or not 0 < size < 1e12 or not (is_user_defined or code_key not in keys.values):
        return default
    return "unknown", size


# ---- projected


def _projected(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    crs = _lookup(keys, 3072, report)
    if crs is not None and crs.is_projected:
        return crs
    for key in (3073, 1026, 2049):
        esri = _PE_STRING.search(keys.text(key))
        if esri:
            return CRS.from_wkt(esri.group(1).strip())
    return _user_projected(keys, report)


def _user_projected(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    base = _geographic(keys, report)
    name, size = _unit(keys, 3076, 3077, "linear", report)
    unit = _json_unit("LinearUnit", name, size)
    angle_name, radians = _unit(keys, 2054, 2055, "angular", report)
    conversion = _known_conversion(keys, report)
    if conversion is None:
        conversion = conversion_of(keys, _degrees(angle_name, radians), unit)
    if conversion is None:
        if 3075 in keys.values or 3074 in keys.values:
            report.add(
                key_label(3075), "the projection method is not known", got=keys.values.get(3075)
            )
        return base if base is not None and 3072 not in keys.values else _engineering(keys, report)
    if base is None:
        return None
    title = _citation(keys, 3073, "PCS Name") or _citation(keys, 1026, "PCS Name")
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
    """Give the axes; those of a polar system all point away from, or to, one pole."""
    directions: tuple[str, str] = ("east", "north")
    if conversion["method"]["name"].startswith("Polar Stereographic"):
        latitude = conversion["parameters"][0]["value"]
        directions = ("south", "south") if latitude > 0 else ("north", "north")
    return [
        {"name": name, "abbreviation": name[0], "direction": direction, "unit": unit}
        for name, direction in zip(("Easting", "Northing"), directions, strict=True)
    ]


def _known_conversion(keys: GeoKeys, report: Report) -> dict[str, Any] | None:
    """Look up the conversion whose EPSG code GeoKey 3074 gives, as of a UTM zone."""
    from pyproj.crs import CoordinateOperation
    from pyproj.exceptions import CRSError

    code = keys.code(3074)
    if code is None:
        return None
    try:
        found = CoordinateOperation.from_epsg(code).to_json_dict()
    except CRSError:
        report.add(key_label(3074), "no such EPSG code", got=code)
        return None
    return found if found.get("type") == "Conversion" else None


# ---- geographic


def _geographic(keys: GeoKeys, report: Report) -> CRS | None:
    crs = _lookup(keys, 2048, report)
    if crs is not None and (crs.is_geographic or crs.is_geocentric):
        # GeoTIFF 1.0 knows two-dimensional systems only, whatever code a writer puts in
        return crs.to_2d() if crs.is_geographic and keys.version < (1, 1) else crs
    if keys.code(2048) is not None and crs is None and not _has_datum(keys):
        return None
    return _user_geographic(keys, report)


def _has_datum(keys: GeoKeys) -> bool:
    return any(key in keys.values for key in (2050, 2056, 2057))


def _user_geographic(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    datum = _datum(keys, report)
    if datum is None:
        return None
    name, radians = _unit(keys, 2054, 2055, "angular", report)
    unit = _json_unit("AngularUnit", name, radians)
    axes = [
        {"name": "Latitude", "abbreviation": "lat", "direction": "north", "unit": unit},
        {"name": "Longitude", "abbreviation": "lon", "direction": "east", "unit": unit},
    ]
    place = "datum_ensemble" if datum.get("type") == "DatumEnsemble" else "datum"
    crs = CRS.from_json_dict(
        {
            "type": "GeographicCRS",
            "name": _citation(keys, 2049, "GCS Name") or "unknown",
            place: datum,
            "coordinate_system": {"subtype": "ellipsoidal", "axis": axes},
        }
    )
    return crs


def _datum(keys: GeoKeys, report: Report) -> dict[str, Any] | None:
    from pyproj.crs import Datum
    from pyproj.exceptions import CRSError

    code = keys.code(2050)
    if code is not None:
        try:
            return Datum.from_epsg(code).to_json_dict()
        except CRSError:
            report.add(key_label(2050), "no such EPSG code", got=code)
    ellipsoid = _ellipsoid(keys, report)
    if ellipsoid is None:
        return None
    return {
        "type": "GeodeticReferenceFrame",
        "name": _citation(keys, 2049, "Datum") or "unknown",
        "ellipsoid": ellipsoid,
        "prime_meridian": _prime_meridian(keys, report),
    }


def _ellipsoid(keys: GeoKeys, report: Report) -> dict[str, Any] | None:
    from pyproj.crs import Ellipsoid
    from pyproj.exceptions import CRSError

    code = keys.code(2056)
    if code is not None:
        try:
            return Ellipsoid.from_epsg(code).to_json_dict()
        except CRSError:
            report.add(key_label(2056), "no such EPSG code", got=code)
    major, minor, inverse = keys.number(2057), keys.number(2058), keys.number(2059)
    if major is None or not 1.0 <= major < 1e12:
        if major is not None:
            report.add(key_label(2057), "no body has such an axis", got=major)
        return None
    name = _citation(keys, 2049, "Ellipsoid") or "unknown"
    if inverse is None and minor is not None and 0 < minor <= major:
        inverse = 0.0 if minor == major else major / (major - minor)
    if not inverse:
        return {"name": name, "radius": major}
    return {"name": name, "semi_major_axis": major, "inverse_flattening": inverse}


def _prime_meridian(keys: GeoKeys, report: Report) -> dict[str, Any]:
    from pyproj.crs import PrimeMeridian
    from pyproj.exceptions import CRSError

    code = keys.code(2051)
    if code is not None:
        try:
            return PrimeMeridian.from_epsg(code).to_json_dict()
        except CRSError:
            report.add(key_label(2051), "no such EPSG code", got=code)
    name, radians = _unit(keys, 2054, 2055, "angular", report)
    longitude = (keys.number(2061) or 0.0) * _degrees(name, radians)
    default = "Greenwich" if longitude == 0 else "unknown"
    return {"name": _citation(keys, 2049, "Primem") or default, "longitude": longitude}


def _with_shift(crs: CRS, keys: GeoKeys) -> CRS:
    """Bind a user-defined system to WGS 84 by the three or seven numbers of GeoKey 2062.

    A system that EPSG defines is not bound: what leads to it from WGS 84 is in PROJ's database.
    """
    from pyproj import CRS

    shift = keys.values.get(2062)
    is_defined = crs.to_authority(min_confidence=100) is not None
    if is_defined or not isinstance(shift, tuple) or len(shift) not in (3, 7):
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
            "target_crs": _from_epsg(4326).to_json_dict(),
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


# ---- engineering and compound


def _engineering(keys: GeoKeys, report: Report) -> CRS | None:
    """Give a local system, which knows only its unit."""
    from pyproj import CRS

    name, size = _unit(keys, 3076, 3077, "linear", report)
    title = keys.text(1026) or keys.text(3073) or keys.text(2049) or "unnamed"
    title = " ".join(title.replace('"', "'").split())
    return CRS.from_wkt(
        f'LOCAL_CS["{title}",UNIT["{name}",{size!r}],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    )


def _with_height(crs: CRS, keys: GeoKeys, report: Report) -> CRS:
    """Add the vertical system.

    GeoTIFF 1.0 took its vertical codes from a list that is not EPSG's; only 1.1 is taken at its
    word, as GDAL does.
    """
    from pyproj import CRS

    if keys.version < (1, 1) or not any(key in keys.values for key in (4096, 4097, 4098)):
        return crs
    known = _lookup(keys, 4096, report)
    if known is not None and known.is_geographic and len(known.axis_info) == 3:
        # PROJ's geoid grids name the ellipsoid so: the heights belong to the geographic system
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


def _user_vertical(keys: GeoKeys, report: Report) -> dict[str, Any]:
    from pyproj.crs import Datum
    from pyproj.exceptions import CRSError

    datum: dict[str, Any] = {"type": "VerticalReferenceFrame", "name": "unknown"}
    code = keys.code(4098)
    if code is not None:
        try:
            datum = Datum.from_epsg(code).to_json_dict()
        except CRSError:
            report.add(key_label(4098), "no such EPSG code", got=code)
    name, size = _unit(keys, 4099, 0, "linear", report)
    unit = _json_unit("LinearUnit", name, size)
    axis = {"name": "Up", "abbreviation": "H", "direction": "up", "unit": unit}
    return {
        "type": "VerticalCRS",
        "name": keys.text(4097) or "unknown",
        "datum": datum,
        "coordinate_system": {"subtype": "vertical", "axis": [axis]},
    }


# ---- small parts


def _degrees(name: str, radians: float) -> float:
    # exact for degrees, which nearly all files use
    return 1.0 if name == "degree" else math.degrees(radians)


def _json_unit(kind: str, name: str, size: float) -> str | Mapping[str, Any]:
    if name in ("metre", "degree"):
        return name
    return {"type": kind, "name": name, "conversion_factor": size}


def _citation(keys: GeoKeys, key: int, part: str) -> str:
    """Take one part out of a citation such as "GCS Name = x|Datum = y|"."""
    text = keys.text(key)
    if "=" not in text:
        return text if part.endswith("Name") else ""
    found = re.search(rf"{part}\s*=\s*([^|]*)", text)
    return found.group(1).strip() if found else ""
