"""What samples mean: extra samples, colour tables, profiles, masks; in documents and in xarray."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from ifds import As, image, write_tiff
from ways import assert_pixels, pixels, scan

import tiffref
from tiffref.errors import MalformedTiff, MetadataWarning, TruncationWarning

PROFILE = b"\0" * 36 + b"acsp" + b"\0" * 88


def told(path):
    """Scan, and return the image's attributes, which xarray must show as well."""
    xarray = pytest.importorskip("xarray")
    references = scan(path)
    attributes = references.group["image"].attributes
    dataset = xarray.open_dataset(path, engine="tiffref")
    for name in ("color_interpretation", "color_table"):
        assert dataset["image"].attrs.get(name) == attributes.get(name)
    return references, attributes


@pytest.mark.parametrize(
    ("n_samples", "tags", "names"),
    [
        (3, {262: 2}, ["red", "green", "blue"]),
        (4, {262: 2, 338: 2}, ["red", "green", "blue", "alpha"]),
        (5, {262: 2, 338: [0, 1]}, ["red", "green", "blue", "undefined", "alpha"]),
        (2, {262: 1, 338: 2}, ["gray", "alpha"]),
        (3, {262: 1, 338: [0, 0]}, None),
        (4, {262: 5, 332: 1}, ["cyan", "magenta", "yellow", "black"]),
        (3, {262: 8}, ["lightness", "a", "b"]),
        (1, {262: 1}, None),
    ],
)
@pytest.mark.parametrize("is_planar", [False, True])
def test_samples(tmp_path, n_samples, tags, names, is_planar):
    data = pixels(20, 24, n_samples, dtype="u1")
    stored = np.ascontiguousarray(np.moveaxis(data, 2, 0)) if is_planar else data
    path = tmp_path / "a.tif"
    write_tiff(path, [image(stored, {**tags, 34675: As(7, PROFILE)}, is_planar=is_planar)])
    references, attributes = told(path)
    assert attributes.get("color_interpretation") == names
    kept = json.loads(attributes["tiff_tags"])
    assert base64.b64decode(kept["ICCProfile"]["base64"]) == PROFILE
    shown = stored if n_samples > 1 else stored.reshape(20, 24)
    assert_pixels(references, {"image": shown})


@pytest.mark.parametrize("bits", [4, 8])
def test_colour_tables(tmp_path, bits):
    n = 1 << bits
    table = pixels(3, n).astype(int) << 8
    data = pixels(20, 24, dtype="u1") & (n - 1)
    stored = [data.tobytes()]
    if bits == 4:
        stored = [(data[:, ::2] << 4 | data[:, 1::2]).tobytes()]
    one = image(data, {258: bits, 262: 3, 320: As(3, table.ravel().tolist())})
    one.segments = stored
    path = tmp_path / "a.tif"
    write_tiff(path, [one])
    references, attributes = told(path)
    assert attributes["color_interpretation"] == "palette"
    colors = [f"#{r >> 8:02x}{g >> 8:02x}{b >> 8:02x}" for r, g, b in table.T]
    assert attributes["color_table"] == colors
    assert_pixels(references, {"image": data})


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("photometric", [0, 1, 3])
@pytest.mark.parametrize(("unit", "more"), [(257, 0), (256, 0), (1, 0), (257, 100)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_colour_tables_are_those_of_rasterio(tmp_path, photometric, unit, more, order):
    rasterio = pytest.importorskip("rasterio")
    table = pixels(3, 256).astype(int) * unit + more
    data = pixels(20, 24, dtype="u1")
    path = tmp_path / "a.tif"
    tags = {262: photometric, 320: As(3, table.ravel().tolist())}
    write_tiff(path, [image(data, tags, order=order)], order=order)
    _, attributes = told(path)
    with rasterio.open(path) as dataset:
        expected = ["#{:02x}{:02x}{:02x}".format(*c) for c in dataset.colormap(1).values()]
    assert attributes["color_table"] == expected
    assert attributes["color_interpretation"] == "palette"


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [1, 3])
@pytest.mark.parametrize(("dtype", "n"), [("u2", 65536), ("i2", 65536), ("u1", 0), ("u2", 0)])
def test_colour_tables_of_other_types_and_palettes_without_any(
    tmp_path, dtype, n, photometric, order
):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    tags = {262: photometric, 320: As(3, pixels(3, n).ravel().tolist())}
    write_tiff(path, [image(pixels(8, 8, dtype=dtype), tags if n else {262: 3}, order=order)],
               order=order)  # fmt: skip
    _, attributes = told(path)
    with rasterio.open(path) as dataset:
        assert attributes.get("color_interpretation", "gray") == dataset.colorinterp[0].name
        table = dataset.colormap(1).values() if n else ()
    assert attributes.get("color_table", []) == ["#{:02x}{:02x}{:02x}".format(*c) for c in table]


@pytest.mark.parametrize("size", [3, 48, 769])
def test_a_color_map_of_the_wrong_size_is_ignored(tmp_path, size):
    path = tmp_path / "a.tif"
    write_tiff(path, [image(pixels(20, 24, dtype="u1"), {320: As(3, [257] * size)})])
    _, attributes = told(path)
    assert "color_table" not in attributes


@pytest.mark.parametrize(
    ("bits", "also"), [(32, ()), (65000, (TruncationWarning,))]
)  # no dtype has 65000 bits
def test_samples_too_large_for_a_colour_table(tmp_path, bits, also):
    path = tmp_path / "a.tif"
    tags = {258: bits, 262: 3, 320: As(3, [257] * 768)}
    write_tiff(path, [image(pixels(20, 24, dtype="u4"), tags)])
    with pytest.warns((MetadataWarning, *also)) as caught:
        scan(path)
    assert {one.category for one in caught} == {MetadataWarning, *also}


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("is_planar", [False, True])
def test_ycbcr_samples_are_not_labelled_rgb(tmp_path, dtype, is_planar):
    data = pixels(8, 16, 3, dtype=dtype)
    stored = np.ascontiguousarray(np.moveaxis(data, 2, 0)) if is_planar else data
    path = tmp_path / "a.tif"
    write_tiff(path, [image(stored, {262: 6, 530: [1, 1]}, is_planar=is_planar)])
    references, attributes = told(path)
    assert attributes["color_interpretation"] == ["Y", "Cb", "Cr"]
    assert_pixels(references, {"image": stored})


def test_masks_and_reduced_images(tmp_path):
    data, small = pixels(20, 24, 3, dtype="u1"), pixels(7, 5, 3, dtype="u1")
    inside = pixels(20, 24) > 120
    mask = image(inside.view("u1"), {254: 4, 258: 1, 262: 4})
    mask.segments = [np.packbits(inside, axis=1).tobytes()]
    path = tmp_path / "a.tif"
    write_tiff(path, [image(data), mask, image(small, {254: 1})])
    references = scan(path)
    assert_pixels(references, {"image": data, "mask": inside, "thumbnail": small})
    arrays = dict(references.group.arrays())
    assert arrays["mask"].dims == arrays["image"].dims[:2]
    assert [arrays[name].attributes["role"] for name in ("mask", "thumbnail")] == [
        "mask", "thumbnail",
    ]  # fmt: skip


FULL_RANGE, VIDEO = [0, 255, 128, 255, 128, 255], [16, 235, 128, 240, 128, 240]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("subsampling", [(2, 2), (2, 1), (4, 2), None])
@pytest.mark.parametrize(
    "tags",
    [{}, {529: As(5, [0.2126, 0.7152, 0.0722])}, {532: As(5, VIDEO)}, {532: As(3, FULL_RANGE)},
     {529: As(11, [0.299, 0.587, 0.114]), 532: As(3, VIDEO)}],
    ids=lambda tags: "-".join(map(str, tags)) or "defaults",
)  # fmt: skip
def test_subsampled_ycbcr_is_what_libtiff_reads(tmp_path, tags, subsampling, order):
    rasterio = pytest.importorskip("rasterio")
    horizontal, vertical = subsampling or (2, 2)
    n_blocks = 16 * 24 // (horizontal * vertical)
    blocks = pixels(n_blocks, horizontal * vertical + 2, dtype="u1").tobytes()
    tags = {262: 6, **({530: subsampling} if subsampling else {}), **tags}
    path, unused = tmp_path / "a.tif", np.zeros((16, 24, 3), "u1")
    write_tiff(path, [image(unused, tags, encode=lambda _: blocks, order=order)], order=order)
    with rasterio.open(path) as dataset:
        expected = np.moveaxis(dataset.read(), 0, -1)
    assert_pixels(scan(path), {"image": expected})


@pytest.mark.parametrize("tags", [{529: As(5, [0.5, 0.5])}, {532: "16 235 128 240 128 240"}])
def test_ycbcr_without_its_numbers(tmp_path, tags):
    one = image(np.zeros((16, 24, 3), "u1"), {262: 6, **tags}, encode=lambda _: bytes(576))
    write_tiff(tmp_path / "a.tif", [one])
    with pytest.raises(MalformedTiff, match="invalid numbers"):
        tiffref.scan(tmp_path / "a.tif")
