"""Footprints on the globe."""

from __future__ import annotations

import numpy as np
import pytest

from tiffref.catalog.footprint import footprint, outline_of, ring_bounds, to_geojson, to_wkb

ONE = (1.0, 0.0, 10.0, 0.0, -1.0, 50.0)


def test_a_raster_in_degrees() -> None:
    rings = footprint("EPSG:4326", outline_of(ONE, (5, 8)))
    assert rings is not None and ring_bounds(rings) == [10.0, 45.0, 18.0, 50.0]
    assert to_geojson(rings)["type"] == "Polygon"


@pytest.mark.parametrize("west", [178.0, -182.0])
def test_across_the_antimeridian(west: float) -> None:
    shapely = pytest.importorskip("shapely")
    rings = footprint("EPSG:4326", outline_of((1.0, 0.0, west, 0.0, -1.0, 2.0), (4, 5)))
    assert rings is not None and ring_bounds(rings) == [178.0, -2.0, -177.0, 2.0]
    both = shapely.from_wkb(to_wkb(rings))
    assert both.is_valid and both.geom_type == "MultiPolygon" and both.area == pytest.approx(20)


def test_a_zone_at_the_antimeridian() -> None:
    pytest.importorskip("pyproj")
    outline = outline_of((1000.0, 0.0, 700000.0, 0.0, -1000.0, 100000.0), (50, 200))
    rings = footprint("EPSG:32660", outline)
    assert rings is not None and len(rings) == 2
    west, _, east, _ = ring_bounds(rings)
    assert 178 < west < 180 and -180 < east < -179


def test_what_has_no_place() -> None:
    outline = outline_of(ONE, (2, 2))
    assert footprint(None, outline) is None
    assert footprint("EPSG:999999", outline) is None
    assert footprint("EPSG:4326", np.full_like(outline, np.nan)) is None
