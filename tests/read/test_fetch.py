"""Remote sources: few requests, exact bytes, errors that name the range; and the shared threads."""

from __future__ import annotations

import io
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import fsspec
import numpy as np
import pytest
from chunked import CountingServer, build_array

from tiffref.errors import SourceError, StaleSource
from tiffref.io.remote import RemoteFile
from tiffref.io.source import FileObjectSource
from tiffref.model.array import Array
from tiffref.model.manifest import Source
from tiffref.read import Fetcher, engine, read_array
from tiffref.read.fetch import check_pool, decode_pool, fetch_pool

VALUES = np.random.default_rng(3).integers(0, 60000, (1000, 1200)).astype("u2")


@pytest.mark.parametrize("compression", [1, 8])
def test_window_takes_few_requests(
    serve: Callable[..., Array], server: CountingServer, compression: int
) -> None:
    array = serve(VALUES, (100, 100), compression=compression, gap_bytes=8)
    window = (slice(150, 450), slice(230, 560))
    result = read_array(array, window, fetch=Fetcher())
    np.testing.assert_array_equal(result, VALUES[window])
    assert server.n_get == 4  # rows of tiles are further apart than a gap


def test_gaps_are_not_read(serve: Callable[..., Array], server: CountingServer) -> None:
    array = serve(VALUES, (100, 100), gap_bytes=engine.MAX_GAP_BYTES + 1)
    read_array(array, (slice(0, 100), slice(0, 200)), fetch=Fetcher())
    assert server.n_get == 2
    assert server.n_bytes < 41000


def test_ranges_have_a_maximum_size(
    serve: Callable[..., Array], server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MAX_RANGE_BYTES", 1 << 18)
    monkeypatch.setattr(engine, "MAX_IN_FLIGHT_BYTES", 1 << 19)
    array = serve(VALUES, (100, 100))
    np.testing.assert_array_equal(read_array(array, ..., fetch=Fetcher()), VALUES)
    assert server.n_get == -(-VALUES.nbytes // (1 << 18))
    assert max(n for _, _, n in server.requests) <= (1 << 18) + 20000


@pytest.mark.parametrize("behaviour", ["no ranges", "short", "shifted", "closes early"])
def test_wrong_answers_are_errors(
    serve: Callable[..., Array], server: CountingServer, behaviour: str
) -> None:
    array = serve(VALUES, (100, 100), gap_bytes=engine.MAX_GAP_BYTES + 1)
    server.behaviour = behaviour
    with pytest.raises(SourceError, match=r"bytes \d+ to \d+") as caught:
        read_array(array, (slice(0, 300), slice(0, 300)), fetch=Fetcher())
    assert caught.value.url == array.manifest.sources[0].url
    assert caught.value.got


def test_server_without_ranges_is_not_read_to_the_end(
    serve: Callable[..., Array], server: CountingServer
) -> None:
    array = serve(VALUES, (100, 100))
    server.behaviour = "no ranges"
    with pytest.raises(SourceError, match="does not support range requests"):
        read_array(array, (0, 0), fetch=Fetcher())
    assert server.n_get == 1


def test_source_without_answer(serve: Callable[..., Array], server: CountingServer) -> None:
    array = serve(VALUES, (100, 100))
    server.files.clear()
    with pytest.raises(SourceError, match=array.manifest.sources[0].url):
        read_array(array, 0, fetch=Fetcher())


def test_changed_etag_is_stale_without_a_request_of_its_own(
    serve: Callable[..., Array], server: CountingServer
) -> None:
    array = serve(VALUES, (100, 100), gap_bytes=engine.MAX_GAP_BYTES + 1)
    source = replace(array.manifest.sources[0], etag="one")
    array = replace(array, manifest=replace(array.manifest, sources=(source,)))
    server.etag = "one"
    np.testing.assert_array_equal(read_array(array, ..., fetch=Fetcher()), VALUES)
    assert not any(method == "HEAD" for method, _, _ in server.requests)
    server.etag = "two"
    with pytest.raises(StaleSource, match="ETag"):
        read_array(array, ..., fetch=Fetcher())
    read_array(array, ..., fetch=Fetcher(verify="never"))


def test_memory_file_system_and_open_files() -> None:
    data, array = build_array(VALUES, (100, 100), Source("memory://one.bin"), compression=8)
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/one.bin", data)
    fetch = pickle.loads(pickle.dumps(Fetcher()))
    np.testing.assert_array_equal(read_array(array, ..., fetch=fetch), VALUES)
    fs.rm("/one.bin")
    with pytest.raises(SourceError, match=r"one\.bin"):
        read_array(array, ..., fetch=fetch)

    file = io.BytesIO(data)
    file.seek(5)
    fetch = Fetcher(files={"memory://one.bin": file})
    np.testing.assert_array_equal(read_array(array, ..., fetch=fetch), VALUES)
    assert file.tell() == 5
    with pytest.raises(TypeError, match="path or URL"):
        pickle.dumps(fetch)
    file.close()
    with pytest.raises(SourceError, match="closed"):
        read_array(array, ..., fetch=fetch)


def test_a_check_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("memory://two.bin", 1)
    data, array = build_array(VALUES, (100, 100), source, compression=8)
    source = replace(source, size=len(data))
    manifest = replace(array.manifest, sources=(source,))
    array = replace(array, manifest=manifest)
    fsspec.filesystem("memory").pipe_file("/two.bin", data)
    fails = [True]
    state = RemoteFile.state

    def fail_once(self: RemoteFile, *is_listed: bool) -> Source:
        if fails:
            fails.pop()
            raise SourceError("a fault that passes", url=self.source.url)
        return state(self, *is_listed)

    monkeypatch.setattr(RemoteFile, "state", fail_once)
    fetch = Fetcher()
    with pytest.raises(SourceError, match="a fault that passes"):
        read_array(array, ..., fetch=fetch)
    np.testing.assert_array_equal(read_array(array, ..., fetch=fetch), VALUES)


def test_readers_of_one_open_file_take_turns() -> None:
    class Slow(io.BytesIO):
        def seek(self, *place: int) -> int:
            position = super().seek(*place)
            time.sleep(1e-4)  # lets another thread come in between
            return position

    file = Slow(bytes(range(256)))

    def read(offset: int) -> list[bytes]:
        one, other = FileObjectSource(file), FileObjectSource(file)
        return [(one if n % 2 else other).read(offset, 1) for n in range(20)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, range(4)))
    assert found == [[bytes([n])] * 20 for n in range(4)]


def test_an_open_file_that_cannot_be_a_key_is_read() -> None:
    class Odd(io.BytesIO):
        __hash__ = None  # type: ignore[assignment]

    assert FileObjectSource(Odd(b"abc")).read(1, 1) == b"b"


def test_storage_options_reach_the_file_system(
    serve: Callable[..., Array], server: CountingServer
) -> None:
    array = serve(VALUES, (100, 100))
    fetch = Fetcher({"headers": {"X-Test": "1"}, "skip_instance_cache": True})
    read_array(array, 0, fetch=fetch)
    opened = fetch.open(array.manifest.sources[0].url)
    assert isinstance(opened, RemoteFile)
    assert opened.fs.kwargs["headers"] == {"X-Test": "1"}


def test_unknown_protocol_is_a_source_error() -> None:
    _, array = build_array(VALUES, (100, 100), Source("nosuch://one.bin"))
    with pytest.raises(SourceError, match="nosuch"):
        read_array(array, 0, fetch=Fetcher())


def test_verify_is_checked() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        Fetcher(verify="sometimes")


def test_size(serve: Callable[..., Array], server: CountingServer, tmp_path: Any) -> None:
    array = serve(VALUES, (100, 100))
    source = array.manifest.sources[0]
    assert Fetcher().size(source) == len(server.files["/data0.bin"])
    assert Fetcher().size(replace(source, size=5)) == 5
    server.files.clear()
    with pytest.raises(SourceError, match=r"404\. There is no such file"):
        Fetcher().size(source)


def test_pools_are_shared_and_questions_may_be_asked_at_once() -> None:
    assert fetch_pool() is fetch_pool() is not decode_pool()
    here = threading.current_thread()
    assert check_pool().submit(threading.current_thread).result() is not here
