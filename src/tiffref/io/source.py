"""Bytes of one file by offset, for a scan: local files, open file objects, remote objects.

Owns the interface that these share, the choice of the right one, and, for remote objects, where
every read costs a request, the sparse cache of byte ranges and the policy of what to fetch with a
miss: a large first block, read-ahead that grows while reads follow one another and shrinks when
they jump, and, after a long run of equal jumps, the next ones in advance. It knows nothing of TIFF.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
import io
import itertools
import mmap
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError, unreadable, with_errno
from ..model.manifest import NAMELESS, Source
from . import http
from .address import missing_file, not_a_file
from .allow import is_local
from .clients import ask_state, client_errors, source_of_info
from .local import local_path, lock_for, lock_of, read_at

__all__ = [
    "ByteSource",
    "FileObjectSource",
    "LocalSource",
    "RemoteSource",
    "SourceFile",
    "open_remote",
    "open_source",
]

_MAX_LOOK_BYTES = 1 << 20


class ByteSource:
    """Bytes of one file by offset.

    Attributes
    ----------
    source
        Address and state of the file when it was opened.
    """

    source: Source
    is_local = True
    """A read costs no request."""

    @property
    def size(self) -> int:
        """Bytes in the file."""
        assert self.source.size is not None
        return self.source.size

    def read(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer only at the end of the file."""
        raise NotImplementedError

    def fileno(self) -> int:
        """The descriptor of a local file."""
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

    def close(self) -> None:
        """Release what was opened."""


_FIRST_BYTES = 1 << 16
_MIN_AHEAD_BYTES = 1 << 10
_MAX_AHEAD_BYTES = 1 << 22
_NEAR_BYTES = 1 << 12
"""A read that starts no farther than this behind the last one is no jump."""
_MIN_RUN = 8
"""Equal jumps before the next ones are guessed: fewer misfire on ordinary files."""
_MAX_GUESSES = 128
_MAX_WASTED_BYTES = 1 << 20


def open_remote(url: str, storage_options: Mapping[str, Any] | None = None) -> RemoteSource:
    """Open an fsspec URL.

    Raises
    ------
    SourceError
        If there is no such object or file system.
    """
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(url, **(storage_options or {}))
    except client_errors() as error:
        raise unreadable(url, error, "cannot be opened") from error
    return RemoteSource(fs, path, url)


class RemoteSource(ByteSource):
    """An object behind an fsspec file system, read through a sparse cache of ranges."""

    def __init__(self, fs: Any, path: str, url: str) -> None:
        self._fs, self._path = fs, path
        self._starts: list[int] = []
        self._blocks: list[bytes] = []
        self._ahead = _FIRST_BYTES
        self._jumps: list[int] = []
        self._reaches: list[int] = []
        self._end = 0
        self._guessed: dict[int, int] = {}
        self.source, first = self._open(url)
        if first:
            self._keep(0, first)

    is_local = False

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        missing = sorted(
            {
                (offset, min(length, self.size - offset))
                for offset, length in ranges
                if offset < self.size
                and self._find(offset, min(length, self.size - offset)) is None
            }
        )
        if len(missing) > 1:
            starts, ends = zip(*((at, at + length) for at, length in missing), strict=True)
            for start, data in zip(starts, self._fetch(starts, ends), strict=True):
                self._keep(start, data)

    def is_fetched(self, offset: int, length: int) -> bool:
        return self._find(offset, length) is not None

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        self._note(offset, length)
        found = self._find(offset, length)
        if found is None:
            self._miss(offset, length)
            found = self._find(offset, length)
            assert found is not None
        start, block = found
        return block[offset - start : offset - start + length]

    def _find(self, offset: int, length: int) -> tuple[int, bytes] | None:
        at = bisect.bisect_right(self._starts, offset) - 1
        if at < 0:
            return (offset, b"") if length == 0 else None
        start, block = self._starts[at], self._blocks[at]
        if offset + length > start + len(block):
            return (offset, b"") if length == 0 else None
        self._guessed.pop(start, None)
        return start, block

    def _keep(self, start: int, data: bytes) -> None:
        at = bisect.bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == start:
            if len(self._blocks[at]) < len(data):
                self._blocks[at] = data
            return
        self._starts.insert(at, start)
        self._blocks.insert(at, data)

    def _note(self, offset: int, length: int) -> None:
        """Remember where reads jumped to, and how far they read on from there."""
        if self._jumps and self._jumps[-1] <= offset <= self._end + _NEAR_BYTES:
            reach = max(self._reaches[-1], offset + length - self._jumps[-1])
            self._reaches[-1] = reach
        else:
            self._jumps = [*self._jumps[-_MIN_RUN:], offset]
            self._reaches = [*self._reaches[-_MIN_RUN:], length]
        self._end = offset + length

    def _miss(self, offset: int, length: int) -> None:
        """Fetch what was asked for, and what is likely to be asked for next."""
        guesses, size = self._guess(offset)
        if not guesses:
            before = bisect.bisect_right(self._starts, offset) - 1
            follows = before >= 0 and (
                offset <= self._starts[before] + len(self._blocks[before]) + self._ahead
            )
            if self._starts:
                grown = 2 * self._ahead if follows else self._ahead // 4
                self._ahead = max(_MIN_AHEAD_BYTES, min(grown, _MAX_AHEAD_BYTES))
            size = self._ahead
        starts = [offset, *guesses]
        ends = [min(self.size, start + max(length, size)) for start in starts]
        for start, data in zip(starts, self._fetch(starts, ends), strict=True):
            self._keep(start, data)
        self._guessed.update((start, size) for start in guesses)

    def _guess(self, offset: int) -> tuple[list[int], int]:
        """Where the next reads will be if the last ones were evenly spaced, and how long."""
        steps = {after - before for before, after in itertools.pairwise(self._jumps)}
        if len(self._jumps) <= _MIN_RUN or len(steps) != 1 or self._jumps[-1] != offset:
            return [], 0
        (step,) = steps
        size = max(2 * max(self._reaches[:-1]), _MIN_AHEAD_BYTES)
        if step <= size or sum(self._guessed.values()) > _MAX_WASTED_BYTES:
            return [], 0
        return list(range(offset + step, self.size - size, step)[:_MAX_GUESSES]), size

    def _fetch(self, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        try:
            if len(starts) == 1 and http.is_http(self._fs):
                url, size = self.source.url, ends[0] - starts[0]
                answers = [
                    http.read_range(
                        self._fs, self._path, url, starts[0], size, expected=self.source
                    )
                ]
            elif len(starts) == 1:
                with lock_for(self._fs):
                    answers = [self._fs.cat_file(self._path, start=starts[0], end=ends[0])]
            else:
                paths = [self._path] * len(starts)
                with lock_for(self._fs):
                    answers = self._fs.cat_ranges(paths, list(starts), list(ends), on_error="raise")
        except SourceError:
            raise
        except client_errors() as error:
            what = f"bytes {starts[0]} to {ends[0]} cannot be read"
            raise unreadable(self.source.url, error, what) from error
        for start, end, data in zip(starts, ends, answers, strict=True):
            if len(data) != end - start:
                raise SourceError(
                    f"the answer for bytes {start} to {end} has another length",
                    url=self.source.url,
                    got=f"{len(data)} bytes",
                    expected=f"{end - start} bytes",
                    hint="The server may not know range requests, or the file has changed.",
                )
        return answers

    def _open(self, url: str) -> tuple[Source, bytes]:
        """Learn size and state of the object, with its first bytes where one request gives both."""
        if http.is_http(self._fs):
            return _open_http(self._fs, self._path, url)
        try:
            with lock_for(self._fs):
                info = ask_state(self._fs, self._path, is_listed=True)
        except client_errors() as error:
            raise unreadable(url, error) from error
        if info.get("type") == "directory":
            raise SourceError("is a directory", url=url, expected="a TIFF file")
        if info.get("size") is None:
            raise SourceError("its file system does not give its length", url=url)
        return source_of_info(url, info), b""


def _open_http(fs: Any, path: str, url: str) -> tuple[Source, bytes]:
    """Ask for the first bytes; the answer's headers say the rest (RFC 9110, section 14)."""
    try:
        answer = http.read_start(fs, path, url, _FIRST_BYTES)
    except client_errors() as error:
        if isinstance(error, SourceError):
            raise
        raise unreadable(url, error) from error
    status, lower, data = answer.status, answer.headers, answer.body
    if status == 416:
        return Source(url, 0), b""
    if status != 206:
        raise SourceError(
            "the server does not answer range requests" if status == 200 else "cannot be read",
            url=url,
            got=f"HTTP status {status}",
            expected="HTTP status 206",
            hint=http.STATUS_HINTS.get(status),
        )
    total = lower.get("content-range", "").rpartition("/")[2].strip()
    if total == "*":  # the server does not say so here; it may where it is asked
        total = str(http.read_state(fs, path, url).size)
    if not lower.get("content-range", "").startswith("bytes 0-") or not total.isdigit():
        raise SourceError(
            "the server does not give the length of the file",
            url=url,
            tag="Content-Range",
            got=lower.get("content-range"),
            expected=f"bytes 0-{_FIRST_BYTES - 1}/SIZE",
        )
    if len(data) != min(_FIRST_BYTES, int(total)):
        raise SourceError(
            "the answer has another length than asked for",
            url=url,
            got=f"{len(data)} bytes",
            expected=f"{min(_FIRST_BYTES, int(total))} bytes",
        )
    return replace(answer.source(url), size=int(total)), data


class LocalSource(ByteSource):
    """A local file, read by position through one descriptor."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.path.abspath(path)  # noqa: PTH100 - links stay as the user gave them
        try:
            # without O_NONBLOCK, a pipe would keep us waiting for its writer
            flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(name, os.O_RDONLY | flags)
            state = os.fstat(self._descriptor)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(errno.EISDIR, "Is a directory", name)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "Is no regular file", name)
        except FileNotFoundError as error:
            raise missing_file(os.fspath(path)) from error
        except IsADirectoryError as error:
            raise not_a_file(os.fspath(path)) from error
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            reason = getattr(error, "strerror", None) or str(error)
            raise with_errno(SourceError(f"cannot be read: {reason}", url=name), error) from error
        self.source = Source(name, state.st_size, state.st_mtime)

    def read(self, offset: int, length: int) -> bytes:
        # a byte count may be any number; as many bytes would be asked of the memory
        return read_at(self._descriptor, max(0, min(length, self.size - offset)), offset)

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


class FileObjectSource(ByteSource):
    """An open binary file, read under a lock; its position is left where it was."""

    def __init__(self, file: BinaryIO, url: str | None = None) -> None:
        self._file = file
        self._lock = lock_of(file)
        with self._lock:
            before = file.tell()
            size = file.seek(0, io.SEEK_END)
            file.seek(before)
        self.source = Source(url or f"{NAMELESS}{id(file):x}", size)

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            before = self._file.tell()
            self._file.seek(offset)
            data = self._file.read(length)
            self._file.seek(before)
        return data


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


def open_source(
    where: str | os.PathLike[str] | Any, storage_options: Mapping[str, Any] | None = None
) -> ByteSource:
    """Open a path, URL, fsspec OpenFile or binary file object for reading by offset.

    What is open for that already is given back.

    Raises
    ------
    SourceError
        If it cannot be opened, or is a directory.
    """
    if isinstance(where, ByteSource):
        return where
    if hasattr(where, "fs") and hasattr(where, "path"):
        # an fsspec OpenFile, or a file that fsspec opened: its address serves later readers too
        url = where.fs.unstrip_protocol(where.path)
        if url.startswith("file://"):
            return LocalSource(local_path(url))
        return RemoteSource(where.fs, where.path, url)
    if isinstance(where, str | os.PathLike):
        name = os.fspath(where)
        if is_local(name) or Path(name).is_file():  # a file may be called "a::b.tif"
            return LocalSource(local_path(name))
        return open_remote(name, storage_options)
    if hasattr(where, "read") and hasattr(where, "seek"):
        name = getattr(where, "name", None)
        if isinstance(name, str) and _is_open_file(where, name):
            return LocalSource(name)
        return FileObjectSource(where)
    raise SourceError(
        f"cannot open {type(where).__name__}",
        expected="a path, URL, fsspec OpenFile or open binary file",
        hint="Many files become one array with `tiffref.scan_sequence`."
        if isinstance(where, list | tuple)
        else None,
    )


def _is_open_file(file: Any, name: str) -> bool:
    """Return whether an open file is the one of this name: members of archives have names too."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(name).stat())
    except (AttributeError, OSError, ValueError):
        return False
