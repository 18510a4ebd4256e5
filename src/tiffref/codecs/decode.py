"""Decode one TIFF segment: the bytes as they lie in the file become an array of samples.

Owns the order of the steps (bits turned, decompressed, unpacked, predictor undone, fitted into the
chunk), the errors of segments that do not hold what their codec says, and the shapes in which a
segment may be stored other than whole: the last strip, which ends with the image, and tiles at the
right and lower edge that writers crop. Decompressing is in `decoders`, samples in `unpack`; which
decoder serves which compression is in `table`.

A chunk whose decoding differs from that of its array is inlined together with its codec: 16 fixed
bytes, the length of a JSON text (uint32, little-endian), the JSON of `SegmentCodec.to_config()`,
and the segment as it lies in the file.

Parameters of a codec (`SegmentCodec.parameters`), all optional:

=====================  ============================================================================
jpeg_tables            bytes of JPEGTables (tag 347)
jpeg_header            bytes that precede each tile's entropy-coded data (NDPI)
jpeg_process           int, marker of the JPEG frame header (`guard.jpeg_frame`) where it is none
                       of 0xC0 to 0xC2: it keeps lossless JPEG away from codecs of others
colorspace,            JPEG colour spaces, from `table.jpeg_colorspaces`
outcolorspace
ends_exactly           True: what imagecodecs makes of LZW is just as long as the segment
lerc_mask              "nan" or "alpha": what the mask of a LERC image stands for
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
from hashlib import shake_128
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidReferences, MalformedTiff, TiffrefError
from ..model.codec import SegmentCodec
from .decoders import deflate
from .guard import DECODING_ERRORS, check_expansion, check_image, least_stored_bytes
from .table import check_supported, compression_of
from .unpack import FLOATING_POINT, NO_PREDICTOR, Layout, Shape, layout_of, stored_codec, unpredict


def _find_shape(codec: SegmentCodec, n_bytes: int, stored_bytes: Callable[[Shape], int]) -> Shape:
    """Return the shape in which a segment is stored that is decompressed to so many bytes.

    `stored_bytes` gives the bytes that a segment of a shape takes; those found are already cut to
    those of a full segment.
    """
    for shape in _stored_shapes(codec):
        expected = stored_bytes(shape)
        # the last strip may have bytes behind it: padding, or what LZW without its end code gives
        row = stored_bytes((1, 1, *shape[2:]))
        is_end = shape != codec.shape and codec.edge is not None and codec.edge[2] == codec.shape[2]
        if n_bytes == expected or (is_end and 0 <= n_bytes - expected < row):
            return shape
    raise MalformedTiff(
        "segment does not hold the samples of its image",
        tag="Compression (259)",
        got=f"{n_bytes} bytes decompressed",
        expected=" or ".join(str(stored_bytes(shape)) for shape in _stored_shapes(codec)),
    )


def has_twin_edges(codec: SegmentCodec, stored_bytes: Callable[[Shape], int]) -> bool:
    """Return whether cropped tiles of the right edge have the bytes of those of the lower edge."""
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
    """Get the shapes that a segment may be stored in: whole, cropped at the lower edge, the right
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


def cast_samples(image: NDArray, dtype: np.dtype) -> NDArray:
    """Return decoded samples in the type that they should have, in the machine's byte order.

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
    is_integer = image.dtype.kind in "iu" and dtype.kind in "iu"
    is_same = is_integer and image.dtype.itemsize == dtype.itemsize
    is_exact = is_same or np.can_cast(image.dtype, dtype)
    if dtype == np.bool_:
        image = image // max(1, image.max(initial=0))  # some decoders give 255 for 1
    if not is_exact and not np.array_equal(cast, image, equal_nan=cast.dtype.kind == "f"):
        raise MalformedTiff(
            "image in the segment has samples that their type cannot hold",
            tag="BitsPerSample (258), SampleFormat (339)",
            got=image.dtype,
            expected=dtype,
        )
    return cast


# not printable, not UTF-8, and no start of any compression that TIFF knows
MAGIC = b"\x93tiffref\r\n\x1a\n\x00\xf6\xe5\x01"
"""First 16 bytes of a chunk that says itself how it decodes."""

_LENGTH = struct.Struct("<I")
_HEADER = len(MAGIC) + _LENGTH.size


def wrap_inlined(codec: SegmentCodec, data: Any) -> bytes:
    """Put a segment and its codec into one self-describing chunk."""
    config = json.dumps(codec.to_config(), separators=(",", ":"), sort_keys=True).encode()
    return b"".join((MAGIC, _LENGTH.pack(len(config)), config, data))


def split_inlined(codec: SegmentCodec, data: Any) -> tuple[SegmentCodec, memoryview]:
    """Take a chunk apart.

    Parameters
    ----------
    codec
        The codec of the array that the chunk is in.
    data
        The chunk.

    Returns
    -------
    codec, data
        The chunk's own codec and segment if it is self-describing, else what was given.

    Raises
    ------
    InvalidReferences
        If the chunk's own codec does not give samples of the array's shape and type, or is garbled.
    """
    view = memoryview(data).cast("B")
    if view[: len(MAGIC)] != MAGIC:
        return codec, view
    try:
        (length,) = _LENGTH.unpack_from(view, len(MAGIC))
        config = json.loads(bytes(view[_HEADER : _HEADER + length]))
        own = SegmentCodec.from_config(config)
    except (struct.error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidReferences(f"self-describing chunk is garbled: {error}") from error
    if (own.n_samples, own.dtype) != (codec.n_samples, codec.dtype):
        raise InvalidReferences(
            "self-describing chunk is of another shape or type than its array",
            got=f"{own.dtype} {own.shape}",
            expected=f"{codec.dtype} {codec.shape}",
        )
    return own, view[_HEADER + length :]


def decode_segment(codec: SegmentCodec, data: Any, out: NDArray | None = None) -> NDArray:
    """Decode one segment; see `SegmentDecoder`, which decodes many of one codec faster."""
    return SegmentDecoder(codec).decode(data, out)


class SegmentDecoder:
    """Decodes segments of one codec: what does not depend on their bytes is found out once.

    Parameters
    ----------
    codec
        How they decode.

    Raises
    ------
    UnsupportedTiff
        If nothing decodes such segments.
    """

    def __init__(self, codec: SegmentCodec) -> None:
        check_supported(codec)
        self.codec = codec
        self.row = compression_of(codec.compression)
        self.dtype = np.dtype(codec.dtype).newbyteorder("=")
        self.layout: Layout | None = None
        self.is_as_stored = False
        """Decompressed bytes are the samples as they stand."""
        self._least = least_stored_bytes(codec)
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
        """Refuse a segment of so few bytes, as `guard.check_expansion`, before it gets memory."""
        if n_stored < self._least:
            check_expansion(self.codec, n_stored)

    def decode(self, data: Any, out: NDArray | None = None) -> NDArray:
        """Decode one segment.

        Parameters
        ----------
        data
            The stored bytes, any buffer.
        out
            Array of `codec.shape` that the samples are written to; decoded into directly where it
            is contiguous and of the native type of `codec`.

        Returns
        -------
        samples
            `out`, or a new array of `codec.shape` and the native form of `codec.dtype`.

        Raises
        ------
        MalformedTiff
            If the bytes are not such a segment.
        """
        self.check_stored(len(data))
        codec = self.codec
        if self._uncalibrated is not None:
            # stored samples become the measured quantity, as float32
            _, power, scale = codec.parameters["calibration"]
            samples = self._uncalibrated.decode(data)
            return _put(samples.astype(np.float32) ** int(power) * float(scale), out)
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
        return target if is_direct else _put(target, out)


def _put(samples: NDArray, out: NDArray | None) -> NDArray:
    """Return samples, or `out` filled with them."""
    if out is None:
        return samples
    out[...] = samples.reshape(out.shape)
    return out


def undo_transposes(codec: SegmentCodec, samples: NDArray) -> NDArray:
    """Return a view of a segment's samples, of `codec.shape`, with the axes of the chunk."""
    for order in reversed(codec.transposes):
        lead = samples.ndim - len(order)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        samples = samples.transpose(*range(lead), *(lead + axis for axis in inverse))
    return samples


def decodes(codec: SegmentCodec, data: Any) -> bool:
    """Return whether bytes are a segment of this codec; parameters as in `decode_segment`.

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


def runs_short(codec: SegmentCodec, data: bytes, n_rows: int) -> bool:
    """Return whether the decoder of an image makes up samples for bytes that are not there.

    `n_rows` are in the image; of those below it in a strip, fax decoders make up what is not there.

    Decoders of JPEG, JPEG XR and fax go on without a word where a stream ends too early. With other
    bytes behind it, they give other samples; a stream that is whole is not read beyond its end.

    Raises
    ------
    MalformedTiff
        If the bytes do not decode at all.
    """
    samples = decode_segment(codec, data)[:, :n_rows]
    if compression_of(codec.compression).kind != "image":
        return False
    tails = (in_first_bit_order(tail, codec.fill_order) for tail in _TAILS)
    return not all(_decodes_to(codec, bytes(data) + tail, samples) for tail in tails)


def lacks_end(codec: SegmentCodec, data: bytes) -> bool:
    """Return whether a segment that decodes is a zlib stream without its last bytes, a checksum."""
    if compression_of(codec.compression).decode is not deflate:
        return False
    inflater = zlib.decompressobj()
    most = codec.n_samples * np.dtype(codec.dtype).itemsize
    inflater.decompress(in_first_bit_order(data, codec.fill_order), most + 1)
    return not inflater.eof and not inflater.unconsumed_tail


def _tails() -> Iterator[bytes]:
    """Make bytes to put behind a stream.

    A cut is within a code, and codes that mean the same give the same samples: each bit has to go
    on with any other. The last pixels of a fax line differ only if the code is one of an empty run.
    """
    for seed in range(6):  # 0xFF would begin a marker of JPEG
        yield shake_128(bytes([seed])).digest(4096).replace(b"\xff", b"\xaa")
    yield from (bytes(4096), b"\xff" * 4096)
    empty_runs = "00110101", "0000110111"  # white, black: ITU-T T.4, table 2
    for end in sorted({code[n:] for code in empty_runs for n in range(len(code))}):
        bits = (end + "110111" * 6000)[: 8 * 4096]  # and runs of 2 pixels
        yield int(bits, 2).to_bytes(4096, "big")


_TAILS = tuple(_tails())


def _decodes_to(codec: SegmentCodec, data: bytes, samples: NDArray) -> bool:
    try:
        found = decode_segment(codec, data)[:, : samples.shape[1]]
    except MalformedTiff:
        return False
    return np.array_equal(found, samples, equal_nan=samples.dtype.kind in "fc")


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
    return samples if out is None else out if view is not None else _put(samples, out)


def in_first_bit_order(data: Any, fill_order: int) -> Any:
    """Return stored bytes with their bits in the order of FillOrder 1 (tag 266)."""
    return imagecodecs.bitorder_decode(bytes(data)) if fill_order == 2 else data


def _decode_bytes(decoder: SegmentDecoder, data: Any, target: NDArray) -> None:
    """Decompress, unpack and unpredict into `target`."""
    codec, layout, decompress = decoder.codec, decoder.layout, decoder.row.decode
    assert layout is not None and decompress is not None
    data = in_first_bit_order(data, codec.fill_order)
    if layout.unpack is None:
        buffer = target.reshape(-1).view(np.uint8)
    else:
        # blocks of subsampled colours may be larger than the segment
        n_packed = layout.stored_bytes(codec, codec.shape)
        check_expansion(codec, len(data), n_packed)
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
        # the floating-point predictor orders bytes by itself
        if codec.byteorder != _NATIVE and codec.predictor not in FLOATING_POINT:
            samples.byteswap(inplace=True)
    else:
        samples = layout.unpack(codec, buffer[: layout.stored_bytes(codec, shape)], shape)
    if not layout.is_unpredicted:
        samples = unpredict(codec, samples)
    _pad_into(target, samples, codec.fill)


def _decode_image(decoder: SegmentDecoder, data: Any, target: NDArray) -> None:
    """Decode an image into `target`, directly where it is as large as the segment."""
    codec, row, decode = decoder.codec, decoder.row, decoder.row.decode
    assert decode is not None
    if row.fill_order == "first":
        data = in_first_bit_order(data, codec.fill_order)
    try:
        image = decode(codec, data, target)
    except ValueError:
        # another size or type than the segment's, found out before anything was decoded
        check_image(decode.__name__, bytes(data), math.prod(codec.shape[:3]))
        image = decode(codec, data, None)
    if image is not target and not np.shares_memory(image, target):
        _pad_into(target, fit_image(codec, image), codec.fill)
    elif target.dtype == np.bool_:
        target[...] = cast_samples(target.view(np.uint8), target.dtype)


_NATIVE = "<" if sys.byteorder == "little" else ">"
_DECODERS = {"bytes": _decode_bytes, "image": _decode_image}
