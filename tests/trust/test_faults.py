"""A server that breaks its answers: every read gives the truth or a typed error."""

from __future__ import annotations

import collections
import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty import FAULTS, FaultyServer

import tiffref
import tiffref.catalog
from tiffref.errors import MalformedTiff, MissingSource, SourceError, TiffrefError
from tiffref.formats import load
from tiffref.io import http
from tiffref.model.manifest import Source
from tiffref.read import Fetcher
from tiffref.zarr import ZarrTiffStore

N_READS = int(os.environ.get("TIFFREF_FAULT_READS", "300"))


@pytest.fixture
def stored(server: FaultyServer, data: bytes) -> Iterator[tuple[FaultyServer, str, bytes]]:
    server.files["/a.tif"], server.etags["/a.tif"] = data, "one"
    yield server, f"{server.url}/a.tif", data


def test_reads_with_faults_at_random(
    stored: tuple[FaultyServer, str, bytes], image: np.ndarray
) -> None:
    """One answer of ten is broken."""
    server, url, _ = stored
    store = ZarrTiffStore(url)
    server.probability = 0.1
    rng = random.Random(7)
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(N_READS):
        y, x = rng.randrange(96), rng.randrange(128)
        region = slice(y, y + rng.randrange(1, 40)), slice(x, x + rng.randrange(1, 40))
        try:
            result = store[region]
        except TiffrefError as error:
            outcomes[type(error).__name__] += 1
        else:
            np.testing.assert_array_equal(result, image[region])
            outcomes["truth"] += 1
    print(dict(outcomes), server.n_faults, "faults")
    assert outcomes["truth"] > 0.9 * N_READS
    assert server.n_faults > N_READS // 50


def test_redirects_are_followed_once_until_the_target_expires(
    stored: tuple[FaultyServer, str, bytes], image: np.ndarray
) -> None:
    """Signed addresses expire; the server then refuses them, or redirects to a page."""
    server, url, data = stored
    for name in ("/first", "/second", "/third"):
        server.files[name], server.etags[name] = data, "one"

    def count_redirects() -> int:
        n_redirects = server.requests.count(("GET", "/a.tif"))
        server.requests.clear()
        return n_redirects

    server.redirects["/a.tif"] = "/first"
    store = ZarrTiffStore(url)
    assert count_redirects() == 1
    np.testing.assert_array_equal(store[:40], image[:40])
    np.testing.assert_array_equal(store[40:], image[40:])
    assert count_redirects() <= 1  # the reader of chunks asks for itself
    server.redirects["/a.tif"] = "/second"
    del server.files["/first"]
    np.testing.assert_array_equal(store[...], image)
    assert count_redirects() >= 1
    server.redirects |= {"/a.tif": "/third", "/second": "/page"}
    server.files["/page"] = b"<html>"
    np.testing.assert_array_equal(store[...], image)
    assert count_redirects() >= 1


def test_scans_with_faults_at_random(
    stored: tuple[FaultyServer, str, bytes], image: np.ndarray
) -> None:
    server, url, _ = stored
    truth = tiffref.scan(url).to_kerchunk()
    server.probability = 0.3
    n_right = 0
    for _ in range(20):
        try:
            found = tiffref.scan(url).to_kerchunk()
        except TiffrefError:
            continue
        assert found == truth
        n_right += 1
    assert n_right > 5


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(
    stored: tuple[FaultyServer, str, bytes], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that never ends is an error after a bounded number of tries, or harmless."""
    server, url, data = stored
    server.files["/a.tif"] = data = data + bytes(1 << 20)  # too large to be cut out of
    server.pick_fault = lambda: fault  # type: ignore[method-assign]
    monkeypatch.setattr(http, "RETRY", http.Retry(n_tries=3, first_s=0.001))
    source = Source(url, len(data), None, "one")
    try:
        assert Fetcher().read(source, 1000, 500) == data[1000:1500]
        assert fault == "stall"
    except SourceError as error:
        assert error.url == url
        assert fault != "stall"
    assert len(server.requests) <= 6  # aiohttp itself asks anew on a connection that was closed


@pytest.mark.parametrize("fault", ["whole file"])
def test_small_whole_file_is_cut(stored: tuple[FaultyServer, str, bytes], fault: str) -> None:
    server, url, data = stored
    server.pick_fault = lambda: fault  # type: ignore[method-assign]
    assert Fetcher().read(Source(url, len(data), None, "one"), 100, 50) == data[100:150]


def test_passing_faults_are_tried_again(stored: tuple[FaultyServer, str, bytes]) -> None:
    server, url, data = stored
    faults = iter([f for f in FAULTS if f.startswith("status 5")] + ["reset"])
    server.pick_fault = lambda: next(faults, None)  # type: ignore[method-assign]
    assert Fetcher().read(Source(url, len(data)), 8, 100) == data[8:108]
    assert len(server.requests) == 6


def test_retry_waits_longer_each_time() -> None:
    retry = http.Retry(first_s=1.0, longest_s=5.0)
    for n_failed, most in enumerate((1, 2, 4, 5, 5)):
        waits = [retry.delay_s(n_failed) for _ in range(200)]
        assert 0 <= min(waits) < max(waits) <= most
        assert max(waits) > most / 2  # jitter spreads over the whole time
    assert retry.delay_s(0, asked_s=3.0) >= 3.0
    assert retry.delay_s(0, asked_s=1e9) <= 6.0


@pytest.mark.parametrize("fault", ["half a body", "no body", "wrong length", "status 503"])
def test_a_scan_tries_again_from_its_first_request(
    stored: tuple[FaultyServer, str, bytes], fault: str
) -> None:
    server, url, _ = stored
    truth = tiffref.scan(url).to_kerchunk()
    faults = iter([fault] * 3)
    server.pick_fault = lambda: next(faults, None)  # type: ignore[method-assign]
    assert tiffref.scan(url).to_kerchunk() == truth


def test_a_first_answer_without_its_length_that_ends_early_is_asked_for_again(
    stored: tuple[FaultyServer, str, bytes],
) -> None:
    server, url, _ = stored
    truth = tiffref.scan(url).to_kerchunk()
    faults = iter(["one byte less"] * 3)
    server.pick_fault = lambda: next(faults, None)  # type: ignore[method-assign]
    assert tiffref.scan(url).to_kerchunk() == truth


def test_ranges_that_end_behind_the_file_may_be_refused(
    stored: tuple[FaultyServer, str, bytes], image: np.ndarray
) -> None:
    """The first range of a scan is longer than small files."""
    server, url, data = stored
    server.pick_fault = lambda: "no range behind the end"  # type: ignore[method-assign]
    with ZarrTiffStore(url) as store:
        np.testing.assert_array_equal(store[...], image)
    assert server.ranges[:2] == ["bytes=0-65535", f"bytes=0-{len(data) - 1}"]
    server.files["/a.tif"] = b""
    with pytest.raises(MalformedTiff, match="an empty file"):
        tiffref.scan(url)


def test_servers_that_send_ranges_in_parts(
    stored: tuple[FaultyServer, str, bytes], image: np.ndarray
) -> None:
    """They may send less than was asked for (RFC 9110, section 15.3.7), but not next to nothing."""
    server, url, data = stored
    server.pick_fault = lambda: "at most 4096"  # type: ignore[method-assign]
    with ZarrTiffStore(url) as store:
        np.testing.assert_array_equal(store[...], image)
    assert server.n_bytes <= 2 * len(data) + (1 << 16)
    server.pick_fault = lambda: "at most 100"  # type: ignore[method-assign]
    server.ranges.clear()
    with ZarrTiffStore(store.references) as store, pytest.raises(SourceError, match="another part"):
        store[...]
    with pytest.raises(SourceError, match="wrong length"):
        tiffref.scan(url)
    assert max(collections.Counter(server.ranges).values()) <= http.RETRY.n_tries


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("status 403", "403"),
        ("status 503", "503"),
        ("reset", "Disconnected"),
        ("drip", "TIFFREF_TIMEOUT"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.parq"])
def test_documents_that_cannot_be_fetched(
    server: FaultyServer, fault: str, says: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a document is not one that does not exist."""
    monkeypatch.setenv("TIFFREF_TIMEOUT", "1" if fault == "drip" else "60")
    key = f"/{name}/.zmetadata" if name == "a.parq" else f"/{name}"
    server.files[key] = b"{}" * 1000
    server.pick_fault = lambda: fault  # type: ignore[method-assign]
    monkeypatch.setattr(server, "answers_head", False)
    for open_document in (tiffref.References.open, tiffref.validate):
        with pytest.raises(SourceError, match=says) as caught:
            open_document(f"{server.url}/{name}")
        assert not isinstance(caught.value, MissingSource)
        assert caught.value.status == (int(says) if says.isdigit() else None)
        assert str(caught.value.url).startswith(server.url)
    monkeypatch.delenv("TIFFREF_TIMEOUT")
    with pytest.raises(MissingSource):
        tiffref.References.open(f"{server.url}/no-{name}")


@pytest.mark.parametrize("fault", ["status 503", "status 429", "reset", "half a body"])
@pytest.mark.parametrize("name", ["refs.json", "refs.json.gz", "refs.parq", "catalog"])
def test_documents_are_requested_again(
    stored: tuple[FaultyServer, str, bytes], fault: str, name: str, tmp_path: Path
) -> None:
    server, url, _ = stored
    path = tmp_path / name
    if name == "catalog":
        tiffref.catalog.build([url], path)
    else:
        tiffref.scan(url).write_fsspec(str(path).removesuffix(".gz"))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            server.files[f"/{file.relative_to(tmp_path)}"] = file.read_bytes()
    faults = iter([fault, None] * 99)
    server.pick_fault = lambda: next(faults)  # type: ignore[method-assign]
    if name == "catalog":
        assert len(tiffref.catalog.open(f"{server.url}/{name}").table) == 1
    else:
        assert tiffref.References.open(f"{server.url}/{name}").sources[0].url == url
    assert server.requests.count(server.requests[-1]) == 2


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.parquet", "items.json"])
def test_lists_of_files_are_requested_again(
    stored: tuple[FaultyServer, str, bytes], name: str, tmp_path: Path
) -> None:
    server, url, data = stored
    server.files["/b.tif"] = data
    urls = [url, f"{server.url}/b.tif"]
    if name == "list.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"url": urls}), tmp_path / name)
        server.files[f"/{name}"] = (tmp_path / name).read_bytes()
    else:
        items = [
            {"type": "Feature", "properties": {"datetime": f"2020-01-0{n}T00:00:00Z"},
             "assets": {"a": {"href": one, "type": "image/tiff"}}} for n, one in enumerate(urls, 1)
        ]  # fmt: skip
        texts = {
            "list.txt": "\n".join(urls), "list.csv": "\n".join(["url", *urls]),
            "items.json": json.dumps({"type": "FeatureCollection", "features": items}),
        }  # fmt: skip
        server.files[f"/{name}"] = texts[name].encode()
    faults = iter(["status 503", "half a body"])
    server.pick_fault = lambda: next(faults, None)  # type: ignore[method-assign]
    stack = tiffref.scan_sequence(f"{server.url}/{name}")
    assert [source.url for source in stack.sources] == urls


@pytest.mark.parametrize("fault", [None, "status 503", "half a body"])
def test_validation_requests_again(stored: tuple[FaultyServer, str, bytes], fault: str) -> None:
    server, url, _ = stored
    document = tiffref.scan(url).to_kerchunk()
    faults = iter([fault, None] * 99)
    server.pick_fault = lambda: next(faults)  # type: ignore[method-assign]
    report = tiffref.validate(document, sources=True, pixels="all")
    assert (report.findings, report.n_chunks_compared) == ([], 12)


def test_validation_gives_up(
    stored: tuple[FaultyServer, str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder to compare with waits no longer than a scan."""
    server, url, _ = stored
    document = tiffref.scan(url).to_kerchunk()
    monkeypatch.setenv("TIFFREF_TIMEOUT", "0.5")
    server.pick_fault = lambda: "drip"  # type: ignore[method-assign]
    server.n_bytes = 0
    report = tiffref.validate(document, pixels="all")
    assert [finding.code for finding in report.findings] == ["undecodable"]
    assert server.n_bytes < 1000


@pytest.mark.parametrize("name", ["refs.json", "refs.json.gz"])
def test_documents_that_the_server_compresses(
    stored: tuple[FaultyServer, str, bytes], name: str
) -> None:
    server, url, _ = stored
    document = json.dumps(tiffref.scan(url).to_kerchunk()).encode()
    server.files[f"/{name}"] = gzip.compress(document)
    server.pick_fault = lambda: "gzip"  # type: ignore[method-assign]
    assert tiffref.References.open(f"{server.url}/{name}").sources[0].url == url


def test_documents_that_are_too_large(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "LIMITS", load.Limits(document_bytes=1000))
    text = b"{" + b" " * 2000 + b"}"
    for fault in (None, "gzip", "whole file without length"):
        server.files["/refs.json"] = gzip.compress(text) if fault == "gzip" else text
        server.pick_fault = lambda fault=fault: fault  # type: ignore[method-assign]
        with pytest.raises(TiffrefError, match="too large"):
            tiffref.References.open(f"{server.url}/refs.json")
