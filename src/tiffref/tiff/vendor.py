"""Vendor formats (microscopes, slide scanners): the only module that uses tifffile to find series.

tifffile decides which IFDs form which series, with axes, shape, name, kind and levels, and parses
vendor metadata. How segments decode and where they are is read by our own code, except for planes
without an IFD of their own. Only documented parts of tifffile are used; it is imported on demand.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MalformedTiff, TiffrefError
from ..io.remote import open_source
from ..io.source import ByteSource, LocalSource, SourceFile
from ..model.tiff_facts import IfdFacts
from .ifd import TiffReader
from .ome import OmeFile
from .pages import Level, Pages, Series, stack_pages
from .series import (
    ImageFile,
    Listing,
    check_run,
    fits_page,
    is_final,
    plain_series,
    planes_of_run,
    planes_with_room,
    run_limit,
)
from .vendor_metadata import (
    PARSE_ERRORS,
    TAG_VALUES,
    NdtiffIndex,
    check_micromanager,
    check_planes,
    claimed_formats,
    has_pixels_element,
    is_micromanager_stack,
    qptiff_series,
    tifffile_errors,
    vendor_metadata,
)

_COMPARED_BYTES = 1 << 10
_PLAIN_KINDS = frozenset({"generic", "uniform"})
_SLIDES = frozenset({"svs", "mikroscan", "motic", "huron", "qpi", "avs", "bif", "philips"})
"""Kinds whose first image is the slide, and the largest."""
_UIC1, _UIC2, _UIC3, _UIC4 = 33628, 33629, 33630, 33631
_UIC_COUNTED = frozenset({_UIC2, _UIC3, _UIC4})
"""Tags of MetaMorph with a value for each plane."""


class VendorFile(ImageFile):
    """A file opened with tifffile and with our own reader.

    `owns` if the `TiffFile` is closed together with the file.
    """

    is_vendor = True

    def __init__(self, tif: Any, reader: TiffReader, *, owns: bool = True) -> None:
        super().__init__(reader)
        self.tif, self.owns = tif, owns

    def close(self) -> None:
        """Close all files that were opened here."""
        super().close()
        if self.owns:
            self.tif.close()

    def metadata(self) -> dict[str, Any]:
        """Return the vendor metadata by format."""
        return vendor_metadata(self)

    @functools.cached_property
    def ndtiff_index(self) -> NdtiffIndex:
        """The index of an NDTiff set."""
        return NdtiffIndex(self.tif.filehandle.dirname)

    def list(self) -> Listing:
        """List the series of the file; errors of tifffile become `MalformedTiff`."""
        with tifffile_errors(self.reader.url, "the images of the file cannot be read"):
            return self._list()

    def _list(self) -> Listing:
        """List the series of the file.

        If tifffile cannot interpret the vendor's metadata, fall back to OME-XML or plain series:
        invalid metadata must not prevent reading the pixels.
        """
        reader = self.reader
        chain = reader.chain()
        if not reader.source.is_local:
            ifds = [*filter(None, map(reader.directory, chain))]
            pages = Pages(reader)
            if pages.has_sub_ifds:  # fetches what all pages need
                pages.sub_ifds(range(len(pages)))
            if self.tif.is_qpi:
                reader.fetch_values(ifds, frozenset({270}))
        try:
            if reader.has_loop:  # tifffile may follow it forever
                raise ValueError("the chain of IFDs returns to an earlier one")
            with np.errstate(all="ignore"):
                check_planes(reader.first)
                check_micromanager(self.tif)
                if self.tif.is_ndtiff:
                    self.ndtiff_index.check(self.tif.filename, self.sibling)
                listing = self.convert(qptiff_series(self.tif) or [*self.tif.series])
            if not reader.source.is_local:  # tifffile opens other files of OME-XML only if local
                levels = [one for series in listing.series if series.kind == "ome"
                          for one in series.levels]  # fmt: skip
                if any((level.row < 0).any() for level in levels):
                    return OmeFile(reader, self._siblings).list()
        except TiffrefError:
            raise
        except PARSE_ERRORS as error:
            if isinstance(error, OSError):
                raise  # another file of the set does not exist or cannot be read
            is_ome = has_pixels_element(reader.first)
            listing = OmeFile(reader, self._siblings).list() if is_ome else plain_series(reader)
            if {series.kind for series in listing.series} != {"ome"}:
                listing.defects.append(f"{type(error).__name__}: {error}")
        else:
            self._check(listing)
        return listing

    def _check(self, listing: Listing) -> None:
        """Add defects for pages or OME-XML that tifffile ignores."""
        is_plain = {series.kind for series in listing.series} <= _PLAIN_KINDS
        for name in claimed_formats(self.reader.first):
            if is_plain or not getattr(self.tif, f"is_{name}"):
                listing.defects.append(f"the metadata of the vendor ({name}) cannot be read")
        if not self.tif.is_ome or not has_pixels_element(self.reader.first):
            self._check_pages(listing)
            return
        if all(series.kind == "generic" for series in listing.series):
            listing.defects.append("the OME-XML does not match the pages")
        levels = [level for series in listing.series for level in series.levels]
        n_left = len(_unused_ifds(levels, self.reader))
        is_run = any(level.is_run for level in levels)
        if n_left and not is_run:
            listing.defects.append(f"{n_left} pages are not in the OME-XML")

    def _check_pages(self, listing: Listing) -> None:
        """Add a defect for pages with pixels that are in no series; for MD Gel, add series.

        Micro-Manager's planes have no axes without its index, which is at the end of the file or
        beside it.
        """
        metadata = getattr(self.tif, "micromanager_metadata", None) or {}
        is_indexed = "Summary" in metadata or is_micromanager_stack(self.reader)
        if is_indexed and {series.kind for series in listing.series} <= _PLAIN_KINDS:
            what = "the summary or the index of Micro-Manager's planes cannot be read"
            listing.defects.append(what)
        self._check_metamorph(listing)
        _check_slide(listing, self.reader.url)
        left = self._unlisted_pages(listing, self.reader)
        if left and self.tif.is_mdgel:
            pages = [Pages(self.reader, [at]) for at in left]
            listing.series += [Series("generic", [stack_pages(page, [0])]) for page in pages]
            left = []
        n_left = len(left)
        n_left += sum(len(self._unlisted_pages(listing, sibling)) for sibling in self.others())
        if n_left:
            verb = "page is" if n_left == 1 else "pages are"
            listing.defects.append(f"{n_left} {verb} not part of any image")
        if self.tif.is_ndtiff:
            listing.defects += self.ndtiff_index.defects()

    def _check_metamorph(self, listing: Listing) -> None:
        """Add a defect for planes without IFDs that MetaMorph counts and tifffile does not list.

        tifffile needs UIC1 and UIC2.
        """
        first, level = self.reader.first, listing.series[0].levels[0]
        if not {_UIC1, *_UIC_COUNTED} & first.entries.keys() or level.error is not None:
            return
        pages, row = level.first
        n_planes = level.n_planes
        n_counted = max(
            [first.entries[code][1] for code in _UIC_COUNTED & first.entries.keys()], default=1
        )
        if n_counted > n_planes:
            what = "MetaMorph counts more planes than exist"
            listing.miss(what, n_planes, n_counted, self.reader.url)
            listing.defects.append(f"only {n_planes} of {n_counted} MetaMorph planes exist")
        elif not first.next_offset and is_final(pages, row):
            n_there = planes_with_room(pages, row)
            if n_there > n_planes:
                uic2 = f"UIC2 counts {n_counted}" if _UIC2 in first.entries else "there is no UIC2"
                listing.defects.append(f"the file has room for {n_there} planes, but {uic2}")

    def _unlisted_pages(self, listing: Listing, reader: TiffReader) -> Sequence[int]:
        """Return the IFDs of a file that have pixels and are in no level.

        Also compares the first segments of pages: for some planes tifffile knows no IFD.
        """
        levels = [level for series in listing.series for level in series.levels]
        left = _unused_ifds(levels, reader)
        if not left:
            return []
        known, runs = {0}, []
        for level in levels:
            for number, pages in enumerate(level.pages):
                if pages.reader is reader and level.segments is not None and not level.is_run:
                    known.update(level.segments[0][level.is_in(number), 0].tolist())
            if level.is_run and level.pages[0].reader is reader:
                runs.append(_run_range(level))
        starts = _starts_of(Pages(reader, left))
        unlisted = [
            at
            for at, start in zip(left, starts, strict=True)
            if start not in known and not any(begin <= start < end for begin, end in runs)
        ]
        stray = known.difference([0], _starts_of(Pages(reader))) if unlisted else ()
        if stray:
            raise MalformedTiff(
                "the index has planes at offsets without pages",
                url=reader.url, got=f"offset {min(stray)}",
                expected=f"one of {len(unlisted)} pages that are not in the index",
            )  # fmt: skip
        return unlisted

    def convert(self, series: Sequence[Any]) -> Listing:
        """Convert series of tifffile to our own; add a defect if they do not match the pages."""
        listing = Listing([])
        for vendor_series in series:
            is_reshaped = vendor_series.kind == "flimage"
            levels = [
                _fit_to_pages(
                    self._level(level), tuple(level.keyframe.shape), listing,
                    is_full=n == 0, is_reshaped=is_reshaped,
                )
                for n, level in enumerate(vendor_series.levels)
            ]  # fmt: skip
            levels = [_with_axes_of(levels[0], level) for level in levels]
            listing.defects += _level_defects(levels)
            listing.series.append(Series(vendor_series.kind, levels, vendor_series.name))
        return listing

    def _level(self, level: Any, *, may_run: bool = True) -> Level:
        run_offset = level.dataoffset if may_run and not level.is_multifile else None
        is_run = run_offset is not None and level.keyframe.size != level.size
        planes = [level.keyframe] if is_run else level
        places = [_PlaneLocation.of(plane, self.tif) for plane in planes]
        shape, axes = tuple(int(n) for n in level.shape), level.axes
        if self.tif.is_scanimage and not self.reader.header.is_big and not is_run:
            # replace the computed offsets of pages by those of the chain, if it is complete
            chain, n_places, first = self.reader.chain(), len(places), places[0]
            if first is not None and all(places) and len(chain) >= n_places:
                shape = (len(chain), *shape[1:]) if shape[0] == n_places else shape
                places = [replace(first, offset=at, is_own=True) for at in chain]
        files: dict[str, dict[int, _PlaneLocation]] = {}
        for place in filter(None, places):
            files.setdefault(place.path, {})[place.offset] = place
        if not files:
            raise MalformedTiff("all pages are missing", url=self.reader.url)
        rows = {path: {at: n for n, at in enumerate(offsets)} for path, offsets in files.items()}
        row = [rows[place.path][place.offset] if place else -1 for place in places]
        number = {path: n for n, path in enumerate(files)}
        file = [number[place.path] if place else 0 for place in places]
        pages = tuple(map(_VendorPages, map(self.sibling, files), files.values()))
        converted = Level(
            pages, np.array(row, np.intp), shape, axes,
            np.array(file, np.intp) if len(files) > 1 else None,
            segments=_explicit_segments(places), is_squeezed=level.kind != "shaped",
        )  # fmt: skip
        if is_run and not _run_fits(converted, is_alone=len(level) == 1):
            return self._level(level, may_run=False)
        return planes_of_run(converted) if is_run else converted


def _check_slide(listing: Listing, url: str) -> None:
    """Add a defect if images of a QPTIFF or Argos slide are not what the format prescribes.

    A pyramid with other numbers of channels or focal planes than the image is no part of it; if it
    has more, planes of the image are missing.
    """
    series = listing.series
    kind = series[0].kind
    reduced = [item for item in series[1:] if item.name == "ReducedResolution"]
    if kind == "avs" and len(series) != 3:
        listing.defects.append(f"{len(series)} images, expected the slide, its map and a macro")
        reduced = [item for item in series[1:] if item.axes.startswith("I")]
    if kind == "qpi" and reduced:
        listing.defects.append("the pages of the pyramid are not those of the image")
    rows = [math.prod(_plane_size(item.levels[0])) for item in series]
    if kind in _SLIDES and max(rows) > rows[0]:
        listing.defects.append(f"image {rows.index(max(rows))} is larger than the slide")
    numbers = [_bif_level(level) for level in series[0].levels] if kind == "bif" else []
    if numbers != [*range(len(numbers))]:
        listing.defects.append(f"the slide has the levels {', '.join(map(str, numbers))}")
    if numbers and numbers[0]:
        what = "the full-size image of the slide is missing"
        listing.miss(what, f"level {numbers[0]}", "level 0", url)
    n_planes = max((len(item.levels[0].row) for item in reduced), default=0)
    n_there = len(series[0].levels[0].row)
    if n_planes > n_there:
        what = "the slide has fewer channels or focal planes than its overviews"
        listing.miss(what, n_there, n_planes, url)


def _bif_level(level: Level) -> int:
    """Return the number of a level in the description of its first page, 0 if it has none."""
    pages, row = level.first
    match = re.search(r"\blevel=(\d{1,9})", str(pages.directory(row).get(270)))
    return int(match[1]) if match else 0


def _starts_of(pages: Pages) -> list[int]:
    """Return the offset of the first segment of each page."""
    starts: list[int] = pages.columns.segments(np.arange(len(pages)), 1)[0][:, 0].tolist()
    return starts


def _unused_ifds(levels: Sequence[Level], reader: TiffReader) -> Sequence[int]:
    """Return the IFDs of a file's chain, and their SubIFDs, that are in no level."""
    used = {
        at
        for level in levels
        for pages in level.pages
        if pages.reader is reader
        for at in pages.offsets
    }
    pages = Pages(reader)
    below = enumerate(pages.sub_ifds(range(len(pages)))) if pages.has_sub_ifds else ()
    sub_ifds = [at for row, some in below for at in some if pages.is_sub_ifd_readable(row, at)]
    return [at for at in (*pages.offsets, *sub_ifds) if at not in used]


def _fit_to_pages(
    level: Level, page_shape: tuple[int, ...], listing: Listing, *, is_full: bool, is_reshaped: bool
) -> Level:
    """Return a level with one axis of pages if its shape does not match them, and add a defect.

    `page_shape` is what tifffile makes of a page. Missing planes of an image (`is_full`, and no
    thumbnail) are an error. With `is_reshaped`, pages may have further axes than rows and columns.
    """
    if level.error is not None:
        return level
    pages, row = level.first
    try:
        shape, axes = pages.shape(row)
    except MalformedTiff as error:
        return replace(level, error=error)
    n_planes, rest = divmod(math.prod(level.shape), max(1, math.prod(shape)))
    n_there = len(level.row)
    if level.is_run:
        room = pages.reader.size - pages.columns.first_offset(row)
        n_there = min(n_planes, room // max(1, pages.facts(row).n_bytes))
    is_same = page_shape == shape and n_planes == n_there and not rest
    is_same = is_same and (is_reshaped or fits_page(level.shape, shape))
    if 0 < len(level.shape) == len(level.axes) and (is_same or not math.prod(shape)):
        return level
    counted = ", ".join(f"{axis}={n}" for axis, n in zip(level.axes, level.shape, strict=False))
    if n_planes > n_there and is_full and not pages.facts(row).subfile_type & 1:
        what = "the file has fewer planes than it declares"
        listing.miss(what, n_there, f"{n_planes} ({counted})", pages.reader.url)
    if level.is_run and n_planes > n_there:
        return replace(level, row=np.where(np.arange(n_planes) < n_there, row, -1))
    listing.defects.append(f"{counted} in {n_there} pages of {shape}")
    return replace(level, shape=(n_there, *shape), axes=f"I{axes}")


def _with_axes_of(full: Level, level: Level) -> Level:
    """Return an overview with the axes of the image if their sizes are the same.

    tifffile calls focal planes of some overviews "I", not "Z".
    """
    shapes = [
        [n for n, axis in zip(item.shape, item.axes, strict=True) if axis not in "XY"]
        for item in (full, level)
    ]
    places = [[item.axes.find(axis) for axis in "XY"] for item in (full, level)]
    is_same = shapes[0] == shapes[1] and places[0] == places[1]
    return replace(level, axes=full.axes) if is_same else level


def _level_defects(levels: Sequence[Level]) -> Iterator[str]:
    """Yield the faults of overviews that are larger than the image or have other planes."""
    sizes = [_plane_size(level) for level in levels]
    samples = [level.sizes.get("S", 1) for level in levels]
    n_planes = [
        math.prod(level.shape) // max(1, math.prod(size) * n)
        for level, size, n in zip(levels, sizes, samples, strict=True)
    ]
    for n, size in enumerate(sizes):
        if any(here > full for here, full in zip(size, sizes[0], strict=True)):
            yield f"overview {n} of {size[0]} rows and {size[1]} columns is larger than its image"
        elif any(size) and n_planes[n] != n_planes[0]:
            yield f"overview {n} has {n_planes[n]} of {n_planes[0]} planes"


def _plane_size(level: Level) -> tuple[int, int]:
    """Return the rows and columns of a level, 0 if it cannot be read."""
    sizes = level.sizes if level.error is None else {}
    return sizes.get("Y", 0), sizes.get("X", 0)


def _run_range(level: Level) -> tuple[int, int]:
    """Return start and end of contiguous planes in the file."""
    pages, row = level.first
    begin = pages.columns.first_offset(row)
    return begin, begin + level.n_planes * pages.facts(row).n_bytes


def _run_fits(level: Level, *, is_alone: bool) -> bool:
    """Return whether contiguous planes end before the IFD that describes them and its values.

    Planes past the end of the file are checked later.

    Raises
    ------
    MalformedTiff
        If they do not, and there are no other IFDs to locate them (`is_alone`); or if their size is
        not that of the strips of the first plane.
    """
    pages, row = level.first
    begin, end = _run_range(level)
    n_bytes = pages.facts(row).n_bytes
    check_run(pages, row, (end - begin) // n_bytes if n_bytes else 0)
    room = run_limit(pages, row)
    if room >= min(end, pages.reader.size):
        return True
    if not is_alone:
        return False
    raise MalformedTiff(
        "planes overlap the IFD that describes them, or its values",
        url=pages.reader.url, ifd=pages.facts(row).name,
        got=f"room for {(room - begin) // n_bytes}",
        expected=f"{(end - begin) // n_bytes} planes",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _PlaneLocation:
    """Location of a plane: the file ("" for the one that was opened) and the offset of its IFD.

    A plane without an IFD uses that of another plane, with segments of its own.
    """

    path: str
    offset: int
    page: Any
    is_own: bool

    @classmethod
    def of(cls, page: Any, tif: Any) -> _PlaneLocation | None:
        """Return the location of a tifffile page; None if its index is invalid."""
        if page is None or not (page.offset or any(page.dataoffsets)):
            return None
        handle, own = page.parent.filehandle, tif.filehandle
        path = "" if handle is own or handle.path == own.path else handle.path
        is_own = bool(page.offset) and not page.parent.is_lsm
        return cls(path, page.offset or page.keyframe.offset, page, is_own)


def _explicit_segments(places: Sequence[_PlaneLocation | None]) -> Any:
    """Return tifffile's segments of planes without an IFD, or with wrapped 32-bit offsets (LSM)."""
    if all(place is None or place.is_own for place in places):
        return None
    pages = [None if place is None else place.page for place in places]
    width = max(len(page.dataoffsets) for page in pages if page is not None)
    columns = np.zeros((2, len(pages), width), np.uint64)
    for n, page in enumerate(pages):
        for column, name in zip(columns, ("dataoffsets", "databytecounts"), strict=True):
            values = getattr(page, name, ())[:width]
            column[n, : len(values)] = values
    return tuple(columns)


class _VendorPages(Pages):
    """IFDs of tifffile's pages, with the vendor tags that tifffile parses."""

    def __init__(self, reader: TiffReader, places: dict[int, _PlaneLocation]) -> None:
        reader.chain()
        super().__init__(reader, list(places))
        self._places = list(places.values())

    def facts(self, row: int) -> IfdFacts:
        """Return the facts of a row, with vendor tags as parsed by tifffile."""
        if row not in self._facts:
            self._facts[row] = _with_values(super().facts(row), self._places[row].page.keyframe)
        return self._facts[row]

    @property
    def kind(self) -> Any:  # type: ignore[override]
        """Kind of each row; planes without an IFD are of one kind."""
        if all(place.page.offset for place in self._places):
            return super().kind
        return np.zeros(len(self), np.int32)


def _with_values(facts: IfdFacts, keyframe: Any) -> IfdFacts:
    """Replace the bytes of vendor tags by their parsed values."""
    tags, tables = dict(facts.tags), dict(facts.tables)
    with (
        contextlib.suppress(*PARSE_ERRORS),
        _reopened(keyframe.parent),
        np.errstate(all="ignore"),  # rationals in MetaMorph tags may be 0/0
    ):
        for code in TAG_VALUES & tags.keys():
            tags[code] = _to_plain_value(keyframe.tags.valueof(code))
        if facts.name == "0":
            tables.update(_calibration(keyframe, facts))
    shape = facts.shape
    if keyframe.parent.is_philips and facts.tile is not None:
        # tags count the padding of overviews to whole tiles, the XML does not
        size = keyframe.imagelength, keyframe.imagewidth
        padding = [n - m for n, m in zip(shape[2:4], size, strict=True)]
        is_padding = all(0 <= n < m for n, m in zip(padding, facts.tile[1:], strict=True))
        full = keyframe.parent.pages.first
        pairs = [*zip((full.imagelength, full.imagewidth), size, strict=True)]
        # whether division by one number, rounded down, gives both sizes of the overview
        if is_padding and max(n // (m + 1) for n, m in pairs) < min(n // m for n, m in pairs):
            shape = (*shape[:2], *size, shape[4])
    return replace(facts, tags=tags, tables=tables, shape=shape)


@contextlib.contextmanager
def _reopened(tif: Any) -> Iterator[None]:
    """Reopen a file of the set that tifffile has closed, and close it afterwards."""
    handle = tif.filehandle
    was_closed = handle.closed
    if was_closed:
        handle.open()
    try:
        yield
    finally:
        if was_closed:
            handle.close()


def _calibration(page: Any, facts: IfdFacts) -> dict[str, Any]:
    """Return the calibration of MD Gel samples from MDFileTag and MDScalePixel.

    The tags may be on the page after the image.
    """
    gel = page.parent.mdgel_metadata or {}
    kind, scale = gel.get("FileTag"), gel.get("ScalePixel")
    if kind not in (2, 128) or scale is None or not scale[0] or facts.dtype is None:
        return {}
    stored = np.dtype(facts.dtype).newbyteorder("<").str
    return {"calibration": (stored, 2 if kind == 2 else 1, scale[0] / scale[1])}


def _to_plain_value(value: Any) -> Any:
    """Convert enumerations and NumPy scalars in a tag value to plain Python values."""
    if isinstance(value, tuple):
        return tuple(map(_to_plain_value, value))
    if isinstance(value, enum.IntEnum | enum.IntFlag):
        return int(value)
    return value.item() if isinstance(value, np.generic) else value


def wrap_tifffile(tif: Any) -> VendorFile:
    """Wrap an open `TiffFile`."""
    source, base = _source_of(tif)
    return VendorFile(tif, TiffReader(source, base, tif.tiff.is_ndpi), owns=False)


def open_vendor(reader: TiffReader) -> VendorFile:
    """Open a file with tifffile.

    Raises
    ------
    MalformedTiff
        If tifffile cannot parse the file.
    """
    from tifffile import TiffFile

    Pages(reader, [reader.first.offset]).facts(0)  # raises a precise error if malformed
    source = reader.source

    def handle() -> Any:
        is_plain = isinstance(source, LocalSource)
        return source.source.url if is_plain else SourceFile(source)

    with tifffile_errors(reader.url):
        try:
            tif = TiffFile(handle())
        except IndexError:  # it expects the pages of an LSM to come in pairs
            tif = TiffFile(handle(), is_lsm=False)
        return VendorFile(tif, reader)


def _source_of(tif: Any) -> tuple[ByteSource, int]:
    """Return the source of an open `TiffFile`, and the position of the TIFF in it."""
    handle = tif.filehandle
    opened = Path(handle.path) if handle.is_file and handle.path else None
    if opened is None or not opened.is_file():
        # tifffile has no public attribute for the file object that it was given
        opened = getattr(handle, "_fh", None)
    if isinstance(opened, Path) or hasattr(opened, "fs"):
        source = open_source(opened)
        handle.seek(0)
        start = handle.read(_COMPARED_BYTES)
        # handles of part of a file report its size in one of these ways
        for base in (0, handle.size - source.size, source.size - handle.size):
            if base >= 0 and source.read(base, len(start)) == start:
                return source, base
        source.close()
    return open_source(handle), 0
