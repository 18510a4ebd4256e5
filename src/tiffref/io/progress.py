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

__all__ = [
    "Progress",
    "ProgressCounter",
    "ScanCounter",
    "resolve_progress",
    "scan_progress",
    "show_scan_progress",
]

Progress = Callable[[int, int], None]
"""Called with the number of items done and the total, or, for the scan of one file, with the IFDs
and bytes read so far. An exception that it raises stops the work."""

_BAR_WIDTH = 30
_REDRAW_INTERVAL_S = 0.1


class ProgressCounter:
    """Count finished items; the callback is called by one thread at a time.

    Parameters
    ----------
    progress
        The callback.
    total
        Number of items.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def add(self, n: int) -> None:
        """Add finished items."""
        if n:
            with self._lock:
                self._done += n
                self._progress(self._done, self._total)


class ScanCounter:
    """Count IFDs and bytes read; the callback is called by one thread at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._n_directories = self._n_bytes = 0
        self._lock = threading.Lock()

    def add(self, n_directories: int, n_bytes: int) -> None:
        """Add IFDs and bytes that were read."""
        with self._lock:
            self._n_directories += n_directories
            self._n_bytes += n_bytes
            self._progress(self._n_directories, self._n_bytes)


@contextlib.contextmanager
def scan_progress(progress: Progress | bool | None, message: str) -> Iterator[ScanCounter | None]:
    """Return a counter that calls `progress`; True shows a line while standard error is a terminal.

    The line is erased at the end.
    """
    if callable(progress):
        yield ScanCounter(progress)
    elif progress and sys.stderr.isatty():
        try:
            yield ScanCounter(show_scan_progress(message))
        finally:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
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
            size = f"{n_bytes / 1e6:,.1f} MB"
            sys.stderr.write(f"\r\x1b[K{message}: {n_directories:,} directories, {size}")
            sys.stderr.flush()

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
    line = f"\r{verb} {bar} {done:,} of {total:,} {noun}"
    sys.stderr.write("\r\x1b[K" if done == total else line)
    sys.stderr.flush()
