"""Turn IFDs into `LevelFacts`: columns with the segments of all pages of a level.

Finds which IFDs decode with the same codec, reads the facts of each kind, and the offsets and
lengths of the segments. `series` decides which IFDs form a level. In local files, IFDs with the
same tags and types are read in bulk; all others are read one by one, with the same result.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff, ManifestMismatch, TiffrefError, UnsupportedTiff
from ..model.tiff_facts import IfdFacts, LevelFacts
from .facts import fetch_first_bytes, n_segments_of, ndpi_segments, read_facts, stream_key
from .ifd import (
    KIND_TAGS,
    MAX_ENTRIES,
    NUMBER_TAGS,
    SCANNED_TAGS,
    SEGMENT_LENGTHS,
    SEGMENT_OFFSETS,
    SUB_IFDS,
    TOLERATED,
    TYPE_SIZES,
    UNSIGNED,
    Directory,
    IfdFinding,
    TiffReader,
    dtype_of,
)

_MIN_GATHERED = 32
"""Fewer IFDs than this are faster to read one by one."""
_MAX_STRUCTURES = 32
_MAX_GATHERED_ENTRIES = 512
_MAX_GATHERED_BYTES = 1 << 28
_MAX_COMPARED_BYTES = 1 << 20
_COMPARED_TAGS = np.array(sorted(KIND_TAGS | NUMBER_TAGS), np.uint16)
_LIST_TAGS = SEGMENT_OFFSETS, SEGMENT_LENGTHS, (SUB_IFDS,)


_Lists = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]
"""Offsets and lengths of segments, and offsets of SubIFDs; one row per IFD."""


class Columns:
    """IFDs of one file, in columns.

    `kind` is `(n,)` int32: IFDs of one kind have equal values in all `KIND_TAGS`. `first` has the
    first row of each kind. `has_sub_ifds` is whether any IFD has SubIFDs.
    """

    def __init__(self, n: int) -> None:
        self.kind = np.full(n, -1, np.int32)
        self.first: list[int] = []
        self.has_sub_ifds = False
        self._blocks: list[_Lists | Directory] = []
        self._block, self._block_row = np.zeros(n, np.int32), np.zeros(n, np.intp)

    def __len__(self) -> int:
        return len(self.kind)

    def add(self, rows: Any, block: _Lists | Directory) -> None:
        """Add the lists of IFDs with the same structure, or a single IFD, read on first use."""
        self._block[rows] = len(self._blocks)
        self._blocks.append(block)
        if isinstance(block, Directory):
            self.has_sub_ifds |= SUB_IFDS in block.entries
        else:
            self.has_sub_ifds |= block[2].shape[1] > 0
            self._block_row[rows] = np.arange(len(rows))

    def _block_at(self, number: int) -> _Lists:
        block = self._blocks[number]
        if isinstance(block, Directory):
            offset, length, sub_ifds = [block.first_column(codes)[None] for codes in _LIST_TAGS]
            block = self._blocks[number] = offset, length, sub_ifds
        return block

    def segments(
        self, rows: NDArray[np.intp], n_segments: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return offset and length of the segments of some rows, each `(n, n_segments)`.

        Segments that an IFD does not list are 0, surplus ones are left out. Row -1 has no segments.
        """
        if len(rows) == 1 and rows[0] >= 0:  # fast path: most files have one IFD per level
            at = self._block_row[rows[0]]
            offset, length, _ = self._block_at(self._block[rows[0]])
            if offset.shape[1] == length.shape[1] == n_segments:
                return offset[at : at + 1].copy(), length[at : at + 1].copy()
        offset = np.zeros((len(rows), n_segments), np.uint64)
        length = np.zeros((len(rows), n_segments), np.uint64)
        block = np.where(rows < 0, -1, self._block[rows])
        numbers = set(np.unique(block).tolist())
        for number in numbers - {-1}:
            table = self._block_at(number)
            here = slice(None) if len(numbers) == 1 else block == number
            place = self._block_row[rows[here]]
            for column, stored in zip((offset, length), table, strict=False):
                n = min(n_segments, stored.shape[1])
                column[here, :n] = stored[place, :n]
        return offset, length

    def first_offset(self, row: int) -> int:
        """Return the offset of the first segment of one row, 0 if it lists none."""
        offset = self._block_at(self._block[row])[0][self._block_row[row]]
        return int(offset[0]) if len(offset) else 0

    def list_lengths(self, rows: NDArray[np.intp]) -> set[int]:
        """Return how many segments the IFDs of some rows list."""
        blocks = np.unique(self._block[rows[rows >= 0]]).tolist()
        return {self._block_at(number)[0].shape[1] for number in blocks}

    def sub_ifds(self, row: int) -> list[int]:
        """Return the offsets of the SubIFDs of one row."""
        return self._block_at(self._block[row])[2][self._block_row[row]].tolist()


def _read_columns(pages: Pages) -> Columns:
    """Read IFDs into columns; those of local files with equal structure in bulk."""
    reader, n = pages.reader, len(pages)
    columns = Columns(n)
    keys: dict[bytes, int] = {}
    left: Sequence[int] = range(n)
    view = reader.source.as_buffer() if n >= _MIN_GATHERED and not reader.base else None
    if view is not None and not reader.header.is_ndpi:
        bulk = _BulkReader(reader, columns, keys, np.frombuffer(view, np.uint8))
        left = bulk.run(np.array(pages.offsets, np.int64)).tolist()
    elif not reader.source.is_local:
        reader.fetch_values(map(pages.directory, left), SCANNED_TAGS)
    n_gathered = len(keys)
    for row in left:
        ifd = pages.directory(row)
        number = columns.kind[row] = keys.setdefault(_signature(ifd), len(keys))
        columns.add(row, ifd)
        if not n_gathered and number == len(columns.first):
            columns.first.append(row)
    if n_gathered:
        first, columns.kind = _number_by_first(columns.kind)
        columns.first = first.tolist()
    if not reader.source.is_local:
        fetch_first_bytes(reader, map(pages.directory, columns.first))
    return columns


def _number_by_first(values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Number equal values in the order of their first rows; return these rows, and the numbers."""
    found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(found), np.int32)
    rank[order] = np.arange(len(found), dtype=np.int32)
    return first[order], rank[inverse.reshape(-1)]


_pack_label = struct.Struct("<HHQ").pack


def _signature(ifd: Directory) -> bytes:
    """Return bytes that are equal for IFDs of the same kind."""
    return b"".join([
        _pack_label(code, kind, count)
        + (ifd.raw(code, _MAX_COMPARED_BYTES) if data is None else data)
        for code, (kind, count, _, data) in ifd.entries.items()
        if code in KIND_TAGS
    ])  # fmt: skip


@dataclass(slots=True)
class _BulkReader:
    """Reads many IFDs at once from a buffer of the whole file."""

    reader: TiffReader
    columns: Columns
    keys: dict[bytes, int]
    raw: NDArray[np.uint8]

    def run(self, start: NDArray[np.int64]) -> NDArray[np.intp]:
        """Add all IFDs that share their structure with many others; return the remaining rows."""
        layout = self.reader._layout
        head = layout.count.size
        known = np.flatnonzero(start <= len(self.raw) - head)
        form = f"{self.reader.header.byteorder}u{head}"
        counts = np.zeros(len(start), np.int64)
        counts[known] = self._bytes_at(start[known], head).view(form)[:, 0]
        is_whole = start + head + counts * layout.entry.size <= len(self.raw)
        left: list[NDArray[np.intp]] = []
        for n_entries in np.unique(counts).tolist():
            rows = np.flatnonzero(counts == n_entries)
            is_few = len(rows) < _MIN_GATHERED or not is_whole[rows].all()
            if is_few or not 0 < n_entries <= _MAX_GATHERED_ENTRIES:
                left.append(rows)
                continue
            entries = self._bytes_at(start[rows] + head, n_entries * layout.entry.size)
            left += self._group_by_structure(rows, entries.view(layout.dtype))
        return np.sort(np.concatenate(left)) if left else np.zeros(0, np.intp)

    def _group_by_structure(
        self, rows: NDArray[np.intp], entries: NDArray
    ) -> list[NDArray[np.intp]]:
        """Add IFDs group by group; return the rows that must be read one by one."""
        left = []
        for _ in range(_MAX_STRUCTURES):
            # those with the same tags as the first one, and the same types and counts if compared
            first = entries[0]
            like = (entries["code"] == first["code"]).all(axis=1)
            matters = np.isin(first["code"], _COMPARED_TAGS)
            for name in ("type", "count"):
                like &= (entries[name][:, matters] == first[name][matters]).all(axis=1)
            is_all = bool(like.all())  # avoids a copy
            chosen, block = (rows, entries) if is_all else (rows[like], entries[like])
            if not self._add_group(chosen, block):
                left.append(chosen)
            if is_all:
                return left
            rows, entries = rows[~like], entries[~like]
        return [*left, rows]

    def _add_group(self, rows: NDArray[np.intp], entries: NDArray) -> bool:
        """Add IFDs of one structure; return False if they must be read one by one."""
        found: dict[int, NDArray] = {}
        texts = [np.zeros((len(entries), 0), np.uint8)]
        for column in range(entries.shape[1]):
            entry = entries[:, column]
            code, kind, count = int(entry["code"][0]), int(entry["type"][0]), int(entry["count"][0])
            if code in found or (code not in KIND_TAGS and code not in NUMBER_TAGS):
                continue
            values = self._values(entry, kind, TYPE_SIZES.get(kind, 0) * count)
            if values is None or (code in NUMBER_TAGS and kind not in UNSIGNED):
                return False
            found[code] = values
            if code in KIND_TAGS:
                label = np.frombuffer(_pack_label(code, kind, count), np.uint8)
                texts += [np.broadcast_to(label, (len(entries), label.size)), values]
            else:
                form = dtype_of(self.reader.header.byteorder, kind)
                found[code] = values.view(form).astype(np.uint64)
        found[0] = np.zeros((len(rows), 0), np.uint64)
        offset, length, below = (
            found[next((code for code in codes if code in found), 0)] for codes in _LIST_TAGS
        )
        if not offset.shape[1] or not length.shape[1]:
            return False
        self.columns.add(rows, (offset, length, below))
        text, keys = np.concatenate(texts, axis=1), self.keys
        distinct = text[:1] if (text == text[0]).all() else text  # usually, all are equal
        kinds = [keys.setdefault(row.tobytes(), len(keys)) for row in distinct]
        self.columns.kind[rows] = kinds
        self.reader.n_reads += len(rows)
        return True

    def _values(self, entries: NDArray, kind: int, n_bytes: int) -> NDArray | None:
        """Return the bytes of one tag's values in each IFD, `(n, n_bytes)`."""
        n_inline = self.reader._layout.inline_bytes
        inline = np.ascontiguousarray(entries["value"]).view(np.uint8).reshape(-1, n_inline)
        if kind not in TYPE_SIZES or n_bytes > _MAX_COMPARED_BYTES:
            return None
        if n_bytes <= n_inline:
            return np.ascontiguousarray(inline[:, :n_bytes])
        places = inline.view(f"{self.reader.header.byteorder}u{n_inline}")[:, 0].astype(np.uint64)
        last = np.uint64(max(0, len(self.raw) - n_bytes))
        is_inside = ((places >= 8) & (places <= last)).all()
        if n_bytes * len(entries) > _MAX_GATHERED_BYTES or not is_inside:
            return None
        self.reader._n_bytes_left -= n_bytes * len(entries)
        return self._bytes_at(places.astype(np.int64), n_bytes)

    def _bytes_at(self, start: NDArray, n_bytes: int) -> NDArray[np.uint8]:
        return np.lib.stride_tricks.sliding_window_view(self.raw, n_bytes)[start]


_MAX_UNLISTED = 1 << 20
"""Segments of an image without any list. Sparse files list missing segments as 0."""
_OFFSET_TAGS = frozenset({273, 324})
_SAMPLE_TAGS = frozenset({258, 339})
"""BitsPerSample and SampleFormat."""
_ZERO = np.zeros(1, np.int32)
"""Kind and source of a level with one page."""
_ZERO.setflags(write=False)


class Pages:
    """IFDs of one file, addressed by row: those at some offsets, by default those of the chain."""

    def __init__(self, reader: TiffReader, offsets: Sequence[int] | None = None) -> None:
        self.reader = reader
        self.offsets = reader.chain() if offsets is None else offsets
        self._facts: dict[int, IfdFacts] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    @functools.cached_property
    def columns(self) -> Columns:
        """Kind and segments of each row."""
        return _read_columns(self)

    @property
    def has_sub_ifds(self) -> bool:
        """Whether any IFD has SubIFDs."""
        return SUB_IFDS in self.directory(0) if len(self) == 1 else self.columns.has_sub_ifds

    def directory(self, row: int) -> Directory:
        """Return the IFD of a row."""
        reader, offset = self.reader, self.offsets[row]
        ifd = reader.directory(offset)
        if ifd is None:
            name = reader.name_of(offset)
            raise MalformedTiff("an IFD cannot be read", url=reader.url, ifd=name)
        return ifd

    def sub_ifds(self, rows: Sequence[int]) -> list[list[int]]:
        """Return the offsets of the SubIFDs of some rows, and prefetch all of them together."""
        offsets_of_rows = [self.columns.sub_ifds(row)[:MAX_ENTRIES] for row in rows]
        base = self.reader.base
        places = [(offset + base, 1 << 10) for some in offsets_of_rows for offset in some]
        self.reader.source.prefetch(places)
        return offsets_of_rows

    def is_sub_ifd_readable(self, row: int, offset: int) -> bool:
        """Return whether a SubIFD of a row can be read; add a finding if not."""
        if self.reader.is_directory(offset):
            return True
        ifd, got = self.directory(row), f"offset {offset}"
        self.reader.add_finding(ifd, "a SubIFD cannot be read", SUB_IFDS, got)
        return False

    def facts(self, row: int) -> IfdFacts:
        """Return the facts of a row.

        Raises
        ------
        MalformedTiff
            If tags contradict each other, or BitsPerSample or SampleFormat cannot be read.
        """
        facts = self._facts.get(row)
        if facts is None:
            ifd = self.directory(row)
            for lost in ifd.findings:
                # falling back to the tag's default would change the pixels
                if lost.tag in _SAMPLE_TAGS and lost.what not in TOLERATED:
                    raise lost.to_error()
            try:
                facts = self._facts[row] = read_facts(self.reader, ifd)
            except (MalformedTiff, UnsupportedTiff) as error:
                error.ifd = error.ifd or ifd.name
                raise
        return facts

    def rows_without_segments(self) -> list[int]:
        """Return the rows whose lists of segment offsets lie outside the file."""
        names = {finding.ifd for finding in self.reader.findings if finding.tag in _OFFSET_TAGS}
        own = map(self.reader.name_of, self.offsets if names else ())
        rows = [row for row, name in enumerate(own) if name in names]
        return [row for row in rows if not self.directory(row).n_listed_segments]

    @functools.cached_property
    def kind(self) -> NDArray[np.int32]:
        """Kind of each row, by its tags and, where these are not enough, by its JPEG stream."""
        if len(self) == 1:
            return np.zeros(1, np.int32)
        columns = self.columns
        if len(columns.first) == len(self):
            return columns.kind
        kind = columns.kind.copy()
        for number, first in enumerate(columns.first):
            try:
                key_of = stream_key(self.facts(first))
            except MalformedTiff:
                key_of = None
            if key_of is None:
                continue
            # rows of one kind get different numbers if their streams decode differently
            keys: dict[object, int] = {}
            for row in np.flatnonzero(columns.kind == number).tolist():
                key = key_of(self.reader, self.directory(row))
                kind[row] = keys.setdefault(key, int(kind.max()) + 1 if keys else number)
        return kind

    def shape(self, row: int) -> tuple[tuple[int, ...], str]:
        """Return shape and axes of an image as `imread` returns them."""
        ifd = self.facts(row)
        planes, depth, rows, columns, samples = ifd.shape
        size, axes = ((rows, columns), "YX") if depth == 1 else ((depth, rows, columns), "ZYX")
        if planes > 1:
            return (planes, *size), f"S{axes}"
        # a single sample of an RGB image is a dimension too
        has_samples = samples > 1 or ifd.photometric == 2
        return ((*size, samples), f"{axes}S") if has_samples else (size, axes)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One resolution level: the IFD of each plane, in C order.

    `pages` are those of each file; `row` `(n,)` is the row of each plane in them (-1: the plane has
    no IFD), and `file` `(n,)` the index into `pages`, None if there is one file. `shape` and `axes`
    are those before dimensions of length 1 are removed. With `is_run`, all planes are contiguous
    and described by the first IFD. `segments` are offset and length `(n, n_segments)`, if not those
    listed in the IFDs. `error` is why the level cannot be read.
    """

    pages: tuple[Pages, ...]
    row: NDArray[np.intp]
    shape: tuple[int, ...]
    axes: str
    file: NDArray[np.intp] | None = None
    is_run: bool = False
    is_squeezed: bool = True
    segments: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None = None
    error: TiffrefError | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Length along each axis, by its code."""
        return dict(zip(self.axes, self.shape, strict=True))

    @property
    def first(self) -> tuple[Pages, int]:
        """Pages and row of the first plane that has an IFD.

        Raises
        ------
        MalformedTiff
            If all planes are missing.
        """
        at = next((n for n, row in enumerate(self.row) if row >= 0), -1)
        if at < 0:
            raise MalformedTiff("all pages are missing", url=self.pages[0].reader.url)
        file = 0 if self.file is None else int(self.file[at])
        return self.pages[file], int(self.row[at])

    @property
    def facts(self) -> IfdFacts:
        """Facts of the first plane that has an IFD; raises like `first`."""
        pages, row = self.first
        return pages.facts(row)

    @property
    def n_planes(self) -> int:
        """Number of planes in the shape."""
        pages, row = self.first
        return math.prod(self.shape) // max(1, math.prod(pages.shape(row)[0]))

    def is_in(self, number: int) -> NDArray[np.bool_]:
        """Return which planes are in one of the files, `(n,)`."""
        is_there = self.row >= 0
        return is_there if self.file is None else is_there & (self.file == number)

    def to_facts(self) -> LevelFacts:
        """Read the level into columns.

        Raises
        ------
        MalformedTiff, ManifestMismatch
            If IFDs are malformed, or do not fit together.
        """
        if self.error is not None:
            raise self.error
        if len(self.row) > 1 and self.segments is None:
            row = self.row  # without IFDs whose lists of segments cannot be read
            for number, pages in enumerate(self.pages):
                if lost := pages.rows_without_segments():
                    row = np.where(self.is_in(number) & np.isin(self.row, lost), -1, row)
            if (row != self.row).any():
                return replace(self, row=row).to_facts()
        ifds, kind = self._facts_by_kind()
        first = ifds[0]
        n_segments = n_segments_of(first)
        counts = {n_segments, *map(n_segments_of, ifds[1:])}
        if len(counts) > 1:
            raise ManifestMismatch(
                "pages of one series have different segment counts",
                url=self.pages[0].reader.url, got=sorted(counts),
            )  # fmt: skip
        offset, length = self._segments(first, n_segments)
        shape, axes = (
            squeeze(self.shape, self.axes) if self.is_squeezed else (self.shape, self.axes)
        )
        if first.dtype is None:
            shape, axes = (0, *shape), f"Q{axes}"  # unknown samples: imread returns none
        if self.file is not None:
            source = self.file.astype(np.int32)
        else:
            source = _ZERO if len(kind) == 1 else np.zeros(len(kind), np.int32)
        sources = tuple([pages.reader.source.source for pages in self.pages])
        return LevelFacts(
            tuple(map(int, shape)), axes, first.dtype or "<f8", ifds, sources, kind, source,
            offset, length,
        )  # fmt: skip

    def _facts_by_kind(self) -> tuple[tuple[IfdFacts, ...], NDArray[np.int32]]:
        """Return the facts of each kind, in order of first use, and the kind of each plane."""
        pages, row = self.first
        if len(self.row) == 1 or (self.file is None and len(pages) == 1):
            kind = _ZERO if len(self.row) == 1 else np.minimum(self.row, 0).astype(np.int32)
            return (pages.facts(row),), kind
        key = np.full(len(self.row), -1, np.int64)
        for number, file_pages in enumerate(self.pages):
            here = self.is_in(number)
            if here.any():
                key[here] = file_pages.kind[self.row[here]] + (np.int64(number) << 32)
        is_there = key >= 0
        first, numbers = _number_by_first(key[is_there])
        kind = np.full(len(key), -1, np.int32)
        kind[is_there] = numbers
        ifds = []
        for plane in np.flatnonzero(is_there)[first].tolist():
            file = 0 if self.file is None else int(self.file[plane])
            ifds.append(self.pages[file].facts(int(self.row[plane])))
        return tuple(ifds), kind

    def _segments(
        self, ifd: IfdFacts, n_segments: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        if self.segments is not None:
            _check_listed(self.pages[0], ifd, self.segments[0].shape[1], n_segments)
            offset, length = columns = np.zeros((2, len(self.row), n_segments), np.uint64)
            for column, listed in zip(columns, self.segments, strict=True):
                column[:, : listed.shape[1]] = listed[:, :n_segments]
            columns[:, self.row < 0] = 0
        elif self.file is None:
            offset, length = _read_segments(self.pages[0], self.row, ifd, n_segments)
        else:
            offset, length = (np.zeros((len(self.row), n_segments), np.uint64) for _ in "ol")
            for number, pages in enumerate(self.pages):
                here = self.file == number
                if here.any():
                    read = _read_segments(pages, self.row[here], ifd, n_segments)
                    offset[here], length[here] = read
        base = self.pages[0].reader.base
        return (np.where(offset > 0, offset + np.uint64(base), 0) if base else offset), length


def _read_segments(
    pages: Pages, rows: NDArray[np.intp], ifd: IfdFacts, n_segments: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    if "jpeg_header" in ifd.tables:
        parts = [ndpi_segments(pages.directory(row), n_segments) for row in rows.tolist()]
        return tuple(map(np.stack, zip(*parts, strict=True)))  # type: ignore[return-value]
    first = int(rows[0] if rows[0] >= 0 else next((row for row in rows if row >= 0), 0))
    directory = pages.directory(first)
    n_first = directory.n_listed_segments
    lost = [found for found in directory.findings if found.tag in _OFFSET_TAGS]
    if lost and not n_first:  # the list cannot be read
        raise lost[0].to_error()
    n_needed = 0 if 0 in ifd.shape and n_segments <= n_first else n_segments
    is_surplus = n_first > n_needed and directory.first_column(SEGMENT_LENGTHS)[n_needed:].any()
    _check_listed(pages, ifd, n_first, n_needed, bool(is_surplus))
    others = pages.columns.list_lengths(rows) if len(rows) > 1 else set()
    for n_listed in others:
        _check_listed(pages, ifd, n_listed, n_segments)
    offset, length = pages.columns.segments(rows, n_segments)
    if not n_first or 0 in others:
        length[~offset.any(axis=1)] = 0  # reported above
    return offset, length


def _check_listed(
    pages: Pages, ifd: IfdFacts, n_listed: int, n_segments: int, is_surplus: bool = False
) -> None:
    """Refuse an image that needs more segments than are listed; report one that lists none.

    With `is_surplus`, report segments that the image does not need. An image of size 0 is refused
    beside other images; alone, readers show an empty array.
    """
    if n_segments <= n_listed and not is_surplus:
        return
    found = IfdFinding(
        f"the image needs {'fewer' if is_surplus else 'more'} segments than the IFD lists",
        pages.reader.url, ifd.name, "ImageWidth (256), ImageLength (257)",
        f"{n_listed} offsets or lengths", f"{n_segments}", loses_pixels=True,
    )  # fmt: skip
    is_empty = is_surplus and not n_segments
    if n_segments > (n_listed or _MAX_UNLISTED) or (is_empty and len(pages.reader.chain()) > 1):
        raise found.to_error()
    pages.reader.findings.append(found)


def stack_pages(pages: Pages, rows: Sequence[int]) -> Level:
    """Return a level of similar pages, stacked along axis I."""
    try:
        shape, axes = pages.shape(rows[0])
        return Level((pages,), np.array(rows, np.intp), (len(rows), *shape), f"I{axes}")
    except MalformedTiff as error:
        return Level((pages,), np.array(rows, np.intp), (), "", error=error)


@dataclass(slots=True, eq=False)
class Series:
    """One image with its resolution levels.

    `number` is its position in the metadata of the file, if these may describe more images.
    """

    kind: str
    levels: list[Level]
    name: str = ""
    number: int | None = None

    @property
    def subfile_type(self) -> int:
        """NewSubfileType of level 0; 0 if it cannot be read."""
        return 0 if self.levels[0].error is not None else self.levels[0].facts.subfile_type

    @property
    def axes(self) -> str:
        """Axes of level 0; "" if it cannot be read."""
        level = self.levels[0]
        if not level.axes:
            return ""
        return squeeze(level.shape, level.axes)[1] if level.is_squeezed else level.axes


def squeeze(shape: Sequence[int], axes: str) -> tuple[tuple[int, ...], str]:
    """Remove dimensions of length 1 except X and Y, as `imread` does."""
    pairs = zip(shape, axes, strict=False)
    kept = [pair for pair in pairs if pair[0] > 1 or pair[1] in "XY"] or [(shape[-1], axes[-1])]
    sizes, kept_axes = zip(*kept, strict=True)
    return sizes, "".join(kept_axes)
