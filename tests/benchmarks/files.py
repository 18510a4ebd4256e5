"""Files that the benchmarks run on, made once into a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile


def made(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Make a file unless it is there."""
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial-{name}")
        make(partial)
        partial.replace(path)
    return path


def tiles(folder: Path, n: int) -> Path:
    """One page of `n * n` tiles."""

    def make(path: Path) -> None:
        tile = np.zeros((16, 16), "u1")
        tifffile.imwrite(
            path, itertools.repeat(tile, n * n), shape=(16 * n, 16 * n), dtype="u1",
            tile=(16, 16), compression="packbits", metadata=None, bigtiff=True,
        )  # fmt: skip

    return made(folder, f"tiles{n * n}.tif", make)


def pages(folder: Path, kind: str, n: int) -> Path:
    """A stack of `n` pages: ImageJ, OME, plain deflate, or deflate with irregular directories."""

    def make(path: Path) -> None:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 9, (16, 64, 64), "u2")
        frames = (images[i % 16] for i in range(n))
        shape = (n, 64, 64)
        if kind == "imagej":
            tifffile.imwrite(path, np.resize(images, shape), imagej=True)
        elif kind == "ome":
            how = {"compression": "zlib", "photometric": "minisblack", "metadata": {"axes": "TYX"}}
            with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tif:
                tif.write(frames, shape=shape, dtype="u2", **how)
        else:
            how = {"compression": "zlib", "metadata": None, "photometric": "minisblack"}
            with tifffile.TiffWriter(path, bigtiff=True) as tif:
                for i, frame in enumerate(frames):
                    more = (
                        {"description": f"page {i}"} if kind == "irregular" and i % 7 == 0 else {}
                    )
                    tif.write(frame, contiguous=False, **how, **more)

    suffix = ".ome.tif" if kind == "ome" else ".tif"
    return made(folder, f"{kind}{n}{suffix}", make)


def tiled_image(folder: Path, compression: str | None, size: int = 4096) -> Path:
    """An 8-bit image of natural statistics in tiles of 256."""

    def make(path: Path) -> None:
        rng = np.random.default_rng(1)
        rows = np.cumsum(rng.integers(-2, 3, (size, size)), axis=1)
        how = {"photometric": "minisblack", "metadata": None, "tile": (256, 256)}
        tifffile.imwrite(path, (rows % 200).astype("u1"), compression=compression, **how)

    return made(folder, f"image-{compression}-{size}.tif", make)


def cog(folder: Path, index: int, size: int = 1024, dtype: str = "uint8") -> Path:
    """A small Cloud Optimized GeoTIFF with overviews."""
    import rasterio
    from rasterio.shutil import copy

    def make(path: Path) -> None:
        data = np.random.default_rng(index).integers(0, 50, (size, size), dtype)
        transform = rasterio.transform.from_origin(1000 * index, 0, 10, 10)
        profile = {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": dtype}
        with rasterio.MemoryFile() as memory:
            with memory.open(**profile, crs="EPSG:32633", transform=transform) as image:
                image.write(data, 1)
            copy(memory.name, path, driver="COG", compress="deflate", blocksize=256)

    return made(folder, f"cog-{size}-{index}.tif", make)


def appended_overviews(folder: Path, size: int = 8192) -> Path:
    """A GeoTIFF whose overviews were added after the image, at the end of the file."""
    import rasterio

    def make(path: Path) -> None:
        data = np.random.default_rng(0).integers(0, 4000, (size, size), "uint16")
        profile = {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint16"}
        tiled = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
        transform = rasterio.transform.from_origin(0, 0, 10, 10)
        with rasterio.open(path, "w", **profile, **tiled, crs=32633, transform=transform) as image:
            image.write(data, 1)
        with rasterio.open(path, "r+") as image:
            image.build_overviews([2, 4, 8, 16])

    return made(folder, f"appended-{size}.tif", make)


def acquisition(folder: Path, n: int = 1000) -> Path:
    """Pages as a camera writes them: a directory every 512 KiB."""

    def make(path: Path) -> None:
        with tifffile.TiffWriter(path, bigtiff=True) as tif:
            for i in range(n):
                page = np.full((512, 512), i, "u2")
                tif.write(page, photometric="minisblack", metadata=None, contiguous=False)

    return made(folder, f"acquisition{n}.tif", make)
