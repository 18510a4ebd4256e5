"""`guard`: streams that say more, or decode to more, than their chunk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import pytest

from tiffref.codecs.guard import (
    HARMLESS_BYTES,
    check_image,
    guarded,
    image_size,
    inflate,
    zstd_size,
)
from tiffref.errors import MalformedTiff

ZEROS = bytes(HARMLESS_BYTES + (1 << 20))
COMPRESSORS: dict[str, Any] = {
    "zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress
}  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSORS)
def test_streams_without_a_size_end_at_the_bound(name: str) -> None:
    compress = COMPRESSORS[name]
    assert inflate({"id": name}, compress(b"abc" * 100), 300) == b"abc" * 100
    with pytest.raises(MalformedTiff, match="far more"):
        inflate({"id": name}, compress(ZEROS), 16)
    with pytest.raises(ValueError, match="cut off"):
        inflate({"id": name}, compress(b"abc" * 100)[:-5], 300)


def test_members_of_gzip_follow_one_another() -> None:
    assert inflate({"id": "gzip"}, gzip.compress(b"a") + gzip.compress(b"b"), 2) == b"ab"


def test_frames_of_zstandard_are_walked() -> None:
    frames = [imagecodecs.zstd_encode(b"abc" * n) for n in (1, 1000)]
    skipped = b"\x50\x2a\x4d\x18\3\0\0\0abc"
    assert zstd_size(skipped.join(frames)) == (3003, 3003)
    for cut in (1, 5, len(frames[0]) + 4):
        with pytest.raises(ValueError, match="Zstandard"):
            zstd_size(b"".join(frames)[:-cut])


@pytest.mark.parametrize("config", [{"id": "lz4"}, {"id": "blosc"}, {"id": "zstd"}])
def test_streams_that_say_their_size(config: dict[str, Any]) -> None:
    encode = numcodecs.get_codec(dict(config)).encode
    small, large = bytes(encode(b"abc" * 100)), bytes(encode(ZEROS))
    assert guarded(config["id"], small, 300) == small
    with pytest.raises(MalformedTiff, match="far more"):
        guarded(config["id"], large, 16)


def test_frames_of_zstandard_without_a_size() -> None:
    frame = (
        bytes.fromhex("28b52ffd0058")
        + (b"\x02\0\x10" + b"\0") * 1000
        + bytes.fromhex("030010")
        + b"\0"
    )
    with pytest.raises(MalformedTiff, match="far more"):
        guarded("zstd", frame, 16)


IMAGE = np.random.default_rng(3).integers(0, 255, (48, 80, 3)).astype("u1")
ENCODERS: dict[str, Any] = {
    "jpeg": imagecodecs.jpeg8_encode, "jpeg2k": imagecodecs.jpeg2k_encode,
    "jpegxl": imagecodecs.jpegxl_encode, "jpegxr": imagecodecs.jpegxr_encode,
    "png": imagecodecs.png_encode, "webp": imagecodecs.webp_encode,
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("shape", [(48, 80), (48, 48), (24, 48), (17, 33), (8, 16)])
def test_images_say_their_size(name: str, shape: tuple[int, int]) -> None:
    data = ENCODERS[name](np.ascontiguousarray(IMAGE[: shape[0], : shape[1]]))
    assert image_size(name, data) == shape
    check_image(name, data, 1)


@pytest.mark.parametrize("name", [b"jxlc", b"jxlp"])
def test_jpeg_xl_in_boxes_says_its_size(name: bytes) -> None:
    stream = imagecodecs.jpegxl_encode(IMAGE, usecontainer=False)
    body = stream if name == b"jxlc" else b"\0\0\0\0" + stream
    boxes = [
        (b"JXL ", b"\r\n\x87\n"), (b"ftyp", b"jxl \0\0\0\0jxl "), (b"jxll", b"\x0a"), (name, body)
    ]  # fmt: skip
    data = b"".join((8 + len(part)).to_bytes(4, "big") + kind + part for kind, part in boxes)
    assert image_size("jpegxl", data) == (48, 80)


def test_images_far_larger_than_their_segment() -> None:
    data = bytearray(imagecodecs.png_encode(IMAGE))
    data[16:24] = (1 << 20).to_bytes(4, "big") * 2
    with pytest.raises(MalformedTiff, match="far larger"):
        guarded("imagecodecs_png", bytes(data), 48 * 80)
    with pytest.raises(ValueError, match="PNG"):
        guarded("imagecodecs_png", imagecodecs.png_encode(IMAGE)[:-20], 48 * 80)
