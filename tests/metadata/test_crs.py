"""`crs`: GeoKeys to coordinate systems, compared with the same system said in other words."""

import pytest

import tiffref
from tiffref.errors import MalformedTiff, MetadataWarning
from tiffref.metadata.crs import build_crs
from tiffref.metadata.geokeys import GeoKeys, parse_geokeys
from tiffref.metadata.report import Recorder, Report

from .geotags import PLACED, geotags, write_geotiff

pyproj = pytest.importorskip("pyproj")

WGS84 = {2048: 4326}
SPHERE = {2048: 32767, 2050: 32767, 2054: 9102, 2057: 6378137.0, 2059: 298.257223563}


def build(keys, strict=True, **tags):
    return build_crs(parse_geokeys(geotags(keys, **tags)), Report("a.tif", strict))


@pytest.mark.parametrize("code", [32633, 3857, 2263, 27700, 2056, 5041])
def test_a_projected_code(code):
    assert build({1024: 1, 3072: code}) == pyproj.CRS(code)


@pytest.mark.parametrize(
    "keys", [{2048: 4326}, {2048: 4978}, {2048: 32767, 2050: 6326, 2052: 9001}, {2050: 6326}]
)
def test_a_geocentric_system_is_not_one_of_degrees(keys):
    assert build({1024: 3, **keys}).equals(pyproj.CRS(4978))


@pytest.mark.parametrize("code", [3031, 32633, 9707])
def test_another_code_of_a_geocentric_model(code):
    """As in the key of a geographic model, where GDAL accepts it."""
    of_models = [build_crs(GeoKeys({1024: n, 2048: code}, (1, 1)), Recorder()) for n in (2, 3)]
    assert of_models == [pyproj.CRS(code)] * 2


def test_a_datum_of_heights_is_none_of_places():
    keys = {1024: 2, 2048: 32767, 2050: 1027, 2051: 8903}
    assert build_crs(GeoKeys(keys, (1, 1)), (report := Recorder())) is None
    assert report.recorded


@pytest.mark.parametrize("unit_key", [2052, 3076])
def test_a_user_defined_geocentric_system(unit_key):
    crs = build({1024: 3, 1026: "mine", **SPHERE, unit_key: 9002})
    assert crs.is_geocentric
    assert crs.name == "mine"
    assert [axis.unit_name for axis in crs.axis_info] == ["foot"] * 3
    assert crs.ellipsoid.semi_major_metre == 6378137


@pytest.mark.parametrize("datum", [6326, 6269, 6807])
@pytest.mark.parametrize(("code", "longitude"), [(8901, 0), (8903, 2.5969213), (32767, 2.5)])
def test_a_prime_meridian_beside_the_code_of_a_datum(datum, code, longitude):
    keys = {2048: 32767, 2050: datum, 2051: code, 2054: 9102, 2061: 2.5}
    meridian = build({1024: 2, **keys}).prime_meridian
    assert meridian.longitude == longitude


@pytest.mark.parametrize("unit", [{}, {2054: 9105}])
def test_angles_are_in_the_unit_of_the_geographic_system(unit):
    projection = {3072: 32767, 3074: 32767, 3075: 1, 3080: 10.0, 3081: 50.0}
    crs = build({1024: 1, 2048: 4807, **unit, **projection})
    latitude, longitude = crs.coordinate_operation.params[:2]
    assert (latitude.value, longitude.value) == pytest.approx((45, 9))


def test_a_projection_without_a_model_is_not_in_degrees():
    keys = {2048: 4326, 3072: 32767, 3074: 32767, 3075: 1, 3080: 9.0}
    assert build(keys).type_name == "Engineering CRS"


KEYS_OF = {
    "PROJECTED_CRS": lambda code: {1024: 1, 3072: code},
    "GEOGRAPHIC_2D_CRS": lambda code: {1024: 2, 2048: code},
    "GEOGRAPHIC_3D_CRS": lambda code: {1024: 2, 2048: code},
    "GEOCENTRIC_CRS": lambda code: {1024: 3, 2048: code},
    "VERTICAL_CRS": lambda code: {1024: 1, 3072: 32633, 4096: code},
}


@pytest.mark.parametrize("kind", KEYS_OF)
def test_each_epsg_code_gives_itself_or_its_successor(kind):
    known = pyproj.database.query_crs_info(auth_name="EPSG", allow_deprecated=True)
    codes = {int(one.code): one.deprecated for one in known if one.type.name == kind}
    built = {
        code: build(KEYS_OF[kind](code), minor=1) for code in codes if code < 32767 or code > 32768
        if code < 65535
    }  # fmt: skip
    for code, crs in built.items():
        crs = crs.sub_crs_list[1] if kind == "VERTICAL_CRS" else crs
        right = {("EPSG", str(code))}
        if codes[code]:
            successors = pyproj.CRS(code).get_non_deprecated()
            right |= {one.to_authority(min_confidence=100) for one in successors}
            # one successor is taken; of several, none is the right one
            is_replaced = len(successors) == 1 and not kind.startswith("GEO")
            right -= {("EPSG", str(code))} if is_replaced else set()
            if is_replaced and crs.axis_info[0] != successors[0].axis_info[0]:
                continue  # it has the unit of the withdrawn code
        assert crs.to_authority(min_confidence=100) in right, code
    assert any(codes.values())


@pytest.mark.parametrize("code", [3785, 27582, 2400, 2036, 3787, 3366, 10480, 26814, 26846])
def test_a_withdrawn_code_is_where_rasterio_has_it(code, tmp_path):
    rasterio = pytest.importorskip("rasterio.warp") and pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", geotags({1024: 1, 3072: code}, **PLACED))
    with rasterio.open(path) as dataset:
        theirs = dataset.crs
    ours = rasterio.crs.CRS.from_wkt(build({1024: 1, 3072: code}).to_wkt())
    assert rasterio.warp.transform(ours, "EPSG:4326", [5e5], [5.2e6]) == (
        rasterio.warp.transform(theirs, "EPSG:4326", [5e5], [5.2e6])
    )


def test_a_withdrawn_code_with_the_unit_of_its_successor_is_replaced():
    assert build({1024: 1, 3072: 26814, 3076: 9003}).to_epsg() == 26847


@pytest.mark.parametrize(("code", "unit"), [(7415, 9003), (7408, None), (5698, 9001)])
def test_a_compound_system_in_the_key_of_projected_ones(code, unit):
    crs = build({1024: 1, 3072: code} | ({3076: unit} if unit else {}))
    assert crs.is_compound
    assert crs.axis_info[0].unit_name == ("US survey foot" if unit == 9003 else "metre")
    assert crs.axis_info[2].unit_name == "metre"


def test_a_withdrawn_geographic_system_keeps_its_units_and_meridian():
    crs = build({1024: 2, 2048: 4819})  # grads from Paris; its successor has degrees from Greenwich
    assert (crs.prime_meridian.name, crs.axis_info[0].unit_name) == ("Paris", "grad")


@pytest.mark.parametrize("model", [1, 2, 0])
def test_a_geographic_code_wins_over_the_model_it_contradicts(model):
    keys = {1024: model, 2048: 4326} if model != 1 else {1024: 1, 3072: 32633, 2048: 4267}
    assert build(keys) == pyproj.CRS(32633 if model == 1 else 4326)


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({1024: 1, 3072: 4326}, 4326),
        ({1024: 32767, 3072: 4267}, 4267),
        ({1024: 2, 3072: 4326}, 4326),
        ({1024: 1, 3072: 4978}, 4978),
        ({1024: 2, 2048: 32632}, 32632),
    ],
)
def test_a_code_in_the_key_of_another_kind_is_itself_as_in_gdal(keys, code, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", geotags(keys, **PLACED))
    with rasterio.open(path) as dataset:
        assert dataset.crs.to_epsg() in (code, None)  # an unknown one, of the third
    assert build(keys).to_epsg() == code


@pytest.mark.parametrize("keys", [{1024: 2, 3072: 32632}, {1024: 1, 3072: 5703}])
def test_a_code_that_contradicts_the_model_type_is_reported(keys):
    with pytest.warns(MetadataWarning, match=r"GeoKey 3072\): (ignored|not a projected)"):
        build(keys, strict=False)


def test_geotiff_1_0_knows_two_dimensions_only():
    assert build({1024: 2, 2048: 4979}) == pyproj.CRS(4326)
    assert build({1024: 2, 2048: 4979}, minor=1) == pyproj.CRS(4979)


METHODS = {
    1: ({3080: 15.0, 3081: 0.0, 3092: 0.9996, 3082: 5e5, 3083: 0.0},
        "+proj=tmerc +lon_0=15 +k=0.9996 +x_0=500000"),
    7: ({3080: 10.0, 3081: 0.0, 3092: 0.9}, "+proj=merc +lon_0=10 +k=0.9"),
    8: ({3078: 30.0, 3079: 60.0, 3084: 5.0, 3085: 40.0, 3086: 7.0},
        "+proj=lcc +lat_1=30 +lat_2=60 +lon_0=5 +lat_0=40 +x_0=7"),
    9: ({3080: 5.0, 3081: 40.0, 3092: 0.99}, "+proj=lcc +lat_1=40 +lat_0=40 +lon_0=5 +k_0=0.99"),
    10: ({3088: 10.0, 3089: 52.0, 3082: 4321000.0, 3083: 3210000.0},
         "+proj=laea +lon_0=10 +lat_0=52 +x_0=4321000 +y_0=3210000"),
    11: ({3078: 50.0, 3079: 70.0, 3080: -96.0, 3081: 40.0},
         "+proj=aea +lat_1=50 +lat_2=70 +lon_0=-96 +lat_0=40"),
    12: ({3088: 10.0, 3089: 20.0}, "+proj=aeqd +lon_0=10 +lat_0=20"),
    15: ({3095: -45.0, 3081: 70.0, 3092: 1.0}, "+proj=stere +lat_0=90 +lat_ts=70 +lon_0=-45"),
    16: ({3080: 5.0, 3081: 52.0, 3092: 0.9999}, "+proj=sterea +lon_0=5 +lat_0=52 +k=0.9999"),
    17: ({3088: 10.0, 3078: 30.0}, "+proj=eqc +lon_0=10 +lat_ts=30"),
    22: ({3080: -54.0, 3081: 0.0}, "+proj=poly +lon_0=-54"),
    23: ({3088: 10.0}, "+proj=robin +lon_0=10"),
    24: ({3088: 10.0}, "+proj=sinu +lon_0=10"),
    28: ({3078: 30.0, 3080: 0.0}, "+proj=cea +lat_ts=30"),
    # without an angle from the rectified grid, GDAL takes 90 degrees
    3: ({3089: 45.0, 3088: 10.0, 3094: 30.0},
        "+proj=omerc +no_uoff +lat_0=45 +lonc=10 +alpha=30 +gamma=90"),
    9815: ({3089: 45.0, 3088: 10.0, 3094: 30.0, 3093: 0.9},
           "+proj=omerc +lat_0=45 +lonc=10 +alpha=30 +gamma=90 +k=0.9"),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_user_defined_projection_projects_as_the_same_in_proj(method):
    parameters, proj = METHODS[method]
    crs = build(
        {1024: 1, 3072: 32767, 3074: 32767, 3075: method, 3076: 9001, **SPHERE, **parameters}
    )
    expected = pyproj.CRS(proj + " +ellps=WGS84 +units=m")
    points = ([12.0, 20.0, -30.0], [45.0, 60.0, 50.0])
    results = [
        pyproj.Transformer.from_crs(one.geodetic_crs, one, always_xy=True).transform(*points)
        for one in (crs, expected)
    ]
    for got, wanted in zip(*results, strict=True):
        assert got == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("method", "latitude", "directions"),
    [
        (1, 0.0, "east north"),
        (27, 0.0, "west south"),
        (15, 90.0, "south south"),
        (15, -90.0, "north north"),
    ],
)
def test_axis_directions_equal_those_of_gdal(method, latitude, directions):
    keys = {1024: 1, 3072: 32767, 3075: method, 3081: latitude, 3092: 0.99, 3095: 29.0, 3080: 29.0}
    crs = build({**keys, 3076: 9001, **SPHERE})
    assert " ".join(axis.direction for axis in crs.axis_info) == directions


@pytest.mark.parametrize("keys", [{3078: 30.0}, {3081: 30.0}, {3081: 30.0, 3092: 1.0}])
def test_mercator_with_a_standard_parallel_is_the_other_variant(keys):
    crs = build({1024: 1, 3072: 32767, 3075: 7, 3080: 0.0, **keys, **SPHERE})
    assert crs.coordinate_operation.method_name == "Mercator (variant B)"
    assert crs.coordinate_operation.params[0].value == 30


def test_angles_are_read_in_their_unit_and_lengths_in_theirs():
    # grads (9105) and US survey feet (9003)
    keys = {1024: 1, 3072: 32767, 3075: 1, 3076: 9003, 3080: 10.0, 3081: 0.0, 3082: 100.0}
    crs = build({**keys, **SPHERE, 2054: 9105})
    parameters = {p.name: p for p in crs.coordinate_operation.params}
    assert parameters["Longitude of natural origin"].value == pytest.approx(9.0)
    assert parameters["False easting"].unit_conversion_factor == pytest.approx(0.3048006096)
    assert crs.axis_info[0].unit_conversion_factor == pytest.approx(0.3048006096)


def test_a_zone_is_looked_up_by_its_conversion():
    crs = build({1024: 1, 3072: 32767, 3074: 16033, 3076: 9001, **WGS84})
    assert crs == pyproj.CRS(32633)


def test_a_user_defined_datum_ellipsoid_and_meridian():
    crs = build({1024: 2, 2048: 32767, 2050: 32767, 2056: 7030, 2051: 8903})
    assert crs.ellipsoid.semi_major_metre == 6378137.0
    assert crs.prime_meridian.name == "Paris"
    crs = build({1024: 2, 2048: 32767, 2050: 32767, 2057: 3396190.0, 2058: 3396190.0})
    assert crs.ellipsoid.inverse_flattening == 0


def test_esri_strings_in_a_citation_are_used():
    wkt = pyproj.CRS(32633).to_wkt("WKT1_ESRI")
    crs = build({1024: 1, 3072: 32767, 3073: f"ESRI PE String = {wkt}"})
    assert crs.equals(pyproj.CRS(wkt))


UTM_STRING = (
    'PROJCS["WGS_1984_UTM_Zone_33N",GEOGCS["GCS_WGS_1984",DATUM["D_WGS_1984",'
    'SPHEROID["WGS_1984",6378137.0,298.257223563]],PRIMEM["Greenwich",0.0],'
    'UNIT["Degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["False_Easting",500000.0],PARAMETER["False_Northing",0.0],'
    'PARAMETER["Central_Meridian",15.0],PARAMETER["Scale_Factor",0.9996],'
    'PARAMETER["Latitude_Of_Origin",0.0],UNIT["Meter",1.0]]'
)


@pytest.mark.parametrize("code", [4326, 4269, 4267, 4258, 4277, 4230, 4674, 4283, 4171, 4314])
@pytest.mark.parametrize("model", [2, 32767])
def test_a_geographic_system_of_esri_is_that_of_the_epsg(code, model):
    wkt = pyproj.CRS(code).to_wkt("WKT1_ESRI")
    assert build({1024: model, 2048: 32767, 2049: f"ESRI PE String = {wkt}"} if model == 2 else {
        1024: model, 3073: f"ESRI PE String = {wkt}"
    }) == pyproj.CRS(code)  # fmt: skip


@pytest.mark.parametrize("model", [32767, 0, 1, 9])
@pytest.mark.parametrize("key", [3073, 1026])
@pytest.mark.parametrize("before", ["ESRI PE String = ", "PCS Name = a|esri pe string="])
def test_an_esri_string_wins_over_the_geographic_system_beside_it(model, key, before):
    keys = {1024: model, key: before + UTM_STRING, 2048: 4326, 2049: "GCS_WGS_1984", 3076: 9001}
    assert build(keys).to_epsg() == 32633
    assert build({**keys, 3072: 32632}).to_epsg() == 32632


@pytest.mark.parametrize("code", [9707, 7415])
def test_an_esri_string_with_heights_is_all_of_the_system(code):
    wkt = pyproj.CRS(code).to_wkt("WKT1_ESRI")
    keys = {
        1024: 32767,
        3073: f"ESRI PE String = {wkt}",
        4096: pyproj.CRS(code).sub_crs_list[1].to_epsg(),
    }
    crs = build(keys, minor=1)
    assert [one.name for one in crs.sub_crs_list] == [
        one.name for one in pyproj.CRS(wkt).sub_crs_list
    ]


def test_an_esri_string_does_not_make_metres_of_degrees():
    text = f"ESRI PE String = {UTM_STRING}"
    assert build({1024: 2, 3073: text, 2048: 4326}).to_epsg() == 4326
    geographic = UTM_STRING[UTM_STRING.index("GEOGCS") : UTM_STRING.index(",PROJECTION")]
    for model in (2, 32767):
        found = build({1024: model, 2048: 32767, 2049: f"ESRI PE String = {geographic}"})
        assert found.to_epsg() == 4326
    with pytest.warns(MetadataWarning, match="is not valid"):
        assert build({1024: 32767, 3073: text[:90], 2048: 4326}, strict=False) is None


@pytest.mark.parametrize("keys", [{1024: 32767}, {1024: 1, 3076: 9001}, {1024: 32767, 3073: "a"}])
def test_metres_without_a_projection_are_local(keys):
    assert build({**keys, 2048: 4326}).is_engineering


MERCATOR = {
    1024: 1,
    2048: 4326,
    3072: 32767,
    3074: 32767,
    3075: 7,
    3076: 9001,
    3080: 0.0,
    3092: 1.0,
}


@pytest.mark.parametrize(
    "name", ["Google Maps Global Mercator", "WGS_1984_Web_Mercator_Auxiliary_Sphere"]
)
@pytest.mark.parametrize("key", [1026, 3073])
def test_web_mercator_is_known_by_its_names(name, key):
    for text in (name, name.lower(), f"PCS Name = {name}"):
        assert build({**MERCATOR, key: text}).to_epsg() == 3857
    for other in ({key: "WGS 84 / World Mercator"}, {key: f"not {name}"}):
        assert build({**MERCATOR, **other}).coordinate_operation.method_code == "9804"


@pytest.mark.parametrize(
    "more",
    [{3080: 9.0}, {3081: 20.0}, {3082: 100.0}, {3078: 30.0}, {3075: 8, 3078: 30.0}, {3076: 9002}],
)
@pytest.mark.parametrize(
    "name", ["Google Maps Global Mercator", "WGS_1984_Web_Mercator_Auxiliary_Sphere"]
)
def test_web_mercator_has_no_parameters_as_in_gdal(tmp_path, name, more):
    rasterio = pytest.importorskip("rasterio")
    keys = {**MERCATOR, 1026: name, **more}
    with rasterio.open(write_geotiff(tmp_path / "a.tif", geotags(keys, **PLACED))) as dataset:
        theirs = pyproj.CRS.from_wkt(dataset.crs.to_wkt())
    places = [
        pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(1e6, 4.5e6)
        for crs in (build(keys), theirs)
    ]
    assert places[0] == pytest.approx(places[1], abs=1e-9)


@pytest.mark.parametrize(
    "keys",
    [
        {2057: 6370997.0, 2058: 6370997.0},
        {2056: 7004},
        {2056: 7007},  # in Clarke's feet
        {2057: 6377397.155, 2059: 299.1528128},
    ],
)
@pytest.mark.parametrize("base", [{2048: 4326}, {2048: 32767, 2050: 6326}])
def test_a_projection_is_on_the_ellipsoid_of_the_keys_as_in_gdal(keys, base, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    projection = {1024: 1, 3072: 32767, 3074: 32767, 3075: 11, 3076: 9001, 3078: 29.5, 3079: 45.5,
                  3080: -96.0, 3081: 23.0}  # fmt: skip
    path = write_geotiff(tmp_path / "a.tif", geotags({**projection, **base, **keys}, **PLACED))
    with pytest.warns(MetadataWarning, match="differs from the ellipsoid of"):
        ours = build({**projection, **base, **keys}, strict=False)
    with rasterio.open(path) as dataset:
        theirs = pyproj.CRS.from_wkt(dataset.crs.to_wkt())
    places = [
        pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(5e5, 2e5)
        for crs in (ours, theirs)
    ]
    assert places[0] == pytest.approx(places[1], abs=1e-9)
    # of degrees the ellipsoid says nothing; one that fits is no defect
    assert build({1024: 2, **base, **keys}).ellipsoid.name == "WGS 84"
    assert build({**projection, **base, 2057: 6378137.0, 2059: 298.2572235630016})


@pytest.mark.parametrize("unit", [{3076: 9003}, {3076: 32767, 3077: 0.3048}, {3076: 9001}])
def test_a_known_system_is_used_in_the_unit_of_the_keys_as_in_gdal(unit, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    keys = {1024: 1, 3072: 26957, **unit}
    path = write_geotiff(tmp_path / "a.tif", geotags(keys, **PLACED))
    with rasterio.open(path) as dataset:
        theirs = pyproj.CRS.from_wkt(dataset.crs.to_wkt())
    ours = build(keys)
    places = [
        pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(5e5, 2e5)
        for crs in (ours, theirs)
    ]
    assert places[0] == pytest.approx(places[1], abs=1e-9)
    assert (ours.to_epsg() == 26957) == (unit == {3076: 9001})


def test_three_or_seven_numbers_bind_a_user_defined_system_to_wgs84():
    crs = build({1024: 2, **SPHERE, 2062: (1.0, 2.0, 3.0)})
    assert crs.is_bound
    assert crs.coordinate_operation.towgs84 == [1.0, 2.0, 3.0]
    assert not build({1024: 2, 2048: 4326, 2062: (1.0, 2.0, 3.0)}).is_bound
    assert build({1024: 3, **SPHERE, 2062: (1.0, 2.0, 3.0)}).is_geocentric
    assert build({1024: 32767, **SPHERE, 2062: (1.0, 2.0, 3.0)}).is_engineering


def test_heights_make_a_compound_system_in_geotiff_1_1_only():
    keys = {1024: 1, 3072: 25832, 4096: 7837}
    assert build(keys, minor=1).is_compound
    assert build(keys) == pyproj.CRS(25832)
    named = build({1024: 1, 3072: 26918, 4097: "MLLW height", 4099: 9002}, minor=1)
    assert named.sub_crs_list[1].name == "MLLW height"
    assert named.sub_crs_list[1].axis_info[0].unit_name == "foot"


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("code", [4978, 4979])
def test_heights_beside_a_system_of_three_axes(tmp_path, code, minor):
    tags = geotags({1024: 3 if code == 4978 else 2, 2048: code, 4096: 5773}, minor=minor)
    wkt = tiffref.scan(write_geotiff(tmp_path / "a.tif", tags)).group["spatial_ref"].attributes
    expected = pyproj.CRS(code)
    if code == 4979 and not minor:
        expected = expected.to_2d()
    assert pyproj.CRS(wkt["crs_wkt"]) == expected


def test_a_local_system_knows_its_unit():
    crs = build({1025: 1, 1026: "Site grid\n(1)", 3076: 9002})
    assert crs.is_engineering
    assert (crs.name, crs.axis_info[0].unit_name) == ("Site grid (1)", "foot")


def test_no_keys_give_no_system():
    assert build_crs(parse_geokeys({}), Report()) is None


BAD = {
    "unknown EPSG code": ({1024: 1, 3072: 31000}, "ProjectedCRS (GeoKey 3072)"),
    "unknown geographic code": ({1024: 2, 2048: 31000}, "GeodeticCRS (GeoKey 2048)"),
    "unknown unit": ({1024: 1, 3072: 32767, 3075: 1, 3076: 9999, **SPHERE}, "ProjLinearUnits"),
    "unknown method": ({1024: 1, 3072: 32767, 3075: 99, **SPHERE}, "ProjMethod (GeoKey 3075)"),
    "projection on nothing": ({1024: 1, 3072: 32767, 3074: 10101}, "GeodeticCRS (GeoKey 2048)"),
    "absurd axis": ({1024: 2, 2048: 32767, 2057: -5.0}, "EllipsoidSemiMajorAxis"),
    "broken ESRI string": (
        {1024: 1, 3072: 32767, 3073: "ESRI PE String = PROJCS["},
        "ProjectedCRS",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_defect_is_reported_without_an_error(case):
    keys, label = BAD[case]
    with pytest.warns(MetadataWarning, match="a.tif") as caught:
        build(keys, strict=False)
    assert label in {warning.message.key.split(" ")[0] for warning in caught} | {
        warning.message.key for warning in caught
    }
    with pytest.raises(MalformedTiff, match=label.split(" ")[0]):
        build(keys)
