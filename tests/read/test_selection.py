"""Basic indexing and its intersection with chunks, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tiffref.errors import SelectionError
from tiffref.read.selection import parse_selection, plan_axis

VALUES = np.arange(5 * 9).reshape(5, 9)


@pytest.mark.parametrize(
    "selection",
    [..., 2, (-1, 3), (slice(None, None, -2), 3), (None, slice(1, 8, 3)), (slice(9, 2), ...), ()],
    ids=str,
)
def test_parsed_selections_give_what_numpy_gives(selection: Any) -> None:
    wanted = parse_selection(selection, VALUES.shape)
    spans = zip(wanted.first, wanted.step, wanted.counts, strict=True)
    samples = VALUES[np.ix_(*(first + step * np.arange(count) for first, step, count in spans))]
    assert samples.shape == wanted.counts
    np.testing.assert_array_equal(samples[wanted.index], VALUES[selection])
    expected = np.asarray(VALUES[selection])
    assert wanted.shape == expected.shape
    np.testing.assert_array_equal(expected[wanted.inverse], samples)


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (5, "index out of range in dimension 0, got 5, expected -5 to 4"),
        ((0, 0, 0), "too many indices, got 3, expected at most 2"),
        ((..., ...), "an index can have only one Ellipsis"),
        ([1, 2], "not a basic index, got list"),
        (True, "not a basic index, got bool"),
        (slice("a", None), "invalid slice of dimension 0"),
    ],
    ids=str,
)
def test_errors_name_the_wrong_index(selection: Any, says: str) -> None:
    with pytest.raises(SelectionError) as caught:
        parse_selection(selection, VALUES.shape)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("chunk", [1, 3, 4, 20])
@pytest.mark.parametrize("step", [1, 2, 7])
@pytest.mark.parametrize(("first", "stop"), [(0, 17), (2, 15), (5, 5)])
def test_an_axis_puts_each_sample_where_it_belongs(
    first: int, stop: int, step: int, chunk: int
) -> None:
    size = 17
    samples = np.arange(size)
    wanted = samples[first:stop:step]
    axis = plan_axis(first, step, len(wanted), chunk, size)
    result = np.full(len(wanted), -1)
    columns = zip(axis.chunk, axis.out, axis.inner, axis.is_whole, axis.is_all, strict=True)
    for n, out, inner, is_whole, is_all in columns:
        stored = np.arange(n * chunk, (n + 1) * chunk)
        result[out] = stored[inner]
        assert is_whole == (len(stored[inner]) == chunk)
        assert is_all == (len(stored[inner]) == (stored < size).sum())
    np.testing.assert_array_equal(result, wanted)
