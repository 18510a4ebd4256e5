"""Reference documents, loaded.

Owns fetching and parsing JSON, and large files of text that are read in parts rather than held in
memory. Nothing in the document is followed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import lzma
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ujson

from ..access.allow import is_local
from ..access.clients import client_errors
from ..errors import InvalidReferences, unreadable
from .limits import LIMITS

__all__ = [
    "FileText",
    "fetch_text",
    "load_document",
    "open_large",
    "parse_json",
    "without_garbage_collection",
]

_LARGE_BYTES = 1 << 23
"""A document from this size on is read in parts where it can be."""
_PART_BYTES = 1 << 20
_TIFF = frozenset({b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"})
_TIFF_HINT = "This is a TIFF: `tiffref info` tells what it holds, `tiffref scan` writes a document."


def load_document(
    document: Mapping | str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Any:
    """Give a document as the JSON parser gives it.

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
        """Give the first place of `part` that lies between `start` and `stop`, or -1."""
        for first in range(start, stop, _PART_BYTES):
            at = self[first : min(first + _PART_BYTES + len(part) - 1, stop)].find(part)
            if at >= 0:
                return first + at
        return -1

    def rfind(self, part: bytes, start: int, stop: int) -> int:
        """Give the last place of `part` that lies between `start` and `stop`, or -1."""
        for last in range(stop, start, -_PART_BYTES):
            first = max(start, last - _PART_BYTES - len(part) + 1)
            at = self[first:last].rfind(part)
            if at >= 0:
                return first + at
        return -1


@contextlib.contextmanager
def open_large(document: str | os.PathLike[str]) -> Iterator[FileText | None]:
    """Give the text of a large local file that is not compressed; None for all others."""
    path = os.fspath(document)
    with contextlib.ExitStack() as stack:
        text = None
        if is_local(path) and path.endswith(".json"):
            with contextlib.suppress(OSError, ValueError):  # `fetch_text` says why
                file = stack.enter_context(Path(path.removeprefix("file://")).open("rb"))
                text = FileText(file)
        is_apt = text is not None and _LARGE_BYTES <= len(text) <= LIMITS.document_bytes
        yield text if is_apt else None


def parse_json(text: bytes, document: str | os.PathLike[str]) -> Any:
    """Parse the text of a document, whose path is for the error; errors as in `load_document`."""
    try:
        with without_garbage_collection():
            return _fast_loads(text)
    except (ValueError, RecursionError, MemoryError):
        pass  # the standard parser says where, and takes NaN, which kerchunk writes
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidReferences(
            "not a JSON document",
            url=os.fspath(document),
            got=f"{len(text)} bytes: {str(error)[:120]}",
            expected="a kerchunk reference document",
            hint=_TIFF_HINT if bytes(text[:4]) in _TIFF else None,
        ) from error


def _fast_loads(text: bytes) -> Any:
    try:
        import orjson
    except ImportError:
        return ujson.loads(text)
    return orjson.loads(text)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep Python from looking through millions of new lists, none of which is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
