"""How much a few stored bytes may grow to when they are decoded.

Owns the limits that keep a file of some kilobytes from asking for terabytes. Tags can say any size;
nothing is allocated for a segment whose bytes cannot hold its samples.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import MalformedTiff
from ..model.codec import SegmentCodec

__all__ = ["HARMLESS_BYTES", "MAX_EXPANSION", "check_expansion"]

HARMLESS_BYTES = 1 << 26
"""A segment of so many decoded bytes is decoded whatever it is stored in."""
MAX_EXPANSION = 1 << 16
"""Decoded bytes for each stored one. Blocks of equal bytes take 4 bytes for 128 KiB in Zstandard,
the densest; blank lines of Group 4 fax take one bit each, which is 8 KiB for 65,535 pixels."""


def check_expansion(codec: SegmentCodec, n_stored: int, n_bytes: int | None = None) -> None:
    """Refuse a segment whose decoded size is out of proportion, before anything is allocated.

    Parameters
    ----------
    codec
        How it decodes.
    n_stored
        Its stored bytes.
    n_bytes
        What they become by decompression; by default as many as the samples take.

    Raises
    ------
    MalformedTiff
        If that is more than `HARMLESS_BYTES` and more than `MAX_EXPANSION` times its
        stored bytes; uncompressed ones, more than 8 times.
    """
    if n_bytes is None:
        n_bytes = math.prod(codec.shape) * np.dtype(codec.dtype).itemsize
    # one bit is stored for each byte of a bilevel image; the last strip may be short
    growth = 8 if codec.compression == 1 and codec.edge is None else MAX_EXPANSION
    if min(codec.shape) < 0:
        raise MalformedTiff("a segment has a negative size", got=codec.shape)
    if n_bytes > max(HARMLESS_BYTES, growth * n_stored):
        raise MalformedTiff(
            "the decoded size of a segment is out of proportion to its stored bytes",
            tag="ImageWidth (256), ImageLength (257), RowsPerStrip (278)",
            got=f"{n_stored} bytes for {codec.dtype} samples of shape {codec.shape}",
            expected=f"at least {n_bytes // growth} bytes",
        )
