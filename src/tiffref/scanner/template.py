"""A scanned file as the model of others whose directories are alike.

Owns how the chunks of a file follow from its directories, found from one that was scanned in full
and proven by it. Which files are alike is told by `skeleton`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.codec import SegmentCodec
from ..model.manifest import INLINED, MISSING, Manifest, Source
from ..model.node import Array
from .skeleton import Skeleton

__all__ = ["Template", "make_template"]

_KINDS = frozenset({"generic", "uniform", "shaped", "imagej", "ome", "geotiff"})
"""Series that tifffile tells from the directories of one file alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A file that was scanned in full, as the model for others of its signature.

    `arrays` are those with segments, by path. `rows` says for each which directories its chunks
    are, in order; an array whose chunks are put together from contiguous segments has none and is
    moved as a whole.
    """

    arrays: Mapping[str, Array]
    skeleton: Skeleton
    rows: Mapping[str, tuple[int, ...] | None]

    def arrays_of(self, other: Skeleton) -> dict[str, Array] | None:
        """Give the arrays of another file of the same signature.

        Returns
        -------
        None if the places of its segments are not regular enough to tell.
        """
        all_rows = range(len(other.offsets))
        offset, length = _join(other.offsets, all_rows), _join(other.lengths, all_rows)
        # looked at together, for a look takes longer than the few segments of a level
        if _reach_behind(offset, length, other.source):
            return None
        has_all = bool(offset.all() and length.all())
        found = {}
        for path, rows in self.rows.items():
            array = self.arrays[path]
            manifest = (
                self._move(array, other)
                if rows is None
                else self._gather(array, rows, other, has_all)
            )
            if manifest is None:
                return None
            # thrice as quick as dataclasses.replace
            found[path] = Array(
                array.shape, array.chunks, array.dtype, array.dims, array.codecs, manifest,
                array.fill_value, array.attributes,
            )  # fmt: skip
        return found

    def _gather(
        self, array: Array, rows: Sequence[int], other: Skeleton, has_all: bool
    ) -> Manifest | None:
        """Take chunks from the columns of directories: each chunk is one segment.

        `has_all` tells that no segment of the file is missing.
        """
        offset = _join(other.offsets, rows)
        length = _join(other.lengths, rows)
        old = array.manifest
        codec = array.codecs[0]
        if len(offset) != len(old.offset):
            return None
        if isinstance(codec, SegmentCodec) and codec.compression == 1:
            # segments that follow one another are put together: a scan would do so here, too
            joints = _joints(offset, length) == _joints(old.offset, old.length)
            if (length != old.length).any() or not joints.all():
                return None
        source = old.source
        if not has_all or source.min() < 0:
            is_missing = offset == 0
            if (is_missing != (length == 0)).any():
                return None  # the parser may know what is meant
            source = np.where(is_missing, MISSING, 0).astype(np.int32)
        return Manifest(old.shape, (_like(other.source, old),), source, offset, length)

    def _move(self, array: Array, other: Skeleton) -> Manifest | None:
        """Move all chunks by as much as all segments of the file are moved."""
        n = range(len(self.skeleton.offsets))
        ours, theirs = _join(self.skeleton.offsets, n), _join(other.offsets, n)
        if len(ours) != len(theirs) or not len(ours):
            return None
        delta = theirs - ours  # wraps around where it is negative, and back again below
        if (delta != delta[0]).any() or (
            _join(self.skeleton.lengths, n) != _join(other.lengths, n)
        ).any():
            return None
        old = array.manifest
        offset = old.offset + delta[0]
        if _reach_behind(offset, old.length, other.source):
            return None
        return Manifest(old.shape, (_like(other.source, old),), old.source, offset, old.length)


def _joints(offset: NDArray[np.uint64], length: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Say of each segment but the first whether it begins where the one before it ends."""
    return offset[1:] == offset[:-1] + length[:-1]


def _reach_behind(offset: NDArray[np.uint64], length: NDArray[np.uint64], source: Source) -> bool:
    """Say whether a segment ends behind the end of the file."""
    size = np.uint64(source.size or 0)
    # both looked at by themselves, for the sum of two large numbers may be a small one
    return bool(max(offset.max(), length.max(), (offset + length).max()) > size)


def _like(source: Source, manifest: Manifest) -> Source:
    codec = manifest.sources[0].codec
    return source if codec == source.codec else replace(source, codec=codec)


def _join(columns: Sequence[NDArray[np.uint64]], rows: Sequence[int]) -> NDArray[np.uint64]:
    return columns[rows[0]] if len(rows) == 1 else np.concatenate([columns[n] for n in rows])


def make_template(
    arrays: Mapping[str, Array], series: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> Template | None:
    """Find how the chunks of a scanned file follow from its directories.

    Parameters
    ----------
    arrays, series
        What was found of the file: arrays by path, and the record that `References` has.
    skeleton
        Its directories.

    Returns
    -------
    None if they do not follow from them alone: chunks are inlined, lie in several files, or were
    found by other means.
    """
    if skeleton.signature is None:
        return None
    if any(row.get("kind") not in _KINDS for row in series):
        return None
    rows: dict[str, tuple[int, ...] | None] = {}
    for path, array in arrays.items():
        manifest = array.manifest
        if not manifest.sources and (manifest.source == INLINED).all():
            continue  # a coordinate: it follows from tags that are in the signature
        if len(manifest.sources) != 1 or len(array.codecs) != 1 or manifest.inlined:
            return None
        if _has_padded_strips(array, skeleton):
            return None
        found = _match_rows(manifest, skeleton)
        if found is None and (manifest.source == MISSING).any():
            return None
        rows[path] = found
    template = Template({path: arrays[path] for path in rows}, skeleton, rows)
    # the file itself must come out as it was scanned
    again = template.arrays_of(skeleton)
    if again is None:
        return None
    if any(again[path].manifest != arrays[path].manifest for path in rows):
        return None
    return template


def _has_padded_strips(array: Array, skeleton: Skeleton) -> bool:
    """Say whether the file was found to store partial last strips padded to whole ones.

    That is up to the writer: another file may store them short, and only a look at them tells.
    Tiles are always whole (TIFF 6.0, section 15).
    """
    codec = array.codecs[0]
    if not isinstance(codec, SegmentCodec) or codec.compression == 1 or codec.edge is not None:
        return False
    codes = {part[0] for part in skeleton.signature or () if isinstance(part, tuple)}
    is_partial = any(n % c for n, c in zip(array.shape, array.chunks, strict=True))
    return is_partial and 322 not in codes


def _match_rows(manifest: Manifest, skeleton: Skeleton) -> tuple[int, ...] | None:
    """Find the directories whose columns make up a manifest, one after the other."""
    by_first: dict[bytes, list[int]] = {}
    for n, offset in enumerate(skeleton.offsets):
        by_first.setdefault(offset.tobytes(), []).append(n)
    sizes = sorted({len(offset) for offset in skeleton.offsets})
    rows: list[int] = []
    at = 0
    while at < manifest.n_chunks:
        candidates = [
            n
            for size in sizes
            for n in by_first.get(manifest.offset[at : at + size].tobytes(), ())
            if at + size <= manifest.n_chunks
            and np.array_equal(skeleton.lengths[n], manifest.length[at : at + size])
        ]
        if len(candidates) != 1:
            return None  # none, or directories that share their segments
        rows.append(candidates[0])
        at += len(skeleton.offsets[candidates[0]])
    return tuple(rows)
