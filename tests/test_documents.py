"""Documents to other formats and addresses, and brought up to date, in Python and by commands.

Files copied back are accepted, changed ones are scanned again, and nothing else is touched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from archive import write_image, write_set
from samples import rng

import tiffref
import tiffref.catalog as catalog
from sequences import geo_tags
from tiffref import documents
from tiffref.cli import main
from tiffref.errors import InvalidReferences, SelectionError, SourceError, StaleSource
from tiffref.io.source import check_unchanged
from tiffref.read import Fetcher, read_array
from tiffref.zarr import ZarrTiffStore


@pytest.fixture
def document(tmp_path: Path) -> Path:
    write_image(tmp_path / "image.tif")
    tiffref.scan(tmp_path / "image.tif").write_fsspec(tmp_path / "refs.json", url="s3://a/x")
    return tmp_path / "refs.json"


def test_json_to_parquet_and_back(document: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    catalog.convert(document, tmp_path / "refs.parq")
    catalog.convert(tmp_path / "refs.parq", tmp_path / "back.json")
    assert json.loads(document.read_text()) == json.loads((tmp_path / "back.json").read_text())
    with pytest.raises(InvalidReferences, match="only Zarr v2"):
        catalog.convert(document, tmp_path / "three.parq", zarr_format=3)


def test_a_folder_of_any_name_may_be_rewritten(document: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    tiffref.References.open(document, allow="*").to_parquet(tmp_path / "refs")
    assert catalog.rewrite(tmp_path / "refs", tmp_path / "refs", {"s3://a/": "https://b/"}) == 1
    sources = tiffref.References.open(tmp_path / "refs").sources
    assert [source.url for source in sources] == ["https://b/x/image.tif"]


def test_files_that_moved(document: Path, tmp_path: Path) -> None:
    moves = {"s3://a/": "https://b/", "s3://a/x/": "https://c/"}
    assert catalog.rewrite(document, tmp_path / "new.json", moves) == 1
    refs = json.loads((tmp_path / "new.json").read_text())["refs"]
    assert refs["image/0.0"][0] == "https://c/image.tif"
    before = json.loads(document.read_text())["refs"]
    assert refs["image/0.0"][1:] == before["image/0.0"][1:]
    assert refs["image/.zarray"] == before["image/.zarray"]
    with pytest.raises(SelectionError, match="no address begins with"):
        catalog.rewrite(document, tmp_path / "new.json", {"s3://z/": "s3://y/"})


@pytest.mark.parametrize("way", ["url", "rewrite"])
def test_copies_elsewhere_have_times_of_their_own(way: str, tmp_path: Path) -> None:
    for name in ("here", "there"):
        write_image(tmp_path / name / "image.tif", value=1)
    image, copy = tmp_path / "here/image.tif", tmp_path / "there/image.tif"
    where = tmp_path / "refs.json"
    os.utime(copy, (1e9, 1e9))
    if way == "url":
        tiffref.scan(image).write_fsspec(where, url=f"file://{copy.parent}/")
    else:
        tiffref.scan(image).write_fsspec(where)
        catalog.rewrite(where, where, {str(image.parent): str(copy.parent)})
    assert tiffref.validate(where, sources=True, pixels="all").findings == []
    assert (ZarrTiffStore(where)[:] == ZarrTiffStore(image)[:]).all()
    # its size is what a copy shares
    copy.write_bytes(copy.read_bytes() + b"more")
    with pytest.raises(StaleSource, match="got size"):
        ZarrTiffStore(where)[:]


def test_version_0_stays_version_0(document: Path, tmp_path: Path) -> None:
    catalog.convert(document, tmp_path / "old.json", version=0)
    catalog.rewrite(tmp_path / "old.json", tmp_path / "old.json", {"s3://": "gs://"})
    assert json.loads((tmp_path / "old.json").read_text())["image/0.0"][0] == "gs://a/x/image.tif"


def test_zarr_3_stays_zarr_3(document: Path, tmp_path: Path) -> None:
    catalog.convert(document, tmp_path / "three.json", zarr_format=3)
    catalog.rewrite(tmp_path / "three.json", tmp_path / "three.json", {"s3://": "gs://"})
    refs = json.loads((tmp_path / "three.json").read_text())["refs"]
    assert "zarr.json" in refs and refs["image/c/0/0"][0] == "gs://a/x/image.tif"


def test_the_commands_convert_and_rewrite(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    assert main(["convert", str(document), str(tmp_path / "r.parq")]) == 0
    assert "chunks" in capsys.readouterr().out
    arguments = ["rewrite", str(document), "--from", "s3://a/", "--to", "https://b/"]
    assert main(arguments) == 0
    assert "https://b/x/image.tif" in document.read_text()
    assert main([*arguments, "--to", "https://c/"]) == 2
    assert main(arguments) == 2


def test_zarr_3_is_ome_ngff_05(tmp_path: Path) -> None:
    from microscopes import write_rgb_pyramid

    write_rgb_pyramid(tmp_path / "a.ome.tif")
    references = tiffref.scan(tmp_path / "a.ome.tif")
    references.write_fsspec(tmp_path / "two.json")
    references.write_fsspec(tmp_path / "expected.json", zarr_format=3)
    catalog.convert(tmp_path / "two.json", tmp_path / "three.json", zarr_format=3)
    found, expected = (
        json.loads((tmp_path / name).read_text())["refs"]
        for name in ("three.json", "expected.json")
    )
    assert found.keys() == expected.keys()
    assert json.loads(found["zarr.json"])["attributes"]["ome"]["version"] == "0.5"


def write_tiled(path: Path, pixels: np.ndarray, byteorder: str = "<") -> None:
    tifffile.imwrite(
        path, pixels, tile=(16, 16), compression="zlib", metadata=None, byteorder=byteorder
    )


def random_pixels() -> np.ndarray:
    return rng.integers(0, 999, (40, 48)).astype("u2")


def read(document: Path) -> np.ndarray:
    with ZarrTiffStore(document) as store:
        return store[...]


@pytest.fixture(params=[("refs.json", 2), ("refs.json", 3), ("refs.parq", 2)], ids=str)
def form(request, tmp_path):
    name, zarr_format = request.param
    if name.endswith("parq"):
        pytest.importorskip("pyarrow")

    def save(references):
        path = tmp_path / name
        if name.endswith("parq"):
            references.to_parquet(path)
        else:
            references.write_fsspec(path, zarr_format=zarr_format)
        return path

    return save


def state(document: Path) -> dict[str, bytes]:
    files = [document] if document.is_file() else sorted(document.rglob("*"))
    return {str(path): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_file_that_is_the_same_is_not_touched(tmp_path, form, byteorder):
    write_tiled(tmp_path / "a.tif", random_pixels(), byteorder)
    document = form(tiffref.scan(tmp_path / "a.tif"))
    before = state(document)
    done = tiffref.refresh(document)
    assert (done.accepted, done.rescanned) == ((), ())
    assert len(done.unchanged) == 1
    assert state(document) == before


def test_a_copy_that_came_back_is_accepted(tmp_path, form):
    image = tmp_path / "a.tif"
    data = random_pixels()
    write_tiled(image, data)
    document = form(tiffref.scan(image))
    shutil.copy(image, tmp_path / "copy.tif")
    shutil.copy(tmp_path / "copy.tif", image)
    os.utime(image, (1, 1))
    with pytest.raises(tiffref.StaleSource):
        read(document)
    assert len(tiffref.refresh(document, dry_run=True).accepted) == 1
    with pytest.raises(tiffref.StaleSource):
        read(document)
    done = tiffref.refresh(document)
    assert (len(done.accepted), done.rescanned) == (1, ())
    np.testing.assert_array_equal(read(document), data)


def test_a_changed_file_is_scanned_again(tmp_path, form):
    image = tmp_path / "a.tif"
    write_tiled(image, random_pixels())
    document = form(tiffref.scan(image, zattrs={"title": "mine"}))
    data = random_pixels() // 7
    write_tiled(image, data, ">")
    done = tiffref.refresh(document)
    assert len(done.rescanned) == 1
    np.testing.assert_array_equal(read(document), data)
    assert tiffref.References.open(document).group.attributes["title"] == "mine"


def test_a_changed_file_of_a_stack_is_scanned_again(tmp_path, form):
    data = [random_pixels() for _ in range(3)]
    for n, one in enumerate(data):
        write_tiled(tmp_path / f"S_{n}.tif", one)
    document = form(tiffref.scan_sequence(str(tmp_path / "S_{n:d}.tif")))
    data[1] = random_pixels() // 9
    write_tiled(tmp_path / "S_1.tif", data[1])
    os.utime(tmp_path / "S_2.tif", (1, 1))
    done = tiffref.refresh(document)
    assert [len(x) for x in (done.unchanged, done.accepted, done.rescanned)] == [1, 1, 1]
    np.testing.assert_array_equal(read(document), data)


@pytest.mark.parametrize("n_files", [1, 2])
def test_a_file_that_is_damaged_now(tmp_path, form, n_files):
    """A single one that is whole again is not damaged any more."""
    names = [str(tmp_path / f"S_{n}.tif") for n in range(n_files)]
    for name in names:
        write_tiled(name, random_pixels())
    document = form(tiffref.scan(names[0]) if n_files == 1 else tiffref.scan_sequence(names))
    whole = Path(names[-1]).read_bytes()
    with tifffile.TiffFile(names[-1]) as tif:
        end = tif.pages[0].offset + 2 + 12 * len(tif.pages[0].tags)
    Path(names[-1]).write_bytes(whole[:end] + b"\0\0\1\0" + whole[end + 4 :])
    with pytest.warns(tiffref.TruncationWarning, match="next IFD"):
        tiffref.refresh(document)
    assert [finding.code for finding in tiffref.validate(document).findings] == ["damaged"]
    if n_files == 1:
        Path(names[-1]).write_bytes(whole)
        os.utime(names[-1], (1, 1))
        tiffref.refresh(document)
        assert tiffref.validate(document).findings == []


@pytest.mark.parametrize("n_files", [1, 2])
def test_another_image_is_refused_and_nothing_is_written(tmp_path, form, n_files):
    for n in range(n_files):
        write_tiled(tmp_path / f"S_{n}.tif", random_pixels())
    if n_files == 1:
        document = form(tiffref.scan(tmp_path / "S_0.tif"))
        tifffile.imwrite(tmp_path / "S_0.tif", np.zeros((2, 9, 9), "u1"), metadata=None)
        with tifffile.TiffWriter(tmp_path / "S_0.tif") as tif:
            tif.write(np.zeros((40, 48), "u1"), metadata=None)
            tif.write(np.zeros((9, 9), "u1"), metadata=None)
    else:
        document = form(tiffref.scan_sequence(str(tmp_path / "S_{n:d}.tif")))
        write_tiled(tmp_path / "S_0.tif", np.zeros((99, 99), "u2"))
    before = state(document)
    with pytest.raises(tiffref.ManifestMismatch, match="a different image"):
        tiffref.refresh(document)
    assert state(document) == before


@pytest.mark.parametrize("layout", ["dataset", "tree"])
def test_a_file_that_got_overviews(tmp_path, form, layout):
    image = tmp_path / "a.tif"
    write_map(image)
    document = form(tiffref.scan(image, layout=layout))
    write_map(image, overview=2)
    tiffref.refresh(document)
    opened, again = tiffref.References.open(document), tiffref.scan(image, layout=layout)
    assert [path for path, _ in opened.group.arrays()] == [p for p, _ in again.group.arrays()]
    level = again.series[0]["levels"][1]["path"]
    assert opened.group[level].manifest == again.group[level].manifest
    write_map(image)
    with pytest.raises(tiffref.ManifestMismatch, match="a different image"):
        tiffref.refresh(document)


KEEP = {"tile": (32, 32), "compression": "zlib", "metadata": None}


def write_map(path, shape=(40, 48), overview=None, x=5e5, **options):
    """Write a GeoTIFF with new pixels; its chunks have one codec, whatever the shape."""
    data = rng.integers(0, 999, shape).astype("u2")
    with tifffile.TiffWriter(path) as tif:
        tags = [*geo_tags(x, 6e6), *options.pop("extratags", ())]
        subifds = None if overview is None else 1
        tif.write(data, extratags=tags, subifds=subifds, **{**KEEP, **options})
        if overview is not None:
            tif.write(data[::overview, ::overview], subfiletype=1, **KEEP)
    return data


def item(name, value):
    item = f"<Item name='{name.upper()}' sample='0' role='{name}'>{value}</Item>"
    return [(42112, 2, 0, f"<GDALMetadata>{item}</GDALMetadata>", True)]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"shape": (64, 64)}, "a different image"),
        ({}, {"shape": (33, 50)}, "a different image"),
        ({"shape": (32, 64)}, {"shape": (64, 32)}, "a different image"),
        ({"overview": 2}, {"overview": 3}, "a different image"),
        ({}, {"x": 5e5 + 480}, "georeference of the file has changed, got .*500480"),
        ({"extratags": [(42113, 2, 0, "7", True)]}, {"extratags": [(42113, 2, 0, "8", True)]},
         "nodata of the file has changed, got 8, expected 7"),
        ({"extratags": item("scale", 2)}, {"extratags": item("scale", 4)},
         "scale of the file has changed"),
        ({}, {"photometric": "miniswhite"}, "photometric of the file has changed, got WhiteIsZero"),
        ({}, {"extratags": item("scale", 4)}, "its scale is .*4.0"),
        ({}, {"extratags": [(42113, 2, 0, "8", True)]}, "its nodata is 8, and that of the ref.* N"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("n_files", [1, 2])
def test_a_file_of_a_stack_that_is_another_image_now(tmp_path, form, before, after, told, n_files):
    """If only the file has some metadata, there is a warning; a single file is scanned anew."""
    pytest.importorskip("pyproj")
    data = [write_map(tmp_path / f"S_{n}.tif", **before) for n in range(n_files)]
    names = [str(tmp_path / f"S_{n}.tif") for n in range(n_files)]
    document = form(tiffref.scan_sequence(names) if n_files > 1 else tiffref.scan(names[0]))
    data[0] = write_map(tmp_path / "S_0.tif", **after)
    if n_files == 1:
        tiffref.refresh(document)
        opened, again = tiffref.References.open(document), form(tiffref.scan(names[0]))
        expected = tiffref.References.open(again)
        assert list(opened.group.arrays()) != []
        for path, array in expected.group.arrays():
            assert array.attributes == opened.group[path].attributes
            assert array.manifest == opened.group[path].manifest
    elif "its " in told:
        with pytest.warns(tiffref.MetadataWarning, match=told):
            tiffref.refresh(document)
        np.testing.assert_array_equal(read(document), data)
    else:
        kept = state(document)
        with pytest.raises(tiffref.ManifestMismatch, match=told):
            tiffref.refresh(document)
        assert state(document) == kept


def write_sidecar(image: Path, ending: str) -> Path:
    sidecar = Path(f"{image}{ending}") if ending[0] == "." else image.with_name(ending)
    if ending == ".ovr":
        tifffile.imwrite(sidecar, rng.integers(0, 9, (20, 24)).astype("u2"), subfiletype=1)
    elif ending == ".aux.xml":
        number = int(rng.integers(1, 1 << 15))
        band = f"<PAMRasterBand band='1'><NoDataValue>{number}</NoDataValue></PAMRasterBand>"
        sidecar.write_text(f"<PAMDataset>{band}</PAMDataset>")
    else:
        sidecar.write_text(f"10 0 0 -10 {int(rng.integers(1 << 15))} 50\n")
    return sidecar


@pytest.mark.parametrize("ending", [".ovr", ".aux.xml", "a.tfw"])
def test_sidecars_that_are_new_or_have_changed(tmp_path, form, ending):
    image = tmp_path / "a.tif"
    write_tiled(image, random_pixels())
    document = form(tiffref.scan(image))
    for _ in range(2):
        sidecar = write_sidecar(image, ending)
        for path, time_s in ((sidecar, 3), (document, 2)):
            os.utime(path, (time_s, time_s))
        done = tiffref.refresh(document)
        assert str(image) in done.rescanned
        assert tiffref.refresh(document).rescanned == ()
        opened = tiffref.References.open(document)
        expected = tiffref.References.open(form(tiffref.scan(image)))
        for path, array in expected.group.arrays():
            found = opened.group[path]
            assert (found.manifest, found.attributes) == (array.manifest, array.attributes), path


@pytest.mark.parametrize("shape", [(16, 16), (20, 24)])
def test_a_set_that_has_changed_is_scanned_again(tmp_path, form, shape):
    write_set(tmp_path, (16, 16))
    document = form(tiffref.scan(tmp_path / "0.ome.tif"))
    assert len(tiffref.References.open(document).sources) == 2
    data = write_set(tmp_path, shape, 2)
    for n in range(2):
        os.utime(tmp_path / f"{n}.ome.tif", (n, n))
    assert len(tiffref.refresh(document).rescanned) == 2
    np.testing.assert_array_equal(read(document), data)
    assert len(tiffref.refresh(document).unchanged) == 2


def write_sparse(path: Path, n_tiles: int) -> np.ndarray:
    """Write an image that only has its first tiles."""
    tiles = [np.full((16, 16), n + 1, "u2") if n < n_tiles else None for n in range(4)]
    with tifffile.TiffWriter(path) as tif:
        tif.write(iter(tiles), shape=(16, 64), dtype="u2", tile=(16, 16), metadata=None)
    os.utime(path, (n_tiles, n_tiles))
    return np.concatenate([np.zeros((16, 16), "u2") if t is None else t for t in tiles], 1)


@pytest.mark.parametrize("n_tiles", [1, 4])
def test_a_sparse_file_with_other_tiles(tmp_path, form, n_tiles):
    for n in range(2):
        write_sparse(tmp_path / f"{n}.tif", 2)
    document = form(tiffref.scan(tmp_path / "0.tif"))
    expected = write_sparse(tmp_path / "0.tif", n_tiles)
    assert len(tiffref.refresh(document).rescanned) == 1
    np.testing.assert_array_equal(read(document), expected)
    document = form(tiffref.scan_sequence(str(tmp_path / "{n:d}.tif")))
    write_sparse(tmp_path / "1.tif", n_tiles)
    before = state(document)
    with pytest.raises(tiffref.ManifestMismatch, match="a different image"):
        tiffref.refresh(document)
    assert state(document) == before


@pytest.mark.parametrize(
    ("shape", "dtype"), [((20, 24), "u1"), ((20, 24, 3), "u2"), ((2, 20, 24), "u2")]
)
def test_chunks_in_the_document_are_those_of_the_changed_file(tmp_path, form, shape, dtype):
    """Short last strips are in the document. Noise of bytes has the same size whatever it is."""
    options = {"compression": "zlib", "rowsperstrip": 16, "metadata": None}
    options["photometric"] = "rgb" if shape[-1] == 3 else "minisblack"

    def write(n: int, time: int) -> np.ndarray:
        data = rng.integers(0, 255, shape).astype(dtype)
        tifffile.imwrite(tmp_path / f"{n}.tif", data, **options)
        os.utime(tmp_path / f"{n}.tif", (time, time))
        return data

    data = [write(n, 1) for n in range(3)]
    for is_stack in (True, False):
        name = str(tmp_path / "?.tif")
        references = tiffref.scan_sequence(name) if is_stack else tiffref.scan(tmp_path / "2.tif")
        assert references.group["image"].manifest.inlined
        document = form(references)
        os.utime(tmp_path / "2.tif", (9, 9))
        assert len(tiffref.refresh(document).accepted) == 1
        data[2] = write(2, 2)
        assert len(tiffref.refresh(document).rescanned) == 1
        np.testing.assert_array_equal(read(document), np.stack(data) if is_stack else data[2])


def test_other_colors_of_a_file_of_the_same_size_are_noticed(tmp_path, form):
    def write(color: int) -> str:
        colormap = np.full((3, 256), color * 257, "u2")
        data = rng.integers(0, 255, (20, 24)).astype("u1")
        tifffile.imwrite(tmp_path / "a.tif", data, colormap=colormap, metadata=None)
        os.utime(tmp_path / "a.tif", (color, color))
        return f"#{color:02x}{color:02x}{color:02x}"

    write(1)
    document = form(tiffref.scan(tmp_path / "a.tif"))
    color = write(2)
    assert len(tiffref.refresh(document).rescanned) == 1
    array = tiffref.References.open(document).group["image"]
    assert array.attributes["color_table"][0] == color


def test_levels_of_a_stack_are_told_apart(tmp_path, form):
    """Those of one tile have one codec."""
    data = [write_map(tmp_path / f"{n}.tif", (30, 28), overview=2) for n in range(2)]
    document = form(tiffref.scan_sequence(str(tmp_path / "?.tif")))
    data[1] = write_map(tmp_path / "1.tif", (30, 28), overview=2)
    assert len(tiffref.refresh(document).rescanned) == 1
    group = tiffref.References.open(document).group
    for n, path in enumerate(("image", "image_1")):
        expected = [one[:: n + 1, :: n + 1] for one in data]
        np.testing.assert_array_equal(read_array(group[path], ..., fetch=Fetcher()), expected)


def test_a_changed_file_of_a_plate_or_mosaic_is_scanned_again(tmp_path):
    data = {}
    for n, (well, c) in enumerate(np.ndindex(2, 2)):
        (tmp_path / "mosaic").mkdir(exist_ok=True)
        data[well, c] = random_pixels()
        write_tiled(tmp_path / f"B0{well + 1}_{c}.tif", data[well, c])
        write_map(tmp_path / f"mosaic/{n}.tif", (64, 64), x=5e5 + 640 * n)
    plate, mosaic = tmp_path / "plate.json", tmp_path / "mosaic.json"
    tiffref.scan_sequence(str(tmp_path / "{well}_{c}.tif"), layout="hcs").write_fsspec(plate)
    tiffref.scan_sequence(str(tmp_path / "mosaic/*.tif"), mosaic=True).write_fsspec(mosaic)
    changed = random_pixels() // 9
    write_tiled(tmp_path / "B02_1.tif", changed)
    assert len(tiffref.refresh(plate).rescanned) == 1
    array = tiffref.References.open(plate).group["B/2/0/image"]
    found = read_array(array, ..., fetch=Fetcher()).squeeze()
    np.testing.assert_array_equal(found, [data[1, 0], changed])
    changed = write_map(tmp_path / "mosaic/2.tif", (64, 64), x=5e5 + 1280)
    assert len(tiffref.refresh(mosaic).rescanned) == 1
    np.testing.assert_array_equal(read(mosaic)[:, 128:192], changed)
    write_map(tmp_path / "mosaic/2.tif", (64, 64), x=5e5 + 640)
    with pytest.raises(tiffref.ManifestMismatch, match=r"got .*500640, .*expected .*501280"):
        tiffref.refresh(mosaic)


@pytest.mark.parametrize("n_files", [1, 2])
def test_tiles_at_each_others_place_are_noticed(tmp_path, form, n_files):
    """Programs that write in threads store tiles in the order in which they are finished."""
    data = rng.integers(0, 99, (n_files, 16, 48)).astype("u1")
    for n in range(n_files):
        tifffile.imwrite(tmp_path / f"{n}.tif", data[n], tile=(16, 16), metadata=None)
    whole = tiffref.scan(tmp_path / "0.tif")
    document = form(tiffref.scan_sequence(str(tmp_path / "?.tif")) if n_files > 1 else whole)
    with tifffile.TiffFile(tmp_path / "0.tif", mode="r+") as tif:
        tag = tif.pages[0].tags["TileOffsets"]
        tag.overwrite(tag.value[::-1])
    os.utime(tmp_path / "0.tif", (1, 1))
    assert len(tiffref.refresh(document).rescanned) == 1
    data[0] = np.concatenate([data[0][:, at : at + 16] for at in (32, 16, 0)], 1)
    np.testing.assert_array_equal(read(document), data if n_files > 1 else data[0])


@pytest.mark.parametrize("options", [{"key": 1}, {"axes": "ngff"}, {"axes": "bands-first"}])
def test_pages_and_axes_stay_those_of_the_document(tmp_path, form, options):
    def write_stack(text=""):
        data = rng.integers(0, 99, (2, 4, 40, 48, 3)).astype("u1")
        metadata = {"axes": "TZYXS", "Info": text}
        tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata=metadata)
        return data

    write_stack()
    document = form(tiffref.scan(tmp_path / "a.tif", **options))
    before = tiffref.References.open(document).group["image"]
    os.utime(tmp_path / "a.tif", (1, 1))
    assert len(tiffref.refresh(document).accepted) == 1
    data = write_stack("text before the pixels" * 99)
    tiffref.refresh(document)
    if "key" in options:
        expected = tifffile.imread(tmp_path / "a.tif", key=options["key"])
        np.testing.assert_array_equal(read(document), expected)
        return
    after = tiffref.References.open(document).group["image"]
    assert after.dims == before.dims
    order = [["t", "z", "y", "x"].index(dim) if dim in "tzyx" else 4 for dim in after.dims]
    np.testing.assert_array_equal(read(document), data.transpose(order))


@pytest.mark.parametrize(
    "options", [{"key": [2, 0]}, {"key": slice(1, None), "series": 0}, {"level": 1}]
)
def test_pages_and_levels_stay_selected(tmp_path, form, options):
    def write_pyramids(byteorder, compression):
        with tifffile.TiffWriter(tmp_path / "a.tif", byteorder=byteorder) as tif:
            for data in rng.integers(0, 99, (3, 40, 48)).astype("u2"):
                tif.write(data, compression=compression, metadata=None, subifds=1)
                tif.write(data[::2, ::2], compression=compression, metadata=None, subfiletype=1)

    write_pyramids("<", "zlib")
    document = form(tiffref.scan(tmp_path / "a.tif", **options))
    write_pyramids(">", "lzw")
    assert len(tiffref.refresh(document).rescanned) == 1
    is_level = "level" in options
    expected = tifffile.imread(tmp_path / "a.tif", **({"series": 0} if is_level else {}), **options)
    np.testing.assert_array_equal(read(document), expected)


def test_a_missing_file_is_named(tmp_path, form):
    write_tiled(tmp_path / "a.tif", random_pixels())
    document = form(tiffref.scan(tmp_path / "a.tif"))
    (tmp_path / "a.tif").unlink()
    with pytest.raises(tiffref.MissingSource, match=r"a\.tif: no such file"):
        tiffref.refresh(document)


def test_foreign_documents_cannot_cause_a_scan(tmp_path):
    write_tiled(tmp_path / "a.tif", random_pixels())
    (tmp_path / "sub").mkdir()
    references = tiffref.scan(tmp_path / "a.tif").to_kerchunk()
    references["refs"][".zattrs"] = "{}"  # without our seal
    document = tmp_path / "sub" / "theirs.json"
    document.write_text(json.dumps(references))
    with pytest.raises(tiffref.UntrustedSource):
        tiffref.refresh(document)
    assert tiffref.refresh(document, allow="*").rescanned == ()


def test_refreshing_loses_nothing_of_another_process(tmp_path, form, monkeypatch):
    write_tiled(tmp_path / "a.tif", random_pixels())
    document = form(tiffref.scan(tmp_path / "a.tif"))
    os.utime(tmp_path / "a.tif", (1, 1))

    def compare_while_another_refreshes(*arguments):
        monkeypatch.undo()
        assert tiffref.refresh(document).accepted
        return check_unchanged(*arguments)

    monkeypatch.setattr(documents, "check_unchanged", compare_while_another_refreshes)
    with pytest.raises(tiffref.SourceError, match="another process has changed the references"):
        tiffref.refresh(document)
    assert not tiffref.refresh(document).accepted


def test_the_command_refresh(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiled(Path("a.tif"), random_pixels())
    assert main(["scan", "a.tif"]) == 0
    os.utime("a.tif", (1, 1))
    capsys.readouterr()
    assert main(["refresh", "a.json", "--dry-run"]) == 0
    assert "a.tif: would be accepted, its segments have not changed" in capsys.readouterr().out
    assert main(["refresh", "a.json"]) == 0
    assert main(["refresh", "a.json"]) == 0
    assert capsys.readouterr().out.endswith("a.json: 1 file unchanged\n")


@pytest.mark.parametrize(
    "name", ["a::b.json", "ab::c.json", "file:a.json", "sub/s3::b.json", "c::d.parq"]
)
@pytest.mark.parametrize("is_own", [True, False])
def test_names_that_look_like_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_own: bool
) -> None:
    """What was written under a name is found again under it, and may read its own folder."""
    if name.endswith(".parq"):
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / Path(name).parent
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / "x.tif", np.arange(300, dtype="u2").reshape(15, 20))
    references = tiffref.scan(folder / "x.tif")
    references.write_fsspec(name)
    assert (tmp_path / name).exists()
    if not is_own:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    again = tiffref.References.open(name)
    assert again.sources == references.sources
    assert (again.allow is None) == is_own
    if not is_own:
        assert again.allow == (f"{folder}/",)
    assert tiffref.validate(name).ok
    assert tiffref.refresh(name).unchanged == (str(folder / "x.tif"),)
    catalog.convert(name, "back.json")
    back = json.loads(Path("back.json").read_text())["refs"]
    assert back["image/0.0"] == references.to_kerchunk()["refs"]["image/0.0"]


@pytest.mark.parametrize("open_document", [tiffref.References.open, tiffref.validate])
def test_a_name_that_is_too_long_is_a_typed_error(open_document: Callable) -> None:
    for start in ("", "a::"):
        with pytest.raises(SourceError):
            open_document(start + "a" * 400)
