"""One behaviour over all clients: what `scan` writes opens, and gives the pixels of the TIFF.

The files are those that every client can decode: no compression, deflate and zstd; tiles, and
strips whose last one is shorter than the rest; both byte orders.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
from clients import CLIENTS, install_zarrita, read_zarrita
from numpy.typing import NDArray
from range_server import serve

import tiffref
import zarr
from tiffref.zarr import ZarrTiffStore

pytestmark = [
    # what the clients warn about among themselves is not ours to mend
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:zarr"),
]

COMPRESSIONS = ("none", "zlib", "zstd")
LAYOUTS = {
    "tiles": {"tile": (32, 48)},
    "short-last-strip": {"rowsperstrip": 16},
}
BYTEORDERS = {"little": "<", "big": ">"}


@dataclass(frozen=True)
class Example:
    """One TIFF, its pixels as tifffile reads them, and its reference document."""

    tiff: Path
    pixels: NDArray
    document: Path


@pytest.fixture(
    scope="module",
    params=[(c, o, b) for c in COMPRESSIONS for o in LAYOUTS for b in BYTEORDERS],
    ids="-".join,
)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    compression, layout, byteorder = request.param
    folder = tmp_path_factory.mktemp("-".join(request.param))
    # 70 rows: neither tiles of 32 nor strips of 16 divide them; the zeros show whether a reader
    # takes the fill value for missing data
    pixels = (np.arange(70 * 100, dtype=np.uint32) * 2654435761 >> 7).astype(np.uint16)
    pixels = pixels.reshape(70, 100)
    pixels[10:30, 20:60] = 0
    tiff = folder / "image.tif"
    tifffile.imwrite(
        tiff,
        pixels,
        byteorder=BYTEORDERS[byteorder],
        compression=None if compression == "none" else compression,
        photometric="minisblack",
        metadata=None,
        **LAYOUTS[layout],
    )
    document = folder / "refs.json"
    tiffref.scan(tiff).write_fsspec(document)
    return Example(tiff, tifffile.imread(tiff), document)


@pytest.mark.parametrize("client", CLIENTS)
def test_client_reads_the_pixels_of_the_tiff(client: str, example: Example) -> None:
    array = CLIENTS[client](example.document)
    expected = example.pixels
    if client == "rasterio":
        expected = expected[np.newaxis]  # GDAL's arrays have bands in front
    assert array.dtype.newbyteorder("=") == expected.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("kind", ["v2", "v3", "parquet"])
@pytest.mark.parametrize(("dtype", "nodata"), [("<i2", -9999), (">f4", -9999.5), ("<f8", np.nan)])
def test_virtualizarr_masks_nodata(tmp_path: Path, kind: str, dtype: str, nodata: float) -> None:
    pytest.importorskip("virtualizarr")
    import xarray as xr
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import KerchunkJSONParser, KerchunkParquetParser

    pixels = np.arange(48).astype(dtype).reshape(6, 8)
    pixels[1:3] = nodata
    extra = [(42113, "s", 0, str(nodata), False)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, extratags=extra)
    document = tmp_path / ("refs.parq" if kind == "parquet" else "refs.json")
    references = tiffref.scan(tmp_path / "a.tif")
    references.write_fsspec(document, **({"zarr_format": 3} if kind == "v3" else {}))
    registry = ObjectStoreRegistry({"file://": LocalStore()})
    parse = KerchunkParquetParser() if kind == "parquet" else KerchunkJSONParser()
    store = parse(url=document.as_uri(), registry=registry)
    with xr.open_zarr(store, consolidated=False, zarr_format=3, chunks=None) as dataset:
        is_missing = dataset["image"].isnull().to_numpy()
    assert is_missing[1:3].all() and is_missing.sum() == 16
    found = tiffref.References.open(document).group["image"]
    assert found.attributes == references.group["image"].attributes


PYTHON_ONLY = {
    "packbits": (np.uint16, {"compression": "packbits"}),
    "predictor-2": (np.uint16, {"compression": "zlib", "predictor": 2}),
    "predictor-2-big-endian": (
        np.uint16,
        {"compression": "zlib", "predictor": 2, "byteorder": ">"},
    ),
    "predictor-3": (np.float32, {"compression": "zstd", "predictor": 3}),
    "jpeg": (np.uint8, {"compression": "jpeg"}),
    "lzw": (np.uint16, {"compression": "lzw"}),
    "one-bit": (np.bool_, {}),
}
"""Files of the other two tiers: `imagecodecs_*` codecs and our own."""


@pytest.fixture(scope="module", params=PYTHON_ONLY)
def python_example(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Example:
    dtype, options = PYTHON_ONLY[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    pixels = np.random.default_rng(7).normal(100, 30, (64, 96)).clip(0)
    pixels = pixels > 100 if dtype is np.bool_ else pixels.astype(dtype)
    tiff, document = folder / "image.tif", folder / "refs.json"
    options = {"tile": (32, 48), "photometric": "minisblack", "metadata": None} | options
    tifffile.imwrite(tiff, pixels, **options)
    tiffref.scan(tiff).write_fsspec(document)
    return Example(tiff, tifffile.imread(tiff), document)


@pytest.mark.parametrize("client", ["xarray-kerchunk", "zarr-chained-url", "virtualizarr"])
def test_python_clients_read_the_other_tiers(client: str, python_example: Example) -> None:
    array = CLIENTS[client](python_example.document)
    assert array.dtype.newbyteorder("=") == python_example.pixels.dtype
    np.testing.assert_array_equal(array, python_example.pixels)


def test_zarr_reads_zarr_v3_metadata(example: Example) -> None:
    document = example.document.with_name("v3.json")
    tiffref.scan(example.tiff).write_fsspec(document, zarr_format=3)
    array = zarr.open_group(f"reference::{document}", mode="r")["image"]
    assert array.metadata.zarr_format == 3
    np.testing.assert_array_equal(array[...], example.pixels)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_and_dask_read_sources_on_a_server(zarr_format: int, tmp_path: Path) -> None:
    pixels = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(32, 48), compression="zlib")
    document = tmp_path / "refs.json"
    options = {"remote_protocol": "http", "remote_options": {"asynchronous": True}}
    with serve(tmp_path) as server:
        references = tiffref.scan(tmp_path / "image.tif")
        references.write_fsspec(document, url=server.url, zarr_format=zarr_format)
        group = zarr.open_group(f"reference::{document}", mode="r", storage_options=options)
        np.testing.assert_array_equal(group["image"][...], pixels)
        array = da.from_zarr(f"reference::{document}", "image", storage_options=options)
        np.testing.assert_array_equal(array.compute(), pixels)
        assert server.ranges
        with pytest.raises(ValueError, match="same value of asynchronous"):
            zarr.open_group(f"reference::{document}", mode="r")


@pytest.fixture(scope="module")
def zarrita(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = getattr(request.config, "cache", None)  # none with -p no:cacheprovider
    folder = Path(cache.mkdir("zarrita")) if cache else tmp_path_factory.mktemp("zarrita")
    return install_zarrita(folder)


def test_zarrita_reads_the_pixels_of_the_tiff(zarrita: Path, example: Example) -> None:
    folder = example.document.parent
    with serve(folder) as server:  # Node fetches http, but no file:// URLs
        document = folder / "http.json"
        tiffref.scan(example.tiff).write_fsspec(document, url=server.url)
        array = read_zarrita(document, zarrita)
        assert server.ranges, "the chunks must come from the TIFF"
    assert array.dtype == example.pixels.dtype
    np.testing.assert_array_equal(array, example.pixels)


@pytest.fixture(scope="module")
def workers() -> Iterator[Executor]:
    # fresh processes that share nothing with this one
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def test_dask_worker_processes_read_through_the_store(workers: Executor, example: Example) -> None:
    da = pytest.importorskip("dask.array")
    store = ZarrTiffStore(example.tiff)
    array = da.from_zarr(store).compute(scheduler="processes", pool=workers)
    np.testing.assert_array_equal(array, example.pixels)


def test_store_of_a_document_pickles(example: Example) -> None:
    store = pickle.loads(pickle.dumps(ZarrTiffStore(example.document)))
    np.testing.assert_array_equal(store[...], example.pixels)


READ_WITHOUT_TIFFREF = """
import sys
import numpy as np
import zarr

document, result = sys.argv[1:]
assert "tiffref" not in sys.modules
np.save(result, zarr.open_group("reference::" + document, mode="r")["image"][...])
print("tiffref" in sys.modules)
"""


def read_in_fresh_process(document: Path) -> tuple[NDArray, bool]:
    """Read `image` in a process that imports zarr only; tell whether tiffref got loaded for it."""
    result = document.with_suffix(".npy")
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_TIFFREF, str(document), str(result)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(result), done.stdout.strip() == "True"


def test_portable_references_need_no_tiffref_to_read(example: Example) -> None:
    array, loaded = read_in_fresh_process(example.document)
    np.testing.assert_array_equal(array, example.pixels)
    assert not loaded


def test_own_codec_is_found_by_its_entry_point(tmp_path: Path) -> None:
    pixels = np.random.default_rng(7).integers(0, 2, (50, 70)).astype(bool)
    tifffile.imwrite(tmp_path / "bits.tif", pixels, rowsperstrip=16, metadata=None)
    tiffref.scan(tmp_path / "bits.tif").write_fsspec(tmp_path / "bits.json")
    array, loaded = read_in_fresh_process(tmp_path / "bits.json")
    np.testing.assert_array_equal(array, pixels)
    assert loaded
