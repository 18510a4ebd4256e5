"""`plates`: names of screening instruments become OME-NGFF plates."""

import itertools
import json

import numpy as np
import pytest
import tifffile

import tiffref
import zarr
from tiffref.errors import ManifestMismatch, SelectionError
from tiffref.zarr import ZarrTiffStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:zarr")


@pytest.fixture
def opera(tmp_path):
    """Three wells of a plate, one with a single field; two fields, channels and planes."""
    rng = np.random.default_rng(8)
    data = {}
    for row, column, field in [(2, 3, 1), (2, 3, 2), (2, 11, 1), (4, 3, 1), (4, 3, 2)]:
        image = rng.integers(0, 60000, (2, 3, 20, 31)).astype("u2")
        data[f"{'ABCD'[row - 1]}/{column}/{field}"] = image
        for c, z in itertools.product(range(2), range(3)):
            name = f"r{row:02d}c{column:02d}f{field:02d}p{z + 1:02d}-ch{c + 1}sk1fk1fl1.tiff"
            tifffile.imwrite(tmp_path / name, image[c, z], compression="zlib", rowsperstrip=20)
    return tmp_path, data


def scan(folder, **options):
    return tiffref.scan_sequence(str(folder / "*.tiff"), pattern="opera", layout="hcs", **options)


def open_group(references, zarr_format, folder):
    path = folder / f"refs{zarr_format}.json"
    references.write_fsspec(path, zarr_format=zarr_format)
    return zarr.open_group(f"reference::{path}", mode="r")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plate_with_wells_that_are_missing(opera, zarr_format):
    folder, data = opera
    group = open_group(scan(folder), zarr_format, folder)
    described = group.attrs["ome"] if zarr_format == 3 else group.attrs
    assert [well["path"] for well in described["plate"]["wells"]] == ["B/3", "B/11", "D/3"]
    assert [row["name"] for row in described["plate"]["rows"]] == ["B", "D"]
    assert [one["name"] for one in described["plate"]["columns"]] == ["3", "11"]
    assert "A" not in group and "D/11" not in group
    for path, expected in data.items():
        field = group[path]
        attributes = field.attrs["ome"] if zarr_format == 3 else field.attrs
        (entry,) = attributes["multiscales"]
        assert [axis["name"] for axis in entry["axes"]][-4:] == ["c", "z", "y", "x"]
        found = field[entry["datasets"][0]["path"]][...]
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    models = pytest.importorskip(f"ome_zarr_models.v0{zarr_format + 2}")
    plate = models.HCS.from_zarr(group)
    assert plate.n_wells == 3 if hasattr(plate, "n_wells") else len(list(plate.well_groups)) == 3


def test_plates_fit_the_schemas(opera):
    from test_ngff import assert_valid

    folder, _ = opera
    group = open_group(scan(folder), 3, folder)
    assert_valid(dict(group.attrs), "0.5", "plate")
    assert_valid(dict(group["B/3"].attrs), "0.5", "well")
    assert_valid(dict(group["B/3/1"].attrs), "0.5")


def test_the_record_leads_to_every_field(opera):
    folder, data = opera
    document = scan(folder).to_kerchunk()
    series = json.loads(json.loads(document["refs"][".zattrs"])["tiffref"])["series"]
    assert [row["name"] for row in series] == list(data)
    for n, (row, expected) in enumerate(zip(series, data.values(), strict=True)):
        store = ZarrTiffStore(document, series=n, allow="*")
        assert row["levels"][0]["path"] == f"{row['name']}/image"
        np.testing.assert_array_equal(store[...].reshape(expected.shape), expected)


def test_a_field_that_lacks_files(opera):
    folder, data = opera
    (folder / "r02c03f02p02-ch1sk1fk1fl1.tiff").unlink()
    with pytest.raises(ManifestMismatch, match=r"1 fields lack.*B/3/2.*allow_holes"):
        scan(folder)
    group = open_group(scan(folder, allow_holes=True), 2, folder)
    expected = data["B/3/2"].copy()
    expected[0, 1] = 0
    found = group["B/3/2/image"][...].reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_wells_by_name(tmp_path):
    for name in ("A01", "B12"):
        tifffile.imwrite(tmp_path / f"p_{name}.tif", np.full((8, 9), ord(name[0]), "u1"))
    references = tiffref.scan_sequence(str(tmp_path / "p_{well}.tif"), layout="hcs")
    plate = references.group.attributes["plate"]
    assert [well["path"] for well in plate["wells"]] == ["A/1", "B/12"]
    assert references.group["B/12/0/image"].shape == (8, 9)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{well}_{field:d}.tif", ["A1_1.tif", "A01_1.tif"]),
        ("{well}_{field:d}.tif", ["a01_1.tif", "A01_1.tif"]),
        ("{well}_{site:d}_{position:d}.tif", ["B3_1_11.tif", "B3_11_1.tif", "B3_1_1.tif",
                                              "B3_11_11.tif"]),
        ("{row:d}_{column:d}.tif", ["-1_1.tif", "0_1.tif"]),
    ],
)  # fmt: skip
def test_fields_that_would_have_the_same_place(tmp_path, pattern, names):
    """Of two files one would be left out."""
    for n, name in enumerate(names):
        tifffile.imwrite(tmp_path / name, np.full((20, 24), n, "u2"))
    with pytest.raises(ManifestMismatch, match="same path"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"), pattern=pattern, layout="hcs")


def test_names_without_wells(tmp_path):
    for n in range(2):
        tifffile.imwrite(tmp_path / f"a_{n}.tif", np.zeros((8, 9), "u1"))
    with pytest.raises(SelectionError, match="row and column"):
        tiffref.scan_sequence(str(tmp_path / "a_{t}.tif"), layout="hcs")
    with pytest.raises(SelectionError, match="dataset"):
        tiffref.scan_sequence(str(tmp_path / "a_{t}.tif"), layout="plate")
    with pytest.raises(SelectionError, match="B03"):
        tiffref.scan_sequence(str(tmp_path / "a_{well}.tif"), layout="hcs")


def test_a_plate_is_not_one_image(opera):
    folder, _ = opera
    with pytest.raises(SelectionError, match="layout='hcs'"):
        tiffref.scan_sequence(
            str(folder / "*.tiff"), pattern="opera", axes="ngff", allow_holes=True
        )


def test_files_of_plates_that_differ_in_rank(opera):
    folder, _ = opera
    tifffile.imwrite(folder / "r05c03f01p01-ch1sk1fk1fl1.tiff", np.zeros((2, 20, 31), "u2"))
    with pytest.raises(ManifestMismatch, match="dimensions"):
        scan(folder)
