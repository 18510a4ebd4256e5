"""Scan one TIFF into references (`scan`).

Runs the steps of a scan: open the file, list its series, select, plan the arrays, probe a few
segments, name and describe the arrays. Decides what happens if pixels are missing. The result
depends only on the file and the options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import (
    MalformedTiff,
    MetadataWarning,
    SelectionError,
    TiffrefError,
    TruncationWarning,
    no_such_index,
    rejects_unknown_arguments,
    warn,
)
from ..io.open import open_source
from ..io.progress import Progress, ProgressCounter, scan_progress
from ..io.source import ByteSource
from ..metadata.describe import describe
from ..metadata.gdal import parse_nodata
from ..metadata.layout import MASK_BIT, LevelName, name_levels
from ..metadata.report import Report
from ..model.array import Array, check_zattrs
from ..model.tiff_facts import FileFacts, LevelFacts, SeriesFacts
from ..references import References
from .descriptions import imagej_metadata, imagej_text, shaped_text
from .ifd import Finding, TiffReader
from .ome import Companion, OmeFile, is_companion, missing_members, ome_text
from .pages import Level, Pages, Series
from .probe import checked_array
from .series import (
    GEO_KEYS,
    Listing,
    geotiff_series,
    image_bytes,
    imagej_series,
    plain_series,
    shaped_series,
)
from .sidecars import Sidecars, add_sidecars, has_sidecars
from .truncation import without_truncated

__all__ = ["scan", "scan_with_facts"]

_CHUNK_MODES = frozenset({"strile", "tile", "plane", "page", "frame", "file", "none", "auto"})
"""Names of chunk modes. Modes that decode only matter to stores."""
_SPARSE_KINDS = frozenset({"ndtiff", "mmstack"})
_PLANNED_SIZES = {"Positions": "R", "Frames": "T", "Slices": "Z", "Channels": "C"}
"""Sizes in Micro-Manager's summary, which are planned ones, and the axis of each."""
"""Series with an index of what was acquired: positions without a page are not missing files, unless
the files of the set name others."""
_MAX_REPORTED = 8
"""Number of findings to warn of."""


@dataclass(frozen=True, slots=True)
class _Options:
    is_native: bool
    fill_value: Any
    layout: str
    level: int | None
    allows_holes: bool
    report: Report


@rejects_unknown_arguments
def scan(
    source: Any,
    *,
    series: int | None = None,
    level: int | None = None,
    key: int | slice | Sequence[int] | None = None,
    chunkmode: Any = None,
    fillvalue: Any = None,
    zattrs: Mapping[str, Any] | None = None,
    layout: str = "dataset",
    axes: str | None = None,
    strict: bool = False,
    allow_holes: bool = False,
    sidecars: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | bool | None = None,
) -> References:
    """Find where the bytes of a TIFF are, and return references to them.

    Parameters
    ----------
    source
        Path, URL, fsspec OpenFile, open binary file, or tifffile's `TiffFile`, `TiffPage` or
        `TiffPageSeries`. For an OME-TIFF set, the path of its companion file works too.
    series
        Index of a series. By default all series are scanned.
    level
        Index of a pyramid level; 0 is full size. By default all levels are scanned.
    key
        Pages to scan instead of a series: an index, a slice or a sequence of indices.
    chunkmode
        By default, contiguous uncompressed strips and pages are joined into chunks of a few MiB.
        "strile" or "tile" makes one chunk of each strip or tile, as stored.
    fillvalue
        Value of missing chunks, instead of the file's nodata value.
    zattrs
        Attributes to add at the root.
    layout
        "dataset" puts all arrays side by side: `image`, `image_1`, ... "tree" makes a group for
        each level. Zarr v3 documents always have pyramids of microscopes as trees (OME-NGFF 0.5).
    axes
        Order of axes: "as-stored", "ngff" (t, c, z, y, x) or "bands-first" (band, y, x). The
        default is the order in the file, except for microscope images in Zarr v3 documents, which
        have the order of OME-NGFF.
    strict
        Raise an error if metadata is invalid or the file is truncated. By default this is only a
        warning (`MetadataWarning`, `TruncationWarning`) if no pixels of the image are lost.
    allow_holes
        Accept incomplete images. Planes that the metadata lists but that do not exist, or whose
        file is absent, and segments that the end of the file cuts off, stay missing and are counted
        in `References.series`. By default, an incomplete image is an error.
    sidecars
        Read the files beside the TIFF, as GDAL does: world file, RPC, .aux.xml, .ovr and .msk. By
        default this is done for local files only, since each costs a request elsewhere.
    storage_options
        Options of the fsspec file system, if `source` is a URL.
    progress
        Called with the number of directories and of bytes read so far; an error that it raises
        ends the scan. True shows both on a terminal.

    Returns
    -------
    References to all arrays that can be represented exactly. `References.series` gives the reason
    for those that cannot.

    Raises
    ------
    SourceError
        If the source cannot be read.
    MalformedTiff
        If it is not a TIFF, or pixels of the selected images are missing; with `strict`, also if
        any metadata is invalid.
    UnsupportedTiff
        If no image in it can be represented by references.

    Examples
    --------
    >>> import tiffref
    >>> references = tiffref.scan("image.tif")
    >>> references.group["image"].shape
    (512, 768)
    >>> references.write_fsspec("image.json")
    """
    added = check_zattrs(zattrs)
    references, _ = scan_with_facts(
        source,
        series=series,
        level=level,
        key=key,
        chunkmode=chunkmode,
        fillvalue=fillvalue,
        layout=layout,
        strict=strict,
        allow_holes=allow_holes,
        sidecars=sidecars,
        storage_options=storage_options,
        progress=progress,
    )
    references = references.with_attributes(**added) if added else references
    return references.with_axes(axes) if axes else references


def scan_with_facts(
    source: Any,
    *,
    series: int | None = None,
    level: int | None = None,
    key: int | slice | Sequence[int] | None = None,
    chunkmode: Any = None,
    fillvalue: Any = None,
    layout: str = "dataset",
    strict: bool = False,
    allow_holes: bool = False,
    sidecars: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | bool | None = None,
) -> tuple[References, FileFacts]:
    """Scan a file like `scan`, and also return the facts read from its tags."""
    mode = str(getattr(chunkmode, "name", chunkmode)).lower()
    if isinstance(chunkmode, str) and mode not in _CHUNK_MODES:
        raise SelectionError(f"unknown chunkmode {chunkmode!r}", expected="None or tile")
    native = mode in ("0", "strile", "tile")
    # as text, tifffile's objects read all of the file
    name = source if isinstance(source, str | PathLike) else "an open file"
    report = Report("", strict)
    options = _Options(native, fillvalue, layout, level, allow_holes, report)
    with ExitStack() as stack:
        counts = stack.enter_context(scan_progress(progress, f"scanning {name}"))
        file = _open(source, storage_options, stack, counts)
        report.url = file.url
        listing = _select(file, series, key)
        facts = file.facts(listing)
        if (
            key is None
            and series in (None, 0)
            and file.given is None
            and (has_sidecars(sidecars, source))
        ):
            facts = _with_sidecars(file, facts, storage_options, stack, report)
        if level is not None:
            n_levels = len(_pick(facts.series, 0, "series", file.url).levels)
            for series_facts in facts.series[: len(listing.series)]:
                _pick(series_facts.levels, level, "level", file.url)
            options = replace(options, level=level + n_levels if level < 0 else level)
        if listing.missing is not None and not allow_holes and _is_whole_scan(options, key):
            raise listing.missing
        names = name_levels(facts, options.layout, options.level)
        arrays, provenance = _plan_arrays(file, facts, names, options)
        damage = _report_findings(file, strict, is_whole=key is None)
        if damage:
            provenance[0]["damaged"] = damage
        group = describe(facts, names, arrays, report)
    return References(group, provenance), facts


def _with_sidecars(
    file: _File,
    facts: FileFacts,
    storage_options: Mapping[str, Any] | None,
    stack: ExitStack,
    report: Report,
) -> FileFacts:
    """Add the facts of sidecar files, which stay open until the stack is closed."""

    def facts_of(url: str) -> FileFacts:
        source = open_source(url, storage_options, file.reader.source.allow)
        stack.enter_context(closing(source))
        other = _open(source, storage_options, stack)
        file.sidecars[other.url] = other.reader.source
        return other.facts(other.list())

    return add_sidecars(facts, Sidecars(file.reader.source, storage_options, facts_of, report))


def _is_whole_scan(options: _Options, key: Any) -> bool:
    return key is None and options.level in (None, 0)


# ---- the file


@dataclass(slots=True)
class _File:
    """A TIFF open for scanning: our reader, and for vendor formats and OME the object for them.

    `given` are series passed in by the caller, `sidecars` the sources of sidecar files.
    """

    reader: TiffReader
    vendor: Any = None
    given: Listing | None = None
    sidecars: dict[str, ByteSource] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.reader.url

    def list(self) -> Listing:
        """List the series of the file.

        Raises
        ------
        MalformedTiff
            If there is none.
        """
        listing = self.given or self._list()
        if not listing.series:
            raise MalformedTiff("the file has no image", url=self.url)
        return listing

    def _list(self) -> Listing:
        reader, first = self.reader, self.reader.first
        if self.vendor is not None:
            return self.vendor.list()
        listing = None
        if shaped_text(first) is not None:
            listing = _or_plain_series(shaped_series(reader), reader, "tifffile's shape")
        elif imagej_text(first) is not None:
            listing = _or_plain_series(imagej_series(reader), reader, "ImageJ's counts")
        elif GEO_KEYS in first:
            listing = geotiff_series(reader)
        return listing if listing is not None and listing.series else plain_series(reader)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of ImageJ, OME or a vendor, by format."""
        if self.vendor is not None:
            return self.vendor.metadata()
        found = imagej_metadata(self.reader.first, self.reader.header.byteorder)
        return {"imagej": found} if found else {}

    def facts(self, listing: Listing) -> FileFacts:
        """Read the facts of all series; a level that cannot be read is its error instead."""
        metadata = self.metadata()
        reader = self.reader
        return FileFacts(
            reader.source.source,
            reader.header.byteorder,
            tuple(sorted(metadata)),
            tuple(_series_facts(n, one) for n, one in enumerate(listing.series)),
            {name: value for name, value in metadata.items() if value},
            "; ".join(listing.defects),
            listing.has_mask,
        )

    # ---- the `Segments` protocol of `probe`

    def read_segment(self, url: str, offset: int, length: int) -> bytes:
        """Read the stored bytes of a segment of this file, or of another file of its set."""
        return self._source_at(url).read(offset, length)

    def is_cached(self, url: str, offset: int, length: int) -> bool:
        """Return whether a segment can be read without a request."""
        return self._source_at(url).is_cached(offset, length)

    @property
    def is_regular(self) -> bool:
        """Whether the writer declares that every tile is stored whole (GDAL's COG driver)."""
        return b"LAYOUT=IFDS_BEFORE_DATA" in self.reader.declared_layout

    def _source_at(self, url: str) -> ByteSource:
        if url in self.sidecars:
            return self.sidecars[url]
        if url == self.url or self.vendor is None:
            return self.reader.source
        return self.vendor.sibling(url).source


def _or_plain_series(listing: Listing | None, reader: TiffReader, what: str) -> Listing:
    """Return plain series, with a defect, if the description does not match the pages."""
    if listing is not None and listing.series:
        return listing
    found = plain_series(reader)
    found.defects.append(f"{what} does not match the pages")
    return found


def _series_facts(index: int, series: Series) -> SeriesFacts:
    levels: list[LevelFacts | Exception] = []
    for level in series.levels:
        try:
            levels.append(level.to_facts())
        except TiffrefError as error:
            levels.append(error)
    return SeriesFacts(index, series.kind, series.name, series.axes, tuple(levels))


def _open(
    source: Any,
    storage_options: Mapping[str, Any] | None,
    stack: ExitStack,
    counts: ProgressCounter | None = None,
) -> _File:
    """Open the file until the stack is closed, with the series that the caller passed in."""
    if is_companion(source):
        companion = stack.enter_context(closing(Companion(source, counts)))
        return _File(companion.reader, companion)
    if hasattr(source, "filehandle") or hasattr(source, "keyframe"):
        return _open_tifffile_object(source, stack)
    where = open_source(source, storage_options)
    if where is not source:
        stack.callback(where.close)
    reader = TiffReader(where, counts=counts)
    stack.callback(reader.close)
    from .vendor import is_vendor_file, open_vendor

    file = _File(reader)
    if is_vendor_file(reader):
        file.vendor = stack.enter_context(closing(open_vendor(where, reader)))
    elif ome_text(reader) is not None:
        file.vendor = stack.enter_context(closing(OmeFile(reader)))
    return file


def _open_tifffile_object(source: Any, stack: ExitStack) -> _File:
    """Wrap an open file, page or series of tifffile."""
    from tifffile import TiffPageSeries

    from .vendor import is_vendor_file, open_vendor, tifffile_errors

    if hasattr(source, "filehandle"):
        tif, wanted = source, None
    elif isinstance(source, TiffPageSeries):
        tif, wanted = source.parent or source.keyframe.parent, source
    else:
        tif = source.parent
        wanted = TiffPageSeries([source], parent=tif, kind="page")
    with tifffile_errors(str(tif.filehandle.path)):
        vendor = stack.enter_context(closing(open_vendor(tif)))
        stack.callback(vendor.reader.source.close)
        if (
            wanted is None
            and (tif.is_imagej or tif.is_shaped)
            and not is_vendor_file(vendor.reader)
        ):
            return _File(vendor.reader)
        return _File(vendor.reader, vendor, None if wanted is None else vendor.convert([wanted]))


# ---- selection


def _select(file: _File, series: int | None, key: int | slice | Sequence[int] | None) -> Listing:
    """List the selected series or pages."""
    if key is not None:
        return Listing([_pages_series(file, key, series)])
    listing = file.list()
    if series is not None:
        selected = _pick(listing.series, series, "series", file.url)
        has_mask = any(map(_is_mask, (other for other in listing.series if other is not selected)))
        return replace(listing, series=[selected], has_mask=has_mask)
    return listing


def _is_mask(series: Series) -> bool:
    level = series.levels[0]
    if series.kind not in ("geotiff", "generic") or level.error is not None:
        return False
    return bool(level.facts.subfile_type & MASK_BIT)


def _pick(items: Sequence[Any], index: int, what: str, url: str) -> Any:
    try:
        return items[index]
    except (IndexError, TypeError):
        raise no_such_index(what, index, len(items), url) from None


def _pages_series(file: _File, key: Any, series: int | None) -> Series:
    """Stack the pages that `key` selects, as `imread(file, key=key)` does."""
    if series is not None:
        level = _pick(file.list().series, series, "series", file.url).levels[0]
        return Series("page", [_planes_of(level, _indices(key, _n_planes(level), file.url))])
    is_one = isinstance(key, int | np.integer)
    if is_one and key >= 0:
        offsets = file.reader.chain(int(key) + 1)
    else:
        offsets = file.reader.chain()
    indices = _indices(key, len(offsets), file.url)
    pages = Pages(file.reader, offsets)
    shape, axes = pages.shape(indices[0])
    if len(indices) > 1:
        shape, axes = (len(indices), *shape), f"I{axes}"
    return Series("page", [Level((pages,), np.array(indices, np.intp), shape, axes)])


def _indices(key: Any, n: int, url: str) -> list[int]:
    """Return the non-negative indices of the pages that a key selects.

    Raises
    ------
    SelectionError
        If a page does not exist, or none is selected.
    """
    try:
        if isinstance(key, slice):
            indices = [*range(n)[key]]
        elif isinstance(key, int | np.integer):
            indices = [range(n)[int(key)]]
        else:
            indices = [range(n)[int(k)] for k in key]
    except (IndexError, TypeError, ValueError) as error:
        raise no_such_index("page", key, n, url) from error
    if not indices:
        raise SelectionError("key selects no page", url=url, got=key, expected="at least one page")
    return indices


def _n_planes(level: Level) -> int:
    if not level.is_run:
        return len(level.row)
    return int(np.prod(level.shape, dtype=object)) // max(1, int(np.prod(_plane_shape(level))))


def _plane_shape(level: Level) -> tuple[int, ...]:
    pages, row = level.first
    return pages.shape(row)[0]


def _planes_of(level: Level, indices: list[int]) -> Level:
    """Return a level of some planes of another level."""
    pages, row = level.first
    shape, axes = pages.shape(row)
    if len(indices) > 1:
        shape, axes = (len(indices), *shape), f"I{axes}"
    chosen = np.array(indices, np.intp)
    if not level.is_run:
        file = None if level.file is None else level.file[chosen]
        segments = None
        if level.segments is not None:
            segments = level.segments[0][chosen], level.segments[1][chosen]
        return Level(level.pages, level.row[chosen], shape, axes, file, segments=segments)
    first = replace(level, is_run=False, shape=shape, axes=axes).to_facts()
    step = chosen.astype(np.uint64) * np.uint64(image_bytes(pages, row))
    offset = first.offset[:1] - np.uint64(pages.reader.base) + step[:, None]
    length = np.repeat(first.length[:1], len(chosen), 0)
    rows = np.full(len(chosen), row, np.intp)
    return Level(level.pages, rows, shape, axes, segments=(offset, length))


# ---- arrays


def _plan_arrays(
    file: _File,
    facts: FileFacts,
    names: Mapping[tuple[int, int], LevelName],
    options: _Options,
) -> tuple[dict[tuple[int, int], Array], tuple[dict[str, Any], ...]]:
    """Plan the arrays of all levels, and record the result for each series."""
    arrays: dict[tuple[int, int], Array] = {}
    provenance, refusals = [], []
    for position, series in enumerate(facts.series):
        levels: list[dict[str, Any]] = []
        for n, level in enumerate(series.levels):
            if options.level not in (None, n):
                continue
            truncated = 0
            try:
                name = names.get((position, n))
                may_cut = options.allows_holes and not options.report.is_strict
                if may_cut and isinstance(level, LevelFacts):
                    level, truncated = without_truncated(level, file)
                arrays[position, n] = _plan_array(file, facts, series, level, name, options)
            except TiffrefError as error:
                error.url = error.url or facts.source.url
                refusals.append(error)
                levels.append({"refused": f"{type(error).__name__}: {error}"})
                continue
            path = names[position, n].path
            levels.append({"path": path, **_missing_record(facts, series, level)})
            if truncated:
                levels[-1]["truncated_segments"] = truncated
                what = f"{truncated} segments of {path!r} are cut off by the end of the file"
                found = MalformedTiff(f"{what}, and are missing", url=facts.source.url)
                warn(TruncationWarning(str(found)), stacklevel=4)
        provenance.append(
            {
                "index": series.index,
                "kind": series.kind,
                "name": series.name,
                "axes": series.axes,
                "levels": levels,
            }
        )
    if not arrays:
        raise refusals[0]
    _report_refusals(provenance, refusals, options)
    return arrays, tuple(provenance)


def _report_refusals(
    provenance: Sequence[Mapping[str, Any]], refusals: Sequence[TiffrefError], options: _Options
) -> None:
    """Raise or warn if a level is left out, as it is damaged or cannot be represented."""
    if not refusals:
        return
    # overviews do not replace the full image
    is_lost = any(
        "refused" in row["levels"][0] and any("path" in level for level in row["levels"])
        for row in provenance
    )
    if options.report.is_strict or (is_lost and not options.allows_holes):
        raise refusals[0]
    more = f" {len(refusals) - 1} more levels are left out." if len(refusals) > 1 else ""
    warn(TruncationWarning(f"A level is left out: {refusals[0]}{more}"), stacklevel=5)


def _plan_array(
    file: _File,
    facts: FileFacts,
    series: SeriesFacts,
    level: LevelFacts | Exception,
    name: LevelName | None,
    options: _Options,
) -> Array:
    """Plan one level, and check the plan against some segments."""
    if isinstance(level, Exception):
        raise level
    assert name is not None
    missing = _count_missing(facts, series, level)
    if missing and not options.allows_holes:
        raise MalformedTiff(
            f"{missing} of {len(level.ifd)} pages are missing",
            got=", ".join(_missing_files(facts)[:3]) or None,
            hint="Put all files of the set in one folder, or leave holes with allow_holes=True.",
        )
    unwritten = _unwritten_planes(facts, series, level)
    if unwritten and not options.allows_holes:
        error = MalformedTiff(unwritten, url=facts.source.url)
        if options.report.is_strict:
            raise error
        warn(TruncationWarning(str(error)), stacklevel=6)
    array = checked_array(
        level,
        name.dims,
        options.is_native,
        file,
        options.report,
        allows_holes=options.allows_holes,
    )
    if level.ifds[0].dtype is None:
        _report_no_samples(level, options.report)
    if options.fill_value is not None and name.role == "image":
        return array.with_fill_value(options.fill_value)
    full = series.levels[0] if isinstance(series.levels[0], LevelFacts) else level
    ifd = level.ifds[0]
    nodata = ifd.tags.get(42113, full.ifds[0].tags.get(42113))  # some overviews lack the tag
    if nodata is None:
        return array
    # complex integers are read as floating-point numbers, and can have fewer values
    is_integer = ifd.sample_format == 5 and array.dtype.kind == "c"
    samples = np.dtype(f"i{ifd.bits[0] // 16}") if is_integer else array.dtype
    fill, nearest = parse_nodata(nodata, samples, options.report)
    is_exact = fill != fill or (fill or 0) == (nearest or 0)  # the first is NaN
    if not is_exact and array.manifest.is_missing.any():
        options.report.note(
            "GDAL_NODATA (42113)",
            f"no sample can have this value: missing segments read as {nearest}, as in GDAL,"
            f" and readers treat samples of {nearest} as missing",
            hint="Pass fillvalue= to choose another value.",
        )
        fill = nearest
    return array if fill is None else replace(array, fill_value=fill)


def _report_no_samples(level: LevelFacts, report: Report) -> None:
    """Report an image whose samples fit no dtype, so that its array is empty."""
    ifd = level.ifds[0]
    if level.offset.any() and 0 not in ifd.shape:
        report.add(
            "BitsPerSample (258)",
            "no dtype can hold these samples: the array is empty",
            got=f"{', '.join(map(str, ifd.bits))} bits, SampleFormat {ifd.sample_format}",
        )


def _missing_record(
    facts: FileFacts, series: SeriesFacts, level: LevelFacts | Exception
) -> dict[str, Any]:
    """Return the missing pages of a level, for its record."""
    if not isinstance(level, LevelFacts):
        return {}
    missing = _count_holes(level)
    if not missing:
        return {}
    return {"missing_pages": missing, "missing_files": _missing_files(facts)}


def _count_holes(level: LevelFacts) -> int:
    if len(level.ifd) == 1:
        return 0  # a level has at least one page
    return int(np.count_nonzero(level.ifd < 0))


def _count_missing(facts: FileFacts, series: SeriesFacts, level: LevelFacts) -> int:
    """Return the number of missing pages, not counting planes that were never acquired."""
    n_holes = _count_holes(level)
    if not n_holes:
        return 0
    is_index_whole = len(level.sources) < 2 or not _missing_files(facts)
    return 0 if series.kind in _SPARSE_KINDS and is_index_whole else n_holes


def _unwritten_planes(facts: FileFacts, series: SeriesFacts, level: LevelFacts) -> str:
    """Describe the planes that Micro-Manager planned but did not write; "" if all exist.

    It also skips planes on purpose. The array has room for all of them in any case.
    """
    if series.kind not in _SPARSE_KINDS:
        return ""
    n_holes = _count_holes(level)
    if n_holes:
        return f"{n_holes} of {len(level.ifd)} planes were never written"
    summary = (facts.metadata.get("micromanager") or {}).get("Summary") or {}
    short = []
    for key, axis in _PLANNED_SIZES.items() if series.kind == "mmstack" else ():
        n_planned, n_written = str(summary.get(key, "")), level.sizes.get(axis, 1)
        if n_planned.isdecimal() and n_written < int(n_planned):
            short.append(f"{n_written} of {n_planned} {key.lower()}")
    return f"the acquisition was stopped: {', '.join(short)}" if short else ""


def _missing_files(facts: FileFacts) -> list[str]:
    """Return the names of missing files of an OME-TIFF set."""
    levels = (one for series in facts.series for one in series.levels)
    there = {
        source.url.rpartition("/")[2]
        for level in levels if isinstance(level, LevelFacts)
        for source in level.sources
    }  # fmt: skip
    missing = missing_members(facts.metadata.get("ome"), str(Path(facts.source.url).parent))
    return [name for name in missing if name not in there]


# ---- findings


def _report_findings(file: _File, is_strict: bool, *, is_whole: bool) -> str:
    """Warn of all findings of the readers, or raise the first one if strict; return its text.

    If only some pages were selected, a broken chain does not matter.
    """
    findings = [*file.reader.findings]
    if file.vendor is not None:
        findings += [f for sibling in file.vendor.readers() for f in sibling.findings]
    reported = [f for f in _distinct_findings(findings) if is_whole or f.tag != "next IFD"]
    if reported and is_strict:
        raise reported[0].to_error()
    for finding in reported[:_MAX_REPORTED]:
        if finding.loses_pixels:
            warn(TruncationWarning(str(finding.to_error())), stacklevel=5)
        else:
            error = str(finding.to_error())
            warn(MetadataWarning(error, url=finding.url, key=str(finding.tag)), stacklevel=5)
    if not reported:
        return ""
    first = reported[0].to_error()
    first.url = None  # it may hold a signature, and readers may use another URL
    return str(first)


def _distinct_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return the first finding for each tag of each IFD."""
    found: dict[tuple[str, str, Any], Finding] = {}
    for one in findings:
        found.setdefault((one.url, one.ifd, one.tag), one)
    return list(found.values())
