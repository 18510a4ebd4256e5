"""`scan_sequence`: the array is NumPy's stack of the files; what does not combine is refused."""

import datetime
import json

import fsspec
import numpy as np
import pytest
import tifffile

import tiffref
from sequences import geo_tags, pixels, write
from tiffref.errors import (
    MalformedTiff,
    ManifestMismatch,
    SelectionError,
    SourceError,
    TiffrefError,
)
from tiffref.zarr import ZarrTiffStore

xr = pytest.importorskip("xarray")


def read(references, path="image"):
    """Read an array of references."""
    from tiffref.read import Fetcher, read_array

    return read_array(references.group[path], ..., fetch=Fetcher())


@pytest.fixture
def bands(tmp_path):
    """Two bands of three dates."""
    return {
        (day, band): write(tmp_path / f"S2_{day}_{band}.tif", pixels(n))
        for n, (day, band) in enumerate(
            (day, band) for day in ("20220601", "20220505", "20220510") for band in ("B08", "B04")
        )
    }


def test_a_time_series_opens_in_xarray_and_is_selected_by_value(bands, tmp_path):
    references = tiffref.scan_sequence(tmp_path / "S2_{time:%Y%m%d}_{band}.tif")
    references.write_fsspec(tmp_path / "cube.json")
    with xr.open_dataset(f"{tmp_path}/cube.json", engine="kerchunk") as ds:
        assert ds.image.dims == ("time", "band", "y", "x")
        assert ds.image.dtype == "uint16"
        assert ds.band.values.tolist() == ["B04", "B08"]
        assert ds.sel(time="2022-05", band="B04").image.shape == (2, 40, 48)
        for (day, band), data in bands.items():
            got = ds.image.sel(time=datetime.datetime.strptime(day, "%Y%m%d"), band=band)
            np.testing.assert_array_equal(got, data)


def test_axesorder(bands, tmp_path):
    references = tiffref.scan_sequence(
        tmp_path / "S2_{time:%Y%m%d}_{band}.tif", axesorder=["band", "time"]
    )
    assert references.group["image"].dims == ("band", "time", "y", "x")
    np.testing.assert_array_equal(read(references)[1, 0], bands["20220505", "B08"])


def test_categories(bands, tmp_path):
    references = tiffref.scan_sequence(
        tmp_path / "S2_{time:%Y%m%d}_{band}.tif", categories={"band": {"B08": 0, "B04": 5}}
    )
    np.testing.assert_array_equal(read(references)[0, 0], bands["20220505", "B08"])
    with pytest.raises(SelectionError, match=r"categories name no axis, got .'colour'"):
        tiffref.scan_sequence(
            tmp_path / "S2_{time:%Y%m%d}_{band}.tif", categories={"colour": {"B08": 0}}
        )


def test_without_a_pattern_files_are_counted(tmp_path):
    data = [write(tmp_path / f"img{n}.tif", pixels(n)) for n in range(11)]
    references = tiffref.scan_sequence(str(tmp_path / "img*.tif"))
    assert references.group["image"].dims == ("i", "y", "x")
    assert list(references.group.children) == ["image"]
    np.testing.assert_array_equal(read(references), np.stack(data))  # natural order: 9 before 10


def test_zattrs_and_fillvalue(tmp_path):
    write(tmp_path / "a.tif", pixels(0))
    references = tiffref.scan_sequence([tmp_path / "a.tif"], zattrs={"note": 1}, fillvalue=7)
    assert references.group.attributes["note"] == 1
    assert references.group["image"].fill_value == 7


# ---- inputs


def test_a_table_gives_coordinates(tmp_path):
    data = [write(tmp_path / f"{n}.tif", pixels(n)) for n in range(3)]
    (tmp_path / "list.csv").write_text(
        "path,time,depth\n" + "".join(f"{n}.tif,2022-05-0{3 - n},{n * 0.5}\n" for n in range(3))
    )
    columns = {"url": [tmp_path / f"{n}.tif" for n in range(3)], "depth": [1.5, 0.5, 2.5]}
    with pytest.raises(ManifestMismatch, match="6 of 9 places have no file"):
        tiffref.scan_sequence(tmp_path / "list.csv")
    references = tiffref.scan_sequence(columns)
    np.testing.assert_array_equal(read(references), np.stack([data[1], data[0], data[2]]))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns).assign(url=lambda f: f.url.astype(str))
    assert (
        tiffref.scan_sequence(frame).group["image"].manifest == references.group["image"].manifest
    )
    with pytest.raises(SelectionError, match="no column of addresses"):
        tiffref.scan_sequence({"depth": [1]})


def test_stac_items(tmp_path):
    items = []
    for n in range(2):
        for band in ("red", "nir"):
            write(tmp_path / f"{n}_{band}.tif", pixels(n + 10 * len(band)))
        kinds = "image/tiff; application=geotiff"
        assets = {
            b: {"href": str(tmp_path / f"{n}_{b}.tif"), "type": kinds} for b in ("red", "nir")
        }
        assets["thumb"] = {"href": "t.png", "type": "image/png"}
        items.append({
            "type": "Feature", "assets": assets,
            "properties": {"datetime": f"2022-05-1{n}T10:00:00.5Z"},
        })  # fmt: skip
    references = tiffref.scan_sequence(items)
    assert references.group["image"].dims == ("time", "band", "y", "x")
    assert references.group["time"].attributes["units"] == "milliseconds since 1970-01-01"
    np.testing.assert_array_equal(read(references)[1, 0], pixels(31))
    (tmp_path / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": items})
    )
    again = tiffref.scan_sequence(tmp_path / "items.json", assets=["red"])
    assert again.group["image"].dims == ("time", "y", "x")


def test_a_file_sequence_of_tifffile(tmp_path):
    for n in (3, 4):
        write(tmp_path / f"a_t{n}.tif", pixels(n))
    sequence = tifffile.TiffSequence(
        [str(tmp_path / f"a_t{n}.tif") for n in (4, 3)], pattern=r"_(t)(\d)"
    )
    references = tiffref.scan_sequence(sequence)
    assert references.group["image"].dims == ("t", "y", "x")
    np.testing.assert_array_equal(read(references), np.stack([pixels(3), pixels(4)]))


def test_a_glob_of_urls():
    fs = fsspec.filesystem("memory")
    for n in range(3):
        with fs.open(f"/seq/t_{n}.tif", "wb") as file:
            tifffile.imwrite(file, pixels(n), tile=(16, 16), compression="zlib", metadata=None)
    references = tiffref.scan_sequence("memory://seq/t_{t}.tif")
    np.testing.assert_array_equal(read(references), np.stack([pixels(n) for n in range(3)]))


def test_a_remote_file_costs_two_requests(monkeypatch):
    fs = fsspec.filesystem("memory")
    for n in range(9):
        with fs.open(f"/requests/t_{n}.tif", "wb") as file:
            how = {"tile": (16, 16), "compression": "zlib", "metadata": None}
            tifffile.imwrite(file, pixels(n, (512, 512)), **how)
    requests = []
    kind = type(fs)
    for name in ("cat_file", "info", "open"):
        asked = getattr(kind, name)
        monkeypatch.setattr(
            kind, name, lambda self, path, *a, _n=name, _f=asked, **k: requests.append((_n, path))
            or _f(self, path, *a, **k)
        )  # fmt: skip
    tiffref.scan_sequence([f"memory://requests/t_{n}.tif" for n in range(9)])
    of_last = [name for name, path in requests if path.endswith("t_8.tif")]
    assert of_last.count("cat_file") == 1, requests
    assert of_last.count("info") <= 1, requests


@pytest.mark.parametrize("files", [[], "nothing_*.tif", "nothing_{t}.tif", "memory://no/*.tif"])
def test_no_files(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no files"):
        tiffref.scan_sequence(files)


# ---- what files have in common


def test_what_says_something_of_one_file_is_left_out(tmp_path):
    data = [
        write(tmp_path / f"{n}.tif", pixels(n), datetime=datetime.datetime(2020, 1, n + 1))
        for n in range(5)
    ]
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"))
    np.testing.assert_array_equal(read(references), np.stack(data))
    assert "DateTime" not in references.group["image"].attributes["tiff_tags"]


@pytest.mark.parametrize(
    "how",
    [
        {"compression": None, "tile": None},
        {"compression": None, "tile": None, "rowsperstrip": 8},
        {"compression": None, "byteorder": ">"},
        {"bigtiff": True},
        {"compression": "jpeg", "dtype": "u1"},
        {"compression": "lzw", "predictor": True},
        {"compression": None, "tile": None, "shape": (4, 20, 24), "photometric": "minisblack"},
        {"shape": (40, 48, 3), "photometric": "rgb", "dtype": "u1"},
    ],
    ids=str,
)
def test_layouts(tmp_path, how):
    how = dict(how)
    shape, dtype = how.pop("shape", (40, 48)), how.pop("dtype", "u2")
    for n in range(4):
        write(tmp_path / f"{n}.tif", pixels(n, shape, dtype), **how)
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"))
    expected = np.stack([tifffile.imread(tmp_path / f"{n}.tif") for n in range(4)])
    np.testing.assert_array_equal(read(references), expected)


@pytest.mark.parametrize(
    "change",
    [{"software": "other"}, {"description": "other"}, {"resolution": (2, 2)}, {"extra": 65000}],
    ids=str,
)
def test_files_with_other_tags_stack(tmp_path, change):
    change = dict(change)
    code = change.pop("extra", None)
    if code:
        change["extratags"] = [(code, 3, 1, 5, True)]
    write(tmp_path / "0.tif", pixels(0))
    write(tmp_path / "1.tif", pixels(1), **change)
    references = tiffref.scan_sequence(str(tmp_path / "?.tif"))
    np.testing.assert_array_equal(read(references), np.stack([pixels(0), pixels(1)]))


@pytest.mark.parametrize("chunkmode", [None, "tile"])
def test_strips_in_another_order_read_right(tmp_path, chunkmode):
    for n in range(2):
        write(tmp_path / f"{n}.tif", pixels(n), compression=None, tile=None, rowsperstrip=10)
    raw = bytearray((tmp_path / "1.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "1.tif") as tif:
        where = tif.pages[0].tags["StripOffsets"].valueoffset
        (_, one, two, _), n_bytes = tif.pages[0].dataoffsets, tif.pages[0].databytecounts[0]
    raw[where + 4 : where + 12] = np.array([two, one], "<u4").tobytes()
    first, second = (bytes(raw[at : at + n_bytes]) for at in (one, two))
    raw[one : one + n_bytes], raw[two : two + n_bytes] = second, first
    (tmp_path / "1.tif").write_bytes(raw)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "1.tif"), pixels(1))
    files = [tmp_path / "0.tif", tmp_path / "1.tif"]
    if chunkmode is None:  # in one piece, and in pieces
        with pytest.raises(ManifestMismatch, match="chunk shape"):
            tiffref.scan_sequence(files)
        return
    references = tiffref.scan_sequence(files, chunkmode=chunkmode)
    np.testing.assert_array_equal(read(references), np.stack([pixels(0), pixels(1)]))


def test_partial_strips_of_every_file_are_looked_at(tmp_path):
    how = {"tile": None, "rowsperstrip": 16}
    data = [write(tmp_path / f"{n}.tif", pixels(n, (41, 48)), **how) for n in range(3)]
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"))
    np.testing.assert_array_equal(read(references), np.stack(data))


def test_a_truncated_file_is_found(tmp_path):
    for n in range(3):
        write(tmp_path / f"{n}.tif", pixels(n), compression=None)
    raw = (tmp_path / "1.tif").read_bytes()
    (tmp_path / "1.tif").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(MalformedTiff, match=r"1\.tif"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"))


def test_overviews_are_stacked_too(tmp_path):
    for n in range(2):
        with tifffile.TiffWriter(tmp_path / f"{n}.tif") as tif:
            how = {"tile": (16, 16), "compression": "zlib", "metadata": None}
            tif.write(pixels(n), subifds=1, **how)
            tif.write(pixels(n)[::2, ::2], subfiletype=1, **how)
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), pattern="{t}.tif")
    assert references.group["image_1"].dims == ("t", "y_1", "x_1")
    expected = np.stack([pixels(n)[::2, ::2] for n in range(2)])
    np.testing.assert_array_equal(read(references, "image_1"), expected)
    only = tiffref.scan_sequence(str(tmp_path / "*.tif"), level=0)
    assert list(only.group.children) == ["image"]


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(tmp_path, workers):
    data = [write(tmp_path / f"{n:03}.tif", pixels(n), software=f"v{n % 3}") for n in range(60)]
    told = []
    references = tiffref.scan_sequence(
        str(tmp_path / "*.tif"), workers=workers, progress=lambda *n: told.append(n)
    )
    np.testing.assert_array_equal(read(references), np.stack(data))
    assert told[-1] == (60, 60)


# ---- dates from the files


def test_time_from_tags(tmp_path):
    for n, day in enumerate((3, 1, 2)):
        write(tmp_path / f"{n}.tif", pixels(n), datetime=datetime.datetime(2020, 1, day, 12))
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), time_from="DateTime")
    assert references.group["image"].dims == ("time", "y", "x")
    np.testing.assert_array_equal(read(references), np.stack([pixels(n) for n in (1, 2, 0)]))
    with pytest.raises(ManifestMismatch, match="3 of 3 files have no AcquisitionDate"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), time_from="AcquisitionDate")


def test_time_from_ome(tmp_path):
    for n, hour in enumerate((11, 9)):
        date = f"2020-01-01T{hour:02}:00:00"
        tifffile.imwrite(
            tmp_path / f"{n}.ome.tif", pixels(n), metadata={"axes": "YX", "AcquisitionDate": date}
        )
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), time_from="AcquisitionDate")
    np.testing.assert_array_equal(read(references), np.stack([pixels(1), pixels(0)]))


# ---- along existing dimensions


def test_concat_along_a_dimension(tmp_path):
    volume = pixels(0, (9, 32, 32))
    for n, (start, stop) in enumerate([(0, 4), (4, 5), (5, 9)]):
        tifffile.imwrite(
            tmp_path / f"{n}.tif", volume[start:stop], photometric="minisblack", tile=(16, 16),
            compression="zlib", metadata={"axes": "ZYX"},
        )  # fmt: skip
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), concat="z")
    assert references.group["image"].dims == ("z", "y", "x")
    np.testing.assert_array_equal(read(references), volume)


def test_a_grid_of_files(tmp_path):
    whole = pixels(0, (96, 80))
    for row in range(3):
        for column, part in enumerate((slice(0, 48), slice(48, 80))):
            write(tmp_path / f"r{row}_c{column}.tif", whole[row * 32 : row * 32 + 32, part])
    references = tiffref.scan_sequence(
        tmp_path / "r{row}_c{col}.tif", concat={"row": "y", "col": "x"}
    )
    np.testing.assert_array_equal(read(references), whole)
    (tmp_path / "r1_c0.tif").unlink()
    with pytest.raises(ManifestMismatch, match="row=1, col=0"):
        tiffref.scan_sequence(tmp_path / "r{row}_c{col}.tif", concat={"row": "y", "col": "x"})


def test_concat_names_what_is_not_there(tmp_path):
    write(tmp_path / "a_1.tif", pixels(0))
    with pytest.raises(SelectionError, match="no dimension of the files, got q"):
        tiffref.scan_sequence([tmp_path / "a_1.tif"], concat="q")
    with pytest.raises(SelectionError, match="concat names no field"):
        tiffref.scan_sequence([tmp_path / "a_1.tif"], pattern="a_{t}.tif", concat={"q": "y"})


@pytest.fixture
def mosaic(tmp_path):
    """Two dates of a 3 x 2 mosaic with overviews; its files are in no order."""
    whole = pixels(0, (2, 96, 64))
    for t, row, column in np.ndindex(2, 3, 2):
        name = tmp_path / f"t{t}_{5 - row * 2 - column}.tif"
        part = whole[t, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        tags = geo_tags(5e5 + 320 * column, 6e6 - 320 * row)
        with tifffile.TiffWriter(name) as tif:
            how = {"tile": (16, 16), "compression": "zlib", "metadata": None}
            tif.write(part, subifds=1, extratags=tags, **how)
            tif.write(part[::2, ::2], subfiletype=1, **how)
    return whole


def test_mosaic_by_georeference(tmp_path, mosaic):
    pytest.importorskip("pyproj")
    references = tiffref.scan_sequence(tmp_path / "t{t}_*.tif", mosaic=True)
    np.testing.assert_array_equal(read(references), mosaic)
    np.testing.assert_array_equal(read(references, "image_1"), mosaic[:, ::2, ::2])
    references.write_fsspec(tmp_path / "m.json")
    with xr.open_dataset(f"{tmp_path}/m.json", engine="kerchunk") as ds:
        np.testing.assert_allclose(ds.x, 5e5 + 10 * (np.arange(64) + 0.5))
        np.testing.assert_allclose(ds.y, 6e6 - 10 * (np.arange(96) + 0.5))
        assert ds.attrs["spatial:transform"][2::3] == [5e5, 6e6]


@pytest.mark.parametrize("raster_type", [1, 2])
@pytest.mark.parametrize(("a", "e"), [(10.0, -10.0), (10.0, 10.0), (-10.0, -10.0)])
def test_mosaic_of_rows_that_go_up(tmp_path, a, e, raster_type):
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, raster_type, 3072, 0, 1, 32633)
    for n in range(2):
        matrix = (a, 0.0, 0.0, 5e5, 0.0, e, 0.0, 6e6 + 32 * n * e, *(0.0,) * 7, 1.0)
        tags = [(34264, 12, 16, matrix, True), (34735, 3, len(keys), keys, True)]
        write(tmp_path / f"{n}.tif", pixels(n, (32, 32)), extratags=tags)
    mosaic = xr.open_dataset(
        tiffref.scan_sequence(tmp_path / "*.tif", mosaic=True), engine="tiffref"
    )
    for n in range(2):
        one = xr.open_dataset(tmp_path / f"{n}.tif", engine="tiffref")
        part = mosaic.isel(y=slice(32 * n, 32 * n + 32))
        np.testing.assert_array_equal(part.image, one.image)
        np.testing.assert_array_equal(part.y, one.y)
        np.testing.assert_array_equal(part.x, one.x)


def test_mosaic_with_a_hole(tmp_path, mosaic):
    next(tmp_path.glob("t1_*.tif")).unlink()
    told = "4 of 48 chunks of the mosaic have no file. There is a mosaic for each t: stack on fewer"
    with pytest.raises(ManifestMismatch, match=told):
        tiffref.scan_sequence(tmp_path / "t{t}_*.tif", mosaic=True)
    references = tiffref.scan_sequence(tmp_path / "t{t}_*.tif", mosaic=True, allow_holes=True)
    assert (read(references) == mosaic).mean() > 0.9


def test_mosaic_off_the_grid(tmp_path):
    write(tmp_path / "0.tif", pixels(0, (32, 32)), extratags=geo_tags(0.0, 0.0))
    for x, match in (
        (325.0, "between the pixels"),
        (330.0, "chunk boundaries"),
        (160.0, "2 files"),
    ):
        write(tmp_path / "1.tif", pixels(1, (32, 32)), extratags=geo_tags(x, 0.0))
        with pytest.raises(ManifestMismatch, match=match):
            tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True)
    write(tmp_path / "1.tif", pixels(1, (32, 32)), extratags=geo_tags(320.0, 0.0, epsg=32634))
    with pytest.raises(ManifestMismatch, match="coordinate reference system"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True)
    write(tmp_path / "1.tif", pixels(1, (32, 32)))
    with pytest.raises(ManifestMismatch, match="no place on a grid"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True)


# ---- what does not combine

DIFFERENCES = {
    "dtype": ({"dtype": "i2"}, False),
    "shape": ({"shape": (41, 48)}, False),
    "chunk shape": ({"tile": (32, 16)}, False),
    "compression": ({"compression": "lzw"}, True),
    "predictor": ({"predictor": True}, True),
    "byte order": ({"byteorder": ">"}, True),
    "nodata": ({"extratags": [(42113, 2, 2, "7", True)]}, False),
    "georeference": ({"extratags": geo_tags(1.0, 1.0)}, False),
}


@pytest.fixture(params=DIFFERENCES)
def difference(request, tmp_path):
    """Five files, one of which differs in one aspect."""
    how, is_storage = DIFFERENCES[request.param]
    how = dict(how)
    data = [write(tmp_path / f"{n}.tif", pixels(n)) for n in range(4)]
    shape, dtype = how.pop("shape", (40, 48)), how.pop("dtype", "u2")
    data.append(write(tmp_path / "4.tif", pixels(4, shape, dtype), **how))
    return request.param, is_storage, data


def test_differences_are_refused_together(difference, tmp_path):
    name, is_storage, _ = difference
    with pytest.raises(ManifestMismatch, match=f"2 groups differ in .*{name}") as caught:
        tiffref.scan_sequence(str(tmp_path / "*.tif"))
    assert [group["count"] for group in caught.value.groups] == [4, 1]
    text = str(caught.value)
    assert "0.tif" in text and "2.tif" in text and "4.tif" in text and "3.tif" not in text
    assert ("on_mismatch='decode'" in text) == is_storage


def test_differences_are_split(difference, tmp_path):
    _, _, data = difference
    references = tiffref.scan_sequence(
        str(tmp_path / "*.tif"), pattern="{t}.tif", on_mismatch="split"
    )
    np.testing.assert_array_equal(read(references, "part_0/image"), np.stack(data[:4]))
    np.testing.assert_array_equal(read(references, "part_1/image")[0], data[4])
    assert [row["levels"][0]["path"] for row in references.series] == [
        "part_0/image",
        "part_1/image",
    ]
    document = references.to_kerchunk()["refs"]
    assert json.loads(document["part_0/t/.zarray"])["shape"] == [4]
    assert json.loads(document["part_1/t/.zarray"])["shape"] == [1]


def test_differences_of_storage_are_decoded(difference, tmp_path):
    _, is_storage, data = difference
    if not is_storage:
        with pytest.raises(ManifestMismatch):
            tiffref.scan_sequence(str(tmp_path / "*.tif"), on_mismatch="decode")
        return
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), on_mismatch="decode")
    np.testing.assert_array_equal(read(references), np.stack(data))
    with pytest.raises(ManifestMismatch, match="stored in different ways"):
        references.write_fsspec(tmp_path / "no.json")
    assert not (tmp_path / "no.json").exists()


def test_inlined_strips_are_decoded_by_their_own_codec(tmp_path):
    data = []
    for n, how in enumerate(
        [{"compression": "zlib"}, {"compression": "zstd"}, {"compression": "lzw"}]
    ):
        data.append(
            write(tmp_path / f"{n}.tif", pixels(n, (41, 48)), tile=None, rowsperstrip=16, **how)
        )
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), on_mismatch="decode")
    assert references.group["image"].manifest.inlined
    np.testing.assert_array_equal(read(references), np.stack(data))
    np.testing.assert_array_equal(ZarrTiffStore(references)[:, 40], np.stack(data)[:, 40])


def test_byte_order_of_bytes_is_no_difference(tmp_path):
    data = [
        write(tmp_path / f"{n}.tif", pixels(n, dtype="u1"), byteorder=o) for n, o in enumerate("<>")
    ]
    np.testing.assert_array_equal(
        read(tiffref.scan_sequence(str(tmp_path / "*.tif"))), np.stack(data)
    )


def test_files_at_different_places_have_no_common_coordinates(tmp_path):
    pytest.importorskip("pyproj")
    data = [
        write(tmp_path / f"{n}.tif", pixels(n), extratags=geo_tags(100.0 * n, 0.0))
        for n in range(2)
    ]
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore=["georeference"])
    np.testing.assert_array_equal(read(references), np.stack(data))
    assert list(references.group.children) == ["image"]
    with pytest.raises(SelectionError, match="pixels would come out different"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore=["dtype"])


def test_nodata_cannot_be_ignored_where_chunks_are_missing(tmp_path):
    for n, nodata in enumerate("37"):
        write(tmp_path / f"{n}.tif", pixels(n), extratags=[(42113, 2, 2, nodata, True)])
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore=["nodata"])
    assert references.group["image"].fill_value is None
    with tifffile.TiffFile(tmp_path / "1.tif", mode="r+") as tif:
        page = tif.pages[0]
        page.tags["TileOffsets"].overwrite((0, *page.dataoffsets[1:]))
        page.tags["TileByteCounts"].overwrite((0, *page.databytecounts[1:]))
    with pytest.raises(ManifestMismatch, match="nodata"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore=["nodata"])


# ---- holes, duplicates, files that cannot be read


def test_holes_are_named_or_allowed(bands, tmp_path):
    (tmp_path / "S2_20220505_B08.tif").unlink()
    pattern = tmp_path / "S2_{time:%Y%m%d}_{band}.tif"
    with pytest.raises(ManifestMismatch, match=r"1 of 6 places.*time=2022-05-05.*band=B08"):
        tiffref.scan_sequence(pattern)
    references = tiffref.scan_sequence(pattern, allow_holes=True)
    assert references.series[0]["sequence"]["n_holes"] == 1
    values = read(references)
    assert (values[0, 1] == 0).all()
    np.testing.assert_array_equal(values[0, 0], bands["20220505", "B04"])


def test_two_files_at_one_place_are_named(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "t_1.tif", pixels(1))
    with pytest.raises(ManifestMismatch, match=r"t=1: .*a/t_1\.tif.*b/t_1\.tif"):
        tiffref.scan_sequence(
            str(tmp_path / "*" / "t_*.tif"), pattern="t_{t}.tif", allow_holes=True
        )


def test_files_that_cannot_be_read(tmp_path):
    for n in (0, 3):
        write(tmp_path / f"{n}.tif", pixels(n))
    (tmp_path / "1.tif").write_bytes(b"no TIFF")
    (tmp_path / "2.tif").mkdir()
    with pytest.raises(TiffrefError, match=r"2 of 4 files cannot be scanned.*1\.tif.*2\.tif"):
        tiffref.scan_sequence(tmp_path / "{t}.tif")
    references = tiffref.scan_sequence(tmp_path / "{t}.tif", allow_holes=True)
    report = references.series[0]["sequence"]
    assert [row["url"] for row in report["unreadable"]] == [
        str(tmp_path / f"{n}.tif") for n in (1, 2)
    ]
    assert report["holes"] == ["t=1", "t=2"]
    np.testing.assert_array_equal(read(references)[3], pixels(3))
    (tmp_path / "0.tif").unlink()
    (tmp_path / "3.tif").unlink()
    with pytest.raises(TiffrefError, match="2 of 2 files"):
        tiffref.scan_sequence(tmp_path / "{t}.tif", allow_holes=True)


def test_an_interrupted_scan_leaves_nothing_behind(tmp_path, monkeypatch):
    for n in range(4):
        write(tmp_path / f"{n}.tif", pixels(n))

    def interrupt(done, total):
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            tiffref.scan_sequence(str(tmp_path / "*.tif"), workers=workers, progress=interrupt)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_sparse_grid_is_refused_before_it_is_built(tmp_path):
    write(tmp_path / "0.tif", pixels(0))
    columns = {"url": [str(tmp_path / "0.tif")] * 300} | dict.fromkeys("abc", range(300))
    with pytest.raises(ManifestMismatch, match="nearly all"):
        tiffref.scan_sequence(columns, allow_holes=True)


@pytest.mark.parametrize("offset", [2**63, 10**6, 3])
def test_directories_at_impossible_places(tmp_path, offset):
    write(tmp_path / "0.tif", pixels(0), bigtiff=True)
    raw = bytearray((tmp_path / "0.tif").read_bytes())
    raw[8:16] = offset.to_bytes(8, "little")
    (tmp_path / "1.tif").write_bytes(raw)
    with pytest.raises(TiffrefError, match=r"1\.tif"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"))


# ---- order of axes


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_axes_of_a_sequence(tmp_path, zarr_format):
    import zarr

    data = np.random.default_rng(6).integers(0, 60000, (2, 3, 4, 20, 31)).astype("u2")
    for z in range(4):
        # files of t, c, y, x, one for each z
        tifffile.imwrite(tmp_path / f"a_{z}.tif", data[:, :, z], imagej=True, resolution=(4, 4),
                         metadata={"axes": "TCYX", "unit": "um"})  # fmt: skip
    references = tiffref.scan_sequence(str(tmp_path / "a_{z}.tif"), axes="ngff")
    assert references.group["image"].dims == ("t", "c", "z", "y", "x")
    document = references.to_kerchunk(zarr_format)
    options = {"fo": document, "remote_protocol": "file", "asynchronous": True}
    options["remote_options"] = {"asynchronous": True}
    group = zarr.open_group("reference://", mode="r", storage_options=options)
    np.testing.assert_array_equal(group["image"][...], data)
    entry = (group.attrs["ome"] if zarr_format == 3 else group.attrs)["multiscales"][0]
    assert [axis["name"] for axis in entry["axes"]] == ["t", "c", "z", "y", "x"]
    with pytest.raises(SelectionError, match="first axes"):
        tiffref.append_sequence(references, str(tmp_path / "b_{z}.tif"))


def test_a_sequence_keeps_its_order_unless_asked(tmp_path):
    for z in range(2):
        tifffile.imwrite(tmp_path / f"a_{z}.tif", np.zeros((2, 3, 20, 31), "u2"), imagej=True,
                         metadata={"axes": "TCYX"}, resolution=(4, 4))  # fmt: skip
    references = tiffref.scan_sequence(str(tmp_path / "a_{z}.tif"))
    assert references.group["image"].dims == ("z", "t", "c", "y", "x")
    assert "multiscales" not in references.group.attributes
