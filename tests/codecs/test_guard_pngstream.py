"""PNG streams are checked before libpng sees them."""

from __future__ import annotations

import random
import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from tiffref.codecs.guard import clean_png

RNG = np.random.default_rng(4)
IMAGES = [
    RNG.integers(0, 255, (9, 13), "u1"),
    RNG.integers(0, 60000, (9, 13), "u2"),
    RNG.integers(0, 255, (9, 13, 3), "u1"),
    RNG.integers(0, 60000, (9, 13, 4), "u2"),
    RNG.integers(0, 255, (9, 13, 2), "u1"),
]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.dtype} {image.shape}")
def test_whole_images_stay_as_they_are(image: np.ndarray) -> None:
    stream = imagecodecs.png_encode(image)
    np.testing.assert_array_equal(imagecodecs.png_decode(clean_png(stream, 1 << 20)), image)


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.dtype} {image.shape}")
def test_whatever_is_broken_is_refused_or_decodes(image: np.ndarray) -> None:
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


def test_a_palette_that_is_only_a_suggestion_is_left_out() -> None:
    stream = imagecodecs.png_encode(IMAGES[2])
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
