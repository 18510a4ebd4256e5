"""`tiffref catalog build`, `query`, `show` and `open`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from archive import write_image

from tiffref.cli import main


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
