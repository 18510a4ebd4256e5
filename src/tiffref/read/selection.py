"""What a selection asks of an array: which samples, and where they go in the result.

Owns NumPy basic indexing (integers, slices, Ellipsis, newaxis) and its intersection with a chunk
grid, axis by axis, as arithmetic on arrays. It reads nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SelectionError

__all__ = ["Axis", "Selection", "parse_selection", "plan_axis"]


@dataclass(frozen=True, slots=True)
class Selection:
    """A basic selection, one (first, step, count) for each dimension of the array.

    Steps are positive: where the user's step is negative the samples are read in ascending order
    and the result is a flipped view. `index` turns the array of shape `counts` into the result;
    `inverse` gives, for an array of the result's shape, the view of shape `counts`.
    """

    first: tuple[int, ...]
    step: tuple[int, ...]
    counts: tuple[int, ...]
    index: tuple[Any, ...]
    inverse: tuple[Any, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """The chunks that a selection touches along one dimension.

    `chunk` is `(m,)` int64, ascending. For each, `out` is where its samples go in the result, and
    `inner` which samples of the chunk they are; `is_whole` tells that they are all of them.
    `low` and `extent` say the same in numbers: the first sample within the chunk, and the samples
    from there to the last one, both included.
    """

    chunk: NDArray[np.int64]
    out: list[slice]
    inner: list[slice]
    is_whole: list[bool]
    low: NDArray[np.int64]
    extent: NDArray[np.int64]


def parse_selection(selection: Any, shape: Sequence[int]) -> Selection:
    """Understand a basic selection of an array.

    Parameters
    ----------
    selection
        An integer, slice, Ellipsis, None (a new axis), or a tuple of these.
    shape
        Of the array.

    Raises
    ------
    SelectionError
        If an index is out of range, there are too many, or one is of another kind.

    Examples
    --------
    >>> parse_selection((slice(None, None, -2), 3), (5, 9)).counts
    (3, 1)
    """
    items = _expand(selection, len(shape))
    dimension = 0
    first: list[int] = []
    step: list[int] = []
    counts: list[int] = []
    out_shape: list[int] = []
    index: list[Any] = []
    inverse: list[Any] = []
    for item in items:
        if item is None:
            index.append(None)
            inverse.append(0)
            out_shape.append(1)
            continue
        size = shape[dimension]
        if isinstance(item, slice):
            start, by, count, flip = _parse_slice(item, size, dimension)
            index.append(flip)
            inverse.append(flip)
            out_shape.append(count)
        else:
            start, by, count = _parse_integer(item, size, dimension), 1, 1
            index.append(0)
            inverse.append(None)
        first.append(start)
        step.append(by)
        counts.append(count)
        dimension += 1
    if _has_ellipsis(selection):
        # NumPy gives a 0-d array, not a scalar, where an Ellipsis is in the index
        index.append(...)
    return Selection(
        tuple(first), tuple(step), tuple(counts), tuple(index), (*inverse, ...), tuple(out_shape)
    )


def plan_axis(first: int, step: int, count: int, chunk: int) -> Axis:
    """Intersect the selection of one dimension with its chunks.

    Parameters
    ----------
    first, step, count
        The selected samples: `first + step * arange(count)`, step at least 1.
    chunk
        Samples of a chunk along this dimension.
    """
    if count == 0:
        none = np.zeros(0, np.int64)
        return Axis(none, [], [], [], none, none)
    last = first + step * (count - 1)
    if step <= chunk:
        chunks = np.arange(first // chunk, last // chunk + 1, dtype=np.int64)
    else:
        chunks = np.unique((first + step * np.arange(count, dtype=np.int64)) // chunk)
    # ceil((edge - first) / step) is the first selected sample at or past a chunk's edge
    start = np.maximum(-((first - chunks * chunk) // step), 0)
    stop = np.minimum(-((first - (chunks + 1) * chunk) // step), count)
    low = first + start * step - chunks * chunk
    extent = (stop - start - 1) * step + 1
    out = [slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
    inner = [slice(a, a + n, step) for a, n in zip(low.tolist(), extent.tolist(), strict=True)]
    return Axis(chunks, out, inner, (stop - start == chunk).tolist(), low, extent)


def _expand(selection: Any, ndim: int) -> list[Any]:
    """Give a list with one item for each dimension, and None for each new axis."""
    items = list(selection) if isinstance(selection, tuple) else [selection]
    n_ellipsis = sum(isinstance(item, EllipsisType) for item in items)
    if n_ellipsis > 1:
        raise SelectionError("an index can have only one Ellipsis", got=n_ellipsis)
    n_indices = sum(item is not None for item in items) - n_ellipsis
    if n_indices > ndim:
        raise SelectionError("too many indices", got=n_indices, expected=f"at most {ndim}")
    rest = [slice(None)] * (ndim - n_indices)
    if not n_ellipsis:
        return items + rest
    at = next(i for i, item in enumerate(items) if isinstance(item, EllipsisType))
    return items[:at] + rest + items[at + 1 :]


def _has_ellipsis(selection: Any) -> bool:
    items = selection if isinstance(selection, tuple) else (selection,)
    return any(isinstance(item, EllipsisType) for item in items)


def _parse_slice(item: slice, size: int, dimension: int) -> tuple[int, int, int, slice]:
    """Give first, positive step and count of a slice, and the slice that restores its order."""
    try:
        start, stop, step = item.indices(size)
    except (TypeError, ValueError) as error:
        raise SelectionError(f"invalid slice of dimension {dimension}", got=item) from error
    count = len(range(start, stop, step))
    if step > 0:
        return start, step, count, slice(None)
    return start + step * max(count - 1, 0), -step, count, slice(None, None, -1)


def _parse_integer(item: Any, size: int, dimension: int) -> int:
    """Give the index of an integer, counting negative ones from the end."""
    # numpy takes booleans as masks, so they are no integers here
    if isinstance(item, bool | np.bool_):
        raise _not_basic(item)
    try:
        value = operator.index(item)
    except TypeError:
        raise _not_basic(item) from None
    if not -size <= value < size:
        raise SelectionError(
            f"index out of range in dimension {dimension}",
            got=value,
            expected=f"{-size} to {size - 1}" if size else "an empty dimension has none",
        )
    return value + size if value < 0 else value


def _not_basic(item: Any) -> SelectionError:
    return SelectionError(
        "not a basic index",
        got=type(item).__name__,
        expected="integers, slices, Ellipsis or None",
        hint="For masks and lists of indices use zarr.open(store, mode='r').oindex[...].",
    )
