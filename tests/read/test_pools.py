"""The threads for requests and decoding: what they give back, and how they end."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from tiffref.read.pools import DaemonPool, decode_pool, fetch_pool, run_soon, wait_for_result


def test_results_and_errors_come_back() -> None:
    pool = DaemonPool(3, "test")
    assert sorted(pool.map(abs, [-3, 2, -1])) == [1, 2, 3]
    failed = pool.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        wait_for_result(failed)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)


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


def test_pools_are_shared_and_questions_may_be_asked_at_once() -> None:
    assert fetch_pool() is fetch_pool() is not decode_pool()
    here = threading.current_thread()
    assert run_soon(threading.current_thread, wait=True).result() is here
    assert run_soon(threading.current_thread).result() is not here
