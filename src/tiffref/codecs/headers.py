"""Read the size of an image from the first bytes of its format, without decoding it.

Owns the few bytes of each image format that say how large the decoded image is, so that a
decompression bomb is refused before it is decoded. It judges nothing (see `codecs.decode`).

References: ITU-T T.81 annex B (JPEG), ISO/IEC 15444-1 annex A (JPEG 2000), RFC 2083 (PNG),
RFC 9649 (WebP), Lerc2 blob header (LERC), ISO/IEC 18181-1 annex D (JPEG XL), ITU-T T.832 annex A
(JPEG XR).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["HEADERS", "JpegFrame", "image_size", "jpeg_frame", "scan_header"]


class JpegFrame(NamedTuple):
    """What a JPEG frame header says: `marker` is 0xC0 for baseline, 0xC3 for lossless, ..."""

    marker: int
    precision: int
    rows: int
    columns: int
    components: int


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """Find the frame header of a JPEG stream; None if there is none."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _BARE_MARKERS:
            position += 2
        elif marker in _FRAME_MARKERS and position + 10 <= len(data):
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            return JpegFrame(marker, precision, rows, columns, components)
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


_BARE_MARKERS = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def scan_header(data: bytes) -> bytes:
    """Give the scan header (SOS) that old-style JPEG data may start with, else nothing."""
    if data[:2] != b"\xff\xda":
        return b""
    return bytes(data[: 2 + int.from_bytes(data[2:4], "big")])


def image_size(name: str, data: bytes) -> tuple[int, int] | None:
    """Give (rows, columns) of an image of the named format; None where its header does not tell."""
    read = HEADERS.get(name)
    try:
        return read(data) if read else None
    except (struct.error, IndexError):
        return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    frame = jpeg_frame(data)
    return (frame.rows, frame.columns) if frame else None


def _jpeg2k(data: bytes) -> tuple[int, int] | None:
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    return bottom - top, right - left


def _png(data: bytes) -> tuple[int, int] | None:
    columns, rows = struct.unpack_from(">2I", data, 16)
    return rows, columns


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        columns = int.from_bytes(data[24:27], "little") + 1
        return int.from_bytes(data[27:30], "little") + 1, columns
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        columns, rows = struct.unpack_from("<2H", data, 26)
        return rows & 0x3FFF, columns & 0x3FFF
    return None


def _lerc(data: bytes) -> tuple[int, int] | None:
    if data[:6] != b"Lerc2 ":
        return None
    (version,) = struct.unpack_from("<i", data, 6)
    # a checksum follows the version from 3 on
    rows, columns = struct.unpack_from("<2i", data, 14 if version >= 3 else 10)
    return rows, columns


def _jpegxl(data: bytes) -> tuple[int, int] | None:
    if data[4:8] == b"JXL ":  # in boxes: the codestream begins in jxlc, or behind 4 bytes of jxlp
        box = re.search(rb"jxlc|jxlp.{4}", data[32:4096], re.DOTALL)
        data = data[32 + box.end() :] if box else b""
    if data[:2] != b"\xff\x0a":
        return None
    bits, at = int.from_bytes(data[2:16], "little"), 0

    def take(n: int) -> int:
        nonlocal at
        at += n
        return bits >> (at - n) & ((1 << n) - 1)

    def length(is_short: int) -> int:
        return 8 * (1 + take(5)) if is_short else 1 + take((9, 13, 18, 30)[take(2)])

    is_short = take(1)
    rows = length(is_short)
    ratio = take(3)
    if ratio == 0:
        return rows, length(is_short)
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return rows, rows * across // down


def _jpegxr(data: bytes) -> tuple[int, int] | None:
    if data[:3] != b"II\xbc":
        return None
    (at,) = struct.unpack_from("<I", data, 4)
    (n,) = struct.unpack_from("<H", data, at)
    found = {}
    for k in range(min(n, 64)):
        code, kind, _, value = struct.unpack_from("<HHII", data, at + 2 + 12 * k)
        found[code] = value & (0xFFFF if kind == 3 else 0xFFFFFFFF)
    return (found[0xBC81], found[0xBC80]) if {0xBC80, 0xBC81} <= found.keys() else None


HEADERS: dict[str, Callable[[bytes], tuple[int, int] | None]] = {
    "jpeg": _jpeg,
    "jpeg2k": _jpeg2k,
    "jpegxl": _jpegxl,
    "jpegxr": _jpegxr,
    "lerc": _lerc,
    "png": _png,
    "webp": _webp,
}
"""Readers of (rows, columns) by the name of the decoder in `codecs.images`."""
