"""Local files by descriptor: reading by position, and which file a descriptor is.

Owns what differs between systems: Windows has no positioned reads, and each system says in its own
way where an open file lies.
"""

from __future__ import annotations

import os
import threading

__all__ = ["opened_path", "read_at"]

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
