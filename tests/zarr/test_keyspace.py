"""The keys of stores, chunk modes, which change the chunks under them, and their file system."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fsspec.implementations.reference import ReferenceFileSystem
from store_images import STACK, TILES

import zarr
from tiffref.errors import (
    ManifestMismatch,
    UnsupportedTiff,
)
from tiffref.model.array import Array, Group
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import Manifest, Source
from tiffref.references import References
from tiffref.zarr import ZarrFileSequenceStore, ZarrStore, ZarrTiffStore
from tiffref.zarr.keyspace import CHUNKMODE


def test_missing_chunks_have_no_key(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(16)))
    manifest = Manifest.from_columns((3,), Source(str(path)), [8, 0, 12], [4, 0, 4])
    codec = SegmentCodec((1, 1, 1, 4), "|u1")
    array = Array((12,), (4,), np.dtype("u1"), ("x",), (codec,), manifest, fill_value=9)
    store = ZarrStore(references=References(Group({"a": array})))
    assert [key for key in store if key[0] != "."] == ["0", "2"]
    assert "1" not in store
    expected = [8, 9, 10, 11, 9, 9, 9, 9, 12, 13, 14, 15]
    assert store[:].tolist() == zarr.open_array(store, mode="r")[:].tolist() == expected


def test_a_million_keys_are_never_built() -> None:
    n = 1_000_000
    manifest = Manifest.from_columns(
        (1000, 1000), Source("/nowhere"), np.arange(1, n + 1), np.full(n, 10)
    )
    codec = SegmentCodec((1, 1, 1, 100), "|u1")
    array = Array((10_000, 10_000), (10, 10), np.dtype("u1"), ("y", "x"), (codec,), manifest)
    store = ZarrStore(references=References(Group({"image": array})))
    tracemalloc.start()
    try:
        first = list(itertools.islice(store.keys(), 4))
        assert first == [".zarray", ".zattrs", "0.0", "0.1"]
        assert "999.999" in store
        assert len(store.fs.references) == n + 2
        assert store.fs.references["999.999"] == ["file:///nowhere", n, 10]
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def planar(tmp_path: Path) -> Path:
    path = tmp_path / "planar.tif"
    values = STACK[:3]
    tifffile.imwrite(
        path, values, photometric="rgb", planarconfig="separate", tile=(32, 48), compression="zlib"
    )
    return path


@pytest.mark.parametrize(
    ("mode", "chunks", "planar_chunks"),
    [
        (None, (1, 32, 48), (1, 32, 48)),
        (CHUNKMODE.STRILE, (1, 32, 48), (1, 32, 48)),
        ("tile", (1, 32, 48), (1, 32, 48)),
        (CHUNKMODE.PLANE, (1, 100, 120), (1, 100, 120)),
        (tifffile.CHUNKMODE.PAGE, (1, 100, 120), (3, 100, 120)),
        ("Page", (1, 100, 120), (3, 100, 120)),
        (CHUNKMODE.FRAME, (1, 100, 120), (3, 100, 120)),
        (2, (1, 100, 120), (3, 100, 120)),
        ("FILE", (5, 100, 120), (3, 100, 120)),
    ],
)
def test_chunk_modes(
    stack: Path, planar: Path, mode: Any, chunks: tuple[int, ...], planar_chunks: tuple[int, ...]
) -> None:
    for path, values, expected in ((stack, STACK, chunks), (planar, STACK[:3], planar_chunks)):
        store = ZarrTiffStore(path, chunkmode=mode)
        assert store.chunks == expected
        opened = zarr.open_array(store, mode="r")
        assert opened.chunks == expected
        np.testing.assert_array_equal(opened[:], values)
        np.testing.assert_array_equal(store[:, 50:, ::3], values[:, 50:, ::3])
        key = list(store)[-1]
        assert store.fs.cat(key) == store[key]


def test_decoded_chunks_are_sized_and_padded(tmp_path: Path) -> None:
    path = tmp_path / "rgb.tif"
    values = np.arange(10 * 7 * 3, dtype=">u2").reshape(10, 7, 3)
    tifffile.imwrite(path, values, photometric="rgb", rowsperstrip=4, compression="zlib")
    store = ZarrTiffStore(path, chunkmode="page")
    assert store.chunks == (10, 7, 3)
    assert len(store["0.0.0"]) == values.nbytes
    assert list(store) == [".zarray", ".zattrs", "0.0.0"]
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], values)


@pytest.mark.parametrize("mode", [None, "strile", "page"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_samples_of_one_bit(tmp_path: Path, mode: Any, compression: Any) -> None:
    path = tmp_path / "bits.tif"
    values = np.random.default_rng(1).integers(0, 2, (20, 33)).astype(bool)
    tifffile.imwrite(path, values, rowsperstrip=7, compression=compression)
    store = ZarrTiffStore(path, chunkmode=mode)
    np.testing.assert_array_equal(store[:], values)
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], values)


def test_decoded_chunks_cannot_be_written_as_references(stack: Path, tmp_path: Path) -> None:
    store = ZarrTiffStore(stack, chunkmode="page")
    target = tmp_path / "refs.json"
    with pytest.raises(UnsupportedTiff, match="chunkmode='strile'"):
        store.write_fsspec(target, "")
    assert not target.exists()


def test_unknown_chunk_mode(stack: Path) -> None:
    for mode in ("pages", 7, 1.5, True):
        with pytest.raises(ValueError, match=r"chunkmode|CHUNKMODE"):
            ZarrTiffStore(stack, chunkmode=mode)


def test_chunks_that_are_stored_in_several_ways_are_served_decoded(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    tifffile.imwrite(paths[0], STACK[0], **TILES)
    tifffile.imwrite(paths[1], STACK[1], byteorder=">", **{**TILES, "compression": "lzw"})
    store = ZarrFileSequenceStore(paths)
    np.testing.assert_array_equal(store[:], STACK[:2])
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], STACK[:2])
    with pytest.raises(ManifestMismatch):
        store.write_fsspec(tmp_path / "refs.json")


def test_file_system(stack: Path) -> None:
    store = ZarrTiffStore(stack)
    assert isinstance(store.fs, ReferenceFileSystem)
    mapper = store.fs.get_mapper("")
    assert {key: mapper[key] for key in mapper} == {key: store[key] for key in store}
    assert store.fs.info("0.0.0")["size"] == len(store["0.0.0"])
    with pytest.raises(FileNotFoundError):
        store.fs.cat("9.9.9")
