"""A source that is no longer what was scanned is an error, never other pixels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from faulty import FaultyServer

import tiffref
from tiffref.errors import SourceError, StaleSource
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore

CHANGES: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "grown": lambda data, other: data + bytes(100),
    "shrunk": lambda data, other: data[:-1000],
    "other bytes": lambda data, other: other,
    "deleted": lambda data, other: None,
}


def readers(references: References, options: dict[str, Any] | None = None) -> list[Callable]:
    """Ways to read through references, none of which has read yet."""
    document = references.to_kerchunk()
    store = ZarrTiffStore(References.from_kerchunk(document), storage_options=options)
    opened = xr.open_dataset(document, engine="tiffref", storage_options=options)
    return [lambda: store[:], lambda: opened["image"].values]


def expect_error(read: Callable[[], Any], url: str, change: str) -> None:
    with pytest.raises(SourceError) as caught:
        read()
    assert caught.value.url == url
    if change not in ("deleted", "directory"):
        assert isinstance(caught.value, StaleSource)
        assert caught.value.got and caught.value.expected


# ---- local files


@pytest.mark.parametrize("verify", ["first", "always"])
@pytest.mark.parametrize("change", [*CHANGES, "directory", "renamed over"])
def test_local(tmp_path: Path, data: bytes, other: bytes, change: str, verify: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    references = tiffref.scan(path)
    store = ZarrTiffStore(references, verify=verify)
    ways = [*readers(references), lambda: store[:]]
    os.utime(path, (1, 1))  # a change within one tick of the clock would not show in the time
    if change == "directory":
        path.unlink()
        path.mkdir()
    elif change == "renamed over":
        (tmp_path / "b").write_bytes(other)
        (tmp_path / "b").rename(path)
    else:
        changed = CHANGES[change](data, other)
        path.unlink() if changed is None else path.write_bytes(changed)
    for read in ways:
        expect_error(read, str(path), change)


def test_local_swapped_between_open_and_read(
    tmp_path: Path, data: bytes, other: bytes, image: np.ndarray
) -> None:
    """What was opened is what was compared; a file of the same name changes nothing."""
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    first, always = (ZarrTiffStore(path, verify=when) for when in ("first", "always"))
    assert (first[0, :5] == image[0, :5]).all() and (always[0, :5] == image[0, :5]).all()
    (tmp_path / "b").write_bytes(other)
    os.utime(tmp_path / "b", (1, 1))
    (tmp_path / "b").rename(path)
    np.testing.assert_array_equal(first[:], image)
    expect_error(lambda: always[:], str(path), "other bytes")
    first.close()  # the next read opens the file anew, and compares it anew
    expect_error(lambda: first[:], str(path), "other bytes")


def test_never_reads_what_is_there(tmp_path: Path, data: bytes, other: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    store = ZarrTiffStore(path, verify="never")
    path.write_bytes(other)
    os.utime(path, (1, 1))
    assert store[:].shape == (96, 128)


# ---- HTTP


@pytest.mark.parametrize("change", [*CHANGES, "same ETag means same bytes"])
@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("validators", ["etag", "modified", "both"])
def test_http(
    server: FaultyServer, data: bytes, other: bytes, image: np.ndarray,
    change: str, conditions: bool, validators: str,
) -> None:  # fmt: skip
    url = f"{server.url}/{change[0]}{conditions}{validators}.tif"
    path = url.removeprefix(server.url)

    def publish(content: bytes | None, version: int) -> None:
        server.files.pop(path, None)
        if content is not None:
            server.files[path] = content
        if validators != "modified":
            server.etags[path] = f"v{version if change in CHANGES else 1}"
        if validators != "etag":
            server.modified[path] = 1.7e9 + version

    server.honours_conditions = conditions
    publish(data, 1)
    references = tiffref.scan(url)
    ways = readers(references)
    np.testing.assert_array_equal(readers(references)[0](), image)
    if change in CHANGES:
        publish(CHANGES[change](data, other), 2)
        for read in ways:
            expect_error(read, url, change)
    else:
        publish(data, 2)
        for read in ways if validators == "both" else ():
            np.testing.assert_array_equal(read(), image)


@pytest.mark.parametrize("change", ["grown", "shrunk", "deleted"])
def test_http_without_validators(
    server: FaultyServer, data: bytes, other: bytes, change: str
) -> None:
    """The total in Content-Range is all that such servers tell."""
    url = f"{server.url}/plain.tif"
    server.files["/plain.tif"] = data
    ways = readers(tiffref.scan(url))
    changed = CHANGES[change](data, other)
    server.files = {} if changed is None else {"/plain.tif": changed}
    for read in ways:
        expect_error(read, url, change)


def test_http_swapped_between_reads(
    server: FaultyServer, data: bytes, other: bytes, image: np.ndarray
) -> None:
    """Every answer is compared, not only the first."""
    server.files["/a.tif"], server.etags["/a.tif"] = data, "one"
    store = ZarrTiffStore(f"{server.url}/a.tif")
    np.testing.assert_array_equal(store[:32], image[:32])
    server.files["/a.tif"], server.etags["/a.tif"] = other, "two"
    with pytest.raises(StaleSource, match="one"):
        store[32:]


def test_server_that_meets_no_condition(
    server: FaultyServer, data: bytes, image: np.ndarray
) -> None:
    """A 412 for an object that is the same is not taken for a change."""
    server.files["/a.tif"], server.modified["/a.tif"] = data, 1.7e9
    references = tiffref.scan(f"{server.url}/a.tif")
    server._server.RequestHandlerClass._is_met = (  # type: ignore[attr-defined]
        lambda self: "If-Unmodified-Since" not in self.headers
    )
    np.testing.assert_array_equal(ZarrTiffStore(references)[:], image)


# ---- S3


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[Any, dict[str, Any]]]:
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    options = {
        "key": "x",
        "secret": "y",
        "endpoint_url": f"http://127.0.0.1:{port}",
        "client_kwargs": {"region_name": "us-east-1"},
    }
    fs = s3fs.S3FileSystem(**options)
    fs.call_s3("create_bucket", Bucket="bucket")
    yield fs, options
    running.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", list(CHANGES))
def test_s3(
    bucket: tuple[Any, dict[str, Any]], data: bytes, other: bytes, image: np.ndarray, change: str
) -> None:
    fs, options = bucket
    url = f"s3://bucket/{change.replace(' ', '-')}.tif"
    fs.pipe_file(url, data)
    references = tiffref.scan(url, storage_options=options)
    np.testing.assert_array_equal(readers(references, options)[0](), image)
    ways = readers(references, options)
    changed = CHANGES[change](data, other)
    fs.rm(url) if changed is None else fs.pipe_file(url, changed)
    for read in ways:
        expect_error(read, url, change)


def test_folder_gone(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tif").write_bytes(data)
    store = ZarrTiffStore(folder / "a.tif")
    shutil.rmtree(folder)
    expect_error(lambda: store[:], str(folder / "a.tif"), "deleted")
