"""Pages read in bulk equal pages read one by one, and irregular ones are left to the parser."""

import gc
import io
import struct

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import TiffrefError
from tiffref.scanner import chain
from tiffref.scanner.chain import follow_chain
from tiffref.scanner.ifd import parse_header
from tiffref.scanner.opening import open_tiff
from tiffref.scanner.pages import read_bulk_pages
from tiffref.scanner.reader import DECODING_TAGS
from tiffref.scanner.source import LocalSource

rng = np.random.default_rng(11)
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


def bulk(path):
    header = parse_header(path.read_bytes()[:16])
    chain = follow_chain(LocalSource(path), header)
    return read_bulk_pages(LocalSource(path), header, chain, DECODING_TAGS)


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
    pages = bulk(path)
    assert pages.is_known.all()
    assert pages.offset.shape == (N, 40 // rowsperstrip)
    assert_like_tifffile(path)


def test_pages_with_other_tags_that_do_not_matter(tmp_path):
    path = tmp_path / "a.tif"
    write(path, irregular=lambda n: {"description": "x" * n} if n % 7 == 3 else {})
    assert bulk(path).is_known.all()
    assert_like_tifffile(path)


@pytest.mark.parametrize(
    "change",
    [
        {"compression": "lzw"},
        {"predictor": True},
        {"rowsperstrip": 8},
    ],
)
def test_pages_that_decode_differently_are_not_taken_for_alike(tmp_path, change):
    path = tmp_path / "a.tif"
    write(path, irregular=lambda n: change if n == 50 else {})
    known = bulk(path).is_known
    assert not known[50]
    assert known.sum() == N - 1


def test_one_page_stored_otherwise_still_gives_its_pixels(tmp_path):
    path = tmp_path / "a.tif"
    images = write(
        path, irregular=lambda n: {"extratags": [(266, 3, 1, 1, True)]} if n == 9 else {}
    )
    store = tiffref.imread(path, aszarr=True)
    np.testing.assert_array_equal(store[:], images)


def test_short_chains_and_loops_are_left_to_the_parser(tmp_path):
    path = tmp_path / "a.tif"
    write(path, n=3)
    assert bulk(path) is None
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        last = tif.pages[-1].offset
        first = tif.pages.first.offset
    n_entries = int.from_bytes(raw[last : last + 2], "little")
    at = last + 2 + 12 * n_entries
    raw[at : at + 4] = first.to_bytes(4, "little")
    path.write_bytes(raw)
    assert bulk(path) is None


def test_frames_are_not_read_one_by_one(tmp_path, monkeypatch):
    """tifffile asks the file for a handful of reads, however many pages there are."""
    path = tmp_path / "a.tif"
    write(path)
    n_reads = []
    read = tifffile.FileHandle.read

    def counted(self, *args):
        n_reads.append(1)
        return read(self, *args)

    monkeypatch.setattr(tifffile.FileHandle, "read", counted)
    with open_tiff(path) as tiff:
        facts = tiff.facts()
    assert facts.series[0].levels[0].offset.shape[0] == N
    assert len(n_reads) < N


class CountedFile(io.BytesIO):
    """Counts how often it is read."""

    n_reads = 0

    def read(self, size=-1):
        self.n_reads += 1
        return super().read(size)


def test_pages_that_lie_one_after_the_other_are_not_walked_along(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, rng.integers(0, 9, (500, 8, 8), "u2"), imagej=True)
    file = CountedFile(path.read_bytes())
    array = tiffref.scan(file).group["image"]
    assert array.shape == (500, 8, 8)
    assert file.n_reads < 200


UNUSED = 32996


def with_depths(path, byteorder="<"):
    """Make ImageDepth of an unused tag: tifffile writes none itself."""
    unused, depth = (struct.pack(f"{byteorder}HH", code, 4) for code in (UNUSED, 32997))
    assert unused in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(unused, depth))


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
def test_rare_directories_are_found_by_columns_as_one_by_one(
    tmp_path, monkeypatch, byteorder, bigtiff
):
    path = tmp_path / "rare.tif"
    depth = (UNUSED, "I", 1, 1, True)

    def irregular(i):
        return {"description": "d"} if i % 7 == 2 else {"extratags": [depth]} if i == 50 else {}

    write(path, byteorder=byteorder, bigtiff=bigtiff, irregular=irregular)
    with tifffile.TiffWriter(path, append=True) as tif:
        for i in range(3):
            tif.write(np.zeros((8, 8), "u1"), subifds=i % 2, metadata=None)
            for _ in range(i % 2):
                tif.write(np.zeros((4, 4), "u1"), subfiletype=1, metadata=None)
    with_depths(path, byteorder)
    data = path.read_bytes()
    header = parse_header(data[:16])
    found = follow_chain(LocalSource(path), header)
    rare = chain._find_rare_among_many(data, header, found)
    assert rare == [50, N + 1]
    assert set(rare) <= set(chain._find_rare(data, header, found))
    monkeypatch.setattr(chain, "_MANY", 1)
    assert follow_chain(LocalSource(path), header) == found


def test_a_depth_of_many_numbers_is_refused_among_many_pages(tmp_path):
    path = tmp_path / "depths.tif"
    depths = (UNUSED, "I", 2, (1, 1), True)
    write(path, n=300, irregular=lambda i: {"extratags": [depths]} if i == 299 else {})
    with_depths(path)
    with pytest.raises(TiffrefError, match="whole number"):
        tiffref.scan(path)


@pytest.mark.parametrize("was_enabled", [True, False])
def test_the_collector_of_garbage_is_left_as_it_was(tmp_path, was_enabled):
    images = write(tmp_path / "a.tif")
    try:
        if not was_enabled:
            gc.disable()
        assert tiffref.scan(tmp_path / "a.tif").group["image"].shape == images.shape
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()
