"""Stores over HTTP: how many requests reads take, through the store and through zarr."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import fsspec
import numpy as np
import pytest
import tifffile
from chunked import CountingServer
from zarr.core.buffer import default_buffer_prototype

import zarr
from tiffref.errors import InvalidReferences, MalformedTiff, SourceError
from tiffref.zarr import ZarrTiffStore, batching

PROTOTYPE = default_buffer_prototype()
VALUES = np.cumsum(np.random.default_rng(1).integers(0, 9, (3072, 3072)), 1).astype("u2")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("http") / "image.tif"
    tifffile.imwrite(path, VALUES, tile=(256, 256), compression="zlib")
    return path.read_bytes()


@pytest.fixture
def server(image: bytes) -> Iterator[CountingServer]:
    running = CountingServer()
    running.files["/image.tif"] = image
    yield running
    running.close()


@pytest.fixture
def store(server: CountingServer) -> ZarrTiffStore:
    store = ZarrTiffStore(f"{server.url}/image.tif")
    server.requests.clear()
    server.latency_s = 0.02
    return store


WINDOW = (slice(500, 2500), slice(600, 2600))


def test_window_takes_one_request_for_each_row_of_tiles(
    store: ZarrTiffStore, server: CountingServer
) -> None:
    np.testing.assert_array_equal(store[WINDOW], VALUES[WINDOW])
    assert server.n_get <= 11


@pytest.mark.parametrize("is_document", [False, True])
def test_zarr_asks_for_chunks_together(
    store: ZarrTiffStore,
    server: CountingServer,
    monkeypatch: pytest.MonkeyPatch,
    is_document: bool,
) -> None:
    if is_document:  # whose chunks are looked at before zarr gets them
        document = store.references.to_kerchunk()
        store = ZarrTiffStore(document, allow=server.url)
    monkeypatch.setattr(batching, "_AHEAD_LIFETIME_S", 60.0)
    array = zarr.open_array(store, mode="r")
    np.testing.assert_array_equal(array[WINDOW], VALUES[WINDOW])
    # 81 tiles, ten at a time, of which the rest of the row and the next rows are asked for ahead
    assert server.n_get <= 12


def test_stores_share_their_connections(store: ZarrTiffStore, server: CountingServer) -> None:
    """Scans, windows and zarr, of any number of stores, keep one pool of connections alive."""
    for _ in range(3):
        np.testing.assert_array_equal(store[WINDOW], VALUES[WINDOW])
    most = server.n_connections
    assert most <= 1 + 9
    for _ in range(4):
        other = ZarrTiffStore(f"{server.url}/image.tif")
        np.testing.assert_array_equal(other[WINDOW], VALUES[WINDOW])
        np.testing.assert_array_equal(zarr.open_array(other)[WINDOW], VALUES[WINDOW])
    assert server.n_connections <= most + 2
    assert server.n_get > 90


def test_concurrent_requests_are_one(store: ZarrTiffStore, server: CountingServer) -> None:
    async def get_all() -> list[bytes]:
        keys = [f"3.{i}" for i in range(10)]
        values = await asyncio.gather(*(store.get(key, PROTOTYPE) for key in [*keys, keys[0]]))
        partial = await store.get_partial_values(PROTOTYPE, [(key, None) for key in keys])
        assert [v.to_bytes() for v in values[:10]] == [v.to_bytes() for v in partial]
        return [value.to_bytes() for value in values]

    values = asyncio.run(get_all())
    assert server.n_get == 2
    assert values[0] == values[10]
    assert values[4] == store["3.4"]


def test_event_loops_are_served_apart(store: ZarrTiffStore) -> None:
    for _ in range(3):
        assert asyncio.run(store.get("0.0", PROTOTYPE)).to_bytes() == store["0.0"]


def test_given_up_requests_do_not_hurt_others(store: ZarrTiffStore) -> None:
    async def main() -> None:
        one = asyncio.ensure_future(store.get("0.0", PROTOTYPE))
        two = asyncio.ensure_future(store.get("0.1", PROTOTYPE))
        await asyncio.sleep(0.005)
        one.cancel()
        assert (await two).to_bytes() == store["0.1"]

    asyncio.run(main())


def test_failed_requests_reach_everyone_who_asked(
    store: ZarrTiffStore, server: CountingServer
) -> None:
    server.behaviour = "short"

    async def main() -> list[object]:
        gets = (store.get(f"0.{i}", PROTOTYPE) for i in range(3))
        return await asyncio.gather(*gets, return_exceptions=True)

    assert [type(answer) for answer in asyncio.run(main())] == [SourceError] * 3
    with pytest.raises(SourceError, match=r"image\.tif"):
        zarr.open_array(store, mode="r")[:256, :256]


def test_dask_threads(store: ZarrTiffStore, server: CountingServer) -> None:
    array = da.from_zarr(store)[WINDOW]
    np.testing.assert_array_equal(array.compute(num_workers=8), VALUES[WINDOW])
    # 81 tiles, eight at a time; those that are asked for at about the same time go together
    assert server.n_get <= 70


def test_storage_options(server: CountingServer, tmp_path: Path) -> None:
    options = {"headers": {"X-Test": "1"}}
    store = ZarrTiffStore(f"{server.url}/image.tif", storage_options=options)
    assert store.fs.fss["http"]._fetch.storage_options == options


def test_a_range_past_all_files_keeps_nobody_waiting() -> None:
    fsspec.filesystem("memory").pipe_file("/four.bin", b"1234")
    array = {"zarr_format": 2, "shape": [8], "chunks": [4], "dtype": "|u1", "order": "C",
             "compressor": None, "filters": None, "fill_value": 0}  # fmt: skip
    url = "memory://four.bin"
    refs = {".zarray": json.dumps(array), "0": [url, 2**63 - 3, 4], "1": [url, 0, 4]}
    store = ZarrTiffStore({"version": 1, "refs": refs}, allow=[f"{url}/"])

    async def get_both() -> list[Any]:
        both = (store.get(key, PROTOTYPE) for key in ("0", "1"))
        return await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 20)

    refused, found = asyncio.run(get_both())
    assert isinstance(refused, InvalidReferences)
    assert found.to_bytes() == b"1234"


@pytest.mark.parametrize("protocol", ["http", "memory", "file"])
def test_chunks_that_are_whole_files(server: CountingServer, tmp_path: Path, protocol: str) -> None:
    """References without offset and length, whose files nobody has asked for their sizes."""
    places = {"http": server.url, "memory": "memory://whole", "file": f"file://{tmp_path}"}
    array = {"zarr_format": 2, "shape": [8], "chunks": [4], "dtype": "|u1", "order": "C",
             "compressor": None, "filters": None, "fill_value": 0}  # fmt: skip
    refs: dict[str, Any] = {".zarray": json.dumps(array)}
    for n, data in enumerate((b"1234", b"5678")):
        refs[str(n)] = [f"{places[protocol]}/{n}"]
        server.files[f"/{n}"] = data
        fsspec.filesystem("memory").pipe_file(f"/whole/{n}", data)
        (tmp_path / str(n)).write_bytes(data)
    store = ZarrTiffStore({"version": 1, "refs": refs}, allow=[f"{places[protocol]}/"])
    assert store[...].tobytes() == zarr.open_array(store, mode="r")[...].tobytes() == b"12345678"
    assert store.fs.cat(["0", "1"]) == {"0": b"1234", "1": b"5678"}
    assert store.fs.cat_file("1", 1, 3) == b"67"
    assert store.fs.cat_file("1", -3) == b"678"
    assert store.fs.info("1")["size"] == 4
    for name in ("0", "1"):  # shorter than a chunk
        server.files[f"/{name}"] = b"123"
        fsspec.filesystem("memory").pipe_file(f"/whole/{name}", b"123")
        (tmp_path / name).write_bytes(b"123")
    with pytest.raises(MalformedTiff, match="got 3 bytes"):
        ZarrTiffStore({"version": 1, "refs": refs}, allow=[f"{places[protocol]}/"])[...]
