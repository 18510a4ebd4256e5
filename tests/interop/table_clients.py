"""How each client of the table opens references: its pixels, and that it finds their place or axes.

Each function takes a `Case` and returns the pixels; it imports its client inside, and skips the
test with the reason where that is not installed.
"""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case
from numpy.typing import NDArray

OWN_EXTRA = "not installed: brings 90 packages, so it is in the extra `clients`, not in `test`"
PIPELINES = {
    "batched": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def read_zarr(case: Case, zarr_format: int, pipeline: str) -> NDArray:
    import zarr

    if pipeline == "zarrs":
        pytest.importorskip("zarrs")
    if not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline") and pipeline == "fused":
        pytest.skip("a zarr without FusedCodecPipeline")
    with zarr.config.set({"codec_pipeline.path": PIPELINES[pipeline]}):
        group = zarr.open_group(f"reference::{case.documents[zarr_format]}", mode="r")
        return group[case.arrays[zarr_format]][...]


def reference_store(path: Path, below: str = "") -> Any:
    import fsspec
    from zarr.storage import FsspecStore

    filesystem = fsspec.filesystem(
        "reference", fo=str(path), asynchronous=True, remote_protocol="file",
        remote_options={"asynchronous": True},
    )  # fmt: skip
    return FsspecStore(filesystem, path=below, read_only=True)


# ---- maps and others by their arrays


def read_xarray_kerchunk(case: Case) -> NDArray:
    xr = pytest.importorskip("xarray")
    group, _, name = case.arrays[2].rpartition("/")
    options = {"group": group} if group else {}
    with xr.open_dataset(str(case.documents[2]), engine="kerchunk", **options) as dataset:
        return dataset[name].to_numpy()


def read_xarray_tiffref(case: Case) -> NDArray:
    xr = pytest.importorskip("xarray")
    group, _, name = case.arrays[3].rpartition("/")
    # bands of maps would be shown before their rows
    how = {"engine": "tiffref", "group": group, "band_first": False}
    with xr.open_dataset(case.documents[3], **how) as dataset:
        return dataset[name].to_numpy()


def assert_place(found_crs: Any, found_transform: Any, case: Case) -> None:
    import rasterio

    with rasterio.open(case.source) as expected:
        assert rasterio.CRS.from_user_input(found_crs) == expected.crs
        assert tuple(found_transform)[:6] == pytest.approx(tuple(expected.transform)[:6])


def read_rioxarray(case: Case) -> NDArray:
    pytest.importorskip("rioxarray")
    xr = pytest.importorskip("xarray")
    with xr.open_dataset(str(case.documents[2]), engine="kerchunk") as dataset:
        image = dataset["image"]
        assert_place(image.rio.crs, image.rio.transform(), case)
        return image.to_numpy()


def read_rasterix(case: Case) -> NDArray:
    rasterix = pytest.importorskip("rasterix")
    xr = pytest.importorskip("xarray")
    with xr.open_dataset(case.source, engine="tiffref", overviews=False) as dataset:
        indexed = rasterix.assign_index(dataset)
        index = indexed.xindexes["x"]
        assert_place("EPSG:32633", index.transform(), case)
        expected = dataset["image"].to_numpy()
        np.testing.assert_array_equal(indexed["image"], expected)
        return case.pixels if expected.ndim > 2 else expected


def read_titiler(case: Case, engine: str) -> NDArray:
    reader = pytest.importorskip("titiler.xarray.io", reason=OWN_EXTRA, exc_type=ImportError)
    rasterio = pytest.importorskip("rasterio")
    import xarray as xr

    def open_references(path: str, **_: Any) -> Any:
        return xr.open_dataset(path, engine=engine, decode_coords="all")

    document = case.documents[2 if engine == "kerchunk" else 3]
    with (
        rasterio.open(case.source) as source,
        reader.Reader(str(document), variable="image", opener=open_references) as opened,
    ):
        assert opened.crs == source.crs
        assert tuple(opened.bounds) == pytest.approx(tuple(source.bounds))
        part = opened.part(source.bounds, bounds_crs=source.crs, dst_crs=source.crs, max_size=None)
    pixels = part.array.data
    if case.pixels.ndim == 2:
        return pixels[0]
    return pixels if case.pixels.shape == pixels.shape else pixels.transpose(1, 2, 0)


def read_gdal(case: Case, zarr_format: int) -> NDArray:
    rasterio = pytest.importorskip("rasterio")
    version = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
    if version < (3, 11):
        pytest.skip(f"GDAL {rasterio.__gdal_version__} reads no references; 3.11 is the first")
    with rasterio.open(f'ZARR:"{case.documents[zarr_format]}":/image') as found:
        pixels = found.read()
        assert_place(found.crs, found.transform, case)
    return pixels[0] if case.pixels.ndim == 2 else pixels


def read_virtualizarr(case: Case, zarr_format: int) -> NDArray:
    pytest.importorskip("virtualizarr")
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import KerchunkJSONParser

    import zarr

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    # it takes one group at a time
    group, _, name = case.arrays[zarr_format].rpartition("/")
    parse = KerchunkJSONParser(group=group or None)
    store = parse(url=f"file://{case.documents[zarr_format]}", registry=registry)
    return zarr.open_group(store, mode="r", zarr_format=3)[name][...]


def read_zarrita(case: Case, modules: Path, document: Path) -> NDArray:
    done = subprocess.run(
        ["node", str(modules / "read_zarrita.mjs"), str(document), case.arrays[3], "3"],
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-500:]
    metadata = json.loads(json.loads(document.read_text())["refs"][f"{case.arrays[3]}/zarr.json"])
    dtype = np.dtype(metadata["data_type"])
    return np.frombuffer(done.stdout, dtype).reshape(json.loads(done.stderr.splitlines()[0]))


# ---- microscopes by their OME-NGFF metadata


def read_ngff_zarr(case: Case, zarr_format: int) -> NDArray:
    ngff_zarr = pytest.importorskip("ngff_zarr")
    import fsspec

    mapper = fsspec.get_mapper("reference://", fo=str(case.documents[zarr_format]))
    version = {2: "0.4", 3: "0.5"}[zarr_format]
    return np.asarray(ngff_zarr.from_ngff_zarr(mapper, version=version).images[0].data)


def read_ome_zarr_py(case: Case, zarr_format: int) -> NDArray:
    pytest.importorskip("ome_zarr")
    from ome_zarr import format as formats
    from ome_zarr.io import ZarrLocation
    from ome_zarr.reader import Reader
    from zarr.storage import StorePath

    store: Any = reference_store(case.documents[zarr_format])
    if case.images[zarr_format]:
        store = StorePath(store, case.images[zarr_format])
    found = formats.FormatV04() if zarr_format == 2 else formats.FormatV05()
    (node,) = Reader(ZarrLocation(store, fmt=found))()
    return np.asarray(node.data[0])


def read_ome_zarr_models(case: Case, zarr_format: int) -> NDArray:
    models = pytest.importorskip(f"ome_zarr_models.v0{zarr_format + 2}")
    import zarr

    group = zarr.open_group(f"reference::{case.documents[zarr_format]}", mode="r")
    if case.images[zarr_format]:
        assert models.HCS.from_zarr(group).attributes is not None
        group = group[case.images[zarr_format]]
    attributes = models.Image.from_zarr(group).attributes
    (entry,) = (attributes.ome if zarr_format == 3 else attributes).multiscales
    return group[entry.datasets[0].path][...]


def read_bioio(case: Case, zarr_format: int) -> NDArray:
    bioio_ome_zarr = pytest.importorskip("bioio_ome_zarr")
    options = {"fo": str(case.documents[zarr_format]), "remote_protocol": "file"}
    address = f"reference://{case.images[zarr_format]}"
    found = np.asarray(bioio_ome_zarr.Reader(address, fs_kwargs=options).data)
    return found.reshape(case.pixels.shape) if found.size == case.pixels.size else found


def read_ngio(case: Case, zarr_format: int) -> NDArray:
    ngio = pytest.importorskip("ngio")
    store = reference_store(case.documents[zarr_format], case.images[zarr_format])
    found = ngio.open_ome_zarr_container(store, mode="r").get_image().get_as_numpy()
    return found.reshape(case.pixels.shape) if found.size == case.pixels.size else found


def read_napari_ome_zarr(case: Case, zarr_format: int) -> NDArray:
    plugin = pytest.importorskip("napari_ome_zarr", reason=OWN_EXTRA, exc_type=ImportError)
    address = f"reference::{case.documents[zarr_format]}"
    layers = plugin.napari_get_reader(address)(address)
    channels = [np.asarray(data[0]) for data, *_ in layers]
    # wells of a plate are one picture, side by side
    wells = np.stack(channels, axis=1 if channels[0].ndim == 4 else 0)
    return wells[..., -case.pixels.shape[-1] :]


def read_spatialdata(case: Case) -> NDArray:
    models = pytest.importorskip("spatialdata.models", reason=OWN_EXTRA, exc_type=ImportError)
    import xarray as xr

    group, _, name = case.arrays[2].rpartition("/")
    options: dict[str, Any] = {"group": group} if group else {}
    with xr.open_dataset(
        str(case.documents[2]), engine="kerchunk", chunks={}, **options
    ) as dataset:
        image = dataset[name]
        # its images have no time
        times = [image[n] for n in range(len(image))] if image.ndim == 5 else [image]
        model = models.Image3DModel if image.ndim == 5 else models.Image2DModel
        found = [model.parse(one, dims=one.dims, c_coords=None).to_numpy() for one in times]
    return np.stack(found) if image.ndim == 5 else found[0]


def read_tensorstore(case: Case) -> NDArray:
    tensorstore = pytest.importorskip("tensorstore", reason=OWN_EXTRA)
    address = f"reference::{case.documents[3].as_uri()}"
    specification = {"driver": "zarr3", "kvstore": address, "path": case.arrays[3]}
    return tensorstore.open(specification).result().read().result()


def _quiet(read: Callable[..., NDArray], *arguments: Any) -> Callable[[Case], NDArray]:
    def run(case: Case) -> NDArray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what clients warn about among themselves
            return read(case, *arguments)

    return run


GENERAL = {
    "zarr": _quiet(read_zarr, 2, "batched"),
    "zarr, v3": _quiet(read_zarr, 3, "batched"),
    "zarr fused, v3": _quiet(read_zarr, 3, "fused"),
    "zarrs, v3": _quiet(read_zarr, 3, "zarrs"),
    "xarray kerchunk": _quiet(read_xarray_kerchunk),
    "xarray tiffref, v3": _quiet(read_xarray_tiffref),
    "VirtualiZarr": _quiet(read_virtualizarr, 2),
    "VirtualiZarr, v3": _quiet(read_virtualizarr, 3),
    "tensorstore, v3": _quiet(read_tensorstore),
}
OF_MAPS = {
    "rioxarray": _quiet(read_rioxarray),
    "rasterix": _quiet(read_rasterix),
    "titiler-xarray": _quiet(read_titiler, "kerchunk"),
    "titiler-xarray, v3": _quiet(read_titiler, "tiffref"),
    "GDAL": _quiet(read_gdal, 2),
    "GDAL, v3": _quiet(read_gdal, 3),
}
OF_MICROSCOPES = {
    "ngff-zarr": _quiet(read_ngff_zarr, 2),
    "ngff-zarr, v3": _quiet(read_ngff_zarr, 3),
    "ome-zarr-py": _quiet(read_ome_zarr_py, 2),
    "ome-zarr-py, v3": _quiet(read_ome_zarr_py, 3),
    "ome-zarr-models 0.4": _quiet(read_ome_zarr_models, 2),
    "ome-zarr-models 0.5, v3": _quiet(read_ome_zarr_models, 3),
    "bioio": _quiet(read_bioio, 2),
    "bioio, v3": _quiet(read_bioio, 3),
    "ngio": _quiet(read_ngio, 2),
    "ngio, v3": _quiet(read_ngio, 3),
    "napari-ome-zarr": _quiet(read_napari_ome_zarr, 2),
    "napari-ome-zarr, v3": _quiet(read_napari_ome_zarr, 3),
    "spatialdata": _quiet(read_spatialdata),
}
"""Clients by the name of their column; of those without "v3" the document is Zarr v2."""
