"""Columns that are loaded in blocks."""

import dataclasses
import pickle
import threading

import numpy as np
import pytest

from tiffref.model.manifest import INLINED, Columns, LazyColumns, Manifest, Source

N_CHUNKS, BLOCK_ROWS = 10, 4
WHOLE = Manifest.from_columns((2, 5), Source("a"), 8 * np.arange(10), np.full(10, 8)).with_inlined(
    {5: b"five", 9: b"nine"}
)


def defer(asked: list[int]) -> Manifest:
    """Return the same manifest in blocks, with a list of those that are loaded."""

    def load(number: int) -> Columns:
        asked.append(number)
        rows = slice(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
        inlined = {
            flat - rows.start: data
            for flat, data in WHOLE.inlined.items()
            if rows.start <= flat < rows.stop
        }
        return Columns(WHOLE.source[rows], WHOLE.offset[rows], WHOLE.length[rows], inlined)

    return Manifest.from_lazy((2, 5), WHOLE.sources, LazyColumns(3, BLOCK_ROWS, load))


def test_only_blocks_that_are_asked_for_are_loaded() -> None:
    asked: list[int] = []
    manifest = defer(asked)
    assert (manifest.n_chunks, manifest.shape, manifest.sources) == (10, (2, 5), WHOLE.sources)
    assert asked == []
    assert manifest.at(1) == WHOLE.at(1)
    flat = np.array([9, 8, 1, 0, 9])
    for mine, theirs in zip(manifest.take(flat), WHOLE.take(flat), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    assert manifest.at(9)[0] == INLINED
    assert manifest.data(9) == WHOLE.data(9) == b"nine"
    assert asked == [0, 2]


def test_a_column_loads_the_rest() -> None:
    asked: list[int] = []
    manifest = defer(asked)
    manifest.at(5)
    np.testing.assert_array_equal(manifest.length, WHOLE.length)
    assert manifest == WHOLE
    assert manifest.at(9) == WHOLE.at(9)
    assert manifest.data(5) == b"five"
    assert sorted(asked) == [0, 1, 2]
    assert manifest.nbytes == WHOLE.nbytes


def test_changed_copies_are_whole() -> None:
    changed = defer([]).with_inlined({0: b"zero"})
    assert changed == WHOLE.with_inlined({0: b"zero"})
    assert changed.data(0) == b"zero"
    assert dataclasses.replace(defer([]), shape=(10,)) == dataclasses.replace(WHOLE, shape=(10,))
    assert pickle.loads(pickle.dumps(defer([]))) == WHOLE


def test_unknown_attributes_are_errors() -> None:
    with pytest.raises(AttributeError, match="colour"):
        defer([]).colour  # noqa: B018


def test_many_threads_load_each_block_once() -> None:
    asked: list[int] = []
    manifest = defer(asked)
    barrier = threading.Barrier(8)

    def read() -> None:
        barrier.wait()
        assert manifest.at(4) == WHOLE.at(4)
        assert manifest == WHOLE

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked) == [0, 1, 2]
