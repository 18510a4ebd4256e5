"""Catalogs that are written to object stores: resumed, built twice at once, as on a disk."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from archive import contents, write_image

import tiffref
import tiffref.catalog as catalog
from tiffref.catalog.builder import BuildProgress
from tiffref.catalog.storage import RemoteFolder
from tiffref.errors import CatalogError, SourceError

pytest.importorskip("pyarrow")

Place = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def bucket(s3_options: dict[str, Any]) -> Place:
    fs = pytest.importorskip("s3fs").S3FileSystem(**s3_options)
    fs.call_s3("create_bucket", Bucket="archive")
    return "s3://archive", s3_options


on_both = pytest.mark.parametrize("place", ["memory", "s3"], indirect=True)
"""The others run in memory: what they try is the same on all file systems."""


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if getattr(request, "param", "memory") == "s3":
        url, options = request.getfixturevalue("bucket")
    else:
        url, options = "memory://", {}
    url = f"{url}/{secrets.token_hex(4)}/c"
    yield url, options
    fs, path = fsspec.url_to_fs(url, **options)
    fs.rm(path, recursive=True)


def manifest_of(path: Path) -> Any:
    return tiffref.scan(path).group["image"].manifest


def remote_contents(place: Place, with_state: bool = False) -> dict[str, bytes]:
    fs, root = fsspec.url_to_fs(place[0], **place[1])
    fs.invalidate_cache()
    names = [name for name in fs.find(root) if with_state or "/.tiffref/" not in name]
    return {name[len(root) + 1 :]: fs.cat_file(name) for name in names}


@on_both
def test_remote_output_equals_local_output(archive: Path, tmp_path: Path, place: Place) -> None:
    options = {
        "stac": True, "stack": True,
        "stack_options": {"mosaic": True, "allow_holes": True},
    }  # fmt: skip
    catalog.build(archive, tmp_path / "c", **options)
    summary = catalog.build(archive, place[0], output_options=place[1], **options)
    assert (summary.ok, summary.combined, summary.output) == (12, 1, place[0])
    assert remote_contents(place) == contents(tmp_path / "c")
    state = [name for name in remote_contents(place, True) if name.startswith(".tiffref/")]
    assert len(state) == 4  # plan, products, seal, one part of the journal
    found = catalog.open(*place).references(str(archive / "tile_003.tif"))
    assert found.group["image"].manifest == manifest_of(archive / "tile_003.tif")


def test_parquet_references(archive: Path, place: Place) -> None:
    options = {"format": "parquet", "output_options": place[1]}
    catalog.build(archive, place[0], **options)
    found = catalog.open(*place).references(str(archive / "tile_003.tif"))
    assert found.group["image"].manifest == manifest_of(archive / "tile_003.tif")
    # a record that an earlier, larger image has left is taken away
    fs, root = fsspec.url_to_fs(place[0], **place[1])
    stray = f"{root}/references/tile_003.tif.parq/image/refs.1.parq"
    fs.pipe_file(stray, b"of an image that was larger")
    assert catalog.build(archive, place[0], **options).scanned == 1
    assert catalog.build(archive, place[0], **options).scanned == 0
    fs.invalidate_cache()
    assert not fs.exists(stray)


def test_a_build_that_ended_early_goes_on(
    archive: Path, tmp_path: Path, place: Place, monkeypatch
) -> None:
    put, done = RemoteFolder.put, []

    def fail(self: RemoteFolder, name: str, data: bytes) -> None:
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(name)
        put(self, name, data)

    monkeypatch.setattr(RemoteFolder, "put", fail)
    with pytest.raises(KeyboardInterrupt):
        catalog.build(archive, place[0], output_options=place[1], executor="serial")
    monkeypatch.undo()
    assert "catalog.parquet" not in remote_contents(place)
    summary = catalog.build(archive, place[0], output_options=place[1])
    assert summary.ok == 12 and 0 < summary.skipped < 12
    catalog.build(archive, tmp_path / "c")
    assert remote_contents(place) == contents(tmp_path / "c")


@on_both
def test_update(archive: Path, tmp_path: Path, place: Place) -> None:
    folder = tmp_path / "in"
    shutil.copytree(archive, folder)
    options = {"output_options": place[1], "update": True}
    catalog.build(folder, place[0], **options)
    write_image(folder / "tile_003.tif", value=99)
    (folder / "tile_004.tif").unlink()
    (folder / "tile_005.tif").write_bytes(b"overwritten")
    summary = catalog.build(folder, place[0], **options)
    assert (summary.ok, summary.failed, summary.deleted) == (10, 1, 1)
    names = [name for name in remote_contents(place) if name.startswith("references/")]
    assert len(names) == 10
    fs, root = fsspec.url_to_fs(place[0], **place[1])
    fs.pipe_file(f"{root}/references/tile_001.tif.json", b"cut")
    assert catalog.build(folder, place[0], output_options=place[1]).scanned == 2


@on_both
def test_two_builds_at_once_lose_no_data(archive: Path, tmp_path: Path, place: Place) -> None:
    class Between(BuildProgress):
        """Runs another build of the same catalog when the first has written half of it."""

        def update(self, counts: Any) -> None:
            if counts.n_done == 6:
                catalog.build(archive, place[0], output_options=place[1])

    options = {"output_options": place[1], "executor": "serial"}
    summary = catalog.build(archive, place[0], progress=Between(), **options)
    assert summary.ok == 12
    catalog.build(archive, tmp_path / "c")
    assert remote_contents(place) == contents(tmp_path / "c")
    assert catalog.build(archive, place[0], output_options=place[1]).skipped == 12
    parts = [name for name in remote_contents(place, True) if "/journal/" in name]
    assert len(parts) == 1


@on_both
def test_unwritable_outputs_are_errors(archive: Path, tmp_path: Path, place: Place) -> None:
    fs, root = fsspec.url_to_fs(place[0], **place[1])
    fs.pipe_file(f"{root}/thesis.txt", b"years of work")
    with pytest.raises(CatalogError, match=r"no catalog, got .*thesis"):
        catalog.build(archive, place[0], output_options=place[1])
    if place[0].startswith("s3"):
        with pytest.raises(CatalogError, match="Create the bucket"):
            catalog.build(archive, "s3://nowhere/c", output_options=place[1])
    with pytest.raises(SourceError, match="no file system is known for nothing://"):
        catalog.build(archive, "nothing://x/c")


def test_workers_that_write_elsewhere(archive: Path) -> None:
    # each process has a memory of its own
    with pytest.raises(CatalogError, match="workers write into another folder"):
        catalog.build(archive, "memory://elsewhere/c", executor="processes", workers=1)


def test_errors_of_clients() -> None:
    exceptions = pytest.importorskip("botocore.exceptions")
    from tiffref.io.clients import client_errors

    assert issubclass(exceptions.NoCredentialsError, client_errors())
    assert not issubclass(KeyError, client_errors())
