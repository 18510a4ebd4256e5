"""Byte counts that a writer left out.

Owns what stands for StripByteCounts and TileByteCounts that are 0, too few or missing although the
segments have offsets. libtiff reads one strip to the end of the file, and GDAL and tifffile take a
segment of no bytes for one that is missing; here it is data where there is room for it before the
next segment, and where it decodes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import decodes, in_first_bit_order
from ..codecs.decoders import packbits_end
from ..codecs.table import compression_of
from ..codecs.unpack import layout_of, stored_codec
from ..metadata.report import Report
from ..model.manifest import has_zeros
from ..model.tiff_facts import LevelFacts
from .plan import source_sizes
from .segmentcodec import segment_codec

__all__ = ["Segments", "with_lengths"]

_TAG = "StripByteCounts (279), TileByteCounts (325)"
_SAMPLE = 64
_REMOTE_SAMPLE = 4
_PACKBITS = 32773


class Segments(Protocol):
    """Where the bytes of segments come from."""

    def read_segment(self, url: str, offset: int, length: int) -> bytes:
        """Read the stored bytes of a segment."""

    def is_fetched(self, url: str, offset: int, length: int) -> bool:
        """Return whether that costs no request."""

    @property
    def is_regular(self) -> bool:
        """The file's writer declares that every tile is stored whole."""


def with_lengths(level: LevelFacts, segments: Segments, report: Report) -> LevelFacts:
    """Find the lengths of segments that have an offset and no byte count.

    Parameters
    ----------
    level
        What the file says.
    segments
        Reads a few of them, to see whether they decode.
    report
        Takes what was found, and what was not.
    """
    if not has_zeros(level.length):
        return level
    ifd = level.ifds[0]
    is_bare = (level.offset > 0) & (level.length == 0)
    is_one = level.offset.shape[1] == 1 and ifd.tile is None
    # the length of one uncompressed strip follows from its image
    if not is_bare.any() or level.run_offset is not None or (is_one and ifd.compression == 1):
        return level
    if ifd.dtype is None or not isinstance(ifd.sample_format, int) or 0 in level.shape:
        return level
    room = np.where(is_bare, _room(level), 0)
    if ifd.compression == 1:
        whole = _stored_bytes(level)
        found = np.where(room >= whole, whole, 0).astype(np.uint64)
    else:
        if ifd.compression == _PACKBITS:
            _end_last(level, room, segments)
        found = room if _decode(level, room, segments) else np.zeros_like(room)
    n_found, n_lost = int((found > 0).sum()), int(((room > 0) & (found == 0)).sum())
    counts = f"{int(is_bare.sum())} of {is_bare.size} are 0 or not listed"
    if n_lost:
        report.add(_TAG, "segments without a byte count are left out", got=counts)
    elif n_found:
        report.add(_TAG, "segments without a byte count reach to the next one", got=counts)
    return replace(level, length=np.where(is_bare, found, level.length).astype(np.uint64))


def _room(level: LevelFacts) -> NDArray[np.uint64]:
    """Return the bytes from each segment to the next one of its file, or to the end of the file."""
    room = np.zeros(level.offset.shape, np.uint64)
    for source, size in enumerate(source_sizes(level.sources)):
        rows = level.source == source
        offset = level.offset[rows]
        # a segment of no bytes shares its offset with the one behind it
        used, count = np.unique(offset[offset > 0], return_counts=True)
        ends = np.append(used, size)
        after = ends[np.searchsorted(used, offset, side="right")]
        shared = np.isin(offset, used[count > 1])
        room[rows] = np.where(
            (offset > 0) & (offset < after) & ~shared, after - np.minimum(offset, after), 0
        )
    return room


def _stored_bytes(level: LevelFacts) -> NDArray[np.uint64]:
    """Return the bytes of each uncompressed segment of a page, `(n_segments,)`."""
    ifd = level.ifds[0]
    codec = stored_codec(segment_codec(ifd))
    layout, shape = layout_of(codec), codec.shape
    whole = min(layout.stored_bytes(codec, shape), np.iinfo(np.int64).max)
    found = np.full(level.offset.shape[1], whole, np.uint64)
    n_last = ifd.shape[2] % shape[1]
    if ifd.tile is None and n_last:
        n_strips = -(-ifd.shape[2] // shape[1])
        found[n_strips - 1 :: n_strips] = layout.stored_bytes(codec, (shape[0], n_last, *shape[2:]))
    return found


def _end_last(level: LevelFacts, room: NDArray[np.uint64], segments: Segments) -> None:
    """End the last segment of PackBits where it has its samples; what is behind decodes to nothing.

    References: TIFF 6.0, section 9.
    """
    n = int(level.offset.argmax())
    source = level.sources[level.source[n // room.shape[1]]]
    place = source.url, int(level.offset.flat[n]), int(room.flat[n])
    if not segments.is_fetched(*place):
        return
    n_bytes = int(_stored_bytes(level)[n % room.shape[1]])
    data = in_first_bit_order(segments.read_segment(*place), level.ifds[0].fill_order)
    room.flat[n] = packbits_end(data, n_bytes)


def _decode(level: LevelFacts, room: NDArray[np.uint64], segments: Segments) -> bool:
    """Return whether segments decode that reach to the next one; a sample is looked at."""
    flat = np.flatnonzero(room)
    if not len(flat):
        return False
    width = room.shape[1]
    urls = [source.url for source in level.sources]
    places = [
        (urls[level.source[n // width]], int(level.offset.flat[n]), int(room.flat[n]))
        for n in flat[:: -(-len(flat) // _SAMPLE)]
    ]
    if not all(segments.is_fetched(*place) for place in places):
        places = places[:: max(1, len(places) // _REMOTE_SAMPLE)]
    codec = segment_codec(level.ifds[0], is_short=True)
    return compression_of(codec.compression).decode is not None and all(
        decodes(codec, segments.read_segment(*place)) for place in places
    )
