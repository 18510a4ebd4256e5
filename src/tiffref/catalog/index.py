"""The index of a catalog: `catalog.parquet`, a row for each file.

Owns its columns and how it is written: as GeoParquet, block by block from the rows of the journal,
so that a million rows are never in memory. Equal rows give equal bytes.

Reference: GeoParquet 1.1.0.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingExtra, install_hint
from ..formats.urls import from_document_url, to_document_url
from .footprint import footprint, outline_of, ring_bounds, to_wkb

__all__ = [
    "INDEX",
    "field_kinds",
    "import_pyarrow",
    "index_address",
    "place_row",
    "read_index",
    "write_index",
]

INDEX = "catalog.parquet"
_BLOCK_ROWS = 500
"""Rows that are Python objects at once, some 5 KB each."""
_GROUP_BLOCKS = 20
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "orientation": "counterclockwise",
            "geometry_types": ["Polygon", "MultiPolygon"],
            "covering": {
                "bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
            },
        }
    },
}
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def import_pyarrow() -> Any:
    """Give pyarrow.

    Raises
    ------
    MissingExtra
        If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("catalogs need pyarrow", hint=install_hint("catalog")) from error
    return pyarrow


def _columns(pa: Any) -> dict[str, Any]:
    """Give the columns that every index has, with their types."""
    text, whole, number = pa.string(), pa.int64(), pa.float64()
    return {
        "url": text,
        "status": text,
        "error": text,
        "error_type": text,
        "references": text,
        "size": whole,
        "mtime": number,
        "etag": text,
        "shape": pa.list_(whole),
        "dims": pa.list_(text),
        "dtype": text,
        "chunks": pa.list_(whole),
        "codec": text,
        "nodata": number,
        "nbytes": whole,
        "n_series": whole,
        "n_levels": whole,
        "n_chunks": whole,
        "missing_chunks": whole,
        "stored_bytes": whole,
        "largest_chunk": whole,
        "crs": text,
        "transform": pa.list_(number),
        "bounds": pa.list_(number),
        "time": pa.timestamp("us", "UTC"),
        "warnings": pa.list_(text),
        "bbox": pa.struct([(side, number) for side in _SIDES]),
        "geometry": pa.binary(),
    }


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"), (int, "int64"), (float, "float64"), (str, "string"),
)  # fmt: skip


def field_kinds(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Find the types of the fields that names and tables gave: those that fit all rows."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.get("fields", {}).items():
            kind = next(label for kind, label in _KINDS if isinstance(value, kind))
            found.setdefault(name, set()).add(kind)
    kinds = {}
    for name, seen in sorted(found.items()):
        if seen == {"int64", "float64"}:
            kinds[name] = "float64"
        else:
            kinds[name] = seen.pop() if len(seen) == 1 else "string"
    return kinds


def write_index(rows: Iterable[Mapping[str, Any]], path: Path, fields: Mapping[str, str]) -> None:
    """Write the index.

    Parameters
    ----------
    rows
        Rows of the journal in the order that they are to have.
    fields
        Name and type of further columns; one called `time` is used where a file tells no time, and
        other names that the index has itself get "field_" in front.
    """
    pa = import_pyarrow()
    columns = _columns(pa)
    names = {
        name: f"field_{name}" if name in columns else name for name in fields if name != "time"
    }
    own = {names[name]: getattr(pa, fields[name])() for name in names}
    schema = pa.schema(
        [*columns.items(), *own.items()], metadata={"geo": json.dumps(_GEO, sort_keys=True)}
    )
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        group: list[Any] = []
        for block in _blocks(rows):
            group.append(_to_table(pa, block, columns, names, own, schema))
            if len(group) == _GROUP_BLOCKS:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))


def _to_table(
    pa: Any,
    block: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Any],
    names: Mapping[str, str],
    own: Mapping[str, Any],
    schema: Any,
) -> Any:
    placed = [place_row(row) for row in block]
    table = {
        name: _column(pa, [row.get(name) for row in placed], kind) for name, kind in columns.items()
    }
    for name, target in names.items():
        values = [row.get("fields", {}).get(name) for row in block]
        if own[target] == pa.string():
            values = [None if value is None else str(value) for value in values]
        table[target] = _column(pa, values, own[target])
    return pa.table(table, schema)


def _column(pa: Any, values: list[Any], kind: Any) -> Any:
    """Give a column; bytes of file names that are no UTF-8 are spelled as Python escapes them."""
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array([_escaped(value) for value in values], kind)


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _blocks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    remaining = iter(rows)
    yield list(itertools.islice(remaining, _BLOCK_ROWS))
    while block := list(itertools.islice(remaining, _BLOCK_ROWS)):
        yield block


def place_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give a row with its bounds, footprint and time."""
    placed = dict(row)
    placed["time"] = _moment(row)
    if row.get("transform") and row.get("raster"):
        placed.update(_placed(row.get("crs"), tuple(row["transform"]), tuple(row["raster"])))
    return placed


@functools.lru_cache(maxsize=1024)
def _placed(
    crs: str | None, transform: tuple[float, ...], raster: tuple[int, ...]
) -> dict[str, Any]:
    """Give bounds and footprint: files of one place are many in an archive."""
    outline = outline_of(transform, raster, range(4))
    placed: dict[str, Any] = {
        "bounds": [*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist()]
    }
    rings = footprint(crs, transform, raster)
    if rings is not None:
        placed["rings"] = rings
        placed["geometry"] = to_wkb(rings)
        placed["bbox"] = dict(zip(_SIDES, ring_bounds(rings), strict=True))
    return placed


def _moment(row: Mapping[str, Any]) -> datetime.datetime | None:
    """Give the time of a file: what its table or name says comes before its tags."""
    for text in (row.get("fields", {}).get("time"), row.get("time")):
        try:
            moment = datetime.datetime.fromisoformat(str(text)) if text is not None else None
        except ValueError:
            moment = None
        if moment is not None:
            return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return None


def index_address(folder: str) -> str:
    """Give the full address of the index of a catalog: the same one however its folder is named."""
    return from_document_url(to_document_url(f"{folder or '.'}/{INDEX}"))


def read_index(path: str, storage_options: Mapping[str, Any] | None = None) -> Any:
    """Give the index as a pyarrow table."""
    pa = import_pyarrow()
    import fsspec

    with fsspec.open(path, "rb", **(storage_options or {})) as file:
        data = file.read()
    # Arrow's own threads now and then abort the interpreter when it ends right after (pyarrow 26)
    reader = pa.BufferReader(data)
    return pa.parquet.ParquetFile(reader, pre_buffer=False).read(use_threads=False)
