"""Reference documents of kerchunk, as JSON, versions 0 and 1.

Owns the way from a group to a document: `to_kerchunk` gives the dictionary, `write_json` the file,
row by row from the columns of the manifest. Metadata is spelled by `documents`, chunk keys by
`rows`; the way back is in `kerchunk_read`.

The document is the one that every reader opens: "version" first, the root's metadata first of the
references (GDAL looks at the first kilobyte), metadata as JSON strings (zarrita and VirtualiZarr
take no objects), no templates unless asked for and never `gen` (GDAL refuses both), byte ranges
always as [url, offset, length], and nothing else at the top level.

Follows https://fsspec.github.io/kerchunk/spec.html.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidReferences
from ..model.kept import once_for_each
from ..model.node import Array, Group
from .atomic import open_atomic
from .plan import plan_document
from .recode import in_format
from .rows import FEW_ROWS, KeySpelling, Rows, iter_rows, spell_inlined
from .text import format_numbers, join_columns, pick_texts

__all__ = ["to_kerchunk", "write_json"]

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_encode_array = once_for_each(_encode)
_quote = json.JSONEncoder().encode
_quote_lines = json.JSONEncoder(separators=(",\n", ":")).encode
"""Made once: a document of a small file has a hundred short texts. The last takes a mapping of
texts: an entry on each line, in braces."""


def to_kerchunk(
    group: Group,
    *,
    zarr_format: int = 2,
    version: int = 1,
    rename: Callable[[str], str] | None = None,
    templates: Mapping[str, str] | None = None,
    series: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Give the reference document of a group as a dictionary.

    Parameters
    ----------
    group
        The root.
    zarr_format
        Of the metadata, 2 or 3. Only 2 opens in `xarray.open_dataset(engine="kerchunk")`.
    version
        Of the document, 1 or 0.
    rename
        Gives the address in the document for each source; by default local paths become "file://"
        addresses.
    templates
        Name to text; addresses that begin with the text have "{{name}}" instead. Needs version 1.
    series
        What `provenance` records of the series of the source, as plain values.

    Raises
    ------
    ManifestMismatch
        If an array has more than one codec.
    InvalidReferences
        If an attribute or an address has no form in the document.
    """
    group = in_format(group, zarr_format)
    plan = _plan(group, zarr_format, version, rename, templates, series)
    refs: dict[str, Any] = dict(plan.metadata)
    for path, array in group.arrays():
        spelling = KeySpelling.of(path, zarr_format)
        urls = [plan.addresses[source.url] for source in array.manifest.sources]
        for rows in iter_rows(array.manifest):
            keys = spelling.keys(array.grid, rows.flat)
            refs.update(zip(keys, _values(urls, rows), strict=True))
        refs.update(_inlined(spelling, array))
    if version == 0:
        return refs
    head: dict[str, Any] = {"version": 1}
    if plan.templates:
        head["templates"] = dict(plan.templates)
    return {**head, "refs": refs}


def write_json(
    group: Group,
    path: str | os.PathLike[str] | Any,
    *,
    zarr_format: int = 2,
    version: int = 1,
    rename: Callable[[str], str] | None = None,
    templates: Mapping[str, str] | None = None,
    series: Sequence[Mapping[str, Any]] = (),
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write the reference document of a group as JSON, whole or not at all.

    Parameters
    ----------
    group
        The root.
    path
        Path, URL, or a file open for writing (text or binary).
    zarr_format, version, rename, templates, series
        As in `to_kerchunk`.
    storage_options
        For the file system of a URL.

    Raises
    ------
    ManifestMismatch, InvalidReferences
        As in `to_kerchunk`.
    SourceError
        If the file cannot be written.
    """
    group = in_format(group, zarr_format)
    plan = _plan(group, zarr_format, version, rename, templates, series)
    with open_atomic(path, storage_options) as file:
        for text in _iter_json(group, plan, zarr_format, version):
            file.write(text)


def _plan(
    group: Group,
    zarr_format: int,
    version: int,
    rename: Callable[[str], str] | None,
    templates: Mapping[str, str] | None,
    series: Sequence[Mapping[str, Any]],
) -> _JsonPlan:
    if isinstance(version, bool) or version not in (0, 1):
        raise InvalidReferences("no such version of documents", got=version, expected="0 or 1")
    plan = plan_document(group, zarr_format, rename, series)
    metadata = {
        key: (_encode_array if key.endswith(".zarray") else _encode)(value)
        for key, value in plan.documents.items()
    }
    if not templates or version == 0:
        return _JsonPlan(metadata, plan.addresses)
    used = {url: _use_template(address, templates) for url, address in plan.addresses.items()}
    return _JsonPlan(metadata, used, templates)


@dataclass(frozen=True, slots=True)
class _JsonPlan:
    metadata: Mapping[str, str]
    """Key to JSON text."""
    addresses: Mapping[str, str]
    """Address of a source in the model to that in the document."""
    templates: Mapping[str, str] = field(default_factory=dict)


def _use_template(address: str, templates: Mapping[str, str]) -> str:
    # readers run addresses with "{{" through a formatter, which takes every other brace amiss
    if "{" in address or "}" in address:
        raise InvalidReferences(
            "an address with braces cannot be written with templates",
            url=address,
            hint="Write the references without `templatename`.",
        )
    for name, text in templates.items():
        if text and address.startswith(text):
            return "{{" + name + "}}" + address[len(text) :]
    return address


# ---- rows


def _values(urls: Sequence[str], rows: Rows) -> list[list]:
    sources = [urls[row] for row in rows.source.tolist()]
    if rows.is_whole:
        return [[url] for url in sources]
    columns = sources, rows.offset.tolist(), rows.length.tolist()
    return [list(row) for row in zip(*columns, strict=True)]


def _inlined(spelling: KeySpelling, array: Array) -> Iterator[tuple[str, str]]:
    for flat, data in sorted(array.manifest.inlined.items()):
        yield spelling.key(array.grid, flat), spell_inlined(data)


def _iter_json(group: Group, plan: _JsonPlan, zarr_format: int, version: int) -> Iterator[bytes]:
    """Give the document piece by piece, every piece after the metadata with its comma in front."""
    metadata = _quote_lines(plan.metadata)[1:-1]
    templates = f'"templates":{json.dumps(plan.templates)},' if plan.templates else ""
    head = f'{{"version":1,{templates}"refs":{{' if version == 1 else "{"
    yield f"{head}\n{metadata}".encode()
    for path, array in group.arrays():
        spelling = KeySpelling.of(path, zarr_format)
        if array.manifest.sources:
            quoted = KeySpelling(
                *(_quote(part)[1:-1]
                  for part in (spelling.prefix, spelling.separator, spelling.scalar))
            )  # fmt: skip
            urls = [_quote(plan.addresses[s.url]).encode() for s in array.manifest.sources]
            for rows in iter_rows(array.manifest):
                yield _json_rows(quoted, array.grid, urls, rows)
        for key, value in _inlined(spelling, array):
            yield f",\n{_quote(key)}:{_quote(value)}".encode()
    yield b"\n}}\n" if version == 1 else b"\n}\n"


def _json_rows(
    spelling: KeySpelling, grid: tuple[int, ...], urls: Sequence[bytes], rows: Rows
) -> bytes:
    if len(rows.flat) <= FEW_ROWS:
        keys = spelling.keys(grid, rows.flat)
        values = _values([url.decode() for url in urls], rows)
        lines = [
            f',\n"{key}":[{",".join(map(str, value))}]'
            for key, value in zip(keys, values, strict=True)
        ]
        return "".join(lines).encode()
    columns = [b',\n"', *spelling.columns(grid, rows.flat), b'":[', pick_texts(urls, rows.source)]
    if not rows.is_whole:
        columns += [b",", format_numbers(rows.offset), b",", format_numbers(rows.length)]
    return join_columns(len(rows.flat), [*columns, b"]"])
