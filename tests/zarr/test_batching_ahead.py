"""Reading ahead of zarr: which requests are recognized, what they cost, and what may go wrong."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from chunked import CountingServer, build_array

import zarr
from tiffref.errors import SourceError
from tiffref.model.array import Array, Group
from tiffref.model.manifest import Source
from tiffref.read.fetch import Fetcher
from tiffref.references import References
from tiffref.zarr import batching
from tiffref.zarr.store import ZarrStore

AT_ONCE = 10


def array_of(grid: Sequence[int], missing: Sequence[int] = ()) -> Array:
    values = np.arange(np.prod(grid), dtype="u1").reshape(grid)
    return build_array(values, (1,) * len(grid), Source("x"), missing=tuple(missing))[1]


def read(array: Array, box: Sequence[range], reading: batching.ReadAhead) -> list[int]:
    """Ask for the chunks of a box as zarr does; return what was asked for ahead."""
    found = []
    for index in itertools.product(*box):
        flat = int(np.ravel_multi_index(index, array.grid))
        if array.manifest.at(flat)[0] >= 0:
            found += reading.record(array, flat, AT_ONCE)
    return found


def inside(array: Array, box: Sequence[range]) -> set[int]:
    return {int(np.ravel_multi_index(index, array.grid)) for index in itertools.product(*box)}


@pytest.mark.parametrize(
    ("grid", "box"),
    [
        ((32, 32), (range(3, 12), range(4, 13))),
        ((32, 32), (range(32), range(32))),
        ((32, 32), (range(2, 31), range(5, 6))),
        ((32, 32), (range(2, 4), range(1, 31))),
        ((32, 32, 1), (range(3, 12), range(4, 13), range(1))),
        ((3, 32, 32), (range(3), range(3, 12), range(4, 13))),
        ((50, 8, 8), (range(50), range(2, 4), range(5, 7))),
        ((200,), (range(20, 180),)),
    ],
)
def test_a_read_in_order_is_followed_within_bounds(grid, box):
    array = array_of(grid)
    found = read(array, box, batching.ReadAhead())
    wanted = inside(array, box)
    useful = len(wanted & set(found))
    assert useful > len(wanted) / 3
    assert len(set(found)) - useful <= len(wanted) / 2


@pytest.mark.parametrize("seed", range(20))
def test_wasted_bytes_never_exceed_requested_bytes(seed):
    rng = random.Random(seed)
    grid = [rng.randint(1, 14) for _ in range(rng.randint(1, 3))]
    missing = rng.sample(range(int(np.prod(grid))), int(np.prod(grid)) // 5)
    array = array_of(grid, missing)
    box = []
    for n in grid:
        first = rng.randrange(n)
        box.append(range(first, rng.randint(first + 1, n)))
    found = read(array, box, batching.ReadAhead())
    wanted = inside(array, box) - set(missing)
    assert not set(found) & set(missing)
    assert len(set(found) - wanted) <= len(wanted)


def test_only_rows_are_read_ahead():
    array = array_of((40, 40))
    flats = list(range(1600))
    random.Random(1).shuffle(flats)
    scattered = batching.ReadAhead()
    assert [one for flat in flats for one in scattered.record(array, flat, AT_ONCE)] == []
    for step in (range(0, 1600, 3), range(1599, 0, -2), [7] * 100):
        reading = batching.ReadAhead()
        assert [one for flat in step for one in reading.record(array, flat, AT_ONCE)] == []


@pytest.mark.parametrize("seed", range(5))
def test_threads_that_read_backwards_and_overtake_one_another_are_followed(seed):
    rng, array = random.Random(seed), array_of((32, 32))
    box = range(3, 12), range(4, 13)
    order = [int(np.ravel_multi_index(index, (32, 32))) for index in itertools.product(*box)][::-1]
    for n in range(2, len(order) - 1):
        if rng.random() < 0.15:
            order[n], order[n + 1] = order[n + 1], order[n]
    reading = batching.ReadAhead()
    found = {one for flat in order for one in reading.record(array, flat, AT_ONCE)}
    assert len(found & set(order)) > 50
    assert len(found - set(order)) <= 20


def test_small_windows_are_not_followed():
    array = array_of((40, 40))
    reading = batching.ReadAhead()
    for y, x in itertools.product(range(0, 30, 5), range(0, 30, 7)):
        assert read(array, (range(y, y + 3), range(x, x + 3)), reading) == []


def test_reads_at_the_same_time_are_told_apart():
    array, other = array_of((32, 32)), array_of((32, 32))
    boxes = {
        0: (array, (range(9), range(9))),
        1: (array, (range(16, 25), range(16, 25))),
        2: (other, (range(9), range(9))),
    }
    reading, found = batching.ReadAhead(), {0: set(), 1: set(), 2: set()}
    for indices in zip(*(itertools.product(*box) for _, box in boxes.values()), strict=True):
        for which, index in enumerate(indices):
            flat = int(np.ravel_multi_index(index, (32, 32)))
            found[which] |= set(reading.record(boxes[which][0], flat, AT_ONCE))
    for which, (one, box) in boxes.items():
        assert len(found[which] & inside(one, box)) > 50
        assert len(found[which] - inside(one, box)) <= 18


# ---- through the store

VALUES = np.random.default_rng(0).integers(0, 255, (32 * 64, 32 * 64), "u1")
WINDOW = (slice(3 * 64, 12 * 64), slice(4 * 64, 13 * 64))


@pytest.fixture(scope="module")
def stored() -> tuple[bytes, Array]:
    # gaps that are never bridged, so that bytes are those of chunks
    return build_array(VALUES, (64, 64), Source("x"), missing=(5 * 32 + 6,), fill_value=0)


@pytest.fixture
def server(
    stored: tuple[bytes, Array], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CountingServer]:
    monkeypatch.setattr(batching, "MAX_GAP_BYTES", 0)
    monkeypatch.setattr(batching, "_AHEAD_LIFETIME_S", 60.0)
    running = CountingServer()
    running.files["/a"] = stored[0]
    running.latency_s = 0.02
    yield running
    running.close()


def store_of(server: CountingServer, array: Array, verify: str = "first") -> ZarrStore:
    source = Source(f"{server.url}/a", len(server.files["/a"]))
    manifest = array.manifest.with_sources(lambda _: source)
    renamed = Array(array.shape, array.chunks, array.dtype, array.dims, array.codecs, manifest, 0)
    return ZarrStore(references=References(Group({"": renamed})), fetch=Fetcher(verify=verify))


def expected() -> np.ndarray:
    values = VALUES.copy()
    values[5 * 64 : 6 * 64, 6 * 64 : 7 * 64] = 0
    return values


def test_a_window_takes_few_requests_and_few_bytes_more(server, stored):
    store = store_of(server, stored[1])
    array = zarr.open_array(store, mode="r")
    np.testing.assert_array_equal(array[WINDOW], expected()[WINDOW])
    assert server.n_get <= 13  # one row has a hole
    assert server.n_bytes <= 80 * 64 * 64 * 1.5


def test_all_of_an_image_is_read_once(server, stored):
    np.testing.assert_array_equal(zarr.open_array(store_of(server, stored[1]))[...], expected())
    assert server.n_bytes == 1023 * 64 * 64


def test_scattered_chunks_are_read_alone(server, stored):
    array = zarr.open_array(store_of(server, stored[1]), mode="r")
    rng = random.Random(2)
    places = [(rng.randrange(32), rng.randrange(32)) for _ in range(40)]
    for y, x in places:
        assert array[y * 64, x * 64] == expected()[y * 64, x * 64]
    n_there = sum(place != (5, 6) for place in places)
    assert (server.n_get, server.n_bytes) == (n_there, n_there * 64 * 64)


def test_large_requests_need_no_read_ahead(server, stored):
    with zarr.config.set({"async.concurrency": 128}):
        zarr.open_array(store_of(server, stored[1]), mode="r")[WINDOW]
    assert server.n_bytes == 80 * 64 * 64


def test_nothing_is_ahead_of_a_check(server, stored):
    zarr.open_array(store_of(server, stored[1], verify="always"), mode="r")[WINDOW]
    assert server.n_bytes == 80 * 64 * 64


def test_read_ahead_memory_is_bounded(server, stored, monkeypatch):
    monkeypatch.setattr(batching, "_MAX_AHEAD_BYTES", 3 * 64 * 64)
    array = zarr.open_array(store_of(server, stored[1]), mode="r")
    np.testing.assert_array_equal(array[WINDOW], expected()[WINDOW])
    assert server.n_bytes <= (80 + 3) * 64 * 64


def test_unused_read_ahead_is_dropped(server, stored, monkeypatch):
    store = store_of(server, stored[1])
    keys = [f"{y}.{x}" for y, x in itertools.product(range(3, 6), range(4, 13))]

    async def main() -> None:
        for key in keys[:15]:
            await store.get(key, zarr.core.buffer.default_buffer_prototype())
        (state,) = store._requests._states.values()
        assert state.ahead
        assert state.n_ahead_bytes == len(state.ahead) * 64 * 64
        assert state.is_watched
        monkeypatch.setattr(batching, "_AHEAD_LIFETIME_S", 0.01)
        while state.ahead:
            await asyncio.sleep(0.02)
            store._requests._drop_expired(state)
        assert state.n_ahead_bytes == 0
        assert not state.runs._runs

    asyncio.run(main())


def test_read_ahead_errors_are_not_raised_to_others(server, stored):
    """Rows past the end of the file fail for those who want them, and for nobody else."""
    array = stored[1]
    server.files["/a"] = server.files["/a"][: array.manifest.offset.item(12 * 32 + 4)]
    store = store_of(server, array)
    source = Source(f"{server.url}/a")  # of unknown size
    manifest = array.manifest.with_sources(lambda _: source)
    renamed = Array(array.shape, array.chunks, array.dtype, array.dims, array.codecs, manifest, 0)
    store = ZarrStore(references=References(Group({"": renamed})))
    opened = zarr.open_array(store, mode="r")
    np.testing.assert_array_equal(opened[WINDOW], expected()[WINDOW])
    with pytest.raises(SourceError, match="wrong length"):
        opened[3 * 64 : 13 * 64, WINDOW[1]]
