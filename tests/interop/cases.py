"""The cases of the table of clients: a small TIFF of each kind, and what is right for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from microscopes import write_imagej_stack, write_ome_pyramid, write_rgb_pyramid
from numpy.typing import NDArray

import tiffref


@dataclass(frozen=True)
class Case:
    """References to one TIFF in both Zarr formats, and its pixels in the order of axes there.

    By Zarr format, `arrays` has the path of the full-size array, `images` that of its image in
    OME-NGFF.
    """

    source: Any
    documents: dict[int, Path]
    arrays: dict[int, str]
    pixels: NDArray
    images: dict[int, str] = field(default_factory=lambda: {2: "", 3: ""})


def _case(
    source: Any, references: tiffref.References, pixels: NDArray, arrays: dict[int, str],
    images: dict[int, str] | None = None,
) -> Case:  # fmt: skip
    folder = Path(source[0] if isinstance(source, list) else source).parent
    documents = {zarr_format: folder / f"refs{zarr_format}.json" for zarr_format in (2, 3)}
    for zarr_format, path in documents.items():
        references.write_fsspec(path, zarr_format=zarr_format)
    return Case(source, documents, arrays, pixels, images or {2: "", 3: ""})


def _map(folder: Path, **options: Any) -> Case:
    """A GeoTIFF that GDAL writes, as a COG with overviews where it has tiles."""
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    axes = options.pop("axes", None)
    count, dtype = options.pop("count", 1), options.pop("dtype", "int16")
    profile = {"width": 120, "height": 100, "count": count, "dtype": dtype, "driver": "GTiff"}
    profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -20, 5.2e6)}
    path = folder / "a.tif"
    # smooth, so that lossy codecs and predictors have something to do
    ramp = np.add.outer(np.arange(100), np.arange(120)) % 200
    pixels = np.stack([(ramp * (n + 1)) % 251 for n in range(count)]).astype(dtype)
    with rasterio.open(path, "w", **profile, **options) as target:
        target.write(pixels)
    if options.get("tiled"):
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2])
    with rasterio.open(path) as stored:
        pixels = stored.read()
    if count == 1:
        pixels = pixels[0]
    elif axes is None and options.get("interleave") != "band":
        pixels = pixels.transpose(1, 2, 0)
    return _case(path, tiffref.scan(path, axes=axes), pixels, {2: "image", 3: "image"})


_TILES = {"tiled": True, "blockxsize": 32, "blockysize": 32}
_RGB = {"count": 3, "dtype": "uint8"}


def _pyramid(folder: Path, compression: str) -> Case:
    path = folder / "a.ome.tif"
    levels = write_ome_pyramid(path, compression, (2, 2, 3, 40, 56))
    return _case(path, tiffref.scan(path), levels[0], {2: "image", 3: "0/image"})


def slide(folder: Path, compression: str | None) -> Case:
    path = folder / "a.ome.tif"
    levels = write_rgb_pyramid(path, compression)
    pixels = levels[0].transpose(2, 0, 1)
    return _case(path, tiffref.scan(path, axes="ngff"), pixels, {2: "image", 3: "0/image"})


def _stack(folder: Path) -> Case:
    path = folder / "a.tif"
    pixels = write_imagej_stack(path).transpose(0, 2, 1, 3, 4)
    return _case(path, tiffref.scan(path, axes="ngff"), pixels, {2: "image", 3: "image"})


def _plate(folder: Path) -> Case:
    data = np.random.default_rng(21).integers(0, 60000, (2, 3, 2, 24, 31)).astype("u2")
    files = []
    for well, z, c in itertools.product(range(2), range(3), range(2)):
        path = folder / f"r02c0{well + 3}f01p0{z + 1}-ch{c + 1}sk1fk1fl1.tiff"
        tifffile.imwrite(path, data[well, z, c], compression="zlib", tile=(16, 16))
        files.append(str(path))
    references = tiffref.scan_sequence(files, pattern="opera", layout="hcs")
    path = "B/4/1"
    dims = references.group[f"{path}/image"].dims
    pixels = data[1].transpose(1, 0, 2, 3)
    pixels = pixels[np.newaxis] if dims[0] == "t" else pixels
    arrays = {2: f"{path}/image", 3: f"{path}/image"}
    return _case(files, references, pixels, arrays, {2: path, 3: path})


MAPS: dict[str, Callable[[Path], Case]] = {
    "COG, deflate": lambda folder: _map(folder, compress="deflate", **_TILES),
    "COG, zstd": lambda folder: _map(folder, compress="zstd", **_TILES),
    "COG, LZW and predictor": lambda folder: _map(folder, compress="lzw", predictor=2, **_TILES),
    "COG, JPEG": lambda folder: _map(
        folder, compress="jpeg", interleave="pixel", **{**_TILES, **_RGB}
    ),
    "COG, WebP": lambda folder: _map(
        folder, compress="webp", interleave="pixel", **{**_TILES, **_RGB}
    ),
    "GeoTIFF in strips": lambda folder: _map(folder, blockysize=16),
    "RGB, bands first": lambda folder: _map(
        folder, compress="zstd", interleave="pixel", axes="bands-first", **{**_TILES, **_RGB}
    ),
}
MICROSCOPES: dict[str, Callable[[Path], Case]] = {
    "OME pyramid, deflate": lambda folder: _pyramid(folder, "zlib"),
    "OME pyramid, JPEG": lambda folder: _pyramid(folder, "jpeg"),
    "RGB slide, JPEG": lambda folder: slide(folder, "jpeg"),
    "RGB slide, zstd": lambda folder: slide(folder, "zstd"),
    "ImageJ stack": _stack,
    "plate": _plate,
}
