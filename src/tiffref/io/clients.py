"""Access to fsspec file systems: their errors, file metadata, locks and timeouts.

Lists the exception classes of clients that are not `OSError`, such as botocore's for missing
credentials, and the names under which they report size, modification time and ETag. Calls and
coroutines run with a timeout, and one at a time on file systems that are not thread-safe. fsspec
and asyncio are imported when needed: local files do not need them, and they take a sixth of the
start-up time of the program.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    thread,  # noqa: F401 - see `_cancel_on_interrupt`
)
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

from ..errors import SourceError, safe_cause, unreadable
from ..model.manifest import Source
from .urls import CACHES, expand_host

_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("ftplib", "Error"),
    ("paramiko.ssh_exception", "SSHException"),
    ("asyncssh", "Error"),
    ("webdav4.client", "ClientError"),
    ("httpx", "HTTPError"),
    ("smbprotocol.exceptions", "SMBException"),
    ("obstore.exceptions", "BaseError"),
    ("zipfile", "BadZipFile"),
    ("tarfile", "TarError"),
    ("zlib", "error"),
    ("lzma", "LZMAError"),
)


def client_errors() -> tuple[type[BaseException], ...]:
    """Return the exception classes that file systems raise if an operation fails.

    Among them are `OSError`, `ValueError`, `RuntimeError` for encrypted archives and unsupported
    methods, `TypeError` for an unknown option, and `ImportError`, which fsspec raises if the
    package of a client is missing.
    """
    clients = (getattr(sys.modules.get(module), name, None) for module, name in _CLIENTS)
    loaded = [client for client in clients if client is not None]
    return (OSError, EOFError, TypeError, ValueError, RuntimeError, ImportError, *loaded)


@contextlib.contextmanager
def typed_errors(
    url: str, what: str = "cannot be read", passing: type[BaseException] = SourceError
) -> Iterator[None]:
    """Turn errors of clients into a `SourceError`; those of the class `passing` are unchanged."""
    try:
        yield
    except passing:
        raise
    except client_errors() as error:
        raise unreadable(url, error, what) from safe_cause(error)


def find_file_system(url: str, storage_options: Any, what: str = "cannot be opened") -> Any:
    """Return the fsspec file system of a URL, and the path in it.

    Raises
    ------
    SourceError
        If there is no file system for the URL, or it does not accept the options.
    """
    import fsspec  # local files do not need it

    url = expand_host(url)
    with typed_errors(url, what):
        kind = fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
        if fsspec.utils.get_protocol(url) in _LAZY_PROTOCOLS or _is_serverless(kind):
            return url_to_fs(url, storage_options)
        # other file systems may connect when they are created
        is_whole = not _WHOLE_FILE_PROTOCOLS.isdisjoint(
            link.partition("://")[0] for link in url.split("::")
        )
        limit_s = time_limit_s(UNKNOWN_SIZE_BYTES if is_whole else 0)
        return _call_in_thread(url, limit_s, lambda: url_to_fs(url, storage_options))


def url_to_fs(url: str, storage_options: Any) -> Any:
    """Return the fsspec file system of a URL, and the path in it; errors are those of fsspec.

    The option `asynchronous` is ignored: zarr needs it in `storage_options`, and kerchunk adds it
    to those it is given, but such a file system raises "Loop is not running" here.
    """
    import fsspec

    options = {**(storage_options or {})}
    options.pop("asynchronous", None)
    return fsspec.url_to_fs(url, **options)


_TIMEOUT_VARIABLE = "TIFFREF_TIMEOUT"
_TIMEOUT_S = 90.0
_SLOWEST_BYTES_PER_S = 1 << 14
UNKNOWN_SIZE_BYTES = 1 << 30
"""Size assumed for the timeout of a response whose size is not known."""


def time_limit_s(n_bytes: int, total_s: float = _TIMEOUT_S) -> float:
    """Return the timeout of a request with all its retries, in seconds.

    The environment variable `TIFFREF_TIMEOUT` overrides it; `inf` means no limit.

    Parameters
    ----------
    n_bytes
        Bytes requested.
    total_s
        Seconds for the request, in addition to the time for its bytes on a slow connection.
    """
    limit_s = total_s + n_bytes / _SLOWEST_BYTES_PER_S
    with contextlib.suppress(ValueError):
        limit_s = float(os.environ.get(_TIMEOUT_VARIABLE, ""))
    # the maximum of locks and event loops
    return min(limit_s, threading.TIMEOUT_MAX)


def timeout_error(url: str, limit_s: float) -> SourceError:
    """Build the error for a server that does not respond in time."""
    return SourceError(
        "the server takes too long",
        url=url,
        got=f"no complete response in {limit_s:.0f} seconds",
        hint=f"Set the environment variable {_TIMEOUT_VARIABLE} to allow more seconds.",
    )


async def with_timeout(url: str, limit_s: float, function: Any, *arguments: Any) -> Any:
    """Await a coroutine function; raise `timeout_error` if it takes too long."""
    import asyncio

    try:
        async with asyncio.timeout(limit_s) as clock:
            return await function(*arguments)
    except TimeoutError as error:
        if not clock.expired():  # a timeout of the client
            raise
        raise timeout_error(url, limit_s) from error


_MAX_CONCURRENT = 64


async def gather(function: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Await a coroutine function concurrently for each of these arguments, until one fails.

    A limited number runs at a time, so timeouts belong into the function.
    """
    import asyncio

    slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def run(*given: Any) -> Any:
        async with slots:
            return await function(*given)

    if len(arguments) == 1:
        return [await function(*arguments[0])]
    tasks = [asyncio.ensure_future(run(*given)) for given in arguments]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


_LAZY_PROTOCOLS = frozenset({"http", "https", "s3", "s3a"})
"""Protocols whose file systems connect on the first request."""
_locks: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
_locks_lock = threading.Lock()
_fallback_lock = threading.Lock()


def shared_lock(file: BinaryIO | Any) -> threading.Lock:
    """Return the lock that all readers of an open file, or of a file system, share."""
    try:
        with _locks_lock:
            return _locks.setdefault(file, threading.Lock())
    except TypeError:  # not hashable, or without weak references
        return _fallback_lock


def after_fork(reset: Callable[[], None]) -> Callable[[], None]:
    """Decorate a function to run in each forked child, where other threads do not exist."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)
    return reset


@after_fork
def _reset_locks() -> None:
    # other threads of the parent process may have held the locks when it forked
    global _locks, _locks_lock, _fallback_lock, _request_threads
    _locks = WeakKeyDictionary()
    _locks_lock, _fallback_lock = threading.Lock(), threading.Lock()
    _request_threads = threading.local()


_THREAD_SAFE_PROTOCOLS = frozenset({"memory", "file", "local", "data", "hdfs", "arrow_hdfs"})
"""Protocols whose file systems are thread-safe though not asynchronous."""


def file_system_lock(fs: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the lock to hold while using a file system; a null context if it is thread-safe.

    Asynchronous file systems handle concurrent requests. Others, such as those of FTP, SFTP, SMB
    and archives, have one connection or one open file, and would mix up the responses of threads.
    Caches would read a file that another thread is still fetching.
    """
    if without_cache(fs) is not fs:
        return shared_lock(fs)
    if getattr(fs, "async_impl", False) or not _THREAD_SAFE_PROTOCOLS.isdisjoint(protocols(fs)):
        return contextlib.nullcontext()
    return shared_lock(fs)


_SERVERLESS_PROTOCOLS = frozenset({"memory", "file", "local", "data"})
_FILE_CACHES = frozenset({"simplecache", "filecache"})
_WHOLE_FILE_PROTOCOLS = _FILE_CACHES | {"tar"}
"""Protocols that fetch the whole file, however large, to read a few bytes."""


def is_file_cache(fs: Any) -> bool:
    """Return whether a file system is a cache of whole files in front of another one."""
    return not _FILE_CACHES.isdisjoint(protocols(fs))


def without_cache(fs: Any) -> Any:
    """Return the file system behind the caches of fsspec; others are returned unchanged."""
    while not CACHES.isdisjoint(protocols(fs)):
        fs = fs.fs
    return fs


def protocols(fs: Any) -> frozenset[str]:
    """Return the protocols of a file system of fsspec."""
    names = getattr(fs, "protocol", ())
    return frozenset((names,) if isinstance(names, str) else names)


def _is_serverless(fs: Any) -> bool:
    return not _SERVERLESS_PROTOCOLS.isdisjoint(protocols(fs))


def call_with_timeout(fs: Any, url: str, n_bytes: int, function: Callable[[], Any]) -> Any:
    """Call a function that uses a file system, under the lock of the file system if it needs one.

    A client whose server hangs cannot be stopped. It keeps waiting in its thread, and keeps the
    lock, because the response may still arrive; the next file opened gets a new client.

    Raises
    ------
    SourceError
        If the timeout for this many bytes expires.
    """

    def call() -> Any:
        with file_system_lock(fs):
            return function()

    if _is_serverless(fs):
        return call()
    if not _WHOLE_FILE_PROTOCOLS.isdisjoint(protocols(fs)):
        n_bytes = max(n_bytes, UNKNOWN_SIZE_BYTES)
    return _call_in_thread(url, time_limit_s(n_bytes), call, lambda: fs.clear_instance_cache())


def _call_in_thread(
    url: str, limit_s: float, function: Callable[[], Any], on_timeout: Callable[[], Any] = int
) -> Any:
    """Call a function in the request thread of this thread, with a timeout."""
    pool = getattr(_request_threads, "current", None) or DaemonPool(1, "tiffref-request")
    _request_threads.current = pool
    future = pool.submit(function)
    _requests.add(future)
    try:
        if _interrupted.is_set():
            _give_up(future)
        return future.result(limit_s)
    except CancelledError as error:
        _request_threads.current = None
        raise SourceError(_INTERRUPTED) from error
    except TimeoutError:
        if future.done():
            raise
        _request_threads.current = None
        on_timeout()
        raise timeout_error(url, limit_s) from None
    except BaseException:
        if not future.done():
            _request_threads.current = None
        raise
    finally:
        future.cancel()
        _requests.discard(future)
        del future  # breaks the cycle of its exception and this frame, which keeps the data alive


_request_threads = threading.local()
"""The request thread of each thread, as a pool: fsspec creates one client per thread."""


class DaemonPool(Executor):
    """Thread pool of daemon threads, which are not joined at exit; they end with the pool.

    With `ThreadPoolExecutor`, a program interrupted while it reads from a server that hangs would
    still wait for the server. If no thread can be started, because the interpreter is shutting
    down, tasks run in the caller.
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
            # first the task: a new thread that finds none counts as idle, and tasks wait for it
            self._tasks.put((future, functools.partial(fn, *args, **kwargs)))
            is_served = self._idle.acquire(blocking=False) or self._start_thread()
            task = None
            if not is_served:
                with contextlib.suppress(queue.Empty):  # an older thread has taken it
                    task = self._tasks.get_nowait()
        if task is not None:
            _run(*task)
        return future

    def _start_thread(self) -> bool:
        """Start one more thread unless there are enough; return False if none can be started."""
        if len(self._threads) >= self._max_workers:
            return True
        name, shared = f"{self._name}_{len(self._threads)}", (self._tasks, self._idle)
        started = threading.Thread(target=_work, args=shared, name=name, daemon=True)
        try:
            started.start()
        except RuntimeError:
            return False
        self._threads.append(started)
        return True

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
        self._end_threads()
        for started in self._threads if wait else ():
            started.join()

    def _end_threads(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)

    __del__ = _end_threads


def _work(tasks: queue.SimpleQueue[Any], idle: threading.Semaphore) -> None:
    """Run the tasks of a pool, without a reference to it."""
    while True:
        try:
            task = tasks.get_nowait()
        except queue.Empty:
            idle.release()
            task = tasks.get()
        if task is None:
            return
        _run(*task)
        del task  # otherwise its result stays alive until the next task


def _run(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    with contextlib.suppress(InvalidStateError):  # given up
        try:
            result = function()
        except BaseException as error:  # raised again by `future.result`
            future.set_exception(error)
            del future  # breaks the cycle of the error and this frame
        else:
            future.set_result(result)


def run_coroutine(fs: Any, function: Any, *arguments: Any) -> Any:
    """Call a coroutine function in the event loop of a file system, and return its result.

    Raises
    ------
    SourceError
        If the program was interrupted by Ctrl-C: threads of other libraries, for which Python
        waits at exit, would otherwise go on sending requests to a server that hangs.
    """
    import asyncio

    request = asyncio.run_coroutine_threadsafe(function(*arguments), fs.loop)
    _requests.add(request)
    try:
        if _interrupted.is_set():  # after `add`, or `_cancel_on_interrupt` could miss the request
            request.cancel()
        return request.result()
    except CancelledError as error:
        raise SourceError(_INTERRUPTED) from error
    finally:
        request.cancel()
        _requests.discard(request)
        del request  # as in `_call_in_thread`


_INTERRUPTED = "reading was stopped: the program was interrupted"
_requests: set[Future[Any]] = set()
_interrupted = threading.Event()


def _cancel_on_interrupt() -> None:
    """Cancel all requests if the program ends because of Ctrl-C."""
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        _interrupted.set()
        for request in list(_requests):
            _give_up(request)


def _give_up(request: Future[Any]) -> None:
    """Cancel a request; if a thread is running it, let its caller go on."""
    if not request.cancel():
        with contextlib.suppress(InvalidStateError):
            request.set_exception(CancelledError())


# functions registered last run first: this one before `concurrent.futures.thread` joins its threads
getattr(threading, "_register_atexit", id)(_cancel_on_interrupt)


def fetch_info(fs: Any, path: str, url: str, *, is_listed: bool = False) -> Mapping[str, Any]:
    """Return the current `info` of a file.

    Parameters
    ----------
    fs, path, url
        File system, path in it, and URL for errors.
    is_listed
        Accept cached directory listings of the file system, which may be as old as the process.

    Raises
    ------
    SourceError
        If the timeout expires.
    """

    def info() -> Mapping[str, Any]:
        if not is_listed:
            fs.invalidate_cache(path.rpartition("/")[0] or "/")
        return fs.info(path)

    return call_with_timeout(fs, url, 0, info)


def source_from_info(url: str, info: Mapping[str, Any]) -> Source:
    """Return size, modification time and ETag from the `info` of a file system."""
    time = next((info[name] for name in _TIME_KEYS if info.get(name)), None)
    moment: Any = _parse_time(time) if isinstance(time, str) else time
    seconds = moment.timestamp() if hasattr(moment, "timestamp") else moment
    etag = info.get("ETag") or info.get("etag") or info.get("e_tag")
    return Source(
        url,
        info.get("size"),
        seconds if isinstance(seconds, int | float) else None,
        etag.strip('"') if isinstance(etag, str) else None,
    )


_TIME_KEYS = ("mtime", "LastModified", "last_modified", "modified", "modify", "created")


def _parse_time(text: str) -> datetime.datetime | None:
    """Parse a modification time of FTP, such as 20260131235959 (RFC 3659, section 2.3)."""
    try:
        moment = datetime.datetime.strptime(text[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment.replace(tzinfo=datetime.UTC)
