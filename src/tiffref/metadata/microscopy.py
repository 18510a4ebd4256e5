"""Metadata of microscopes, slide scanners and other instruments: one reader per format.

Converts vendor metadata to pixel sizes, channels, times, optics and stage positions. The scanner
collects the metadata as plain mappings, and decides which pages form an image. A new format is a
function and a row in `READERS`.

References: ImageJ's `TiffDecoder` and `FileInfo`; SCIFIO's `TIFFFormat`; Zeiss LSM 5 image format;
MetaMorph Stack format; Micro-Manager wiki, "Files on disk"; ScanImage manual, "BigTiff
specification"; slides of Aperio, Hamamatsu, Leica, Philips, Trestle and Ventana as OpenSlide
documents them; "PerkinElmer QPTIFF image format" of Akoya; NIH Image's header in "About NIH Image";
FEI/ThermoFisher EER format; TVIPS EMMENU 4 header. FluoView, SIS, FLIMage, IndicaLabs and Argos
have no public description.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from ..errors import TiffrefError
from ..model.tiff_facts import FileFacts, SeriesFacts
from .calibration import (
    MAX_PLAIN_SIZE,
    RESOLUTIONS,
    Calibration,
    Channel,
    Tags,
    VendorImage,
    calibrate_member,
    calibrated,
    color_hex,
    parse_ome,
    positive,
    rational,
    resolution_sizes,
    to_unit,
)
from .cf import parse_date
from .report import Element, Report, local_name

_PARSE_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_MAX_CHANNELS = 1 << 16
"""Largest number of channels accepted if the size of the image is unknown."""
_XMP, _UIC2, _AVS, _MAGNIFICATION = 700, 33629, 65000, 65421

_Record = Mapping[str, Any]


def calibrate(facts: FileFacts, series: SeriesFacts, tags: Tags, report: Report) -> Calibration:
    """Read the calibration of one series from the vendor metadata of the file.

    Parameters
    ----------
    facts
        Facts of the file.
    series
        The series; its kind and index select among several descriptions.
    tags
        Tags of the first IFD of the series.
    report
        Receives defects of the metadata.
    """
    image = VendorImage(series, tags, report)
    for name, read in READERS.items():
        record = facts.metadata.get(name)
        is_usable = isinstance(record, Mapping) or read not in _NEED_MAPPING
        if name not in facts.metadata or not is_usable:
            continue
        try:
            calibration = read(record, image)
        except TiffrefError:
            raise
        except _PARSE_ERRORS as error:
            # vendors change their formats; unexpected metadata must not prevent reading pixels
            report.add(f"{name} metadata", "unexpected structure", got=repr(error))
            continue
        if calibration is not None:
            return calibration
    return resolution_sizes(tags, MAX_PLAIN_SIZE)


def _plain_text(text: Any) -> str:
    return str(text or "").strip("\0 ")


def _same_or_all(values: Iterable[Any]) -> Any:
    """Return the value shared by all planes, else the list of values; None if empty."""
    items = list(values)
    return items[0] if items and len(set(items)) == 1 else items or None


# ---- light microscopes


def _ome(text: Any, image: VendorImage) -> Calibration | None:
    if isinstance(text, Mapping):
        # do not fall back to other tags: they may be placeholders, such as UIC1 of PrairieView
        return calibrate_member(text, image.report)
    if not isinstance(text, str):
        return None
    images, series = parse_ome(text, image.report), image.series
    if series.number is not None:
        return images[series.number] if series.number < len(images) else None
    if series.kind == "page" and len(images) > 1:  # the pages may be of any image
        shared = [Calibration(one.scales, one.units) for one in images]
        return shared[0] if all(one == shared[0] for one in shared) else Calibration()
    own = images[series.index] if series.index < len(images) else None
    if own is not None and own.name == series.name:
        return own
    named = next((other for other in images if other.name == series.name), None)
    return named or own or (images[0] if images else None)


def _imagej(record: Any, image: VendorImage) -> Calibration | None:
    # `unit` applies to all lengths, unless y or z have their own
    names = {axis: record.get(f"{axis.lower()}unit") or record.get("unit", "") for axis in "YZ"}
    names |= {"X": record.get("unit", ""), "T": record.get("tunit") or "sec"}
    units = {axis: to_unit(name) for axis, name in names.items()}
    for name in dict.fromkeys(str(names[axis]) for axis in units if units[axis] is None):
        if name.strip().lower() not in ("", "px", "pixel", "pixels", "frame", "frames"):
            what = "not a known unit, so sizes have none or are left out"
            image.report.add("unit", what, got=name)
    spacing = record.get("spacing")
    is_downwards = isinstance(spacing, int | float) and spacing < 0
    scales: dict[str, float | None] = {
        "Z": -spacing if is_downwards else image.size(record, "spacing"),  # type: ignore[operator]
        "T": image.size(record, "finterval"),
    }
    for axis, tag in RESOLUTIONS:
        per_unit = rational(image.tags.get(tag))
        scales[axis] = None if per_unit is None or units[axis] is None else 1 / per_unit
    for axis, scale, own in _scifio_axes(record, image):
        scales[axis], units[axis] = scale, own
    n_channels = int(positive(record.get("channels")) or 1)
    if n_channels > max(image.lengths.values(), default=_MAX_CHANNELS):
        return calibrated(scales, units)  # more channels than the longest axis
    return calibrated(scales, units, channels=_imagej_channels(record, n_channels))


def _scifio_axes(record: _Record, image: VendorImage) -> Iterator[tuple[str, float, str]]:
    """Yield (axis, scale, unit) of the axes in SCIFIO's comment that have a known unit."""
    if "SCIFIO" not in record:
        return
    rows = {key: str(record.get(key, "")).split(",") for key in ("axes", "scales", "units")}
    if "scales" in record and len(set(map(len, rows.values()))) > 1:
        counts = ", ".join(f"{len(row)} {key}" for key, row in rows.items())
        image.report.add("SCIFIO", "not one scale and unit for each axis", got=counts)
    for name, scale, text in zip(*rows.values(), strict=False):
        axis, unit, key = {"Time": "T"}.get(name, name), to_unit(text), f"scale of {name}"
        size = image.size({key: scale}, key) if unit else None
        if axis in ("X", "Y", "Z", "T") and unit and size:
            yield axis, size, unit


def _imagej_channels(record: _Record, n_channels: int) -> tuple[Channel, ...]:
    # of one plane or channel, there is no list
    labels, luts = (
        values if isinstance(values, list) else [] if values is None else [values]
        for values in (record.get("Labels"), record.get("LUTs"))
    )
    ranges = list(record.get("Ranges") or ())
    if not labels and not ranges and not luts:
        return ()  # without names: tifffile may declare 100,000 planes as channels
    # labels are per plane, channel fastest; a label shared by all planes of a channel names it
    shared = [{str(label) for label in labels[n::n_channels]} for n in range(n_channels)]
    is_named = n_channels > 1 or len(labels) > 1
    names = [own.pop() if is_named and len(own) == 1 else "" for own in shared]
    channels = []
    for n, name in enumerate(names):
        start_end = tuple(map(float, ranges[2 * n : 2 * n + 2]))
        window = (start_end[0], start_end[1]) if len(start_end) == 2 else None
        is_table = n < len(luts) and getattr(luts[n], "shape", ())[:1] == (3,)
        channels.append(Channel(name, color_hex(luts[n][:, -1]) if is_table else None, window))
    return tuple(channels) if any(channel != Channel() for channel in channels) else ()


def _lsm(record: Any, image: VendorImage) -> Calibration | None:
    scales = {axis: image.size(record, f"VoxelSize{axis}", 1e6) for axis in "XYZ"}
    scales["T"] = image.size(record, "TimeIntervall")
    colors = record.get("ChannelColors") or {}
    names, rgb = (list(colors.get(key) or ()) for key in ("ColorNames", "Colors"))
    named = zip_longest(names, rgb[: len(names)])
    channels = tuple(Channel(str(name), color_hex(color)) for name, color in named)
    stamps = record.get("TimeStamps")
    times = () if stamps is None or len(stamps) < 2 else tuple(float(t - stamps[0]) for t in stamps)
    return calibrated(scales, channels=channels, times=times)


def _stk(record: Any, image: VendorImage) -> Calibration | None:
    # UIC1 without UIC2 is not a MetaMorph stack; other writers imitate the format
    if "ZDistance" not in record and _UIC2 not in image.tags:
        return None
    unit = to_unit(record.get("CalibrationUnits"))
    scales: dict[str, float | None] = {}
    if record.get("SpatialCalibration") and unit is not None:
        scales = {axis: image.size(record, f"{axis}Calibration") for axis in "XY"}
        distances = set(list(record.get("ZDistance", ()))[1:])
        scales["Z"] = positive(distances.pop()) if len(distances) == 1 else None
    created, moments = record.get("CreateTime"), record.get("DatetimeCreated")
    if not isinstance(created, datetime.datetime) and moments is not None and len(moments):
        created = moments[0].astype("datetime64[us]").item()
    properties = record.get("PlaneProperty") or ()
    optics = {row["name"]: row["value"] for row in properties if isinstance(row, Mapping)}
    times: Any = ()  # seconds since the first plane
    if moments is not None and len(set(moments.tolist())) == len(moments):
        times = (moments - moments[0]).astype("timedelta64[ns]").astype(float) / 1e9
    waves = [w for w in map(float, record.get("Wavelengths", ())) if w > 0]
    return calibrated(
        scales,
        unit,
        name=_plain_text(record.get("Name")),
        times=tuple(times),
        acquired=created if isinstance(created, datetime.datetime) else None,
        wavelength=_same_or_all(waves),
        wavelength_unit="nanometer" if waves else None,
        numerical_aperture=image.size(optics, "_MagNA_"),
        magnification_setting=optics.get("_MagSetting_"),
        **_stage(record.get("Stage", ()), record.get("StageLabel") or ()),
    )


def _stage(positions: Any, labels: Iterable[str]) -> dict[str, Any]:
    """Return the attributes of stage positions `(n, 2)`, x and y, and of their labels."""
    named = [label.strip() for label in labels]
    columns = np.asarray(positions, np.float64).reshape(-1, 2).T.tolist()
    x, y = (_same_or_all(column) for column in columns)
    label = _same_or_all(named) if any(named) else None
    return {"stage_position_x": x, "stage_position_y": y, "stage_label": label, **_well(label)}


_WELL = re.compile(r"([A-Z]{1,2}\d{1,2})\s*:\s*site\s*(\d+)", re.IGNORECASE)
_PLATE = re.compile(r"^\s*plate(?:[ _-]?(?:name|id))?\s*[:=]\s*(\S.*?)\s*$", re.I | re.M)
_PLATE_KEYS = {
    "plate": ("plate", "platename", "plateid"),
    "well": ("well", "wellname", "wellid"),
    "site": ("site", "siteid", "sitenumber"),
}
"""MetaSeries properties with the position on a plate, without spaces and dashes."""


def _well(label: Any) -> dict[str, Any]:
    """Parse well and site from the label of a stage position, such as "G08 : Site 5"."""
    match = _WELL.fullmatch(label.strip()) if isinstance(label, str) else None
    return {"well": match[1].upper(), "site": int(match[2])} if match else {}


def _metaseries(record: Any, image: VendorImage) -> Calibration | None:
    plane: dict[str, Any] = {key: v for key, v in record.items() if not isinstance(v, Mapping)}
    for part in ("SetInfo", "PlaneInfo"):
        plane |= record.get(part) or {}
    unit = to_unit(str(plane.get("spatial-calibration-units") or ""))
    scales: dict[str, float | None] = {}
    if plane.get("spatial-calibration-state", True) and unit is not None:
        scales = {a: image.size(plane, f"spatial-calibration-{a.lower()}") for a in "XY"}
    attributes = {
        name: plane[key]
        for key, name in _METASERIES_NAMES
        if isinstance(plane.get(key), int | float | str)
    }
    wavelength = image.size(plane, "wavelength")
    name = str(plane.get("image-name") or plane.get("_IllumSetting_") or "")
    return calibrated(
        scales,
        unit,
        channels=(Channel(name),) if name else (),
        acquired=_metaseries_time(plane, image.report),
        **attributes,
        numerical_aperture=image.size(plane, "_MagNA_"),
        wavelength=wavelength,
        wavelength_unit="nanometer" if wavelength else None,
        **_metaseries_place(plane),
    )


_METASERIES_NAMES = (
    ("stage-position-x", "stage_position_x"),
    ("stage-position-y", "stage_position_y"),
    ("z-position", "stage_position_z"),
    ("_MagSetting_", "magnification_setting"),
    ("stage-label", "stage_label"),
)


def _metaseries_place(plane: _Record) -> dict[str, Any]:
    """Parse plate, well and site from their properties, or from label and description."""
    named = {re.sub(r"[^a-z]", "", key.lower()): value for key, value in plane.items()}
    plate = _PLATE.search(str(plane.get("Description") or ""))
    place = {"plate": plate[1]} if plate else {}
    place |= _well(plane.get("stage-label"))
    for name, keys in _PLATE_KEYS.items():
        value = next((named[key] for key in keys if named.get(key) not in (None, "")), None)
        if isinstance(value, str | int | float):
            place[name] = value
    return place


def _metaseries_time(plane: _Record, report: Report) -> datetime.datetime | None:
    """Parse a local time with milliseconds and no time zone: 20230401 12:34:56.789."""
    key = "acquisition-time-local"
    value = plane.get(key)
    if isinstance(value, datetime.datetime) or not value:
        return value or None
    moment = parse_date(str(value)) if ":" in str(value) else None
    if moment is None:
        report.add(key, "not a valid time", got=value)
    return moment


def _micromanager(record: Any, image: VendorImage) -> Calibration | None:
    summary = record.get("Summary")
    if not isinstance(summary, Mapping):
        return None
    scales = {axis: image.size(summary, "PixelSize_um") for axis in "XY"}
    scales["Z"] = image.size(summary, "z-step_um")
    scales["T"] = image.size(summary, "Interval_ms", 1 / 1000)
    colors = summary.get("ChColors") or ()
    names = summary.get("ChNames") or ()
    argb = [f"{n & 0xFFFFFF:06X}" if isinstance(n, int) else None for n in colors]
    channels = tuple(Channel(str(n), color) for n, color in zip_longest(names, argb[: len(names)]))
    listed = summary.get("StagePositions") or summary.get("InitialPositionList") or ()
    positions = [str(one.get("Label") or "") for one in listed if isinstance(one, Mapping)]
    title = str(summary.get("Prefix") or "")
    return calibrated(scales, channels=channels, name=title, position_names=positions or None)


def _ndtiff(record: Any, image: VendorImage) -> Calibration | None:
    plain = _micromanager(record, image)
    labels = record.get("Labels", {})
    if plain is None:
        return None
    if positions := labels.get("position"):
        plain = replace(plain, attributes={**plain.attributes, "position_names": [*positions]})
    channels = {channel.name: channel for channel in plain.channels}
    names = labels.get("channel") or channels
    return replace(plain, channels=tuple(channels.get(n, Channel(n)) for n in names))


def _scanimage(record: Any, image: VendorImage) -> Calibration | None:
    frame = record.get("FrameData") if isinstance(record, Mapping) else None
    if not isinstance(frame, Mapping):
        return _scanimage3(image)
    rate = image.size(frame, "SI.hRoiManager.scanVolumeRate")
    frame_rate = image.size(frame, "SI.hRoiManager.scanFrameRate")
    step = image.size(frame, "SI.hStackManager.actualStackZStepSize")
    scales = {
        "Z": step or image.size(frame, "SI.hStackManager.stackZStepSize"),
        "T": 1 / (rate or frame_rate) if rate or frame_rate else None,  # type: ignore[operator]
    }
    corners = frame.get("SI.hRoiManager.imagingFovUm")
    sizes = {"X": "SI.hRoiManager.pixelsPerLine", "Y": "SI.hRoiManager.linesPerFrame"}
    if isinstance(corners, list | tuple) and len(corners) == 4:
        for n, axis in enumerate("XY"):
            pixels = positive(frame.get(sizes[axis]))
            extent = max(c[n] for c in corners) - min(c[n] for c in corners)
            scales[axis] = positive(extent / pixels) if pixels else None
    numbers = _flat(frame.get("SI.hChannels.channelSave"))
    names = frame.get("SI.hChannels.channelName") or ()
    channels = tuple(
        Channel(str(names[int(n) - 1]) if int(n) <= len(names) else f"Channel {n}") for n in numbers
    )
    zoom = image.size(frame, "SI.hRoiManager.scanZoomFactor")
    return calibrated(scales, channels=channels, frame_rate=frame_rate, zoom=zoom)


def _flat(value: Any) -> list[Any]:
    """Flatten a MATLAB vector: a number, or a list of numbers or rows."""
    if not isinstance(value, list | tuple):
        return [] if value is None else [value]
    return [item for row in value for item in _flat(row)]


_STATE = re.compile(r"^\s*state\.([\w.]+)\s*=[ \t]*(.*?)[ \t;]*$", re.MULTILINE)


def _scanimage3(image: VendorImage) -> Calibration | None:
    """Parse `state.acq` of ScanImage 3 in ImageDescription."""
    text = image.description.replace("\r", "\n")
    state = {key: value.strip("'\"") for key, value in _STATE.findall(text)}
    if not any(key.startswith("acq.") for key in state):
        return None
    rate = image.size(state, "acq.frameRate")
    saved = [n for n in range(1, 9) if positive(state.get(f"acq.savingChannel{n}"))]
    n_saved = int(positive(state.get("acq.numberOfChannelsSave")) or len(saved))
    if len(saved) != n_saved:
        saved = list(range(1, min(n_saved, 8) + 1))
    return calibrated(
        {"T": 1 / rate if rate else None, "Z": image.size(state, "acq.zStepSize")},
        channels=tuple(Channel(f"Channel {n}") for n in saved),
        acquired=_us_time(state.get("internal.triggerTimeString", "")),
        frame_rate=rate,
        zoom=image.size(state, "acq.zoomFactor"),
    )


def _us_time(text: str) -> datetime.datetime | None:
    """Parse a local time of ScanImage: 6/20/2014 13:26:02.234."""
    decimals = ".%f" if "." in text else ""
    try:
        return datetime.datetime.strptime(text, f"%m/%d/%Y %H:%M:%S{decimals}")
    except ValueError:
        return None


_FLUOVIEW_AXES = {
    "X": "X", "Y": "Y", "Z": "Z", "T": "T", "TIME": "T", "CH": "C", "WAVELENGTH": "C",
    "XY": "R", "EVENT": "V", "EXPOSURE": "L",
}  # fmt: skip


def _fluoview(record: Any, image: VendorImage) -> Calibration | None:
    scales: dict[str, float | None] = {}
    units: dict[str, str | None] = {}
    seen: set[str | None] = {None}
    for name, size, _, step, unit in record.get("Dimensions", ()):
        axis = _FLUOVIEW_AXES.get(str(name).upper())
        if axis in seen and size > 1:
            image.report.add("FluoView dimensions", "unknown or repeated name", got=str(name))
        seen.add(axis)
        # without a unit, steps are in pixels
        if axis in ("X", "Y", "Z", "T") and to_unit(_plain_text(unit)) is not None:
            scales[axis], units[axis] = positive(step), to_unit(_plain_text(unit))
    return calibrated(scales, units, name=_plain_text(record.get("ImageName")))


def _sis(record: Any, image: VendorImage) -> Calibration | None:
    scales = {axis: image.size(record, f"pixelsize{axis.lower()}", 1e6) for axis in "XY"}
    info = record.get("Info", {})
    scales["Z"] = positive(info.get("StepZ"))
    moments = np.asarray(record.get("Time", {}).get("TimePos", ()), np.float64)
    times = tuple(((moments - moments[0]) / 1000).tolist()) if moments.size > 1 else ()
    channels = tuple(Channel(str(band.get("BandName", ""))) for band in record.get("Band", ()))
    return calibrated(
        scales,
        {"X": "micrometer", "Y": "micrometer", "Z": to_unit(info.get("UnitZ"))},
        channels=channels if any(channel.name for channel in channels) else (),
        times=times,
        name=_plain_text(record.get("name")),
        magnification=image.size(record, "magnification"),
    )


def _flimage(record: Any, image: VendorImage) -> Calibration | None:
    counts = (record.get("State.Acq.pixelsPerLine"), record.get("State.Acq.linesPerFrame"))
    if counts != (image.lengths.get("X"), image.lengths.get("Y")):
        what = "the counts of FLIMage do not match the pages, whose axes are unknown"
        image.report.add("State.Acq", what, got=counts)
        return Calibration()
    field = record.get("State.Acq.field_of_view")
    if not isinstance(field, list) or len(field) < 2:
        return None
    zoom = image.size(record, "State.Acq.zoom")
    if zoom is None and record.get("State.Acq.zoom") is not None:
        return Calibration()  # the field of view refers to zoom 1, and the zoom is invalid
    scales = {
        axis: positive(width / n / (zoom or 1.0))
        for axis, width, n in zip("XY", field[:2], counts, strict=True)
    }
    return calibrated(scales, zoom=zoom)


_NIH_UNITS = {0: "nm", 1: "um", 2: "mm", 3: "cm", 4: "m", 5: "km", 6: "inch", 7: "foot"}


def _nih(record: Any, image: VendorImage) -> Calibration | None:
    units = {**_NIH_UNITS, 10: record.get("XUnit")}
    unit = to_unit(_plain_text(units.get(record.get("UnitsID"))))
    per_unit = positive(record.get("XScale"))
    scales: dict[str, float | None] = {"T": image.size(record, "FrameInterval")}
    if per_unit is not None and unit is not None:
        scales["X"] = 1 / per_unit
        scales["Y"] = (positive(record.get("PixelAspectRatio")) or 1) / per_unit
        scales["Z"] = image.size(record, "SliceSpacing", 1 / per_unit)
    return calibrated(scales, unit)


# ---- slide scanners


def _slide(scales: Mapping[str, float | None], magnification: Any, **more: Any) -> Calibration:
    """Build the calibration of a slide; the magnification may be 20 or "20x"."""
    number = re.search(r"[\d.]+(?=\s*[xX]?\s*$)|[\d.]+(?=\s*[xX])", str(magnification or ""))
    is_positive = not str(magnification).startswith("-")
    value = positive(number[0]) if number and is_positive else None
    return calibrated(scales, magnification=value, **more)


def _aperio(record: Any, image: VendorImage) -> Calibration | None:
    items = dict(re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*?)\s*(?=\||$)", image.description))
    size = image.size(items, "MPP")
    return _slide(dict.fromkeys("XY", size), items.get("AppMag"))


def _scn(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record if isinstance(record, str) else image.description, "SCN XML")
    images = list(_elements(root, "image"))
    here = images[image.series.index : image.series.index + 1] or images
    objective = next((e.text for part in here for e in _elements(part, "objective")), None)
    name = here[0].get("name", "") if here else ""
    return _slide(image.scales, objective, name=name)


def _qpi(record: Any, image: VendorImage) -> Calibration | None:
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


def _philips(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record, "Philips XML")
    spacing = next((e.text for e in root.iter() if e.get("Name") == "DICOM_PIXEL_SPACING"), None)
    # the first one is that of the full-size level: rows, columns, in millimetres
    sizes = dict(zip("YX", (spacing or "").replace('"', "").split(), strict=False))
    if image.series.index or len(sizes) < 2:
        return resolution_sizes(image.tags, MAX_PLAIN_SIZE)
    key = "DICOM_PIXEL_SPACING"
    return _slide({axis: image.size({key: n}, key, 1000) for axis, n in sizes.items()}, None)


def _bif(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record or image.tags.get(_XMP), "Ventana XML in XMP (700)")
    scan = next(_elements(root, "iScan"), None)
    if scan is None or image.series.name.lower() != "baseline":
        return resolution_sizes(image.tags, MAX_PLAIN_SIZE)
    size = image.size(scan.attrib, "ScanRes")
    scales = dict.fromkeys("XY", size) if size else image.scales
    return _slide(scales, scan.get("Magnification"))


def _indica(record: Any, image: VendorImage) -> Calibration | None:
    root = image.parse(record or image.description, "IndicaLabs XML")
    channels = tuple(Channel(element.get("name", "")) for element in _elements(root, "channel"))
    is_stack = image.series.axes.startswith("C")
    return _slide(image.scales, _text(root, "objective"), channels=channels if is_stack else ())


def _trestle(record: Any, image: VendorImage) -> Calibration | None:
    # the resolution tags hold micrometres per pixel, against their definition
    sizes = {axis: rational(image.tags.get(tag)) for axis, tag in RESOLUTIONS}
    overlaps = re.search(r"OverlapsXY\s*=([^;\r\n]*)", image.description)
    n_levels = len(image.series.levels)
    if overlaps and image.series.index == 0 and len(overlaps[1].split()) != 2 * n_levels:
        what = f"not two numbers for each of {n_levels} levels"
        image.report.add("OverlapsXY", what, got=overlaps[1].strip())
    objective = re.search(r"Objective Name\s*=\s*([^;\r\n]*)", image.description)
    return _slide(sizes, objective and objective[1])


def _avs(record: Any, image: VendorImage) -> Calibration | None:
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


# ---- electrons, X-rays, gels


def _fei(record: Any, image: VendorImage) -> Calibration | None:
    scan = record.get("Scan")
    if not isinstance(scan, Mapping):
        return None
    keys = {"X": "PixelWidth", "Y": "PixelHeight"}
    scales = {axis: image.size(scan, key, 1e9) for axis, key in keys.items()}
    return calibrated(scales, "nanometer")


def _sem(record: Any, image: VendorImage) -> Calibration | None:
    size = record.get("ap_image_pixel_size")
    if not isinstance(size, tuple) or len(size) < 3:
        return None
    return calibrated(dict.fromkeys("XY", positive(size[1])), to_unit(str(size[2])))


def _tvips(record: Any, image: VendorImage) -> Calibration | None:
    scales = {axis: image.size(record, f"PixelSize{axis}") for axis in "XY"}
    magnification = image.size(record, "TemMagnification")
    return calibrated(scales, "nanometer", magnification=magnification)


def _eer(record: Any, image: VendorImage) -> Calibration | None:
    names = {"exposureTime": "exposure_time", "totalDose": "total_dose"}
    numbers = {name: record.get(key) for key, name in names.items()}
    attributes = {key: n for key, n in numbers.items() if isinstance(n, int | float)}
    return Calibration(attributes=attributes)


def _pilatus(record: Any, image: VendorImage) -> Calibration | None:
    size = record.get("Pixel_size")
    if not isinstance(size, tuple) or len(size) != 2:
        return None
    scales = {axis: (positive(n) or 0) * 1e6 or None for axis, n in zip("XY", size, strict=True)}
    return calibrated(scales, exposure_time=image.size(record, "Exposure_time"))


def _mdgel(record: Any, image: VendorImage) -> Calibration | None:
    kind, scale = record.get("FileTag"), record.get("ScalePixel")
    if kind not in (2, 128) or not scale or not scale[0]:
        what = "the samples have no calibration: they are those that are stored"
        image.report.add("MD_FILETAG and MD_SCALEPIXEL", what, got=f"{kind}, {scale}")
    units = _plain_text(record.get("FileUnits"))
    return replace(resolution_sizes(image.tags), attributes={"units": units} if units else {})


READERS: Mapping[str, Callable[[Any, VendorImage], Calibration | None]] = {
    "ome": _ome,
    "lsm": _lsm,
    "ndtiff": _ndtiff,
    "micromanager": _micromanager,
    "scanimage": _scanimage,
    "imagej": _imagej,
    "metaseries": _metaseries,
    "stk": _stk,
    "svs": _aperio,
    "mikroscan": _aperio,
    "motic": _aperio,
    "huron": lambda record, image: resolution_sizes(image.tags),
    "ndpi": lambda record, image: _slide(image.scales, image.tags.get(_MAGNIFICATION)),
    "scn": _scn,
    "bif": _bif,
    "philips": _philips,
    "qpi": _qpi,
    "indica": _indica,
    "trestle": _trestle,
    "avs": _avs,
    "fluoview": _fluoview,
    "sis": _sis,
    "nih": _nih,
    "fei": _fei,
    "sem": _sem,
    "tvips": _tvips,
    "eer": _eer,
    "pilatus": _pilatus,
    "mdgel": _mdgel,
    "flimage": _flimage,
}
"""Readers by format, from its metadata. Of those that match a file, the first result counts."""
_NEED_MAPPING = frozenset(
    (_lsm, _ndtiff, _micromanager, _imagej, _metaseries, _stk, _fluoview, _sis, _nih, _fei, _sem,
     _tvips, _eer, _pilatus, _mdgel, _flimage)
)  # fmt: skip
"""Readers that need a mapping parsed by the scanner, and use nothing else of the file."""
