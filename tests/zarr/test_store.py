"""The stores: what they are made from, what they show, and what they cost.

The rows of the contract that are about stores; zarr's own tests are in `test_store_suite`, chunk
modes in `test_keyspace`.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import fsspec
import numpy as np
import pytest
import tifffile
import xarray as xr
from dask.base import tokenize
from store_images import STACK, TILES

import tiffref
import zarr
from tiffref.errors import (
    InvalidReferences,
    ManifestMismatch,
    SelectionError,
    SourceError,
    StaleSource,
    TiffrefError,
    UnsupportedTiff,
)
from tiffref.model.array import Array, Group
from tiffref.references import References
from tiffref.zarr import ZarrFileSequenceStore, ZarrStore, ZarrTiffStore

# ---- regions, keys, bytes


def test_regions(stack: Path) -> None:
    store = ZarrTiffStore(stack)
    for selection in (0, -1, ..., slice(1, 3), (slice(None), 3, slice(None, None, -7)), (1, 2, 3)):
        np.testing.assert_array_equal(store[selection], STACK[selection])
    with pytest.raises(IndexError):
        store[5]
    with pytest.raises(ValueError, match="integers, slices"):
        store[[1, 2]]


def test_properties_need_no_metadata(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiffref.zarr.store.build_keys", None)
    store = ZarrTiffStore(stack, chunkmode="page")
    assert (store.shape, store.dtype, store.chunks) == ((5, 100, 120), "u2", (1, 100, 120))
    assert (store.ndim, store.size, store.nbytes) == (3, 60000, 120000)
    assert "uint16 (5, 100, 120)" in repr(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_coordinates_are_not_compressed(tmp_path: Path, zarr_format: int) -> None:
    tags = [(33550, 12, 3, (10, 10, 0)), (33922, 12, 6, (0, 0, 0, 500, 900, 0))]
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], extratags=tags, metadata=None)
    store = ZarrTiffStore(tmp_path / "a.tif", zarr_format=zarr_format)
    x = 505.0 + 10 * np.arange(120)
    assert store["x/0" if zarr_format == 2 else "x/c/0"] == x.tobytes()
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["x"][:], x)


def test_bytes_under_keys(stack: Path) -> None:
    store = ZarrTiffStore(stack)
    assert json.loads(store[".zarray"])["shape"] == [5, 100, 120]
    assert len(store["4.3.2"]) == len(store.fs.cat("4.3.2"))
    assert "4.3.2" in store
    assert "4.3.3" not in store
    assert 0 not in store


# ---- pyramids


def test_pyramid_is_level_0_and_a_group(pyramid: Path) -> None:
    store = ZarrTiffStore(pyramid)
    levels = [STACK[0], STACK[0, ::2, ::2], STACK[0, ::4, ::4]]
    assert store.shape == (100, 120)
    assert store.chunks == (32, 48)
    np.testing.assert_array_equal(store[:], levels[0])
    np.testing.assert_array_equal(zarr.open(store, mode="r")[:], levels[0])
    np.testing.assert_array_equal(da.from_zarr(store).compute(), levels[0])
    group = zarr.open_group(store, mode="r")
    assert sorted(group.array_keys()) == ["image", "image_1", "image_2"]
    dataset = xr.open_zarr(store)
    for i, expected in enumerate(levels):
        name = f"image_{i}" if i else "image"
        np.testing.assert_array_equal(group[name][:], expected)
        np.testing.assert_array_equal(dataset[name].values, expected)
        assert group[name].nchunks_initialized == group[name].nchunks
        one = ZarrTiffStore(pyramid, level=i)
        np.testing.assert_array_equal(xr.open_zarr(one)["image"].values, expected)
        alone = zarr.open_group(one, mode="r")["image"]
        assert alone.nchunks_initialized == alone.nchunks
        assert one.shape == expected.shape
        np.testing.assert_array_equal(one[:], expected)
    assert ".zarray" not in list(store)
    assert store["0.0"] == store["image/0.0"]


# ---- attributes and export


def test_attributes_and_fill_value_survive(stack: Path, tmp_path: Path) -> None:
    store = ZarrTiffStore(stack, zattrs={"station": "Zugspitze"}, fillvalue=3)
    opened = zarr.open_array(store, mode="r")
    assert opened.attrs["station"] == "Zugspitze"
    assert opened.fill_value == 3
    for zarr_format in (2, 3):
        target = tmp_path / f"refs{zarr_format}.json"
        store.write_fsspec(target, zarr_format=zarr_format)
        group = zarr.open_group(f"reference::{target}", mode="r")
        assert group.attrs["station"] == "Zugspitze"
        assert group["image"].fill_value == 3
        np.testing.assert_array_equal(group["image"][:], STACK)
    again = ZarrTiffStore(tmp_path / "refs2.json", zattrs={"more": 1}, fillvalue=4)
    opened = zarr.open_array(again, mode="r")
    assert (opened.attrs["station"], opened.attrs["more"], opened.fill_value) == ("Zugspitze", 1, 4)


def test_export_takes_tifffiles_arguments(stack: Path) -> None:
    text = io.StringIO()
    ZarrTiffStore(stack).write_fsspec(
        text, "s3://bucket/", groupname="g", templatename="u", zarr_format=2, version=1
    )
    document = json.loads(text.getvalue())
    assert "g/image/.zarray" in document["refs"]
    assert document["templates"] == {"u": "s3://bucket/"}
    assert document["refs"]["g/image/0.0.0"][0] == "{{u}}stack.tif"


# ---- life of a store


def test_empty_store() -> None:
    with ZarrStore() as store:
        assert (store.path, store.mode, store.files, list(store)) == ("", "r", [], [])
        assert not hasattr(store, "shape")
        with pytest.raises(SelectionError, match="no array"):
            store[...]
        assert ".zarray" not in store
    store.close()
    assert pickle.loads(pickle.dumps(store)) == store


def test_pickle_is_small_and_opens_again(stack: Path) -> None:
    store = ZarrTiffStore(stack)
    store[0]
    data = pickle.dumps(store)
    manifest = sum(array.manifest.nbytes for _, array in store.references.group.arrays())
    assert len(data) < 10_000 + manifest
    again = pickle.loads(data)
    assert again == store
    np.testing.assert_array_equal(again[:], STACK)
    np.testing.assert_array_equal(zarr.open_array(again, mode="r")[1], STACK[1])


def test_store_of_open_bytes_cannot_be_pickled(stack: Path) -> None:
    store = ZarrTiffStore(io.BytesIO(stack.read_bytes()))
    with pytest.raises(TypeError, match="path or URL"):
        pickle.dumps(store)


def test_equality(stack: Path, pyramid: Path) -> None:
    store = ZarrTiffStore(stack)
    assert store == ZarrTiffStore(stack)
    assert hash(store) == hash(ZarrTiffStore(stack))
    assert store != ZarrTiffStore(stack, key=0)
    assert store != ZarrTiffStore(pyramid)
    assert store != ZarrStore()
    assert store != "store"


def test_dask_distinguishes_pages_of_one_file(stack: Path) -> None:
    pages = [da.from_array(ZarrTiffStore(stack, key=n)) for n in (1, 2, 2)]
    assert pages[0].name != pages[1].name == pages[2].name
    np.testing.assert_array_equal(da.stack(pages).compute(), STACK[[1, 2, 2]])
    options: tuple[Any, ...] = ({}, {"chunkmode": "file"}, {"zarr_format": 3}, {"fillvalue": 1})
    names = [da.from_array(ZarrTiffStore(stack, **one), chunks=9).name for one in options]
    assert len(set(names)) == 4
    scans = [tiffref.scan(stack, key=n) for n in (1, 2, 2)]
    tokens = [tokenize(scan) for scan in scans]
    assert tokens[0] != tokens[1] == tokens[2]


def test_reading_goes_on_after_close(stack: Path) -> None:
    store = ZarrTiffStore(stack)
    store.close()
    np.testing.assert_array_equal(store[:], STACK)


def test_changed_file_is_stale(stack: Path) -> None:
    store, unchecked = ZarrTiffStore(stack), ZarrTiffStore(stack, verify="never")
    tifffile.imwrite(stack, STACK[:4], **TILES)
    with pytest.raises(StaleSource) as caught:
        store[:]
    assert isinstance(caught.value, OSError)
    with pytest.raises(StaleSource):
        zarr.open_array(store, mode="r")[:]
    np.testing.assert_array_equal(unchecked[0], STACK[0])


def test_all_errors_are_of_the_contract() -> None:
    for error in (SelectionError, UnsupportedTiff, InvalidReferences, ManifestMismatch):
        assert issubclass(error, ValueError)
    assert issubclass(SourceError, OSError)
    assert issubclass(StaleSource, TiffrefError)


@pytest.mark.slow
def test_dask_with_worker_processes(stack: Path) -> None:
    distributed = pytest.importorskip("distributed")
    store = ZarrTiffStore(stack)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster, distributed.Client(cluster):  # fmt: skip
        array = da.from_zarr(store, chunks=(1, 64, 64))
        result = array.map_blocks(lambda block: block + 1).compute()
    np.testing.assert_array_equal(result, STACK + 1)


def test_dask_with_forked_and_threaded_workers(stack: Path) -> None:
    array = da.from_zarr(ZarrTiffStore(stack))
    np.testing.assert_array_equal(array.mean(axis=0).compute(), STACK.mean(axis=0))
    assert array.sum().compute(scheduler="processes") == STACK.sum(dtype="u8")


# ---- sequences


def test_sequence_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"t{i}.tif" for i in (9, 10, 11)]
    for i, path in enumerate(paths):
        tifffile.imwrite(path, STACK[i], **TILES)
    for files in ([str(p) for p in paths], str(tmp_path / "t*.tif"), f"file://{tmp_path}/t*.tif"):
        store = ZarrFileSequenceStore(files, zattrs={"a": 1}, fillvalue=2)
        assert [Path(name).name for name in store.files] == ["t9.tif", "t10.tif", "t11.tif"]
        assert store.shape == (3, 100, 120)
        np.testing.assert_array_equal(store[:, 5], STACK[:3, 5])
        opened = zarr.open_array(store, mode="r")
        np.testing.assert_array_equal(opened[:], STACK[:3])
        assert (opened.attrs["a"], opened.fill_value) == (1, 2)
    assert ZarrFileSequenceStore(paths, chunkmode="file").chunks == (1, 100, 120)
    again = pickle.loads(pickle.dumps(ZarrFileSequenceStore(paths)))
    np.testing.assert_array_equal(again[2], STACK[2])
    store.write_fsspec(tmp_path / "refs.json")
    np.testing.assert_array_equal(ZarrTiffStore(tmp_path / "refs.json")[:], STACK[:3])


def test_inlined_chunks(tmp_path: Path, stack: Path) -> None:
    store = ZarrTiffStore(stack)
    array = store.references.group["image"]
    assert isinstance(array, Array)
    data = store["0.0.0"]
    inlined = replace(array, manifest=array.manifest.with_inlined({0: data}))
    again = ZarrStore(references=References(Group({"image": inlined})))
    assert again["0.0.0"] == data
    assert again.fs.cat("0.0.0") == data
    np.testing.assert_array_equal(zarr.open_array(again, mode="r")[:], STACK)


def test_numpy_functions_take_the_store(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data = np.arange(3 * 40 * 30, dtype="u2").reshape(3, 40, 30)
    tifffile.imwrite(path, data, photometric="minisblack")
    store = ZarrTiffStore(path)
    np.testing.assert_array_equal(np.mean(store, axis=0), data.mean(axis=0))
    assert np.asarray(store, "f4").dtype == "f4"
    with pytest.raises(ValueError, match="not in memory"):
        np.asarray(store, copy=False)


@pytest.fixture
def sources(stack: Path) -> Iterator[dict[str, Any]]:
    """Return everything that a store of the stack can be made from."""
    fsspec.filesystem("memory").pipe_file("/stack.tif", stack.read_bytes())
    document = tiffref.scan(stack, series=0).to_kerchunk()
    json_path = stack.with_suffix(".json")
    json_path.write_text(json.dumps(document))
    parquet, folder = stack.with_suffix(".parq"), stack.with_name("refs")
    for path in (parquet, folder):
        tiffref.scan(stack, series=0).to_parquet(path)
    with tifffile.TiffFile(stack) as tif, stack.open("rb") as file:
        yield {
            "str": str(stack),
            "path": stack,
            "file url": f"file://{stack}",
            "url": "memory://stack.tif",
            "open file": fsspec.open("memory://stack.tif"),
            "file": file,
            "bytes": io.BytesIO(stack.read_bytes()),
            "TiffFile": tif,
            "series": tif.series[0],
            "references": tiffref.scan(stack, series=0),
            "document": document,
            "json": json_path,
            "json path": str(json_path),
            "json url": f"file://{json_path}",
            "parquet": parquet,
            "folder": str(folder),
        }


@pytest.mark.parametrize(
    "kind", ["str", "path", "file url", "url", "open file", "file", "bytes", "TiffFile", "series",
             "references", "document", "json", "json path", "json url", "parquet", "folder"]
)  # fmt: skip
def test_every_input_of_a_store(sources: dict[str, Any], kind: str) -> None:
    with ZarrTiffStore(sources[kind]) as store:
        assert (store.shape, store.dtype, store.ndim) == (STACK.shape, STACK.dtype, 3)
        assert store.mode == "r"
        assert store.path
        assert store.files
        np.testing.assert_array_equal(store[:], STACK)
        np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], STACK)


def test_a_page_of_tifffile(stack: Path) -> None:
    with tifffile.TiffFile(stack) as tif:
        store = ZarrTiffStore(tif.pages[3])
    np.testing.assert_array_equal(store[:], STACK[3])


@pytest.mark.parametrize("key", [0, -1, slice(1, 4, 2), [4, 0]], ids=str)
def test_key_chooses_pages(stack: Path, key: Any) -> None:
    np.testing.assert_array_equal(ZarrTiffStore(stack, key=key)[:], STACK[key])


def test_series_chooses_an_image(tmp_path: Path) -> None:
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK[0], **TILES)
        writer.write(STACK[1, :50], **TILES)
    np.testing.assert_array_equal(ZarrTiffStore(path)[:], STACK[0])
    np.testing.assert_array_equal(ZarrTiffStore(path, series=1)[:], STACK[1, :50])
    document = tiffref.scan(path).to_kerchunk()
    np.testing.assert_array_equal(ZarrTiffStore(document)[:], STACK[0])
    np.testing.assert_array_equal(ZarrTiffStore(document, series=1)[:], STACK[1, :50])
    for source in (path, document):
        with pytest.raises(SelectionError, match="series"):
            ZarrTiffStore(source, series=2)


def test_foreign_documents() -> None:
    array = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": ">i2", "compressor": None,
             "filters": None, "fill_value": 7, "order": "C"}  # fmt: skip
    document = {".zarray": json.dumps(array), "1": "base64:AAEAAg=="}
    store = ZarrTiffStore(document)
    assert store[:].tolist() == [7, 7, 1, 2]
    assert zarr.open_array(store, mode="r")[:].tolist() == [7, 7, 1, 2]
    assert ZarrTiffStore(document, fillvalue=5)[:].tolist() == [5, 5, 1, 2]
    for options in ({"series": 1}, {"level": 0}):
        with pytest.raises(InvalidReferences, match="series and levels"):
            ZarrTiffStore(document, **options)
    with pytest.raises(SelectionError, match="pages"):
        ZarrTiffStore(document, key=0)


def test_refused_level_is_not_replaced_by_the_next() -> None:
    array = Array.from_values(np.zeros(3, "u1"), ("x",))
    levels = [{"refused": "UnsupportedTiff: too strange"}, {"path": "image_1"}]
    references = References(Group({"image_1": array}), ({"index": 0, "levels": levels},))
    with pytest.raises(UnsupportedTiff, match="too strange"):
        ZarrTiffStore(references)


@pytest.mark.parametrize("what", ["missing.tif", "missing.json", "memory://missing.tif"])
def test_missing_sources(tmp_path: Path, what: str) -> None:
    with pytest.raises(SourceError):
        ZarrTiffStore(what if "://" in what else tmp_path / what)


def test_document_of_a_pyramid(pyramid: Path) -> None:
    document = tiffref.scan(pyramid).to_kerchunk()
    np.testing.assert_array_equal(ZarrTiffStore(document)[:], STACK[0])
    np.testing.assert_array_equal(ZarrTiffStore(document, level=1)[:], STACK[0, ::2, ::2])
    with pytest.raises(SelectionError, match="level"):
        ZarrTiffStore(document, level=3)


def test_arguments_of_the_scan_and_others(tmp_path: Path) -> None:
    image = np.arange(96, dtype="u1").reshape(4, 8, 3)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    path = tmp_path / "a.tif"
    document = tiffref.scan(path).to_kerchunk()
    for source in (path, document):
        store = ZarrTiffStore(source, axes="bands-first", sidecars=False, read_only=True)
        np.testing.assert_array_equal(store[...], np.moveaxis(image, 2, 0))
        with pytest.raises(TypeError, match="'axis'"):
            ZarrTiffStore(source, axis="bands-first")
        with pytest.raises(ValueError, match="read_only"):
            ZarrTiffStore(source, read_only=False)
    with pytest.raises(TypeError, match="store of references has no argument 'strict'"):
        ZarrTiffStore(document, strict=True)
