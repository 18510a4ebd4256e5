"""Tags that contradict each other are refused, by every entrance; what is whole passes silently."""

from __future__ import annotations

import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
from ifds import image, write_tiff
from ways import assert_pixels, pixels, scan

import tiffref
from tiffref.cli import main
from tiffref.errors import MalformedTiff, TruncationWarning, UnsupportedTiff
from tiffref.zarr import ZarrTiffStore

ORDERS = ["<", ">"]


def write_bits(path, bits, *, order="<", photometric=1):
    one = image(np.zeros((4, 8, len(bits)), "u1"), {258: bits, 262: photometric}, order=order)
    one.segments = [bytes(4 * sum(bits))]
    write_tiff(path, [one], order=order)


def write_predicted(path, array, predictor, *, order="<", compression=8, bits=None):
    def encode(part):
        is_float = part.dtype.kind == "f" and predictor == 3
        stored = imagecodecs.floatpred_encode(part) if is_float else part
        return zlib.compress(stored.tobytes()) if compression == 8 else stored.tobytes()

    tags = {259: compression, 317: predictor} | ({258: bits} if bits else {})
    write_tiff(path, [image(array, tags, encode=encode, order=order)], order=order)


def assert_refused(path, match, tmp_path, capsys):
    """Every entrance refuses; the command line writes nothing."""
    xarray = pytest.importorskip("xarray")
    for open_file in (
        tiffref.scan,
        lambda p: tiffref.scan(p, strict=True),
        ZarrTiffStore,
        lambda p: xarray.open_dataset(p, engine="tiffref"),
        lambda p: tiffref.scan_sequence([p]),
    ):
        with pytest.raises(UnsupportedTiff, match=match):
            open_file(path)
    document = tmp_path / "refs.json"
    assert main(["scan", str(path), "-o", str(document)])
    assert match in capsys.readouterr().err
    assert not document.exists()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "bits",
    [
        [16, 16, 16, 8], [8, 8, 8, 16], [16, 8], [8, 16], [8, 8, 8, 1], [8, 8, 16], [32, 16],
        [8, 8, 4], [5, 5, 5, 1],
    ],
)  # fmt: skip
def test_samples_of_different_sizes(tmp_path, capsys, bits, order):
    path = tmp_path / "bits.tif"
    write_bits(path, bits, order=order, photometric=2 if len(bits) > 2 else 1)
    assert_refused(path, "258", tmp_path, capsys)


@pytest.mark.parametrize("bits", [[7, 5, 4], [8, 4, 4]])
def test_other_samples_packed_into_16_bits_are_empty_and_reported(tmp_path, bits):
    path = tmp_path / "bits.tif"
    write_bits(path, bits, photometric=2)
    with pytest.warns(TruncationWarning, match="no dtype can hold these samples"):
        assert 0 in scan(path).group["image"].shape
    with pytest.raises(MalformedTiff, match="258"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("formats", [[1, 2], [1, 1, 3]])
def test_samples_of_different_types(tmp_path, capsys, formats, order):
    path = tmp_path / "formats.tif"
    one = image(np.ones((4, 8, len(formats)), "u4"), {339: formats}, order=order)
    write_tiff(path, [one], order=order)
    assert_refused(path, "339", tmp_path, capsys)


@pytest.mark.parametrize("bits", [[8], [8, 8], [8, 8, 8, 8]])
def test_samples_of_one_size(tmp_path, bits):
    path = tmp_path / "bits.tif"
    write_bits(path, bits)
    assert scan(path).group["image"].shape[-1] == (len(bits) if len(bits) > 1 else 8)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("bits", "sample_format"), [(33, 1), (12, 2), (24, 2), (20, 3)])
def test_samples_without_a_data_type_are_reported(tmp_path, bits, sample_format, order):
    path = tmp_path / "bits.tif"
    one = image(np.ones((4, 8), "u4"), {258: bits, 339: sample_format}, order=order)
    write_tiff(path, [one], order=order)
    with pytest.warns(TruncationWarning, match="258"):
        references = tiffref.scan(path)
    assert references.group["image"].shape[0] == 0
    report = tiffref.validate(references)
    assert [finding.code for finding in report.findings] == ["damaged"]
    assert tiffref.catalog.build(tmp_path, tmp_path / "catalog").failed == 1
    with pytest.raises(MalformedTiff, match="258"):
        tiffref.scan(path, strict=True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8"])
def test_floating_point_predictor_of_integers(tmp_path, capsys, dtype, order):
    path = tmp_path / "predictor.tif"
    write_predicted(path, pixels(8, 8, dtype=dtype), 3, order=order)
    assert_refused(path, "317", tmp_path, capsys)


@pytest.mark.parametrize("bits", [1, 4, 12, 24])
def test_horizontal_predictor_of_packed_samples(tmp_path, capsys, bits):
    path = tmp_path / "predictor.tif"
    dtype = "u1" if bits <= 8 else "u2" if bits <= 16 else "u4"
    write_predicted(path, pixels(8, 8, dtype=dtype), 2, bits=bits)
    assert_refused(path, "317", tmp_path, capsys)


@pytest.mark.parametrize("predictor", [4, 5, 255, 60162])
def test_unknown_predictors(tmp_path, capsys, predictor):
    path = tmp_path / "predictor.tif"
    write_predicted(path, pixels(8, 8, dtype="u1"), predictor)
    assert_refused(path, "317", tmp_path, capsys)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floating_point_predictor_of_numbers(tmp_path, dtype, order):
    path = tmp_path / "predictor.tif"
    data = pixels(8, 8, dtype=dtype)
    write_predicted(path, data, 3, order=order)
    assert_pixels(scan(path), {"image": data})


@pytest.mark.parametrize("predictor", [2, 3, 255])
def test_a_predictor_without_compression_is_not_applied(tmp_path, predictor):
    path = tmp_path / "predictor.tif"
    data = pixels(8, 8, dtype="u2")
    write_predicted(path, data, predictor, compression=1)
    assert_pixels(scan(path), {"image": data})


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lengths", [None, [0, 0]])
@pytest.mark.parametrize("subsampling", [[0, 2], [2, 0], [0, 0]])
def test_chroma_without_samples(tmp_path, subsampling, lengths, order):
    path = tmp_path / "chroma.tif"
    pixels = np.zeros((4, 8, 3), "u1")
    one = image(pixels, {262: 6, 530: subsampling}, rows=2, order=order)
    one.lengths = lengths
    write_tiff(path, [one], order=order)
    with pytest.raises(MalformedTiff, match="subsampling is 0"):
        tiffref.scan(path)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("how", [{"rows": 5}, {"rows": 20}, {"tile": (16, 16)}], ids=str)
@pytest.mark.parametrize("n_pages", [1, 3])
def test_an_image_of_more_segments_than_are_listed(tmp_path, how, n_pages, order):
    """Rows without segments would be 0; a list of zeros is that of a sparse file."""
    pages = [image(np.ones((20, 24), "u2"), {}, order=order, **how) for _ in range(n_pages)]
    path = tmp_path / "a.tif"
    write_tiff(path, pages, order=order)
    assert tiffref.scan(path, strict=True).group["image"].shape[-2:] == (20, 24)
    for page in pages:
        page.tags[257] = 40
        if how == {"rows": 20}:
            page.tags[278] = 20
    write_tiff(path, pages, order=order)
    with pytest.raises(MalformedTiff, match="more segments than the IFD lists"):
        tiffref.scan(path)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_page_that_lists_fewer_segments_than_the_others(tmp_path, order, tile):
    pages = [image(np.ones((20, 24), "u2"), {}, rows=5, tile=tile, order=order) for _ in range(3)]
    pages[1].segments = pages[1].segments[:-1]
    path = tmp_path / "a.tif"
    write_tiff(path, pages, order=order)
    with pytest.raises(MalformedTiff, match="got 3 offsets or lengths, expected 4"):
        tiffref.scan(path)


@pytest.mark.parametrize("order", ORDERS)
def test_strips_without_lengths_of_more_bytes_than_there_can_be(tmp_path, order):
    path = tmp_path / "huge.tif"
    one = image(np.zeros((4, 8), "f8"), {256: (1 << 32) - 1, 278: (1 << 31) - 1}, order=order)
    one.tags[257] = (1 << 32) - 1
    one.segments, one.lengths = [bytes(8)] * 3, [0] * 3
    write_tiff(path, [one], order=order)
    with pytest.raises(MalformedTiff, match="3 of 3 segments have an offset but no byte count"):
        tiffref.scan(path, strict=True)
    with (
        pytest.warns(TruncationWarning, match="They are missing"),
        pytest.raises(MalformedTiff, match="exceeds 63 bits"),
    ):
        tiffref.scan(path)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("which", [0, 1])
def test_an_image_of_an_unknown_compression_is_not_left_out_in_silence(tmp_path, which, order):
    path = tmp_path / "unknown.tif"
    planes = [np.full((4, 8), 7, "u1"), np.full((6, 9), 8, "u1")]
    ifds = [image(p, {259: 60000} if n == which else {}, order=order) for n, p in enumerate(planes)]
    write_tiff(path, ifds, order=order)
    with pytest.warns(TruncationWarning, match=r"A level is left out: .*60000"):
        references = tiffref.scan(path)
    assert "60000" in references.series[which]["levels"][0]["refused"]
    single = ZarrTiffStore(references, series=1 - which)
    np.testing.assert_array_equal(single[...], planes[1 - which])
    with pytest.raises(UnsupportedTiff, match="60000"):
        tiffref.scan(path, strict=True)


TEXTS = {
    "ImageJ": "ImageJ=1.54f\nimages=6\nslices=6\nInfo={}",
    "ImageJ, fewer": "ImageJ=1.54f\nimages=3\nslices=3\nInfo={}",
    "ImageJ, more": "ImageJ=1.54f\nimages=9\nslices=9\nInfo={}",
    "tifffile": '{{"shape": [6, 4, 8], "Info": "{}"}}',
    "tifffile, axes": '{{"shape": [6, 4, 8], "axes": "ZYX", "Info": "{}"}}',
}


@pytest.mark.parametrize("order", ORDERS)
def test_planes_of_no_samples_that_a_description_promises(tmp_path, order):
    path = tmp_path / "none.tif"
    tags = {
        257: 2_147_000_000,
        258: [8, 8, 8],
        262: 2,
        270: '{"shape": [3, 48, 64]}',
        277: 0,
        278: 8,
        284: 2,
    }
    write_tiff(path, [image(np.zeros((48, 64), "u1"), tags, order=order)], order=order)
    with pytest.raises(MalformedTiff, match="pixels have no samples"):
        tiffref.scan(path)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", TEXTS)
def test_text_between_directories_is_not_taken_for_planes(tmp_path, text, order):
    """It is as long as the planes that would follow the first one, had they no directories."""
    path = tmp_path / "text.tif"
    planes = np.arange(6 * 4 * 8, dtype="u2").reshape(6, 4, 8).astype(f"{order}u2")
    description = {270: TEXTS[text].format("#" * 9 * planes.nbytes)}
    ifds = [image(p, {} if n else description, order=order) for n, p in enumerate(planes)]
    for one in ifds:
        one.is_pixels_first = True
    write_tiff(path, ifds, order=order)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = ZarrTiffStore(path)
    assert bool(caught) == (text in ("ImageJ, fewer", "ImageJ, more"))
    np.testing.assert_array_equal(store[...], planes)
