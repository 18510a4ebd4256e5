"""The GeoKey directory of a GeoTIFF as plain values.

Owns how keys are taken out of their three tags. What they mean is for `crs` (coordinate system)
and `placement` (where the pixels are).

Reference: OGC 19-008r4 (GeoTIFF 1.1), section 7.1; GeoTIFF 1.0, section 2.4.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["KEY_NAMES", "GeoKeys", "is_georeferenced", "key_label", "numbers", "parse_geokeys"]

DIRECTORY, DOUBLES, TEXTS = 34735, 34736, 34737
_GEO_TAGS = (33550, 33922, 34264, DIRECTORY)
USER_DEFINED = 32767
_FLOATS = frozenset({float})

KEY_NAMES: Mapping[int, str] = {
    1024: "GTModelType",
    1025: "GTRasterType",
    1026: "GTCitation",
    2048: "GeodeticCRS",
    2049: "GeodeticCitation",
    2050: "GeodeticDatum",
    2051: "PrimeMeridian",
    2052: "GeogLinearUnits",
    2053: "GeogLinearUnitSize",
    2054: "GeogAngularUnits",
    2055: "GeogAngularUnitSize",
    2056: "Ellipsoid",
    2057: "EllipsoidSemiMajorAxis",
    2058: "EllipsoidSemiMinorAxis",
    2059: "EllipsoidInvFlattening",
    2060: "GeogAzimuthUnits",
    2061: "PrimeMeridianLongitude",
    2062: "GeogTOWGS84",
    3072: "ProjectedCRS",
    3073: "ProjectedCitation",
    3074: "Projection",
    3075: "ProjMethod",
    3076: "ProjLinearUnits",
    3077: "ProjLinearUnitSize",
    3078: "ProjStdParallel1",
    3079: "ProjStdParallel2",
    3080: "ProjNatOriginLong",
    3081: "ProjNatOriginLat",
    3082: "ProjFalseEasting",
    3083: "ProjFalseNorthing",
    3084: "ProjFalseOriginLong",
    3085: "ProjFalseOriginLat",
    3086: "ProjFalseOriginEasting",
    3087: "ProjFalseOriginNorthing",
    3088: "ProjCenterLong",
    3089: "ProjCenterLat",
    3090: "ProjCenterEasting",
    3091: "ProjCenterNorthing",
    3092: "ProjScaleAtNatOrigin",
    3093: "ProjScaleAtCenter",
    3094: "ProjAzimuthAngle",
    3095: "ProjStraightVertPoleLong",
    3096: "ProjRectifiedGridAngle",
    4096: "Vertical",
    4097: "VerticalCitation",
    4098: "VerticalDatum",
    4099: "VerticalUnits",
    5120: "CoordinateEpoch",
}
"""Names of keys, without the "GeoKey" that the specification ends them in."""


@dataclass(frozen=True, slots=True)
class GeoKeys:
    """Keys of one IFD.

    `values` maps a key to an int, a float, a tuple of floats or a string. `version` is (1, 0) or
    (1, 1) for the two editions of GeoTIFF. `defects` lists what was wrong, as (key label, what).
    """

    values: Mapping[int, Any] = field(default_factory=dict)
    version: tuple[int, int] = (1, 0)
    defects: tuple[tuple[str, str], ...] = ()

    def code(self, key: int) -> int | None:
        """Give an EPSG code or enumeration, None where it is absent, 0 or "user-defined"."""
        value = self.values.get(key)
        return value if isinstance(value, int) and value not in (0, USER_DEFINED) else None

    def number(self, *keys: int) -> float | None:
        """Give the first of some keys that holds a finite number."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, tuple) and value:
                value = value[0]
            if isinstance(value, int | float) and np.isfinite(value):
                return float(value)
        return None

    def text(self, key: int) -> str:
        """Give a citation, "" where it is absent."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def named(self) -> dict[str, Any]:
        """Give the keys by name, as JSON values."""
        return {
            KEY_NAMES.get(key, str(key)): list(value) if isinstance(value, tuple) else value
            for key, value in self.values.items()
        }


def key_label(key: int) -> str:
    """Name a key for a message: "ProjectedCRS (GeoKey 3072)"."""
    return f"{KEY_NAMES.get(key, 'unknown key')} (GeoKey {key})"


def is_georeferenced(tags: Mapping[int, Any]) -> bool:
    """Tell if any tag of an IFD says where on Earth it is."""
    return any(tag in tags for tag in _GEO_TAGS)


def numbers(value: Any) -> tuple[float, ...]:
    """Give a tag's value as a tuple of floats: tags with one value come without a tuple."""
    if isinstance(value, int | float):
        return (float(value),)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, tuple | list):
        return ()
    if type(value) is tuple and _FLOATS.issuperset(map(type, value)):
        return value  # as most are
    return tuple(float(v) for v in value if isinstance(v, int | float))


def parse_geokeys(tags: Mapping[int, Any]) -> GeoKeys:
    """Read the keys of an IFD.

    Keys that point outside the tag they are stored in are left out, and named in `defects`.

    Parameters
    ----------
    tags
        Tags by number, with plain values.

    References
    ----------
    OGC 19-008r4, requirement class GeoKeyDirectory: header of four SHORTs, then four per key.
    """
    own = [(code, tags[code]) for code in (DIRECTORY, DOUBLES, TEXTS) if code in tags]
    try:
        return _parsed(tuple(own))
    except TypeError:  # a value that cannot be looked up: an array
        return _parsed.__wrapped__(tuple(own))


@functools.lru_cache(maxsize=64)
def _parsed(own: tuple[tuple[int, Any], ...]) -> GeoKeys:
    # kept, for the files of a collection have mostly the same
    tags = dict(own)
    directory = [int(n) for n in numbers(tags.get(DIRECTORY))]
    if len(directory) < 4:
        if DIRECTORY not in tags:
            return GeoKeys()
        return GeoKeys(defects=((_tag_label(DIRECTORY), "the GeoKey directory is truncated"),))
    _, revision, minor, n_keys = directory[:4]
    defects: list[tuple[str, str]] = []
    if len(directory) < 4 + 4 * n_keys:
        defects.append((_tag_label(DIRECTORY), "the GeoKey directory is truncated"))
    values: dict[int, Any] = {}
    for at in range(4, min(len(directory) - 3, 4 + 4 * n_keys), 4):
        key, *entry = directory[at : at + 4]
        if key == 0:
            continue  # padding, as some writers leave it behind
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
        found = numbers(tags.get(DOUBLES))[value : value + count]
        if len(found) != count or not count:
            return None
        return found[0] if count == 1 else found
    if location == TEXTS:
        text = tags.get(TEXTS)
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        if not isinstance(text, str) or value > len(text):
            return None
        # as for readers in C, a text ends at the first NUL
        return text[value : value + count].partition("\0")[0].rstrip("| ").strip()
    if location == DIRECTORY:
        found_codes = directory[value : value + count]
        return found_codes[0] if len(found_codes) == count == 1 else None
    return None


def _tag_label(tag: int) -> str:
    return {DIRECTORY: "GeoKeyDirectory (34735)"}[tag]
