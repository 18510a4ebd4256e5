"""What every document of a group needs before its chunks are written.

Owns the metadata documents with the provenance in them, and the address that each source has in the
document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..model.manifest import Source
from ..model.node import Group
from .documents import to_documents
from .provenance import PROVENANCE, spell_provenance
from .urls import to_document_url

__all__ = ["Plan", "plan_document"]

_ROOT = ("zarr.json", ".zgroup", ".zattrs")


@dataclass(frozen=True, slots=True)
class Plan:
    """Metadata documents by key, the root's first; and addresses by the sources' own."""

    documents: Mapping[str, Mapping[str, Any]]
    addresses: Mapping[str, str]


def plan_document(
    group: Group,
    zarr_format: int,
    rename: Callable[[str], str] | None,
    series: Sequence[Mapping[str, Any]],
) -> Plan:
    """Spell all metadata of a group.

    Parameters
    ----------
    group
        The root.
    zarr_format
        2 or 3.
    rename
        Gives the address in the document for each source; by default local paths become "file://"
        addresses.
    series
        What provenance records of the series of the source.

    Raises
    ------
    ManifestMismatch, InvalidReferences
        If the group cannot be spelled; see `documents.to_documents`.
    """
    sources: dict[str, Source] = {}
    for _, array in group.arrays():
        for source in array.manifest.sources:
            sources.setdefault(source.url, source)
    addresses = {url: (rename or to_document_url)(url) for url in sources}
    documents = to_documents(group, zarr_format)
    text = spell_provenance(sources.values(), addresses, series)
    if text is not None:
        _set_root_attribute(documents, zarr_format, text)
    first = {key: documents[key] for key in _ROOT if key in documents}
    return Plan(first | documents, addresses)


def _set_root_attribute(documents: dict[str, Any], zarr_format: int, text: str) -> None:
    if zarr_format == 3:
        root = documents["zarr.json"]
        documents["zarr.json"] = {**root, "attributes": {**root["attributes"], PROVENANCE: text}}
    else:
        documents[".zattrs"] = {**documents.get(".zattrs", {}), PROVENANCE: text}
