"""What a scan reads from: bytes by offset.

Owns the face that local files, remote objects and open files share.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ..model.manifest import Source

__all__ = ["ByteSource"]

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

    def is_at_hand(self, offset: int, length: int) -> bool:
        """Return whether these bytes can be read without a request."""
        return True

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges (offset, length) that will be read, together, where reads cost requests."""

    def look(self) -> Any:
        """Return the whole file as a buffer where that costs no request, else None."""
        if 0 < self.size <= _MAX_LOOK_BYTES and self.is_at_hand(0, self.size):
            return self.read(0, self.size)
        return None

    def close(self) -> None:
        """Release what was opened."""
