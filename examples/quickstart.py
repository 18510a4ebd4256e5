"""Make a pyramid, scan it, and open the references with xarray.

Run `python examples/quickstart.py [FOLDER]`. It writes `cells.ome.tif` (an OME-TIFF with three
channels, three resolution levels and deflate-compressed tiles) and `cells.json` (the references)
into FOLDER, or into a new temporary folder, and draws `cells.png`.
"""

import sys
import tempfile
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import xarray as xr

import tiffref


def make_pyramid(path: Path, size: int = 1024) -> np.ndarray:
    """Write a synthetic microscope image; return its full-size pixels."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:size, :size]
    image = np.zeros((3, size, size), np.float64)
    for channel in image:
        for cy, cx, radius in rng.uniform((0, 0, 12), (size, size, 48), (60, 3)):
            channel += 9000 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / radius**2)
    image = np.clip(image + rng.normal(800, 60, image.shape), 0, 65535).astype(np.uint16)
    options = {"tile": (256, 256), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(
            image,
            subifds=2,
            metadata={
                "axes": "CYX",
                "PhysicalSizeX": 0.325,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": 0.325,
                "PhysicalSizeYUnit": "µm",
                "Channel": {"Name": ["nuclei", "membrane", "actin"]},
            },
            **options,
        )
        for step in (2, 4):
            tif.write(image[:, ::step, ::step], subfiletype=1, **options)
    return image


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="tiffref-"))
    image_path, references_path = folder / "cells.ome.tif", folder / "cells.json"
    expected = make_pyramid(image_path)
    print(f"made     {image_path} ({image_path.stat().st_size:,} bytes)")

    tiffref.scan(image_path).write_fsspec(references_path)
    print(f"scanned  {references_path} ({references_path.stat().st_size:,} bytes)")

    dataset = xr.open_dataset(str(references_path), engine="kerchunk")
    print(f"opened   with xarray:\n\n{dataset}\n")

    assert np.array_equal(dataset.image, expected)
    print("checked  every pixel equals that of the TIFF")

    overview = dataset.image_2.to_numpy()
    preview = (overview / overview.max() * 255).astype(np.uint8).transpose(1, 2, 0)
    (folder / "cells.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(preview)))
    print(f"drew     {folder / 'cells.png'} from the smallest level")


if __name__ == "__main__":
    main()
