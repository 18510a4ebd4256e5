"""Which arrays combine with one another, and how to say why others do not.

Owns the aspects in which arrays must agree, their grouping, and the one error that tells all
differences together. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ManifestMismatch
from .codec import ForeignCodec, SegmentCodec
from .node import Array

__all__ = ["STORAGE", "Kind", "aspects_of", "group_alike", "mismatch", "without_leniency"]

STORAGE = frozenset({"compression", "predictor", "byte order", "codec"})
"""Aspects that say only how samples are stored: arrays that differ in them can be read decoded."""

_NONE = "none"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """Arrays or files that combine with one another.

    Attributes
    ----------
    aspects
        What they agree in: aspect -> a hashable value that says it.
    members
        Their indices.
    """

    aspects: Mapping[str, Any]
    members: tuple[int, ...] = field(default=())


def aspects_of(array: Array, free_dims: Sequence[str] = ()) -> dict[str, Any]:
    """Say everything about an array that must agree for it to be combined.

    Parameters
    ----------
    free_dims
        Dimensions along which arrays may differ in length.
    """
    shape = tuple(
        -1 if dim in free_dims else n for dim, n in zip(array.dims, array.shape, strict=True)
    )
    codecs = tuple(dict.fromkeys(without_leniency(codec) for codec in array.codecs))
    return {
        "dtype": array.dtype.str.lstrip("<>=|"),
        "dimensions": array.dims,
        "shape": shape,
        "chunk shape": array.chunks,
        "nodata": None if array.fill_value is None else repr(array.fill_value),
        "compression": tuple(getattr(codec, "compression", None) for codec in codecs),
        "predictor": tuple(getattr(codec, "predictor", None) for codec in codecs),
        "byte order": tuple(getattr(codec, "byteorder", None) for codec in codecs),
        "codec": codecs,
    }


def without_leniency(codec: SegmentCodec | ForeignCodec) -> SegmentCodec | ForeignCodec:
    """Give a codec without what only lets it take more segments."""
    if isinstance(codec, ForeignCodec):
        return codec
    # these only let it take short segments as well
    return replace(codec, edge=None, fill=None)


def group_alike(aspects: Sequence[Mapping[str, Any]]) -> list[Kind]:
    """Group by equal aspects, largest group first."""
    kinds: dict[Any, list[int]] = {}
    for n, one in enumerate(aspects):
        kinds.setdefault(tuple(one.items()), []).append(n)
    found = [Kind(aspects[members[0]], tuple(members)) for members in kinds.values()]
    return sorted(found, key=lambda kind: -len(kind.members))


def differing(kinds: Sequence[Kind]) -> list[str]:
    """Name the aspects in which groups differ; "codec" only where nothing says it plainer."""
    # groups of files with other arrays have other aspects
    every = dict.fromkeys(name for kind in kinds for name in kind.aspects)
    first = kinds[0].aspects
    names = [
        name
        for name in every
        if any(kind.aspects.get(name, _NONE) != first.get(name, _NONE) for kind in kinds)
    ]
    plain = [name for name in names if name != "codec"]
    return plain or names


def mismatch(kinds: Sequence[Kind], labels: Sequence[str], limit: int = 8) -> ManifestMismatch:
    """Say in one error how all groups differ, which files they are, and which would combine.

    Parameters
    ----------
    kinds
        At least two.
    labels
        Name of each member: a path or URL.
    limit
        Groups to tell in full.

    Returns
    -------
    The error, with the groups as plain values in its attribute `groups`.
    """
    names = differing(kinds)
    groups: list[dict[str, Any]] = [
        {
            "count": len(kind.members),
            "files": [labels[n] for n in kind.members[:_SHOWN]],
            **{name: _say(kind.aspects.get(name, _NONE)) for name in names},
        }
        for kind in kinds
    ]
    lines = []
    for number, group in enumerate(groups[:limit], 1):
        files = ", ".join(str(one) for one in group["files"])
        more = ", ..." if group["count"] > _SHOWN else ""
        values = ", ".join(f"{name} {group[name]}" for name in names[:_SHOWN])
        noun = "file" if group["count"] == 1 else "files"
        lines.append(f"  group {number}: {group['count']} {noun} with {values}: {files}{more}")
    if len(groups) > limit:
        lines.append(f"  and {len(groups) - limit} more groups")
    n_files = sum(len(kind.members) for kind in kinds)
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    differences = f"{', '.join(names[:_SHOWN])}{rest}"
    error = ManifestMismatch(
        f"{n_files} files do not combine: {len(kinds)} groups differ in {differences}\n"
        + "\n".join(lines),
        hint=_advise(kinds),
    )
    error.groups = groups  # type: ignore[attr-defined]
    return error


def _advise(kinds: Sequence[Kind]) -> str:
    """Say which groups would combine, and how."""
    mixed: dict[Any, list[int]] = {}
    for number, kind in enumerate(kinds, 1):
        rest = tuple((k, v) for k, v in kind.aspects.items() if k not in STORAGE)
        mixed.setdefault(rest, []).append(number)
    several = [numbers for numbers in mixed.values() if len(numbers) > 1]
    hint = "\nEach group combines for itself: on_mismatch='split' makes one array of each."
    if "georeference" in differing(kinds):
        hint += " mosaic=True puts files side by side by their georeference."
    if several:
        together = "; ".join(
            "groups " + ", ".join(map(str, numbers[:8])) for numbers in several[:_SHOWN]
        ).capitalize()
        hint += (
            f" {together} differ only in how they are stored: on_mismatch='decode' keeps them in"
            " one array, which can be read but not exported."
        )
    return hint


def _say(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, SegmentCodec):
        value = value.to_config()
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
