"""The napari reader: TIFFs, sequences and references as lazy layers.

Converts arrays and their metadata to layer data. Pixels are read through the xarray engine, as far
as they are in view. napari itself is not imported.

Reference: napari documentation, "Reader contribution", and the manifest `napari.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TiffrefError
from ..references import References
from . import Image, open_images, spacing

if TYPE_CHECKING:
    import xarray as xr

LayerData = tuple[Any, dict[str, Any], str]
"""(pixels or list of levels, arguments of the layer, "image" or "labels")."""

_SAMPLES = "s"
_CHANNELS = ("c", "channel")
"""Names of the axis of channels, the latter in patterns of file names."""


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return the function that reads `path`, or None if it is neither a TIFF nor references.

    Parameters
    ----------
    path
        A file, a folder of parquet references, or several files that form one image.
    """
    first = path if isinstance(path, str) else path[0]
    if Path(first).is_dir() and not (Path(first) / ".zmetadata").exists():
        return None
    if first.endswith(".json"):  # not every JSON file contains references
        try:
            References.open(first)
        except (TiffrefError, OSError):
            return None
    return read_layers


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Open all images of a file, of references, or of several files as layers.

    A pyramid is one layer with all its levels. Channels are separate layers with their names (after
    that of the image, if there are several), colors and contrast limits. Pixel sizes become `scale`
    and `units`.

    Parameters
    ----------
    path
        Path or URL; several files are stacked by their names, as in `tiffref.scan_sequence`.

    Raises
    ------
    TiffrefError
        If the source cannot be read.
    """
    images = open_images(path)
    return [_layer(image, is_only=len(images) == 1) for image in images]


def _layer(image: Image, is_only: bool) -> LayerData:
    full = image.levels[0]
    dims = [str(dim) for dim in full.dims]
    title = full.attrs.get("title") or image.name
    options: dict[str, Any] = {"name": title, "metadata": {"attributes": dict(full.attrs)}}
    if is_rgb := dims[-1] == _SAMPLES and full.shape[-1] in (3, 4) and full.dtype.kind == "u":
        options["rgb"] = True
        dims.pop()
    is_mask = full.attrs.get("role") == "mask"
    channels = next((dim for dim in _CHANNELS if dim in dims), None)
    if channels and not is_mask and not is_rgb:
        prefix = "" if is_only else f"{title}: "
        options |= _channel_options(full, channels, image.channels, prefix)
        options["channel_axis"] = dims.index(channels)
        dims.remove(channels)
    axes = [spacing(full, dim) or (1.0, 0.0, "pixel") for dim in dims]
    scale, translate, units = ([axis[n] for axis in axes] for n in range(3))
    options |= {"scale": scale, "translate": translate, "units": units, "axis_labels": dims}
    data = [level.data for level in image.levels]
    if len(data) > 1:
        options["multiscale"] = True
    return data if len(data) > 1 else data[0], options, "labels" if is_mask else "image"


def _channel_options(
    full: xr.DataArray, dim: str, channels: Sequence[Mapping], prefix: str
) -> dict[str, Any]:
    n = full.sizes[dim]
    names = full[dim].values if dim in full.coords else [f"channel {i}" for i in range(n)]
    options: dict[str, Any] = {"name": [f"{prefix}{name}" for name in names]}
    if len(channels) != n:
        return options
    colors = [channel.get("color") for channel in channels]
    if all(colors):
        options["colormap"] = [f"#{color}" for color in colors]
    options["contrast_limits"] = [
        _contrast_limits(channel.get("window", {})) for channel in channels
    ]
    options["visible"] = [bool(channel.get("active", True)) for channel in channels]
    return options


def _contrast_limits(window: Mapping[str, Any]) -> list[Any] | None:
    """Return the limits of a channel; None if they are all values of the dtype."""
    limits = [window.get("start"), window.get("end")]
    return None if None in limits or limits == [window.get("min"), window.get("max")] else limits
