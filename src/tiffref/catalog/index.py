"""The index of a catalog: `catalog.parquet`, a row for each file, with its footprint.

Owns its columns and how it is written: as GeoParquet, block by block from the rows of the journal,
so that a million rows are never in memory. Equal rows give equal bytes. Footprints are outlines in
longitude and latitude: systems are resolved by pyproj; without it, only rasters in degrees have
one.

References: GeoParquet 1.1.0 (encoding WKB, OGC:CRS84); RFC 7946, section 3.1.6 for the order of
points, 3.1.9 for footprints that cross the antimeridian, 5.3 for those that hold a pole; OGC
06-103r4 for WKB.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import requires_extra
from ..io.allow import is_own_seal, make_seal
from ..io.clients import client_errors
from .storage import STATE

_COARSE = np.linspace(0, 4, 17)
"""Where an outline has points at least: straight lines of a projection are curves on the globe."""
_MAX_STEP = 2.0
"""Degrees between neighbours: chords of 2 degrees are within 0.01 of what they stand for."""
_MAX_HALVINGS = 16
_DECIMALS = 9
"""Of a degree: a tenth of a millimetre. Last digits differ between versions of PROJ."""
_AT_POLE = 1e-7
"""Degrees from a pole, or from half a turn, that are rounding of coordinates."""

Ring = NDArray[np.float64]
"""`(n, 2)` longitudes and latitudes, counterclockwise, the first point again at the end."""
Footprint = tuple[Ring, ...]
"""One ring, or two where the image crosses the antimeridian."""


def outline_of(transform: Sequence[float], raster: Sequence[int], at: Any) -> NDArray[np.float64]:
    """Return points of the outline of a raster in its own system.

    Parameters
    ----------
    transform
        (a, b, c, d, e, f) from pixels to the system.
    raster
        (rows, columns).
    at
        `(n,)` float, how far along: 0 is the first pixel's corner, 1 to 3 are the next corners,
        down the first column first, and 4 is the first again.

    Returns
    -------
    `(n, 2)` float64.
    """
    at = np.asarray(at, float)
    row = raster[0] * np.minimum(np.maximum(1.5 - np.abs(at - 1.5), 0.0), 1.0)
    column = raster[1] * np.minimum(np.maximum(1.5 - np.abs(at - 2.5), 0.0), 1.0)
    a, b, c, d, e, f = transform
    outline = np.empty((len(at), 2))
    outline[:, 0] = a * column + b * row + c
    outline[:, 1] = d * column + e * row + f
    return outline


@dataclass(frozen=True, slots=True)
class _Projection:
    """The way between a system and longitude and latitude.

    `is_plain`: the system has longitude and latitude itself, so that its straight lines stay.
    """

    to_globe: Callable[[Any, Any], tuple[Any, Any]]
    from_globe: Callable[[Any, Any], tuple[Any, Any]]
    is_plain: bool


_MOST_DEGREES = np.array([540.0, 95.0])
"""Of longitude, for rasters across the antimeridian, and of latitude, for pixels around a pole."""


@functools.lru_cache(maxsize=64)
def _projection(crs: str) -> _Projection | None:
    """Resolve a system; None if it is unknown."""
    try:
        import pyproj
    except ImportError:
        same = lambda x, y: (x, y)  # noqa: E731
        return _Projection(same, same, True) if crs in ("EPSG:4326", "OGC:CRS84") else None
    try:
        system = pyproj.CRS(crs)
        there = pyproj.Transformer.from_crs(system, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError:
        return None
    back = functools.partial(there.transform, direction="INVERSE")
    return _Projection(there.transform, back, system.is_geographic and not system.is_derived)


def footprint(
    crs: str | None, transform: Sequence[float], raster: Sequence[int]
) -> Footprint | None:
    """Return the footprint of a raster.

    Parameters
    ----------
    crs
        "EPSG:32633", or WKT.
    transform
        (a, b, c, d, e, f) from pixels to the system.
    raster
        (rows, columns).

    Returns
    -------
    None where it is unknown: no system, or edges that have no place on the globe.
    """
    projection = _projection(crs) if crs is not None else None
    if projection is None:
        return None
    points = _project(projection, transform, raster, _COARSE)
    if points is None:
        return None
    if _is_small(points):
        return (_finished(points),)
    if not projection.is_plain:
        points = _refined(projection, transform, raster, points)
        if points is None:
            return None
        if (gap := _find_gap(points)) is not None:
            return _split(_around_gap(points, *gap))
    # x past 180 is how a raster in degrees crosses the antimeridian, a jump how others do
    points[:, 0] = np.unwrap(points[:, 0], period=360.0)
    turn = points[-1, 0] - points[0, 0]
    if abs(turn) < 180.0:
        return _split(points)
    pole = _pole_inside(projection, transform, raster)
    if pole is None:
        pole = np.copysign(90.0, points[:, 1].mean())
    return (_around_pole(points if turn > 0 else points[::-1], pole),)


def _project(
    projection: _Projection,
    transform: Sequence[float],
    raster: Sequence[int],
    at: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """Return points of the outline on the globe; None if some have no place there."""
    points = outline_of(transform, raster, at)
    if projection.is_plain and (np.abs(points) > _MOST_DEGREES).any():
        return None  # metres, whatever the system says
    points[:, 0], points[:, 1] = projection.to_globe(points[:, 0], points[:, 1])
    if not np.isfinite(points).all():
        return None
    np.clip(points[:, 1], -90.0, 90.0, out=points[:, 1])
    return points


def _is_small(points: NDArray[np.float64]) -> bool:
    """Return whether an outline is far from the poles and the antimeridian, as most are."""
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    is_short = east - west < _MAX_STEP and north - south < _MAX_STEP
    return bool(is_short and west >= -180 and east <= 180 and max(-south, north) < 89)


def _refined(
    projection: _Projection,
    transform: Sequence[float],
    raster: Sequence[int],
    points: NDArray[np.float64] | None,
) -> NDArray[np.float64] | None:
    """Add points where neighbours lie far apart; at a pole they always do."""
    at = _COARSE
    for _ in range(_MAX_HALVINGS):
        if points is None:
            break
        steps = np.abs(np.diff(points, axis=0))
        steps[:, 0] = np.minimum(steps[:, 0], np.abs(360.0 - steps[:, 0]))
        is_far = (steps > _MAX_STEP).any(axis=1)
        if not is_far.any():
            break
        at = np.sort(np.concatenate([at, (at[:-1] + at[1:])[is_far] / 2]))
        points = _project(projection, transform, raster, at)
    return points


def _find_gap(points: NDArray[np.float64]) -> tuple[int, int] | None:
    """Find where an outline goes through a pole, which has any longitude.

    Returns
    -------
    Indices of the last point before the pole and of the first after it.
    """
    n = len(points) - 1
    is_pole = np.abs(points[:-1, 1]) > 90.0 - _AT_POLE
    if is_pole.sum() == 1:
        k = int(np.flatnonzero(is_pole)[0])
        return (k - 1) % n, (k + 1) % n
    # more points at a pole are an edge that lies there, as the upper one of a map of the world
    steps = np.abs(np.diff(points[:, 0]))
    halves = np.flatnonzero(np.abs(steps - 180.0) < _AT_POLE)
    return None if len(halves) != 1 or is_pole.any() else (int(halves[0]), (int(halves[0]) + 1) % n)


def _around_gap(points: NDArray[np.float64], before: int, after: int) -> NDArray[np.float64]:
    """Return the outline from pole to pole, where it leaves one meridian for another."""
    n = len(points) - 1
    order = (after + np.arange((before - after) % n + 1)) % n
    rest = points[order]
    rest[:, 0] = np.unwrap(rest[:, 0], period=360.0)
    pole = np.copysign(90.0, rest[0, 1])
    ends = [[rest[0, 0], pole]], [[rest[-1, 0], pole]]
    return np.concatenate([ends[0], rest, ends[1], ends[0]])


def _pole_inside(
    projection: _Projection, transform: Sequence[float], raster: Sequence[int]
) -> float | None:
    """Return which pole lies in a raster."""
    a, b, c, d, e, f = transform
    for latitude in (90.0, -90.0):
        x, y = projection.from_globe(0.0, latitude)
        if np.isfinite([x, y]).all():
            column, row = np.linalg.solve([[a, b], [d, e]], [x - c, y - f])
            if 0 <= row <= raster[0] and 0 <= column <= raster[1]:
                return latitude
    return None


def _around_pole(points: NDArray[np.float64], pole: float) -> Ring:
    """Return the ring of an outline that goes once around the globe, eastward."""
    cut = 360.0 * np.ceil((points[0, 0] - 180.0) / 360.0) + 180.0
    first, second = points[points[:, 0] < cut], points[points[:, 0] >= cut]
    at_cut = np.interp(cut, points[:, 0], points[:, 1])
    ring = np.concatenate(
        [
            [[-180.0, at_cut]],
            second - [cut + 180.0, 0.0],
            first[1:] - [cut - 180.0, 0.0],  # its first point is the last of the other part
            [[180.0, at_cut], [180.0, pole], [-180.0, pole]],
        ]
    )
    return _finished(ring)


def _split(points: NDArray[np.float64]) -> Footprint:
    """Cut an outline at the antimeridian."""
    x = points[:, 0]
    if np.ptp(x) >= 360.0:
        south, north = points[:, 1].min(), points[:, 1].max()
        around = [[-180.0, south], [180.0, south], [180.0, north], [-180.0, north]]
        return (_finished(np.array(around)),)
    shift = 360.0 * np.floor((x.min() + 180.0) / 360.0)
    points = np.round(points - [shift, 0.0], _DECIMALS)
    if points[:, 0].max() <= 180.0:
        return (_finished(points),)
    east, west = _clip(points, 180.0, True), _clip(points, 180.0, False)
    return _finished(east), _finished(west - [360.0, 0.0])


def _finished(ring: Ring) -> Ring:
    """Round, close, and turn a ring so that it goes counterclockwise."""
    ring = np.round(ring, _DECIMALS)
    ring = ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    area = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()
    return ring if area >= 0 else ring[::-1]


def _clip(ring: NDArray[np.float64], limit: float, below: bool) -> Ring:
    """Keep the part of a ring on one side of a meridian (Sutherland and Hodgman)."""
    kept = []
    for start, end in itertools.pairwise(ring):
        inside = [(point[0] <= limit) == below for point in (start, end)]
        if inside[0]:
            kept.append(start)
        if inside[0] != inside[1]:
            share = (limit - start[0]) / (end[0] - start[0])
            kept.append(np.array([limit, start[1] + share * (end[1] - start[1])]))
    return np.array(kept)


def ring_bounds(rings: Footprint) -> list[float]:
    """Return west, south, east and north; west is more than east across the antimeridian."""
    south = min(float(ring[:, 1].min()) for ring in rings)
    north = max(float(ring[:, 1].max()) for ring in rings)
    return [float(rings[0][:, 0].min()), south, float(rings[-1][:, 0].max()), north]


def to_wkb(rings: Footprint) -> bytes:
    """Return a polygon, or a multipolygon of two, as little-endian WKB."""
    polygons = [
        struct.pack("<BIII", 1, 3, 1, len(ring)) + ring.astype("<f8").tobytes() for ring in rings
    ]
    if len(polygons) == 1:
        return polygons[0]
    return struct.pack("<BII", 1, 6, len(polygons)) + b"".join(polygons)


def to_geojson(rings: Footprint) -> dict[str, Any]:
    """Return the geometry as GeoJSON."""
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": [rings[0].tolist()]}
    return {"type": "MultiPolygon", "coordinates": [[ring.tolist()] for ring in rings]}


INDEX = "catalog.parquet"
INDEX_SEAL = f"{STATE}/seal"
"""The seal of the user who built the catalog, over the bytes of the index."""
_BLOCK_ROWS = 500
"""Rows that are Python objects at once, some 5 KB each."""
_GROUP_BLOCKS = 20
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "orientation": "counterclockwise",
            "geometry_types": ["Polygon", "MultiPolygon"],
            "covering": {
                "bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
            },
        }
    },
}
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def import_pyarrow() -> Any:
    """Return pyarrow.

    Raises
    ------
    MissingExtra
        If it is not installed.
    """
    with requires_extra("catalog", "catalogs need pyarrow"):
        import pyarrow.parquet
    return pyarrow


def _columns(pa: Any) -> dict[str, Any]:
    """Return the columns that every index has, with their types."""
    text, whole, number = pa.string(), pa.int64(), pa.float64()
    return {
        "url": text,
        "status": text,
        "error": text,
        "error_type": text,
        "references": text,
        "size": whole,
        "mtime": number,
        "etag": text,
        "shape": pa.list_(whole),
        "dims": pa.list_(text),
        "dtype": text,
        "chunks": pa.list_(whole),
        "codec": text,
        "nodata": number,
        "nbytes": whole,
        "n_series": whole,
        "n_levels": whole,
        "n_chunks": whole,
        "missing_chunks": whole,
        "stored_bytes": whole,
        "largest_chunk": whole,
        "crs": text,
        "transform": pa.list_(number),
        "bounds": pa.list_(number),
        "time": pa.timestamp("us", "UTC"),
        "warnings": pa.list_(text),
        "bbox": pa.struct([(side, number) for side in _SIDES]),
        "geometry": pa.binary(),
    }


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"), (int, "int64"), (float, "float64"), (str, "string"),
)  # fmt: skip


def field_kinds(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Find the types of the fields that names and tables gave: those that fit all rows."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.get("fields", {}).items():
            kind = next(label for kind, label in _KINDS if isinstance(value, kind))
            found.setdefault(name, set()).add(kind)
    kinds = {}
    for name, seen in sorted(found.items()):
        if seen == {"int64", "float64"}:
            kinds[name] = "float64"
        else:
            kinds[name] = seen.pop() if len(seen) == 1 else "string"
    return kinds


def write_index(rows: Iterable[Mapping[str, Any]], path: Path, fields: Mapping[str, str]) -> None:
    """Write the index.

    Parameters
    ----------
    rows
        Rows of the journal in the order that they are to have.
    fields
        Name and type of further columns; one called `time` is used where a file has no time, and
        other names that the index has itself get "field_" in front.
    """
    pa = import_pyarrow()
    columns = _columns(pa)
    names = {
        name: f"field_{name}" if name in columns else name for name in fields if name != "time"
    }
    own = [(names[name], getattr(pa, fields[name])()) for name in names]
    metadata = {"geo": json.dumps(_GEO, sort_keys=True)}
    schema = pa.schema([*columns.items(), *own], metadata=metadata)
    texts = {name for name in names if fields[name] == "string"}
    remaining = iter(rows)
    blocks = iter(lambda: list(itertools.islice(remaining, _BLOCK_ROWS)), [])
    tables = (_to_table(pa, schema, block, names, texts) for block in blocks)
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(itertools.islice(tables, _GROUP_BLOCKS)):
            writer.write_table(pa.concat_tables(group))


def _to_table(
    pa: Any,
    schema: Any,
    block: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    texts: Collection[str],
) -> Any:
    """Return rows of the journal as those of the index; `texts` are fields to spell as text."""
    rows = []
    for row in map(place_row, block):
        for name, value in row.pop("fields", {}).items():
            if name in names:
                row[names[name]] = str(value) if name in texts and value is not None else value
        rows.append(row)
    try:
        return pa.Table.from_pylist(rows, schema)
    except UnicodeEncodeError:  # of file names: spelled as Python escapes them
        return pa.Table.from_pylist([_escaped(row) for row in rows], schema)


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    if isinstance(value, dict):
        return {name: _escaped(one) for name, one in value.items()}
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def place_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its bounds, footprint and time."""
    placed = dict(row)
    placed["time"] = _moment(row)
    if row.get("transform") and row.get("raster"):
        placed.update(_placed(row.get("crs"), tuple(row["transform"]), tuple(row["raster"])))
    return placed


@functools.lru_cache(maxsize=1024)
def _placed(
    crs: str | None, transform: tuple[float, ...], raster: tuple[int, ...]
) -> dict[str, Any]:
    """Return bounds and footprint: files of one place are many in an archive."""
    outline = outline_of(transform, raster, range(4))
    placed: dict[str, Any] = {
        "bounds": [*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist()]
    }
    rings = footprint(crs, transform, raster)
    if rings is not None:
        placed["rings"] = rings
        placed["geometry"] = to_wkb(rings)
        placed["bbox"] = dict(zip(_SIDES, ring_bounds(rings), strict=True))
    return placed


def _moment(row: Mapping[str, Any]) -> datetime.datetime | None:
    """Return the time of a file: what its table or name says comes before its tags."""
    for text in (row.get("fields", {}).get("time"), row.get("time")):
        try:
            moment = datetime.datetime.fromisoformat(str(text)) if text is not None else None
        except ValueError:
            moment = None
        if moment is not None:
            return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return None


def seal_index(data: bytes) -> bytes | None:
    """Return the user's seal of an index; None where the user has no key."""
    seal = make_seal(_digest(data))
    return None if seal is None else seal.encode()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(b"catalog" + data).digest()


def read_index(
    folder: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[Any, Callable[[], bool]]:
    """Read the index of a catalog.

    Returns
    -------
    table, is_own
        A pyarrow table, and a function that returns whether this user built the catalog.
    """
    pa = import_pyarrow()
    import fsspec

    fs, root = fsspec.url_to_fs(folder or ".", **(storage_options or {}))
    data = fs.cat_file(f"{root}/{INDEX}")

    def is_own() -> bool:
        try:
            seal = fs.cat_file(f"{root}/{INDEX_SEAL}")
        except client_errors():
            return False
        return is_own_seal(seal.decode("latin-1"), _digest(data))

    # Arrow's own threads now and then abort the interpreter when it ends right after (pyarrow 26)
    reader = pa.BufferReader(data)
    return pa.parquet.ParquetFile(reader, pre_buffer=False).read(use_threads=False), is_own
