"""Bytes by offset of local and open files, and whether a source is still what it was."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tiffref.errors import StaleSource
from tiffref.io.clients import file_system_lock
from tiffref.io.source import (
    FileObjectSource,
    LocalSource,
    SourceFile,
    check_unchanged,
    is_weak_etag,
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


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"size": None, "mtime": None, "etag": None},
        {"mtime": 1_700_000_000.0005, "etag": None},
        {"etag": 'W/"abc'},  # of a server that compresses other responses
        {"mtime": 1.0},  # of another server of a mirror: the tag says that the bytes are the same
    ],
)
def test_sources_that_are_the_same(now: dict[str, Any]) -> None:
    check_unchanged(RECORDED, replace(RECORDED, **now))
    check_unchanged(replace(RECORDED, **now), RECORDED)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"size": 99}, "got size 99, expected size 100"),
        ({"etag": "def"}, "got ETag def, expected ETag abc"),
        ({"etag": 'W/"def'}, 'got ETag W/"def, expected ETag abc'),
        ({"etag": 'W/"abc', "mtime": 1.0}, "got mtime 1970"),
        (
            {"etag": None, "mtime": 1.0},
            r"got mtime 1970-01-01 00:00:01.*, expected mtime 2023",
        ),
        ({"etag": None, "mtime": 1e300}, r"got mtime 1e\+300"),
    ],
)
def test_sources_that_have_changed(now: dict[str, Any], says: str) -> None:
    with pytest.raises(StaleSource, match=says):
        check_unchanged(RECORDED, replace(RECORDED, **now))


def test_weak_tags_do_not_settle_the_time() -> None:
    assert is_weak_etag(None) and is_weak_etag('W/"abc"') and not is_weak_etag("abc")
    weak = replace(RECORDED, etag="W/abc")
    with pytest.raises(StaleSource, match="mtime"):
        check_unchanged(weak, replace(weak, mtime=1.0))


def test_file_systems_with_one_connection_have_a_lock() -> None:
    class OneConnection:
        protocol = "sftp"

    one = OneConnection()
    assert file_system_lock(one) is file_system_lock(one) is not file_system_lock(OneConnection())
    with (
        file_system_lock(fsspec.filesystem("memory")),
        file_system_lock(fsspec.filesystem("memory")),
    ):
        pass


@pytest.mark.parametrize("use", ["read(0, 1)", "as_buffer()"])
def test_a_source_that_is_left_open_is_silent_when_the_interpreter_exits(
    path: Path, use: str
) -> None:
    """Objects that other modules keep are deleted when `os` is empty already."""
    code = (
        "import os; from tiffref.io.source import LocalSource; "
        f"os.kept = LocalSource({str(path)!r}); os.kept.{use}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
