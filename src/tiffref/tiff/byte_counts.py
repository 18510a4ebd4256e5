"""Correct the byte counts of segments before they are planned.

Replaces StripByteCounts and TileByteCounts that are 0 or missing although segments have offsets.
libtiff reads a single strip to the end of the file; GDAL and tifffile treat a segment of 0 bytes as
missing. Here the bytes up to the next segment are used if they decode. Segments without an offset
but with a byte count, which GDAL reads at the start of the file, cannot be read.

Leaves out the segments that the end of a truncated file cuts off (`allow_holes=True`). They become
missing, as in a sparse file; pages without any segment become missing pages. Segments that decode
in part (JPEG, JPEG XR, fax) are kept: `probe` accepts them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import MAX_SURPLUS, accepting_truncated, decodes, in_first_bit_order
from ..codecs.decoders import packbits_end
from ..codecs.table import compression_of
from ..errors import MalformedTiff
from ..metadata.report import Report
from ..model.codec import SegmentCodec
from ..model.manifest import has_zeros
from ..model.tiff_facts import IfdFacts, LevelFacts
from .plan import (
    bytes_to_end,
    count_rows,
    is_uncompressed,
    segment_codec,
    source_sizes,
    stored_bytes,
)
from .series import ImageFile

COUNTS = "StripByteCounts (279), TileByteCounts (325)"
SIZES = "ImageWidth (256), BitsPerSample (258), RowsPerStrip (278)"
SURPLUS = "segments have more bytes than the image has samples: the rest is left out"
FAX = frozenset({2, 3, 4, 32771})
_PACKBITS = 32773
_MAX_TRIED, _MAX_TRIED_REMOTE = 64, 4


def without_truncated(level: LevelFacts, file: ImageFile) -> tuple[LevelFacts, int]:
    """Mark the segments that the end of the file cuts off as missing.

    Parameters
    ----------
    level
        Facts of the level.
    file
        Reads the compressed segments that reach past the end, to test whether they decode.

    Returns
    -------
    level, n_truncated
        The level, and the number of segments that are missing now; unchanged and 0 if no segment
        would be left, or the samples cannot be read anyway.
    """
    if 0 in level.shape:  # also if the samples have no dtype
        return level, 0
    is_cut = _is_cut(level, file)
    n_cut = int(is_cut.sum())
    if not n_cut or is_cut[level.offset > 0].all():
        return level, 0
    offset = np.where(is_cut, 0, level.offset).astype(np.uint64)
    length = np.where(is_cut, 0, level.length).astype(np.uint64)
    missing = np.where(is_cut.all(axis=1), -1, level.ifd).astype(np.int32)
    return replace(level, ifd=missing, offset=offset, length=length), n_cut


def _is_cut(level: LevelFacts, file: ImageFile) -> NDArray[np.bool_]:
    """Return which segments miss samples because the file ends, `(n_pages, n_segments)`."""
    available, is_plain = bytes_to_end(level), is_uncompressed(level)
    is_fax = np.array([ifd.compression in FAX for ifd in level.ifds])[level.ifd][:, np.newaxis]
    is_cut = (level.offset > 0) & (available == 0) & ~is_fax
    if is_plain.any():
        whole, is_single = stored_bytes(level), _has_one_strip(level)
        needed = whole if is_single else np.minimum(whole, level.length)
        is_cut |= (level.offset > 0) & (needed > available) & is_plain
    is_read = (level.length > available) & (available > 0) & (level.offset > 0) & ~is_plain
    for page, n in np.argwhere(is_read).tolist():
        ifd = level.ifds[level.ifd[page]]
        codec = accepting_truncated(codec_of_cut(segment_codec(ifd, is_short=True), ifd, n))
        if compression_of(codec.compression).decode is not None:
            url = level.sources[level.source[page]].url
            data = file.read_segment(url, int(level.offset[page, n]), int(available[page, n]))
            is_cut[page, n] = not decodes(codec, data)
    return is_cut


def codec_of_cut(codec: SegmentCodec, ifd: IfdFacts, n: int) -> SegmentCodec:
    """Return the codec of a segment that the end of the file cuts.

    It may have as many bytes as a cropped one elsewhere; only the last strip of a plane is shorter.
    """
    is_short = count_rows(ifd, codec, n) < codec.shape[1]
    is_image = compression_of(codec.compression).kind == "image"
    return codec if is_short or is_image else replace(codec, edge=None)


def _has_one_strip(level: LevelFacts) -> bool:
    """Return whether an image has a single strip, whose length follows from its size."""
    return level.offset.shape[1] == 1 and level.ifds[0].tile is None


# ---- missing byte counts


def fill_in_lengths(
    level: LevelFacts, file: ImageFile, report: Report, *, allows_holes: bool = False
) -> LevelFacts:
    """Find the lengths of segments that have an offset but no byte count.

    The `report` receives how many were found. Segments that have an offset or a byte count, but
    cannot be read, are missing if `allows_holes`, or if the image has no byte counts at all.

    Raises
    ------
    MalformedTiff
        If there are other such segments; with `allows_holes`, only in strict mode.
    """
    if not (has_zeros(level.length) or has_zeros(level.offset)):
        return level
    is_plain = is_uncompressed(level)
    has_no_length = (level.offset > 0) & (level.length == 0)
    has_no_offset = (level.offset == 0) & (level.length > 0)
    if has_no_offset.any():
        _report_missing("a byte count but no offset", has_no_offset, level, report, allows_holes)
        level = replace(level, length=np.where(has_no_offset, np.uint64(0), level.length))
    if _has_one_strip(level):
        has_no_length &= ~is_plain
    if not has_no_length.any() or 0 in level.shape:
        return level
    gap = np.where(has_no_length, bytes_to_next(level), np.uint64(0))
    found = np.zeros_like(gap)
    if is_plain.any():
        whole = stored_bytes(level)
        found = np.where(is_plain & (gap >= whole), whole, found)
    packed = np.where(is_plain, np.uint64(0), gap)
    _cut_last_packbits(level, packed, file)
    if _sample_decodes(level, packed, file):
        found += packed
    # an empty segment shares its offset with the next one, unless no byte counts are known
    is_located = level.offset <= source_sizes(level.sources)[level.source][:, None]
    is_empty = (gap == 0) & is_located & level.length.any()
    is_lost = has_no_length & (found == 0) & ~is_empty
    if is_lost.any():
        what = "an offset but no byte count, and do not decode up to the next one"
        # other readers show an empty image if no segment can be located
        _report_missing(what, is_lost, level, report, allows_holes or bool(is_lost.all()))
    elif found.any():
        what = "segments without a byte count are read up to the next one"
        counts = f"{int(has_no_length.sum())} of {has_no_length.size} are 0 or not listed"
        report.add(COUNTS, what, got=counts)
    return replace(level, length=np.where(has_no_length, found, level.length))


def _report_missing(
    what: str,
    is_lost: NDArray[np.bool_],
    level: LevelFacts,
    report: Report,
    allows_holes: bool,
) -> None:
    """Raise for segments that cannot be located, or report them if holes are allowed."""
    page, n = np.argwhere(is_lost)[0].tolist()
    error = MalformedTiff(
        f"{int(is_lost.sum())} of {is_lost.size} segments have {what}",
        url=level.sources[level.source[page]].url, tag=f"segment {n}, {COUNTS}",
        got=f"offset {level.offset[page, n]}, byte count {level.length[page, n]}",
        hint="Read the rest with allow_holes=True.",
    )  # fmt: skip
    if not allows_holes:
        raise error
    report.add_damage(error, "They are missing.")


def report_wrong_lengths(level: LevelFacts, report: Report) -> None:
    """Report uncompressed segments whose byte counts do not match the size of the image.

    libtiff warns of a single strip whose byte count is too small, and computes it from the image
    size; so does tifffile. Byte counts that are all too large show that the size is wrong.
    """
    ifd = level.ifds[0]
    if 1 not in [ifd.compression for ifd in level.ifds] or 0 in level.shape:
        return
    whole, length = stored_bytes(level), level.length[(level.offset > 0) & is_uncompressed(level)]
    if not length.size:
        return
    least, full = int(length.min()), int(whole.max())
    is_one = level.offset.shape[1] == ifd.shape[0] and ifd.tile is None
    if is_one and least < full:
        report.add(COUNTS, "the only strip is read in full", got=f"{least} bytes, expected {full}")
    elif least > full + MAX_SURPLUS:
        report.add(SIZES, SURPLUS, got=f"{least} bytes in each segment, expected {full}")


def bytes_to_next(level: LevelFacts) -> NDArray[np.uint64]:
    """Return the bytes from each segment to the next one in the file, or to the end of the file."""
    gap = np.zeros(level.offset.shape, np.uint64)
    for source, size in enumerate(source_sizes(level.sources)):
        rows = level.source == source
        offset = level.offset[rows]
        # an empty segment shares its offset with the next one
        used, count = np.unique(offset[offset > 0], return_counts=True)
        after = np.append(used, size)[np.searchsorted(used, offset, side="right")]
        is_alone = (offset > 0) & (offset < after) & ~np.isin(offset, used[count > 1])
        gap[rows] = np.where(is_alone, after - np.minimum(offset, after), 0)
    return gap


def _gap_at(level: LevelFacts, gap: NDArray[np.uint64], n: int) -> tuple[str, int, int]:
    """Return URL, offset and length of a segment read up to the next one."""
    url = level.sources[level.source[n // gap.shape[1]]].url
    return url, int(level.offset.flat[n]), int(gap.flat[n])


def _cut_last_packbits(level: LevelFacts, gap: NDArray[np.uint64], file: ImageFile) -> None:
    """Cut the last segment, if it is PackBits, after its last sample (TIFF 6.0, section 9)."""
    n = int(level.offset.argmax())
    place, ifd = _gap_at(level, gap, n), level.ifds[level.ifd[n // gap.shape[1]]]
    if ifd.compression == _PACKBITS and gap.flat[n] and file.is_cached(*place):
        n_bytes = int(stored_bytes(level)[n % gap.shape[1]])
        data = in_first_bit_order(file.read_segment(*place), ifd.fill_order)
        gap.flat[n] = packbits_end(data, n_bytes)


def _sample_decodes(level: LevelFacts, gap: NDArray[np.uint64], file: ImageFile) -> bool:
    """Return whether a sample of the segments decodes if read up to the next segment."""
    flat = np.flatnonzero(gap)
    if not len(flat):
        return False
    tried = flat[:: -(-len(flat) // _MAX_TRIED)]
    if not all(file.is_cached(*_gap_at(level, gap, n)) for n in tried):
        tried = tried[:: max(1, len(tried) // _MAX_TRIED_REMOTE)]
    ifds = [level.ifds[level.ifd[n // gap.shape[1]]] for n in tried]
    # planning refuses an unknown compression
    return all(
        compression_of(ifd.compression).decode is None
        or decodes(segment_codec(ifd, is_short=True), file.read_segment(*_gap_at(level, gap, n)))
        for n, ifd in zip(tried, ifds, strict=True)
    )
