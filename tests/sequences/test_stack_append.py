"""`append_sequence`: as if all files had been scanned at once."""

import os

import numpy as np
import pytest
import tifffile

import tiffref
from sequences import band_tags, geo_tags, pixels, write
from tiffref.errors import InvalidReferences, ManifestMismatch, SelectionError, StaleSource
from tiffref.read import Fetcher, read_array


def read(references):
    return read_array(references.group["image"], ..., fetch=Fetcher())


def coordinates(references):
    return {
        name: array.manifest.inlined[0]
        for name, array in references.group.children.items()
        if name != "image"
    }


def through_document(references, folder):
    references.write_fsspec(folder / "doc.json")
    return folder / "doc.json"


@pytest.fixture(params=["references", "document"])
def keep(request, tmp_path):
    """Appends work on references in memory and on what was written of them."""
    if request.param == "references":
        return lambda references: references
    return lambda references: through_document(references, tmp_path)


def put(folder, *names):
    for name in names:
        write(folder / f"S_{name}.tif", pixels(sum(map(ord, name))))
    return str(folder / "S_{time:%Y%m%d}_{band}.tif")


def test_new_files_between_and_after_the_old_ones(tmp_path, keep, monkeypatch):
    pattern = put(tmp_path, "20220505_B04", "20220601_B04")
    before = keep(tiffref.scan_sequence(pattern))
    put(tmp_path, "20220510_B04", "20220701_B04")
    opened = []
    import tiffref.sequences.file_scans as files

    scan = files.scan_with_facts
    monkeypatch.setattr(
        files, "scan_with_facts", lambda url, **how: opened.append(url) or scan(url, **how)
    )
    after = tiffref.append_sequence(before, pattern)
    assert [url.rsplit("_", 2)[1] for url in opened] == ["20220510", "20220701"]
    whole = tiffref.scan_sequence(pattern)
    np.testing.assert_array_equal(read(after), read(whole))
    assert coordinates(after) == coordinates(whole)
    assert after.group["image"].dims == whole.group["image"].dims
    assert after.series[0]["sequence"]["files"] == 4


def test_a_new_band_of_all_dates(tmp_path, keep):
    pattern = put(tmp_path, "20220505_B04", "20220601_B04")
    before = keep(tiffref.scan_sequence(pattern))
    put(tmp_path, "20220505_B8A")
    with pytest.raises(
        ManifestMismatch, match=r"1 position would have no file, got time=2022-06-01.*, band=B8A"
    ):
        tiffref.append_sequence(before, pattern)
    hole = tiffref.append_sequence(before, pattern, allow_holes=True)
    assert (read(hole)[1, 1] == 0).all()
    put(tmp_path, "20220601_B8A")
    after = tiffref.append_sequence(keep(hole), pattern)
    np.testing.assert_array_equal(read(after), read(tiffref.scan_sequence(pattern)))


def put_sparse(folder, day):
    """GDAL omits all tiles of an image that is nodata everywhere."""
    put(folder, f"{day}_B04")
    with tifffile.TiffFile(folder / f"S_{day}_B04.tif", mode="r+") as tif:
        for code in (324, 325):
            tif.pages[0].tags[code].overwrite([0] * 9)


def test_sparse_files_beside_holes_are_no_holes(tmp_path, keep):
    pattern = put(tmp_path, "20220505_B04", "20220505_B8A")
    put_sparse(tmp_path, "20220601")
    put_sparse(tmp_path, "20220701")
    before = keep(tiffref.scan_sequence(pattern, allow_holes=True))
    counts = []
    for name in ("20220701_B8A", "20220601_B8A"):
        put(tmp_path, name)
        files = tmp_path / f"S_{name}.tif"
        if name == "20220701_B8A":
            with pytest.raises(ManifestMismatch, match=r"1 position would have no file\. Pass"):
                tiffref.append_sequence(before, files)
        after = tiffref.append_sequence(before, files, allow_holes=not counts)
        counts.append(after.series[0]["sequence"]["n_holes"])
        before = keep(after)
    assert counts == [1, 0]


def test_sparse_files_are_no_holes(tmp_path, keep):
    pattern = put(tmp_path, "20220505_B04")
    put_sparse(tmp_path, "20220601")
    before = keep(tiffref.scan_sequence(pattern))
    put_sparse(tmp_path, "20220701")
    put(tmp_path, "20220801_B04")
    after = tiffref.append_sequence(before, pattern)
    np.testing.assert_array_equal(read(after), read(tiffref.scan_sequence(pattern)))
    assert after.series[0]["sequence"]["n_holes"] == 0
    put(tmp_path, "20220801_B8A")
    with pytest.raises(ManifestMismatch, match=r"3 positions .* time=2022-05-05.*2022-06-01"):
        tiffref.append_sequence(after, pattern)


def test_the_same_files_are_nothing_new(tmp_path, keep):
    pattern = put(tmp_path, "20220505_B04", "20220601_B04")
    before = tiffref.scan_sequence(pattern)
    assert tiffref.append_sequence(before, pattern) is before
    again = tiffref.append_sequence(keep(before), [tmp_path / "S_20220505_B04.tif"] * 2)
    np.testing.assert_array_equal(read(again), read(before))


def test_the_same_files_by_other_names(tmp_path, keep, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "a", "b", "c")
    before = tiffref.scan_sequence(["S_a.tif", "S_b.tif"])
    named = ["./S_a.tif", f"../{tmp_path.name}/S_b.tif", f"file://{tmp_path}/S_a.tif"]
    assert tiffref.append_sequence(before, named) is before
    after = tiffref.append_sequence(keep(before), [*named, "S_c.tif", "./S_c.tif"])
    assert after.group["image"].shape[0] == 3


def test_a_changed_file_is_named(tmp_path, keep):
    pattern = put(tmp_path, "20220505_B04", "20220601_B04")
    before = keep(tiffref.scan_sequence(pattern))
    os.utime(tmp_path / "S_20220505_B04.tif", (1, 1))
    with pytest.raises(StaleSource, match=r"1 file of.*S_20220505_B04\.tif.*refresh"):
        tiffref.append_sequence(before, pattern)


def test_files_that_are_counted_go_to_the_end(tmp_path, keep):
    for n in range(4):
        write(tmp_path / f"{n}.tif", pixels(n))
    before = keep(tiffref.scan_sequence([tmp_path / "0.tif", tmp_path / "2.tif"]))
    after = tiffref.append_sequence(before, str(tmp_path / "?.tif"))
    np.testing.assert_array_equal(read(after), np.stack([pixels(n) for n in (0, 2, 1, 3)]))


def test_numbers_in_another_notation_stay_labels(tmp_path, keep):
    for name in ("04", "8A"):
        write(tmp_path / f"b{name}.tif", pixels(1))
    before = keep(tiffref.scan_sequence(tmp_path / "b{band}.tif"))
    write(tmp_path / "b02.tif", pixels(2))
    after = tiffref.append_sequence(before, tmp_path / "b{band}.tif")
    labels = after.group["band"]
    values = np.frombuffer(labels.manifest.inlined[0], labels.dtype)
    assert values.tolist() == ["02", "04", "8A"]


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"compression": "lzw"}, "differ in compression"),
        ({"dtype": "i2"}, "differ in dtype"),
        ({"extratags": geo_tags(10.0, 0.0)}, "differ in georeference"),
        ({"extratags": [*geo_tags(0.0, 0.0), (42113, 2, 2, "7", True)]}, "differ in nodata"),
    ],
    ids=str,
)
def test_files_that_do_not_combine(tmp_path, keep, how, match):
    how = dict(how)
    write(tmp_path / "0.tif", pixels(0), extratags=geo_tags(0.0, 0.0))
    before = keep(tiffref.scan_sequence(tmp_path / "{t}.tif"))
    dtype = how.pop("dtype", "u2")
    write(tmp_path / "1.tif", pixels(1, dtype=dtype), **{"extratags": geo_tags(0.0, 0.0), **how})
    with pytest.raises(ManifestMismatch, match=match):
        tiffref.append_sequence(before, tmp_path / "{t}.tif")


def assert_only_the_last_is_refused(folder, keep, match):
    """Append 1.tif and 2.tif to 0.tif."""
    before = keep(tiffref.scan_sequence([folder / "0.tif"], pattern="{t}.tif"))
    after = tiffref.append_sequence(before, [folder / "1.tif"])
    assert after.group["image"].shape[0] == 2
    with pytest.raises(ManifestMismatch, match=match):
        tiffref.append_sequence(before, [folder / "2.tif"])


SCALE = '<GDALMetadata><Item name="{}" sample="0" role="{}">{}</Item></GDALMetadata>'


@pytest.mark.parametrize(
    ("name", "role", "values"),
    [("OFFSET", "offset", (5, 7)), ("SCALE", "scale", (2, 0.5)), ("UNITTYPE", "unittype", "mK")],
)
def test_files_whose_values_mean_something_else(tmp_path, keep, name, role, values):
    first, other = (
        {"extratags": [(42112, 2, 0, SCALE.format(name, role, value), True)]} for value in values
    )
    for n, how in enumerate((first, first, other)):
        write(tmp_path / f"{n}.tif", pixels(n), **how)
    assert_only_the_last_is_refused(tmp_path, keep, "differ in scale")


def test_files_whose_bands_are_in_another_order(tmp_path, keep):
    bands = {"photometric": "minisblack", "planarconfig": "contig"}
    for n, names in enumerate((("B2", "B3"), ("B2", "B3"), ("B3", "B2"))):
        write(tmp_path / f"{n}.tif", pixels(n, (32, 32, 2)), extratags=band_tags(*names), **bands)
    assert_only_the_last_is_refused(tmp_path, keep, "differ in bands")


def test_an_occupied_position(tmp_path, keep):
    for folder in "ab":
        write(tmp_path / folder / "1.tif", pixels(1))
    before = keep(tiffref.scan_sequence(tmp_path / "a" / "{t}.tif"))
    with pytest.raises(ManifestMismatch, match=r"a/1\.tif and .*b/1\.tif"):
        tiffref.append_sequence(before, tmp_path / "b" / "{t}.tif")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("field", ["t:d", "time:%Y%j", "name:s"])
def test_long_axes_which_documents_compress(tmp_path, field, zarr_format):
    for n in range(2001, 2072):
        write(tmp_path / f"{n}001.tif", pixels(n))
    files, pattern = sorted(tmp_path.glob("*.tif")), f"{{{field}}}.tif"
    document = tmp_path / "long.json"
    first = tiffref.scan_sequence(files[:-1], pattern=pattern)
    first.write_fsspec(document, zarr_format=zarr_format)
    after = tiffref.append_sequence(document, files)
    whole = tiffref.scan_sequence(files, pattern=pattern)
    assert coordinates(after) == coordinates(whole)
    np.testing.assert_array_equal(read(after), read(whole))


def test_references_that_cannot_be_appended_to(tmp_path):
    write(tmp_path / "0.tif", pixels(0))
    with pytest.raises(InvalidReferences, match="no sequence of files"):
        tiffref.append_sequence(tiffref.scan(tmp_path / "0.tif"), str(tmp_path / "*.tif"))
    joined = tiffref.scan_sequence([tmp_path / "0.tif"], concat="y")
    with pytest.raises(SelectionError, match="only be added along new axes"):
        tiffref.append_sequence(joined, str(tmp_path / "*.tif"))
    write(tmp_path / "1.tif", pixels(1), compression=None)
    mixed = tiffref.scan_sequence([tmp_path / "0.tif", tmp_path / "1.tif"], on_mismatch="decode")
    write(tmp_path / "2.tif", pixels(2))
    with pytest.raises(ManifestMismatch, match="differ in compression"):
        tiffref.append_sequence(mixed, [tmp_path / "2.tif"])
