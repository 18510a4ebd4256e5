"""GeoKeys to geographic and geocentric systems.

Owns datums, ellipsoids, prime meridians and the shift to WGS 84 of user-defined systems.

References: OGC 19-008r4, section 7.5.4; EPSG Guidance Note 7-2 for the transformations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .epsg import citation, from_epsg, in_degrees, json_unit, look_up, unit_of
from .geokeys import GeoKeys, key_label
from .report import Report

if TYPE_CHECKING:
    from pyproj import CRS

__all__ = ["geographic", "with_shift"]


def geographic(keys: GeoKeys, report: Report) -> CRS | None:
    """Build the geographic or geocentric system: by its code, else by its datum."""
    crs = look_up(keys, 2048, report)
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


def _by_code(keys: GeoKeys, key: int, kind: Any, report: Report) -> dict[str, Any] | None:
    """Look up what a key names by its EPSG code, if it does."""
    from pyproj.exceptions import CRSError

    code = keys.code(key)
    if code is None:
        return None
    try:
        return kind.from_epsg(code).to_json_dict()
    except CRSError:
        report.add(key_label(key), "no such EPSG code", got=code)
        return None


def _datum(keys: GeoKeys, report: Report) -> dict[str, Any] | None:
    from pyproj.crs import Datum

    known = _by_code(keys, 2050, Datum, report)
    if known is not None:
        return known
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

    known = _by_code(keys, 2056, Ellipsoid, report)
    if known is not None:
        return known
    major, minor, inverse = keys.number(2057), keys.number(2058), keys.number(2059)
    if major is None or not 1.0 <= major < 1e12:
        if major is not None:
            report.add(key_label(2057), "no body has such an axis", got=major)
        return None
    name = citation(keys, 2049, "Ellipsoid") or "unknown"
    if inverse is None and minor is not None and 0 < minor <= major:
        inverse = 0.0 if minor == major else major / (major - minor)
    if not inverse:
        return {"name": name, "radius": major}
    return {"name": name, "semi_major_axis": major, "inverse_flattening": inverse}


def _prime_meridian(keys: GeoKeys, report: Report) -> dict[str, Any]:
    from pyproj.crs import PrimeMeridian

    known = _by_code(keys, 2051, PrimeMeridian, report)
    if known is not None:
        return known
    name, radians = unit_of(keys, 2054, 2055, "angular", report)
    longitude = (keys.number(2061) or 0.0) * in_degrees(name, radians)
    default = "Greenwich" if longitude == 0 else "unknown"
    return {"name": citation(keys, 2049, "Primem") or default, "longitude": longitude}


def with_shift(crs: CRS, keys: GeoKeys) -> CRS:
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
