"""A Zarr store over one TIFF, or over a reference document.

Owns what a store can be made from, and which of the arrays that a scan gives it shows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..documents import open_references
from ..errors import SelectionError, UnknownArgument, UnsupportedTiff, check_arguments
from ..model.array import Array, Group, given_attributes
from ..model.manifest import INLINED
from ..read.fetch import make_fetcher
from ..references import References, is_document, select_levels
from .keyspace import CHUNKMODE, parse_chunkmode
from .store import ZarrStore

__all__ = ["ZarrTiffStore", "with_values"]


class ZarrTiffStore(ZarrStore):
    """A TIFF as a read-only Zarr store, which reads chunks when they are needed.

    Opened as an array, the store is level 0. Opened as a group, it has all levels and
    `multiscales`. If there is only one level, the store lists the keys of the array.

    Parameters
    ----------
    tifffile
        Path, URL, fsspec OpenFile or open binary file; tifffile's `TiffFile`, `TiffPage` or
        `TiffPageSeries`; or references: `References`, a mapping, or the path or URL of a JSON file
        or of a folder of parquet references.
    key
        Pages to read instead of a series: an index, a slice or a sequence of indices.
    series
        Index of the series. The default is the first.
    level
        Index of the pyramid level. By default the store has all levels.
    chunkmode
        What a chunk is: a `CHUNKMODE` or its name. By default, chunks are as stored, and contiguous
        uncompressed strips and pages are joined. "strile" or "tile": exactly as stored. "plane",
        "page" or "file": whole planes, pages or files, which the store decodes.
    fillvalue
        Value of missing data, instead of the file's nodata value.
    zattrs
        Attributes to add.
    zarr_format
        Zarr format of the metadata. The default is 2, except for documents that need 3. In Zarr v3
        the root is a group, and microscope images follow OME-NGFF 0.5.
    storage_options
        Options of the fsspec file system of a URL.
    verify
        When to check that a file is unchanged since it was scanned: the "first" time that it is
        read, "always", or "never".
    allow
        Prefixes of the addresses that a reference document may read, as in
        `References.from_kerchunk`.
    options
        `axes` is the order of axes, as in `tiffref.scan`. Of a TIFF, other arguments of that
        function, such as `sidecars` and `strict`. `read_only`, which must be true.

    Raises
    ------
    SourceError, MalformedTiff, UnsupportedTiff, InvalidReferences
        If the file cannot be read, is damaged, or cannot be represented by references.
    SelectionError
        If there is no such series, level or page.
    """

    def __init__(
        self,
        tifffile: Any,
        *,
        key: int | slice | Sequence[int] | None = None,
        series: int | None = None,
        level: int | None = None,
        chunkmode: Any = None,
        fillvalue: Any = None,
        zattrs: Mapping[str, Any] | None = None,
        zarr_format: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        verify: str = "first",
        allow: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        if options:
            _check_options(options, is_document(tifffile))
        mode, axes = parse_chunkmode(chunkmode), options.pop("axes", None)
        read_only = options.pop("read_only", True)
        if is_document(tifffile):
            if key is not None:
                raise SelectionError(
                    "a reference document has no pages to choose", got=f"key={key}"
                )
            whole = open_references(tifffile, storage_options, allow=allow)
            if whole.series or series or level is not None:
                whole = select_levels(whole, series or 0, level)
            main = _main_path(whole) if whole.series else _largest(whole.group)
            references = with_values(whole, fillvalue, zattrs)
        else:
            from ..tiff.scan import scan

            is_part = hasattr(tifffile, "keyframe")  # a page or series of tifffile's
            references = scan(
                tifffile,
                series=0 if series is None and key is None and not is_part else series,
                level=level,
                key=key,
                chunkmode="strile" if mode == CHUNKMODE.STRILE else None,
                fillvalue=fillvalue,
                zattrs=zattrs,
                storage_options=storage_options,
                **options,
            )
            main = _main_path(references)
        if axes is not None or zarr_format == 3:
            references = references.with_axes(axes)
            shown = references if zarr_format != 3 else references.laid_out(3)
            main = main if shown.series == references.series else _main_path(shown)
            references = shown
        super().__init__(
            references=references,
            main=main,
            path=_identify(tifffile, references),
            fetch=make_fetcher(tifffile, references, storage_options, verify),
            chunkmode=mode,
            zarr_format=zarr_format,
            read_only=read_only,
        )


def _check_options(options: Mapping[str, Any], is_document: bool) -> None:
    from ..tiff.scan import scan

    check_arguments(options.keys() - {"read_only"}, ZarrTiffStore, scan)
    of_a_scan = sorted(options.keys() - {"axes", "read_only", "sidecars"})
    if is_document and of_a_scan:
        raise UnknownArgument(f"a store over references has no argument '{of_a_scan[0]}'")


def _main_path(references: References) -> str:
    """Return the path of the first level, which must not have been refused."""
    first = references.series[0]["levels"][0]
    if "path" not in first:
        raise UnsupportedTiff(f"level 0 of the series cannot be represented: {first['refused']}")
    return first["path"]


def _largest(group: Group) -> str | None:
    """Return the array of a foreign document that stands for it: the one with most samples."""
    arrays = {path: array for path, array in group.arrays() if path == "" or array.shape}
    return max(arrays, key=lambda path: arrays[path].nbytes) if arrays else None


def with_values(
    references: References, fillvalue: Any, zattrs: Mapping[str, Any] | None
) -> References:
    """Return references with another value for what is missing, and with more attributes."""

    def fill(_: str, array: Array) -> Array:
        # coordinates lie in the document: none of their values is missing
        is_whole = "role" in array.attributes or bool((array.manifest.source == INLINED).all())
        return array if is_whole else array.with_fill_value(fillvalue)

    group = references.group if fillvalue is None else references.group.map_arrays(fill)
    return replace(references, group=group.with_attributes(**given_attributes(zattrs)))


def _identify(source: Any, references: References) -> str:
    """Return the path, URL or other identifier of what a store is made from."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    sources = references.sources
    return sources[0].url if sources else type(source).__name__
