"""Open the images of a well plate by row, column, field and channel.

Run `python examples/plate.py`. It creates its own files.
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import xarray as xr
from pictures import draw

import tiffref


def make_files(folder: Path) -> None:
    """Write files as an Opera microscope names them: two rows, three columns, two channels."""
    rng = np.random.default_rng(7)
    for row, column, field, channel in itertools.product((2, 3), (4, 5, 6), (1, 2), (1, 2)):
        name = folder / f"r{row:02}c{column:02}f{field:02}p01-ch{channel}sk1fk1fl1.tiff"
        y, x, radius = rng.uniform(16, 48, 3)
        rows, columns = np.mgrid[:64, :64]
        cell = 100 * column * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (6 * radius))
        image = (cell + rng.uniform(0, 40, (64, 64))).astype(np.uint16)
        tifffile.imwrite(name, image, compression="zlib", metadata=None)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tiffref-"))
    make_files(folder)

    references = tiffref.scan_sequence(str(folder / "*.tiff"), pattern="opera")
    references.write_fsspec(folder / "plate.json")

    with xr.open_dataset(str(folder / "plate.json"), engine="kerchunk") as plate:
        print(plate.sizes)
        well = plate.image.sel(row=2, column=5, c=1)
        assert well.squeeze().shape == (2, 64, 64)
        intensity = plate.image.sel(c=1).mean(["field", "t", "z", "y", "x"])
        print(intensity.to_pandas().round(1))
        first = plate.image.sel(c=1, field=1).squeeze()  # a picture of each well, side by side
        side_by_side = first.transpose("row", "y", "column", "x").to_numpy().reshape(128, 192)
        draw(folder / "plate.png", side_by_side)
        assert intensity.sel(column=6).mean() > intensity.sel(column=4).mean()


if __name__ == "__main__":
    main()
