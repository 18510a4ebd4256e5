"""Segments that are short, cropped, too long or broken."""

from __future__ import annotations

import math
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segments import compress, values

from tiffref.codecs.decode import decode_segment, fit_image
from tiffref.codecs.guard import HARMLESS_PIXELS
from tiffref.errors import MalformedTiff, UnsupportedTiff
from tiffref.model.codec import SegmentCodec

FILLS = [None, 7]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000, 34925])
def test_short_last_strip_is_padded(compression, fill):
    codec = SegmentCodec((1, 8, 6, 2), "<u2", compression, edge=(1, 3, 6), fill=fill)
    image = values((1, 3, 6, 2), "u2")
    decoded = decode_segment(codec, compress(compression, image.tobytes()))
    np.testing.assert_array_equal(decoded[:, :3], image)
    assert (decoded[:, 3:] == (fill or 0)).all()


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("stored", [(1, 16, 16, 1), (1, 5, 11, 1), (1, 5, 16, 1)])
def test_cropped_tiles_are_padded(stored, predictor):
    codec = SegmentCodec((1, 16, 16, 1), "<u2", 8, predictor, edge=(1, 5, 11), fill=9)
    image = values(stored, "u2")
    raw = imagecodecs.delta_encode(image, axis=-2) if predictor == 2 else image
    decoded = decode_segment(codec, compress(8, raw.tobytes()))
    np.testing.assert_array_equal(decoded[:, : stored[1], : stored[2]], image)
    assert (decoded[:, stored[1] :] == 9).all()
    assert (decoded[:, :, stored[2] :] == 9).all()


def test_cropped_image_tiles_are_padded():
    image = values((5, 11), "u1")
    codec = SegmentCodec((1, 16, 16, 1), "|u1", 34933, edge=(1, 5, 11), fill=3)
    decoded = decode_segment(codec, imagecodecs.png_encode(image))[0, ..., 0]
    np.testing.assert_array_equal(decoded[:5, :11], image)
    assert (decoded[5:] == 3).all()


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000, 34925])
def test_bytes_behind_the_segment_are_cut(compression):
    codec = SegmentCodec((1, 4, 5, 1), "<u2", compression)
    image = values(codec.shape, "u2")
    data = compress(compression, image.tobytes() + b"behind")
    np.testing.assert_array_equal(decode_segment(codec, data), image)


def test_last_strip_may_have_less_than_a_row_behind_it():
    codec = SegmentCodec((1, 8, 6, 1), "|u1", 1, edge=(1, 3, 6))
    image = values((1, 3, 6, 1), "u1")
    decoded = decode_segment(codec, image.tobytes() + b"\1\1\1\1\1")
    np.testing.assert_array_equal(decoded[:, :3], image)
    assert not decoded[:, 3:].any()
    with pytest.raises(MalformedTiff):
        decode_segment(codec, image.tobytes() + bytes(6))


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000])
@pytest.mark.parametrize("size", [0, 1, 39])
def test_segments_with_too_little_are_refused(compression, size):
    codec = SegmentCodec((1, 4, 5, 1), "<u2", compression, edge=(1, 2, 3))
    with pytest.raises(MalformedTiff) as caught:
        decode_segment(codec, compress(compression, bytes(size)))
    assert caught.value.got is not None
    assert caught.value.expected is not None


@pytest.mark.parametrize(
    "compression",
    [2, 3, 4, 5, 6, 7, 8, 22610, 32773, 34712, 34887, 34925, 34933, 50000, 50001, 50002],
)
@settings(max_examples=15, deadline=None)
@given(data=st.binary(max_size=80))
def test_garbage_is_a_typed_error_or_samples(compression, data):
    codec = SegmentCodec((1, 8, 8, 1), "|u1", compression, bits=(8,), photometric=0)
    try:
        decoded = decode_segment(codec, data)
    except (MalformedTiff, UnsupportedTiff):
        return
    assert decoded.shape == codec.shape


def test_checksum_of_deflate_may_be_missing():
    codec = SegmentCodec((1, 4, 5, 1), "<u2", 8)
    image = values(codec.shape, "u2")
    data = compress(8, image.tobytes())
    np.testing.assert_array_equal(decode_segment(codec, data[:-4]), image)


def test_bombs_are_refused_before_they_are_decoded():
    codec = SegmentCodec((1, 8, 8, 1), "|u1", 34933)
    side = math.isqrt(HARMLESS_PIXELS) + 1
    png = bytearray(imagecodecs.png_encode(np.zeros((8, 8), np.uint8)))
    png[16:24] = side.to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(MalformedTiff, match="far larger"):
        decode_segment(codec, bytes(png))
    # 64 MB of zeros in 64 kB never become more than the segment
    bomb = imagecodecs.deflate_encode(bytes(1 << 26))
    decoded = decode_segment(SegmentCodec((1, 8, 8, 1), "|u1", 8), bomb)
    assert decoded.nbytes == 64


def test_wider_samples_than_the_tags_say_are_refused():
    codec = SegmentCodec((1, 8, 8, 1), "|u1", 34933)
    with pytest.raises(MalformedTiff, match="type cannot hold"):
        decode_segment(codec, imagecodecs.png_encode(np.full((8, 8), 300, np.uint16)))


def test_out_need_not_be_contiguous_or_of_the_type():
    codec = SegmentCodec((1, 4, 5, 1), "<u2", 8)
    image = values(codec.shape, "u2")
    data = compress(8, image.tobytes())
    wide = np.zeros((1, 4, 10, 1), "f8")
    assert decode_segment(codec, data, wide[:, :, ::2]).base is wide
    np.testing.assert_array_equal(wide[:, :, ::2], image)
    assert not wide[:, :, 1::2].any()


@pytest.mark.parametrize(
    ("stored", "said", "samples"),
    [
        ("f4", "<i4", [1.5, 2.0]),
        ("f4", "<u4", [np.nan, 2.0]),
        ("f4", "<f2", [1e6, 2.0]),
        ("u4", "<f4", [(1 << 24) + 1, 2]),
        ("i1", "<u2", [-1, 2]),
        ("u2", "|u1", [256, 2]),
    ],
)
def test_samples_that_their_type_cannot_hold(stored: str, said: str, samples: list) -> None:
    codec = SegmentCodec((1, 1, 2, 1), said, 34887)
    with pytest.raises(MalformedTiff, match="type cannot hold"):
        fit_image(codec, np.array([samples], stored))


@pytest.mark.parametrize(
    ("stored", "said", "samples", "expected"),
    [
        ("u2", "<i2", [65535, 2], [-1, 2]),
        ("u1", "|b1", [255, 0], [True, False]),
        ("f8", "<f4", [np.nan, 2.0], [np.nan, 2.0]),
        ("u2", "|u1", [255, 2], [255, 2]),
        ("f4", "<u1", [255.0, 2.0], [255, 2]),
    ],
)
def test_samples_of_another_type(stored: str, said: str, samples: list, expected: list) -> None:
    codec = SegmentCodec((1, 1, 2, 1), said, 34887)
    fitted = fit_image(codec, np.array([samples], stored))
    assert fitted.dtype == np.dtype(said)
    np.testing.assert_array_equal(fitted[0, 0, :, 0], expected)
