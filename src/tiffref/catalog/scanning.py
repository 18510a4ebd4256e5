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
from dataclasses import dataclass
from typing import Any

from ..formats.urls import to_document_url
from ..model.codec import SegmentCodec
from ..model.manifest import Source
from ..model.node import Array, Group
from ..references import References
from ..scanner.bytesource import ByteSource
from ..scanner.probe import is_exact, probe_indices
from ..scanner.skeleton import GEO_TAGS, Skeleton, Template, make_template, read_skeleton
from ..scanner.source import open_source
from ..scanner.tiff import scan
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

_MAX_KNOWN = 512
"""Structures and places to remember: some 20 KB each."""
_POINTERS = frozenset({34665, 34853, 40965})
"""Tags that lead to directories which a comparison does not read: Exif, GPS, interoperability."""
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE="
_GHOST_BYTES = 512


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

    def allows(self, changing: Changing) -> bool:
        """Say whether a file with these values can be told by this model."""
        differences = differences_of(self.changing, changing)
        return not differences or (self.proven is not None and differences <= self.proven)

    def texts(self, changing: Changing) -> tuple[bytes, ...]:
        """Give the texts that the changing values of a file make."""
        return spell_changing(changing, self.constant, self.levels)


class FileScanner:
    """Scans files for one build."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: OrderedDict[Any, _Known | None] = OrderedDict()

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
            skeleton = read_skeleton(there)
            is_whole = _is_declared_whole(there, skeleton)
            changing, constant = changing_of(skeleton)
            key = _key(skeleton, is_whole, constant, self._settings)
            known = self._find(key, changing)
            if known is not None:
                found = self._alike(known, skeleton, changing, None if is_whole else there)
                if found is not None:
                    return found
        return self._in_full(job, skeleton, key, changing)

    def _find(self, key: Any, changing: Changing) -> _Known | None:
        if key is None:
            return None
        for at in ((key, None), (key, changing)):
            known = self._known.get(at)
            if known is not None and known.allows(changing):
                self._known.move_to_end(at)
                return known
        return None

    def _alike(
        self, known: _Known, skeleton: Skeleton, changing: Changing, there: ByteSource | None
    ) -> Scanned | None:
        """Tell a file by its model; None if it is not alike after all.

        `there` reads its segments, None if they need no look.
        """
        arrays = known.template.arrays_of(skeleton)
        if arrays is None:
            return None
        if there is not None and not all(_stored_alike(array, there) for array in arrays.values()):
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

    def _in_full(self, job: Job, skeleton: Skeleton, key: Any, changing: Changing) -> Scanned:
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
        if key is not None and not warnings:
            self._learn(key, references, skeleton, scanned, changing)
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
        key: Any,
        references: References,
        skeleton: Skeleton,
        scanned: Scanned,
        changing: Changing,
    ) -> None:
        """Remember a file as the model of others, or prove one by it.

        The model of a structure stands at `(key, None)`. Files that it does not allow, and that do
        not prove that it should, are models for others of their own place and dates.
        """
        first = self._known.get((key, None))
        if first is not None and first.proven is not None:
            first.proven = self._prove(first, skeleton, scanned, changing)
            if first.proven:
                return
        known = self._model(references, skeleton, scanned, changing)
        at = (key, None) if (key, None) not in self._known else (key, changing)
        self._known[at] = known
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

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


def _key(skeleton: Skeleton, is_whole: bool, constant: Any, settings: Settings) -> Any:
    """Give what files must share to be told alike; None for those that stand alone."""
    if skeleton.signature is None:
        return None
    if any(code in _POINTERS for _, code, *_ in skeleton.volatile):
        return None
    is_below = to_document_url(skeleton.source.url).startswith(settings.root)
    return skeleton.signature, constant, skeleton.volatile, is_whole, is_below


def _is_declared_whole(there: ByteSource, skeleton: Skeleton) -> bool:
    """Say whether GDAL's COG driver declares that every tile is stored whole."""
    if skeleton.signature is None:
        return False
    data = there.read(16 if skeleton.signature[2] else 8, _GHOST_BYTES)
    return data.startswith(_GHOST) and b"LAYOUT=IFDS_BEFORE_DATA" in data


def _stored_alike(array: Array, there: ByteSource) -> bool:
    """Look at the segments that a scan in full would look at."""
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


def _with_arrays(group: Group, arrays: Mapping[str, Array], prefix: str = "") -> Group:
    children = {
        name: _with_arrays(node, arrays, f"{prefix}{name}/")
        if isinstance(node, Group)
        else arrays.get(f"{prefix}{name}", node)
        for name, node in group.children.items()
    }
    return Group(children, group.attributes)
