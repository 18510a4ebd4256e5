"""Write and read kerchunk references as a folder of Parquet files.

The folder has `.zmetadata` with all metadata and the `record_size`, and for each array
`<path>/refs.<n>.parq` with the references of `record_size` chunks in C order, in the columns
`path`, `offset`, `size` and `raw`. Needs pyarrow, which is imported only when needed.

In this layout, a missing chunk has a null in `path`, but fsspec (2026.9) with pandas 3 takes the
null for a URL and fails. A missing chunk is therefore written as a chunk of the fill value in
`raw`, stored once per file by Parquet's dictionary. Its `size` is 0, which distinguishes it from
inlined bytes of the same value; readers ignore it. Column statistics stay on: without them
fastparquet reads integers as floats and fsspec fails. Nested groups are written, but fsspec does
not always find the file system of such references; readers then need the option `remote_protocol`.

Opening a document reads only the URLs of each file, which are few and compress well; the numbers
are read when a chunk of the file is needed. Until then the file is kept in memory, about three
bytes per chunk, so that later reads see the document as it was opened.

Follows https://fsspec.github.io/kerchunk/spec.html, section "Parquet references", and fsspec's
`LazyReferenceMapper`, which knows Zarr v2 with "." in chunk keys only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import decode_chunk, wrap_inlined
from ..codecs.foreign import decode_foreign
from ..codecs.zarr_codecs import SEGMENT_ID, codec_chain, to_zarr2
from ..errors import (
    InvalidReferences,
    ManifestMismatch,
    TiffrefError,
    raise_finding,
    requires_extra,
)
from ..io.atomic import open_folder_atomic
from ..io.clients import typed_errors
from ..io.source import LocalSource
from ..io.urls import has_scheme
from ..model.array import Array, Group
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.manifest import INLINED, MISSING, Columns, LazyColumns, Manifest, Source
from . import load
from .columnar import missing_columns
from .kerchunk import plan_document
from .kerchunk_read import Parsed, parse_nodes, rank_sources
from .load import check_columns, check_footer
from .provenance import digest_files
from .zarr_metadata import ArrayMetadata


def _encode_fill_chunk(path: str, array: Array) -> bytes:
    """Return the encoded bytes of a chunk of the fill value, or 0 if the array has none.

    Raises `ManifestMismatch` if the codec cannot store these values exactly, as lossy ones cannot.
    """
    import numcodecs

    codec, chunks = array.codec, array.chunks
    encoding = to_zarr2(codec)
    fill = 0 if array.fill_value is None else array.fill_value
    values = np.full(chunks, fill, np.dtype(encoding["dtype"]))
    compressor = encoding["compressor"]
    if isinstance(codec, SegmentCodec) and (compressor or {}).get("id") == SEGMENT_ID:
        whole = SegmentCodec(codec.shape, codec.dtype, bits=(8 * values.itemsize,))  # not packed
        return wrap_inlined(whole, values.tobytes())
    # predictors run along the rows of a segment
    data = values.reshape(codec.shape if isinstance(codec, SegmentCodec) else chunks)
    try:
        for config in codec_chain(encoding):
            data = numcodecs.get_codec(dict(config)).encode(data)
        stored = bytes(memoryview(np.ascontiguousarray(data)).cast("B"))
        again = decode_foreign(ForeignCodec(2, encoding), stored, chunks, values.dtype)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise _inexact(path, encoding, f"{type(error).__name__}: {error}") from error
    if again.tobytes() != values.tobytes():
        raise _inexact(path, encoding, "different values after decoding")
    return stored


def _is_fill_chunk(data: bytes, array: ArrayMetadata) -> bool:
    """Return whether all decoded values are the fill value, or 0 if there is none."""
    try:
        if isinstance(array.codec, SegmentCodec):
            values = decode_chunk(array.codec, data)
        else:
            values = decode_foreign(array.codec, data, array.chunks, array.dtype)
    except (ValueError, TypeError, RuntimeError):
        return False
    fill = np.array(0 if array.fill_value is None else array.fill_value, values.dtype)
    return bool((values.view(f"V{fill.itemsize}") == fill.view(f"V{fill.itemsize}")).all())


def _inexact(path: str, encoding: dict, got: str) -> ManifestMismatch:
    return ManifestMismatch(
        "the array has missing chunks, and its codec cannot store the fill value in their place",
        tag=f"array '{path}'",
        got=f"{got} ({encoding['filters']}, {encoding['compressor']})",
        hint="Write JSON, which can omit chunks.",
    )


_MAX_URL_BYTES = 1 << 16
_MAX_INLINED = 1 << 20
"""Inlined chunks of an array: a run of one value may be any number of chunks."""
_COLUMNS = ("path", "offset", "size", "raw")
_UNKNOWN = -3
"""Source of a URL that is not in the table of sources."""


@dataclass(frozen=True, slots=True)
class Record:
    """One file: its bytes, its number of chunks, and its name for errors."""

    data: bytes
    n_rows: int
    name: str

    def open(self, columns: Sequence[str]) -> Any:
        """Return pyarrow's file, of which only the metadata is read.

        The size of the columns that will be read is checked.
        """
        import pyarrow.parquet

        check_footer(self.data)
        buffer = pyarrow.BufferReader(self.data)
        metadata = pyarrow.parquet.read_metadata(buffer)
        check_columns(self.data, metadata, self.n_rows, columns)
        # as dictionaries, because a few bytes of file may be a million equal texts
        encoded = ["path", "raw"] if "raw" in metadata.schema.names else ["path"]
        buffer.seek(0)
        return pyarrow.parquet.ParquetFile(buffer, metadata=metadata, read_dictionary=encoded)

    def read(self, file: Any, columns: Sequence[str]) -> Any:
        """Return the columns that the file has, as a pyarrow table.

        No more rows are read than there are chunks. "path" and "raw" are dictionary-encoded.
        """
        import pyarrow

        present = [name for name in columns if name in file.schema_arrow.names]
        # threads do not pay off: a file is decoded in a millisecond
        if file.metadata.num_rows <= self.n_rows:
            return file.read(present, use_threads=False).combine_chunks()
        batches = file.iter_batches(self.n_rows, columns=present, use_threads=False)
        return pyarrow.Table.from_batches([next(batches)]).slice(0, self.n_rows)


@contextlib.contextmanager
def _parquet_errors(name: str) -> Iterator[None]:
    """Turn errors of pyarrow and of invalid values into `InvalidReferences` for this file."""
    import pyarrow

    try:
        yield
    except TiffrefError:
        raise
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise InvalidReferences(
            "not parquet references",
            url=name,
            got=f"{type(error).__name__}: {str(error)[:120]}",
            expected="columns path, offset, size, raw",
        ) from error


def _list_addresses(records: Sequence[Record]) -> list[str]:
    """Return the distinct URLs of the chunks of an array, in the order of first occurrence."""
    distinct: dict[str, None] = {}
    for record in records:
        with _parquet_errors(record.name):
            file = record.open(["path"])
            only = _only_address(file)
            if only is not None:
                distinct[only] = None
                continue
            urls, codes = _read_paths(record.read(file, ["path"]))
            distinct.update(dict.fromkeys(urls[code] for code in np.unique(codes[codes >= 0])))
    return list(distinct)


def _only_address(file: Any) -> str | None:
    """Return the URL of all chunks in a file if its statistics show that there is only one.

    The footer has minimum and maximum of each row group; some writers omit them, or truncate long
    values, so that minimum and maximum differ.
    """
    if "path" not in file.schema_arrow.names:
        return None
    column = file.schema_arrow.names.index("path")
    urls = set()
    for number in range(file.metadata.num_row_groups):
        chunk = file.metadata.row_group(number).column(column)
        values = chunk.statistics if chunk.path_in_schema == "path" else None
        if values is None or not values.has_min_max or values.min != values.max:
            return None
        urls.add(values.min)
    only = urls.pop() if len(urls) == 1 else None
    return only if isinstance(only, str) else None


def _lazy_manifest(
    array: ArrayMetadata,
    records: Sequence[Record],
    record_size: int,
    rank: Mapping[str, int],
    sources: Sequence[Source],
) -> Manifest:
    """Return the manifest of an array, whose files are parsed when one of their chunks is needed.

    `rank` is the index of each of its URLs in `sources`, which are those of all arrays.
    """
    if not records:
        return Manifest(array.grid, (), *missing_columns(math.prod(array.grid)))
    used = sorted(set(rank.values()))
    row_of = {row: number for number, row in enumerate(used)}
    rows = {url: row_of[row] for url, row in rank.items()}
    n_inlined: dict[int, tuple[int, int]] = {}

    def read(number: int) -> Columns:
        with _parquet_errors(records[number].name):
            columns = _parse(records[number], rows, array)
            n_inlined[number] = len(columns.inlined), sum(map(len, columns.inlined.values()))
            n_chunks, n_bytes = map(sum, zip(*n_inlined.values(), strict=True))
            load.check_counts(0, n_bytes, raise_finding)
            _check_inlined(n_chunks)
        return columns

    table = [sources[row] for row in used]
    return Manifest.from_lazy(array.grid, table, LazyColumns(len(records), record_size, read))


def _parse(record: Record, rows: Mapping[str, int], array: ArrayMetadata) -> Columns:
    """Parse a file; chunks without a reference are missing."""
    table = record.read(record.open(_COLUMNS), _COLUMNS)
    source, offset, length, _ = missing_columns(record.n_rows)
    urls, codes = _read_paths(table)
    table_rows = np.array([*(rows.get(url, _UNKNOWN) for url in urls), MISSING], np.int32)
    source[: len(codes)] = table_rows[codes]  # code -1 is the last row
    if (source == _UNKNOWN).any():
        raise InvalidReferences(
            "chunks have a URL that is not in the statistics of the file",
            url=record.name,
            got=urls[int(codes[np.argmax(source == _UNKNOWN)])],
        )
    for name, values in (("offset", offset), ("size", length)):
        if name in table.column_names:
            values[: table.num_rows] = _numbers(table[name].fill_null(0))
    inlined: dict[int, bytes] = {}
    if "raw" in table.column_names and table["raw"].null_count < table.num_rows:
        inlined = _parse_raw(table["raw"].combine_chunks(), source, length, array)
    if ((source >= 0) & (length == 0) & (offset > 0)).any():
        raise ValueError("a byte range is empty; a whole file has offset and size 0")
    return Columns(source, offset, length, inlined)


def _check_inlined(n_chunks: int) -> None:
    if n_chunks > _MAX_INLINED:
        raise ValueError(f"{n_chunks} inlined chunks are more than {_MAX_INLINED}")


def _numbers(column: Any) -> NDArray[np.uint64]:
    """Return offsets or sizes as integers; some writers store floats."""
    values = np.asarray(column)
    with np.errstate(invalid="ignore"):
        numbers = values.astype(np.int64)
    if numbers.min(initial=0) < 0 or (numbers != values).any():
        raise ValueError("offsets and sizes must be whole numbers, 0 or more")
    return numbers.astype(np.uint64)


def _read_paths(table: Any) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct URLs, and the index of the URL of each row; -1 for none."""
    import pyarrow.compute

    if "path" not in table.column_names:
        return [], np.full(table.num_rows, -1)
    column = table["path"].combine_chunks()
    if not pyarrow.types.is_dictionary(column.type):  # of other writers
        column = column.cast(pyarrow.string()).dictionary_encode()
    codes = np.asarray(column.indices.fill_null(-1)).astype(np.int64)
    longest = pyarrow.compute.max(pyarrow.compute.binary_length(column.dictionary)).as_py()
    if (longest or 0) > _MAX_URL_BYTES:
        raise ValueError(f"a URL has {longest} bytes")
    return column.dictionary.cast(pyarrow.string()).to_pylist(), codes


def _parse_raw(
    raw: Any, source: NDArray[np.int32], length: NDArray[np.uint64], array: ArrayMetadata
) -> dict[int, bytes]:
    """Return inlined bytes by row; mark their rows, and those of missing chunks, in `source`."""
    import pyarrow

    rows = np.flatnonzero(np.asarray(raw.is_valid()))
    is_encoded = pyarrow.types.is_dictionary(raw.type)
    encoded = raw if is_encoded else raw.cast(pyarrow.binary()).dictionary_encode()
    values = encoded.dictionary.cast(pyarrow.binary()).to_pylist()
    codes = np.asarray(encoded.indices.fill_null(0))
    is_fill = length[rows] == 0
    candidates = np.unique(codes[rows[is_fill]])
    # chunks that represent missing ones all have the same bytes
    if len(candidates) != 1 or not _is_fill_chunk(values[candidates[0]], array):
        is_fill[:] = False
    _check_inlined(int(np.count_nonzero(~is_fill)))
    source[rows] = np.where(is_fill, MISSING, INLINED)
    return {row: values[codes[row]] for row in rows[~is_fill].tolist()}


ZMETADATA = ".zmetadata"
"""The file that identifies a folder of parquet references."""
_SUFFIXES = (".parq", ".parquet")


def is_parquet(source: object) -> bool:
    """Recognize a folder of parquet references by its name, or a local one by its content."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = os.fspath(source)
    if path.rstrip("/").lower().endswith(_SUFFIXES):
        return True
    return not has_scheme(path) and os.path.isfile(f"{path}/{ZMETADATA}")  # noqa: PTH113


def is_written_as_parquet(target: object, zarr_format: int = 2) -> bool:
    """Return whether references are written to a target as parquet, by its name.

    Raises
    ------
    InvalidReferences
        If `zarr_format` is 3, which parquet references do not support.
    """
    if str(target).endswith(".json") or not is_parquet(target):
        return False
    if zarr_format != 2:
        raise InvalidReferences(
            "parquet references support only Zarr v2",
            url=str(target),
            hint="Omit zarr_format=3, or write JSON.",
        )
    return True


def parse_parquet(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Parsed:
    """Read parquet references, with the series in their provenance.

    Parameters
    ----------
    path
        Folder or URL of a folder.
    storage_options
        Options for the fsspec file system of a URL.

    Raises
    ------
    MissingExtra
        If pyarrow is not installed.
    InvalidReferences
        If the folder does not contain valid references.
    SourceError
        If it cannot be read.
    """
    import_pyarrow()
    location = os.fspath(path)
    records: dict[str, list[Record]] = {}
    addresses: dict[str, list[str]] = {}
    with typed_errors(location, "cannot read the references", TiffrefError):
        fs, root = load.find_document(location, storage_options)
        metadata, record_size = _parse_zmetadata(_read_file(fs, f"{root}/{ZMETADATA}"), location)
        nodes, provenance = parse_nodes(metadata, 1 << 21, raise_finding)
        for name, array in nodes.arrays.items():
            if not {"..", "."}.isdisjoint(name.split("/")):
                raise InvalidReferences("an array lies outside the folder", url=location, got=name)
            starts = range(0, math.prod(array.grid), record_size)
            paths = (f"{root}/{name}/refs.{number}.parq" for number in range(len(starts)))
            records[name] = [
                Record(_read_file(fs, path), min(record_size, starts.stop - start), path)
                for path, start in zip(paths, starts, strict=True)
            ]
            addresses[name] = _list_addresses(records[name])
    urls = list(dict.fromkeys(chain.from_iterable(addresses.values())))
    sources, ranks = rank_sources(urls, provenance.sources)
    rank = dict(zip(urls, ranks.tolist(), strict=True))
    arrays = {}
    for name, array in nodes.arrays.items():
        own = {url: rank[url] for url in addresses[name]}
        manifest = _lazy_manifest(array, records[name], record_size, own, sources)
        arrays[name] = array.with_manifest(manifest)
    files = {name: [record.data for record in own] for name, own in records.items()}
    digests = digest_files(files, record_size)
    return Parsed.build(nodes, arrays, provenance, metadata, digests)


def _read_file(fs: Any, path: str) -> bytes:
    """Read a file; a local one must be a regular file, because reading a pipe would block."""
    if "file" not in fs.protocol:
        return load.read_file(fs, path)
    with contextlib.closing(LocalSource(path)) as source:
        return source.read(0, source.size)


def import_pyarrow(
    extra: str = "parquet",
    what: str = "parquet references need pyarrow",
    url: str | None = None,
) -> Any:
    """Import pyarrow; without it, raise an error that names the extra."""
    with requires_extra(extra, what, url):
        import pyarrow.parquet
    return pyarrow


def read_table(data: bytes) -> Any:
    """Read a Parquet file as a pyarrow table; pyarrow raises errors of its own."""
    import pyarrow.parquet

    # Arrow's threads sometimes abort an interpreter that exits right afterwards (pyarrow 26)
    reader = pyarrow.BufferReader(data)
    return pyarrow.parquet.ParquetFile(reader, pre_buffer=False).read(use_threads=False)


def _parse_zmetadata(text: bytes, location: str) -> tuple[Mapping[str, Any], int]:
    try:
        document = json.loads(text)
        metadata, record_size = document["metadata"], document["record_size"]
    except (ValueError, TypeError, KeyError, RecursionError):
        metadata, record_size = None, None
    is_size = type(record_size) is int and 0 < record_size < 1 << 63
    if not isinstance(metadata, Mapping) or not is_size:
        raise InvalidReferences(
            "not parquet references",
            url=location,
            tag=ZMETADATA,
            got=repr(text[:60]),
            expected='{"metadata": {...}, "record_size": n}',
        )
    return metadata, record_size


def write_parquet(
    group: Group,
    path: str | os.PathLike[str],
    *,
    record_size: int = 100_000,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Write references as parquet, atomically.

    Parameters
    ----------
    group
        The root; no array may be at the root itself.
    path
        Folder or URL of a folder; existing references are replaced.
    record_size
        Chunks in one file, at least 1; a reader loads whole files.
    storage_options
        Options for the fsspec file system of a URL.
    options
        As in `kerchunk.plan_document`.

    Raises
    ------
    MissingExtra
        If pyarrow is not installed.
    ManifestMismatch
        If an array has more than one codec, or missing chunks that its codec cannot store.
    InvalidReferences
        If the layout cannot express the references.
    SourceError
        If the folder cannot be written.
    """
    import_pyarrow()
    if record_size < 1:
        raise InvalidReferences("record_size is too small", got=record_size, expected="1 or more")
    if "" in group.children:
        raise InvalidReferences(
            "parquet references cannot have an array at the root",
            hint="Give the array a name, or write JSON.",
        )
    plan = plan_document(group, **options)
    with open_folder_atomic(path, ZMETADATA, storage_options) as folder:
        for name, array in plan.arrays:
            urls = [plan.addresses[source.url] for source in array.manifest.sources]
            _write_array(folder / name, name, array, urls, record_size)
        files = {name: _read_files(folder / name) for name, _ in plan.arrays}
        plan.seal(digest_files(files, record_size))
        documents = {key: json.loads(text) for key, text in plan.texts.items()}
        metadata = {"metadata": documents, "record_size": record_size}
        (folder / ZMETADATA).write_text(json.dumps(metadata, allow_nan=False), encoding="ascii")


def _read_files(folder: Path) -> Iterator[bytes]:
    n_files = len(list(folder.glob("refs.*.parq")))
    return (Path(folder, f"refs.{number}.parq").read_bytes() for number in range(n_files))


def _write_array(
    folder: Path, path: str, array: Array, urls: Sequence[str], record_size: int
) -> None:
    import pyarrow.parquet

    manifest = array.manifest
    folder.mkdir(parents=True, exist_ok=True)
    fill = _encode_fill_chunk(path, array) if manifest.is_missing.any() else b""
    table = np.array(urls, object)
    for record, start in enumerate(range(0, manifest.n_chunks, record_size)):
        rows = slice(start, start + record_size)
        columns = _record_columns(manifest, rows, table, fill)
        pyarrow.parquet.write_table(
            pyarrow.table(columns), folder / f"refs.{record}.parq", compression="zstd"
        )


def _record_columns(
    manifest: Manifest, rows: slice, urls: NDArray[np.object_], fill: bytes
) -> dict[str, Any]:
    """Return the columns of one file; `raw` only if a chunk needs it."""
    import pyarrow

    source = manifest.source[rows]
    is_stored = source >= 0
    used, codes = np.unique(source[is_stored], return_inverse=True)
    try:
        addresses = pyarrow.array(urls[used], pyarrow.string())
    except UnicodeEncodeError as error:  # a name that is not UTF-8, which JSON can represent
        raise InvalidReferences(
            "parquet cannot represent the name of a file", got=ascii(error.object),
            hint="Rename the file, or write JSON.",
        ) from error  # fmt: skip
    paths = np.zeros(len(source), np.int32)
    paths[is_stored] = codes
    columns = {
        "path": pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(paths, mask=~is_stored), addresses
        ),
        "offset": np.where(is_stored, manifest.offset[rows], 0).astype(np.int64),
        "size": np.where(is_stored, manifest.length[rows], 0).astype(np.int64),
    }
    if not is_stored.all():
        inlined = {
            int(row): manifest.inlined[int(row) + rows.start]
            for row in np.flatnonzero(source == INLINED)
        }
        columns["raw"] = _raw_column(is_stored, inlined, fill)
        columns["size"][list(inlined)] = [len(data) for data in inlined.values()]
    return columns


def _raw_column(is_stored: NDArray[np.bool_], inlined: Mapping[int, bytes], fill: bytes) -> Any:
    """Return the bytes of inlined chunks, and those of the fill value for missing chunks."""
    import pyarrow

    codes = np.zeros(len(is_stored), np.int32)
    codes[list(inlined)] = np.arange(1, len(inlined) + 1)
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(codes, mask=is_stored),
        pyarrow.array([fill, *inlined.values()], pyarrow.binary()),
    )
    return column.cast(pyarrow.binary())  # still written as a dictionary
