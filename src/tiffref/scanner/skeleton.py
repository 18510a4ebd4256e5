"""What files of a series have in common: their directories without offsets and dates.

Owns the comparison of raw directories (TIFF 6.0 section 2, BigTIFF). Files of a series mostly
differ in nothing but where their segments are; the first is then scanned in full, and of the others
only the columns of offsets and lengths are taken. A file with any other difference is scanned in
full: this module says yes only where all that a scan looks at is equal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff
from ..model.codec import SegmentCodec
from ..model.manifest import INLINED, MISSING, Manifest, Source
from ..model.node import Array
from ..references import References
from .ifd import TYPE_SIZES, Header, parse_header
from .source import ByteSource, LocalSource

__all__ = ["GEO_TAGS", "VOLATILE_TAGS", "Skeleton", "Template", "make_template", "read_skeleton"]

GEO_TAGS = frozenset({33550, 33922, 34264, 34735, 34736, 34737})
"""ModelPixelScale, ModelTiepoint, ModelTransformation and the GeoKeys."""
_OFFSET_TAGS = frozenset({273, 324})
_LENGTH_TAGS = frozenset({279, 325})
_COLUMN_TAGS = _OFFSET_TAGS | _LENGTH_TAGS
_NOTED_TAGS = GEO_TAGS | {270, 306}
_SUB_IFDS = 330
VOLATILE_TAGS = frozenset({269, 285, 306, 315, 316, 700, 33723, 34377, 34665, 34853, 40965})
"""DocumentName, PageName, DateTime, Artist, HostComputer, XMP, IPTC, Photoshop, and the pointers to
Exif, GPS and interoperability directories: they change from file to file and move no pixel."""
_MARKED_JPEG = frozenset({7, 33007, 34892})
_OLD_JPEG = 6
_KINDS = frozenset({"generic", "uniform", "shaped", "imagej", "ome", "geotiff"})
"""Series that tifffile tells from the directories of one file alone."""
_AHEAD_BYTES = 1 << 13
_MAX_IFDS = 1 << 16
_MAX_VALUE_BYTES = 1 << 26
_DTYPES = {
    order: {
        kind: np.dtype(order + code)
        for kind, code in ((1, "u1"), (3, "u2"), (4, "u4"), (13, "u4"), (16, "u8"), (18, "u8"))
    }
    for order in "<>"
}
"""Byte order -> type of an entry -> data type; other types hold no offsets."""

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """The directories of one file.

    Attributes
    ----------
    source
        The file.
    signature
        Equal for files that a scan tells alike but for the places of segments; None where that
        cannot be said.
    offsets, lengths
        Of the segments of each directory, `(n_segments,)` uint64.
    notes
        Values of the first directory by tag: georeference, date and description.
    volatile
        (directory, tag, type, count, bytes) of tags that are not in the signature.
    place
        The georeference alone, as a value that can be compared.
    """

    source: Source
    signature: tuple | None
    offsets: tuple[NDArray[np.uint64], ...] = ()
    lengths: tuple[NDArray[np.uint64], ...] = ()
    notes: Mapping[int, Any] = field(default_factory=dict)
    volatile: tuple[tuple[int, int, int, int, bytes], ...] = ()
    place: tuple = ()


class _Irregular(Exception):
    """A directory is not as it should be: the scan in full says what is wrong with it."""


def read_skeleton(there: ByteSource) -> Skeleton:
    """Read all directories of an open file.

    Raises
    ------
    MalformedTiff
        If it is no TIFF.
    SourceError
        If it cannot be read.
    """
    read = _read_ahead(there) if isinstance(there, LocalSource) else there.read
    try:
        header = parse_header(read(0, 16))
    except MalformedTiff as error:
        error.url = error.url or there.source.url
        raise
    reader = _Reader(read, header, there.size)
    suffix = there.source.url.rpartition(".")[2].lower()
    try:
        reader.read_chain(header.first_ifd)
    except (_Irregular, struct.error):
        return Skeleton(there.source, None, notes=reader.notes, place=_place_of(reader.notes))
    place = _place_of(reader.notes)
    signature = (suffix, header.byteorder, header.is_big, *reader.parts)
    if reader.is_special or suffix == "ndpi":
        return Skeleton(there.source, None, notes=reader.notes, place=place)
    return Skeleton(
        there.source,
        signature,
        tuple(reader.offsets),
        tuple(reader.lengths),
        reader.notes,
        tuple(reader.volatile),
        place,
    )


def _place_of(notes: Mapping[int, Any]) -> tuple:
    return tuple((code, notes[code]) for code in sorted(notes) if code in GEO_TAGS)


def _read_ahead(there: ByteSource) -> Read:
    """Read some KiB at once: directories and their values mostly lie together."""
    blocks: list[tuple[int, bytes]] = []

    def read(offset: int, length: int) -> bytes:
        for start, data in blocks:
            at = offset - start
            if at >= 0 and at + length <= len(data):
                return data[at : at + length]
        data = there.read(offset, max(length, _AHEAD_BYTES))
        blocks.append((offset, data))
        return data[:length]

    return read


class _Reader:
    """Walks the directories of one file and collects what `Skeleton` holds."""

    def __init__(self, read: Read, header: Header, size: int) -> None:
        self._read, self._header, self._size = read, header, size
        self._entry = struct.Struct(header.entry_format)
        self._pointer = struct.Struct(header.offset_format)
        self._dtypes = _DTYPES[header.byteorder]
        self._inline = 8 if header.is_big else 4
        self._seen: set[int] = set()
        self.parts: list[Any] = []
        self.offsets: list[NDArray[np.uint64]] = []
        self.lengths: list[NDArray[np.uint64]] = []
        self.notes: dict[int, Any] = {}
        self.volatile: list[tuple[int, int, int, int, bytes]] = []
        self.is_special = False

    def read_chain(self, offset: int) -> None:
        """Read an IFD and those that follow it, with all below them."""
        while offset:
            if offset in self._seen or len(self._seen) >= _MAX_IFDS:
                raise _Irregular
            self._seen.add(offset)
            offset = self._read_ifd(offset)
            self.parts.append("next" if offset else "end")

    def _read_ifd(self, offset: int) -> int:
        header = self._header
        n_count = 8 if header.is_big else 2
        (n_entries,) = struct.unpack(header.count_format, self._exactly(offset, n_count))
        if not 0 < n_entries <= 4096:
            raise _Irregular
        n_bytes = n_entries * self._entry.size
        body = self._exactly(offset + n_count, n_bytes + self._inline)
        columns: dict[bool, NDArray[np.uint64]] = {}
        is_first = not self.offsets
        below: list[int] = []
        compression = 1
        add = self.parts.append
        for code, kind, count, value in self._entry.iter_unpack(body[:n_bytes]):
            size = TYPE_SIZES.get(kind, 0) * count
            if size > self._inline:
                value = self._outside(value, size)
            elif not size:
                raise _Irregular
            if code in _COLUMN_TAGS:
                columns[code in _LENGTH_TAGS] = self._integers(kind, value[:size])
                add((code, count))
            elif code == _SUB_IFDS:
                below = self._integers(kind, value[:size]).tolist()
                add((code, count))
            elif is_first and code in _NOTED_TAGS:
                self.notes[code] = self._number(kind, value[:size])
                if code == 270:
                    add((code, kind, count, value[:size]))
            elif code in VOLATILE_TAGS:
                self.volatile.append((len(self.offsets), code, kind, count, value[:size]))
            else:
                add((code, kind, count, value[:size]))
                if code == 259:
                    compression = self._integers(kind, value[:size])[0]
        self._add_columns(columns, int(compression))
        for one in below:
            add("below")
            self.read_chain(one)
        return struct.unpack(header.offset_format, body[n_bytes:])[0]

    def _add_columns(self, columns: dict[int, NDArray[np.uint64]], compression: int) -> None:
        if len(columns) != 2 or len(columns[0]) != len(columns[1]):
            raise _Irregular
        self.offsets.append(columns[0])
        self.lengths.append(columns[1])
        if compression == _OLD_JPEG:
            self.is_special = True  # its tables lie at offsets of their own
        if compression in _MARKED_JPEG and len(columns[0]) and columns[0][0]:
            # the decoder's colours depend on the marker in the first segment
            self.parts.append(self._exactly(int(columns[0][0]) + 6, 4) == b"JFIF")

    def _exactly(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            raise _Irregular
        data = self._read(offset, length)
        if len(data) != length:
            raise _Irregular
        return data

    def _outside(self, value: bytes, size: int) -> bytes:
        if size > _MAX_VALUE_BYTES:
            raise _Irregular
        (where,) = self._pointer.unpack(value)
        return self._exactly(where, size)

    def _integers(self, kind: int, data: bytes) -> NDArray[np.uint64]:
        dtype = self._dtypes.get(kind)
        if dtype is None:
            raise _Irregular
        return np.frombuffer(data, dtype).astype(np.uint64)

    def _number(self, kind: int, data: bytes) -> Any:
        """Give a value as tags have it: text as bytes, numbers as a tuple."""
        if kind == 12:
            return tuple(np.frombuffer(data, f"{self._header.byteorder}f8").tolist())
        if kind in self._dtypes and kind != 1:
            return tuple(np.frombuffer(data, self._dtypes[kind]).tolist())
        return data


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A file that was scanned in full, as the model for others of its signature.

    `rows` says for each array with segments which directories its chunks are, in order; an array
    whose chunks are put together from contiguous segments has none and is moved as a whole.
    """

    references: References
    skeleton: Skeleton
    rows: Mapping[str, tuple[int, ...] | None]

    def arrays_of(self, other: Skeleton) -> dict[str, Array] | None:
        """Give the arrays of another file of the same signature.

        Returns
        -------
        None if the places of its segments are not regular enough to tell.
        """
        found = {}
        for path, rows in self.rows.items():
            array = self.references.group[path]
            assert isinstance(array, Array)
            manifest = (
                self._move(array, other) if rows is None else (self._gather(array, rows, other))
            )
            if manifest is None:
                return None
            # thrice as quick as dataclasses.replace
            found[path] = Array(
                array.shape, array.chunks, array.dtype, array.dims, array.codecs, manifest,
                array.fill_value, array.attributes,
            )  # fmt: skip
        return found

    def _gather(self, array: Array, rows: Sequence[int], other: Skeleton) -> Manifest | None:
        """Take chunks from the columns of directories: each chunk is one segment."""
        offset = _join(other.offsets, rows)
        length = _join(other.lengths, rows)
        old = array.manifest
        codec = array.codecs[0]
        is_sized = isinstance(codec, SegmentCodec) and codec.compression == 1
        if len(offset) != len(old.offset) or (is_sized and (length != old.length).any()):
            return None
        if int((offset + length).max()) > (other.source.size or 0):
            return None
        source = old.source
        is_missing = (offset == 0) | (length == 0)
        if is_missing.any() or source.min() < 0:
            source = np.where(is_missing, MISSING, 0).astype(np.int32)
        return Manifest(old.shape, (_like(other.source, old),), source, offset, length)

    def _move(self, array: Array, other: Skeleton) -> Manifest | None:
        """Move all chunks by as much as all segments of the file are moved."""
        n = range(len(self.skeleton.offsets))
        ours, theirs = _join(self.skeleton.offsets, n), _join(other.offsets, n)
        if len(ours) != len(theirs) or not len(ours):
            return None
        delta = theirs - ours  # wraps around where it is negative, and back again below
        if (delta != delta[0]).any() or (
            _join(self.skeleton.lengths, n) != _join(other.lengths, n)
        ).any():
            return None
        old = array.manifest
        offset = old.offset + delta[0]
        if (offset + old.length > np.uint64(other.source.size or 0)).any():
            return None
        return Manifest(old.shape, (_like(other.source, old),), old.source, offset, old.length)


def _like(source: Source, manifest: Manifest) -> Source:
    codec = manifest.sources[0].codec
    return source if codec == source.codec else replace(source, codec=codec)


def _join(columns: Sequence[NDArray[np.uint64]], rows: Sequence[int]) -> NDArray[np.uint64]:
    return columns[rows[0]] if len(rows) == 1 else np.concatenate([columns[n] for n in rows])


def make_template(references: References, skeleton: Skeleton) -> Template | None:
    """Find how the chunks of a scanned file follow from its directories.

    Returns
    -------
    None if they do not follow from them alone: chunks are inlined, lie in several files, or were
    found by other means.
    """
    if skeleton.signature is None:
        return None
    if any(row.get("kind") not in _KINDS for row in references.series):
        return None
    rows: dict[str, tuple[int, ...] | None] = {}
    for path, array in references.group.arrays():
        manifest = array.manifest
        if not manifest.sources and (manifest.source == INLINED).all():
            continue  # a coordinate: it follows from tags that are in the signature
        if len(manifest.sources) != 1 or len(array.codecs) != 1 or manifest.inlined:
            return None
        if _has_padded_strips(array, skeleton):
            return None
        found = _match_rows(manifest, skeleton)
        if found is None and (manifest.source == MISSING).any():
            return None
        rows[path] = found
    template = Template(references, skeleton, rows)
    # the file itself must come out as it was scanned
    again = template.arrays_of(skeleton)
    if again is None or any(
        again[path].manifest != references.group[path].manifest
        for path in rows  # type: ignore[union-attr]
    ):
        return None
    return template


def _has_padded_strips(array: Array, skeleton: Skeleton) -> bool:
    """Say whether the file was found to store partial last strips padded to whole ones.

    That is up to the writer: another file may store them short, and only a look at them tells.
    Tiles are always whole (TIFF 6.0, section 15).
    """
    codec = array.codecs[0]
    if not isinstance(codec, SegmentCodec) or codec.compression == 1 or codec.edge is not None:
        return False
    codes = {part[0] for part in skeleton.signature or () if isinstance(part, tuple)}
    is_partial = any(n % c for n, c in zip(array.shape, array.chunks, strict=True))
    return is_partial and 322 not in codes


def _match_rows(manifest: Manifest, skeleton: Skeleton) -> tuple[int, ...] | None:
    """Find the directories whose columns make up a manifest, one after the other."""
    by_first: dict[bytes, list[int]] = {}
    for n, offset in enumerate(skeleton.offsets):
        by_first.setdefault(offset.tobytes(), []).append(n)
    sizes = sorted({len(offset) for offset in skeleton.offsets})
    rows: list[int] = []
    at = 0
    while at < manifest.n_chunks:
        candidates = [
            n
            for size in sizes
            for n in by_first.get(manifest.offset[at : at + size].tobytes(), ())
            if at + size <= manifest.n_chunks
            and np.array_equal(skeleton.lengths[n], manifest.length[at : at + size])
        ]
        if len(candidates) != 1:
            return None  # none, or directories that share their segments
        rows.append(candidates[0])
        at += len(skeleton.offsets[candidates[0]])
    return tuple(rows)
