"""Files that appear whole or not at all.

Owns writing: a local file is written under another name in the same folder and renamed; an object
elsewhere is written to a local file first and then put in one call. Whatever goes wrong, Ctrl-C
included, what was there before stays and nothing else is left. Nothing waits for the disk, which
would be a fifth of the time for a small document: a machine that loses power may lose what it wrote
in its last seconds, as with any other file, and references can be made again.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError
from .clients import typed_errors
from .urls import local_path

__all__ = ["open_atomic", "open_folder_atomic"]

_WHAT = "cannot write the references"


@contextlib.contextmanager
def open_atomic(
    target: str | os.PathLike[str] | Any, storage_options: Mapping[str, Any] | None = None
) -> Iterator[BinaryIO]:
    """Open a file for writing that appears when the block ends without an error.

    Parameters
    ----------
    target
        Path, URL, or a file open for writing as text or binary, which is written as it goes.
    storage_options
        For the file system of a URL.

    Yields
    ------
    file
        Takes bytes.

    Raises
    ------
    SourceError
        If the target cannot be written.
    """
    if hasattr(target, "write"):
        yield _as_binary(target)
        return
    path = _named(target)
    if "://" in path and not path.startswith("file:"):
        opened: Any = _open_remote(path, storage_options)
    else:
        opened = _open_local(local_path(path))
    with _typed_errors(path), opened as file:
        yield file


def _named(target: str | os.PathLike[str]) -> str:
    """Return a name that the system takes."""
    path = os.fspath(target)
    try:
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise SourceError(_WHAT, url=repr(path), got="no name of a file")
    return path


_NEXT_STEPS = {
    FileNotFoundError: "Make the folder first.",
    IsADirectoryError: "Give the name of a file in the folder.",
}


@contextlib.contextmanager
def _typed_errors(path: str) -> Iterator[None]:
    """Describe what cannot be written, and where."""
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        # the names in the text of the error are those of a temporary file
        raise SourceError(
            _WHAT,
            url=path,
            got=f"{type(error).__name__}: {error.strerror or error}",
            hint=_NEXT_STEPS.get(type(error)),
        ) from error


def _store_at(url: str) -> contextlib.AbstractContextManager[None]:
    """Translate what a client raises that is not an `OSError`, as without credentials."""
    return typed_errors(url, _WHAT, OSError)


@contextlib.contextmanager
def open_folder_atomic(
    target: str | os.PathLike[str],
    marker: str,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Return an empty folder that takes the place of `target` when the block ends without an error.

    Parameters
    ----------
    target
        Path or URL of the folder.
    marker
        Name of the file that tells a folder of this kind: no other folder is replaced, unless it
        is empty. In a store elsewhere this file is put last.
    storage_options
        For the file system of a URL.

    Raises
    ------
    SourceError
        If something of another kind is in the way, or the folder cannot be written.
    """
    path = _named(target)
    is_remote = "://" in path and not path.startswith("file:")
    opened = (
        _open_remote_folder(path, marker, storage_options)
        if is_remote
        else _open_local_folder(local_path(path), marker)
    )
    with _typed_errors(path), opened as folder:
        yield folder


@contextlib.contextmanager
def _open_local_folder(target: str, marker: str) -> Iterator[Path]:
    path = Path(os.path.realpath(target))
    is_ours = not path.exists() or (
        path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))
    )
    if not is_ours:
        raise SourceError(
            "something else is in the way", url=target, expected="no folder, or one of this kind"
        )
    temporary, old = _beside(path), _beside(path)
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
def _open_remote_folder(
    url: str, marker: str, storage_options: Mapping[str, Any] | None
) -> Iterator[Path]:
    import fsspec

    with _store_at(url):
        fs, root = fsspec.url_to_fs(url, **(storage_options or {}))
    with tempfile.TemporaryDirectory(prefix="tiffref-") as folder:
        yield Path(folder)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        with _store_at(url):
            for file in sorted(files, key=lambda file: file.name == marker):
                place = f"{root}/{file.relative_to(folder).as_posix()}"
                fs.makedirs(place.rpartition("/")[0], exist_ok=True)
                fs.put_file(str(file), place)


def _beside(path: Path) -> Path:
    return path.with_name(_scratch_name(path.name))


def _scratch_name(name: str) -> str:
    return f".{name}.{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def _open_local(target: str) -> Iterator[BinaryIO]:
    # one look at the target, and no Path: of a small document this was a sixth of the time
    path = target.rstrip(os.sep) or target
    mode = _mode_of(path, os.lstat)
    if mode is not None and stat.S_ISLNK(mode):
        mode = _mode_of(path, os.stat)
        if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # no pipe, as /dev/stdout
            path = os.path.realpath(target)  # a link keeps pointing to the file
    if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        with open(path, "wb") as file:  # noqa: PTH123 - a pipe or terminal cannot be renamed over
            yield file
        return
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, _scratch_name(name))  # noqa: PTH118
    try:
        with open(temporary, "xb") as file:  # noqa: PTH123
            yield file
        if mode is not None and stat.S_ISREG(mode):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def _mode_of(path: str, look: Callable[[str], os.stat_result]) -> int | None:
    try:
        return look(path).st_mode
    except OSError:
        return None  # what is wrong with the path shows when it is written


@contextlib.contextmanager
def _open_remote(url: str, storage_options: Mapping[str, Any] | None) -> Iterator[BinaryIO]:
    import fsspec

    with _store_at(url):
        fs, path = fsspec.url_to_fs(url, **(storage_options or {}))
    with tempfile.TemporaryDirectory(prefix="tiffref-") as folder:
        local = Path(folder) / "references"
        with local.open("wb") as file:
            yield file
        with _store_at(url):
            fs.put_file(str(local), path)


def _as_binary(file: Any) -> Any:
    is_text = isinstance(file, io.TextIOBase) or hasattr(file, "encoding")
    return _TextWriter(file) if is_text else file


class _TextWriter:
    """Hands ASCII bytes on to a file that takes text."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        self._file.write(data.decode("ascii"))
