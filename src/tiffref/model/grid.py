"""Chunk grids: how the segments of pages become the chunks of an array.

Owns the arithmetic between a page's segments and an array's chunks. Pure: integers in, integers
out. A page is five dimensions, (planes, depth, length, width, samples), as TIFF stores it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

__all__ = ["PAGE_AXES", "chunk_grid", "fit_chunks", "plan_run_rows", "segment_shape"]

PAGE_AXES = "SZYXS"
"""Axis code of each dimension of a page: separate planes, depth, length, width, samples."""

_TARGET_BYTES = 4 << 20
_WHOLE_BYTES = 8 << 20

Shape5 = tuple[int, int, int, int, int]


def segment_shape(page: Shape5, tile: tuple[int, int, int] | None, rows_per_strip: int) -> Shape5:
    """Samples that one full strip or tile holds along each page dimension."""
    _, _, length, width, samples = page
    if tile is None:
        return 1, 1, max(1, min(rows_per_strip, length)), width, samples
    return 1, *tile, samples


@functools.lru_cache(maxsize=1024)
def chunk_grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks along each dimension; the last one may reach past the array.

    >>> chunk_grid((3, 1, 100, 90, 1), (1, 1, 64, 90, 1))
    (3, 1, 2, 1, 1)
    """
    # kept, for each array is asked several times, and the arrays of many files have the same
    return tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))


def fit_chunks(
    shape: Sequence[int], axes: str, page: Shape5, segment: Shape5, n_pages: int
) -> tuple[int, ...] | None:
    """Find the chunk shape of an array whose pages have the given segments.

    The page's dimensions are the array's last ones, save those of length 1 that the array left
    out; in front of them are the dimensions that count pages.

    Parameters
    ----------
    shape, axes
        Of the array.
    page, segment
        Normalized shape of a page, and of its full segments.
    n_pages
        Pages in the array.

    Returns
    -------
    The chunk length along each array dimension, or None if chunks of segments cannot tile it.

    Examples
    --------
    >>> fit_chunks((7, 100, 90, 3), "TYXS", (1, 1, 100, 90, 3), (1, 1, 64, 90, 3), 7)
    (1, 64, 90, 3)
    """
    chunks = [1] * len(shape)
    at = len(shape) - 1
    for letter, size, chunk in zip(PAGE_AXES[::-1], page[::-1], segment[::-1], strict=True):
        if size == 1 and (at < 0 or shape[at] != 1 or axes[at] != letter):
            if chunk != 1:
                return _fit_whole(shape, page, segment, n_pages)
            continue
        while at >= 0 and shape[at] == 1 != size:
            at -= 1
        if at < 0 or shape[at] != size:
            return _fit_whole(shape, page, segment, n_pages)
        chunks[at] = chunk
        at -= 1
    if math.prod(shape[: at + 1]) != n_pages:
        return _fit_whole(shape, page, segment, n_pages)
    return tuple(chunks)


def _fit_whole(
    shape: Sequence[int], page: Shape5, segment: Shape5, n_pages: int
) -> tuple[int, ...] | None:
    """Chunks for pages of one segment each, where the array splits the page's dimensions anew."""
    size = math.prod(page)
    if segment != page or math.prod(shape) != n_pages * size:
        return None
    for at in range(len(shape)):
        if math.prod(shape[at:]) == size:
            return (1,) * at + tuple(shape[at:])
    return None


def plan_run_rows(n_rows: int, row_bytes: int) -> int:
    """Choose how many rows of a contiguous uncompressed run make a chunk.

    Reading costs per chunk, so small rows are put together to some MiB. A divisor of the row
    count is preferred: its last chunk is whole.

    Parameters
    ----------
    n_rows
        Rows in the run, at least 1.
    row_bytes
        Bytes of one row.

    Examples
    --------
    >>> plan_run_rows(1000, 100)
    1000
    >>> plan_run_rows(20_000, 1_000)
    4000
    """
    if n_rows * row_bytes <= _WHOLE_BYTES:
        return n_rows
    wished = max(1, _TARGET_BYTES // row_bytes)
    for rows in range(wished, max(1, wished // 2) - 1, -1):
        if n_rows % rows == 0:
            return rows
    return wished
