"""One directory to facts: what its tags say of an image.

Owns the meaning and the defaults of the tags that decide how segments decode, the tables that
decoders need from elsewhere in the file, and the bytes that tell undeclared JPEG apart. The reader
gives the values (see `ifd`); which directories make an image is said by `series`.

References: TIFF 6.0 sections 8, 15 and 22; TIFF technical note 2 (JPEG); SGI ImageDepth; NDPI as in
"TIFF Format Description" of Hamamatsu.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.guard import jpeg_frame, scan_header
from ..codecs.table import JPEG, OLD_JPEG
from ..errors import MalformedTiff
from ..model.tiff_facts import IfdFacts
from .descriptions import IJ_METADATA, ij_metadata
from .exif import DIRECTORY_TAGS, read_named
from .ifd import Directory, TiffReader

__all__ = [
    "decodes_by_stream", "n_segments_of", "parse_nodata", "read_facts", "shape_of", "size_of",
    "stream_key",
]  # fmt: skip

_RGB, _YCBCR = 2, 6
_JFIF_KINDS = frozenset({6, 7, 33007, 34892})
_MAX_HEADER_BYTES = 1 << 12
_UNKEPT_TAGS = frozenset(
    {273, 279, 288, 289, 324, 325, 330, 347, 513, 514, 519, 520, 521, 65426, 65432}
)
"""Offsets and lengths, which mean nothing outside their file, and decoder tables."""
_MCU_STARTS, _MCU_STARTS_HIGH, _NODATA = 65426, 65432, 42113
_LSM_INFO, _MAGNIFICATION, _CAPTURE_MODE = 34412, 65421, 65441
_MAX_BITS, _MAX_SHORT = 32, (1 << 16) - 1
_RATIONALS = frozenset({5, 10})


def _dtype_names() -> dict[tuple[int, int], str]:
    """Build the data type of samples of (format, bits); unsigned ones are packed at any width."""
    found = {(1, bits): np.dtype(f"u{1 if bits <= 8 else 2 if bits <= 16 else 4}").str
             for bits in range(2, _MAX_BITS + 1)}  # fmt: skip
    found |= {(1, 1): "|b1", (1, 64): "<u8"}
    found |= {(4, bits): name for (_, bits), name in found.items()}
    for kind, sizes in ((2, {8: "i1", 16: "i2", 32: "i4", 64: "i8"}),
                        (3, {16: "f2", 24: "f4", 32: "f4", 64: "f8"}),
                        (5, {32: "c8", 64: "c16"}),
                        (6, {64: "c8", 128: "c16"})):  # fmt: skip
        found |= {(kind, bits): np.dtype(name).str for bits, name in sizes.items()}
    return found


_DTYPES = _dtype_names()


def _number(one: Directory, code: int, default: int) -> int:
    """Return the one number of a tag; a number for each sample (TIFF 5.0) where all agree.

    Raises
    ------
    MalformedTiff
        If there is more than one number, or none.
    """
    value = one.get(code)
    if type(value) is int:
        if value >= 0:
            return value
        raise MalformedTiff("is a negative number", ifd=one.name, tag=code, got=value)
    if value is None:
        return default
    if isinstance(value, bytes | tuple | np.ndarray) and one.entries[code][0] not in _RATIONALS:
        if not len(value):
            return default
        first = value[0]
        if isinstance(first, int | np.integer) and first >= 0 and all(n == first for n in value):
            return int(first)
    raise MalformedTiff("is not one whole number", ifd=one.name, tag=code, got=repr(value)[:60])


def _list(one: Directory, code: int) -> tuple[int, ...]:
    """Return the whole numbers of a tag."""
    value = one.get(code)
    if value is None:
        return ()
    if type(value) is int:
        return (value,)
    values = value if isinstance(value, bytes | tuple | list | np.ndarray) else (value,)
    try:
        return tuple(int(n) for n in values)
    except (TypeError, ValueError):
        raise MalformedTiff(
            "is not a list of numbers", ifd=one.name, tag=code, got=repr(value)[:60]
        ) from None


def _per_sample(one: Directory, code: int, n_samples: int) -> tuple[int, ...]:
    """Return the numbers of a tag for each sample; one if all agree."""
    values = _list(one, code)[: max(1, n_samples)]
    return values if len(values) == 1 or len(set(values)) > 1 else values[:1]


def size_of(one: Directory) -> tuple[int, int]:
    """Return (length, width) of an image."""
    return _number(one, 257, 0), _number(one, 256, 0)


def read_facts(reader: TiffReader, one: Directory) -> IfdFacts:
    """Return what a directory says of its image.

    Raises
    ------
    MalformedTiff
        If it says what cannot be.
    """
    rows, columns = size_of(one)
    basic = _Basic(reader, one, rows, columns)
    tile = basic.tile()
    bits, sample_format = basic.bits(), basic.sample_format()
    shape = basic.shape()
    uses_ndpi = reader.header.is_ndpi and _MCU_STARTS in one
    tables = _decoder_tables(reader, one, basic)
    if uses_ndpi:
        found = _ndpi_tile(reader, one)
        if found is not None:
            tile, tables["jpeg_header"] = found
    kind = sample_format if isinstance(sample_format, int) else 0
    subsampling = _list(one, 530)
    default = (2, 2) if basic.photometric == _YCBCR and basic.compression not in (6, 7) else (1, 1)
    dtype = (
        None
        if not one.entries
        else _DTYPES.get((kind, bits[0]))
        if len(bits) == 1
        else "|u1"
        if bits == (5, 6, 5)
        else None
    )
    return IfdFacts(
        name=one.name,
        byteorder=reader.header.byteorder,
        shape=shape,
        dtype=dtype,
        compression=basic.compression,
        predictor=basic.predictor(),
        fill_order=_number(one, 266, 1),
        photometric=basic.photometric,
        bits=bits,
        sample_format=sample_format,
        tile=tile,
        rows_per_strip=0 if 322 in one and not uses_ndpi else basic.rows_per_strip(shape),
        is_separate=basic.planar == 2 and shape[0] > 1,
        extra_samples=_list(one, 338),
        subsampling=(subsampling[0], subsampling[1]) if len(subsampling) > 1 else default,
        subfile_type=_subfile_type(one),
        nodata=parse_nodata(one.get(_NODATA), dtype) if _NODATA in one else None,
        tags=_plain_tags(reader, one),
        tables=tables,
    )


class _Basic:
    """Tags of an image with what stands for those that are missing or known to be wrong."""

    __slots__ = (
        "columns", "compression", "depth", "flavour", "is_gray", "one", "photometric", "planar",
        "rows", "samples",
    )  # fmt: skip

    def __init__(self, reader: TiffReader, one: Directory, rows: int, columns: int) -> None:
        self.one, self.rows, self.columns = one, rows, columns
        self.compression = _number(one, 259, 1)
        self.photometric = _number(one, 262, 0)
        self.planar = _number(one, 284, 1)
        self.samples = _number(one, 277, 1)
        self.depth = _number(one, 32997, 1)
        self.flavour = _flavour(reader)
        # NDPI of fluorescence says that it has colours of 8 bits
        self.is_gray = self.flavour == "ndpi gray" and _is_magnified(one)
        if self.is_gray:
            self.photometric, self.samples = 1, 1
        elif self.compression == OLD_JPEG:
            self._old_jpeg()
        elif self.flavour in ("vista", "philips"):
            self.depth = 1  # they write a wrong one
        if not rows and not columns and 256 not in one:
            self._from_stream(reader)

    def _old_jpeg(self) -> None:
        # what libtiff takes for granted of old-style JPEG
        if 262 not in self.one or self.photometric == _RGB:
            self.photometric = _YCBCR
        if 277 not in self.one and self.photometric in (0, 1, 2, _YCBCR):
            self.samples = 3

    def _from_stream(self, reader: TiffReader) -> None:
        """Take the size of an image from its JPEG stream, as some raw formats want it."""
        frame = jpeg_frame(first_bytes(reader, self.one))
        if frame is None:
            return
        self.rows, self.columns, self.samples = frame.rows, frame.columns, frame.components
        if 262 not in self.one and frame.components == 3:
            self.photometric = _YCBCR
        if 259 not in self.one:
            self.compression = OLD_JPEG

    def shape(self) -> tuple[int, int, int, int, int]:
        size = self.depth, self.rows, self.columns
        if self.photometric != _RGB and self.samples <= 1:
            return (1, *size, 1)
        if self.samples > 1 and self.planar not in (1, 2):
            raise MalformedTiff(
                "the order of samples is not known", ifd=self.one.name,
                tag="PlanarConfiguration (284)", got=self.planar, expected="1 or 2",
            )  # fmt: skip
        return (1, *size, self.samples) if self.planar == 1 else (self.samples, *size, 1)

    def tile(self) -> tuple[int, int, int] | None:
        if 322 not in self.one:
            return None
        width = _number(self.one, 322, 0)
        if not width and self.rows * self.columns:
            raise MalformedTiff(
                "tiles have no width", ifd=self.one.name, tag="TileWidth (322)", got=width
            )
        depth = 1 if self.flavour == "philips" else _number(self.one, 32998, 1)
        return (depth, _number(self.one, 323, 0), width) if width else None

    def bits(self) -> tuple[int, ...]:
        if self.is_gray:
            return (16,)
        if self.compression == OLD_JPEG and 258 not in self.one:
            return (8,)
        if self.flavour == "lsm" and self.one.entries.get(258, (0, 0))[:2] == (3, 2):
            return self._lsm_bits()
        values = _per_sample(self.one, 258, self.samples) or (1,)
        if max(values) > _MAX_SHORT:
            raise MalformedTiff("not a number of bits", ifd=self.one.name, tag=258, got=values[:4])
        return values

    def _lsm_bits(self) -> tuple[int, ...]:
        # two values fit into the entry, but old writers have an offset there
        reader = self.one._reader
        data = reader.read(int.from_bytes(self.one.raw(258), "little"), 4)
        values = tuple(np.frombuffer(data, "<u2").tolist())[: max(1, self.samples)]
        return values if len(set(values)) > 1 else (values or (8,))[:1]

    def sample_format(self) -> int | tuple[int, ...]:
        if self.is_gray:
            return 1
        values = _per_sample(self.one, 339, self.samples)
        if not values and self.flavour == "indica" and self.bits() == (32,):
            return 3  # its writer leaves SampleFormat out
        return values if len(values) > 1 else (values or (1,))[0]

    def predictor(self) -> int:
        value = _number(self.one, 317, 1)
        return 1 if self.flavour == "lsm" and self.compression == 1 else value

    def rows_per_strip(self, shape: tuple[int, ...]) -> int:
        if 257 not in self.one and not self.rows:
            return _number(self.one, 278, 0xFFFFFFFF)
        rows = self.one.get(278)
        if type(rows) is not int or rows < 0:
            rows = _number(self.one, 278, 0) if len(set(_list(self.one, 278))) == 1 else self.rows
        rows = min(rows, self.rows)
        if rows or not self.rows:
            return rows
        n_listed = self.one.n_listed
        if n_listed > shape[0] * shape[1]:
            raise MalformedTiff(
                "strips have no rows", ifd=self.one.name, tag="RowsPerStrip (278)",
                got=f"{n_listed} strips",
            )  # fmt: skip
        return self.rows  # 0 of a single strip are all, as to libtiff


def _is_magnified(one: Directory) -> bool:
    """Return whether an image of an NDPI is of the specimen: maps and labels are not magnified."""
    value = one.get(_MAGNIFICATION)
    return not isinstance(value, int | float) or value > 0


def _flavour(reader: TiffReader) -> str:
    """Return whose habits a file has, if they differ from what its tags say."""
    software = reader.first.get(305)
    if isinstance(software, str):
        for name, start in (("vista", "ISS Vista"), ("philips", "Philips DP"),
                            ("indica", "IndicaLabsImageWriter")):  # fmt: skip
            if software.startswith(start):
                return name
    if reader.header.is_ndpi:
        mode = reader.first.get(_CAPTURE_MODE)
        return "ndpi gray" if isinstance(mode, int) and mode >= 6 else ""
    return "lsm" if _LSM_INFO in reader.first else ""


def _subfile_type(one: Directory) -> int:
    value = one.get(254, 0)
    value = value if isinstance(value, int) else 0
    if value or 255 not in one:
        return value
    return {2: 1, 3: 2}.get(_number(one, 255, 0), 0)


def shape_of(
    shape: tuple[int, int, int, int, int], has_samples: bool
) -> tuple[tuple[int, ...], str]:
    """Return shape and axes of an image as `imread` gives them, from its normalized shape.

    `has_samples` if the samples are a dimension also where there is but one of them.
    """
    planes, depth, rows, columns, samples = shape
    size, axes = ((rows, columns), "YX") if depth == 1 else ((depth, rows, columns), "ZYX")
    if planes > 1:
        return (planes, *size), f"S{axes}"
    return ((*size, samples), f"{axes}S") if has_samples or samples > 1 else (size, axes)


def parse_nodata(value: Any, dtype: str | None) -> float | int | None:
    """Read GDAL_NODATA (42113) as a number of the samples' type; 0 where it is none."""
    if dtype is None or value is None:
        return None
    is_whole = np.dtype(dtype).kind in "iub"
    try:
        number = (int if is_whole else float)(str(value).replace(",", "."))
    except (ValueError, OverflowError):
        return 0
    if not is_whole or np.dtype(dtype).kind == "b":
        return number
    limits = np.iinfo(dtype)
    return number if limits.min <= number <= limits.max else 0


def _plain_tags(reader: TiffReader, one: Directory) -> dict[int, Any]:
    tags = one.tags(_UNKEPT_TAGS)
    for code in DIRECTORY_TAGS:
        if code in tags:
            tags[code] = read_named(reader, one, code)
    if IJ_METADATA in tags:
        tags[IJ_METADATA] = ij_metadata(one, reader.header.byteorder) or tags[IJ_METADATA]
    return tags


# ---- tables and streams


def first_bytes(reader: TiffReader, one: Directory, most: int = _MAX_HEADER_BYTES) -> bytes:
    """Read the start of the first segment."""
    offset: Any = next((one.column(c) for c in (324, 273, 513) if c in one), ())
    length: Any = next((one.column(c) for c in (325, 279, 514) if c in one), ())
    if not len(offset) or not len(length) or not offset[0] or int(offset[0]) >= reader.size:
        return b""
    return reader.read(int(offset[0]), min(int(length[0]), most))


def _decoder_tables(reader: TiffReader, one: Directory, basic: _Basic) -> dict[str, Any]:
    """Collect decoder tables that lie outside the segments."""
    found: dict[str, Any] = {}
    tables = one.get(347)
    if tables and isinstance(tables, bytes):
        found["jpeg_tables"] = tables
    if basic.compression == OLD_JPEG or basic.compression in JPEG:
        start = first_bytes(reader, one)
        found["is_jfif"] = basic.compression in _JFIF_KINDS and start[6:10] == b"JFIF"
        frame = jpeg_frame(start)
        if frame is not None and frame.marker not in (0xC0, 0xC1, 0xC2):
            found["jpeg_process"] = frame.marker
    if basic.compression == OLD_JPEG:
        found.update(_old_jpeg_tables(reader, one))
    return found


def _old_jpeg_tables(reader: TiffReader, one: Directory) -> dict[str, Any]:
    """Collect the tables of old-style JPEG (TIFF 6.0 section 22), which lie at offsets."""
    found: dict[str, Any] = {}
    start = _list(one, 513)
    if start:
        length = (*_list(one, 514), 0)[0]
        found["ojpeg_interchange"] = reader.read(start[0], min(length or 1 << 16, 1 << 20))
    names = ((519, "ojpeg_q_tables"), (520, "ojpeg_dc_tables"), (521, "ojpeg_ac_tables"))
    for code, name in names:
        if code in one:
            tables = [_old_jpeg_table(reader, at, code == 519) for at in _list(one, code)[:4]]
            found[name] = b"".join(tables)
    for code, name in ((512, "ojpeg_proc"), (515, "ojpeg_restart_interval")):
        if code in one:
            found[name] = _number(one, code, 0)
    header = scan_header(first_bytes(reader, one))
    return {**found, "ojpeg_scan_header": header} if header else found


def _old_jpeg_table(reader: TiffReader, offset: int, is_quantization: bool) -> bytes:
    # a Huffman table is 16 counts and as many values as they sum up to
    return reader.read(offset, 64 if is_quantization else 16 + sum(reader.read(offset, 16)))


def decodes_by_stream(facts: IfdFacts) -> bool:
    """Return whether how an image decodes is told by its segments too, not by its tags alone."""
    is_undeclared = facts.compression in JPEG and facts.photometric == _RGB
    return facts.compression == OLD_JPEG or "jpeg_header" in facts.tables or is_undeclared


def stream_key(reader: TiffReader, one: Directory, facts: IfdFacts) -> Any:
    """Return what directories of equal tags must have in common to decode alike.

    Tables of old-style JPEG lie at offsets of their own, those of NDPI in the strip; JPEG of RGB
    samples holds YCbCr if it has a JFIF marker.
    """
    if facts.compression == OLD_JPEG:
        return one.offset
    if "jpeg_header" in facts.tables:
        found = _ndpi_tile(reader, one)
        return found and found[1]
    return first_bytes(reader, one, 16)[6:10] == b"JFIF"


def n_segments_of(ifd: IfdFacts) -> int:
    """Count the segments that the shape of an image asks for."""
    planes, depth, rows, columns, _ = ifd.shape
    if ifd.tile is None:
        return planes * depth * -(-rows // max(1, ifd.rows_per_strip))
    sizes = zip((depth, rows, columns), ifd.tile, strict=True)
    return planes * math.prod(-(-n // max(1, t)) for n, t in sizes)


# ---- NDPI


def ndpi_segments(
    reader: TiffReader, one: Directory
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return offset and length of the parts of an NDPI strip between its restart markers."""
    starts = one.column(_MCU_STARTS)
    if _MCU_STARTS_HIGH in one:
        starts = starts + (one.column(_MCU_STARTS_HIGH) << np.uint64(32))
    offset, length = (int(one.column(code)[0]) for code in (273, 279))
    return starts + np.uint64(offset), np.diff(starts, append=np.uint64(length))


def _ndpi_tile(reader: TiffReader, one: Directory) -> tuple[tuple[int, int, int], bytes] | None:
    """Return the tile that NDPI's restart intervals make, and the header of the strip's JPEG."""
    starts = one.column(_MCU_STARTS)
    if not len(starts) or 273 not in one:
        return None
    header = reader.read(int(one.column(273)[0]), int(starts[0]))
    found = _restart_tile(header)
    return found and ((1, *found[0]), found[1])


@functools.lru_cache(64)
def _restart_tile(header: bytes) -> tuple[tuple[int, int], bytes] | None:
    """Make of the header of a strip of restart intervals that of one interval, with its size."""
    restart = factors = None
    changed, position = bytearray(header), 2
    while position + 4 <= len(header) and header[position] == 0xFF:
        marker, length = (
            header[position + 1],
            int.from_bytes(header[position + 2 : position + 4], "big"),
        )
        if marker == 0xDD:
            restart = int.from_bytes(header[position + 4 : position + 6], "big")
        elif 0xC0 <= marker <= 0xC3:
            place = position + 5
            sampling = [header[position + 11 + 3 * n] for n in range(header[position + 9])]
            factors = max(n >> 4 for n in sampling), max(n & 15 for n in sampling)
        position += 2 + length
        if marker == 0xDA:
            break
    if not restart or factors is None:
        return None
    tile = 8 * factors[1], 8 * factors[0] * restart
    changed[place : place + 2] = tile[0].to_bytes(2, "big")
    changed[place + 2 : place + 4] = tile[1].to_bytes(2, "big")
    return tile, bytes(changed[:position])
