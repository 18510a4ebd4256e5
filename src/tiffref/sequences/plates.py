"""Convert sequences of high-content screening to OME-NGFF plates: one group per well and field.

Writes the `plate` and `well` metadata. `metadata.ngff` lays out the image of each field.

Reference: OME-NGFF 0.4 and 0.5, "plate" and "well" metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ManifestMismatch, SelectionError, first_few
from ..metadata.calibration import row_name
from ..metadata.ngff import IMAGE_ATTRIBUTES, order_axes
from ..model.array import Array, Group
from ..model.combine import select_index
from ..references import References, level_paths, move_series
from .coordinates import has_chunks, read_axis

FIELDS = ("field", "site", "fov", "position")
PLATE_AXES = frozenset({"row", "column", "well", *FIELDS})
"""Axes of a sequence that are positions on a plate, not axes of its images."""

_WELL = re.compile(r"([A-Za-z]{1,2})0*([1-9]\d*)")
VERSION = "0.4"


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
    wells: dict[str, list[dict[str, str]]] = {}
    rows: list[Any] = []
    for path, group in fields.items():
        ordered = order_axes(group, references.series[:1], "ngff")
        arrays |= {f"{path}/{name}": array for name, array in ordered.arrays()}
        attributes[path] = ordered.attributes
        well, _, name = path.rpartition("/")
        wells.setdefault(well, []).append({"path": name})
        (row,) = move_series(references.series[:1], path)
        row = {key: value for key, value in row.items() if key != "sequence"}
        rows.append({**row, "index": len(rows), "name": path, "well": well})
    for well, images in wells.items():
        attributes[well] = {"well": {"version": VERSION, "images": images}}
    own = {k: v for k, v in references.group.attributes.items() if k not in IMAGE_ATTRIBUTES}
    attributes[""] = {**own, "plate": _plate(wells)}
    # the record of the whole sequence is kept in the first row only
    sequence = {k: v for k, v in record.items() if k not in ("holes", "n_holes")}
    rows[0]["sequence"] = sequence | ({"n_partial": len(partial)} if partial else {})
    return References(Group.from_paths(arrays, attributes), tuple(rows), references.allow, "ngff")


def _find_fields(references: References, dims: Sequence[str]) -> tuple[dict[str, Group], list[str]]:
    """Return the arrays of each field that has files, and the paths of incomplete fields."""
    levels = level_paths(references.series[:1])
    n_axes = len(references.series[0]["sequence"]["dims"]) - len(dims)
    fields: dict[str, Group] = {}
    partial = []
    for path, place in _fields(references.group, dims):
        group = _field_group(references.group, levels, place)
        image = group[levels[0]]
        if image.manifest.is_missing.all():
            continue
        if path in fields:
            # wells such as A1 and A01, or site and position numbers that give the same digits
            raise ManifestMismatch(
                "several fields of the plate have the same path",
                got=path,
                hint="Use unique names of wells and fields, or pass only some of the files.",
            )
        fields[path] = group
        partial += [] if has_chunks(image, n_axes).all() else [path]
    return fields, partial


def _fields(group: Group, dims: Sequence[str]) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield path and index of all positions of the plate, ordered by row, column and field."""
    order = [dim for dim in ("row", "column", "well", *FIELDS) if dim in dims]
    values = [read_axis(dim, group.children[dim]).values.tolist() for dim in order]  # type: ignore[arg-type,union-attr]
    for index in np.ndindex(*map(len, values)):
        here = {dim: column[n] for dim, column, n in zip(order, values, index, strict=True)}
        if "well" in here:
            well = _WELL.fullmatch(str(here["well"]))
            if well is None:
                expected = "a name such as B03"
                raise SelectionError("not a valid well name", got=here["well"], expected=expected)
            row, column = well[1].upper(), well[2]
        else:
            number = here["row"]  # some instruments number rows from 1
            row = _alphanumeric(row_name(number - 1) or "0" if type(number) is int else number)
            column = _alphanumeric(here["column"])
        names = [_alphanumeric(here[dim]) for dim in FIELDS if dim in here]
        name = "".join(names) or "0"
        yield f"{row}/{column}/{name}", dict(zip(order, index, strict=True))


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
            children[name] = select_index(child, place)
        elif isinstance(child, Array) and not set(child.dims) & set(place):
            children[name] = child
    return Group(children, group.attributes)


def _plate(fields: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    places = [well.split("/") for well in fields]
    rows = list(dict.fromkeys(row for row, _ in places))
    columns = sorted({column for _, column in places}, key=lambda name: (len(name), name))
    wells = [
        {"path": f"{row}/{column}", "rowIndex": rows.index(row),
         "columnIndex": columns.index(column)}
        for row, column in places
    ]  # fmt: skip
    return {
        "version": VERSION,
        "name": "plate",
        "rows": [{"name": name} for name in rows],
        "columns": [{"name": name} for name in columns],
        "wells": wells,
        "field_count": max(map(len, fields.values())),
    }
