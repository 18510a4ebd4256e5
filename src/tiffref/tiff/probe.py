"""Test-decode a few segments of a level before writing down its codec.

Checks that the portable codec decodes segments to exactly one chunk, falls back to our own codec if
not, and inlines the few chunks that need a different codec. Among these are cropped tiles at the
right edge with as many bytes as those at the lower edge: a decoder that sees a single segment
cannot distinguish them.

Also replaces StripByteCounts and TileByteCounts that are 0 or missing although segments have
offsets. libtiff reads a single strip to the end of the file; GDAL and tifffile treat a segment of
0 bytes as missing. Here the bytes up to the next segment are used if they decode.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numcodecs
import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import (
    accepting_truncated,
    decode_segment,
    decodes,
    has_twin_edges,
    in_first_bit_order,
    lacks_end,
    runs_short,
    wrap_inlined,
)
from ..codecs.decoders import packbits_end
from ..codecs.foreign import decode_image
from ..codecs.guard import (
    DECODING_ERRORS,
    END_OF_JPEG,
    HARMLESS_BYTES,
    HAVE_END,
    HEADERS,
    inflate,
    zstd_size,
)
from ..codecs.table import compression_of
from ..codecs.unpack import layout_of, stored_codec
from ..codecs.zarr_codecs import LZW, to_zarr2
from ..errors import MalformedTiff, TruncationWarning, UnsupportedTiff, warn
from ..metadata.report import Report
from ..model.array import Array, chunk_grid
from ..model.codec import SegmentCodec
from ..model.manifest import MISSING, Manifest, has_zeros
from ..model.tiff_facts import LevelFacts
from .plan import LevelPlan, plan_level, segment_codec, source_sizes, stored_bytes

__all__ = ["FAX", "Segments", "checked_array", "is_exact"]

MAX_INLINED_BYTES = 1 << 20
"""Bytes that references may inline so that all other chunks share one codec."""
_MAX_PROBED_TILES = 16
"""Tiles to test if the right edge is too large to inline."""


def inline_cropped_tiles(level: LevelFacts, array: Array, read: Callable[[int], bytes]) -> Array:
    """Inline cropped tiles of the right edge with their own codec, if they need one.

    Parameters
    ----------
    level, array
        The level, and its plan with a codec that accepts cropped tiles.
    read
        Returns the bytes of a chunk by its index.

    Raises
    ------
    UnsupportedTiff
        If the tiles are too large to inline.
    """
    codec = array.codecs[0]
    assert isinstance(codec, SegmentCodec)
    if len(array.codecs) > 1 or compression_of(codec.compression).kind != "bytes":
        return array
    stored = stored_codec(codec)
    layout = layout_of(stored)
    if not has_twin_edges(stored, lambda shape: layout.stored_bytes(stored, shape)):
        return array
    manifest = array.manifest
    column = _right_edge(level, array)
    column = column[manifest.source[column] >= 0]
    n_bytes = int(manifest.length[column].sum())
    is_small = n_bytes <= MAX_INLINED_BYTES
    probed = column if is_small else column[:: -(-len(column) // _MAX_PROBED_TILES)]
    assert codec.edge is not None
    whole = replace(codec, edge=None)
    narrow = replace(codec, edge=(*codec.shape[:2], codec.edge[2]))
    cropped = {}
    for n in probed.tolist():
        data = read(n)
        if not decodes(whole, data):
            cropped[n] = wrap_inlined(narrow, data)
    if cropped and not is_small:
        raise UnsupportedTiff(
            "cropped tiles at the right edge cannot be distinguished from those at the lower edge",
            url=manifest.sources[0].url,
            got=f"{n_bytes} bytes at the right edge",
            expected=f"at most {MAX_INLINED_BYTES} to inline",
            hint="Rewrite the file with tiles of another size.",
        )
    return replace(array, manifest=manifest.with_inlined(cropped)) if cropped else array


def _check_cropped(level: LevelFacts, array: Array, segments: Segments) -> None:
    """Refuse segments with fewer bytes than their place in the image allows.

    Only those at the lower edge may have fewer rows, and only those at the right edge fewer
    columns; the codec would treat all as cropped and pad them. GDAL reads the bytes after
    uncompressed ones instead, and refuses others, of which a few are decoded.

    Raises
    ------
    MalformedTiff
        If there is such a segment.
    """
    codec = array.codecs[0]
    assert isinstance(codec, SegmentCodec)
    is_byte_stream = compression_of(codec.compression).kind == "bytes"
    if codec.edge is None or not is_byte_stream or not codec.edge[0] == codec.shape[0] == 1:
        return
    stored = stored_codec(codec)
    layout, samples = layout_of(stored), codec.shape[3]
    manifest = array.manifest
    expected = np.zeros(manifest.n_chunks, np.int64)
    short: list[int] = []
    for edge, indices in _places(level, array, codec):
        n_bytes = layout.stored_bytes(stored, (*edge, samples))
        expected[indices] = min(n_bytes, np.iinfo(np.int64).max)
        if codec.compression != 1:
            inside = np.full(manifest.n_chunks, MISSING, manifest.source.dtype)
            inside[indices] = manifest.source[indices]
            part = replace(array, manifest=replace(manifest, source=inside))
            short += _cropped_indices(part, edge, segments)
    if codec.compression == 1:
        is_short = (manifest.source >= 0) & (manifest.length < expected)
        short = np.flatnonzero(is_short).tolist()
    if short:
        n = min(short)
        raise MalformedTiff(
            "a strip or tile has too few bytes for its place in the image",
            url=manifest.sources[manifest.source[n]].url,
            tag=f"segment {n}, StripByteCounts (279), TileByteCounts (325)",
            got=f"{int(manifest.length[n])} bytes",
            expected=f"{expected[n]}" + ("" if codec.compression == 1 else " decompressed"),
        )


def _places(
    level: LevelFacts, array: Array, codec: SegmentCodec
) -> Iterator[tuple[tuple[int, int, int], NDArray[np.intp]]]:
    """Yield the smallest shape of segments, and the segments: inside, lower, right, corner."""
    assert codec.edge is not None
    grid = chunk_grid(array.shape, array.chunks)
    index = np.arange(array.manifest.n_chunks).reshape(grid)
    y, x = level.axes.index("Y"), level.axes.index("X")
    for is_lower in (False, True):
        for is_right in (False, True):
            place = [slice(None)] * len(grid)
            place[y] = slice(-1, None) if is_lower else slice(-1)
            place[x] = slice(-1, None) if is_right else slice(-1)
            rows = codec.edge[1] if is_lower else codec.shape[1]
            columns = codec.edge[2] if is_right else codec.shape[2]
            yield (1, rows, columns), index[tuple(place)].reshape(-1)


def _cropped_indices(array: Array, smallest: tuple[int, int, int], segments: Segments) -> list[int]:
    """Return the probed segments that decode, but to fewer samples than the smallest shape has."""
    return [
        n
        for n, codec, data in _read_segments(array, _probed_indices(array, segments), segments)
        if decodes(codec, data) and not decodes(replace(codec, edge=smallest), data)
    ]


def _right_edge(level: LevelFacts, array: Array) -> np.ndarray:
    """Return the indices of the chunks in the last column, except the corner."""
    grid = chunk_grid(array.shape, array.chunks)
    index = np.arange(array.manifest.n_chunks).reshape(grid)
    y, x = level.axes.index("Y"), level.axes.index("X")
    column = index.take([-1], axis=x)
    return column.take(range(grid[y] - 1), axis=y).reshape(-1)


_MAX_DECODED_BYTES = 64 << 20
_MAX_INLINED_STRIPS = 64
_ENCODERS = frozenset(
    {"zlib", "zstd", "lzma", "delta", "imagecodecs_delta", "imagecodecs_floatpred",
     "imagecodecs_packbits", "imagecodecs_lzw"}
)  # fmt: skip
"""Lossless codecs that can encode again. Image codecs such as JPEG are lossy."""

_MAX_REQUESTS = 4
"""Strips to fetch from a server in order to use a portable codec."""


def checked_array(
    level: LevelFacts,
    dims: tuple[str, ...],
    is_native: bool,
    segments: Segments,
    report: Report,
    *,
    allows_holes: bool = False,
) -> Array:
    """Plan a level with a codec that decodes the tested segments.

    Parameters
    ----------
    level, dims, is_native
        As in `plan.plan_level`.
    segments
        Reads the bytes of segments. To save requests, segments of remote files are tested only if
        already fetched, apart from a few partial strips and those at the end of the file.
    report
        Receives what was repaired.
    allows_holes
        Accept truncated segments that decode in part.

    Raises
    ------
    MalformedTiff
        If a segment does not decode, or is truncated.
    ManifestMismatch
        If pages have codecs that decode to different dtypes or shapes.
    """
    level = _fill_in_lengths(level, segments, report)
    plan = plan_level(level, dims, is_native=is_native)
    _report_short_strip(level, report)
    if plan.is_merged:
        return plan.array
    if plan.past_end:
        truncated = plan_level(level, dims, is_short=True, is_native=is_native)
        return _with_empty_segments(truncated, segments, report)
    array = plan.array
    if level.ifds[0].compression == LZW and not segments.is_regular:
        array = _with_exact_lzw_ends(level, array, segments)
    whole = array if level.ifds[0].tile else _with_whole_strips(level, array, segments)
    if whole is not None and _are_exact(whole, _probed_indices(whole, segments), segments):
        array = whole
    else:
        short = plan_level(level, dims, is_short=True, is_native=is_native).array
        _check_cropped(level, short, segments)
        array = inline_cropped_tiles(
            level, short, lambda n: _chunk_bytes(short.manifest, n, segments)
        )
        array = _check_decodable(array, segments)
        _report_missing_checksums(array, plan.across_end, segments, report)
    errors = itertools.chain(
        _truncated_by_count(level, array, plan.across_end, segments),
        _truncated_by_file(level, array, plan.across_end, segments),
    )
    array = _accept_truncated(array, errors, report, allows_holes)
    return array if len(array.codecs) == 1 else _with_one_codec(array, segments)


def _with_exact_lzw_ends(level: LevelFacts, array: Array, segments: Segments) -> Array:
    """Set `ends_exactly` in the codec of LZW segments if all probed segments decode that way."""
    codec = array.codecs[0]
    if len(array.codecs) > 1 or not isinstance(codec, SegmentCodec) or codec.compression != LZW:
        return array
    exact = replace(array, codecs=(replace(codec, parameters={"ends_exactly": True}),))
    chosen = probe_indices(array.manifest)
    if _probed_indices(array, segments) != chosen:
        return array
    manifest = array.manifest
    ifd = level.ifds[0]
    n_strips = -(-ifd.shape[2] // codec.shape[1])
    if ifd.tile is None and ifd.shape[2] % codec.shape[1]:  # last strips are shorter
        column = manifest.source.copy()
        column[n_strips - 1 :: n_strips] = MISSING
        chosen = probe_indices(replace(manifest, source=column))
    return exact if chosen and _are_exact(exact, chosen, segments) else array


def _accept_truncated(
    array: Array, errors: Iterator[tuple[MalformedTiff, bool]], report: Report, allows_holes: bool
) -> Array:
    """Raise or warn of truncated segments; return the array with codecs that decode them.

    `errors` are those of the segments, and whether readers show such segments in any case.
    """
    is_any = False
    for error, is_harmless in errors:
        if report.is_strict or not (is_harmless or allows_holes):
            raise error
        warn(TruncationWarning(str(error)), stacklevel=3)
        is_any = True
    if not is_any:
        return array
    codecs = [one for one in array.codecs if isinstance(one, SegmentCodec)]
    return replace(array, codecs=tuple(map(accepting_truncated, codecs)))


def _truncated_by_file(
    level: LevelFacts, array: Array, indices: Sequence[int], segments: Segments
) -> Iterator[tuple[MalformedTiff, bool]]:
    """Yield the errors of segments whose byte counts reach past the end of the file.

    A byte count that is merely too large is legal, a truncated segment is not. Readers show the
    rows of truncated fax segments, and of those that only lack their checksum.
    """
    for n in indices[:_MAX_CHECKED_ENDS]:
        codec = _codec_at(array, n)
        error = _truncation_error(array, n, _n_rows(level, codec, n), segments)
        if error is not None:
            is_byte_stream = compression_of(codec.compression).kind == "bytes"
            is_whole = error.__cause__ is None and is_byte_stream  # but for its checksum
            yield error, is_whole or codec.compression in FAX


FAX = frozenset({2, 3, 4, 32771})
_MAX_CHECKED_ENDS = 64


def _report_missing_checksums(
    array: Array, across_end: Sequence[int], segments: Segments, report: Report
) -> None:
    """Report probed segments that lack their checksum, unless the end of the file cuts them off."""
    inside = sorted(set(_probed_indices(array, segments)) - set(across_end))
    for n, codec, data in _read_segments(array, inside, segments):
        if lacks_end(codec, data):
            what = "the byte count of a segment is too small: it excludes the checksum"
            report.add(_COUNTS, what, got=f"{int(array.manifest.length[n])} bytes of segment {n}")


def _truncated_by_count(
    level: LevelFacts, array: Array, across_end: Sequence[int], segments: Segments
) -> Iterator[tuple[MalformedTiff, bool]]:
    """Yield the errors of image segments whose byte count excludes samples.

    Their decoders make these up. Tested are the probed segments, those that bytes of no use follow,
    and JPEG streams that do not end with the marker of their end.
    """
    names = {_decoder_name(codec) for codec in array.codecs if isinstance(codec, SegmentCodec)}
    if not names & _MAKE_UP or segments.is_regular:
        return
    followed = _followed_by_free_bytes(level, array, segments)
    tested = {*followed, *_probed_indices(array, segments)}
    if "jpeg" in names:
        tested |= _without_jpeg_end(array, segments)
    for n, codec, data in _read_segments(array, sorted(tested - {*across_end}), segments):
        n_rows = _n_rows(level, codec, n)
        cause = None
        try:
            if not _excludes_samples(codec, data, n_rows, followed.get(n, b"")):
                continue
        except MalformedTiff as error:
            cause = error
        found = MalformedTiff(
            "the byte count of a segment is too small: it excludes samples",
            url=array.manifest.sources[array.manifest.source[n]].url,
            tag=f"segment {n}, {_COUNTS}",
            got=f"{len(data)} bytes",
        )
        found.__cause__ = cause
        yield found, codec.compression in FAX


def _excludes_samples(codec: SegmentCodec, data: bytes, n_rows: int, following: bytes) -> bool:
    """Return whether a segment ends before its last sample.

    `following` are the bytes behind it that nothing uses: they belong to it if they change samples.
    """
    name = _decoder_name(codec)
    if name in HAVE_END:
        # NDPI's segments are intervals of a stream, whose decoder checks their ends
        has_end = "jpeg_header" in codec.parameters or HAVE_END[name](data)
        return not has_end and runs_short(codec, data, n_rows)
    if not following or name not in _MAKE_UP:
        return False
    samples = decode_segment(codec, data)[:, :n_rows]
    try:
        longer = decode_segment(codec, data + following)[:, :n_rows]
    except MalformedTiff:  # they belong to something else
        return False
    return not np.array_equal(longer, samples, equal_nan=samples.dtype.kind == "f")


def _decoder_name(codec: SegmentCodec) -> str:
    return getattr(compression_of(codec.compression).decode, "__name__", "")


_MAKE_UP = HAVE_END.keys() | {"ccitt", "libtiff", "old_jpeg"}
"""Decoders that make up samples of truncated segments."""
_MAX_FOLLOWED = 16
_MAX_PADDING = 64
_MAX_FOLLOWING_BYTES = 4096
_MAX_JPEG_ENDS = 512


def _followed_by_free_bytes(
    level: LevelFacts, array: Array, segments: Segments
) -> dict[int, bytes]:
    """Return those bytes behind segments that no segment of the level uses, by segment.

    If there are many, only those with the most bytes, and of remote files few.
    """
    manifest = array.manifest
    free = _bytes_to_next(level).reshape(-1).astype(np.int64) - manifest.length.astype(np.int64)
    free[manifest.source < 0] = 0
    order = np.argsort(-free, kind="stable")[:_MAX_FOLLOWED]
    n_requests, usual = 0, 2 * np.median(free) + _MAX_PADDING
    found: dict[int, bytes] = {}
    for n in order[free[order] > 0].tolist():
        url = manifest.sources[manifest.source[n]].url
        offset, length = int(manifest.offset[n]), int(manifest.length[n])
        n_more = min(int(free[n]), _MAX_FOLLOWING_BYTES)
        if not segments.is_cached(url, offset, length + n_more):
            if n_requests == _MAX_REQUESTS or free[n] <= usual or offset == level.offset.max():
                continue
            n_requests += 1
        found[n] = segments.read_segment(url, offset + length, n_more)
    return found


def _without_jpeg_end(array: Array, segments: Segments) -> set[int]:
    """Return the first segments that do not end as JPEG streams do, if that costs no request."""
    manifest = array.manifest
    found = set()
    for n in np.flatnonzero(manifest.source >= 0)[:_MAX_JPEG_ENDS].tolist():
        url = manifest.sources[manifest.source[n]].url
        place = int(manifest.offset[n] + manifest.length[n]) - 2, 2
        if segments.is_cached(url, *place) and segments.read_segment(url, *place) != END_OF_JPEG:
            found.add(n)
    return found


def _n_rows(level: LevelFacts, codec: SegmentCodec, n: int) -> int:
    """Return the number of rows of a segment; the last strip may have fewer."""
    ifd, rows = level.ifds[0], codec.shape[1]
    n_strips = -(-ifd.shape[2] // rows)
    is_last = ifd.tile is None and n % n_strips == n_strips - 1
    return ifd.shape[2] - (n_strips - 1) * rows if is_last else rows


def _truncation_error(
    array: Array, n: int, n_rows: int, segments: Segments
) -> MalformedTiff | None:
    """Return the error if a segment is truncated, else None."""
    codec = _codec_at(array, n)
    try:
        data = _chunk_bytes(array.manifest, n, segments)
        if not runs_short(codec, data, n_rows) and not lacks_end(codec, data):
            return None
        cause = None
    except MalformedTiff as error:
        cause = error
    found = MalformedTiff(
        "a segment is cut off by the end of the file",
        url=array.manifest.sources[max(0, array.manifest.source[n])].url,
        tag=f"segment {n}",
        got=f"{int(array.manifest.length[n])} bytes",
        hint="The file is truncated; get a whole copy.",
    )
    found.__cause__ = cause
    return found


def _with_empty_segments(plan: LevelPlan, segments: Segments, report: Report) -> Array:
    """Inline segments past the end of the file as empty bytes, if their decoder accepts that.

    Fax decoders return white rows for empty segments, and readers show such files; others refuse.
    """
    array = plan.array
    try:
        for codec in array.codecs:
            assert isinstance(codec, SegmentCodec)
            decode_segment(codec, b"")
    except MalformedTiff as error:
        raise plan.truncation() from error
    if report.is_strict:
        raise plan.truncation()
    warn(TruncationWarning(f"{plan.truncation()} They read as white."), stacklevel=2)
    manifest = array.manifest.with_inlined(dict.fromkeys(plan.past_end, b""))
    return _with_one_codec(_check_decodable(replace(array, manifest=manifest), segments), segments)


def probe_indices(manifest: Manifest) -> list[int]:
    """Choose the chunks most likely to be irregular: first, last, shortest, longest."""
    here = np.flatnonzero(manifest.source >= 0)
    if not here.size:
        return []
    length = manifest.length[here]
    chosen = {here[0], here[-1], here[int(length.argmin())], here[int(length.argmax())]}
    return sorted(int(n) for n in chosen)


def _probed_indices(array: Array, segments: Segments) -> list[int]:
    manifest = array.manifest
    if segments.is_regular:
        return []
    return [
        n
        for n in probe_indices(manifest)
        if segments.is_cached(
            manifest.sources[manifest.source[n]].url,
            int(manifest.offset[n]),
            int(manifest.length[n]),
        )
    ]


def is_exact(codec: SegmentCodec, data: bytes) -> bool:
    """Return whether the portable form of a codec decodes a segment to exactly one chunk.

    Portable codecs neither crop nor pad, and some refuse streams that TIFF readers accept.
    """
    chain = to_zarr2(codec)
    decoders = [chain["compressor"], *reversed(chain["filters"] or [])]
    if any(config and config["id"] == "tiffref_segment" for config in decoders):
        return decodes(accepting_truncated(codec), data)
    buffer: Any = data
    n_bytes = codec.n_samples * np.dtype(codec.dtype).itemsize
    try:
        for config in decoders:
            if config:
                buffer = _decode_link(config, buffer, n_bytes)
    except DECODING_ERRORS:
        return False
    return memoryview(np.ascontiguousarray(buffer)).nbytes == n_bytes


def _decode_link(config: dict[str, Any], buffer: Any, n_bytes: int) -> Any:
    """Decode with one codec of a chain; refuse streams that would exceed `n_bytes`."""
    name = config["id"]
    if name in _IMAGE_CODECS:
        return decode_image(config, bytes(buffer), n_bytes)
    if name == "zstd" and zstd_size(bytes(buffer)).least > n_bytes:
        raise ValueError("zstd frames decode to more than their chunk")
    elif name == "zstd" and zstd_size(bytes(buffer)).most > max(HARMLESS_BYTES, n_bytes):
        raise ValueError("zstd frames may decode to far more than their chunk")
    elif name in _STREAMS:
        return inflate(config, bytes(buffer), n_bytes)
    return numcodecs.get_codec(dict(config)).decode(buffer)


_IMAGE_CODECS = frozenset(f"imagecodecs_{name}" for name in HEADERS)
"""Codecs whose streams declare their decoded size."""
_STREAMS = frozenset({"zlib", "lzma"})
"""Codecs whose streams do not declare their decoded size."""


def _codec_at(array: Array, n: int) -> SegmentCodec:
    row = array.manifest.source[n]
    codec = array.codecs[array.manifest.sources[row].codec if row >= 0 else 0]
    assert isinstance(codec, SegmentCodec)
    return codec


def _read_segments(
    array: Array, indices: Sequence[int], segments: Segments
) -> Iterator[tuple[int, SegmentCodec, bytes]]:
    """Yield index, codec and stored bytes of segments, read one by one."""
    for n in indices:
        yield n, _codec_at(array, n), _chunk_bytes(array.manifest, n, segments)


def _are_exact(array: Array, indices: Sequence[int], segments: Segments) -> bool:
    """Return whether each of these segments decodes to exactly one chunk."""
    found = _read_segments(array, indices, segments)
    return all(is_exact(codec, data) for _, codec, data in found)


def _check_decodable(array: Array, segments: Segments) -> Array:
    """Decode the probed segments and return the array unchanged; raise if one fails."""
    for n in _probed_indices(array, segments):
        try:
            codec = accepting_truncated(_codec_at(array, n))
            decode_segment(codec, _chunk_bytes(array.manifest, n, segments))
        except MalformedTiff as error:
            error.url = error.url or array.manifest.sources[array.manifest.source[n]].url
            error.tag = f"segment {n}, {error.tag}" if error.tag else f"segment {n}"
            raise
    return array


def _with_whole_strips(level: LevelFacts, array: Array, segments: Segments) -> Array | None:
    """Return the array if its last strips are whole or can be inlined as such; else None."""
    ifd = level.ifds[0]
    rows = array.codecs[0].shape[1] if isinstance(array.codecs[0], SegmentCodec) else 1
    n_last = ifd.shape[2] % rows
    if not n_last:
        return array
    if len(array.codecs) > 1:
        return None
    n_strips = -(-ifd.shape[2] // rows)
    last = np.arange(n_strips - 1, array.manifest.n_chunks, n_strips)
    here = [int(n) for n in last[array.manifest.source[last] >= 0]]
    if len(here) > _MAX_REQUESTS and not set(here[-1:]) <= set(_probed_indices(array, segments)):
        return None
    if _are_exact(array, here[:4] + here[-1:], segments):
        return array
    return _inline_strips(array, here, n_last, segments)


def _inline_strips(
    array: Array, indices: Sequence[int], n_rows: int, segments: Segments
) -> Array | None:
    """Inline partial strips of `n_rows` rows, padded and encoded again without loss.

    Return None if the codec cannot encode, the strips are too many or too large, or one is cut off.
    """
    codec = array.codec
    assert isinstance(codec, SegmentCodec)
    chain = to_zarr2(codec)
    encoders = [config for config in [*(chain["filters"] or []), chain["compressor"]] if config]
    n_bytes = codec.n_samples * np.dtype(codec.dtype).itemsize
    if (
        len(indices) > _MAX_INLINED_STRIPS
        or len(indices) * n_bytes > _MAX_DECODED_BYTES
        or not {config["id"] for config in encoders} <= _ENCODERS
    ):
        return None
    short = replace(codec, edge=(codec.shape[0], n_rows, codec.shape[2]))
    inlined: dict[int, bytes] = {}
    for n in indices:
        data = _chunk_bytes(array.manifest, n, segments)
        try:
            strip = decode_segment(short, data)
        except MalformedTiff:
            return None
        if lacks_end(short, data):
            return None
        buffer: object = np.ascontiguousarray(strip.astype(chain["dtype"], copy=False))
        for config in encoders:
            buffer = numcodecs.get_codec(dict(config)).encode(buffer)
        inlined[n] = bytes(memoryview(np.ascontiguousarray(buffer)).cast("B"))
        if sum(map(len, inlined.values())) > MAX_INLINED_BYTES:
            return None
    return replace(array, manifest=array.manifest.with_inlined(inlined))


def _with_one_codec(array: Array, segments: Segments) -> Array:
    """Reduce several codecs to the most common one by inlining the chunks of the others."""
    if len(array.codecs) == 1:
        return array
    manifest = array.manifest
    codec_of = np.array([source.codec for source in manifest.sources])
    of_chunk = np.where(manifest.source >= 0, codec_of[np.maximum(manifest.source, 0)], -1)
    n_bytes = [int(manifest.length[of_chunk == n].sum()) for n in range(len(array.codecs))]
    major = int(np.argmax(n_bytes))
    if sum(n_bytes) - n_bytes[major] > MAX_INLINED_BYTES:
        return array  # our stores can read it, but it cannot be written as a document
    inlined = {
        n: wrap_inlined(_codec_at(array, n), _chunk_bytes(manifest, n, segments))
        for n in np.flatnonzero((of_chunk >= 0) & (of_chunk != major)).tolist()
    }
    codec = array.codecs[major]
    assert isinstance(codec, SegmentCodec)
    # a codec with an edge accepts inlined chunks that carry their own codec
    codec = replace(codec, edge=codec.edge or codec.shape[:3])
    manifest = manifest.with_inlined(inlined).with_sources(lambda s: replace(s, codec=0))
    return replace(array, codecs=(codec,), manifest=manifest)


def _chunk_bytes(manifest: Manifest, n: int, segments: Segments) -> bytes:
    if n in manifest.inlined:
        return manifest.inlined[n]
    source = manifest.sources[manifest.source[n]]
    data = segments.read_segment(source.url, int(manifest.offset[n]), int(manifest.length[n]))
    if len(data) != manifest.length[n]:
        raise MalformedTiff(
            "a segment is cut off",
            url=source.url,
            tag=f"segment {n}",
            got=f"{len(data)} bytes",
            expected=f"{int(manifest.length[n])} bytes",
        )
    return data


_COUNTS = "StripByteCounts (279), TileByteCounts (325)"
_MAX_TRIED, _MAX_TRIED_REMOTE = 64, 4
_PACKBITS = 32773


class Segments(Protocol):
    """Source of the bytes of segments."""

    def read_segment(self, url: str, offset: int, length: int) -> bytes:
        """Read the stored bytes of a segment."""

    def is_cached(self, url: str, offset: int, length: int) -> bool:
        """Return whether a segment can be read without a request."""

    @property
    def is_regular(self) -> bool:
        """Whether the writer declares that every tile is stored whole."""


def _fill_in_lengths(level: LevelFacts, segments: Segments, report: Report) -> LevelFacts:
    """Find the lengths of segments that have an offset but no byte count.

    Parameters
    ----------
    level
        Facts of the level.
    segments
        Reads a few segments to test whether they decode.
    report
        Receives how many lengths were found or not.
    """
    if not has_zeros(level.length):
        return level
    ifd = level.ifds[0]
    has_no_length = (level.offset > 0) & (level.length == 0)
    is_one = level.offset.shape[1] == 1 and ifd.tile is None
    # the length of a single uncompressed strip follows from the image size
    if not has_no_length.any() or level.run_offset is not None or (is_one and ifd.compression == 1):
        return level
    if ifd.dtype is None or not isinstance(ifd.sample_format, int) or 0 in level.shape:
        return level
    gap = np.where(has_no_length, _bytes_to_next(level), 0)
    if ifd.compression == 1:
        whole = stored_bytes(level)
        found = np.where(gap >= whole, whole, 0).astype(np.uint64)
    else:
        if ifd.compression == _PACKBITS:
            _cut_last_packbits(level, gap, segments)
        found = gap if _sample_decodes(level, gap, segments) else np.zeros_like(gap)
    n_found, n_lost = int((found > 0).sum()), int(((gap > 0) & (found == 0)).sum())
    counts = f"{int(has_no_length.sum())} of {has_no_length.size} are 0 or not listed"
    if n_lost:
        report.add(_COUNTS, "segments without a byte count are treated as missing", got=counts)
    elif n_found:
        report.add(
            _COUNTS,
            "segments without a byte count are read up to the next one",
            got=counts,
        )
    return replace(level, length=np.where(has_no_length, found, level.length).astype(np.uint64))


def _report_short_strip(level: LevelFacts, report: Report) -> None:
    """Report planes of a single uncompressed strip whose byte count is too small.

    libtiff warns and computes the byte count from the image size; so does tifffile.
    """
    ifd = level.ifds[0]
    is_one = ifd.compression == 1 and level.offset.shape[1] == ifd.shape[0] and ifd.tile is None
    if not is_one or level.run_offset is not None or 0 in level.shape or not level.length.size:
        return
    whole = int(stored_bytes(level)[0])
    got = int(level.length[level.offset > 0].min(initial=whole))
    if got < whole:
        report.add(_COUNTS, "the only strip is read in full", got=f"{got} bytes, expected {whole}")


def _bytes_to_next(level: LevelFacts) -> NDArray[np.uint64]:
    """Return the bytes from each segment to the next one in the file, or to the end of the file."""
    gap = np.zeros(level.offset.shape, np.uint64)
    for source, size in enumerate(source_sizes(level.sources)):
        rows = level.source == source
        offset = level.offset[rows]
        # an empty segment shares its offset with the next one
        used, count = np.unique(offset[offset > 0], return_counts=True)
        ends = np.append(used, size)
        after = ends[np.searchsorted(used, offset, side="right")]
        shared = np.isin(offset, used[count > 1])
        gap[rows] = np.where(
            (offset > 0) & (offset < after) & ~shared, after - np.minimum(offset, after), 0
        )
    return gap


def _cut_last_packbits(level: LevelFacts, gap: NDArray[np.uint64], segments: Segments) -> None:
    """Cut the last PackBits segment after its last sample (TIFF 6.0, section 9)."""
    n = int(level.offset.argmax())
    source = level.sources[level.source[n // gap.shape[1]]]
    place = source.url, int(level.offset.flat[n]), int(gap.flat[n])
    if not segments.is_cached(*place):
        return
    n_bytes = int(stored_bytes(level)[n % gap.shape[1]])
    data = in_first_bit_order(segments.read_segment(*place), level.ifds[0].fill_order)
    gap.flat[n] = packbits_end(data, n_bytes)


def _sample_decodes(level: LevelFacts, gap: NDArray[np.uint64], segments: Segments) -> bool:
    """Return whether a sample of the segments decodes if read up to the next segment."""
    flat = np.flatnonzero(gap)
    if not len(flat):
        return False
    width = gap.shape[1]
    urls = [source.url for source in level.sources]
    places = [
        (urls[level.source[n // width]], int(level.offset.flat[n]), int(gap.flat[n]))
        for n in flat[:: -(-len(flat) // _MAX_TRIED)]
    ]
    if not all(segments.is_cached(*place) for place in places):
        places = places[:: max(1, len(places) // _MAX_TRIED_REMOTE)]
    codec = segment_codec(level.ifds[0], is_short=True)
    return compression_of(codec.compression).decode is not None and all(
        decodes(codec, segments.read_segment(*place)) for place in places
    )
