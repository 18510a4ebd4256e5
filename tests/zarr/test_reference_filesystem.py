"""A store as the file system that fsspec has for references."""

from __future__ import annotations

from pathlib import Path

import pytest
from fsspec.implementations.reference import ReferenceFileSystem

from tiffref.zarr import ZarrTiffStore


def test_file_system(stack: Path) -> None:
    store = ZarrTiffStore(stack)
    assert isinstance(store.fs, ReferenceFileSystem)
    mapper = store.fs.get_mapper("")
    assert {key: mapper[key] for key in mapper} == {key: store[key] for key in store}
    assert store.fs.info("0.0.0")["size"] == len(store["0.0.0"])
    with pytest.raises(FileNotFoundError):
        store.fs.cat("9.9.9")
