"""Decode one TIFF segment: turn the bytes stored in the file into an array of samples.

The steps are: reverse the bits, decompress (`decoders`, chosen by `table`), unpack the samples and
undo the predictor (`unpack`), and fit the result into the chunk. A segment may be stored smaller
than its chunk: the last strip ends with the image, and some writers crop tiles at the right and
lower edge. Segments that do not match their codec raise an error.

A chunk that decodes differently from its array is inlined together with its codec: 16 magic bytes,
the length of a JSON text (uint32, little-endian), the JSON of `SegmentCodec.to_config()`, and the
segment as stored in the file.

Parameters of a codec (`SegmentCodec.parameters`), all optional:

=====================  ============================================================================
jpeg_tables            bytes of JPEGTables (tag 347)
jpeg_header            bytes that precede each tile's entropy-coded data (NDPI)
jpeg_process           int, marker of the JPEG frame header (`guard.jpeg_frame`) if it is not
                       0xC0 to 0xC2: lossless JPEG needs our own codec
colorspace,            JPEG color spaces, from `table.jpeg_colorspaces`
outcolorspace
ends_exactly           True: imagecodecs decodes LZW segments to exactly their size
lerc_mask              "nan" or "alpha": meaning of the mask of a LERC image
accepts_truncated      True: decode a truncated JPEG or JPEG XR stream as far as it goes
superresolution,       EER: sub-pixel bits to keep, and tags 65007 to 65009
skip_bits,
horizontal_bits,
vertical_bits
calibration            (stored dtype, power, scale): sample ** power * scale is the result (MD Gel)
=====================  ============================================================================
"""

from __future__ import annotations

import json
import math
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import shake_128
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidReferences, MalformedTiff, TiffrefError
from ..model.codec import SegmentCodec
from .decoders import deflate
from .guard import (
    DECODING_ERRORS,
    HAVE_END,
    MAX_EXPANSION,
    N_LAST_ZEROS,
    START_OF_JPEG,
    START_OF_JPEGXR,
    check_expansion,
    check_image,
    has_one_scan,
    image_size,
    stream_end,
)
from .table import check_supported, compression_of
from .unpack import FLOATING_POINT, NO_PREDICTOR, Layout, Shape, layout_of, stored_codec, unpredict


def _find_shape(codec: SegmentCodec, n_bytes: int, stored_bytes: Callable[[Shape], int]) -> Shape:
    """Return the stored shape of a segment from its number of decompressed bytes.

    `stored_bytes` returns the bytes of a segment of a shape; `n_bytes` is at most that of a full
    segment.
    """
    for shape in _stored_shapes(codec):
        expected = stored_bytes(shape)
        # the last strip may have extra bytes: padding, or the output of LZW without an end code
        row = stored_bytes((1, 1, *shape[2:]))
        is_end = shape != codec.shape and codec.edge is not None and codec.edge[2] == codec.shape[2]
        if n_bytes == expected or (is_end and 0 <= n_bytes - expected < row):
            return shape
    raise MalformedTiff(
        "segment has the wrong number of bytes",
        tag="Compression (259)",
        got=f"{n_bytes} bytes decompressed",
        expected=" or ".join(str(stored_bytes(shape)) for shape in _stored_shapes(codec)),
    )


def has_twin_edges(codec: SegmentCodec, stored_bytes: Callable[[Shape], int]) -> bool:
    """Return whether cropped tiles at the right and at the lower edge have equally many bytes."""
    depth, rows, columns = codec.edge or codec.shape[:3]
    samples = codec.shape[3]
    if rows == codec.shape[1] or columns == codec.shape[2]:
        return False
    lower = stored_bytes((depth, rows, codec.shape[2], samples))
    return lower == stored_bytes((*codec.shape[:2], columns, samples))


def fit_image(codec: SegmentCodec, image: NDArray) -> NDArray:
    """Reshape and cast a decoded image to the dimensions and dtype of its codec.

    Raises
    ------
    MalformedTiff
        If its size is neither that of a whole segment nor of one at an edge.
    """
    dtype = np.dtype(codec.dtype)
    shapes = list(_stored_shapes(codec))
    # try the image's own size first, since other shapes may have as many pixels
    shapes.sort(key=lambda shape: shape[1:3] != image.shape[:2])
    # lossless JPEG of camera raw files may have samples of one row, or of two, side by side; Zarr
    # metadata does not have the shape of an image
    is_any_size = "jpeg_process" in codec.parameters or math.prod(codec.shape[:3]) == 1
    for shape in shapes:
        has_rows = image.shape[0] == shape[0] * shape[1] or image.shape[0] == shape[0] > 1
        if image.size == math.prod(shape) and (has_rows or is_any_size):
            return cast_samples(image.reshape(shape), dtype)
        rows, n_rows = shape[1], image.size // max(1, math.prod(shape[2:]))
        is_taller = shape[0] == 1 and n_rows > rows and image.shape[:2] == (n_rows, shape[2])
        if is_taller:
            # the last block of the compression extends below the strip
            return cast_samples(image.reshape(1, n_rows, *shape[2:])[:, :rows], dtype)
    raise MalformedTiff(
        "the size of the compressed image differs from that of the segment",
        got=image.shape,
        expected=" or ".join(str(shape) for shape in _stored_shapes(codec)),
    )


def _pad_into(target: NDArray, samples: NDArray, fill: float | int | None) -> None:
    """Put samples into the upper left corner of `target`, and `fill` (None is 0) elsewhere."""
    if samples.shape == target.shape:
        if not np.shares_memory(samples, target):
            target[...] = samples
        return
    samples = samples.copy() if np.shares_memory(samples, target) else samples
    target[...] = 0 if fill is None else fill
    target[tuple(slice(n) for n in samples.shape)] = samples


def _stored_shapes(codec: SegmentCodec) -> Iterator[Shape]:
    """Yield the possible stored shapes: whole, cropped at the lower edge, right edge or corner.

    If tiles at the right and at the lower edge have equally many bytes, the first match here is the
    lower edge; the scan gives the tiles at the right edge a codec of their own.
    """
    full = codec.shape
    yield full
    if codec.edge is not None:
        depth, rows, columns = codec.edge
        # packed shapes may have equally many bytes; the larger one then contains the smaller
        cropped = ((depth, rows, full[2]), (*full[:2], columns), (depth, rows, columns))
        yield from dict.fromkeys((*size, full[3]) for size in cropped if size != full[:3])


def cast_samples(image: NDArray, dtype: np.dtype) -> NDArray:
    """Cast decoded samples to a dtype in native byte order.

    Raises
    ------
    MalformedTiff
        If values would change.
    """
    dtype = dtype.newbyteorder("=")
    if image.dtype == dtype:
        return image
    with np.errstate(invalid="ignore", over="ignore"):
        cast = image.astype(dtype)
    # the tags, not the decoder, determine whether integers are signed
    is_integer = image.dtype.kind in "iu" and dtype.kind in "iu"
    is_same = is_integer and image.dtype.itemsize == dtype.itemsize
    is_exact = is_same or np.can_cast(image.dtype, dtype)
    if dtype == np.bool_:
        image = image // max(1, image.max(initial=0))  # some decoders return 255 for 1
    if not is_exact and not np.array_equal(cast, image, equal_nan=cast.dtype.kind == "f"):
        raise MalformedTiff(
            "the compressed image has samples that do not fit the type in the tags",
            tag="BitsPerSample (258), SampleFormat (339)",
            got=image.dtype,
            expected=dtype,
        )
    return cast


# not printable, not UTF-8, and not the start of any compression in TIFF
MAGIC = b"\x93tiffref\r\n\x1a\n\x00\xf6\xe5\x01"
"""First 16 bytes of a self-describing chunk."""

_LENGTH = struct.Struct("<I")
_HEADER = len(MAGIC) + _LENGTH.size


def wrap_inlined(codec: SegmentCodec, data: Any) -> bytes:
    """Build a self-describing chunk from a segment and its codec."""
    config = json.dumps(codec.to_config(), separators=(",", ":"), sort_keys=True).encode()
    return b"".join((MAGIC, _LENGTH.pack(len(config)), config, data))


def split_inlined(codec: SegmentCodec, data: Any) -> tuple[SegmentCodec, memoryview]:
    """Split a chunk into codec and segment.

    Parameters
    ----------
    codec
        The codec of the array.
    data
        The chunk.

    Returns
    -------
    codec, data
        The chunk's own codec and segment if it is self-describing, else the arguments.

    Raises
    ------
    InvalidReferences
        If the chunk's own codec is malformed, or does not match the array's shape and dtype.
    """
    view = memoryview(data).cast("B")
    if view[: len(MAGIC)] != MAGIC:
        return codec, view
    try:
        (length,) = _LENGTH.unpack_from(view, len(MAGIC))
        config = json.loads(bytes(view[_HEADER : _HEADER + length]))
        own = SegmentCodec.from_config(config)
    except (struct.error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidReferences(f"self-describing chunk is malformed: {error}") from error
    if (own.n_samples, own.dtype) != (codec.n_samples, codec.dtype):
        raise InvalidReferences(
            "self-describing chunk has another shape or dtype than its array",
            got=f"{own.dtype} {own.shape}",
            expected=f"{codec.dtype} {codec.shape}",
        )
    return own, view[_HEADER + length :]


def decode_segment(codec: SegmentCodec, data: Any, out: NDArray | None = None) -> NDArray:
    """Decode one segment; see `SegmentDecoder`, which decodes many of one codec faster."""
    return SegmentDecoder(codec).decode(data, out)


class SegmentDecoder:
    """Decoder of the segments of one codec; the preparation is done once.

    Parameters
    ----------
    codec
        Codec of the segments.

    Raises
    ------
    UnsupportedTiff
        If there is no decoder for such segments.
    MalformedTiff
        If they have a negative size.
    """

    def __init__(self, codec: SegmentCodec) -> None:
        check_supported(codec)
        if min(codec.shape) < 0:
            raise MalformedTiff("a segment has a negative size", got=codec.shape)
        self.codec = codec
        self.row = compression_of(codec.compression)
        self.dtype = np.dtype(codec.dtype).newbyteorder("=")
        self.layout: Layout | None = None
        self.is_as_stored = False
        """Whether the decompressed bytes are the samples."""
        self.has_end: Callable[[Any], bool] | None = None
        """Whether a stream has its end, if its decoder would make up what is missing."""
        # NDPI's segments are intervals of a stream, whose decoder checks their ends
        if not {"accepts_truncated", "jpeg_header"} & codec.parameters.keys():
            self.has_end = find_end_check(codec)
        # a bit of a bilevel image becomes a byte; the last strip may be short
        is_stored_whole = codec.compression == 1 and codec.edge is None
        self.max_expansion = 8 if is_stored_whole else MAX_EXPANSION
        self._n_bytes = codec.n_samples * self.dtype.itemsize
        self._uncalibrated: SegmentDecoder | None = None
        stored = stored_codec(codec)
        if stored is not codec:
            self._uncalibrated = SegmentDecoder(stored)
        elif self.row.kind == "bytes":
            self.layout = layout_of(codec)
            is_in_order = codec.byteorder == _NATIVE or self.dtype.itemsize == 1
            is_whole = self.layout.unpack is None and codec.predictor in NO_PREDICTOR
            self.is_as_stored = is_whole and is_in_order

    def check_stored(self, n_stored: int) -> None:
        """Refuse a segment with too few bytes; errors as in `guard.check_expansion`."""
        check_expansion(n_stored, self._n_bytes, self.max_expansion, _SIZE_TAGS)

    def decode(self, data: Any, out: NDArray | None = None) -> NDArray:
        """Decode one segment.

        Parameters
        ----------
        data
            The stored bytes, any buffer.
        out
            Array of `codec.shape` for the samples; without a copy if it is contiguous and has the
            dtype of `codec` in native byte order.

        Returns
        -------
        samples
            `out`, or a new array of `codec.shape` and `codec.dtype` in native byte order.

        Raises
        ------
        MalformedTiff
            If the bytes do not decode as such a segment.
        """
        self.check_stored(len(data))
        codec = self.codec
        if self._uncalibrated is not None:
            _, power, scale = codec.parameters["calibration"]
            samples = self._uncalibrated.decode(data)
            return _copy_to(out, samples.astype(np.float32) ** int(power) * float(scale))
        is_direct = out is not None and out.dtype == self.dtype and out.flags.c_contiguous
        target = out if is_direct else np.empty(codec.shape, self.dtype)
        assert target is not None
        try:
            _DECODERS[self.row.kind](self, data, target.reshape(codec.shape))
        except DECODING_ERRORS as error:
            if isinstance(error, TiffrefError):
                raise
            raise MalformedTiff(
                f"segment does not decode as {self.row.name}: {error}",
                tag="Compression (259)",
                got=f"{len(data)} bytes",
                expected=f"{codec.dtype} samples of shape {codec.shape}",
            ) from error
        return target if is_direct else _copy_to(out, target)


def _copy_to(out: NDArray | None, samples: NDArray) -> NDArray:
    """Copy samples to `out` and return it; without `out`, return the samples."""
    if out is None:
        return samples
    out[...] = samples.reshape(out.shape)
    return out


def undo_transposes(codec: SegmentCodec, samples: NDArray) -> NDArray:
    """Return a view of a segment's samples, shape `codec.shape`, with the axes of the chunk."""
    for order in reversed(codec.transposes):
        n_fixed = samples.ndim - len(order)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        samples = samples.transpose(*range(n_fixed), *(n_fixed + axis for axis in inverse))
    return samples


def decodes(codec: SegmentCodec, data: Any) -> bool:
    """Return whether bytes decode as a segment of this codec; parameters as in `decode_segment`.

    Raises
    ------
    UnsupportedTiff
        If there is no decoder for such segments.
    """
    try:
        decode_segment(codec, data)
    except MalformedTiff:
        return False
    return True


def runs_short(codec: SegmentCodec, data: bytes, n_rows: int) -> bool:
    """Return whether a segment is truncated, so that its decoder invents samples.

    Decoders of JPEG, JPEG XR and fax silently continue if a stream ends too early. If other bytes
    are appended, they return other samples; a complete stream is not read beyond its end. Only the
    first `n_rows` rows count: fax decoders always invent those of a strip below the image.

    Raises
    ------
    MalformedTiff
        If the bytes do not decode at all.
    """
    codec = accepting_truncated(codec)

    def decode(stream: bytes) -> NDArray:
        return decode_segment(codec, stream)[:, :n_rows]

    samples = decode(data)
    if compression_of(codec.compression).kind != "image":
        return False
    has_end = find_end_check(codec)
    if has_end and not has_end(data):
        return not _is_whole(decode, data, samples)
    tails = (in_first_bit_order(tail, codec.fill_order) for tail in _TAILS)
    return not all(_decodes_to(decode, bytes(data) + tail, samples) for tail in tails)


def decoder_name(codec: SegmentCodec) -> str:
    """Return the name of the decoder of a compression, "" if it has none."""
    return getattr(compression_of(codec.compression).decode, "__name__", "")


def find_end_check(codec: SegmentCodec) -> Callable[[Any], bool] | None:
    """Return the check for the end of a stream, if its decoder would make up what is missing."""
    return HAVE_END.get(decoder_name(codec))


def accepting_truncated(codec: SegmentCodec) -> SegmentCodec:
    """Return a codec that decodes truncated streams as far as they go."""
    if find_end_check(codec) is None:
        return codec
    return replace(codec, parameters={**codec.parameters, "accepts_truncated": True})


def check_not_truncated(decode: Callable[[bytes], NDArray], data: Any, image: NDArray) -> None:
    """Raise if a stream without its end lacks samples, as `runs_short` finds out.

    Raises
    ------
    ValueError
        If its decoder made up samples.
    """
    if not _is_whole(decode, data, image):
        raise ValueError("the stream ends before its last sample")


def _is_whole(decode: Callable[[bytes], NDArray], data: Any, samples: NDArray) -> bool:
    """Return whether a stream without its end has all samples, by those of changed streams."""
    if 0 < stream_end(data) <= len(data):
        return _is_read_to_its_end(decode, bytes(data[: stream_end(data)]), samples)
    is_jpeg = data[:2] == START_OF_JPEG
    if is_jpeg and not has_one_scan(data):
        return False  # it may end between two scans
    start = _written_part(data)
    tails = (*_TAILS, *_RESTARTS) if is_jpeg else _TAILS
    return all(_decodes_to(decode, start + tail, samples) for tail in tails)


def _is_read_to_its_end(decode: Callable[[bytes], NDArray], data: bytes, samples: NDArray) -> bool:
    """Return whether a stream of WebP or JPEG XR that ends in zeros is whole, and they are codes.

    Zeros of a part that was never written are other codes: they end earlier, or not at all. Of
    lossless WebP they may end there, but whole streams have three at most.
    """
    if data[12:16] == b"VP8L":
        return False
    if not all(_decodes_to(decode, data + tail, samples) for tail in _TAILS[:3]):
        return False
    if data.startswith(START_OF_JPEGXR) and any(n % 16 for n in image_size("jpegxr", data) or ()):
        return True  # codes of blocks outside the image change no samples
    start = data[:-N_LAST_ZEROS]
    return not all(_decodes_to(decode, start + tail[:N_LAST_ZEROS], samples) for tail in _TAILS[:3])


_MAX_LAST_ZEROS = 4
"""Zeros at the end of a complete stream of JPEG XR."""


def _written_part(data: Any) -> bytes:
    """Return a stream without the zeros of a part that was never written.

    JPEG does not end in zeros; about one of seven JPEG XR streams ends in one.
    """
    start = bytes(data)
    n_zeros = 0 if start.startswith(START_OF_JPEG) else _MAX_LAST_ZEROS
    start = start[: len(start.rstrip(b"\0")) + n_zeros]
    return start + b"\0" if start.endswith(b"\xff") else start


def lacks_end(codec: SegmentCodec, data: bytes) -> bool:
    """Return whether a segment that decodes is a zlib stream without its final checksum."""
    if compression_of(codec.compression).decode is not deflate:
        return False
    inflater = zlib.decompressobj()
    n_bytes = codec.n_samples * np.dtype(codec.dtype).itemsize
    try:
        inflater.decompress(in_first_bit_order(data, codec.fill_order), n_bytes + 1)
    except zlib.error:  # after the samples, where the decoder does not read
        return False
    return not inflater.eof and not inflater.unconsumed_tail


def has_surplus(codec: SegmentCodec, data: bytes) -> bool:
    """Return whether a segment that decodes holds more samples than its codec has."""
    row = compression_of(codec.compression)
    if row.kind == "image":
        size = image_size(decoder_name(codec), data) or (0, 0)
        return size[0] > math.prod(codec.shape[:2]) + _MAX_BLOCK_ROWS
    if row.decode is None or codec.compression == 1:
        return False
    stored = stored_codec(codec)
    buffer = np.empty(layout_of(stored).stored_bytes(stored, stored.shape) + MAX_SURPLUS, np.uint8)
    try:
        return bool(row.decode(in_first_bit_order(data, codec.fill_order), buffer) == buffer.size)
    except DECODING_ERRORS:
        return False


MAX_SURPLUS = 8
"""Bytes; LZW without an end code decodes to one byte more."""
_MAX_BLOCK_ROWS = 32
"""Rows of the largest block of JPEG, to which an image may be padded."""


def _tails() -> Iterator[bytes]:
    """Yield bytes to append to a stream that may be truncated.

    A stream is truncated within a code, and different codes may give the same samples, so many
    continuations are needed. The last pixels of a fax line differ only for a code of an empty run.
    """
    for seed in range(6):  # 0xFF would begin a marker of JPEG
        yield shake_128(bytes([seed])).digest(4096).replace(b"\xff", b"\xaa")
    yield from (bytes(4096), b"\xff" * 4096)
    empty_runs = "00110101", "0000110111"  # white, black: ITU-T T.4, table 2
    for end in sorted({code[n:] for code in empty_runs for n in range(len(code))}):
        bits = (end + "110111" * 6000)[: 8 * 4096]  # and runs of 2 pixels
        yield int(bits, 2).to_bytes(4096, "big")


_TAILS = tuple(_tails())
_RESTARTS = tuple(
    b"".join(b"\xff%c" % (0xD0 + (first + n) % 8) + _TAILS[0][:256] for n in range(8))
    for first in (0, 4)
)
"""Intervals of all restart markers, for JPEG streams that end between two. A decoder skips markers
up to the next one, but not the two after it."""


def _decodes_to(decode: Callable[[bytes], NDArray], stream: bytes, samples: NDArray) -> bool:
    try:
        return np.array_equal(decode(stream), samples, equal_nan=samples.dtype.kind in "fc")
    except DECODING_ERRORS:
        return False


def decode_chunk(codec: SegmentCodec, data: Any, out: NDArray | None = None) -> NDArray:
    """Decode one chunk: a segment, or a self-describing chunk.

    Parameters, result and errors as in `decode_segment`; `InvalidReferences` for a self-describing
    chunk that does not match its array.
    """
    own, segment = split_inlined(codec, data)
    if own is codec:
        return decode_segment(codec, segment, out)
    return _copy_to(out, decode_segment(own, segment).reshape(codec.shape))


def in_first_bit_order(data: Any, fill_order: int) -> Any:
    """Return stored bytes with their bits in the order of FillOrder 1 (tag 266)."""
    return imagecodecs.bitorder_decode(bytes(data)) if fill_order == 2 else data


def _decode_bytes(decoder: SegmentDecoder, data: Any, target: NDArray) -> None:
    """Decompress, unpack and undo the predictor into `target`."""
    codec, layout, decompress = decoder.codec, decoder.layout, decoder.row.decode
    assert layout is not None and decompress is not None
    data = in_first_bit_order(data, codec.fill_order)
    if layout.unpack is None:
        buffer = target.reshape(-1).view(np.uint8)
    else:
        # blocks of subsampled YCbCr may be larger than the segment
        n_packed = layout.stored_bytes(codec, codec.shape)
        check_expansion(len(data), n_packed, decoder.max_expansion, _SIZE_TAGS)
        buffer = np.empty(n_packed, np.uint8)
    n_bytes = decompress(data, buffer)
    is_whole = n_bytes == buffer.size
    if is_whole and decoder.is_as_stored:
        return
    shape = codec.shape
    if not is_whole:
        shape = _find_shape(codec, n_bytes, lambda shape: layout.stored_bytes(codec, shape))
    if layout.unpack is None:
        samples = target.reshape(-1)[: math.prod(shape)].reshape(shape)
        # the floating-point predictor has its own byte order
        if codec.byteorder != _NATIVE and codec.predictor not in FLOATING_POINT:
            samples.byteswap(inplace=True)
    else:
        samples = layout.unpack(codec, buffer[: layout.stored_bytes(codec, shape)], shape)
    if not layout.is_unpredicted:
        samples = unpredict(codec, samples)
    _pad_into(target, samples, codec.fill)


def _decode_image(decoder: SegmentDecoder, data: Any, target: NDArray) -> None:
    """Decode an image into `target`, without a copy if it has the size of the segment."""
    codec, row, decode = decoder.codec, decoder.row, decoder.row.decode
    assert decode is not None
    if row.has_fill_order:
        data = in_first_bit_order(data, codec.fill_order)
    try:
        image = decode(codec, data, target)
    except ValueError:
        # the size or dtype differs from that of the segment; nothing has been decoded yet
        check_image(decode.__name__, bytes(data), math.prod(codec.shape[:3]))
        image = decode(codec, data, None)
    if decoder.has_end is not None and not decoder.has_end(data):
        check_not_truncated(lambda stream: decode(codec, stream, None), data, image)
    if image is not target and not np.shares_memory(image, target):
        _pad_into(target, fit_image(codec, image), codec.fill)
    elif target.dtype == np.bool_:
        target[...] = cast_samples(target.view(np.uint8), target.dtype)


_SIZE_TAGS = "ImageWidth (256), ImageLength (257), RowsPerStrip (278)"
_NATIVE = "<" if sys.byteorder == "little" else ">"
_DECODERS = {"bytes": _decode_bytes, "image": _decode_image}
