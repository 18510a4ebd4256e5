"""GeoKeys to a coordinate reference system.

Owns what each key means and which one wins where keys contradict: an EPSG code before parameters,
an ESRI string before made-up parameters. The system itself is pyproj's, which is imported only when
there are keys.

References: OGC 19-008r4, section 7.5 (CRS requirements) and annex B; for writers that deviate, the
behaviour of libgeotiff and GDAL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, install_hint
from .epsg import citation, in_degrees, json_unit, look_up, unit_of
from .geodetic import geographic, with_shift
from .geokeys import GeoKeys, key_label
from .projections import conversion_of
from .report import Report

if TYPE_CHECKING:
    from pyproj import CRS

__all__ = ["build_crs"]

PROJECTED, GEOGRAPHIC, GEOCENTRIC = 1, 2, 3
_PE_STRING = re.compile(r"ESRI PE String\s*=\s*(.*)", re.IGNORECASE | re.DOTALL)

_MAX_BUILT = 64
_built: dict[tuple[Any, ...], Any] = {}
"""Systems by their keys: the files of a collection have mostly the same."""


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
            "pyproj is needed for coordinate systems", hint=install_hint("geo")
        ) from error
    if not keys.values:
        return None
    plain = (keys.version, tuple(sorted(keys.values.items())))
    if plain in _built:
        return _built[plain]
    n_defects = len(report.defects)
    try:
        horizontal = _horizontal(keys, report)
        if horizontal is None:
            return None
        crs = _with_height(with_shift(horizontal, keys), keys, report)
        crs.from_wkt(crs.to_wkt())  # names may be such that no reader can make sense of it
        if len(report.defects) == n_defects:  # defects are reported for each file
            if len(_built) >= _MAX_BUILT:
                _built.clear()
            _built[plain] = crs
        return crs
    except (ProjError, ValueError, ArithmeticError) as error:
        report.add(key_label(_main_key(keys)), "the coordinate system makes no sense", got=error)
        return None


def _main_key(keys: GeoKeys) -> int:
    return next((key for key in (3072, 3075, 2048, 2050) if key in keys.values), 1024)


def _horizontal(keys: GeoKeys, report: Report) -> CRS | None:
    model = keys.values.get(1024, 0)
    if keys.code(3072) is not None and model != GEOGRAPHIC:
        model = PROJECTED
    elif model not in (PROJECTED, GEOGRAPHIC, GEOCENTRIC) and keys.code(2048) is not None:
        model = GEOGRAPHIC
    builders = {PROJECTED: _projected, GEOGRAPHIC: geographic, GEOCENTRIC: geographic}
    return builders.get(model, _engineering)(keys, report)


# ---- projected


def _projected(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    crs = look_up(keys, 3072, report)
    if crs is not None and crs.is_projected:
        return crs
    for key in (3073, 1026, 2049):
        esri = _PE_STRING.search(keys.text(key))
        if esri:
            return CRS.from_wkt(esri.group(1).strip())
    return _user_projected(keys, report)


def _user_projected(keys: GeoKeys, report: Report) -> CRS | None:
    from pyproj import CRS

    base = geographic(keys, report)
    name, size = unit_of(keys, 3076, 3077, "linear", report)
    unit = json_unit("LinearUnit", name, size)
    angle_name, radians = unit_of(keys, 2054, 2055, "angular", report)
    conversion = _known_conversion(keys, report)
    if conversion is None:
        conversion = conversion_of(keys, in_degrees(angle_name, radians), unit)
    if conversion is None:
        if 3075 in keys.values or 3074 in keys.values:
            report.add(
                key_label(3075), "the projection method is not known", got=keys.values.get(3075)
            )
        return base if base is not None and 3072 not in keys.values else _engineering(keys, report)
    if base is None:
        return None
    title = citation(keys, 3073, "PCS Name") or citation(keys, 1026, "PCS Name")
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


# ---- engineering and compound


def _engineering(keys: GeoKeys, report: Report) -> CRS | None:
    """Give a local system, which knows only its unit."""
    from pyproj import CRS

    name, size = unit_of(keys, 3076, 3077, "linear", report)
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
    known = look_up(keys, 4096, report)
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
    name, size = unit_of(keys, 4099, 0, "linear", report)
    unit = json_unit("LinearUnit", name, size)
    axis = {"name": "Up", "abbreviation": "H", "direction": "up", "unit": unit}
    return {
        "type": "VerticalCRS",
        "name": keys.text(4097) or "unknown",
        "datum": datum,
        "coordinate_system": {"subtype": "vertical", "axis": [axis]},
    }
