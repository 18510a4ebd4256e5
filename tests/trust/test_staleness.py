"""A source that is no longer what was scanned is an error, never other pixels."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
from faulty import FaultyServer
from fsspec.implementations.reference import ReferenceNotReachable
from servers import SERVERS, Place

import tiffref
import zarr
from tiffref.errors import SourceError, StaleSource
from tiffref.read import fetch
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore

CHANGES: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "grown": lambda data, other: data + bytes(100),
    "shrunk": lambda data, other: data[:-1000],
    "other bytes": lambda data, other: other,
    "deleted": lambda data, other: None,
}
FIRST, REST = slice(0, 32), slice(32, 96)
"""Rows of the image: whole rows of tiles."""
WHEN = ("before the first read", "between two reads")
Read = Callable[[slice], np.ndarray]


def readers(
    references: References, options: dict[str, Any] | None = None, verify: str = "first"
) -> list[Read]:
    """Ways to read through references, none of which has read yet."""
    document = references.to_kerchunk()
    given: dict[str, Any] = {"storage_options": options, "verify": verify}
    store, face = (ZarrTiffStore(References.from_kerchunk(document), **given) for _ in range(2))
    opened = xr.open_dataset(document, engine="tiffref", **given)

    def cat(rows: slice) -> np.ndarray:
        """Read through fsspec's face of the store, tile by tile."""
        grid = [[f"{y}.{x}" for x in range(4)] for y in range(rows.start // 32, rows.stop // 32)]
        try:
            found = face.fs.cat([key for row in grid for key in row])
        except ReferenceNotReachable as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None
        return np.block(
            [[np.frombuffer(found[key], "<u2").reshape(32, 32) for key in row] for row in grid]
        )

    return [lambda rows: store[rows], lambda rows: opened["image"][rows].values, cat]


def expect_error(read: Callable[[], Any], url: str, change: str) -> None:
    with pytest.raises(SourceError) as caught:
        read()
    assert caught.value.url == url
    if change not in ("deleted", "directory"):
        assert isinstance(caught.value, StaleSource)
        assert caught.value.got and caught.value.expected


# ---- local files


def change_local(path: Path, change: str, data: bytes, other: bytes) -> None:
    os.utime(path, (1, 1))  # a change within one tick of the clock would not show in the time
    if change == "directory":
        path.unlink()
        path.mkdir()
    elif change == "renamed over":
        beside = path.with_suffix(".new")
        beside.write_bytes(other)
        beside.rename(path)
    else:
        changed = CHANGES[change](data, other)
        path.unlink() if changed is None else path.write_bytes(changed)


LOCAL_CHANGES = [*CHANGES, "directory", "renamed over"]


@pytest.mark.parametrize("verify", ["first", "always"])
@pytest.mark.parametrize("change", LOCAL_CHANGES)
def test_a_changed_local_file(
    tmp_path: Path, data: bytes, other: bytes, change: str, verify: str
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    references = tiffref.scan(path)
    ways = readers(references, verify=verify)
    store = ZarrTiffStore(references, verify=verify)
    change_local(path, change, data, other)
    for read in [*ways, lambda rows: store[rows]]:
        expect_error(lambda: read(FIRST), str(path), change)  # noqa: B023 - called at once


@pytest.mark.parametrize("change", LOCAL_CHANGES)
def test_a_local_file_changed_between_two_reads(
    tmp_path: Path, data: bytes, other: bytes, image: np.ndarray, change: str
) -> None:
    """What was opened is what was compared: a file of the same name changes nothing.

    Only `verify="always"` tells a file that is written in place after it was opened.
    """
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    references = tiffref.scan(path)
    ways = {verify: readers(references, verify=verify) for verify in ("first", "always")}
    for read in (*ways["first"], *ways["always"]):
        np.testing.assert_array_equal(read(FIRST), image[FIRST])
    change_local(path, change, data, other)
    for read in ways["always"]:
        expect_error(lambda: read(REST), str(path), change)  # noqa: B023 - called at once
    for read in ways["first"]:
        if change == "shrunk":
            with pytest.raises(SourceError):
                read(REST)
        elif change != "other bytes":
            np.testing.assert_array_equal(read(REST), image[REST])


def test_local_file_that_is_opened_again_is_compared_again(
    tmp_path: Path, data: bytes, other: bytes
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    store = ZarrTiffStore(path)
    store[0, 0]
    change_local(path, "renamed over", data, other)
    store.close()
    expect_error(lambda: store[:], str(path), "other bytes")


@pytest.mark.parametrize("change", LOCAL_CHANGES)
def test_verify_never_reads_the_new_file(
    tmp_path: Path, data: bytes, other: bytes, image: np.ndarray, change: str
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    ways = readers(tiffref.scan(path), verify="never")
    change_local(path, change, data, other)
    for read in ways:
        if change in ("deleted", "directory"):
            with pytest.raises(SourceError):
                read(FIRST)
        else:
            expected = image if change in ("grown", "shrunk") else image[::-1]
            np.testing.assert_array_equal(read(FIRST), expected[FIRST])


# ---- chunks that were missing


def sparse(n_tiles: int) -> bytes:
    """An image of 3 x 4 tiles, of which the first ones are written."""
    tiles = (np.full((32, 32), 7, "u2") if n < max(1, n_tiles) else None for n in range(12))
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as tif:  # whose first tile must not be missing
        tif.write(tiles, shape=(96, 128), dtype="u2", tile=(32, 32), metadata=None)
    if not n_tiles:
        buffer.seek(0)
        with tifffile.TiffFile(buffer, mode="r+b") as tif:
            for code in (324, 325):
                tif.pages[0].tags[code].overwrite([0] * 12)
    return buffer.getvalue()


def readers_of_missing(source: Any, zarr_format: int) -> list[Callable[[], Any]]:
    store = ZarrTiffStore(source, zarr_format=zarr_format)
    group = zarr.open_group(store, mode="r")
    opened = xr.open_dataset(source, engine="tiffref")
    key = "image/c/2/3" if zarr_format == 3 else "image/2.3"
    return [
        lambda: store[-1, -1], lambda: group["image"][-1, -1],
        lambda: opened["image"][-1, -1].load(), lambda: store.fs.cat(key), lambda: store[key],
    ]  # fmt: skip


@pytest.mark.parametrize("n_tiles", [0, 1])
@pytest.mark.parametrize(
    ("name", "zarr_format"), [("refs.json", 2), ("refs.json", 3), ("refs.parq", 2)]
)
def test_tiles_that_are_written_after_the_scan(
    tmp_path: Path, name: str, zarr_format: int, n_tiles: int
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(sparse(n_tiles))
    tiffref.scan(path).write_fsspec(tmp_path / name, zarr_format=zarr_format)
    for read in readers_of_missing(tmp_path / name, zarr_format)[:3]:
        assert np.asarray(read()) == 0
    path.write_bytes(sparse(12))
    for read in readers_of_missing(tmp_path / name, zarr_format):
        expect_error(read, str(path), "grown")


def test_tiles_of_a_sequence_that_are_written_after_the_scan(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.tif").write_bytes(sparse(n + 1))
    references = tiffref.scan_sequence(tmp_path / "{t}.tif")
    (tmp_path / "1.tif").write_bytes(sparse(12))
    store = ZarrTiffStore(references)
    assert store[0, -1, -1] == store[2, -1, -1] == 0
    expect_error(lambda: store[1, -1, -1], str(tmp_path / "1.tif"), "grown")
    expect_error(lambda: store[:, -1, -1], str(tmp_path / "1.tif"), "grown")


@pytest.mark.parametrize("validators", ["etag", "modified", ""])
def test_tiles_of_an_http_object_that_are_written_after_the_scan(
    server: FaultyServer, validators: str
) -> None:
    file = Published(server, validators)
    file.put(sparse(1), 1)
    references = tiffref.scan(file.url)
    store = ZarrTiffStore(references)
    n_requests = len(server.requests)
    assert (zarr.open_array(store, mode="r")[32:] == 0).all()
    assert len(server.requests) <= n_requests + 1
    file.put(sparse(12), 2)
    for read in readers_of_missing(references, 2):
        expect_error(read, file.url, "grown")


# ---- HTTP

VALIDATORS = ("etag", "modified", "etag modified", "")


class Published:
    """One file on a server, with validators that follow its content."""

    def __init__(self, server: FaultyServer, validators: str) -> None:
        self.server, self.path, self.validators = server, "/data/a.tif", validators
        self.url = server.url + self.path

    def put(self, content: bytes | None, version: int, etag: int | None = None) -> None:
        for table in (self.server.files, self.server.etags, self.server.modified,
                      self.server.redirects):  # fmt: skip
            table.pop(self.path, None)
        if content is not None:
            self.server.files[self.path] = content
        if "etag" in self.validators:
            self.server.etags[self.path] = f"v{etag or version}"
        if "modified" in self.validators:
            self.server.modified[self.path] = 1.7e9 + version

    def change(self, change: str, data: bytes, other: bytes) -> None:
        if change == "directory":  # servers lead on to the folder, and list what is in there
            self.put(None, 2)
            self.server.redirects[self.path] = f"{self.path}/"
            self.server.files[f"{self.path}/"] = b"<html>Index of a.tif</html>" * 200
        else:
            self.put(CHANGES[change](data, other), 2)


@pytest.mark.parametrize("change", [*CHANGES, "directory"])
@pytest.mark.parametrize("validators", VALIDATORS)
@pytest.mark.parametrize("conditions", [True, False])
def test_a_changed_http_object(
    server: FaultyServer, data: bytes, other: bytes, image: np.ndarray,
    change: str, validators: str, conditions: bool,
) -> None:  # fmt: skip
    """The total in Content-Range is all that servers without validators tell."""
    if not validators and (change == "other bytes" or not conditions):
        pytest.skip("cannot be told, or is the same as with conditions")
    server.honours_conditions = conditions
    file = Published(server, validators)
    file.put(data, 1)
    references = tiffref.scan(file.url)
    for verify in ("first", "always"):
        for when in WHEN:
            file.put(data, 1)
            ways = readers(references, verify=verify)
            if when != WHEN[0]:
                for read in ways:
                    np.testing.assert_array_equal(read(FIRST), image[FIRST])
            file.change(change, data, other)
            for read in ways:
                expect_error(lambda: read(REST), file.url, change)  # noqa: B023


@pytest.mark.parametrize("change", [*CHANGES, "directory"])
def test_http_with_verify_never_reads_the_new_object(
    server: FaultyServer, data: bytes, other: bytes, image: np.ndarray, change: str
) -> None:
    file = Published(server, "etag modified")
    file.put(data, 1)
    ways = readers(tiffref.scan(file.url), verify="never")
    file.change(change, data, other)
    for read in ways:
        if change in ("deleted", "directory"):
            with pytest.raises(SourceError):
                read(REST)
        else:
            expected = image if change in ("grown", "shrunk") else image[::-1]
            np.testing.assert_array_equal(read(FIRST), expected[FIRST])


def test_http_same_etag_means_same_bytes(
    server: FaultyServer, data: bytes, image: np.ndarray
) -> None:
    file = Published(server, "etag modified")
    file.put(data, 1)
    references = tiffref.scan(file.url)
    for server.honours_conditions in (True, False):
        file.put(data, 2, etag=1)
        for read in readers(references):
            np.testing.assert_array_equal(read(REST), image[REST])


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
def bucket(s3_options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    fs = pytest.importorskip("s3fs").S3FileSystem(**s3_options)
    fs.call_s3("create_bucket", Bucket="stale")
    return fs, s3_options


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("change", [*CHANGES, "directory"])
def test_a_changed_s3_object(
    bucket: tuple[Any, dict[str, Any]], data: bytes, other: bytes, image: np.ndarray,
    change: str, when: str,
) -> None:  # fmt: skip
    fs, options = bucket
    url = f"s3://stale/{change[:5]}{when[:3]}.tif"
    fs.pipe_file(url, data)
    references = tiffref.scan(url, storage_options=options)
    checked = [
        read for verify in ("first", "always") for read in readers(references, options, verify)
    ]
    unchecked = readers(references, options, "never")
    if when != WHEN[0]:
        for read in (*checked, *unchecked):
            np.testing.assert_array_equal(read(FIRST), image[FIRST])
    changed = None if change == "directory" else CHANGES[change](data, other)
    fs.rm(url) if changed is None else fs.pipe_file(url, changed)
    if change == "directory":  # a folder is what has objects below it
        fs.pipe_file(f"{url}/b.tif", data)
    for read in checked:
        expect_error(lambda: read(REST), url, change)  # noqa: B023 - called at once
    for read in unchecked:
        if changed is None:
            with pytest.raises(SourceError):
                read(REST)
        elif change != "shrunk":
            expected = image if change == "grown" else image[::-1]
            np.testing.assert_array_equal(read(REST), expected[REST])


# ---- other protocols


@pytest.fixture(scope="module", params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as place:
        yield place


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_object_of_other_servers(
    place: Place, data: bytes, other: bytes, image: np.ndarray, change: str, when: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What the client listed before does not count; FTP and SFTP are asked again after a while."""
    import fsspec

    monkeypatch.setattr(fetch, "_CHECK_LIFETIME_S", 0.0)
    name = f"{change[:5]}{when[:3]}.tif"
    url, options = f"{place.url}/{name}", place.options
    place.put(name, data)
    references = tiffref.scan(url, storage_options=options)
    checked = [
        read for verify in ("first", "always") for read in readers(references, options, verify)
    ]
    if when != WHEN[0]:
        for read in checked:
            np.testing.assert_array_equal(read(FIRST), image[FIRST])
    fs, path = fsspec.url_to_fs(url, **options)
    fs.ls(path.rpartition("/")[0])
    place.put(name, CHANGES[change](data, other))
    for read in checked:
        expect_error(lambda: read(REST), url, change)  # noqa: B023 - called at once


def test_checks_hold_for_a_while(
    tmp_path: Path, data: bytes, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_CHECK_LIFETIME_S", 1e9)
    with SERVERS["ftp"](tmp_path) as place:
        for name in "abc":
            place.put(f"{name}.tif", data)
        stores = [ZarrTiffStore(f"{place.url}/{name}.tif") for name in "abc"]
        fs = stores[0]._fetch.open(stores[0].references.sources[0].url).fs
        asked = []
        fs.ftp.mlsd = lambda path, _ask=fs.ftp.mlsd: asked.append(path) or _ask(path)
        for _ in range(3):
            for y in (0, 32, 64):
                np.testing.assert_array_equal(stores[0][y : y + 32], image[y : y + 32])
        assert len(asked) <= 2  # one of the client's own, which opens the file


def test_folder_gone(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tif").write_bytes(data)
    store = ZarrTiffStore(folder / "a.tif")
    shutil.rmtree(folder)
    expect_error(lambda: store[:], str(folder / "a.tif"), "deleted")


@pytest.mark.parametrize("validator", ["etags", "modified"])
def test_validation_of_an_object_that_changes_after_its_check(
    server: FaultyServer, data: bytes, validator: str
) -> None:
    """Servers behind one address may also disagree about HEAD and GET for good."""
    values: dict[str, Any] = getattr(server, validator)
    server.files["/a.tif"], values["/a.tif"] = data, 1_500_000_000
    document = tiffref.scan(f"{server.url}/a.tif").to_kerchunk()
    assert tiffref.validate(document, sources=True, pixels="all").findings == []
    server.pick_fault = lambda: values.update({"/a.tif": 1_600_000_000})  # called before each GET
    report = tiffref.validate(document, sources=True, pixels=1)
    assert [finding.code for finding in report.findings] == ["stale"]


def test_a_fault_of_an_ftp_connection_is_no_missing_file(
    tmp_path: Path, data: bytes, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec raises FileNotFoundError for both; a new connection tells which it is."""
    from fsspec.implementations.ftp import FTPFileSystem

    faults = [FileNotFoundError("a.tif")]
    cat_file = FTPFileSystem.cat_file

    def cat_with_faults(fs: FTPFileSystem, *args: Any, **options: Any) -> bytes:
        if faults:
            raise faults.pop()
        return cat_file(fs, *args, **options)

    with SERVERS["ftp"](tmp_path) as place:
        place.put("a.tif", data)
        references = tiffref.scan(f"{place.url}/a.tif")
        monkeypatch.setattr(FTPFileSystem, "cat_file", cat_with_faults)
        with ZarrTiffStore(references) as store:
            np.testing.assert_array_equal(store[FIRST], image[FIRST])
            assert not faults
            place.put("a.tif", None)
            with pytest.raises(SourceError, match="No such file"):
                store[...]
