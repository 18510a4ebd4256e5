"""What a microscope's metadata says, in one form for all makers.

Owns the record of pixel sizes, channels and times of one image, and the names of units. Reading
makers' metadata is for `ome` and `microscopy`; writing it for `ngff`.

Reference: OME-NGFF 0.4, "axes" metadata, for names of units (UDUNITS-2).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "X_RESOLUTION",
    "Y_RESOLUTION",
    "Calibration",
    "Channel",
    "Tags",
    "calibrated",
    "color_hex",
    "plain_sizes",
    "positive",
    "rational",
    "to_unit",
]

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
_RESOLUTION_UNITS = {2: 25400.0, 3: 10000.0}
"""Micrometres in a ResolutionUnit (tag 296): inch, centimetre."""

Tags = Mapping[int, Any]
"""Tags of an IFD, by number."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: its name, its colour as RRGGBB, and (start, end) of its display window."""

    name: str = ""
    color: str | None = None
    window: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Sizes, channels and times of one image.

    Attributes
    ----------
    scales
        Distance between neighbours along an axis, by its letter: Z, Y, X, T.
    units
        Unit of an axis, by its letter, in the names of OME-NGFF ("micrometer", "second").
    channels
        One for each index of the channel axis.
    times
        When each time point was taken, in the unit of T, where they are not evenly spaced.
    acquired
        When the image was taken; without a zone where the file names none.
    name
        Of the image.
    attributes
        What else readers may want to know, as JSON values: magnification, position of the stage.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()
    times: tuple[float, ...] = ()
    acquired: datetime.datetime | None = None
    name: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


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
    """Build a calibration without the sizes and attributes that are not known.

    One unit is that of all axes in space; time is in seconds then.
    """
    if units is None or isinstance(units, str):
        units = {**dict.fromkeys("XYZ", units), "T": "second"}
    known = {axis: scale for axis, scale in scales.items() if scale is not None}
    named = {axis: unit for axis, unit in units.items() if unit is not None and axis in known}
    if times:
        named.setdefault("T", units.get("T") or "second")
    attributes = {key: value for key, value in attributes.items() if value not in (None, "")}
    return Calibration(known, named, channels, times, acquired, name, attributes)


def plain_sizes(tags: Tags, largest: float = 1e9) -> Calibration:
    """Read the size of pixels from the resolution tags; sizes over `largest` µm count as none."""
    code = tags.get(RESOLUTION_UNIT, 2)
    unit = _RESOLUTION_UNITS.get(code) if isinstance(code, int) else None
    scales = {}
    for axis, tag in (("X", X_RESOLUTION), ("Y", Y_RESOLUTION)):
        per_unit = rational(tags.get(tag))
        if unit is not None and per_unit is not None and unit / per_unit <= largest:
            scales[axis] = unit / per_unit
    if len(scales) != 2:
        return Calibration()
    return Calibration(scales, dict.fromkeys(scales, "micrometer"))


def rational(value: Any) -> float | None:
    """Return a positive number that a tag has as numerator and denominator, or as it is."""
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
    "s": "second", "sec": "second", "second": "second", "seconds": "second",
    "ms": "millisecond", "msec": "millisecond", "millisecond": "millisecond",
    "us": "microsecond", "µs": "microsecond", "microsecond": "microsecond",
    "ns": "nanosecond", "nanosecond": "nanosecond",
    "min": "minute", "minute": "minute", "minutes": "minute",
    "h": "hour", "hour": "hour", "hours": "hour", "d": "day", "day": "day", "days": "day",
}  # fmt: skip
"""What writers call units, and what OME-NGFF calls them; None for no unit at all."""


def to_unit(text: Any) -> str | None:
    """Name a unit as OME-NGFF does; None if it is unknown, or none."""
    if not isinstance(text, str):
        return None
    # ImageJ writes the micro sign as an escape; Greek mu and micro sign are two characters
    plain = text.replace("\\u00B5", "µ").replace("\u03bc", "µ").replace("\u212b", "å")
    return _UNITS.get(plain.strip().strip("\0").lower())


def positive(value: Any) -> float | None:
    """Return a number that can be a distance: finite and greater than 0; else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def color_hex(rgb: Any) -> str | None:
    """Return (red, green, blue) of 0 to 255 as RRGGBB."""
    try:
        red, green, blue = (int(n) & 0xFF for n in tuple(rgb)[:3])
    except (TypeError, ValueError):
        return None
    return f"{red:02X}{green:02X}{blue:02X}"
