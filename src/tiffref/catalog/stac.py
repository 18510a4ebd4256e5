"""A STAC collection with an item for each file.

Owns what STAC says of a file: its footprint, time, projection, and two assets, the references and
the TIFF itself. Links are relative, so that the folder can be moved.

References: STAC 1.1.0; projection extension 2.0.0; xarray-assets extension 1.0.0. xpystac opens
assets of type application/json in the role "references".
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MissingExtra, install_hint
from .index import place_row, to_geojson
from .storage import Folder
from .worker import Settings

_FOLDER = "stac"
_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_XARRAY = "https://stac-extensions.github.io/xarray-assets/v1.0.0/schema.json"
_TIFF = "image/tiff"
_GEOTIFF = "image/tiff; application=geotiff"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _import_pystac() -> Any:
    try:
        import pystac
    except ImportError as error:
        raise MissingExtra("STAC catalogs need pystac", hint=install_hint("catalog")) from error
    return pystac


@dataclass(slots=True)
class _Extent:
    """Where and when all items are."""

    bbox: list[float] = field(default_factory=lambda: [math.inf, math.inf, -math.inf, -math.inf])
    first: datetime.datetime | None = None
    last: datetime.datetime | None = None

    def add(self, bbox: list[float] | None, moment: datetime.datetime) -> None:
        self.first = min(self.first or moment, moment)
        self.last = max(self.last or moment, moment)
        if bbox is not None:
            west, south, east, north = bbox
            if west > east:  # across the antimeridian
                west, east = -180.0, 180.0
            own = self.bbox
            self.bbox = [
                min(own[0], west), min(own[1], south), max(own[2], east), max(own[3], north)
            ]  # fmt: skip


def write_stac(settings: Settings, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `stac/collection.json` and `stac/items/`, all or nothing on a disk.

    Raises
    ------
    MissingExtra
        If pystac is not installed.
    """
    pystac = _import_pystac()
    extent = _Extent()
    ids: dict[str, None] = {}
    with settings.folder.making(_FOLDER) as made:
        (made / "items").mkdir(parents=True)
        for row in rows:
            if row["status"] != "ok":
                continue
            placed = place_row(row)
            name = _identify(row, ids)
            moment = placed["time"] or _changed(row)
            rings = placed.get("rings")
            bbox = list(placed["bbox"].values()) if rings else None
            extent.add(bbox, moment)
            item = _item(pystac, name, placed, moment, bbox, settings)
            _dump(made / "items" / f"{name}.json", item)
        _dump(made / "collection.json", _collection(pystac, settings.folder, ids, extent))


def _dump(path: Path, document: Mapping[str, Any]) -> None:
    # names that are no UTF-8 become what JSON escapes them as
    text = json.dumps(document, indent=1, ensure_ascii=False)
    path.write_text(text, "utf-8", "backslashreplace")


def _identify(row: Mapping[str, Any], ids: dict[str, None]) -> str:
    """Name the item of a file as the file is called, with more where that is taken."""
    name = Path(row["url"]).stem or "item"
    if name in ids:
        name = f"{name}~{hashlib.sha256(os.fsencode(row['url'])).hexdigest()[:8]}"
    ids[name] = None
    return name


def _changed(row: Mapping[str, Any]) -> datetime.datetime:
    """Return the file's own date: STAC asks for one of every item."""
    if row.get("mtime") is None:
        return _EPOCH
    return datetime.datetime.fromtimestamp(row["mtime"], datetime.UTC)


def _item(
    pystac: Any,
    name: str,
    row: Mapping[str, Any],
    moment: datetime.datetime,
    bbox: list[float] | None,
    settings: Settings,
) -> dict[str, Any]:
    geometry = to_geojson(row["rings"]) if row.get("rings") else None
    properties = {**row.get("fields", {})}
    properties.pop("time", None)
    item = pystac.Item(name, geometry, bbox, moment, properties)
    item.stac_extensions.append(_XARRAY)
    if row.get("transform"):
        item.stac_extensions.append(_PROJECTION)
        item.properties.update(_projection(row))
    kind = _GEOTIFF if row.get("transform") else _TIFF
    item.add_asset("data", pystac.Asset(settings.rename(row["url"]), media_type=kind,
                                        roles=["data"]))  # fmt: skip
    if row.get("references"):
        item.add_asset("references", _references_asset(pystac, row["references"]))
    for relation, target in (("root", "collection"), ("parent", "collection"),
                             ("collection", "collection")):  # fmt: skip
        item.add_link(pystac.Link(relation, f"../{target}.json", "application/json"))
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    return {**document, "collection": _collection_id(settings.folder)}


def _collection_id(folder: Folder) -> str:
    """Name the collection as its folder is called, in letters that STAC recommends for ids."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", _title(folder)) or "catalog"


def _title(folder: Folder) -> str:
    return folder.address.rpartition("/")[2]


def _references_asset(pystac: Any, path: str) -> Any:
    is_json = path.endswith(".json")
    return pystac.Asset(
        f"../../{path}",
        media_type="application/json" if is_json else "application/vnd.apache.parquet",
        roles=["references"],
        extra_fields={"xarray:open_kwargs": {"engine": "kerchunk", "chunks": {}}},
    )


def _projection(row: Mapping[str, Any]) -> dict[str, Any]:
    crs = str(row.get("crs") or "")
    known = {
        "proj:shape": row["raster"],
        "proj:transform": row["transform"],
        "proj:bbox": row["bounds"],
    }
    if crs.partition(":")[2].isalnum():
        return {"proj:code": crs, **known}
    return {"proj:wkt2": crs, **known} if crs else known


def _collection(pystac: Any, folder: Folder, ids: Iterable[str], extent: _Extent) -> dict[str, Any]:
    is_placed = extent.bbox[0] <= extent.bbox[2]
    spatial = pystac.SpatialExtent([extent.bbox if is_placed else [-180.0, -90.0, 180.0, 90.0]])
    temporal = pystac.TemporalExtent([[extent.first, extent.last]])
    collection = pystac.Collection(
        _collection_id(folder),
        f"References to the TIFF files of {_title(folder)}, made by tiffref.",
        pystac.Extent(spatial, temporal),
        title=_title(folder) or None,
    )
    document = collection.to_dict(include_self_link=False, transform_hrefs=False)
    links = [{"rel": "root", "href": "./collection.json", "type": "application/json"}]
    links += [
        {"rel": "item", "href": f"./items/{name}.json", "type": "application/geo+json"}
        for name in ids
    ]
    return {**document, "links": links}
