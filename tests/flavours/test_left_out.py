"""Pages that a maker's description does not name: given, or reported, and never left out unsaid."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import test_instruments
import test_slides
import test_stacks
import tifffile
from ifds import BIG, CLASSIC, As, image, write_tiff
from ways import assert_pixels, pixels, scan

import tiffref
from tiffref.errors import MetadataWarning, TiffrefError


def stk_pages():
    """One directory with two planes, then a page of its own, which tifffile does not look at."""
    data = pixels(2, 20, 24)
    tags, _ = test_stacks.uic_tags(2, (0, 1), [0, 0])
    tags[33628] = As(4, test_stacks.STUB, 4)
    one = image(data[0], tags)
    one.lengths = [len(one.segments[0])]
    one.segments = [one.segments[0] + data[1].tobytes()]
    return data, [one, image(pixels(20, 24))]


def qptiff_pages():
    """A page without XML among others: tifffile goes by their order, up to what it expects."""
    data = pixels(2, 80, 96)
    tags = {305: "PerkinElmer-QPI"}
    pages = [image(p, tags | {270: test_slides.qpi_xml("FullResolution")}) for p in data]
    pages += [image(test_slides.SMALL, tags), image(pixels(10, 12), tags)]
    return data, [*pages, image(pixels(7, 9), tags), image(pixels(6, 5), tags)]


def indica_pages():
    data = pixels(80, 96)
    text = (
        '<indica><image><pixels><dimension level="0" channel="0" ifd="0"/></pixels><channels>'
        '<channel id="0" name="DAPI" rgb="255"/></channels></image></indica>'
    )
    tags = {305: "IndicaLabsImageWriter v1.2.1", 270: text}
    return data, [image(data, tags), image(pixels(20, 24), {305: tags[305]})]


knows_indica = pytest.mark.skipif(
    not hasattr(tifffile.TiffFile, "flimage_metadata"),
    reason="an old tifffile, to which the pages are a pyramid",
)


@pytest.mark.parametrize(
    ("pages_of", "form"),
    [
        (stk_pages, CLASSIC), (qptiff_pages, BIG), (qptiff_pages, CLASSIC),
        pytest.param(indica_pages, BIG, marks=knows_indica),
    ],
)  # fmt: skip
def test_pages_in_none_of_the_images_are_reported(tmp_path, pages_of, form):
    data, pages = pages_of()
    path = tmp_path / "a.tif"
    write_tiff(path, pages, form=form, prefix=test_stacks.PLACEHOLDER)
    with pytest.warns(MetadataWarning, match=r"pages? (is|are) not part of any image"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": data})
    with pytest.raises(TiffrefError, match="not part of any image"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize(("n_counted", "is_cut"), [(3, False), (2, False), (5, True)])
def test_an_stk_with_fewer_planes_than_it_declares(tmp_path, n_counted, is_cut):
    """The directory is behind the planes, with a text as long as those that are not there."""
    data = pixels(3, 20, 24)
    tags, values = test_stacks.uic_tags(n_counted, (0, 1), [0] * n_counted)
    one = image(data[0], tags | {315: "text " * 1000}, is_pixels_first=True)
    one.lengths, one.segments = [len(one.segments[0])], [data.tobytes()]
    path = tmp_path / "a.stk"
    write_tiff(path, [one], prefix=values)
    if is_cut:
        with pytest.raises(TiffrefError, match="room for 3, expected 5 planes"):
            tiffref.scan(path)
        return
    warned = pytest.warns(MetadataWarning, match="room for 3 planes, but UIC2 counts 2")
    with warned if n_counted == 2 else contextlib.nullcontext():
        assert_pixels(tiffref.scan(path), {"image": data[:n_counted]})


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("n_counted", [1, 2, 3])
def test_planes_behind_those_that_are_counted(tmp_path, n_counted, is_first):
    """One directory describes all planes, of MetaMorph, ImageJ or tifffile."""
    data = pixels(3, 20, 24)
    counts = f"images={n_counted}\nslices={n_counted}\n"
    tags, values = test_stacks.uic_tags(n_counted, (0, 1), [0] * n_counted)
    texts = {"imagej": f"ImageJ=1.54f\n{counts}", "shaped": f'{{"shape": [{n_counted}, 20, 24]}}'}
    for kind, own in (("stk", tags), *((kind, {270: text}) for kind, text in texts.items())):
        one = image(data[0], own, is_pixels_first=is_first)
        one.lengths, one.segments = [len(one.segments[0])], [data.tobytes() + bytes(60)]
        path = tmp_path / f"{kind}.tif"
        write_tiff(path, [one], prefix=values)
        if n_counted == 3:
            assert_pixels(tiffref.scan(path, strict=True), {"image": data})
            continue
        with pytest.warns(MetadataWarning, match=f"room for 3 planes, but .* {n_counted}"):
            references = tiffref.scan(path)
        shape = references.group["image"].shape
        assert_pixels(references, {"image": data[:n_counted].reshape(shape)})
        with pytest.raises(TiffrefError, match="room for 3 planes"):
            tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tags", [{256: 1}, {256: 12}, {257: 19}, {258: 8}], ids=str)
@pytest.mark.parametrize(
    "text", ["ImageJ=1.54f\nimages=3\nslices=3\n", '{"shape": [3, 20, 24], "axes": "ZYX"}']
)
def test_planes_of_another_size_than_their_strips(tmp_path, text, tags, order):
    """The second plane would begin within the first."""
    data = pixels(3, 20, 24)
    one = image(data[0], {270: text} | tags, order=order)
    one.lengths = [len(one.segments[0])]
    one.segments = [data.astype(f"{order}u2").tobytes()]
    path = tmp_path / "a.tif"
    write_tiff(path, [one], order=order)
    with pytest.raises(TiffrefError, match=r"does not match|fewer pages|more bytes than the im"):
        tiffref.scan(path, strict=True)
    if text.startswith("Image"):
        with pytest.raises(TiffrefError, match="byte count of contiguous planes"):
            tiffref.scan(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_open_imagej_file_with_a_text_between_its_planes(tmp_path, order):
    """tifffile takes the planes to follow each other, and reads the text."""
    data = pixels(3, 20, 24)
    text = "ImageJ=1.53t\nimages=3\nslices=3\n"
    pages = [image(plane, {} if n else {270: text}, order=order) for n, plane in enumerate(data)]
    pages[0].tags[315], pages[0].is_pixels_first = "text " * 1000, True
    path = tmp_path / "a.tif"
    write_tiff(path, pages, order=order)
    with tifffile.TiffFile(path) as tif:
        assert_pixels(tiffref.scan(tif), {"image": data})


@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_behind_the_image_of_a_gel_are_given(tmp_path, order):
    data = pixels(3, 20, 24)
    tags = {33445: As(4, 128), 33446: As(5, [1 / 4]), 33452: "Counts"}
    path = tmp_path / "a.gel"
    pages = [image(plane, {} if n else tags, order=order) for n, plane in enumerate(data)]
    write_tiff(path, pages, order=order)
    references = scan(path)
    paths = [series["levels"][0]["path"] for series in references.series]
    assert len(paths) == 3
    expected = dict(zip(paths[1:], data[1:], strict=True))
    expected[paths[0]] = data[0] * np.float32(0.25)
    assert_pixels(references, expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "n_pages"), [("imagej", 1), ("imagej", 3), ("fei", 9)])
def test_images_in_sub_ifds_of_other_formats_are_reported(tmp_path, kind, n_pages, order):
    data = pixels(n_pages, 20, 24)
    tags = {
        "imagej": {270: f"ImageJ=1.54f\nimages={n_pages}\nslices={n_pages}\n"},
        "fei": {34682: "[User]\nUser=x"},
    }[kind]
    pages = [image(plane, {} if n else tags, order=order) for n, plane in enumerate(data)]
    write_tiff(tmp_path / "whole.tif", pages, order=order)
    tiffref.scan(tmp_path / "whole.tif", strict=True)
    pages[-1].subifds = [image(pixels(10, 12), {254: 1}, order=order)]
    write_tiff(tmp_path / "a.tif", pages, order=order)
    with pytest.warns(MetadataWarning, match=r"page is not part of any image|images in SubIFDs"):
        references = tiffref.scan(tmp_path / "a.tif")
    assert_pixels(references, {"image": data.reshape(references.group["image"].shape)})


def test_all_pages_of_fluoview_are_named(tmp_path):
    """A file whose description fits its pages is read without a word."""
    dimensions = [(b"X", 24, 0.0, 0.5, b"um"), (b"Y", 20, 0.0, 0.5, b"um"),
                  (b"Z", 3, 0.0, 1.0, b"um")]  # fmt: skip
    data = pixels(3, 20, 24)
    tags = {34361: test_instruments.mm_header(b"cells", dimensions), 34362: As(12, [0.0] * 8)}
    path = tmp_path / "a.tif"
    write_tiff(path, [image(plane, {} if n else tags) for n, plane in enumerate(data)])
    assert_pixels(tiffref.scan(path, strict=True), {"image": data})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["metaseries", "scn"])
def test_broken_xml_is_reported_and_costs_no_pixels(tmp_path, kind, order):
    texts = {"metaseries": test_instruments.metaseries_xml({"image-name": ("string", "a")}),
             "scn": test_slides.scn_xml([("scan", 20, [(0, 0, 0, 0)])])}  # fmt: skip
    text = texts[kind].replace("><", ">&<", 1)
    data = pixels(20, 24)
    path = tmp_path / "a.tif"
    tags = {270: text} | ({305: "MetaSeries"} if kind == "metaseries" else {})
    write_tiff(path, [image(data, tags, order=order)], order=order)
    with pytest.warns(MetadataWarning, match="not well-formed"):
        references = tiffref.scan(path)
    assert_pixels(references, {"image": data})
    with pytest.raises(TiffrefError):
        tiffref.scan(path, strict=True)
