"""A file that is told by another one, which was scanned in full.

Owns what follows from such a model: the arrays of the other file, its facts, and its document. The
arrays are found at once; the file is described when somebody asks for the description. To write its
document that is mostly not needed: the text of the model's is filled in with what differs, once it
is proven that nothing else does. Which file is a model of which is up to `similar`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..conventions.describe import describe
from ..conventions.layout import LevelName
from ..conventions.placement import Affine
from ..conventions.report import Report
from ..formats.spelled import SpelledDocument, document_of, spell_document
from ..model.codec import SegmentCodec
from ..model.facts import FileFacts, LevelFacts
from ..model.manifest import Source
from ..model.node import Array, Group
from ..references import References
from .bytesource import ByteSource
from .moved import (
    DATE_TIME,
    TIEPOINTS,
    Changing,
    Level,
    differences_of,
    find_levels,
    spell_changing,
    transform_of,
)
from .probe import is_exact, probe_indices
from .skeleton import GEO_TAGS, Skeleton
from .template import Template

__all__ = ["Located", "Model", "Told"]

_MIN_PROOFS = 2
"""Files that must come out as written in full before a text is filled in without a look."""


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

    def describe(self, report: Report) -> Group:
        """Give the arrays with their metadata."""
        return describe(self.facts, self.names, self.arrays, report)


class Model:
    """A file that was scanned in full, and what it says of others.

    Parameters
    ----------
    located
        What was found of it.
    template
        How its chunks follow from its directories.
    changing, constant
        What may differ in others, and what may not (see `moved.changing_of`).

    Attributes
    ----------
    georeference
        Its tags but for the tiepoint.
    spelling
        The document of the files that it tells.
    """

    def __init__(
        self, located: Located, template: Template, changing: Changing, constant: Any
    ) -> None:
        self.located, self.template = located, template
        self.changing, self.constant = changing, constant
        notes = template.skeleton.notes
        self.georeference = {c: notes[c] for c in notes if c in GEO_TAGS and c != TIEPOINTS}
        self.spelling = _Spelling()

    def tell(self, skeleton: Skeleton, changing: Changing, there: ByteSource) -> Told | None:
        """Tell another file.

        Parameters
        ----------
        skeleton, changing
            What its directories say.
        there
            The file.

        Returns
        -------
        None if it is not alike after all.
        """
        arrays = self.template.arrays_of(skeleton)
        if arrays is None:
            return None
        if not skeleton.is_whole and not all(_is_stored_alike(a, there) for a in arrays.values()):
            return None
        return Told(self, skeleton.source, changing, arrays)


@dataclass(frozen=True, eq=False)
class Told:
    """A file that was told by a model; `arrays` by path, not described yet."""

    model: Model
    source: Source
    changing: Changing
    arrays: Mapping[str, Array]

    def __reduce__(self) -> tuple:
        return _nothing, ()  # another process writes out the description that travels along

    @property
    def series(self) -> Sequence[Mapping[str, Any]]:
        """The record of the series, the file's own."""
        return tuple(
            {**row, "levels": [dict(level) for level in row["levels"]]}
            for row in self.model.located.series
        )

    @functools.cached_property
    def transform(self) -> Affine | None:
        """From pixels of the full-size image to model coordinates."""
        return transform_of(self.changing, self.model.georeference)

    def describe(self) -> Group:
        """Give the arrays with their metadata."""
        located = self.model.located
        arrays = {place: self.arrays[located.names[place].path] for place in located.arrays}
        facts = _with_tags(located.facts, self.source, self.changing)
        return replace(located, facts=facts, arrays=arrays).describe(Report(self.source.url))

    def text(self, references: References, rename: Callable[[str], str]) -> bytes:
        """Give the document of the file, as `formats.spelled.document_of`.

        Parameters
        ----------
        references
            Of this file.
        rename
            Gives what the document calls the file.
        """
        spelling = self.model.spelling
        address = rename(self.source.url)
        if spelling.allows(self.changing):
            text = spelling.fill(self, address)
            if text is not None:
                return text
        text = document_of(references.group, rename, references.series)
        spelling.learn(self, references.group, address, text)
        return text


def _nothing() -> None:
    return None


class _Spelling:
    """The document of the files of one model in pieces, as far as it is proven.

    It is taken from the first file that is written out in full. What differs in others is filled in
    without a look once enough files that differed in it came out as they were written; after one
    that did not, all are written in full.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._document: SpelledDocument | None = None
        self._changing: Changing | None = None
        self._levels: tuple[Level, ...] = ()
        self._n_texts = 0
        self._n_proofs: dict[str, int] = {}
        self._is_vain = False

    def allows(self, changing: Changing) -> bool:
        """Say whether a file with these values can be filled in."""
        if self._document is None or self._changing is None or self._is_vain:
            return False
        differences = differences_of(self._changing, changing)
        return all(self._n_proofs.get(name, 0) >= _MIN_PROOFS for name in differences)

    def fill(self, told: Told, address: str) -> bytes | None:
        """Give the document of a file; None if it has other texts than the first."""
        texts = spell_changing(told.changing, told.transform, self._levels)
        if len(texts) != self._n_texts or not all(texts):
            return None
        assert self._document is not None
        return self._document.fill(told.source, address, told.arrays, texts)

    def learn(self, told: Told, group: Group, address: str, text: bytes) -> None:
        """Take the document of a file to pieces, or prove by it those that are there."""
        with self._lock:
            if self._is_vain:
                return
            if self._document is None or self._changing is None:
                self._take(told, group, address, text)
                return
            if self.fill(told, address) != text:
                self._is_vain = True
                return
            for name in differences_of(self._changing, told.changing):
                self._n_proofs[name] = self._n_proofs.get(name, 0) + 1

    def _take(self, told: Told, group: Group, address: str, text: bytes) -> None:
        self._levels = find_levels(group)
        texts = spell_changing(told.changing, told.transform, self._levels)
        self._n_texts = len(texts)
        self._changing = told.changing
        if all(texts):
            self._document = spell_document(group, told.source, address, text, texts)
        self._is_vain = self._document is None


def _with_tags(facts: FileFacts, source: Source, changing: Changing) -> FileFacts:
    """Give the facts of another file, with other values of tags of the first directory."""
    tags = tags_of(changing)
    if not tags:
        return replace(facts, source=source)
    first, *others = facts.series
    full, *rest = first.levels
    assert isinstance(full, LevelFacts)
    ifd = replace(full.ifds[0], tags={**full.ifds[0].tags, **tags})
    levels = (replace(full, ifds=(ifd, *full.ifds[1:])), *rest)
    return replace(facts, source=source, series=(replace(first, levels=levels), *others))


def tags_of(changing: Changing) -> dict[int, Any]:
    """Give what changes in the first directory, as facts have it."""
    tags = {TIEPOINTS: changing.tiepoint, DATE_TIME: changing.made}
    return {code: value for code, value in tags.items() if value is not None}


def _is_stored_alike(array: Array, there: ByteSource) -> bool:
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
