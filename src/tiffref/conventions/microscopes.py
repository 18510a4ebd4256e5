"""Metadata of light microscopes, and the choice among all flavours: one reader for each.

Owns what the flavours' metadata, parsed by the scanner into plain mappings, says about sizes,
channels and times. A new flavour is a function and a row in `READERS`, or in those of `slides` and
`instruments`.

References: ImageJ's `TiffDecoder` and `FileInfo`; Zeiss LSM 5 image format; MetaMorph Stack format;
Micro-Manager wiki, "Files on disk"; ScanImage manual, "BigTiff specification".
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..model.facts import FileFacts, LevelFacts, SeriesFacts
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
    to_unit,
)
from .instruments import INSTRUMENT_READERS
from .ome import parse_date, parse_ome
from .report import Report
from .slides import SLIDE_READERS

__all__ = ["calibrate"]

_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
MAX_PLAIN_SIZE = 25.4
"""Micrometres: resolutions coarser than 1000 per inch are, in files of no known instrument, those
of a screen or printer (72, 96, 300) rather than of what is in the picture."""

_MAX_CHANNELS = 1 << 16
"""Channels that are believed where the size of the image is not known."""


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
    return plain_sizes(tags, MAX_PLAIN_SIZE)


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
            per_unit = rational(tags.get(tag))
            scales[axis] = None if per_unit is None else 1 / per_unit
    n_channels = int(positive(found.get("channels")) or 1)
    full = series.levels[0] if series.levels else None
    most = max(full.shape, default=1) if isinstance(full, LevelFacts) else _MAX_CHANNELS
    if n_channels > most:
        return calibrated(scales, units)  # more channels than there is of anything
    return calibrated(scales, units, _imagej_channels(found, n_channels))


def _imagej_channels(found: Mapping[str, Any], n_channels: int) -> tuple[Channel, ...]:
    labels = [str(label) for label in found.get("Labels") or ()]
    ranges = list(found.get("Ranges") or ())
    luts = found.get("LUTs") or ()
    if not labels and not ranges and not len(luts):
        return ()  # tifffile calls each of 100,000 planes a channel
    names = []
    for n in range(n_channels):
        # labels are per plane, channels innermost; one that all planes of a channel share names it
        own = set(labels[n::n_channels])
        names.append(own.pop() if len(own) == 1 else "")
    if n_channels == 1 and len(labels) < 2:
        names = [""]
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
    return calibrated(scales, MICROMETERS, channels, times=times)


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
    return calibrated(scales, dict.fromkeys("XYZ", unit), name=name, times=_stk_times(found))


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
    return calibrated(scales, MICROMETERS, channels, name=str(summary.get("Prefix") or ""))


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
    return calibrated(scales, MICROMETERS, channels)


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
    return calibrated(
        scales, dict.fromkeys("XY", unit), (Channel(name),) if name else (),
        acquired=parse_date(taken), attributes=attributes,
    )  # fmt: skip


def _metamorph_date(text: Any) -> str | None:
    # 20230401 12:34:56.789
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d) (\d\d:\d\d:\d\d)(\.\d+)?", str(text or "").strip())
    return f"{found[1]}-{found[2]}-{found[3]}T{found[4]}" if found else None


READERS: Mapping[str, Reader] = {
    "ome": _ome,
    "lsm": _lsm,
    "ndtiff": _ndtiff,
    "micromanager": _micromanager,
    "scanimage": _scanimage,
    "imagej": _imagej,
    "metaseries": _metaseries,
    "stk": _stk,
    **SLIDE_READERS,
    **INSTRUMENT_READERS,
}
"""Readers by flavour, the most telling first: a file may be of several."""
