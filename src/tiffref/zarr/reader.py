"""Files that a function of the user's reads, as chunks.

Owns the array whose chunks are whole files in any format: the first file tells shape and type, and
all others must agree when they are read. Such chunks lie nowhere as they are, so that references
to them cannot be written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ManifestMismatch, UnsupportedTiff, unreadable
from ..model.grid import chunk_grid
from ..model.manifest import Manifest, Source
from ..model.node import Array
from ..read.chunkmode import Served, plain_codec
from ..read.fetch import Fetcher
from ..read.pools import decode_pool
from ..read.selection import parse_selection

__all__ = ["ReadFiles", "describe_files", "read_region"]

Reader = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ReadFiles(Served):
    """An array whose chunks are given by `reader(address)`."""

    reader: Reader

    def decode(self, flat: int, fetch: Fetcher) -> NDArray[np.uint8]:
        """Give the samples of one file as bytes; `fetch` has no part in it."""
        little = self.read(flat).astype(self.array.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(little).reshape(-1).view(np.uint8)

    def read(self, flat: int) -> NDArray:
        """Read the file of one chunk, or give the fill value where there is none.

        Raises
        ------
        SourceError
            If the file is not there.
        ManifestMismatch
            If it is not of the array's shape and type.
        """
        manifest = self.array.manifest
        shape = tuple(c for c in self.array.chunks)
        row = manifest.source[flat]
        if row < 0:
            fill = 0 if self.array.fill_value is None else self.array.fill_value
            return np.full(shape, fill, self.array.dtype)
        url = manifest.sources[row].url
        image = _read(self.reader, url)
        is_alike = _without_ones(image.shape) == _without_ones(shape)
        if image.dtype.newbyteorder("=") != self.array.dtype or not is_alike:
            raise ManifestMismatch(
                "a file is of another shape or type than the first one",
                url=url,
                got=f"{image.dtype} {image.shape}",
                expected=f"{self.array.dtype} {shape}",
            )
        return image.reshape(shape)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def _read(reader: Reader, url: str) -> NDArray:
    try:
        return np.asarray(reader(url))
    except FileNotFoundError as error:
        raise unreadable(url, error) from error


def describe_files(reader: Reader, urls: Sequence[str], fill_value: Any = None) -> list[Array]:
    """Give an array of one whole-file chunk for each file, from a look into the first.

    Raises
    ------
    UnsupportedTiff
        If it holds Python objects.
    """
    image = _read(reader, urls[0])
    if image.dtype.hasobject:
        raise UnsupportedTiff(
            "the function gives objects, not samples", url=urls[0], got=str(image.dtype)
        )
    dims = _dims(image)
    chunks = tuple(max(1, n) for n in image.shape)
    grid = chunk_grid(image.shape, chunks)
    dtype = image.dtype.newbyteorder("=")
    codec = (plain_codec(dtype, chunks),)
    row, nothing = np.zeros(math.prod(grid), np.int32), np.zeros(math.prod(grid), np.uint64)
    arrays = []
    for url in urls:
        manifest = Manifest(grid, (_source(url),), row, nothing, nothing)
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
    """Name the dimensions of an image that nothing is known of but its shape."""
    has_samples = image.ndim > 2 and image.shape[-1] in (3, 4)
    last = ("y", "x", "s") if has_samples else ("y", "x")
    lead = tuple(f"q{n}" if n else "q" for n in range(max(0, image.ndim - len(last))))
    return (*lead, *last)[-image.ndim :] if image.ndim else ()


def read_region(served: ReadFiles, selection: Any) -> NDArray:
    """Read a region: each file that it touches once, several at a time.

    Raises
    ------
    SelectionError
        If the selection does not fit the array.
    """
    array = served.array
    wanted = parse_selection(selection, array.shape)
    target = np.empty(wanted.counts, array.dtype)
    n_lead = max((n + 1 for n, files in enumerate(array.grid) if files > 1), default=0)
    inner = tuple(
        slice(first, first + step * (count - 1) + 1 if count else first, step)
        for first, step, count in zip(wanted.first, wanted.step, wanted.counts, strict=True)
    )[n_lead:]
    places = list(itertools.product(*(range(n) for n in wanted.counts[:n_lead])))

    def fill(place: tuple[int, ...]) -> None:
        index = tuple(
            first + step * k
            for first, step, k in zip(wanted.first, wanted.step, place, strict=False)
        )
        flat = int(np.ravel_multi_index((*index, *(0,) * len(inner)), array.grid))
        target[place] = served.read(flat).reshape(array.chunks[n_lead:])[inner]

    if target.size:
        list(decode_pool().map(fill, places))
    return target[wanted.index]
