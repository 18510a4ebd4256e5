"""Batches of jobs whose workers fail or die."""

from __future__ import annotations

import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

import pytest

from tiffref.catalog.executors import Pool, open_pool, run_batches
from tiffref.errors import CatalogError

PIECES = [(n, n + 1) for n in range(0, 40, 2)]


def hand_out(pool: Pool, run: Any) -> tuple[list[int], list[tuple[int, str]]]:
    """Hand out `PIECES`; return what came back, and what was lost."""
    done: list[int] = []
    lost: list[tuple[int, str]] = []

    def note(job: int, error: BaseException) -> None:
        lost.append((job, type(error).__name__))

    run_batches(pool, run, PIECES, done.extend, note)
    return sorted(done), lost


@pytest.mark.parametrize("has_restart", [False, True])
def test_a_worker_that_raises_loses_only_its_batch(has_restart: bool) -> None:
    def run(piece: tuple[int, ...]) -> tuple[int, ...]:
        time.sleep(0.001)
        if 13 in piece:
            raise MemoryError
        return piece

    def start() -> Executor:
        return ThreadPoolExecutor(3)

    pool = Pool(start(), 3, start if has_restart else None)
    done, lost = hand_out(pool, run)
    pool.executor.shutdown()
    assert done == [n for n in range(40) if n != 13]
    assert lost == [(13, "MemoryError")]


class Dying(Executor):
    """Workers that die of some pieces, and with them all that was given to them."""

    def __init__(self) -> None:
        self._is_broken = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        if self._is_broken:
            raise BrokenExecutor("gone")
        future: Future = Future()
        (piece,) = args
        if 13 in piece:
            self._is_broken = True
            future.set_exception(BrokenExecutor("killed"))
        else:
            future.set_result(fn(piece))
        return future


def test_the_file_that_kills_its_worker_is_found() -> None:
    done, lost = hand_out(Pool(Dying(), 2, Dying), lambda piece: piece)
    assert done == [n for n in range(40) if n != 13]
    assert lost == [(13, "BrokenExecutor")]


def test_an_executor_that_shut_down_ends_the_build() -> None:
    asked: list[int] = []

    class Gone(Dying):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
            asked.append(args[0][0])
            raise RuntimeError("shut down")

    with pytest.raises(CatalogError, match="accepts no more work"):
        hand_out(Pool(Gone(), 2), lambda piece: piece)
    assert set(asked) == {0}  # one after the other would be asked in vain


def test_a_request_that_hangs_does_not_hold_up_the_end() -> None:
    hangs, is_given_up = Event(), Event()

    def build() -> None:
        with pytest.raises(KeyboardInterrupt), open_pool("threads", 1, None, False) as pool:
            pool.executor.submit(hangs.wait)
            raise KeyboardInterrupt
        is_given_up.set()

    Thread(target=build, daemon=True).start()
    assert is_given_up.wait(60)
    hangs.set()
