"""The parsed content of a TIFF file, as plain values.

Parsing returns these frozen records, which hold no tifffile types and no open file. Offsets and
lengths are arrays, so that a million segments cost no Python object each. Terms are those of
TIFF 6.0.

Reference: TIFF 6.0, TIFF technical notes, EXIF 2.32, DNG 1.7 and OGC 19-008r4 for the names of
tags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .manifest import Source

TAG_NAMES: Mapping[int, str] = {
    254: "NewSubfileType", 255: "SubfileType", 256: "ImageWidth", 257: "ImageLength",
    258: "BitsPerSample", 259: "Compression", 262: "PhotometricInterpretation", 263: "Thresholding",
    264: "CellWidth", 265: "CellLength", 266: "FillOrder", 269: "DocumentName",
    270: "ImageDescription", 271: "Make", 272: "Model", 273: "StripOffsets", 274: "Orientation",
    277: "SamplesPerPixel", 278: "RowsPerStrip", 279: "StripByteCounts", 280: "MinSampleValue",
    281: "MaxSampleValue", 282: "XResolution", 283: "YResolution", 284: "PlanarConfiguration",
    285: "PageName", 286: "XPosition", 287: "YPosition", 290: "GrayResponseUnit",
    291: "GrayResponseCurve", 292: "T4Options", 293: "T6Options", 296: "ResolutionUnit",
    297: "PageNumber", 301: "TransferFunction", 305: "Software", 306: "DateTime", 315: "Artist",
    316: "HostComputer", 317: "Predictor", 318: "WhitePoint", 319: "PrimaryChromaticities",
    320: "ColorMap", 321: "HalftoneHints", 322: "TileWidth", 323: "TileLength", 324: "TileOffsets",
    325: "TileByteCounts", 330: "SubIFDs", 332: "InkSet", 333: "InkNames", 334: "NumberOfInks",
    336: "DotRange", 337: "TargetPrinter", 338: "ExtraSamples", 339: "SampleFormat",
    340: "SMinSampleValue", 341: "SMaxSampleValue", 342: "TransferRange", 343: "ClipPath",
    346: "Indexed", 512: "JPEGProc", 515: "JPEGRestartInterval", 529: "YCbCrCoefficients",
    530: "YCbCrSubSampling", 531: "YCbCrPositioning", 532: "ReferenceBlackWhite", 700: "XMP",
    32781: "ImageID", 32997: "ImageDepth", 32998: "TileDepth", 33432: "Copyright",
    33434: "ExposureTime", 33437: "FNumber", 33445: "MDFileTag",
    33446: "MDScalePixel", 33447: "MDColorTable", 33448: "MDLabName", 33449: "MDSampleInfo",
    33450: "MDPrepDate", 33451: "MDPrepTime", 33452: "MDFileUnits", 33550: "ModelPixelScale",
    33628: "UIC1", 33629: "UIC2", 33630: "UIC3", 33631: "UIC4", 33723: "IPTC",
    33922: "ModelTiepoint", 34118: "CZ_SEM", 34264: "ModelTransformation", 34361: "MM_Header",
    34362: "MM_Stamp", 34377: "ImageResources", 34412: "CZ_LSMINFO", 34665: "ExifIFD",
    34675: "ICCProfile", 34680: "FEI_SFEG", 34682: "FEI_HELIOS", 34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams", 34737: "GeoAsciiParams", 34853: "GPSIFD", 36864: "ExifVersion",
    36867: "DateTimeOriginal", 36868: "DateTimeDigitized", 37122: "CompressedBitsPerPixel",
    37386: "FocalLength", 37706: "TVIPS", 37707: "TVIPS1", 37724: "ImageSourceData",
    40965: "InteroperabilityIFD", 42112: "GDAL_METADATA", 42113: "GDAL_NODATA",
    50838: "IJMetadataByteCounts", 50839: "IJMetadata", 50844: "RPCCoefficient",
    50706: "DNGVersion", 50708: "UniqueCameraModel", 51023: "FibicsXML",
    51123: "MicroManagerMetadata", 65200: "FlexXML", 65420: "NDPI_FORMAT_FLAG",
    65421: "Magnification", 65422: "XOffsetFromSlideCenter", 65423: "YOffsetFromSlideCenter",
    65424: "ZOffsetFromSlideCenter", 65427: "NDPI_REFERENCE", 65442: "NDPI_SERIALNUMBER",
    65449: "NDPI_PROPERTYMAP",
}  # fmt: skip
"""Names of tags; other tags are named by their number."""


def name_tag(code: int) -> str:
    """Return a tag as messages show it, such as "ImageWidth (256)" or "tag 65000"."""
    return f"{TAG_NAMES[code]} ({code})" if code in TAG_NAMES else f"tag {code}"


@dataclass(frozen=True, slots=True, eq=False)
class IfdFacts:
    """The tags of one IFD that describe its pixels.

    `shape` is normalized: (planes, depth, length, width, samples), where `planes` counts separate
    sample planes (PlanarConfiguration 2) and `samples` those stored together. `tile` is (depth,
    length, width) or None for strips. `bits` has one number if all samples have the same. `tags`
    maps tag numbers to plain values, without segment offsets and lengths. `tables` holds data that
    a decoder needs from elsewhere in the file, as bytes by name.
    """

    name: str
    byteorder: str
    shape: tuple[int, int, int, int, int]
    dtype: str | None
    compression: int
    predictor: int
    fill_order: int
    photometric: int
    bits: tuple[int, ...]
    sample_format: int | tuple[int, ...]
    tile: tuple[int, int, int] | None
    rows_per_strip: int
    is_separate: bool
    extra_samples: tuple[int, ...]
    subsampling: tuple[int, int]
    subfile_type: int
    tags: Mapping[int, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Size of the image in bytes, uncompressed."""
        return math.prod(self.shape) * (np.dtype(self.dtype).itemsize if self.dtype else 0)


@dataclass(frozen=True, slots=True, eq=False)
class LevelFacts:
    """One resolution level of a series: pages in C order of the leading dimensions.

    `shape` and `axes` are the same as in tifffile. `ifds` lists the distinct kinds of IFDs; `ifd`
    `(n_pages,)` int32 is the index in `ifds` of each page (-1: the page is missing). `source`
    `(n_pages,)` int32 is a row of `sources`. `offset` and `length` are `(n_pages, n_segments)`
    uint64.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: str
    ifds: tuple[IfdFacts, ...]
    sources: tuple[Source, ...]
    ifd: NDArray[np.int32]
    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]

    @property
    def sizes(self) -> dict[str, int]:
        """Length along each axis, by its code."""
        return dict(zip(self.axes, self.shape, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFacts:
    """One image of a file, with its pyramid levels; an exception if one cannot be represented.

    `index` is its position in the file, `number` that in the metadata, if these may describe more
    images.
    """

    index: int
    kind: str
    name: str
    axes: str
    levels: tuple[LevelFacts | Exception, ...]
    number: int | None = None

    @property
    def subfile_type(self) -> int:
        """NewSubfileType of the full-size level, 0 if it cannot be represented."""
        first = self.levels[0]
        return first.ifds[0].subfile_type if isinstance(first, LevelFacts) else 0


@dataclass(frozen=True, slots=True, eq=False)
class FileFacts:
    """One file: its series, and the metadata of its flavours (`ome`, `imagej`, ...) or None.

    If the series of the file's flavour cannot be used, `defect` is the reason, and the series are
    the plain pages of the file. `has_mask` is whether a mask is among its other series. `main` is
    the first series of the file, if only a mask or secondary image of it was selected.
    """

    source: Source
    series: tuple[SeriesFacts, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    defect: str = ""
    has_mask: bool = False
    main: SeriesFacts | None = None
