"""What happened in a build: the summary, and the report file.

Owns the numbers that a build ends with and how they read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..formats.atomic import open_atomic
from .progress import Counts

__all__ = ["Summary", "write_report"]

_SHOWN = 5
_HIDDEN = frozenset({"document_size", "document_crc", "main", "raster"})


@dataclass(frozen=True, slots=True)
class Summary:
    """A build in numbers.

    Attributes
    ----------
    output
        Folder of the catalog.
    files
        Rows of the index.
    ok, failed, deleted
        Rows by status.
    scanned, unchanged, skipped
        Files that this run scanned, looked at in vain, or left alone since they were finished.
    bytes
        What the images take that this run scanned.
    chunks
        Chunks of all files.
    warned
        Files with metadata that makes no sense.
    errors
        Kind of error -> how many files.
    failures
        (url, error) of the first few.
    combined, combined_failed
        Combined sets that were written, and (name, error) of those that could not be.
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
        counts
            What was done in this run.
        rows
            Of the index, one for each file.
        combined
            What became of each combined set.
        output
            Folder of the catalog.
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
        """Give the numbers as JSON values."""
        return asdict(self)

    def table(self) -> Iterator[tuple[str, str]]:
        """Give the rows of the summary table, those that say something."""
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
