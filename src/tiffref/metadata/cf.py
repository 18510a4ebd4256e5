"""CF coordinates: grid mapping, x and y, and time.

Builds the `spatial_ref` variable and the attributes of `x` and `y` from a CRS (`crs`) and a
placement (`geokeys`), and compresses long coordinates. Also finds the acquisition time of an image
in names of satellite products, TIFF tags and metadata items.

References: CF conventions 1.11, sections 4, 5.6 and appendix F; GDAL's netCDF driver for
`GeoTransform` and `spatial_ref`; rioxarray for `gcps`; TIFF 6.0, DateTime (306); naming rules of
Landsat Collection 2, HLS, MODIS, VIIRS and IMERG (USGS, NASA), Sentinel-1, -2 and -3 (ESA), GOES
(NOAA), PlanetScope, NAIP and CHIRPS.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.array import Array
from .geokeys import Affine, Placement

if TYPE_CHECKING:
    from pyproj import CRS


class System:
    """A CRS in the forms of CF and GeoZarr, each computed on first use.

    `height_unit` is the unit of heights, which are the samples of such a raster; "" without any.
    """

    def __init__(self, crs: CRS, height_unit: str = "") -> None:
        self.crs = crs
        self.height_unit = height_unit

    @functools.cached_property
    def _wkt(self) -> str:
        return self.crs.to_wkt()

    @functools.cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The CF grid mapping: WKT, and parameters if CF has names for them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parameters without a CF name are in the WKT
            try:
                parameters = self.crs.to_cf()
            except (KeyError, ValueError, AttributeError, TypeError):
                parameters = {}
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in parameters.items()
        }
        return {**plain, "crs_wkt": self._wkt, "spatial_ref": self._wkt}

    @functools.cached_property
    def geozarr(self) -> Mapping[str, str]:
        """The CRS in GeoZarr: its code if it matches exactly, else WKT."""
        code = self.crs.to_authority(min_confidence=100)
        return {"proj:code": ":".join(code)} if code else {"proj:wkt2": self._wkt}

    @functools.cached_property
    def axes(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Attributes of `x` and `y`."""
        crs = self.crs
        horizontal = crs.sub_crs_list[0] if crs.is_compound else crs
        horizontal = horizontal.source_crs or horizontal if horizontal.is_bound else horizontal
        if horizontal.is_geographic:
            return (
                _axis("X", "longitude", "longitude", "degrees_east"),
                _axis("Y", "latitude", "latitude", "degrees_north"),
            )
        unit = horizontal.axis_info[0].unit_name if horizontal.axis_info else "metre"
        return (
            _axis("X", "x coordinate of projection", "projection_x_coordinate", unit),
            _axis("Y", "y coordinate of projection", "projection_y_coordinate", unit),
        )


PLAIN_AXES: tuple[Mapping[str, Any], Mapping[str, Any]] = {"axis": "X"}, {"axis": "Y"}
"""Attributes of `x` and `y` without a CRS."""


def _axis(axis: str, long_name: str, standard_name: str, units: str) -> Mapping[str, Any]:
    return {"axis": axis, "long_name": long_name, "standard_name": standard_name, "units": units}


def system_attributes(system: System | None, placement: Placement) -> dict[str, Any]:
    """Return the attributes of a grid mapping variable: CRS, control points, sensor model."""
    attributes = dict(system.attributes) if system is not None else {}
    if placement.gcps:
        features = [
            {
                "type": "Feature",
                "properties": {"id": str(n), "info": "", "row": row, "col": column},
                "geometry": {"type": "Point", "coordinates": [x, y, z]},
            }
            for n, (row, column, x, y, z) in enumerate(placement.gcps, 1)
        ]
        attributes["gcps"] = json.dumps({"type": "FeatureCollection", "features": features})
    if placement.rpcs is not None:
        attributes["rpcs"] = json.dumps(placement.rpcs)
    return attributes


def spatial_ref(system: Mapping[str, Any], transform: Affine | None) -> Array:
    """Build a grid mapping variable.

    Parameters
    ----------
    system
        From `system_attributes`.
    transform
        Transform of the arrays that refer to it, None if they differ.
    """
    attributes = dict(system)
    if transform is not None:
        a, b, c, d, e, f = transform
        attributes["GeoTransform"] = " ".join(repr(float(n)) for n in (c, a, b, f, d, e))
    return _SCALAR.as_variable((), attributes)


_SCALAR = Array.from_values(np.int64(0))
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_STEPS = {
    "seconds": datetime.timedelta(seconds=1),
    "milliseconds": datetime.timedelta(milliseconds=1),
    "microseconds": datetime.timedelta(microseconds=1),
}
"""Units of time coordinates, coarsest first."""

_PRODUCT_NAMES = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        # S2A_MSIL2A_20220505T101601_..., S1A_IW_GRDH_1SDV_20220505T...; T32UPU_20220505T..._B04
        (r"(?:^|_)(?:S(?:[1-36][A-D]|5P)_|T\d\d[A-Z]{3}_)(?:[^/]*?_)??(\d{8}T\d{6})", ""),
        # S2A_32UPU_20220505_0_L2A, in cloud-optimized collections
        (r"(?:^|_)S2[A-D]_\d{1,2}[A-Z]{3}_(\d{8})_", ""),
        (r"^s1[a-d]-\w+-\w+-\w+-(\d{8}t\d{6})-", ""),
        # LC08_L2SP_193024_20220505_20220511_02_T1_SR_B4
        (r"^L[COTEM]0\d_L\d[A-Z]{2}_\d{6}_(\d{8})_", ""),
        (r"^HLS\.[LS]30\.T\d\d[A-Z]{3}\.(\d{7}T\d{6})\.", "%Y%jT%H%M%S"),
        (r"^(?:M[OYC]D|VNP|VJ\d)\w+\.A(\d{7})\.", "%Y%j"),
        (r"_doy(\d{7})", "%Y%j"),  # AppEEARS
        (r"^OR_ABI-[^/]*_s(\d{13})", "%Y%j%H%M%S"),  # GOES
        (r"^(\d{8}_\d{6})_(?:\d\d_)?[0-9a-f]{4}_[13][AB]_", ""),  # PlanetScope
        (r"^m_\d{7}_[ns][ew]_\d\d_[\dh]+_(\d{8})", ""),  # NAIP
        (r"^3B-[^/]*\.3IMERG\.(\d{8}-S\d{6})-", "%Y%m%d-S%H%M%S"),
        # days and months, not chirps-v2.0.2020.01.3, a pentad or a dekad
        (r"^chirps-v\d\.\d\.(?:[a-z]+\.)?(\d{4}\.\d\d\.\d\d)\.", "%Y.%m.%d"),
        (r"^chirps-v\d\.\d\.(?:[a-z]+\.)?(\d{4}\.\d\d)\.(?!\d)", "%Y.%m"),
    )
)
"""File and folder names of products, and the form of their date, "" if it is ISO 8601; the date is
that of acquisition, not of processing."""
_DATE = re.compile(r"\d{7}|\d{4}\.\d\d\.")

_TIME_ITEMS = ("ACQUISITIONDATETIME", "ACQUISITION_DATE_TIME", "DATATAKE_1_DATATAKE_SENSING_START",
          "PRODUCT_START_TIME", "time_coverage_start")  # fmt: skip


def acquired_from_name(url: str) -> datetime.datetime | None:
    """Parse the acquisition time from the file or folder name of a satellite product.

    Examples
    --------
    >>> acquired_from_name("LC08_L2SP_193024_20220505_20220511_02_T1_SR_B4.TIF").isoformat()
    '2022-05-05T00:00:00+00:00'
    """
    for part in reversed(url.split("/")[-4:]):
        for pattern, form in _PRODUCT_NAMES if _DATE.search(part) else ():
            match = pattern.search(part)
            if match and not form:
                return _parse_utc(match[1])
            if match:
                with contextlib.suppress(ValueError):
                    return datetime.datetime.strptime(f"{match[1]}+0000", f"{form}%z")
                return None
    return None


def acquired_from_items(items: Mapping[str, str]) -> datetime.datetime | None:
    """Parse the acquisition time from GDAL metadata items."""
    dates = (_parse_utc(items[name]) for name in _TIME_ITEMS if name in items)
    return next((date for date in dates if date is not None), None)


def created_from_tag(value: Any) -> str | None:
    """Convert DateTime (tag 306) to ISO 8601 without a time zone, which TIFF does not have.

    This is when the file was created; few writers use it for the time of acquisition.
    """
    match = _DATE_TIME.match(value) if isinstance(value, str) else None
    date = parse_date("{}-{}-{}T{}".format(*match.groups())) if match else None
    return None if date is None else date.isoformat()


_DATE_TIME = re.compile(r"\s*(\d{4})[:\-/](\d\d)[:\-/](\d\d)[ T](\d\d:\d\d:\d\d)")


def iso_text(date: datetime.datetime) -> str:
    """Return ISO 8601 text, with no, three or six decimals of a second as needed.

    >>> iso_text(datetime.datetime(2023, 4, 1, 12, 34, 56, 789000))
    '2023-04-01T12:34:56.789'
    """
    is_exact_in_ms = date.microsecond and not date.microsecond % 1000
    return date.isoformat(timespec="milliseconds" if is_exact_in_ms else "auto")


def time_coordinate(date: datetime.datetime) -> Array:
    """Build a scalar CF time coordinate; local times get a comment."""
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
    """Return the UTC time of a value of `time_coordinate`; None for other units."""
    name, _, epoch = units.partition(" since ")
    if name not in _STEPS or not epoch.startswith("1970-01-01"):
        return None
    try:
        return _EPOCH + value * _STEPS[name]
    except OverflowError:
        return None


def _parse_utc(text: str) -> datetime.datetime | None:
    """Parse a date; UTC unless it has a time zone."""
    date = parse_date(text)
    return date.replace(tzinfo=datetime.UTC) if date and date.tzinfo is None else date


def parse_date(text: str | None) -> datetime.datetime | None:
    """Parse an ISO 8601 date and time; with a time zone only if the text has one."""
    try:
        return datetime.datetime.fromisoformat((text or "").strip().strip("\0"))
    except ValueError:
        return None
