"""Decode one TIFF segment: the bytes as they lie in the file become an array of samples.

Owns the order of the steps (bits turned, decompressed, unpacked, predictor undone, fitted into the
chunk) and the errors of segments that do not hold what their codec says. What each step does is in
`bytestreams`, `images`, `wrapped` (libtiff), `unpack` and `fit`; which decoder serves which
compression is in `table`.

Parameters of a codec (`SegmentCodec.parameters`), all optional:

=====================  ============================================================================
jpeg_tables            bytes of JPEGTables (tag 347)
jpeg_header            bytes that precede each tile's entropy-coded data (NDPI)
jpeg_process           int, marker of the JPEG frame header (`headers.jpeg_frame`) where it is none
                       of 0xC0 to 0xC2: it keeps lossless JPEG away from codecs of others
colorspace,            JPEG colour spaces, from `table.jpeg_colorspaces`
outcolorspace
lerc_mask              "nan" or "alpha": what the mask of a LERC image stands for
superresolution,       EER: sub-pixel bits to keep, and tags 65007 to 65009
skip_bits,
horizontal_bits,
vertical_bits
calibration            (stored dtype, power, scale): sample ** power * scale is the result (MD Gel)
=====================  ============================================================================
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff, TiffrefError
from ..model.codec import SegmentCodec
from .fit import find_shape, fit_image, pad_into
from .guard import DECODING_ERRORS, check_image
from .inlined import split_inlined
from .limits import check_expansion
from .table import Compression, check_supported, compression_of
from .unpack import FLOATING_POINT, layout_of, unpredict

__all__ = ["decode_chunk", "decode_segment", "decodes", "undo_transposes"]


def decode_segment(codec: SegmentCodec, data: Any, out: NDArray | None = None) -> NDArray:
    """Decode one segment.

    Parameters
    ----------
    codec
        How to decode it.
    data
        The stored bytes, any buffer.
    out
        Array of `codec.shape` that the samples are written to; decoded into directly where it is
        contiguous and of the native type of `codec`.

    Returns
    -------
    samples
        `out`, or a new array of `codec.shape` and the native form of `codec.dtype`.

    Raises
    ------
    UnsupportedTiff
        If nothing decodes such segments.
    MalformedTiff
        If the bytes are not such a segment.
    """
    check_expansion(codec, len(data))
    if "calibration" in codec.parameters:
        return _decode_calibrated(codec, data, out)
    check_supported(codec)
    row = compression_of(codec.compression)
    dtype = np.dtype(codec.dtype).newbyteorder("=")
    is_direct = out is not None and out.dtype == dtype and out.flags.c_contiguous
    target = out if is_direct else np.empty(codec.shape, dtype)
    assert target is not None
    target = target.reshape(codec.shape)
    try:
        _DECODERS[row.kind](row, codec, data, target)
    except DECODING_ERRORS as error:
        if isinstance(error, TiffrefError):
            raise
        raise MalformedTiff(
            f"segment does not decode as {row.name}: {error}",
            tag="Compression (259)",
            got=f"{len(data)} bytes",
            expected=f"{codec.dtype} samples of shape {codec.shape}",
        ) from error
    if out is None:
        return target
    if not is_direct:
        out[...] = target.reshape(out.shape)
    return out


def undo_transposes(codec: SegmentCodec, samples: NDArray) -> NDArray:
    """Return a view of a segment's samples, of `codec.shape`, with the axes of the chunk."""
    for order in reversed(codec.transposes):
        lead = samples.ndim - len(order)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        samples = samples.transpose(*range(lead), *(lead + axis for axis in inverse))
    return samples


def _decode_calibrated(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode stored samples and turn them into the measured quantity, as float32."""
    stored, power, scale = codec.parameters["calibration"]
    others = {n: value for n, value in codec.parameters.items() if n != "calibration"}
    samples = decode_segment(replace(codec, dtype=stored, parameters=others), data)
    measured = samples.astype(np.float32) ** int(power) * float(scale)
    if out is None:
        return measured
    out[...] = measured.reshape(out.shape)
    return out


def decodes(codec: SegmentCodec, data: Any) -> bool:
    """Say whether bytes are a segment of this codec; parameters as in `decode_segment`.

    Raises
    ------
    UnsupportedTiff
        If nothing decodes such segments.
    """
    try:
        decode_segment(codec, data)
    except MalformedTiff:
        return False
    return True


def decode_chunk(codec: SegmentCodec, data: Any, out: NDArray | None = None) -> NDArray:
    """Decode one chunk, which may be a segment or a self-describing chunk (see `inlined`).

    Parameters, result and errors are those of `decode_segment`, and `InvalidReferences` for a
    self-describing chunk that does not fit its array.
    """
    own, segment = split_inlined(codec, data)
    if own is codec:
        return decode_segment(codec, segment, out)
    # its own shape may count dimensions differently
    view = None if out is None or not out.flags.c_contiguous else out.reshape(own.shape)
    samples = decode_segment(own, segment, view).reshape(codec.shape)
    if out is None:
        return samples
    if view is None:
        out[...] = samples.reshape(out.shape)
    return out


def _decode_bytes(row: Compression, codec: SegmentCodec, data: Any, target: NDArray) -> None:
    """Decompress, unpack and unpredict into `target`."""
    assert row.decode is not None
    if codec.fill_order == 2:
        data = imagecodecs.bitorder_decode(bytes(data))
    layout = layout_of(codec)
    if layout.unpack is None:
        buffer = target.reshape(-1).view(np.uint8)
    else:
        # blocks of subsampled colours may be larger than the segment
        n_packed = layout.stored_bytes(codec, codec.shape)
        check_expansion(codec, len(data), n_packed)
        buffer = np.empty(n_packed, np.uint8)
    n_bytes = row.decode(data, buffer)
    shape = codec.shape
    if n_bytes != buffer.size:
        shape = find_shape(codec, n_bytes, lambda shape: layout.stored_bytes(codec, shape))
    if layout.unpack is None:
        samples = target.reshape(-1)[: math.prod(shape)].reshape(shape)
        # the floating-point predictor orders bytes by itself
        if codec.byteorder != _NATIVE and codec.predictor not in FLOATING_POINT:
            samples.byteswap(inplace=True)
    else:
        samples = layout.unpack(codec, buffer[: layout.stored_bytes(codec, shape)], shape)
    if not layout.is_unpredicted:
        samples = unpredict(codec, samples)
    pad_into(target, samples, codec.fill)


def _decode_image(row: Compression, codec: SegmentCodec, data: Any, target: NDArray) -> None:
    """Decode an image into `target`, directly where it is as large as the segment."""
    assert row.decode is not None
    if codec.fill_order == 2 and row.fill_order == "first":
        data = imagecodecs.bitorder_decode(bytes(data))
    try:
        image = row.decode(codec, data, target)
    except ValueError:
        # another size or type than the segment's, found out before anything was decoded
        check_image(row.decode.__name__, bytes(data), math.prod(codec.shape[:3]))
        image = row.decode(codec, data, None)
    if not np.shares_memory(image, target):
        pad_into(target, fit_image(codec, image), codec.fill)


_NATIVE = "<" if sys.byteorder == "little" else ">"
_DECODERS = {"bytes": _decode_bytes, "image": _decode_image}
