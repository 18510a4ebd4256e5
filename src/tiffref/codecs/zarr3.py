"""Zarr v3 metadata: `SegmentCodec` to a codec list, and back.

Owns which codecs say a segment exactly and are most widely known: those of the v3 specification,
those that zarr-python registers under `numcodecs.`, those that imagecodecs-zarr registers as
`imagecodecs_*`, and our own. The package virtual-tiff takes some of the names of imagecodecs-zarr
for codecs of its own, which zarr then finds instead; our readers do not ask zarr. It does not
import zarr.

References: Zarr core specification version 3, sections on codecs and data types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import TiffrefError
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.transpose import is_self_inverse, trim_order, with_transposes
from .table import COMPRESSIONS, compression_of
from .unpack import FLOATING_POINT, HORIZONTAL
from .zarr2 import SEGMENT_ID, raise_codec, reason_for_segment, to_zarr2

__all__ = ["from_zarr3", "to_zarr3"]

_UNKNOWN_TO_GDAL = {"name": "numcodecs.shuffle", "configuration": {"elementsize": 1}}
"""A codec that changes nothing. GDAL 3.12 decodes a transpose that is not its own inverse the wrong
way round, without an error; a codec that it does not know makes it refuse the array."""


def to_zarr3(
    codec: SegmentCodec | ForeignCodec,
    *,
    ndim: int | None = None,
    chunks: Sequence[int] | None = None,
    is_own: bool = False,
) -> dict[str, Any]:
    """Return `data_type` and `codecs` of a `zarr.json`.

    Parameters
    ----------
    codec
        How segments decode.
    ndim, chunks
        Dimensions and chunk shape of the array, where known: `transpose` and predictors depend on
        them.
    is_own
        Use our own codec wherever bytes are decoded, which no other package's names can shadow.
    """
    if isinstance(codec, ForeignCodec):
        return {name: codec.metadata[name] for name in ("data_type", "codecs")}
    if codec.transposes:
        assert ndim is not None
        first = [_transpose_codec(order, ndim) for order in codec.transposes]
        for one in first:
            order = one["configuration"]["order"]
            chunks = None if chunks is None else [chunks[axis] for axis in order]
        stored = to_zarr3(replace(codec, transposes=()), ndim=ndim, chunks=chunks, is_own=is_own)
        codecs = [*first, *stored["codecs"]]
        if not all(map(is_self_inverse, codec.transposes)) and _gdal_decodes(codecs):
            codecs.append(_UNKNOWN_TO_GDAL)
        return {**stored, "codecs": codecs}
    codecs = None if reason_for_segment(codec) is not None else _portable(codec, chunks)
    if codecs is None or (is_own and any("imagecodecs_" in one["name"] for one in codecs)):
        codecs = [{"name": SEGMENT_ID, "configuration": codec.to_config()}]
    return {"data_type": _data_type(np.dtype(codec.dtype)), "codecs": codecs}


def _portable(codec: SegmentCodec, chunks: Sequence[int] | None) -> list[dict[str, Any]] | None:
    """Return the codec list that others know, None where there is none."""
    row = compression_of(codec.compression)
    if row.kind == "image":
        return [_named(to_zarr2(codec)["compressor"])]
    last = [] if row.v3 == {} else [json.loads(json.dumps(row.v3 or _named(row.imagecodecs or {})))]
    if codec.predictor in (0, 1):
        return [_bytes_codec(codec), *last]
    axis = _row_axis(codec, chunks or ())
    if axis is None:
        return None
    for name, distances, inner in (
        ("imagecodecs_delta", HORIZONTAL, [_bytes_codec(codec)]),
        ("imagecodecs_floatpred", FLOATING_POINT, []),
    ):
        if codec.predictor in distances:
            configuration = {"axis": axis, "dist": distances[codec.predictor]}
            return [{"name": name, "configuration": configuration}, *inner, *last]
    return None


def _named(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the codec of v3 that imagecodecs has under the same name as in v2."""
    configuration = {name: value for name, value in config.items() if name != "id"}
    named = {"name": config["id"]}
    return {**named, "configuration": configuration} if configuration else named


def _row_axis(codec: SegmentCodec, chunks: Sequence[int]) -> int | None:
    """Return the axis of a chunk along which predictors work, counted from the last."""
    columns, samples = codec.shape[2:]
    if samples == 1 and tuple(chunks[-1:]) == (columns,):
        return -1
    return -2 if tuple(chunks[-2:]) == (columns, samples) else None


def from_zarr3(metadata: Mapping[str, Any]) -> SegmentCodec | ForeignCodec:
    """Raise the codec part of a `zarr.json` to a codec.

    Metadata as `to_zarr3` writes it becomes a `SegmentCodec`, anything else a `ForeignCodec` that
    keeps it as it stands, so that `to_zarr3` gives back what was read.
    """
    given = {name: metadata.get(name) for name in ("data_type", "codecs")}
    foreign = ForeignCodec(3, given)
    grid = metadata.get("chunk_grid") or {}
    try:
        chunks = grid.get("configuration", {}).get("chunk_shape", ())
        codec = _raise_codec(given, chunks)
        is_same = codec is not None and given in (
            to_zarr3(codec, ndim=len(chunks), chunks=chunks),
            to_zarr3(codec, ndim=len(chunks), chunks=chunks, is_own=True),
        )
    except (TypeError, ValueError, KeyError, AttributeError, TiffrefError):
        return foreign
    return codec if codec is not None and is_same else foreign


def _data_type(dtype: np.dtype) -> Any:
    if dtype.kind == "U":
        configuration = {"length_bytes": dtype.itemsize}
        return {"name": "fixed_length_utf32", "configuration": configuration}
    return dtype.name


def _dtype(data_type: Any) -> np.dtype:
    if isinstance(data_type, Mapping) and data_type["name"] == "fixed_length_utf32":
        return np.dtype(f"<U{data_type['configuration']['length_bytes'] // 4}")
    return np.dtype(data_type)


def _bytes_codec(codec: SegmentCodec) -> dict[str, Any]:
    if np.dtype(codec.dtype).itemsize == 1:
        return {"name": "bytes"}
    endian = "big" if codec.byteorder == ">" else "little"
    return {"name": "bytes", "configuration": {"endian": endian}}


def _transpose_codec(order: tuple[int, ...], ndim: int) -> dict[str, Any]:
    lead = ndim - len(order)
    full = [*range(lead), *(lead + axis for axis in order)]
    return {"name": "transpose", "configuration": {"order": full}}


def _gdal_decodes(codecs: Sequence[Mapping[str, Any]]) -> bool:
    return {one["name"] for one in codecs} <= {"transpose", "bytes", "zstd"}


def _split_transposes(
    codecs: Sequence[Mapping[str, Any]], chunks: Sequence[int]
) -> tuple[tuple[tuple[int, ...], ...], Sequence[int], Sequence[Mapping[str, Any]]]:
    """Return the transposes that a codec list begins with, the stored chunk shape, and the rest."""
    transposes = []
    n = 0
    while n < len(codecs) and codecs[n]["name"] == "transpose":
        order = codecs[n]["configuration"]["order"]
        chunks = [chunks[axis] for axis in order]
        transposes.append(trim_order(order))
        n += 1
    kept = codecs[n:-1] if n and codecs[-1] == _UNKNOWN_TO_GDAL else codecs[n:]
    return tuple(transposes), chunks, kept


def _raise_codec(given: Mapping[str, Any], chunks: Sequence[int]) -> SegmentCodec | None:
    transposes, chunks, codecs = _split_transposes(given["codecs"], chunks)
    if transposes:
        stored = _raise_codec({**given, "codecs": codecs}, chunks)
        return None if stored is None else with_transposes(stored, transposes, chunks)
    if not codecs:
        return None
    if codecs[0]["name"] == SEGMENT_ID:
        return SegmentCodec.from_config(codecs[0]["configuration"])
    return raise_codec(_in_zarr2(_dtype(given["data_type"]), codecs, chunks), chunks)


def _in_zarr2(
    dtype: np.dtype, codecs: Sequence[Mapping[str, Any]], chunks: Sequence[int]
) -> dict[str, Any]:
    """Return what Zarr v2 has for a codec list that `_portable` may have written."""
    filters, compressor = [], None
    for one in codecs:
        name, options = one["name"], one.get("configuration", {})
        if name == "bytes" and options.get("endian") == "big":
            dtype = dtype.newbyteorder(">")
        elif name in _PREDICTORS:
            n_samples = 1 if options["axis"] == -1 else chunks[-1]
            columns = chunks[options["axis"]]
            rows = math.prod(chunks) // (n_samples * columns)
            shape = [1, rows, columns, n_samples]
            filters.append({"id": name, "shape": shape, "dist": options["dist"]})
        elif name != "bytes":
            known = next((dict(row.standard or {}) for row in _STANDARD if row.v3 == one), None)
            compressor = known or {"id": name, **options}
    return {"dtype": dtype.str, "filters": filters, "compressor": compressor}


_PREDICTORS = ("imagecodecs_delta", "imagecodecs_floatpred")
# of several numbers for one compression, the one in use
_STANDARD = [COMPRESSIONS[code] for code in (8, 50000, 34925)]
