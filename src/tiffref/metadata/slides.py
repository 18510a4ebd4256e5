"""Metadata of slide scanners: one reader per format.

A new format is a function, and a row in `READERS` of `microscopy`.

References: slides of Aperio, Hamamatsu, Leica, Philips, Trestle and Ventana as OpenSlide documents
them; "PerkinElmer QPTIFF image format" of Akoya; XML of IndicaLabs and Argos files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .calibration import (
    MAX_PLAIN_SIZE,
    RESOLUTIONS,
    Calibration,
    Channel,
    VendorImage,
    calibrated,
    color_hex,
    positive,
    rational,
    resolution_sizes,
)
from .report import Element, local_name

_XMP, _AVS = 700, 65000


def _slide(scales: Mapping[str, float | None], magnification: Any, **more: Any) -> Calibration:
    """Build the calibration of a slide; the magnification may be 20 or "20x"."""
    number = re.search(r"[\d.]+(?=\s*[xX]?\s*$)|[\d.]+(?=\s*[xX])", str(magnification or ""))
    is_positive = not str(magnification).startswith("-")
    value = positive(number[0]) if number and is_positive else None
    return calibrated(scales, magnification=value, **more)


def aperio(record: Any, image: VendorImage) -> Calibration | None:
    items = dict(re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*?)\s*(?=\||$)", image.description))
    size = image.size(items, "MPP")
    return _slide(dict.fromkeys("XY", size), items.get("AppMag"))


def ndpi(record: Any, image: VendorImage) -> Calibration | None:
    # macro and map have negative magnifications
    return _slide(image.scales, image.tags.get(65421))


def scn(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record if isinstance(record, str) else image.description, "SCN XML")
    images = list(_elements(root, "image"))
    here = images[image.series.index : image.series.index + 1] or images
    objective = next((e.text for part in here for e in _elements(part, "objective")), None)
    name = here[0].get("name", "") if here else ""
    return _slide(image.scales, objective, name=name)


def qpi(record: Any, image: VendorImage) -> Calibration | None:
    if image.series.index:
        # the XML of secondary images may repeat the pixel size of the slide
        return _slide(image.scales, None)
    texts = record if isinstance(record, list) else [image.description]
    roots = [image.parse(text, "QPTIFF XML") for text in texts]
    full = [root for root in roots if _text(root, "ImageType") in ("FullResolution", None)]
    channels = tuple(
        Channel(_text(root, "Name") or "", color_hex((_text(root, "Color") or "").split(",")))
        for root in full
    )
    is_stack = image.series.axes.startswith("C") and any(channel.name for channel in channels)
    named = {"PixelSizeMicrons": _text(full[0], "PixelSizeMicrons")} if full else {}
    size = image.size(named, "PixelSizeMicrons")
    scales = dict.fromkeys("XY", size) if size else image.scales
    magnification = _text(full[0], "Magnification", "Objective") if full else None
    return _slide(scales, magnification, channels=channels if is_stack else ())


def philips(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record, "Philips XML")
    spacing = next((e.text for e in root.iter() if e.get("Name") == "DICOM_PIXEL_SPACING"), None)
    # the first one is that of the full-size level: rows, columns, in millimetres
    sizes = dict(zip("YX", (spacing or "").replace('"', "").split(), strict=False))
    if image.series.index or len(sizes) < 2:
        return resolution_sizes(image.tags, MAX_PLAIN_SIZE)
    key = "DICOM_PIXEL_SPACING"
    return _slide({axis: image.size({key: n}, key, 1000) for axis, n in sizes.items()}, None)


def bif(record: Any, image: VendorImage) -> Calibration | None:
    text = record or image.tags.get(_XMP)
    root = image.parse(text, "Ventana XML in XMP (700)")
    scan = next(_elements(root, "iScan"), None)
    if scan is None or image.series.name.lower() != "baseline":
        return resolution_sizes(image.tags, MAX_PLAIN_SIZE)
    size = image.size(scan.attrib, "ScanRes")
    scales = dict.fromkeys("XY", size) if size else image.scales
    return _slide(scales, scan.get("Magnification"))


def indica(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record or image.description, "IndicaLabs XML")
    channels = tuple(Channel(element.get("name", "")) for element in _elements(root, "channel"))
    is_stack = image.series.axes.startswith("C")
    scales = image.scales
    return _slide(scales, _text(root, "objective"), channels=channels if is_stack else ())


def trestle(record: Any, image: VendorImage) -> Calibration | None:
    # the resolution tags hold micrometres per pixel, against their definition
    sizes = {axis: rational(image.tags.get(tag)) for axis, tag in RESOLUTIONS}
    overlaps = re.search(r"OverlapsXY\s*=([^;\r\n]*)", image.description)
    n_levels = len(image.series.levels)
    if overlaps and image.series.index == 0 and len(overlaps[1].split()) != 2 * n_levels:
        what = f"not two numbers for each of {n_levels} levels"
        image.report.add("OverlapsXY", what, got=overlaps[1].strip())
    objective = re.search(r"Objective Name\s*=\s*([^;\r\n]*)", image.description)
    return _slide(sizes, objective and objective[1])


def avs(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record or image.tags.get(_AVS), "Argos XML")
    scales: dict[str, float | None] = dict(image.scales)
    depth = positive(_text(root, "ZRange"))
    n_planes = image.lengths.get("Z", 1)
    if depth and n_planes > 1:
        # distance from the lowest to the highest plane
        scales["Z"] = depth / (n_planes - 1)
    is_main = image.series.index == 0
    return _slide(scales, _text(root, "ObjectiveMagnification") if is_main else None)


def _elements(root: Element, name: str) -> Iterator[Element]:
    return (element for element in root.iter() if local_name(element) == name)


def _text(root: Element, *names: str) -> str | None:
    """Return the text of the first element with one of these names, in order of the names."""
    texts = (element.text for name in names for element in _elements(root, name))
    return next((text.strip() for text in texts if text and text.strip()), None)
