"""Streams of strangers, checked or decoded within bounds before a library has them.

Owns what stands between a document's codecs and libraries that decode whatever a stream says: the
size that a header says is compared with the chunk's, and streams without a size are decoded up to a
bound. PNG streams are taken apart and checked (see `pngstream`).

References: RFC 1950, 1952 (zlib, gzip), RFC 8878 section 3.1.1.1 (Zstandard frame header), blosc's
README_CHUNK_FORMAT.rst.
"""

from __future__ import annotations

import bz2
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import MalformedTiff
from .headers import image_size
from .limits import HARMLESS_BYTES
from .pngstream import clean_png

__all__ = [
    "DECODING_ERRORS",
    "HARMLESS_PIXELS",
    "MAX_OVERSIZE",
    "check_image",
    "decode_within",
    "guarded",
]

DECODING_ERRORS = (
    *(RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError),
    *(OSError, EOFError, struct.error, zlib.error, lzma.LZMAError),
)
"""What decoders raise on bytes, and on parameters out of tags, that make no sense."""

MAX_OVERSIZE = 16
"""An image may hold this many times the pixels of its segment before it is taken for a bomb:
some writers pad strips to whole blocks of the compression, tiles to powers of two."""
HARMLESS_PIXELS = 1 << 24
"""An image of up to so many pixels is decoded whatever its segment."""
_IMAGES = "imagecodecs_"


def check_image(name: str, data: bytes, n_pixels: int) -> None:
    """Refuse an image whose header says far more pixels than its segment has.

    Parameters
    ----------
    name
        Of the format, as in `headers.HEADERS`; others pass.
    data
        The stream.
    n_pixels
        Of the segment.

    Raises
    ------
    MalformedTiff
        If it does.
    """
    size = image_size(name, data)
    if size is not None and math.prod(size) > max(MAX_OVERSIZE * n_pixels, HARMLESS_PIXELS):
        raise MalformedTiff(
            f"{name} image is far larger than its segment",
            got=f"{size[0]} x {size[1]} pixels",
            expected=f"{n_pixels} pixels",
        )


def guarded(codec_id: str, data: bytes, n_bytes: int) -> bytes:
    """Give a stream that is safe to hand to the codec of numcodecs of this name.

    Parameters
    ----------
    codec_id
        As in a document.
    data
        The stream.
    n_bytes
        That the chunk decodes to.

    Raises
    ------
    MalformedTiff, ValueError
        If it decodes to far more, or is no whole PNG.
    """
    if codec_id.startswith(_IMAGES):
        name = codec_id.removeprefix(_IMAGES)
        check_image(name, data, n_bytes)
        return clean_png(data, _most(n_bytes)) if name == "png" else data
    said = _SAID.get(codec_id, _unknown)(data)
    if said is not None and said > _most(n_bytes):
        raise _too_large(codec_id, said, n_bytes)
    return data


def decode_within(config: Mapping[str, Any], data: bytes, n_bytes: int) -> bytes | None:
    """Decode a stream that says no size, up to a bound; None for codecs that are not such.

    Parameters are those of `guarded`; `config` is the codec's in a document. What does not decode
    raises one of `DECODING_ERRORS`.
    """
    make = _INFLATERS.get(config["id"])
    if make is None or config.get("format", lzma.FORMAT_XZ) != lzma.FORMAT_XZ:
        return None
    found, most = b"", _most(n_bytes)
    while data:
        inflater = make()
        found += inflater.decompress(data, most + 1 - len(found))
        if len(found) > most:
            raise _too_large(config["id"], len(found), n_bytes)
        if not inflater.eof:
            raise ValueError(f"{config['id']} stream is cut off")
        data = inflater.unused_data if config["id"] != "zlib" else b""
    return found


def _most(n_bytes: int) -> int:
    return max(MAX_OVERSIZE * n_bytes, HARMLESS_BYTES)


def _too_large(name: str, got: int, n_bytes: int) -> MalformedTiff:
    return MalformedTiff(
        f"{name} stream decodes to far more than its chunk",
        got=f"{got} bytes or more",
        expected=f"{n_bytes} bytes",
    )


_INFLATERS: Mapping[str, Callable[[], Any]] = {
    "zlib": zlib.decompressobj,
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}


def _unknown(data: bytes) -> None:
    """Tell nothing."""


def _lz4(data: bytes) -> int | None:
    return struct.unpack_from("<I", data)[0] if len(data) >= 4 else None


def _blosc(data: bytes) -> int | None:
    return struct.unpack_from("<I", data, 4)[0] if len(data) >= 16 else None


def _zstd(data: bytes) -> int | None:
    """Give the content size of a frame; without one, what its blocks may come to at most."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = data[4]
    width = (1 if flags & 0x20 else 0, 2, 4, 8)[flags >> 6]
    at = 5 + (0 if flags & 0x20 else 1) + (0, 1, 2, 4)[flags & 3]
    if width:
        return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
    n_blocks = 0
    while at + 3 <= len(data):
        head = int.from_bytes(data[at : at + 3], "little")
        n_blocks += 1
        at += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)
        if head & 1:
            break
    return n_blocks << 17


_SAID: Mapping[str, Callable[[bytes], int | None]] = {"lz4": _lz4, "blosc": _blosc, "zstd": _zstd}
"""What the streams of a codec say that they decode to."""
