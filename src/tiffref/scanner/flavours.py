"""Metadata of flavours that is in more than one place of a file, or in a file beside it.

Owns what tifffile, or an older version of it, does not gather by itself: the labels of NDTiff's
axes, the descriptions of all pages of a QPTIFF, the XML of Ventana. All else is taken as tifffile
gives it (`scanner.reader`).

References: NDTiff version 3, "Index file": a record of each plane starts with its axes as JSON;
"PerkinElmer QPTIFF image format": the XML of each page says which channel it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tifffile import TiffFile, read_ndtiff_index

__all__ = ["OWN_METADATA"]

_XMP = 700


def _ndtiff(tif: TiffFile) -> dict[str, Any]:
    """Give the file's own metadata, with the labels of each axis as `Labels`, by its name.

    They are in the order of their first use, which is that of tifffile's indices.
    """
    labels: dict[str, dict[str, None]] = {}
    index = Path(tif.filehandle.dirname) / "NDTiff.index"
    for axes, *_ in read_ndtiff_index(index):
        for axis, place in axes.items():
            if isinstance(place, str):
                labels.setdefault(axis, {})[place] = None
    names = {axis: list(found) for axis, found in labels.items()}
    return {**(tif.micromanager_metadata or {}), "Labels": names}


def _qpi(tif: TiffFile) -> list[str]:
    """Give the XML of the pages of the main series, one for each channel."""
    return [page.aspage().description for page in tif.series[0] if page is not None]


def _bif(tif: TiffFile) -> Any:
    """Give the XML of the first page, whichever page is the image."""
    return tif.pages.first.tags.valueof(_XMP)


OWN_METADATA: Mapping[str, Callable[[TiffFile], Any]] = {
    "ndtiff": _ndtiff,
    "qpi": _qpi,
    "bif": _bif,
}
"""Readers by flavour."""
