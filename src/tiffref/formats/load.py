"""Load reference documents, within limits.

Owns fetching and parsing JSON, large files of text that are read in parts rather than held in
memory, and the limits: how large a document may be, and how much it may make a reader allocate. A
line of JSON can ask for an array of a quadrillion chunks. Nothing in the document is followed.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ujson

from ..codecs.foreign import unsafe_codecs
from ..errors import InvalidReferences, unreadable
from ..io.allow import is_local
from ..io.clients import client_errors
from ..io.urls import local_path, not_a_file
from ..model.codec import ForeignCodec, SegmentCodec
from .findings import Finding, Reporter
from .zarr_metadata import ArrayMetadata, Nodes

__all__ = [
    "LIMITS",
    "FileText",
    "Limits",
    "check_counts",
    "check_kind",
    "check_nodes",
    "fetch_text",
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


def fetch_text(
    document: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> bytes:
    """Read the text of a document; parameters and errors as in `load_document`."""
    import fsspec

    path = os.fspath(document)
    try:
        with fsspec.open(path, "rb", compression="infer", **(storage_options or {})) as file:
            text = _read_up_to(file, LIMITS.document_bytes + 1)
    except IsADirectoryError as error:
        raise not_a_file(path) from error
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
