"""A store as fsspec's ReferenceFileSystem.

Owns the lazy mapping from keys to references: a file system over a million chunks keeps no
dictionary of a million entries; and the sources as a file system, so
that what is read this way is checked as what the store itself reads.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.reference import ReferenceFileSystem

from ..io.urls import to_document_url
from ..model.manifest import Source
from ..read.fetch import Fetcher
from ..read.pools import fetch_pool
from .keyspace import Chunk, KeySpace

__all__ = ["ReferenceMapping", "reference_filesystem"]


class ReferenceMapping(Mapping[str, Any]):
    """The keys of a store with what a reference document has for each."""

    def __init__(self, keys: KeySpace, fetch: Fetcher) -> None:
        self._keys = keys
        self._fetch = fetch

    def __getitem__(self, key: str) -> bytes | list[Any]:
        found = self._keys.find(key) if isinstance(key, str) else None
        if found is None:
            raise KeyError(key)
        if not isinstance(found, Chunk):
            return found
        if found.served.is_decoded:
            return _escape(found.served.decode(found.flat, self._fetch).tobytes())
        place = found.location()
        if place is None:
            return _escape(found.inlined or b"")
        source, offset, length = place
        self._fetch.check_allowed(source.url)
        url = to_document_url(source.url)
        return [url, offset, length] if length else [url]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._keys.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return self._keys.n_keys()


class SourceFileSystem(AsyncFileSystem):
    """The sources of a store as files, by their addresses in documents.

    Parameters
    ----------
    sources
        By address.
    fetch
        Reads them, and says what may not be read, is no longer what it was, or is too short.
    """

    cachable = False

    def __init__(self, sources: Mapping[str, Source], fetch: Fetcher) -> None:
        super().__init__()
        self._sources = sources
        self._fetch = fetch

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        source = self._find(path)
        if start is None and end is None:
            return await _run(self._fetch.read_all, source)
        if end is None or min(start or 0, end) < 0:
            start, end, _step = slice(start, end).indices(await _run(self._fetch.size, source))
        first = start or 0
        return await _run(self._fetch.read, source, first, end - first) if end > first else b""

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        size = await _run(self._fetch.size, self._find(path))
        return {"name": path, "type": "file", "size": size}

    def _find(self, path: str) -> Source:
        if path not in self._sources:
            raise FileNotFoundError(path)
        return self._sources[path]


async def _run(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.wrap_future(fetch_pool().submit(work, *arguments))


def reference_filesystem(keys: KeySpace, fetch: Fetcher) -> ReferenceFileSystem:
    """Return a file system with the keys of a store as its files."""
    sources = {
        to_document_url(source.url): source
        for served in keys.arrays.values()
        for source in served.array.manifest.sources
    }
    files = SourceFileSystem(sources, fetch)
    fs = ReferenceFileSystem({}, fs={url.split("://", 1)[0]: files for url in sources} or None)
    fs.references = ReferenceMapping(keys, fetch)
    return fs


def _escape(data: bytes) -> bytes:
    """Keep the file system from decoding bytes that happen to begin like its base64 values."""
    return b"base64:" + base64.b64encode(data) if data.startswith(b"base64:") else data
