"""Decoded chunks of local files, kept for the next read that wants another part of them.

Owns what is kept, for how long, and how it is told apart. Windows that overlap, and rows read one
by one, want the same tile many times, and inflating it costs most of a read. Whoever reads whole
chunks comes by each once: chunks are kept of reads that touch some in part, and of large ones only
these. The bound is for the whole process, which may have thousands of stores.

A chunk is found again only with the state of the very file it was read from (device, inode, size,
times of change), the byte range and the codec. A file that was written to has another state, so
that what was kept of it is never found again; sources that cannot be asked without a request, and
files written to a moment ago, whose next change might bear the same time, are not kept at all.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any

from numpy.typing import NDArray

__all__ = ["CACHE", "ChunkCache", "set_cache_size"]

_MAX_SHARE = 4
"""A chunk is kept only if so many like it could be, and all of a read if so many reads could be."""


class ChunkCache:
    """Decoded chunks, the least recently used of which make room for new ones.

    Parameters
    ----------
    max_bytes
        Of all samples together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._chunks: OrderedDict[Hashable, tuple[NDArray, Any]] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chunks)

    def takes(self, n_bytes: int) -> bool:
        """Return whether a chunk of so many bytes is kept at all."""
        return n_bytes * _MAX_SHARE <= self.max_bytes

    def find(self, keys: Iterable[Hashable | None]) -> list[NDArray | None]:
        """Return the samples of each chunk that is here, which cannot be changed, and None for
        others."""
        with self._lock:
            return [self._find(key) for key in keys]

    def put(self, key: Hashable, samples: NDArray, owner: Any) -> None:
        """Keep the samples of a chunk.

        Parameters
        ----------
        key
            All that tells the chunk from others.
        samples
            Of the whole chunk; nobody may write to them from now on.
        owner
            An object whose `id` is part of the key; it lives as long as its chunk, so that no
            other object can have its `id`.
        """
        samples.flags.writeable = False
        with self._lock:
            old = self._chunks.pop(key, None)
            self._n_bytes -= old[0].nbytes if old else 0
            self._chunks[key] = (samples, owner)
            self._n_bytes += samples.nbytes
            self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Set the bound, and forget what is over it."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._chunks.clear()
            self._n_bytes = 0

    def _find(self, key: Hashable | None) -> NDArray | None:
        found = self._chunks.get(key)
        if found is None:
            return None
        self._chunks.move_to_end(key)
        return found[0]

    def _shrink(self) -> None:
        while self._n_bytes > self.max_bytes:
            _, (samples, _) = self._chunks.popitem(last=False)
            self._n_bytes -= samples.nbytes


CACHE = ChunkCache(64 << 20)
"""Those of this process."""


def set_cache_size(max_bytes: int) -> None:
    """Set how many bytes of decoded chunks this process caches; 0 turns the cache off.

    Parameters
    ----------
    max_bytes
        Size of the cache. The default is 64 MiB.
    """
    if max_bytes < 0:
        raise ValueError(f"max_bytes is {max_bytes}, expected 0 or more")
    CACHE.resize(max_bytes)


def _start_anew() -> None:
    # another thread of the parent process may have held the lock when it forked
    CACHE.__init__(CACHE.max_bytes)  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
