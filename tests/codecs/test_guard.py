"""`guard`: streams that say more, or decode to more, than their chunk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest

from tiffref.codecs.decode import SegmentDecoder
from tiffref.codecs.guard import (
    HARMLESS_BYTES,
    check_image,
    clean_png,
    image_size,
    inflate,
    trim_zstd,
    zstd_bound,
)
from tiffref.errors import MalformedTiff
from tiffref.model.codec import SegmentCodec

ZEROS = bytes(HARMLESS_BYTES + (1 << 20))
COMPRESSORS: dict[str, Any] = {
    "zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress
}  # fmt: skip


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("rows", [1, 1 << 16, (1 << 16) + 1, 1 << 30, -1])
def test_as_many_stored_bytes_as_are_needed_pass(compression: int, rows: int) -> None:
    codec = SegmentCodec((1, rows, 1024, 1), "|u1", compression)
    if rows < 0:
        with pytest.raises(MalformedTiff, match="negative"):
            SegmentDecoder(codec)
        return
    decoder = SegmentDecoder(codec)
    least = 0 if rows <= 1 << 16 else -(-rows * 1024 // decoder.max_expansion)
    for n_stored in (0, least - 1, least, least + 1):
        if n_stored >= least:
            decoder.check_stored(n_stored)
        elif n_stored >= 0:
            with pytest.raises(MalformedTiff, match="out of proportion"):
                decoder.check_stored(n_stored)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_streams_without_a_size_end_at_the_bound(name: str) -> None:
    compress = COMPRESSORS[name]
    assert inflate({"id": name}, compress(b"abc" * 100), 300) == b"abc" * 100
    with pytest.raises(MalformedTiff, match="far more"):
        inflate({"id": name}, compress(ZEROS), 16)
    with pytest.raises(ValueError, match="truncated"):
        inflate({"id": name}, compress(b"abc" * 100)[:-5], 300)


def test_members_of_gzip_follow_one_another() -> None:
    assert inflate({"id": "gzip"}, gzip.compress(b"a") + gzip.compress(b"b"), 2) == b"ab"


def test_frames_of_zstandard_are_walked() -> None:
    frames = [imagecodecs.zstd_encode(b"abc" * n) for n in (1, 1000)]
    skipped = b"\x50\x2a\x4d\x18\3\0\0\0abc"
    whole = skipped.join(frames)
    assert trim_zstd(whole + b"bytes behind it", 3003) == whole
    assert trim_zstd(whole, 3) == frames[0]
    for cut in range(1, len(frames[1]) - 4):
        assert trim_zstd(b"".join(frames)[:-cut], 3003) == frames[0]
        with pytest.raises(ValueError, match="Zstandard"):
            trim_zstd(frames[1][:-cut], 3000)


def test_the_bound_of_zstandard_frames() -> None:
    one = imagecodecs.zstd_encode(bytes(1 << 20))
    without_size = b"\x28\xb5\x2f\xfd\0\x58" + (3 << 3 | 1).to_bytes(3, "little") + b"abc"
    assert zstd_bound(one) >= 1 << 20
    assert zstd_bound(without_size) == 1 << 17
    assert zstd_bound(one + without_size) == zstd_bound(one) + (1 << 17)
    for broken in (one[:-1], without_size[:-1], one + b"bytes", b"abc"):
        with pytest.raises(ValueError, match="Zstandard"):
            zstd_bound(broken)


IMAGE = np.random.default_rng(3).integers(0, 255, (48, 80, 3)).astype("u1")
ENCODERS: dict[str, Any] = {
    "jpeg": imagecodecs.jpeg8_encode, "jpeg2k": imagecodecs.jpeg2k_encode,
    "jpegxl": imagecodecs.jpegxl_encode, "jpegxr": imagecodecs.jpegxr_encode,
    "png": imagecodecs.png_encode, "webp": imagecodecs.webp_encode,
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("shape", [(48, 80), (48, 48), (24, 48), (17, 33), (8, 16)])
def test_images_have_a_declared_size(name: str, shape: tuple[int, int]) -> None:
    data = ENCODERS[name](np.ascontiguousarray(IMAGE[: shape[0], : shape[1]]))
    size = image_size(name, data)
    assert size is not None and size[:2] == shape
    check_image(name, data, 1)


@pytest.mark.parametrize("name", [b"jxlc", b"jxlp"])
def test_jpeg_xl_in_boxes_has_a_declared_size(name: bytes) -> None:
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
        check_image("png", bytes(data), 48 * 80)


# ---- PNG

RNG = np.random.default_rng(4)
PNG_IMAGES = [
    RNG.integers(0, 255, (9, 13), "u1"),
    RNG.integers(0, 60000, (9, 13), "u2"),
    RNG.integers(0, 255, (9, 13, 3), "u1"),
    RNG.integers(0, 60000, (9, 13, 4), "u2"),
    RNG.integers(0, 255, (9, 13, 2), "u1"),
]


@pytest.mark.parametrize("image", PNG_IMAGES, ids=lambda image: f"{image.dtype} {image.shape}")
def test_whole_images_stay_as_they_are(image: np.ndarray) -> None:
    stream = imagecodecs.png_encode(image)
    np.testing.assert_array_equal(imagecodecs.png_decode(clean_png(stream, 1 << 20)), image)


@pytest.mark.parametrize("image", PNG_IMAGES, ids=lambda image: f"{image.dtype} {image.shape}")
def test_broken_streams_are_refused_or_decode(image: np.ndarray) -> None:
    stream = imagecodecs.png_encode(image)
    rng = random.Random(3)
    n_refused = 0
    for _ in range(400):
        broken = bytearray(stream)
        broken[rng.randrange(8, len(broken))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del broken[rng.randrange(8, len(broken)) :]
        try:
            clean = clean_png(bytes(broken), 1 << 20)
        except ValueError:
            n_refused += 1
            continue
        imagecodecs.png_decode(clean)
    assert n_refused > 300


def spell(name: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + checksum


def test_a_suggested_palette_is_ignored() -> None:
    stream = imagecodecs.png_encode(PNG_IMAGES[2])
    at = stream.index(b"IDAT") - 4
    suggested = stream[:at] + spell(b"PLTE", b"no colours") + stream[at:]
    assert clean_png(suggested, 1 << 20) == clean_png(stream, 1 << 20)


def test_interlaced_sizes() -> None:
    """A 3 x 2 image of one byte for each pixel in seven passes, all of zeros."""
    header = struct.pack(">2I5B", 3, 2, 8, 0, 0, 0, 1)
    # passes of 1x1, 0, 0, 1x1 (column 2), 0, 2x0... counted by hand: rows of 2, 2, 2 and 4 bytes
    pixels = bytes(2 + 2 + 2 + 4)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    stream = b"\x89PNG\r\n\x1a\n" + b"".join(spell(*chunk) for chunk in chunks)
    assert imagecodecs.png_decode(clean_png(stream, 1 << 20)).shape == (2, 3)


def test_bombs_are_refused() -> None:
    stream = imagecodecs.png_encode(np.zeros((2000, 2000), "u1"))
    with pytest.raises(ValueError, match="too large"):
        clean_png(stream, 1 << 20)
