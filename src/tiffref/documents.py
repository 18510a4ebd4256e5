"""Open any source as references, and change documents: `convert`, `rewrite`, `refresh`.

A source is a document, several files, or one TIFF. Documents can be converted to another format,
pointed to moved files, and updated after files changed. If the segments of a changed file are where
they were, such as after restoring a copy, only its size, time and ETag are updated; otherwise it is
scanned again. Unchanged files are not read. `formats` reads and writes documents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codecs.zarr_codecs import to_zarr2
from .errors import (
    InvalidReferences,
    ManifestMismatch,
    SelectionError,
    StaleSource,
    TiffrefError,
    rejects_unknown_arguments,
)
from .formats.parquet import is_written_as_parquet
from .io.allow import AllowList, check_new_location
from .io.remote import open_source
from .io.source import ByteSource, check_unchanged
from .io.urls import check_address, to_document_url
from .model.array import Array
from .model.manifest import Manifest, Source
from .references import References, is_document, read_references, write_document


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
    if isinstance(source, References):
        given = (allow,) if isinstance(allow, str) else allow
        return source if given is None else replace(source, allow=given)
    if is_document(source):
        return read_references(source, storage_options, allow)[0]
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


@rejects_unknown_arguments
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


@rejects_unknown_arguments
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


@rejects_unknown_arguments
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
        file has changed, in the same format and Zarr version.
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
    """
    before, parsed = read_references(document, storage_options, allow)
    allowed = None if before.allow is None else AllowList(before.allow)
    unchanged, accepted, rescanned = [], [], []
    after = before
    for source in before.sources:
        scans = _Scans(source.url, source_options, allowed)
        with closing(scans.open()) as opened:
            now = opened.source
        try:
            check_unchanged(source, now)
            unchanged.append(source.url)
            continue
        except StaleSource:
            pass
        if source.size in (None, now.size) and _has_same_segments(before, source.url, scans):
            after = _map_arrays(after, partial(_update_source, source.url, now))
            accepted.append(source.url)
            continue
        is_only = len(before.sources) == 1
        after = (
            _scan_again(before, scans) if is_only else _update_segments(after, source.url, scans)
        )
        rescanned.append(source.url)
    if (accepted or rescanned) and not dry_run:
        _write(
            after, document, parsed.zarr_format, version=parsed.version,
            storage_options=storage_options,
        )  # fmt: skip
    return Refreshed(after, tuple(unchanged), tuple(accepted), tuple(rescanned))


@dataclass(slots=True)
class _Scans:
    """Scans a file again, with merged chunks (the default) and with one chunk per segment.

    Redirects, and other files of its set, are limited to what the document may read.
    """

    url: str
    options: Mapping[str, Any] | None
    allow: AllowList | None

    def open(self) -> ByteSource:
        """Open the file; raises like `open_source`."""
        return open_source(self.url, self.options, self.allow)

    def scan(self, **options: Any) -> References:
        """Scan the file, with options of `scan`."""
        from .tiff.scan import scan

        with closing(self.open()) as source:
            return scan(source, storage_options=self.options, **options)

    def arrays(self) -> Iterator[Array]:
        """Yield the arrays of both kinds of scan."""
        for mode in (None, "tile"):
            for _, array in self.scan(chunkmode=mode).group.arrays():
                if array.manifest.sources:
                    yield array


def _rows(manifest: Manifest, url: str) -> NDArray[np.int64]:
    """Return the indices, in C order, of the chunks stored in a file."""
    numbers = [n for n, source in enumerate(manifest.sources) if source.url == url]
    return np.flatnonzero(np.isin(manifest.source.ravel(), numbers))


def _segments(manifest: Manifest, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    return np.stack([manifest.offset.ravel()[rows], manifest.length.ravel()[rows]], 1)


def _segment_set(array: Array, url: str) -> set[tuple[int, ...]]:
    rows = _rows(array.manifest, url)
    return {tuple(segment) for segment in _segments(array.manifest, rows).tolist()}


def _has_same_segments(references: References, url: str, scans: _Scans) -> bool:
    """Return whether a file has all segments that the references use."""
    used = [(array, _segment_set(array, url)) for _, array in references.group.arrays()]
    missing = [(array, segments) for array, segments in used if segments]
    for now in scans.arrays():
        present = _segment_set(now, url)
        missing = [
            (array, segments)
            for array, segments in missing
            if not (segments <= present and _decodes_equally(array, now))
        ]
    return not missing


def _decodes_equally(array: Array, now: Array) -> bool:
    return array.dtype == now.dtype and _decoding(array) == _decoding(now)


def _decoding(array: Array) -> Any:
    try:
        return [to_zarr2(codec) for codec in array.codecs]
    except TiffrefError:
        return None  # a Zarr v3 codec that v2 does not have


def _update_source(url: str, now: Source, array: Array) -> Array:
    state = replace(now, url=url)
    renewed = array.manifest.with_sources(lambda source: state if source.url == url else source)
    return replace(array, manifest=renewed)


def _update_segments(references: References, url: str, scans: _Scans) -> References:
    """Replace the segments of a changed file by its new ones."""
    now = list(scans.arrays())

    def update(array: Array) -> Array:
        manifest = array.manifest
        rows = _rows(manifest, url)
        if not rows.size:
            return array
        for scanned in now:
            new_rows = _rows(scanned.manifest, url)
            if new_rows.size == rows.size and _decodes_equally(array, scanned):
                offset, length = manifest.offset.copy(), manifest.length.copy()
                segments = _segments(scanned.manifest, new_rows)
                offset.reshape(-1)[rows], length.reshape(-1)[rows] = segments.T
                state = next(s for s in scanned.manifest.sources if s.url == url)
                changed = replace(manifest, offset=offset, length=length)
                return _update_source(url, state, replace(array, manifest=changed))
        raise _different_image_error(url)

    return _map_arrays(references, update)


def _different_image_error(url: str) -> ManifestMismatch:
    return ManifestMismatch(
        "the file is a different image now, which does not match the array", url=url,
        hint="Write the references again with tiffref scan or tiffref stack.",
    )  # fmt: skip


def _scan_again(references: References, scans: _Scans) -> References:
    """Scan the only file again; keep attributes that were added to the root."""
    paths = [path for path, array in references.group.arrays() if array.manifest.sources]
    layout = "tree" if any("/" in path for path in paths) else "dataset"
    new = scans.scan(layout=layout)
    if paths != [path for path, array in new.group.arrays() if array.manifest.sources]:
        raise _different_image_error(scans.url)
    added = {**references.group.attributes, **new.group.attributes}
    return replace(new, group=new.group.with_attributes(**added), allow=references.allow)


def _map_arrays(references: References, update: Callable[[Array], Array]) -> References:
    return replace(references, group=references.group.map_arrays(lambda _, array: update(array)))
