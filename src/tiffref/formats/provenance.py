"""Provenance of references, in an attribute of the root, and the seal of a document.

The attribute `tiffref` records the sources with size, modification time and ETag, and for each
series and level its array, or why there is none. It is a JSON *string*, so that netCDF export of an
opened dataset still works and every Zarr reader accepts it. The schema is
`schemas/provenance.schema.json`. Sources are stored in columns, one list for each field, with a
common URL prefix: a catalog may have a hundred thousand of them.

A seal is made of a digest of all metadata texts and of the byte ranges of each array, independent
of the layout of the document. It is one hash over few long texts: one hash per array took as long
as writing the rest of a small document. The seal is stored in the provenance, and replaced by zeros
for the digest. For local sources behind links, the real path is recorded (`links`); if a link leads
elsewhere when the document is opened, the seal is invalid.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidReferences
from ..io.allow import is_own_seal, make_seal
from ..io.urls import from_document_url, has_scheme, shared_folder, to_document_url
from ..model.array import Array, Group
from ..model.manifest import Manifest, Source
from .zarr_metadata import to_text

PROVENANCE = "tiffref"
"""Name of the attribute."""

_VERSION = 1
_NONE = type(None)
_TEXT = (str, _NONE)
_FIELDS: Mapping[str, set[type]] = {
    "size": {int, _NONE}, "mtime": {int, float, _NONE}, "etag": {str, _NONE}
}  # fmt: skip
_LINKS = "real"
_MEMBERS = {"version", "sources", "seal", "series"}
_COLUMNS = {"prefix", "url", _LINKS, *_FIELDS}
_SEAL = re.compile("[0-9a-f]{64}")
_SERIES = {"index": int, "kind": str, "name": str, "axes": str, "levels": list, "sequence": dict,
           "damaged": str, "pages": str, "planes": str, "level": int}  # fmt: skip
_LEVEL = {"path": str, "refused": str}
_SEQUENCE = {"dims": list, "files": int, "pattern": _TEXT, "formats": dict, "concat": dict,
             "time_from": _TEXT, "n_holes": int, "unreadable": list}  # fmt: skip
"""Columns and members of objects -> their types."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The parsed attribute, as passed to `format_provenance`, with the URLs of the document.

    `seal` is None if there is none.
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
    """Return the text of the attribute.

    Parameters
    ----------
    sources
        All distinct sources of a document.
    addresses
        URL of each source in the document.
    series
        One mapping for each series: `index`, `kind`, `name`, `axes`, and `levels`, each with the
        `path` of its array or the reason why it was `refused`.
    seal
        Placeholder of the seal; None for a document without one.
    links
        Local sources behind links -> their real paths.

    Returns
    -------
    text
        None if there are no sources and no series.
    """
    rows = list(sources)
    if not rows and not series:
        return None
    urls = [addresses[source.url] for source in rows]
    prefix = shared_folder(urls) if len(urls) > 1 else ""
    columns: dict[str, Any] = {"prefix": prefix} if prefix else {}
    columns["url"] = [url[len(prefix) :] for url in urls]
    facts = [_facts(source, url, links or {}) for source, url in zip(rows, urls, strict=True)]
    for name, values in zip((*_FIELDS, _LINKS), zip(*facts, strict=True), strict=False):
        if values.count(None) < len(values):
            columns[name] = values
    document: dict[str, Any] = {"version": _VERSION, "sources": columns}
    if seal is not None:
        document["seal"] = seal
    document["series"] = series
    return to_text(document, PROVENANCE)


def _facts(source: Source, address: str, links: Mapping[str, str]) -> tuple[Any, ...]:
    """Return size, time, ETag and real path of a source; only the size if the URL is of a copy.

    Times and ETags depend on the server.
    """
    url, time = source.url, source.mtime
    if address not in (url, f"file://{url}") and address != to_document_url(url):
        return source.size, None, None, None
    is_known = time is not None and time >= 0  # a file may be from before 1970
    return source.size, time if is_known else None, source.etag, links.get(url)


def parse_provenance(text: Any) -> Provenance:
    """Parse the attribute.

    Raises
    ------
    InvalidReferences
        If the text does not match the schema.
    """
    try:
        document = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _invalid("is not JSON", text, "a JSON string") from error
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, bool) or version != _VERSION:
        raise _invalid("has an unknown version", text, f'an object with "version": {_VERSION}')
    columns, series, seal = (document.get(name) for name in ("sources", "series", "seal"))
    if not isinstance(columns, dict) or not _is_table(columns):
        expected = f"columns of one length, of {', '.join(sorted(_COLUMNS))}"
        raise _invalid("has no valid table of sources", columns, expected)
    if not isinstance(series, list) or not all(isinstance(row, dict) for row in series):
        raise _invalid("has no list of series", series, "a list of objects")
    if "seal" in document and not (isinstance(seal, str) and _SEAL.fullmatch(seal)):
        raise _invalid("has an invalid seal", seal, "64 hexadecimal digits")
    if not document.keys() <= _MEMBERS:
        unknown = min(document.keys() - _MEMBERS)
        raise _invalid("has an unknown member", unknown, f"members {', '.join(sorted(_MEMBERS))}")
    urls = columns["url"]
    prefix = columns.get("prefix", "")
    fields = [columns.get(name, [None] * len(urls)) for name in _FIELDS]
    sources = [
        Source(from_document_url(prefix + url), *values)
        for url, *values in zip(urls, *fields, strict=True)
    ]
    real = columns.get(_LINKS, [])
    links = {source.url: path for source, path in zip(sources, real, strict=False) if path}
    return Provenance(sources, series, seal, links)


def check_series(series: Sequence[Mapping[str, Any]], paths: Container[str]) -> None:
    """Check that the recorded series match the schema, and that their arrays exist.

    Parameters
    ----------
    series
        From `parse_provenance`.
    paths
        Paths of the arrays in the document.

    Raises
    ------
    InvalidReferences
        If they do not.
    """
    for row in series:
        if not _fits(row, _SERIES) or not row.keys() >= {"index", "levels"} or not row["levels"]:
            raise _invalid("has an invalid series", row, f"members {', '.join(_SERIES)}")
        for level in row["levels"]:
            if not _fits(level, _LEVEL) or len(_LEVEL.keys() & level) != 1:
                raise _invalid("has an invalid level", level, "its path, or why it was refused")
            if "path" in level and level["path"] not in paths:
                raise _invalid("names an array that does not exist", level["path"], "a path")
        sequence = row.get("sequence", {"dims": []})
        if not _fits(sequence, _SEQUENCE) or {*map(type, sequence.get("dims", [None]))} - {str}:
            raise _invalid("has an invalid sequence", sequence, f"members {', '.join(_SEQUENCE)}")


def _fits(row: Any, kinds: Mapping[str, Any]) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row[name], kind) and (kind is not int or _is_size(row[name]))
        for name, kind in kinds.items()
        if name in row
    )


def _is_size(value: Any) -> bool:
    """Return whether a value is a number that is not negative; true is 1 in Python."""
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_table(columns: Mapping[str, Any]) -> bool:
    lists = [value for name, value in columns.items() if name != "prefix"]
    return (
        columns.keys() <= _COLUMNS
        and isinstance(columns.get("url"), list)
        and isinstance(columns.get("prefix", ""), str)
        and all(isinstance(value, list) for value in lists)
        and len({len(value) for value in lists}) == 1
        and {*map(type, columns["url"])} <= {str}
        and {*map(type, columns.get(_LINKS, ()))} <= set(_TEXT)
        and all({*map(type, columns.get(name, ()))} <= kinds for name, kinds in _FIELDS.items())
        and all(
            value is None or _is_size(value)
            for name in ("size", "mtime")
            for value in columns.get(name, ())
        )
    )


def _invalid(what: str, got: object, expected: str) -> InvalidReferences:
    return InvalidReferences(
        f"the provenance {what}",
        tag=f"attribute '{PROVENANCE}'",
        got=repr(got)[:80],
        expected=expected,
    )


NO_SEAL = "0" * 64
"""Placeholder of a seal."""


def is_own_document(
    provenance: Provenance,
    metadata: Mapping[str, Any],
    parts: Iterable[bytes | NDArray],
    group: Group,
) -> bool:
    """Return whether this user made the seal of a document, and document and links are unchanged.

    Parameters
    ----------
    provenance
        The parsed attribute of the document.
    metadata
        Its metadata documents by key, as JSON text or objects.
    parts
        From `digest_chunks` or `digest_files`.
    group
        Its arrays.
    """
    seal, sources = provenance.seal, group.sources().values()
    if seal is None or not all(has_scheme(s.url) or os.path.isabs(s.url) for s in sources):  # noqa: PTH117
        return False  # a relative path is a different file in each folder
    is_own = is_own_seal(seal, _digest(metadata, parts, seal))
    return is_own and find_links(sources) == provenance.links


def seal_texts(metadata: Mapping[str, str], parts: Iterable[bytes | NDArray]) -> Mapping[str, str]:
    """Replace `NO_SEAL` in the provenance by the seal.

    Parameters
    ----------
    metadata
        Key -> JSON text.
    parts
        From `digest_chunks` or `digest_files`.

    Returns
    -------
    metadata
        Unchanged if the user has no key.
    """
    seal = make_seal(_digest(metadata, parts))
    if seal is None:
        return metadata
    root = ".zattrs" if ".zattrs" in metadata else "zarr.json"
    return {**metadata, root: metadata[root].replace(NO_SEAL, seal)}


def digest_chunks(
    arrays: Iterable[tuple[str, Array]], addresses: Mapping[str, str]
) -> Iterator[bytes | NDArray]:
    """Yield the parts to digest of the chunks of arrays.

    The first is a text that describes what follows: for each array, in the order of their paths,
    the columns of its byte ranges, and its inlined chunks.

    Parameters
    ----------
    arrays
        Pairs of path and array.
    addresses
        URLs of sources in the document; other sources use their own.
    """
    heads: list[Any] = []
    data: list[bytes | NDArray] = []
    for path, array in sorted(arrays, key=operator.itemgetter(0)):
        manifest = array.manifest
        urls: list[str] = []
        sizes = []
        if manifest.sources:
            urls, columns = _range_columns(manifest, addresses)
            data += columns
        for flat, chunk in sorted(manifest.inlined.items()):
            sizes.append((flat, len(chunk)))
            data.append(chunk)
        heads.append((path, manifest.shape, urls, sizes))
    yield to_text(heads).encode()
    yield from data


def digest_files(files: Mapping[str, Iterable[bytes]], record_size: int) -> Iterator[bytes]:
    """Yield the parts to digest of parquet references: the files of each array, in order.

    Files are read one at a time, so that only one is in memory.
    """
    yield b"parquet %d" % record_size
    for path, parts in sorted(files.items()):
        digests = [hashlib.sha256(data).digest() for data in parts]
        yield b"%a" % ((path, len(digests)),)
        yield from digests


def find_links(sources: Iterable[Source]) -> dict[str, str]:
    """Return the real paths of local sources whose path leads through links, by their URL."""
    folders: dict[str, tuple[str, str]] = {}
    links = {}
    for source in sources:
        if has_scheme(source.url):
            continue
        name = os.path.basename(source.url)  # noqa: PTH119
        folder = source.url.removesuffix(name)
        if folder not in folders:
            whole = os.path.abspath(folder)  # noqa: PTH100
            # with a separator behind
            folders[folder] = os.path.join(whole, ""), os.path.join(os.path.realpath(whole), "")  # noqa: PTH118
        start, real_start = folders[folder]
        real = real_start + name
        if os.path.islink(real):  # noqa: PTH114
            real = os.path.realpath(real)
        if real != start + name:
            links[source.url] = real
    return links


def _digest(
    metadata: Mapping[str, Any], parts: Iterable[bytes | NDArray], seal: str = NO_SEAL
) -> bytes:
    """Digest the lengths of all texts (to be unambiguous), the texts, and then the other parts."""
    keys, values = zip(*sorted(metadata.items()), strict=True)
    if {*map(type, values)} != {str}:
        values = tuple(map(_to_str, values))
    texts = keys + values
    joined = "".join(texts)
    if seal != NO_SEAL:
        joined = joined.replace(seal, NO_SEAL)
    digest = hashlib.sha256(to_text([*map(len, texts)]).encode())
    digest.update(joined.encode("utf-8", "surrogatepass"))
    for part in parts:
        digest.update(part)
    return digest.digest()


def _to_str(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else to_text(value)


_INT32, _UINT64 = np.dtype("<i4"), np.dtype("<u8")


def _range_columns(
    manifest: Manifest, addresses: Mapping[str, str]
) -> tuple[list[str], list[NDArray]]:
    """Return the URLs of the chunks, and columns of source, offset and length."""
    urls = [addresses.get(source.url, source.url) for source in manifest.sources]
    if not manifest.source.size:
        return [], []
    source, offset, length = manifest.source, manifest.offset, manifest.length
    if len(urls) > 1 or np.count_nonzero(source):  # otherwise all chunks are in the only source
        is_stored = source >= 0
        used = np.bincount(source[is_stored], minlength=len(urls)) > 0
        named = {url for url, is_used in zip(urls, used.tolist(), strict=True) if is_used}
        if not named:
            return [], []
        if len(urls) > 1:
            order = {url: row for row, url in enumerate(sorted(named))}
            rank = np.array([order.get(url, -1) for url in urls], np.int32)
            source = np.where(is_stored, rank[source], source)
            urls = list(order)
        offset, length = np.where(is_stored, offset, 0), np.where(is_stored, length, 0)
    columns = ((source, _INT32), (offset, _UINT64), (length, _UINT64))
    return urls, [np.ascontiguousarray(column, kind) for column, kind in columns]
