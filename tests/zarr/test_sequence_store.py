"""`ZarrFileSequenceStore`: rows 8, 9, 10, 13 and 22 of the contract, and files that are no TIFF."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import tifffile

import tiffref
import zarr
from sequences import pixels, write
from tiffref.errors import (
    ManifestMismatch,
    SelectionError,
    SourceError,
    UnknownArgument,
    UnsupportedTiff,
    UntrustedSource,
)
from tiffref.zarr import ZarrFileSequenceStore


@pytest.fixture
def images(tmp_path):
    data = [write(tmp_path / f"img{n:02}.tif", pixels(n)) for n in range(12)]
    return np.stack(data)


def test_progress_counts_files_that_a_function_reads(tmp_path, capsys, monkeypatch):
    for n in range(2):
        np.save(tmp_path / f"{n}.npy", pixels(n))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ZarrFileSequenceStore(f"{tmp_path}/*.npy", imread=np.load).read(progress=True)
    assert "1 of 2 files" in capsys.readouterr().err


def check(store, expected):
    """All ways to read a store give the same."""
    assert store.shape == expected.shape
    assert store.dtype == expected.dtype
    np.testing.assert_array_equal(store[:], expected)
    np.testing.assert_array_equal(store[1, ..., ::-3], expected[1, ..., ::-3])
    np.testing.assert_array_equal(store[-2:, ..., 5, 7:9], expected[-2:, ..., 5, 7:9])
    np.testing.assert_array_equal(zarr.open(store, mode="r")[:], expected)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again[-1], expected[-1])


def test_lists_and_globs(images, tmp_path):
    names = [tmp_path / f"img{n:02}.tif" for n in (3, 1, 2)]
    store = ZarrFileSequenceStore(names)
    check(store, images[[3, 1, 2]])
    assert store.files == [str(name) for name in names]
    assert store.mode == "r"
    store = ZarrFileSequenceStore(str(tmp_path / "img*.tif"))
    check(store, images)
    assert store.path == str(tmp_path / "img*.tif")


def test_imread_gives_the_store(images, tmp_path):
    names = [str(tmp_path / f"img{n:02}.tif") for n in range(3)]
    assert tiffref.imread(names, aszarr=True).shape == (3, 40, 48)
    store = tiffref.imread(str(tmp_path / "img*.tif"), aszarr=True, maxworkers=4, chunkmode="page")
    assert store.chunks == (1, 40, 48)
    check(store, images)


@pytest.mark.parametrize(("mode", "chunks"), [("tile", (1, 16, 16)), ("file", (1, 40, 48))])
def test_chunkmode(images, tmp_path, mode, chunks):
    store = ZarrFileSequenceStore(str(tmp_path / "img*.tif"), chunkmode=mode)
    assert store.chunks == chunks
    check(store, images)


def test_pattern_axesorder_and_categories(tmp_path):
    for c, channel in enumerate(("red", "blue")):
        for t in range(3):
            write(tmp_path / f"{channel}_{t}.tif", pixels(10 * c + t))
    expected = np.stack([[pixels(10 * c + t) for c in (1, 0)] for t in range(3)])
    store = ZarrFileSequenceStore(
        str(tmp_path / "*.tif"),
        pattern=r"(?P<c>\w+)_(?P<t>\d)",
        axesorder=[1, 0],
        categories={"c": {"blue": 0, "red": 1}},
        zattrs={"note": "x"},
        fillvalue=9,
    )
    check(store, expected)
    assert zarr.open_group(store, mode="r")["c"][:].tolist() == ["blue", "red"]
    assert store.references.group.attributes["note"] == "x"
    assert zarr.open_array(store, mode="r").fill_value == 9


def test_files_that_are_stored_differently_are_decoded(tmp_path):
    hows = [{}, {"compression": "lzw"}, {"predictor": True}, {"compression": None}]
    data = [write(tmp_path / f"{n}.tif", pixels(n), **how) for n, how in enumerate(hows)]
    data.append(write(tmp_path / "4.tif", pixels(4), byteorder=">", compression=None))
    store = ZarrFileSequenceStore(str(tmp_path / "*.tif"))
    check(store, np.stack(data))
    with pytest.raises(ManifestMismatch):
        store.write_fsspec(tmp_path / "no.json")
    with pytest.raises(ManifestMismatch, match="compression"):
        ZarrFileSequenceStore(str(tmp_path / "*.tif"), on_mismatch="error")


def test_a_missing_file(images, tmp_path):
    store = ZarrFileSequenceStore(str(tmp_path / "img*.tif"))
    (tmp_path / "img05.tif").unlink()
    np.testing.assert_array_equal(store[4], images[4])
    with pytest.raises(SourceError, match=r"img05\.tif"):
        store[:]


# ---- files that a function reads


def load(path):
    """Read an array; at module level, so that stores with it pickle."""
    return np.load(path)


def load_plus(path, n):
    """Read an array, rounded, and add a number."""
    return np.load(path).round() + np.float32(n)


@pytest.fixture
def arrays(tmp_path):
    data = np.stack([pixels(n, (7, 9), ">f4") for n in range(6)])
    for n, one in enumerate(data):
        np.save(tmp_path / f"a_t{n // 2}_c{n % 2}.npy", one)
    return data.astype("f4")


def test_imread_reads_whole_files(arrays, tmp_path):
    store = ZarrFileSequenceStore(str(tmp_path / "*.npy"), imread=load)
    assert store.chunks == (1, 7, 9)
    check(store, arrays)


def test_dask_distinguishes_functions(arrays, tmp_path):
    da = pytest.importorskip("dask.array")
    names = str(tmp_path / "*.npy")
    functions = load, np.load, partial(load_plus, n=1), partial(load_plus, n=2)
    stores = [ZarrFileSequenceStore(names, imread=function) for function in functions]
    assert stores[0] == pickle.loads(pickle.dumps(stores[0])) != stores[1]
    lazy = [da.from_array(store) for store in stores]
    assert len({one.name for one in lazy}) == 4
    again = ZarrFileSequenceStore(names, imread=partial(load_plus, n=2))
    assert da.from_array(again).name == lazy[3].name
    assert (lazy[3] - lazy[2]).compute().ravel().tolist() == [1] * arrays.size


@pytest.mark.parametrize(
    "image", [np.eye(3, 4) > 0, np.float64(3.5), np.zeros((0, 3)), np.arange(6, dtype=">u2")]
)
def test_imread_gives_samples_of_any_kind(arrays, tmp_path, image):
    store = ZarrFileSequenceStore(str(tmp_path / "*.npy"), imread=lambda _: image)
    expected = np.stack([image] * len(arrays))
    for found in (store[...], zarr.open_array(store, mode="r")[...]):
        assert found.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, expected)


def test_imread_of_objects_is_refused(arrays, tmp_path):
    with pytest.raises(UnsupportedTiff, match="objects, not samples"):
        ZarrFileSequenceStore(str(tmp_path / "*.npy"), imread=lambda _: np.array([[None]]))


def test_imread_reads_no_part_of_a_file(arrays, tmp_path):
    for part in ({"key": 0}, {"series": 1}, {"level": 1}, {"chunkmode": "page"}):
        with pytest.raises(SelectionError, match=f"always one chunk, got {next(iter(part))}="):
            ZarrFileSequenceStore(str(tmp_path / "*.npy"), imread=np.load, **part)


def test_imread_with_a_pattern(arrays, tmp_path):
    store = ZarrFileSequenceStore(str(tmp_path / "a_t{t}_c{c}.npy"), imread=load)
    check(store, arrays.reshape(3, 2, 7, 9))
    one = ZarrFileSequenceStore(
        str(tmp_path / "a_t{t}_c1.npy"), imread=load, pattern="a_{k}_{c}.npy"
    )
    check(one, arrays[1::2][:, None])


def test_imread_with_holes(arrays, tmp_path):
    (tmp_path / "a_t1_c0.npy").unlink()
    with pytest.raises(ManifestMismatch, match="t=1, c=0"):
        ZarrFileSequenceStore(str(tmp_path / "a_t{t}_c{c}.npy"), imread=load)
    store = ZarrFileSequenceStore(
        str(tmp_path / "a_t{t}_c{c}.npy"), imread=load, allow_holes=True, fillvalue=-1
    )
    expected = arrays.reshape(3, 2, 7, 9).copy()
    expected[1, 0] = -1
    check(store, expected)


def test_files_read_by_a_function_cannot_be_exported(arrays, tmp_path):
    store = ZarrFileSequenceStore(str(tmp_path / "*.npy"), imread=load)
    with pytest.raises(UnsupportedTiff, match="got load"):
        store.write_fsspec(tmp_path / "no.json")
    assert not (tmp_path / "no.json").exists()
    for options in ({"chunkmode": "tile"}, {"key": 0}):
        with pytest.raises(SelectionError, match="always one chunk"):
            ZarrFileSequenceStore(str(tmp_path / "*.npy"), imread=load, **options)


def test_a_file_of_another_shape_is_named(arrays, tmp_path):
    np.save(tmp_path / "a_t1_c1.npy", np.zeros((7, 8), "f4"))
    store = ZarrFileSequenceStore(str(tmp_path / "*.npy"), imread=load)
    np.testing.assert_array_equal(store[0], arrays[0])
    with pytest.raises(ManifestMismatch, match=r"a_t1_c1\.npy.*\(7, 8\)"):
        store[:]
    np.save(tmp_path / "a_t1_c1.npy", np.zeros((9, 7), "f4"))  # as many samples
    with pytest.raises(ManifestMismatch, match=r"a_t1_c1\.npy.*\(9, 7\)"):
        store[:]
    (tmp_path / "a_t1_c1.npy").unlink()
    with pytest.raises(SourceError, match=r"a_t1_c1\.npy"):
        store[3]


def test_references_keep_the_addresses_that_they_may_name(images, tmp_path):
    references = tiffref.scan_sequence(str(tmp_path / "img*.tif"))
    document = references.to_kerchunk()
    given = tiffref.References.from_kerchunk(document, allow=["https://example.com/"])
    with pytest.raises(UntrustedSource, match="img00"):
        ZarrFileSequenceStore(given)[0]
    given = tiffref.References.from_kerchunk(document, allow=[str(tmp_path)])
    np.testing.assert_array_equal(ZarrFileSequenceStore(given)[0], images[0])


@pytest.mark.slow
def test_dask_reads_in_processes(images, tmp_path):
    da = pytest.importorskip("dask.array")
    pytest.importorskip("distributed")
    store = ZarrFileSequenceStore(str(tmp_path / "img{t}.tif"), pattern="img{t}.tif")
    array = da.from_zarr(store)
    np.testing.assert_array_equal(
        array.max(axis=0).compute(scheduler="processes"), images.max(axis=0)
    )


def test_references_take_values_and_no_options_of_a_scan(tmp_path):
    for n in range(2):
        tifffile.imwrite(tmp_path / f"a{n}.tif", np.full((4, 5), n, "u1"), metadata=None)
    references = tiffref.scan_sequence(str(tmp_path / "a*.tif"), level=0)
    store = ZarrFileSequenceStore(references, fillvalue=7, zattrs={"title": "two"})
    assert store[:, 0, 0].tolist() == [0, 1]
    assert json.loads(store[".zarray"])["fill_value"] == 7
    assert json.loads(store[".zattrs"])["title"] == "two"
    for options in ({"pattern": "a{n}.tif"}, {"imread": tifffile.imread}):
        with pytest.raises(UnknownArgument, match=f"no argument '{next(iter(options))}'"):
            ZarrFileSequenceStore(references, **options)
