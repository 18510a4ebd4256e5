"""Servers of every protocol that hang or drip: each request ends within the limit that is set."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import tifffile
from fsspec.implementations.memory import MemoryFileSystem

import tiffref
from tiffref.errors import SourceError
from tiffref.io.clients import find_file_system
from tiffref.zarr import ZarrTiffStore


class SilentServer:
    """Takes connections; sends nothing, or a byte now and then, until it is closed."""

    def __init__(self, drip_s: float | None) -> None:
        self.is_over, self._drip_s = threading.Event(), drip_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._hang, args=(connection,), daemon=True).start()

    def _hang(self, connection: socket.socket) -> None:
        with connection:
            try:
                while not self.is_over.wait(self._drip_s) and self._drip_s is not None:
                    connection.sendall(b"x")
            except OSError:
                pass

    def close(self) -> None:
        self.is_over.set()
        self._listener.close()


def of_ftp(port: int) -> tuple[str, dict[str, Any]]:
    return f"ftp://127.0.0.1:{port}/a.tif", {}


def of_sftp(port: int) -> tuple[str, dict[str, Any]]:
    pytest.importorskip("paramiko", reason="paramiko is not installed")
    return "sftp://127.0.0.1/a.tif", {"port": port, "username": "me", "password": "pw"}


def of_s3(port: int) -> tuple[str, dict[str, Any]]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    keys = {"key": "x", "secret": "y", "endpoint_url": f"http://127.0.0.1:{port}"}
    return "s3://bucket/a.tif", keys


def of_gcs(port: int) -> tuple[str, dict[str, Any]]:
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    return "gs://bucket/a.tif", {"token": "anon", "endpoint_url": f"http://127.0.0.1:{port}"}


def of_azure(port: int) -> tuple[str, dict[str, Any]]:
    pytest.importorskip("adlfs", reason="adlfs is not installed")
    account = "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=a2V5;"
    address = f"BlobEndpoint=http://127.0.0.1:{port}/me;"
    return "az://container/a.tif", {"connection_string": account + address}


def of_archive(port: int) -> tuple[str, dict[str, Any]]:
    pytest.importorskip("aiohttp")
    return f"zip://a.tif::http://127.0.0.1:{port}/x.zip", {}


@pytest.mark.parametrize("drip_s", [None, 0.02])
@pytest.mark.parametrize("address", [of_ftp, of_sftp, of_s3, of_gcs, of_azure, of_archive])
def test_silent_servers(
    address: Callable[[int], tuple[str, dict[str, Any]]],
    drip_s: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = SilentServer(drip_s)
    try:
        url, options = address(server.port)
        monkeypatch.setenv("TIFFREF_TIMEOUT", "1")
        # a client may find garbage in what drips before the time is over
        match = "TIFFREF_TIMEOUT" if drip_s is None else None
        with pytest.raises(SourceError, match=match):
            tiffref.scan(url, storage_options=options)
    finally:
        server.close()


class HangingFiles(MemoryFileSystem):
    """Files in memory, which hang once they are told to; one connection for all, as FTP has."""

    protocol = "hanging"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    hangs: ClassVar[Mapping[str, bool]] = {}
    is_over = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("hanging://", "memory://"))

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        self._wait("cat_file")
        data: bytes = super().cat_file(path, start, end, **options)
        return data

    def info(self, path: str, **options: Any) -> Any:
        self._wait("info")
        return super().info(path, **options)

    def _wait(self, name: str) -> None:
        if self.hangs.get(name):
            self.is_over.wait()


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    fsspec.register_implementation("hanging", HangingFiles, clobber=True)
    monkeypatch.setattr(HangingFiles, "is_over", threading.Event())
    tifffile.imwrite(tmp_path / "a.tif", np.arange(4096, dtype="u2").reshape(64, 64), metadata=None)
    HangingFiles().pipe_file("/a.tif", (tmp_path / "a.tif").read_bytes())
    yield "hanging://a.tif"
    HangingFiles.is_over.set()


@pytest.mark.parametrize("what", ["cat_file", "info"])
@pytest.mark.parametrize("door", ["scan", "store"])
def test_file_systems_that_hang(
    hanging: str, what: str, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = tiffref.scan(hanging)
    store = ZarrTiffStore(references)
    monkeypatch.setenv("TIFFREF_TIMEOUT", "0.3")
    monkeypatch.setattr(HangingFiles, "hangs", {what: True})
    read: Callable[[], Any] = (
        (lambda: tiffref.scan(hanging)) if door == "scan" else (lambda: store[...])
    )
    for _ in range(2):  # the second one waits for the file system that the first one has
        with pytest.raises(SourceError, match="TIFFREF_TIMEOUT"):
            read()


def test_a_new_client_takes_the_place_of_one_that_hangs(
    hanging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = tiffref.scan(hanging)
    before, _ = find_file_system(hanging, None)
    monkeypatch.setenv("TIFFREF_TIMEOUT", "0.3")
    monkeypatch.setattr(HangingFiles, "hangs", {"cat_file": True})
    with pytest.raises(SourceError, match="TIFFREF_TIMEOUT"):
        ZarrTiffStore(references)[...]
    monkeypatch.delenv("TIFFREF_TIMEOUT")
    monkeypatch.setattr(HangingFiles, "hangs", {})
    after, _ = find_file_system(hanging, None)
    assert after is not before
    # the lock of the one that hangs is still held
    np.testing.assert_array_equal(
        ZarrTiffStore(references)[...], np.arange(4096, dtype="u2").reshape(64, 64)
    )


def test_a_thread_keeps_its_client(hanging: str) -> None:
    """fsspec has one for each thread: a new one for each file would be as many connections."""
    first, _ = find_file_system(hanging, None)
    assert find_file_system(hanging, None)[0] is first
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(find_file_system(hanging, None)[0]))
    thread.start()
    thread.join()
    assert others and others[0] is not first


def test_errors_of_clients_come_through(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout of a client's own is no limit of ours."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise TimeoutError("the client's own")

    references = tiffref.scan(hanging)
    monkeypatch.setattr(HangingFiles, "cat_file", fail)
    with pytest.raises(SourceError, match="the client's own"):
        ZarrTiffStore(references)[...]
