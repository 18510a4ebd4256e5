"""What is made of a catalog: combined sets, STAC, the index for others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from archive import contents, write_archive, write_image

import tiffref.catalog as catalog
from tiffref.errors import CatalogError, InvalidReferences, SelectionError, SourceError

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a catalog of two days of two tiles, with all that can be made of it."""
    folder = tmp_path_factory.mktemp("built")
    for n, (day, tile) in enumerate((d, t) for d in (1, 2) for t in ("A", "B")):
        x = 300000.0 + 960 * (tile == "B")
        write_image(folder / "in" / f"S_{tile}_2022050{day}.tif", x=x, value=n + 1)
    catalog.build(
        str(folder / "in" / "S_{tile}_{time:%Y%m%d}.tif"), folder / "c",
        stack=True, group_by=["tile"], stac=True,
    )  # fmt: skip
    return folder


def pixels(folder: Path, tile: str, day: int) -> np.ndarray:
    return tifffile.imread(folder / "in" / f"S_{tile}_2022050{day}.tif")


def test_fields_of_names_are_columns(built: Path) -> None:
    table = catalog.open(built / "c").table
    assert table["tile"].to_pylist() == ["A", "A", "B", "B"]
    assert [f"{time:%Y-%m-%d}" for time in table["time"].to_pylist()] == [
        "2022-05-01", "2022-05-02", "2022-05-01", "2022-05-02",
    ]  # fmt: skip


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
    with pytest.raises(SelectionError, match="cannot be grouped"):
        catalog.build(tmp_path / "in", tmp_path / "c", stack=True, group_by=["nothing"])
    again = catalog.build(tmp_path / "in", tmp_path / "c", stack=True, group_by=["dtype"])
    assert again.combined == 2 and again.skipped == 2


def test_stac_items_open(built: Path) -> None:
    pystac = pytest.importorskip("pystac")
    xarray = pytest.importorskip("xarray")
    collection = pystac.Collection.from_file(str(built / "c/stac/collection.json"))
    items = list(collection.get_items())
    assert len(items) == 4
    item = next(item for item in items if item.id == "S_B_20220502")
    assert item.properties["proj:code"] == "EPSG:32633"
    assert item.properties["proj:shape"] == [96, 96] and item.properties["tile"] == "B"
    assert f"{item.datetime:%Y-%m-%d}" == "2022-05-02"
    west, south, east, north = item.bbox
    assert 12 < west < east < 13 and 45 < south < north < 46
    asset = item.assets["references"]
    assert (asset.media_type, asset.roles) == ("application/json", ["references"])
    options = asset.extra_fields["xarray:open_kwargs"]
    with xarray.open_dataset(asset.get_absolute_href(), **options) as dataset:
        assert (dataset.image.values == pixels(built, "B", 2)).all()


PROJECTION = {
    "type": "object",
    "properties": {
        "proj:code": {"type": ["string", "null"], "pattern": r"^[A-Za-z0-9]+:[A-Za-z0-9.]+$"},
        "proj:wkt2": {"type": ["string", "null"]},
        "proj:shape": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer"}},
        "proj:transform": {"type": "array", "minItems": 6, "maxItems": 9,
                           "items": {"type": "number"}},
        "proj:bbox": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
    },
    "patternProperties": {"^proj:(?!code|wkt2|shape|transform|bbox)": False},
    "anyOf": [{"required": [name]} for name in ("proj:code", "proj:wkt2", "proj:transform")],
}  # fmt: skip
"""What version 2.0.0 of the projection extension asks for, of the fields that we write."""


def test_stac_documents_are_valid(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    local = pytest.importorskip("pystac.validation.local_validator")
    from referencing import Registry, Resource

    write_image(tmp_path / "in/placed.tif")
    write_image(tmp_path / "in/far away.tif", x=-3200000.0, value=2)
    tifffile.imwrite(tmp_path / "in/nowhere.tif", np.zeros((8, 8), np.uint8))
    catalog.build(tmp_path / "in", tmp_path / "c d", stac=True)
    schemas = local.get_local_schema_cache()
    registry = Registry().with_resources(
        [(name, Resource.from_contents(schema)) for name, schema in schemas.items()]
    )

    def check(kind: str, document: dict) -> None:
        schema = next(s for name, s in schemas.items() if name.endswith(f"/{kind}.json"))
        jsonschema.Draft7Validator(schema, registry=registry).validate(document)

    folder = tmp_path / "c d/stac"
    collection = json.loads((folder / "collection.json").read_text())
    check("collection", collection)
    assert collection["id"] == "c-d" and collection["title"] == "c d"
    items = {
        path.stem: json.loads(path.read_text()) for path in sorted((folder / "items").iterdir())
    }
    assert len(items) == 3
    for item in items.values():
        check("item", item)
        assert item["collection"] == "c-d"
        if any("projection" in name for name in item["stac_extensions"]):
            jsonschema.validate(item["properties"], PROJECTION)
    assert items["nowhere"]["geometry"] is None and "bbox" not in items["nowhere"]
    assert items["nowhere"]["assets"]["data"]["type"] == "image/tiff"


def test_xpystac_opens_items(built: Path) -> None:
    pytest.importorskip("xpystac")
    pytest.importorskip("aiohttp")
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    import pystac
    import xarray

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(built / "c"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/stac/items/S_A_20220501.json"
        import requests

        item = pystac.Item.from_dict(requests.get(url, timeout=10).json())
        item.set_self_href(url)
        asset = item.assets["references"]
        asset.href = asset.get_absolute_href()
        with xarray.open_dataset(asset, engine="stac") as dataset:
            assert (dataset.image.values == pixels(built, "A", 1)).all()
        server.shutdown()


def test_the_index_is_geoparquet(built: Path) -> None:
    shapely = pytest.importorskip("shapely")
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(built / "c/catalog.parquet")
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["encoding"] == "WKB"
    table = catalog.open(built / "c").table
    polygon = shapely.from_wkb(table["geometry"][0].as_py())
    box = table["bbox"][0].as_py()
    assert polygon.is_valid and polygon.exterior.is_ccw
    assert polygon.bounds == (box["xmin"], box["ymin"], box["xmax"], box["ymax"])


def test_searches(built: Path) -> None:
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
        with pytest.raises(SelectionError, match="not a date"):
            opened.query(time=text)
    with pytest.raises(SelectionError, match="not a period"):
        opened.query(time=("2022", "2023", "2024"))
    with pytest.raises(SelectionError, match="bad bounds"):
        opened.query(bounds=(0, 10, 5, 0))
    with pytest.raises(SourceError, match="there is no catalog"):
        catalog.open(built)


def test_a_table_that_is_no_index(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"url": ["a"]}), tmp_path / "catalog.parquet")
    with pytest.raises(InvalidReferences, match="no column bbox, bounds"):
        catalog.open(tmp_path)


def test_what_is_found_opens_as_one(built: Path) -> None:
    pytest.importorskip("xarray")
    opened = catalog.open(built / "c")
    with opened.query(where={"tile": "B"}, time="2022-05-01").open() as one:
        assert (one.image.values == pixels(built, "B", 1)).all()
    with opened.query(where={"tile": "A"}).open() as days:
        assert dict(days.image.sizes) == {"time": 2, "y": 96, "x": 96}
        assert (days.image.sel(time="2022-05-02").values == pixels(built, "A", 2)).all()


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


def test_fields_that_the_place_tells_are_no_axes_of_a_mosaic(tmp_path: Path) -> None:
    write_archive(tmp_path / "in", 10)
    built = catalog.build(tmp_path / "in" / "tile_{row:d}.tif", tmp_path / "c")
    assert built.ok == 10
    mosaic = catalog.open(tmp_path / "c").stack().group["image"]
    assert mosaic.dims == ("y", "x")
    # files of one place differ in the field only
    write_archive(tmp_path / "same", 3, apart=False)
    catalog.build(tmp_path / "same" / "tile_{row:d}.tif", tmp_path / "d")
    assert catalog.open(tmp_path / "d").stack().group["image"].dims == ("row", "y", "x")


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


def test_what_was_made_once_is_kept_up(tmp_path: Path) -> None:
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
    with pytest.raises(SelectionError, match="recorded as JSON"):
        catalog.build(tmp_path / "in", tmp_path / "3", stack=True, stack_options={"key": slice(2)})


def test_lists_and_tables_of_a_sequence(tmp_path: Path) -> None:
    from tiffref.sequences.inputs import list_files

    (tmp_path / "list.txt").write_text("# a comment\na.tif\n\n  /b.tif\ns3://c/d.tif\n./e.tif\n")
    assert list_files(tmp_path / "list.txt").urls == [
        f"{tmp_path}/a.tif", "/b.tif", "s3://c/d.tif", f"{tmp_path}/e.tif",
    ]  # fmt: skip
    for text in ("{}", "[1]", "no JSON"):
        (tmp_path / "refs.json").write_text(text)
        with pytest.raises(SourceError, match=r"refs\.json: (holds no STAC|cannot be read)"):
            list_files(tmp_path / "refs.json")
    (tmp_path / "bad.parquet").write_bytes(b"PAR0")
    with pytest.raises(SourceError, match="cannot be read"):
        list_files(tmp_path / "bad.parquet")


def test_names_that_are_no_text(tmp_path: Path) -> None:
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
    assert catalog.open(tmp_path / "c").urls == [f"{tmp_path}/in/image_\\udcff.tif"]
    row, _ = map(json.loads, (tmp_path / "report.jsonl").read_text("utf-8").splitlines())
    assert row["url"] == str(path)
    (item,) = (tmp_path / "c/stac/items").iterdir()
    assert json.loads(item.read_text("utf-8"))["assets"]["data"]["href"] == f"file://{path}"
    summary = catalog.build(path.parent, tmp_path / "p", format="parquet")
    assert dict(summary.errors) == {"InvalidReferences": 1}


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


def test_sets_by_what_is_no_one_value(tmp_path: Path) -> None:
    write_archive(tmp_path / "in", 2)
    for name in ("fields", "nothing"):
        with pytest.raises(SelectionError, match="cannot be grouped"):
            catalog.build(tmp_path / "in", tmp_path / name, stack=True, group_by=[name])
