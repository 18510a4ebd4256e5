"""Directories as columns: those of a gather equal those read one by one."""

import io

import numpy as np
import pytest
import tifffile
from ifds import BIG, CLASSIC, As, image, write_tiff
from samples import rng

import tiffref
from tiffref.io.source import LocalSource
from tiffref.tiff.ifd import TiffReader
from tiffref.tiff.pages import Pages

N = 100


def write(path, n=N, byteorder="<", bigtiff=False, irregular=None, **how):
    """Write deflate pages with directories of their own; `irregular(n)` gives more for page n."""
    images = rng.integers(0, 60, (n, 40, 30), "u2")
    how = {"compression": "zlib", "metadata": None, "photometric": "minisblack", **how}
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as tif:
        for i, image in enumerate(images):
            more = irregular(i) if irregular else {}
            tif.write(image, contiguous=False, **{**how, **more})
    return images


def read(path):
    """Read the chain of a file into columns; return the reader too."""
    reader = TiffReader(LocalSource(path))
    return Pages(reader).columns, reader


def assert_like_tifffile(path):
    """Manifest columns equal what tifffile says page by page."""
    array = tiffref.scan(path, chunkmode="strile").group["image"]
    with tifffile.TiffFile(path) as tif:
        pages = [page.aspage() for page in tif.series[0]]
    offsets = np.concatenate([page.dataoffsets for page in pages])
    lengths = np.concatenate([page.databytecounts for page in pages])
    here = array.manifest.source >= 0
    np.testing.assert_array_equal(array.manifest.offset[here], offsets[here])
    np.testing.assert_array_equal(array.manifest.length[here], lengths[here])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("rowsperstrip", [40, 20])
def test_a_regular_chain(tmp_path, byteorder, bigtiff, rowsperstrip):
    path = tmp_path / "a.tif"
    write(path, byteorder=byteorder, bigtiff=bigtiff, rowsperstrip=rowsperstrip)
    columns, reader = read(path)
    assert columns.first == [0]
    offset, length = columns.segments(np.arange(N), 40 // rowsperstrip)
    assert (offset > 0).all()
    assert (length > 0).all()
    assert reader.n_reads < 2 * N
    assert_like_tifffile(path)


def test_pages_that_differ_in_irrelevant_tags(tmp_path):
    path = tmp_path / "a.tif"
    write(path, irregular=lambda n: {"description": "x" * n} if n % 7 == 3 else {})
    assert read(path)[0].first == [0]
    assert_like_tifffile(path)


@pytest.mark.parametrize(
    "change",
    [
        {"compression": "lzw"},
        {"predictor": True},
        {"rowsperstrip": 8},
    ],
)
def test_pages_that_decode_differently_stay_apart(tmp_path, change):
    path = tmp_path / "a.tif"
    write(path, irregular=lambda n: change if n == 50 else {})
    columns, _ = read(path)
    assert columns.first == [0, 50]
    assert (columns.kind == 0).sum() == N - 1


def test_one_page_stored_differently_is_read(tmp_path):
    path = tmp_path / "a.tif"
    images = write(
        path, irregular=lambda n: {"extratags": [(266, 3, 1, 1, True)]} if n == 9 else {}
    )
    store = tiffref.imread(path, aszarr=True)
    np.testing.assert_array_equal(store[:], images)


class CountedFile(io.BytesIO):
    """Counts how often it is read."""

    n_reads = 0

    def read(self, size=-1):
        self.n_reads += 1
        return super().read(size)


def test_contiguous_pages_are_not_read_one_by_one(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, rng.integers(0, 9, (500, 8, 8), "u2"), imagej=True)
    file = CountedFile(path.read_bytes())
    array = tiffref.scan(file).group["image"]
    assert array.shape == (500, 8, 8)
    assert file.n_reads < 20


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", [CLASSIC, BIG])
@pytest.mark.parametrize(
    ("how", "tags"),
    [({"rows": 8}, {257: 16}), ({"tile": (16, 16)}, {257: 16}), ({"tile": (16, 16)}, {256: 16})],
)
def test_segments_that_the_image_does_not_need_are_reported(tmp_path, how, tags, form, order):
    path, pixels = tmp_path / "a.tif", rng.integers(0, 60, (40, 48), "u2")
    write_tiff(path, [image(pixels, tags, order=order, **how)], form=form, order=order)
    with pytest.warns(tiffref.TruncationWarning, match="needs fewer segments than the IFD lists"):
        tiffref.scan(path)
    with pytest.raises(tiffref.MalformedTiff, match="fewer segments"):
        tiffref.scan(path, strict=True)


def test_lists_that_are_padded_with_zeros_are_silent(tmp_path):
    padded = image(np.ones((16, 16), "u1"))
    padded.tags |= {273: As(4, [256, 0]), 279: As(4, [256, 0])}
    padded.segments = ()
    write_tiff(tmp_path / "a.tif", [padded])
    with (tmp_path / "a.tif").open("ab") as file:
        file.write(bytes(512))
    tiffref.scan(tmp_path / "a.tif")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("how", [{}, {"tile": (16, 16)}])
@pytest.mark.parametrize("code", [256, 257])
def test_strips_of_an_image_without_size_are_reported(tmp_path, code, how, order):
    """Alone it is an empty array, as in other readers, but not in silence."""
    path, pixels = tmp_path / "a.tif", np.ones((16, 16), "u2")
    write_tiff(path, [image(pixels, {code: 0}, order=order, **how)], order=order)
    with pytest.warns(tiffref.TruncationWarning, match=r"fewer segments.*expected 0"):
        assert 0 in tiffref.scan(path).group["image"].shape
    with pytest.raises(tiffref.MalformedTiff, match=r"fewer segments.*expected 0"):
        tiffref.scan(path, strict=True)
    with pytest.warns(tiffref.TruncationWarning, match="fewer segments"):
        write_tiff(path, [image(pixels), image(pixels, {code: 0}, **how)])
        assert len(tiffref.scan(path).series) == 2


def test_an_image_without_width_but_with_too_many_rows_is_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", [image(np.ones((16, 16), "u2"), {256: 0, 257: 1 << 31})])
    with pytest.raises(tiffref.MalformedTiff, match="more segments"):
        tiffref.scan(tmp_path / "a.tif")


def test_an_empty_array_that_tifffile_wrote_is_empty(tmp_path):
    with pytest.warns(UserWarning, match="zero-size array"):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((0, 5), "u1"), metadata=None)
    assert tiffref.scan(tmp_path / "a.tif").group["image"].shape == (0, 0)
