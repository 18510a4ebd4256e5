"""One TIFF to references: `scan`.

Owns the order of a scan: open, read facts, plan arrays, look at a few segments, name the arrays and
describe them. All else is done by the rooms it calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tifffile import TiffPage, TiffPageSeries

from ..conventions.dims import dimension_names
from ..errors import MalformedTiff, SelectionError, TiffrefError, UnsupportedTiff
from ..model.facts import FileFacts, LevelFacts, SeriesFacts
from ..model.node import Array, Group
from ..references import References
from .probe import checked_array
from .reader import PARSE_ERRORS, OpenTiff, open_tiff

__all__ = ["scan"]


_SPARSE_KINDS = frozenset({"ndtiff", "mmstack"})
"""Series with an index of what was acquired: positions without a page are not missing files."""


@dataclass(frozen=True, slots=True)
class _Options:
    is_native: bool
    fill_value: Any
    layout: str


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
    storage_options: Mapping[str, Any] | None = None,
) -> References:
    """Find where the bytes of a TIFF are.

    Parameters
    ----------
    source
        Path, URL, fsspec OpenFile, open binary file, or tifffile's `TiffFile`, `TiffPage` or
        `TiffPageSeries`.
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
    storage_options
        For the fsspec file system of a URL.

    Returns
    -------
    References to every array that can be told exactly; `References.series` says why others cannot.

    Raises
    ------
    SourceError
        If the source cannot be read.
    MalformedTiff
        If it is no TIFF, or is damaged so that nothing of it can be located.
    UnsupportedTiff
        If references can express nothing of it.
    """
    tiff, wanted = _open(source, storage_options)
    with tiff:
        facts = _select(tiff, wanted, series, level, key)
        native = str(getattr(chunkmode, "name", chunkmode)).lower() in ("0", "strile", "tile")
        options = _Options(native, fillvalue, layout)
        return _references(tiff, facts, options, zattrs or {})


def _open(source: Any, storage_options: Mapping[str, Any] | None) -> tuple[OpenTiff, Any]:
    if isinstance(source, TiffPageSeries):
        return open_tiff(source.keyframe.parent if source.parent is None else source.parent), source
    if isinstance(source, TiffPage) or hasattr(source, "keyframe"):
        return open_tiff(source.parent), source
    return open_tiff(source, storage_options), None


def _select(
    tiff: OpenTiff,
    wanted: Any,
    series: int | None,
    level: int | None,
    key: int | slice | Sequence[int] | None,
) -> FileFacts:
    """Read the facts of what was asked for."""
    if key is not None or wanted is not None:
        if wanted is None:
            wanted = _page_series(tiff, key, series)
        elif not isinstance(wanted, TiffPageSeries):
            wanted = TiffPageSeries([wanted], parent=tiff.tif, kind="page")
        one = tiff.series_facts(0, wanted)
        facts = FileFacts(
            tiff.source.source, tiff.tif.byteorder, tiff.tif.is_bigtiff,
            tuple(sorted(tiff.tif.flags)), (one,), tiff.metadata(),
        )  # fmt: skip
    else:
        facts = tiff.facts()
        if series is not None:
            facts = replace(facts, series=(_pick(facts.series, series, "series", facts),))
    if level is not None:
        chosen = tuple(
            replace(one, levels=(_pick(one.levels, level, "level", facts),)) for one in facts.series
        )
        facts = replace(facts, series=chosen)
    return facts


def _pick(items: Sequence[Any], index: int, what: str, facts: FileFacts) -> Any:
    try:
        return items[index]
    except IndexError:
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
    if not chosen:
        raise SelectionError("selects no page", url=tiff.source.source.url, got=key)
    first = chosen[0].keyframe
    if len(chosen) == 1:
        return TiffPageSeries(chosen, parent=tiff.tif, kind="page")
    return TiffPageSeries(
        chosen, (len(chosen), *first.shape), first.dtype, f"I{first.axes}", parent=tiff.tif, kind="page"
    )


def _references(
    tiff: OpenTiff, facts: FileFacts, options: _Options, zattrs: Mapping[str, Any]
) -> References:
    children: dict[str, Array] = {}
    provenance, refusals = [], []
    for position, one in enumerate(facts.series):
        levels: list[dict[str, Any]] = []
        for n, level in enumerate(one.levels):
            suffix = _suffix(position, n)
            try:
                array = _array(tiff, one, level, suffix, options)
            except TiffrefError as error:
                error.url = error.url or facts.source.url
                refusals.append(error)
                levels.append({"refused": f"{type(error).__name__}: {error}"})
                continue
            children[f"image{suffix}"] = array
            levels.append({"path": f"image{suffix}"})
        provenance.append(
            {"index": one.index, "kind": one.kind, "name": one.name, "axes": one.axes, "levels": levels}
        )
    if not children:
        raise refusals[0]
    return References(Group(children, dict(zattrs)), tuple(provenance))


def _suffix(series: int, level: int) -> str:
    return (f"_s{series}" if series else "") + (f"_{level}" if level else "")


def _array(
    tiff: OpenTiff, series: SeriesFacts, level: LevelFacts | Exception, suffix: str, options: _Options
) -> Array:
    """Plan one level, and correct the plan by a look at its segments."""
    if isinstance(level, Exception):
        raise level
    if series.transform is not None:
        raise UnsupportedTiff(f"the transformation of {series.kind} samples", got=series.transform)
    missing = int((level.ifd < 0).sum())
    if missing and series.kind not in _SPARSE_KINDS:
        raise MalformedTiff(
            f"{missing} of {len(level.ifd)} pages are missing",
            hint="Put all files of the set side by side.",
        )
    dims = dimension_names(level.axes, suffix)
    array = checked_array(level, dims, options.is_native, _fetcher(tiff))
    fill = options.fill_value
    if fill is None:
        fill = level.ifds[0].nodata
    return replace(array, fill_value=fill)


def _fetcher(tiff: OpenTiff) -> Any:
    def fetch(url: str, offset: int, length: int) -> bytes:
        there = tiff.source if url == tiff.source.source.url else tiff.sibling(url)
        return there.read(offset, length)

    return fetch
