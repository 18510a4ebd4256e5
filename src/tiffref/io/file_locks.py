"""Turns at an open file, whose one position all of its readers move.

Owns the lock of each open file: scans and stores over one file know nothing of one another.
"""

from __future__ import annotations

import threading
from typing import BinaryIO
from weakref import WeakKeyDictionary

__all__ = ["lock_of"]

_locks: WeakKeyDictionary[BinaryIO, threading.Lock] = WeakKeyDictionary()
_locks_lock = threading.Lock()
_lock_of_others = threading.Lock()


def lock_of(file: BinaryIO) -> threading.Lock:
    """Give the lock that all readers of an open file share."""
    try:
        with _locks_lock:
            return _locks.setdefault(file, threading.Lock())
    except TypeError:  # it cannot be hashed, or not be referred to weakly
        return _lock_of_others
