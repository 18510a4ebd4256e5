"""How a build tells what it is doing: a bar on a terminal, lines in a log.

Owns nothing but words. The builder calls `Progress.update` after each batch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

__all__ = ["Counts", "Progress"]

_DRAW_S = 0.1
_LINE_S = 10.0
_WIDTH = 24


@dataclass(slots=True)
class Counts:
    """How far a build has come.

    `n_jobs` files are to be looked at; of these `n_done` have been, among them `n_failed` and
    `n_unchanged`. `n_skipped` were finished by an earlier run. `n_bytes` is what the images take.
    `what` is counted.
    """

    n_jobs: int = 0
    n_done: int = 0
    n_failed: int = 0
    n_unchanged: int = 0
    n_skipped: int = 0
    n_bytes: int = 0
    what: str = "file"


@dataclass(slots=True)
class Progress:
    """Shows counts on a stream: redrawn on a terminal, now and then a line elsewhere."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    _start: float | None = None
    _shown: float = 0.0
    _what: str = ""

    def update(self, counts: Counts) -> None:
        """Show where the build is."""
        now = self.clock()
        if self._start is None or self._what != counts.what:
            self._start = self._shown = now
            self._what = counts.what
            if not self.stream.isatty():
                self._line(f"catalog: {_count(counts.n_jobs, counts.what)} to do, "
                           f"{counts.n_skipped:,} finished before")  # fmt: skip
            return
        is_last = counts.n_done == counts.n_jobs
        wait = _DRAW_S if self.stream.isatty() else _LINE_S
        if not is_last and now - self._shown < wait:
            return
        self._shown = now
        text = self._text(counts, now - self._start)
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{self._bar(counts)} {text}")
            self.stream.flush()
        else:
            self._line(f"catalog: {text}")

    def close(self) -> None:
        """Wipe the bar."""
        if self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def _line(self, text: str) -> None:
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def _bar(self, counts: Counts) -> str:
        filled = _WIDTH * counts.n_done // max(1, counts.n_jobs)
        return f"[{'#' * filled}{'.' * (_WIDTH - filled)}]"

    def _text(self, counts: Counts, elapsed_s: float) -> str:
        rate = counts.n_done / elapsed_s if elapsed_s > 0 else 0.0
        left = (counts.n_jobs - counts.n_done) / rate if rate else 0.0
        parts = [
            f"{counts.n_done:,} of {_count(counts.n_jobs, counts.what)}",
            f"{rate:,.0f}/s",
            f"{counts.n_failed:,} failed",
            f"{_say_bytes(counts.n_bytes)} of images" if counts.n_bytes else "",
            f"{_say_seconds(left)} left",
        ]
        return ", ".join(part for part in parts if part)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _say_bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def _say_seconds(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
