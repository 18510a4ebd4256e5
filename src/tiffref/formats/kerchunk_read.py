"""Reference documents of kerchunk, read back into the model.

Owns putting together what the parsers of this room find: `structure` (columns of references),
`metadata` (arrays and groups), `keys` (which chunk is whose) and `provenance` (what the sources
were when they were scanned).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.node import Group
from .assemble import (
    ChunkColumns,
    build_array,
    build_manifest,
    build_tree,
    rank_sources,
    take_provenance,
)
from .findings import Finding, Reporter, raise_finding
from .keys import ChunkIndex, parse_keys
from .load import load_document, without_garbage_collection
from .metadata import parse_metadata
from .structure import RefColumns, parse_structure

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
    with without_garbage_collection():
        columns = parse_structure(document, report)
    nodes = parse_metadata(columns.metadata, report)
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
    sources, rank = rank_sources(columns.urls, recorded)
    arrays = {
        path: build_array(
            array, build_manifest(array.grid, _take_chunks(columns, chunks[path]), sources, rank)
        )
        for path, array in nodes.arrays.items()
    }
    return Parsed(build_tree(nodes, arrays), tuple(series))


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
