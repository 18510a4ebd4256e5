"""Read kerchunk reference documents.

Checks the structure of a document as in the JSON Schemas in `schemas/`, but in columns: a generic
validator needs half a minute for 100,000 references. Builds a group from nodes, manifests and
provenance, for JSON and Parquet. Metadata is parsed by `zarr_metadata`, chunk keys by `keys`, and
text in the layout that we write by `columnar`.

Documents are not trusted: templates are replaced as text, never evaluated, and `gen` is refused.

Follows https://fsspec.github.io/kerchunk/spec.html, versions 0 and 1, but is stricter where readers
disagree (a length of 0 means no bytes in JSON, and the whole file in Parquet).
"""

from __future__ import annotations

import base64
import math
import os
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidReferences
from ..io.urls import from_document_url
from ..model.array import Array, Group
from ..model.manifest import MISSING, Columns, Manifest, Source
from .columnar import Lines, Text, parse_lines, split_document
from .findings import Finding, Reporter, raise_finding
from .keys import ChunkIndex, parse_keys
from .load import check_counts, check_nodes, fetch_text, open_large, parse_json
from .provenance import (
    PROVENANCE,
    Provenance,
    Sealed,
    check_series,
    digest_chunks,
    parse_provenance,
)
from .zarr_metadata import Nodes, parse_metadata

METADATA_NAMES = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
"""Last parts of keys whose values are metadata documents."""

_MAX_RANGE = 2**63 - 1
_KEY = re.compile(r"(?!\.{1,2}(?:/|\Z))[^/\\\0]+(?:/(?!\.{1,2}(?:/|\Z))[^/\\\0]+)*+\Z")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z")
_SUSPECT = ("//", "\\", "\0/", "/\0", "/.", "\0.", "\0\0")
"""One of these occurs in keys joined by NUL if a key is invalid, or has a name that starts with
"."."""


@dataclass(frozen=True, slots=True)
class RefColumns:
    """The references of a document, in columns.

    `metadata` maps keys to JSON text or objects. For chunk references, in the order of the
    document: `keys`; `source` `(n,)` int32, a row of `urls`, or -2 if the bytes are in `inlined`
    (by row); `offset` and `length` `(n,)` uint64, with length 0 for whole files.
    """

    metadata: Mapping[str, Any]
    keys: Sequence[str]
    urls: Sequence[str]
    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    inlined: Mapping[int, bytes]


def parse_structure(document: Any, report: Reporter) -> RefColumns:
    """Check the structure of a document, and split it into metadata and columns of references.

    For speed, all references are processed as columns by built-in functions (`map`, `zip`, `set`);
    only invalid ones are examined one by one.

    Parameters
    ----------
    document
        Parsed JSON.
    report
        Called with each finding; invalid parts are omitted from the result.
    """
    refs, templates = _open_document(document, report)
    if not all(map(str.__instancecheck__, refs)):  # not from JSON
        refs = {str(key): value for key, value in refs.items()}
    chunks = dict(refs)
    metadata = {}
    for key in [key for key in refs if key.endswith(METADATA_NAMES) and is_metadata_key(key)]:
        value = _check_metadata_value(key, chunks.pop(key), report)
        if value is not None and not _check_keys([key], report):
            metadata[key] = value
    for key in _check_keys(chunks, report):
        del chunks[key]
    keys, values = list(chunks), list(chunks.values())
    return _parse_chunks(metadata, keys, values, templates, report)


def is_metadata_key(key: str) -> bool:
    """Return whether a key names a metadata document, not a chunk."""
    return key.rpartition("/")[2] in METADATA_NAMES


def _open_document(document: Any, report: Reporter) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    if not isinstance(document, Mapping):
        what = "not a reference document"
        report(Finding("document", what, None, _short(document), "an object"))
        return {}, {}
    if "version" not in document:
        return document, {}
    version = document["version"]
    if isinstance(version, bool) or version != 1:
        report(Finding("version", "no such version", "version", _short(version), "1"))
        return {}, {}
    for name in document.keys() - {"version", "templates", "gen", "refs"}:
        if not str(name).startswith("x-"):
            expected = "version, templates, gen, refs or x-..."
            what = "unknown member of the document"
            report(Finding("top-level", what, str(name), _short(name), expected))
    templates = _member(document, "templates", Mapping, "an object", report) or {}
    for name, text in templates.items():
        if not isinstance(text, str):
            key = f"templates.{name}"
            report(Finding("template", "a template is not text", key, _short(text), "text"))
    templates = {name: text for name, text in templates.items() if isinstance(text, str)}
    refs = _member(document, "refs", Mapping, "an object", report) or {}
    if document.get("gen", []) != []:
        expected = "all references in 'refs' (fsspec or kerchunk can expand them)"
        got = _short(document["gen"])
        report(Finding("gen", "'gen' is not supported", "gen", got, expected))
    return refs, templates


def _member(document: Mapping, name: str, kind: Any, expected: str, report: Reporter) -> Any:
    value = document.get(name)
    if name in document and not isinstance(value, kind):
        what = f"'{name}' has the wrong type"
        report(Finding("member", what, name, _short(value), expected))
        return None
    return value


# ---- templates

_NAME = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")


def expand_url(url: str, templates: Mapping[str, str], report: Reporter) -> str:
    """Replace `{{name}}` in a URL.

    Parameters
    ----------
    url
        URL in the document.
    templates
        Name -> text. Without templates, braces are plain characters, as in fsspec.
    report
        Called with a finding if a template cannot be expanded.
    """
    if not templates or "{{" not in url:
        return url
    rest, names = _NAME.sub("", url), _NAME.findall(url)
    if "{{" in rest or "}}" in rest or "{%" in rest:
        expected = "no braces except {{name}} of a template"
    elif not templates.keys() >= set(names):
        expected = f"one of the templates {sorted(templates)[:5]}"
    elif any("{{" in templates[name] or "}}" in templates[name] for name in names):
        expected = "{{name}} of a template without templates in it"
    else:
        return _NAME.sub(lambda match: templates[match[1]], url)
    report(Finding("template", "a template cannot be expanded", None, repr(url[:80]), expected))
    return url


# ---- keys


def _check_keys(keys: Collection[str], report: Reporter) -> list[str]:
    """Return invalid keys; keys are only checked one by one if there may be an invalid one."""
    joined = "\0" + "\0".join(keys) + "\0"
    is_clean = joined.count("\0") == len(keys) + 1 and not any(part in joined for part in _SUSPECT)
    bad = [] if is_clean else [key for key in keys if not _KEY.match(key)]
    if bad:
        _report_many(report, "key", bad, "not a valid key", bad[0], "names joined by '/'")
    return bad


# ---- values


def _check_metadata_value(key: str, value: Any, report: Reporter) -> Any:
    """Return the text or object of a metadata document; None if it is invalid."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        data = _decode_text(value)
        if data is None:
            report(Finding("base64", "not base64", key, _short(value), "canonical base64"))
        return data
    if _bad_reference(value) is None:
        what = "the metadata is in another file"
        report(Finding("remote-metadata", what, key, _short(value), "the metadata itself"))
        return None
    report(Finding("value", "not a reference", key, _short(value), "JSON text or an object"))
    return None


def _parse_chunks(
    metadata: Mapping[str, Any],
    keys: list[str],
    values: list,
    templates: Mapping[str, str],
    report: Reporter,
) -> RefColumns:
    form = _find_forms(values)
    ranged = np.flatnonzero(form == 3)
    urls, offsets, lengths = zip(*_pick(values, ranged), strict=True) if ranged.size else ((),) * 3
    others = _pick(values, np.flatnonzero(form != 3))
    ranges = _check_ranges(urls, offsets, lengths)
    if ranges is None or any(map(_bad_reference, others)):
        return _parse_chunks(metadata, *_drop_bad(keys, values, report), templates, report)
    n_rows = len(values)
    source = np.full(n_rows, -2, np.int32)
    offset, length = np.zeros((2, n_rows), np.uint64)
    offset[ranged], length[ranged] = ranges
    whole = np.flatnonzero(form == 1)
    whole_urls = [value[0] for value in _pick(values, whole)]
    table = dict.fromkeys(urls) | dict.fromkeys(whole_urls)
    place = {url: row for row, url in enumerate(table)}
    for rows, column in ((ranged, urls), (whole, whole_urls)):
        source[rows] = np.fromiter(map(place.__getitem__, column), np.int32, len(column))
    texts = np.flatnonzero(form == 0).tolist()
    inlined = {row: data for row in texts if (data := _decode_text(values[row])) is not None}
    expanded = [expand_url(url, templates, report) for url in table]
    return RefColumns(metadata, keys, expanded, source, offset, length, inlined)


def _find_forms(values: list) -> NDArray[np.int8]:
    """Return 0 for text, 1 and 3 for lists of that length, -1 for other values."""
    n_rows = len(values)
    if set(map(type, values)) == {list}:
        n_parts = np.fromiter(map(len, values), np.int64, n_rows)
        return np.where((n_parts == 1) | (n_parts == 3), n_parts, -1).astype(np.int8)
    return np.fromiter(map(_find_form, values), np.int8, n_rows)


def _find_form(value: Any) -> int:
    if isinstance(value, str):
        return 0
    is_list = isinstance(value, list | tuple) and len(value) in (1, 3)
    return len(value) if is_list else -1


def _pick(values: list, rows: NDArray[np.intp]) -> list:
    return values if len(rows) == len(values) else [values[row] for row in rows.tolist()]


def _check_ranges(
    urls: Sequence, offsets: Sequence, lengths: Sequence
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return offsets and lengths; None if a row is invalid."""
    is_text = {*map(type, urls)} <= {str} and "" not in urls
    if not is_text or not {*map(type, offsets), *map(type, lengths)} <= {int}:
        return None
    try:
        columns = [np.fromiter(column, np.int64, len(column)) for column in (offsets, lengths)]
    except OverflowError:
        return None
    offset, length = columns
    is_good = offset.min(initial=0) >= 0 and length.min(initial=1) >= 1
    return (offset, length) if is_good else None


def _drop_bad(keys: list[str], values: list, report: Reporter) -> tuple[list[str], list]:
    """Report values that are not references, and drop them."""
    bad = {row: why for row, value in enumerate(values) if (why := _bad_reference(value))}
    first = next(iter(bad))
    names = [keys[row] for row in bad]
    _report_many(report, "value", names, "not a reference", values[first], bad[first])
    rows = [row for row in range(len(keys)) if row not in bad]
    return [keys[row] for row in rows], [values[row] for row in rows]


def _bad_reference(value: Any) -> str | None:
    """Return the form that a value should have; None if it is a valid reference."""
    if isinstance(value, str):
        return None if _decode_text(value) is not None else "canonical base64"
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return "text, [url] or [url, offset, length]"
    if not isinstance(value[0], str) or not value[0]:
        return "a URL that is not empty"
    for number, least in zip(value[1:], (0, 1), strict=False):
        if type(number) is not int or not least <= number <= _MAX_RANGE:
            return f"whole numbers, offset from 0 and length from 1 to {_MAX_RANGE}"
    return None


def _decode_text(value: str) -> bytes | None:
    """Return the bytes of an inlined value; None if it is invalid base64."""
    if not value.startswith("base64:"):
        return value.encode("utf-8", "surrogatepass")
    text = value[7:]
    return base64.b64decode(text) if _BASE64.match(text) else None


# ---- findings


def _report_many(
    report: Reporter, code: str, keys: Sequence[str], what: str, got: Any, expected: str
) -> None:
    report(Finding(code, what, keys[0], _short(got), expected, n_more=len(keys) - 1))


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def extract_provenance(nodes: Nodes, report: Reporter) -> tuple[Nodes, Provenance]:
    """Remove our attribute from the root, which may be a group or an array, and parse it."""
    root = nodes.groups.get("", {})
    attributes = root if PROVENANCE in root else getattr(nodes.arrays.get(""), "attributes", {})
    if PROVENANCE not in attributes:
        return nodes, Provenance()
    provenance = Provenance()
    try:
        provenance = parse_provenance(attributes[PROVENANCE])
        check_series(provenance.series, nodes.arrays)
    except ValueError as error:
        report(Finding("provenance", str(error), severity="warning"))
        provenance = replace(provenance, series=[])
    return _without_provenance(nodes), provenance


def _without_provenance(nodes: Nodes) -> Nodes:
    groups, arrays = dict(nodes.groups), dict(nodes.arrays)
    if "" in groups:
        groups[""] = {k: v for k, v in groups[""].items() if k != PROVENANCE}
    if "" in arrays:
        rest = {k: v for k, v in arrays[""].attributes.items() if k != PROVENANCE}
        arrays[""] = replace(arrays[""], attributes=rest)
    return Nodes(groups, arrays, nodes.order)


def rank_sources(
    urls: Iterable[str], recorded: Iterable[Source]
) -> tuple[list[Source], NDArray[np.int32]]:
    """Return all sources, those in the provenance first, and the index of each URL in them."""
    table = {source.url: source for source in recorded}
    addresses = [from_document_url(url) for url in urls]
    for url in addresses:
        table.setdefault(url, Source(url))
    index = {url: row for row, url in enumerate(table)}
    rank = np.fromiter(map(index.__getitem__, addresses), np.int32, len(addresses))
    return list(table.values()), rank


def _make_manifest(
    grid: tuple[int, ...], columns: Columns, sources: Sequence[Source], rank: NDArray[np.int32]
) -> Manifest:
    """Build a manifest with only the sources in use.

    Parameters
    ----------
    grid
        Chunks along each dimension.
    columns
        Columns of all chunks; `source` is a row of all URLs, and is changed in place.
    sources, rank
        From `rank_sources`.
    """
    source = columns.source
    is_stored = source >= 0
    row = source[is_stored]
    used = np.unique(rank[np.bincount(row, minlength=len(rank)) > 0])
    source[is_stored] = np.searchsorted(used, rank)[row]
    table = tuple(sources[row] for row in used.tolist())
    return Manifest(grid, table, source, columns.offset, columns.length, columns.inlined)


def build_tree(nodes: Nodes, arrays: Mapping[str, Array]) -> Group:
    """Build the tree of all nodes, in the order of the document; implicit groups are added."""
    tree: dict[str, Any] = {}
    for path in nodes.order:
        branch = tree
        parts = path.split("/") if path else []
        for name in parts[:-1]:
            branch = branch.setdefault(name, {})
        if path in arrays:
            branch[parts[-1] if parts else ""] = arrays[path]
        elif path in nodes.groups and path:
            branch.setdefault(parts[-1], {})
    return _build_group("", tree, nodes.groups)


def _build_group(
    path: str, branch: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]
) -> Group:
    children = {
        name: child if isinstance(child, Array) else _build_group(f"{path}{name}/", child, groups)
        for name, child in branch.items()
    }
    return Group(children, dict(groups.get(path.rstrip("/"), {})))


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed document: its group, and the series in its provenance.

    `zarr_format` is that of the metadata, `version` that of the references.
    """

    group: Group
    series: tuple[Mapping[str, Any], ...]
    sealed: Sealed | None = None
    zarr_format: int = 2
    version: int = 1

    @property
    def is_own(self) -> bool:
        """Whether this user wrote the document, and it is unchanged."""
        sources = (source for _, array in self.group.arrays() for source in array.manifest.sources)
        return self.sealed is not None and self.sealed.is_own(sources)


def read_document(
    document: Mapping[str, Any] | str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
) -> Parsed:
    """Read a reference document, version 0 or 1.

    An array at the root of the document becomes the child "" of the group.

    Parameters
    ----------
    document
        Path or URL of a JSON file, or the document.
    storage_options
        Options for the fsspec file system of a URL.

    Raises
    ------
    InvalidReferences
        If it is not a valid reference document.
    SourceError
        If the file cannot be read.
    """
    if isinstance(document, Mapping):
        return parse_document(document)
    with open_large(document) as large:
        parsed = None if large is None else _parse_lines(large)
        if large is not None and parsed is not None and not large.is_changed:
            return parsed
        text = fetch_text(document, storage_options) if large is None else large[:]
    return (None if large else _parse_lines(text)) or parse_document(parse_json(text, document))


def _parse_lines(text: Text) -> Parsed | None:
    """Read a document whose references have the same layout; None for other documents."""
    split = split_document(text)
    if split is None:
        return None
    try:
        parts = _parse_parts(split.document, raise_finding)
    except InvalidReferences:
        return None  # the general reader reports the error
    taken = {path: chunks.flat for path, chunks in parts.chunks.items()}
    lines = parse_lines(text, split, parts.nodes.arrays, taken)
    return None if lines is None else _assemble_group(parts, lines)


def parse_document(document: Any, report: Reporter = raise_finding) -> Parsed:
    """Parse a loaded document.

    Parameters
    ----------
    document
        Parsed JSON.
    report
        Called with each finding; by default the first error is raised.
    """
    return _assemble_group(_parse_parts(document, report), Lines())


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parsed parts of a document: `chunks` are the rows of `columns` by array."""

    columns: RefColumns
    nodes: Nodes
    provenance: Provenance
    chunks: Mapping[str, ChunkIndex]
    version: int


def _parse_parts(document: Any, report: Reporter) -> _Parts:
    columns = parse_structure(document, report)
    check_counts(len(columns.keys), sum(map(len, columns.inlined.values())), report)
    nodes = parse_metadata(columns.metadata, report)
    nodes = check_nodes(nodes, len(columns.keys), report)
    nodes, provenance = extract_provenance(nodes, report)
    if not nodes.arrays and not nodes.groups:
        what, got = (
            "the document has no arrays and no groups",
            f"{len(columns.keys)} references",
        )
        report(Finding("empty", what, None, got, ".zgroup, .zarray or zarr.json"))
    grids = {path: array.grid for path, array in nodes.arrays.items()}
    rules = {path: array.rule for path, array in nodes.arrays.items()}
    chunks, strays = parse_keys(columns.keys, grids, rules)
    if strays.size:
        first, n_more = columns.keys[int(strays[0])], len(strays) - 1
        shown = ", ".join(f"{path!r} {grid}" for path, grid in list(grids.items())[:5])
        what, expected = "the key is not a chunk of any array", f"chunks of {shown}"
        report(Finding("stray", what, first, None, expected, severity="warning", n_more=n_more))
    version = 1 if isinstance(document, Mapping) and "refs" in document else 0
    return _Parts(columns, nodes, provenance, chunks, version)


def _assemble_group(parts: _Parts, lines: Lines) -> Parsed:
    urls = [*parts.columns.urls, *lines.urls]
    record = parts.provenance
    sources, rank = rank_sources(urls, record.sources)
    arrays = {}
    for path, array in parts.nodes.arrays.items():
        refs, chunks = parts.columns, parts.chunks[path]
        columns = lines.columns.get(path) or _place_chunks(refs, chunks, math.prod(array.grid))
        is_inlined = refs.source[chunks.rows] < 0
        flats, rows = chunks.flat[is_inlined].tolist(), chunks.rows[is_inlined].tolist()
        inlined = {flat: refs.inlined[row] for flat, row in zip(flats, rows, strict=True)}
        columns = columns._replace(inlined=inlined)
        arrays[path] = array.with_manifest(_make_manifest(array.grid, columns, sources, rank))
    sealed = None
    if record.seal is not None:
        chunks_of = digest_chunks(arrays.items(), {})
        sealed = Sealed(record.seal, parts.columns.metadata, record.links, chunks_of)
    names = {key.rpartition("/")[2] for key in parts.columns.metadata}
    zarr_format = 3 if "zarr.json" in names else 2
    group = build_tree(parts.nodes, arrays)
    return Parsed(group, tuple(record.series), sealed, zarr_format, parts.version)


def _place_chunks(refs: RefColumns, chunks: ChunkIndex, n_chunks: int) -> Columns:
    """Return the columns of an array; chunks without a reference are missing."""
    source = np.full(n_chunks, MISSING, np.int32)
    offset, length = np.zeros((2, n_chunks), np.uint64)
    rows = chunks.rows
    source[chunks.flat] = refs.source[rows]
    offset[chunks.flat], length[chunks.flat] = refs.offset[rows], refs.length[rows]
    return Columns(source, offset, length, {})
