"""Bytes in: the one place that opens files for scanning.

Owns how a scan reads bytes from local files and open file objects, by offset and length, and the
choice of the right kind of source (`remote` has those of fsspec). It knows nothing of TIFF.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError, with_errno
from ..model.manifest import NAMELESS, Source
from .address import missing_file, not_a_file
from .allow import is_local
from .bytesource import ByteSource
from .file_locks import lock_of
from .local import local_path, read_at
from .remote import RemoteSource, open_remote

__all__ = ["FileObjectSource", "LocalSource", "SourceFile", "open_source"]


class LocalSource(ByteSource):
    """A local file, read by position through one descriptor."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.path.abspath(path)  # noqa: PTH100 - links stay as the user gave them
        try:
            # without O_NONBLOCK, a pipe would keep us waiting for its writer
            flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(name, os.O_RDONLY | flags)
            state = os.fstat(self._descriptor)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(errno.EISDIR, "Is a directory", name)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "Is no regular file", name)
        except FileNotFoundError as error:
            raise missing_file(os.fspath(path)) from error
        except IsADirectoryError as error:
            raise not_a_file(os.fspath(path)) from error
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            reason = getattr(error, "strerror", None) or str(error)
            raise with_errno(SourceError(f"cannot be read: {reason}", url=name), error) from error
        self.source = Source(name, state.st_size, state.st_mtime)

    def read(self, offset: int, length: int) -> bytes:
        return read_at(self._descriptor, length, offset)

    def fileno(self) -> int:
        return self._descriptor

    @functools.cached_property
    def _map(self) -> mmap.mmap:
        return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def look(self) -> Any:
        return self._map if self.size else None

    def close(self) -> None:
        if "_map" in self.__dict__:
            with contextlib.suppress(BufferError):  # it ends with the last array that looks at it
                self._map.close()
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
        self._lock = lock_of(file)
        with self._lock:
            before = file.tell()
            size = file.seek(0, io.SEEK_END)
            file.seek(before)
        self.source = Source(url or f"{NAMELESS}{id(file):x}", size)

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            before = self._file.tell()
            self._file.seek(offset)
            data = self._file.read(length)
            self._file.seek(before)
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
        view = memoryview(buffer).cast("B")  # tifffile reads into arrays of any type
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def open_source(
    where: str | os.PathLike[str] | Any, storage_options: Mapping[str, Any] | None = None
) -> ByteSource:
    """Open a path, URL, fsspec OpenFile or binary file object for reading by offset.

    What is open for that already is given back.

    Raises
    ------
    SourceError
        If it cannot be opened, or is a directory.
    """
    if isinstance(where, ByteSource):
        return where
    if hasattr(where, "fs") and hasattr(where, "path"):
        # an fsspec OpenFile, or a file that fsspec opened: its address serves later readers too
        url = where.fs.unstrip_protocol(where.path)
        if url.startswith("file://"):
            return LocalSource(local_path(url))
        return RemoteSource(where.fs, where.path, url)
    if isinstance(where, str | os.PathLike):
        name = os.fspath(where)
        if is_local(name) or Path(name).is_file():  # a file may be called "a::b.tif"
            return LocalSource(local_path(name))
        return open_remote(name, storage_options)
    if hasattr(where, "read") and hasattr(where, "seek"):
        name = getattr(where, "name", None)
        if isinstance(name, str) and Path(name).is_file():
            return LocalSource(name)
        return FileObjectSource(where)
    raise SourceError(
        f"cannot open a {type(where).__name__}",
        expected="a path, URL, fsspec OpenFile or open binary file",
        hint="Many files become one array with `tiffref.scan_sequence`."
        if isinstance(where, list | tuple)
        else None,
    )
