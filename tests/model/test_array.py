"""Arrays and their values; chunk grids against the arithmetic of NumPy."""

from __future__ import annotations

import doctest
import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiffref.model.array
from tiffref.errors import SelectionError
from tiffref.model.array import Array, Group, chunk_grid, fit_chunks, plan_run_rows


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("u2", 7, 7),
        ("u2", 7.0, 7),
        ("u2", np.uint8(7), 7),
        ("i1", -128, -128),
        ("?", True, True),
        ("f4", -1, -1.0),
        ("f4", np.float64(0.1), float(np.float32(0.1))),
        ("f4", float("-inf"), float("-inf")),
        ("c8", 1 + 2j, 1 + 2j),
    ],
)
def test_fill_values_become_samples(dtype: str, value: Any, expected: Any) -> None:
    filled = Array.from_values(np.zeros(3, dtype), ("x",)).with_fill_value(value).fill_value
    assert (filled, type(filled)) == (expected, type(expected))


def test_nan_is_a_fill_value_of_floats() -> None:
    assert np.isnan(Array.from_values(np.zeros(3), ("x",)).with_fill_value(np.nan).fill_value)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("u2", -1),
        ("u2", 65536),
        ("u2", 1.5),
        ("u2", float("nan")),
        ("u2", "seven"),
        ("u2", [7]),
        ("?", 2),
        ("f4", 1e300),
        ("f4", "seven"),
    ],
)
def test_fill_values_outside_the_type_are_refused(dtype: str, value: Any) -> None:
    with pytest.raises(SelectionError, match="fill value"):
        Array.from_values(np.zeros(3, dtype), ("x",)).with_fill_value(value)


def test_the_repr_of_arrays_and_groups_is_short() -> None:
    array = Array.from_values(np.zeros((40, 50), "u2"), ("y", "x"))
    assert repr(array) == "Array((y 40, x 50), uint16, chunks (40, 50))"
    group = Group({"a": Group({"image": array}), "n": Array.from_values(1.5)})
    assert repr(group) == f"Group(a: Group(image: {array!r}), n: Array((), float64, chunks ()))"


def test_arrays_are_mapped_in_nested_groups() -> None:
    array = Array.from_values(np.zeros(3, "u1"), ("x",))
    deep, empty = Group({"c": array}, {"n": 1}), Group({}, {"n": 2})
    group = Group({"a": array, "b": deep, "empty": empty}, {"n": 0})
    paths = []

    def rename(path: str, one: Array) -> Array | None:
        paths.append(path)
        return None if path == "b/c" else one.as_variable(("y",), {"path": path})

    changed = group.map_arrays(rename)
    assert paths == ["a", "b/c"]
    assert changed.attributes == {"n": 0}
    assert [*changed.children] == ["a", "empty"]  # a group that had nothing has lost nothing
    assert changed.children["a"].attributes == {"path": "a"}
    same = group.map_arrays(lambda _, one: one)
    assert dict(same.walk()).keys() == dict(group.walk()).keys()
    assert same["b"].attributes == {"n": 1} and same["b/c"] is array


def test_groups_are_freed_without_a_garbage_collection() -> None:
    array: Any = np.zeros(1)
    kept = weakref.ref(array)
    gc.disable()
    try:
        Group.from_paths({"a/b/c": array}, {"a": {}})
        del array
        assert kept() is None
    finally:
        gc.enable()


def test_examples():
    assert doctest.testmod(tiffref.model.array).failed == 0


@pytest.mark.parametrize(
    ("shape", "axes", "page", "segment", "n_pages", "chunks"),
    [
        ((100, 90), "YX", (1, 1, 100, 90, 1), (1, 1, 16, 90, 1), 1, (16, 90)),
        ((100, 90, 3), "YXS", (1, 1, 100, 90, 3), (1, 1, 16, 16, 3), 1, (16, 16, 3)),
        ((3, 100, 90), "SYX", (3, 1, 100, 90, 1), (1, 1, 16, 16, 1), 1, (1, 16, 16)),
        ((5, 2, 100, 90), "TCYX", (1, 1, 100, 90, 1), (1, 1, 8, 90, 1), 10, (1, 1, 8, 90)),
        ((4, 100, 90), "ZYX", (1, 4, 100, 90, 1), (1, 2, 16, 16, 1), 1, (2, 16, 16)),
        # one row or one column keeps its dimension
        ((1, 90), "YX", (1, 1, 1, 90, 1), (1, 1, 16, 16, 1), 1, (16, 16)),
        ((10, 1), "YX", (1, 1, 10, 1, 1), (1, 1, 16, 16, 1), 1, (16, 16)),
        # dimensions of length 1 that a writer asked for
        (
            (1, 7, 1, 100, 90, 1),
            "TZCYXS",
            (1, 1, 100, 90, 1),
            (1, 1, 16, 90, 1),
            7,
            (1, 1, 1, 16, 90, 1),
        ),
        # pages that the array splits anew are whole chunks
        ((6, 10, 90), "ZYX", (1, 1, 60, 90, 1), (1, 1, 60, 90, 1), 1, (6, 10, 90)),
    ],
)
def test_fit_chunks(shape, axes, page, segment, n_pages, chunks):
    assert fit_chunks(shape, axes, page, segment, n_pages) == chunks


@pytest.mark.parametrize(
    ("shape", "axes", "page", "segment", "n_pages"),
    [
        ((6, 10, 90), "ZYX", (1, 1, 60, 90, 1), (1, 1, 16, 90, 1), 1),
        ((5, 100, 90), "ZYX", (1, 1, 100, 90, 1), (1, 1, 16, 90, 1), 4),
        # a depth of one in tiles of four cannot be told without the depth's dimension
        ((100, 90), "YX", (1, 1, 100, 90, 1), (1, 4, 16, 16, 1), 1),
    ],
)
def test_fit_chunks_that_do_not_tile(shape, axes, page, segment, n_pages):
    assert fit_chunks(shape, axes, page, segment, n_pages) is None


@given(st.integers(1, 10**6), st.integers(1, 10**7))
def test_runs_make_chunks_of_useful_size(n_rows, row_bytes):
    rows = plan_run_rows(n_rows, row_bytes)
    assert 1 <= rows <= n_rows
    assert rows == 1 or rows * row_bytes <= 8 << 20
    if rows < n_rows:
        assert 2 * (rows + 1) * row_bytes > 2 << 20  # not needlessly small


@given(st.tuples(*[st.integers(1, 50)] * 5), st.tuples(*[st.integers(1, 20)] * 5))
def test_chunk_grid_covers_the_page(page, segment):
    n = np.array(chunk_grid(page, segment))
    assert (n * segment >= page).all()
    assert ((n - 1) * segment < page).all()
