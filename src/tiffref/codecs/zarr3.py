"""Zarr v3 metadata: `SegmentCodec` to a codec list, and back.

Owns which codecs of the v3 specification (or registered by zarr-python under `numcodecs.`) say a
segment exactly. The names `imagecodecs_*` are not used in v3: two packages register them with
different meanings. It does not import zarr.

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
from ..model.transpose import trim_order, with_transposes
from .table import COMPRESSIONS, compression_of
from .zarr2 import SEGMENT_ID, reason_for_segment

__all__ = ["from_zarr3", "to_zarr3"]


def to_zarr3(
    codec: SegmentCodec | ForeignCodec,
    *,
    ndim: int | None = None,
    chunks: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return `data_type` and `codecs` of a `zarr.json`.

    Parameters
    ----------
    codec
        How segments decode.
    ndim, chunks
        Dimensions and chunk shape of the array. Only `transpose` depends on them: a decoded segment
        is C-contiguous, whatever its dimensions are called.
    """
    if isinstance(codec, ForeignCodec):
        return {name: codec.metadata[name] for name in ("data_type", "codecs")}
    if codec.transposes:
        assert ndim is not None
        stored = to_zarr3(replace(codec, transposes=()), ndim=ndim, chunks=chunks)
        first = [_transpose_codec(order, ndim) for order in codec.transposes]
        return {**stored, "codecs": [*first, *stored["codecs"]]}
    data_type = _data_type(np.dtype(codec.dtype))
    row = compression_of(codec.compression)
    if row.v3 is None or codec.predictor not in (0, 1) or reason_for_segment(codec) is not None:
        config = codec.to_config()
        return {"data_type": data_type, "codecs": [{"name": SEGMENT_ID, "configuration": config}]}
    codecs = [_bytes_codec(codec)]
    if row.v3:
        codecs.append(json.loads(json.dumps(row.v3)))
    return {"data_type": data_type, "codecs": codecs}


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
        is_same = codec is not None and to_zarr3(codec, ndim=len(chunks)) == given
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
    return tuple(transposes), chunks, codecs[n:]


def _raise_codec(given: Mapping[str, Any], chunks: Sequence[int]) -> SegmentCodec | None:
    transposes, chunks, codecs = _split_transposes(given["codecs"], chunks)
    if transposes:
        stored = _raise_codec({**given, "codecs": codecs}, chunks)
        return None if stored is None else with_transposes(stored, transposes, chunks)
    first, *rest = codecs
    if first["name"] == SEGMENT_ID:
        return SegmentCodec.from_config(first["configuration"])
    dtype = _dtype(given["data_type"])
    endian = first.get("configuration", {}).get("endian", "little")
    wanted = rest[0] if rest else {}
    for row in _RAISED:
        if row.v3 == wanted:
            return SegmentCodec(
                (1, 1, 1, math.prod(chunks)),
                dtype.newbyteorder("<").str,
                row.code,
                byteorder=">" if endian == "big" else "<",
                sample_format=_SAMPLE_FORMATS.get(dtype.kind, 1),
            )
    return None


_SAMPLE_FORMATS = {"i": 2, "f": 3, "c": 6}
# of several numbers for one compression, the one in use
_RAISED = [COMPRESSIONS[code] for code in (1, 8, 50000, 34925)]
