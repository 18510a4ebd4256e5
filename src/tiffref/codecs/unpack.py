"""Unpack the decompressed bytes of a segment into samples, and undo the predictor.

Handles the layout of samples in rows (packed, mixed, 24-bit floating-point and complex integer
samples, subsampled YCbCr) and TIFF's predictors. Decompression is in `decoders`.

References: TIFF 6.0 sections 4 (BitsPerSample: rows are padded to whole bytes) and 14 (horizontal
differencing); Adobe Photoshop TIFF Technical Note 3 (floating-point predictor).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedTiff
from ..model.codec import SegmentCodec
from .decoders import ycbcr_to_rgb

Shape = tuple[int, int, int, int]

NO_PREDICTOR = (1,)
HORIZONTAL = {2: 1, 34892: 2, 34893: 4}
"""Horizontal differencing: value of tag 317 -> distance in pixels (DNG 1.4)."""
FLOATING_POINT = {3: 1, 34894: 2, 34895: 4}
"""Floating-point predictors, which difference bytes: value of tag 317 -> distance in pixels."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of samples in the decompressed bytes.

    `stored_bytes` returns the decompressed size of a segment of a shape, in bytes. `unpack` takes
    the codec, the bytes and the shape of the segment and returns native samples of that shape; it
    is None if the bytes are the samples. If `is_unpredicted`, `unpack` also undoes the predictor.
    """

    stored_bytes: Callable[[SegmentCodec, Shape], int]
    unpack: Callable[[SegmentCodec, NDArray[np.uint8], Shape], NDArray] | None = None
    is_unpredicted: bool = False


def stored_codec(codec: SegmentCodec) -> SegmentCodec:
    """Return the codec of the samples before calibration, which turns them into float32."""
    if "calibration" not in codec.parameters:
        return codec
    others = {name: value for name, value in codec.parameters.items() if name != "calibration"}
    return replace(codec, dtype=codec.parameters["calibration"][0], parameters=others)


def layout_of(codec: SegmentCodec) -> Layout:
    """Choose the layout of the samples of a segment.

    Raises
    ------
    UnsupportedTiff
        If no NumPy dtype can hold such samples.
    """
    if is_subsampled(codec):
        return _SUBSAMPLED
    if codec.sample_format == 3 and codec.bits == (24,):
        return _FLOAT24
    if codec.sample_format == 5:
        return _COMPLEX_INTEGER
    if len(codec.bits) > 1:
        return _MIXED
    width = np.dtype(codec.dtype).itemsize * 8
    bits = sample_bits(codec)
    if bits == width:
        return _WHOLE
    if 1 <= bits <= 32 and bits <= width:
        return _PACKED
    raise UnsupportedTiff(
        "no NumPy dtype can hold these samples",
        tag="BitsPerSample (258)",
        got=f"{bits} bits for {codec.dtype}",
        expected="1 to 32, 64 or 128 bits",
    )


def check_samples(codec: SegmentCodec) -> None:
    """Refuse samples and predictors that cannot be unpacked.

    Raises
    ------
    UnsupportedTiff
        If no NumPy dtype can hold such samples, or libtiff has no such predictor for them.
    """
    layout_of(codec)
    if codec.predictor in NO_PREDICTOR or is_subsampled(codec):
        return
    bits = set(codec.bits) or {sample_bits(codec)}
    if codec.predictor in FLOATING_POINT:
        is_defined = codec.sample_format == 3 and bits <= {16, 24, 32, 64}
    else:
        is_defined = codec.predictor in HORIZONTAL and bits <= {8, 16, 32, 64}
    if not is_defined:
        raise _undefined_predictor(codec)


def unpredict(codec: SegmentCodec, samples: NDArray) -> NDArray:
    """Undo the predictor along the columns of `(depth, rows, columns, samples)`, in place.

    Raises
    ------
    UnsupportedTiff
        If the predictor is unknown, or not defined for such samples.
    """
    if codec.predictor in NO_PREDICTOR or samples.size == 0:
        return samples
    if codec.predictor in HORIZONTAL and samples.itemsize <= 8:
        # libtiff differences every sample type as integers of the same width
        integers = samples.view(f"u{samples.itemsize}")
        if samples.dtype.kind == "c" and codec.byteorder == ">":
            # and swaps their bytes as a whole, not those of each part
            integers[...] = integers << np.uint64(32) | integers >> np.uint64(32)
        distance = HORIZONTAL[codec.predictor]
        imagecodecs.delta_decode(integers, axis=-2, dist=distance, out=integers)
        return samples
    if codec.predictor in FLOATING_POINT and samples.dtype.kind == "f":
        distance = FLOATING_POINT[codec.predictor]
        return imagecodecs.floatpred_decode(samples, axis=-2, dist=distance)
    raise _undefined_predictor(codec)


def _undefined_predictor(codec: SegmentCodec) -> UnsupportedTiff:
    return UnsupportedTiff(
        "this predictor is not defined for such samples",
        tag="Predictor (317)",
        got=f"{codec.predictor} with {codec.bits} bits, SampleFormat {codec.sample_format}",
        expected="1, 2 (integers) or 3 (floating-point numbers)",
    )


def sample_bits(codec: SegmentCodec) -> int:
    """Return the bits of one sample; of the first if they differ."""
    if codec.bits:
        return codec.bits[0]
    dtype = np.dtype(codec.dtype)
    return 1 if dtype.kind == "b" else dtype.itemsize * 8


def is_subsampled(codec: SegmentCodec) -> bool:
    """Return whether the chroma of YCbCr is subsampled (TIFF 6.0, section 21)."""
    subsampling = tuple(codec.parameters.get("subsampling", (1, 1)))
    return codec.photometric == 6 and subsampling != (1, 1)


def _padded_rows(bits: int, shape: Shape) -> int:
    return shape[0] * shape[1] * -(-shape[2] * bits // 8)


def _equal_bytes(codec: SegmentCodec, shape: Shape) -> int:
    return _padded_rows(sample_bits(codec) * shape[3], shape)


def _unpack_packed(codec: SegmentCodec, data: Any, shape: Shape) -> NDArray:
    bits = sample_bits(codec)
    dtype = np.dtype(codec.dtype)
    row_length = shape[2] * shape[3]
    if bits == 24:
        return _triples(codec, data).reshape(shape).astype(dtype, copy=False)
    unsigned = dtype if dtype.kind == "b" else np.dtype(f"u{dtype.itemsize}")
    samples = imagecodecs.packints_decode(data, unsigned, bits, runlen=row_length)
    samples = samples[: math.prod(shape)].reshape(shape)
    if dtype.kind == "i":
        samples = _extend_sign(samples, bits).view(dtype)
    return samples


def _triples(codec: SegmentCodec, data: NDArray[np.uint8]) -> NDArray:
    """Return 24-bit integers as GDAL writes and libtiff reads them.

    Their byte order is the opposite of the file's: most significant first in a little-endian file.
    """
    is_swapped = codec.byteorder == ">"
    triples = data[: data.size // 3 * 3].reshape(-1, 3)
    words = np.zeros((len(triples), 4), np.uint8)
    words[:, 1:] = triples[:, ::-1] if is_swapped else triples
    integers = words.view(">u4").reshape(-1).astype(np.uint32)
    if np.dtype(codec.dtype).kind == "i":
        return _extend_sign(integers, 24).view(np.int32)
    return integers


def _extend_sign(samples: NDArray, bits: int) -> NDArray:
    sign = samples.dtype.type(1 << (bits - 1))
    return (samples ^ sign) - sign


def _word_bits(bits: tuple[int, ...]) -> int:
    """Return the width of the word that contains one pixel of mixed samples."""
    for width in (8, 16, 32):
        if sum(bits) <= width:
            return width
    raise UnsupportedTiff(
        "pixels of mixed samples are too wide",
        tag="BitsPerSample (258)",
        got=bits,
        expected="at most 32 bits for a pixel",
    )


def _unpack_mixed(codec: SegmentCodec, data: NDArray[np.uint8], shape: Shape) -> NDArray:
    """Scale the samples of pixel words, such as 5-6-5, to the full range of the dtype.

    Words are little-endian whatever the byte order of the file, as in tifffile and known writers.
    """
    dtype = np.dtype(codec.dtype)
    full = dtype.itemsize * 8
    pixels = data.view(f"<u{_word_bits(codec.bits) // 8}").astype(np.uint64)
    result = np.empty((pixels.size, len(codec.bits)), dtype)
    position = sum(codec.bits)
    for index, bits in enumerate(codec.bits):
        position -= bits
        values = (pixels >> np.uint64(position)) & np.uint64((1 << bits) - 1)
        # repeat the bits until they fill the dtype, as graphics hardware does
        wide = (full // bits + 1) * bits
        values *= np.uint64(((1 << wide) - 1) // ((1 << bits) - 1))
        result[:, index] = values >> np.uint64(wide - full)
    return result.reshape(shape)


def _unpack_float24(codec: SegmentCodec, data: NDArray[np.uint8], shape: Shape) -> NDArray:
    byteorder: Any = codec.byteorder
    if codec.predictor in NO_PREDICTOR:
        numbers = imagecodecs.float24_decode(data.tobytes(), byteorder=byteorder)
        return numbers.reshape(shape).astype(codec.dtype, copy=False)
    if codec.predictor not in FLOATING_POINT:
        raise _undefined_predictor(codec)
    # predictor 3 sorts the bytes of a row by significance, and differences them
    depth, rows, columns, samples = shape
    differences = data.reshape(depth * rows, -1, samples * FLOATING_POINT[codec.predictor])
    planes = np.cumsum(differences, axis=1, dtype=np.uint8)
    planes = planes.reshape(depth * rows, 3, columns * samples)
    triples = np.ascontiguousarray(planes.transpose(0, 2, 1)).reshape(-1, 3)
    numbers = imagecodecs.float24_decode(triples.tobytes(), byteorder=">")
    # the decoder returns the same NaN for all, like tifffile; only GDAL can read these samples, and
    # it keeps sign and payload
    is_nan = np.isnan(numbers)
    sign, high, low = triples[is_nan].astype(np.uint32).T
    words = (sign >> 7) << 31 | np.uint32(0x7F800000) | (high << 8 | low) << 7
    numbers.view(np.uint32)[is_nan] = words
    return numbers.reshape(shape).astype(codec.dtype, copy=False)


def _unpack_complex(codec: SegmentCodec, data: NDArray[np.uint8], shape: Shape) -> NDArray:
    dtype = np.dtype(codec.dtype)
    bits = codec.bits[0] if codec.bits else dtype.itemsize * 4
    byteorder = codec.byteorder
    if codec.predictor in HORIZONTAL:
        pairs = data.view(f"{byteorder}u{bits // 8}").astype(f"<u{bits // 8}").reshape(shape)
        data, byteorder = unpredict(codec, pairs).reshape(-1).view(np.uint8), "<"
    elif codec.predictor not in NO_PREDICTOR:
        raise _undefined_predictor(codec)
    parts = data.view(f"{byteorder}i{bits // 16}").astype(f"f{dtype.itemsize // 2}")
    return parts.view(dtype).reshape(shape)


def _subsampled_bytes(codec: SegmentCodec, shape: Shape) -> int:
    horizontal, vertical = codec.parameters["subsampling"]
    depth, rows, columns, _ = shape
    blocks = depth * -(-rows // vertical) * -(-columns // horizontal)
    return blocks * (horizontal * vertical + 2)


def _unpack_subsampled(codec: SegmentCodec, data: NDArray[np.uint8], shape: Shape) -> NDArray:
    """Convert subsampled YCbCr to RGB as libtiff and GDAL do."""
    if (codec.dtype, shape[3], codec.predictor in NO_PREDICTOR) != ("|u1", 3, True):
        raise UnsupportedTiff(
            "subsampled YCbCr must have 8 bits, three interleaved samples and no predictor",
            tag="YCbCrSubSampling (530)",
            got=f"{codec.dtype}, {shape[3]} samples per pixel, predictor {codec.predictor}",
        )
    depth, rows, columns, _ = shape
    if depth * rows > rows and rows % codec.parameters["subsampling"][1]:
        raise UnsupportedTiff("slices of subsampled YCbCr end within a block", got=shape)
    try:
        rgb = ycbcr_to_rgb(codec, data.tobytes(), depth * rows, columns)
    except RuntimeError:
        full = {**codec.parameters, "subsampling": (1, 1)}
        ycbcr = _upsample_chroma(codec, data, shape)
        rgb = ycbcr_to_rgb(replace(codec, parameters=full), ycbcr.tobytes(), depth * rows, columns)
    return rgb.reshape(shape)


def _upsample_chroma(
    codec: SegmentCodec, data: NDArray[np.uint8], shape: Shape
) -> NDArray[np.uint8]:
    """Repeat chroma for each pixel, for subsampling that libtiff does not support."""
    horizontal, vertical = codec.parameters["subsampling"]
    depth, rows, columns, _ = shape
    n_luma = horizontal * vertical
    blocks = data.reshape(depth, -(-rows // vertical), -(-columns // horizontal), n_luma + 2)
    luma = blocks[..., :n_luma].reshape(*blocks.shape[:3], vertical, horizontal)
    luma = luma.transpose(0, 1, 3, 2, 4).reshape(depth, blocks.shape[1] * vertical, -1)
    chroma = blocks[..., n_luma:].repeat(vertical, axis=1).repeat(horizontal, axis=2)
    return np.concatenate((luma[..., np.newaxis], chroma), axis=-1)[:, :rows, :columns]


_SUBSAMPLED = Layout(_subsampled_bytes, _unpack_subsampled, is_unpredicted=True)
_WHOLE = Layout(_equal_bytes)
_PACKED = Layout(_equal_bytes, _unpack_packed)
_MIXED = Layout(lambda codec, shape: _padded_rows(_word_bits(codec.bits), shape), _unpack_mixed)
_FLOAT24 = Layout(_equal_bytes, _unpack_float24, is_unpredicted=True)
_COMPLEX_INTEGER = Layout(_equal_bytes, _unpack_complex, is_unpredicted=True)
