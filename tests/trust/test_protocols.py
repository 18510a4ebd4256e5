"""Protocols with one connection, and chains of file systems: right pixels, typed errors."""

from __future__ import annotations

import json
import tarfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from faulty import FaultyServer
from servers import SERVERS, Place

import tiffref
from tiffref.errors import MetadataWarning, MissingSource, SourceError, StaleSource
from tiffref.io.allow import AllowList, location_prefix
from tiffref.io.clients import file_system_lock, find_file_system
from tiffref.io.urls import to_document_url
from tiffref.zarr import ZarrTiffStore

PIXELS = np.random.default_rng(2).integers(0, 60000, (256, 256)).astype("u2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.tif", "b.tif"):
        options: Any = {"tile": (32, 32), "compression": "zlib"}
        tifffile.imwrite(tmp_path / name, PIXELS, metadata=None, **options)
    return tmp_path


@pytest.fixture(params=["ftp", "sftp", "openssh"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    with SERVERS[request.param](folder) as place:
        yield place


def read_by_many(address: str, options: dict[str, Any] | None = None) -> None:
    """Read two files by several stores and threads, whose file system is one connection."""
    stores = [ZarrTiffStore(f"{address}/{name}", storage_options=options)
              for name in ("a.tif", "b.tif", "a.tif")]  # fmt: skip
    places = [(n % 3, 32 * (n % 8), 32 * (n // 8 % 8)) for n in range(48)]

    def check(place: tuple[int, int, int]) -> bool:
        which, y, x = place
        part = stores[which][y : y + 48, x : x + 48]
        return bool((part == PIXELS[y : y + 48, x : x + 48]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, places))
    assert (stores[0][...] == PIXELS).all()


def test_one_connection_of_many_threads(place: Place) -> None:
    read_by_many(place.url, place.options)
    with pytest.raises(SourceError):
        tiffref.scan(f"{place.url}/nothing.tif", storage_options=place.options)


def test_unreachable_ftp_and_sftp() -> None:
    with pytest.raises(SourceError):
        tiffref.scan("ftp://127.0.0.1:9/a.tif")
    pytest.importorskip("paramiko", reason="paramiko is not installed")
    with pytest.raises(SourceError):
        tiffref.scan("sftp://127.0.0.1:9/a.tif")


def test_who_takes_turns() -> None:
    import contextlib

    import fsspec

    with_none = contextlib.nullcontext
    assert isinstance(file_system_lock(fsspec.filesystem("memory")), with_none)
    assert isinstance(file_system_lock(fsspec.filesystem("http")), with_none)
    archive = fsspec.filesystem("memory")
    archive.pipe_file("/x.zip", b"PK\5\6" + bytes(18))
    fs = fsspec.filesystem("zip", fo="memory://x.zip")
    assert file_system_lock(fs) is file_system_lock(fs) and not isinstance(
        file_system_lock(fs), with_none
    )


@pytest.fixture
def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "a.tif", "in/a.tif")
        file.write(folder / "b.tif", "in/b.tif")
    return folder / "x.zip"


def test_documents_in_archives(folder: Path) -> None:
    tiffref.scan(folder / "a.tif").write_fsspec(folder / "a.json")
    with zipfile.ZipFile(folder / "x.zip", "w") as file:
        file.write(folder / "a.json", "a.json")
    url = f"zip://a.json::{folder}/x.zip"
    assert (ZarrTiffStore(url, allow="*")[...] == PIXELS).all()


def test_archives_are_read_and_recorded(archive: Path) -> None:
    url = f"zip://in/a.tif::file://{archive}"
    store = ZarrTiffStore(url)
    assert (store[...] == PIXELS).all()
    with pytest.warns(MetadataWarning, match="inside another file"):
        document = store.references.to_kerchunk()
    assert (ZarrTiffStore(document)[...] == PIXELS).all()
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda n: (store[n : n + 40] == PIXELS[n : n + 40]).all(), range(0, 200, 5)
        )
        assert all(parts)


def break_archive(archive: Path, how: str) -> str:
    """Damage an archive, or write a damaged one of another kind; return the URL of its member."""
    data = bytearray(archive.read_bytes())
    if how in ("encrypted", "unknown method"):
        code = 1 if how == "encrypted" else 99
        for start, field in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.index(start) + field + (0 if how == "encrypted" else 2)] = code
    elif how == "damaged":
        data[200:400] = b"\xff" * 200
    elif how == "cut off":
        del data[-100:]
    if how.startswith("tar"):
        name = archive.with_name(f"x.{how.partition(' ')[0]}")
        with tarfile.open(name, how.partition(" ")[0].replace("tar", "w").replace(".", ":")) as tar:
            tar.add(archive, "in/a.tif")
        data = bytearray(name.read_bytes())
        name.write_bytes(data[: len(data) // 2] if "cut" in how else b"\1" * 700 + data[700:])
        return f"tar://in/a.tif::{name}"
    archive.write_bytes(data)
    return f"zip://in/a.tif::{archive}"


@pytest.mark.parametrize(
    "how", ["encrypted", "unknown method", "damaged", "cut off", "tar cut", "tar damaged",
            "tar.gz cut", "tar.gz damaged", "tar.bz2 cut", "tar.xz cut", "tar.xz damaged"]
)  # fmt: skip
def test_damaged_archives(archive: Path, how: str) -> None:
    url = break_archive(archive, how)
    with pytest.raises(SourceError):
        tiffref.scan(url)
    with pytest.raises(SourceError):
        ZarrTiffStore(url.replace("a.tif", "a.json"), allow="*")


def test_names_with_colons_of_chains() -> None:
    with pytest.raises(SourceError, match='"::" starts another URL'):
        tiffref.scan("s3://bucket/a::b.tif")


@pytest.mark.parametrize("user", ["", "me:pw@"])
def test_ipv6_hosts(user: str) -> None:
    """fsspec takes "::" for the start of another URL."""
    whole = f"fd00:{'0000:' * 6}0001"
    url, full = (f"http://{user}[{host}]:9/a.tif" for host in ("fd00::1", whole))
    assert find_file_system(url, None)[1] == full
    assert to_document_url(url) == full.replace(user, "")
    listed = AllowList("http://[fd00::1]:9/x/")
    assert listed.permits("http://[fd00::1]:9/x/a.tif")
    assert listed.permits(f"http://[{whole}]:9/x/a.tif")
    assert not listed.permits("http://[fd00::2]:9/x/a.tif")
    assert location_prefix(url) == full.removesuffix("a.tif")


@pytest.fixture
def cached(request: pytest.FixtureRequest, server: FaultyServer, data: bytes, tmp_path: Path):
    """Return a URL with a cache in front of it, and its options."""
    server.files["/a.tif"], server.etags["/a.tif"] = data, "one"
    server.modified["/a.tif"] = time.time() // 1 - 1000
    cache = getattr(request, "param", "simplecache")
    return f"{cache}::{server.url}/a.tif", {cache: {"cache_storage": str(tmp_path / "cache")}}


@pytest.mark.parametrize("name", ["a.tif?sig=1", "*.tif", "a_{n}.tif"])
def test_sequences_behind_caches(server: FaultyServer, data: bytes, image: Any, name: str) -> None:
    server.files.update({f"/{n}": data for n in ("a.tif?sig=1", "a.tif", "a_1.tif")})
    server.files["/"] = b'<a href="a.tif">a</a> <a href="a_1.tif">b</a>'
    references = tiffref.scan_sequence(f"simplecache::{server.url}/{name}")
    expected = {"a.tif?sig=1": ["a.tif?sig=1"], "*.tif": ["a.tif", "a_1.tif"]}
    urls = [f"simplecache::{server.url}/{n}" for n in expected.get(name, ["a_1.tif"])]
    assert [source.url for source in references.sources] == urls
    assert (ZarrTiffStore(references)[-1] == image).all()


@pytest.mark.parametrize("cached", ["simplecache", "filecache"], indirect=True)
def test_caches_fetch_a_file_once(
    cached: tuple[str, dict], server: FaultyServer, image: np.ndarray
) -> None:
    url, options = cached
    with ZarrTiffStore(url, storage_options=options) as store, ThreadPoolExecutor(8) as pool:
        rows = pool.map(lambda y: (store[y : y + 12] == image[y : y + 12]).all(), range(0, 96, 12))
        assert all(rows)
    server.requests.clear()
    with ZarrTiffStore(url, storage_options=options) as store:
        assert (store[...] == image).all()
    assert {method for method, _ in server.requests} == {"HEAD"}


@pytest.mark.parametrize("cached", ["simplecache", "filecache"], indirect=True)
@pytest.mark.parametrize("is_open", [True, False])
def test_copies_older_than_the_file(
    cached: tuple[str, dict], server: FaultyServer, other: bytes, is_open: bool
) -> None:
    """Their pixels may be at other places than those of the file, whose ETag a document has."""
    url, options = cached
    store = ZarrTiffStore(url, storage_options=options, verify="always")
    store[0, 0]
    server.files["/a.tif"], server.etags["/a.tif"] = other, "two"
    server.modified["/a.tif"] = time.time() // 1 + 1000
    with pytest.raises(StaleSource, match="the copy in the cache") as caught:
        store[...] if is_open else ZarrTiffStore(url, storage_options=options)
    assert "Empty the cache" in str(caught.value)


@pytest.mark.parametrize("cached", ["simplecache", "filecache"], indirect=True)
def test_caches_of_missing_files_and_folders(
    cached: tuple[str, dict], server: FaultyServer, folder: Path
) -> None:
    url, options = cached
    with pytest.raises(SourceError, match="is a directory, expected a TIFF file"):
        tiffref.scan(f"{url.partition('::')[0]}::file://{folder}", storage_options=options)
    server.files.clear()
    for missing in (url, f"{url.partition('::')[0]}::file://{folder}/none.tif"):
        with pytest.raises(MissingSource):
            tiffref.scan(missing, storage_options=options)
    server.files["/a.tif"], server.probability = b"", 1.0
    server.answers_head, server.pick_fault = False, lambda: "status 403"  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="HTTP status 403"):
        tiffref.scan(url, storage_options=options)


def test_copies_cut_short(cached: tuple[str, dict], tmp_path: Path) -> None:
    """fsspec keeps what it has of a download that broke off."""
    url, options = cached
    ZarrTiffStore(url, storage_options=options)
    (copy,) = (tmp_path / "cache").iterdir()
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(StaleSource, match="incomplete"):
        ZarrTiffStore(url, storage_options=options)


@pytest.mark.parametrize("cached", ["blockcache", "cached", "simplecache"], indirect=True)
def test_caches_that_cannot_be_checked_are_not_used(
    cached: tuple[str, dict], server: FaultyServer, image: np.ndarray
) -> None:
    """Blocks have no time, and a cache follows redirects that a document may not."""
    url, options = cached
    allow = [url] if url.startswith("simplecache") else None
    document = tiffref.scan(url, storage_options=options).to_kerchunk()
    refs = {k: [url, *v[1:]] if isinstance(v, list) else v for k, v in document["refs"].items()}
    server.requests.clear()
    store = ZarrTiffStore({"version": 1, "refs": refs}, allow=allow or "*")
    assert (store[...] == image).all()
    assert all(server.ranges[-len(server.requests) :])


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_caches_are_their_readers_choice(
    folder: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    xarray = pytest.importorskip("xarray")
    monkeypatch.setenv("HOME", str(folder))
    store = ZarrTiffStore(f"{cache}::file://{folder}/a.tif")
    assert (store[...] == PIXELS).all()
    document = store.references.to_kerchunk()
    urls = {ref[0] for ref in document["refs"].values() if isinstance(ref, list)}
    assert urls == {f"file://{folder}/a.tif"}
    (folder / "r.json").write_text(json.dumps(document))
    with xarray.open_dataset(str(folder / "r.json"), engine="kerchunk") as dataset:
        assert (dataset.image.values == PIXELS).all()
