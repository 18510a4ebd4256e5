"""Builds: what is written, what resumes, what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from archive import contents, strays, write_archive, write_image, write_set

import tiffref
import tiffref.catalog as catalog
from tiffref.errors import (
    CatalogError,
    MetadataWarning,
    MissingExtra,
    SelectionError,
    SourceError,
    UnknownArgument,
)

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("format", ["json", "parquet"])
def test_references_are_those_of_a_scan_of_each_file(archive: Path, tmp_path: Path, format) -> None:
    summary = catalog.build(archive, tmp_path / "c", format=format)
    assert (summary.ok, summary.failed, summary.scanned) == (12, 0, 12)
    found = catalog.open(tmp_path / "c")
    for row in found.table.select(["url", "references"]).to_pylist():
        alone = tiffref.scan(row["url"], strict=True)
        path = tmp_path / "c" / row["references"]
        if format == "json":
            alone.write_fsspec(tmp_path / "alone.json")
            assert path.read_bytes() == (tmp_path / "alone.json").read_bytes()
        else:
            read = tiffref.References.from_parquet(path)
            assert read.group["image"].manifest == alone.group["image"].manifest
    assert not strays(tmp_path / "c")


def test_a_tag_that_differs_is_in_the_references(tmp_path: Path) -> None:
    for n in range(9):
        made = f"2022:05:0{n + 1} 10:00:00"
        write_image(tmp_path / "a" / f"{n}.tif", value=n, datetime=made, software=f"s{n // 7}")
    catalog.build(tmp_path / "a", tmp_path / "c")
    found = catalog.open(tmp_path / "c")
    times = [str(time)[:10] for time in found.table["created"].to_pylist()]
    assert times == [f"2022-05-0{n + 1}" for n in range(9)]
    for path in sorted((tmp_path / "a").iterdir()):
        tiffref.scan(path, strict=True).write_fsspec(tmp_path / "alone.json")
        written = tmp_path / "c" / "references" / f"{path.name}.json"
        assert written.read_bytes() == (tmp_path / "alone.json").read_bytes()


def test_the_index_describes_each_file(archive: Path, tmp_path: Path) -> None:
    catalog.build(archive, tmp_path / "c")
    row = catalog.open(tmp_path / "c").table.slice(6, 1).to_pylist()[0]
    path = archive / "tile_006.tif"
    assert row["url"] == str(path)
    assert (row["shape"], row["dims"], row["dtype"]) == ([96, 96], ["y", "x"], "uint16")
    assert (row["n_levels"], row["n_chunks"], row["chunks"]) == (2, 5, [48, 48])
    assert row["size"] == path.stat().st_size and row["mtime"] == path.stat().st_mtime
    assert row["crs"] == "EPSG:32633"
    assert row["bounds"] == [300960.0, 4998080.0, 301920.0, 4999040.0]
    with tifffile.TiffFile(path) as tif:
        lengths = [n for level in tif.series[0].levels for n in level.pages[0].databytecounts]
    assert (row["stored_bytes"], row["largest_chunk"]) == (sum(lengths), max(lengths))


def test_failed_files_are_rows(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(archive, folder)
    (folder / "bad.tif").write_bytes(b"no TIFF at all")
    (folder / "list.txt").write_text(
        "\n".join(["# a comment", "tile_001.tif", "bad.tif", "not_there.tif", ""])
    )
    summary = catalog.build(folder / "list.txt", tmp_path / "c", report=tmp_path / "r.jsonl")
    assert (summary.ok, summary.failed, summary.is_complete) == (1, 2, False)
    assert summary.errors == {"MalformedTiff": 1, "MissingSource": 1}
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines[:-1]] == ["failed", "failed", "ok"]
    assert "not_there.tif" in lines[1]["error"] and lines[-1]["summary"]["failed"] == 2
    with pytest.raises(CatalogError, match="first file that cannot be scanned"):
        catalog.build(folder / "list.txt", tmp_path / "d", fail_fast=True)


def test_a_failed_file_is_tried_again(archive: Path, tmp_path: Path) -> None:
    files = [archive / "tile_001.tif", tmp_path / "late.tif"]
    assert catalog.build(files, tmp_path / "c").failed == 1
    shutil.copy(archive / "tile_002.tif", tmp_path / "late.tif")
    summary = catalog.build(files, tmp_path / "c")
    assert (summary.ok, summary.failed, summary.scanned, summary.skipped) == (2, 0, 1, 1)


def test_files_of_one_name_stay_apart(archive: Path, tmp_path: Path) -> None:
    for name in ("a/x.tif", "b/x.tif", "b/x.tiff"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(archive / "tile_001.tif", tmp_path / "in" / name)
    catalog.build(tmp_path / "in", tmp_path / "c", url_prefix="s3://bucket/all")
    names = sorted(p.relative_to(tmp_path / "c").as_posix() for p in tmp_path.glob("c/**/*.json"))
    assert [name for name in names if name.startswith("ref")] == [
        "references/a/x.tif.json", "references/b/x.tif.json", "references/b/x.tiff.json",
    ]  # fmt: skip
    document = json.loads((tmp_path / "c/references/b/x.tif.json").read_text())
    assert document["refs"]["image/0.0"][0] == "s3://bucket/all/b/x.tif"


def test_update_scans_changed_files_and_marks_missing_ones(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(archive, folder)
    catalog.build(folder, tmp_path / "c")
    write_image(folder / "tile_003.tif", value=99)
    (folder / "tile_004.tif").unlink()
    write_image(folder / "tile_900.tif", value=5)
    summary = catalog.build(folder, tmp_path / "c", update=True)
    assert (summary.ok, summary.deleted, summary.unchanged, summary.scanned) == (12, 1, 10, 2)
    found = catalog.open(tmp_path / "c")
    assert [Path(url).name for url in found.query(status="deleted").urls] == ["tile_004.tif"]
    assert not (tmp_path / "c/references/tile_004.tif.json").exists()
    read = found.references(str(folder / "tile_003.tif")).group["image"].manifest
    assert read == tiffref.scan(folder / "tile_003.tif").group["image"].manifest


@pytest.mark.parametrize("ending", [".tif.aux.xml", ".tif.ovr", ".tfw", "_RPC.TXT"])
def test_update_scans_files_whose_sidecar_files_changed(tmp_path: Path, ending: str) -> None:
    folder, beside = tmp_path / "in", tmp_path / f"in/a{ending}"
    write_image(folder / "a.tif")
    half = np.zeros((48, 48), np.uint16)
    tifffile.imwrite(tmp_path / "half.tif", half, subfiletype=1, metadata=None)

    def n_scanned(**options: Any) -> int:
        return catalog.build(folder, tmp_path / "c", update=True, **options).scanned

    assert [n_scanned(), n_scanned()] == [1, 0]
    beside.write_bytes(b"1 0 0 -1 7 8")
    assert [n_scanned(), n_scanned()] == [1, 0]
    (tmp_path / "half.tif").rename(beside)
    assert [n_scanned(), n_scanned()] == [1, 0]
    beside.unlink()
    assert [n_scanned(), n_scanned()] == [1, 0]
    without = {"scan_options": {"sidecars": False}}
    catalog.build(folder, tmp_path / "d", **without)
    beside.write_bytes(b"1 0 0 -1 7 8")
    assert catalog.build(folder, tmp_path / "d", update=True, **without).scanned == 0


@pytest.mark.parametrize("options", [{}, {"sidecars": False}])
def test_update_scans_files_whose_set_has_changed(tmp_path: Path, options: dict) -> None:
    """Each file of an OME-TIFF set leads to all of them."""
    (tmp_path / "in").mkdir()
    write_set(tmp_path / "in", (16, 16))

    def n_scanned() -> int:
        how = {"update": True, "stack": True, "scan_options": options}
        return catalog.build(tmp_path / "in/0.ome.tif", tmp_path / "c", **how).scanned

    assert [n_scanned(), n_scanned()] == [1, 0]
    os.utime(tmp_path / "in/1.ome.tif", (1, 1))
    assert [n_scanned(), n_scanned()] == [1, 0]


def test_update_of_a_list_with_missing_files(archive: Path, tmp_path: Path) -> None:
    for name in ("tile_001.tif", "tile_002.tif", "tile_003.tif"):
        shutil.copy(archive / name, tmp_path / name)
    (tmp_path / "list.txt").write_text("tile_001.tif\ntile_002.tif\ntile_003.tif\nnever.tif\n")
    catalog.build(tmp_path / "list.txt", tmp_path / "c")
    (tmp_path / "tile_001.tif").unlink()
    (tmp_path / "tile_002.tif").write_bytes(b"overwritten")
    summary = catalog.build(tmp_path / "list.txt", tmp_path / "c", update=True)
    assert (summary.ok, summary.failed, summary.deleted) == (1, 2, 1)
    names = [path.name for path in (tmp_path / "c/references").iterdir()]
    assert names == ["tile_003.tif.json"]


def test_damaged_references_are_rebuilt(archive: Path, tmp_path: Path) -> None:
    catalog.build(archive, tmp_path / "c")
    before = contents(tmp_path / "c")
    (tmp_path / "c/references/tile_001.tif.json").write_bytes(b"")
    (tmp_path / "c/references/tile_002.tif.json").unlink()
    journal = tmp_path / "c/.tiffref/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])  # a line torn by a kill
    summary = catalog.build(archive, tmp_path / "c")
    assert summary.scanned == 3
    assert contents(tmp_path / "c") == before
    assert catalog.build(archive, tmp_path / "c").scanned == 0  # nothing follows the torn line


@pytest.mark.parametrize("format", ["json", "parquet"])
def test_files_with_long_names(tmp_path: Path, format: str) -> None:
    for n in range(2):
        try:
            write_image(tmp_path / "in" / f"{n}{'x' * 250}.tif", value=n)
        except OSError:
            pytest.skip("the file system takes no such names")
    options: dict[str, Any] = {"stack": True, "stack_format": format}
    summary = catalog.build(tmp_path / "in", tmp_path / "c", format=format, **options)
    assert (summary.ok, summary.combined) == (2, 1)


def test_every_executor_builds_the_same(archive: Path, tmp_path: Path) -> None:
    catalog.build(archive, tmp_path / "serial", stac=False)
    before = contents(tmp_path / "serial")
    with ThreadPoolExecutor(2) as own:
        for name, options in {
            "threads": {"executor": "threads", "workers": 3},
            "own": {"executor": own},
            "processes": {"executor": "processes", "workers": 2},
        }.items():
            catalog.build(archive, tmp_path / name, **options)
            assert contents(tmp_path / name) == before, name


def test_dask_workers_build_the_same(archive: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    catalog.build(archive, tmp_path / "serial")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", processes=True
    ) as cluster:
        catalog.build(archive, tmp_path / "dask", scheduler=cluster.scheduler_address)
        with distributed.Client(cluster) as client:
            catalog.build(archive, tmp_path / "client", executor=client)
    assert contents(tmp_path / "dask") == contents(tmp_path / "serial")
    assert contents(tmp_path / "client") == contents(tmp_path / "serial")


def test_an_unreachable_scheduler(archive: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("distributed")
    from tiffref.catalog import executors

    monkeypatch.setattr(executors, "_SCHEDULER_TIMEOUT_S", 0.3)
    with pytest.raises(CatalogError, match="Dask scheduler does not answer"):
        catalog.build(archive, tmp_path / "c", scheduler="tcp://127.0.0.1:9")


class _Killed(ThreadPoolExecutor):
    """An executor whose workers die of one file."""

    def submit(self, fn, jobs):
        from concurrent.futures import BrokenExecutor

        future: Future = Future()
        if any("tile_005" in job.url for job in jobs):
            future.set_exception(BrokenExecutor("a worker died"))
        else:
            future.set_result(fn(jobs))
        return future


def test_a_file_that_kills_its_worker_is_a_row(archive: Path, tmp_path: Path) -> None:
    with _Killed(1) as executor:
        summary = catalog.build(archive, tmp_path / "c", executor=executor)
    assert (summary.ok, summary.failed) == (11, 1)
    assert summary.failures[0][0].endswith("tile_005.tif")


def test_a_second_build_is_refused_or_waits(archive: Path, tmp_path: Path) -> None:
    from tiffref.catalog.storage import LocalFolder

    folder = LocalFolder(str(tmp_path / "c"))
    with folder.claim(wait=False):
        with pytest.raises(CatalogError, match=f"another build .* got process {os.getpid()}"):
            catalog.build(archive, tmp_path / "c")
        waiting = threading.Thread(
            target=catalog.build, args=(archive, tmp_path / "c"), kwargs={"wait_for_lock": True}
        )
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join()
    assert catalog.build(archive, tmp_path / "c").skipped == 12


def test_a_folder_of_something_else_is_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CatalogError, match="no catalog"):
        catalog.build(archive, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="another folder"):
        catalog.build(archive, tmp_path / "file")


def test_other_options_are_refused(archive: Path, tmp_path: Path) -> None:
    catalog.build(archive, tmp_path / "c")
    with pytest.raises(CatalogError, match="another format, got parquet, expected json"):
        catalog.build(archive, tmp_path / "c", format="parquet")
    with pytest.raises(SelectionError, match="unknown format"):
        catalog.build(archive, tmp_path / "d", format="xml")
    with pytest.raises(SelectionError, match="number of workers"):
        catalog.build(archive, tmp_path / "d", workers=0)
    with pytest.raises(SelectionError, match="unknown executor"):
        catalog.build(archive, tmp_path / "d", executor="magic")
    assert not (tmp_path / "d").exists()  # nothing is made before it is refused
    with pytest.raises(SourceError, match="no such folder"):
        catalog.build(f"{tmp_path}/nowhere/", tmp_path / "d")
    with pytest.raises(SourceError, match="no files"):
        catalog.build(tmp_path / "c", tmp_path / "d")


@pytest.mark.parametrize("format", ["json", "parquet"])
def test_a_full_disk_stops_the_build_and_loses_nothing(
    archive: Path, tmp_path: Path, monkeypatch, format: str
) -> None:
    import pyarrow.parquet

    written = []

    def full(write):
        def fill(*args, **kwargs):
            written.append(1)
            if len(written) > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*args, **kwargs)

        return fill

    monkeypatch.setattr(Path, "write_bytes", full(Path.write_bytes))
    monkeypatch.setattr(pyarrow.parquet, "write_table", full(pyarrow.parquet.write_table))
    with pytest.raises(CatalogError, match=r"No space left on device\. Free some disk space"):
        catalog.build(archive, tmp_path / "c", format=format)
    monkeypatch.undo()
    assert not strays(tmp_path / "c")
    for path in tmp_path.glob("c/references/*.json"):
        json.loads(path.read_text())
    assert catalog.build(archive, tmp_path / "c", format=format).ok == 12
    catalog.build(archive, tmp_path / "d", format=format)
    assert contents(tmp_path / "c") == contents(tmp_path / "d")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(archive: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CatalogError, match="write permission"):
        catalog.build(archive, tmp_path / "c")


def test_missing_pyarrow_names_the_extra(archive: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"tiffref\[catalog\]"):
        catalog.build(archive, tmp_path / "c")


def test_invalid_metadata_is_recorded(tmp_path: Path) -> None:
    tags = [(34735, "H", 8, (1, 1, 0, 9, 1024, 0, 1, 1), True)]
    data = np.zeros((64, 64), np.uint8)
    for n in range(2):
        tifffile.imwrite(tmp_path / f"{n}.tif", data, extratags=tags, metadata=None)
    summary = catalog.build(tmp_path, tmp_path.parent / "c")
    assert summary.warned == 2
    table = catalog.open(tmp_path.parent / "c").table
    assert all("GeoKey" in row[0] for row in table["warnings"].to_pylist())


def test_equal_archives_give_equal_catalogs(tmp_path: Path) -> None:
    write_archive(tmp_path / "in", 7)
    for name in ("1", "2"):
        catalog.build(
            tmp_path / "in", tmp_path / name / "c", stac=True, stack=True,
            stack_options={"mosaic": True, "allow_holes": True},
        )  # fmt: skip
    assert contents(tmp_path / "1/c") == contents(tmp_path / "2/c")
    # what is in place is not made again
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "1/c/combined").rglob("*")}
    catalog.build(tmp_path / "in", tmp_path / "1/c", stack=True,
                  stack_options={"mosaic": True, "allow_holes": True})  # fmt: skip
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_other_inputs(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    a, b = write_archive(tmp_path / "in", 2)
    (tmp_path / "list.csv").write_text(f"path,site\n{a},north\n{b},south\n")
    pyarrow.parquet.write_table(
        pa.table({"url": [str(a), str(b)], "site": ["north", "south"]}), tmp_path / "list.parquet"
    )
    items = [
        {"type": "Feature", "properties": {"datetime": f"2022-05-0{n}T00:00:00Z"},
         "assets": {"red": {"href": str(path), "type": "image/tiff"},
                    "preview": {"href": str(path), "type": "image/png"}}}
        for n, path in enumerate((a, b), 1)
    ]  # fmt: skip
    (tmp_path / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": items})
    )
    for n, name in enumerate(("list.csv", "list.parquet")):
        catalog.build(tmp_path / name, tmp_path / f"c{n}")
        table = catalog.open(tmp_path / f"c{n}").table
        assert table["site"].to_pylist() == ["north", "south"]
    catalog.build(tmp_path / "items.json", tmp_path / "c3", assets=["red"])
    assert len(catalog.open(tmp_path / "c3").query(time="2022-05-02")) == 1
    catalog.build([tmp_path / "in", str(a)], tmp_path / "c4")
    assert len(catalog.open(tmp_path / "c4")) == 2


def test_files_of_other_file_systems(tmp_path: Path) -> None:
    import fsspec

    (path,) = write_archive(tmp_path / "in", 1)
    memory = fsspec.filesystem("memory")
    for name in ("a/1.tif", "b/1.tif"):
        memory.pipe_file(f"/archive/{name}", path.read_bytes())
    summary = catalog.build("memory://archive/", tmp_path / "c")
    assert summary.ok == 2
    written = json.loads((tmp_path / "c/references/b/1.tif.json").read_text())
    assert written["refs"]["image/0.0"][0].startswith("memory://")
    memory.rm("/archive", recursive=True)


def test_links_to_folders_are_reported(tmp_path: Path) -> None:
    """They are not followed: they may lead around in a circle."""
    for name in ("in", "other"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "image.tif")
    (tmp_path / "in" / "around").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "other")
    with pytest.warns(MetadataWarning, match=r"in/(around|other) .and 1 more.: links to folders"):
        summary = catalog.build(tmp_path / "in", tmp_path / "c")
    assert summary.ok == 1
    assert catalog.build([tmp_path / "in/other"], tmp_path / "d").ok == 1


def test_file_names_that_are_not_text(tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    path = tmp_path / "in" / os.fsdecode(b"image_\xff.tif")
    path.parent.mkdir()
    try:
        write_image(path)
    except OSError:
        pytest.skip("the file system takes no such names")
    options: dict[str, Any] = {"stac": True, "stack": True, "report": tmp_path / "report.jsonl"}
    summary = catalog.build(path.parent, tmp_path / "c", stack_format="json", **options)
    assert (summary.ok, summary.combined, summary.is_complete) == (1, 1, True)
    found = catalog.open(tmp_path / "c")
    assert found.urls == [f"{tmp_path}/in/image_\\udcff.tif"]
    np.testing.assert_array_equal(found.open()["image"], tifffile.imread(path))
    row, _ = map(json.loads, (tmp_path / "report.jsonl").read_text("utf-8").splitlines())
    assert row["url"] == str(path)
    (item,) = (tmp_path / "c/stac/items").iterdir()
    assert json.loads(item.read_text("utf-8"))["assets"]["data"]["href"] == f"file://{path}"
    summary = catalog.build(path.parent, tmp_path / "p", format="parquet")
    assert dict(summary.errors) == {"InvalidReferences": 1}


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"update_": True}, "update"),
        ({"worker": 2}, "workers"),
        ({"scan_options": {"levl": 0}}, "level"),
        ({"stack_options": {"allow_hole": True}}, "allow_holes"),
    ],
)
def test_misspelled_arguments_are_refused_before_the_build(
    archive: Path, tmp_path: Path, options: dict[str, Any], near: str
) -> None:
    with pytest.raises(UnknownArgument, match=f"Did you mean {near}[?]"):
        catalog.build(archive, tmp_path / "c", stack=True, **options)
    assert not (tmp_path / "c").exists()
