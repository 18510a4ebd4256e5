"""Zarr v3 codecs that zarr-python finds by entry points: `tiffref_segment` and v2 names.

VirtualiZarr, Icechunk and others turn the v2 codec X into the v3 codec `numcodecs.X`, which exists
for the codecs that numcodecs brings and for no other: the names for those in our references are
here. So are those of imagecodecs-zarr, which Python 3.11 cannot install; where it is there, they
lead to its own classes. Ours are written against `zarr.abc.codec` only, work in processes that
never import tiffref, and only read; the decoding is that of `decode.decode_chunk` and of the v2
codecs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import imagecodecs
import numcodecs
import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec, BytesBytesCodec

from ..model.codec import SegmentCodec
from .decode import cast_samples, decode_chunk
from .guard import guarded
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
        """Return the codec's entry in a codec list."""
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


_PREFIX = "numcodecs."


@dataclass(frozen=True)
class _Named:
    """A v2 codec under its v3 name."""

    is_fixed_size = False
    is_image: ClassVar[bool] = False
    codec_id: ClassVar[str] = ""

    configuration: Mapping[str, Any] = field(default_factory=dict, hash=False)
    name: str = ""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the codec from its entry in a codec list."""
        return cls(dict(data.get("configuration", {})), data.get("name", ""))

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's entry in a codec list."""
        name = self.name or _PREFIX + self.codec_id
        return {"name": name, "configuration": dict(self.configuration)}

    @property
    def codec_config(self) -> dict[str, Any]:
        """Return the v2 configuration, which VirtualiZarr writes into kerchunk documents."""
        return {"id": self.codec_id, **self.configuration}

    def _decode_v2(self, data: NDArray, chunk_spec: ArraySpec) -> Any:
        n_bytes = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
        # only images say their own size; what else there is decodes to what its bytes come to
        stream = guarded(self.codec_id, data.tobytes(), n_bytes) if self.is_image else data
        return numcodecs.get_codec(self.codec_config).decode(stream)

    async def _decode_single(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _decode_sync(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        raise NotImplementedError

    def _encode_sync(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        raise ReadOnlyCodec(f"{_PREFIX}{self.codec_id} only decodes", hint="Use another codec.")

    async def _encode_single(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        return self._encode_sync(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Refuse: the size of a compressed chunk is not known."""
        raise ReadOnlyCodec(f"the encoded size of {self.codec_id} is not known")


class _BytesBytes(_Named, BytesBytesCodec):
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        decoded = self._decode_v2(chunk_data.as_numpy_array(), chunk_spec)
        return chunk_spec.prototype.buffer.from_bytes(bytes(decoded))


class _ArrayBytes(_Named, ArrayBytesCodec):
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        decoded = np.asarray(self._decode_v2(chunk_data.as_numpy_array(), chunk_spec))
        dtype = chunk_spec.dtype.to_native_dtype()
        decoded = cast_samples(decoded, dtype).astype(dtype, copy=False)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(decoded.reshape(chunk_spec.shape))


class Delta(_Named, ArrayArrayCodec):
    """TIFF's horizontal predictor."""

    codec_id = "imagecodecs_delta"

    def _decode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        stored = chunk_data.as_numpy_array()
        # of either byte order: zarr 3.1 hands samples on as stored, later versions as native ones
        decoded = np.asarray(
            imagecodecs.delta_decode(
                stored.reshape(self.configuration.get("shape", stored.shape)),
                axis=self.configuration["axis"],
                dist=self.configuration["dist"],
            )
        )
        return chunk_spec.prototype.nd_buffer.from_numpy_array(decoded.reshape(stored.shape))


class FloatPredictor(_ArrayBytes):
    """TIFF's floating-point predictor."""

    codec_id = "imagecodecs_floatpred"

    def _decode_v2(self, data: NDArray, chunk_spec: ArraySpec) -> Any:
        # in v3 the array says both
        dtype = chunk_spec.dtype.to_native_dtype().str
        given = {"shape": chunk_spec.shape, "dtype": dtype, **self.codec_config}
        return numcodecs.get_codec(given).decode(data)


class Lzw(_BytesBytes):
    """LZW."""

    codec_id = "imagecodecs_lzw"


class PackBits(_BytesBytes):
    """PackBits."""

    codec_id = "imagecodecs_packbits"


class _Image(_ArrayBytes):
    is_image = True


class Jpeg(_Image):
    """JPEG."""

    codec_id = "imagecodecs_jpeg"


class Jpeg2000(_Image):
    """JPEG 2000."""

    codec_id = "imagecodecs_jpeg2k"


class JpegXl(_Image):
    """JPEG XL."""

    codec_id = "imagecodecs_jpegxl"


class JpegXr(_Image):
    """JPEG XR."""

    codec_id = "imagecodecs_jpegxr"


class Lerc(_Image):
    """LERC."""

    codec_id = "imagecodecs_lerc"


class Png(_Image):
    """PNG."""

    codec_id = "imagecodecs_png"


class WebP(_Image):
    """WebP."""

    codec_id = "imagecodecs_webp"


class Segment(_ArrayBytes):
    """Our own codec."""

    codec_id = "tiffref_segment"


_OWN = {
    one.codec_id: one
    for one in (
        *(Delta, FloatPredictor, Jpeg, Jpeg2000, JpegXl, JpegXr),
        *(Lerc, Lzw, PackBits, Png, WebP),
    )
}


def __getattr__(name: str) -> Any:
    """Return the codec of a v3 name `imagecodecs_X`: that of imagecodecs, or ours without it."""
    if name not in _OWN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import imagecodecs.zarr as theirs
    except ImportError:
        return _OWN[name]
    return getattr(theirs, name.removeprefix("imagecodecs_").capitalize(), _OWN[name])
