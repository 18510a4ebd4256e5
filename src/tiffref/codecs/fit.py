"""Fit what a segment holds into the chunk that it stands for.

Owns the shapes in which a segment may be stored other than whole: the last strip, which ends with
the image, and tiles at the right and lower edge that writers crop. It decodes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff
from ..model.codec import SegmentCodec
from .unpack import Shape

__all__ = ["cast_samples", "find_shape", "fit_image", "has_twin_edges", "pad_into"]


def find_shape(codec: SegmentCodec, n_bytes: int, stored_bytes: Callable[[Shape], int]) -> Shape:
    """Find the shape of a segment from the number of its decompressed bytes.

    Parameters
    ----------
    codec
        Full shape, and what of it lies inside the image at the edge.
    n_bytes
        Bytes that were found, already cut to those of a full segment.
    stored_bytes
        Bytes that a segment of a given shape takes.

    Raises
    ------
    MalformedTiff
        If there is no shape with as many bytes.
    """
    for shape in _stored_shapes(codec):
        expected = stored_bytes(shape)
        # the last strip may have bytes behind it: padding, or what LZW without its end code gives
        row = stored_bytes((1, 1, *shape[2:]))
        if n_bytes == expected or (_is_strip_end(codec, shape) and 0 <= n_bytes - expected < row):
            return shape
    raise MalformedTiff(
        "segment does not hold the samples of its image",
        tag="Compression (259)",
        got=f"{n_bytes} bytes decompressed",
        expected=" or ".join(str(stored_bytes(shape)) for shape in _stored_shapes(codec)),
    )


def has_twin_edges(codec: SegmentCodec, stored_bytes: Callable[[Shape], int]) -> bool:
    """Say whether cropped tiles of the right edge have as many bytes as those of the lower edge."""
    if codec.edge is None:
        return False
    depth, rows, columns = codec.edge
    samples = codec.shape[3]
    if rows == codec.shape[1] or columns == codec.shape[2]:
        return False
    lower = stored_bytes((depth, rows, codec.shape[2], samples))
    return lower == stored_bytes((*codec.shape[:2], columns, samples))


def fit_image(codec: SegmentCodec, image: NDArray) -> NDArray:
    """Bring a decoded image to four dimensions and the type of its codec, cut to the segment.

    Raises
    ------
    MalformedTiff
        If it is not as large as a segment that is whole or at an edge.
    """
    dtype = np.dtype(codec.dtype)
    shapes = list(_stored_shapes(codec))
    # an image says its own size; as many pixels may be in another shape
    shapes.sort(key=lambda shape: shape[1:3] != image.shape[:2])
    for shape in shapes:
        if image.size == math.prod(shape):
            return cast_samples(image.reshape(shape), dtype)
        rows, n_rows = shape[1], image.size // max(1, math.prod(shape[2:]))
        is_taller = shape[0] == 1 and n_rows > rows and image.shape[:2] == (n_rows, shape[2])
        if is_taller:
            # rows of the last block of the compression that lie below the strip
            return cast_samples(image.reshape(1, n_rows, *shape[2:])[:, :rows], dtype)
    raise MalformedTiff(
        "image in the segment has another size than the segment",
        got=image.shape,
        expected=" or ".join(str(shape) for shape in _stored_shapes(codec)),
    )


def pad_into(target: NDArray, samples: NDArray, fill: float | int | None) -> None:
    """Put samples into the upper left corner of `target`, and `fill` (None is 0) elsewhere."""
    if samples.shape == target.shape:
        if not np.shares_memory(samples, target):
            target[...] = samples
        return
    samples = samples.copy() if np.shares_memory(samples, target) else samples
    target[...] = 0 if fill is None else fill
    target[tuple(slice(n) for n in samples.shape)] = samples


def _stored_shapes(codec: SegmentCodec) -> Iterator[Shape]:
    """Give the shapes that a segment may be stored in: whole, cropped at the lower edge, the right
    edge or the corner.

    Where tiles of the right edge have as many bytes as those of the lower edge, the scanner gives
    them a codec of their own: here they are taken for the latter.
    """
    full = codec.shape
    yield full
    if codec.edge is not None:
        depth, rows, columns = codec.edge
        # of packed samples, shapes may have as many bytes: the larger one then holds the smaller
        cropped = ((depth, rows, full[2]), (*full[:2], columns), (depth, rows, columns))
        yield from dict.fromkeys((*size, full[3]) for size in cropped if size != full[:3])


def _is_strip_end(codec: SegmentCodec, shape: Shape) -> bool:
    return shape != codec.shape and codec.edge is not None and codec.edge[2] == codec.shape[2]


def cast_samples(image: NDArray, dtype: np.dtype) -> NDArray:
    """Give decoded samples in the type that they should have, in the machine's byte order.

    Raises
    ------
    MalformedTiff
        If that would change values.
    """
    dtype = dtype.newbyteorder("=")
    if image.dtype == dtype:
        return image
    with np.errstate(invalid="ignore", over="ignore"):
        cast = image.astype(dtype)
    # whether integers have a sign is for the tags to say, not for the decoder
    is_integer = image.dtype.kind in "biu" and dtype.kind in "biu"
    is_same = is_integer and image.dtype.itemsize == dtype.itemsize
    is_exact = is_same or np.can_cast(image.dtype, dtype)
    if not is_exact and not np.array_equal(cast, image, equal_nan=cast.dtype.kind == "f"):
        raise MalformedTiff(
            "image in the segment has samples that their type cannot hold",
            tag="BitsPerSample (258), SampleFormat (339)",
            got=image.dtype,
            expected=dtype,
        )
    return cast
