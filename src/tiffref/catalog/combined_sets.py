"""Combined sets of a catalog: files as arrays with the axes of their sequence in front.

Owns which files make a set, what a set is called, when it is made again, and the record of all
sets. Workers make them, one each.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CatalogError, SelectionError, TiffrefError
from ..model.array import Array
from ..sequences.stack import scan_sequence
from .build_summary import Counts
from .executors import JobQueue, Pool
from .storage import Folder, Journal
from .worker import FORMATS, Settings, write_references

RECORD = "combined.json"
_FOLDER = "combined"
_RECORD_S = 5.0
"""How often the record is written: with thousands of sets it is long, and sets made since are but
made again."""
_MEMBER = ("url", "size", "mtime", "etag", "fields")
"""What a set is made of: these columns of each of its files."""
_SCAN_OPTIONS = ("series", "level", "key", "chunkmode", "fillvalue", "zattrs")
"""Arguments of `scan` that `scan_sequence` takes as well."""


@dataclass(frozen=True, slots=True)
class CombinedSettings:
    """How files are combined.

    `pattern` gives their axes; `group_by` names fields or columns of the index; `format` is
    "parquet" or "json"; `options` go to `scan_sequence`; `signed` are addresses by which files are
    read, where the journal has another one.
    """

    pattern: str | None
    group_by: Sequence[str]
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)
    signed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Set:
    """One set to make: `row` is what is known of it, `members` are what is known of its files."""

    row: Mapping[str, Any]
    members: Sequence[Mapping[str, Any]]


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

    Returns
    -------
    A row for each set: `name`, `keys`, `status`, `path` or `error`, `n_files`, `shape`.
    """
    folder = settings.folder
    before = {row["name"]: row for row in _read_record(folder)}
    groups = _group(journal.rows(order), wanted.group_by)
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

    def pieces() -> Iterator[tuple[_Set]]:
        holds = folder.survey()
        show(counts)
        for name, (keys, urls) in groups.items():
            one = _describe_set(name, keys, journal.rows(urls), settings, wanted)
            known = before.get(name, {"status": "none"})
            is_same = known["status"] == "ok" and known["state"] == one.row["state"]
            if is_same and holds(known["path"], known["document_size"], known["document_crc"]):
                take(known)
            else:
                yield (one,)

    run = functools.partial(_combine, settings, replace(wanted, signed={}))
    JobQueue(pool, run, take, lambda one, error: take(_failed(one, error))).work(pieces())
    found = [done[name] for name in groups]
    for path in {row.get("path") for row in before.values()} - {row.get("path") for row in found}:
        if path is not None:
            folder.remove(path)
    if found != list(before.values()):
        _write_record(folder, found)
    return found


def _read_record(folder: Folder) -> list[dict[str, Any]]:
    """Return the record of combined sets; none if there is no record, and they are made again."""
    try:
        return json.loads(folder.read(RECORD) or b"[]")
    except ValueError:  # nothing waits for the disk: power was lost
        return []


def _write_record(folder: Folder, rows: Iterable[Mapping[str, Any]]) -> None:
    folder.put(RECORD, json.dumps(list(rows), indent=1).encode() + b"\n")


def _group(
    rows: Iterable[Mapping[str, Any]], group_by: Sequence[str]
) -> dict[str, tuple[tuple[Any, ...], list[str]]]:
    """Return for the name of each group its keys and its files."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row["status"] == "ok":
            keys = tuple(_key(row, name) for name in group_by)
            groups.setdefault(keys, []).append(row["url"])
    named: dict[str, tuple[tuple[Any, ...], list[str]]] = {}
    for keys, urls in sorted(groups.items(), key=lambda item: str(item[0])):
        name = "_".join(_format_key(key) for key in keys) or "all"
        if name in named or len(name) > 100:
            name = f"{name[:100]}~{hashlib.sha256(repr(keys).encode()).hexdigest()[:8]}"
        named[name] = keys, urls
    return named


def _key(row: Mapping[str, Any], name: str) -> Any:
    fields = row.get("fields", {})
    value = fields.get(name, row.get(name, fields))
    if isinstance(value, Mapping):
        raise SelectionError(
            "files cannot be grouped by what they do not have", url=row["url"], got=name,
            expected=sorted({*fields, "crs", "dtype", "codec", "shape", "dims"}),
        )  # fmt: skip
    return tuple(value) if isinstance(value, list) else value


def _format_key(key: Any) -> str:
    """Spell a key as a file may be called."""
    text = "x".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return "".join(c if c.isalnum() or c in "-+." else "-" for c in text).strip(".") or "none"


def _describe_set(
    name: str,
    keys: Sequence[Any],
    rows: Iterable[Mapping[str, Any]],
    settings: Settings,
    wanted: CombinedSettings,
) -> _Set:
    members: list[dict[str, Any]] = [
        {column: row.get(column) for column in _MEMBER} for row in rows
    ]
    made_of = [members, wanted.pattern, wanted.format, dict(wanted.options),
               settings.prefix, dict(settings.scan)]  # fmt: skip
    text = json.dumps(made_of, sort_keys=True, default=str)
    row = {
        "name": name,
        "keys": dict(zip(wanted.group_by, keys, strict=True)),
        "state": hashlib.sha256(text.encode()).hexdigest(),
        "n_files": len(members),
    }
    read = [{**one, "url": wanted.signed.get(one["url"], one["url"])} for one in members]
    return _Set(row, read)


def _combine(settings: Settings, wanted: CombinedSettings, sets: tuple[_Set]) -> dict[str, Any]:
    """Make one set, in a worker, and return its row."""
    (one,) = sets
    known = {name: settings.scan[name] for name in _SCAN_OPTIONS if name in settings.scan}
    path = f"{_FOLDER}/{one.row['name']}{FORMATS[wanted.format]}"
    try:
        references = scan_sequence(
            _table(one.members, wanted),
            pattern=wanted.pattern,
            storage_options=settings.storage_options,
            **{**known, **wanted.options},
        )
        size, crc = write_references(references, path, settings, wanted.format)
    except CatalogError:
        raise
    except TiffrefError as error:
        return _failed(one, error)
    array = references.group[references.main_path]
    assert isinstance(array, Array)
    return {
        **one.row, "status": "ok", "path": path,
        "shape": dict(zip(array.dims, array.shape, strict=True)),
        "document_size": size, "document_crc": crc,
    }  # fmt: skip


def _failed(one: _Set, error: BaseException) -> dict[str, Any]:
    return {**one.row, "status": "failed", "error": str(error), "error_type": type(error).__name__}


def _table(members: Sequence[Mapping[str, Any]], wanted: CombinedSettings) -> Any:
    """Return the files, with the fields that came from a table if there is no pattern."""
    urls = [row["url"] for row in members]
    names = dict.fromkeys(name for row in members for name in row["fields"] or {})
    if wanted.pattern is not None or not names:
        return urls
    columns = {name: [row["fields"].get(name) for row in members] for name in names}
    varying = {k: v for k, v in columns.items() if k not in wanted.group_by and len(set(v)) > 1}
    return {"url": urls, **varying}
