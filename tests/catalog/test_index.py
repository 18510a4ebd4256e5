"""Footprints on the globe, against values worked out by hand.

On a sphere of radius R, the polar stereographic projection puts what is c degrees from the pole at
a distance of 2 R tan(c / 2), and keeps directions: straight down from the north pole is longitude
0, to the right of it is 90 east.
"""

from __future__ import annotations

import json
from math import atan, degrees, pi, radians, sqrt, tan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from geotags import extra_tags, geotags

import tiffref.catalog as catalog
from tiffref.catalog.index import footprint, geographic_bounds, outline_of_points

R = 6371000.0
NORTH = f"+proj=stere +lat_0=90 +lon_0=0 +k=1 +R={R}"
SOUTH = f"+proj=stere +lat_0=-90 +lon_0=0 +k=1 +R={R}"
A = 2 * R * tan(radians(5))
"""In a square of this half side around the pole, the middle of each edge is 10 degrees away."""
CORNER = 90 - degrees(2 * atan(A * sqrt(2) / (2 * R)))
"""Latitude of its corners."""


def square(west: float, south: float, east: float, north: float) -> tuple[Any, Any]:
    """Return transformation and size of a raster of 100 by 100 pixels."""
    return ((east - west) / 100, 0.0, west, 0.0, (south - north) / 100, north), (100, 100)


def shape_of(crs: str, *sides: float) -> Any:
    """Return the footprint of a square for shapely, valid and as its bounds say."""
    shape = footprint(crs, *square(*sides))
    assert shape is not None and shape.is_valid
    west, south, east, north = geographic_bounds(shape)
    for part in getattr(shape, "geoms", [shape]):
        assert part.exterior.is_ccw
    if west < east:
        assert shape.bounds == (west, south, east, north)
    return shape


def has(shape: Any, longitude: float, latitude: float) -> bool:
    return shape.intersects(pytest.importorskip("shapely").Point(longitude, latitude))


def test_a_raster_in_degrees() -> None:
    shape = shape_of("EPSG:4326", 10, 45, 18, 50)
    # rows that go up: the ring still goes counterclockwise
    up = footprint("EPSG:4326", (1.0, 0.0, 10.0, 0.0, 1.0, 45.0), (5, 8))
    assert up is not None and up.exterior.is_ccw
    for polygon in (shape, up):
        assert polygon.geom_type == "Polygon" and polygon.area == pytest.approx(40)
        assert geographic_bounds(polygon) == [10.0, 45.0, 18.0, 50.0]


@pytest.mark.parametrize("west", [178.0, -182.0])
def test_across_the_antimeridian(west: float) -> None:
    both = shape_of("EPSG:4326", west, -2, west + 5, 2)
    assert geographic_bounds(both) == [178.0, -2.0, -177.0, 2.0]
    assert both.geom_type == "MultiPolygon" and both.area == pytest.approx(20)
    east, west_part = both.geoms
    assert east.bounds == (178.0, -2.0, 180.0, 2.0)
    assert west_part.bounds == (-180.0, -2.0, -177.0, 2.0)


@pytest.mark.parametrize("west", [-180.0, 0.0, -180.125])
def test_the_whole_world_is_one_polygon(west: float) -> None:
    shape = shape_of("EPSG:4326", west, -90, west + 360 + 2 * (west == -180.125), 90)
    assert shape.geom_type == "Polygon" and shape.bounds == (-180.0, -90.0, 180.0, 90.0)


def test_a_tilted_raster_longer_than_the_globe() -> None:
    # 380 degrees long, of which each raises it by 1/19 degree
    shape = footprint("EPSG:4326", (3.8, 0.0, -190.0, 0.2, -0.04, 0.0), (100, 100))
    assert shape is not None and shape.is_valid and geographic_bounds(shape)[::2] == [-180, 180]
    assert has(shape, 0, 8) and not has(shape, 0, 1) and not has(shape, 0, 12)


def test_the_world_of_web_maps() -> None:
    pytest.importorskip("pyproj")
    half = 20037508.342789244
    shape = shape_of("EPSG:3857", -half, -half, half, half)
    assert shape.geom_type == "Polygon"
    # by definition of the projection: atan(sinh(pi))
    assert shape.bounds == pytest.approx((-180.0, -85.0511287798, 180.0, 85.0511287798))


def test_a_zone_at_the_antimeridian() -> None:
    pytest.importorskip("pyproj")
    shape = shape_of("EPSG:32660", 700000, 50000, 900000, 100000)
    east, west = shape.geoms
    assert east.bounds[0] > 178 and east.bounds[2] == 180.0
    assert west.bounds[0] == -180.0 and west.bounds[2] < -179
    # both parts meet: the same latitudes at the cut
    assert east.bounds[1::2] == pytest.approx(west.bounds[1::2], abs=0.02)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_around_a_pole(pole: float) -> None:
    pytest.importorskip("pyproj")
    side = np.sign(pole)
    shape = shape_of(NORTH if pole > 0 else SOUTH, -A, -A, A, A)
    assert shape.geom_type == "Polygon"
    west, south, east, north = shape.bounds
    assert (west, east) == (-180.0, 180.0)
    assert sorted((side * south, side * north)) == pytest.approx([CORNER, 90.0])
    # along the meridians of 0, 90 and 180 degrees the edge is 10 degrees from the pole
    for longitude in (-180, -90, 0, 90, 180):
        assert has(shape, longitude, side * 80.02) and not has(shape, longitude, side * 79.98)
    for longitude in (-135, -45, 45, 135):
        assert has(shape, longitude, side * (CORNER + 0.02))
        assert not has(shape, longitude, side * (CORNER - 0.02))
    assert has(shape, 12.3, pole)


def test_a_pole_at_a_corner() -> None:
    pytest.importorskip("pyproj")
    shape = shape_of(NORTH, 0, -A, A, 0)
    assert shape.bounds == pytest.approx((0.0, CORNER, 90.0, 90.0))
    assert has(shape, 1, 89.9) and has(shape, 89, 89.9) and not has(shape, -1, 89.9)
    # seen from above, the next quarter is that from 90 to 180 degrees
    assert shape_of(NORTH, 0, 0, A, A).bounds == pytest.approx((90.0, CORNER, 180.0, 90.0))


def test_a_pole_on_an_edge() -> None:
    pytest.importorskip("pyproj")
    for size in (A, 1.1 * A):  # a point of the outline at the pole, or none
        shape = shape_of(NORTH, 0, -A, A, size)
        west, _, east, north = shape.bounds
        assert (west, east, north) == pytest.approx((0.0, 180.0, 90.0))
        assert has(shape, 45, 89.99) and has(shape, 135, 89.99) and not has(shape, -45, 89.99)


@pytest.mark.parametrize("inside", [True, False])
def test_a_pole_near_an_edge(inside: bool) -> None:
    pytest.importorskip("pyproj")
    edge = -1000.0 if inside else 1000.0
    shape = shape_of(NORTH, edge, -A, A, A)
    # 1 km is 0.009 degrees
    assert has(shape, 90, 89.98) and has(shape, 0.5, 85) and has(shape, 179.5, 85)
    assert has(shape, -90, 89.995) is inside
    assert not has(shape, -90, 89.98) and not has(shape, -10, 85)


def test_beside_a_pole_and_across_the_antimeridian() -> None:
    pytest.importorskip("pyproj")
    # straight up from the pole is the antimeridian; to both sides 45 degrees at the near corners
    shape = shape_of(NORTH, -A, A, A, 2 * A)
    east, west = shape.geoms
    assert (east.bounds[0], east.bounds[2]) == pytest.approx((135.0, 180.0))
    assert (west.bounds[0], west.bounds[2]) == pytest.approx((-180.0, -135.0))
    assert east.bounds[3] == pytest.approx(80.0)  # the middle of the near edge


def test_curved_edges() -> None:
    pytest.importorskip("pyproj")
    # the parallel of 80 degrees is a circle, the edge a straight line inside of it
    shape = shape_of(NORTH, -A, -2 * A, A, -A)
    assert shape.bounds[3] == pytest.approx(80.0)
    for longitude in (-40.0, -17.0, 8.0, 31.0):
        latitude = 90 - degrees(2 * atan(A / (2 * R * np.cos(radians(longitude)))))
        assert has(shape, longitude, latitude - 0.01)
        assert not has(shape, longitude, latitude + 0.01)


def test_small_images_at_the_antimeridian_and_around_a_pole() -> None:
    for west, east in ((179.5, 180.5), (-180.5, -179.5)):
        shape = shape_of("EPSG:4326", west, 0, east, 1)
        assert geographic_bounds(shape) == [179.5, 0.0, -179.5, 1.0]
    pytest.importorskip("pyproj")
    shape = shape_of(NORTH, -100.0, -100.0, 100.0, 100.0)
    assert geographic_bounds(shape) == pytest.approx([-180.0, 89.9987, 180.0, 90.0], abs=1e-4)


def test_outer_pixels_past_the_poles() -> None:
    shape = shape_of("EPSG:4326", -181, -91, 179, 91)
    assert geographic_bounds(shape) == [-180.0, -90.0, 180.0, 90.0]


def test_files_without_a_footprint() -> None:
    assert footprint(None, *square(0, 0, 1, 1)) is None
    # metres that a file calls degrees
    assert footprint("EPSG:4326", *square(500000, 5000000, 500100, 5000100)) is None
    assert footprint("EPSG:4326", *square(2, 400, 5, 410)) is None
    assert footprint("EPSG:999999", *square(0, 0, 1, 1)) is None
    assert footprint("EPSG:4326", *square(0, 0, np.nan, 1)) is None
    assert footprint("EPSG:4326", *square(0, -96, 1, 0)) is None


DISC = "+proj=geos +h=35785831 +ellps=WGS84 +lon_0="
SINUSOIDAL = "+proj=sinu +lon_0=0 +R=6371007.181"
TILE = pi * 6371007.181 / 18
"""Size of the tiles of MODIS, in metres."""


@pytest.mark.parametrize(
    ("crs", "sides", "expected"),
    [
        (f"{DISC}0", (-5.5e6, -5.5e6, 5.5e6, 5.5e6), (-81.26, -81.29, 81.26, 81.29)),
        (f"{DISC}-137", (-5.5e6, -5.5e6, 5.5e6, 5.5e6), (141.74, -81.29, -55.74, 81.29)),
        (f"{DISC}0", (0, 0, 5.5e6, 5.5e6), (0, 0, 81.26, 81.29)),
        (SINUSOIDAL, (0, 8 * TILE, TILE, 9 * TILE), (0, 80, 180, 90)),
        (SINUSOIDAL, (-5 * TILE, 7 * TILE, -4 * TILE, 8 * TILE), (-180, 70, -116.95, 77.16)),
        (SINUSOIDAL, (17 * TILE, -2 * TILE, 18 * TILE, -TILE), (172.62, -19.19, 180, -10)),
        (SINUSOIDAL, (-18 * TILE, -9 * TILE, 18 * TILE, 9 * TILE), (-180, -90, 180, 90)),
        ("ESRI:54009", (-1.9e7, -9.1e6, 1.9e7, 9.1e6), (-180, -90, 180, 90)),
    ],
)
def test_images_whose_edges_are_off_the_globe(crs: str, sides: Any, expected: Any) -> None:
    """Such as full discs, and tiles of MODIS, whose edges wind around the globe in PROJ."""
    pytest.importorskip("pyproj")
    shape = footprint(crs, *square(*sides))
    assert shape is not None and shape.is_valid
    assert geographic_bounds(shape) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("crs", "transform", "raster"),
    [
        ("EPSG:3413", (360.0, -180.0, 1e-13, 0.0, 0.0, 1e-9), (2, 1)),
        ("EPSG:3857", (-1.0, 0.0, 1e300, 90.0, 180.0, 0.6), (2, 256)),
        ("EPSG:6933", (10.0, -1.0, 1e300, 90.0, 0.7, 0.001), (100, 256)),
        ("EPSG:3031", (0.8, -1.0, 10.0, 360.0, -180.0, 0.0), (1 << 31, 1)),
        ("EPSG:3413", (90.0, -180.0, 0.001, 90.0, 0.001, 360.0), (1 << 31, 256)),
        ("EPSG:4326", (1e-13, 0.0, 190.0, 0.0, -1e-13, 10.0), (10, 10)),
        ("EPSG:5773", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6), (1000, 1000)),
        ("EPSG:4978", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6), (1000, 1000)),
    ],
)
def test_no_transformation_stops_a_build(crs: str, transform: Any, raster: Any) -> None:
    """Outlines that cross themselves or vanish, and systems of heights or around the centre."""
    pytest.importorskip("pyproj")
    shape = footprint(crs, transform, raster)
    assert shape is None or not shape.is_empty
    assert shape is None or crs not in ("EPSG:5773", "EPSG:4978")


def test_images_that_are_off_the_globe() -> None:
    pytest.importorskip("pyproj")
    assert footprint(f"{DISC}0", *square(5e6, 5e6, 5.5e6, 5.5e6)) is None
    assert footprint(SINUSOIDAL, *square(9 * TILE, 8 * TILE, 10 * TILE, 9 * TILE)) is None
    assert footprint("EPSG:32633", *square(np.nan, 5e6, 5.1e5, 5.1e6)) is None


def test_fields_of_names_are_columns(built: Path) -> None:
    table = catalog.open(built / "c").table
    assert table["tile"].to_pylist() == ["A", "A", "B", "B"]
    assert [f"{time:%Y-%m-%d}" for time in table["time"].to_pylist()] == [
        "2022-05-01", "2022-05-02", "2022-05-01", "2022-05-02",
    ]  # fmt: skip


def test_the_index_is_geoparquet(built: Path) -> None:
    shapely = pytest.importorskip("shapely")
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(built / "c/catalog.parquet")
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["geometry_types"] == []  # rustac reads null of others only
    table = catalog.open(built / "c").table
    polygon = shapely.from_wkb(table["geometry"][0].as_py())
    box = table["bbox"][0].as_py()
    assert polygon.is_valid and polygon.exterior.is_ccw
    assert polygon.bounds == (box["xmin"], box["ymin"], box["xmax"], box["ymax"])


POINTS = [(0, 0, 179.5, 10.0), (8, 0, -179.5, 10.0), (0, 8, 179.5, 9.0), (8, 8, -179.0, 8.5)]
"""Column, row, longitude and latitude, across the antimeridian."""


def tie(places: list[tuple[float, float]]) -> tuple[float, ...]:
    return sum(((c, r, 0, x, y, 0) for (c, r, *_), (x, y) in zip(POINTS, places, strict=True)), ())


RPCS = [-1.0, -1.0, 4.0, 4.0, 9.0, 180.0, 0.0, 4.0, 4.0, 1.0, 0.5, 100.0, *[1.0] * 80]


@pytest.mark.parametrize(
    ("tags", "bounds"),
    [
        (
            geotags({1024: 2, 2048: 4326}, t33922=tie([(x, y) for *_, x, y in POINTS])),
            (179.5, 8.5, -179.0, 10.0),
        ),
        (
            geotags({1024: 1, 3072: 3857}, t33922=tie([(p[0] * 1e5, p[1] * -1e5) for p in POINTS])),
            (0.0, -7.168, 7.187, 0.0),
        ),
        ({50844: tuple(RPCS)}, (179.5, 8.0, -179.5, 10.0)),
        (geotags({1024: 2, 2048: 4326}, t33922=(0, 0, 0, 10, 45, 0)), None),
    ],
)  # fmt: skip
def test_control_points_and_sensor_models_have_a_footprint(
    tmp_path: Path, tags: dict, bounds: tuple | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), "u1"), extratags=extra_tags(tags))
    catalog.build(tmp_path / "a.tif", tmp_path / "c", stac=True)
    opened = catalog.open(tmp_path / "c")
    (row,) = opened.table.to_pylist()
    assert row["transform"] is row["bounds"] is None
    if bounds is None:  # a single point
        assert row["bbox"] is None
        return
    assert tuple(row["bbox"].values()) == pytest.approx(bounds, abs=1e-3)
    middle = bounds[2] - 0.2, 9.0 if bounds[1] > 0 else -3.0
    assert len(opened.query(bounds=(*middle, *middle))) == 1
    assert len(opened.query(bounds=(-100, 0, -90, 10))) == 0
    item = json.loads((tmp_path / "c/stac/items/a.json").read_text())
    assert tuple(item["bbox"]) == pytest.approx(bounds, abs=1e-3)
    assert "proj:transform" not in item["properties"]


@pytest.mark.parametrize(
    ("crs", "y", "is_known"),
    [
        (None, 1.0, False), ("EPSG:999999", 1.0, False), ("EPSG:32633", np.nan, False),
        ("EPSG:4326", np.nan, False), ("EPSG:4326", 1e300, False), ("EPSG:4326", 1.0, True),
    ],
)  # fmt: skip
def test_control_points_without_a_footprint(crs: str | None, y: float, is_known: bool) -> None:
    pytest.importorskip("pyproj")
    features = [{"geometry": {"coordinates": place}} for place in ((0, 0, 0), (1, 0, 0), (1, y, 0))]
    mapping = {"gcps": json.dumps({"features": features})}
    assert (outline_of_points(crs, mapping) is not None) == is_known
    assert outline_of_points(crs, {}) is None
