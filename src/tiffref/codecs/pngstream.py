"""PNG streams, checked before a decoder sees them.

Owns the check that a stream holds a whole image. imagecodecs leaves libpng's errors by a jump over
its own cleaning up, which corrupts memory now and then; so nothing that libpng would call an error
may reach it. Chunks that do not change samples are left out for the same reason.

Reference: PNG (Third Edition), sections 5 (datastream), 7 (encoding), 8 (interlacing), 9 (filters).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["clean_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
_MAX_SIDE = 1_000_000
"""libpng's own limit of width and height."""
_KEPT = {0: (b"tRNS",), 2: (b"tRNS",), 3: (b"PLTE", b"tRNS")}
"""Chunks beside the image that change samples, by kind of colour."""


def clean_png(data: Any, most_bytes: int) -> bytes:
    """Give a PNG stream of the parts that make the image.

    Parameters
    ----------
    data
        The stream.
    most_bytes
        Bytes that the image may take before it is out of proportion.

    Raises
    ------
    ValueError
        If it does not hold a whole image, or one that is too large.
    """
    stream = bytes(data)
    if not stream.startswith(_SIGNATURE):
        raise ValueError("no PNG signature")
    parts: dict[bytes, list[bytes]] = {}
    for name, body in _chunks(stream):
        parts.setdefault(name, []).append(body)
    header = parts.get(b"IHDR", [b""])[0]
    if len(header) != 13 or stream[12:16] != b"IHDR":
        raise ValueError("no PNG header")
    width, height, depth, color, compression, filters, interlace = struct.unpack(">2I5B", header)
    if depth not in _DEPTHS.get(color, ()) or compression or filters or interlace > 1:
        raise ValueError("no such kind of PNG")
    if not 0 < width <= _MAX_SIDE or not 0 < height <= _MAX_SIDE:
        raise ValueError(f"PNG of {width} x {height} pixels")
    palette = parts.get(b"PLTE", [b""])[0]
    if color == 3 and (not palette or len(palette) % 3 or len(palette) > 768):
        raise ValueError("no PNG palette")
    image = b"".join(parts.get(b"IDAT", ()))
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    sizes = [_rows(width, height, depth * _SAMPLES[color], *one) for one in passes]
    _check_image(image, [size for size in sizes if size[0] and size[1]], most_bytes)
    kept = [(name, parts[name][0]) for name in _KEPT.get(color, ()) if name in parts]
    chunks = [(b"IHDR", header), *kept, (b"IDAT", image), (b"IEND", b"")]
    return _SIGNATURE + b"".join(map(_spell, chunks))


def _chunks(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(_SIGNATURE)
    while position + 12 <= len(stream):
        (size,) = struct.unpack_from(">I", stream, position)
        name = stream[position + 4 : position + 8]
        end = position + 8 + size
        if end + 4 > len(stream):
            raise ValueError("PNG is cut off")
        body = stream[position + 8 : end]
        if zlib.crc32(name + body) != struct.unpack_from(">I", stream, end)[0]:
            raise ValueError(f"checksum of PNG chunk {name!r} is wrong")
        yield name, body
        if name == b"IEND":
            return
        position = end + 4
    raise ValueError("PNG has no end")


def _rows(width: int, height: int, bits: int, x: int, y: int, dx: int, dy: int) -> tuple[int, int]:
    """Give the rows of one pass, and the bytes of each with its filter in front."""
    columns = -(-(width - x) // dx) if width > x else 0
    n_rows = -(-(height - y) // dy) if height > y else 0
    return n_rows, 1 + -(-columns * bits // 8) if columns else 0


def _check_image(image: bytes, sizes: list[tuple[int, int]], most_bytes: int) -> None:
    n_bytes = sum(n_rows * row for n_rows, row in sizes)
    if n_bytes > most_bytes:
        raise ValueError(f"PNG image of {n_bytes} bytes is too large")
    try:
        inflater = zlib.decompressobj()
        pixels = inflater.decompress(image, n_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"PNG image does not inflate: {error}") from error
    if len(pixels) != n_bytes or not inflater.eof or inflater.unused_data:
        raise ValueError("PNG image has another size than its header says")
    position = 0
    for n_rows, row in sizes:
        block = np.frombuffer(pixels, np.uint8, n_rows * row, position)
        if (block[::row] > 4).any():
            raise ValueError("PNG rows have unknown filters")
        position += n_rows * row


def _spell(chunk: tuple[bytes, bytes]) -> bytes:
    name, body = chunk
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
