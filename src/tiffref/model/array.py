"""Arrays and groups: what a scan ends in and what an export starts from.

Owns the tree of named arrays with their metadata, and the arithmetic between the segments of pages
and the chunks of an array: integers in, integers out. A page is five dimensions, (planes, depth,
length, width, samples), as TIFF stores it. It does not know how documents write arrays (see
`formats`), nor how they came about.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SelectionError
from .codec import ForeignCodec, SegmentCodec
from .manifest import INLINED, Manifest

__all__ = [
    "Array",
    "Group",
    "Node",
    "chunk_grid",
    "fit_chunks",
    "given_attributes",
    "plan_run_rows",
    "segment_shape",
]

PAGE_AXES = "SZYXS"
"""Axis code of each dimension of a page: separate planes, depth, length, width, samples."""

_TARGET_BYTES = 4 << 20
_WHOLE_BYTES = 8 << 20

Shape5 = tuple[int, int, int, int, int]


def segment_shape(page: Shape5, tile: tuple[int, int, int] | None, rows_per_strip: int) -> Shape5:
    """Samples that one full strip or tile holds along each page dimension."""
    _, _, length, width, samples = page
    if tile is None:
        return 1, 1, max(1, min(rows_per_strip, length)), width, samples
    return 1, *tile, samples


@functools.lru_cache(maxsize=1024)
def chunk_grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks along each dimension; the last one may reach past the array.

    >>> chunk_grid((3, 1, 100, 90, 1), (1, 1, 64, 90, 1))
    (3, 1, 2, 1, 1)
    """
    # kept, for each array is asked several times, and the arrays of many files have the same
    return tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))


def fit_chunks(
    shape: Sequence[int], axes: str, page: Shape5, segment: Shape5, n_pages: int
) -> tuple[int, ...] | None:
    """Find the chunk shape of an array whose pages have the given segments.

    The page's dimensions are the array's last ones, save those of length 1 that the array left
    out; in front of them are the dimensions that count pages.

    Parameters
    ----------
    shape, axes
        Of the array.
    page, segment
        Normalized shape of a page, and of its full segments.
    n_pages
        Pages in the array.

    Returns
    -------
    The chunk length along each array dimension, or None if chunks of segments cannot tile it.

    Examples
    --------
    >>> fit_chunks((7, 100, 90, 3), "TYXS", (1, 1, 100, 90, 3), (1, 1, 64, 90, 3), 7)
    (1, 64, 90, 3)
    """
    chunks = [1] * len(shape)
    at = len(shape) - 1
    for letter, size, chunk in zip(PAGE_AXES[::-1], page[::-1], segment[::-1], strict=True):
        if size == 1 and (at < 0 or shape[at] != 1 or axes[at] != letter):
            if chunk != 1:
                return _fit_whole(shape, page, segment, n_pages)
            continue
        while at >= 0 and shape[at] == 1 != size:
            at -= 1
        if at < 0 or shape[at] != size:
            return _fit_whole(shape, page, segment, n_pages)
        chunks[at] = chunk
        at -= 1
    if math.prod(shape[: at + 1]) != n_pages:
        return _fit_whole(shape, page, segment, n_pages)
    return tuple(chunks)


def _fit_whole(
    shape: Sequence[int], page: Shape5, segment: Shape5, n_pages: int
) -> tuple[int, ...] | None:
    """Chunks for pages of one segment each, where the array splits the page's dimensions anew."""
    size = math.prod(page)
    if segment != page or math.prod(shape) != n_pages * size:
        return None
    for at in range(len(shape)):
        if math.prod(shape[at:]) == size:
            return (1,) * at + tuple(shape[at:])
    return None


def plan_run_rows(n_rows: int, row_bytes: int) -> int:
    """Choose how many rows of a contiguous uncompressed run make a chunk.

    Reading costs per chunk, so small rows are put together to some MiB. A divisor of the row
    count is preferred: its last chunk is whole.

    Parameters
    ----------
    n_rows
        Rows in the run, at least 1.
    row_bytes
        Bytes of one row.

    Examples
    --------
    >>> plan_run_rows(1000, 100)
    1000
    >>> plan_run_rows(20_000, 1_000)
    4000
    """
    if n_rows * row_bytes <= _WHOLE_BYTES:
        return n_rows
    wished = max(1, _TARGET_BYTES // row_bytes)
    for rows in range(wished, max(1, wished // 2) - 1, -1):
        if n_rows % rows == 0:
            return rows
    return wished


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """One n-dimensional array over byte ranges.

    Parameters
    ----------
    shape
        Samples along each dimension, outermost first.
    chunks
        Samples of one chunk along each dimension; the last chunk may reach past the array.
    dtype
        Of the samples in memory, native byte order.
    dims
        Name of each dimension.
    codecs
        How chunks decode. One entry is the normal case and the only one that can be exported;
        with more, each source says by its `codec` which one its chunks need.
    manifest
        Where the chunks are; its grid is `ceil(shape / chunks)`.
    fill_value
        Value of missing chunks, or None (they read as 0).
    attributes
        JSON values.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...]
    codecs: tuple[SegmentCodec | ForeignCodec, ...]
    manifest: Manifest
    fill_value: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.chunks) == len(self.dims), (self.shape, self.chunks)
        grid = chunk_grid(self.shape, self.chunks)
        assert self.manifest.shape == grid, (self.manifest.shape, grid)

    def __repr__(self) -> str:
        # without the columns of the manifest, which are pages long
        sizes = ", ".join(f"{dim} {n}" for dim, n in zip(self.dims, self.shape, strict=True))
        return f"Array(({sizes}), {self.dtype}, chunks {self.chunks})"

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return chunk_grid(self.shape, self.chunks)

    @property
    def codec(self) -> SegmentCodec | ForeignCodec:
        """The codec of an array that has just one."""
        (codec,) = self.codecs
        return codec

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def with_attributes(self, **attributes: Any) -> Array:
        """Return the array with more attributes."""
        return self.as_variable(self.dims, {**self.attributes, **attributes})

    def with_fill_value(self, value: Any) -> Array:
        """Return the array with another value for missing data.

        Raises
        ------
        SelectionError
            If a sample cannot have this value.
        """
        try:
            with np.errstate(all="ignore"):
                sample = np.asarray(value).astype(self.dtype)
            is_same = sample.shape == () and _is_same(sample[()], value)
        except (TypeError, ValueError, OverflowError):
            is_same = False
        if not is_same:
            raise SelectionError(
                "no sample can have this fill value",
                got=repr(value),
                expected=f"a value of type {self.dtype}",
                hint="Other series may be of another type: choose one with series=.",
            )
        return replace(self, fill_value=sample.item())

    def as_variable(self, dims: tuple[str, ...], attributes: Mapping[str, Any]) -> Array:
        """Return the same chunks with these names of dimensions and attributes."""
        # thrice as quick as dataclasses.replace, which was a fifth of a scan
        return Array(
            self.shape, self.chunks, self.dtype, dims, self.codecs, self.manifest,
            self.fill_value, attributes,
        )  # fmt: skip

    @classmethod
    def from_values(
        cls, values: Any, dims: tuple[str, ...] = (), attributes: Mapping[str, Any] | None = None
    ) -> Array:
        """Return a small array, such as a coordinate, whose one chunk is inlined uncompressed.

        Parameters
        ----------
        values
            Array or scalar; strings become fixed-width unicode.
        dims
            Name of each dimension of `values`.
        """
        data = np.asarray(values)
        data = data.astype(data.dtype.newbyteorder("<"), copy=False)
        codec = _plain_codec(math.prod(max(1, n) for n in data.shape), data.dtype.str)
        dtype = data.dtype.newbyteorder("=")
        return cls.from_chunk(data.tobytes(), codec, data.shape, dtype, dims, attributes)

    @classmethod
    def from_chunk(
        cls,
        data: bytes,
        codec: SegmentCodec | ForeignCodec,
        shape: tuple[int, ...],
        dtype: np.dtype,
        dims: tuple[str, ...] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> Array:
        """Return a small array whose one chunk is inlined as these bytes."""
        chunks = tuple(max(1, n) for n in shape)
        grid = chunk_grid(shape, chunks)
        inlined, none = _inlined_columns(math.prod(grid))
        chunk = {0: data} if len(none) else {}
        manifest = Manifest(grid, (), inlined, none, none, chunk)
        return cls(shape, chunks, dtype, dims, (codec,), manifest, None, attributes or {})


def _is_same(sample: Any, value: Any) -> bool:
    """Return whether a number is still the same as a sample, but for digits that floats lack."""
    if isinstance(sample, np.inexact):
        return bool(np.isfinite(sample) == np.isfinite(value))
    return bool(sample == value)


@functools.lru_cache(maxsize=2)
def _inlined_columns(n_chunks: int) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Return the columns of a manifest of no chunk or one; all small arrays share them."""
    columns = np.full(n_chunks, INLINED, np.int32), np.zeros(n_chunks, np.uint64)
    for column in columns:
        column.flags.writeable = False
    return columns


@functools.lru_cache(maxsize=256)
def _plain_codec(n_samples: int, dtype: str) -> SegmentCodec:
    return SegmentCodec((1, 1, 1, n_samples), dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Named arrays and groups, with attributes."""

    children: Mapping[str, Array | Group] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Group({', '.join(f'{name}: {child!r}' for name, child in self.children.items())})"

    @classmethod
    def from_paths(
        cls, arrays: Mapping[str, Array], attributes: Mapping[str, Mapping[str, Any]]
    ) -> Group:
        """Build nested groups.

        Parameters
        ----------
        arrays
            By path; the groups that they are in are made.
        attributes
            Of groups, by path; the root's is empty.
        """
        tree: dict[str, Any] = {}
        for path in attributes:
            _descend(tree, path.split("/") if path else [])
        for path, array in arrays.items():
            *groups, name = path.split("/")
            _descend(tree, groups)[name] = array
        return _nested(tree, "", attributes)

    def arrays(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """Walk all arrays below, depth first, as (path, array)."""
        for name, child in self.children.items():
            if isinstance(child, Group):
                yield from child.arrays(f"{prefix}{name}/")
            else:
                yield f"{prefix}{name}", child

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Array | Group]]:
        """Walk all nodes below this group, depth first, as (path, node)."""
        for name, child in self.children.items():
            path = f"{prefix}{name}"
            yield path, child
            if isinstance(child, Group):
                yield from child.walk(f"{path}/")

    def groups(self) -> Iterator[Group]:
        """Walk this group and all below, depth first."""
        yield self
        for child in self.children.values():
            if isinstance(child, Group):
                yield from child.groups()

    def __getitem__(self, path: str) -> Array | Group:
        node: Array | Group = self
        for name in path.split("/"):
            if not isinstance(node, Group) or name not in node.children:
                raise KeyError(path)
            node = node.children[name]
        return node

    def map_arrays(self, change: Callable[[str, Array], Array | None], prefix: str = "") -> Group:
        """Return the group with all arrays below it changed.

        Parameters
        ----------
        change
            Takes path and array. Arrays for which it returns None are left out, and groups in which
            none is left.
        """
        children: dict[str, Array | Group] = {}
        for name, child in self.children.items():
            path = f"{prefix}{name}"
            if isinstance(child, Array):
                changed: Array | Group | None = change(path, child)
            else:
                changed = below = child.map_arrays(change, f"{path}/")
                if child.children and not below.children:
                    changed = None
            if changed is not None:
                children[name] = changed
        return replace(self, children=children)

    def with_attributes(self, **attributes: Any) -> Group:
        """Return the group with more attributes."""
        return replace(self, attributes={**self.attributes, **attributes})

    def with_children(self, children: Mapping[str, Array | Group]) -> Group:
        """Return the group with these children instead of its own."""
        return replace(self, children=dict(children))


def _descend(tree: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        tree = tree.setdefault(name, {})
    return tree


def _nested(
    tree: Mapping[str, Any], path: str, attributes: Mapping[str, Mapping[str, Any]]
) -> Group:
    children = {
        name: node
        if isinstance(node, Array)
        else _nested(node, f"{path}/{name}" if path else name, attributes)
        for name, node in tree.items()
    }
    return Group(children, dict(attributes.get(path, {})))


Node = Array | Group


def given_attributes(zattrs: Any) -> dict[str, Any]:
    """Return the attributes that a caller adds, None for none.

    Raises
    ------
    SelectionError
        If they are no mapping of names to values.
    """
    if zattrs is None:
        return {}
    if not isinstance(zattrs, Mapping) or not all(isinstance(name, str) for name in zattrs):
        raise SelectionError(
            f"zattrs is not a mapping but {zattrs!r}"[:80], expected="names and values"
        )
    return dict(zattrs)
