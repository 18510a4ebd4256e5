"""Segments that are cut off, without byte counts, or stored in several ways; pages that differ."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import tifffile
from ifds import image, write_tiff
from samples import rng

import tiffref
from tiffref.codecs.decode import decode_segment, runs_short
from tiffref.errors import (
    MalformedTiff,
    ManifestMismatch,
    MetadataWarning,
    TiffrefError,
    TruncationWarning,
)
from tiffref.io.source import LocalSource
from tiffref.model.codec import SegmentCodec
from tiffref.tiff import probe
from tiffref.zarr import ZarrTiffStore

GREY = (
    np.add.outer(np.arange(200), np.arange(160)) // 2
    + np.random.default_rng(3).integers(0, 30, (200, 160))
).astype("u1")
BLACK = (np.add.outer(np.arange(200) // 5, np.arange(160) // 7) % 2).astype("u1")
ENCODE = {
    "none": (1, lambda part: part.tobytes()),
    "lzw": (5, lambda part: imagecodecs.lzw_encode(part.tobytes())),
    "deflate": (8, lambda part: zlib.compress(part.tobytes())),
    "packbits": (32773, lambda part: imagecodecs.packbits_encode(part)),
}
NOTHING = contextlib.nullcontext()


def read(path, **options):
    with ZarrTiffStore(path, **options) as store:
        return store[...]


# ---- segments that the end of the file cuts off


def write_last_at_end(path, compression, rows, *, grey=GREY, black=BLACK):
    if compression.startswith("CCITT"):
        rasterio = pytest.importorskip("rasterio")
        height, width = black.shape
        how = {"height": height, "width": width, "count": 1, "dtype": "uint8", "nbits": 1}
        how |= {"driver": "GTiff", "compress": compression, "blockysize": rows}
        with rasterio.open(path, "w", **how) as dataset:
            dataset.write(black, 1)
    else:
        how = {"compression": compression, "rowsperstrip": rows, "metadata": None}
        tifffile.imwrite(path, grey, **how)
    return path


def change_last(path, *, part=1.0, n_more=0):
    """Keep a part of the last segment, or add to its byte count."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[-1], page.databytecounts[-1]
        tag = page.tags["StripByteCounts"]
    form = {3: "<H", 4: "<I"}[tag.dtype]
    place = tag.valueoffset + struct.calcsize(form) * (tag.count - 1)
    struct.pack_into(form, data, place, count + n_more)
    changed = path.with_name("changed.tif")
    changed.write_bytes(data[: offset + int(count * part)])
    return changed


LENIENT = ["jpeg", "jpegxr", "CCITTRLE", "CCITTFAX3", "CCITTFAX4"]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("rows", [200, 40, 48])
@pytest.mark.parametrize("compression", [*LENIENT, "zlib", "lzw", "zstd"])
def test_a_last_segment_that_is_cut_off(tmp_path, compression, rows):
    path = write_last_at_end(tmp_path / "whole.tif", compression, rows)
    whole = read(path)
    np.testing.assert_array_equal(read(change_last(path, n_more=1000)), whole)
    cut = change_last(path, part=0.5)
    for open_file in (tiffref.scan, ZarrTiffStore, lambda p: tiffref.scan_sequence([p])):
        if compression.startswith("CCITT"):
            said = "is cut off by.* What is left of it is read"
            with pytest.warns(tiffref.TruncationWarning, match=said):
                open_file(cut)
        else:
            with pytest.raises(MalformedTiff):
                open_file(cut)
    with pytest.raises(MalformedTiff):
        tiffref.scan(cut, strict=True)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("compression", LENIENT)
def test_every_cut_of_a_stream_is_detected(tmp_path, compression, fill_order):
    """Some bytes behind a cut give the same samples as none, by chance."""
    grey, black = rng.integers(0, 99, (16, 32, 3), "u1"), rng.integers(0, 2, (16, 32), "u1")
    path = write_last_at_end(tmp_path / "whole.tif", compression, 16, grey=grey, black=black)
    codec = tiffref.scan(path).group["image"].codecs[0]
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        data = path.read_bytes()[page.dataoffsets[0] :][: page.databytecounts[0]]
    if fill_order == 2 and compression.startswith("CCITT"):
        codec, data = replace(codec, fill_order=2), imagecodecs.bitorder_encode(data)
    whole = decode_segment(codec, data)
    assert not runs_short(codec, data, 16)
    for n in range(1, len(data)):
        with contextlib.suppress(MalformedTiff):
            is_whole = np.array_equal(decode_segment(codec, data[:n]), whole)
            assert is_whole or runs_short(codec, data[:n], 16), n


def test_a_whole_jpeg_xr_stream_may_end_with_zeros():
    codec = SegmentCodec((1, 16, 16, 1), "|u1", 34934)
    images = (rng.integers(0, 255, (16, 16), "u1") for _ in range(4000))
    streams = (imagecodecs.jpegxr_encode(one) for one in images)
    assert not runs_short(codec, next(one for one in streams if one.endswith(b"\0")), 16)


# ---- byte counts that are missing


def write_counts(path, compression, counts, *, rows=8, order="<", tile=None):
    code, encode = ENCODE[compression]
    data = rng.integers(1, 255, (40, 32)).astype("u1")
    how = {"tile": tile} if tile else {"rows": rows}
    one = image(data, {259: code}, encode=encode, order=order, **how)
    lengths = [len(part) for part in one.segments]
    found = lengths if counts is None else counts(lengths)
    one.lengths = found if len(found) == len(lengths) else None
    write_tiff(path, [one], order=order)
    if one.lengths is None:
        with tifffile.TiffFile(path) as tif:
            entry = tif.pages[0].tags[325 if tile else 279].offset
        with path.open("r+b") as file:
            file.seek(entry + 4)
            file.write(struct.pack(f"{order}I", len(found)))
    return data


KINDS = {
    "zeros": lambda n: [0] * len(n),
    "few": lambda n: n[:3],
    "one zero": lambda n: [0 if k == 2 else size for k, size in enumerate(n)],
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", ENCODE)
def test_segments_without_byte_counts_are_read(tmp_path, compression, kind, tile, order):
    path = tmp_path / "counts.tif"
    data = write_counts(path, compression, KINDS[kind], tile=tile, order=order)
    with pytest.warns(MetadataWarning, match="279"):
        found = read(path)
    np.testing.assert_array_equal(found, data)
    with pytest.raises(MalformedTiff, match="279"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("compression", ENCODE)
def test_segments_with_byte_counts_are_silent(tmp_path, compression):
    path = tmp_path / "counts.tif"
    data = write_counts(path, compression, None)
    np.testing.assert_array_equal(read(path), data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", ENCODE)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("tile", [None, (48, 48)])
def test_one_segment_without_byte_counts_is_read_in_full(tmp_path, compression, order, dtype, tile):
    (code, encode), lengths = ENCODE[compression], 325 if tile else 279
    data = rng.integers(1, 255, (40, 32)).astype(dtype)
    path = tmp_path / "a.tif"
    one = image(data, {259: code}, encode=encode, order=order, tile=tile)
    write_tiff(path, [one], order=order)
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages[0].tags[lengths].offset
    with path.open("r+b") as file:
        file.seek(entry)
        file.write(struct.pack(f"{order}H", lengths + 1))
    with pytest.warns(MetadataWarning, match=f"{lengths}"):
        np.testing.assert_array_equal(read(path), data)
    with pytest.raises(MalformedTiff, match=f"{lengths}"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count", [0, 7, 2559])
def test_one_plain_strip_with_a_small_byte_count_is_read_in_full(tmp_path, count, order):
    """On any page; one of which the count is too large is read without a warning."""
    path = tmp_path / "strip.tif"
    data = rng.integers(1, 255, (2, 40, 32)).astype("u2")
    first, second = (image(one, order=order) for one in data)
    write_tiff(path, [first, second], order=order)
    np.testing.assert_array_equal(read(path), data)
    first.lengths, second.lengths = [2570], [count]
    write_tiff(path, [first, second], order=order)
    with pytest.warns(MetadataWarning, match=f"279.*got {count} bytes, expected 2560"):
        np.testing.assert_array_equal(read(path), data)
    np.testing.assert_array_equal(tifffile.imread(path), data)
    with pytest.raises(MalformedTiff, match="279"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 4, 12])
def test_one_strip_of_packed_bits_with_a_small_byte_count_is_read_in_full(tmp_path, bits, order):
    path = tmp_path / "strip.tif"
    data = rng.integers(0, 1 << bits, (40, 33)).astype("u2" if bits > 8 else "u1")
    tifffile.imwrite(path, data, bitspersample=bits, photometric="minisblack", byteorder=order,
                     metadata=None)  # fmt: skip
    data = tifffile.imread(path)  # tifffile packs samples of the other byte order otherwise
    np.testing.assert_array_equal(read(path), data)
    assert not tiffref.scan(path, strict=True).group["image"].manifest.is_missing.any()
    with tifffile.TiffFile(path, mode="r+") as tif:
        (whole,) = tif.pages[0].databytecounts
        tif.pages[0].tags[279].overwrite(whole - 1)
    with pytest.warns(MetadataWarning, match=f"279.*got {whole - 1} bytes, expected {whole}"):
        np.testing.assert_array_equal(read(path), data)
    with pytest.raises(MalformedTiff, match="279"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("how", [{"tile": (32, 32)}, {"rowsperstrip": 32}, {"rowsperstrip": 48}])
@pytest.mark.parametrize("n_less", [1, 4])
@pytest.mark.parametrize("is_at_end", [True, False])
def test_deflate_without_its_checksum_is_read_and_reported(tmp_path, how, n_less, is_at_end, order):
    """The samples are all there: by a byte count that is too small, or a file cut in its last
    bytes. A checksum that does not fit is an error."""
    path = tmp_path / "whole.tif"
    data = rng.integers(0, 50, (64, 64)).astype("u2")
    tifffile.imwrite(path, data, compression="zlib", predictor=True, byteorder=order,
                     photometric="minisblack", metadata=None, **how)  # fmt: skip
    tiffref.scan(path, strict=True)
    with tifffile.TiffFile(path, mode="r+") as tif:
        counts, end = tif.pages[0].databytecounts, tif.pages[0].dataoffsets[-1]
        end += counts[-1]
        if not is_at_end:
            tag = tif.pages[0].tags[325 if "tile" in how else 279]
            tag.overwrite([*counts[:-1], counts[-1] - n_less])
    whole = path.read_bytes()
    path.write_bytes(whole[: end - n_less] if is_at_end else whole)
    kind, says = (
        (tiffref.TruncationWarning, "a segment is cut off by the end of the file")
        if is_at_end
        else (MetadataWarning, "279.*excludes the checksum")
    )
    with pytest.warns(kind, match=says) as caught:
        np.testing.assert_array_equal(read(path), data)
    assert len(caught) == 1
    with pytest.raises(MalformedTiff, match=says):
        tiffref.scan(path, strict=True)
    path.write_bytes(whole[: end - 1] + bytes([whole[end - 1] ^ 1]) + whole[end:])
    if is_at_end:
        with pytest.raises(MalformedTiff, match="does not decode as deflate"):
            read(path)


def shorten(path, n_less, which=slice(None)):
    """Make byte counts of a file smaller."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        counts = np.array(tif.pages[0].databytecounts)
        counts[which] -= n_less
        tags = tif.pages[0].tags
        (tags.get(325) or tags.get(279)).overwrite(counts.tolist())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("how", [{"tile": (32, 32)}, {"rowsperstrip": 24}, {"rowsperstrip": 32}])
def test_jpeg_with_a_byte_count_that_is_too_small(tmp_path, how, n, order):
    """Decoders make up what is not there; the marker of the end alone has no samples."""
    path = tmp_path / "a.tif"
    data = rng.integers(0, 99, (64, 64), "u1")
    tifffile.imwrite(path, data, compression="jpeg", byteorder=order, metadata=None, **how)
    whole = read(path)
    shorten(path, 2, n)
    np.testing.assert_array_equal(read(path), whole)
    shorten(path, 18, n)
    for open_file in (tiffref.scan, read):
        with pytest.raises(MalformedTiff, match=r"279.*excludes samples"):
            open_file(path)
    with pytest.warns(tiffref.TruncationWarning, match=r"279.*excludes samples"):
        tiffref.scan(path, allow_holes=True)


MIDDLE = [{"tile": (32, 32)}, {"rowsperstrip": 8}]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_less", [18, 300])
@pytest.mark.parametrize("how", MIDDLE)
def test_no_jpeg_segment_is_cut_unnoticed(tmp_path, how, n_less, order):
    """Neither by its byte count, nor if its stream was written in part: in any place of a file."""
    path = tmp_path / "a.tif"
    data = rng.integers(0, 99, (96, 96), "u1")
    tifffile.imwrite(path, data, compression="jpeg", byteorder=order, metadata=None, **how)
    tiffref.scan(path, strict=True)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        end = tif.pages[0].dataoffsets[5]
    for n in range(1, 8):
        path.write_bytes(whole)
        shorten(path, n_less, n)
        with pytest.raises(MalformedTiff, match=rf"segment {n}.*279.*excludes samples"):
            tiffref.scan(path)
    path.write_bytes(whole[: end - n_less] + bytes(n_less) + whole[end:])  # never written
    with pytest.raises(MalformedTiff, match=r"segment 4.*279.*excludes samples"):
        tiffref.scan(path)
    with pytest.warns(tiffref.TruncationWarning, match=r"279.*excludes samples"):
        references = tiffref.scan(path, allow_holes=True)
    for name in ("a.json", "a.parquet"):
        references.write_fsspec(tmp_path / name)
        np.testing.assert_array_equal(read(tmp_path / name), tifffile.imread(path))


@pytest.mark.parametrize("order", ["<", ">"])
def test_jpeg_ends_are_checked_without_a_read_for_each(tmp_path, monkeypatch, order):
    path, reads, read_file = tmp_path / "a.tif", [], LocalSource.read
    data = rng.integers(0, 99, (16 * 40, 16 * 50), "u1")
    how = {"compression": "jpeg", "tile": (16, 16), "byteorder": order, "metadata": None}
    tifffile.imwrite(path, data, **how)
    with tifffile.TiffFile(path) as tif:
        ends = np.add(tif.pages[0].dataoffsets, tif.pages[0].databytecounts)
    whole = path.read_bytes()
    monkeypatch.setattr(LocalSource, "read", lambda *args: reads.append(args) or read_file(*args))
    tiffref.scan(path, strict=True)
    assert len(reads) < 40
    for n_lost, most in ((1, 16 << 20), (4, 0)):  # of a large level, evenly spaced ones
        monkeypatch.setattr("tiffref.tiff.probe._MAX_SPANNED_BYTES", most)
        data = bytearray(whole)
        for end in ends[1800 : 1800 + n_lost]:
            data[end - 18 : end] = bytes(18)
        path.write_bytes(data)
        with pytest.raises(MalformedTiff, match=r"segment 180.*279.*excludes samples"):
            tiffref.scan(path)


@pytest.mark.parametrize(("seed", "how"), [(22, MIDDLE[1]), (55, MIDDLE[0]), (62, MIDDLE[1])])
def test_zeros_are_not_the_codes_of_the_last_block(tmp_path, seed, how):
    """A decoder takes the zeros of the unwritten part for codes of samples."""
    path = tmp_path / "a.tif"
    data = np.random.default_rng(seed).integers(0, 99, (96, 96), "u1")
    tifffile.imwrite(path, data, compression="jpeg", metadata=None, **how)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        end = tif.pages[0].dataoffsets[5]
    path.write_bytes(whole[: end - 18] + bytes(18) + whole[end:])
    with pytest.raises(MalformedTiff, match=r"segment 4.*279.*excludes samples"):
        tiffref.scan(path)


def progressive_jpeg(data, folder):
    rasterio = pytest.importorskip("rasterio")
    how = {"driver": "JPEG", "progressive": True, "quality": 90, "dtype": "uint8"}
    height, width, count = data.shape
    with rasterio.open(folder / "a.jpg", "w", height=height, width=width, count=count, **how) as to:
        to.write(np.moveaxis(data, -1, 0))
    return (folder / "a.jpg").read_bytes()


def jpeg_with_restarts(data, folder):
    """Join blocks of 8 x 8 pixels, each of them a stream of its own, by restart markers."""
    blocks = [data[y : y + 8, x : x + 8, 0] for y in range(0, 16, 8) for x in range(0, 48, 8)]
    streams = [bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(one))) for one in blocks]
    start = streams[0].index(b"\xff\xda")
    head = bytearray(streams[0][:start] + b"\xff\xdd\0\4\0\1" + streams[0][start : start + 10])
    struct.pack_into(">HH", head, head.index(b"\xff\xc0") + 5, 16, 48)
    parts = [
        stream[start + 10 : -2] + b"\xff%c" % (0xD0 + n % 8) for n, stream in enumerate(streams)
    ]
    return bytes(head) + b"".join(parts)[:-2] + b"\xff\xd9"


def jpeg_with_thumbnail(data, folder):
    stream, small = (bytes(imagecodecs.jpeg8_encode(part)) for part in (data, data[:8, :8].copy()))
    return stream[:2] + struct.pack(">HH", 0xFFE1, len(small) + 2) + small + stream[2:]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("code", [6, 7])
@pytest.mark.parametrize("make", [progressive_jpeg, jpeg_with_restarts, jpeg_with_thumbnail])
def test_jpeg_may_end_between_scans_or_intervals_and_behind_its_thumbnail(tmp_path, make, code):
    data = rng.integers(0, 99, (16, 48, 1 if make is jpeg_with_restarts else 3), "u1")
    stream = make(data, tmp_path)
    tags = {259: code, 262: 6, 530: [2, 2]} if data.shape[2] == 3 else {259: code}
    several = image(np.tile(data, (5, 1, 1)).squeeze(), tags, rows=16, encode=lambda part: stream)
    write_tiff(tmp_path / "a.tif", [several])
    codec = tiffref.scan(tmp_path / "a.tif", strict=True).group["image"].codecs[0]
    whole = decode_segment(codec, stream)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), np.tile(whole[0], (5, 1, 1)).squeeze())
    for n in range(4, len(stream)):
        for lost in (b"", bytes(len(stream) - n)):
            with contextlib.suppress(MalformedTiff):
                assert np.array_equal(decode_segment(codec, stream[:n] + lost), whole), n
    for n in range(5):
        segments = [stream if k != n else stream[:-40] for k in range(5)]
        write_tiff(tmp_path / "b.tif", [replace(several, segments=segments)])
        for source in (tiffref.scan, read):
            with pytest.raises(MalformedTiff, match=f"segment {n}.*279.*excludes samples"):
                source(tmp_path / "b.tif")


def check_zeros_at_ends(path, n_lost, name):
    """Check that segments whose ends were never written are refused, and that padding is read."""
    whole, expected = path.read_bytes(), read(path)
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets, tif.pages[0].databytecounts
    for n in (-1, 4):
        end = offset[n] + count[n]
        path.write_bytes(whole[: end - n_lost] + bytes(n_lost) + whole[end:])
        for source, options in ((path, {}), (path.with_suffix(".json"), {"verify": "never"})):
            with pytest.raises(MalformedTiff, match=rf"{name}|279.*excludes samples"):
                read(source, **options)
    path.write_bytes(whole + bytes(100))
    shorten(path, -70, -1)  # a byte count that is too large
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_lost", [3, 100])
@pytest.mark.parametrize("how", MIDDLE)
def test_zeros_are_not_the_end_of_jpeg_2000(tmp_path, how, n_lost, order):
    path = tmp_path / "a.tif"
    data = rng.integers(0, 99, (96, 96), "u1")
    how = {**how, "compression": "jpeg2000", "compressionargs": {"level": 0}}
    tifffile.imwrite(path, data, byteorder=order, metadata=None, **how)
    tiffref.scan(path, strict=True).write_fsspec(tmp_path / "a.json")
    np.testing.assert_array_equal(read(path), data)
    check_zeros_at_ends(path, n_lost, "JPEG 2000")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("how", MIDDLE)
def test_zeros_are_not_the_end_of_webp(tmp_path, how, lossless, order):
    path = tmp_path / "a.tif"
    data = np.random.default_rng(3).integers(0, 99, (96, 96, 3), "u1")
    how = {**how, "compression": "webp", "compressionargs": {"lossless": lossless, "level": 80}}
    tifffile.imwrite(path, data, byteorder=order, metadata=None, photometric="rgb", **how)
    tiffref.scan(path, strict=True).write_fsspec(tmp_path / "a.json")
    check_zeros_at_ends(path, 150, "WebP")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("how", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
def test_zeros_are_not_the_end_of_jpeg_xr(tmp_path, how, order):
    path = tmp_path / "a.tif"
    data = np.random.default_rng(3).integers(0, 99, (96, 96), "u1")
    how = {**how, "compression": "jpegxr", "compressionargs": {"level": 80}}
    tifffile.imwrite(path, data, byteorder=order, metadata=None, **how)
    tiffref.scan(path, strict=True).write_fsspec(tmp_path / "a.json")
    check_zeros_at_ends(path, 150, "JPEG XR")


@pytest.mark.parametrize(("size", "dtype"), [(64, "u2"), (64, "f4"), (100, "u2")])
def test_zeros_of_flat_areas_or_outside_the_image_may_end_jpeg_xr(size, dtype):
    """Those of flat areas, or of blocks outside the image, are read or cannot be checked."""
    codec = SegmentCodec((1, size, size, 1), np.dtype(dtype).str, 34934)
    data = np.random.default_rng(0).integers(0, 256, (size, size)).astype(dtype) * 257
    data[size // 2 : 64] = 0
    stream = imagecodecs.jpegxr_encode(data, level=75)
    assert stream.endswith(bytes(16))
    samples = decode_segment(codec, stream)
    assert not runs_short(codec, stream, size)
    np.testing.assert_array_equal(samples[0, ..., 0], imagecodecs.jpegxr_decode(stream))


def test_equal_codes_of_lossless_webp_are_no_zeros():
    """The decoder reads these zeros to their end, as codes of one color."""
    data = np.random.default_rng(3).integers(0, 256, (64, 64, 4), "u1")
    stream = imagecodecs.webp_encode(data, lossless=True)
    codec, cut = (
        SegmentCodec((1, 64, 64, 4), "|u1", 50001),
        stream[:9000] + bytes(len(stream) - 9000),
    )
    np.testing.assert_array_equal(decode_segment(codec, stream)[0], data)
    with pytest.raises(MalformedTiff, match="ends before its last sample"):
        decode_segment(codec, cut)


def test_a_whole_webp_stream_may_end_with_zeros():
    codec = SegmentCodec((1, 512, 512, 3), "|u1", 50001)
    data = np.random.default_rng(3).integers(0, 255, (512, 512, 3), "u1")
    data[128:] = 7
    stream = imagecodecs.webp_encode(data, lossless=False, level=100)
    assert stream.endswith(bytes(16))
    assert not runs_short(codec, stream, 512)
    assert decode_segment(codec, stream)[0, -1, -1].tolist() == [7, 7, 7]


@pytest.mark.filterwarnings("ignore:.*segments have more bytes")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("n_more", [5, 60])
def test_byte_counts_that_include_frames_of_the_next_segments(tmp_path, n_more, constant, order):
    path = tmp_path / "a.tif"
    data = np.full((96, 96), 7, "u2") if constant else rng.integers(0, 99, (96, 96), "u2")
    how = {"compression": "zstd", "byteorder": order, "metadata": None, "tile": (32, 32)}
    tifffile.imwrite(path, data, **how)
    path.write_bytes(path.read_bytes() + bytes(n_more))
    shorten(path, -n_more)
    np.testing.assert_array_equal(read(path), data)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("compression", ["jpeg", "jpegxr"])
def test_readers_refuse_cut_segments(tmp_path, compression, zarr_format):
    """Of documents of others, or those of which the scan did not read each segment."""
    zarr = pytest.importorskip("zarr")
    data = rng.integers(0, 99, (96, 96), "u1")
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, rowsperstrip=8)
    document = tiffref.scan(tmp_path / "a.tif").to_kerchunk(zarr_format=zarr_format)
    (key,) = (key for key in document["refs"] if key[-3:] in ("5.0", "5/0"))
    document["refs"][key][2] -= 300
    (tmp_path / "a.json").write_text(json.dumps(document))
    with ZarrTiffStore(tmp_path / "a.json", zarr_format=zarr_format) as store:
        assert store[:40].shape == (40, 96)
        for image in (store, zarr.open_group(store, mode="r")["image"]):
            with pytest.raises(MalformedTiff, match="ends before its last sample"):
                image[...]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
@pytest.mark.parametrize(
    "tiles", [{"blockysize": 16}, {"tiled": True, "blockxsize": 64, "blockysize": 64}]
)
@pytest.mark.parametrize("compression", ["CCITTRLE", "CCITTFAX3", "CCITTFAX4"])
def test_fax_with_a_byte_count_that_is_too_small(tmp_path, compression, tiles, order):
    """The bytes that it leaves out are there, and belong to the segment if they change it."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    how = {"height": 200, "width": 160, "count": 1, "dtype": "uint8", "nbits": 1, **tiles}
    how |= {"driver": "GTiff", "compress": compression, "ENDIANNESS": order}
    with rasterio.open(path, "w", **how) as dataset:
        dataset.write(BLACK ^ rng.integers(0, 2, BLACK.shape, "u1"), 1)
    tiffref.scan(path, strict=True)
    whole = path.read_bytes()
    for n in (0, 3, 5):
        path.write_bytes(whole)
        shorten(path, 12, n)
        for open_file in (tiffref.scan, read):
            with pytest.warns(tiffref.TruncationWarning, match=r"279.*excludes samples"):
                open_file(path)
        with pytest.raises(MalformedTiff, match=r"279.*excludes samples"):
            tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_less", [1, 40, 300])
@pytest.mark.parametrize("how", [{"tile": (32, 32)}, {"rowsperstrip": 64}])
@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 4)])
def test_jpeg_xr_with_a_byte_count_that_is_too_small(tmp_path, shape, how, n_less, order):
    """Alpha is behind the image."""
    path = tmp_path / "a.tif"
    data = rng.integers(0, 255, shape, "u1")
    how |= {"photometric": "rgb", "extrasamples": ["unassalpha"]} if shape[2:] else {}
    tifffile.imwrite(path, data, compression="jpegxr", byteorder=order, metadata=None, **how)
    np.testing.assert_array_equal(read(path), data)
    shorten(path, n_less)
    for open_file in (tiffref.scan, read):
        with pytest.raises(MalformedTiff, match=r"279.*excludes samples"):
            open_file(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("last", [b"\0", b""])
def test_jpeg_xr_with_a_byte_count_that_is_too_large(tmp_path, last, order):
    """A complete stream may end in a zero."""
    path = tmp_path / "a.tif"
    for _ in range(200):
        data = rng.integers(0, 30, (64, 64), "u1")
        tifffile.imwrite(path, data, compression="jpegxr", byteorder=order, metadata=None)
        if path.read_bytes().endswith(last or b"\0") == bool(last):
            break
    shorten(path, -1000)
    np.testing.assert_array_equal(read(path), data)


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(("code", "codec"), [(7, "jpeg8"), (34712, "jpeg2k")])
def test_segments_inside_the_image_are_never_cropped(tmp_path, code, codec, tile):
    """Also images as short as the last one, which the scan does not decode."""
    path = tmp_path / "a.tif"
    part, data = np.full((16, 16), 9, "u1"), np.full((648, 16), 9, "u1")
    encode = getattr(imagecodecs, f"{codec}_encode")
    parts = [part] * 20 + [part[:8]] + [part] * 19 + [part[:8]]
    one = image(data, {259: code}, rows=None if tile else 16, tile=tile)
    write_tiff(path, [replace(one, segments=[bytes(encode(one)) for one in parts])])
    with ZarrTiffStore(path) as store:
        assert (store[336:] == 9).all()
        with pytest.raises(MalformedTiff, match=r"chunk 20\.0"):
            store[...]


@pytest.mark.parametrize("n_less", [1, 20])
def test_compressed_tiles_inside_the_image_are_not_cropped(tmp_path, n_less):
    """A run of PackBits that is cut leaves as many bytes as a tile of the lower edge may have."""
    path = tmp_path / "a.tif"
    data = rng.integers(0, 255, (40, 32), "u1")

    def encode(part):
        return imagecodecs.packbits_encode(part.tobytes())

    write_tiff(path, [image(data, {259: 32773}, tile=(16, 16), encode=encode)])
    np.testing.assert_array_equal(read(path), data)
    shorten(path, n_less)
    with pytest.raises(MalformedTiff, match="has too few bytes for its place"):
        read(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("how", [{"rows": 8}, {"rows": 40}, {"tile": (16, 16)}, {"tile": (48, 48)}])
def test_packbits_without_byte_counts_ends_where_it_has_its_samples(tmp_path, how, order):
    path = tmp_path / "counts.tif"
    data = write_counts(path, "packbits", KINDS["zeros"], order=order, **how)
    path.write_bytes(path.read_bytes() + b"\x05ab")  # what follows the last segment is no run
    with pytest.warns(MetadataWarning, match="279"):
        np.testing.assert_array_equal(read(path), data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("how", [{"rows": 16}, {"tile": (16, 32)}])
@pytest.mark.parametrize("counts", [None, 0])
def test_jpeg_without_byte_counts_has_the_colors_of_its_stream(tmp_path, counts, how, order):
    """The start of the stream says whether it holds YCbCr, though the tags say RGB."""

    def encode(part):
        return bytes(imagecodecs.jpeg8_encode(part, level=95))

    data = np.zeros((48, 32, 3), "u1") + np.array([200, 90, 10], "u1")
    one = image(data, {259: 7}, encode=encode, order=order, **how)
    one.lengths = counts if counts is None else [0] * 3
    write_tiff(tmp_path / "a.tif", [one], order=order)
    if counts is None:
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tif:
            tag = tif.pages[0].tags[325 if "tile" in how else 279]
            tif.filehandle.seek(tag.offset)
            tif.filehandle.write(struct.pack(f"{order}H", 65000))
    with pytest.warns(MetadataWarning, match="read up to the next one"):
        found = read(tmp_path / "a.tif")
    assert np.abs(found.astype("i2") - data).max() < 4


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits"])
def test_one_strip_without_byte_counts_may_be_larger_than_its_samples(tmp_path, compression):
    """As noise is when compressed: libtiff reads one strip to the end of the file."""
    path = tmp_path / "noise.tif"
    code, encode = ENCODE[compression]
    data = rng.integers(0, 256, (40, 31)).astype("u1")
    one = image(data, {259: code}, encode=encode)
    assert len(one.segments[0]) > data.nbytes
    write_tiff(path, [one])
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages[0].tags[279].offset
    with path.open("r+b") as file:
        file.seek(entry)
        file.write(struct.pack("<H", 280))
    with pytest.warns(MetadataWarning, match="279"):
        np.testing.assert_array_equal(read(path), data)


def test_packbits_in_reverse_bit_order_without_byte_counts(tmp_path):
    path = tmp_path / "reversed.tif"
    data = rng.integers(1, 255, (40, 32)).astype("u1")
    how = {259: 32773, 266: 2}

    def encode(part):
        return imagecodecs.bitorder_decode(bytes(imagecodecs.packbits_encode(part)))

    one = image(data, how, encode=encode, rows=8)
    one.lengths = [0] * len(one.segments)
    write_tiff(path, [one])
    path.write_bytes(path.read_bytes() + b"\xa0ab")  # what follows the last segment is no run
    with pytest.warns(MetadataWarning, match="279"):
        np.testing.assert_array_equal(read(path), data)


@pytest.mark.parametrize("bits", [1, 4, 12])
@pytest.mark.parametrize("n_more", [1, 9, 17, 25])
def test_an_uncompressed_last_strip_with_bytes_behind_it(tmp_path, bits, n_more):
    """A last byte count that is too large is legal, whether by less than a row or by more."""
    path = tmp_path / "last.tif"
    data = rng.integers(0, 1 << bits, (20, 16)).astype("u2" if bits > 8 else "u1")

    def encode(part):
        return bytes(imagecodecs.packints_encode(part, bits, runlen=16))

    one = image(data, {258: bits}, encode=encode, rows=8)
    one.segments = [*one.segments[:-1], one.segments[-1] + b"\x55" * n_more]
    write_tiff(path, [one])
    np.testing.assert_array_equal(read(path), data)
    np.testing.assert_array_equal(read(path, zarr_format=3), data)


def test_empty_segments_at_the_place_of_the_next_are_silent(tmp_path):
    """A writer that appends notes where it is when it has nothing to write."""
    path = tmp_path / "sparse.tif"
    one = image(np.full((40, 32), 7, "u1"), rows=8)
    one.segments = [part if n != 2 else b"" for n, part in enumerate(one.segments)]
    write_tiff(path, [one])
    found = tiffref.scan(path, strict=True)
    assert found.group["image"].manifest.is_missing.sum() in (0, 1)


# ---- pages that are stored in different ways


def jpeg_page(k, level):
    """Return a page of noise whose tables are in JPEGTables, not in its segments."""
    noise = np.random.default_rng(k).integers(0, 256, (1152, 1280)).astype("u1")
    split = []

    def encode(part):
        stream = bytes(imagecodecs.jpeg8_encode(part, level=level))
        tables, rest, place = b"", b"", 2
        while stream[place + 1] != 0xDA:
            end = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
            if stream[place + 1] in (0xDB, 0xC4):
                tables += stream[place:end]
            elif stream[place + 1] != 0xE0:
                rest += stream[place:end]
            place = end
        split.append(b"\xff\xd8" + tables + b"\xff\xd9")
        return b"\xff\xd8" + rest + stream[place:]

    one = image(noise, {259: 7}, rows=128, encode=encode)
    one.tags[347] = split[0]
    return one


def test_pages_with_tables_of_their_own_are_decoded(tmp_path):
    xarray = pytest.importorskip("xarray")
    path = tmp_path / "tables.tif"
    write_tiff(path, [jpeg_page(k, level) for k, level in enumerate((95, 96, 97))])
    whole = np.stack([tifffile.imread(path, key=k) for k in range(3)])
    np.testing.assert_array_equal(read(path), whole)
    np.testing.assert_array_equal(read(path, chunkmode="page"), whole)
    with xarray.open_dataset(path, engine="tiffref") as dataset:
        np.testing.assert_array_equal(dataset.image.values, whole)
    references = tiffref.scan(path)
    assert references.group["image"].shape == whole.shape
    with pytest.raises(ManifestMismatch):
        references.write_fsspec(tmp_path / "refs.json")
    assert not (tmp_path / "refs.json").exists()


MIXTURES = [("none", "deflate"), ("deflate", "none", "packbits"), ("none", "none", "lzw")]


def write_mixture(path, compressions, layout, order, **tags):
    """Write a stack whose pages differ in compression, of samples that deflate cannot shorten."""
    data = rng.integers(0, 256, (len(compressions), 33, 20)).astype("u1")
    description = f"ImageJ=1.53\nimages={len(data)}\nslices={len(data)}\n"
    pages = []
    for name, plane in zip(compressions, data, strict=True):
        code, encode = ENCODE[name]
        found = {259: code, 270: description} | tags
        pages.append(image(plane, found, encode=encode, order=order, **layout))
    write_tiff(path, pages, order=order)
    return data


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("layout", [{}, {"rows": 16}, {"rows": 5}, {"tile": (16, 16)}])
@pytest.mark.parametrize("compressions", MIXTURES)
def test_pages_of_different_compression(tmp_path, compressions, layout, order):
    data = write_mixture(tmp_path / "a.tif", compressions, layout, order)
    references = tiffref.scan(tmp_path / "a.tif", strict=True)
    references.write_fsspec(tmp_path / "a.json")
    for name in ("a.tif", "a.json"):
        np.testing.assert_array_equal(read(tmp_path / name), data)


@pytest.mark.parametrize("layout", [{}, {"rows": 16}])
@pytest.mark.parametrize("compressions", MIXTURES)
def test_pages_of_different_compression_that_are_cut_off(tmp_path, compressions, layout):
    path = tmp_path / "a.tif"
    data = write_mixture(path, compressions, layout, "<")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MalformedTiff, match="segment"):
        tiffref.scan(path)
    with pytest.warns(TruncationWarning, match="[12] segments"):
        found = read(path, allow_holes=True)
    np.testing.assert_array_equal(found[:-1], data[:-1])
    assert not found[-1, 32:].any()


# ---- pages that mean different things

GEO = {33550: [10.0, 10.0, 0.0], 34735: [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632]}


def place_at(west):
    return {**GEO, 33922: [0.0, 0.0, 0.0, west, 5e6, 0.0]}


def tied_to(*easts):
    """Return the tags of control points, one below the other."""
    return {33922: [n for row, x in enumerate(easts) for n in (0.0, 9.0 * row, 0.0, x, 5e6, 0.0)]}


def item_of(role, text):
    item = f'<Item name="A" sample="0" role="{role}">{text}</Item>'
    return {42112: f"<GDALMetadata>{item}</GDALMetadata>"}


def scale_of(number, extra=""):
    item = f'<Item name="SCALE" sample="0" role="scale">{number}</Item>'
    return {42112: f"<GDALMetadata>{item}{extra}</GDALMetadata>"}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_more", [0, 40])
@pytest.mark.parametrize(
    ("first", "second", "tag"),
    [
        (place_at(500.0), place_at(1500.0), "33922"),
        (place_at(500.0), {}, "33922"),
        ({}, place_at(500.0), "33922"),
        ({42113: "20"}, {42113: "10"}, "42113"),
        ({}, {42113: "10"}, "42113"),
        (scale_of(0.1), scale_of(10), "42112"),
        ({}, scale_of(10), "42112"),
        (scale_of(10), scale_of("<![CDATA[20]]>"), "42112"),
        (item_of("unittype", "m"), item_of("unittype", "ft"), "42112"),
        (item_of("description", "red"), {}, "42112"),
        (tied_to(5e5, 6e5), tied_to(5e5, 7e5), "33922"),
        ({50844: [1.0] * 92}, {50844: [2.0] * 92}, "50844"),
        ({50844: [1.0] * 92}, {}, "50844"),
        ({262: 3, 258: 8, 320: [0] * 768}, {262: 3, 258: 8, 320: [65535] * 768}, "320"),
        ({262: 1, 258: 8, 320: [0] * 768}, {262: 1, 258: 8, 320: [65535] * 768}, "320"),
        ({270: '{"shape": [2, 8, 8]}', 42113: "1"}, {42113: "2"}, "42113"),
    ],
)
def test_pages_that_differ_in_meaning_are_reported(tmp_path, first, second, tag, n_more, order):
    path = tmp_path / "pages.tif"
    is_one = first.get(270) is not None  # whose writer says so
    n_more = 0 if is_one else n_more
    pixels = [np.full((8, 8), k, "u1") for k in range(2 + n_more)]
    tags = [first] * (1 + n_more) + [second]
    pages = [image(p, t, order=order) for p, t in zip(pixels, tags, strict=True)]
    write_tiff(path, pages, order=order)
    with pytest.warns(MetadataWarning, match=tag):
        tiffref.scan(path)
    with pytest.raises(MalformedTiff, match=tag):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize(
    "tags",
    [
        [place_at(500.0)] * 2,
        [{42113: "20"}] * 2,
        [scale_of(10), scale_of(10, '<Item name="STATISTICS_MEAN">3</Item>')],
        [{270: "a"}, {270: "b"}],
        [{270: '{"shape": [2, 8, 8]}', **place_at(500.0)}, {}],
        [{42113: "0"}, {42113: "0.0"}],
        [scale_of(10), scale_of("10.0")],
        [{50844: [1.0] * 92}] * 2,
        [{262: 1, 320: [0] * 768}, {262: 1, 320: [65535] * 768}],  # no colors of 16 bits
        [place_at(500.0), place_at(500.0000001)],
        [
            place_at(500.0),
            {
                **place_at(500.0),
                34735: [*GEO[34735][:3], 3, *GEO[34735][4:8], 1026, 34737, 4, 0, *GEO[34735][8:]],
                34737: "UTM|",
            },
        ],
    ],
)
def test_pages_that_mean_the_same_are_silent(tmp_path, tags):
    path = tmp_path / "pages.tif"
    write_tiff(path, [image(np.full((8, 8), k, "u2"), t) for k, t in enumerate(tags)])
    assert tiffref.scan(path, strict=True).group["image"].shape == (2, 8, 8)


def test_what_differs_between_pages_is_named(tmp_path):
    other = {**place_at(500.0), 34735: [*GEO[34735][:-1], 32633]}
    for second, what in ((other, "EPSG:32633"), (place_at(510.0), "origin 510")):
        pages = [image(np.zeros((8, 8), "u1"), tags) for tags in (place_at(500.0), second)]
        write_tiff(tmp_path / "a.tif", pages)
        with pytest.warns(MetadataWarning, match=f"EPSG:32632, origin 500.*{what}"):
            tiffref.scan(tmp_path / "a.tif")


# ---- streams that a decoder waits for, or that grow

SCAN = """
import resource, sys
import tiffref
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    tiffref.scan(sys.argv[1])
    tiffref.zarr.ZarrTiffStore(sys.argv[1])[...]
except tiffref.TiffrefError:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def scan_in_child(path):
    """Scan and read in another process; return by how many KiB its memory grew."""
    code = SCAN.replace("import tiffref\n", "import tiffref, tiffref.zarr\n")
    run = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    return int(subprocess.run(run, capture_output=True, check=True, timeout=60).stdout)


def zstd_frame(data):
    """Return a zstd frame of one raw block, without content size."""
    return b"\x28\xb5\x2f\xfd\x00\x58" + struct.pack("<I", len(data) << 3 | 1)[:3] + data


@pytest.mark.parametrize("cut", [0, 5, 8, 40])
def test_a_zstd_frame_that_is_cut_off_ends(tmp_path, cut):
    two = zstd_frame(bytes(100)) + zstd_frame(bytes(100))
    segment = two[: len(two) // 2 + cut] if cut else two
    one = image(np.zeros((2, 100), "u1"), {259: 50000})
    one.segments = [segment]
    write_tiff(tmp_path / "a.tif", [one])
    scan_in_child(tmp_path / "a.tif")


def test_zstd_segments_are_decoded_once(tmp_path, monkeypatch):
    def fail(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr("tiffref.tiff.probe.decode_limited", fail)
    path = tmp_path / "a.tif"
    for compress in (zstd_frame, imagecodecs.zstd_encode):
        samples = np.arange(64, dtype="u1").reshape(8, 8)
        encode = functools.partial(lambda pack, part: pack(part.tobytes()), compress)
        one = image(samples, {259: 50000}, encode=encode, rows=4)
        write_tiff(path, [one])
        (codec,) = tiffref.scan(path).group["image"].codecs
        assert codec.edge is None


@pytest.mark.parametrize(("compression", "n_large"), [("zlib", 1), ("zstd", 1), ("lzw", 2)])
def test_few_large_segments_are_decoded(tmp_path, monkeypatch, compression, n_large):
    decoded = []
    is_exact = probe._is_exact
    monkeypatch.setattr(probe, "_is_exact", lambda *args: decoded.append(args) or is_exact(*args))
    samples = np.arange(2048, dtype="u2") // 64 * np.ones((1200, 1), "u2")
    counts = []
    for tile in (1024, 256):
        path = tmp_path / f"{tile}.tif"
        options = {"tile": (tile, tile), "compression": compression}
        with tifffile.TiffWriter(path, ome=True) as writer:
            writer.write(samples, subifds=1, **options)
            writer.write(samples[::2, ::2], subfiletype=1, **options)
        decoded.clear()
        references = tiffref.scan(path)
        counts.append(len(decoded))
        for level, name in enumerate(("image", "image_1")):
            assert references.group[name].codecs == references.group["image"].codecs
            with ZarrTiffStore(path, level=level) as store:
                np.testing.assert_array_equal(store[...], samples[:: level + 1, :: level + 1])
    assert counts[0] == n_large < counts[1]
    decoded.clear()
    monkeypatch.setattr(probe, "_MAX_STORED_BYTES", 10)
    tiffref.scan(path)
    assert not decoded


@pytest.mark.parametrize("compression", ["deflate", "zstd", "lzma"])
def test_probing_a_segment_is_bounded(tmp_path, compression):
    bomb = bytes(400 << 20)
    code, stored = {
        "deflate": (8, lambda data: zlib.compress(data, 1)),
        "zstd": (50000, lambda data: imagecodecs.zstd_encode(data)),
        "lzma": (34925, lambda data: imagecodecs.lzma_encode(data, level=0)),
    }[compression]
    one = image(np.zeros((8, 8), "u1"), {259: code})
    one.segments = [bytes(stored(bomb))]
    del bomb
    write_tiff(tmp_path / "a.tif", [one])
    assert scan_in_child(tmp_path / "a.tif") < 300 << 10


def test_whole_files_raise_no_errors(tmp_path):
    """A typed error is what all of these are, never another one."""
    path = tmp_path / "a.tif"
    one = image(np.zeros((2, 100), "u1"), {259: 50000})
    one.segments = [b"not zstd at all"]
    write_tiff(path, [one])
    with pytest.raises(TiffrefError):
        tiffref.scan(path)


# ---- segments inside the image with the bytes of those at its edge


def with_counts(path, counts):
    """Write other byte counts into the file, by segment."""
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages[0].tags
        tag = tags.get(325) or tags[279]
        at, kind = tag.valueoffset, {3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]
    data = bytearray(path.read_bytes())
    for n, count in counts.items():
        struct.pack_into(kind, data, at + n * struct.calcsize(kind), count)
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", ["u1", "<f4"])
@pytest.mark.parametrize("how", [{"tile": (32, 32)}, {"rowsperstrip": 32}])
def test_short_inner_segments_are_not_edge_segments(tmp_path, how, dtype):
    """They would be read as cropped, and filled up; those of the lower edge are read."""
    path, values = tmp_path / "a.tif", np.arange(1, 40 * 40 + 1).reshape(40, 40).astype(dtype)
    cropped = 8 * (32 if "tile" in how else 40) * values.itemsize
    last = [2, 3] if "tile" in how else [1]
    tifffile.imwrite(path, values, metadata=None, **how)
    with_counts(path, dict.fromkeys(last, cropped))
    np.testing.assert_array_equal(read(path), values)
    np.testing.assert_array_equal(tifffile.imread(path), values)
    with_counts(path, {0: cropped})
    with pytest.raises(MalformedTiff, match=rf"too few bytes.*got {cropped} bytes"):
        tiffref.scan(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", ["none", "deflate", "lzw"])
@pytest.mark.parametrize("shape", [(40, 10), (10, 40)])
def test_tiles_of_one_row_or_column_are_cropped_along_that_axis_only(
    tmp_path, shape, compression, order
):
    """Each tile is at one edge; it may not have the size of one at the other."""
    path = tmp_path / "a.tif"
    code, encode = ENCODE[compression]
    data = rng.integers(1, 255, shape).astype("u2")

    def crop(part, rows, columns):
        return encode(part[:rows, :columns])

    cropped = (16, 10) if shape[0] == 40 else (10, 16)
    wrong = (8, 16) if shape[0] == 40 else (16, 8)
    for size, is_right in ((cropped, True), (wrong, False)):
        one = image(data, {259: code}, tile=(16, 16), order=order,
                    encode=lambda part, size=size: crop(part, *size))  # fmt: skip
        if is_right:  # the corner may be cropped along both
            write_tiff(path, [one], order=order)
            np.testing.assert_array_equal(read(path), data)
        else:
            whole = image(data, {259: code}, tile=(16, 16), order=order, encode=encode)
            one.segments = [one.segments[0], *whole.segments[1:]]
            write_tiff(path, [one], order=order)
            with pytest.raises(MalformedTiff, match="too few bytes for its place"):
                tiffref.scan(path)


# ---- more samples than the image has: a damaged width, number of bits, samples or rows

GRADIENT = np.add.outer(np.arange(24) * 5, np.arange(32) * 7).astype("u2")
STREAMS = {1: None, 5: imagecodecs.lzw_encode, 8: zlib.compress, 32773: imagecodecs.packbits_encode,
           34925: imagecodecs.lzma_encode, 50000: imagecodecs.zstd_encode}  # fmt: skip
DAMAGED = {
    "width": ({256: 31}, {"rows": 8}),
    "bits": ({258: [8]}, {"rows": 8}),
    "complex": ({258: [32], 339: [5], 256: 15}, {"rows": 8}),
    "rows of a strip": ({257: 23}, {}),
    "width of tiles": ({322: 16, 256: 16}, {"tile": (16, 32)}),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", STREAMS)
@pytest.mark.parametrize("what", DAMAGED)
def test_segments_with_more_samples_than_the_image_are_reported(tmp_path, what, compression, order):
    (damage, how), encode = DAMAGED[what], STREAMS[compression]
    how = {**how, "order": order, "encode": encode and (lambda part: encode(part.tobytes()))}
    path = tmp_path / "a.tif"
    write_tiff(path, [image(GRADIENT, {259: compression}, **how)], order=order)
    np.testing.assert_array_equal(read(path), GRADIENT)
    write_tiff(path, [image(GRADIENT, {259: compression} | damage, **how)], order=order)
    with pytest.warns(MetadataWarning, match="more bytes than the image has samples"):
        tiffref.scan(path)
    with pytest.raises(MalformedTiff, match="more bytes than the image has samples"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("compression", STREAMS)
def test_a_last_strip_that_is_stored_whole_is_silent(tmp_path, compression):
    encode = STREAMS[compression] and (lambda part: STREAMS[compression](part.tobytes()))
    cut = image(GRADIENT, {259: compression, 257: 20}, rows=8, encode=encode)
    write_tiff(tmp_path / "a.tif", [cut])
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), GRADIENT[:20])


RUNS = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("n_last", [1, 2])
@pytest.mark.parametrize(
    ("compression", "stored", "row"),
    [(2, "3556b13a70", RUNS), (32771, "3556b13a7000", RUNS), (2, "d3", [0] * 14 + [1] * 2)],
)
def test_a_last_strip_of_modified_huffman_with_fewer_rows(
    tmp_path, compression, stored, row, n_last, fill_order, order
):
    """That of words was decoded as Group 4; libtiff loses the last run of the others."""
    code = bytes.fromhex(stored)
    code = code if fill_order == 1 else bytes(imagecodecs.bitorder_encode(code))
    pixels = np.array([row] * (32 + n_last), "u1")
    tags = {258: [1], 259: compression, 266: fill_order, 339: [1]}
    strips = image(pixels, tags, rows=16, order=order, encode=lambda part: len(part) * code)
    write_tiff(tmp_path / "a.tif", [strips], order=order)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), pixels)


IMAGES = {
    7: lambda part: imagecodecs.jpeg8_encode(part, level=100),
    34712: lambda part: imagecodecs.jpeg2k_encode(part, reversible=True, level=0),
    34887: imagecodecs.lerc_encode,
    34933: imagecodecs.png_encode,
    34934: lambda part: imagecodecs.jpegxr_encode(part, level=1.0),
    50002: lambda part: imagecodecs.jpegxl_encode(part, lossless=True),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", IMAGES)
def test_images_of_another_shape_than_their_tiles_are_refused(tmp_path, compression, order):
    """As many pixels in other rows and columns were put side by side."""
    path, pixels = (
        tmp_path / "a.tif",
        GRADIENT.astype("u1").repeat(2, axis=0)[:32].repeat(2, axis=1),
    )
    tags, how = {259: compression}, {"tile": (32, 32), "order": order}
    write_tiff(path, [image(pixels, tags, encode=IMAGES[compression], **how)], order=order)
    assert np.abs(read(path).astype("i2") - pixels).max() <= 2
    tags |= {322: 16, 323: 64, 256: 32, 257: 64}
    write_tiff(path, [image(pixels, tags, encode=IMAGES[compression], **how)], order=order)
    with pytest.raises(MalformedTiff, match="size of the compressed image differs"):
        tiffref.scan(path)


@pytest.mark.parametrize("compression", IMAGES)
def test_an_image_that_is_far_longer_than_its_strip_is_reported(tmp_path, compression):
    path, pixels = tmp_path / "a.tif", np.add.outer(np.arange(96), np.arange(64)).astype("u1")
    for length, is_reported in ((96, False), (80, False), (40, True)):
        tags = {259: compression, 257: length}
        write_tiff(path, [image(pixels, tags, encode=IMAGES[compression])])
        with pytest.warns(MetadataWarning, match="more bytes") if is_reported else NOTHING:
            np.testing.assert_allclose(read(path), pixels[:length], atol=2)
