"""Fields to coordinates: what values are, and the axes they make."""

import contextlib

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import ManifestMismatch, MetadataWarning, SelectionError
from tiffref.sequences.coordinates import Axis, join_axes, make_axis, order_axes, read_values


@pytest.mark.parametrize(
    ("name", "column", "kind", "expected"),
    [
        ("band", ["04", "08"], None, np.array([4, 8])),
        ("band", ["04", "8A"], None, np.array(["04", "8A"])),
        ("band", ["04", "08"], "str", np.array(["04", "08"])),
        ("x", ["1.5", "-2"], None, np.array([1.5, -2.0])),
        ("t", ["20220505", "20220506"], None, np.array([20220505, 20220506])),
        ("time", ["20220505", "20220506"], None, np.array(["2022-05-05", "2022-05-06"], "M8[s]")),
        ("time", ["001", "002"], None, np.array([1, 2])),
        ("t", ["2022-05-05T10:00:00Z"], None, np.array(["2022-05-05T10:00"], "M8[s]")),
        (
            "t",
            ["2022-05-05T12:00:00.250+02:00"],
            None,
            np.array(["2022-05-05T10:00:00.250"], "M8[ms]"),
        ),
        ("time", ["202205051004"], None, np.array(["2022-05-05T10:04"], "M8[s]")),
        ("time", ["202211", "202212"], None, np.array([202211, 202212])),
        ("date", ["2022031"], None, np.array([2022031])),  # day 31, not 1 March
        (
            "t",
            ["20220505T100000Z", "20220505T120000+0200"],
            None,
            np.array(["2022-05-05T10:00"] * 2, "M8[s]"),
        ),
        ("t", ["100004.25"], "%H%M%S.%f", np.array(["1900-01-01T10:00:04.250"], "M8[ms]")),
        ("t", ["2022-5-6"], "%Y-%m-%d", np.array(["2022-05-06"], "M8[s]")),
        ("t", ["18500101"], "%Y%m%d", np.array(["1850-01-01"], "M8[s]")),
        ("t", ["9999"], "%Y", np.array(["9999-01-01"], "M8[s]")),
        ("time", ["18500101"], None, np.array([18500101])),  # no likely time
        ("t", ["2024366"], "%Y%j", np.array(["2024-12-31"], "M8[s]")),
        ("t", ["2022129"], "%Y%j", np.array(["2022-05-09"], "M8[s]")),
        ("t", [3, 1], None, np.array([3, 1])),
        ("t", [0.5, 1], None, np.array([0.5, 1.0])),
        ("cell", [1 << 63, 1], None, np.array(["9223372036854775808", "1"])),
    ],
)
def test_values_are_parsed_by_their_form(name, column, kind, expected):
    values = read_values(name, column, kind)
    assert values.dtype == expected.dtype
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(
    "text",
    [
        "2022.05.05",
        "2022_05_05",
        "20220505-100401",
        "2022-05-05T100401",
        "2022-05-05T10-04-01Z",
        "2022-05-05T100401+0000",
        "2022-05-05_10-04-01",
    ],
)
def test_dates_of_file_names(text):
    expected = "2022-05-05T10:04:01" if len(text) > 10 else "2022-05-05"
    (found,) = read_values("acquired", [text], None)
    assert found == np.datetime64(expected)


def test_values_of_another_kind_are_refused():
    with pytest.raises(SelectionError, match=r"'t'.*got 'x'"):
        read_values("t", ["1", "x"], "int")
    for day in ("2023366", "2021366", "20231"):
        with pytest.raises(SelectionError, match=day):
            read_values("t", [day], "%Y%j")
    with pytest.raises(SelectionError, match="2024031"):
        read_values("t", ["2024031"], "%Y%m%d")
    with pytest.raises(SelectionError, match="1 of 2 files have no value for 't'"):
        read_values("t", [1, None])


def test_an_axis_is_the_sorted_set_of_values():
    axis = make_axis("band", np.array(["B08", "B04", "B08"]))
    assert axis.values.tolist() == ["B04", "B08"]
    assert axis.index.tolist() == [1, 0, 1]


def test_categories_order_labels():
    axis = make_axis("c", np.array(["red", "blue"]), {"red": 0, "green": 1, "blue": 2})
    assert axis.values.tolist() == ["red", "blue"]
    assert axis.index.tolist() == [0, 1]
    with pytest.raises(ManifestMismatch, match="in no category, got red"):
        make_axis("c", np.array(["red"]), {"blue": 2})


def test_axes_are_ordered_by_name_or_place():
    assert order_axes(["a", "b", "c"], ["c", "a", "b"]) == ["c", "a", "b"]
    assert order_axes(["a", "b", "c"], [2, 0, 1]) == ["c", "a", "b"]
    with pytest.raises(SelectionError, match="order of axes must name each axis"):
        order_axes(["a", "b"], ["a"])


def write_microscope_file(path, size=0.5, unit="µm", names=("a", "b"), step=None, byteorder="<"):
    sizes = {f"PhysicalSize{axis}{key}": value for axis in "XY"
             for key, value in (("", size), ("Unit", unit))}  # fmt: skip
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}}
    if step is not None:
        metadata = {"axes": "TYX", "TimeIncrement": step, "TimeIncrementUnit": "s"}
    tifffile.imwrite(path, np.ones((2, 8, 9), "u2"), ome=True, metadata=metadata | sizes,
                     photometric="minisblack", byteorder=byteorder)  # fmt: skip


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"size": 0.25}, "y, x"),
        ({}, {"unit": "nm"}, "y, x"),
        ({}, {"names": ("a", "x")}, "c"),
        ({}, {"names": ("a", "a")}, "c"),
        ({"step": 1}, {"step": 2}, "t"),
        ({}, {}, ""),
        ({}, {"size": 0.5000000001}, ""),
    ],
)
def test_files_that_differ_in_coordinates_are_reported(tmp_path, first, second, names, byteorder):
    for n, how in enumerate((first, second)):
        write_microscope_file(tmp_path / f"k{n}.ome.tif", **how, byteorder=byteorder)
    expected = pytest.warns(MetadataWarning, match=rf"k1\.ome\.tif: files differ.*got {names}\.")
    with expected if names else contextlib.nullcontext():
        stack = tiffref.scan_sequence(f"{tmp_path}/k{{k:d}}.ome.tif")
    assert stack.group["image"].shape == (2, 2, 8, 9)
    stack = tiffref.scan_sequence([tmp_path / "k0.ome.tif"], pattern=r"k(?P<k>\d)")
    stack.write_fsspec(tmp_path / "refs.json")
    with expected if names else contextlib.nullcontext():
        tiffref.append_sequence(tmp_path / "refs.json", [tmp_path / "k1.ome.tif"])


def test_channels_in_another_order_are_refused(tmp_path):
    write_microscope_file(tmp_path / "k0.ome.tif", names=("a", "b"))
    write_microscope_file(tmp_path / "k1.ome.tif", names=("b", "a"))
    with pytest.raises(ManifestMismatch, match=r"bands \(b, a\)"):
        tiffref.scan_sequence(f"{tmp_path}/k{{k:d}}.ome.tif")


@pytest.mark.parametrize(
    ("old", "new", "joined", "old_index", "new_index"),
    [
        (["B02", "B08"], ["B03"], ["B02", "B03", "B08"], [0, 2], [1]),
        (["B08", "B02", "B03"], ["B02", "B8A"], ["B08", "B02", "B03", "B8A"], [0, 1, 2], [1, 3]),
        ([3, 1], [2, 0], [3, 1, 2, 0], [0, 1], [2, 3]),
        ([1.5, 2.5], [2.5, 0.5], [0.5, 1.5, 2.5], [1, 2], [2, 0]),
    ],
)
def test_new_values_join_sorted_ones_or_follow_others(old, new, joined, old_index, new_index):
    axes = (Axis.numbered("c", len(values), np.array(values)) for values in (old, new))
    axis, *found = join_axes(*axes)
    assert axis.values.tolist() == joined
    assert [one.tolist() for one in found] == [old_index, new_index]
