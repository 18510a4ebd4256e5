"""Segments that the end of the file cuts off are missing with `allow_holes`, and reported."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from ifds import BIG, CLASSIC, image, write_tiff

import tiffref
from tiffref.errors import MalformedTiff, TruncationWarning
from tiffref.zarr import ZarrTiffStore

PLANES = np.random.default_rng(3).integers(1, 255, (5, 48, 32)).astype("u2")
LAYOUTS = {
    "run": {"metadata": {}},
    "run of strips": {"metadata": {}, "rowsperstrip": 16},
    "ImageJ": {"imagej": True},
    "tiles": {"tile": (16, 16)},
    "deflate": {"compression": "zlib", "rowsperstrip": 16},
    "JPEG 2000": {"compression": "jpeg2000", "tile": (16, 16), "compressionargs": {"level": 0}},
}


def write_cut(path, part, **how):
    """Write the planes without the last bytes of their pixels; `part` is what is left."""
    tifffile.imwrite(path, PLANES, **how)
    with tifffile.TiffFile(path) as tif:
        first = tif.pages[0].dataoffsets[0]
        if len(tif.pages) > 1:
            end = tif.pages[-1].dataoffsets[-1] + tif.pages[-1].databytecounts[-1]
        else:
            end = first + PLANES.nbytes
    path.write_bytes(path.read_bytes()[: first + int((end - first) * part)])


@pytest.mark.filterwarnings("ignore::tiffref.TruncationWarning")
@pytest.mark.parametrize("part", [0.99, 0.7, 0.45])
@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_that_are_cut_off_are_holes(tmp_path, how, part, order):
    path = tmp_path / "cut.tif"
    order = {"ImageJ": ">", "JPEG 2000": "<"}.get(how, order)  # as tifffile writes them
    write_cut(path, part, **LAYOUTS[how], byteorder=order)
    with pytest.raises(MalformedTiff):
        tiffref.scan(path)
    with pytest.raises(MalformedTiff):
        tiffref.scan(path, strict=True, allow_holes=True)
    with pytest.warns(TruncationWarning):
        references = tiffref.scan(path, allow_holes=True)
    references.write_fsspec(tmp_path / "cut.json")
    record = references.series[0]["levels"][0]
    n_whole = int(5 * part + 0.02)
    assert "missing_pages" in record or "truncated_segments" in record
    for name in ("cut.tif", "cut.json"):
        options = {"allow_holes": True} if name == "cut.tif" else {}
        with ZarrTiffStore(tmp_path / name, **options) as store:
            found = store[...]
        assert found.shape == PLANES.shape
        np.testing.assert_array_equal(found[:n_whole], PLANES[:n_whole])
        is_there = found == PLANES
        assert not found[~is_there].any()
        assert (~is_there).any()


@pytest.mark.parametrize("form", [CLASSIC, BIG])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("cut", [1, 700, 2000])
@pytest.mark.parametrize("rows", [8, 48])
def test_strips_that_are_cut_off_are_holes(tmp_path, rows, cut, order, form):
    path = tmp_path / "cut.tif"
    pages = [image(plane, rows=rows, order=order) for plane in PLANES]
    write_tiff(path, pages, order=order, form=form)
    path.write_bytes(path.read_bytes()[:-cut])
    n_lost = -(-cut // (rows * 64)) * rows  # of the last plane
    with pytest.raises(MalformedTiff):
        tiffref.scan(path)
    with pytest.warns(TruncationWarning, match=f"{n_lost // rows} segments of 'image' are cut off"):
        references = tiffref.scan(path, allow_holes=True)
    assert references.series[0]["levels"][0]["truncated_segments"] == n_lost // rows
    with (
        pytest.warns(TruncationWarning, match="are cut off"),
        ZarrTiffStore(path, allow_holes=True) as store,
    ):
        found = store[...]
    expected = PLANES.copy()
    expected[-1, 48 - n_lost :] = 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore::tiffref.TruncationWarning")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_whole_strips_of_planes_without_directories_are_kept(tmp_path, planar, order, zarr_format):
    path, shape = tmp_path / "cut.tif", (2, 48, 32, 3) if planar == "contig" else (2, 3, 48, 32)
    data = np.random.default_rng(4).integers(1, 255, shape).astype("u2")
    how = {"photometric": "rgb", "planarconfig": planar, "rowsperstrip": 16}
    tifffile.imwrite(path, data, byteorder=order, **how)
    with tifffile.TiffFile(path) as tif:
        end = tif.pages[0].dataoffsets[0] + data.nbytes
    path.write_bytes(path.read_bytes()[: end - 100])
    with pytest.raises(MalformedTiff, match="past the end of the file"):
        tiffref.scan(path)
    expected = data.copy()
    (expected[1] if planar == "contig" else expected[1, 2])[32:] = 0
    with (
        pytest.warns(TruncationWarning, match="1 segments of 'image' are cut off"),
        ZarrTiffStore(path, allow_holes=True, zarr_format=zarr_format) as store,
    ):
        np.testing.assert_array_equal(store[...], expected)


def test_whole_files_are_read_without_a_word(tmp_path):
    for how in LAYOUTS.values():
        tifffile.imwrite(tmp_path / "a.tif", PLANES, **how)
        references = tiffref.scan(tmp_path / "a.tif", allow_holes=True, strict=True)
        assert set(references.series[0]["levels"][0]) == {"path"}
        with ZarrTiffStore(tmp_path / "a.tif", allow_holes=True) as store:
            np.testing.assert_array_equal(store[...], PLANES)


def test_a_file_without_any_whole_segment_is_refused(tmp_path):
    write_tiff(tmp_path / "cut.tif", [image(PLANES[0])])
    path = tmp_path / "cut.tif"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(MalformedTiff, match="past the end of the file"):
        tiffref.scan(path, allow_holes=True)


def write_unlocated(path, fault, compression, *, order="<", is_tiled=True):
    """Write an image of four segments; the second one cannot be located."""

    def encode(part):
        return zlib.compress(part.tobytes()) if compression == 8 else part.tobytes()

    how = {"tile": (16, 16)} if is_tiled else {"rows": 8}
    one = image(PLANES[0, :32], {259: compression}, encode=encode, order=order, **how)
    write_tiff(path, [one], order=order)
    offsets, counts = (324, 325) if is_tiled else (273, 279)
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages[0].tags
        places = {code: tags[code].valueoffset + 4 for code in (offsets, counts)}
        offset = tags[offsets].value[1]
    changed = {
        "no offset": {offsets: 0},
        "no count, garbage": {counts: 0},
        "no count, past the end": {counts: 0, offsets: 1 << 20},
        "no count and no offset": {counts: 0, offsets: 0},
    }[fault]
    with path.open("r+b") as file:
        for code, value in changed.items():
            file.seek(places[code])
            file.write(struct.pack(f"{order}I", value))
        if fault == "no count, garbage" and compression == 8:
            file.seek(offset)
            file.write(b"\1" * 40)
        elif fault == "no count, garbage":  # only half of the segment
            file.seek(places[offsets] + 4)
            file.write(struct.pack(f"{order}I", offset + 100))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_tiled", [True, False])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("no offset", "1 of 4 segments have a byte count but no offset"),
        ("no count, garbage", "1 of 4 segments have an offset but no byte count"),
        ("no count, past the end", "1 of 4 segments have an offset but no byte count"),
    ],
)
def test_segments_that_cannot_be_located(tmp_path, fault, match, compression, is_tiled, order):
    path = tmp_path / "a.tif"
    write_unlocated(path, fault, compression, order=order, is_tiled=is_tiled)
    for options in ({}, {"strict": True}, {"strict": True, "allow_holes": True}):
        with pytest.raises(MalformedTiff, match=match):
            tiffref.scan(path, **options)
    with pytest.warns(TruncationWarning, match="are missing"):
        references = tiffref.scan(path, allow_holes=True)
    expected = PLANES[0, :32].copy()
    expected[(slice(0, 16), slice(16, 32)) if is_tiled else slice(8, 16)] = 0
    if fault == "no count, garbage" and compression == 1:
        expected = None  # the next segment was moved
    for zarr_format in (2, 3):
        with ZarrTiffStore(references, zarr_format=zarr_format) as store:
            found = store[...]
        assert expected is None or np.array_equal(found, expected)


@pytest.mark.parametrize("segment", [b"no stream", b""])
def test_an_image_without_any_byte_count_that_decodes_is_empty_with_a_warning(tmp_path, segment):
    """Segments at the same place are not taken for empty ones."""
    path = tmp_path / "a.tif"
    one = image(PLANES[0, :32], {259: 8}, encode=lambda part: segment, rows=8)
    one.lengths = [0] * len(one.segments)
    write_tiff(path, [one])
    with pytest.warns(TruncationWarning, match=r"4 of 4 segments .* They are missing") as caught:
        references = tiffref.scan(path)
    assert "allow_holes" not in str(caught[0].message)
    with ZarrTiffStore(references) as store:
        assert not store[...].any()
    with pytest.raises(MalformedTiff, match="4 of 4 segments have an offset but no byte count"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("compression", [1, 8])
def test_segments_of_a_sparse_file_are_missing_without_a_word(tmp_path, compression):
    path = tmp_path / "a.tif"
    write_unlocated(path, "no count and no offset", compression)
    tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 32773])
@pytest.mark.parametrize("n_rows", [1, 2, 4, 8])
def test_a_tile_that_is_cut_off_is_not_a_cropped_one(tmp_path, n_rows, compression, order):
    """Two rows of the last tile have as many bytes as the two columns in the image."""
    path, pixels = tmp_path / "a.tif", np.zeros((20, 18), "u1")

    def encode(part):
        rows = [row.tobytes() for row in part]
        return b"".join(rows if compression == 1 else map(imagecodecs.packbits_encode, rows))

    one = image(pixels, {259: compression}, tile=(16, 16), encode=encode, order=order)
    one.lengths = [len(encode(NOISE))] * 4
    one.segments = [encode(NOISE)] * 3 + [encode(NOISE[:n_rows])]
    write_tiff(path, [one], order=order)
    with pytest.raises(MalformedTiff):
        tiffref.scan(path)
    with pytest.warns(TruncationWarning):
        references = tiffref.scan(path, allow_holes=True)
    expected = np.block([[NOISE, NOISE[:, :2]], [NOISE[:4], np.zeros((4, 2), "u1")]])
    with ZarrTiffStore(references) as store:
        np.testing.assert_array_equal(store[...], expected)


NOISE = np.random.default_rng(3).integers(1, 255, (16, 16)).astype("u1")
