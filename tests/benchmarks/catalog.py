"""Catalogs of many small files: rates, memory, and tifffile's way for comparison.

    python tests/benchmarks/catalog.py speed FOLDER      # 500 files against tifffile, CPU time
    python tests/benchmarks/catalog.py scale FOLDER N    # rate of each quarter, memory
    python tests/benchmarks/catalog.py combined FOLDER   # opening a set of 2,000 files

FOLDER takes what is written; its disk counts: most of what is left is the staging of files.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import tifffile

import tiffref.catalog
from tiffref.catalog.builder import Counts, Progress

GEO = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


def write_files(folder: Path, n: int) -> None:
    """Write small tiled GeoTIFFs side by side: the bytes of one, with another tiepoint."""
    folder.mkdir(parents=True)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 1e5, 5e6, 0.0), True),
        (34735, "H", 16, GEO, True),
    ]
    data = np.random.default_rng(0).integers(0, 9, (128, 128), np.uint16)
    first = folder / "tile_000000.tif"
    tifffile.imwrite(first, data, tile=(64, 64), compression="zlib", metadata=None, extratags=tags)
    template = first.read_bytes()
    mark = np.array([1e5, 5e6], "<f8").tobytes()
    for i in range(1, n):
        place = np.array([1e5 + 1280 * (i % 100), 5e6 - 1280 * (i // 100)], "<f8").tobytes()
        (folder / f"tile_{i:06d}.tif").write_bytes(template.replace(mark, place))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Marks(Progress):
    """Notes when each share of the files was done."""

    def __init__(self) -> None:
        super().__init__(stream=sys.stderr)
        self.marks: list[tuple[int, float]] = []

    def update(self, counts: Counts) -> None:
        self.marks.append((counts.n_done, time.process_time()))


def scale(folder: Path, n: int) -> None:
    write_files(folder / "in", n)
    before = peak_mib()
    marks = Marks()
    begin = time.perf_counter()
    tiffref.catalog.build(folder / "in", folder / "out", progress=marks)
    wall = time.perf_counter() - begin
    counts, times = zip(*marks.marks, strict=True)
    at = np.interp(np.arange(5) * n / 4, counts, times)
    rates = n / 4 / np.diff(at)
    print(f"{n} files: {wall:.1f} s in all, {wall / n * 1e6:.0f} us each; "
          f"files per CPU second by quarter {', '.join(f'{r:.0f}' for r in rates)}; "
          f"last/first {rates[-1] / rates[0]:.2f}; "
          f"peak memory {peak_mib():.0f} MiB ({before:.0f} before)")  # fmt: skip


def speed(folder: Path, n: int = 500) -> None:
    """Compare CPU time, the best of four, into new files each time."""
    write_files(folder / "in", n)
    files = sorted((folder / "in").iterdir())
    best = {"tifffile": np.inf, "tiffref": np.inf}
    for _ in range(4):
        out = folder / "tifffile"
        out.mkdir()
        begin = time.process_time()
        for path in files:
            with tifffile.TiffFile(path) as tif, tif.series[0].aszarr() as store:
                store.write_fsspec(out / f"{path.name}.json", url=f"file://{path.parent}")
        best["tifffile"] = min(best["tifffile"], time.process_time() - begin)
        shutil.rmtree(out)
        begin = time.process_time()
        tiffref.catalog.build(folder / "in", folder / "tiffref")
        best["tiffref"] = min(best["tiffref"], time.process_time() - begin)
        shutil.rmtree(folder / "tiffref")
    for name, seconds in best.items():
        print(f"{name}: {seconds / n * 1e6:.0f} us per file")
    print(f"ratio {best['tifffile'] / best['tiffref']:.1f}")


def combined(folder: Path, n: int = 2000) -> None:
    import xarray

    write_files(folder / "in", n)
    tiffref.catalog.build(
        str(folder / "in" / "tile_{i}.tif"), folder / "out", per_file=False,
        stack=True, stack_options={"ignore": ["georeference"]},
    )  # fmt: skip
    tiffref.catalog.build(str(folder / "in" / "tile_00000{i}.tif"), folder / "few", stack=True,
                          stack_options={"ignore": ["georeference"]})  # fmt: skip
    with xarray.open_dataset(str(folder / "few/combined/all.parq"), engine="kerchunk"):
        pass  # packages are loaded now
    (row,) = tiffref.catalog.open(folder / "out").combined()
    path = str(folder / "out" / row["path"])
    for attempt in ("first", "second"):
        begin = time.perf_counter()
        with xarray.open_dataset(path, engine="kerchunk") as dataset:
            seconds = time.perf_counter() - begin
            print(f"{attempt} opening: {seconds:.2f} s, {dict(dataset.image.sizes)}")


if __name__ == "__main__":
    action, folder = sys.argv[1], Path(sys.argv[2]) / "tiffref-benchmark"
    try:
        globals()[action](folder, *map(int, sys.argv[3:]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
