"""Plugins for image viewers (napari, bioio), and the code they share.

Opens the paths that viewers pass, and groups the levels of each image. Pixels are read through the
xarray engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import requires_extra
from ..metadata.ngff import image_channels

if TYPE_CHECKING:
    import xarray as xr


_SUFFIX = re.compile(r"(_\d+)?$")
_AXIS_SUFFIX = re.compile(r"(?<=^[a-z])_.*")
"""Suffixes of axes of overviews and further images: `y_1`, `c_s1`, `s_thumbnail`."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its name, its levels from the largest on, and its channels.

    `channels` has an entry for each channel, as in `omero` of OME-NGFF; empty if unknown.
    """

    name: str
    levels: tuple[xr.DataArray, ...]
    channels: tuple[Mapping[str, Any], ...] = ()


def open_images(
    path: str | Sequence[str], storage_options: Mapping[str, Any] | None = None
) -> list[Image]:
    """Open all images of a TIFF, of references, or of several files that form one image.

    Parameters
    ----------
    path
        Path or URL; several files are stacked by their names, as in `tiffref.scan_sequence`.
    storage_options
        Options of the fsspec file system of a URL.

    Raises
    ------
    MissingExtra
        If xarray or dask is not installed.
    TiffrefError
        If the source cannot be read.
    """
    from ..documents import open_references
    from ..references import level_paths

    is_single = not isinstance(path, str) and len(path) == 1
    references = open_references(path[0] if is_single else path, storage_options)
    channels = image_channels(references.group)
    with requires_extra("xarray", "images for viewers need xarray and dask"):
        import xarray as xr

        groups = xr.open_groups(  # which imports dask because of chunks=
            references,  # type: ignore[arg-type]  # accepted by our engine
            engine="tiffref",
            chunks={},
            mask_and_scale=False,
            storage_options=storage_options,
        )
    images: list[Image] = []
    for row in references.series:
        paths = level_paths([row])
        if paths:
            levels = tuple(_variable(groups, path) for path in paths)
            images.append(Image(paths[0], levels, channels.get(paths[0], ())))
    return images or _images_by_name(groups["/"])


def spacing(level: xr.DataArray, dim: str) -> tuple[float, float, str] | None:
    """Return step, origin and unit of an axis from its coordinate; None if unknown."""
    axis = level.coords.get(dim)
    if axis is None or axis.dtype.kind != "f" or axis.size < 2:
        return None
    return float(axis[1] - axis[0]), float(axis[0]), axis.attrs.get("units", "pixel")


def _variable(groups: Mapping[str, xr.Dataset], path: str) -> xr.DataArray:
    """Return the array of a level, with the axes of a full-size image."""
    folder, _, name = path.rpartition("/")
    variable = groups[f"/{folder}"][name or "image"]
    return variable.rename({dim: _AXIS_SUFFIX.sub("", str(dim)) for dim in variable.dims})


def _images_by_name(dataset: xr.Dataset) -> list[Image]:
    """Group levels by name in references of other programs, which do not list series."""
    images: dict[str, list[xr.DataArray]] = {}
    for name, variable in dataset.data_vars.items():
        if variable.ndim > 1:
            images.setdefault(_SUFFIX.sub("", str(name)), []).append(variable)
    return [Image(name, tuple(levels)) for name, levels in images.items()]
