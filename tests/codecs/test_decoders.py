"""SGILog in the value space of GDAL."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from ifds import As, image, write_tiff
from segments import compress, values

from tiffref.codecs.decode import decode_segment
from tiffref.model.codec import SegmentCodec
from tiffref.zarr import ZarrTiffStore


def test_sgilog_luminance():
    # one row of LogL: high bytes, then low bytes, as a run and as literals
    data = bytes([126 + 4, 0x40, 4, 1, 2, 3, 4])
    codec = SegmentCodec((1, 1, 4, 1), "<i2", 34676, bits=(16,), sample_format=2, photometric=32844)
    assert decode_segment(codec, data).ravel().tolist() == [0x4001, 0x4002, 0x4003, 0x4004]


def test_sgilog_luminance_as_numbers():
    """In libtiff's candelas per square metre: 2 ** ((L + 0.5) / 256 - 64)."""
    data = bytes([126 + 4, 0x40, 4, 1, 2, 3, 4])
    codec = SegmentCodec((1, 1, 4, 1), "<f4", 34676, photometric=32844)
    expected = 2 ** ((0x4001 + np.arange(4) + 0.5) / 256 - 64)
    np.testing.assert_allclose(decode_segment(codec, data).ravel(), expected, rtol=1e-6)


def test_sgilog_luv_32():
    data = bytes([2, 0x40, 0xC0, 126 + 2, 7, 2, 86, 0, 126 + 2, 255])
    codec = SegmentCodec((1, 1, 2, 3), "<i2", 34676, bits=(16,), sample_format=2, photometric=32845)
    high = int(Fraction(511, 820) * 32768)
    expected = [
        [0x4007, int(Fraction(173, 820) * 32768), high],
        [0xC007 - 0x10000, int(Fraction(1, 820) * 32768), high],
    ]
    assert decode_segment(codec, data)[0, 0].tolist() == expected


def test_sgilog_luv_24_agrees_with_its_xyz():
    words = np.arange(1 << 14, dtype=">u4")
    words[:] |= 0x2A0 << 14
    data = words.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    codec = SegmentCodec(
        (1, 128, 128, 3), "<i2", 34677, bits=(16,), sample_format=2, photometric=32845
    )
    luv = decode_segment(codec, data).reshape(-1, 3)
    xyz = (
        decode_segment(
            SegmentCodec(
                (1, 128, 128, 3), "<f4", 34677, bits=(16,), sample_format=2, photometric=32845
            ),
            data,
        )
        .reshape(-1, 3)
        .astype("f8")
    )
    weight = xyz @ [1, 15, 3]
    np.testing.assert_allclose(luv[:, 1] / 32768, 4 * xyz[:, 0] / weight, atol=1 / 32000)
    np.testing.assert_allclose(luv[:, 2] / 32768, 9 * xyz[:, 1] / weight, atol=1 / 32000)
    # libtiff lets the highest bit of the chromaticity code into the lowest of the logarithm
    luminance = 2 ** ((luv[:, 0] + 0.5) / 256 - 64)
    is_clean = np.arange(1 << 14) < 1 << 12
    np.testing.assert_allclose(luminance[is_clean], xyz[is_clean, 1], rtol=0.0015)
    np.testing.assert_allclose(luminance, xyz[:, 1], rtol=0.005)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [34676, 34677])
def test_sgilog_luv_of_8_bits_is_rgb(tmp_path: Path, compression: int, order: str) -> None:
    """As in libtiff and GDAL, which adds an alpha channel."""
    rasterio = pytest.importorskip("rasterio")
    pixels = values((8, 9, 3), "u1")

    def encode(part: np.ndarray) -> bytes:
        if compression == 34677:
            return part.tobytes()
        return b"".join(bytes([9, *row, 126 + 9, 90] * 2) for row in part[..., 0])

    tags = {259: compression, 262: 32845}
    path = tmp_path / "a.tif"
    write_tiff(path, [image(pixels, tags, rows=3, encode=encode, order=order)], order=order)
    with rasterio.open(path) as dataset:
        expected = np.moveaxis(dataset.read([1, 2, 3]), 0, -1)
    assert len(np.unique(expected)) > 8
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], expected)


# ---- compressions that libtiff decodes, from bytes made by hand


@pytest.mark.parametrize("fill_order", [1, 2])
def test_fax_group_4(fill_order):
    # Group 4, 4 white rows: each is one vertical mode code "1"; then the end of the block
    bits = "1111" + "000000000001" * 2
    data = int(bits.ljust(32, "0"), 2).to_bytes(4, "big")
    if fill_order == 2:
        data = imagecodecs.bitorder_decode(data)
    codec = SegmentCodec((1, 4, 20, 1), "|b1", 4, bits=(1,), fill_order=fill_order, photometric=0)
    assert not decode_segment(codec, data).any()


def test_fax_modified_huffman():
    # white 2, black 3, white 3 are the codes 0111 10 1000; every row starts at a byte
    row = int("0111101000".ljust(16, "0"), 2).to_bytes(2, "big")
    expected = [[0, 0, 1, 1, 1, 0, 0, 0]] * 3
    for bits in ((1,), ()):
        codec = SegmentCodec((1, 3, 8, 1), "|b1", 2, bits=bits, photometric=0)
        np.testing.assert_array_equal(decode_segment(codec, row * 3)[0, ..., 0], expected)
    codec = SegmentCodec((1, 3, 8, 1), "|b1", 2, fill_order=2, photometric=0)
    backwards = imagecodecs.bitorder_decode(row * 3)
    np.testing.assert_array_equal(decode_segment(codec, backwards)[0, ..., 0], expected)


def test_fax_short_last_strip():
    row = int("0111101000".ljust(16, "0"), 2).to_bytes(2, "big")
    codec = SegmentCodec((1, 4, 8, 1), "|b1", 2, bits=(1,), photometric=0, edge=(1, 2, 8))
    expected = [[0, 0, 1, 1, 1, 0, 0, 0]] * 2
    np.testing.assert_array_equal(decode_segment(codec, row * 2)[0, :2, :, 0], expected)


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("compression", [2, 32771])
def test_a_fax_strip_that_is_cut_is_not_the_short_last_one(compression, fill_order):
    """Libtiff refuses it; all rows that are there are read."""
    row = int("0111101000".ljust(16, "0"), 2).to_bytes(2, "big")
    data = row * 5 if fill_order == 1 else imagecodecs.bitorder_decode(row * 5)
    codec = SegmentCodec((1, 8, 8, 1), "|b1", compression, fill_order=fill_order, edge=(1, 2, 8))
    expected = [[0, 0, 1, 1, 1, 0, 0, 0]] * 5 + [[0] * 8] * 3
    np.testing.assert_array_equal(decode_segment(codec, data)[0, ..., 0], expected)


WORDS = {
    "9f78431c": [(8, 2, 4, 2), (11, 4, 1)],
    "9a081b001b00": [(8, 1, 23), (32,), (32,)],
    "01f9100786a00fa68a40e60d80003501f01f03c17d9a81e1b80fec2c": [
        (2700, 100, 4200, 1000), (0, 5200, 64, 64, 2672)
    ],
}  # fmt: skip
"""Modified Huffman whose rows start at words: white and black runs of each row, from white on."""


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("stored", WORDS)
def test_fax_whose_rows_start_at_words(stored, fill_order):
    """Libtiff 4.7 misreads these rows, which it wrote."""
    rows = [np.repeat(np.arange(len(runs)) % 2, runs) for runs in WORDS[stored]]
    data = bytes.fromhex(stored)
    data = data if fill_order == 1 else bytes(imagecodecs.bitorder_encode(data))
    shape = (1, len(rows), rows[0].size, 1)
    codec = SegmentCodec(shape, "|b1", compression=32771, fill_order=fill_order)
    np.testing.assert_array_equal(decode_segment(codec, data)[0, :, :, 0], rows)


def test_thunderscan():
    # raw 5, run of 2 more, then two 3-bit differences: +1 and -1
    data = bytes([0xC0 | 5, 0x02, 0x80 | 0b001_111])
    codec = SegmentCodec((1, 1, 5, 1), "|u1", 32809, bits=(4,))
    assert decode_segment(codec, data).ravel().tolist() == [5, 5, 5, 6, 5]


def test_thunderscan_short_last_strip():
    row = bytes([0xC0 | 5, 0x02, 0x80 | 0b001_111])
    codec = SegmentCodec((1, 3, 5, 1), "|u1", 32809, bits=(4,), edge=(1, 2, 5))
    decoded = decode_segment(codec, row * 2)
    assert decoded[0, ..., 0].tolist() == [[5, 5, 5, 6, 5], [5, 5, 5, 6, 5], [0] * 5]


def test_next():
    # a literal row of 2-bit values
    codec = SegmentCodec((1, 1, 4, 1), "|u1", 32766, bits=(2,))
    assert decode_segment(codec, bytes([0x00, 0b00_01_10_11])).ravel().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("dtype", "sample_format"), [("|u1", 1), ("<u2", 1), ("<f4", 3)])
def test_pixarlog(dtype, sample_format):
    image = np.linspace(0, 1, 64).reshape(8, 8, 1)
    image = (image * (1 if dtype == "<f4" else 200)).astype(dtype)
    stored = imagecodecs.pixarlog_encode(image)
    expected = imagecodecs.pixarlog_decode(stored, shape=image.shape, dtype=image.dtype)
    codec = SegmentCodec((1, 8, 8, 1), dtype, 32909, sample_format=sample_format)
    np.testing.assert_array_equal(decode_segment(codec, stored)[0], expected)


def rgb_of(luma: float, blue: float, red: float) -> list[int]:
    """Convert by CCIR 601, which TIFF 6.0 section 21 takes as the default."""
    values = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
    return [min(255, max(0, round(value))) for value in values]


@pytest.mark.parametrize("compression", [1, 5, 8])
@pytest.mark.parametrize(
    "subsampling", [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (1, 4), (2, 4)]
)
def test_subsampled_ycbcr_becomes_rgb(compression, subsampling):
    horizontal, vertical = subsampling
    rows, columns = 8, 16
    n_blocks = (rows // vertical, columns // horizontal)
    rng = np.random.default_rng(1)
    blocks = rng.integers(90, 160, (*n_blocks, horizontal * vertical + 2), dtype=np.uint8)
    codec = SegmentCodec(
        (1, rows, columns, 3),
        "|u1",
        compression,
        photometric=6,
        parameters={"subsampling": subsampling},
    )
    decoded = decode_segment(codec, compress(compression, blocks.tobytes()))[0].astype(int)
    for row, column in np.ndindex(rows, columns):
        block = blocks[row // vertical, column // horizontal].astype(int)
        luma = block[row % vertical * horizontal + column % horizontal]
        expected = rgb_of(luma, block[-2] - 128, block[-1] - 128)
        assert np.abs(decoded[row, column] - expected).max() <= 2


def test_reference_black_and_white_are_honoured():
    data = bytes([16, 16, 16, 16, 128, 128, 235, 235, 235, 235, 128, 128])
    parameters = {"subsampling": (2, 2), "reference_black_white": (16, 235, 128, 240, 128, 240)}
    codec = SegmentCodec((1, 2, 4, 3), "|u1", 1, photometric=6, parameters=parameters)
    decoded = decode_segment(codec, data)[0]
    assert (decoded[:, :2] == 0).all()
    assert (decoded[:, 2:] == 255).all()


def old_jpeg_parts(image: np.ndarray) -> tuple[dict, bytes]:
    """Take a JPEG stream apart into the tables of old-style tags and the entropy-coded data."""
    stream = imagecodecs.jpeg_encode(image, level=90, subsampling="444")
    tables: dict[int, dict[int, bytes]] = {0xDB: {}, 0xC4: {}}
    position = 2
    while stream[position + 1] != 0xDA:
        marker, length = stream[position + 1], int.from_bytes(stream[position + 2 : position + 4])
        body = stream[position + 4 : position + 2 + length]
        while marker in tables and body:
            size = 64 if marker == 0xDB else 16 + sum(body[1:17])
            tables[marker][body[0]] = body[1 : 1 + size]
            body = body[1 + size :]
        position += 2 + length
    scan = stream[position + 2 + int.from_bytes(stream[position + 2 : position + 4]) : -2]
    quantization, huffman = tables[0xDB], tables[0xC4]
    parameters = {
        "subsampling": (1, 1),
        "ojpeg_q_tables": quantization[0] + quantization[1] * 2,
        "ojpeg_dc_tables": huffman[0x00] + huffman[0x01] * 2,
        "ojpeg_ac_tables": huffman[0x10] + huffman[0x11] * 2,
    }
    return parameters, scan


def test_old_jpeg_from_tables():
    image = np.ascontiguousarray(
        np.stack(np.mgrid[:16, :24].tolist() + [np.ones((16, 24)) * 9], -1) * 8
    )
    image = image.astype(np.uint8)
    parameters, scan = old_jpeg_parts(image)
    codec = SegmentCodec((1, 16, 24, 3), "|u1", 6, photometric=6, parameters=parameters)
    decoded = decode_segment(codec, scan)[0]
    assert np.abs(decoded.astype(int) - image).max() < 12


def test_old_jpeg_that_is_a_whole_stream():
    image = np.ascontiguousarray(values((16, 24, 3), "u1"))
    stream = imagecodecs.jpeg_encode(image, level=90)
    codec = SegmentCodec((1, 16, 24, 3), "|u1", 6, photometric=6, parameters={"outcolorspace": 2})
    np.testing.assert_array_equal(decode_segment(codec, stream)[0], imagecodecs.jpeg_decode(stream))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("way", ["tables", "stream", "stream without length", "tables of a stream"])
def test_old_jpeg_files(tmp_path: Path, way: str, order: str) -> None:
    """Tags have the offsets of tables, or that of a stream (TIFF 6.0, section 22)."""
    rasterio = pytest.importorskip("rasterio")
    pixels = (np.stack([*np.mgrid[:16, :24], np.full((16, 24), 9)], -1) * 8).astype("u1")
    parameters, segment = old_jpeg_parts(pixels)
    prefix = imagecodecs.jpeg_encode(pixels, level=90, subsampling="444")
    tags = {259: 6, 262: 6, 512: 1, 530: (1, 1), 513: As(4, 8), 514: As(4, len(prefix))}
    if way == "tables of a stream":  # the first strip begins with the header of the scan
        start = prefix.index(b"\xff\xda")
        prefix, segment, tags[514] = prefix[:start], prefix[start:-2], As(4, start)
    elif way == "stream without length":
        del tags[514]
    elif way == "tables":
        del tags[513], tags[514]
        prefix = b""
        for code, name in ((519, "q"), (520, "dc"), (521, "ac")):
            tables, offsets = parameters[f"ojpeg_{name}_tables"], []
            while tables:
                size = 64 if name == "q" else 16 + sum(tables[:16])
                offsets.append(8 + len(prefix))
                prefix, tables = prefix + tables[:size], tables[size:]
            tags[code] = As(4, offsets)
    path, one = tmp_path / "a.tif", image(pixels, tags, encode=lambda _: segment, order=order)
    write_tiff(path, [one], order=order, prefix=prefix)
    with rasterio.open(path) as dataset:
        expected = np.moveaxis(dataset.read(), 0, -1)
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], expected)
    assert np.abs(expected.astype(int) - pixels).max() < 12
