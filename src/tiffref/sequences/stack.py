"""Scan many files into one array (`scan_sequence`), and add files to it (`append_sequence`).

Runs the steps: list the files, parse their names, scan, compare and combine them. Files that are
already in a sequence are not scanned again; it is only checked that they have not changed.
`model.combine` combines the columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.zarr_codecs import to_zarr2
from ..errors import (
    InvalidReferences,
    ManifestMismatch,
    MetadataWarning,
    SelectionError,
    StaleSource,
    check_arguments,
    checked,
    first_few,
    warn,
)
from ..formats.summary import count
from ..io.allow import AllowList, is_local
from ..io.remote import open_source
from ..io.source import check_unchanged
from ..io.urls import local_path
from ..metadata.gdal import with_bands
from ..metadata.geo import locate, unify_locations
from ..metadata.report import Report
from ..model.array import Array, Group, check_zattrs
from ..model.combine import group_compatible, merge_arrays, mismatch_error, reindex_axis
from ..references import References, damage_of, level_paths, move_series
from ..signatures import public_url
from .assemble import (
    MAX_REPORTED,
    METADATA,
    Plan,
    array_aspects,
    band_orders,
    combine,
    compare,
    describe_place,
)
from .coordinates import (
    Axis,
    has_chunks,
    join_axes,
    make_axis,
    order_axes,
    read_axis,
    read_values,
    warn_of_differing,
)
from .file_scans import (
    Part,
    Progress,
    members_of_sets,
    read_dates,
    scan_files,
    unreadable,
)
from .inputs import FileList, list_files, list_tiffs, read_fields
from .plates import PLATE_AXES, to_plate

_MODES = ("error", "split", "decode")
_SCAN_OPTIONS = ("series", "level", "key", "chunkmode", "fillvalue", "sidecars")
"""Options for scanning each file."""
_AXIS_OPTIONS = ("formats", "axesorder", "categories", "time_from")
"""Options that cannot change when files are added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisOptions:
    """Options of the new axes, given by name.

    Attributes
    ----------
    formats
        Field -> "int", "float", "str" or a format of `strptime`.
    axesorder
        Order of the new axes, by name or by index in the pattern.
    categories
        Field -> {label: index}, which orders labels.
    assets
        Keys of the assets of STAC items.
    """

    formats: Mapping[str, str] | None = None
    axesorder: Sequence[str | int] | None = None
    categories: Mapping[str, Mapping[str, int]] | None = None
    assets: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOptions(AxisOptions):
    """Further options of `scan_sequence`, given by name: those of `AxisOptions` and these.

    Attributes
    ----------
    time_from
        Take an axis `time` from the files: "DateTime" (tag 306) or "AcquisitionDate" (OME-XML).
    series, level, key, chunkmode, fillvalue
        For each file, as in `scan`; by default the first series with all its levels.
    sidecars
        Read sidecar files, as in `scan`.
    workers
        Threads; by default 1 for local files, 16 for remote ones.
    progress
        Called with the number of files done and the total; True draws a bar on a terminal.
    """

    time_from: str | None = None
    series: int | None = 0
    level: int | None = None
    key: int | slice | Sequence[int] | None = None
    chunkmode: Any = None
    fillvalue: Any = None
    sidecars: bool | None = None
    workers: int | None = None
    progress: Progress | bool | None = None


@checked(SequenceOptions)
def scan_sequence(
    files: Any,
    *,
    pattern: str | None = None,
    concat: str | Mapping[str, str] | None = None,
    mosaic: bool = False,
    on_mismatch: str = "error",
    ignore: str | Sequence[str] = (),
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

    Examples
    --------
    >>> import tiffref
    >>> cube = tiffref.scan_sequence("S2_{time:%Y%m%d}_{band}.tif")
    >>> cube.group["image"].dims
    ('time', 'band', 'y', 'x')
    """
    more = SequenceOptions(**options)
    plan = _plan(concat, mosaic, on_mismatch, ignore, allow_holes, layout)
    listed = list_tiffs(files, more.assets, storage_options)
    text = pattern or listed.pattern
    fields = _read_fields(listed, pattern, more)
    scan_options = {name: getattr(more, name) for name in _SCAN_OPTIONS}
    scan_options |= {"storage_options": storage_options}
    scan_options |= {} if more.key is None else {"series": None}
    parts, failures = scan_files(
        listed.urls, scan_options, workers=more.workers, progress=more.progress, allow=listed.allow
    )
    if failures and (not allow_holes or len(failures) == len(parts)):
        raise unreadable(failures, listed.urls)
    masked = [part.url for part in parts if part is not None and part.has_mask]
    if masked:
        what = f"The masks of {len(masked)} of {len(parts)} files are left out: {first_few(masked)}"
        hint = "If all files have a mask, series=None also stacks masks, series=1 only masks."
        warn(MetadataWarning(f"{what}. {hint}"))
    if repeated := members_of_sets(parts):
        what = f"{len(repeated)} of {len(parts)} files are read with other files of the list"
        hint = (
            "They are sets, such as OME-TIFF: their planes are repeated. Scan one file of each set."
        )
        warn(MetadataWarning(f"{what}: {first_few(repeated)}. {hint}"))
    for n, bands in enumerate(_without_differing_units(listed.bands)):
        if bands and (part := parts[n]) is not None:
            report = Report(part.url)
            arrays = {path: with_bands(array, bands, report) for path, array in part.arrays.items()}
            parts[n] = replace(part, arrays=arrays)
    if more.time_from is not None:
        # a file that cannot be read has no date, so it is dropped
        is_read = np.array([part is not None for part in parts])
        fields = {name: values[is_read] for name, values in fields.items()}
        readable = [part for part in parts if part is not None]
        fields, parts = {"time": read_dates(readable, more.time_from), **fields}, [*readable]
    record: dict[str, Any] = {
        "pattern": text,
        "formats": dict(more.formats or {}),
        "time_from": more.time_from,
        "concat": dict(plan.concat),
    }
    if failures:
        first = [*failures.items()][:MAX_REPORTED]
        rows = [{"url": public_url(listed.urls[n]), "reason": str(error)} for n, error in first]
        record |= {"n_unreadable": len(failures), "unreadable": rows}
    built = _build(parts, fields, more, plan, record)
    if plan.plate:
        return to_plate(built[0], allow_holes).with_attributes(**check_zattrs(zattrs))
    return _finish([references.with_axes(axes) for references in built], check_zattrs(zattrs))


def _without_differing_units(bands: Sequence[Any]) -> Sequence[Any]:
    """Leave out units in STAC items that differ or that some lack: no reason to refuse files."""
    if len({tuple(band.get("unit") for band in row) for row in bands}) <= 1:
        return bands
    return [[{k: v for k, v in band.items() if k != "unit"} for band in one] for one in bands]


def stack_arrays(
    files: Any,
    describe: Callable[[Sequence[str]], Sequence[Array]],
    *,
    pattern: str | None = None,
    allow_holes: bool = False,
    zattrs: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> References:
    """Stack files of other formats, like `scan_sequence` does for TIFFs.

    Parameters
    ----------
    describe
        Returns the array of each file.
    options
        As in `AxisOptions`.
    """
    check_arguments(options, stack_arrays, AxisOptions)
    more = AxisOptions(**options)
    plan = Plan(allow_holes=allow_holes)
    listed = list_files(files, assets=more.assets, storage_options=storage_options)
    text = pattern or listed.pattern
    fields = _read_fields(listed, pattern, more)
    series = ({"index": 0, "kind": "file", "levels": [{"path": "image"}]},)
    arrays = describe(listed.urls)
    model = References(Group({"image": arrays[0]}), series)
    parts = [
        Part(url, array.manifest.sources[0], model, {"image": array})
        for url, array in zip(listed.urls, arrays, strict=True)
    ]
    built = _build(parts, fields, more, plan, {"pattern": text})
    return _finish(built, check_zattrs(zattrs))


def _read_fields(listed: FileList, pattern: str | None, options: AxisOptions) -> dict[str, NDArray]:
    """Return the fields; digits stay text if the categories list them that way ("001")."""
    categories = options.categories or {}

    def read(name: str, column: Sequence[Any], kind: str | None) -> NDArray:
        if kind is None and set(column) <= set(categories.get(name, ())):
            kind = "str"
        return read_values(name, column, kind)

    return read_fields(listed, pattern, options.formats, read)


def _build(
    parts: Sequence[Part | None],
    fields: Mapping[str, NDArray],
    options: AxisOptions,
    plan: Plan,
    record: Mapping[str, Any],
) -> list[References]:
    """Build the references of each group of files that combine."""
    here = [n for n, part in enumerate(parts) if part is not None]
    names = order_axes(_axis_names(fields, plan, parts[here[0]]), options.axesorder)
    categories = options.categories or {}
    unknown = sorted(set(categories) - set(names))
    if unknown:
        raise SelectionError("categories for unknown axes", got=unknown, expected=names)
    groups = compare([part for part in parts if part is not None], plan)
    built = []
    for members in groups:
        # files that cannot be read become holes, unless the files are split into several arrays
        chosen = [here[n] for n in members] if len(groups) > 1 else list(range(len(parts)))
        axes = [
            make_axis(name, fields[name][chosen], categories.get(name))
            if name in fields
            else Axis.numbered(name, len(chosen))
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
    ignore: str | Sequence[str],
    allow_holes: bool,
    layout: str,
) -> Plan:
    if layout not in ("dataset", "hcs"):
        raise SelectionError("unknown layout", got=repr(layout), expected="'dataset' or 'hcs'")
    is_plate = layout == "hcs"
    if is_plate and (mosaic or on_mismatch == "split"):
        raise SelectionError(
            "layout='hcs' cannot be combined with mosaic or on_mismatch='split'",
            got=f"mosaic={mosaic}, {on_mismatch=}",
        )
    if on_mismatch not in _MODES:
        raise SelectionError("unknown on_mismatch", got=repr(on_mismatch), expected=_MODES)
    ignored = {ignore} if isinstance(ignore, str) else {*ignore}
    unknown = ignored - METADATA
    if unknown:
        raise SelectionError(
            "these differences cannot be ignored, as they would change pixels",
            got=sorted(unknown),
            expected=sorted(METADATA),
        )
    joined = {concat: concat} if isinstance(concat, str) else dict(concat or {})
    if mosaic and joined:
        raise SelectionError("concat and mosaic cannot be combined", got=joined)
    plate = PLATE_AXES if is_plate else frozenset()
    return Plan(joined, mosaic, on_mismatch, frozenset(ignored), allow_holes or is_plate, plate)


def _axis_names(fields: Mapping[str, Any], plan: Plan, part: Part | None) -> list[str]:
    """Return the names of the axes; files without fields are numbered along `i` or `concat`."""
    if fields:
        unknown = sorted(set(plan.concat) - set(fields))
        if unknown:
            raise SelectionError("concat is not a field", got=unknown, expected=sorted(fields))
        return list(fields)
    if plan.is_mosaic:
        return []
    taken = {dim for array in part.arrays.values() for dim in array.dims} if part else set()
    return list(plan.concat) or [next(name for name in ("i", "file") if name not in taken)]


def _finish(built: Sequence[References], zattrs: Mapping[str, Any]) -> References:
    if len(built) == 1:
        return built[0].with_attributes(**zattrs)
    named = {f"part_{n}": part for n, part in enumerate(built)}
    children = {name: part.group for name, part in named.items()}
    series = tuple(row for name, part in named.items() for row in move_series(part.series, name))
    return References(Group(children, dict(zattrs)), series, axes=built[0].axes)


@checked(SequenceOptions)
def append_sequence(
    references: References | str | os.PathLike[str],
    files: Any,
    *,
    pattern: str | None = None,
    allow_holes: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
    **options: Any,
) -> References:
    """Add files to a sequence.

    Parameters
    ----------
    references
        The result of `scan_sequence`, or a document written from it.
    files
        As in `scan_sequence`. Files that are already in the sequence are skipped.
    pattern
        How to read coordinates from file names. By default the pattern of the sequence is used.
    allow_holes, storage_options
        As in `scan_sequence`.
    allow
        Addresses that the document may read, as in `References.from_kerchunk`. The new files are
        always allowed.
    options
        Further options of `SequenceOptions`, such as `level`, `chunkmode` and `workers`, with the
        values that were used for the sequence. Options of axes cannot be changed.

    Returns
    -------
    The sequence with the new files; the same object if there are none.

    Raises
    ------
    InvalidReferences
        If the references are not those of a sequence.
    StaleSource
        If a file in the sequence has changed since it was scanned.
    ManifestMismatch
        If new files do not combine with the old ones, have coordinates of old ones, or some are
        missing.
    """
    if fixed := sorted(set(options) & set(_AXIS_OPTIONS)):
        raise SelectionError("the axes of a sequence cannot be changed", got=", ".join(fixed))
    if not isinstance(references, References):
        references = References.open(references, storage_options, allow=allow)
    record = _record(references)
    listed = list_tiffs(files, options.get("assets"), storage_options)
    new = _new_files(listed, references, storage_options)
    if not new.urls:
        return references
    added = scan_sequence(
        new,
        pattern=pattern or listed.pattern or record.get("pattern"),
        formats=_formats(references, record),
        axesorder=record["dims"],
        time_from=record.get("time_from"),
        allow_holes=True,
        storage_options=storage_options,
        **options,
    )
    unreadable = added.series[0]["sequence"].get("unreadable")
    if unreadable and not allow_holes:
        raise ManifestMismatch(
            f"{len(unreadable)} new files cannot be scanned",
            got=first_few((row["reason"] for row in unreadable), "; "),
        )
    return _join(references, added, record, allow_holes)


def _record(references: References) -> dict[str, Any]:
    rows = [row["sequence"] for row in references.series if "sequence" in row]
    if len(rows) != 1 or not level_paths(references.series[:1]):
        raise InvalidReferences(
            f"the references contain {len(rows) or 'no'} sequence{'s' * (len(rows) > 1)} of files",
            expected="one" if rows else None,
            hint="Create it with `tiffref stack` or scan_sequence, without splitting it.",
        )
    if rows[0].get("concat") or not rows[0]["dims"]:
        raise SelectionError(
            "files can only be added along new axes",
            got=f"a sequence joined along {sorted(rows[0].get('concat', {}).values())}",
        )
    path, dims = references.main_path, rows[0]["dims"]
    image = references.group[path]
    if "/" in path or not isinstance(image, Array) or list(image.dims[: len(dims)]) != dims:
        raise SelectionError(
            "files can only be added to an array that starts with the axes of the sequence",
            got=f"array '{path}' ({', '.join(getattr(image, 'dims', ()))})",
            expected=f"{', '.join(dims)} first, at the root",
            hint="Scan all files again. Files cannot be added to plates or with other axes orders.",
        )
    return rows[0]


def _formats(references: References, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the types of the axes, since a few new values may look like another type."""
    kinds = {"U": "str", "i": "int", "f": "float"}
    axes = [_axis(references, dim, n) for n, dim in enumerate(record["dims"])]
    formats = {
        axis.name: kinds[axis.values.dtype.kind]
        for axis in axes
        if axis.values is not None and axis.values.dtype.kind in kinds
    }
    return formats | dict(record.get("formats") or {})


def _new_files(
    listed: FileList, references: References, storage_options: Mapping[str, Any] | None
) -> FileList:
    """Return the files that are not in the sequence; raise if any of its files has changed."""
    sources = {source.url: source for source in references.sources}
    allow = None if references.allow is None else AllowList([*references.allow, *listed.urls])
    changed, rows, seen = [], [], set()
    for n, url in enumerate(listed.urls):
        path = local_path(url)
        address = os.path.abspath(path) if is_local(url) else url  # noqa: PTH100 - links stay
        if address in seen:
            continue
        seen.add(address)
        if address not in sources:
            rows.append(n)
            continue
        with closing(open_source(address, storage_options, allow)) as file:
            try:
                check_unchanged(sources[address], file.source)
            except StaleSource:
                changed.append(url)
    if changed:
        raise StaleSource(
            f"{count(len(changed), 'file')} of the sequence changed after the scan",
            got=first_few(changed),
            hint="Update the references with tiffref refresh, or scan the sequence again.",
        )
    columns = {name: [values[n] for n in rows] for name, values in listed.columns.items()}
    bands = [listed.bands[n] for n in rows] if listed.bands else ()
    return FileList([listed.urls[n] for n in rows], columns, bands=bands, allow=allow)


def _join(
    old: References, new: References, record: Mapping[str, Any], allow_holes: bool
) -> References:
    dims = list(record["dims"])
    joined = [join_axes(_axis(old, dim, n), _axis(new, dim, n)) for n, dim in enumerate(dims)]
    axes = [axis for axis, *_ in joined]
    children: dict[str, Array | Group] = dict(old.group.children)
    for path in level_paths(old.series[:1]):
        first, second = old.group[path], _compatible_array(old.group, new.group, path, dims)
        for n, (axis, ours, theirs) in enumerate(joined):
            first = reindex_axis(first, n, ours, axis.length)
            second = reindex_axis(second, n, theirs, axis.length)
        children[path] = merge_arrays(first, second)
    if locate(old.group).is_empty:
        warn_of_differing({"": old.group, new.sources[0].url: new.group}, dims)
    has_file = np.zeros([axis.length for axis in axes], bool)
    added = new.series[0]["sequence"]
    old_file, new_file = _has_file(old, record), _has_file(new, added)
    has_file[np.ix_(*(ours for _, ours, _ in joined))] = old_file
    has_file[np.ix_(*(theirs for *_, theirs in joined))] |= new_file
    empty = np.argwhere(~has_file)
    n_sparse = _count_sparse(old_file, record) + _count_sparse(new_file, added)
    holes = max(0, len(empty) - n_sparse)
    if holes and not allow_holes:
        places = (describe_place(axes, tuple(place)) for place in empty[:MAX_REPORTED])
        raise ManifestMismatch(
            f"{count(holes, 'position')} would have no file",
            got=None if n_sparse else first_few(places, "; "),  # which ones these are is unknown
            hint="Pass allow_holes=True to leave them missing.",
        )
    children |= {axis.name: array for axis in axes if (array := axis.to_array()) is not None}
    n_files = record.get("files", 0) + added["files"]
    rest = {name: value for name, value in record.items() if name != "holes"}
    row = {"sequence": {**rest, "files": n_files, "n_holes": holes}, **damage_of((old, new))}
    series = tuple({**one, **row} for one in old.series)
    allow = None if old.allow is None else (*old.allow, *(source.url for source in new.sources))
    return References(old.group.with_children(children), series, allow)


def _has_file(references: References, record: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return which positions of a sequence have a file; without holes also sparse ones have."""
    image = references.group[references.main_path]
    return has_chunks(image, len(record["dims"])) | (not record.get("n_holes"))


def _count_sparse(has_file: NDArray[np.bool_], record: Mapping[str, Any]) -> int:
    """Return how many of the positions without chunks are sparse files, as the others are holes."""
    return max(0, int(np.count_nonzero(~has_file)) - record.get("n_holes", 0))


def _axis(references: References, dim: str, at: int) -> Axis:
    child = references.group.children.get(dim)
    if isinstance(child, Array):
        return read_axis(dim, child)
    return Axis.numbered(dim, references.group[references.main_path].shape[at])


def _compatible_array(old: Group, new: Group, path: str, dims: Sequence[str]) -> Array:
    """Return the new array at a path; raise if it does not combine with the old one."""
    first, second = old[path], new.children.get(path)
    if not isinstance(second, Array):
        raise ManifestMismatch("the new files lack a level", got=path)
    is_one = len(first.codecs) == len(second.codecs) == 1
    if is_one and to_zarr2(first.codec) == to_zarr2(second.codec):
        second = replace(second, codecs=first.codecs)  # documents do not store all codec fields
    places = unify_locations([locate(group) for group in (old, new)])
    both = first, second
    aspects = [
        {**array_aspects(array, dims), "georeference": place, "bands": order}
        for array, place, order in zip(both, places, band_orders(both), strict=True)
    ]
    groups = group_compatible(aspects)
    if len(groups) > 1:
        raise mismatch_error(groups, [array.manifest.sources[0].url for array in both])
    return second
