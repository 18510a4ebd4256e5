"""OME-XML: sizes, channels, times and positions of the images of a file.

Owns what is read from an OME-XML document, any version of the schema. Which pages belong to an
image is settled by the scanner.

Reference: OME model 2016-06, elements Image, Pixels, Channel, Plane, Objective, Plate; OME-TIFF
specification, "BinaryOnly".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from .calibration import Calibration, Channel, positive, to_unit
from .report import Report
from .time import parse_date
from .xml import XmlError, parse_xml

__all__ = ["calibrate_member", "metadata_file", "parse_ome"]

_LABEL = "OME-XML in ImageDescription (270)"


def parse_ome(text: str, report: Report) -> list[Calibration]:
    """Read the images of an OME-XML document, in its order."""
    images, defects = _parse(text)
    for key, what, got in defects:
        report.add(key, what, got=got)
    return images


_BINARY_ONLY = re.compile(r"""<(?:\w+:)?BinaryOnly\b[^>]*?\bMetadataFile\s*=\s*["']([^"']+)""")
_HEAD = 1 << 16
"""Characters within which an OME-XML document says that its metadata is in another file."""


@functools.lru_cache(maxsize=4)
def metadata_file(text: str) -> str | None:
    """Return the name of the file that holds the metadata of a member of a set, if it is another.

    >>> metadata_file('<OME><BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:1"/></OME>')
    'a.companion.ome'
    """
    found = _BINARY_ONLY.search(text[:_HEAD])
    return found[1] if found else None


def calibrate_member(text: str, file: str, report: Report) -> Calibration:
    """Read what the OME-XML of a set says about one of its members, which is named by the report.

    Parameters
    ----------
    text
        The OME-XML of `file`, empty if it could not be read.
    file
        Name of the file that the member names as the place of its metadata.
    report
        Of the member.
    """
    name = unquote(str(report.url or "")).replace("\\", "/").rpartition("/")[2]
    images = parse_ome(text, report) if text else []
    for image, planes in zip(images, _planes_of(text, name), strict=False):
        if planes:
            # times and channels are those of the whole set, of which the member has some planes
            named = sorted({plane for plane in planes if plane < len(image.channels)})
            channels = tuple(image.channels[n] for n in named)
            place = {k: v for k, v in image.attributes.items() if k[:16] != "stage_position_z"}
            return replace(image, channels=channels, times=(), attributes=place)
    report.note(
        _LABEL, f"its metadata is in {file}, which was not read",
        hint="Keep the files of a set side by side, and scan the file that describes it.",
    )  # fmt: skip
    return Calibration()


def _planes_of(text: str, name: str) -> Iterator[list[int]]:
    """Yield for each image the channels of the TiffData elements that name a file."""
    try:
        root = parse_xml(text)
    except XmlError:
        return
    for image in root.iterfind("{*}Image"):
        found = []
        for data in image.iterfind("{*}Pixels/{*}TiffData"):
            uuid = data.find("{*}UUID")
            file = uuid.get("FileName", "") if uuid is not None else ""
            if file.replace("\\", "/").rpartition("/")[2] == name:
                found.append(int(_number(data.get("FirstC")) or 0))
        yield found


_Defects = list[tuple[str, str, str]]


@functools.lru_cache(maxsize=1)
def _parse(text: str) -> tuple[list[Calibration], _Defects]:
    """Read the document once for all series of a file, which ask for it one after the other."""
    defects: _Defects = []
    try:
        root = parse_xml(text)
    except XmlError as error:
        return [], [(_LABEL, "is not valid XML", str(error))]
    objectives = {one.get("ID"): one for one in root.iterfind(".//{*}Objective")}
    wells = _wells(root)
    found = root.iterfind("{*}Image")
    return [_image(one, objectives, wells, defects) for one in found], defects


def _image(
    image: Element, objectives: dict[str | None, Element], wells: dict[str, Any], defects: _Defects
) -> Calibration:
    pixels = image.find("{*}Pixels")
    attributes: dict[str, Any] = {}
    settings = image.find("{*}ObjectiveSettings")
    objective = objectives.get(settings.get("ID")) if settings is not None else None
    if objective is not None:
        attributes["magnification"] = positive(objective.get("NominalMagnification"))
        attributes["numerical_aperture"] = positive(objective.get("LensNA"))
    attributes.update(wells.get(image.get("ID", ""), {}))
    date = image.find("{*}AcquisitionDate")
    acquired = parse_date(date.text if date is not None else image.get("AcquiredDate"))
    name = image.get("Name", "")
    if pixels is None:
        attributes = {key: value for key, value in attributes.items() if value is not None}
        return Calibration(name=name, acquired=acquired, attributes=attributes)
    scales, units = _sizes(pixels, defects)
    planes = pixels.findall("{*}Plane")
    times = _times(planes, pixels)
    if times and "T" not in units:
        units["T"] = to_unit(planes[0].get("DeltaTUnit", "s")) or "second"
    for axis in "XYZ":
        position = planes[0].get(f"Position{axis}") if planes else None
        if position is not None:
            attributes[f"stage_position_{axis.lower()}"] = _number(position)
            unit = to_unit(planes[0].get(f"Position{axis}Unit", ""))
            if unit:
                attributes[f"stage_position_{axis.lower()}_unit"] = unit
    attributes = {key: value for key, value in attributes.items() if value is not None}
    return Calibration(scales, units, _channels(pixels), times, acquired, name, attributes)


def _sizes(pixels: Element, defects: _Defects) -> tuple[dict[str, float], dict[str, str]]:
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
            continue  # Micro-Manager and Bio-Formats write 0 s where they do not know it
        value = positive(text)
        if value is None:
            defects.append((f"{_LABEL}, {key}", "is not a size", text))
            continue
        scales[axis] = value
        unit = to_unit(pixels.get(f"{key}Unit", default))
        if unit:
            units[axis] = unit
    return scales, units


def _channels(pixels: Element) -> tuple[Channel, ...]:
    return tuple(
        Channel(one.get("Name") or one.get("Fluor") or "", _color(one.get("Color")))
        for one in pixels.iterfind("{*}Channel")
    )


def _color(text: str | None) -> str | None:
    # a signed 32-bit number: red, green, blue, alpha from the top
    try:
        value = int(text or "") & 0xFFFFFFFF
    except ValueError:
        return None
    return f"{value >> 8:06X}"


def _times(planes: list[Element], pixels: Element) -> tuple[float, ...]:
    """Return when time points were taken: that of the first plane of each, if all say so."""
    n_times = int(positive(pixels.get("SizeT")) or 1)
    found: dict[int, float] = {}
    for plane in planes:
        delta, index = _number(plane.get("DeltaT")), _number(plane.get("TheT"))
        if delta is not None and index is not None:
            found.setdefault(int(index), delta)
    if n_times < 2 or len(found) != n_times or set(found) != set(range(n_times)):
        return ()
    times = tuple(found[n] for n in range(n_times))
    is_rising = all(late > early for early, late in pairwise(times))
    return times if is_rising else ()


def _wells(root: Element) -> dict[str, dict[str, Any]]:
    """Return the well of each image that is a field of one, by the image's ID."""
    found = {}
    for plate in root.iterfind(".//{*}Plate"):
        for well in plate.iterfind("{*}Well"):
            row, column = (_number(well.get(key)) for key in ("Row", "Column"))
            for sample in well.iterfind("{*}WellSample"):
                reference = sample.find("{*}ImageRef")
                if reference is None or row is None or column is None:
                    continue
                found[reference.get("ID", "")] = {
                    "plate": plate.get("Name") or plate.get("ID", ""),
                    "well": f"{_row_name(int(row))}{int(column) + 1:02d}",
                    "field": int(_number(sample.get("Index")) or 0),
                }
    return found


def _row_name(row: int) -> str:
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
