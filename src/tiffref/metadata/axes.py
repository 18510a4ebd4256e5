"""The order of axes that a reader needs.

Owns the names of the orders and what each means for the arrays of a group: "as-stored", "ngff"
(t, c, z, y, x, as OME-NGFF has them) and "bands-first" (band, y, x, as rioxarray and GDAL have
them). How an array takes another order is for `model.transpose`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SelectionError
from ..model.array import Array, Group
from ..model.transpose import permute
from .calibration import Calibration
from .geo import fit_layout
from .hierarchy import add_image, close_images, described_paths, to_ngff_order
from .ngff import multiscale, ngff_order

__all__ = ["AXES", "order_axes"]

AXES = ("as-stored", "ngff", "bands-first")
"""Orders that may be asked for."""

_BANDS = frozenset({"band", "s"})


def order_axes(group: Group, series: Sequence[Mapping[str, Any]], axes: str | None) -> Group:
    """Return a group with the axes of its images in another order.

    Parameters
    ----------
    group
        The root.
    series
        Record of the series, as in `References`.
    axes
        One of `AXES`; None leaves the axes as they are.

    Raises
    ------
    SelectionError
        If there is no such order, or the images have not the axes for it.
    UnsupportedTiff
        If the chunks of an image cannot be transposed.
    """
    if axes in (None, "as-stored"):
        return group
    if axes not in AXES:
        raise SelectionError(
            "no such order of axes", got=repr(axes), expected=f"one of {', '.join(AXES)}"
        )
    if axes == "bands-first":
        paths = {path: _bands_first(array) for path, array in group.arrays()}
        return _with_arrays(group, paths)
    return to_ngff_order(_described(group, series))


def _with_arrays(group: Group, arrays: Mapping[str, Array]) -> Group:
    groups = {path: node.attributes for path, node in group.walk() if isinstance(node, Group)}
    return Group.from_paths(arrays, {"": fit_layout(group.attributes, arrays), **groups})


def _bands_first(array: Array) -> Array:
    kinds = [dim.split("_")[0] for dim in array.dims]
    bands = [n for n, kind in enumerate(kinds) if kind in _BANDS]
    planes = [n for n, kind in enumerate(kinds) if kind in ("y", "x")]
    if len(bands) != 1 or not planes or bands[0] < planes[0]:
        return array
    order = [n for n in range(len(kinds)) if n != bands[0]]
    order.insert(planes[0], bands[0])
    return permute(array, order, self_inverse=True)


def _described(group: Group, series: Sequence[Mapping[str, Any]]) -> Group:
    """Return the group with OME-NGFF metadata of all its images, also those without any sizes.

    Raises
    ------
    SelectionError
        If OME-NGFF does not admit the axes of one.
    """
    known = described_paths(group)
    arrays = dict(group.arrays())
    attributes = dict(group.attributes)
    is_found = bool(known)
    for row in series:
        levels = [arrays[one["path"]] for one in row["levels"] if one.get("path") in arrays]
        if not levels or "role" in levels[0].attributes or row["levels"][0].get("path") in known:
            continue
        first = levels[0]
        letters = "".join(dim.split("_")[0][:1].upper() for dim in first.dims)
        letters = letters if "C" in letters else letters.replace("S", "C")
        order = None if "grid_mapping" in first.attributes else ngff_order(letters)
        if order is None:
            raise _not_admitted(first)
        entry = multiscale(
            row["name"] or row["levels"][0]["path"],
            "".join(letters[axis] for axis in order),
            [first.dims[axis] for axis in order],
            [(one["path"], [arrays[one["path"]].shape[axis] for axis in order])
             for one in row["levels"] if one.get("path") in arrays],
            Calibration(),
        )  # fmt: skip
        assert entry is not None
        add_image(attributes, entry, None, order == tuple(range(len(order))))
        is_found = True
    if not is_found:
        raise SelectionError("there is no image whose axes could be ordered", got="axes='ngff'")
    return Group(group.children, close_images(attributes))


def _not_admitted(array: Array) -> SelectionError:
    hint = "Use axes='as-stored', or choose the image by series=."
    what = "OME-NGFF does not admit these axes"
    if "grid_mapping" in array.attributes:
        what, hint = "OME-NGFF does not describe maps", "Use axes='bands-first' or 'as-stored'."
    elif {"row", "column"} <= set(array.dims) or "well" in array.dims:
        hint = "Use layout='hcs' to make a plate, or axes='as-stored'."
    return SelectionError(
        what, got=", ".join(array.dims), expected="t, c, z, y, x, or some of them", hint=hint
    )
