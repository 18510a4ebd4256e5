"""`gdal`: metadata items and nodata."""

import json
import math

import numpy as np
import pytest

from tiffref.errors import MalformedTiff, MetadataWarning
from tiffref.metadata.gdal import color_attributes, parse_gdal_metadata, parse_nodata
from tiffref.metadata.report import Report

STRICT = Report("a.tif", is_strict=True)


def attributes(xml, n_bands=1, report=STRICT, dtype="u1"):
    found = parse_gdal_metadata(f"<GDALMetadata>{xml}</GDALMetadata>", report)
    return found.attributes(n_bands, np.dtype(dtype), report)


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


@pytest.mark.parametrize("n_bands", [1, 2])
def test_scales_of_complex_numbers_are_not_applied_to_their_real_part(n_bands):
    xml = roles("SCALE", "scale", *[0.5] * n_bands)
    found = attributes(xml, n_bands, dtype="c8")
    assert found == {"scales": [0.5] * n_bands, "offsets": [0.0] * n_bands}
    assert attributes(roles("SCALE", "scale", 1.0), dtype="c8") == {}


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
        found = parse_gdal_metadata(text, Report("a.tif"))
    assert found.attributes(1, np.dtype("u1"), STRICT) == {}


@pytest.mark.parametrize(
    "broken",
    [
        '<Item name="A & B">1</Item>',
        '<Item name="A">1 & 2</Item>',
        '<Item name="A">1</Itme>',
        "\x01",
        "<Item",
    ],
)
def test_what_breaks_the_xml_loses_no_whole_item(broken):
    text = f"<GDALMetadata>{broken}{roles('SCALE', 'scale', 0.5)}</GDALMetadata>"
    with pytest.warns(MetadataWarning, match="not valid XML"):
        found = parse_gdal_metadata(text, Report("a.tif")).attributes(1, np.dtype("u1"), STRICT)
    assert found["scale_factor"] == 0.5


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "0", "abc", "", "5x"])
@pytest.mark.parametrize(("name", "role"), [("SCALE", "scale"), ("OFFSET", "offset")])
def test_a_scale_or_offset_without_sense_leaves_the_band_as_it_is(name, role, text):
    if (role, text) == ("offset", "0"):
        assert attributes(roles(name, role, text)) == {}
        return
    xml = roles(name, role, text) + roles("DESCRIPTION", "description", "red")
    with pytest.warns(MetadataWarning, match=f"the {role} of a band is not valid"):
        assert attributes(xml, report=Report("a.tif")) == {"long_name": "red"}
    with pytest.raises(MalformedTiff, match="GDAL_METADATA"):
        attributes(xml)
    with pytest.warns(MetadataWarning):
        found = attributes(roles(name, role, text, 2), 2, Report("a.tif"))
    assert found == {"scales": [1.0, 2.0 if role == "scale" else 1.0],
                     "offsets": [0.0, 2.0 if role == "offset" else 0.0]}  # fmt: skip


def test_a_scale_has_a_decimal_comma_as_in_gdal():
    assert attributes(roles("SCALE", "scale", "0,5")) == {"scale_factor": 0.5}


def test_numbers_have_plain_digits_as_in_gdal():
    """Python takes others for numbers, too."""
    with pytest.warns(MetadataWarning, match="the scale of a band is not valid"):
        assert attributes(roles("SCALE", "scale", "\u0663"), report=Report("a.tif")) == {}


def test_names_of_roles_and_namespaces_are_as_in_gdal():
    item = '<Item name="SCALE" sample="0" role="Scale">0.5</Item>'
    text = f'<GDALMetadata xmlns="https://gdal.org">{item}</GDALMetadata>'
    found = parse_gdal_metadata(text, STRICT).attributes(1, np.dtype("u1"), STRICT)
    assert found == {"scale_factor": 0.5}


def test_what_is_not_finite_is_a_text():
    json.dumps(
        attributes('<Item name="a">{1,nan}</Item><Item name="b">inf</Item>'), allow_nan=False
    )


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("255", "u1", (255, 255)),
        ("256", "u1", (None, 255)),
        ("-9999", "u2", (None, 0)),
        ("1.5", "i2", (1, 2)),
        ("-1.5", "i2", (-1, -2)),
        ("255.5", "u1", (None, 255)),
        ("-0.5", "u1", (None, 0)),
        ("inf", "u1", (None, 255)),
        ("nan", "i2", (None, 0)),
        ("-9999\0", "f4", (-9999.0, -9999.0)),
        ("-9999,0", "i2", (-9999, -9999)),
        ("-9999,5", "f8", (-9999.5, -9999.5)),
        ("-3,4028234663852886e+38", "f4", (np.finfo("f4").min, np.finfo("f4").min)),
        ("0 0 0", "u1", (0, 0)),
        ("0,0,0", "u1", (0, 0)),
        ("7 7", "u1", (7, 7)),
        ("nan nan", "u1", (None, 0)),
        (" 5\n", "u1", (5, 5)),
        ("1e2", "u1", (100, 100)),
        ("9007199254740993", "i8", (9007199254740993, 9007199254740993)),
        ("18446744073709551615", "u8", (2**64 - 1, 2**64 - 1)),
        ("-9999", "u8", (None, 2**64 - 9999)),
        ("-1e30", "u8", (None, 0)),
        ("1e300", "f4", (math.inf, math.inf)),
        ("1e300", ">f4", (math.inf, math.inf)),
        ("-9999", ">u8", (None, 2**64 - 9999)),
        ("-65520", "f2", (None, -math.inf)),
        ("-inf", "f2", (-math.inf, -math.inf)),
        ("1e300", "c8", (None, math.inf)),
        ("0", "b1", (False, False)),
        ("2", "b1", (None, True)),
        (None, "u1", (None, None)),
        ("", "u1", (None, None)),
    ],
)
def test_nodata(text, dtype, expected):
    assert parse_nodata(text, np.dtype(dtype), STRICT) == expected


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        ("<i8", "-9.2233720368547758e+18", -(2**63)),  # the least, as rasterio writes it
        (">i8", "9.2233720368547758e+18", 2**63 - 1),
        (">u8", "1.8446744073709552e+19", 2**64 - 1),
        ("<u8", "9.2233720368547758e+18", 2**63),
        ("<i8", "1e10", 10**10),
        (">i8", "-12.9", -12),
        ("<u8", ".5", 0),
        (">u8", "-.5", 0),
    ],
)
def test_nodata_of_64_bits(dtype, text, expected):
    assert parse_nodata(text, np.dtype(dtype), STRICT) == (expected, expected)


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "-1.#IND", "1.#QNAN", "-1.#IND00"])
def test_nodata_that_is_nan(text):
    assert all(map(math.isnan, parse_nodata(text, np.dtype("f4"), STRICT)))


def test_nodata_that_is_not_a_number():
    for value in ("none", "7abc", "#", np.arange(3)):
        # the last is a tag of many numbers where a text should be
        with pytest.warns(MetadataWarning, match=r"GDAL_NODATA \(42113\)"):
            assert parse_nodata(value, np.dtype("u1"), Report("a.tif")) == (None, None)


@pytest.mark.parametrize(("text", "first"), [("1 2", 1), ("7,8,9", 7), ("nan 0", None)])
def test_bands_with_nodata_of_their_own_take_the_first(text, first):
    with pytest.warns(MetadataWarning, match="the first one is used"):
        assert parse_nodata(text, np.dtype("u1"), Report("a.tif"))[0] == first


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
