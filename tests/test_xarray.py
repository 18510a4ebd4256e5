"""The xarray backend: what it opens, how lazily, and what can be done with the result."""

import math
import pickle

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.zarr import ZarrFileSequenceStore, ZarrTiffStore

xr = pytest.importorskip("xarray")
pytest.importorskip("pyproj")

KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
EXTRA = [
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 5.2e6, 0.0), True),
    (34735, 3, len(KEYS), KEYS, True),
    (42113, 2, 3, "-9", True),
    (42112, 2, 0, '<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.5</Item>'
     "</GDALMetadata>", True),
]  # fmt: skip


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    path = tmp_path_factory.mktemp("xarray") / "a.tif"
    data = np.arange(64 * 48, dtype="i2").reshape(64, 48)
    data[5, 5] = -9
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(data, extratags=EXTRA, metadata=None, tile=(16, 16), compression="zlib")
        for n in (2, 4):
            tiff.write(data[::n, ::n], subfiletype=1, metadata=None, tile=(16, 16))
    return path


@pytest.fixture
def opened(pyramid):
    return xr.open_dataset(pyramid, engine="tiffref")


def test_values_are_masked_and_scaled(pyramid, opened):
    stored = tifffile.imread(pyramid)
    expected = np.where(stored == -9, np.nan, stored * 0.5)
    np.testing.assert_array_equal(opened.image, expected)
    raw = xr.open_dataset(pyramid, engine="tiffref", mask_and_scale=False)
    np.testing.assert_array_equal(raw.image, stored)
    assert set(opened.data_vars) == {"image", "image_1", "image_2"}
    assert {"x", "y", "spatial_ref"} <= set(opened.image.coords)


def test_opening_reads_no_pixels(pyramid, monkeypatch):
    from tiffref import xarray

    regions = []
    original = xarray.read_array
    monkeypatch.setattr(
        xarray, "read_array",
        lambda array, selection, **k: regions.append((array.shape, selection))
        or original(array, selection, **k),
    )  # fmt: skip
    image = xr.open_dataset(pyramid, engine="tiffref").image
    assert all(len(shape) < 2 for shape, _ in regions)
    regions.clear()
    image[3:5, 7].load()
    assert [one for one in regions if len(one[0]) == 2] == [((64, 48), (slice(3, 5, 1), 7))]


@pytest.mark.parametrize(
    "selection",
    [(slice(None, None, -2), slice(3)), ([5, 1, 5], slice(None)), (4, [0, 2]), ([1, 2], [3, 4])],
)
def test_any_selection(pyramid, selection):
    image = xr.open_dataset(pyramid, engine="tiffref", mask_and_scale=False).image
    expected = tifffile.imread(pyramid)
    expected = expected[selection[0]][..., selection[1]]
    np.testing.assert_array_equal(image[selection], expected)


def test_dask_takes_the_chunks_of_the_file(pyramid, opened):
    pytest.importorskip("dask")
    lazy = xr.open_dataset(pyramid, engine="tiffref", chunks={}, stored_chunks=True)
    assert lazy.image.chunks == ((16,) * 4, (16,) * 3)
    xr.testing.assert_identical(lazy.compute(), opened)
    assert xr.open_dataset(pyramid, engine="tiffref", chunks={}).image.chunks == ((64,), (48,))


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((2000, 3000), {"tile": (256, 256)}, (1024, 1024)),
        ((2000, 3000), {"tile": (512, 256)}, (1024, 1024)),
        ((2000, 3000, 3), {"tile": (256, 256)}, (512, 1024, 3)),
        ((3, 2000, 3000), {"tile": (256, 256), "planarconfig": 2}, (1, 1024, 1024)),
        ((3000, 1000), {"rowsperstrip": 8}, (2048, 1000)),
        ((3000, 1000), {"rowsperstrip": 1}, (2048, 1000)),
        ((5, 300, 3000), {"tile": (256, 256)}, (1, 512, 2048)),
        ((100, 30, 40), {"rowsperstrip": 7}, (100, 30, 40)),
        ((3000, 3000), {"rowsperstrip": 3000}, (3000, 3000)),
    ],
)
def test_chunks_for_dask_are_whole_groups_of_tiles(tmp_path, shape, options, expected):
    pytest.importorskip("dask")
    data = np.arange(math.prod(shape), dtype="u4").reshape(shape).astype("u1")
    options = {"compression": "zlib", "photometric": "rgb" if 3 in shape else None} | options
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    tiffref.scan(tmp_path / "a.tif").write_fsspec(tmp_path / "a.json")
    for name in ("a.tif", "a.json"):
        lazy = xr.open_dataset(tmp_path / name, engine="tiffref", chunks={}).image
        assert lazy.data.chunksize == tuple(map(min, expected, shape))
        np.testing.assert_array_equal(lazy, data)
        stored = xr.open_dataset(tmp_path / name, engine="tiffref").image
        preferred = stored.encoding["preferred_chunks"]
        assert all(n % preferred.stored[dim] == 0 for dim, n in preferred.items())


def test_chunks_that_divide_a_tile_warn(pyramid):
    pytest.importorskip("dask")
    for chosen in (pyramid, tiffref.scan(pyramid)):
        lazy = xr.open_dataset(chosen, engine="tiffref", chunks={"y": 32, "x": 16})
        assert lazy.image.data.chunksize == (32, 16)
        again = pickle.loads(pickle.dumps(xr.open_dataset(chosen, engine="tiffref")))
        assert again.chunk({"y": 32}).image.data.chunksize == (32, 48)
        with pytest.warns(UserWarning, match="separate the stored chunks"):
            xr.open_dataset(chosen, engine="tiffref", chunks={"y": 24}, drop_variables="y")


def test_dask_takes_few_requests_for_a_remote_window(tmp_path, server):
    pytest.importorskip("dask")
    data = np.random.default_rng(1).integers(0, 9, (4096, 4096)).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", data, tile=(256, 256), compression="zlib")
    server.files["/a.tif"] = (tmp_path / "a.tif").read_bytes()
    window = (slice(1000, 3000), slice(1100, 3100))
    scanned = tiffref.scan(f"{server.url}/a.tif")
    for source in (f"{server.url}/a.tif", scanned, scanned.to_kerchunk()):
        with xr.open_dataset(source, engine="tiffref", chunks={}) as lazy:
            assert lazy.image.data.chunksize == (2048, 2048)
            server.requests.clear()
            np.testing.assert_array_equal(lazy.image[window], data[window])
        assert server.n_get <= 20


def test_pickles(opened):
    again = pickle.loads(pickle.dumps(opened))
    xr.testing.assert_identical(again, opened)


@pytest.mark.parametrize("find", [xr.open_dataset, xr.open_datatree, xr.open_mfdataset])
def test_closing_closes_the_file(pyramid, find, monkeypatch):
    pytest.importorskip("dask")
    closed = []
    monkeypatch.setattr("tiffref.read.Fetcher.close", lambda self: closed.append(self))
    chosen = {"overviews": False} if find is xr.open_mfdataset else {}
    with find([pyramid] if chosen else pyramid, engine="tiffref", **chosen):
        assert not closed
    assert closed


def test_drop_variables(pyramid):
    found = xr.open_dataset(pyramid, engine="tiffref", drop_variables=["image_1", "image_2"])
    assert list(found.data_vars) == ["image"]
    assert {"spatial_ref", "x_1"} <= set(found.coords)


def test_one_level_or_series(pyramid):
    found = xr.open_dataset(pyramid, engine="tiffref", level=1)
    assert found.image.shape == (32, 24)
    assert float(found.x[1] - found.x[0]) == 20.0
    with pytest.raises(IndexError):
        xr.open_dataset(pyramid, engine="tiffref", series=7)


def alone_1(path):
    return xr.open_dataset(path, engine="tiffref", level=1).image


TURNED = [
    (34264, 12, 16, (7.0, 7.0, 0.0, 5e5, 7.0, -7.0, 0.0, 5.2e6, *[0.0] * 7, 1.0), True),
    (34735, 3, len(KEYS), KEYS, True),
]


def test_a_level_of_a_document_keeps_its_own_grid_mapping(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for n in (1, 2, 4):
            kind, tags = int(n > 1), TURNED if n == 1 else []
            tiff.write(np.zeros((64 // n, 48 // n), "u1"), subfiletype=kind, extratags=tags)
    references = tiffref.scan(path)
    for level in (0, 1, 2):
        found = xr.open_dataset(references, engine="tiffref", level=level)
        alone = xr.open_dataset(path, engine="tiffref", level=level)
        mapping = found[found.image.encoding.get("grid_mapping", found.image.attrs["grid_mapping"])]
        assert mapping.attrs == alone.spatial_ref.attrs
        assert mapping.attrs["GeoTransform"].split()[1] == str(7.0 * 2**level)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_image_without_any_tile_is_no_coordinate(tmp_path, zarr_format):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((16, 16), "u1"), tile=(16, 16), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileOffsets", "TileByteCounts"):
            tiff.pages[0].tags[name].overwrite(0)
    document = tiffref.scan(path).to_kerchunk(zarr_format=zarr_format)
    opened = xr.open_dataset(document, engine="tiffref")
    assert list(opened.data_vars) == ["image"]
    assert not opened.image.any()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_reference_documents_and_mappings(pyramid, opened, tmp_path, zarr_format):
    references = tiffref.scan(pyramid)
    references.write_fsspec(tmp_path / "a.json", zarr_format=zarr_format)
    for source in (
        tmp_path / "a.json",
        references.to_kerchunk(zarr_format=zarr_format),
        references,
    ):
        found = xr.open_dataset(source, engine="tiffref")
        xr.testing.assert_equal(found, opened)
        assert found.image.attrs == opened.image.attrs
        for level in (0, 1, 2):
            one = xr.open_dataset(source, engine="tiffref", level=level)
            alone = xr.open_dataset(pyramid, engine="tiffref", level=level)
            xr.testing.assert_equal(one, alone)
            assert one.image.dims == ("y", "x")
            assert one.attrs["spatial:transform"] == alone.attrs["spatial:transform"]
        with pytest.raises(IndexError, match="level 9 does not exist"):
            xr.open_dataset(source, engine="tiffref", level=9)
        with pytest.raises(IndexError, match="not an option for references"):
            xr.open_dataset(source, engine="tiffref", key=1)
    tree = tiffref.scan(pyramid, layout="tree").to_kerchunk(zarr_format=zarr_format)
    xr.testing.assert_equal(
        xr.open_dataset(tree, engine="tiffref", level=1).image, alone_1(pyramid)
    )


def test_a_url_with_storage_options(pyramid, opened, tmp_path):
    found = xr.open_dataset(
        f"simplecache::file://{pyramid}", engine="tiffref",
        storage_options={"simplecache": {"cache_storage": str(tmp_path)}},
    )  # fmt: skip
    xr.testing.assert_equal(found, opened)


def test_an_open_file(pyramid, opened):
    with pyramid.open("rb") as file:
        xr.testing.assert_equal(xr.open_dataset(file, engine="tiffref").load(), opened)


def test_the_tree_has_a_group_for_each_level(pyramid, opened):
    tree = xr.open_datatree(pyramid, engine="tiffref")
    assert tree.groups == ("/", "/0", "/1", "/2")
    np.testing.assert_array_equal(tree["1/image"], opened.image_1)
    assert tree["1/image"].dims == ("y", "x")
    one = xr.open_dataset(
        tiffref.scan(pyramid, layout="tree").to_kerchunk(), engine="tiffref", group="1"
    )
    np.testing.assert_array_equal(one.image, opened.image_1)
    level = xr.open_dataset(pyramid, engine="tiffref", group="/1")
    xr.testing.assert_identical(level, tree["1"].to_dataset(inherit=False))
    with pytest.raises(IndexError, match=r"unknown group, got 9, expected one of \['0', '1', "):
        xr.open_dataset(pyramid, engine="tiffref", group="9")
    with pytest.raises(IndexError, match="several files are one dataset, without groups"):
        xr.open_datatree([pyramid, pyramid], engine="tiffref")


@pytest.fixture
def bands(tmp_path):
    """Three bands side by side in each pixel, with scales of their own."""
    items = "".join(
        f'<Item name="{name}" sample="{n}" role="{role}">{value}</Item>'
        for name, role, values in (
            ("SCALE", "scale", (1, 2, 4)), ("DESCRIPTION", "description", ("a", "b", "c")),
        )
        for n, value in enumerate(values)
    )  # fmt: skip
    extra = [*EXTRA[:3], (42112, 2, 0, f"<GDALMetadata>{items}</GDALMetadata>", True)]
    data = np.arange(8 * 6 * 3, dtype="u2").reshape(8, 6, 3)
    path = tmp_path / "bands.tif"
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(path, data, metadata=None, extratags=extra, **options)
    return path, data


def test_bands_can_come_first(bands):
    path, data = bands
    image = xr.open_dataset(path, engine="tiffref", band_first=True).image
    assert image.dims == ("band", "y", "x")
    expected = data.transpose(2, 0, 1)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(image[1, :, 2:4], expected[1, :, 2:4])
    np.testing.assert_array_equal(image[::-1, 3], expected[::-1, 3])
    np.testing.assert_array_equal(image[:, [5, 0], 1], expected[:, [5, 0], 1])
    # so they do by default, unless their place is said
    xr.testing.assert_identical(xr.open_dataset(path, engine="tiffref").image, image)
    for options in ({"band_first": False}, {"axes": "as-stored"}):
        assert xr.open_dataset(path, engine="tiffref", **options).image.dims == ("y", "x", "band")
    stack = xr.open_dataset([path, path], engine="tiffref").image
    assert stack.dims[1:] == ("band", "y", "x")


@pytest.mark.filterwarnings("ignore")
def test_bands_are_where_rioxarray_wants_them(bands, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    path, _ = bands
    tiffref.scan(path, axes="bands-first").write_fsspec(tmp_path / "a.json")
    expected = rioxarray.open_rasterio(path)
    for source, engine in ((path, "tiffref"), (str(tmp_path / "a.json"), "kerchunk")):
        with xr.open_dataset(source, engine=engine) as dataset:
            image = dataset.image
            assert (
                image.rio.reproject("EPSG:4326").shape == expected.rio.reproject("EPSG:4326").shape
            )
            image.rio.to_raster(tmp_path / f"{engine}.tif")
            np.testing.assert_array_equal(
                rioxarray.open_rasterio(tmp_path / f"{engine}.tif"), expected
            )


def test_bands_can_be_variables(bands):
    path, data = bands
    found = xr.open_dataset(path, engine="tiffref", band_as_variable=True)
    assert list(found.data_vars) == ["band_1", "band_2", "band_3"]
    assert "band" not in found.coords
    for n, scale in enumerate((1, 2, 4)):
        band = found[f"band_{n + 1}"]
        assert band.dims == ("y", "x")
        assert band.attrs["long_name"] == "abc"[n]
        np.testing.assert_array_equal(band, data[..., n] * scale)
    again = pickle.loads(pickle.dumps(found))
    xr.testing.assert_identical(again.load(), found.load())


@pytest.mark.parametrize("n_bands", [1, 2])
def test_scaled_complex_numbers_keep_their_imaginary_part(n_bands, tmp_path):
    data = (np.arange(8 * 6 * n_bands) * (1 + 2j)).astype("c8").reshape(8, 6, n_bands)
    path, document = tmp_path / "a.tif", str(tmp_path / "a.json")
    options = {"photometric": "minisblack", "planarconfig": "contig"} if n_bands > 1 else {}
    extra = [*EXTRA[:3], EXTRA[4]]
    tifffile.imwrite(path, data.squeeze(), metadata=None, extratags=extra, **options)
    tiffref.scan(path).write_fsspec(document)
    with (
        xr.open_dataset(path, engine="tiffref", band_first=False) as one,
        xr.open_dataset(document, engine="kerchunk") as two,
        xr.open_dataset(path, engine="tiffref", band_as_variable=True) as bands,
    ):
        for found in (one.image, two.image):
            np.testing.assert_array_equal(found, data.squeeze())
            assert found.attrs["scales"][0] == 0.5
        for n, band in enumerate(bands.data_vars.values()):
            np.testing.assert_array_equal(band, data[..., n])


@pytest.mark.parametrize(
    ("name", "can"),
    [("a.tif", 1), ("s3://b/A.TIFF?x=1", 1), ("a.svs", 1), ("a.nc", 0), ("a.json", 0), (3, 0)],
)
def test_guess_can_open(name, can):
    from tiffref.xarray import TiffrefBackendEntrypoint

    assert TiffrefBackendEntrypoint().guess_can_open(name) == can


def test_the_engine_is_registered():
    assert "tiffref" in xr.backends.list_engines()


@pytest.mark.filterwarnings("ignore::UserWarning:zarr", "ignore::FutureWarning")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_written_to_zarr_and_read_back(opened, tmp_path, zarr_format):
    opened.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, consolidated=False)
    again = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)
    xr.testing.assert_equal(again.load(), opened)


def test_written_to_netcdf_and_read_back(opened, tmp_path):
    pytest.importorskip("netCDF4")
    opened.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as again:
        xr.testing.assert_equal(again.load(), opened)
    assert "EPSG:32633" in again.attrs.values()


def test_attributes_can_be_written_to_netcdf():
    from tiffref.xarray import plain_attributes

    found = plain_attributes(
        {
            "a": {"b": 1},
            "l": [1, 2],
            "n": None,
            "t": True,
            "m": [{"x": 1}],
            "s": ["u", "v"],
            "e": [],
        }
    )
    assert found == {
        "a": '{"b": 1}', "l": [1, 2], "t": 1, "m": '[{"x": 1}]', "s": ["u", "v"], "e": "[]"
    }  # fmt: skip


@pytest.fixture
def days(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for day in (9, 10):
        image = np.full((4, 5), day, "u1")
        tifffile.imwrite(f"day_{day}.tif", image, metadata=None)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "dim"),
    [("day_*.tif", "i"), ("day_{t}.tif", "t"), (["day_9.tif", "day_10.tif"], "i")],
    ids=["glob", "pattern", "list"],
)
def test_many_files_are_one_dataset(days, files, dim):
    found = xr.open_dataset(files, engine="tiffref", series=0, level=0)
    assert found.image.dims == (dim, "y", "x")
    assert found.image[:, 0, 0].values.tolist() == [9, 10]
    with pytest.raises(tiffref.TiffrefError, match="strict"):
        xr.open_dataset(files, engine="tiffref", strict=True)


def test_a_tiff_with_the_name_of_a_document_opens(days):
    (days / "day_9.tif").rename("day.json")
    assert xr.open_dataset("day.json", engine="tiffref").image.shape == (4, 5)
    with pytest.raises(OSError, match=r"gone\.json"):
        xr.open_dataset("gone.json", engine="tiffref")


OPTIONS = (
    *("drop_variables", "mask_and_scale", "decode_times", "concat_characters", "decode_coords"),
    *("use_cftime", "decode_timedelta", "group", "series", "level", "key", "strict", "axes"),
    *("overviews", "mosaic", "sidecars", "band_first", "band_as_variable", "stored_chunks"),
    *("storage_options", "verify", "allow"),
)
"""What `docs/` names, and xarray's own: all work as keywords."""


def test_all_options_are_keywords(days):
    defaults = {"verify": "never", "stored_chunks": True, "overviews": False, "series": 0}
    given = dict.fromkeys(OPTIONS[8:], None) | defaults
    for name in ("strict", "mosaic", "band_as_variable"):
        given[name] = False
    found = xr.open_dataset("day_9.tif", engine="tiffref", mask_and_scale=False, **given)
    assert found.image.dtype == "u1" and (found.image == 9).all()
    engine = xr.backends.list_engines()["tiffref"]
    assert set(OPTIONS) < set(engine.open_dataset_parameters)
    for name, near in (("levle", "Did you mean level[?] "), ("colour", "")):
        says = rf"open_dataset\(\) has no argument '{name}'. {near}.*help\(tiffref.xarray.EngineO"
        with pytest.raises(tiffref.UnknownArgument, match=says) as caught:
            xr.open_dataset("day_9.tif", engine="tiffref", **{name: True})
        assert isinstance(caught.value, TypeError)


def test_options_hold_for_trees_too(tmp_path):
    image = np.zeros((32, 32, 3), "u1")
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(image, subifds=1, photometric="rgb", metadata=None)
        tif.write(image[::2, ::2], subfiletype=1, photometric="rgb", metadata=None)
    tree = xr.open_datatree(tmp_path / "a.tif", engine="tiffref", overviews=False)
    assert [name for name in tree.groups if tree[name].data_vars] == ["/0"]
    with pytest.raises(tiffref.SelectionError, match="several files"):
        xr.open_datatree(tmp_path / "a.tif", engine="tiffref", mosaic=True)


def test_parts_that_are_not_shown_are_named(tmp_path):
    for n, shape in enumerate(((8, 8), (9, 9))):
        tifffile.imwrite(tmp_path / f"{n}.tif", np.full(shape, n, "u1"), metadata=None)
    references = tiffref.scan_sequence(str(tmp_path / "?.tif"), on_mismatch="split")
    references.write_fsspec(tmp_path / "a.json")
    with pytest.warns(tiffref.MetadataWarning, match=r"part_0 of 2 arrays.*group='part_1'"):
        opened = xr.open_dataset(str(tmp_path / "a.json"), engine="tiffref")
    assert opened.image.shape == (1, 8, 8)
    with xr.open_dataset(str(tmp_path / "a.json"), engine="tiffref", group="part_1") as second:
        assert second.image.shape == (1, 9, 9)
    with xr.open_datatree(str(tmp_path / "a.json"), engine="tiffref") as tree:
        assert list(tree.children) == ["part_0", "part_1"]
    with pytest.warns(tiffref.MetadataWarning, match="a store of the references by series=1"):
        ZarrFileSequenceStore(str(tmp_path / "?.tif"), on_mismatch="split")
    assert ZarrTiffStore(tmp_path / "a.json", series=1).shape == (1, 9, 9)
