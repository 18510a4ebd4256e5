"""Bytes in: the one place that opens files for scanning.

Owns how a scan reads bytes from local files, fsspec URLs and open file objects: by offset and
length, thread-safe, with a range cache where a read costs a request. It knows nothing of TIFF.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError
from ..model.manifest import Source

__all__ = ["ByteSource", "FileObjectSource", "LocalSource", "RemoteSource", "SourceFile", "open_source"]

_FIRST_READ_BYTES = 1 << 16
_MAX_AHEAD_BYTES = 1 << 20


class ByteSource:
    """Bytes of one file by offset.

    Attributes
    ----------
    source
        Address and state of the file when it was opened.
    """

    source: Source

    @property
    def size(self) -> int:
        """Bytes in the file."""
        assert self.source.size is not None
        return self.source.size

    def read(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer only at the end of the file."""
        raise NotImplementedError

    def fileno(self) -> int:
        """The descriptor of a local file."""
        raise io.UnsupportedOperation("fileno")

    def close(self) -> None:
        """Release what was opened."""


class LocalSource(ByteSource):
    """A local file, read by position through one descriptor."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.path.abspath(path)
        try:
            self._descriptor = os.open(name, os.O_RDONLY)
            state = os.fstat(self._descriptor)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(21, "Is a directory", name)
        except OSError as error:
            raise SourceError(
                "cannot be read", url=name, got=error.strerror, expected="a readable TIFF file"
            ) from error
        self.source = Source(name, state.st_size, state.st_mtime)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


class FileObjectSource(ByteSource):
    """An open binary file, read under a lock; its position is left where it was."""

    def __init__(self, file: BinaryIO, url: str | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        with self._lock:
            before = file.tell()
            size = file.seek(0, io.SEEK_END)
            file.seek(before)
        self.source = Source(url or f"object://{id(file):x}", size)

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            before = self._file.tell()
            self._file.seek(offset)
            data = self._file.read(length)
            self._file.seek(before)
        return data


class RemoteSource(ByteSource):
    """An fsspec URL, read through a sparse cache of ranges."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        import fsspec

        try:
            self._fs, self._path = fsspec.url_to_fs(url, **(storage_options or {}))
            info = self._fs.info(self._path)
        except (OSError, ValueError, ImportError) as error:
            raise SourceError("cannot be read", url=url, got=_reason(error)) from error
        if info.get("type") == "directory":
            raise SourceError("is a directory", url=url, expected="a TIFF file")
        etag = info.get("ETag") or info.get("etag")
        mtime = info.get("mtime") or info.get("LastModified")
        self.source = Source(
            url,
            info.get("size"),
            mtime.timestamp() if hasattr(mtime, "timestamp") else mtime,
            etag.strip('"') if isinstance(etag, str) else None,
        )
        self._ranges: dict[int, bytes] = {}
        self._ahead = _FIRST_READ_BYTES

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        for start, data in self._ranges.items():
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        end = min(self.size, offset + max(length, self._ahead))
        self._ahead = min(2 * self._ahead, _MAX_AHEAD_BYTES)
        data = self._fetch(offset, end)
        self._ranges[offset] = data
        return data[:length]

    def _fetch(self, start: int, end: int) -> bytes:
        try:
            data = self._fs.cat_file(self._path, start=start, end=end)
        except (OSError, ValueError) as error:
            raise SourceError(
                f"bytes {start} to {end} cannot be read", url=self.source.url, got=_reason(error)
            ) from error
        if len(data) != end - start:
            raise SourceError(
                f"the answer for bytes {start} to {end} has another length",
                url=self.source.url,
                got=f"{len(data)} bytes",
                expected=f"{end - start} bytes",
            )
        return data


class SourceFile(io.RawIOBase):
    """A `ByteSource` with a position, for readers that want a file."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0
        self.name = source.source.url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._source.fileno()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = start[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            size = self._source.size - self._position
        data = self._source.read(self._position, size)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def open_source(
    where: str | os.PathLike[str] | Any, storage_options: Mapping[str, Any] | None = None
) -> ByteSource:
    """Open a path, URL, fsspec OpenFile or binary file object for reading by offset.

    Raises
    ------
    SourceError
        If it cannot be opened, or is a directory.
    """
    if hasattr(where, "fs") and hasattr(where, "path"):
        # an fsspec OpenFile, or a file that fsspec opened: its address serves later readers too
        url = where.fs.unstrip_protocol(where.path)
        if url.startswith("file://"):
            return LocalSource(url[7:])
        return _adopt(where, url)
    if isinstance(where, str | os.PathLike):
        name = os.fspath(where)
        if "://" not in name and "::" not in name:
            return LocalSource(name)
        if name.startswith("file://"):
            return LocalSource(name[7:])
        return RemoteSource(name, storage_options)
    if hasattr(where, "read") and hasattr(where, "seek"):
        name = getattr(where, "name", None)
        if isinstance(name, str) and Path(name).is_file():
            return LocalSource(name)
        return FileObjectSource(where)
    raise SourceError(
        "is no source of bytes",
        got=type(where).__name__,
        expected="a path, URL, fsspec OpenFile or open binary file",
    )


def _adopt(file: Any, url: str) -> ByteSource:
    source = RemoteSource.__new__(RemoteSource)
    source._fs, source._path = file.fs, file.path
    info = file.fs.info(file.path)
    source.source = Source(url, info["size"])
    source._ranges, source._ahead = {}, _FIRST_READ_BYTES
    return source


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
