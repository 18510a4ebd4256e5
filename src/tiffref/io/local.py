"""Local files by descriptor, and the locks of what only one reader can use at a time.

Owns what differs between systems: Windows has no positioned reads, and drives and shares that take
their place in URLs; and each system says in its own way where an open file lies. An open file
object, whose one position all of its readers move, has a lock, and so has each file system with one
connection: scans and stores over one of them know nothing of one another.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

__all__ = ["file_url", "is_file_url", "local_path", "lock_for", "lock_of", "opened_path", "read_at"]

_position = threading.Lock()


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read up to `length` bytes at `offset`; fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _position:  # Windows: the position is moved, by one reader at a time
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def opened_path(path: str, descriptor: int) -> str | None:
    """Return the real path of a file that was opened by `path`; None if it lies elsewhere now.

    The path may lead to another file than it did when it was opened, by a link that was swapped;
    Linux says where the open file itself lies.
    """
    state = os.fstat(descriptor)
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        real = os.path.realpath(path)
        try:
            is_same = os.path.samestat(os.lstat(real), state)
        except OSError:
            return None
        return real if is_same else None
    return real.removesuffix(" (deleted)") if not state.st_nlink else real


_IS_WINDOWS = os.name == "nt"
_DRIVE = re.compile(r"/+(?=[A-Za-z]:/)")


def local_path(url: str, is_windows: bool = _IS_WINDOWS) -> str:
    """Return the path of a local source.

    Examples
    --------
    >>> local_path("file:///data/a.tif"), local_path("file:///C:/a.tif", is_windows=True)
    ('/data/a.tif', 'C:/a.tif')
    >>> local_path("file://server/share/a.tif", is_windows=True)
    '//server/share/a.tif'
    """
    if not url.startswith("file://"):
        return url
    path = url[7:]
    if not is_windows:
        return path
    without = _DRIVE.sub("", path, count=1)
    is_share = without == path and not path.startswith("/")
    return f"//{path}" if is_share and not _has_drive(path) else without


def is_file_url(url: str, is_windows: bool = _IS_WINDOWS) -> bool:
    """Return whether a URL names a file by its full path, or on a share where there are such."""
    return url.startswith("file://" if is_windows else "file:///")


def file_url(path: str, is_windows: bool = _IS_WINDOWS) -> str:
    """Return the URL of an absolute path; undoes `local_path`.

    Examples
    --------
    >>> file_url("/data/a.tif"), file_url(r"C:\\data\\a.tif", is_windows=True)
    ('file:///data/a.tif', 'file:///C:/data/a.tif')
    """
    if not is_windows:
        return f"file://{path}"
    path = path.replace("\\", "/")
    if path.startswith("//"):
        return f"file:{path}"
    return f"file:///{path}" if _has_drive(path) else f"file://{path}"


def _has_drive(path: str) -> bool:
    return path[1:3] == ":/" and path[:1].isalpha()


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


_SHARED = frozenset({"memory", "file", "local", "data", "hdfs", "arrow_hdfs"})
"""Protocols whose file systems several threads may use at once, though they are not asynchronous:
they have no connection, or one that is made for that."""


def lock_for(fs: Any) -> contextlib.AbstractContextManager[Any]:
    """Return what a reader of a file system holds while it asks: its lock, where it needs one.

    Asynchronous file systems say of themselves that they take many requests at once. Others, such
    as those of FTP, SFTP, SMB and archives, are one connection or one open file, which threads
    would use in the middle of one another's answers.
    """
    protocols = getattr(fs, "protocol", ())
    protocols = (protocols,) if isinstance(protocols, str) else protocols
    if getattr(fs, "async_impl", False) or not _SHARED.isdisjoint(protocols):
        return contextlib.nullcontext()
    return lock_of(fs)
