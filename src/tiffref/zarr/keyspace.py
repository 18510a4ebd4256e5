"""The keys of a store, and the values under them: metadata documents and chunks.

Maps keys to documents and chunks and back, reads values or ranges of them, and implements the chunk
modes, in which chunks differ in shape from the segments. A chunk of a whole page of many compressed
strips is no byte range of the file, so the store decodes it; references cannot express it.
Documents are kept as bytes; chunk keys, of which there may be millions, are parsed on request and
generated for listings, never stored. fsspec's ReferenceFileSystem gets its references in the same
way, and reads sources with the checks of the store.
"""

from __future__ import annotations

import asyncio
import base64
import enum
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.reference import ReferenceFileSystem
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from ..codecs.foreign import check_chunk
from ..errors import SelectionError
from ..formats.columnar import missing_columns
from ..formats.kerchunk import in_format
from ..formats.keys import BLOCK_ROWS, KeyRule, parse_key
from ..formats.zarr_metadata import to_texts
from ..io.urls import to_document_url
from ..model.array import Array, Group, chunk_grid, plain_codec
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.manifest import MISSING, Manifest, Source
from ..read.engine import read_array
from ..read.fetch import Fetcher, fetch_pool


class CHUNKMODE(enum.IntEnum):
    """Chunk mode of a store: the unit that is one chunk.

    Names and values are those of tifffile, with two more names as aliases.
    """

    STRILE = 0
    """A strip or tile, as stored."""
    TILE = 0
    """Same as `STRILE`."""
    PLANE = 1
    """A plane of samples: one page, or one sample plane of a page with separate planes."""
    PAGE = 2
    """A page with all its samples."""
    FRAME = 2
    """Same as `PAGE`."""
    FILE = 3
    """The part of the array in one file."""


@dataclass(frozen=True, slots=True)
class ExposedArray:
    """An array as it is stored, and as it is visible through a store.

    `visible` is `array` if chunks are passed to Zarr as stored. Otherwise its chunks have another
    shape and are uncompressed little-endian samples, and its manifest has no byte ranges.
    """

    array: Array
    visible: Array

    @property
    def is_decoded(self) -> bool:
        """Whether the store decodes chunks."""
        return self.visible is not self.array

    def decode(self, flat: int, fetch: Fetcher) -> NDArray[np.uint8]:
        """Return the bytes of a decoded chunk, padded at the edge with the fill value."""
        array, chunks = self.array, self.visible.chunks
        index = np.unravel_index(flat, self.visible.grid) if chunks else ()
        region = tuple(
            slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(index, chunks, strict=True)
        )
        samples = read_array(array, (*region, ...), fetch=fetch)
        if samples.shape != chunks:
            fill = 0 if array.fill_value is None else array.fill_value
            whole = np.full(chunks, fill, array.dtype)
            whole[tuple(slice(n) for n in samples.shape)] = samples
            samples = whole
        little = samples.astype(array.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(little).reshape(-1).view(np.uint8)


def parse_chunkmode(value: Any) -> CHUNKMODE | None:
    """Parse a chunk mode: ours, tifffile's, a case-insensitive name, a number or None.

    Raises
    ------
    SelectionError
        If there is no such mode.
    """
    if value is None:
        return None
    name = value if isinstance(value, str) else getattr(value, "name", None)
    try:
        if name is None and isinstance(value, int) and not isinstance(value, bool):
            return CHUNKMODE(value)
        return CHUNKMODE[str(name).upper()]
    except (KeyError, ValueError):
        expected = ", ".join(CHUNKMODE.__members__)
        raise SelectionError("unknown chunkmode", got=repr(value), expected=expected) from None


def expose_array(array: Array, chunkmode: CHUNKMODE | None, zarr_format: int = 2) -> ExposedArray:
    """Return an array as visible through a store.

    The store decodes chunks if the mode requires another shape than the stored one, or if they need
    different codecs, which Zarr metadata cannot express.
    """
    chunks = _chunk_shape(array, chunkmode)
    if chunks == array.chunks and len(array.codecs) == 1:
        return ExposedArray(array, array)
    grid = chunk_grid(array.shape, chunks)
    manifest = Manifest(grid, (), *missing_columns(math.prod(grid)))
    codec = uncompressed_codec(array.dtype, chunks, zarr_format)
    return ExposedArray(array, replace(array, chunks=chunks, codecs=(codec,), manifest=manifest))


def uncompressed_codec(
    dtype: np.dtype, chunks: tuple[int, ...], zarr_format: int = 2
) -> SegmentCodec | ForeignCodec:
    """Return the codec of chunks of uncompressed little-endian samples."""
    little = dtype.newbyteorder("<").str
    if dtype != np.bool_:
        return plain_codec(math.prod(chunks), little)
    # booleans are packed bits in TIFF, so a `SegmentCodec` cannot express this
    if zarr_format == 3:
        return ForeignCodec(3, {"data_type": "bool", "codecs": [{"name": "bytes"}]})
    return ForeignCodec(2, {"dtype": little, "compressor": None, "filters": None, "order": "C"})


def _chunk_shape(array: Array, chunkmode: CHUNKMODE | None) -> tuple[int, ...]:
    if chunkmode is None or chunkmode == CHUNKMODE.STRILE:
        return array.chunks
    if chunkmode == CHUNKMODE.FILE:
        n_lead = _first_file_dimension(array)
    else:
        n_lead = _first_page_dimension(array, with_samples=chunkmode == CHUNKMODE.PAGE)
    return (*(1,) * n_lead, *(max(1, n) for n in array.shape[n_lead:]))


def _first_file_dimension(array: Array) -> int:
    """Return the first dimension within one file: the leading ones count files, if any do."""
    source = array.manifest.source
    for n_lead in range(len(array.shape) + 1):
        if any(c != 1 for c in array.chunks[:n_lead]):
            break
        steps = source.reshape(math.prod(array.grid[:n_lead]), -1)
        files = steps.max(axis=1, keepdims=True, initial=MISSING)
        if bool(((steps == files) | (steps == MISSING)).all()):
            return n_lead
    return 0


def _first_page_dimension(array: Array, with_samples: bool) -> int:
    """Return the first dimension within one page.

    That is "y", or before it the sample planes or the depth of volumetric tiles.
    """
    kinds = [dim.split("_")[0] for dim in array.dims]
    first = kinds.index("y") if "y" in kinds else max(0, len(kinds) - 2)
    codec = array.codecs[0]
    has_depth = isinstance(codec, SegmentCodec) and codec.shape[0] > 1
    while first and ((kinds[first - 1] == "s" and with_samples) or
                     (kinds[first - 1] == "z" and has_depth)):  # fmt: skip
        first -= 1
    return first


# ---- keys


class Chunk(NamedTuple):
    """One chunk of an array; `flat` is its index in C order."""

    exposed: ExposedArray
    flat: int

    @property
    def location(self) -> tuple[Source, int, int] | None:
        """Source, offset and length; length 0 is the whole source.

        None if the store decodes the chunk, or if it is inlined.
        """
        if self.exposed.is_decoded:
            return None
        manifest, flat = self.exposed.array.manifest, self.flat
        row, offset, length = manifest.at(flat)
        return None if row < 0 else (manifest.sources[row], offset, length)

    def data(self, fetch: Fetcher) -> bytes | memoryview:
        """Return the bytes of a chunk without location."""
        if self.exposed.is_decoded:
            return memoryview(self.exposed.decode(self.flat, fetch))
        return self.exposed.array.manifest.data(self.flat)


class KeySpace:
    """All keys of a store.

    Parameters
    ----------
    texts
        Metadata by key.
    arrays
        Arrays by path; "" is the root.
    unlisted
        Keys and paths that exist but are not listed: the store of a pyramid lists a group, but can
        also be opened as an array, which is level 0.
    zarr_format
        2 or 3, which determines the format of chunk keys.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        arrays: dict[str, ExposedArray],
        unlisted: frozenset[str] = frozenset(),
        zarr_format: int = 2,
    ) -> None:
        self.documents = {key: text.encode() for key, text in texts.items()}
        self.arrays = arrays
        self._unlisted = unlisted
        self._listed_arrays = [path for path in arrays if path not in unlisted]
        self._zarr_format = zarr_format
        self._grids = {path: exposed.visible.grid for path, exposed in arrays.items()}

    @property
    def _listed_documents(self) -> list[str]:
        return [key for key in self.documents if key not in self._unlisted]

    def find(self, key: str) -> bytes | Chunk | None:
        """Return the document or chunk of a key; None if there is none."""
        document = self.documents.get(key)
        if document is not None:
            return document
        chunk = parse_key(key, self._grids, self._zarr_format)
        if chunk is None:
            return None
        path, flat = chunk
        exposed = self.arrays[path]
        if not exposed.is_decoded and exposed.array.manifest.at(flat)[0] == MISSING:
            return None
        return Chunk(exposed, flat)

    def check_missing(self, key: str, fetch: Fetcher) -> None:
        """Check the file of a missing chunk, if the key is that of one; errors as in `Fetcher`."""
        chunk = parse_key(key, self._grids, self._zarr_format)
        if chunk is not None:
            path, flat = chunk
            fetch.check_missing(self.arrays[path].array.manifest, np.array([flat]))

    def __iter__(self) -> Iterator[str]:
        """Iterate over all listed keys, documents first."""
        return self.with_prefix("")

    def chunk_keys(self, path: str) -> Iterator[str]:
        """Yield the keys of the chunks of one array, without missing ones."""
        exposed = self.arrays[path]
        rule = KeyRule.written(path, self._zarr_format)
        source = exposed.array.manifest.source
        n_chunks = exposed.visible.manifest.n_chunks
        for start in range(0, n_chunks, BLOCK_ROWS):
            flat = np.arange(start, min(start + BLOCK_ROWS, n_chunks))
            if not exposed.is_decoded:
                flat = flat[source[flat] != MISSING]
            if len(flat):
                yield from rule.keys(exposed.visible.grid, flat)

    def with_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with a prefix, or that are below the array of that path."""
        path = prefix.rstrip("/")
        if path and path in self.arrays:  # zarr adds no slash: "image" must not find "image_1"
            yield from (key for key in self.documents if key.startswith(f"{path}/"))
            yield from self.chunk_keys(path)
            return
        yield from (key for key in self._listed_documents if key.startswith(prefix))
        for path in self._listed_arrays:
            lead = f"{path}/" if path else ""
            if lead.startswith(prefix):
                yield from self.chunk_keys(path)
            elif prefix.startswith(lead):
                yield from (key for key in self.chunk_keys(path) if key.startswith(prefix))

    def children(self, path: str) -> Iterator[str]:
        """Yield the distinct names directly below a path: nodes, documents and chunks.

        If the root is an array and a group, these are the names of the group: zarr looks for a node
        behind each of them.
        """
        path = path.strip("/")
        lead = f"{path}/" if path else ""
        seen: set[str] = set()
        nodes = (f"{p}/" for p in self.arrays if p)
        for key in (*(self.documents if path else self._listed_documents), *nodes):
            name = key.removeprefix(lead).split("/")[0] if key.startswith(lead) else ""
            if name and name not in seen:
                seen.add(name)
                yield name
        if path not in self.arrays or not (path or len(self.arrays) == 1):
            return
        if self._zarr_format == 3:
            yield "c"
        else:
            yield from (key[len(lead) :] for key in self.chunk_keys(path))

    def n_keys(self) -> int:
        """Return the number of listed keys."""
        n_keys = len(self._listed_documents)
        for exposed in map(self.arrays.__getitem__, self._listed_arrays):
            manifest = exposed.visible.manifest
            n_missing = 0 if exposed.is_decoded else int(manifest.is_missing.sum())
            n_keys += manifest.n_chunks - n_missing
        return n_keys


def build_keys(
    group: Group, main: str | None, chunkmode: CHUNKMODE | None, zarr_format: int | None = None
) -> KeySpace:
    """Build the keys of a store of a group.

    Parameters
    ----------
    group
        The arrays.
    main
        Path of the array that opens if the store is opened as an array, or None. In Zarr v2 the
        root can be opened as a group and as this array; it is listed as the array if that is the
        only one, else as the group. In v3 the root can be only one of them, and is the group.
    chunkmode
        Chunk mode.
    zarr_format
        2 or 3; None is 2, unless a codec exists only in 3.
    """
    codecs = (codec for _, array in group.arrays() for codec in array.codecs)
    formats = (codec.zarr_format for codec in codecs if isinstance(codec, ForeignCodec))
    zarr_format = zarr_format or max(formats, default=2)
    exposed = {
        path: expose_array(node, chunkmode, zarr_format)
        for path, node in in_format(group, zarr_format)
        if isinstance(node, Array)
    }
    visible = group.map_arrays(lambda path, _: exposed[path].visible)
    # our own codecs, because other packages may have registered the portable names
    texts_of = functools.partial(to_texts, zarr_format=zarr_format, is_own=True)
    if main is None or (main and zarr_format == 3):
        texts = texts_of(visible) if visible.children else {}
        return KeySpace(texts, exposed, zarr_format=zarr_format)
    below = visible.with_children({name: child for name, child in visible.children.items() if name})
    texts = texts_of(below)
    if zarr_format == 3 and below.children:
        return KeySpace(texts, exposed, zarr_format=zarr_format)
    array = exposed[main].visible
    more = {key: value for key, value in group.attributes.items() if key not in array.attributes}
    root = texts_of(Group({"": array}), root=more)
    unlisted = frozenset({"", ".zarray"})
    if len(exposed) == 1:
        unlisted = frozenset((*texts, main)) - root.keys() - {""}
    exposed[""] = exposed[main]
    return KeySpace({**texts, **root}, exposed, unlisted, zarr_format)


def read_value(value: bytes | Chunk | None, byte_range: ByteRequest | None, fetch: Fetcher) -> Any:
    """Read a document or chunk, as a buffer.

    Parameters
    ----------
    value
        From `KeySpace.find`; None returns None.
    byte_range
        The part to read; None for all.
    fetch
        Fetcher of the sources.
    """
    location = value.location if isinstance(value, Chunk) else None
    if location is None:
        return _slice(value.data(fetch) if isinstance(value, Chunk) else value, byte_range)
    source, offset, length = location
    if not length:
        if byte_range is None:
            return fetch.read_all(source)
        length = fetch.size(source)
    start, stop = resolve_range(byte_range, length)
    return fetch.read(source, offset + start, stop - start) if stop > start else b""


def check_value(chunk: Chunk, data: Any, byte_range: ByteRequest | None) -> Any:
    """Check that a whole chunk decodes within bounds, and return a range of it.

    The decoded samples are discarded; zarr decodes the chunk again, with decoders without bounds.
    """
    if data is not None and not chunk.exposed.is_decoded:
        array = chunk.exposed.array
        check_chunk(array.codec, data, array.chunks, array.dtype)
    return _slice(data, byte_range)


def chunk_size(chunk: Chunk, fetch: Fetcher) -> int:
    """Return the size of the value of a chunk, without reading it if possible."""
    if chunk.exposed.is_decoded:
        return math.prod(chunk.exposed.visible.chunks) * chunk.exposed.array.dtype.itemsize
    if chunk.location is None:
        return len(chunk.data(fetch))
    source, _, length = chunk.location
    return length or fetch.size(source)


def resolve_range(byte_range: ByteRequest | None, length: int) -> tuple[int, int]:
    """Return start and stop of a byte range in a value of a given length.

    Raises
    ------
    ValueError
        If it is not one of zarr's three kinds of byte range.
    """
    if byte_range is None:
        return 0, length
    if isinstance(byte_range, RangeByteRequest):
        return min(byte_range.start, length), min(byte_range.end, length)
    if isinstance(byte_range, OffsetByteRequest):
        return min(byte_range.offset, length), length
    if isinstance(byte_range, SuffixByteRequest):
        return max(0, length - byte_range.suffix), length
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")


def _slice(data: Any, byte_range: ByteRequest | None) -> Any:
    if byte_range is None or data is None:
        return data
    start, stop = resolve_range(byte_range, len(data))
    return data[start:stop]


class _ReferenceMapping(Mapping[str, Any]):
    """Mapping of the keys of a store to the values that a reference document has for them."""

    def __init__(self, keys: KeySpace, fetch: Fetcher) -> None:
        self._keys = keys
        self._fetch = fetch

    def __getitem__(self, key: str) -> bytes | list[Any]:
        value = self._keys.find(key) if isinstance(key, str) else None
        if value is None:
            self._keys.check_missing(str(key), self._fetch)
            raise KeyError(key)
        if not isinstance(value, Chunk):
            return value
        if value.location is None:
            data = bytes(value.data(self._fetch))
            # the file system would decode bytes that begin like a base64 value
            return b"base64:" + base64.b64encode(data) if data.startswith(b"base64:") else data
        source, offset, length = value.location
        self._fetch.check_allowed(source.url)
        url = to_document_url(source.url)
        return [url, offset, length] if length else [url]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._keys.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return self._keys.n_keys()


class _SourceFileSystem(AsyncFileSystem):
    """The sources of a store as files by their URLs in documents; `fetch` reads and checks them."""

    cachable = False

    def __init__(self, sources: Mapping[str, Source], fetch: Fetcher) -> None:
        super().__init__()
        self._sources = sources
        self._fetch = fetch

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        source = self._find(path)
        if start is None and end is None:
            return await _run(self._fetch.read_all, source)
        if end is None or min(start or 0, end) < 0:
            start, end, _step = slice(start, end).indices(await _run(self._fetch.size, source))
        first = start or 0
        return await _run(self._fetch.read, source, first, end - first) if end > first else b""

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        size = await _run(self._fetch.size, self._find(path))
        return {"name": path, "type": "file", "size": size}

    def _find(self, path: str) -> Source:
        if path not in self._sources:
            raise FileNotFoundError(path)
        return self._sources[path]


async def _run(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.wrap_future(fetch_pool().submit(work, *arguments))


def reference_filesystem(keys: KeySpace, fetch: Fetcher) -> ReferenceFileSystem:
    """Return a file system with the keys of a store as its files."""
    sources = {
        to_document_url(source.url): source
        for exposed in keys.arrays.values()
        for source in exposed.array.manifest.sources
    }
    files = _SourceFileSystem(sources, fetch)
    fs = ReferenceFileSystem({}, fs={url.split("://", 1)[0]: files for url in sources} or None)
    fs.references = _ReferenceMapping(keys, fetch)
    return fs
