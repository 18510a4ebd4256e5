"""How each client opens a reference document and hands back the array `image`.

One function per client, with nothing of tiffref in it; each imports its client inside, and skips
the test with the reason where the client is not installed or cannot do it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

HERE = Path(__file__).parent
ZARRITA = HERE / "zarrita.package.json"


def read_xarray(document: Path) -> NDArray:
    xr = pytest.importorskip("xarray")
    with xr.open_dataset(str(document), engine="kerchunk") as dataset:
        return dataset["image"].to_numpy()


def read_xarray_zarr_engine(document: Path) -> NDArray:
    xr = pytest.importorskip("xarray")
    storage = {"fo": str(document)}
    with xr.open_dataset(
        "reference://",
        engine="zarr",
        backend_kwargs={"storage_options": storage, "consolidated": False},
        chunks=None,
    ) as dataset:
        return dataset["image"].to_numpy()


def read_zarr(document: Path) -> NDArray:
    import zarr

    return zarr.open_group(f"reference::{document}", mode="r")["image"][...]


def read_zarr_storage_options(document: Path) -> NDArray:
    import zarr

    group = zarr.open_group("reference://", storage_options={"fo": str(document)}, mode="r")
    return group["image"][...]


def read_fsspec_mapper(document: Path) -> NDArray:
    import fsspec

    import zarr

    mapper = fsspec.get_mapper("reference://", fo=str(document), asynchronous=True)
    assert b"zarr_format" in fsspec.get_mapper("reference://", fo=str(document))["image/.zarray"]
    store = zarr.storage.FsspecStore(mapper.fs, path="")
    return zarr.open_group(store, mode="r")["image"][...]


def read_dask(document: Path) -> NDArray:
    da = pytest.importorskip("dask.array")
    array = da.from_zarr(f"reference::{document}", component="image")
    return array.compute(scheduler="threads")


def read_rasterio(document: Path) -> NDArray:
    rasterio = pytest.importorskip("rasterio")
    version = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
    if version < (3, 11):
        pytest.skip(f"GDAL {rasterio.__gdal_version__} reads no references; 3.11 is the first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        # the document by itself lists its arrays, if there are several
        with rasterio.open(f'ZARR:"{document}":/image') as dataset:
            return dataset.read()


def read_virtualizarr(document: Path) -> NDArray:
    virtualizarr = pytest.importorskip("virtualizarr")
    if tuple(int(part) for part in virtualizarr.__version__.split(".")[:2]) < (2, 8):
        pytest.skip(
            f"VirtualiZarr {virtualizarr.__version__} misreads a v2 compressor; 2.8 does not"
        )
    import xarray as xr
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import KerchunkJSONParser

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    store = KerchunkJSONParser()(url=f"file://{document}", registry=registry)
    with xr.open_zarr(store, consolidated=False, zarr_format=3, chunks=None) as dataset:
        return dataset["image"].to_numpy()


def read_zarrita(document: Path, modules: Path) -> NDArray:
    script = modules / "read_zarrita.mjs"
    # Node looks for packages beside the script, so it lies where they are installed
    shutil.copyfile(HERE / "read_zarrita.mjs", script)
    done = subprocess.run(
        ["node", str(script), str(document), "image"], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    metadata = json.loads(json.loads(document.read_text())["refs"]["image/.zarray"])
    # zarrita swaps big-endian chunks itself: its arrays are in the machine's order
    dtype = np.dtype(metadata["dtype"]).newbyteorder("=")
    return np.frombuffer(done.stdout, dtype).reshape(json.loads(done.stderr.splitlines()[0]))


def install_zarrita(cache: Path) -> Path:
    """Install zarrita.js from npm into the cache, once, and return the folder."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node.js and npm are not installed, zarrita.js cannot run")
    versions = json.loads(ZARRITA.read_text())["dependencies"]
    folder = cache / f"zarrita-{versions['zarrita']}"
    if not folder.exists():
        # built aside and moved: several test processes may do this at the same time
        building = cache / f"{folder.name}.{os.getpid()}"
        building.mkdir(parents=True)
        shutil.copyfile(ZARRITA, building / "package.json")
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=building, capture_output=True, text=True, timeout=300)
        if done.returncode:
            shutil.rmtree(building)
            pytest.skip(f"npm cannot install zarrita.js: {done.stderr.strip()[-200:]}")
        try:
            building.rename(folder)
        except OSError:
            shutil.rmtree(building)  # another process was first
    return folder


CLIENTS: dict[str, Callable[[Path], NDArray]] = {
    "xarray-kerchunk": read_xarray,
    "xarray-zarr": read_xarray_zarr_engine,
    "zarr-chained-url": read_zarr,
    "zarr-storage-options": read_zarr_storage_options,
    "fsspec-mapper": read_fsspec_mapper,
    "dask-from-url": read_dask,
    "rasterio": read_rasterio,
    "virtualizarr": read_virtualizarr,
}
"""Clients that read a document whose sources are `file://` URLs."""
