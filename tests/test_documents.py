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
from archive import write_image
from samples import rng

import tiffref
import tiffref.catalog as catalog
from tiffref.cli import main
from tiffref.errors import InvalidReferences, SelectionError, SourceError, StaleSource
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
def test_another_image_is_refused_and_nothing_is_written(tmp_path, form, n_files):
    for n in range(n_files):
        write_tiled(tmp_path / f"S_{n}.tif", random_pixels())
    if n_files == 1:
        document = form(tiffref.scan(tmp_path / "S_0.tif", key=0))
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
