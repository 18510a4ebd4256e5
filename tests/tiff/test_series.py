"""Series of ordinary files: those of tifffile, over generated files of every flavour, a corpus."""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from ifds import BIG, CLASSIC, As, image, write_tiff

import tiffref
from tiffref.errors import MalformedTiff, MetadataWarning, TiffrefError, TruncationWarning
from tiffref.io.source import LocalSource
from tiffref.model.tiff_facts import LevelFacts
from tiffref.tiff.descriptions import imagej_metadata, shaped_text
from tiffref.tiff.ifd import TiffReader
from tiffref.tiff.pages import Level
from tiffref.tiff.series import (
    ImageJSeries,
    Listing,
    geotiff_series,
    plain_series,
    shaped_series,
)
from tiffref.zarr import ZarrTiffStore

GRADIENT = np.arange(24 * 32 * 48, dtype="u2").reshape(24, 32, 48)
OPTIONS: list[dict[str, Any]] = [
    {"byteorder": "<"},
    {"byteorder": ">"},
    {"byteorder": "<", "bigtiff": True},
    {"byteorder": ">", "bigtiff": True},
]
GEO = [
    (33550, "d", 3, (10.0, 10.0, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True),
    (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
]


def series_of(path: Path) -> Listing:
    """List the series of an ordinary file."""
    reader = TiffReader(LocalSource(path))
    listing = None
    if shaped_text(reader.first):
        listing = shaped_series(reader)
    elif found := imagej_metadata(reader.first, reader.header.byteorder):
        listing = ImageJSeries(reader, found).list()
    elif 34735 in reader.first:
        listing = geotiff_series(reader)
    return listing or plain_series(reader)


def one_page(path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(path, GRADIENT[0], metadata=None, **options)


def few_pages(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        for page in GRADIENT[:5]:
            tif.write(page, metadata=None, contiguous=False)


def many_pages(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        for page in GRADIENT:
            tif.write(page, metadata=None, contiguous=False, compression="zlib")


def pages_of_two_kinds(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        for n, page in enumerate(GRADIENT[:6]):
            tif.write(page[: 32 - 5 * (n % 2)], metadata=None, contiguous=False)


def rgb(path: Path, options: dict[str, Any]) -> None:
    image = GRADIENT[:3].astype("u1")
    tifffile.imwrite(
        path, image.transpose(1, 2, 0).copy(), metadata=None, rowsperstrip=7, **options
    )


def planar(path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(
        path, GRADIENT[:3], metadata=None, photometric="rgb", planarconfig="separate",
        tile=(16, 16), **options,
    )  # fmt: skip


def pyramid(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        for step in (1, 2, 4):
            kind = int(step > 1)
            tif.write(GRADIENT[0, ::step, ::step], tile=(16, 16), subfiletype=kind, metadata=None)


def pyramid_of_sub_ifds(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        for page in GRADIENT[:3]:
            tif.write(page, tile=(16, 16), subifds=2, metadata=None)
            tif.write(page[::2, ::2], tile=(16, 16), subfiletype=1, metadata=None)
            tif.write(page[::4, ::4], tile=(16, 16), subfiletype=1, metadata=None)


def geotiff(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        tif.write(GRADIENT[0], tile=(16, 16), metadata=None, extratags=GEO)
        tif.write(GRADIENT[0, ::2, ::2], tile=(16, 16), subfiletype=1, metadata=None)
        tif.write(GRADIENT[0].astype("u1"), tile=(16, 16), metadata=None)


def imagej(path: Path, options: dict[str, Any]) -> None:
    if not options.get("bigtiff"):
        data = GRADIENT.reshape(2, 3, 4, 32, 48)
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": "TZCYX"}, **options)


def imagej_of_pages(path: Path, options: dict[str, Any]) -> None:
    if not options.get("bigtiff"):
        data = GRADIENT.reshape(2, 3, 4, 32, 48)
        tifffile.imwrite(
            path, data, imagej=True, metadata={"axes": "TZCYX"}, compression="zlib", **options
        )


def imagej_rgb(path: Path, options: dict[str, Any]) -> None:
    if not options.get("bigtiff"):
        data = GRADIENT[:15].astype("u1").reshape(5, 32, 48, 3)
        tifffile.imwrite(path, data, imagej=True, **options)


def shaped(path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(path, GRADIENT.reshape(2, 12, 32, 48), **options)


def shaped_of_pages(path: Path, options: dict[str, Any]) -> None:
    data = GRADIENT.reshape(2, 1, 12, 32, 48)
    tifffile.imwrite(path, data, compression="zlib", metadata={"axes": "TCZYX"}, **options)


def shaped_of_several(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        tif.write(GRADIENT[:6], compression="zlib", metadata={"name": "first"})
        tif.write(GRADIENT[0].astype("f4"), metadata={"name": "second"})


def shaped_of_sub_ifds(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        tif.write(GRADIENT[:6], tile=(16, 16), subifds=2)
        tif.write(GRADIENT[:6, ::2, ::2], tile=(16, 16), subfiletype=1)
        tif.write(GRADIENT[:6, ::4, ::4], tile=(16, 16), subfiletype=1)


def shaped_in_short(path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        tif.write(GRADIENT, truncate=True, metadata={"axes": "ZYX"})


FLAVOURS: list[Callable[[Path, dict[str, Any]], None]] = [
    one_page, few_pages, many_pages, pages_of_two_kinds, rgb, planar, pyramid, pyramid_of_sub_ifds,
    geotiff, imagej, imagej_of_pages, imagej_rgb, shaped, shaped_of_pages, shaped_of_several,
    shaped_of_sub_ifds, shaped_in_short,
]  # fmt: skip


def expected_of(path: Path) -> list[list[tuple[Any, ...]]]:
    """Return shape, axes, type and segments of each level of each series, as tifffile has them."""
    with tifffile.TiffFile(path) as tif:
        return [[_level_of(level) for level in series.levels] for series in tif.series]


def _level_of(level: Any) -> tuple[Any, ...]:
    pages = [page for page in level if page is not None]
    return (
        tuple(level.shape),
        level.axes,
        np.dtype(level.dtype).str.lstrip("<>|="),
        [list(page.dataoffsets) for page in pages],
        [list(page.databytecounts) for page in pages],
    )


def got_of(listing: Listing) -> list[list[tuple[Any, ...]]]:
    return [[_facts_of(level.to_facts()) for level in one.levels] for one in listing.series]


def _facts_of(level: LevelFacts) -> tuple[Any, ...]:
    ranges = level.offset.tolist(), level.length.tolist()
    return level.shape, level.axes, level.dtype.lstrip("<>|="), *ranges


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: "-".join(map(str, one.values())))
@pytest.mark.parametrize("write", FLAVOURS, ids=lambda one: one.__name__)
def test_series_are_those_of_tifffile(
    tmp_path: Path, write: Callable[[Path, dict[str, Any]], None], options: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    write(path, options)
    if not path.exists():
        pytest.skip("ImageJ has no BigTIFF")
    listing = series_of(path)
    assert listing.defects == []
    assert listing.missing is None
    got, expected = got_of(listing), expected_of(path)
    assert [len(one) for one in got] == [len(one) for one in expected]
    for ours, theirs in zip(chain(*got), chain(*expected), strict=True):
        assert ours[:3] == theirs[:3]
        n = len(theirs[3])  # of contiguous planes, tifffile may list the first one only
        assert (ours[3][:n], ours[4][:n]) == theirs[3:]


def test_a_run_needs_three_directories(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRADIENT, imagej=True)
    reader = TiffReader(LocalSource(path))
    listing = ImageJSeries(reader, imagej_metadata(reader.first, reader.header.byteorder)).list()
    level = listing.series[0].levels[0].to_facts()
    assert level.offset.shape == (len(GRADIENT), 1)
    assert reader.n_reads == 3
    assert not reader.findings


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("n_missing", [1, 40, 400, 3000])
def test_directories_behind_a_run_that_are_cut_off(
    tmp_path: Path, n_missing: int, byteorder: Any
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRADIENT, imagej=True, byteorder=byteorder)
    with tifffile.TiffFile(path) as tif:
        end = tif.pages[-1].tags[296].offset + 12 + 4  # the last entry, and the next offset
    path.write_bytes(path.read_bytes()[: end - n_missing])
    with pytest.warns(TruncationWarning):
        assert tiffref.scan(path).group["image"].shape == (24, 32, 48)
    with pytest.raises(MalformedTiff, match="next"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_imagej_with_a_count_of_images_only(tmp_path: Path, dtype: str, byteorder: Any) -> None:
    path, planes = tmp_path / "a.tif", GRADIENT.astype(dtype)
    text = "ImageJ=1.34s\nimages=24\n"
    tifffile.imwrite(path, planes[0], description=text, metadata=None, byteorder=byteorder)
    others = planes[1:].astype(planes.dtype.newbyteorder(byteorder)).tobytes()
    path.write_bytes(path.read_bytes() + others)
    with ZarrTiffStore(path) as store:
        np.testing.assert_array_equal(store[...], planes)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MalformedTiff, match="24 planes"):
        tiffref.scan(path)


@pytest.mark.parametrize("n_missing", [1, 3072, 7000])
def test_a_run_that_is_cut_off(tmp_path: Path, n_missing: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRADIENT, imagej=True)
    with tifffile.TiffFile(path) as tif:
        end = tif.pages[0].dataoffsets[0] + GRADIENT.nbytes
    path.write_bytes(path.read_bytes()[: end - n_missing])
    listing = series_of(path)
    assert listing.missing is not None
    assert "24 planes" in str(listing.missing)
    level = listing.series[0].levels[0].to_facts()
    assert level.shape == (24, 32, 48)
    assert (level.ifd < 0).sum() == -(-n_missing // 3072)


@pytest.mark.parametrize("allow_holes", [False, True])
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize(
    "text",
    [
        "ImageJ=1.54f\nimages=2000000000\nslices=2000000000\nframes=1000000000\n",
        '{"shape": [2000000000000000000, 32, 48]}',
    ],
)
def test_more_planes_than_memory_has_room_for(
    tmp_path: Path, text: str, byteorder: Any, allow_holes: bool
) -> None:
    path = tmp_path / "a.tif"
    for compression in (None, "zlib")[: 2 if "shape" in text else 1]:
        options = {"byteorder": byteorder, "compression": compression}
        tifffile.imwrite(path, GRADIENT[0], description=text, metadata=None, **options)
        with pytest.raises(MalformedTiff, match=r"planes .*reach past the end of the file"):
            tiffref.scan(path, allow_holes=allow_holes)


DESCRIPTIONS = {
    "imagej": "ImageJ=1.54f\nimages=2\nslices=2\n",
    "shaped": '{"shape": [2, 32, 48], "axes": "ZYX"}',
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("form", [CLASSIC, BIG])
@pytest.mark.parametrize("is_pixels_first", [False, True])
@pytest.mark.parametrize("flavour", DESCRIPTIONS)
def test_bytes_between_planes_are_not_pixels_if_the_second_directory_is_cut_off(
    tmp_path: Path, flavour: str, is_pixels_first: bool, form: Any, order: str
) -> None:
    """The file ends within the second directory, which is long enough to be taken for a plane."""
    path, planes = tmp_path / "a.tif", GRADIENT[:2]
    longest = {65000: As(7, b"x" * 4000), 65001: As(7, b"y" * 4000)}
    ifds = [
        image(plane, {**longest, 270: DESCRIPTIONS[flavour]} if n == 0 else longest, order=order,
              is_pixels_first=is_pixels_first)
        for n, plane in enumerate(planes)
    ]  # fmt: skip
    if is_pixels_first:  # the texts of the first directory lie behind its pixels
        ifds[1].tags = {code: tag for code, tag in ifds[1].tags.items() if code < 65000}
    second = write_tiff(path, ifds, form=form, order=order)[1]
    with ZarrTiffStore(path) as store:
        np.testing.assert_array_equal(store[...], planes)
    whole = path.read_bytes()
    path.write_bytes(whole[: second + 20])
    with pytest.raises(MalformedTiff):
        tiffref.scan(path)
    with pytest.warns(TruncationWarning):
        references = tiffref.scan(path, allow_holes=True)
    np.testing.assert_array_equal(ZarrTiffStore(references)[0], planes[0])
    assert not ZarrTiffStore(references)[1].any()
    path.write_bytes(whole.replace(b"y" * 4000, b"\0" * 4000)[:second] + b"\xff" * 4000)
    with pytest.raises(MalformedTiff):
        tiffref.scan(path)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
def test_series_behind_one_whose_planes_have_one_directory(
    tmp_path: Path, bigtiff: bool, byteorder: Any
) -> None:
    path = tmp_path / "a.tif"
    parts = GRADIENT[:5], GRADIENT[5:8, :20], GRADIENT[9, :16]
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as tif:
        for part in parts:
            tif.write(part, truncate=part.ndim > 2, photometric="minisblack")
    assert len(tiffref.scan(path, strict=True).series) == 3
    for n, part in enumerate(parts):
        with ZarrTiffStore(path, series=n) as store:
            np.testing.assert_array_equal(store[...], part)


def test_fewer_pages_than_the_shape_promises(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRADIENT, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        cut = tif.pages[20].offset
    path.write_bytes(path.read_bytes()[:cut])
    listing = series_of(path)
    assert listing.missing is not None
    level = listing.series[0].levels[0].to_facts()
    assert level.shape == (24, 32, 48)
    assert (level.ifd < 0).sum() == 4


@pytest.mark.parametrize(
    "counts",
    ["frames=7", "channels=2\nslices=2\nframes=2", "frames=12", "frames=1", "images=1", "slices=x"],
)
def test_imagej_counts_that_contradict_the_pages(tmp_path: Path, counts: str) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for n, page in enumerate(GRADIENT[:10]):
            text = f"ImageJ=1.54f\nimages=10\n{counts}\nhyperstack=true\n" if n == 0 else None
            tif.write(page, description=text, metadata=None, contiguous=False)
    listing = series_of(path)
    assert listing.missing is None
    assert len(listing.defects) == 1
    assert listing.series[0].levels[0].to_facts().shape == (10, 32, 48)


IMAGEJ_COUNTS = {
    "images=6\nslices=6": (6,),
    "images=6\nchannels=2\nslices=3": (3, 2),
    "images=6": (6,),
    "images=2\nslices=2\nframes=3": None,
    "images=6\nslices=6\nframes=0": None,
    "images=6\nslices=1\nframes=1": None,
    "images=six\nslices=6": None,
    "images=6\nslices=3": None,
    "images=3\nslices=3": None,
    "images=12\nslices=12": None,
    "images=12": None,
    "images=6\nchannels=3": None,
}


@pytest.mark.parametrize("counts", IMAGEJ_COUNTS)
@pytest.mark.parametrize("contiguous", [False, True])
def test_imagej_planes_are_those_of_the_pages(
    tmp_path: Path, counts: str, contiguous: bool
) -> None:
    path, planes = tmp_path / "a.tif", GRADIENT[:6]
    text = f"ImageJ=1.54f\n{counts}\n"
    with tifffile.TiffWriter(path) as tif:
        if contiguous:
            tif.write(planes, description=text, metadata=None, contiguous=True)
        else:
            for n, page in enumerate(planes):
                own = text if n == 0 else None
                tif.write(page, description=own, metadata=None, contiguous=False)
    listing = series_of(path)
    expected = IMAGEJ_COUNTS[counts]
    assert bool(listing.defects) == (expected is None)
    assert listing.missing is None
    shape = listing.series[0].levels[0].to_facts().shape[:-2]
    assert shape == expected or (expected is None and math.prod(shape) == 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = ZarrTiffStore(path)
    np.testing.assert_array_equal(store[...].reshape(planes.shape), planes)


@pytest.mark.parametrize("is_run", [False, True])
@pytest.mark.parametrize(
    ("counts", "dims", "shape"),
    [("channels=2\nslices=3", "zcsyx", (3, 2)), ("slices=6", "zcyx", (6,))],
)
def test_channels_of_imagej_whose_samples_are_separate(
    tmp_path: Path, counts: str, dims: str, shape: tuple[int, ...], is_run: bool
) -> None:
    """Each image has a red, a green and a blue plane; channels are images of their own."""
    path, planes = tmp_path / "a.tif", GRADIENT[:18].reshape(6, 3, 32, 48)
    with tifffile.TiffWriter(path) as tif:
        for n, page in enumerate(planes[:1] if is_run else planes):
            text = f"ImageJ=1.54f\nimages=6\n{counts}\n" if n == 0 else None
            tif.write(page, photometric="rgb", planarconfig="separate", description=text,
                      metadata=None, contiguous=False)  # fmt: skip
    if is_run:
        path.write_bytes(path.read_bytes() + planes[1:].tobytes())
    with ZarrTiffStore(path) as store:
        assert ("".join(store.dims), store.shape[:-3]) == (dims, shape)
        np.testing.assert_array_equal(store[...].reshape(planes.shape), planes)


@pytest.mark.parametrize(
    ("counts", "shape"),
    [("images=6\nslices=3", (6,)), ("images=3\nslices=6", (6,)), ("images=6\nslices=9", (6,)),
     ("images=9\nslices=2\nframes=3", (3, 2))],
)  # fmt: skip
def test_contradictory_counts_of_a_single_directory(
    tmp_path: Path, counts: str, shape: tuple[int, ...]
) -> None:
    path, planes = tmp_path / "a.tif", GRADIENT[:6]
    tifffile.imwrite(path, planes[0], description=f"ImageJ=1.54f\n{counts}\n", metadata=None)
    path.write_bytes(path.read_bytes() + planes[1:].tobytes())
    with pytest.warns(MetadataWarning, match="images, but its axes are"):
        store = ZarrTiffStore(path)
    assert store.shape[:-2] == shape
    np.testing.assert_array_equal(store[...].reshape(planes.shape), planes)
    with pytest.raises(MalformedTiff):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize(
    ("axes", "lengths", "counts", "dims", "shape"),
    [
        ("X,Y,Z", "48,32,6", "slices=6", "zyx", (6,)),
        ("X,Y,Channel,Z", "48,32,2,3", "channels=2\nslices=3", "zcyx", (3, 2)),
        ("X,Y,Z,Channel", "48,32,3,2", "channels=2\nslices=3", "czyx", (2, 3)),
        ("X,Y,Time,Z", "48,32,3,2", "frames=3\nslices=2", "ztyx", (2, 3)),
        ("X,Y,Z,Lifetime", "48,32,3,2", "slices=3", "izyx", (2, 3)),
        ("X,Y,Spectra,Time", "48,32,3,2", "frames=2", "tiyx", (2, 3)),
        ("X,Y,Spectra,Lifetime", "48,32,3,2", "", "iyx", (6,)),
    ],
)
def test_axes_of_scifio(
    tmp_path: Path, axes: str, lengths: str, counts: str, dims: str, shape: tuple[int, ...]
) -> None:
    """SCIFIO's planes are in the order of its axes, not in that of ImageJ."""
    path, planes = tmp_path / "a.tif", GRADIENT[:6]
    text = f"SCIFIO=0.43\naxes={axes}\nlengths={lengths}\nimages=6\n{counts}\nhyperstack=true\n"
    with tifffile.TiffWriter(path) as tif:
        for n, page in enumerate(planes):
            tif.write(page, description=text if n == 0 else None, metadata=None, contiguous=False)
    array = tiffref.scan(path).group["image"]
    assert ("".join(array.dims), array.shape[:-2]) == (dims, shape)
    with ZarrTiffStore(path) as store:
        np.testing.assert_array_equal(store[...].reshape(planes.shape), planes)


@pytest.mark.parametrize(
    "text", ['{"shape": [5, 48, 32]}', '{"shape": "x"}', '{"shape": [24, 32', '{"shape": [-1]}']
)
def test_shapes_that_do_not_fit_the_pages(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for n, page in enumerate(GRADIENT):
            tif.write(page, description=text if n == 0 else None, metadata=None, contiguous=False)
    assert shaped_series(TiffReader(LocalSource(path))) is None


@pytest.mark.parametrize("axes", ['"YX"', '"TZYX"', "3", '["T", "Y", "X"]'])
def test_axes_that_do_not_fit_the_shape_are_reported(tmp_path: Path, axes: str) -> None:
    path = tmp_path / "a.tif"
    text = f'{{"shape": [24, 32, 48], "axes": {axes}}}'
    tifffile.imwrite(path, GRADIENT, description=text, metadata=None)
    with pytest.warns(MetadataWarning, match="axes do not match"):
        assert tiffref.scan(path).group["image"].shape == GRADIENT.shape
    with pytest.raises(MalformedTiff, match="axes do not match"):
        tiffref.scan(path, strict=True)


def test_a_sub_ifd_outside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(GRADIENT[0], subifds=2, metadata=None)
        tif.write(GRADIENT[0, ::2, ::2], metadata=None)
        tif.write(GRADIENT[0, ::4, ::4], metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        at = tif.pages.first.tags[330].valueoffset
    struct.pack_into("<I", data, at + 4, 10**8)
    path.write_bytes(data)
    reader = TiffReader(LocalSource(path))
    assert len(plain_series(reader).series[0].levels) == 2
    (found,) = reader.findings
    assert (found.tag, found.loses_pixels) == (330, True)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (1, 2)])
def test_pages_of_a_shape_with_different_overviews_are_not_left_out(
    tmp_path: Path, counts: tuple[int, int], order: str
) -> None:
    pages = [image(plane, {270: '{"shape": [2, 32, 48]}'}, order=order) for plane in GRADIENT[:2]]
    small = [(plane[::2, ::2], plane[::4, ::4]) for plane in GRADIENT[:2]]
    for page, some, n in zip(pages, small, counts, strict=True):
        page.subifds = [image(one, {254: 1}, order=order) for one in some[:n]]
    del pages[1].tags[270]
    write_tiff(tmp_path / "a.tif", pages, order=order)
    with pytest.warns(MetadataWarning, match="tifffile's shape does not match the pages"):
        references = tiffref.scan(tmp_path / "a.tif")
    shapes = [array.shape for _, array in references.group.arrays()]
    assert sum(math.prod(shape[:-2]) for shape in shapes) == 2 + sum(counts)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [258, 339])
def test_an_unknown_sample_format_is_ignored(tmp_path: Path, code: int, order: str) -> None:
    """As other readers have it (TIFF 6.0), and reported."""
    path = tmp_path / "a.tif"
    bits = (np.indices((16, 32)).sum(0) % 2).astype("u1")
    one = image(bits, {258: 1, 339: 1}, order=order)
    one.segments = [np.packbits(bits, axis=-1).tobytes()]
    write_tiff(path, [one], order=order)
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[code].offset
    data = bytearray(path.read_bytes())
    struct.pack_into(f"{order}H", data, at + 2, 200)
    path.write_bytes(data)
    with pytest.warns(TruncationWarning, match="unknown type"):
        store = ZarrTiffStore(path)
    np.testing.assert_array_equal(store[...], bits)
    with pytest.raises(MalformedTiff, match="unknown type"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [270, 34735, 42113, 700])
def test_metadata_of_an_unknown_type_is_reported(tmp_path: Path, code: int, order: str) -> None:
    """Descriptions, georeferences and nodata; not every tag, since others have private types."""
    path = tmp_path / "a.tif"
    write_tiff(path, [image(np.ones((16, 32), "u1"), {code: "text"}, order=order)], order=order)
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[code].offset
    data = bytearray(path.read_bytes())
    struct.pack_into(f"{order}H", data, at + 2, 200)
    path.write_bytes(data)
    if code == 700:
        assert tiffref.scan(path, strict=True).group["image"].shape == (16, 32)
        return
    with pytest.warns(MetadataWarning, match=rf"\({code}\): values have an unknown type"):
        assert tiffref.scan(path).group["image"].shape == (16, 32)
    with pytest.raises(MalformedTiff, match="unknown type"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("form", [CLASSIC, BIG])
@pytest.mark.parametrize("code", [258, 273, 324, 339])
@pytest.mark.parametrize("n_pages", [1, 3])
@pytest.mark.parametrize("text", [None, "ImageJ=1.54f\nimages=3\nslices=3\n"])
def test_a_page_without_pixel_tags_is_not_invented(
    tmp_path: Path, text: str | None, n_pages: int, code: int, form: Any, order: str
) -> None:
    """Zeros, bits or integers in place of its samples would be other pixels."""
    path = tmp_path / "a.tif"
    planes = GRADIENT[:15].reshape(3, 5, 32, 48).transpose(0, 2, 3, 1).astype("f4")[:n_pages]
    tile = (16, 16) if code == 324 else None
    tags = {270: text} if text and n_pages == 3 else {}
    ifds = [
        image(one, tags if n == 0 else {}, tile=tile, rows=4, order=order)
        for n, one in enumerate(planes)
    ]
    write_tiff(path, ifds, form=form, order=order)
    np.testing.assert_array_equal(ZarrTiffStore(path)[...], planes if n_pages > 1 else planes[0])
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[-1].tags[code].offset
    data = bytearray(path.read_bytes())
    place = (at + 12, "Q") if form is BIG else (at + 8, "I")
    struct.pack_into(f"{order}{place[1]}", data, place[0], len(data) - 2)
    path.write_bytes(data)
    is_list = code in (273, 324)
    if n_pages == 1 or is_list or text:
        is_hole = is_list and n_pages > 1
        with pytest.raises(MalformedTiff, match="1 of 3" if is_hole else "outside the file"):
            tiffref.scan(path)
    else:  # the other pages are an image of their own
        with pytest.warns(TruncationWarning, match="outside the file"):
            references = tiffref.scan(path)
        assert [len(one["levels"]) for one in references.series] == [1, 1]
        assert "refused" in references.series[1]["levels"][0]
        np.testing.assert_array_equal(ZarrTiffStore(references)[...], planes[:2])
    if n_pages > 1 and is_list:
        with pytest.warns(TruncationWarning):
            store = ZarrTiffStore(path, allow_holes=True)
        np.testing.assert_array_equal(store[...][:2], planes[:2])
    with pytest.raises(MalformedTiff):
        tiffref.scan(path, strict=True)


def test_an_invalid_page_hides_no_others(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    few_pages(path, {})
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[2].tags[256]
    data = bytearray(path.read_bytes())
    struct.pack_into("<HI", data, tag.offset + 2, 11, 1)  # a width that is a float
    path.write_bytes(data)
    levels = [one.levels[0] for one in series_of(path).series]
    assert levels[0].to_facts().shape == (4, 32, 48)
    with pytest.raises(MalformedTiff, match="256"):
        levels[1].to_facts()


# ---- the corpus

OTHERS = (
    "lsm", "mmstack", "ome", "ndtiff", "fluoview", "stk", "sis", "svs", "mikroscan", "motic",
    "trestle", "huron", "scn", "qpi", "ndpi", "bif", "avs", "eer", "philips", "scanimage",
    "indica", "nih", "mdgel", "flimage", "fei",
)  # fmt: skip


def _theirs(path: Path) -> list[list[tuple[Any, ...]]] | None:
    """Return what tifffile makes of an ordinary file; None for others, and where it fails."""
    try:
        with tifffile.TiffFile(path) as tif:
            if any(getattr(tif, f"is_{name}", False) for name in OTHERS):
                return None
        theirs = expected_of(path)
        return theirs if any(math.prod(level[0]) for one in theirs for level in one) else None
    except Exception:  # tifffile fails in many ways
        return None


def test_series_of_the_corpus_equal_those_of_tifffile(corpus: Path) -> None:
    """Hold all ordinary files of a corpus against tifffile: differences have a rule each."""
    logging.disable(logging.CRITICAL)
    n_equal, unexplained = 0, []
    for path in sorted(
        (corpus / "files").glob("*") if (corpus / "files").is_dir() else corpus.glob("*")
    ):
        theirs = _theirs(path) if path.is_file() else None
        if theirs is None:
            continue
        reader = TiffReader(LocalSource(path))
        try:
            ours: Any = got_of(series_of(path))
        except TiffrefError as error:
            ours = str(error)
        if _is_same(ours, theirs):
            n_equal += 1
        elif not _is_explained(reader, ours, theirs):
            unexplained.append((path.name, str(ours)[:200], str(theirs)[:200]))
    logging.disable(logging.NOTSET)
    assert unexplained == []
    assert n_equal > 0


def _is_same(ours: Any, theirs: list[list[tuple[Any, ...]]]) -> bool:
    if not isinstance(ours, list) or len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if [level[:3] for level in one] != [level[:3] for level in other]:
            return False
    return True


REFUSALS = ("outside the file", "unknown type", "needs more segments", "not a single integer")


def _is_explained(reader: TiffReader, ours: Any, theirs: list[list[tuple[Any, ...]]]) -> bool:
    """Return whether a difference has a known reason.

    Directories that are damaged are read by the first tag of several and without the values that
    lie outside the file, and refused without their offsets; a directory without an image is a
    series of its own; where tifffile has no type for samples, there are none; it takes overviews
    of images of one row or column for images.
    """
    if isinstance(ours, str):
        return any(what in ours for what in REFUSALS)
    mine, others = ([level[:3] for one in found for level in one] for found in (ours, theirs))
    if mine == others and any(1 in level[0] for one in ours for level in one[1:]):
        return True
    reader.chain()
    has_no_type = any(level[2] == "f8" for one in theirs for level in one)
    return bool(reader.findings) or has_no_type or any(not one for one in theirs)


@pytest.mark.filterwarnings("ignore:.*description does not match:tiffref.errors.MetadataWarning")
@pytest.mark.parametrize("lengths", ["48,32,3,2", "48,31,2,3", "20,32,2,3", "48,32,2", "48,32,2,4"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_lengths_of_scifio_that_are_not_those_of_the_pages_are_reported(
    tmp_path: Path, lengths: str, byteorder: str
) -> None:
    path, planes = tmp_path / "a.tif", GRADIENT[:6]
    text = f"SCIFIO=0.43\naxes=X,Y,Channel,Z\nlengths={lengths}\nimages=6\nchannels=2\nslices=3\n"
    tifffile.imwrite(path, planes, description=text, metadata=None, byteorder=byteorder)
    with pytest.raises(
        MalformedTiff, match=f"SCIFIO's lengths are {lengths.replace(',', ', ')} for"
    ):
        tiffref.scan(path, strict=True)
    with ZarrTiffStore(path) as store:
        np.testing.assert_array_equal(store[...].reshape(planes.shape), planes)


@pytest.mark.parametrize("name", ["a.ome.tif", "a.OME.TIFF", "a.ome.tf8", "a.ome.btf"])
@pytest.mark.parametrize("text", [None, "an image", '<?xml version="1.0"'])
def test_an_ome_tiff_that_lost_its_xml_is_reported(
    tmp_path: Path, name: str, text: str | None
) -> None:
    path = tmp_path / name
    tifffile.imwrite(path, GRADIENT, description=text, metadata=None, ome=False)
    with pytest.raises(MalformedTiff, match="named as an OME-TIFF, but has no OME-XML"):
        tiffref.scan(path, strict=True)
    with pytest.warns(MetadataWarning, match="no OME-XML"):
        assert tiffref.scan(path).group["image"].shape == GRADIENT.shape
    assert tiffref.scan(path.rename(tmp_path / "home.tif"), strict=True)


@pytest.mark.parametrize("how", [{"imagej": True}, {"metadata": {"axes": "ZYX"}}])
def test_an_ome_tiff_by_name_whose_axes_are_known_is_silent(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", GRADIENT, ome=False, **how)
    assert tiffref.scan(tmp_path / "a.ome.tif", strict=True)


@pytest.mark.parametrize("is_declared", [False, True])
def test_many_images_of_different_sizes_are_not_compared_with_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_declared: bool
) -> None:
    counts = []
    facts = Level.facts.fget
    for n_images in (30, 60):
        path = tmp_path / f"{n_images}.tif"
        with tifffile.TiffWriter(path) as tif:
            for n in range(n_images):  # 64 rows: all may be overviews of the one before
                pixels = np.zeros((64, n_images - n), np.uint8)
                tif.write(pixels, subfiletype=int(is_declared and n > 0), metadata=None)
        calls: list[int] = []
        counting = property(lambda level, calls=calls: calls.append(1) or facts(level))
        monkeypatch.setattr(Level, "facts", counting)
        assert len(tiffref.scan(path).series) == n_images
        counts.append(len(calls))
    assert counts[1] < 3 * counts[0]
