"""Load reference documents, within limits.

Owns fetching and parsing JSON, large files of text that are read in parts rather than held in
memory, and the limits: how large a document may be, and how much it may make a reader allocate. A
line of JSON can ask for an array of a quadrillion chunks. Nothing in the document is followed.

The footer of a Parquet file says how large its values are, and may say anything: a page of a few
kilobytes is two gigabytes once decompressed, one run is a billion equal values, and each byte of
the footer itself may become a kilobyte of objects. A decoder allocates by the header of each page
and by the counts of each column, so these are added up here; no page is decompressed.

References: Apache Parquet format 2.11 (parquet.thrift: PageHeader), Apache Thrift compact protocol.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import ujson

from ..codecs.foreign import unsafe_codecs
from ..errors import InvalidReferences, SourceError, unreadable
from ..io.allow import is_local
from ..io.clients import UNKNOWN_SIZE_BYTES, call_with_timeout, client_errors, find_file_system
from ..io.urls import directory_error, local_path
from ..model.codec import ForeignCodec, SegmentCodec
from .findings import Finding, Reporter
from .zarr_metadata import ArrayMetadata, Nodes

__all__ = [
    "LIMITS",
    "FileText",
    "Limits",
    "check_columns",
    "check_counts",
    "check_footer",
    "check_kind",
    "check_nodes",
    "fetch_text",
    "find_document",
    "load_document",
    "open_large",
    "parse_json",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much of a document.

    `document_bytes` counts decompressed bytes; `depth` the parts of a path; `chunk_bytes` the
    decoded bytes of one chunk. All arrays of a document together may have `table_chunks` chunks,
    or, where that is more, `chunks_per_reference` for each reference that the document has.
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
    """Report too many references, or too many bytes inlined."""
    for what, got, most in (
        ("references", n_references, LIMITS.references),
        ("inlined bytes", n_inlined_bytes, LIMITS.inlined_bytes),
    ):
        if got > most:
            report(_limit(f"too many {what}", None, got, most))


def check_nodes(nodes: Nodes, n_references: int, report: Reporter) -> Nodes:
    """Report arrays that ask for too much or for codecs that are not run, and leave them out."""
    arrays, groups = dict(nodes.arrays), dict(nodes.groups)
    for path in [*groups, *arrays]:
        depth = path.count("/") + 1
        if depth > LIMITS.depth:
            report(_limit("too deep a path", f"{path[:60]}...", depth, LIMITS.depth))
            groups.pop(path, None)
            arrays.pop(path, None)
    for path, array in list(arrays.items()):
        found = list(_check_array(path, array))
        for finding in found:
            report(finding)
        if found:
            del arrays[path]
    most = max(LIMITS.table_chunks, LIMITS.chunks_per_reference * n_references)
    total = sum(math.prod(array.grid) for array in arrays.values())
    if total > most:
        report(_limit("far more chunks than references", None, total, most))
        arrays = {}
    order = [path for path in nodes.order if path in arrays or path in groups]
    return Nodes(groups, arrays, order)


def _check_array(path: str, array: ArrayMetadata) -> Iterator[Finding]:
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if n_bytes > LIMITS.chunk_bytes:
        yield _limit("too large a chunk", path, n_bytes, LIMITS.chunk_bytes)
    if isinstance(array.codec, SegmentCodec) and array.dtype.hasobject:
        what = "TIFF segments hold numbers, not objects"
        yield Finding("dtype", what, path, str(array.dtype), "numbers")
    if isinstance(array.codec, ForeignCodec):
        for name in unsafe_codecs(array.codec):
            what = "the codec is not one of those that are run"
            expected = "a codec of numcodecs, imagecodecs or tiffref that only decodes bytes"
            yield Finding("unknown-codec", what, path, name, expected)


def _limit(what: str, key: str | None, got: int, most: int) -> Finding:
    return Finding("limit", what, key, str(got), f"at most {most}")


_LARGE_BYTES = 1 << 23
"""A document from this size on is read in parts where it can be."""
_PART_BYTES = 1 << 20
_TIFF = frozenset({b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"})
_TIFF_HINT = "`tiffref info` shows what it holds, `tiffref scan` writes references to it."


def check_kind(document: Any) -> None:
    """Refuse what can be neither the address of a document nor one.

    Raises
    ------
    InvalidReferences
    """
    if not isinstance(document, Mapping | str | os.PathLike):
        raise InvalidReferences(
            f"cannot open {type(document).__name__} as references",
            expected="a path, URL, or mapping",
        )


def load_document(
    document: Mapping | str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Any:
    """Return a document as the JSON parser gives it.

    Parameters
    ----------
    document
        Path or URL of a JSON file, also compressed (".json.gz", ".json.zst"); or the document.
    storage_options
        For the file system of a URL.

    Raises
    ------
    SourceError
        If the file cannot be read.
    InvalidReferences
        If it is not JSON.
    """
    if isinstance(document, Mapping):
        return document
    return parse_json(fetch_text(document, storage_options), document)


_BROKEN: tuple[type[BaseException], ...] = (EOFError, zlib.error, lzma.LZMAError)
"""What is raised of compressed text that is cut off or broken."""


def find_document(path: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return fsspec's file system of a document, and the path in there.

    A local file or folder may be called "a::b.json" or "file:a.json", as no address is.
    """
    import fsspec

    name = local_path(path)
    if os.path.exists(name):  # noqa: PTH110 - takes names of any length
        return fsspec.filesystem("file"), os.path.abspath(name)  # noqa: PTH100 - links stay
    return find_file_system(path, storage_options)


def fetch_text(
    document: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> bytes:
    """Read the text of a document; parameters and errors as in `load_document`."""
    path = os.fspath(document)
    try:
        fs, place = find_document(path, storage_options)
        open_it = partial(fs.open, place, "rb", compression="infer")
        with call_with_timeout(fs, path, 0, open_it) as file:
            n_bytes = getattr(file, "size", None) or UNKNOWN_SIZE_BYTES
            read = partial(_read_up_to, file, LIMITS.document_bytes + 1)
            text = call_with_timeout(fs, path, n_bytes, read)
    except IsADirectoryError as error:
        raise directory_error(path, "references") from error
    except SourceError:
        raise
    except _BROKEN + client_errors() as error:
        raise unreadable(path, error, "cannot read the references") from error
    if len(text) > LIMITS.document_bytes:
        raise InvalidReferences(
            "too large a document", url=path, expected=f"at most {LIMITS.document_bytes} bytes"
        )
    return text


def _read_up_to(file: Any, most: int) -> bytes:
    """Read a file in parts: asked for all that it may have, it would make room for that."""
    parts, n_left = [], most
    while n_left and (part := file.read(min(n_left, _LARGE_BYTES))):
        parts.append(part)
        n_left -= len(part)
    return b"".join(parts)


class FileText:
    """The text of a local file, of which no more is in memory than what is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._state = self._stat()

    def _stat(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    @property
    def is_changed(self) -> bool:
        """Whether the file was written to since it was opened."""
        return self._stat() != self._state

    def __len__(self) -> int:
        return self._state[0]

    def __getitem__(self, span: slice) -> bytes:
        start, stop, _ = span.indices(len(self))
        self._file.seek(start)
        return self._file.read(max(0, stop - start))

    def find(self, part: bytes, start: int, stop: int) -> int:
        """Return the first place of `part` that lies between `start` and `stop`, or -1."""
        for first in range(start, stop, _PART_BYTES):
            at = self[first : min(first + _PART_BYTES + len(part) - 1, stop)].find(part)
            if at >= 0:
                return first + at
        return -1

    def rfind(self, part: bytes, start: int, stop: int) -> int:
        """Return the last place of `part` that lies between `start` and `stop`, or -1."""
        for last in range(stop, start, -_PART_BYTES):
            first = max(start, last - _PART_BYTES - len(part) + 1)
            at = self[first:last].rfind(part)
            if at >= 0:
                return first + at
        return -1


@contextlib.contextmanager
def open_large(document: str | os.PathLike[str]) -> Iterator[FileText | None]:
    """Return the text of a large local file that is not compressed; None for all others."""
    path = os.fspath(document)
    with contextlib.ExitStack() as stack:
        text = None
        if is_local(path) and path.endswith(".json"):
            with contextlib.suppress(OSError, ValueError):  # `fetch_text` says why
                file = stack.enter_context(Path(local_path(path)).open("rb"))
                text = FileText(file)
        is_apt = text is not None and _LARGE_BYTES <= len(text) <= LIMITS.document_bytes
        yield text if is_apt else None


def parse_json(text: bytes, document: str | os.PathLike[str]) -> Any:
    """Parse the text of a document, whose path is for the error; errors as in `load_document`."""
    try:
        return ujson.loads(text)
    except (ValueError, RecursionError, MemoryError):
        pass  # the standard parser says where, and takes NaN, which kerchunk writes
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if bytes(text[:4]) in _TIFF:
            what, hint = "is a TIFF, not a reference document", _TIFF_HINT
        else:
            reason = str(error)[:120] if text else "it is empty"
            what, hint = f"not a JSON document: {reason}", None
        raise InvalidReferences(what, url=os.fspath(document), hint=hint) from error


_MAX_FOOTER_ITEMS = 100_000
"""Members of the lists of a footer, of which each takes up to a kilobyte; we write some 40."""
_MAX_ROWS = 1 << 22
"""Of a file with fewer chunks: writers fill the last file up with rows that mean nothing."""
_HARMLESS_BYTES = 1 << 24
_MAX_RATIO = 4
_ROW_BYTES, _MAX_ROW_BYTES = 512, 1 << 28
"""What the row of a chunk may take: an address, as each has where it is a file of its own. Those of
a million files in one file of references compress to a hundredth, and are honest."""
_HARMLESS_VALUES = 1 << 16
_MAX_DEPTH = 16
_TEXTS, _NUMBERS = frozenset({"path", "raw"}), frozenset({"offset", "size"})
_NUMBER_TYPES = frozenset({"INT32", "INT64", "FLOAT", "DOUBLE"})
_DICTIONARY_PAGE = 2
_COUNTS = {0: (5, 2), 2: (7, 2), 3: (8, 4)}
"""Type of a page: the field with its header, and in there the one with its encoding."""
_DELTA_BYTE_ARRAY = 7
"""Each value repeats as much of the one before as it says: a megabyte, a million times."""


def check_footer(data: bytes) -> None:
    """Refuse a file whose footer would become too many objects.

    Raises
    ------
    ValueError
    """
    n_bytes = int.from_bytes(data[-8:-4], "little")
    if len(data) < n_bytes + 12 or data[-4:] != b"PAR1":
        raise ValueError("no footer of Parquet at its end")
    _Compact(data[-8 - n_bytes : -8], 0, _MAX_FOOTER_ITEMS).read_struct()


def check_columns(data: bytes, metadata: Any, n_rows: int, names: Collection[str]) -> None:
    """Refuse a file whose columns take more memory, or have more values, than they should.

    Parameters
    ----------
    data
        The file.
    metadata
        What pyarrow says of it.
    n_rows
        Rows that are needed.
    names
        Columns that are read.

    Raises
    ------
    ValueError
    """
    most_rows = max(n_rows, _MAX_ROWS)
    if metadata.num_rows > most_rows:
        raise ValueError(f"{metadata.num_rows} rows are more than {most_rows}")
    paths = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
    wanted = [n for n, path in enumerate(paths) if path.partition(".")[0] in names]
    if len(wanted) > len({paths[n] for n in wanted}):
        raise ValueError("two columns have one name")
    for number in wanted:
        _check_type(metadata.schema.column(number))
    n_bytes = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, wanted):
            if column.num_values != group.num_rows:
                raise ValueError(f"{column.num_values} values in {group.num_rows} rows")
            n_bytes += sum(_page_sizes(data, column, n_rows))
    of_rows = min(_ROW_BYTES * n_rows, _MAX_ROW_BYTES)
    most = max(_HARMLESS_BYTES, _MAX_RATIO * len(data), of_rows)
    if n_bytes > most:
        raise ValueError(f"{n_bytes} bytes are more than {most}")


def _check_type(column: Any) -> None:
    """Refuse what is stored in few bytes and read as many: lists, and values of a fixed length."""
    is_text = column.path in _TEXTS and column.physical_type == "BYTE_ARRAY"
    is_number = column.path in _NUMBERS and column.physical_type in _NUMBER_TYPES
    # pandas, polars and pyarrow do not know what a column without values would hold
    is_nothing = column.physical_type == "INT32" and str(column.logical_type) == "Null"
    if column.max_repetition_level or not (is_text or is_number or is_nothing):
        raise ValueError(f"column {column.path[:60]} has type {column.physical_type}")


def _page_sizes(data: bytes, column: Any, n_rows: int) -> Iterator[int]:
    """Yield the bytes of each page of a column, decompressed, as a decoder takes its header."""
    at = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < at:
        at = column.dictionary_page_offset
    end = at + column.total_compressed_size
    if not 0 <= at <= end <= len(data):
        raise ValueError("a column lies outside of the file")
    n_seen = 0
    while at < end and n_seen < column.num_values:
        header = _Compact(data, at, _MAX_FOOTER_ITEMS)
        fields = header.read_struct()
        kind, n_bytes, n_stored = (_size(fields, number) for number in (1, 2, 3))
        if kind in _COUNTS:
            is_dictionary = kind == _DICTIONARY_PAGE
            most = max(n_rows, _HARMLESS_VALUES) if is_dictionary else column.num_values
            n_values = _count(fields, kind, most)
            n_seen += 0 if is_dictionary else n_values
        yield n_bytes
        at = header.at + n_stored


def _size(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    if type(value) is not int or value < 0:
        raise ValueError("a page without its sizes")
    return value


def _count(fields: dict[int, Any], kind: int, most: int) -> int:
    """Return how many values a page has."""
    number, encoding_number = _COUNTS[kind]
    found = fields.get(number)
    found = found if isinstance(found, dict) else {}
    n_values = _size(found, 1)
    if n_values > most:
        raise ValueError(f"a page of {n_values} values are more than {most}")
    if found.get(encoding_number) == _DELTA_BYTE_ARRAY:
        raise ValueError("values that repeat parts of others (DELTA_BYTE_ARRAY) are not read")
    return n_values


class _Compact:
    """Values of Thrift's compact protocol in `data` from `at` on; `n_left` members of lists."""

    def __init__(self, data: bytes, at: int, n_left: int) -> None:
        self.data, self.at, self.n_left = data, at, n_left

    def read_struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a structure by number.

        Raises
        ------
        ValueError
            If it ends early, or has a field twice, of which decoders could take either.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("too deep a structure")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            if number in found:
                raise ValueError("a field that comes twice")
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._read(kind, depth + 1)
        return found

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
        """Read past a list, which is read for the number of its members."""
        head = self._byte()
        length = self._varint() if head >> 4 == 15 else head >> 4
        self.n_left -= length
        if self.n_left < 0:
            raise ValueError("too many parts")
        for _ in range(length):
            self._read(head & 15, depth + 1)

    def _byte(self) -> int:
        if self.at >= len(self.data):
            raise ValueError("a structure that ends early")
        self.at += 1
        return self.data[self.at - 1]

    def _skip(self, n_bytes: int) -> None:
        self.at += n_bytes
        if self.at > len(self.data):
            raise ValueError("a structure that ends early")

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("a number without an end")

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


_FIXED_BYTES = {1: 1, 2: 1, 3: 1, 7: 8}
"""Bytes of booleans in lists, bytes and doubles."""
