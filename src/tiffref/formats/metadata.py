"""Zarr metadata documents, parsed.

Owns the way from `.zgroup`, `.zattrs`, `.zarray` (Zarr v2) and `zarr.json` (v3) to what the model
needs of a node; undoes `documents`. Where a node has both formats, v2 is taken, as xarray's
kerchunk engine does. Consolidated metadata (`.zmetadata`) repeats the rest and is ignored.

Follows the Zarr v2 specification ("Metadata") and the Zarr v3 core specification ("Array
metadata").
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codecs.zarr2 import from_zarr2
from ..codecs.zarr3 import from_zarr3
from ..errors import TiffrefError
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.grid import chunk_grid
from .documents import join_key, spell_mask_value
from .findings import Finding, Reporter
from .keys import KeyRule

__all__ = ["ArrayMetadata", "Nodes", "parse_metadata"]

_DIMS = "_ARRAY_DIMENSIONS"
_MASK = "_FillValue"


@dataclass(frozen=True, slots=True)
class ArrayMetadata:
    """What the metadata says of one array; the fields are those of `model.node.Array`."""

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


@dataclass(frozen=True, slots=True)
class Nodes:
    """All nodes of a document by path: groups with their attributes, and arrays.

    `order` has the paths of both in the order of the document.
    """

    groups: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, ArrayMetadata]
    order: Sequence[str]


class _Invalid(ValueError):
    """A document says something else than it should."""

    def __init__(self, what: str, got: Any, expected: str) -> None:
        super().__init__(what)
        self.got, self.expected = repr(got)[:80], expected


def parse_metadata(metadata: Mapping[str, Any], report: Reporter) -> Nodes:
    """Parse all metadata documents.

    Parameters
    ----------
    metadata
        Key to JSON text (str or bytes) or parsed document.
    report
        Takes every offence; a node that has one is left out.
    """
    parsed = {
        key: _parse_json(key, value, report)
        for key, value in metadata.items()
        if not key.endswith(".zmetadata")
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
            elif name == "zarr.json" and not _is_v2(path, documents):
                _parse_node3(path, document, groups, arrays)
        except _Invalid as error:
            report(Finding("metadata", "metadata", str(error), key, error.got, error.expected))
        except TiffrefError as error:
            report(
                Finding(
                    "codec", "metadata", error.what, key, _text(error.got), _text(error.expected)
                )
            )
    _check_nesting(groups, arrays, report)
    paths = dict.fromkeys(key.rpartition("/")[0] for key in documents)
    return Nodes(groups, arrays, [path for path in paths if path in groups or path in arrays])


def _is_v2(path: str, documents: Mapping[str, Any]) -> bool:
    return any(join_key(path, name) in documents for name in (".zarray", ".zgroup"))


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:80]


def _check_nesting(
    groups: dict[str, Mapping[str, Any]], arrays: dict[str, ArrayMetadata], report: Reporter
) -> None:
    """Leave out what lies inside an array: its keys could be taken for either's."""
    for path in sorted(groups.keys() | arrays.keys()):
        parts = path.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        outer = next((name for name in above if name in arrays), None)
        if outer is not None:
            groups.pop(path, None)
            arrays.pop(path, None)
            report(
                Finding(
                    "nesting",
                    "metadata",
                    "a node lies inside an array",
                    path,
                    f"array '{outer}' above it",
                    "only groups above it",
                )
            )


def _parse_json(key: str, value: Any, report: Reporter) -> Mapping[str, Any] | None:
    try:
        document = value if isinstance(value, Mapping) else json.loads(value)
    except (ValueError, RecursionError) as error:
        report(
            Finding(
                "json",
                "metadata",
                "the metadata is not JSON",
                key,
                str(error)[:80],
                "a JSON object",
            )
        )
        return None
    if not isinstance(document, Mapping):
        report(
            Finding(
                "json",
                "metadata",
                "the metadata is not an object",
                key,
                repr(document)[:80],
                "a JSON object",
            )
        )
        return None
    return document


# ---- arrays


def _parse_array2(document: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayMetadata:
    _expect(document, "zarr_format", (2,))
    shape, chunks = _parse_grid(document.get("shape"), document.get("chunks"))
    missing = {"dtype", "compressor", "fill_value", "order", "filters"} - document.keys()
    if missing:
        raise _Invalid("members are missing", sorted(missing), "all members of Zarr v2 metadata")
    _expect(document, "order", ("C", "F"))
    separator = document.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise _Invalid("unknown dimension_separator", separator, "'.' or '/'")
    dtype = _parse_dtype(document["dtype"])
    dims, attributes = _take_dims(attributes, len(shape))
    fill = None if document["fill_value"] is None else _parse_fill(document["fill_value"], dtype)
    return ArrayMetadata(
        shape,
        chunks,
        dtype.newbyteorder("="),
        dims,
        from_zarr2(document),
        fill,
        attributes,
        KeyRule("", separator, "0"),
    )


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
        raise _Invalid("attributes are no object", attributes, "an object")
    if document["node_type"] == "group":
        groups[path] = attributes
    else:
        arrays[path] = _parse_array3(document, attributes)


def _parse_array3(document: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayMetadata:
    grid = document.get("chunk_grid")
    if not isinstance(grid, Mapping) or grid.get("name") != "regular":
        raise _Invalid("the chunk grid is not regular", grid, "the chunk grid 'regular'")
    chunk_shape = grid.get("configuration", {}).get("chunk_shape")
    shape, chunks = _parse_grid(document.get("shape"), chunk_shape)
    missing = {"data_type", "chunk_key_encoding", "fill_value", "codecs"} - document.keys()
    if missing:
        raise _Invalid("members are missing", sorted(missing), "all members of Zarr v3 metadata")
    dtype = _parse_data_type(document["data_type"])
    fill = _parse_fill(document["fill_value"], dtype)
    names = document.get("dimension_names") or [None] * len(shape)
    if len(names) != len(shape):
        raise _Invalid("dimension_names do not fit the shape", names, f"{len(shape)} names")
    dims = tuple(name or f"dim_{row}" for row, name in enumerate(names))
    fill, attributes = _take_mask(fill, dtype, attributes)
    return ArrayMetadata(
        shape,
        chunks,
        dtype,
        dims,
        from_zarr3(document),
        fill,
        attributes,
        _parse_rule(document["chunk_key_encoding"]),
    )


def _parse_rule(encoding: Any) -> KeyRule:
    name = encoding.get("name") if isinstance(encoding, Mapping) else encoding
    defaults = {"default": "/", "v2": "."}
    if name not in defaults:
        raise _Invalid("unknown chunk_key_encoding", encoding, "'default' or 'v2'")
    options = encoding.get("configuration", {}) if isinstance(encoding, Mapping) else {}
    separator = options.get("separator", defaults[name])
    if separator not in (".", "/"):
        raise _Invalid("unknown separator of chunk keys", separator, "'.' or '/'")
    return (
        KeyRule("c" + separator, separator, "c")
        if name == "default"
        else KeyRule("", separator, "0")
    )


def _parse_grid(shape: Any, chunks: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for name, value, least in (("shape", shape, 0), ("chunks", chunks, 1)):
        if not isinstance(value, list | tuple) or not all(
            type(n) is int and n >= least for n in value
        ):
            raise _Invalid(f"bad {name}", value, f"a list of whole numbers from {least}")
    if len(shape) != len(chunks):
        raise _Invalid("chunks do not fit the shape", chunks, f"{len(shape)} numbers")
    if math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True)) >= 2**27:
        raise _Invalid("more chunks than can be listed", chunks, "fewer than 2**27 chunks")
    return tuple(shape), tuple(chunks)


def _parse_dtype(text: Any) -> np.dtype:
    try:
        fields = [tuple(field) for field in text] if isinstance(text, list) else text
        return np.dtype(fields)
    except (TypeError, ValueError) as error:
        raise _Invalid("unknown dtype", text, "a NumPy dtype string") from error


_DATA_TYPES = {
    "string": "O",
    "fixed_length_utf32": "U{}",
    "null_terminated_bytes": "S{}",
    "raw_bytes": "V{}",
    "numpy.datetime64": "M8[{}]",
    "numpy.timedelta64": "m8[{}]",
}


def _parse_data_type(data_type: Any) -> np.dtype:
    if not isinstance(data_type, Mapping):
        return _parse_dtype(_DATA_TYPES.get(data_type, data_type))
    options = data_type.get("configuration", {})
    name = data_type.get("name", "")
    pattern = _DATA_TYPES.get(name)
    if pattern is None:
        raise _Invalid("unknown data_type", data_type, "a data type of Zarr v3")
    if "unit" in options:
        return _parse_dtype(pattern.format(f"{options.get('scale_factor', 1)}{options['unit']}"))
    n_bytes = options.get("length_bytes", 0)
    return _parse_dtype(pattern.format(n_bytes // 4 if name == "fixed_length_utf32" else n_bytes))


def _take_dims(
    attributes: Mapping[str, Any], ndim: int
) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Take the names of dimensions out of attributes, or number them, as xarray does."""
    names = attributes.get(_DIMS)
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and is_list and len(names) == ndim:
        return tuple(names), {key: v for key, v in attributes.items() if key != _DIMS}
    return tuple(f"dim_{row}" for row in range(ndim)), attributes


def _take_mask(
    fill: Any, dtype: np.dtype, attributes: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """Tell a fill value that means "no data" from the one that v3 must have in any case."""
    if _MASK in attributes:
        if attributes[_MASK] == spell_mask_value(fill, dtype):
            return fill, {key: v for key, v in attributes.items() if key != _MASK}
        return None, attributes
    is_default = not fill if dtype.hasobject else not any(np.array(fill, dtype).tobytes())
    return (None if is_default else fill), attributes


def _expect(document: Mapping[str, Any], name: str, allowed: tuple) -> None:
    value = document.get(name)
    if isinstance(value, bool) or value not in allowed:
        raise _Invalid(f"bad {name}", value, " or ".join(map(repr, allowed)))


# ---- fill values


def _parse_fill(value: Any, dtype: np.dtype) -> Any:
    try:
        return _FILLS.get(dtype.kind, _parse_other)(value, dtype)
    except (TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise _Invalid("bad fill_value", value, f"a value of {dtype}") from error


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
    """Bytes are base64; text, times and objects stand for themselves."""
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
