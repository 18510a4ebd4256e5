"""Packed, mixed, 24-bit and complex integer samples, and predictors."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from segments import BYTEORDERS, decode_page, values

from tiffref.codecs.decode import decode_segment
from tiffref.errors import UnsupportedTiff
from tiffref.model.codec import SegmentCodec


def pack(samples: np.ndarray, bits: int) -> bytes:
    """Pack rows of unsigned values, most significant bit first, each row padded to bytes."""
    planes = samples[..., np.newaxis] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(planes.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("bits", [*range(1, 8), *range(9, 16), *range(17, 24), *range(25, 32)])
def test_packed_integers(bits, fill_order):
    rows, columns = 5, 7
    samples = np.random.default_rng(bits).integers(0, 1 << bits, (rows, columns * 3))
    data = pack(samples, bits)
    if fill_order == 2:
        data = imagecodecs.bitorder_decode(data)
    width = next(n for n in (8, 16, 32) if n >= bits)
    for byteorder in BYTEORDERS:
        codec = SegmentCodec(
            (1, rows, columns, 3),
            "|b1" if bits == 1 else np.dtype(f"u{width // 8}").newbyteorder("<").str,
            byteorder=byteorder,
            bits=(bits,),
            fill_order=fill_order,
        )
        decoded = decode_segment(codec, data)
        np.testing.assert_array_equal(decoded.reshape(rows, -1), samples)


@pytest.mark.parametrize("bits", [4, 6, 10, 12, 20, 24])
def test_signed_packed_integers(bits):
    samples = np.random.default_rng(bits).integers(-(1 << bits - 1), 1 << bits - 1, (4, 5))
    width = next(n for n in (8, 16, 32) if n >= bits)
    codec = SegmentCodec(
        (1, 4, 5, 1),
        np.dtype(f"i{width // 8}").newbyteorder("<").str,
        bits=(bits,),
        sample_format=2,
    )
    decoded = decode_segment(codec, pack(samples & (1 << bits) - 1, bits))
    np.testing.assert_array_equal(decoded[0, ..., 0], samples)


@pytest.mark.parametrize("byteorder", BYTEORDERS)
@pytest.mark.parametrize("bits", [4, 12])
def test_packed_integers_as_tifffile_reads_them(bits, byteorder):
    dtype = "u1" if bits < 8 else "u2" if bits < 16 else "u4"
    image = (values((9, 13), dtype) & (1 << bits) - 1).astype(dtype)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, bitspersample=bits, byteorder=byteorder, rowsperstrip=4)
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as tif:
        np.testing.assert_array_equal(decode_page(tif.pages[0]), tif.pages[0].asarray())


@pytest.mark.parametrize("byteorder", BYTEORDERS)
def test_integers_of_24_bits_as_gdal_writes_them(byteorder):
    """The byte order that is not the file's; tifffile reads big-endian ones 256 times too large."""
    samples = np.array([[0, 1, 255, 256], [65536, 0xE2E2E2, 0x010203, 0xFFFFFF]], "<u4")
    stored = samples.view("u1").reshape(-1, 4)[:, :3]
    stored = stored[:, ::-1] if byteorder == "<" else stored
    codec = SegmentCodec((1, 2, 4, 1), "<u4", bits=(24,), byteorder=byteorder)
    decoded = decode_segment(codec, stored.tobytes())
    np.testing.assert_array_equal(decoded[0, ..., 0], samples)


def test_mixed_samples():
    words = np.array([0x0821, 0xFFFF, 0x1234], "<u2")
    codec = SegmentCodec((1, 1, 3, 3), "|u1", bits=(5, 6, 5))
    expected = tifffile.tifffile.unpack_rgb(words.tobytes(), "<B", (5, 6, 5))
    np.testing.assert_array_equal(decode_segment(codec, words.tobytes()).ravel(), expected)


@pytest.mark.parametrize("byteorder", BYTEORDERS)
@pytest.mark.parametrize(("bits", "dtype"), [(32, "<c8"), (64, "<c16")])
def test_complex_integers(bits, dtype, byteorder):
    parts = np.arange(-12, 12).astype(f"{byteorder}i{bits // 16}")
    codec = SegmentCodec((1, 3, 4, 1), dtype, byteorder=byteorder, bits=(bits,), sample_format=5)
    decoded = decode_segment(codec, parts.tobytes())
    expected = parts[::2].astype("f8") + 1j * parts[1::2]
    np.testing.assert_array_equal(decoded.ravel(), expected)


@pytest.mark.parametrize("samples", [1, 3])
def test_float24_with_and_without_predictor(samples):
    numbers = values((4, 5, samples), "f4").astype("f2").astype("f4")
    numbers[0, 0, 0] = 0
    little = imagecodecs.float24_encode(numbers, byteorder="<")
    codec = SegmentCodec((1, 4, 5, samples), "<f4", bits=(24,), sample_format=3)
    np.testing.assert_array_equal(decode_segment(codec, little)[0], numbers)
    # what Technical Note 3 says, in plain steps: bytes by significance, then differences
    big = np.frombuffer(imagecodecs.float24_encode(numbers, byteorder=">"), np.uint8)
    planes = big.reshape(4, 5 * samples, 3).transpose(0, 2, 1).reshape(4, -1)
    differences = planes.copy()
    differences[:, samples:] -= planes[:, :-samples]
    for byteorder in BYTEORDERS:
        codec = SegmentCodec(
            (1, 4, 5, samples), "<f4", 1, 3, byteorder, bits=(24,), sample_format=3
        )
        np.testing.assert_array_equal(decode_segment(codec, differences.tobytes())[0], numbers)


def test_float24_nan_keeps_its_payload_with_the_predictor():
    codec = SegmentCodec((1, 1, 1, 1), "<f4", 1, 3, bits=(24,), sample_format=3)
    stored = np.diff(np.array([0xFF, 0x3F, 0x23], np.uint8), prepend=np.uint8(0))
    decoded = decode_segment(codec, stored.tobytes())
    assert decoded.view("u4").item() == 0xFF800000 | 0x3F23 << 7


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<c8"])
def test_horizontal_predictor_of_floats_adds_their_bits(dtype):
    image = values((1, 6, 7, 1), dtype)
    width = np.dtype(dtype).itemsize
    differences = imagecodecs.delta_encode(image.view(f"u{width}"), axis=-2)
    codec = SegmentCodec(image.shape, dtype, 1, 2, sample_format=6 if "c" in dtype else 3)
    np.testing.assert_array_equal(decode_segment(codec, differences.tobytes()), image)


def test_undefined_predictors_are_refused():
    for codec in (
        SegmentCodec((1, 2, 2, 1), "<u2", 1, 17),
        SegmentCodec((1, 2, 2, 1), "<c16", 1, 2, sample_format=6),
        SegmentCodec((1, 2, 2, 1), "<f4", 1, 2, bits=(24,), sample_format=3),
        SegmentCodec((1, 2, 2, 1), "<c8", 1, 3, bits=(32,), sample_format=5),
    ):
        with pytest.raises(UnsupportedTiff, match="redictor"):
            decode_segment(codec, bytes(64))
