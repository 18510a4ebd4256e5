"""Protocols with one connection, and chains of file systems: right pixels, typed errors."""

from __future__ import annotations

import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import MetadataWarning, SourceError
from tiffref.io.local import lock_for
from tiffref.zarr import ZarrTiffStore

PIXELS = np.random.default_rng(2).integers(0, 60000, (256, 256)).astype("u2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.tif", "b.tif"):
        options: Any = {"tile": (32, 32), "compression": "zlib"}
        tifffile.imwrite(tmp_path / name, PIXELS, metadata=None, **options)
    return tmp_path


@pytest.fixture
def ftp(folder: Path) -> Iterator[str]:
    """Return the address of an FTP server over the folder."""
    servers = pytest.importorskip("pyftpdlib.servers", reason="pyftpdlib is not installed")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler

    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(str(folder))
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    server = servers.ThreadedFTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"ftp://127.0.0.1:{server.address[1]}"
    server.close_all()


@pytest.fixture
def sftp(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the address of an SFTP server over the folder, and options for it."""
    paramiko = pytest.importorskip("paramiko", reason="paramiko is not installed")

    class Auth(paramiko.ServerInterface):
        def check_auth_password(self, username: str, password: str) -> int:
            return paramiko.AUTH_SUCCESSFUL

        def check_channel_request(self, kind: str, chanid: int) -> int:
            return paramiko.OPEN_SUCCEEDED

    class Files(paramiko.SFTPServerInterface):
        def stat(self, path: str) -> Any:
            try:
                return paramiko.SFTPAttributes.from_stat((folder / path.lstrip("/")).stat())
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno)

        lstat = stat

        def open(self, path: str, flags: int, attr: Any) -> Any:
            handle = paramiko.SFTPHandle(flags)
            handle.readfile = (folder / path.lstrip("/")).open("rb")
            return handle

    key = paramiko.RSAKey.generate(2048)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
            transport.start_server(server=Auth())

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    yield f"sftp://127.0.0.1:{port}", {"username": "me", "password": "pw", "port": port}
    listener.close()


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


def test_ftp(ftp: str) -> None:
    read_by_many(ftp)
    with pytest.raises(SourceError):
        tiffref.scan(f"{ftp}/nothing.tif")


def test_sftp(sftp: tuple[str, dict[str, Any]]) -> None:
    read_by_many(*sftp)
    with pytest.raises(SourceError):
        tiffref.scan(f"{sftp[0]}/nothing.tif", storage_options=sftp[1])


def test_ftp_and_sftp_that_are_not_there() -> None:
    with pytest.raises(SourceError):
        tiffref.scan("ftp://127.0.0.1:9/a.tif")
    pytest.importorskip("paramiko", reason="paramiko is not installed")
    with pytest.raises(SourceError):
        tiffref.scan("sftp://127.0.0.1:9/a.tif")


def test_who_takes_turns() -> None:
    import contextlib

    import fsspec

    with_none = contextlib.nullcontext
    assert isinstance(lock_for(fsspec.filesystem("memory")), with_none)
    assert isinstance(lock_for(fsspec.filesystem("http")), with_none)
    archive = fsspec.filesystem("memory")
    archive.pipe_file("/x.zip", b"PK\5\6" + bytes(18))
    fs = fsspec.filesystem("zip", fo="memory://x.zip")
    assert lock_for(fs) is lock_for(fs) and not isinstance(lock_for(fs), with_none)


@pytest.fixture
def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "a.tif", "in/a.tif")
        file.write(folder / "b.tif", "in/b.tif")
    return folder / "x.zip"


def test_archives_are_read_and_said(archive: Path) -> None:
    url = f"zip://in/a.tif::file://{archive}"
    store = ZarrTiffStore(url)
    assert (store[...] == PIXELS).all()
    with pytest.warns(MetadataWarning, match="within another file"):
        document = store.references.to_kerchunk()
    assert (ZarrTiffStore(document)[...] == PIXELS).all()
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda n: (store[n : n + 40] == PIXELS[n : n + 40]).all(), range(0, 200, 5)
        )
        assert all(parts)


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
