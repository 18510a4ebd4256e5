"""Test-decode a few segments of a level before writing down its codec.

Checks that the portable codec decodes segments to exactly one chunk, falls back to our own codec if
not, and inlines the few chunks that need a different codec. Among these are cropped tiles at the
right edge with as many bytes as those at the lower edge: a decoder that sees a single segment
cannot distinguish them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import (
    accepting_truncated,
    decode_segment,
    decoder_name,
    decodes,
    find_end_check,
    fit_image,
    has_surplus,
    has_twin_edges,
    lacks_end,
    runs_short,
    wrap_inlined,
)
from ..codecs.foreign import decode_image, decode_limited, make_codec
from ..codecs.guard import (
    DECODING_ERRORS,
    END_OF_JPEG,
    HARMLESS_BYTES,
    HAVE_END,
    HEADERS,
    inflate,
    zstd_bound,
)
from ..codecs.table import compression_of
from ..codecs.unpack import layout_of, stored_codec
from ..codecs.zarr_codecs import LZW, codec_chain, to_zarr2
from ..errors import MalformedTiff, UnsupportedTiff
from ..metadata.report import Report
from ..model.array import Array
from ..model.codec import SegmentCodec
from ..model.manifest import MISSING
from ..model.tiff_facts import LevelFacts
from .byte_counts import (
    COUNTS,
    FAX,
    SIZES,
    SURPLUS,
    bytes_to_next,
    codec_of_cut,
    fill_in_lengths,
    report_wrong_lengths,
)
from .plan import LevelPlan, count_rows, plan_level, split_strips, truncated
from .series import ImageFile

_MAX_INLINED_BYTES = 1 << 20
"""Bytes that references may inline so that all other chunks share one codec."""
_MAX_PROBED_TILES = 16
"""Tiles to test if the right edge is too large to inline."""
_MAX_DECODED_BYTES = 64 << 20
_MAX_STORED_BYTES = 8 << 20
"""Segments of a level are not decoded for a test if one is larger."""
_MAX_TESTED_BYTES = {"bytes": 1 << 18, "image": 1 << 16}
"""Samples to decode for a test, if more than one segment is decoded; images decode more slowly."""
_MAX_INLINED_STRIPS = 64
_MAX_REQUESTS = 4
"""Strips to fetch from a server in order to use a portable codec."""
_MAX_CHECKED_ENDS = 64
_ENCODERS = frozenset(
    {"zlib", "zstd", "lzma", "delta", "imagecodecs_delta", "imagecodecs_floatpred",
     "imagecodecs_packbits", "imagecodecs_lzw"}
)  # fmt: skip
"""Lossless codecs that can encode again. Image codecs such as JPEG are lossy."""
_WITHOUT_END = frozenset({"ccitt", "libtiff", "old_jpeg"})
_MAKE_UP = _WITHOUT_END | {"jpeg", "jpegxr"}
"""Decoders that make up samples of truncated segments, of which some do not always have an end."""
_MAX_FOLLOWED = 16
_MAX_PADDING = 64
_MAX_FOLLOWING_BYTES = 4096
_MAX_JPEG_ENDS = 512
_MIN_MAPPED_ENDS = 32
"""Fewer ends of streams than this are faster to read one by one."""
_MAX_SPANNED_BYTES = 16 << 20


def checked_array(
    level: LevelFacts,
    dims: tuple[str, ...],
    is_native: bool,
    file: ImageFile,
    report: Report,
    full: Array | None = None,
    *,
    allows_holes: bool = False,
) -> Array:
    """Plan a level with a codec that decodes the tested segments.

    Parameters
    ----------
    level, dims, is_native
        As in `plan.plan_level`.
    file
        Reads the bytes of segments. To save requests, segments of remote files are tested only if
        already fetched, apart from a few partial strips and those at the end of the file.
    report
        Receives what was repaired.
    full
        Array of the full image, if the level is an overview. If both have the same codec, of the
        overview at most one segment is tested, and no large one.
    allows_holes
        Accept truncated segments that decode in part.

    Raises
    ------
    MalformedTiff
        If a segment does not decode, or is truncated.
    ManifestMismatch
        If pages have codecs that decode to different dtypes or shapes.
    """
    level = fill_in_lengths(level, file, report, allows_holes=allows_holes)
    plan = plan_level(level, dims, is_native=is_native)
    report_wrong_lengths(level, report)
    if plan.is_merged:
        return plan.array
    is_tested = full is not None and full.codecs == plan.array.codecs
    probe = _Probe(level, file, report, allows_holes, is_tested, plan.across_end)
    if plan.past_end:
        short = plan_level(level, dims, is_short=True, is_native=is_native)
        return probe.with_empty_segments(short)
    array = probe.with_exact_lzw_ends(plan.array)
    whole = array if level.ifds[0].tile else probe.with_whole_strips(array)
    chosen = [] if whole is None else probe.choose(whole)
    # LZW segments with exact ends have been tested
    if whole is not None and (
        "ends_exactly" in _codecs(whole)[0].parameters or probe.are_exact(whole, chosen)
    ):
        array = whole
    else:
        array = plan_level(level, dims, is_short=True, is_native=is_native).array
        probe.check_cropped(array)
        array = probe.with_cropped_tiles(array)
        chosen = probe.choose(array)
        probe.check_decodable(array, chosen)
    array = probe.accept_truncated(array, chosen)
    return array if len(array.codecs) == 1 else probe.with_one_codec(array)


@dataclass(frozen=True, slots=True)
class _Probe:
    """Tests segments of a level, and changes its array accordingly.

    `is_tested` is whether the codec of the level has decoded segments of the full image,
    `across_end` are segments whose byte counts reach past the end of the file.
    """

    level: LevelFacts
    file: ImageFile
    report: Report
    allows_holes: bool
    is_tested: bool
    across_end: Sequence[int]

    # ---- reading segments

    def choose(self, array: Array) -> list[int]:
        """Choose segments to test that can be read without a request."""
        if self.file.is_regular:
            return []
        manifest = array.manifest
        places = {n: manifest.at(n) for n in self._irregular(array)}
        return [
            n
            for n, (source, offset, length) in places.items()
            if self.file.is_cached(manifest.sources[source].url, offset, length)
        ]

    def _irregular(self, array: Array) -> list[int]:
        """Choose the segments that are most likely irregular: last, shortest, first, longest.

        Large ones are few: to decode one may take longer than all the rest of the scan.
        """
        manifest = array.manifest
        here = np.flatnonzero(manifest.source >= 0)
        n_bytes = math.prod(array.chunks) * array.dtype.itemsize
        length = manifest.length[here]
        if not here.size or length.max() > _MAX_STORED_BYTES:
            return []
        chosen = dict.fromkeys([here[-1], here[length.argmin()], here[0], here[length.argmax()]])
        kind = compression_of(_codecs(array)[0].compression).kind
        n_tested = _MAX_TESTED_BYTES[kind] // max(1, n_bytes)
        n_tested = min(n_tested, 1) if self.is_tested else max(n_tested, 1)
        return sorted(map(int, itertools.islice(chosen, n_tested)))

    def read(self, array: Array, n: int) -> bytes:
        """Return the stored bytes of a segment, or those that are inlined for it."""
        manifest = array.manifest
        if n in manifest.inlined:
            return manifest.inlined[n]
        source, offset, length = manifest.at(n)
        url = manifest.sources[source].url
        data = self.file.read_segment(url, offset, length)
        if len(data) != length:
            raise MalformedTiff(
                "a segment is cut off", url=url, tag=f"segment {n}", got=f"{len(data)} bytes",
                expected=f"{length} bytes",
            )  # fmt: skip
        return data

    def are_exact(self, array: Array, indices: Sequence[int]) -> bool:
        """Return whether each of these segments decodes to exactly one chunk."""
        return all(_is_exact(_codec_at(array, n), self.read(array, n)) for n in indices)

    # ---- the codec

    def with_exact_lzw_ends(self, array: Array) -> Array:
        """Set `ends_exactly` in the codec of LZW segments if all chosen ones decode that way."""
        codec = _codecs(array)[0]
        is_lzw = codec.compression == LZW and len(array.codecs) == 1
        chosen = self._irregular(array) if is_lzw else []
        if not chosen or self.choose(array) != chosen:
            return array
        n_strips, n_last = split_strips(self.level.ifds[0], codec.shape[1])
        if n_last:
            column = array.manifest.source.copy()
            column[n_strips - 1 :: n_strips] = MISSING  # last strips are shorter
            manifest = replace(array.manifest, source=column)
            chosen = self._irregular(replace(array, manifest=manifest))
        exact = replace(array, codecs=(replace(codec, parameters={"ends_exactly": True}),))
        return exact if chosen and self.are_exact(exact, chosen) else array

    def with_whole_strips(self, array: Array) -> Array | None:
        """Return the array if its last strips are whole or can be inlined as such; else None."""
        n_strips, n_last = split_strips(self.level.ifds[0], _codecs(array)[0].shape[1])
        if not n_last:
            return array
        if len(array.codecs) > 1:
            return None
        last = np.arange(n_strips - 1, array.manifest.n_chunks, n_strips)
        here = last[array.manifest.source[last] >= 0].tolist()
        if len(here) > _MAX_REQUESTS and here[-1] not in self.choose(array):
            return None
        if self.are_exact(array, here[:4] + here[-1:]):
            return array
        return self._inline_strips(array, here, n_last)

    def _inline_strips(self, array: Array, indices: Sequence[int], n_rows: int) -> Array | None:
        """Inline partial strips of `n_rows` rows, padded and encoded again without loss.

        Return None if the codec cannot encode, or the strips are too many, too large or cut off.
        """
        (codec,) = _codecs(array)
        chain = to_zarr2(codec)
        encoders = codec_chain(chain)
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
            data = self.read(array, n)
            if not decodes(short, data) or lacks_end(short, data):
                return None
            strip = decode_segment(short, data).astype(chain["dtype"], copy=False)
            buffer: object = np.ascontiguousarray(strip)
            for config in encoders:
                buffer = make_codec(config).encode(buffer)
            inlined[n] = bytes(memoryview(np.ascontiguousarray(buffer)).cast("B"))
            if sum(map(len, inlined.values())) > _MAX_INLINED_BYTES:
                return None
        return replace(array, manifest=array.manifest.with_inlined(inlined))

    def with_cropped_tiles(self, array: Array) -> Array:
        """Inline cropped tiles of the right edge with their own codec, if they need one.

        Raises
        ------
        UnsupportedTiff
            If they are too large to inline.
        """
        codec = _codecs(array)[0]
        if len(array.codecs) > 1 or compression_of(codec.compression).kind != "bytes":
            return array
        stored = stored_codec(codec)
        layout = layout_of(stored)
        if not has_twin_edges(stored, lambda shape: layout.stored_bytes(stored, shape)):
            return array
        manifest = array.manifest
        _, (edge, column), *_ = self._places(array, codec)
        column = column[manifest.source[column] >= 0]
        n_bytes = int(manifest.length[column].sum())
        is_small = n_bytes <= _MAX_INLINED_BYTES
        probed = column if is_small else column[:: -(-len(column) // _MAX_PROBED_TILES)]
        whole, narrow = replace(codec, edge=None), replace(codec, edge=edge)
        tiles = {n: self.read(array, n) for n in probed.tolist()}
        cropped = {n: data for n, data in tiles.items() if not decodes(whole, data)}
        if cropped and not is_small:
            what = "cropped tiles at the right edge cannot be distinguished from those at the lower"
            raise UnsupportedTiff(
                f"{what} edge", url=manifest.sources[0].url,
                got=f"{n_bytes} bytes at the right edge",
                expected=f"at most {_MAX_INLINED_BYTES} to inline",
                hint="Rewrite the file with tiles of another size.",
            )  # fmt: skip
        inlined = {n: wrap_inlined(narrow, data) for n, data in cropped.items()}
        return replace(array, manifest=manifest.with_inlined(inlined)) if inlined else array

    def with_one_codec(self, array: Array) -> Array:
        """Reduce several codecs to the most common one by inlining the chunks of the others."""
        manifest = array.manifest
        codec_of = np.array([source.codec for source in manifest.sources])
        of_chunk = np.where(manifest.source >= 0, codec_of[np.maximum(manifest.source, 0)], -1)
        n_bytes = [int(manifest.length[of_chunk == n].sum()) for n in range(len(array.codecs))]
        major = int(np.argmax(n_bytes))
        if sum(n_bytes) - n_bytes[major] > _MAX_INLINED_BYTES:
            return array  # our stores can read it, but it cannot be written as a document
        inlined = {
            n: wrap_inlined(_codec_at(array, n), self.read(array, n))
            for n in np.flatnonzero((of_chunk >= 0) & (of_chunk != major)).tolist()
        }
        codec = _codecs(array)[major]
        # a codec with an edge accepts inlined chunks that carry their own codec
        codec = replace(codec, edge=codec.edge or codec.shape[:3])
        manifest = manifest.with_inlined(inlined).with_sources(lambda s: replace(s, codec=0))
        return replace(array, codecs=(codec,), manifest=manifest)

    def with_empty_segments(self, plan: LevelPlan) -> Array:
        """Inline segments past the end of the file as empty bytes, if their decoder accepts that.

        Fax decoders return white rows for empty segments, and readers show such files; others
        refuse.
        """
        array, manifest, first = plan.array, plan.array.manifest, plan.past_end[0]
        source = manifest.sources[max(0, manifest.source[first])]
        error = truncated(
            f"{len(plan.past_end)} of {manifest.n_chunks} segments lie past the end of the file",
            url=source.url, tag=f"segment {first}", got=f"offset {manifest.offset[first]}",
            expected=f"less than {source.size}",
        )  # fmt: skip
        try:
            for codec in _codecs(array):
                decode_segment(codec, b"")
        except MalformedTiff as cause:
            raise error from cause
        self.report.add_damage(error, "They read as white.")
        white = manifest.with_inlined(dict.fromkeys(plan.past_end, b""))
        array = replace(array, manifest=white)
        self.check_decodable(array, self.choose(array))
        return array if len(array.codecs) == 1 else self.with_one_codec(array)

    # ---- checks

    def check_cropped(self, array: Array) -> None:
        """Refuse segments with fewer bytes than their place in the image allows.

        Only those at the lower edge may have fewer rows, and only those at the right edge fewer
        columns; the codec would treat all as cropped and pad them. GDAL reads the bytes after
        uncompressed ones instead, and refuses others, of which a few are decoded.
        """
        codec, manifest = _codecs(array)[0], array.manifest
        is_byte_stream = compression_of(codec.compression).kind == "bytes"
        if codec.edge is None or not is_byte_stream or not codec.edge[0] == codec.shape[0] == 1:
            return
        stored = stored_codec(codec)
        layout, samples = layout_of(stored), codec.shape[3]
        expected = np.zeros(manifest.n_chunks, np.int64)
        plain = [
            n for n, s in enumerate(manifest.sources) if _codecs(array)[s.codec].compression == 1
        ]
        is_plain = np.isin(manifest.source, plain)
        short: list[int] = []
        for edge, indices in self._places(array, codec):
            n_bytes = layout.stored_bytes(stored, (*edge, samples))
            expected[indices] = min(n_bytes, np.iinfo(np.int64).max)
            packed = indices[~is_plain[indices]]
            inside = np.full(manifest.n_chunks, MISSING, manifest.source.dtype)
            inside[packed] = manifest.source[packed]
            chosen = self.choose(replace(array, manifest=replace(manifest, source=inside)))
            short += [n for n in chosen if self._is_cropped(array, n, edge)]
        short += np.flatnonzero(is_plain & (manifest.length < expected)).tolist()
        if short:
            what = "a strip or tile has too few bytes for its place in the image"
            error = _segment_error(array, min(short), what, COUNTS)
            unit = "" if is_plain[min(short)] else " decompressed"
            error.expected = f"{expected[min(short)]}{unit}"
            raise error

    def _places(
        self, array: Array, codec: SegmentCodec
    ) -> Iterator[tuple[tuple[int, int, int], NDArray[np.intp]]]:
        """Yield the smallest shape of segments, and the segments: inside, right, lower, corner."""
        assert codec.edge is not None
        index = np.arange(array.manifest.n_chunks).reshape(array.grid)
        y, x = map(self.level.axes.index, "YX")
        for is_lower in (False, True):
            for is_right in (False, True):
                place = [slice(None)] * len(array.grid)
                place[y] = slice(-1, None) if is_lower else slice(-1)
                place[x] = slice(-1, None) if is_right else slice(-1)
                rows = codec.edge[1] if is_lower else codec.shape[1]
                columns = codec.edge[2] if is_right else codec.shape[2]
                yield (codec.shape[0], rows, columns), index[tuple(place)].reshape(-1)

    def _is_cropped(self, array: Array, n: int, smallest: tuple[int, int, int]) -> bool:
        """Return whether a segment decodes, but to fewer samples than the smallest shape has."""
        codec, data = _codec_at(array, n), self.read(array, n)
        return decodes(codec, data) and not decodes(replace(codec, edge=smallest), data)

    def check_decodable(self, array: Array, chosen: Sequence[int]) -> None:
        """Decode the chosen segments; report those that lack only their checksum.

        Segments cut off by the end of the file are checked later.
        """
        for n in chosen:
            codec, data = accepting_truncated(_codec_at(array, n)), self.read(array, n)
            try:
                decode_segment(codec, data)
            except MalformedTiff as error:
                error.url = error.url or array.manifest.sources[array.manifest.source[n]].url
                error.tag = f"segment {n}, {error.tag}" if error.tag else f"segment {n}"
                raise
            if n not in self.across_end and lacks_end(codec, data):
                what = "the byte count of a segment is too small: it excludes the checksum"
                self.report.add(COUNTS, what, got=f"{len(data)} bytes of segment {n}")
            if has_surplus(codec, data):
                self.report.add(SIZES, SURPLUS, got=f"segment {n}")

    # ---- truncated segments

    def accept_truncated(self, array: Array, chosen: Sequence[int]) -> Array:
        """Raise or warn of truncated segments; return the array with codecs that decode them."""
        codecs = array.codecs
        for error, is_harmless in itertools.chain(
            self._truncated_by_count(array, chosen), self._truncated_by_file(array)
        ):
            if not (is_harmless or self.allows_holes):
                raise error
            self.report.add_damage(error, "What is left of it is read.")
            codecs = tuple(map(accepting_truncated, _codecs(array)))
        return array if codecs is array.codecs else replace(array, codecs=codecs)

    def _truncated_by_file(self, array: Array) -> Iterator[tuple[MalformedTiff, bool]]:
        """Yield the errors of segments that the end of the file cuts off, and if they are harmless.

        A byte count that is merely too large is legal, a truncated segment is not. Readers show the
        rows of truncated fax segments, and of those that only lack their checksum.
        """
        for n in self.across_end[:_MAX_CHECKED_ENDS]:
            ifd, cause = self.level.ifds[0], None
            codec = codec_of_cut(_codec_at(array, n), ifd, n)
            try:
                data = self.read(array, n)
                n_rows = count_rows(ifd, codec, n)
                if not (runs_short(codec, data, n_rows) or lacks_end(codec, data)):
                    continue
            except MalformedTiff as error:
                cause = error
            what = "a segment is cut off by the end of the file"
            found = _segment_error(array, n, what, error=truncated)
            found.__cause__ = cause
            is_whole = cause is None and compression_of(codec.compression).kind == "bytes"
            yield found, is_whole or codec.compression in FAX

    def _truncated_by_count(
        self, array: Array, chosen: Sequence[int]
    ) -> Iterator[tuple[MalformedTiff, bool]]:
        """Yield the errors of image segments whose byte count excludes samples.

        Their decoders make these up. Tested are the chosen segments, those that bytes of no use
        follow, and JPEG streams that do not end with the marker of their end.
        """
        names = set(map(decoder_name, _codecs(array)))
        if not names & (_MAKE_UP | HAVE_END.keys()) or self.file.is_regular:
            return
        followed = self._followed_by_free_bytes(array) if names & _MAKE_UP else {}
        tested = {*followed, *chosen}
        if names & {"jpeg", "old_jpeg"}:
            tested |= self._without_jpeg_end(array)
        for n in sorted(tested - {*self.across_end}):
            codec, data, cause = _codec_at(array, n), self.read(array, n), None
            try:
                n_rows = count_rows(self.level.ifds[0], codec, n)
                if not _excludes_samples(codec, data, n_rows, followed.get(n, b"")):
                    continue
            except MalformedTiff as error:
                cause = error
            what = "the byte count of a segment is too small: it excludes samples"
            found = _segment_error(array, n, what, COUNTS)
            found.__cause__ = cause
            yield found, codec.compression in FAX

    def _followed_by_free_bytes(self, array: Array) -> dict[int, bytes]:
        """Return those bytes behind segments that no segment of the level uses, by segment.

        If there are many, only those with the most bytes, and of remote files few.
        """
        manifest = array.manifest
        gap = bytes_to_next(self.level).reshape(-1).astype(np.int64)
        free = np.where(manifest.source < 0, 0, gap - manifest.length.astype(np.int64))
        order = np.argsort(-free, kind="stable")[:_MAX_FOLLOWED]
        n_requests, usual = 0, 2 * np.median(free) + _MAX_PADDING
        found: dict[int, bytes] = {}
        for n in order[free[order] > 0].tolist():
            source, offset, length = manifest.at(n)
            url, n_more = manifest.sources[source].url, min(int(free[n]), _MAX_FOLLOWING_BYTES)
            if not self.file.is_cached(url, offset, length + n_more):
                is_last = offset == self.level.offset.max()
                if n_requests == _MAX_REQUESTS or free[n] <= usual or is_last:
                    continue
                n_requests += 1
            found[n] = self.file.read_segment(url, offset + length, n_more)
        return found

    def _without_jpeg_end(self, array: Array) -> set[int]:
        """Return segments that do not end as JPEG streams do, if no request is needed.

        Of a large level, evenly spaced ones are looked at: the ends of all may cost as much time as
        reading the whole file.
        """
        manifest = array.manifest
        here = np.flatnonzero(manifest.source >= 0)
        if manifest.length[here].sum() > _MAX_SPANNED_BYTES:
            here = here[:: -(-len(here) // _MAX_JPEG_ENDS)]
        source, end = manifest.source[here], (manifest.offset + manifest.length)[here]
        is_whole = np.ones(len(here), np.bool_)
        for row in np.unique(source).tolist():
            url = manifest.sources[row].url
            is_whole[source == row] = self._are_jpeg_ends(url, end[source == row].astype(np.int64))
        return set(here[~is_whole][:_MAX_JPEG_ENDS].tolist())

    def _are_jpeg_ends(self, url: str, end: NDArray[np.int64]) -> NDArray[np.bool_] | list[bool]:
        """Return whether JPEG streams end at some places of a file; true if that is not known."""
        source = self.file.source_at(url)
        buffer = source.as_buffer() if len(end) > _MIN_MAPPED_ENDS else None
        if buffer is not None:
            data, marker = np.frombuffer(buffer, np.uint8), END_OF_JPEG
            return (data[end - 2] == marker[0]) & (data[end - 1] == marker[1])
        tails = [(n - 2, 2) for n in end[:_MAX_JPEG_ENDS].tolist()]
        is_end = [not source.is_cached(*p) or source.read(*p) == END_OF_JPEG for p in tails]
        return is_end + [True] * (len(end) - len(tails))


def _codecs(array: Array) -> tuple[SegmentCodec, ...]:
    return cast("tuple[SegmentCodec, ...]", array.codecs)


def _codec_at(array: Array, n: int) -> SegmentCodec:
    row = array.manifest.source[n]
    return _codecs(array)[array.manifest.sources[row].codec if row >= 0 else 0]


def _segment_error(
    array: Array, n: int, what: str, *tags: str, error: Callable[..., MalformedTiff] = MalformedTiff
) -> MalformedTiff:
    """Return the error for a segment, with its length as what was found."""
    source, _, length = array.manifest.at(n)
    url, tag = array.manifest.sources[max(0, source)].url, ", ".join([f"segment {n}", *tags])
    return error(what, url=url, tag=tag, got=f"{length} bytes")


def _excludes_samples(codec: SegmentCodec, data: bytes, n_rows: int, following: bytes) -> bool:
    """Return whether a segment ends before its last sample.

    `following` are the bytes behind it that nothing uses: they belong to it if they change samples.
    """
    has_end = find_end_check(codec)
    # NDPI's segments are intervals of a stream, whose decoder checks their ends
    if has_end is not None and "jpeg_header" not in codec.parameters and not has_end(data):
        return runs_short(codec, data, n_rows)
    if not following or decoder_name(codec) not in _WITHOUT_END:
        return False
    samples = decode_segment(codec, data)[:, :n_rows]
    try:
        longer = decode_segment(codec, data + following)[:, :n_rows]
    except MalformedTiff:  # they belong to something else
        return False
    return not np.array_equal(longer, samples, equal_nan=samples.dtype.kind == "f")


def _is_exact(codec: SegmentCodec, data: bytes) -> bool:
    """Return whether the portable form of a codec decodes a segment to exactly one chunk.

    Portable codecs neither crop nor pad, and some refuse streams that TIFF readers accept.
    """
    decoders = codec_chain(to_zarr2(codec))[::-1]
    if any(config["id"] == "tiffref_segment" for config in decoders):
        return decodes(accepting_truncated(codec), data) and not has_surplus(codec, data)
    buffer: Any = data
    n_bytes = codec.n_samples * np.dtype(codec.dtype).itemsize
    try:
        for config in decoders:
            buffer = _decode_link(config, buffer, n_bytes)
        if compression_of(codec.compression).kind == "image":
            fit_image(codec, np.asarray(buffer))  # refuses those of other rows and columns
    except DECODING_ERRORS:
        return False
    return memoryview(np.ascontiguousarray(buffer)).nbytes == n_bytes


def _decode_link(config: dict[str, Any], buffer: Any, n_bytes: int) -> Any:
    """Decode with one codec of a chain; refuse streams that would exceed `n_bytes`."""
    name = config["id"]
    if name in _IMAGE_CODECS:
        return decode_image(config, bytes(buffer), n_bytes)
    if name in _STREAMS:
        return inflate(config, bytes(buffer), n_bytes)
    if name == "zstd" and zstd_bound(bytes(buffer)) > max(HARMLESS_BYTES, n_bytes):
        decode_limited(config, bytes(buffer), n_bytes)  # refuses more, which numcodecs returns
    return make_codec(config).decode(buffer)


_IMAGE_CODECS = frozenset(f"imagecodecs_{name}" for name in HEADERS)
"""Codecs whose streams declare their decoded size."""
_STREAMS = frozenset({"zlib", "lzma"})
"""Codecs whose streams do not declare their decoded size."""
