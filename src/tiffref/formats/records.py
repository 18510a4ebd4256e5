"""Files of parquet references: one block of an array's chunks each.

Owns the way from the bytes of such a file, ours or another's, to columns. A document is opened by
reading the addresses out of each file, which are few and packed tightly; the numbers follow when a
chunk of the file is asked for. Until then the file is kept as its bytes, some three for each chunk,
so that what is read later is still the document that was opened.

Follows https://fsspec.github.io/kerchunk/spec.html, "Parquet references".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidReferences
from ..model.deferred import Columns, Deferred
from ..model.manifest import INLINED, MISSING, Manifest, Source
from .fill import is_fill_chunk
from .metadata import ArrayMetadata

__all__ = ["Record", "defer_manifest", "list_addresses"]

_UNKNOWN = -3
"""Row of an address that is in no table of sources."""


@dataclass(frozen=True, slots=True)
class Record:
    """One file: its bytes, how many chunks it has references for, and what to call it in errors."""

    data: bytes
    n_rows: int
    name: str

    def open(self) -> Any:
        """Give the file as pyarrow's, which reads no more than what is said about the columns."""
        import pyarrow
        import pyarrow.parquet

        with _naming(self.name):
            buffer = pyarrow.BufferReader(self.data)
            return pyarrow.parquet.ParquetFile(buffer, read_dictionary=["path"])

    def read(self, file: Any, columns: Sequence[str]) -> Any:
        """Give those of the columns that the file has, as a pyarrow table; "path" as dictionary.

        Raises
        ------
        InvalidReferences
            If it is no such file.
        """
        with _naming(self.name):
            found = [name for name in columns if name in file.schema_arrow.names]
            # threads would only wait for one another: a file is decoded in a millisecond
            table = file.read(found, use_threads=False).slice(0, self.n_rows)
            return table.combine_chunks()


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Tell which file is none of parquet references."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise InvalidReferences(
            "not parquet references",
            url=name,
            got=f"{type(error).__name__}: {str(error)[:120]}",
            expected="columns path, offset, size, raw",
        ) from error


def list_addresses(records: Sequence[Record]) -> list[str]:
    """Give the addresses that chunks of an array lie at, each once, as they first come."""
    found: dict[str, None] = {}
    for record in records:
        file = record.open()
        only = _only_address(file)
        if only is not None:
            found[only] = None
            continue
        urls, codes = _read_paths(record, record.read(file, ["path"]))
        is_used = np.zeros(len(urls), np.bool_)
        is_used[codes[codes >= 0]] = True
        found.update(dict.fromkeys(url for url, used in zip(urls, is_used, strict=True) if used))
    return list(found)


def _only_address(file: Any) -> str | None:
    """Give the one address in a file where its footer says that there is just one.

    It says the least and the greatest value of each block of rows; a writer may leave them out, or
    cut long ones, and then the greatest differs from the least.
    """
    if "path" not in file.schema_arrow.names:
        return None
    column = file.schema_arrow.names.index("path")
    found = set()
    for number in range(file.metadata.num_row_groups):
        chunk = file.metadata.row_group(number).column(column)
        values = chunk.statistics if chunk.path_in_schema == "path" else None
        if values is None or not values.has_min_max or values.min != values.max:
            return None
        found.add(values.min)
    only = found.pop() if len(found) == 1 else None
    return only if isinstance(only, str) else None


def defer_manifest(
    array: ArrayMetadata,
    records: Sequence[Record],
    record_size: int,
    addresses: Sequence[str],
    rank: NDArray[np.int32],
    sources: Sequence[Source],
) -> Manifest:
    """Give the manifest of an array, whose files are parsed when one of their chunks is needed.

    Parameters
    ----------
    array
        What its metadata says.
    records, record_size
        Its files, and the chunks in each but the last.
    addresses, rank
        What `list_addresses` gives of them, and the place of each in `sources`.
    sources
        Of all arrays together.
    """
    if not records:
        nothing = np.zeros(math.prod(array.grid), np.uint64)
        return Manifest.from_columns(array.grid, (), nothing, nothing)
    used = np.unique(rank)
    rows = np.searchsorted(used, rank).tolist()
    place = dict(zip(addresses, rows, strict=True))

    def load(number: int) -> Columns:
        return _parse(records[number], place, array)

    table = [sources[row] for row in used.tolist()]
    return Manifest.defer(array.grid, table, Deferred(len(records), record_size, load))


def _parse(record: Record, place: Mapping[str, int], array: ArrayMetadata) -> Columns:
    """Parse a file; chunks that it has no reference for are missing."""
    table = record.read(record.open(), ["path", "offset", "size", "raw"])
    source = np.full(record.n_rows, MISSING, np.int32)
    offset, length = np.zeros((2, record.n_rows), np.uint64)
    urls, codes = _read_paths(record, table)
    rows = np.array([*(place.get(url, _UNKNOWN) for url in urls), MISSING], np.int32)
    source[: len(codes)] = rows[codes]  # a code of -1 is the last row
    if (source == _UNKNOWN).any():
        raise InvalidReferences(
            "chunks lie at an address that the statistics of the file leave out",
            url=record.name,
            got=urls[int(codes[np.argmax(source == _UNKNOWN)])],
        )
    with _naming(record.name):
        for name, values in (("offset", offset), ("size", length)):
            if name in table.column_names:
                values[: table.num_rows] = _numbers(table[name].fill_null(0))
        inlined: dict[int, bytes] = {}
        if "raw" in table.column_names and table["raw"].null_count < table.num_rows:
            inlined = _parse_raw(table["raw"].combine_chunks(), source, length, array)
        if ((source >= 0) & (length == 0) & (offset > 0)).any():
            raise ValueError("a range has no bytes; a whole file has offset and size 0")
    return Columns(source, offset, length, inlined)


def _numbers(column: Any) -> NDArray[np.uint64]:
    """Give offsets or sizes; some writers have them as floats."""
    found = np.asarray(column)
    with np.errstate(invalid="ignore"):
        numbers = found.astype(np.int64)
    if numbers.min(initial=0) < 0 or (numbers != found).any():
        raise ValueError("an offset or a size is no whole number from 0 on")
    return numbers.astype(np.uint64)


def _read_paths(record: Record, table: Any) -> tuple[list[str], NDArray[np.int64]]:
    """Give addresses, and for each row which one it has; -1 for none."""
    import pyarrow

    if "path" not in table.column_names:
        return [], np.full(table.num_rows, -1)
    with _naming(record.name):
        column = table["path"].combine_chunks()
        if not pyarrow.types.is_dictionary(column.type):  # other writers'
            column = column.cast(pyarrow.string()).dictionary_encode()
        codes = np.asarray(column.indices.fill_null(-1)).astype(np.int64)
        return column.dictionary.to_pylist(), codes


def _parse_raw(
    raw: Any, source: NDArray[np.int32], length: NDArray[np.uint64], array: ArrayMetadata
) -> dict[int, bytes]:
    """Give inlined bytes by row, and mark their rows, and those of missing chunks, in `source`."""
    import pyarrow

    rows = np.flatnonzero(np.asarray(raw.is_valid()))
    encoded = raw.cast(pyarrow.binary()).dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = np.asarray(encoded.indices.fill_null(0))
    is_fill = length[rows] == 0
    candidates = np.unique(codes[rows[is_fill]])
    # chunks in the place of missing ones have all the same bytes
    if len(candidates) != 1 or not is_fill_chunk(
        values[candidates[0]], array.codec, array.chunks, array.fill_value
    ):
        is_fill[:] = False
    source[rows] = np.where(is_fill, MISSING, INLINED)
    return {row: values[codes[row]] for row in rows[~is_fill].tolist()}
