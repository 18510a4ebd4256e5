"""zarr's own tests of stores, those that a store without writing can take.

Two stores take them: an empty one, into which the tests put documents behind its back, and one over
a real file, for what the first leaves out.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.testing.store import StoreTests

import zarr
from tiffref.zarr import ZarrStore, ZarrTiffStore

VALUES = np.random.default_rng(1).integers(0, 9, (3, 100, 120)).astype("u2")


class FilledStore(ZarrStore):
    """An empty store whose documents tests can add to."""

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable_or_fill(key, value.to_bytes())

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable_or_fill(key, value.to_bytes())

    def _check_writable_or_fill(self, key: str, value: bytes) -> None:
        if self.path == "fillable":
            self._keys.documents[key] = value  # type: ignore[index]
        else:
            self._check_writable()


def run(function: Callable[..., Any]) -> Callable[..., None]:
    """Return a plain test for a test that is a coroutine."""

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> None:
        asyncio.run(function(*args, **kwargs))

    return plain


def without_writing(cls: type) -> type:
    """Take out the tests that write, and make plain tests of coroutines."""
    writing = (
        "test_set",
        "test_delete",
        "test_clear",
        "test_serializable_store",
        "test_store_read_only",
        "test_store_open_read_only",
        "test_sync_async_set_get",
    )
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith(writing) and name not in vars(cls):
            setattr(cls, name, None)
        elif name.startswith("test") and inspect.iscoroutinefunction(function):
            setattr(cls, name, run(function))
    return cls


@without_writing
class TestDocuments(StoreTests[FilledStore, cpu.Buffer]):
    store_cls = FilledStore
    buffer_cls = cpu.Buffer

    async def set(self, store: FilledStore, key: str, value: Buffer) -> None:
        await store.set(key, value)

    async def get(self, store: FilledStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(store[key])

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        return {"path": "fillable"}

    @pytest.fixture
    def store(self, open_kwargs: dict[str, Any]) -> FilledStore:
        return asyncio.run(self.store_cls.open(**open_kwargs))

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> FilledStore:
        return self.store_cls(**store_kwargs)

    @pytest.fixture
    def open_kwargs(self, request: pytest.FixtureRequest, store_kwargs: dict[str, Any]) -> Any:
        is_refusal = "read_only" in request.node.name
        return {"path": "unwritable"} if is_refusal else store_kwargs

    def test_store_repr(self, store: FilledStore) -> None:
        assert repr(store) == "<tiffref.zarr.FilledStore 'fillable'>"

    def test_store_supports_writes(self, store: FilledStore) -> None:
        assert not store.supports_writes
        assert not store.supports_deletes

    def test_store_supports_listing(self, store: FilledStore) -> None:
        assert store.supports_listing


@pytest.fixture
def store(tmp_path: Path) -> ZarrTiffStore:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, VALUES, tile=(32, 48), compression="zlib", photometric="minisblack")
    return ZarrTiffStore(path)


PROTOTYPE = default_buffer_prototype()


@pytest.mark.parametrize(
    ("byte_range", "part"),
    [
        (None, slice(None)),
        (RangeByteRequest(3, 10), slice(3, 10)),
        (RangeByteRequest(3, 10**9), slice(3, None)),
        (RangeByteRequest(10**9, 10**9 + 5), slice(0, 0)),
        (OffsetByteRequest(5), slice(5, None)),
        (SuffixByteRequest(7), slice(-7, None)),
        (SuffixByteRequest(10**9), slice(None)),
    ],
)
@pytest.mark.parametrize("key", [".zarray", "0.1.2"])
def test_byte_ranges(store: ZarrTiffStore, key: str, byte_range: Any, part: slice) -> None:
    expected = store[key][part]
    got = asyncio.run(store.get(key, PROTOTYPE, byte_range))
    assert got is not None
    assert got.to_bytes() == expected
    assert store.get_sync(key, byte_range=byte_range).to_bytes() == expected
    (partial,) = asyncio.run(store.get_partial_values(PROTOTYPE, [(key, byte_range)]))
    assert partial.to_bytes() == expected


def test_bad_byte_range(store: ZarrTiffStore) -> None:
    for key in (".zarray", "0.0.0"):
        with pytest.raises(ValueError, match="Unexpected byte_range"):
            asyncio.run(store.get(key, PROTOTYPE, (0, 2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key", ["0.0.9", "3.0.0", "0.0", "0.0.0.0", "00.0.0", "+0.0.0", "0.0.-1", "0.0.", "x/0.0.0",
            "0.0.1_0", "0.0.\u0661", "", "zarr.json"]
)  # fmt: skip
def test_missing_keys(store: ZarrTiffStore, key: str) -> None:
    assert asyncio.run(store.get(key, PROTOTYPE)) is None
    assert store.get_sync(key) is None
    assert not asyncio.run(store.exists(key))
    assert key not in store
    with pytest.raises(KeyError):
        store[key]
    with pytest.raises(FileNotFoundError):
        asyncio.run(store.getsize(key))


def test_the_size_needs_no_read(store: ZarrTiffStore) -> None:
    sizes = {key: len(store[key]) for key in store}
    Path(store.path).unlink()
    store.close()
    assert {key: asyncio.run(store.getsize(key)) for key in sizes} == sizes


def test_listing(store: ZarrTiffStore) -> None:
    async def collect(keys: Any) -> list[str]:
        return [key async for key in keys]

    every = asyncio.run(collect(store.list()))
    assert every == list(store) == list(store.keys())
    assert len(every) == 2 + 3 * 4 * 3
    assert asyncio.run(collect(store.list_prefix("1."))) == [k for k in every if k[:2] == "1."]
    # as a group, the root lists its array, and no chunks, which zarr would take for nodes
    assert asyncio.run(collect(store.list_dir(""))) == [*every[:2], "image"]
    below = [f"image/{key}" for key in every]
    assert asyncio.run(collect(store.list_prefix("image"))) == below
    assert asyncio.run(collect(store.list_dir("image"))) == every
    assert asyncio.run(store.is_empty("")) is False


def test_writing_is_refused(store: ZarrTiffStore) -> None:
    value = cpu.Buffer.from_bytes(b"1")
    for attempt in (lambda: asyncio.run(store.set("a", value)),
                    lambda: asyncio.run(store.delete("a")),
                    lambda: store.set_sync("a", value),
                    lambda: store.delete_sync("a")):  # fmt: skip
        with pytest.raises(ValueError, match="read-only mode"):
            attempt()
    with pytest.raises(NotImplementedError):
        store["a"] = b"1"
    with pytest.raises(ValueError, match="read_only"):
        ZarrTiffStore(store.path, read_only=False)
    with pytest.raises(NotImplementedError, match="with_read_only is not implemented"):
        store.with_read_only(False)
    assert store.with_read_only(True) == store


def test_fused_pipeline(store: ZarrTiffStore, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
        pytest.skip("this zarr has no fused pipeline")
    n_calls = 0
    get_sync = ZarrTiffStore.get_sync

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        return get_sync(*args, **kwargs)

    monkeypatch.setattr(ZarrTiffStore, "get_sync", count)
    name = "zarr.core.codec_pipeline.FusedCodecPipeline"
    with zarr.config.set({"codec_pipeline.path": name}):
        np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], VALUES)
    assert n_calls >= 3 * 4 * 3
