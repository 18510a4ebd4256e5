"""Progress of reads: what callbacks are told, from all threads and ways of reading."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from chunked import build_array

from tiffref.errors import SelectionError
from tiffref.io.progress import ProgressCounter, resolve_progress
from tiffref.model.array import Array, Group
from tiffref.model.manifest import Source
from tiffref.references import References
from tiffref.zarr import ZarrFileSequenceStore, ZarrTiffStore
from tiffref.zarr.store import ZarrStore

VALUES = np.arange(96 * 96, dtype="u2").reshape(96, 96)
REGIONS = {
    "all": (Ellipsis, 36),
    "window": ((slice(20, 60), slice(40, 41)), 3),
    "none": (slice(0), 0),
}


def open_store(where: str, compression: int, tmp_path, server) -> ZarrStore:
    data, array = build_array(
        VALUES, (16, 16), Source("x"), compression=compression, missing=(3,), fill_value=7
    )
    (tmp_path / "a.bin").write_bytes(data)
    server.files["/a.bin"] = data
    url = str(tmp_path / "a.bin") if where == "local" else f"{server.url}/a.bin"
    manifest = array.manifest.with_sources(lambda _: Source(url, len(data)))
    renamed = Array(array.shape, array.chunks, array.dtype, array.dims, array.codecs, manifest, 7)
    return ZarrStore(references=References(Group({"": renamed})))


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("where", ["local", "remote"])
def test_each_chunk_is_counted_once(where, compression, region, tmp_path, server):
    store = open_store(where, compression, tmp_path, server)
    selection, n_chunks = REGIONS[region]
    told: list[tuple[int, int]] = []
    for _ in range(2):  # the second time, some are kept
        told.clear()
        found = store.read(selection, progress=lambda *counts: told.append(counts))
        np.testing.assert_array_equal(found, store[selection])
        done = [n for n, _ in told]
        assert done == sorted(set(done))
        assert done[-1:] == [n_chunks][: n_chunks > 0]
        assert {total for _, total in told} <= {n_chunks}


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_callback_can_end_a_read(where, tmp_path, server):
    store = open_store(where, 8, tmp_path, server)

    def stop(done: int, total: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        store.read(progress=stop)
    np.testing.assert_array_equal(store.read()[:16, :16], VALUES[:16, :16])


def test_reading_into_an_array(tmp_path, server):
    store = open_store("local", 8, tmp_path, server)
    out = np.zeros((96, 96), "u2")
    assert store.read(out=out) is out
    np.testing.assert_array_equal(out, store[...])


def test_a_line_is_drawn_on_terminals_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert resolve_progress(True, "reading", "chunks") is None
    assert resolve_progress(None, "reading", "chunks") is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert resolve_progress(False, "reading", "chunks") is None
    show = resolve_progress(True, "reading", "chunks")
    assert show is not None
    tally = ProgressCounter(show, 1200)
    tally.add(600)
    tally.add(600)
    text = sys.stderr.getvalue()
    assert "reading [###############...............] 600 of 1,200 chunks" in text
    assert text.endswith("\r\x1b[K")


def test_scans_use_the_same_line(tmp_path, monkeypatch):
    import tifffile

    import tiffref

    for n in range(3):
        tifffile.imwrite(tmp_path / f"{n}.tif", VALUES, metadata=None)
    told: list[tuple[int, int]] = []
    tiffref.scan_sequence(f"{tmp_path}/*.tif", progress=lambda *counts: told.append(counts))
    assert told[-1] == (3, 3)
    told.clear()
    store = ZarrFileSequenceStore(f"{tmp_path}/*.tif", imread=tifffile.imread)
    out = np.zeros(store.shape, store.dtype)
    np.testing.assert_array_equal(
        store.read(out=out, progress=lambda *n: told.append(n)), [VALUES] * 3
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(SelectionError, match="does not fit"):
        store.read(0, out=out)
    store = ZarrTiffStore(tmp_path / "0.tif")
    store.read(progress=lambda *counts: told.append(counts))
    assert told[-1][0] == told[-1][1]
