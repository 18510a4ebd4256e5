"""EPSG codes, units and citations: what GeoKeys point to.

Owns look-ups in PROJ's database, through pyproj, which is imported only when there are keys.

References: OGC 19-008r4, sections 7.5 and annex B; EPSG dataset.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .geokeys import USER_DEFINED, GeoKeys, key_label
from .report import Report

if TYPE_CHECKING:
    from pyproj import CRS

__all__ = ["citation", "from_epsg", "in_degrees", "json_unit", "look_up", "unit_of"]


@functools.lru_cache(maxsize=256)
def from_epsg(code: int) -> CRS:
    """Look up a system; a withdrawn code gives its one successor, as GDAL does it."""
    from pyproj import CRS

    crs = CRS.from_epsg(code)
    if crs.is_deprecated:
        # pyproj gives objects of a private class; by their code they are systems like all others
        successors = {one.to_authority(min_confidence=100) for one in crs.get_non_deprecated()}
        if len(successors) == 1 and (successor := successors.pop()) is not None:
            return CRS.from_authority(*successor)
    return crs


def look_up(keys: GeoKeys, key: int, report: Report) -> CRS | None:
    """Look up the system whose EPSG code a key holds; an unknown code is reported."""
    from pyproj.exceptions import CRSError

    code = keys.code(key)
    if code is None:
        return None
    try:
        return from_epsg(code)
    except CRSError:
        report.add(key_label(key), "no such EPSG code", got=code)
        return None


@functools.lru_cache(maxsize=8)
def _units(category: str) -> dict[int, tuple[str, float]]:
    from pyproj.database import get_units_map

    table = get_units_map(auth_name="EPSG", category=category, allow_deprecated=True)
    return {int(unit.code): (unit.name, unit.conv_factor) for unit in table.values()}


def unit_of(
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


def in_degrees(name: str, radians: float) -> float:
    """Give the size of an angular unit in degrees."""
    # exact for degrees, which nearly all files use
    return 1.0 if name == "degree" else math.degrees(radians)


def json_unit(kind: str, name: str, size: float) -> str | Mapping[str, Any]:
    """Spell a unit in PROJJSON; `kind` is "LinearUnit" or "AngularUnit"."""
    if name in ("metre", "degree"):
        return name
    return {"type": kind, "name": name, "conversion_factor": size}


def citation(keys: GeoKeys, key: int, part: str) -> str:
    """Take one part out of a citation such as "GCS Name = x|Datum = y|"."""
    text = keys.text(key)
    if "=" not in text:
        return text if part.endswith("Name") else ""
    found = re.search(rf"{part}\s*=\s*([^|]*)", text)
    return found.group(1).strip() if found else ""
