"""The raw image file directory: entries, without interpretation.

Owns the binary layout of TIFF headers and IFDs (TIFF 6.0 section 2, BigTIFF). It is used to tell
whether pages are alike without building an object for each, and to find long offset arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff
from ..io.address import describe_content

__all__ = [
    "INTEGER_TYPES",
    "MAX_ENTRIES",
    "TYPE_SIZES",
    "Entry",
    "Header",
    "declares_whole_tiles",
    "parse_header",
    "read_array",
    "read_declared",
    "read_entries",
]

TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
              16: 8, 17: 8, 18: 8}  # fmt: skip
INTEGER_TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""Types of whole numbers without a sign, and of bytes, as NumPy spells them."""
MAX_ENTRIES = 4096
"""Entries of one directory; what has more tifffile takes for none."""
_ASCII = 2
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE="
"""Start of the text that GDAL puts behind the header of files of a declared layout."""
_MAX_GHOST_BYTES = 512


Read = Callable[[int, int], bytes]


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

    @property
    def count_format(self) -> str:
        return f"{self.byteorder}{'Q' if self.is_big else 'H'}"

    @property
    def entry_format(self) -> str:
        return f"{self.byteorder}HH{'Q8s' if self.is_big else 'I4s'}"

    @property
    def offset_format(self) -> str:
        return f"{self.byteorder}{'Q' if self.is_big or self.is_ndpi else 'I'}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One directory entry. `position` is where the entry starts, `value_offset` where its values
    are, in bytes from the start of the file."""

    code: int
    type: int
    count: int
    position: int
    value_offset: int

    @property
    def nbytes(self) -> int:
        return TYPE_SIZES.get(self.type, 0) * self.count


def parse_header(data: bytes, url: str = "") -> Header:
    """Read byte order, flavour and the first IFD's offset from the first 16 bytes of a file.

    Nothing in the header tells NDPI from classic TIFF: the name of the file does.

    Raises
    ------
    MalformedTiff
        If this is no TIFF header.
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
    header = Header(byteorder, is_big, 0, is_ndpi)
    (first,) = struct.unpack_from(header.offset_format, data, 8 if is_big else 4)
    return replace(header, first_ifd=first)


def read_declared(read: Read, header: Header) -> bytes:
    """Read what GDAL declares of the layout between header and first IFD; no bytes if nothing."""
    start = 16 if header.is_big else 8
    data = read(start, max(0, min(header.first_ifd - start, _MAX_GHOST_BYTES)))
    return data if data.startswith(_GHOST) else b""


def declares_whole_tiles(declared: bytes) -> bool:
    """Say whether a layout is that of GDAL's COG driver, which stores every tile whole."""
    return b"LAYOUT=IFDS_BEFORE_DATA" in declared


def read_entries(read: Read, header: Header, offset: int) -> tuple[list[Entry], int]:
    """Read the entries of the IFD at `offset`, and the offset of the next IFD (0: none).

    An unreadable directory gives no entries: tifffile says what is wrong with it.
    """
    n_count = struct.calcsize(header.count_format)
    size = struct.calcsize(header.entry_format)
    data = read(offset, n_count)
    if len(data) < n_count:
        return [], 0
    (n_entries,) = struct.unpack(header.count_format, data)
    if n_entries > MAX_ENTRIES:
        return [], 0
    n_offset = struct.calcsize(header.offset_format)
    n_high = 4 * n_entries if header.is_ndpi else 0
    body = read(offset + n_count, n_entries * size + n_offset + n_high)
    tail = body[n_entries * size :]
    entries = []
    for index in range(min(n_entries, len(body) // size)):
        code, kind, count, value = struct.unpack_from(header.entry_format, body, index * size)
        position = offset + n_count + index * size
        where = position + size - len(value)
        # NDPI has no text in place of an offset
        is_far = TYPE_SIZES.get(kind, 0) * count > len(value) or (header.is_ndpi and kind == _ASCII)
        if is_far:
            high = tail[n_offset + 4 * index :][:4] if header.is_ndpi else b""
            (where,) = struct.unpack(header.offset_format, value + high.ljust(n_high and 4, b"\0"))
        entries.append(Entry(code, kind, count, position, where))
    tail = tail[:n_offset]
    following = struct.unpack(header.offset_format, tail)[0] if len(tail) == n_offset else 0
    return entries, following


def read_array(read: Read, header: Header, entry: Entry) -> NDArray[np.uint64]:
    """Read the values of an integer entry as `(count,)` uint64, without an object for each.

    Raises
    ------
    MalformedTiff
        If the type is not an unsigned integer, or the values reach past the end of the file.
    """
    kind = INTEGER_TYPES.get(entry.type)
    if kind is None:
        raise MalformedTiff("an offset array has a wrong type", tag=entry.code, got=entry.type)
    data = read(entry.value_offset, entry.nbytes)
    if len(data) != entry.nbytes:
        raise MalformedTiff(
            "tag values reach past the end of the file",
            tag=entry.code,
            got=f"{len(data)} bytes",
            expected=f"{entry.nbytes} bytes",
        )
    return np.frombuffer(data, f"{header.byteorder}{kind}").astype(np.uint64)
