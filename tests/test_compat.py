"""Code written for tifffile runs with `import tiffref as tifffile`: the contract's examples."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import fsspec
import numpy as np
import pytest
import tifffile as original

import tiffref as tifffile
import zarr
from tiffref.zarr import ZarrFileSequenceStore, ZarrStore, ZarrTiffStore

STACK = np.random.default_rng(1).integers(0, 60000, (5, 150, 160)).astype("u2")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files that the examples name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    tiles = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}
    original.imwrite("huge.tif", STACK, **tiles)
    original.imwrite("plain.tif", STACK)
    for i in range(3):
        original.imwrite(f"img00{i + 1}.tif", STACK[i])
        original.imwrite(f"timeseries_{i + 9}.tif", STACK[i])
    with original.TiffWriter("pyramid.tif") as writer:
        writer.write(STACK[0], subifds=2, **tiles)
        writer.write(STACK[0, ::2, ::2], subfiletype=1, **tiles)
        writer.write(STACK[0, ::4, ::4], subfiletype=1, **tiles)


def test_a_sequence_reads_by_its_own_function() -> None:
    def read(name: str, offset: int = 1) -> np.ndarray:
        return original.imread(name) + np.uint16(offset)

    for arguments, offset in (({}, 1), ({"imreadargs": {"offset": 2}}, 2)):
        store = tifffile.TiffSequence("timeseries_*.tif", imread=read).aszarr(**arguments)
        np.testing.assert_array_equal(store[:], STACK[:3] + offset)
    store = ZarrFileSequenceStore(original.TiffSequence("timeseries_*.tif", imread=read))
    np.testing.assert_array_equal(store[1, :9], STACK[1, :9] + 1)


def test_a_function_does_not_read_in_an_archive() -> None:
    with zipfile.ZipFile("files.zip", "w") as archive:
        archive.write("plain.tif")
    with (
        original.TiffSequence("*.tif", container="files.zip", imread=np.load) as sequence,
        pytest.raises(ValueError, match="cannot read an archive by a function"),
    ):
        ZarrFileSequenceStore(sequence)
    with original.TiffSequence("*.tif", container="files.zip") as sequence:
        np.testing.assert_array_equal(ZarrFileSequenceStore(sequence)[0], STACK)


def test_arguments_of_tifffile_for_sequences(tmp_path: Path) -> None:
    original.imwrite("pages_0.tif", STACK, metadata=None)
    sequence = tifffile.TiffSequence("pages_*.tif")
    store = sequence.aszarr(imreadargs={"key": 3}, mode="r", imread=None)
    np.testing.assert_array_equal(store[0], STACK[3])
    assert (store.dims, store.shape) == (("i", "y", "x"), (1, 150, 160))
    for given in (store, ZarrTiffStore("huge.tif")):
        given.write_fsspec("a.json", "", codec_id="imagecodecs_tiff", compressors={8: None})
        given.write_fsspec("b.json", "", quote=True)
        assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_imread_as_zarr() -> None:
    store = tifffile.imread("huge.tif", aszarr=True)
    assert isinstance(store, ZarrTiffStore)
    z = zarr.open(store, mode="r")
    assert (z.shape, z.dtype) == (STACK.shape, STACK.dtype)
    np.testing.assert_array_equal(z[:, 100, 100], STACK[:, 100, 100])
    for function in (np.mean, np.max, np.std):
        np.testing.assert_array_equal(function(z, axis=0), function(STACK, axis=0))
    means = [z[t, 10:20, 10:20].mean() for t in range(z.shape[0])]
    assert means == [STACK[t, 10:20, 10:20].mean() for t in range(5)]
    assert tifffile.imread("huge.tif", return_as="zarr") == store


def test_lists_and_globs() -> None:
    names = ["img001.tif", "img002.tif", "img003.tif"]
    store = tifffile.imread(names, aszarr=True)
    assert isinstance(store, ZarrFileSequenceStore)
    assert store.shape == (3, 150, 160)
    np.testing.assert_array_equal(store[:], STACK[:3])
    store = tifffile.imread("timeseries_*.tif", aszarr=True)
    assert [Path(name).name for name in store.files] == [f"timeseries_{i}.tif" for i in (9, 10, 11)]
    np.testing.assert_array_equal(zarr.open(store, mode="r")[:], STACK[:3])
    assert tifffile.imread(["huge.tif"], aszarr=True).shape == STACK.shape


@pytest.mark.parametrize(
    ("names", "container"),
    [("hug?.tif", None), ("img00?.tif", None), (["img001.tif"], None),
     (None, "one.zip"), ("img001.tif", "one.zip"), (["img001.tif"], "one.zip")],
)  # fmt: skip
def test_one_file_of_several(names: Any, container: str | None) -> None:
    with zipfile.ZipFile("one.zip", "w") as archive:
        archive.write("img001.tif")
    expected = original.imread(names, container=container)
    np.testing.assert_array_equal(tifffile.imread(names, container=container), expected)
    store = tifffile.imread(names, container=container, aszarr=True, sort=True, out_inplace=True)
    np.testing.assert_array_equal(store[...], expected, strict=True)


def test_an_axis_of_one_file_that_was_asked_for() -> None:
    for names in ("*g001.tif", ["img001.tif"]):
        store = tifffile.imread(names, pattern=r"img(?P<t>\d+)", aszarr=True)
        assert (store.dims, store.shape) == (("t", "y", "x"), (1, 150, 160))
    assert tifffile.imread("hu{t}e.tif", aszarr=True).dims == ("t", "q", "y", "x")


def test_read_into_an_array() -> None:
    for name in ("huge.tif", f"file://{Path.cwd()}/huge.tif"):
        out = np.zeros_like(STACK)
        assert np.shares_memory(tifffile.imread(name, out=out), out)
        np.testing.assert_array_equal(out, STACK)
        part = np.zeros((2, 160), "u2")
        assert tifffile.imread(name, selection=(slice(2), 3), out=part) is part
        np.testing.assert_array_equal(part, STACK[:2, 3])


def test_windows() -> None:
    def process(path: str) -> Iterator[np.ndarray]:
        with tifffile.imread(path, key=0, aszarr=True) as store:
            height, width = store.shape
            for y in range(0, height, 64):
                for x in range(0, width, 64):
                    yield store[y : min(y + 64, height), x : min(x + 64, width)]

    parts = list(process("huge.tif"))
    assert len(parts) == 9
    np.testing.assert_array_equal(parts[4], STACK[0, 64:128, 64:128])


def test_pages_and_series() -> None:
    with tifffile.TiffFile("pyramid.tif") as tif:
        series, page = tif.series[0], tif.pages[0]
        parts = [series, page, *series.levels, *page.pages]
        stores = [part.aszarr(maxworkers=2) for part in parts]
        stores.append(series.aszarr(level=2, chunkmode="page"))
        parts.append(series.levels[2])
        for store, part in zip(stores, parts, strict=True):
            assert isinstance(store, ZarrTiffStore)
            np.testing.assert_array_equal(store[...], part.asarray())
    with tifffile.TiffFile("plain.tif") as tif:
        assert len(tif.series[0].pages) == 5  # frames, not pages
        np.testing.assert_array_equal(tif.series[0].pages[3].aszarr()[...], STACK[3])


def test_files_opened_by_tifffile_stay_open() -> None:
    with original.TiffFile("plain.tif") as tif:
        for part in (tif, tif.pages[0], tif.series[0]):
            with part.aszarr() as store:
                assert not isinstance(store, ZarrStore)


def test_levels() -> None:
    with tifffile.TiffFile("pyramid.tif") as tif:
        shapes = [tif.aszarr(level=i).shape for i in range(3)]
        np.testing.assert_array_equal(da.from_zarr(tif.aszarr()).compute(), STACK[0])
    assert shapes == [(150, 160), (75, 80), (38, 40)]


@pytest.mark.parametrize("path", ["huge.tif", "plain.tif"])
def test_store_outlives_its_file(path: str) -> None:
    def open_store() -> ZarrTiffStore:
        with tifffile.TiffFile(path) as tif:
            return tif.aszarr()

    store = open_store()
    np.testing.assert_array_equal(store[:], STACK)
    np.testing.assert_array_equal(da.from_zarr(store).sum().compute(), STACK.sum(dtype="u8"))


def test_a_file_of_another_file_system() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/image.tif", Path("huge.tif").read_bytes())
    with fs.open("memory://bucket/image.tif") as f, tifffile.TiffFile(f) as tif:
        store = tif.aszarr()
        target = zarr.create_array(
            zarr.storage.MemoryStore(), shape=store.shape, chunks=store.chunks, dtype=store.dtype
        )
        target[:] = store[:]
    np.testing.assert_array_equal(target[:], STACK)
    store = tifffile.imread("memory://bucket/image.tif", aszarr=True, storage_options={})
    np.testing.assert_array_equal(store[2], STACK[2])
    np.testing.assert_array_equal(tifffile.imread("memory://bucket/image.tif"), STACK)


def test_an_open_file_works_while_it_is_open() -> None:
    file = io.BytesIO(Path("huge.tif").read_bytes())
    with tifffile.TiffFile(file) as tif:
        store = tif.aszarr()
        np.testing.assert_array_equal(store[:], STACK)
    file.close()
    with pytest.raises(OSError, match="cannot be read"):
        store[:]


def test_chunk_modes() -> None:
    with tifffile.TiffFile("huge.tif") as tif:
        for mode, chunks in (
            (tifffile.CHUNKMODE.PAGE, (1, 150, 160)),
            (tifffile.CHUNKMODE.FRAME, (1, 150, 160)),
            (tifffile.CHUNKMODE.TILE, (1, 64, 64)),
            (original.CHUNKMODE.PAGE, (1, 150, 160)),
            ("tile", (1, 64, 64)),
        ):
            assert tif.aszarr(chunkmode=mode).chunks == chunks
    assert tifffile.imread("huge.tif", aszarr=True, chunkmode="tile").chunks == (1, 64, 64)
    for mode in original.CHUNKMODE:
        assert tifffile.CHUNKMODE[mode.name] == mode


def test_sequence_in_pages_with_workers() -> None:
    store = tifffile.imread("timeseries_*.tif", aszarr=True, maxworkers=4, chunkmode="page")
    array = da.from_zarr(store)
    assert array.chunksize == (1, 150, 160)
    result = array.map_blocks(lambda block: block // 2, dtype=array.dtype).compute()
    np.testing.assert_array_equal(result, STACK[:3] // 2)


def test_memmap_beside_a_store() -> None:
    mapped = tifffile.memmap("plain.tif")
    store = tifffile.imread("plain.tif", aszarr=True)
    assert da.from_zarr(store).sum().compute() == mapped.sum()


def test_chunk_sizes_from_a_store() -> None:
    store = tifffile.imread("huge.tif", aszarr=True)
    n_bytes = store.dtype.itemsize
    for n in store.shape:
        n_bytes *= n
    assert n_bytes == STACK.nbytes


def test_errors_are_of_the_kinds_that_code_catches() -> None:
    store = tifffile.imread("huge.tif", aszarr=True)
    with pytest.raises(ValueError, match="out of range"):
        store[9]
    os.truncate("huge.tif", 5000)
    with pytest.raises(IOError, match=r"huge\.tif"):
        store[0]


def test_base_class() -> None:
    with ZarrStore() as store:
        assert store.mode == "r"
    store.close()


# ---- the rest of tifffile's arguments


def test_without_aszarr_tifffile_reads() -> None:
    np.testing.assert_array_equal(tifffile.imread("huge.tif", key=1), STACK[1])
    np.testing.assert_array_equal(tifffile.imread("timeseries_*.tif", maxworkers=2), STACK[:3])
    with tifffile.TiffFile("huge.tif") as tif:
        assert isinstance(tif, original.TiffFile)
        np.testing.assert_array_equal(tif.asarray(key=2), STACK[2])


def test_selection_reads_a_region() -> None:
    selection = (slice(1, 3), 5)
    result = tifffile.imread("huge.tif", selection=selection)
    np.testing.assert_array_equal(result, STACK[selection])


def test_file_inside_another() -> None:
    data = Path("huge.tif").read_bytes()
    Path("holder.bin").write_bytes(bytes(1000) + data)
    store = tifffile.imread("holder.bin", aszarr=True, offset=1000, size=len(data))
    np.testing.assert_array_equal(store[:], STACK)


def test_series_object_and_pages() -> None:
    with tifffile.TiffFile("huge.tif") as tif:
        np.testing.assert_array_equal(tif.aszarr(series=tif.series[0])[:], STACK)
        np.testing.assert_array_equal(tif.aszarr(key=[0, 3])[:], STACK[[0, 3]])


@pytest.mark.parametrize("url", [None, "https://example.org/"])
def test_files_without_a_name_have_no_references(tmp_path: Path, url: str | None) -> None:
    file = io.BytesIO(Path("huge.tif").read_bytes())
    with tifffile.TiffFile(file) as tif:
        for source in (file, tif):
            references = tifffile.scan(source)
            with pytest.raises(tifffile.ManifestMismatch, match="without a name"):
                references.write_fsspec(tmp_path / "refs.json", url=url)
            with pytest.raises(tifffile.ManifestMismatch, match="without a name"):
                references.to_kerchunk(url=url)
            with pytest.raises(tifffile.ManifestMismatch, match="without a name"):
                ZarrTiffStore(source).write_fsspec(tmp_path / "refs.json", url=url)
            np.testing.assert_array_equal(ZarrTiffStore(references)[:0].shape, (0, 150, 160))
    assert not (tmp_path / "refs.json").exists()


def test_sequences_and_writers() -> None:
    with tifffile.TiffSequence("timeseries_*.tif") as files:
        store = files.aszarr(maxworkers=2)
        assert isinstance(store, ZarrFileSequenceStore)
        np.testing.assert_array_equal(store[:], STACK[:3])
        np.testing.assert_array_equal(store[:], files.asarray())
    with tifffile.TiffSequence("img*.tif", pattern=r"(g)(\d+)") as files:
        np.testing.assert_array_equal(files.aszarr()[:], STACK[:3])
    tifffile.imwrite("new.tif", STACK[0])
    with tifffile.TiffWriter("new.tif", append=True) as writer:
        writer.write(STACK[1])
    np.testing.assert_array_equal(tifffile.imread("new.tif", key=1, aszarr=True)[:], STACK[1])


def test_files_in_an_archive() -> None:
    with zipfile.ZipFile("files.zip", "w") as archive:
        for n in range(3):
            archive.write(f"img00{3 - n}.tif", f"img00{n + 1}.tif")  # others lie beside it
    reverse = STACK[2::-1]
    names = ["img001.tif", "img002.tif", "img003.tif"]
    for files in (None, "img*.tif", names):
        np.testing.assert_array_equal(
            tifffile.imread(files, container="files.zip", aszarr=True)[:], reverse
        )
        with tifffile.TiffSequence(files, container="files.zip") as sequence:
            np.testing.assert_array_equal(sequence.aszarr()[:], reverse)
    single = tifffile.imread(names[0], container="files.zip", aszarr=True)
    assert single.shape[-2:] == STACK.shape[1:]


def test_arguments_of_readers() -> None:
    options = {"imreadargs": {"key": 1}, "aszarr": True, "squeeze": True, "chunkshape": (150, 160)}
    original.imwrite("again.tif", STACK[::-1])
    for reader in (None, original.imread):
        store = tifffile.imread(["plain.tif", "again.tif"], imread=reader, **options)
        np.testing.assert_array_equal(store[:], STACK[[1, 3]])


@pytest.mark.parametrize(
    "argument",
    [
        {"squeeze": False},
        {"kind": "shaped"},
        {"sort": False},
        {"axestiled": {0: 0}},
        {"dimension_names": ["a", "b", "c"]},
        {"out": np.zeros_like(STACK)},
    ],
    ids=lambda argument: next(iter(argument)),
)
@pytest.mark.parametrize("names", ["plain.tif", "img*.tif"])
def test_arguments_that_stores_do_not_take_are_named(names: str, argument: dict[str, Any]) -> None:
    (name,) = argument
    with pytest.raises(tifffile.TiffrefError, match=name) as caught:
        tifffile.imread(names, aszarr=True, **argument)
    assert isinstance(caught.value, ValueError)
    assert caught.value.hint
    with tifffile.TiffFile("plain.tif") as tif:
        for part in (tif, tif.series[0], tif.pages[0]):
            with pytest.raises(tifffile.TiffrefError, match=name):
                part.aszarr(**argument)


@pytest.mark.parametrize("options", [{}, {"aszarr": True}, {"selection": 0}], ids=str)
@pytest.mark.parametrize("names", ["plain.tif", "img*.tif"])
def test_misspelled_arguments_name_the_nearest(names: str, options: dict[str, Any]) -> None:
    says = r"imread\(\) has no argument 'squeese'. Did you mean squeeze[?] .*help\(tiffref.imread\)"
    with pytest.raises(tifffile.UnknownArgument, match=says) as caught:
        tifffile.imread(names, squeese=True, **options)
    assert isinstance(caught.value, TypeError)
    assert tifffile.imread("plain.tif", is_ome=False).shape == STACK.shape


@pytest.mark.parametrize("names", ["img*.tif", ["img001.tif", "img002.tif"]])
def test_sequences_take_arguments_for_opening_a_file(names: Any) -> None:
    expected = tifffile.imread(names)
    for options in ({"name": "x"}, {"is_shaped": False}, {"_multifile": False, "series": 0}):
        with tifffile.imread(names, aszarr=True, **options) as store:
            np.testing.assert_array_equal(store[...], expected)
    for option in ({"offset": 8}, {"size": 100}, {"omexml": "<OME/>"}, {"superres": 1}):
        with pytest.raises(tifffile.SelectionError, match="applies to a single file"):
            tifffile.imread(names, aszarr=True, **option)


@pytest.mark.parametrize("name", ["scan", "ZarrTiffStore", "ZarrFileSequenceStore"])
def test_misspelled_options_of_scans_and_stores(name: str) -> None:
    call: Any = getattr(tifffile, name, None) or getattr(tifffile.zarr, name)
    page = "tiffref.sequences.stack.SequenceOptions" if "Sequence" in name else call.__name__
    with pytest.raises(tifffile.UnknownArgument, match=rf"{name}.. has no argument") as caught:
        call("plain.tif", levle=1)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Did you mean level? All are listed by help(tiffref.")
    assert page in caught.value.hint
