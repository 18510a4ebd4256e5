"""Codecs that numcodecs and zarr-python find through entry points, without importing tiffref.

`tiffref_segment` decodes with `decode.decode_chunk`; there is one for Zarr v2 (numcodecs) and one
for v3. The other codecs give v2 codecs a name in Zarr v3: VirtualiZarr, Icechunk and others
turn the v2 codec X into the v3 codec `numcodecs.X`, which numcodecs defines only for its own. The
names of imagecodecs-zarr are defined too, because it cannot be installed on Python 3.11; if it is
installed, its own classes are used. Our classes depend only on the abstract classes of both
libraries, and are read-only.
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
from numcodecs.abc import Codec
from numcodecs.compat import ndarray_copy
from numpy.typing import NDArray
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec, BytesBytesCodec

from ..errors import TiffrefError
from ..model.codec import SegmentCodec
from .decode import cast_samples, decode_chunk, undo_transposes
from .foreign import decode_image
from .guard import HEADERS

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer


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


class _ReadOnly:
    """Base of the codecs for Zarr v3: decodes in threads, and does not encode."""

    is_fixed_size = False
    codec_id: ClassVar[str] = "tiffref_segment"

    def _decode_sync(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        raise NotImplementedError

    async def _decode_single(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _encode_sync(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        raise ReadOnlyCodec(f"{self.codec_id} only decodes", hint="Write with another codec.")

    async def _encode_single(self, chunk_data: Any, chunk_spec: ArraySpec) -> Any:
        return self._encode_sync(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise an error: the size of a compressed chunk is not known."""
        raise ReadOnlyCodec(f"the encoded size of {self.codec_id} is not known")


@dataclass(frozen=True)
class TiffrefSegmentCodec(_ReadOnly, ArrayBytesCodec):
    """Decode chunks that are TIFF segments, with the codec `segment`."""

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


_PREFIX = "numcodecs."


@dataclass(frozen=True)
class _V2Codec(_ReadOnly):
    """A v2 codec under its v3 name."""

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


class _BytesBytes(_V2Codec, BytesBytesCodec):
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        decoded = numcodecs.get_codec(self.codec_config).decode(chunk_data.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(bytes(decoded))


class _ArrayBytes(_V2Codec, ArrayBytesCodec):
    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        decoded = np.asarray(self._decode_v2(chunk_data.as_numpy_array(), chunk_spec, dtype))
        decoded = cast_samples(decoded, dtype).astype(dtype, copy=False)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(decoded.reshape(chunk_spec.shape))

    def _decode_v2(self, data: NDArray, chunk_spec: ArraySpec, dtype: np.dtype) -> Any:
        if self.codec_id.removeprefix("imagecodecs_") in HEADERS:
            n_bytes = math.prod(chunk_spec.shape) * dtype.itemsize
            return decode_image(self.codec_config, data.tobytes(), n_bytes)
        return numcodecs.get_codec(self.codec_config).decode(data)


class _FloatPredictor(_ArrayBytes):
    def _decode_v2(self, data: NDArray, chunk_spec: ArraySpec, dtype: np.dtype) -> Any:
        # in v3, shape and dtype are those of the array
        config = {"shape": chunk_spec.shape, "dtype": dtype.str, **self.codec_config}
        return numcodecs.get_codec(config).decode(data)


class _Delta(_V2Codec, ArrayArrayCodec):
    def _decode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        stored = chunk_data.as_numpy_array()
        # in either byte order: zarr 3.1 passes samples as stored, later versions in native order
        decoded = np.asarray(
            imagecodecs.delta_decode(
                stored.reshape(self.configuration.get("shape", stored.shape)),
                axis=self.configuration["axis"],
                dist=self.configuration["dist"],
            )
        )
        return chunk_spec.prototype.nd_buffer.from_numpy_array(decoded.reshape(stored.shape))


def _define(name: str, codec_id: str, base: type[_V2Codec]) -> type[_V2Codec]:
    """Define the class of one v2 codec, so that pickle finds it by name."""
    return type(name, (base,), {"codec_id": codec_id, "__module__": __name__})


Segment = _define("Segment", "tiffref_segment", _ArrayBytes)
Delta = _define("Delta", "imagecodecs_delta", _Delta)
FloatPredictor = _define("FloatPredictor", "imagecodecs_floatpred", _FloatPredictor)
Lzw = _define("Lzw", "imagecodecs_lzw", _BytesBytes)
PackBits = _define("PackBits", "imagecodecs_packbits", _BytesBytes)
Jpeg = _define("Jpeg", "imagecodecs_jpeg", _ArrayBytes)
Jpeg2000 = _define("Jpeg2000", "imagecodecs_jpeg2k", _ArrayBytes)
JpegXl = _define("JpegXl", "imagecodecs_jpegxl", _ArrayBytes)
JpegXr = _define("JpegXr", "imagecodecs_jpegxr", _ArrayBytes)
Lerc = _define("Lerc", "imagecodecs_lerc", _ArrayBytes)
Png = _define("Png", "imagecodecs_png", _ArrayBytes)
WebP = _define("WebP", "imagecodecs_webp", _ArrayBytes)
_IMAGES = (Jpeg, Jpeg2000, JpegXl, JpegXr, Lerc, Png, WebP)
_OWN = {codec.codec_id: codec for codec in (Delta, FloatPredictor, Lzw, PackBits, *_IMAGES)}


def __getattr__(name: str) -> Any:
    """Return the codec named `imagecodecs_X`: that of imagecodecs if installed, else ours."""
    if name not in _OWN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import imagecodecs.zarr as imagecodecs_zarr
    except ImportError:
        return _OWN[name]
    return getattr(imagecodecs_zarr, name.removeprefix("imagecodecs_").capitalize(), _OWN[name])
