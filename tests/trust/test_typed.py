"""Arguments and names that make no sense are errors of our own, whoever gives them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from faulty import FaultyServer

import tiffref
from tiffref.errors import MalformedTiff, SelectionError, SourceError
from tiffref.io import http
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore

BAD_NAMES = ("a\0b", "a\ud800b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), "u1"))
    return tmp_path / "a.tif"


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    "use",
    [
        lambda name, path: tiffref.scan(f"{name}.tif"),
        lambda name, path: tiffref.scan_sequence([f"{name}.tif"]),
        lambda name, path: ZarrTiffStore(f"{name}.tif"),
        lambda name, path: ZarrTiffStore(f"{name}.json"),
        lambda name, path: tiffref.validate(f"{name}.json"),
        lambda name, path: tiffref.scan(path).write_fsspec(f"{name}.json"),
        lambda name, path: ZarrTiffStore(
            References.from_kerchunk({"a/.zarray": ARRAY, "a/0": [f"{name}.tif", 0, 1]}, allow="*")
        )[0],
    ],
)
def test_names_of_no_possible_file(use: Callable[[str, Path], Any], name: str, path: Path) -> None:
    with pytest.raises(SourceError):
        use(name, path)


ARRAY = (
    '{"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|u1", "compressor": null, '
    '"filters": null, "fill_value": null, "order": "C"}'
)


@pytest.mark.parametrize(
    "options", [{"level": "1"}, {"series": "x"}, {"zattrs": 3}, {"zattrs": {1: 2}}]
)
def test_options_of_another_kind(options: dict[str, Any], path: Path) -> None:
    with pytest.raises(SelectionError):
        tiffref.scan(path, **options)
    with pytest.raises(SelectionError):
        ZarrTiffStore(path, **options)
    with pytest.raises(SelectionError):
        ZarrTiffStore(tiffref.scan(path), **options)


def test_unknown_values_of_verify(path: Path) -> None:
    with pytest.raises(SelectionError, match="sometimes"):
        ZarrTiffStore(path, verify="sometimes")


def test_directory_of_no_entries(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    with pytest.raises(MalformedTiff, match="has no image"):
        tiffref.scan(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    os.link(tmp_path / "a.tif", tmp_path / "a.json")
    for read, name in ((tiffref.scan, "a.tif"), (tiffref.References.open, "a.json")):
        with pytest.raises(SourceError, match="regular"):
            read(tmp_path / name)


@pytest.mark.parametrize("url", ["http://", "https:///a.tif"])
def test_addresses_without_a_host_are_tried_once(
    url: str, monkeypatch: pytest.MonkeyPatch, server: FaultyServer
) -> None:
    def never(*_: object) -> float:
        raise AssertionError("tried again")

    monkeypatch.setattr(http.Retry, "delay_s", never)
    with pytest.raises(SourceError, match="InvalidUrl"):
        tiffref.scan(url)
