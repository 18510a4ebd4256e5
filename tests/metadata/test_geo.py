"""`geo`: what GeoZarr says of groups and levels, by its own validator; rasters at one place."""

import json

import numpy as np
import pytest
import tifffile
import xarray as xr

import tiffref
from tiffref.errors import MalformedTiff, ManifestMismatch, MetadataWarning
from tiffref.metadata.geo import Location, locate, read_georeference, unify_locations
from tiffref.metadata.report import Report

from .geotags import PLACED, UTM, extra_tags, geotags

pytest.importorskip("pyproj")


def write_pyramid(path, samples=1, byteorder="<", tags=None):
    shape = (64, 64, samples) if samples > 1 else (64, 64)
    data = np.arange(np.prod(shape), dtype="u2").reshape(shape)
    how = {
        "tile": (16, 16),
        "metadata": None,
        "photometric": "rgb" if samples == 3 else "minisblack",
    }
    with tifffile.TiffWriter(path, byteorder=byteorder) as tiff:
        tiff.write(data, extratags=extra_tags(tags or geotags(UTM, **PLACED)), **how)
        for n in (2, 4):
            tiff.write(data[::n, ::n], subfiletype=1, **how)
    return path


def documents(references, zarr_format):
    """Return attributes and metadata of the nodes of a document, by path."""
    refs = references.to_kerchunk(zarr_format=zarr_format)["refs"]
    name = ".zattrs" if zarr_format == 2 else "zarr.json"
    found = {}
    for key, text in refs.items():
        path, _, last = key.rpartition("/")
        if last == name:
            found[path] = json.loads(text)
    return {
        path: one.get("attributes", {}) if zarr_format == 3 else one for path, one in found.items()
    }


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("layout", ["dataset", "tree"])
@pytest.mark.parametrize("byteorder", "<>")
def test_each_level_declares_what_it_follows(tmp_path, zarr_format, layout, byteorder):
    zarr_cm = pytest.importorskip("zarr_cm")
    path = write_pyramid(tmp_path / "a.tif", 3, byteorder)
    nodes = documents(tiffref.scan(path, layout=layout), zarr_format)
    levels = {"dataset": ["image", "image_1", "image_2"], "tree": ["0", "1", "2"]}[layout]
    images = levels if layout == "dataset" else [f"{level}/image" for level in levels]
    for node in ("", *levels, *images):
        zarr_cm.validate_all(nodes[node])
        used = ("proj", "spatial", "multiscales") if not node else ("proj", "spatial")
        # each entry by itself: a schema of a whole node looks at none of them
        assert nodes[node]["zarr_conventions"] == [getattr(zarr_cm, name).CMO for name in used]
    for n, image in enumerate(images):
        dims = ("y", "x") if layout == "tree" or not n else (f"y_{n}", f"x_{n}")
        assert nodes[image]["spatial:dimensions"] == list(dims)
        step = 10.0 * 2**n
        assert nodes[image]["spatial:transform"] == [step, 0, 5e5, 0, -2 * step, 5.2e6]
        assert nodes[image]["spatial:shape"] == [64 >> n, 64 >> n]
    layout = nodes[""]["multiscales"]["layout"]
    assert [one["asset"] for one in layout] == levels
    # a number for each dimension, also for that of the bands
    assert layout[1]["transform"] == {"scale": [2.0, 2.0, 1.0], "translation": [0.0] * 3}


def test_the_scales_follow_the_axes(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", 3)
    group = tiffref.scan(path, axes="bands-first").group
    assert group["image"].dims[0].startswith("band")
    assert group.attributes["multiscales"]["layout"][2]["transform"]["scale"] == [1.0, 4.0, 4.0]
    stack = tiffref.scan_sequence([path, path], pattern=None).group
    assert stack["image"].shape == (2, 64, 64, 3)
    layout = stack.attributes["multiscales"]["layout"]
    assert layout[2]["transform"]["scale"] == [1.0, 4.0, 4.0, 1.0]
    assert stack["image_1"].attributes["spatial:transform"][0] == 20.0


def test_a_mosaic_has_the_georeference_of_the_whole(tmp_path):
    zarr_cm = pytest.importorskip("zarr_cm")
    for n in range(2):
        placed = {**PLACED, "t33922": (0.0, 0.0, 0.0, 5e5 + 640 * n, 5.2e6, 0.0)}
        write_pyramid(tmp_path / f"{n}.tif", tags=geotags(UTM, **placed))
    group = tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True).group
    for name in ("image", "image_1", "image_2"):
        zarr_cm.validate_all(group[name].attributes)
        assert group[name].attributes["spatial:bbox"] == [5e5, 5.2e6 - 1280, 5e5 + 1280, 5.2e6]
    assert group.attributes["spatial:shape"] == [64, 128]


def test_files_at_different_places_have_no_georeference(tmp_path):
    for n in range(2):
        placed = {**PLACED, "t33922": (0.0, 0.0, 0.0, 5e5 + 640 * n, 5.2e6, 0.0)}
        write_pyramid(tmp_path / f"{n}.tif", tags=geotags(UTM, **placed))
    group = tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore=["georeference"]).group
    for node in (group, group["image"], group["image_1"]):
        assert not [name for name in node.attributes if name.startswith(("spatial:", "zarr_"))]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore")
def test_gdal_georeferences_documents(tmp_path, zarr_format):
    rasterio = pytest.importorskip("rasterio")
    if tuple(int(n) for n in rasterio.__gdal_version__.split(".")[:2]) < (3, 11):
        pytest.skip(f"GDAL {rasterio.__gdal_version__} does not read references")
    # long enough for coordinates that are compressed
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 256, "height": 192, "count": 1, "dtype": "int16",
               "crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.2e6),
               "tiled": True, "blockxsize": 64, "blockysize": 64}  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.arange(192 * 256, dtype="i2").reshape(1, 192, 256))
    with rasterio.open(path, "r+") as target:
        target.build_overviews([2])
    tiffref.scan(path).write_fsspec(tmp_path / "a.json", zarr_format=zarr_format)
    for n, name in enumerate(("image", "image_1")):
        inside = f'ZARR:"/vsikerchunk_json_ref/{{{tmp_path}/a.json}}":/{name}'
        options = {"overview_level": n - 1} if n else {}
        with rasterio.open(inside) as got, rasterio.open(path, **options) as expected:
            assert got.crs == expected.crs
            assert got.transform == expected.transform
            np.testing.assert_array_equal(got.read(), expected.read())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["tiffref", "kerchunk"])
def test_rasterix_and_xproj_open_the_documents(tmp_path, engine):
    rasterix = pytest.importorskip("rasterix")
    pytest.importorskip("xproj")
    path = write_pyramid(tmp_path / "a.tif", 3)
    tiffref.scan(path).write_fsspec(tmp_path / "a.json")
    source = path if engine == "tiffref" else str(tmp_path / "a.json")
    with xr.open_dataset(source, engine=engine, decode_coords="all") as dataset:
        indexed = rasterix.assign_index(dataset, x_dim="x", y_dim="y")
        assert tuple(indexed.xindexes["x"].transform())[:6] == (10, 0, 5e5, 0, -20, 5.2e6)
        found = indexed.image.sel(x=500021.0, y=5199970.0, method="nearest")
        np.testing.assert_array_equal(found, dataset.image.isel(y=1, x=2))
        known = dataset.proj.assign_crs(spatial_ref=dataset.rio.crs.to_wkt(), allow_override=True)
        assert known.proj.crs.to_epsg() == 32633


def test_what_is_wrong_with_keys_is_reported_for_each_file():
    tags = geotags({1024: 1, 3072: 15, 2048: 4326}, **PLACED)
    said = []
    for name in "ab":
        report = Report(name)
        with pytest.warns(MetadataWarning, match="unknown EPSG code") as warned:
            system = read_georeference(tags, report).system
        said.append((report.defects, [one.message.url for one in warned]))
        assert system is not None
    assert said[0][0] == said[1][0]
    assert [set(urls) for _, urls in said] == [{"a"}, {"b"}]
    with pytest.raises(MalformedTiff):
        read_georeference(tags, Report("c", True))


def test_files_with_equal_keys_share_a_system():
    tags = geotags(UTM, **PLACED)
    one, other = (read_georeference(tags, Report(name)) for name in "ab")
    assert one.system is other.system


pytest.importorskip("pyproj")

KEYS = {1024: 1, 1025: 1, 3072: 32632}
MATRIX = (10.0, 0.0, 0.0, 5e5, 0.0, -20.0, 0.0, 5.2e6, *[0.0] * 7, 1.0)
BY_PARAMETERS = {
    1024: 1, 1025: 1, 1026: "mine", 2048: 4326, 3072: 32767, 3074: 32767, 3075: 1, 3076: 9001,
    3080: 9.0, 3081: 0.0, 3092: 0.9996, 3082: 5e5, 3083: 0.0,
}  # fmt: skip
ALBERS = {
    1024: 1, 1025: 1, 2048: 4326, 3072: 32767, 3074: 32767, 3075: 11, 3076: 9001, 3078: 29.5,
    3079: 45.5, 3080: -96.0, 3081: 23.0,
}  # fmt: skip


def tie(x, y=5.2e6):
    return {**PLACED, "t33922": (0.0, 0.0, 0.0, x, y, 0.0)}


def write(path, keys=KEYS, byteorder="<", minor=0, **tags):
    extra = extra_tags(geotags(keys, minor=minor, **(tags or PLACED)))
    tifffile.imwrite(
        path, np.ones((16, 16), "u1"), extratags=extra, metadata=None, byteorder=byteorder
    )
    return str(path)


SAME = {
    "byte order": {"byteorder": ">"},
    "GeoTIFF 1.1": {"minor": 1},
    "citation": {"keys": {**KEYS, 1026: "another", 3073: "third"}},
    "by parameters": {"keys": BY_PARAMETERS},
    "pixel is point": {
        "keys": {**KEYS, 1025: 2}, "t33550": (10.0, 20.0, 0.0),
        "t33922": (0.0, 0.0, 0.0, 5e5 + 5, 5.2e6 - 10, 0.0),
    },
    "matrix": {"t34264": MATRIX},
    "tie elsewhere": {
        "t33550": (10.0, 20.0, 0.0), "t33922": (3.0, 4.0, 0.0, 5e5 + 30, 5.2e6 - 80, 0.0),
    },
    "a trifle": tie(5e5 + 1e-7),
}  # fmt: skip
OTHER = {
    "zone": ({"keys": {**KEYS, 3072: 32633}}, "EPSG:32633"),
    "half a pixel": (tie(500005.0), "origin 500005"),
    "a hundredth of a pixel": (tie(500000.1), "origin 500000.1"),
    "rows": (tie(5e5, 5.21e6), "5210000"),
    "pixel size": (
        {"t33550": (10.0, 10.0, 0.0), "t33922": PLACED["t33922"]},
        "pixel size 10 x -10",
    ),
    "pixel size by a little": (
        {"t33550": (10.001, 20.0, 0.0), "t33922": PLACED["t33922"]},
        "10.001",
    ),
    "local": ({"keys": {1025: 1}}, "unnamed"),
    "no system": ({"keys": {}}, "no coordinate system"),
    "nothing": ({"keys": {}, "t33550": (0.0, 0.0, 0.0)}, "no georeference"),
}


@pytest.mark.parametrize("what", SAME)
def test_equal_georeferences_in_other_notations_stack(tmp_path, what):
    files = [write(tmp_path / "0.tif"), write(tmp_path / "1.tif", **SAME[what])]
    for order in (files, files[::-1]):
        group = tiffref.scan_sequence(order).group
        assert group["image"].shape == (2, 16, 16)
        assert {"x", "y", "spatial_ref"} <= group.children.keys()
        assert group["image"].attributes["spatial:transform"][0] == pytest.approx(10)


LAEA = {
    1024: 1, 1025: 1, 2048: 4258, 3072: 32767, 3074: 32767, 3075: 10, 3076: 9001, 3088: 10.0,
    3089: 52.0, 3082: 4321000.0, 3083: 3210000.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "keys"),
    [
        (3035, LAEA),
        (3035, {**LAEA, 3073: "ETRS89-extended / LAEA Europe"}),
        (25832, {**KEYS, 3072: 3044}),
        (32661, {**KEYS, 3072: 5041}),
        (31467, {**KEYS, 3072: 5677}),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_systems_that_list_northing_first_are_those_that_list_easting_first(
    tmp_path, code, keys, order
):
    """Rasters have x and y, whichever axis the definition lists first."""
    files = [
        write(tmp_path / "0.tif", {**KEYS, 3072: code}),
        write(tmp_path / "1.tif", keys, order),
    ]
    assert {"x", "y"} <= tiffref.scan_sequence(files).group.children.keys()
    write(tmp_path / "1.tif", {**keys, 3072: 3034})
    with pytest.raises(ManifestMismatch, match="EPSG:3034"):
        tiffref.scan_sequence(files)


def test_a_datum_is_the_ensemble_of_its_name(tmp_path):
    """PROJ writes an ensemble as a datum, even in WKT 2 once it has written it in WKT 1."""
    pyproj = pytest.importorskip("pyproj")
    group = tiffref.scan(write(tmp_path / "a.tif", {**LAEA, 3089: 53.0})).group
    system = pyproj.CRS.from_wkt(group["spatial_ref"].attributes["crs_wkt"]).to_json_dict()

    def located(name, datum, axis=6378137.0):
        ellipsoid = {"name": "A", "semi_major_axis": axis, "inverse_flattening": 298.257222101}
        base = {**system["base_crs"], "datum": None, "datum_ensemble": None}
        base[name] = {**datum, "ellipsoid": ellipsoid}
        base = {key: value for key, value in base.items() if value is not None}
        wkt = pyproj.CRS.from_json_dict({**system, "base_crs": base}).to_wkt()
        assert ("ENSEMBLE" in wkt) == (name == "datum_ensemble")
        mapping = group["spatial_ref"].with_attributes(crs_wkt=wkt)
        return locate(group.with_children({**group.children, "spatial_ref": mapping}))

    members = [{"name": "Frame 1989"}, {"name": "Frame 2020"}]
    ensemble = {"name": "European ensemble", "members": members, "accuracy": "0.1"}
    first = located("datum_ensemble", ensemble)
    assert first.is_at(located("datum", {"type": "GeodeticReferenceFrame", "name": "European"}))
    other = {"type": "GeodeticReferenceFrame", "name": "Other"}
    assert not first.is_at(located("datum", other))
    assert not first.is_at(located("datum_ensemble", ensemble, axis=6378138.0))


@pytest.mark.filterwarnings("ignore::tiffref.errors.MetadataWarning")
@pytest.mark.parametrize("what", OTHER)
def test_a_different_place_is_refused_by_name(tmp_path, what):
    options, named = OTHER[what]
    files = [write(tmp_path / "0.tif"), write(tmp_path / "1.tif", **options)]
    with pytest.raises(ManifestMismatch, match="differ in georeference") as caught:
        tiffref.scan_sequence(files)
    assert named in str(caught.value)
    assert "EPSG:32632, origin 500000, 5200000 metre, pixel size 10 x -20" in str(caught.value)
    first, second = (group["georeference"] for group in caught.value.groups)
    assert first != second


@pytest.mark.parametrize("name", ["control points", "sensor model"])
def test_different_places_in_one_system_are_distinguished(tmp_path, name):
    """Control points and sensor models have too many numbers to show."""
    files = []
    for n in (1.0, 2.0):
        tags = {"t33922": (*[0.0] * 6, 0.0, 9.0, 0.0, n, n, n)}
        if name == "sensor model":
            tags = {"t50844": (n,) * 92}
        files.append(write(tmp_path / f"{n}.tif", **tags))
    with pytest.raises(ManifestMismatch, match=name) as caught:
        tiffref.scan_sequence(files)
    first, second = (group["georeference"] for group in caught.value.groups)
    assert first != second


def test_a_mosaic_accepts_other_names_of_its_system(tmp_path):
    files = [write(tmp_path / "0.tif"), write(tmp_path / "1.tif", BY_PARAMETERS, **tie(5e5 + 160))]
    assert tiffref.scan_sequence(files, mosaic=True).group["image"].shape == (16, 32)
    files[1] = write(tmp_path / "1.tif", {**KEYS, 3072: 32633}, **tie(5e5 + 160))
    with pytest.raises(ManifestMismatch, match=r"EPSG:32633.*EPSG:32632"):
        tiffref.scan_sequence(files, mosaic=True)


def test_appended_files_are_compared_by_meaning(tmp_path):
    write(tmp_path / "a_1.tif")
    write(tmp_path / "a_2.tif", {**KEYS, 1026: "another"})
    write(tmp_path / "a_3.tif", **tie(500005.0))
    document = tmp_path / "a.json"
    tiffref.scan_sequence([tmp_path / "a_1.tif"], pattern="a_{t}.tif").write_fsspec(document)
    with pytest.raises(ManifestMismatch, match="origin 500005"):
        tiffref.append_sequence(document, [tmp_path / "a_3.tif"])
    assert tiffref.append_sequence(document, [tmp_path / "a_2.tif"]).group["image"].shape == (
        2,
        16,
        16,
    )


def test_systems_without_a_code_are_compared_by_parameters(tmp_path):
    def placed(name, **keys):
        changed = {**ALBERS, **{int(key[1:]): value for key, value in keys.items()}}
        return locate(tiffref.scan(write(tmp_path / f"{name}.tif", changed)).group)

    first, named, other = (
        placed("a"),
        placed("b", k1026="mine", k3073="yours"),
        placed("c", k3078=30.0),
    )
    assert first.is_at(named)
    assert not first.is_at(other)
    assert str(first) != str(other)


def test_near_places_become_the_first_of_them():
    places = [
        Location("a", transform=(1, 0, x, 0, -1, 0.0), shape=(9, 9))
        for x in (0.5, 0.5001, 3.0, 0.4999)
    ]
    first = places[0]
    assert unify_locations(places) == [first, first, places[2], first]
