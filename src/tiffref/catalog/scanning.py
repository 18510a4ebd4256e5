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

from ..conventions.time import acquired_from_name
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


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    template: Template
    facts: Mapping[str, Any]
    spelled: SpelledDocument | None


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
            key = _key(skeleton, is_whole, self._settings)
            known = self._known.get(key) if key is not None else None
            if known is not None:
                self._known.move_to_end(key)
                found = self._alike(known, skeleton, None if is_whole else there)
                if found is not None:
                    return found
        return self._in_full(job, skeleton, key)

    def _alike(
        self, known: _Known, skeleton: Skeleton, there: ByteSource | None
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
        main = known.facts["main"]
        facts = {**known.facts, **chunk_facts(arrays, main)}
        if self._settings.format == "none":
            return Scanned(source, facts, None, None)
        if known.spelled is not None:
            address = self._settings.rename(source.url)
            return Scanned(source, facts, known.spelled.fill(source, address, arrays), None)
        model = known.template.references
        references = References(_with_arrays(model.group, arrays), model.series)
        return self._finished(source, facts, references)

    def _in_full(self, job: Job, skeleton: Skeleton, key: Any) -> Scanned:
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
        if key is not None and key not in self._known and not warnings:
            self._known[key] = self._learn(references, skeleton, scanned)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return scanned

    def _finished(
        self, source: Source, facts: Mapping[str, Any], references: References
    ) -> Scanned:
        if self._settings.format != "json":
            return Scanned(source, facts, None, references)
        return Scanned(source, facts, document_of(references, self._settings.rename), None)

    def _learn(
        self, references: References, skeleton: Skeleton, scanned: Scanned
    ) -> _Known | None:
        """Remember a file as the model of others, if it can be one."""
        if any("refused" in level for row in references.series for level in row["levels"]):
            return None
        codecs = [codec for _, array in references.group.arrays() for codec in array.codecs]
        if any(isinstance(codec, SegmentCodec) and codec.edge is not None for codec in codecs):
            return None  # what a look at its segments told need not hold for others
        template = make_template(references, skeleton)
        if template is None:
            return None
        spelled = None
        if scanned.document is not None:
            spelled = spell_document(references, self._settings.rename, scanned.document)
        return _Known(template, scanned.facts, spelled)


def _is_unchanged(job: Job, now: Source) -> bool:
    if job.size is None or job.size != now.size:
        return False
    if job.etag is not None or now.etag is not None:
        return job.etag == now.etag
    return job.mtime is not None and job.mtime == now.mtime


def _key(skeleton: Skeleton, is_whole: bool, settings: Settings) -> Any:
    """Give what files must share to be told alike; None for those that stand alone."""
    if skeleton.signature is None:
        return None
    if any(code in _POINTERS for _, code, *_ in skeleton.volatile):
        return None
    notes = tuple((code, skeleton.notes[code]) for code in sorted(skeleton.notes)
                  if code in GEO_TAGS or code == 306)  # fmt: skip
    return (
        skeleton.signature,
        notes,
        skeleton.volatile,
        acquired_from_name(skeleton.source.url),
        is_whole,
        to_document_url(skeleton.source.url).startswith(settings.root),
    )


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
