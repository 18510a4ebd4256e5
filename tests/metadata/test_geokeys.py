"""`geokeys`: from three tags to keys by number."""

from tiffref.metadata.geokeys import parse_geokeys

from .geotags import geotags


def test_keys_come_from_all_three_tags():
    keys = parse_geokeys(geotags({1024: 1, 1026: "My CRS", 2057: 6378137.0, 2062: (1.0, 2.0, 3.0)}))
    assert keys.values == {1024: 1, 1026: "My CRS", 2057: 6378137.0, 2062: (1.0, 2.0, 3.0)}
    assert keys.defects == ()
    assert keys.named()["GeogTOWGS84"] == [1.0, 2.0, 3.0]


def test_a_single_double_without_a_tuple_is_read():
    tags = geotags({2057: 6378137.0})
    tags[34736] = 6378137.0
    assert parse_geokeys(tags).number(2057) == 6378137.0


def test_keys_beyond_the_count_in_the_header_do_not_exist():
    tags = {34735: (1, 1, 0, 1, 1024, 0, 1, 2, 2048, 0, 1, 4326)}
    assert parse_geokeys(tags).values == {1024: 2}


def test_a_truncated_directory_keeps_what_is_whole():
    tags = {34735: (1, 1, 0, 3, 1024, 0, 1, 2, 2048, 0)}
    keys = parse_geokeys(tags)
    assert keys.values == {1024: 2}
    assert keys.defects == (("GeoKeyDirectory (34735)", "the GeoKey directory is truncated"),)


def test_a_key_that_points_outside_its_tag_is_named():
    tags = geotags({2057: 6378137.0, 1024: 2})
    del tags[34736]
    keys = parse_geokeys(tags)
    assert keys.values == {1024: 2}
    assert keys.defects[0][0] == "EllipsoidSemiMajorAxis (GeoKey 2057)"


def test_user_defined_and_zero_are_not_codes():
    keys = parse_geokeys(geotags({2048: 32767, 3072: 0, 3076: 9001}))
    assert (keys.code(2048), keys.code(3072), keys.code(3076)) == (None, None, 9001)
