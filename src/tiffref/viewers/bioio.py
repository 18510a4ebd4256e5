"""The bioio reader: `BioImage("slide.svs", reader=tiffref.viewers.bioio.Reader)`.

Converts images to bioio's scenes, levels and dimensions T, C, Z, Y, X and S. bioio finds the reader
by the entry point `bioio.readers`.

Reference: bioio-base documentation, `bioio_base.reader.Reader`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import bioio_base.exceptions
import bioio_base.io
import bioio_base.reader
import bioio_base.reader_metadata
import xarray as xr
from bioio_base.types import PhysicalPixelSizes

from ..errors import TiffrefError
from . import Image, open_images, spacing

_EXTENSIONS = (
    *(".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".qptiff", ".bif"),
    *(".lsm", ".stk", ".json", ".parq"),
)


class ReaderMetadata(bioio_base.reader_metadata.ReaderMetadata):
    """Metadata that bioio reads before importing the reader."""

    @staticmethod
    def get_supported_extensions() -> list[str]:
        """Return the extensions of TIFFs and references."""
        return [*_EXTENSIONS]

    @staticmethod
    def get_reader() -> type[Reader]:  # type: ignore[override]  # as bioio's own readers do
        """Return the reader class."""
        return Reader


class Reader(bioio_base.reader.Reader):
    """Reads TIFFs and references lazily.

    Parameters
    ----------
    image
        Path or URL of a TIFF or of references.
    fs_kwargs
        Options of the fsspec file system of a URL.

    Raises
    ------
    bioio_base.exceptions.UnsupportedFileFormatError
        If it is neither a TIFF nor references.
    """

    def __init__(self, image: Any, fs_kwargs: Mapping[str, Any] | None = None) -> None:
        self._fs, self._path = bioio_base.io.pathlike_to_fs(
            image, enforce_exists=True, fs_kwargs=dict(fs_kwargs or {})
        )
        try:
            images = open_images(str(image), fs_kwargs or None)
        except TiffrefError as error:
            raise bioio_base.exceptions.UnsupportedFileFormatError(
                "tiffref", self._path, str(error)
            ) from error
        self._levels = {name: levels for image in images for name, levels in _scenes(image)}

    @staticmethod
    def _is_supported_image(fs: Any, path: str, **kwargs: Any) -> bool:
        if fs.isdir(path):
            return fs.exists(f"{path}/.zmetadata")  # parquet references
        with fs.open(path) as file:
            start = file.read(4)
        # the magic numbers of TIFF, BigTIFF and JSON
        return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or start[:1] == b"{"

    @functools.cached_property
    def scenes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the images of the file."""
        return tuple(self._levels)

    @property
    def resolution_levels(self) -> tuple[int, ...]:
        """Levels of the current scene; 0 is full size."""
        return tuple(range(len(self._levels[self.current_scene])))

    @property
    def physical_pixel_sizes(self) -> PhysicalPixelSizes:
        """Pixel sizes along Z, Y and X, in the unit of the file's metadata."""
        level = self.xarray_dask_data
        axes = (spacing(level, dim) for dim in "ZYX")
        return PhysicalPixelSizes(*(None if axis is None else axis[0] for axis in axes))

    def _read_delayed(self) -> xr.DataArray:
        level = self._levels[self.current_scene][self.current_resolution_level]
        if "C" in level.dims and "C" not in level.coords:  # bioio requires names
            names = [f"Channel:{self.current_scene}:{n}" for n in range(level.sizes["C"])]
            level = level.assign_coords(C=names)
        return level

    def _read_immediate(self) -> xr.DataArray:
        return self._read_delayed().compute()


_DIMS = frozenset("TCZYXS")
_SIMILAR = {"H": "T", "TIME": "T", "E": "C", "CHANNEL": "C", "BAND": "C"}


def _scenes(image: Image) -> Iterator[tuple[str, tuple[xr.DataArray, ...]]]:
    """Yield name and levels of an image, with the dimensions of bioio.

    bioio shows only the start of others, without a warning. Each becomes one that the image does
    not have: lifetimes are times, wavelengths channels. Of positions (R), or if none is left, each
    is a scene.
    """
    dims = [str(dim).upper() for dim in image.levels[0].dims]
    free = [dim for dim in "ZCT" if dim not in dims]
    for at, dim in reversed([*enumerate(dims)]):
        if free and dim not in _DIMS and dim != "R":
            similar = _SIMILAR.get(dim)
            dims[at] = free.pop(free.index(similar) if similar in free else 0)
    levels = [level.rename(dict(zip(level.dims, dims, strict=True))) for level in image.levels]
    left = {dim: levels[0].sizes[dim] for dim in dims if dim not in _DIMS}
    for index in itertools.product(*map(range, left.values())):
        place = dict(zip(left, index, strict=True))
        name = " ".join([image.name, *(f"{dim}{n}" for dim, n in place.items())])
        yield name, tuple(level.isel(place) for level in levels)
