"""Combined sets: which files make one, and what becomes of them later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from archive import contents, pixels, write_archive, write_image

import tiffref.catalog as catalog
from tiffref.errors import CatalogError, SelectionError

pytest.importorskip("pyarrow")


@pytest.mark.filterwarnings("ignore:The .fastparquet. engine")
def test_combined_sets_open(built: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("fastparquet")
    rows = catalog.open(built / "c").combined()
    assert [(row["name"], row["keys"]["tile"], row["n_files"]) for row in rows] == [
        ("A", "A", 2), ("B", "B", 2),
    ]  # fmt: skip
    with xarray.open_dataset(str(built / "c" / rows[1]["path"]), engine="kerchunk") as dataset:
        found = dataset.image.sel(time="2022-05-02").values
    assert (found.squeeze() == pixels(built, "B", 2)).all()


def test_a_set_that_does_not_combine_is_a_row(tmp_path: Path) -> None:
    write_image(tmp_path / "in/1.tif")
    tifffile.imwrite(tmp_path / "in/2.tif", np.zeros((8, 8), np.uint8))
    summary = catalog.build(tmp_path / "in", tmp_path / "c", stack=True)
    assert (summary.ok, summary.combined, summary.is_complete) == (2, 0, False)
    assert "differ" in summary.combined_failed[0][1] or "combine" in summary.combined_failed[0][1]
    with pytest.raises(SelectionError, match="cannot group files"):
        catalog.build(tmp_path / "in", tmp_path / "c", stack=True, group_by=["nothing"])
    again = catalog.build(tmp_path / "in", tmp_path / "c", stack=True, group_by=["dtype"])
    assert again.combined == 2 and again.skipped == 2


def test_sets_whose_keys_give_one_name(tmp_path: Path) -> None:
    for n, site in enumerate(("a b", "a-b", "a#b")):
        write_image(tmp_path / "in" / f"{site}_1.tif", value=n)
    catalog.build(
        tmp_path / "in" / "{site}_{n}.tif", tmp_path / "c", stack=True, group_by=["site"],
        stack_format="json",
    )  # fmt: skip
    rows = catalog.open(tmp_path / "c").combined()
    assert {row["keys"]["site"] for row in rows} == {"a b", "a-b", "a#b"}
    assert len({row["path"] for row in rows}) == len(list((tmp_path / "c/combined").iterdir())) == 3


def test_combined_sets_are_updated(tmp_path: Path) -> None:
    write_archive(tmp_path / "in", 5)
    options = {"stack": True, "stack_options": {"mosaic": True}, "stac": True}
    catalog.build(tmp_path / "in", tmp_path / "1/c", **options)
    (path,) = write_archive(tmp_path / "new", 1)
    tifffile.imwrite(tmp_path / "in/tile_004.tif", np.zeros((8, 8), np.uint8))
    (tmp_path / "in/tile_003.tif").unlink()
    path.rename(tmp_path / "in/tile_003.tif")
    failed = catalog.build(tmp_path / "in", tmp_path / "1/c", update=True)
    assert failed.scanned == 2 and failed.combined_failed
    assert not (tmp_path / "1/c/combined/all.parq").exists()  # of files as they were
    write_archive(tmp_path / "in", 5)
    assert catalog.build(tmp_path / "in", tmp_path / "1/c", update=True).combined == 1
    catalog.build(tmp_path / "in", tmp_path / "2/c", **options)
    assert contents(tmp_path / "1/c") == contents(tmp_path / "2/c")
    with pytest.raises(SelectionError, match="must be JSON values"):
        catalog.build(tmp_path / "in", tmp_path / "3", stack=True, stack_options={"key": slice(2)})


def test_records_that_cannot_be_read(tmp_path: Path) -> None:
    write_archive(tmp_path / "in", 2, apart=False)
    options: dict[str, Any] = {"stack": True, "group_by": ["crs"], "stack_format": "json"}
    assert catalog.build(tmp_path / "in", tmp_path / "c", **options).combined == 1
    (tmp_path / "c/combined.json").write_bytes(bytes(8))
    assert catalog.build(tmp_path / "in", tmp_path / "c", **options).combined == 1
    assert len(catalog.open(tmp_path / "c").combined()) == 1
    for name in ("products.json", "plan.json"):
        (tmp_path / "c/.tiffref" / name).write_bytes(bytes(8))
        with pytest.raises(CatalogError, match=f"{name}: the catalog's plan cannot be read"):
            catalog.build(tmp_path / "in", tmp_path / "c", **options)


def test_sets_by_fields_with_several_values(tmp_path: Path) -> None:
    write_archive(tmp_path / "in", 2)
    for name in ("fields", "nothing"):
        with pytest.raises(SelectionError, match="cannot group files"):
            catalog.build(tmp_path / "in", tmp_path / name, stack=True, group_by=[name])
