"""Atomic writing: files appear complete or not at all.

A local file is written to a temporary file in the same folder and renamed; a remote object is
written to a local temporary file and uploaded in one call. If anything fails, Ctrl-C included, the
previous file stays and no temporary file is left. There is no fsync, which would take a fifth of
the time for a small document: after a power failure the last seconds of writing may be lost, but
references can be made again.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import SourceError, safe_cause
from .clients import protocols, typed_errors, url_to_fs
from .urls import check_address, local_path

_WHAT = "cannot write the references"


def write_atomic(
    target: str | os.PathLike[str] | Any,
    pieces: Iterable[bytes],
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a file that appears when all pieces are written.

    Parameters
    ----------
    target
        Path, URL, or a file open for writing as text or binary, which is written directly.
    pieces
        The content; ASCII for a text file.
    storage_options
        Options for the fsspec file system of a URL.

    Raises
    ------
    SourceError
        If the target cannot be written.
    SelectionError
        If it is none of these.
    """
    if hasattr(target, "write"):
        is_text = isinstance(target, io.TextIOBase) or hasattr(target, "encoding")
        for piece in pieces:
            target.write(piece.decode("ascii") if is_text else piece)
        return
    path = _check_name(target)
    with _write_errors(path):
        if "://" in path and not path.startswith("file:"):
            _write_remote(path, pieces, storage_options)
        else:
            _write_local(local_path(path), pieces)


def watch(target: str | os.PathLike[str]) -> Callable[[], None]:
    """Return a function that raises a `SourceError` if another process has written a local file.

    To be called before references that were read are written again: changes would be lost.
    """
    path = local_path(check_address(target))

    def version() -> tuple[int, ...]:
        with contextlib.suppress(OSError, ValueError):
            state = os.stat(path)  # noqa: PTH116
            return state.st_ino, state.st_size, state.st_mtime_ns
        return ()  # it is remote

    before = version()

    def check() -> None:
        if version() != before:
            what = "another process has changed the references meanwhile"
            raise SourceError(what, url=path, hint="Run this again.")

    return check


def _check_name(target: str | os.PathLike[str]) -> str:
    """Return the path as text if it can be the name of a file."""
    path = check_address(target)
    try:
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    if not is_name or not path:
        raise SourceError(f"{_WHAT}: {path!r} is not a valid file name")
    return path


_NEXT_STEPS = {
    FileNotFoundError: "Make the folder first.",
    IsADirectoryError: "Give the name of a file in the folder.",
}


@contextlib.contextmanager
def _write_errors(path: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        # its message would name the temporary file
        what, hint = f"{_WHAT}: {error.strerror or error}", _NEXT_STEPS.get(type(error))
        raise SourceError(what, url=path, hint=hint) from safe_cause(error)


def _upload_errors(url: str) -> contextlib.AbstractContextManager[None]:
    """Translate client errors that are not an `OSError`, such as missing credentials."""
    return typed_errors(url, _WHAT, OSError)


@contextlib.contextmanager
def open_folder_atomic(
    target: str | os.PathLike[str],
    marker: str,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Yield an empty folder that replaces `target` when the block ends without an error.

    Parameters
    ----------
    target
        Path or URL of the folder.
    marker
        Name of a file that every folder of this kind has at its top. Of local folders, only those
        with this file, and empty ones, are replaced; remote ones keep files of other kinds.
    storage_options
        Options for the fsspec file system of a URL.

    Raises
    ------
    SourceError
        If there is something else at `target`, or the folder cannot be written.
    """
    path = _check_name(target)
    is_remote = "://" in path and not path.startswith("file:")
    opened = (
        _open_remote_folder(path, storage_options)
        if is_remote
        else _open_local_folder(local_path(path), marker)
    )
    with _write_errors(path), opened as folder:
        yield folder


@contextlib.contextmanager
def _open_local_folder(target: str, marker: str) -> Iterator[Path]:
    path = Path(os.path.realpath(target))
    is_ours = not path.exists() or (
        path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))
    )
    if not is_ours:
        raise SourceError(
            "exists and holds something else",
            url=target,
            expected=f"no folder, an empty one, or one with a file {marker}",
        )
    temporary, old = (path.with_name(_temporary_name(path.name)) for _ in range(2))
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _open_remote_folder(url: str, storage_options: Mapping[str, Any] | None) -> Iterator[Path]:
    with _upload_errors(url):
        fs, root = url_to_fs(url, storage_options)
    with tempfile.TemporaryDirectory(prefix="tiffref-") as folder:
        yield Path(folder)
        with _upload_errors(url):
            put_folder(fs, Path(folder), root)


_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})
"""File systems without folders, where `makedirs` would create a bucket."""


def put_files(fs: Any, files: Mapping[str, bytes | Path]) -> None:
    """Put files at paths of a file system, each in one operation."""
    if _OBJECT_STORES.isdisjoint(protocols(fs)):
        for folder in {path.rpartition("/")[0] for path in files}:
            fs.makedirs(folder, exist_ok=True)
    in_memory = {path: data for path, data in files.items() if isinstance(data, bytes)}
    if in_memory:
        fs.pipe(in_memory)
    if len(in_memory) < len(files):
        paths = [path for path in files if path not in in_memory]
        fs.put([str(files[path]) for path in paths], paths)


def put_folder(fs: Any, folder: Path, target: str) -> None:
    """Put a folder in place of an older one, the files at its top last: they mark it as whole.

    Of a whole one, the other files with the same endings as the new ones are removed: what else is
    there is somebody's.
    """
    before = set(fs.find(target))
    files = {f"{target}/{file.relative_to(folder).as_posix()}": file
             for file in sorted(folder.rglob("*")) if file.is_file()}  # fmt: skip
    top = {path for path, file in files.items() if file.parent == folder}
    for chosen in (files.keys() - top, top):
        put_files(fs, {path: files[path] for path in chosen})
    endings = {file.suffix for file in files.values()} - {""}
    old = [path for path in before - set(files) if Path(path).suffix in endings]
    if old and top <= before:
        fs.rm(sorted(old))


def _temporary_name(name: str) -> str:
    # file systems limit names to 255 bytes, and a character has up to four
    return f".{name[:32]}.{os.urandom(4).hex()}.tmp"


_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def _write_local(target: str, pieces: Iterable[bytes]) -> None:
    # no Path and no file object, which took a third of the time for a small document
    path = target.rstrip(os.sep) or target
    mode = _mode_of(path, os.lstat)
    if mode is not None and stat.S_ISLNK(mode):
        mode = _mode_of(path, os.stat)
        if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # no pipe, as /dev/stdout
            path = os.path.realpath(target)  # replace the file, not the link
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if mode is not None and not stat.S_ISREG(mode):
        with open(path, "wb") as file:  # noqa: PTH123 - a pipe or terminal cannot be renamed over
            file.writelines(pieces)
        return
    name = os.path.basename(path)  # noqa: PTH119
    temporary = path.removesuffix(name) + _temporary_name(name)
    try:
        descriptor = os.open(temporary, _NEW_FILE, 0o666)
        try:
            for piece in pieces:
                n_written = os.write(descriptor, piece)
                while n_written < len(piece):  # more than 2 GiB, or the disk is almost full
                    n_written += os.write(descriptor, memoryview(piece)[n_written:])
        finally:
            os.close(descriptor)
        if mode is not None:
            shutil.copymode(path, temporary)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def _mode_of(path: str, get_stat: Callable[[str], os.stat_result]) -> int | None:
    try:
        return get_stat(path).st_mode
    except OSError:
        return None  # writing raises the error


def _write_remote(
    url: str, pieces: Iterable[bytes], storage_options: Mapping[str, Any] | None
) -> None:
    with _upload_errors(url):
        fs, path = url_to_fs(url, storage_options)
    with tempfile.TemporaryDirectory(prefix="tiffref-") as folder:
        local = Path(folder) / "references"
        with local.open("wb") as file:
            file.writelines(pieces)
        with _upload_errors(url):
            fs.put_file(str(local), path)
