"""The original tags of an image, kept in one attribute.

Owns `tiff_tags`, the one documented place where every tag that was kept can be found: a JSON text,
so that netCDF can hold it too, on the full-size array only.

Reference: TIFF 6.0, TIFF technical notes, EXIF 2.32, DNG 1.7 and OGC 19-008r4 for the names.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["TAG_NAMES", "dump_tags", "gdal_tag_attributes"]

MAX_BYTES = 1 << 20
"""A longer binary value is said by its length: it would burden whoever opens the document."""
_MAX_TEXT = 1 << 12
_MAX_NUMBERS = 1 << 14
_PLAIN = frozenset({str, int, bool, type(None)})
"""Types that JSON has as they are, whatever the value."""

TAG_NAMES: Mapping[int, str] = {
    254: "NewSubfileType", 255: "SubfileType", 256: "ImageWidth", 257: "ImageLength",
    258: "BitsPerSample", 259: "Compression", 262: "PhotometricInterpretation",
    263: "Thresholding", 264: "CellWidth", 265: "CellLength", 266: "FillOrder",
    269: "DocumentName", 270: "ImageDescription", 271: "Make", 272: "Model", 274: "Orientation",
    277: "SamplesPerPixel", 278: "RowsPerStrip", 280: "MinSampleValue", 281: "MaxSampleValue",
    282: "XResolution", 283: "YResolution", 284: "PlanarConfiguration", 285: "PageName",
    286: "XPosition", 287: "YPosition", 290: "GrayResponseUnit", 291: "GrayResponseCurve",
    292: "T4Options", 293: "T6Options", 296: "ResolutionUnit", 297: "PageNumber",
    301: "TransferFunction", 305: "Software", 306: "DateTime", 315: "Artist", 316: "HostComputer",
    317: "Predictor", 318: "WhitePoint", 319: "PrimaryChromaticities", 320: "ColorMap",
    321: "HalftoneHints", 322: "TileWidth", 323: "TileLength", 330: "SubIFDs", 332: "InkSet",
    333: "InkNames", 334: "NumberOfInks", 336: "DotRange", 337: "TargetPrinter",
    338: "ExtraSamples", 339: "SampleFormat", 340: "SMinSampleValue", 341: "SMaxSampleValue",
    342: "TransferRange", 343: "ClipPath", 346: "Indexed", 512: "JPEGProc",
    515: "JPEGRestartInterval", 529: "YCbCrCoefficients", 530: "YCbCrSubSampling",
    531: "YCbCrPositioning", 532: "ReferenceBlackWhite", 700: "XMP", 32781: "ImageID",
    32997: "ImageDepth", 32998: "TileDepth", 33432: "Copyright", 33433: "ExposureTime",
    33434: "ExposureTime", 33437: "FNumber", 33445: "MDFileTag", 33446: "MDScalePixel",
    33447: "MDColorTable", 33448: "MDLabName", 33449: "MDSampleInfo", 33450: "MDPrepDate",
    33451: "MDPrepTime", 33452: "MDFileUnits", 33550: "ModelPixelScale", 33628: "UIC1",
    33629: "UIC2", 33630: "UIC3", 33631: "UIC4", 33723: "IPTC", 33922: "ModelTiepoint",
    34118: "CZ_SEM", 34264: "ModelTransformation", 34361: "MM_Header", 34362: "MM_Stamp",
    34377: "ImageResources", 34412: "CZ_LSMINFO", 34665: "ExifIFD", 34675: "ICCProfile",
    34680: "FEI_SFEG", 34682: "FEI_HELIOS", 34735: "GeoKeyDirectory", 34736: "GeoDoubleParams",
    34737: "GeoAsciiParams", 34853: "GPSIFD", 36864: "ExifVersion", 36867: "DateTimeOriginal",
    36868: "DateTimeDigitized", 37122: "CompressedBitsPerPixel", 37386: "FocalLength",
    37706: "TVIPS", 37707: "TVIPS1", 37724: "ImageSourceData", 40965: "InteroperabilityIFD",
    42112: "GDAL_METADATA", 42113: "GDAL_NODATA", 50838: "IJMetadataByteCounts",
    50839: "IJMetadata", 50844: "RPCCoefficient", 50706: "DNGVersion", 50708: "UniqueCameraModel",
    51023: "FibicsXML", 51123: "MicroManagerMetadata", 65200: "FlexXML",
    65420: "NDPI_FORMAT_FLAG", 65421: "Magnification", 65422: "XOffsetFromSlideCenter",
    65423: "YOffsetFromSlideCenter", 65424: "ZOffsetFromSlideCenter", 65427: "NDPI_REFERENCE",
    65442: "NDPI_SERIALNUMBER", 65449: "NDPI_PROPERTYMAP",
}  # fmt: skip
"""Names of tags; others are called by their number."""

_GDAL_NAMES = {
    269: "TIFFTAG_DOCUMENTNAME", 270: "TIFFTAG_IMAGEDESCRIPTION", 305: "TIFFTAG_SOFTWARE",
    306: "TIFFTAG_DATETIME", 315: "TIFFTAG_ARTIST", 316: "TIFFTAG_HOSTCOMPUTER",
    33432: "TIFFTAG_COPYRIGHT",
}  # fmt: skip


def dump_tags(tags: Mapping[int, Any]) -> str:
    """Give tags by name as one JSON object.

    Bytes become {"base64": ...}; a value too long to be kept becomes {"omitted": ..., "length": n}.
    Numbers that JSON does not have become texts.
    """
    named = {TAG_NAMES.get(code, str(code)): _to_json(value) for code, value in tags.items()}
    return json.dumps(named, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def gdal_tag_attributes(tags: Mapping[int, Any]) -> dict[str, Any]:
    """Give the descriptive tags under GDAL's names, as `rioxarray` has them."""
    found = {}
    for code, name in _GDAL_NAMES.items():
        value = tags.get(code)
        if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT:
            found[name] = value
    return found


def _to_json(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, bytes | bytearray):
        if len(value) > MAX_BYTES:
            return {"omitted": "bytes", "length": len(value)}
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple | list):
        if len(value) > _MAX_NUMBERS:
            return {"omitted": "values", "length": len(value)}
        return list(value) if _PLAIN.issuperset(map(type, value)) else [*map(_to_json, value)]
    if isinstance(value, Mapping):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int | str):
        return value
    return str(value)
