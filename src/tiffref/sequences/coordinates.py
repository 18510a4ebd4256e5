"""Convert fields of file names and tables to sorted axes with coordinates.

Infers the type of a field (number, date, label), sorts its values, and finds the index of each
file. Times are stored as in CF: integers since 1970-01-01.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    InvalidReferences,
    ManifestMismatch,
    MetadataWarning,
    SelectionError,
    first_few,
    warn,
)
from ..model.array import Array, Group
from ..model.manifest import MISSING
from ..read.chunks import decode_inlined

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_TIME_NAMES = frozenset({"time", "date", "datetime", "day"})
_DIGIT_TIMES = ("%Y%m%d", "%Y%m%d%H%M%S", "%Y%m%d%H%M")
"""Dates of digits only; used only if the name of the field means a time."""
_TIMES = (
    "%Y-%m-%d", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%S%z", "%Y-%m-%dT%H-%M-%S", "%Y-%m-%dT%H-%M-%S%z",
    "%Y-%m-%dT%H%M%S", "%Y-%m-%dT%H%M%S%z", "%Y-%m-%d_%H-%M-%S", "%Y_%m_%d", "%Y.%m.%d",
    "%Y%m%d_%H%M%S", "%Y%m%d-%H%M%S", "%Y:%m:%d %H:%M:%S",
)  # fmt: skip
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a sequence.

    Attributes
    ----------
    name
        Name of the dimension.
    values
        `(n,)` sorted unique values: integers, floats, unicode or datetime64; None if files are only
        numbered.
    index
        `(n_files,)` int64: index of each file.
    """

    name: str
    values: NDArray | None
    index: NDArray[np.int64]

    @classmethod
    def numbered(cls, name: str, length: int, values: NDArray | None = None) -> Axis:
        """Return an axis with one file at each of its positions."""
        return cls(name, values, np.arange(length))

    @property
    def length(self) -> int:
        """Length of the dimension."""
        return len(self.index if self.values is None else self.values)

    def to_array(self) -> Array | None:
        """Return the coordinate variable of the axis; None if it has no values."""
        values = self.values
        if values is None or values.dtype.kind != "M":
            return None if values is None else Array.from_values(values, (self.name,))
        attributes = {
            "standard_name": "time",
            "units": f"{_UNITS[np.datetime_data(values.dtype)[0]]} since 1970-01-01",
            "calendar": "proleptic_gregorian",
        }
        return Array.from_values(values.astype(np.int64), (self.name,), attributes)


def read_values(name: str, column: Sequence[Any], kind: str | None = None) -> NDArray:
    """Convert the values of a field to an array.

    Parameters
    ----------
    name
        Name of the field. Digits are dates only in fields named time, date, datetime or day.
    column
        Text, numbers or dates, one for each file.
    kind
        "int", "float", "str", or a format of `strptime`; inferred by default.

    Returns
    -------
    `(n_files,)` int64, float64, unicode or datetime64.

    Raises
    ------
    SelectionError
        If a value cannot be parsed as this kind.

    Examples
    --------
    >>> read_values("band", ["04", "08"]), read_values("band", ["04", "8A"])
    (array([4, 8]), array(['04', '8A'], dtype='<U2'))
    """
    if len(column) and not all(isinstance(value, str) for value in column):
        return _read_objects(name, column)
    unique = sorted(set(column))
    for parse in _parsers(name, kind):
        parsed = _try_all(parse, unique)
        if parsed is not None:
            at = {text: n for n, text in enumerate(unique)}
            return _coarsen(np.asarray(parsed))[[at[text] for text in column]]
    bad = next(text for text in unique if _try_all(_parsers(name, kind)[0], [text]) is None)
    raise SelectionError(
        f"a value of '{name}' cannot be parsed", got=repr(bad), expected=repr(kind)
    )


def _parsers(name: str, kind: str | None) -> list[Any]:
    """Return the parsers to try; the first one that accepts all values is used."""
    if kind:
        types: dict[str, Any] = {"str": str, "int": _to_int, "float": _to_float}
        return [types.get(kind) or (lambda text: _to_time(text, kind))]
    times = [*(_DIGIT_TIMES if name.lower() in _TIME_NAMES else ()), *_TIMES]
    parsers: list[Any] = [lambda text, form=form: _to_likely_time(text, form) for form in times]
    return [*parsers, _to_iso, _to_int, _to_float, str]


def _try_all(parse: Any, texts: Sequence[str]) -> list[Any] | None:
    values = []
    for text in texts:
        try:
            values.append(parse(text))
        except ValueError:
            return None
    return values


def _to_int(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _to_float(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _to_time(text: str, form: str) -> np.datetime64:
    moment = datetime.strptime(text, form)
    # strptime reads 2024031 as 1 March, and day 366 of 2023 as 1 January 2024
    if "%j" in form and moment.strftime("%j") not in text:
        raise ValueError(text)
    if _ADJACENT.search(form) and "%f" not in form:
        runs = [len(run) for run in _DIGITS.findall(moment.strftime(form.replace("%z", "")))]
        if [len(run) for run in _DIGITS.findall(text)][: len(runs)] != runs:
            raise ValueError(text)
    return _to_datetime64(moment)


def _to_likely_time(text: str, form: str) -> np.datetime64:
    """Parse a time whose format nobody stated: eight digits can be another number."""
    time = _to_time(text, form)
    if not 1900 <= time.item().year <= 2200:
        raise ValueError(text)
    return time


_ADJACENT = re.compile("%[a-zA-Z]%[a-zA-Z]")
_DIGITS = re.compile(r"\d+")


def _to_iso(text: str) -> np.datetime64:
    if not re.match(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:", text):
        raise ValueError(text)
    return _to_datetime64(datetime.fromisoformat(text))


def _to_datetime64(moment: datetime) -> np.datetime64:
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(moment, "us")


def _coarsen(values: NDArray) -> NDArray:
    """Convert times to the coarsest exact unit, s, ms or us; return other values as they are."""
    if values.dtype.kind != "M":
        return values
    values = values.astype("M8[us]") if values.dtype != "M8[ns]" else values
    for unit in ("s", "ms", "us"):
        coarse = values.astype(f"M8[{unit}]")
        if (coarse == values).all():
            return coarse
    return values


def _read_objects(name: str, column: Sequence[Any]) -> NDArray:
    """Convert values of a table: numbers, dates, or mixed with text."""
    missing = [n for n, v in enumerate(column) if v is None or v != v]  # NaN and NaT differ
    if missing:
        raise SelectionError(
            f"{len(missing)} of {len(column)} files have no value for '{name}'",
            got=f"row {missing[0]}",
        )
    if all(isinstance(value, datetime) for value in column):
        return _coarsen(np.array([_to_datetime64(value) for value in column]))
    is_whole = all(isinstance(value, int | np.integer) for value in column)
    if is_whole and max(abs(int(value)) for value in column) > np.iinfo(np.int64).max:
        return np.array([str(value) for value in column])  # such as S2 cell ids
    values = np.asarray(column)
    kinds = {"i": np.int64, "u": np.int64, "b": np.int64, "f": np.float64, "M": values.dtype}
    kind = kinds.get(values.dtype.kind)
    return np.array(list(map(str, column))) if kind is None else _coarsen(values.astype(kind))


def make_axis(name: str, values: NDArray, categories: Mapping[str, int] | None = None) -> Axis:
    """Sort the values of a field into an axis.

    Parameters
    ----------
    values
        `(n_files,)`, from `read_values`.
    categories
        Label -> index; defines the order of labels.

    Raises
    ------
    ManifestMismatch
        If a value is in no category.
    """
    if categories is None:
        unique, index = np.unique(values, return_inverse=True)
        return Axis(name, unique, index.reshape(-1).astype(np.int64))
    order = {str(label): int(n) for label, n in categories.items()}
    texts = [str(value) for value in values.tolist()]
    unknown = sorted({text for text in texts if text not in order})
    if unknown:
        raise ManifestMismatch(
            f"{len(unknown)} values of '{name}' are in no category",
            got=first_few(unknown),
            expected=f"one of {sorted(order)}",
        )
    _, first, index = np.unique(
        np.array([order[text] for text in texts]), return_index=True, return_inverse=True
    )
    labels = np.array([texts[n] for n in first])
    return Axis(name, labels, index.reshape(-1).astype(np.int64))


def order_axes(names: Sequence[str], axesorder: Sequence[str | int] | None) -> list[str]:
    """Return the axes of a sequence in the order given by name or by index in the pattern.

    Raises
    ------
    SelectionError
        If `axesorder` is not a permutation of the axes.
    """
    if axesorder is None:
        return list(names)
    ordered = [
        names[axis] if isinstance(axis, int) and 0 <= axis < len(names) else str(axis)
        for axis in axesorder
    ]
    if sorted(ordered) != sorted(names):
        raise SelectionError(
            "the order of axes must name each axis once",
            got=", ".join(map(str, axesorder)),
            expected=", ".join(names),
        )
    return ordered


def has_chunks(array: Array, n_axes: int) -> NDArray[np.bool_]:
    """Return which positions on the first axes of an array have chunks."""
    is_given = (array.manifest.source != MISSING).reshape(*array.manifest.shape[:n_axes], -1)
    return is_given.any(axis=-1)


def read_axis(name: str, array: Array) -> Axis:
    """Read back a coordinate variable of `Axis.to_array`.

    Raises
    ------
    InvalidReferences
        If its values are not inlined in one chunk.
    """
    if len(array.shape) != 1 or array.manifest.n_chunks != 1 or not array.manifest.inlined:
        raise InvalidReferences(
            "the coordinate of a sequence is not in the form that tiffref writes", tag=name,
            got=f"{len(array.manifest.inlined)} inlined chunks", expected="all values in one",
        )  # fmt: skip
    (length,) = array.shape
    values = decode_inlined(array, 0)[:length].astype(array.dtype)
    units = str(array.attributes.get("units", "")).split(" since ")[0]
    code = next((code for code, unit in _UNITS.items() if unit == units), None)
    if code is not None and values.dtype.kind == "i":
        values = values.astype(f"M8[{code}]")
    return Axis.numbered(name, length, values)


def warn_of_differing(groups: Mapping[str, Group], excluded: Collection[str]) -> None:
    """Warn if files differ in coordinates of the same names: in pixel sizes, times or channels.

    Parameters
    ----------
    groups
        Root of each file, by its URL; the coordinates are those of the first one.
    excluded
        Dimensions whose coordinates may differ.
    """
    first, *others = (group.children for group in groups.values())
    nodes = first.items()
    along = [name for name, node in nodes if isinstance(node, Array) and node.dims == (name,)]
    names = [name for name in along if name not in excluded]
    urls = [*groups][1:]
    for url, other in zip(urls, others, strict=True):
        found = [name for name in names if not _are_equal(first.get(name), other.get(name))]
        if found:
            what = "files differ in coordinates (pixel sizes, times, channels)"
            hint = "Those of the first file are used: stack only files that have the same."
            error = ManifestMismatch(what, url=url, got=first_few(found), hint=hint)
            warn(MetadataWarning(str(error), url=url, key=found[0]))
            return


def _are_equal(first: Array | Group | None, second: Array | Group | None) -> bool:
    if not isinstance(first, Array) or not isinstance(second, Array):
        return False
    units = [array.attributes.get("units") for array in (first, second)]
    inlined = [array.manifest.inlined for array in (first, second)]
    if first.shape != second.shape or units[0] != units[1] or not all(0 in one for one in inlined):
        return False
    a, b = (decode_inlined(array, 0)[: first.shape[0]] for array in (first, second))
    return bool(np.allclose(a, b, rtol=1e-6) if a.dtype.kind == "f" else np.array_equal(a, b))


def join_axes(old: Axis, new: Axis) -> tuple[Axis, NDArray[np.int64], NDArray[np.int64]]:
    """Merge two axes; new values are appended if the old axis is not sorted.

    Returns
    -------
    axis, old_index, new_index
        The merged axis, and the index of the old and new values on it.
    """
    if old.values is None or new.values is None:
        axis = Axis.numbered(old.name, old.length + new.length)
        return axis, axis.index[: old.length], axis.index[old.length :]
    if (old.values.dtype.kind == "M") != (new.values.dtype.kind == "M"):
        raise ManifestMismatch(
            f"new values of '{old.name}' have a different type",
            got=new.values.dtype,
            expected=old.values.dtype,
        )
    whole = np.union1d(old.values, new.values)
    if (np.sort(old.values) != old.values).any():
        unseen = new.values[~np.isin(new.values, old.values)]
        whole = np.concatenate([old.values, unseen])
    at = {value: n for n, value in enumerate(whole.tolist())}
    values = _coarsen(whole)
    old_index, new_index = (
        np.array([at[value] for value in some.astype(whole.dtype).tolist()], np.int64)
        for some in (old.values, new.values)
    )
    return Axis.numbered(old.name, len(whole), values), old_index, new_index
