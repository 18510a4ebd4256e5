"""Read image file directories (IFDs). No other module parses TIFF structure.

Handles classic TIFF, BigTIFF and NDPI in both byte orders, follows the chain of IFDs, and enforces
all limits: entries per IFD, loops, offsets inside the file, and the total bytes of tag values.
Each IFD is read once. Every fault becomes an `IfdFinding`; none is ignored silently. What the tags
mean is left to `facts`.

References: TIFF 6.0 section 2; BigTIFF; TIFF technical note 1 (SubIFDs).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff
from ..io.progress import ProgressCounter
from ..io.source import ByteSource
from ..io.urls import FIRST_BYTES, describe_content
from ..model.tiff_facts import name_tag

MAX_ENTRIES = 4096
"""Entries in one IFD. Anything that claims more is not an IFD."""
SUB_IFDS = 330
SEGMENT_OFFSETS, SEGMENT_LENGTHS = (324, 273, 513), (325, 279, 514)
"""Tags that list segments, those of old-style JPEG last; the first one present counts."""
_TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 10: "i4",
          11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}  # fmt: skip
"""NumPy codes of the types; a rational is two integers."""
_RATIONALS = (5, 10)
TYPE_SIZES = {
    kind: int(form[1]) * (2 if kind in _RATIONALS else 1) for kind, form in _TYPES.items()
}
UNSIGNED = frozenset({1, 3, 4, 7, 13, 16, 18})
_INTEGERS = UNSIGNED | {6, 8, 9, 17}
ASCII, _BYTES = 2, (1, 2, 7)
_TUPLE_TAGS = frozenset({273, 279, 282, 283, 324, 325, 330, 338, 513, 514, 530, 531, 34736, 50838})
"""Tags whose value is always a tuple, even if there is only one number."""
_BYTES_TAGS = frozenset({33723, 33923, 37724, 40100, 50288, 50296, 50839})
"""Tags whose value is always bytes, whatever type is stored."""
_ARRAY_TAGS = frozenset({34363, 34386, 65426, 65432, 65439})
_COLORMAP_TAGS = frozenset({301, 320})
"""Tables of three rows: red, green, blue."""
_SEQUENCE_TAGS = _TUPLE_TAGS | _BYTES_TAGS | _ARRAY_TAGS | _COLORMAP_TAGS
_MAX_TUPLE_LENGTH = 1024
"""Longer lists become arrays."""
_WINDOW_BYTES = 1 << 14
_MAX_WINDOWS = 8
_LOOKBEHIND_BYTES = 1 << 11
"""Bytes to read before an IFD: some writers put tag values before it, others after."""
_SPARE_ENTRIES, _MAX_OVERLAP = 1 << 14, 2
_SPARE_BYTES = 1 << 20
_MIN_OFFSET = 8
_LOOP_DETECTED_AT = 100
_MIN_BULK_WALK = 8
"""Local files: after this many IFDs, the rest of the chain is followed in one buffer."""
_MIN_GAPS, _MAX_GAPS, _MAX_PREDICTED = 2, 65, 256
_MIN_PREDICTED_GAP, _MIN_EVEN_GAP, _MIN_PREDICTED_BYTES = 1 << 15, 1 << 13, 512
_MIN_SPREAD, _MAX_DRIFTS = 0.0002, 8
"""Least spread of the distances between IFDs, relative to their mean; the last ones, for drift."""
_MAX_SLACK_BYTES = 1 << 17
"""Most bytes to either side of a predicted IFD: fetching them takes less time than a request."""
_SHORT_VALUES_BYTES = 256
"""Bytes to prefetch after an IFD, for the values of its short lists."""
_GHOST_AREA = b"GDAL_STRUCTURAL_METADATA_SIZE="
"""Start of the text in which GDAL declares the file layout (COG), right after the header."""
_MAX_GHOST_AREA_BYTES = 512
_NO_NUMBERS = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a TIFF: byte order, classic or BigTIFF, offset of the first IFD.

    `is_ndpi`: Hamamatsu's variant of the classic format. Offsets of IFDs have 8 bytes, and the high
    4 bytes of the offsets inside an IFD are stored after it.
    """

    byteorder: str
    is_big: bool
    first_ifd: int
    is_ndpi: bool = False


def parse_header(data: bytes, url: str = "") -> Header:
    """Parse the first 16 bytes of a file.

    NDPI has the same header as classic TIFF and is recognized by the file name.

    Raises
    ------
    MalformedTiff
        If this is not a TIFF header.
    """
    byteorder = {b"II": "<", b"MM": ">", b"EP": "<"}.get(data[:2])
    if byteorder is None:
        what, hint = describe_content(data)
        raise MalformedTiff(f"not a TIFF file but {what}", hint=hint)
    is_big = data[2:4] == struct.pack(f"{byteorder}H", 43)
    is_ndpi = not is_big and byteorder == "<" and url.lower().endswith(".ndpi")
    n_bytes = 16 if is_big else 12 if is_ndpi else 8
    if len(data) < n_bytes:
        raise MalformedTiff(
            "the header is cut off", got=f"{len(data)} bytes", expected=f"at least {n_bytes}",
            hint="The file is truncated; get a whole copy.",
        )  # fmt: skip
    form = f"{byteorder}{'Q' if is_big or is_ndpi else 'I'}"
    (first,) = struct.unpack_from(form, data, 8 if is_big else 4)
    return Header(byteorder, is_big, first, is_ndpi)


class _Layout:
    """Struct formats and sizes of one TIFF variant."""

    def __init__(self, byteorder: str, is_big: bool, is_ndpi: bool) -> None:
        self.count = struct.Struct(f"{byteorder}{'Q' if is_big else 'H'}")
        self.entry = struct.Struct(f"{byteorder}HH{'Q8s' if is_big else 'I4s'}")
        self.offset = struct.Struct(f"{byteorder}{'Q' if is_big or is_ndpi else 'I'}")
        self.inline_bytes = 8 if is_big else 4
        self.high_bytes = 4 if is_ndpi else 0
        self.value_offset = self.entry.size - self.inline_bytes
        kinds = [("code", "u2"), ("type", "u2"), ("count", f"u{self.inline_bytes}")]
        self.dtype = np.dtype(
            [(name, f"{byteorder}{kind}") for name, kind in kinds]
            + [("value", f"V{self.inline_bytes}")]
        )


_layout_of = functools.lru_cache(16)(_Layout)


@functools.lru_cache(64)
def dtype_of(byteorder: str, kind: int) -> np.dtype:
    """Return the NumPy dtype of the numbers of a TIFF type."""
    return np.dtype(f"{byteorder}{_TYPES[kind]}")


@dataclass(frozen=True, slots=True)
class IfdFinding:
    """A fault in the structure of a file.

    `loses_pixels` is true if pixels may be missing because of it; otherwise only metadata is lost.
    """

    what: str
    url: str
    ifd: str
    tag: int | str
    got: object
    expected: object
    loses_pixels: bool

    def to_error(self) -> MalformedTiff:
        """Return the finding as an exception."""
        tag = name_tag(self.tag) if isinstance(self.tag, int) else self.tag
        return MalformedTiff(
            self.what, url=self.url, ifd=self.ifd, tag=tag, got=self.got,
            expected=self.expected, hint="The file may be truncated; get a whole copy.",
        )  # fmt: skip


class Directory:
    """One image file directory at `offset`, in bytes from the start of the TIFF.

    `name` is its index in the chain, or "@offset" if it is outside the chain. `entries` has (type,
    count, position of the values, the values if already read) by tag; if a tag occurs twice, the
    first one counts. `next_offset`, stored at `end`, is that of the next IFD, 0 if there is none.
    `more_descriptions` are the values of repeated ImageDescription tags, `findings` the faults.
    """

    __slots__ = (
        "_reader", "_values", "end", "entries", "findings", "more_descriptions", "name",
        "next_offset", "offset",
    )  # fmt: skip

    def __init__(self, reader: TiffReader, offset: int, name: str) -> None:
        self._reader = reader
        self._values: dict[int, Any] = {}
        self.offset, self.name = offset, name
        self.entries: dict[int, tuple[int, int, int, bytes | None]] = {}
        self.next_offset = self.end = 0
        self.more_descriptions: list[Any] = []
        self.findings: list[IfdFinding] = []

    def __contains__(self, code: int) -> bool:
        return code in self.entries

    @property
    def n_listed_segments(self) -> int:
        """Number of segments whose offsets the IFD lists."""
        for code in SEGMENT_OFFSETS:
            if code in self.entries:
                return self.entries[code][1]
        return 0

    def get(self, code: int, default: Any = None) -> Any:
        """Return the value of a tag, decoded once.

        Numbers are an int, a float or a tuple of them; more than 1024 are an array. Rationals are
        numerators and denominators in one tuple. ASCII is str; BYTE and UNDEFINED are bytes.
        """
        value = self._values.get(code)
        if value is None:
            entry = self.entries.get(code)
            if entry is None:
                return default
            value = self._values[code] = self._decode(code, *entry)
        return value

    def raw(self, code: int, max_bytes: int | None = None) -> bytes:
        """Return the stored bytes of a tag's values."""
        kind, count, where, data = self.entries[code]
        if data is not None:
            return data
        n_bytes = TYPE_SIZES[kind] * count
        return self._reader.read_value(
            where, n_bytes if max_bytes is None else min(n_bytes, max_bytes)
        )

    def column(self, code: int) -> NDArray[np.uint64]:
        """Return the values of a tag of unsigned integers as `(count,)` uint64.

        Raises
        ------
        MalformedTiff
            If the tag has another type.
        """
        kind = self.entries[code][0]
        values = np.frombuffer(self.raw(code), dtype_of(self._reader.header.byteorder, kind))
        if kind not in _INTEGERS or (kind not in UNSIGNED and (values < 0).any()):
            raise MalformedTiff(
                "values are not unsigned integers", ifd=self.name, tag=name_tag(code),
                got=f"type {kind}",
            )  # fmt: skip
        return values.astype(np.uint64)

    def first_column(self, codes: Iterable[int]) -> NDArray[np.uint64]:
        """Return `column` of the first tag that is present, empty if none is."""
        for code in codes:
            if code in self.entries:
                return self.column(code)
        return _NO_NUMBERS

    def tags(self, without: frozenset[int]) -> dict[int, Any]:
        """Return the values of all other tags."""
        values = self._values
        return {
            code: values[code] if code in values else self.get(code)
            for code in self.entries
            if code not in without
        }

    def _decode(self, code: int, kind: int, count: int, where: int, data: bytes | None) -> Any:
        if data is None:
            data = self._reader.read_value(where, TYPE_SIZES[kind] * count)
        if kind == ASCII and code not in _BYTES_TAGS:
            return _to_text(data)
        is_bytes = kind in _BYTES or code in _BYTES_TAGS
        is_table = code in _COLORMAP_TAGS
        if is_bytes and not is_table and code not in _ARRAY_TAGS:
            return data
        values = np.frombuffer(data, dtype_of(self._reader.header.byteorder, kind))
        is_long = not is_bytes and count > _MAX_TUPLE_LENGTH and code not in _TUPLE_TAGS
        if is_long or is_table or code in _ARRAY_TAGS:
            values = values.astype(values.dtype.newbyteorder("="))
            return values.reshape(3, -1) if is_table and values.size % 3 == 0 else values
        numbers = tuple(values.tolist())
        return numbers[0] if len(numbers) == 1 and code not in _TUPLE_TAGS else numbers


def _to_text(data: bytes) -> str | bytes:
    # TIFF requires 7-bit ASCII, but writers store UTF-8, and old Windows programs code page 1252
    data = data.rstrip(b"\0")
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding).strip()
        except UnicodeDecodeError:
            continue
    return data


class TiffReader:
    """Reads the IFDs of one file.

    `base` is the position of the TIFF in the source, not 0 if it is embedded in a larger file.
    `counts` receives the number of IFDs and bytes read, for the progress of a scan. `findings` are
    the faults in the order in which they were found, `n_reads` the IFDs read so far, and `has_loop`
    whether the chain returns to an earlier IFD.
    """

    def __init__(
        self, source: ByteSource, base: int = 0, is_ndpi: bool | None = None,
        counts: ProgressCounter | None = None,
    ) -> None:  # fmt: skip
        self.source, self.base, self.counts = source, base, counts
        self.size, self.n_reads, self.has_loop = source.size - base, 0, False
        self.findings: list[IfdFinding] = []
        self._directories: dict[int, Directory] = {}
        self._windows: list[tuple[int, bytes]] = []
        self._chain: list[int] = []
        self._index: dict[int, int] = {}
        """Index in the chain, by offset."""
        self._is_chain_complete, self._n_counted = False, 0
        self._n_predicted, self._n_before_run = 0, 0
        name = self.url if is_ndpi is None else ".ndpi" if is_ndpi else ""
        try:
            self.header = header = parse_header(self.read(0, FIRST_BYTES), name)
        except MalformedTiff as error:
            error.url = error.url or self.url
            raise
        self._layout = _layout_of(header.byteorder, header.is_big, header.is_ndpi)
        # what may still be read; limits files whose IFDs or values overlap
        self._n_bytes_left = _MAX_OVERLAP * self.size + _SPARE_BYTES
        n_entries = _MAX_OVERLAP * self.size // self._layout.entry.size
        self._n_entries_left = n_entries + _SPARE_ENTRIES

    @property
    def url(self) -> str:
        """Address of the file."""
        return self.source.source.url

    def close(self) -> None:
        """Drop all IFDs. They refer to the reader: only the garbage collector frees such cycles."""
        self._directories.clear()
        self._windows.clear()
        self.__dict__.pop("first", None)

    # ---- bytes

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes at an offset in the TIFF; fewer at the end of the file."""
        for start, data in self._windows:
            at = offset - start
            if at >= 0 and at + length <= len(data):
                return data[at : at + length]
        if length > _WINDOW_BYTES // 2 or not self.source.is_local:
            return self.source.read(offset + self.base, max(0, min(length, self.size - offset)))
        start = max(0, min(offset - _LOOKBEHIND_BYTES, self.size - _WINDOW_BYTES))
        data = self.source.read(start + self.base, _WINDOW_BYTES)
        self._windows = [(start, data), *self._windows[: _MAX_WINDOWS - 1]]
        return data[offset - start : offset - start + length]

    def read_value(self, offset: int, length: int) -> bytes:
        """Read the values of a tag.

        Raises
        ------
        MalformedTiff
            If far more bytes of values were read than the file has, as the values overlap.
        """
        self._n_bytes_left -= length
        if self._n_bytes_left < 0:
            raise MalformedTiff(
                "tag values overlap", url=self.url, got="more bytes of values than the file has"
            )
        return self.read(offset, length)

    @functools.cached_property
    def declared_layout(self) -> bytes:
        """GDAL's layout declaration between header and first IFD; empty if there is none."""
        start = 16 if self.header.is_big else 8
        data = self.read(start, max(0, min(self.header.first_ifd - start, _MAX_GHOST_AREA_BYTES)))
        return data if data.startswith(_GHOST_AREA) else b""

    # ---- directories

    @functools.cached_property
    def first(self) -> Directory:
        """The first IFD.

        Raises
        ------
        MalformedTiff
            If it cannot be read.
        """
        offset = self.header.first_ifd
        ifd = self.directory(offset)
        if ifd is None:
            raise MalformedTiff(
                "the first IFD cannot be read", url=self.url, tag="first IFD",
                got=f"offset {offset}",
                expected=f"an IFD within the {self.size} bytes of the file",
                hint="The file may be truncated; get a whole copy.",
            )  # fmt: skip
        if not self.source.is_local:  # the next IFD together with the description, such as OME-XML
            kind, count, where, _ = ifd.entries.get(270, (ASCII, 0, 0, None))
            ranges = [(where, TYPE_SIZES[kind] * count), (ifd.next_offset, 1 << 10)]
            self.source.prefetch([(start + self.base, length) for start, length in ranges])
        return ifd

    def directory(self, offset: int, name: str = "") -> Directory | None:
        """Read the IFD at an offset, once; None if there is none or it is cut off."""
        cached = self._directories.get(offset)
        if cached is not None:
            return cached
        layout, n = self._layout, self._count_entries(offset, self.read)
        if n is None:
            return None
        size, start = layout.entry.size, offset + layout.count.size
        self._charge_entries(n + 1)
        self.n_reads += 1
        ifd = Directory(self, offset, name or self.name_of(offset))
        ifd.end = start + n * size
        tail = layout.offset.size + layout.high_bytes * n
        body = self.read(start, n * size + tail)
        if len(body) >= n * size + layout.offset.size:
            (ifd.next_offset,) = layout.offset.unpack_from(body, n * size)
        else:
            self.add_finding(ifd, "the offset of the next IFD is cut off", "next IFD", ifd.end)
        if not body[max(0, n - 1) * size :].strip(b"\0"):
            what, got = "the IFD ends with zeros: it was not written completely", f"{n} entries"
            self.add_finding(ifd, what, "entries", got, expected="entries with tags")
        high = body[n * size + layout.offset.size :]
        self._parse(ifd, body[: n * size], start + layout.value_offset, high)
        self._directories[offset] = ifd
        self._count_read(offset not in self._index)  # `_walk_buffer` has counted the others
        return ifd

    def name_of(self, offset: int) -> str:
        """Return the index of an IFD in the chain, or "@offset"."""
        if offset == self.header.first_ifd:
            return "0"
        index = self._index.get(offset)
        return f"@{offset}" if index is None else str(index)

    def _count_read(self, n_directories: int) -> None:
        """Report IFDs to the progress counter, with the bytes read since the last report."""
        if self.counts is not None:
            before, self._n_counted = self._n_counted, self.source.n_fetched
            self.counts.add(n_directories, self._n_counted - before)

    def _count_entries(self, offset: int, read: Callable[[int, int], bytes]) -> int | None:
        """Return the number of entries of the IFD at an offset; None if there is no IFD."""
        layout = self._layout
        if offset < _MIN_OFFSET or offset + layout.count.size > self.size:
            return None
        (n,) = layout.count.unpack(read(offset, layout.count.size))
        is_whole = offset + layout.count.size + n * layout.entry.size <= self.size
        return n if n <= MAX_ENTRIES and is_whole else None

    def is_directory(self, offset: int) -> bool:
        """Return whether there is an IFD at an offset, without reading its entries."""
        # reads the count only: the entries may be fetched later, together with those of other IFDs
        n = self._count_entries(offset, lambda at, n: self.source.read(at + self.base, n))
        return n is not None

    def _charge_entries(self, n_entries: int) -> None:
        self._n_entries_left -= n_entries
        if self._n_entries_left < 0:
            raise MalformedTiff(
                "IFDs overlap", url=self.url, got="more entries than the file has room for",
                expected=f"no more than fit into {self.size} bytes",
            )  # fmt: skip

    def _parse(self, ifd: Directory, body: bytes, where: int, high: bytes) -> None:
        layout, n_inline, size = self._layout, self._layout.inline_bytes, self.size
        entries, step, values = ifd.entries, layout.entry.size, ifd._values
        order: Any = "little" if self.header.byteorder == "<" else "big"
        start, window = self._windows[0] if self._windows else (0, b"")
        for n, (code, kind, count, value) in enumerate(layout.entry.iter_unpack(body)):
            width = TYPE_SIZES.get(kind)
            if width is None:  # TIFF 6.0: readers must skip fields of unknown types
                if code in _REPORTED_TAGS:
                    self.add_finding(ifd, UNKNOWN_TYPE, code, kind, code in _PIXEL_TAGS)
                continue
            n_bytes = width * count
            if n_bytes <= n_inline and not (high and kind == ASCII):
                value = value[:n_bytes]
                entry = (kind, count, where + n * step, value)
                if not n_bytes and code in _TAGS_WITH_VALUES:
                    self.add_finding(ifd, "the tag has no values", code, None, expected="a value")
                if high and count == 1 and kind in (4, 13):
                    if high[4 * n : 4 * n + 4] > b"\0\0\0\0":
                        entry = (16, 1, where + n * step, value + high[4 * n : 4 * n + 4])
                elif (
                    count == 1
                    and kind in (3, 4)
                    and code not in _SEQUENCE_TAGS
                    and code not in entries
                ):
                    values[code] = int.from_bytes(value, order)  # fast path: most tags
            else:
                at = int.from_bytes(value + high[4 * n : 4 * n + 4], order)
                if at + n_bytes > size or (at < 8 and n_bytes):
                    what, got = "values lie outside the file", f"{n_bytes} bytes at {at}"
                    self.add_finding(ifd, what, code, got, code in _PIXEL_TAGS)
                    continue
                begin = at - start
                if 0 <= begin <= len(window) - n_bytes and n_bytes <= self._n_bytes_left:
                    self._n_bytes_left -= n_bytes  # already read together with the IFD
                    entry = (kind, count, at, window[begin : begin + n_bytes])
                else:
                    entry = (kind, count, at, None)
            if code not in entries:
                entries[code] = entry
            elif code == 270:
                ifd.more_descriptions.append(ifd._decode(code, *entry))
            elif code in _PIXEL_TAGS and entry[3:] != entries[code][3:]:
                self.add_finding(
                    ifd, REPEATED, code, f"type {kind}, {count} values", expected="one"
                )

    def add_finding(
        self,
        ifd: Directory,
        what: str,
        tag: int | str,
        got: object,
        loses_pixels: bool = True,
        expected: str = "",
    ) -> None:
        """Add a fault of an IFD."""
        expected = expected or f"within {self.size} bytes"
        finding = IfdFinding(what, self.url, ifd.name, tag, got, expected, loses_pixels)
        ifd.findings.append(finding)
        self.findings.append(finding)

    # ---- the chain

    def chain(self, limit: int | None = None) -> list[int]:
        """Return the offsets of the IFDs in the chain, at most `limit` of them.

        A chain that ends in a loop or outside the file becomes a finding.
        """
        if not self._chain:
            self._append_to_chain(self.first.offset)
        while not self._is_chain_complete and (limit is None or len(self._chain) < limit):
            if len(self._chain) >= _MIN_BULK_WALK and self.source.is_local:
                view = self.source.as_buffer()
                if view is not None and not self.base:
                    self._walk_buffer(view)
                    break
            last = self._directories[self._chain[-1]]
            place = last.next_offset + self.base, last.end - last.offset
            if not self.source.is_local and not self.source.is_cached(*place):
                self._prefetch_next(last)
            self._append_next(last.next_offset, last)
        return self._chain if limit is None else self._chain[:limit]

    def _prefetch_next(self, last: Directory) -> None:
        """Prefetch the next IFDs of a remote file together if their distances are similar.

        Pages take about as many bytes as the others (with noise), or as the last one (with drift):
        what predicts more IFDs is used. Predictions get less certain with each IFD, so the ranges
        get wider; after a wrong one, fewer are made. Few distances underestimate their spread.
        """
        n_known = len(self._chain)
        if n_known < self._n_predicted:
            self._n_before_run = n_known
        gaps = np.diff(np.array(self._chain[-_MAX_GAPS:], np.float64))
        is_within = 0 < last.next_offset < self.size
        if len(gaps) < _MIN_GAPS or not is_within:
            return
        is_even = gaps.min() == gaps.max()
        if gaps.mean() < (_MIN_EVEN_GAP if is_even else _MIN_PREDICTED_GAP):
            return  # reading on takes fewer requests
        n_left = int((self.size - last.next_offset) / gaps.mean())
        n_ahead = max(5, 6 * (n_known - self._n_before_run) // 5)
        ahead = np.arange(min(n_left + 1, n_ahead, _MAX_PREDICTED))
        least = 0.0 if is_even else _MIN_SPREAD * gaps.mean()
        spread = max(least, gaps.std(ddof=1) * (1 + 1 / len(gaps)))
        drifts = np.diff(gaps[-_MAX_DRIFTS:])
        drift = max(least, np.sqrt(np.mean(drifts**2)) * (1 + 1 / len(drifts)))
        predictions = []
        for gap, variance in (
            (gaps.mean(), spread**2 * (ahead**2 / len(gaps) + ahead)),
            (gaps[-1], drift**2 * ahead * (ahead + 1) * (2 * ahead + 1) / 6),
        ):
            slack = 3 * np.sqrt(variance)
            slack = slack[slack <= _MAX_SLACK_BYTES]
            predictions.append((len(slack), -slack[-1], gap, slack))
        n, _, gap, slack = max(predictions, key=lambda prediction: prediction[:2])
        start = (
            last.next_offset
            + self.base
            + (ahead[:n] * gap - slack).clip(-last.next_offset).astype(np.int64)
        )
        n_bytes = max(_MIN_PREDICTED_BYTES, last.end - last.offset + _SHORT_VALUES_BYTES)
        length = (2 * slack).astype(np.int64) + n_bytes
        self._n_predicted = n_known + n if n > 1 else 0
        self.source.prefetch(list(zip(start.tolist(), length.tolist(), strict=True)))

    def _append_to_chain(self, offset: int) -> None:
        self._index[offset] = len(self._chain)
        self._chain.append(offset)

    def _append_next(self, offset: int, last: Directory) -> None:
        if offset and offset not in self._index:
            ifd = self.directory(offset, str(len(self._chain)))
            if ifd is not None:
                ifd.name = str(len(self._chain))
                self._append_to_chain(offset)
                return
        self._is_chain_complete = True
        if offset:
            has_loop, what = offset in self._index, "the next IFD cannot be read"
            if has_loop:
                what = "the chain of IFDs returns to an earlier one"
            self.add_finding(last, what, "next IFD", f"offset {offset}", not has_loop)
            self.has_loop |= has_loop
            start = self._index.get(offset, 0)
            if 0 < start < len(self._chain) < _LOOP_DETECTED_AT:
                # tifffile looks for loops at the hundredth IFD, and ends the chain there
                n_more = (_LOOP_DETECTED_AT - 1 - start) % (len(self._chain) - start)
                del self._chain[start + n_more + 1 :]

    def _walk_buffer(self, view: Any) -> None:
        """Follow the chain through a buffer of the whole file; written for a million IFDs."""
        layout = self._layout
        read_count, n_head = layout.count.unpack_from, layout.count.size
        read_next = layout.offset.unpack_from
        entry_size, last = layout.entry.size, self.size - layout.offset.size
        chain = dict.fromkeys(self._chain)
        before = self._directories[self._chain[-1]]
        offset, n_entries, max_entries = before.next_offset, 0, self._n_entries_left
        while offset >= _MIN_OFFSET and offset not in chain and offset + n_head <= self.size:
            (n,) = read_count(view, offset)
            end = offset + n_head + n * entry_size
            n_entries += n + 1
            if n > MAX_ENTRIES or end > last or n_entries > max_entries:
                break
            chain[offset] = None
            (offset,) = read_next(view, end)
        self._charge_entries(n_entries)
        self._count_read(len(chain) - len(self._chain))
        self._chain = list(chain)
        self._index = dict(zip(self._chain, range(len(chain)), strict=True))
        # the last IFD is read in full so that a finding on how the chain ends can name it
        self._n_entries_left += MAX_ENTRIES
        tail = self.directory(self._chain[-1])
        assert tail is not None
        self._append_next(offset, tail)
        self._is_chain_complete = True

    def fetch_values(self, ifds: Iterable[Directory], codes: frozenset[int]) -> None:
        """Prefetch the values of some tags of several IFDs together, unless they overlap."""
        places = [
            (where + self.base, TYPE_SIZES[kind] * count)
            for ifd in ifds
            for code, (kind, count, where, data) in ifd.entries.items()
            if data is None and code in codes
        ]
        if sum(length for _, length in places) <= self._n_bytes_left:
            self.source.prefetch(places)


DECODING_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 338, 339, 347, 529, 530,
     532, 32997, 32998, 50674, 65007, 65008, 65009}
)  # fmt: skip
"""Tags that decide how segments decode: IFDs with equal values have the same codec."""
KIND_TAGS = DECODING_TAGS | {320, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113, 50844}
"""Decoding tags, and those of color tables, georeferencing, GDAL's metadata and nodata. IFDs with
equal values share their facts."""
NUMBER_TAGS = frozenset({*SEGMENT_OFFSETS, *SEGMENT_LENGTHS, SUB_IFDS})
SCANNED_TAGS = KIND_TAGS | NUMBER_TAGS | {282, 283, 305, 65426, 65432}
"""Those, resolution, Software, and starts of tiles in NDPI; not descriptions, which may be long."""
UNKNOWN_TYPE = "values have an unknown type"
REPEATED = "the tag is repeated with another value; the first counts, as in libtiff"
"""Finding for a tag of unknown type, which readers must skip (TIFF 6.0)."""
TOLERATED = frozenset({UNKNOWN_TYPE, REPEATED})
"""Findings for tags of which libtiff takes another value, or the default."""
_PIXEL_TAGS = DECODING_TAGS | {273, 279, 324, 325, SUB_IFDS, 513, 514, 519, 520, 521} - {529, 532}
"""Tags without which pixels are lost."""
_TAGS_WITH_VALUES = frozenset(
    {256, 257, 258, 259, 266, 273, 277, 278, 284, 317, 322, 323, 324, 339}
)
"""Tags that are not the same as their default if they have no values."""
_REPORTED_TAGS = _PIXEL_TAGS | KIND_TAGS | {270}
"""Those, ImageDescription, and tags of color tables, georeferencing and nodata."""
