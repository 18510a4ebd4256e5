"""Look at a few stored segments before promising how all of them decode.

Owns the check that the portable codec of an array really gives whole chunks, what is done where it
does not, and the inlining of the few chunks that need other treatment: among them cropped tiles of
the right edge that have as many bytes as those of the lower edge, which a decoder that knows one
segment would take for the others. Reads bytes through a function that it is given.

Also finds the StripByteCounts and TileByteCounts that are 0, too few or missing although the
segments have offsets. libtiff reads one strip to the end of the file, and GDAL and tifffile take a
segment of no bytes for one that is missing; here it is data where there is room for it before the
next segment, and where it decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numcodecs
import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import (
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
from ..codecs.guard import DECODING_ERRORS, HARMLESS_BYTES, HEADERS, inflate, zstd_size
from ..codecs.table import compression_of
from ..codecs.unpack import layout_of, stored_codec
from ..codecs.zarr_codecs import LZW, to_zarr2
from ..errors import MalformedTiff, TruncationWarning, UnsupportedTiff, warn
from ..metadata.report import Report
from ..model.array import Array, chunk_grid
from ..model.codec import SegmentCodec
from ..model.manifest import MISSING, Manifest, has_zeros
from ..model.tiff_facts import LevelFacts
from .plan import LevelPlan, plan_level, segment_codec, source_sizes

__all__ = ["checked_array", "is_exact"]

MAX_INLINED_BYTES = 1 << 20
"""Bytes of a file that references may hold themselves, for the sake of one codec for all."""
_SAMPLE = 16
"""Tiles of a right edge too large to inline that are looked at."""


def with_marked_edges(level: LevelFacts, array: Array, read: Callable[[int], bytes]) -> Array:
    """Inline cropped tiles of the right edge with their own codec, where they need one.

    Parameters
    ----------
    level, array
        The level, and its plan with a codec that knows of cropped tiles.
    read
        Index of a chunk -> its bytes.

    Raises
    ------
    UnsupportedTiff
        If they are too many bytes.
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
    looked_at = column if is_small else column[:: -(-len(column) // _SAMPLE)]
    assert codec.edge is not None
    whole = replace(codec, edge=None)
    narrow = replace(codec, edge=(*codec.shape[:2], codec.edge[2]))
    cropped = {}
    for n in looked_at.tolist():
        data = read(n)
        if not decodes(whole, data):
            cropped[n] = wrap_inlined(narrow, data)
    if cropped and not is_small:
        raise UnsupportedTiff(
            "cropped tiles of the right edge look like those of the lower edge",
            url=manifest.sources[0].url,
            got=f"{n_bytes} bytes at the right edge",
            expected=f"at most {MAX_INLINED_BYTES} to inline",
            hint="Rewrite the file with tiles of another size.",
        )
    return replace(array, manifest=manifest.with_inlined(cropped)) if cropped else array


def _check_cropped(level: LevelFacts, array: Array) -> None:
    """Refuse uncompressed segments inside the image that have the bytes of one at its edge.

    Their codec would take them for one, and fill up what is not there; GDAL reads on behind them.

    Raises
    ------
    MalformedTiff
        If there is one.
    """
    codec = array.codecs[0]
    if not isinstance(codec, SegmentCodec) or codec.compression != 1 or codec.edge is None:
        return
    depth, _, columns = codec.edge
    grid = chunk_grid(array.shape, array.chunks)
    length = array.manifest.length.reshape(grid)
    is_inside = (array.manifest.source.reshape(grid) >= 0) & (depth == codec.shape[0] == 1)
    for axis, is_cropped in (("Y", True), ("X", columns != codec.shape[2])):
        if is_cropped:
            place = [slice(None)] * len(grid)
            place[level.axes.index(axis)] = slice(-1, None)
            is_inside[tuple(place)] = False
    stored = stored_codec(codec)
    whole = layout_of(stored).stored_bytes(stored, stored.shape)
    short = np.flatnonzero(is_inside & (length < whole))
    if short.size:
        n = int(short[0])
        raise MalformedTiff(
            "a strip or tile inside the image has too few bytes",
            url=array.manifest.sources[array.manifest.source[n]].url,
            tag=f"segment {n}, StripByteCounts (279), TileByteCounts (325)",
            got=f"{int(array.manifest.length[n])} bytes",
            expected=f"{whole}",
        )


def _right_edge(level: LevelFacts, array: Array) -> np.ndarray:
    """Return the indices of the chunks in the last column, save for the corner."""
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
"""Codecs that encode without loss; JPEG and its kin do not, or spell the same in many ways."""

_MAX_REQUESTS = 4
"""Strips to fetch from afar, for the sake of a portable codec."""


def checked_array(
    level: LevelFacts,
    dims: tuple[str, ...],
    is_native: bool,
    segments: Segments,
    report: Report,
    *,
    allows_holes: bool = False,
) -> Array:
    """Plan a level so that its codec holds for the segments looked at.

    Parameters
    ----------
    level, dims, is_native
        As `plan.plan_level` takes them.
    segments
        Reads the bytes of segments. What is not at hand is not looked at, save for a few partial
        strips and what the end of the file may cut off: a scan from afar costs few requests.
    report
        Takes what was repaired.
    allows_holes
        Take what a decoder makes of a segment that is cut off.

    Raises
    ------
    MalformedTiff
        If a segment does not decode at all, or is cut off.
    ManifestMismatch
        If pages are stored in different ways that do not decode to one type.
    """
    level = _with_lengths(level, segments, report)
    plan = plan_level(level, dims, is_native=is_native)
    _report_short_strip(level, report)
    if plan.is_merged:
        return plan.array
    if plan.behind_end:
        truncated = plan_level(level, dims, is_short=True, is_native=is_native)
        return _with_empty_segments(truncated, segments, report)
    array = plan.array
    if level.ifds[0].compression == LZW and not segments.is_regular:
        array = _with_ends(level, array, segments)
    whole = array if level.ifds[0].tile else _with_whole_strips(level, array, segments)
    if whole is not None and _are_whole(whole, _fetched(whole, segments), segments):
        array = whole
    else:
        short = plan_level(level, dims, is_short=True, is_native=is_native).array
        _check_cropped(level, short)
        array = with_marked_edges(level, short, lambda n: _chunk_bytes(short.manifest, n, segments))
        array = _decoded(array, segments)
        _report_without_end(array, plan.across_end, segments, report)
    if plan.across_end:
        _check_ends(level, array, plan.across_end, segments, report, allows_holes)
    return array if len(array.codecs) == 1 else _with_one_codec(array, segments)


def _with_ends(level: LevelFacts, array: Array, segments: Segments) -> Array:
    """Return an array of LZW segments whose codec says that they end exactly, if all of those that
    show irregular storage do; else the array as it is."""
    codec = array.codecs[0]
    if len(array.codecs) > 1 or not isinstance(codec, SegmentCodec) or codec.compression != LZW:
        return array
    exact = replace(array, codecs=(replace(codec, parameters={"ends_exactly": True}),))
    chosen = probe_indices(array.manifest)
    if _fetched(array, segments) != chosen:
        return array
    manifest = array.manifest
    ifd = level.ifds[0]
    n_strips = -(-ifd.shape[2] // codec.shape[1])
    if ifd.tile is None and ifd.shape[2] % codec.shape[1]:  # last strips are shorter
        column = manifest.source.copy()
        column[n_strips - 1 :: n_strips] = MISSING
        chosen = probe_indices(replace(manifest, source=column))
    return exact if chosen and _are_whole(exact, chosen, segments) else array


def _check_ends(
    level: LevelFacts,
    array: Array,
    indices: Sequence[int],
    segments: Segments,
    report: Report,
    allows_holes: bool,
) -> None:
    """Check the segments whose byte counts reach beyond the end of the file.

    A byte count that is only too large is legal; a segment that is cut off is not. Of what fax
    decoders make of one, readers show what there is; one that lacks its checksum has all samples.
    """
    for n in indices[:_MAX_ENDS]:
        codec = _codec_at(array, n)
        error = _cut_off(array, n, _n_rows(level, codec, n), segments)
        if error is None:
            continue
        is_byte_stream = compression_of(codec.compression).kind == "bytes"
        is_whole = error.__cause__ is None and is_byte_stream  # but for its checksum
        if report.is_strict or not (allows_holes or is_whole or codec.compression in _FAX):
            raise error
        warn(TruncationWarning(str(error)), stacklevel=2)


_FAX = frozenset({2, 3, 4, 32771})
_MAX_ENDS = 64


def _report_without_end(
    array: Array, across_end: Sequence[int], segments: Segments, report: Report
) -> None:
    """Report segments, of those looked at, that lack their checksum within the file."""
    for n in set(_fetched(array, segments)) - set(across_end):
        if lacks_end(_codec_at(array, n), _chunk_bytes(array.manifest, n, segments)):
            what = "the byte count of a segment is too small: its checksum is left out"
            report.add(_TAG, what, got=f"{int(array.manifest.length[n])} bytes of segment {n}")


def _n_rows(level: LevelFacts, codec: SegmentCodec, n: int) -> int:
    """Return the rows of a segment; the last strip may end below the image."""
    ifd, rows = level.ifds[0], codec.shape[1]
    n_strips = -(-ifd.shape[2] // rows)
    is_last = ifd.tile is None and n % n_strips == n_strips - 1
    return ifd.shape[2] - (n_strips - 1) * rows if is_last else rows


def _cut_off(array: Array, n: int, n_rows: int, segments: Segments) -> MalformedTiff | None:
    """Return the error of a segment that ends too early, or None."""
    codec = _codec_at(array, n)
    try:
        data = _chunk_bytes(array.manifest, n, segments)
        if not runs_short(codec, data, n_rows) and not lacks_end(codec, data):
            return None
        cause = None
    except MalformedTiff as error:
        cause = error
    found = MalformedTiff(
        "the end of the file cuts a segment off",
        url=array.manifest.sources[max(0, array.manifest.source[n])].url,
        tag=f"segment {n}",
        got=f"{int(array.manifest.length[n])} bytes",
        hint="The file is truncated; get a whole copy.",
    )
    found.__cause__ = cause
    return found


def _with_empty_segments(plan: LevelPlan, segments: Segments, report: Report) -> Array:
    """Return segments behind the end of the file as segments of no bytes, if their decoder can.

    Fax decoders make a white segment of nothing, and readers show such files; all others refuse.
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
    manifest = array.manifest.with_inlined(dict.fromkeys(plan.behind_end, b""))
    return _with_one_codec(_decoded(replace(array, manifest=manifest), segments), segments)


def probe_indices(manifest: Manifest) -> list[int]:
    """Choose chunks that would show irregular storage: first, last, shortest, longest."""
    here = np.flatnonzero(manifest.source >= 0)
    if not here.size:
        return []
    length = manifest.length[here]
    chosen = {here[0], here[-1], here[int(length.argmin())], here[int(length.argmax())]}
    return sorted(int(n) for n in chosen)


def _fetched(array: Array, segments: Segments) -> list[int]:
    manifest = array.manifest
    if segments.is_regular:
        return []
    return [
        n
        for n in probe_indices(manifest)
        if segments.is_fetched(
            manifest.sources[manifest.source[n]].url,
            int(manifest.offset[n]),
            int(manifest.length[n]),
        )
    ]


def is_exact(codec: SegmentCodec, data: bytes) -> bool:
    """Return whether the portable spelling of a codec turns this segment into just a whole chunk.

    The portable codecs neither cut nor pad, and some refuse what TIFF readers let pass.
    """
    chain = to_zarr2(codec)
    decoders = [chain["compressor"], *reversed(chain["filters"] or [])]
    if any(config and config["id"] == "tiffref_segment" for config in decoders):
        return decodes(codec, data)
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
    """Decode by one codec of a chain, within the bounds of a chunk of so many bytes."""
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
"""Codecs whose streams say their own size."""
_STREAMS = frozenset({"zlib", "lzma"})
"""Codecs whose streams do not say their size."""


def _codec_at(array: Array, n: int) -> SegmentCodec:
    row = array.manifest.source[n]
    codec = array.codecs[array.manifest.sources[row].codec if row >= 0 else 0]
    assert isinstance(codec, SegmentCodec)
    return codec


def _are_whole(array: Array, indices: Sequence[int], segments: Segments) -> bool:
    """Return whether some segments decode to just a whole chunk each."""
    for n in indices:
        if not is_exact(_codec_at(array, n), _chunk_bytes(array.manifest, n, segments)):
            return False
    return True


def _decoded(array: Array, segments: Segments) -> Array:
    """Return the array back if the segments looked at decode."""
    for n in _fetched(array, segments):
        try:
            decode_segment(_codec_at(array, n), _chunk_bytes(array.manifest, n, segments))
        except MalformedTiff as error:
            error.url = error.url or array.manifest.sources[array.manifest.source[n]].url
            error.tag = f"segment {n}, {error.tag}" if error.tag else f"segment {n}"
            raise
    return array


def _with_whole_strips(level: LevelFacts, array: Array, segments: Segments) -> Array | None:
    """Return the array with whole last strips: stored so, or inlined; None if neither can be."""
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
    if len(here) > _MAX_REQUESTS and not set(here[-1:]) <= set(_fetched(array, segments)):
        return None
    if _are_whole(array, here[:4] + here[-1:], segments):
        return array
    return _inline_strips(array, here, n_last, segments)


def _inline_strips(
    array: Array, indices: Sequence[int], n_rows: int, segments: Segments
) -> Array | None:
    """Inline partial strips, padded and encoded anew without loss.

    `n_rows` is how many rows of the image each holds. None if the codec cannot encode, or the
    strips are too many or too large, or one is cut off.
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
    """Make one codec of several: chunks of rarer ones are inlined, unless they are too many."""
    if len(array.codecs) == 1:
        return array
    manifest = array.manifest
    codec_of = np.array([source.codec for source in manifest.sources])
    of_chunk = np.where(manifest.source >= 0, codec_of[np.maximum(manifest.source, 0)], -1)
    n_bytes = [int(manifest.length[of_chunk == n].sum()) for n in range(len(array.codecs))]
    major = int(np.argmax(n_bytes))
    if sum(n_bytes) - n_bytes[major] > MAX_INLINED_BYTES:
        return array  # read by the stores and the engine; no document holds it
    inlined = {
        n: wrap_inlined(_codec_at(array, n), _chunk_bytes(manifest, n, segments))
        for n in np.flatnonzero((of_chunk >= 0) & (of_chunk != major)).tolist()
    }
    codec = array.codecs[major]
    assert isinstance(codec, SegmentCodec)
    # with an edge, the codec is one that knows self-describing chunks
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


_TAG = "StripByteCounts (279), TileByteCounts (325)"
_LENGTHS_TRIED, _REMOTE_LENGTHS_TRIED = 64, 4
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


def _with_lengths(level: LevelFacts, segments: Segments, report: Report) -> LevelFacts:
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


def _report_short_strip(level: LevelFacts, report: Report) -> None:
    """Report planes of one uncompressed strip that are read further than their byte count.

    libtiff warns and computes the bytes from the image; tifffile computes them.
    """
    ifd = level.ifds[0]
    is_one = ifd.compression == 1 and level.offset.shape[1] == ifd.shape[0] and ifd.tile is None
    if not is_one or level.run_offset is not None or 0 in level.shape or not level.length.size:
        return
    whole = int(_stored_bytes(level)[0])
    got = int(level.length[level.offset > 0].min(initial=whole))
    if got < whole:
        report.add(_TAG, "the one strip is read in full", got=f"{got} bytes, expected {whole}")


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
        for n in flat[:: -(-len(flat) // _LENGTHS_TRIED)]
    ]
    if not all(segments.is_fetched(*place) for place in places):
        places = places[:: max(1, len(places) // _REMOTE_LENGTHS_TRIED)]
    codec = segment_codec(level.ifds[0], is_short=True)
    return compression_of(codec.compression).decode is not None and all(
        decodes(codec, segments.read_segment(*place)) for place in places
    )
