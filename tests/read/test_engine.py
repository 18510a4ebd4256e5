"""Regions read through manifests equal the same regions of the array in memory."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiffref.errors import MalformedTiff, SelectionError, SourceError, StaleSource
from tiffref.model.array import Array
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import Manifest, Source
from tiffref.read import Fetcher, engine, read_array

VALUES = np.random.default_rng(1).integers(0, 60000, (7, 50, 61)).astype("u2")
SELECTIONS = [
    ...,
    0,
    -1,
    (slice(None), 3),
    (slice(None, None, -1),),
    (slice(1, 6, 2), slice(40, 3, -7), slice(None, None, 13)),
    (slice(2, 2), 4),
    (3, 4, 5),
    (3, 4, 5, ...),
    (..., 7),
    (None, 2, slice(3, 4), None),
    (slice(-5, None), ..., slice(None, -60, -30)),
    np.int64(4),
    (slice(100, 200),),
    (),
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_selections_equal_numpy(
    make_array: Callable[..., Array], selection: Any, compression: int, byteorder: str
) -> None:
    array = make_array(VALUES, (2, 16, 61), compression=compression, byteorder=byteorder)
    result = read_array(array, selection, fetch=Fetcher())
    expected = VALUES[selection]
    assert np.shape(result) == expected.shape
    assert type(result) is type(expected)
    assert result.dtype == VALUES.dtype
    np.testing.assert_array_equal(result, expected)


def slices(size: int) -> st.SearchStrategy[Any]:
    bound = st.none() | st.integers(-size - 2, size + 2)
    step = st.none() | st.integers(-size - 1, size + 1).filter(bool)
    return st.builds(slice, bound, bound, step) | st.integers(-size, size - 1)


@settings(max_examples=150)
@given(
    selection=st.tuples(slices(5), slices(13), slices(9)),
    chunks=st.tuples(st.integers(1, 5), st.integers(1, 13), st.integers(1, 11)),
    compression=st.sampled_from([1, 8]),
)
def test_any_basic_selection_equals_numpy(
    make_array: Callable[..., Array], selection: Any, chunks: Any, compression: int
) -> None:
    values = np.arange(5 * 13 * 9, dtype="i4").reshape(5, 13, 9)
    array = make_array(values, chunks, compression=compression)
    result = read_array(array, selection, fetch=Fetcher())
    np.testing.assert_array_equal(result, values[selection])


@pytest.mark.parametrize(
    "selection",
    [
        7,
        -8,
        (0, 50),
        (0, 0, 0, 0),
        (..., ...),
        "a",
        1.5,
        True,
        [1, 2],
        slice("a", None),
        np.zeros(7, bool),
        slice(None, None, 0),
    ],
    ids=str,
)
def test_bad_selections_are_refused(make_array: Callable[..., Array], selection: Any) -> None:
    array = make_array(VALUES, (2, 16, 61))
    with pytest.raises(SelectionError) as caught:
        read_array(array, selection, fetch=Fetcher())
    assert isinstance(caught.value, IndexError)
    assert isinstance(caught.value, ValueError)


def test_array_without_dimensions(make_array: Callable[..., Array]) -> None:
    array = make_array(np.array(7, "i4"), ())
    assert read_array(array, (), fetch=Fetcher()) == 7
    assert read_array(array, ..., fetch=Fetcher()).shape == ()


def test_out_is_filled_and_returned(make_array: Callable[..., Array]) -> None:
    array = make_array(VALUES, (2, 16, 61), compression=8)
    out = np.zeros((1, 7, 2, 61), "u2")
    selection = (None, slice(None, None, -1), slice(5, 7))
    assert read_array(array, selection, fetch=Fetcher(), out=out) is out
    np.testing.assert_array_equal(out, VALUES[selection])
    with pytest.raises(SelectionError):
        read_array(array, selection, fetch=Fetcher(), out=out.astype("u4"))
    with pytest.raises(SelectionError):
        read_array(array, selection, fetch=Fetcher(), out=out[0])


@pytest.mark.parametrize("n_rows", [1 << 30, 1 << 50])  # also more bytes than 63 bits can count
def test_a_selection_larger_than_memory(n_rows: int) -> None:
    shape = n_rows, 1 << 20
    codec = SegmentCodec((1, 1, *shape), "|u1")
    manifest = Manifest.from_columns((1, 1), (), [0], [0])
    array = Array(shape, shape, np.dtype("u1"), ("y", "x"), (codec,), manifest)
    with pytest.raises(SelectionError, match=f"does not fit.*{n_rows}") as e:
        read_array(array, ..., fetch=Fetcher())
    assert isinstance(e.value, MemoryError)
    assert not read_array(array, (slice(-3, None), slice(2)), fetch=Fetcher()).any()


@pytest.mark.parametrize(("fill", "expected"), [(None, 0), (9, 9)])
def test_missing_chunks_read_as_fill_value(
    make_array: Callable[..., Array], fill: Any, expected: int
) -> None:
    values = np.ones((4, 4), "u1")
    array = make_array(values, (2, 2), missing=(1, 2), fill_value=fill)
    result = read_array(array, ..., fetch=Fetcher())
    assert result.tolist() == [[1, 1, expected, expected]] * 2 + [[expected, expected, 1, 1]] * 2


def test_array_of_missing_chunks_needs_no_source() -> None:
    manifest = Manifest.from_columns((2,), Source("/nowhere"), [0, 0], [0, 0])
    array = Array(
        (5,),
        (3,),
        np.dtype("f4"),
        ("x",),
        (SegmentCodec((1, 1, 1, 3), "<f4"),),
        manifest,
        fill_value=2.5,
    )
    assert read_array(array, ..., fetch=Fetcher()).tolist() == [2.5] * 5


def test_inlined_chunk_of_small_array() -> None:
    array = Array.from_values(["a", "bcd"], ("band",))
    assert read_array(array, slice(None, None, -1), fetch=Fetcher()).tolist() == ["bcd", "a"]


def test_inlined_compressed_chunk(make_array: Callable[..., Array]) -> None:
    array = make_array(VALUES, (7, 50, 61), compression=8)
    path = Path(array.manifest.sources[0].url)
    stored = path.read_bytes()[16:]
    path.unlink()
    array = replace(array, manifest=array.manifest.with_inlined({0: stored}))
    np.testing.assert_array_equal(read_array(array, (2, ...), fetch=Fetcher()), VALUES[2])


@pytest.mark.parametrize("compression", [1, 8])
def test_whole_file_chunks(
    tmp_path: Path, make_array: Callable[..., Array], compression: int
) -> None:
    parts = [make_array(VALUES[i], (50, 61), base=0, compression=compression) for i in range(3)]
    sources = tuple(part.manifest.sources[0] for part in parts)
    zeros = np.zeros(3, np.uint64)
    manifest = Manifest((3, 1, 1), sources, np.arange(3, dtype=np.int32), zeros, zeros)
    array = Array(
        (3, 50, 61), (1, 50, 61), VALUES.dtype, ("t", "y", "x"), parts[0].codecs, manifest
    )
    np.testing.assert_array_equal(read_array(array, ..., fetch=Fetcher()), VALUES[:3])
    np.testing.assert_array_equal(read_array(array, (1, 4), fetch=Fetcher()), VALUES[1, 4])


def test_sources_with_different_codecs(make_array: Callable[..., Array]) -> None:
    parts = [
        make_array(VALUES[0], (50, 61), compression=8),
        make_array(VALUES[1], (50, 61), byteorder=">"),
    ]
    sources = tuple(replace(part.manifest.sources[0], codec=i) for i, part in enumerate(parts))
    column = [np.concatenate([getattr(p.manifest, n) for p in parts]) for n in ("offset", "length")]
    manifest = Manifest((2, 1, 1), sources, np.arange(2, dtype=np.int32), *column)
    codecs = tuple(part.codec for part in parts)
    array = Array((2, 50, 61), (1, 50, 61), VALUES.dtype, ("t", "y", "x"), codecs, manifest)
    np.testing.assert_array_equal(read_array(array, ..., fetch=Fetcher()), VALUES[:2])


def test_window_of_plain_chunk_reads_its_rows_only(
    make_array: Callable[..., Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(1000 * 100, dtype="u4").reshape(1000, 100)
    array = make_array(values, (1000, 100))
    lengths = []
    read, read_into = Fetcher.read, Fetcher.read_into
    monkeypatch.setattr(
        Fetcher, "read", lambda self, *args: (lengths.append(args[2]), read(self, *args))[1]
    )
    monkeypatch.setattr(
        Fetcher, "read_into", lambda *args: (lengths.append(len(args[3])), read_into(*args))[1]
    )
    result = read_array(array, (slice(500, 502), slice(10, 20)), fetch=Fetcher())
    np.testing.assert_array_equal(result, values[500:502, 10:20])
    assert lengths == [4 * 110]


def test_large_arrays_are_split_over_threads(
    make_array: Callable[..., Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).integers(0, 9, (1024, 1024)).astype("u2")
    array = make_array(values, (64, 64), compression=8)
    threads, is_shared = set(), threading.Event()
    place = engine._decode_range

    def place_beside_others(*args: object) -> None:
        threads.add(threading.get_ident())
        if len(threads) > 1:
            is_shared.set()
        assert is_shared.wait(30)  # nobody goes on before two have begun
        place(*args)

    monkeypatch.setattr(engine, "_decode_range", place_beside_others)
    monkeypatch.setattr(engine, "TASK_BYTES", 1 << 12)
    monkeypatch.setattr(engine, "N_CORES", 2)
    np.testing.assert_array_equal(read_array(array, ..., fetch=Fetcher()), values)
    assert threading.get_ident() in threads


@pytest.mark.parametrize("compression", [1, 8])
def test_many_chunks_are_read_some_at_a_time(
    make_array: Callable[..., Array], monkeypatch: pytest.MonkeyPatch, compression: int
) -> None:
    monkeypatch.setattr(engine, "MAX_CHUNKS", 4)
    array = make_array(VALUES, (2, 16, 61), compression=compression)
    result = read_array(array, (slice(1, None), slice(3, 45)), fetch=Fetcher())
    np.testing.assert_array_equal(result, VALUES[1:, 3:45])


@pytest.mark.parametrize("step", [1, 2, -3])
def test_an_axis_of_many_chunks(make_array: Callable[..., Array], step: int) -> None:
    values = np.arange(700, dtype="u2")[:, None]
    result = read_array(make_array(values, (1, 1)), np.s_[::step], fetch=Fetcher())
    np.testing.assert_array_equal(result, values[::step])


def test_a_busy_pool_keeps_nobody_waiting(make_array: Callable[..., Array]) -> None:
    values = np.random.default_rng(2).integers(0, 9, (1024, 1024)).astype("u2")
    array = make_array(values, (64, 64), compression=8)
    is_over = threading.Event()
    busy = [engine.decode_pool().submit(is_over.wait, 30) for _ in range(engine.N_CORES)]
    try:
        np.testing.assert_array_equal(read_array(array, ..., fetch=Fetcher()), values)
        assert not any(future.done() for future in busy)
    finally:
        is_over.set()


def test_an_error_ends_the_work_of_others(
    make_array: Callable[..., Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).integers(0, 9, (1024, 1024)).astype("u2")
    array = make_array(values, (64, 64), compression=8)
    caller, has_begun, placed = threading.get_ident(), threading.Event(), []

    def place(*args: object) -> None:
        if threading.get_ident() == caller:
            assert has_begun.wait(30)
            raise MalformedTiff("broken")
        placed.append(args)
        has_begun.set()
        time.sleep(0.05)

    monkeypatch.setattr(engine, "_decode_range", place)
    monkeypatch.setattr(engine, "LOCAL_RANGE_BYTES", 1)
    monkeypatch.setattr(engine, "N_CORES", 2)
    with pytest.raises(MalformedTiff, match="broken"):
        read_array(array, ..., fetch=Fetcher())
    assert len(placed) < 100  # of 256


def test_many_threads_share_one_fetcher(make_array: Callable[..., Array]) -> None:
    array = make_array(VALUES, (2, 16, 61), compression=8)
    fetch, wrong = Fetcher(), []

    def work(i: int) -> None:
        for j in range(20):
            selection = ((i + j) % 7, slice(j, j + 20))
            if not np.array_equal(read_array(array, selection, fetch=fetch), VALUES[selection]):
                wrong.append(selection)
            if j == i:
                fetch.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- errors


def test_truncated_file_is_an_error(make_array: Callable[..., Array]) -> None:
    array = make_array(VALUES, (2, 16, 61))
    path = Path(array.manifest.sources[0].url)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4000)
    with pytest.raises(StaleSource):
        read_array(array, ..., fetch=Fetcher())
    with pytest.raises(SourceError) as caught:
        read_array(array, ..., fetch=Fetcher(verify="never"))
    assert caught.value.url == str(path)
    assert "bytes" in str(caught.value.got)


def test_range_past_the_end_needs_no_memory(make_array: Callable[..., Array]) -> None:
    array = make_array(VALUES, (7, 50, 61), compression=8)
    for size in (None, 100):
        source = replace(array.manifest.sources[0], size=size, mtime=None)
        manifest = replace(array.manifest, sources=(source,), length=np.array([2**62], np.uint64))
        with pytest.raises(SourceError):
            read_array(replace(array, manifest=manifest), ..., fetch=Fetcher(verify="never"))


def test_missing_file_is_an_error_that_names_it() -> None:
    manifest = Manifest.from_columns((1,), Source("/nowhere/at.bin"), [1], [4])
    codec = SegmentCodec((1, 1, 1, 4), "|u1")
    array = Array((4,), (4,), np.dtype("u1"), ("x",), (codec,), manifest)
    with pytest.raises(SourceError, match=r"/nowhere/at\.bin: no such file"):
        read_array(array, ..., fetch=Fetcher())


def test_broken_chunk_is_named(make_array: Callable[..., Array]) -> None:
    array = make_array(VALUES, (2, 16, 61), compression=8)
    path = Path(array.manifest.sources[0].url)
    data = bytearray(path.read_bytes())
    start = int(array.manifest.offset[5])
    data[start : start + 30] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(MalformedTiff, match=r"chunk 1\.1\.0") as caught:
        read_array(array, ..., fetch=Fetcher(verify="never"))
    assert caught.value.url == str(path)
    np.testing.assert_array_equal(read_array(array, 0, fetch=Fetcher(verify="never")), VALUES[0])


def test_changed_source_is_stale(make_array: Callable[..., Array]) -> None:
    array = make_array(VALUES, (2, 16, 61))
    path = Path(array.manifest.sources[0].url)
    fetch, every = Fetcher(), Fetcher(verify="always")
    for reader in (fetch, every):
        read_array(array, 0, fetch=reader)
    os.utime(path, (1, 1))
    read_array(array, 0, fetch=fetch)
    with pytest.raises(StaleSource):
        read_array(array, 0, fetch=every)
    for _ in range(2):
        with pytest.raises(StaleSource, match="mtime"):
            read_array(array, 0, fetch=pickle.loads(pickle.dumps(fetch)))
    read_array(array, 0, fetch=Fetcher(verify="never"))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((64, 96), (16, 16)),
        ((60, 90), (16, 16)),
        ((3, 32, 64, 2), (1, 8, 16, 2)),
        ((6, 32, 16), (1, 32, 16)),
        ((4, 4, 4), (2, 2, 2)),
        ((100,), (7,)),
    ],
    ids=str,
)
def test_plain_neighbours_are_copied_together(
    make_array: Callable[..., Array],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    byteorder: str,
    order: Literal["C", "F"],
) -> None:
    values = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    array = make_array(values, chunks, byteorder=byteorder)
    out = np.zeros(shape, "i4", order=order)
    read_array(array, ..., fetch=Fetcher(), out=out)
    np.testing.assert_array_equal(out, values)
    for selection in ((slice(1, None),), (..., slice(None, None, -1)), (..., slice(0, None, 2))):
        found = read_array(array, selection, fetch=Fetcher())
        np.testing.assert_array_equal(found, values[selection])


def test_a_decoder_may_read_another_array(
    make_array: Callable[..., Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(64 * 64, dtype="u2").reshape(64, 64)
    outer = make_array(values, (16, 16), compression=8)
    inner = make_array(values[::-1], (16, 16), compression=8)
    place = engine._decode_range

    def nested(reading: engine.Reading, *args: Any) -> None:
        if reading.array is outer:
            np.testing.assert_array_equal(read_array(inner, ..., fetch=Fetcher()), values[::-1])
        place(reading, *args)

    monkeypatch.setattr(engine, "_decode_range", nested)
    np.testing.assert_array_equal(read_array(outer, ..., fetch=Fetcher()), values)
    np.testing.assert_array_equal(read_array(outer, ..., fetch=Fetcher()), values)
