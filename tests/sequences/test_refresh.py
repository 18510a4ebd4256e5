"""`refresh`: files copied back are accepted, changed ones scanned again, nothing else touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.cli import main
from tiffref.zarr import ZarrTiffStore

rng = np.random.default_rng(5)


def write(path: Path, pixels: np.ndarray, byteorder: str = "<") -> None:
    tifffile.imwrite(
        path, pixels, tile=(16, 16), compression="zlib", metadata=None, byteorder=byteorder
    )


def pixels() -> np.ndarray:
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
    write(tmp_path / "a.tif", pixels(), byteorder)
    document = form(tiffref.scan(tmp_path / "a.tif"))
    before = state(document)
    done = tiffref.refresh(document)
    assert (done.accepted, done.rescanned) == ((), ())
    assert len(done.unchanged) == 1
    assert state(document) == before


def test_a_copy_that_came_back_is_accepted(tmp_path, form):
    image = tmp_path / "a.tif"
    data = pixels()
    write(image, data)
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
    write(image, pixels())
    document = form(tiffref.scan(image, zattrs={"title": "mine"}))
    data = pixels() // 7
    write(image, data, ">")
    done = tiffref.refresh(document)
    assert len(done.rescanned) == 1
    np.testing.assert_array_equal(read(document), data)
    assert tiffref.References.open(document).group.attributes["title"] == "mine"


def test_a_changed_file_of_a_stack_is_scanned_again(tmp_path, form):
    data = [pixels() for _ in range(3)]
    for n, one in enumerate(data):
        write(tmp_path / f"S_{n}.tif", one)
    document = form(tiffref.scan_sequence(str(tmp_path / "S_{n:d}.tif")))
    data[1] = pixels() // 9
    write(tmp_path / "S_1.tif", data[1])
    os.utime(tmp_path / "S_2.tif", (1, 1))
    done = tiffref.refresh(document)
    assert [len(x) for x in (done.unchanged, done.accepted, done.rescanned)] == [1, 1, 1]
    np.testing.assert_array_equal(read(document), data)


@pytest.mark.parametrize("n_files", [1, 2])
def test_another_image_is_refused_and_nothing_is_written(tmp_path, form, n_files):
    for n in range(n_files):
        write(tmp_path / f"S_{n}.tif", pixels())
    if n_files == 1:
        document = form(tiffref.scan(tmp_path / "S_0.tif", key=0))
        tifffile.imwrite(tmp_path / "S_0.tif", np.zeros((2, 9, 9), "u1"), metadata=None)
        with tifffile.TiffWriter(tmp_path / "S_0.tif") as tif:
            tif.write(np.zeros((40, 48), "u1"), metadata=None)
            tif.write(np.zeros((9, 9), "u1"), metadata=None)
    else:
        document = form(tiffref.scan_sequence(str(tmp_path / "S_{n:d}.tif")))
        write(tmp_path / "S_0.tif", np.zeros((99, 99), "u2"))
    before = state(document)
    with pytest.raises(tiffref.ManifestMismatch, match="another image"):
        tiffref.refresh(document)
    assert state(document) == before


def test_a_file_that_is_gone_is_named(tmp_path, form):
    write(tmp_path / "a.tif", pixels())
    document = form(tiffref.scan(tmp_path / "a.tif"))
    (tmp_path / "a.tif").unlink()
    with pytest.raises(tiffref.MissingSource, match=r"a\.tif: no such file"):
        tiffref.refresh(document)


def test_a_document_of_others_cannot_make_us_scan(tmp_path):
    write(tmp_path / "a.tif", pixels())
    (tmp_path / "sub").mkdir()
    references = tiffref.scan(tmp_path / "a.tif").to_kerchunk()
    references["refs"][".zattrs"] = "{}"  # without our seal
    document = tmp_path / "sub" / "theirs.json"
    document.write_text(json.dumps(references))
    with pytest.raises(tiffref.UntrustedSource):
        tiffref.refresh(document)
    assert tiffref.refresh(document, allow="*").rescanned == ()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(Path("a.tif"), pixels())
    assert main(["scan", "a.tif"]) == 0
    os.utime("a.tif", (1, 1))
    capsys.readouterr()
    assert main(["refresh", "a.json", "--dry-run"]) == 0
    assert "a.tif: would be accepted, its segments are the same" in capsys.readouterr().out
    assert main(["refresh", "a.json"]) == 0
    assert main(["refresh", "a.json"]) == 0
    assert capsys.readouterr().out.endswith("a.json: 1 file unchanged\n")
