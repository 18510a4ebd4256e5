"""A catalog of intake 2: `intake.yaml`.

Owns the text of it, an entry for each combined set and each file, readers that open with xarray's
kerchunk engine. Written as JSON, which is YAML: every text is quoted, whatever is in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .folder import Folder

__all__ = ["write_intake"]

_READER = "intake.readers.readers:XArrayDatasetReader"
_DATA = "intake.readers.datatypes:Zarr"
_XARRAY = "xarray:Dataset"


def write_intake(
    folder: Folder,
    rows: Iterable[Mapping[str, Any]],
    combined: Sequence[Mapping[str, Any]],
) -> None:
    """Write the catalog, with addresses relative to its own folder."""
    data: dict[str, Any] = {}
    entries: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    found = [(row["name"], row["path"], row) for row in combined if row["status"] == "ok"]
    sets = {name for name, _, _ in found}
    files = ((_name(row["references"], sets), row["references"], row) for row in rows
             if row.get("references"))  # fmt: skip
    for name, path, row in [*found, *files]:
        url = f"{{CATALOG_DIR}}/{path}"
        token = hashlib.sha256(path.encode()).hexdigest()[:16]
        metadata = {
            key: row[key] for key in ("url", "crs", "time", "shape", "n_files") if row.get(key)
        }
        data[token] = {
            "datatype": _DATA,
            "kwargs": {"url": url, "storage_options": None, "root": ""},
            "metadata": metadata,
            "user_parameters": {},
        }
        entries[f"r{token}"] = {
            "reader": _READER,
            "kwargs": {"args": [f"{{data({token})}}"], "engine": "kerchunk", "chunks": {}},
            "output_instance": _XARRAY,
            "metadata": metadata,
            "user_parameters": {},
        }
        # folders and dots become "_" in names, so that two files may come to one
        aliases[name if name not in aliases else f"{name}_{token[:6]}"] = f"r{token}"
    document = {
        "version": 2,
        "metadata": {},
        "data": data,
        "entries": entries,
        "aliases": aliases,
        "user_parameters": {},
    }
    folder.put("intake.yaml", json.dumps(document, indent=1).encode() + b"\n")


def _name(path: str, taken: set[str]) -> str:
    """Name an entry as an attribute may be called."""
    stem = Path(path.removeprefix("references/")).with_suffix("").as_posix()
    name = re.sub(r"\W", "_", stem)
    return f"file_{name}" if name in taken or not name[:1].isalpha() else name
