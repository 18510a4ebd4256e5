"""Stores in both Zarr formats and in each order of axes: what zarr, dask and xarray see of them."""

import numpy as np
import pytest
import tifffile
from microscopes import write_imagej_stack, write_ome_pyramid, write_rgb_pyramid
from samples import rng

import tiffref
import zarr
from tiffref.errors import SelectionError
from tiffref.zarr import ZarrFileSequenceStore, ZarrTiffStore

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:zarr")


@pytest.fixture
def single(tmp_path):
    """A file of one level that nothing is said of."""
    data = rng.integers(0, 60000, (3, 40, 50)).astype("u2")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, tile=(16, 16), compression="zlib", photometric="minisblack")
    return path, data


def test_a_store_of_one_level_opens_as_array_and_as_group(single):
    path, data = single
    store = ZarrTiffStore(path)
    np.testing.assert_array_equal(zarr.open(store, mode="r")[...], data)
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[...], data)
    group = zarr.open_group(store, mode="r")
    assert [name for name, _ in group.arrays()] == ["image"]
    np.testing.assert_array_equal(group["image"][...], data)
    # keys are those of the array
    assert "0.0.0" in set(store) and "image/0.0.0" not in set(store)


def test_a_store_of_zarr_v3_is_a_group(single):
    path, data = single
    store = ZarrTiffStore(path, zarr_format=3)
    assert "zarr.json" in store and ".zarray" not in store
    group = zarr.open_group(store, mode="r")
    assert group.metadata.zarr_format == 3
    assert [name for name, _ in group.arrays()] == ["image"]
    np.testing.assert_array_equal(zarr.open(store, mode="r")["image"][...], data)
    np.testing.assert_array_equal(store[1, 5:9], data[1, 5:9])
    assert store.shape == data.shape


@pytest.mark.parametrize("write", [write_ome_pyramid, write_rgb_pyramid])
def test_a_store_of_zarr_v3_is_ome_ngff_05(tmp_path, write):
    models = pytest.importorskip("ome_zarr_models.v05")
    levels = write(tmp_path / "a.ome.tif")
    store = ZarrTiffStore(tmp_path / "a.ome.tif", zarr_format=3)
    group = zarr.open_group(store, mode="r")
    (entry,) = models.Image.from_zarr(group).attributes.ome.multiscales
    for dataset, level in zip(entry.datasets, levels, strict=True):
        expected = level.transpose(2, 0, 1) if write is write_rgb_pyramid else level
        np.testing.assert_array_equal(group[dataset.path][...], expected)
    assert store.shape == group[entry.datasets[0].path].shape
    store.write_fsspec(tmp_path / "refs.json")
    again = ZarrTiffStore(tmp_path / "refs.json", zarr_format=3)
    assert again.shape == store.shape
    np.testing.assert_array_equal(again[...], store[...])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_axes_of_a_store(tmp_path, zarr_format):
    expected = write_imagej_stack(tmp_path / "a.tif").transpose(0, 2, 1, 3, 4)
    store = ZarrTiffStore(tmp_path / "a.tif", axes="ngff", zarr_format=zarr_format)
    np.testing.assert_array_equal(store[...], expected)
    np.testing.assert_array_equal(store[1, 2, :, 3:7, ::5], expected[1, 2, :, 3:7, ::5])
    array = zarr.open_group(store, mode="r")["image"]
    np.testing.assert_array_equal(array[...], expected)


@pytest.mark.parametrize("chunkmode", [None, "strile", "page", "plane"])
def test_chunks_that_are_decoded_have_the_order_too(tmp_path, chunkmode):
    levels = write_rgb_pyramid(tmp_path / "a.ome.tif")
    store = ZarrTiffStore(tmp_path / "a.ome.tif", axes="ngff", chunkmode=chunkmode)
    np.testing.assert_array_equal(
        zarr.open_array(store, mode="r")[...], levels[0].transpose(2, 0, 1)
    )


def test_sequences_in_zarr_v3(tmp_path):
    data = rng.integers(0, 60000, (3, 20, 31)).astype("u2")
    for n, plane in enumerate(data):
        tifffile.imwrite(tmp_path / f"a_{n}.tif", plane, rowsperstrip=4, compression="zlib")
    store = ZarrFileSequenceStore(str(tmp_path / "a_*.tif"), zarr_format=3)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["image"][...], data)
    np.testing.assert_array_equal(store[...], data)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", [bool, "f4"])
def test_decoded_chunks_in_either_format(tmp_path, zarr_format, dtype):
    data = rng.integers(0, 2, (2, 20, 30)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", data, rowsperstrip=4, photometric="minisblack")
    store = ZarrTiffStore(tmp_path / "a.tif", chunkmode="page", zarr_format=zarr_format)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["image"][...], data)


def test_unknown_formats_are_refused(single):
    with pytest.raises(SelectionError, match="2 or 3"):
        ZarrTiffStore(single[0], zarr_format=4)


@pytest.mark.parametrize("compression", ["jpeg", "lzw", "webp"])
def test_codec_names_that_another_package_took_do_not_matter(tmp_path, monkeypatch, compression):
    """virtual-tiff registers some `imagecodecs_*` names of Zarr v3 for codecs of its own."""
    data = rng.integers(0, 255, (32, 48, 3)).astype("u1")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, tile=(16, 16), compression=compression, photometric="rgb")
    expected = tifffile.imread(path)
    document = tiffref.scan(path).to_kerchunk(3)
    assert f"imagecodecs_{compression}" in document["refs"]["image/zarr.json"]
    store = ZarrTiffStore(document, zarr_format=3, allow="*")
    # zarr finds the one codec that nobody else has
    assert b"imagecodecs_" not in store["image/zarr.json"]
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["image"][...], expected)
    monkeypatch.setattr(zarr.registry, "get_codec_class", lambda *args, **options: 1 / 0)
    np.testing.assert_array_equal(store[...], expected)
    xr = pytest.importorskip("xarray")
    with xr.open_dataset(document, engine="tiffref", allow="*") as dataset:
        np.testing.assert_array_equal(dataset.image, expected)


# ---- xarray


@pytest.fixture
def xr():
    return pytest.importorskip("xarray")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_engine_opens_documents_of_either_format(tmp_path, xr, zarr_format):
    levels = write_ome_pyramid(tmp_path / "a.ome.tif")
    references = tiffref.scan(tmp_path / "a.ome.tif")
    references.write_fsspec(tmp_path / "refs.json", zarr_format=zarr_format)
    with xr.open_dataset(tmp_path / "refs.json", engine="tiffref") as dataset:
        assert dataset.image.dims == ("t", "c", "z", "y", "x")
        np.testing.assert_array_equal(dataset.image, levels[0])
    if zarr_format == 3:
        with xr.open_dataset(tmp_path / "refs.json", engine="tiffref", group="1") as dataset:
            np.testing.assert_array_equal(dataset.image, levels[1])
        with xr.open_datatree(tmp_path / "refs.json", engine="tiffref") as tree:
            np.testing.assert_array_equal(tree["1"].image, levels[1])


def test_axes_of_the_engine(tmp_path, xr):
    levels = write_rgb_pyramid(tmp_path / "a.ome.tif")
    expected = levels[0].transpose(2, 0, 1)
    tiffref.scan(tmp_path / "a.ome.tif").write_fsspec(tmp_path / "refs.json")
    for source in (tmp_path / "a.ome.tif", tmp_path / "refs.json"):
        with xr.open_dataset(source, engine="tiffref", axes="ngff") as dataset:
            assert dataset.image.dims == ("c", "y", "x")
            np.testing.assert_array_equal(dataset.image, expected)
        with xr.open_dataset(source, engine="tiffref", axes="bands-first") as dataset:
            assert dataset.image.dims == ("s", "y", "x")
            np.testing.assert_array_equal(dataset.image, expected)


def test_overviews_can_be_left_out(tmp_path, xr):
    write_ome_pyramid(tmp_path / "a.ome.tif")
    tiffref.scan(tmp_path / "a.ome.tif").write_fsspec(tmp_path / "refs.json")
    for source in (tmp_path / "a.ome.tif", tmp_path / "refs.json"):
        with xr.open_dataset(source, engine="tiffref", overviews=False) as dataset:
            assert set(dataset.variables) == {"image", "x", "y", "z", "c"}
        with xr.open_dataset(source, engine="tiffref") as dataset:
            assert {"image", "image_1", "x", "x_1"} <= set(dataset.variables)


def test_a_mosaic_by_the_engine(tmp_path, xr):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    data = rng.integers(0, 255, (32, 64)).astype("u1")
    for n in range(2):
        transform = rasterio.Affine(10, 0, 5e5 + 320 * n, 0, -10, 5.2e6)
        profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 1, "dtype": "uint8"}
        profile |= {"crs": "EPSG:32633", "transform": transform}
        with rasterio.open(tmp_path / f"{n}.tif", "w", **profile) as target:
            target.write(data[None, :, 32 * n : 32 * n + 32])
    files = [str(tmp_path / "0.tif"), str(tmp_path / "1.tif")]
    with xr.open_dataset(files, engine="tiffref", mosaic=True) as dataset:
        np.testing.assert_array_equal(dataset.image, data)
    with pytest.raises(SelectionError, match="several files"):
        xr.open_dataset(files[0], engine="tiffref", mosaic=True)
