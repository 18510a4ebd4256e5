"""Dates of files that their names do not say: from tags and OME-XML.

Owns the reading of DateTime (TIFF 6.0, tag 306: "YYYY:MM:DD HH:MM:SS") and of OME's
AcquisitionDate. Pure: it reads what a scan noted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from ..errors import ManifestMismatch, SelectionError
from .coordinates import read_values

if TYPE_CHECKING:
    from .files import Part

__all__ = ["read_dates"]

_SOURCES = {
    "DateTime": (306, re.compile(rb"(\d{4}:\d{2}:\d{2} \d{2}:\d{2}:\d{2})")),
    "AcquisitionDate": (270, re.compile(rb"<(?:\w+:)?AcquisitionDate>\s*([^<\s]+)")),
}
_SHOWN = 3


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
    code, expression = _SOURCES[time_from]
    texts = []
    for part in parts:
        found = expression.search(part.notes.get(code, b""))
        texts.append(found[1].decode() if found else None)
    missing = [part.url for part, text in zip(parts, texts, strict=True) if text is None]
    if missing:
        raise ManifestMismatch(
            f"{len(missing)} of {len(parts)} files have no {time_from}",
            got=", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else ""),
        )
    return read_values("time", texts)
