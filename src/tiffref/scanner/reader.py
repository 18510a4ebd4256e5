"""One file to facts, by tifffile.

tifffile supplies flavours, series and the meaning of tags, with its knowledge of deviant writers.
What a decoder needs is then taken from each IFD for itself: tifffile assumes that the pages of a
series decode alike, which files in the wild break.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from tifffile import TIFF, TiffFile, TiffFrame, TiffPage, TiffPageSeries

from ..errors import MalformedTiff, ManifestMismatch, TiffrefError
from ..model.facts import FileFacts, IfdFacts, LevelFacts, SeriesFacts
from ..model.manifest import Source
from .flavours import OWN_METADATA
from .grouping import list_series, squeeze
from .ifd import Entry, Header, declares_whole_tiles, read_array, read_declared, read_entries
from .pagefacts import as_sequence, n_segments_of, page_facts, stream_key
from .pages import BulkPages
from .source import ByteSource, LocalSource
from .talk import PARSE_ERRORS, quiet

__all__ = ["DECODING_TAGS", "OpenTiff"]

DECODING_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 338, 339, 347, 529, 530,
     532, 32997, 32998, 50674, 65007, 65008, 65009}
)  # fmt: skip
"""Tags that decide how segments decode; pages that agree in all of them decode alike."""

_MAX_UNLISTED = 1 << 20
"""Segments that a file may leave out of its lists; sparse files list theirs as 0."""

_UNASKED_FLAVOURS = frozenset({"c2pa"})
"""Flavours that no reader asks for, and that tifffile walks along all pages to tell."""
_FLAVOURS_IN_TAGS = frozenset({"gdal", "geotiff"})
"""Flavours whose metadata is read from the tags themselves."""


class _Columns(NamedTuple):
    """The columns of `LevelFacts`."""

    ifds: tuple[IfdFacts, ...]
    sources: tuple[Source, ...]
    ifd: np.ndarray
    source: np.ndarray
    offset: np.ndarray
    length: np.ndarray


@dataclass
class OpenTiff:
    """A TIFF open for scanning.

    Attributes
    ----------
    tif
        tifffile's view of it.
    source
        Its bytes.
    base
        Where the TIFF starts in the source, in bytes; not 0 if it is embedded in a larger file.
    """

    tif: TiffFile
    source: ByteSource
    header: Header
    base: int = 0
    owns: bool = True
    arrays: dict[int, dict[int, Entry]] = field(default_factory=dict)
    bulk: BulkPages | None = None
    _siblings: dict[str, ByteSource] = field(default_factory=dict)

    def close(self) -> None:
        """Close what was opened here."""
        for sibling in self._siblings.values():
            sibling.close()
        if self.owns:
            self.tif.close()
            self.source.close()

    def __enter__(self) -> OpenTiff:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def source_of(self, page: TiffPage | TiffFrame) -> ByteSource:
        """The bytes of the file that a page lies in: another one in a multi-file series."""
        path = page.parent.filehandle.path
        if page.parent.filehandle is self.tif.filehandle or path == self.tif.filehandle.path:
            return self.source
        return self.sibling(path)

    def sibling(self, path: str) -> ByteSource:
        """Another local file of the same set, opened once."""
        if path not in self._siblings:
            self._siblings[path] = LocalSource(path)
        return self._siblings[path]

    def read_segment(self, url: str, offset: int, length: int) -> bytes:
        """Read the stored bytes of a segment of this file, or of another one of its set."""
        return self._source_at(url).read(offset, length)

    def is_at_hand(self, url: str, offset: int, length: int) -> bool:
        """Say whether a segment can be read without a request."""
        return self._source_at(url).is_at_hand(offset, length)

    @property
    def is_regular(self) -> bool:
        """The file's writer declares that every tile is stored whole (GDAL's COG driver)."""
        return declares_whole_tiles(read_declared(self._read(self.source), self.header))

    def _source_at(self, url: str) -> ByteSource:
        return self.source if url == self.source.source.url else self.sibling(url)

    def facts(self) -> FileFacts:
        """Read all series with all levels.

        Raises
        ------
        MalformedTiff
            If no series can be made out at all.
        """
        try:
            series, defect = list_series(self.tif)
        except PARSE_ERRORS as error:
            raise self.malformed("the images of the file cannot be told", error) from error
        if not series:
            raise MalformedTiff("holds no image", url=self.source.source.url)
        return self.facts_of(series, defect)

    def facts_of(self, series: Sequence[TiffPageSeries], defect: str = "") -> FileFacts:
        """Read some series; `defect` is that of `FileFacts`."""
        return FileFacts(
            self.source.source,
            self.tif.byteorder,
            self.tif.is_bigtiff,
            tuple(sorted(self.flags)),
            tuple(self.series_facts(index, one) for index, one in enumerate(series)),
            self.metadata(),
            defect,
        )

    @functools.cached_property
    def flags(self) -> frozenset[str]:
        """Flavours of the file, as tifffile tells them."""
        names = TIFF.FILE_FLAGS - _UNASKED_FLAVOURS
        return frozenset(name.lower() for name in names if getattr(self.tif, f"is_{name}"))

    def metadata(self) -> dict[str, Any]:
        """Metadata of the file's flavours, as tifffile gives it, by flavour."""
        found = {}
        for name in sorted(self.flags - _FLAVOURS_IN_TAGS):
            with contextlib.suppress(*PARSE_ERRORS), quiet():
                own = OWN_METADATA.get(name)
                value = own(self.tif) if own else getattr(self.tif, f"{name}_metadata", None)
                if value:
                    found[name] = value
        return found

    def series_facts(self, index: int, series: TiffPageSeries) -> SeriesFacts:
        """Read one series; a level that cannot be told is given as the error that says why."""
        levels: list[LevelFacts | Exception] = []
        for level in series.levels:
            try:
                with quiet():
                    levels.append(self.level_facts(level))
            except TiffrefError as error:
                levels.append(error)
            except PARSE_ERRORS as error:
                levels.append(self.malformed(f"series {index} cannot be read", error))
        return SeriesFacts(index, series.kind, series.name, series.axes, tuple(levels))

    def level_facts(self, level: TiffPageSeries) -> LevelFacts:
        """Read all pages of one level into columns."""
        shape, axes = level.shape, level.axes
        if not shape:
            raise MalformedTiff("a directory says nothing of an image", url=self.source.source.url)
        if level.kind != "shaped":
            shape, axes = squeeze(shape, axes)
        run_offset = None if level.is_multifile else level.dataoffset
        is_run = run_offset is not None and level.keyframe.size != level.size
        pages = [level.keyframe] if is_run else list(level)
        if not pages:
            raise MalformedTiff("holds no page", url=self.source.source.url)
        columns = self.bulk_columns(pages) or self.page_columns(pages)
        if columns.ifds[0].dtype is None:
            shape, axes = (0, *shape), f"Q{axes}"  # no samples can be told: imread gives none
        return LevelFacts(
            tuple(int(n) for n in shape),
            axes,
            np.dtype(level.dtype).str,
            **columns._asdict(),
            run_offset=int(run_offset) + self.base if is_run and run_offset is not None else None,
        )

    def bulk_columns(self, pages: Sequence[TiffPage | TiffFrame | None]) -> _Columns | None:
        """The same as `page_columns` where all pages are known from the bulk reading."""
        if self.bulk is None or len(pages) < 2:
            return None
        tif = self.tif
        if any(page is None or page.parent is not tif for page in pages):
            return None
        index = np.array([page.index for page in pages])  # type: ignore[union-attr]
        is_beyond = index.ndim != 1 or index.max() >= len(self.bulk.is_known)
        if is_beyond or not self.bulk.is_known[index].all():
            return None
        first = pages[0].keyframe  # type: ignore[union-attr]
        assert first is not None
        kind = np.zeros(len(pages), np.int32)
        offset = self.bulk.offset[index]
        offset = np.where(offset > 0, offset + np.uint64(self.base), 0)
        ifd = self.ifd_facts(first, self.source)
        if n_segments_of(ifd) != offset.shape[1]:
            return None
        length = self.bulk.length[index]
        return _Columns((ifd,), (self.source.source,), kind, kind, offset, length)

    def page_columns(self, pages: Sequence[TiffPage | TiffFrame | None]) -> _Columns:
        """Tell the kind of each page's IFD, its source, and where its segments are."""
        ifds: list[IfdFacts] = []
        kinds: dict[Any, int] = {}
        sources: dict[str, int] = {}
        rows: list[Source] = []
        ifd = np.full(len(pages), -1, np.int32)
        source = np.zeros(len(pages), np.int32)
        offsets: list[Any] = [None] * len(pages)
        lengths: list[Any] = [None] * len(pages)
        for n, page in enumerate(pages):
            if page is None:
                continue
            there = self.source_of(page)
            url = there.source.url
            if url not in sources:
                sources[url] = len(rows)
                rows.append(there.source)
            source[n] = sources[url]
            kind = (url, self.fingerprint(page, there))
            if kind not in kinds:
                kinds[kind] = len(ifds)
                ifds.append(self.ifd_facts(page, there))
            ifd[n] = kinds[kind]
            offsets[n], lengths[n] = self.segments(page, ifds[ifd[n]], there)
        if not ifds:
            raise MalformedTiff("all pages are missing", url=self.source.source.url)
        columns = _stack(offsets, self), _stack(lengths, self)
        return _Columns(tuple(ifds), tuple(rows), ifd, source, *columns)

    def fingerprint(self, page: TiffPage | TiffFrame, there: ByteSource) -> Any:
        """Bytes that are equal for pages that decode alike."""
        keyframe = page.keyframe
        if not page.offset or keyframe is None:
            return id(keyframe)  # a virtual frame has no IFD of its own
        entries, _ = read_entries(self._read(there), _header_of(page), page.offset)
        if not entries:
            return page.offset
        key: list[Any] = [stream_key(page, keyframe, self._read(there))]
        for entry in entries:
            if entry.code in DECODING_TAGS:
                data = there.read(entry.value_offset + self.base, min(entry.nbytes, 1 << 20))
                key.append((entry.code, entry.type, entry.count, data))
        return page.parent.byteorder, tuple(key)

    def ifd_facts(self, page: TiffPage | TiffFrame, there: ByteSource) -> IfdFacts:
        """Take what one IFD says."""
        with _opened(page.parent):
            full = self.full_page(page) if isinstance(page, TiffFrame) else page
            return page_facts(full, self._read(there))

    def full_page(self, frame: TiffFrame) -> TiffPage:
        """The whole IFD of a page that tifffile holds in short."""
        if frame.offset == 0 and frame.keyframe is not None:
            return frame.keyframe
        frame.parent.filehandle.seek(frame.offset)
        return TiffPage(frame.parent, index=frame.index)

    def segments(
        self, page: TiffPage | TiffFrame, ifd: IfdFacts, there: ByteSource
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the segments of one page are, as two `(n_segments,)` uint64 arrays."""
        entries = self.arrays.get(page.offset)
        if entries is not None and there is self.source:
            read = self._read(there)
            offset, length = (
                read_array(read, self.header, next(e for e in entries.values() if e.code in codes))
                for codes in ((273, 324), (279, 325))
            )
        else:
            offset, length = (_unsigned(v) for v in (page.dataoffsets, page.databytecounts))
        n_segments = n_segments_of(ifd)
        return _fit(offset + np.uint64(self.base), n_segments, offset == 0), _fit(
            length, n_segments
        )

    def malformed(self, what: str, error: BaseException) -> MalformedTiff:
        """Wrap an error of the parser."""
        return MalformedTiff(
            what, url=self.source.source.url, got=f"{type(error).__name__}: {error}"
        )

    def _read(self, there: ByteSource) -> Any:
        base = self.base
        return lambda offset, length: there.read(offset + base, length)


@contextlib.contextmanager
def _opened(tif: TiffFile) -> Iterator[None]:
    """Open the file of a set that tifffile has closed again, for as long as it is read."""
    handle = tif.filehandle
    was_closed = handle.closed
    if was_closed:
        handle.open()
    try:
        yield
    finally:
        if was_closed:
            handle.close()


def _header_of(page: TiffPage | TiffFrame) -> Header:
    tiff = page.parent.tiff
    return Header(tiff.byteorder, tiff.is_bigtiff, 0, tiff.is_ndpi)


def _stack(rows: Sequence[np.ndarray | None], tiff: OpenTiff) -> np.ndarray:
    """Put the columns of pages on top of each other; a missing page has zeros."""
    widths = {len(row) for row in rows if row is not None}
    if len(widths) > 1:
        raise ManifestMismatch(
            "pages of one series have different segment counts",
            url=tiff.source.source.url,
            got=sorted(widths),
        )
    empty = np.zeros(widths.pop(), np.uint64)
    return np.stack([empty if row is None else row for row in rows])


def _fit(column: np.ndarray, n: int, is_zero: np.ndarray | None = None) -> np.ndarray:
    """Cut or fill a column to `n` rows; what the file does not list is missing."""
    if n - len(column) > _MAX_UNLISTED:
        raise MalformedTiff(
            "the size of the image asks for segments that the file does not list",
            tag="ImageWidth (256), ImageLength (257)",
            got=f"{len(column)} offsets or lengths",
            expected=f"{n}",
        )
    fitted = np.zeros(n, np.uint64)
    size = min(n, len(column))
    fitted[:size] = column[:size]
    if is_zero is not None:
        fitted[:size][is_zero[:size]] = 0
    return fitted


def _unsigned(values: Any) -> np.ndarray:
    # BYTE arrays come as bytes: small counts may be stored so
    column = np.asarray(list(values) if isinstance(values, bytes) else as_sequence(values))
    if column.size == 0:
        return np.zeros(0, np.uint64)
    if column.dtype.kind not in "ui" or (column.dtype.kind == "i" and (column < 0).any()):
        raise MalformedTiff(
            "segment offsets or lengths are not unsigned integers", got=column.dtype
        )
    return column.astype(np.uint64)
