"""What scanning from afar costs, servers that do not do as they should, and changed objects.

Real clients and servers of object stores are in `trust/test_staleness.py`.
"""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from samples import rng

import tiffref
import tiffref.zarr
from tiffref.errors import MissingSource, SourceError, StaleSource
from tiffref.io.clients import source_from_info
from tiffref.io.remote import RemoteSource, find_range_reader, open_source
from tiffref.model.manifest import Source


class Counted:
    """An fsspec-like file system in memory that counts requests and bytes."""

    def __init__(self, data):
        self.data, self.requests = data, []

    def info(self, path):
        return {"size": len(self.data), "type": "file"}

    def cat_file(self, path, start, end):
        self.requests.append((start, end))
        return self.data[start:end]

    def cat_ranges(self, paths, starts, ends, on_error):
        return [self.cat_file(*one) for one in zip(paths, starts, ends, strict=True)]

    @property
    def n_bytes(self):
        return sum(end - start for start, end in self.requests)


def remote(data):
    fs = Counted(data)
    return fs, RemoteSource(fs, "a", "test://a")


DATA = np.random.default_rng(5).integers(0, 255, 8 << 20, "u1").tobytes()


def test_reads_within_what_was_fetched_cost_nothing():
    fs, source = remote(DATA)
    for start, length in ((0, 16), (100, 4000), (65000, 536), (10, 60000)):
        assert source.read(start, length) == DATA[start : start + length]
    assert fs.requests == [(0, 65536)]


def test_read_ahead_grows_while_reads_follow_one_another():
    fs, source = remote(DATA)
    for start in range(0, 4 << 20, 1000):
        assert source.read(start, 1000) == DATA[start : start + 1000]
    assert len(fs.requests) < 10


@pytest.mark.parametrize("seed", range(4))
def test_no_byte_is_fetched_many_times(seed: int) -> None:
    """Reads in any order; one that spans cached bytes and others fetches it whole again."""
    random = np.random.default_rng(seed)
    data = DATA[: 1 << 19]
    fs, source = remote(data)
    for start, length in random.integers(0, [len(data), 4096], (300, 2)).tolist():
        assert source.read(start, length) == data[start : start + length]
    assert fs.n_bytes <= 1.5 * len(data)


def test_reads_before_the_last_one_fetch_nothing_behind_it() -> None:
    """Some writers put values before their IFD."""
    fs, source = remote(DATA)
    for end in range(6 << 20, 4 << 20, -500_000):
        for start in (end, end - 200, end - 20_000):
            assert source.read(start, 100) == DATA[start : start + 100]
    spans = sorted(fs.requests)
    assert len(fs.requests) == 10
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_block_inside_another_does_not_hide_it() -> None:
    fs, source = remote(DATA)
    source.prefetch([(1 << 20, 100), (1 << 21, 100)])
    source.prefetch([((1 << 20) - 99, 1 << 18), (1 << 22, 100)])
    n_before = len(fs.requests)
    assert source.read((1 << 20) + 50, 9000) == DATA[(1 << 20) + 50 : (1 << 20) + 9050]
    assert len(fs.requests) == n_before


def test_read_ahead_shrinks_with_jumps():
    fs, source = remote(DATA)
    jumps = np.cumsum(rng.integers(200_000, 900_000, 12)).tolist()
    for start in jumps:
        assert source.read(start, 20) == DATA[start : start + 20]
    assert fs.n_bytes < 200_000


def test_a_shorter_answer_is_an_error():
    fs, source = remote(DATA)
    fs.cat_file = lambda path, start, end: DATA[start : end - 1]
    with pytest.raises(SourceError, match="has the wrong length"):
        source.read(0, 10)


def test_reads_at_the_end():
    _, source = remote(DATA[:100])
    assert source.read(90, 50) == DATA[90:100]
    assert source.read(200, 50) == b""


def test_a_file_costs_the_same_requests_whatever_was_scanned_before(tmp_path, server):
    n_requests = []
    for n in range(5):
        path = tmp_path / f"{n}.tif"
        data = rng.integers(0, 4000, (600, 500), "u2")
        with tifffile.TiffWriter(path) as writer:  # overviews behind the pixels
            writer.write(data, tile=(64, 64), compression="zlib", metadata=None)
            writer.write(data[::2, ::2], tile=(64, 64), subfiletype=1, metadata=None)
        server.files[f"/{n}.tif"] = path.read_bytes()
        server.requests.clear()
        references = tiffref.scan(f"{server.url}/{n}.tif")
        n_requests.append(len(server.requests))
        ours = references.group["image"].manifest
        local = tiffref.scan(path, strict=True).group["image"].manifest
        assert (ours.offset == local.offset).all() and (ours.length == local.length).all()
    assert len(set(n_requests)) == 1


def test_a_small_file_costs_one_request(tmp_path, server):
    data = rng.integers(0, 4000, (600, 500), "u2")
    tifffile.imwrite(tmp_path / "a.tif", data, tile=(64, 64), compression="zlib", metadata=None)
    server.files["/a.tif"] = (tmp_path / "a.tif").read_bytes()
    references = tiffref.scan(f"{server.url}/a.tif")
    assert len(server.requests) == 1
    assert references.group["image"].codec.edge is None
    assert references.sources[0].size == (tmp_path / "a.tif").stat().st_size


def test_the_same_references_from_afar(tmp_path, server):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for n in range(80):
            tif.write(
                np.full((30, 30), n, "u2"), contiguous=False, compression="zlib", metadata=None
            )
    server.files["/a.tif"] = path.read_bytes()
    here = tiffref.scan(path).group["image"].manifest
    there = tiffref.scan(f"{server.url}/a.tif").group["image"].manifest
    np.testing.assert_array_equal(here.offset, there.offset)
    np.testing.assert_array_equal(here.length, there.length)


def test_what_is_not_there(server):
    with pytest.raises(MissingSource, match=r"404.*There is no such file"):
        tiffref.scan(f"{server.url}/no.tif")
    with pytest.raises(SourceError):
        open_source("nosuchprotocol://a/b")


def test_memory_file_system(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.pipe("/remote-test/a.bin", DATA[:5000])
    source = open_source("memory://remote-test/a.bin")
    assert source.size == 5000
    pairs = itertools.product((0, 100, 4999), (1, 10))
    assert all(source.read(a, n) == DATA[:5000][a : a + n] for a, n in pairs)


def test_a_file_system_that_does_not_tell_sizes():
    fs = Counted(b"II*")
    fs.info = lambda path: {"size": None, "type": "file"}
    with pytest.raises(SourceError, match="report the size"):
        RemoteSource(fs, "a.tif", "odd://a.tif")


def test_the_name_of_an_open_file_is_no_address(tmp_path, monkeypatch):
    """A member of an archive is not the file of that name in the current folder."""
    monkeypatch.chdir(tmp_path)
    inside, outside = np.full((4, 5), 1, "u1"), np.full((4, 5), 2, "u1")
    tifffile.imwrite("a.tif", inside)
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.write("a.tif")
    tifffile.imwrite("a.tif", outside)
    with zipfile.ZipFile("a.zip") as archive, archive.open("a.tif") as member:
        assert member.name == "a.tif"
        with tiffref.zarr.ZarrTiffStore(member) as store:
            np.testing.assert_array_equal(store[...], inside)
    with Path("a.tif").open("rb") as file, tiffref.zarr.ZarrTiffStore(file) as store:
        np.testing.assert_array_equal(store[...], outside)


STORED = bytes(range(100))


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

    def cat_ranges(
        self, paths: list[str], starts: Any, ends: Any, generation: Any = None, **options: Any
    ) -> list[bytes]:
        if generation not in (None, self.generation):
            raise FileNotFoundError(paths[0])
        return [STORED[start:end] for start, end in zip(starts, ends, strict=True)]


def test_a_generation_is_asked_for_once_and_read() -> None:
    fs, expected = Google(), Source("gs://bucket/a", 100, None, "e7")
    read = find_range_reader(fs)
    assert read is not None
    for start in (0, 50):
        data = read(fs, "bucket/a", expected.url, [(start, 10), (0, 5)], expected)
        assert data == [STORED[start : start + 10], STORED[:5]]
    assert fs.n_asked == 1
    fs.generation = "8"
    with pytest.raises(StaleSource, match="ETag e8, expected ETag e7"):
        read(fs, "bucket/a", expected.url, [(0, 10)], expected)
    with pytest.raises(StaleSource):
        read(fs, "bucket/a", expected.url, [(0, 10)], Source(expected.url, 100, None, "e6"))
    assert read(fs, "bucket/a", expected.url, [(0, None)], None) == [STORED]


def test_an_object_is_opened_by_one_request(
    s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = pytest.importorskip("s3fs").S3FileSystem(**s3_options)
    fs.call_s3("create_bucket", Bucket="opened")
    for name, size in (("large", 100_000), ("small", 99), ("empty", 0)):
        fs.pipe_file(f"opened/folder/{name}", bytes(size))
    calls: list[str] = []
    call_s3 = type(fs)._call_s3

    async def count(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        return await call_s3(self, method, *args, **kwargs)

    monkeypatch.setattr(type(fs), "_call_s3", count)
    for name, size in (("large", 100_000), ("small", 99)):
        calls.clear()
        source = RemoteSource(fs, f"opened/folder/{name}", f"s3://opened/folder/{name}")
        assert source.read(0, 9) == bytes(9) and calls == ["get_object"]
        state = source.state()
        assert source.source == state and state.size == size and state.etag and state.mtime
    source = RemoteSource(fs, "opened/folder/large", "s3://opened/folder/large")
    source.prefetch([(90_000, 9), (70_000, 9)])
    fs.pipe_file("opened/folder/large", bytes(range(100)) * 1000)
    with pytest.raises(StaleSource):  # each of several ranges is compared
        source.prefetch([(80_000, 9), (99_000, 9)])
    assert RemoteSource(fs, "opened/folder/empty", "s3://opened/folder/empty").size == 0
    with pytest.raises(SourceError, match="is a directory"):
        RemoteSource(fs, "opened/folder", "s3://opened/folder")
    with pytest.raises(MissingSource):
        RemoteSource(fs, "opened/none", "s3://opened/none")


def test_an_object_store_that_ignores_ranges_is_not_read_to_the_end() -> None:
    class Body:
        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *error: object) -> None:
            pass

        async def read(self) -> bytes:
            raise AssertionError("the whole object is read")

    class Store:
        protocol, req_kw, loop = ("s3",), {}, fsspec.asyn.get_loop()
        split_path = staticmethod(lambda path: ("bucket", path, None))

        async def _call_s3(self, method: str, **options: Any) -> dict[str, Any]:
            return {"Body": Body(), "ContentLength": 1 << 40}

    read = find_range_reader(Store())
    assert read is not None
    with pytest.raises(SourceError, match="another part of the object"):
        read(Store(), "a", "s3://bucket/a", [(0, 10)], None)


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
    assert source_from_info("u", {"size": 1, "etag": '"x"', **info}) == Source("u", 1, mtime, "x")
