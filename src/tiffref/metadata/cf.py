"""Coordinate systems and coordinates as CF has them.

Owns the `spatial_ref` variable, the attributes of `x` and `y`, and how long coordinates are kept
small. It takes a system from `crs` and a placement from `placement`.

References: CF conventions 1.11, sections 4, 5.6 and appendix F; GDAL's netCDF driver for
`GeoTransform` and `spatial_ref`; rioxarray for `gcps`.
"""

from __future__ import annotations

import functools
import json
import warnings
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..model.array import Array
from ..model.codec import ForeignCodec
from .geokeys import Affine, Placement

if TYPE_CHECKING:
    from pyproj import CRS

__all__ = [
    "PLAIN_AXES",
    "System",
    "coordinate",
    "coordinate_bytes",
    "spatial_ref",
    "system_attributes",
]

_SMALL = 64
"""Values up to which a coordinate is not worth compressing."""
_SHORT = 4096
_SHORT_LEVEL, _LEVEL = 1, 9
"""For short coordinates the higher level takes thrice as long, which was a tenth of a scan, to save
some tens of bytes; of long ones it halves the size."""


class System:
    """A coordinate system as CF and GeoZarr have it; each part is made when it is first needed."""

    def __init__(self, crs: CRS) -> None:
        self.crs = crs

    @functools.cached_property
    def _wkt(self) -> str:
        return self.crs.to_wkt()

    @functools.cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The CF grid mapping: parameters where CF knows them, WKT always."""
        with warnings.catch_warnings():
            # parameters that CF has no name for are in the WKT all the same
            warnings.simplefilter("ignore")
            try:
                found = self.crs.to_cf()
            except (KeyError, ValueError, AttributeError, TypeError):
                found = {}
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in found.items()
        }
        return {**plain, "crs_wkt": self._wkt, "spatial_ref": self._wkt}

    @functools.cached_property
    def geozarr(self) -> Mapping[str, str]:
        """The system in GeoZarr: by its code if it is surely that one, else as WKT."""
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

    @functools.cached_property
    def height_unit(self) -> str:
        """Unit of the vertical system, "" without one: samples of such a raster are heights."""
        crs = self.crs
        return crs.sub_crs_list[-1].axis_info[0].unit_name if crs.is_compound else ""


PLAIN_AXES: tuple[Mapping[str, Any], Mapping[str, Any]] = {"axis": "X"}, {"axis": "Y"}
"""Attributes of `x` and `y` without a system."""


def _axis(axis: str, long_name: str, standard_name: str, units: str) -> Mapping[str, Any]:
    return {"axis": axis, "long_name": long_name, "standard_name": standard_name, "units": units}


def system_attributes(system: System | None, placement: Placement) -> dict[str, Any]:
    """Return the attributes of a grid mapping variable: system, control points, sensor model."""
    attributes = dict(system.attributes) if system is not None else {}
    if placement.gcps:
        attributes["gcps"] = json.dumps(_geojson(placement))
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
        Of the arrays that point here, None where they differ in it.
    """
    attributes = dict(system)
    if transform is not None:
        a, b, c, d, e, f = transform
        attributes["GeoTransform"] = " ".join(repr(float(n)) for n in (c, a, b, f, d, e))
    return _scalar().as_variable((), attributes)


@functools.cache
def _scalar() -> Array:
    return Array.from_values(np.int64(0))


def _geojson(placement: Placement) -> dict[str, Any]:
    features = [
        {
            "type": "Feature",
            "properties": {"id": str(n), "info": "", "row": row, "col": column},
            "geometry": {"type": "Point", "coordinates": [x, y, z]},
        }
        for n, (row, column, x, y, z) in enumerate(placement.gcps, 1)
    ]
    return {"type": "FeatureCollection", "features": features}


def coordinate(values: NDArray, dim: str, attributes: Mapping[str, Any] | None = None) -> Array:
    """Build a coordinate array, stored small.

    Evenly spaced numbers differ little in their upper bytes: putting the first bytes of all numbers
    together, then the second, and so on, lets zlib take 100 000 of them to some kilobytes. Both
    steps are codecs that every Zarr reader knows.
    """
    if not _is_packed(values):
        return Array.from_values(values, (dim,), attributes)
    dtype = values.dtype.newbyteorder("=")
    codec = _packing(dtype, _level_of(values))
    chunk = coordinate_bytes(values)
    return Array.from_chunk(chunk, codec, values.shape, dtype, (dim,), attributes)


def coordinate_bytes(values: NDArray) -> bytes:
    """Return the bytes of the one chunk that `coordinate` makes."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    if not _is_packed(values):
        return little.tobytes()
    shuffled = little.view(np.uint8).reshape(-1, values.dtype.itemsize).T.tobytes()
    return zlib.compress(shuffled, _level_of(values))


def _is_packed(values: NDArray) -> bool:
    return values.size > _SMALL and values.dtype.kind in "iuf"


def _level_of(values: NDArray) -> int:
    return _SHORT_LEVEL if values.size <= _SHORT else _LEVEL


@functools.lru_cache(maxsize=16)
def _packing(dtype: np.dtype, level: int) -> ForeignCodec:
    metadata = {
        "dtype": dtype.newbyteorder("<").str,
        "filters": [{"id": "shuffle", "elementsize": dtype.itemsize}],
        "compressor": {"id": "zlib", "level": level},
        "order": "C",
    }
    return ForeignCodec(2, metadata)
