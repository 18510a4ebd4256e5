"""The rows of a manifest as chunk references, a block at a time.

Owns how a chunk key is spelled and which chunks have a byte range, are whole files, or carry their
bytes. It makes text columns (see `text`), never one Python object per chunk; what is built from
them is up to `kerchunk` and `parquet`.

Follows the Zarr v2 specification ("Chunks"), the default chunk key encoding of Zarr v3, and the
kerchunk reference specification, version 1.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.manifest import Manifest
from .documents import join_key
from .text import format_numbers, join_columns

__all__ = ["BLOCK_ROWS", "FEW_ROWS", "KeySpelling", "Rows", "iter_rows", "spell_inlined"]

BLOCK_ROWS = 65_536
"""Chunks handled at once: large enough to forget NumPy's cost per call, and some 10 MB of text."""

FEW_ROWS = 64
"""Rows up to which Python's own formatting is faster than NumPy's cost per call."""

_RAW_TEXT = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A}


@dataclass(frozen=True, slots=True)
class KeySpelling:
    """How the chunk keys of one array are spelled: `prefix`, then indices joined by `separator`."""

    prefix: str
    separator: str
    scalar: str
    """The key of the only chunk of an array without dimensions."""

    @classmethod
    def of(cls, path: str, zarr_format: int) -> KeySpelling:
        """Give the spelling that we write: "image/0.0" in Zarr v2, "image/c/0/0" in v3."""
        if zarr_format == 3:
            return cls(join_key(path, "c/"), "/", join_key(path, "c"))
        return cls(join_key(path, ""), ".", join_key(path, "0"))

    def columns(self, grid: tuple[int, ...], flat: NDArray[np.integer]) -> list:
        """Give the text columns that join to the keys of chunks, as ASCII or UTF-8.

        Parameters
        ----------
        grid
            Chunks along each dimension.
        flat
            `(n,)` flat chunk indices in C order.
        """
        if not grid:
            return [self.scalar.encode()]
        columns: list = [self.prefix.encode()]
        for index in np.unravel_index(flat, grid):
            columns += [format_numbers(index), self.separator.encode()]
        return columns[:-1]

    def keys(self, grid: tuple[int, ...], flat: NDArray[np.integer]) -> list[str]:
        """Give the keys of chunks as strings."""
        if len(flat) <= FEW_ROWS:
            return [self.key(grid, number) for number in flat.tolist()]
        text = join_columns(len(flat), [*self.columns(grid, flat), b"\n"])
        return text.decode().split("\n")[:-1]

    def key(self, grid: tuple[int, ...], flat: int) -> str:
        """Give the key of one chunk."""
        if not grid:
            return self.scalar
        indices = []
        for n_chunks in reversed(grid):
            flat, index = divmod(flat, n_chunks)
            indices.append(str(index))
        return self.prefix + self.separator.join(reversed(indices))


@dataclass(frozen=True, slots=True)
class Rows:
    """Some chunks of one array, all with byte ranges or all whole files.

    `flat`, `source`, `offset`, `length` are columns of the manifest; `is_whole` tells that the
    chunks are whole files, so that `offset` and `length` mean nothing.
    """

    flat: NDArray[np.intp]
    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    is_whole: bool


def iter_rows(manifest: Manifest) -> Iterator[Rows]:
    """Walk the chunks that lie in sources, in C order within blocks of `BLOCK_ROWS`."""
    if not manifest.sources:
        return
    for start in range(0, manifest.n_chunks, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        source, length = manifest.source[block], manifest.length[block]
        if source.min() >= 0 and length.all():  # as mostly: columns need not be picked apart
            flat = np.arange(start, start + len(source))
            yield Rows(flat, source, manifest.offset[block], length, False)
            continue
        is_stored = source >= 0
        is_whole = is_stored & (length == 0)
        for chosen, whole in ((is_stored & ~is_whole, False), (is_whole, True)):
            flat = np.flatnonzero(chosen) + start
            if flat.size:
                source = manifest.source[flat]
                yield Rows(flat, source, manifest.offset[flat], manifest.length[flat], whole)


def spell_inlined(data: bytes) -> str:
    """Spell the bytes of a chunk as a value of a reference document.

    Printable ASCII stands for itself, unless it would be taken for base64: readers decode whatever
    begins with "base64:".

    Examples
    --------
    >>> spell_inlined(b"abc"), spell_inlined(b"\\0\\1"), spell_inlined(b"base64:")
    ('abc', 'base64:AAE=', 'base64:YmFzZTY0Og==')
    """
    if _RAW_TEXT.issuperset(data) and not data.startswith(b"base64:"):
        return data.decode("ascii")
    return "base64:" + base64.b64encode(data).decode("ascii")
