"""Random access to the bytes of one file: local files and open file objects.

Defines the interface that these share with remote objects (`remote`), and the check that a source
has not changed since it was scanned. Readers of the same open file object share a lock, because
they share its position; so do readers of a file system with only one connection.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import io
import mmap
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError, StaleSource, unreadable, with_errno
from ..model.manifest import OBJECT_SCHEME, Source
from .allow import AllowList
from .clients import shared_lock, typed_errors
from .urls import directory_error, missing_file_error

_MAX_BUFFER_BYTES = 1 << 20


class ByteSource:
    """Random access to the bytes of one file.

    Attributes
    ----------
    source
        URL of the file, and its state when it was opened.
    allow
        Allow-list for redirects and for other files that it refers to; None allows all.
    """

    source: Source
    allow: AllowList | None = None
    is_local = True
    """Whether reads cost no request."""
    verifies_reads = False
    """Whether reads compare the source with the `expected` one without further requests."""
    n_fetched = 0
    """Bytes read so far, for the progress of a scan."""

    @property
    def size(self) -> int:
        """Bytes in the file."""
        assert self.source.size is not None
        return self.source.size

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        """Read up to `length` bytes at `offset`; fewer only at the end of the file.

        Raises
        ------
        SourceError
            If it cannot be read.
        StaleSource
            If it differs from `expected`; only if it `verifies_reads`.
        """
        raise NotImplementedError

    def read_all(self, expected: Source | None = None) -> bytes:
        """Read the whole file; errors as in `read`."""
        return self.read(0, self.size, expected)

    def read_into(self, offset: int, buffer: memoryview, expected: Source | None = None) -> int:
        """Read into a buffer, and return the number of bytes read; errors as in `read`."""
        data = self.read(offset, len(buffer), expected)
        buffer[: len(data)] = data
        return len(data)

    def state(self) -> Source:
        """Return the current size, modification time and ETag of the file."""
        return self.source

    def identity(self, expected: Source | None = None) -> tuple[int, ...] | None:
        """Return a unique key of the file in its current state; None if there is none.

        It costs no request; errors as in `read`.
        """
        return None

    def fileno(self) -> int:
        """Return the file descriptor of a local file."""
        raise io.UnsupportedOperation("fileno")

    def is_cached(self, offset: int, length: int) -> bool:
        """Return whether these bytes can be read without a request."""
        return True

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges (offset, length) together before they are read, if reads cost requests."""

    def as_buffer(self) -> Any:
        """Return the whole file as a buffer if that costs no request, else None."""
        if 0 < self.size <= _MAX_BUFFER_BYTES and self.is_cached(0, self.size):
            return self.read(0, self.size)
        return None

    def open_sibling(self, name: str) -> ByteSource | None:
        """Open another file of the same folder; None if it cannot be opened.

        Parameters
        ----------
        name
            File name without a folder: a file that names others must not lead outside its folder.
        """
        return None

    def close(self) -> None:
        """Close the file."""


_MTIME_RESOLUTION_S = 2.0
"""The next change of a file that is older than this gets another modification time: clocks of file
systems tick at least every 10 ms, those of FAT every 2 s."""


class LocalSource(ByteSource):
    """A local file with one descriptor, which is closed when the last reader is garbage collected.

    A cache that drops the file must not close it: the system would reuse the descriptor for another
    file, and a reader in another thread would get the bytes of that file.

    Parameters
    ----------
    path
        Path of the file.
    url
        Its address in a document.
    allow
        Allow-list for the file that is opened, with links followed; None allows all.
    """

    verifies_reads = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        url: str | None = None,
        allow: AllowList | None = None,
    ) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100 - does not resolve links
        self._descriptor = -1
        try:
            # without O_NONBLOCK, opening a pipe would wait for its writer
            flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(self._path, os.O_RDONLY | flags)
            state = os.fstat(self._descriptor)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(errno.EISDIR, "Is a directory", self._path)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self._path)
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            raise _open_error(os.fspath(path), url, error) from error
        if allow is not None:
            allow.check_opened(url or self._path, self._descriptor)
        self.allow = allow
        self.source = Source(url or self._path, state.st_size, state.st_mtime)
        self._checked: Source | None = None

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        self._check(expected)
        # a wrong byte count must not allocate that much memory
        length = max(0, min(length, self.size - offset))
        try:
            data = read_at(self._descriptor, length, offset)
            while 0 < len(data) < length:  # one system call reads at most 2 GiB
                more = read_at(self._descriptor, length - len(data), offset + len(data))
                length = length if more else len(data)
                data += more
        except OSError as error:
            raise unreadable(self.source.url, error) from error
        self.n_fetched += len(data)
        return data

    def read_into(self, offset: int, buffer: memoryview, expected: Source | None = None) -> int:
        if not hasattr(os, "preadv"):
            return super().read_into(offset, buffer, expected)
        self._check(expected)
        n_total, n_read = 0, 1
        try:
            while n_read and n_total < len(buffer):
                n_read = os.preadv(self._descriptor, [buffer[n_total:]], offset + n_total)
                n_total += n_read
        except OSError as error:
            raise unreadable(self.source.url, error) from error
        return n_total

    def state(self) -> Source:
        with typed_errors(self.source.url):
            state = os.stat(self._path)  # noqa: PTH116 - the file may have been replaced
        return replace(self.source, size=state.st_size, mtime=state.st_mtime)

    def identity(self, expected: Source | None = None) -> tuple[int, ...] | None:
        self._check(expected)
        state = os.fstat(self._descriptor)
        if not time.time() - _MTIME_RESOLUTION_S - max(state.st_mtime, state.st_ctime) >= 0:
            return None  # the next change might not be noticed
        times = state.st_mtime_ns, state.st_ctime_ns
        return (state.st_dev, state.st_ino, state.st_size, *times)

    def _check(self, expected: Source | None) -> None:
        """Compare the open file with the expected one, once."""
        if expected is not None and self._checked is not expected:
            check_unchanged(expected, self.source)
            self._checked = expected

    def open_sibling(self, name: str) -> LocalSource | None:
        path = Path(self._path).parent / name
        if Path(name).name != name or not path.is_file():
            return None
        if self.allow is not None:
            self.allow.check(str(path))
        return LocalSource(path, allow=self.allow)

    def fileno(self) -> int:
        return self._descriptor

    @functools.cached_property
    def _map(self) -> mmap.mmap:
        return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def as_buffer(self) -> Any:
        return self._map if self.size else None

    def close(self) -> None:
        if "_map" in self.__dict__:
            try:  # noqa: SIM105 - see `_close`
                self._map.close()
            except BufferError:  # arrays still use it, and keep it alive
                pass
        if self._descriptor >= 0:
            self._close(self._descriptor)
            self._descriptor = -1

    _close = staticmethod(os.close)
    """Modules may be empty when the interpreter exits and deletes the last objects."""

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def _open_error(path: str, url: str | None, error: OSError | ValueError) -> SourceError:
    """Build the error for a local file that cannot be opened, with hints if the user named it."""
    if url is not None:
        return unreadable(url, error)
    if isinstance(error, FileNotFoundError):
        return missing_file_error(path)
    if isinstance(error, IsADirectoryError):
        return directory_error(path)
    reason = getattr(error, "strerror", None) or str(error)
    name = os.path.abspath(path)  # noqa: PTH100
    return with_errno(SourceError(f"cannot be read: {reason}", url=name), error)


class FileObjectSource(ByteSource):
    """An open binary file, read under a lock; its position is restored after each read.

    All sources of the same file share the lock.
    """

    def __init__(self, file: BinaryIO, url: str | None = None) -> None:
        self._file = file
        self._lock = shared_lock(file)
        self.source = Source(url or f"{OBJECT_SCHEME}{id(file):x}")
        self.source = self.state()

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        with self._at(offset):
            data = self._file.read(length)
        self.n_fetched += len(data)
        return data

    def state(self) -> Source:
        with self._at(0, io.SEEK_END):
            return replace(self.source, size=self._file.tell())

    @contextlib.contextmanager
    def _at(self, *position: int) -> Iterator[None]:
        with typed_errors(self.source.url), self._lock:  # a closed file is a ValueError
            before = self._file.tell()
            self._file.seek(*position)
            yield
            self._file.seek(before)


class SourceFile(io.RawIOBase):
    """A file object that reads from a `ByteSource`."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0
        self.name = source.source.url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._source.fileno()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = start[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            size = self._source.size - self._position
        data = self._source.read(self._position, size)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")  # tifffile reads into arrays of any dtype
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


_seek_lock = threading.Lock()


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read up to `length` bytes at `offset`; fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _seek_lock:  # Windows has no pread
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


# ---- has a source changed since it was scanned?

_MTIME_TOLERANCE_S = 1e-3
"""File systems and JSON both round modification times; a real change differs by more."""


def check_unchanged(recorded: Source | None, now: Source) -> None:
    """Compare a source with what was recorded, if anything was.

    Values unknown on either side are skipped.

    If strong ETags are equal, the bytes are equal (RFC 9110, section 8.8.3). The modification time
    may then differ, as it does between the servers of a mirror. A weak ETag equals the strong one
    of the same text: servers that compress some responses weaken theirs.

    Raises
    ------
    StaleSource
        If the size, ETag or modification time differs.
    """
    if recorded is None:
        return
    has_etags = recorded.etag is not None and now.etag is not None
    is_certain = has_etags and recorded.etag == now.etag and not is_weak_etag(recorded.etag)
    drift = abs((recorded.mtime or 0) - (now.mtime or 0))  # compared only if both are known
    comparisons = [
        ("size", recorded.size, now.size, recorded.size == now.size),
        ("ETag", recorded.etag, now.etag, _opaque(recorded.etag) == _opaque(now.etag)),
        ("mtime", recorded.mtime, now.mtime, is_certain or drift <= _MTIME_TOLERANCE_S),
    ]
    for name, before, after, is_same in comparisons:
        if before is not None and after is not None and not is_same:
            got = f"{name} {_describe(name, after)}"
            raise stale_error(recorded.url, got, f"{name} {_describe(name, before)}")


def wrong_length_error(
    url: str, offset: int, length: int, n_bytes: int, expected: int, hint: str | None = None
) -> SourceError:
    """Build the error for a response with more or fewer bytes than expected."""
    return SourceError(
        f"the response for bytes {offset} to {offset + length} has the wrong length",
        url=url, got=f"{n_bytes} bytes", expected=f"{expected} bytes", hint=hint,
    )  # fmt: skip


def stale_error(url: str, got: str, expected: str) -> StaleSource:
    """Build the error for a source that has changed since it was scanned."""
    return StaleSource(
        "has changed since it was scanned", url=url, got=got, expected=expected,
        hint="Scan it again, or read it as it is with verify='never'.",
    )  # fmt: skip


def _describe(name: str, value: object) -> str:
    if name != "mtime" or not isinstance(value, int | float):
        return str(value)
    try:
        return datetime.datetime.fromtimestamp(value, datetime.UTC).isoformat(" ")
    except (OverflowError, OSError, ValueError):  # a document can have any number
        return str(value)


def is_weak_etag(etag: str | None) -> bool:
    """Return whether an ETag is absent or weak: equal weak ETags do not mean equal bytes."""
    return etag is None or etag.startswith("W/")


def _opaque(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"')
