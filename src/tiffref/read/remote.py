"""Sources behind fsspec: object stores, HTTP servers, archives, memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, unreadable
from ..io import http, s3
from ..io.allow import AllowList
from ..io.clients import client_errors
from ..io.file_locks import turn_at
from ..model.manifest import Source

if TYPE_CHECKING:
    import fsspec

__all__ = ["RemoteFiles"]


class RemoteFiles:
    """Sources by URL, read through the file system that fsspec has for them.

    File systems are found when first used and again after a fork, since a session of the parent
    process does not work in the child.
    """

    is_local = False

    def __init__(
        self,
        storage_options: Mapping[str, Any],
        filesystems: Mapping[str, tuple[fsspec.AbstractFileSystem, str]],
        allow: AllowList | None = None,
    ) -> None:
        self._storage_options = storage_options
        self._given = filesystems
        self._permits = None if allow is None else allow.permits
        self._found: dict[str, tuple[fsspec.AbstractFileSystem, str]] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    def read(self, url: str, offset: int, length: int, expected: Source | None = None) -> bytes:
        fs, path = self.resolve(url)
        try:
            if http.is_http(fs):
                return http.read_range(
                    fs, path, url, offset, length, expected=expected, permits=self._permits
                )
            if s3.is_s3(fs):
                return s3.read_range(fs, path, url, offset, length, expected=expected)
            with turn_at(fs):
                return fs.cat_file(path, start=offset, end=offset + length)
        except SourceError:
            raise
        except client_errors() as error:
            what = f"bytes {offset} to {offset + length} cannot be read"
            raise unreadable(url, error, what) from error

    def read_all(self, url: str, expected: Source | None = None) -> bytes:
        fs, path = self.resolve(url)
        try:
            if http.is_http(fs):
                return http.read_all(fs, path, url, expected=expected, permits=self._permits)
            if s3.is_s3(fs):
                return s3.read_range(fs, path, url, 0, None, expected=expected)
            with turn_at(fs):
                return fs.cat_file(path)
        except SourceError:
            raise
        except client_errors() as error:
            raise unreadable(url, error) from error

    def read_into(
        self, url: str, offset: int, buffer: memoryview, expected: Source | None = None
    ) -> int:
        data = self.read(url, offset, len(buffer), expected)
        if len(data) == len(buffer):
            buffer[:] = data
        return len(data)

    def identity(self, url: str, expected: Source | None = None) -> None:
        """Return nothing: it would take a request."""

    def checks_answers(self, url: str) -> bool:
        """Return whether each answer says which object it is of."""
        fs, _ = self.resolve(url)
        return http.is_http(fs) or s3.is_s3(fs)

    def state(self, url: str) -> Source:
        fs, path = self.resolve(url)
        if http.is_http(fs):
            return http.read_state(fs, path, url, self._permits)
        try:
            with turn_at(fs):
                info = fs.info(path)
        except client_errors():
            # some servers let a file be read but not asked about, as with signed URLs; where it
            # cannot be read either, the request that follows says so
            return Source(url)
        mtime = info.get("mtime") or info.get("LastModified")
        mtime = mtime.timestamp() if hasattr(mtime, "timestamp") else mtime
        etag = info.get("ETag") or info.get("etag")
        return Source(
            url,
            info.get("size"),
            mtime if isinstance(mtime, int | float) else None,
            etag.strip('"') if isinstance(etag, str) else None,
        )

    def resolve(self, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system of a source, and its path in there."""
        if url in self._given:
            return self._given[url]
        with self._lock:
            if self._process != os.getpid():
                self._found.clear()
                self._process = os.getpid()
            found = self._found.get(url)
        if found is None:
            import fsspec  # local files do not need it

            try:
                found = fsspec.url_to_fs(url, **self._storage_options)
            except client_errors() as error:
                raise unreadable(url, error) from error
            with self._lock:
                self._found[url] = found
        return found

    def close(self) -> None:
        """Keep the file systems: fsspec shares them with others."""
