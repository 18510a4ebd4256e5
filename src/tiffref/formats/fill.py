"""Chunks that decode to nothing but the fill value.

Owns their bytes, which a format needs that cannot leave a chunk out, and how to tell them again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..codecs.decode import decode_chunk
from ..codecs.inlined import wrap_inlined
from ..codecs.zarr2 import SEGMENT_ID, decode_foreign, to_zarr2
from ..errors import ManifestMismatch
from ..model.codec import ForeignCodec, SegmentCodec

__all__ = ["encode_fill_chunk", "is_fill_chunk"]


def encode_fill_chunk(
    path: str, codec: SegmentCodec | ForeignCodec, chunks: tuple[int, ...], fill_value: Any
) -> bytes:
    """Give the stored bytes of a chunk of fill value, 0 where the array has none.

    Parameters
    ----------
    path
        Of the array, for the error.
    codec
        One that Zarr v2 can say.
    chunks, fill_value
        Of the array.

    Raises
    ------
    ManifestMismatch
        If the codec cannot store these values exactly, as those of photographs.
    """
    import numcodecs

    encoding = to_zarr2(codec)
    fill = 0 if fill_value is None else fill_value
    values = np.full(chunks, fill, np.dtype(encoding["dtype"]))
    compressor = encoding["compressor"]
    if isinstance(codec, SegmentCodec) and (compressor or {}).get("id") == SEGMENT_ID:
        return wrap_inlined(SegmentCodec(codec.shape, codec.dtype), values.tobytes())
    # predictors run along the rows of a segment
    data = values.reshape(codec.shape if isinstance(codec, SegmentCodec) else chunks)
    try:
        for config in [*(encoding["filters"] or ()), *([compressor] if compressor else ())]:
            data = numcodecs.get_codec(dict(config)).encode(data)
        stored = bytes(memoryview(np.ascontiguousarray(data)).cast("B"))
        again = decode_foreign(ForeignCodec(2, encoding), stored, chunks)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise _inexact(path, encoding, f"{type(error).__name__}: {error}") from error
    if again.tobytes() != values.tobytes():
        raise _inexact(path, encoding, "other values after decoding")
    return stored


def is_fill_chunk(
    data: bytes, codec: SegmentCodec | ForeignCodec, chunks: tuple[int, ...], fill_value: Any
) -> bool:
    """Tell whether stored bytes decode to nothing but the fill value, 0 where there is none."""
    try:
        if isinstance(codec, SegmentCodec):
            values = decode_chunk(codec, data)
        else:
            values = decode_foreign(codec, data, chunks)
    except (ValueError, TypeError, RuntimeError):
        return False
    fill = np.array(0 if fill_value is None else fill_value, values.dtype)
    return bool((values.view(f"V{fill.itemsize}") == fill.view(f"V{fill.itemsize}")).all())


def _inexact(path: str, encoding: dict, got: str) -> ManifestMismatch:
    return ManifestMismatch(
        "the array has missing chunks, and its codec cannot store the fill value in their place",
        tag=f"array '{path}'",
        got=f"{got} ({encoding['filters']}, {encoding['compressor']})",
        hint="Write JSON, which can leave chunks out.",
    )
