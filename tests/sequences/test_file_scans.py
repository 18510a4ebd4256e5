"""What is kept of each file of a sequence: the bytes, the dates, what all have in common."""

import datetime

import fsspec
import numpy as np
import pytest
import tifffile

import tiffref
from sequences import pixels, read, write
from tiffref.errors import (
    MalformedTiff,
    ManifestMismatch,
    MetadataWarning,
    TiffrefError,
)


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


def test_attributes_of_single_files_are_left_out(tmp_path):
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


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(tmp_path, workers):
    data = [write(tmp_path / f"{n:03}.tif", pixels(n), software=f"v{n % 3}") for n in range(60)]
    told = []
    references = tiffref.scan_sequence(
        str(tmp_path / "*.tif"), workers=workers, progress=lambda *n: told.append(n)
    )
    np.testing.assert_array_equal(read(references), np.stack(data))
    assert told[-1] == (60, 60)


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
    (tmp_path / "1.tif").write_bytes(b"II*\0" + b"\xff" * 4)
    with pytest.raises(TiffrefError, match=r"1\.tif: [^;]*, got offset 4294967295") as caught:
        tiffref.scan_sequence(tmp_path / "{t}.tif")
    assert "allow_holes" not in str(caught.value)  # would leave nothing
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


@pytest.mark.parametrize("offset", [2**63, 10**6, 3])
def test_directories_at_impossible_places(tmp_path, offset):
    write(tmp_path / "0.tif", pixels(0), bigtiff=True)
    raw = bytearray((tmp_path / "0.tif").read_bytes())
    raw[8:16] = offset.to_bytes(8, "little")
    (tmp_path / "1.tif").write_bytes(raw)
    with pytest.raises(TiffrefError, match=r"1\.tif"):
        tiffref.scan_sequence(str(tmp_path / "*.tif"))


def write_ome_set(folder, names):
    """Write files that each describe all of the set: a channel of 2 planes in each file."""
    planes = "".join(
        f'<TiffData FirstC="{n}" PlaneCount="2"><UUID FileName="{name}">{n}</UUID></TiffData>'
        for n, name in enumerate(names)
    )
    image = (
        '<Image ID="Image:0"><Pixels DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="6" '
        f'SizeZ="2" SizeC="{len(names)}" SizeT="1">{planes}</Pixels></Image></OME>'
    )
    for n, name in enumerate(names):
        data = np.full((2, 6, 8), n, "u2")
        text = f'<OME UUID="{n}">{image}'
        tifffile.imwrite(folder / name, data, description=text, metadata=None)


def test_members_of_one_set_are_reported_since_each_stands_for_all(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_ome_set(tmp_path / folder, ["c0.ome.tif", "c1.ome.tif"])
    with pytest.warns(MetadataWarning, match=r"2 of 2 files .*c0.*c1.*Scan one file of each set"):
        references = tiffref.scan_sequence(tmp_path / "a" / "*.tif")
    assert references.group["image"].dims == ("i", "c", "z", "y", "x")
    references = tiffref.scan_sequence([tmp_path / "a/c0.ome.tif", tmp_path / "b/c0.ome.tif"])
    assert read(references)[:, :, 0, 0, 0].tolist() == [[0, 1], [0, 1]]
