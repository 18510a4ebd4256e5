"""Directories that other readers understand and tifffile alone does not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from ifds import BIG, CLASSIC, As, Form, Ifd, image, write_tiff
from segments import compress

import tiffref
from tiffref.errors import (
    MalformedTiff,
    MetadataWarning,
    TiffrefError,
    TruncationWarning,
    UnsupportedTiff,
)
from tiffref.zarr import ZarrTiffStore

IMAGE = np.random.default_rng(3).integers(0, 255, (8, 12, 3), np.uint8)
TAGS = {256: 12, 257: 8, 258: 8, 259: 8, 262: 2, 277: 3, 278: 4, 284: 1, 317: 2, 339: 1}


def stored(image: np.ndarray) -> list[bytes]:
    """Deflate strips of four rows, horizontally differenced."""
    first = np.zeros_like(image[:, :1])
    differences = np.diff(image, axis=1, prepend=first)
    return [zlib.compress(differences[row : row + 4].tobytes()) for row in (0, 4)]


def spelled(value: object, code: int) -> Ifd:
    return Ifd({n: As(3, [v]) for n, v in TAGS.items()} | {code: value}, stored(IMAGE))


@pytest.mark.parametrize("form", [CLASSIC, BIG])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", TAGS)
def test_integer_tags_stored_as_bytes(tmp_path: Path, code: int, order: str, form: object) -> None:
    path = tmp_path / "a.tif"
    ifds = [spelled(As(kind, [TAGS[code]]), code) for kind in (1, 1)]
    write_tiff(path, ifds, form=form, order=order)
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], [IMAGE, IMAGE])


@pytest.mark.parametrize("code", [259, 262, 284, 317])
def test_integer_tags_repeated_for_each_sample(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, [spelled(As(3, [TAGS[code]] * 3), code)])
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], IMAGE)
    write_tiff(path, [spelled(As(3, [TAGS[code], 5, 6]), code)])
    with pytest.raises(MalformedTiff):
        ZarrTiffStore(path)[...]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("text", [b"8\0", b"", b"\xff\x81\0"])
@pytest.mark.parametrize("code", [256, 259, 262, 277, 284, 317])
def test_integer_tags_stored_as_text_are_refused(
    tmp_path: Path, code: int, text: bytes, order: str
) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, [spelled(As(2, text), code)], order=order)
    with pytest.raises(MalformedTiff, match="not a single integer"):
        tiffref.scan(path)


def test_pixels_without_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, [spelled(0, 277)])
    with pytest.raises(MalformedTiff, match=r"277.*pixels have no samples"):
        tiffref.scan(path)


@pytest.mark.parametrize("planar", [0, 3])
def test_an_unknown_planar_configuration_is_refused(tmp_path: Path, planar: int) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, [spelled(planar, 284)])
    with pytest.raises(MalformedTiff, match="order of samples"):
        ZarrTiffStore(path)[...]
    # of one sample there is but one order
    gray = np.ascontiguousarray(IMAGE[..., 0])
    write_tiff(path, [Ifd(TAGS | {259: 1, 277: 1, 278: 8, 284: planar}, [gray.tobytes()])])
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], gray)


@pytest.mark.parametrize("kind", ["scan", "strile"])
@pytest.mark.parametrize("compression", [1, 8])
def test_zero_rows_per_strip_means_one_strip(tmp_path: Path, compression: int, kind: str) -> None:
    path = tmp_path / "a.tif"
    data = IMAGE.tobytes() if compression == 1 else zlib.compress(IMAGE.tobytes())
    tags = TAGS | {259: compression, 317: 1, 278: 0}
    write_tiff(path, [Ifd(tags, [data])] * 2)
    store = ZarrTiffStore(path, chunkmode="strile" if kind == "strile" else None)
    np.testing.assert_array_equal(store[...], [IMAGE, IMAGE])
    write_tiff(path, [Ifd(tags, [data, data])])
    with pytest.raises(MalformedTiff, match=r"0 rows.*2 strips"):
        ZarrTiffStore(path)
    write_tiff(path, [Ifd(tags | {257: 0}, [b"", b""])])  # which is right for an image of none
    assert tiffref.scan(path).group["image"].shape[0] == 0


def test_tiles_of_zero_width_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tags = {code: value for code, value in TAGS.items() if code != 278}
    write_tiff(path, [Ifd(tags | {259: 1, 317: 1, 322: 0, 323: 16}, [IMAGE.tobytes()])])
    with pytest.raises(MalformedTiff, match="0 pixels wide"):
        ZarrTiffStore(path)[...]


@pytest.mark.parametrize("order", "<>")
def test_a_file_that_only_claims_to_be_an_lsm(tmp_path: Path, order: str) -> None:
    path = tmp_path / "a.tif"
    claim = b"\x4c\x49\x00\x04" + bytes(508)
    write_tiff(path, [spelled(As(1, list(claim)), 34412)], order=order)
    with pytest.warns(MetadataWarning, match="the vendor .lsm"):
        np.testing.assert_array_equal(ZarrTiffStore(path)[...], IMAGE)
    # also where tifffile is shown other bytes than those of the file
    ifd = spelled(As(1, list(claim)), 34412)
    ifd.tags[262] = As(1, [2])
    write_tiff(path, [ifd], order=order)
    with pytest.warns(MetadataWarning, match="the vendor .lsm"):
        np.testing.assert_array_equal(ZarrTiffStore(path)[...], IMAGE)


@pytest.mark.parametrize("predictor", [2, 3, 50])
def test_a_predictor_without_compression_is_silent(tmp_path: Path, predictor: int) -> None:
    path = tmp_path / "a.tif"
    strips = [IMAGE[row : row + 4].tobytes() for row in (0, 4)]
    write_tiff(path, [Ifd(TAGS | {259: 1, 317: predictor}, strips)])
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], IMAGE)
    assert tiffref.scan(path).group["image"].codec.predictor == 1


# two rows of 16 pixels: words of white and black runs; bytes of a whole row; one code a pixel
BACKWARDS = {
    32771: (1, bytes.fromhex("a8d0a8d0")),
    32766: (2, bytes.fromhex("0001020304 00a1b2c3d4")),
    32809: (4, bytes(range(0xC0, 0xD0)) + bytes(range(0xCF, 0xBF, -1))),
}


@pytest.mark.parametrize("compression", BACKWARDS)
def test_fill_order_of_what_libtiff_decodes(tmp_path: Path, compression: int) -> None:
    """The measure is libtiff's own word on the whole file."""
    bits, data = BACKWARDS[compression]
    path = tmp_path / "a.tif"
    tags = {256: 16, 257: 2, 258: bits, 259: compression, 262: 1, 277: 1, 278: 2}
    images = []
    for order in (1, 2):
        strip = data if order == 1 else imagecodecs.bitorder_decode(data)
        write_tiff(path, [Ifd(tags | {266: order}, [strip])])
        images.append(ZarrTiffStore(path)[...])
        expected = imagecodecs.tiff_decode(path.read_bytes())
        np.testing.assert_array_equal(images[-1], expected)
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_packbits_with_a_predictor_is_applied_if_tifffile_wrote_it(
    tmp_path: Path, dtype: str, order: str
) -> None:
    """Tifffile applies it, libtiff and GDAL do not know it."""
    path = tmp_path / "a.tif"
    image = IMAGE[..., 0].astype(dtype)
    how = {"compression": "packbits", "predictor": 2, "byteorder": order, "metadata": None}
    with tifffile.TiffWriter(path, byteorder=order) as tif:
        for _ in range(3):
            tif.write(image, compression="packbits", predictor=2, contiguous=False, metadata=None)
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], [image] * 3)
    tifffile.imwrite(path, image, software="other", **how)
    for open_file in (tiffref.scan, ZarrTiffStore):
        with pytest.raises(UnsupportedTiff, match="317"):
            open_file(path)
    tifffile.imwrite(path, image, software="other", **{**how, "predictor": None})
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], image)


@pytest.mark.filterwarnings("ignore:.*more bytes than the image:tiffref.MetadataWarning")
@pytest.mark.parametrize("form", [CLASSIC, BIG])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [256, 258, 259, 277, 278, 284, 317, 339, 273])
def test_tags_without_values_are_reported(
    tmp_path: Path, code: int, order: str, form: object
) -> None:
    """Their default may mean other pixels; GDAL refuses most of such files."""
    path = tmp_path / "a.tif"
    write_tiff(path, [spelled(TAGS.get(code, 8), code)], form=form, order=order)
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages[0].tags[code].offset
    with path.open("r+b") as file:
        file.seek(entry + 4)
        file.write(bytes(8 if form is BIG else 4))
    with pytest.raises(TiffrefError):
        tiffref.scan(path, strict=True)
    with pytest.raises((TiffrefError, TruncationWarning)):
        tiffref.scan(path)
    if code in (258, 339, 273):
        with pytest.raises(MalformedTiff, match=rf"\({code}\): the tag has no values"):
            tiffref.scan(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("n_pages", [1, 3, 40])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_lists_of_offsets_that_are_too_short_are_refused(
    tmp_path: Path, tile: tuple[int, int] | None, n_pages: int, order: str
) -> None:
    """Segments that no list has are not sparse ones, in any page."""
    path = tmp_path / "a.tif"
    pages = np.arange(n_pages * 800, dtype="u2").reshape(n_pages, 40, 20)
    write_tiff(path, [image(p, tile=tile, rows=8, order=order) for p in pages], order=order)
    np.testing.assert_array_equal(np.squeeze(pages), ZarrTiffStore(path)[...])
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[n_pages - 1].aspage().tags[324 if tile else 273]
        entry, count = tag.offset, tag.count
    with path.open("r+b") as file:
        file.seek(entry + 4)
        file.write((count - 1).to_bytes(4, "little" if order == "<" else "big"))
    for open_file in (tiffref.scan, ZarrTiffStore):
        with pytest.raises(MalformedTiff, match="more segments than"):
            open_file(path)
    with path.open("r+b") as file:  # no list at all
        file.seek(entry)
        file.write((65000).to_bytes(2, "little" if order == "<" else "big"))
    with pytest.warns(TruncationWarning, match="more segments than"):
        tiffref.scan(path)
    with pytest.raises(MalformedTiff, match="more segments than"):
        tiffref.scan(path, strict=True)


def test_fax_and_predictors_that_libtiff_refuses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, [spelled(0, 317)])
    with pytest.raises(UnsupportedTiff, match="317"):
        tiffref.scan(path)
    for dtype in ("u1", "f4"):
        write_tiff(path, [image(IMAGE.astype(dtype), {259: 3})])
        with pytest.raises(UnsupportedTiff, match="277"):
            tiffref.scan(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_depth_of_0_is_none(tmp_path: Path, tile: tuple[int, int] | None, order: str) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, [image(IMAGE, {32997: 0}, tile=tile, rows=4, order=order)], order=order)
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], IMAGE)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8, 50000])
def test_tiles_that_are_deeper_than_the_image(tmp_path: Path, compression: int, order: str) -> None:
    """Other planes follow in each tile; tifffile and GDAL leave them out."""
    path = tmp_path / "a.tif"
    tags = {259: compression, 32998: 99}

    def encode(part: np.ndarray) -> bytes:
        return bytes(compress(compression, part.tobytes() * 99))

    write_tiff(path, [image(IMAGE, tags, tile=(16, 16), encode=encode, order=order)], order=order)
    for zarr_format in (2, 3):
        with pytest.warns(MetadataWarning, match="more bytes than the image"):
            store = ZarrTiffStore(path, zarr_format=zarr_format)
        np.testing.assert_array_equal(store[...], IMAGE)


@pytest.mark.parametrize("form", [CLASSIC, BIG])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("code", "value"), [(256, 12), (258, 16), (259, 1), (266, 2), (273, 8)])
def test_tags_that_are_repeated_with_other_values_are_reported(
    tmp_path: Path, code: int, value: int, order: str, form: Form
) -> None:
    """The first one counts in all readers; nothing tells which one is right."""
    path, pixels = tmp_path / "a.tif", np.arange(256, dtype="u1").reshape(16, 16)
    for again in (value, {256: 16, 258: 8, 259: 1, 266: 1}.get(code)):
        tags = {266: 1, 65000: As(3, [again or 0])}
        write_tiff(path, [image(pixels, tags, order=order)], order=order, form=form)
        data, head = path.read_bytes(), struct.pack(f"{order}HH", 65000, 3)
        assert data.count(head) == 1
        path.write_bytes(data.replace(head, struct.pack(f"{order}HH", code, 3)))
        if again == value and code != 259:
            with pytest.warns(TruncationWarning, match=rf"\({code}\): the tag is repeated"):
                store = ZarrTiffStore(path)
        elif again is not None:
            store = ZarrTiffStore(path)
        np.testing.assert_array_equal(store[...], pixels)
