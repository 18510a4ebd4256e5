"""Combined sets: the files of a catalog as arrays with the axes of their sequence in front.

Owns which files go together and what becomes of sets that cannot be made. The work is
`scanner.sequence`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CatalogError, SelectionError, TiffrefError
from ..formats.kerchunk import write_json
from ..formats.parquet import write_parquet
from ..references import References
from ..scanner.sequence import scan_sequence
from .outline import main_path
from .plan import FORMATS, Settings
from .state import CatalogFolder, checksum, explain_output

__all__ = ["CombinedSettings", "combine_groups", "open_rows"]

_RECORD = "combined.json"
_FOLDER = "combined"


@dataclass(frozen=True, slots=True)
class CombinedSettings:
    """How files are combined.

    `pattern` gives their axes; `group_by` names fields or columns of the index; `format` is
    "parquet" or "json"; `options` go to `scan_sequence`.
    """

    pattern: str | None
    group_by: tuple[str, ...]
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)


def combine_groups(
    folder: CatalogFolder,
    settings: Settings,
    wanted: CombinedSettings,
    rows: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Write a combined set for each group of files, and the record of all sets.

    A set whose files are those of the last run is left as it is.

    Returns
    -------
    A row for each set: `name`, `keys`, `status`, `path` or `error`, `n_files`, `shape`.
    """
    record = folder.path / _RECORD
    before = {row["name"]: row for row in open_rows(record)}
    groups = _group(rows, wanted.group_by)
    names = _names(groups)
    done: list[dict[str, Any]] = []
    for keys, members in groups.items():
        state = _state(members, settings, wanted)
        known = before.get(names[keys])
        if known is not None and known["state"] == state and _is_in_place(folder, known):
            done.append(known)
            continue
        row = {
            "name": names[keys],
            "keys": dict(zip(wanted.group_by, keys, strict=True)),
            "state": state,
            "n_files": len(members),
        }
        done.append({**row, **_combine(folder, settings, wanted, names[keys], members)})
        kept = [row for row in before.values() if row["name"] not in {r["name"] for r in done}]
        _write_record(folder, record, [*done, *kept])
    for name in set(before) - set(names.values()):
        if before[name].get("path"):
            _remove(folder.path / before[name]["path"])
    _write_record(folder, record, done)
    return done


def open_rows(record: Path) -> list[dict[str, Any]]:
    """Give the record of combined sets; none if there is no record."""
    try:
        return json.loads(record.read_text("utf-8"))
    except FileNotFoundError:
        return []


def _write_record(folder: CatalogFolder, record: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    folder.write(record, json.dumps(rows, indent=1, ensure_ascii=False).encode() + b"\n")


def _group(
    rows: Iterable[Mapping[str, Any]], group_by: Sequence[str]
) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok":
            keys = tuple(_key(row, name) for name in group_by)
            groups.setdefault(keys, []).append(
                {name: row.get(name) for name in ("url", "size", "mtime", "etag", "fields")}
            )
    return dict(sorted(groups.items(), key=lambda item: str(item[0])))


def _key(row: Mapping[str, Any], name: str) -> Any:
    fields = row.get("fields", {})
    if name not in fields and name not in row:
        raise SelectionError(
            "files cannot be grouped by what they do not have", url=row["url"], got=name,
            expected=sorted({*fields, "crs", "dtype", "codec", "shape", "dims"}),
        )  # fmt: skip
    value = fields.get(name, row.get(name))
    return tuple(value) if isinstance(value, list) else value


def _names(groups: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], str]:
    """Name each group by its keys, as a file may be called."""
    names: dict[tuple[Any, ...], str] = {}
    for keys in groups:
        text = "_".join(_spell(key) for key in keys) or "all"
        if text in names.values() or len(text) > 100:
            digest = hashlib.sha256(repr(keys).encode()).hexdigest()[:8]
            text = f"{text[:100]}~{digest}"
        names[keys] = text
    return names


def _spell(key: Any) -> str:
    text = "x".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return "".join(c if c.isalnum() or c in "-+." else "-" for c in text).strip(".") or "none"


def _state(
    members: Sequence[Mapping[str, Any]], settings: Settings, wanted: CombinedSettings
) -> str:
    """Say in short what a set is made of."""
    what = [list(members), wanted.pattern, wanted.format, dict(wanted.options),
            settings.prefix, dict(settings.scan)]  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _is_in_place(folder: CatalogFolder, row: Mapping[str, Any]) -> bool:
    if row["status"] != "ok":
        return False
    return checksum(folder.path / row["path"]) == (row["document_size"], row["document_crc"])


def _combine(
    folder: CatalogFolder,
    settings: Settings,
    wanted: CombinedSettings,
    name: str,
    members: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    try:
        references = scan_sequence(
            _table(members, wanted),
            pattern=wanted.pattern,
            storage_options=settings.storage_options,
            **{**_known(settings.scan), **wanted.options},
        )
        path = f"{_FOLDER}/{name}{FORMATS[wanted.format]}"
        found = _write(references, folder.path / path, settings, wanted.format)
    except CatalogError:
        raise
    except TiffrefError as error:
        return {"status": "failed", "error": str(error), "error_type": type(error).__name__}
    array = references.group[main_path(references)]
    shape = dict(zip(array.dims, array.shape, strict=True))  # type: ignore[union-attr]
    return {
        "status": "ok", "path": path, "shape": shape,
        "document_size": found[0], "document_crc": found[1],
    }  # fmt: skip


def _known(scan: Mapping[str, Any]) -> dict[str, Any]:
    """Give those arguments of `scan` that `scan_sequence` takes as well."""
    names = ("series", "level", "key", "chunkmode", "fillvalue", "zattrs")
    return {name: scan[name] for name in names if name in scan}


def _table(members: Sequence[Mapping[str, Any]], wanted: CombinedSettings) -> Any:
    """Give the files, with the fields that came from a table if there is no pattern."""
    urls = [row["url"] for row in members]
    names = dict.fromkeys(name for row in members for name in row["fields"] or {})
    if wanted.pattern is not None or not names:
        return urls
    columns = {name: [row["fields"].get(name) for row in members] for name in names}
    varying = {k: v for k, v in columns.items() if k not in wanted.group_by and len(set(v)) > 1}
    return {"url": urls, **varying}


def _write(
    references: References, target: Path, settings: Settings, format: str
) -> tuple[int, int]:
    """Put a set in place, whole; give its size and checksum."""
    scratch = Path(settings.scratch) / target.name
    options: dict[str, Any] = {"rename": settings.rename, "series": references.series}
    if format == "json":
        write_json(references.group, scratch, **options)
    else:
        write_parquet(references.group, scratch, **options)
    found = checksum(scratch)
    assert found is not None
    with explain_output(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(target)
        os.replace(scratch, target)  # noqa: PTH105 - a folder too
    return found


def _remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
