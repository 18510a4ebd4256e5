"""Local files: how many are open at once, and what stays true when they are not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tiffref.errors import StaleSource
from tiffref.model.manifest import Source
from tiffref.read import fetch as fetching
from tiffref.read.fetch import Fetcher
from tiffref.zarr import ZarrTiffStore

N_FILES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    tifffile.imwrite(made / "0.tif", np.zeros((8, 8), "u1"), metadata=None)
    whole = (made / "0.tif").read_bytes()
    for i in range(N_FILES):
        (made / f"{i}.tif").write_bytes(whole[:-64] + bytes([i % 251]) * 64)
    return made


def n_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts in /proc")


@needs_proc
def test_any_number_of_stores_keeps_few_files_open(folder):
    before = n_descriptors()
    stores = []
    for i in range(N_FILES):
        stores.append(ZarrTiffStore(folder / f"{i}.tif"))
        assert stores[-1][7, 7] == i % 251
        assert n_descriptors() - before <= fetching._MAX_OPEN + 8
    for i in (0, 17, N_FILES - 1):  # those that were closed open again
        assert stores[i][7, 7] == i % 251
    for store in stores:
        store.close()
    assert n_descriptors() - before <= 8
    assert not len(fetching.OPEN_FILES)


@needs_proc
def test_stores_that_are_gone_keep_nothing_open(folder):
    before = n_descriptors()
    for i in range(N_FILES):
        assert ZarrTiffStore(folder / f"{i}.tif")[7, 7] == i % 251
    assert n_descriptors() - before <= 8


def test_a_store_opens_what_is_there_when_it_is_made(folder, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes((folder / "1.tif").read_bytes())
    old = ZarrTiffStore(path)
    assert old[7, 7] == 1
    (tmp_path / "b.tif").write_bytes((folder / "2.tif").read_bytes())
    os.utime(tmp_path / "b.tif", (1e9, 1e9))
    (tmp_path / "b.tif").replace(path)
    new = ZarrTiffStore(path)
    assert (old[7, 7], new[7, 7]) == (1, 2)  # the file it has open, and the one that is there
    old.close()
    with pytest.raises(StaleSource):
        old[7, 7]
    assert new[7, 7] == 2


def test_threads_that_make_each_other_close(folder, monkeypatch):
    monkeypatch.setattr(fetching, "_MAX_OPEN", 3)
    fetchers = [Fetcher(verify="never") for _ in range(4)]
    size = (folder / "0.tif").stat().st_size
    wrong: list[int] = []

    def read(fetch: Fetcher) -> None:
        for n in range(400):
            i = n * 7 % N_FILES
            if fetch.read(Source(str(folder / f"{i}.tif")), size - 1, 1) != bytes([i % 251]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(one,)) for one in fetchers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(fetching.OPEN_FILES) <= 3
