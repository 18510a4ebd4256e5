"""Names to fields, and fields to axes."""

import re

import numpy as np
import pytest

from tiffref.errors import ManifestMismatch, SelectionError
from tiffref.sequences.coordinates import make_axis, read_values
from tiffref.sequences.names import PRESETS, parse_pattern, read_names, to_glob


def read(names, pattern, formats=None):
    parsed = parse_pattern(pattern, formats)
    columns = read_names(names, parsed)
    return {
        key: read_values(key, column, parsed.formats.get(key)) for key, column in columns.items()
    }


def test_readable_form():
    names = ["/d/S2A_33UUP_20220510_B08.tif", "/d/S2A_33UUP_20220505_B04.tif"]
    fields = read(names, "S2A_{tile}_{time:%Y%m%d}_{band}.tif")
    assert list(fields) == ["tile", "time", "band"]
    assert fields["time"].astype("M8[D]").astype(str).tolist() == ["2022-05-10", "2022-05-05"]
    assert fields["band"].tolist() == ["B08", "B04"]
    axis = make_axis("time", fields["time"])
    assert axis.length == 2
    assert axis.index.tolist() == [1, 0]
    assert axis.to_array().attributes["units"] == "seconds since 1970-01-01"


def test_readable_form_across_folders_and_with_wildcards():
    names = ["/x/t001/c2_a.tif", "/x/t010/c1_zz.tif"]
    fields = read(names, "t{t}/c{c:d}_*.tif")
    assert fields["t"].tolist() == [1, 10]
    assert fields["c"].tolist() == [2, 1]


def test_a_field_twice_must_agree():
    assert read(["A_1_A.tif"], "{row}_{t}_{row}.tif")["row"].tolist() == ["A"]
    with pytest.raises(ManifestMismatch, match=r"A_1_B\.tif"):
        read(["A_1_B.tif"], "{row}_{t}_{row}.tif")


def test_regular_expression_searches_names_then_folders():
    assert read(["/t9/img_t1_c2.tif"], r"t(?P<T>\d+)_c(?P<C>\d+)")["T"].tolist() == [1]
    fields = read(["/d/t1/img.tif", "/d/t2/img.tif"], r"t(?P<T>\d+)")
    assert fields["T"].tolist() == [1, 2]


def test_unnamed_groups_are_named_by_the_letter_before():
    fields = read(["img_c1_t2.tif", "img_c3_t4.tif"], "axes")
    assert {key: value.tolist() for key, value in fields.items()} == {"c": [1, 3], "t": [2, 4]}
    assert read(["a12.tif"], r"a(\d)(\d)") == {"i": 1, "i2": 2}
    # tifffile takes capital letters as well
    fields = read(["img_C1_T02.tif", "img_C3_t4.tif"], "axes")
    assert {key: value.tolist() for key, value in fields.items()} == {"c": [1, 3], "t": [2, 4]}
    assert list(read(["img_C1.tif"], r"_(C)(\d)")) == ["C"]


def test_names_that_fit_no_preset_get_a_suggestion():
    with pytest.raises(ManifestMismatch, match=r"expected 'modis', M\[OYC\]D.*\?P<time>"):
        read(["a.tif"], "modis")


def test_wildcards_of_a_glob_are_fields():
    assert read(["img_03.tif", "img_1.tif"], "img_*.tif")["i"].tolist() == [3, 1]


def test_names_that_do_not_match_are_named():
    names = [f"img_{n}.tif" for n in range(5)] + ["other.tif", "thing.tif"]
    with pytest.raises(ManifestMismatch, match=r"2 of 7 names.*other\.tif, thing\.tif"):
        read(names, "img_{t}.tif")


@pytest.mark.parametrize("pattern", ["img", "(", "img_{t:%q"])
def test_invalid_patterns_are_refused(pattern):
    with pytest.raises(SelectionError):
        read(["img_1.tif"], pattern)


def test_unknown_format():
    with pytest.raises(SelectionError, match="unknown field format"):
        parse_pattern("img_{t:foo}.tif")


EXAMPLES = {
    "sentinel-2": (
        ["T33UUP_20220505T101559_B04_10m.tif", "L2A_T33UUP_20220510T101559_B8A.tif"],
        {"tile": ["33UUP"] * 2, "band": ["B04", "B8A"]},
    ),
    "landsat": (
        ["LC08_L2SP_190024_20220505_20220510_02_T1_SR_B4.TIF"],
        {"tile": ["190024"], "band": ["SR_B4"]},
    ),
    "modis": (
        ["MOD13Q1.A2022129.h18v04.061.2022145123456.NDVI.tif"],
        {"tile": ["h18v04"], "band": ["NDVI"], "time": [np.datetime64("2022-05-09")]},
    ),
    "cellvoyager": (
        ["Plate_B03_T0001F002L01A01Z04C05.tif"],
        {"row": ["B"], "column": [3], "t": [1], "field": [2], "z": [4], "c": [5]},
    ),
    "opera": (
        ["r02c03f04p05-ch6sk7fk1fl1.tiff"],
        {"row": [2], "column": [3], "field": [4], "z": [5], "c": [6], "t": [7]},
    ),
    "incell": (
        ["B - 2(fld 1 wv DAPI - DAPI z 3).tif"],
        {"row": ["B"], "column": [2], "field": [1], "c": ["DAPI - DAPI"], "z": [3]},
    ),
    "micromanager": (
        ["img_000000003_Default_001.tif"],
        {"t": [3], "c": ["Default"], "z": [1]},
    ),
    "axes": (["a_t01_z02.tif"], {"t": [1], "z": [2]}),
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets(preset):
    names, expected = EXAMPLES[preset]
    fields = read(names, preset)
    assert {key: fields[key].tolist() for key in expected} == {
        key: np.asarray(value).tolist() if key != "time" else np.asarray(value, "M8[s]").tolist()
        for key, value in expected.items()
    }


def test_the_other_names_of_sentinel_2():
    fields = read(["/b/S2A_33UUP_20220505_0_L2A/B04.tif", "/b/S2A_33UUP_20220505_0_L2A/B08.tif"],
                  "sentinel-2")  # fmt: skip
    assert fields["band"].tolist() == ["B04", "B08"]


def test_a_readable_pattern_is_its_own_glob():
    glob = to_glob("/d/S2_{time:%Y%m%d}_{band}.tif")
    assert re.fullmatch(r"/d/S2_\*_\*\.tif", glob)
    assert to_glob("/d/{time:%Y/%m/%d}/{band}.tif") == "/d/*/*/*/*.tif"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{a}_{b}_{c}_{d}_{e}_{f}_{g}_{h}.tif", "x_" * 500 + ".tix"),
        ("{}_*_{c}_*_{e}_*_{g}_{h}.tif", "x_" * 500 + ".tix"),
        ("*a*a*a*a*a*a*a*a.tif", "a" * 1000 + ".tix"),
    ],
)
def test_names_that_fit_in_many_ways_are_found_out_at_once(pattern: str, name: str) -> None:
    """There are 10 ** 17 ways to choose the separators of eight fields; nobody tries them."""
    with pytest.raises(ManifestMismatch):
        read_names([name], parse_pattern(pattern))


@pytest.mark.parametrize(
    "kind",
    [
        "{a}_{b}_{c}_{d}_{n:d}.tif",
        "{a:s}_{b:s}_{c:s}_{d:s}.tiff",
        "{a}_{n:d}_{b}_{m:d}_{c}_{t:%H%M}_{d}.tiff",
        "{a}{b}{c}{d}-",
    ],
)
def test_fields_are_matched_without_trying_all_places(kind: str) -> None:
    """The groups of all fields but the last are atomic."""
    expression = parse_pattern(kind).expressions[0].pattern
    n_free = sum(f"(?P<{name}>[^/]+?)" in expression for name in "abcd")
    assert expression.count("(?>") == n_free - 1 == 3


def test_atomic_groups_change_no_match() -> None:
    """All short names, with and without them."""
    pieces = ("{a}", "{b:s}", "{n:d}", "{m:d}", "*", "_", "1", "x_", "/", "{x:f}", "{t:%H}", "{a}")
    random = np.random.default_rng(1)
    names = ["".join(letters) for n in range(9) for letters in
             random.choice(list("x1_./1_"), (60, n)).tolist()]  # fmt: skip
    n_matches = n_atomic = 0
    for _ in range(400):
        text = "".join(random.permutation(pieces)[: random.integers(2, 8)]) + "{z}"
        try:
            (atomic,) = parse_pattern(text).expressions
        except SelectionError:
            continue
        plain = re.compile(atomic.pattern.replace("(?>", "(?:"))
        n_atomic += atomic.pattern != plain.pattern
        for name in names:
            found, expected = atomic.fullmatch(name), plain.fullmatch(name)
            assert (found and found.groupdict()) == (expected and expected.groupdict()), text
            n_matches += found is not None
    assert n_matches > 1000 and n_atomic > 100


def test_fields_end_where_what_follows_comes_first() -> None:
    read = lambda pattern, name: {  # noqa: E731
        key: values[0] for key, values in read_names([name], parse_pattern(pattern)).items()
    }
    assert read("{a}_{b}_{c}.tif", "x_y_z_w.tif") == {"a": "x", "b": "y", "c": "z_w"}
    assert read("{a}_{n:int}.tif", "x_y_3.tif") == {"a": "x_y", "n": "3"}
    assert read("{a}_{b}_{a}.tif", "x_y_z_x_y.tif") == {"a": "x_y", "b": "z"}
    assert read("a*a*.tif", "abaca.tif") == {"i": "b", "i2": "ca"}
