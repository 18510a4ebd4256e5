"""Where references come from, recorded in the root's attributes.

Owns the attribute `tiffref`: which sources with which size, modification time and ETag, and which
series and levels became which array, or why not. It is a JSON *string*, so that netCDF export of an
opened dataset still works and every Zarr reader takes it. The schema is
`schemas/provenance.schema.json`.

Sources are columns, one list for each field, behind one common prefix: a catalog has a hundred
thousand of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidReferences
from ..io.urls import from_document_url, shared_folder, to_document_url
from ..model.manifest import Source
from .zarr_metadata import to_text

__all__ = ["PROVENANCE", "Provenance", "check_series", "format_provenance", "parse_provenance"]

PROVENANCE = "tiffref"
"""Name of the attribute."""

_VERSION = 1
_NONE = type(None)
_TEXT = (str, _NONE)
_FIELDS: Mapping[str, set[type]] = {
    "size": {int, _NONE}, "mtime": {int, float, _NONE}, "etag": {str, _NONE}
}  # fmt: skip
_LINKS = "real"
_SEAL = re.compile("[0-9a-f]{64}")
_SHARED = "size"
"""What a file and its copy elsewhere have in common; times and ETags are those of a server."""
_SERIES = {"index": int, "kind": str, "name": str, "axes": str, "levels": list, "sequence": dict}
_LEVEL = {"path": str, "refused": str}
_SEQUENCE = {"dims": list, "files": int, "pattern": _TEXT, "formats": dict, "concat": dict,
             "time_from": _TEXT, "n_holes": int, "unreadable": list}  # fmt: skip
"""Columns and members of objects, and of what kinds they are."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the attribute says, as `format_provenance` was given it, with the document's addresses.

    `seal` is None where there is none, or none that could be ours.
    """

    sources: list[Source] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    seal: str | None = None
    links: Mapping[str, str] = field(default_factory=dict)


def format_provenance(
    sources: Iterable[Source],
    addresses: Mapping[str, str],
    series: Sequence[Mapping[str, Any]] = (),
    seal: str | None = None,
    links: Mapping[str, str] | None = None,
) -> str | None:
    """Return the attribute's text.

    Parameters
    ----------
    sources
        All sources of a document, each once.
    addresses
        Address of each source in the document.
    series
        One mapping for each series: `index`, `kind`, `name`, `axes`, and `levels`, each with the
        `path` of its array or the reason why it was `refused`.
    seal
        What stands in the place of a seal; None for a document without one.
    links
        Where local sources lead that are reached through links.

    Returns
    -------
    text
        None where there is nothing to say.
    """
    rows = list(sources)
    if not rows and not series:
        return None
    urls = [addresses[source.url] for source in rows]
    prefix = shared_folder(urls) if len(urls) > 1 else ""
    columns: dict[str, Any] = {"url": [url[len(prefix) :] for url in urls]}
    if prefix:
        columns = {"prefix": prefix} | columns
    is_same = [_is_address_of(source, url) for source, url in zip(rows, urls, strict=True)]
    for name in _FIELDS:
        values = [
            getattr(source, name) if same or name == _SHARED else None
            for source, same in zip(rows, is_same, strict=True)
        ]
        if any(value is not None for value in values):
            columns[name] = values
    if links:
        columns[_LINKS] = [
            links.get(source.url) if same else None
            for source, same in zip(rows, is_same, strict=True)
        ]
    document: dict[str, Any] = {"version": _VERSION, "sources": columns}
    if seal is not None:
        document["seal"] = seal
    document["series"] = series
    return to_text(document, PROVENANCE)


def _is_address_of(source: Source, address: str) -> bool:
    """Return whether a document names the very file that was scanned, not a copy elsewhere."""
    return address == source.url or address == to_document_url(source.url)


def parse_provenance(text: Any) -> Provenance:
    """Read the attribute.

    Raises
    ------
    InvalidReferences
        If the text is not what the schema says.
    """
    try:
        document = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _invalid("is not JSON", text, "a JSON string") from error
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise _invalid("has another version", text, f'an object with "version": {_VERSION}')
    columns, series = document.get("sources"), document.get("series")
    if not isinstance(columns, dict) or not _is_table(columns):
        raise _invalid("has no table of sources", columns, "columns of one length")
    if not isinstance(series, list) or not all(isinstance(row, dict) for row in series):
        raise _invalid("has no list of series", series, "a list of objects")
    urls = columns["url"]
    prefix = columns.get("prefix", "")
    fields = [columns.get(name, [None] * len(urls)) for name in _FIELDS]
    sources = [
        Source(from_document_url(prefix + url), *values)
        for url, *values in zip(urls, *fields, strict=True)
    ]
    seal = document.get("seal")
    is_seal = isinstance(seal, str) and _SEAL.fullmatch(seal) is not None
    real = columns.get(_LINKS, [])
    links = {source.url: path for source, path in zip(sources, real, strict=False) if path}
    return Provenance(sources, series, seal if is_seal else None, links)


def check_series(series: Sequence[Mapping[str, Any]], paths: Container[str]) -> None:
    """Check that the record of series is what it should be, and speaks of arrays that are there.

    Parameters
    ----------
    series
        From `parse_provenance`.
    paths
        Of the arrays of the document.

    Raises
    ------
    InvalidReferences
        If it is not.
    """
    for row in series:
        if not _fits(row, _SERIES) or not row.keys() >= {"index", "levels"} or not row["levels"]:
            raise _invalid("has an odd series", row, f"members {', '.join(_SERIES)}")
        for level in row["levels"]:
            if not _fits(level, _LEVEL) or len(_LEVEL.keys() & level) != 1:
                raise _invalid("has an odd level", level, "its path, or why it was refused")
            if "path" in level and level["path"] not in paths:
                raise _invalid("names an array that is not there", level["path"], "a path")
        sequence = row.get("sequence", {"dims": []})
        if not _fits(sequence, _SEQUENCE) or "dims" not in sequence:
            raise _invalid("has an odd sequence", sequence, f"members {', '.join(_SEQUENCE)}")


def _fits(row: Any, kinds: Mapping[str, Any]) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row[name], kind) for name, kind in kinds.items() if name in row
    )


def _is_table(columns: Mapping[str, Any]) -> bool:
    lists = [value for name, value in columns.items() if name != "prefix"]
    return (
        isinstance(columns.get("url"), list)
        and isinstance(columns.get("prefix", ""), str)
        and all(isinstance(value, list) for value in lists)
        and len({len(value) for value in lists}) == 1
        and {*map(type, columns["url"])} <= {str}
        and {*map(type, columns.get(_LINKS, ()))} <= set(_TEXT)
        and all({*map(type, columns.get(name, ()))} <= kinds for name, kinds in _FIELDS.items())
    )


def _invalid(what: str, got: object, expected: str) -> InvalidReferences:
    return InvalidReferences(
        f"the provenance {what}",
        tag=f"attribute '{PROVENANCE}'",
        got=repr(got)[:80],
        expected=expected,
    )
