"""`scan_sequence`: the array is NumPy's stack of the files; what does not combine is refused."""

import datetime

import fsspec
import numpy as np
import pytest
import tifffile

import tiffref
from sequences import TILED, pixels, read, write
from tiffref.errors import ManifestMismatch, SelectionError, UnknownArgument
from tiffref.zarr import ZarrFileSequenceStore

xr = pytest.importorskip("xarray")


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


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_date_may_be_a_path_of_folders(tmp_path, scheme):
    fs = fsspec.filesystem("memory" if scheme else "file")
    for day in (5, 17):
        write(tmp_path / "a.tif", pixels(day))
        fs.makedirs(f"{tmp_path}/2022/01/{day:02}")
        fs.put_file(str(tmp_path / "a.tif"), f"{tmp_path}/2022/01/{day:02}/B04.tif")
    pattern = f"{scheme}{tmp_path}/{{time:%Y/%m/%d}}/{{band}}.tif"
    references = tiffref.scan_sequence(pattern)
    assert references.group["image"].dims == ("time", "band", "y", "x")
    days = read(references, "time").astype("M8[s]").astype(str)
    assert days.tolist() == ["2022-01-05T00:00:00", "2022-01-17T00:00:00"]


def test_a_field_that_depends_on_others_is_named(tmp_path):
    names = ("20240601_24a1_B1", "20240602_24b2_B1", "20240601_24a1_B2", "20240602_24b2_B2")
    data = {name: write(tmp_path / f"{name}.tif", pixels(n)) for n, name in enumerate(names)}
    with pytest.raises(ManifestMismatch, match=r"4 of 8 pos.*Leave out the field 'sat', .*{}"):
        tiffref.scan_sequence(tmp_path / "{time:%Y%m%d}_{sat}_{band}.tif")
    found = read(tiffref.scan_sequence(tmp_path / "{time:%Y%m%d}_{}_{band}.tif"))
    np.testing.assert_array_equal(found[1], [data[names[1]], data[names[3]]])
    (tmp_path / f"{names[3]}.tif").unlink()  # now a file is missing
    with pytest.raises(ManifestMismatch, match=r"5 of 8 positions have no file, [^{}]*$"):
        tiffref.scan_sequence(tmp_path / "{time:%Y%m%d}_{sat}_{band}.tif")


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
    with pytest.raises(SelectionError, match=r"categories for unknown axes, got .'colour'"):
        tiffref.scan_sequence(
            tmp_path / "S2_{time:%Y%m%d}_{band}.tif", categories={"colour": {"B08": 0}}
        )


def test_categories_have_numbers_as_names_have_them(tmp_path):
    data = {text: write(tmp_path / f"img{text}.tif", pixels(int(text))) for text in ("001", "002")}
    pattern = tmp_path / "img{t}.tif"
    references = tiffref.scan_sequence(pattern, categories={"t": {"002": 0, "001": 1}})
    np.testing.assert_array_equal(read(references), [data["002"], data["001"]])
    references = tiffref.scan_sequence(pattern, categories={"t": {2: 0, 1: 1}})
    np.testing.assert_array_equal(read(references), [data["002"], data["001"]])


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


def test_a_table_gives_coordinates(tmp_path):
    data = [write(tmp_path / f"{n}.tif", pixels(n)) for n in range(3)]
    (tmp_path / "list.csv").write_text(
        "path,time,depth\n" + "".join(f"{n}.tif,2022-05-0{3 - n},{n * 0.5}\n" for n in range(3))
    )
    columns = {"url": [tmp_path / f"{n}.tif" for n in range(3)], "depth": [1.5, 0.5, 2.5]}
    with pytest.raises(ManifestMismatch, match="6 of 9 positions have no file"):
        tiffref.scan_sequence(tmp_path / "list.csv")
    references = tiffref.scan_sequence(columns)
    np.testing.assert_array_equal(read(references), np.stack([data[1], data[0], data[2]]))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns).assign(url=lambda f: f.url.astype(str))
    assert (
        tiffref.scan_sequence(frame).group["image"].manifest == references.group["image"].manifest
    )
    with pytest.raises(SelectionError, match="no column of paths or URLs"):
        tiffref.scan_sequence({"depth": [1]})


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
    with pytest.raises(SelectionError, match="starts with the axes"):
        tiffref.append_sequence(references, str(tmp_path / "b_{z}.tif"))


def test_a_sequence_keeps_its_order_unless_asked(tmp_path):
    for z in range(2):
        tifffile.imwrite(tmp_path / f"a_{z}.tif", np.zeros((2, 3, 20, 31), "u2"), imagej=True,
                         metadata={"axes": "TCYX"}, resolution=(4, 4))  # fmt: skip
    references = tiffref.scan_sequence(str(tmp_path / "a_{z}.tif"))
    assert references.group["image"].dims == ("z", "t", "c", "y", "x")
    assert "multiscales" not in references.group.attributes


def test_misspelled_arguments_name_the_nearest(tmp_path):
    write(tmp_path / "a_t1.tif", pixels(1))
    files = str(tmp_path / "a_t{t}.tif")
    for name, near in (("patern", "pattern"), ("axesordr", "axesorder"), ("levels", "level")):
        with pytest.raises(UnknownArgument, match=f"{name}'. Did you mean {near}[?]") as caught:
            tiffref.scan_sequence(files, **{name: 0})
        assert isinstance(caught.value, TypeError)
    with pytest.raises(UnknownArgument, match=r"append_sequence\(\) has no argument 'worker'"):
        tiffref.append_sequence(tiffref.scan_sequence(files), files, worker=2)
    with pytest.raises(UnknownArgument, match=r"stack_arrays\(\) has no argument 'sidecars'"):
        ZarrFileSequenceStore(files, imread=tifffile.imread, sidecars=True)


@pytest.mark.parametrize("n_masked", [1, 2])
def test_masks_that_are_left_out_are_reported(n_masked, tmp_path):
    for n in range(2):
        with tifffile.TiffWriter(tmp_path / f"{n}.tif") as tiff:
            tiff.write(pixels(n, (32, 32)), metadata=None, **TILED)
            if n < n_masked:
                mask = pixels(n, (32, 32)) > 99
                tiff.write(mask, subfiletype=4, photometric="mask", metadata=None, tile=(16, 16))
    with pytest.warns(tiffref.MetadataWarning, match=f"masks of {n_masked} of 2 files"):
        assert list(tiffref.scan_sequence(tmp_path / "{t}.tif").group.children) == ["image", "t"]
    if n_masked == 2:
        whole = tiffref.scan_sequence(tmp_path / "{t}.tif", series=None)
        np.testing.assert_array_equal(read(whole, "mask")[1], pixels(1, (32, 32)) > 99)
        alone = tiffref.scan_sequence(tmp_path / "{t}.tif", series=1)
        np.testing.assert_array_equal(read(alone)[1], pixels(1, (32, 32)) > 99)


@pytest.mark.parametrize("stack", [tiffref.scan_sequence, tiffref.append_sequence])
def test_files_that_a_function_reads_are_refused(tmp_path, stack):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), "u1"))

    def halved(name):
        return tifffile.imread(name) / 2

    files = tifffile.FileSequence(halved, str(tmp_path / "*.tif"))
    before = [] if stack is tiffref.scan_sequence else [tiffref.scan_sequence(tmp_path / "*.tif")]
    with pytest.raises(tiffref.SelectionError, match="halved"):
        stack(*before, files)
