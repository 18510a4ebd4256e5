"""Pages whose tags are the same, and that decode each in its own way."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile
from ifds import As, image, write_tiff

import tiffref
from tiffref.zarr import ZarrTiffStore

imagecodecs = pytest.importorskip("imagecodecs")
rng = np.random.default_rng(5)


@pytest.mark.parametrize("n_pages", [5, 80])
def test_rgb_pages_with_and_without_jfif_marker(tmp_path, n_pages):
    """JPEG of RGB samples holds RGB, or YCbCr if it has a JFIF marker."""
    images = rng.integers(0, 255, (n_pages, 16, 16, 3), "u1")
    spaces = ["YCBCR" if n % 2 else "RGB" for n in range(n_pages)]
    pages = []
    for data, space in zip(images, spaces, strict=True):
        stream = imagecodecs.jpeg8_encode(data, colorspace="RGB", outcolorspace=space)
        pages.append(image(data, {259: 7, 262: 2}, encode=lambda _, stream=stream: stream))
    path = tmp_path / "a.tif"
    write_tiff(path, pages)
    expected = np.stack([tifffile.imread(path, key=n) for n in range(n_pages)])
    assert abs(expected.astype(int) - images).mean() < 30
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], expected)


def old_jpeg_tables(stream):
    """Quantization, DC and AC tables of a gray JPEG stream, and its entropy-coded data."""
    tables, at = {}, 2
    while True:
        marker, length = struct.unpack_from(">HH", stream, at)
        body = stream[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xFFDB:
            tables[519] = body[1:]
        while marker == 0xFFC4 and body:
            size = 17 + sum(body[1:17])
            tables[521 if body[0] >> 4 else 520] = body[1:size]
            body = body[size:]
        if marker == 0xFFDA:
            return tables, stream[at:-2]


def test_old_style_jpeg_pages_with_tables_of_their_own(tmp_path):
    """The tags hold offsets of tables; what is there differs."""
    images = rng.integers(0, 255, (4, 16, 16), "u1")
    prefix, pages, expected = b"", [], []
    for data, level in zip(images, (95, 50, 80, 50), strict=True):
        stream = imagecodecs.jpeg8_encode(data, level=level)
        expected.append(imagecodecs.jpeg8_decode(stream))
        tables, scan = old_jpeg_tables(stream)
        tags = {259: 6, 262: 1, 512: 1}
        for code, table in tables.items():
            tags[code] = As(4, 8 + len(prefix))
            prefix += table
        pages.append(image(data, tags, encode=lambda _, scan=scan: scan))
    path = tmp_path / "a.tif"
    write_tiff(path, pages, prefix=prefix)
    references = tiffref.scan(path)
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], np.stack(expected))
