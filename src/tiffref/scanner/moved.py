"""What a file's place and dates change in its document, as texts.

Owns the texts that differ between files of one structure that lie side by side or were taken one
after the other: coordinates, transformations, dates. Whether these are all, and rightly spelled, is
never taken for granted: the caller compares with a file that was scanned in full before it trusts
them.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..conventions.cf import coordinate_bytes
from ..conventions.geokeys import parse_geokeys
from ..conventions.placement import Affine, bounds_of, centres, place, scaled
from ..conventions.report import Report
from ..conventions.time import acquired_from_name, created_from_tag, time_coordinate
from ..formats.rows import spell_inlined
from ..model.node import Array, Group
from .skeleton import GEO_TAGS, Skeleton

__all__ = [
    "DATE_TIME",
    "TIEPOINTS",
    "Changing",
    "Level",
    "changing_of",
    "differences_of",
    "find_levels",
    "spell_changing",
    "transform_of",
]

TIEPOINTS, DATE_TIME = 33922, 306
_quote = json.JSONEncoder().encode
_DATE = re.compile(rb"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d\x00")


@dataclass(frozen=True, slots=True)
class Changing:
    """What changes from file to file: tiepoint, date of the name, and date of the tag."""

    tiepoint: tuple[float, ...] | None
    acquired: datetime.datetime | None
    made: str | None


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a georeferenced image: names of its coordinates, and how many there are."""

    x: str
    y: str
    shape: tuple[int, int]


def changing_of(skeleton: Skeleton) -> tuple[Changing, tuple[Any, ...]]:
    """Tell what changes from the other values of a file that are not in its signature.

    Returns
    -------
    changing, constant
    """
    notes = dict(skeleton.notes)
    tiepoint = notes.get(TIEPOINTS)
    if isinstance(tiepoint, tuple) and len(tiepoint) == 6 and all(map(math.isfinite, tiepoint)):
        del notes[TIEPOINTS]
    else:
        tiepoint = None
    made = None
    date = notes.get(DATE_TIME)
    if isinstance(date, bytes) and _DATE.fullmatch(date):
        made = date[:-1].decode()
        del notes[DATE_TIME]
    acquired = acquired_from_name(skeleton.source.url)
    kept = tuple((code, _exactly(notes[code])) for code in sorted(notes)
                 if code in GEO_TAGS or code == DATE_TIME)  # fmt: skip
    present = (tiepoint is None, made is None, acquired is None)
    return Changing(tiepoint, acquired, made), (kept, present)


def _exactly(value: Any) -> Any:
    """Give a value that is equal to another only where all digits are: -0.0 equals 0.0."""
    is_floats = isinstance(value, tuple) and value and isinstance(value[0], float)
    return struct.pack(f"{len(value)}d", *value) if is_floats else value


def differences_of(one: Changing, other: Changing) -> frozenset[str]:
    """Name the values that differ, each number of the tiepoint by itself."""
    names = [name for name in ("acquired", "made") if getattr(one, name) != getattr(other, name)]
    pairs = zip(one.tiepoint or (), other.tiepoint or (), strict=False)
    names += [f"tiepoint {n}" for n, (a, b) in enumerate(pairs) if a != b]
    return frozenset(names)


def find_levels(group: Group) -> tuple[Level, ...]:
    """Find the coordinates of the levels at the root, that of full size first."""
    children = group.children
    found = []
    for name, x in children.items():
        y_name = f"y{name[1:]}"
        y = children.get(y_name)
        if name[:1] == "x" and isinstance(x, Array) and isinstance(y, Array):
            found.append(Level(name, y_name, (y.shape[0], x.shape[0])))
    return tuple(sorted(found, key=lambda level: -level.shape[1]))


def transform_of(changing: Changing, georeference: Mapping[int, Any]) -> Affine | None:
    """Give the transformation of the full-size image; `georeference` are its other tags."""
    if changing.tiepoint is None:
        return None
    tags = {**georeference, TIEPOINTS: changing.tiepoint}
    return place(tags, parse_geokeys(georeference), Report()).transform


def spell_changing(
    changing: Changing, transform: Affine | None, levels: tuple[Level, ...]
) -> tuple[bytes, ...]:
    """Give the texts of a document that change, always as many and in the same order.

    Parameters
    ----------
    changing, transform
        Of the file.
    levels
        Of the file that the document was made of.
    """
    return tuple(text.encode() for text in _texts(changing, transform, levels))


def _texts(
    changing: Changing, transform: Affine | None, levels: tuple[Level, ...]
) -> Iterator[str]:
    if transform is not None and levels:
        rows, columns = levels[0].shape
        yield _dump(bounds_of(transform, levels[0].shape))
        yield _dump(changing.tiepoint or ())
        for level in levels:
            own = scaled(transform, columns / level.shape[1], rows / level.shape[0])
            own = transform if level.shape == (rows, columns) else own
            yield _dump(own)
            a, b, c, d, e, f = own
            yield " ".join(repr(float(n)) for n in (c, a, b, f, d, e))
            yield f'"{level.x}/0":' + _spell_axis(a, b, c, level.shape[1])
            yield f'"{level.y}/0":' + _spell_axis(e, d, f, level.shape[0])
    if changing.acquired is not None:
        data = time_coordinate(changing.acquired).manifest.inlined[0]
        yield '"time/0":' + _quote(spell_inlined(data))
    if changing.made is not None:
        yield changing.made
        yield str(created_from_tag(changing.made))


def _dump(numbers: Sequence[float]) -> str:
    # as json does, without its cost for each call; all are floats, and finite
    return f"[{','.join(map(float.__repr__, numbers))}]"


@functools.lru_cache(maxsize=1024)
def _spell_axis(step: float, cross: float, origin: float, n: int) -> str:
    found = centres(step, cross, origin, n)
    return _quote(spell_inlined(coordinate_bytes(found))) if found is not None else ""
