"""Pixel sizes, channels and times of an image (`Calibration`), and how to parse them from OME-XML.

Also holds the names of units. Metadata of other vendors is parsed by `microscopy` and written by
`ngff`. The scanner decides which pages belong to an image.

References: OME-NGFF 0.4, "axes" metadata, for names of units (UDUNITS-2); OME model 2016-06,
elements Image, Pixels, Channel, Plane, Objective, Plate; OME-TIFF specification, "BinaryOnly".
"""

from __future__ import annotations

import datetime
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import SubElement, tostring

from ..model.array import Group
from ..model.tiff_facts import LevelFacts, SeriesFacts
from .cf import parse_date
from .report import Element, Recorder, Report, XmlError, local_name, parse_xml

RESOLUTIONS, RESOLUTION_UNIT = (("X", 282), ("Y", 283)), 296
_RESOLUTION_UNITS = {2: 25400.0, 3: 10000.0}
"""Micrometres per ResolutionUnit (tag 296): inch, centimetre."""

MAX_PLAIN_SIZE = 25.4
"""Micrometres. In files of unknown instruments, resolutions below 1000 per inch are those of a
screen or printer (72, 96, 300), not of the specimen."""

Tags = Mapping[int, Any]
"""Tags of an IFD, by number."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel: its name, its color as RRGGBB, and (start, end) of its display window."""

    name: str = ""
    color: str | None = None
    window: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Pixel sizes, channels and times of one image.

    Attributes
    ----------
    scales
        Distance between neighbouring samples along an axis, by its letter: Z, Y, X, T, H, ...
    units
        Unit of an axis, by its letter, with the names of OME-NGFF ("micrometer", "second").
    channels
        One for each index of the channel axis.
    times
        Time of each time point, in the unit of T, if not evenly spaced.
    acquired
        Time of acquisition; without a time zone if the file has none.
    name
        Name of the image.
    attributes
        Other metadata as JSON values: magnification, stage position, ...
    starts
        Position of the first sample along an axis, if it is not 0.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()
    times: tuple[float, ...] = ()
    acquired: datetime.datetime | None = None
    name: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)


def calibrated(
    scales: Mapping[str, float | None],
    units: Mapping[str, str | None] | str | None = "micrometer",
    *,
    channels: tuple[Channel, ...] = (),
    times: tuple[float, ...] = (),
    acquired: datetime.datetime | None = None,
    name: str = "",
    **attributes: Any,
) -> Calibration:
    """Build a calibration from the known sizes and attributes.

    A single unit applies to all spatial axes; time is then in seconds.
    """
    if units is None or isinstance(units, str):
        units = {**dict.fromkeys("XYZ", units), "T": "second"}
    sizes = {axis: scale for axis, scale in scales.items() if scale is not None}
    named = {axis: unit for axis, unit in units.items() if unit is not None and axis in sizes}
    if times:
        named.setdefault("T", units.get("T") or "second")
    attributes = {key: value for key, value in attributes.items() if value not in (None, "")}
    return Calibration(sizes, named, channels, times, acquired, name, attributes)


def calibrate_minor(
    own: Calibration, level: LevelFacts, main: Calibration, main_level: LevelFacts, role: str
) -> Calibration:
    """Correct the calibration of a thumbnail, label or macro that repeats that of the slide.

    A thumbnail shows the whole slide, so its pixel size is the slide's extent divided by its number
    of pixels. The extent of other images is unknown.
    """
    sizes, main_sizes = level.sizes, main_level.sizes
    is_repeated = all(own.scales.get(axis) in (None, main.scales.get(axis)) for axis in "XY")
    if not {"X", "Y"} <= main.scales.keys() & sizes.keys() & main_sizes.keys() or not is_repeated:
        return own
    factors = {axis: max(main_sizes[axis], 1) / max(sizes[axis], 1) for axis in "XY"}
    if set(factors.values()) == {1.0}:
        return own
    tolerance = 0.02 + 1 / max(min(sizes["X"], sizes["Y"]), 1)
    is_whole = abs(factors["X"] / factors["Y"] - 1) <= tolerance
    scales = {axis: size for axis, size in own.scales.items() if axis not in "XY"}
    units = {axis: unit for axis, unit in own.units.items() if axis not in "XY"}
    if role == "thumbnail" and is_whole:
        scales |= {axis: main.scales[axis] * factor for axis, factor in factors.items()}
        units |= {axis: main.units[axis] for axis in "XY" if axis in main.units}
    attributes = {key: own.attributes[key] for key in own.attributes if key != "magnification"}
    return replace(own, scales=scales, units=units, attributes=attributes)


def resolution_sizes(tags: Tags, largest: float = 1e9) -> Calibration:
    """Parse the pixel size from the resolution tags, ignoring sizes over `largest` µm."""
    code = tags.get(RESOLUTION_UNIT, 2)
    unit = _RESOLUTION_UNITS.get(code) if isinstance(code, int) else None
    per_unit = {axis: rational(tags.get(tag)) for axis, tag in RESOLUTIONS}
    scales = {axis: unit / n for axis, n in per_unit.items() if unit and n and unit / n <= largest}
    return calibrated(scales) if len(scales) == 2 else Calibration()


def rational(value: Any) -> float | None:
    """Return the positive number in a tag: a rational or a plain number."""
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        value = value[0] / value[1]
    return positive(value) if isinstance(value, int | float) else None


_UNITS = {
    "": None, "pixel": None, "pixels": None, "inch": "inch", "inches": "inch", "in": "inch",
    "m": "meter", "meter": "meter", "metre": "meter", "meters": "meter",
    "dm": "decimeter", "decimeter": "decimeter",
    "cm": "centimeter", "centimeter": "centimeter", "centimetre": "centimeter",
    "mm": "millimeter", "millimeter": "millimeter", "millimetre": "millimeter",
    "um": "micrometer", "µm": "micrometer", "micron": "micrometer", "microns": "micrometer",
    "micrometer": "micrometer", "micrometers": "micrometer", "micrometre": "micrometer",
    "nm": "nanometer", "nanometer": "nanometer", "nanometers": "nanometer",
    "pm": "picometer", "picometer": "picometer", "km": "kilometer", "kilometer": "kilometer",
    "å": "angstrom", "angstrom": "angstrom", "a": "angstrom", "ft": "foot", "foot": "foot",
    "yard": "yard", "mile": "mile", "secs": "second", "mins": "minute", "hr": "hour", "hrs": "hour",
    "s": "second", "sec": "second", "second": "second", "seconds": "second",
    "ms": "millisecond", "msec": "millisecond", "millisecond": "millisecond",
    "us": "microsecond", "µs": "microsecond", "microsecond": "microsecond",
    "ns": "nanosecond", "nanosecond": "nanosecond",
    "min": "minute", "minute": "minute", "minutes": "minute",
    "h": "hour", "hour": "hour", "hours": "hour", "d": "day", "day": "day", "days": "day",
}  # fmt: skip
"""Names of units in files, and in OME-NGFF; None for pixels or no unit."""


def to_unit(text: Any) -> str | None:
    """Return the OME-NGFF name of a unit; None if unknown or no unit."""
    if not isinstance(text, str):
        return None
    # ImageJ escapes what is not ASCII; Greek mu and the micro sign are different characters
    plain = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    plain = plain.replace("\u03bc", "µ").replace("\u212b", "å")
    plain = plain.replace("\u00c2µ", "µ")  # UTF-8 that was read as Latin-1 and written again
    return _UNITS.get(plain.strip().strip("\0").lower())


_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")


def positive(value: Any) -> float | None:
    """Return a finite number greater than 0; else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def color_hex(rgb: Any) -> str | None:
    """Return (red, green, blue), each 0 to 255, as RRGGBB."""
    try:
        red, green, blue = (int(n) & 0xFF for n in tuple(rgb)[:3])
    except (TypeError, ValueError):
        return None
    return f"{red:02X}{green:02X}{blue:02X}"


# ---- metadata of vendors


@dataclass(frozen=True, slots=True)
class VendorImage:
    """The image to read the calibration of, and where to report defects."""

    series: SeriesFacts
    tags: Tags
    report: Report

    @property
    def description(self) -> str:
        """ImageDescription, "" if absent."""
        return _to_text(self.tags.get(270))

    @property
    def lengths(self) -> dict[str, int]:
        """Size along each axis of level 0; empty if it cannot be read."""
        full = next(iter(self.series.levels), None)
        return full.sizes if isinstance(full, LevelFacts) else {}

    @property
    def scales(self) -> Mapping[str, float]:
        """Pixel sizes of the resolution tags."""
        return resolution_sizes(self.tags).scales

    def size(self, record: Mapping[str, Any], key: str, factor: float = 1.0) -> float | None:
        """Return a distance or duration times `factor`; None if 0 or absent."""
        value = record.get(key)
        if value is None or (isinstance(value, int | float | str | list) and value in (0, "", [])):
            return None
        number = positive(value)
        if number is None:
            self.report.add(key, "not a valid size", got=value)
        return None if number is None else number * factor

    def parse(self, text: Any, what: str) -> Element:
        """Parse the XML in a tag; if it is invalid, report it and return an empty element."""
        try:
            return parse_xml(_to_text(text) or "<none/>")
        except XmlError as error:
            self.report.add(what, "is not valid XML", got=error)
            return Element("none")


def _to_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


# ---- OME-XML

_LABEL = "OME-XML in ImageDescription (270)"


def parse_ome(text: str, report: Report) -> list[Calibration]:
    """Parse the images of an OME-XML document, in document order."""
    images, defects = _parse(text)
    defects.repeat(report)
    return images


_BINARY_ONLY = re.compile(r"""<(?:\w+:)?BinaryOnly\b[^>]*?\bMetadataFile\s*=\s*["']([^"']+)""")
_HEAD = 1 << 16
"""Number of characters in which to look for BinaryOnly."""


@functools.lru_cache(maxsize=4)
def metadata_file(text: str) -> str | None:
    """Return the name of the file that holds the metadata, if it is another file of the set.

    >>> metadata_file('<OME><BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:1"/></OME>')
    'a.companion.ome'
    """
    match = _BINARY_ONLY.search(text[:_HEAD])
    return match[1] if match else None


def calibrate_member(member: Mapping[str, str], report: Report) -> Calibration:
    """Parse the calibration of one file of a set from OME-XML in another file.

    Parameters
    ----------
    member
        `uuid` of the member, name of the `file` with the metadata, and its `xml`, empty if it could
        not be read.
    report
        Report of the member, whose URL has its name.
    """
    name = _base_name(unquote(str(report.url or "")))
    images = parse_ome(member["xml"], report) if member["xml"] else []
    for image, planes in zip(images, _planes_of(member, name), strict=False):
        if planes:
            # times and channels describe the whole set; this file has only some of the planes
            named = sorted({plane for plane in planes if plane < len(image.channels)})
            channels = tuple(image.channels[n] for n in named)
            place = {k: v for k, v in image.attributes.items() if k[:16] != "stage_position_z"}
            return replace(image, channels=channels, times=(), attributes=place)
    file, fault = member["file"], "does not name this file" if images else "could not be read"
    report.note(
        _LABEL, f"the metadata is in {file}, which {fault}",
        hint="Keep the files of a set in one folder, and scan the file with the metadata.",
    )  # fmt: skip
    return Calibration()


def _planes_of(member: Mapping[str, str], name: str) -> Iterator[list[int]]:
    """Yield, for each image of valid XML, the channels of the TiffData that name this member."""
    for image in parse_xml(member["xml"]).iterfind("{*}Image"):
        planes = []
        for data in image.iterfind("{*}Pixels/{*}TiffData"):
            uuid = data.find("{*}UUID")
            own_id = "" if uuid is None else (uuid.text or "").strip().lower()
            file = "" if uuid is None else _base_name(uuid.get("FileName", ""))
            if file == name or own_id == member["uuid"] != "":
                planes.append(int(_number(data.get("FirstC")) or 0))
        yield planes


def _base_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


@functools.lru_cache(maxsize=1)
def _parse(text: str) -> tuple[list[Calibration], Recorder]:
    """Parse a document; cached, as all series of a file need it."""
    defects = Recorder()
    try:
        root = parse_xml(text)
    except XmlError as error:
        defects.add(_LABEL, "is not valid XML", got=error)
        return [], defects
    objectives = {element.get("ID"): element for element in root.iterfind(".//{*}Objective")}
    wells, modulo = _wells(root), modulo_annotations(root)
    images = [
        _with_modulo_axes(_image(image, objectives, wells, defects), modulo_of(image, modulo))
        for image in root.iterfind("{*}Image")
    ]
    return images, defects


MODULO = {
    "angle": "A", "phase": "P", "tile": "R", "lifetime": "H", "lambda": "E", "exposure": "L",
    "event": "V", "mosaic": "M", "other": "Q", "time": "T", "channel": "C", "depth": "Z",
}  # fmt: skip
"""Axis of each type of modulo annotation."""


ModuloAnnotations = Mapping[str, Mapping[str, Element]]
"""Modulo annotations by ID: axis -> element that describes what is stored along it."""


def modulo_annotations(root: Element) -> ModuloAnnotations:
    """Return the modulo annotations of OME-XML."""
    return {
        annotation.get("ID", ""): {
            local_name(part)[-1]: part
            for part in annotation.iter()
            if local_name(part)[:-1].endswith("Along")
        }
        for annotation in root.iterfind("{*}StructuredAnnotations/*")
        if annotation.get("Namespace", "").endswith("modulo")
    }


def modulo_of(image: Element, annotations: ModuloAnnotations) -> dict[str, Element]:
    """Return the elements of the modulo annotations that an image refers to, by axis."""
    references = image.iterfind("{*}AnnotationRef") if annotations else ()
    merged: dict[str, Element] = {}
    for reference in references:
        merged |= annotations.get(reference.get("ID", ""), {})
    return merged


def _with_modulo_axes(image: Calibration, modulo: Mapping[str, Element]) -> Calibration:
    """Add the axes of modulo annotations with a known unit, such as lifetimes."""
    scales, units, starts = dict(image.scales), dict(image.units), {}
    for along in modulo.values():
        axis = MODULO.get(along.get("Type", ""), "")
        factor, unit = _ome_unit(along.get("Unit", ""))
        step, start = positive(along.get("Step", "1")), _number(along.get("Start"))
        if axis not in "TCZ" and unit and step and start is not None:
            scales[axis], units[axis], starts[axis] = step * factor, unit, start * factor
    return replace(image, scales=scales, units=units, starts=starts) if starts else image


def _image(
    image: Element, objectives: dict[str | None, Element], wells: dict[str, Any], defects: Report
) -> Calibration:
    attributes: dict[str, Any] = {}
    settings = image.find("{*}ObjectiveSettings")
    objective = objectives.get(settings.get("ID")) if settings is not None else None
    if objective is not None:
        attributes["magnification"] = positive(objective.get("NominalMagnification"))
        attributes["numerical_aperture"] = positive(objective.get("LensNA"))
    attributes.update(wells.get(image.get("ID", ""), {}))
    date = image.find("{*}AcquisitionDate")
    acquired = parse_date(date.text if date is not None else image.get("AcquiredDate"))
    pixels = next(image.iterfind("{*}Pixels"), Element("Pixels"))
    scales, units = _sizes(pixels, defects)
    planes = pixels.findall("{*}Plane")
    delta_unit = planes[0].get("DeltaTUnit", "s") if planes else "s"
    unit = units.get("T") or _ome_unit(delta_unit)[1] or "second"
    if times := _times(planes, pixels, unit):
        units["T"] = unit
    for axis in "XYZ" if planes else "":
        position, name = _number(planes[0].get(f"Position{axis}")), f"stage_position_{axis.lower()}"
        if position is not None:
            factor, own = _ome_unit(planes[0].get(f"Position{axis}Unit", ""))
            attributes |= {name: position * factor, f"{name}_unit": own}
    attributes = {key: value for key, value in attributes.items() if value is not None}
    channels = tuple(
        Channel(channel.get("Name") or channel.get("Fluor") or "", _color(channel.get("Color")))
        for channel in pixels.iterfind("{*}Channel")
    )
    name = image.get("Name", "")
    return Calibration(scales, units, channels, times, acquired, name, attributes)


def _sizes(pixels: Element, defects: Report) -> tuple[dict[str, float], dict[str, str]]:
    scales: dict[str, float] = {}
    units: dict[str, str] = {}
    for axis, key, default in (
        ("X", "PhysicalSizeX", "µm"),
        ("Y", "PhysicalSizeY", "µm"),
        ("Z", "PhysicalSizeZ", "µm"),
        ("T", "TimeIncrement", "s"),
    ):
        text = pixels.get(key)
        if text is None or (axis == "T" and _number(text) == 0):
            continue  # Micro-Manager and Bio-Formats write 0 s if unknown
        name = pixels.get(f"{key}Unit", default).strip()
        factor, unit = _ome_unit(name)
        value = positive((_number(text) or 0) * factor)
        if value is None:
            defects.add(f"{_LABEL}, {key}", "not a valid size", got=text)
            continue
        scales[axis] = value
        if unit:
            units[axis] = unit
        elif name not in ("", "pixel", "reference frame"):
            what = "not a known unit, so the size has none"
            defects.add(f"{_LABEL}, {key}Unit", what, got=name)
    return scales, units


_PREFIXES = (
    ("Y", "yotta", 24), ("Z", "zetta", 21), ("E", "exa", 18), ("P", "peta", 15), ("T", "tera", 12),
    ("G", "giga", 9), ("M", "mega", 6), ("k", "kilo", 3), ("h", "hecto", 2), ("d", "deci", -1),
    ("c", "centi", -2), ("m", "milli", -3), ("µ", "micro", -6), ("n", "nano", -9),
    ("p", "pico", -12), ("f", "femto", -15), ("a", "atto", -18), ("z", "zepto", -21),
    ("y", "yocto", -24),
)  # fmt: skip
_OME_UNITS = {
    f"{letters}{symbol}": f"{prefix}{unit}"
    for letters, prefix, _ in _PREFIXES
    for symbol, unit in (("m", "meter"), ("s", "second"))
} | {"yd": "yard", "mi": "mile", "pc": "parsec"}
"""Units of the OME model, whose case matters: Mm are not mm."""
_FOREIGN_UNITS = {
    "dam": (10.0, "meter"), "das": (10.0, "second"), "thou": (25.4, "micrometer"),
    "li": (1 / 12, "inch"), "pt": (1 / 72, "inch"),
    "ua": (149597870700.0, "meter"), "ly": (9460730472580800.0, "meter"),
}  # fmt: skip
"""Units of the OME model that OME-NGFF does not have, as multiples of one that it has."""
_IN_SECONDS = {f"{prefix}second": 10.0**power for _, prefix, power in _PREFIXES}
_IN_SECONDS |= {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


def _ome_unit(name: str) -> tuple[float, str | None]:
    return _FOREIGN_UNITS.get(name) or (1.0, _OME_UNITS.get(name) or to_unit(name))


def _color(text: str | None) -> str | None:
    # a signed 32-bit number: red, green, blue, alpha from the most significant byte
    try:
        value = int(text or "") & 0xFFFFFFFF
    except ValueError:
        return None
    return f"{value >> 8:06X}"


def _times(planes: list[Element], pixels: Element, unit: str) -> tuple[float, ...]:
    """Return the time of the first plane of each time point in a unit, if all have one."""
    n_times = int(positive(pixels.get("SizeT")) or 1)
    first: dict[int, float] = {}
    for plane in planes:
        delta, index = _number(plane.get("DeltaT")), _number(plane.get("TheT"))
        factor, own = _ome_unit(plane.get("DeltaTUnit", "s"))
        factor *= _IN_SECONDS.get(own or "", math.nan) / _IN_SECONDS.get(unit, math.nan)
        if delta is not None and index is not None:
            first.setdefault(int(index), delta * factor)
    times = tuple(first[n] for n in sorted(first))
    is_complete = len(times) == n_times > 1 and sorted(first) == list(range(len(times)))
    return times if is_complete and all(late > early for early, late in pairwise(times)) else ()


def _wells(root: Element) -> dict[str, dict[str, Any]]:
    """Return plate, well and field by image ID."""
    positions = {}
    for plate in root.iterfind(".//{*}Plate"):
        for well in plate.iterfind("{*}Well"):
            row, column = (_number(well.get(key)) for key in ("Row", "Column"))
            if row is None or column is None:
                continue
            for sample in well.iterfind("{*}WellSample"):
                for reference in sample.iterfind("{*}ImageRef"):
                    positions[reference.get("ID", "")] = {
                        "plate": plate.get("Name") or plate.get("ID", ""),
                        "well": f"{row_name(int(row))}{int(column) + 1:02d}",
                        "field": int(_number(sample.get("Index")) or 0),
                    }
    return positions


def row_name(row: int) -> str:
    """Return the letters of a row of a plate, counted from 0."""
    name = ""
    while row >= 0:
        name = chr(ord("A") + row % 26) + name
        row = row // 26 - 1
    return name


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_PIXEL_TYPES = {"float32": "float", "float64": "double", "complex64": "complex",
                "complex128": "double-complex", "bool": "bit"}  # fmt: skip


def write_ome_xml(group: Group, paths: Sequence[Any]) -> str:
    """Return OME-XML that lists images of OME-NGFF 0.5, by their paths in a group.

    Paths without an image, possible in foreign documents, are left out.
    """
    root = Element("OME", xmlns=_NAMESPACE)
    for path in paths:
        try:
            below: Any = group[path]
            entry = below.attributes["ome"]["multiscales"][0]
            array = below[entry["datasets"][0]["path"]]
            sizes = {f"Size{axis}": str(array.sizes.get(axis.lower(), 1)) for axis in "XYZCT"}
        except (AttributeError, LookupError, TypeError):
            continue
        name = "".join(filter(str.isprintable, str(entry.get("name", ""))))
        kind = _PIXEL_TYPES.get(array.dtype.name, array.dtype.name)
        image = SubElement(root, "Image", ID=f"Image:{path}", Name=name)
        attributes = {"ID": f"Pixels:{path}", "DimensionOrder": "XYZCT", "Type": kind, **sizes}
        SubElement(SubElement(image, "Pixels", attributes), "MetadataOnly")
    return tostring(root, "unicode")
