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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InvalidReferences
from ..model.manifest import Source
from .documents import to_plain
from .urls import from_document_url, shared_folder

__all__ = ["PROVENANCE", "parse_provenance", "spell_provenance"]

PROVENANCE = "tiffref"
"""Name of the attribute."""

_VERSION = 1
_FIELDS = ("size", "mtime", "etag")


def spell_provenance(
    sources: Iterable[Source],
    addresses: Mapping[str, str],
    series: Sequence[Mapping[str, Any]] = (),
) -> str | None:
    """Give the attribute's text.

    Parameters
    ----------
    sources
        All sources of a document, each once.
    addresses
        Address of each source in the document.
    series
        One mapping for each series: `index`, `kind`, `name`, `axes`, and `levels`, each with the
        `path` of its array or the reason why it was `refused`.

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
    for name in _FIELDS:
        values = [getattr(source, name) for source in rows]
        if any(value is not None for value in values):
            columns[name] = values
    document = {
        "version": _VERSION,
        "sources": columns,
        "series": to_plain(list(series), PROVENANCE),
    }
    return json.dumps(document, separators=(",", ":"))


def parse_provenance(text: Any) -> tuple[list[Source], list[dict[str, Any]]]:
    """Read the attribute.

    Returns
    -------
    sources, series
        What `spell_provenance` was given, with the addresses of the document.

    Raises
    ------
    InvalidReferences
        If the text is not what the schema says.
    """
    try:
        document = json.loads(text)
    except (TypeError, ValueError) as error:
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
    return sources, series


def _is_table(columns: Mapping[str, Any]) -> bool:
    lists = [value for name, value in columns.items() if name != "prefix"]
    return (
        isinstance(columns.get("url"), list)
        and isinstance(columns.get("prefix", ""), str)
        and all(isinstance(value, list) for value in lists)
        and len({len(value) for value in lists}) == 1
        and all(isinstance(url, str) for url in columns["url"])
    )


def _invalid(what: str, got: object, expected: str) -> InvalidReferences:
    return InvalidReferences(
        f"the provenance {what}",
        tag=f"attribute '{PROVENANCE}'",
        got=repr(got)[:80],
        expected=expected,
    )
