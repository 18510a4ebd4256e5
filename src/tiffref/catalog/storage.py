"""Storage of a catalog: a local folder, or any writable fsspec file system.

Provides atomic writes, the lock of a build, and the journal of finished files. Names in a folder
are relative to it, with "/" as separator.

In a local folder, references are not flushed to disk one by one, which costs a millisecond each.
Instead the journal has their size and checksum, which a resumed build compares, and everything is
flushed once before the index is replaced. After a power loss, an index that exists therefore refers
only to references that exist.

Object stores have neither renaming nor locks. Each file is one put, which is atomic; of a folder,
the file that opens it is put last. The journal consists of one object per batch, so that a build
can continue on another machine. Two concurrent builds write the same bytes under the same names,
and journal parts under different names: they waste time, but lose no data.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CatalogError, SourceError, TiffrefError, safe_cause
from ..io.atomic import put_files, put_folder
from ..io.clients import client_errors, typed_errors, url_to_fs

STATE = ".tiffref"
_JOURNAL = f"{STATE}/journal"
_POLL_S = 0.2
_PROCESS = secrets.token_hex(4)
"""Distinguishes processes with the same id on different machines."""

IsComplete = Callable[[str, int, int], bool]
"""Returns whether a document with this name, size and CRC-32 exists."""


class Journal:
    """A JSON Lines file of results; the last line of a file counts.

    A file without a line is scanned again, even if its references exist. Only the offsets of lines
    are in memory.

    Parameters
    ----------
    path
        A local file, created if needed.
    mirror
        Called with new lines before they are appended, to store them elsewhere too.
    """

    def __init__(self, path: Path, mirror: Callable[[bytes], None] | None = None) -> None:
        self._path = path
        self._mirror = mirror
        self._offsets: dict[str, int] = {}
        with output_errors(path):
            self._file = path.open("a+b")
            self._load()

    def _load(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            try:
                key = json.loads(line)["url"] if line.endswith(b"\n") else None
            except (ValueError, KeyError, TypeError):
                key = None
            if key is None:
                break  # a partial line: nothing after it was flushed
            self._offsets[key] = end
            end += len(line)
        self._file.truncate(end)

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __getitem__(self, url: str) -> dict[str, Any]:
        self._file.seek(self._offsets[url])
        return json.loads(self._file.readline())

    def get(self, url: str) -> dict[str, Any] | None:
        """Return the row of a file; None if there is none."""
        return self[url] if url in self._offsets else None

    def rows(self, order: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Iterate over the rows of these files."""
        return (self[url] for url in order)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows and flush them to disk."""
        lines = [json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows]
        data = b"".join(lines)
        if self._mirror is not None:
            self._mirror(data)
        with output_errors(self._path):
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        for row, line in zip(rows, lines, strict=True):
            self._offsets[row["url"]] = offset
            offset += len(line)

    def close(self) -> None:
        """Close the file; `append` has already raised any error of writing."""
        with contextlib.suppress(OSError):
            self._file.close()


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder on a local or shared disk; can be pickled.

    `address` is its path, without a trailing "/". `scratch` is for incomplete files, on the same
    disk; each build has its own.
    """

    address: str
    scratch: str = ""

    def _at(self, name: str) -> str:
        return f"{self.address}/{name}"

    def _temporary(self) -> str:
        return f"{self.scratch}/{_PROCESS}-{os.getpid()}-{threading.get_ident()}"

    @contextlib.contextmanager
    def claim(self, wait: bool) -> Iterator[tuple[Folder, Journal]]:
        """Lock the folder for a build with a file lock, which the system releases on exit.

        The folder is created if needed. Each build has a new scratch folder, so that workers that
        outlive a killed build cannot write into that of a later build.

        Returns
        -------
        The folder to pass to workers, and its journal.

        Raises
        ------
        CatalogError
            If it contains something else or cannot be written, or, unless `wait`, if another build
            is running.
        """
        path, state = Path(self.address), Path(self.address, STATE)
        with output_errors(self.address):
            if path.is_dir() and not state.is_dir() and any(path.iterdir()):
                raise _not_a_catalog(self.address)
            state.mkdir(parents=True, exist_ok=True)
            lock = (state / "lock").open("a+b", 0)
        with lock:
            self._lock(lock, wait)
            scratch = state / f"scratch-{secrets.token_hex(4)}"
            with output_errors(self.address):
                _remove_scratch(state)
                scratch.mkdir()
            try:
                with contextlib.closing(Journal(state / "journal.jsonl")) as journal:
                    yield replace(self, scratch=str(scratch)), journal
            finally:
                _remove_scratch(state)

    def _lock(self, lock: BinaryIO, wait: bool) -> None:
        while not _try_lock(lock):
            if not wait:
                lock.seek(0)
                raise CatalogError(
                    "another build of this catalog is running", url=self.address,
                    got=lock.read().decode("utf-8", "replace") or None,
                    hint="Wait until it ends, or use wait_for_lock=True (--wait).",
                )  # fmt: skip
            time.sleep(_POLL_S)
        with output_errors(self.address):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())

    def read(self, name: str) -> bytes | None:
        """Return a small file; None if it does not exist."""
        try:
            return Path(self._at(name)).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        target, temporary = self._at(name), self._temporary()
        with output_errors(target):
            Path(temporary).write_bytes(data)
            _move(temporary, target)

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Return a local path whose file or folder is moved to `name` at the end of the block."""
        # keep the file name: writers may depend on its extension
        temporary = Path(f"{self._temporary()}-{secrets.token_hex(4)}", Path(name).name)
        with output_errors(self._at(name)):
            temporary.parent.mkdir()
            yield temporary
            self.remove(name)
            # if killed between these two lines, the next build finds nothing and writes it again
            _move(str(temporary), self._at(name))
            temporary.parent.rmdir()

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it exists."""
        target = Path(self._at(name))
        with output_errors(target):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def completeness_check(self) -> IsComplete:
        """Return a function that checks whether a document is complete."""
        return lambda name, size, crc: checksum(Path(self._at(name))) == (size, crc)

    def exists(self, name: str) -> bool:
        """Return whether a file or folder exists."""
        return os.path.lexists(self._at(name))

    def flush(self) -> None:
        """Flush everything written to disk."""
        if hasattr(os, "sync"):  # not on Windows
            os.sync()


def _remove_scratch(state: Path) -> None:
    for folder in state.glob("scratch-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _move(temporary: str, target: str) -> None:
    try:
        os.replace(temporary, target)  # noqa: PTH105 - pathlib is slower, and there are many files
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        os.replace(temporary, target)  # noqa: PTH105


def _try_lock(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _not_a_catalog(address: str, name: str | None = None) -> CatalogError:
    what, hint = "the folder contains files but no catalog", "Use an empty or new folder."
    return CatalogError(what, url=address, got=name, hint=hint)


def checksum(path: Path) -> tuple[int, int] | None:
    """Return size and CRC-32 of a file, or of all files in a folder; None if it does not exist."""
    try:
        if not path.is_dir():
            data = path.read_bytes()
            return len(data), zlib.crc32(data)
        size = total = 0
        for file in sorted(path.rglob("*")):
            if file.is_file():
                data = file.read_bytes()
                size += len(data)
                total = zlib.crc32(data, zlib.crc32(str(file.relative_to(path)).encode(), total))
        return size, total
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def output_errors(
    address: str | os.PathLike[str], kinds: tuple[type[BaseException], ...] = (OSError,)
) -> Iterator[None]:
    """Convert errors of writing, of the classes that the file system raises, to CatalogError."""
    try:
        yield
    except TiffrefError as error:
        # writers of references raise a SourceError from the error of the file system
        cause = error.__cause__ if isinstance(error, SourceError) else None
        if isinstance(error, CatalogError) or not isinstance(cause, kinds):
            raise
        raise _output_error(os.fspath(address), cause) from safe_cause(error)
    except kinds as error:
        raise _output_error(os.fspath(address), error) from safe_cause(error)


_NO_ACCESS = "Use a folder with write permission."
_FILE_IN_THE_WAY = "A file is in the way; use another folder."
_HINTS = {
    errno.ENOSPC: "Free some disk space and run the build again: it continues where it stopped.",
    errno.EDQUOT: "Your disk quota is used up; free some space and run the build again.",
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.EROFS: _NO_ACCESS,
    errno.ENOTDIR: _FILE_IN_THE_WAY,
    errno.EEXIST: _FILE_IN_THE_WAY,
    errno.ENOENT: "Create the bucket, or the parent folder, first.",
}
_ERRNO_OF = {PermissionError: errno.EACCES, FileNotFoundError: errno.ENOENT}


def _output_error(address: str, error: BaseException) -> CatalogError:
    # clients of object stores raise the class without an errno
    number = getattr(error, "errno", None) or next(
        (number for kind, number in _ERRNO_OF.items() if isinstance(error, kind)), 0
    )
    return CatalogError(
        "the catalog cannot be written",
        url=address,
        got=getattr(error, "strerror", None) or str(error) or type(error).__name__,
        hint=_HINTS.get(number, "Fix this, then run the build again."),
    )


_MAX_PARTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder at an fsspec URL, with the methods of `LocalFolder`.

    `options` are those of its file system.
    """

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def _at(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """Return the file system, which fsspec caches, and a path; convert errors of the block."""
        with typed_errors(self.address, "cannot be opened"):
            fs, root = url_to_fs(self.address, self.options)
        with output_errors(f"{self.address}/{name}".rstrip("/"), client_errors()):
            yield fs, f"{root.rstrip('/')}/{name}".rstrip("/")

    @contextlib.contextmanager
    def claim(self, wait: bool) -> Iterator[tuple[Folder, Journal]]:
        with self._at() as (fs, root):
            fs.invalidate_cache()
            names = _list(fs, root)
            if names and f"{root}/{STATE}" not in names:
                raise _not_a_catalog(self.address, names[0])
        token = secrets.token_hex(4)  # in names that no other build uses

        def append(part: bytes | Path) -> None:
            n = int(parts[-1].rpartition("/")[2][:8]) + 1 if parts else 0
            with self._at(f"{_JOURNAL}/{n:08d}-{token}.jsonl") as (fs, path):
                parts.append(path)
                put_files(fs, {path: part})

        with tempfile.TemporaryDirectory(prefix="tiffref-") as temporary:
            local = Path(temporary, "journal.jsonl")
            with self._at(_JOURNAL) as (fs, folder):
                parts = sorted(_list(fs, folder))
                _download_parts(fs, parts, local)
            with contextlib.closing(Journal(local, append)) as journal:
                yield self, journal
            if len(old := list(parts)) > 1:
                append(local)  # all in one, before the others are removed, in case of a kill
                with self._at(_JOURNAL) as (fs, folder):
                    fs.invalidate_cache()
                    # another build may already have removed some
                    if still := set(old) & set(_list(fs, folder)):
                        fs.rm(sorted(still))

    def read(self, name: str) -> bytes | None:
        with self._at(name) as (fs, path), contextlib.suppress(FileNotFoundError):
            return fs.cat_file(path)
        return None

    def put(self, name: str, data: bytes) -> None:
        with self._at(name) as (fs, path):
            put_files(fs, {path: data})

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Return a local path, which is uploaded at the end of the block."""
        with tempfile.TemporaryDirectory(prefix="tiffref-") as folder:
            made = Path(folder, Path(name).name)
            with output_errors(folder):
                yield made
            with self._at(name) as (fs, target):
                if made.is_dir():
                    put_folder(fs, made, target)
                else:
                    put_files(fs, {target: made})

    def remove(self, name: str) -> None:
        with self._at(name) as (fs, path), contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=name.endswith(".parq"))

    def completeness_check(self) -> IsComplete:
        """List the folder once, and compare sizes only: contents are not read."""
        sizes: Counter[str] = Counter()
        with self._at() as (fs, root):
            fs.invalidate_cache()
            for folder in ("references", "combined"):
                for path, info in fs.find(f"{root}/{folder}", detail=True).items():
                    name = path[len(root) + 1 :]
                    stem, suffix, _ = name.rpartition(".parq/")
                    key = name if name.endswith(".json") else f"{stem}{suffix[:-1]}"
                    sizes[key] += info["size"]
        return lambda name, size, crc: name in sizes and sizes[name] == size

    def exists(self, name: str) -> bool:
        with self._at(name) as (fs, path):
            fs.invalidate_cache()
            return fs.exists(path)

    def flush(self) -> None:
        """Do nothing: an object is durable once put."""


Folder = LocalFolder | RemoteFolder


def _list(fs: Any, path: str) -> list[str]:
    try:
        names = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    return [name.rstrip("/") for name in names if name.rstrip("/") != path]


def _download_parts(fs: Any, parts: list[str], target: Path) -> None:
    with target.open("wb") as file:
        for start in range(0, len(parts), _MAX_PARTS_AT_ONCE):
            some = parts[start : start + _MAX_PARTS_AT_ONCE]
            # files of a part that another build has just compacted are scanned again
            data = fs.cat(some, on_error="omit")
            file.writelines(data[part] for part in some if part in data)
