"""OME-NGFF 0.4 metadata, and physical coordinates.

Owns `multiscales` and `omero`, which axes OME-NGFF admits, and where the pixels of an overview are.
What the sizes and channels are comes from `calibration`; how a group becomes OME-NGFF 0.5 is said
by `hierarchy`.

Reference: OME-NGFF 0.4, "axes", "multiscales" and "omero" metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .calibration import Calibration, Channel
from .geokeys import MAX_COORDINATE

__all__ = [
    "channel_names",
    "level_factor",
    "level_grid",
    "multiscale",
    "ngff_order",
    "omero",
    "physical_coordinates",
]

VERSION = "0.4"
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_RANKS = {"time": 0, "channel": 1, "": 1, "space": 2}


def level_factor(full: int, size: int) -> float:
    """Return how many samples of the full image go into one of an overview along an axis.

    Writers halve odd sizes up or down: 1025 to 512 or 513 is a factor of 2, not of 2.0019.
    """
    nearest = round(full / size)
    is_whole = nearest >= 1 and size in (full // nearest, -(-full // nearest))
    return float(nearest) if is_whole else full / size


def level_grid(
    axes: str, shape: Sequence[int], full_shape: Sequence[int], calibration: Calibration
) -> tuple[list[float], list[float]]:
    """Return the scale and the translation of each axis of a level.

    The centre of the first sample of the full image is at 0; the first sample of an overview covers
    several of those, so that its centre lies half of them minus half a sample further.
    """
    scales, translations = [], []
    for axis, size, full in zip(axes, shape, full_shape, strict=True):
        step = calibration.scales.get(axis, 1.0)
        factor = level_factor(full, size) if axis in "ZYX" and size else 1.0
        scales.append(step * factor)
        translations.append(step * (factor - 1) / 2)
    return scales, translations


def ngff_order(axes: str) -> tuple[int, ...] | None:
    """Return the order in which OME-NGFF admits some axes, None where it admits them in none.

    Time comes first, then at most one other axis, then two or three in space, Z before Y before X.

    Examples
    --------
    >>> ngff_order("TZCYX"), ngff_order("YXS"), ngff_order("CYXS")
    ((0, 2, 1, 3, 4), (2, 0, 1), None)
    """
    kinds = [_TYPES.get(axis, "") for axis in axes]
    spaces = "".join(sorted((axis for axis in axes if axis in "ZYX"), reverse=True))
    if spaces not in ("YX", "ZYX"):
        return None
    if kinds.count("time") > 1 or kinds.count("channel") + kinds.count("") > 1:
        return None
    places = [(_RANKS[kind], "ZYX".find(axis)) for kind, axis in zip(kinds, axes, strict=True)]
    return tuple(sorted(range(len(axes)), key=places.__getitem__))


def multiscale(
    name: str,
    axes: str,
    dims: Sequence[str],
    levels: Sequence[tuple[str, Sequence[int]]],
    calibration: Calibration,
) -> dict[str, Any] | None:
    """Return the `multiscales` entry of one image.

    Parameters
    ----------
    name
        Of the image.
    axes
        One letter for each dimension, as in "TCZYX".
    dims
        Names of the dimensions of the full-size array.
    levels
        Path and shape of each level, the full-size one first.
    calibration
        Of the image.

    Returns
    -------
    entry
        None where OME-NGFF does not admit the axes in this order (see `ngff_order`).
    """
    if ngff_order(axes) != tuple(range(len(axes))):
        return None
    described = []
    for axis, dim in zip(axes, dims, strict=True):
        entry = {"name": dim}
        if axis in _TYPES:
            entry["type"] = _TYPES[axis]
        if axis in calibration.scales and axis in calibration.units:
            entry["unit"] = calibration.units[axis]
        described.append(entry)
    datasets = []
    for path, shape in levels:
        scale, translation = level_grid(axes, shape, levels[0][1], calibration)
        steps = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ]
        datasets.append({"path": path, "coordinateTransformations": steps})
    return {"version": VERSION, "name": name, "axes": described, "datasets": datasets}


def omero(name: str, channels: Sequence[Channel], dtype: np.dtype) -> dict[str, Any]:
    """Return the `omero` metadata: what each channel is called, and how to show it."""
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    low, high = (0.0, 1.0) if limits is None else (float(limits.min), float(limits.max))
    entries = []
    for n, channel in enumerate(channels):
        start, end = channel.window or (low, high)
        color = channel.color or _PALETTE[n % len(_PALETTE) if len(channels) > 1 else 0]
        window = {"min": low, "max": high, "start": start, "end": end}
        label = channel.name or f"Channel {n}"
        entries.append({"label": label, "color": color, "window": window, "active": True})
    return {"version": VERSION, "name": name, "channels": entries}


_PALETTE = ("FFFFFF", "00FF00", "FF0000", "0000FF", "FF00FF", "00FFFF", "FFFF00")


def channel_names(channels: Sequence[Channel], n_channels: int) -> list[str] | None:
    """Return the names to use as a coordinate: only if every channel has one of its own."""
    names = [channel.name for channel in channels]
    is_usable = len(names) == n_channels and all(names) and len(set(names)) == n_channels
    return names if is_usable else None


def physical_coordinates(
    axes: str, shape: Sequence[int], full_shape: Sequence[int], calibration: Calibration
) -> Mapping[str, tuple[np.ndarray, dict[str, Any]]]:
    """Return the coordinates of the axes whose scale is known, by letter: values and attributes."""
    found: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
    scales, translations = level_grid(axes, shape, full_shape, calibration)
    for axis, size, scale, start in zip(axes, shape, scales, translations, strict=True):
        if axis not in _TYPES or axis == "C" or size > MAX_COORDINATE:
            continue
        values = np.arange(size) * scale + start
        if axis == "T" and len(calibration.times) == size:
            values = np.asarray(calibration.times, np.float64)
        elif axis not in calibration.scales:
            continue
        attributes: dict[str, Any] = {"axis": axis}
        if axis in calibration.units:
            attributes["units"] = calibration.units[axis]
        found[axis] = (values, attributes)
    return found
