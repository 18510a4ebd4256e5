"""Read a window of a remote TIFF, and count the bytes transferred.

Run `python examples/remote.py`. A local HTTP server stands in for an object store. The TIFF is
scanned over HTTP; the references are a small file that could be anywhere.
"""

import tempfile
from pathlib import Path

import numpy as np
import tifffile
import xarray as xr
from pictures import draw, landscape
from range_server import serve

import tiffref


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tiffref-"))
    image = (4096 * np.tile(landscape(1024, 1024), (4, 4))).astype(np.uint16)
    tifffile.imwrite(folder / "scene.tif", image, tile=(256, 256), compression="zstd")
    size = (folder / "scene.tif").stat().st_size

    with serve(folder) as server:
        references = tiffref.scan(server.url + "scene.tif")
        references.write_fsspec(folder / "scene.json")
        scanned = sum(length for _, _, length in server.ranges)

        server.ranges.clear()
        dataset = xr.open_dataset(str(folder / "scene.json"), engine="kerchunk")
        window = dataset.image[1100:1300, 2100:2300].to_numpy()
        read = sum(length for _, _, length in server.ranges)

    assert np.array_equal(window, image[1100:1300, 2100:2300])
    draw(folder / "window.png", window)
    print(f"size of the TIFF:       {size:>12,} bytes")
    print(f"read by the scan:       {scanned:>12,} bytes")
    print(f"read by a 200 x 200 window: {read:>8,} bytes in {len(server.ranges)} requests")


if __name__ == "__main__":
    main()
