"""Putting arrays together is what NumPy does with arrays; refusals name their reason."""

import math

import numpy as np
import pytest

from tiffref.errors import ManifestMismatch
from tiffref.model.array import Array
from tiffref.model.codec import SegmentCodec
from tiffref.model.combine import (
    Kind,
    aspects_of,
    group_compatible,
    merge,
    mismatch,
    occupied,
    place,
    reindex,
    unify_codecs,
)
from tiffref.model.manifest import INLINED, MISSING, Manifest, Source

CODEC = SegmentCodec((1, 2, 2, 1), "<u2", compression=8)
DIMS = ("z", "y", "x")


def make(name, shape=(2, 4, 6), chunks=(1, 2, 2), codecs=(CODEC,), **how):
    """An array whose chunk n lies at 1000 + n in the file `name`; no two files are alike."""
    grid = tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    n = math.prod(grid)
    start = 1000 * (1 + sum(map(ord, name)))
    manifest = Manifest.from_columns(grid, Source(name, 10**9), start + np.arange(n), np.full(n, 7))
    return Array(shape, chunks, np.dtype("u2"), DIMS[-len(shape) :], tuple(codecs), manifest, **how)


def stack(arrays, index, lengths, dims):
    """Put arrays side by side on new axes in front, at these positions."""
    inner = np.zeros((len(arrays), len(arrays[0].shape)), np.int64)
    origins = np.concatenate([index, inner], axis=1)
    return place(arrays, origins, (*lengths, *arrays[0].shape), dims)


def table(array):
    """The place of each chunk as (url, offset), shaped as the chunk grid."""
    m = array.manifest
    names = np.array([*(s.url for s in m.sources), "inlined", "missing"], object)
    cells = [f"{u}:{o}" for u, o in zip(names[m.source], m.offset.tolist(), strict=True)]
    return np.where(m.source >= 0, np.array(cells), names[m.source]).reshape(m.shape)


def test_stack_puts_arrays_at_their_positions():
    arrays = [make(name) for name in "abcd"]
    index = np.array([[0, 1], [1, 0], [1, 1], [0, 0]])
    whole = stack(arrays, index, (2, 2), ("t", "c"))
    assert whole.shape == (2, 2, 2, 4, 6)
    assert whole.chunks == (1, 1, 1, 2, 2)
    assert whole.dims == ("t", "c", "z", "y", "x")
    expected = np.stack([np.stack([table(arrays[3]), table(arrays[0])]),
                         np.stack([table(arrays[1]), table(arrays[2])])])  # fmt: skip
    np.testing.assert_array_equal(table(whole), expected)


def test_stack_leaves_holes_missing():
    whole = stack([make("a"), make("b")], np.array([[0], [2]]), (3,), ("t",))
    assert (table(whole)[1] == "missing").all()
    assert (table(whole)[2] == table(make("b"))).all()


def test_place_is_block():
    blocks = [[make("a", (4, 4), (2, 2)), make("b", (4, 5), (2, 2))],
              [make("c", (3, 4), (2, 2)), make("d", (3, 5), (2, 2))]]  # fmt: skip
    origins = np.array([[0, 0], [0, 4], [4, 0], [4, 4]])
    whole = place([*blocks[0], *blocks[1]], origins, (7, 9))
    assert whole.shape == (7, 9)
    np.testing.assert_array_equal(table(whole), np.block([[table(x) for x in r] for r in blocks]))


def test_concatenation_is_associative():
    a, b, c = (make(name, (2, 4), (2, 2)) for name in "abc")

    def join(first, second):
        rows = first.shape[0] + second.shape[0]
        return place([first, second], np.array([[0, 0], [first.shape[0], 0]]), (rows, 4))

    left, right = join(join(a, b), c), join(a, join(b, c))
    np.testing.assert_array_equal(table(left), table(right))
    assert left.manifest == right.manifest


def test_sources_are_kept_once():
    a, b = make("a"), make("a")
    whole = stack([a, b], np.array([[0], [1]]), (2,), ("t",))
    assert [source.url for source in whole.manifest.sources] == ["a"]


def test_inlined_and_missing_chunks_move_along():
    a = make("a")
    a = Array(a.shape, a.chunks, a.dtype, a.dims, a.codecs, a.manifest.with_inlined({5: b"five"}))
    column = a.manifest.source
    column[2] = MISSING
    whole = stack([make("b"), a], np.array([[0], [1]]), (2,), ("t",))
    n = a.manifest.n_chunks
    assert whole.manifest.inlined == {n + 5: b"five"}
    assert whole.manifest.source[n + 5] == INLINED
    assert whole.manifest.source[n + 2] == MISSING


@pytest.mark.parametrize(
    ("origins", "shape", "match"),
    [
        ([[0, 0], [3, 0]], (7, 4), "chunk boundaries along 'y'"),
        ([[0, 0], [4, 0]], (6, 4), "chunk boundaries along 'y'"),
        ([[0, 0], [2, 0]], (6, 4), "2 files cover one place, got a, b"),
        ([[0, 0], [-2, 0]], (4, 4), "chunk boundaries"),
    ],
)
def test_place_refuses_what_does_not_fit(origins, shape, match):
    arrays = [make("a", (4, 4), (2, 2)), make("b", (4, 4), (2, 2))]
    with pytest.raises(ManifestMismatch, match=match):
        place(arrays, np.array(origins), shape)


def test_a_padded_edge_has_nothing_behind_it():
    arrays = [make("a", (3, 4), (2, 2)), make("b", (4, 4), (2, 2))]
    with pytest.raises(ManifestMismatch, match=r"1 of 2 files.*along 'y'"):
        place(arrays, np.array([[0, 0], [4, 0]]), (8, 4))


def test_stack_refuses_a_taken_name():
    with pytest.raises(ManifestMismatch, match="got z"):
        stack([make("a")], np.array([[0]]), (1,), ("z",))


def test_codecs_become_one_table_and_sources_point_into_it():
    lzw = SegmentCodec((1, 2, 2, 1), "<u2", compression=5)
    arrays = [make("a"), make("b", codecs=[lzw]), make("c")]
    whole = stack(arrays, np.arange(3)[:, None], (3,), ("t",))
    assert whole.codecs == (CODEC, lzw)
    assert [(s.url, s.codec) for s in whole.manifest.sources] == [("a", 0), ("b", 1), ("c", 0)]


def test_a_codec_that_takes_short_segments_takes_whole_ones():
    short = SegmentCodec((1, 2, 2, 1), "<u2", compression=8, edge=(1, 1, 2), fill=9)
    for order in ([CODEC, short], [short, CODEC]):
        codecs, rows = unify_codecs([make("a", codecs=[codec]) for codec in order])
        assert codecs == (short,)
        assert rows == [(0,), (0,)]


def test_codecs_of_other_edges_stay_apart():
    """A tile of 2 x 1 samples, cut at the right, has as many as one of 1 x 2, cut below."""
    below, right, whole = (
        SegmentCodec((1, 2, 2, 1), "<u2", compression=8, edge=(1, *size))
        for size in ((1, 2), (2, 1), (2, 2))
    )
    arrays = [make("a", codecs=[codec]) for codec in (whole, below, CODEC, right, below)]
    codecs, rows = unify_codecs(arrays)
    assert codecs == (below, right)
    assert rows == [(0,), (0,), (0,), (1,), (0,)]


def test_groups_are_told_in_one_error():
    lzw = SegmentCodec((1, 2, 2, 1), "<u2", compression=5)
    arrays = [make(n) for n in "abcde"] + [make("f", codecs=[lzw]), make("g", (3, 4, 6))]
    kinds = group_compatible([aspects_of(array) for array in arrays])
    assert [kind.members for kind in kinds] == [(0, 1, 2, 3, 4), (5,), (6,)]
    error = mismatch(kinds, [*"abcdefg"])
    assert error.groups == [
        {"count": 5, "files": ["a", "b", "c"], "shape": "(2, 4, 6)", "compression": "8"},
        {"count": 1, "files": ["f"], "shape": "(2, 4, 6)", "compression": "5"},
        {"count": 1, "files": ["g"], "shape": "(3, 4, 6)", "compression": "8"},
    ]
    text = str(error)
    assert "7 files do not combine: 3 groups differ in shape, compression" in text
    assert "5 files with shape (2, 4, 6), compression 8: a, b, c, ..." in text
    assert "c, ...\n  group 2: 1 file with" in text
    assert "g\nEach group combines for itself" in text
    assert "Groups 1, 2 differ only in how they are stored" in text


def test_of_many_differences_three_are_told():
    kinds = [Kind(dict.fromkeys("abcde", n), (n,)) for n in range(2)]
    error = mismatch(kinds, ["one", "two"])
    assert "2 groups differ in a, b, c and 2 more\n" in str(error)
    assert "group 2: 1 file with a 1, b 1, c 1: two" in str(error)
    assert error.groups[1] == {"count": 1, "files": ["two"], **dict.fromkeys("abcde", "1")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (((8,), (8,)), "8"),
        (((8,), (5,)), "((8,), (5,))"),
        (((64, 64), (64, 64)), "(64, 64)"),
        ((64, 64), "(64, 64)"),
        ((), "()"),
    ],
)
def test_a_mismatch_says_once_what_all_levels_have_alike(value, text):
    kinds = [Kind({"a": value}, (0,)), Kind({"a": None}, (1,))]
    assert mismatch(kinds, ["one", "two"]).groups[0]["a"] == text


def test_free_dimensions_may_differ():
    aspects = [aspects_of(make("a"), ["z"]), aspects_of(make("b", (3, 4, 6)), ["z"])]
    assert len(group_compatible(aspects)) == 1


def test_reindex_and_merge_are_an_outer_join():
    a = stack([make("a"), make("b")], np.array([[0], [1]]), (2,), ("t",))
    c = stack([make("c")], np.array([[0]]), (1,), ("t",))
    whole = merge(reindex(a, 0, np.array([0, 2]), 3), reindex(c, 0, np.array([1]), 3))
    expected = stack([make(n) for n in "acb"], np.arange(3)[:, None], (3,), ("t",))
    np.testing.assert_array_equal(table(whole), table(expected))
    with pytest.raises(ManifestMismatch, match="two files cover one place, got a and c"):
        merge(reindex(a, 0, np.array([0, 2]), 3), reindex(c, 0, np.array([0]), 3))


def test_occupied_counts_files():
    index = np.array([[0, 0], [1, 1], [1, 1]])
    np.testing.assert_array_equal(occupied(index, (2, 2)), [[1, 0], [0, 2]])
    assert occupied(np.zeros((3, 0), int), ()) == 3


def test_groups_of_other_arrays_are_told_apart_too():
    kinds = group_compatible([{"levels": ("image",), "dtype": "u1"}, {"levels": ()}])
    for order in (kinds, kinds[::-1]):
        error = mismatch(order, ["one", "two"])
        assert "dtype u1" in str(error) and "dtype none" in str(error)
