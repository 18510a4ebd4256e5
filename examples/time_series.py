"""Open satellite images as one cube, with dates and bands from file names, and average by month.

Run `python examples/time_series.py`. It creates its own files.
"""

import tempfile
from pathlib import Path

import numpy as np
import tifffile
import xarray as xr
from pictures import draw, landscape

import tiffref


def make_files(folder: Path) -> None:
    """Write two bands of five dates, as a processing chain would."""
    for day in ("20220405", "20220420", "20220505", "20220510", "20220601"):
        for band in ("B04", "B08"):
            growth = int(day[4:6]) - 3 if band == "B08" else 1  # plants reflect infrared light
            reflectance = (500 + growth * 800 * landscape(256, 256)).astype(np.uint16)
            name = folder / f"S2A_33UUP_{day}_{band}.tif"
            tifffile.imwrite(name, reflectance, tile=(128, 128), compression="zlib", metadata=None)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tiffref-"))
    make_files(folder)

    # the names give the position of each file; only a few hundred bytes of each are read
    references = tiffref.scan_sequence(folder / "S2A_33UUP_{time:%Y%m%d}_{band}.tif")
    references.write_fsspec(folder / "cube.json")

    with xr.open_dataset(str(folder / "cube.json"), engine="kerchunk") as cube:
        print(cube)
        may = cube.sel(time="2022-05", band="B04")
        assert may.image.shape == (2, 256, 256)
        monthly = cube.image.resample(time="MS").mean()
        assert monthly.sizes["time"] == 3
        red, infrared = (monthly.sel(band=band) for band in ("B04", "B08"))
        index = (infrared - red) / (infrared + red)
        draw(folder / "june.png", index.sel(time="2022-06").squeeze().to_numpy())
        index = index.mean(["y", "x"])
        for month, value in zip(index.time.dt.strftime("%Y-%m").values, index.values, strict=True):
            print(f"{month}: mean index {value:+.3f}")

    # a new date arrives: the old files are not read again
    tifffile.imwrite(
        folder / "S2A_33UUP_20220615_B04.tif", np.zeros((256, 256), np.uint16),
        tile=(128, 128), compression="zlib", metadata=None,
    )  # fmt: skip
    longer = tiffref.append_sequence(
        folder / "cube.json", folder / "S2A_33UUP_{time:%Y%m%d}_{band}.tif", allow_holes=True
    )
    assert longer.group["image"].shape[:2] == (6, 2)
    holes = longer.series[0]["sequence"]["n_holes"]
    print(f"one band of 2022-06-15 is still missing: {holes} hole")


if __name__ == "__main__":
    main()
