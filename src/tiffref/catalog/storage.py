"""Where a catalog is written: a folder on a disk, or on any file system of fsspec that can write.

Owns how things appear in the folder of a catalog whole or not at all, whose it is, and the journal
of finished files. Names in a folder are relative to it, with "/" between their parts.

On a disk, references are not flushed one by one, which costs a millisecond each; the journal has
their size and checksum, which a resumed build compares, and all is flushed once before the index
takes its place: an index that is there after a loss of power speaks of references that are.

Object stores have neither renaming nor locks. Each file is one put, which they do whole or not at
all; a folder of several is put with the file that opens it last. The journal is a row of objects,
one for each batch, so that a build goes on from any machine. Two builds at once write the same
bytes under the same names, and parts of the journal under names of their own: they lose time, but
no data.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..errors import CatalogError, SourceError, TiffrefError, unreadable
from ..io.clients import client_errors

STATE = ".tiffref"
_JOURNAL = f"{STATE}/journal"
_POLL_S = 0.2
_PROCESS = secrets.token_hex(4)
"""Tells processes of one number on several machines apart."""

IsComplete = Callable[[str, int, int], bool]
"""Says whether something of a name, size and CRC-32 is in place."""


class Journal:
    """Lines of JSON, each the latest that is known of one file.

    A file that is not in it is scanned again, whatever else lies about. Only the places of lines
    are kept in memory.

    Parameters
    ----------
    path
        A local file, made if it is not there.
    keep
        Called with new lines before they count, to keep them elsewhere too.
    """

    def __init__(self, path: Path, keep: Callable[[bytes], None] | None = None) -> None:
        self._path = path
        self._keep = keep
        self._at: dict[str, int] = {}
        with explain_output(path):
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
                break  # what follows a torn line was never promised
            self._at[key] = end
            end += len(line)
        self._file.truncate(end)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __getitem__(self, url: str) -> dict[str, Any]:
        self._file.seek(self._at[url])
        return json.loads(self._file.readline())

    def get(self, url: str) -> dict[str, Any] | None:
        """Return the row of a file, None if there is none."""
        return self[url] if url in self._at else None

    def rows(self, order: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Return the rows of files, one after the other."""
        return (self[url] for url in order)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, through the disk."""
        lines = [json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows]
        data = b"".join(lines)
        if self._keep is not None:
            self._keep(data)
        with explain_output(self._path):
            at = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        for row, line in zip(rows, lines, strict=True):
            self._at[row["url"]] = at
            at += len(line)

    def close(self) -> None:
        """Close the file; of what could not be written, `append` has told."""
        with contextlib.suppress(OSError):
            self._file.close()


class Folder(Protocol):
    """What builders and workers need of the folder of a catalog. It travels to workers."""

    @property
    def address(self) -> str:
        """Path or URL, without "/" at its end."""

    def claim(self, wait: bool) -> contextlib.AbstractContextManager[tuple[Folder, Journal]]:
        """Claim the folder for a build, made if it is not there.

        Returns
        -------
        The folder as workers get it, and its journal.

        Raises
        ------
        CatalogError
            If it belongs to something else, cannot be written, or somebody else builds it, unless
            `wait` says to wait for that.
        """

    def read(self, name: str) -> bytes | None:
        """Return a small file, None if it is not there."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""

    def making(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Return a local path for a file or folder that is put in place when the block ends."""

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""

    def survey(self) -> IsComplete:
        """Look at what is in place."""

    def has(self, name: str) -> bool:
        """Return whether there is something of that name."""

    def flush(self) -> None:
        """Bring to the disk whatever was written."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder on a disk of this machine, or one that it shares.

    `scratch` takes files that are not complete, on the same disk; a build has one of its own.
    """

    path: str
    scratch: str = ""

    @property
    def address(self) -> str:
        return self.path

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _temporary(self) -> str:
        return f"{self.scratch}/{_PROCESS}-{os.getpid()}-{threading.get_ident()}"

    @contextlib.contextmanager
    def claim(self, wait: bool) -> Iterator[tuple[Folder, Journal]]:
        """Claim the folder; the lock is the operating system's, and ends with the process.

        The name of the scratch folder is new each time: workers that outlive a killed build cannot
        leave anything in a later one's.
        """
        path, state = Path(self.path), Path(self.path, STATE)
        with explain_output(self.path):
            if path.is_dir() and not state.is_dir() and any(path.iterdir()):
                raise CatalogError(
                    "the folder holds files but no catalog",
                    url=self.path,
                    hint="Give an empty or new folder.",
                )
            state.mkdir(parents=True, exist_ok=True)
            lock = (state / "lock").open("a+b", 0)
        with lock:
            self._lock(lock, wait)
            scratch = state / f"scratch-{secrets.token_hex(4)}"
            with explain_output(self.path):
                _sweep(state)
                scratch.mkdir()
            try:
                with contextlib.closing(Journal(state / "journal.jsonl")) as journal:
                    yield replace(self, scratch=str(scratch)), journal
            finally:
                _sweep(state)

    def _lock(self, lock: BinaryIO, wait: bool) -> None:
        while not _try_lock(lock):
            if not wait:
                lock.seek(0)
                raise CatalogError(
                    "another build of this catalog is running", url=self.path,
                    got=lock.read().decode("utf-8", "replace") or None,
                    hint="Wait for its end, or give wait_for_lock=True (--wait).",
                )  # fmt: skip
            time.sleep(_POLL_S)
        with explain_output(self.path):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())

    def read(self, name: str) -> bytes | None:
        try:
            return Path(self._at(name)).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        target, temporary = self._at(name), self._temporary()
        with explain_output(target):
            Path(temporary).write_bytes(data)
            _move(temporary, target)

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        # the last part of the name stays: what is made may look at its ending
        temporary = Path(f"{self._temporary()}-{secrets.token_hex(4)}", Path(name).name)
        with explain_output(self._at(name)):
            temporary.parent.mkdir()
            yield temporary
            self.remove(name)
            # killed between these two lines, the build finds no checksum and makes it again
            _move(str(temporary), self._at(name))
            temporary.parent.rmdir()

    def remove(self, name: str) -> None:
        target = Path(self._at(name))
        with explain_output(target):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def survey(self) -> IsComplete:
        return lambda name, size, crc: checksum(Path(self._at(name))) == (size, crc)

    def has(self, name: str) -> bool:
        return os.path.lexists(self._at(name))

    def flush(self) -> None:
        if hasattr(os, "sync"):  # not on Windows
            os.sync()


def _sweep(state: Path) -> None:
    for folder in state.glob("scratch-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _move(temporary: str, target: str) -> None:
    try:
        os.replace(temporary, target)  # noqa: PTH105 - for each of many files
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        os.replace(temporary, target)  # noqa: PTH105


def _try_lock(file: BinaryIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def checksum(path: Path) -> tuple[int, int] | None:
    """Return size and CRC-32 of a file, or of all files of a folder; None if it is not there."""
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
def explain_output(
    address: str | os.PathLike[str], kinds: tuple[type[BaseException], ...] = (OSError,)
) -> Iterator[None]:
    """Explain errors of the output, of the kinds that its file system raises.

    What was written before stays valid.
    """
    try:
        yield
    except TiffrefError as error:
        # what writes references says that they cannot be written, and raises it from the reason
        is_plain = isinstance(error, CatalogError) or not isinstance(error, SourceError)
        if is_plain or not isinstance(error.__cause__, kinds):
            raise
        raise _output_error(os.fspath(address), error.__cause__) from error
    except kinds as error:
        raise _output_error(os.fspath(address), error) from error


_NO_ACCESS = "Give a folder that you may write to."
_IN_THE_WAY = "A file is in the way; give another folder."
_HINTS = {
    errno.ENOSPC: "Make room on the disk and start the build again: it goes on where it stopped.",
    errno.EDQUOT: "Your quota is used up; make room and start the build again.",
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.EROFS: _NO_ACCESS,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOENT: "Make the bucket, or the folder above, first.",
}
_NUMBERS = {PermissionError: errno.EACCES, FileNotFoundError: errno.ENOENT}


def _output_error(address: str, error: BaseException) -> CatalogError:
    """Return the error of a catalog that cannot be written."""
    # clients of object stores raise the class without the number
    number = getattr(error, "errno", None) or next(
        (number for kind, number in _NUMBERS.items() if isinstance(error, kind)), 0
    )
    return CatalogError(
        "the catalog cannot be written",
        url=address,
        got=getattr(error, "strerror", None) or str(error) or type(error).__name__,
        hint=_HINTS.get(number, "Start the build again when this is mended."),
    )


_MAX_PARTS_AT_ONCE = 256
_FLAT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})
"""File systems whose folders are but names: to make one would make a bucket."""


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder behind an fsspec URL; `options` are for its file system."""

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def _at(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """Return the file system, which fsspec keeps, and a path in it; explain its errors."""
        import fsspec

        try:
            fs, root = fsspec.url_to_fs(self.address, **self.options)
        except client_errors() as error:
            raise unreadable(self.address, error, "cannot be opened") from error
        with explain_output(f"{self.address}/{name}".rstrip("/"), client_errors()):
            yield fs, f"{root.rstrip('/')}/{name}".rstrip("/")

    @contextlib.contextmanager
    def claim(self, wait: bool) -> Iterator[tuple[Folder, Journal]]:
        with self._at() as (fs, root):
            fs.invalidate_cache()
            names = _list(fs, root)
            if names and f"{root}/{STATE}" not in names:
                raise CatalogError(
                    "the folder holds files but no catalog",
                    url=self.address,
                    got=names[0],
                    hint="Give an empty or new folder.",
                )
        with tempfile.TemporaryDirectory(prefix="tiffref-") as temporary:
            local = Path(temporary, "journal.jsonl")
            with self._at(_JOURNAL) as (fs, folder):
                parts = _JournalParts(self, sorted(_list(fs, folder)), secrets.token_hex(4))
                _gather(fs, parts.names, local)
            with contextlib.closing(Journal(local, parts.keep)) as journal:
                yield self, journal
            parts.join(local)

    def read(self, name: str) -> bytes | None:
        with self._at(name) as (fs, path), contextlib.suppress(FileNotFoundError):
            return fs.cat_file(path)
        return None

    def put(self, name: str, data: bytes) -> None:
        with self._at(name) as (fs, path):
            _put(fs, {path: data})

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """Return a local path; of a folder, the files at its top are put last."""
        with tempfile.TemporaryDirectory(prefix="tiffref-") as folder:
            made = Path(folder, Path(name).name)
            with explain_output(folder):
                yield made
            with self._at(name) as (fs, target):
                if not made.is_dir():
                    _put(fs, {target: made})
                    return
                before = set(fs.find(target))
                files = {f"{target}/{file.relative_to(made).as_posix()}": file
                         for file in sorted(made.rglob("*")) if file.is_file()}  # fmt: skip
                for is_last in (False, True):
                    some = {at: f for at, f in files.items() if is_last == (f.parent == made)}
                    _put(fs, some)
                if old := before - set(files):
                    fs.rm(sorted(old))

    def remove(self, name: str) -> None:
        with self._at(name) as (fs, path), contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=name.endswith(".parq"))

    def survey(self) -> IsComplete:
        """List what is in place once; sizes tell whether it is whole, contents are not read."""
        sizes: Counter[str] = Counter()
        with self._at() as (fs, root):
            fs.invalidate_cache()
            for folder in ("references", "combined"):
                for path, info in fs.find(f"{root}/{folder}", detail=True).items():
                    name = path[len(root) + 1 :]
                    whole, parquet, _ = name.rpartition(".parq/")
                    key = name if name.endswith(".json") else f"{whole}{parquet[:-1]}"
                    sizes[key] += info["size"]
        return lambda name, size, crc: name in sizes and sizes[name] == size

    def has(self, name: str) -> bool:
        with self._at(name) as (fs, path):
            fs.invalidate_cache()
            return fs.exists(path)

    def flush(self) -> None:
        """Do nothing: what a store has taken, it keeps."""


@dataclass(frozen=True, slots=True)
class _JournalParts:
    """The objects of a journal, in order; those of one build have its token in their names."""

    folder: RemoteFolder
    names: list[str]
    token: str

    def keep(self, data: bytes | Path) -> None:
        """Put one part more, which no other build names so."""
        n = int(self.names[-1].rpartition("/")[2][:8]) + 1 if self.names else 0
        with self.folder._at(f"{_JOURNAL}/{n:08d}-{self.token}.jsonl") as (fs, path):
            self.names.append(path)
            _put(fs, {path: data})

    def join(self, journal: Path) -> None:
        """Make one part of all: the last counts, so that a kill in between loses nothing."""
        old = list(self.names)
        if len(old) > 1:
            self.keep(journal)
            with self.folder._at(_JOURNAL) as (fs, path):
                fs.invalidate_cache()
                # another build may have joined some of them already
                if still := set(old) & set(_list(fs, path)):
                    fs.rm(sorted(still))


def _list(fs: Any, path: str) -> list[str]:
    try:
        names = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    return [name.rstrip("/") for name in names if name.rstrip("/") != path]


def _gather(fs: Any, parts: list[str], target: Path) -> None:
    """Put the parts of a journal together, some at a time."""
    with target.open("wb") as file:
        for start in range(0, len(parts), _MAX_PARTS_AT_ONCE):
            some = parts[start : start + _MAX_PARTS_AT_ONCE]
            # a part that another build has just joined is gone: its files are scanned again
            texts = fs.cat(some, on_error="omit")
            file.writelines(texts[part] for part in some if part in texts)


def _put(fs: Any, files: Mapping[str, bytes | Path]) -> None:
    """Put files, each in one go."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not protocols & _FLAT:
        for folder in {path.rpartition("/")[0] for path in files}:
            fs.makedirs(folder, exist_ok=True)
    whole = {path: data for path, data in files.items() if isinstance(data, bytes)}
    if whole:
        fs.pipe(whole)
    if len(whole) < len(files):
        paths = [path for path in files if path not in whole]
        fs.put([str(files[path]) for path in paths], paths)
