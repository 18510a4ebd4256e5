"""Parse ImageDescription texts of ImageJ and tifffile, and Exif IFDs, into plain values.

Also parses ImageJ's binary metadata and the other IFDs that a tag points to (GPS,
interoperability).

References: ImageJ `FileInfo` and `TiffDecoder`, tags 50838 and 50839; tifffile, "shaped" series;
Exif 2.32, sections 4.6.5 to 4.6.7.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from .ifd import Directory, TiffReader

_DESCRIPTION, _IJ_COUNTS, IJ_METADATA = 270, 50838, 50839
_OLD_SHAPE = re.compile(r"shape=\(([\d, ]*)\)")
_MAX_HEADER_BYTES = 804
_BOOLEANS = {"true": True, "false": False}
_MAX_DIMENSIONS = 32


def _texts(ifd: Directory) -> Iterator[str]:
    for text in (ifd.get(_DESCRIPTION), *ifd.more_descriptions[:1]):
        if isinstance(text, str) and text:
            yield text


def shaped_text(ifd: Directory) -> str | None:
    """Return the ImageDescription in which tifffile stores the shape of a series."""
    for text in _texts(ifd):
        is_json = text.startswith("{") and '"shape":' in text
        if '"mibi.' not in text and (is_json or text.startswith("shape=")):
            return text
    return None


@dataclass(frozen=True, slots=True)
class Shaped:
    """A tifffile description; `axes` is "" if it does not match the shape."""

    shape: tuple[int, ...]
    axes: str | None
    name: str
    is_truncated: bool | None


def parse_shaped(text: str) -> Shaped | None:
    """Parse a tifffile description; None if the shape is invalid."""
    old = _OLD_SHAPE.match(text)
    try:
        record = (
            {"shape": [int(n) for n in old[1].split(",") if n.strip()]} if old else json.loads(text)
        )
        shape, axes = record["shape"], record.get("axes")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    is_shape = isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS
    if not is_shape or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
        return None
    if axes is not None and (not isinstance(axes, str) or len(axes) != len(shape)):
        axes = ""
    truncated = record.get("truncated")
    name = record.get("name", "")
    return Shaped(
        tuple(shape), axes, name if isinstance(name, str) else "",
        None if truncated is None else bool(truncated),
    )  # fmt: skip


def _value(text: str) -> Any:
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return _BOOLEANS.get(text.lower(), text)


def imagej_metadata(ifd: Directory, byteorder: str) -> dict[str, Any] | None:
    """Return the metadata of ImageJ or SCIFIO from description and IJMetadata.

    None without a description that declares the planes.
    """
    text = next((text for text in _texts(ifd) if text.startswith(("ImageJ=", "SCIFIO="))), None)
    if text is None:
        return None
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    items = {key.strip(): _value(value.strip()) for key, value in pairs}
    if IJ_METADATA in ifd:
        items.update(ij_metadata(ifd, byteorder) or {})
    return items


def ij_metadata(ifd: Directory, byteorder: str) -> dict[str, Any] | None:
    """Return the items of tag IJMetadata by name; None if it is damaged."""
    data, counts = ifd.get(IJ_METADATA), ifd.get(_IJ_COUNTS)
    if not isinstance(data, bytes) or not isinstance(counts, tuple) or not counts:
        return None
    if data[:4] not in (b"IJIJ", b"JIJI") or not 12 <= counts[0] <= _MAX_HEADER_BYTES:
        return None
    try:
        return _parse_ij(data, counts, byteorder)
    except (struct.error, ValueError, IndexError, TypeError):
        return None


def _parse_ij(data: bytes, counts: tuple[int, ...], byteorder: str) -> dict[str, Any]:
    n_types = (counts[0] - 4) // 8
    header = struct.unpack_from(f"{byteorder}{'4sI' * n_types}", data, 4)
    position, n_read = 4 + 8 * n_types, 0
    found: dict[str, Any] = {}
    for mark, count in zip(header[::2], header[1::2], strict=True):
        name, read = _IJ_ITEMS.get(
            mark if byteorder == ">" else mark[::-1], (mark.decode("latin-1"), _raw)
        )
        values = []
        for _ in range(min(count, len(counts) - 1 - n_read)):
            n_read += 1
            values.append(read(data[position : position + counts[n_read]], byteorder))
            position += counts[n_read]
        found[name.strip()] = values[0] if count == 1 and values else values
    properties = found.get("Properties")
    if isinstance(properties, list) and len(properties) % 2 == 0:
        found["Properties"] = dict(zip(properties[::2], properties[1::2], strict=True))
    return found


def _text(data: bytes, byteorder: str) -> str:
    return data.decode("utf-16-be" if byteorder == ">" else "utf-16-le")


def _doubles(data: bytes, byteorder: str) -> tuple[float, ...]:
    return struct.unpack(f"{byteorder}{len(data) // 8}d", data[: len(data) // 8 * 8])


def _raw(data: bytes, byteorder: str) -> bytes:
    return data


_IJ_ITEMS: Mapping[bytes, tuple[str, Any]] = {
    b"info": ("Info", _text),
    b"labl": ("Labels", _text),
    b"rang": ("Ranges", _doubles),
    b"luts": ("LUTs", lambda data, _: np.frombuffer(data, np.uint8).reshape(-1, 256)),
    b"plot": ("Plot", _raw),
    b"roi ": ("ROI", _raw),
    b"over": ("Overlays", _raw),
    b"prop": ("Properties", _text),
}
"""Items of IJMetadata by their type in big-endian files: name and parser."""


_SCIFIO_AXES = {"X": "X", "Y": "Y", "Channel": "C", "Z": "Z", "Time": "T"}


def scifio_axes(found: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the axes of planes, slowest first, and the size of axis "I".

    SCIFIO lists axes fastest first. "I" stands for an axis that ImageJ does not know, such as
    Lifetime; None if there are several.
    """
    names, lengths = (str(found.get(key, "")).split(",") for key in ("axes", "lengths"))
    sizes = {_SCIFIO_AXES.get(name, "I"): n for name, n in zip(names, lengths, strict=False)}
    if len(sizes) < len(names) or not sizes.keys() >= {"X", "Y"}:
        return None
    n_others = sizes.get("I", "1")
    if not n_others.isdecimal() or not 1 <= int(n_others) < 1 << 31:
        return None
    order = "".join(axis for axis in reversed(sizes) if axis not in "XY")
    return "".join(axis for axis in "TZC" if axis not in order) + order, int(n_others)


def scifio_defects(found: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    """Return a defect if SCIFIO's lengths of axes are not those of the pages and counts."""
    names, lengths = (str(found.get(key, "")).split(",") for key in ("axes", "lengths"))
    counted = [str(sizes.get(_SCIFIO_AXES.get(name, "I"), "?")) for name in names]
    pairs = zip_longest(lengths, counted)
    if all(listed == n for listed, n in pairs if n != "?"):
        return []
    texts = ", ".join(lengths), ", ".join(names), ", ".join(counted)
    return ["SCIFIO's lengths are {} for {}, but the pages and counts have {}".format(*texts)]


# ---- Exif

_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
DIRECTORY_TAGS = frozenset({_EXIF, _GPS, _INTEROPERABILITY})
_COMMENT = "UserComment"


def read_linked_ifd(reader: TiffReader, ifd: Directory, code: int) -> Any:
    """Read the IFD that a tag points to (Exif, GPS, interoperability).

    Returns
    -------
    Its values by name, or the value of the tag if there is no IFD at that offset.
    """
    value = ifd.get(code)
    at = value[0] if isinstance(value, tuple) and value else value
    below = reader.directory(at) if isinstance(at, int) and at else None
    if below is None:
        if at:
            reader.add_finding(ifd, "the tag points to no IFD", code, f"offset {at}", False)
        return value
    from tifffile import TIFF

    registries = {_EXIF: TIFF.EXIF_TAGS, _GPS: TIFF.GPS_TAGS, _INTEROPERABILITY: TIFF.IOP_TAGS}
    names = registries[code]
    values = {names.get(tag, str(tag)): below.get(tag) for tag in below.entries}
    for name in ("ExifVersion", "FlashpixVersion", _COMMENT):
        if isinstance(values.get(name), bytes):
            values[name] = _to_text(values[name], name)
    return values


def _to_text(data: bytes, name: str) -> str | bytes:
    """Decode a text stored as UNDEFINED; return the bytes if they are not text."""
    encoding, text = "utf-8", data
    if name == _COMMENT:
        encodings = {b"ASCII\0\0\0": "utf-8", b"UNICODE\0": "utf-16"}
        if data[:8] not in encodings:
            return data
        encoding, text = encodings[data[:8]], data[8:]
    try:
        return text.decode(encoding).rstrip("\0")
    except UnicodeDecodeError:
        return data
