"""How far a read or a scan is, for callbacks and for terminals.

Owns the counting, by many threads, of what is done, and the line that is drawn of it. Of one file,
nobody knows how many directories it has before all are read: what is counted has no total.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

__all__ = ["Counts", "Progress", "Tally", "choose_counts", "choose_progress", "draw_counts"]

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do, or, where nobody knows how much there is, with
the directories and the bytes read so far; what it raises ends the work."""

_WIDTH = 30
_REDRAWN_S = 0.1


class Tally:
    """Counts for a callback, which one thread calls at a time.

    Parameters
    ----------
    progress
        The callback.
    total
        How much there is to do.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def add(self, n: int) -> None:
        """Note that so many more are done."""
        if n:
            with self._lock:
                self._done += n
                self._progress(self._done, self._total)


class Counts:
    """Counts directories and bytes read for a callback, which one thread calls at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._n_directories = self._n_bytes = 0
        self._lock = threading.Lock()

    def add(self, n_directories: int, n_bytes: int) -> None:
        """Note that so many more are read."""
        with self._lock:
            self._n_directories += n_directories
            self._n_bytes += n_bytes
            self._progress(self._n_directories, self._n_bytes)


@contextlib.contextmanager
def choose_counts(progress: Progress | bool | None, message: str) -> Iterator[Counts | None]:
    """Get what counts for the callback to use: for True one that draws a line behind a message, if
    standard error is a terminal, and wipes it in the end."""
    if callable(progress):
        yield Counts(progress)
    elif progress and sys.stderr.isatty():
        try:
            yield Counts(draw_counts(message))
        finally:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
    else:
        yield None


def draw_counts(message: str) -> Progress:
    """Return a callback that draws directories and bytes behind a message, now and then."""
    drawn_at = -_REDRAWN_S

    def draw(n_directories: int, n_bytes: int) -> None:
        nonlocal drawn_at
        now = time.monotonic()
        if now - drawn_at >= _REDRAWN_S:
            drawn_at = now
            size = f"{n_bytes / 1e6:,.1f} MB"
            sys.stderr.write(f"\r\x1b[K{message}: {n_directories:,} directories, {size}")
            sys.stderr.flush()

    return draw


def choose_progress(progress: Progress | bool | None, verb: str, noun: str) -> Progress | None:
    """Return the callback to use: for True one that draws a line, if standard error is a terminal.

    Parameters
    ----------
    progress
        What the user gave.
    verb, noun
        What is done, and of what: "scanning", "files".
    """
    if callable(progress):
        return progress
    return partial(_draw, verb, noun) if progress and sys.stderr.isatty() else None


def _draw(verb: str, noun: str, done: int, total: int) -> None:
    """Draw a bar, and wipe it when all is done."""
    filled = _WIDTH * done // max(1, total)
    bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}]"
    line = f"\r{verb} {bar} {done:,} of {total:,} {noun}"
    sys.stderr.write("\r\x1b[K" if done == total else line)
    sys.stderr.flush()
