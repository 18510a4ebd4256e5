"""A small writer of image file directories, for files that no library at hand writes.

Directories go into the file in the order given, each as directory, values of tags, segments, or
with the segments before the values. Files with holes cost nothing: `at` says where a directory
starts.

References: TIFF 6.0 section 2; BigTIFF; NDPI as OpenSlide documents it: a classic header, but the
offsets of directories have 8 bytes, and the high halves of the entries' values follow them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_TYPES = {
    1: "B",
    2: "s",
    3: "H",
    4: "I",
    6: "b",
    7: "B",
    9: "i",
    11: "f",
    12: "d",
    13: "I",
    16: "Q",
}
_OFFSETS, _LENGTHS, _TILE_OFFSETS, _TILE_LENGTHS = 273, 279, 324, 325


class Form(NamedTuple):
    """How a kind of TIFF spells counts of entries, entries, and offsets."""

    version: int
    count: str
    entry: str
    offset: str
    value_size: int

    def size(self, n_entries: int) -> int:
        """Return the bytes of a directory of so many entries."""
        size = struct.calcsize(f"={self.entry}") + self.value_size
        size = struct.calcsize(f"={self.count}") + n_entries * size
        size += struct.calcsize(f"={self.offset}")
        return size + (4 * n_entries if self is NDPI else 0)


CLASSIC = Form(42, "H", "HHI", "I", 4)
BIG = Form(43, "Q", "HHQ", "Q", 8)
NDPI = Form(42, "H", "HHI", "Q", 4)


class As(NamedTuple):
    """A value of a type that is not told by its looks; `count` where it is no number of items."""

    kind: int
    value: Any
    count: int | None = None


@dataclass
class Ifd:
    """One directory: tags by number, stored segments, and where in the file it is to start.

    `lengths` are those that the directory gives for the segments, where they are not true.
    """

    tags: dict[int, Any]
    segments: Sequence[bytes] = ()
    lengths: Sequence[int] | None = None
    at: int | None = None
    subifds: Sequence[Ifd] = field(default=())
    is_pixels_first: bool = False


def write_tiff(
    path: Path, ifds: Sequence[Ifd], *, form: Form = CLASSIC, order: str = "<", prefix: bytes = b""
) -> list[int]:
    """Write a file with `prefix` behind its header; return the offset of each directory."""
    with path.open("w+b") as file:
        file.write(b"II" if order == "<" else b"MM")
        file.write(struct.pack(f"{order}H", form.version))
        if form is BIG:
            file.write(struct.pack(f"{order}HH", 8, 0))
        pointer = file.tell()
        file.write(bytes(struct.calcsize(f"={form.offset}")) + prefix)
        offsets = []
        for ifd in ifds:
            here, following = _write_ifd(file, form, order, ifd)
            file.seek(pointer)
            file.write(struct.pack(f"{order}{form.offset}", here))
            offsets.append(here)
            pointer = following
    return offsets


def _write_ifd(file: BinaryIO, form: Form, order: str, ifd: Ifd) -> tuple[int, int]:
    """Write one directory at the end of the file; return its place and that of its successor's."""
    tags = dict(ifd.tags)
    if ifd.subifds:
        below = [_write_ifd(file, form, order, sub)[0] for sub in ifd.subifds]
        tags[330] = As(16 if form is BIG else 13, below)
    here = ifd.at if ifd.at is not None else file.seek(0, 2) + file.tell() % 2
    lengths = ifd.lengths or [len(segment) for segment in ifd.segments]
    places = (_TILE_OFFSETS, _TILE_LENGTHS) if 322 in tags else (_OFFSETS, _LENGTHS)
    kind = 16 if form is BIG else 4
    if ifd.segments:
        tags |= {places[0]: As(kind, lengths), places[1]: As(kind, lengths)}
    spelled = {code: _spell(tags[code], order) for code in sorted(tags)}
    outside = [code for code in spelled if _is_outside(form, *spelled[code])]
    n_outside = sum(len(spelled[code][2]) for code in outside)
    at = here + form.size(len(tags))
    at_segments = at if ifd.is_pixels_first else at + n_outside
    at_values = at_segments + sum(map(len, ifd.segments)) if ifd.is_pixels_first else at
    if ifd.segments:
        ends = np.cumsum([0, *map(len, ifd.segments)])
        spelled[places[0]] = _spell(As(kind, [at_segments + int(n) for n in ends[:-1]]), order)
    file.seek(at_segments)
    file.write(b"".join(ifd.segments))
    file.seek(at_values)
    entries, high = b"", b""
    for code, (kind, count, raw) in spelled.items():
        value = raw
        if code in outside:
            value = struct.pack(f"{order}{form.offset}", file.tell())
            file.write(raw)
        value = value.ljust(8, b"\0")
        entries += struct.pack(f"{order}{form.entry}", code, kind, count) + value[: form.value_size]
        high += value[4:8]
    file.seek(here)
    file.write(struct.pack(f"{order}{form.count}", len(tags)) + entries)
    pointer = file.tell()
    file.write(bytes(struct.calcsize(f"={form.offset}")) + (high if form is NDPI else b""))
    return here, pointer


def _is_outside(form: Form, kind: int, count: int, raw: bytes) -> bool:
    """Say whether a value goes behind the directory: in NDPI all texts do, and no single LONG."""
    if form is NDPI and (kind == 2 or (kind == 4 and count == 1)):
        return kind == 2
    return len(raw) > form.value_size


def _spell(value: Any, order: str) -> tuple[int, int, bytes]:
    """Return type, count and bytes of a tag's value."""
    if isinstance(value, As):
        kind, items, count = value
    else:
        kind, items, count = _guess(value), value, None
    if kind == 2:
        raw = items if isinstance(items, bytes) else items.encode() + b"\0"
        return 2, len(raw) if count is None else count, raw
    if isinstance(items, bytes):
        return kind, len(items) if count is None else count, items
    items = np.atleast_1d(items).tolist() if kind != 5 else np.atleast_1d(items)
    if kind == 5:
        pairs = [
            n for item in items for n in Fraction(item).limit_denominator(10**6).as_integer_ratio()
        ]
        return 5, len(items), struct.pack(f"{order}{len(pairs)}I", *pairs)
    code = _TYPES[kind]
    if kind == 4 and max(items) >= 1 << 32:
        code = "Q"  # of NDPI
    raw = struct.pack(f"{order}{len(items)}{code}", *items)
    return kind, len(items) if count is None else count, raw


def _guess(value: Any) -> int:
    if isinstance(value, str):
        return 2
    if isinstance(value, bytes):
        return 7
    items = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(item, Fraction) for item in items):
        return 5
    if any(isinstance(item, float) for item in items):
        return 12
    return 3 if max(items) < 1 << 16 else 4


def image(
    pixels: np.ndarray,
    tags: dict[int, Any] | None = None,
    *,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    encode: Callable[[np.ndarray], bytes] | None = None,
    order: str = "<",
    is_planar: bool = False,
    **more: Any,
) -> Ifd:
    """Return the directory of an image (rows, columns[, samples]), or (samples, rows, columns).

    `encode` makes the bytes of a segment; tags override those of a plain image.
    """
    planes = pixels if is_planar else pixels[None]
    n_rows, n_columns = planes.shape[1:3]
    samples = len(planes) if is_planar else (planes.shape[3] if planes.ndim == 4 else 1)
    kind = pixels.dtype
    found: dict[int, Any] = {
        256: n_columns, 257: n_rows, 258: [8 * kind.itemsize] * samples, 259: 1,
        262: 2 if samples == 3 else 1, 277: samples, 284: 2 if is_planar else 1,
        339: [{"u": 1, "i": 2, "f": 3}[kind.kind]] * samples,
    }  # fmt: skip
    if tile:
        found |= {322: tile[1], 323: tile[0]}
    else:
        found[278] = rows or n_rows
    step = tile or (rows or n_rows, n_columns)
    segments = []
    for plane in planes:
        for y in range(0, n_rows, step[0]):
            for x in range(0, n_columns, step[1]):
                part = plane[y : y + step[0], x : x + step[1]]
                if tile:
                    lack = [(0, s - n) for s, n in zip(step, part.shape[:2], strict=True)]
                    part = np.pad(part, lack + [(0, 0)] * (part.ndim - 2))
                part = part.astype(kind.newbyteorder(order))
                segments.append(encode(part) if encode else part.tobytes())
    return Ifd(found | (tags or {}), segments, **more)
