"""`transpose`: arrays with their axes in another order read as NumPy transposes them."""

import io
import itertools
import math

import numpy as np
import pytest

import tiffref
import zarr
from tiffref.errors import UnsupportedTiff
from tiffref.model.array import Array, Group
from tiffref.model.codec import ForeignCodec, SegmentCodec
from tiffref.model.manifest import Manifest, Source
from tiffref.model.transpose import permute, trim_order
from tiffref.read.engine import read_array
from tiffref.references import References

rng = np.random.default_rng(5)


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
            moved = permute(array, order)
        except UnsupportedTiff:
            # a segment has four axes
            assert len(shape) == 5 and order[0] != 0
            continue
        assert moved.dims == tuple(array.dims[axis] for axis in order)
        for got in readings(moved):
            np.testing.assert_array_equal(got, data.transpose(order), str((order, moved.codec)))


def test_chunks_of_planes_need_no_transpose(tmp_path):
    _, array = stored_array(tmp_path, (2, 3, 4, 10, 12), (1, 1, 1, 5, 12))
    moved = permute(array, (0, 2, 1, 3, 4))
    assert moved.codecs == array.codecs
    assert sorted(moved.manifest.offset) == sorted(array.manifest.offset)


def test_runs_of_planes_are_cut_into_planes(tmp_path):
    _, array = stored_array(tmp_path, (2, 5, 4, 6, 7), (1, 2, 4, 6, 7))
    moved = permute(array, (0, 2, 1, 3, 4))
    assert moved.chunks == (1, 4, 1, 6, 7)
    assert not moved.codec.transposes


def test_samples_first_by_one_transpose_or_two_that_are_their_own_inverse(tmp_path):
    data, array = stored_array(tmp_path, (10, 12, 3), (4, 8, 3))
    assert permute(array, (2, 0, 1)).codec.transposes == ((1, 2, 0),)
    twice = permute(array, (2, 0, 1), self_inverse=True)
    document = References(Group({"image": twice})).to_kerchunk(3)
    text = document["refs"]["image/zarr.json"]
    assert '"order":[1,0,2]' in text and '"order":[0,2,1]' in text
    for got in readings(twice):
        np.testing.assert_array_equal(got, data.transpose(2, 0, 1))


def test_a_window_of_a_transposed_array_reads_as_numpy_slices(tmp_path):
    from tiffref.read.fetch import Fetcher

    data, array = stored_array(tmp_path, (2, 10, 12, 3), (1, 4, 8, 3))
    moved = permute(array, (0, 3, 1, 2))
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
    moved = permute(Array(array.shape, array.chunks, array.dtype, array.dims, array.codecs,
                          manifest), (1, 0, 2))  # fmt: skip
    np.testing.assert_array_equal(read_array(moved, ..., fetch=Fetcher()), data.transpose(1, 0, 2))


def test_what_cannot_be_transposed_is_refused(tmp_path):
    _, array = stored_array(tmp_path, (10, 12, 3), (4, 8, 3))
    foreign = ForeignCodec(2, {"dtype": "<u2", "filters": None, "compressor": {"id": "blosc"}})
    foreign = Array(array.shape, array.chunks, array.dtype, array.dims, (foreign,), array.manifest)
    with pytest.raises(UnsupportedTiff, match="as-stored"):
        permute(foreign, (2, 0, 1))
    assert isinstance(tiffref.UnsupportedTiff("x"), ValueError)


def test_orders_without_what_stays():
    assert trim_order([0, 1, 3, 4, 2]) == (1, 2, 0)
    assert trim_order([0, 1]) == ()
