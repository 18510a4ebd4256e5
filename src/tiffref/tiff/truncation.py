"""Leave out the segments that the end of a truncated file cuts off (`allow_holes=True`).

They become missing, as in a sparse file; pages without any segment become missing pages. Segments
that decode in part (JPEG, JPEG XR, fax) are kept: `probe` accepts them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import accepting_truncated, decodes
from ..codecs.table import compression_of
from ..model.tiff_facts import LevelFacts
from .plan import segment_codec, source_sizes, stored_bytes
from .probe import FAX, Segments

__all__ = ["without_truncated"]


def without_truncated(level: LevelFacts, segments: Segments) -> tuple[LevelFacts, int]:
    """Mark the segments that the end of the file cuts off as missing.

    Parameters
    ----------
    level
        Facts of the level.
    segments
        Reads the compressed segments that reach past the end, to test whether they decode.

    Returns
    -------
    level, n_truncated
        The level, and the number of segments that are missing now; unchanged and 0 if no segment
        would be left, or the samples cannot be read anyway.
    """
    ifd = level.ifds[0]
    if ifd.dtype is None or not isinstance(ifd.sample_format, int) or 0 in level.shape:
        return level, 0
    level = _as_pages(level)
    is_cut = _is_cut(level, segments)
    n_cut = int(is_cut.sum())
    if not n_cut or is_cut[level.offset > 0].all():
        return level, 0
    offset = np.where(is_cut, 0, level.offset).astype(np.uint64)
    length = np.where(is_cut, 0, level.length).astype(np.uint64)
    missing = np.where(is_cut.all(axis=1), -1, level.ifd).astype(np.int32)
    return replace(level, ifd=missing, offset=offset, length=length), n_cut


def _as_pages(level: LevelFacts) -> LevelFacts:
    """Return a run of planes described by one IFD as pages of one strip each."""
    ifd = level.ifds[0]
    codec = segment_codec(ifd)
    if level.run_offset is None or ifd.shape[:2] != (1, 1) or not codec.is_plain:
        return level
    plane = math.prod(ifd.shape) * np.dtype(codec.dtype).itemsize
    n_planes = math.prod(level.shape) // math.prod(ifd.shape)
    first = np.uint64(level.run_offset)
    offset = first + np.arange(n_planes, dtype=np.uint64) * np.uint64(plane)
    return replace(
        level,
        ifds=(replace(ifd, tile=None, rows_per_strip=ifd.shape[2]),),
        ifd=np.zeros(n_planes, np.int32),
        source=np.full(n_planes, level.source[0], np.int32),
        offset=offset.reshape(-1, 1),
        length=np.full((n_planes, 1), plane, np.uint64),
        run_offset=None,
    )


def _is_cut(level: LevelFacts, segments: Segments) -> NDArray[np.bool_]:
    """Return which segments miss samples because the file ends, `(n_pages, n_segments)`."""
    compression = level.ifds[0].compression
    size = source_sizes(level.sources)[level.source][:, np.newaxis]
    available = size - np.minimum(level.offset, size)
    if compression == 1 and level.run_offset is None:
        whole = np.broadcast_to(stored_bytes(level), level.length.shape)
        is_single = whole.shape[1] == 1 and level.ifds[0].tile is None
        return (level.offset > 0) & (
            (whole if is_single else np.minimum(whole, level.length)) > available
        )
    is_cut = (level.offset >= size) & (level.offset > 0) & (compression not in FAX)
    for page, n in np.argwhere((level.length > available) & (available > 0)).tolist():
        ifd = level.ifds[level.ifd[page]]
        codec = accepting_truncated(segment_codec(ifd, is_short=True))
        if compression_of(codec.compression).decode is not None:
            url = level.sources[level.source[page]].url
            data = segments.read_segment(url, int(level.offset[page, n]), int(available[page, n]))
            is_cut[page, n] = not decodes(codec, data)
    return is_cut
