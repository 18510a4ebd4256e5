"""How far a read or a scan is, for callbacks and for terminals.

Owns the counting, by many threads, of what is done, and the line that is drawn of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial

__all__ = ["Progress", "Tally", "choose_progress"]

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do; what it raises ends the work."""

_WIDTH = 30


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
