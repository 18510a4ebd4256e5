"""Scan one TIFF into references (`scan`).

Runs the steps of a scan: open the file, list its series, select, plan the arrays, probe a few
segments, name and describe the arrays. Decides what happens if pixels are missing. The result
depends only on the file and the options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import (
    MalformedTiff,
    SelectionError,
    TiffrefError,
    TruncationWarning,
    checked,
    no_such_index,
    warn,
)
from ..io.progress import Progress, ProgressCounter, scan_progress
from ..io.remote import open_source
from ..metadata.describe import describe
from ..metadata.gdal import parse_nodata
from ..metadata.layout import MASK_BIT, LevelName, find_role, name_levels
from ..metadata.report import Report
from ..model.array import Array, check_zattrs
from ..model.codec import SegmentCodec
from ..model.tiff_facts import FileFacts, IfdFacts, LevelFacts, SeriesFacts
from ..references import References, find_index
from .byte_counts import without_truncated
from .ifd import IfdFinding, TiffReader
from .ome import Companion, OmeFile, is_companion, missing_members, ome_text
from .pages import Level, Pages, Series, stack_pages
from .probe import checked_array
from .series import ImageFile, Listing
from .sidecars import Sidecars, add_sidecars, has_sidecars
from .vendor_metadata import is_vendor_file, tifffile_errors

_CHUNK_MODES = frozenset({
    "strile", "tile", "plane", "page", "frame", "file", "none", "auto", *"0123",
})  # fmt: skip
"""Names and numbers of chunk modes. Modes that decode only matter to stores."""
_SPARSE_KINDS = frozenset({"ndtiff", "mmstack"})
"""Series with an index of what was acquired: positions without a page are not missing files, unless
the files of the set name others."""
_PLANNED_SIZES = {"Positions": "R", "Frames": "T", "Slices": "Z", "Channels": "C"}
"""Sizes in Micro-Manager's summary, which are planned ones, and the axis of each."""
_MAX_REPORTED = 8
"""Number of findings to warn of."""


@dataclass(slots=True, kw_only=True)
class ScanOptions:
    """Further options of `scan`, given by name.

    Attributes
    ----------
    chunkmode
        By default, contiguous uncompressed strips and pages are joined into chunks of a few MiB.
        "strile" or "tile" makes one chunk of each strip or tile, as stored.
    sidecars
        Read the files beside the TIFF, as GDAL does: world file, RPC, .aux.xml, .ovr and .msk. By
        default this is done for local files only, since each costs a request elsewhere.
    progress
        Called with the number of directories and of bytes read so far; an error that it raises
        ends the scan. True shows both on a terminal.
    """

    chunkmode: Any = None
    sidecars: bool | None = None
    progress: Progress | bool | None = None


@dataclass(slots=True, kw_only=True)
class _Options(ScanOptions):
    """All options of `scan`, and the report of the file's defects."""

    series: int | None = None
    level: int | None = None
    key: int | slice | Sequence[int] | None = None
    fillvalue: Any = None
    layout: str = "dataset"
    strict: bool = False
    allow_holes: bool = False
    storage_options: Mapping[str, Any] | None = None
    report: Report = field(init=False)

    def __post_init__(self) -> None:
        self.report = Report("", self.strict)
        name = str(getattr(self.chunkmode, "name", self.chunkmode)).lower()
        if name not in _CHUNK_MODES:
            raise SelectionError("unknown chunkmode", got=repr(self.chunkmode), expected="tile")
        self.chunkmode = name

    @property
    def is_native(self) -> bool:
        """Whether to make one chunk of each strip or tile."""
        return self.chunkmode in ("0", "strile", "tile")


@checked(ScanOptions)
def scan(
    source: Any,
    *,
    series: int | None = None,
    level: int | None = None,
    key: int | slice | Sequence[int] | None = None,
    fillvalue: Any = None,
    zattrs: Mapping[str, Any] | None = None,
    layout: str = "dataset",
    axes: str | None = None,
    strict: bool = False,
    allow_holes: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> References:
    """Find where the bytes of a TIFF are, and return references to them.

    Parameters
    ----------
    source
        Path, URL, fsspec OpenFile, open binary file, or tifffile's `TiffFile`, `TiffPage` or
        `TiffPageSeries`. For an OME-TIFF set, the path or URL of its companion file works too.
    series
        Index of a series. By default all series are scanned.
    level
        Index of a pyramid level; 0 is full size. By default all levels are scanned.
    key
        Pages to scan instead of a series: an index, a slice or a sequence of indices.
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
    storage_options
        Options of the fsspec file system, if `source` is a URL.
    **options
        `chunkmode`, `sidecars` and `progress`; see `ScanOptions`.

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
        source, series=series, level=level, key=key, fillvalue=fillvalue, layout=layout,
        strict=strict, allow_holes=allow_holes, storage_options=storage_options, **options,
    )  # fmt: skip
    references = references.with_attributes(**added) if added else references
    return references.with_axes(axes) if axes else references


def scan_with_facts(source: Any, **options: Any) -> tuple[References, FileFacts]:
    """Scan a file like `scan`, and also return the facts read from its tags."""
    settings = _Options(**options)
    opened: list[Any] = []
    # as text, tifffile's objects read all of the file
    name = source if isinstance(source, str | PathLike) else "an open file"
    with scan_progress(settings.progress, f"scanning {name}") as counts:
        try:
            file = _open(source, settings.storage_options, opened, counts)
            return _scan(file, settings, opened)
        finally:
            for one in reversed(opened):
                one.close()


def _scan(file: ImageFile, options: _Options, opened: list[Any]) -> tuple[References, FileFacts]:
    options.report.url = file.url
    listing = _select(file, options.series, options.key, options.level)
    facts = _file_facts(file, listing)
    if has_sidecars(options.sidecars, file.url):
        facts = _with_sidecars(file, facts, options, opened)
    if options.level is not None:
        listed = facts.series[: len(listing.series)]
        found = [find_index(options.level, len(s.levels), "level", file.url) for s in listed]
        options.level = found[0]
    is_whole = options.key is None and options.level in (None, 0)
    if listing.missing is not None and not options.allow_holes and is_whole:
        raise listing.missing
    names = name_levels(facts, options.layout, options.level)
    arrays, provenance = _plan_arrays(file, facts, names, options)
    _report_findings(file, options)
    if options.report.damage:
        provenance[0]["damaged"] = options.report.damage
    if options.key is not None:
        provenance[0]["pages" if options.series is None else "planes"] = _format_pages(options.key)
    if options.level:
        provenance[0]["level"] = options.level
    group = describe(facts, names, arrays, options.report)
    return References(group, provenance), facts


def _with_sidecars(
    file: ImageFile, facts: FileFacts, options: _Options, opened: list[Any]
) -> FileFacts:
    """Add the facts of sidecar files, which stay open until the end of the scan."""

    def facts_of(url: str) -> FileFacts:
        source = open_source(url, options.storage_options, file.reader.source.allow)
        opened.append(source)
        other = _open(source, options.storage_options, opened)
        file.sidecars[other.url] = other.reader.source
        return _file_facts(other, _list(other))

    source = file.reader.source
    return add_sidecars(facts, Sidecars(source, options.storage_options, facts_of, options.report))


# ---- the file


def _list(file: ImageFile) -> Listing:
    """List the images of the file, or those that the caller passed in."""
    listing = file.given or file.list()
    if not listing.series:
        raise MalformedTiff("the file has no image", url=file.url)
    return listing


def _file_facts(file: ImageFile, listing: Listing) -> FileFacts:
    """Read the facts of all series; a level that cannot be read is its error instead."""
    metadata, reader, main = file.metadata(), file.reader, listing.main
    if main is not None:
        main = replace(main, levels=main.levels[:1])
    return FileFacts(
        reader.source.source,
        tuple(_series_facts(n, series) for n, series in enumerate(listing.series, listing.first)),
        {name: value or None for name, value in metadata.items()}, "; ".join(listing.defects),
        listing.has_mask, None if main is None else _series_facts(0, main),
    )  # fmt: skip


def _series_facts(index: int, series: Series) -> SeriesFacts:
    levels = tuple(map(_level_facts, series.levels))
    return SeriesFacts(index, series.kind, series.name, series.axes, levels, series.number)


def _level_facts(level: Level) -> LevelFacts | Exception:
    try:
        return level.to_facts()
    except TiffrefError as error:
        return error


def _open(
    source: Any,
    storage_options: Mapping[str, Any] | None,
    opened: list[Any],
    counts: ProgressCounter | None = None,
) -> ImageFile:
    """Open the file, with the series that the caller passed in; `opened` is what to close later."""
    if hasattr(source, "filehandle") or hasattr(source, "keyframe"):
        return _open_tifffile_object(source, opened)
    data = open_source(source, storage_options)
    if data is not source:
        opened.append(data)
    if is_companion(source):
        opened.append(file := Companion(data, counts))
        return file
    reader = TiffReader(data, counts=counts)
    opened.append(reader)
    from .vendor import open_vendor

    kind = OmeFile if ome_text(reader) is not None else ImageFile
    images = open_vendor(reader) if is_vendor_file(reader) else kind(reader)
    opened.append(images)
    return images


def _open_tifffile_object(source: Any, opened: list[Any]) -> ImageFile:
    """Wrap an open file, page or series of tifffile."""
    from tifffile import TiffPageSeries

    from .vendor import wrap_tifffile

    if hasattr(source, "filehandle"):
        tif, wanted = source, None
    elif isinstance(source, TiffPageSeries):
        tif, wanted = source.parent or source.keyframe.parent, source
    else:
        tif = source.parent
        wanted = TiffPageSeries([source], parent=tif, kind="page")
    with tifffile_errors(str(tif.filehandle.path)):
        vendor = wrap_tifffile(tif)
        opened += [vendor.reader.source, vendor]
        if wanted is not None:
            vendor.given = vendor.convert([wanted])
            return vendor
        is_plain = (tif.is_imagej or tif.is_shaped) and not is_vendor_file(vendor.reader)
        return ImageFile(vendor.reader) if is_plain else vendor


# ---- selection


def _select(
    file: ImageFile,
    series: int | None,
    key: int | slice | Sequence[int] | None,
    level: int | None,
) -> Listing:
    if key is not None and series is None:
        main = _pages_series(file, 0) if file.is_vendor else None
        return Listing([_pages_series(file, key)], main=main)
    listing = _list(file)
    if series is None:
        return listing
    first = find_index(series, len(listing.series), "series", file.url)
    selected = listing.series[first]
    if key is not None:
        last = find_index(level or 0, len(selected.levels), "level", file.url)
        planes = [_planes(one, key, file.url) for one in selected.levels[: last + 1]]
        return Listing([replace(selected, kind="page", levels=planes)], first=first)
    plain = [one for one in listing.series if one.kind in ("geotiff", "generic")]
    has_mask = any(one.subfile_type & MASK_BIT for one in plain if one is not selected)
    is_secondary = first > 0 and find_role(selected.name, selected.subfile_type) != "image"
    main = listing.series[0] if is_secondary else None
    return replace(listing, series=[selected], has_mask=has_mask, first=first, main=main)


def _planes(level: Level, key: Any, url: str) -> Level:
    """Stack the planes of a level that `key` selects."""
    indices, (pages, row) = _indices(key, len(level.row), url), level.first
    shape, axes = pages.shape(row)
    file, segments = level.file, level.segments
    return Level(
        level.pages, level.row[indices], (len(indices), *shape), f"I{axes}",
        None if file is None else file[indices],
        segments=None if segments is None else (segments[0][indices], segments[1][indices]),
    )  # fmt: skip


def _pages_series(file: ImageFile, key: Any) -> Series:
    """Stack the pages that `key` selects, as `imread(file, key=key)` does."""
    is_one = isinstance(key, int | np.integer) and key >= 0
    offsets = file.reader.chain(int(key) + 1 if is_one else None)
    indices = _indices(key, len(offsets), file.url)
    return Series("page", [stack_pages(Pages(file.reader, offsets), indices)])


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
        else:
            keys = [key] if isinstance(key, int | np.integer) else key
            indices = [range(n)[int(k)] for k in keys]
    except (IndexError, TypeError, ValueError) as error:
        raise no_such_index("page", key, n, url) from error
    if not indices:
        raise SelectionError("key selects no page", url=url, got=key, expected="at least one page")
    return indices


def _format_pages(key: int | slice | Sequence[int]) -> str:
    """Return the text of a key: "3", "4,1" or "0:10:2"."""
    if isinstance(key, slice):
        parts = (key.start, key.stop, key.step)
        return ":".join("" if part is None else str(int(part)) for part in parts)
    return ",".join(str(int(n)) for n in np.atleast_1d(key))  # type: ignore[arg-type]


def parse_pages(text: str) -> slice | list[int]:
    """Return the pages that a recorded key selects.

    Parameters
    ----------
    text
        Such as "4,1" or "0:10:2".
    """
    if ":" in text:
        return slice(*(int(part) if part else None for part in text.split(":")))
    return [int(part) for part in text.split(",")]


def selection_of(series: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options of `scan` that selected the pages or the level of a document.

    Parameters
    ----------
    series
        Its record of the series, as in `References`.
    """
    row = series[0] if series else {}
    options = {"level": row["level"]} if "level" in row else {}
    pages = row.get("pages", row.get("planes"))
    if pages is not None:
        options["key"] = parse_pages(pages)
    if len(series) == 1 and row.keys() & {"level", "planes"}:
        options["series"] = row["index"]
    return options


# ---- arrays


def _plan_arrays(
    file: ImageFile,
    facts: FileFacts,
    names: Mapping[tuple[int, int], LevelName],
    options: _Options,
) -> tuple[dict[tuple[int, int], Array], tuple[dict[str, Any], ...]]:
    """Plan the arrays of all levels, and record the result for each series."""
    arrays: dict[tuple[int, int], Array] = {}
    provenance: list[dict[str, Any]] = []
    refusals = []
    for position, series in enumerate(facts.series):
        levels: list[dict[str, Any]] = []
        for n, level in enumerate(series.levels):
            if options.level not in (None, n):
                continue
            n_cut = 0
            try:
                if isinstance(level, Exception):
                    raise level
                if options.allow_holes and not options.strict:
                    level, n_cut = without_truncated(level, file)
                _check_planes(facts, series, level, options)
                name = names[position, n]
                full = arrays.get((position, 0))
                arrays[position, n] = _plan_array(file, series, level, name, options, full)
            except TiffrefError as error:
                error.url = error.url or facts.source.url
                refusals.append(error)
                levels.append({"refused": f"{type(error).__name__}: {error}"})
                continue
            levels.append({"path": name.path})
            if n_holes := _count_holes(level):
                missing = {"missing_pages": n_holes, "missing_files": _missing_files(facts)}
                levels[-1].update(missing)
            if n_cut:
                levels[-1]["truncated_segments"] = n_cut
                what = f"{n_cut} segments of {name.path!r} are cut off by the end of the file"
                truncation = MalformedTiff(f"{what}, and are missing", url=facts.source.url)
                options.report.add_damage(truncation)
        record = {name: getattr(series, name) for name in ("index", "kind", "name", "axes")}
        provenance.append({**record, "levels": levels})
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
    if options.strict or (is_lost and not options.allow_holes):
        raise refusals[0]
    more = f" {len(refusals) - 1} more levels are left out." if len(refusals) > 1 else ""
    warn(TruncationWarning(f"A level is left out: {refusals[0]}{more}"))


def _plan_array(
    file: ImageFile,
    series: SeriesFacts,
    level: LevelFacts,
    name: LevelName,
    options: _Options,
    full_array: Array | None,
) -> Array:
    """Plan one level, and check the plan against some segments."""
    report, ifd = options.report, level.ifds[0]
    array = checked_array(
        level, name.dims, options.is_native, file, report, full_array,
        allows_holes=options.allow_holes,
    )  # fmt: skip
    if ifd.dtype is None and level.offset.any() and 0 not in ifd.shape:
        got = f"{', '.join(map(str, ifd.bits))} bits, SampleFormat {ifd.sample_format}"
        what = "no dtype can hold these samples: the array is empty"
        report.add_damage(MalformedTiff(what, url=report.url, tag="BitsPerSample (258)", got=got))
    if options.fillvalue is not None and name.role == "image":
        return array.with_fill_value(options.fillvalue)
    full = series.levels[0].ifds[0] if isinstance(series.levels[0], LevelFacts) else ifd
    # some overviews lack the tag
    return _with_nodata(array, ifd, ifd.tags.get(42113, full.tags.get(42113)), report)


def _with_nodata(array: Array, ifd: IfdFacts, nodata: Any, report: Report) -> Array:
    """Set the fill value, and what pads cropped segments, to GDAL's nodata."""
    if nodata is None:
        return array
    # complex integers are read as floating-point numbers, and can have fewer values
    is_integer = ifd.sample_format == 5 and array.dtype.kind == "c"
    samples = np.dtype(f"i{ifd.bits[0] // 16}") if is_integer else array.dtype
    fill, nearest = parse_nodata(nodata, samples, report)
    is_exact = fill != fill or (fill or 0) == (nearest or 0)  # the first is NaN
    if not is_exact and array.manifest.is_missing.any():
        report.note(
            "GDAL_NODATA (42113)",
            f"no sample can have this value: missing segments read as {nearest}, as in GDAL,"
            f" and readers treat samples of {nearest} as missing",
            hint="Pass fillvalue= to choose another value.",
        )
        fill = nearest
    if fill is None:
        return array
    codecs = tuple([
        replace(one, fill=fill.real or None) if isinstance(one, SegmentCodec) and one.edge else one
        for one in array.codecs
    ])  # fmt: skip
    return replace(array, codecs=codecs, fill_value=fill)


def _check_planes(
    facts: FileFacts, series: SeriesFacts, level: LevelFacts, options: _Options
) -> None:
    """Raise if planes are missing; warn of those that an acquisition planned but did not write.

    An index of what was acquired is incomplete if it names files that are missing.
    """
    if options.allow_holes:
        return
    n_holes, is_sparse = _count_holes(level), series.kind in _SPARSE_KINDS
    files = _missing_files(facts) if n_holes and (len(level.sources) > 1 or not is_sparse) else []
    if n_holes and (files or not is_sparse):
        raise MalformedTiff(
            f"{n_holes} of {len(level.ifd)} pages are missing",
            got=", ".join(files[:3]) or None,
            hint="Put all files of the set in one folder, or leave holes with allow_holes=True.",
        )
    what = f"{n_holes} of {len(level.ifd)} planes were never written" if n_holes else ""
    if not what and series.kind == "mmstack":
        what = _unwritten_planes(facts, level)
    if what:
        options.report.add_damage(MalformedTiff(what, url=facts.source.url))


def _count_holes(level: LevelFacts) -> int:
    if len(level.ifd) == 1:
        return 0  # a level has at least one page
    return int(np.count_nonzero(level.ifd < 0))


def _unwritten_planes(facts: FileFacts, level: LevelFacts) -> str:
    """Describe the planes that Micro-Manager planned but did not write; "" if all exist."""
    summary = (facts.metadata.get("micromanager") or {}).get("Summary") or {}
    short = []
    for key, axis in _PLANNED_SIZES.items():
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


def _report_findings(file: ImageFile, options: _Options) -> None:
    """Warn of all findings of the readers, or raise the first one if strict.

    Of each tag of each IFD, only the first finding is reported. If only some pages were selected, a
    broken chain does not matter.
    """
    distinct: dict[tuple[str, str, Any], IfdFinding] = {}
    for reader in (file.reader, *file.others()):
        for finding in reader.findings:
            if options.key is None or finding.tag != "next IFD":
                distinct.setdefault((finding.url, finding.ifd, finding.tag), finding)
    for finding in [*distinct.values()][:_MAX_REPORTED]:
        options.report.add_damage(finding.to_error(), loses_pixels=finding.loses_pixels)
