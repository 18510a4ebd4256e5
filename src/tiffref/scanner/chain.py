"""Does the chain of directories end, and is it as long as the file has room for?

Owns a look at the chain before a parser walks it. In a damaged or hostile file a directory may be
followed by one that was there before, or each may point into the middle of the last, so that some
kilobytes keep a parser busy for hours. Only the numbers of entries are looked at (TIFF 6.0 section
2, BigTIFF).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Any

from ..errors import MalformedTiff
from .bytesource import ByteSource
from .ifd import TYPE_SIZES, Header
from .source import LocalSource

__all__ = ["check_directories"]

_SUB_IFDS = 330
_MAX_ENTRIES = 4096
"""Entries of one directory, from which on tifffile takes it for none."""
_SPARE_ENTRIES = 1 << 14
_MAX_OVERLAP = 2
_MAX_REMOTE_BYTES = 1 << 20


def check_directories(source: ByteSource, header: Header) -> dict[int, bytes]:
    """Follow the chain, and count the entries that a parser would read.

    What would cost a request is not looked at.

    Returns
    -------
    patches
        Position of a pointer to a directory that was there before, if there is one, with the bytes
        that end the chain there, as libtiff does.

    Raises
    ------
    MalformedTiff
        If there are far more entries than the file has room for.
    """
    if source.size == 0:
        return {}
    if isinstance(source, LocalSource):
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _follow(view, header, source)
    if source.size <= _MAX_REMOTE_BYTES and source.is_at_hand(0, source.size):
        return _follow(source.read(0, source.size), header, source)
    return {}


def _follow(view: Any, header: Header, source: ByteSource) -> dict[int, bytes]:
    entry = struct.Struct(header.entry_format)
    most = _MAX_OVERLAP * source.size // entry.size + _SPARE_ENTRIES
    n_entries = 0
    seen: set[int] = set()
    offset = header.first_ifd
    while offset:
        seen.add(offset)
        body, pointer, offset = _read_ifd(view, header, entry, offset)
        if offset in seen:
            return {pointer: bytes(struct.calcsize(header.offset_format))}
        n_entries += len(body) // entry.size
        if b"\x4a\x01" in body or b"\x01\x4a" in body:
            for below in _sub_ifds(view, header, entry, body):
                n_entries += 1 + len(_read_ifd(view, header, entry, below)[0]) // entry.size
                if n_entries > most:
                    break
        if n_entries > most:
            raise MalformedTiff(
                "directories overlap",
                url=source.source.url,
                got=f"more than {most} entries",
                expected=f"as many as {source.size} bytes have room for",
            )
    return {}


def _read_ifd(
    view: Any, header: Header, entry: struct.Struct, offset: int
) -> tuple[bytes, int, int]:
    """Give the entries of a directory as bytes, where the pointer to the next is, and that."""
    count, following = struct.Struct(header.count_format), struct.Struct(header.offset_format)
    if offset + count.size > len(view):
        return b"", 0, 0
    (n,) = count.unpack_from(view, offset)
    if n > _MAX_ENTRIES:
        return b"", 0, 0
    start = offset + count.size
    end = start + n * entry.size
    after = following.unpack_from(view, end)[0] if end + following.size <= len(view) else 0
    return bytes(view[start : min(end, len(view))]), end, after


def _sub_ifds(view: Any, header: Header, entry: struct.Struct, body: bytes) -> Iterator[int]:
    whole = body[: len(body) // entry.size * entry.size]
    for code, kind, n, value in entry.iter_unpack(whole):
        size = TYPE_SIZES.get(kind, 0)
        if code != _SUB_IFDS or size not in (2, 4, 8):
            continue
        data = value
        if n * size > len(value):
            (where,) = struct.unpack(header.offset_format, value)
            data = bytes(view[where : where + n * size]) if where < len(view) else b""
        form = f"{header.byteorder}{len(data) // size}{ {2: 'H', 4: 'I', 8: 'Q'}[size] }"
        yield from struct.unpack_from(form, data)
