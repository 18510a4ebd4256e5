"""Scan the files of a sequence, in threads if they are remote.

Keeps a `Part` of each file, without the attributes that differ from file to file, such as dates,
and collects the errors of files that cannot be read. If names have no dates, they are read from
DateTime (TIFF 6.0, tag 306: "YYYY:MM:DD HH:MM:SS") or OME's AcquisitionDate. Each worker has at
most one file open.

Scanning a local file is nearly all Python, so threads gain little and processes cost more than they
save (measured in docs/sequences.md): the default is one worker. Remote files wait for the network:
the default is 16 threads.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ..errors import ManifestMismatch, SelectionError, SourceError, TiffrefError, first_few
from ..io.allow import AllowList, is_local
from ..io.clients import DaemonPool
from ..io.progress import Progress, resolve_progress
from ..io.remote import open_source
from ..metadata.geo import Location, locate
from ..model.array import Array, Group
from ..model.manifest import Source
from ..model.tiff_facts import TAG_NAMES, LevelFacts
from ..references import References
from ..tiff.scan import scan_with_facts
from .coordinates import read_values

_PER_FILE_ATTRIBUTES = frozenset(
    {"TIFFTAG_DATETIME", "TIFFTAG_ARTIST", "TIFFTAG_HOSTCOMPUTER", "TIFFTAG_DOCUMENTNAME",
     "date_created", "time_coverage_start"}
)  # fmt: skip
"""Attributes that differ from file to file."""
_PER_FILE_TAGS = frozenset({269, 285, 306, 315, 316, 700, 33723, 34377, 34665, 34853, 40965})
"""DocumentName, PageName, DateTime, Artist, HostComputer, XMP, IPTC, Photoshop, and the Exif, GPS
and interoperability IFDs, which differ from file to file."""


def shared_attributes(array: Array) -> dict[str, Any]:
    """Return the attributes without those that differ from file to file: time and some tags."""
    attributes = {
        name: value for name, value in array.attributes.items() if name not in _PER_FILE_ATTRIBUTES
    }
    scalars = [name for name in str(attributes.pop("coordinates", "")).split() if name != "time"]
    if scalars:
        attributes["coordinates"] = " ".join(scalars)
    return without_tags(attributes, _PER_FILE_TAGS)


def without_tags(attributes: Mapping[str, Any], codes: frozenset[int]) -> dict[str, Any]:
    """Remove tags from the attribute `tiff_tags`."""
    if not codes or "tiff_tags" not in attributes:
        return dict(attributes)
    names = {TAG_NAMES.get(code, str(code)) for code in codes}
    tags = json.loads(attributes["tiff_tags"])
    rest = {name: value for name, value in tags.items() if name not in names}
    text = json.dumps(rest, separators=(",", ":"), ensure_ascii=False)
    return {**attributes, "tiff_tags": text}


GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
"""ModelPixelScale, ModelTiepoint, ModelTransformation and the GeoKeys."""
_BLOCK_FILES = 32
_REMOTE_WORKERS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One file of a sequence.

    Attributes
    ----------
    url, source
        The file.
    references
        References without `arrays`, shared between files where equal.
    arrays
        Arrays with segments in this file, by path, with shared attributes only.
    georeference
        Georeferencing tags.
    location
        Location of the raster.
    dates
        Dates stored in the file, by the values of `time_from`.
    has_mask
        Whether the file has a mask that was not scanned.
    """

    url: str
    source: Source
    references: References
    arrays: Mapping[str, Array]
    georeference: Mapping[int, Any] = field(default_factory=dict)
    dates: Mapping[str, str] = field(default_factory=dict)
    location: Location = field(default_factory=Location)
    has_mask: bool = False


def members_of_sets(parts: Sequence[Part | None]) -> list[str]:
    """Return the files whose arrays have planes in other files of the sequence."""
    given = [part for part in parts if part is not None]
    urls = {part.source.url for part in given}
    found = []
    for part in given:
        sources = [array.manifest.sources for array in part.arrays.values()]
        used = {source.url for some in sources if len(some) > 1 for source in some}
        if not urls.isdisjoint(used - {part.source.url}):
            found.append(part.url)
    return found


def scan_files(
    urls: Sequence[str],
    options: Mapping[str, Any],
    *,
    workers: int | None = None,
    progress: Progress | bool | None = None,
    allow: AllowList | None = None,
) -> tuple[list[Part | None], dict[int, TiffrefError]]:
    """Scan the files of a sequence.

    `options` are those of `scan`; `workers` and `progress` are as in `SequenceOptions`, `allow` as
    in `FileList`.

    Returns
    -------
    parts, failures
        A part for each file in order, None if it cannot be scanned; and the errors by index.
    """
    if workers is None:
        workers = _REMOTE_WORKERS if any("://" in url for url in urls) else 1
    show = resolve_progress(progress, "scanning", "files")
    shared: _Shared = {}
    parts: list[Part | None] = []
    failures: dict[int, TiffrefError] = {}
    for part in _in_order(lambda url: _scan(url, options, shared, allow), urls, max(1, workers)):
        if isinstance(part, TiffrefError):
            failures[len(parts)] = part
        parts.append(part if isinstance(part, Part) else None)
        if show is not None and (len(parts) % _BLOCK_FILES == 0 or len(parts) == len(urls)):
            show(len(parts), len(urls))
    return parts, failures


def _in_order(
    scan_one: Callable[[str], Part | TiffrefError], urls: Sequence[str], workers: int
) -> Iterator[Part | TiffrefError]:
    """Scan in threads and yield the results in order, with a limited number of pending files."""
    if workers == 1:
        yield from map(scan_one, urls)
        return
    pool = DaemonPool(workers, "tiffref-scan")
    ahead: deque[Future] = deque()
    names = iter(urls)
    try:
        while True:
            for url in itertools.islice(names, 4 * workers - len(ahead)):
                ahead.append(pool.submit(scan_one, url))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        # do not wait for hanging requests after Ctrl-C
        is_interrupted = sys.exc_info()[0] is KeyboardInterrupt
        pool.shutdown(wait=not is_interrupted, cancel_futures=True)


def _scan(
    url: str, options: Mapping[str, Any], shared: _Shared, allow: AllowList | None
) -> Part | TiffrefError:
    try:
        if allow is None or is_local(url):
            references, facts = scan_with_facts(url, **options)
        else:
            with closing(open_source(url, options["storage_options"], allow)) as source:
                references, facts = scan_with_facts(source, **options)
    except TiffrefError as error:
        return error
    levels = (level for row in references.series for level in row["levels"])
    refused = next((level["refused"] for level in levels if "refused" in level), None)
    if refused is not None:
        return SourceError(f"a level cannot be represented: {refused}", url=url)
    arrays = {
        path: _share_array(array, shared)
        for path, array in references.group.arrays()
        if array.manifest.sources
    }
    scanned = (level for level in facts.series[0].levels if isinstance(level, LevelFacts))
    tags = next((level.ifds[0].tags for level in scanned), {})
    georeference = {code: tags[code] for code in GEO_TAGS if code in tags}
    others = _share_references(references, arrays, georeference, shared)
    location = locate(references.group)
    return Part(
        url, facts.source, others, arrays, georeference, _find_dates(tags),
        shared.setdefault(location, location), facts.has_mask,
    )  # fmt: skip


_Shared = dict[Any, Any]
"""Values shared by files of a sequence, stored once so that a hundred thousand files fit."""


def _share_array(array: Array, shared: _Shared) -> Array:
    attributes = shared_attributes(array)
    return replace(
        array,
        codecs=shared.setdefault(array.codecs, array.codecs),
        attributes=shared.setdefault(repr(attributes), attributes),
    )


def _share_references(
    references: References,
    excluded: Collection[str],
    georeference: Mapping[int, Any],
    shared: _Shared,
) -> References:
    """Return references without the arrays that have segments, shared between files."""
    group = references.group
    others = {name: child for name, child in group.children.items() if name not in excluded}
    rest = Group(others, group.attributes)
    nodes = [(path, node) for path, node in rest.walk() if path != "time"]
    key = (
        tuple(georeference.items()),
        repr(references.series),
        repr([rest.attributes, *((path, node.attributes) for path, node in nodes)]),
        tuple((node.shape, *node.manifest.inlined.items()) for _, node in nodes
              if isinstance(node, Array)),
    )  # fmt: skip
    return shared.setdefault(key, References(rest, references.series))


def unreadable(failures: Mapping[int, TiffrefError], urls: Sequence[str]) -> TiffrefError:
    """Combine the errors of several files."""
    first = next(iter(failures.values()))
    if len(failures) == 1:
        first.url = first.url or urls[next(iter(failures))]
        return first
    reasons = (
        f"{urls[n]}: {error.what}" + ("" if error.got is None else f", got {error.got}")
        for n, error in failures.items()
    )
    hint = "Pass allow_holes=True to leave their chunks missing."
    return type(first)(
        f"{len(failures)} of {len(urls)} files cannot be scanned: {first_few(reasons, '; ')}",
        hint=hint if len(failures) < len(urls) else first.hint,
    )


_SOURCES = {
    "DateTime": (306, re.compile(r"(\d{4}:\d{2}:\d{2} \d{2}:\d{2}:\d{2})")),
    "AcquisitionDate": (270, re.compile(r"<(?:\w+:)?AcquisitionDate>\s*([^<\s]+)")),
}


def _find_dates(tags: Mapping[int, Any]) -> dict[str, str]:
    """Return the dates in the tags of a file, by the values of `time_from`.

    >>> _find_dates({306: "2020:01:02 03:04:05"})
    {'DateTime': '2020:01:02 03:04:05'}
    """
    texts = {code: value for code, value in tags.items() if isinstance(value, str)}
    matches = {name: date.search(texts.get(code, "")) for name, (code, date) in _SOURCES.items()}
    return {name: match[1] for name, match in matches.items() if match is not None}


def read_dates(parts: Sequence[Part], time_from: str) -> NDArray:
    """Read the date of each file, `(n_files,)` datetime64, from "DateTime" or "AcquisitionDate".

    Raises
    ------
    ManifestMismatch
        If files have no such date.
    """
    if time_from not in _SOURCES:
        raise SelectionError("unknown time_from", got=repr(time_from), expected=list(_SOURCES))
    texts = [part.dates.get(time_from) for part in parts]
    missing = [part.url for part, text in zip(parts, texts, strict=True) if text is None]
    if missing:
        raise ManifestMismatch(
            f"{len(missing)} of {len(parts)} files have no {time_from}",
            got=first_few(missing),
        )
    return read_values("time", texts)
