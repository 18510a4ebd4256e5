"""The one codec of our own for Zarr v3: `tiffref_segment`, from array to bytes.

Owns the zarr-python face of `decode.decode_chunk`, written against `zarr.abc.codec` only. Zarr
finds it through the entry point `zarr.codecs`, in processes that never import tiffref.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zarr.abc.codec import ArrayBytesCodec

from ..model.codec import SegmentCodec
from .decode import decode_chunk
from .segment import ReadOnlyCodec

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

__all__ = ["TiffrefSegmentCodec"]


@dataclass(frozen=True)
class TiffrefSegmentCodec(ArrayBytesCodec):
    """Decode chunks that are TIFF segments; `segment` says how."""

    is_fixed_size = False

    segment: SegmentCodec

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TiffrefSegmentCodec:
        """Build the codec from its entry in a codec list."""
        return cls(SegmentCodec.from_config(data.get("configuration", {})))

    def to_dict(self) -> dict[str, Any]:
        """Give the codec's entry in a codec list."""
        return {"name": "tiffref_segment", "configuration": self.segment.to_config()}

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        samples = decode_chunk(self.segment, chunk_data.as_numpy_array())
        samples = samples.astype(chunk_spec.dtype.to_native_dtype(), copy=False)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(samples.reshape(chunk_spec.shape))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        raise ReadOnlyCodec("tiffref_segment only decodes", hint="Write with another codec.")

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return self._encode_sync(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Refuse: the size of a compressed segment is not known."""
        raise ReadOnlyCodec("the encoded size of a TIFF segment is not known")
