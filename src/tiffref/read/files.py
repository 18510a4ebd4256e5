"""Local files and open file objects, read by offset."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import time
from collections import OrderedDict
from typing import BinaryIO
from weakref import ref

from ..errors import unreadable
from ..io.allow import AllowList, is_local
from ..io.freshness import check_same
from ..io.local import local_path, lock_of, read_at
from ..model.manifest import Source

__all__ = ["FileObject", "LocalFiles", "is_local", "local_path"]

_SETTLED_S = 2.0
"""A file whose last change is older will bear another time after the next: clocks of file systems
tick every 10 ms at least, those of FAT every 2 s."""
_MAX_OPEN = 128
"""Files that a process keeps open for all of its stores; the common limit of descriptors is 1024,
for everything that it does."""


class _OpenFile:
    """A descriptor that closes with the last reader that holds it.

    The cache may drop a file while another thread reads it; closing it then would let the system
    give its number to another file, and the reader would get that file's bytes.
    """

    __slots__ = ("checked", "descriptor", "mtime", "size")

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        # without O_NONBLOCK, a pipe in the place of a file would keep us waiting for its writer
        flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        self.descriptor = os.open(path, os.O_RDONLY | flags)
        state = os.fstat(self.descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        self.size, self.mtime = state.st_size, state.st_mtime
        self.checked: Source | None = None

    def read_into(self, offset: int, buffer: memoryview) -> int:
        n_read = 0
        while n_read < len(buffer):
            n_now = self._read_some(offset + n_read, buffer[n_read:])
            if not n_now:
                break
            n_read += n_now
        return n_read

    def identity(self) -> tuple[int, ...] | None:
        """Return what tells this file, in the state that it is in, from all others; None where the
        next change might not show."""
        state = os.fstat(self.descriptor)
        if not time.time() - _SETTLED_S - max(state.st_mtime, state.st_ctime) >= 0:
            return None
        times = state.st_mtime_ns, state.st_ctime_ns
        return (state.st_dev, state.st_ino, state.st_size, *times)

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.descriptor, [buffer], offset)
        data = read_at(self.descriptor, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class _OpenFiles:
    """Which files of which owner are open; the one opened first makes room for a new one."""

    def __init__(self) -> None:
        self._urls: OrderedDict[tuple[int, str], ref[LocalFiles]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._urls)

    def add(self, owner: LocalFiles, url: str) -> None:
        with self._lock:
            self._urls[id(owner), url] = ref(owner)
            while len(self._urls) > _MAX_OPEN:
                (_, url), other = self._urls.popitem(last=False)
                forgetful = other()
                if forgetful is not None:
                    forgetful.files.pop(url, None)

    def remove(self, owner: LocalFiles) -> None:
        with self._lock:
            for url in list(owner.files):
                self._urls.pop((id(owner), url), None)
            owner.files.clear()


OPEN_FILES = _OpenFiles()
"""Those of this process."""


class LocalFiles:
    """Local files, by path or file:// URL.

    Each instance opens files of its own, so that it keeps reading what it found at a path, and
    another one may find another file there; their number is bounded for all together.
    """

    is_local = True

    def __init__(self, allow: AllowList | None = None) -> None:
        self.files: dict[str, _OpenFile] = {}
        self._allow = allow

    def read(self, url: str, offset: int, length: int, expected: Source | None = None) -> bytes:
        file = self._open(url, expected)
        # no buffer for bytes that are not there: a bad length may be larger than memory
        length = max(0, min(length, file.size - offset))
        try:
            data = read_at(file.descriptor, length, offset)
            if len(data) == length:
                return data
            buffer = bytearray(length)
            return bytes(buffer[: file.read_into(offset, memoryview(buffer))])
        except OSError as error:
            raise unreadable(url, error) from error

    def read_all(self, url: str, expected: Source | None = None) -> bytes:
        return self.read(url, 0, self._open(url, expected).size, expected)

    def read_into(
        self, url: str, offset: int, buffer: memoryview, expected: Source | None = None
    ) -> int:
        file = self._open(url, expected)
        try:
            return file.read_into(offset, buffer)
        except OSError as error:
            raise unreadable(url, error) from error

    def state(self, url: str) -> Source:
        try:
            found = os.stat(local_path(url))  # noqa: PTH116
        except (OSError, ValueError) as error:
            raise unreadable(url, error) from error
        return Source(url, found.st_size, found.st_mtime)

    def checks_answers(self, url: str) -> bool:
        """State that a file is compared when it is opened, which the cache may do again."""
        return True

    def identity(self, url: str, expected: Source | None = None) -> tuple[int, ...] | None:
        return self._open(url, expected).identity()

    def close(self) -> None:
        OPEN_FILES.remove(self)

    def _open(self, url: str, expected: Source | None) -> _OpenFile:
        """Open a file, or find it open; it is this very file that is compared."""
        file = self.files.get(url) or self._open_new(url)
        if expected is not None and file.checked is not expected:
            check_same(expected, Source(url, file.size, file.mtime))
            file.checked = expected
        return file

    def _open_new(self, url: str) -> _OpenFile:
        try:
            file = _OpenFile(local_path(url))
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            raise unreadable(url, error) from error
        if self._allow is not None:
            self._allow.check_opened(url, file.descriptor)
        file = self.files.setdefault(url, file)
        OPEN_FILES.add(self, url)
        return file


class FileObject:
    """An open binary file, read under a lock; its position is left where it was.

    The lock is that of the file: each store over it has a `FileObject` of its own.
    """

    is_local = True

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = lock_of(file)

    def read(self, url: str, offset: int, length: int, expected: Source | None = None) -> bytes:
        try:
            with self._lock:
                before = self._file.tell()
                self._file.seek(offset)
                data = self._file.read(length)
                self._file.seek(before)
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            raise unreadable(url, error) from error
        return data

    def read_all(self, url: str, expected: Source | None = None) -> bytes:
        return self.read(url, 0, -1)

    def read_into(
        self, url: str, offset: int, buffer: memoryview, expected: Source | None = None
    ) -> int:
        data = self.read(url, offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def state(self, url: str) -> Source:
        try:
            with self._lock:
                before = self._file.tell()
                size = self._file.seek(0, io.SEEK_END)
                self._file.seek(before)
        except (OSError, ValueError) as error:
            raise unreadable(url, error) from error
        return Source(url, size)

    def identity(self, url: str, expected: Source | None = None) -> None:
        """Return nothing: whoever opened the file may write to it."""

    def checks_answers(self, url: str) -> bool:
        """State that the size of the file has to be asked for."""
        return False

    def close(self) -> None:
        """Leave the file to whoever opened it."""


def _start_anew() -> None:
    # another thread of the parent process may have held the lock when it forked
    OPEN_FILES._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
