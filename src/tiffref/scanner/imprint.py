"""The directories of a file as bytes, to tell at a glance that another file has the same.

Owns the comparison of raw bytes: where all directories of two files lie at the same places, and all
bytes of them are equal but for the places of segments, tiepoint and date, the second need not be
parsed. What lies between the header and the first directory must be equal, too. That is so for the
files of one archive that GDAL's COG driver wrote, whose directories come first. It says yes only
where a parser would find the same (see `skeleton`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..codecs.table import JPEG, OLD_JPEG
from ..errors import MalformedTiff
from ..model.manifest import Source
from .bytesource import ByteSource
from .ifd import INTEGER_TYPES, TYPE_SIZES, Entry, Header, parse_header, read_entries
from .skeleton import Skeleton

__all__ = ["Imprint", "take_imprint"]

_MAX_BYTES = 1 << 14
_OFFSETS, _LENGTHS = frozenset({273, 324}), frozenset({279, 325})
_SUB_IFDS, _COMPRESSION, _TIEPOINTS, _DATE_TIME = 330, 259, 33922, 306
_MAX_DECLARED_BYTES = 1 << 10
_TYPES = {**INTEGER_TYPES, 1: "S", 12: "f8"}
"""Type of an entry -> what its values are looked at as; the rest as bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Imprint:
    """What the beginning of a file must be, to be told like another.

    Attributes
    ----------
    skeleton
        Of the file that it was taken of.
    length
        Bytes from the start of a file that hold all its directories.
    fixed
        (start, end, bytes) that must be equal.
    columns
        For each directory, (start, end, type) of its offsets and of its lengths.
    notes
        Tag -> (start, end, type) of values of the first directory that may differ.
    """

    skeleton: Skeleton
    length: int
    fixed: tuple[tuple[int, int, bytes], ...]
    columns: tuple[tuple[tuple[int, int, str], tuple[int, int, str]], ...]
    notes: tuple[tuple[int, tuple[int, int, str]], ...]

    def match(self, data: bytes, source: Source) -> Skeleton | None:
        """Give the directories of another file.

        Parameters
        ----------
        data
            Its beginning, `length` bytes at least.
        source
            The file.

        Returns
        -------
        None if it is not like this one.
        """
        if len(data) < self.length:
            return None
        for start, end, expected in self.fixed:
            if data[start:end] != expected:
                return None
        if _suffix(source.url) != _suffix(self.skeleton.source.url):
            return None
        notes = dict(self.skeleton.notes)
        for code, where in self.notes:
            notes[code] = _note(data, where)
        return replace(
            self.skeleton,
            source=source,
            offsets=tuple(_column(data, offsets) for offsets, _ in self.columns),
            lengths=tuple(_column(data, lengths) for _, lengths in self.columns),
            notes=notes,
        )


def _suffix(url: str) -> str:
    return url.rpartition(".")[2].lower()


def _column(data: bytes, where: tuple[int, int, str]) -> np.ndarray:
    start, end, kind = where
    return np.frombuffer(data[start:end], kind).astype(np.uint64)


def _note(data: bytes, where: tuple[int, int, str]) -> Any:
    start, end, kind = where
    return data[start:end] if kind == "S" else tuple(np.frombuffer(data[start:end], kind).tolist())


def take_imprint(there: ByteSource, skeleton: Skeleton) -> Imprint | None:
    """Take the imprint of a file.

    Returns
    -------
    None if its directories do not all lie at its beginning, or are not all there is to compare.
    """
    data = there.read(0, _MAX_BYTES)
    try:
        header = parse_header(data[:16])
    except MalformedTiff:
        return None

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    directories = list(_walk(read, header, header.first_ifd, 0))
    if len(directories) != len(skeleton.offsets):
        return None
    spans = [(0, min(header.first_ifd, _MAX_DECLARED_BYTES))]
    open_spans: list[tuple[int, int]] = []
    columns = []
    notes = []
    for n, (span, entries) in enumerate(directories):
        spans.append(span)
        own = {}
        for entry in entries:
            where = _place(entry, header)
            if where[1] > len(data):
                return None
            if entry.code == _COMPRESSION and data[where[0] : where[1]][:2] in _marks(header):
                return None
            if not span[0] <= where[0] < span[1]:
                spans.append(where[:2])
            if entry.code in _OFFSETS | _LENGTHS:
                own[entry.code in _LENGTHS] = where
                open_spans.append(where[:2])
            elif n == 0 and entry.code in (_TIEPOINTS, _DATE_TIME):
                notes.append((entry.code, where))
                open_spans.append(where[:2])
        columns.append((own[False], own[True]))
    length = max(end for _, end in spans)
    fixed = tuple(_without(spans, open_spans, data))
    imprint = Imprint(skeleton, length, fixed, tuple(columns), tuple(notes))
    return imprint if length <= len(data) and _is_same(imprint, data, skeleton) else None


def _walk(
    read: Any, header: Header, offset: int, depth: int
) -> Iterator[tuple[tuple[int, int], list[Entry]]]:
    """Give all directories in the order in which `read_skeleton` meets them."""
    while offset and depth < 8:
        entries, following = read_entries(read, header, offset)
        if not entries:
            return
        n_pointer = 8 if header.is_big else 4
        n_entry = 20 if header.is_big else 12
        end = entries[-1].position + n_entry + n_pointer
        yield (offset, end), entries
        for entry in entries:
            if entry.code == _SUB_IFDS:
                start, stop, kind = _place(entry, header)
                below = np.frombuffer(read(start, stop - start), kind)
                for one in below.tolist():
                    yield from _walk(read, header, one, depth + 1)
        offset, depth = following, depth + (following <= offset)


def _place(entry: Entry, header: Header) -> tuple[int, int, str]:
    kind = _TYPES.get(entry.type, "S")
    end = entry.value_offset + TYPE_SIZES.get(entry.type, 0) * entry.count
    return entry.value_offset, end, kind if kind == "S" else header.byteorder + kind


def _marks(header: Header) -> frozenset[bytes]:
    """Give the compressions whose segments a comparison looks at, too, as they stand in a file."""
    order = "little" if header.byteorder == "<" else "big"
    return frozenset(n.to_bytes(2, order) for n in JPEG | {OLD_JPEG})  # type: ignore[arg-type]


def _without(
    spans: list[tuple[int, int]], holes: list[tuple[int, int]], data: bytes
) -> Iterator[tuple[int, int, bytes]]:
    """Give what is in spans and not in holes, longer pieces put together."""
    is_fixed = np.zeros(len(data), bool)
    for start, end in spans:
        is_fixed[start:end] = True
    for start, end in holes:
        is_fixed[start:end] = False
    edges = np.flatnonzero(np.diff(is_fixed.astype(np.int8), prepend=0, append=0)).tolist()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield start, end, data[start:end]


def _is_same(imprint: Imprint, data: bytes, skeleton: Skeleton) -> bool:
    """Say whether the file itself comes out as it was parsed."""
    again = imprint.match(data, skeleton.source)
    return (
        again is not None
        and again.notes == skeleton.notes
        and all(
            np.array_equal(a, b)
            for a, b in zip(
                [*again.offsets, *again.lengths], [*skeleton.offsets, *skeleton.lengths],
                strict=True,
            )
        )
    )  # fmt: skip
