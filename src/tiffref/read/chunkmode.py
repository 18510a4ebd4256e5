"""Chunks of another shape than segments: planes, pages and files, decoded when they are read.

Owns the names of the chunk modes and which shape each gives. A chunk that is a whole page of many
compressed strips has no bytes of its own in the file: the store decodes it, references cannot.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.array import Array
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.manifest import MISSING, Manifest
from .engine import read_array
from .fetch import Fetcher

__all__ = ["CHUNKMODE", "Served", "parse_chunkmode", "plain_codec", "serve"]


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
