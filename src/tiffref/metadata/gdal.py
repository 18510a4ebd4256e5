"""Parse GDAL's own TIFF tags: GDAL_METADATA (42112) and GDAL_NODATA (42113).

The attributes made of them are those of `rioxarray.open_rasterio`. Color interpretation comes from
the baseline tags, as in GDAL.

References: GDAL documentation of the GTiff driver, "Metadata", "Nodata value"; CF conventions,
section 8.1 (packed data).
"""

from __future__ import annotations

import cmath
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..model.array import Array
from .report import Report, XmlError, local_name, parse_xml

_METADATA_LABEL = "GDAL_METADATA (42112)"
_NODATA_LABEL = "GDAL_NODATA (42113)"
_RESERVED = frozenset(
    {
        *("_FillValue", "missing_value", "scale_factor", "add_offset", "scales", "offsets"),
        *("units", "dtype", "calendar", "coordinates", "grid_mapping", "bounds", "_Unsigned"),
        *("_ARRAY_DIMENSIONS", "long_name", "standard_name", "axis"),
    }
)
"""Attribute names with a meaning to readers: items with these names are only in `tiff_tags`."""


_MAX_CACHED_LENGTH = 1 << 14
_MAX_BANDS = 65535
"""SamplesPerPixel is a SHORT; broken files may have a larger number."""


@dataclass(frozen=True, slots=True)
class GdalMetadata:
    """Metadata items of one dataset.

    `items` belong to the dataset, `bands` to bands by index; `roles` are the items with a role
    (scale, offset, description, unittype, colorinterp), by role and band.
    """

    items: Mapping[str, str] = field(default_factory=dict)
    bands: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    roles: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def attributes(self, n_bands: int, dtype: np.dtype, report: Report) -> dict[str, Any]:
        """Return the attributes of an image: a single value, or a list with one value per band."""
        if not (self.items or self.bands or self.roles):
            return {}
        n_bands = min(n_bands, _MAX_BANDS)
        attributes: dict[str, Any] = {}
        for name, value in self.items.items():
            attributes[_attribute_name(name)] = _parse_value(value)
        for name in sorted({name for items in self.bands.values() for name in items}):
            values = [_parse_value(self.bands.get(n, {}).get(name, "")) for n in range(n_bands)]
            is_numeric = all(isinstance(value, int | float) for value in values)
            listed = values if is_numeric else [str(value) for value in values]
            attributes[_attribute_name(name)] = values[0] if n_bands == 1 else listed
        attributes = {name: value for name, value in attributes.items() if name not in _RESERVED}
        attributes.update(self._packing(n_bands, dtype, report))
        for role, name in (("description", "long_name"), ("unittype", "units")):
            texts = [self.roles.get(role, {}).get(n, "") for n in range(n_bands)]
            if any(texts):
                attributes[name] = texts[0] if len(set(texts)) == 1 else texts
        return attributes

    def _packing(self, n_bands: int, dtype: np.dtype, report: Report) -> dict[str, Any]:
        """Return scale and offset: CF attributes if all bands agree, else lists.

        Complex images get lists too, as xarray would drop the imaginary part when unpacking. Bands
        with an invalid scale or offset are left as stored.
        """
        columns = {role: [neutral] * n_bands for role, _, _, neutral in _PACKING}
        for n in sorted({n for role in columns for n in self.roles.get(role, {}) if n < n_bands}):
            texts = {role: self.roles[role][n] for role in columns if n in self.roles.get(role, {})}
            numbers = {role: _packing_number(role, text) for role, text in texts.items()}
            wrong = [role for role, number in numbers.items() if math.isnan(number)]
            for role in wrong:
                report.add(_METADATA_LABEL, f"the {role} of a band is not valid", got=texts[role])
            for role, number in numbers.items() if not wrong else ():
                columns[role][n] = number
        used = {role for role, _, _, neutral in _PACKING if set(columns[role]) - {neutral}}
        if used and (dtype.kind == "c" or any(len(set(values)) > 1 for values in columns.values())):
            # both or neither, so that no reader applies only one of them
            return {many: columns[role] for role, _, many, _ in _PACKING}
        return {one: columns[role][0] for role, one, _, _ in _PACKING if role in used}


def _packing_number(role: str, text: str) -> float:
    """Parse a scale or an offset; NaN if invalid."""
    number = _leading_number(text)[0]
    if number is None or not math.isfinite(number) or (role == "scale" and number == 0):
        return math.nan
    return float(number)


_PACKING = (("scale", "scale_factor", "scales", 1.0), ("offset", "add_offset", "offsets", 0.0))


def with_bands(array: Array, bands: Sequence[Mapping[str, Any]], report: Report) -> Array:
    """Add the band metadata of a STAC item, unless the file has its own.

    Parameters
    ----------
    bands
        `scale`, `offset`, `nodata` and `unit` of each band, or of all bands if there is one entry.
    """
    sizes = [n for dim, n in array.sizes.items() if dim.startswith("band")]
    n_bands = sizes[0] if sizes else 1
    if not array.manifest.sources or "role" in array.attributes:
        return array
    if len(bands) not in (1, n_bands):
        if any(not band.keys().isdisjoint(("scale", "offset", "nodata", "unit")) for band in bands):
            report.add(
                "STAC item",
                "scale, offset, nodata and unit are ignored: the file has another number of bands",
                got=f"{len(bands)} bands, expected {n_bands}",
            )
        return array
    if array.fill_value is None and "nodata" in bands[0]:
        fill, _ = parse_nodata(str(bands[0]["nodata"]), array.dtype, report)
        array = replace(array, fill_value=fill)
    every = [*bands] * (n_bands // len(bands))
    roles = {
        role: {n: str(band[key]) for n, band in enumerate(every) if key in band}
        for key, role in (("scale", "scale"), ("offset", "offset"), ("unit", "unittype"))
    }
    attributes = GdalMetadata(roles=roles).attributes(n_bands, array.dtype, report)
    packing = {name for _, one, many, _ in _PACKING for name in (one, many)}
    own = array.attributes.keys()
    taken = own | packing if own & packing else own
    return array.with_attributes(**{k: value for k, value in attributes.items() if k not in taken})


def parse_gdal_metadata(value: Any, report: Report) -> GdalMetadata:
    """Parse the items of tag 42112; from invalid XML, those that are complete."""
    if not value:
        return GdalMetadata()
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    parse = _parse_items if len(text) <= _MAX_CACHED_LENGTH else _parse_items.__wrapped__
    try:
        return parse(text)
    except XmlError as error:
        report.add(_METADATA_LABEL, "is not valid XML", got=error)
        return _group_items(_find_items(text))


@functools.lru_cache(maxsize=16)
def _parse_items(text: str) -> GdalMetadata:
    # cached: files of a collection often share them
    return _group_items(
        (dict(item.attrib), item.text or "")
        for item in parse_xml(text).iter()
        if local_name(item) == "Item"  # GDAL ignores namespaces, and the case of roles
    )


def _find_items(text: str) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the complete items in invalid XML, such as with a bare ampersand."""
    for start, content in _ITEM.findall(text):
        attributes = {
            name: _unescape(one or other) for name, one, other in _ATTRIBUTE.findall(start)
        }
        yield attributes, _unescape(content)


_ITEM = re.compile(r"<Item\b([^<>]*)>([^<]*)</Item\s*>")
_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")


def _group_items(elements: Iterable[tuple[Mapping[str, str], str]]) -> GdalMetadata:
    """Assign items, as pairs of XML attributes and text, to dataset, bands and roles."""
    items: dict[str, str] = {}
    bands: dict[int, dict[str, str]] = {}
    roles: dict[str, dict[int, str]] = {}
    for item, text in elements:
        name, role, sample = (item.get(key) for key in ("name", "role", "sample"))
        if item.get("domain") or not name:
            continue
        # GDAL escapes the content twice
        content = _unescape(text)
        if sample is None or not sample.isdecimal():
            items[name] = content
        elif role:
            roles.setdefault(role.lower(), {})[int(sample)] = content
        else:
            bands.setdefault(int(sample), {})[name] = content
    return GdalMetadata(items, bands, roles)


def _unescape(text: str) -> str:
    # xml.sax.saxutils would do, but loads the HTTP client and ssl
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return text


_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}
"""XML entities; "&amp;" last, because it may be part of an escaped entity."""


def parse_nodata(value: Any, dtype: np.dtype, report: Report) -> tuple[Any, Any]:
    """Parse tag 42113 like GDAL.

    The first of several numbers counts (some writers list one per band), and a comma before any
    point is a decimal comma.

    Returns
    -------
    fill_value, nearest
        The value if a sample of this dtype can have it, else None; and the nearest value that a
        sample can have, which GDAL uses for missing segments. None for both without a number.
    """
    if value is None or (isinstance(value, str) and not value):
        return None, None
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    text = text.strip("\0 \t\r\n")
    parse = _parse_number if len(text) <= _MAX_CACHED_LENGTH else _parse_number.__wrapped__
    fill_value, nearest, defect = parse(text, dtype)
    if defect:
        report.add(_NODATA_LABEL, defect, got=repr(text[:40]))
    return fill_value, nearest


@functools.lru_cache(maxsize=64)
def _parse_number(text: str, dtype: np.dtype) -> tuple[Any, Any, str]:
    """Return fill value and nearest value as `parse_nodata`, and a defect of the text."""
    number, rest = _leading_number(text)
    if number is None:
        return None, None, "not a number"
    others = [_leading_number(other)[0] for other in re.split(r"[\s;|]+", rest) if other]
    # NaN is not NaN
    differs = any(other != number and str(other) != str(number) for other in others)
    defect = "bands have different values; the first one is used" if differs else ""
    return *_as_sample(number, dtype), defect


def _as_sample(number: float, dtype: np.dtype) -> tuple[Any, Any]:
    """Return a number as a sample value, None if no sample can have it, and the nearest value.

    GDAL truncates fractions for integer samples; for those of 64 bits, it also ends the number at
    an exponent, which is not done here: -9.2233720368547758e+18 would be -9.
    """
    dtype = dtype.newbyteorder("=")
    if dtype.kind in "fc":
        with np.errstate(over="ignore"):
            sample = dtype.type(number).item()
        is_beyond = cmath.isinf(sample) and math.isfinite(number)
        # GDAL turns values beyond float32 into infinity, but not those beyond other dtypes
        return (None if is_beyond and dtype != np.float32 else sample), sample
    if number != number:
        return None, dtype.type(0).item()
    least, greatest = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if dtype.itemsize == 8 and math.isfinite(number):
        # rasterio writes the nearest float64, such as 9.2233720368547758e+18
        number = greatest if number == float(greatest) else int(number)
    if dtype == np.uint64 and -greatest < number < 0:
        return None, number + greatest + 1  # GDAL uses C's strtoull, which wraps
    near = min(max(number, least), greatest)
    # round half away from zero
    near = int(near) if near == int(near) else int(near + math.copysign(0.5, near))
    kind = bool if dtype.kind == "b" else int
    return (kind(number) if least <= number <= greatest else None), kind(near)


_LEADING = re.compile(
    r"[+-]?(?:(?P<nan>nan|1\.#(?:IND|QNAN|SNAN)\w*)|(?P<inf>1\.#INF\w*|inf(?:inity)?)"
    r"|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?![\w#])",
    re.IGNORECASE | re.ASCII,
)


def _leading_number(text: str) -> tuple[float | None, str]:
    """Parse the number at the start of a text (None if there is none); return it and the rest.

    Examples
    --------
    >>> _leading_number("-9999,5"), _leading_number("0 0 0"), _leading_number("none")
    ((-9999.5, ''), (0, '0 0'), (None, ''))
    """
    text = text.strip()
    comma, point = text.find(","), text.find(".")
    if comma >= 0 and not 0 <= point < comma:
        text = text.replace(",", ".", 1)
    match = _LEADING.match(text)
    if match is None:
        return None, ""
    rest = text[match.end() :].strip(" \t\r\n\0,.;|")
    if match["nan"]:
        return math.nan, rest
    if match["inf"]:
        return math.copysign(math.inf, -1 if text[0] == "-" else 1), rest
    digits = match[0]
    is_whole = digits.lstrip("+-").isdecimal() and len(digits) <= _MAX_DIGITS
    return (int(digits) if is_whole else float(digits)), rest


_MAX_DIGITS = 40
"""Digits of an integer; 64-bit integers have at most 20."""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _parse_value(text: str) -> Any:
    """Parse an item: a number, "{1, 2}" as a list of numbers, else text."""
    if text.startswith("{") and text.endswith("}"):
        values = [_number(part) for part in text[1:-1].split(",")]
        return values if all(map(math.isfinite, values)) else text
    if re.fullmatch(r"[+-]?\d{1,15}", text):
        return int(text)
    number = _number(text)
    return number if math.isfinite(number) else text


def _attribute_name(name: str) -> str:
    # netCDF does not allow slashes in names
    return name.removeprefix("NC_GLOBAL#").replace("/", "_")


# ---- color interpretation


def color_attributes(
    photometric: int, extra_samples: Sequence[int], n_samples: int, roles: Mapping[int, str]
) -> dict[str, Any]:
    """Return the color interpretation of the bands: red, green, blue, alpha, palette, gray.

    Parameters
    ----------
    photometric
        PhotometricInterpretation (tag 262), or `PLAIN_YCBCR`.
    extra_samples
        ExtraSamples (tag 338); 1 and 2 are alpha.
    n_samples
        Number of bands.
    roles
        Color interpretation of single bands in GDAL's metadata, by index.
    """
    if n_samples > _MAX_BANDS:
        return {}
    names = list(_COLORS.get(photometric, ("undefined",)))[:n_samples]
    extras = ["alpha" if kind in (1, 2) else "undefined" for kind in extra_samples]
    n_missing = n_samples - len(names)
    names += (extras + ["undefined"] * n_missing)[:n_missing]
    for band, name in roles.items():
        if band < len(names):
            names[band] = name.lower()
    if set(names) <= {"gray", "undefined"}:
        return {}
    return {"color_interpretation": names[0] if n_samples == 1 else names}


PLAIN_YCBCR = -6
"""Photometric of samples that decode to Y, Cb and Cr."""
_COLORS = {
    PLAIN_YCBCR: ("Y", "Cb", "Cr"),
    0: ("gray",),
    1: ("gray",),
    2: ("red", "green", "blue"),
    3: ("palette",),
    5: ("cyan", "magenta", "yellow", "black"),
    6: ("red", "green", "blue"),
    8: ("lightness", "a", "b"),
}
