"""Fetch byte ranges of sources for reading.

Owns which kind of access a source needs (local file, fsspec URL, open file object), the check that
a source still is what was scanned, and the rule that an answer of another length than asked for is
an error: a short answer would shift pixels. Which ranges to ask for is decided in `ranges`.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ..errors import SelectionError, SourceError, StaleSource, unreadable
from ..io import http
from ..io.allow import AllowList
from ..io.clients import ask_state, client_errors, source_of_info
from ..io.freshness import check_same
from ..io.local import lock_for
from ..io.object_stores import find_range_reader
from ..model.manifest import Source
from .files import FileObject, LocalFiles, is_local
from .pools import run_soon

if TYPE_CHECKING:
    import fsspec

__all__ = ["Backend", "Fetcher", "RemoteFiles"]


class RemoteFiles:
    """Sources by URL, read through the file system that fsspec has for them.

    File systems are found when first used and again after a fork, since a session of the parent
    process does not work in the child.
    """

    is_local = False

    def __init__(
        self,
        storage_options: Mapping[str, Any],
        filesystems: Mapping[str, tuple[fsspec.AbstractFileSystem, str]],
        allow: AllowList | None = None,
        max_age_s: float = 0.0,
    ) -> None:
        self._storage_options = storage_options
        self._max_age_s = max_age_s
        self._listed: dict[int, float] = {}
        self._given = filesystems
        self._permits = None if allow is None else allow.permits
        self._found: dict[str, tuple[fsspec.AbstractFileSystem, str]] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    def read(self, url: str, offset: int, length: int, expected: Source | None = None) -> bytes:
        fs, path = self.resolve(url)
        try:
            if http.is_http(fs):
                return http.read_range(
                    fs, path, url, offset, length, expected=expected, permits=self._permits
                )
            read_range = find_range_reader(fs)
            if read_range is not None:
                return read_range(fs, path, url, offset, length, expected)
            with lock_for(fs):
                return fs.cat_file(path, start=offset, end=offset + length)
        except SourceError:
            raise
        except client_errors() as error:
            what = f"bytes {offset} to {offset + length} cannot be read"
            raise unreadable(url, error, what) from error

    def read_all(self, url: str, expected: Source | None = None) -> bytes:
        fs, path = self.resolve(url)
        try:
            if http.is_http(fs):
                return http.read_all(fs, path, url, expected=expected, permits=self._permits)
            read_range = find_range_reader(fs)
            if read_range is not None:
                return read_range(fs, path, url, 0, None, expected)
            with lock_for(fs):
                return fs.cat_file(path)
        except SourceError:
            raise
        except client_errors() as error:
            raise unreadable(url, error) from error

    def read_into(
        self, url: str, offset: int, buffer: memoryview, expected: Source | None = None
    ) -> int:
        data = self.read(url, offset, len(buffer), expected)
        if len(data) == len(buffer):
            buffer[:] = data
        return len(data)

    def identity(self, url: str, expected: Source | None = None) -> None:
        """Return nothing: it would take a request."""

    def checks_answers(self, url: str) -> bool:
        """Return whether each answer says which object it is of."""
        fs, _ = self.resolve(url)
        return http.is_http(fs) or find_range_reader(fs) is not None

    def state(self, url: str) -> Source:
        fs, path = self.resolve(url)
        if http.is_http(fs):
            return http.read_state(fs, path, url, self._permits)
        try:
            with lock_for(fs):
                info = ask_state(fs, path, is_listed=self._is_listed(fs))
        except client_errors():
            # some servers let a file be read but not asked about, as with signed URLs; where it
            # cannot be read either, the request that follows says so
            return Source(url)
        return source_of_info(url, info)

    def _is_listed(self, fs: Any) -> bool:
        """Return whether the listings of a file system are as new as a check may be."""
        now = time.monotonic()
        with self._lock:
            is_listed = now - self._listed.get(id(fs), -math.inf) < self._max_age_s
            if not is_listed:
                self._listed[id(fs)] = now
        return is_listed

    def resolve(self, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system of a source, and its path in there."""
        if url in self._given:
            return self._given[url]
        with self._lock:
            if self._process != os.getpid():
                self._found.clear()
                self._process = os.getpid()
            found = self._found.get(url)
        if found is None:
            import fsspec  # local files do not need it

            try:
                found = fsspec.url_to_fs(url, **self._storage_options)
            except client_errors() as error:
                raise unreadable(url, error) from error
            with self._lock:
                self._found[url] = found
        return found

    def close(self) -> None:
        """Keep the file systems: fsspec shares them with others."""


VERIFY = ("first", "always", "never")
_CHECKED_S = 2.0
"""For how long a check holds of a source whose server does not say with each answer what it is."""


class Backend(Protocol):
    """One kind of access to sources."""

    is_local: bool

    def read(self, url: str, offset: int, length: int, expected: Source | None = None) -> bytes:
        """Read up to `length` bytes at `offset`; fewer only at the end of the source.

        `expected` is what the source must still be, for those that `checks_answers`.
        """

    def read_all(self, url: str, expected: Source | None = None) -> bytes:
        """Read a whole source."""

    def read_into(
        self, url: str, offset: int, buffer: memoryview, expected: Source | None = None
    ) -> int:
        """Read into a buffer of bytes; return how many there were."""

    def checks_answers(self, url: str) -> bool:
        """Return whether what is read is itself compared with what is expected."""

    def identity(self, url: str, expected: Source | None = None) -> tuple[int, ...] | None:
        """What tells a source in its present state from all others, if that costs no request."""

    def state(self, url: str) -> Source:
        """What is known of a source now."""

    def close(self) -> None:
        """Release what is open; later reads open it again."""


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
        Prefixes of the addresses that may be read, as `access.allow.AllowList` takes them; by
        default all.

    Notes
    -----
    Safe to use from many threads. It pickles without open files; one over a plain open file
    cannot be pickled.
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
            raise SelectionError("no such way to verify", got=repr(verify), expected=VERIFY)
        self.storage_options = dict(storage_options or {})
        self.verify = verify
        self.files = dict(files or {})
        self.filesystems = dict(filesystems or {})
        self.allow = None if allow is None else AllowList(allow)
        self._start()

    def _start(self) -> None:
        self._local = LocalFiles(self.allow)
        max_age_s = 0.0 if self.verify == "always" else _CHECKED_S
        self._remote = RemoteFiles(self.storage_options, self.filesystems, self.allow, max_age_s)
        self._objects = {url: FileObject(file) for url, file in self.files.items()}
        self._checks: dict[Source, Future[None]] = {}
        self._fresh: dict[str, tuple[Source, float]] = {}
        self._lock = threading.Lock()

    def backend(self, url: str) -> Backend:
        """Return the access that a source needs.

        Raises
        ------
        UntrustedSource
            If it may not be read.
        """
        if self.allow is not None:
            self.allow.check(url)
        if self._objects and url in self._objects:
            return self._objects[url]
        return self._local if is_local(url) else self._remote

    def is_local(self, source: Source) -> bool:
        """Return whether a request costs no more than a system call."""
        return self.backend(source.url).is_local

    def read(self, source: Source, offset: int, length: int) -> bytes:
        """Read a byte range.

        Raises
        ------
        SourceError
            If the source cannot be read, or holds or gives fewer or more bytes.
        StaleSource
            If it is no longer what was scanned.
        """
        backend, check, expected = self._begin(source)
        if source.size is not None and offset + length > source.size:
            raise _short(source.url, offset, length, max(0, source.size - offset))
        data = backend.read(source.url, offset, length, expected)
        check()
        if len(data) != length:
            raise _short(source.url, offset, length, len(data))
        return data

    def read_into(self, source: Source, offset: int, buffer: memoryview) -> None:
        """Read a byte range into a buffer of bytes; errors as in `read`."""
        backend, check, expected = self._begin(source)
        n_read = backend.read_into(source.url, offset, buffer, expected)
        check()
        if n_read != len(buffer):
            raise _short(source.url, offset, len(buffer), n_read)

    def read_all(self, source: Source) -> bytes:
        """Read a whole source; errors as in `read`."""
        backend, check, expected = self._begin(source)
        data = backend.read_all(source.url, expected)
        check()
        if source.size is not None and len(data) != source.size:
            raise _short(source.url, 0, source.size, len(data))
        return data

    def identity(self, source: Source) -> tuple[int, ...] | None:
        """Get what tells a source in its present state from all others; None where that cannot be
        told for nothing. The source is checked as it is before a read.

        Raises
        ------
        SourceError, StaleSource
            As `read`.
        """
        backend, check, expected = self._begin(source)
        found = backend.identity(source.url, expected)
        check()
        return found

    def size(self, source: Source) -> int:
        """Return the bytes in a source, asking only where the manifest does not know.

        Raises
        ------
        SourceError
            If it cannot be told.
        """
        size = source.size if source.size is not None else self.state(source).size
        if size is None:
            raise SourceError("the size is not known", url=source.url)
        return size

    def state(self, source: Source) -> Source:
        """Return what can be told of a source now."""
        return self.backend(source.url).state(source.url)

    def close(self) -> None:
        """Release open files; later reads open them again. Files that were handed in stay open."""
        self._local.close()

    def _begin(self, source: Source) -> tuple[Backend, Callable[[], None], Source | None]:
        """Start the check of a source; return its access, what waits for the check, and what the
        access itself has to compare.

        Remote sources that do not tell with each answer what they are get a question of its own,
        which is asked while their first bytes are on the way, so that it costs no time; many
        readers of one source share it.
        """
        backend = self.backend(source.url)
        if self.verify == "never":
            return backend, _checked, None
        if self.verify == "always" and not (
            backend.checks_answers(source.url) and not backend.is_local
        ):
            check_fresh(source, backend.state)
        if backend.checks_answers(source.url):
            return backend, _checked, source
        checked, then = self._fresh.get(source.url, (None, 0.0))
        # by identity, which is told faster than equality
        is_fresh = checked is source and time.monotonic() - then < _CHECKED_S
        if self.verify == "always" or is_fresh:
            return backend, _checked, None
        with self._lock:
            check = self._checks.get(source)
            if check is None:
                check = run_soon(check_fresh, source, backend.state, wait=backend.is_local)
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

        return backend, finish, None

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


def check_fresh(source: Source, state: Callable[[str], Source]) -> None:
    """Compare a source with what was recorded of it; what is not known on both sides is skipped.

    Raises
    ------
    StaleSource
        If its size, modification time or ETag is another.
    """
    if source.size is None and source.etag is None and source.mtime is None:
        return
    check_same(source, state(source.url))


def _checked() -> None:
    """Stand in for a check that is done."""


def _short(url: str, offset: int, length: int, n_read: int) -> SourceError:
    return SourceError(
        f"the answer for bytes {offset} to {offset + length} has another length",
        url=url,
        got=f"{n_read} bytes",
        expected=f"{length} bytes",
        hint="The source is shorter than when it was scanned, or its server ignores ranges.",
    )
