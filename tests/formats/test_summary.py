"""`summary`: short reprs of what people hold, and `References.info`."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

import tiffref
import tiffref.catalog
from tiffref.formats.summary import html_table
from tiffref.zarr import ZarrTiffStore


@pytest.fixture
def image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as tif:
        for n in range(12):
            data = np.arange((32 + n) * 32, dtype="u2").reshape(32 + n, 32)
            tif.write(data, tile=(16, 16), compression="zlib", metadata=None)
    return path


def test_references(image):
    references = tiffref.scan(image)
    size = f"{image.stat().st_size / 1024:.1f} KiB"
    lines = repr(references).splitlines()
    assert lines[0] == f"<tiffref.References: 12 arrays, 70 chunks, 1 file, {size}>"
    assert lines[1].split() == ["image", "y", "32,", "x", "32", "uint16", "16", "x", "16"]
    assert lines[-1] == "  and 4 more"
    assert len(lines) == 10
    html = references._repr_html_()
    assert html.count("<tr>") == 10
    assert html.startswith("<div><strong>tiffref.References: 12 arrays")


def test_references_of_a_document(image):
    references = tiffref.scan(image, series=0)
    references.write_fsspec("refs.json")
    opened = tiffref.References.open("refs.json")
    assert repr(opened) == repr(references)
    assert repr(tiffref.References(tiffref.scan(image, series=0).group)) == repr(references)
    assert opened.info() == references.info()


def test_info_is_what_the_command_prints(image, capsys):
    from tiffref.cli import main

    assert main(["info", "image.tif"]) == 0
    assert tiffref.scan(image).info() + "\n" == capsys.readouterr().out


def test_stores_have_the_properties_of_arrays(image):
    store = ZarrTiffStore("image.tif")
    assert (store.size, store.nbytes, store.dims) == (1024, 2048, ("y", "x"))
    assert repr(store) == "<tiffref.zarr.ZarrTiffStore 'image.tif' uint16 (32, 32)>"
    assert "<td>image</td>" in store._repr_html_()


def test_reports(image):
    tiffref.scan(image).write_fsspec("refs.json")
    report = tiffref.validate("refs.json", pixels=1)
    assert repr(report) == "<tiffref.validation.Report 'refs.json': valid, 12 chunks compared>"
    bad = tiffref.validate({"version": 1, "refs": {"a/.zarray": "{"}})
    assert repr(bad).startswith("<tiffref.validation.Report: 2 errors")
    assert "<td>error</td>" in bad._repr_html_()


def test_catalogs(image):
    pytest.importorskip("pyarrow")
    tiffref.catalog.build("image.tif", "archive")
    found = tiffref.catalog.open("archive")
    assert repr(found) == "<tiffref.catalog.Catalog 'archive': 1 file, 1 ok>"
    assert "<td>ok</td>" in found._repr_html_()


def test_html_is_escaped():
    assert "&lt;script&gt;" in html_table("a", [["<script>"]])


@pytest.mark.parametrize("name", ["refs.zarr", "refs.zarr/"])
def test_references_are_not_written_as_if_they_were_a_store(image, name):
    with pytest.raises(tiffref.InvalidReferences, match=r"Name them refs\.json"):
        tiffref.scan(image).write_fsspec(name)
