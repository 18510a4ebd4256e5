"""Bytes of one file by offset, for scans and for reads: local files, open file objects.

Owns the interface that these share with remote objects (`remote`), of which `open` chooses, and the
comparison of a source with what was recorded of it. An open file object, whose one position all
of its readers move, has a lock, and so has each file system with one connection: scans and stores
over one of them know nothing of one another. It knows nothing of TIFF, and nothing of which sources
may be read (`read.fetch`).
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
from .clients import lock_of, typed_errors
from .urls import missing_file, not_a_file

__all__ = [
    "ByteSource",
    "FileObjectSource",
    "LocalSource",
    "SourceFile",
    "check_same",
    "is_weak",
    "stale",
]

_MAX_LOOK_BYTES = 1 << 20


class ByteSource:
    """Bytes of one file by offset.

    Attributes
    ----------
    source
        Address of the file, and its state when it was opened.
    allow
        What redirects and the names of other files in it may lead to; None: anything.
    """

    source: Source
    allow: AllowList | None = None
    is_local = True
    """A read costs no request."""
    checks_answers = False
    """Reads compare the source with the one that is `expected`, at no cost."""
    n_fetched = 0
    """Bytes that were read so far, for the progress of a scan."""

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
            If it `checks_answers`, and is not as `expected`.
        """
        raise NotImplementedError

    def read_all(self, expected: Source | None = None) -> bytes:
        """Read the whole file; errors as of `read`."""
        return self.read(0, self.size, expected)

    def read_into(self, offset: int, buffer: memoryview, expected: Source | None = None) -> int:
        """Read into a buffer of bytes, and return how many there were; errors as of `read`."""
        data = self.read(offset, len(buffer), expected)
        buffer[: len(data)] = data
        return len(data)

    def state(self) -> Source:
        """Return what is known of the file now."""
        return self.source

    def identity(self, expected: Source | None = None) -> tuple[int, ...] | None:
        """Return what tells the file in its present state from all others, if that is known.

        It costs no request; errors are those of `read`.
        """
        return None

    def fileno(self) -> int:
        """Return the descriptor of a local file."""
        raise io.UnsupportedOperation("fileno")

    def is_fetched(self, offset: int, length: int) -> bool:
        """Return whether these bytes can be read without a request."""
        return True

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges (offset, length) that will be read, together, where reads cost requests."""

    def look(self) -> Any:
        """Return the whole file as a buffer where that costs no request, else None."""
        if 0 < self.size <= _MAX_LOOK_BYTES and self.is_fetched(0, self.size):
            return self.read(0, self.size)
        return None

    def beside(self, name: str) -> ByteSource | None:
        """Open another file of the same folder; None if it cannot be.

        Parameters
        ----------
        name
            Without a folder: files say which others belong to them, and must not lead elsewhere.
        """
        return None

    def close(self) -> None:
        """Release what was opened."""


_SETTLED_S = 2.0
"""A file whose last change is older will bear another time after the next: clocks of file systems
tick every 10 ms at least, those of FAT every 2 s."""


class LocalSource(ByteSource):
    """A local file, read by position through one descriptor, which ends with its last reader.

    Whoever drops the file from a cache must not close it: the system would give its number to
    another file, and a reader in another thread would get the bytes of that.

    Parameters
    ----------
    path
        Where it is.
    url
        Its address in a document.
    allow
        What the file may be, wherever links lead; None: any.
    """

    checks_answers = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        url: str | None = None,
        allow: AllowList | None = None,
    ) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100 - links stay as the user gave them
        self._descriptor = -1
        try:
            # without O_NONBLOCK, a pipe would keep us waiting for its writer
            flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(self._path, os.O_RDONLY | flags)
            state = os.fstat(self._descriptor)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(errno.EISDIR, "Is a directory", self._path)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self._path)
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            raise _not_opened(os.fspath(path), url, error) from error
        if allow is not None:
            allow.check_opened(url or self._path, self._descriptor)
        self.allow = allow
        self.source = Source(url or self._path, state.st_size, state.st_mtime)
        self._checked: Source | None = None

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        self._check(expected)
        # a byte count may be any number; as many bytes would be asked of the memory
        length = max(0, min(length, self.size - offset))
        try:
            data = read_at(self._descriptor, length, offset)
            while 0 < len(data) < length:  # the system reads 2 GiB at a time
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
        n_read, n_now = 0, 1
        try:
            while n_now and n_read < len(buffer):
                n_now = os.preadv(self._descriptor, [buffer[n_read:]], offset + n_read)
                n_read += n_now
        except OSError as error:
            raise unreadable(self.source.url, error) from error
        return n_read

    def state(self) -> Source:
        with typed_errors(self.source.url):
            found = os.stat(self._path)  # noqa: PTH116 - what is there now
        return replace(self.source, size=found.st_size, mtime=found.st_mtime)

    def identity(self, expected: Source | None = None) -> tuple[int, ...] | None:
        self._check(expected)
        state = os.fstat(self._descriptor)
        if not time.time() - _SETTLED_S - max(state.st_mtime, state.st_ctime) >= 0:
            return None  # the next change might not show
        times = state.st_mtime_ns, state.st_ctime_ns
        return (state.st_dev, state.st_ino, state.st_size, *times)

    def _check(self, expected: Source | None) -> None:
        """Compare the file that is open: it is this very file that is read."""
        if expected is not None and self._checked is not expected:
            check_same(expected, self.source)
            self._checked = expected

    def beside(self, name: str) -> LocalSource | None:
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

    def look(self) -> Any:
        return self._map if self.size else None

    def close(self) -> None:
        if "_map" in self.__dict__:
            with contextlib.suppress(BufferError):  # it ends with the last array that looks at it
                self._map.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def _not_opened(path: str, url: str | None, error: OSError | ValueError) -> SourceError:
    """Describe why a local file cannot be opened; of one in references, no more than that."""
    if url is not None:
        return unreadable(url, error)
    if isinstance(error, FileNotFoundError):
        return missing_file(path)
    if isinstance(error, IsADirectoryError):
        return not_a_file(path)
    reason = getattr(error, "strerror", None) or str(error)
    name = os.path.abspath(path)  # noqa: PTH100
    return with_errno(SourceError(f"cannot be read: {reason}", url=name), error)


class FileObjectSource(ByteSource):
    """An open binary file, read under a lock; its position is left where it was.

    The lock is that of the file, over which there may be several sources.
    """

    def __init__(self, file: BinaryIO, url: str | None = None) -> None:
        self._file = file
        self._lock = lock_of(file)
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
    def _at(self, *place: int) -> Iterator[None]:
        with typed_errors(self.source.url), self._lock:  # a closed file is a ValueError
            before = self._file.tell()
            self._file.seek(*place)
            yield
            self._file.seek(before)


class SourceFile(io.RawIOBase):
    """A `ByteSource` with a position, for readers that want a file."""

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
        view = memoryview(buffer).cast("B")  # tifffile reads into arrays of any type
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


_position = threading.Lock()


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read up to `length` bytes at `offset`; fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _position:  # Windows: the position is moved, by one reader at a time
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


# ---- is a source still what it was when it was scanned?

_MTIME_TOLERANCE_S = 1e-3
"""File systems and JSON both round modification times; a real change is further away."""


def check_same(recorded: Source, now: Source) -> None:
    """Compare a source with what was recorded; what is not known on both sides is skipped.

    An ETag that is equal and strong says that the bytes are equal (RFC 9110, section 8.8.3):
    the time may then differ, as it does between the servers of a mirror.

    Raises
    ------
    StaleSource
        If its size, ETag or modification time is another.
    """
    has_tags = recorded.etag is not None and now.etag is not None
    is_certain = has_tags and recorded.etag == now.etag and not is_weak(recorded.etag)
    known = [
        ("size", recorded.size, now.size, recorded.size == now.size),
        ("ETag", recorded.etag, now.etag, recorded.etag == now.etag),
        ("mtime", recorded.mtime, now.mtime, is_certain or _is_same_time(recorded, now)),
    ]
    for name, before, after, is_same in known:
        if before is not None and after is not None and not is_same:
            got = f"{name} {_describe(name, after)}"
            raise stale(recorded.url, got, f"{name} {_describe(name, before)}")


def stale(url: str, got: str, expected: str) -> StaleSource:
    """Make the error for a source that is not what was recorded."""
    return StaleSource(
        "has changed since it was scanned", url=url, got=got, expected=expected,
        hint="Scan it again, or read it as it is with verify='never'.",
    )  # fmt: skip


def _describe(name: str, value: object) -> str:
    if name != "mtime" or not isinstance(value, int | float):
        return str(value)
    try:
        return datetime.datetime.fromtimestamp(value, datetime.UTC).isoformat(" ")
    except (OverflowError, OSError, ValueError):  # documents of strangers can have any number
        return str(value)


def is_weak(etag: str | None) -> bool:
    """Return whether equal ETags mean no more than alike contents."""
    return etag is None or etag.startswith("W/")


def _is_same_time(recorded: Source, now: Source) -> bool:
    if recorded.mtime is None or now.mtime is None:
        return True
    return abs(recorded.mtime - now.mtime) <= _MTIME_TOLERANCE_S
