"""Paths, dimension names and roles of the arrays of a file.

Roles are those of images other than the main one: mask, thumbnail, label. A mask shares the
dimensions of its image. Axis codes are one letter each; dimensions have the lower-case names of
OME-NGFF (t, c, z, y, x) and CF.

Reference: TIFF 6.0, NewSubfileType (254): bit 0 is "reduced-resolution version", bit 2
"transparency mask".
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SelectionError
from ..model.array import Array, Group
from ..model.combine import select_index, split_chunks
from ..model.tiff_facts import FileFacts, LevelFacts, SeriesFacts
from .geokeys import is_georeferenced
from .ngff import PENDING, add_image, close_images, pending_images


@functools.lru_cache(maxsize=1024)
def dimension_names(axes: str, suffix: str = "") -> tuple[str, ...]:
    """Return the dimension names of an array.

    Parameters
    ----------
    axes
        One letter for each dimension, outermost first, such as "TCYX".
    suffix
        Appended to each name, so that arrays of different sizes can be in one group.

    Examples
    --------
    >>> dimension_names("ZYX", "_1")
    ('z_1', 'y_1', 'x_1')
    >>> dimension_names("QQYX")
    ('q', 'q2', 'y', 'x')
    """
    names: list[str] = []
    for letter in axes:
        name = "band" if letter == "B" else letter.lower()
        n_before = sum(1 for other in axes[: len(names)] if other == letter)
        names.append(f"{name}{n_before + 1 if n_before else ''}{suffix}")
    return tuple(names)


REDUCED_BIT, MASK_BIT = 1, 4
_ROLES = frozenset({"thumbnail", "label", "macro", "map", "overview", "probability"})
"""tifffile's series names of secondary images in slide files."""


@dataclass(frozen=True, slots=True)
class LevelName:
    """Name of the array of one level.

    `group` is its group, "" for the root; `dims` its dimension names; `role` is "image", "mask",
    "thumbnail", ...
    """

    group: str
    name: str
    dims: tuple[str, ...]
    role: str

    @property
    def path(self) -> str:
        """Path of the array in the tree."""
        return f"{self.group}/{self.name}" if self.group else self.name


def name_levels(
    facts: FileFacts, layout: str = "dataset", level: int | None = None
) -> dict[tuple[int, int], LevelName]:
    """Name the levels of all series.

    Parameters
    ----------
    facts
        Facts of the file.
    layout
        "dataset": all arrays in one group; "tree": one group per level.
    level
        The only level to name; it gets the name of the full-size level.

    Returns
    -------
    names
        By position of the series and index of the level, without those that cannot be read.
    """
    names: dict[tuple[int, int], LevelName] = {}
    used: set[str] = set()
    if layout not in ("dataset", "tree"):
        raise SelectionError(f"unknown layout {layout!r}", expected="dataset or tree")
    for position, series in enumerate(facts.series):
        role = find_role(series.name, series.subfile_type) if position else "image"
        base = role if role not in used else f"{role}_s{position}"
        used.add(base)
        mark = f"_{base.removeprefix('image_')}" if position else ""
        in_place, is_mask = is_georeferenced_series(facts, series), role == "mask"
        for n, own in enumerate(series.levels):
            if not isinstance(own, LevelFacts) or level not in (None, n):
                continue
            index = 0 if level is not None else n
            axes = own.axes.replace("S", "B") if in_place else own.axes
            if layout == "dataset":
                suffix = f"_{index}" if index else ""
                group, name = "", base + suffix
                dims = dimension_names(axes, mark + suffix)
                if index and (position, 0) in names:
                    full = series.levels[0], names[position, 0]
                    dims = _shared_dims(dims, own, *full, of_plane=False)
            else:
                # a mask is in the group of the level that it masks, other images in their own
                is_beside = position == 0 or is_mask
                group = str(index) if is_beside else f"{mark[1:]}/{index}"
                name = base if is_mask else "image"
                dims = dimension_names(axes, mark if is_mask else "")
            if is_mask and (0, n) in names:
                image = facts.series[0].levels[n], names[0, n]
                dims = _shared_dims(dims, own, *image, of_plane=True)
            names[position, n] = LevelName(group, name, dims, role)
    return names


def find_role(name: str, subfile_type: int) -> str:
    """Return the role of an image that is not the first one of its file."""
    if subfile_type & MASK_BIT:
        return "mask"
    if name.lower() in _ROLES:
        return name.lower()
    return "thumbnail" if subfile_type & REDUCED_BIT else "image"


def is_georeferenced_series(facts: FileFacts, series: SeriesFacts) -> bool:
    """Return whether a series is georeferenced, or a reduced copy of a georeferenced one."""
    first, main = series.levels[0], (facts.main or facts.series[0]).levels[0]
    if not isinstance(first, LevelFacts) or not isinstance(main, LevelFacts):
        return False
    if is_georeferenced(first.ifds[0].tags):
        return True
    is_copy = bool(series.subfile_type & (REDUCED_BIT | MASK_BIT))
    return is_copy and is_georeferenced(main.ifds[0].tags)


def _shared_dims(
    dims: tuple[str, ...], own: LevelFacts, other: LevelFacts | Exception, name: LevelName,
    *, of_plane: bool,
) -> tuple[str, ...]:  # fmt: skip
    """Replace dimensions by those of another level with the same lengths: x and y, or all others.

    Dimensions other than x and y are only shared by levels that have the same axes.
    """
    assert isinstance(other, LevelFacts)  # only these have names
    if not of_plane and sorted(own.axes) != sorted(other.axes):
        return dims
    # names of axes are unique, while letters may be repeated
    keys, other_keys = (
        zip(dimension_names(one.axes), one.shape, strict=True) for one in (own, other)
    )
    shared = dict(zip(other_keys, name.dims, strict=True))
    return tuple(
        shared.get(key, dim) if (key[0] in ("y", "x")) == of_plane else dim
        for key, dim in zip(keys, dims, strict=True)
    )


# ---- positions


def split_positions(
    group: Group, series: Sequence[Mapping[str, Any]]
) -> tuple[Group, Sequence[Mapping[str, Any]]]:
    """Make an image of each position or channel, if OME-NGFF does not allow all axes together.

    Parameters
    ----------
    group
        The root.
    series
        Record of the series, as in `References`.

    Returns
    -------
    group, series
        The same objects if there are no such images. Positions whose planes share chunks stay
        together.
    """
    pending = pending_images(group.attributes)
    entries, channels = pending.get("multiscales", []), pending.get("omero", {})
    arrays = dict(group.arrays()) if entries else {}
    found = [entry for entry in entries if _is_splittable(entry, arrays)]
    if not found:
        return group, series
    others = [entry for entry in entries if entry not in found]
    attributes = {**group.attributes, PENDING: {**pending, "multiscales": others}}
    new_paths: dict[str, list[str]] = {}
    names_of: dict[str, tuple[str, str]] = {}
    for entry in found:
        omero = channels.get(entry["datasets"][0]["path"])
        for image, levels in _images_of_positions(entry, arrays):
            dims = [axis["name"] for axis in image["axes"]]
            add_image(attributes, image, omero, all(dims == [*a.dims] for a in levels.values()))
            arrays |= levels
            for dataset, path in zip(entry["datasets"], levels, strict=True):
                new_paths.setdefault(dataset["path"], []).append(path)
                names_of[path] = image["name"], entry["positions"][0].upper()
    arrays = {path: array for path, array in arrays.items() if path not in new_paths}
    used = {dim for array in arrays.values() if array.manifest.sources for dim in array.dims}
    gone = {(entry["positions"],) for entry in found if entry["positions"] not in used}
    kept = {path: array for path, array in arrays.items() if array.dims not in gone}
    groups = {path: node.attributes for path, node in group.walk() if isinstance(node, Group)}
    moved = [part for row in series for part in _rows_of_positions(row, new_paths, names_of)]
    return Group.from_paths(kept, {**groups, "": close_images(attributes)}), moved


def _is_splittable(entry: Any, arrays: Mapping[str, Array]) -> bool:
    try:
        dim, levels = entry["positions"], [arrays[d["path"]] for d in entry["datasets"]]
        names = sorted([dim, *(axis["name"] for axis in entry["axes"])])
        return (
            isinstance(entry["name"], str)
            and names == sorted(levels[0].dims)
            and all(split_chunks(array, dim) for array in levels)
            and len({array.sizes[dim] for array in levels}) == 1
        )
    except (KeyError, TypeError, ValueError):  # possible in foreign documents
        return False


def _images_of_positions(
    entry: Mapping[str, Any], arrays: Mapping[str, Array]
) -> Iterator[tuple[dict[str, Any], dict[str, Array]]]:
    """Yield for each position its `multiscales` entry, and its levels by path."""
    dim, datasets = entry["positions"], entry["datasets"]
    first = arrays[datasets[0]["path"]]
    names = entry.get("names") or first.attributes.get("position_names")
    n_positions = first.sizes[dim]
    whole = {one["path"]: split_chunks(arrays[one["path"]], dim) or first for one in datasets}
    if not isinstance(names, list) or len(names) != n_positions:
        names = [*range(n_positions)]
    for n in range(n_positions):
        hidden = {"position_names"} if n == 0 else {"position_names", "tiff_tags"}  # of page 0
        levels = {}
        for dataset in datasets:
            one = select_index(whole[dataset["path"]], {dim: n})
            kept = {key: value for key, value in one.attributes.items() if key not in hidden}
            levels[f"{dataset['path']}_{dim}{n}"] = one.as_variable(one.dims, kept)
        moved = [{**old, "path": path} for old, path in zip(datasets, levels, strict=True)]
        image = {**entry, "name": f"{entry['name']} {names[n] or n}", "datasets": moved}
        yield {key: image[key] for key in image if key not in ("positions", "names")}, levels


def _rows_of_positions(
    row: Mapping[str, Any],
    new_paths: Mapping[str, Sequence[str]],
    names: Mapping[str, tuple[str, str]],
) -> Iterator[Mapping[str, Any]]:
    """Yield the record of a series, or one for each of its positions."""
    levels = row["levels"]
    n_positions = len(new_paths.get(levels[0].get("path", ""), ()))
    if not n_positions:
        yield row
    for n in range(n_positions):
        parts = [
            # other members count what is missing in all positions
            {**(level if n == 0 else {}), "path": new_paths[level["path"]][n]}
            for level in levels
            if level.get("path") in new_paths
        ]
        name, letter = names[parts[0]["path"]]
        axes = row.get("axes", "").replace(letter, "")
        yield {**row, "name": name, "axes": axes, "levels": parts}
