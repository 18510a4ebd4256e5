"""Build a catalog of an archive, search it by place and time, and open the result.

Run `python examples/catalog.py`. It needs the extras `catalog`, `xarray` and `geo`.
"""

import tempfile
from pathlib import Path

import numpy as np
import tifffile

import tiffref.catalog

UTM_33N = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


def write_tile(path: Path, east: float, value: int) -> None:
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, east, 5_300_000.0, 0.0), True),
        (34735, "H", len(UTM_33N), UTM_33N, True),
    ]
    pixels = np.full((128, 128), value, np.uint16)
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="zlib", extratags=tags)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tiffref-"))
    (folder / "archive").mkdir()
    for day in (1, 2):
        for n in range(4):
            path = folder / "archive" / f"scene_2024050{day}_{n}.tif"
            write_tile(path, 500_000 + 1280 * n, 10 * day + n)
    (folder / "archive" / "broken.tif").write_bytes(b"not a TIFF")

    summary = tiffref.catalog.build(folder / "archive", folder / "catalog")
    for name, value in summary.table():
        print(f"{name:16} {value}")
    assert (summary.ok, summary.failed) == (8, 1)

    # finished files are skipped, the broken one is tried again
    again = tiffref.catalog.build(folder / "archive", folder / "catalog")
    assert (again.skipped, again.scanned) == (8, 1)

    catalog = tiffref.catalog.open(folder / "catalog")
    first = catalog.table["bbox"].to_pylist()[1]
    found = catalog.query(bounds=(first["xmin"], 47, first["xmax"] - 1e-3, 48))
    print(*(Path(url).name for url in found.urls))
    with found.query(where={"url": found.urls[0]}).open() as dataset:
        print(dataset.image)


if __name__ == "__main__":
    main()
