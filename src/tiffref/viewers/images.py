"""Images of a source, each with its levels, for the plugins of viewers.

Owns what plugins have in common: opening whatever a viewer hands over, and putting the levels of
each image together. Pixels come through the xarray engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, install_hint

if TYPE_CHECKING:
    import xarray as xr

    from ..references import References

__all__ = ["Image", "open_images"]

_SUFFIX = re.compile(r"(_\d+)?$")


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its name, its levels from the largest on, and its channels.

    `channels` has an entry for each channel, as in `omero` of OME-NGFF, or none.
    """

    name: str
    levels: tuple[xr.DataArray, ...]
    channels: tuple[Mapping[str, Any], ...] = ()


def open_images(
    path: str | Sequence[str], storage_options: Mapping[str, Any] | None = None
) -> list[Image]:
    """Open every image of a TIFF, of references, or of several files that make one image.

    Parameters
    ----------
    path
        Path or URL; several files are stacked by their names, as in `tiffref.scan_sequence`.
    storage_options
        For the fsspec file system of a URL.

    Raises
    ------
    MissingExtra
        If xarray or dask is not installed.
    TiffrefError
        If the source cannot be read.
    """
    references = _open(path, storage_options)
    try:
        import xarray as xr

        dataset = xr.open_dataset(
            references,  # type: ignore[arg-type]  # what our engine takes
            engine="tiffref",
            chunks={},
            mask_and_scale=False,
            storage_options=storage_options,
        )
    except ImportError as error:  # chunks= imports dask
        raise MissingExtra(
            "images for viewers need xarray and dask", got=error.name, hint=install_hint("xarray")
        ) from error
    channels = _parse_json(dataset.attrs.get("omero")).get("channels", ())
    images = [
        Image(levels[0], tuple(dataset[level] for level in levels))
        for levels in _group_levels(references, dataset)
    ]
    first = [Image(one.name, one.levels, tuple(channels)) for one in images[:1]]
    return first + images[1:]


def _open(path: str | Sequence[str], storage_options: Mapping[str, Any] | None) -> References:
    from ..references import References
    from ..sequences.stack import scan_sequence
    from ..tiff.scan import scan
    from ..zarr.tiff_store import is_document

    if not isinstance(path, str):
        if len(path) > 1:
            return scan_sequence(list(path), storage_options=storage_options)
        (path,) = path
    if is_document(path):
        return References.open(path, storage_options)
    return scan(path, storage_options=storage_options)


def _group_levels(references: References, dataset: xr.Dataset) -> list[list[str]]:
    """List the arrays of each image, largest first."""
    by_series = [
        [level["path"] for level in one["levels"] if level.get("path") in dataset]
        for one in references.series
    ]
    listed = {name for levels in by_series for name in levels}
    others: dict[str, list[str]] = {}
    for name, variable in dataset.data_vars.items():  # references of other programs list nothing
        if name not in listed and variable.ndim > 1:
            others.setdefault(_SUFFIX.sub("", str(name)), []).append(str(name))
    return [levels for levels in (*by_series, *others.values()) if levels]


def _parse_json(text: Any) -> Mapping[str, Any]:
    value = json.loads(text) if isinstance(text, str) else text
    return value if isinstance(value, Mapping) else {}
