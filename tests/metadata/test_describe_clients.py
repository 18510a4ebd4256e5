"""Clients that people use open what we write, and find the metadata in it.

Each test runs where its client is installed (`tiffref[interop]` has the geographic ones).
"""

import json
from importlib.metadata import version

import fsspec
import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.zarr import ZarrTiffStore

from .geotags import write_geotiff


@pytest.fixture(scope="module")
def geotiff(tmp_path_factory):
    """A tiled, packed GeoTIFF with overviews, made by GDAL, and references to it."""
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    path = tmp_path_factory.mktemp("geo") / "a.tif"
    profile = {
        "driver": "GTiff", "width": 256, "height": 192, "count": 3, "dtype": "int16",
        "crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.2e6), "nodata": -9,
        "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate",
        "interleave": "band",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.random.default_rng(3).integers(0, 100, (3, 192, 256)).astype("i2"))
        target.scales, target.offsets = [0.5] * 3, [3.0] * 3
        target.descriptions, target.units = ("red", "green", "nir"), ("m", "m", "m")
    with rasterio.open(path, "r+") as target:
        target.build_overviews([2, 4])
    tiffref.scan(path).write_fsspec(path.with_suffix(".json"))
    return path


@pytest.mark.filterwarnings("ignore")
def test_rioxarray_agrees_with_the_file(geotiff):
    rioxarray = pytest.importorskip("rioxarray")
    xr = pytest.importorskip("xarray")
    expected = rioxarray.open_rasterio(geotiff, mask_and_scale=True)
    engines = [("tiffref", geotiff), ("kerchunk", str(geotiff.with_suffix(".json")))]
    for engine, source in engines:
        dataset = xr.open_dataset(source, engine=engine)
        image = dataset.image
        np.testing.assert_allclose(image, expected)
        assert image.rio.crs == expected.rio.crs
        assert image.rio.transform() == expected.rio.transform()
        assert image.rio.encoded_nodata == -9
        for name in "xy":
            assert (image[name].values == expected[name].values).all()
            described = expected.rio.write_coordinate_system()[name].attrs
            assert image[name].attrs == described
        assert tuple(image.attrs["long_name"]) == expected.attrs["long_name"]
        assert image.attrs["AREA_OR_POINT"] == expected.attrs["AREA_OR_POINT"]
        assert image.rio.reproject("EPSG:3857").shape == expected.rio.reproject("EPSG:3857").shape
        box = (500100, 5199000, 500500, 5199500)
        assert image.rio.clip_box(*box).shape == expected.rio.clip_box(*box).shape
        assert dataset.rio.crs == expected.rio.crs
        assert dataset.rio.transform() == expected.rio.transform()
        assert dataset.rio.bounds() == expected.rio.bounds()
        assert dataset.rio.clip_box(*box).image.shape == expected.rio.clip_box(*box).shape
        copy = geotiff.with_name(f"{engine}.tif")
        image.rio.to_raster(copy)
        assert rioxarray.open_rasterio(copy).rio.transform() == expected.rio.transform()
        smaller = rioxarray.open_rasterio(geotiff, overview_level=0)
        assert dataset.image_1.rio.transform() == smaller.rio.transform()
        assert dataset.image_1.rio.crs == smaller.rio.crs


@pytest.mark.filterwarnings("ignore")
def test_rioxarray_reprojects_and_writes_colours_with_bands_first(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    rioxarray = pytest.importorskip("rioxarray")
    xr = pytest.importorskip("xarray")
    path = tmp_path / "rgb.tif"
    profile = {
        "driver": "GTiff", "width": 96, "height": 64, "count": 3, "dtype": "uint8",
        "crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.2e6),
        "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate",
        "interleave": "pixel",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.random.default_rng(3).integers(0, 255, (3, 64, 96)).astype("u1"))
    expected = rioxarray.open_rasterio(path)
    tiffref.scan(path, axes="bands-first").write_fsspec(tmp_path / "rgb.json")
    opened = (
        xr.open_dataset(path, engine="tiffref", axes="bands-first"),
        xr.open_dataset(str(tmp_path / "rgb.json"), engine="kerchunk"),
    )
    for dataset in opened:
        image = dataset.image
        assert image.dims == ("band", "y", "x")
        np.testing.assert_array_equal(image, expected)
        found = image.rio.reproject("EPSG:3857")
        np.testing.assert_array_equal(found, expected.rio.reproject("EPSG:3857"))
        image.rio.to_raster(tmp_path / "again.tif")
        with rasterio.open(tmp_path / "again.tif") as again, rasterio.open(path) as first:
            np.testing.assert_array_equal(again.read(), first.read())
            assert (again.crs, again.transform) == (first.crs, first.transform)


@pytest.mark.filterwarnings("ignore")
def test_odc_geo_finds_the_same_geobox(geotiff):
    pytest.importorskip("odc.geo.xr")
    rioxarray = pytest.importorskip("rioxarray")
    xr = pytest.importorskip("xarray")
    image = xr.open_dataset(geotiff, engine="tiffref").image
    assert image.odc.geobox == rioxarray.open_rasterio(geotiff).odc.geobox


@pytest.mark.filterwarnings("ignore")
def test_gdal_opens_the_references(geotiff):
    import rasterio

    if tuple(int(n) for n in rasterio.__gdal_version__.split(".")[:2]) < (3, 11):
        pytest.skip(f"GDAL {rasterio.__gdal_version__} does not read references")
    with rasterio.open(geotiff.with_suffix(".json")) as root:
        names = [name for name in root.subdatasets if "/image" in name.rpartition(":")[2]]
    assert len(names) == 3
    for n, name in enumerate(names):
        options = {"overview_level": n - 1} if n else {}
        with rasterio.open(name) as got, rasterio.open(geotiff, **options) as expected:
            assert got.crs == expected.crs
            assert got.transform == expected.transform
            assert got.nodatavals == expected.nodatavals
            # GDAL itself forgets them in overviews
            assert (got.scales, got.offsets) == ((0.5,) * 3, (3.0,) * 3)
            np.testing.assert_array_equal(got.read(), expected.read())


@pytest.mark.filterwarnings("ignore")
def test_control_points_are_those_of_gdal(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    rioxarray = pytest.importorskip("rioxarray")
    xr = pytest.importorskip("xarray")
    points = [rasterio.control.GroundControlPoint(r, c, 1.0 * c, 9.0 - r, 5.0)
              for r, c in ((0, 0), (0, 8), (8, 0))]  # fmt: skip
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8",
        gcps=points, crs="EPSG:4326",
    ) as target:  # fmt: skip
        target.write(np.zeros((1, 8, 8), "u1"))
    got = xr.open_dataset(path, engine="tiffref").image.rio
    expected = rioxarray.open_rasterio(path).rio
    assert got.crs == expected.crs
    points_of = lambda rio: [(p.row, p.col, p.x, p.y, p.z) for p in rio.get_gcps()]  # noqa: E731
    assert points_of(got) == points_of(expected) == [(p.row, p.col, p.x, p.y, p.z) for p in points]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tags", [{}, {34264: (1.0, *[0.0] * 4, 1.0, *[0.0] * 9, 1.0)}])
def test_sensor_models_are_those_of_rioxarray(tmp_path, tags):
    rioxarray = pytest.importorskip("rioxarray")
    xr = pytest.importorskip("xarray")
    model = (1.0, -1.0, 3.0, 4.0, 39.8, 46.8, 1046.0, 9.0, 9.0, 0.1, 0.1, 500.0)
    model += tuple(n / 100 for n in range(80))
    path = write_geotiff(tmp_path / "a.tif", {**tags, 50844: model})
    tiffref.scan(path).write_fsspec(tmp_path / "a.json")
    expected = rioxarray.open_rasterio(path)
    if not hasattr(expected.rio, "get_rpcs"):
        pytest.skip("this rioxarray knows no sensor models")
    for source, engine in ((path, "tiffref"), (str(tmp_path / "a.json"), "kerchunk")):
        with xr.open_dataset(source, engine=engine) as dataset:
            image = dataset.image
            assert image.rio.get_rpcs().to_dict() == expected.rio.get_rpcs().to_dict()
            assert image.rio.crs == expected.rio.crs
            assert {"x", "y"} & {*image.coords} == {"x", "y"} & {*expected.coords} == set()


# ---- OME-NGFF


@pytest.fixture(scope="module", params=["dataset", "tree"])
def ngff(request, tmp_path_factory):
    """References to an OME-TIFF pyramid in JSON, and the pixels of its first level."""
    folder = tmp_path_factory.mktemp("ngff")
    data = np.random.default_rng(3).integers(0, 4096, (2, 3, 128, 160)).astype("u2")
    metadata = {
        "axes": "CZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0,
        "PhysicalSizeXUnit": "µm", "Channel": {"Name": ["DAPI", "GFP"]},
    }  # fmt: skip
    with tifffile.TiffWriter(folder / "a.ome.tif", ome=True) as tiff:
        options = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}
        tiff.write(data, subifds=1, metadata=metadata, **options)
        tiff.write(data[..., ::2, ::2], subfiletype=1, **options)
    path = folder / "a.json"
    tiffref.scan(folder / "a.ome.tif", layout=request.param).write_fsspec(path)
    return path, data


@pytest.mark.filterwarnings("ignore")
def test_napari_by_dask(ngff):
    da = pytest.importorskip("dask.array")
    path, data = ngff
    root = json.loads(json.loads(path.read_text())["refs"][".zattrs"])
    names = [level["path"] for level in root["multiscales"][0]["datasets"]]
    levels = [da.from_zarr(f"reference::{path}", component=name) for name in names]
    assert [level.shape for level in levels] == [(2, 3, 128, 160), (2, 3, 64, 80)]
    np.testing.assert_array_equal(levels[0], data)
    layers = pytest.importorskip("napari.layers")
    assert layers.Image(levels, multiscale=True).multiscale


@pytest.mark.filterwarnings("ignore")
def test_ngff_zarr(ngff):
    ngff_zarr = pytest.importorskip("ngff_zarr")
    path, data = ngff
    mapper = fsspec.get_mapper("reference://", fo=str(path))
    found = ngff_zarr.from_ngff_zarr(mapper, version="0.4")
    assert len(found.images) == 2
    assert found.images[1].scale == {"c": 1.0, "z": 2.0, "y": 1.0, "x": 0.5}
    assert found.images[1].translation == {"c": 0.0, "z": 0.0, "y": 0.25, "x": 0.125}
    assert [c.label for c in found.metadata.omero.channels] == ["DAPI", "GFP"]
    np.testing.assert_array_equal(found.images[0].data, data)


def reference_store(path):
    from zarr.storage import FsspecStore

    filesystem = fsspec.filesystem(
        "reference", fo=str(path), asynchronous=True, remote_protocol="file",
        remote_options={"asynchronous": True},
    )  # fmt: skip
    return FsspecStore(filesystem, read_only=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("open_store", [reference_store, ZarrTiffStore])
def test_ome_zarr_py(ngff, open_store):
    pytest.importorskip("ome_zarr")
    from ome_zarr.format import FormatV04
    from ome_zarr.io import ZarrLocation
    from ome_zarr.reader import Reader

    path, data = ngff
    if open_store is ZarrTiffStore and version("ome-zarr") < "0.21":
        pytest.skip("an ome-zarr that takes only stores of zarr")
    (node,) = Reader(ZarrLocation(open_store(path), fmt=FormatV04()))()
    assert [level.shape for level in node.data] == [(2, 3, 128, 160), (2, 3, 64, 80)]
    assert node.metadata["channel_names"] == ["DAPI", "GFP"]
    np.testing.assert_array_equal(node.data[0], data)


@pytest.mark.filterwarnings("ignore")
def test_bioio(ngff):
    bioio_ome_zarr = pytest.importorskip("bioio_ome_zarr")
    path, data = ngff
    options = {"fo": str(path), "remote_protocol": "file"}
    found = bioio_ome_zarr.Reader("reference://", fs_kwargs=options)
    assert found.channel_names == ["DAPI", "GFP"]
    sizes = found.physical_pixel_sizes
    assert (sizes.Z, sizes.Y, sizes.X) == (2.0, 0.5, 0.25)
    assert len(found.resolution_levels) == 2
    np.testing.assert_array_equal(found.data, data)


@pytest.mark.filterwarnings("ignore")
def test_ome_zarr_models(ngff):
    models = pytest.importorskip("ome_zarr_models.v04")
    zarr = pytest.importorskip("zarr")
    path, _ = ngff
    group = zarr.open_group(f"reference::{path}", mode="r", zarr_format=2)
    (entry,) = models.Image.from_zarr(group).attributes.multiscales
    assert [axis.name for axis in entry.axes] == ["c", "z", "y", "x"]


@pytest.mark.filterwarnings("ignore")
def test_the_document_is_what_readers_in_other_languages_parse(ngff):
    path, _ = ngff
    document = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
    attributes = json.loads(document["refs"][".zattrs"])
    assert attributes["multiscales"][0]["version"] == "0.4"
