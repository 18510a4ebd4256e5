"""Turns at what only one reader can use at a time.

Owns the lock of each open file, whose one position all of its readers move, and of each file system
with one connection: scans and stores over one of them know nothing of one another.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

__all__ = ["lock_of", "turn_at"]

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


def turn_at(fs: Any) -> contextlib.AbstractContextManager[Any]:
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
