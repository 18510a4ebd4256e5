"""More files for a sequence that was scanned before: `append_sequence`.

Owns what becomes of files that are in it already (nothing, unless they have changed), and the
joining of old and new. Old files are not scanned again; the file system is only asked whether they
are still what they were, and of those only that are named again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..codecs.zarr_codecs import to_zarr2
from ..errors import (
    InvalidReferences,
    ManifestMismatch,
    SelectionError,
    StaleSource,
    first_few,
)
from ..io.allow import is_local
from ..io.freshness import check_same
from ..io.local import local_path
from ..io.source import open_source
from ..metadata.location import locate, unify_locations
from ..model.array import Array, Group
from ..model.combine import aspects_of, group_compatible, merge, mismatch, reindex
from ..model.manifest import Source
from ..read.progress import Progress
from ..references import References
from .coordinates import Axis, axis_array, count_empty, join_axes, read_axis
from .inputs import FileList, list_files
from .stack import scan_sequence


def append_sequence(
    references: References | str | os.PathLike[str],
    files: Any,
    *,
    pattern: str | None = None,
    allow_holes: bool = False,
    level: int | None = None,
    chunkmode: Any = None,
    assets: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: Progress | bool | None = None,
    allow: str | Sequence[str] | None = None,
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
    allow_holes, level, chunkmode, assets, storage_options, workers, progress
        As in `scan_sequence`; use the same values as for the sequence.
    allow
        Addresses that the document may read, as in `References.from_kerchunk`. The new files are
        always allowed.

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
    if not isinstance(references, References):
        references = References.open(references, storage_options, allow=allow)
    record = _record(references)
    listed = list_files(files, assets=assets, storage_options=storage_options)
    new = _unseen(listed, references, storage_options)
    if not new.urls:
        return references
    added = scan_sequence(
        new,
        pattern=pattern or listed.pattern or record.get("pattern"),
        formats=_formats(references, record),
        axesorder=record["dims"],
        time_from=record.get("time_from"),
        allow_holes=True,
        level=level,
        chunkmode=chunkmode,
        storage_options=storage_options,
        workers=workers,
        progress=progress,
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
    has_image = any("path" in level for row in references.series[:1] for level in row["levels"])
    if len(rows) != 1 or not has_image:
        raise InvalidReferences(
            f"the references hold {len(rows) or 'no'} sequence{'s' * (len(rows) > 1)} of files",
            expected="one",
            hint="Make it with `tiffref stack` or scan_sequence, not split into parts.",
        )
    if rows[0].get("concat") or not rows[0]["dims"]:
        raise SelectionError(
            "files can be added along new axes only",
            got=f"a sequence joined along {sorted(rows[0].get('concat', {}).values())}",
        )
    path = next(level["path"] for level in references.series[0]["levels"] if "path" in level)
    image, dims = references.group[path], rows[0]["dims"]
    if "/" in path or not isinstance(image, Array) or list(image.dims[: len(dims)]) != dims:
        raise SelectionError(
            "files are added to an array whose first axes are those of the sequence",
            got=f"array '{path}' ({', '.join(getattr(image, 'dims', ()))})",
            expected=f"{', '.join(dims)} first, at the root",
            hint="Scan all files anew. Plates and axes='ngff' or 'bands-first' take no more files.",
        )
    return rows[0]


def _formats(references: References, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of the axes as they are: few new values may look like another kind."""
    kinds = {"U": "str", "i": "int", "f": "float"}
    found = {}
    for dim in record["dims"]:
        child = references.group.children.get(dim)
        if isinstance(child, Array) and (values := read_axis(dim, child).values) is not None:
            found[dim] = kinds.get(values.dtype.kind)
    return {dim: kind for dim, kind in found.items() if kind} | dict(record.get("formats") or {})


def _unseen(
    listed: FileList, references: References, storage_options: Mapping[str, Any] | None
) -> FileList:
    """Get the files that are not in the sequence; those that are must be unchanged."""
    known = {source.url: source for source in references.sources}
    changed, rows, seen = [], [], set()
    for n, url in enumerate(listed.urls):
        path = local_path(url)
        address = os.path.abspath(path) if is_local(url) else url  # noqa: PTH100 - links stay
        if address in seen:
            continue
        seen.add(address)
        if address not in known:
            rows.append(n)
        elif _has_changed(known[address], storage_options):
            changed.append(url)
    if changed:
        raise StaleSource(
            f"{len(changed)} files of the sequence have changed since they were scanned",
            got=first_few(changed),
            hint="Scan the sequence anew.",
        )
    columns = {name: [values[n] for n in rows] for name, values in listed.columns.items()}
    bands = [listed.bands[n] for n in rows] if listed.bands else ()
    return FileList([listed.urls[n] for n in rows], columns, bands=bands)


def _has_changed(source: Source, storage_options: Mapping[str, Any] | None) -> bool:
    there = open_source(source.url, storage_options)
    there.close()
    try:
        check_same(source, there.source)
    except StaleSource:
        return True
    return False


def _join(
    old: References, new: References, record: Mapping[str, Any], allow_holes: bool
) -> References:
    dims = list(record["dims"])
    axes: list[Axis] = []
    index: list[tuple[Any, Any]] = []
    main = next(level["path"] for level in old.series[0]["levels"] if "path" in level)
    for at, dim in enumerate(dims):
        axis, ours, theirs = join_axes(*(_axis(one, main, dim, at) for one in (old, new)))
        axes.append(axis)
        index.append((ours, theirs))
    children: dict[str, Array | Group] = dict(old.group.children)
    for row in old.series[0]["levels"]:
        path = row.get("path")
        if path is None:
            continue
        first, second = old.group[path], _alike(old.group, new.group, path, dims)
        assert isinstance(first, Array)
        for at, (axis, (ours, theirs)) in enumerate(zip(axes, index, strict=True)):
            first = reindex(first, at, ours, axis.length)
            second = reindex(second, at, theirs, axis.length)
        children[path] = merge(first, second)
    holes = count_empty(children[main], len(dims))  # type: ignore[arg-type]
    if holes and not allow_holes:
        raise ManifestMismatch(
            f"{holes} places would have no file",
            got=", ".join(f"{axis.name} {axis.length}" for axis in axes),
            hint="allow_holes=True leaves them missing.",
        )
    children |= {axis.name: found for axis in axes if (found := axis_array(axis)) is not None}
    n_files = record.get("files", 0) + new.series[0]["sequence"]["files"]
    sequence = {**record, "files": n_files, "n_holes": holes}
    sequence.pop("holes", None)
    series = tuple({**row, "sequence": sequence} for row in old.series)
    group = Group(children, dict(old.group.attributes))
    return References(group, series, _allow_both(old.allow, new))


def _allow_both(allow: Sequence[str] | None, new: References) -> tuple[str, ...] | None:
    """Let the new files be read besides what the old references may read."""
    if allow is None:
        return None
    urls = [source.url for source in new.sources]
    return (*allow, *urls)


def _axis(references: References, main: str, dim: str, at: int) -> Axis:
    child = references.group.children.get(dim)
    if isinstance(child, Array):
        return read_axis(dim, child)
    image = references.group[main]
    assert isinstance(image, Array)
    return Axis(dim, None, np.arange(image.shape[at]), image.shape[at])


def _alike(old: Group, new: Group, path: str, dims: Sequence[str]) -> Array:
    """Return the new array of a path, which must combine with the old one."""
    first, second = old[path], new.children.get(path)
    assert isinstance(first, Array)
    if not isinstance(second, Array):
        raise ManifestMismatch("the new files have no such level", got=path)
    is_one = len(first.codecs) == len(second.codecs) == 1
    if is_one and to_zarr2(first.codec) == to_zarr2(second.codec):
        second = replace(second, codecs=first.codecs)  # a document does not tell all of a codec
    places = unify_locations([locate(group) for group in (old, new)])
    aspects = [
        {**aspects_of(_plain_fill(array), dims), "georeference": place}
        for array, place in zip((first, second), places, strict=True)
    ]
    kinds = group_compatible(aspects)
    if len(kinds) > 1:
        labels = [array.manifest.sources[0].url for array in (first, second)]
        raise mismatch(kinds, labels)
    return second


def _plain_fill(array: Array) -> Array:
    """Return the fill value without its NumPy type, which a document does not keep."""
    fill = array.fill_value
    return array if fill is None else replace(array, fill_value=np.asarray(fill).item())
