"""One TIFF to references: `scan`.

Owns the order of a scan: open, read facts, plan arrays, look at a few segments, name the arrays and
describe them. All else is done by the rooms it calls. What comes of a scan depends on the file and
the options alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffPage, TiffPageSeries

from ..errors import MalformedTiff, SelectionError, TiffrefError
from ..metadata.describe import describe
from ..metadata.gdal import parse_nodata
from ..metadata.layout import LevelName, name_levels
from ..metadata.report import Report
from ..model.array import Array, given_attributes
from ..model.facts import FileFacts, LevelFacts, SeriesFacts
from ..references import References
from .companion import is_companion, missing_members, open_companion
from .opening import open_tiff
from .probe import checked_array
from .reader import OpenTiff
from .talk import PARSE_ERRORS, typed_errors

__all__ = ["scan", "scan_with_facts"]

_SPARSE_KINDS = frozenset({"ndtiff", "mmstack"})
"""Series with an index of what was acquired: positions without a page are not missing files, unless
the files of the set name others."""


@dataclass(frozen=True, slots=True)
class _Options:
    is_native: bool
    fill_value: Any
    layout: str
    level: int | None
    is_strict: bool
    allows_holes: bool


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
    storage_options: Mapping[str, Any] | None = None,
) -> References:
    """Find where the bytes of a TIFF are.

    Parameters
    ----------
    source
        Path, URL, fsspec OpenFile, open binary file, or tifffile's `TiffFile`, `TiffPage` or
        `TiffPageSeries`; or the path of the companion file of an OME-TIFF set.
    series
        Index of the one series wanted; all by default.
    level
        Index of the one pyramid level wanted (0 is full size); all by default.
    key
        Page or pages wanted, instead of a series: an index, a slice or indices.
    chunkmode
        None puts contiguous uncompressed strips and pages together to chunks of some MiB;
        "strile" or "tile" gives a chunk for each strip or tile as stored.
    fillvalue
        Value of missing chunks, instead of the file's nodata value.
    zattrs
        Attributes to add at the root.
    layout
        "dataset": all arrays side by side, `image`, `image_1`, ... "tree": a group for each level.
        In Zarr v3, pyramids of microscopes are always trees, as OME-NGFF 0.5 has them.
    axes
        Order of axes: "as-stored"; "ngff" (t, c, z, y, x); "bands-first" (band, y, x). By default
        as stored, but that Zarr v3 documents have microscopes in the order of OME-NGFF.
    strict
        Raise where metadata makes no sense; by default it is warned of (`MetadataWarning`) and left
        out, for the pixels are right.
    allow_holes
        Leave chunks missing where a file of a multi-file set is not there; `References.series`
        names the files. By default that is an error.
    storage_options
        For the fsspec file system of a URL.

    Returns
    -------
    References to every array that can be represented exactly; `References.series` has the reason
    why others cannot.

    Raises
    ------
    SourceError
        If the source cannot be read.
    MalformedTiff
        If it is not a TIFF, or is damaged so that nothing of it can be located; with `strict`, if
        its metadata makes no sense.
    UnsupportedTiff
        If references can express nothing of it.
    """
    added = given_attributes(zattrs)
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
        storage_options=storage_options,
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
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[References, FileFacts]:
    """Scan a file as `scan` does, and return what was read of its tags besides."""
    native = str(getattr(chunkmode, "name", chunkmode)).lower() in ("0", "strile", "tile")
    options = _Options(native, fillvalue, layout, level, strict, allow_holes)
    report = Report(str(source), strict)
    with ExitStack() as stack:
        stack.enter_context(typed_errors(str(source)))
        tiff, wanted = _open(source, storage_options, stack)
        facts = _select(tiff, wanted, series, level, key)
        if level is not None and level < 0:
            options = replace(options, level=level + len(facts.series[0].levels))
        report.url = facts.source.url
        names = name_levels(facts, options.layout, options.level)
        arrays, provenance = _plan_arrays(tiff, facts, names, options, report)
        group = describe(facts, names, arrays, report)
    return References(group, provenance), facts


def _open(
    source: Any, storage_options: Mapping[str, Any] | None, stack: ExitStack
) -> tuple[OpenTiff, Any]:
    """Open the file until the stack is left; give what of it was handed in, or None for all."""
    wanted: Any = None
    if is_companion(source):
        where, wanted = stack.enter_context(open_companion(source))
    elif isinstance(source, TiffPageSeries):
        where, wanted = source.parent or source.keyframe.parent, source
    elif isinstance(source, TiffPage) or hasattr(source, "keyframe"):
        where, wanted = source.parent, source
    else:
        where = source
    return stack.enter_context(open_tiff(where, storage_options)), wanted


def _select(
    tiff: OpenTiff,
    wanted: Any,
    series: int | None,
    level: int | None,
    key: int | slice | Sequence[int] | None,
) -> FileFacts:
    """Read the facts of what was asked for."""
    if isinstance(wanted, list) and key is None:
        facts = tiff.facts_of(wanted)
        if series is not None:
            facts = replace(facts, series=(_pick(facts.series, series, "series", facts),))
    elif key is not None or wanted is not None:
        if wanted is None:
            wanted = _page_series(tiff, key, series)
        elif not isinstance(wanted, TiffPageSeries):
            wanted = TiffPageSeries([wanted], parent=tiff.tif, kind="page")
        facts = tiff.facts_of([wanted])
    else:
        facts = tiff.facts()
        if series is not None:
            facts = replace(facts, series=(_pick(facts.series, series, "series", facts),))
    if level is not None:
        for one in facts.series:
            _pick(one.levels, level, "level", facts)
    return facts


def _pick(items: Sequence[Any], index: int, what: str, facts: FileFacts) -> Any:
    try:
        return items[index]
    except (IndexError, TypeError):
        raise SelectionError(
            f"no such {what}", url=facts.source.url, got=index, expected=f"less than {len(items)}"
        ) from None


def _page_series(tiff: OpenTiff, key: Any, series: int | None) -> TiffPageSeries:
    """Stack the pages that `key` selects, as `imread(file, key=key)` does."""
    try:
        pages = tiff.tif.pages if series is None else tiff.tif.series[series]
        if isinstance(key, int | np.integer):
            return TiffPageSeries([pages[int(key)]], parent=tiff.tif, kind="page")
        indices = range(len(pages))[key] if isinstance(key, slice) else [int(k) for k in key]
        chosen = [pages[n] for n in indices]
    except PARSE_ERRORS as error:
        raise SelectionError(
            "no such page", url=tiff.source.source.url, got=key, hint=str(error)
        ) from error
    first = chosen[0].keyframe if chosen and chosen[0] is not None else None
    if first is None:
        raise SelectionError("selects no page", url=tiff.source.source.url, got=key)
    if len(chosen) == 1:
        return TiffPageSeries(chosen, parent=tiff.tif, kind="page")
    return TiffPageSeries(
        chosen,
        (len(chosen), *first.shape),
        first.dtype,
        f"I{first.axes}",
        parent=tiff.tif,
        kind="page",
    )


def _plan_arrays(
    tiff: OpenTiff,
    facts: FileFacts,
    names: Mapping[tuple[int, int], LevelName],
    options: _Options,
    report: Report,
) -> tuple[dict[tuple[int, int], Array], tuple[dict[str, Any], ...]]:
    """Plan the arrays of all levels, and record what became of each series."""
    arrays: dict[tuple[int, int], Array] = {}
    provenance, refusals = [], []
    for position, one in enumerate(facts.series):
        levels: list[dict[str, Any]] = []
        for n, level in enumerate(one.levels):
            if options.level not in (None, n):
                continue
            try:
                name = names.get((position, n))
                arrays[position, n] = _array(tiff, one, level, name, options, report)
            except TiffrefError as error:
                error.url = error.url or facts.source.url
                refusals.append(error)
                levels.append({"refused": f"{type(error).__name__}: {error}"})
                continue
            levels.append({"path": names[position, n].path, **_holes(tiff, one, level)})
        provenance.append(
            {
                "index": one.index,
                "kind": one.kind,
                "name": one.name,
                "axes": one.axes,
                "levels": levels,
            }
        )
    if not arrays:
        raise refusals[0]
    return arrays, tuple(provenance)


def _array(
    tiff: OpenTiff,
    series: SeriesFacts,
    level: LevelFacts | Exception,
    name: LevelName | None,
    options: _Options,
    report: Report,
) -> Array:
    """Plan one level, and correct the plan by a look at its segments."""
    if isinstance(level, Exception):
        raise level
    assert name is not None
    missing = _count_lost(tiff, series, level)
    if missing and not options.allows_holes:
        raise MalformedTiff(
            f"{missing} of {len(level.ifd)} pages are missing",
            got=", ".join(_missing_files(tiff)[:3]) or None,
            hint="Put all files of the set side by side, or leave holes with allow_holes=True.",
        )
    array = checked_array(level, name.dims, options.is_native, tiff)
    _report_no_samples(level, report)
    if options.fill_value is not None and name.role == "image":
        return array.with_fill_value(options.fill_value)
    full = series.levels[0] if isinstance(series.levels[0], LevelFacts) else level
    fill, nearest = parse_nodata(full.ifds[0].tags.get(42113), array.dtype, report)
    if fill is None and nearest and array.manifest.is_missing.any():
        report.note(
            "GDAL_NODATA (42113)",
            f"no sample can have the value: missing segments are {nearest}, as in GDAL,"
            " and readers take such samples for missing",
            hint="fill_value= gives another value.",
        )
        fill = nearest
    return replace(array, fill_value=fill)


def _report_no_samples(level: LevelFacts, report: Report) -> None:
    """Report an image of which nothing can be given: no data type holds its samples."""
    ifd = level.ifds[0]
    if ifd.dtype is None and level.offset.any() and math.prod(ifd.shape):
        report.add(
            "BitsPerSample (258)",
            "no data type holds these samples: the array is empty",
            got=f"{', '.join(map(str, ifd.bits))} bits, SampleFormat {ifd.sample_format}",
        )


def _holes(tiff: OpenTiff, series: SeriesFacts, level: LevelFacts | Exception) -> dict[str, Any]:
    """Report the pages of a level that no file has, for its record."""
    missing = _count_lost(tiff, series, level) if isinstance(level, LevelFacts) else 0
    if not missing:
        return {}
    return {"missing_pages": missing, "missing_files": _missing_files(tiff)}


def _count_lost(tiff: OpenTiff, series: SeriesFacts, level: LevelFacts) -> int:
    """Count the pages of files that are not there; positions never acquired are none of them."""
    is_index_whole = len(level.sources) < 2 or not _missing_files(tiff)
    if series.kind in _SPARSE_KINDS and is_index_whole:
        return 0
    return int((level.ifd < 0).sum())


def _missing_files(tiff: OpenTiff) -> list[str]:
    """Name the members of an OME-TIFF set that are not there."""
    folder = Path(tiff.source.source.url).parent
    return missing_members(tiff.metadata().get("ome"), str(folder))
