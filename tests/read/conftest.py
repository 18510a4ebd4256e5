"""Fixtures of the read engine's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chunked import CountingServer, build_array

from tiffref.model.array import Array
from tiffref.model.manifest import Source


@pytest.fixture
def make_array(tmp_path: Path) -> Callable[..., Array]:
    """Return a function that stores an array in a local file and describes it."""

    def make(values: np.ndarray, chunks: tuple[int, ...], **options: Any) -> Array:
        path = tmp_path / f"data{len(list(tmp_path.iterdir()))}.bin"
        data, array = build_array(values, chunks, Source(str(path)), **options)
        path.write_bytes(data)
        stat = path.stat()
        source = Source(str(path), stat.st_size, stat.st_mtime)
        manifest = array.manifest.with_sources(lambda _: source)
        return replace(array, manifest=manifest)

    return make


@pytest.fixture
def serve(server: CountingServer) -> Callable[..., Array]:
    """Return a function that puts an array on the server and describes it."""

    def make(values: np.ndarray, chunks: tuple[int, ...], **options: Any) -> Array:
        name = f"/data{len(server.files)}.bin"
        url = server.url + name
        data, array = build_array(values, chunks, Source(url), **options)
        server.files[name] = data
        return array

    return make
