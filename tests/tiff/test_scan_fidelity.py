"""Any shape in any segments: what references give equals what tifffile reads."""

from __future__ import annotations

import io
import itertools
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from ifds import image, write_tiff
from samples import rng

import tiffref
from tiffref.errors import UnsupportedTiff


def read_all_ways(path):
    """Read the main image through the store's v2 chunks, decoded by zarr, and directly."""
    import zarr
    from tiffref.zarr import ZarrTiffStore

    store = ZarrTiffStore(path)
    yield store[...]
    yield zarr.open_array(store, mode="r")[...]
    document = tiffref.scan(path).to_kerchunk(zarr_format=3)
    options = {"fo": document, "remote_protocol": "file", "asynchronous": True}
    options["remote_options"] = {"asynchronous": True}
    yield zarr.open_group("reference://", mode="r", storage_options=options, zarr_format=3)[
        "image"
    ][...]


def assert_same(path, expected=None):
    expected = tifffile.imread(path) if expected is None else expected
    for got in read_all_ways(path):
        assert got.dtype.newbyteorder("=") == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("first", [0, 16])
@pytest.mark.parametrize("mode", [0, 1, 3])
@pytest.mark.parametrize("photometric", ["MINISBLACK", "RGB", "YCBCR", "CIELAB"])
def test_jpeg_of_three_bands_as_gdal_writes_it(tmp_path, photometric, mode, first):
    """Bands that are no colours are stored as they are; the decoder would take them for YCbCr."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    data = np.empty((3, 48, 32), "u1")
    data[:] = np.array([200, 50, 120])[:, None, None]
    data[:, :first] = 0
    how = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 48, "width": 32}
    how |= {"compress": "JPEG", "photometric": photometric, "jpegtablesmode": mode}
    how |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "pixel"}
    with rasterio.open(path, "w", sparse_ok=True, jpeg_quality=95, **how) as dataset:
        dataset.write(data)
    raw = "GTIFF_RAW:" if "LAB" in photometric else ""
    with rasterio.open(f"{raw}{path}") as dataset:
        expected = np.moveaxis(dataset.read(), 0, -1).astype("i2")
    assert np.abs(expected - np.moveaxis(data, 0, -1)).max() <= 3
    for got in read_all_ways(path):
        assert np.abs(got - expected).max() <= 2


@pytest.mark.parametrize("photometric", [2, 5, 6])
@pytest.mark.parametrize("byteorder", "<>")
def test_jpeg_of_one_sample_that_its_tags_call_colors(tmp_path, photometric, byteorder):
    path = tmp_path / "a.tif"
    data = np.add.outer(np.arange(32), np.arange(16)).astype("u1")

    def encode(part):
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(part), level=100))

    one = image(data, {259: 7, 262: photometric}, rows=16, encode=encode, order=byteorder)
    write_tiff(path, [one], order=byteorder)
    for got in read_all_ways(path):
        np.testing.assert_array_equal(got, imagecodecs.jpeg8_decode(encode(data)))


@pytest.mark.parametrize(("tile", "samples"), [(None, 1), ((16, 32), 3)])
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_pixarlog_is_what_libtiff_reads(tmp_path, dtype, byteorder, tile, samples):
    """Its codes of 16 bits are in the byte order of the file."""
    path = tmp_path / "a.tif"
    data = rng.random((32, 32, samples)) * (1 if dtype == "f4" else np.iinfo(dtype).max)
    data = data.astype(dtype)

    def encode(part):
        native = np.ascontiguousarray(part.astype(dtype))
        codes = np.frombuffer(zlib.decompress(imagecodecs.pixarlog_encode(native)), "<u2")
        return zlib.compress(codes.astype(f"{byteorder}u2"))

    tags = {259: 32909, 262: 2 if samples == 3 else 1}
    one = image(data, tags, rows=16, tile=tile, encode=encode, order=byteorder)
    write_tiff(path, [one], order=byteorder)
    if tile:  # of another width than the image, libtiff's rows are not those of the tile
        write_tiff(tmp_path / "b.tif", [image(data[:, :20], tags, tile=tile, encode=encode)])
        with pytest.raises(UnsupportedTiff, match="322"):
            tiffref.scan(tmp_path / "b.tif")
    expected = imagecodecs.tiff_decode(path.read_bytes())
    assert np.abs(expected.reshape(data.shape) - data.astype("f8")).max() <= data.max() / 100
    for got in read_all_ways(path):
        np.testing.assert_array_equal(got.squeeze(), expected)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("kind", ["u2", "f4", "alpha"])
def test_lerc_as_libtiff_writes_it(tmp_path, kind, byteorder):
    """NaN and alpha of two values are in the mask; big-endian samples are swapped, then encoded."""
    path = tmp_path / "a.tif"
    mask = rng.random((2, 1, 16, 16)) > 0.3
    data = rng.integers(0, 255, (32, 16, 4 if kind == "alpha" else 1), "u1")
    how = {"photometric": "minisblack", "metadata": None}
    if kind == "alpha":
        data[..., 3] = mask.reshape(32, 16) * np.uint8(255)
        data[data[..., 3] == 0] = 0
        stored = np.ascontiguousarray(data[..., :3]).reshape(2, 16, 16, 3)
        how = {"photometric": "rgb", "extrasamples": ["unassalpha"], "metadata": None}
    else:
        data = data.astype(kind)
        stored = data.reshape(2, 16, 16)
        if byteorder == ">":
            stored = stored.byteswap()
    has_mask = kind == "alpha" or (kind == "f4" and byteorder == "<")
    tiles = [
        imagecodecs.lerc_encode(tile, masks=valid[0] if has_mask else None)
        for tile, valid in zip(stored, mask, strict=True)
    ]
    if has_mask and kind == "f4":
        data[~mask.reshape(32, 16)] = np.nan
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=data.squeeze().shape,
        dtype=data.dtype,
        byteorder=byteorder,
        tile=(16, 16),
        compression="lerc",
        **how,
    )
    assert_same(path, data.squeeze())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 7, 9, 10, 12, 14, 15])
@pytest.mark.parametrize(
    ("layout", "byteorder"), list(itertools.product(["strips", "tiles", "planar"], "<>"))
)
def test_packed_samples_of_gdal(tmp_path, bits, layout, byteorder):
    path = tmp_path / "a.tif"
    shape = (3, 37, 45) if layout == "planar" else (37, 45)
    data = rng.integers(0, 1 << bits, shape, "u1" if bits <= 8 else "u2")
    how = {"bitspersample": bits, "byteorder": byteorder, "metadata": None}
    if layout == "tiles":
        how["tile"] = (16, 32)
    else:
        how["rowsperstrip"] = 10
    if layout == "planar":
        how |= {"photometric": "rgb", "planarconfig": "separate"}
    if bits == 1:
        data = data.astype(bool)
        del how["bitspersample"]
    tifffile.imwrite(path, data, **how)
    assert_same(path)


TYPES = [
    (dtype, byteorder, compression, predictor)
    for dtype in ("f2", "f4", "f8", "i1", "i8", "u8", "c8", "c16")
    for byteorder in "<>"
    for compression in (None, "zlib", "lzw")
    for predictor in (False, True)
    # what tifffile writes: no predictor for complex and 64-bit integers
    if not predictor or (compression and dtype[0] != "c" and dtype not in ("i8", "u8"))
]


@pytest.mark.parametrize(("dtype", "byteorder", "compression", "predictor"), TYPES)
def test_sample_types(tmp_path, dtype, byteorder, compression, predictor):
    path = tmp_path / "a.tif"
    data = (rng.normal(size=(40, 33)) * 100).astype(dtype)
    how = {"byteorder": byteorder, "compression": compression, "predictor": predictor}
    tifffile.imwrite(path, data, rowsperstrip=16, metadata=None, **how)
    assert_same(path, data)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(1, 4)),
    tile=st.none() | st.tuples(st.sampled_from([16, 32, 48]), st.sampled_from([16, 64])),
    rows=st.integers(1, 80),
    compression=st.sampled_from([None, "zlib", "zstd", "packbits"]),
    planar=st.booleans(),
    byteorder=st.sampled_from("<>"),
    dtype=st.sampled_from(["u1", "u2", "f4"]),
)
def test_random_shapes_and_layouts(
    tmp_path, shape, tile, rows, compression, planar, byteorder, dtype
):
    n_pages, length, width, samples = shape
    how = {"compression": compression, "byteorder": byteorder, "metadata": None}
    how |= {"tile": tile} if tile else {"rowsperstrip": rows}
    page = (samples, length, width) if planar else (length, width, samples)
    if samples == 1:
        page = (length, width)
    else:
        how |= {"planarconfig": "separate" if planar else "contig"}
        how |= {"photometric": "rgb" if samples > 2 else "minisblack"}
    how.setdefault("photometric", "minisblack")
    data = rng.integers(0, 200, (n_pages, *page)).astype(dtype)
    path = tmp_path / f"{rng.integers(1 << 40)}.tif"
    with tifffile.TiffWriter(path, byteorder=how.pop("byteorder")) as tif:
        for image in data:
            tif.write(image, contiguous=False, **how)
    assert_same(path)
    path.unlink()


@settings(max_examples=30)
@given(st.data())
def test_indexing_agrees_with_numpy(data):
    values = np.arange(5 * 33 * 41, dtype="u2").reshape(5, 33, 41)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, tile=(16, 16), compression="zlib", photometric="minisblack")
    from tiffref.zarr import ZarrTiffStore

    store = ZarrTiffStore(buffer)
    selection = tuple(
        data.draw(
            st.integers(-n, n - 1)
            | st.builds(
                slice,
                st.none() | st.integers(-n - 2, n + 2),
                st.none() | st.integers(-n - 2, n + 2),
                st.none() | st.sampled_from([1, 2, 3, 7, -1, -2]),
            )
        )
        for n in values.shape[: data.draw(st.integers(1, 3))]
    )
    np.testing.assert_array_equal(store[selection], values[selection])


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("dtype", ["complex_int16", "complex64"])
def test_horizontal_predictor_of_complex_numbers_is_that_of_gdal(
    tmp_path, dtype, order, interleave
):
    rasterio = pytest.importorskip("rasterio")
    path, image = tmp_path / "a.tif", np.arange(84, dtype="c8").reshape(2, 6, 7) * (3 - 50j)
    how = {"driver": "GTiff", "count": 2, "height": 6, "width": 7, "dtype": dtype}
    how |= {"compress": "deflate", "predictor": 2, "interleave": interleave, "ENDIANNESS": order}
    with rasterio.open(path, "w", **how) as dataset:
        dataset.write(image)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(), image)
    assert_same(path, np.moveaxis(image, 0, -1) if interleave == "pixel" else image)
