"""The threads that fetch and decode, shared by all readers of a process.

Waiting and computing are kept apart: a request waits 20 ms and more and wants many threads, while
decoding wants as many as there are cores. Tasks never wait for tasks of their own pool, so that
any number of readers can share both.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache
from typing import Any

__all__ = [
    "N_CORES",
    "DaemonPool",
    "check_pool",
    "decode_pool",
    "fetch_pool",
    "run_soon",
    "wait_for_result",
]

N_FETCHERS = 32
"""81 requests of 20 ms took 79 ms with 32 threads, 925 ms with 2."""

N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class DaemonPool(Executor):
    """Threads that a program does not wait for when it ends.

    Those of `ThreadPoolExecutor` are joined at exit, so that whoever gives up a read from a server
    that hangs would wait for the server all the same. Where no thread can be started any more,
    while the interpreter ends, work is done by the caller.
    """

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        self._max_workers = max_workers
        self._name = thread_name_prefix
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            is_served = self._idle.acquire(blocking=False) or self._start_thread()
        task = (future, fn, args, kwargs)
        if is_served:
            self._tasks.put(task)
        else:
            _run(*task)
        return future

    def _start_thread(self) -> bool:
        """Start one more thread unless there are enough; False where there is none at all."""
        if len(self._threads) >= self._max_workers:
            return True
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads.append(thread)
        return True

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                self._idle.release()
                task = self._tasks.get()
            if task is None:
                return
            _run(*task)
            del task  # or its result would live until the next one comes

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._is_shut = True
        while cancel_futures:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is not None:
                task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads if wait else ():
            thread.join()


def _run(future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # raised again to whoever asks for the result
        future.set_exception(error)
    else:
        future.set_result(result)


@cache
def fetch_pool() -> Executor:
    """Return the pool for requests."""
    return DaemonPool(N_FETCHERS, "tiffref-fetch")


@cache
def decode_pool() -> Executor:
    """Return the pool for decoding, and for reading of local files."""
    return DaemonPool(N_CORES, "tiffref-decode")


@cache
def check_pool() -> Executor:
    """Return the pool for questions about sources, which fetching tasks wait for."""
    return DaemonPool(N_FETCHERS // 2, "tiffref-check")


def wait_for_result(future: Future[Any]) -> Any:
    """Return the result of a future, looking up now and then.

    A signal that comes just before a thread falls asleep does not wake it: one Ctrl-C of fifteen
    was lost without this.
    """
    while True:
        try:
            return future.result(_LOOK_UP_S)
        except TimeoutError:
            if future.done():
                return future.result()


_LOOK_UP_S = 0.5


def run_soon(function: Callable[..., Any], *args: Any, wait: bool = False) -> Future[Any]:
    """Run a short question about a source, now (`wait`) or on another thread."""
    if not wait:
        return check_pool().submit(function, *args)
    future: Future[Any] = Future()
    future.set_result(function(*args))
    return future


def _forget_pools() -> None:
    for pool in (fetch_pool, decode_pool, check_pool):
        pool.cache_clear()


if hasattr(os, "register_at_fork"):
    # the threads of a pool do not exist in a forked child, but its object does
    os.register_at_fork(after_in_child=_forget_pools)
