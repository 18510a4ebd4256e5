"""Scanning and reading over HTTP with 20 ms for each request: requests, bytes, time."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import files
import numpy as np
from harness import seconds
from server import count, serving

import tiffref
from tiffref.zarr import ZarrTiffStore


def measure(name: str, url: str, function: Callable[[], Any], goal: str, repeat: int = 5) -> Any:
    """Print requests and bytes of one call, and the median time."""
    times, counted, result = [], {}, None
    for _ in range(repeat):
        count(url)
        before = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - before)
        counted = count(url)
    print(
        f"{name:58} {counted['requests']:5} requests {counted['bytes'] / 1e6:9.3f} MB "
        f"{statistics.median(times) * 1e3:8.1f} ms  {f'goal: {goal}' if goal else ''}",
        flush=True,
    )
    return result


def run(folder: Path) -> None:
    """Print the remote table."""
    cog = files.cog(folder, 0, 8192, "uint16")
    appended = files.appended_overviews(folder)
    camera = files.acquisition(folder)
    with serving(folder) as url:
        measure("scan a COG", url, lambda: tiffref.scan(f"{url}/{cog.name}"), "1 GET, 128 KiB")
        measure(
            "scan, overviews appended", url, lambda: tiffref.scan(f"{url}/{appended.name}"),
            "3 GET, 0.5 MB",
        )  # fmt: skip
        measure(
            "scan 1,000 pages, a directory every 512 KiB", url,
            lambda: tiffref.scan(f"{url}/{camera.name}"), "2 MB, 1500 ms",
        )  # fmt: skip
        _window(url, cog)


def _window(url: str, cog: Path) -> None:
    """Read 2000 x 2000 pixels of a COG in each way there is."""
    import dask.array as da
    import fsspec
    import rasterio
    import xarray

    import zarr

    address = f"{url}/{cog.name}"
    region = (slice(1000, 3000), slice(1100, 3100))
    references = tiffref.scan(address)
    document = references.to_kerchunk()
    path = cog.with_suffix(".json")
    path.write_text(json.dumps(document))
    window = rasterio.windows.Window(1100, 1000, 2000, 2000)
    uncached = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/"}  # else its second scan costs nothing

    def by_rasterio() -> Any:
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", VSI_CACHE=False, **uncached),
            rasterio.open(f"/vsicurl/{address}") as image,
        ):
            return image.read(1, window=window)

    def by_reference_file_system() -> Any:
        with zarr.config.set({"async.concurrency": 64}):
            fs = fsspec.filesystem(
                "reference", fo=document, remote_protocol="http", asynchronous=True,
                remote_options={"asynchronous": True}, skip_instance_cache=True,
            )  # fmt: skip
            store = zarr.storage.FsspecStore(fs, read_only=True)
            return zarr.open_array(store, path="image", mode="r", zarr_format=2)[region]

    def by_async_geotiff() -> Any:
        from async_geotiff import GeoTIFF, Window
        from obstore.store import HTTPStore

        async def read() -> Any:
            store = HTTPStore(url, client_options={"allow_http": True})
            image = await GeoTIFF.open(cog.name, store=store)
            part = Window(col_off=1100, row_off=1000, width=2000, height=2000)
            return np.asarray((await image.read(window=part)).data)[0]

        return asyncio.run(read())

    def by_kerchunk() -> Any:
        options = {"remote_protocol": "http", "skip_instance_cache": True}
        dataset = xarray.open_dataset(
            str(path), engine="kerchunk", chunks={}, storage_options=options
        )
        return dataset["image"][region].values

    def by_tiffref_xarray() -> Any:
        with xarray.open_dataset(str(path), engine="tiffref") as dataset:
            return dataset["image"][region].values

    def by_tiffref_dask() -> Any:
        with xarray.open_dataset(address, engine="tiffref", chunks={}) as dataset:
            return dataset["image"][region].values

    store = ZarrTiffStore(references)
    ways = {
        "window: ZarrTiffStore(url)[...]": (lambda: ZarrTiffStore(address)[region], "12 GET"),
        'window: xarray engine="tiffref", chunks={}': (by_tiffref_dask, "20 GET"),
        "window: da.from_zarr(store)": (lambda: da.from_zarr(store)[region].compute(), ""),
        "window: store[...]": (lambda: store[region], "11 GET"),
        "window: zarr.open(store)[...]": (
            lambda: zarr.open_array(store, mode="r")[region],
            "12 GET",
        ),
        'window: xarray engine="tiffref"': (by_tiffref_xarray, "20 GET"),
        "window: rasterio": (by_rasterio, ""),
        "window: async-geotiff": (by_async_geotiff, ""),
        "window: ZarrTiffStore(document)[...]": (lambda: ZarrTiffStore(document)[region], "11 GET"),
        "window: zarr + ReferenceFileSystem, concurrency 64": (by_reference_file_system, ""),
        'window: xarray engine="kerchunk"': (by_kerchunk, ""),
    }
    if not find_spec("async_geotiff"):
        del ways["window: async-geotiff"]
        print("async-geotiff is not installed: its row is left out")
    expected = by_rasterio()
    for function, _ in ways.values():  # connections, imports
        np.testing.assert_array_equal(function(), expected)
    _in_turns(url, ways)


def _in_turns(url: str, ways: dict[str, tuple[Callable[[], Any], str]], repeat: int = 9) -> None:
    """Print one line for each way: the largest number of requests and bytes, the median time."""
    rows: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in ways}
    for turn in range(repeat):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            count(url)
            on_clock, used = seconds(ways[name][0])
            counted = count(url)
            rows[name].append((on_clock, used, counted["requests"], counted["bytes"]))
    for name, (_, goal) in ways.items():
        on_clock, used, requests, n_bytes = zip(*rows[name], strict=True)
        print(
            f"{name:58} {max(requests):5} requests {max(n_bytes) / 1e6:9.3f} MB "
            f"{statistics.median(on_clock) * 1e3:8.1f} ms, {min(on_clock) * 1e3:.1f} at best, "
            f"processor {statistics.median(used) * 1e3:.1f}  {f'goal: {goal}' if goal else ''}",
            flush=True,
        )
