"""`location`: rasters at one place, however their tags say it."""

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import ManifestMismatch
from tiffref.metadata.location import Location, locate, unify_locations

from .geotags import PLACED, extra_tags, geotags

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
def test_one_place_in_other_words_stacks(tmp_path, what):
    files = [write(tmp_path / "0.tif"), write(tmp_path / "1.tif", **SAME[what])]
    for order in (files, files[::-1]):
        group = tiffref.scan_sequence(order).group
        assert group["image"].shape == (2, 16, 16)
        assert {"x", "y", "spatial_ref"} <= group.children.keys()
        assert group["image"].attributes["spatial:transform"][0] == pytest.approx(10)


@pytest.mark.filterwarnings("ignore::tiffref.errors.MetadataWarning")
@pytest.mark.parametrize("what", OTHER)
def test_another_place_is_refused_and_named(tmp_path, what):
    options, named = OTHER[what]
    files = [write(tmp_path / "0.tif"), write(tmp_path / "1.tif", **options)]
    with pytest.raises(ManifestMismatch, match="differ in georeference") as caught:
        tiffref.scan_sequence(files)
    assert named in str(caught.value)
    assert "EPSG:32632, origin 500000, 5200000 metre, pixel size 10 x -20" in str(caught.value)
    first, second = (group["georeference"] for group in caught.value.groups)
    assert first != second


def test_a_mosaic_is_of_one_system_whatever_it_is_called(tmp_path):
    files = [write(tmp_path / "0.tif"), write(tmp_path / "1.tif", BY_PARAMETERS, **tie(5e5 + 160))]
    assert tiffref.scan_sequence(files, mosaic=True).group["image"].shape == (16, 32)
    files[1] = write(tmp_path / "1.tif", {**KEYS, 3072: 32633}, **tie(5e5 + 160))
    with pytest.raises(ManifestMismatch, match=r"EPSG:32633.*EPSG:32632"):
        tiffref.scan_sequence(files, mosaic=True)


def test_what_is_appended_is_compared_alike(tmp_path):
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


def test_systems_of_no_code_are_compared_by_their_parameters(tmp_path):
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
