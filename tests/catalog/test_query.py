"""Searches of a catalog, and what is found as one dataset."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from archive import pixels, write_archive, write_image

import tiffref.catalog as catalog
from tiffref.errors import (
    InvalidReferences,
    MissingSource,
    SelectionError,
    TiffrefError,
    UnknownArgument,
)

pytest.importorskip("pyarrow")


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
    with pytest.raises(SelectionError, match="invalid bounds"):
        opened.query(bounds=(0, 10, 5, 0))
    with pytest.raises(MissingSource, match="no catalog found"):
        catalog.open(built)


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


def test_names_that_are_too_long(tmp_path: Path) -> None:
    for call in (catalog.open, lambda name: catalog.build(name, tmp_path / "catalog")):
        with pytest.raises(TiffrefError):
            call("x" * 5000)
