"""Searches of a catalog, and what is found as one dataset."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive import pixels, write_archive, write_image

import tiffref.catalog as catalog
from tiffref.errors import (
    InvalidReferences,
    ManifestMismatch,
    MissingSource,
    SelectionError,
    TiffrefError,
    UnknownArgument,
)

pytest.importorskip("pyarrow")

TOKYO = datetime.timezone(datetime.timedelta(hours=9))


def test_search_by_bbox_time_and_fields(built: Path) -> None:
    opened = catalog.open(built / "c")
    assert len(opened.query(time="2022-05-02")) == 2
    assert len(opened.query(time=("2022-05-02", None))) == 2
    assert len(opened.query(time="2022-05", where={"tile": "A"})) == 2
    assert len(opened.query(time="2021")) == 0
    box = opened.table["bbox"][0].as_py()
    middle = (box["xmin"] + box["xmax"]) / 2
    assert len(opened.query(bounds=(box["xmin"] - 1, 40, middle, 50))) == 2
    assert len(opened.query(bounds=(20, 40, 30, 50))) == 0
    assert len(opened.query(bounds=(170, 40, 13, 50))) == 4  # across the antimeridian
    assert len(opened.query(where={"n_chunks": "5", "dtype": ["uint16", "int8"]})) == 4
    with pytest.raises(SelectionError, match="no such column"):
        opened.query(where={"nothing": 1})
    assert len(opened.query(time=("2022-05-02", "9999-12-31"))) == 2
    for text in ("yesterday", "", "NaT", "99999", "2022-05-01T10:00:00.1234567891"):
        with pytest.raises(SelectionError, match="invalid date"):
            opened.query(time=text)
    with pytest.raises(SelectionError, match="invalid time"):
        opened.query(time=("2022", "2023", "2024"))
    with pytest.raises(SelectionError, match="invalid time"):
        opened.query(time="2022/2023/2024")
    with pytest.raises(SelectionError, match="invalid bounds"):
        opened.query(bounds=(0, 10, 5, 0))
    for bounds in ((0, 0, float("nan"), 1), (0, 0, 1)):
        with pytest.raises(SelectionError, match="invalid bounds"):
            opened.query(bounds=bounds)
    with pytest.raises(MissingSource, match="no catalog found"):
        catalog.open(built)


@pytest.mark.parametrize(
    ("west", "east", "found"),
    [
        (-180, 180, "abcd"), (0, 360, "abcd"), (-360, 0, "abcd"), (175, 185, "bc"),
        (175, -175, "bc"), (-185, -175, "bc"), (184, 186, "c"), (355, 365, "a"),
        (359, 360, "a"), (-1, 1, "a"), (178, 180, "b"), (180, 181, "bc"),
        (-180, -178, "bc"), (540, 541, "bc"), (190, 191, ""),
        (99, 101, "d"), (-261, -259, "d"), (459, 461, "d"),
    ],
)  # fmt: skip
def test_search_by_longitudes(built: Path, west: float, east: float, found: str) -> None:
    """Whether they count to 180 or to 360; a box may cross the antimeridian, as may images."""
    import pyarrow

    boxes = {"a": (-2, 2), "b": (179, -179), "c": (-179, -174), "d": (99.5, 100)}
    rows = [
        {"url": name, "status": "ok", "bbox": {"xmin": x, "ymin": 0.0, "xmax": X, "ymax": 1.0}}
        for name, (x, X) in boxes.items()
    ]
    opened = dataclasses.replace(catalog.open(built / "c"), table=pyarrow.Table.from_pylist(rows))
    assert "".join(opened.query(bounds=(west, 0, east, 1)).urls) == found
    assert opened.query(bounds=(west, 2, east, 3)).urls == []


@pytest.mark.parametrize(
    ("time", "days"),
    [
        ("2022-05-01/2022-05-02", {1, 2}), ("2022-05-02/..", {2}), ("../2022-05-01", {1}),
        ("/", {1, 2}), (["2022-05-02", ".."], {2}), (datetime.date(2022, 5, 2), {2}),
        (2022, {1, 2}), (2021, set()),
        (np.datetime64("2022-05-01"), {1}), (np.datetime64("2022-05"), {1, 2}),
        ((datetime.datetime(2022, 5, 1, 12), None), {2}),
        ((None, datetime.datetime(2022, 5, 2, 1, tzinfo=TOKYO)), {1}),
    ],
)  # fmt: skip
def test_search_by_dates(built: Path, time: Any, days: set[int]) -> None:
    found = catalog.open(built / "c").query(time=time).urls
    assert {int(url[-5]) for url in found} == days


def with_column(opened: catalog.Catalog, name: str, values: list[str | None]) -> catalog.Catalog:
    import pyarrow

    at, column = opened.table.column_names.index(name), pyarrow.array(values, pyarrow.string())
    return dataclasses.replace(opened, table=opened.table.set_column(at, name, column))


def test_references_of_one_file(built: Path) -> None:
    opened = catalog.open(built / "c/catalog.parquet")
    url = opened.urls[1]
    assert [source.url for source in opened.references(url).sources] == [url]
    with pytest.raises(SelectionError, match="not a single file, got 4 files"):
        opened.references()
    with pytest.raises(SelectionError, match="not a single file, got nowhere"):
        opened.references("nowhere")
    with pytest.raises(SelectionError, match=f"the file has no references, got {url}"):
        with_column(opened, "references", [None] * 4).references(url)


def test_one_file_with_options_or_without_references(built: Path) -> None:
    pytest.importorskip("xarray")
    one = catalog.open(built / "c").query(where={"tile": "B"}, time="2022-05-01")
    with one.open(level=1) as small:
        assert small.image.shape == (1, 48, 48)
    with with_column(one, "references", [None]).open() as scanned:
        assert (scanned.image.values == pixels(built, "B", 1)).all() and scanned.image.ndim == 3


def test_files_that_do_not_combine(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.tif")
    write_image(tmp_path / "in/b.tif", tile=(32, 32))
    catalog.build(tmp_path / "in", tmp_path / "c")
    opened = catalog.open(tmp_path / "c")
    with pytest.raises(ManifestMismatch, match="chunk shape"):
        opened.open()
    assert opened.combined() == []


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ({"shape": [96, 96]}, "cannot search a column of lists, got shape"),
        ({"n_levels": 1.5}, "column 'n_levels' has the wrong type, got 1.5, expected int64"),
    ],
)
def test_values_that_columns_cannot_have(built: Path, where: Any, match: str) -> None:
    with pytest.raises(SelectionError, match=match):
        catalog.open(built / "c").query(where=where)


def test_search_by_status(built: Path) -> None:
    opened = with_column(catalog.open(built / "c"), "status", ["ok", "failed", "deleted", "ok"])
    urls = opened.urls
    assert opened.query().urls == [urls[0], urls[3]]
    assert opened.query(status="failed").urls == [urls[1]]
    assert opened.query(status=None).urls == urls
    assert repr(opened).endswith("c': 4 files, 1 deleted, 1 failed, 2 ok>")


def test_a_damaged_index(tmp_path: Path) -> None:
    (tmp_path / "catalog.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidReferences, match="index of the catalog cannot be read"):
        catalog.open(tmp_path)


def test_a_table_that_is_not_an_index(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"url": ["a"]}), tmp_path / "catalog.parquet")
    with pytest.raises(InvalidReferences, match="no bbox, bounds"):
        catalog.open(tmp_path)


def test_search_results_open_as_one_dataset(built: Path) -> None:
    pytest.importorskip("xarray")
    opened = catalog.open(built / "c")
    with opened.query(where={"tile": "B"}, time="2022-05-01").open() as one:
        assert (one.image.values == pixels(built, "B", 1)).all()
    with opened.query(where={"tile": "A"}).open() as days:
        assert dict(days.image.sizes) == {"time": 2, "y": 96, "x": 96}
        assert (days.image.sel(time="2022-05-02").values == pixels(built, "A", 2)).all()


def test_fields_of_location_are_not_axes_of_a_mosaic(tmp_path: Path) -> None:
    write_archive(tmp_path / "in", 10)
    built = catalog.build(tmp_path / "in" / "tile_{row:d}.tif", tmp_path / "c")
    assert built.ok == 10
    mosaic = catalog.open(tmp_path / "c").stack().group["image"]
    assert mosaic.dims == ("y", "x")
    # files of one place differ in the field only
    write_archive(tmp_path / "same", 3, apart=False)
    catalog.build(tmp_path / "same" / "tile_{row:d}.tif", tmp_path / "d")
    assert catalog.open(tmp_path / "d").stack().group["image"].dims == ("row", "y", "x")


@pytest.mark.parametrize("field", ["time", "date", "day", "datetime"])
def test_dates_of_other_fields_are_times(tmp_path: Path, field: str) -> None:
    """Not the time at which the file was written."""
    for n in (1, 2):
        write_image(tmp_path / f"in/S_2022050{n}.tif", value=n, datetime="2024:01:01 10:00:00")
    catalog.build(f"{tmp_path}/in/S_{{{field}:%Y%m%d}}.tif", tmp_path / "c", stac=True)
    opened = catalog.open(tmp_path / "c")
    assert len(opened.query(time="2022-05-02")) == 1
    assert opened.stack().group["image"].dims == ("time", "y", "x")
    item = json.loads((tmp_path / "c/stac/items/S_20220502.json").read_text())
    assert item["properties"]["datetime"] == "2022-05-02T00:00:00Z"


@pytest.mark.parametrize("has_column", [True, False])
def test_files_are_not_stacked_along_the_times_at_which_they_were_written(
    tmp_path: Path, has_column: bool
) -> None:
    for second, n in enumerate((10, 9, 2, 1)):
        made = f"2024:01:01 10:00:0{second}"
        write_image(tmp_path / f"in/S_{n}.tif", value=n, datetime=made)
    catalog.build(tmp_path / "in", tmp_path / "c", stac=True)
    opened = catalog.open(tmp_path / "c")
    if not has_column:  # of an older version
        opened = dataclasses.replace(opened, table=opened.table.drop_columns(["created"]))
    assert len(opened.query(time="2024-01-01")) == (4 if has_column else 0)
    assert opened.stack().group["image"].dims == ("i", "y", "x")
    assert [url.rpartition("_")[2] for url in opened.urls] == ["1.tif", "2.tif", "9.tif", "10.tif"]
    assert opened.stack(time_from="DateTime").group["image"].dims == ("time", "y", "x")
    item = json.loads((tmp_path / "c/stac/items/S_9.json").read_text())
    assert item["properties"]["datetime"] == "2024-01-01T10:00:01Z"


def test_misspelled_options_suggest_the_right_ones(built: Path) -> None:
    opened = catalog.open(built / "c")
    with pytest.raises(UnknownArgument, match=r"Did you mean status\? .*help\(tiffref.*query\)"):
        opened.query(staus="ok")  # type: ignore[call-arg]
    for name, ours in (("bbox", "bounds"), ("datetime", "time")):  # as in STAC clients
        with pytest.raises(UnknownArgument, match=rf"Did you mean {ours}\?"):
            opened.query(**{name: None})  # type: ignore[arg-type]
    with pytest.raises(UnknownArgument, match=r"mean allow\? .*help\(tiffref\.catalog\.open\)"):
        catalog.open(built / "c", alow="*")  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [b"catalog", 7, None, ["catalog"]])
def test_what_is_no_path(value: Any, tmp_path: Path) -> None:
    for call in (catalog.open, lambda folder: catalog.build(tmp_path, folder)):
        with pytest.raises(SelectionError, match="not a path or URL"):
            call(value)


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingSource, match="no such folder"):
        catalog.build(tmp_path / "none", tmp_path / "catalog")


def test_the_index_in_the_current_folder(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built / "c")
    opened = catalog.open("catalog.parquet").query(where={"tile": "A"}, time="2022-05-01")
    assert opened.references().main_path == "image"
    monkeypatch.chdir(built)
    assert len(catalog.open("c/catalog.parquet")) == 4


def test_names_that_are_too_long(tmp_path: Path) -> None:
    for call in (catalog.open, lambda name: catalog.build(name, tmp_path / "catalog")):
        with pytest.raises(TiffrefError):
            call("x" * 5000)
