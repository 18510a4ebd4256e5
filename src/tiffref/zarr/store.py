"""Read-only Zarr stores: `ZarrStore`, and `ZarrTiffStore` of one TIFF or reference document.

Implements `zarr.abc.store.Store`, and for interactive use `store["0.0"]`, which returns bytes, and
`store[selection]`, which returns a NumPy array. The keys are defined by `keyspace`.

Zarr's rules for stores: `zarr.abc.store`, and its test kit `zarr.testing.store`.
"""

from __future__ import annotations

import asyncio
import copy
import math
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from ..errors import SelectionError, UnknownArgument, UnsupportedTiff, check_arguments, checked
from ..formats.summary import ARRAY_HEADING, html_table, outline
from ..io.progress import Progress, resolve_progress
from ..model.array import Array, Group, check_zattrs
from ..model.manifest import INLINED, Manifest
from ..read.engine import read_array
from ..read.fetch import Fetcher, make_fetcher
from ..references import References, is_document, open_document, select_levels
from ..signatures import redact
from .batching import Requests
from .keyspace import (
    CHUNKMODE,
    Chunk,
    KeySpace,
    build_keys,
    check_value,
    chunk_size,
    expose_array,
    parse_chunkmode,
    read_value,
    reference_filesystem,
    resolve_range,
)

if TYPE_CHECKING:
    from fsspec.implementations.reference import ReferenceFileSystem

_NOT_NEEDED = frozenset({"codec_id", "compressors", "quote"})
"""Arguments of tifffile's `write_fsspec` for what is found out here; ignored."""
_MAX_INLINE_BYTES = 1 << 20
"""Local reads up to this size are faster than another thread."""
_NO_ARRAY = "the store has no array, or several without a main one"


class ZarrStore(Store):
    """A read-only Zarr store of references; without any it is empty.

    Parameters
    ----------
    references
        The arrays.
    main
        Path of the array that opens if the store is opened as an array. The default is the only
        one.
    path
        Name of the store.
    fetch
        Fetcher of the sources.
    chunkmode
        Chunks as stored, or decoded planes, pages or files.
    zarr_format
        Zarr format of the metadata. None is 2, except for documents that need 3.
    read_only
        Must be true.

    Notes
    -----
    A store pickles as its references and options, without open files, and opens files again when
    it is read.
    """

    supports_writes: bool = False  # type: ignore[assignment]
    supports_deletes: bool = False  # type: ignore[assignment]
    supports_listing: bool = True  # type: ignore[assignment]
    # xarray warns of stores that support it and have none
    supports_consolidated_metadata: bool = False  # type: ignore[assignment]
    _unit = "chunks"
    """What is counted while an array is read."""
    _imread: Callable[..., Any] | None = None
    """The function that reads the files, if they are not TIFFs."""

    def __init__(
        self,
        *,
        references: References | None = None,
        main: str | None = None,
        path: str = "",
        fetch: Fetcher | None = None,
        chunkmode: Any = None,
        zarr_format: int | None = None,
        read_only: bool = True,
    ) -> None:
        if not read_only:
            raise SelectionError("the store cannot be written", got="read_only=False")
        super().__init__(read_only=True)
        self._references = references or References(Group())
        names = [name for name, _ in self._references.group.arrays()]
        self._main = names[0] if main is None and len(names) == 1 else main
        self._path = path
        self._fetch = fetch or Fetcher(allow=self._references.allow)
        self._chunkmode = parse_chunkmode(chunkmode)
        if zarr_format not in (None, 2, 3):
            raise SelectionError("no such Zarr format", got=repr(zarr_format), expected="2 or 3")
        self._zarr_format = zarr_format
        self._requests = Requests(self._fetch)

    @cached_property
    def _keys(self) -> KeySpace:
        return build_keys(self._references.group, self._main, self._chunkmode, self._zarr_format)

    # ---- for users

    @property
    def references(self) -> References:
        """The arrays behind the store."""
        return self._references

    @property
    def chunkmode(self) -> CHUNKMODE | None:
        """The chunk mode that was requested, or None."""
        return self._chunkmode

    @property
    def path(self) -> str:
        """Path, URL or other identifier of the source of the store."""
        return self._path

    @property
    def mode(self) -> str:
        """Access mode, always "r"."""
        return "r"

    @property
    def files(self) -> list[str]:
        """Paths or URLs of all files that contain chunks."""
        return [source.url for source in self._references.sources]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array; of a pyramid, that of level 0."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype:
        """Data type of the samples, in native byte order."""
        return self._array.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions of the array."""
        return len(self._array.shape)

    @property
    def size(self) -> int:
        """Number of samples in the array."""
        return math.prod(self._array.shape)

    @property
    def nbytes(self) -> int:
        """Size of the decoded array in bytes."""
        return self._array.nbytes

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions of the array."""
        return self._array.dims

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk."""
        return expose_array(self._array, self._chunkmode).visible.chunks

    @property
    def _array(self) -> Array:
        if self._main is None:
            raise AttributeError(_NO_ARRAY)
        return self._references.group[self._main]

    @property
    def fs(self) -> ReferenceFileSystem:
        """The store as fsspec's ReferenceFileSystem, with a lazy mapping of its keys."""
        return reference_filesystem(self._keys, self._fetch)

    def __getitem__(self, key: Any) -> Any:
        """Return the bytes under a key (a string), or a region of the array (a selection).

        Raises
        ------
        KeyError
            If there is nothing under the key.
        SelectionError
            If the selection does not fit the array.
        """
        if isinstance(key, str):
            data = read_value(self._find(key), None, self._fetch)
            if data is None:
                raise KeyError(key)
            return bytes(data)
        return self.read(key)

    @checked()
    def read(
        self,
        selection: Any = ...,
        *,
        out: NDArray | None = None,
        progress: Progress | bool | None = None,
    ) -> NDArray:
        """Read a region of the array, as `store[selection]` does.

        Parameters
        ----------
        selection
            NumPy basic indexing; all by default.
        out
            Array of the result's shape and dtype to read into.
        progress
            Function called with the number of chunks read and their total. If it raises, the read
            ends. True shows a progress bar on a terminal.

        Raises
        ------
        SelectionError
            If the selection or `out` does not fit the array, or there is no main array.
        """
        if self._main is None:
            raise SelectionError(_NO_ARRAY, url=self._path, hint="zarr.open_group(store) opens it.")
        show = resolve_progress(progress, "reading", self._unit)
        return read_array(self._array, selection, fetch=self._fetch, out=out, progress=show)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        """Read the whole array, so that NumPy functions accept the store."""
        if copy is False:
            raise ValueError("copy is False, but the samples of the store are not in memory")
        values = self[...]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise NotImplementedError("the store is read-only")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._keys.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def keys(self) -> Iterator[str]:
        """Iterate over all keys."""
        return iter(self._keys)

    def write_fsspec(
        self,
        jsonfile: Any,
        /,
        url: str | None = None,
        *,
        groupname: str | None = None,
        templatename: str | None = None,
        zarr_format: int | None = None,
        version: int | None = None,
        **options: Any,
    ) -> None:
        """Write the references of the store as kerchunk JSON, or parquet by the name.

        Parameters
        ----------
        jsonfile
            Path, URL or open file.
        url, groupname, templatename, zarr_format, version, options
            As in `References.write_fsspec`. tifffile's `codec_id`, `compressors` and `quote` are
            ignored: codecs and URLs are always complete.

        Raises
        ------
        UnsupportedTiff
            If the store decodes its chunks, which therefore have no byte ranges.
        """
        decoded = any(exposed.is_decoded for exposed in self._keys.arrays.values())
        if decoded and self._chunkmode not in (None, CHUNKMODE.STRILE):
            raise UnsupportedTiff(
                f"references cannot express chunks that the store decodes to whole "
                f"{self._chunkmode.name.lower()}s",
                url=self._path or None,
                hint="Create the store with chunkmode='strile' to write references.",
            )
        self._references.write_fsspec(
            jsonfile,
            url,
            groupname=groupname,
            templatename=templatename,
            zarr_format=zarr_format or self._zarr_format or 2,
            version=1 if version is None else version,
            **{name: value for name, value in options.items() if name not in _NOT_NEEDED},
        )

    # ---- for zarr

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = self._keys.find(key)
        if value is None:
            check = partial(self._keys.check_missing, key, self._fetch)
            _ = check() if self._supports_sync_io else await asyncio.to_thread(check)
        if not isinstance(value, Chunk):
            data = read_value(value, byte_range, self._fetch)
        elif self._is_untrusted:
            whole = await self._get_chunk(value, None)
            data = await asyncio.to_thread(check_value, value, whole, byte_range)
        else:
            data = await self._get_chunk(value, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def _get_chunk(self, chunk: Chunk, byte_range: ByteRequest | None) -> Any:
        """Return the bytes of a chunk without blocking the event loop."""
        location = chunk.location
        read = partial(read_value, chunk, byte_range, self._fetch)
        if location is None and not chunk.exposed.is_decoded:
            return read()
        if location is None or not location[2]:
            return await asyncio.to_thread(read)
        source, offset, length = location
        start, stop = resolve_range(byte_range, length)
        if self._fetch.is_local(source):
            is_small = stop - start <= _MAX_INLINE_BYTES
            return read() if is_small else await asyncio.to_thread(read)
        if stop - start == length:
            return await self._requests.read_chunk(chunk.exposed.array, chunk.flat, location)
        if start >= stop:
            return b""
        return await self._requests.read(source, offset + start, stop - start)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the same as `get`, without an event loop; parameters are as in `get`."""
        value = self._find(key)
        if isinstance(value, Chunk) and self._is_untrusted:
            data = check_value(value, read_value(value, None, self._fetch), byte_range)
        else:
            data = read_value(value, byte_range, self._fetch)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _find(self, key: str) -> bytes | Chunk | None:
        value = self._keys.find(key)
        if value is None:
            self._keys.check_missing(key, self._fetch)
        return value

    @property
    def _is_untrusted(self) -> bool:
        """Whether chunks are checked before zarr decodes them: in documents of other users."""
        return self._references.allow is not None

    @cached_property
    def _supports_sync_io(self) -> bool:
        # zarr's fused pipeline then calls `get_sync`, with one request per chunk, which would be
        # slow for remote sources
        return all(self._fetch.is_local(source) for source in self._references.sources)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, at) for key, at in key_ranges)))

    async def exists(self, key: str) -> bool:
        return key in self

    async def getsize(self, key: str) -> int:
        value = self._keys.find(key)
        if value is None:
            raise FileNotFoundError(key)
        if isinstance(value, Chunk):
            return await asyncio.to_thread(chunk_size, value, self._fetch)
        return len(value)

    async def list(self) -> AsyncIterator[str]:
        for key in self._keys:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._keys.with_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in self._keys.children(prefix):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    def set_sync(self, key: str, value: Buffer) -> None:
        """Raise an error, as `set` does."""
        self._check_writable()

    def delete_sync(self, key: str) -> None:
        """Raise an error, as `delete` does."""
        self._check_writable()

    def with_read_only(self, read_only: bool = False) -> Self:
        if not read_only:
            raise NotImplementedError(
                f"with_read_only is not implemented for the {type(self)} store type."
                " Its chunks are byte ranges of files, which it never writes."
            )
        other = copy.copy(self)
        other._is_open = False
        return other

    def close(self) -> None:
        """Close files; the store opens them again if it is read later."""
        super().close()
        self._fetch.close()

    # ---- identity

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ZarrStore) or type(other) is not type(self):
            return False
        return self is other or (
            self._path == other._path
            and self._keys.documents == other._keys.documents
            and self._imread == other._imread
            and self._manifests == other._manifests
        )

    @property
    def _manifests(self) -> dict[str, Manifest]:
        return {path: array.manifest for path, array in self._references.group.arrays()}

    def __hash__(self) -> int:
        return hash((type(self), self._path, tuple(self.files[:1])))

    def __repr__(self) -> str:
        name = f"tiffref.zarr.{type(self).__name__} {redact(self._path)!r}"
        if self._main is None:
            return f"<{name}>"
        return f"<{name} {self._array.dtype} {self._array.shape}>"

    def _repr_html_(self) -> str:
        references = self._references
        _, rows = outline(references.group, references.series, references.sources)
        return html_table(repr(self).strip("<>"), rows, ARRAY_HEADING)

    def __dask_tokenize__(self) -> Any:
        from dask.base import normalize_token

        options = self._main, self._chunkmode, self._zarr_format, self._imread
        return normalize_token((type(self).__name__, self._path, options, self._references))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_keys", "_requests"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._requests = Requests(self._fetch)


class ZarrTiffStore(ZarrStore):
    """A TIFF as a read-only Zarr store, which reads chunks when they are needed.

    Opened as an array, the store is level 0. Opened as a group, it has all levels and
    `multiscales`. If there is only one level, the store lists the keys of the array.

    Parameters
    ----------
    tifffile
        Path, URL, fsspec OpenFile or open binary file; tifffile's `TiffFile`, `TiffPage` or
        `TiffPageSeries`; or references: `References`, a mapping, or the path or URL of a JSON file
        or of a folder of parquet references.
    key
        Pages to read instead of a series: an index, a slice or a sequence of indices.
    series
        Index of the series. The default is the first.
    level
        Index of the pyramid level. By default the store has all levels.
    chunkmode
        A `CHUNKMODE` or its name. By default, chunks are as stored, and contiguous uncompressed
        strips and pages are joined. "strile" or "tile": exactly as stored. "plane", "page" or
        "file": whole planes, pages or files, which the store decodes.
    fillvalue
        Value of missing data, instead of the file's nodata value.
    zattrs
        Attributes to add.
    zarr_format
        Zarr format of the metadata. The default is 2, except for documents that need 3. In Zarr v3
        the root is a group, and microscope images follow OME-NGFF 0.5.
    storage_options
        Options of the fsspec file system of a URL.
    verify
        When to check that a file is unchanged since it was scanned: the "first" time that it is
        read, "always", or "never".
    allow
        Prefixes of the addresses that a reference document may read, as in
        `References.from_kerchunk`.
    options
        `axes` is the order of axes, as in `tiffref.scan`. Of a TIFF, other arguments of that
        function, such as `sidecars` and `strict`. `read_only`, which must be true.

    Raises
    ------
    SourceError, MalformedTiff, UnsupportedTiff, InvalidReferences
        If the file cannot be read, is damaged, or cannot be represented by references.
    SelectionError
        If there is no such series, level or page.
    """

    @checked()
    def __init__(
        self,
        tifffile: Any,
        *,
        key: int | slice | Sequence[int] | None = None,
        series: int | None = None,
        level: int | None = None,
        chunkmode: Any = None,
        fillvalue: Any = None,
        zattrs: Mapping[str, Any] | None = None,
        zarr_format: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        verify: str = "first",
        allow: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        read_only = options.pop("read_only", True)
        if options:
            _check_options(options, is_document(tifffile))
        mode, axes = parse_chunkmode(chunkmode), options.pop("axes", None)
        if is_document(tifffile):
            if key is not None:
                what = "a reference document has no pages to choose"
                raise SelectionError(what, got=f"key={key}")
            whole = open_document(tifffile, storage_options, allow)
            if whole.series or series or level is not None:
                whole = select_levels(whole, series or 0, level)
            main = _main_path(whole) if whole.series else _largest_array(whole.group)
            references = with_values(whole, fillvalue, zattrs)
        else:
            from ..tiff.scan import scan

            is_part = hasattr(tifffile, "keyframe")  # a TiffPage or TiffPageSeries
            references = scan(
                tifffile,
                series=0 if series is None and key is None and not is_part else series,
                level=level,
                key=key,
                chunkmode="strile" if mode == CHUNKMODE.STRILE else None,
                fillvalue=fillvalue,
                zattrs=zattrs,
                storage_options=storage_options,
                **options,
            )
            main = _main_path(references)
        if axes is not None or zarr_format == 3:
            references = references.with_axes(axes)
            series_before = references.series
            references = references if zarr_format != 3 else references.laid_out(3)
            main = main if references.series == series_before else _main_path(references)
        super().__init__(
            references=references,
            main=main,
            path=_identify(tifffile, references),
            fetch=make_fetcher(tifffile, references, storage_options, verify),
            chunkmode=mode,
            zarr_format=zarr_format,
            read_only=read_only,
        )


def _check_options(options: Mapping[str, Any], is_document: bool) -> None:
    from ..tiff.scan import ScanOptions, scan

    check_arguments(options, ZarrTiffStore, ScanOptions, scan)
    scan_only = sorted(options.keys() - {"axes", "sidecars"})
    if is_document and scan_only:
        raise UnknownArgument(f"a store of references has no argument '{scan_only[0]}'")


def _main_path(references: References) -> str:
    """Return the path of level 0 of the first series, or raise why it was refused."""
    first = references.series[0]["levels"][0]
    if "path" not in first:
        raise UnsupportedTiff(f"level 0 of the series cannot be represented: {first['refused']}")
    return first["path"]


def _largest_array(group: Group) -> str | None:
    """Return the path of the largest array, which is the main one of other programs' documents."""
    arrays = {path: array for path, array in group.arrays() if path == "" or array.shape}
    return max(arrays, key=lambda path: arrays[path].nbytes) if arrays else None


def with_values(
    references: References, fillvalue: Any, zattrs: Mapping[str, Any] | None
) -> References:
    """Return references with another fill value of images, and with more attributes."""

    def fill(_: str, array: Array) -> Array:
        # coordinates are inlined and have no missing values
        is_coordinate = "role" in array.attributes or bool((array.manifest.source == INLINED).all())
        return array if is_coordinate else array.with_fill_value(fillvalue)

    group = references.group if fillvalue is None else references.group.map_arrays(fill)
    return replace(references, group=group.with_attributes(**check_zattrs(zattrs)))


def _identify(source: Any, references: References) -> str:
    """Return the path, URL or other identifier of the source of a store."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    sources = references.sources
    return sources[0].url if sources else type(source).__name__
