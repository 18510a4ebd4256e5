"""What is said of a sequence as a whole, from what its files say.

Owns which coordinates and attributes of the files hold for all of them. What says something of one
file only, such as its date, is left out: it is in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..conventions.hierarchy import PENDING, insert_axes
from ..conventions.tags import TAG_NAMES
from ..model.manifest import INLINED
from ..model.node import Array
from .mosaic import describe_mosaic

if TYPE_CHECKING:
    from .files import Part

__all__ = ["describe_image", "describe_whole", "shared_attributes"]

_PERSONAL = frozenset(
    {"TIFFTAG_DATETIME", "TIFFTAG_ARTIST", "TIFFTAG_HOSTCOMPUTER", "TIFFTAG_DOCUMENTNAME",
     "date_created", "time_coverage_start"}
)  # fmt: skip
"""Attributes that say something of one file."""
_PERSONAL_TAGS = frozenset({269, 285, 306, 315, 316, 700, 33723, 34377, 34665, 34853, 40965})
"""DocumentName, PageName, DateTime, Artist, HostComputer, XMP, IPTC, Photoshop, and the pointers to
Exif, GPS and interoperability directories: they change from file to file."""
_PLACE_TAGS = frozenset({33550, 33922, 34264})
_TIME_NAMES = frozenset({"t", "time", "date", "datetime"})
_CHANNEL_NAMES = frozenset({"c", "channel", "band", "wavelength"})


def describe_image(whole: Array, parts: Sequence[Part], path: str) -> Array:
    """Keep the attributes, and the fill value, that all files agree in."""
    arrays = [part.arrays[path] for part in parts]
    first, *others = {id(array.attributes): array.attributes for array in arrays}.values()
    if len({part.place for part in parts}) > 1:
        first, *others = [_without_tags(one, _PLACE_TAGS) for one in (first, *others)]
    kept = {
        name: value
        for name, value in first.items()
        if all(name in other and repr(other[name]) == repr(value) for other in others)
    }
    fills = {repr(array.fill_value) for array in arrays}
    return replace(whole, attributes=kept, fill_value=whole.fill_value if len(fills) == 1 else None)


def shared_attributes(array: Array) -> dict[str, Any]:
    """Leave out what says something of one file: its time, and tags that change."""
    found = {name: value for name, value in array.attributes.items() if name not in _PERSONAL}
    places = [name for name in str(found.pop("coordinates", "")).split() if name != "time"]
    if places:
        found["coordinates"] = " ".join(places)
    return _without_tags(found, _PERSONAL_TAGS)


def _without_tags(attributes: Mapping[str, Any], codes: frozenset[int]) -> dict[str, Any]:
    """Leave tags out of the attribute that lists them."""
    found = dict(attributes)
    if "tiff_tags" in found:
        names = {TAG_NAMES.get(code, str(code)) for code in codes}
        tags = json.loads(found["tiff_tags"])
        kept = {name: value for name, value in tags.items() if name not in names}
        found["tiff_tags"] = json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
    return found


def describe_whole(
    parts: Sequence[Part],
    images: Mapping[str, Array],
    dims: Sequence[str],
    joined: Iterable[str],
    is_mosaic: bool,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Give the coordinates of the files that hold for the whole, and the attributes of its group.

    Parameters
    ----------
    images
        Arrays of the whole by path.
    dims
        New axes.
    joined
        Dimensions that files were concatenated along: their coordinates hold no more.
    """
    if is_mosaic:
        return describe_mosaic(parts, images)
    if len({part.place for part in parts}) > 1:
        return {}, {}
    gone = {*joined, *(f"{dim}{path.removeprefix('image')}" for dim in joined for path in images)}
    group = parts[0].references.group
    variables = {
        name: child
        for name, child in group.children.items()
        if name not in images
        and isinstance(child, Array)
        and bool((child.manifest.source == INLINED).all())
        and not gone & set(child.dims)
        and not (name == "time" and not child.dims)
    }
    attributes = dict(group.attributes)
    if gone:
        attributes = {
            name: value
            for name, value in attributes.items()
            if name not in ("multiscales", "omero", PENDING, "zarr_conventions")
            and not name.startswith("spatial:")
        }
    else:
        attributes = insert_axes(group, [_axis(dim) for dim in dims])
    return variables, attributes


def _axis(dim: str) -> dict[str, str]:
    if dim.lower() in _TIME_NAMES:
        return {"name": dim, "type": "time"}
    if dim.lower() in _CHANNEL_NAMES:
        return {"name": dim, "type": "channel"}
    return {"name": dim}
