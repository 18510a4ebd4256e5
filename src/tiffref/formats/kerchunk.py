"""Write kerchunk reference documents as JSON, versions 0 and 1.

`to_kerchunk` returns a document as a dictionary; `write_json` writes the file directly from the
columns of the manifest, which are formatted a whole column at a time. Inlined arrays whose codecs
do not exist in the Zarr format are decoded and encoded again. Metadata is written by
`zarr_metadata`; documents are read by `kerchunk_read`.

The form of the document is one that every reader opens: "version" first, then the references with
the root's metadata first (GDAL reads only the first kilobyte), metadata as JSON strings (zarrita
and VirtualiZarr accept no objects), templates only on request and never `gen` (GDAL refuses both),
byte ranges always as [url, offset, length], and nothing else at the top level.

Follows https://fsspec.github.io/kerchunk/spec.html; chunk keys of the Zarr v2 specification
("Chunks") and the default encoding of Zarr v3.
"""

from __future__ import annotations

import binascii
import functools
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ujson
from numpy.typing import NDArray

from ..codecs.foreign import decode_foreign
from ..errors import InvalidReferences
from ..io.atomic import write_atomic
from ..io.urls import from_document_url, to_document_url
from ..model.array import Array, Group, Node, plain_codec
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.manifest import Manifest, Source
from .keys import BLOCK_ROWS, FEW_ROWS, KeyRule, format_numbers, join_columns, pick_texts
from .provenance import (
    NO_SEAL,
    PROVENANCE,
    digest_chunks,
    find_links,
    format_provenance,
    seal_texts,
)
from .zarr_metadata import to_texts

_RAW_TEXT = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A}


def iter_rows(manifest: Manifest) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield the chunks in sources, in C order within blocks of `BLOCK_ROWS`, in columns.

    The columns are flat index, source, offset and length; of whole files, only the first two.
    """
    if not manifest.sources:
        return
    for start in range(0, manifest.n_chunks, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        source, offset = manifest.source[block], manifest.offset[block]
        length = manifest.length[block]
        if source.min() >= 0 and np.count_nonzero(length) == len(length):
            # the common case, without splitting columns
            yield np.arange(start, start + len(source)), source, offset, length
            continue
        is_stored, is_range = source >= 0, length > 0
        for rows in map(np.flatnonzero, (is_stored & is_range, is_stored & ~is_range)):
            if rows.size:
                spans = (offset[rows], length[rows]) if is_range[rows[0]] else ()
                yield rows + start, source[rows], *spans


def encode_inlined(data: bytes) -> str:
    """Encode the bytes of an inlined chunk as a value of a reference document.

    Printable ASCII is kept, unless it begins with "base64:", which readers would decode.

    Examples
    --------
    >>> encode_inlined(b"abc"), encode_inlined(b"\\0\\1"), encode_inlined(b"base64:")
    ('abc', 'base64:AAE=', 'base64:YmFzZTY0Og==')
    """
    if _RAW_TEXT.issuperset(data) and not data.startswith(b"base64:"):
        return data.decode("ascii")
    return "base64:" + binascii.b2a_base64(data, newline=False).decode("ascii")


def _iter_inlined(rule: KeyRule, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each inlined chunk."""
    if manifest.inlined:
        flats = sorted(manifest.inlined)
        keys = rule.keys(manifest.shape, np.array(flats, np.intp))
        yield from zip(
            keys, map(encode_inlined, map(manifest.inlined.__getitem__, flats)), strict=True
        )


@dataclass(slots=True)
class Plan:
    """The content of a document.

    `texts` is the metadata, JSON texts by key, those of the root first; `arrays` are pairs of path
    and array; `addresses` maps the address of each source to its URL in the document.
    """

    zarr_format: int
    texts: Mapping[str, str]
    arrays: Sequence[tuple[str, Array]]
    addresses: Mapping[str, str]
    is_sealed: bool
    templates: Mapping[str, str] = field(default_factory=dict)

    def seal(self, parts: Iterable[bytes | NDArray]) -> None:
        """Add the seal to the metadata, if it is to have one; `parts` as in `seal_texts`."""
        if self.is_sealed:
            self.texts = seal_texts(self.texts, parts)


def plan_document(
    group: Group,
    *,
    zarr_format: int = 2,
    rename: Callable[[str], str] | None = None,
    series: Sequence[Mapping[str, Any]] = (),
    is_sealed: bool = False,
) -> Plan:
    """Plan the content of a document.

    Parameters
    ----------
    group
        The root.
    zarr_format
        Zarr format of the metadata, 2 or 3. Only 2 opens in
        `xarray.open_dataset(engine="kerchunk")`.
    rename
        Function from the address of a source to its URL in the document; by default local paths
        become "file://" URLs.
    series
        Series for the provenance, as plain values.
    is_sealed
        Whether the document gets the user's seal; only if all byte ranges come from this user.

    Raises
    ------
    ManifestMismatch
        If an array has more than one codec.
    InvalidReferences
        If an attribute or a codec cannot be represented in the document.
    """
    nodes = [(path, _pack(node, zarr_format)) for path, node in in_format(group, zarr_format)]
    arrays = [(path, node) for path, node in nodes if isinstance(node, Array)]
    sources: dict[str, Source] = {}
    for _, array in arrays:
        for source in array.manifest.sources:
            sources.setdefault(source.url, source)
    addresses = {url: (rename or to_document_url)(url) for url in sources}
    seal, links = (NO_SEAL, find_links(sources.values())) if is_sealed else (None, None)
    record = format_provenance(sources.values(), addresses, series, seal, links)
    root = {PROVENANCE: record} if record else None
    texts = to_texts(group, zarr_format, nodes=nodes, root=root)
    return Plan(zarr_format, texts, arrays, addresses, is_sealed)


_ZSTD = 50000
_MIN_PACKED = 64
"""Coordinates of up to this many values are not compressed."""
_MAX_CACHED = 2048
"""Longer coordinates are not cached, so that the cache holds at most 32 MiB."""


def in_format(group: Group, zarr_format: int) -> list[tuple[str, Node]]:
    """Return the nodes below a group as `Group.walk`, with arrays that exist in a Zarr format.

    These are the same arrays, except that inlined chunks with a codec of another format are encoded
    again.

    Raises
    ------
    InvalidReferences
        If an array has a codec of the other format, and chunks that are not inlined.
    """
    nodes = []
    for path, node in group.walk():
        if isinstance(node, Array) and isinstance(codec := node.codecs[0], ForeignCodec):
            node = _array_in_format(path, node, codec, zarr_format)
        nodes.append((path, node))
    return nodes


def _array_in_format(path: str, array: Array, codec: ForeignCodec, zarr_format: int) -> Array:
    if codec.zarr_format == zarr_format:
        return array
    if zarr_format == 2 or (array.manifest.source >= 0).any():
        raise InvalidReferences(
            f"the codec exists only in Zarr v{codec.zarr_format}",
            tag=f"array '{path}'",
            got=f"zarr_format {zarr_format}",
            expected=f"zarr_format {codec.zarr_format}",
        )
    little = array.dtype.newbyteorder("<")
    inlined = {}
    for flat, data in array.manifest.inlined.items():
        samples = decode_foreign(codec, data, array.chunks, array.dtype)
        inlined[flat] = _compress_zstd(samples.astype(little).tobytes())
    own = _zstd_codec(math.prod(array.chunks), little.str)
    return replace(array, codecs=(own,), manifest=replace(array.manifest, inlined=inlined))


def _pack(node: Node, zarr_format: int) -> Node:
    """Compress a coordinate by codecs that every reader of the Zarr format has."""
    if not isinstance(node, Array) or node.manifest.shape != (1,) or not node.manifest.inlined:
        return node
    codec, n_values = node.codecs[0], node.shape[0]
    if isinstance(codec, ForeignCodec) or codec.dtype[1] not in "iuf" or n_values <= _MIN_PACKED:
        return node
    if codec != plain_codec(n_values, codec.dtype):
        return node
    pack = _packed if node.shape[0] <= _MAX_CACHED else _packed.__wrapped__
    codec, manifest = pack(node.manifest.inlined[0], codec.dtype, zarr_format)
    return Array(
        node.shape, node.chunks, node.dtype, node.dims, (codec,), manifest,
        node.fill_value, node.attributes,
    )  # fmt: skip


@functools.lru_cache(maxsize=2048)  # tiles of a grid share coordinates
def _packed(
    data: bytes, dtype: str, zarr_format: int
) -> tuple[SegmentCodec | ForeignCodec, Manifest]:
    """Return the codec and the manifest of a compressed coordinate."""
    width = np.dtype(dtype).itemsize
    shape = (len(data) // width,)
    codec: SegmentCodec | ForeignCodec
    if zarr_format == 3:
        # zlib is not a codec of v3: GDAL could not read the coordinates, nor georeference images
        codec, packed = _zstd_codec(*shape, dtype), _compress_zstd(data)
    else:
        # evenly spaced numbers differ little in their upper bytes: 100 000 take a few kilobytes
        shuffled = np.frombuffer(data, "u1").reshape(-1, width).T.tobytes()
        codec, packed = _shuffle_codec(dtype), zlib.compress(shuffled, 1)
    return codec, Array.from_chunk(packed, codec, shape, np.dtype(dtype), ("",)).manifest


def _compress_zstd(data: bytes) -> bytes:
    from numcodecs.zstd import compress

    return compress(data, 3)


@functools.lru_cache(maxsize=256)
def _zstd_codec(n_samples: int, dtype: str) -> SegmentCodec:
    return replace(plain_codec(n_samples, dtype), compression=_ZSTD)


@functools.lru_cache(maxsize=16)
def _shuffle_codec(dtype: str) -> ForeignCodec:
    metadata = {
        "dtype": dtype,
        "filters": [{"id": "shuffle", "elementsize": np.dtype(dtype).itemsize}],
        "compressor": {"id": "zlib", "level": 1},
        "order": "C",
    }
    return ForeignCodec(2, metadata)


_quote = json.encoder.encode_basestring_ascii
_quote_lines = functools.partial(ujson.dumps, separators=(",\n", ":"), escape_forward_slashes=False)
"""Encodes a mapping of texts as a JSON object with one entry per line."""


def to_kerchunk(
    group: Group,
    *,
    version: int = 1,
    templates: Mapping[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the reference document of a group as a dictionary.

    Parameters
    ----------
    group
        The root.
    version
        Version of the document, 1 or 0.
    templates
        Name -> text; in URLs that begin with the text, "{{name}}" replaces it. Needs version 1.
    options
        As in `plan_document`, which also raises errors.
    """
    plan = _plan_json(group, version, templates, options)
    refs: dict[str, Any] = dict(plan.texts)
    for path, array in plan.arrays:
        rule = KeyRule.written(path, plan.zarr_format)
        urls = [plan.addresses[source.url] for source in array.manifest.sources]
        for index, source, *spans in iter_rows(array.manifest):
            columns = [urls[row] for row in source.tolist()], *map(np.ndarray.tolist, spans)
            values = map(list, zip(*columns, strict=True))
            refs.update(zip(rule.keys(array.grid, index), values, strict=True))
        refs.update(_iter_inlined(rule, array.manifest))
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
    version: int = 1,
    templates: Mapping[str, str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Write the reference document of a group as JSON, atomically.

    Parameters
    ----------
    path
        Path, URL, or a file open for writing (text or binary).
    storage_options
        Options for the fsspec file system of a URL.
    group, version, templates, options
        As in `to_kerchunk`.

    Raises
    ------
    SourceError
        If the file cannot be written.
    """
    plan = _plan_json(group, version, templates, options)
    write_atomic(path, _iter_json(plan, version), storage_options)


def _plan_json(
    group: Group,
    version: int,
    templates: Mapping[str, str] | None,
    options: Mapping[str, Any],
) -> Plan:
    if isinstance(version, bool) or version not in (0, 1):
        raise InvalidReferences("no such document version", got=repr(version), expected="0 or 1")
    plan = plan_document(group, **options)
    addresses = plan.addresses.items()
    plan.seal(digest_chunks(plan.arrays, {url: from_document_url(text) for url, text in addresses}))
    if templates and version == 1:
        plan.templates = templates
        plan.addresses = {url: _use_template(text, templates) for url, text in addresses}
    return plan


def _use_template(address: str, templates: Mapping[str, str]) -> str:
    # readers expand URLs with "{{" by a formatter that misinterprets other braces
    if "{" in address or "}" in address:
        raise InvalidReferences(
            "a URL with braces cannot be written with templates",
            url=address,
            hint="Write the references without `templatename`.",
        )
    for name, text in templates.items():
        if text and address.startswith(text):
            return "{{" + name + "}}" + address[len(text) :]
    return address


# ---- rows


def _iter_json(plan: Plan, version: int) -> Iterator[bytes]:
    """Yield the document in pieces; each piece after the metadata starts with a comma."""
    templates = f'"templates":{json.dumps(plan.templates)},' if plan.templates else ""
    head = f'{{"version":1,{templates}"refs":{{' if version == 1 else "{"
    lines = [f"{head}\n", _quote_lines(plan.texts)[1:-1]]
    for path, array in plan.arrays:
        rule, manifest = _quoted_rule(path, plan.zarr_format), array.manifest
        urls = [_quote(plan.addresses[source.url]) for source in manifest.sources]
        if len(manifest.source) <= FEW_ROWS:
            lines += _few_lines(rule, urls, manifest)
        else:
            for rows in iter_rows(manifest):
                yield "".join(lines).encode()
                lines.clear()
                yield _json_rows(rule, manifest.shape, [url.encode() for url in urls], *rows)
        lines += [f',\n"{key}":{_quote(text)}' for key, text in _iter_inlined(rule, manifest)]
    lines.append("\n}}\n" if version == 1 else "\n}\n")
    yield "".join(lines).encode()


def _few_lines(rule: KeyRule, urls: Sequence[str], manifest: Manifest) -> list[str]:
    """Return the lines of few chunks, for which Python is faster than NumPy."""
    if not urls:
        return []
    columns = manifest.source.tolist(), manifest.offset.tolist(), manifest.length.tolist()
    return [
        f',\n"{key}":[{urls[row]},{offset},{length}]' if length else f',\n"{key}":[{urls[row]}]'
        for key, row, offset, length in zip(rule.all_keys(manifest.shape), *columns, strict=True)
        if row >= 0
    ]


@functools.lru_cache(maxsize=1024)
def _quoted_rule(path: str, zarr_format: int) -> KeyRule:
    rule = KeyRule.written(path, zarr_format)
    return KeyRule(_quote(rule.lead)[1:-1], rule.separator, _quote(rule.scalar)[1:-1])


def _json_rows(
    rule: KeyRule,
    grid: tuple[int, ...],
    urls: Sequence[bytes],
    flat: NDArray[Any],
    source: NDArray[Any],
    *spans: NDArray[Any],
) -> bytes:
    """Return the lines of many chunks, formatted column by column."""
    columns = [b',\n"', *rule.columns(grid, flat), b'":[', pick_texts(urls, source)]
    for span in spans:
        columns += [b",", format_numbers(span)]
    return join_columns(len(flat), [*columns, b"]"])
