"""The threads that fetch and decode, shared by all readers of a process.

Waiting and computing are kept apart: a request waits 20 ms and more and wants many threads, while
decoding wants as many as there are cores. Tasks never wait for tasks of their own pool, so that
any number of readers can share both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

__all__ = ["N_CORES", "decode_pool", "fetch_pool", "run_soon"]

N_FETCHERS = 32
"""81 requests of 20 ms took 79 ms with 32 threads, 925 ms with 2."""

N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def fetch_pool() -> ThreadPoolExecutor:
    """Give the pool for requests."""
    return ThreadPoolExecutor(N_FETCHERS, thread_name_prefix="tiffref-fetch")


@cache
def decode_pool() -> ThreadPoolExecutor:
    """Give the pool for decoding, and for reading of local files."""
    return ThreadPoolExecutor(N_CORES, thread_name_prefix="tiffref-decode")


@cache
def check_pool() -> ThreadPoolExecutor:
    """Give the pool for questions about sources, which fetching tasks wait for."""
    return ThreadPoolExecutor(N_FETCHERS // 2, thread_name_prefix="tiffref-check")


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
