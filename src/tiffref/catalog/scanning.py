"""One file after the other to references and rows, with what earlier files taught.

Owns what a worker remembers of the files that it scanned: what the index says of those that
others are told by (see `scanner.told`), so that it need not be found anew for each of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ..formats.spelled import document_of
from ..model.manifest import Source
from ..references import References
from ..scanner.moved import Changing, differences_of
from ..scanner.source import open_source
from ..scanner.tiff import scan
from ..scanner.told import Model, Told
from .outline import chunk_facts, image_facts, main_path, moved_facts
from .plan import Job, Settings
from .warned import noted

__all__ = ["FileScanner", "Scanned"]

_MAX_KNOWN = 64


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
    """What the index says of one file of a model, as far as it holds for others.

    `proven` names what may differ in them (see `moved.differences_of`): another file that differed
    in it was described in full, and the same came out. None: something else did.
    """

    facts: Mapping[str, Any]
    changing: Changing
    proven: frozenset[str] | None = field(default_factory=frozenset)

    def facts_of(self, told: Told) -> dict[str, Any] | None:
        """Give what the index says of another file; None where that is not proven."""
        differences = differences_of(self.changing, told.changing)
        if differences and (self.proven is None or not differences <= self.proven):
            return None
        return moved_facts(self.facts, told)

    def prove(self, told: Told, facts: Mapping[str, Any]) -> None:
        """Learn from another file what may differ; `facts` were found without this one."""
        if self.proven is not None:
            differences = differences_of(self.changing, told.changing)
            is_same = moved_facts(self.facts, told) == facts
            self.proven = self.proven | differences if is_same else None


class FileScanner:
    """Scans files for one build."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: OrderedDict[Model, _Known] = OrderedDict()

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
        settings = self._settings
        with closing(open_source(job.url, settings.storage_options)) as there:
            if _is_unchanged(job, there.source):
                return None
            with noted() as warnings:
                references = scan(there, **settings.scan)
                facts = self._facts(references)
                if settings.format == "json":
                    document = _document(references, settings)
        if warnings:
            facts["warnings"] = list(warnings)
        if settings.format == "json":
            return Scanned(there.source, facts, document, None)
        is_written = settings.format != "none"
        return Scanned(there.source, facts, None, references if is_written else None)

    def _facts(self, references: References) -> dict[str, Any]:
        """Give what the index says of a file."""
        told = references.told
        if not isinstance(told, Told):
            arrays = {
                path: array for path, array in references.group.arrays() if array.manifest.sources
            }
            return {**image_facts(references), **chunk_facts(arrays, main_path(references))}
        known = self._known.get(told.model)
        facts = known.facts_of(told) if known is not None else None
        if facts is None:
            facts = image_facts(references)
            if known is None:
                self._known[told.model] = _Known(facts, told.changing)
                if len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
            else:
                known.prove(told, facts)
        return {**facts, **chunk_facts(told.arrays, main_path(references))}


def _document(references: References, settings: Settings) -> bytes:
    told = references.told
    if told is not None:
        return told.text(references, settings.rename)
    return document_of(references.group, settings.rename, references.series)


def _is_unchanged(job: Job, now: Source) -> bool:
    if job.size is None or job.size != now.size:
        return False
    if job.etag is not None or now.etag is not None:
        return job.etag == now.etag
    return job.mtime is not None and job.mtime == now.mtime
