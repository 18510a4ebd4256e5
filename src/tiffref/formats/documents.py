"""Arrays and groups as Zarr metadata documents, and back.

Owns how the model is spelled in `.zgroup`, `.zattrs`, `.zarray` (Zarr v2) and `zarr.json` (v3):
names of dimensions, fill values, numbers that JSON does not have. Chunks and files are not its
business (see `kerchunk` and `parquet`); codecs are spelled by `codecs.zarr2` and `codecs.zarr3`.

Follows the Zarr v2 specification ("Metadata", "Fill value encoding"), the Zarr v3 core
specification ("Array metadata", "Fill value") and xarray's `_ARRAY_DIMENSIONS`. JSON has no NaN
and no infinity (RFC 8259, section 6), and most parsers refuse Python's spelling of them; in
attributes they are written as the strings "NaN", "Infinity" and "-Infinity", as Zarr does in fill
values.
"""

from __future__ import annotations

import base64
import functools
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..codecs.zarr2 import to_zarr2
from ..codecs.zarr3 import to_zarr3
from ..errors import InvalidReferences, ManifestMismatch
from ..model.codec import ForeignCodec
from ..model.node import Array, Group

__all__ = ["join_key", "spell_mask_value", "to_documents", "to_plain"]


def join_key(path: str, name: str) -> str:
    """Give the key of `name` in the node at `path`; the root's path is empty."""
    return f"{path}/{name}" if path else name


def to_documents(group: Group, zarr_format: int = 2) -> dict[str, dict[str, Any]]:
    """Give the metadata documents of a group and all below.

    A child of the root whose name is empty is an array at the root itself, as some documents have
    it: the root is then no group, unless it has other children as well (Zarr v2 only).

    Parameters
    ----------
    group
        The root.
    zarr_format
        2 or 3.

    Returns
    -------
    documents
        Key ("image/.zarray") to document, in plain JSON values; the root comes first.

    Raises
    ------
    ManifestMismatch
        If an array has more than one codec.
    InvalidReferences
        If an attribute is not a JSON value, or the root cannot be both array and group.
    """
    if zarr_format not in _SPELLINGS:
        raise InvalidReferences("no such Zarr format", got=zarr_format, expected="2 or 3")
    spell_group, spell_array = _SPELLINGS[zarr_format]
    documents: dict[str, dict[str, Any]] = {}
    if set(group.children) != {""}:
        documents.update(spell_group("", group))
    for path, node in group.walk():
        spelled = spell_group(path, node) if isinstance(node, Group) else spell_array(path, node)
        if not documents.keys().isdisjoint(spelled):
            raise InvalidReferences(
                "the root is both an array and a group, which Zarr v3 cannot say",
                tag=next(iter(spelled)),
                hint="Write zarr_format=2, or give the array a name.",
            )
        documents.update(spelled)
    return documents


def _spell_group2(path: str, group: Group) -> dict[str, dict[str, Any]]:
    documents: dict[str, dict[str, Any]] = {join_key(path, ".zgroup"): {"zarr_format": 2}}
    if group.attributes:
        key = join_key(path, ".zattrs")
        documents[key] = to_plain(group.attributes, key)
    return documents


def _spell_array2(path: str, array: Array) -> dict[str, dict[str, Any]]:
    document = _zarray(_only_codec(path, array), array.shape, array.chunks)
    if array.fill_value is not None:
        document = {**document, "fill_value": _fill2(array)}
    key = join_key(path, ".zattrs")
    return {
        join_key(path, ".zarray"): document,
        key: {**to_plain(array.attributes, key), "_ARRAY_DIMENSIONS": list(array.dims)},
    }


@functools.lru_cache(maxsize=256)
def _zarray(codec: Any, shape: tuple[int, ...], chunks: tuple[int, ...]) -> dict[str, Any]:
    """Give the document of an array without a fill value.

    The same object for equal arguments: the arrays of many files differ in nothing of it, and what
    is made of it can be kept (see `kerchunk`).
    """
    encoding = to_zarr2(codec)
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": encoding["dtype"],
        "compressor": encoding["compressor"],
        "fill_value": None,
        "order": _order(codec),
        "filters": encoding["filters"],
        "dimension_separator": ".",
    }


def _spell_group3(path: str, group: Group) -> dict[str, dict[str, Any]]:
    key = join_key(path, "zarr.json")
    attributes = to_plain(group.attributes, key)
    return {key: {"zarr_format": 3, "node_type": "group", "attributes": attributes}}


def _spell_array3(path: str, array: Array) -> dict[str, dict[str, Any]]:
    key = join_key(path, "zarr.json")
    encoding = to_zarr3(_only_codec(path, array), ndim=len(array.shape), chunks=array.chunks)
    attributes = to_plain(array.attributes, key)
    if array.fill_value is not None:
        # v3 always has a fill value, so that it cannot say "missing data"; this attribute does,
        # spelled as xarray reads it
        attributes.setdefault("_FillValue", spell_mask_value(array.fill_value, array.dtype))
    return {
        key: {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(array.shape),
            "data_type": encoding["data_type"],
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(array.chunks)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": _fill3(array),
            "codecs": encoding["codecs"],
            "attributes": attributes,
            "dimension_names": list(array.dims),
            "storage_transformers": [],
        }
    }


_SPELLINGS: dict[int, tuple[Any, Any]] = {
    2: (_spell_group2, _spell_array2),
    3: (_spell_group3, _spell_array3),
}


def _only_codec(path: str, array: Array) -> Any:
    if len(array.codecs) != 1:
        kinds = sorted({_describe(codec) for codec in array.codecs})
        raise ManifestMismatch(
            "the chunks of the array are stored in different ways, which references cannot say",
            tag=f"array '{path}'",
            got=f"{len(array.codecs)} codecs ({'; '.join(kinds[:4])})",
            expected="one codec",
            hint="Read it through a store, or scan its pages or files as separate arrays.",
        )
    return array.codecs[0]


def _describe(codec: Any) -> str:
    if isinstance(codec, ForeignCodec):
        return f"Zarr v{codec.zarr_format} {dict(codec.metadata)}"
    order = "big" if codec.byteorder == ">" else "little"
    return (
        f"compression {codec.compression} predictor {codec.predictor} "
        f"{codec.dtype.lstrip('<|>')} {order}-endian"
    )


def _order(codec: Any) -> str:
    return str(codec.metadata.get("order", "C")) if isinstance(codec, ForeignCodec) else "C"


# ---- values


_PLAIN = frozenset({str, int, bool, type(None)})
_FLOAT = {float}


def to_plain(value: Any, where: str = "") -> Any:
    """Give attributes as plain JSON values: no NumPy types, tuples, NaN or infinity.

    Parameters
    ----------
    value
        Mappings, sequences, NumPy arrays and scalars, numbers, strings, None.
    where
        Key of the document, for the error.

    Raises
    ------
    InvalidReferences
        If a value has no JSON form.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, float):
        return _spell_float(value)
    if isinstance(value, str | bool | int):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        return {
            str(name): item if type(item) in _PLAIN else to_plain(item, where)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        kinds = set(map(type, value))
        if kinds <= _PLAIN or (kinds == _FLOAT and all(map(math.isfinite, value))):
            return list(value)
        return [to_plain(item, where) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return to_plain(value.tolist(), where)
    raise InvalidReferences(
        "an attribute is not a JSON value",
        tag=where or None,
        got=f"{type(value).__name__} {str(value)[:60]!r}",
        expected="numbers, strings, lists or mappings",
    )


def _spell_float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _fill2(array: Array) -> Any:
    return None if array.fill_value is None else _spell_scalar(array.fill_value, array.dtype)


def _fill3(array: Array) -> Any:
    fill = np.zeros((), array.dtype)[()] if array.fill_value is None else array.fill_value
    return _spell_scalar(fill, array.dtype)


def _spell_scalar(value: Any, dtype: np.dtype) -> Any:
    """Spell a fill value, by the kind of the dtype, in the way that v2 and v3 share."""
    if dtype.kind == "c":
        number = complex(value)
        return [_spell_float(number.real), _spell_float(number.imag)]
    if dtype.kind == "f":
        return _spell_float(float(value))
    if dtype.kind == "b":
        return bool(value)
    if dtype.kind in "iu":
        return int(value)
    if dtype.kind in "mM":
        return int(np.asarray(value, dtype).view("<i8"))
    if isinstance(value, bytes | np.void):
        return base64.b64encode(bytes(value)).decode("ascii")
    return to_plain(value)


def spell_mask_value(value: Any, dtype: np.dtype) -> Any:
    """Spell a fill value as xarray reads the attribute `_FillValue` of a Zarr v3 array."""
    if dtype.kind == "f":
        return _pack_double(float(value))
    if dtype.kind == "c":
        number = complex(value)
        return [_pack_double(number.real), _pack_double(number.imag)]
    return _spell_scalar(value, dtype)


def _pack_double(value: float) -> str:
    return base64.b64encode(struct.pack("<d", value)).decode("ascii")
