"""Servers of the protocols that are not HTTP or S3: the real one where it can be had.

Each is a context manager over a folder or a store of its own, which gives a `Place`: where files
are put, and how they are addressed. A server that is not installed skips the test, with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SERVERS", "Place"]


@dataclass(frozen=True)
class Place:
    """Where files are served from: `put` writes a file, or removes it where there are no bytes."""

    url: str
    put: Callable[[str, bytes | None], None]
    options: dict[str, Any] = field(default_factory=dict)


def _put_into(folder: Path) -> Callable[[str, bytes | None], None]:
    """Write files whose times differ by a second at least, as these protocols say them."""
    times = iter(range(1_600_000_000, 1_700_000_000, 100))

    def put(name: str, data: bytes | None) -> None:
        path = folder / name
        if data is None:
            path.unlink()
            return
        path.write_bytes(data)
        when = next(times)
        os.utime(path, (when, when))

    return put


@contextlib.contextmanager
def serve_ftp(folder: Path) -> Iterator[Place]:
    """Run pyftpdlib."""
    servers = pytest.importorskip("pyftpdlib.servers", reason="pyftpdlib is not installed")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler

    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(str(folder))
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    server = servers.ThreadedFTPServer(("127.0.0.1", 0), handler)
    server.poll_timeout = 0.02
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            server.serve_forever(timeout=0.02, blocking=False, handle_exit=False)

    # closing the server while it polls would raise in its thread
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Place(f"ftp://127.0.0.1:{server.address[1]}", _put_into(folder))
    finally:
        is_over.set()
        thread.join()
        server.close_all()


@contextlib.contextmanager
def serve_sftp(folder: Path) -> Iterator[Place]:
    """Run the server that comes with paramiko."""
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

        def list_folder(self, path: str) -> Any:
            return [paramiko.SFTPAttributes.from_stat(one.stat(), one.name)
                    for one in folder.iterdir()]  # fmt: skip

        def open(self, path: str, flags: int, attr: Any) -> Any:
            handle = paramiko.SFTPHandle(flags)
            try:
                handle.readfile = (folder / path.lstrip("/")).open("rb")
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno)
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
            # with an event, a client that hangs up raises nothing here
            transport.start_server(threading.Event(), Auth())

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    options = {"username": "me", "password": "pw", "port": port}
    try:
        yield Place(f"sftp://127.0.0.1:{port}", _put_into(folder), options)
    finally:
        listener.close()


@contextlib.contextmanager
def serve_openssh(folder: Path) -> Iterator[Place]:
    """Run OpenSSH for the user who runs the tests, with keys made for the occasion."""
    pytest.importorskip("paramiko", reason="paramiko is not installed")
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None:
        pytest.skip("OpenSSH's server is not installed")
    home = folder.with_name(f"{folder.name}.ssh")
    home.mkdir(mode=0o700)
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)]
        subprocess.run(make, check=True, capture_output=True)
    reserved = _reserve_port()
    port = reserved.getsockname()[1]
    (home / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {home}/host\nPidFile {home}/pid\n"
        f"AuthorizedKeysFile {home}/user.pub\nStrictModes no\nUsePAM no\nMaxStartups 100\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    command = [sshd, "-D", "-e", "-f", str(home / "config")]
    with reserved, _process(command, port, "OpenSSH's server", home / "log"):
        import getpass

        options = {"username": getpass.getuser(), "key_filename": str(home / "user"), "port": port}
        yield Place(f"sftp://127.0.0.1:{port}{folder}", _put_into(folder), options)


@contextlib.contextmanager
def serve_azure(folder: Path) -> Iterator[Place]:
    """Run Azurite, Microsoft's emulator of its own storage."""
    adlfs = pytest.importorskip("adlfs", reason="adlfs is not installed")
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("Azurite is not installed (npm install -g azurite)")
    reserved = _reserve_port()
    port = reserved.getsockname()[1]
    command = [azurite, "--inMemoryPersistence", "--silent", "--skipApiVersionCheck",
               "--disableTelemetry", "--blobPort", str(port)]  # fmt: skip
    # the account and key that each Azurite has
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    options = {
        "connection_string": "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        f"AccountKey={key};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    }
    with reserved, _process(command, port, "Azurite", folder / "log"):
        # another client than the readers', which keeps listings of its own
        fs = adlfs.AzureBlobFileSystem(**options, skip_instance_cache=True)
        fs.mkdir("stale")

        def put(name: str, data: bytes | None) -> None:
            path = f"stale/{name}"
            fs.rm_file(path) if data is None else fs.pipe_file(path, data, overwrite=True)

        yield Place("abfs://stale", put, options)


@contextlib.contextmanager
def serve_gcs(folder: Path) -> Iterator[Place]:
    """Run a small server of Google's JSON interface: objects, generations, listings."""
    # newer versions of gcsfs ask Google itself what kind of bucket it is
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    objects: dict[str, tuple[int, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            asked = dict(urllib.parse.parse_qsl(query))
            name = urllib.parse.unquote(path.partition("/o/")[2])
            if path.endswith("/o"):
                found = [_gcs_resource(one, *state) for one, state in objects.items()]
                return self._send(200, json.dumps({"items": found}).encode())
            generation, data = objects.get(name, (0, b""))
            if asked.get("generation", str(generation)) != str(generation) or not generation:
                return self._send(404, b'{"error": {"code": 404, "message": "No such object"}}')
            if "alt" not in asked:
                resource = _gcs_resource(name, generation, data)
                return self._send(200, json.dumps(resource).encode())
            first, last = map(int, self.headers["Range"][6:].split("-"))
            return self._send(206, data[first : last + 1])

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    numbers = iter(range(1_700_000_000_000_000, 1_800_000_000_000_000, 1_000_000))

    def put(name: str, data: bytes | None) -> None:
        if data is None:
            del objects[name]
        else:
            objects[name] = next(numbers), data

    options = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "token": "anon"}
    try:
        yield Place("gs://stale", put, options)
    finally:
        server.shutdown()
        server.server_close()


def _gcs_resource(name: str, generation: int, data: bytes) -> dict[str, Any]:
    when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(generation / 1e6))
    return {
        "kind": "storage#object", "name": name, "bucket": "stale", "size": str(len(data)),
        "generation": str(generation), "metageneration": "1", "etag": f"C{generation}=",
        "updated": when, "timeCreated": when,
    }  # fmt: skip


SERVERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Place]]] = {
    "ftp": serve_ftp, "sftp": serve_sftp, "openssh": serve_openssh, "azure": serve_azure,
    "gcs": serve_gcs,
}  # fmt: skip


def _reserve_port() -> socket.socket:
    """Bind a port that nobody else gets meanwhile; a server that sets SO_REUSEADDR may listen."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


@contextlib.contextmanager
def _process(command: list[str], port: int, name: str, log: Path) -> Iterator[None]:
    """Run a server until it is left; skip the test where it does not start."""
    with log.open("wb") as file:  # no pipe: sessions that are still open would hold it
        child = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if child.poll() is not None:
                pytest.skip(f"{name} does not start: {log.read_text()[-200:]}")
            time.sleep(0.05)
        yield
    finally:
        child.terminate()
        child.wait()
