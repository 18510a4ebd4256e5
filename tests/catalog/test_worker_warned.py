"""What a scan warns of goes into the row of its file."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tiffref.catalog.worker import noted
from tiffref.errors import MetadataWarning, TruncationWarning


def test_warnings_of_our_own_are_noted() -> None:
    with pytest.warns(UserWarning, match="of others"), noted() as found:
        warnings.warn(MetadataWarning("odd"), stacklevel=1)
        warnings.warn(TruncationWarning("short"), stacklevel=1)
        warnings.warn("of others", stacklevel=1)
    assert found == ["odd", "short"]


def test_threads_note_their_own() -> None:
    both = Barrier(2)

    def work(name: str) -> list[str]:
        with noted() as found:
            both.wait()
            warnings.warn(MetadataWarning(name), stacklevel=1)
            both.wait()
        return found

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, "ab")) == [["a"], ["b"]]
