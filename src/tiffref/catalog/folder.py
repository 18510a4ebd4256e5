"""Where a catalog is written, on a disk.

Owns the folder of a catalog here: whose it is, who builds it now, and how things appear in it whole
or not at all. `remote` has the folders of other file systems. Names in a folder are relative to it,
with "/" between their parts.

References are not flushed to the disk one by one, which costs a millisecond each; the journal has
their size and checksum, which a resumed build compares, and all is flushed once before the index
takes its place: an index that is there after a loss of power speaks of references that are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from ..errors import CatalogError, SourceError, TiffrefError

__all__ = [
    "STATE",
    "Folder",
    "Held",
    "Holds",
    "LocalFolder",
    "checksum",
    "explain_output",
    "running_error",
    "who_am_i",
]

STATE = ".tiffref"
_POLL_S = 0.2
_PROCESS = secrets.token_hex(4)
"""Tells processes of one number on several machines apart."""

Holds = Callable[[str, int, int], bool]
"""Says whether something of a name, size and CRC-32 is in place."""


@dataclass(frozen=True, slots=True)
class Held:
    """A folder that is claimed for a build.

    `folder` is what workers get; `journal` a local file; `keep` is called with new lines of it
    before they count.
    """

    folder: Folder
    journal: Path
    keep: Callable[[bytes], None] | None = None


class Folder(Protocol):
    """What builders and workers need of the folder of a catalog. It travels to workers."""

    @property
    def address(self) -> str:
        """Path or URL, without "/" at its end."""

    def held(self, wait: bool) -> contextlib.AbstractContextManager[Held]:
        """Claim the folder for a build, made if it is not there.

        Raises
        ------
        CatalogError
            If it belongs to something else, cannot be written, or somebody else builds it, unless
            `wait` says to wait for that.
        """

    def read(self, name: str) -> bytes | None:
        """Give a small file, None if it is not there."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""

    def making(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Give a local path for a file or folder that is put in place when the block ends."""

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""

    def survey(self) -> Holds:
        """Look at what is in place."""

    def has(self, name: str) -> bool:
        """Say whether there is something of that name."""

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
    def held(self, wait: bool) -> Iterator[Held]:
        """Claim the folder; the lock is the operating system's, and ends with the process.

        The name of the scratch folder is new each time: workers that outlive a killed build cannot
        leave anything in a later one's.
        """
        path, state = Path(self.path), Path(self.path, STATE)
        with explain_output(self.path):
            if path.is_dir() and not state.is_dir() and any(path.iterdir()):
                raise CatalogError(
                    "the folder holds something that is no catalog",
                    url=self.path,
                    hint="Give an empty or new folder.",
                )
            state.mkdir(parents=True, exist_ok=True)
            lock = (state / "lock").open("a+b")
        with lock:
            self._lock(lock, wait)
            scratch = state / f"scratch-{secrets.token_hex(4)}"
            with explain_output(self.path):
                _sweep(state)
                scratch.mkdir()
            try:
                yield Held(replace(self, scratch=str(scratch)), state / "journal.jsonl")
            finally:
                _sweep(state)

    def _lock(self, lock: BinaryIO, wait: bool) -> None:
        while not _try_lock(lock):
            if not wait:
                lock.seek(0)
                raise running_error(self.path, lock.read().decode("utf-8", "replace"))
            time.sleep(_POLL_S)
        with explain_output(self.path):
            lock.truncate(0)
            lock.write(who_am_i().encode())
            lock.flush()

    def read(self, name: str) -> bytes | None:
        try:
            return Path(self._at(name)).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        target, temporary = self._at(name), self._temporary()
        with explain_output(target):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)
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

    def survey(self) -> Holds:
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


def who_am_i() -> str:
    """Name this process for others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def running_error(address: str, who: str) -> CatalogError:
    """Give the error of a catalog that somebody else builds."""
    return CatalogError(
        "another build of this catalog is running",
        url=address,
        got=who or None,
        hint="Wait for its end, or give wait=True (--wait).",
    )


def checksum(path: Path) -> tuple[int, int] | None:
    """Give size and CRC-32 of a file, or of all files of a folder; None if it is not there."""
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
    """Say of errors of the output what to do; what was written before stays valid.

    Parameters
    ----------
    address
        What is written.
    kinds
        Errors that its file system raises.
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
    """Give the error of a catalog that cannot be written."""
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
