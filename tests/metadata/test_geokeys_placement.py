"""`placement`: the tags that say where the pixels are."""

import math

import numpy as np
import pytest

from tiffref.errors import MetadataWarning
from tiffref.metadata.geokeys import (
    MAX_COORDINATE,
    GeoKeys,
    Placement,
    parse_placement,
    pixel_centres,
)
from tiffref.metadata.report import Report

AREA, POINT = GeoKeys({1025: 1}), GeoKeys({1025: 2})
MATRIX = (1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 0.0, 6.0, *(0.0,) * 7, 1.0)
TIE = (1.0, 2.0, 0.0, 10.0, 20.0, 0.0)


def placed(tags, keys=AREA):
    return parse_placement(tags, keys, Report("a.tif", is_strict=True))


# expected: what GDAL 3.12 gives for the same tags
@pytest.mark.parametrize(
    ("tags", "keys", "expected"),
    [
        ({33550: (2.0, 3.0, 0.0), 33922: TIE}, AREA, (2, 0, 8, 0, -3, 26)),
        ({33550: (2.0, 3.0, 0.0), 33922: TIE}, POINT, (2, 0, 7, 0, -3, 27.5)),
        ({33550: (2.0, -3.0, 0.0), 33922: TIE}, AREA, (2, 0, 8, 0, -3, 26)),
        ({33550: (-2.0, 3.0, 0.0), 33922: TIE}, AREA, (-2, 0, 12, 0, -3, 26)),
        ({33550: (2.0, 3.0, 0.0)}, POINT, (2, 0, 0, 0, -3, 0)),
        ({34264: MATRIX}, AREA, (1, 2, 3, 4, 5, 6)),
        ({34264: MATRIX}, POINT, (1, 2, 1.5, 4, 5, 1.5)),
        ({33550: (2.0, 3.0, 0.0), 33922: TIE, 34264: MATRIX}, AREA, (2, 0, 8, 0, -3, 26)),
        ({}, AREA, None),
    ],
)
def test_transformation(tags, keys, expected):
    assert placed(tags, keys).transform == expected


def test_tiepoints_alone_are_control_points():
    ties = (0.0, 1.0, 0.0, 10.0, 20.0, 5.0, 4.0, 0.0, 0.0, 18.0, 20.0, 0.0)
    assert placed({33922: ties}).gcps == ((1, 0, 10, 20, 5), (0, 4, 18, 20, 0))
    assert placed({33922: ties}, POINT).gcps[0] == (1.5, 0.5, 10, 20, 5)
    assert placed({33922: ties}).transform is None


@pytest.mark.parametrize(
    ("tags", "key"),
    [
        ({33550: (2.0, math.inf, 0.0), 33922: TIE}, "ModelPixelScale (33550)"),
        (
            {33550: (2.0, 3.0, 0.0), 33922: (*TIE[:3], math.nan, 1.0, 0.0)},
            "ModelPixelScale (33550)",
        ),
        ({34264: (0.0,) * 16}, "ModelTransformation (34264)"),
        ({34264: (1.0, 2.0)}, "ModelTransformation (34264)"),
        ({33922: (0.0, 0.0)}, "ModelTiepoint (33922)"),
    ],
)
def test_defects_are_reported_and_give_no_georeference(tags, key):
    with pytest.warns(MetadataWarning) as caught:
        found = parse_placement(tags, AREA, Report("a.tif"))
    assert found.transform is None
    assert [warning.message.key for warning in caught] == [key]
    assert caught[0].message.url == "a.tif"


def test_a_nan_tiepoint_leaves_the_others():
    ties = (*TIE, 0.0, 0.0, 0.0, math.nan, 1.0, 0.0)
    with pytest.warns(MetadataWarning, match="tiepoints are not finite"):
        assert len(parse_placement({33922: ties}, AREA, Report()).gcps) == 1


def test_centres_are_half_a_pixel_in():
    assert pixel_centres(10.0, 0.0, 100.0, 3).tolist() == [105, 115, 125]
    assert pixel_centres(-20.0, 0.0, 50.0, 2).tolist() == [40, 20]
    assert pixel_centres(1.0, 0.5, 0.0, 3) is None
    assert pixel_centres(1.0, 0.0, 0.0, MAX_COORDINATE + 1) is None
    assert pixel_centres(1e308, 0.0, 0.0, 3) is pixel_centres(1.0, 0.0, float("inf"), 3) is None


def test_centres_are_those_of_rioxarray_to_the_last_bit():
    affine = pytest.importorskip("affine")
    transform = (0.1, 0.0, 1 / 3, 0.0, -0.7, 1e6 / 7)
    x, y = (
        pixel_centres(*transform[:3], 1000),
        pixel_centres(transform[4], transform[3], transform[5], 900),
    )
    shifted = affine.Affine(*transform) @ affine.Affine.translation(0.5, 0.5)
    expected_x, _ = shifted @ (np.arange(1000), np.zeros(1000))
    _, expected_y = shifted @ (np.zeros(900), np.arange(900))
    assert (x == expected_x).all()
    assert (y == expected_y).all()


RPCS = tuple(float(n) for n in range(1, 93))


def test_an_overview_covers_the_same_ground():
    full = Placement((10.0, 0, 100, 0, -20, 50), ((6.0, 5.0, 1.0, 2.0, 0.0),))
    smaller = full.of_level(5 / 2, 3.0)
    assert smaller.transform == (25, 0, 100, 0, -60, 50)
    assert smaller.gcps == ((2.0, 2.0, 1.0, 2.0, 0.0),)
    model = placed({50844: RPCS}).of_level(2.0, 4.0).rpcs
    # offsets are those of pixel centres
    assert (model["line_off"], model["line_scale"]) == (3.5 / 4 - 0.5, 8 / 4)
    assert (model["samp_off"], model["samp_scale"]) == (4.5 / 2 - 0.5, 9 / 2)


def test_a_sensor_model():
    model = placed({50844: RPCS}).rpcs
    assert (model["err_bias"], model["line_off"], model["height_scale"]) == (1, 3, 12)
    assert model["samp_den_coeff"] == [float(n) for n in range(73, 93)]
    identity = (1.0, *[0.0] * 4, 1.0, *[0.0] * 9, 1.0)
    for wrong in (RPCS[:91], (math.nan, *RPCS[1:])):
        with pytest.warns(MetadataWarning, match="RPCCoefficient"):
            assert parse_placement({50844: wrong}, AREA, Report()).rpcs is None
        with pytest.warns(MetadataWarning, match="RPCCoefficient"):
            found = parse_placement({34264: identity, 50844: wrong}, AREA, Report())
        assert found.transform is None


@pytest.mark.parametrize(("tags", "is_placed"), [
    ({34264: (1.0, *[0.0] * 4, 1.0, *[0.0] * 9, 1.0)}, False),
    ({33550: (1.0, 1.0, 0.0), 33922: (0.0,) * 6}, False),
    ({33550: (1.0, 1.0, 0.0), 33922: (*(0.0,) * 3, 7.0, 8.0, 0.0)}, True),
    ({34264: MATRIX}, True),
])  # fmt: skip
@pytest.mark.parametrize("keys", [AREA, POINT])
def test_pixel_coordinates_beside_a_sensor_model_are_no_georeference(tags, is_placed, keys):
    assert (placed({**tags, 50844: RPCS}, keys).transform is not None) == is_placed
    assert placed(tags, keys).transform is not None
