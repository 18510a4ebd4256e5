"""What the index of an NDTiff set says besides where planes are: the labels of its axes.

Owns reading `NDTiff.index` for labels; tifffile makes the series of it, with numbers for labels.

Reference: NDTiff version 3, "Index file": a record of each plane starts with its axes as JSON.
"""

from __future__ import annotations

import os
from typing import Any

from tifffile import TiffFile, read_ndtiff_index

__all__ = ["ndtiff_metadata"]


def ndtiff_metadata(tif: TiffFile) -> dict[str, Any]:
    """Give the file's own metadata, with the labels of each axis as `Labels`, by its name.

    They are in the order of their first use, which is that of tifffile's indices.
    """
    labels: dict[str, dict[str, None]] = {}
    index = os.path.join(tif.filehandle.dirname, "NDTiff.index")
    for axes, *_ in read_ndtiff_index(index):
        for axis, place in axes.items():
            if isinstance(place, str):
                labels.setdefault(axis, {})[place] = None
    names = {axis: list(found) for axis, found in labels.items()}
    return {**(tif.micromanager_metadata or {}), "Labels": names}
