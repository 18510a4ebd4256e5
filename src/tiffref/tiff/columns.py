"""Many directories at once: how each decodes, and where its segments are, as columns.

Owns the structured gather over directories that share their tags and types, and the comparison of
the tags that decide how segments decode. Directories that are like no others, and those of files
that are not at hand, are taken one by one; the result is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff
from .ifd import (
    KIND_TAGS,
    SEGMENT_LENGTHS,
    SEGMENT_OFFSETS,
    SUB_IFDS,
    TYPE_SIZES,
    UNSIGNED,
    Directory,
    TiffReader,
)

__all__ = ["Columns", "read_columns"]

_MIN_GATHERED = 32
"""Directories from which on a gather is quicker than one after the other."""
_MAX_STRUCTURES = 32
_MAX_GATHERED_ENTRIES = 512
_MAX_GATHERED_BYTES = 1 << 28
_MAX_COMPARED_BYTES = 1 << 20
_NUMBERS = frozenset({*SEGMENT_OFFSETS, *SEGMENT_LENGTHS, SUB_IFDS})
_MATTER = np.array(sorted(KIND_TAGS | _NUMBERS), np.uint16)
_NONE = np.zeros((1, 0), np.uint64)
_LISTS = (*SEGMENT_OFFSETS, 513), (*SEGMENT_LENGTHS, 514), (SUB_IFDS,)
"""Tags of offsets, lengths and SubIFDs; the first that is there counts."""


@dataclass(slots=True)
class _Block:
    """Segments and SubIFDs of directories of one structure."""

    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    sub_ifds: NDArray[np.uint64]

    @classmethod
    def of(cls, one: Directory) -> _Block:
        """Read those of a single directory."""
        return cls(*[_listed(one, codes) for codes in _LISTS])


def _listed(one: Directory, codes: tuple[int, ...]) -> NDArray[np.uint64]:
    """Return the numbers of the first of some tags that is there, `(1, n)`."""
    for code in codes:
        if code in one.entries:
            return one.column(code)[None]
    return _NONE


@dataclass(slots=True)
class Columns:
    """Some directories of a file.

    Attributes
    ----------
    ifd_offset
        `(n,)` where each is.
    kind
        `(n,)` int32: directories of one kind have equal values in all tags that decide how
        segments decode.
    first
        The first row of each kind.
    """

    ifd_offset: NDArray[np.uint64]
    kind: NDArray[np.int32]
    first: list[int]
    _block: NDArray[np.int32]
    _place: NDArray[np.intp]
    has_sub_ifds: bool = False
    """Some directory has SubIFDs."""
    _blocks: list[_Block | Directory] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kind)

    def _at(self, number: int) -> _Block:
        """Return a block; that of a single directory is read when it is asked for."""
        found = self._blocks[number]
        if isinstance(found, Directory):
            found = self._blocks[number] = _Block.of(found)
        return found

    def segments(
        self, rows: NDArray[np.intp], n_segments: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return offset and length of `n_segments` of each row, each `(n, n_segments)`.

        What a directory does not list is 0; what it lists beyond is left out. A row of -1 has none.
        """
        if len(rows) == 1 and rows[0] >= 0:  # as of most files, which are many
            block = self._blocks[self._block[rows[0]]]
            if isinstance(block, Directory):
                offset, length = (_listed(block, codes) for codes in _LISTS[:2])
                if offset.shape[1] == length.shape[1] == n_segments:
                    return offset, length
        offset = np.zeros((len(rows), n_segments), np.uint64)
        length = np.zeros((len(rows), n_segments), np.uint64)
        block = np.where(rows < 0, -1, self._block[rows])
        numbers = set(np.unique(block).tolist())
        for number in numbers - {-1}:
            one = self._at(number)
            here = slice(None) if len(numbers) == 1 else block == number
            place = self._place[rows[here]]
            for column, stored in ((offset, one.offset), (length, one.length)):
                n = min(n_segments, stored.shape[1])
                column[here, :n] = stored[place, :n]
        return offset, length

    def sub_ifds(self, row: int) -> list[int]:
        """Return the offsets of the SubIFDs of one directory."""
        return self._at(self._block[row]).sub_ifds[self._place[row]].tolist()


def read_columns(reader: TiffReader, offsets: Sequence[int], names: Sequence[str] = ()) -> Columns:
    """Read directories into columns.

    Parameters
    ----------
    reader
        Of the file.
    offsets
        Where they are; each is known to be a directory.
    names
        What they are called, where not by their place in the chain.
    """
    n = len(offsets)
    columns = Columns(
        np.array(offsets, np.uint64), np.full(n, -1, np.int32), [],
        np.zeros(n, np.int32), np.zeros(n, np.intp),
    )  # fmt: skip
    keys: dict[bytes, int] = {}
    left: Sequence[int] = range(n)
    view = reader.source.look() if n >= _MIN_GATHERED and not reader.base else None
    if view is not None and not reader.header.is_ndpi:
        left = _Gather(reader, columns, keys, np.frombuffer(view, np.uint8)).run().tolist()
    n_gathered = len(keys)
    for row in left:
        one = reader.directory(offsets[row], names[row] if names else str(row))
        if one is None:
            raise MalformedTiff(
                "a directory cannot be read", url=reader.url, ifd=f"@{offsets[row]}"
            )
        number = columns.kind[row] = keys.setdefault(signature(one), len(keys))
        columns._block[row] = len(columns._blocks)
        columns._blocks.append(one)
        columns.has_sub_ifds |= SUB_IFDS in one.entries
        if not n_gathered and number == len(columns.first):
            columns.first.append(row)
    if n_gathered:
        _renumber(columns)
    return columns


def _renumber(columns: Columns) -> None:
    """Number kinds by their first row."""
    kinds, first = np.unique(columns.kind, return_index=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(kinds), np.int32)
    rank[order] = np.arange(len(kinds), dtype=np.int32)
    columns.kind = rank[columns.kind]
    columns.first = first[order].tolist()


_label = struct.Struct("<HHQ").pack


def signature(one: Directory) -> bytes:
    """Return bytes that are equal for directories whose segments decode alike."""
    return b"".join(
        [
            _label(code, kind, count)
            + (one.raw(code, _MAX_COMPARED_BYTES) if data is None else data)
            for code, (kind, count, _, data) in one.entries.items()
            if code in KIND_TAGS
        ]
    )


@dataclass(slots=True)
class _Gather:
    """Directories that are read together, out of a buffer."""

    reader: TiffReader
    columns: Columns
    keys: dict[bytes, int]
    raw: NDArray[np.uint8]

    def run(self) -> NDArray[np.intp]:
        """Enter all directories that are like many others; return the rows of those left."""
        layout = self.reader._layout
        start = self.columns.ifd_offset.astype(np.int64)
        head = layout.count.size
        known = np.flatnonzero(start <= len(self.raw) - head)
        form = f"{self.reader.header.byteorder}u{head}"
        counts = np.zeros(len(start), np.int64)
        counts[known] = self._take(start[known], head).view(form)[:, 0]
        is_whole = start + head + counts * layout.entry.size <= len(self.raw)
        left: list[NDArray[np.intp]] = []
        for n_entries in np.unique(counts).tolist():
            rows = np.flatnonzero(counts == n_entries)
            is_few = len(rows) < _MIN_GATHERED or not is_whole[rows].all()
            if is_few or not 0 < n_entries <= _MAX_GATHERED_ENTRIES:
                left.append(rows)
                continue
            entries = self._take(start[rows] + head, n_entries * layout.entry.size)
            left += self._split(rows, entries.view(layout.dtype))
        return np.sort(np.concatenate(left)) if left else np.zeros(0, np.intp)

    def _split(self, rows: NDArray[np.intp], entries: NDArray) -> list[NDArray[np.intp]]:
        """Put directories of equal structure together."""
        left = []
        for _ in range(_MAX_STRUCTURES):
            like = _alike(entries)
            is_all = bool(like.all())  # nothing is copied then
            chosen, block = (rows, entries) if is_all else (rows[like], entries[like])
            if not self._add(chosen, block):
                left.append(chosen)
            if is_all:
                return left
            rows, entries = rows[~like], entries[~like]
        return [*left, rows]

    def _add(self, rows: NDArray[np.intp], entries: NDArray) -> bool:
        """Enter directories of one structure, unless they need to be read one by one."""
        found: dict[int, NDArray] = {}
        texts = [np.zeros((len(entries), 0), np.uint8)]
        for column in range(entries.shape[1]):
            one = entries[:, column]
            code, kind, count = int(one["code"][0]), int(one["type"][0]), int(one["count"][0])
            if code in found or (code not in KIND_TAGS and code not in _NUMBERS):
                continue
            values = self._values(one, kind, TYPE_SIZES.get(kind, 0) * count)
            if values is None or (code in _NUMBERS and kind not in UNSIGNED):
                return False
            found[code] = values
            if code in KIND_TAGS:
                label = np.frombuffer(_label(code, kind, count), np.uint8)
                texts += [np.broadcast_to(label, (len(entries), label.size)), values]
            else:
                form = f"{self.reader.header.byteorder}{UNSIGNED[kind]}"
                found[code] = values.view(form).astype(np.uint64)
        offset, length, below = (
            next((found[code] for code in codes if code in found), None)
            for codes in (SEGMENT_OFFSETS, SEGMENT_LENGTHS, (SUB_IFDS,))
        )
        if offset is None or length is None:
            return False
        columns = self.columns
        columns._block[rows] = len(columns._blocks)
        columns._place[rows] = np.arange(len(rows))
        below = _NONE.repeat(len(rows), 0) if below is None else below
        columns.has_sub_ifds |= below.shape[1] > 0
        columns._blocks.append(_Block(offset, length, below))
        columns.kind[rows] = self._kinds(np.concatenate(texts, axis=1))
        self.reader.n_reads += len(rows)
        return True

    def _kinds(self, text: NDArray[np.uint8]) -> int | list[int]:
        """Number directories by what decides how they decode; one number if all agree."""
        keys = self.keys
        if (text == text[0]).all():
            return keys.setdefault(text[0].tobytes(), len(keys))
        return [keys.setdefault(one.tobytes(), len(keys)) for one in text]

    def _values(self, entries: NDArray, kind: int, n_bytes: int) -> NDArray | None:
        """Return the bytes of one tag's values in each directory, `(n, n_bytes)`."""
        room = self.reader._layout.room
        inline = np.ascontiguousarray(entries["value"]).view(np.uint8).reshape(len(entries), room)
        if kind not in TYPE_SIZES or n_bytes > _MAX_COMPARED_BYTES:
            return None
        if n_bytes <= room:
            return np.ascontiguousarray(inline[:, :n_bytes])
        where = inline.view(f"{self.reader.header.byteorder}u{room}").reshape(-1).astype(np.uint64)
        is_inside = (where >= 8).all() and (
            where <= np.uint64(max(0, len(self.raw) - n_bytes))
        ).all()
        if n_bytes * len(entries) > _MAX_GATHERED_BYTES or not is_inside:
            return None
        self.reader._budget.n_bytes -= n_bytes * len(entries)
        return self._take(where.astype(np.int64), n_bytes)

    def _take(self, start: NDArray, n_bytes: int) -> NDArray[np.uint8]:
        return np.lib.stride_tricks.sliding_window_view(self.raw, n_bytes)[start]


def _alike(entries: NDArray) -> NDArray[np.bool_]:
    """Mark directories with the tags and types of the first, and its counts where they matter."""
    first = entries[0]
    like = (entries["code"] == first["code"]).all(axis=1)
    matters = np.isin(first["code"], _MATTER)
    for name in ("type", "count"):
        like &= (entries[name][:, matters] == first[name][matters]).all(axis=1)
    return like
