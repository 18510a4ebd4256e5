"""Check streams before a library decodes them: their decoded size, and that they are complete.

Limits keep a file of some kilobytes from allocating terabytes. The size of an image is read from
the header of its format; streams without a size are decoded up to a bound. PNG streams are checked
completely: imagecodecs handles errors of libpng by a jump that skips its cleanup and sometimes
corrupts memory, so no stream that libpng would reject may reach it.

References: ITU-T T.81 annex B (JPEG), ISO/IEC 15444-1 annex A (JPEG 2000), RFC 9649 (WebP), Lerc2
blob header (LERC), ISO/IEC 18181-1 annex D (JPEG XL), ITU-T T.832 annex A (JPEG XR), PNG (Third
Edition) sections 5 and 7 to 9; RFC 1950, 1952 (zlib, gzip), RFC 8878 section 3.1.1 (Zstandard).
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import imagecodecs
import numpy as np

from ..errors import MalformedTiff

DECODING_ERRORS = (
    *(RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError),
    *(OSError, EOFError, struct.error, zlib.error, lzma.LZMAError),
)
"""Exceptions that decoders raise for invalid bytes or invalid parameters."""

# ---- limits

HARMLESS_BYTES = 1 << 26
"""Segments of up to this decoded size are always decoded."""
MAX_EXPANSION = 1 << 16
"""Largest ratio of decoded to stored bytes. Zstandard is the densest, with 4 bytes for 128 KiB of
equal bytes; Group 4 fax takes one bit for a blank line, 8 KiB of 65,535 pixels."""
HARMLESS_PIXELS = 1 << 24
"""Images of up to this many pixels are always decoded."""
MAX_OVERSIZE = 16
"""Largest ratio of the pixels of an image to those of its segment: some writers pad strips to whole
blocks of the compression, and tiles to powers of two."""


def check_expansion(
    n_stored: int, n_bytes: int, max_expansion: int = MAX_EXPANSION, tag: str | None = None
) -> None:
    """Refuse a chunk whose decoded size is out of proportion, before anything is allocated.

    Parameters
    ----------
    n_stored
        Stored bytes.
    n_bytes
        Decoded bytes.
    max_expansion
        Largest ratio of the two.
    tag
        Tags that determine the decoded size.

    Raises
    ------
    MalformedTiff
        If there are too few stored bytes.
    """
    if n_bytes > HARMLESS_BYTES and n_stored * max_expansion < n_bytes:
        raise MalformedTiff(
            "the decoded size of a chunk is out of proportion to its stored bytes",
            tag=tag,
            got=f"{n_stored} bytes",
            expected=f"at least {-(-n_bytes // max_expansion)} bytes",
        )


def check_size(name: str, n_bytes: int, max_bytes: int) -> None:
    """Refuse a stream of the codec `name` that decodes to more than `max_bytes`.

    Raises
    ------
    MalformedTiff
        If it does.
    """
    if n_bytes > max_bytes:
        raise MalformedTiff(
            f"{name} decodes to far more than its chunk",
            got=f"{n_bytes} bytes or more",
            expected=f"at most {max_bytes} bytes",
        )


def check_image(name: str, data: bytes, n_pixels: int) -> None:
    """Refuse an image that is far larger than its segment, by its header.

    Parameters
    ----------
    name
        Format, as in `HEADERS`; others are not checked.
    data
        The stream.
    n_pixels
        Pixels of the segment.

    Raises
    ------
    MalformedTiff
        If it does.
    """
    size = image_size(name, data)
    if size is not None and size[0] * size[1] > max(MAX_OVERSIZE * n_pixels, HARMLESS_PIXELS):
        raise MalformedTiff(
            f"{name} image is far larger than its segment",
            got=f"{size[0]} x {size[1]} pixels",
            expected=f"{n_pixels} pixels",
        )


# ---- sizes of images


class JpegFrame(NamedTuple):
    """A JPEG frame header; `marker` is 0xC0 for baseline, 0xC3 for lossless, ..."""

    marker: int
    rows: int
    columns: int
    components: int
    ids: bytes
    """Identifiers of the components."""


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """Find the frame header of a JPEG stream; None if there is none."""
    for marker, start, _ in jpeg_segments(data):
        if marker in _FRAME_MARKERS and start + 10 <= len(data):
            rows, columns, components = struct.unpack_from(">HHB", data, start + 5)
            ids = data[start + 10 : start + 10 + 3 * components : 3]
            return JpegFrame(marker, rows, columns, components, ids)
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of each marker segment before the entropy-coded data."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _BARE_MARKERS:
            position += 2
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            yield marker, position, end
            position = end


_BARE_MARKERS = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def scan_header(data: bytes) -> bytes:
    """Return the scan header (SOS) at the start of old-style JPEG data; empty if there is none."""
    if data[:2] != b"\xff\xda":
        return b""
    return bytes(data[: 2 + int.from_bytes(data[2:4], "big")])


Size = tuple[int, ...]
"""Rows, columns, and values per pixel if the format may have many."""


def image_size(name: str, data: bytes) -> Size | None:
    """Return the size of an image of the named format; None if its header has none."""
    read = HEADERS.get(name)
    try:
        return read(data) if read else None
    except (struct.error, IndexError):
        return None


def _jpeg2k(data: bytes) -> Size | None:
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (n_planes,) = struct.unpack_from(">H", data, start + 40)
    return bottom - top, right - left, n_planes


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        columns = int.from_bytes(data[24:27], "little") + 1
        return int.from_bytes(data[27:30], "little") + 1, columns
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        columns, rows = struct.unpack_from("<2H", data, 26)
        return rows & 0x3FFF, columns & 0x3FFF
    return None


def _lerc(data: bytes) -> Size | None:
    if data[:6] != b"Lerc2 ":
        return None
    (version,) = struct.unpack_from("<i", data, 6)
    # a checksum follows the version from 3 on
    rows, columns = struct.unpack_from("<2i", data, 14 if version >= 3 else 10)
    depth = struct.unpack_from("<i", data, 22)[0] if version >= 4 else 1
    return rows, columns, max(1, depth) * data.count(b"Lerc2 ")


def is_animated(data: bytes) -> bool:
    """Return whether a JPEG XL stream may have more than one frame, or a preview."""
    header = _jpegxl_header(data)
    return header is not None and header[2]


def _jpegxl_header(data: bytes) -> tuple[int, int, bool] | None:
    """Return rows, columns, and whether there may be more than one frame."""
    if data[4:8] == b"JXL ":  # in boxes: the codestream starts in jxlc, or after 4 bytes of jxlp
        box = re.search(rb"jxlc|jxlp.{4}", data[32:4096], re.DOTALL)
        data = data[32 + box.end() :] if box else b""
    if data[:2] != b"\xff\x0a":
        return None
    bits = int.from_bytes(data[2:24], "little")

    def take(n: int) -> int:
        nonlocal bits
        value = bits & ((1 << n) - 1)
        bits >>= n
        return value

    def length(is_short: int) -> int:
        return 8 * (1 + take(5)) if is_short else 1 + take((9, 13, 18, 30)[take(2)])

    is_short = take(1)
    rows = length(is_short)
    ratio = take(3)
    across, down = _RATIOS[ratio - 1] if ratio else (0, 1)
    columns = rows * across // down if ratio else length(is_short)
    has_more = not take(1) and take(1)  # not all fields at their default, and extra fields
    take(3)  # orientation
    return rows, columns, bool(has_more and (take(1) or take(1) or take(1)))


_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Ratios of columns to rows of JPEG XL, if only the rows are given."""


def _jpegxr_tags(data: Any) -> dict[int, int]:
    """Return the values in the IFD of a JPEG XR file by tag (ITU-T T.832, Annex A)."""

    def number(at: int, n_bytes: int) -> int:
        return int.from_bytes(data[at : at + n_bytes], "little")

    first = number(4, 4)
    places = range(first + 2, first + 2 + 12 * min(number(first, 2), 64), 12)
    return {number(at, 2): number(at + 8, 2 if number(at + 2, 2) == 3 else 4) for at in places}


def _jpegxr(data: bytes) -> tuple[int, int] | None:
    tags = _jpegxr_tags(data) if data[:3] == START_OF_JPEGXR else {}
    return (tags[0xBC81], tags[0xBC80]) if {0xBC80, 0xBC81} <= tags.keys() else None


HEADERS: dict[str, Callable[[bytes], Size | None]] = {
    "jpeg": lambda data: (frame := jpeg_frame(data)) and (frame.rows, frame.columns),
    "jpeg2k": _jpeg2k,
    "jpegxl": lambda data: (header := _jpegxl_header(data)) and header[:2],
    "jpegxr": _jpegxr,
    "lerc": _lerc,
    "png": lambda data: struct.unpack_from(">2I", data, 16)[::-1],
    "webp": _webp,
}
"""Name of the decoder in `codecs.decoders` -> function that returns the size of an image."""


def _has_jpeg_end(data: Any) -> bool:
    """Return whether a stream has its end; bytes may follow it, a thumbnail in its header may not.

    Old-style JPEG whose tables are in tags has none.
    """
    if data[-2:] == END_OF_JPEG:
        return True
    start = next((end for marker, _, end in jpeg_segments(data) if marker == _START_OF_SCAN), 0)
    return bytes(data).find(END_OF_JPEG, start) >= 0


def has_one_scan(data: Any) -> bool:
    """Return whether a JPEG stream has one scan: not if progressive, or by component."""
    frame = jpeg_frame(data)
    scans = (data[at + 4] for marker, at, _ in jpeg_segments(data) if marker == _START_OF_SCAN)
    if frame is None or frame.marker not in _SEQUENTIAL_FRAMES:
        return False
    return next(scans, 0) == frame.components


_START_OF_SCAN, _SEQUENTIAL_FRAMES = 0xDA, frozenset((0xC0, 0xC1, 0xC3, 0xC9))
START_OF_JPEG, END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"


def stream_end(data: Any) -> int:
    """Return where a WebP or JPEG XR stream ends, by its header; 0 for other formats.

    In JPEG XR, an alpha channel follows the image; jxrlib writes its end instead of its byte count.
    """
    if data[:4] == b"RIFF":  # the byte that pads it may be left out
        return min(8 + int.from_bytes(data[4:8], "little"), len(data))
    tags = _jpegxr_tags(data) if data[:3] == START_OF_JPEGXR else {}
    image, n_image, alpha, n_alpha = (tags.get(tag, 0) for tag in range(0xBCC0, 0xBCC4))
    end_of_alpha = n_alpha if n_alpha > alpha else alpha + n_alpha
    return max(image + n_image, end_of_alpha)


START_OF_JPEGXR = b"II\xbc"
N_LAST_ZEROS = 8


def _has_written_end(data: Any) -> bool:
    """Return whether the bytes reach to the end of a stream, which nearly never is zeros."""
    end = stream_end(data)
    return not end or (end <= len(data) and any(bytes(data[end - N_LAST_ZEROS : end])))


HAVE_END: dict[str, Callable[[Any], bool]] = {
    "jpeg": _has_jpeg_end,
    "old_jpeg": lambda data: data[:2] != START_OF_JPEG or _has_jpeg_end(data),
    "jpegxr": _has_written_end,
    "jpeg2k": _has_jpeg_end,
    "webp": _has_written_end,
}
"""Name of a decoder that makes up what a truncated stream lacks -> whether a stream has its end.

Those of JPEG 2000 and WebP do so only if zeros take its place.
"""


# ---- PNG

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
_MAX_SIDE = 1_000_000
"""libpng's own limit of width and height."""
_KEPT_CHUNKS = {0: (b"tRNS",), 2: (b"tRNS",), 3: (b"PLTE", b"tRNS")}
"""Color type -> chunks besides IDAT that change samples."""


def clean_png(data: Any, max_bytes: int) -> bytes:
    """Return a PNG stream with only those chunks that change samples.

    Parameters
    ----------
    data
        The stream.
    max_bytes
        Largest decoded size.

    Raises
    ------
    ValueError
        If it does not contain a complete image, or one that is too large.
    """
    stream = bytes(data)
    if not stream.startswith(_SIGNATURE):
        raise ValueError("no PNG signature")
    parts: dict[bytes, list[bytes]] = {}
    for name, body in _png_chunks(stream):
        parts.setdefault(name, []).append(body)
    header = parts.get(b"IHDR", [b""])[0]
    if len(header) != 13 or stream[12:16] != b"IHDR":
        raise ValueError("no PNG header")
    width, height, depth, color, compression, filters, interlace = struct.unpack(">2I5B", header)
    if depth not in _DEPTHS.get(color, ()) or compression or filters or interlace > 1:
        raise ValueError("PNG header has invalid values")
    if not 0 < width <= _MAX_SIDE or not 0 < height <= _MAX_SIDE:
        raise ValueError(f"PNG of {width} x {height} pixels")
    palette = parts.get(b"PLTE", [b""])[0]
    if color == 3 and (not palette or len(palette) % 3 or len(palette) > 768):
        raise ValueError("no valid PNG palette")
    image = b"".join(parts.get(b"IDAT", ()))
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    sizes = [_pass_size(width, height, depth * _SAMPLES[color], *steps) for steps in passes]
    _check_png_data(image, [size for size in sizes if size[0] and size[1]], max_bytes)
    samples = [(name, parts[name][0]) for name in _KEPT_CHUNKS.get(color, ()) if name in parts]
    chunks = [(b"IHDR", header), *samples, (b"IDAT", image), (b"IEND", b"")]
    return _SIGNATURE + b"".join(map(_write_png_chunk, chunks))


def _png_chunks(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(_SIGNATURE)
    while position + 12 <= len(stream):
        (size,) = struct.unpack_from(">I", stream, position)
        name = stream[position + 4 : position + 8]
        end = position + 8 + size
        if end + 4 > len(stream):
            raise ValueError("PNG is truncated")
        body = stream[position + 8 : end]
        if zlib.crc32(name + body) != struct.unpack_from(">I", stream, end)[0]:
            raise ValueError(f"checksum of PNG chunk {name!r} is wrong")
        yield name, body
        if name == b"IEND":
            return
        position = end + 4
    raise ValueError("PNG has no IEND chunk")


def _pass_size(
    width: int, height: int, bits: int, x: int, y: int, dx: int, dy: int
) -> tuple[int, int]:
    """Return the number of rows of one pass, and the bytes of a row with its filter byte."""
    columns = -(-(width - x) // dx) if width > x else 0
    n_rows = -(-(height - y) // dy) if height > y else 0
    return n_rows, 1 + -(-columns * bits // 8) if columns else 0


def _check_png_data(image: bytes, sizes: list[tuple[int, int]], max_bytes: int) -> None:
    n_bytes = sum(n_rows * row for n_rows, row in sizes)
    if n_bytes > max_bytes:
        raise ValueError(f"PNG image of {n_bytes} bytes is too large")
    try:
        inflater = zlib.decompressobj()
        pixels = inflater.decompress(image, n_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"PNG image does not inflate: {error}") from error
    if len(pixels) != n_bytes or not inflater.eof or inflater.unused_data:
        raise ValueError("the size of the PNG image differs from its header")
    position = 0
    for n_rows, row in sizes:
        block = np.frombuffer(pixels, np.uint8, n_rows * row, position)
        if (block[::row] > 4).any():
            raise ValueError("PNG rows have unknown filters")
        position += n_rows * row


def _write_png_chunk(chunk: tuple[bytes, bytes]) -> bytes:
    name, body = chunk
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


# ---- streams


def inflate(config: Mapping[str, Any], data: bytes, max_bytes: int) -> bytes:
    """Decode a stream whose decoded size is not stored, up to a bound.

    Parameters
    ----------
    config
        Configuration of zlib, gzip, bz2 or lzma in a document.
    data
        The stream.
    max_bytes
        Largest decoded size.

    Raises
    ------
    MalformedTiff
        If it decodes to more. Invalid streams raise one of `DECODING_ERRORS`.
    """
    name = config["id"]
    if name == "zlib" and max_bytes <= HARMLESS_BYTES:
        # takes half the time, but does not say why it fails
        with contextlib.suppress(RuntimeError):
            return bytes(imagecodecs.deflate_decode(data, out=max_bytes))
    parts, left = [], max_bytes
    while data:
        decompressor = _decompressor(config)
        parts.append(decompressor.decompress(data, left + 1))
        left -= len(parts[-1])
        check_size(name, max_bytes - left, max_bytes)
        if not decompressor.eof:
            raise ValueError(f"{name} stream is truncated")
        data = decompressor.unused_data if name != "zlib" else b""
    return b"".join(parts)


def _decompressor(config: Mapping[str, Any]) -> Any:
    if config["id"] == "zlib":
        return zlib.decompressobj()
    if config["id"] == "gzip":
        return zlib.decompressobj(wbits=31)
    if config["id"] == "bz2":
        return bz2.BZ2Decompressor()
    is_raw = config.get("format", lzma.FORMAT_XZ) == lzma.FORMAT_RAW
    return lzma.LZMADecompressor(
        lzma.FORMAT_RAW if is_raw else config.get("format", lzma.FORMAT_XZ),
        None if is_raw else _LZMA_MEMORY_BYTES,
        config.get("filters") if is_raw else None,
    )


_LZMA_MEMORY_BYTES = 1 << 27
"""Memory limit of the LZMA decoder; the highest preset needs half of it."""


def first_xz_stream(data: bytes, max_bytes: int) -> bytes:
    """Decode the first xz stream in some data, up to `max_bytes` bytes.

    Raises
    ------
    ValueError, lzma.LZMAError
        If there is none, or it is truncated.
    """
    decompressor = _decompressor({"id": "lzma"})
    decoded = decompressor.decompress(data, max_bytes)
    if len(decoded) < max_bytes and not decompressor.eof:
        raise ValueError("the xz stream is truncated")
    return decoded


def trim_zstd(data: bytes, n_bytes: int) -> bytes:
    """Remove what follows the Zstandard frames of the first `n_bytes` decoded bytes.

    Byte counts that are too large include it, even the frame of the next segment.

    Raises
    ------
    ValueError
        If the first frame is truncated.
    """
    position = decoded = 0
    while decoded < n_bytes and _is_zstd_frame(data, position):
        end, n_frame, _ = _measure_zstd_frame(data, position)
        if end > len(data) and not position:
            raise ValueError("a Zstandard frame is truncated")
        if end > len(data):
            break
        position, decoded = end, decoded + n_frame
    return data[:position]


def zstd_bound(data: bytes) -> int:
    """Return how many bytes Zstandard frames decode to at most: 128 KiB for each block.

    Raises
    ------
    ValueError
        If the data are not frames, or a frame is truncated.
    """
    bound = position = 0
    while position < len(data):
        if not _is_zstd_frame(data, position):
            raise ValueError("not a Zstandard frame")
        position, n_declared, n_blocks = _measure_zstd_frame(data, position)
        bound += max(n_declared, n_blocks << 17)
    if position > len(data):
        raise ValueError("a Zstandard frame is truncated")
    return bound


def _is_zstd_frame(data: bytes, position: int) -> bool:
    magic = data[position : position + 4]
    return magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5)


def _measure_zstd_frame(data: bytes, position: int) -> tuple[int, int, int]:
    """Return the end of a frame, past that of the data if truncated; declared size; blocks."""
    if data[position] != 0x28:  # skippable frame
        return position + 8 + int.from_bytes(data[position + 4 : position + 8], "little"), 0, 0
    flags = int.from_bytes(data[position + 4 : position + 5])
    is_single = bool(flags & 0x20)
    width = (int(is_single), 2, 4, 8)[flags >> 6]
    position += 6 - is_single + (0, 1, 2, 4)[flags & 3]
    n_bytes = int.from_bytes(data[position : position + width], "little")
    position += width
    is_last, n_blocks = False, 0
    while not is_last and position < len(data):
        n_blocks += 1
        header = int.from_bytes(data[position : position + 3], "little")
        is_last = bool(header & 1)
        position += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
    end = position + (4 if flags & 4 else 0)
    n_bytes += 256 if width == 2 else 0
    return end if is_last else len(data) + 1, n_bytes, n_blocks
