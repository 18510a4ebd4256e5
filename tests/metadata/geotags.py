"""Hand-made GeoTIFF tags, and TIFF files that have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

TYPES = {
    **dict.fromkeys((33550, 33922, 34264, 34736, 50844), 12),
    34735: 3,
    34737: 2,
    42112: 2,
    42113: 2,
}


def geotags(keys: Mapping[int, Any], **tags: Any) -> dict[int, Any]:
    """Return the three GeoKey tags for keys by number; `t33550=(...)` adds a tag."""
    directory: list[int] = [1, 1, tags.pop("minor", 0), len(keys)]
    doubles: list[float] = []
    texts = ""
    for key in sorted(keys):
        value = keys[key]
        if isinstance(value, str):
            directory += [key, 34737, len(value) + 1, len(texts)]
            texts += value + "|"
        elif isinstance(value, int):
            directory += [key, 0, 1, value]
        else:
            values = value if isinstance(value, tuple) else (value,)
            directory += [key, 34736, len(values), len(doubles)]
            doubles += values
    found: dict[int, Any] = {34735: tuple(directory)}
    if doubles:
        found[34736] = tuple(doubles)
    if texts:
        found[34737] = texts
    found.update({int(name[1:]): value for name, value in tags.items()})
    return found


def extra_tags(tags: Mapping[int, Any]) -> list[tuple[Any, ...]]:
    """Return tags as tifffile writes them."""
    return [
        (code, TYPES[code], len(value) + isinstance(value, str), value, True)
        for code, value in tags.items()
    ]


def write_geotiff(path: Path, tags: Mapping[int, Any], shape=(6, 8), **options: Any) -> Path:
    """Write a small TIFF with some tags."""
    data = np.arange(np.prod(shape), dtype=options.pop("dtype", "u1")).reshape(shape)
    tifffile.imwrite(path, data, extratags=extra_tags(tags), metadata=None, **options)
    return path


UTM = {1024: 1, 1025: 1, 3072: 32633}
PLACED = {"t33550": (10.0, 20.0, 0.0), "t33922": (0.0, 0.0, 0.0, 500000.0, 5200000.0, 0.0)}
