"""The images of a file as rows, and levels of an image as columns of their segments.

Owns the step from directories to `LevelFacts`: which rows decode alike, what each kind says, and
where the segments of the chosen rows are. Which rows make a level is said by `series`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff, ManifestMismatch, TiffrefError
from ..model.manifest import has_zeros
from ..model.tiff_facts import IfdFacts, LevelFacts
from .columns import Columns, read_columns
from .facts import decodes_by_stream, n_segments_of, ndpi_segments, read_facts, shape_of, stream_key
from .ifd import MAX_ENTRIES, SUB_IFDS, UNKNOWN_TYPE, Directory, TiffReader

__all__ = ["Level", "Pages", "Series", "squeeze"]

_MAX_UNLISTED = 1 << 20
"""Segments that a file may leave out of its lists; sparse files list theirs as 0."""
_NONE = 1
_NOWHERE = frozenset({273, 324})
_SAMPLES = frozenset({258, 339})
"""Bits and format of the samples."""
_ZERO = np.zeros(1, np.int32)
"""What one page alone has: the first IFD, of the first file."""
_ZERO.setflags(write=False)


class Pages:
    """Directories of one file, as rows.

    Parameters
    ----------
    reader
        Of the file.
    offsets
        Where the directories are; the chain of the file if not given.
    names
        What they are called, where not by their place in the chain.
    """

    def __init__(
        self,
        reader: TiffReader,
        offsets: Sequence[int] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.reader = reader
        self.offsets = reader.chain() if offsets is None else offsets
        self.names = names
        self._directories: dict[int, Directory] = {}
        self._facts: dict[int, IfdFacts] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    @functools.cached_property
    def columns(self) -> Columns:
        """How each row decodes, and where its segments are."""
        return read_columns(self.reader, self.offsets, self.names)

    @property
    def has_sub_ifds(self) -> bool:
        """Some directory has SubIFDs."""
        return SUB_IFDS in self.directory(0) if len(self) == 1 else self.columns.has_sub_ifds

    def directory(self, row: int) -> Directory:
        """Return the directory of a row."""
        one = self._directories.get(row)
        if one is None:
            name = self.names[row] if self.names else str(row)
            one = self.reader.directory(self.offsets[row], name)
            if one is None:
                raise MalformedTiff("a directory cannot be read", url=self.reader.url, ifd=name)
            self._directories[row] = one
        return one

    def at(self, offsets: Sequence[int]) -> Pages:
        """Return other directories of the file, which are named by where they are."""
        return Pages(self.reader, offsets, [f"@{offset}" for offset in offsets])

    def below(self, rows: Sequence[int]) -> list[list[int]]:
        """Return the offsets of the SubIFDs of some rows, and fetch all of them together."""
        found = [self.columns.sub_ifds(row)[:MAX_ENTRIES] for row in rows]
        self.reader.fetch_directories([offset for some in found for offset in some])
        return found

    def has_below(self, row: int, offset: int) -> bool:
        """Return whether a SubIFD of a row is there; one that is not is a finding."""
        if self.reader.is_directory(offset):
            return True
        self.reader.note_lost(self.directory(row), offset)
        return False

    def facts(self, row: int) -> IfdFacts:
        """Return what a row says of its image.

        Raises
        ------
        MalformedTiff
            If it makes no sense, or the values that say what its samples are cannot be read.
        """
        found = self._facts.get(row)
        if found is None:
            one = self.directory(row)
            for lost in one.findings:
                # their defaults would give other pixels
                if lost.tag in _SAMPLES and lost.what != UNKNOWN_TYPE:
                    raise lost.to_error()
            found = self._facts[row] = read_facts(self.reader, one)
        return found

    def lost(self) -> set[int]:
        """Return the rows whose list of segments lies outside the file."""
        names = {one.ifd for one in self.reader.findings if one.tag in _NOWHERE}
        if not names:
            return set()
        own = self.names or map(str, range(len(self)))
        rows = [row for row, name in enumerate(own) if name in names]
        return {row for row in rows if not self.directory(row).n_listed}

    @functools.cached_property
    def kind(self) -> NDArray[np.int32]:
        """Number the rows that decode alike, by tags and, where those leave it open, by stream."""
        if len(self) == 1:
            return np.zeros(1, np.int32)
        columns = self.columns
        if len(columns.first) == len(self):
            return columns.kind
        kind = columns.kind.copy()
        for number, first in enumerate(columns.first):
            try:
                facts = self.facts(first)
            except MalformedTiff:
                continue
            if decodes_by_stream(facts):
                self._split(kind, np.flatnonzero(columns.kind == number), facts)
        return kind

    def _split(self, kind: NDArray[np.int32], rows: NDArray[np.intp], facts: IfdFacts) -> None:
        """Return rows that their streams tell apart numbers of their own."""
        keys: dict[object, int] = {}
        for row in rows.tolist():
            key = stream_key(self.reader, self.directory(row), facts)
            kind[row] = keys.setdefault(key, int(kind.max()) + 1 if keys else int(kind[row]))

    def likeness(self, row: int) -> tuple[object, ...]:
        """Return what the images of one series have in common."""
        ifd = self.facts(row)
        return (
            ifd.shape, ifd.rows_per_strip, ifd.tile, ifd.sample_format, ifd.bits, ifd.fill_order,
            ifd.predictor, ifd.compression, ifd.extra_samples, ifd.photometric,
        )  # fmt: skip

    def shape(self, row: int) -> tuple[tuple[int, ...], str]:
        """Return shape and axes of an image as `imread` gives them."""
        ifd = self.facts(row)
        return shape_of(ifd.shape, ifd.photometric == 2)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One resolution level: which row of which pages each plane is, in C order.

    Attributes
    ----------
    pages
        Of each file.
    row
        `(n,)` row of each plane; -1 where no directory is.
    file
        `(n,)` index into `pages`; None if there is one file.
    shape, axes
        Of the array, before dimensions of length 1 are left out.
    is_run
        The first directory describes all planes, which lie one after the other.
    segments
        Offset and length `(n, n_segments)` where they are not those of the directories.
    error
        Why the level cannot be read.
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
    def first(self) -> tuple[Pages, int]:
        """Pages and row of the first plane that is there.

        Raises
        ------
        MalformedTiff
            If none is.
        """
        at = 0
        if not len(self.row) or self.row[0] < 0:
            at = int((self.row >= 0).argmax()) if len(self.row) else -1
            if at < 0 or self.row[at] < 0:
                raise MalformedTiff("all pages are missing", url=self.pages[0].reader.url)
        file = 0 if self.file is None else int(self.file[at])
        return self.pages[file], int(self.row[at])

    @property
    def facts(self) -> IfdFacts:
        """What the first plane that is there says of its image; errors as of `first`."""
        pages, row = self.first
        return pages.facts(row)

    def is_in(self, number: int) -> NDArray[np.bool_]:
        """Return which planes are in one of the files: `(n,)`."""
        is_there = self.row >= 0
        return is_there if self.file is None else is_there & (self.file == number)

    def to_facts(self) -> LevelFacts:
        """Read the level into columns.

        Raises
        ------
        MalformedTiff, ManifestMismatch
            If its directories make no sense, or do not fit each other.
        """
        if self.error is not None:
            raise self.error
        if len(self.row) > 1 and self.segments is None:
            row = self._rows_with_segments()
            if (row != self.row).any():
                return replace(self, row=row).to_facts()
        ifds, kind = self._kinds()
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
            shape, axes = (0, *shape), f"Q{axes}"  # no samples can be told: imread gives none
        if self.file is not None:
            source = self.file.astype(np.int32)
        else:
            source = _ZERO if len(kind) == 1 else np.zeros(len(kind), np.int32)
        return LevelFacts(
            tuple(map(int, shape)),
            axes,
            first.dtype or "<f8",
            ifds,
            tuple([pages.reader.source.source for pages in self.pages]),
            kind,
            source,
            offset,
            length,
            run_offset=int(offset[0, 0]) if self.is_run and offset.size else None,
        )

    def _rows_with_segments(self) -> NDArray[np.intp]:
        """Return the rows of planes; pages that lost the list of their segments are missing."""
        row = self.row
        for number, pages in enumerate(self.pages):
            lost = pages.lost()
            if lost:
                row = np.where(self.is_in(number) & np.isin(self.row, list(lost)), -1, row)
        return row

    def _kinds(self) -> tuple[tuple[IfdFacts, ...], NDArray[np.int32]]:
        """Return what the different directories say, in order of use, and which each plane has."""
        pages, row = self.first
        if len(self.row) == 1:
            return (pages.facts(row),), _ZERO
        key = np.full(len(self.row), -1, np.int64)
        for number, one in enumerate(self.pages):
            here = self.is_in(number)
            if here.any():
                key[here] = one.kind[self.row[here]] + (np.int64(number) << 32)
        found, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        order = [n for n in np.argsort(first, kind="stable").tolist() if found[n] >= 0]
        rank = np.full(len(found), -1, np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        ifds = []
        for plane in first[order].tolist():
            file = 0 if self.file is None else int(self.file[plane])
            ifds.append(self.pages[file].facts(int(self.row[plane])))
        return tuple(ifds), rank[inverse.reshape(-1)]

    def _segments(
        self, ifd: IfdFacts, n_segments: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        if self.segments is not None:
            offset, length = (_fit(column, n_segments) for column in self.segments)
            offset[self.row < 0] = 0
            length[self.row < 0] = 0
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


def _fit(column: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    fitted = np.zeros((len(column), n), np.uint64)
    fitted[:, : column.shape[1]] = column[:, :n]
    return fitted


def _read_segments(
    pages: Pages, rows: NDArray[np.intp], ifd: IfdFacts, n_segments: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return offset and length of the segments of some rows of a file."""
    if "jpeg_header" in ifd.tables:
        parts = [ndpi_segments(pages.reader, pages.directory(row)) for row in rows.tolist()]
        return tuple(np.stack([_fit(c[None], n_segments)[0] for c in one])
                     for one in zip(*parts, strict=True))  # type: ignore[return-value]  # fmt: skip
    first = int(rows[0] if rows[0] >= 0 else next((row for row in rows if row >= 0), 0))
    n_listed = _n_listed(pages.directory(first))
    if n_segments - n_listed > _MAX_UNLISTED:
        raise MalformedTiff(
            "the size of the image asks for segments that the file does not list",
            url=pages.reader.url,
            ifd=ifd.name,
            tag="ImageWidth (256), ImageLength (257)",
            got=f"{n_listed} offsets or lengths",
            expected=f"{n_segments}",
        )
    offset, length = pages.columns.segments(rows, n_segments)
    if n_segments == 1:
        length = _estimated(pages, first, ifd, offset, length)
    if has_zeros(offset):
        length[offset == 0] = 0
    return offset, length


def _n_listed(one: Directory) -> int:
    """Count the segments that a directory lists; refuse one whose list is lost."""
    listed = one.n_listed
    for found in () if listed else one.findings:
        if found.tag in _NOWHERE:
            raise found.to_error()
    return listed


def _estimated(
    pages: Pages, first: int, ifd: IfdFacts, offset: NDArray[np.uint64], length: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Return the length of single strips whose writer did not give it, as decoders take it."""
    if length.all():
        return length
    if ifd.compression != _NONE or ifd.tile is not None:
        return length  # up to the next segment, if that decodes (see `lengths`)
    if not {279, 325, 514} & pages.directory(first).entries.keys():
        n_bytes = int(np.prod(ifd.shape, dtype=object)) * (ifd.bits[0] // 8)
        return np.full_like(length, min(max(0, n_bytes), 2**62))
    return length


@dataclass(slots=True, eq=False)
class Series:
    """One image of a file, with its resolution levels."""

    kind: str
    levels: list[Level]
    name: str = ""
    defects: list[str] = field(default_factory=list)

    @property
    def axes(self) -> str:
        """Axes of the full image, "" if it cannot be read."""
        level = self.levels[0]
        if not level.axes:
            return ""
        return squeeze(level.shape, level.axes)[1] if level.is_squeezed else level.axes


def squeeze(shape: Sequence[int], axes: str) -> tuple[tuple[int, ...], str]:
    """Leave out dimensions of length 1 but x and y, as `imread` does."""
    kept = [n for n, axis in enumerate(axes) if shape[n] > 1 or axis in "XY"]
    kept = kept or [len(shape) - 1]
    if len(kept) == len(shape):
        return tuple(shape), axes
    return tuple([shape[n] for n in kept]), "".join([axes[n] for n in kept])
