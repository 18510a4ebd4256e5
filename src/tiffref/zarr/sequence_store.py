"""A Zarr store of many files that form one array.

Files are listed, ordered and combined by `sequences`. Files of other formats are read by a function
that the user provides: each file is one chunk, shape and dtype are those of the first file, and are
checked when another one is read. Such chunks have no byte ranges, so references cannot be written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    ManifestMismatch,
    SelectionError,
    UnknownArgument,
    UnsupportedTiff,
    check_arguments,
    checked,
    unreadable,
)
from ..model.array import Array, chunk_grid
from ..model.manifest import Manifest, Source
from ..read.fetch import Fetcher
from ..references import References, warn_of_parts
from ..sequences.inputs import reader_of
from .keyspace import CHUNKMODE, parse_chunkmode, uncompressed_codec
from .store import ZarrStore, with_values

Reader = Callable[..., Any]


class _CallbackFetcher(Fetcher):
    """Reader of files by the function `imread`; each file is one chunk of uncompressed samples."""

    def __init__(self, imread: Reader, array: Array) -> None:
        super().__init__(verify="never")
        self._imread, self._shape, self._dtype = imread, array.chunks, array.dtype

    def is_local(self, source: Source) -> bool:
        """Return True: reads cannot be merged, nor read ahead."""
        return True

    def identity(self, source: Source) -> None:
        """Return None: the function may return anything the next time."""

    def size(self, source: Source) -> int:
        """Return the size of the samples in bytes."""
        return math.prod(self._shape) * self._dtype.itemsize

    def read(self, source: Source, offset: int, length: int) -> bytes:
        """Return a part of the samples; errors as in `read_all`."""
        return self.read_all(source)[offset : offset + length]

    def read_all(self, source: Source) -> bytes:
        """Return the samples of a file, little-endian.

        Raises
        ------
        SourceError
            If the file does not exist.
        ManifestMismatch
            If its shape or dtype differs from the array's.
        """
        image = _read(self._imread, source.url)
        is_same_shape = _without_ones(image.shape) == _without_ones(self._shape)
        if image.dtype.newbyteorder("=") != self._dtype or not is_same_shape:
            raise ManifestMismatch(
                "the file has another shape or dtype than the first one",
                url=source.url,
                got=f"{image.dtype} {image.shape}",
                expected=f"{self._dtype} {self._shape}",
            )
        return image.astype(self._dtype.newbyteorder("<"), copy=False).tobytes()

    def __getstate__(self) -> dict[str, Any]:
        own = {"_imread": self._imread, "_shape": self._shape, "_dtype": self._dtype}
        return {**super().__getstate__(), **own}


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def _read(reader: Reader, url: str) -> NDArray:
    try:
        return np.asarray(reader(url))
    except FileNotFoundError as error:
        raise unreadable(url, error) from error


def describe_files(reader: Reader, urls: Sequence[str], fill_value: Any = None) -> list[Array]:
    """Return an array of one chunk for each file, with shape and dtype of the first one.

    Raises
    ------
    UnsupportedTiff
        If `reader` returns Python objects.
    """
    image = _read(reader, urls[0])
    if image.dtype.hasobject:
        raise UnsupportedTiff(
            "the function returns objects, not samples", url=urls[0], got=str(image.dtype)
        )
    dims = _dims(image)
    chunks = tuple(max(1, n) for n in image.shape)
    grid = chunk_grid(image.shape, chunks)
    dtype = image.dtype.newbyteorder("=")
    codec = (uncompressed_codec(dtype, chunks),)
    row, zeros = np.zeros(math.prod(grid), np.int32), np.zeros(math.prod(grid), np.uint64)
    arrays = []
    for url in urls:
        manifest = Manifest(grid, (_source(url),), row, zeros, zeros)
        array = Array(image.shape, chunks, dtype, dims, codec, manifest)
        arrays.append(array if fill_value is None else array.with_fill_value(fill_value))
    return arrays


def _source(url: str) -> Source:
    if "://" in url:
        return Source(url)
    try:
        path = Path(url).absolute()
        state = path.stat()
    except OSError as error:
        raise unreadable(url, error) from error
    return Source(str(path), state.st_size, state.st_mtime)


def _dims(image: NDArray) -> tuple[str, ...]:
    """Choose dimension names for an image by its shape."""
    has_samples = image.ndim > 2 and image.shape[-1] in (3, 4)
    last = ("y", "x", "s") if has_samples else ("y", "x")
    lead = tuple(f"q{n}" if n else "q" for n in range(max(0, image.ndim - len(last))))
    return (*lead, *last)[-image.ndim :] if image.ndim else ()


_TIFF_OPTIONS: Mapping[str, Any] = {
    "key": None,
    "series": 0,
    "level": 0,
    "on_mismatch": "decode",
    "ignore": ("georeference", "nodata"),
}
"""Arguments of `scan_sequence` that apply only to TIFFs, with the defaults of a store."""


class ZarrFileSequenceStore(ZarrStore):
    """Many files as one read-only Zarr array, with the axes of the sequence first.

    Parameters
    ----------
    files
        Paths or URLs in order; a glob, whose files are sorted naturally; a pattern with fields; a
        table, STAC items or tifffile's `FileSequence`; or `References` to a sequence.
    imread
        Function that reads one file, given its path or URL, for files that are not TIFFs. Each file
        is then one chunk. The default is that of a `FileSequence`.
    chunkmode, zarr_format
        As in `ZarrTiffStore`; chunkmode "file" is a whole file.
    fillvalue
        Value of missing data.
    zattrs
        Attributes to add.
    storage_options
        Options of the fsspec file system of URLs.
    verify
        When to check that files are unchanged since they were scanned.
    read_only
        Must be true.
    scan_options
        Further arguments of `tiffref.scan_sequence`. The defaults differ: `key`, `series` and
        `level` select the full size of the first series, `on_mismatch` is "decode", which accepts
        files that differ only in how they are stored, and `ignore` ignores georeferences.

    Raises
    ------
    SourceError
        If no file is found, or one cannot be read.
    ManifestMismatch
        If files do not combine.
    """

    @checked()
    def __init__(
        self,
        files: Any,
        *,
        imread: Callable[..., Any] | None = None,
        chunkmode: Any = None,
        fillvalue: Any = None,
        zattrs: Mapping[str, Any] | None = None,
        zarr_format: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        verify: str = "first",
        read_only: bool = True,
        **scan_options: Any,
    ) -> None:
        mode = parse_chunkmode(chunkmode)
        self._imread = imread = imread or reader_of(files)
        given = {"fillvalue": fillvalue, "zattrs": zattrs, "storage_options": storage_options}
        references = _scan_files(files, imread, mode, given, scan_options)
        if zarr_format == 3:
            references = references.laid_out(3)
        warn_of_parts(references)
        main = references.main_path
        self._names = [source.url for source in references.sources]
        folder = self._names[0].rpartition("/")[0] if self._names else ""
        fetch = Fetcher(storage_options, verify=verify, allow=references.allow)
        if imread is not None:
            fetch = _CallbackFetcher(imread, references.group[main or ""])
            self._unit = "files"
        super().__init__(
            references=references,
            main=main,
            path=os.fspath(files) if isinstance(files, str | os.PathLike) else folder,
            fetch=fetch,
            chunkmode=mode,
            zarr_format=zarr_format,
            read_only=read_only,
        )

    @property
    def files(self) -> list[str]:
        """Paths or URLs of the files, in the order of their first chunks."""
        return list(self._names)

    def write_fsspec(self, jsonfile: Any, /, url: str | None = None, **options: Any) -> None:
        """Write the references of the store as kerchunk JSON, as `ZarrStore.write_fsspec` does.

        Raises
        ------
        UnsupportedTiff
            If a function reads the files, which therefore have no byte ranges.
        """
        if self._imread is not None:
            raise UnsupportedTiff(
                "files read by a function have no byte ranges to refer to",
                url=self._path or None,
                got=getattr(self._imread, "__name__", type(self._imread).__name__),
                hint="Read them through this store, or copy it into a Zarr store.",
            )
        super().write_fsspec(jsonfile, url, **options)


def _scan_files(
    files: Any,
    imread: Reader | None,
    mode: CHUNKMODE | None,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
) -> References:
    """Return references to files, `given` the arguments that all kinds of files have."""
    from ..sequences.stack import SequenceOptions, scan_sequence, stack_arrays

    check_arguments(options, ZarrFileSequenceStore, scan_sequence, SequenceOptions)
    if isinstance(files, References):
        if options or imread is not None:
            name = next(iter(options), "imread")
            raise UnknownArgument(f"a store of references has no argument '{name}'")
        return with_values(files, given["fillvalue"], given["zattrs"])
    if imread is not None:
        _check_whole_files(mode, options)
        return stack_arrays(
            files,
            partial(describe_files, imread, fill_value=given["fillvalue"]),
            zattrs=given["zattrs"],
            storage_options=given["storage_options"],
            **{name: value for name, value in options.items() if name not in _TIFF_OPTIONS},
        )
    merged = {**_TIFF_OPTIONS, **options}
    merged["level"] = merged["level"] if merged["key"] is None else None
    merged["chunkmode"] = "strile" if mode == CHUNKMODE.STRILE else None
    return scan_sequence(files, **given, **merged)


def _check_whole_files(mode: CHUNKMODE | None, options: Mapping[str, Any]) -> None:
    kept = {"chunkmode": (None, CHUNKMODE.FILE), "key": (None,), "series": (None, 0),
            "level": (None, 0)}  # fmt: skip
    for name, value in {**options, "chunkmode": mode}.items():
        if value not in kept.get(name, (value,)):
            what, expected = "files read by a function are always one chunk", "chunkmode='file'"
            raise SelectionError(what, got=f"{name}={value!r}", expected=expected)
