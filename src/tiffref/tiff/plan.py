"""Plan the array of one level from its facts: codec, chunks and byte ranges.

The codec holds everything that a decoder needs and nothing else, so two pages decode in the same
way exactly if their codecs are equal. Small contiguous uncompressed strips and pages are merged
into chunks of a few MiB, since reading has a cost per chunk. The last chunk may read bytes after
the image, but never past the end of the file. This module only does arithmetic on facts; `probe`
checks segments of the file and plans again if needed.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.table import (
    COMPRESSIONS,
    JPEG,
    JPEG_COLORS,
    OLD_JPEG,
    check_supported,
    compression_of,
    jpeg_colorspaces,
)
from ..codecs.unpack import check_samples, layout_of, stored_codec
from ..errors import MalformedTiff, ManifestMismatch, UnsupportedTiff
from ..model.array import Array, Shape5, chunk_grid, fit_chunks, plan_run_rows, segment_shape
from ..model.codec import SegmentCodec
from ..model.manifest import Manifest, Source
from ..model.tiff_facts import IfdFacts, LevelFacts


def stored_bytes(level: LevelFacts) -> NDArray[np.uint64]:
    """Return the bytes of each uncompressed segment of a page, `(n_segments,)`."""
    ifd = level.ifds[0]
    codec = stored_codec(segment_codec(ifd))
    layout, shape = layout_of(codec), codec.shape
    whole = min(layout.stored_bytes(codec, shape), _MAX_LENGTH)
    n_bytes = np.full(level.offset.shape[1], whole, np.uint64)
    n_strips, n_last = split_strips(ifd, shape[1])
    if n_last:
        n_bytes[n_strips - 1 :: n_strips] = layout.stored_bytes(codec, (1, n_last, *shape[2:]))
    return n_bytes


def is_uncompressed(level: LevelFacts) -> NDArray[np.bool_]:
    """Return which pages are uncompressed, `(n_pages, 1)`."""
    of_kind = np.array([ifd.compression == _NONE for ifd in level.ifds])
    return of_kind[level.ifd][:, np.newaxis]


def split_strips(ifd: IfdFacts, n_rows: int) -> tuple[int, int]:
    """Return the number of strips in a plane, and the rows of a partial last one, else 0."""
    return -(-ifd.shape[2] // n_rows), 0 if ifd.tile else ifd.shape[2] % n_rows


def count_rows(ifd: IfdFacts, codec: SegmentCodec, n: int) -> int:
    """Return the number of rows of a segment; the last strip of a plane may have fewer."""
    n_strips, n_last = split_strips(ifd, codec.shape[1])
    is_partial = n_last and n % n_strips == n_strips - 1
    return n_last if is_partial else codec.shape[1]


def _contiguous_planes(level: LevelFacts, n_strips: int) -> NDArray[np.uint64] | None:
    """Return the start of each plane, `(n_pages * planes * depth,)`; None if not contiguous."""
    offset, length = (column.reshape(-1, n_strips) for column in (level.offset, level.length))
    if (level.ifd < 0).any() or (offset == 0).any():
        return None
    if n_strips > 1:  # a single strip is read in full whatever its byte count, as decoders do
        sizes = stored_bytes(level)[:n_strips]
        if (np.diff(offset, axis=1) != sizes[:-1]).any() or (length != sizes).any():
            return None
    return offset[:, 0]


def _plan_planes(
    level: LevelFacts, dims: tuple[str, ...], codec: SegmentCodec, starts: NDArray[np.uint64]
) -> Array | None:
    """Plan chunks of contiguous planes: merge rows first, then planes; None if they do not fit."""
    page = level.ifds[0].shape
    row_bytes = page[3] * page[4] * np.dtype(codec.dtype).itemsize
    plane_bytes = page[2] * row_bytes
    n_pages = len(level.ifd)
    source = np.repeat(level.source, len(starts) // n_pages)
    sizes = source_sizes(level.sources)[source]
    _check_end(level, source, starts, plane_bytes, sizes)
    rows = plan_run_rows(page[2], row_bytes)
    grid_rows = -(-page[2] // rows)
    if page[2] % rows and (starts + np.uint64(grid_rows * rows * row_bytes) > sizes).any():
        # the last chunk may read into the bytes that follow, but not past the end of the file
        rows, grid_rows = page[2], 1
    chunks = fit_chunks(level.shape, level.axes, page, (1, 1, rows, page[3], page[4]), n_pages)
    if chunks is None:
        return None
    n_planes = 1
    split = [n for n, size in enumerate(level.shape) if chunks[n] < size]
    if grid_rows > 1:
        first = np.arange(grid_rows, dtype=np.uint64) * np.uint64(rows * row_bytes)
        starts, source = (starts[:, None] + first).reshape(-1), np.repeat(source, grid_rows)
    elif split:
        axis = split[-1]
        n = level.shape[axis]
        n_planes = _count_merged(level, starts.reshape(-1, n), plane_bytes, int(sizes[0]))
        chunks = (*chunks[:axis], n_planes, *chunks[axis + 1 :])
        starts = starts.reshape(-1, n)[:, ::n_planes].reshape(-1)
        source = source.reshape(-1, n)[:, ::n_planes].reshape(-1)
    length = np.full(len(starts), n_planes * rows * row_bytes, np.uint64)
    grid = chunk_grid(level.shape, chunks)
    manifest = Manifest.from_columns(grid, level.sources, starts, length, index=source)
    whole = replace(codec, shape=(n_planes, rows, page[3], page[4]))
    dtype = np.dtype(codec.dtype).newbyteorder("=")
    return Array(level.shape, chunks, dtype, dims, (whole,), manifest)


def _count_merged(
    level: LevelFacts, starts: NDArray[np.uint64], plane_bytes: int, size: int
) -> int:
    """Return how many contiguous planes make a chunk; `starts` has a row for each run of planes."""
    n = starts.shape[1]
    is_one_source = level.source.min() == level.source.max()
    if not is_one_source or (np.diff(starts, axis=1) != np.uint64(plane_bytes)).any():
        return 1
    n_planes = plan_run_rows(n, plane_bytes)
    last = starts[:, (-(-n // n_planes) - 1) * n_planes]
    if n % n_planes and (last + np.uint64(n_planes * plane_bytes) > size).any():
        n_planes = max(k for k in range(1, n_planes + 1) if n % k == 0)
    return n_planes


def source_sizes(sources: Sequence[Source]) -> NDArray[np.uint64]:
    """Return the size of each source in bytes, 2**63 if unknown."""
    return np.array([2**63 if s.size is None else s.size for s in sources], np.uint64)


def _check_end(
    level: LevelFacts, source: np.ndarray, starts: np.ndarray, n_bytes: int, sizes: np.ndarray
) -> None:
    behind = starts + np.uint64(min(n_bytes, 2**62)) > sizes
    if behind.any():
        first = int(behind.argmax())
        raise truncated(
            f"{int(behind.sum())} of {len(starts)} planes reach past the end of the file",
            url=level.sources[int(source[first])].url, ifd=level.ifds[0].name, tag=f"plane {first}",
            got=f"bytes up to {int(starts[first]) + n_bytes}", expected=f"up to {sizes[first]}",
        )  # fmt: skip


_MAX_PYTHON_SEGMENTS = 64
"""Up to this many segments, plain Python is faster than NumPy."""
truncated = functools.partial(
    MalformedTiff,
    hint="The file is truncated; get a whole copy, or read the rest with allow_holes=True.",
)
_MAX_LENGTH = 2**63 - 1
"""Largest byte count; ranges beyond the end of the file are cut later."""


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """A planned array.

    `is_merged` if chunks are runs of plain samples instead of segments. `past_end` has the flat
    indices of segments that start past the end of the file, `across_end` of those that end there.
    """

    array: Array
    is_merged: bool
    past_end: tuple[int, ...] = ()
    across_end: tuple[int, ...] = ()


def plan_level(
    level: LevelFacts,
    dims: tuple[str, ...],
    *,
    is_short: bool = False,
    is_native: bool = False,
) -> LevelPlan:
    """Plan the array of one level.

    Parameters
    ----------
    level
        Facts of the level.
    dims
        Name of each dimension.
    is_short
        Let the codec accept segments that are stored cropped or short.
    is_native
        Make one chunk of each strip or tile. By default, contiguous uncompressed strips and pages
        are merged into larger chunks.

    Raises
    ------
    UnsupportedTiff, MalformedTiff, ManifestMismatch
        If the level cannot be represented exactly.
    """
    ifd = level.ifds[0]
    for kind in level.ifds:
        _check_equal_samples(kind)
    segment = segment_shape(ifd.shape, ifd.tile, ifd.rows_per_strip)
    _check_addressable(ifd, level.shape, segment)
    if 0 in level.shape:
        return LevelPlan(Array.from_values(np.empty(level.shape, ifd.dtype or "|b1"), dims), True)
    codecs, of_page = _codec_table(level, is_short)
    if not is_native and len(codecs) == 1 and codecs[0].is_plain and ifd.tile is None:
        planes = _contiguous_planes(level, split_strips(ifd, segment[2])[0])
        merged = None if planes is None else _plan_planes(level, dims, codecs[0], planes)
        if merged is not None:
            return LevelPlan(merged, True)
    return _plan_segments(level, dims, codecs, of_page, segment)


def _check_equal_samples(ifd: IfdFacts) -> None:
    """Refuse samples of different sizes or types in one pixel.

    Three samples packed into 16 bits pass: tifffile reads 5-6-5, and an empty array for others.
    """
    formats = ifd.sample_format if isinstance(ifd.sample_format, tuple) else ()
    for tag, values in (("BitsPerSample (258)", ifd.bits), ("SampleFormat (339)", formats)):
        is_packed = values is ifd.bits and len(values) == 3 and sum(values) == 16
        if len(set(values)) > 1 and not is_packed:
            raise UnsupportedTiff(
                "samples of one pixel differ in size or type", ifd=ifd.name, tag=tag, got=values,
                expected="one value for all samples",
            )  # fmt: skip


def _check_addressable(ifd: IfdFacts, shape: tuple[int, ...], segment: Shape5) -> None:
    """Refuse pages, arrays and segments whose size in bytes exceeds 63 bits."""
    # ignoring dimensions of length 0
    n_samples = max([math.prod(filter(None, sizes)) for sizes in (ifd.shape, shape, segment)])
    if n_samples >= 1 << 58 and np.dtype(ifd.dtype or "|b1").itemsize * n_samples >= 1 << 63:
        raise MalformedTiff(
            "the image size in bytes exceeds 63 bits", tag="ImageWidth (256), ImageLength (257)",
            ifd=ifd.name, got=f"{ifd.dtype} samples of shape {ifd.shape}",
        )  # fmt: skip


def _codec_table(level: LevelFacts, is_short: bool) -> tuple[list[SegmentCodec], np.ndarray | None]:
    """Return the distinct codecs of a level, and the codec of each page; None if there is one."""
    codecs: list[SegmentCodec] = []
    of_ifd = []
    for n, ifd in enumerate(level.ifds):
        if n:
            _check_equal("pages of one series differ in shape", ifd, ifd.shape, level.ifds[0].shape)
        codec = segment_codec(ifd, is_short=is_short)
        if not _can_unpack(codec):
            offset = level.offset if len(level.ifds) == 1 else level.offset[level.ifd == n]
            if offset.any():
                check_samples(codec)
        for first in codecs[:1]:
            _check_equal("segments of one series differ in dtype", ifd, codec.dtype, first.dtype)
            _check_equal("segments of one series differ in shape", ifd, codec.shape, first.shape)
        if codec not in codecs:
            codecs.append(codec)
        of_ifd.append(codecs.index(codec))
    if len(codecs) == 1:
        return codecs, None
    return codecs, np.where(level.ifd < 0, 0, np.array(of_ifd, np.int32)[level.ifd])


def _check_equal(what: str, ifd: IfdFacts, got: object, expected: object) -> None:
    if got != expected:
        raise ManifestMismatch(what, ifd=ifd.name, got=got, expected=expected)


@functools.lru_cache(1024)
def _can_unpack(codec: SegmentCodec) -> bool:
    """Return whether decoded bytes can be unpacked to samples; raise for unknown compressions."""
    check_supported(codec)
    if compression_of(codec.compression).kind == "bytes":
        try:
            check_samples(codec)
        except UnsupportedTiff:
            return False
    return True


def _plan_segments(
    level: LevelFacts,
    dims: tuple[str, ...],
    codecs: list[SegmentCodec],
    of_page: np.ndarray | None,
    segment: Shape5,
) -> LevelPlan:
    """Plan one chunk for each strip or tile."""
    page = level.ifds[0].shape
    n_pages = len(level.ifd)
    chunks = fit_chunks(level.shape, level.axes, page, segment, n_pages)
    if chunks is None:
        raise UnsupportedTiff(
            "segments do not tile the array", ifd=level.ifds[0].name,
            got=f"{n_pages} pages of {page} in segments of {segment}",
            expected=f"an array of {level.shape}",
        )  # fmt: skip
    grid = chunk_grid(level.shape, chunks)
    sources, row = _split_sources(level, of_page)
    length = level.length
    plain = [codec for codec in codecs if codec.compression == _NONE]
    if plain:
        corrected = _correct_lengths(level, plain[0])
        is_mixed = len(codecs) > 1
        length = np.where(is_uncompressed(level), corrected, length) if is_mixed else corrected
    offset, length = level.offset.reshape(-1), length.reshape(-1)
    behind: list[int] = []
    across: list[int] = []
    if not _ends_within(level.sources, offset, length):
        available = bytes_to_end(level).reshape(-1)
        is_beyond = length > available
        behind = np.flatnonzero(is_beyond & (available == 0)).tolist()
        across = np.flatnonzero(is_beyond & (available > 0) & (offset > 0)).tolist()
        length = np.minimum(length, available)
    manifest = Manifest.from_columns(grid, sources, offset, length, index=row)
    dtype = np.dtype(codecs[0].dtype).newbyteorder("=")
    array = Array(level.shape, chunks, dtype, dims, tuple(codecs), manifest)
    return LevelPlan(array, False, tuple(behind), tuple(across))


def _ends_within(sources: Sequence[Source], offset: np.ndarray, length: np.ndarray) -> bool:
    """Return whether all segments surely lie in the file; a quick check for few segments."""
    if len(sources) > 1 or len(offset) > _MAX_PYTHON_SEGMENTS or sources[0].size is None:
        return False
    ends = map(operator.add, offset.tolist(), length.tolist())
    return max(ends, default=0) <= sources[0].size


def bytes_to_end(level: LevelFacts) -> NDArray[np.uint64]:
    """Return the bytes from each segment to the end of its file, `(n_pages, n_segments)`."""
    size = source_sizes(level.sources)[level.source][:, np.newaxis]
    return size - np.minimum(level.offset, size)


def _split_sources(
    level: LevelFacts, of_page: np.ndarray | None
) -> tuple[tuple[Source, ...], np.ndarray | None]:
    """Return one source per pair of file and codec, and each segment's source; None if only one."""
    if of_page is None:
        of_page = np.zeros(len(level.ifd), np.int32)
        if len(level.sources) == 1:
            return level.sources, None
    pairs, row = np.unique(np.stack([level.source, of_page]), axis=1, return_inverse=True)
    sources = tuple(replace(level.sources[s], codec=int(c)) for s, c in pairs.T)
    return sources, np.repeat(row.reshape(-1), level.offset.shape[1])


def _correct_lengths(level: LevelFacts, codec: SegmentCodec) -> np.ndarray:
    """Correct the byte counts of uncompressed segments, which many writers get wrong."""
    offset, length = level.offset, level.length
    if codec.parameters.get("subsampling") or not offset.any():
        return length
    sizes = stored_bytes(level)
    if len(sizes) == 1 and level.ifds[0].tile is None:
        return np.where(offset > 0, sizes, np.uint64(0))
    # a last strip may be stored whole, or with bytes after its rows but fewer than a whole strip
    full = sizes.max()
    cropped = np.where((length > sizes) & (length < full), sizes, length)
    return np.minimum(cropped, full)


_ANY_JPEG = JPEG | {OLD_JPEG}
_YCBCR = 6
_NEED_PHOTOMETRIC = frozenset({6, 34676, 34677})
_NEED_BITS = frozenset({32766, 32809})
"""Compressions whose image decoders need PhotometricInterpretation; those that need BitsPerSample.
"""

_NONE = 1
"""libtiff ignores the predictor of uncompressed data, and no known writer applies one."""
_PIXARLOG, _LERC = 32909, 34887
_UNASSOCIATED_ALPHA = 2

_PARAMETER_TAGS: dict[int, dict[str, int]] = {
    2: {},
    3: {"t4_options": 292},
    4: {"t6_options": 293},
    _LERC: {"lerc_parameters": 50674},
    65002: {"skip_bits": 65007, "horizontal_bits": 65008, "vertical_bits": 65009},
}
"""Tags that decoders need besides the fields of `SegmentCodec`, by compression."""
_JPEG_FLAGS = ("is_jfif", "has_rgb_components")
_WITH_PARAMETERS = _ANY_JPEG | _PARAMETER_TAGS.keys()


def segment_codec(ifd: IfdFacts, *, is_short: bool = False) -> SegmentCodec:
    """Return the codec of the segments of an IFD.

    Parameters
    ----------
    is_short
        Some segments are stored cropped or short; the codec then knows the part inside the image.

    Raises
    ------
    UnsupportedTiff
        If there is no data type for the samples.
    """
    if ifd.dtype is None:
        raise UnsupportedTiff(
            "no dtype can hold these samples", ifd=ifd.name,
            tag="BitsPerSample (258), SampleFormat (339)",
            got=f"{ifd.bits} bits, format {ifd.sample_format}",
        )  # fmt: skip
    assert isinstance(ifd.sample_format, int)
    shape = segment_shape(ifd.shape, ifd.tile, ifd.rows_per_strip)
    if 0 in shape or 0 in ifd.shape:
        raise MalformedTiff(
            "tiles or strips have no samples", ifd=ifd.name,
            tag="TileWidth (322), TileLength (323), RowsPerStrip (278)", got=shape[1:],
        )  # fmt: skip
    if ifd.compression == _PIXARLOG and shape[3] != ifd.shape[3]:
        raise UnsupportedTiff(
            "readers disagree about PixarLog tiles: libtiff sums up rows of the image's width",
            ifd=ifd.name, tag="TileWidth (322)", got=shape[3], expected=ifd.shape[3],
        )  # fmt: skip
    parameters: dict[str, Any] = {}
    if ifd.compression in _WITH_PARAMETERS or ifd.tables or ifd.photometric == _YCBCR:
        parameters = _parameters(ifd)
    edge: Any = None
    if is_short:  # the part of the last segment that lies inside the image
        edge = tuple(n % s or s for n, s in zip(ifd.shape[1:4], shape[1:4], strict=True))
    codec = _codec_without_parameters(
        shape[1:], edge, "<f4" if "calibration" in parameters else None, ifd.dtype,
        ifd.compression, ifd.predictor, ifd.byteorder, ifd.bits, ifd.sample_format, ifd.fill_order,
        ifd.photometric if _is_subsampled(ifd) or ifd.compression in _NEED_PHOTOMETRIC else 1,
    )  # fmt: skip
    return replace(codec, parameters=parameters) if parameters else codec


@functools.lru_cache(1024)
def _codec_without_parameters(
    shape: tuple[int, int, int, int],
    edge: tuple[int, int, int] | None,
    decoded_dtype: str | None,
    stored_dtype: str,
    compression: int,
    predictor: int,
    byteorder: str,
    bits: tuple[int, ...],
    sample_format: int,
    fill_order: int,
    photometric: int,
) -> SegmentCodec:
    """Return a codec without parameters; cached, since many files share it."""
    dtype = np.dtype(stored_dtype)
    row = COMPRESSIONS.get(compression)
    is_image = row is not None and row.kind == "image"
    if is_image:
        has_byteorder = compression == _PIXARLOG or (compression == _LERC and dtype.itemsize > 1)
    else:
        has_byteorder = dtype.itemsize > 1 or max(bits) > 8
    needs_bits = compression in _NEED_BITS if is_image else bits != (8 * dtype.itemsize,)
    return SegmentCodec(
        shape=shape,
        dtype=decoded_dtype or dtype.newbyteorder("<").str,
        compression=compression,
        predictor=1 if is_image or compression == _NONE else predictor,
        byteorder=byteorder if has_byteorder else "<",
        bits=bits if needs_bits else (),
        sample_format=1 if is_image else sample_format,
        fill_order=fill_order if row is None or row.has_fill_order else 1,
        photometric=photometric,
        edge=edge,
    )


def _is_subsampled(ifd: IfdFacts) -> bool:
    is_jpeg = ifd.compression in _ANY_JPEG
    return ifd.photometric == _YCBCR and not is_jpeg and ifd.subsampling != (1, 1)


def _parameters(ifd: IfdFacts) -> dict[str, Any]:
    tags: Mapping[int, Any] = ifd.tags
    found: dict[str, Any] = {
        name: tags[code]
        for name, code in _PARAMETER_TAGS.get(ifd.compression, {}).items()
        if tags.get(code)
    }
    found.update({name: value for name, value in ifd.tables.items() if name not in _JPEG_FLAGS})
    if ifd.compression in _ANY_JPEG:
        flags = (bool(ifd.tables.get(name)) for name in _JPEG_FLAGS)
        is_one = ifd.is_separate or (ifd.shape[4] == 1 and ifd.photometric in JPEG_COLORS)
        found |= jpeg_colorspaces(ifd.photometric, is_one, ifd.extra_samples, *flags)
    if ifd.compression == _LERC:
        found.update(_lerc_mask(ifd))
    if _is_subsampled(ifd) or ifd.compression == OLD_JPEG:
        if 0 in ifd.subsampling:
            raise MalformedTiff(
                "YCbCr subsampling is 0", ifd=ifd.name, tag="YCbCrSubSampling (530)",
                got=ifd.subsampling, expected="1, 2 or 4 along each axis",
            )  # fmt: skip
        found["subsampling"] = ifd.subsampling
        for name, code, n in (("ycbcr_coefficients", 529, 3), ("reference_black_white", 532, 6)):
            if code in tags:
                found[name] = _numbers(tags[code], n)
    return found


def _lerc_mask(ifd: IfdFacts) -> dict[str, str]:
    """Return what a LERC validity mask means, if libtiff writes one for such images."""
    dtype = np.dtype(ifd.dtype)
    if dtype.kind == "f":
        return {"lerc_mask": "nan"}
    has_alpha = ifd.extra_samples[-1:] == (_UNASSOCIATED_ALPHA,) and not ifd.is_separate
    return {"lerc_mask": "alpha"} if has_alpha and dtype == np.uint8 else {}


def _numbers(values: Sequence[Any], n: int) -> tuple[float, ...]:
    """Return `n` numbers of a tag, which may be rationals (pairs) or plain numbers."""
    is_list = isinstance(values, tuple) and all(isinstance(n, int | float) for n in values)
    if not is_list or len(values) not in (n, 2 * n):
        raise MalformedTiff("a tag has invalid numbers", got=repr(values)[:60], expected=f"{n}")
    flat = [float(value) for value in values]
    if len(flat) == n:
        return tuple(flat)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return tuple(n / d if d else n for n, d in pairs)
