"""A store as fsspec's ReferenceFileSystem.

Owns the lazy mapping from keys to references: a file system over a million chunks keeps no
dictionary of a million entries (architecture, decision 12).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.reference import ReferenceFileSystem

from ..formats.urls import to_document_url
from ..read.fetch import Fetcher
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
        self._fetch.backend(source.url)  # refuses what may not be read
        url = to_document_url(source.url)
        return [url, offset, length] if length else [url]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._keys.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return self._keys.n_keys()


def reference_filesystem(keys: KeySpace, fetch: Fetcher) -> ReferenceFileSystem:
    """Give a file system with the keys of a store as its files."""
    filesystems = _target_filesystems(keys, fetch)
    fs = ReferenceFileSystem({}, fs=filesystems or None)
    fs.references = ReferenceMapping(keys, fetch)
    return fs


def _target_filesystems(keys: KeySpace, fetch: Fetcher) -> dict[str, Any]:
    """Give the file system of each protocol that sources have."""
    found: dict[str, Any] = {}
    for served in keys.arrays.values():
        for source in served.array.manifest.sources:
            url = to_document_url(source.url)
            protocol = url.split("://", 1)[0]
            if protocol in found or source.url in fetch.files:
                continue
            fs = fetch.filesystem(url)
            if not fs.async_impl:
                fs = AsyncFileSystemWrapper(fs, asynchronous=False)
            found[protocol] = fs
    return found


def _escape(data: bytes) -> bytes:
    """Keep the file system from decoding bytes that happen to begin like its base64 values."""
    return b"base64:" + base64.b64encode(data) if data.startswith(b"base64:") else data
