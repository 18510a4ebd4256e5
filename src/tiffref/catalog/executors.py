"""Executors of a build: this process, threads, processes, a Dask cluster, or the caller's own.

Starts and stops workers, limits the batches in flight, and retries batches that a worker failed or
that died with it: their jobs run one at a time, which identifies the job that kills its worker.
All executors have the interface of `concurrent.futures.Executor`.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import CatalogError, requires_extra
from ..io.clients import DaemonPool

_REMOTE_THREADS = 16
_SCHEDULER_TIMEOUT_S = 10


class _SerialExecutor(Executor):
    """Runs calls immediately, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run the call and return a finished future."""
        future: Future = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # executors pass exceptions on in the future
            future.set_exception(error)
        return future


@dataclass(slots=True)
class Pool:
    """A running executor.

    `restart` starts a new one after workers died; None if the executor recovers by itself.
    """

    executor: Executor
    n_workers: int
    restart: Callable[[], Executor] | None = None

    def restart_workers(self) -> None:
        """Replace an executor whose workers have died."""
        if self.restart is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)
            self.executor = self.restart()


def open_pool(
    executor: Any, workers: int | None, scheduler: str | None, is_remote: bool
) -> contextlib.AbstractContextManager[Pool]:
    """Start workers, and stop them at the end of the block.

    Parameters
    ----------
    executor, workers, scheduler
        As in `build`. By default, Dask if `scheduler` is given, threads for remote files, processes
        if `workers` is more than 1, else this process. The caller's executor is not shut down.
    is_remote
        Whether the files are accessed over a network.

    Raises
    ------
    MissingExtra, CatalogError
        If Dask is not installed, or the scheduler does not answer.
    """
    if executor is None:
        is_serial = workers in (None, 1)
        executor = "threads" if is_remote else "serial" if is_serial else "processes"
        executor = executor if scheduler is None else "dask"
    if isinstance(executor, str):
        return OPENERS[executor](workers, scheduler)
    if hasattr(executor, "get_executor"):
        return _client_pool(executor, workers)
    return contextlib.nullcontext(Pool(executor, workers or os.cpu_count() or 1))


@contextlib.contextmanager
def _thread_pool(workers: int | None, _: Any) -> Iterator[Pool]:
    n = workers or _REMOTE_THREADS
    # daemon threads: a hanging request must not block the exit of the interpreter
    executor = DaemonPool(n, "tiffref-catalog")
    try:
        yield Pool(executor, n)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _process_pool(workers: int | None, _: Any) -> Iterator[Pool]:
    n = workers or os.cpu_count() or 1
    # a forked child would inherit locks that other threads of this process hold
    context = multiprocessing.get_context("spawn")

    def start() -> Executor:
        return ProcessPoolExecutor(n, context, initializer=_exit_with_parent)

    others = set(multiprocessing.active_children())
    pool = Pool(start(), n, start)
    try:
        yield pool
    except KeyboardInterrupt:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()  # it may be waiting for a server
        raise
    finally:
        pool.executor.shutdown(cancel_futures=True)


def _exit_with_parent() -> None:
    """Make this worker exit when its parent process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent handles it
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="tiffref-watch").start()


@contextlib.contextmanager
def _dask_pool(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
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
                "the Dask scheduler does not answer", url=scheduler, got=str(error) or None,
                hint="Start one (dask scheduler), or use --workers instead of --scheduler.",
            ) from error  # fmt: skip
        yield stack.enter_context(_client_pool(client, None))


@contextlib.contextmanager
def _client_pool(client: Any, workers: int | None) -> Iterator[Pool]:
    with client.get_executor(pure=False) as executor:
        yield Pool(executor, workers or max(1, len(client.scheduler_info()["workers"])))


OPENERS: Mapping[str, Callable[..., contextlib.AbstractContextManager[Pool]]] = {
    "serial": lambda *_: contextlib.nullcontext(Pool(_SerialExecutor(), 1)),
    "threads": _thread_pool,
    "processes": _process_pool,
    "dask": _dask_pool,
}
"""Functions of `workers` and `scheduler`, by the names of executors."""

T = TypeVar("T")
R = TypeVar("R")

_BATCHES_PER_WORKER = 3
"""Batches in flight per worker: enough to keep it busy, few enough for memory."""


def run_batches(
    pool: Pool,
    run: Callable[[tuple[T, ...]], R],
    batches: Iterable[tuple[T, ...]],
    on_result: Callable[[R], None],
    on_failure: Callable[[T, BaseException], None],
) -> None:
    """Run batches of jobs; if a worker fails or dies, run the jobs of its batch one by one.

    With no other in flight, a job whose worker dies is the cause.

    Parameters
    ----------
    run
        Runs a batch, in a worker.
    on_result
        Called with each result, in this process.
    on_failure
        Called with each job that failed, and its error, in this process.

    Raises
    ------
    CatalogError
        If a worker cannot write its output, or the executor accepts no more work.
    """
    waiting = iter(batches)
    while failed := _run_until_failure(pool, run, waiting, on_result):
        pool.restart_workers()
        for job in itertools.chain(*(batch for batch, _ in failed)):
            for _, error in _run_until_failure(pool, run, iter([(job,)]), on_result):
                if isinstance(error, CatalogError):
                    raise error
                if isinstance(error, BrokenExecutor):
                    pool.restart_workers()
                on_failure(job, error)


def _run_until_failure(
    pool: Pool,
    run: Callable[[tuple[T, ...]], R],
    waiting: Iterator[tuple[T, ...]],
    on_result: Callable[[R], None],
) -> list[tuple[tuple[T, ...], BaseException]]:
    """Run batches, a few ahead of the workers, until one fails; return failures and errors."""
    running: dict[Future[R], tuple[T, ...]] = {}
    failed: list[tuple[tuple[T, ...], BaseException]] = []
    while True:
        n_free = _BATCHES_PER_WORKER * pool.n_workers - len(running)
        for batch in itertools.islice(waiting, 0 if failed else n_free):
            try:
                running[pool.executor.submit(run, batch)] = batch
            except RuntimeError as error:  # broken, or shut down by its owner
                refused = CatalogError(
                    "the executor accepts no more work",
                    got=f"{type(error).__name__}: {error}",
                    hint="Run the build again: it continues where it stopped.",
                )
                failed.append((batch, refused))
                break
        if not running:
            return failed
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            batch, cause = running.pop(future), future.exception()
            if isinstance(cause, CatalogError):
                raise cause
            if cause is None:
                on_result(future.result())
            else:
                failed.append((batch, cause))
