"""One file to facts: the only importer of tifffile.

tifffile supplies flavours, series and the meaning of tags, with its knowledge of deviant writers.
What a decoder needs is then taken from each IFD for itself: tifffile assumes that the pages of a
series decode alike, which files in the wild break.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from ..codecs.headers import scan_header
from ..errors import MalformedTiff, ManifestMismatch, TiffrefError
from ..model.facts import FileFacts, IfdFacts, LevelFacts, SeriesFacts
from ..model.manifest import Source
from .ifd import Entry, Header, parse_header, read_array, read_entries
from .pages import BulkPages, read_bulk_pages
from .source import ByteSource, LocalSource, SourceFile, open_source

__all__ = ["OpenTiff", "PARSE_ERRORS", "open_tiff"]

PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What tifffile raises on files that it cannot make sense of."""

_ARRAY_TAGS = frozenset({273, 279, 324, 325})
_LONG_ARRAY = 4096
"""Segments from which on tifffile is spared the offset arrays: it makes a Python object of each."""
_SHOWN = 3
_MAX_PEEK_IFDS = 64
_DECODING_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 338, 339, 347, 529, 530,
     532, 32997, 32998, 50674, 65007, 65008, 65009}
)  # fmt: skip
"""Tags that decide how segments decode; pages that agree in all of them decode alike."""
_UNKEPT_TAGS = frozenset({273, 279, 288, 289, 324, 325, 347, 513, 514, 519, 520, 521, 65426, 65432})


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
            with _quiet():
                series = list(self.tif.series)
        except PARSE_ERRORS as error:
            raise self.malformed("the images of the file cannot be told", error) from error
        if not series:
            raise MalformedTiff("holds no image", url=self.source.source.url)
        return FileFacts(
            self.source.source,
            self.tif.byteorder,
            self.tif.is_bigtiff,
            tuple(sorted(self.tif.flags)),
            tuple(self.series_facts(index, one) for index, one in enumerate(series)),
            self.metadata(),
        )

    def metadata(self) -> dict[str, Any]:
        """Metadata of the file's flavours, as tifffile gives it, by flavour."""
        found = {}
        for name in sorted(self.tif.flags):
            with contextlib.suppress(*PARSE_ERRORS), _quiet():
                value = getattr(self.tif, f"{name}_metadata", None)
                if value:
                    found[name] = value
        return found

    def series_facts(self, index: int, series: TiffPageSeries) -> SeriesFacts:
        """Read one series; a level that cannot be told is given as the error that says why."""
        levels: list[LevelFacts | Exception] = []
        for level in series.levels:
            try:
                with _quiet():
                    levels.append(self.level_facts(level))
            except TiffrefError as error:
                levels.append(error)
            except PARSE_ERRORS as error:
                levels.append(self.malformed(f"series {index} cannot be read", error))
        transform = series.kind if getattr(series, "transform", None) is not None else None
        return SeriesFacts(index, series.kind, series.name, series.axes, tuple(levels), transform)

    def level_facts(self, level: TiffPageSeries) -> LevelFacts:
        """Read all pages of one level into columns."""
        shape, axes = level.shape, level.axes
        if level.kind != "shaped":
            shape, axes = _squeeze(shape, axes)
        run_offset = None if level.is_multifile else level.dataoffset
        is_run = run_offset is not None and level.keyframe.size != level.size
        pages = [level.keyframe] if is_run else list(level)
        if not pages:
            raise MalformedTiff("holds no page", url=self.source.source.url)
        columns = self.bulk_columns(pages) or self.page_columns(pages)
        if columns[0][0].dtype is None:
            shape, axes = (0, *shape), f"Q{axes}"  # no samples can be told: imread gives none
        return LevelFacts(
            tuple(int(n) for n in shape),
            axes,
            np.dtype(level.dtype).str,
            *columns,
            int(run_offset) + self.base if is_run and run_offset is not None else None,
        )

    def bulk_columns(self, pages: Sequence[TiffPage | TiffFrame | None]) -> tuple | None:
        """The same as `page_columns` where all pages are known from the bulk reading."""
        if self.bulk is None or len(pages) < 2:
            return None
        tif = self.tif
        if any(page is None or page.parent is not tif for page in pages):
            return None
        index = np.array([page.index for page in pages])  # type: ignore[union-attr]
        if index.ndim != 1 or not self.bulk.is_known[index].all():
            return None
        first = pages[0].keyframe  # type: ignore[union-attr]
        kind = np.zeros(len(pages), np.int32)
        offset = self.bulk.offset[index]
        offset = np.where(offset > 0, offset + np.uint64(self.base), 0)
        ifd = self.ifd_facts(first, self.source)
        if n_segments_of(ifd) != offset.shape[1]:
            return None
        return (ifd,), (self.source.source,), kind, kind, offset, self.bulk.length[index]

    def page_columns(self, pages: Sequence[TiffPage | TiffFrame | None]) -> tuple:
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
        return (tuple(ifds), tuple(rows), ifd, source, *_stack(offsets, lengths, self))

    def fingerprint(self, page: TiffPage | TiffFrame, there: ByteSource) -> Any:
        """Bytes that are equal for pages that decode alike."""
        if isinstance(page, TiffFrame):
            keyframe = page.keyframe
            if not page.offset or keyframe is None:
                return id(keyframe)  # a virtual frame has no IFD of its own
        elif page.compression == 6:
            return page.offset  # old-style JPEG: tables lie at offsets of their own
        entries, _ = read_entries(self._read(there), _header_of(page), page.offset)
        if not entries:
            return page.offset
        key = []
        for entry in entries:
            if entry.code in _DECODING_TAGS:
                data = there.read(entry.value_offset + self.base, min(entry.nbytes, 1 << 20))
                key.append((entry.code, entry.type, entry.count, data))
        return page.parent.byteorder, tuple(key)

    def ifd_facts(self, page: TiffPage | TiffFrame, there: ByteSource) -> IfdFacts:
        """Take what one IFD says from tifffile's full page."""
        if isinstance(page, TiffFrame):
            page = self.full_page(page)
        bits = page.bitspersample
        tile = (page.tiledepth, page.tilelength, page.tilewidth) if page.is_tiled else None
        subsampling = page.subsampling or (
            (2, 2) if page.photometric == 6 and page.compression not in (6, 7) else (1, 1)
        )
        return IfdFacts(
            name=str(page.index) if isinstance(page.index, int) else f"@{page.offset}",
            byteorder=page.parent.byteorder,
            shape=tuple(int(n) for n in page.shaped),  # type: ignore[arg-type]
            dtype=None if page.dtype is None else np.dtype(page.dtype).str,
            compression=int(page.compression),
            predictor=int(page.predictor),
            fill_order=int(page.fillorder),
            photometric=int(page.photometric),
            bits=tuple(bits) if isinstance(bits, tuple) else (int(bits),),
            sample_format=_plain(page.sampleformat),
            tile=tile,
            rows_per_strip=int(page.rowsperstrip),
            is_separate=page.planarconfig == 2 and page.shaped[0] > 1,
            extra_samples=tuple(int(n) for n in _sequence(page.extrasamples)),
            subsampling=(int(subsampling[0]), int(subsampling[1])),
            subfile_type=int(page.subfiletype),
            nodata=_nodata(page),
            tags={tag.code: _plain(tag.value) for tag in page.tags if tag.code not in _UNKEPT_TAGS},
            tables=self.tables(page, there),
        )

    def full_page(self, frame: TiffFrame) -> TiffPage:
        """The whole IFD of a page that tifffile holds in short."""
        if frame.offset == 0:
            return frame.keyframe
        handle = frame.parent.filehandle
        was_closed = handle.closed
        if was_closed:
            handle.open()
        try:
            handle.seek(frame.offset)
            return TiffPage(frame.parent, index=frame.index)
        finally:
            if was_closed:
                handle.close()

    def tables(self, page: TiffPage, there: ByteSource) -> dict[str, Any]:
        """Collect decoder tables that lie outside the segments."""
        found: dict[str, Any] = {}
        if page.jpegtables:
            found["jpeg_tables"] = bytes(page.jpegtables)
        if page.jpegheader:
            found["jpeg_header"] = bytes(page.jpegheader)
        if page.compression in (6, 7, 33007, 34892):
            found["is_jfif"] = bool(page.is_jfif)
        if page.compression == 6:
            found.update(self.old_jpeg_tables(page, there))
        return found

    def old_jpeg_tables(self, page: TiffPage, there: ByteSource) -> dict[str, Any]:
        """Collect the tables of old-style JPEG (TIFF 6.0 section 22), which lie at offsets."""
        values = {code: page.tags.valueof(code) for code in (512, 513, 514, 515, 519, 520, 521)}
        found: dict[str, Any] = {}
        read = self._read(there)
        if values[513] is not None:
            start = int(_sequence(values[513])[0])
            length = 0 if values[514] is None else int(_sequence(values[514])[0])
            found["ojpeg_interchange"] = read(start, min(length or 1 << 16, 1 << 20))
        for code, name in (
            (519, "ojpeg_q_tables"),
            (520, "ojpeg_dc_tables"),
            (521, "ojpeg_ac_tables"),
        ):
            if values[code] is not None:
                offsets = [int(where) for where in _sequence(values[code])]
                found[name] = b"".join(_old_jpeg_table(read, at, code == 519) for at in offsets)
        for code, name in ((512, "ojpeg_proc"), (515, "ojpeg_restart_interval")):
            if values[code] is not None:
                found[name] = int(_sequence(values[code])[0])
        if page.dataoffsets and page.databytecounts:
            first = read(int(page.dataoffsets[0]), min(int(page.databytecounts[0]), 1 << 12))
            header = scan_header(first)
            if header:
                found["ojpeg_scan_header"] = header
        return found

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


def _old_jpeg_table(read: Any, offset: int, is_quantization: bool) -> bytes:
    # a Huffman table is 16 counts and as many values as they sum up to
    return read(offset, 64 if is_quantization else 16 + sum(read(offset, 16)))


def n_segments_of(ifd: IfdFacts) -> int:
    """Count the segments that the shape of an image asks for."""
    planes, depth, rows, columns, _ = ifd.shape
    if ifd.tile is None:
        return planes * depth * -(-rows // max(1, ifd.rows_per_strip))
    return planes * int(
        np.prod([-(-n // max(1, t)) for n, t in zip((depth, rows, columns), ifd.tile, strict=True)])
    )


def open_tiff(where: Any, storage_options: Mapping[str, Any] | None = None) -> OpenTiff:
    """Open a TIFF for scanning.

    Parameters
    ----------
    where
        Path, URL, fsspec OpenFile, open binary file, or `tifffile.TiffFile`.

    Raises
    ------
    SourceError
        If it cannot be read.
    MalformedTiff
        If it is no TIFF.
    """
    if isinstance(where, TiffFile):
        return _adopt(where)
    source = open_source(where, storage_options)
    try:
        return _open(source)
    except BaseException:
        source.close()
        raise


def _open(source: ByteSource) -> OpenTiff:
    try:
        header = parse_header(source.read(0, 16))
        arrays = _long_arrays(source, header)
        with _quiet():
            tif = TiffFile(_handle(source, header, arrays))
    except TiffrefError as error:
        error.url = error.url or source.source.url
        raise
    except PARSE_ERRORS as error:
        raise MalformedTiff(
            "cannot be parsed as TIFF",
            url=source.source.url,
            got=f"{type(error).__name__}: {error}",
        ) from error
    bulk = None
    if isinstance(source, LocalSource) and not arrays and _needs_pages(tif):
        bulk = read_bulk_pages(source.source.url, header, _DECODING_TAGS)
        if bulk is not None:
            _preload_frames(tif, bulk)
    return OpenTiff(tif, source, header, arrays=arrays, bulk=bulk)


def _needs_pages(tif: TiffFile) -> bool:
    """Say whether the series of a file depend on more than a few pages."""
    try:
        page = tif.pages.first
    except IndexError:
        return False
    is_run = page.is_final and (page.is_imagej or page.is_shaped or page.is_stk)
    return not is_run and not tif.tiff.is_ndpi


def _preload_frames(tif: TiffFile, bulk: BulkPages) -> None:
    """Hand tifffile the frames that were read in bulk, so that it need not read them one by one.

    This touches attributes that tifffile keeps to itself; where they are not as expected, tifffile
    reads the frames itself.
    """
    pages = tif.pages
    names = ("_loaded", "_offsets", "_indexed", "_cached")
    if not bulk.is_known.all() or not all(hasattr(pages, name) for name in names):
        return
    if not isinstance(pages._loaded, dict) or len(pages._offsets) != 1:
        return
    keyframe = pages.first
    if keyframe.subifds or keyframe.offset != bulk.ifd_offset[0] or keyframe.is_lsm:
        return
    rows = zip(
        bulk.ifd_offset.tolist(), map(tuple, bulk.offset.tolist()), map(tuple, bulk.length.tolist()),
        strict=True,
    )  # fmt: skip
    frames = {
        n: TiffFrame(
            tif, n, offset=where, keyframe=keyframe, dataoffsets=offset, databytecounts=length
        )
        for n, (where, offset, length) in enumerate(rows)
    }
    frames[0] = keyframe  # type: ignore[assignment]
    pages._loaded = frames
    pages._offsets = bulk.ifd_offset.tolist()
    pages._indexed = pages._cached = True
    pages.cache = True


def _adopt(tif: TiffFile) -> OpenTiff:
    handle = tif.filehandle
    base = getattr(handle, "_offset", 0)
    if handle.is_file and os.path.exists(
        os.path.join(handle.dirname, os.path.basename(handle.path))
    ):
        source: ByteSource = LocalSource(handle.path)
    else:
        source = open_source(getattr(handle, "_fh", None))
    header = parse_header(source.read(base, 16))
    return OpenTiff(tif, source, header, base, owns=False)


def _handle(source: ByteSource, header: Header, arrays: dict[int, dict[int, Entry]]) -> Any:
    patches = {}
    for entries in arrays.values():
        for entry in entries.values():
            count = struct.pack(f"{header.byteorder}{'Q' if header.is_big else 'I'}", _SHOWN)
            patches[entry.position + 4] = count
    if isinstance(source, LocalSource) and not patches:
        return source.source.url
    return _PatchedFile(source, patches)


def _long_arrays(source: ByteSource, header: Header) -> dict[int, dict[int, Entry]]:
    """Find offset arrays too long for tifffile, by IFD offset: in the first IFDs and below them."""
    found: dict[int, dict[int, Entry]] = {}
    if source.source.url.lower().endswith(".ndpi"):
        return found  # 64-bit offsets in a classic header
    queue, seen = [header.first_ifd], set()
    while queue and len(seen) < _MAX_PEEK_IFDS:
        offset = queue.pop(0)
        if offset in seen or not 0 < offset < source.size:
            continue
        seen.add(offset)
        entries, following = read_entries(source.read, header, offset)
        long = {e.code: e for e in entries if e.code in _ARRAY_TAGS and e.count > _LONG_ARRAY}
        if len(long) == 2 and all(e.value_offset + e.nbytes <= source.size for e in long.values()):
            found[offset] = long
        for entry in entries:
            if (
                entry.code == 330
                and entry.count <= _MAX_PEEK_IFDS
                and entry.type in (4, 13, 16, 18)
            ):
                queue.extend(int(n) for n in read_array(source.read, header, entry))
        queue.append(following)
        if not found and len(seen) >= 8:
            break  # many pages: long arrays would have shown by now
    return found


class _PatchedFile(SourceFile):
    """A source that shows tifffile the long offset arrays as short ones."""

    def __init__(self, source: ByteSource, patches: Mapping[int, bytes]) -> None:
        super().__init__(source)
        self._patches = patches

    def read(self, size: int = -1) -> bytes:
        position = self.tell()
        return _patch(super().read(size), position, self._patches)


def _patch(data: bytes, position: int, patches: Mapping[int, bytes]) -> bytes:
    inside = [
        at for at in patches if position <= at and at + len(patches[at]) <= position + len(data)
    ]
    if not inside:
        return data
    changed = bytearray(data)
    for at in inside:
        changed[at - position : at - position + len(patches[at])] = patches[at]
    return bytes(changed)


def _header_of(page: TiffPage | TiffFrame) -> Header:
    return Header(page.parent.byteorder, page.parent.tiff.is_bigtiff, 0)


def _squeeze(shape: Sequence[int], axes: str) -> tuple[tuple[int, ...], str]:
    """Leave out dimensions of length 1 but x and y, as `imread` does."""
    kept = [
        n
        for n, (size, axis) in enumerate(zip(shape, axes, strict=True))
        if size > 1 or axis in "XY"
    ]
    kept = kept or [len(shape) - 1]
    return tuple(shape[n] for n in kept), "".join(axes[n] for n in kept)


def _stack(offsets: list, lengths: list, tiff: OpenTiff) -> tuple[np.ndarray, np.ndarray]:
    widths = {len(row) for row in offsets if row is not None}
    if len(widths) > 1:
        raise ManifestMismatch(
            "pages of one series have different segment counts",
            url=tiff.source.source.url,
            got=sorted(widths),
        )
    (width,) = widths
    empty = np.zeros(width, np.uint64)
    return tuple(
        np.stack([empty if row is None else row for row in rows]) for rows in (offsets, lengths)
    )  # type: ignore[return-value]


def _fit(column: np.ndarray, n: int, is_zero: np.ndarray | None = None) -> np.ndarray:
    """Cut or fill a column to `n` rows; what the file does not list is missing."""
    fitted = np.zeros(n, np.uint64)
    size = min(n, len(column))
    fitted[:size] = column[:size]
    if is_zero is not None:
        fitted[:size][is_zero[:size]] = 0
    return fitted


def _unsigned(values: Any) -> np.ndarray:
    # BYTE arrays come as bytes: small counts may be stored so
    column = np.asarray(list(values) if isinstance(values, bytes) else _sequence(values))
    if column.size == 0:
        return np.zeros(0, np.uint64)
    if column.dtype.kind not in "ui" or (column.dtype.kind == "i" and (column < 0).any()):
        raise MalformedTiff(
            "segment offsets or lengths are not unsigned integers", got=column.dtype
        )
    return column.astype(np.uint64)


def _sequence(value: Any) -> Any:
    return value if isinstance(value, tuple | list | np.ndarray) else (value,)


def _nodata(page: TiffPage) -> float | int | None:
    return page.nodata if 42113 in page.tags and page.tags.valueof(42113) is not None else None


def _plain(value: Any) -> Any:
    """Strip enumerations and array types off a tag value."""
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, bool | str | bytes) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, np.generic):
        return value.item()
    return value


_IS_SCANNING = contextvars.ContextVar("is_scanning", default=False)


class _Silence(logging.Filter):
    """Keep tifffile from talking while we scan: what matters is raised or reported by us."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _IS_SCANNING.get()


logging.getLogger("tifffile").addFilter(_Silence())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    token = _IS_SCANNING.set(True)
    try:
        yield
    finally:
        _IS_SCANNING.reset(token)
