"""`ngff`: multiscales, grids of levels, channels."""

import numpy as np
import pytest

from tiffref.metadata.calibration import Calibration, Channel
from tiffref.metadata.ngff import (
    channel_names,
    level_factor,
    level_grid,
    multiscale,
    omero,
    physical_coordinates,
)

SIZES = Calibration({"Z": 2.0, "Y": 0.5, "X": 0.25, "T": 3.0}, {"Z": "micrometer", "T": "second"})


@pytest.mark.parametrize(
    ("full", "size", "factor"),
    [(1024, 512, 2), (1025, 512, 2), (1025, 513, 2), (1000, 250, 4), (7, 7, 1), (100, 30, 10 / 3)],
)
def test_factors_are_whole_where_sizes_were_rounded(full, size, factor):
    assert level_factor(full, size) == pytest.approx(factor)


def test_an_overview_starts_half_of_what_it_covers_minus_half_a_pixel_later():
    scale, translation = level_grid("CYX", (2, 64, 32), (2, 128, 128), SIZES)
    assert scale == [1.0, 1.0, 1.0]
    assert translation == [0.0, 0.25, 0.375]


def test_multiscale():
    levels = [("image", (2, 3, 8, 8)), ("image_1", (2, 3, 4, 4))]
    found = multiscale("n", "TZYX", ("t", "z", "y", "x"), levels, SIZES)
    assert found["version"] == "0.4"
    assert found["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "z", "type": "space", "unit": "micrometer"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    assert [one["path"] for one in found["datasets"]] == ["image", "image_1"]
    first, second = found["datasets"][1]["coordinateTransformations"]
    assert first == {"type": "scale", "scale": [3.0, 2.0, 1.0, 0.5]}
    assert second == {"type": "translation", "translation": [0.0, 0.0, 0.25, 0.125]}


@pytest.mark.parametrize(
    ("axes", "is_valid"),
    [("YX", 1), ("CYX", 1), ("IYX", 1), ("TCZYX", 1), ("YXS", 0), ("TZCYX", 0), ("ZXY", 0),
     ("ICYX", 0), ("X", 0), ("XYZ", 0), ("CTYX", 0)],
)  # fmt: skip
def test_only_axes_that_the_specification_admits(axes, is_valid):
    shape = (4,) * len(axes)
    found = multiscale("n", axes, tuple(axes.lower()), [("image", shape)], Calibration())
    assert (found is not None) == is_valid


def test_omero():
    channels = (Channel("DAPI", "0000FF", (10.0, 20.0)), Channel())
    first, second = omero("n", channels, np.dtype("u2"))["channels"]
    assert first["window"] == {"min": 0.0, "max": 65535.0, "start": 10.0, "end": 20.0}
    assert (first["label"], first["color"]) == ("DAPI", "0000FF")
    assert (second["label"], second["window"]["end"]) == ("Channel 1", 65535.0)


def test_channel_names_are_a_coordinate_only_if_each_has_its_own():
    a, b = Channel("a"), Channel("b")
    assert channel_names((a, b), 2) == ["a", "b"]
    assert channel_names((a, a), 2) is None
    assert channel_names((a, Channel()), 2) is None
    assert channel_names((a, b), 3) is None


def test_coordinates_are_known_scales_or_times():
    calibration = Calibration({"X": 0.5}, {"X": "micrometer"}, times=(0.0, 2.0, 5.0))
    found = physical_coordinates("TYX", (3, 2, 4), (3, 2, 8), calibration)
    assert found["T"][0].tolist() == [0, 2, 5]
    assert found["X"][0].tolist() == [0.25, 1.25, 2.25, 3.25]
    assert found["X"][1] == {"axis": "X", "units": "micrometer"}
    assert "Y" not in found
