"""Files put together: joined, as a mosaic, with holes; and what is refused."""

import json
import warnings

import numpy as np
import pytest
import tifffile

import tiffref
from sequences import band_tags, geo_tags, pixels, read, write
from tiffref.errors import (
    ManifestMismatch,
    SelectionError,
)
from tiffref.zarr import ZarrTiffStore

xr = pytest.importorskip("xarray")


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


def test_concat_names_missing_dimensions(tmp_path):
    write(tmp_path / "a_1.tif", pixels(0))
    with pytest.raises(SelectionError, match="not a dimension of the files, got q"):
        tiffref.scan_sequence([tmp_path / "a_1.tif"], concat="q")
    with pytest.raises(SelectionError, match="concat is not a field"):
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


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_mosaic_has_the_masks_of_its_files(tmp_path, is_beside):
    whole = pixels(0, (32, 64))
    for n in range(2):
        part = whole[:, 32 * n : 32 * n + 32]
        write(tmp_path / f"{n}.tif", part, extratags=geo_tags(5e5 + 320 * n, 6e6))
        mask = {"photometric": "mask", "subfiletype": 4, "tile": (16, 16), "metadata": None}
        if is_beside:
            tifffile.imwrite(tmp_path / f"{n}.tif.msk", part > 99, **mask)
        else:
            tifffile.imwrite(tmp_path / f"{n}.tif", part > 99, append=True, **mask)
    options = {} if is_beside else {"series": None}
    references = tiffref.scan_sequence(tmp_path / "?.tif", mosaic=True, **options)
    np.testing.assert_array_equal(read(references), whole)
    np.testing.assert_array_equal(read(references, "mask"), whole > 99)
    assert "multiscales" not in references.group.attributes


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_mosaic_has_the_bands_of_its_files(tmp_path, planar, byteorder):
    for n in range(2):
        shape = (32, 32, 2) if planar == "contig" else (2, 32, 32)
        write(
            tmp_path / f"{n}.tif", pixels(n, shape), planarconfig=planar, byteorder=byteorder,
            photometric="minisblack", extratags=geo_tags(5e5 + 320 * n, 6e6),
        )  # fmt: skip
    references = tiffref.scan_sequence(tmp_path / "?.tif", mosaic=True)
    assert references.group["band"].dims == ("band",)
    np.testing.assert_array_equal(read(references, "band"), [1, 2])


def test_overviews_of_a_mosaic_off_the_chunks_can_be_left_out(tmp_path):
    for n in range(2):
        path, tags = tmp_path / f"{n}.tif", geo_tags(5e5 + 480 * n, 6e6)
        write(path, pixels(n, (48, 48)), extratags=tags)
        write(path, pixels(n, (24, 24)), append=True, subfiletype=1)
    with pytest.raises(ManifestMismatch, match=r"chunk boundaries.*level=0"):
        tiffref.scan_sequence(tmp_path / "?.tif", mosaic=True)
    assert tiffref.scan_sequence(tmp_path / "?.tif", mosaic=True, level=0).group["image"].shape == (
        48,
        96,
    )


def test_xarray_joins_files_off_the_chunks(tmp_path):
    """Such as those of WorldCover and of the Copernicus DEM."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("dask")
    whole, files = pixels(0, (80, 80)), []
    for row, column in np.ndindex(2, 2):
        files.append(tmp_path / f"{row}{column}.tif")
        part = whole[row * 40 : row * 40 + 40, column * 40 : column * 40 + 40]
        write(files[-1], part, extratags=geo_tags(400.0 * column, -400.0 * row))
        write(files[-1], part[::2, ::2], append=True, subfiletype=1)
    with pytest.raises(ManifestMismatch, match=r"chunk boundaries.*xr\.open_mf") as caught:
        tiffref.scan_sequence(files, mosaic=True, level=0)
    call = str(caught.value).rpartition("joins them: ")[2].removesuffix(".")
    assert call.startswith("xr.open_mfdataset(files, ")
    with eval(call, {"xr": xarray, "files": files}) as joined:
        np.testing.assert_array_equal(joined.image, whole)


def test_a_mosaic_is_of_one_image_of_each_file(tmp_path):
    write(tmp_path / "0.tif", pixels(0, (32, 32)), extratags=geo_tags(0.0, 0.0))
    write(tmp_path / "0.tif", pixels(0, (48, 16), "u1"), append=True)
    with pytest.raises(ManifestMismatch, match=r"one image of each file.*series=0"):
        tiffref.scan_sequence(tmp_path / "0.tif", mosaic=True, series=None)


def test_mosaic_with_a_hole(tmp_path, mosaic):
    next(tmp_path.glob("t1_*.tif")).unlink()
    told = "4 of 48 chunks of the mosaic have no file. There is one mosaic for each t: use fewer"
    with pytest.raises(ManifestMismatch, match=told):
        tiffref.scan_sequence(tmp_path / "t{t}_*.tif", mosaic=True)
    references = tiffref.scan_sequence(tmp_path / "t{t}_*.tif", mosaic=True, allow_holes=True)
    assert (read(references) == mosaic).mean() > 0.9


def test_mosaic_off_the_grid(tmp_path):
    write(tmp_path / "0.tif", pixels(0, (32, 32)), extratags=geo_tags(0.0, 0.0))
    for x, match in (
        (325.0, "off the pixel grid"),
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
    with pytest.raises(ManifestMismatch, match="no georeference"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True)


def test_a_mosaic_of_each_utm_zone(tmp_path):
    pytest.importorskip("pyproj")
    whole = {zone: pixels(zone, (32, 64)) for zone in (32632, 32633)}
    for zone, column in np.ndindex(2, 2):
        part = whole[32632 + zone][:, column * 32 : column * 32 + 32]
        tags = geo_tags(320.0 * column, 0.0, epsg=32632 + zone)
        write(tmp_path / f"{zone}{column}.tif", part, extratags=tags)
    with pytest.raises(ManifestMismatch, match=r"reference system.*on_mismatch='split' makes one"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True)
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True, on_mismatch="split")
    for n, (zone, data) in enumerate(whole.items()):
        np.testing.assert_array_equal(read(references, f"part_{n}/image"), data)
        assert references.group[f"part_{n}"].attributes["proj:code"] == f"EPSG:{zone}"


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
    with pytest.raises(ManifestMismatch, match="need different codecs"):
        references.write_fsspec(tmp_path / "no.json")
    assert not (tmp_path / "no.json").exists()


BANDS = {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("names", "is_other"),
    [(("B3", "B2"), True), (("B2", "B3"), False), (("B2 1 May", "B3 1 May"), False), ((), False)],
)
def test_bands_in_another_order_are_refused(names, is_other, tmp_path):
    for n, one in enumerate((("B2", "B3"), names)):
        write(tmp_path / f"{n}.tif", pixels(n, (32, 32, 2)), extratags=band_tags(*one), **BANDS)
    if not is_other:
        assert tiffref.scan_sequence(tmp_path / "{t}.tif").group["image"].shape == (2, 32, 32, 2)
        return
    with pytest.raises(ManifestMismatch, match=r"bands \(B2, B3\)"):
        tiffref.scan_sequence(tmp_path / "{t}.tif")
    parts = tiffref.scan_sequence(tmp_path / "{t}.tif", on_mismatch="split").group
    assert parts["part_1/image"].attributes["long_name"] == ["B3", "B2"]


def test_colours_in_another_order_are_refused(tmp_path):
    item = '<Item name="COLORINTERP" sample="{}" role="colorinterp">{}</Item>'
    for n, colors in enumerate((("Red", "Green"), ("Green", "Red"))):
        text = "".join(item.format(at, color) for at, color in enumerate(colors))
        tags = [(42112, 2, 0, f"<GDALMetadata>{text}</GDALMetadata>", True)]
        write(tmp_path / f"{n}.tif", pixels(n, (32, 32, 2)), extratags=tags, **BANDS)
    with pytest.raises(ManifestMismatch, match="differ in bands"):
        tiffref.scan_sequence(tmp_path / "{t}.tif")


def test_inverted_values_are_refused(tmp_path):
    for n, photometric in enumerate(("minisblack", "miniswhite")):
        write(tmp_path / f"{n}.tif", pixels(n, dtype="u1"), photometric=photometric)
    with pytest.raises(ManifestMismatch, match="WhiteIsZero"):
        tiffref.scan_sequence(tmp_path / "{t}.tif")
    first = tiffref.scan_sequence([tmp_path / "0.tif"], pattern="{t}.tif")
    with pytest.raises(ManifestMismatch, match="WhiteIsZero"):
        tiffref.append_sequence(first, tmp_path / "1.tif")


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
    with pytest.raises(SelectionError, match="would change pixels"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore=["dtype"])


def test_nodata_cannot_be_ignored_where_chunks_are_missing(tmp_path):
    for n, nodata in enumerate("37"):
        write(tmp_path / f"{n}.tif", pixels(n), extratags=[(42113, 2, 2, nodata, True)])
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore="nodata")
    assert references.group["image"].fill_value is None
    with tifffile.TiffFile(tmp_path / "1.tif", mode="r+") as tif:
        page = tif.pages[0]
        page.tags["TileOffsets"].overwrite((0, *page.dataoffsets[1:]))
        page.tags["TileByteCounts"].overwrite((0, *page.databytecounts[1:]))
    with pytest.raises(ManifestMismatch, match="nodata"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), ignore=["nodata"])


def test_holes_are_named_or_allowed(bands, tmp_path):
    (tmp_path / "S2_20220505_B08.tif").unlink()
    pattern = tmp_path / "S2_{time:%Y%m%d}_{band}.tif"
    with pytest.raises(ManifestMismatch, match=r"1 of 6 positions.*time=2022-05-05.*band=B08"):
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


def test_a_sparse_grid_is_refused_before_it_is_built(tmp_path):
    write(tmp_path / "0.tif", pixels(0))
    columns = {"url": [str(tmp_path / "0.tif")] * 300} | dict.fromkeys("abc", range(300))
    with pytest.raises(ManifestMismatch, match="nearly all"):
        tiffref.scan_sequence(columns, allow_holes=True)


def test_files_at_different_places_are_not_stacked(tmp_path):
    for n in range(2):
        write(tmp_path / f"{n}.tif", pixels(n), extratags=geo_tags(480.0 * n, 0.0))
    with pytest.raises(ManifestMismatch, match="differ in georeference"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"))


def test_joined_files_at_one_position_have_one_length(tmp_path):
    for name, rows in (("0_0", 32), ("0_1", 48), ("1_0", 32), ("1_1", 32)):
        write(tmp_path / f"{name}.tif", pixels(0, (rows, 32)))
    with pytest.raises(ManifestMismatch, match="same position along 'y' differ in length"):
        tiffref.scan_sequence(tmp_path / "{row:d}_{t:d}.tif", concat={"row": "y"})


def test_joined_files_lose_the_placement_but_not_the_crs(tmp_path):
    for n in range(2):
        write(tmp_path / f"{n}.tif", pixels(n, (32, 32)), extratags=geo_tags(0.0, 0.0))
    stacked = tiffref.scan_sequence(tmp_path / "{t:d}.tif").group["image"].attributes
    joined = tiffref.scan_sequence(tmp_path / "{n:d}.tif", concat={"n": "y"}).group
    assert "spatial:transform" in stacked and "y" not in joined.children
    for node in (joined, joined["image"]):
        assert not [name for name in node.attributes if name.startswith("spatial:")]
        assert "multiscales" not in node.attributes
    assert joined["image"].attributes["proj:code"] == "EPSG:32633"


@pytest.mark.parametrize("sizes", [(2.0, 2.0), (2.0, 4.0)])
def test_other_pixel_sizes_are_warned_of(sizes, tmp_path):
    for n, size in enumerate(sizes):
        tifffile.imwrite(
            tmp_path / f"{n}.ome.tif", pixels(n, (32, 32)),
            metadata={"PhysicalSizeX": size, "PhysicalSizeY": 2.0},
        )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiffref.scan_sequence(tmp_path / "{t:d}.ome.tif")
    texts = [str(one.message) for one in caught]
    assert [("files differ in coordinates" in text, "got x" in text) for text in texts] == (
        [(True, True)] if sizes[0] != sizes[1] else []
    )


@pytest.mark.parametrize("level", [0, 1])
def test_all_levels_must_combine(level, tmp_path):
    for n in range(2):
        codecs = ["zlib", "zlib"]
        codecs[level] = ("zlib", "lzw")[n]
        data = pixels(n, (64, 64))
        with tifffile.TiffWriter(tmp_path / f"{n}.tif") as tif:
            for step, codec in zip((1, 2), codecs, strict=True):
                how = {"subifds": 1} if step == 1 else {"subfiletype": 1}
                tif.write(data[::step, ::step], tile=(16, 16), compression=codec, **how)
    with pytest.raises(ManifestMismatch, match="2 groups differ in compression"):
        tiffref.scan_sequence(tmp_path / "{t:d}.tif")


def test_the_last_files_of_a_mosaic_may_be_smaller(tmp_path):
    whole = pixels(0, (32, 52))
    for n, columns in enumerate((slice(0, 32), slice(32, 52))):
        write(tmp_path / f"{n}.tif", whole[:, columns], extratags=geo_tags(320.0 * n, 0.0))
    references = tiffref.scan_sequence(str(tmp_path / "*.tif"), mosaic=True)
    np.testing.assert_array_equal(read(references), whole)
