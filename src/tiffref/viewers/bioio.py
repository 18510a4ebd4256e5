"""The bioio reader: `BioImage("slide.svs", reader=tiffref.viewers.bioio.Reader)`.

Converts images to bioio's scenes, levels and dimensions T, C, Z, Y, X and S. bioio finds the reader
by the entry point `bioio.readers`.

Reference: bioio-base documentation, `bioio_base.reader.Reader`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
        self._images: dict[str, Image] = {picture.name: picture for picture in images}

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
        return tuple(self._images)

    @property
    def resolution_levels(self) -> tuple[int, ...]:
        """Levels of the current scene; 0 is full size."""
        return tuple(range(len(self._images[self.current_scene].levels)))

    @property
    def physical_pixel_sizes(self) -> PhysicalPixelSizes:
        """Pixel sizes along Z, Y and X, in the unit of the file's metadata."""
        level = self.xarray_dask_data
        axes = (spacing(level, dim) for dim in "ZYX")
        return PhysicalPixelSizes(*(None if axis is None else axis[0] for axis in axes))

    def _read_delayed(self) -> xr.DataArray:
        level = self._images[self.current_scene].levels[self.current_resolution_level]
        level = level.rename({dim: str(dim).upper() for dim in level.dims})
        if "C" in level.dims and "C" not in level.coords:  # bioio requires names
            names = [f"Channel:{self.current_scene}:{n}" for n in range(level.sizes["C"])]
            level = level.assign_coords(C=names)
        return level

    def _read_immediate(self) -> xr.DataArray:
        return self._read_delayed().compute()
