"""Files side by side by their georeference.

Owns the place of files along y and x, from ModelPixelScale and ModelTiepoint (OGC GeoTIFF 1.1,
section 7.1.2), and the coordinates of the whole. Files must share their pixel grid; that they fall
on chunk boundaries is checked where they are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ManifestMismatch
from ..model.node import Array, Group

if TYPE_CHECKING:
    from .files import Part

__all__ = ["mosaic_coordinates", "mosaic_origins"]

_SCALE, _TIEPOINT = 33550, 33922
_GEO_KEYS = (34735, 34736, 34737)
_TOLERANCE = 1e-3
"""Of a pixel: writers round the corners of tiles."""


def mosaic_origins(
    parts: Sequence[Part], path: str, suffix: str
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Find where the array of each file goes, in samples.

    Parameters
    ----------
    path
        Of the array; overviews lie where their level 0 lies, in their own pixels.
    suffix
        Of the names of its dimensions.

    Returns
    -------
    origins, shape
        `(n_files, n_dims)`, and the shape of the whole.

    Raises
    ------
    ManifestMismatch
        If files have no georeference, or lie on different grids.
    """
    place = np.stack(
        [_pixels(part, parts[0], suffix, path) for part in parts]
    )  # (n_files, 2): rows, columns
    origins_yx = np.rint(place - place.min(axis=0)).astype(np.int64)
    off = np.abs(place - place.min(axis=0) - origins_yx).max(axis=1)
    if (off > _TOLERANCE).any():
        n = int(off.argmax())
        raise ManifestMismatch(
            f"{int((off > _TOLERANCE).sum())} of {len(parts)} files lie between the pixels of the"
            " first one",
            url=parts[n].url,
            got=f"off by {off[n]:.3f} pixels",
            hint="level=0 leaves overviews out." if suffix else "They have to be resampled.",
        )
    arrays = [part.arrays[path] for part in parts]
    first = arrays[0]
    axes = [first.dims.index(f"{name}{suffix}") for name in ("y", "x")]
    origins = np.zeros((len(parts), len(first.shape)), np.int64)
    shape = list(first.shape)
    for n, axis in enumerate(axes):
        origins[:, axis] = origins_yx[:, n]
        shape[axis] = int((origins_yx[:, n] + [array.shape[axis] for array in arrays]).max())
    return origins, tuple(shape)


def _pixels(part: Part, first: Part, suffix: str, path: str) -> NDArray[np.float64]:
    """Give (row, column) of a file's corner, in pixels of its level."""
    corner, scale = _corner(part)
    _, reference = _corner(first)
    if not np.allclose(scale, reference, rtol=1e-9, atol=0) or any(
        part.notes.get(code) is not None
        and not np.array_equal(part.notes[code], first.notes.get(code, ()))
        for code in _GEO_KEYS
    ):
        raise ManifestMismatch(
            "files of a mosaic differ in pixel size or coordinate reference system",
            url=part.url,
            got=tuple(scale),
            expected=f"{tuple(reference)} as {first.url}",
        )
    factor = np.ones(2)
    if suffix:
        level, full = part.arrays[path], part.arrays["image"]
        factor = np.array(
            [
                level.shape[level.dims.index(f"{name}{suffix}")] / full.shape[full.dims.index(name)]
                for name in ("y", "x")
            ]
        )
    return np.array([-corner[1] / scale[1], corner[0] / scale[0]]) * factor


def _corner(part: Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give x and y of the corner of pixel (0, 0), and the pixel size."""
    scale, tie = part.notes.get(_SCALE), part.notes.get(_TIEPOINT)
    if scale is None or tie is None or len(tie) != 6 or len(scale) < 2:
        raise ManifestMismatch(
            "a file of the mosaic has no place",
            url=part.url,
            expected="ModelPixelScale (33550) and one ModelTiepoint (33922)",
            hint="Give rows and columns by the pattern and concat={'row': 'y', 'column': 'x'}.",
        )
    i, j, _, x, y, _ = tie
    return np.array([x - i * scale[0], y + j * scale[1]]), np.array(scale[:2])


def mosaic_coordinates(
    constant: Mapping[str, Array | Group], parts: Sequence[Part], children: Mapping[str, Any]
) -> dict[str, Array | Group]:
    """Give y and x of the whole at pixel centres, in place of those of one file."""
    corners = np.stack([_corner(part)[0] for part in parts])
    scale = _corner(parts[0])[1]
    left, top = corners[:, 0].min(), corners[:, 1].max()
    whole = children["image"]
    lengths = dict(zip(whole.dims, whole.shape, strict=True))
    found = {
        name: child
        for name, child in constant.items()
        if isinstance(child, Array) and not {"x", "y"} & {dim.split("_")[0] for dim in child.dims}
    }
    for name, start, step in (("y", top, -scale[1]), ("x", left, scale[0])):
        old = constant.get(name)
        attributes = old.attributes if isinstance(old, Array) else {"axis": name.upper()}
        values = start + step * (np.arange(lengths[name]) + 0.5)
        found[name] = Array.from_values(values, (name,), attributes)
    return found
