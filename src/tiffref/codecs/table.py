"""THE table: one row for each TIFF compression.

Owns what each value of tag 259 means, which function decodes it, which Zarr v2 codec says the same
exactly, and why a compression cannot be decoded where it cannot. A new compression is a new row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import UnsupportedTiff
from ..model.codec import SegmentCodec
from . import decoders

__all__ = [
    "COMPRESSIONS",
    "JPEG",
    "OLD_JPEG",
    "Compression",
    "check_supported",
    "compression_of",
    "jpeg_colorspaces",
]


@dataclass(frozen=True, slots=True)
class Compression:
    """One TIFF compression.

    Parameters
    ----------
    code
        Value of tag 259.
    name
        What it is called.
    kind
        "bytes": `decode(data, buffer)` fills a uint8 buffer and gives the number of bytes.
        "image": `decode(codec, data, out)` gives an array of samples.
        "" where there is no decoder.
    decode
        The decoder.
    standard
        numcodecs configuration (Zarr v2) that says exactly this and comes with numcodecs; an empty
        mapping where no codec is needed.
    imagecodecs
        Zarr v2 configuration that the package imagecodecs-numcodecs registers, where exact.
    v3
        Name and configuration of the Zarr v3 codec that says exactly this, if there is one.
    fill_order
        What FillOrder (tag 266) does to an image: "" nothing, "first" the bits are turned before
        they are decoded, "inside" the decoder sees to it. Those of bytes are always turned first.
    note
        What a reader of the table should know.
    reason
        Why the compression is not supported.
    """

    code: int
    name: str
    kind: str = ""
    decode: Callable[..., Any] | None = None
    standard: Mapping[str, Any] | None = None
    imagecodecs: Mapping[str, Any] | None = None
    v3: Mapping[str, Any] | None = None
    fill_order: str = ""
    note: str = ""
    reason: str = ""


_LZMA = {"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None}
_LZMA_V3 = {name: value for name, value in _LZMA.items() if name != "id"}


def _zlib(code: int, name: str, note: str = "") -> Compression:
    return Compression(
        code,
        name,
        "bytes",
        decoders.deflate,
        standard={"id": "zlib", "level": 1},
        v3={"name": "numcodecs.zlib", "configuration": {"level": 1}},
        note=note,
    )


def _zstd(code: int, name: str, note: str = "") -> Compression:
    return Compression(
        code,
        name,
        "bytes",
        decoders.zstd,
        standard={"id": "zstd", "level": 1},
        v3={"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        note=note,
    )


def _image(
    code: int,
    name: str,
    decode: Callable[..., Any],
    codec_id: str | None = None,
    *,
    fill_order: str = "",
    note: str = "",
) -> Compression:
    return Compression(
        code,
        name,
        "image",
        decode,
        imagecodecs=None if codec_id is None else {"id": codec_id},
        fill_order=fill_order,
        note=note,
    )


def _unsupported(code: int, name: str, reason: str) -> Compression:
    return Compression(code, name, reason=reason)


_ROWS: Sequence[Compression] = (
    Compression(1, "none", "bytes", decoders.copy, standard={}, v3={}),
    _image(2, "CCITT modified Huffman", decoders.ccitt, fill_order="inside"),
    _image(3, "CCITT Group 3", decoders.ccitt, fill_order="inside"),
    _image(4, "CCITT Group 4", decoders.ccitt, fill_order="inside"),
    Compression(
        5,
        "LZW",
        "bytes",
        decoders.lzw,
        imagecodecs={"id": "imagecodecs_lzw"},
        note=(
            "either bit order, told by the first bytes; imagecodecs_lzw where the segments looked "
            "at decode to just their size: where a writer left out the end code, it gives more"
        ),
    ),
    _image(6, "JPEG (old style)", decoders.old_jpeg, note="YCbCr is given as RGB"),
    _image(7, "JPEG", decoders.jpeg, note="abbreviated streams take their tables from tag 347"),
    _zlib(8, "deflate (Adobe)"),
    _image(22610, "JPEG XR (NDPI)", decoders.jpegxr, "imagecodecs_jpegxr"),
    _image(32766, "NeXT", decoders.libtiff, fill_order="inside"),
    _image(32771, "CCITT modified Huffman, words", decoders.ccitt, fill_order="inside"),
    Compression(
        32773, "PackBits", "bytes", decoders.packbits, imagecodecs={"id": "imagecodecs_packbits"}
    ),
    _image(32809, "ThunderScan", decoders.libtiff, fill_order="inside"),
    _image(32909, "PixarLog", decoders.libtiff, fill_order="inside"),
    _zlib(32946, "deflate"),
    _image(33003, "JPEG 2000 (Aperio, YCbCr)", decoders.jpeg2k, "imagecodecs_jpeg2k"),
    _image(33004, "JPEG 2000 (lossy)", decoders.jpeg2k, "imagecodecs_jpeg2k"),
    _image(33005, "JPEG 2000 (Aperio, RGB)", decoders.jpeg2k, "imagecodecs_jpeg2k"),
    _image(33007, "JPEG (alternative)", decoders.jpeg),
    _image(
        34676,
        "SGILog",
        decoders.sgilog,
        fill_order="first",
        note="int16 logarithm, or (L, u, v); see `logluv`",
    ),
    _image(
        34677,
        "SGILog 24-bit",
        decoders.sgilog,
        fill_order="first",
        note="int16 (L, u, v); see `logluv`",
    ),
    _image(34712, "JPEG 2000", decoders.jpeg2k, "imagecodecs_jpeg2k"),
    _image(34887, "LERC", decoders.lerc, "imagecodecs_lerc", fill_order="first"),
    _image(34892, "JPEG (lossy DNG)", decoders.jpeg),
    Compression(
        34925,
        "LZMA",
        "bytes",
        decoders.lzma,
        standard=_LZMA,
        v3={"name": "numcodecs.lzma", "configuration": _LZMA_V3},
    ),
    _zstd(34926, "Zstandard", note="deprecated number"),
    _image(
        34927,
        "WebP",
        decoders.webp,
        "imagecodecs_webp",
        fill_order="first",
        note="deprecated number",
    ),
    _image(34933, "PNG", decoders.png, "imagecodecs_png"),
    _image(34934, "JPEG XR", decoders.jpegxr, "imagecodecs_jpegxr"),
    _zstd(50000, "Zstandard"),
    _image(50001, "WebP", decoders.webp, "imagecodecs_webp", fill_order="first"),
    _image(50002, "JPEG XL", decoders.jpegxl, "imagecodecs_jpegxl"),
    _zlib(50013, "deflate (PixTIFF)"),
    _image(52546, "JPEG XL (DNG)", decoders.jpegxl, "imagecodecs_jpegxl"),
    _image(65000, "EER, 8 bits", decoders.eer),
    _image(65001, "EER, 7 bits", decoders.eer),
    _image(65002, "EER, variable bits", decoders.eer),
    _unsupported(262, "Kodak 262", "the compression of Kodak cameras is not published"),
    _unsupported(9, "JBIG, black and white", "no JBIG decoder is at hand"),
    _unsupported(10, "JBIG, colour", "no JBIG decoder is at hand"),
    _unsupported(32767, "Sony ARW", "camera raw data needs its maker's decoder"),
    _unsupported(32769, "packed raw (Epson ERF)", "camera raw data needs its maker's decoder"),
    _unsupported(32770, "Samsung SRW", "camera raw data needs its maker's decoder"),
    _unsupported(32772, "Samsung SRW 2", "camera raw data needs its maker's decoder"),
    _unsupported(32895, "IT8 CT with padding", "no decoder for the IT8 family is at hand"),
    _unsupported(32896, "IT8 line work", "no decoder for the IT8 family is at hand"),
    _unsupported(32897, "IT8 monochrome picture", "no decoder for the IT8 family is at hand"),
    _unsupported(32898, "IT8 binary line art", "no decoder for the IT8 family is at hand"),
    _unsupported(32908, "PixarFilm", "no decoder for it is known"),
    _unsupported(32947, "Kodak DCS", "the compression of Kodak cameras is not published"),
    _unsupported(34661, "JBIG", "no JBIG decoder is at hand"),
    _unsupported(34713, "Nikon NEF", "camera raw data needs its maker's decoder"),
    _unsupported(34715, "JBIG2", "no JBIG2 decoder for TIFF is at hand"),
    _unsupported(34718, "MDI binary", "Microsoft's document imaging is not supported"),
    _unsupported(34719, "MDI progressive", "Microsoft's document imaging is not supported"),
    _unsupported(34720, "MDI vector", "Microsoft's document imaging is not supported"),
    _unsupported(48124, "Jetraw", "its decoder is proprietary and not part of imagecodecs' wheels"),
    _unsupported(65535, "Pentax PEF", "camera raw data needs its maker's decoder"),
)

COMPRESSIONS: Mapping[int, Compression] = MappingProxyType({row.code: row for row in _ROWS})
"""Value of tag 259 -> its row."""
JPEG = frozenset(row.code for row in _ROWS if row.decode is decoders.jpeg)
"""Compressions whose segments are JPEG streams: their markers say how they decode, too."""
OLD_JPEG = 6
"""JPEG of TIFF 6.0, whose tables lie where tags of their own say."""


def compression_of(code: int) -> Compression:
    """Find the row of a compression; an unknown one gets a row that says so."""
    row = COMPRESSIONS.get(code)
    return row or _unsupported(code, f"compression {code}", "this compression is not known")


def check_supported(codec: SegmentCodec) -> None:
    """Raise if segments of this codec cannot be decoded.

    Raises
    ------
    UnsupportedTiff
        With the reason.
    """
    row = compression_of(codec.compression)
    if row.decode is None:
        raise UnsupportedTiff(
            f"{row.name} cannot be decoded: {row.reason}",
            tag="Compression (259)",
            got=codec.compression,
        )


def jpeg_colorspaces(
    photometric: int, planar_separate: bool, extra_samples: Sequence[int], is_jfif: bool
) -> dict[str, int | str]:
    """Find the colour spaces that a JPEG segment is stored in and decodes to.

    Parameters
    ----------
    photometric
        PhotometricInterpretation (tag 262).
    planar_separate
        PlanarConfiguration (tag 284) is 2: each segment is one gray image.
    extra_samples
        ExtraSamples (tag 338), empty if absent.
    is_jfif
        The stream has a JFIF marker; without one, RGB images of some scanners (Aperio) hold RGB
        that the decoder would take for YCbCr.

    Returns
    -------
    parameters
        `colorspace` and `outcolorspace` where they differ from what the decoder finds by itself,
        for `SegmentCodec.parameters`.

    References
    ----------
    TIFF Technical Note 2; libjpeg's J_COLOR_SPACE: 1 gray, 2 RGB, 4 CMYK.
    """
    if planar_separate:
        # what libtiff does: the one component passes as it is
        return {"colorspace": 1, "outcolorspace": 1}
    if extra_samples:
        return {}
    found: dict[str, int | str] = dict(_JPEG_OUTPUT.get(photometric, {}))
    if photometric == 2 and not is_jfif:
        found["colorspace"] = 2
    return found


_JPEG_OUTPUT: Mapping[int, Mapping[str, int | str]] = {
    2: {"outcolorspace": 2},
    5: {"outcolorspace": 4},
    6: {"outcolorspace": 2},
}
