"""Metadata of slide scanners: one reader for each flavour.

Owns what makers' text and XML in tags say about the size of pixels, magnification and channels.

References: formats of Aperio, Hamamatsu, Leica, Philips, Trestle and Ventana as OpenSlide documents
them; "PerkinElmer QPTIFF image format" of Akoya; XML of IndicaLabs and Argos files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..model.facts import LevelFacts, SeriesFacts
from .calibration import (
    MICROMETERS,
    X_RESOLUTION,
    Y_RESOLUTION,
    Calibration,
    Channel,
    Reader,
    Tags,
    calibrated,
    color_hex,
    plain_sizes,
    positive,
    rational,
)
from .report import Report
from .xml import Element, XmlError, local_name, parse_xml

__all__ = ["SLIDE_READERS"]

_XMP = 700
_AVS = 65000


def _aperio(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    items = dict(re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*?)\s*(?=\||$)", str(tags.get(270) or "")))
    size = positive(items.get("MPP"))
    return _slide(dict.fromkeys("XY", size), items.get("AppMag"))


def _ndpi(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    # macro and map have negative numbers there
    return _slide(plain_sizes(tags).scales, tags.get(65421))


def _scn(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    root = _parsed(found if isinstance(found, str) else tags.get(270), "SCN XML", report)
    images = list(_named(root, "image"))
    here = images[series.index : series.index + 1] or images
    objective = next((e.text for one in here for e in _named(one, "objective")), None)
    name = here[0].get("name", "") if here else ""
    return _slide(plain_sizes(tags).scales, objective, name=name)


def _qpi(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    texts = found if isinstance(found, list) else [tags.get(270)]
    roots = [_parsed(text, "QPTIFF XML", report) for text in texts]
    full = [root for root in roots if _text(root, "ImageType") in ("FullResolution", None)]
    channels = tuple(
        Channel(_text(root, "Name") or "", color_hex((_text(root, "Color") or "").split(",")))
        for root in full
    )
    is_stack = series.axes.startswith("C") and any(channel.name for channel in channels)
    size = positive(_text(full[0], "PixelSizeMicrons")) if full else None
    scales = dict.fromkeys("XY", size) if size else plain_sizes(tags).scales
    magnification = _text(full[0], "Magnification", "Objective") if full else None
    return _slide(scales, magnification, channels=channels if is_stack else ())


def _philips(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    root = _parsed(found, "Philips XML", report)
    spacing = next((e.text for e in root.iter() if e.get("Name") == "DICOM_PIXEL_SPACING"), None)
    # of the full-size level, which comes first; rows, then columns, in millimetres
    sizes = [positive(text) for text in (spacing or "").replace('"', "").split()[:2]]
    if series.index or len(sizes) < 2:
        return plain_sizes(tags)
    return _slide({axis: n and 1000 * n for axis, n in zip("YX", sizes, strict=True)}, None)


def _bif(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    text = found or tags.get(_XMP)
    root = _parsed(text, "Ventana XML in XMP (700)", report)
    scan = next(_named(root, "iScan"), None)
    if scan is None or series.name.lower() != "baseline":
        return plain_sizes(tags)
    size = positive(scan.get("ScanRes"))
    scales = dict.fromkeys("XY", size) if size else plain_sizes(tags).scales
    return _slide(scales, scan.get("Magnification"))


def _indica(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    root = _parsed(found or tags.get(270), "IndicaLabs XML", report)
    channels = tuple(Channel(one.get("name", "")) for one in _named(root, "channel"))
    is_stack = series.axes.startswith("C")
    scales = plain_sizes(tags).scales
    return _slide(scales, _text(root, "objective"), channels=channels if is_stack else ())


def _trestle(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    # the resolution tags have micrometres for a pixel, against their meaning
    sizes = {"X": rational(tags.get(X_RESOLUTION)), "Y": rational(tags.get(Y_RESOLUTION))}
    objective = re.search(r"Objective Name\s*=\s*([^;\r\n]*)", str(tags.get(270) or ""))
    return _slide(sizes, objective and objective[1])


def _avs(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    root = _parsed(found or tags.get(_AVS), "Argos XML", report)
    scales: dict[str, float | None] = dict(plain_sizes(tags).scales)
    depth = positive(_text(root, "ZRange"))
    n_planes = _size(series, "Z")
    if depth and n_planes > 1:
        # from the lowest to the highest plane
        scales["Z"] = depth / (n_planes - 1)
    is_main = series.index == 0
    return _slide(scales, _text(root, "ObjectiveMagnification") if is_main else None)


def _plain(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    return plain_sizes(tags)


def _slide(scales: Mapping[str, float | None], magnification: Any, **more: Any) -> Calibration:
    """Build the calibration of a slide; magnifications are given as 20 or as "20x"."""
    number = re.search(r"[\d.]+(?=\s*[xX]?\s*$)|[\d.]+(?=\s*[xX])", str(magnification or ""))
    is_positive = not str(magnification).startswith("-")
    value = positive(number[0]) if number and is_positive else None
    attributes = {} if value is None else {"magnification": value}
    return calibrated(scales, MICROMETERS, attributes=attributes, **more)


def _size(series: SeriesFacts, axis: str) -> int:
    full = series.levels[0]
    if not isinstance(full, LevelFacts) or axis not in full.axes:
        return 1
    return full.shape[full.axes.index(axis)]


# ---- XML


def _parsed(text: Any, what: str, report: Report) -> Element:
    """Parse XML of a tag; what cannot be is reported, and an empty element."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        return parse_xml(str(text or "<none/>"))
    except XmlError as error:
        report.add(what, "is not valid XML", got=error)
        return Element("none")


def _named(root: Element, name: str) -> Iterator[Element]:
    return (element for element in root.iter() if local_name(element) == name)


def _text(root: Element, *names: str) -> str | None:
    """Give the text of the first element of one of these names, the first name first."""
    found = (element.text for name in names for element in _named(root, name))
    return next((text.strip() for text in found if text and text.strip()), None)


SLIDE_READERS: Mapping[str, Reader] = {
    "svs": _aperio,
    "mikroscan": _aperio,
    "motic": _aperio,
    "huron": _plain,
    "ndpi": _ndpi,
    "scn": _scn,
    "bif": _bif,
    "philips": _philips,
    "qpi": _qpi,
    "indica": _indica,
    "trestle": _trestle,
    "avs": _avs,
}
"""Readers by flavour."""
