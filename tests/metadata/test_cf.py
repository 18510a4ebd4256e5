"""`cf`: when an image was taken or made."""

import datetime

import pytest

from tiffref.metadata.cf import (
    acquired_from_items,
    acquired_from_name,
    created_from_tag,
    iso_text,
    parse_date,
    read_time_coordinate,
    time_coordinate,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/LC09_L2SP_193024_20220505_20220511_02_T1_SR_B4.TIF", "2022-05-05T00:00:00"),
        ("/d/S2A_32UPU_20220505_0_L2A/B04.tif", "2022-05-05T00:00:00"),
        ("T32UPU_20220505T101601_B04_10m.tif", "2022-05-05T10:16:01"),
        (
            "s1a-x/S1A_IW_GRDH_1SDV_20220505T052601_20220505T052626_043075_0524C5_E5F1.tif",
            "2022-05-05T05:26:01",
        ),
        ("S2A_MSIL2A_20220505T101601_N0400_R065_T32UPU_20220505T162513.tif", "2022-05-05T10:16:01"),
        (
            "S5P_OFFL_L2__NO2____20220505T101601_20220505T115731_23635_02_020301.tif",
            "2022-05-05T10:16:01",
        ),
        ("MOD13Q1.061__250m_16_days_NDVI_doy2022125_aid0001.tif", "2022-05-05T00:00:00"),
        ("VNP13A1.001_EVI_doy2022125000000_aid0001.tif", "2022-05-05T00:00:00"),
        ("HLS.S30.T32TLS.2022125T100559.v2.0.B02.tif", "2022-05-05T10:05:59"),
        ("MOD13Q1.A2022125.h18v04.061.2022194001122_NDVI.tif", "2022-05-05T00:00:00"),
        (
            "OR_ABI-L2-MCMIPF-M6_G16_s20221251800205_e20221251809517_c20221251809592.tif",
            "2022-05-05T18:00:20",
        ),
        ("s1a-iw-grd-vv-20220505t052601-20220505t052626-0430-05-001.tiff", "2022-05-05T05:26:01"),
        ("20220505_101501_12_24a1_3B_AnalyticMS.tif", "2022-05-05T10:15:01"),
        ("20220505_101501_1027_3B_AnalyticMS.tif", "2022-05-05T10:15:01"),
        ("m_3211605_ne_11_060_20220505.tif", "2022-05-05T00:00:00"),
        (
            "3B-HHR-L.MS.MRG.3IMERG.20220505-S003000-E005959.0030.V07B.30min.tif",
            "2022-05-05T00:30:00",
        ),
        ("3B-MO.MS.MRG.3IMERG.20220501-S000000-E235959.05.V07B.tif", "2022-05-01T00:00:00"),
        ("/data/chirps-v2.0.2022.05.tif", "2022-05-01T00:00:00"),
        ("chirps-v2.0.2022.05.15.cog", "2022-05-15T00:00:00"),
        ("chirps-v3.0.sat.2022.05.15.tif", "2022-05-15T00:00:00"),
        ("chirps-v2.0.2022.05.3.tif", None),
        ("chirps-v2.0.2022.15.tif", None),
        ("MOD13Q1.A2022525.h18v04.061.2022194001122_NDVI.tif", None),
        ("/data/20220505/scan.tif", None),
        ("LC09_L2SP_193024_20221505_20220511_02_T1_SR_B4.TIF", None),
    ],
)
def test_names_of_products(url, expected):
    found = acquired_from_name(url)
    assert (found and found.strftime("%Y-%m-%dT%H:%M:%S")) == expected


def test_items():
    found = acquired_from_items({"ACQUISITIONDATETIME": "2022-05-05T10:00:00Z"})
    assert found == datetime.datetime(2022, 5, 5, 10, tzinfo=datetime.UTC)
    assert acquired_from_items({"ACQUISITIONDATETIME": "May"}) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2022:05:05 10:11:12", "2022-05-05T10:11:12"),
        ("2022-05-05T10:11:12", "2022-05-05T10:11:12"),
        ("0000:00:00 00:00:00", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_date_time_tag(value, expected):
    assert created_from_tag(value) == expected


def test_coordinate_of_whole_seconds():
    array = time_coordinate(datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC))
    assert (array.shape, array.dtype) == ((), "int64")
    assert array.manifest.inlined[0] == (86400).to_bytes(8, "little")
    assert array.attributes["units"] == "seconds since 1970-01-01"
    assert "comment" not in array.attributes


@pytest.mark.parametrize("microsecond", [0, 453000, 453001])
@pytest.mark.parametrize("zone", [None, datetime.UTC])
@pytest.mark.parametrize("year", [1968, 2026])
def test_coordinates_are_as_exact_as_the_date(year, zone, microsecond):
    date = datetime.datetime(year, 3, 4, 5, 6, 7, microsecond, zone)
    array = time_coordinate(date)
    number = int.from_bytes(array.manifest.inlined[0], "little", signed=True)
    found = read_time_coordinate(array.attributes["units"], number)
    assert found == date.replace(tzinfo=datetime.UTC)
    assert ("comment" in array.attributes) == (zone is None)
    assert datetime.datetime.fromisoformat(iso_text(date)) == date


def test_foreign_time_units_are_not_converted():
    assert read_time_coordinate("days since 1970-01-01", 1) is None
    assert read_time_coordinate("seconds since 2000-01-01", 1) is None
    assert read_time_coordinate("seconds since 1970-01-01", 1 << 62) is None


def test_dates():
    assert parse_date("2020-01-02T03:04:05+02:00").hour == 3
    assert parse_date("01.02.2020") is None
    assert parse_date(None) is None
