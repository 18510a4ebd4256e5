"""Executors of a build: this process, threads, processes, a Dask cluster, or the caller's own.

Owns how each is started, how many pieces of work are in flight, and what becomes of those whose
worker dies: they are done again one at a time, so that the one that kills its worker is known. All
executors have the interface of `concurrent.futures.Executor`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import CatalogError, MissingExtra, SelectionError, install_hint

__all__ = ["KINDS", "JobQueue", "Pool", "open_pool"]

KINDS = ("serial", "threads", "processes", "dask")
_REMOTE_THREADS = 16
_SCHEDULER_TIMEOUT_S = 10


class _Serial(Executor):
    """Does the work where it is asked for."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run the call now; its outcome is known when this returns."""
        future: Future = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # the face of an executor: its future carries what was raised
            future.set_exception(error)
        return future


@dataclass(slots=True)
class Pool:
    """An executor in use.

    `restart` gives a new one when its workers have died; None where it recovers by itself.
    """

    executor: Executor
    n_workers: int
    restart: Callable[[], Executor] | None = None

    def revive(self) -> None:
        """Replace an executor whose workers died."""
        if self.restart is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)
            self.executor = self.restart()


@contextlib.contextmanager
def open_pool(
    executor: Any, workers: int | None, scheduler: str | None, is_remote: bool
) -> Iterator[Pool]:
    """Start workers, and end them.

    Parameters
    ----------
    executor
        One of `KINDS`, a Dask `Client`, or anything with the face of an executor; None chooses:
        Dask if there is a scheduler, processes if `workers` is more than 1, threads for remote
        files, else this process. What the caller gives is left running.
    workers
        How many.
    scheduler
        Address of a Dask scheduler.
    is_remote
        The files are behind a network.

    Raises
    ------
    SelectionError
        If the arguments make no sense.
    MissingExtra
        If Dask is needed and not installed.
    CatalogError
        If no scheduler answers.
    """
    if workers is not None and workers < 1:
        raise SelectionError("bad number of workers", got=workers, expected="1 or more")
    if hasattr(executor, "get_executor"):
        with executor.get_executor(pure=False) as pool:
            yield Pool(pool, workers or max(1, len(executor.scheduler_info()["workers"])))
        return
    if executor is not None and not isinstance(executor, str):
        if not hasattr(executor, "submit"):
            raise SelectionError(
                "not an executor", got=type(executor).__name__, expected="an object with submit()"
            )
        yield Pool(executor, workers or os.cpu_count() or 1)
        return
    kind = executor or _choose(workers, scheduler, is_remote)
    if kind not in KINDS:
        raise SelectionError("unknown executor", got=repr(kind), expected=KINDS)
    with _OPENERS[kind](workers, scheduler) as pool:
        yield pool


def _choose(workers: int | None, scheduler: str | None, is_remote: bool) -> str:
    if scheduler is not None:
        return "dask"
    if is_remote:
        return "threads"
    return "serial" if workers in (None, 1) else "processes"


@contextlib.contextmanager
def _serial(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    yield Pool(_Serial(), 1)


@contextlib.contextmanager
def _threads(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    n = workers or _REMOTE_THREADS
    with ThreadPoolExecutor(n, "tiffref-catalog") as executor:
        yield Pool(executor, n)


@contextlib.contextmanager
def _processes(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    n = workers or os.cpu_count() or 1
    # a forked child would inherit locks that other threads of this process hold
    context = multiprocessing.get_context("spawn")

    def start() -> Executor:
        return ProcessPoolExecutor(n, context, initializer=_end_with_parent)

    pool = Pool(start(), n, start)
    try:
        yield pool
    finally:
        pool.executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, killed without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="tiffref-watch").start()


@contextlib.contextmanager
def _dask(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtra(
            "Dask's scheduler needs distributed", hint=install_hint("dask")
        ) from error
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            n = workers or os.cpu_count() or 1
            address: Any = stack.enter_context(
                distributed.LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0")
            )
        else:
            address = scheduler
        try:
            client = stack.enter_context(distributed.Client(address, timeout=_SCHEDULER_TIMEOUT_S))
        except (OSError, ValueError) as error:
            raise CatalogError(
                "no Dask scheduler answers", url=scheduler, got=str(error) or None,
                hint="Start one (dask scheduler), or leave out --scheduler and give --workers.",
            ) from error  # fmt: skip
        executor = stack.enter_context(client.get_executor(pure=False))
        yield Pool(executor, max(1, len(client.scheduler_info()["workers"])))


_OPENERS = {"serial": _serial, "threads": _threads, "processes": _processes, "dask": _dask}


T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 3
"""Pieces in flight for each worker: enough that none waits, and few in memory."""
_STRIKES = 2
"""How often a piece may be at work when its worker dies, before it is taken for the cause."""


@dataclass(slots=True)
class JobQueue(Generic[T, R]):
    """How pieces of work are handed out.

    Attributes
    ----------
    pool
        Who does them.
    run
        Does one, in a worker.
    take
        Called here with what it gave.
    split
        Gives the smallest pieces that one is made of.
    lost
        Called here with the smallest piece that cannot be done, and what its worker died of.
    """

    pool: Pool
    run: Callable[[T], R]
    take: Callable[[R], None]
    split: Callable[[T], Iterable[T]]
    lost: Callable[[T, BaseException], None]
    _running: dict[Future[R], T] = field(default_factory=dict)

    def work(self, pieces: Iterable[T]) -> None:
        """Hand out all pieces, a few ahead of the workers, and take what comes back.

        Raises
        ------
        CatalogError
            If what a worker does cannot be written, or the executor takes no more work.
        """
        waiting = iter(pieces)
        orphans: list[T] = []
        while True:
            while len(self._running) < _AHEAD * self.pool.n_workers:
                if (piece := next(waiting, None)) is None:
                    break
                if not self._submit(piece):
                    orphans.append(piece)
                    break
            if not self._running:
                if not orphans:
                    return
                self._alone(orphans)
                orphans = []
                continue
            ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenExecutor) for future in ended):
                wait(self._running)  # a pool that has lost a worker gives up all it was given
                ended = set(self._running)
            orphans += [piece for future in ended if (piece := self._finish(future)) is not None]

    def _submit(self, piece: T) -> bool:
        try:
            self._running[self.pool.executor.submit(self.run, piece)] = piece
        except (BrokenExecutor, RuntimeError):  # RuntimeError: shut down by its owner
            return False
        return True

    def _finish(self, future: Future[R]) -> T | None:
        """Take what a piece gave; give it back if its worker died."""
        piece = self._running.pop(future)
        error = future.exception()
        if isinstance(error, CatalogError):
            raise error
        if error is not None:
            return piece
        self.take(future.result())
        return None

    def _alone(self, lost: Iterable[T]) -> None:
        """Do pieces one at a time, and nothing else: which one kills its worker is then known."""
        self.pool.revive()
        for piece in lost:
            for single in self.split(piece):
                self._one(single)

    def _one(self, single: T) -> None:
        error: BaseException | None = None
        for _ in range(_STRIKES):
            if not self._submit(single):
                raise CatalogError(
                    "the executor takes no more work",
                    got=None if error is None else f"{type(error).__name__}: {error}",
                    hint="Start the build again: it goes on where it stopped.",
                )
            (future,) = self._running
            error = future.exception()
            if self._finish(future) is None:
                return
            if not isinstance(error, BrokenExecutor):
                break
            self.pool.revive()
        assert error is not None
        self.lost(single, error)
