"""The mean over time of a window: 36 dates of 4 bands over HTTP, in each kind of dask worker.

python tests/benchmarks/stacks.py FOLDER        # where the files are made, 170 MB
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import files
import numpy as np
from harness import seconds
from server import count, serving

import tiffref

DATES, BANDS = 36, 4
KINDS = ("threads", "processes", "LocalCluster")
WINDOW = {"y": slice(200, 712), "x": slice(300, 812)}
DAYS = [f"2026{1 + n // 3:02}{1 + 10 * (n % 3):02}" for n in range(DATES)]


def make_files(folder: Path) -> None:
    for n in range(DATES * BANDS):
        made = files.cog(folder, n % 8, 1024, "uint16")  # the values may be those of another date
        link = folder / f"S2_{DAYS[n // BANDS]}_B{n % BANDS}.tif"
        if not link.exists():
            link.hardlink_to(made)


def ways(folder: Path, url: str) -> dict[str, Callable[[], Any]]:
    """Return the ways to the mean, all of which give the same."""
    import rioxarray
    import xarray as xr

    addresses = [[f"{url}/S2_{day}_B{b}.tif" for b in range(BANDS)] for day in DAYS]
    flat = [one for row in addresses for one in row]
    ignored = {"ignore": ("georeference", "nodata")}
    cube = tiffref.scan_sequence(flat, pattern=r"S2_(?P<time>\d+)_B(?P<band>\d)", **ignored)
    document = folder / "cube.json"
    cube.write_fsspec(document)

    def by_tiffref() -> Any:
        with xr.open_dataset(str(document), engine="tiffref", chunks={}, allow=[url]) as cube:
            return cube.image.isel(WINDOW).mean("time").values

    def by_kerchunk() -> Any:
        options = {"remote_protocol": "http", "skip_instance_cache": True}
        with xr.open_dataset(
            str(document), engine="kerchunk", chunks={}, storage_options=options
        ) as cube:
            return cube.image.isel(WINDOW).mean("time").values

    def by_rioxarray() -> Any:
        import rasterio

        # what GDAL kept of an earlier turn would make all requests but the first turn's needless
        with rasterio.Env(
            GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", CPL_VSIL_CURL_NON_CACHED="/vsicurl/"
        ):
            bands = [
                xr.concat(
                    [rioxarray.open_rasterio(f"/vsicurl/{one}", chunks={}, cache=False)[0]
                     for one in column], "time", join="override",
                )
                for column in zip(*addresses, strict=True)
            ]  # fmt: skip
            return xr.concat(bands, "band", join="override").isel(WINDOW).mean("time").values

    return {"tiffref": by_tiffref, "kerchunk": by_kerchunk, "rioxarray": by_rioxarray}


@contextlib.contextmanager
def scheduler(kind: str) -> Iterator[None]:
    if kind == "LocalCluster":
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
            Client(cluster),
        ):
            yield
        return
    with dask.config.set(scheduler=kind, num_workers=2 if kind == "processes" else 8):
        yield


def measure(folder: Path, n_turns: int, kinds: Sequence[str]) -> None:
    """Print a table for each kind of worker."""
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    make_files(folder)
    with serving(folder) as url:
        sides = ways(folder, url)
        for kind in kinds:
            with scheduler(kind):
                expected = sides["tiffref"]()
                for side in sides.values():
                    np.testing.assert_allclose(np.squeeze(side()), np.squeeze(expected))
                rows: dict[str, list[float]] = {name: [] for name in sides}
                requests = dict.fromkeys(sides, 0)
                for _ in range(n_turns):
                    for name, side in sides.items():
                        count(url)
                        rows[name].append(seconds(side)[0])
                        requests[name] = count(url)["requests"]
            for name, times in rows.items():
                ratio = statistics.median(
                    a / b for a, b in zip(times, rows["tiffref"], strict=True)
                )
                print(f"{kind:14} {name:10} {statistics.median(times):7.2f} s "
                      f"{requests[name]:6} requests  x{ratio:.1f}", flush=True)  # fmt: skip


def main() -> None:
    folder, *rest = sys.argv[1:]
    measure(Path(folder), int(rest[0]) if rest else 3, rest[1:] or KINDS)


if __name__ == "__main__":
    main()
