"""A Zarr store over many files that are one array.

Owns what the store says of its files. Which files there are, how their names give coordinates and
how they combine is `sequences.sequence`'s; files that are no TIFF are read by `zarr.reader`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from ..errors import SelectionError, UnsupportedTiff
from ..read.chunkmode import CHUNKMODE, parse_chunkmode
from ..read.fetch import Fetcher
from ..references import References
from .base import ZarrStore
from .keyspace import KeySpace, build_keys
from .reader import ReadFiles, describe_files, read_region

__all__ = ["ZarrFileSequenceStore"]


class ZarrFileSequenceStore(ZarrStore):
    """Many files as one read-only Zarr array, with the axes of the sequence in front.

    Parameters
    ----------
    files
        Paths or URLs in order; a glob (local, or of an fsspec URL) in natural order; a readable
        pattern; a table, STAC items or tifffile's `FileSequence`; or `References` to a sequence.
    imread
        Function that reads one file, given its path or URL, for files that are no TIFF: each file
        is then one chunk.
    pattern, axesorder, categories
        How file names give coordinates, and the order of the axes and labels, as in
        `tiffref.scan_sequence`.
    chunkmode
        What a chunk is, as in `ZarrTiffStore`; "file" is all of one file.
    fillvalue
        Value of missing data.
    zattrs
        Attributes to add.
    key, series, level
        Of each file, as in `tiffref.scan`; by default the full size of the first series.
    on_mismatch
        "decode" keeps files together that differ only in how they are stored; "error" refuses them.
    ignore
        Differences to overlook, as in `scan_sequence`: files need not lie at one place.
    storage_options
        For the fsspec file system of URLs.
    verify
        When to check that files are still what they were when scanned.
    read_only
        Must be true.
    scan_options
        Further arguments of `tiffref.scan_sequence`: `formats`, `concat`, `mosaic`, `allow_holes`,
        `time_from`, `workers`, `progress`, `assets`.

    Raises
    ------
    SourceError
        If no file is found, or one cannot be read.
    ManifestMismatch
        If files do not combine.
    """

    def __init__(
        self,
        files: Any,
        *,
        imread: Callable[..., Any] | None = None,
        pattern: str | None = None,
        axesorder: Sequence[str | int] | None = None,
        categories: Mapping[str, Mapping[str, int]] | None = None,
        chunkmode: Any = None,
        fillvalue: Any = None,
        zattrs: Mapping[str, Any] | None = None,
        key: int | slice | Sequence[int] | None = None,
        series: int | None = 0,
        level: int | None = 0,
        on_mismatch: str = "decode",
        ignore: Sequence[str] = ("georeference", "nodata"),
        storage_options: Mapping[str, Any] | None = None,
        verify: str = "first",
        read_only: bool = True,
        **scan_options: Any,
    ) -> None:
        from ..sequences.sequence import scan_sequence, stack_arrays

        mode = parse_chunkmode(chunkmode)
        naming: dict[str, Any] = {
            "pattern": pattern, "axesorder": axesorder, "categories": categories,
        }  # fmt: skip
        self._imread = imread
        if isinstance(files, References):
            references = files
        elif imread is not None:
            _check_whole_files(mode, key)
            references = stack_arrays(
                files,
                partial(describe_files, imread, fill_value=fillvalue),
                zattrs=zattrs,
                storage_options=storage_options,
                **naming,
                **scan_options,
            )
        else:
            references = scan_sequence(
                files,
                chunkmode="strile" if mode == CHUNKMODE.STRILE else None,
                fillvalue=fillvalue,
                zattrs=zattrs,
                key=key,
                series=series,
                level=level if key is None else None,
                on_mismatch=on_mismatch,
                ignore=ignore,
                storage_options=storage_options,
                **naming,
                **scan_options,
            )
        main = _main_path(references)
        self._names = [source.url for source in references.sources]
        folder = self._names[0].rpartition("/")[0] if self._names else ""
        super().__init__(
            references=references,
            main=main,
            path=os.fspath(files) if isinstance(files, str | os.PathLike) else folder,
            fetch=Fetcher(storage_options, verify=verify, allow=references.allow),
            chunkmode=mode,
            read_only=read_only,
        )

    @cached_property
    def _keys(self) -> KeySpace:
        keys = build_keys(self._references.group, self._main, self._chunkmode)
        if self._imread is not None:
            for path in ("", self._main):
                if path in keys.arrays:
                    array = keys.arrays[path].array
                    # shown is a copy, which says that chunks are decoded: by the function
                    keys.arrays[path] = ReadFiles(array, replace(array), self._imread)
        return keys

    @property
    def files(self) -> list[str]:
        """Paths or URLs of the files, in the order of their first chunks."""
        return list(self._names)

    def __getitem__(self, key: Any) -> Any:
        """Give the bytes under a key (a string), or a region of the array (a selection)."""
        if self._imread is None or isinstance(key, str):
            return super().__getitem__(key)
        served = self._keys.arrays.get("") or self._keys.arrays[self._main or ""]
        assert isinstance(served, ReadFiles)
        return read_region(served, key)

    def write_fsspec(self, jsonfile: Any, /, url: str | None = None, **options: Any) -> None:
        """Write the references of the store as kerchunk JSON, as `ZarrStore.write_fsspec` does.

        Raises
        ------
        UnsupportedTiff
            If a function reads the files, so that their bytes are no chunks.
        """
        if self._imread is not None:
            raise UnsupportedTiff(
                "references cannot say files that a function reads",
                url=self._path or None,
                got=getattr(self._imread, "__name__", type(self._imread).__name__),
                hint="Read them through this store, or copy it into a Zarr store.",
            )
        super().write_fsspec(jsonfile, url, **options)


def _check_whole_files(mode: CHUNKMODE | None, key: Any) -> None:
    if mode not in (None, CHUNKMODE.FILE) or key is not None:
        raise SelectionError(
            "files that a function reads are whole chunks",
            got=f"chunkmode={mode.name if mode is not None else None}, key={key}",
            expected="chunkmode='file' and no key",
        )


def _main_path(references: References) -> str:
    """Give the path of the array that the store is: the first level of the first series."""
    paths = [path for path, _ in references.group.arrays()]
    for row in references.series:
        for level in row["levels"]:
            if "path" in level:
                return level["path"]
    return paths[0]
