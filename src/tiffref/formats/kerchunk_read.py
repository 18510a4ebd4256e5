"""Reference documents of kerchunk, read back into the model.

Owns putting together what the parsers of this room find: `structure` (columns of references),
`metadata` (arrays and groups), `keys` (which chunk is whose) and `provenance` (what the sources
were when they were scanned); and the choice of the short way (`lines`) where the text is laid out
as we write it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidReferences
from ..model.manifest import Source
from ..model.node import Group
from .assemble import (
    ChunkColumns,
    build_array,
    build_manifest,
    build_tree,
    rank_sources,
    settle_manifest,
    take_provenance,
)
from .findings import Finding, Reporter, raise_finding
from .keys import ChunkIndex, parse_keys
from .limits import check_counts, check_nodes
from .lines import Lines, parse_lines, split_document
from .load import fetch_text, open_large, parse_json, without_garbage_collection
from .metadata import Nodes, parse_metadata
from .spacing import Text
from .structure import RefColumns, parse_structure

__all__ = ["Parsed", "parse_document", "read_document"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document in the terms of the model, with the series that its provenance records."""

    group: Group
    series: tuple[Mapping[str, Any], ...]


def read_document(
    document: Mapping[str, Any] | str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
) -> Parsed:
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
    if isinstance(document, Mapping):
        return parse_document(document)
    with open_large(document) as large:
        parsed = None if large is None else _parse_lines(large)
        if large is not None and parsed is not None and not large.is_changed:
            return parsed
        text = fetch_text(document, storage_options) if large is None else large[:]
    return (None if large else _parse_lines(text)) or parse_document(parse_json(text, document))


def _parse_lines(text: Text) -> Parsed | None:
    """Read a document whose references are spaced alike; None if it is any other."""
    split = split_document(text)
    if split is None:
        return None
    try:
        parts = _take_apart(split.document, raise_finding)
    except InvalidReferences:
        return None  # the general reader says what is wrong
    taken = {path: chunks.flat for path, chunks in parts.chunks.items()}
    lines = parse_lines(text, split, parts.nodes.arrays, taken)
    return None if lines is None else _put_together(parts, lines)


def parse_document(document: Any, report: Reporter = raise_finding) -> Parsed:
    """Put a loaded document into the terms of the model.

    Parameters
    ----------
    document
        What a JSON parser gave.
    report
        Takes every offence; by default the first is raised.
    """
    return _put_together(_take_apart(document, report), Lines())


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the parsers say of a document: `chunks` are the rows of `columns` by array."""

    columns: RefColumns
    nodes: Nodes
    recorded: list[Source]
    series: list[dict[str, Any]]
    chunks: Mapping[str, ChunkIndex]


def _take_apart(document: Any, report: Reporter) -> _Parts:
    with without_garbage_collection():
        columns = parse_structure(document, report)
    check_counts(len(columns.keys), sum(map(len, columns.inlined.values())), report)
    nodes = parse_metadata(columns.metadata, report)
    nodes = check_nodes(nodes, len(columns.keys), report)
    nodes, recorded, series = take_provenance(nodes, report)
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
    return _Parts(columns, nodes, recorded, series, chunks)


def _put_together(parts: _Parts, lines: Lines) -> Parsed:
    urls = [*parts.columns.urls, *lines.urls]
    sources, rank = rank_sources(urls, parts.recorded)
    arrays = {}
    for path, array in parts.nodes.arrays.items():
        chunks = _take_chunks(parts.columns, parts.chunks[path])
        if path in lines.columns:
            inlined = {int(chunks.flat[row]): data for row, data in chunks.inlined.items()}
            columns = lines.columns[path]._replace(inlined=inlined)
            manifest = settle_manifest(array.grid, columns, sources, rank)
        else:
            manifest = build_manifest(array.grid, chunks, sources, rank)
        arrays[path] = build_array(array, manifest)
    return Parsed(build_tree(parts.nodes, arrays), tuple(parts.series))


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


def _take_chunks(columns: RefColumns, chunks: ChunkIndex) -> ChunkColumns:
    source = columns.source[chunks.rows]
    inlined = np.flatnonzero(source < 0).tolist()
    return ChunkColumns(
        chunks.flat,
        source,
        columns.offset[chunks.rows],
        columns.length[chunks.rows],
        {row: columns.inlined[int(chunks.rows[row])] for row in inlined},
    )
