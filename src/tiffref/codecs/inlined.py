"""Chunks that say themselves how they decode.

Owns the form of a chunk whose decoding differs from that of its array and which is therefore
inlined together with its codec: 16 fixed bytes, the length of a JSON text (uint32, little-endian),
the JSON of `SegmentCodec.to_config()`, and the segment as it lies in the file.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from ..errors import InvalidReferences
from ..model.codec import SegmentCodec

__all__ = ["MAGIC", "split_inlined", "wrap_inlined"]

# not printable, not UTF-8, and no start of any compression that TIFF knows
MAGIC = b"\x93tiffref\r\n\x1a\n\x00\xf6\xe5\x01"
"""First 16 bytes of a chunk that says itself how it decodes."""

_LENGTH = struct.Struct("<I")
_HEADER = len(MAGIC) + _LENGTH.size


def wrap_inlined(codec: SegmentCodec, data: Any) -> bytes:
    """Put a segment and its codec into one self-describing chunk."""
    config = json.dumps(codec.to_config(), separators=(",", ":"), sort_keys=True).encode()
    return b"".join((MAGIC, _LENGTH.pack(len(config)), config, data))


def split_inlined(codec: SegmentCodec, data: Any) -> tuple[SegmentCodec, memoryview]:
    """Take a chunk apart.

    Parameters
    ----------
    codec
        The codec of the array that the chunk is in.
    data
        The chunk.

    Returns
    -------
    codec, data
        The chunk's own codec and segment if it is self-describing, else what was given.

    Raises
    ------
    InvalidReferences
        If the chunk's own codec does not give samples of the array's shape and type, or is garbled.
    """
    view = memoryview(data).cast("B")
    if view[: len(MAGIC)] != MAGIC:
        return codec, view
    try:
        (length,) = _LENGTH.unpack_from(view, len(MAGIC))
        config = json.loads(bytes(view[_HEADER : _HEADER + length]))
        own = SegmentCodec.from_config(config)
    except (struct.error, ValueError, TypeError, AttributeError) as error:
        raise InvalidReferences(f"self-describing chunk is garbled: {error}") from error
    if (own.n_samples, own.dtype) != (codec.n_samples, codec.dtype):
        raise InvalidReferences(
            "self-describing chunk is of another shape or type than its array",
            got=f"{own.dtype} {own.shape}",
            expected=f"{codec.dtype} {codec.shape}",
        )
    return own, view[_HEADER + length :]
