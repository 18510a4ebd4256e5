"""One file after the other to references and rows, with what earlier files taught.

Owns the memory of a worker: the structures it has met. The first file of a structure is scanned in
full; of a file whose directories differ from it in nothing but the places of its segments, only
those are read. Any other difference, in whatever tag, means a scan in full; so do files of which a
scan would look at the segments, where these are not as those of the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ..model.codec import SegmentCodec
from ..model.manifest import Source
from ..model.node import Array, Group
from ..references import References
from ..scanner.bytesource import ByteSource
from ..scanner.similar import is_stored_alike
from ..scanner.skeleton import GEO_TAGS, Skeleton, read_skeleton
from ..scanner.source import open_source
from ..scanner.template import Template, make_template
from ..scanner.tiff import scan
from .imprint import Imprint, take_imprint
from .moved import (
    TIEPOINTS,
    Changing,
    Level,
    changing_of,
    differences_of,
    find_levels,
    moved_facts,
    spell_changing,
)
from .outline import chunk_facts, image_facts, main_path
from .plan import Job, Settings
from .spelled import SpelledDocument, document_of, spell_document
from .warned import noted

__all__ = ["FileScanner", "Scanned"]

_MAX_STRUCTURES = 64
_MAX_MODELS = 64
"""Places and dates of one structure to remember: some 20 KB each."""
_MAX_IMPRINTS = 8
_POINTERS = frozenset({34665, 34853, 40965})
"""Tags that lead to directories which a comparison does not read: Exif, GPS, interoperability."""


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """What a scan gives for one file.

    `document` is the JSON text; None where `references` are to be written in another format.
    """

    source: Source
    facts: Mapping[str, Any]
    document: bytes | None
    references: References | None


@dataclass(slots=True, eq=False)
class _Known:
    """A file that was scanned in full, as the model of others.

    `spelled` is its document in pieces, with places for the texts that place and dates change.
    `proven` names what may differ: another file that differed in it was scanned in full and came
    out the same. None: one came out otherwise, so that nothing may differ.
    """

    template: Template
    facts: Mapping[str, Any]
    changing: Changing
    constant: Mapping[int, Any]
    levels: tuple[Level, ...]
    spelled: SpelledDocument | None
    proven: frozenset[str] | None = frozenset()
    own_texts: tuple[bytes, ...] | None = None

    def allows(self, changing: Changing) -> bool:
        """Say whether a file with these values can be told by this model."""
        differences = differences_of(self.changing, changing)
        return not differences or (self.proven is not None and differences <= self.proven)

    def texts(self, changing: Changing) -> tuple[bytes, ...]:
        """Give the texts that the changing values of a file make."""
        if changing != self.changing:
            return spell_changing(changing, self.constant, self.levels)
        if self.own_texts is None:
            self.own_texts = spell_changing(changing, self.constant, self.levels)
        return self.own_texts


@dataclass(slots=True, eq=False)
class _Structure:
    """Files that differ in nothing but the places of segments, their own place, and dates.

    Attributes
    ----------
    constant
        What else they have in common (see `moved.changing_of`).
    is_whole
        Their writer declares that tiles are stored whole.
    is_below
        They lie below the root of the catalog.
    first
        The model of them all, as far as it is proven; None if none can be made.
    others
        Models of files that it does not allow, by what changes.
    imprint
        The bytes of their directories, if these can be compared as they are.
    """

    constant: Any
    is_whole: bool
    is_below: bool
    first: _Known | None = None
    others: OrderedDict[Changing, _Known | None] = field(default_factory=OrderedDict)
    imprint: Imprint | None = None

    def find(self, changing: Changing) -> _Known | None:
        """Give the model for a file."""
        if self.first is not None and self.first.allows(changing):
            return self.first
        return self.others.get(changing)


class FileScanner:
    """Scans files for one build."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._structures: OrderedDict[Any, _Structure] = OrderedDict()
        self._imprinted: list[_Structure] = []

    def scan(self, job: Job) -> Scanned | None:
        """Scan one file.

        Returns
        -------
        None if the file is still what the job says that it was.

        Raises
        ------
        TiffrefError
            Whatever is wrong with it.
        """
        with closing(open_source(job.url, self._settings.storage_options)) as there:
            if _is_unchanged(job, there.source):
                return None
            skeleton, structure = self._outline(there)
            changing, constant = changing_of(skeleton)
            if structure is not None and structure.constant != constant:
                structure = self._structure(skeleton, constant)
            known = structure.find(changing) if structure is not None else None
            if known is not None and structure is not None:
                looked_at = None if structure.is_whole else there
                found = self._alike(known, skeleton, changing, looked_at)
                if found is not None:
                    return found
            if structure is not None and structure.first is None and structure.is_whole:
                structure.imprint = take_imprint(there, skeleton)
        return self._in_full(job, skeleton, structure, changing)

    def _outline(self, there: ByteSource) -> tuple[Skeleton, _Structure | None]:
        """Read the directories of a file, and find those that it is like."""
        if self._imprinted:
            data = there.read(0, max(one.imprint.length for one in self._imprinted
                                     if one.imprint is not None))  # fmt: skip
            is_below = self._is_below(there.source)
            for structure in self._imprinted:
                assert structure.imprint is not None
                if is_below == structure.is_below:
                    skeleton = structure.imprint.match(data, there.source)
                    if skeleton is not None:
                        return skeleton, structure
        skeleton = read_skeleton(there)
        return skeleton, self._structure(skeleton, changing_of(skeleton)[1])

    def _is_below(self, source: Source) -> bool:
        return self._settings.is_below(source.url)

    def _structure(self, skeleton: Skeleton, constant: Any) -> _Structure | None:
        """Give the structure of a file, a new one if need be; None for files that stand alone."""
        if skeleton.signature is None:
            return None
        if any(code in _POINTERS for _, code, *_ in skeleton.volatile):
            return None
        is_below = self._is_below(skeleton.source)
        key = (skeleton.signature, constant, skeleton.volatile, is_below)
        structure = self._structures.get(key)
        if structure is None:
            structure = self._structures[key] = _Structure(constant, skeleton.is_whole, is_below)
            if len(self._structures) > _MAX_STRUCTURES:
                _, gone = self._structures.popitem(last=False)
                self._imprinted = [one for one in self._imprinted if one is not gone]
        self._structures.move_to_end(key)
        return structure

    def _alike(
        self, known: _Known, skeleton: Skeleton, changing: Changing, there: ByteSource | None
    ) -> Scanned | None:
        """Tell a file by its model; None if it is not alike after all.

        `there` reads its segments, None if they need no look.
        """
        arrays = known.template.arrays_of(skeleton)
        if arrays is None:
            return None
        if there is not None and not all(
            is_stored_alike(array, there) for array in arrays.values()
        ):
            return None
        source = skeleton.source
        facts = {**known.facts, **chunk_facts(arrays, known.facts["main"])}
        if changing != known.changing:
            facts = moved_facts(facts, changing, known.constant)
        if self._settings.format == "none":
            return Scanned(source, facts, None, None)
        if known.spelled is not None:
            address = self._settings.rename(source.url)
            text = known.spelled.fill(source, address, arrays, known.texts(changing))
            return Scanned(source, facts, text, None)
        if changing != known.changing:
            return None
        model = known.template.references
        references = References(_with_arrays(model.group, arrays), model.series)
        return self._finished(source, facts, references)

    def _in_full(
        self, job: Job, skeleton: Skeleton, structure: _Structure | None, changing: Changing
    ) -> Scanned:
        with noted() as warnings:
            references = scan(
                job.url, storage_options=self._settings.storage_options, **self._settings.scan
            )
        arrays = {
            path: array for path, array in references.group.arrays() if array.manifest.sources
        }
        facts = {**image_facts(references), **chunk_facts(arrays, main_path(references))}
        if warnings:
            facts["warnings"] = list(warnings)
        scanned = self._finished(skeleton.source, facts, references)
        if structure is not None and not warnings:
            self._learn(structure, references, skeleton, scanned, changing)
        return scanned

    def _finished(
        self, source: Source, facts: Mapping[str, Any], references: References
    ) -> Scanned:
        if self._settings.format == "parquet":
            return Scanned(source, facts, None, references)
        # an index alone needs the text too: it is how models are proven
        return Scanned(source, facts, document_of(references, self._settings.rename), None)

    def _learn(
        self,
        structure: _Structure,
        references: References,
        skeleton: Skeleton,
        scanned: Scanned,
        changing: Changing,
    ) -> None:
        """Remember a file as the model of others, or prove one by it.

        Files that the first model does not allow, and that do not prove that it should, are models
        for others of their own place and dates.
        """
        first = structure.first
        if first is None:
            structure.first = self._model(references, skeleton, scanned, changing)
            if structure.first is not None and structure.imprint is not None:
                self._imprinted = [structure, *self._imprinted][:_MAX_IMPRINTS]
            return
        first.proven = self._prove(first, skeleton, scanned, changing)
        if not first.proven:
            structure.others[changing] = self._model(references, skeleton, scanned, changing)
            if len(structure.others) > _MAX_MODELS:
                structure.others.popitem(last=False)

    def _prove(
        self, known: _Known, skeleton: Skeleton, scanned: Scanned, changing: Changing
    ) -> frozenset[str] | None:
        """Compare what the model gives with what a scan in full gave."""
        differences = differences_of(known.changing, changing)
        arrays = known.template.arrays_of(skeleton)
        if arrays is None or known.proven is None or not differences:
            return known.proven
        if known.spelled is None:
            return None
        address = self._settings.rename(skeleton.source.url)
        facts = {**known.facts, **chunk_facts(arrays, known.facts["main"])}
        text = known.spelled.fill(skeleton.source, address, arrays, known.texts(changing))
        is_same = moved_facts(facts, changing, known.constant) == scanned.facts
        return known.proven | differences if is_same and text == scanned.document else None

    def _model(
        self,
        references: References,
        skeleton: Skeleton,
        scanned: Scanned,
        changing: Changing,
    ) -> _Known | None:
        """Make a model of a file, if it can be one."""
        if any("refused" in level for row in references.series for level in row["levels"]):
            return None
        codecs = [codec for _, array in references.group.arrays() for codec in array.codecs]
        if any(isinstance(codec, SegmentCodec) and codec.edge is not None for codec in codecs):
            return None  # what a look at its segments told need not hold for others
        template = make_template(references, skeleton)
        if template is None:
            return None
        constant = {code: value for code, value in skeleton.notes.items()
                    if code in GEO_TAGS and code != TIEPOINTS}  # fmt: skip
        levels = find_levels(references)
        known = _Known(template, scanned.facts, changing, constant, levels, None)
        if scanned.document is not None:
            rename, text = self._settings.rename, scanned.document
            known.spelled = spell_document(references, rename, text, known.texts(changing))
        return known


def _is_unchanged(job: Job, now: Source) -> bool:
    if job.size is None or job.size != now.size:
        return False
    if job.etag is not None or now.etag is not None:
        return job.etag == now.etag
    return job.mtime is not None and job.mtime == now.mtime


def _with_arrays(group: Group, arrays: Mapping[str, Array], prefix: str = "") -> Group:
    children = {
        name: _with_arrays(node, arrays, f"{prefix}{name}/")
        if isinstance(node, Group)
        else arrays.get(f"{prefix}{name}", node)
        for name, node in group.children.items()
    }
    return Group(children, group.attributes)
