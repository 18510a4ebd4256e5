"""Combined sets: the files of a catalog as arrays with the axes of their sequence in front.

Owns which files go together and what becomes of sets that cannot be made. The work is
`sequences.sequence`'s.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import CatalogError, SelectionError, TiffrefError
from ..formats.kerchunk import write_json
from ..formats.parquet import write_parquet
from ..model.node import Array
from ..references import References
from ..sequences.sequence import scan_sequence
from .executors import Pool
from .folder import Folder, Holds, checksum
from .handing import Handing
from .journal import Journal
from .outline import main_path
from .plan import FORMATS, Settings
from .progress import Counts

__all__ = ["RECORD", "CombinedSettings", "GroupTask", "combine_group", "combine_groups"]

RECORD = "combined.json"
_FOLDER = "combined"
_RECORD_S = 5.0
"""How often the record is written: with thousands of sets it is long, and sets made since are but
made again."""


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


@dataclass(frozen=True, slots=True)
class GroupTask:
    """One set to make: `row` is what is known of it, `members` are what is known of its files."""

    row: Mapping[str, Any]
    members: tuple[Mapping[str, Any], ...]
    settings: Settings
    wanted: CombinedSettings


def combine_groups(
    pool: Pool,
    journal: Journal,
    order: Iterable[str],
    settings: Settings,
    wanted: CombinedSettings,
    show: Callable[[Counts], None],
) -> list[dict[str, Any]]:
    """Write a combined set for each group of files, and the record of all sets.

    A set whose files are those of the last run is left as it is. Of files that are not at work now
    only the addresses are in memory.

    Parameters
    ----------
    pool
        Who makes them.
    journal, order
        What is known of the files, and their order.
    settings, wanted
        Of the build, and of its combined sets.
    show
        Called with how far it has come.

    Returns
    -------
    A row for each set: `name`, `keys`, `status`, `path` or `error`, `n_files`, `shape`.
    """
    folder = settings.folder
    before = {row["name"]: row for row in _read_record(folder)}
    groups = _group(journal.rows(order), wanted.group_by)
    names = _names(groups)
    done: dict[str, dict[str, Any]] = {}

    counts = Counts(len(groups), what="combined set")
    written_s = time.monotonic()

    def take(row: dict[str, Any]) -> None:
        nonlocal written_s
        done[row["name"]] = row
        counts.n_done += 1
        counts.n_failed += row["status"] != "ok"
        show(counts)
        if time.monotonic() > written_s + _RECORD_S:
            _write_record(folder, {**before, **done}.values())
            written_s = time.monotonic()

    def tasks() -> Iterator[GroupTask]:
        holds = folder.survey()
        show(counts)
        for keys, urls in groups.items():
            task = _task(names[keys], keys, journal.rows(urls), settings, wanted)
            known = before.get(task.row["name"], {})
            if known.get("state") == task.row["state"] and _is_in_place(holds, known):
                take(known)
            else:
                yield task

    handing = Handing(pool, combine_group, take, lambda task: (task,),
                      lambda task, error: take({**task.row, **_failed(error)}))  # fmt: skip
    handing.work(tasks())
    found = [done[name] for name in names.values()]
    for path in {row.get("path") for row in before.values()} - {row.get("path") for row in found}:
        if path is not None:
            folder.remove(path)
    if found != list(before.values()):
        _write_record(folder, found)
    return found


def _read_record(folder: Folder) -> list[dict[str, Any]]:
    """Give the record of combined sets; none if there is no record, and they are made again."""
    try:
        return json.loads(folder.read(RECORD) or b"[]")
    except ValueError:  # nothing waits for the disk: power was lost
        return []


def _write_record(folder: Folder, rows: Iterable[Mapping[str, Any]]) -> None:
    folder.put(RECORD, json.dumps(list(rows), indent=1).encode() + b"\n")


def _group(
    rows: Iterable[Mapping[str, Any]], group_by: Sequence[str]
) -> dict[tuple[Any, ...], list[str]]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row["status"] == "ok":
            keys = tuple(_key(row, name) for name in group_by)
            groups.setdefault(keys, []).append(row["url"])
    return dict(sorted(groups.items(), key=lambda item: str(item[0])))


def _task(
    name: str,
    keys: Sequence[Any],
    rows: Iterable[Mapping[str, Any]],
    settings: Settings,
    wanted: CombinedSettings,
) -> GroupTask:
    members = tuple(
        {column: row.get(column) for column in ("url", "size", "mtime", "etag", "fields")}
        for row in rows
    )
    row = {
        "name": name,
        "keys": dict(zip(wanted.group_by, keys, strict=True)),
        "state": _state(members, settings, wanted),
        "n_files": len(members),
    }
    return GroupTask(row, members, settings, wanted)


def _key(row: Mapping[str, Any], name: str) -> Any:
    fields = row.get("fields", {})
    value = fields.get(name, row.get(name, fields))
    if isinstance(value, Mapping):
        raise SelectionError(
            "files cannot be grouped by what they do not have", url=row["url"], got=name,
            expected=sorted({*fields, "crs", "dtype", "codec", "shape", "dims"}),
        )  # fmt: skip
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


def _is_in_place(holds: Holds, row: Mapping[str, Any]) -> bool:
    if row["status"] != "ok":
        return False
    return holds(row["path"], row["document_size"], row["document_crc"])


def combine_group(task: GroupTask) -> dict[str, Any]:
    """Make one set, and give its row.

    Raises
    ------
    CatalogError
        If it cannot be written.
    """
    settings, wanted = task.settings, task.wanted
    try:
        references = scan_sequence(
            _table(task.members, wanted),
            pattern=wanted.pattern,
            storage_options=settings.storage_options,
            **{**_known(settings.scan), **wanted.options},
        )
        path = f"{_FOLDER}/{task.row['name']}{FORMATS[wanted.format]}"
        found = _write(references, path, settings, wanted.format)
    except CatalogError:
        raise
    except TiffrefError as error:
        return {**task.row, **_failed(error)}
    array = references.group[main_path(references)]
    assert isinstance(array, Array)
    return {
        **task.row, "status": "ok", "path": path,
        "shape": dict(zip(array.dims, array.shape, strict=True)),
        "document_size": found[0], "document_crc": found[1],
    }  # fmt: skip


def _failed(error: BaseException) -> dict[str, Any]:
    return {"status": "failed", "error": str(error), "error_type": type(error).__name__}


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


def _write(references: References, path: str, settings: Settings, format: str) -> tuple[int, int]:
    """Put a set in place, whole; give its size and checksum."""
    write = write_json if format == "json" else write_parquet
    with settings.folder.making(path) as made:
        write(references.group, made, rename=settings.rename, series=references.series)
        found = checksum(made)
    assert found is not None
    return found
