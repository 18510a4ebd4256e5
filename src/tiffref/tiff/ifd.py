"""The reader of image file directories: the only place where TIFF structure is parsed.

Owns the binary layout of classic TIFF, BigTIFF and NDPI in both byte orders, the chain of
directories, and every bound on it: entries of a directory, directories read twice, room in the
file, values inside the file, bytes in all. Each directory is read once. What does not hold is a
`Finding`; nothing is left out in silence. It does not know what tags mean (see `facts`).

References: TIFF 6.0 section 2; BigTIFF; TIFF technical note 1 (SubIFDs).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff
from ..io.progress import Counts
from ..io.source import ByteSource
from ..io.urls import FIRST_BYTES, describe_content

__all__ = [
    "KIND_TAGS",
    "MAX_ENTRIES",
    "SEGMENT_LENGTHS",
    "SEGMENT_OFFSETS",
    "TYPE_SIZES",
    "UNKNOWN_TYPE",
    "Directory",
    "Finding",
    "TiffReader",
    "parse_header",
]

MAX_ENTRIES = 4096
"""Entries of one directory; what claims more is not a directory."""
SUB_IFDS = 330
SEGMENT_OFFSETS, SEGMENT_LENGTHS = (324, 273), (325, 279)
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
              16: 8, 17: 8, 18: 8}  # fmt: skip
UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}
"""Types of whole numbers without a sign, as NumPy spells them."""
_SIGNED = {6: "i1", 8: "i2", 9: "i4", 17: "i8"}
ASCII, _BYTES = 2, (1, 7)
_LETTERS = {3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I",
            16: "Q", 17: "q", 18: "Q"}  # fmt: skip
_TUPLES = frozenset({273, 279, 282, 283, 324, 325, 330, 338, 513, 514, 530, 531, 34736, 50838})
"""Tags of lists, also where they have one value."""
_RAW = frozenset({33723, 33923, 37724, 40100, 50288, 50296, 50839})
"""Tags of bytes, whatever type they are said to have."""
_ARRAYS = frozenset({34363, 34386, 65426, 65432, 65439})
_TABLES = frozenset({301, 320})
"""Tags of three columns: red, green, blue."""
_LISTED = _TUPLES | _RAW | _ARRAYS | _TABLES
_MAX_TUPLE = 1024
"""Values beyond which a list is an array."""
_WINDOW_BYTES = 1 << 14
_MAX_WINDOWS = 8
_BEFORE_BYTES = 1 << 11
"""What is read before a directory: writers put its values on either side of it."""
_SPARE_ENTRIES, _MAX_OVERLAP = 1 << 14, 2
_SPARE_BYTES = 1 << 20
_MIN_OFFSET = 8
_CIRCLE_FOUND = 100
_WALKED_ONE_BY_ONE = 8
"""Directories after which a chain is followed in bulk, where the file is at hand."""
_MIN_GAPS, _MAX_GAPS, _MAX_FORESEEN = 2, 65, 256
_MIN_FORESEEN_GAP, _MIN_FORESEEN_BYTES = 1 << 15, 512
_MIN_SPREAD, _MAX_SPREAD = 0.001, 0.02
"""How much of the distance between directories it may differ by, where they are to be foreseen."""
_BESIDE_BYTES = 256
"""What is fetched behind a directory: the values of its short lists."""
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE="
"""Start of the text that GDAL puts behind the header of files of a declared layout."""
_MAX_GHOST_BYTES = 512


@dataclass(frozen=True, slots=True)
class Header:
    """How a file spells its directories: byte order, and BigTIFF or classic.

    `is_ndpi` for the classic header of Hamamatsu: offsets of directories have 8 bytes, and the high
    halves of the offsets in a directory follow it.
    """

    byteorder: str
    is_big: bool
    first_ifd: int
    is_ndpi: bool = False


def parse_header(data: bytes, url: str = "") -> Header:
    """Read byte order, flavour and the first IFD's offset from the first 16 bytes of a file.

    Nothing in the header tells NDPI from classic TIFF: the name of the file does.

    Raises
    ------
    MalformedTiff
        If this is not a TIFF header.
    """
    byteorder = {b"II": "<", b"MM": ">", b"EP": "<"}.get(data[:2])
    if byteorder is not None and len(data) < 8:
        raise MalformedTiff(
            "the header is cut off",
            got=f"{len(data)} bytes",
            expected="at least 8",
            hint="The file is truncated; get a whole copy.",
        )
    if byteorder is None:
        what, hint = describe_content(data)
        raise MalformedTiff(f"not a TIFF file but {what}", hint=hint)
    is_big = struct.unpack_from(f"{byteorder}H", data, 2)[0] == 43
    is_ndpi = not is_big and byteorder == "<" and url.lower().endswith(".ndpi")
    if len(data) < (16 if is_big else 12 if is_ndpi else 8):
        raise MalformedTiff("the header is cut off", got=f"{len(data)} bytes", expected="16")
    form = f"{byteorder}{'Q' if is_big or is_ndpi else 'I'}"
    (first,) = struct.unpack_from(form, data, 8 if is_big else 4)
    return Header(byteorder, is_big, first, is_ndpi)


class _Layout:
    """The structures of one dialect of TIFF, compiled."""

    def __init__(self, byteorder: str, is_big: bool, is_ndpi: bool) -> None:
        self.count = struct.Struct(f"{byteorder}{'Q' if is_big else 'H'}")
        self.entry = struct.Struct(f"{byteorder}HH{'Q8s' if is_big else 'I4s'}")
        self.offset = struct.Struct(f"{byteorder}{'Q' if is_big or is_ndpi else 'I'}")
        self.room = 8 if is_big else 4
        self.high = 4 if is_ndpi else 0
        self.value = self.entry.size - self.room
        kinds = [("code", "u2"), ("type", "u2"), ("count", f"u{self.room}")]
        self.dtype = np.dtype(
            [(name, f"{byteorder}{kind}") for name, kind in kinds] + [("value", f"V{self.room}")]
        )


_layout_of = functools.lru_cache(16)(_Layout)


@functools.lru_cache(1024)
def _compiled(byteorder: str, kind: int, count: int) -> struct.Struct:
    letters = _LETTERS[kind]
    return struct.Struct(f"{byteorder}{count * len(letters)}{letters[0]}")


@functools.lru_cache(64)
def _whole_type(byteorder: str, kind: int) -> np.dtype | None:
    """Return the data type of whole numbers of a TIFF type; None where they are others."""
    form = UNSIGNED.get(kind) or _SIGNED.get(kind)
    return None if form is None else np.dtype(f"{byteorder}{form}")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something of a file's structure that does not hold.

    `loses_pixels` if images may be missing because of it; otherwise only metadata is lost.
    """

    what: str
    url: str
    ifd: str
    tag: int | str
    got: object
    expected: object
    loses_pixels: bool

    def to_error(self) -> MalformedTiff:
        """Build the error that says so."""
        return MalformedTiff(
            self.what,
            url=self.url,
            ifd=self.ifd,
            tag=self.tag,
            got=self.got,
            expected=self.expected,
            hint="The file may be truncated; get a whole copy.",
        )


class Directory:
    """One image file directory.

    Attributes
    ----------
    offset
        Where it is, in bytes from the start of the TIFF.
    name
        Its place in the chain, or "@offset" for others.
    entries
        (type, count, position of the values, the values if they are in the entry) of each tag. Of
        a tag that is there twice the first counts.
    following
        Offset of the next directory; 0 if there is none.
    end
        Position of that offset.
    more_texts
        Values of further ImageDescription tags.
    findings
        What does not hold in this directory.
    """

    __slots__ = (
        "_reader", "_values", "end", "entries", "findings", "following", "more_texts", "name",
        "offset",
    )  # fmt: skip

    def __init__(self, reader: TiffReader, offset: int, name: str) -> None:
        self._reader = reader
        self._values: dict[int, Any] = {}
        self.offset, self.name = offset, name
        self.entries: dict[int, tuple[int, int, int, bytes | None]] = {}
        self.following = self.end = 0
        self.more_texts: list[Any] = []
        self.findings: list[Finding] = []

    def __contains__(self, code: int) -> bool:
        return code in self.entries

    @property
    def n_listed(self) -> int:
        """Segments whose offsets are listed."""
        for code in (324, 273, 513):
            if code in self.entries:
                return self.entries[code][1]
        return 0

    def get(self, code: int, default: Any = None) -> Any:
        """Return the value of a tag; it is decoded once.

        Numbers are one int, float or a tuple of them, more than 1024 an array; rationals are pairs
        in one tuple. ASCII is str; BYTE and UNDEFINED are bytes.
        """
        value = self._values.get(code)
        if value is None:
            entry = self.entries.get(code)
            if entry is None:
                return default
            value = self._values[code] = self._decode(code, *entry)
        return value

    def raw(self, code: int, most: int | None = None) -> bytes:
        """Return the bytes of a tag's values as they are stored."""
        kind, count, where, data = self.entries[code]
        if data is not None:
            return data
        n_bytes = TYPE_SIZES[kind] * count
        return self._reader.read_value(where, n_bytes if most is None else min(n_bytes, most))

    def column(self, code: int) -> NDArray[np.uint64]:
        """Return the values of a tag of unsigned integers as `(count,)` uint64.

        Raises
        ------
        MalformedTiff
            If it has another type.
        """
        kind = self.entries[code][0]
        form = _whole_type(self._reader.header.byteorder, kind)
        values = np.frombuffer(self.raw(code), form or "u1")
        if form is None or (kind in _SIGNED and (values < 0).any()):
            raise MalformedTiff(
                "values are not unsigned integers",
                ifd=self.name,
                tag=code,
                got=f"type {self.entries[code][0]}",
            )
        return values.astype(np.uint64)

    def tags(self, without: frozenset[int]) -> dict[int, Any]:
        """Return all values by tag."""
        known = self._values
        return {
            code: known[code] if code in known else self.get(code)
            for code in self.entries
            if code not in without
        }

    def _decode(self, code: int, kind: int, count: int, where: int, data: bytes | None) -> Any:
        if data is None:
            data = self._reader.read_value(where, TYPE_SIZES[kind] * count)
        if kind == ASCII and code not in _RAW:
            return _to_text(data)
        if code in _TABLES or code in _ARRAYS:
            return _to_array(data, self._reader.header.byteorder, kind, code in _TABLES)
        if kind in _BYTES or kind == ASCII or code in _RAW:
            return data
        if count > _MAX_TUPLE and code not in _TUPLES:
            return _to_array(data, self._reader.header.byteorder, kind, False)
        values = _compiled(self._reader.header.byteorder, kind, count).unpack(data)
        return values[0] if len(values) == 1 and code not in _TUPLES else values


def _to_text(data: bytes) -> str | bytes:
    # TIFF wants 7-bit ASCII; writers store UTF-8, old ones for Windows code page 1252
    data = data.rstrip(b"\0")
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding).strip()
        except UnicodeDecodeError:
            continue
    return data


def _to_array(data: bytes, byteorder: str, kind: int, is_table: bool) -> NDArray[Any]:
    letter = {1: "B", 2: "B", 7: "B"}.get(kind) or _LETTERS[kind][0]
    values = np.frombuffer(data, np.dtype(f"{byteorder}{letter}"))
    values = values.astype(values.dtype.newbyteorder("="))
    return values.reshape(3, -1) if is_table and values.size % 3 == 0 else values


@dataclass(slots=True)
class _Budget:
    """What may still be read of a file: entries that overlap, and values that do, are few."""

    n_entries: int
    n_bytes: int


@dataclass(eq=False)
class TiffReader:
    """The directories of one file.

    Attributes
    ----------
    source
        Its bytes.
    counts
        Takes how many directories and bytes were read, for the progress of a scan.
    base
        Where the TIFF starts in the source; not 0 if it is embedded in a larger file.
    findings
        What does not hold, in the order in which it was found.
    n_reads
        Directories read so far.
    is_circle
        The chain was found to return to an earlier directory.
    """

    source: ByteSource
    base: int = 0
    is_ndpi: bool | None = None
    counts: Counts | None = None
    header: Header = field(init=False)
    size: int = field(init=False)
    findings: list[Finding] = field(default_factory=list)
    n_reads: int = 0
    is_circle: bool = False
    _layout: _Layout = field(init=False)
    _budget: _Budget = field(init=False)
    _known: dict[int, Directory] = field(default_factory=dict)
    _chain: list[int] = field(default_factory=list)
    _in_chain: set[int] = field(default_factory=set)
    _is_walked: bool = False
    _n_foreseen: int = 0
    _windows: list[tuple[int, bytes]] = field(default_factory=list)
    _n_counted: int = 0

    def __post_init__(self) -> None:
        self.size = self.source.size - self.base
        name = self.url if self.is_ndpi is None else ".ndpi" if self.is_ndpi else ""
        try:
            header = parse_header(self.read(0, FIRST_BYTES), name)
        except MalformedTiff as error:
            error.url = error.url or self.url
            raise
        self.header = header
        self._layout = _layout_of(header.byteorder, header.is_big, header.is_ndpi)
        most = _MAX_OVERLAP * self.size // self._layout.entry.size
        self._budget = _Budget(most + _SPARE_ENTRIES, _MAX_OVERLAP * self.size + _SPARE_BYTES)

    @property
    def url(self) -> str:
        """Address of the file."""
        return self.source.source.url

    def close(self) -> None:
        """Forget all directories: as they refer to their reader, only a collector frees both."""
        self._known.clear()
        self._windows.clear()
        self.__dict__.pop("first", None)

    # ---- bytes

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes of the TIFF; fewer only at the end of the file."""
        if not self.source.is_local:
            return self.source.read(offset + self.base, max(0, min(length, self.size - offset)))
        for start, data in self._windows:
            at = offset - start
            if at >= 0 and at + length <= len(data):
                return data[at : at + length]
        if length > _WINDOW_BYTES // 2:
            return self.source.read(offset + self.base, max(0, min(length, self.size - offset)))
        start = max(0, min(offset - _BEFORE_BYTES, self.size - _WINDOW_BYTES))
        data = self.source.read(start + self.base, _WINDOW_BYTES)
        self._windows = [(start, data), *self._windows[: _MAX_WINDOWS - 1]]
        return data[offset - start : offset - start + length]

    def read_value(self, offset: int, length: int) -> bytes:
        """Read the values of a tag, which many tags may claim to have in the same place.

        Raises
        ------
        MalformedTiff
            If more values were read than the file has room for.
        """
        self._budget.n_bytes -= length
        if self._budget.n_bytes < 0:
            raise MalformedTiff(
                "values of tags overlap", url=self.url, got="more values than the file has bytes"
            )
        return self.read(offset, length)

    @functools.cached_property
    def declared_layout(self) -> bytes:
        """What GDAL declares of the layout between header and first IFD; no bytes if nothing."""
        start = 16 if self.header.is_big else 8
        data = self.read(start, max(0, min(self.header.first_ifd - start, _MAX_GHOST_BYTES)))
        return data if data.startswith(_GHOST) else b""

    # ---- directories

    @functools.cached_property
    def first(self) -> Directory:
        """The first directory.

        Raises
        ------
        MalformedTiff
            If there is none.
        """
        offset = self.header.first_ifd
        one = self.directory(offset, "0")
        if one is None:
            raise MalformedTiff(
                "the first directory cannot be read",
                url=self.url,
                tag="first IFD",
                got=f"offset {offset}",
                expected=f"a directory within {self.size} bytes",
                hint="The file may be truncated; get a whole copy.",
            )
        return one

    def directory(self, offset: int, name: str = "") -> Directory | None:
        """Read the directory at an offset, once; None if there is none, or it is cut off."""
        known = self._known.get(offset)
        if known is not None:
            return known
        layout, n = self._layout, self._count(offset, self.read)
        if n is None:
            return None
        size, start = layout.entry.size, offset + layout.count.size
        self._charge(n + 1)
        self.n_reads += 1
        one = Directory(self, offset, name or f"@{offset}")
        one.end = start + n * size
        tail = layout.offset.size + layout.high * n
        body = self.read(start, n * size + tail)
        if len(body) >= n * size + layout.offset.size:
            (one.following,) = layout.offset.unpack_from(body, n * size)
        else:
            self._find(one, "the offset of the next IFD is cut off", "next IFD", one.end, True)
        high = body[n * size + layout.offset.size :]
        self._parse(one, body[: n * size], start + layout.value, high)
        self._known[offset] = one
        self._count_read(offset not in self._in_chain)  # there only where it is counted
        return one

    def _count_read(self, n_directories: int) -> None:
        """Count directories, and the bytes that were read since the last."""
        if self.counts is not None:
            before, self._n_counted = self._n_counted, self.source.n_fetched
            self.counts.add(n_directories, self._n_counted - before)

    def _count(self, offset: int, read: Callable[[int, int], bytes]) -> int | None:
        """Return how many entries the directory at an offset has; None if there is none."""
        layout = self._layout
        if offset < _MIN_OFFSET or offset + layout.count.size > self.size:
            return None
        (n,) = layout.count.unpack(read(offset, layout.count.size))
        is_whole = offset + layout.count.size + n * layout.entry.size <= self.size
        return n if n <= MAX_ENTRIES and is_whole else None

    def is_directory(self, offset: int) -> bool:
        """Return whether a directory is at an offset, without reading its entries."""
        if offset in self._known:
            return True
        # nothing of what lies around it is wanted: the entries may be read with those of others
        return self._count(offset, lambda at, n: self.source.read(at + self.base, n)) is not None

    def _charge(self, n_entries: int) -> None:
        self._budget.n_entries -= n_entries
        if self._budget.n_entries < 0:
            raise MalformedTiff(
                "directories overlap",
                url=self.url,
                got="more entries than the file has room for",
                expected=f"at most those that fit into {self.size} bytes",
            )

    def _parse(self, one: Directory, body: bytes, where: int, high: bytes) -> None:
        """Take the entries of a directory apart."""
        layout, room, size = self._layout, self._layout.room, self.size
        entries, step, values = one.entries, layout.entry.size, one._values
        order: Any = "little" if self.header.byteorder == "<" else "big"
        start, window = self._windows[0] if self._windows else (0, b"")
        budget = self._budget
        for n, (code, kind, count, value) in enumerate(layout.entry.iter_unpack(body)):
            width = TYPE_SIZES.get(kind)
            if width is None:  # TIFF 6.0: readers skip fields of types that they do not know
                if code in _LOSING:
                    self._find(one, UNKNOWN_TYPE, code, kind, True)
                continue
            n_bytes = width * count
            if n_bytes <= room and not (high and kind == ASCII):
                value = value[:n_bytes]
                entry = (kind, count, where + n * step, value)
                if high and count == 1 and kind in (4, 13):
                    if high[4 * n : 4 * n + 4] > b"\0\0\0\0":
                        entry = (16, 1, where + n * step, value + high[4 * n : 4 * n + 4])
                elif count == 1 and kind in (3, 4) and code not in _LISTED and code not in entries:
                    values[code] = int.from_bytes(value, order)  # as most tags are
            else:
                at = int.from_bytes(value + high[4 * n : 4 * n + 4], order)
                if at + n_bytes > size or (at < 8 and n_bytes):
                    self._find(one, "values lie outside the file", code, f"{n_bytes} bytes at {at}",
                               code in _LOSING)  # fmt: skip
                    continue
                begin = at - start
                if 0 <= begin <= len(window) - n_bytes and n_bytes <= budget.n_bytes:
                    budget.n_bytes -= n_bytes  # what was read with the directory
                    entry = (kind, count, at, window[begin : begin + n_bytes])
                else:
                    entry = (kind, count, at, None)
            if code not in entries:
                entries[code] = entry
            elif code == 270:
                one.more_texts.append(one._decode(code, *entry))

    def note_lost(self, one: Directory, offset: int) -> None:
        """Note that a SubIFD of a directory cannot be read."""
        self._find(one, "a SubIFD cannot be read", SUB_IFDS, f"offset {offset}", True)

    def _find(self, one: Directory, what: str, tag: int | str, got: object, loses: bool) -> None:
        finding = Finding(what, self.url, one.name, tag, got, f"within {self.size} bytes", loses)
        one.findings.append(finding)
        self.findings.append(finding)

    # ---- the chain

    def chain(self, most: int | None = None) -> list[int]:
        """Return the offsets of the directories of the file in their order, or of the first ones.

        A chain that ends as it should not is a finding.
        """
        while not self._is_walked and (most is None or len(self._chain) < most):
            if len(self._chain) >= _WALKED_ONE_BY_ONE and self.source.is_local:
                view = self.source.look()
                if view is not None and not self.base:
                    self._walk(view)
                    break
            self._step()
        return self._chain if most is None else self._chain[:most]

    def _step(self) -> None:
        """Read the next directory of the chain."""
        if not self._chain:
            self._add(self.first.offset)
            return
        last = self._known[self._chain[-1]]
        if not self.source.is_local and len(self._chain) >= self._n_foreseen:
            self._foresee(last)
        self._continue_at(last.following, last)

    def _foresee(self, last: Directory) -> None:
        """Fetch the next directories of a remote file together, where they are evenly spaced.

        Pages of alike images take about as many bytes each: the farther ahead, the wider the range
        in which a directory is looked for.
        """
        gaps = np.diff(np.array(self._chain[-_MAX_GAPS:], np.int64))
        if len(gaps) < _MIN_GAPS or not last.following:
            return
        mean, spread = float(gaps.mean()), float(gaps.std())
        if mean < _MIN_FORESEEN_GAP or spread > _MAX_SPREAD * mean:
            return
        spread = max(spread, _MIN_SPREAD * mean) if gaps.min() < gaps.max() else 0.0
        n_left = int((self.size - last.following) / mean)
        ahead = np.arange(min(n_left + 1, max(5, 6 * len(self._chain) // 5), _MAX_FORESEEN))
        slack = (2.5 * spread * np.sqrt(ahead**2 / len(gaps) + ahead)).astype(np.int64)
        start = last.following + (ahead * mean).astype(np.int64) - slack + self.base
        length = 2 * slack + max(_MIN_FORESEEN_BYTES, last.end - last.offset + _BESIDE_BYTES)
        self._n_foreseen = len(self._chain) + len(ahead)
        self.source.prefetch(list(zip(start.tolist(), length.tolist(), strict=True)))

    def _add(self, offset: int) -> None:
        self._chain.append(offset)
        self._in_chain.add(offset)

    def _continue_at(self, offset: int, last: Directory) -> None:
        if offset and offset not in self._in_chain:
            one = self.directory(offset, str(len(self._chain)))
            if one is not None:
                one.name = str(len(self._chain))
                self._add(offset)
                return
        self._is_walked = True
        if offset:
            is_circle = offset in self._in_chain
            what = (
                "the chain of directories returns to an earlier one"
                if is_circle
                else "the next directory cannot be read"
            )
            self._find(last, what, "next IFD", f"offset {offset}", not is_circle)
            if is_circle:
                self._end_circle(self._chain.index(offset))

    def _end_circle(self, start: int) -> None:
        """End a chain that goes round in its later part where tifffile ends it.

        tifffile notices at the hundredth directory, and takes those up to the one that is there.
        """
        self.is_circle = True
        period = len(self._chain) - start
        if 0 < start < len(self._chain) < _CIRCLE_FOUND:
            del self._chain[start + (_CIRCLE_FOUND - 1 - start) % period + 1 :]

    def _walk(self, view: Any) -> None:
        """Follow the chain through a buffer: a million directories are walked here."""
        layout = self._layout
        read_count, n_head = layout.count.unpack_from, layout.count.size
        read_next = layout.offset.unpack_from
        entry_size, last = layout.entry.size, self.size - layout.offset.size
        found = dict.fromkeys(self._chain)
        before = self._known[self._chain[-1]]
        offset, n_entries, most = before.following, 0, self._budget.n_entries
        while offset >= _MIN_OFFSET and offset not in found and offset + n_head <= self.size:
            (n,) = read_count(view, offset)
            end = offset + n_head + n * entry_size
            n_entries += n + 1
            if n > MAX_ENTRIES or end > last or n_entries > most:
                break
            found[offset] = None
            (offset,) = read_next(view, end)
        self._charge(n_entries)
        self._count_read(len(found) - len(self._chain))
        self._chain = list(found)
        self._in_chain = set(found)
        # how it ends is for the last directory to say, which is read in full for that
        self._budget.n_entries += MAX_ENTRIES
        tail = self.directory(self._chain[-1], str(len(self._chain) - 1))
        assert tail is not None
        self._continue_at(offset, tail)
        self._is_walked = True

    def sub_directories(self, ones: Iterable[Directory]) -> list[list[int]]:
        """Return the offsets of the SubIFDs of some directories, and fetch all of them together."""
        ones = list(ones)
        lists = [one.entries[SUB_IFDS] for one in ones if SUB_IFDS in one]
        self.source.prefetch([(entry[2] + self.base, 8 * entry[1]) for entry in lists])
        found = [
            [int(n) for n in one.column(SUB_IFDS)[:MAX_ENTRIES]] if SUB_IFDS in one else []
            for one in ones
        ]
        self.fetch_directories([offset for some in found for offset in some])
        return found

    def fetch_directories(self, offsets: Sequence[int]) -> None:
        """Fetch directories that will be read, in one round."""
        self.source.prefetch([(offset + self.base, 1 << 10) for offset in offsets])


DECODING_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 338, 339, 347, 529, 530,
     532, 32997, 32998, 50674, 65007, 65008, 65009}
)  # fmt: skip
"""Tags that decide how segments decode; directories that agree in all of them decode alike."""
KIND_TAGS = DECODING_TAGS | {33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113}
"""Those, and the tags that say where pixels are and what their values mean: georeference, metadata
and nodata of GDAL. Directories that agree in them share their facts."""
UNKNOWN_TYPE = "values have an unknown type"
"""What is found of a tag whose values readers skip, as if it were not there (TIFF 6.0)."""
_LOSING = DECODING_TAGS | {273, 279, 324, 325, SUB_IFDS, 513, 514, 519, 520, 521} - {529, 532}
"""Tags without which pixels are lost."""
