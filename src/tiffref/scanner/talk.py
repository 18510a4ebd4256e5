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
from types import TracebackType

import numpy as np

from ..errors import MalformedTiff, TiffrefError

__all__ = ["PARSE_ERRORS", "quiet", "typed_errors"]

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


@contextlib.contextmanager
def typed_errors(url: str) -> Iterator[None]:
    """Make of what tifffile raises, wherever it is asked, a `MalformedTiff`; keep it quiet.

    tifffile looks at a file when its attributes are asked for, so that any of them may fail. Errors
    that do not come out of tifffile pass as they are.
    """
    try:
        with quiet():
            yield
    except TiffrefError:
        raise
    except PARSE_ERRORS as error:
        if not _is_from_tifffile(error.__traceback__):
            raise
        raise MalformedTiff(
            "cannot be parsed as TIFF", url=url, got=f"{type(error).__name__}: {error}"
        ) from error


def _is_from_tifffile(trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "tifffile":
            return True
        trace = trace.tb_next
    return False


_IS_SCANNING = contextvars.ContextVar("is_scanning", default=False)


class _Silence(logging.Filter):
    """Keep tifffile from talking while we scan: what matters is raised or reported by us."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _IS_SCANNING.get()


logging.getLogger("tifffile").addFilter(_Silence())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop tifffile's log messages and NumPy's about its sums, in this thread or task alone."""
    token = _IS_SCANNING.set(True)
    try:
        with np.errstate(all="ignore"):  # MetaMorph's tags hold fractions, 0 over 0 among them
            yield
    finally:
        _IS_SCANNING.reset(token)
