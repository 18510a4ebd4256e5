"""Merged ranges hold every chunk, and no more than the limits allow."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiffref.errors import InvalidReferences
from tiffref.read.selection import Ranges, plan_ranges

CHUNKS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 500), st.integers(0, 60)), max_size=30
)


def plan(chunks: list[tuple[int, int, int]], gap: int = 10, limit: int = 100) -> Ranges:
    columns = np.array(chunks, np.int64).reshape(-1, 3).T
    return plan_ranges(
        columns[0].astype(np.int32),
        columns[1].astype(np.uint64),
        columns[2].astype(np.uint64),
        max_gap_bytes=gap,
        max_range_bytes=limit,
    )


@given(CHUNKS, st.integers(-1, 100), st.integers(1, 200))
def test_every_chunk_is_inside_one_range(
    chunks: list[tuple[int, int, int]], gap: int, limit: int
) -> None:
    ranges = plan(chunks, gap, limit)
    seen = []
    for i in range(len(ranges)):
        start, stop = int(ranges.start[i]), int(ranges.stop[i])
        inside = [chunks[k] for k in ranges.members(i).tolist()]
        seen += ranges.members(i).tolist()
        assert {source for source, _, _ in inside} == {int(ranges.source[i])}
        if not stop:
            assert [length for *_, length in inside] == [0]
            continue
        assert all(start <= o and o + n <= stop and n for _, o, n in inside)
        longest = max(n for *_, n in inside)
        assert stop - start <= limit + longest
        ends = sorted((o, o + n) for _, o, n in inside)
        assert all(b - a <= max(gap, 0) for (_, a), (b, _) in pairwise(ends))
    assert sorted(seen) == list(range(len(chunks)))


def test_near_chunks_are_one_range() -> None:
    ranges = plan([(0, 10, 5), (0, 0, 5), (0, 25, 5), (1, 0, 5), (0, 41, 1)])
    assert ranges.start.tolist() == [0, 41, 0]
    assert ranges.stop.tolist() == [30, 42, 5]
    assert ranges.members(0).tolist() == [1, 0, 2]


def test_long_runs_are_cut() -> None:
    ranges = plan([(0, 50 * i, 50) for i in range(8)], limit=100)
    assert ranges.start.tolist() == [0, 100, 200, 300]


def test_chunk_past_the_largest_offset_is_refused() -> None:
    for offset, length in ((2**64 - 1, 2), (2**63, 1)):
        with pytest.raises(InvalidReferences, match=str(offset)):
            plan_ranges(
                np.zeros(1, np.int32),
                np.array([offset], np.uint64),
                np.array([length], np.uint64),
                max_gap_bytes=0,
                max_range_bytes=100,
            )
