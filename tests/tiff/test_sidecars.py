"""`sidecars`: world files, .aux.xml, .ovr and .msk beside a TIFF, read as GDAL does."""

import json
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
from geotags import PLACED, UTM, extra_tags, geotags

import tiffref
from tiffref.errors import MalformedTiff, MetadataWarning
from tiffref.read import Fetcher, read_array
from tiffref.zarr import ZarrTiffStore

DATA = np.arange(64 * 48, dtype="u2").reshape(64, 48)
WORLD = "10\n0\n0\n-20\n500005\n5199990\n"
TRANSFORM = [10, 0, 5e5, 0, -20, 5.2e6]


def write(path, data=DATA, tags=None, **options):
    extra = extra_tags(tags) if tags else []
    tifffile.imwrite(path, data, extratags=extra, metadata=None, tile=(16, 16), **options)
    return path


def transform(path, **options):
    return tiffref.scan(path, **options).group.attributes.get("spatial:transform")


def by_rasterio(path):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(path) as dataset:
        return list(dataset.transform)[:6]


def test_a_file_without_sidecars_is_unchanged(tmp_path):
    group = tiffref.scan(write(tmp_path / "a.tif")).group
    assert list(group.children) == ["image"]


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("ending", ["tfw", "TFW", "tifw", "wld"])
def test_a_world_file(tmp_path, ending, byteorder):
    path = write(tmp_path / "a.tif", byteorder=byteorder)
    (tmp_path / f"a.{ending}").write_text(WORLD)
    assert transform(path) == by_rasterio(path) == TRANSFORM
    assert transform(path, sidecars=False) is None


def test_a_world_file_of_a_rotated_raster_with_decimal_commas(tmp_path):
    path = write(tmp_path / "a.tiff")
    (tmp_path / "a.tfw").write_text("7,5\n2\n2\n-7,5\n500005\n5199990\n")
    assert transform(path) == by_rasterio(path)


def test_tags_win_over_a_world_file(tmp_path):
    path = write(tmp_path / "a.tif", tags=geotags(UTM, **PLACED))
    (tmp_path / "a.tfw").write_text("1 0 0 -1 7 8")
    assert transform(path) == by_rasterio(path) == TRANSFORM


def test_pixels_of_size_0_do_not_hide_a_world_file(tmp_path):
    path = write(tmp_path / "a.tif", tags={33550: (0.0, 0.0, 0.0), 33922: (0.0,) * 6})
    (tmp_path / "a.tfw").write_text(WORLD)
    assert transform(path) == by_rasterio(path) == TRANSFORM


def test_a_world_file_beside_keys_of_centres(tmp_path):
    path = write(tmp_path / "a.tif", tags=geotags({**UTM, 1025: 2}))
    (tmp_path / "a.tfw").write_text(WORLD)
    assert transform(path) == by_rasterio(path) == TRANSFORM


SENSOR = {
    "LINE_OFF": "31.5", "SAMP_OFF": "23.5 pixels", "LAT_OFF": "41", "LONG_OFF": "+9.25",
    "HEIGHT_OFF": "120", "LINE_SCALE": "32", "SAMP_SCALE": "24", "LAT_SCALE": "0.1",
    "LONG_SCALE": "0.2", "HEIGHT_SCALE": "500", "LINE_NUM_COEFF": " ".join(["0.5"] * 20),
    "LINE_DEN_COEFF": "1" + " 0" * 19, "SAMP_NUM_COEFF": " ".join(["2.5e-1"] * 20),
    "SAMP_DEN_COEFF": "1" + " 0" * 19,
}  # fmt: skip


def write_sensor_model(folder, items):
    text = "".join(f'<MDI key="{key}">{value}</MDI>' for key, value in items.items())
    text = f'<PAMDataset><Metadata domain="RPC">{text}</Metadata></PAMDataset>'
    (folder / "a.tif.aux.xml").write_text(text)


@pytest.mark.parametrize("tags", [None, {50844: (7.0,) * 92}])
def test_a_sensor_model_of_aux_xml(tmp_path, tags):
    rasterio = pytest.importorskip("rasterio")
    path = write(tmp_path / "a.tif", tags={**geotags({}), **tags} if tags else None)
    write_sensor_model(tmp_path, SENSOR)
    found = json.loads(tiffref.scan(path).group["spatial_ref"].attributes["rpcs"])
    with rasterio.open(path) as dataset:
        right = dataset.rpcs.to_dict()
    missing = {"err_bias": None, "err_rand": None}
    unknown = {name: -1.0 for name, value in right.items() if value is None and name in missing}
    assert found == {**right, **unknown}


def test_an_incomplete_sensor_model_of_aux_xml_is_reported(tmp_path):
    path = write(tmp_path / "a.tif")
    write_sensor_model(tmp_path, {**SENSOR, "LAT_OFF": ""})
    with pytest.warns(MetadataWarning, match="RPC model"):
        assert "spatial_ref" not in tiffref.scan(path).group.children


def rpc_text(items, mark=": "):
    lines = []
    for key, value in items.items():
        words = value.split() if key.endswith("COEFF") else []
        numbered = [(f"{key}_{n}", word) for n, word in enumerate(words, 1)] or [(key, value)]
        lines += [f"{name}{mark}{word}" for name, word in numbered]
    return "\r\n".join(lines)


def rpb_text(items):
    lines = ['satId = "QB02";', "BEGIN_GROUP = IMAGE", "\terrBias = 2.5;"]
    for key, value in items.items():
        first, *rest = key.lower().replace("off", "offset").replace("coeff", "coef").split("_")
        words = value.split()
        text = f"(\n{','.join(words)})" if len(words) == 20 else words[0]
        lines.append(f"\t{first}{''.join(map(str.title, rest))} = {text};")
    return "\n".join([*lines, "END_GROUP = IMAGE", "END;"])


@pytest.mark.parametrize("ending", [".RPB", ".rpb", "_RPC.TXT", "_rpc.txt"])
@pytest.mark.parametrize("tags", [None, {50844: (7.0,) * 92}])
@pytest.mark.parametrize("mark", [": ", ":", "="])
def test_a_sensor_model_of_its_own_file(tmp_path, ending, tags, mark):
    rasterio = pytest.importorskip("rasterio")
    path = write(tmp_path / "a.b.tif", tags=tags)
    items = {**SENSOR, "SAMP_NUM_COEFF": " ".join(map(str, range(20)))}
    text = rpb_text(items) if "rpb" in ending.lower() else rpc_text(items, mark)
    (tmp_path / f"a.b{ending}").write_text(text)
    found = json.loads(tiffref.scan(path).group["spatial_ref"].attributes["rpcs"])
    with rasterio.open(path) as dataset:
        right = dataset.rpcs.to_dict()
    assert found == {**right, **{name: -1.0 for name, value in right.items() if value is None}}


def test_an_rpb_file_wins_over_a_text_and_aux_xml(tmp_path):
    path = write(tmp_path / "a.tif")
    write_sensor_model(tmp_path, SENSOR)
    (tmp_path / "a.RPB").write_text(rpb_text({**SENSOR, "LAT_OFF": "42"}))
    (tmp_path / "a_RPC.TXT").write_text(rpc_text({**SENSOR, "LAT_OFF": "43"}))
    found = json.loads(tiffref.scan(path).group["spatial_ref"].attributes["rpcs"])
    assert found["lat_off"] == 42
    (tmp_path / "a.RPB").write_text(rpb_text({**SENSOR, "LAT_OFF": "north"}))
    with pytest.warns(MetadataWarning, match="RPB: the RPC model"):
        found = json.loads(tiffref.scan(path).group["spatial_ref"].attributes["rpcs"])
    assert found["lat_off"] == 43


@pytest.mark.parametrize("text", ["", "1 2 3", "1 0 0 -1 x 7", "0 0 0 0 1 1"])
def test_an_invalid_world_file_is_reported(tmp_path, text):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(text)
    with pytest.warns(MetadataWarning, match="world file"):
        assert transform(path) is None
    with pytest.raises(MalformedTiff, match="world file"):
        tiffref.scan(path, strict=True)


PAM = """<PAMDataset><SRS dataAxisToSRSAxisMapping="1,2">{system}</SRS>
<GeoTransform> 5.0e+05, 10, 0, 5.2e+06, 0, -20</GeoTransform>
<Metadata><MDI key="MADE_BY">A &amp; B</MDI></Metadata>
<Metadata domain="other"><MDI key="HIDDEN">1</MDI></Metadata>
<PAMRasterBand band="1"><Description>height</Description><UnitType>m</UnitType>
<NoDataValue>3</NoDataValue><Offset>2</Offset><Scale>0.5</Scale>
<Metadata><MDI key="STATISTICS_MEAN">9</MDI></Metadata></PAMRasterBand></PAMDataset>"""


@pytest.mark.parametrize("system", ["EPSG:32632", "WKT1", "no code"])
@pytest.mark.parametrize(
    "tags", [None, geotags({**UTM, 1025: 2}, t33550=(1.0, 1.0, 0.0), t33922=(0.0,) * 6)]
)
def test_aux_xml_wins_over_tags(tmp_path, system, tags):
    pyproj = pytest.importorskip("pyproj")
    rasterio = pytest.importorskip("rasterio")
    own = pyproj.CRS("+proj=aea +lat_1=29 +lat_2=45 +lat_0=23 +lon_0=-96 +ellps=GRS80")
    text = {
        "EPSG:32632": system,
        "WKT1": pyproj.CRS(32632).to_wkt("WKT1_GDAL"),
        "no code": own.to_wkt(),
    }
    path = write(tmp_path / "a.tif", tags=tags)
    (tmp_path / "a.tif.aux.xml").write_text(PAM.format(system=text[system].replace('"', "&quot;")))
    group = tiffref.scan(path).group
    with rasterio.open(path) as dataset:
        assert group.attributes["spatial:transform"] == list(dataset.transform)[:6] == TRANSFORM
        assert (dataset.nodata, dataset.scales, dataset.offsets) == (3, (0.5,), (2,))
    crs = pyproj.CRS(group["spatial_ref"].attributes["crs_wkt"])
    assert (
        crs.equals(own, ignore_axis_order=True) if system == "no code" else crs.to_epsg() == 32632
    )
    image = group["image"]
    assert image.fill_value == 3
    expected = {"scale_factor": 0.5, "add_offset": 2.0, "long_name": "height", "units": "m"}
    assert image.attributes.items() >= expected.items()
    assert (image.attributes["MADE_BY"], image.attributes["STATISTICS_MEAN"]) == ("A & B", 9)
    assert "HIDDEN" not in image.attributes


@pytest.mark.parametrize("code", [4979, 4978, 9707, 7415, 5514])
def test_a_system_of_aux_xml_keeps_its_heights(tmp_path, code):
    pyproj = pytest.importorskip("pyproj")
    path = write(tmp_path / "a.tif")
    wkt = pyproj.CRS(code).to_wkt("WKT2_2019").replace('"', "&quot;")
    (tmp_path / "a.tif.aux.xml").write_text(PAM.format(system=wkt))
    group = tiffref.scan(path).group
    assert pyproj.CRS(group["spatial_ref"].attributes["crs_wkt"]) == pyproj.CRS(code)


def test_control_points_of_aux_xml(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = write(tmp_path / "a.tif")
    points = "".join(
        f'<GCP Id="" Pixel="{column}" Line="{row}" X="{5 + column}" Y="{45 - row}"/>'
        for row, column in ((0.5, 0.5), (0.5, 40.5), (60.5, 0.5))
    )
    (tmp_path / "a.tif.aux.xml").write_text(
        f'<PAMDataset><GCPList Projection="EPSG:4326">{points}</GCPList></PAMDataset>'
    )
    tiffref.scan(path).write_fsspec(tmp_path / "a.json")
    pytest.importorskip("rioxarray")
    with (
        rasterio.open(path) as dataset,
        xr.open_dataset(str(tmp_path / "a.json"), engine="kerchunk") as opened,
    ):
        theirs, crs = dataset.gcps
        assert opened.image.rio.crs == crs
        ours = opened.image.rio.get_gcps()
        assert [(p.row, p.col, p.x, p.y) for p in ours] == [
            (p.row, p.col, p.x, p.y) for p in theirs
        ]


@pytest.mark.parametrize(
    ("nodata", "expected"),
    [({1: 3}, 3), ({2: 3}, None), ({3: 3}, None), ({1: 3, 2: 3}, 3), ({1: 3, 2: 4}, 3)],
)
@pytest.mark.parametrize("n_bands", [1, 2])
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_nodata_of_aux_xml_is_that_of_the_band(tmp_path, n_bands, nodata, expected):
    """GDAL ignores bands that the TIFF does not have."""
    rasterio = pytest.importorskip("rasterio")
    shape = DATA.shape if n_bands == 1 else (*DATA.shape, 2)
    path = write(tmp_path / "a.tif", np.ones(shape, "u1"), photometric="minisblack")
    bands = "".join(
        f'<PAMRasterBand band="{band}"><NoDataValue>{number}</NoDataValue></PAMRasterBand>'
        for band, number in nodata.items()
    )
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    with rasterio.open(path) as dataset:
        assert dataset.nodatavals[0] == expected
        is_said = len(set(dataset.nodatavals)) > 1
    with pytest.warns(MetadataWarning, match="bands have") if is_said else nullcontext():
        assert tiffref.scan(path).group["image"].fill_value == expected


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("text", "stored", "expected"),
    [
        ("-1.79769313486232E+308", "FFFFFFFFFFFFEFFF", -sys.float_info.max),
        ("-3.40282346638529E+38", "000000E0FFFFEFC7", float(np.finfo("f4").min)),
        ("3.00000000000000E-01", "343333333333d33f", 0.1 + 0.2),
        ("0.3", None, 0.3),
        ("0.3", "0000", 0.3),
        ("0.3", "no number", 0.3),
    ],
)
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_nodata_of_aux_xml_has_all_digits(tmp_path, text, stored, expected, byteorder):
    """GDAL rounds the text to 15 digits; the first would be infinity."""
    rasterio = pytest.importorskip("rasterio")
    path = write(tmp_path / "a.tif", np.full(DATA.shape, expected), byteorder=byteorder)
    more = "" if stored is None else f' le_hex_equiv="{stored}"'
    nodata = f"<NoDataValue{more}>{text}</NoDataValue>"
    (tmp_path / "a.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{nodata}</PAMRasterBand></PAMDataset>'
    )
    with rasterio.open(path) as dataset:
        assert dataset.nodata == expected
    assert tiffref.scan(path).group["image"].fill_value == expected
    with xr.open_dataset(path, engine="tiffref") as opened:
        assert np.isnan(opened.image).all()


@pytest.mark.parametrize("given", ["<Scale>0.5</Scale>", "<Offset>-1</Offset>", ""])
def test_a_scale_of_aux_xml_replaces_the_offset_too(tmp_path, given):
    rasterio = pytest.importorskip("rasterio")
    items = "".join(
        f'<Item name="{role.upper()}" sample="0" role="{role}">4</Item>'
        for role in ("scale", "offset")
    )
    tags = {**geotags(UTM, **PLACED), 42112: f"<GDALMetadata>{items}</GDALMetadata>"}
    path = write(tmp_path / "a.tif", tags=tags)
    band = f"<PAMRasterBand band='1'>{given}<UnitType>m</UnitType></PAMRasterBand>"
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    found = tiffref.scan(path).group["image"].attributes
    with rasterio.open(path) as dataset:
        assert found.get("scale_factor", 1) == dataset.scales[0]
        assert found.get("add_offset", 0) == dataset.offsets[0]


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("has_world_file", [False, True])
@pytest.mark.parametrize("is_placed", [False, True])
def test_control_points_of_aux_xml_beside_a_transform(tmp_path, kind, has_world_file, is_placed):
    rasterio = pytest.importorskip("rasterio")
    path = write(
        tmp_path / "a.tif", tags=geotags({**UTM, 1025: kind}, **PLACED if is_placed else {})
    )
    points = "".join(f'<GCP Pixel="{n}" Line="{n * n}.5" X="{n}" Y="4"/>' for n in range(3))
    own = "<SRS>EPSG:2056</SRS>" if not is_placed else ""  # GDAL writes a CRS of both
    aux = f'<PAMDataset>{own}<GCPList Projection="EPSG:4326">{points}</GCPList></PAMDataset>'
    (tmp_path / "a.tif.aux.xml").write_text(aux)
    if has_world_file:
        (tmp_path / "a.tfw").write_text(WORLD)
    told = pytest.warns(MetadataWarning, match="control points are ignored")
    with told if is_placed else nullcontext():
        group = tiffref.scan(path).group
    crs_wkt = group["spatial_ref"].attributes["crs_wkt"]
    assert ("UTM" in crs_wkt) == is_placed == ("WGS 84 / UTM" in crs_wkt)
    assert is_placed or 'ID["EPSG",4326]' in crs_wkt
    expected = by_rasterio(path) if is_placed else None
    assert group.attributes.get("spatial:transform") == expected
    if not is_placed:
        found = json.loads(group["spatial_ref"].attributes["gcps"])["features"]
        with rasterio.open(path) as dataset:
            assert [one["properties"]["row"] for one in found] == [
                point.row for point in dataset.gcps[0]
            ]


@pytest.mark.parametrize("place", ["tags", "aux"])
def test_control_points_beside_a_transform_of_aux_xml_are_reported(tmp_path, place):
    """GDAL has both; references only have the transform."""
    points = [(0, 0, 0, 10, 50, 0), (9, 0, 0, 11, 50, 0), (0, 9, 0, 10, 49, 0)]
    ties = {33922: sum(points, ())} if place == "tags" else {}
    path = write(tmp_path / "a.tif", tags=geotags(UTM) | ties)
    placed = "<GeoTransform>500000,10,0,5200000,0,-20</GeoTransform>"
    others = "<GCPList><GCP X='1' Y='2'/></GCPList>" if place == "aux" else ""
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{placed}{others}</PAMDataset>")
    with pytest.warns(MetadataWarning, match="control points are ignored, as it has a transf"):
        assert transform(path) == by_rasterio(path) == TRANSFORM


@pytest.mark.parametrize("kind", ["Area", "Point"])
def test_area_or_point_of_aux_xml(tmp_path, kind):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(WORLD)
    item = f'<Metadata><MDI key="AREA_OR_POINT">{kind}</MDI></Metadata>'
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{item}</PAMDataset>")
    assert tiffref.scan(path).group["image"].attributes["AREA_OR_POINT"] == kind
    assert transform(path) == by_rasterio(path) == TRANSFORM


def test_a_table_of_mapinfo_is_reported(tmp_path):
    """GDAL reads its georeference."""
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tab").write_text("!table")
    with pytest.warns(MetadataWarning, match=r"MapInfo is not read, got .*a\.tab"):
        assert transform(path) is None
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-20\n5\n7\n")
    assert transform(path) is not None


@pytest.mark.parametrize("text", ["", "<PAMDataset", '<!DOCTYPE a [<!ENTITY b "c">]><a/>'])
def test_invalid_aux_xml_is_reported(tmp_path, text):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text(text)
    with pytest.warns(MetadataWarning, match=r"\.aux\.xml"):
        assert list(tiffref.scan(path).group.children) == ["image"]


def with_overviews(path, tags=None, byteorder="<", data=DATA, **options):
    write(path, data, tags, byteorder=byteorder, **options)
    with tifffile.TiffWriter(f"{path}.ovr", byteorder=byteorder) as tiff:
        for n in (2, 4):
            tiff.write(data[::n, ::n], subfiletype=1, tile=(16, 16), metadata=None, **options)
    return path


def values(group, name):
    return read_array(group[name], ..., fetch=Fetcher())


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("layout", ["dataset", "tree"])
def test_overviews_beside(tmp_path, byteorder, layout):
    path = with_overviews(tmp_path / "a.tif", geotags(UTM, **PLACED), byteorder)
    group = tiffref.scan(path, layout=layout).group
    names = {"dataset": ("image", "image_1", "image_2"), "tree": ("0/image", "1/image", "2/image")}
    for n, name in enumerate(names[layout]):
        np.testing.assert_array_equal(values(group, name), DATA[:: 2**n, :: 2**n])
        assert group[name].attributes["spatial:transform"][0] == 10 * 2**n
    assert tiffref.scan(path, level=2).group["image"].shape == (16, 12)
    with pytest.raises(IndexError):
        tiffref.scan(path, level=1, sidecars=False)


def test_overviews_of_colours(tmp_path):
    data = np.stack([DATA, DATA + 1, DATA + 2], -1)
    group = tiffref.scan(with_overviews(tmp_path / "a.tif", data=data, photometric="rgb")).group
    np.testing.assert_array_equal(values(group, "image_1"), data[::2, ::2])


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_overviews_of_float16_that_gdal_wrote_as_float32(tmp_path, byteorder, zarr_format):
    tags = [*geotags(UTM, **PLACED).items(), (42113, "-5")]
    path = write(tmp_path / "a.tif", DATA.astype("f2"), dict(tags), byteorder=byteorder)
    small = DATA[::2, ::2] / np.float32(3)
    tifffile.imwrite(f"{path}.ovr", small, metadata=None, subfiletype=1, byteorder=byteorder)
    tiffref.scan(path).write_fsspec(tmp_path / "a.json", zarr_format=zarr_format)
    with xr.open_dataset(tmp_path / "a.json", engine="tiffref", mask_and_scale=False) as dataset:
        assert dataset.image.dtype == "f2"
        np.testing.assert_array_equal(dataset.image, DATA.astype("f2"))
        np.testing.assert_array_equal(dataset.image_1, small)
        assert dataset.image_1.attrs["_FillValue"] == -5


def test_own_overviews_win(tmp_path):
    path = tmp_path / "a.tif"
    with_overviews(path)
    with tifffile.TiffWriter(path) as tiff:
        for n in (1, 8):
            tiff.write(DATA[::n, ::n], subfiletype=int(n > 1), tile=(16, 16), metadata=None)
    assert sorted(array.shape for _, array in tiffref.scan(path).group.arrays()) == [
        (8, 6),
        (64, 48),
    ]


@pytest.mark.parametrize("ending", ["ovr", "msk"])
def test_sidecars_that_do_not_fit_are_ignored_and_reported(tmp_path, ending):
    path, beside = write(tmp_path / "a.tif"), tmp_path / f"a.tif.{ending}"

    def check(reason):
        with pytest.warns(MetadataWarning, match=reason):
            assert list(tiffref.scan(path).group.children) == ["image"]
        with pytest.raises(MalformedTiff, match=reason):
            tiffref.scan(path, strict=True)

    write(beside, DATA[:9].astype("f4"))
    check("has no (overview|mask) of the image")
    beside.write_bytes(b"no TIFF")
    check("cannot be read")


@pytest.mark.parametrize("ending", ["aux.xml", "ovr"])
def test_sidecars_that_cannot_be_fetched_are_reported(tmp_path, server, ending):
    server.files["/a.tif"] = Path(write(tmp_path / "a.tif")).read_bytes()
    url = f"{server.url}/a.tif"
    tiffref.scan(url, sidecars=True, strict=True)
    server.statuses[f"/a.tif.{ending}"] = 403
    with pytest.warns(MetadataWarning, match="cannot be read"):
        tiffref.scan(url, sidecars=True)
    with pytest.raises(MalformedTiff, match="HTTP status 403"):
        tiffref.scan(url, sidecars=True, strict=True)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("system", ["EPSG:32632", None])
def test_overviews_that_gdal_wrote_band_by_band(tmp_path, dtype, system):
    rasterio = pytest.importorskip("rasterio")
    path, data = tmp_path / "a.tif", np.arange(3 * 96 * 64).reshape(3, 96, 64).astype(dtype)
    place = {"crs": system, "transform": rasterio.Affine(*TRANSFORM)} if system else {}
    how = {"count": 3, "width": 64, "height": 96, "dtype": dtype, "interleave": "pixel"}
    with rasterio.open(path, "w", driver="GTiff", **how, **place) as tiff:
        tiff.write(data)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as tiff:
        tiff.build_overviews([2, 4])
    dims = {n: dict(zip(array.dims, array.shape, strict=True)) for n, array in images(path).items()}
    (band,) = dims["image"].keys() - {"y", "x"}
    assert dims == {
        "image": {"y": 96, "x": 64, band: 3},
        "image_1": {band: 3, "y_1": 48, "x_1": 32},
        "image_2": {band: 3, "y_2": 24, "x_2": 16},
    }
    for level in (1, 2):
        with rasterio.open(path, overview_level=level - 1) as tiff:
            expected, transform = tiff.read(), list(tiff.transform)[:6]
        with xr.open_dataset(path, engine="tiffref", level=level) as dataset:
            found = dataset["image"].transpose(band, "y", "x")
            np.testing.assert_array_equal(found, expected)
            if system:
                assert dataset.attrs["spatial:transform"] == transform
                assert found["y"][0] == transform[5] + transform[4] / 2


def images(path):
    return {n: array for n, array in tiffref.scan(path).group.arrays() if n.startswith("image")}


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
def test_the_classes_of_an_aux_xml(tmp_path, dtype, byteorder):
    rasterio = pytest.importorskip("rasterio")
    path = write(tmp_path / "a.tif", DATA.astype(dtype), byteorder=byteorder)
    entry = '<Entry c1="{}" c2="2" c3="255" c4="255"/>'
    band = "<PAMRasterBand band='{}'>{}<ColorTable>{}</ColorTable></PAMRasterBand>"
    names = "<CategoryNames><Category>no data</Category><Category>forest</Category></CategoryNames>"
    aux = tmp_path / "a.tif.aux.xml"

    def attributes(band_number, *reds):
        one = band.format(band_number, names, "".join(map(entry.format, reds)))
        aux.write_text(f"<PAMDataset>{one}</PAMDataset>")
        return images(path)["image"].attributes

    found = attributes(1, 1, 16)
    with rasterio.open(path) as tiff:
        expected = ["#{:02x}{:02x}{:02x}".format(*color) for color in tiff.colormap(1).values()]
    assert found["color_table"] == expected == ["#0102ff", "#1002ff"]
    assert found["color_interpretation"] == "palette"
    assert found["category_names"] == ["no data", "forest"]
    assert xr.open_dataset(path, engine="tiffref")["image"].attrs["category_names"][1] == "forest"
    assert not {"color_table", "category_names"} & attributes(2, 1, 16).keys()  # of no band here
    for wrong in ("256", "-1", "red", "1e999"):
        with pytest.warns(MetadataWarning, match="color table"):
            assert "color_table" not in attributes(1, wrong)


def test_files_beside_a_signed_address(tmp_path, server):
    path = write(tmp_path / "a.tif")
    server.files = {"/a.tif?sig=secret": path.read_bytes(), "/a.tfw?sig=secret": WORLD.encode()}
    url = f"{server.url}/a.tif?sig=secret"
    assert transform(url, sidecars=True, strict=True) == TRANSFORM


def test_an_invalid_geotransform(tmp_path):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><GeoTransform>1, 2</GeoTransform></PAMDataset>"
    )
    with pytest.warns(MetadataWarning, match="six numbers"):
        assert transform(path) is None


def test_a_mask_beside(tmp_path):
    path = with_overviews(tmp_path / "a.tif", geotags(UTM, **PLACED))
    with tifffile.TiffWriter(f"{path}.msk") as tiff:
        for n in (1, 2, 4):
            mask = (DATA[::n, ::n] > 9).astype("u1") * 255
            tiff.write(mask, subfiletype=int(n > 1), tile=(16, 16), metadata=None)
    group = tiffref.scan(path).group
    np.testing.assert_array_equal(values(group, "mask"), (DATA > 9) * 255)
    assert group["mask"].dims == group["image"].dims
    assert group["mask_1"].dims == group["image_1"].dims
    assert group["mask"].attributes["role"] == "mask"


def test_overviews_of_a_mask_beside(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    how = {"count": 1, "width": 48, "height": 64, "dtype": "uint16", "crs": "EPSG:32632"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False, TIFF_USE_OVR=True),
        rasterio.open(
            path, "w", driver="GTiff", transform=rasterio.Affine(*TRANSFORM), **how
        ) as new,
    ):
        new.write(DATA, 1)
        new.write_mask(DATA > 1000)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as target:
        target.build_overviews([2, 4])
    assert (tmp_path / "a.tif.msk.ovr").exists()
    group = tiffref.scan(path, strict=True).group
    for level in (1, 2):
        with rasterio.open(path, overview_level=level - 1) as source:
            expected = source.read_masks(1)
        mask = group[f"mask_{level}"]
        assert mask.dims == group[f"image_{level}"].dims
        np.testing.assert_array_equal(values(group, f"mask_{level}"), expected)


def test_sidecars_from_every_entry_point(tmp_path, capsys):
    from tiffref.cli import main

    path = with_overviews(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(WORLD)
    for sidecars, n_levels in ((None, 3), (True, 3), (False, 1)):
        with xr.open_dataset(path, engine="tiffref", sidecars=sidecars) as dataset:
            assert len(dataset.data_vars) == n_levels
            assert ("x" in dataset.coords) == (n_levels > 1)
        with ZarrTiffStore(path, sidecars=sidecars) as store:
            assert ("image_2/.zarray" in store) == (n_levels > 1)
            np.testing.assert_array_equal(store[...], DATA)
        many = tiffref.scan_sequence([path, path], sidecars=sidecars).group
        assert ("image_2" in many.children) == (n_levels > 1)
        flags = {None: [], True: ["--sidecars"], False: ["--no-sidecars"]}[sidecars]
        output = tmp_path / f"{sidecars}.json"
        for command in ("scan", "stack"):
            assert main([command, str(path), *flags, "-o", str(output)]) == 0
            assert ("image_2" in tiffref.References.open(output).group.children) == (n_levels > 1)
    with xr.open_datatree(path, engine="tiffref") as tree:
        assert set(tree.children) == {"0", "1", "2"}


def test_remote_sidecars_are_fetched_only_on_request(tmp_path, server):
    path = with_overviews(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(WORLD)
    for name in ("a.tif", "a.tif.ovr", "a.tfw"):
        server.files[f"/{name}"] = (tmp_path / name).read_bytes()
    url = f"{server.url}/{Path(path).name}"
    assert list(tiffref.scan(url).group.children) == ["image"]
    assert not [one for one in server.requests if "tfw" in str(one) or "ovr" in str(one)]
    group = tiffref.scan(url, sidecars=True).group
    assert {"image", "image_1", "image_2", "x", "y"} <= group.children.keys()
    np.testing.assert_array_equal(values(group, "image_1"), DATA[::2, ::2])


DOORS = {
    "path": lambda path, keep: tiffref.scan(path),
    "url": lambda path, keep: tiffref.scan(f"file://{path}"),
    "series": lambda path, keep: tiffref.scan(path, series=-2),
    "level": lambda path, keep: tiffref.scan(path, level=0),
    "page": lambda path, keep: tiffref.scan(path, key=0),
    "pages": lambda path, keep: tiffref.scan(path, key=slice(1)),
    "plane": lambda path, keep: tiffref.scan(path, series=0, key=[0]),
    "file": lambda path, keep: tiffref.scan(keep(path.open("rb"))),
    "tifffile": lambda path, keep: tiffref.scan(keep(tifffile.TiffFile(path))),
    "its page": lambda path, keep: tiffref.scan(keep(tifffile.TiffFile(path)).pages[0]),
    "its series": lambda path, keep: tiffref.scan(keep(tifffile.TiffFile(path)).series[0]),
}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("door", DOORS)
def test_sidecars_describe_the_first_image_however_it_is_selected(tmp_path, door, byteorder):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        for image in (DATA, DATA[:20, :30]):
            tif.write(image, metadata=None, photometric="minisblack")
    band = '<PAMRasterBand band="1"><NoDataValue>3</NoDataValue><Scale>0.5</Scale></PAMRasterBand>'
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    (tmp_path / "a.tfw").write_text(WORLD)
    tifffile.imwrite(tmp_path / "a.tif.msk", DATA, metadata=None)
    with ExitStack() as stack:
        references = DOORS[door](path, stack.enter_context)
    image = references.group["image"]
    assert (image.fill_value, image.attributes["scale_factor"]) == (3, 0.5)
    assert "x" in references.group.children
    is_page = door in ("page", "pages", "plane", "its page")
    assert ("mask" in references.group.children) == (not is_page)
    for other in ({"key": 1}, {"series": 1}, {"series": -1}, {"sidecars": False}):
        image = tiffref.scan(path, **other).group["image"]
        assert image.fill_value is None
        assert "scale_factor" not in image.attributes
