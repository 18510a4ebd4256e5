"""A Zarr store over many files that are one array.

Owns which files there are and what the store says of them. How file names give an index, and how
files combine, is for the scanner and `model.combine`; until they say more, files of one series each
are stacked on a new first axis.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import ManifestMismatch, SourceError, UnsupportedTiff
from ..model.manifest import Manifest
from ..model.node import Array, Group
from ..read.chunkmode import CHUNKMODE, parse_chunkmode
from ..read.fetch import Fetcher
from ..references import References
from .base import ZarrStore

__all__ = ["ZarrFileSequenceStore", "list_files"]


class ZarrFileSequenceStore(ZarrStore):
    """Files of one shape and type as a read-only Zarr store; the first axis counts the files.

    Parameters
    ----------
    files
        Paths or URLs in order, or a glob pattern (local, or of an fsspec URL), whose matches are
        put in natural order.
    imread, pattern, axesorder, categories
        How files are read and how their names give an index; not supported yet.
    chunkmode
        What a chunk is, as in `ZarrTiffStore`; "file" is all of one file.
    fillvalue
        Value of missing data.
    zattrs
        Attributes to add.
    storage_options
        For the fsspec file system of URLs.
    verify
        When to check that files are still what they were when scanned.
    read_only
        Must be true.
    scan_options
        For each file, as in `tiffref.scan`: `key`, `series`, `level`.

    Raises
    ------
    SourceError
        If no file is found, or one cannot be read.
    ManifestMismatch
        If files differ in shape, type or chunks.
    """

    def __init__(
        self,
        files: Any,
        *,
        imread: Callable[..., Any] | None = None,
        pattern: str | None = None,
        axesorder: Sequence[int] | None = None,
        categories: Mapping[str, Mapping[str, int]] | None = None,
        chunkmode: Any = None,
        fillvalue: Any = None,
        zattrs: Mapping[str, Any] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        verify: str = "first",
        read_only: bool = True,
        **scan_options: Any,
    ) -> None:
        unsupported = {
            "imread": imread,
            "pattern": pattern,
            "axesorder": axesorder,
            "categories": categories,
        }
        for name, value in unsupported.items():
            if value is not None:
                raise UnsupportedTiff(f"sequences with {name}=", got=value)
        from ..scanner.tiff import scan

        mode = parse_chunkmode(chunkmode)
        options = {
            "series": None if scan_options.get("key") is not None else 0,
            "level": 0 if scan_options.get("key") is None else None,
            "chunkmode": "strile" if mode == CHUNKMODE.STRILE else None,
            "fillvalue": fillvalue,
            "storage_options": storage_options,
            **scan_options,
        }
        self._names = list_files(files, storage_options)
        arrays = [_only_array(scan(name, **options)) for name in self._names]
        super().__init__(
            references=References(Group({"image": _stack(arrays)}, dict(zattrs or {}))),
            path=files if isinstance(files, str) else os.path.dirname(self._names[0]),
            fetch=Fetcher(storage_options, verify=verify),
            chunkmode=mode,
            read_only=read_only,
        )

    @property
    def files(self) -> list[str]:
        """Paths or URLs of the files, in the order of the first axis."""
        return list(self._names)


def list_files(files: Any, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Give the files of a sequence.

    Parameters
    ----------
    files
        Paths or URLs, a sequence that has them as `files`, or a glob pattern.
    storage_options
        For the file system of a pattern that is a URL.

    Raises
    ------
    SourceError
        If there are none.
    """
    if isinstance(files, str | os.PathLike):
        names = _expand(os.fspath(files), storage_options)
    else:
        names = [os.fspath(name) for name in getattr(files, "files", files)]
    if not names:
        raise SourceError("no files found", url=str(files))
    return names


def natural_key(name: str) -> list[Any]:
    """Order names as people do: numbers by value.

    Examples
    --------
    >>> sorted(["t10.tif", "t9.tif"], key=natural_key)
    ['t9.tif', 't10.tif']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _expand(pattern: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    if "://" not in pattern:
        return sorted(glob.glob(pattern), key=natural_key)
    import fsspec

    fs, path = fsspec.url_to_fs(pattern, **(storage_options or {}))
    return sorted((fs.unstrip_protocol(name) for name in fs.glob(path)), key=natural_key)


def _only_array(references: References) -> Array:
    ((_, array),) = references.group.arrays()
    return array


def _stack(arrays: Sequence[Array]) -> Array:
    """Stack equal arrays on a new first axis, as the columns of their manifests one below another.

    Each source points to its array's row in the codec table, since files may be stored differently.
    """
    first = arrays[0]
    for array in arrays:
        for what in ("shape", "dtype", "chunks"):
            if getattr(array, what) != getattr(first, what):
                raise ManifestMismatch(
                    f"files differ in {what}",
                    url=array.manifest.sources[0].url,
                    got=getattr(array, what),
                    expected=f"{getattr(first, what)} as {first.manifest.sources[0].url}",
                )
    codecs = list(dict.fromkeys(codec for array in arrays for codec in array.codecs))
    sources, columns, inlined = [], [], {}
    for i, array in enumerate(arrays):
        manifest = array.manifest
        here = manifest.source
        columns.append(np.where(here >= 0, here + len(sources), here).astype(np.int32))
        sources += [
            replace(source, codec=codecs.index(array.codecs[source.codec]))
            for source in manifest.sources
        ]
        inlined |= {flat + i * manifest.n_chunks: data for flat, data in manifest.inlined.items()}
    manifest = Manifest(
        (len(arrays), *first.grid),
        tuple(sources),
        np.concatenate(columns),
        np.concatenate([array.manifest.offset for array in arrays]),
        np.concatenate([array.manifest.length for array in arrays]),
        inlined,
    )
    name = next(n for n in ("t", "i", "file") if n not in first.dims)
    return replace(
        first,
        shape=(len(arrays), *first.shape),
        chunks=(1, *first.chunks),
        dims=(name, *first.dims),
        codecs=tuple(codecs),
        manifest=manifest,
    )
