"""Fetch byte ranges of sources, and provide the thread pools for fetching and decoding.

A `Fetcher` checks that sources are allowed, keeps them open, checks that they have not changed
since the scan, and that each response has the requested length: a short one would shift pixels. The
reading itself is in `io.source` and `io.remote`; `selection` plans the ranges.

All readers of a process share the thread pools. There are separate pools because requests, which
wait for 20 ms and more, need many threads, while decoding needs one per core. Tasks never wait for
tasks of the same pool, so that any number of readers can share them.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from ..errors import SelectionError, SourceError, StaleSource
from ..io.allow import AllowList, is_local
from ..io.clients import DaemonPool, after_fork, find_file_system
from ..io.remote import RemoteFile
from ..io.source import (
    ByteSource,
    FileObjectSource,
    LocalSource,
    check_unchanged,
    wrong_length_error,
)
from ..io.urls import local_path
from ..model.manifest import OBJECT_SCHEME, Manifest, Source
from ..references import References

if TYPE_CHECKING:
    import fsspec

_Result = TypeVar("_Result")

VERIFY = ("first", "always", "never")
_CHECK_LIFETIME_S = 2.0
"""How long a check is valid for sources whose reads do not verify them."""
_MAX_PLANE_CHUNKS = 1 << 14
"""Chunks of a plane in which the file of a missing chunk is searched, in 0.1 ms."""
_MAX_OPEN = 128
"""Files that all stores of a process keep open; the usual limit of descriptors is 1024."""


class _OpenFiles:
    """Registry of the open files of all fetchers; the file opened first is evicted first."""

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
                evicted = other()
                if evicted is not None:
                    evicted.sources.pop(url, None)

    def remove(self, owner: Fetcher) -> None:
        with self._lock:
            for url in list(owner.sources):
                self._urls.pop((id(owner), url), None)


OPEN_FILES = _OpenFiles()
"""The open files of this process."""


class Fetcher:
    """Reader of byte ranges from local files, remote objects and open files.

    Parameters
    ----------
    storage_options
        Options for fsspec file systems.
    verify
        When to compare a source with the one recorded in the manifest: "first" on the first read,
        "always" before each request, or "never".
    files
        Open binary files by their URL in the manifest.
    filesystems
        File systems by URL, as (file system, path), for sources that cannot be opened again with
        storage options.
    allow
        Allowed URL prefixes, as in `io.allow.AllowList`; by default all.

    Notes
    -----
    Each instance opens its own files, and continues to read the same file even if it is replaced at
    its path. The total number of open files is limited. Thread-safe. Open files are not pickled; an
    instance with `files` cannot be pickled.
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
        self._reset()

    def _reset(self) -> None:
        self.sources: dict[str, ByteSource] = {}
        self._checks: dict[Source, Future[None]] = {}
        self._fresh: dict[str, tuple[Source, float]] = {}
        self._listed: dict[int, float] = {}
        self._lock = threading.Lock()

    def open(self, url: str) -> ByteSource:
        """Open a source, or return it if it is open.

        Raises
        ------
        UntrustedSource
            If it is not allowed.
        SourceError
            If it cannot be opened.
        """
        opened = self.sources.get(url)
        if isinstance(opened, RemoteFile) and opened.process != os.getpid():
            opened = None
        return opened or self._open_new(url)

    def _open_new(self, url: str) -> ByteSource:
        self.check_allowed(url)
        if url in self.files:
            return self.sources.setdefault(url, FileObjectSource(self.files[url], url))
        if not is_local(url):
            fs, path = self.filesystems.get(url) or find_file_system(
                url, self.storage_options, "cannot be read"
            )
            self.sources[url] = file = RemoteFile(fs, path, url, self.allow)
            return file
        opened = self.sources.setdefault(url, LocalSource(local_path(url), url, self.allow))
        OPEN_FILES.add(self, url)
        return opened

    def check_allowed(self, url: str) -> None:
        """Check that a URL is allowed.

        Raises
        ------
        UntrustedSource
            If it is not.
        """
        if self.allow is not None:
            self.allow.check(url)

    def is_local(self, source: Source) -> bool:
        """Return whether a read costs no request; errors as in `check_allowed`."""
        self.check_allowed(source.url)
        return source.url in self.files or is_local(source.url)

    def read(self, source: Source, offset: int, length: int) -> bytes:
        """Read a byte range.

        Raises
        ------
        SourceError
            If the source cannot be read, or returns fewer or more bytes.
        StaleSource
            If it has changed since it was scanned.
        """
        _check_end(source, offset, length)
        data = self._checked(source, lambda file, state: file.read(offset, length, state))
        if len(data) != length:
            raise _wrong_length(source.url, offset, length, len(data))
        return data

    def read_into(self, source: Source, offset: int, buffer: memoryview) -> None:
        """Read a byte range into a buffer; errors as in `read`."""
        _check_end(source, offset, len(buffer))
        n_read = self._checked(source, lambda file, state: file.read_into(offset, buffer, state))
        if n_read != len(buffer):
            raise _wrong_length(source.url, offset, len(buffer), n_read)

    def read_all(self, source: Source) -> bytes:
        """Read a whole source; errors as in `read`."""
        data = self._checked(source, lambda file, state: file.read_all(state))
        if source.size is not None and len(data) != source.size:
            raise _wrong_length(source.url, 0, source.size, len(data))
        return data

    def identity(self, source: Source) -> tuple[int, ...] | None:
        """Return a unique key of a source in its current state; None if that costs a request.

        The source is checked as for a read; errors as in `read`.
        """
        return self._checked(source, lambda file, state: file.identity(state))

    def check_missing(self, manifest: Manifest, flat: NDArray[np.int64]) -> None:
        """Check the files of missing chunks, which may have been written since the scan.

        A chunk belongs to the only file of its plane (the last two axes). If there are several, as
        in mosaics, or too many chunks, its file is not known. Errors as in `read`.
        """
        files = {0} if len(manifest.sources) == 1 else set()
        n_chunks = math.prod(manifest.shape[-2:])
        if len(manifest.sources) > 1 and n_chunks <= _MAX_PLANE_CHUNKS:
            for n in np.unique(flat // n_chunks).tolist():
                rows, *_ = manifest.take(np.arange(n * n_chunks, (n + 1) * n_chunks))
                rows = rows[rows >= 0]
                if rows.size and rows.min() == rows.max():
                    files.add(int(rows[0]))
        for row in files:
            source = manifest.sources[row]
            if _has_state(source):
                self.identity(source)
                opened = self.open(source.url)
                if opened.verifies_reads and not opened.is_local and self.verify != "never":
                    self._share_check(source, opened)()  # here is no read that verifies it

    def size(self, source: Source) -> int:
        """Return the size of a source in bytes, from the manifest if it is known there.

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
        """Return the current state of a source."""
        return self._fetch_state(self.open(source.url))

    def close(self) -> None:
        """Close files; later reads open them again. Files passed by the caller stay open."""
        OPEN_FILES.remove(self)
        self.sources.clear()

    def _checked(
        self, source: Source, read: Callable[[ByteSource, Source | None], _Result]
    ) -> _Result:
        """Check a source, and call `read` with it and the `expected` argument of its reads.

        If reads of a remote source do not verify it, the check is a separate request, which runs
        concurrently with the first read. Concurrent readers of a source share one check.
        """
        opened = self.open(source.url)
        if self.verify == "never":
            return read(opened, None)
        if self.verify == "first" and not (opened.verifies_reads or opened.is_local):
            finish_check = self._share_check(source, opened)
            result = read(opened, None)
            finish_check()
            return result
        if not opened.verifies_reads or (self.verify == "always" and opened.is_local):
            self._check_unchanged(source, opened)
        return read(opened, source if opened.verifies_reads else None)

    def _share_check(self, source: Source, opened: ByteSource) -> Callable[[], None]:
        """Start a check, unless one is running or was a moment ago; return what waits for it."""
        checked, then = self._fresh.get(source.url, (None, 0.0))
        # by identity, which is faster than equality
        if checked is source and time.monotonic() - then < _CHECK_LIFETIME_S:
            return lambda: None
        with self._lock:
            check = self._checks.get(source)
            if check is None:
                check = check_pool().submit(self._check_unchanged, source, opened)
                self._checks[source] = check

        def finish() -> None:
            try:
                check.result()
            except StaleSource:
                raise
            except BaseException:
                with self._lock:  # the error may be transient
                    self._checks.pop(source, None)
                raise
            self._fresh[source.url] = source, time.monotonic()
            with self._lock:  # the next check sends a new request
                if self._checks.get(source) is check:
                    del self._checks[source]

        return finish

    def _check_unchanged(self, source: Source, opened: ByteSource) -> None:
        """Compare a source with what was recorded, if anything was."""
        if _has_state(source):
            check_unchanged(source, self._fetch_state(opened))

    def _fetch_state(self, opened: ByteSource) -> Source:
        """Return the current state of a source; directory listings are reused for a short time."""
        if not isinstance(opened, RemoteFile):
            return opened.state()
        now, max_age_s = time.monotonic(), 0.0 if self.verify == "always" else _CHECK_LIFETIME_S
        with self._lock:
            is_listed = now - self._listed.get(id(opened.fs), -math.inf) < max_age_s
            if not is_listed:
                self._listed[id(opened.fs)] = now
        return opened.state(is_listed)

    def __getstate__(self) -> dict[str, Any]:
        if self.files:
            raise TypeError(
                "a store of an open file cannot be pickled: open the file by its path or URL"
            )
        names = ("storage_options", "verify", "files", "filesystems", "allow")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def make_fetcher(
    source: Any,
    references: References,
    storage_options: Mapping[str, Any] | None,
    verify: str,
) -> Fetcher:
    """Create the fetcher for a scanned source, which may be an open file.

    A file opened by fsspec is read through its file system, which stays usable when the file is
    closed and can be pickled. Any other open file without a name must stay open.
    """
    file = _open_file(source)
    urls = [source.url for source in references.sources]
    if file is None or not urls:
        return Fetcher(storage_options, verify=verify, allow=references.allow)
    unnamed = [url for url in urls if url.startswith(OBJECT_SCHEME)]
    if not (hasattr(file, "fs") and hasattr(file, "path")):
        return Fetcher(storage_options, verify=verify, files=dict.fromkeys(unnamed, file))
    own = file.fs.unstrip_protocol(file.path)
    filesystems = dict.fromkeys([*unnamed, own], (file.fs, file.path))
    return Fetcher(storage_options, verify=verify, filesystems=filesystems)


def _open_file(source: Any) -> Any:
    """Return the open file behind a source, if there is one."""
    if hasattr(source, "keyframe"):
        source = getattr(source, "parent", None) or source.keyframe.parent
    handle = getattr(source, "filehandle", None)
    if handle is not None:
        return getattr(handle, "_fh", None)
    return source if hasattr(source, "fs") or hasattr(source, "seek") else None


def _has_state(source: Source) -> bool:
    return (source.size, source.etag, source.mtime) != (None, None, None)


def _check_end(source: Source, offset: int, length: int) -> None:
    if source.size is not None and offset + length > source.size:
        raise _wrong_length(source.url, offset, length, max(0, source.size - offset))


def _wrong_length(url: str, offset: int, length: int, n_read: int) -> SourceError:
    hint = "The source is shorter than when it was scanned, or its server ignores byte ranges."
    return wrong_length_error(url, offset, length, n_read, length, hint)


N_FETCHERS = 32
"""81 requests of 20 ms took 79 ms with 32 threads, 925 ms with 2."""

N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    """Return the pool for checks of sources, for which fetching tasks wait."""
    return DaemonPool(N_FETCHERS // 2, "tiffref-check")


def wait_for_result(future: Future[Any]) -> Any:
    """Return the result of a future, waking up periodically to handle signals.

    A signal that arrives just before a thread blocks does not wake it: without this, one in fifteen
    Ctrl-C was lost.
    """
    while True:
        try:
            return future.result(_WAKE_UP_S)
        except TimeoutError:
            if future.done():
                return future.result()


_WAKE_UP_S = 0.5


@after_fork
def _reset_pools() -> None:
    # another thread of the parent process may have held the lock when it forked
    OPEN_FILES._lock = threading.Lock()
    # a forked child has the pool objects, but not their threads
    for pool in (fetch_pool, decode_pool, check_pool):
        pool.cache_clear()
