"""Servers that throttle, drip, ask for credentials or lead astray: how often they are asked."""

from __future__ import annotations

import email.utils
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from faulty import FaultyServer, finish_zarr

import tiffref
import zarr
from tiffref.errors import SourceError, StaleSource, TiffrefError
from tiffref.io import http
from tiffref.zarr import ZarrTiffStore

WAYS = {
    "store": lambda store: store[...],
    "zarr": lambda store: zarr.open_array(store, mode="r")[...],
    "xarray": lambda store: _by_xarray(store),
}


def expect_error(way: str, store: ZarrTiffStore, match: str) -> SourceError:
    """Return the error of a read, once all requests of that read are over."""
    with pytest.raises(SourceError, match=match) as caught:
        WAYS[way](store)
    finish_zarr()
    assert caught.value.hint
    return caught.value


def _by_xarray(store: ZarrTiffStore) -> np.ndarray:
    xr = pytest.importorskip("xarray")
    return xr.open_dataset(store.references, engine="tiffref", chunks={}).image.values


@dataclass(frozen=True)
class Recorded(http.Retry):
    """Waits hardly at all, and notes what servers asked for."""

    n_tries: int = 4
    first_s: float = 0.001
    longest_s: float = 0.002
    asked: list[float] = field(default_factory=list)

    def delay_s(self, n_failed: int, asked_s: float = 0.0) -> float:
        self.asked.append(asked_s)
        return super().delay_s(n_failed, asked_s)


@pytest.fixture
def retry(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    retry = Recorded()
    monkeypatch.setattr(http, "RETRY", retry)
    return retry


@pytest.fixture
def opened(server: FaultyServer, data: bytes) -> ZarrTiffStore:
    server.files["/a.tif"], server.etags["/a.tif"] = data, "one"
    store = ZarrTiffStore(f"{server.url}/a.tif")
    server.requests.clear()
    server.ranges.clear()
    return store


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [429, 503])
def test_a_throttling_server_is_retried_after_the_given_time(
    opened, server, image, retry, way, status
):
    faults = iter([f"status {status}"])
    server.headers = {"Retry-After": "7"}
    server.pick_fault = lambda: next(faults, None)
    np.testing.assert_array_equal(WAYS[way](opened), image)
    assert retry.asked == [7.0]


def test_the_time_to_try_again_may_be_a_date(opened, server, image, retry):
    moments = [time.time() + 3600, time.time() - 3600]
    server.headers = {"Retry-After": ""}

    def throttle() -> str | None:
        if not moments:
            return None
        server.headers["Retry-After"] = email.utils.formatdate(moments.pop(0), usegmt=True)
        return "status 429"

    server.pick_fault = throttle
    np.testing.assert_array_equal(opened[...], image)
    assert [round(asked, -2) for asked in retry.asked] == [3600, 0]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_never_stops_throttling_is_a_typed_error(opened, server, retry, way):
    server.pick_fault = lambda: "status 429"
    assert expect_error(way, opened, "429").hint == "Tried 4 times."
    assert set(Counter(server.ranges).values()) == {4}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_permanent_errors_are_not_retried(opened, server, retry, way, status):
    server.pick_fault = lambda: f"status {status}"
    expect_error(way, opened, str(status))
    assert set(Counter(server.ranges).values()) == {1}
    assert not retry.asked


def test_a_server_that_drips_is_given_up(opened, server, monkeypatch):
    """Each byte comes in time; all of them would take the time of a day."""
    monkeypatch.setattr(http, "RETRY", http.Retry(total_s=0.1))
    server.pick_fault = lambda: "drip"
    server.n_bytes = 0
    with pytest.raises(SourceError, match="too long"):
        opened[...]
    assert len(server.requests) <= 1
    assert server.n_bytes < 1000


def test_redirects_that_never_end(opened, server, retry):
    server.redirects["/a.tif"] = "/a.tif"
    with pytest.raises(SourceError):
        opened[...]
    assert len(server.requests) <= 50


@pytest.mark.parametrize("way", WAYS)
def test_an_object_that_changes_between_answers(opened, server, other, way):
    opened[0, 0]
    server.files["/a.tif"], server.etags["/a.tif"] = other, "two"
    with pytest.raises(StaleSource):
        WAYS[way](opened)


def test_a_host_that_does_not_exist(retry):
    with pytest.raises(TiffrefError) as caught:
        tiffref.scan("http://no-such-host.invalid/a.tif")
    assert isinstance(caught.value, SourceError)
    assert caught.value.url == "http://no-such-host.invalid/a.tif"
    assert len(retry.asked) < retry.n_tries


def test_a_large_file_of_a_server_without_ranges_is_not_fetched(opened, server, data, retry):
    server.files["/a.tif"] = data + bytes(64 << 20)
    server.pick_fault = lambda: "whole file"
    server.n_bytes = 0
    with pytest.raises(SourceError):
        ZarrTiffStore(f"{server.url}/a.tif")[...]
    assert server.n_bytes < 32 << 20
