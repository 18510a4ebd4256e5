"""Segments for tests: pages that tifffile wrote, taken apart; values; encoders."""

from __future__ import annotations

import io
import math

import imagecodecs
import numpy as np
import tifffile

from tiffref.codecs.decode import decode_segment
from tiffref.codecs.table import jpeg_colorspaces
from tiffref.model.codec import SegmentCodec

BYTEORDERS = ["<", ">"]


def codec_of(page: tifffile.TiffPage) -> SegmentCodec:
    """Describe the segments of a page as a scan does."""
    is_separate = page.planarconfig == 2 and page.samplesperpixel > 1
    samples = 1 if is_separate else page.samplesperpixel
    _, depth, length, width, _ = page.shaped
    if page.is_tiled:
        shape = (page.tiledepth, page.tilelength, page.tilewidth, samples)
    else:
        shape = (1, page.rowsperstrip, width, samples)
    inside = zip((depth, length, width), shape[:3], strict=True)
    edge = tuple(whole % part or part for whole, part in inside)
    parameters: dict = {}
    if page.compression == 7:
        extra = tuple(page.extrasamples)
        parameters = dict(jpeg_colorspaces(page.photometric, is_separate, extra, page.is_jfif))
        if page.jpegtables is not None:
            parameters["jpeg_tables"] = page.jpegtables
    bits = page.bitspersample
    return SegmentCodec(
        shape,
        page.dtype.newbyteorder("<").str,
        int(page.compression),
        int(page.predictor),
        page.parent.byteorder,
        bits if isinstance(bits, tuple) else (int(bits),),
        int(page.sampleformat),
        int(page.fillorder),
        int(page.photometric),
        edge if edge != shape[:3] else None,
        None,
        parameters,
    )


def decode_page(page: tifffile.TiffPage) -> np.ndarray:
    """Decode every segment of a page and put them together."""
    codec = codec_of(page)
    planes, depth, length, width, _ = page.shaped
    sizes = zip((depth, length, width), codec.shape[:3], strict=True)
    grid = (planes, *(-(-whole // part) for whole, part in sizes))
    parts = zip(grid[1:], codec.shape[:3], strict=True)
    padded = (planes, *(n * part for n, part in parts), codec.shape[3])
    image = np.zeros(padded, np.dtype(codec.dtype).newbyteorder("="))
    file = page.parent.filehandle
    for index, (offset, length_bytes) in enumerate(
        zip(page.dataoffsets, page.databytecounts, strict=True)
    ):
        plane, *place = np.unravel_index(index, grid)
        file.seek(offset)
        window = tuple(
            slice(p * n, (p + 1) * n) for p, n in zip(place, codec.shape[:3], strict=True)
        )
        out = np.full(codec.shape, 1, image.dtype)
        decoded = decode_segment(codec, file.read(length_bytes), out)
        assert decoded is out
        image[(plane, *window)] = out
    return image[:, :depth, :length, :width].reshape(page.shape)


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(math.prod(shape))
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) > 0.5
    if kind.kind == "f":
        return rng.normal(1000, 300, shape).astype(kind)
    if kind.kind == "c":
        return (rng.normal(0, 9, shape) + 1j * rng.normal(0, 9, shape)).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(max(info.min, -5000), min(info.max, 60000), shape, endpoint=True).astype(
        kind
    )


def roundtrip(image: np.ndarray, **options) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as tif:
        page = tif.pages[0]
        expected = page.asarray()
        decoded = decode_page(page)
    assert decoded.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(decoded, expected)


def compress(compression: int, data: bytes) -> bytes:
    encoders = {
        1: bytes,
        5: imagecodecs.lzw_encode,
        8: imagecodecs.deflate_encode,
        32773: imagecodecs.packbits_encode,
        32946: imagecodecs.deflate_encode,
        34925: imagecodecs.lzma_encode,
        50000: imagecodecs.zstd_encode,
    }
    return encoders[compression](data)
