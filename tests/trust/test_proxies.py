"""Proxies: used where the caller asks for it, within the allow-list; their passwords are hidden."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import FaultyServer

import tiffref
from tiffref.errors import SourceError, TiffrefError, UntrustedSource
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore

pytest.importorskip("aiohttp")
PASSWORD = "hunter2secret"
FROM_ENVIRONMENT = {"client_kwargs": {"trust_env": True}}


class _Stay(urllib.request.HTTPRedirectHandler):
    """Leave redirects to who asked."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Proxy:
    """A proxy for plain HTTP; `way` says how it answers: honestly by default."""

    def __init__(self) -> None:
        self.way, self.redirect = "honest", ""
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.is_over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://me:{PASSWORD}@{self.host}"

    def close(self) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            proxy.asked.append(self.path)
            proxy.headers.append(dict(self.headers))
            if proxy.way == "stalls":
                proxy.is_over.wait()
            elif proxy.way == "redirects":
                self._send(302, b"", {"Location": proxy.redirect})
            elif proxy.way == "asks for a password":
                self._send(407, b"", {"Proxy-Authenticate": "Basic"})
            elif proxy.way == "has a page of its own":
                self._send(200, b"<html>Please log in</html>", {})
            else:
                self._forward()

        do_GET = do_HEAD = do_CONNECT = _answer

        def _forward(self) -> None:
            headers = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy")}
            asked = urllib.request.Request(self.path, method=self.command, headers=headers)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
            try:
                answer = opener.open(asked)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                data = answer.read()
                kept = {k: v for k, v in answer.headers.items()
                        if k.lower() in ("content-range", "etag", "location")}  # fmt: skip
                if proxy.way == "lies of the range":
                    kept["Content-Range"] = "bytes 7-9/10"
                self._send(answer.status, data[::-1] if proxy.way == "lies" else data, kept)

        def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy()
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, made.url)
        monkeypatch.setenv(name.upper(), made.url)
    yield made
    made.close()


@pytest.fixture
def url(server: FaultyServer, data: bytes) -> str:
    server.files["/data/a.tif"] = data
    server.etags["/data/a.tif"] = "1"
    return f"{server.url}/data/a.tif"


def test_proxies_of_the_environment_need_an_option(
    proxy: Proxy, url: str, image: np.ndarray
) -> None:
    references = tiffref.scan(url)
    np.testing.assert_array_equal(ZarrTiffStore(references)[...], image)
    assert proxy.asked == []


@pytest.mark.parametrize("how", ["environment", "option"])
def test_documents_and_errors_do_not_reveal_proxies(
    proxy: Proxy, url: str, image: np.ndarray, tmp_path: Path, how: str
) -> None:
    options: dict[str, Any] = FROM_ENVIRONMENT if how == "environment" else {"proxy": proxy.url}
    references = tiffref.scan(url, storage_options=options)
    store = ZarrTiffStore(references, storage_options=options)
    np.testing.assert_array_equal(store[...], image)
    assert proxy.asked and set(proxy.asked) == {url}
    sent = {one.get("Proxy-Authorization") for one in proxy.headers}
    assert sent == {"Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()}
    references.write_fsspec(tmp_path / "refs.json")
    written = (tmp_path / "refs.json").read_text()
    assert PASSWORD not in written and proxy.host not in written


def test_some_hosts_have_no_proxy(proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tiffref.scan(url, storage_options=FROM_ENVIRONMENT)
    assert proxy.asked == []


@pytest.mark.parametrize(
    "way",
    ["stalls", "asks for a password", "has a page of its own", "lies", "lies of the range", "gone"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies_that_fail(
    proxy: Proxy, url: str, way: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "stalls":
        monkeypatch.setenv("TIFFREF_TIMEOUT", "0.5")
    if way == "gone":
        proxy.close()
    proxy.way = way
    address = url.replace("http:", f"{scheme}:")
    with pytest.raises(TiffrefError) as caught:
        tiffref.scan(address, storage_options=FROM_ENVIRONMENT)
    if way != "lies" or scheme == "https":
        assert isinstance(caught.value, SourceError)
    error: BaseException | None = caught.value
    while error is not None:  # a traceback shows all of them
        assert PASSWORD not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("way", ["elsewhere", "inside"])
def test_proxies_lead_to_allowed_addresses_only(
    proxy: Proxy, url: str, server: FaultyServer, tmp_path: Path, way: str
) -> None:
    tiffref.scan(url).write_fsspec(tmp_path / "refs.json")
    document = json.loads((tmp_path / "refs.json").read_text())
    document["refs"][".zattrs"] = '{"changed":1}'
    references = References.from_kerchunk(document, allow=[f"{server.url}/data"])
    proxy.way, proxy.redirect = "redirects", f"{server.url}/{way}"
    if way == "inside":
        proxy.redirect = f"{server.url}/data/loop"
    before = len(server.requests)
    expected = UntrustedSource if way == "elsewhere" else SourceError
    with pytest.raises(expected, match="redirected"):
        ZarrTiffStore(references, storage_options=FROM_ENVIRONMENT)[...]
    assert len(server.requests) == before


def test_redirects_to_another_origin_keep_the_proxy(
    proxy: Proxy, url: str, server: FaultyServer, image: np.ndarray
) -> None:
    """Behind a firewall there is no other way; what the caller sends elsewhere stays behind."""
    other = FaultyServer()
    try:
        other.files["/a.tif"] = server.files["/data/a.tif"]
        server.redirects["/data/a.tif"] = f"{other.url}/a.tif"
        client = {"trust_env": True, "headers": {"X-Token": "mine"}}
        options: dict[str, Any] = {"client_kwargs": client}
        references = tiffref.scan(url, storage_options=options)
        store = ZarrTiffStore(references, storage_options=options)
        np.testing.assert_array_equal(store[...], image)
        asked = dict(zip(proxy.asked, proxy.headers, strict=True))
        assert asked.keys() == {url, f"{other.url}/a.tif"}
        assert asked[url]["X-Token"] == "mine"
        assert "X-Token" not in asked[f"{other.url}/a.tif"]
    finally:
        other.close()
