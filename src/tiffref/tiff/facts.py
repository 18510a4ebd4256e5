"""Turn the tags of one IFD into `IfdFacts`.

Knows the meaning and the defaults of the tags that decide how segments decode, collects the decoder
tables stored elsewhere in the file, and inspects JPEG streams whose color space the tags do not
declare. `ifd` reads the values; `series` decides which IFDs form an image.

References: TIFF 6.0 sections 8, 15 and 22; TIFF technical note 2 (JPEG); SGI ImageDepth; NDPI as in
"TIFF Format Description" of Hamamatsu.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codecs.guard import jpeg_frame, jpeg_segments, scan_header
from ..codecs.table import JPEG, JPEG_COLORS, OLD_JPEG
from ..errors import MalformedTiff, UnsupportedTiff
from ..model.tiff_facts import IfdFacts, name_tag
from .descriptions import DIRECTORY_TAGS, IJ_METADATA, ij_metadata, read_linked_ifd
from .ifd import SEGMENT_LENGTHS, SEGMENT_OFFSETS, Directory, TiffReader

_RGB, _YCBCR = 2, 6
_PACKBITS = 32773
_JFIF_KINDS = frozenset({6, 7, 33007, 34892})
_JPEG = 7
_LOSSY_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_MAX_HEADER_BYTES, _MAX_STRIP_BYTES = 1 << 12, 1 << 18
_DROPPED_TAGS = frozenset(
    {273, 279, 288, 289, 324, 325, 330, 347, 513, 514, 519, 520, 521, 65426, 65432}
)
"""Offsets and lengths, which are meaningless outside the file, and decoder tables."""
_MCU_STARTS, _MCU_STARTS_HIGH = 65426, 65432
_LSM_INFO, _MAGNIFICATION, _CAPTURE_MODE = 34412, 65421, 65441
_MAX_BITS, _MAX_SHORT = 32, (1 << 16) - 1
_INTEGER_TYPES = frozenset({1, 3, 4, 6, 7, 8, 9, 13, 16, 17, 18})
_STREAMED = JPEG | {OLD_JPEG}
"""Compressions whose streams carry decoding parameters."""
_NDPI_GRAY = "ndpi gray"


def _dtype_names() -> dict[tuple[int, int], str]:
    """Return the dtype by (SampleFormat, BitsPerSample); unsigned samples have any bit depth."""
    names = {(1, bits): np.dtype(f"u{1 if bits <= 8 else 2 if bits <= 16 else 4}").str
             for bits in range(2, _MAX_BITS + 1)}  # fmt: skip
    names |= {(1, 1): "|b1", (1, 64): "<u8"}
    names |= {(4, bits): name for (_, bits), name in names.items()}
    for kind, sizes in ((2, {8: "i1", 16: "i2", 32: "i4", 64: "i8"}),
                        (3, {16: "f2", 24: "f4", 32: "f4", 64: "f8"}),
                        (5, {32: "c8", 64: "c16"}),
                        (6, {64: "c8", 128: "c16"})):  # fmt: skip
        names |= {(kind, bits): np.dtype(name).str for bits, name in sizes.items()}
    return names


_DTYPES = _dtype_names()


class _NonInteger(NamedTuple):
    """The value of a tag that should be an integer and has another type."""

    value: Any


def _hashable_value(ifd: Directory, code: int) -> Any:
    """Return the value of a tag in a form that can be compared and hashed."""
    value = ifd.get(code)
    if type(value) is int or value is None:
        return value
    if isinstance(value, np.ndarray):
        value = tuple(value.reshape(-1).tolist())
    return value if ifd.entries[code][0] in _INTEGER_TYPES else _NonInteger(value)


def _number(tags: Mapping[int, Any], code: int, default: int) -> int:
    """Return the number of a tag; TIFF 5.0 repeats it for each sample.

    Raises
    ------
    MalformedTiff
        If the value is not a non-negative integer, or values differ.
    """
    value = tags.get(code)
    if type(value) is int and value >= 0:
        return value
    values = value if isinstance(value, tuple | bytes) else () if value is None else (value,)
    if not values:
        return default
    if type(values[0]) is int and values[0] >= 0 and len(set(values)) == 1:
        return values[0]
    got = repr(value.value if isinstance(value, _NonInteger) else value)[:60]
    raise MalformedTiff("the tag is negative, or not a single integer", tag=name_tag(code), got=got)


def _int_list(tags: Mapping[int, Any], code: int) -> tuple[int, ...]:
    value = tags.get(code)
    if value is None:
        return ()
    if type(value) is int:
        return (value,)
    if isinstance(value, _NonInteger):
        value = value.value
    values = value if isinstance(value, bytes | tuple | list) else (value,)
    try:
        return tuple(int(n) for n in values)
    except (TypeError, ValueError):
        raise MalformedTiff(
            "the tag is not a list of integers", tag=name_tag(code), got=repr(value)[:60]
        ) from None


def _per_sample(tags: Mapping[int, Any], code: int, n_samples: int) -> tuple[int, ...]:
    """Return the values of a tag per sample; a single one if all are equal."""
    values = _int_list(tags, code)[: max(1, n_samples)]
    return values if len(values) == 1 or len(set(values)) > 1 else values[:1]


def _image_length(ifd: Directory, code: int) -> int:
    value = ifd._values.get(code)
    if type(value) is int and value >= 0:
        return value
    return _number({code: _hashable_value(ifd, code)}, code, 0)


def read_facts(reader: TiffReader, ifd: Directory) -> IfdFacts:
    """Read the facts of an IFD.

    Raises
    ------
    MalformedTiff, UnsupportedTiff
        If the tags have impossible values, or values that readers disagree about.
    """
    entries = ifd.entries
    rows, columns = _image_length(ifd, 257), _image_length(ifd, 256)
    n_components = None
    if not rows and not columns and 256 not in entries:
        # some camera raw formats give the size only in the JPEG stream
        frame = jpeg_frame(first_bytes(reader, ifd))
        if frame is not None:
            rows, columns, n_components = frame.rows, frame.columns, frame.components
    quirk = _writer_quirk(reader, ifd)
    (planes, depth, samples), fields = _parse_image(_image_tags(ifd, quirk), quirk, n_components)
    if fields["tile"] is None and 322 in entries and rows * columns:
        raise MalformedTiff("tiles are 0 pixels wide", tag="TileWidth (322)", got=0)
    compression = fields["compression"]
    tables: dict[str, Any] = {}
    if compression in _STREAMED or 347 in entries:
        tables = _decoder_tables(reader, ifd, compression)
    uses_ndpi = reader.header.is_ndpi and _MCU_STARTS in entries and compression == _JPEG
    ndpi_tile = _ndpi_tile(reader, ifd) if uses_ndpi else None
    if ndpi_tile is not None:
        fields = {**fields, "tile": ndpi_tile[0]}
        tables["jpeg_header"] = ndpi_tile[1]
    if not entries:
        fields = {**fields, "dtype": None}
    shape = (planes, depth, rows, columns, samples)
    return IfdFacts(
        name=ifd.name, byteorder=reader.header.byteorder, shape=shape,
        rows_per_strip=0 if 322 in entries and not uses_ndpi else _rows_per_strip(ifd, shape),
        tags=_kept_tags(reader, ifd), tables=tables, **fields,
    )  # fmt: skip


_IMAGE_TAGS = frozenset(
    {254, 255, 258, 259, 262, 266, 277, 284, 317, 322, 323, 338, 339, 530, 32997, 32998}
)
"""Tags that decide how samples are stored, whatever the size of the image."""


def _image_tags(ifd: Directory, quirk: str) -> tuple[tuple[int, Any], ...]:
    """Return the values of `_IMAGE_TAGS`, a cache key: many files share them."""
    values, codes = ifd._values, [code for code in ifd.entries if code in _IMAGE_TAGS]
    tags = tuple([
        (code, values[code] if type(values.get(code)) is int else _hashable_value(ifd, code))
        for code in codes
    ])  # fmt: skip
    if quirk == "lsm" and ifd.entries.get(258, (0, 0))[:2] == (3, 2):
        # two values fit into the entry, but old LSM writers store an offset there
        data = ifd._reader.read(int.from_bytes(ifd.raw(258), "little"), 4)
        return (*tags, (258, tuple(np.frombuffer(data, "<u2").tolist()) or (8,)))
    return tags


@functools.lru_cache(1024)
def _parse_image(
    values: tuple[tuple[int, Any], ...], quirk: str, n_components: int | None
) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Parse how samples are stored; replace missing tags and those that writers get wrong.

    Parameters
    ----------
    values, quirk
        From `_image_tags` and `_writer_quirk`.
    n_components
        That of the JPEG stream, if only the stream gives the size of the image.

    Returns
    -------
    sizes, fields
        Number of separate sample planes, depth, and number of samples interleaved in a pixel; and
        the fields of `IfdFacts` that do not depend on the size of the image, shared by many IFDs.
    """
    tags = dict(values)
    if quirk == _NDPI_GRAY:
        tags |= {258: 16, 262: 1, 277: 1, 339: 1}
    compression, photometric = _number(tags, 259, 1), _number(tags, 262, 0)
    planar, n_samples, depth = (_number(tags, *ifd) for ifd in ((284, 1), (277, 1), (32997, 1)))
    depth = depth or 1  # as in libtiff
    if compression == OLD_JPEG:
        # libtiff's defaults for old-style JPEG
        if 262 not in tags or photometric == _RGB:
            photometric = _YCBCR
        if 277 not in tags and photometric in (0, 1, 2, _YCBCR):
            n_samples = 3
    elif quirk in ("vista", "philips"):
        depth = 1  # they write a wrong ImageDepth
    if n_components is not None:
        n_samples = n_components
        photometric = _YCBCR if 262 not in tags and n_samples == 3 else photometric
        compression = compression if 259 in tags else OLD_JPEG
    planes, samples = _count_planes(photometric, n_samples, planar)
    bits = _bits(tags, compression, n_samples)
    sample_format = _sample_format(tags, quirk, bits, n_samples)
    subsampling = _int_list(tags, 530)
    default = (2, 2) if photometric == _YCBCR and compression not in (6, 7) else (1, 1)
    fields = {
        "dtype": _dtype(bits, sample_format),
        "compression": compression,
        "predictor": _predictor(tags, quirk, compression),
        "fill_order": _number(tags, 266, 1),
        "photometric": photometric,
        "bits": bits,
        "sample_format": sample_format,
        "tile": _tile(tags, depth),
        "is_separate": planar == 2 and planes > 1,
        "extra_samples": _int_list(tags, 338),
        "subsampling": (subsampling[0], subsampling[1]) if len(subsampling) > 1 else default,
        "subfile_type": _subfile_type(tags),
    }
    return (planes, depth, samples), fields


def _predictor(tags: Mapping[int, Any], quirk: str, compression: int) -> int:
    predictor = 1 if quirk == "lsm" and compression == 1 else _number(tags, 317, 1)
    if compression == _PACKBITS and predictor != 1 and quirk != "tifffile":
        raise UnsupportedTiff(
            "readers disagree about a predictor with PackBits: libtiff and GDAL ignore it",
            tag="Predictor (317)", got=predictor, expected="1, or a file written by tifffile",
        )  # fmt: skip
    return predictor


def _count_planes(photometric: int, n_samples: int, planar: int) -> tuple[int, int]:
    """Return the number of separate sample planes, and of samples interleaved in a pixel."""
    if n_samples == 0:
        raise MalformedTiff("pixels have no samples", tag="SamplesPerPixel (277)", got=0)
    if photometric != _RGB and n_samples <= 1:
        return 1, 1
    if n_samples > 1 and planar not in (1, 2):
        raise MalformedTiff(
            "the order of samples is unknown", tag="PlanarConfiguration (284)", got=planar,
            expected="1 or 2",
        )  # fmt: skip
    return (1, n_samples) if planar == 1 else (n_samples, 1)


def _tile(tags: Mapping[int, Any], depth: int) -> tuple[int, int, int] | None:
    width = _number(tags, 322, 0)
    if not width:
        return None
    return 1 if depth == 1 else _number(tags, 32998, 1), _number(tags, 323, 0), width


def _bits(tags: Mapping[int, Any], compression: int, n_samples: int) -> tuple[int, ...]:
    if compression == OLD_JPEG and 258 not in tags:
        return (8,)
    values = _per_sample(tags, 258, n_samples) or (1,)
    if max(values) > _MAX_SHORT:
        raise MalformedTiff("samples have too many bits", tag="BitsPerSample (258)", got=values[:4])
    return values


def _sample_format(
    tags: Mapping[int, Any], quirk: str, bits: tuple[int, ...], n_samples: int
) -> int | tuple[int, ...]:
    values = _per_sample(tags, 339, n_samples)
    if not values and quirk == "indica" and bits == (32,):
        return 3  # the writer omits SampleFormat
    return values if len(values) > 1 else (values or (1,))[0]


def _dtype(bits: tuple[int, ...], sample_format: int | tuple[int, ...]) -> str | None:
    if not isinstance(sample_format, int):
        return None
    if bits == (5, 6, 5):
        return "|u1"
    return _DTYPES.get((sample_format, bits[0])) if len(bits) == 1 else None


def _rows_per_strip(ifd: Directory, shape: tuple[int, int, int, int, int]) -> int:
    n_rows = shape[2]
    tags = {278: _hashable_value(ifd, 278)}
    if 257 not in ifd and not n_rows:
        return _number(tags, 278, 0xFFFFFFFF)
    rows = tags[278]
    if type(rows) is not int or rows < 0:
        rows = _number(tags, 278, 0) if len(set(_int_list(tags, 278))) == 1 else n_rows
    rows = min(rows, n_rows)
    if rows or not n_rows:
        return rows
    n_listed = ifd.n_listed_segments
    if n_listed > shape[0] * shape[1]:
        raise MalformedTiff(
            "strips have 0 rows", tag="RowsPerStrip (278)", got=f"{n_listed} strips"
        )
    return n_rows  # as in libtiff, 0 means all rows if there is a single strip


def _writer_quirk(reader: TiffReader, ifd: Directory) -> str:
    """Return the name of the writer or format if its tags must not be taken literally."""
    first = reader.first
    if 305 in first.entries:
        software = first.get(305)
        if isinstance(software, str):
            for name, start in (("vista", "ISS Vista"), ("philips", "Philips DP"),
                                ("indica", "IndicaLabsImageWriter"),
                                ("tifffile", "tifffile.py")):  # fmt: skip
                if software.startswith(start):
                    return name
    if reader.header.is_ndpi:
        # fluorescence NDPI declares 8-bit RGB but stores 16-bit gray, except for maps and labels
        mode, magnification = first.get(_CAPTURE_MODE), ifd.get(_MAGNIFICATION)
        is_specimen = not isinstance(magnification, int | float) or magnification > 0
        return _NDPI_GRAY if isinstance(mode, int) and mode >= 6 and is_specimen else ""
    return "lsm" if _LSM_INFO in first.entries else ""


def _subfile_type(tags: Mapping[int, Any]) -> int:
    value = tags.get(254)
    if type(value) is int and value:
        return value
    return {2: 1, 3: 2}.get(_number(tags, 255, 0), 0)


def _kept_tags(reader: TiffReader, ifd: Directory) -> dict[int, Any]:
    tags = ifd.tags(_DROPPED_TAGS)
    for code in DIRECTORY_TAGS:
        if code in tags:
            tags[code] = read_linked_ifd(reader, ifd, code)
    if IJ_METADATA in tags:
        tags[IJ_METADATA] = ij_metadata(ifd, reader.header.byteorder) or tags[IJ_METADATA]
    return tags


# ---- tables and streams


def first_bytes(reader: TiffReader, ifd: Directory, most: int = _MAX_HEADER_BYTES) -> bytes:
    """Read the start of the first segment that is not missing."""
    offset, n_bytes = _first_range(reader, ifd, most)
    return reader.read(offset, n_bytes) if offset else b""


def _first_range(reader: TiffReader, ifd: Directory, most: int) -> tuple[int, int]:
    offset, length = map(ifd.first_column, (SEGMENT_OFFSETS, SEGMENT_LENGTHS))
    n = next((n for n in range(len(offset)) if offset[n]), len(offset))
    if n == len(offset) or int(offset[n]) >= reader.size:
        return 0, 0
    n_bytes = int(length[n]) if n < len(length) else 0
    return int(offset[n]), min(n_bytes or most, most)  # the byte count may be missing


def _partial_strip(ifd: Directory) -> tuple[int, int]:
    """Return the range of the last strip if it has fewer rows, which is tested; 0, 0 otherwise."""
    rows, n_rows = ifd.get(257), ifd.get(278)
    offset, length = map(ifd.first_column, (SEGMENT_OFFSETS, SEGMENT_LENGTHS))
    is_partial = type(rows) is type(n_rows) is int and 0 < n_rows < rows and rows % n_rows
    if ifd.get(259) in (None, 1) or not is_partial or not len(offset) == len(length) > 0:
        return 0, 0
    return int(offset[-1]), min(int(length[-1]), _MAX_STRIP_BYTES)


def fetch_first_bytes(reader: TiffReader, ifds: Iterable[Directory]) -> None:
    """Prefetch the `first_bytes` of IFDs whose facts need them, and partial strips, together."""
    places = []
    for ifd in ifds:
        with contextlib.suppress(MalformedTiff):  # reading the facts raises it
            if _hashable_value(ifd, 259) in _STREAMED:
                places.append(_first_range(reader, ifd, _MAX_HEADER_BYTES))
            places.append(_partial_strip(ifd))
    reader.source.prefetch([(offset + reader.base, n_bytes) for offset, n_bytes in places])


def _decoder_tables(reader: TiffReader, ifd: Directory, compression: int) -> dict[str, Any]:
    """Collect decoder tables stored outside the segments."""
    found: dict[str, Any] = {}
    tables = ifd.get(347)
    if tables and isinstance(tables, bytes):
        found["jpeg_tables"] = tables
    if compression in _STREAMED:
        start = first_bytes(reader, ifd)
        found["is_jfif"] = compression in _JFIF_KINDS and start[6:10] == b"JFIF"
        frame = jpeg_frame(start)
        if frame is not None and frame.marker not in _LOSSY_FRAMES:
            found["jpeg_process"] = frame.marker
        photometric = _hashable_value(ifd, 262)
        has_bands = compression == _JPEG and photometric not in (None, *JPEG_COLORS)
        if has_bands and _has_rgb_components(start):
            found["has_rgb_components"] = True
    if compression == OLD_JPEG:
        found.update(_old_jpeg_tables(reader, ifd))
    return found


def _has_rgb_components(start: bytes) -> bool:
    """Return whether a JPEG stream has three components that are not YCbCr.

    libtiff numbers YCbCr components from 1, other components from 0.
    """
    frame = jpeg_frame(start)
    is_named = start[6:10] == b"JFIF" or b"Adobe" in start
    is_rgb = frame is not None and frame.marker in _LOSSY_FRAMES and frame.ids == b"\0\1\2"
    return is_rgb and not is_named


def _old_jpeg_tables(reader: TiffReader, ifd: Directory) -> dict[str, Any]:
    """Collect the tables of old-style JPEG (TIFF 6.0 section 22), which tags refer to by offset."""
    found: dict[str, Any] = {}
    tags = {code: _hashable_value(ifd, code) for code in range(512, 522) if code in ifd}
    start = _int_list(tags, 513)
    if start:
        length = (*_int_list(tags, 514), 0)[0]
        found["ojpeg_interchange"] = reader.read(start[0], min(length or 1 << 16, 1 << 20))
    names = ((519, "ojpeg_q_tables"), (520, "ojpeg_dc_tables"), (521, "ojpeg_ac_tables"))
    for code, name in names:
        if code in tags:
            tables = [_old_jpeg_table(reader, at, code == 519) for at in _int_list(tags, code)[:4]]
            found[name] = b"".join(tables)
    for code, name in ((512, "ojpeg_proc"), (515, "ojpeg_restart_interval")):
        if code in tags:
            found[name] = _number(tags, code, 0)
    header = scan_header(first_bytes(reader, ifd))
    return {**found, "ojpeg_scan_header": header} if header else found


def _old_jpeg_table(reader: TiffReader, offset: int, is_quantization: bool) -> bytes:
    # a Huffman table is 16 counts, followed by as many values as their sum
    return reader.read(offset, 64 if is_quantization else 16 + sum(reader.read(offset, 16)))


def stream_key(facts: IfdFacts) -> Callable[[TiffReader, Directory], Any] | None:
    """Return a function whose result is equal for IFDs of the same tags that decode alike.

    Each old-style JPEG image has its own tables, and NDPI stores them in the strip. JPEG declared
    as RGB holds YCbCr if it has a JFIF marker; otherwise, its component ids decide. None if
    the tags alone decide.
    """
    if facts.compression == OLD_JPEG:
        return lambda reader, ifd: ifd.offset
    if "jpeg_header" in facts.tables:
        return _ndpi_tile
    if facts.compression in JPEG and facts.photometric == _RGB:
        return lambda reader, ifd: first_bytes(reader, ifd, 16)[6:10] == b"JFIF"
    has_bands = facts.photometric not in JPEG_COLORS and facts.shape[4] == 3
    if facts.compression == _JPEG and has_bands:
        return lambda reader, ifd: _has_rgb_components(first_bytes(reader, ifd))
    return None


def n_segments_of(ifd: IfdFacts) -> int:
    """Return the number of segments of an image of this shape."""
    planes, depth, rows, columns, _ = ifd.shape
    if ifd.tile is None:
        return planes * depth * -(-rows // (ifd.rows_per_strip or 1))
    tile_depth, tile_rows, tile_columns = ifd.tile
    n_tiles = -(-rows // (tile_rows or 1)) * -(-columns // (tile_columns or 1))
    return planes * n_tiles * -(-depth // (tile_depth or 1))


# ---- NDPI


def ndpi_segments(ifd: Directory, n_segments: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return offset and length of the restart intervals of an NDPI strip.

    Each range starts two bytes early, at the end of the header or at a restart marker: from these
    bytes decoders can tell whether McuStarts is right.

    Raises
    ------
    MalformedTiff
        If their number is not that of the tiles.
    """
    starts = ifd.column(_MCU_STARTS)
    if _MCU_STARTS_HIGH in ifd:
        starts = starts + (ifd.column(_MCU_STARTS_HIGH) << np.uint64(32))
    if len(starts) != n_segments:
        raise MalformedTiff(
            "restart intervals do not match the tiles of the image",
            tag=f"McuStarts ({_MCU_STARTS})", got=len(starts), expected=n_segments,
        )  # fmt: skip
    offset, length = (int(ifd.column(code)[0]) for code in (273, 279))
    lead = np.uint64(2)
    return starts + np.uint64(offset) - lead, np.diff(starts, append=np.uint64(length)) + lead


def _ndpi_tile(reader: TiffReader, ifd: Directory) -> tuple[tuple[int, int, int], bytes] | None:
    """Return the tile shape of NDPI restart intervals, and the JPEG header to decode them with."""
    starts = ifd.column(_MCU_STARTS)
    if not len(starts) or 273 not in ifd:
        return None
    return _restart_tile(reader.read(int(ifd.column(273)[0]), int(starts[0])))


@functools.lru_cache(64)
def _restart_tile(header: bytes) -> tuple[tuple[int, int, int], bytes] | None:
    """Return the tile shape of one restart interval, and a JPEG header of that size for it.

    None if there are no intervals, or the first one does not start right after the header.
    """
    restart = factors = header_end = None
    for marker, start, end in jpeg_segments(header):
        header_end = end
        if marker == 0xDD:
            restart = int.from_bytes(header[start + 4 : start + 6], "big")
        elif 0xC0 <= marker <= 0xC3:
            place = start + 5
            sampling = header[start + 11 : start + 11 + 3 * header[start + 9] : 3]
            factors = max(n >> 4 for n in sampling), max(n & 15 for n in sampling)
        if marker == 0xDA:
            break
    if not restart or factors is None or header_end != len(header):
        return None
    changed = bytearray(header)
    rows, columns = 8 * factors[1], 8 * factors[0] * restart
    changed[place : place + 4] = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    return (1, rows, columns), bytes(changed)
