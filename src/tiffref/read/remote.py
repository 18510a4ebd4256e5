"""Sources behind fsspec: object stores, HTTP servers, archives, memory."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import fsspec
import fsspec.asyn

from ..errors import SourceError
from ..model.manifest import Source

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
    ) -> None:
        self._storage_options = storage_options
        self._given = filesystems
        self._found: dict[str, tuple[fsspec.AbstractFileSystem, str]] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    def read(self, url: str, offset: int, length: int) -> bytes:
        fs, path = self.resolve(url)
        try:
            if hasattr(fs, "encode_url"):  # fsspec's file system for HTTP
                return fsspec.asyn.sync(fs.loop, _get_range, fs, path, url, offset, length)
            return fs.cat_file(path, start=offset, end=offset + length)
        except SourceError:
            raise
        except access_errors() as error:
            raise _unreadable(url, error, f"bytes {offset} to {offset + length}") from error

    def read_all(self, url: str) -> bytes:
        fs, path = self.resolve(url)
        try:
            return fs.cat_file(path)
        except access_errors() as error:
            raise _unreadable(url, error) from error

    def read_into(self, url: str, offset: int, buffer: memoryview) -> int:
        data = self.read(url, offset, len(buffer))
        if len(data) == len(buffer):
            buffer[:] = data
        return len(data)

    def state(self, url: str) -> Source:
        fs, path = self.resolve(url)
        try:
            info = fs.info(path)
        except access_errors():
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
        """Give the file system of a source, and its path in there."""
        if url in self._given:
            return self._given[url]
        with self._lock:
            if self._process != os.getpid():
                self._found.clear()
                self._process = os.getpid()
            found = self._found.get(url)
        if found is None:
            try:
                found = fsspec.url_to_fs(url, **self._storage_options)
            except (OSError, ValueError, ImportError) as error:
                raise _unreadable(url, error) from error
            with self._lock:
                self._found[url] = found
        return found

    def close(self) -> None:
        """Keep the file systems: fsspec shares them with others."""


async def _get_range(fs: Any, path: str, url: str, offset: int, length: int) -> bytes:
    """Ask an HTTP server for a range, and check that it answers with this range.

    fsspec hands on whatever comes: a server that knows no ranges would send the whole file each
    time, and other bytes of the right number would be shifted pixels (RFC 9110, sections 14 and
    15.3.7).
    """
    session = await fs.set_session()
    headers = {**fs.kwargs.get("headers", {}), "Range": f"bytes={offset}-{offset + length - 1}"}
    async with session.get(fs.encode_url(path), **{**fs.kwargs, "headers": headers}) as answer:
        if answer.status == 206:
            got = answer.headers.get("Content-Range", "")
            if got and not got.startswith(f"bytes {offset}-"):
                raise _wrong_answer(url, offset, length, f"Content-Range {got}", f"from {offset}")
            return await answer.read()
        if answer.status == 416:
            return b""  # the file ends before the range
        if answer.status == 200:
            got = f"all {answer.headers.get('Content-Length', '')} bytes".replace("  ", " ")
            raise _wrong_answer(url, offset, length, got, "a server that answers range requests")
        raise SourceError("cannot be read", url=url, got=f"HTTP status {answer.status}")


def _wrong_answer(url: str, offset: int, length: int, got: str, expected: str) -> SourceError:
    what = f"the answer for bytes {offset} to {offset + length} is another part of the file"
    return SourceError(what, url=url, got=got, expected=expected)


def access_errors() -> tuple[type[BaseException], ...]:
    """Give the classes of errors that file systems raise where a source cannot be read.

    `aiohttp.ClientError`, which fsspec lets through, is no OSError.
    """
    aiohttp = sys.modules.get("aiohttp")
    client_errors = (aiohttp.ClientError,) if aiohttp is not None else ()
    return (OSError, ValueError, *client_errors)


def _unreadable(url: str, error: BaseException, what: str = "") -> SourceError:
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return SourceError(f"{what} cannot be read".strip(), url=url, got=reason)
