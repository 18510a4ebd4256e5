"""Progress of a build, on a terminal and in a log."""

from __future__ import annotations

import pytest

from tiffref.catalog.builder import BuildProgress, Counts


class Screen:
    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal, self.text = is_terminal, ""

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress(is_terminal: bool) -> None:
    screen = Screen(is_terminal)
    now = iter(range(100))
    progress = BuildProgress(screen, clock=lambda: next(now) * 15.0)
    progress.update(Counts(100))
    progress.update(Counts(100, 50, 2, 0, 0, 5 << 20))
    assert "50 of 100 files, 3/s, 2 failed, 5.0 MiB of images, 0:00:15 left" in screen.text
    assert ("\r" in screen.text) is is_terminal
    progress.close()
    assert screen.text.endswith("\x1b[K" if is_terminal else "\n")
