"""The journal of a build: what is known of each file.

Owns its lines and how they are read back. The journal is the truth: a file that is not in it is
scanned again, whatever else lies about. One process writes it, flushed to the disk batch by batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .folder import explain_output

__all__ = ["Journal"]


class Journal:
    """Lines of JSON, each the latest that is known of one file.

    Only where each line lies is kept in memory.

    Parameters
    ----------
    path
        A local file, made if it is not there.
    keep
        Called with new lines before they count, to keep them elsewhere too.
    """

    def __init__(self, path: Path, keep: Callable[[bytes], None] | None = None) -> None:
        self._path = path
        self._keep = keep
        self._at: dict[str, int] = {}
        with explain_output(path):
            self._file = path.open("a+b")
            self._load()

    def _load(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                key = json.loads(line)["url"]
            except (ValueError, KeyError, TypeError):
                break  # what follows a torn line was never promised
            self._at[key] = end
            end += len(line)
        self._file.truncate(end)

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __getitem__(self, url: str) -> dict[str, Any]:
        self._file.seek(self._at[url])
        return json.loads(self._file.readline())

    def get(self, url: str) -> dict[str, Any] | None:
        """Give the line of a file, None if there is none."""
        return self[url] if url in self._at else None

    def rows(self, order: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Give the lines of files, one after the other."""
        for url in order:
            yield self[url]

    def append(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Add lines, through the disk.

        Parameters
        ----------
        rows
            URL, and the line with its end.
        """
        data = b"".join(line for _, line in rows)
        if self._keep is not None:
            self._keep(data)
        with explain_output(self._path):
            at = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        for url, line in rows:
            self._at[url] = at
            at += len(line)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
