"""Metadata of confocal and electron microscopes, and of other instruments: a reader for each.

Owns what their records, parsed by the scanner into plain mappings, say about sizes, channels and
times.

References: FluoView and SIS records as tifffile knows them, for there is no public description; NIH
Image's header in "About NIH Image"; FEI/ThermoFisher EER format; TVIPS EMMENU 4 header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..model.facts import SeriesFacts
from .calibration import (
    MICROMETERS,
    Calibration,
    Channel,
    Reader,
    Tags,
    calibrated,
    plain_sizes,
    positive,
    to_unit,
)
from .report import Report

__all__ = ["INSTRUMENT_READERS"]

_FLUOVIEW_AXES = {"X": "X", "Y": "Y", "Z": "Z", "T": "T", "TIME": "T"}
_NIH_UNITS = {0: "nm", 1: "um", 2: "mm", 3: "cm", 4: "m", 5: "km", 6: "inch", 7: "foot"}
_NIH_OWN_UNIT = 10
_MICRO = 1e6


def _fluoview(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    scales: dict[str, float | None] = {}
    units: dict[str, str | None] = {}
    for name, _, _, step, unit in found.get("Dimensions", ()):
        axis = _FLUOVIEW_AXES.get(str(name).upper())
        # without a unit, steps count pixels
        if axis is not None and to_unit(_plain_text(unit)) is not None:
            scales[axis], units[axis] = positive(step), to_unit(_plain_text(unit))
    return calibrated(scales, units, name=_plain_text(found.get("ImageName")))


def _plain_text(text: Any) -> str:
    return str(text or "").strip("\0 ")


def _sis(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    scales: dict[str, float | None] = {}
    for axis in "XY":
        size = positive(found.get(f"pixelsize{axis.lower()}"))
        scales[axis] = size and size * _MICRO
    units: dict[str, str | None] = dict(MICROMETERS)
    info = found.get("Info", {})
    scales["Z"], units["Z"] = positive(info.get("StepZ")), to_unit(info.get("UnitZ"))
    moments = np.asarray(found.get("Time", {}).get("TimePos", ()), np.float64)
    times = tuple(((moments - moments[0]) / 1000).tolist()) if moments.size > 1 else ()
    channels = tuple(Channel(str(one.get("BandName", ""))) for one in found.get("Band", ()))
    magnification = positive(found.get("magnification"))
    return calibrated(
        scales,
        units,
        channels if any(channel.name for channel in channels) else (),
        times=times,
        name=_plain_text(found.get("name")),
        attributes={} if magnification is None else {"magnification": magnification},
    )


def _nih(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    code = found.get("UnitsID")
    text = found.get("XUnit") if code == _NIH_OWN_UNIT else _NIH_UNITS.get(code)  # type: ignore[arg-type]
    per_unit, unit = positive(found.get("XScale")), to_unit(_plain_text(text))
    scales: dict[str, float | None] = {"T": positive(found.get("FrameInterval"))}
    if per_unit is not None and unit is not None:
        spacing = positive(found.get("SliceSpacing"))
        scales["X"] = 1 / per_unit
        scales["Y"] = (positive(found.get("PixelAspectRatio")) or 1) / per_unit
        scales["Z"] = spacing and spacing / per_unit
    return calibrated(scales, {**dict.fromkeys("XYZ", unit), "T": "second"})


def _fei(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    scan = found.get("Scan") if isinstance(found, Mapping) else None
    if not isinstance(scan, Mapping):
        return None
    scales = {}
    for axis, key in (("X", "PixelWidth"), ("Y", "PixelHeight")):
        size = positive(scan.get(key))
        scales[axis] = None if size is None else size * 1e9
    return calibrated(scales, dict.fromkeys("XY", "nanometer"))


def _sem(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    size = found.get("ap_image_pixel_size") if isinstance(found, Mapping) else None
    if not isinstance(size, tuple) or len(size) < 3:
        return None
    unit = to_unit(str(size[2]))
    return calibrated(dict.fromkeys("XY", positive(size[1])), dict.fromkeys("XY", unit))


def _tvips(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    scales = {axis: positive(found.get(f"PixelSize{axis}")) for axis in "XY"}
    magnification = positive(found.get("TemMagnification"))
    attributes = {} if magnification is None else {"magnification": magnification}
    return calibrated(scales, dict.fromkeys("XY", "nanometer"), attributes=attributes)


def _eer(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    attributes = {
        name: found[key]
        for key, name in (("exposureTime", "exposure_time"), ("totalDose", "total_dose"))
        if isinstance(found.get(key), int | float)
    }
    return Calibration(attributes=attributes)


def _pilatus(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    size = found.get("Pixel_size") if isinstance(found, Mapping) else None
    if not isinstance(size, tuple) or len(size) != 2:
        return None
    scales = {axis: (positive(n) or 0) * _MICRO or None for axis, n in zip("XY", size, strict=True)}
    exposure = positive(found.get("Exposure_time"))
    attributes = {} if exposure is None else {"exposure_time": exposure}
    return calibrated(scales, MICROMETERS, attributes=attributes)


def _mdgel(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    if not isinstance(found, Mapping):
        return None
    units = _plain_text(found.get("FileUnits"))
    plain = plain_sizes(tags)
    return calibrated(plain.scales, plain.units, attributes={"units": units} if units else {})


def _flimage(found: Any, series: SeriesFacts, tags: Tags, report: Report) -> Calibration | None:
    field = found.get("State.Acq.field_of_view") if isinstance(found, Mapping) else None
    if not isinstance(field, list) or len(field) < 2:
        return None
    counts = (found.get("State.Acq.pixelsPerLine"), found.get("State.Acq.linesPerFrame"))
    sizes = [positive(width / n) for width, n in zip(field[:2], counts, strict=True)]
    return calibrated(dict(zip("XY", sizes, strict=True)), MICROMETERS)


INSTRUMENT_READERS: Mapping[str, Reader] = {
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
"""Readers by flavour."""
