"""Load reference documents, within limits.

Fetches and parses JSON; large local files are read in parts instead of into memory. Limits apply to
the size of a document and to the memory that reading it may take: a line of JSON can define an
array of a quadrillion chunks. No URL in the document is opened.

The footer of a Parquet file may claim any size: a page of a few kilobytes may decompress to two
gigabytes, one run may be a billion equal values, and each byte of the footer itself may become a
kilobyte of objects. Decoders allocate according to the page headers and the counts of each column,
so these are checked here, without decompressing a page.

References: Apache Parquet format 2.11 (parquet.thrift: PageHeader), Apache Thrift compact protocol.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import ujson

from ..codecs.foreign import unsafe_codecs
from ..errors import Finding, InvalidReferences, Reporter, SourceError, safe_cause, unreadable
from ..io.clients import UNKNOWN_SIZE_BYTES, call_with_timeout, client_errors, find_file_system
from ..io.urls import directory_error, has_scheme, local_path, missing_file_error
from ..model.codec import ForeignCodec, SegmentCodec
from .zarr_metadata import ArrayMetadata, Nodes


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a document.

    `document_bytes` counts decompressed bytes; `depth` the parts of a path; `chunk_bytes` the
    decoded bytes of one chunk. All arrays of a document together may have `table_chunks` chunks,
    or `chunks_per_reference` for each of its references if that is more.
    """

    document_bytes: int = 1 << 30
    references: int = 10_000_000
    inlined_bytes: int = 1 << 28
    depth: int = 32
    chunk_bytes: int = 1 << 31
    table_chunks: int = 1 << 22
    chunks_per_reference: int = 64


LIMITS = Limits()
"""The limits of this process: a million references take 110 MB, and 20 MB once read."""


def check_counts(n_references: int, n_inlined_bytes: int, report: Reporter) -> None:
    """Report too many references or inlined bytes."""
    for what, got, limit in (
        ("references", n_references, LIMITS.references),
        ("inlined bytes", n_inlined_bytes, LIMITS.inlined_bytes),
    ):
        if got > limit:
            report(_limit(f"too many {what}", None, got, limit))


def check_nodes(nodes: Nodes, n_references: int, report: Reporter) -> Nodes:
    """Report and omit nodes that exceed a limit or have a codec that is not allowed."""
    arrays, groups = dict(nodes.arrays), dict(nodes.groups)
    for path in [*groups, *arrays]:
        depth = path.count("/") + 1
        if depth > LIMITS.depth:
            report(_limit("the path is too deep", f"{path[:60]}...", depth, LIMITS.depth))
            groups.pop(path, None)
            arrays.pop(path, None)
    for path, array in list(arrays.items()):
        findings = list(_check_array(path, array))
        for finding in findings:
            report(finding)
        if findings:
            del arrays[path]
    max_chunks = max(LIMITS.table_chunks, LIMITS.chunks_per_reference * n_references)
    n_chunks = sum(math.prod(array.grid) for array in arrays.values())
    if n_chunks > max_chunks:
        report(_limit("far more chunks than references", None, n_chunks, max_chunks))
        arrays = {}
    return Nodes(groups, arrays, nodes.order)


def _check_array(path: str, array: ArrayMetadata) -> Iterator[Finding]:
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if n_bytes > LIMITS.chunk_bytes:
        yield _limit("the chunks are too large", path, n_bytes, LIMITS.chunk_bytes)
    if isinstance(array.codec, SegmentCodec) and array.dtype.hasobject:
        what = "TIFF segments hold numbers, not objects"
        yield Finding("dtype", what, path, str(array.dtype), "numbers")
    if isinstance(array.codec, ForeignCodec):
        for name in unsafe_codecs(array.codec):
            what = "the codec is not allowed"
            expected = "a codec of numcodecs, imagecodecs or tiffref that only decodes bytes"
            yield Finding("unknown-codec", what, path, name, expected)


def _limit(what: str, key: str | None, got: int, limit: int) -> Finding:
    return Finding("limit", what, key, str(got), f"at most {limit}")


_LARGE_BYTES = 1 << 23
"""Documents of this size and more are read in parts if possible."""
_PART_BYTES = 1 << 20
_TIFF_SIGNATURES = frozenset({b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"})
_TIFF_HINT = "`tiffref info` shows its content, `tiffref scan` writes references to it."


def check_kind(document: Any) -> None:
    """Refuse a value that is neither the address of a document nor a document.

    Raises
    ------
    InvalidReferences
    """
    if not isinstance(document, Mapping | str | os.PathLike):
        raise InvalidReferences(
            f"cannot open {type(document).__name__} as references",
            expected="a path, URL, or mapping",
        )


def find_document(path: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the fsspec file system of a document, and the path in it.

    A local file or folder may have a name like a URL: "a::b.json" or "file:a.json".
    """
    import fsspec

    name = local_path(path)
    if os.path.exists(name):  # noqa: PTH110 - takes names of any length
        if not os.path.isfile(name) and not os.path.isdir(name):  # noqa: PTH112, PTH113
            # opening a pipe would wait for its writer
            raise SourceError("cannot be read: not a regular file", url=path)
        return fsspec.filesystem("file"), os.path.abspath(name)  # noqa: PTH100 - links stay
    if not has_scheme(path) and "::" not in path:
        raise missing_file_error(name)
    return find_file_system(path, storage_options)


def fetch_text(
    document: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    what: str = "cannot read the references",
) -> bytes:
    """Read the text of a document.

    Parameters
    ----------
    document
        Path or URL of a JSON file, also compressed (".json.gz", ".json.zst").
    storage_options
        Options for the fsspec file system of a URL.
    what
        What to say if it cannot be read.

    Raises
    ------
    SourceError
        If it cannot be read.
    InvalidReferences
        If it is too large.
    """
    import fsspec

    from ..io.http import HttpFile, is_http  # as late as fsspec, to start faster

    path = os.fspath(document)
    try:
        fs, name = find_document(path, storage_options)
        open_file = partial(fs.open, name, "rb", compression="infer")
        if is_http(fs):
            text = HttpFile(fs, name, path).read_document(LIMITS.document_bytes)
            # a server may say that it compressed a ".gz" file, and the client decompresses it
            compression = None if text[:1] == b"{" else fsspec.utils.infer_compression(name)
            unpack = fsspec.compression.compr[compression]
            open_file = partial(unpack, io.BytesIO(text), mode="rb")
        with call_with_timeout(fs, path, 0, open_file) as file:
            n_bytes = getattr(file, "size", None) or UNKNOWN_SIZE_BYTES
            read = partial(_read_up_to, file, LIMITS.document_bytes + 1)
            text = call_with_timeout(fs, path, n_bytes, read)
    except IsADirectoryError as error:
        raise directory_error(path, "references") from error
    except SourceError:
        raise
    except client_errors() as error:
        raise unreadable(path, error, what) from safe_cause(error)
    if len(text) > LIMITS.document_bytes:
        raise InvalidReferences(
            "the document is too large", url=path, expected=f"at most {LIMITS.document_bytes} bytes"
        )
    return text


def read_file(fs: Any, path: str) -> bytes:
    """Read a remote file of references in several files, or of a catalog."""
    from ..io.http import HttpFile, is_http

    if is_http(fs):
        return HttpFile(fs, path, path).read_document(LIMITS.document_bytes)
    return call_with_timeout(fs, path, UNKNOWN_SIZE_BYTES, partial(fs.cat_file, path))


def _read_up_to(file: Any, limit: int) -> bytes:
    """Read a file in parts: a single read would allocate the limit."""
    parts, n_left = [], limit
    while n_left and (part := file.read(min(n_left, _LARGE_BYTES))):
        parts.append(part)
        n_left -= len(part)
    return b"".join(parts)


class FileText:
    """The text of a local file, without reading it into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._state = self._stat()

    def _stat(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    @property
    def is_changed(self) -> bool:
        """Whether the file was modified since it was opened."""
        return self._stat() != self._state

    def __len__(self) -> int:
        return self._state[0]

    def __getitem__(self, span: slice) -> bytes:
        start, stop, _ = span.indices(len(self))
        self._file.seek(start)
        return self._file.read(max(0, stop - start))

    def find(self, part: bytes, start: int, stop: int) -> int:
        """Return the first position of `part` between `start` and `stop`, or -1."""
        for first in range(start, stop, _PART_BYTES):
            position = self[first : min(first + _PART_BYTES + len(part) - 1, stop)].find(part)
            if position >= 0:
                return first + position
        return -1

    def rfind(self, part: bytes, start: int, stop: int) -> int:
        """Return the last position of `part` between `start` and `stop`, or -1."""
        for last in range(stop, start, -_PART_BYTES):
            first = max(start, last - _PART_BYTES - len(part) + 1)
            position = self[first:last].rfind(part)
            if position >= 0:
                return first + position
        return -1


@contextlib.contextmanager
def open_large(document: str | os.PathLike[str]) -> Iterator[FileText | None]:
    """Yield the text of a large, uncompressed local file; None for all others."""
    path = os.fspath(document)
    with contextlib.ExitStack() as stack:
        text = None
        if path.endswith(".json") and os.path.isfile(local_path(path)):  # noqa: PTH113
            with contextlib.suppress(OSError, ValueError):  # `fetch_text` raises the error
                file = stack.enter_context(Path(local_path(path)).open("rb"))
                text = FileText(file)
        is_large = text is not None and _LARGE_BYTES <= len(text) <= LIMITS.document_bytes
        yield text if is_large else None


def parse_json(text: bytes, document: str | os.PathLike[str]) -> Any:
    """Parse the text of a document; raise `InvalidReferences` if it is not JSON."""
    try:
        return ujson.loads(text)
    except (ValueError, RecursionError, MemoryError):
        pass  # the standard parser reports the position, and accepts NaN, which kerchunk writes
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if bytes(text[:4]) in _TIFF_SIGNATURES:
            what, hint = "is a TIFF, not a reference document", _TIFF_HINT
        else:
            reason = str(error)[:120] if text else "it is empty"
            what, hint = f"not a JSON document: {reason}", None
        raise InvalidReferences(what, url=os.fspath(document), hint=hint) from error


_MAX_FOOTER_ITEMS = 100_000
"""List items in a footer; each takes up to a kilobyte of memory. Our files have about 40."""
_MAX_ROWS = 1 << 22
"""Rows of a file with fewer chunks: some writers pad the last file with meaningless rows."""
_HARMLESS_BYTES = 1 << 24
_MAX_RATIO = 4
_ROW_BYTES, _MAX_ROW_BYTES = 512, 1 << 28
"""Bytes per row, and of all rows: each chunk may have its own URL. The URLs of a million files
compress to a hundredth, legitimately."""
_HARMLESS_VALUES = 1 << 16
_MAX_DEPTH = 16
_TEXTS, _NUMBERS = frozenset({"path", "raw"}), frozenset({"offset", "size"})
_NUMBER_TYPES = frozenset({"INT32", "INT64", "FLOAT", "DOUBLE"})
_DICTIONARY_PAGE = 2
_COUNTS = {0: (5, 2), 2: (7, 2), 3: (8, 4)}
"""Page type -> number of the field with its header, and in it of the field with its encoding."""
_DELTA_BYTE_ARRAY = 7
"""Encoding in which a value may repeat the previous one: a megabyte, a million times."""


def check_footer(data: bytes) -> None:
    """Refuse a Parquet file whose footer would become too many objects.

    Raises
    ------
    ValueError
    """
    n_bytes = int.from_bytes(data[-8:-4], "little")
    if len(data) < n_bytes + 12 or data[-4:] != b"PAR1":
        raise ValueError("the Parquet footer is missing")
    _ThriftReader(data[-8 - n_bytes : -8], 0, _MAX_FOOTER_ITEMS).read_struct()


def check_columns(data: bytes, metadata: Any, n_rows: int, names: Collection[str]) -> None:
    """Refuse a Parquet file whose columns would take too much memory or have too many values.

    Parameters
    ----------
    data
        The file.
    metadata
        Its metadata, from pyarrow.
    n_rows
        Rows that are needed.
    names
        Columns that will be read.

    Raises
    ------
    ValueError
    """
    max_rows = max(n_rows, _MAX_ROWS)
    if metadata.num_rows > max_rows:
        raise ValueError(f"{metadata.num_rows} rows are more than {max_rows}")
    paths = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
    selected = [n for n, path in enumerate(paths) if path.partition(".")[0] in names]
    if len(selected) > len({paths[n] for n in selected}):
        raise ValueError("two columns have the same name")
    for number in selected:
        _check_type(metadata.schema.column(number))
    n_bytes = n_claimed = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        n_claimed += group.total_byte_size
        for column in map(group.column, selected):
            if column.num_values != group.num_rows:
                raise ValueError(f"{column.num_values} values in {group.num_rows} rows")
            n_bytes += sum(_page_sizes(data, column, n_rows))
    row_bytes = min(_ROW_BYTES * n_rows, _MAX_ROW_BYTES)
    max_bytes = max(_HARMLESS_BYTES, _MAX_RATIO * len(data), row_bytes)
    for n, limit in ((n_bytes, max_bytes), (n_claimed, LIMITS.inlined_bytes)):
        if n > limit:
            raise ValueError(f"{n} bytes are more than {limit}")


def _check_type(column: Any) -> None:
    """Refuse types that expand without bound: lists, and values of a fixed length."""
    is_text = column.path in _TEXTS and column.physical_type == "BYTE_ARRAY"
    is_number = column.path in _NUMBERS and column.physical_type in _NUMBER_TYPES
    # type of a column without values, as written by pandas, polars and pyarrow
    is_null = column.physical_type == "INT32" and str(column.logical_type) == "Null"
    if column.max_repetition_level or not (is_text or is_number or is_null):
        raise ValueError(f"column {column.path[:60]} has type {column.physical_type}")


def _page_sizes(data: bytes, column: Any, n_rows: int) -> Iterator[int]:
    """Yield the decompressed size of each page of a column, according to its header."""
    offset = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < offset:
        offset = column.dictionary_page_offset
    end = offset + column.total_compressed_size
    if not 0 <= offset <= end <= len(data):
        raise ValueError("a column lies outside the file")
    n_seen = 0
    while offset < end and n_seen < column.num_values:
        header = _ThriftReader(data, offset, _MAX_FOOTER_ITEMS)
        fields = header.read_struct()
        kind, n_bytes, n_stored = (_size(fields, number) for number in (1, 2, 3))
        if kind in _COUNTS:
            is_dictionary = kind == _DICTIONARY_PAGE
            limit = max(n_rows, _HARMLESS_VALUES) if is_dictionary else column.num_values
            n_values = _page_values(fields, kind, limit)
            n_seen += 0 if is_dictionary else n_values
        yield n_bytes
        offset = header.position + n_stored


def _size(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    if type(value) is not int or value < 0:
        raise ValueError("a page header has no sizes")
    return value


def _page_values(fields: dict[int, Any], kind: int, limit: int) -> int:
    """Return the number of values of a page."""
    number, encoding_number = _COUNTS[kind]
    header = fields.get(number)
    header = header if isinstance(header, dict) else {}
    n_values = _size(header, 1)
    if n_values > limit:
        raise ValueError(f"a page has {n_values} values, more than {limit}")
    if header.get(encoding_number) == _DELTA_BYTE_ARRAY:
        raise ValueError("the encoding DELTA_BYTE_ARRAY is not supported")
    return n_values


class _ThriftReader:
    """Reader of Thrift's compact protocol; at most `n_left` list items."""

    def __init__(self, data: bytes, position: int, n_left: int) -> None:
        self.data, self.position, self.n_left = data, position, n_left

    def read_struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a structure by number.

        Raises
        ------
        ValueError
            If it is truncated, or has a field twice, so that decoders might read either.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("the structure is too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            if number in fields:
                raise ValueError("a field occurs twice")
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._read(kind, depth + 1)
        return fields

    def _read(self, kind: int, depth: int) -> Any:
        if kind in _FIXED_BYTES:
            return self._skip(_FIXED_BYTES[kind])
        if kind in (4, 5, 6):
            return self._number()
        if kind == 8:
            return self._skip(self._varint())
        if kind in (9, 10):
            return self._read_list(depth)
        if kind == 12:
            return self.read_struct(depth)
        raise ValueError(f"a field of type {kind}")

    def _read_list(self, depth: int) -> None:
        """Skip a list, and count its items."""
        head = self._byte()
        length = self._varint() if head >> 4 == 15 else head >> 4
        self.n_left -= length
        if self.n_left < 0:
            raise ValueError("the footer has too many items")
        for _ in range(length):
            self._read(head & 15, depth + 1)

    def _byte(self) -> int:
        if self.position >= len(self.data):
            raise ValueError("the structure is truncated")
        self.position += 1
        return self.data[self.position - 1]

    def _skip(self, n_bytes: int) -> None:
        self.position += n_bytes
        if self.position > len(self.data):
            raise ValueError("the structure is truncated")

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("a number does not end")

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


_FIXED_BYTES = {1: 1, 2: 1, 3: 1, 7: 8}
"""Bytes of booleans in lists, bytes and doubles."""
