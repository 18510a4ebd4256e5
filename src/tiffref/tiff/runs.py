"""Chunks over contiguous uncompressed planes.

Owns the putting together of small strips and pages that follow one another in the file: reading
costs per chunk, so chunks have some MiB. A last chunk may read on into the bytes behind the image,
but never past the end of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import MalformedTiff, UnsupportedTiff
from ..model.array import Array
from ..model.codec import SegmentCodec
from ..model.grid import Shape5, chunk_grid, fit_chunks, plan_run_rows
from ..model.manifest import Manifest, Source
from ..model.tiff_facts import IfdFacts, LevelFacts
from .segmentcodec import is_plain

__all__ = ["contiguous_planes", "plan_planes", "plan_run", "source_sizes"]


def _strip_bytes(shape: Shape5, rows: int, itemsize: int) -> np.ndarray:
    """Bytes of each strip of one plane, the partial last one included."""
    row_bytes = shape[3] * shape[4] * itemsize
    first = np.arange(0, shape[2], rows)
    return np.minimum(rows, shape[2] - first).astype(np.uint64) * np.uint64(row_bytes)


def contiguous_planes(
    level: LevelFacts, ifd: IfdFacts, segment: Shape5, codec: SegmentCodec
) -> np.ndarray | None:
    """Where each plane starts, `(n_pages * planes * depth,)`, if its strips follow one another."""
    if (level.ifd < 0).any():
        return None
    sizes = _strip_bytes(ifd.shape, segment[2], np.dtype(codec.dtype).itemsize)
    offset = level.offset.reshape(-1, len(sizes))
    length = level.length.reshape(-1, len(sizes))
    if (offset == 0).any():
        return None
    # one strip is read in full whatever its byte count says, as decoders do
    is_run = len(sizes) == 1 or (
        (np.diff(offset, axis=1) == sizes[:-1]).all() and (length == sizes).all()
    )
    return offset[:, 0] if is_run else None


def plan_run(
    level: LevelFacts, dims: tuple[str, ...], codecs: list[SegmentCodec], n_rows: int | None
) -> Array:
    """One IFD that describes planes stored one after the other (ImageJ, STK, ...)."""
    (codec,) = codecs
    ifd = level.ifds[0]
    if not is_plain(codec):
        raise UnsupportedTiff("planes behind one IFD are not plain samples", ifd=ifd.name)
    plane = math.prod(ifd.shape[2:]) * np.dtype(codec.dtype).itemsize
    n_bytes = math.prod(level.shape) * np.dtype(codec.dtype).itemsize
    size = level.sources[level.source[0]].size
    if size is not None and n_bytes > size:
        raise MalformedTiff(
            "planes reach past the end of the file",
            url=level.sources[0].url,
            ifd=ifd.name,
            got=f"{size} bytes",
            expected=f"at least {n_bytes} bytes",
            hint="The file is truncated; get a whole copy.",
        )
    starts = np.uint64(level.run_offset or 0) + np.arange(n_bytes // plane, dtype=np.uint64) * (
        np.uint64(plane)
    )
    n_planes = len(starts)
    run = replace(
        level,
        ifd=np.zeros(n_planes, np.int32),
        source=np.full(n_planes, level.source[0], np.int32),
    )
    page = (1, 1, *ifd.shape[2:])
    return plan_planes(run, dims, codec, page, starts, n_rows)


def plan_planes(
    level: LevelFacts,
    dims: tuple[str, ...],
    codec: SegmentCodec,
    page: Shape5,
    starts: np.ndarray,
    n_rows: int | None = None,
) -> Array:
    """Chunks over planes that are each one run of samples: rows put together, then planes.

    With `n_rows`, chunks have as many rows, and planes stay apart.
    """
    itemsize = np.dtype(codec.dtype).itemsize
    row_bytes = page[3] * page[4] * itemsize
    plane_bytes = page[2] * row_bytes
    n_pages = len(level.ifd)
    source = np.repeat(level.source, len(starts) // n_pages)
    _check_end(level, source, starts, plane_bytes)
    rows = n_rows or plan_run_rows(page[2], row_bytes)
    sizes = source_sizes(level.sources)[source]
    if (
        page[2] % rows
        and (starts + np.uint64(-(-page[2] // rows) * rows * row_bytes) > sizes).any()
    ):
        # the last chunk may read on into what follows, but not past the end of the file
        rows = page[2]
    chunks = fit_chunks(level.shape, level.axes, page, (1, 1, rows, page[3], page[4]), n_pages)
    if chunks is None:
        raise UnsupportedTiff(
            "pages do not tile the array", got=page, expected=f"{n_pages} pages in {level.shape}"
        )
    grid_rows = -(-page[2] // rows)
    first = np.arange(grid_rows, dtype=np.uint64) * np.uint64(rows * row_bytes)
    offset = (starts[:, None] + first).reshape(-1)
    n_planes = 1
    if grid_rows == 1 and n_rows is None:
        chunks, n_planes = _merge_planes(level, chunks, starts, plane_bytes, sizes)
    grid = chunk_grid(level.shape, chunks)
    if n_planes > 1:
        axis = _innermost(level.shape, _n_lead(level, page))
        keep = np.arange(0, level.shape[axis], n_planes)
        offset = offset.reshape(-1, level.shape[axis])[:, keep].reshape(-1)
        source = source.reshape(-1, level.shape[axis])[:, keep].reshape(-1)
    else:
        source = np.repeat(source, grid_rows)
    length = np.full(len(offset), n_planes * rows * row_bytes, np.uint64)
    manifest = Manifest.from_columns(grid, level.sources, offset, length, index=source)
    whole = codec.with_shape((n_planes, rows, page[3], page[4]))
    return Array(
        level.shape, chunks, np.dtype(codec.dtype).newbyteorder("="), dims, (whole,), manifest
    )


def _n_lead(level: LevelFacts, page: Shape5) -> int:
    """Count the array dimensions in front of those of one plane (length, width, samples)."""
    size = math.prod(page[2:])
    for at in range(len(level.shape), -1, -1):
        if math.prod(level.shape[at:]) == size:
            return at
    return 0


def _innermost(shape: Sequence[int], n_lead: int) -> int:
    """The last leading dimension that is longer than 1, or -1."""
    return next((axis for axis in range(n_lead - 1, -1, -1) if shape[axis] > 1), -1)


def _merge_planes(
    level: LevelFacts,
    chunks: tuple[int, ...],
    starts: np.ndarray,
    plane_bytes: int,
    sizes: np.ndarray,
) -> tuple[tuple[int, ...], int]:
    """Put small planes that follow one another into one chunk along the innermost dimension."""
    page = level.ifds[0].shape
    axis = _innermost(level.shape, _n_lead(level, page))
    if axis < 0:
        return chunks, 1
    n = level.shape[axis]
    table = starts.reshape(-1, n)
    one_source = level.source.min() == level.source.max()
    if not one_source or (np.diff(table, axis=1) != np.uint64(plane_bytes)).any():
        return chunks, 1
    n_planes = plan_run_rows(n, plane_bytes)
    last = table[:, (-(-n // n_planes) - 1) * n_planes]
    if n % n_planes and (last + np.uint64(n_planes * plane_bytes) > sizes[0]).any():
        n_planes = max(k for k in range(1, n_planes + 1) if n % k == 0)
    return (*chunks[:axis], n_planes, *chunks[axis + 1 :]), n_planes


def source_sizes(sources: Sequence[Source]) -> np.ndarray:
    """Bytes in each source, a very large number where that is not known, as uint64."""
    return np.array([2**63 if s.size is None else s.size for s in sources], np.uint64)


def _check_end(level: LevelFacts, source: np.ndarray, starts: np.ndarray, n_bytes: int) -> None:
    size = source_sizes(level.sources)[source]
    behind = starts + np.uint64(min(n_bytes, 2**62)) > size
    if behind.any():
        first = int(np.flatnonzero(behind)[0])
        raise MalformedTiff(
            f"{int(behind.sum())} of {len(starts)} planes reach past the end of the file",
            url=level.sources[0].url,
            ifd=level.ifds[0].name,
            tag=f"plane {first}",
            got=f"bytes up to {int(starts[first]) + n_bytes}",
            expected=f"up to {size[first]}",
            hint="The file is truncated; get a whole copy.",
        )
