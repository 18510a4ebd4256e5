"""Files of parquet references, parsed when one of their chunks is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from groups import assert_same, from_parquet, make_flat

from tiffref.errors import InvalidReferences
from tiffref.formats import parquet
from tiffref.formats.parquet import write_parquet
from tiffref.model.manifest import MISSING, Manifest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that grows by the columns asked for with each reading of a file."""
    asked: list[list[str]] = []
    read = parquet.Record.read

    def counting(self: parquet.Record, file: object, columns: list[str]) -> object:
        asked.append(list(columns))
        return read(self, file, columns)

    monkeypatch.setattr(parquet.Record, "read", counting)
    return asked


def test_one_chunk_needs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_flat(20, 20)
    write_parquet(group, tmp_path / "refs.parquet", record_size=50)
    asked = count_reads(monkeypatch)
    manifest: Manifest = from_parquet(tmp_path / "refs.parquet")["image"].manifest
    # a footer says that there is one address only, so that no column is read
    assert asked == []
    assert manifest.sources == group["image"].manifest.sources
    assert manifest.at(77) == group["image"].manifest.at(77)
    assert len(asked) == 1
    assert manifest == group["image"].manifest
    assert len(asked) == 8


def test_several_addresses_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_flat(20, 20, 7)
    write_parquet(group, tmp_path / "refs.parquet", record_size=200)
    asked = count_reads(monkeypatch)
    manifest = from_parquet(tmp_path / "refs.parquet")["image"].manifest
    assert asked == [["path"], ["path"]]
    assert manifest.sources == group["image"].manifest.sources


def test_what_is_read_later_is_what_was_opened(tmp_path: Path) -> None:
    group = make_flat(20, 20)
    write_parquet(group, tmp_path / "refs.parquet", record_size=50)
    again = from_parquet(tmp_path / "refs.parquet")
    shutil.rmtree(tmp_path / "refs.parquet")
    assert_same(group, again)


def rewrite(folder: Path, change: object, **options: object) -> Path:
    """Write the one file of an image of 4 chunks anew, as another writer might."""
    write_parquet(make_flat(2, 2), folder)
    path = folder / "image" / "refs.0.parq"
    table = pq.read_table(path)
    pq.write_table(change(table), path, **options)  # type: ignore[operator]
    return folder


@pytest.mark.parametrize(
    "options", [{"write_statistics": False}, {"row_group_size": 1}, {"use_dictionary": False}]
)
def test_files_of_other_writers(tmp_path: Path, options: dict) -> None:
    def plain(table: pa.Table) -> pa.Table:
        return table.set_column(0, "path", table["path"].cast(pa.string()))

    folder = rewrite(tmp_path / "refs.parquet", plain, **options)
    assert_same(make_flat(2, 2), from_parquet(folder))


def test_rows_that_are_not_there_are_missing_chunks(tmp_path: Path) -> None:
    folder = rewrite(tmp_path / "refs.parquet", lambda table: table.slice(0, 3))
    manifest = from_parquet(folder)["image"].manifest
    assert manifest.source.tolist() == [0, 0, 0, MISSING]
    np.testing.assert_array_equal(manifest.length[:3], make_flat(2, 2)["image"].manifest.length[:3])


def test_more_rows_than_chunks_are_left_out(tmp_path: Path) -> None:
    folder = rewrite(tmp_path / "refs.parquet", lambda table: pa.concat_tables([table, table]))
    assert_same(make_flat(2, 2), from_parquet(folder))


def test_statistics_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(make_flat(2, 2), tmp_path / "refs.parquet")
    monkeypatch.setattr(parquet, "_only_address", lambda file: "/another/file.tif")
    manifest = from_parquet(tmp_path / "refs.parquet")["image"].manifest
    with pytest.raises(InvalidReferences, match="statistics of the file leave out"):
        manifest.at(0)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("offset", ["a", "b", "c", "d"]),
        ("offset", [0, 8, -8, 24]),
        ("offset", [0.0, 8.0, float("nan"), 24.0]),
        ("offset", [0, 8, 1 << 63, 24]),
        ("size", [8, 8, -8, 8]),
        ("size", [8.0, 8.0, 8.5, 8.0]),
        ("size", [8, 8, 0, 8]),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, name: str, numbers: list) -> None:
    def change(table: pa.Table) -> pa.Table:
        kind = pa.uint64() if max(numbers) == 1 << 63 else None
        return table.set_column(table.column_names.index(name), name, pa.array(numbers, kind))

    manifest = from_parquet(rewrite(tmp_path / "refs.parquet", change))["image"].manifest
    with pytest.raises(InvalidReferences, match=r"refs\.0\.parq: not parquet references"):
        manifest.load()
