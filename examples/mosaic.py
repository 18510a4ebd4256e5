"""Join the tiles of a map by their georeference, without copying a pixel.

Run `python examples/mosaic.py`. It creates its own files.
"""

import tempfile
from pathlib import Path

import numpy as np
import tifffile
from pictures import draw, landscape

import tiffref
from tiffref.zarr import ZarrTiffStore

PIXEL_SIZE_M = 10.0


def make_files(folder: Path) -> np.ndarray:
    """Cut an image into six GeoTIFFs."""
    whole = (255 * landscape(256, 384)).astype(np.uint8)
    for row, column in np.ndindex(2, 3):
        tile = whole[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
        x, y = 5e5 + 128 * column * PIXEL_SIZE_M, 6e6 - 128 * row * PIXEL_SIZE_M
        tags = [
            (33550, "d", 3, (PIXEL_SIZE_M, PIXEL_SIZE_M, 0.0), True),
            (33922, "d", 6, (0.0, 0.0, 0.0, x, y, 0.0), True),
            (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
        ]
        name = folder / f"tile_{row}{column}.tif"
        tifffile.imwrite(
            name, tile, tile=(64, 64), compression="zlib", metadata=None, extratags=tags
        )
    return whole


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tiffref-"))
    whole = make_files(folder)

    references = tiffref.scan_sequence(str(folder / "*.tif"), mosaic=True)
    left, top = references.group.attributes["spatial:transform"][2::3]
    shape = references.group["image"].shape
    print(f"{len(references.sources)} files make {shape} at {left}, {top}")

    with ZarrTiffStore(references) as store:
        window = store[100:160, 100:300]  # across four files
        assert np.array_equal(window, whole[100:160, 100:300])
        draw(folder / "mosaic.png", store[:])
    print("a window across four files has the right pixels")


if __name__ == "__main__":
    main()
