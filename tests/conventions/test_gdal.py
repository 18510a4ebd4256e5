"""`gdal`: metadata items and nodata."""

import math

import numpy as np
import pytest

from tiffref.conventions.gdal import (
    color_attributes,
    parse_gdal_metadata,
    parse_nodata,
    parse_rpcs,
)
from tiffref.conventions.report import Report
from tiffref.errors import MetadataWarning

STRICT = Report("a.tif", is_strict=True)


def attributes(xml, n_bands=1):
    return parse_gdal_metadata(f"<GDALMetadata>{xml}</GDALMetadata>", STRICT).attributes(n_bands)


def test_items_become_attributes_with_numbers_as_numbers():
    found = attributes(
        '<Item name="a">text</Item><Item name="NC_GLOBAL#b/c">1.5</Item>'
        '<Item name="list">{1,2.5}</Item><Item name="d" domain="RPC">x</Item>'
    )
    assert found == {"a": "text", "b_c": 1.5, "list": [1.0, 2.5]}


def test_names_that_readers_act_on_are_not_attributes():
    assert attributes('<Item name="scale_factor">7</Item><Item name="_FillValue">1</Item>') == {}


def roles(name, role, *values):
    return "".join(
        f'<Item name="{name}" sample="{n}" role="{role}">{value}</Item>'
        for n, value in enumerate(values)
    )


def test_scale_and_offset_of_all_bands():
    found = attributes(roles("SCALE", "scale", 0.5, 0.5) + roles("OFFSET", "offset", 3, 3), 2)
    assert found == {"scale_factor": 0.5, "add_offset": 3.0}


def test_scales_that_differ_are_not_applied_by_half():
    found = attributes(roles("SCALE", "scale", 0.5, 0.25) + roles("OFFSET", "offset", 3, 3), 2)
    assert found == {"scales": [0.5, 0.25], "offsets": [3.0, 3.0]}


def test_a_scale_of_one_is_no_packing():
    assert attributes(roles("SCALE", "scale", 1.0)) == {}


def test_descriptions_and_units():
    found = attributes(roles("DESCRIPTION", "description", "red", "", "blue"), 3)
    assert found == {"long_name": ["red", "", "blue"]}
    assert attributes(roles("UNITTYPE", "unittype", "m", "m"), 2) == {"units": "m"}
    twice = roles("DESCRIPTION", "description", "a=&amp;quot;b&amp;quot;")
    assert attributes(twice) == {"long_name": 'a="b"'}


def test_statistics_are_lists_over_bands():
    xml = '<Item name="STATISTICS_MEAN" sample="0">1.5</Item>'
    assert attributes(xml) == {"STATISTICS_MEAN": 1.5}
    second = '<Item name="STATISTICS_MEAN" sample="1">2.5</Item>'
    assert attributes(xml + second, 2) == {"STATISTICS_MEAN": [1.5, 2.5]}


@pytest.mark.parametrize(
    "text", ["<GDALMetadata><Item", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>']
)
def test_bad_xml_is_reported(text):
    with pytest.warns(MetadataWarning, match=r"GDAL_METADATA \(42112\).*not valid XML"):
        assert parse_gdal_metadata(text, Report("a.tif")).attributes(1) == {}


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("255", "u1", (255, 255.0)),
        ("256", "u1", (None, 256.0)),
        ("-9999", "u2", (None, -9999.0)),
        ("1.5", "i2", (None, 1.5)),
        ("-9999\0", "f4", (-9999.0, -9999.0)),
        ("9007199254740993", "i8", (9007199254740993, 9007199254740992.0)),
        ("1e300", "f4", (None, 1e300)),
        ("0", "b1", (False, 0.0)),
        ("2", "b1", (None, 2.0)),
        (None, "u1", (None, None)),
        ("", "u1", (None, None)),
    ],
)
def test_nodata(text, dtype, expected):
    assert parse_nodata(text, np.dtype(dtype), STRICT) == expected


def test_nodata_that_is_not_a_number():
    for text in ("nan", "-1.#IND"):
        fill, nodata = parse_nodata(text, np.dtype("f4"), STRICT)
        assert math.isnan(fill)
        assert math.isnan(nodata)
    fill, nodata = parse_nodata("nan", np.dtype("u1"), STRICT)
    assert fill is None
    with pytest.warns(MetadataWarning, match=r"GDAL_NODATA \(42113\)"):
        assert parse_nodata("none", np.dtype("u1"), Report("a.tif")) == (None, None)
    with pytest.warns(MetadataWarning):  # a tag of many numbers where a text should be
        assert parse_nodata(np.arange(3), np.dtype("u1"), Report("a.tif")) == (None, None)


def test_colors():
    assert color_attributes(2, (2,), 4, {})["color_interpretation"] == [
        "red",
        "green",
        "blue",
        "alpha",
    ]
    assert color_attributes(2, (), 1 << 40, {}) == {}
    assert color_attributes(3, (), 1, {})["color_interpretation"] == "palette"
    assert color_attributes(1, (0, 0), 3, {}) == {}
    assert color_attributes(1, (0,), 2, {1: "Alpha"})["color_interpretation"] == ["gray", "alpha"]


def test_rpcs():
    found = parse_rpcs(tuple(float(n) for n in range(92)), STRICT)
    assert '"line_off": 2.0' in found
    assert '"samp_den_coeff": [72.0' in found
    with pytest.warns(MetadataWarning, match="RPCCoefficient"):
        assert parse_rpcs((1.0,), Report()) is None
