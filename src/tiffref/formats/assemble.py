"""Nodes, manifests and provenance, put together into a group.

Owns the last step of reading a document, which JSON and parquet share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.deferred import Columns
from ..model.manifest import MISSING, Manifest, Source
from ..model.node import Array, Group
from .findings import Finding, Reporter
from .metadata import ArrayMetadata, Nodes
from .provenance import PROVENANCE, check_series, parse_provenance
from .urls import from_document_url

__all__ = [
    "ChunkColumns",
    "build_array",
    "build_manifest",
    "build_tree",
    "rank_sources",
    "settle_manifest",
    "take_provenance",
]


def take_provenance(
    nodes: Nodes, report: Reporter
) -> tuple[Nodes, list[Source], list[dict[str, Any]]]:
    """Take our attribute out of the root's, be the root a group or an array."""
    root = nodes.groups.get("", {})
    holder = root if PROVENANCE in root else getattr(nodes.arrays.get(""), "attributes", {})
    if PROVENANCE not in holder:
        return nodes, [], []
    sources: list[Source] = []
    series: list[dict[str, Any]] = []
    try:
        sources, found = parse_provenance(holder[PROVENANCE])
        check_series(found, nodes.arrays)
        series = found
    except ValueError as error:
        report(Finding("provenance", "metadata", str(error), None, severity="warning"))
    return _without_attribute(nodes), sources, series


def _without_attribute(nodes: Nodes) -> Nodes:
    groups, arrays = dict(nodes.groups), dict(nodes.arrays)
    if "" in groups:
        groups[""] = {k: v for k, v in groups[""].items() if k != PROVENANCE}
    if "" in arrays:
        rest = {k: v for k, v in arrays[""].attributes.items() if k != PROVENANCE}
        arrays[""] = replace(arrays[""], attributes=rest)
    return Nodes(groups, arrays, nodes.order)


def rank_sources(
    urls: Iterable[str], recorded: Iterable[Source]
) -> tuple[list[Source], NDArray[np.int32]]:
    """Give all sources, those that provenance knows first, and for each address its place."""
    table = {source.url: source for source in recorded}
    addresses = [from_document_url(url) for url in urls]
    for url in addresses:
        table.setdefault(url, Source(url))
    place = {url: row for row, url in enumerate(table)}
    rank = np.fromiter(map(place.__getitem__, addresses), np.int32, len(addresses))
    return list(table.values()), rank


@dataclass(frozen=True, slots=True)
class ChunkColumns:
    """Some chunks of one array: `flat` `(n,)` index in C order; `source` a row of all addresses, or
    -2 where `inlined` (row to bytes) has the data; `offset` and `length`, 0 for whole files."""

    flat: NDArray[np.integer]
    source: NDArray[np.integer]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    inlined: Mapping[int, bytes]


def build_manifest(
    grid: tuple[int, ...],
    chunks: ChunkColumns,
    sources: Sequence[Source],
    rank: NDArray[np.int32],
) -> Manifest:
    """Put the chunks of an array in their places; all others are missing.

    Parameters
    ----------
    grid
        Chunks along each dimension.
    chunks
        Those that the document has.
    sources, rank
        From `rank_sources`.
    """
    n_chunks = math.prod(grid)
    source = np.full(n_chunks, MISSING, np.int32)
    offset, length = np.zeros((2, n_chunks), np.uint64)
    source[chunks.flat] = chunks.source
    offset[chunks.flat], length[chunks.flat] = chunks.offset, chunks.length
    inlined = {int(chunks.flat[row]): data for row, data in chunks.inlined.items()}
    return settle_manifest(grid, Columns(source, offset, length, inlined), sources, rank)


def settle_manifest(
    grid: tuple[int, ...],
    columns: Columns,
    sources: Sequence[Source],
    rank: NDArray[np.int32],
) -> Manifest:
    """Give a manifest of columns whose `source` is a row of all addresses.

    Parameters
    ----------
    grid, sources, rank
        As in `build_manifest`.
    columns
        Of all chunks; `source` is changed.
    """
    source = columns.source
    is_stored = source >= 0
    row = source[is_stored]
    used = np.unique(rank[np.bincount(row, minlength=len(rank)) > 0])
    source[is_stored] = np.searchsorted(used, rank)[row]
    table = tuple(sources[row] for row in used.tolist())
    return Manifest(grid, table, source, columns.offset, columns.length, columns.inlined)


def build_array(metadata: ArrayMetadata, manifest: Manifest) -> Array:
    """Give the array that metadata and manifest describe together."""
    return Array(
        metadata.shape,
        metadata.chunks,
        metadata.dtype,
        metadata.dims,
        (metadata.codec,),
        manifest,
        metadata.fill_value,
        metadata.attributes,
    )


def build_tree(nodes: Nodes, arrays: Mapping[str, Array]) -> Group:
    """Hang all nodes into a tree, in the order of the document; groups in between may be unsaid."""
    tree: dict[str, Any] = {}
    for path in nodes.order:
        branch = tree
        parts = path.split("/") if path else []
        for name in parts[:-1]:
            branch = branch.setdefault(name, {})
        if path in arrays:
            branch[parts[-1] if parts else ""] = arrays[path]
        elif path in nodes.groups and path:
            branch.setdefault(parts[-1], {})
    return _grow("", tree, nodes.groups)


def _grow(path: str, branch: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> Group:
    children = {
        name: child if isinstance(child, Array) else _grow(f"{path}{name}/", child, groups)
        for name, child in branch.items()
    }
    return Group(children, dict(groups.get(path.rstrip("/"), {})))
