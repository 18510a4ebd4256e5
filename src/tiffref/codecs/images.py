"""Decode segments that are whole images of another format: JPEG, JPEG 2000, WebP, PNG and kin.

Owns one function for each such format. Each takes the codec, the stored bytes and either an array
that the image must fit (then it is decoded into it, or `ValueError` says before any decoding that
it does not fit) or None. FillOrder and Predictor do not apply to these (TIFF Technical Note 2).
A broken stream raises what the library raises, `RuntimeError` or `ValueError`.
"""

from __future__ import annotations

import math
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..model.codec import SegmentCodec
from .headers import jpeg_frame
from .limits import HARMLESS_BYTES
from .pngstream import clean_png

__all__ = ["eer", "has_tables", "jpeg", "jpeg2k", "jpegxl", "jpegxr", "lerc", "png", "webp"]

_LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)


def jpeg(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode JPEG of 8 to 16 bits, lossy or lossless, abbreviated or with all its tables.

    Parameters used: `jpeg_tables` (tag 347), `jpeg_header` (what precedes the entropy-coded data
    of an NDPI tile), `colorspace` and `outcolorspace` (see `codecs.table.jpeg_colorspaces`).
    """
    parameters = codec.parameters
    header = parameters.get("jpeg_header")
    stream = bytes(data) if header is None else b"".join((header, data, b"\xff\xd9"))
    try:
        return imagecodecs.jpeg8_decode(
            stream,
            tables=parameters.get("jpeg_tables"),
            colorspace=parameters.get("colorspace"),
            outcolorspace=parameters.get("outcolorspace"),
            # a height of 0 or over 65500 (NDPI) is not in the frame header
            shape=codec.shape[1:3],
            out=out,
        )
    except (RuntimeError, ValueError) as error:
        frame = jpeg_frame(stream)
        if frame is None or frame.marker not in _LOSSLESS_FRAMES:
            raise
        # libjpeg knows fewer precisions and colour spaces of lossless JPEG, as DNG has them
        try:
            return imagecodecs.ljpeg_decode(stream, out=out)
        except RuntimeError:
            raise error from None


def has_tables(data: Any) -> bool:
    """Say whether a JPEG stream brings quantization and Huffman tables before its frame."""
    head = bytes(data[:_HEAD_BYTES])
    return jpeg_frame(head) is not None and b"\xff\xdb" in head and b"\xff\xc4" in head


_HEAD_BYTES = 65536


def jpeg2k(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode JPEG 2000, boxed or as a bare codestream."""
    return imagecodecs.jpeg2k_decode(data, out=out)


def jpegxl(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode JPEG XL."""
    return imagecodecs.jpegxl_decode(data, out=out)


def jpegxr(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode JPEG XR (HD Photo)."""
    return imagecodecs.jpegxr_decode(data, out=out)


def webp(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode WebP; an alpha channel that is opaque throughout may not be stored."""
    has_alpha = True if codec.shape[3] == 4 else None
    return imagecodecs.webp_decode(data, hasalpha=has_alpha, out=out)


def png(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode PNG."""
    n_bytes = math.prod(codec.shape) * np.dtype(codec.dtype).itemsize
    return imagecodecs.png_decode(clean_png(data, 16 * n_bytes + HARMLESS_BYTES), out=out)


def lerc(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode LERC; deflate or Zstandard around it (tag 50674) is told by its first bytes.

    Parameters used: `lerc_mask`, what libtiff stores in the mask that goes with the samples: "nan"
    (which samples are numbers) or "alpha" (the last sample of pixels, where it is 0 or 255 only).
    libtiff swaps samples of big-endian files before it encodes them, as if they were bytes.
    """
    meaning = codec.parameters.get("lerc_mask")
    if meaning is None:
        image, mask = imagecodecs.lerc_decode(data, masks=False, out=out), None
    else:
        # without its alpha an image is smaller than its segment
        out = out if meaning == "nan" else None
        image, mask = imagecodecs.lerc_decode(data, masks=True, out=out)
    if meaning == "nan" and mask is not None:
        image[~mask] = np.nan
    n_samples = codec.shape[3]
    if image.ndim == 3 and image.shape[2] != n_samples == image.shape[0]:
        image = np.moveaxis(image, 0, -1).copy()  # each sample has a mask of its own
    if meaning == "alpha" and math.prod(image.shape[2:]) == n_samples - 1:
        alpha = np.full((*image.shape[:2], 1), 255, image.dtype)
        if mask is not None:
            alpha[~mask] = 0
        image = np.concatenate([image.reshape(*image.shape[:2], -1), alpha], axis=2)
    return image.byteswap(inplace=True) if codec.byteorder == ">" else image


def eer(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode an electron event representation frame.

    Parameters used: `skip_bits`, `horizontal_bits`, `vertical_bits` (tags 65007 to 65009) and
    `superresolution` (bits of sub-pixel position to keep).
    """
    parameters = codec.parameters
    image = imagecodecs.eer_decode(
        bytes(data),
        codec.shape[1:3],
        parameters.get("skip_bits", _EER_SKIP_BITS.get(codec.compression, 7)),
        parameters.get("horizontal_bits", 2),
        parameters.get("vertical_bits", 2),
        superres=parameters.get("superresolution", 0),
    )
    if out is None:
        return image
    out[...] = image.astype(out.dtype, copy=False).reshape(out.shape)
    return out


_EER_SKIP_BITS = {65000: 8, 65001: 7, 65002: 7}
