"""Clients of object stores and servers: the errors that they raise, and how to ask them.

Owns the list of error classes that are not `OSError` (without credentials, say, botocore raises
one of its own; a client that was never loaded has raised nothing), what each calls size, time and
ETag, the locks of those that only one reader can use at a time, the time that a request may take,
and the step from a coroutine of fsspec's file systems to its result. fsspec's loop and asyncio,
which local files do not need, are loaded when it is taken: they are a sixth of the time that the
program needs to start.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import (
    CancelledError,
    Future,
    InvalidStateError,
    thread,  # noqa: F401 - see `_give_up`
)
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

from ..errors import SourceError, unreadable
from ..model.manifest import Source

__all__ = [
    "WHOLE_BYTES",
    "ask_state",
    "call_within",
    "client_errors",
    "find_file_system",
    "lock_for",
    "lock_of",
    "source_of_info",
    "time_limit_s",
    "too_slow",
    "typed_errors",
    "wait_for",
    "wait_within",
]

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
    ("zipfile", "BadZipFile"),
)


def client_errors() -> tuple[type[BaseException], ...]:
    """Return the classes of errors by which a file system says that something cannot be done.

    Among them are `OSError`, `ValueError`, `NotImplementedError`, `TypeError` for an option that a
    client does not know, and `ImportError`, which is how fsspec says that the package of a client
    is missing.
    """
    found = [getattr(sys.modules.get(module), name, None) for module, name in _CLIENTS]
    own = [kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseException)]
    return (OSError, EOFError, TypeError, ValueError, NotImplementedError, ImportError, *own)


@contextlib.contextmanager
def typed_errors(
    url: str, what: str = "cannot be read", passing: type[BaseException] = SourceError
) -> Iterator[None]:
    """Translate what a client raises; errors that are `passing` stay as they are."""
    try:
        yield
    except passing:
        raise
    except client_errors() as error:
        raise unreadable(url, error, what) from error


def find_file_system(url: str, storage_options: Any, what: str = "cannot be opened") -> Any:
    """Return fsspec's file system of a URL, and the path in there.

    Raises
    ------
    SourceError
        If there is none, or it does not take the options.
    """
    import fsspec  # local files do not need it

    with typed_errors(url, what):
        kind = fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
        options = storage_options or {}
        if fsspec.utils.get_protocol(url) in _LATE or _is_here(kind):
            return fsspec.url_to_fs(url, **options)
        # others may connect as they are made
        steps = {step.partition("://")[0] for step in url.split("::")}
        limit_s = time_limit_s(0 if _WHOLE.isdisjoint(steps) else WHOLE_BYTES)
        return _call_in_thread(url, limit_s, lambda: fsspec.url_to_fs(url, **options))


_TIMEOUT = "TIFFREF_TIMEOUT"
_TOTAL_S = 90.0
_SLOWEST_BYTES_PER_S = 1 << 14
WHOLE_BYTES = 1 << 30
"""For how much there is time where it is not known how much comes."""


def time_limit_s(n_bytes: int, total_s: float = _TOTAL_S) -> float:
    """Return how long a request with all its tries may take.

    The environment variable `TIFFREF_TIMEOUT` sets another number of seconds; with `inf` there is
    no limit.

    Parameters
    ----------
    n_bytes
        How many are asked for.
    total_s
        Seconds for the request, besides what its bytes take on a slow line.
    """
    limit_s = total_s + n_bytes / _SLOWEST_BYTES_PER_S
    with contextlib.suppress(ValueError):
        limit_s = float(os.environ.get(_TIMEOUT, ""))
    # locks and loops cannot wait for longer
    return min(limit_s, threading.TIMEOUT_MAX)


def too_slow(url: str, limit_s: float) -> SourceError:
    """Make the error for a server that does not answer in time."""
    return SourceError(
        "the server takes too long",
        url=url,
        got=f"no whole answer in {limit_s:.0f} seconds",
        hint=f"The environment variable {_TIMEOUT} allows more seconds.",
    )


def wait_within(fs: Any, url: str, n_bytes: int, function: Any, *arguments: Any) -> Any:
    """Call a coroutine function as `wait_for` does, within the time for so many bytes.

    Raises
    ------
    SourceError
        If it takes longer, or as in `wait_for`.
    """
    import asyncio

    limit_s = time_limit_s(n_bytes)

    async def run() -> Any:
        try:
            async with asyncio.timeout(limit_s) as clock:
                return await function(*arguments)
        except TimeoutError as error:
            if not clock.expired():  # the client's own
                raise
            raise too_slow(url, limit_s) from error

    return wait_for(fs, run)


_LATE = frozenset({"http", "https", "s3", "s3a"})
"""Protocols whose file systems connect when they are asked for something."""
_locks: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
_locks_lock = threading.Lock()
_lock_of_others = threading.Lock()


def lock_of(file: BinaryIO | Any) -> threading.Lock:
    """Return the lock that all readers of an open file share."""
    try:
        with _locks_lock:
            return _locks.setdefault(file, threading.Lock())
    except TypeError:  # it cannot be hashed, or not be referred to weakly
        return _lock_of_others


def _start_anew() -> None:
    # other threads of the parent process may have held the locks when it forked
    global _locks, _locks_lock, _lock_of_others
    _locks = WeakKeyDictionary()
    _locks_lock, _lock_of_others = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


_SHARED = frozenset({"memory", "file", "local", "data", "hdfs", "arrow_hdfs"})
"""Protocols whose file systems several threads may use at once, though they are not asynchronous:
they have no connection, or one that is made for that."""


def lock_for(fs: Any) -> contextlib.AbstractContextManager[Any]:
    """Return what a reader of a file system holds while it asks: its lock, where it needs one.

    Asynchronous file systems say of themselves that they take many requests at once. Others, such
    as those of FTP, SFTP, SMB and archives, are one connection or one open file, which threads
    would use in the middle of one another's answers.
    """
    if getattr(fs, "async_impl", False) or not _SHARED.isdisjoint(_protocols(fs)):
        return contextlib.nullcontext()
    return lock_of(fs)


_HERE = frozenset({"memory", "file", "local", "data"})
"""Protocols of file systems that have no server."""
_WHOLE = frozenset({"simplecache", "filecache", "tar"})
"""Protocols that fetch a whole file, however large it is, to read a few bytes."""


def _protocols(fs: Any) -> frozenset[str]:
    found = getattr(fs, "protocol", ())
    return frozenset((found,) if isinstance(found, str) else found)


def _is_here(fs: Any) -> bool:
    return not _HERE.isdisjoint(_protocols(fs))


def call_within(fs: Any, url: str, n_bytes: int, function: Callable[[], Any]) -> Any:
    """Call a function that asks a file system, as its only user where it needs that.

    A client whose server hangs cannot be stopped: it waits in a thread of its own, which keeps the
    lock of the file system, since the answer may come yet. What is opened next gets a new client.

    Raises
    ------
    SourceError
        If it takes longer than is allowed for so many bytes.
    """

    def ask() -> Any:
        with lock_for(fs):
            return function()

    if _is_here(fs):
        return ask()
    n_bytes = n_bytes if _WHOLE.isdisjoint(_protocols(fs)) else max(n_bytes, WHOLE_BYTES)
    return _call_in_thread(url, time_limit_s(n_bytes), ask, lambda: fs.clear_instance_cache())


def _call_in_thread(
    url: str, limit_s: float, function: Callable[[], Any], give_up: Callable[[], Any] = int
) -> Any:
    """Call a function in the helper of this thread, and `give_up` after so many seconds."""
    answer: Future[Any] = Future()
    _requests.add(answer)
    try:
        _find_helper().put((answer, function))
        if _interrupted.is_set():
            answer.cancel()
        return answer.result(limit_s)
    except CancelledError as error:
        _helpers.mine = None
        raise SourceError(_ENDING) from error
    except TimeoutError:
        if answer.done():
            raise
        _helpers.mine = None
        give_up()
        raise too_slow(url, limit_s) from None
    except BaseException:
        if not answer.done():
            _helpers.mine = None
        raise
    finally:
        answer.cancel()
        _requests.discard(answer)
        del answer  # its error knows this frame: each would keep the other, and what was read


class _Helper:
    """A thread that asks clients for another one, and ends with it.

    It is the same one each time, since fsspec has a client for each thread.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        work = functools.partial(_work, self._tasks)
        threading.Thread(target=work, name="tiffref-request", daemon=True).start()

    def put(self, task: tuple[Future[Any], Callable[[], Any]]) -> None:
        self._tasks.put(task)

    def __del__(self) -> None:
        self._tasks.put(None)


_helpers = threading.local()


def _find_helper() -> _Helper:
    helper: _Helper | None = getattr(_helpers, "mine", None)
    if helper is None or helper.process != os.getpid():  # a forked child has no threads
        helper = _helpers.mine = _Helper()
    return helper


def _work(tasks: queue.SimpleQueue[Any]) -> None:
    while (task := tasks.get()) is not None:
        answer, function = task
        try:
            value, error = function(), None
        except BaseException as found:
            value, error = None, found
        with contextlib.suppress(InvalidStateError):  # nobody waits any more
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)
        del task, answer, function, value, error


def wait_for(fs: Any, function: Any, *arguments: Any) -> Any:
    """Call a coroutine function in the loop of a file system, and return what comes of it.

    Raises
    ------
    SourceError
        If Ctrl-C has ended the program: the threads of other libraries, which Python waits for at
        its end, would ask a server that hangs, one request after the other.
    """
    import asyncio

    request = asyncio.run_coroutine_threadsafe(function(*arguments), fs.loop)
    _requests.add(request)
    try:
        if _interrupted.is_set():  # only now: `_give_up` sees a request, or the request sees this
            request.cancel()
        return request.result()
    except CancelledError as error:
        raise SourceError(_ENDING) from error
    finally:
        request.cancel()
        _requests.discard(request)
        del request  # as above


_ENDING = "is not read any more: the program was interrupted"
_requests: set[Future[Any]] = set()
_interrupted = threading.Event()


def _give_up() -> None:
    """Cancel all requests if an interruption is what ends the program."""
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        _interrupted.set()
        for request in list(_requests):
            request.cancel()


# the last one is called first, and so before `concurrent.futures.thread` waits for its threads
getattr(threading, "_register_atexit", id)(_give_up)


def ask_state(fs: Any, path: str, url: str, *, is_listed: bool = False) -> Mapping[str, Any]:
    """Return what a file system says of a file now.

    Parameters
    ----------
    fs, path, url
        File system, the path in there, and the address for errors.
    is_listed
        Whether its listing of the folder, which may be as old as the process, will do.

    Raises
    ------
    SourceError
        If it takes too long.
    """

    def ask() -> Mapping[str, Any]:
        if not is_listed:
            fs.invalidate_cache(path.rpartition("/")[0] or "/")
        return fs.info(path)

    return call_within(fs, url, 0, ask)


def source_of_info(url: str, info: Mapping[str, Any]) -> Source:
    """Return size, time and ETag as file systems have them in their `info`."""
    known = next((info[name] for name in _TIMES if info.get(name)), None)
    moment: Any = _parse_time(known) if isinstance(known, str) else known
    seconds = moment.timestamp() if hasattr(moment, "timestamp") else moment
    etag = info.get("ETag") or info.get("etag")
    return Source(
        url,
        info.get("size"),
        seconds if isinstance(seconds, int | float) else None,
        etag.strip('"') if isinstance(etag, str) else None,
    )


_TIMES = ("mtime", "LastModified", "last_modified", "modified", "modify", "created")


def _parse_time(text: str) -> datetime.datetime | None:
    """Read the time of a file as FTP says it, 20260131235959 (RFC 3659, section 2.3)."""
    try:
        moment = datetime.datetime.strptime(text[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment.replace(tzinfo=datetime.UTC)
