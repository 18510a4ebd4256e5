"""Dates of files that their names do not say: from tags and OME-XML.

Owns the reading of DateTime (TIFF 6.0, tag 306: "YYYY:MM:DD HH:MM:SS") and of OME's
AcquisitionDate. Pure: it reads the tags that a scan has read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import ManifestMismatch, SelectionError
from .coordinates import read_values

if TYPE_CHECKING:
    from .files import Part

__all__ = ["find_dates", "read_dates"]

_SOURCES = {
    "DateTime": (306, re.compile(r"(\d{4}:\d{2}:\d{2} \d{2}:\d{2}:\d{2})")),
    "AcquisitionDate": (270, re.compile(r"<(?:\w+:)?AcquisitionDate>\s*([^<\s]+)")),
}
_SHOWN = 3


def find_dates(tags: Mapping[int, Any]) -> dict[str, str]:
    """Find the dates in the tags of a file, by the names that `time_from` takes.

    >>> find_dates({306: "2020:01:02 03:04:05"})
    {'DateTime': '2020:01:02 03:04:05'}
    """
    found = {}
    for name, (code, expression) in _SOURCES.items():
        value = tags.get(code)
        match = expression.search(value) if isinstance(value, str) else None
        if match is not None:
            found[name] = match[1]
    return found


def read_dates(parts: Sequence[Part], time_from: str) -> NDArray:
    """Read the date of each file.

    Parameters
    ----------
    parts
        Scanned files.
    time_from
        "DateTime" or "AcquisitionDate".

    Returns
    -------
    `(n_files,)` datetime64.

    Raises
    ------
    ManifestMismatch
        If a file has no such date; files without are named.
    """
    if time_from not in _SOURCES:
        raise SelectionError("unknown time_from", got=repr(time_from), expected=list(_SOURCES))
    texts = [part.dates.get(time_from) for part in parts]
    missing = [part.url for part, text in zip(parts, texts, strict=True) if text is None]
    if missing:
        raise ManifestMismatch(
            f"{len(missing)} of {len(parts)} files have no {time_from}",
            got=", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else ""),
        )
    return read_values("time", texts)
