"""Objects read as they were scanned; real clients and servers are in `trust/test_staleness.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tiffref.errors import StaleSource
from tiffref.io.clients import source_of_info
from tiffref.io.object_stores import find_range_reader
from tiffref.model.manifest import Source

DATA = bytes(range(100))


class Google:
    """A file system of one object with generations, which counts what it is asked."""

    protocol = ("gs", "gcs")
    split_path = staticmethod(str.partition)

    def __init__(self) -> None:
        self.generation, self.n_asked = "7", 0

    def invalidate_cache(self, path: str) -> None:
        assert path == "bucket"

    def info(self, path: str) -> dict[str, Any]:
        self.n_asked += 1
        return {"size": 100, "etag": f"e{self.generation}", "generation": self.generation}

    def cat_file(self, path: str, start: int, end: int | None, generation: Any = None) -> bytes:
        if generation not in (None, self.generation):
            raise FileNotFoundError(path)
        return DATA[start:end]


def test_a_generation_is_asked_for_once_and_read() -> None:
    fs, expected = Google(), Source("gs://bucket/a", 100, None, "e7")
    read = find_range_reader(fs)
    assert read is not None
    for start in (0, 50):
        assert read(fs, "bucket/a", expected.url, start, 10, expected) == DATA[start : start + 10]
    assert fs.n_asked == 1
    fs.generation = "8"
    with pytest.raises(StaleSource, match="ETag e8, expected ETag e7"):
        read(fs, "bucket/a", expected.url, 0, 10, expected)
    with pytest.raises(StaleSource):
        read(fs, "bucket/a", expected.url, 0, 10, Source(expected.url, 100, None, "e6"))
    assert read(fs, "bucket/a", expected.url, 0, None, None) == DATA


def test_which_file_systems_are_object_stores() -> None:
    assert find_range_reader(SimpleNamespace(protocol="sftp")) is None
    assert find_range_reader(SimpleNamespace(protocol="oss", split_path=str)) is None


@pytest.mark.parametrize(
    ("info", "mtime"),
    [
        ({"mtime": 3}, 3),
        ({"modify": "20260131235959.123"}, 1769903999.0),
        ({"modify": "Jan 31 23:59"}, None),
        ({"created": None, "mtime": None}, None),
    ],
)
def test_times_as_file_systems_say_them(info: dict[str, Any], mtime: float | None) -> None:
    assert source_of_info("u", {"size": 1, "etag": '"x"', **info}) == Source("u", 1, mtime, "x")
