"""The chunk manifest: the byte range of each chunk, stored in columns.

A manifest has a table of sources, and for each chunk of a grid, in C order, the source, offset and
length of its bytes. A million chunks are three NumPy arrays (20 MB), not a million Python objects.
A manifest opens no files and knows no codecs. The columns of large documents are loaded lazily,
in blocks, when `at` or `take` needs one of their chunks; the caller provides the loader.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MalformedTiff

_SMALL_COLUMN = 64
"""Number of values up to which a Python list is faster than NumPy."""


def has_zeros(column: NDArray[np.uint64]) -> bool:
    """Return whether any value is 0."""
    if column.size <= _SMALL_COLUMN:
        return 0 in column.ravel().tolist()
    return int(np.count_nonzero(column)) < column.size


class Columns(NamedTuple):
    """The columns of a manifest for a run of consecutive chunks.

    `source`, `offset` and `length` are `(n,)`; `inlined` maps the index of a chunk within the run
    to its bytes.
    """

    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    inlined: Mapping[int, bytes]


class LazyColumns:
    """Columns of a manifest in blocks that are loaded when first needed.

    Parameters
    ----------
    n_blocks
        Number of blocks, at least 1.
    block_rows
        Chunks in each block; the last may have fewer.
    load
        Returns the columns of a block by its number. Called once per block, by one thread at a
        time.
    """

    def __init__(self, n_blocks: int, block_rows: int, load: Callable[[int], Columns]) -> None:
        self._block_rows = block_rows
        self._load = load
        self._blocks: list[Columns | None] = [None] * n_blocks
        self._lock = threading.Lock()

    def at(self, flat: int) -> tuple[int, int, int]:
        """Return source, offset and length of one chunk."""
        number, row = divmod(flat, self._block_rows)
        source, offset, length, _ = self._block(number)
        return source.item(row), offset.item(row), length.item(row)

    def take(
        self, flat: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint64]]:
        """Return source, offset and length, `(n,)`, of chunks by their flat index in C order."""
        number, row = np.divmod(flat, self._block_rows)
        source = np.empty(len(flat), np.int32)
        offset, length = np.empty(len(flat), np.uint64), np.empty(len(flat), np.uint64)
        for n in np.unique(number).tolist():
            in_block = number == n
            block = self._block(n)
            source[in_block] = block.source[row[in_block]]
            offset[in_block] = block.offset[row[in_block]]
            length[in_block] = block.length[row[in_block]]
        return source, offset, length

    def inlined(self, flat: int) -> bytes:
        """Return the bytes of an inlined chunk."""
        number, row = divmod(flat, self._block_rows)
        return self._block(number).inlined[row]

    def join(self) -> Columns:
        """Load all blocks and concatenate their columns."""
        blocks = [self._block(number) for number in range(len(self._blocks))]
        inlined = {
            number * self._block_rows + row: data
            for number, block in enumerate(blocks)
            for row, data in block.inlined.items()
        }
        source, offset, length = (np.concatenate([block[i] for block in blocks]) for i in range(3))
        return Columns(source, offset, length, inlined)

    def _block(self, number: int) -> Columns:
        block = self._blocks[number]
        if block is None:
            with self._lock:
                block = self._blocks[number]
                if block is None:
                    block = self._blocks[number] = self._load(number)
        return block


MISSING = -1
"""`source` of a chunk without bytes, which reads as the fill value."""
INLINED = -2
"""`source` of a chunk whose bytes are in the manifest itself."""
OBJECT_SCHEME = "object://"
"""Prefix of the `url` of an open file without a name, which only this process can read."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file or object that contains chunks, as it was when it was scanned.

    `url` is an absolute URL or a local path; `size` is in bytes; `mtime` in seconds since 1970
    (UTC); `etag` without quotes. Values that the file system does not report are None. `codec` is
    the index in `Array.codecs` of the codec that decodes the chunks of this source.
    """

    url: str
    size: int | None = None
    mtime: float | None = None
    etag: str | None = None
    codec: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """The byte ranges of all chunks of one array.

    `shape` is the chunk grid. `source` is `(n,)` int32: a row of `sources`, `MISSING` or
    `INLINED`. `offset` and `length` are `(n,)` uint64, in bytes; `length` 0 with a source means
    the whole source. `inlined` maps a flat chunk index to its bytes.
    """

    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    inlined: Mapping[int, bytes] = field(default_factory=dict)
    _lazy: LazyColumns | None = field(default=None, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.sources or any(len(data) % 8 for data in self.inlined.values()):
            columns = self.source, self.offset, self.length, self.inlined
            return Manifest, (self.shape, self.sources, *columns)
        # coordinates, which are most of a store's bytes
        return _unpack, (self.shape, {n: _pack_numbers(data) for n, data in self.inlined.items()})

    @classmethod
    def from_lazy(
        cls, shape: Sequence[int], sources: Sequence[Source], columns: LazyColumns
    ) -> Manifest:
        """Return a manifest whose columns are loaded when they are first needed.

        Accessing `source`, `offset`, `length` or `inlined` loads all blocks.

        Parameters
        ----------
        shape
            The chunk grid.
        sources
            All sources.
        columns
            Blocks that cover all chunks of the grid.
        """
        manifest = object.__new__(cls)
        values = {"shape": tuple(shape), "sources": tuple(sources), "_lazy": columns}
        for name, value in values.items():
            object.__setattr__(manifest, name, value)
        return manifest

    def __getattr__(self, name: str) -> Any:
        """Load all columns on the first access to one; Python calls this for unset attributes."""
        if name in Columns._fields:
            self.load()
        return object.__getattribute__(self, name)

    def load(self) -> None:
        """Load the columns that are not yet loaded."""
        lazy = self._lazy
        if lazy is not None:
            for name, column in lazy.join()._asdict().items():
                object.__setattr__(self, name, column)
            object.__setattr__(self, "_lazy", None)

    def at(self, flat: int) -> tuple[int, int, int]:
        """Return source, offset and length of a chunk by its flat index in C order."""
        lazy = self._lazy
        if lazy is not None:
            return lazy.at(flat)
        return self.source.item(flat), self.offset.item(flat), self.length.item(flat)

    def take(
        self, flat: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint64]]:
        """Return source, offset and length, `(n,)`, of chunks by their flat index in C order."""
        lazy = self._lazy
        if lazy is not None:
            return lazy.take(flat)
        return self.source[flat], self.offset[flat], self.length[flat]

    def data(self, flat: int) -> bytes:
        """Return the bytes of an inlined chunk."""
        lazy = self._lazy
        return self.inlined[flat] if lazy is None else lazy.inlined(flat)

    @classmethod
    def from_columns(
        cls,
        shape: Sequence[int],
        source: Source | Sequence[Source],
        offset: ArrayLike,
        length: ArrayLike,
        *,
        index: ArrayLike | None = None,
    ) -> Manifest:
        """Build a manifest from columns in C order.

        A chunk with offset 0 or length 0 is missing: this is how TIFF writers mark sparse segments.

        Parameters
        ----------
        shape
            The chunk grid.
        source
            One source, or all of them.
        offset, length
            `(n,)` integers, in bytes, one for each chunk of the grid.
        index
            `(n,)` integers, the row of `source` of each chunk; 0 if not given.
        """
        sources = (source,) if isinstance(source, Source) else tuple(source)
        offsets = np.ascontiguousarray(offset, np.uint64).reshape(-1)
        lengths = np.ascontiguousarray(length, np.uint64).reshape(-1)
        n_chunks = math.prod(shape)
        if not n_chunks == len(offsets) == len(lengths):
            raise MalformedTiff(
                "the chunk grid does not match its byte ranges",
                got=f"{len(offsets)} offsets and {len(lengths)} lengths",
                expected=f"{n_chunks} of each for grid {tuple(shape)}",
            )
        column = np.zeros(n_chunks, np.int32)
        if index is not None:
            column[:] = np.asarray(index, np.int32).reshape(-1)
        if has_zeros(lengths) or has_zeros(offsets):
            column[(lengths == 0) | (offsets == 0)] = MISSING
        return cls(tuple(shape), sources, column, offsets, lengths)

    @property
    def n_chunks(self) -> int:
        """Chunks in the grid, missing ones included."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Memory used by the columns, in bytes."""
        return self.source.nbytes + self.offset.nbytes + self.length.nbytes

    @property
    def is_missing(self) -> NDArray[np.bool_]:
        """`(n,)` bool: chunks that read as the fill value."""
        return self.source == MISSING

    def with_sources(self, rename: Callable[[Source], Source]) -> Manifest:
        """Return the same chunks with every source passed through `rename`."""
        return replace(self, sources=tuple(rename(source) for source in self.sources))

    def with_inlined(self, inlined: Mapping[int, bytes]) -> Manifest:
        """Return the manifest with more chunks inlined."""
        column = self.source.copy()
        column[list(inlined)] = INLINED
        return replace(self, source=column, inlined={**self.inlined, **inlined})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Manifest):
            return NotImplemented
        stored = self.source >= 0
        return (
            self.shape == other.shape
            and self.sources == other.sources
            and dict(self.inlined) == dict(other.inlined)
            and np.array_equal(self.source, other.source)
            and np.array_equal(self.offset[stored], other.offset[stored])
            and np.array_equal(self.length[stored], other.length[stored])
        )

    __hash__ = None  # type: ignore[assignment]


def _pack_numbers(data: bytes) -> bytes:
    """Compress 64-bit numbers without loss; 10 000 evenly spaced ones take half a kilobyte."""
    steps = np.diff(np.frombuffer(data, "<i8"), prepend=0)  # overflows, and back in cumsum
    return zlib.compress(steps.view("u1").reshape(-1, 8).T.tobytes(), 1)


def _unpack(shape: tuple[int, ...], packed: Mapping[int, bytes]) -> Manifest:
    """Return a manifest without sources from its packed chunks."""
    source, zeros = np.full(math.prod(shape), MISSING, np.int32), np.zeros(math.prod(shape), "u8")
    inlined = {}
    for flat, data in packed.items():
        steps = np.frombuffer(zlib.decompress(data), "u1").reshape(8, -1).T.copy().view("<i8")
        inlined[flat] = np.cumsum(steps.ravel(), dtype="<i8").tobytes()
    return Manifest(shape, (), source, zeros, zeros).with_inlined(inlined)
