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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Finding, InvalidReferences, Reporter, raise_finding
from ..io.urls import from_document_url
from ..model.array import Array, Group
from ..model.manifest import Columns, Manifest, Source
from .columnar import Split, Text, missing_columns, parse_lines, split_document
from .keys import ChunkIndex, parse_keys
from .load import check_counts, check_nodes, fetch_text, open_large, parse_json
from .provenance import (
    PROVENANCE,
    Provenance,
    check_series,
    digest_chunks,
    is_own_document,
    parse_provenance,
)
from .zarr_metadata import OME_XML, Nodes, parse_metadata

METADATA_NAMES = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json", OME_XML)
"""Last parts of keys whose values are metadata documents."""

_MAX_RANGE = 2**63 - 1
_BAD_PARTS = ("//", "/./", "/../", "\\", "\0")
"""What an invalid key contains, between two "/"."""
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z")


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
    bad, scalars = _check_keys(refs, report)
    for key in bad + scalars:
        del chunks[key]
    for key in scalars:
        chunks.setdefault(f"{key}0", refs[key])
    metadata = {}
    for key in [key for key in chunks if key.endswith(METADATA_NAMES)]:
        name = key.rpartition("/")[2]
        # documents of other programs may refer to OME-XML in a file, which is not read
        if name in METADATA_NAMES and (name != OME_XML or isinstance(chunks[key], str)):
            value = _check_metadata_value(key, chunks.pop(key), report)
            if value is not None:
                metadata[key] = value
    return _parse_chunks(metadata, list(chunks), list(chunks.values()), templates, report)


def _open_document(document: Any, report: Reporter) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return the references and templates of a document."""
    if not isinstance(document, Mapping):
        _report(report, "document", "not a reference document", None, document, "an object")
        return {}, {}
    if "version" not in document:
        return document, {}
    version = document["version"]
    if isinstance(version, bool) or version != 1:
        _report(report, "version", "no such version", "version", version, "1")
        return {}, {}
    for name in document.keys() - {"version", "templates", "gen", "refs"}:
        if not str(name).startswith("x-"):
            expected = "version, templates, gen, refs or x-..."
            what = "unknown member of the document"
            _report(report, "top-level", what, str(name), name, expected)
    members = {name: document.get(name, {}) for name in ("templates", "refs")}
    for name, value in members.items():
        if not isinstance(value, Mapping):
            _report(report, "member", f"'{name}' has the wrong type", name, value, "an object")
            members[name] = {}
    templates = {}
    for name, text in members["templates"].items():
        if isinstance(text, str):
            templates[name] = text
        else:
            what = "a template is not text"
            _report(report, "template", what, f"templates.{name}", text, "text")
    if document.get("gen", []) != []:
        expected = "all references in 'refs' (fsspec or kerchunk can expand them)"
        _report(report, "gen", "'gen' is not supported", "gen", document["gen"], expected)
    return members["refs"], templates


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


def _check_keys(refs: Mapping[str, Any], report: Reporter) -> tuple[list[str], list[str]]:
    """Return invalid keys, and those of scalar arrays that lack the number of the chunk.

    VirtualiZarr 2.8 writes the latter: "spatial_ref/" instead of "spatial_ref/0". Keys are only
    checked one by one if there may be an invalid one.
    """
    if not is_bad_key("/".join(refs)):
        return [], []
    bad: list[str] = []
    scalars: list[str] = []
    for key in filter(is_bad_key, refs):
        is_scalar = not is_bad_key(f"{key}0") and _is_scalar(refs.get(f"{key}.zarray"))
        (scalars if is_scalar else bad).append(key)
    for code, keys, expected in (
        ("key", bad, "names joined by '/'"),
        ("scalar-key", scalars, "a number after '/': other readers do not find this chunk"),
    ):
        if keys:
            _report(report, code, "not a valid key", keys[0], keys[0], expected, len(keys) - 1)
    return bad, scalars


def _is_scalar(metadata: Any) -> bool:
    """Return whether this is the `.zarray` of an array without dimensions."""
    try:
        if isinstance(metadata, str):
            metadata = parse_json(_decode_text(metadata) or b"", "")
    except InvalidReferences:
        return False
    return isinstance(metadata, Mapping) and metadata.get("shape") == []


def is_bad_key(key: str) -> bool:
    """Return whether a key has a part that is empty, "." or "..", a backslash, or a NUL."""
    key = f"/{key}/"
    return any(part in key for part in _BAD_PARTS)


# ---- values


def _check_metadata_value(key: str, value: Any, report: Reporter) -> Any:
    """Return the text or object of a metadata document; None if it is invalid."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        data = _decode_text(value)
        if data is None:
            _report(report, "base64", "not base64", key, value, "canonical base64")
        return data
    if _bad_reference(value) is None:
        what = "the metadata is in another file"
        _report(report, "remote-metadata", what, key, value, "the metadata itself")
    else:
        _report(report, "value", "not a reference", key, value, "JSON text or an object")
    return None


def _parse_chunks(
    metadata: Mapping[str, Any],
    keys: list[str],
    values: list,
    templates: Mapping[str, str],
    report: Reporter,
) -> RefColumns:
    texts = [row for row, value in enumerate(values) if isinstance(value, str)]
    inlined: dict[int, Any] = {row: _decode_text(values[row]) for row in texts}
    references = [value for value in values if not isinstance(value, str)] if texts else values
    columns = _split_references(references)
    if columns is None or None in inlined.values():
        return _parse_chunks(metadata, *_drop_bad(keys, values, report), templates, report)
    urls, offsets, lengths = columns
    row_of = {url: row for row, url in enumerate(dict.fromkeys(urls))}
    rows = np.delete(np.arange(len(values)), texts)
    source = np.full(len(values), -2, np.int32)
    source[rows] = np.fromiter(map(row_of.__getitem__, urls), np.int32, len(urls))
    offset, length = np.zeros((2, len(values)), np.uint64)
    offset[rows], length[rows] = offsets, lengths
    expanded = [expand_url(url, templates, report) for url in row_of]
    return RefColumns(metadata, keys, expanded, source, offset, length, inlined)


def _split_references(
    references: Sequence[Any],
) -> tuple[Sequence[str], NDArray[np.int64], NDArray[np.int64]] | None:
    """Return URLs, offsets and lengths (0 for whole files); None if a reference is invalid."""
    if not all(issubclass(kind, list | tuple) for kind in {*map(type, references)}):
        return None
    sizes = {*map(len, references)}
    if not sizes <= {1, 3}:
        return None
    whole: list[int] = []
    if 1 in sizes:
        whole = [row for row, value in enumerate(references) if len(value) == 1]
        references = [(*value, 0, 1) if len(value) == 1 else value for value in references]
    urls, offsets, lengths = zip(*references, strict=True) if references else ((), (), ())
    is_text = {*map(type, urls)} <= {str} and "" not in urls
    if not is_text or not {*map(type, offsets), *map(type, lengths)} <= {int}:
        return None
    try:
        columns = [np.fromiter(column, np.int64, len(column)) for column in (offsets, lengths)]
    except OverflowError:
        return None
    offset, length = columns
    if offset.min(initial=0) < 0 or length.min(initial=1) < 1:
        return None
    length[whole] = 0
    return urls, offset, length


def _drop_bad(keys: list[str], values: list, report: Reporter) -> tuple[list[str], list]:
    """Report values that are not references, and drop them."""
    bad = {row: why for row, value in enumerate(values) if (why := _bad_reference(value))}
    first = next(iter(bad))
    what, n_more = "not a reference", len(bad) - 1
    _report(report, "value", what, keys[first], values[first], bad[first], n_more)
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


def _report(
    report: Reporter,
    code: str,
    what: str,
    key: str | None,
    got: Any,
    expected: str,
    n_more: int = 0,
) -> None:
    """Report a value, which may be long."""
    text = reprlib.repr(got)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    report(Finding(code, what, key, text, expected, n_more=n_more))


# ---- groups and arrays


def parse_nodes(
    metadata: Mapping[str, Any], n_references: int, report: Reporter
) -> tuple[Nodes, Provenance]:
    """Parse the nodes of a document, without our attribute of the root, and that attribute.

    Parameters
    ----------
    metadata
        Key -> JSON text or parsed document.
    n_references
        Chunk references in the document, which limit the number of chunks.
    report
        Called with each finding; the node is then omitted.
    """
    nodes = check_nodes(parse_metadata(metadata, report), n_references, report)
    groups, arrays = dict(nodes.groups), dict(nodes.arrays)
    texts = []  # the root may be a group, an array or both
    if "" in groups and PROVENANCE in groups[""]:
        groups[""], text = _split_provenance(groups[""])
        texts.append(text)
    if "" in arrays and PROVENANCE in arrays[""].attributes:
        attributes, text = _split_provenance(arrays[""].attributes)
        arrays[""] = replace(arrays[""], attributes=attributes)
        texts.append(text)
    provenance = Provenance()
    try:
        if texts:
            provenance = parse_provenance(texts[0])
            check_series(provenance.series, arrays)
    except ValueError as error:
        report(Finding("provenance", str(error), severity="warning"))
        provenance = replace(provenance, series=[])
    return Nodes(groups, arrays, nodes.order), provenance


def _split_provenance(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    rest = dict(attributes)
    return rest, rest.pop(PROVENANCE)


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
    """Build a manifest with only the sources in use, from columns that it changes in place.

    In the columns, `source` is a row of `rank`.
    """
    source = columns.source
    is_stored = source >= 0
    row = source[is_stored]
    used = np.unique(rank[np.bincount(row, minlength=len(rank)) > 0])
    source[is_stored] = np.searchsorted(used, rank)[row]
    table = tuple(sources[row] for row in used.tolist())
    return Manifest(grid, table, source, columns.offset, columns.length, columns.inlined)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed document: its group, and the series in its provenance.

    `is_own` returns whether this user wrote the document, and it is unchanged. `zarr_format` is
    that of the metadata, `version` that of the references.
    """

    group: Group
    series: tuple[Mapping[str, Any], ...]
    is_own: Callable[[], bool]
    zarr_format: int = 2
    version: int = 1

    @classmethod
    def build(
        cls,
        nodes: Nodes,
        arrays: Mapping[str, Array],
        provenance: Provenance,
        metadata: Mapping[str, Any],
        parts: Iterable[bytes | NDArray],
        version: int = 1,
    ) -> Parsed:
        """Build the result from all parts of a document; `parts` are those of its seal."""
        names = {key.rpartition("/")[2] for key in metadata}
        zarr_format = 3 if "zarr.json" in names else 2
        if len(provenance.sources) == 1:  # it is also the file of images without any chunks
            (source,) = provenance.sources
            levels = {level.get("path") for row in provenance.series for level in row["levels"]}
            arrays = {
                path: array
                if array.manifest.sources or path not in levels
                else replace(array, manifest=replace(array.manifest, sources=(source,)))
                for path, array in arrays.items()
            }
        group = Group.from_paths(arrays, nodes.groups, nodes.order)
        is_own = partial(is_own_document, provenance, metadata, parts, group)
        return cls(group, tuple(provenance.series), is_own, zarr_format, version)


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
    try:
        split = split_document(text)
        return parse_document(split.document, split=split)
    except (ValueError, RecursionError):
        return None  # the general reader reads it, or reports the error


def parse_document(
    document: Any, report: Reporter = raise_finding, split: Split | None = None
) -> Parsed:
    """Parse a loaded document.

    Parameters
    ----------
    document
        Parsed JSON.
    report
        Called with each finding; by default the first error is raised.
    split
        The whole document, if `document` is only its first part.

    Raises
    ------
    Irregular
        If one of its lines is.
    """
    refs = parse_structure(document, report)
    check_counts(len(refs.keys), sum(map(len, refs.inlined.values())), report)
    nodes, provenance = parse_nodes(refs.metadata, len(refs.keys), report)
    if not nodes.arrays and not nodes.groups:
        what, got = "the document has no arrays and no groups", f"{len(refs.keys)} references"
        report(Finding("empty", what, None, got, ".zgroup, .zarray or zarr.json"))
    chunks = _find_chunks(refs.keys, nodes, report)
    columns: Mapping[str, Columns] = {}
    urls = refs.urls
    if split is not None:
        inlined = {path: index.flat for path, index in chunks.items()}
        urls, columns = parse_lines(split, nodes.arrays, inlined)
    sources, rank = rank_sources(urls, provenance.sources)
    arrays = {}
    for path, array in nodes.arrays.items():
        own = columns.get(path) or missing_columns(math.prod(array.grid))
        own = _add_references(own, refs, chunks[path])
        arrays[path] = array.with_manifest(_make_manifest(array.grid, own, sources, rank))
    version = 1 if isinstance(document, Mapping) and "refs" in document else 0
    parts = digest_chunks(arrays.items(), {})
    return Parsed.build(nodes, arrays, provenance, refs.metadata, parts, version)


def _find_chunks(keys: Sequence[str], nodes: Nodes, report: Reporter) -> Mapping[str, ChunkIndex]:
    """Find the chunks of each array, and report keys that are none."""
    grids = {path: array.grid for path, array in nodes.arrays.items()}
    rules = {path: array.rule for path, array in nodes.arrays.items()}
    chunks, strays = parse_keys(keys, grids, rules)
    if strays.size:
        shown = ", ".join(f"{path!r} {grid}" for path, grid in list(grids.items())[:5])
        what, expected = "the key is not a chunk of any array", f"chunks of {shown}"
        report(Finding("stray", what, keys[int(strays[0])], None, expected, severity="warning",
                       n_more=len(strays) - 1))  # fmt: skip
    return chunks


def _add_references(columns: Columns, refs: RefColumns, chunks: ChunkIndex) -> Columns:
    """Store the references of an array in its columns, in place, and its inlined chunks."""
    rows, flat = chunks.rows, chunks.flat
    columns.source[flat] = refs.source[rows]
    columns.offset[flat], columns.length[flat] = refs.offset[rows], refs.length[rows]
    is_inlined = refs.source[rows] < 0
    flats, rows = flat[is_inlined].tolist(), rows[is_inlined].tolist()
    inlined = {flat: refs.inlined[row] for flat, row in zip(flats, rows, strict=True)}
    return columns._replace(inlined=inlined)
