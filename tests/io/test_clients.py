"""Requests in the loop of a file system end with the program."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import wait
from types import SimpleNamespace
from typing import Any

import fsspec.asyn
import numpy as np
import pytest
import tifffile
from fsspec.implementations.memory import MemoryFileSystem

import tiffref
from tiffref.errors import SourceError
from tiffref.io import clients
from tiffref.io.clients import DaemonPool
from tiffref.zarr import ZarrTiffStore


class SlowFiles(MemoryFileSystem):
    protocol = "slow"


def test_a_request_that_begins_while_the_program_is_interrupted_is_given_up(monkeypatch):
    interrupted, begin = threading.Event(), asyncio.run_coroutine_threadsafe

    def interrupt_meanwhile(*arguments: Any) -> Any:
        interrupted.set()
        return begin(*arguments)

    monkeypatch.setattr(clients, "_interrupted", interrupted)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupt_meanwhile)
    fs = SimpleNamespace(loop=fsspec.asyn.get_loop())
    with pytest.raises(SourceError, match="interrupted"):
        clients.run_coroutine(fs, asyncio.sleep, 30)
    assert not clients._requests


@pytest.mark.parametrize(
    ("module", "name"),
    [("webdav4.client", "ClientError"), ("httpx", "HTTPError"), ("obstore.exceptions", "BaseError"),
     ("smbprotocol.exceptions", "SMBException"), ("tarfile", "TarError")],
)  # fmt: skip
def test_errors_of_clients_are_typed(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    error = type(name, (Exception,), {})
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: error}))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=f"{name}: why"), clients.typed_errors("webdav://a.tif"):
        raise error("why")


@pytest.mark.parametrize("name", ["ETag", "etag", "e_tag"])
def test_etags_of_clients(name: str) -> None:
    source = clients.source_from_info("s3://b/a.tif", {"size": 3, name: '"one"'})
    assert (source.size, source.etag) == (3, "one")


@pytest.mark.parametrize("seconds", ["inf", "1e12"])
def test_no_limit(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    """Neither a lock nor a loop takes such numbers; who sets them wants to wait for long."""
    fs = SimpleNamespace(loop=fsspec.asyn.get_loop(), protocol="slow")

    async def answer() -> int:
        await asyncio.sleep(0.01)
        return 7

    monkeypatch.setenv("TIFFREF_TIMEOUT", seconds)
    assert clients.call_with_timeout(fs, "slow://a.tif", 9, lambda: 7) == 7
    timed = clients.with_timeout, "slow://a.tif", clients.time_limit_s(9)
    assert clients.run_coroutine(fs, *timed, answer) == 7


@pytest.mark.parametrize(
    ("url", "is_whole"),
    [
        ("simplecache::slow://a.tif", True),
        ("filecache::slow://a.tif", True),
        ("blockcache::slow://a.tif", False),
        ("slow://a.tif", False),
    ],
)
def test_there_is_time_to_fetch_whole_files(
    monkeypatch: pytest.MonkeyPatch, url: str, is_whole: bool
) -> None:
    """A cache of whole files fetches gigabytes for the first few bytes."""
    limits: list[float] = []

    def call(url: str, limit_s: float, function: Callable[[], Any], *_: Any) -> Any:
        limits.append(limit_s)
        return function()

    monkeypatch.delenv("TIFFREF_TIMEOUT", raising=False)
    monkeypatch.setattr(clients, "_call_in_thread", call)
    fsspec.register_implementation("slow", SlowFiles, clobber=True)
    fs, _ = clients.find_file_system(url, None)
    clients.call_with_timeout(fs, url, 9, lambda: None)
    assert [limit_s > 3600 for limit_s in limits] == [is_whole, is_whole]


def test_what_a_failed_request_had_is_not_kept() -> None:
    """Its error and the frames that it knows would keep each other until garbage is collected."""
    fs, refs = SimpleNamespace(protocol="slow"), []

    def fail() -> None:
        data = np.zeros(9)
        refs.append(weakref.ref(data))
        raise OSError("no")

    gc.disable()
    try:
        with contextlib.suppress(OSError):
            clients.call_with_timeout(fs, "slow://a.tif", 9, fail)
        # the thread that asked lets go of it a moment later
        assert clients.call_with_timeout(fs, "slow://a.tif", 9, lambda: 7) == 7
        assert refs[0]() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no forks")
def test_a_forked_child_has_locks_of_its_own() -> None:
    """Threads that hold them in the parent do not exist there, and would never let go."""
    fs = SlowFiles()
    with clients.shared_lock(fs), clients._locks_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
        child = os.fork()
        if child == 0:
            is_free = clients._locks_lock.acquire(blocking=False)
            clients._locks_lock.release()
            os._exit(0 if is_free and clients.shared_lock(fs).acquire(blocking=False) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_options_for_asynchronous_clients_are_accepted(s3_options: dict[str, Any]) -> None:
    """kerchunk adds `asynchronous` to the options that it is given."""
    import s3fs

    options = {**s3_options, "asynchronous": True}
    fs = s3fs.S3FileSystem(**s3_options)
    fs.call_s3("create_bucket", Bucket="asynchronous")
    file = io.BytesIO()
    tifffile.imwrite(file, np.arange(12, dtype="u1").reshape(3, 4))
    fs.pipe("asynchronous/in/a.tif", file.getvalue())
    references = tiffref.scan("s3://asynchronous/in/a.tif", storage_options=options)
    for name in ("r.json", "r.parq"):
        url = f"s3://asynchronous/{name}"
        references.write_fsspec(url, storage_options=options)
        assert ZarrTiffStore(url, storage_options=options)[2, 3] == 11
    both = {"storage_options": options, "output_options": options}
    tiffref.catalog.build("s3://asynchronous/in", "s3://asynchronous/c", **both)
    catalog = tiffref.catalog.open("s3://asynchronous/c", storage_options=options)
    assert len(catalog) == 1
    assert options["asynchronous"]


def test_results_and_errors_come_back() -> None:
    pool = DaemonPool(3, "test")
    assert sorted(pool.map(abs, [-3, 2, -1])) == [1, 2, 3]
    failed = pool.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)


def test_a_thread_is_started_for_each_task_that_waits() -> None:
    """A thread that had not found its task yet counted as idle."""
    for _ in range(30):
        pool, both = DaemonPool(2, "both"), threading.Barrier(2)
        tasks = [pool.submit(both.wait, 60) for _ in range(2)]
        assert sorted(task.result() for task in tasks) == [0, 1]
        pool.shutdown()


def test_there_are_never_more_threads_than_said() -> None:
    pool, gate, names = DaemonPool(2, "few"), threading.Event(), set()

    def work() -> None:
        gate.wait()
        names.add(threading.current_thread().name)

    futures = [pool.submit(work) for _ in range(8)]
    gate.set()
    wait(futures)
    assert names <= {"few_0", "few_1"}
    pool.shutdown()


def test_what_has_not_begun_can_be_cancelled() -> None:
    pool, has_begun, gate = DaemonPool(1, "one"), threading.Event(), threading.Event()

    def work() -> bool:
        has_begun.set()
        return gate.wait()

    begun, waiting = pool.submit(work), pool.submit(abs, -1)
    has_begun.wait()
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert begun.result() and waiting.cancelled()


def test_the_caller_works_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    name = DaemonPool(1, "none").submit(threading.current_thread).result()
    assert name is threading.current_thread()
