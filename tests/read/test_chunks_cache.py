"""Decoded chunks that are kept: found again, and never when they should not be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import tiffref.read
from tiffref.codecs import decode as codecs_decode
from tiffref.errors import StaleSource
from tiffref.io import source
from tiffref.read.chunks import CACHE, ChunkCache
from tiffref.zarr import ZarrTiffStore


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with nothing; take files that are as young as these for settled."""
    monkeypatch.setattr(source, "_MTIME_RESOLUTION_S", -3600.0)
    CACHE.clear()
    yield
    tiffref.set_cache_size(64 << 20)
    CACHE.clear()


def make_image(path: Path, bits: int = 0, shape: tuple[int, ...] = (96, 96)) -> NDArray[np.uint16]:
    """Write tiles of 32, with some bits of each byte turned over: compressed, these are alike."""
    noise = np.random.default_rng(0).integers(0, 1 << 16, shape, np.uint16)
    image = noise ^ np.uint16(0x0101 * bits)
    before = path.stat().st_ctime_ns if path.exists() else 0
    with path.open("r+b" if before else "wb") as file:
        tifffile.imwrite(file, image, tile=(32, 32), compression="packbits", metadata=None,
                         photometric="minisblack")  # fmt: skip
    while path.stat().st_ctime_ns == before:
        path.touch()  # two changes within one tick of the clock have the same time
    return image


@pytest.fixture
def n_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of one number, of segments decoded."""
    counted = [0]
    decode = codecs_decode._DECODERS["bytes"]

    def counting(*args: object) -> None:
        counted[0] += 1
        decode(*args)

    monkeypatch.setitem(codecs_decode._DECODERS, "bytes", counting)
    return counted


def test_rows_one_by_one_decode_each_tile_once(tmp_path: Path, n_decoded: list[int]) -> None:
    image = make_image(tmp_path / "a.tif")
    store = ZarrTiffStore(tmp_path / "a.tif")
    rows = [store[y] for y in range(len(image))]
    np.testing.assert_array_equal(rows, image)
    assert n_decoded[0] == 9
    np.testing.assert_array_equal(store[5:40:3, ::-2], image[5:40:3, ::-2])
    assert n_decoded[0] == 9


def test_reads_of_whole_chunks_are_not_kept(tmp_path: Path, n_decoded: list[int]) -> None:
    make_image(tmp_path / "a.tif", shape=(64, 64))
    store = ZarrTiffStore(tmp_path / "a.tif")
    store[...]
    store[:32]
    assert (n_decoded[0], len(CACHE)) == (6, 0)
    make_image(tmp_path / "b.tif", shape=(50, 40))  # its last tiles reach past it
    store = ZarrTiffStore(tmp_path / "b.tif")
    store[...]
    store[32:]
    assert (n_decoded[0], len(CACHE)) == (12, 0)


def test_a_window_keeps_all_its_chunks(tmp_path: Path, n_decoded: list[int]) -> None:
    image = make_image(tmp_path / "a.tif")
    store = ZarrTiffStore(tmp_path / "a.tif")
    np.testing.assert_array_equal(store[10:80, 20:90], image[10:80, 20:90])
    np.testing.assert_array_equal(store[11:81, 32:64], image[11:81, 32:64])
    assert (n_decoded[0], len(CACHE)) == (9, 9)


def test_a_large_window_keeps_the_chunks_at_its_edge(tmp_path: Path, n_decoded: list[int]) -> None:
    image = make_image(tmp_path / "a.tif")
    tiffref.set_cache_size(9 * 32 * 32 * 2)
    store = ZarrTiffStore(tmp_path / "a.tif")
    np.testing.assert_array_equal(store[1:, 1:], image[1:, 1:])
    assert (n_decoded[0], len(CACHE)) == (9, 5)
    np.testing.assert_array_equal(store[1:, 1:], image[1:, 1:])
    assert n_decoded[0] == 13


def test_nothing_is_kept_when_turned_off(tmp_path: Path, n_decoded: list[int]) -> None:
    image = make_image(tmp_path / "a.tif")
    store = ZarrTiffStore(tmp_path / "a.tif")
    store[0]
    tiffref.set_cache_size(0)
    assert len(CACHE) == 0
    np.testing.assert_array_equal(store[0], image[0])
    assert (n_decoded[0], len(CACHE)) == (6, 0)
    with pytest.raises(ValueError, match="max_bytes is -1"):
        tiffref.set_cache_size(-1)


@pytest.mark.parametrize("verify", ["never", "first"])
def test_a_file_that_is_written_to_is_read_again(tmp_path: Path, verify: str) -> None:
    before = make_image(tmp_path / "a.tif", 1)
    store = ZarrTiffStore(tmp_path / "a.tif", verify=verify)
    np.testing.assert_array_equal(store[3], before[3])
    after = make_image(tmp_path / "a.tif", 2)
    np.testing.assert_array_equal(store[3], after[3])


def test_the_time_set_back_does_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    make_image(path, 1)
    state = path.stat()
    store = ZarrTiffStore(path)
    store[3]
    after = make_image(path, 2)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    np.testing.assert_array_equal(store[3], after[3])


def test_verify_always_tells_of_a_change_though_all_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = make_image(path)
    store = ZarrTiffStore(path, verify="always")
    np.testing.assert_array_equal(store[3], image[3])
    make_image(tmp_path / "b.tif", 1)
    os.utime(tmp_path / "b.tif", (1, 1))
    (tmp_path / "b.tif").replace(path)
    with pytest.raises(StaleSource):
        store[3]
    path.unlink()
    with pytest.raises(OSError, match=r"a\.tif"):
        store[3]


def test_young_files_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_decoded: list[int]
) -> None:
    monkeypatch.setattr(source, "_MTIME_RESOLUTION_S", 2.0)
    make_image(tmp_path / "a.tif")
    store = ZarrTiffStore(tmp_path / "a.tif")
    store[0]
    store[0]
    assert (n_decoded[0], len(CACHE)) == (6, 0)


def test_open_files_are_not_kept(tmp_path: Path, n_decoded: list[int]) -> None:
    make_image(tmp_path / "a.tif")
    with (tmp_path / "a.tif").open("rb") as file:
        store = ZarrTiffStore(file)
        store[0]
        store[0]
    assert len(CACHE) == (3 if n_decoded[0] == 3 else 0)  # those with a name are read by it


def test_files_alike_are_not_mixed_up(tmp_path: Path) -> None:
    images = [make_image(tmp_path / f"{n}.tif", n) for n in range(3)]
    stores = [ZarrTiffStore(tmp_path / f"{n}.tif") for n in range(3)]
    for _ in range(2):
        for store, image in zip(stores, images, strict=True):
            np.testing.assert_array_equal(store[40], image[40])


def test_results_are_the_readers_own(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.tif")
    store = ZarrTiffStore(tmp_path / "a.tif")
    for _ in range(2):
        window = store[3:5]
        np.testing.assert_array_equal(window, image[3:5])
        window[...] = 0


def test_the_least_recently_used_make_room() -> None:
    kept = ChunkCache(1000)
    chunks = [np.full(100, n, np.uint8) for n in range(12)]
    for n, chunk in enumerate(chunks[:10]):
        kept.put(n, chunk, None)
    assert kept.find([0])[0] is chunks[0]
    kept.put(10, chunks[10], None)
    kept.put(11, chunks[11], None)
    assert [n for n in range(12) if kept.find([n])[0] is None] == [1, 2]
    kept.put(11, chunks[9], None)
    assert len(kept) == 10
    assert (kept.accepts(250), kept.accepts(251)) == (True, False)
    with pytest.raises(ValueError, match="read-only"):
        chunks[0][0] = 1
    kept.resize(300)
    assert len(kept) == 3


def test_many_threads(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.tif")
    store = ZarrTiffStore(tmp_path / "a.tif")
    tiffref.set_cache_size(5 * 2048)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            y, x = rng.integers(0, 60, 2).tolist()
            if not np.array_equal(store[y : y + 20, x : x + 20], image[y : y + 20, x : x + 20]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(CACHE) <= 5
