"""Documents to other formats and addresses, in Python and on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from archive import write_image

import tiffref
import tiffref.catalog as catalog
from tiffref.cli import main
from tiffref.errors import InvalidReferences, SelectionError, StaleSource
from tiffref.zarr import ZarrTiffStore


@pytest.fixture
def document(tmp_path: Path) -> Path:
    write_image(tmp_path / "image.tif")
    tiffref.scan(tmp_path / "image.tif").write_fsspec(tmp_path / "refs.json", url="s3://a/x")
    return tmp_path / "refs.json"


def test_there_and_back(document: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    catalog.convert(document, tmp_path / "refs.parq")
    catalog.convert(tmp_path / "refs.parq", tmp_path / "back.json")
    assert json.loads(document.read_text()) == json.loads((tmp_path / "back.json").read_text())
    with pytest.raises(InvalidReferences, match="Zarr v2 only"):
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
    with pytest.raises(SelectionError, match="no address begins so"):
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


def test_zarr_3_stays_zarr_3(document: Path, tmp_path: Path) -> None:
    catalog.convert(document, tmp_path / "three.json", zarr_format=3)
    catalog.rewrite(tmp_path / "three.json", tmp_path / "three.json", {"s3://": "gs://"})
    refs = json.loads((tmp_path / "three.json").read_text())["refs"]
    assert "zarr.json" in refs and refs["image/c/0/0"][0] == "gs://a/x/image.tif"


def test_commands(document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    assert main(["convert", str(document), str(tmp_path / "r.parq")]) == 0
    assert "chunks" in capsys.readouterr().out
    arguments = ["rewrite", str(document), "--from", "s3://a/", "--to", "https://b/"]
    assert main(arguments) == 0
    assert "https://b/x/image.tif" in document.read_text()
    assert main([*arguments, "--to", "https://c/"]) == 2
    assert main(arguments) == 2


def test_catalog_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("xarray")
    write_image(tmp_path / "in" / "T_1.tif", value=1)
    write_image(tmp_path / "in" / "T_2.tif", value=2)
    folder = str(tmp_path / "c")
    build = ["catalog", "build", str(tmp_path / "in"), "-o", folder]
    assert main([*build, "--stack", "T_{n}.tif", "--report", str(tmp_path / "r.jsonl")]) == 0
    printed = capsys.readouterr()
    assert "files" in printed.out and "catalog: 2 of 2 files" in printed.err
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3
    assert main(["catalog", "query", folder, "--where", "n=2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'in' / 'T_2.tif'}\n"
    assert main(["catalog", "query", folder, "--bounds", "50,0,60,1"]) == 1
    assert main(["catalog", "show", folder]) == 0
    printed = capsys.readouterr().out
    assert "2 files, 2 ok" in printed and "combined all: 2 files" in printed
    assert main(["catalog", "open", folder]) == 0
    assert "n: 2" in capsys.readouterr().out
    (tmp_path / "in" / "T_3.tif").write_bytes(b"nothing")
    assert main([*build, "--pattern", "T_{n}.tif", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 1
    assert main(["catalog", "build", str(tmp_path / "in"), "-o", str(tmp_path)]) == 3
    assert main(["catalog", "open", str(tmp_path)]) == 3


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
