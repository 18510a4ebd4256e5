"""Convert arrays and groups to Zarr metadata documents, and back.

Writes and parses `.zgroup`, `.zattrs`, `.zarray` (Zarr v2) and `zarr.json` (v3): dimension names,
fill values, and numbers that JSON lacks. If a node has both formats, v2 is used, as in xarray's
kerchunk engine. Consolidated metadata (`.zmetadata`) is redundant and ignored. Codecs are converted
by `codecs.zarr_codecs`.

Follows the Zarr v2 specification ("Metadata", "Fill value encoding"), the Zarr v3 core
specification ("Array metadata", "Fill value") and xarray's `_ARRAY_DIMENSIONS`. JSON has no NaN
and no infinity (RFC 8259, section 6), and most parsers reject Python's notation; in attributes
they become the strings "NaN", "Infinity" and "-Infinity", as in Zarr fill values.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ujson

from ..codecs.zarr_codecs import from_zarr2, from_zarr3, parse_data_type, to_zarr2, to_zarr3
from ..errors import Finding, InvalidReferences, ManifestMismatch, Reporter
from ..metadata.calibration import write_ome_xml
from ..model.array import Array, Group, Node, chunk_grid
from ..model.codec import ForeignCodec, SegmentCodec, encode_float
from ..model.manifest import Manifest
from .keys import KeyRule, join_key

OME_XML = "METADATA.ome.xml"
"""Name of the OME-XML of several images, in the group "OME"."""
_DIMS, _MASK = "_ARRAY_DIMENSIONS", "_FillValue"


def to_texts(
    group: Group,
    zarr_format: int = 2,
    *,
    nodes: Sequence[tuple[str, Node]] | None = None,
    root: Mapping[str, Any] | None = None,
    is_own: bool = False,
) -> dict[str, str]:
    """Return the metadata documents of a group and its nodes, as JSON texts.

    A child of the root with an empty name is an array at the root itself, as in some documents. The
    root is then not a group, unless it has other children (Zarr v2 only).

    Parameters
    ----------
    group
        The root.
    zarr_format
        2 or 3.
    nodes
        Paths and nodes to write below the root, instead of its own.
    root
        Further attributes of the root.
    is_own
        Use our own codec even if there is another one (v3 only).

    Returns
    -------
    documents
        Key ("image/.zarray") -> text; those of the root come first.

    Raises
    ------
    ManifestMismatch
        If an array has more than one codec.
    InvalidReferences
        If an attribute is not a JSON value, or the root cannot be both array and group.
    """
    if zarr_format not in (2, 3):
        raise InvalidReferences("no such Zarr format", got=repr(zarr_format), expected="2 or 3")
    nodes = [("", group), *(group.walk() if nodes is None else nodes)]
    main: Node = group
    if "" in group.children:
        nodes.sort(key=lambda row: row[0] != "")
        main = nodes[1][1]
        if len(group.children) == 1:
            del nodes[0]
        elif zarr_format == 3 or group.attributes:
            raise InvalidReferences(
                "the root is both an array and a group, which Zarr v3 does not allow",
                hint="Write zarr_format=2, or give the array a name.",
            )
    if zarr_format == 2:
        return _texts_v2(nodes, main, root or {})
    texts: dict[str, str] = {}
    for path, node in nodes:
        key = join_key(path, "zarr.json")
        texts[key] = _text_v3(path, key, node, root or {} if node is main else {}, is_own)
        if path.rpartition("/")[2] == "OME":
            texts.update(_ome_xml(path, group))
    return texts


def _ome_xml(path: str, root: Group) -> dict[str, str]:
    """Return the OME-XML below a group "OME", which some readers need; empty for other groups."""
    above = path.rpartition("/")[0]
    ome, parent = root[path].attributes.get("ome"), root[above] if above else root
    series = ome.get("series") if isinstance(ome, Mapping) else None
    if not isinstance(series, list) or not isinstance(parent, Group):
        return {}
    return {f"{path}/{OME_XML}": write_ome_xml(parent, series)}


def _texts_v2(
    nodes: Sequence[tuple[str, Node]], main: Node, root: Mapping[str, Any]
) -> dict[str, str]:
    """Return the documents of nodes; `main` is the one that gets the further attributes."""
    texts = {}
    for path, node in nodes:
        lead = f"{path}/" if path else ""
        key = f"{lead}.zattrs"
        attributes = {**node.attributes, **root} if node is main else node.attributes
        if isinstance(node, Group):
            texts[f"{lead}.zgroup"] = '{"zarr_format":2}'
            if attributes:
                texts[key] = to_text(attributes, key)
            continue
        codec, fill = _only_codec(path, node), node.fill_value
        shown = "null" if fill is None else to_text(_encode_fill(fill, node.dtype))
        texts[f"{lead}.zarray"] = _zarray(codec, node.shape, node.chunks, shown)
        if fill is None and _TEXTS.issuperset(map(type, attributes.values())):
            # cached for coordinates: half of all arrays, with the same attributes in most files
            texts[key] = _zattrs_of_texts(tuple(attributes.items()), node.dims)
            continue
        attributes = {**attributes, _DIMS: node.dims}
        if fill is not None:
            # VirtualiZarr converts arrays to v3, where a fill value alone does not mean missing
            # data
            attributes[_MASK] = encode_mask_value(fill, node.dtype)
        texts[key] = to_text(attributes, key)
    return texts


_TEXTS = frozenset({str})


@functools.lru_cache(maxsize=4096)
def _zattrs_of_texts(attributes: tuple[tuple[str, str], ...], dims: tuple[str, ...]) -> str:
    return to_text({**dict(attributes), _DIMS: dims})


def _zarray(codec: Any, shape: tuple[int, ...], chunks: tuple[int, ...], fill: str) -> str:
    """Return the `.zarray` document of an array; `fill` is JSON text."""
    dtype, order = _zarray_members(codec, _values_of(codec))
    sizes = ",".join(map(str, shape))
    chunk_sizes = sizes if chunks == shape else ",".join(map(str, chunks))
    return (
        f'{{"zarr_format":2,"shape":[{sizes}],"chunks":[{chunk_sizes}],{dtype},'
        f'"fill_value":{fill},{order},"dimension_separator":"."}}'
    )


def _values_of(codec: SegmentCodec | ForeignCodec) -> str:
    """Return the values of a codec as text, for caches.

    1, 1.0 and true are equal in Python, but different in JSON.
    """
    if isinstance(codec, ForeignCodec):
        return repr(codec.metadata)
    return repr(codec.parameters) if codec.parameters else ""


@functools.lru_cache(maxsize=4096)
def _zarray_members(codec: Any, values: str) -> tuple[str, str]:
    """Return the members of `.zarray` for a codec: dtype and compressor; order and filters."""
    encoding = to_zarr2(codec)
    order = codec.metadata.get("order", "C") if isinstance(codec, ForeignCodec) else "C"
    first = {"dtype": encoding["dtype"], "compressor": encoding["compressor"]}
    last = {"order": order, "filters": encoding["filters"]}
    return to_text(first)[1:-1], to_text(last)[1:-1]


def _text_v3(path: str, key: str, node: Node, more: Mapping[str, Any], is_own: bool) -> str:
    """Return the document of a node, with additional attributes `more`."""
    attributes = dict(node.attributes)
    if isinstance(node, Group):
        attributes.update(more)
        return to_text({"zarr_format": 3, "node_type": "group", "attributes": attributes}, key)
    codec, fill = _only_codec(path, node), node.fill_value
    encoding = _encode_codec(codec, _values_of(codec), node.chunks, is_own)
    if fill is None:
        fill = np.zeros((), node.dtype)[()]
    else:
        # v3 requires a fill value, which therefore does not mean missing data; xarray reads that
        # from this attribute
        attributes.setdefault(_MASK, encode_mask_value(fill, node.dtype))
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": node.shape,
        "data_type": encoding["data_type"],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": node.chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _encode_fill(fill, node.dtype),
        "codecs": encoding["codecs"],
        "attributes": {**attributes, **more},
        "dimension_names": node.dims,
        "storage_transformers": [],
    }
    return to_text(document, key)


@functools.lru_cache(maxsize=4096)
def _encode_codec(
    codec: Any, values: str, chunks: tuple[int, ...], is_own: bool
) -> Mapping[str, Any]:
    return to_zarr3(codec, chunks=chunks, is_own=is_own)


def _only_codec(path: str, array: Array) -> SegmentCodec | ForeignCodec:
    """Return the codec of an array, or raise an error if it has several."""
    if len(array.codecs) == 1:
        return array.codecs[0]
    kinds = sorted({_describe(codec) for codec in array.codecs})
    raise ManifestMismatch(
        "chunks of the array need different codecs, which references cannot express",
        tag=f"array '{path}'",
        got=f"{len(array.codecs)} codecs ({'; '.join(kinds[:4])})",
        expected="one codec",
        hint="Read it through a store, or scan its pages or files as separate arrays.",
    )


def _describe(codec: Any) -> str:
    if isinstance(codec, ForeignCodec):
        return f"Zarr v{codec.zarr_format} {dict(codec.metadata)}"
    order = "big" if codec.byteorder == ">" else "little"
    return (
        f"compression {codec.compression} predictor {codec.predictor} "
        f"{codec.dtype.lstrip('<|>')} {order}-endian"
    )


# ---- values


_encode = functools.partial(
    ujson.dumps, separators=(",", ":"), escape_forward_slashes=False, allow_nan=False
)


def to_text(value: Any, where: str = "") -> str:
    """Return the JSON text of attributes; parameters and errors as in `to_plain`."""
    try:
        return _encode(value)
    except (TypeError, OverflowError):  # NumPy types, NaN or infinity
        return _encode(to_plain(value, where))


def to_plain(value: Any, where: str = "") -> Any:
    """Return attributes as plain JSON values: no NumPy types, tuples, NaN or infinity.

    Parameters
    ----------
    value
        Mappings, sequences, NumPy arrays and scalars, numbers, strings, None.
    where
        Key of the document, for errors.

    Raises
    ------
    InvalidReferences
        If a value cannot be represented in JSON.
    """
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return encode_float(float(value))
    if isinstance(value, list | tuple):
        return [to_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(name): to_plain(item, where) for name, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return to_plain(value.tolist(), where)
    raise InvalidReferences(
        "an attribute is not a JSON value",
        tag=where or None,
        got=f"{type(value).__name__} {str(value)[:60]!r}",
        expected="numbers, strings, lists or mappings",
    )


def _encode_fill(value: Any, dtype: np.dtype) -> Any:
    """Encode a fill value for JSON, by the kind of the dtype; the same for v2 and v3."""
    if dtype.kind == "c":
        number = complex(value)
        return [encode_float(number.real), encode_float(number.imag)]
    if dtype.kind == "f":
        return encode_float(float(value))
    if dtype.kind == "b":
        return bool(value)
    if dtype.kind in "iu":
        return int(value)
    if dtype.kind in "mM":
        return int(np.asarray(value, dtype).view("<i8"))
    if isinstance(value, bytes | np.void):
        return base64.b64encode(bytes(value)).decode("ascii")
    return to_plain(value)


def encode_mask_value(value: Any, dtype: np.dtype) -> Any:
    """Encode a fill value as xarray reads the attribute `_FillValue` of a Zarr v3 array."""
    if dtype.kind == "f":
        return _pack_double(float(value))
    if dtype.kind == "c":
        number = complex(value)
        return [_pack_double(number.real), _pack_double(number.imag)]
    return _encode_fill(value, dtype)


def _pack_double(value: float) -> str:
    return base64.b64encode(struct.pack("<d", value)).decode("ascii")


@dataclass(frozen=True, slots=True)
class ArrayMetadata:
    """The metadata of one array, as in `Array`; `rule` is the format of its chunk keys."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...]
    codec: SegmentCodec | ForeignCodec
    fill_value: Any
    attributes: Mapping[str, Any]
    rule: KeyRule

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return chunk_grid(self.shape, self.chunks)

    def with_manifest(self, manifest: Manifest) -> Array:
        """Return the array with the chunks of a manifest."""
        return Array(
            self.shape, self.chunks, self.dtype, self.dims, (self.codec,), manifest,
            self.fill_value, self.attributes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Nodes:
    """All nodes of a document by path: attributes of groups, and arrays.

    `order` lists the paths of both, and of invalid nodes, in the order of the document.
    """

    groups: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, ArrayMetadata]
    order: Sequence[str]


def _invalid(what: str, got: Any, expected: str) -> InvalidReferences:
    return InvalidReferences(what, got=repr(got)[:80], expected=expected)


def parse_metadata(metadata: Mapping[str, Any], report: Reporter) -> Nodes:
    """Parse all metadata documents.

    Parameters
    ----------
    metadata
        Key -> JSON text (str or bytes) or parsed document.
    report
        Called with each finding; the node is then omitted.
    """
    parsed = {
        key: _parse_json(key, value, report)
        for key, value in metadata.items()
        if not key.endswith((".zmetadata", OME_XML))
    }
    documents = {key: value for key, value in parsed.items() if value is not None}
    groups: dict[str, Mapping[str, Any]] = {}
    arrays: dict[str, ArrayMetadata] = {}
    for key, document in documents.items():
        path, _, name = key.rpartition("/")
        attributes = documents.get(join_key(path, ".zattrs"), {})
        try:
            if name == ".zgroup":
                _expect(document, "zarr_format", (2,))
                groups[path] = attributes
            elif name == ".zarray":
                arrays[path] = _parse_array2(document, attributes)
            elif name == "zarr.json" and documents.keys().isdisjoint(
                join_key(path, v2) for v2 in (".zarray", ".zgroup")
            ):
                _parse_node3(path, document, groups, arrays)
        except InvalidReferences as error:
            report(Finding("metadata", error.what, key, str(error.got), str(error.expected)))
        except (TypeError, AttributeError, LookupError) as error:
            what, expected = "a member has the wrong type", "metadata of the Zarr specification"
            report(Finding("metadata", what, key, str(error)[:80], expected))
    _check_nesting(groups, arrays, report)
    return Nodes(groups, arrays, [key.rpartition("/")[0] for key in documents])


def _check_nesting(
    groups: dict[str, Mapping[str, Any]], arrays: dict[str, ArrayMetadata], report: Reporter
) -> None:
    """Omit nodes inside arrays: their keys would be ambiguous."""
    depths = sorted({path.count("/") + 1 for path in arrays})  # few, however long a path is
    for path in sorted(groups.keys() | arrays.keys()):
        parts = path.split("/")
        above = ("/".join(parts[:depth]) for depth in depths if depth < len(parts))
        outer = next((name for name in above if name in arrays), None)
        if outer is not None:
            groups.pop(path, None)
            arrays.pop(path, None)
            what, got = "a node lies inside an array", f"array '{outer}' above it"
            report(Finding("nesting", what, path, got, "only groups above it"))


def _parse_json(key: str, value: Any, report: Reporter) -> Mapping[str, Any] | None:
    try:
        document = value if isinstance(value, Mapping) else json.loads(value)
        what, got = "the metadata is not an object", repr(document)
    except (ValueError, RecursionError) as error:
        document, what, got = None, "the metadata is not JSON", str(error)
    if isinstance(document, Mapping):
        return document
    report(Finding("json", what, key, got[:80], "a JSON object"))
    return None


# ---- arrays


def _parse_array2(document: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayMetadata:
    _expect(document, "zarr_format", (2,))
    shape, chunks = _parse_grid(document.get("shape"), document.get("chunks"))
    _expect_members(document, {"dtype", "compressor", "fill_value", "order", "filters"}, 2)
    _expect(document, "order", ("C", "F"))
    for member, value in (("filters", document["filters"]), ("compressor", document["compressor"])):
        if value is not None:
            _check_codecs([value] if member == "compressor" else value, member)
    separator = document.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise _invalid("unknown dimension_separator", separator, "'.' or '/'")
    dtype = _parse_dtype(document["dtype"], _parse_dtype2)
    dims, attributes = _extract_dims(attributes, len(shape))
    fill = None if document["fill_value"] is None else _parse_fill(document["fill_value"], dtype)
    if fill is not None and attributes.get(_MASK) == encode_mask_value(fill, dtype):
        attributes = {name: value for name, value in attributes.items() if name != _MASK}
    codec, rule, dtype = from_zarr2(document), KeyRule("", separator, "0"), dtype.newbyteorder("=")
    return ArrayMetadata(shape, chunks, dtype, dims, codec, fill, attributes, rule)


def _parse_node3(
    path: str,
    document: Mapping[str, Any],
    groups: dict[str, Mapping[str, Any]],
    arrays: dict[str, ArrayMetadata],
) -> None:
    _expect(document, "zarr_format", (3,))
    _expect(document, "node_type", ("group", "array"))
    attributes = document.get("attributes", {})
    if not isinstance(attributes, Mapping):
        raise _invalid("attributes are not an object", attributes, "an object")
    if document["node_type"] == "group":
        groups[path] = attributes
    else:
        arrays[path] = _parse_array3(document, attributes)


def _parse_array3(document: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayMetadata:
    grid = document.get("chunk_grid")
    if not isinstance(grid, Mapping) or grid.get("name") != "regular":
        raise _invalid("the chunk grid is not regular", grid, "the chunk grid 'regular'")
    chunk_shape = grid.get("configuration", {}).get("chunk_shape")
    shape, chunks = _parse_grid(document.get("shape"), chunk_shape)
    _expect_members(document, {"data_type", "chunk_key_encoding", "fill_value", "codecs"}, 3)
    dtype = _parse_dtype(document["data_type"], parse_data_type)
    fill = _parse_fill(document["fill_value"], dtype)
    names = document.get("dimension_names") or [None] * len(shape)
    if (
        not isinstance(names, list)
        or len(names) != len(shape)
        or not all(isinstance(name, str | None) for name in names)
    ):
        raise _invalid("dimension_names do not match the shape", names, f"{len(shape)} names")
    _check_codecs(document["codecs"] or "", "codecs")
    dims = tuple(name or f"dim_{row}" for row, name in enumerate(names))
    fill, attributes = _extract_mask(fill, dtype, attributes)
    codec, rule = from_zarr3(document), _parse_rule(document["chunk_key_encoding"])
    return ArrayMetadata(shape, chunks, dtype, dims, codec, fill, attributes, rule)


def _parse_rule(encoding: Any) -> KeyRule:
    name = encoding.get("name") if isinstance(encoding, Mapping) else encoding
    defaults = {"default": "/", "v2": "."}
    if name not in defaults:
        raise _invalid("unknown chunk_key_encoding", encoding, "'default' or 'v2'")
    options = encoding.get("configuration", {}) if isinstance(encoding, Mapping) else {}
    separator = options.get("separator", defaults[name])
    if separator not in (".", "/"):
        raise _invalid("unknown separator of chunk keys", separator, "'.' or '/'")
    return KeyRule(*(("", separator, "0") if name == "v2" else ("c" + separator, separator, "c")))


_MAX_DIMS = 64


def _check_codecs(codecs: Any, member: str) -> None:
    """Check that codecs are objects with a name, or names in v3; not which codecs they are."""
    key, names = ("name", str) if member == "codecs" else ("id", ())
    if not isinstance(codecs, list) or not all(
        isinstance(config, names)
        or (isinstance(config, Mapping) and isinstance(config.get(key), str)
            and isinstance(config.get("configuration", {}), Mapping))
        for config in codecs
    ):  # fmt: skip
        raise _invalid(f"bad {member}", codecs, "codecs as objects")


def _parse_grid(shape: Any, chunks: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for name, value, least in (("shape", shape, 0), ("chunks", chunks, 1)):
        if not isinstance(value, list | tuple) or not all(
            type(n) is int and n >= least for n in value
        ):
            raise _invalid(f"bad {name}", value, f"a list of whole numbers from {least}")
    if len(shape) > _MAX_DIMS:
        raise _invalid("too many dimensions", len(shape), f"at most {_MAX_DIMS}, as NumPy has")
    if len(shape) != len(chunks):
        raise _invalid("chunks do not match the shape", chunks, f"{len(shape)} numbers")
    if math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True)) >= 2**27:
        raise _invalid("more chunks than can be listed", chunks, "fewer than 2**27 chunks")
    return tuple(shape), tuple(chunks)


def _parse_dtype(data_type: Any, parse: Callable[[Any], np.dtype]) -> np.dtype:
    try:
        if data_type is None:  # float64 in NumPy
            raise TypeError(data_type)
        return parse(data_type)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise _invalid("unknown dtype", data_type, "a data type of NumPy and Zarr") from error


def _parse_dtype2(dtype: Any) -> np.dtype:
    return np.dtype([tuple(field) for field in dtype] if isinstance(dtype, list) else dtype)


def _extract_dims(
    attributes: Mapping[str, Any], ndim: int
) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Extract dimension names from attributes; without any, number them as xarray does."""
    names = attributes.get(_DIMS)
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and is_list and len(names) == ndim:
        return tuple(names), {key: v for key, v in attributes.items() if key != _DIMS}
    return tuple(f"dim_{row}" for row in range(ndim)), attributes


def _extract_mask(
    fill: Any, dtype: np.dtype, attributes: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """Return the fill value if it means missing data, else None; v3 always requires one."""
    if _MASK in attributes:
        if attributes[_MASK] == encode_mask_value(fill, dtype):
            return fill, {key: v for key, v in attributes.items() if key != _MASK}
        return None, attributes
    is_default = not fill if dtype.hasobject else not any(np.array(fill, dtype).tobytes())
    return (None if is_default else fill), attributes


def _expect(document: Mapping[str, Any], name: str, allowed: tuple) -> None:
    value = document.get(name)
    if isinstance(value, bool) or value not in allowed:
        raise _invalid(f"bad {name}", value, " or ".join(map(repr, allowed)))


def _expect_members(document: Mapping[str, Any], names: set[str], zarr_format: int) -> None:
    if missing := names - document.keys():
        expected = f"all members of Zarr v{zarr_format} metadata"
        raise _invalid("members are missing", sorted(missing), expected)


# ---- fill values


def _parse_fill(value: Any, dtype: np.dtype) -> Any:
    try:
        return _FILLS.get(dtype.kind, _parse_other)(value, dtype)
    except (TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise _invalid("bad fill_value", value, f"a value of {dtype}") from error


def _parse_float(value: Any, dtype: np.dtype) -> float:
    if isinstance(value, str) and value.startswith("0x"):  # v3: the bits of the number
        bits = bytes.fromhex(value[2:])
        return float(np.frombuffer(bits, dtype.newbyteorder(">"))[0])
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(value)
    return float(value)


def _parse_complex(value: Any, dtype: np.dtype) -> complex:
    if not isinstance(value, list):
        return complex(value)
    part = np.dtype(f"f{dtype.itemsize // 2}")
    real, imaginary = (_parse_float(number, part) for number in value)
    return complex(real, imaginary)


def _parse_integer(value: Any, dtype: np.dtype) -> int:
    number = int(value)
    limits = np.iinfo(dtype)
    if number != value or not limits.min <= number <= limits.max:
        raise ValueError(value)
    return number


def _parse_other(value: Any, dtype: np.dtype) -> Any:
    """Parse fill values of bytes, which are base64, and of text, times and objects."""
    if dtype.kind in "SV" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return np.array(value, dtype)[()] if dtype.kind in "mM" else value


_FILLS = {
    "f": _parse_float,
    "c": _parse_complex,
    "i": _parse_integer,
    "u": _parse_integer,
    "b": lambda value, dtype: bool(value),
}
