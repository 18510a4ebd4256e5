"""Reference documents of kerchunk in parquet, read back into the model.

Owns the way from the folder that `parquet` describes, ours or another's, to a group.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidReferences, MissingExtra, SourceError
from ..model.node import Group
from .assemble import (
    ChunkColumns,
    build_array,
    build_manifest,
    build_tree,
    rank_sources,
    take_provenance,
)
from .fill import is_fill_chunk
from .findings import raise_finding
from .kerchunk_read import Parsed
from .limits import check_nodes
from .metadata import ArrayMetadata, parse_metadata
from .urls import has_scheme

__all__ = ["ZMETADATA", "from_parquet", "import_pyarrow", "is_parquet", "parse_parquet"]

ZMETADATA = ".zmetadata"
"""The file that tells a folder of parquet references."""
_SUFFIXES = (".parq", ".parquet")


def is_parquet(source: object) -> bool:
    """Tell a folder of parquet references by its name, or, on this machine, by what it holds."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = os.fspath(source)
    if path.rstrip("/").lower().endswith(_SUFFIXES):
        return True
    return not has_scheme(path) and Path(path, ZMETADATA).is_file()


def from_parquet(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Group:
    """Read parquet references into the model.

    Parameters
    ----------
    path
        Folder or URL of a folder.
    storage_options
        For the file system of a URL.

    Raises
    ------
    MissingExtra
        If pyarrow is not installed.
    InvalidReferences
        If the folder does not hold valid references.
    SourceError
        If it cannot be read.
    """
    return parse_parquet(path, storage_options).group


def parse_parquet(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Parsed:
    """Read parquet references, with the series that their provenance records."""
    import fsspec

    pyarrow = import_pyarrow()
    location = os.fspath(path)
    addresses: dict[str, int] = {}
    try:
        fs, root = fsspec.url_to_fs(location, **(storage_options or {}))
        metadata, record_size = _parse_zmetadata(fs.cat_file(f"{root}/{ZMETADATA}"), location)
        nodes = check_nodes(parse_metadata(metadata, raise_finding), 1 << 21, raise_finding)
        columns = {}
        for name, array in nodes.arrays.items():
            files = _iter_files(f"{root}/{name}", array, record_size)
            records = [
                _parse_record(fs.cat_file(file), rows, addresses, array) for file, rows in files
            ]
            columns[name] = _join(records)
    except (OSError, ImportError) as error:
        raise SourceError(
            "cannot read the references", url=location, got=f"{type(error).__name__}: {error}"
        ) from error
    except (pyarrow.ArrowException, KeyError) as error:
        raise InvalidReferences(
            "not parquet references",
            url=location,
            got=f"{type(error).__name__}: {str(error)[:120]}",
            expected="columns path, offset, size, raw",
        ) from error
    nodes, recorded, series = take_provenance(nodes, raise_finding)
    sources, rank = rank_sources(addresses, recorded)
    arrays = {
        name: build_array(array, build_manifest(array.grid, columns[name], sources, rank))
        for name, array in nodes.arrays.items()
    }
    return Parsed(build_tree(nodes, arrays), tuple(series))


def import_pyarrow() -> Any:
    """Give pyarrow, or say which extra installs it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "parquet references need pyarrow", hint="pip install 'tiffref[parquet]'"
        ) from error
    return pyarrow


def _parse_zmetadata(text: bytes, location: str) -> tuple[Mapping[str, Any], int]:
    try:
        document = json.loads(text)
        metadata, record_size = document["metadata"], document["record_size"]
    except (ValueError, TypeError, KeyError):
        metadata, record_size = None, None
    is_size = type(record_size) is int and record_size > 0
    if not isinstance(metadata, Mapping) or not is_size:
        raise InvalidReferences(
            "not parquet references",
            url=location,
            tag=ZMETADATA,
            got=repr(text[:60]),
            expected='{"metadata": {...}, "record_size": n}',
        )
    return metadata, record_size


def _iter_files(folder: str, array: ArrayMetadata, record_size: int) -> Iterator[tuple[str, range]]:
    """Give the files of an array, each with the chunks that it has references for."""
    n_chunks = math.prod(array.grid)
    for record, start in enumerate(range(0, n_chunks, record_size)):
        yield f"{folder}/refs.{record}.parq", range(start, min(start + record_size, n_chunks))


def _parse_record(
    data: bytes, rows: range, addresses: dict[str, int], array: ArrayMetadata
) -> ChunkColumns:
    """Read one file; new addresses are entered into `addresses` with their place."""
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
    table = file.read().slice(0, len(rows))
    n_rows = table.num_rows
    source = np.full(n_rows, -1, np.int64)
    offset, length = np.zeros((2, n_rows), np.uint64)
    if "path" in table.column_names:
        column = table["path"].combine_chunks()
        if not pyarrow.types.is_dictionary(column.type):  # other writers'
            column = column.cast(pyarrow.string()).dictionary_encode()
        places = [
            addresses.setdefault(url, len(addresses)) for url in column.dictionary.to_pylist()
        ]
        is_stored = np.asarray(column.indices.is_valid())
        codes = np.asarray(column.indices.fill_null(0))
        source[is_stored] = np.array(places, np.int64)[codes[is_stored]]
    for name, values in (("offset", offset), ("size", length)):
        if name in table.column_names:
            values[:] = np.asarray(table[name].fill_null(0)).astype(np.uint64)
    inlined: dict[int, bytes] = {}
    if "raw" in table.column_names:
        inlined = _parse_raw(table["raw"].combine_chunks(), source, length, array)
    return ChunkColumns(np.arange(n_rows) + rows.start, source, offset, length, inlined)


def _parse_raw(
    raw: Any, source: NDArray[np.int64], length: NDArray[np.uint64], array: ArrayMetadata
) -> dict[int, bytes]:
    """Give inlined bytes by row, and mark their rows in `source`: -2, or -1 for missing chunks."""
    import pyarrow

    is_inlined = np.asarray(raw.is_valid())
    encoded = raw.cast(pyarrow.binary()).dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = np.asarray(encoded.indices.fill_null(0))
    is_fill = is_inlined & (length == 0)
    candidates = np.unique(codes[is_fill])
    # chunks in the place of missing ones have all the same bytes
    if len(candidates) != 1 or not is_fill_chunk(
        values[candidates[0]], array.codec, array.chunks, array.fill_value
    ):
        is_fill[:] = False
    source[is_inlined] = -2
    source[is_fill] = -1
    rows = np.flatnonzero(is_inlined & ~is_fill).tolist()
    return {row: values[codes[row]] for row in rows}


def _join(records: list[ChunkColumns]) -> ChunkColumns:
    """Join the records of an array, leaving out rows without a reference."""
    if not records:
        none = np.zeros(0, np.int64)
        return ChunkColumns(none, none, none.astype(np.uint64), none.astype(np.uint64), {})
    flat, source, offset, length = (
        np.concatenate([getattr(record, name) for record in records])
        for name in ("flat", "source", "offset", "length")
    )
    first = np.cumsum([0, *(len(record.flat) for record in records)]).tolist()
    inlined = {
        first[number] + row: data
        for number, record in enumerate(records)
        for row, data in record.inlined.items()
    }
    return ChunkColumns(flat, source, offset, length, inlined)
