"""The numcodecs codec `tiffref_segment` for Zarr v2, a wrapper of `decode.decode_chunk`.

Zarr finds it through the entry point `numcodecs.codecs`, without importing tiffref. The codec for
Zarr v3 is in `plugins`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ndarray_copy

from ..errors import TiffrefError
from ..model.codec import SegmentCodec
from .decode import decode_chunk, undo_transposes


class ReadOnlyCodec(TiffrefError, NotImplementedError):
    """The codec cannot encode: chunks are byte ranges of TIFF files, which are never written."""


class TiffrefSegment(Codec):
    """Decode chunks that are TIFF segments.

    Parameters
    ----------
    config
        Fields of `SegmentCodec.to_config()`: `shape`, `dtype`, and those not at their default.
    """

    codec_id = "tiffref_segment"

    def __init__(self, **config: Any) -> None:
        self.segment = SegmentCodec.from_config(config)

    def encode(self, buf: Any) -> bytes:
        """Raise an error: the codec is read-only."""
        raise ReadOnlyCodec("tiffref_segment only decodes", hint="Write with another codec.")

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode one chunk to a contiguous array of the codec's shape and dtype, or into `out`."""
        if out is None or self.segment.transposes:
            samples = undo_transposes(self.segment, decode_chunk(self.segment, buf))
            # the metadata says little-endian
            samples = np.ascontiguousarray(samples.astype(self.segment.dtype, copy=False))
            return samples if out is None else ndarray_copy(samples, out)
        target = np.asarray(out).reshape(-1).view(self.segment.dtype).reshape(self.segment.shape)
        decode_chunk(self.segment, buf, target)
        return out

    def get_config(self) -> dict[str, Any]:
        """Return the configuration as in the metadata."""
        return {"id": self.codec_id, **self.segment.to_config()}
