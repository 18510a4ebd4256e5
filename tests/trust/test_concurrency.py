"""One store, many readers: threads, processes, tasks, workers; nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from faulty import FaultyServer

import zarr
from tiffref.errors import TiffrefError
from tiffref.zarr import ZarrTiffStore

REGIONS = [(slice(y, y + 40), slice(x, x + 50)) for y in range(0, 90, 9) for x in (0, 30, 77)]
SOAK_SECONDS = float(os.environ.get("TIFFREF_SOAK_SECONDS", "3"))


@pytest.fixture(params=["local", "http"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, server: FaultyServer, data: bytes
) -> ZarrTiffStore:
    if request.param == "local":
        (tmp_path / "a.tif").write_bytes(data)
        return ZarrTiffStore(tmp_path / "a.tif")
    server.files["/a.tif"] = data
    return ZarrTiffStore(f"{server.url}/a.tif")


def checksum(store: ZarrTiffStore) -> int:
    return int(store[:].astype(np.int64).sum() + store[3:40, 5:70].astype(np.int64).sum())


def test_concurrent_threads(store: ZarrTiffStore, image: np.ndarray) -> None:
    barrier = threading.Barrier(32)
    array = zarr.open_array(store, mode="r")

    def read(n: int) -> None:
        barrier.wait()
        for region in REGIONS[n % 5 :: 5]:
            np.testing.assert_array_equal(store[region], image[region])
            np.testing.assert_array_equal(array[region], image[region])

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(read, range(32)))


def test_closing_while_reading(store: ZarrTiffStore, image: np.ndarray) -> None:
    """A reader gets the truth or a typed error, whenever the store is closed."""
    stop = threading.Event()

    def close() -> None:
        while not stop.is_set():
            store.close()

    closer = threading.Thread(target=close)
    closer.start()
    try:
        for region in REGIONS * 2:
            try:
                np.testing.assert_array_equal(store[region], image[region])
            except TiffrefError:
                continue
    finally:
        stop.set()
        closer.join()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(store: ZarrTiffStore, image: np.ndarray, method: str) -> None:
    """The store is used before, so that there are threads and sessions that a child must leave."""
    expected = checksum(store)
    context = multiprocessing.get_context(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
        with ProcessPoolExecutor(2, context) as pool:
            assert set(pool.map(checksum, [store] * 4)) == {expected}
    assert checksum(store) == expected


def test_inherited_by_a_fork(store: ZarrTiffStore) -> None:
    """Not pickled: the child has the parent's very object."""
    expected = checksum(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os._exit(0 if checksum(store) == expected else 1)
        finally:
            os._exit(2)  # an error must not run the other tests here, too
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert done[1] == 0


def test_concurrent_asyncio_tasks(store: ZarrTiffStore) -> None:
    prototype = zarr.core.buffer.default_buffer_prototype()
    keys = [key for key in store if key[0].isdigit()]

    async def read_all() -> list[bytes]:
        asked = [store.get(key, prototype) for key in keys * 20]
        return [buffer.to_bytes() for buffer in await asyncio.gather(*asked)]

    async def give_up() -> None:
        tasks = [asyncio.create_task(store.get(key, prototype)) for key in keys]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    expected = [store[key] for key in keys] * 20
    for _ in range(2):  # each in a loop of its own
        asyncio.run(give_up())
        assert asyncio.run(read_all()) == expected


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_dask(store: ZarrTiffStore, image: np.ndarray, scheduler: str) -> None:
    da = pytest.importorskip("dask.array")
    array = da.from_zarr(store, chunks=(32, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        total = (array.astype("i8") * 2).sum().compute(scheduler=scheduler, num_workers=2)
    assert total == 2 * image.astype("i8").sum()


def test_pickle_is_small(store: ZarrTiffStore) -> None:
    store[:]
    assert len(pickle.dumps(store)) < 20_000


def count_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_soak(
    store: ZarrTiffStore, image: np.ndarray, data: bytes, tmp_path: Path, server: FaultyServer
) -> None:
    """Stores made, read by many threads and dropped: nothing piles up."""
    make: Callable[[], ZarrTiffStore] = lambda: pickle.loads(pickle.dumps(store))  # noqa: E731

    def work(_: int) -> int:
        one, n = make(), 0
        for region in REGIONS[::7]:
            np.testing.assert_array_equal(one[region], image[region])
            n += 1
        if n % 2:
            one.close()
        return n

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))  # whatever is kept for good is there now
        gc.collect()
        before = count_open(), threading.active_count()
        end, n_reads = time.monotonic() + SOAK_SECONDS, 0
        while time.monotonic() < end:
            n_reads += sum(pool.map(work, range(64)))
    del pool
    gc.collect()
    # threads of this test's own pool are gone; connections are kept alive, each with a thread of
    # the server's, and how many there were at once depends on the machine
    assert threading.active_count() <= before[1] + 32
    assert count_open() <= before[0] + 64, f"after {n_reads} reads"
