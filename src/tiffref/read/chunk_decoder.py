"""Samples of one chunk: put into the result, by the shortest way there is.

Owns the choice between viewing stored samples as they are, decoding straight into the result and
decoding aside, and names the source and chunk in errors. What decoding means is said by `codecs`,
of documents of others by `codecs.foreign`.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import SegmentDecoder, split_inlined, undo_transposes
from ..codecs.foreign import decode_foreign
from ..codecs.guard import check_proportion
from ..model.array import Array
from ..model.codec import ForeignCodec, SegmentCodec

__all__ = [
    "Decoder",
    "decode_chunk",
    "decode_inlined",
    "decode_whole",
    "is_stored_plain",
    "make_decoder",
    "stored_dtype",
    "view_plain",
]

_scratch = threading.local()

Decoder = SegmentDecoder | ForeignCodec
"""What decodes all chunks of one codec."""


def make_decoder(codec: SegmentCodec | ForeignCodec) -> Decoder:
    """Return what decodes the chunks of a codec.

    Raises
    ------
    UnsupportedTiff
        If nothing does.
    """
    return codec if isinstance(codec, ForeignCodec) else SegmentDecoder(codec)


def is_stored_plain(codec: SegmentCodec | ForeignCodec) -> bool:
    """Return whether stored bytes are the samples as they stand, in either byte order."""
    if isinstance(codec, ForeignCodec):
        return False
    return codec.is_plain


def stored_dtype(codec: SegmentCodec) -> np.dtype:
    """Return the type of samples as they are stored, with their byte order."""
    dtype = np.dtype(codec.dtype)
    return dtype.newbyteorder(">") if codec.byteorder == ">" else dtype.newbyteorder("<")


def view_plain(
    codec: SegmentCodec, data: Any, shape: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray:
    """View stored samples as an array, in their byte order.

    Parameters
    ----------
    codec
        One that `is_stored_plain`.
    data
        The bytes from the first sample of the view to its last.
    shape
        Of the view.
    strides
        Samples, not bytes, between neighbours.
    """
    dtype = stored_dtype(codec)
    return np.ndarray(shape, dtype, data, 0, tuple(n * dtype.itemsize for n in strides))


def decode_chunk(array: Array, decoder: Decoder, data: Any, target: NDArray, inner: Any) -> None:
    """Decode a chunk and put its selected samples into a part of the result.

    Parameters
    ----------
    array
        That the chunk belongs to.
    decoder
        Of the codec of this chunk.
    data
        Its bytes.
    target
        Part of the result.
    inner
        The selected samples of the chunk as slices, or None for all of them.

    Raises
    ------
    MalformedTiff
        If the bytes are not such a chunk.
    """
    if isinstance(decoder, ForeignCodec):
        block = _decode_foreign(array, decoder, data)
    elif inner is None and target.flags.c_contiguous and not decoder.codec.transposes:
        decoder.decode(data, target.reshape(decoder.codec.shape))
        return
    else:
        decoder.check_stored(len(data))
        samples = decoder.decode(data, _scratch_for(decoder))
        block = undo_transposes(decoder.codec, samples).reshape(array.chunks)
    target[...] = block if inner is None else block[inner]


def decode_whole(array: Array, decoder: Decoder, data: Any) -> NDArray:
    """Decode a chunk into new memory; parameters and errors as in `decode_chunk`."""
    if isinstance(decoder, ForeignCodec):
        # what numcodecs gives may be a view of something that others write to
        return np.array(_decode_foreign(array, decoder, data))
    return undo_transposes(decoder.codec, decoder.decode(data)).reshape(array.chunks)


def decode_inlined(array: Array, flat: int) -> NDArray:
    """Decode a chunk whose bytes are in the manifest; errors as in `decode_chunk`."""
    codec, data = array.codecs[0], memoryview(array.manifest.data(flat))
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if isinstance(codec, SegmentCodec):
        shape, transposes = codec.shape, codec.transposes
        codec, data = split_inlined(codec, data)
        if transposes != codec.transposes:  # those of the array hold for all of its chunks
            codec = replace(codec, shape=shape, transposes=transposes)
        if is_stored_plain(codec) and len(data) == n_bytes:
            # also of types that no segment has, such as the strings of a coordinate
            return view_plain(codec, data, (math.prod(array.chunks),), (1,)).reshape(array.chunks)
    check_proportion(n_bytes, len(data))
    block = np.empty(array.chunks, array.dtype)
    decode_chunk(array, make_decoder(codec), data, block, None)
    return block


def _scratch_for(decoder: SegmentDecoder) -> NDArray:
    """Return this thread's array for decoding aside; new memory would cost page faults."""
    dtype, shape = decoder.dtype, decoder.codec.shape
    kept = getattr(_scratch, "array", None)
    if kept is None or kept.dtype != dtype or kept.shape != shape:
        kept = _scratch.array = np.empty(shape, dtype)
    return kept


def _decode_foreign(array: Array, codec: ForeignCodec, data: Any) -> NDArray:
    return decode_foreign(codec, data, array.chunks, array.dtype, array.fill_value)
