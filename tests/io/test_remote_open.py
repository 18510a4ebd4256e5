"""Any address or open file becomes a source, or an error that says what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tiffref.errors import MissingSource, SourceError
from tiffref.io.remote import open_source

DATA = bytes(range(100))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(DATA)
    return tmp_path / "a.bin"


def test_what_stands_for_a_file_is_opened(path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/a.bin", DATA)
    with path.open("rb") as file:
        for where in (path, str(path), f"file://{path}", file, "memory://a.bin"):
            opened = open_source(where)
            assert opened.read(1, 2) == DATA[1:3]
            assert open_source(opened) is opened


@pytest.mark.parametrize(
    ("where", "kind", "says"),
    [
        ("gone.tif", MissingSource, "no such file"),
        ("", MissingSource, "the name of the file is empty"),
        (".", SourceError, "is a folder without TIFF files"),
        (None, SourceError, "cannot open NoneType, expected a path, URL"),
        (["a.tif"], SourceError, "To read many files as one array, use `tiffref.scan_sequence`"),
    ],
)
def test_what_cannot_be_opened(
    where: Any, kind: type[SourceError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=says):
        open_source(where)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(SourceError, match="not a regular file"):
        open_source(tmp_path / "pipe.tif")
