"""Executors of a build: this process, threads, processes, a Dask cluster, or the caller's own.

Owns how each is started, how many pieces of work are in flight, and what becomes of those whose
worker dies: they are done again one at a time, so that the one that kills its worker is known. All
executors have the interface of `concurrent.futures.Executor`.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import CatalogError, SelectionError, requires_extra
from ..read.fetch import DaemonPool

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
    executor, workers, scheduler
        As of `build`. By default: Dask if there is a scheduler, threads for remote files, processes
        if `workers` is more than 1, else this process. What the caller gives is left running.
    is_remote
        The files are behind a network.

    Raises
    ------
    SelectionError, MissingExtra, CatalogError
        If the arguments make no sense, Dask is not installed, or no scheduler answers.
    """
    check_pool_options(executor, workers)
    if isinstance(executor, str) or executor is None:
        kind = executor or _choose(workers, scheduler, is_remote)
        with _OPENERS[kind](workers, scheduler) as pool:
            yield pool
    elif hasattr(executor, "get_executor"):
        with _of_client(executor, workers) as pool:
            yield pool
    else:
        yield Pool(executor, workers or os.cpu_count() or 1)


def check_pool_options(executor: Any, workers: int | None) -> None:
    """Check what `open_pool` takes, before anything is made for it.

    Raises
    ------
    SelectionError
        If the arguments make no sense.
    """
    if workers is not None and workers < 1:
        raise SelectionError("bad number of workers", got=workers, expected="1 or more")
    if isinstance(executor, str):
        if executor not in _OPENERS:
            raise SelectionError("unknown executor", got=repr(executor), expected=tuple(_OPENERS))
    elif executor is not None and not hasattr(executor, "submit"):
        raise SelectionError(
            "not an executor", got=type(executor).__name__, expected="an object with submit()"
        )


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
    # not joined at exit: a request that hangs must not hold up who gives up
    executor = DaemonPool(n, "tiffref-catalog")
    try:
        yield Pool(executor, n)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _processes(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    n = workers or os.cpu_count() or 1
    # a forked child would inherit locks that other threads of this process hold
    context = multiprocessing.get_context("spawn")

    def start() -> Executor:
        return ProcessPoolExecutor(n, context, initializer=_end_with_parent)

    others = set(multiprocessing.active_children())
    pool = Pool(start(), n, start)
    try:
        yield pool
    except KeyboardInterrupt:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()  # it may wait for a server
        raise
    finally:
        pool.executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, killed without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="tiffref-watch").start()


@contextlib.contextmanager
def _dask(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    with requires_extra("dask", "Dask's scheduler needs distributed"):
        import distributed
    with contextlib.ExitStack() as stack:
        address: Any = scheduler or stack.enter_context(
            distributed.LocalCluster(
                n_workers=workers or os.cpu_count() or 1,
                threads_per_worker=1,
                dashboard_address=":0",
            )
        )
        try:
            client = stack.enter_context(distributed.Client(address, timeout=_SCHEDULER_TIMEOUT_S))
        except (OSError, ValueError) as error:
            raise CatalogError(
                "no Dask scheduler answers", url=scheduler, got=str(error) or None,
                hint="Start one (dask scheduler), or leave out --scheduler and give --workers.",
            ) from error  # fmt: skip
        yield stack.enter_context(_of_client(client, None))


@contextlib.contextmanager
def _of_client(client: Any, workers: int | None) -> Iterator[Pool]:
    with client.get_executor(pure=False) as executor:
        yield Pool(executor, workers or max(1, len(client.scheduler_info()["workers"])))


_OPENERS = {"serial": _serial, "threads": _threads, "processes": _processes, "dask": _dask}

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 3
"""Pieces in flight for each worker: enough that none waits, and few in memory."""


@dataclass(frozen=True, slots=True)
class JobQueue(Generic[T, R]):
    """Pieces of work, each some jobs, and who does them.

    Attributes
    ----------
    pool
        The workers.
    run
        Does a piece, in a worker.
    take
        Called here with its result.
    lost
        Called here with a job that cannot be done, and the error.
    """

    pool: Pool
    run: Callable[[tuple[T, ...]], R]
    take: Callable[[R], None]
    lost: Callable[[T, BaseException], None]

    def work(self, pieces: Iterable[tuple[T, ...]]) -> None:
        """Do all pieces; the jobs of those whose worker fails or dies are done again, each alone.

        Raises
        ------
        CatalogError
            If what a worker does cannot be written, or the executor takes no more work.
        """
        waiting = iter(pieces)
        while failed := self._run_together(waiting):
            self.pool.revive()
            for job in itertools.chain(*failed):
                self._run_alone(job)

    def _run_together(self, waiting: Iterator[tuple[T, ...]]) -> list[tuple[T, ...]]:
        """Do pieces, a few ahead of the workers, until one fails; return those that failed."""
        running: dict[Future[R], tuple[T, ...]] = {}
        failed: list[tuple[T, ...]] = []
        while not failed:
            n_free = _AHEAD * self.pool.n_workers - len(running)
            for piece in itertools.islice(waiting, n_free):
                try:
                    running[self.pool.executor.submit(self.run, piece)] = piece
                except (BrokenExecutor, RuntimeError):  # RuntimeError: shut down by its owner
                    failed.append(piece)
                    break
            if not running:
                return failed
            failed += self._finish(running, FIRST_COMPLETED)
        return failed + self._finish(running, ALL_COMPLETED)

    def _finish(
        self, running: dict[Future[R], tuple[T, ...]], return_when: str
    ) -> list[tuple[T, ...]]:
        """Take the results of what has ended, and return the pieces that failed."""
        ended, _ = wait(running, return_when=return_when)
        pieces = [(future, running.pop(future)) for future in ended]
        return [piece for future, piece in pieces if self._take(future) is not None]

    def _take(self, future: Future[R]) -> BaseException | None:
        """Take a result; return the error if there is none."""
        error = future.exception()
        if isinstance(error, CatalogError):
            raise error
        if error is None:
            self.take(future.result())
        return error

    def _run_alone(self, job: T) -> None:
        """Do one job and nothing else, so that what kills its worker is known."""
        try:
            future = self.pool.executor.submit(self.run, (job,))
        except (BrokenExecutor, RuntimeError) as error:
            raise CatalogError(
                "the executor takes no more work",
                got=f"{type(error).__name__}: {error}",
                hint="Start the build again: it goes on where it stopped.",
            ) from error
        if (cause := self._take(future)) is not None:
            if isinstance(cause, BrokenExecutor):
                self.pool.revive()
            self.lost(job, cause)
