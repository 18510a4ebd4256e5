"""What a store is made from, and what it shows of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from store_images import STACK, TILES

import tiffref
import zarr
from tiffref.errors import (
    InvalidReferences,
    SelectionError,
    SourceError,
    UnsupportedTiff,
)
from tiffref.model.array import Array, Group
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore


@pytest.fixture
def sources(stack: Path) -> Iterator[dict[str, Any]]:
    """Return everything that a store of the stack can be made from."""
    fsspec.filesystem("memory").pipe_file("/stack.tif", stack.read_bytes())
    document = tiffref.scan(stack, series=0).to_kerchunk()
    json_path = stack.with_suffix(".json")
    json_path.write_text(json.dumps(document))
    parquet, folder = stack.with_suffix(".parq"), stack.with_name("refs")
    for path in (parquet, folder):
        tiffref.scan(stack, series=0).to_parquet(path)
    with tifffile.TiffFile(stack) as tif, stack.open("rb") as file:
        yield {
            "str": str(stack),
            "path": stack,
            "file url": f"file://{stack}",
            "url": "memory://stack.tif",
            "open file": fsspec.open("memory://stack.tif"),
            "file": file,
            "bytes": io.BytesIO(stack.read_bytes()),
            "TiffFile": tif,
            "series": tif.series[0],
            "references": tiffref.scan(stack, series=0),
            "document": document,
            "json": json_path,
            "json path": str(json_path),
            "json url": f"file://{json_path}",
            "parquet": parquet,
            "folder": str(folder),
        }


@pytest.mark.parametrize(
    "kind", ["str", "path", "file url", "url", "open file", "file", "bytes", "TiffFile", "series",
             "references", "document", "json", "json path", "json url", "parquet", "folder"]
)  # fmt: skip
def test_everything_a_store_is_made_from(sources: dict[str, Any], kind: str) -> None:
    with ZarrTiffStore(sources[kind]) as store:
        assert (store.shape, store.dtype, store.ndim) == (STACK.shape, STACK.dtype, 3)
        assert store.mode == "r"
        assert store.path
        assert store.files
        np.testing.assert_array_equal(store[:], STACK)
        np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], STACK)


def test_page(stack: Path) -> None:
    with tifffile.TiffFile(stack) as tif:
        store = ZarrTiffStore(tif.pages[3])
    np.testing.assert_array_equal(store[:], STACK[3])


@pytest.mark.parametrize("key", [0, -1, slice(1, 4, 2), [4, 0]], ids=str)
def test_key_chooses_pages(stack: Path, key: Any) -> None:
    np.testing.assert_array_equal(ZarrTiffStore(stack, key=key)[:], STACK[key])


def test_series_chooses_an_image(tmp_path: Path) -> None:
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK[0], **TILES)
        writer.write(STACK[1, :50], **TILES)
    np.testing.assert_array_equal(ZarrTiffStore(path)[:], STACK[0])
    np.testing.assert_array_equal(ZarrTiffStore(path, series=1)[:], STACK[1, :50])
    document = tiffref.scan(path).to_kerchunk()
    np.testing.assert_array_equal(ZarrTiffStore(document)[:], STACK[0])
    np.testing.assert_array_equal(ZarrTiffStore(document, series=1)[:], STACK[1, :50])
    for source in (path, document):
        with pytest.raises(SelectionError, match="series"):
            ZarrTiffStore(source, series=2)


def test_documents_of_others() -> None:
    array = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": ">i2", "compressor": None,
             "filters": None, "fill_value": 7, "order": "C"}  # fmt: skip
    document = {".zarray": json.dumps(array), "1": "base64:AAEAAg=="}
    store = ZarrTiffStore(document)
    assert store[:].tolist() == [7, 7, 1, 2]
    assert zarr.open_array(store, mode="r")[:].tolist() == [7, 7, 1, 2]
    assert ZarrTiffStore(document, fillvalue=5)[:].tolist() == [5, 5, 1, 2]
    for options in ({"series": 1}, {"level": 0}):
        with pytest.raises(InvalidReferences, match="series and levels"):
            ZarrTiffStore(document, **options)
    with pytest.raises(SelectionError, match="pages"):
        ZarrTiffStore(document, key=0)


def test_refused_level_is_not_replaced_by_the_next() -> None:
    array = Array.from_values(np.zeros(3, "u1"), ("x",))
    levels = [{"refused": "UnsupportedTiff: too strange"}, {"path": "image_1"}]
    references = References(Group({"image_1": array}), ({"index": 0, "levels": levels},))
    with pytest.raises(UnsupportedTiff, match="too strange"):
        ZarrTiffStore(references)


@pytest.mark.parametrize("what", ["missing.tif", "missing.json", "memory://missing.tif"])
def test_sources_that_are_not_there(tmp_path: Path, what: str) -> None:
    with pytest.raises(SourceError):
        ZarrTiffStore(what if "://" in what else tmp_path / what)


def test_document_of_a_pyramid(pyramid: Path) -> None:
    document = tiffref.scan(pyramid).to_kerchunk()
    np.testing.assert_array_equal(ZarrTiffStore(document)[:], STACK[0])
    np.testing.assert_array_equal(ZarrTiffStore(document, level=1)[:], STACK[0, ::2, ::2])
    with pytest.raises(SelectionError, match="level"):
        ZarrTiffStore(document, level=3)


def test_arguments_of_the_scan_and_others(tmp_path: Path) -> None:
    image = np.arange(96, dtype="u1").reshape(4, 8, 3)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    path = tmp_path / "a.tif"
    document = tiffref.scan(path).to_kerchunk()
    for source in (path, document):
        store = ZarrTiffStore(source, axes="bands-first", sidecars=False, read_only=True)
        np.testing.assert_array_equal(store[...], np.moveaxis(image, 2, 0))
        with pytest.raises(TypeError, match="'axis'"):
            ZarrTiffStore(source, axis="bands-first")
        with pytest.raises(ValueError, match="read_only"):
            ZarrTiffStore(source, read_only=False)
    with pytest.raises(TypeError, match="over references has no argument 'strict'"):
        ZarrTiffStore(document, strict=True)
