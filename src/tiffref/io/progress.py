"""Report the progress of reads and scans to callbacks and terminals.

The counters are thread-safe. The scan of one file has no total, because the number of its IFDs is
not known until all are read.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

Progress = Callable[[int, int], None]
"""Called with the number of items done and the total, or, for the scan of one file, with the IFDs
and bytes read so far. An exception that it raises stops the work."""

_BAR_WIDTH = 30
_REDRAW_INTERVAL_S = 0.1


class ProgressCounter:
    """Sum what is done; the callback is called by one thread at a time.

    Parameters
    ----------
    progress
        The callback.
    total
        Number of items; 0 for the scan of one file, which counts bytes instead.
    """

    def __init__(self, progress: Progress, total: int = 0) -> None:
        self._progress = progress
        self._sums = 0, total
        self._lock = threading.Lock()

    def add(self, n: int, n_bytes: int = 0) -> None:
        """Add finished items, or IFDs and bytes that were read."""
        if n or n_bytes:
            with self._lock:
                self._sums = self._sums[0] + n, self._sums[1] + n_bytes
                self._progress(*self._sums)


def show_line(text: str = "") -> None:
    """Replace the current line of the terminal; without a text, erase it."""
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


@contextlib.contextmanager
def scan_progress(
    progress: Progress | bool | None, message: str
) -> Iterator[ProgressCounter | None]:
    """Return a counter that calls `progress`; True shows a line while standard error is a terminal.

    The line is erased at the end.
    """
    if callable(progress):
        yield ProgressCounter(progress)
    elif progress and sys.stderr.isatty():
        try:
            yield ProgressCounter(show_scan_progress(message))
        finally:
            show_line()
    else:
        yield None


def show_scan_progress(message: str) -> Progress:
    """Return a callback that prints the message with the IFDs and bytes read so far."""
    drawn_at = -_REDRAW_INTERVAL_S

    def draw(n_directories: int, n_bytes: int) -> None:
        nonlocal drawn_at
        now = time.monotonic()
        if now - drawn_at >= _REDRAW_INTERVAL_S:
            drawn_at = now
            show_line(f"{message}: {n_directories:,} directories, {n_bytes / 1e6:,.1f} MB")

    return draw


def resolve_progress(progress: Progress | bool | None, verb: str, noun: str) -> Progress | None:
    """Return the callback to use; True is a progress bar if standard error is a terminal.

    Parameters
    ----------
    progress
        Argument of the user.
    verb, noun
        Words of the progress bar: "scanning", "files".
    """
    if callable(progress):
        return progress
    return partial(_draw, verb, noun) if progress and sys.stderr.isatty() else None


def _draw(verb: str, noun: str, done: int, total: int) -> None:
    """Draw a progress bar; erase it when all is done."""
    filled = _BAR_WIDTH * done // max(1, total)
    bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]"
    show_line("" if done == total else f"{verb} {bar} {done:,} of {total:,} {noun}")
