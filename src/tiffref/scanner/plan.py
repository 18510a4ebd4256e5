"""Facts to arrays: which codec, which chunks, which byte ranges.

Owns the planning of one level. Pure arithmetic on facts; what has to be looked up in the file (does
this segment really decode to a whole chunk?) is asked for by `scanner.tiff`, which then plans anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..codecs.table import COMPRESSIONS, check_supported, jpeg_colorspaces
from ..errors import MalformedTiff, ManifestMismatch, UnsupportedTiff
from ..model.codec import SegmentCodec
from ..model.facts import IfdFacts, LevelFacts
from ..model.grid import Shape5, fit_chunks, plan_run_rows, segment_grid, segment_shape
from ..model.manifest import Manifest, Source
from ..model.node import Array

__all__ = ["LevelPlan", "plan_level", "segment_codec"]

_JPEG = frozenset({6, 7, 33007, 34892})
_YCBCR = 6
_FILL_ORDER = frozenset({2, 3, 4})
_PHOTOMETRIC = frozenset({6, 34676, 34677})
_BITS = frozenset({32766, 32809})
"""Compressions whose image decoder depends on FillOrder, PhotometricInterpretation, BitsPerSample."""

_PARAMETER_TAGS: dict[int, dict[str, int]] = {
    2: {},
    3: {"t4_options": 292},
    4: {"t6_options": 293},
    34887: {"lerc_parameters": 50674},
    65002: {"skip_bits": 65007, "horizontal_bits": 65008, "vertical_bits": 65009},
}
"""What decoders need from tags beyond those of `SegmentCodec`, by compression."""


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """An array; `is_merged` if its chunks are runs of plain samples, not segments."""

    array: Array
    is_merged: bool


def segment_codec(ifd: IfdFacts, *, is_short: bool = False) -> SegmentCodec:
    """Describe how the segments of an IFD decode.

    Parameters
    ----------
    is_short
        Some segments are stored cropped or short: the codec is told the part inside the image.

    Raises
    ------
    UnsupportedTiff
        If there is no data type for the samples.
    """
    if ifd.dtype is None:
        raise UnsupportedTiff(
            "no data type holds these samples",
            ifd=ifd.name,
            tag="BitsPerSample (258), SampleFormat (339)",
            got=f"{ifd.bits} bits, format {ifd.sample_format}",
        )
    if not isinstance(ifd.sample_format, int):
        raise UnsupportedTiff(
            "samples of different formats",
            ifd=ifd.name,
            tag="SampleFormat (339)",
            got=ifd.sample_format,
            expected="one format",
        )
    shape = segment_shape(ifd.shape, ifd.tile, ifd.rows_per_strip)
    dtype = np.dtype(ifd.dtype)
    row = COMPRESSIONS.get(ifd.compression)
    is_image = row is not None and row.kind == "image"
    edge = tuple(n % s or s for n, s in zip(ifd.shape[1:4], shape[1:4], strict=True))
    return SegmentCodec(
        shape=shape[1:],
        dtype=dtype.newbyteorder("<").str,
        compression=ifd.compression,
        predictor=1 if is_image else ifd.predictor,
        byteorder=ifd.byteorder if _has_byteorder(ifd, dtype, is_image) else "<",
        bits=ifd.bits if _needs_bits(ifd, dtype, is_image) else (),
        sample_format=1 if is_image else ifd.sample_format,
        fill_order=1 if is_image and ifd.compression not in _FILL_ORDER else ifd.fill_order,
        photometric=ifd.photometric if _needs_photometric(ifd) else 1,
        edge=edge if is_short else None,  # type: ignore[arg-type]
        fill=ifd.nodata if is_short and ifd.nodata else None,
        parameters=_parameters(ifd),
    )


def _has_byteorder(ifd: IfdFacts, dtype: np.dtype, is_image: bool) -> bool:
    return not is_image and (dtype.itemsize > 1 or max(ifd.bits) > 8)


def _is_subsampled(ifd: IfdFacts) -> bool:
    return (
        ifd.photometric == _YCBCR and ifd.compression not in _JPEG and (ifd.subsampling != (1, 1))
    )


def _needs_photometric(ifd: IfdFacts) -> bool:
    return _is_subsampled(ifd) or ifd.compression in _PHOTOMETRIC


def _needs_bits(ifd: IfdFacts, dtype: np.dtype, is_image: bool) -> bool:
    if is_image:
        return ifd.compression in _BITS
    return ifd.bits != (8 * dtype.itemsize,)


def _parameters(ifd: IfdFacts) -> dict[str, Any]:
    tags: Mapping[int, Any] = ifd.tags
    found: dict[str, Any] = {
        name: tags[code]
        for name, code in _PARAMETER_TAGS.get(ifd.compression, {}).items()
        if tags.get(code)
    }
    found.update({name: value for name, value in ifd.tables.items() if name != "is_jfif"})
    if ifd.compression in _JPEG:
        found.update(
            jpeg_colorspaces(
                ifd.photometric, ifd.is_separate, ifd.extra_samples, bool(ifd.tables.get("is_jfif"))
            )
        )
    if _is_subsampled(ifd) or ifd.compression == 6:
        found["subsampling"] = ifd.subsampling
        for name, code in (("ycbcr_coefficients", 529), ("reference_black_white", 532)):
            if code in tags:
                found[name] = _ratios(tags[code])
    return found


def _ratios(values: Sequence[Any]) -> tuple[float, ...]:
    """Turn the flat numerators and denominators of a RATIONAL tag into numbers."""
    flat = [float(n) for n in values]
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return tuple(n / d if d else n for n, d in pairs)


def plan_level(
    level: LevelFacts,
    dims: tuple[str, ...],
    *,
    is_short: bool = False,
    is_native: bool = False,
) -> LevelPlan:
    """Lay out one level as an array.

    Parameters
    ----------
    level
        What the file says.
    dims
        Name of each dimension.
    is_short
        Tell the codec that segments may be stored cropped or short.
    is_native
        One chunk for each strip or tile as stored; by default, contiguous uncompressed strips and
        pages are put together to chunks of useful size.

    Raises
    ------
    UnsupportedTiff, MalformedTiff, ManifestMismatch
        If the level cannot be told exactly.
    """
    ifd = level.ifds[0]
    if 0 in level.shape:
        return LevelPlan(_empty(level.shape, ifd.dtype or "|b1", dims), True)
    segment = segment_shape(ifd.shape, ifd.tile, ifd.rows_per_strip)
    if 0 in segment:
        raise MalformedTiff(
            "segments have no pixels", ifd=ifd.name, got=segment, expected="positive lengths"
        )
    codecs, of_page = _codec_table(level, is_short)
    if level.run_offset is not None:
        return _plan_run(level, dims, codecs, segment[2] if is_native else None)
    if not is_native and len(codecs) == 1 and is_plain(codecs[0]) and ifd.tile is None:
        planes = _contiguous_planes(level, ifd, segment, codecs[0])
        if planes is not None:
            return LevelPlan(_plan_planes(level, dims, codecs[0], ifd.shape, planes), True)
    return LevelPlan(_plan_segments(level, dims, codecs, of_page, segment), False)


def _empty(shape: tuple[int, ...], dtype: str, dims: tuple[str, ...]) -> Array:
    chunks = tuple(max(1, n) for n in shape)
    grid = tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    little = np.dtype(dtype).newbyteorder("<").str
    codec = SegmentCodec((1, 1, 1, math.prod(chunks)), little)
    manifest = Manifest.from_columns(grid, (), [], [])
    return Array(shape, chunks, np.dtype(dtype).newbyteorder("="), dims, (codec,), manifest)


def _codec_table(level: LevelFacts, is_short: bool) -> tuple[list[SegmentCodec], np.ndarray]:
    """The different codecs of a level, and the codec of each page."""
    codecs: list[SegmentCodec] = []
    of_ifd = np.zeros(len(level.ifds), np.int32)
    for n, ifd in enumerate(level.ifds):
        if ifd.shape != level.ifds[0].shape:
            raise ManifestMismatch(
                "pages of one series differ in shape",
                ifd=ifd.name,
                got=ifd.shape,
                expected=level.ifds[0].shape,
            )
        codec = segment_codec(ifd, is_short=is_short)
        check_supported(codec)
        if codec.dtype != np.dtype(level.ifds[0].dtype).newbyteorder("<").str:
            raise ManifestMismatch("pages of one series differ in data type", ifd=ifd.name)
        if codec.shape != segment_codec(level.ifds[0]).shape:
            raise ManifestMismatch(
                "pages of one series differ in segment shape",
                ifd=ifd.name,
                got=codec.shape,
                expected=segment_codec(level.ifds[0]).shape,
            )
        if codec not in codecs:
            codecs.append(codec)
        of_ifd[n] = codecs.index(codec)
    return codecs, np.where(level.ifd < 0, 0, of_ifd[level.ifd])


def is_plain(codec: SegmentCodec) -> bool:
    """Say whether stored bytes are the samples, save for their byte order."""
    return (
        codec.compression == 1
        and codec.predictor == 1
        and codec.fill_order == 1
        and not codec.bits
        and not codec.parameters
        and codec.sample_format != 5
    )


def _strip_bytes(shape: Shape5, rows: int, itemsize: int) -> np.ndarray:
    """Bytes of each strip of one plane, the partial last one included."""
    row_bytes = shape[3] * shape[4] * itemsize
    first = np.arange(0, shape[2], rows)
    return np.minimum(rows, shape[2] - first).astype(np.uint64) * np.uint64(row_bytes)


def _contiguous_planes(
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


def _plan_run(
    level: LevelFacts, dims: tuple[str, ...], codecs: list[SegmentCodec], n_rows: int | None
) -> LevelPlan:
    """One IFD that describes planes stored one after the other (ImageJ, STK, ...)."""
    (codec,) = codecs
    ifd = level.ifds[0]
    if not is_plain(codec):
        raise UnsupportedTiff("planes behind one IFD are not plain samples", ifd=ifd.name)
    plane = math.prod(ifd.shape[2:]) * np.dtype(codec.dtype).itemsize
    n_bytes = math.prod(level.shape) * np.dtype(codec.dtype).itemsize
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
    return LevelPlan(_plan_planes(run, dims, codec, page, starts, n_rows), True)


def _plan_planes(
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
    sizes = _source_sizes(level.sources)[source]
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
    grid = tuple(-(-n // c) for n, c in zip(level.shape, chunks, strict=True))
    if n_planes > 1:
        axis = _innermost(level.shape, fit_chunks_lead(level, page))
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


def fit_chunks_lead(level: LevelFacts, page: Shape5) -> int:
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
    axis = _innermost(level.shape, fit_chunks_lead(level, page))
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


def _plan_segments(
    level: LevelFacts,
    dims: tuple[str, ...],
    codecs: list[SegmentCodec],
    of_page: np.ndarray,
    segment: Shape5,
) -> Array:
    """One chunk for each strip or tile."""
    page = level.ifds[0].shape
    n_pages = len(level.ifd)
    chunks = fit_chunks(level.shape, level.axes, page, segment, n_pages)
    if chunks is None:
        raise UnsupportedTiff(
            "segments do not tile the array",
            ifd=level.ifds[0].name,
            got=f"{n_pages} pages of {page} in segments of {segment}",
            expected=f"an array of {level.shape}",
        )
    grid = tuple(-(-n // c) for n, c in zip(level.shape, chunks, strict=True))
    sources, row = _split_sources(level, of_page)
    offset, length = level.offset.reshape(-1), level.length.reshape(-1)
    row = np.repeat(row, level.offset.shape[1])
    length = _clip(level, codecs[0], segment, offset, length)
    length = _inside(level, offset, length)
    manifest = Manifest.from_columns(grid, sources, offset, length, index=row)
    dtype = np.dtype(codecs[0].dtype).newbyteorder("=")
    return Array(level.shape, chunks, dtype, dims, tuple(codecs), manifest)


def _split_sources(level: LevelFacts, of_page: np.ndarray) -> tuple[tuple[Source, ...], np.ndarray]:
    """Give each pair of file and codec a row of its own in the table of sources."""
    if len(level.sources) == 1 and not of_page.any():
        return level.sources, np.zeros(len(of_page), np.int32)
    pairs, row = np.unique(np.stack([level.source, of_page]), axis=1, return_inverse=True)
    sources = tuple(replace(level.sources[s], codec=int(c)) for s, c in pairs.T)
    return sources, row.reshape(-1)


def _clip(
    level: LevelFacts, codec: SegmentCodec, segment: Shape5, offset: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Correct the byte counts of uncompressed segments, which writers get wrong in several ways."""
    if codec.compression != 1 or codec.parameters.get("subsampling"):
        return length
    bits = (
        sum(codec.bits)
        if len(codec.bits) > 1
        else ((codec.bits[0] if codec.bits else 8 * np.dtype(codec.dtype).itemsize) * segment[4])
    )
    row_bytes = -(-segment[3] * bits // 8)
    full = segment[1] * segment[2] * row_bytes
    if level.offset.shape[1] == 1 and level.ifds[0].tile is None:
        return np.where(offset > 0, np.uint64(full), 0).astype(np.uint64)
    return np.minimum(length, np.uint64(full))


def _source_sizes(sources: Sequence[Source]) -> np.ndarray:
    return np.array([2**63 if s.size is None else s.size for s in sources], np.uint64)


def _inside(level: LevelFacts, offset: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Cut byte ranges at the end of the file; a range that starts behind it is an error."""
    size = np.repeat(_source_sizes(level.sources)[level.source], level.offset.shape[1])
    outside = (length > 0) & (offset > 0) & (offset >= size)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise MalformedTiff(
            f"{int(outside.sum())} of {len(offset)} segments lie behind the end of the file",
            url=level.sources[0].url,
            ifd=level.ifds[0].name,
            tag=f"segment {first}",
            got=f"offset {offset[first]}",
            expected=f"less than {size[first]}",
            hint="The file is truncated; get a whole copy.",
        )
    return np.where(outside, length, np.minimum(length, size - np.minimum(offset, size)))


def _check_end(level: LevelFacts, source: np.ndarray, starts: np.ndarray, n_bytes: int) -> None:
    size = _source_sizes(level.sources)[source]
    behind = starts + np.uint64(n_bytes) > size
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
