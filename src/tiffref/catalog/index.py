"""The index of a catalog: `catalog.parquet`, one row per file, with its footprint.

It is GeoParquet, written block by block from the rows of the journal, so that a million rows are
never in memory. Equal rows give equal bytes. Footprints are polygons in longitude and latitude.
CRSs are resolved by pyproj; without it, only rasters in EPSG:4326 or OGC:CRS84 have a footprint.

References: GeoParquet 1.1.0 (encoding WKB, OGC:CRS84); RFC 7946, section 3.1.6 for the order of
points, 3.1.9 for footprints that cross the antimeridian, 5.3 for those that contain a pole; OGC
06-103r4 for WKB.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..formats import parquet
from ..formats.load import read_file
from ..io.allow import is_own_seal, make_seal
from ..io.clients import client_errors, url_to_fs
from ..metadata.cf import parse_date
from ..metadata.geokeys import Affine, bounds_of
from .storage import STATE

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_INITIAL_POSITIONS = np.linspace(0, 4, 17)
"""Positions of the first points of an outline; curved edges get more (see `dense_points`)."""
_MAX_STEP_DEG = 2.0
"""Degrees between neighbouring points: chords of 2 degrees are within 0.01 of the curve."""
_MAX_HALVINGS = 16
_DECIMALS = 9
"""Decimals of a degree: a tenth of a millimetre. Versions of PROJ differ in the last digits."""
_POLE_TOLERANCE_DEG = 1e-7
"""Rounding errors of coordinates, in degrees: distance from a pole, or from a step of 180."""
_MAX_DIFFERENCE = 1e4
"""Metres between a point and itself after a conversion to longitude and latitude and back."""
_BOX_LINES = 65
"""Rows and columns of points by which the visible part of an image is found."""
_MIN_GAP_DEG = 20.0
_MAX_DEGREES = np.array([540.0, 95.0])
"""Longitude: rasters may cross the antimeridian. Latitude: outer pixels may go past a pole."""


@dataclass(frozen=True, slots=True)
class _Outline:
    """The outline of a raster, in longitude and latitude.

    `to_lonlat` converts from the CRS; with `direction="INVERSE"` to it. `is_lonlat`: the CRS itself
    is in longitude and latitude, so that straight lines stay straight.
    """

    to_lonlat: Callable[..., tuple[Any, Any]]
    is_lonlat: bool
    transform: Sequence[float]
    raster: Sequence[int]

    def points(self, positions: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return longitude and latitude at positions; None if any is off the globe.

        Position 0 is the outer corner of the first pixel, 1 to 3 are the next corners, down the
        first column first, and 4 is the first again.
        """
        row = np.minimum(np.maximum(1.5 - np.abs(positions - 1.5), 0.0), 1.0)
        column = np.minimum(np.maximum(1.5 - np.abs(positions - 2.5), 0.0), 1.0)
        points = self._to_crs(column, row)
        if self.is_lonlat and (np.abs(points) > _MAX_DEGREES).any():
            return None  # these are metres
        places = self._to_places(points)
        if not np.isfinite(places).all():
            return None
        # the check takes longer than all else, so it is skipped for most images
        return places if _is_small(places) or self._are_on_globe(points, places).all() else None

    def _to_crs(self, column: NDArray, row: NDArray) -> NDArray[np.float64]:
        """Return points given by fractions of the columns and rows."""
        a, b, c, d, e, f = self.transform
        column, row = column * self.raster[1], row * self.raster[0]
        return np.stack([a * column + b * row + c, d * column + e * row + f], axis=-1)

    def _to_places(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        places = np.stack(self.to_lonlat(*points.T), axis=1)
        np.clip(places[:, 1], -90.0, 90.0, out=places[:, 1])
        return places

    def _are_on_globe(
        self, points: NDArray[np.float64], places: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        is_valid = np.isfinite(places).all(axis=1)
        if self.is_lonlat:
            return is_valid
        # some projections move points beyond the edge of the map to its other side
        back = np.stack(self.to_lonlat(*places.T, direction="INVERSE"), axis=1)
        is_edge = np.abs(places[:, 0]) > 180.0 - _POLE_TOLERANCE_DEG  # has both signs
        return is_valid & ((np.abs(back - points) < _MAX_DIFFERENCE).all(axis=1) | is_edge)

    def visible_box(self) -> BaseGeometry | None:
        """Return a box around what is on the globe, such as a full disc; None if nothing is."""
        if self.is_lonlat:
            return None
        lines = np.linspace(0.0, 1.0, _BOX_LINES)
        points = self._to_crs(*np.meshgrid(lines, lines))
        places = self._to_places(points.reshape(-1, 2))
        is_on_globe = self._are_on_globe(points.reshape(-1, 2), places).reshape(points.shape[:2])
        limb = [places[is_on_globe.ravel()]]
        for axis in (0, 1):
            first, last = np.arange(_BOX_LINES - 1), np.arange(1, _BOX_LINES)
            differs = np.diff(is_on_globe, axis=axis)
            ends = points.take(first, axis)[differs], points.take(last, axis)[differs]
            is_first = is_on_globe.take(first, axis)[differs][:, None]
            inner, outer = np.where(is_first, *ends), np.where(is_first, *ends[::-1])
            for _ in range(_MAX_HALVINGS):
                middle = (inner + outer) / 2
                is_inner = self._are_on_globe(middle, self._to_places(middle))[:, None]
                inner, outer = np.where(is_inner, middle, inner), np.where(is_inner, outer, middle)
            limb.append(self._to_places(inner))
        found = np.concatenate(limb)
        # the antimeridian has two longitudes, of which one is on the other side of the globe
        found = found[np.abs(found[:, 0]) < 180.0 - _POLE_TOLERANCE_DEG]
        return _enclose(*found.T) if len(found) else None

    def dense_points(self) -> NDArray[np.float64] | None:
        """Return points that are close together, as they never are at a pole."""
        positions = _INITIAL_POSITIONS
        points = self.points(positions)
        for _ in range(_MAX_HALVINGS):
            if points is None:
                break
            steps = np.abs(np.diff(points, axis=0))
            steps[:, 0] = np.minimum(steps[:, 0], np.abs(360.0 - steps[:, 0]))
            is_far = (steps > _MAX_STEP_DEG).any(axis=1)
            if not is_far.any():
                break
            middles = (positions[:-1] + positions[1:])[is_far] / 2
            positions = np.sort(np.concatenate([positions, middles]))
            points = self.points(positions)
        return points


def _enclose(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> BaseGeometry | None:
    """Return the smallest box around points; a gap between longitudes must be wide to count."""
    longitude = np.sort(longitude)
    gaps = np.diff(longitude, append=longitude[0] + 360.0)
    n = int(gaps.argmax())
    west, east = -180.0, 180.0
    if gaps[n] > _MIN_GAP_DEG:
        west, east = longitude[(n + 1) % len(gaps)], longitude[n]
        east += 360.0 * (east < west)
    south, north = latitude.min(), latitude.max()
    return _to_polygons(np.array([(west, south), (east, south), (east, north), (west, north)]))


@functools.lru_cache(maxsize=64)
def _find_transformation(crs: str) -> tuple[Callable[..., tuple[Any, Any]], bool] | None:
    """Return `to_lonlat` and `is_lonlat` of `_Outline`; None for an unknown CRS."""
    try:
        import pyproj
    except ImportError:
        is_known = crs in ("EPSG:4326", "OGC:CRS84")
        return (lambda x, y: (x, y), True) if is_known else None
    try:
        parsed = pyproj.CRS(crs)
        forward = pyproj.Transformer.from_crs(parsed, "OGC:CRS84", always_xy=True).transform
    except pyproj.exceptions.ProjError:
        return None
    if not (parsed.is_geographic or parsed.is_projected):
        return None  # of heights, or around the centre of the Earth
    return forward, parsed.is_geographic and not parsed.is_derived


def footprint(
    crs: str | None, transform: Sequence[float], raster: Sequence[int]
) -> BaseGeometry | None:
    """Return the footprint of a raster: a polygon, or several if it crosses the antimeridian.

    Parameters
    ----------
    crs
        "EPSG:32633", or WKT.
    transform
        (a, b, c, d, e, f) from pixels to the CRS.
    raster
        (rows, columns).

    Returns
    -------
    None if the CRS is unknown, nothing is on the globe, or the outline crosses itself; a box if
    edges are off the globe. Of several polygons, the easternmost is the first.
    """
    transformation = _find_transformation(crs) if crs is not None else None
    if transformation is None:
        return None
    outline = _Outline(*transformation, transform, raster)
    points = outline.points(_INITIAL_POSITIONS)
    if points is not None and _is_small(points):
        return _to_polygons(points)
    if not outline.is_lonlat:
        points = outline.dense_points()
    if points is None:
        return outline.visible_box()
    a, b, _, d, e, _ = transform
    return _to_polygons(_unroll(points[::-1] if a * e > b * d else points))


def _is_small(points: NDArray[np.float64]) -> bool:
    """Return whether an outline is small and far from the poles and the antimeridian."""
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    is_short = east - west < _MAX_STEP_DEG and north - south < _MAX_STEP_DEG
    return bool(is_short and west >= -180 and east <= 180 and max(-south, north) < 89)


def _unroll(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an outline with continuous longitudes, closed along the pole that is in it or on it.

    The image is to the left of the outline. At the antimeridian, longitudes of rasters in degrees
    go past 180; others jump.
    """
    ring = points[:-1]
    is_pole = np.abs(ring[:, 1]) > 90.0 - _POLE_TOLERANCE_DEG
    steps = np.abs(np.diff(points[:, 0]))
    halves = np.flatnonzero(np.abs(steps - 180.0) < _POLE_TOLERANCE_DEG)
    # several points at a pole are an edge, such as the upper one of a world map
    is_on_pole = is_pole.sum() == 1 or (len(halves) == 1 and not is_pole.any())
    if is_pole.sum() == 1:  # its longitude is undefined
        points = np.roll(ring, -int(is_pole.argmax()), axis=0)[1:]
    elif is_on_pole:
        points = np.roll(ring, -int(halves[0]) - 1, axis=0)
    points[:, 0] = np.unwrap(points[:, 0], period=360.0)
    turn = points[-1, 0] - points[0, 0]
    if not is_on_pole and abs(turn) < 180.0:
        return points
    pole = np.copysign(90.0, points[0, 1] if is_on_pole else turn)
    return np.concatenate([points, [[points[-1, 0], pole], [points[0, 0], pole]]])


def _to_polygons(points: NDArray[np.float64]) -> BaseGeometry | None:
    """Cut a ring at the antimeridian, and move all parts to -180 to 180 degrees.

    None if it crosses itself, or encloses less than a tenth of a millimetre.
    """
    import shapely

    points = np.round(points, _DECIMALS)
    west, east = points[:, 0].min(), points[:, 0].max()
    first, last = math.floor((west + 180.0) / 360.0), math.ceil((east - 180.0) / 360.0)
    shape = shapely.Polygon(points)
    if (first, last) != (0, 0):
        world = shapely.box(-180.0, -90.0, 180.0, 90.0)
        turns = [shapely.Polygon(points - [360.0 * n, 0.0]) for n in range(first, last + 1)]
        try:
            inside = shapely.intersection(turns, world, grid_size=10**-_DECIMALS)
            joined = shapely.union_all(inside, grid_size=10**-_DECIMALS)
        except shapely.errors.GEOSException:
            return None
        parts = [part for part in shapely.get_parts(joined) if part.geom_type == "Polygon"]
        parts.sort(key=lambda part: -part.bounds[0])
        shape = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return None if shape.is_empty else shapely.orient_polygons(shape)


def outline_of_points(crs: str | None, mapping: Mapping[str, Any]) -> list[list[float]] | None:
    """Return the outline of an image that has control points or a sensor model, but no transform.

    Parameters
    ----------
    crs
        As in `footprint`.
    mapping
        Attributes of its grid mapping variable.

    Returns
    -------
    The convex hull of the points in longitude and latitude; None if there are no points, or if one
    is off the globe.
    """
    import shapely

    transformation = _find_transformation(crs) if crs is not None else None
    if transformation is None or not {"gcps", "rpcs"} & mapping.keys():
        return None
    if "gcps" in mapping:
        features = json.loads(mapping["gcps"])["features"]
        points = [feature["geometry"]["coordinates"][:2] for feature in features]
    else:  # a model covers one unit of scale in each direction
        rpcs = json.loads(mapping["rpcs"])
        points = [
            (rpcs["long_off"] + x * rpcs["long_scale"], rpcs["lat_off"] + y * rpcs["lat_scale"])
            for x in (-1, 1)
            for y in (-1, 1)
        ]
    places = np.column_stack(transformation[0](*np.transpose(points)))
    if not (np.abs(places) <= _MAX_DEGREES).all():
        return None
    places[:, 0] = np.unwrap(places[:, 0], period=360.0)
    hull = shapely.MultiPoint(places).convex_hull
    return shapely.get_coordinates(hull).tolist() if hull.geom_type == "Polygon" else None


def geographic_bounds(shape: BaseGeometry) -> list[float]:
    """Return west, south, east, north; west is greater than east across the antimeridian."""
    west, south, east, north = shape.bounds
    if shape.geom_type == "MultiPolygon":
        first, second, *others = (polygon.bounds for polygon in shape.geoms)
        if first[0] > second[2] and not others:
            west, east = first[0], second[2]
    return [west, south, east, north]


INDEX = "catalog.parquet"
INDEX_SEAL = f"{STATE}/seal"
"""File with the seal of the user who built the catalog, over the bytes of the index."""
_BLOCK_ROWS = 500
"""Rows that are Python objects at the same time, about 5 KB each."""
_GROUP_BLOCKS = 20
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "orientation": "counterclockwise",
            "geometry_types": [],  # not known: rustac 0.9 cannot read null as a MultiPolygon
            "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
        }
    },
}
import_pyarrow = functools.partial(parquet.import_pyarrow, "catalog", "catalogs need pyarrow")


def _columns(pa: Any) -> dict[str, Any]:
    text, integer, number = pa.string(), pa.int64(), pa.float64()
    return {
        "url": text,
        "status": text,
        "error": text,
        "error_type": text,
        "references": text,
        "size": integer,
        "mtime": number,
        "etag": text,
        "shape": pa.list_(integer),
        "dims": pa.list_(text),
        "dtype": text,
        "chunks": pa.list_(integer),
        "codec": text,
        "nodata": number,
        "nbytes": integer,
        "n_series": integer,
        "n_levels": integer,
        "n_chunks": integer,
        "missing_chunks": integer,
        "stored_bytes": integer,
        "largest_chunk": integer,
        "crs": text,
        "transform": pa.list_(number),
        "bounds": pa.list_(number),
        "time": pa.timestamp("us", "UTC"),
        "created": pa.timestamp("us", "UTC"),
        "warnings": pa.list_(text),
        "bbox": pa.struct([(side, number) for side in _SIDES]),
        "geometry": pa.binary(),
    }


_KINDS = {bool: "bool", int: "int64", float: "float64", str: "string"}


def field_types(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Find the column type of each field of file names and tables; mixed types become strings."""
    kinds_of: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.get("fields", {}).items():
            kinds_of.setdefault(name, set()).add(_KINDS[type(value)])
    for kinds in kinds_of.values():
        if kinds == {"int64", "float64"}:
            kinds.remove("int64")
    return {
        n: kinds.pop() if len(kinds) == 1 else "string" for n, kinds in sorted(kinds_of.items())
    }


def write_index(rows: Iterable[Mapping[str, Any]], path: Path, fields: Mapping[str, str]) -> None:
    """Write the index.

    Parameters
    ----------
    rows
        Rows of the journal, in the order of the index.
    fields
        Names and types of further columns. `time` is merged into the index's own column; other
        names that the index uses itself get the prefix "field_".
    """
    pa = import_pyarrow()
    columns = _columns(pa)
    names = {
        name: f"field_{name}" if name in columns else name for name in fields if name != "time"
    }
    field_columns = [(names[name], getattr(pa, fields[name])()) for name in names]
    metadata = {"geo": json.dumps(_GEO, sort_keys=True)}
    schema = pa.schema([*columns.items(), *field_columns], metadata=metadata)
    string_fields = {name for name in names if fields[name] == "string"}
    remaining = iter(rows)
    blocks = iter(lambda: list(itertools.islice(remaining, _BLOCK_ROWS)), [])
    tables = (_to_table(pa, schema, block, names, string_fields) for block in blocks)
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(itertools.islice(tables, _GROUP_BLOCKS)):
            writer.write_table(pa.concat_tables(group))


def _to_table(
    pa: Any,
    schema: Any,
    block: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    string_fields: Collection[str],
) -> Any:
    """Convert rows of the journal to rows of the index; `string_fields` become strings."""
    rows = []
    for row in map(add_location, block):
        for name, value in row.pop("fields", {}).items():
            if name in names:
                is_string = name in string_fields and value is not None
                row[names[name]] = str(value) if is_string else value
        rows.append(row)
    try:
        return pa.Table.from_pylist(rows, schema)
    except UnicodeEncodeError:  # bytes of file names that are not UTF-8
        return pa.Table.from_pylist([_escape_surrogates(row) for row in rows], schema)


def _escape_surrogates(value: Any) -> Any:
    if isinstance(value, list):
        return [_escape_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {name: _escape_surrogates(item) for name, item in value.items()}
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def add_location(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its bounds, footprint and times.

    `time` is from the file's table or name, else from its metadata.
    """
    fields = row.get("fields", {})
    times = _first_time(*map(fields.get, TIME_FIELDS), row.get("time"))
    located = {**row, "time": times, "created": _first_time(row.get("created"))}
    if row.get("transform") and row.get("raster"):
        located.update(_locate(row.get("crs"), tuple(row["transform"]), tuple(row["raster"])))
    elif row.get("outline"):
        located.update(_footprint_columns(_to_polygons(np.array(row["outline"]))))
    return located


@functools.lru_cache(maxsize=1024)
def _locate(crs: str | None, transform: Affine, raster: tuple[int, int]) -> dict[str, Any]:
    """Return bounds and footprint; cached because many files of an archive share a place."""
    location = _footprint_columns(footprint(crs, transform, raster))
    return {"bounds": bounds_of(transform, raster), **location}


def _footprint_columns(shape: BaseGeometry | None) -> dict[str, Any]:
    if shape is None:
        return {}
    bbox = dict(zip(_SIDES, geographic_bounds(shape), strict=True))
    return {"footprint": shape, "geometry": shape.wkb, "bbox": bbox}


TIME_FIELDS = ("time", "datetime", "date", "day")
"""Fields of names and tables that hold the time of a file, in order of preference."""


def _first_time(*texts: Any) -> datetime.datetime | None:
    """Return the first valid time."""
    for text in texts:
        moment = parse_date(None if text is None else str(text))
        if moment is not None:
            return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return None


def seal_index(data: bytes) -> bytes | None:
    """Return the user's seal of an index; None if the user has no key."""
    seal = make_seal(_index_digest(data))
    return None if seal is None else seal.encode()


def _index_digest(data: bytes) -> bytes:
    return hashlib.sha256(b"catalog" + data).digest()


def read_catalog_file(folder: str, name: str, storage_options: Mapping[str, Any] | None) -> bytes:
    """Read a file in the folder of a catalog; the file system raises errors of its own."""
    fs, root = url_to_fs(folder or "/", storage_options)
    return read_file(fs, f"{root}/{name}")


def is_own_index(folder: str, data: bytes, storage_options: Mapping[str, Any] | None) -> bool:
    """Return whether this user built the catalog whose index has these bytes."""
    try:
        seal = read_catalog_file(folder, INDEX_SEAL, storage_options)
    except client_errors():
        return False
    return is_own_seal(seal.decode("latin-1"), _index_digest(data))
