"""Metadata of microscopes and slide scanners: one reader for each flavour.

Owns what the flavours' metadata, parsed by the scanner into plain mappings, says about sizes,
channels and times. A new flavour is a function and a row in `READERS`.

References: ImageJ's `TiffDecoder` and `FileInfo`; Zeiss LSM 5 image format; MetaMorph Stack format;
Micro-Manager wiki, "Files on disk"; ScanImage manual, "BigTiff specification"; Aperio and Hamamatsu
formats as OpenSlide documents them.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..model.facts import FileFacts, SeriesFacts
from .calibration import Calibration, Channel, color_hex, positive, to_unit
from .ome import parse_date, parse_ome
from .report import Report
from .xml import XmlError, local_name, parse_xml

__all__ = ["calibrate"]

Tags = Mapping[int, Any]

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
_MICROMETERS = {2: 25400.0, 3: 10000.0}
"""Length of ResolutionUnit (tag 296): inch, centimetre."""
_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
MAX_PLAIN_SIZE = 25.4
"""Micrometres: resolutions coarser than 1000 per inch are, in files of no known instrument, those
of a screen or printer (72, 96, 300) rather than of what is in the picture."""


def calibrate(facts: FileFacts, series: SeriesFacts, tags: Tags, report: Report) -> Calibration:
    """Read the calibration of one series from the metadata of the file's flavour.

    Parameters
    ----------
    facts
        Of the file.
    series
        The series; its kind and index select among several descriptions.
    tags
        Of the series' first IFD.
    report
        Takes what makes no sense.
    """
    for flavour, read in READERS.items():
        if flavour in facts.metadata or flavour in facts.flags:
            try:
                found = read(facts.metadata.get(flavour), series, tags, report)
            except _NONSENSE as error:
                # makers change their formats; a value of another kind must not cost the pixels
                report.add(f"{flavour} metadata", "is not as expected", got=repr(error))
                continue
            if found is not None:
                return found
    return _resolution(tags, MAX_PLAIN_SIZE)


def _resolution(tags: Tags, largest: float = 1e9) -> Calibration:
    """Read the resolution tags."""
    code = tags.get(RESOLUTION_UNIT, 2)
    unit = _MICROMETERS.get(code) if isinstance(code, int) else None
    scales = {}
    for axis, tag in (("X", X_RESOLUTION), ("Y", Y_RESOLUTION)):
        per_unit = _rational(tags.get(tag))
        if unit is not None and per_unit is not None and unit / per_unit <= largest:
            scales[axis] = unit / per_unit
    if len(scales) != 2:
        return Calibration()
    return Calibration(scales, dict.fromkeys(scales, "micrometer"))


def _rational(value: Any) -> float | None:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        value = value[0] / value[1]
    return positive(value) if isinstance(value, int | float) else None


# ---- flavours


def _ome(text: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    images = parse_ome(text, report) if isinstance(text, str) else []
    named = [image for image in images if image.name == series.name]
    if series.index < len(images) and (images[series.index] in named or not named):
        return images[series.index]
    return named[0] if named else (images[0] if images else None)


def _imagej(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    scales: dict[str, float | None] = {
        "Z": positive(found.get("spacing")), "T": positive(found.get("finterval"))
    }  # fmt: skip
    unit = to_unit(found.get("unit"))
    units: dict[str, str | None] = dict.fromkeys("ZYX", unit)
    units["T"] = to_unit(found.get("tunit")) or "second"
    if unit is not None:
        for axis, tag in (("X", X_RESOLUTION), ("Y", Y_RESOLUTION)):
            per_unit = _rational(tags.get(tag))
            scales[axis] = None if per_unit is None else 1 / per_unit
    n_channels = int(positive(found.get("channels")) or 1)
    return _made(scales, units, _imagej_channels(found, n_channels))


def _imagej_channels(found: Mapping[str, Any], n_channels: int) -> tuple[Channel, ...]:
    labels = [str(label) for label in found.get("Labels") or ()]
    names = []
    for n in range(n_channels):
        # labels are per plane, channels innermost; one that all planes of a channel share names it
        own = set(labels[n::n_channels])
        names.append(own.pop() if len(own) == 1 else "")
    if n_channels == 1 and len(labels) < 2:
        names = [""]
    ranges = list(found.get("Ranges") or ())
    luts = found.get("LUTs") or ()
    channels = []
    for n, name in enumerate(names):
        window = tuple(float(v) for v in ranges[2 * n : 2 * n + 2])
        color = None
        if n < len(luts) and getattr(luts[n], "shape", ())[:1] == (3,):
            color = color_hex(luts[n][:, -1])
        channels.append(Channel(name, color, window if len(window) == 2 else None))  # type: ignore[arg-type]
    return tuple(channels) if any(c != Channel() for c in channels) else ()


def _lsm(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    scales = {}
    for axis in "XYZ":
        size = positive(found.get(f"VoxelSize{axis}"))
        scales[axis] = None if size is None else size * 1e6
    scales["T"] = positive(found.get("TimeIntervall"))
    colors = found.get("ChannelColors") or {}
    names, rgb = (list(colors.get(key) or ()) for key in ("ColorNames", "Colors"))
    channels = tuple(
        Channel(str(name), color_hex(rgb[n]) if n < len(rgb) else None)
        for n, name in enumerate(names)
    )
    stamps = found.get("TimeStamps")
    times = () if stamps is None or len(stamps) < 2 else tuple(float(t - stamps[0]) for t in stamps)
    return _made(scales, _MICRO, channels, times=times)


def _stk(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping) or not found.get("SpatialCalibration"):
        return None
    unit = to_unit(found.get("CalibrationUnits"))
    scales = {"X": positive(found.get("XCalibration")), "Y": positive(found.get("YCalibration"))}
    distances = list(found.get("ZDistance", ()))[1:]
    if len(set(distances)) == 1:
        scales["Z"] = positive(distances[0])
    name = str(found.get("Name") or "").strip("\0")
    if unit is None:
        return None
    return _made(scales, dict.fromkeys("XYZ", unit), name=name, times=_stk_times(found))


def _stk_times(found: Mapping[str, Any]) -> tuple[float, ...]:
    """Give seconds since the first plane, where each plane has a time of its own."""
    moments = found.get("DatetimeCreated")
    if moments is None or len(set(moments.tolist())) < len(moments):
        return ()
    return tuple((moments - moments[0]).astype("timedelta64[ns]").astype(float) / 1e9)


def _micromanager(
    found: Any, series: SeriesFacts, tags: Tags, report: Report
) -> Calibration | None:
    summary = found.get("Summary") if isinstance(found, Mapping) else None
    if not isinstance(summary, Mapping):
        return None
    interval = positive(summary.get("Interval_ms"))
    scales = {
        "X": positive(summary.get("PixelSize_um")),
        "Y": positive(summary.get("PixelSize_um")),
        "Z": positive(summary.get("z-step_um")),
        "T": None if interval is None else interval / 1000,
    }
    colors = summary.get("ChColors") or ()
    names = summary.get("ChNames") or ()
    channels = tuple(
        Channel(str(name), _argb(colors[n]) if n < len(colors) else None)
        for n, name in enumerate(names)
    )
    return _made(scales, _MICRO, channels, name=str(summary.get("Prefix") or ""))


def _ndtiff(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    plain = _micromanager(found, series, tags, report)
    names = found.get("Labels", {}).get("channel", ()) if isinstance(found, Mapping) else ()
    if plain is None or not names:
        return plain
    known = {channel.name: channel for channel in plain.channels}
    return replace(plain, channels=tuple(known.get(n, Channel(n)) for n in names))


def _argb(value: Any) -> str | None:
    return f"{int(value) & 0xFFFFFF:06X}" if isinstance(value, int) else None


def _scanimage(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    frame = found.get("FrameData") if isinstance(found, Mapping) else None
    if not isinstance(frame, Mapping):
        return None
    rate = positive(frame.get("SI.hRoiManager.scanVolumeRate"))
    rate = rate or positive(frame.get("SI.hRoiManager.scanFrameRate"))
    step = frame.get("SI.hStackManager.actualStackZStepSize")
    scales = {
        "Z": positive(step) or positive(frame.get("SI.hStackManager.stackZStepSize")),
        "T": None if rate is None else 1 / rate,
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
    return _made(scales, _MICRO, channels)


def _flat(value: Any) -> list[Any]:
    """Give the items of a vector of MATLAB: a number, or a list of numbers or of rows."""
    if not isinstance(value, list | tuple):
        return [] if value is None else [value]
    return [item for row in value for item in _flat(row)]


def _metaseries(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    plane = found.get("PlaneInfo") if isinstance(found, Mapping) else None
    if not isinstance(plane, Mapping) or not plane.get("spatial-calibration-state"):
        return None
    unit = to_unit(str(plane.get("spatial-calibration-units") or ""))
    scales = {axis: positive(plane.get(f"spatial-calibration-{axis.lower()}")) for axis in "XY"}
    attributes = {
        name: plane[key]
        for key, name in (
            ("stage-position-x", "stage_position_x"),
            ("stage-position-y", "stage_position_y"),
            ("z-position", "stage_position_z"),
            ("_MagSetting_", "magnification_setting"),
            ("stage-label", "stage_label"),
        )
        if isinstance(plane.get(key), int | float | str)
    }
    taken = plane.get("acquisition-time-local")
    if isinstance(taken, datetime.datetime):
        taken = taken.isoformat()
    else:
        taken = _metamorph_date(taken)
    name = str(plane.get("image-name") or "")
    return _made(
        scales, dict.fromkeys("XY", unit), (Channel(name),) if name else (),
        acquired=parse_date(taken), attributes=attributes,
    )  # fmt: skip


def _metamorph_date(text: Any) -> str | None:
    # 20230401 12:34:56.789
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d) (\d\d:\d\d:\d\d)(\.\d+)?", str(text or "").strip())
    return f"{found[1]}-{found[2]}-{found[3]}T{found[4]}" if found else None


def _fei(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    scan = found.get("Scan") if isinstance(found, Mapping) else None
    if not isinstance(scan, Mapping):
        return None
    scales = {}
    for axis, key in (("X", "PixelWidth"), ("Y", "PixelHeight")):
        size = positive(scan.get(key))
        scales[axis] = None if size is None else size * 1e9
    return _made(scales, dict.fromkeys("XY", "nanometer"))


def _sem(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    size = found.get("ap_image_pixel_size") if isinstance(found, Mapping) else None
    if not isinstance(size, tuple) or len(size) < 3:
        return None
    return _made(dict.fromkeys("XY", positive(size[1])), dict.fromkeys("XY", to_unit(str(size[2]))))


def _svs(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    items = dict(re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*?)\s*(?=\||$)", str(tags.get(270) or "")))
    size = positive(items.get("MPP"))
    attributes = {}
    magnification = positive(items.get("AppMag"))
    if magnification is not None:
        attributes["magnification"] = magnification
    return _made(dict.fromkeys("XY", size), _MICRO, attributes=attributes)


def _ndpi(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    plain = _resolution(tags)
    magnification = positive(tags.get(65421))
    attributes = {} if magnification is None else {"magnification": magnification}
    return _made(plain.scales, plain.units, attributes=attributes)


def _scn(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    try:
        root = parse_xml(found if isinstance(found, str) else str(tags.get(270) or ""))
    except XmlError as error:
        report.add("SCN XML in ImageDescription (270)", "is not valid XML", got=error)
        return _resolution(tags)
    objective = next((e for e in root.iter() if local_name(e) == "objective"), None)
    magnification = positive(objective.text) if objective is not None else None
    plain = _resolution(tags)
    attributes = {} if magnification is None else {"magnification": magnification}
    return _made(plain.scales, plain.units, attributes=attributes)


def _slide(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    return _resolution(tags)


def _made(
    scales: Mapping[str, float | None],
    units: Mapping[str, str | None],
    channels: tuple[Channel, ...] = (),
    **more: Any,
) -> Calibration:
    """Build a calibration without the sizes that are not known."""
    known = {axis: scale for axis, scale in scales.items() if scale is not None}
    named = {axis: unit for axis, unit in units.items() if unit is not None and axis in known}
    if more.get("times"):
        named.setdefault("T", units.get("T") or "second")
    return Calibration(known, named, channels, **more)


_MICRO = {"X": "micrometer", "Y": "micrometer", "Z": "micrometer", "T": "second"}

READERS: Mapping[str, Callable[[Any, SeriesFacts, Tags, Report], Calibration | None]] = {
    "ome": _ome,
    "lsm": _lsm,
    "ndtiff": _ndtiff,
    "micromanager": _micromanager,
    "scanimage": _scanimage,
    "imagej": _imagej,
    "metaseries": _metaseries,
    "stk": _stk,
    "svs": _svs,
    "ndpi": _ndpi,
    "scn": _scn,
    "bif": _slide,
    "philips": _slide,
    "qpi": _slide,
    "fei": _fei,
    "sem": _sem,
}
"""Readers by flavour, the most telling first: a file may be of several."""
