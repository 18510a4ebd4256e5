"""The table of TIFF compressions.

Each value of tag 259 has a row with its name, its decoder, the exactly equivalent Zarr v2 codec,
and, if it cannot be decoded, the reason. To add a compression, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from ..errors import UnsupportedTiff
from ..model.codec import SegmentCodec
from . import decoders


@dataclass(frozen=True, slots=True)
class Compression:
    """One TIFF compression.

    Parameters
    ----------
    code
        Value of tag 259.
    name
        Name for messages.
    decode
        The decoder.
    zarr2
        Zarr v2 configuration of the exactly equivalent codec of numcodecs or of
        imagecodecs-numcodecs; empty if no codec is needed, None if there is none.
    kind
        "bytes": `decode(data, buffer)` fills a uint8 buffer and returns the number of bytes.
        "image": `decode(codec, data, out)` returns an array of samples.
        "" if there is no decoder.
    has_fill_order
        Whether FillOrder (tag 266) applies: decoders get bytes whose bits are in the first order.
        Always true for kind "bytes".
    reason
        Why the compression is not supported.
    """

    code: int
    name: str
    decode: Callable[..., Any] | None = None
    zarr2: Mapping[str, Any] | None = None
    kind: str = ""
    has_fill_order: bool = False
    reason: str = ""


_bytes = partial(Compression, kind="bytes", has_fill_order=True)
_image = partial(Compression, kind="image")

_LZMA = {"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None}
_ZLIB = {"id": "zlib", "level": 1}
_ZSTD = {"id": "zstd", "level": 1}

_ROWS: Sequence[Compression] = (
    _bytes(1, "none", decoders.copy, {}),
    _image(2, "CCITT modified Huffman", decoders.ccitt, has_fill_order=True),
    _image(3, "CCITT Group 3", decoders.ccitt, has_fill_order=True),
    _image(4, "CCITT Group 4", decoders.ccitt, has_fill_order=True),
    # imagecodecs_lzw only if the sampled segments decode to their exact size: without an end code
    # it returns more
    _bytes(5, "LZW", decoders.lzw, {"id": "imagecodecs_lzw"}),
    _image(6, "JPEG (old style)", decoders.old_jpeg),
    _image(7, "JPEG", decoders.jpeg, {"id": "imagecodecs_jpeg"}),
    _bytes(8, "deflate (Adobe)", decoders.deflate, _ZLIB),
    _image(22610, "JPEG XR (NDPI)", decoders.jpegxr, {"id": "imagecodecs_jpegxr"}),
    _image(32766, "NeXT", decoders.libtiff, has_fill_order=True),
    _image(32771, "CCITT modified Huffman, words", decoders.ccitt, has_fill_order=True),
    _bytes(32773, "PackBits", decoders.packbits, {"id": "imagecodecs_packbits"}),
    _image(32809, "ThunderScan", decoders.libtiff, has_fill_order=True),
    _image(32909, "PixarLog", decoders.libtiff, has_fill_order=True),
    _bytes(32946, "deflate", decoders.deflate, _ZLIB),
    _image(33003, "JPEG 2000 (Aperio, YCbCr)", decoders.jpeg2k, {"id": "imagecodecs_jpeg2k"}),
    _image(33004, "JPEG 2000 (lossy)", decoders.jpeg2k, {"id": "imagecodecs_jpeg2k"}),
    _image(33005, "JPEG 2000 (Aperio, RGB)", decoders.jpeg2k, {"id": "imagecodecs_jpeg2k"}),
    _image(33007, "JPEG (alternative)", decoders.jpeg),
    _image(34676, "SGILog", decoders.sgilog, has_fill_order=True),
    _image(34677, "SGILog 24-bit", decoders.sgilog, has_fill_order=True),
    _image(34712, "JPEG 2000", decoders.jpeg2k, {"id": "imagecodecs_jpeg2k"}),
    _image(34887, "LERC", decoders.lerc, {"id": "imagecodecs_lerc"}, has_fill_order=True),
    _image(34892, "JPEG (lossy DNG)", decoders.jpeg),
    _bytes(34925, "LZMA", decoders.lzma, _LZMA),
    _bytes(34926, "Zstandard", decoders.zstd, _ZSTD),  # deprecated numbers: this and the next one
    _image(34927, "WebP", decoders.webp, {"id": "imagecodecs_webp"}, has_fill_order=True),
    _image(34933, "PNG", decoders.png, {"id": "imagecodecs_png"}),
    _image(34934, "JPEG XR", decoders.jpegxr, {"id": "imagecodecs_jpegxr"}),
    _bytes(50000, "Zstandard", decoders.zstd, _ZSTD),
    _image(50001, "WebP", decoders.webp, {"id": "imagecodecs_webp"}, has_fill_order=True),
    _image(50002, "JPEG XL", decoders.jpegxl, {"id": "imagecodecs_jpegxl"}),
    _bytes(50013, "deflate (PixTIFF)", decoders.deflate, _ZLIB),
    _image(52546, "JPEG XL (DNG)", decoders.jpegxl, {"id": "imagecodecs_jpegxl"}),
    _image(65000, "EER, 8 bits", decoders.eer),
    _image(65001, "EER, 7 bits", decoders.eer),
    _image(65002, "EER, variable bits", decoders.eer),
)

_UNSUPPORTED: Mapping[str, Mapping[int, str]] = {
    "the compression of Kodak cameras is not published": {262: "Kodak 262", 32947: "Kodak DCS"},
    "no JBIG decoder is available": {9: "JBIG, black and white", 10: "JBIG, color", 34661: "JBIG"},
    "camera raw data needs its maker's decoder": {
        32767: "Sony ARW", 32769: "packed raw (Epson ERF)", 32770: "Samsung SRW",
        32772: "Samsung SRW 2", 34713: "Nikon NEF", 65535: "Pentax PEF",
    },
    "no decoder for the IT8 family is available": {
        32895: "IT8 CT with padding", 32896: "IT8 line work", 32897: "IT8 monochrome picture",
        32898: "IT8 binary line art",
    },
    "no decoder for it is known": {32908: "PixarFilm"},
    "no JBIG2 decoder for TIFF is available": {34715: "JBIG2"},
    "Microsoft's document imaging is not supported": {
        34718: "MDI binary", 34719: "MDI progressive", 34720: "MDI vector"
    },
    "its decoder is proprietary and not part of imagecodecs' wheels": {48124: "Jetraw"},
}  # fmt: skip
"""Why compressions cannot be decoded."""


COMPRESSIONS: Mapping[int, Compression] = MappingProxyType(
    {row.code: row for row in _ROWS}
    | {
        code: Compression(code, name, reason=reason)
        for reason, names in _UNSUPPORTED.items()
        for code, name in names.items()
    }
)
"""Value of tag 259 -> its row."""
JPEG = frozenset(row.code for row in _ROWS if row.decode is decoders.jpeg)
"""Compressions whose segments are JPEG streams; decoding depends on their markers, too."""
OLD_JPEG = 6
"""JPEG of TIFF 6.0, with tags for the offsets of its tables."""


def compression_of(code: int) -> Compression:
    """Return the row of a compression; for an unknown one, a row with that reason."""
    row = COMPRESSIONS.get(code)
    return row or Compression(code, f"compression {code}", reason="this compression is not known")


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
    if row.decode is decoders.ccitt and codec.shape[3] > 1:
        raise UnsupportedTiff(
            f"{row.name} has one sample per pixel",
            tag="SamplesPerPixel (277)",
            got=codec.shape[3],
        )


def jpeg_colorspaces(
    photometric: int,
    planar_separate: bool,
    extra_samples: Sequence[int],
    is_jfif: bool,
    has_rgb_components: bool = False,
) -> dict[str, int | str]:
    """Find the color spaces of a JPEG segment before and after decoding.

    Parameters
    ----------
    photometric
        PhotometricInterpretation (tag 262).
    planar_separate
        Whether each segment is one grey image, as if PlanarConfiguration (tag 284) is 2.
    extra_samples
        ExtraSamples (tag 338), empty if absent.
    is_jfif
        Whether the stream has a JFIF marker. Without one, RGB images of some scanners (Aperio)
        contain RGB that the decoder would take for YCbCr.
    has_rgb_components
        Whether the three components are not colors, such as bands written by GDAL; by default
        the decoder would take them for YCbCr.

    Returns
    -------
    parameters
        `colorspace` and `outcolorspace` for `SegmentCodec.parameters`, if they differ from the
        decoder's defaults.

    References
    ----------
    TIFF Technical Note 2; libjpeg's J_COLOR_SPACE: 1 gray, 2 RGB, 4 CMYK.
    """
    if planar_separate:
        # as in libtiff, the one component is not converted
        return {"colorspace": 1, "outcolorspace": 1}
    if has_rgb_components:
        return {"colorspace": 2, "outcolorspace": 2}
    if extra_samples:
        return {}
    parameters: dict[str, int | str] = dict(JPEG_COLORS.get(photometric, {}))
    if photometric == 2 and not is_jfif:
        parameters["colorspace"] = 2
    return parameters


JPEG_COLORS: Mapping[int, Mapping[str, int | str]] = {
    2: {"outcolorspace": 2},
    5: {"outcolorspace": 4},
    6: {"outcolorspace": 2},
}
"""Parameters of images of colors, by PhotometricInterpretation (tag 262): RGB, CMYK and YCbCr."""
