"""Reference documents of kerchunk in parquet, read back into the model.

Owns the way from the folder that `parquet` describes, ours or another's, to a group. What a file of
references holds is said in `records`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from ..access.clients import client_errors
from ..errors import InvalidReferences, MissingExtra, TiffrefError, install_hint, unreadable
from .assemble import build_array, build_tree, rank_sources, take_provenance
from .findings import raise_finding
from .kerchunk_read import Parsed
from .limits import check_nodes
from .metadata import ArrayMetadata, parse_metadata
from .records import Record, defer_manifest, list_addresses
from .urls import has_scheme

__all__ = ["ZMETADATA", "import_pyarrow", "is_parquet", "parse_parquet"]

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


def parse_parquet(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Parsed:
    """Read parquet references into the model, with the series that their provenance records.

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
    import fsspec

    import_pyarrow()
    location = os.fspath(path)
    records: dict[str, list[Record]] = {}
    addresses: dict[str, list[str]] = {}
    try:
        fs, root = fsspec.url_to_fs(location, **(storage_options or {}))
        metadata, record_size = _parse_zmetadata(fs.cat_file(f"{root}/{ZMETADATA}"), location)
        nodes = check_nodes(parse_metadata(metadata, raise_finding), 1 << 21, raise_finding)
        for name, array in nodes.arrays.items():
            files = _iter_files(f"{root}/{name}", array, record_size)
            records[name] = [Record(fs.cat_file(file), n_rows, file) for file, n_rows in files]
            addresses[name] = list_addresses(records[name])
    except TiffrefError:
        raise
    except client_errors() as error:
        raise unreadable(location, error, "cannot read the references") from error
    nodes, recorded, series = take_provenance(nodes, raise_finding)
    sources, rank = rank_sources(chain.from_iterable(addresses.values()), recorded)
    arrays, first = {}, 0
    for name, array in nodes.arrays.items():
        own = rank[first : first + len(addresses[name])]
        first += len(own)
        manifest = defer_manifest(array, records[name], record_size, addresses[name], own, sources)
        arrays[name] = build_array(array, manifest)
    return Parsed(build_tree(nodes, arrays), tuple(series))


def import_pyarrow() -> Any:
    """Give pyarrow, or say which extra installs it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "parquet references need pyarrow", hint=install_hint("parquet")
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


def _iter_files(folder: str, array: ArrayMetadata, record_size: int) -> Iterator[tuple[str, int]]:
    """Give the files of an array, each with the number of chunks that it has references for."""
    n_chunks = math.prod(array.grid)
    for record, start in enumerate(range(0, n_chunks, record_size)):
        yield f"{folder}/refs.{record}.parq", min(record_size, n_chunks - start)
