"""OME-NGFF metadata, and conversion of groups to its order of axes and to version 0.5.

Writes `multiscales` and `omero` of OME-NGFF 0.4 from a `Calibration`. A scan keeps the axes of the
file, with OME-NGFF 0.4 metadata if it allows that order. Such a group can be converted to other
orders ("ngff": t, c, z, y, x; "bands-first": band, y, x, as in rioxarray and GDAL), and to the
groups of OME-NGFF 0.5. `model.combine` permutes the arrays.

Reference: OME-NGFF 0.4 and 0.5: "axes", "multiscales", "omero", "bioformats2raw.layout", "OME".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InvalidReferences, SelectionError
from ..model.array import Array, Group
from ..model.combine import permute_axes
from ..model.manifest import INLINED
from .calibration import MODULO, Calibration, Channel
from .geo import fit_layout

_V04, _V05 = "0.4", "0.5"
_TYPES = {letter: name for name, letter in MODULO.items()}
_TYPES |= {"R": "position", "Z": "space", "Y": "space", "X": "space"}
_RANKS = {"time": 0, "space": 2}  # in this order; all others are between them


def _types_of(axes: str) -> list[str]:
    """Return the type of each axis; lifetimes (H) are times if no others are.

    The schema of OME-NGFF takes an axis without a type for one in space.
    """
    types = _TYPES if "T" in axes else {**_TYPES, "H": "time"}
    return [types.get(axis, "other") for axis in axes]


def level_factor(full: int, size: int) -> float:
    """Return the downsampling factor of an overview along an axis.

    Writers round half sizes up or down: 1025 to 512 or 513 is a factor of 2, not 2.0019.
    """
    nearest = round(full / size)
    is_whole = nearest >= 1 and size in (full // nearest, -(-full // nearest))
    return float(nearest) if is_whole else full / size


def level_grid(
    axes: str, shape: Sequence[int], full_shape: Sequence[int], calibration: Calibration
) -> tuple[list[float], list[float]]:
    """Return the scale and the translation of each axis of a level.

    The centre of the first sample of level 0 is at 0, or where the axis starts. The first sample of
    an overview covers `factor` of them, so its centre is (factor - 1) / 2 samples behind that.
    """
    scales, translations = [], []
    for axis, size, full in zip(axes, shape, full_shape, strict=True):
        step = calibration.scales.get(axis, 1.0)
        factor = level_factor(full, size) if axis in "ZYX" and size else 1.0
        scales.append(step * factor)
        translations.append(calibration.starts.get(axis, 0.0) + step * (factor - 1) / 2)
    return scales, translations


def ngff_order(axes: str) -> tuple[int, ...] | None:
    """Return the permutation of axes that OME-NGFF requires; None if it does not allow these axes.

    Time comes first, then at most one other axis, then two or three in space: Z, Y, X.

    Examples
    --------
    >>> ngff_order("TZCYX"), ngff_order("YXS"), ngff_order("CYXS")
    ((0, 2, 1, 3, 4), (2, 0, 1), None)
    """
    kinds = _types_of(axes)
    spaces = "".join(sorted((axis for axis in axes if axis in "ZYX"), reverse=True))
    if spaces not in ("YX", "ZYX"):
        return None
    if kinds.count("time") > 1 or len(kinds) - kinds.count("time") - len(spaces) > 1:
        return None
    ranks = [_RANKS.get(kind, 1) for kind in kinds]
    places = [(rank, "ZYX".find(axis)) for rank, axis in zip(ranks, axes, strict=True)]
    return tuple(sorted(range(len(axes)), key=places.__getitem__))


def multiscale(
    name: str,
    axes: str,
    dims: Sequence[str],
    levels: Sequence[tuple[str, Sequence[int]]],
    calibration: Calibration,
    full_shape: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the `multiscales` entry of one image, whose axes are in the order of OME-NGFF.

    Parameters
    ----------
    name
        Name of the image.
    axes
        One letter for each dimension, as in "TCZYX".
    dims
        Names of the dimensions of the full-size array.
    levels
        Path and shape of each level, the full-size one first.
    calibration
        Calibration of the image.
    full_shape
        Shape of the image that the calibration is of; by default, of the first level.
    """
    described = []
    for axis, dim, kind in zip(axes, dims, _types_of(axes), strict=True):
        unit = calibration.units.get(axis) if axis in calibration.scales else None
        described.append({"name": dim, "type": kind} | ({"unit": unit} if unit else {}))
    datasets = []
    for path, shape in levels:
        scale, translation = level_grid(axes, shape, full_shape or levels[0][1], calibration)
        steps = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ]
        datasets.append({"path": path, "coordinateTransformations": steps})
    return {"version": _V04, "name": name, "axes": described, "datasets": datasets}


def omero(name: str, channels: Sequence[Channel], dtype: np.dtype) -> dict[str, Any]:
    """Return the `omero` metadata: name, color and display window of each channel."""
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    low, high = (0.0, 1.0) if limits is None else (float(limits.min), float(limits.max))
    entries = []
    for n, channel in enumerate(channels):
        start, end = channel.window or (low, high)
        color = channel.color or _PALETTE[n % len(_PALETTE) if len(channels) > 1 else 0]
        window = {"min": low, "max": high, "start": start, "end": end}
        label = channel.name or f"Channel {n}"
        entries.append({"label": label, "color": color, "window": window, "active": True})
    return {"version": _V04, "name": name, "channels": entries}


_PALETTE = ("FFFFFF", "00FF00", "FF0000", "0000FF", "FF00FF", "00FFFF", "FFFF00")


PENDING = "ngff"
"""Root attribute, a JSON text, for OME-NGFF metadata that is not valid yet: `multiscales` of images
whose axes are stored in another order (listed in the order of OME-NGFF), and `omero` of all images
but the first, by the path of their first level. `positions` of an image is the dimension without
which OME-NGFF would allow its axes: positions, or channels with these `names`."""


def describe_image(
    attributes: dict[str, Any],
    name: str,
    axes: str,
    levels: Sequence[tuple[str, Array]],
    calibration: Calibration,
    channels: Sequence[Channel] = (),
    colors: Sequence[Channel] = (),
    full_shape: Sequence[int] = (),
) -> bool:
    """Describe an image in the attributes of the root; call `close_images` after the last one.

    Parameters
    ----------
    attributes
        Root attributes, changed in place.
    name
        Name of the image.
    axes
        One letter for each dimension, as stored; samples (S) are channels if there are no others.
    levels
        Path and array of each level, the full-size one first.
    calibration
        Calibration of the image.
    channels
        Its channels, if known.
    colors
        Its samples as channels, if they are colors.
    full_shape
        Its shape, if the first level is an overview.

    Returns
    -------
    Whether OME-NGFF allows these axes; otherwise nothing is added, except for positions or channels
    that `layout.split_positions` can make images of.
    """
    first = levels[0][1]
    for apart in ("", "R", "C"):  # an image for each position, or for each channel
        kept = [axis for axis, letter in enumerate(axes) if letter != apart]
        letters = axes if apart != "C" and "C" in axes else axes.replace("S", "C")
        order = ngff_order("".join(letters[axis] for axis in kept))
        if order is not None and len(axes) - len(kept) == len(apart):
            break
    else:
        return False
    order = tuple(kept[axis] for axis in order)
    entry = multiscale(
        name,
        "".join(letters[axis] for axis in order),
        [first.dims[axis] for axis in order],
        [(path, [array.shape[axis] for axis in order]) for path, array in levels],
        calibration,
        [(full_shape or first.shape)[axis] for axis in order],
    )
    if apart:
        entry["positions"] = first.dims[axes.index(apart)]
    if apart == "C":
        entry["names"], channels = [channel.name for channel in channels], ()
    size = {letters[axis]: first.shape[axis] for axis in order}.get("C", 1)
    channels = next((one for one in (channels, colors) if len(one) == size), ())
    shown = omero(name, channels, first.dtype) if channels else None
    add_image(attributes, entry, shown, not apart and list(order) == sorted(order))
    return not apart


def add_image(
    attributes: dict[str, Any],
    entry: Mapping[str, Any],
    omero: Mapping[str, Any] | None,
    is_ordered: bool,
) -> None:
    """Add an image to the attributes of the root; call `close_images` after the last one.

    Parameters
    ----------
    attributes
        Root attributes, changed in place.
    entry
        From `multiscale`; axes have the names of the dimensions of the first level.
    omero
        Its channels, if known.
    is_ordered
        Whether the axes are stored in the order of the entry.
    """
    if isinstance(attributes.get("multiscales"), dict):
        return  # GeoZarr multiscales
    is_first = "multiscales" not in attributes and PENDING not in attributes
    pending = pending_images(attributes)
    (attributes if is_ordered else pending).setdefault("multiscales", []).append(entry)
    if omero is not None and is_ordered and is_first:
        attributes["omero"] = omero
    elif omero is not None:
        pending.setdefault("omero", {})[entry["datasets"][0]["path"]] = omero
    if pending:
        attributes[PENDING] = pending  # serialized once at the end, as there may be many images


def close_images(attributes: dict[str, Any]) -> dict[str, Any]:
    """Serialize what `add_image` collected, and return the attributes."""
    pending = attributes.get(PENDING)
    if isinstance(pending, Mapping):
        attributes[PENDING] = json.dumps(pending, separators=(",", ":"), ensure_ascii=False)
    return attributes


def insert_axes(group: Group, axes: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the attributes of a group whose arrays get new leading axes.

    Images whose axes OME-NGFF does not allow then are left out.
    """
    images = _images(group)
    if not images:
        return dict(group.attributes)
    is_channel = any(axis.get("type") == "channel" for axis in axes)
    moved = []
    for image in images:
        entry = _with_axes(image.entry, axes)
        if entry is not None:
            order = [axis["name"] for axis in (*axes, *image.entry["axes"])]
            is_pending = image.is_pending or [ax["name"] for ax in entry["axes"]] != order
            moved.append(_Image(entry, None if is_channel else image.omero, is_pending))
    return _with_images(group.attributes, moved)


IMAGE_ATTRIBUTES = ("multiscales", "omero", PENDING)
"""Root attributes that describe images."""


def _with_axes(entry: Mapping[str, Any], axes: Sequence[Mapping[str, str]]) -> dict | None:
    all_axes = [*axes, *entry["axes"]]
    ranks = [_RANKS.get(axis.get("type", ""), 1) for axis in all_axes]
    if ranks.count(0) > 1 or ranks.count(1) > 1 or ranks.count(2) > 3:
        return None
    order = sorted(range(len(all_axes)), key=ranks.__getitem__)
    datasets = []
    for dataset in entry["datasets"]:
        steps = []
        for step in dataset["coordinateTransformations"]:
            numbers = [float(step["type"] == "scale")] * len(axes) + [*step[step["type"]]]
            steps.append({"type": step["type"], step["type"]: [numbers[n] for n in order]})
        datasets.append({**dataset, "coordinateTransformations": steps})
    return {**entry, "axes": [all_axes[n] for n in order], "datasets": datasets}


@dataclass(frozen=True, slots=True)
class _Image:
    """One image: its `multiscales` entry, its `omero`, and whether its axes must be reordered."""

    entry: Mapping[str, Any]
    omero: Mapping[str, Any] | None
    is_pending: bool

    @property
    def paths(self) -> list[str]:
        return [dataset["path"] for dataset in self.entry["datasets"]]


def _images(group: Group, arrays: Mapping[str, Array] | None = None) -> list[_Image]:
    """Return the images that the attributes of a group describe.

    Those that do not match its arrays, given by path, are left out, as in foreign documents; the
    others are in this order.
    """
    attributes = group.attributes
    pending = pending_images(attributes)
    channels = pending.get("omero", {})
    listed = attributes.get("multiscales")
    entries = [(entry, False) for entry in listed] if isinstance(listed, list) else []
    entries += [(entry, True) for entry in pending.get("multiscales", [])]
    if arrays is not None:
        entries = [(entry, flag) for entry, flag in entries if _matches_arrays(entry, arrays)]
        order = {path: n for n, path in enumerate(arrays)}
        entries.sort(key=lambda row: order[row[0]["datasets"][0]["path"]])
    images = []
    for n, (entry, is_pending) in enumerate(entries):
        first = attributes.get("omero") if n == 0 and not is_pending else None
        shown = channels.get(entry["datasets"][0]["path"], first)
        images.append(_Image(entry, shown if isinstance(shown, Mapping) else None, is_pending))
    return images


def pending_images(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pending metadata of root attributes, parsed; empty if there is none."""
    pending: Any = attributes.get(PENDING)
    try:
        pending = json.loads(pending) if isinstance(pending, str) else pending
    except (ValueError, RecursionError):
        return {}
    is_valid = (  # other programs may write anything
        isinstance(pending, dict)
        and isinstance(pending.get("multiscales", []), list)
        and isinstance(pending.get("omero", {}), dict)
    )
    return pending if is_valid else {}


def _matches_arrays(entry: Any, arrays: Mapping[str, Array]) -> bool:
    """Return whether an entry of version 0.4 matches arrays of the group, axis by axis."""
    try:
        names = [axis["name"] for axis in entry["axes"]]
        levels = [arrays[dataset["path"]] for dataset in entry["datasets"]]
        steps = [step[step["type"]] for dataset in entry["datasets"]
                 for step in dataset["coordinateTransformations"]]  # fmt: skip
        return (
            sorted(levels[0].dims) == sorted(names)
            and all(len(level.dims) == len(names) for level in levels)
            and all(len(numbers) == len(names) for numbers in steps)
        )
    except (KeyError, TypeError, IndexError):
        return False


def _with_images(attributes: Mapping[str, Any], images: Sequence[_Image]) -> dict[str, Any]:
    """Return the attributes of a group with these images only."""
    kept = {name: value for name, value in attributes.items() if name not in IMAGE_ATTRIBUTES}
    for image in images:
        add_image(kept, image.entry, image.omero, not image.is_pending)
    return close_images(kept)


def image_channels(root: Group) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Return the channels of `omero` of all images, by the path of their first level."""
    root, channels = from_ngff(root), {}
    for path, node in [("", root), *root.walk()]:
        for image in _images(node, dict(node.arrays())) if isinstance(node, Group) else ():
            listed = (image.omero or {}).get("channels")
            if isinstance(listed, list) and all(isinstance(one, Mapping) for one in listed):
                channels[f"{path}/{image.paths[0]}".lstrip("/")] = tuple(listed)
    return channels


def has_images(group: Group) -> bool:
    """Return whether a group, or one below, has images for `to_ngff`."""
    return any(_images(node, dict(node.arrays())) for node in group.groups())


def without_pending(group: Group) -> Group:
    """Drop the images whose axes are not stored in the order of OME-NGFF."""
    if not pending_images(group.attributes):
        return group
    arrays = dict(group.arrays())
    images = [
        replace(image, is_pending=False)
        for image in _images(group, arrays)
        if [axis["name"] for axis in image.entry["axes"]] == [*arrays[image.paths[0]].dims]
    ]
    return replace(group, attributes=_with_images(group.attributes, images))


def from_ngff(group: Group) -> Group:
    """Convert the metadata of an OME-NGFF 0.5 group to 0.4, for Zarr v2; the layout stays."""
    ome = group.attributes.get("ome")
    attributes = {name: value for name, value in group.attributes.items() if name != "ome"}
    for name, value in (ome if isinstance(ome, Mapping) else {}).items():
        if name == "multiscales" and isinstance(value, list):
            entries = [entry for entry in value if isinstance(entry, Mapping)]
            attributes[name] = [{"version": "0.4", **entry} for entry in entries]
        elif name != "version":
            is_object = isinstance(value, Mapping)
            attributes[name] = {"version": "0.4", **value} if is_object else value
    children = {
        name: from_ngff(child) if isinstance(child, Group) else child
        for name, child in group.children.items()
    }
    return Group(children, attributes)


# ---- axes in another order

AXES = ("as-stored", "ngff", "bands-first")
"""Available orders."""


def order_axes(group: Group, series: Sequence[Mapping[str, Any]], axes: str | None) -> Group:
    """Return a group with the axes of its images in another order.

    Parameters
    ----------
    group
        The root group.
    series
        Record of the series, as in `References`.
    axes
        One of `AXES`; None leaves the axes as they are.

    Raises
    ------
    SelectionError
        If the order is unknown, or the images do not have the axes for it.
    UnsupportedTiff
        If the chunks of an image cannot be transposed.
    """
    if axes in (None, "as-stored"):
        return group
    if axes not in AXES:
        raise SelectionError(
            "unknown order of axes", got=repr(axes), expected=f"one of {', '.join(AXES)}"
        )
    if axes == "bands-first":
        moved = group.map_arrays(lambda _, array: _bands_first(array))
        return replace(moved, attributes=fit_layout(group.attributes, dict(moved.arrays())))
    return to_ngff_order(_with_all_images(group, series))


def _bands_first(array: Array) -> Array:
    kinds = [dim.split("_")[0] for dim in array.dims]
    bands = [n for n, kind in enumerate(kinds) if kind in ("band", "s")]
    planes = [n for n, kind in enumerate(kinds) if kind in ("y", "x")]
    if len(bands) != 1 or not planes or bands[0] < planes[0]:
        return array
    order = [n for n in range(len(kinds)) if n != bands[0]]
    order.insert(planes[0], bands[0])
    return permute_axes(array, order, self_inverse=True)


def _with_all_images(group: Group, series: Sequence[Mapping[str, Any]]) -> Group:
    """Add OME-NGFF metadata for images that have none, as their sizes are unknown.

    Raises `SelectionError` if OME-NGFF does not allow the axes of an image.
    """
    arrays = dict(group.arrays())
    described = {path for image in _images(group, arrays) for path in image.paths}
    attributes = dict(group.attributes)
    for row in series:
        paths = [level["path"] for level in row["levels"] if level.get("path") in arrays]
        if not paths or "role" in arrays[paths[0]].attributes or paths[0] in described:
            continue
        first = arrays[paths[0]]
        letters = "".join(dim[:1].upper() for dim in first.dims)
        levels, name = [(path, arrays[path]) for path in paths], row["name"] or paths[0]
        if "grid_mapping" in first.attributes or not describe_image(
            attributes, name, letters, levels, Calibration()
        ):
            raise _axes_error(first)
        described.add(paths[0])
    if not described:
        raise SelectionError("no image has axes that can be reordered", got="axes='ngff'")
    return Group(group.children, close_images(attributes))


def _axes_error(array: Array) -> SelectionError:
    hint = "Use axes='as-stored', or select the image with series=."
    what = "OME-NGFF does not allow these axes"
    if "grid_mapping" in array.attributes:
        what = "OME-NGFF cannot describe georeferenced images"
        hint = "Use axes='bands-first' or 'as-stored'."
    elif {"row", "column"} <= set(array.dims) or "well" in array.dims:
        hint = "Use layout='hcs' for a plate, or axes='as-stored'."
    return SelectionError(
        what, got=", ".join(array.dims), expected="t, c, z, y, x, or some of them", hint=hint
    )


def to_ngff_order(group: Group) -> Group:
    """Permute the axes of all images to the order of OME-NGFF; paths stay the same.

    The samples of a color image become its channels.

    Raises
    ------
    UnsupportedTiff
        If the chunks of an image cannot be transposed.
    """
    arrays, images = dict(group.arrays()), []
    for image in _images(group, arrays):
        first_dims = arrays[image.paths[0]].dims
        for path in image.paths:
            moved = _ordered(arrays[path], first_dims, image)
            dims = tuple(_channel_name(dim) for dim in moved.dims)
            arrays[path] = moved.as_variable(dims, moved.attributes)
        axes = [{**axis, "name": _channel_name(axis["name"])} for axis in image.entry["axes"]]
        images.append(_Image({**image.entry, "axes": axes}, image.omero, False))
    ordered = group.map_arrays(lambda path, _: arrays[path])
    return replace(ordered, attributes=_with_images(group.attributes, images))


def _channel_name(name: str) -> str:
    """Return the name of a dimension, with "s" (samples of color images) replaced by "c"."""
    return f"c{name[1:]}" if name.split("_")[0] == "s" else name


def _ordered(array: Array, first_dims: Sequence[str], image: _Image) -> Array:
    """Permute a level to the axes of its entry, which have the names of the first level."""
    return permute_axes(array, [first_dims.index(axis["name"]) for axis in image.entry["axes"]])


# ---- version 0.5: groups


@dataclass(slots=True)
class _Hierarchy:
    """The tree under construction; `moves` maps old to new paths."""

    arrays: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    moves: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, array: Array) -> None:
        if path in self.arrays:
            raise InvalidReferences(
                "two arrays have the same path in OME-NGFF",
                tag=f"array '{path}'",
                hint="Scan a single series (series=), or write Zarr v2 metadata (zarr_format=2).",
            )
        self.arrays[path] = array


def to_ngff(
    group: Group, series: Sequence[Mapping[str, Any]]
) -> tuple[Group, Sequence[Mapping[str, Any]]]:
    """Lay out the images of a group as OME-NGFF 0.5.

    Each level of a pyramid is in its own group, with dimensions named like the axes. If there are
    several images, or others that OME-NGFF does not allow, they are in groups "0", "1", ..., as in
    bioformats2raw. Other arrays keep their paths.

    Parameters
    ----------
    group
        From a scan, or a Zarr v2 document.
    series
        Record of the series, as in `References`.

    Returns
    -------
    group, series
        The same objects if there are no images.

    Raises
    ------
    UnsupportedTiff
        If the chunks of an image cannot be transposed.
    InvalidReferences
        If two arrays would have one path.
    """
    if not has_images(group):
        return group, series
    tree = _Hierarchy()
    _lay_out("", group, tree)

    def move(level: Mapping[str, Any]) -> Mapping[str, Any]:
        path = level.get("path")
        return {**level, "path": tree.moves[path]} if path in tree.moves else level

    moved = [{**row, "levels": [*map(move, row["levels"])]} for row in series]
    return Group.from_paths(tree.arrays, tree.attributes), moved


def _lay_out(prefix: str, group: Group, tree: _Hierarchy) -> None:
    images = _images(group, dict(group.arrays()))
    attributes = _with_images(group.attributes, ()) if images else dict(group.attributes)
    # groups with images of their own, such as the parts of a split sequence
    below = {
        name: child
        for name, child in group.children.items()
        if isinstance(child, Group) and has_images(child)
    }
    rest = {path: array for path, array in group.arrays() if path.partition("/")[0] not in below}
    for name, child in below.items():
        _lay_out(f"{prefix}{name}/", child, tree)
    index = _index_coordinates(rest) if images else {}
    left = _without_moved(rest, images)
    is_only = len(images) == 1 and "image" not in left
    for n, image in enumerate(images):
        lead = prefix if is_only else f"{prefix}{n}/"
        placed = _place_levels(lead, prefix, rest, index, image, tree)
        ome: dict[str, Any] = {"version": _V05, "multiscales": [placed]}
        if image.omero is not None:
            ome["omero"] = {k: v for k, v in image.omero.items() if k != "version"}
        if is_only:
            attributes["ome"] = ome
        else:
            tree.attributes[lead.rstrip("/")] = {"ome": ome}
    if images and not is_only:
        attributes["ome"] = {"version": _V05, "bioformats2raw.layout": 3}
        listed = [str(n) for n in range(len(images))]
        tree.attributes[f"{prefix}OME"] = {"ome": {"version": _V05, "series": listed}}
    for name in ("plate", "well"):
        if isinstance(attributes.get(name), Mapping):
            attributes["ome"] = {"version": _V05, name: {**attributes.pop(name), "version": _V05}}
    tree.attributes[prefix.rstrip("/")] = attributes
    for path, array in left.items():
        tree.add(prefix + path, array)


def _place_levels(
    lead: str,
    prefix: str,
    arrays: Mapping[str, Array],
    index: _Index,
    image: _Image,
    tree: _Hierarchy,
) -> dict[str, Any]:
    """Add the levels of an image to the tree, and return its entry."""
    # without the suffix that distinguishes dimensions of different images
    last = image.entry["axes"][-1]["name"]
    suffix = last[1:] if last[:2] in ("x", "x_") else ""
    names = [_channel_name(axis["name"].removesuffix(suffix)) for axis in image.entry["axes"]]
    first_dims = arrays[image.paths[0]].dims
    datasets = []
    for n, dataset in enumerate(image.entry["datasets"]):
        old = dataset["path"]
        path = f"{n}/image" if len(image.paths) > 1 or "/" in old else "image"
        level = _ordered(arrays[old], first_dims, image)
        renamed = dict(zip(level.dims, names, strict=True))
        folder = f"{lead}{path}".rpartition("/")[0]
        tree.add(f"{lead}{path}", level.as_variable(tuple(names), level.attributes))
        for name, variable in _coordinates(arrays, index, old, renamed, folder).items():
            tree.add(name, variable)
        tree.moves[prefix + old] = f"{lead}{path}"
        datasets.append({**dataset, "path": path})
    axes = [{**axis, "name": name} for axis, name in zip(image.entry["axes"], names, strict=True)]
    entry = {n: v for n, v in image.entry.items() if n != "version"}
    return {**entry, "axes": axes, "datasets": datasets}


_Index = Mapping[tuple[str, str], Sequence[tuple[int, str]]]
"""Position and path of coordinates, by their group and first dimension ("" for scalars)."""


def _index_coordinates(arrays: Mapping[str, Array]) -> _Index:
    index: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for n, (path, array) in enumerate(arrays.items()):
        if _is_inlined_coordinate(array):
            key = path.rpartition("/")[0], array.dims[0] if array.dims else ""
            index.setdefault(key, []).append((n, path))
    return index


def _coordinates(
    arrays: Mapping[str, Array], index: _Index, path: str, renamed: Mapping[str, str], folder: str
) -> dict[str, Array]:
    """Return the coordinates and scalar variables of a level, by their new paths."""
    here, _, own = path.rpartition("/")
    named = str(arrays[path].attributes.get("coordinates", "")).split()
    variables = {}
    for _, name in sorted(one for dim in (*renamed, "") for one in index.get((here, dim), ())):
        array, last = arrays[name], name.rpartition("/")[2]
        if last != own and set(array.dims) <= renamed.keys() and (array.dims or last in named):
            dims, new = tuple(renamed[dim] for dim in array.dims), renamed.get(last, last)
            variables[f"{folder}/{new}".lstrip("/")] = replace(array, dims=dims)
    return variables


def _is_inlined_coordinate(array: Array) -> bool:
    """Return whether an array is a coordinate: all of its chunks are inlined."""
    is_inlined = array.manifest.n_chunks > 0 and bool((array.manifest.source == INLINED).all())
    return is_inlined and "role" not in array.attributes


def _without_moved(arrays: Mapping[str, Array], images: Sequence[_Image]) -> dict[str, Array]:
    """Return the arrays that remain without the images and their own coordinates."""
    moved = {path for image in images for path in image.paths}
    left = {
        path: array
        for path, array in arrays.items()
        if path not in moved and not _is_inlined_coordinate(array)
    }
    used, gone = _referenced_names(left), _referenced_names({path: arrays[path] for path in moved})
    for path, array in arrays.items():
        if path not in moved and path not in left:
            parent, _, name = path.rpartition("/")
            needs = {(parent, dim) for dim in array.dims} or {(parent, name)}
            if needs & used or not needs & gone:
                left[path] = array
    return left


def _referenced_names(arrays: Mapping[str, Array]) -> set[tuple[str, str]]:
    """Return the dimensions and scalars that arrays refer to, as (group, name)."""
    return {
        (path.rpartition("/")[0], name)
        for path, array in arrays.items()
        for name in (*array.dims, *str(array.attributes.get("coordinates", "")).split())
    }
