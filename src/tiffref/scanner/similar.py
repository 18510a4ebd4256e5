"""Files like one that was scanned before: told by their directories, without a parser.

Owns what a process remembers of the files that it scanned last. Of files of one archive mostly
nothing differs but the places of segments, the tiepoint and dates; the facts of the next such file
are those of the first with other values in these places, and it is described as any other file. A
file with any other difference is scanned in full, and so is one whose segments are not stored as
the first's. Only small local files are remembered, and only the second of a kind is taken as a
model, so that a scan of files that have nothing in common loses next to nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from ..conventions.layout import LevelName
from ..errors import MalformedTiff
from ..model.codec import SegmentCodec
from ..model.facts import FileFacts, LevelFacts
from ..model.manifest import Source
from ..model.node import Array, Group
from ..references import References
from .bytesource import ByteSource
from .probe import is_exact, probe_indices
from .skeleton import Skeleton, read_skeleton
from .source import LocalSource
from .template import Template, make_template

__all__ = ["Located", "SimilarFiles", "is_stored_alike"]

POINTERS = frozenset({34665, 34853, 40965})
"""Tags that lead to directories which a comparison does not read: Exif, GPS, interoperability."""
_TIEPOINTS, _DATE_TIME = 33922, 306
_DATE = re.compile(rb"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d\x00")
_KINDS = frozenset({"generic", "uniform", "shaped", "geotiff"})
_FLAVOURS = frozenset({"gdal", "geotiff", "shaped", "uniform"})
"""Flavours whose metadata is all in the tags that are compared."""
_LOOKED_INTO = frozenset({6, 7, 33007, 34892})
"""Compressions (JPEG) of which a scan takes facts from the segments."""
_MAX_IFDS = 16
_MAX_SEGMENTS = 4096
_MAX_VALUE_BYTES = 1 << 16
_MAX_BYTES = 1 << 18
"""Bytes of all tags of a model: 64 of them are kept."""
_MAX_MODELS = 64
_MAX_NOTED = 256
_MAX_ATTEMPTS = 4
"""Times that a model is made for files that look alike, before giving up on them."""


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """All that a scan finds before it describes: facts, and arrays as planned and looked at.

    `names` and `arrays` are by position of the series and index of the level; `series` is the
    record of the series as `References` has it.
    """

    facts: FileFacts
    names: Mapping[tuple[int, int], LevelName]
    arrays: Mapping[tuple[int, int], Array]
    series: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A file that was scanned in full. `look` is what it looked like (see `_look_of`)."""

    located: Located
    template: Template
    look: Any

    def tell(
        self, skeleton: Skeleton, tags: Mapping[int, Any], there: ByteSource
    ) -> Located | None:
        """Tell another file; None if it is not alike after all."""
        by_path = self.template.arrays_of(skeleton)
        if by_path is None:
            return None
        if not skeleton.is_whole and not all(
            is_stored_alike(array, there) for array in by_path.values()
        ):
            return None
        facts = _with_tags(self.located.facts, skeleton.source, tags)
        arrays = {place: by_path[self.located.names[place].path] for place in self.located.arrays}
        series = [
            {**row, "levels": [dict(level) for level in row["levels"]]}
            for row in self.located.series
        ]
        return Located(facts, self.located.names, arrays, series)


class SimilarFiles:
    """The files that one process scanned last.

    Scans of several threads may use it at once: each step on the dictionaries is one operation,
    and what is lost between two of them is only a chance to be quick.
    """

    def __init__(self) -> None:
        self._models: dict[Any, _Model] = {}
        self._noted: dict[Any, int] = {}

    def find(self, where: Any, options: Any) -> Located | None:
        """Tell a file by one that was scanned with the same options.

        Returns
        -------
        None for files to be scanned in full.

        Raises
        ------
        SourceError
            If it cannot be read.
        """
        if not self._models or not isinstance(where, str | os.PathLike):
            return None
        name = os.fspath(where)
        if not isinstance(name, str) or "://" in name or "::" in name:
            return None
        with closing(LocalSource(name)) as there:
            outline = _outline(there)
            if outline is None:
                return None
            skeleton, kept, tags = outline
            model = self._models.get((options, skeleton.signature, skeleton.volatile, kept))
            located = model.tell(skeleton, tags, there) if model is not None else None
            if located is not None and model is not None:
                self._noted[model.look] = 1
            return located

    def learn(self, there: ByteSource, located: Located, options: Any) -> None:
        """Remember a file that was scanned in full, if it can be the model of others."""
        if not isinstance(there, LocalSource) or not _is_simple(located):
            return
        look = (options, _look_of(located.facts))
        n_seen = self._noted.get(look, 0)
        if len(self._noted) >= _MAX_NOTED:
            self._noted.clear()
        self._noted[look] = n_seen + 1
        if not 0 < n_seen <= _MAX_ATTEMPTS:
            return
        outline = _outline(there)
        if outline is None:
            return
        skeleton, kept, tags = outline
        if not _has_tags(located.facts, tags) or _nbytes(skeleton) > _MAX_BYTES:
            return
        children = {located.names[place].path: array for place, array in located.arrays.items()}
        template = make_template(References(Group(children), located.series), skeleton)
        if template is None or template.rows.keys() != children.keys():
            return  # an array without segments has no row
        if len(self._models) >= _MAX_MODELS:
            self._models.clear()
        key = (options, skeleton.signature, skeleton.volatile, kept)
        self._models[key] = _Model(located, template, look)


def is_stored_alike(array: Array, there: ByteSource) -> bool:
    """Look at the segments that a scan in full would look at.

    Parameters
    ----------
    array
        With its byte ranges in the file, and the codec of another one.
    there
        The file.
    """
    codec = array.codecs[0]
    manifest = array.manifest
    if not isinstance(codec, SegmentCodec):
        return False
    if codec.compression == 1:
        return True  # lengths tell all, and were compared
    return all(
        is_exact(codec, there.read(int(manifest.offset[n]), int(manifest.length[n])))
        for n in probe_indices(manifest)
        if there.is_at_hand(int(manifest.offset[n]), int(manifest.length[n]))
    )


def _outline(there: ByteSource) -> tuple[Skeleton, tuple[Any, ...], dict[int, Any]] | None:
    """Read the directories of a file.

    Returns
    -------
    skeleton, kept, tags
        `kept` are values that must be equal; `tags` values of the first directory that need not be,
        as facts have them. None for files that only a scan in full can tell.
    """
    try:
        skeleton = read_skeleton(there, _MAX_IFDS, _MAX_VALUE_BYTES)
    except MalformedTiff:
        return None  # no TIFF; it may be the companion file of some
    if skeleton.signature is None:
        return None
    if any(code in POINTERS for _, code, *_ in skeleton.volatile):
        return None
    notes = dict(skeleton.notes)
    tags: dict[int, Any] = {}
    tiepoint = notes.get(_TIEPOINTS)
    if isinstance(tiepoint, tuple) and len(tiepoint) == 6 and all(map(math.isfinite, tiepoint)):
        tags[_TIEPOINTS] = notes.pop(_TIEPOINTS)
    date = notes.get(_DATE_TIME)
    if isinstance(date, bytes) and _DATE.fullmatch(date):
        tags[_DATE_TIME] = notes.pop(_DATE_TIME)[:-1].decode()
    return skeleton, tuple(sorted(notes.items())), tags


def _is_simple(located: Located) -> bool:
    """Say whether all facts of a file are in its directories, and these are few."""
    facts = located.facts
    levels = [level for one in facts.series for level in one.levels]
    return (
        not facts.defect
        and _FLAVOURS.issuperset(facts.flags)
        and _KINDS.issuperset(one.kind for one in facts.series)
        and len(levels) == len(located.arrays)
        and all(
            isinstance(level, LevelFacts)
            and level.offset.size <= _MAX_SEGMENTS
            and len(level.ifds) == 1
            and level.ifds[0].compression not in _LOOKED_INTO
            for level in levels
        )
        # what a look at segments told need not hold for others
        and not any(
            isinstance(codec, SegmentCodec) and codec.edge is not None
            for array in located.arrays.values()
            for codec in array.codecs
        )
    )


def _look_of(facts: FileFacts) -> tuple[Any, ...]:
    """Give what files of one kind surely have in common; it costs nothing to tell."""
    return tuple(
        (one.kind, one.axes, level.shape, level.dtype, level.ifds[0].compression)
        for one in facts.series
        for level in one.levels
        if isinstance(level, LevelFacts)
    )


def _nbytes(skeleton: Skeleton) -> int:
    """Count the bytes of all values that are kept of a file, columns of segments left out."""
    parts = [part for part in skeleton.signature or () if isinstance(part, tuple)]
    values = [part[-1] for part in (*parts, *skeleton.volatile)]
    return sum(len(value) for value in values if isinstance(value, bytes))


def _has_tags(facts: FileFacts, tags: Mapping[int, Any]) -> bool:
    """Say whether the facts of the first directory are where `_with_tags` looks for them."""
    level = facts.series[0].levels[0]
    assert isinstance(level, LevelFacts)
    ifd = level.ifds[0]
    return ifd.name == "0" and all(ifd.tags.get(code) == tags[code] for code in tags)


def _with_tags(facts: FileFacts, source: Source, tags: Mapping[int, Any]) -> FileFacts:
    """Give the facts of another file, with other values of tags of the first directory."""
    first, *others = facts.series
    full, *rest = first.levels
    assert isinstance(full, LevelFacts)
    ifd = replace(full.ifds[0], tags={**full.ifds[0].tags, **tags})
    levels = (replace(full, ifds=(ifd,)), *rest)
    return replace(facts, source=source, series=(replace(first, levels=levels), *others))
