"""Scan many files: a few in full, the others by comparison with them.

Owns the concurrency of a sequence's scan, its progress, and what becomes of files that cannot be
read. At most as many files are open as there are workers.

Local directories are read in a few tens of microseconds each, most of them in Python, so that
threads gain little and processes cost more than they save (measured in docs/sequences.md): one
worker is the default there. Remote files wait for the network: 16 threads.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ..errors import SourceError, TiffrefError
from ..model.manifest import Source
from ..model.node import Array
from ..references import References
from ..scanner.skeleton import Skeleton, read_skeleton
from ..scanner.source import open_source
from ..scanner.template import Template, make_template
from ..scanner.tiff import scan

__all__ = ["Part", "Progress", "scan_files", "unreadable"]

_BLOCK_FILES = 32
_REMOTE_WORKERS = 16
_MAX_TEMPLATES = 64
_SHOWN = 3

Progress = Callable[[int, int], None]
"""(files done, files in all) -> None."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One file of a sequence.

    Attributes
    ----------
    url, source
        The file.
    model
        Of the file that was scanned in full: what is not in `arrays` holds for this one too.
    arrays
        The file's own arrays with segments, by path.
    notes
        Georeference, date and description by tag.
    place
        The georeference alone, as a value that can be compared.
    """

    url: str
    source: Source
    model: References
    arrays: Mapping[str, Array]
    notes: Mapping[int, Any] = field(default_factory=dict)
    place: tuple = ()


def scan_files(
    urls: Sequence[str],
    options: Mapping[str, Any],
    *,
    workers: int | None = None,
    progress: Progress | bool | None = None,
    ignores_place: bool = False,
) -> tuple[list[Part | None], dict[int, TiffrefError]]:
    """Scan the files of a sequence.

    Parameters
    ----------
    urls
        Paths or URLs.
    options
        For `scan`: `series`, `level`, `key`, `chunkmode`, `fillvalue`, `storage_options`.
    workers
        Threads; by default 1 for local files, 16 for remote ones.
    progress
        Called with the number of files done and of all; True draws a bar where standard error is a
        terminal.
    ignores_place
        Files that differ in their georeference alone are of one kind.

    Returns
    -------
    parts, failures
        A part for each file in order, None where it cannot be told; and why, by index.
    """
    if workers is None:
        workers = _REMOTE_WORKERS if any("://" in url for url in urls) else 1
    show = _bar if progress is True and sys.stderr.isatty() else progress
    scanner = _Scanner(options, ignores_place)
    parts: list[Part | None] = []
    failures: dict[int, TiffrefError] = {}
    for found in _in_order(scanner.outline, scanner.part, urls, max(1, workers)):
        if isinstance(found, TiffrefError):
            failures[len(parts)] = found
            parts.append(None)
        else:
            parts.append(found)
        if callable(show) and (len(parts) % _BLOCK_FILES == 0 or len(parts) == len(urls)):
            show(len(parts), len(urls))
    return parts, failures


def _in_order(outline: Any, part: Any, urls: Sequence[str], workers: int) -> Iterator[Any]:
    """Read outlines ahead in threads, and turn them into parts in order.

    What needs a scan in full is scanned in the threads too; the window of files that wait is
    bounded, so that a hundred thousand names take no more memory than their columns.
    """
    if workers == 1:
        for url in urls:
            found = part(url, outline(url))
            yield found() if callable(found) else found
        return
    pool = ThreadPoolExecutor(workers, "tiffref-scan")
    ahead: deque[tuple[str, Future]] = deque()
    done: deque[Any] = deque()
    names = iter(urls)
    window = 4 * workers
    try:
        while True:
            for url in itertools.islice(names, window - len(ahead)):
                ahead.append((url, pool.submit(outline, url)))
            if ahead and len(done) < window:
                url, future = ahead.popleft()
                found = part(url, future.result())
                done.append(pool.submit(found) if callable(found) else found)
            elif done:
                first = done.popleft()
                yield first.result() if isinstance(first, Future) else first
            else:
                return
    finally:
        # a request that hangs must not hold up who gives up
        is_given_up = sys.exc_info()[0] is KeyboardInterrupt
        pool.shutdown(wait=not is_given_up, cancel_futures=True)


class _Scanner:
    """Scans files, and remembers those that others may be alike to."""

    def __init__(self, options: Mapping[str, Any], ignores_place: bool) -> None:
        self._options = options
        self._ignores_place = ignores_place
        self._templates: dict[Any, tuple[References, Template] | None] = {}

    def outline(self, url: str) -> Skeleton | TiffrefError:
        """Read the directories of a file."""
        try:
            with closing(open_source(url, self._options.get("storage_options"))) as there:
                return read_skeleton(there)
        except TiffrefError as error:
            return error

    def part(self, url: str, skeleton: Skeleton | TiffrefError) -> Any:
        """Give the part of a file, an error, or a function that scans it in full."""
        if isinstance(skeleton, TiffrefError):
            return skeleton
        key = self._key(skeleton)
        if key is None:
            return lambda: self._scan(url, skeleton)
        known = self._templates.get(key)
        if known is None:
            if key in self._templates or len(self._templates) >= _MAX_TEMPLATES:
                return lambda: self._scan(url, skeleton)
            part = self._scan(url, skeleton)
            if isinstance(part, Part):
                model = part.model
                template = make_template(dict(model.group.arrays()), model.series, skeleton)
                self._templates[key] = (model, template) if template is not None else None
            return part
        model, template = known
        arrays = template.arrays_of(skeleton)
        if arrays is None:
            return lambda: self._scan(url, skeleton)
        return Part(url, skeleton.source, model, arrays, skeleton.notes, skeleton.place)

    def _key(self, skeleton: Skeleton) -> Any:
        if skeleton.signature is None or self._ignores_place:
            return skeleton.signature
        return skeleton.signature, skeleton.place

    def _scan(self, url: str, skeleton: Skeleton) -> Part | TiffrefError:
        try:
            references = scan(url, **self._options)
        except TiffrefError as error:
            return error
        refused = [
            level["refused"]
            for row in references.series
            for level in row["levels"]
            if "refused" in level
        ]
        if refused:
            return SourceError(f"a level cannot be told: {refused[0]}", url=url)
        arrays = {path: array for path, array in references.group.arrays() if _has_source(array)}
        return Part(url, skeleton.source, references, arrays, skeleton.notes, skeleton.place)


def _has_source(array: Array) -> bool:
    return bool(array.manifest.sources)


def unreadable(failures: Mapping[int, TiffrefError], urls: Sequence[str]) -> TiffrefError:
    """Make one error of those of several files."""
    first = next(iter(failures.values()))
    if len(failures) == 1:
        first.url = first.url or urls[next(iter(failures))]
        return first
    told = "; ".join(f"{urls[n]}: {error.what}" for n, error in list(failures.items())[:_SHOWN])
    error = type(first)(
        f"{len(failures)} of {len(urls)} files cannot be scanned: {told}"
        + ("; ..." if len(failures) > _SHOWN else ""),
        hint="allow_holes=True leaves their chunks missing.",
    )
    return error


def _bar(done: int, total: int) -> None:
    """Draw a progress bar on standard error, and wipe it when all is done."""
    width = 30
    filled = width * done // max(1, total)
    line = f"\rscanning [{'#' * filled}{'.' * (width - filled)}] {done:,} of {total:,} files"
    sys.stderr.write("\r\x1b[K" if done == total else line)
    sys.stderr.flush()
