"""The columns of a manifest."""

import copy
import pickle

import numpy as np
import pytest

from tiffref.errors import MalformedTiff
from tiffref.model.array import Array
from tiffref.model.manifest import INLINED, MISSING, Manifest, Source


def test_a_segment_without_bytes_is_missing():
    manifest = Manifest.from_columns((2, 2), Source("a"), [8, 0, 24, 32], [4, 4, 0, 4])
    assert manifest.is_missing.tolist() == [False, True, True, False]
    assert manifest.source.tolist() == [0, MISSING, MISSING, 0]


def test_inlined_chunks_are_not_ranges():
    manifest = Manifest.from_columns((3,), Source("a"), [8, 16, 24], [8, 8, 8]).with_inlined(
        {1: b"x"}
    )
    assert manifest.source.tolist() == [0, INLINED, 0]
    more = manifest.with_inlined({2: b"y"})
    assert more.source.tolist() == [0, INLINED, INLINED]
    assert manifest.source.tolist() == [0, INLINED, 0]


def test_the_grid_must_match_the_columns():
    with pytest.raises(MalformedTiff, match="3 offsets and 3 lengths, expected 4 of each"):
        Manifest.from_columns((2, 2), Source("a"), [1, 2, 3], [1, 1, 1])


def test_a_million_chunks_are_three_columns():
    n = 10**6
    manifest = Manifest.from_columns((1000, 1000), Source("a"), np.arange(1, n + 1), np.ones(n))
    assert manifest.nbytes == 20 * n
    assert manifest.n_chunks == n


def test_equality_ignores_the_ranges_of_missing_chunks():
    one = Manifest.from_columns((2,), Source("a"), [8, 0], [4, 0])
    other = Manifest.from_columns((2,), Source("a"), [8, 0], [4, 9])
    assert one == other
    assert one != Manifest.from_columns((2,), Source("a"), [9, 0], [4, 0])
    assert one != Manifest.from_columns((2,), Source("b"), [8, 0], [4, 0])


def test_sources_can_be_renamed():
    manifest = Manifest.from_columns((1,), Source("/a/b.tif", 9), [8], [1])
    moved = manifest.with_sources(lambda s: Source(s.url.replace("/a", "s3://c"), s.size))
    assert moved.sources == (Source("s3://c/b.tif", 9),)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(10_980) * 10.0 + 500_005,
        np.arange(10_980) * -(1 / 3600) + 50.25,
        np.array([-np.inf, -0.0, np.nan, 1e308, 5e-324]),
        np.array([2**63 - 1, -(2**63), -1]),
        np.array([1, 2, 3], "i4"),
        np.array(["B02", "B8A"]),
        np.zeros(0),
        np.float64(7),
    ],
)
def test_coordinates_pickle_small_and_exactly(values) -> None:
    manifest = Array.from_values(values, ("x",) * np.ndim(values)).manifest
    data = pickle.dumps(manifest)
    assert pickle.loads(data) == copy.deepcopy(manifest) == manifest
    assert len(data) < 1200
    ranges = Manifest.from_columns((2,), Source("a"), [8, 16], [8, 8]).with_inlined({1: b"x" * 64})
    assert pickle.loads(pickle.dumps(ranges)) == ranges
