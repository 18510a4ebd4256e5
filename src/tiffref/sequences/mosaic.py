"""Files side by side by their georeference.

Owns the place of files along y and x, and the coordinates of the whole. What the tags of one file
say is `conventions.geo`'s. Files must share their pixel grid; that they fall on chunk boundaries is
checked where they are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ManifestMismatch
from ..metadata.geo import GeoLevel, describe_level, grid_mappings, multiscales, read_georeference
from ..metadata.geokeys import MATRIX, Affine, parse_geokeys
from ..metadata.location import TOLERANCE
from ..metadata.report import Report
from ..model.array import Array

if TYPE_CHECKING:
    from .file_scans import Part

__all__ = ["describe_mosaic", "mosaic_origins"]

_GEO_KEYS = (34735, 34736, 34737)


@dataclass(frozen=True, slots=True)
class _Level:
    """Dimensions of one level of a mosaic, and what distinguishes its names."""

    path: str

    @property
    def suffix(self) -> str:
        return self.path.removeprefix("image")

    @property
    def rows(self) -> str:
        return f"y{self.suffix}"

    @property
    def columns(self) -> str:
        return f"x{self.suffix}"

    def size(self, array: Array) -> tuple[int, int]:
        """Rows and columns of an array of this level."""
        sizes = dict(zip(array.dims, array.shape, strict=True))
        return sizes[self.rows], sizes[self.columns]


def mosaic_origins(parts: Sequence[Part], path: str) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Find where the array of each file goes, in samples.

    Parameters
    ----------
    path
        Of the array; overviews lie where their full image lies, in their own pixels.

    Returns
    -------
    origins, shape
        `(n_files, n_dims)`, and the shape of the whole.

    Raises
    ------
    ManifestMismatch
        If files have no georeference, or lie on different grids.
    """
    level = _Level(path)
    corners = _corners(parts, path)
    corners -= corners.min(axis=0)
    pixels = np.rint(corners).astype(np.int64)
    off = np.abs(corners - pixels).max(axis=1)
    if (off > TOLERANCE).any():
        n = int(off.argmax())
        raise ManifestMismatch(
            f"{int((off > TOLERANCE).sum())} of {len(parts)} files lie between the pixels of the"
            " others",
            url=parts[n].url,
            got=f"off by {off[n]:.3f} pixels",
            hint="level=0 leaves overviews out." if level.suffix else "Resample them first.",
        )
    first = parts[0].arrays[path]
    sizes = np.array([level.size(part.arrays[path]) for part in parts])
    origins = np.zeros((len(parts), len(first.shape)), np.int64)
    shape = list(first.shape)
    for n, dim in enumerate((level.rows, level.columns)):
        axis = first.dims.index(dim)
        origins[:, axis] = pixels[:, n]
        shape[axis] = int((pixels[:, n] + sizes[:, n]).max())
    return origins, tuple(shape)


def _corners(parts: Sequence[Part], path: str) -> NDArray[np.float64]:
    """Return the (row, column) of each file's corner, `(n_files, 2)`, in pixels of its level."""
    level, full = _Level(path), _Level("image")
    first = parts[0].location
    reference = _transform(parts[0])
    found = []
    for part in parts:
        a, b, c, d, e, f = _transform(part)
        is_alike = np.allclose((a, b, d, e), np.take(reference, (0, 1, 3, 4)), rtol=1e-9, atol=0)
        if not is_alike or part.location.system != first.system:
            raise ManifestMismatch(
                "files of a mosaic differ in pixel size or coordinate reference system",
                url=part.url,
                got=part.location,
                expected=f"as {parts[0].url}: {first}",
            )
        n_rows, n_columns = level.size(part.arrays[path])
        all_rows, all_columns = full.size(part.arrays["image"])
        found.append((f / e * n_rows / all_rows, c / a * n_columns / all_columns))
    return np.array(found)


def _transform(part: Part) -> Affine:
    transform = part.location.transform
    if transform is None or transform[1] or transform[3]:
        raise ManifestMismatch(
            "a file of the mosaic has no place on a grid of rows and columns",
            url=part.url,
            expected="ModelPixelScale (33550) and one ModelTiepoint (33922)",
            hint="Give rows and columns by the pattern and concat={'row': 'y', 'column': 'x'}.",
        )
    return transform


def describe_mosaic(
    parts: Sequence[Part], arrays: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Any], dict[str, GeoLevel]]:
    """Return the coordinates of the whole, the attributes of its group, and of each level.

    Parameters
    ----------
    parts
        The files.
    arrays
        Levels of the whole by path.
    """
    corners = _corners(parts, "image")
    top, left = corners.argmin(axis=0)
    a, _, x, _, e, _ = _transform(parts[left])
    y = _transform(parts[top])[5]
    first = parts[0].georeference
    tags = {code: first[code] for code in _GEO_KEYS if code in first}
    if parse_geokeys(tags).values.get(1025) == 2:  # the tags speak of pixel centres
        x, y = x + a / 2, y + e / 2
    report = Report(parts[0].url)
    # unlike a scale it has a sign: rows may go up
    matrix = (a, 0.0, 0.0, x, 0.0, e, 0.0, y, *(0.0,) * 7, 1.0)
    reference = read_georeference({**tags, MATRIX: matrix}, report)
    full = _Level("image").size(arrays["image"])
    variables: dict[str, Array] = {}
    described: dict[str, GeoLevel] = {}
    for path, array in arrays.items():
        level = _Level(path)
        names = level.rows, level.columns
        one = described[path] = describe_level(reference, level.size(array), full, names, report)
        variables |= one.variables
    variables |= grid_mappings(described)[0]
    levels = [(path, arrays[path], one) for path, one in described.items()]
    return variables, multiscales(levels), described
