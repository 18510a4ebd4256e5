"""Chunk grids against the arithmetic of NumPy."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiffref.model import grid


def test_examples():
    assert doctest.testmod(grid).failed == 0


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
    assert grid.fit_chunks(shape, axes, page, segment, n_pages) == chunks


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
    assert grid.fit_chunks(shape, axes, page, segment, n_pages) is None


@given(st.integers(1, 10**6), st.integers(1, 10**7))
def test_runs_make_chunks_of_useful_size(n_rows, row_bytes):
    rows = grid.plan_run_rows(n_rows, row_bytes)
    assert 1 <= rows <= n_rows
    assert rows == 1 or rows * row_bytes <= 8 << 20
    if rows < n_rows:
        assert 2 * (rows + 1) * row_bytes > 2 << 20  # not needlessly small


@given(st.tuples(*[st.integers(1, 50)] * 5), st.tuples(*[st.integers(1, 20)] * 5))
def test_chunk_grid_covers_the_page(page, segment):
    n = np.array(grid.chunk_grid(page, segment))
    assert (n * segment >= page).all()
    assert ((n - 1) * segment < page).all()
