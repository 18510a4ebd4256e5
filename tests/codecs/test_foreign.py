"""`foreign`: chunks of strangers decode within the bounds of their chunk, or not at all."""

from __future__ import annotations

import zlib
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import pytest

from tiffref.codecs.foreign import decode_foreign, decode_image
from tiffref.codecs.guard import HARMLESS_BYTES
from tiffref.errors import MalformedTiff
from tiffref.model.codec import ForeignCodec

ZEROS = bytes(HARMLESS_BYTES + (1 << 20))
IMAGE = np.random.default_rng(3).integers(0, 255, (48, 80, 3)).astype("u1")


def decode(config: dict[str, Any], data: bytes, n_bytes: int) -> bytes:
    codec = ForeignCodec(2, {"dtype": "|u1", "filters": None, "compressor": config})
    return decode_foreign(codec, data, (n_bytes,), np.dtype("u1")).tobytes()


@pytest.mark.parametrize("config", [{"id": "lz4"}, {"id": "blosc"}, {"id": "zstd"}])
def test_streams_with_a_declared_size(config: dict[str, Any]) -> None:
    encode = numcodecs.get_codec(dict(config)).encode
    small, large = bytes(encode(b"abc" * 100)), bytes(encode(ZEROS))
    assert decode(config, small, 300) == b"abc" * 100
    with pytest.raises(MalformedTiff, match=r"far more|too small"):
        decode(config, large, 16)


def test_frames_of_zstandard_without_a_size() -> None:
    frame = (
        bytes.fromhex("28b52ffd0058")
        + (b"\x02\0\x10" + b"\0") * 1000
        + bytes.fromhex("030010")
        + b"\0"
    )
    with pytest.raises(MalformedTiff, match="does not decode"):
        decode({"id": "zstd"}, frame, 16)


def test_images_that_are_broken_or_far_larger_than_their_chunk() -> None:
    config, stream = {"id": "imagecodecs_png"}, imagecodecs.png_encode(IMAGE)
    np.testing.assert_array_equal(decode_image(config, stream, IMAGE.size), IMAGE)
    data = bytearray(stream)
    data[16:24] = (1 << 20).to_bytes(4, "big") * 2
    with pytest.raises(MalformedTiff, match=r"far more|too small"):
        decode_image(config, bytes(data), 48 * 80)
    with pytest.raises(ValueError, match="PNG"):
        decode_image(config, stream[:-20], 48 * 80)


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_delta_of_rows_needs_their_shape(axis: int) -> None:
    stored = np.ascontiguousarray(imagecodecs.delta_encode(IMAGE, axis=axis))
    config = {"id": "imagecodecs_delta", "axis": axis, "dist": 1, "dtype": "|u1"}
    for shape in (IMAGE.shape, None):
        filters = [{**config, "shape": shape}, {"id": "zlib", "level": 1}]
        codec = ForeignCodec(2, {"dtype": "|u1", "filters": filters, "compressor": None})
        data = zlib.compress(stored)
        if shape:
            np.testing.assert_array_equal(
                decode_foreign(codec, data, IMAGE.shape, IMAGE.dtype), IMAGE
            )
            continue
        with pytest.raises(MalformedTiff, match="no shape"):
            decode_foreign(codec, data, IMAGE.shape, IMAGE.dtype)
        row = ForeignCodec(2, {**codec.metadata, "filters": [{"id": "imagecodecs_delta"}]})
        found = decode_foreign(row, bytes([1, 1, 2]), (1, 3), IMAGE.dtype)
        np.testing.assert_array_equal(found, [[1, 2, 4]])
