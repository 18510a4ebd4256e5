"""Files like one that was scanned before: told by their directories, without a parser.

Owns what a process remembers of the files that it scanned last. Of files of one archive mostly
nothing differs but the places of segments, the tiepoint and dates; the next such file is told by
the first (see `told`). A file with any other difference is scanned in full, and so is one whose
segments are not stored as the first's. Only files with few directories are remembered, and only the
second of a kind is taken as a model, so that a scan of files that have nothing in common loses next
to nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import MalformedTiff
from ..model.codec import SegmentCodec
from ..model.facts import FileFacts, LevelFacts
from .bytesource import ByteSource
from .imprint import Imprint, take_imprint
from .moved import Changing, changing_of
from .remote import RemoteSource
from .skeleton import Skeleton, read_skeleton
from .source import LocalSource
from .template import make_template
from .told import Located, Model, Told, tags_of

__all__ = ["SimilarFiles"]

_POINTERS = frozenset({34665, 34853, 40965})
"""Tags that lead to directories which a comparison does not read: Exif, GPS, interoperability."""
_FLAVOURS = frozenset({"gdal", "geotiff", "imagej", "ome", "shaped", "uniform"})
"""Flavours whose metadata is all in the tags that are compared."""
_NAMES_FILES = "FileName"
"""Attribute of OME-XML that leads to pages of files by their names, which are others each time."""
_MAX_IFDS = 256
_MAX_SEGMENTS = 4096
_MAX_VALUE_BYTES = 1 << 16
_MAX_BYTES = 1 << 18
"""Bytes of all tags of a model: 64 of them are kept."""
_MAX_MODELS = 64
_MAX_IMPRINTS = 8
_MAX_NOTED = 256
_MAX_ATTEMPTS = 4
"""Times that a model is made for files that look alike, before giving up on them."""


class _Outline(NamedTuple):
    """The directories of a file, and what of them may differ from a model's, and may not."""

    skeleton: Skeleton
    changing: Changing
    constant: Any


class _Kind(NamedTuple):
    """A model, what its file looked like (see `_look_of`), and the options of its scan."""

    model: Model
    look: Any
    options: Any
    imprint: Imprint | None


class SimilarFiles:
    """The files that one process scanned last.

    Scans of several threads may use it at once: each step on the dictionaries is one operation,
    and what is lost between two of them is only a chance to be quick.
    """

    def __init__(self) -> None:
        self._kinds: dict[Any, _Kind] = {}
        self._imprinted: tuple[_Kind, ...] = ()
        self._most_ifds = 0
        self._noted: dict[Any, int] = {}

    def find(self, there: ByteSource, options: Any) -> Told | None:
        """Tell a file by one that was scanned with the same options.

        Returns
        -------
        None for files to be scanned in full.

        Raises
        ------
        SourceError
            If it cannot be read.
        """
        if not self._kinds:
            return None
        outline, kind = self._outline(there, options)
        if outline is None or kind is None:
            return None
        told = kind.model.tell(outline.skeleton, outline.changing, there)
        if told is not None:
            self._noted[kind.look] = 1
        return told

    def _outline(self, there: ByteSource, options: Any) -> tuple[_Outline | None, _Kind | None]:
        """Read the directories of a file, and find the kind that it is of."""
        imprinted = [kind for kind in self._imprinted if kind.options == options]
        if imprinted:
            data = there.read(0, max(kind.imprint.length for kind in imprinted if kind.imprint))
            for kind in imprinted:
                skeleton = kind.imprint.match(data, there.source) if kind.imprint else None
                if skeleton is not None:
                    outline = _Outline(skeleton, *changing_of(skeleton))
                    is_alike = outline.constant == kind.model.constant
                    return outline, kind if is_alike else self._kinds.get(_key(outline, options))
        # a file with more directories than any model is like none of them
        found = _read_outline(there, self._most_ifds)
        return found, self._kinds.get(_key(found, options)) if found is not None else None

    def learn(self, there: ByteSource, located: Located, options: Any) -> None:
        """Remember a file that was scanned in full, if it can be the model of others."""
        if not isinstance(there, LocalSource | RemoteSource) or not _is_simple(located):
            return
        look = (options, _look_of(located.facts))
        n_seen = self._noted.get(look, 0)
        if len(self._noted) >= _MAX_NOTED:
            self._noted.clear()
        self._noted[look] = n_seen + 1
        if not 0 < n_seen <= _MAX_ATTEMPTS:
            return
        outline = _read_outline(there, _MAX_IFDS)
        if outline is None:
            return
        skeleton = outline.skeleton
        if not _has_tags(located.facts, outline.changing) or _nbytes(skeleton) > _MAX_BYTES:
            return
        arrays = {located.names[place].path: array for place, array in located.arrays.items()}
        template = make_template(arrays, located.series, skeleton)
        if template is None or template.rows.keys() != arrays.keys():
            return  # an array without segments has no row
        if len(self._kinds) >= _MAX_MODELS:
            self._kinds, self._imprinted, self._most_ifds = {}, (), 0
        model = Model(located, template, outline.changing, outline.constant)
        imprint = take_imprint(there, skeleton) if skeleton.is_whole else None
        kind = self._kinds[_key(outline, options)] = _Kind(model, look, options, imprint)
        self._most_ifds = max(self._most_ifds, len(skeleton.offsets))
        if imprint is not None:
            self._imprinted = (kind, *self._imprinted)[:_MAX_IMPRINTS]


def _key(outline: _Outline, options: Any) -> tuple[Any, ...]:
    skeleton = outline.skeleton
    return options, skeleton.signature, skeleton.volatile, outline.constant


def _read_outline(there: ByteSource, max_ifds: int) -> _Outline | None:
    """Read the directories of a file; None for files that only a scan in full can tell."""
    try:
        skeleton = read_skeleton(there, max_ifds, _MAX_VALUE_BYTES)
    except MalformedTiff:
        return None  # no TIFF; it may be the companion file of some
    if skeleton.signature is None:
        return None
    if any(code in _POINTERS for _, code, *_ in skeleton.volatile):
        return None
    return _Outline(skeleton, *changing_of(skeleton))


def _is_simple(located: Located) -> bool:
    """Say whether all facts of a file are in its directories, and these are few."""
    facts = located.facts
    levels = [level for one in facts.series for level in one.levels]
    return (
        not facts.defect
        and _FLAVOURS.issuperset(facts.flags)
        and _NAMES_FILES not in str(facts.metadata.get("ome", ""))
        and len(levels) == len(located.arrays)
        and all(
            isinstance(level, LevelFacts) and level.offset.size <= _MAX_SEGMENTS for level in levels
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


def _has_tags(facts: FileFacts, changing: Changing) -> bool:
    """Say whether the facts of the first directory are where those of others are put."""
    tags = tags_of(changing)
    level = facts.series[0].levels[0]
    assert isinstance(level, LevelFacts)
    ifd = level.ifds[0]
    return not tags or (ifd.name == "0" and all(ifd.tags.get(code) == tags[code] for code in tags))
