"""Arrays put together, and with their axes in another order, are what NumPy makes of arrays."""

import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from samples import rng

import tiffref
import zarr
from tiffref.errors import ManifestMismatch, UnsupportedTiff
from tiffref.model.array import Array, Group
from tiffref.model.codec import ForeignCodec, SegmentCodec
from tiffref.model.combine import (
    CompatibleGroup,
    aspects_of,
    group_compatible,
    merge_arrays,
    mismatch_error,
    permute_axes,
    place_arrays,
    reindex_axis,
    trim_order,
    unify_codecs,
)
from tiffref.model.manifest import INLINED, MISSING, Manifest, Source
from tiffref.read.engine import read_array
from tiffref.references import References

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
    return place_arrays(arrays, origins, (*lengths, *arrays[0].shape), dims)


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
    whole = place_arrays([*blocks[0], *blocks[1]], origins, (7, 9))
    assert whole.shape == (7, 9)
    np.testing.assert_array_equal(table(whole), np.block([[table(x) for x in r] for r in blocks]))


def test_concatenation_is_associative():
    a, b, c = (make(name, (2, 4), (2, 2)) for name in "abc")

    def join(first, second):
        rows = first.shape[0] + second.shape[0]
        return place_arrays([first, second], np.array([[0, 0], [first.shape[0], 0]]), (rows, 4))

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
        ([[0, 0], [2, 0]], (6, 4), "2 files overlap, got a, b"),
        ([[0, 0], [-2, 0]], (4, 4), "chunk boundaries"),
    ],
)
def test_place_refuses_what_does_not_fit(origins, shape, match):
    arrays = [make("a", (4, 4), (2, 2)), make("b", (4, 4), (2, 2))]
    with pytest.raises(ManifestMismatch, match=match):
        place_arrays(arrays, np.array(origins), shape)


def test_a_padded_edge_has_nothing_behind_it():
    arrays = [make("a", (3, 4), (2, 2)), make("b", (4, 4), (2, 2))]
    with pytest.raises(ManifestMismatch, match=r"1 of 2 files.*along 'y'"):
        place_arrays(arrays, np.array([[0, 0], [4, 0]]), (8, 4))


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


def test_mismatches_of_groups_are_one_error():
    lzw = SegmentCodec((1, 2, 2, 1), "<u2", compression=5)
    arrays = [make(n) for n in "abcde"] + [make("f", codecs=[lzw]), make("g", (3, 4, 6))]
    groups = group_compatible([aspects_of(array) for array in arrays])
    assert [group.members for group in groups] == [(0, 1, 2, 3, 4), (5,), (6,)]
    error = mismatch_error(groups, [*"abcdefg"])
    assert error.groups == [
        {"count": 5, "files": ["a", "b", "c"], "shape": "(2, 4, 6)", "compression": "8"},
        {"count": 1, "files": ["f"], "shape": "(2, 4, 6)", "compression": "5"},
        {"count": 1, "files": ["g"], "shape": "(3, 4, 6)", "compression": "8"},
    ]
    text = str(error)
    assert "7 files do not combine: 3 groups differ in shape, compression" in text
    assert "5 files with shape (2, 4, 6), compression 8: a, b, c, ..." in text
    assert "c, ...\n  group 2: 1 file with" in text
    assert "g\non_mismatch='split' makes one array of each group" in text
    assert "Groups 1, 2 differ only in how they are stored" in text


def test_of_many_differences_three_are_named():
    groups = [CompatibleGroup(dict.fromkeys("abcde", n), (n,)) for n in range(2)]
    error = mismatch_error(groups, ["one", "two"])
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
        (("u2", "u2"), "u2"),
        ((("y", "x"), ("y_1", "x_1")), "((y, x), (y_1, x_1))"),
        ((), "()"),
    ],
)
def test_a_mismatch_of_all_levels_is_named_once(value, text):
    groups = [CompatibleGroup({"a": value}, (0,)), CompatibleGroup({"a": None}, (1,))]
    assert mismatch_error(groups, ["one", "two"]).groups[0]["a"] == text


def test_free_dimensions_may_differ():
    aspects = [aspects_of(make("a"), ["z"]), aspects_of(make("b", (3, 4, 6)), ["z"])]
    assert len(group_compatible(aspects)) == 1


def test_reindex_and_merge_are_an_outer_join():
    a = stack([make("a"), make("b")], np.array([[0], [1]]), (2,), ("t",))
    c = stack([make("c")], np.array([[0]]), (1,), ("t",))
    whole = merge_arrays(
        reindex_axis(a, 0, np.array([0, 2]), 3), reindex_axis(c, 0, np.array([1]), 3)
    )
    expected = stack([make(n) for n in "acb"], np.arange(3)[:, None], (3,), ("t",))
    np.testing.assert_array_equal(table(whole), table(expected))
    with pytest.raises(ManifestMismatch, match="two files have the same coordinates, got a and c"):
        merge_arrays(reindex_axis(a, 0, np.array([0, 2]), 3), reindex_axis(c, 0, np.array([0]), 3))


def test_groups_with_different_arrays_are_refused():
    groups = group_compatible([{"levels": ("image",), "dtype": "u1"}, {"levels": ()}])
    for order in (groups, groups[::-1]):
        error = mismatch_error(order, ["one", "two"])
        assert "dtype u1" in str(error) and "dtype none" in str(error)


def stored_array(tmp_path, shape, chunks, dtype="<u2", **codec):
    """Write chunks of random samples one after the other, and return them with their array."""
    data = rng.integers(1, 60000, shape).astype(dtype)
    grid = tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    whole = np.zeros([n * c for n, c in zip(grid, chunks, strict=True)], dtype)
    whole[tuple(slice(n) for n in shape)] = data
    path = tmp_path / "chunks.bin"
    file = io.BytesIO()
    file.write(b"....")
    for index in itertools.product(*map(range, grid)):
        where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        file.write(np.ascontiguousarray(whole[where]).tobytes())
    path.write_bytes(file.getvalue())
    n_bytes = math.prod(chunks) * np.dtype(dtype).itemsize
    n = math.prod(grid)
    source = Source(str(path), len(file.getvalue()))
    manifest = Manifest.from_columns(grid, source, np.arange(n) * n_bytes + 4, [n_bytes] * n)
    codecs = (
        SegmentCodec(
            (*(1,) * (4 - len(chunks)), *chunks[-4:])
            if math.prod(chunks[:-4]) == 1
            else (1, 1, 1, math.prod(chunks)),
            np.dtype(dtype).newbyteorder("<").str,
            byteorder=">" if np.dtype(dtype).str[0] == ">" else "<",
            **codec,
        ),
    )
    dims = tuple("abcdefg"[: len(shape)])
    native = np.dtype(dtype).newbyteorder("=")
    return data, Array(shape, chunks, native, dims, codecs, manifest)


def readings(array):
    """Read by our engine, and by zarr from documents of both formats, after a trip through each."""
    from tiffref.read.fetch import Fetcher

    yield read_array(array, ..., fetch=Fetcher())
    for zarr_format in (2, 3):
        document = References(Group({"image": array})).to_kerchunk(zarr_format)
        options = {"fo": document, "remote_protocol": "file", "asynchronous": True}
        options["remote_options"] = {"asynchronous": True}
        yield zarr.open_group("reference://", mode="r", storage_options=options)["image"][...]
        again = References.from_kerchunk(document, allow="*").group["image"]
        assert again.codecs[0].__class__ is SegmentCodec
        yield read_array(again, ..., fetch=Fetcher())


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((2, 3, 4, 10, 12), (1, 1, 1, 5, 12)),
        ((2, 5, 4, 6, 7), (1, 2, 4, 6, 7)),
        ((5, 4, 6, 7), (2, 4, 6, 7)),
        ((10, 12, 3), (4, 8, 3)),
        ((2, 10, 12, 3), (1, 4, 8, 3)),
    ],
)
def test_every_order_reads_as_numpy_transposes(tmp_path, shape, chunks, dtype):
    data, array = stored_array(tmp_path, shape, chunks, dtype)
    orders = list(itertools.permutations(range(len(shape))))
    for order in orders[:: max(1, len(orders) // 8)]:
        try:
            moved = permute_axes(array, order)
        except UnsupportedTiff:
            # a segment has four axes
            assert len(shape) == 5 and order[0] != 0
            continue
        assert moved.dims == tuple(array.dims[axis] for axis in order)
        for got in readings(moved):
            np.testing.assert_array_equal(got, data.transpose(order), str((order, moved.codec)))


def test_chunks_of_planes_need_no_transpose(tmp_path):
    _, array = stored_array(tmp_path, (2, 3, 4, 10, 12), (1, 1, 1, 5, 12))
    moved = permute_axes(array, (0, 2, 1, 3, 4))
    assert moved.codecs == array.codecs
    assert sorted(moved.manifest.offset) == sorted(array.manifest.offset)


def test_runs_of_planes_are_cut_into_planes(tmp_path):
    _, array = stored_array(tmp_path, (2, 5, 4, 6, 7), (1, 2, 4, 6, 7))
    moved = permute_axes(array, (0, 2, 1, 3, 4))
    assert moved.chunks == (1, 4, 1, 6, 7)
    assert not moved.codec.transposes


@pytest.mark.parametrize("dtype", ["|u1", ">u2"])
def test_runs_of_color_planes_are_cut_and_transposed(tmp_path, dtype):
    """Whole, the chunks would have five axes that change places; a segment has four."""
    data, array = stored_array(tmp_path, (3, 5, 6, 7, 3), (1, 2, 6, 7, 3), dtype)  # z, t, y, x, s
    moved = permute_axes(array, (1, 4, 0, 2, 3))
    assert moved.chunks == (1, 3, 1, 6, 7)
    for got in readings(moved):
        np.testing.assert_array_equal(got, data.transpose(1, 4, 0, 2, 3))


def test_only_uncompressed_chunks_on_the_disk_are_cut(tmp_path):
    _, array = stored_array(tmp_path, (2, 5, 4, 6, 7), (1, 2, 4, 6, 7))
    manifest = array.manifest
    for other in (
        replace(array, codecs=(replace(array.codec, compression=8),)),
        replace(array, manifest=replace(manifest, length=manifest.length // 2)),
        replace(array, manifest=manifest.with_inlined({0: b"chunk"})),
    ):
        assert permute_axes(other, (0, 2, 1, 3, 4)).codecs[0].transposes


def test_samples_first_by_one_transpose_or_two_that_are_their_own_inverse(tmp_path):
    data, array = stored_array(tmp_path, (10, 12, 3), (4, 8, 3))
    assert permute_axes(array, (2, 0, 1)).codec.transposes == ((1, 2, 0),)
    twice = permute_axes(array, (2, 0, 1), self_inverse=True)
    document = References(Group({"image": twice})).to_kerchunk(3)
    text = document["refs"]["image/zarr.json"]
    assert '"order":[1,0,2]' in text and '"order":[0,2,1]' in text
    for got in readings(twice):
        np.testing.assert_array_equal(got, data.transpose(2, 0, 1))


def test_a_window_of_a_transposed_array_reads_as_numpy_slices(tmp_path):
    from tiffref.read.fetch import Fetcher

    data, array = stored_array(tmp_path, (2, 10, 12, 3), (1, 4, 8, 3))
    moved = permute_axes(array, (0, 3, 1, 2))
    expected = data.transpose(0, 3, 1, 2)
    for selection in ((1, 2, slice(1, 9, 3), slice(-5, None)), (..., slice(None, None, -2)), 0):
        got = read_array(moved, selection, fetch=Fetcher())
        np.testing.assert_array_equal(got, expected[selection])


def test_missing_and_inlined_chunks_move_along(tmp_path):
    from tiffref.read.fetch import Fetcher

    data, array = stored_array(tmp_path, (4, 3, 6), (1, 1, 6))
    chunk = np.arange(6, dtype="<u2")
    manifest = array.manifest.with_inlined({1: chunk.tobytes()})
    manifest.source[5] = -1
    data[0, 1], data[1, 2] = chunk, 0
    moved = permute_axes(Array(array.shape, array.chunks, array.dtype, array.dims, array.codecs,
                          manifest), (1, 0, 2))  # fmt: skip
    np.testing.assert_array_equal(read_array(moved, ..., fetch=Fetcher()), data.transpose(1, 0, 2))


def test_what_cannot_be_transposed_is_refused(tmp_path):
    _, array = stored_array(tmp_path, (10, 12, 3), (4, 8, 3))
    foreign = ForeignCodec(2, {"dtype": "<u2", "filters": None, "compressor": {"id": "blosc"}})
    foreign = Array(array.shape, array.chunks, array.dtype, array.dims, (foreign,), array.manifest)
    with pytest.raises(UnsupportedTiff, match="as-stored"):
        permute_axes(foreign, (2, 0, 1))
    assert isinstance(tiffref.UnsupportedTiff("x"), ValueError)


def test_transpose_orders_that_drop_an_axis_are_refused():
    assert trim_order([0, 1, 3, 4, 2]) == (1, 2, 0)
    assert trim_order([0, 1]) == ()
