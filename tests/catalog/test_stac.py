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
    assert "time" not in item.properties
    assert f"{item.datetime:%Y-%m-%d}" == "2022-05-02"
    west, south, east, north = item.bbox
    assert 12 < west < east < 13 and 45 < south < north < 46
    asset = item.assets["references"]
    assert (asset.media_type, asset.roles) == ("application/json", ["references"])
    options = asset.extra_fields["xarray:open_kwargs"]
    with xarray.open_dataset(asset.get_absolute_href(), **options) as dataset:
        assert (dataset.image.values == pixels(built, "B", 2)).all()


def test_the_collection_encloses_its_items(tmp_path: Path) -> None:
    pytest.importorskip("pyproj")
    degrees = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326)
    # Lambert's equal-area projection without a code
    other = (1, 1, 0, 6, 1024, 0, 1, 1, 1025, 0, 1, 1, 2048, 0, 1, 4326, 3072, 0, 1, 32767,
             3074, 0, 1, 32767, 3075, 0, 1, 10)  # fmt: skip

    def write(name: str, x: float, y: float, size: float, keys: tuple[int, ...]) -> None:
        tags = [(33550, "d", 3, (size, size, 0.0)), (33922, "d", 6, (0.0, 0.0, 0.0, x, y, 0.0)),
                (34735, "H", len(keys), keys)]  # fmt: skip
        tifffile.imwrite(
            tmp_path / "in" / name, np.zeros((8, 8), "u1"), extratags=[(*t, True) for t in tags]
        )

    def build(*names: str) -> tuple[list[float], list[str], dict[str, dict]]:
        folder = tmp_path / f"c{len(list(tmp_path.iterdir()))}"
        catalog.build([str(tmp_path / "in" / n) for n in names], folder, stac=True)
        folder /= "stac"
        extent = json.loads((folder / "collection.json").read_text())["extent"]
        items = {p.stem: json.loads(p.read_text()) for p in (folder / "items").iterdir()}
        return extent["spatial"]["bbox"], extent["temporal"]["interval"], items

    (tmp_path / "in").mkdir()
    write("a_20220503.tif", 10.0, 48.0, 0.25, degrees)
    write("S2A_32UPU_20220501_0_L2A.tif", 14.0, 40.0, 0.25, degrees)
    write("m_3807708_ne_18_060_20220504.tif", 178.0, -10.0, 0.5, degrees)
    write("b.tif", 0.0, 0.0, 1000.0, other)
    box, times, items = build("S2A_32UPU_20220501_0_L2A.tif")
    assert (box, times) == ([[14.0, 38.0, 16.0, 40.0]], [["2022-05-01T00:00:00Z"] * 2])
    boxes = build("a_20220503.tif", "S2A_32UPU_20220501_0_L2A.tif")[0]
    assert boxes == [[10.0, 38.0, 16.0, 48.0]]
    box, times, items = build("S2A_32UPU_20220501_0_L2A.tif", "m_3807708_ne_18_060_20220504.tif")
    assert items["m_3807708_ne_18_060_20220504"]["bbox"] == [178.0, -14.0, -178.0, -10.0]
    assert box == [[-180.0, -14.0, 180.0, 40.0]]
    assert times == [["2022-05-01T00:00:00Z", "2022-05-04T00:00:00Z"]]
    properties = build("b.tif")[2]["b"]["properties"]
    assert properties["proj:wkt2"].startswith("PROJCRS[") and "proj:code" not in properties
    assert properties["proj:bbox"] == [0.0, -8000.0, 8000.0, 0.0]
    (tmp_path / "in/bad.tif").write_bytes(b"no TIFF")
    assert build("bad.tif")[:2] == ([[-180.0, -90.0, 180.0, 90.0]], [[None, None]])


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
    """odc-stac loads assets without them as float32; rustac writes no empty objects to Parquet."""
    tags = [(42113, 2, 0, nodata, True)] if nodata else None
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), dtype), extratags=tags)
    catalog.build(tmp_path / "a.tif", tmp_path / "c", stac=True)
    text = (tmp_path / "c/stac/items/a.json").read_text()
    assert "{}" not in text
    asset = json.loads(text)["assets"]["data"]
    found = {name: asset[name] for name in ("data_type", "nodata", "bands") if name in asset}
    assert found == expected
    assert type(found.get("nodata")) is type(expected.get("nodata"))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("is_placed", [True, False])
def test_assets_list_their_bands(tmp_path: Path, planar: str, is_placed: bool) -> None:
    """odc-stac loads the first band only of assets without them."""
    data = np.zeros((2, 8, 9) if planar == "separate" else (8, 9, 2), np.uint8)
    place = [(33550, 12, 3, (1.0, 1.0, 0.0), True), (33922, 12, 6, (0.0,) * 6, True)]
    keys = [(34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)]
    tifffile.imwrite(
        tmp_path / "a.tif", data, photometric="minisblack", planarconfig=planar, metadata=None,
        extratags=[*place, *keys] if is_placed else None,
    )  # fmt: skip
    catalog.build(tmp_path / "a.tif", tmp_path / "c", stac=True)
    asset = json.loads((tmp_path / "c/stac/items/a.json").read_text())["assets"]["data"]
    assert asset["bands"] == [{"name": "b1"}, {"name": "b2"}]


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
