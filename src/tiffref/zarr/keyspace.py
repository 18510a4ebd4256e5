"""The keys of a store: metadata documents and chunks, found by arithmetic.

Owns the way from a key to a document or to a chunk of an array and back, what is read under a key,
whole or a range of it, and the chunk modes, by which chunks have another shape than the segments. A
chunk that is a whole page of many compressed strips has no bytes of its own in the file: the store
decodes it, references cannot. Documents are few and kept as bytes; chunk keys are parsed when asked
for and written when listed, never kept: there may be millions. fsspec's ReferenceFileSystem gets
its references that way as well, and reads the sources with the checks of the store itself.
"""

from __future__ import annotations

import asyncio
import base64
import enum
import json
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
from ..formats.kerchunk import in_format
from ..formats.keys import BLOCK_ROWS, KeyRule, parse_key
from ..formats.zarr_metadata import to_documents
from ..io.urls import to_document_url
from ..model.array import Array, Group
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.manifest import INLINED, MISSING, Manifest, Source
from ..read.engine import read_array
from ..read.fetch import Fetcher, fetch_pool

__all__ = [
    "CHUNKMODE",
    "Chunk",
    "KeySpace",
    "Served",
    "build_keys",
    "check_value",
    "parse_chunkmode",
    "plain_codec",
    "read_value",
    "reference_filesystem",
    "resolve_range",
    "serve",
    "value_size",
]


class CHUNKMODE(enum.IntEnum):
    """What a chunk of a store is.

    The values are those of tifffile, the names those of tifffile and two more for the same things.
    """

    STRILE = 0
    """A strip or tile, as stored."""
    TILE = 0
    """The same."""
    PLANE = 1
    """A plane of samples: one page, or one sample plane of a page that stores them apart."""
    PAGE = 2
    """A page with all its samples."""
    FRAME = 2
    """The same."""
    FILE = 3
    """All that one file holds of the array."""


@dataclass(frozen=True, slots=True)
class Served:
    """An array as it is stored, and as a store shows it to Zarr.

    `shown` is `array` where chunks are handed on as they lie in the file; else its chunks have
    another shape, are plain little-endian samples, and lie nowhere (its manifest says so).
    """

    array: Array
    shown: Array

    @property
    def is_decoded(self) -> bool:
        """Whether chunks are decoded before they are handed on."""
        return self.shown is not self.array

    def chunk_nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.shown.chunks) * self.array.dtype.itemsize

    def decode(self, flat: int, fetch: Fetcher) -> NDArray[np.uint8]:
        """Return the bytes of a decoded chunk, padded at the edge with the fill value."""
        array, chunks = self.array, self.shown.chunks
        index = np.unravel_index(flat, self.shown.grid) if chunks else ()
        region = tuple(
            slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(index, chunks, strict=True)
        )
        block = read_array(array, (*region, ...), fetch=fetch)
        if block.shape != chunks:
            fill = 0 if array.fill_value is None else array.fill_value
            whole = np.full(chunks, fill, array.dtype)
            whole[tuple(slice(n) for n in block.shape)] = block
            block = whole
        little = block.astype(array.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(little).reshape(-1).view(np.uint8)


def parse_chunkmode(value: Any) -> CHUNKMODE | None:
    """Understand a chunk mode: ours, tifffile's, a name in any case, a number or None.

    Raises
    ------
    ValueError
        If there is no such mode.
    """
    if value is None:
        return None
    name = value if isinstance(value, str) else getattr(value, "name", None)
    if name is None and isinstance(value, int) and not isinstance(value, bool):
        return CHUNKMODE(value)
    try:
        return CHUNKMODE[str(name).upper()]
    except KeyError:
        known = ", ".join(CHUNKMODE.__members__)
        raise ValueError(f"chunkmode is {value!r}, expected one of {known}") from None


def serve(array: Array, chunkmode: CHUNKMODE | None, zarr_format: int = 2) -> Served:
    """Decide how a store with metadata of a Zarr format shows an array.

    Chunks are decoded where the mode asks for another shape than they are stored in, or where they
    are not all stored alike, which Zarr metadata cannot say.
    """
    chunks = _chunk_shape(array, chunkmode)
    if chunks == array.chunks and len(array.codecs) == 1:
        return Served(array, array)
    grid = tuple(-(-n // c) for n, c in zip(array.shape, chunks, strict=True))
    nothing = np.zeros(math.prod(grid), np.uint64)
    manifest = Manifest.from_columns(grid, (), nothing, nothing)
    codec = plain_codec(array.dtype, chunks, zarr_format)
    shown = replace(array, chunks=chunks, codecs=(codec,), manifest=manifest)
    return Served(array, shown)


def plain_codec(
    dtype: np.dtype, chunks: tuple[int, ...], zarr_format: int = 2
) -> SegmentCodec | ForeignCodec:
    """Return the codec of chunks that are little-endian samples as they stand."""
    little = dtype.newbyteorder("<").str
    if dtype != np.bool_:
        return SegmentCodec((1, 1, 1, math.prod(chunks)), little)
    # to a TIFF these are packed bits, so that only Zarr can say it
    if zarr_format == 3:
        return ForeignCodec(3, {"data_type": "bool", "codecs": [{"name": "bytes"}]})
    return ForeignCodec(2, {"dtype": little, "compressor": None, "filters": None, "order": "C"})


def _chunk_shape(array: Array, chunkmode: CHUNKMODE | None) -> tuple[int, ...]:
    if chunkmode is None or chunkmode == CHUNKMODE.STRILE:
        return array.chunks
    if chunkmode == CHUNKMODE.FILE:
        return _file_shape(array)
    n_page = _n_page_dimensions(array, with_samples=chunkmode == CHUNKMODE.PAGE)
    n_lead = len(array.shape) - n_page
    return (*(1,) * n_lead, *(max(1, n) for n in array.shape[n_lead:]))


def _file_shape(array: Array) -> tuple[int, ...]:
    """Get what one file holds: all, or one step of the leading dimensions in a stack of files."""
    source = array.manifest.source
    for n_lead in range(len(array.shape) + 1):
        if any(c != 1 for c in array.chunks[:n_lead]):
            break
        steps = source.reshape(math.prod(array.grid[:n_lead]), -1)
        files = steps.max(axis=1, keepdims=True, initial=MISSING)
        if bool(((steps == files) | (steps == MISSING)).all()):
            return (*(1,) * n_lead, *(max(1, n) for n in array.shape[n_lead:]))
    return tuple(max(1, n) for n in array.shape)


def _n_page_dimensions(array: Array, with_samples: bool) -> int:
    """Count the trailing dimensions that one page spans.

    They begin at "y"; sample planes, and the depth of volumetric tiles, come right before it.
    """
    kinds = [dim.split("_")[0] for dim in array.dims]
    first = kinds.index("y") if "y" in kinds else max(0, len(kinds) - 2)
    codec = array.codecs[0]
    has_depth = isinstance(codec, SegmentCodec) and codec.shape[0] > 1
    while first and ((kinds[first - 1] == "s" and with_samples) or
                     (kinds[first - 1] == "z" and has_depth)):  # fmt: skip
        first -= 1
    return len(kinds) - first


# ---- keys


class Chunk(NamedTuple):
    """One chunk of an array: `flat` is its C-order index in the grid."""

    served: Served
    flat: int

    @property
    def inlined(self) -> bytes | None:
        """Its bytes, if they are in the manifest."""
        manifest = self.served.array.manifest
        return manifest.data(self.flat) if manifest.at(self.flat)[0] == INLINED else None

    def location(self) -> tuple[Source, int, int] | None:
        """Source, offset and length of a chunk that lies in a source; length 0 is all of it.

        None for a chunk that is decoded before it is handed on, or lies in the manifest.
        """
        if self.served.is_decoded:
            return None
        manifest, flat = self.served.array.manifest, self.flat
        row, offset, length = manifest.at(flat)
        return None if row < 0 else (manifest.sources[row], offset, length)


class KeySpace:
    """All keys of a store.

    Parameters
    ----------
    documents
        Metadata by key.
    arrays
        Arrays by path; "" is the root.
    unlisted
        Whether keys of the root array are answered but not listed: a store over a pyramid is a
        group to those who list it, and also its level 0 to those who open it as an array.
    zarr_format
        2 or 3, which spells the keys of chunks.
    """

    def __init__(
        self,
        documents: Mapping[str, bytes],
        arrays: dict[str, Served],
        unlisted: frozenset[str] = frozenset(),
        zarr_format: int = 2,
    ) -> None:
        self.documents = documents
        self.arrays = arrays
        self._unlisted = unlisted
        self._zarr_format = zarr_format
        self._grids = {path: served.shown.grid for path, served in arrays.items()}

    def find(self, key: str) -> bytes | Chunk | None:
        """Return the document or chunk of a key; None where there is none."""
        document = self.documents.get(key)
        if document is not None:
            return document
        found = parse_key(key, self._grids, self._zarr_format)
        if found is None:
            return None
        path, flat = found
        served = self.arrays[path]
        if not served.is_decoded and served.array.manifest.at(flat)[0] == MISSING:
            return None
        return Chunk(served, flat)

    def __iter__(self) -> Iterator[str]:
        """Return all keys, documents first, without keeping them."""
        for key in self.documents:
            if key not in self._unlisted:
                yield key
        for path in self.arrays:
            if path not in self._unlisted:
                yield from self.chunk_keys(path)

    def chunk_keys(self, path: str) -> Iterator[str]:
        """Return the keys of the chunks of one array that are there."""
        served = self.arrays[path]
        rule = KeyRule.written(path, self._zarr_format)
        source = served.array.manifest.source
        n_chunks = served.shown.manifest.n_chunks
        for start in range(0, n_chunks, BLOCK_ROWS):
            flat = np.arange(start, min(start + BLOCK_ROWS, n_chunks))
            if not served.is_decoded:
                flat = flat[source[flat] != MISSING]
            if len(flat):
                yield from rule.keys(served.shown.grid, flat)

    def with_prefix(self, prefix: str) -> Iterator[str]:
        """Return the keys that begin with a prefix, looking only into arrays that can have some."""
        for key in self.documents:
            if key.startswith(prefix) and key not in self._unlisted:
                yield key
        for path in self.arrays:
            lead = f"{path}/" if path else ""
            if path in self._unlisted or not (lead.startswith(prefix) or prefix.startswith(lead)):
                continue
            yield from (key for key in self.chunk_keys(path) if key.startswith(prefix))

    def children(self, path: str) -> Iterator[str]:
        """Return the names right below a path: nodes, documents and chunks, each once."""
        lead = f"{path.rstrip('/')}/" if path.strip("/") else ""
        seen: set[str] = set()
        nodes = (f"{p}/" for p in self.arrays if p)
        for key in (*(key for key in self.documents if key not in self._unlisted), *nodes):
            name = key.removeprefix(lead).split("/")[0] if key.startswith(lead) else ""
            if name and name not in seen:
                seen.add(name)
                yield name
        at = lead.rstrip("/")
        if at in self._unlisted or at not in self.arrays:
            return
        if self._zarr_format == 3:
            yield "c"
            return
        yield from (key[len(lead) :] for key in self.chunk_keys(at))

    def n_keys(self) -> int:
        """Count all keys that are listed."""
        n_keys = sum(key not in self._unlisted for key in self.documents)
        for path, served in self.arrays.items():
            if path in self._unlisted:
                continue
            source = served.array.manifest.source
            is_all = served.is_decoded
            n_keys += served.shown.manifest.n_chunks if is_all else int((source != MISSING).sum())
        return n_keys


def build_keys(
    group: Group, main: str | None, chunkmode: CHUNKMODE | None, zarr_format: int | None = None
) -> KeySpace:
    """Lay out the keys of a store over a group.

    Parameters
    ----------
    group
        The arrays.
    main
        Path of the array that the store is when it is opened as one, or None. The root of Zarr v2
        answers as a group and as this array; it is listed as the array where that is the only one,
        else as the group. The root of v3 can be one of them only, and is the group.
    chunkmode
        What a chunk is.
    zarr_format
        2 or 3; None is 2, unless a codec is known in 3 only.
    """
    known = max((_zarr_format(array) for _, array in group.arrays()), default=2)
    zarr_format = zarr_format or known
    group = in_format(group, zarr_format)
    served = {path: serve(array, chunkmode, zarr_format) for path, array in group.arrays()}
    shown = group.map_arrays(lambda path, _: served[path].shown)
    if main is None or (main and zarr_format == 3):
        # zarr finds codecs by name, and other packages may have taken the portable ones
        documents = to_documents(shown, zarr_format, is_own=True) if shown.children else {}
        return KeySpace(_encode(documents), served, zarr_format=zarr_format)
    alone = to_documents(Group({"": served[main].shown}), zarr_format, is_own=True)
    rest = shown.with_children({name: child for name, child in shown.children.items() if name})
    below = rest if rest.children else Group({}, group.attributes)
    documents = to_documents(below, zarr_format, is_own=True)
    if zarr_format == 3 and rest.children:
        return KeySpace(_encode(documents), served, zarr_format=zarr_format)
    both = _merge_attributes(documents, alone)
    unlisted = frozenset({"", ".zarray"})
    if len(served) == 1:
        unlisted = frozenset((*documents, main)) - both.keys() - {""}
    served[""] = served[main]
    return KeySpace(_encode({**documents, **both}), served, unlisted, zarr_format)


def _zarr_format(array: Array) -> int:
    return max(c.zarr_format if isinstance(c, ForeignCodec) else 2 for c in array.codecs)


def _merge_attributes(
    group: Mapping[str, dict[str, Any]], array: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the documents of a root array with the attributes of the group that it stands for."""
    merged = dict(array)
    if ".zattrs" in merged:
        merged[".zattrs"] = {**group.get(".zattrs", {}), **merged[".zattrs"]}
    else:
        attributes = {**group["zarr.json"]["attributes"], **merged["zarr.json"]["attributes"]}
        merged["zarr.json"] = {**merged["zarr.json"], "attributes": attributes}
    return merged


def _encode(documents: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
    return {key: json.dumps(document).encode() for key, document in documents.items()}


def read_value(found: bytes | Chunk | None, byte_range: ByteRequest | None, fetch: Fetcher) -> Any:
    """Return the bytes of what a key names, as a buffer; None where it names nothing.

    Parameters
    ----------
    found
        What the store's keys say of the key.
    byte_range
        The part wanted, or None for all.
    fetch
        How to reach the sources.
    """
    if not isinstance(found, Chunk):
        return None if found is None else _cut(found, byte_range)
    if found.served.is_decoded:
        return _cut(memoryview(found.served.decode(found.flat, fetch)), byte_range)
    place = found.location()
    if place is None:
        return _cut(found.inlined, byte_range)
    source, offset, length = place
    if not length:
        if byte_range is None:
            return fetch.read_all(source)
        length = fetch.size(source)
    start, stop = resolve_range(byte_range, length)
    return fetch.read(source, offset + start, stop - start) if stop > start else b""


def check_value(found: Chunk, data: Any, byte_range: ByteRequest | None) -> Any:
    """Return a range of a whole chunk if that decodes within bounds.

    What is decoded here is thrown away: zarr's own decoders have no bounds.
    """
    if data is not None and not found.served.is_decoded:
        array = found.served.array
        check_chunk(array.codec, data, array.chunks, array.dtype)
    return None if data is None else _cut(data, byte_range)


def value_size(found: bytes | Chunk, fetch: Fetcher) -> int:
    """Return the bytes of what a key names without reading it."""
    if not isinstance(found, Chunk):
        return len(found)
    if found.served.is_decoded:
        return found.served.chunk_nbytes()
    place = found.location()
    if place is None:
        return len(found.inlined or b"")
    source, _, length = place
    return length or fetch.size(source)


def resolve_range(byte_range: ByteRequest | None, length: int) -> tuple[int, int]:
    """Return start and stop of a byte range inside a value of some length.

    Raises
    ------
    ValueError
        If it is none of zarr's three kinds of byte range.
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


def _cut(data: Any, byte_range: ByteRequest | None) -> Any:
    if byte_range is None:
        return data
    start, stop = resolve_range(byte_range, len(data))
    return data[start:stop]


class _ReferenceMapping(Mapping[str, Any]):
    """The keys of a store with what a reference document has for each."""

    def __init__(self, keys: KeySpace, fetch: Fetcher) -> None:
        self._keys = keys
        self._fetch = fetch

    def __getitem__(self, key: str) -> bytes | list[Any]:
        found = self._keys.find(key) if isinstance(key, str) else None
        if found is None:
            raise KeyError(key)
        if not isinstance(found, Chunk):
            return found
        if found.served.is_decoded:
            return _escape(found.served.decode(found.flat, self._fetch).tobytes())
        place = found.location()
        if place is None:
            return _escape(found.inlined or b"")
        source, offset, length = place
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
    """The sources of a store as files, by their addresses in documents.

    Parameters
    ----------
    sources
        By address.
    fetch
        Reads them, and says what may not be read, is no longer what it was, or is too short.
    """

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
        for served in keys.arrays.values()
        for source in served.array.manifest.sources
    }
    files = _SourceFileSystem(sources, fetch)
    fs = ReferenceFileSystem({}, fs={url.split("://", 1)[0]: files for url in sources} or None)
    fs.references = _ReferenceMapping(keys, fetch)
    return fs


def _escape(data: bytes) -> bytes:
    """Keep the file system from decoding bytes that happen to begin like its base64 values."""
    return b"base64:" + base64.b64encode(data) if data.startswith(b"base64:") else data
