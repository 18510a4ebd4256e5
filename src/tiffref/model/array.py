"""Arrays and groups: the result of a scan, and the input of an export.

Defines the tree of named arrays with their metadata, and the arithmetic that maps the segments of
pages to the chunks of an array. A page has the five dimensions (planes, depth, length, width,
samples) of TIFF. How documents represent arrays is up to `formats`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SelectionError
from .codec import ForeignCodec, SegmentCodec
from .manifest import INLINED, Manifest, Source

PAGE_AXES = "SZYXS"
"""Axis code of each dimension of a page: separate planes, depth, length, width, samples."""

_TARGET_CHUNK_BYTES = 4 << 20
_MAX_UNSPLIT_BYTES = 8 << 20

Shape5 = tuple[int, int, int, int, int]


def segment_shape(page: Shape5, tile: tuple[int, int, int] | None, rows_per_strip: int) -> Shape5:
    """Return the samples of one full strip or tile along each page dimension."""
    _, _, length, width, samples = page
    if tile is None:
        return 1, 1, max(1, min(rows_per_strip, length)), width, samples
    return 1, *tile, samples


@functools.lru_cache(maxsize=1024)
def chunk_grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of chunks along each dimension; the last may extend beyond the array.

    >>> chunk_grid((3, 1, 100, 90, 1), (1, 1, 64, 90, 1))
    (3, 1, 2, 1, 1)
    """
    # cached: each array needs its grid several times, and arrays of many files have the same one
    return tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))


def fit_chunks(
    shape: Sequence[int], axes: str, page: Shape5, segment: Shape5, n_pages: int
) -> tuple[int, ...] | None:
    """Find the chunk shape of an array whose pages have the given segments.

    The leading dimensions of the array count pages. The rest are those of the page, of which
    dimensions of length 1 may be absent.

    Parameters
    ----------
    shape, axes
        Shape and axis codes of the array.
    page, segment
        Normalized shape of a page, and of its full segments.
    n_pages
        Pages in the array.

    Returns
    -------
    The chunk length along each array dimension, or None if segments cannot be chunks of the array.

    Examples
    --------
    >>> fit_chunks((7, 100, 90, 3), "TYXS", (1, 1, 100, 90, 3), (1, 1, 64, 90, 3), 7)
    (1, 64, 90, 3)
    """
    chunks = [1] * len(shape)
    axis = len(shape) - 1
    for letter, size, chunk in zip(PAGE_AXES[::-1], page[::-1], segment[::-1], strict=True):
        if size == 1 and (axis < 0 or shape[axis] != 1 or axes[axis] != letter):
            if chunk != 1:
                return _fit_whole_pages(shape, page, segment, n_pages)
            continue
        while axis >= 0 and shape[axis] == 1 != size:
            axis -= 1
        if axis < 0 or shape[axis] != size:
            return _fit_whole_pages(shape, page, segment, n_pages)
        chunks[axis] = chunk
        axis -= 1
    if math.prod(shape[: axis + 1]) != n_pages:
        return _fit_whole_pages(shape, page, segment, n_pages)
    return tuple(chunks)


def _fit_whole_pages(
    shape: Sequence[int], page: Shape5, segment: Shape5, n_pages: int
) -> tuple[int, ...] | None:
    """Find the chunk shape if each page is one segment that the array reshapes."""
    size = math.prod(page)
    if segment != page or math.prod(shape) != n_pages * size:
        return None
    for axis in range(len(shape)):
        if math.prod(shape[axis:]) == size:
            return (1,) * axis + tuple(shape[axis:])
    return None


def plan_run_rows(n_rows: int, row_bytes: int) -> int:
    """Choose how many rows of a contiguous uncompressed run make a chunk.

    Each chunk read has a cost, so rows are combined to chunks of a few MiB. A divisor of the row
    count is preferred, which makes the last chunk a full one.

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
    if n_rows * row_bytes <= _MAX_UNSPLIT_BYTES:
        return n_rows
    target = max(1, _TARGET_CHUNK_BYTES // row_bytes)
    for rows in range(target, max(1, target // 2) - 1, -1):
        if n_rows % rows == 0:
            return rows
    return target


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """One n-dimensional array over byte ranges.

    Parameters
    ----------
    shape
        Samples along each dimension, outermost first.
    chunks
        Samples of one chunk along each dimension; the last chunk may extend beyond the array.
    dtype
        Data type of the samples in memory, in native byte order.
    dims
        Name of each dimension.
    codecs
        Codecs of the chunks. Normally there is one, and only then can the array be exported. With
        more, `Source.codec` is the index of the one that the chunks of a source need.
    manifest
        Byte ranges of the chunks; its grid is `ceil(shape / chunks)`.
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
        # without the long columns of the manifest
        sizes = ", ".join(f"{dim} {n}" for dim, n in self.sizes.items())
        return f"Array(({sizes}), {self.dtype}, chunks {self.chunks})"

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each dimension, by its name."""
        return dict(zip(self.dims, self.shape, strict=True))

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return chunk_grid(self.shape, self.chunks)

    @property
    def codec(self) -> SegmentCodec | ForeignCodec:
        """The codec of an array that has only one."""
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
            If no sample of the dtype can have this value.
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
                hint="Series may differ in dtype: choose one with series=.",
            )
        return replace(self, fill_value=sample.item())

    def as_variable(self, dims: tuple[str, ...], attributes: Mapping[str, Any]) -> Array:
        """Return the same chunks with other dimension names and attributes."""
        # three times as fast as dataclasses.replace, which took a fifth of the time of a scan
        return Array(
            self.shape, self.chunks, self.dtype, dims, self.codecs, self.manifest,
            self.fill_value, attributes,
        )  # fmt: skip

    @classmethod
    def from_values(
        cls, values: Any, dims: tuple[str, ...] = (), attributes: Mapping[str, Any] | None = None
    ) -> Array:
        """Build a small array, such as a coordinate, with one uncompressed, inlined chunk.

        Parameters
        ----------
        values
            Array or scalar; strings become fixed-width Unicode.
        dims
            Name of each dimension of `values`.
        """
        data = np.asarray(values)
        data = data.astype(data.dtype.newbyteorder("<"), copy=False)
        codec = plain_codec(math.prod(max(1, n) for n in data.shape), data.dtype.str)
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
        """Build a small array with one inlined chunk of these bytes."""
        chunks = tuple(max(1, n) for n in shape)
        grid = chunk_grid(shape, chunks)
        inlined, none = _inlined_columns(math.prod(grid))
        chunk = {0: data} if len(none) else {}
        manifest = Manifest(grid, (), inlined, none, none, chunk)
        return cls(shape, chunks, dtype, dims, (codec,), manifest, None, attributes or {})


def _is_same(sample: Any, value: Any) -> bool:
    """Return whether a value is unchanged as a sample; floats may only lose precision."""
    if isinstance(sample, np.inexact):
        return bool(np.isfinite(sample) == np.isfinite(value))
    return bool(sample == value)


@functools.lru_cache(maxsize=2)
def _inlined_columns(n_chunks: int) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Return the columns of a manifest with no chunk or one; all small arrays share them."""
    columns = np.full(n_chunks, INLINED, np.int32), np.zeros(n_chunks, np.uint64)
    for column in columns:
        column.flags.writeable = False
    return columns


@functools.lru_cache(maxsize=256)
def plain_codec(n_samples: int, dtype: str) -> SegmentCodec:
    """Return the codec of uncompressed samples in C order."""
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
        cls,
        arrays: Mapping[str, Array],
        attributes: Mapping[str, Mapping[str, Any]],
        order: Sequence[str] = (),
    ) -> Group:
        """Build nested groups.

        Parameters
        ----------
        arrays
            Arrays by path; parent groups are created.
        attributes
            Attributes of groups, by path; the path of the root is "".
        order
            Paths of groups and arrays; by default groups come first. Other paths are ignored.
        """
        groups = {"": cls({}, dict(attributes.get("", {})))}
        for path in order or (*attributes, *arrays):
            parent, _, name = path.rpartition("/")
            if path in arrays:
                _children_at(groups, parent, attributes)[name] = arrays[path]
            elif path in attributes:
                _children_at(groups, path, attributes)
        return groups[""]

    def arrays(self) -> list[tuple[str, Array]]:
        """Return all arrays below this group, depth first, as (path, array)."""
        return [(path, node) for path, node in self.walk() if isinstance(node, Array)]

    def walk(self, prefix: str = "") -> list[tuple[str, Array | Group]]:
        """Return all nodes below this group, depth first, as (path, node)."""
        nodes: list[tuple[str, Array | Group]] = []
        for name, child in self.children.items():
            nodes.append((prefix + name, child))
            if isinstance(child, Group):
                nodes += child.walk(f"{prefix}{name}/")
        return nodes

    def groups(self) -> list[Group]:
        """Return this group and all groups below, depth first."""
        return [self, *(node for _, node in self.walk() if isinstance(node, Group))]

    def sources(self) -> dict[str, Source]:
        """Return all files that contain chunks, by their URL."""
        table: dict[str, Source] = {}
        for child in self.children.values():
            own = child.manifest.sources if isinstance(child, Array) else child.sources().values()
            for source in own:
                table.setdefault(source.url, source)
        return table

    def __getitem__(self, path: str) -> Any:
        node: Array | Group = self
        for name in path.split("/"):
            if not isinstance(node, Group) or name not in node.children:
                raise KeyError(path)
            node = node.children[name]
        return node

    def map_arrays(self, change: Callable[[str, Array], Array | None], prefix: str = "") -> Group:
        """Return the group with each array below it replaced.

        Parameters
        ----------
        change
            Function of path and array. Arrays for which it returns None are dropped, and so are
            groups that become empty.
        """
        children: dict[str, Array | Group] = {}
        for name, child in self.children.items():
            path = f"{prefix}{name}"
            if isinstance(child, Group):
                below = child.map_arrays(change, f"{path}/")
                if below.children or not child.children:
                    children[name] = below
            elif (changed := change(path, child)) is not None:
                children[name] = changed
        return self.with_children(children)

    def with_attributes(self, **attributes: Any) -> Group:
        """Return the group with more attributes."""
        return replace(self, attributes={**self.attributes, **attributes})

    def with_children(self, children: Mapping[str, Array | Group]) -> Group:
        """Return the group with these children instead of its own."""
        return Group(dict(children), self.attributes)


def _children_at(
    groups: dict[str, Group], path: str, attributes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Array | Group]:
    """Return the children of the group at a path; build it and its parents if needed."""
    if path not in groups:  # a nested function would keep the arrays alive: it refers to itself
        parent, _, name = path.rpartition("/")
        group = groups[path] = Group({}, dict(attributes.get(path, {})))
        _children_at(groups, parent, attributes)[name] = group
    children = groups[path].children
    assert isinstance(children, dict)
    return children


Node = Array | Group


def check_zattrs(zattrs: Any) -> dict[str, Any]:
    """Return the `zattrs` argument of a caller as a dict; None is an empty one.

    Raises
    ------
    SelectionError
        If it is not a mapping of names to values.
    """
    if zattrs is None:
        return {}
    if not isinstance(zattrs, Mapping) or not all(isinstance(name, str) for name in zattrs):
        raise SelectionError(f"zattrs must be a mapping of names to values, not {zattrs!r}"[:100])
    return dict(zattrs)
