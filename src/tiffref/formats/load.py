"""Reference documents, loaded.

Owns fetching and parsing JSON. Nothing in the document is followed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import ujson

from ..errors import InvalidReferences, unreadable
from .limits import LIMITS

__all__ = ["fetch_text", "load_document", "parse_json", "without_garbage_collection"]


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


_ACCESS_ERRORS: tuple[type[BaseException], ...] = (
    *(OSError, ValueError, ImportError),
    *(EOFError, zlib.error, lzma.LZMAError),  # compressed text that is cut off or broken
)


def fetch_text(
    document: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> bytes:
    """Read the text of a document; parameters and errors as in `load_document`."""
    import fsspec

    path = os.fspath(document)
    try:
        with fsspec.open(path, "rb", compression="infer", **(storage_options or {})) as file:
            text = file.read(LIMITS.document_bytes + 1)
    except _ACCESS_ERRORS + _client_errors() as error:
        raise unreadable(path, error, "cannot read the references") from error
    if len(text) > LIMITS.document_bytes:
        raise InvalidReferences(
            "too large a document", url=path, expected=f"at most {LIMITS.document_bytes} bytes"
        )
    return text


def _client_errors() -> tuple[type[BaseException], ...]:
    """Give the errors of HTTP clients, which are none of Python's, if a client is loaded at all."""
    aiohttp = sys.modules.get("aiohttp")
    return (aiohttp.ClientError,) if aiohttp else ()


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
