"""Reduce an image with Dask worker processes, each of which opens the TIFF itself.

Run `python examples/dask_processes.py`. The store is pickled for the workers; it is small, and
reopens its file there.
"""

import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import tifffile

from tiffref.zarr import ZarrTiffStore


def main() -> None:
    path = Path(tempfile.mkdtemp(prefix="tiffref-")) / "stack.tif"
    stack = np.random.default_rng(7).integers(0, 255, (12, 512, 512), np.uint8)
    tifffile.imwrite(path, stack, tile=(256, 256), compression="zlib", photometric="minisblack")

    with ZarrTiffStore(path) as store:
        array = da.from_zarr(store)
        print(array)
        mean = array.mean(axis=0).compute(scheduler="processes", num_workers=2)

    assert np.allclose(mean, stack.mean(axis=0))
    print(f"mean over 12 planes: min {mean.min():.1f}, max {mean.max():.1f}")


if __name__ == "__main__":  # worker processes import this file
    main()
