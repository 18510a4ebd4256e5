"""Progress and summary of a build, and its report file.

Owns the numbers of a build and how they read: a bar on a terminal, lines in a log, a table at the
end. The builder calls `Progress.update` after each batch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, TextIO

from ..formats.summary import count, format_bytes
from ..io.atomic import open_atomic

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
                todo = count(counts.n_jobs, counts.what)
                self._write(f"catalog: {todo} to do, {counts.n_skipped:,} finished before\n")
            return
        is_last = counts.n_done == counts.n_jobs
        wait = _DRAW_S if self.stream.isatty() else _LINE_S
        if not is_last and now - self._shown < wait:
            return
        self._shown = now
        text = self._text(counts, now - self._start)
        if self.stream.isatty():
            filled = _WIDTH * counts.n_done // max(1, counts.n_jobs)
            self._write(f"\r\x1b[K[{'#' * filled}{'.' * (_WIDTH - filled)}] {text}")
        else:
            self._write(f"catalog: {text}\n")

    def close(self) -> None:
        """Wipe the bar."""
        if self.stream.isatty():
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def _text(self, counts: Counts, elapsed_s: float) -> str:
        rate = counts.n_done / elapsed_s if elapsed_s > 0 else 0.0
        left = (counts.n_jobs - counts.n_done) / rate if rate else 0.0
        parts = [
            f"{counts.n_done:,} of {count(counts.n_jobs, counts.what)}",
            f"{rate:,.0f}/s",
            f"{counts.n_failed:,} failed",
            f"{format_bytes(counts.n_bytes)} of images" if counts.n_bytes else "",
            f"{timedelta(seconds=int(left))} left",
        ]
        return ", ".join(part for part in parts if part)


_SHOWN = 5
_HIDDEN = frozenset({"document_size", "document_crc", "raster"})


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a build in numbers.

    Attributes
    ----------
    output
        Folder of the catalog.
    files
        Rows of the index.
    ok, failed, deleted
        Rows by status.
    scanned, unchanged, skipped
        Files that this run scanned, checked and found unchanged, or skipped as finished.
    bytes
        Size of the images that this run scanned.
    chunks
        Number of chunks of all files.
    warned
        Number of files with invalid metadata.
    errors
        Number of files by kind of error.
    failures
        (url, error) of the first few files that failed.
    combined, combined_failed
        Combined sets that were written, and (name, error) of those that failed.
    """

    output: str
    files: int
    ok: int
    failed: int
    deleted: int
    scanned: int
    unchanged: int
    skipped: int
    bytes: int
    chunks: int
    warned: int
    errors: Mapping[str, int]
    failures: Sequence[tuple[str, str]]
    combined: int
    combined_failed: Sequence[tuple[str, str]]

    @property
    def is_complete(self) -> bool:
        """Nothing failed."""
        return not self.failed and not self.combined_failed

    @classmethod
    def of(
        cls,
        counts: Counts,
        rows: Iterable[Mapping[str, Any]],
        combined: Sequence[Mapping[str, Any]],
        output: str,
    ) -> Summary:
        """Sum up a build.

        Parameters
        ----------
        counts, rows, combined, output
            What this run did, the rows of the index and of combined sets, and the folder.
        """
        status: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        failures: list[tuple[str, str]] = []
        n_chunks = n_warned = 0
        for row in rows:
            status[row["status"]] += 1
            n_chunks += row.get("n_chunks", 0) if row["status"] == "ok" else 0
            n_warned += bool(row.get("warnings"))
            if row["status"] == "failed":
                errors[row["error_type"]] += 1
                if len(failures) < _SHOWN:
                    failures.append((row["url"], row["error"]))
        bad = [(row["name"], row["error"]) for row in combined if row["status"] != "ok"]
        return cls(
            output, status.total(), status["ok"], status["failed"], status["deleted"],
            counts.n_done - counts.n_unchanged, counts.n_unchanged, counts.n_skipped,
            counts.n_bytes, n_chunks, n_warned, dict(errors), failures,
            len(combined) - len(bad), bad,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)

    def table(self) -> Iterator[tuple[str, str]]:
        """Return the rows of the summary table, those that say something."""
        yield "files", f"{self.files:,}"
        yield "  ok", f"{self.ok:,}"
        for name in ("failed", "deleted", "warned"):
            if getattr(self, name):
                yield f"  {name}", f"{getattr(self, name):,}"
        for kind, n in sorted(self.errors.items()):
            yield f"    {kind}", f"{n:,}"
        yield "scanned now", f"{self.scanned:,}"
        if self.unchanged:
            yield "unchanged", f"{self.unchanged:,}"
        if self.skipped:
            yield "finished before", f"{self.skipped:,}"
        yield "chunks", f"{self.chunks:,}"
        if self.combined or self.combined_failed:
            yield "combined sets", f"{self.combined:,}"


def write_report(
    path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], summary: Summary
) -> None:
    """Write a line of JSON for each file, and one for the build at the end.

    Raises
    ------
    SourceError
        If it cannot be written.
    """
    with open_atomic(path) as file:
        for row in rows:
            kept = {key: value for key, value in row.items() if key not in _HIDDEN}
            file.write(_line(kept))
        file.write(_line({"summary": summary.to_json()}))


def _line(row: Mapping[str, Any]) -> bytes:
    # names that are no UTF-8 become what JSON escapes them as
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
