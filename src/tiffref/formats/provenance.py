"""Where references come from, recorded in the root's attributes, and the seal of a document.

Owns the attribute `tiffref`: which sources with which size, modification time and ETag, and which
series and levels became which array, or why not. It is a JSON *string*, so that netCDF export of an
opened dataset still works and every Zarr reader takes it. The schema is
`schemas/provenance.schema.json`. Sources are columns, one list for each field, behind one common
prefix: a catalog has a hundred thousand of them.

Owns too the digest of a document that is sealed: all metadata as its text, and of each array which
chunk lies where, in the terms of the model, so that it is the same however the document is laid
out. It is one hash over few long texts: a hash for each array took as long as writing all else of a
small document. The seal itself stands in the provenance; the text is digested with zeros in its
place. Local sources that are reached through links are recorded with where these lead (`links`): if
one leads elsewhere when the document is opened, it is no longer what was sealed.
"""

from __future__ import annotations

import hashlib
import json
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
from ..model.array import Array
from ..model.manifest import Manifest, Source
from .zarr_metadata import to_text

__all__ = [
    "NO_SEAL",
    "PROVENANCE",
    "Provenance",
    "Sealed",
    "check_series",
    "digest_chunks",
    "digest_files",
    "find_links",
    "format_provenance",
    "parse_provenance",
    "seal_texts",
]

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


NO_SEAL = "0" * 64
"""What stands in a document in place of a seal until it is made."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A document with a seal, which is not compared yet.

    Attributes
    ----------
    seal
        As the document has it.
    metadata
        Its metadata documents by key, as JSON text or objects.
    links
        Local source to the file that it was when the document was sealed, where that has another
        path.
    parts
        From `digest_chunks` or `digest_files`.
    """

    seal: str
    metadata: Mapping[str, Any]
    links: Mapping[str, str]
    parts: Iterable[bytes | NDArray] = field(default=(), compare=False)

    def is_own(self, sources: Iterable[Source]) -> bool:
        """Return whether this user made the seal, of this very document and these files."""
        rows = list(sources)
        if not all(has_scheme(row.url) or os.path.isabs(row.url) for row in rows):  # noqa: PTH117
            return False  # a relative address is another file in every folder
        digest = _digest(self.metadata, self.parts, self.seal)
        return is_own_seal(self.seal, digest) and dict(find_links(rows)) == dict(self.links)


def seal_texts(metadata: Mapping[str, str], parts: Iterable[bytes | NDArray]) -> Mapping[str, str]:
    """Put the seal into metadata that has `NO_SEAL` in its provenance.

    Parameters
    ----------
    metadata
        Key to JSON text.
    parts
        From `digest_chunks` or `digest_files`.

    Returns
    -------
    metadata
        As it was where the user has no key: such a seal is nobody's.
    """
    seal = make_seal(_digest(metadata, parts))
    if seal is None:
        return metadata
    root = next(key for key in (".zattrs", "zarr.json") if key in metadata)
    return {**metadata, root: metadata[root].replace(NO_SEAL, seal)}


def digest_chunks(
    arrays: Iterable[tuple[str, Array]], addresses: Mapping[str, str]
) -> Iterator[bytes | NDArray]:
    """Return what is digested of the chunks of arrays.

    First comes one text for all arrays in the order of their paths, which says what follows: of
    each array the columns of where its chunks lie, and its inlined chunks.

    Parameters
    ----------
    arrays
        Path and array.
    addresses
        Address of each source in the document; sources that are not in it have their own.
    """
    heads: list[Any] = []
    data: list[bytes | NDArray] = []
    for path, array in sorted(arrays, key=operator.itemgetter(0)):
        manifest = array.manifest
        urls, columns = _named_ranges(manifest, addresses) if manifest.sources else ([], ())
        inlined = sorted(manifest.inlined.items())
        heads.append((path, manifest.shape, urls, [(flat, len(found)) for flat, found in inlined]))
        data += columns
        data += [found for _, found in inlined]
    yield to_text(heads).encode()
    yield from data


def digest_files(files: Mapping[str, Iterable[bytes]], record_size: int) -> Iterator[bytes]:
    """Return what is digested of parquet references: the files of each array, in their order.

    Files are read when their turn comes, so that no more than one is in memory.
    """
    yield b"parquet %d" % record_size
    for path, parts in sorted(files.items()):
        digests = [hashlib.sha256(data).digest() for data in parts]
        yield b"%a" % ((path, len(digests)),)
        yield from digests


def find_links(sources: Iterable[Source]) -> Iterator[tuple[str, str]]:
    """Return local sources whose real path is another one, with that path."""
    folders: dict[str, str] = {}
    for source in sources:
        if has_scheme(source.url):
            continue
        path = os.path.abspath(source.url)  # noqa: PTH100
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)  # noqa: PTH118
        if os.path.islink(real):  # noqa: PTH114
            real = os.path.realpath(real)
        if real != path:
            yield source.url, real


def _digest(
    metadata: Mapping[str, Any], parts: Iterable[bytes | NDArray], seal: str = NO_SEAL
) -> bytes:
    """Digest all texts, behind their lengths so that no two lists of them look the same, and then
    the other parts."""
    keys = sorted(metadata)
    values = [metadata[key] for key in keys]
    texts = keys + [value if type(value) is str else _to_str(value) for value in values]
    joined = "".join(texts)
    if seal != NO_SEAL:
        joined = joined.replace(seal, NO_SEAL)
    found = hashlib.sha256(to_text([*map(len, texts)]).encode())
    found.update(joined.encode("utf-8", "surrogatepass"))
    for part in parts:
        found.update(part)
    return found.digest()


def _to_str(value: Any) -> str:
    is_text = isinstance(value, bytes)
    return value.decode("utf-8", "surrogateescape") if is_text else to_text(value)


_INT32, _UINT64 = np.dtype("<i4"), np.dtype("<u8")


def _named_ranges(
    manifest: Manifest, addresses: Mapping[str, str]
) -> tuple[list[str], list[NDArray]]:
    """Return the sources of the chunks, and columns of source, offset and length."""
    urls = [addresses.get(source.url, source.url) for source in manifest.sources]
    if not manifest.source.size:
        return [], []
    source, offset, length = manifest.source, manifest.offset, manifest.length
    if len(urls) > 1 or source.any():  # else all chunks lie in the one source
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
