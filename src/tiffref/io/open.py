"""Open any path, URL or file object as a `ByteSource` of the right class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SourceError
from .allow import AllowList, is_local
from .clients import find_file_system
from .source import ByteSource, FileObjectSource, LocalSource
from .urls import local_path


def open_source(
    file: str | os.PathLike[str] | Any,
    storage_options: Mapping[str, Any] | None = None,
    allow: AllowList | None = None,
) -> ByteSource:
    """Open a path, URL, fsspec OpenFile or binary file object for reading by offset.

    A `ByteSource` is returned unchanged.

    Parameters
    ----------
    file
        What to open.
    storage_options
        Options for the fsspec file system of a URL.
    allow
        Allow-list for the URL, its redirects and the files that it refers to; None allows all.

    Raises
    ------
    SourceError
        If it cannot be opened, or is a directory.
    UntrustedSource
        If it is not on the allow-list.
    """
    if isinstance(file, ByteSource):
        return file
    from .remote import RemoteSource  # not needed for local files

    if hasattr(file, "fs") and hasattr(file, "path"):
        # an fsspec OpenFile or a file that fsspec opened: its URL also works for later readers
        url = file.fs.unstrip_protocol(file.path)
        if url.startswith("file://"):
            return LocalSource(local_path(url))
        return RemoteSource(file.fs, file.path, url)
    if isinstance(file, str | os.PathLike):
        name = os.fspath(file)
        if allow is not None:
            allow.check(name)
        if is_local(name) or os.path.isfile(name):  # noqa: PTH113 - a file may be called "a::b.tif"
            return LocalSource(local_path(name), allow=allow)
        fs, path = find_file_system(name, storage_options)
        return RemoteSource(fs, path, name, allow)
    if hasattr(file, "read") and hasattr(file, "seek"):
        name = getattr(file, "name", None)
        if isinstance(name, str) and _is_open_file(file, name):
            return LocalSource(name)
        return FileObjectSource(file)
    raise SourceError(
        f"cannot open {type(file).__name__}",
        expected="a path, URL, fsspec OpenFile or open binary file",
        hint="To read many files as one array, use `tiffref.scan_sequence`."
        if isinstance(file, list | tuple)
        else None,
    )


def _is_open_file(file: Any, name: str) -> bool:
    """Return whether the path leads to this open file; members of archives have a name too."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(name).stat())
    except (AttributeError, OSError, ValueError):
        return False
