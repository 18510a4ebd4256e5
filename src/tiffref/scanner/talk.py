"""How tifffile fails, and how it is kept from talking.

Owns the list of what tifffile raises on files that it cannot make sense of, and a filter on its
log: what matters is raised or reported by us.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import struct
from collections.abc import Iterator

__all__ = ["PARSE_ERRORS", "quiet"]

PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What tifffile raises on files that it cannot make sense of."""


_IS_SCANNING = contextvars.ContextVar("is_scanning", default=False)


class _Silence(logging.Filter):
    """Keep tifffile from talking while we scan: what matters is raised or reported by us."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _IS_SCANNING.get()


logging.getLogger("tifffile").addFilter(_Silence())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop tifffile's log messages, in this thread or task alone."""
    token = _IS_SCANNING.set(True)
    try:
        yield
    finally:
        _IS_SCANNING.reset(token)
