"""What a microscope's metadata says, in one form for all makers.

Owns the record of pixel sizes, channels and times of one image, and the names of units. Reading
makers' metadata is for `ome` and `microscopes`; writing it for `ngff`.

Reference: OME-NGFF 0.4, "axes" metadata, for names of units (UDUNITS-2).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Calibration", "Channel", "color_hex", "positive", "to_unit"]


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
        When the image was taken.
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
    """Give a number that can be a distance: finite and greater than 0; else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def color_hex(rgb: Any) -> str | None:
    """Give (red, green, blue) of 0 to 255 as RRGGBB."""
    try:
        red, green, blue = (int(n) & 0xFF for n in tuple(rgb)[:3])
    except (TypeError, ValueError):
        return None
    return f"{red:02X}{green:02X}{blue:02X}"
