"""Write a STAC collection with one item per file.

An item has the footprint, time and projection of the file, and two assets: its references and the
TIFF itself. Links are relative, so that the folder can be moved.

References: STAC 1.1.0; projection extension 2.0.0; xarray-assets extension 1.0.0. xpystac opens
assets of type application/json in the role "references".
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .index import add_location
from .worker import Settings

_FOLDER = "stac"
_VERSION = "1.1.0"
_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_XARRAY = "https://stac-extensions.github.io/xarray-assets/v1.0.0/schema.json"
_JSON = "application/json"
_TIFF = "image/tiff"
_GEOTIFF = "image/tiff; application=geotiff"
_REAL = re.compile(r"u?int(8|16|32|64)|float(16|32|64)")
_COMPLEX = {"complex64": "cfloat32", "complex128": "cfloat64"}
_MAX_EXACT = 2.0**53
"""Largest nodata whose number in the index, a float, is exact."""


def write_stac(settings: Settings, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `stac/collection.json` and `stac/items/`; in a local folder, atomically."""
    title = settings.folder.address.rpartition("/")[2]
    # characters that STAC recommends for ids
    collection = re.sub(r"[^A-Za-z0-9_.-]", "-", title) or "catalog"
    boxes: list[list[float]] = []
    moments: set[datetime.datetime] = set()
    ids: dict[str, None] = {}
    with settings.folder.staging(_FOLDER) as made:
        (made / "items").mkdir(parents=True)
        for row in rows:
            if row["status"] != "ok":
                continue
            located = add_location(row)
            name = _item_id(row, ids)
            modified = datetime.datetime.fromtimestamp(row.get("mtime") or 0, datetime.UTC)
            moment = located["time"] or located["created"] or modified  # STAC requires one
            moments = {min(moments | {moment}), max(moments | {moment})}
            item = _item(name, located, moment, settings)
            if "bbox" in item:
                boxes = [_union([*boxes, item["bbox"]])]
            _write_json(made / "items" / f"{name}.json", {**item, "collection": collection})
        interval = [_iso(min(moments)), _iso(max(moments))] if moments else [None, None]
        document = {
            "type": "Collection",
            "id": collection,
            "stac_version": _VERSION,
            "description": f"References to the TIFF files of {title}, made by tiffref.",
            "links": [
                _link("root", "./collection.json"),
                *(_link("item", f"./items/{id}.json", "application/geo+json") for id in ids),
            ],
            **({"title": title} if title else {}),
            "extent": {
                "spatial": {"bbox": boxes or [[-180.0, -90.0, 180.0, 90.0]]},
                "temporal": {"interval": [interval]},
            },
            "license": "other",
        }
        _write_json(made / "collection.json", document)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    # bytes of file names that are not UTF-8 become JSON escapes
    text = json.dumps(document, indent=1, ensure_ascii=False)
    path.write_text(text, "utf-8", "backslashreplace")


def _union(boxes: Iterable[list[float]]) -> list[float]:
    """Return the union of boxes; those across the antimeridian count as all longitudes."""
    boxes = [[-180.0, b[1], 180.0, b[3]] if b[0] > b[2] else b for b in boxes]
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]


def _item_id(row: Mapping[str, Any], ids: dict[str, None]) -> str:
    """Return the id of an item: the file's stem, with a hash if another item has that name."""
    name = Path(row["url"]).stem or "item"
    if name in ids:
        name = f"{name}~{hashlib.sha256(os.fsencode(row['url'])).hexdigest()[:8]}"
    ids[name] = None
    return name


def _iso(moment: datetime.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _link(relation: str, target: str, kind: str = _JSON) -> dict[str, str]:
    return {"rel": relation, "href": target, "type": kind}


def _item(
    name: str, row: Mapping[str, Any], moment: datetime.datetime, settings: Settings
) -> dict[str, Any]:
    shape, is_placed = row.get("footprint"), bool(row.get("transform"))
    fields = {key: value for key, value in row.get("fields", {}).items() if key != "time"}
    assets: dict[str, Any] = {
        "data": {
            "href": settings.rename(row["url"]),
            "type": _GEOTIFF if is_placed else _TIFF,
            "roles": ["data"],
            **_samples(row),
        }
    }
    if path := row.get("references"):
        assets["references"] = {
            "href": f"../../{path}",
            "type": _JSON if path.endswith(".json") else "application/vnd.apache.parquet",
            "xarray:open_kwargs": {"engine": "kerchunk"},
            "roles": ["references"],
        }
    relations = ("root", "parent", "collection")
    return {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": [_XARRAY, *([_PROJECTION] if is_placed else [])],
        "id": name,
        "geometry": shape.__geo_interface__ if shape else None,
        **({"bbox": list(row["bbox"].values())} if shape else {}),
        "properties": {
            **fields, "datetime": _iso(moment), **(_projection(row) if is_placed else {}),
        },
        "links": [_link(relation, "../collection.json") for relation in relations],
        "assets": assets,
    }  # fmt: skip


def _samples(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return type, nodata and bands, without which odc-stac loads the first band as float32."""
    name = str(row["dtype"])
    kind = _COMPLEX.get(name, name if _REAL.fullmatch(name) else "other")
    samples: dict[str, Any] = {"data_type": kind}
    nodata, is_whole = row.get("nodata"), name[0] in "iu"
    if nodata is not None and not (is_whole and abs(nodata) > _MAX_EXACT):
        samples["nodata"] = int(nodata) if is_whole else nodata
    sizes = dict(zip(row["dims"], row["shape"], strict=True))
    bands = [{"name": f"b{n + 1}"} for n in range(sizes.get("band") or sizes.get("s") or 1)]
    return samples | ({"bands": bands} if len(bands) > 1 else {})


def _projection(row: Mapping[str, Any]) -> dict[str, Any]:
    crs = str(row.get("crs") or "")
    properties = {
        "proj:shape": row["raster"],
        "proj:transform": row["transform"],
        "proj:bbox": row["bounds"],
    }
    if crs.partition(":")[2].isalnum():
        return {"proj:code": crs, **properties}
    return {"proj:wkt2": crs, **properties} if crs else properties
