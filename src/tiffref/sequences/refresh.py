"""References whose files have changed, brought up to date: `refresh`.

Owns what becomes of a file that is no longer what was recorded: where its segments lie as before,
as after a copy back, only its size, time and ETag are recorded anew; otherwise it is scanned again.
Files that are the same are asked for their state and not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.zarr2 import to_zarr2
from ..errors import ManifestMismatch, StaleSource, TiffrefError
from ..formats.load import fetch_text
from ..formats.parquet import is_parquet
from ..io.allow import AllowList
from ..io.freshness import check_same
from ..io.source import open_source
from ..model.array import Array, Group
from ..model.manifest import Manifest, Source
from ..references import References
from ..tiff.scan import scan

__all__ = ["Refreshed", "refresh"]

_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What was found of the files of a document, by address.

    Attributes
    ----------
    references
        The references as they are now.
    unchanged
        Files that are what was recorded.
    accepted
        Files of another time or ETag whose segments lie where they lay.
    rescanned
        Files that have changed.
    """

    references: References
    unchanged: tuple[str, ...]
    accepted: tuple[str, ...]
    rescanned: tuple[str, ...]


def refresh(
    document: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
    dry_run: bool = False,
) -> Refreshed:
    """Bring a reference document up to date with its files, in place.

    Parameters
    ----------
    document
        JSON file or folder of parquet references: path or URL. It is written only if a file has
        changed, in the format and Zarr version that it has.
    storage_options, source_options
        For the file systems of the document and of its files.
    allow
        What the document may make us read, as in `References.from_kerchunk`.
    dry_run
        Only say what would be done.

    Raises
    ------
    MissingSource
        If a file is no longer there.
    ManifestMismatch
        If a file has become another image, which does not fit in its place.
    UntrustedSource
        If the document names files that it may not make us read.
    """
    before = References.open(document, storage_options, allow=allow)
    allowed = None if before.allow is None else AllowList(before.allow)
    unchanged, accepted, rescanned = [], [], []
    after = before
    for source in before.sources:
        if allowed is not None:
            allowed.check(source.url)
        with closing(open_source(source.url, source_options)) as opened:
            now = opened.source
        try:
            check_same(source, now)
            unchanged.append(source.url)
            continue
        except StaleSource:
            scans = _Scans(source.url, source_options)
        if source.size in (None, now.size) and _lies_as_before(before, source.url, scans):
            after = _with_source(after, source.url, now)
            accepted.append(source.url)
            continue
        is_only = len(before.sources) == 1
        after = _scan_anew(before, scans) if is_only else _with_segments(after, source.url, scans)
        rescanned.append(source.url)
    if (accepted or rescanned) and not dry_run:
        _write(after, document, storage_options)
    return Refreshed(after, tuple(unchanged), tuple(accepted), tuple(rescanned))


@dataclass(slots=True)
class _Scans:
    """A file as it is now, with chunks put together as by default, and as they are stored."""

    url: str
    options: Mapping[str, Any] | None

    def arrays(self) -> Iterator[Array]:
        """Yield the arrays of both scans."""
        for mode in (None, "tile"):
            for _, array in scan(
                self.url, chunkmode=mode, storage_options=self.options
            ).group.arrays():
                if array.manifest.sources:
                    yield array


def _rows(manifest: Manifest, url: str) -> NDArray[np.int64]:
    """Return the chunks, in C order, that lie in a file."""
    numbers = [n for n, source in enumerate(manifest.sources) if source.url == url]
    return np.flatnonzero(np.isin(manifest.source.ravel(), numbers))


def _segments(manifest: Manifest, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    return np.stack([manifest.offset.ravel()[rows], manifest.length.ravel()[rows]], 1)


def _lies_as_before(references: References, url: str, scans: _Scans) -> bool:
    """Compare the segments of a file with those that the references have."""
    wanted = [
        (array, {tuple(row) for row in _segments(array.manifest, rows).tolist()})
        for _, array in references.group.arrays()
        if (rows := _rows(array.manifest, url)).size
    ]
    for now in scans.arrays():
        found = {tuple(row) for row in _segments(now.manifest, _rows(now.manifest, url)).tolist()}
        wanted = [one for one in wanted if not (one[1] <= found and _is_alike(one[0], now))]
    return not wanted


def _is_alike(array: Array, now: Array) -> bool:
    """Compare how the chunks of two arrays decode."""
    return array.dtype == now.dtype and _decoding(array) == _decoding(now)


def _decoding(array: Array) -> Any:
    try:
        return [to_zarr2(codec) for codec in array.codecs]
    except TiffrefError:
        return None  # of Zarr v3, by a codec that v2 does not have


def _with_source(references: References, url: str, now: Source) -> References:
    """Record the state of a file anew."""
    return _map_arrays(
        references, lambda array: replace(array, manifest=_renewed(array.manifest, url, now))
    )


def _renewed(manifest: Manifest, url: str, now: Source) -> Manifest:
    state = replace(now, url=url)
    return manifest.with_sources(lambda source: state if source.url == url else source)


def _with_segments(references: References, url: str, scans: _Scans) -> References:
    """Put the segments of a changed file where those that it had were."""
    now = list(scans.arrays())

    def renew(array: Array) -> Array:
        manifest = array.manifest
        rows = _rows(manifest, url)
        if not rows.size:
            return array
        for one in now:
            new_rows = _rows(one.manifest, url)
            if new_rows.size == rows.size and _is_alike(array, one):
                offset, length = manifest.offset.copy(), manifest.length.copy()
                segments = _segments(one.manifest, new_rows)
                offset.reshape(-1)[rows], length.reshape(-1)[rows] = segments.T
                state = next(s for s in one.manifest.sources if s.url == url)
                changed = replace(manifest, offset=offset, length=length)
                return replace(array, manifest=_renewed(changed, url, state))
        raise _other_image(url)

    return _map_arrays(references, renew)


def _other_image(url: str) -> ManifestMismatch:
    return ManifestMismatch(
        "has become another image, which does not fit in its place", url=url,
        hint="Write the references again with tiffref scan or tiffref stack.",
    )  # fmt: skip


def _scan_anew(references: References, scans: _Scans) -> References:
    """Scan the only file of references; attributes that were added to the root stay."""
    paths = [path for path, array in references.group.arrays() if array.manifest.sources]
    layout = "tree" if any("/" in path for path in paths) else "dataset"
    new = scan(scans.url, layout=layout, storage_options=scans.options)
    if paths != [path for path, array in new.group.arrays() if array.manifest.sources]:
        raise _other_image(scans.url)
    added = {**references.group.attributes, **new.group.attributes}
    return replace(new, group=new.group.with_attributes(**added), allow=references.allow)


def _map_arrays(references: References, renew: Any) -> References:
    def walk(group: Group) -> Group:
        children = {
            name: renew(node) if isinstance(node, Array) else walk(node)
            for name, node in group.children.items()
        }
        return replace(group, children=children)

    return replace(references, group=walk(references.group))


def _write(
    references: References,
    document: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
) -> None:
    """Write a document in the format that it has."""
    if is_parquet(document):
        references.to_parquet(document, storage_options=storage_options)
        return
    head = bytes(fetch_text(document, storage_options)[:_HEAD_BYTES])
    references.write_fsspec(
        document,
        zarr_format=3 if b'"zarr.json"' in head else 2,
        version=1 if b'"refs"' in head else 0,
        storage_options=storage_options,
    )
