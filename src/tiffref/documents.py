"""Open any source as references, and change documents: `convert`, `rewrite`, `refresh`.

A source is a document, several files, or one TIFF. Documents can be converted to another format,
pointed to moved files, and updated after files changed. If the segments of a changed file are where
they were, such as after restoring a copy, only its size, time and ETag are updated; otherwise it is
scanned again. Unchanged files are not read. `formats` reads and writes documents.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .codecs.zarr_codecs import to_zarr2
from .errors import (
    InvalidReferences,
    ManifestMismatch,
    MetadataWarning,
    SelectionError,
    StaleSource,
    TiffrefError,
    UnsupportedTiff,
    checked,
    warn,
)
from .formats.parquet import is_written_as_parquet
from .io.allow import AllowList, check_new_location
from .io.atomic import watch
from .io.remote import open_source
from .io.source import check_unchanged
from .io.urls import check_address, local_path, to_document_url
from .metadata.geo import Location, locate_array
from .metadata.ngff import AXES
from .model.array import Array, Group
from .model.manifest import INLINED, MISSING, Source
from .references import (
    References,
    damage_of,
    is_document,
    level_paths,
    open_document,
    read_references,
    write_document,
)


def open_references(
    source: Any,
    storage_options: Mapping[str, Any] | None = None,
    *,
    allow: str | Sequence[str] | None = None,
    **options: Any,
) -> References:
    """Return references to a document, several files, or one TIFF.

    Parameters
    ----------
    source
        `References`, or a document as in `References.open`; a list, glob or pattern of files, as in
        `scan_sequence`; otherwise a source as in `scan`.
    storage_options
        Options of the fsspec file system of a URL.
    allow
        Addresses that a document may read, as in `References.from_kerchunk`.
    options
        Options of `scan` or `scan_sequence`; none for documents.
    """
    if is_document(source):
        return open_document(source, storage_options, allow)
    # imported on demand, to start faster
    from .sequences.inputs import is_many
    from .sequences.stack import scan_sequence
    from .tiff.scan import scan

    find = scan_sequence if is_many(source) else scan
    return find(source, storage_options=storage_options, **options)


def _write(
    references: References,
    target: str | os.PathLike[str],
    zarr_format: int,
    *,
    rename: Callable[[str], str] = to_document_url,
    dry_run: bool = False,
    **options: Any,
) -> None:
    """Write references, with options of `write_document`; check them only, if `dry_run`."""
    references = references.laid_out(zarr_format)
    urls = [source.url for source in references.sources]
    unchanged = [url for url in urls if rename(url) == to_document_url(url)]
    check_new_location(unchanged, references.allow, check_address(target))
    is_written_as_parquet(target, zarr_format)  # raises if it cannot be
    if not dry_run:
        write_document(references, target, zarr_format=zarr_format, rename=rename, **options)


@checked()
def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    zarr_format: int = 2,
    version: int = 1,
    record_size: int = 100_000,
    storage_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
    dry_run: bool = False,
) -> References:
    """Write references in another format: JSON, or parquet if the name ends in ".parq".

    Parameters
    ----------
    source, target
        Paths or URLs; source and target may be the same.
    zarr_format, version
        Zarr format and kerchunk version of a JSON document.
    record_size
        Number of chunks in each file of parquet references.
    storage_options
        Options of the fsspec file systems of URLs.
    allow
        Prefixes of addresses that the source may read, as in `References.from_kerchunk`.
    dry_run
        Check everything, but write nothing.

    Returns
    -------
    The references that were written.

    Raises
    ------
    InvalidReferences
        If the source is not a valid document, or the target format cannot represent it.
    SourceError
        If the source cannot be read, or the target not written.
    UntrustedSource
        If files that the source may not read are next to the target, where anyone who opens the
        target would read them.
    """
    references, _ = read_references(source, storage_options, allow)
    _write(
        references, target, zarr_format, version=version, record_size=record_size,
        storage_options=storage_options, dry_run=dry_run,
    )  # fmt: skip
    return references


@checked()
def rewrite(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    moves: Mapping[str, str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
    dry_run: bool = False,
) -> int:
    """Update the addresses of files that have moved.

    Parameters
    ----------
    source, target
        Documents; they may be the same.
    moves
        Old prefix -> new prefix of addresses: {"s3://a/": "https://b/"}. The longest match is used;
        local folders may be given without "file://".
    storage_options, allow, dry_run
        As in `convert`; addresses that `moves` changes need not be allowed.

    Returns
    -------
    The number of moved files.

    Raises
    ------
    SelectionError
        If no address begins with one of the prefixes.
    InvalidReferences
        If the source is not a valid document, or two files would get the same address.
    UntrustedSource
        As in `convert`.
    """
    references, parsed = read_references(source, storage_options, allow)
    rename = _plan_moves(moves)
    addresses = [to_document_url(file.url) for file in references.sources]
    moved = [rename(address) for address in addresses]
    n_moved = sum(before != after for before, after in zip(addresses, moved, strict=True))
    if not n_moved:
        raise SelectionError(
            f"no address begins with {' or '.join(moves)}", url=os.fspath(source),
            hint=f"The first is {addresses[0]}." if addresses else None,
        )  # fmt: skip
    if len(set(moved)) < len(set(addresses)):
        raise InvalidReferences("two files would have the same address", url=os.fspath(source))
    _write(
        references, target, parsed.zarr_format, version=parsed.version,
        storage_options=storage_options, rename=rename, dry_run=dry_run,
    )  # fmt: skip
    return n_moved


def _plan_moves(moves: Mapping[str, str]) -> Callable[[str], str]:
    full = {_as_address(before): _as_address(after) for before, after in moves.items()}
    order = sorted(full, key=len, reverse=True)

    def rename(url: str) -> str:
        address = to_document_url(url)
        before = next((prefix for prefix in order if address.startswith(prefix)), None)
        return address if before is None else full[before] + address[len(before) :]

    return rename


def _as_address(prefix: str) -> str:
    return f"file://{prefix}" if prefix.startswith("/") else prefix


@dataclass(frozen=True, slots=True)
class Refreshed:
    """Result of `refresh`.

    Attributes
    ----------
    references
        The updated references.
    unchanged
        Addresses of files that have not changed.
    accepted
        Addresses of files whose time or ETag changed, but not their segments.
    rescanned
        Addresses of files that were scanned again.
    """

    references: References
    unchanged: tuple[str, ...]
    accepted: tuple[str, ...]
    rescanned: tuple[str, ...]


@checked()
def refresh(
    document: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
    dry_run: bool = False,
) -> Refreshed:
    """Update a reference document in place after its files changed.

    Parameters
    ----------
    document
        Path or URL of a JSON file or of a folder of parquet references. It is rewritten only if a
        file has changed, or a sidecar of a local TIFF is newer than the document, in the same
        format and Zarr version.
    storage_options, source_options
        Options of the fsspec file systems of the document and of its files.
    allow
        Addresses that the document may read, as in `References.from_kerchunk`.
    dry_run
        Report what would be done, but write nothing.

    Raises
    ------
    MissingSource
        If a file no longer exists.
    ManifestMismatch
        If a file is now a different image that does not match the array.
    UntrustedSource
        If the document names files that it may not read.
    SourceError
        If another process has written the document meanwhile.
    """
    check_version = watch(document)
    before, parsed = read_references(document, storage_options, allow)
    allowed = None if before.allow is None else AllowList(before.allow)
    unchanged: list[str] = []
    accepted: list[str] = []
    rescanned: list[str] = []
    after, before_damage = before, damage_of([before])
    # its first file leads to the others, such as overviews and members of a set
    is_scan = len(before.sources) == 1 or (
        bool(before.series) and not any("sequence" in row for row in before.series)
    )
    for source in before.sources:
        with closing(open_source(source.url, source_options, allowed)) as opened:
            now = opened.source
        is_same = not (is_scan and _has_newer_sidecar(source.url, document))
        found: dict[str, _Segments | None] | None = None
        damage = before_damage
        try:
            check_unchanged(source, now)
            if is_same:
                unchanged.append(source.url)
                continue
        except StaleSource:
            scan = partial(_scan, source.url, source_options, allowed)
            # merged chunks, and one for each segment
            scans = [new for mode in (None, "tile") for new in scan(chunkmode=mode)]
            damage = damage_of(scans)
            try:
                found = _find_segments(before, source.url, scans, is_scan)
            except ManifestMismatch:
                if not is_scan:
                    raise
        is_same &= found is not None and not any(found.values())
        is_same &= not is_scan or damage == before_damage
        is_same &= source.size in (None, now.size)
        (accepted if is_same else rescanned).append(source.url)
        if found is not None:
            after = _with_segments(after, replace(now, url=source.url), found)
            after = replace(after, series=[{**row, **damage} for row in after.series])
    if is_scan and rescanned:
        url = before.sources[0].url
        after = _scan_again(before, url, partial(_scan, url, source_options, allowed))
    if (accepted or rescanned) and not dry_run:
        check_version()
        _write(
            after, document, parsed.zarr_format, version=parsed.version,
            storage_options=storage_options,
        )  # fmt: skip
    return Refreshed(after, tuple(unchanged), tuple(accepted), tuple(rescanned))


def _has_newer_sidecar(url: str, document: str | os.PathLike[str]) -> bool:
    """Return whether a file next to a local TIFF is newer than a local document."""
    from .tiff.sidecars import has_sidecars, sidecar_state

    if not has_sidecars(None, url):
        return False
    try:
        written = Path(local_path(os.fspath(document))).stat().st_mtime
    except (OSError, ValueError):
        return False  # it is remote
    return any(mtime > written for *_, mtime in sidecar_state(local_path(url)))


def _scan(
    url: str, options: Mapping[str, Any] | None, allow: AllowList | None, **scan_options: Any
) -> Iterator[References]:
    """Scan a file again, and yield the references with the axes in all orders.

    Redirects, and other files of its set, are limited to what the document may read.
    """
    from .tiff.scan import scan

    with closing(open_source(url, options, allow)) as source:
        references = scan(source, storage_options=options, **scan_options)
    yield references
    for axes in AXES:
        with contextlib.suppress(SelectionError, UnsupportedTiff):
            yield references.with_axes(axes)


def _series_index(references: References) -> dict[str, Any]:
    """Return the index in its file of the series of each array, by path."""
    return {
        level["path"]: row.get("index")
        for row in references.series
        for level in row.get("levels", ())
        if "path" in level and "well" not in row  # fields of plates are counted otherwise
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The chunks of an array that are in one file.

    `rows` are their flat indices in C order. `index` is `(n_chunks, n_dims)`, their place relative
    to the first one, `start` and `sizes` the first sample and the number of samples, `(n_dims,)`.
    `is_sparse` is whether chunks of its planes are missing.
    """

    dims: NDArray[np.str_]
    rows: NDArray[np.int64]
    index: NDArray[np.int64]
    start: NDArray[np.int64]
    sizes: NDArray[np.int64]
    is_sparse: bool

    def is_like(self, other: _Part) -> bool:
        """Return whether both have the same shape and chunks, ignoring dimensions of length 1."""
        ours, theirs = self.sizes > 1, other.sizes > 1
        return (
            len(self.rows) == len(other.rows)
            and np.array_equal(self.dims[ours], other.dims[theirs])
            and np.array_equal(self.sizes[ours], other.sizes[theirs])
            and np.array_equal(self.index[:, ours], other.index[:, theirs])
        )


def _part(array: Array, url: str) -> _Part | None:
    manifest = array.manifest
    numbers = [n for n, source in enumerate(manifest.sources) if source.url == url]
    source = manifest.source.ravel()
    is_part = np.isin(source, numbers)
    if not is_part.any():
        return None
    dims = np.array([dim.partition("_")[0] for dim in array.dims])  # of overviews: y_1
    spatial = np.flatnonzero(np.isin(dims, ("y", "x"))).tolist()
    n_chunks = math.prod(array.grid[spatial[0] if spatial else 0 :])
    # inlined and missing chunks have no source; they are of the file of their plane
    in_plane = np.repeat(is_part.reshape(-1, n_chunks).any(axis=1), n_chunks)
    is_sparse = bool((in_plane & (source == MISSING)).any())
    rows = np.flatnonzero(is_part | in_plane & (source == INLINED))
    index = np.stack(np.unravel_index(rows, array.grid), 1)
    first, chunks = index.min(axis=0), np.array(array.chunks)
    ends = np.minimum((index.max(axis=0) + 1) * chunks, array.shape)
    return _Part(dims, rows, index - first, first * chunks, ends - first * chunks, is_sparse)


class _Segments(NamedTuple):
    """Chunks: flat indices, offsets and lengths `(n, 2)`, and bytes of the inlined ones."""

    rows: NDArray[np.int64]
    places: NDArray[np.uint64]
    inlined: Mapping[int, bytes]

    @property
    def key(self) -> tuple[Any, ...]:
        return self.places.tobytes(), *self.inlined.items()


def _find_segments(
    references: References, url: str, scans: Sequence[References], is_strict: bool
) -> dict[str, _Segments | None]:
    """Find the chunks of a changed file in new scans of it.

    If `is_strict`, metadata that only the file or only the references have is an error, not a
    warning. Returns the new segments of each array with chunks in the file, by path; None if they
    are the old ones. Raises `ManifestMismatch` if the file is a different image now, or its values
    or place have another meaning.
    """
    found: dict[str, _Segments | None] = {}
    index_of = _series_index(references)
    scanned = [
        (array, new.group, new_index.get(path))
        for new in scans
        for new_index in [_series_index(new)]
        for path, array in new.group.arrays()
        if array.manifest.sources
    ]
    for path, array in references.group.arrays():
        part = _part(array, url)
        if part is None:
            continue
        group = references.group[path.rpartition("/")[0]] if "/" in path else references.group
        place, old = _place_of(array, group, part), _segments(array, part.rows)
        segments: dict[tuple[Any, ...], _Segments] = {}
        for now, now_group, index in scanned:
            is_other_series = None not in (index, index_of.get(path)) and index != index_of[path]
            is_other_type = array.dtype != now.dtype or _decoding(array) != _decoding(now)
            if is_other_series or is_other_type:
                continue
            new = _new_segments(part, old, now, url)
            if new is old and part.is_sparse:
                raise _different_image_error(url)  # it may have got the missing segments
            if new is not None and new is not old:
                _check_meaning(url, array, now, is_strict)
                _check_place(url, place, locate_array(now, now_group), is_strict)
            if new is not None:
                segments[new.key] = new
        if len(segments) != 1:  # several images of one shape cannot be told apart
            raise _different_image_error(url)
        (new,) = segments.values()
        found[path] = None if old.key == new.key else new._replace(rows=part.rows)
    return found


def _new_segments(part: _Part, old: _Segments, now: Array, url: str) -> _Segments | None:
    """Return the segments of a scanned array for a part of an array; None if it is another one.

    `old` is returned if it is some segments of a larger array, such as one page, in their order.
    """
    theirs = _part(now, url)
    if theirs is None:
        return None
    new = _segments(now, theirs.rows)
    if part.is_like(theirs) and old.inlined.keys() == new.inlined.keys():
        return new
    ours, others = (
        [(*place, one.inlined.get(n)) for n, place in enumerate(one.places.tolist())]
        for one in (old, new)
    )
    place = {segment: n for n, segment in enumerate(others)}
    at = [place.get(segment, -1) for segment in ours]
    is_some = len(at) < len(new.rows) and at[0] >= 0 and sorted(set(at)) == at
    return old if is_some else None


def _segments(array: Array, rows: NDArray[np.int64]) -> _Segments:
    source, offset, length = array.manifest.take(rows)
    places, is_inlined = np.stack([offset, length], 1), source == INLINED
    places[is_inlined] = 0
    data = {n: array.manifest.data(int(rows[n])) for n in np.flatnonzero(is_inlined).tolist()}
    return _Segments(rows, places, data)


def _place_of(array: Array, group: Group, part: _Part) -> Location:
    """Return the location of a part of an array."""
    place = locate_array(array, group)
    axes = {dim.partition("_")[0]: n for n, dim in enumerate(array.dims)}
    if place.transform is None or not {"y", "x"} <= axes.keys():
        return place
    (row, column), (n_rows, n_columns) = (
        (int(values[axes["y"]]), int(values[axes["x"]])) for values in (part.start, part.sizes)
    )
    a, b, c, d, e, f = place.transform
    c, f = c + a * column + b * row, f + d * column + e * row
    return replace(place, transform=(a, b, c, d, e, f), shape=(n_rows, n_columns))


def _check_place(url: str, before: Location, now: Location, is_strict: bool) -> None:
    if url.endswith((".ovr", ".msk")) or before.is_at(now):
        return
    is_known = all(place.system or place.transform for place in (before, now))
    _report_difference(url, "georeference", now, before, is_strict or is_known)


def _check_meaning(url: str, array: Array, now: Array, is_strict: bool) -> None:
    from .sequences.assemble import array_aspects, band_orders  # with the scanner

    if is_strict and any(array.attributes.get(n, v) != v for n, v in now.attributes.items()):
        raise _different_image_error(url)
    before, after = (array_aspects(one, ()) for one in (array, now))
    for name, unknown in (("nodata", None), ("scale", "{}"), ("photometric", "")):
        if before[name] != after[name]:
            is_known = unknown not in (before[name], after[name])
            _report_difference(url, name, after[name], before[name], is_strict or is_known)
    ours, theirs = band_orders((array, now))
    if ours != theirs:
        _report_difference(url, "order of bands", theirs, ours, True)


def _report_difference(url: str, name: str, got: Any, expected: Any, is_error: bool) -> None:
    if is_error:
        raise ManifestMismatch(
            f"the {name} of the file has changed", url=url, got=got, expected=expected,
            hint=_WRITE_AGAIN,
        )  # fmt: skip
    warn(MetadataWarning(f"{url}: its {name} is {got}, and that of the references {expected}"))


def _with_segments(
    references: References, state: Source, found: Mapping[str, _Segments | None]
) -> References:
    """Return references with new segments of a file, and its new state."""

    def update(path: str, array: Array) -> Array:
        new = found.get(path)
        if new is not None:
            manifest = array.manifest
            offset, length = manifest.offset.copy(), manifest.length.copy()
            offset.reshape(-1)[new.rows], length.reshape(-1)[new.rows] = new.places.T
            manifest = replace(manifest, offset=offset, length=length)
            inlined = {int(new.rows[n]): data for n, data in new.inlined.items()}
            array = replace(array, manifest=manifest.with_inlined(inlined))
        renewed = array.manifest.with_sources(lambda one: state if one.url == state.url else one)
        return replace(array, manifest=renewed)

    return replace(references, group=references.group.map_arrays(update))


def _decoding(array: Array) -> Any:
    try:
        return [to_zarr2(codec) for codec in array.codecs]
    except TiffrefError:
        return None  # a Zarr v3 codec that v2 does not have


def _different_image_error(url: str) -> ManifestMismatch:
    return ManifestMismatch(
        "the file is a different image now, which does not match the array", url=url,
        hint=_WRITE_AGAIN,
    )  # fmt: skip


_WRITE_AGAIN = "Write the references again with tiffref scan or tiffref stack."


def _scan_again(
    references: References, url: str, scan: Callable[..., Iterator[References]]
) -> References:
    """Scan the only file again; keep attributes that were added to the root."""
    from .tiff.scan import selection_of

    images = _dims_of_images(references)
    layout = "tree" if any("/" in path for path in images) else "dataset"
    for new in scan(layout=layout, **selection_of(references.series)):
        found = _dims_of_images(new)
        # the file may have got overviews
        if images.items() <= found.items() and found.keys() - images <= {
            *level_paths(new.series[:1])
        }:
            added = {**references.group.attributes, **new.group.attributes}
            group = new.group.with_attributes(**added)
            return replace(new, group=group, allow=references.allow)
    raise _different_image_error(url)


def _dims_of_images(references: References) -> dict[str, tuple[str, ...]]:
    arrays = references.group.arrays()
    return {path: array.dims for path, array in arrays if array.manifest.sources}
