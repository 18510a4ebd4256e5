"""What a scan gives each array: names, coordinates, attributes, and what a defect costs."""

import json
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import MalformedTiff, MetadataWarning
from tiffref.metadata.calibration import Calibration, Channel
from tiffref.metadata.describe import channel_names, physical_coordinates
from tiffref.read import Fetcher, read_array

from .geotags import PLACED, UTM, extra_tags, geotags, write_geotiff


def values(array):
    """Read a whole array."""
    return read_array(array, ..., fetch=Fetcher())


def write_pyramid(path, tags=None, mask=False, **options):
    extra = extra_tags(tags or geotags(UTM, **PLACED))
    data = np.arange(64 * 48, dtype="u2").reshape(64, 48)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(data, extratags=extra, metadata=None, tile=(16, 16), **options)
        if mask:
            tiff.write(data > 9, photometric=4, subfiletype=4, metadata=None, tile=(16, 16))
        for n in (2, 4):
            tiff.write(data[::n, ::n], subfiletype=1, metadata=None, tile=(16, 16))
    return path


def test_a_geotiff_has_coordinates_and_a_system(tmp_path):
    pyproj = pytest.importorskip("pyproj")
    path = write_geotiff(tmp_path / "a.tif", geotags(UTM, **PLACED))
    group = tiffref.scan(path).group
    image = group["image"]
    assert image.dims == ("y", "x")
    assert image.attributes["grid_mapping"] == image.attributes["coordinates"] == "spatial_ref"
    assert values(group["x"]).tolist() == [500005.0 + 10 * n for n in range(8)]
    assert values(group["y"]).tolist() == [5199990.0 - 20 * n for n in range(6)]
    assert group["x"].attributes["standard_name"] == "projection_x_coordinate"
    reference = group["spatial_ref"].attributes
    assert reference["GeoTransform"] == "500000.0 10.0 0.0 5200000.0 0.0 -20.0"
    assert reference["grid_mapping_name"] == "transverse_mercator"
    assert pyproj.CRS(reference["crs_wkt"]) == pyproj.CRS(32633)
    assert group.attributes["proj:code"] == "EPSG:32633"
    assert group.attributes["spatial:bbox"] == [500000.0, 5199880.0, 500080.0, 5200000.0]
    assert [c["name"] for c in group.attributes["zarr_conventions"]] == ["proj", "spatial"]


@pytest.mark.parametrize(("shape", "planar", "dims"), [
    ((6, 8, 3), "contig", ("y", "x", "band")), ((3, 6, 8), "separate", ("band", "y", "x")),
])  # fmt: skip
def test_samples_of_a_geotiff_are_the_band_dimension(tmp_path, shape, planar, dims):
    tags = geotags(UTM, **PLACED)
    path = write_geotiff(
        tmp_path / "a.tif", tags, shape, planarconfig=planar, photometric="minisblack"
    )
    group = tiffref.scan(path).group
    assert group["image"].dims == dims
    assert values(group["band"]).tolist() == [1, 2, 3]


def test_overviews_have_coordinates_of_their_own(tmp_path):
    group = tiffref.scan(write_pyramid(tmp_path / "a.tif")).group
    assert group["image_1"].dims == ("y_1", "x_1")
    assert values(group["x_1"])[:2].tolist() == [500010.0, 500030.0]
    layout = group.attributes["multiscales"]["layout"]
    assert [one["asset"] for one in layout] == ["image", "image_1", "image_2"]
    assert layout[1]["transform"]["scale"] == [2.0, 2.0]


def test_a_dataset_has_one_grid_mapping(tmp_path):
    group = tiffref.scan(write_pyramid(tmp_path / "a.tif")).group
    mappings = {name for name in group.children if name.startswith("spatial_ref")}
    assert mappings == {group[f"image{n}"].attributes["grid_mapping"] for n in ("", "_1", "_2")}
    # that of one level would be wrong for the others
    assert "GeoTransform" not in group["spatial_ref"].attributes
    alone = tiffref.scan(tmp_path / "a.tif", level=1).group["spatial_ref"].attributes
    assert alone["GeoTransform"].split()[1] == "20.0"


def test_levels_without_coordinates_have_a_transformation_each(tmp_path):
    turned = (7.0, 7.0, 0.0, 5e5, 7.0, -7.0, 0.0, 5.2e6, *[0.0] * 7, 1.0)
    path = write_pyramid(tmp_path / "a.tif", geotags(UTM, t34264=turned))
    group = tiffref.scan(path).group
    steps = [
        float(group[group[name].attributes["grid_mapping"]].attributes["GeoTransform"].split()[1])
        for name in ("image", "image_1", "image_2")
    ]
    assert steps == [7.0, 14.0, 28.0]


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (2, 40)])
def test_levels_of_one_row_or_column_have_a_transformation_each(tmp_path, shape):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for n in (1, 2, 4):
            own = [max(size // n, 1) for size in shape]
            extra = [] if n > 1 else extra_tags(geotags(UTM, **PLACED))
            writer.write(
                np.zeros(own, "u1"), subfiletype=int(n > 1), extratags=extra, metadata=None
            )
    group = tiffref.scan(tmp_path / "a.tif").group
    for name in ("image", "image_1", "image_2"):
        image = group[name]
        system, place = (
            group[image.attributes["grid_mapping"]],
            image.attributes["spatial:transform"],
        )
        if 1 in image.shape:
            c, a, b, f, d, e = map(float, system.attributes["GeoTransform"].split())
            assert [a, b, c, d, e, f] == place
    # of several grid mappings rioxarray takes the one that the dataset names
    assert group.attributes["grid_mapping"] == "spatial_ref"


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("scale", [0.5, 1.0, 0.0])
def test_heights_have_scale_and_offset_in_the_georeference(tmp_path, minor, samples, scale):
    rasterio = pytest.importorskip("rasterio")
    tags = geotags(
        {**UTM, 4096: 5703}, minor=minor, t33550=(10.0, 20.0, scale),
        t33922=(0.0, 0.0, 3.0 if scale else 0.0, 5e5, 5.2e6, 5.0 if scale else 0.0),
    )  # fmt: skip
    path = write_geotiff(
        tmp_path / "a.tif", tags, (6, 8, 2)[: samples + 1], photometric="minisblack",
        planarconfig="contig" if samples > 1 else None,
    )  # fmt: skip
    found = tiffref.scan(path).group["image"].attributes
    with rasterio.open(path) as dataset:
        assert found.get("scale_factor", 1.0) == dataset.scales[0]
        assert found.get("add_offset", 0.0) == dataset.offsets[0]


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize(
    "keys",
    [{4096: 5703}, {4096: 6360}, {4096: 32767, 4099: 9003}, {4099: 9002}, {4098: 5103, 4099: 9002},
     {4097: "sea level"}, {4097: "sea level", 4099: 9001}, {4096: 5703, 4099: 9003}, {}],
)  # fmt: skip
def test_heights_have_the_unit_of_rasterio(tmp_path, keys, minor, byteorder):
    rasterio = pytest.importorskip("rasterio")
    tags = geotags({**UTM, **keys}, minor=minor, **PLACED)
    path = write_geotiff(tmp_path / "a.tif", tags, byteorder=byteorder)
    group = tiffref.scan(path, strict=True).group
    with rasterio.open(path) as dataset:
        assert group["image"].attributes.get("units") == dataset.units[0]
        is_compound = "VERT_CS" in dataset.crs.to_wkt() or "VERTCRS" in dataset.crs.to_wkt()
    assert ("VERTCRS" in group["spatial_ref"].attributes["crs_wkt"]) == is_compound


@pytest.mark.parametrize("units", [("m", ""), ("", "K"), ("m", "m"), ("", "")])
def test_bands_without_a_unit_have_that_of_heights(tmp_path, units):
    rasterio = pytest.importorskip("rasterio")
    items = "".join(
        f'<Item name="UNITTYPE" sample="{n}" role="unittype">{unit}</Item>' if unit else ""
        for n, unit in enumerate(units)
    )
    tags = geotags({**UTM, 4096: 6360}, minor=1, **PLACED)
    tags |= {42112: f"<GDALMetadata>{items}</GDALMetadata>"} if items else {}
    path = write_geotiff(tmp_path / "a.tif", tags, (2, 6, 8), photometric="minisblack",
                         planarconfig="separate")  # fmt: skip
    found = tiffref.scan(path).group["image"].attributes["units"]
    with rasterio.open(path) as dataset:
        assert ([found] * 2 if isinstance(found, str) else found) == [*dataset.units]


def test_a_vertical_code_of_geotiff_1_0_is_metres(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", geotags({**UTM, 4096: 5103}, **PLACED))
    assert tiffref.scan(path, strict=True).group["image"].attributes["units"] == "metre"


def test_images_of_other_systems_have_a_grid_mapping_each(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for code, size in ((32633, 6), (32634, 7)):
            tags = geotags({**UTM, 3072: code}, **PLACED)
            writer.write(np.zeros((size, size), "u1"), extratags=extra_tags(tags), metadata=None)
    group = tiffref.scan(tmp_path / "a.tif").group
    found = [
        group[group[name].attributes["grid_mapping"]].attributes["projected_crs_name"]
        for name in ("image", "image_s1")
    ]
    assert found == ["WGS 84 / UTM zone 33N", "WGS 84 / UTM zone 34N"]


def test_an_overview_read_alone_is_georeferenced(tmp_path):
    group = tiffref.scan(write_pyramid(tmp_path / "a.tif"), level=1).group
    assert group["image"].dims == ("y", "x")
    assert values(group["x"])[:2].tolist() == [500010.0, 500030.0]


def test_a_tree_has_plain_names_in_a_group_for_each_level(tmp_path):
    references = tiffref.scan(write_pyramid(tmp_path / "a.tif"), layout="tree")
    assert list(references.group.children) == ["0", "1", "2"]
    assert references.group["1/image"].dims == ("y", "x")
    assert set(references.group["1"].children) == {"image", "y", "x", "spatial_ref"}
    assert [one["path"] for one in references.series[0]["levels"]] == [
        "0/image", "1/image", "2/image"
    ]  # fmt: skip


def test_a_mask_lies_on_the_image(tmp_path):
    references = tiffref.scan(write_pyramid(tmp_path / "a.tif", mask=True))
    mask = references.group["mask"]
    assert mask.dims == references.group["image"].dims == ("y", "x")
    assert mask.attributes["role"] == "mask"
    assert mask.attributes["grid_mapping"] == "spatial_ref"


@pytest.mark.filterwarnings("ignore")  # of affine, in rioxarray
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("u1", "7"),
        ("u1", "-9999"),
        ("u1", "256"),
        ("i2", "nan"),
        ("u2", "-1"),
        ("i2", "1e10"),
        ("f4", "nan"),
        ("c8", "1e300"),
    ],
)
def test_nodata_outside_the_type_breaks_no_reader(tmp_path, dtype, text, byteorder):
    rioxarray = pytest.importorskip("rioxarray")
    xr = pytest.importorskip("xarray")
    tags = geotags(UTM, **PLACED) | {42113: text}
    path = write_geotiff(tmp_path / "a.tif", tags, dtype=dtype, byteorder=byteorder)
    tiffref.scan(path).write_fsspec(tmp_path / "a.json")
    for masked in (False, True):
        with rioxarray.open_rasterio(path, masked=masked) as array:
            expected = array.rio.nodata
        for source, engine in ((path, "tiffref"), (str(tmp_path / "a.json"), "kerchunk")):
            with xr.open_dataset(source, engine=engine, mask_and_scale=masked) as dataset:
                np.testing.assert_equal(dataset.image.rio.nodata, expected)
                dataset.image.rio.reproject("EPSG:32634")


@pytest.mark.parametrize(
    ("dtype", "text", "filled"),
    [
        ("u1", "7", 7),
        ("u1", "300", 255),
        ("u1", "3.7", 4),
        ("i2", "-1e9", -32768),
        ("u1", "-1", 0),
        ("i2", "nan", 0),
        ("u8", "-9999", 2**64 - 9999),
        ("f2", "1e9", np.inf),
    ],
)
def test_missing_tiles_have_the_sample_nearest_to_nodata(tmp_path, dtype, text, filled):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter([np.ones((16, 16), dtype), None]), shape=(16, 32), dtype=dtype, tile=(16, 16),
            extratags=extra_tags({42113: text}), metadata=None,
        )  # fmt: skip
    is_said = filled not in (0, 7)
    with pytest.warns(MetadataWarning, match="segments read as") if is_said else nullcontext():
        image = tiffref.scan(path).group["image"]
    np.testing.assert_array_equal(values(image), np.repeat([[1, filled]], 16, 0).repeat(16, 1))


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize(("full", "own"), [("7", "9"), ("7", ""), ("", "9"), ("300", "9")])
def test_missing_tiles_of_an_overview_have_its_own_nodata(tmp_path, full, own, byteorder):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, byteorder=byteorder) as tiff:
        for n, (size, text) in enumerate(((64, full), (32, own))):
            tiles = [np.full((16, 16), 3, "u1") for _ in range((size // 16) ** 2)]
            tiff.write(
                iter([*tiles[1:], None]), shape=(size, size), dtype="u1", tile=(16, 16),
                extratags=extra_tags({42113: text} if text else {}), metadata=None, subfiletype=n,
            )  # fmt: skip
    with pytest.warns(MetadataWarning, match="read as") if full == "300" else nullcontext():
        group = tiffref.scan(path).group
    expected = int(own or full)
    assert group["image_1"].fill_value == values(group["image_1"])[-1, -1] == expected


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(
    ("text", "filled", "is_nodata"),
    [("-9999", -9999, True), ("1e12", 32767, True), ("-40000", -32768, True), ("nan", 0, False)],
)
def test_missing_tiles_of_complex_integers_have_what_these_can_have(
    tmp_path, text, filled, is_nodata
):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    size = {"width": 32, "height": 16, "count": 1, "dtype": "complex_int16", "nodata": -9999}
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True}
    with rasterio.open(path, "w", driver="GTiff", **size, **tiles) as target:
        target.write(np.ones((1, 16, 16), "c8"), window=((0, 16), (0, 16)))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[42113].overwrite(text)
    is_said = text in ("1e12", "-40000")
    with pytest.warns(MetadataWarning, match="segments read as") if is_said else nullcontext():
        references = tiffref.scan(path)
    with rasterio.open(path) as source:
        expected = source.read(1)
    assert expected[0, 16] == filled
    assert references.group["image"].fill_value == (filled if is_nodata else None)
    for zarr_format in (2, 3):
        again = tiffref.References.from_kerchunk(references.to_kerchunk(zarr_format=zarr_format))
        np.testing.assert_array_equal(values(again.group["image"]), expected)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize(("bits", "n"), [(8, 765), (8, 48), (16, 768), (8, 768)])
def test_a_color_map_of_another_size_is_reported(tmp_path, bits, n, byteorder):
    path = tmp_path / "a.tif"
    dtype = "u2" if bits == 16 else "u1"
    tifffile.imwrite(
        path, np.zeros((8, 8), dtype), photometric=3, metadata=None, byteorder=byteorder,
        colormap=np.zeros((3, 1 << bits), "u2"),
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags[320].overwrite(list(range(n)), dtype="H")
    is_right = (bits, n) == (8, 768)
    with nullcontext() if is_right else pytest.warns(MetadataWarning, match="does not match"):
        image = tiffref.scan(path).group["image"]
    assert ("color_table" in image.attributes) == is_right


def test_nodata_is_the_fill_value_unless_another_is_given(tmp_path):
    path = write_geotiff(tmp_path / "b.tif", {42113: "7"})
    assert tiffref.scan(path).group["image"].fill_value == 7
    assert tiffref.scan(path, fillvalue=3).group["image"].fill_value == 3


def test_every_kept_tag_is_in_one_attribute_of_the_full_array(tmp_path):
    path = write_pyramid(
        tmp_path / "a.tif", description="hello", software="me", datetime="2020:01:02 03:04:05"
    )
    group = tiffref.scan(path).group
    tags = json.loads(group["image"].attributes["tiff_tags"])
    assert tags["ImageDescription"] == "hello"
    assert tags["ModelPixelScale"] == [10.0, 20.0, 0.0]
    assert tags["TileWidth"] == 16
    assert group["image"].attributes["TIFFTAG_SOFTWARE"] == "me"
    assert group["image"].attributes["date_created"] == "2020-01-02T03:04:05"
    assert "tiff_tags" not in group["image_1"].attributes


def test_zattrs_win_over_what_the_file_says(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", geotags(UTM, **PLACED))
    found = tiffref.scan(path, zattrs={"proj:code": "EPSG:1", "mine": [1, 2]}).group.attributes
    assert found["proj:code"] == "EPSG:1"
    assert found["mine"] == [1, 2]


def test_long_coordinates_stay_small(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", geotags(UTM, **PLACED), (1, 100_000))
    references = tiffref.scan(path)
    assert len(references.to_kerchunk()["refs"]["x/0"]) < 24_000
    assert values(references.group["x"])[-1] == 500005.0 + 10 * 99_999


DEFECTS = {
    "keys": (geotags({**UTM, 3072: 31000}, **PLACED), "ProjectedCRS"),
    "xml": ({42112: "<GDALMetadata>"}, "GDAL_METADATA"),
    "scale": (geotags(UTM, t33550=(np.inf, 1.0, 0.0), t33922=(0.0,) * 6), "ModelPixelScale"),
    "nodata": ({42113: "no"}, "GDAL_NODATA"),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_defective_metadata_never_hides_pixels(tmp_path, case):
    pytest.importorskip("pyproj")
    tags, key = DEFECTS[case]
    path = write_geotiff(tmp_path / "a.tif", tags)
    with pytest.warns(MetadataWarning, match=rf"a\.tif.*{key}") as caught:
        group = tiffref.scan(path).group
    assert len(caught) == 1
    np.testing.assert_array_equal(values(group["image"]), tifffile.imread(path))
    code = {"keys": "GeoKeyDirectory", "xml": key, "scale": key, "nodata": key}[case]
    kept = json.loads(group["image"].attributes["tiff_tags"])
    assert code in kept
    with pytest.raises(MalformedTiff, match=key):
        tiffref.scan(path, strict=True)


def test_without_pyproj_the_keys_are_kept_and_reported(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", geotags(UTM, **PLACED))
    script = f"""
import sys, warnings
sys.modules["pyproj"] = None
import tiffref
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    group = tiffref.scan({str(path)!r}, strict=True).group
assert [type(w.message).__name__ for w in caught] == ["MetadataWarning"], caught
assert "tiffref[geo]" in str(caught[0].message)
assert '"ProjectedCRS": 32633' in group["image"].attributes["geo_keys"]
assert group["x"].shape == (8,)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_plain_scan_imports_neither_pyproj_nor_xarray(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", {})
    script = (
        f"import sys, tiffref; tiffref.scan({str(path)!r}); "
        "assert not {'pyproj', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_ome_tiff_has_channels_sizes_and_times(tmp_path):
    metadata = {
        "axes": "TCYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "TimeIncrement": 3.0,
        "Channel": {"Name": ["DAPI", "GFP"]},
    }  # fmt: skip
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, np.zeros((3, 2, 8, 8), "u2"), metadata=metadata, photometric="minisblack"
    )
    group = tiffref.scan(path).group
    assert values(group["t"]).tolist() == [0, 3, 6]
    assert values(group["c"]).tolist() == ["DAPI", "GFP"]
    assert values(group["y"])[:2].tolist() == [0, 0.5]
    assert group["x"].attributes["units"] == "micrometer"
    (entry,) = group.attributes["multiscales"]
    assert [axis["name"] for axis in entry["axes"]] == ["t", "c", "y", "x"]
    assert [c["label"] for c in group.attributes["omero"]["channels"]] == ["DAPI", "GFP"]


def test_an_imagej_stack_has_the_size_of_its_voxels(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((3, 8, 8), "u1"), imagej=True, resolution=(4, 2),
        metadata={"axes": "ZYX", "spacing": 2.5, "unit": "um"},
    )  # fmt: skip
    group = tiffref.scan(path).group
    assert values(group["z"]).tolist() == [0, 2.5, 5]
    assert values(group["x"])[1] == 0.25
    assert values(group["y"])[1] == 0.5


def test_a_plain_picture_has_no_coordinates(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8, 3), "u1"), resolution=(72, 72), resolutionunit=2)
    group = tiffref.scan(path).group
    assert list(group.children) == ["image"]
    assert group["image"].dims == ("y", "x", "s")
    assert dict(group.attributes) == {}


def test_channel_names_are_a_coordinate_only_if_each_has_its_own():
    a, b = Channel("a"), Channel("b")
    assert channel_names((a, b), 2) == ["a", "b"]
    assert channel_names((a, a), 2) is None
    assert channel_names((a, Channel()), 2) is None
    assert channel_names((a, b), 3) is None


def test_only_known_scales_and_times_are_coordinates():
    calibration = Calibration({"X": 0.5}, {"X": "micrometer"}, times=(0.0, 2.0, 5.0))
    found = physical_coordinates("TYX", (3, 2, 4), (3, 2, 8), calibration)
    assert found["T"][0].tolist() == [0, 2, 5]
    assert found["X"][0].tolist() == [0.25, 1.25, 2.25, 3.25]
    assert found["X"][1] == {"axis": "X", "units": "micrometer"}
    assert "Y" not in found
