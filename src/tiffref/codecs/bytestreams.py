"""Decompress segments whose compression knows bytes only, straight into a buffer of known size.

Owns one function for each such compression. Each takes the stored bytes and a `(n,)` uint8 array,
fills it from the front and returns how many bytes it wrote. A stream that holds more than the
buffer is cut, as libtiff does; nothing is ever allocated beyond the buffer (or, where a library
cannot stop early, a small multiple of it), so a decompression bomb stays small. A broken stream
raises what the library raises, `RuntimeError` or `ValueError`; `codecs.decode` makes it a
`MalformedTiff`. What the bytes mean is the business of `codecs.unpack`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

__all__ = ["copy", "deflate", "lzma", "lzw", "packbits", "zstd"]

# libraries that refuse a stream longer than the buffer are given this much more, once
_SLACK_FACTOR = 2
_SLACK_BYTES = 4096


def copy(data: Any, buffer: NDArray[np.uint8]) -> int:
    """Copy uncompressed bytes."""
    stored = np.frombuffer(data, np.uint8)[: buffer.size]
    buffer[: stored.size] = stored
    return stored.size


def deflate(data: Any, buffer: Any) -> int:
    """Inflate a zlib stream; one with a bad checksum or without an end gives what it holds."""
    try:
        return len(imagecodecs.deflate_decode(data, out=buffer))
    except RuntimeError:
        # libdeflate tells neither "longer than the buffer" nor "checksum missing" from garbage
        return _inflate_leniently(data, buffer)


def lzw(data: Any, buffer: Any) -> int:
    """Decode LZW of either bit order; the old order (TIFF 5.0) is told by its first bytes."""
    return len(imagecodecs.lzw_decode(data, out=buffer))


def packbits(data: Any, buffer: NDArray[np.uint8]) -> int:
    """Decode PackBits (TIFF 6.0, section 9)."""
    return _decode_with_slack(imagecodecs.packbits_decode, data, buffer)


def zstd(data: Any, buffer: NDArray[np.uint8]) -> int:
    """Decode a Zstandard frame (RFC 8878)."""
    return _decode_with_slack(imagecodecs.zstd_decode, data, buffer)


def lzma(data: Any, buffer: Any) -> int:
    """Decode an xz stream."""
    return len(imagecodecs.lzma_decode(data, out=buffer))


def _inflate_leniently(data: Any, buffer: NDArray[np.uint8]) -> int:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(bytes(data), buffer.size) if buffer.size else b""
    except zlib.error as error:
        raise RuntimeError(f"inflate: {error}") from error
    return copy(inflated, buffer)


def _decode_with_slack(decoder: Callable[..., Any], data: Any, buffer: NDArray[np.uint8]) -> int:
    try:
        return len(decoder(data, out=buffer))
    except RuntimeError:
        # writers that round segments up, or leave bytes behind the last row
        wide = np.empty(buffer.size * _SLACK_FACTOR + _SLACK_BYTES, np.uint8)
        return copy(decoder(data, out=wide), buffer)
