"""Decoders of TIFF compressions: byte streams, images, libtiff, and SGILog.

There is one function for each compression, of three kinds:

- Byte streams (deflate, LZW, PackBits, zstd, LZMA) take the stored bytes and a `(n,)` uint8 array,
  fill it from the start and return the number of bytes written. Longer streams are truncated, as
  in libtiff. Nothing is allocated beyond the buffer (or at most `HARMLESS_BYTES` if a library
  cannot stop early), so that a decompression bomb stays small.
- Images of other formats (JPEG, JPEG 2000, WebP, PNG, ...) take the codec, the stored bytes and an
  array that the image must fit, or None. FillOrder and Predictor do not apply to them (TIFF
  Technical Note 2).
- Compressions that only libtiff decodes (CCITT, old-style JPEG, PixarLog, ...) are wrapped as a
  minimal TIFF with one strip, of the size of the segment, and the tags that the decoder needs.

SGILog is decoded to the 16-bit values of libtiff and GDAL: int16 L with log2 of the luminance as
(L + 0.5) / 256 - 64 (negative L is a negative luminance), and int16 u', v' (CIE 1976) scaled by
32768. If the tags say float32, samples are libtiff's XYZ instead, and RGB if they say uint8.

Invalid streams raise the library's `RuntimeError` or `ValueError`; `codecs.decode` turns them into
a `MalformedTiff`. `codecs.unpack` interprets the decompressed bytes.

References: TIFF 6.0 sections 2 (file structure), 10, 11 (CCITT), 20, 21 (RGB, YCbCr), 22 (old-
style JPEG); TIFF Technical Note 2; libtiff's documentation of SGILog and PixarLog; G. Ward Larson,
"LogLuv encoding for full-gamut, high-dynamic range images", Journal of Graphics Tools 3(1), 1998.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..model.codec import SegmentCodec
from .guard import (
    END_OF_JPEG,
    HARMLESS_BYTES,
    START_OF_JPEG,
    clean_png,
    first_xz_stream,
    jpeg_frame,
    trim_zstd,
    zstd_bound,
)

_LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)


def jpeg(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode JPEG of 8 to 16 bits, lossy or lossless, abbreviated or with all its tables.

    Parameters used: `jpeg_tables` (tag 347), `jpeg_header` (the bytes before the restart intervals
    of NDPI, which are its tiles), `colorspace` and `outcolorspace` (see `table.jpeg_colorspaces`).
    """
    parameters = codec.parameters
    header = parameters.get("jpeg_header")
    stream = data if header is None else _join_interval(header, bytes(data))
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
        frame = jpeg_frame(bytes(stream))
        if frame is None or frame.marker not in _LOSSLESS_FRAMES:
            raise
        # libjpeg lacks some precisions and color spaces of lossless JPEG that occur in DNG
        try:
            return imagecodecs.ljpeg_decode(stream, out=out)
        except RuntimeError:
            raise error from None


def _join_interval(header: bytes, data: bytes) -> bytes:
    """Build a JPEG stream from one restart interval and the two bytes before and after it.

    Raises
    ------
    ValueError
        If the data are not exactly one restart interval.
    """
    end = _INTERVAL_END.search(data, 2)
    is_whole = end is not None and (end[0] == END_OF_JPEG or end.end() == len(data))
    if not is_whole or not (data[:2] == header[-2:] or _INTERVAL_END.match(data)):
        raise ValueError("not exactly one interval between two restart markers")
    assert end is not None
    return b"".join((header, data[2 : end.start()], END_OF_JPEG))


_INTERVAL_END = re.compile(rb"\xff[\xd0-\xd7\xd9]")


def has_tables(data: Any) -> bool:
    """Return whether a JPEG stream has its own quantization and Huffman tables."""
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
    """Decode WebP; a fully opaque alpha channel may be missing in the stream."""
    has_alpha = True if codec.shape[3] == 4 else None
    return imagecodecs.webp_decode(data, hasalpha=has_alpha, out=out)


def png(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode PNG."""
    n_bytes = math.prod(codec.shape) * np.dtype(codec.dtype).itemsize
    return imagecodecs.png_decode(clean_png(data, 16 * n_bytes + HARMLESS_BYTES), out=out)


def lerc(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode LERC; deflate or Zstandard around it (tag 50674) is recognized by its first bytes.

    Parameters used: `lerc_mask`, the meaning of the mask that libtiff stores with the samples:
    "nan" (samples that are numbers) or "alpha" (an alpha channel with values 0 and 255 only).
    For big-endian files, libtiff encodes samples with their bytes swapped.
    """
    meaning = codec.parameters.get("lerc_mask")
    if meaning is None:
        image, mask = imagecodecs.lerc_decode(data, masks=False, out=out), None
    else:
        # without alpha, the image is smaller than the segment
        out = out if meaning == "nan" else None
        image, mask = imagecodecs.lerc_decode(data, masks=True, out=out)
    if meaning == "nan" and mask is not None:
        image[~mask] = np.nan
    n_samples = codec.shape[3]
    is_by_sample = image.shape[-1] != n_samples if mask is None else mask.ndim == 3
    if is_by_sample and image.ndim == 3 and image.shape[0] == n_samples:
        image = np.moveaxis(image, 0, -1).copy()  # each sample has its own mask
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


_SHORT, _LONG, _RATIONAL = 3, 4, 5
_FORMATS = {_SHORT: "H", _LONG: "I", _RATIONAL: "I"}

Tag = tuple[int, int, Sequence[int]]
"""(number, type, values); a rational is two values."""


_CCITT_BYTES, _CCITT_WORDS = 2, 32771


def ccitt(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode CCITT modified Huffman, Group 3 (one- and two-dimensional) or Group 4.

    Parameters used: `t4_options` (tag 292), `t6_options` (tag 293). Damaged lines are decoded as in
    libtiff; a stream that libtiff rejects, as of a short strip, is decoded by imagecodecs.
    """
    names = (("t4_options", 292), ("t6_options", 293))
    given = [(number, codec.parameters.get(name)) for name, number in names]
    tags = [(number, _LONG, [value]) for number, value in given if value is not None]
    if codec.compression == _CCITT_WORDS:
        data, codec = _without_fill(codec, bytes(data)), replace(codec, compression=_CCITT_BYTES)
    if codec.compression == _CCITT_BYTES:
        data = bytes(data) + bytes(2)  # without bytes behind it, libtiff 4.7 may lose the last run
    try:
        return _decode(codec, data, _n_rows(codec), tags)
    except RuntimeError:
        stored, rows, columns = bytes(data), _n_rows(codec), codec.shape[2]
        if codec.compression == _CCITT_BYTES:
            return imagecodecs.ccittrle_decode(stored, rows, columns)
        if codec.compression == 3:
            options = codec.parameters.get("t4_options", 0)
            return imagecodecs.ccittfax3_decode(stored, rows, columns, t4options=options)
        return imagecodecs.ccittfax4_decode(stored, rows, columns)


def _without_fill(codec: SegmentCodec, data: bytes) -> bytes:
    """Remove the bytes that fill rows of modified Huffman up to words; libtiff 4.7 misreads them.

    A row ends where the codes of its runs do.
    """
    columns = codec.shape[2]
    rows: list[bytes] = []
    position = 0
    while position < len(data) and len(rows) < _n_rows(codec):
        part = data[position : position + 2 * columns + 2]  # no code has over 13 bits
        row = imagecodecs.ccittrle_decode(part + bytes(2), 1, columns)
        n_bytes = -(-_count_bits(row.reshape(-1)) // 8)
        rows.append(part[:n_bytes])
        position += n_bytes + n_bytes % 2
    return b"".join(rows)


_ENDING_BITS = (
    "86444444555566666677777777777" + 35 * "8",
    "a322344566777889aaa" + 7 * "b" + 38 * "c",
)
_MAKE_UP_BITS = (
    "055678888889999999999999996" + "9bbb" + 10 * "c",
    "0acccccc" + 20 * "d" + "bbb" + 10 * "c",
)
"""Lengths of the codes of white and black runs, as hexadecimal digits: of runs up to 63, and of
multiples of 64 up to 2560 (ITU-T T.4, tables 2 and 3)."""


def _count_bits(row: NDArray) -> int:
    """Return the bits of a row, which starts with a run of white (0), in modified Huffman."""
    edges = np.flatnonzero(np.diff(row != 0, prepend=False))
    runs = np.diff(edges, prepend=0, append=row.size).tolist()
    n_bits = 0
    for n, run in enumerate(runs):
        n_longest, rest = divmod(run, 2560)
        digits = _ENDING_BITS[n % 2][run % 64], _MAKE_UP_BITS[n % 2][rest // 64]
        n_bits += 12 * n_longest + sum(int(digit, 16) for digit in digits)
    return n_bits


def libtiff(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode a compression of libtiff that needs no special tags."""
    samples = _decode_strip(codec, data)
    dtype = np.dtype(codec.dtype)
    # libtiff returns the signed logarithms of SGILog as unsigned
    is_sign_lost = samples.dtype.kind == "u" and dtype.kind == "i"
    return samples.view(f"i{samples.itemsize}") if is_sign_lost else samples


def old_jpeg(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode old-style JPEG (compression 6).

    A segment that is a JPEG stream with its own tables is decoded as JPEG. Otherwise libtiff builds
    the stream from the parameters `ojpeg_interchange` (bytes at JPEGInterchangeFormat),
    `ojpeg_q_tables`, `ojpeg_dc_tables`, `ojpeg_ac_tables` (the concatenated tables of all
    components), `ojpeg_restart_interval`, `ojpeg_proc`, `ojpeg_scan_header` (`guard.scan_header`
    of the first segment, the only one for some writers), `subsampling`, `ycbcr_coefficients` and
    `reference_black_white`. YCbCr becomes RGB.
    """
    if bytes(data[:2]) == START_OF_JPEG and has_tables(data):
        return jpeg(codec, data, out)
    blobs = {
        number: _split_tables(name, codec.parameters[name])
        for name, number in _OJPEG_TABLES.items()
        if codec.parameters.get(name)
    }
    tags: list[Tag] = [(512, _SHORT, [codec.parameters.get("ojpeg_proc", 1)])]
    if (interval := codec.parameters.get("ojpeg_restart_interval")) is not None:
        tags.append((515, _SHORT, [interval]))
    scan_header = codec.parameters.get("ojpeg_scan_header", b"")
    if scan_header and bytes(data[:2]) != scan_header[:2]:
        data = scan_header + bytes(data)
    interchange = codec.parameters.get("ojpeg_interchange")
    if interchange:
        tags.append((514, _LONG, [len(interchange)]))
    is_color = codec.photometric == 6 and codec.shape[3] == 3
    tags += _color_tags(codec) if is_color else []
    return _decode(codec, data, codec.shape[1], tags, blobs, as_rgb=is_color)


def ycbcr_to_rgb(codec: SegmentCodec, data: bytes, rows: int, columns: int) -> NDArray[np.uint8]:
    """Convert uncompressed 8-bit YCbCr to RGB, as libtiff's RGBA interface and GDAL do.

    That includes a bug of libtiff 4.7, and so of every decoder based on it: with subsampling 4 x 4
    and an odd number of blocks per row, the bytes of a row are rounded down, and the last one or
    two blocks of the strip read as zeros (dark green).

    Parameters
    ----------
    codec
        Parameters used: `subsampling` (tag 530), `ycbcr_coefficients` (tag 529) and
        `reference_black_white` (tag 532).
    data
        Blocks of luma samples, each followed by its two chroma samples.
    rows, columns
        Size of the image, which may end within a block.

    Returns
    -------
    rgb
        `(rows, columns, 3)`.

    Raises
    ------
    RuntimeError
        If libtiff does not support the subsampling: it supports 1, 2 and 4 horizontally with at
        most as many vertically, and 1 with 2 vertically.
    """
    whole = SegmentCodec((1, rows, columns, 3), "|u1", photometric=6, parameters=codec.parameters)
    return _decode(whole, data, rows, _color_tags(whole), as_rgb=True)


# tags whose values are offsets to bytes in the file
_OJPEG_TABLES = {
    "ojpeg_interchange": 513,
    "ojpeg_q_tables": 519,
    "ojpeg_dc_tables": 520,
    "ojpeg_ac_tables": 521,
}


def _split_tables(name: str, tables: bytes) -> list[bytes]:
    """Split concatenated tables: quantization has 64 bytes, Huffman 16 counts and its values."""
    if name == "ojpeg_interchange":
        return [tables]
    parts = []
    position = 0
    while position < len(tables):
        size = 64 if name == "ojpeg_q_tables" else 16 + sum(tables[position : position + 16])
        parts.append(tables[position : position + size])
        position += size
    return parts


def _color_tags(codec: SegmentCodec) -> list[Tag]:
    tags: list[Tag] = [(530, _SHORT, list(codec.parameters.get("subsampling", (2, 2))))]
    for name, number in (("ycbcr_coefficients", 529), ("reference_black_white", 532)):
        values = codec.parameters.get(name)
        if values is not None:
            ratios = [Fraction(value).limit_denominator(1 << 20) for value in values]
            pairs = [part for ratio in ratios for part in (ratio.numerator, ratio.denominator)]
            tags.append((number, _RATIONAL, pairs))
    return tags


def _n_rows(codec: SegmentCodec) -> int:
    return codec.shape[0] * codec.shape[1]


def _decode_strip(codec: SegmentCodec, data: Any, as_rgb: bool = False) -> NDArray:
    """Decode a segment; if that fails, as the last strip, which may have fewer rows."""
    try:
        return _decode(codec, data, _n_rows(codec), as_rgb=as_rgb)
    except RuntimeError:
        if codec.edge is None or codec.edge[2] != codec.shape[2]:
            raise
        return _decode(codec, data, codec.edge[0] * codec.edge[1], as_rgb=as_rgb)


def _decode(
    codec: SegmentCodec,
    data: Any,
    rows: int,
    tags: Sequence[Tag] = (),
    blobs: Mapping[int, Sequence[bytes]] | None = None,
    as_rgb: bool = False,
) -> NDArray:
    """Decode a segment of `rows` rows with libtiff, optionally to RGB, as the strip of a TIFF.

    `tags` override the default ones; `blobs` are the data to which the values of tags are offsets.
    """
    _, _, columns, samples = codec.shape
    dtype, blobs = np.dtype(codec.dtype), blobs or {}
    bits = codec.bits or (1 if dtype.kind == "b" else dtype.itemsize * 8,)
    fields: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [columns]),
        257: (_LONG, [rows]),
        258: (_SHORT, list(bits) * (samples // len(bits))),
        259: (_SHORT, [codec.compression]),
        # a palette would need its colors, and WhiteIsZero does not change stored samples
        262: (_SHORT, [codec.photometric if codec.photometric in _DECODING_PHOTOMETRICS else 1]),
        273: (_LONG, [0]),
        277: (_SHORT, [samples]),
        278: (_LONG, [rows]),
        279: (_LONG, [len(data)]),
        284: (_SHORT, [1]),
        339: (_SHORT, [3 if dtype.kind == "f" else codec.sample_format] * samples),
    }
    fields |= {number: (kind, values) for number, kind, values in tags}
    fields |= {number: (_LONG, [0] * len(parts)) for number, parts in blobs.items()}
    tiff = _write_tiff(codec.byteorder, fields, {273: [bytes(data)], **blobs})
    decoded = imagecodecs.tiff_decode(tiff, asrgb=as_rgb, verbose=0)
    return np.ascontiguousarray(decoded[..., :3]) if as_rgb else decoded


_DECODING_PHOTOMETRICS = (2, 6, 32844, 32845)


def _write_tiff(
    byteorder: str,
    fields: Mapping[int, tuple[int, Sequence[int]]],
    blobs: Mapping[int, Sequence[bytes]],
) -> bytes:
    """Return a TIFF of header, blobs, values that do not fit in the IFD, and IFD, in this order."""
    file = bytearray(struct.pack(f"{byteorder}2sHI", b"II" if byteorder == "<" else b"MM", 42, 0))

    def append(data: bytes) -> int:
        offset = len(file)
        file.extend(data)
        file.extend(bytes(len(data) % 2))
        return offset

    offsets = {number: [append(part) for part in parts] for number, parts in blobs.items()}
    entries = [struct.pack(f"{byteorder}H", len(fields))]
    for number, (kind, values) in sorted(fields.items()):
        raw = struct.pack(f"{byteorder}{len(values)}{_FORMATS[kind]}", *offsets.get(number, values))
        if len(raw) > 4:
            raw = struct.pack(f"{byteorder}I", append(raw))
        count = len(values) // (2 if kind == _RATIONAL else 1)
        entries.append(struct.pack(f"{byteorder}HHI4s", number, kind, count, raw))
    struct.pack_into(f"{byteorder}I", file, 4, append(b"".join((*entries, bytes(4)))))
    return bytes(file)


def copy(data: Any, buffer: NDArray[np.uint8]) -> int:
    """Copy uncompressed bytes."""
    stored = np.frombuffer(data, np.uint8)[: buffer.size]
    buffer[: stored.size] = stored
    return stored.size


def deflate(data: Any, buffer: Any) -> int:
    """Inflate a zlib stream, even without its final checksum; a wrong one is an error."""
    try:
        return len(imagecodecs.deflate_decode(data, out=buffer))
    except RuntimeError:
        # libdeflate has the same error for "longer than the buffer", "no checksum" and garbage
        inflater = zlib.decompressobj()
        n_bytes = copy(inflater.decompress(data, buffer.size) if buffer.size else b"", buffer)
        # damage before it may show only in the next MiB, by the checksum at the latest
        surplus = inflater.decompress(inflater.unconsumed_tail, 1 << 20)
        if surplus and not (inflater.eof or inflater.unconsumed_tail):
            raise ValueError("the stream is longer than its segment, and has no end") from None
        return n_bytes


def lzw(data: Any, buffer: Any) -> int:
    """Decode LZW of either bit order; the old order (TIFF 5.0) is recognized by its first bytes."""
    return len(imagecodecs.lzw_decode(data, out=buffer))


def packbits(data: Any, buffer: Any) -> int:
    """Decode PackBits (TIFF 6.0, section 9) up to the last row; its last run may be longer."""
    try:
        return len(imagecodecs.packbits_decode(data, out=buffer))
    except RuntimeError:
        runs = bytes(data)
        runs = runs[: packbits_end(runs, buffer.size)]
        return copy(imagecodecs.packbits_decode(runs, out=buffer.size + 128), buffer)


def packbits_end(data: bytes, n_bytes: int) -> int:
    """Return the position at which PackBits has decoded to `n_bytes`; libtiff stops there.

    An incomplete run at the end is excluded: after a last strip of fewer rows it is just padding.
    """
    position = 0
    while n_bytes > 0 and position < len(data):
        run = data[position]
        end = position + (run + 2 if run < 128 else 2 if run > 128 else 1)
        if end > len(data):
            break
        n_bytes -= run + 1 if run < 128 else 257 - run if run > 128 else 0
        position = end
    return position


def zstd(data: Any, buffer: Any) -> int:
    """Decode Zstandard frames (RFC 8878); bytes after them are ignored, as in libtiff."""
    try:
        return len(imagecodecs.zstd_decode(data, out=buffer))
    except RuntimeError:
        frames = trim_zstd(bytes(data), buffer.size)
        n_bytes = min(zstd_bound(frames), 2 * buffer.size + HARMLESS_BYTES)
        return copy(imagecodecs.zstd_decode(frames, out=n_bytes), buffer)


def lzma(data: Any, buffer: Any) -> int:
    """Decode an xz stream; bytes after it are ignored, as in libtiff."""
    # liblzma takes more than a few bytes after the stream for another stream
    with contextlib.suppress(RuntimeError):
        if len(imagecodecs.lzma_decode(data, out=buffer)) == buffer.size:
            return buffer.size
    return copy(first_xz_stream(bytes(data), buffer.nbytes), buffer)


PHOTOMETRIC_LOGLUV = 32845
SGILOG24 = 34677

# the paper: 8-bit u', v' are steps of 1/410; 14-bit codes index squares of 0.0035 a side
_UV_SCALE = 410.0
_UV_SIDE = 0.0035
_V_START = 0.016940
_U_WHITE, _V_WHITE = 0.210526316, 0.473684211
_N_CODES = 1 << 14
_SCALE = 1 << 15


def sgilog(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode SGILog of 16 bits (LogL), 24 bits or 32 bits (LogLuv)."""
    is_luv = codec.photometric == PHOTOMETRIC_LOGLUV and codec.shape[3] == 3
    if is_luv and codec.dtype == "|u1":
        return _decode_strip(codec, data, as_rgb=True)
    if not is_luv or np.dtype(codec.dtype).kind == "f":
        return libtiff(codec, data, out)
    n_rows, n_columns = _n_rows(codec), codec.shape[2]
    if codec.compression == SGILOG24:
        stored = np.frombuffer(data, np.uint8)[: n_rows * n_columns * 3]
        high, middle, low = stored[: stored.size // 3 * 3].reshape(-1, 3).astype(np.uint32).T
        words = high << np.uint32(16) | middle << np.uint32(8) | low
        luv = np.empty((words.size, 3), np.int16)
        # converts the 10-bit logarithm (steps of 1/64, from 2**-12) to the 16-bit one; a bit of the
        # chromaticity gets into its lowest bit, as in libtiff and GDAL
        luv[:, 0] = (words >> 12 & 0xFFD) + 13314
        luv[:, 1:] = _chromaticities()[words & (_N_CODES - 1)]
        return luv.reshape(-1, n_columns, 3)
    planes = _expand_rows(bytes(data), n_rows, n_columns)
    luv = np.empty((len(planes), n_columns, 3), np.int16)
    luv[..., 0] = (planes[:, 0].astype(np.uint16) << 8 | planes[:, 1]).view(np.int16)
    for index in (1, 2):
        chromaticity = (planes[:, index + 1] + 0.5) * (1.0 / _UV_SCALE)
        luv[..., index] = (chromaticity * _SCALE).astype(np.int16)
    return luv


def _expand_rows(data: bytes, n_rows: int, n_columns: int) -> NDArray[np.uint8]:
    """Undo the run-length encoding to `(rows, 4, columns)` bytes, most significant first.

    Each row stores its four byte planes one after the other. If the stream ends early, incomplete
    rows are omitted.
    """
    planes = np.zeros((n_rows * 4, n_columns), np.uint8)
    position = 0
    for number, plane in enumerate(planes):
        column = 0
        while column < n_columns:
            if position + 1 >= len(data):
                return planes[: number // 4 * 4].reshape(-1, 4, n_columns)
            length = data[position]
            if length >= 128:
                length -= 126
                plane[column : column + length] = data[position + 1]
                position += 2
            else:
                literal = data[position + 1 : position + 1 + min(length, n_columns - column)]
                plane[column : column + len(literal)] = np.frombuffer(literal, np.uint8)
                position += 1 + length
            column += length
    return planes.reshape(-1, 4, n_columns)


@cache
def _chromaticities() -> NDArray[np.int16]:
    """Return u', v' of each 14-bit code, `(16384, 2)` int16 scaled by 32768.

    The squares that the codes index have no formula (row by row they cover the visible gamut), so
    libtiff decodes them: XYZ of each code gives u', v' up to rounding, and a row of squares starts
    at a multiple of 1e-6, which removes the rounding. libtiff stores the starts as float32.
    """
    # any luminance but zero, for which XYZ is zero
    words = (np.arange(_N_CODES, dtype=np.uint32) | 0x200 << 14).astype(">u4")
    stored = words.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    codec = SegmentCodec(
        (1, 1, _N_CODES, 3),
        "<f4",
        SGILOG24,
        bits=(16,),
        sample_format=2,
        photometric=PHOTOMETRIC_LOGLUV,
    )
    x, y, z = libtiff(codec, stored, None).reshape(-1, 3).astype(np.float64).T
    weight = x + 15 * y + 3 * z
    u, v = 4 * x / weight, 9 * y / weight
    is_white = (abs(u - _U_WHITE) < 1e-6) & (abs(v - _V_WHITE) < 1e-6)
    side = np.float64(np.float32(_UV_SIDE))
    row = np.where(is_white, np.inf, np.round((v - _V_START) / _UV_SIDE - 0.5))
    first = np.searchsorted(row, row)
    start = np.round(u[first] - _UV_SIDE / 2, 6).astype(np.float32)
    exact = np.empty((_N_CODES, 2))
    exact[:, 0] = start + (np.arange(_N_CODES) - first + 0.5) * side
    exact[:, 1] = np.float64(np.float32(_V_START)) + (row + 0.5) * side
    # codes beyond the last square
    exact[is_white] = _U_WHITE, _V_WHITE
    return (exact * _SCALE).astype(np.int16)
