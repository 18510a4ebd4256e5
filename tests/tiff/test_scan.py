"""`scan` on files of every layout: the references read back equal what tifffile reads."""

import gc
import io
import itertools
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import tifffile
from samples import rng

import tiffref
import zarr
from tiffref.errors import MalformedTiff, MetadataWarning, SelectionError, SourceError
from tiffref.references import References
from tiffref.tiff.scan import selection_of
from tiffref.zarr import ZarrTiffStore


def open_group(references, zarr_format=2):
    """Open references in zarr, through fsspec, as any user would."""
    options = {
        "fo": references.to_kerchunk(zarr_format=zarr_format),
        "remote_protocol": "file",
        "asynchronous": True,
        "remote_options": {"asynchronous": True},
    }
    return zarr.open_group(
        "reference://", mode="r", storage_options=options, zarr_format=zarr_format
    )


def assert_all_levels_equal(path, references, zarr_format=2):
    group = open_group(references, zarr_format)
    n_arrays = 0
    for i, series in enumerate(references.series):
        for j, level in enumerate(series["levels"]):
            expected = tifffile.imread(path, series=i, level=j)
            got = group[level["path"]][...]
            assert got.dtype.newbyteorder("=") == expected.dtype
            np.testing.assert_array_equal(got, expected)
            n_arrays += 1
    assert n_arrays


LAYOUTS = {
    "strips": {"rowsperstrip": 16},
    "one strip": {"rowsperstrip": 1000},
    "tiles": {"tile": (32, 48)},
}
STORAGE = {
    "none": {},
    "deflate": {"compression": "zlib"},
    "deflate predictor": {"compression": "zlib", "predictor": True},
    "zstd": {"compression": "zstd"},
    "lzma": {"compression": "lzma"},
    "lzw": {"compression": "lzw"},
    "lzw predictor": {"compression": "lzw", "predictor": True},
    "packbits": {"compression": "packbits"},
}
SAMPLES = {
    "gray u1": ((101, 90), "u1", {}),
    "gray u2": ((101, 90), "u2", {}),
    "gray i4": ((64, 90), "i4", {}),
    "gray f4": ((101, 90), "f4", {}),
    "rgb u1": ((101, 90, 3), "u1", {"photometric": "rgb"}),
    "planar u2": ((3, 101, 90), "u2", {"photometric": "rgb", "planarconfig": "separate"}),
    "stack u2": ((5, 101, 90), "u2", {"photometric": "minisblack"}),
}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("layout", "storage", "samples"), list(itertools.product(LAYOUTS, STORAGE, SAMPLES))
)
def test_pixels_of_every_layout_compression_and_type(tmp_path, layout, storage, samples, byteorder):
    shape, dtype, how = SAMPLES[samples]
    data = (rng.random(shape) * 200).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, byteorder=byteorder, **LAYOUTS[layout], **STORAGE[storage], **how)
    references = tiffref.scan(path)
    for zarr_format in (2, 3):
        assert_all_levels_equal(path, references, zarr_format)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("by", ["subifds", "pages"])
def test_pyramids_by_sub_ifds_and_by_subfile_type(tmp_path, by, bigtiff):
    data = rng.integers(0, 4000, (300, 200), "u2")
    path = tmp_path / "a.tif"
    how = {"tile": (64, 64), "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tif:
        tif.write(data, subifds=2 if by == "subifds" else None, metadata=None, **how)
        tif.write(data[::2, ::2], subfiletype=1, metadata=None, **how)
        tif.write(data[::4, ::4], subfiletype=1, metadata=None, **how)
    references = tiffref.scan(path)
    assert [level["path"] for level in references.series[0]["levels"]] == [
        "image", "image_1", "image_2",
    ]  # fmt: skip
    assert_all_levels_equal(path, references)
    one = tiffref.scan(path, level=1)
    np.testing.assert_array_equal(open_group(one)["image"][...], data[::2, ::2])


def test_sparse_segments_read_as_fill(tmp_path):
    path = tmp_path / "a.tif"
    data = rng.integers(1, 200, (32, 48), "u1")
    tifffile.imwrite(path, data, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for code in (324, 325):
            values = list(tif.pages.first.tags[code].value)
            tif.pages.first.tags[code].overwrite([*values[:2], 0, 0, *values[4:]])
    references = tiffref.scan(path)
    assert references.group["image"].manifest.is_missing.tolist() == [0, 0, 1, 1, 0, 0]
    assert_all_levels_equal(path, references)


def test_contiguous_strips_and_pages_are_merged(tmp_path):
    path = tmp_path / "a.tif"
    data = rng.integers(0, 4000, (50, 64, 64), "u2")
    tifffile.imwrite(path, data, rowsperstrip=8, photometric="minisblack")
    merged = tiffref.scan(path).group["image"]
    assert merged.chunks == (50, 64, 64)
    native = tiffref.scan(path, chunkmode="strile").group["image"]
    assert native.chunks == (1, 8, 64)
    assert native.manifest.n_chunks == 400
    assert_all_levels_equal(path, tiffref.scan(path, chunkmode="strile"))


@pytest.mark.parametrize("n_pages", [1, 2, 3])
def test_a_last_chunk_never_reads_past_the_end_of_the_file(tmp_path, n_pages):
    # 2609 is prime: no chunk of several rows divides it
    data = rng.integers(0, 255, (n_pages, 2609, 5000), "u1")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, photometric="minisblack", metadata=None, rowsperstrip=3)
    references = tiffref.scan(path)
    manifest = references.group["image"].manifest
    assert int((manifest.offset + manifest.length).max()) <= path.stat().st_size
    assert_all_levels_equal(path, references)


@pytest.mark.parametrize(
    ("compression", "predictor", "dtype"),
    [("zlib", False, "u2"), ("zstd", False, "u2"), (None, False, "u2"), ("zlib", True, ">i4"),
     ("zstd", True, ">f4"), ("packbits", False, "u1")],
)  # fmt: skip
def test_a_partial_last_strip_stays_portable(tmp_path, compression, predictor, dtype):
    path = tmp_path / "a.tif"
    data = rng.integers(0, 250, (1100, 300)).astype(dtype)
    how = {"compression": compression, "predictor": predictor, "byteorder": dtype[0].strip("u<")}
    tifffile.imwrite(path, data, rowsperstrip=64, **{k: v for k, v in how.items() if v})
    document = tiffref.scan(path).to_kerchunk()
    assert "tiffref_segment" not in document["refs"]["image/.zarray"]
    assert_all_levels_equal(path, tiffref.scan(path))


def test_imagej_hyperstack_behind_one_directory(tmp_path):
    path = tmp_path / "a.tif"
    data = rng.integers(0, 4000, (5, 3, 64, 60), "u2")
    tifffile.imwrite(path, data, imagej=True, metadata={"axes": "TCYX"})
    references = tiffref.scan(path)
    assert references.group["image"].dims == ("t", "c", "y", "x")
    assert_all_levels_equal(path, references)


def test_series_of_different_kinds_are_separate_variables(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.ones((32, 32), "u2"), metadata=None)
        tif.write(np.full((3, 40, 50), 2, "u1"), photometric="rgb", planarconfig=2, metadata=None)
    references = tiffref.scan(path)
    assert list(references.group.children) == ["image", "image_s1"]
    assert references.group["image_s1"].dims == ("s_s1", "y_s1", "x_s1")
    assert_all_levels_equal(path, references)
    assert list(tiffref.scan(path, series=1).group.children) == ["image"]


def test_planes_of_one_directory_by_key(tmp_path):
    path = tmp_path / "a.tif"
    data = rng.integers(0, 4000, (6, 32, 30), "u2")
    tifffile.imwrite(path, data, imagej=True)
    for key in (0, 2, -1, slice(1, 4), [5, 0]):
        image = open_group(tiffref.scan(path, series=0, key=key))["image"][...]
        np.testing.assert_array_equal(image, data[key])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_planes_of_a_level_by_key(tmp_path, byteorder, zarr_format):
    path = tmp_path / "a.ome.tif"
    data = rng.integers(0, 4000, (3, 96, 80), "u2")
    how = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        tif.write(data[0] * 2, **how)
        tif.write(data, subifds=2, metadata={"axes": "CYX", "PhysicalSizeX": 2.0}, **how)
        tif.write(data[:, ::2, ::2], subfiletype=1, **how)
        tif.write(data[:, ::4, ::4], subfiletype=1, **how)
    for level in (None, 0, 1, -1):
        for key in (0, -1, [2, 0], slice(1, None)):
            references = tiffref.scan(path, series=1, key=key, level=level)
            document = tmp_path / "a.json"
            references.write_fsspec(document, zarr_format=zarr_format)
            (name,) = (name for name, array in references.group.arrays() if len(array.shape) > 1)
            image = open_group(References.open(document), zarr_format)[name][...]
            expected = tifffile.imread(path, series=1, key=key, level=level)
            np.testing.assert_array_equal(image, expected)
            report = tiffref.validate(document, pixels="all")
            assert report.ok, report.findings
            assert report.n_chunks_compared == references.group[name].manifest.n_chunks
            again = tiffref.scan(path, **selection_of(References.open(document).series))
            assert again.group[name].manifest == references.group[name].manifest
    with pytest.raises(SelectionError, match="level 3 does not exist: the file has levels 0 to 2"):
        tiffref.scan(path, series=1, key=0, level=3)


def test_pages_by_key(tmp_path):
    path = tmp_path / "a.tif"
    data = rng.integers(0, 4000, (6, 32, 30), "u2")
    tifffile.imwrite(path, data, photometric="minisblack", compression="zlib")
    for key in (2, slice(1, 4), [5, 0]):
        image = open_group(tiffref.scan(path, key=key))["image"][...]
        np.testing.assert_array_equal(image, tifffile.imread(path, key=key))
    with pytest.raises(SelectionError, match="page 9 does not exist"):
        tiffref.scan(path, key=9)


@pytest.mark.parametrize("kind", [2, 128])
def test_md_gel_samples_are_calibrated(tmp_path, kind):
    path = tmp_path / "a.gel"
    data = rng.integers(0, 60000, (70, 60), "u2")
    tags = [(33445, 4, 1, kind, True), (33446, 5, 1, (1, 21025), True)]
    tifffile.imwrite(path, data, extratags=tags, metadata=None, rowsperstrip=32)
    references = tiffref.scan(path)
    assert references.series[0]["kind"] == "mdgel"
    with tifffile.TiffFile(path) as tif:
        expected = tif.series[0].asarray()  # imread leaves the stored samples
    for zarr_format in (2, 3):
        got = open_group(references, zarr_format)["image"][...]
        assert got.dtype == expected.dtype == "float32"
        np.testing.assert_array_equal(got, expected)


def test_pages_with_tables_of_their_own(tmp_path):
    """Abbreviated JPEG streams whose tables differ from page to page."""
    imagecodecs = pytest.importorskip("imagecodecs")
    path = tmp_path / "a.tif"
    image = (rng.random((3, 64, 64)) * 255).astype("u1")
    with tifffile.TiffWriter(path) as tif:
        for level, page in zip((50, 95, 95), image, strict=True):
            stream = imagecodecs.jpeg8_encode(page, level=level)
            tables, scan = _split_jpeg(stream)
            tif.write(
                iter([scan]), shape=page.shape, dtype="u1", compression="jpeg", rowsperstrip=64,
                jpegtables=tables, metadata=None, photometric="minisblack",
            )  # fmt: skip
    references = tiffref.scan(path)
    expected = np.stack([tifffile.imread(path, key=n) for n in range(3)])
    np.testing.assert_array_equal(open_group(references)["image"][...], expected)
    assert len(references.group["image"].manifest.inlined) == 1


def _split_jpeg(stream):
    """Move the tables of a JPEG stream into a stream of their own."""
    tables, rest, at = b"\xff\xd8", b"\xff\xd8", 2
    while stream[at + 1] != 0xDA:
        size = 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        part = stream[at : at + size]
        if stream[at + 1] in (0xDB, 0xC4):
            tables += part
        else:
            rest += part
        at += size
    return tables + b"\xff\xd9", rest + stream[at:]


def test_paths_urls_bytes_and_open_files(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = tmp_path / "a.tif"
    data = rng.integers(0, 4000, (64, 60), "u2")
    tifffile.imwrite(path, data, compression="zlib")
    raw = path.read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe("/folder/a.tif", raw)
    expected = tiffref.scan(path).group["image"].manifest
    with tifffile.TiffFile(path) as tif, path.open("rb") as file:
        sources = [
            str(path), f"file://{path}", "memory://folder/a.tif", fsspec.open(f"file://{path}"),
            memory.open("/folder/a.tif"), io.BytesIO(raw), file, tif, tif.pages.first,
            tif.series[0],
        ]  # fmt: skip
        for source in sources:
            manifest = tiffref.scan(source).group["image"].manifest
            np.testing.assert_array_equal(manifest.offset, expected.offset)
            np.testing.assert_array_equal(manifest.length, expected.length)


def test_a_tiff_inside_a_larger_file(tmp_path):
    path = tmp_path / "a.bin"
    data = rng.integers(0, 4000, (64, 60), "u2")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, data, compression="zlib")
    path.write_bytes(b"\0" * 1000 + buffer.getvalue())
    with path.open("rb") as file:
        file.seek(1000)
        with tifffile.TiffFile(file, offset=1000) as tif:
            references = tiffref.scan(tif)
    np.testing.assert_array_equal(open_group(references)["image"][...], data)


@pytest.mark.parametrize(
    "text",
    [
        "ImageJ=1.54f\nimages=5\nframes=3\n",
        "ImageJ=1.54f\nimages=5\nslices=abc\n",
        '{"shape": [3, 16, 20]}',
    ],
)
def test_descriptions_that_do_not_fit_are_reported_of_an_open_file_too(tmp_path, text):
    planes = np.arange(5 * 16 * 20, dtype="u2").reshape(5, 16, 20)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for n, plane in enumerate(planes):
            tif.write(plane, description=text if n == 0 else None, metadata=None, contiguous=False)
    for strict in (False, True):
        with tifffile.TiffFile(tmp_path / "a.tif") as tif:
            if strict:
                with pytest.raises(MalformedTiff, match="description does not match"):
                    tiffref.scan(tif, strict=True)
            else:
                with pytest.warns(MetadataWarning, match="does not match"):
                    store = ZarrTiffStore(tif)
                np.testing.assert_array_equal(store[...], planes)


def test_many_tiles_create_no_object_each(tmp_path):
    import tracemalloc

    path = tmp_path / "a.tif"
    n = 400
    tile = np.zeros((16, 16), "u1")
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            itertools.repeat(tile, n * n), shape=(16 * n, 16 * n), dtype="u1", tile=(16, 16),
            compression="packbits", metadata=None,
        )  # fmt: skip
    tiffref.scan(path)  # what it imports does not count
    tracemalloc.start()
    references = tiffref.scan(path)
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    assert references.group["image"].manifest.n_chunks == n * n
    n_objects = sum(statistic.count for statistic in snapshot.statistics("filename"))
    assert n_objects < n * n / 8


class TestBadInput:
    def test_a_directory_is_an_error(self, tmp_path):
        with pytest.raises(SourceError, match="is a folder"):
            tiffref.scan(tmp_path)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(SourceError, match="no such file"):
            tiffref.scan(tmp_path / "no.tif")

    @pytest.mark.parametrize("data", [b"", b"II", b"not a TIFF at all", b"II*\0\0\0\0\0"])
    def test_a_file_that_is_not_a_tiff(self, tmp_path, data):
        path = tmp_path / "a.tif"
        path.write_bytes(data)
        with pytest.raises(MalformedTiff) as caught:
            tiffref.scan(path)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_a_truncated_file(self, tmp_path, compression):
        path = tmp_path / "a.tif"
        data = rng.integers(0, 4000, (640, 600), "u2")
        tifffile.imwrite(path, data, compression=compression, rowsperstrip=64)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])
        with pytest.raises(MalformedTiff, match=r"end of the file.*allow_holes=True"):
            tiffref.scan(path)

    def test_a_loop_of_directories(self, tmp_path):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.zeros((8, 8), "u1"), metadata=None)
        raw = bytearray(path.read_bytes())
        first = int.from_bytes(raw[4:8], "little")
        n = int.from_bytes(raw[first : first + 2], "little")
        raw[first + 2 + 12 * n : first + 6 + 12 * n] = raw[4:8]
        path.write_bytes(raw)
        with pytest.warns(tiffref.MetadataWarning, match="returns to an earlier one") as shown:
            references = tiffref.scan(path)
        assert {warning.filename for warning in shown} == {__file__}
        assert len(references.series) == 1
        with pytest.raises(MalformedTiff, match="returns to an earlier one"):
            tiffref.scan(path, strict=True)


def test_a_scan_depends_on_the_file_and_the_options_alone(tmp_path):
    """Files that are alike, and one that is alike but for a byte of a tag, in any order."""
    paths = [tmp_path / f"{n}.tif" for n in range(6)]
    for n, path in enumerate(paths):
        data = np.random.default_rng(n).integers(0, 99, (64, 64), np.uint16)
        how = {"tile": (32, 32), "compression": "zlib", "metadata": None}
        tifffile.imwrite(path, data, software="other" if n == 4 else "alike", **how)
    documents = [tiffref.scan(path).to_kerchunk() for path in paths]
    again = [tiffref.scan(path).to_kerchunk() for path in reversed(paths)]
    assert documents == again[::-1]
    alone = "import sys, json, tiffref; print(json.dumps(tiffref.scan(sys.argv[1]).to_kerchunk()))"
    run = [sys.executable, "-c", alone, str(paths[-1])]
    output = subprocess.run(run, capture_output=True, check=True, text=True).stdout
    assert json.loads(output) == documents[-1]


# ---- LZW


def lzw_tiles(path, data, encode):
    """Write tiles of 32 by 32 whose LZW streams are made by `encode`."""
    tiles = (
        encode(np.ascontiguousarray(data[y : y + 32, x : x + 32]).tobytes())
        for y in range(0, data.shape[0], 32)
        for x in range(0, data.shape[1], 32)
    )
    tifffile.imwrite(path, tiles, shape=data.shape, dtype=data.dtype, tile=(32, 32),
                     compression="lzw", photometric="minisblack", metadata=None)  # fmt: skip


def without_end_code(data):
    """Encode as writers do that leave out the end code: zeros behind it read as one byte more."""
    import imagecodecs

    stream = imagecodecs.lzw_encode(data)
    for cut in range(1, 5):
        found = stream[:-cut] + bytes(4)
        if len(imagecodecs.lzw_decode(found)) > len(data) and bytes(
            imagecodecs.lzw_decode(found, out=len(data))
        ) == bytes(data):
            return found
    raise AssertionError("no such stream")


def test_lzw_is_portable_if_all_probed_streams_end_exactly(tmp_path):
    import imagecodecs

    import zarr

    data = np.random.default_rng(3).integers(0, 200, (96, 64)).astype("u1")
    lzw_tiles(tmp_path / "a.tif", data, imagecodecs.lzw_encode)
    lzw_tiles(tmp_path / "b.tif", data, without_end_code)
    streams = iter([imagecodecs.lzw_encode, without_end_code] * 3)
    lzw_tiles(tmp_path / "c.tif", data, lambda tile: next(streams)(tile))
    for name, is_portable in (("a", True), ("b", False), ("c", False)):
        references = tiffref.scan(tmp_path / f"{name}.tif")
        for zarr_format in (2, 3):
            document = references.to_kerchunk(zarr_format)
            assert ("tiffref_segment" not in str(document["refs"])) == is_portable
            options = {"fo": document, "remote_protocol": "file", "asynchronous": True}
            options["remote_options"] = {"asynchronous": True}
            if zarr_format == 2:
                group = zarr.open_group("reference://", mode="r", storage_options=options)
                np.testing.assert_array_equal(group["image"][...], data)
    stack = tiffref.scan_sequence([str(tmp_path / "a.tif"), str(tmp_path / "b.tif")])
    assert len(stack.group["image"].codecs) == 1
    assert "tiffref_segment" in str(stack.to_kerchunk()["refs"])


def test_partial_strips_of_lzw_are_inlined(tmp_path):
    import tiffref.zarr

    data = np.random.default_rng(3).integers(0, 200, (100, 64)).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", data, compression="lzw", rowsperstrip=16)
    document = tiffref.scan(tmp_path / "a.tif").to_kerchunk()
    assert "tiffref_segment" not in str(document["refs"])
    assert isinstance(document["refs"]["image/6.0"], str)
    store = tiffref.zarr.ZarrTiffStore(document, allow="*")
    np.testing.assert_array_equal(store[...], data)


def test_reads_of_a_cog(tmp_path, monkeypatch):
    """Each directory is read once, and the file a few times."""
    rasterio = pytest.importorskip("rasterio")
    from tiffref.io.source import LocalSource
    from tiffref.tiff import ifd

    path = tmp_path / "cog.tif"
    profile = {"driver": "COG", "height": 1024, "width": 1024, "count": 1, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(path, "w", **profile, blocksize=256, compress="deflate") as dataset:
        dataset.write(np.random.default_rng(0).integers(0, 255, (1024, 1024), "u1"), 1)
    n_reads, readers = [], []
    read, close = LocalSource.read, ifd.TiffReader.close
    monkeypatch.setattr(LocalSource, "read", lambda *args: n_reads.append(1) or read(*args))
    monkeypatch.setattr(ifd.TiffReader, "close", lambda self: readers.append(self) or close(self))
    references = tiffref.scan(path)
    assert len(references.series[0]["levels"]) == 3
    assert [reader.n_reads for reader in readers] == [3]
    assert len(n_reads) <= 4


def test_calls_for_small_files_that_all_differ(tmp_path):
    """Archives are of many small files: what a scan of one takes is calls, not bytes."""
    paths = [tmp_path / f"{n}.tif" for n in range(6)]
    for n, path in enumerate(paths):
        with tifffile.TiffWriter(path) as tif:
            for step in (1, 2, 4):
                image = np.zeros(((400 + 7 * n) // step, (512 - 5 * n) // step), np.uint8)
                tif.write(
                    image, tile=(128, 128), subfiletype=int(step > 1), metadata=None,
                    compression="zlib", predictor=2,
                )  # fmt: skip
    tiffref.scan(paths[0])  # imports
    room = str(Path(tiffref.__file__).parent / "tiff")
    n_calls = 0

    def count(frame, event, arg):
        nonlocal n_calls
        n_calls += event == "call" and frame.f_code.co_filename.startswith(room)

    sys.setprofile(count)
    try:
        for path in paths[1:]:
            tiffref.scan(path)
    finally:
        sys.setprofile(None)
    assert 0 < n_calls / 5 < 600  # 592 on Python 3.11, 535 on 3.13


def test_the_file_is_closed_after_the_scan(tmp_path, monkeypatch):
    """Directories refer to their reader: no collector is waited for to free both."""
    from tiffref.tiff.ifd import TiffReader

    data = np.zeros((3, 20, 30), "u2")
    tifffile.imwrite(tmp_path / "a.tif", data, compression="zlib", photometric="minisblack")
    readers, close = [], TiffReader.close
    monkeypatch.setattr(
        TiffReader, "close", lambda self: readers.append(weakref.ref(self)) or close(self)
    )
    gc.disable()
    try:
        references = tiffref.scan(tmp_path / "a.tif")
        assert [reader() for reader in readers] == [None]
    finally:
        gc.enable()
    assert references.group["image"].shape == (3, 20, 30)


@pytest.mark.parametrize("n_missing", [1, 3072, 7000])
def test_a_stack_that_is_cut_off(tmp_path, n_missing):
    """Planes that are promised and not there: an error, or holes where they are asked for."""
    data = np.arange(24 * 32 * 48, dtype="u2").reshape(24, 32, 48)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, imagej=True)
    with tifffile.TiffFile(path) as tif:
        end = tif.pages[0].dataoffsets[0] + data.nbytes
    path.write_bytes(path.read_bytes()[: end - n_missing])
    n_lost = -(-n_missing // 3072)
    with pytest.raises(MalformedTiff, match="24 planes"):
        tiffref.scan(path)
    with pytest.warns(tiffref.TruncationWarning) as shown:
        references = tiffref.scan(path, allow_holes=True)
    assert {warning.filename for warning in shown} == {__file__}
    (level,) = references.series[0]["levels"]
    assert level["missing_pages"] == n_lost
    got = open_group(references)["image"][...]
    np.testing.assert_array_equal(got[: 24 - n_lost], data[: 24 - n_lost])
    first = open_group(tiffref.scan(path, key=0))["image"][...]  # a part that is whole
    np.testing.assert_array_equal(first, data[0])
