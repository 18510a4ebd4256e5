"""STAC of a catalog: valid, and opened by pystac and xpystac."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from archive import pixels, write_image

import tiffref.catalog as catalog

pytest.importorskip("pyarrow")


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


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("u2", "0", {"data_type": "uint16", "nodata": 0}),
        ("f4", "-9999.5", {"data_type": "float32", "nodata": -9999.5}),
        ("f4", "nan", {"data_type": "float32"}),
        ("i8", str(2**62 + 1), {"data_type": "int64"}),
        ("c8", None, {"data_type": "cfloat32"}),
        ("?", None, {"data_type": "other"}),
    ],
)
def test_assets_have_the_type_and_nodata_of_samples(
    tmp_path: Path, dtype: str, nodata: str | None, expected: dict
) -> None:
    """odc-stac loads assets without them as float32."""
    tags = [(42113, 2, 0, nodata, True)] if nodata else None
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), dtype), extratags=tags)
    catalog.build(tmp_path / "a.tif", tmp_path / "c", stac=True)
    asset = json.loads((tmp_path / "c/stac/items/a.json").read_text())["assets"]["data"]
    found = {name: asset[name] for name in ("data_type", "nodata") if name in asset}
    assert found == expected
    assert type(found.get("nodata")) is type(expected.get("nodata"))


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
