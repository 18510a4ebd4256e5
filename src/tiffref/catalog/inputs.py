"""What a catalog is built of: folders, lists, tables, globs, STAC items.

Owns what a catalog takes besides what a sequence does (see `sequences.inputs`): folders, and
several of all that together. It opens tables, never images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..access.clients import client_errors
from ..errors import SelectionError, SourceError, unreadable
from ..formats.urls import from_document_url, has_scheme
from ..sequences.coordinates import read_values
from ..sequences.inputs import FileList, list_files, natural_key
from ..sequences.names import parse_pattern, read_names

__all__ = ["find_files", "read_fields"]

_ENDINGS = (".tif", ".tiff")
_MAGIC = re.compile(r"[*?\[{]")


def find_files(
    files: Any,
    *,
    assets: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> FileList:
    """Give the files that a catalog is to be built of, each address in full.

    Parameters
    ----------
    files
        A folder (all TIFFs below it), glob, readable pattern, listing file (".txt", an address on
        each line), CSV or Parquet table, STAC items; or several of these.
    assets
        Keys of the assets of STAC items; by default all whose media type is TIFF.
    storage_options
        For the file system of URLs.

    Raises
    ------
    SourceError
        If there are no files, or a list cannot be read.
    """
    many = isinstance(files, list | tuple) and all(isinstance(f, str | os.PathLike) for f in files)
    found = [_find(os.fspath(f), assets, storage_options) for f in files] if many else [
        _find(files, assets, storage_options)
    ]  # fmt: skip
    urls = [_full(url) for one in found for url in one.urls]
    if not urls:
        raise SourceError("no files", url=_say(files), hint="Check the folder, pattern or list.")
    names = dict.fromkeys(name for one in found for name in one.columns)
    columns = {
        name: [v for one in found for v in one.columns.get(name, [None] * len(one.urls))]
        for name in names
    }
    patterns = {one.pattern for one in found}
    return FileList(urls, columns, patterns.pop() if len(patterns) == 1 else None)


def _say(files: Any) -> str | None:
    return str(files) if isinstance(files, str | os.PathLike) else None


def _full(url: str) -> str:
    plain = from_document_url(url)
    return plain if has_scheme(plain) else os.path.abspath(plain)  # noqa: PTH100 - links stay


def _find(files: Any, assets: Any, storage_options: Any) -> FileList:
    if not isinstance(files, str | os.PathLike):
        return list_files(files, assets=assets, storage_options=storage_options)
    name = from_document_url(os.fspath(files))
    if has_scheme(name):
        if name.endswith("/"):
            return FileList(_walk_remote(name, storage_options))
    elif Path(name).is_dir():
        return FileList(_walk(name))
    elif name.endswith("/") or not (
        Path(name).suffix or _MAGIC.search(name) or Path(name).exists()
    ):
        raise SourceError("there is no such folder", url=name)
    return list_files(name, assets=assets, storage_options=storage_options)


def _walk(folder: str) -> list[str]:
    """Find the TIFFs below a folder, in natural order."""
    found = [
        os.path.join(where, name)  # noqa: PTH118 - a Path for each of many files is slow
        for where, folders, names in os.walk(folder, onerror=_cannot_list)
        for name in names
        if name.lower().endswith(_ENDINGS)
    ]
    return sorted(found, key=natural_key)


def _cannot_list(error: OSError) -> None:
    raise SourceError("cannot be listed", url=error.filename, got=error.strerror) from error


def _walk_remote(url: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(url, **(storage_options or {}))
        found = fs.find(path)
    except client_errors() as error:
        raise unreadable(url, error, "cannot be listed") from error
    names = [fs.unstrip_protocol(name) for name in found if name.lower().endswith(_ENDINGS)]
    return sorted(names, key=natural_key)


def read_fields(found: FileList, pattern: str | None) -> dict[str, list[Any]]:
    """Give what names and tables say of each file: whole numbers, floats, texts or ISO dates.

    Raises
    ------
    ManifestMismatch
        If names do not match the pattern.
    """
    texts: dict[str, Sequence[Any]] = dict(found.columns)
    kinds: dict[str, str] = {}
    text = pattern or found.pattern
    if text is not None:
        parsed = parse_pattern(text)
        texts |= read_names(found.urls, parsed)
        kinds = dict(parsed.formats)
    return {name: _plain(name, column, kinds.get(name)) for name, column in texts.items()}


def _plain(name: str, column: Sequence[Any], kind: str | None) -> list[Any]:
    known = [n for n, value in enumerate(column) if value is not None and value != ""]
    try:
        values = read_values(name, [column[n] for n in known], kind)
    except SelectionError:
        return [None if value is None else str(value) for value in column]
    if values.dtype.kind == "M":
        values = values.astype("M8[us]").astype(str)
    plain: list[Any] = [None] * len(column)
    for n, value in zip(known, values.tolist(), strict=True):
        plain[n] = value
    return plain
