"""Bytes by offset of local and open files, and whether a source is still what it was."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tiffref.errors import MissingSource, SourceError, StaleSource
from tiffref.io.clients import lock_for
from tiffref.io.source import (
    FileObjectSource,
    LocalSource,
    SourceFile,
    check_same,
    is_weak,
    open_source,
)
from tiffref.model.manifest import Source

DATA = bytes(range(100))
RECORDED = Source("a.tif", 100, 1_700_000_000.0, "abc")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(DATA)
    return tmp_path / "a.bin"


def test_local_and_open_files_give_the_same(path: Path) -> None:
    for opened in (LocalSource(path), FileObjectSource(io.BytesIO(DATA))):
        assert opened.size == 100 and opened.is_local
        assert opened.read(90, 20) == DATA[90:]
        assert opened.read_all() == DATA
        buffer = bytearray(5)
        assert opened.read_into(3, memoryview(buffer)) == 5
        assert buffer == DATA[3:8]
        file = SourceFile(opened)
        assert file.seek(-4, io.SEEK_END) == 96
        assert (file.read(), file.tell()) == (DATA[96:], 100)


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
        (["a.tif"], SourceError, "Many files become one array with `tiffref.scan_sequence`"),
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


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"size": None, "mtime": None, "etag": None},
        {"mtime": 1_700_000_000.0005, "etag": None},
        {"mtime": 1.0},  # of another server of a mirror: the tag says that the bytes are the same
    ],
)
def test_sources_that_are_the_same(now: dict[str, Any]) -> None:
    check_same(RECORDED, replace(RECORDED, **now))
    check_same(replace(RECORDED, **now), RECORDED)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"size": 99}, "got size 99, expected size 100"),
        ({"etag": "def"}, "got ETag def, expected ETag abc"),
        (
            {"etag": None, "mtime": 1.0},
            r"got mtime 1970-01-01 00:00:01.*, expected mtime 2023",
        ),
        ({"etag": None, "mtime": 1e300}, r"got mtime 1e\+300"),
    ],
)
def test_sources_that_have_changed(now: dict[str, Any], says: str) -> None:
    with pytest.raises(StaleSource, match=says):
        check_same(RECORDED, replace(RECORDED, **now))


def test_weak_tags_do_not_settle_the_time() -> None:
    assert is_weak(None) and is_weak('W/"abc"') and not is_weak("abc")
    weak = replace(RECORDED, etag="W/abc")
    with pytest.raises(StaleSource, match="mtime"):
        check_same(weak, replace(weak, mtime=1.0))


def test_file_systems_with_one_connection_have_a_lock() -> None:
    class OneConnection:
        protocol = "sftp"

    one = OneConnection()
    assert lock_for(one) is lock_for(one) is not lock_for(OneConnection())
    with lock_for(fsspec.filesystem("memory")), lock_for(fsspec.filesystem("memory")):
        pass
