"""One page of tifffile to facts.

Owns what is taken from a full page: the tags that decide how it decodes, the tables that its
decoder needs from elsewhere in the file, and its other tags as plain values.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tifffile import TiffFrame, TiffPage

from ..codecs.guard import jpeg_frame, scan_header
from ..codecs.table import JPEG, OLD_JPEG
from ..errors import MalformedTiff
from ..model.facts import IfdFacts
from .talk import PARSE_ERRORS

__all__ = ["as_sequence", "decodes_by_stream", "n_segments_of", "page_facts", "stream_key"]

_RGB = 2
_UNKEPT_TAGS = frozenset(
    {273, 279, 288, 289, 324, 325, 330, 347, 513, 514, 519, 520, 521, 65426, 65432}
)
"""Offsets and lengths, which mean nothing outside their file, and decoder tables."""

Read = Callable[[int, int], bytes]
"""(offset, length) -> bytes of the file."""


def page_facts(page: TiffPage, read: Read) -> IfdFacts:
    """Take what one IFD says from tifffile's full page.

    Parameters
    ----------
    page
        The page.
    read
        Reads the file that it lies in.

    Raises
    ------
    MalformedTiff
        If it does not say in which order the samples of a pixel are, or its tiles or strips have no
        pixels.
    """
    if page.samplesperpixel > 1 and page.planarconfig not in (1, 2):
        raise MalformedTiff(
            "the order of samples is not known",
            tag="PlanarConfiguration (284)",
            got=page.planarconfig,
            expected="1 or 2",
        )
    if 322 in page.tags and not page.is_tiled and page.imagelength * page.imagewidth:
        raise MalformedTiff("tiles have no width", tag="TileWidth (322)", got=page.tilewidth)
    bits = page.bitspersample
    tile = (page.tiledepth, page.tilelength, page.tilewidth) if page.is_tiled else None
    subsampling = page.subsampling or (
        (2, 2) if page.photometric == 6 and page.compression not in (6, 7) else (1, 1)
    )
    return IfdFacts(
        name=str(page.index) if isinstance(page.index, int) else f"@{page.offset}",
        byteorder=page.parent.byteorder,
        shape=tuple(int(n) for n in page.shaped),  # type: ignore[arg-type]
        dtype=None if page.dtype is None else np.dtype(page.dtype).str,
        compression=int(page.compression),
        predictor=int(page.predictor),
        fill_order=int(page.fillorder),
        photometric=int(page.photometric),
        bits=tuple(bits) if isinstance(bits, tuple) else (int(bits),),
        sample_format=_plain(page.sampleformat),
        tile=tile,
        rows_per_strip=_rows_per_strip(page),
        is_separate=page.planarconfig == 2 and page.shaped[0] > 1,
        extra_samples=tuple(int(n) for n in as_sequence(page.extrasamples)),
        subsampling=(int(subsampling[0]), int(subsampling[1])),
        subfile_type=int(page.subfiletype),
        nodata=_nodata(page),
        tags={tag.code: _plain(tag.value) for tag in page.tags if tag.code not in _UNKEPT_TAGS},
        tables=_decoder_tables(page, read),
    )


def _rows_per_strip(page: TiffPage) -> int:
    """Give the rows of a strip; 0 of a single strip are all, as to libtiff."""
    if page.rowsperstrip or page.is_tiled or not page.imagelength:  # an image of no rows
        return int(page.rowsperstrip)
    if len(page.dataoffsets) > page.shaped[0] * page.shaped[1]:
        raise MalformedTiff(
            "strips have no rows", tag="RowsPerStrip (278)", got=f"{len(page.dataoffsets)} strips"
        )
    return int(page.imagelength)


def _decoder_tables(page: TiffPage, read: Read) -> dict[str, Any]:
    """Collect decoder tables that lie outside the segments."""
    found: dict[str, Any] = {}
    if isinstance(page.jpegtables, bytes) and page.jpegtables:
        found["jpeg_tables"] = page.jpegtables
    if page.jpegheader:
        found["jpeg_header"] = bytes(page.jpegheader)
    if page.compression == OLD_JPEG or page.compression in JPEG:
        found["is_jfif"] = bool(page.is_jfif)
        frame = jpeg_frame(_first_bytes(page, read))
        if frame is not None and frame.marker not in (0xC0, 0xC1, 0xC2):
            found["jpeg_process"] = frame.marker
    if page.compression == OLD_JPEG:
        found.update(_old_jpeg_tables(page, read))
    if page.index == 0:
        with contextlib.suppress(*PARSE_ERRORS):  # another page is looked at
            found.update(_calibration(page))
    return found


def decodes_by_stream(page: TiffPage) -> bool:
    """Say whether how a page decodes is told by its segments too, not by its tags alone."""
    is_undeclared = page.compression in JPEG and page.photometric == _RGB
    return page.compression == OLD_JPEG or page.jpegheader is not None or is_undeclared


def stream_key(page: TiffPage | TiffFrame, keyframe: TiffPage, read: Read) -> Any:
    """Give what pages of equal tags must have in common to decode alike.

    Tables of old-style JPEG lie at offsets of their own, those of NDPI in the strip; JPEG of RGB
    samples holds YCbCr if it has a JFIF marker.
    """
    if not decodes_by_stream(keyframe):
        return None
    if keyframe.compression == OLD_JPEG:
        return page.offset
    if keyframe.jpegheader is not None:
        return page.aspage().jpegheader
    return read(int(page.dataoffsets[0]) + 6, 4) == b"JFIF" if page.dataoffsets else None


def _first_bytes(page: TiffPage, read: Read) -> bytes:
    if not page.dataoffsets or not page.databytecounts or not page.dataoffsets[0]:
        return b""
    return read(int(page.dataoffsets[0]), min(int(page.databytecounts[0]), 1 << 12))


def _calibration(page: TiffPage) -> dict[str, Any]:
    """How MD Gel samples become the measured quantity: tags MDFileTag and MDScalePixel.

    They may be on the page behind the image.
    """
    gel = page.parent.mdgel_metadata or {}
    kind, scale = gel.get("FileTag"), gel.get("ScalePixel")
    if kind not in (2, 128) or scale is None or page.dtype is None:
        return {}
    stored = np.dtype(page.dtype).newbyteorder("<").str
    return {"calibration": (stored, 2 if kind == 2 else 1, scale[0] / scale[1])}


def _old_jpeg_tables(page: TiffPage, read: Read) -> dict[str, Any]:
    """Collect the tables of old-style JPEG (TIFF 6.0 section 22), which lie at offsets."""
    values = {code: page.tags.valueof(code) for code in (512, 513, 514, 515, 519, 520, 521)}
    found: dict[str, Any] = {}
    if values[513] is not None:
        start = int(as_sequence(values[513])[0])
        length = 0 if values[514] is None else int(as_sequence(values[514])[0])
        found["ojpeg_interchange"] = read(start, min(length or 1 << 16, 1 << 20))
    for code, name in (
        (519, "ojpeg_q_tables"),
        (520, "ojpeg_dc_tables"),
        (521, "ojpeg_ac_tables"),
    ):
        if values[code] is not None:
            offsets = [int(where) for where in as_sequence(values[code])]
            found[name] = b"".join(_old_jpeg_table(read, at, code == 519) for at in offsets)
    for code, name in ((512, "ojpeg_proc"), (515, "ojpeg_restart_interval")):
        if values[code] is not None:
            found[name] = int(as_sequence(values[code])[0])
    header = scan_header(_first_bytes(page, read))
    if header:
        found["ojpeg_scan_header"] = header
    return found


def _old_jpeg_table(read: Any, offset: int, is_quantization: bool) -> bytes:
    # a Huffman table is 16 counts and as many values as they sum up to
    return read(offset, 64 if is_quantization else 16 + sum(read(offset, 16)))


def n_segments_of(ifd: IfdFacts) -> int:
    """Count the segments that the shape of an image asks for."""
    planes, depth, rows, columns, _ = ifd.shape
    if ifd.tile is None:
        return planes * depth * -(-rows // max(1, ifd.rows_per_strip))
    return planes * math.prod(
        -(-n // max(1, t)) for n, t in zip((depth, rows, columns), ifd.tile, strict=True)
    )


def as_sequence(value: Any) -> Any:
    """Give a tag value of one or of many numbers as many."""
    return value if isinstance(value, tuple | list | np.ndarray) else (value,)


def _nodata(page: TiffPage) -> float | int | None:
    return page.nodata if 42113 in page.tags and page.tags.valueof(42113) is not None else None


def _plain(value: Any) -> Any:
    """Strip enumerations and array types off a tag value."""
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, bool | str | bytes) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, np.generic):
        return value.item()
    return value
