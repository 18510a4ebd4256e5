"""Reference documents of kerchunk, read back into the model.

Owns putting together what the parsers of this room find: `structure` (columns of references),
`metadata` (arrays and groups), `keys` (which chunk is whose) and `provenance` (what the sources
were when they were scanned).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..model.manifest import INLINED, MISSING, Manifest, Source
from ..model.node import Array, Group
from .findings import Finding, Reporter, raise_finding
from .keys import ChunkIndex, parse_keys
from .load import load_document
from .metadata import ArrayMetadata, Nodes, parse_metadata
from .provenance import PROVENANCE, parse_provenance
from .structure import RefColumns, parse_structure
from .urls import from_document_url

__all__ = ["Parsed", "from_kerchunk", "parse_document"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document in the terms of the model, with the series that its provenance records."""

    group: Group
    series: tuple[Mapping[str, Any], ...]


def from_kerchunk(
    document: Mapping[str, Any] | str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
) -> Group:
    """Read a reference document, version 0 or 1, into the model.

    An array at the root of the document becomes the child "" of the group.

    Parameters
    ----------
    document
        Path or URL of a JSON file, or the document.
    storage_options
        For the file system of a URL.

    Raises
    ------
    InvalidReferences
        If it is not a valid reference document.
    SourceError
        If the file cannot be read.
    """
    return parse_document(load_document(document, storage_options)).group


def parse_document(document: Any, report: Reporter = raise_finding) -> Parsed:
    """Put a loaded document into the terms of the model.

    Parameters
    ----------
    document
        What a JSON parser gave.
    report
        Takes every offence; by default the first is raised.
    """
    columns = parse_structure(document, report)
    nodes = parse_metadata(columns.metadata, report)
    nodes, recorded, series = _take_provenance(nodes, report)
    if not nodes.arrays and not nodes.groups:
        report(
            Finding(
                "empty",
                "metadata",
                "the document describes no array and no group",
                None,
                f"{len(columns.keys)} references",
                ".zgroup, .zarray or zarr.json",
            )
        )
    grids = {path: array.grid for path, array in nodes.arrays.items()}
    rules = {path: array.rule for path, array in nodes.arrays.items()}
    chunks, strays = parse_keys(columns.keys, grids, rules)
    _report_strays(columns, strays, grids, report)
    sources, rank = _rank_sources(columns.urls, recorded)
    arrays = {
        path: _build_array(array, columns, chunks[path], sources, rank)
        for path, array in nodes.arrays.items()
    }
    return Parsed(_build_tree(nodes.groups, arrays), tuple(series))


def _take_provenance(
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
        sources, series = parse_provenance(holder[PROVENANCE])
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
    return Nodes(groups, arrays)


def _report_strays(
    columns: RefColumns, strays: np.ndarray, grids: Mapping[str, Any], report: Reporter
) -> None:
    if strays.size:
        report(
            Finding(
                "stray",
                "chunks",
                "the key names a chunk of no array",
                columns.keys[int(strays[0])],
                None,
                f"chunks of {', '.join(f'{p!r} {g}' for p, g in list(grids.items())[:5])}",
                n_more=len(strays) - 1,
                severity="warning",
            )
        )


def _rank_sources(
    urls: Iterable[str], recorded: Iterable[Source]
) -> tuple[list[Source], np.ndarray]:
    """Give all sources, those that provenance knows first, and for each address its place."""
    table = {source.url: source for source in recorded}
    addresses = [from_document_url(url) for url in urls]
    for url in addresses:
        table.setdefault(url, Source(url))
    place = {url: row for row, url in enumerate(table)}
    rank = np.fromiter(map(place.__getitem__, addresses), np.int32, len(addresses))
    return list(table.values()), rank


def _build_array(
    metadata: ArrayMetadata,
    columns: RefColumns,
    chunks: ChunkIndex,
    sources: list[Source],
    rank: np.ndarray,
) -> Array:
    grid = metadata.grid
    n_chunks = int(np.prod(grid, dtype=np.int64))
    source = np.full(n_chunks, MISSING, np.int32)
    offset, length = np.zeros((2, n_chunks), np.uint64)
    code = columns.source[chunks.rows]
    is_stored = code >= 0
    used, compact = np.unique(rank[code[is_stored]], return_inverse=True)
    flat, rows = chunks.flat[is_stored], chunks.rows[is_stored]
    source[flat] = compact
    offset[flat], length[flat] = columns.offset[rows], columns.length[rows]
    source[chunks.flat[~is_stored]] = INLINED
    inlined_rows = zip(
        chunks.flat[~is_stored].tolist(), chunks.rows[~is_stored].tolist(), strict=True
    )
    inlined = {chunk: columns.inlined[row] for chunk, row in inlined_rows}
    table = tuple(sources[row] for row in used.tolist())
    manifest = Manifest(grid, table, source, offset, length, inlined)
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


def _build_tree(groups: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Array]) -> Group:
    """Hang all nodes into a tree, in the order of the document; groups in between may be unsaid."""
    tree: dict[str, Any] = {}
    for path in [*groups, *arrays]:
        branch = tree
        parts = path.split("/") if path else []
        for name in parts[:-1]:
            branch = branch.setdefault(name, {})
        if path in groups and path:
            branch.setdefault(parts[-1], {})
        elif path in arrays:
            branch[parts[-1] if parts else ""] = arrays[path]
    return _grow("", tree, groups)


def _grow(path: str, branch: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> Group:
    children = {
        name: child if isinstance(child, Array) else _grow(f"{path}{name}/", child, groups)
        for name, child in branch.items()
    }
    return Group(children, dict(groups.get(path.rstrip("/"), {})))
