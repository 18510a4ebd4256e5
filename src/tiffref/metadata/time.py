"""When an image was taken or made.

Owns the dates in names of satellite products, in TIFF tags and in metadata items, and how a date
becomes a CF coordinate.

References: CF conventions, section 4.4; TIFF 6.0, DateTime (306); naming rules of Landsat
Collection 2 and of Sentinel-1, -2 and -3 products (ESA).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..model.array import Array

__all__ = [
    "acquired_from_items",
    "acquired_from_name",
    "created_from_tag",
    "iso_text",
    "parse_date",
    "read_time_coordinate",
    "time_coordinate",
]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_STEPS = {
    "seconds": datetime.timedelta(seconds=1),
    "milliseconds": datetime.timedelta(milliseconds=1),
    "microseconds": datetime.timedelta(microseconds=1),
}
"""Units of time coordinates, the coarsest first."""

_NAMES = (
    # S2A_MSIL2A_20220505T101601_..., S1A_IW_GRDH_1SDV_20220505T...; T32UPU_20220505T..._B04
    re.compile(r"(?:^|[/_])(?:S[123][A-D]_|T\d\d[A-Z]{3}_)(?:[^/]*?_)??(\d{8}T\d{6})"),
    # S2A_32UPU_20220505_0_L2A, as the cloud-optimized collections have it
    re.compile(r"(?:^|[/_])S2[A-D]_\d{1,2}[A-Z]{3}_(\d{8})_"),
    # LC08_L2SP_193024_20220505_20220511_02_T1_SR_B4
    re.compile(r"(?:^|/)L[COTEM]0\d_L\d[A-Z]{2}_\d{6}_(\d{8})_"),
)
"""File and folder names of products: the date is when the data were taken, not processed."""
_DATE = re.compile(r"\d{8}")

_ITEMS = ("ACQUISITIONDATETIME", "ACQUISITION_DATE_TIME", "DATATAKE_1_DATATAKE_SENSING_START",
          "PRODUCT_START_TIME", "time_coverage_start")  # fmt: skip


def acquired_from_name(url: str) -> datetime.datetime | None:
    """Read when the data of a satellite product were taken from its file or folder name.

    Examples
    --------
    >>> acquired_from_name("LC08_L2SP_193024_20220505_20220511_02_T1_SR_B4.TIF").isoformat()
    '2022-05-05T00:00:00+00:00'
    """
    for part in reversed(url.split("/")[-4:]):
        for pattern in _NAMES if _DATE.search(part) else ():
            found = pattern.search(part)
            if found:
                return _parse(found.group(1))
    return None


def acquired_from_items(items: Mapping[str, str]) -> datetime.datetime | None:
    """Read when the data were taken from GDAL metadata items."""
    for name in _ITEMS:
        date = _parse(items[name]) if name in items else None
        if date is not None:
            return date
    return None


def created_from_tag(value: Any) -> str | None:
    """Read DateTime (tag 306) as an ISO 8601 text without zone, which TIFF does not know.

    It says when the file was made; most writers mean the writing, not the taking of the picture.
    """
    if not isinstance(value, str):
        return None
    found = re.match(r"\s*(\d{4})[:\-/](\d\d)[:\-/](\d\d)[ T](\d\d):(\d\d):(\d\d)", value)
    if not found:
        return None
    date = parse_date("{}-{}-{}T{}:{}:{}".format(*found.groups()))
    return None if date is None else date.isoformat()


def iso_text(date: datetime.datetime) -> str:
    """Return ISO 8601 text, with as many decimals of a second as needed: none, three or six.

    >>> iso_text(datetime.datetime(2023, 4, 1, 12, 34, 56, 789000))
    '2023-04-01T12:34:56.789'
    """
    is_exact_in_ms = date.microsecond and not date.microsecond % 1000
    return date.isoformat(timespec="milliseconds" if is_exact_in_ms else "auto")


def time_coordinate(date: datetime.datetime) -> Array:
    """Build a scalar CF time coordinate, as exact as the date; a local one says so."""
    has_zone = date.tzinfo is not None
    since = (date if has_zone else date.replace(tzinfo=datetime.UTC)) - _EPOCH
    name, step = next(row for row in _STEPS.items() if not since % row[1])
    return Array.from_values(
        np.int64(since // step),
        (),
        {
            "standard_name": "time",
            "long_name": "time of acquisition",
            "units": f"{name} since 1970-01-01",
            "calendar": "proleptic_gregorian",
            **({} if has_zone else {"comment": "local time: the file names no time zone"}),
        },
    )


def read_time_coordinate(units: str, value: int) -> datetime.datetime | None:
    """Return the moment, in UTC, of a value of `time_coordinate`; None for units of others."""
    name, _, epoch = units.partition(" since ")
    if name not in _STEPS or not epoch.startswith("1970-01-01"):
        return None
    try:
        return _EPOCH + value * _STEPS[name]
    except OverflowError:
        return None


def _parse(text: str) -> datetime.datetime | None:
    """Read a date that is in UTC where it names no zone."""
    date = parse_date(text)
    return date.replace(tzinfo=datetime.UTC) if date and date.tzinfo is None else date


def parse_date(text: str | None) -> datetime.datetime | None:
    """Read an ISO 8601 date and time; it has a zone only where the text has one."""
    try:
        return datetime.datetime.fromisoformat((text or "").strip().strip("\0"))
    except ValueError:
        return None
