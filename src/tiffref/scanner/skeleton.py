"""What files of a series have in common: their directories without offsets and dates.

Owns the comparison of raw directories (TIFF 6.0 section 2, BigTIFF). Files of a series mostly
differ in nothing but where their segments are; the first is then scanned in full, and of the others
only the columns of offsets and lengths are taken. A file with any other difference is scanned in
full: this module says yes only where all that a scan looks at is equal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.table import JPEG, OLD_JPEG
from ..errors import MalformedTiff
from ..model.manifest import Source
from .ifd import (
    INTEGER_TYPES,
    MAX_ENTRIES,
    TYPE_SIZES,
    Header,
    declares_whole_tiles,
    parse_header,
    read_declared,
)
from .source import ByteSource, LocalSource

__all__ = ["GEO_TAGS", "VOLATILE_TAGS", "Skeleton", "read_skeleton"]

GEO_TAGS = frozenset({33550, 33922, 34264, 34735, 34736, 34737})
"""ModelPixelScale, ModelTiepoint, ModelTransformation and the GeoKeys."""
_OFFSET_TAGS = frozenset({273, 324})
_LENGTH_TAGS = frozenset({279, 325})
_COLUMN_TAGS = _OFFSET_TAGS | _LENGTH_TAGS
_NOTED_TAGS = GEO_TAGS | {270, 306}
_SUB_IFDS = 330
VOLATILE_TAGS = frozenset({269, 285, 306, 315, 316, 700, 33723, 34377, 34665, 34853, 40965})
"""DocumentName, PageName, DateTime, Artist, HostComputer, XMP, IPTC, Photoshop, and the pointers to
Exif, GPS and interoperability directories: they change from file to file and move no pixel."""
_AHEAD_BYTES = 1 << 13
_MAX_IFDS = 1 << 16
_MAX_VALUE_BYTES = 1 << 26
_DTYPES = {
    order: {kind: np.dtype(order + code) for kind, code in INTEGER_TYPES.items()} for order in "<>"
}
"""Byte order -> type of an entry -> data type; other types hold no offsets."""

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """The directories of one file.

    Attributes
    ----------
    source
        The file.
    signature
        Equal for files that a scan tells alike but for the places of segments; None where that
        cannot be said.
    declared
        What GDAL's COG driver declares of the layout behind the header, nothing for other files.
    offsets, lengths
        Of the segments of each directory, `(n_segments,)` uint64.
    notes
        Values of the first directory by tag: georeference, date and description.
    volatile
        (directory, tag, type, count, bytes) of tags that are not in the signature.
    place
        The georeference alone, as a value that can be compared.
    """

    source: Source
    signature: tuple | None
    declared: bytes = b""
    offsets: tuple[NDArray[np.uint64], ...] = ()
    lengths: tuple[NDArray[np.uint64], ...] = ()
    notes: Mapping[int, Any] = field(default_factory=dict)
    volatile: tuple[tuple[int, int, int, int, bytes], ...] = ()
    place: tuple = ()

    @property
    def is_whole(self) -> bool:
        """The writer declares that every tile is stored whole."""
        return declares_whole_tiles(self.declared)


class _Irregular(Exception):
    """A directory is not as it should be: the scan in full says what is wrong with it."""


def read_skeleton(
    there: ByteSource, max_ifds: int = _MAX_IFDS, max_value_bytes: int = _MAX_VALUE_BYTES
) -> Skeleton:
    """Read all directories of an open file.

    Parameters
    ----------
    there
        The file.
    max_ifds, max_value_bytes
        Directories to read, and bytes of the value of one tag; of a file that has more nothing is
        said.

    Raises
    ------
    MalformedTiff
        If it is no TIFF.
    SourceError
        If it cannot be read.
    """
    read = _read_ahead(there) if isinstance(there, LocalSource) else there.read
    try:
        header = parse_header(read(0, 16))
    except MalformedTiff as error:
        error.url = error.url or there.source.url
        raise
    reader = _Reader(read, header, there.size, max_ifds, max_value_bytes)
    suffix = there.source.url.rpartition(".")[2].lower()
    try:
        reader.read_chain(header.first_ifd)
    except (_Irregular, struct.error):
        return Skeleton(there.source, None, notes=reader.notes, place=_place_of(reader.notes))
    place = _place_of(reader.notes)
    declared = read_declared(read, header)
    signature = (suffix, header.byteorder, header.is_big, declared, *reader.parts)
    if reader.is_special or suffix == "ndpi":
        return Skeleton(there.source, None, notes=reader.notes, place=place)
    return Skeleton(
        there.source,
        signature,
        declared,
        tuple(reader.offsets),
        tuple(reader.lengths),
        reader.notes,
        tuple(reader.volatile),
        place,
    )


def _place_of(notes: Mapping[int, Any]) -> tuple:
    return tuple((code, notes[code]) for code in sorted(notes) if code in GEO_TAGS)


def _read_ahead(there: ByteSource) -> Read:
    """Read some KiB at once: directories and their values mostly lie together."""
    blocks: list[tuple[int, bytes]] = []

    def read(offset: int, length: int) -> bytes:
        for start, data in blocks:
            at = offset - start
            if at >= 0 and at + length <= len(data):
                return data[at : at + length]
        data = there.read(offset, max(length, _AHEAD_BYTES))
        blocks.append((offset, data))
        return data[:length]

    return read


class _Reader:
    """Walks the directories of one file and collects what `Skeleton` holds."""

    def __init__(
        self, read: Read, header: Header, size: int, max_ifds: int, max_value_bytes: int
    ) -> None:
        self._read, self._header, self._size = read, header, size
        self._max_ifds, self._max_value_bytes = max_ifds, max_value_bytes
        self._entry = struct.Struct(header.entry_format)
        self._pointer = struct.Struct(header.offset_format)
        self._dtypes = _DTYPES[header.byteorder]
        self._inline = 8 if header.is_big else 4
        self._seen: set[int] = set()
        self.parts: list[Any] = []
        self.offsets: list[NDArray[np.uint64]] = []
        self.lengths: list[NDArray[np.uint64]] = []
        self.notes: dict[int, Any] = {}
        self.volatile: list[tuple[int, int, int, int, bytes]] = []
        self.is_special = False

    def read_chain(self, offset: int) -> None:
        """Read an IFD and those that follow it, with all below them."""
        while offset:
            if offset in self._seen or len(self._seen) >= self._max_ifds:
                raise _Irregular
            self._seen.add(offset)
            offset = self._read_ifd(offset)
            self.parts.append("next" if offset else "end")

    def _read_ifd(self, offset: int) -> int:
        header = self._header
        n_count = 8 if header.is_big else 2
        (n_entries,) = struct.unpack(header.count_format, self._exactly(offset, n_count))
        if not 0 < n_entries <= MAX_ENTRIES:
            raise _Irregular
        n_bytes = n_entries * self._entry.size
        body = self._exactly(offset + n_count, n_bytes + self._inline)
        columns: dict[bool, NDArray[np.uint64]] = {}
        is_first = not self.offsets
        below: list[int] = []
        compression = 1
        add = self.parts.append
        codes = set()
        for code, kind, count, value in self._entry.iter_unpack(body[:n_bytes]):
            codes.add(code)
            size = TYPE_SIZES.get(kind, 0) * count
            if size > self._inline:
                value = self._outside(value, size)
            elif not size:
                raise _Irregular
            if code in _COLUMN_TAGS:
                columns[code in _LENGTH_TAGS] = self._integers(kind, value[:size])
                add((code, count))
            elif code == _SUB_IFDS:
                below = self._integers(kind, value[:size]).tolist()
                add((code, count))
            elif is_first and code in _NOTED_TAGS:
                self.notes[code] = self._number(kind, value[:size])
                add((code, kind, count, value[:size] if code == 270 else None))
            elif code in VOLATILE_TAGS:
                self.volatile.append((len(self.offsets), code, kind, count, value[:size]))
            else:
                add((code, kind, count, value[:size]))
                if code == 259:
                    compression = self._integers(kind, value[:size])[0]
        if len(codes) < n_entries:
            raise _Irregular  # of a tag that is there twice, which one counts is up to the parser
        self._add_columns(columns, int(compression))
        for one in below:
            add("below")
            self.read_chain(one)
        return struct.unpack(header.offset_format, body[n_bytes:])[0]

    def _add_columns(self, columns: dict[bool, NDArray[np.uint64]], compression: int) -> None:
        if len(columns) != 2 or len(columns[False]) != len(columns[True]):
            raise _Irregular
        offset = columns[False]
        self.offsets.append(offset)
        self.lengths.append(columns[True])
        if compression == OLD_JPEG:
            self.is_special = True  # its tables lie at offsets of their own
        if compression in JPEG and len(offset) and offset[0]:
            # the decoder's colours depend on the marker in the first segment
            self.parts.append(self._exactly(int(offset[0]) + 6, 4) == b"JFIF")

    def _exactly(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            raise _Irregular
        data = self._read(offset, length)
        if len(data) != length:
            raise _Irregular
        return data

    def _outside(self, value: bytes, size: int) -> bytes:
        if size > self._max_value_bytes:
            raise _Irregular
        (where,) = self._pointer.unpack(value)
        return self._exactly(where, size)

    def _integers(self, kind: int, data: bytes) -> NDArray[np.uint64]:
        dtype = self._dtypes.get(kind)
        if dtype is None:
            raise _Irregular
        return np.frombuffer(data, dtype).astype(np.uint64)

    def _number(self, kind: int, data: bytes) -> Any:
        """Give a value as tags have it: text as bytes, numbers as a tuple."""
        if kind == 12:
            return tuple(np.frombuffer(data, f"{self._header.byteorder}f8").tolist())
        if kind in self._dtypes and kind != 1:
            return tuple(np.frombuffer(data, self._dtypes[kind]).tolist())
        return data
