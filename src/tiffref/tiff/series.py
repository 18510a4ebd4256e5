"""Group IFDs into series and resolution levels: plain TIFF, GeoTIFF and COG, ImageJ, tifffile.

Also checks that all planes that a description declares exist in the file. Vendor formats are left
to `vendor`, OME-TIFF to `ome`.

References: TIFF 6.0 (NewSubfileType), TIFF technical note 1 (SubIFDs), OGC 21-026 (COG); ImageJ
`TiffDecoder`. Shapes and order are those of `tifffile.imread`.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import MalformedTiff, UnsupportedTiff
from ..io.remote import open_source
from ..io.source import ByteSource
from ..model.tiff_facts import IfdFacts
from .descriptions import (
    Shaped,
    imagej_metadata,
    parse_shaped,
    scifio_axes,
    scifio_defects,
    shaped_text,
)
from .ifd import TiffReader
from .pages import Level, Pages, Series, stack_pages
from .plan import truncated

GEO_KEYS, _AGILENT = 34735, frozenset({285, 37701})
MAX_PLANES = 1 << 22
"""Planes that metadata may count; each needs memory."""
_MIN_UNIFORM = 8
"""A file of this many equal pages is one "uniform" series."""
_COG_LAYOUT = b"LAYOUT=IFDS_BEFORE_DATA"
_FACTORS: tuple[int, ...] = (2, 3, 4)
_MAX_PADDING = 64
"""Bytes at the end of a file that are not taken for planes."""
_MAX_LENGTH = (1 << 32) - 1
_WHOLE_BYTES = frozenset({(8,), (16,), (32,), (64,)})
_COUNTS = ("images", "frames", "slices", "channels")
"""Counts in ImageJ's description."""
_ORDERS = {
    "czt": "TZC", "default": "TZC", "ctz": "ZTC", "zct": "TCZ", "ztc": "CTZ", "tcz": "ZCT",
    "tzc": "CZT",
}  # fmt: skip
"""ImageJ's dimension orders (fastest first) as axes (slowest first)."""
_OME_NAME = re.compile(r"\.ome\.(?:tiff?|tf[28]|btf)(?:\?|$)", re.IGNORECASE)


@dataclass(slots=True)
class Listing:
    """The series of a file.

    `defects` lists where the description does not match the pages. `missing` is the error for
    planes that are declared but not in the file; they are left as holes if the caller allows it.
    `has_mask` is whether a mask is among the series that are not selected; `first` is the index of
    the first of those that are, and `main` the first series of the file, if it was not selected.
    """

    series: list[Series]
    defects: list[str] = field(default_factory=list)
    missing: MalformedTiff | None = None
    has_mask: bool = False
    first: int = 0
    main: Series | None = None

    def miss(self, what: str, got: object, expected: object, url: str) -> None:
        """Keep the first error for planes that the file declares but does not have."""
        self.missing = self.missing or MalformedTiff(
            what, url=url, got=got, expected=expected, hint="The file may be truncated; "
            "get a whole copy, or read the rest with allow_holes=True.",
        )  # fmt: skip


class ImageFile:
    """A file and its images: plain ones, and those that ImageJ, tifffile or GeoTIFF describe.

    Subclasses read OME-TIFF and formats of vendors, and open the other files of a set. The metadata
    of a vendor (`is_vendor`) describe the image on the first page.
    """

    is_vendor = False

    def __init__(self, reader: TiffReader) -> None:
        self.reader = reader
        self.given: Listing | None = None
        """Series that the caller passed in."""
        self.sidecars: dict[str, ByteSource] = {}
        """Sources of sidecar files by URL."""
        self._siblings: dict[str, TiffReader | None] = {}

    @property
    def url(self) -> str:
        """Address of the file."""
        return self.reader.url

    @property
    def is_regular(self) -> bool:
        """Whether the writer declares that every tile is stored whole (GDAL's COG driver)."""
        return _COG_LAYOUT in self.reader.declared_layout

    def read_segment(self, url: str, offset: int, length: int) -> bytes:
        """Read the stored bytes of a segment of this file, or of another file of its set."""
        return self.source_at(url).read(offset, length)

    def is_cached(self, url: str, offset: int, length: int) -> bool:
        """Return whether a segment can be read without a request."""
        return self.source_at(url).is_cached(offset, length)

    def source_at(self, url: str) -> ByteSource:
        """Return the bytes of this file, of another file of its set, or of a sidecar file."""
        if url in self.sidecars:
            return self.sidecars[url]
        return (self.reader if url == self.reader.url else self.sibling(url)).source

    def others(self) -> list[TiffReader]:
        """Return the readers of the other files of the set."""
        return [reader for reader in self._siblings.values() if reader is not None]

    def close(self) -> None:
        """Close the other files of the set."""
        for reader in self.others():
            reader.source.close()
            reader.close()

    def sibling(self, path: str) -> TiffReader:
        """Return the reader of a local file of the set, opened once; "" is the file itself."""
        reader = self._siblings.get(path) if path else self.reader
        if reader is None:
            source = open_source(path, allow=self.reader.source.allow)
            reader = self._siblings[path] = TiffReader(source, counts=self.reader.counts)
        return reader

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of ImageJ, OME or a vendor, by format."""
        return {"imagej": self._imagej} if self._imagej else {}

    @functools.cached_property
    def _imagej(self) -> dict[str, Any] | None:
        return imagej_metadata(self.reader.first, self.reader.header.byteorder)

    def list(self) -> Listing:
        """List the images; fall back to plain ones if a description does not match the pages."""
        reader, first = self.reader, self.reader.first
        listing, what = None, ""
        if shaped_text(first) is not None:
            listing, what = shaped_series(reader), "tifffile's shape"
        elif self._imagej is not None:
            listing, what = ImageJSeries(reader, self._imagej).list(), "ImageJ's counts"
        elif GEO_KEYS in first:
            listing = geotiff_series(reader)
        if listing is None or not listing.series:
            listing = plain_series(reader)
            listing.defects += [f"{what} does not match the pages"] if what else []
            if not what and _OME_NAME.search(reader.url):
                listing.defects.append("the file is named as an OME-TIFF, but has no OME-XML")
        return listing


# ---- plain files and GeoTIFF


def plain_series(reader: TiffReader) -> Listing:
    """Group similar images into series; smaller copies become levels of the series before them.

    A single image, or eight or more similar ones, are one series.
    """
    pages = Pages(reader)
    first = pages.directory(0)
    if len(pages) == 1 and not pages.has_sub_ifds and first.entries:
        return Listing([Series("uniform", [stack_pages(pages, [0])])])
    if len(pages) >= _MIN_UNIFORM or reader.has_loop:
        levels = _group_by_key(pages, {}, with_pixels=True)
        is_uniform = len(levels) == 1 and len(levels[0].row) == len(pages)
        if is_uniform and not pages.columns.sub_ifds(0):
            return Listing([Series("uniform", levels)])
    levels = _group_similar(pages, with_pixels=True)
    series = [Series("generic", [level]) for level in levels]
    if not first.entries.keys() >= _AGILENT:
        _make_pyramids(series, is_reduced=False)
    empty = [row for row in pages.columns.first if not pages.directory(row).entries]
    if empty and not series:
        raise MalformedTiff("a directory has no image", url=reader.url)
    for row in np.flatnonzero(np.isin(pages.columns.kind, pages.columns.kind[empty])).tolist():
        series.append(Series("generic", [Level((pages,), np.array([row]), (1,), "I")]))
    return Listing(series)


def geotiff_series(reader: TiffReader) -> Listing:
    """Group similar images; in a COG, reduced ones become levels of the series before them."""
    pages = Pages(reader)
    if len(pages) == 1 and not pages.has_sub_ifds:
        return Listing([Series("geotiff", [stack_pages(pages, [0])])])
    levels = _group_similar(pages, with_pixels=False)
    series = [Series("geotiff", [level]) for level in levels]
    _make_pyramids(series, is_reduced=_COG_LAYOUT in reader.declared_layout)
    return Listing(series)


def _group_similar(pages: Pages, *, with_pixels: bool) -> list[Level]:
    """Group similar images, in the order of the first of each group; SubIFDs follow their IFD.

    The rows of SubIFDs come after those of the chain. `with_pixels` drops images of size 0 that
    have no strips or tiles.
    """
    below: dict[int, list[int]] = {}
    if pages.has_sub_ifds:
        offsets = list(pages.offsets)
        listed = set(offsets)
        for row, some in enumerate(pages.sub_ifds(range(len(pages)))):
            for at in some:
                if at >= 8 and at not in listed and pages.is_sub_ifd_readable(row, at):
                    listed.add(at)
                    below.setdefault(row, []).append(len(offsets))
                    offsets.append(at)
        if below:
            pages = Pages(pages.reader, offsets)
    return _group_by_key(pages, below, with_pixels=with_pixels)


_series_key = operator.attrgetter(
    "shape", "rows_per_strip", "tile", "sample_format", "bits", "fill_order", "predictor",
    "compression", "extra_samples", "photometric",
)  # fmt: skip
"""The facts in which the images of a series agree."""


def _group_by_key(pages: Pages, below: dict[int, list[int]], *, with_pixels: bool) -> list[Level]:
    kind = pages.kind.tolist()
    n_chain = len(kind) - sum(map(len, below.values()))
    if not below and kind.count(kind[0]) == len(kind):
        return [stack_pages(pages, range(len(kind)))] if _is_image(pages, 0, with_pixels) else []
    groups: dict[object, list[int]] = {}
    key_of: dict[int, object] = {}
    for row in range(n_chain):
        for member in (row, *below.get(row, ())):
            number = kind[member]
            if number not in key_of:
                try:
                    is_image = _is_image(pages, member, with_pixels)
                    key_of[number] = _series_key(pages.facts(member)) if is_image else None
                except MalformedTiff:  # a level of its own, which holds the error
                    key_of[number] = pages.directory(member).offset
            key = key_of[number]
            if key is not None:
                groups.setdefault(key, []).append(member)
    return [stack_pages(pages, rows) for rows in groups.values()]


def _is_image(pages: Pages, row: int, with_pixels: bool) -> bool:
    ifd = pages.directory(row)
    if not ifd.entries:
        return False
    # strips or tiles of an image of size 0 are a fault, which its level reports
    return not with_pixels or 0 not in pages.facts(row).shape or ifd.n_listed_segments > 0


# ---- pyramids


def _make_pyramids(series: list[Series], *, is_reduced: bool) -> None:
    """Turn series that are smaller copies of an earlier series into levels of that series.

    With `is_reduced`, only images whose NewSubfileType declares a reduced image.
    """
    shapes: list[Any] = []
    places: dict[object, list[tuple[int, int]]] = {}  # by shape: there can be many images
    for place, one in enumerate(series):
        level, shape = one.levels[0], None
        if level.error is None:
            facts = level.facts
            shape, is_declared = (level.axes, level.shape, facts.dtype), facts.subfile_type & 1
            if is_declared or not is_reduced:
                places.setdefault(shape, []).append((place, is_declared))
        shapes.append(shape or ("", (), None))
    used: set[int] = set()
    for place, top in enumerate(series):
        pages, row = top.levels[0].first
        is_sub_ifd = pages.directory(row).name.startswith("@")
        after, factors = place, [*_FACTORS]
        while after + 1 < len(series) and not (is_sub_ifd or place in used):
            copies = _find_reduced(shapes[after], factors, places)
            free = [copy for copy in copies if copy[0] > after and copy[0] not in used]
            if not free:
                break
            after, *factors = min(free)
            used.add(after)
            top.levels.append(series[after].levels[0])
    series[:] = [one for place, one in enumerate(series) if place not in used]


def _find_reduced(
    shape: Any, factors: Sequence[int], places: Mapping[object, list[tuple[int, int]]]
) -> Iterator[tuple[int, int]]:
    """Yield the places of smaller copies of an image (axes, sizes, dtype), and by which factor."""
    axes, sizes, dtype = shape
    sized = list(zip(axes, sizes, strict=True))
    spatial = {n for axis, n in sized if axis in "XYZ"}
    least = min(spatial - {0, 1}, default=max(factors))
    for factor in factors:
        if factor > least:
            return
        rounded = [{-(-n // factor), n // factor or 1} if a in "XYZ" else {n} for a, n in sized]
        for small in itertools.product(*rounded):
            for place, is_declared in places.get((axes, small, dtype), ()):
                # GDAL also writes overviews of images of one row; tifffile does not recognize these
                if small != sizes and (is_declared or 1 not in spatial):
                    yield place, factor


# ---- one IFD that describes many planes


def is_final(pages: Pages, row: int) -> bool:
    """Return whether an image is contiguous and uncompressed (tifffile's `is_final`)."""
    ifd, directory = pages.facts(row), pages.directory(row)
    if not _is_plain(ifd):
        return False
    depth, rows, columns = ifd.tile or (1, 1, ifd.shape[3])
    if ifd.shape[3] != columns or ifd.shape[2] % max(1, rows) or ifd.shape[1] % max(1, depth):
        return False
    offset, length = pages.columns.segments(np.array([row]), directory.n_listed_segments)
    if offset.shape[1] < 2:
        return offset.shape[1] == 1
    ends = offset[0, :-1] + length[0, :-1]
    return bool((ends == offset[0, 1:]).all()) and int(length.sum()) == ifd.n_bytes


def _is_plain(ifd: IfdFacts) -> bool:
    is_plain = ifd.compression == 1 and ifd.bits in _WHOLE_BYTES and ifd.sample_format != 5
    is_subsampled = ifd.photometric == 6 and ifd.subsampling != (1, 1)
    return is_plain and not is_subsampled and ifd.fill_order == 1 and ifd.predictor == 1


def run_limit(pages: Pages, row: int) -> int:
    """Return the largest possible end of planes stored after an image: an IFD, or end of file.

    Writers that store pixels first put the IFD and its values after them. The next IFD is a limit
    even if it cannot be read.
    """
    begin = pages.columns.first_offset(row) + pages.facts(row).n_bytes
    directory = pages.directory(row)
    places = [directory.offset, directory.next_offset]
    places += [where for _, _, where, _ in directory.entries.values()]
    return min([pages.reader.size, *(at for at in places if at >= begin)])


def planes_with_room(pages: Pages, row: int) -> int:
    """Return how many contiguous planes fit between an image and what follows it in the file."""
    n_bytes = pages.facts(row).n_bytes
    room = run_limit(pages, row) - pages.columns.first_offset(row)
    return room // n_bytes if n_bytes > _MAX_PADDING else 0


def check_run(pages: Pages, row: int, n_planes: int) -> None:
    """Refuse contiguous planes of another size than the segments of the first one.

    Some writers list the size of all planes, or of as many as a 32-bit number can hold.
    """
    n_listed = pages.directory(row).n_listed_segments
    listed = int(pages.columns.segments(np.array([row]), n_listed)[1].sum())
    ifd, n_bytes = pages.facts(row), pages.facts(row).n_bytes
    if listed not in (0, n_bytes, n_planes * n_bytes, min(n_planes * n_bytes, _MAX_LENGTH)):
        raise MalformedTiff(
            "the byte count of contiguous planes does not match their size",
            url=pages.reader.url, ifd=ifd.name, tag="StripByteCounts (279)",
            got=f"{listed} bytes", expected=f"{n_bytes} bytes",
        )  # fmt: skip


def planes_of_run(level: Level, n_there: int | None = None) -> Level:
    """Return a level of one IFD as one of the contiguous planes that this IFD describes.

    Only the first `n_there` planes are in the file; by default all are.
    """
    pages, row = level.first
    ifd, size = pages.facts(row), pages.reader.size
    n_planes, n_bytes = max(1, level.n_planes), ifd.n_bytes
    if n_planes - MAX_PLANES > size // max(1, n_bytes):
        error = truncated(
            "planes reach past the end of the file", url=pages.reader.url, ifd=ifd.name,
            got=f"{size} bytes", expected=f"at least {n_planes * n_bytes} bytes",
        )  # fmt: skip
        return replace(level, error=error)
    if not _is_plain(ifd):
        what = "several planes of one IFD are compressed or packed"
        return replace(level, error=UnsupportedTiff(what, ifd=ifd.name))
    n_strips = max(1, pages.directory(row).n_listed_segments)
    offset, length = level.segments or pages.columns.segments(np.array([row]), n_strips)
    if offset.shape[1] == 1:
        length = np.full((1, 1), n_bytes, np.uint64)  # writers list the size of one or all planes
    step = np.arange(n_planes, dtype=np.uint64) * np.uint64(n_bytes)
    offset = np.where(offset > 0, offset + step[:, None], np.uint64(0))
    rows = np.full(n_planes, row)
    rows[n_planes if n_there is None else n_there :] = -1
    segments = offset, np.repeat(length, n_planes, 0)
    return replace(level, row=rows, is_run=True, segments=segments)


# ---- ImageJ


class ImageJSeries:
    """The series that ImageJ or SCIFIO describes in its metadata, with axes T, Z, C and I.

    Planes may follow the first image without IFDs of their own.

    `n_declared` is the `images` count of the description, which may contradict the axis sizes;
    `is_counted` is whether there is any count. `defects` lists what does not match the pages.
    """

    def __init__(self, reader: TiffReader, found: Mapping[str, Any]) -> None:
        self.reader, self.head = reader, Pages(reader, [reader.first.offset])
        given = {name: found[name] for name in _COUNTS if name in found}
        counts = {name: n for name, n in given.items() if type(n) is int and 1 <= n < 1 << 31}
        invalid = ", ".join(f"{name}={n}" for name, n in given.items() if name not in counts)
        self.defects = [f"ImageJ's counts are invalid: {invalid}"] if invalid else []
        self.is_counted = bool(counts)
        self.n_declared, frames, slices, channels = (counts.get(name, 1) for name in _COUNTS)
        self.sizes = {"T": frames, "Z": slices, "C": channels}
        self.order = _ORDERS.get(str(found.get("order", "czt")).lower(), "TZC")
        n_others = 1
        shape = self.head.facts(0).shape
        if "SCIFIO" in found:
            if (axes := scifio_axes(found)) is not None:
                self.order, n_others = axes
                self.sizes["I"] = n_others
            self.defects += scifio_defects(found, {**self.sizes, "Y": shape[2], "X": shape[3]})
        images = frames * slices * n_others
        if channels == 1 or (shape[0] > 1 and shape[0] == channels):
            pass  # ImageJ may count samples as channels
        elif self.n_declared == images and shape[4] == channels:
            self.sizes["C"] = 1
        else:
            images *= channels
        is_consistent = self.n_declared in (1, images, images * channels)
        if images == 1 and (len(counts) == 1 or "SCIFIO" in found):
            images, is_consistent = self.n_declared, True  # old versions only count images
        self.n_images, self.n_declared = images, images if is_consistent else self.n_declared

    def list(self) -> Listing:
        is_one = not self.reader.first.next_offset
        if self.n_images == 1 and not is_one:
            self.n_images = self.n_declared = len(self.reader.chain())
            is_one = self.n_images == 1
            if self.is_counted and not is_one:
                self.defects.append(f"ImageJ counts one image, and there are {self.n_images} pages")
        if self.n_declared != self.n_images:
            counted = f"ImageJ counts {self.n_declared} images, but its axes are"
            self.defects.append(f"{counted} {self._sizes_text()}")
        if is_final(self.head, 0):
            if is_one and self.n_declared != self.n_images:
                # the larger of two contradictory counts that fits the file
                limit, counts = self._run_limit(), (self.n_declared, self.n_images)
                if max([n for n in counts if self._end_of(n) <= limit], default=0) != counts[1]:
                    self.n_images, self.sizes = self.n_declared, dict.fromkeys(self.sizes, 1)
            if self._is_run(is_one):
                return self._run(is_one)
            if is_one or len(self.reader.chain(2)) == 1:
                return self._truncated_series()
        return self._of_pages()

    def _run(self, is_one: bool) -> Listing:
        """Return one image, or contiguous planes described by the first IFD."""
        if self.n_images > 1:
            check_run(self.head, 0, self.n_images)
        n_there = planes_with_room(self.head, 0)
        if is_one and n_there > self.n_images:
            room = f"the file has room for {n_there} planes"
            self.defects.append(f"{room}, but ImageJ counts {self.n_images}")
        level = self._level(self.head, 1)
        level = planes_of_run(level) if self.n_images > 1 else level
        return Listing([Series("imagej", [level])], self.defects)

    def _end_of(self, n_images: int) -> int:
        return self.head.columns.first_offset(0) + n_images * self.head.facts(0).n_bytes

    def _run_limit(self) -> int:
        return self.reader.size if self.n_images == 1 else run_limit(self.head, 0)

    def _sizes_text(self) -> str:
        return ", ".join(f"{axis}={n}" for axis, n in self.sizes.items())

    def _is_run(self, is_one: bool) -> bool:
        """Return whether the planes are contiguous and the IFDs, if any, agree with that.

        If the end of the file cuts off IFDs stored after the planes, no pixels are lost. Writers
        that store a plane after each IFD may leave gaps because of long texts.
        """
        end = self._end_of(self.n_images)
        is_behind = is_one or self.n_images == 1 or end <= self.reader.first.next_offset
        if end > self._run_limit() or not is_behind:
            return False
        if self.n_images == 1:
            return True
        offset = self.reader.chain(2)[-1]
        second = self.reader.directory(offset)
        if second is None or offset == self.reader.first.offset:
            return True
        if Pages(self.reader, [offset]).columns.first_offset(0) != self._end_of(1):
            return False
        step = second.next_offset - offset if second.next_offset else 0
        last = self.reader.directory(offset + step * (self.n_images - 2))
        is_regular = last is not None and not last.next_offset
        return is_regular or len(self.reader.chain()) <= self.n_images

    def _level(self, pages: Pages, n_rows: int) -> Level:
        if pages.has_sub_ifds:
            self.defects.append("ImageJ's counts do not include the images in SubIFDs")
        shape, axes = tuple(self.sizes[axis] for axis in self.order), self.order
        rest = self.n_images // math.prod(shape)
        if rest > 1:
            shape, axes = (rest, *shape), f"I{axes}"
        page_shape, page_axes = pages.shape(0)
        if pages.facts(0).shape[0] > 1 and axes[-1] == "C" and shape[-1] in (1, page_shape[0]):
            shape, axes = (*shape[:-1], *page_shape), axes + page_axes[1:]
        else:
            shape, axes = (*shape, *page_shape), axes + page_axes
        return Level((pages,), np.arange(n_rows), shape, axes)

    def _truncated_series(self) -> Listing:
        """Return contiguous planes that the end of the file cuts off; the rest is missing."""
        n_bytes = self.head.facts(0).n_bytes
        room = max(0, self._run_limit() - self.head.columns.first_offset(0))
        n_there = min(self.n_images, room // n_bytes if n_bytes else 0)
        level = planes_of_run(self._level(self.head, 1), n_there=n_there)
        listing = Listing([Series("imagej", [level])], self.defects)
        what = "planes counted by ImageJ reach past the end of the file"
        listing.miss(what, f"room for {n_there}", f"{self.n_images} planes", self.reader.url)
        return listing

    def _of_pages(self) -> Listing:
        """Return the series if each plane has an IFD, else plain series and a defect."""
        pages = Pages(self.reader)
        is_alike = len({pages.facts(row).shape for row in pages.columns.first}) == 1
        if len(pages) == self.n_images and is_alike:
            return Listing([Series("imagej", [self._level(pages, len(pages))])], self.defects)
        found = plain_series(self.reader)
        n_planes = math.prod(self.sizes.values())
        got = f"{len(pages)} pages, {n_planes} planes ({self._sizes_text()})"
        lost = any(finding.loses_pixels for finding in self.reader.findings)
        if lost and len(pages) < self.n_images:
            what = "ImageJ counts more planes than the file has pages"
            found.miss(what, len(pages), self.n_images, self.reader.url)
        found.defects.append(f"ImageJ's counts do not match the pages: {got}")
        for series in found.series[:1]:
            series.kind = "imagej"
        return found


# ---- tifffile's own


def shaped_series(reader: TiffReader) -> Listing | None:
    """Read "shaped" series written by tifffile; None if the pages do not match the shapes."""
    pages = Pages(reader)
    listing = Listing([])
    if not _list_shaped(pages, listing, set(pages.offsets)):
        return None
    _make_pyramids(listing.series, is_reduced=True)
    return listing


def _list_shaped(pages: Pages, listing: Listing, seen: set[int]) -> bool:
    """Add the series of a chain of IFDs, each followed by the series of its SubIFDs.

    `seen` holds the offsets of all IFDs so far. Return False if one repeats or a shape is wrong.
    """
    index = 0
    while index < len(pages):
        declared = parse_shaped(shaped_text(pages.directory(index)) or "")
        if declared is None:
            return False
        size, part = math.prod(declared.shape), math.prod(pages.shape(index)[0])
        n_pages, rest = divmod(size, part) if size and part else (1, size or part)
        if rest or not fits_page(declared.shape, pages.shape(index)[0]):
            return False
        n_used = _add_shaped(pages, index, declared, n_pages, listing)
        if not _list_shaped_below(pages, range(index, index + n_used), listing, seen):
            return False
        index += n_used
    return True


def fits_page(shape: tuple[int, ...], page: tuple[int, ...]) -> bool:
    """Return whether the last dimensions of a series match those of its pages."""
    whole, part = ([n for n in sizes if n != 1] for sizes in (shape, page))
    return not part or whole[-len(part) :] == part


def _list_shaped_below(pages: Pages, rows: range, listing: Listing, seen: set[int]) -> bool:
    if not pages.has_sub_ifds:
        return True
    below = pages.sub_ifds(rows)
    if len(set(map(len, below))) > 1:
        return False
    for n in range(len(below[0])):
        offsets = [some[n] for some in below]
        if not seen.isdisjoint(offsets) or not all(map(pages.is_sub_ifd_readable, rows, offsets)):
            return False
        seen.update(offsets)
        if not _list_shaped(Pages(pages.reader, offsets), listing, seen):
            return False
    return True


def _add_shaped(pages: Pages, index: int, found: Shaped, n_pages: int, listing: Listing) -> int:
    """Add the series whose first image is at `index`; return how many IFDs it uses."""
    is_huge = n_pages - MAX_PLANES > pages.reader.size
    is_run = is_huge or _is_shaped_run(pages, index, found, n_pages)
    n_there = 1 if is_run else min(n_pages, len(pages) - index)
    if not is_run and n_there < n_pages:
        what = "the file has fewer pages than tifffile wrote"
        listing.miss(what, f"{n_there} pages", f"{n_pages}", pages.reader.url)
    elif _is_alone(pages, index) and (n_room := planes_with_room(pages, index)) > n_pages:
        room = f"the file has room for {n_room} planes"
        listing.defects.append(f"{room}, but tifffile's shape has {n_pages}")
    if found.axes == "":
        listing.defects.append("tifffile's axes do not match its shape")
    axes = found.axes or "Q" * len(found.shape)
    if found.axes is None:
        page_shape, page_axes = pages.shape(index)
        if n_pages > 1:
            page_shape, page_axes = (n_pages, *page_shape), f"Q{page_axes}"
        axes = _reshaped_axes(page_axes, page_shape, found.shape)
    rows = np.arange(index, index + (1 if is_run else n_pages))
    rows[n_there:] = -1
    level = Level((pages,), rows, found.shape, axes, is_squeezed=False)
    level = planes_of_run(level) if is_run else level
    listing.series.append(Series("shaped", [level], found.name))
    return n_there


def _is_alone(pages: Pages, index: int) -> bool:
    """Return whether the first IFD describes all planes of the file."""
    ifd = pages.directory(index)
    is_only = ifd.offset == pages.reader.first.offset and not ifd.next_offset
    return is_only and not pages.columns.sub_ifds(index) and is_final(pages, index)


def _is_shaped_run(pages: Pages, index: int, found: Shaped, n_pages: int) -> bool:
    """Return whether the planes are contiguous and described by the first IFD."""
    if n_pages < 2 or not is_final(pages, index):
        return False
    end = pages.columns.first_offset(index) + n_pages * pages.facts(index).n_bytes
    if run_limit(pages, index) < min(end, pages.reader.size):
        return False  # texts or IFDs lie between the planes
    check_run(pages, index, n_pages)
    if found.is_truncated or index + 1 >= len(pages):
        return not pages.columns.sub_ifds(index) or bool(found.is_truncated)
    if shaped_text(pages.directory(index + 1)) is None:
        return False  # the next IFD belongs to the next page of this series
    return end < int(pages.offsets[index + 1]) and not pages.columns.sub_ifds(index)


def _reshaped_axes(axes: str, shape: tuple[int, ...], new: tuple[int, ...]) -> str:
    """Return the axes of a reshaped array; "Q" for dimensions that were split or merged."""
    found, at, size, new_size = [], len(shape) - 1, 1, 1
    padded = (*new, *(1,) * max(0, len(shape) - len(new)))
    for n in reversed(padded):
        new_size *= n
        while at > 0 and shape[at] == 1 and n != 1:
            at -= 1
        if at >= 0 and n == shape[at] and new_size == size * n:
            size *= n
            found.append(axes[at])
            at -= 1
        else:
            found.append("Q")
    return "".join(reversed(found[len(padded) - len(new) :]))
