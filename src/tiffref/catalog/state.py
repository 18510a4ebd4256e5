"""What a build keeps on disk, so that it can be killed at any moment.

Owns the folder of a catalog: whose it is, who builds it now, and the journal of finished files. The
journal is the truth: a file that is not in it is scanned again, whatever else lies about. One
process writes it, a line for each file, flushed to the disk batch by batch. References are not
flushed one by one, which costs milliseconds each; their lines have size and checksum instead, which
a resumed build compares.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CatalogError, TiffrefError

__all__ = ["INDEX", "CatalogFolder", "Journal", "checksum"]

INDEX = "catalog.parquet"
_STATE = ".tiffref"
_VERSION = 1
_POLL_S = 0.2


class CatalogFolder:
    """The folder of a catalog, made if it is not there.

    Raises
    ------
    CatalogError
        If the folder belongs to something else or cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as the user gave them
        self.state = self.path / _STATE
        self.journal = self.state / "journal.jsonl"
        self._plan = self.state / "plan.json"
        with explain_output(self.path):
            if self.path.is_dir() and not self.state.is_dir() and any(self.path.iterdir()):
                raise CatalogError(
                    "the folder holds something that is no catalog",
                    url=str(self.path),
                    hint="Give an empty or new folder.",
                )
            self.state.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Keep others from building this catalog.

        The lock is the operating system's: it ends with the process, however that ends.

        Raises
        ------
        CatalogError
            If somebody else builds it, unless `wait` says to wait for that.
        """
        with explain_output(self.path):
            file = (self.state / "lock").open("a+b")
        with file:
            while not _try_lock(file):
                if not wait:
                    file.seek(0)
                    raise CatalogError(
                        "another build of this catalog is running",
                        url=str(self.path),
                        got=file.read().decode("utf-8", "replace") or None,
                        hint="Wait for its end, or give wait=True (--wait).",
                    )
                time.sleep(_POLL_S)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.flush()
            yield

    def agree(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Record how the catalog is built, or check that it is built the same way as before.

        Returns
        -------
        The recorded plan.

        Raises
        ------
        CatalogError
            If it was built otherwise.
        """
        wanted: dict[str, Any] = json.loads(json.dumps({"version": _VERSION, **plan}))
        if not self._plan.exists():
            self.write(self._plan, json.dumps(wanted, indent=1).encode())
            return wanted
        try:
            known = json.loads(self._plan.read_text("utf-8"))
        except ValueError as error:
            raise CatalogError(
                "the catalog's plan cannot be read", url=str(self._plan), got=str(error),
                hint="Build into a new folder.",
            ) from error  # fmt: skip
        for name, value in wanted.items():
            if name != "root" and known.get(name) != value:
                raise CatalogError(
                    f"the catalog was built with another {name}",
                    url=str(self.path),
                    got=value,
                    expected=known.get(name),
                    hint="Build into a new folder, or with the options it was built with.",
                )
        return known

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder for files that are not complete.

        Its name is new each time: workers that outlive a killed build cannot leave anything in a
        later one's.
        """
        with explain_output(self.path):
            self._sweep()
            folder = self.state / f"scratch-{secrets.token_hex(4)}"
            folder.mkdir()
        try:
            yield folder
        finally:
            self._sweep()

    def _sweep(self) -> None:
        for folder in self.state.glob("scratch-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, target: Path, data: bytes) -> None:
        """Write a small file whole or not at all, through the disk."""
        with explain_output(target):
            folder = self.state / f"scratch-{secrets.token_hex(4)}"
            folder.mkdir()
            temporary = folder / target.name
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
            folder.rmdir()


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


class Journal:
    """Lines of JSON, each the latest that is known of one file.

    Only where each line lies is kept in memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: dict[str, int] = {}
        self.n_lines = 0
        with explain_output(path):
            self._file = path.open("a+b")
            self._load()

    def _load(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                key = json.loads(line)["url"]
            except (ValueError, KeyError, TypeError):
                break  # what follows a torn line was never promised
            self._at[key] = end
            self.n_lines += 1
            end += len(line)
        self._file.truncate(end)

    def __contains__(self, url: str) -> bool:
        return url in self._at

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __getitem__(self, url: str) -> dict[str, Any]:
        self._file.seek(self._at[url])
        return json.loads(self._file.readline())

    def get(self, url: str) -> dict[str, Any] | None:
        """Give the line of a file, None if there is none."""
        return self[url] if url in self._at else None

    def append(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Add lines, through the disk.

        Parameters
        ----------
        rows
            URL, and the line with its end.
        """
        rows = list(rows)
        with explain_output(self._path):
            at = self._file.seek(0, os.SEEK_END)
            self._file.write(b"".join(line for _, line in rows))
            self._file.flush()
            os.fsync(self._file.fileno())
        for url, line in rows:
            self._at[url] = at
            at += len(line)
        self.n_lines += len(rows)

    def close(self) -> None:
        """Release the file."""
        self._file.close()


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
def explain_output(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of errors of the output what to do; what was written before stays valid."""
    try:
        yield
    except TiffrefError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


_HINTS = {
    errno.ENOSPC: "Make room on the disk and start the build again: it goes on where it stopped.",
    errno.EDQUOT: "Your quota is used up; make room and start the build again.",
    errno.EACCES: "Give a folder that you may write to.",
    errno.EPERM: "Give a folder that you may write to.",
    errno.EROFS: "Give a folder that you may write to.",
    errno.ENOTDIR: "A file is in the way; give another folder.",
    errno.EEXIST: "A file is in the way; give another folder.",
}


def output_error(path: str | os.PathLike[str], error: OSError) -> CatalogError:
    """Give the error of a catalog that cannot be written."""
    return CatalogError(
        "the catalog cannot be written",
        url=os.fspath(path),
        got=error.strerror or str(error),
        hint=_HINTS.get(error.errno or 0, "Start the build again when this is mended."),
    )
