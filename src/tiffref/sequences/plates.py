"""Convert sequences of high-content screening to OME-NGFF plates: one group per well and field.

Writes the `plate` and `well` metadata. `metadata.ngff` lays out the image of each field.

Reference: OME-NGFF 0.4 and 0.5, "plate" and "well" metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ManifestMismatch, SelectionError, first_few
from ..metadata.ngff import order_axes
from ..model.array import Array, Group
from ..model.combine import select_chunks
from ..references import References
from .coordinates import count_empty

FIELDS = ("field", "site", "fov", "position")
PLATE_AXES = frozenset({"row", "column", "well", *FIELDS})
"""Axes of a sequence that are positions on a plate, not axes of its images."""

_WELL = re.compile(r"([A-Za-z]{1,2})0*([1-9]\d*)")
VERSION = "0.4"


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of view: row and column of its well, its name, and its index on the axes."""

    row: str
    column: str
    name: str
    place: Mapping[str, int]

    @property
    def path(self) -> str:
        """Path of its group."""
        return f"{self.row}/{self.column}/{self.name}"


def to_plate(references: References, allow_holes: bool) -> References:
    """Lay out a sequence as a plate; wells and fields without files are left out.

    Parameters
    ----------
    references
        From a sequence with the axes `row` and `column`, or `well`, and optionally `field`.
    allow_holes
        Leave chunks missing if a field lacks some of its files.

    Raises
    ------
    SelectionError
        If the sequence has no such axes, or OME-NGFF does not allow the axes of its image.
    ManifestMismatch
        If a field lacks files.
    """
    record = references.series[0]["sequence"]
    dims = [dim for dim in record["dims"] if dim in PLATE_AXES]
    if not ({"row", "column"} <= set(dims) or "well" in dims):
        raise SelectionError(
            "the file names have no wells",
            got=f"axes {', '.join(record['dims']) or 'none'}",
            expected="row and column, or well",
            hint="Add them to the pattern, such as '{row}{column:d}_{field:d}.tif'.",
        )
    fields, partial = _find_fields(references, dims)
    if partial and not allow_holes:
        raise ManifestMismatch(
            f"{len(partial)} fields lack some of their files",
            got=first_few(partial),
            hint="allow_holes=True leaves their chunks missing. Wells may always be absent.",
        )
    arrays: dict[str, Array] = {}
    attributes: dict[str, Mapping[str, Any]] = {}
    wells: dict[tuple[str, str], list[str]] = {}
    rows: list[Any] = []
    for field, group in fields:
        ordered = order_axes(group, references.series[:1], "ngff")
        arrays |= {f"{field.path}/{name}": array for name, array in ordered.arrays()}
        attributes[field.path] = ordered.attributes
        wells.setdefault((field.row, field.column), []).append(field.name)
        rows.append(_series_record(references.series[0], len(rows), field.path))
    for (row, column), names in wells.items():
        images = [{"path": name} for name in names]
        attributes[f"{row}/{column}"] = {"well": {"version": VERSION, "images": images}}
    of_image = ("multiscales", "omero", "ngff")
    own = {k: v for k, v in references.group.attributes.items() if k not in of_image}
    attributes[""] = {**own, "plate": _plate(wells)}
    # the record of the whole sequence is kept in the first row only
    sequence = {k: v for k, v in record.items() if k not in ("holes", "n_holes")}
    rows[0]["sequence"] = sequence | ({"n_partial": len(partial)} if partial else {})
    return References(Group.from_paths(arrays, attributes), tuple(rows), references.allow, "ngff")


def _find_fields(
    references: References, dims: Sequence[str]
) -> tuple[list[tuple[_Field, Group]], list[str]]:
    """Return the fields that have files with their arrays, and the paths of incomplete ones."""
    first = references.series[0]
    levels = [one["path"] for one in first["levels"] if "path" in one]
    n_axes = len(first["sequence"]["dims"]) - len(dims)
    found, partial = [], []
    for field in _fields(references.group, dims):
        group = _field_group(references.group, levels, field.place)
        image = group[levels[0]]
        assert isinstance(image, Array)
        if not image.manifest.is_missing.all():
            found.append((field, group))
            partial += [field.path] if count_empty(image, n_axes) else []
    paths = [field.path for field, _ in found]
    if len(set(paths)) < len(paths):
        # wells such as A1 and A01, or site and position numbers that concatenate to the same digits
        raise ManifestMismatch(
            "several fields of the plate have the same path",
            got=first_few(sorted({path for path in paths if paths.count(path) > 1})),
            hint="Use unique names of wells and fields, or pass only some of the files.",
        )
    return found, partial


def _series_record(row: Mapping[str, Any], index: int, path: str) -> dict[str, Any]:
    """Return the series record of one field."""
    levels = [{**one, "path": f"{path}/{one['path']}"} if "path" in one else one
              for one in row["levels"]]  # fmt: skip
    own = {name: value for name, value in row.items() if name != "sequence"}
    well = path.rpartition("/")[0]
    return {**own, "index": index, "name": path, "well": well, "levels": levels}


def _fields(group: Group, dims: Sequence[str]) -> Iterator[_Field]:
    """Yield all positions of the plate, in the order of rows, columns and fields."""
    values = {dim: _values(group, dim) for dim in dims}
    order = [dim for dim in ("row", "column", "well", *FIELDS) if dim in dims]
    for index in np.ndindex(*(len(values[dim]) for dim in order)):
        place = dict(zip(order, index, strict=True))
        here = {dim: values[dim][n] for dim, n in place.items()}
        if "well" in here:
            row, column = _parse_well(here["well"])
        else:
            row, column = _row_name(here["row"]), _alphanumeric(here["column"])
        names = [_alphanumeric(here[dim]) for dim in FIELDS if dim in here]
        yield _Field(row, column, "".join(names) or "0", place)


def _values(group: Group, dim: str) -> list[Any]:
    array = group.children[dim]
    assert isinstance(array, Array)
    data = np.frombuffer(array.manifest.inlined[0], array.dtype.newbyteorder("<"))
    return data.tolist()


def _parse_well(value: Any) -> tuple[str, str]:
    match = _WELL.fullmatch(str(value))
    if match is None:
        raise SelectionError("not a valid well name", got=value, expected="a name such as B03")
    return match[1].upper(), match[2]


def _row_name(value: Any) -> str:
    """Return the letters of a row; some instruments number rows from 1."""
    if not isinstance(value, int):
        return _alphanumeric(value)
    name = ""
    while value > 0:
        value, letter = divmod(value - 1, 26)
        name = chr(ord("A") + letter) + name
    return name or "0"


def _alphanumeric(value: Any) -> str:
    """Check that a name has only letters and digits, as OME-NGFF requires."""
    name = str(value)
    if not name.isalnum() or not name.isascii():
        raise SelectionError(
            "OME-NGFF only allows letters and digits in names of wells and fields",
            got=name,
            hint="Use another field of the pattern, or numbers.",
        )
    return name


def _field_group(group: Group, levels: Sequence[str], place: Mapping[str, int]) -> Group:
    """Return the arrays of one field, with the coordinates of the remaining axes."""
    children: dict[str, Array | Group] = {}
    for name, child in group.children.items():
        if isinstance(child, Array) and name in levels:
            children[name] = _select(child, place)
        elif isinstance(child, Array) and not set(child.dims) & set(place):
            children[name] = child
    return Group(children, group.attributes)


def _select(array: Array, place: Mapping[str, int]) -> Array:
    """Index an array on some axes, which must have chunks of length 1."""
    index = tuple(place.get(dim, slice(None)) for dim in array.dims)
    kept = [axis for axis, dim in enumerate(array.dims) if dim not in place]
    grid = array.manifest.shape
    flat = np.arange(array.manifest.n_chunks).reshape(grid)[index].reshape(-1)
    part = select_chunks(array.manifest, flat, tuple(grid[axis] for axis in kept))
    used, column = np.unique(part.source[part.source >= 0], return_inverse=True)
    source = part.source.copy()
    source[source >= 0] = column
    sources = tuple(part.sources[n] for n in used.tolist())
    manifest = replace(part, sources=sources, source=source)
    return replace(
        array,
        shape=tuple(array.shape[axis] for axis in kept),
        chunks=tuple(array.chunks[axis] for axis in kept),
        dims=tuple(array.dims[axis] for axis in kept),
        manifest=manifest,
    )


def _plate(fields: Mapping[tuple[str, str], Sequence[str]]) -> dict[str, Any]:
    rows = list(dict.fromkeys(row for row, _ in fields))
    columns = sorted({column for _, column in fields}, key=lambda name: (len(name), name))
    wells = [
        {"path": f"{row}/{column}", "rowIndex": rows.index(row),
         "columnIndex": columns.index(column)}
        for row, column in fields
    ]  # fmt: skip
    return {
        "version": VERSION,
        "name": "plate",
        "rows": [{"name": name} for name in rows],
        "columns": [{"name": name} for name in columns],
        "wells": wells,
        "field_count": max(map(len, fields.values())),
    }
