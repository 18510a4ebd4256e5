"""Hamamatsu NDPI, made by hand: JPEG streams cut at restart markers, and offsets beyond 4 GiB.

References: NDPI as OpenSlide documents it: McuStarts (65426, high halves in 65432) say where each
restart interval starts, from the start of the strip; an interval is a tile of one row of blocks.
"""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from ifds import NDPI, As, Ifd, write_tiff
from ways import UM, assert_like_tifffile, assert_pixels, kinds, pixels, scales_of, scan

import tiffref

imagecodecs = pytest.importorskip("imagecodecs")
TILE = (8, 32)


def segments_of(stream):
    """Split a JPEG stream into its marker segments, and what follows the start of the scan."""
    parts, at = {}, 2
    while True:
        marker, length = struct.unpack_from(">HH", stream, at)
        parts[marker, at] = stream[at : at + 2 + length]
        at += 2 + length
        if marker == 0xFFDA:
            return parts, stream[at:-2]


def restarting_jpeg(data, *, quality=90, is_unsized=False):
    """Encode an image as one stream of restart intervals, each a tile; return it with their starts.

    `is_unsized` leaves 0 for the size of the image, as in slides too large for JPEG.
    """
    n_rows, n_columns = data.shape[:2]
    scans, header, decoded = [], b"", np.empty_like(data)
    for y in range(0, n_rows, TILE[0]):
        for x in range(0, n_columns, TILE[1]):
            place = slice(y, y + TILE[0]), slice(x, x + TILE[1])
            tile = np.ascontiguousarray(data[place])
            stream = imagecodecs.jpeg8_encode(tile, level=quality, subsampling="444")
            parts, scan = segments_of(stream)
            decoded[place] = imagecodecs.jpeg8_decode(stream)
            scans.append(scan)
    size = (0, 0) if is_unsized else (n_rows, n_columns)
    header = b"\xff\xd8"
    for (marker, _), part in parts.items():
        if marker == 0xFFC0:
            part = part[:5] + struct.pack(">HH", *size) + part[9:]
        if marker == 0xFFDA:
            header += struct.pack(">HHH", 0xFFDD, 4, TILE[1] // 8)
        header += part
    starts, stream = [], header
    for n, scan in enumerate(scans):
        starts.append(len(stream))
        stream += scan + (b"\xff" + bytes([0xD0 + n % 8]) if n + 1 < len(scans) else b"\xff\xd9")
    return stream, starts, decoded


def slide(data, magnification, *, at=None, is_high=False, tags=None, **how):
    """Return the directory of an image, and the pixels that it decodes to."""
    stream, starts, decoded = restarting_jpeg(data, **how)
    samples = data.shape[2] if data.ndim == 3 else 1
    found = {
        256: data.shape[1], 257: data.shape[0], 258: [8] * samples, 259: 7,
        262: 6 if samples == 3 else 1, 271: "Hamamatsu", 277: samples, 278: data.shape[0],
        282: Fraction(20000), 283: Fraction(20000), 284: 1, 296: 3, 65420: 1,
        65421: As(11, magnification), 65426: As(4, starts), **(tags or {}),
    }  # fmt: skip
    if is_high:
        found[65432] = As(4, [0] * len(starts))
    return Ifd(found, [stream], at=at), decoded


@pytest.mark.parametrize("is_unsized", [False, True])
def test_tiles_of_a_strip(tmp_path, is_unsized):
    full, half = pixels(64, 128, 3, dtype="u1"), pixels(32, 64, 3, dtype="u1")
    macro, small = pixels(24, 32, 3, dtype="u1"), pixels(16, 32, dtype="u1")
    made = [
        slide(full, 20.0, is_unsized=is_unsized, is_high=True),
        slide(half, 10.0, is_unsized=is_unsized),
        slide(macro, -1.0),
        slide(small, -2.0),
    ]
    path = tmp_path / "a.ndpi"
    write_tiff(path, [ifd for ifd, _ in made], form=NDPI)
    references = scan(path)
    assert set(kinds(references)) == {"ndpi"}
    names = ["image", "image_1", "macro", "map"]
    assert_pixels(references, {n: d for n, (_, d) in zip(names, made, strict=True)})
    if not is_unsized:
        assert_like_tifffile(path, references)
    image = references.group["image"]
    assert image.chunks == (*TILE, 3)
    assert image.attributes["magnification"] == 20
    assert [references.group[n].attributes["role"] for n in names[2:]] == names[2:]
    assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}


def test_focal_planes_with_tables_of_their_own(tmp_path):
    """Quantization tables are in each page's stream, not in its tags."""
    planes = pixels(3, 64, 128, 3, dtype="u1")
    made = [
        slide(plane, 20.0, quality=quality, tags={65424: As(9, 1000 * n)})
        for n, (plane, quality) in enumerate(zip(planes, (95, 40, 80), strict=True))
    ]
    path = tmp_path / "a.ndpi"
    write_tiff(path, [ifd for ifd, _ in made], form=NDPI)
    references = scan(path)
    assert references.group["image"].dims == ("z", "y", "x", "s")
    assert_pixels(references, {"image": np.stack([decoded for _, decoded in made])})


def test_what_lies_beyond_4_gib(tmp_path):
    """Directories, strips, and values of tags; the file is a hole up to there."""
    full, half = pixels(64, 128, 3, dtype="u1"), pixels(32, 64, 3, dtype="u1")
    made = [
        slide(full, 20.0, at=(5 << 30) + 4, is_high=True),
        slide(half, 10.0, at=(9 << 30) + 2),
    ]
    path = tmp_path / "a.ndpi"
    write_tiff(path, [ifd for ifd, _ in made], form=NDPI)
    assert path.stat().st_blocks * 512 < 1 << 20
    references = tiffref.scan(path)
    assert_pixels(references, {"image": made[0][1], "image_1": made[1][1]})
    assert scales_of(references) == {"y": UM(0.5), "x": UM(0.5)}


def test_pages_beyond_4_gib_decode_by_their_own_tags(tmp_path):
    """Values of the same place in the low halves of their offsets are not the same values."""
    planes = pixels(2, 64, 128, dtype="u1")
    made = [
        slide(plane, 20.0, at=where, quality=quality)
        for plane, where, quality in zip(planes, (1 << 30, 5 << 30), (95, 40), strict=True)
    ]
    path = tmp_path / "a.ndpi"
    write_tiff(path, [ifd for ifd, _ in made], form=NDPI)
    references = tiffref.scan(path)
    assert_pixels(references, {"image": np.stack([decoded for _, decoded in made])})


def test_gray_samples_of_16_bits_under_tags_that_say_otherwise(tmp_path):
    """CaptureMode (65441) of 7 and more: the tags describe an image of three bytes."""
    data = pixels(48, 64) * 200
    tags = {
        256: 64, 257: 48, 258: [8, 8, 8], 259: 22610, 262: 2, 271: "Hamamatsu", 277: 3, 278: 48,
        284: 1, 65420: 1, 65421: As(11, 20.0), 65441: As(4, 7),
    }  # fmt: skip
    path = tmp_path / "a.ndpi"
    write_tiff(path, [Ifd(tags, [imagecodecs.jpegxr_encode(data)])], form=NDPI)
    assert_pixels(scan(path), {"image": data})


@pytest.mark.parametrize("n", [0, 1, 30, 31])
@pytest.mark.parametrize("by", [-2, -1, 1, 2, 40, "next"])
def test_tile_offsets_that_point_between_tiles_are_refused(tmp_path, n, by):
    """McuStarts are not always right; each tile shows itself by the restart markers around it."""
    ifd, decoded = slide(pixels(64, 128, dtype="u1"), 20.0)
    starts = list(ifd.tags[65426].value)
    starts[n] = starts[n] + by if by != "next" else [*starts, len(ifd.segments[0])][n + 1]
    ifd.tags[65426] = As(4, starts)
    path = tmp_path / "a.ndpi"
    write_tiff(path, [ifd], form=NDPI)
    if n == 0:  # no tile at all: the strip is read as one
        assert_pixels(tiffref.scan(path), {"image": decoded})
        return
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.zarr.ZarrTiffStore(tiffref.scan(path))[...]
    tile = {"y": slice(n // 4 * 8, n // 4 * 8 + 8), "x": slice(n % 4 * 32, n % 4 * 32 + 32)}
    with pytest.raises(tiffref.errors.MalformedTiff):
        tiffref.zarr.ZarrTiffStore(tiffref.scan(path))[tile["y"], tile["x"]]
