"""Decode segments that only libtiff can, by wrapping one segment as a TIFF of its own.

Owns the smallest TIFF in memory that holds one strip with the tags its decoder looks at, and which
of them each compression needs. libtiff comes with imagecodecs. The size of the image in the
wrapping is that of the segment, so that nothing larger is ever decoded.

References: TIFF 6.0 sections 2 (file structure), 10, 11 (CCITT), 20, 21 (RGB, YCbCr), 22 (old-style
JPEG); TIFF Technical Note 2; libtiff's html documentation for SGILog and PixarLog.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..model.codec import SegmentCodec
from . import images

__all__ = ["ccitt", "libtiff", "old_jpeg", "ycbcr_to_rgb"]

_SHORT, _LONG, _RATIONAL = 3, 4, 5
_FORMATS = {_SHORT: "H", _LONG: "I", _RATIONAL: "I"}

Tag = tuple[int, int, Sequence[int]]
"""(number, type, values); a rational is two values."""


def ccitt(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode CCITT modified Huffman, Group 3 (one- and two-dimensional) or Group 4.

    Parameters used: `t4_options` (tag 292), `t6_options` (tag 293). Broken lines come out as
    libtiff gives them; a stream that libtiff refuses is tried with a second decoder.
    """
    tags = _option_tags(codec, {"t4_options": 292, "t6_options": 293})
    try:
        return _decode_strip(codec, data, tags)
    except RuntimeError:
        return _ccitt_without_libtiff(codec, data)


def libtiff(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode a compression that libtiff knows and that needs no tags of its own."""
    samples = _decode_strip(codec, data)
    dtype = np.dtype(codec.dtype)
    # SGILog: libtiff calls its signed logarithms unsigned
    is_sign_lost = samples.dtype.kind == "u" and dtype.kind == "i"
    return samples.view(f"i{samples.itemsize}") if is_sign_lost else samples


def old_jpeg(codec: SegmentCodec, data: Any, out: NDArray | None) -> NDArray:
    """Decode old-style JPEG (compression 6).

    A segment that is a JPEG stream with its own tables decodes as JPEG. Else libtiff puts the
    stream together from the parameters `ojpeg_interchange` (bytes from JPEGInterchangeFormat on),
    `ojpeg_q_tables`, `ojpeg_dc_tables`, `ojpeg_ac_tables` (bytes of the tables of all components,
    one behind the other), `ojpeg_restart_interval`, `ojpeg_proc`, `ojpeg_scan_header`
    (`headers.scan_header` of the first segment, which some writers put there only), `subsampling`,
    `ycbcr_coefficients` and `reference_black_white`; YCbCr becomes RGB.
    """
    if bytes(data[:2]) == b"\xff\xd8" and images.has_tables(data):
        return images.jpeg(codec, data, out)
    blobs = {
        number: _split_tables(name, codec.parameters[name])
        for name, number in _OJPEG_TABLES.items()
        if codec.parameters.get(name)
    }
    tags = _option_tags(codec, {"ojpeg_proc": 512, "ojpeg_restart_interval": 515})
    if not any(number == 512 for number, _, _ in tags):
        tags.append((512, _SHORT, [1]))
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

    That includes a fault of libtiff 4.7, which every decoder built on it shares: with subsampling
    4 x 4 and an odd number of blocks across, it rounds the bytes of a row down, so that the last
    block or two of the strip read as zeros (dark green).

    Parameters
    ----------
    codec
        Parameters used: `subsampling` (tag 530), `ycbcr_coefficients` (tag 529) and
        `reference_black_white` (tag 532).
    data
        Blocks of luma samples, each with its two chroma samples behind it.
    rows, columns
        Of the image, which may end within a block.

    Returns
    -------
    rgb
        `(rows, columns, 3)`.

    Raises
    ------
    RuntimeError
        If libtiff does not know the subsampling: it knows 1, 2 and 4 across with at most as many
        down, and 1 across with 2 down.
    """
    whole = SegmentCodec((1, rows, columns, 3), "|u1", photometric=6, parameters=codec.parameters)
    return _decode(whole, data, rows, _color_tags(whole), as_rgb=True)


# without JPEGInterchangeFormat, the tables; each entry is an offset to bytes in the file
_OJPEG_TABLES = {
    "ojpeg_interchange": 513,
    "ojpeg_q_tables": 519,
    "ojpeg_dc_tables": 520,
    "ojpeg_ac_tables": 521,
}


def _split_tables(name: str, tables: bytes) -> list[bytes]:
    """Give tables one by one: quantization has 64 bytes, Huffman 16 counts and their values."""
    if name == "ojpeg_interchange":
        return [tables]
    found = []
    position = 0
    while position < len(tables):
        size = 64 if name == "ojpeg_q_tables" else 16 + sum(tables[position : position + 16])
        found.append(tables[position : position + size])
        position += size
    return found


def _option_tags(codec: SegmentCodec, numbers: Mapping[str, int]) -> list[Tag]:
    kinds = {292: _LONG, 293: _LONG}
    return [
        (number, kinds.get(number, _SHORT), [codec.parameters[name]])
        for name, number in numbers.items()
        if codec.parameters.get(name) is not None
    ]


def _color_tags(codec: SegmentCodec) -> list[Tag]:
    tags: list[Tag] = [(530, _SHORT, list(codec.parameters.get("subsampling", (2, 2))))]
    for name, number in (("ycbcr_coefficients", 529), ("reference_black_white", 532)):
        values = codec.parameters.get(name)
        if values is not None:
            ratios = [Fraction(value).limit_denominator(1 << 20) for value in values]
            pairs = [part for ratio in ratios for part in (ratio.numerator, ratio.denominator)]
            tags.append((number, _RATIONAL, pairs))
    return tags


def _rows_of(codec: SegmentCodec) -> int:
    return codec.shape[0] * codec.shape[1]


def _ccitt_without_libtiff(codec: SegmentCodec, data: Any) -> NDArray:
    stored: Any = bytes(data)
    if codec.fill_order == 2:
        stored = imagecodecs.bitorder_decode(stored)
    rows, columns = _rows_of(codec), codec.shape[2]
    if codec.compression == 2:
        return imagecodecs.ccittrle_decode(stored, rows, columns)
    if codec.compression == 3:
        options = codec.parameters.get("t4_options", 0)
        return imagecodecs.ccittfax3_decode(stored, rows, columns, t4options=options)
    return imagecodecs.ccittfax4_decode(stored, rows, columns)


def _decode_strip(codec: SegmentCodec, data: Any, tags: Sequence[Tag] = ()) -> NDArray:
    """Decode a whole segment, or the last strip, which may hold fewer rows."""
    try:
        return _decode(codec, data, _rows_of(codec), tags)
    except RuntimeError:
        is_maybe_short = codec.edge is not None and codec.edge[2] == codec.shape[2]
        if codec.edge is None or not is_maybe_short:
            raise
        return _decode(codec, data, codec.edge[0] * codec.edge[1], tags)


def _decode(
    codec: SegmentCodec,
    data: Any,
    rows: int,
    tags: Sequence[Tag] = (),
    blobs: Mapping[int, Sequence[bytes]] | None = None,
    as_rgb: bool = False,
) -> NDArray:
    """Decode a segment of so many rows with libtiff, to its own samples or to RGB."""
    wrapped = _wrap(codec, bytes(data), rows, tags, blobs or {})
    samples = imagecodecs.tiff_decode(wrapped, asrgb=as_rgb, verbose=0)
    return np.ascontiguousarray(samples[..., :3]) if as_rgb else samples


def _wrap(
    codec: SegmentCodec,
    data: bytes,
    rows: int,
    tags: Sequence[Tag],
    blobs: Mapping[int, Sequence[bytes]],
) -> bytes:
    """Write a TIFF with one strip.

    Parameters
    ----------
    codec, data, rows
        The segment and how many rows it has.
    tags
        More tags than those every strip needs; they win over those.
    blobs
        Tag number -> what its values are offsets to.
    """
    _, _, columns, samples = codec.shape
    dtype = np.dtype(codec.dtype)
    bits = codec.bits or (1 if dtype.kind == "b" else dtype.itemsize * 8,)
    fields: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [columns]),
        257: (_LONG, [rows]),
        258: (_SHORT, list(bits) * (samples // len(bits))),
        259: (_SHORT, [codec.compression]),
        262: (_SHORT, [_photometric(codec)]),
        266: (_SHORT, [codec.fill_order]),
        273: (_LONG, [0]),
        277: (_SHORT, [samples]),
        278: (_LONG, [rows]),
        279: (_LONG, [len(data)]),
        284: (_SHORT, [1]),
        339: (_SHORT, [codec.sample_format] * samples),
    }
    fields |= {number: (kind, values) for number, kind, values in tags}
    fields |= {number: (_LONG, [0] * len(parts)) for number, parts in blobs.items()}
    return _write(codec.byteorder, fields, {273: [data], **blobs})


def _photometric(codec: SegmentCodec) -> int:
    # a palette would need its colours, and the polarity of gray does not change stored samples
    return codec.photometric if codec.photometric in _DECODING_PHOTOMETRICS else 1


_DECODING_PHOTOMETRICS = (2, 6, 32844, 32845)


def _write(
    byteorder: str,
    fields: Mapping[int, tuple[int, Sequence[int]]],
    blobs: Mapping[int, Sequence[bytes]],
) -> bytes:
    """Lay out header, IFD, values that do not fit into it, and blobs, in this order."""
    end = 8 + 2 + 12 * len(fields) + 4
    sizes = {
        number: len(values) * struct.calcsize(_FORMATS[kind])
        for number, (kind, values) in fields.items()
    }
    places = {}
    for number, size in sizes.items():
        if size > 4:
            places[number] = end
            end += size + size % 2
    offsets: dict[int, list[int]] = {}
    for number, parts in blobs.items():
        offsets[number] = []
        for part in parts:
            offsets[number].append(end)
            end += len(part) + len(part) % 2
    file = bytearray(end)
    file[:8] = struct.pack(f"{byteorder}2sHI", b"II" if byteorder == "<" else b"MM", 42, 8)
    struct.pack_into(f"{byteorder}H", file, 8, len(fields))
    for index, number in enumerate(sorted(fields)):
        kind, values = fields[number]
        raw = struct.pack(f"{byteorder}{len(values)}{_FORMATS[kind]}", *offsets.get(number, values))
        entry = 10 + 12 * index
        count = len(values) // (2 if kind == _RATIONAL else 1)
        struct.pack_into(f"{byteorder}HHI", file, entry, number, kind, count)
        place = places.get(number, entry + 8)
        if number in places:
            struct.pack_into(f"{byteorder}I", file, entry + 8, place)
        file[place : place + len(raw)] = raw
    for number, parts in blobs.items():
        for offset, part in zip(offsets[number], parts, strict=True):
            file[offset : offset + len(part)] = part
    return bytes(file)
