"""Fetch byte ranges of sources for reading, and the threads that fetch and decode.

Owns which sources may be read, which are open, the check that a source still is what was scanned,
and the rule that an answer of another length than asked for is an error: a short answer would shift
pixels. How bytes are got is said by `io.source` and `io.remote`, which ranges by `selection`.

All readers of a process share their threads. Waiting and computing are kept apart: a request waits
20 ms and more and wants many threads, while decoding wants as many as there are cores. Tasks never
wait for tasks of their own pool, so that any number of readers can share both.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO
from weakref import ref

from ..errors import SelectionError, SourceError, StaleSource
from ..io.allow import AllowList, is_local
from ..io.clients import find_file_system
from ..io.remote import RemoteFile
from ..io.source import ByteSource, FileObjectSource, LocalSource, check_unchanged
from ..io.urls import local_path
from ..model.manifest import OBJECT_SCHEME, Source
from ..references import References

if TYPE_CHECKING:
    import fsspec

__all__ = [
    "N_CORES",
    "OPEN_FILES",
    "DaemonPool",
    "Fetcher",
    "check_pool",
    "decode_pool",
    "fetch_pool",
    "make_fetcher",
    "run_soon",
    "wait_for_result",
]

VERIFY = ("first", "always", "never")
_CHECKED_S = 2.0
"""For how long a check holds of a source whose server does not say with each answer what it is."""
_MAX_OPEN = 128
"""Files that a process keeps open for all of its stores; the common limit of descriptors is 1024,
for everything that it does."""


class _OpenFiles:
    """Which files of which reader are open; the one opened first makes room for a new one."""

    def __init__(self) -> None:
        self._urls: OrderedDict[tuple[int, str], ref[Fetcher]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._urls)

    def add(self, owner: Fetcher, url: str) -> None:
        with self._lock:
            self._urls[id(owner), url] = ref(owner)
            while len(self._urls) > _MAX_OPEN:
                (_, url), other = self._urls.popitem(last=False)
                forgetful = other()
                if forgetful is not None:
                    forgetful.sources.pop(url, None)

    def remove(self, owner: Fetcher) -> None:
        with self._lock:
            for url in list(owner.sources):
                self._urls.pop((id(owner), url), None)


OPEN_FILES = _OpenFiles()
"""Those of this process."""


class Fetcher:
    """Reads byte ranges of sources, whatever they are.

    Parameters
    ----------
    storage_options
        For the file systems that fsspec opens.
    verify
        When to compare a source with what the manifest recorded: "first" time that it is read,
        "always" before each request, or "never".
    files
        Open binary files by the URL that stands for them in the manifest.
    filesystems
        Ready file systems by URL, as (file system, path), for sources that storage options cannot
        open again.
    allow
        Prefixes of the addresses that may be read, as `io.allow.AllowList` takes them; by default
        all.

    Notes
    -----
    Each instance opens files of its own, so that it keeps reading what it found at a path, and
    another one may find another file there; their number is bounded for all together. Safe to use
    from many threads. It pickles without open files; one over a plain open file cannot be pickled.
    """

    def __init__(
        self,
        storage_options: Mapping[str, Any] | None = None,
        *,
        verify: str = "first",
        files: Mapping[str, BinaryIO] | None = None,
        filesystems: Mapping[str, tuple[fsspec.AbstractFileSystem, str]] | None = None,
        allow: str | Iterable[str] | None = None,
    ) -> None:
        if verify not in VERIFY:
            expected = "one of " + ", ".join(map(repr, VERIFY))
            raise SelectionError("unknown value of verify", got=repr(verify), expected=expected)
        self.storage_options = dict(storage_options or {})
        self.verify = verify
        self.files = dict(files or {})
        self.filesystems = dict(filesystems or {})
        self.allow = None if allow is None else AllowList(allow)
        self._start()

    def _start(self) -> None:
        self.sources: dict[str, ByteSource] = {}
        self._checks: dict[Source, Future[None]] = {}
        self._fresh: dict[str, tuple[Source, float]] = {}
        self._listed: dict[int, float] = {}
        self._lock = threading.Lock()

    def open(self, url: str) -> ByteSource:
        """Open a source, or find it open.

        Raises
        ------
        UntrustedSource
            If it may not be read.
        SourceError
            If it cannot be.
        """
        found = self.sources.get(url)
        if isinstance(found, RemoteFile) and found.process != os.getpid():
            found = None
        return found or self._open_new(url)

    def _open_new(self, url: str) -> ByteSource:
        self.check_allowed(url)
        if url in self.files:
            return self.sources.setdefault(url, FileObjectSource(self.files[url], url))
        if not is_local(url):
            given = self.filesystems.get(url)
            fs, path = given or find_file_system(url, self.storage_options, "cannot be read")
            self.sources[url] = file = RemoteFile(fs, path, url, self.allow)
            return file
        found = self.sources.setdefault(url, LocalSource(local_path(url), url, self.allow))
        OPEN_FILES.add(self, url)
        return found

    def check_allowed(self, url: str) -> None:
        """Check that an address may be read.

        Raises
        ------
        UntrustedSource
            If it may not.
        """
        if self.allow is not None:
            self.allow.check(url)

    def is_local(self, source: Source) -> bool:
        """Return whether a read costs no request; errors as of `check_allowed`."""
        self.check_allowed(source.url)
        return source.url in self.files or is_local(source.url)

    def read(self, source: Source, offset: int, length: int) -> bytes:
        """Read a byte range.

        Raises
        ------
        SourceError
            If the source cannot be read, or holds or gives fewer or more bytes.
        StaleSource
            If it is no longer what was scanned.
        """
        opened, check, expected = self._begin(source)
        _check_end(source, offset, length)
        data = opened.read(offset, length, expected)
        check()
        if len(data) != length:
            raise _short(source.url, offset, length, len(data))
        return data

    def read_into(self, source: Source, offset: int, buffer: memoryview) -> None:
        """Read a byte range into a buffer of bytes; errors as in `read`."""
        opened, check, expected = self._begin(source)
        _check_end(source, offset, len(buffer))
        n_read = opened.read_into(offset, buffer, expected)
        check()
        if n_read != len(buffer):
            raise _short(source.url, offset, len(buffer), n_read)

    def read_all(self, source: Source) -> bytes:
        """Read a whole source; errors as in `read`."""
        opened, check, expected = self._begin(source)
        data = opened.read_all(expected)
        check()
        if source.size is not None and len(data) != source.size:
            raise _short(source.url, 0, source.size, len(data))
        return data

    def identity(self, source: Source) -> tuple[int, ...] | None:
        """Return what identifies a source in its present state, None if that costs a request.

        The source is checked as it is before a read.

        Raises
        ------
        SourceError, StaleSource
            As `read`.
        """
        opened, check, expected = self._begin(source)
        found = opened.identity(expected)
        check()
        return found

    def size(self, source: Source) -> int:
        """Return the bytes in a source, asking only where the manifest does not know.

        Raises
        ------
        SourceError
            If it is not known.
        """
        size = source.size if source.size is not None else self.state(source).size
        if size is None:
            raise SourceError("the size is not known", url=source.url)
        return size

    def state(self, source: Source) -> Source:
        """Return the state of a source as it is now."""
        return self._ask(self.open(source.url))

    def close(self) -> None:
        """Release open files; later reads open them again. Files that were handed in stay open."""
        OPEN_FILES.remove(self)
        self.sources.clear()

    def _begin(self, source: Source) -> tuple[ByteSource, Callable[[], None], Source | None]:
        """Start the check of a source; return it open, what waits for the check, and what the
        reads themselves have to compare.

        Remote sources that do not tell with each answer what they are get a question of its own,
        which is asked while their first bytes are on the way, so that it costs no time; many
        readers of one source share it.
        """
        opened = self.open(source.url)
        if self.verify == "never":
            return opened, _checked, None
        if self.verify == "always" and (opened.is_local or not opened.verifies_reads):
            self._check_fresh(source, opened)
        if opened.verifies_reads:
            return opened, _checked, source
        checked, then = self._fresh.get(source.url, (None, 0.0))
        # by identity, which is told faster than equality
        is_fresh = checked is source and time.monotonic() - then < _CHECKED_S
        if self.verify == "always" or is_fresh:
            return opened, _checked, None
        with self._lock:
            check = self._checks.get(source)
            if check is None:
                check = run_soon(self._check_fresh, source, opened, wait=opened.is_local)
                self._checks[source] = check

        def finish() -> None:
            try:
                check.result()
            except StaleSource:
                raise
            except BaseException:
                with self._lock:  # what may pass is asked again
                    self._checks.pop(source, None)
                raise
            self._fresh[source.url] = source, time.monotonic()
            with self._lock:  # the next check asks anew
                if self._checks.get(source) is check:
                    del self._checks[source]

        return opened, finish, None

    def _check_fresh(self, source: Source, opened: ByteSource) -> None:
        """Compare a source with what was recorded of it, unless nothing was."""
        if (source.size, source.etag, source.mtime) != (None, None, None):
            check_unchanged(source, self._ask(opened))

    def _ask(self, opened: ByteSource) -> Source:
        """Ask what a source is now; listings of a file system may be as old as a check."""
        if not isinstance(opened, RemoteFile):
            return opened.state()
        now, max_age_s = time.monotonic(), 0.0 if self.verify == "always" else _CHECKED_S
        with self._lock:
            is_listed = now - self._listed.get(id(opened.fs), -math.inf) < max_age_s
            if not is_listed:
                self._listed[id(opened.fs)] = now
        return opened.state(is_listed)

    def __getstate__(self) -> dict[str, Any]:
        if self.files:
            raise TypeError(
                "a store over an open file cannot be pickled: open it by its path or URL instead"
            )
        return {
            "storage_options": self.storage_options,
            "verify": self.verify,
            "files": {},
            "filesystems": self.filesystems,
            "allow": self.allow,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def make_fetcher(
    source: Any,
    references: References,
    storage_options: Mapping[str, Any] | None,
    verify: str,
) -> Fetcher:
    """Get access to the sources of a scan, through what was handed in where nothing else reaches.

    A file that fsspec opened is reached through its file system, which outlives it and pickles; any
    other open file that has no name must stay open.
    """
    file = _open_file(source)
    names = [one.url for one in references.sources]
    if file is None or not names:
        return Fetcher(storage_options, verify=verify, allow=references.allow)
    if hasattr(file, "fs") and hasattr(file, "path"):
        own = file.fs.unstrip_protocol(file.path)
        known = [url for url in names if url == own or url.startswith(OBJECT_SCHEME)]
        filesystems = dict.fromkeys(known, (file.fs, file.path))
        return Fetcher(storage_options, verify=verify, filesystems=filesystems)
    files = {url: file for url in names if url.startswith(OBJECT_SCHEME)}
    return Fetcher(storage_options, verify=verify, files=files)


def _open_file(source: Any) -> Any:
    """Return the open file behind a source, if there is one."""
    if hasattr(source, "keyframe"):
        source = getattr(source, "parent", None) or source.keyframe.parent
    handle = getattr(source, "filehandle", None)
    if handle is not None:
        return getattr(handle, "_fh", None)
    return source if hasattr(source, "fs") or hasattr(source, "seek") else None


def _checked() -> None:
    """Stand in for a check that is done."""


def _check_end(source: Source, offset: int, length: int) -> None:
    if source.size is not None and offset + length > source.size:
        raise _short(source.url, offset, length, max(0, source.size - offset))


def _short(url: str, offset: int, length: int, n_read: int) -> SourceError:
    return SourceError(
        f"the answer for bytes {offset} to {offset + length} has another length",
        url=url,
        got=f"{n_read} bytes",
        expected=f"{length} bytes",
        hint="The source is shorter than when it was scanned, or its server ignores ranges.",
    )


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


def _start_anew() -> None:
    # another thread of the parent process may have held the lock when it forked
    OPEN_FILES._lock = threading.Lock()
    # the threads of a pool do not exist in a forked child, but its object does
    for pool in (fetch_pool, decode_pool, check_pool):
        pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
