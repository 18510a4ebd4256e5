"""Many files to references: `scan_sequence`.

Owns the order of the work: find the files, read their names, scan them, compare them, and put their
arrays together with the coordinates beside them. How columns are combined is `model.combine`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SelectionError, TiffrefError
from ..metadata.gdal import with_bands
from ..metadata.report import Report
from ..model.array import Array, Group, given_attributes
from ..references import References
from .assemble import MAX_REPORTED, METADATA, Plan, combine, compare
from .coordinates import Axis, make_axis, order_axes
from .file_scans import Part, Progress, read_dates, scan_files, unreadable
from .inputs import list_files, read_fields
from .plates import PLATE_AXES, to_plate

_MODES = ("error", "split", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOptions:
    """Further options of `scan_sequence`, given by name.

    Attributes
    ----------
    formats
        Field -> "int", "float", "str" or a format of `strptime`.
    axesorder
        Order of the new axes, by name or by place in the pattern.
    categories
        Field -> {label: index}, which orders labels.
    time_from
        Take an axis `time` from the files: "DateTime" (tag 306) or "AcquisitionDate" (OME-XML).
    series, level, key, chunkmode, fillvalue
        For each file, as in `scan`; by default the first series with all its levels.
    sidecars
        Read what lies beside each file, as in `scan`.
    assets
        Keys of the assets of STAC items.
    workers
        Threads; by default 1 for local files, 16 for remote ones.
    progress
        Called with the number of files done and of all; True draws a bar on a terminal.
    """

    formats: Mapping[str, str] | None = None
    axesorder: Sequence[str | int] | None = None
    categories: Mapping[str, Mapping[str, int]] | None = None
    time_from: str | None = None
    series: int | None = 0
    level: int | None = None
    key: int | slice | Sequence[int] | None = None
    chunkmode: Any = None
    fillvalue: Any = None
    sidecars: bool | None = None
    assets: Sequence[str] | None = None
    workers: int | None = None
    progress: Progress | bool | None = None


def scan_sequence(
    files: Any,
    *,
    pattern: str | None = None,
    concat: str | Mapping[str, str] | None = None,
    mosaic: bool = False,
    on_mismatch: str = "error",
    ignore: Sequence[str] = (),
    allow_holes: bool = False,
    zattrs: Mapping[str, Any] | None = None,
    axes: str | None = None,
    layout: str = "dataset",
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> References:
    """Combine many TIFF files into references to one array with coordinates.

    Parameters
    ----------
    files
        Paths or URLs; a glob or readable pattern; a CSV file, DataFrame or mapping of columns; STAC
        items; tifffile's `FileSequence`.
    pattern
        How to read coordinates from file names: `"S2A_{tile}_{time:%Y%m%d}_{band}.tif"`, a regular
        expression with named groups, a glob, or a preset ("sentinel-2", "landsat", "modis",
        "cellvoyager", "opera", "incell", "micromanager", "axes"). By default files are numbered.
    concat
        Existing dimension along which to join the files, instead of stacking them on a new axis;
        for several dimensions, a mapping of field to dimension.
    mosaic
        Place files next to each other along y and x by their georeference.
    on_mismatch
        What to do if files do not combine. "error" raises. "split" makes a group `part_0`,
        `part_1`, ... for each set of files that do. "decode" accepts files that differ only in how
        they are stored; the array can be read but not exported.
    ignore
        Differences to ignore: "georeference", "nodata" or both. The first file's value is used.
    allow_holes
        Leave chunks missing if there is no file for them or it cannot be read, and list them in
        `References.series`. By default this is an error.
    zattrs
        Attributes to add at the root.
    axes
        Order of all axes, including those of the files, as in `scan`.
    layout
        "dataset" makes one array with a coordinate for each axis. "hcs" makes an OME-NGFF plate
        with a group for each well and field; names need the fields `row` and `column` (or `well`)
        and may have `field`. Wells without files are left out.
    storage_options
        Options of the fsspec file system, if the files are URLs.
    options
        Further options; see `SequenceOptions` for their names and defaults.

    Returns
    -------
    References with `image`, `image_1`, ... and a coordinate for each new axis, whose values are
    sorted.

    Raises
    ------
    SourceError
        If there are no files, or some cannot be read.
    ManifestMismatch
        If files do not combine, two have the same coordinates, some are missing, or names do not
        match the pattern.
    SelectionError
        If the options contradict each other.
    """
    more = SequenceOptions(**options)
    is_plate = _is_plate(layout, mosaic, on_mismatch)
    plan = _plan(concat, mosaic, on_mismatch, ignore, allow_holes or is_plate)
    plan = replace(plan, plate=PLATE_AXES) if is_plate else plan
    listed = list_files(files, assets=more.assets, storage_options=storage_options)
    text = pattern or listed.pattern
    fields = read_fields(listed, pattern, more.formats)
    how = {
        "series": None if more.key is not None else more.series,
        "level": more.level,
        "key": more.key,
        "chunkmode": more.chunkmode,
        "fillvalue": more.fillvalue,
        "sidecars": more.sidecars,
        "storage_options": storage_options,
    }
    parts, failures = scan_files(listed.urls, how, workers=more.workers, progress=more.progress)
    if failures and (not allow_holes or len(failures) == len(parts)):
        raise unreadable(failures, listed.urls)
    for n, bands in enumerate(listed.bands):
        if bands and (part := parts[n]) is not None:
            report = Report(part.url)
            arrays = {path: with_bands(array, bands, report) for path, array in part.arrays.items()}
            parts[n] = replace(part, arrays=arrays)
    if more.time_from is not None:
        # a file that cannot be read has no date, and so no place
        here = [n for n, part in enumerate(parts) if part is not None]
        readable = [part for part in parts if part is not None]
        fields = {name: values[here] for name, values in fields.items()}
        fields = {"time": read_dates(readable, more.time_from), **fields}
        parts = [*readable]
    record = {
        "pattern": text,
        "formats": dict(more.formats or {}),
        "time_from": more.time_from,
        "concat": dict(plan.concat),
        **_report(failures, listed.urls),
    }
    built = _build(parts, fields, more.axesorder, more.categories, plan, record)
    if is_plate:
        return to_plate(built[0], allow_holes).with_attributes(**given_attributes(zattrs))
    return _finish([one.with_axes(axes) for one in built], given_attributes(zattrs))


def stack_arrays(
    files: Any,
    describe: Callable[[Sequence[str]], Sequence[Array]],
    *,
    pattern: str | None = None,
    formats: Mapping[str, str] | None = None,
    axesorder: Sequence[str | int] | None = None,
    categories: Mapping[str, Mapping[str, int]] | None = None,
    allow_holes: bool = False,
    zattrs: Mapping[str, Any] | None = None,
    assets: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> References:
    """Stack files that are no TIFF, as `scan_sequence` does with those that are.

    Parameters
    ----------
    describe
        Gives the array of each of the files.
    """
    plan = Plan(allow_holes=allow_holes)
    listed = list_files(files, assets=assets, storage_options=storage_options)
    text = pattern or listed.pattern
    fields = read_fields(listed, pattern, formats)
    series = ({"index": 0, "kind": "file", "levels": [{"path": "image"}]},)
    arrays = describe(listed.urls)
    model = References(Group({"image": arrays[0]}), series)
    parts = [
        Part(url, array.manifest.sources[0], model, {"image": array})
        for url, array in zip(listed.urls, arrays, strict=True)
    ]
    built = _build(parts, fields, axesorder, categories, plan, {"pattern": text})
    return _finish(built, given_attributes(zattrs))


def _report(failures: Mapping[int, TiffrefError], urls: Sequence[str]) -> dict[str, Any]:
    """Report files that were left out because they cannot be read."""
    rows = [
        {"url": urls[n], "reason": str(error)} for n, error in list(failures.items())[:MAX_REPORTED]
    ]
    return {"n_unreadable": len(failures), "unreadable": rows} if failures else {}


def _build(
    parts: Sequence[Part | None],
    fields: Mapping[str, NDArray],
    axesorder: Sequence[str | int] | None,
    categories: Mapping[str, Mapping[str, int]] | None,
    plan: Plan,
    record: Mapping[str, Any],
) -> list[References]:
    """Make the group of all files that combine: one, or several where they may be split."""
    here = [n for n, part in enumerate(parts) if part is not None]
    names = order_axes(_axis_names(fields, plan, parts[here[0]]), axesorder)
    unknown = sorted(set(categories or {}) - set(names))
    if unknown:
        raise SelectionError("categories name no axis", got=unknown, expected=names)
    kinds = compare([part for part in parts if part is not None], plan)
    built = []
    for members in kinds:
        # the places of files that cannot be read are holes, as long as there is one array
        chosen = [here[n] for n in members] if len(kinds) > 1 else list(range(len(parts)))
        axes = [
            make_axis(name, fields[name][chosen], (categories or {}).get(name))
            if name in fields
            else Axis(name, None, np.arange(len(chosen)), len(chosen))
            for name in names
        ]
        readable = [part for n in chosen if (part := parts[n]) is not None]
        mask = np.array([parts[n] is not None for n in chosen])
        built.append(combine(readable, axes, mask, plan, record))
    return built


def _plan(
    concat: str | Mapping[str, str] | None,
    mosaic: bool,
    on_mismatch: str,
    ignore: Sequence[str],
    allow_holes: bool,
) -> Plan:
    if on_mismatch not in _MODES:
        raise SelectionError("unknown on_mismatch", got=repr(on_mismatch), expected=_MODES)
    unknown = set(ignore) - METADATA
    if unknown:
        raise SelectionError(
            "cannot be ignored: pixels would come out different",
            got=sorted(unknown),
            expected=sorted(METADATA),
        )
    joined = {concat: concat} if isinstance(concat, str) else dict(concat or {})
    if mosaic and joined:
        raise SelectionError("concat and mosaic exclude one another", got=joined)
    return Plan(joined, mosaic, on_mismatch, frozenset(ignore), allow_holes)


def _is_plate(layout: str, mosaic: bool, on_mismatch: str) -> bool:
    if layout not in ("dataset", "hcs"):
        raise SelectionError("no such layout", got=repr(layout), expected="'dataset' or 'hcs'")
    if layout == "hcs" and (mosaic or on_mismatch == "split"):
        raise SelectionError(
            "a plate is neither a mosaic nor split", got=f"mosaic={mosaic}, {on_mismatch=}"
        )
    return layout == "hcs"


def _axis_names(fields: Mapping[str, Any], plan: Plan, part: Part | None) -> list[str]:
    """Name the axes; files that nothing is known of are counted along `i`, or what they join."""
    if fields:
        unknown = sorted(set(plan.concat) - set(fields))
        if unknown:
            raise SelectionError("concat names no field", got=unknown, expected=sorted(fields))
        return list(fields)
    if plan.is_mosaic:
        return []
    taken = {dim for array in part.arrays.values() for dim in array.dims} if part else set()
    return list(plan.concat) or [next(name for name in ("i", "file") if name not in taken)]


def _finish(built: Sequence[References], zattrs: Mapping[str, Any]) -> References:
    if len(built) == 1:
        return built[0].with_attributes(**zattrs)
    children = {f"part_{n}": one.group for n, one in enumerate(built)}
    series = tuple(
        {**row, "levels": [_below(f"part_{n}", level) for level in row["levels"]]}
        for n, one in enumerate(built)
        for row in one.series
    )
    return References(Group(children, dict(zattrs)), series, axes=built[0].axes)


def _below(group: str, level: Mapping[str, Any]) -> dict[str, Any]:
    return {**level, "path": f"{group}/{level['path']}"}
