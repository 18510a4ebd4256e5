"""Zarr v2 metadata: `SegmentCodec` to filters and compressor, and back.

Owns which codec of numcodecs, of imagecodecs-numcodecs or of our own says a segment exactly and is
most widely known. Decoding is the business of `decode`.

References: Zarr storage specification version 2; field names of the numcodecs configurations.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import TiffrefError
from ..model.codec import ForeignCodec, SegmentCodec
from .table import COMPRESSIONS, compression_of
from .unpack import FLOATING_POINT, HORIZONTAL, is_subsampled

__all__ = [
    "LZW",
    "SEGMENT_ID",
    "from_zarr2",
    "portability",
    "raise_codec",
    "reason_for_segment",
    "to_zarr2",
]

SEGMENT_ID = "tiffref_segment"
"""Name of our own codec, in Zarr v2 and v3."""


def to_zarr2(codec: SegmentCodec | ForeignCodec) -> dict[str, Any]:
    """Return `dtype`, `filters` and `compressor` of a `.zarray`.

    The dtype has the byte order of the file where the samples pass as they are stored, else it is
    little-endian.
    """
    if isinstance(codec, ForeignCodec):
        return {name: codec.metadata.get(name) for name in ("dtype", "filters", "compressor")}
    reason = reason_for_segment(codec)
    if reason is not None:
        config = {"id": SEGMENT_ID, **codec.to_config()}
        return {"dtype": codec.dtype, "filters": None, "compressor": config}
    row = compression_of(codec.compression)
    if codec.compression == _JPEG:
        return {"dtype": codec.dtype, "filters": None, "compressor": _jpeg_config(codec)}
    compressor = dict(row.standard if row.standard is not None else row.imagecodecs or {})
    if row.kind == "image":
        if compressor["id"] == "imagecodecs_webp" and codec.shape[3] == 4:
            compressor["hasalpha"] = True
        return {"dtype": codec.dtype, "filters": None, "compressor": compressor}
    dtype = stored_dtype(codec)
    filters = _filters(codec, dtype)
    return {"dtype": dtype, "filters": filters, "compressor": compressor or None}


def stored_dtype(codec: SegmentCodec) -> str:
    """Return the NumPy type of samples as they are when decompressed."""
    dtype = np.dtype(codec.dtype)
    if dtype.itemsize == 1 or codec.predictor in FLOATING_POINT:
        return codec.dtype
    byteorder: Any = codec.byteorder
    return dtype.newbyteorder(byteorder).str


def reason_for_segment(codec: SegmentCodec) -> str | None:
    """Explain in one line why only `tiffref_segment` decodes such segments; None if others do."""
    for applies, reason in _REASONS:
        if applies(codec):
            return reason
    return None


def portability(codec: SegmentCodec | ForeignCodec) -> tuple[str, str]:
    """Return who can decode chunks of this codec in Zarr v2.

    Returns
    -------
    tier, reason
        "standard": every Zarr reader with numcodecs' codecs; "imagecodecs": Python with
        imagecodecs-numcodecs; "tiffref": Python with tiffref. And why, in one line.
    """
    if isinstance(codec, ForeignCodec):
        return "standard", "codecs of the document as they were found"
    reason = reason_for_segment(codec)
    if reason is not None:
        return "tiffref", reason
    document = to_zarr2(codec)
    used = [*(document["filters"] or ()), document["compressor"]]
    names = [config["id"] for config in used if config is not None]
    if any(name.startswith("imagecodecs_") for name in names):
        return "imagecodecs", f"said exactly by {' and '.join(names)}"
    return "standard", f"said exactly by {' and '.join(names) or 'no codec'}"


def from_zarr2(zarray: Mapping[str, Any]) -> SegmentCodec | ForeignCodec:
    """Raise the codec part of a `.zarray` to a codec.

    Metadata as `to_zarr2` writes it becomes a `SegmentCodec`, anything else a `ForeignCodec` that
    keeps it as it stands, so that `to_zarr2` gives back what was read.
    """
    given = {name: zarray.get(name) for name in ("dtype", "filters", "compressor")}
    foreign = ForeignCodec(2, {**given, "order": zarray.get("order", "C")})
    if zarray.get("order", "C") != "C" or not isinstance(given["dtype"], str):
        return foreign
    try:
        codec = raise_codec(given, zarray.get("chunks", ()))
        wanted = {**given, "filters": given["filters"] or None}
        is_same = codec is not None and to_zarr2(codec) == wanted
    except (TypeError, ValueError, KeyError, AttributeError, TiffrefError):
        return foreign
    return codec if codec is not None and is_same else foreign


_JPEG, LZW = 7, 5


def _jpeg_config(codec: SegmentCodec) -> dict[str, Any]:
    config: dict[str, Any] = {"id": "imagecodecs_jpeg"}
    tables = codec.parameters.get("jpeg_tables")
    if tables is not None:
        config["tables"] = base64.b64encode(tables).decode("ascii")
    for name, parameter in _JPEG_NAMES.items():
        if parameter in codec.parameters:
            config[name] = codec.parameters[parameter]
    return config


_JPEG_NAMES = {"colorspace_jpeg": "colorspace", "colorspace_data": "outcolorspace"}


def _filters(codec: SegmentCodec, dtype: str) -> list[dict[str, Any]] | None:
    """Return the filters that undo the predictor, most portable first."""
    if codec.predictor in HORIZONTAL:
        if _is_plain_delta(codec):
            return [{"id": "delta", "dtype": dtype, "astype": dtype}]
        return [_predictor_filter("imagecodecs_delta", codec, dtype, HORIZONTAL)]
    if codec.predictor in FLOATING_POINT:
        return [_predictor_filter("imagecodecs_floatpred", codec, dtype, FLOATING_POINT)]
    return None


def _predictor_filter(
    name: str, codec: SegmentCodec, dtype: str, distances: Mapping[int, int]
) -> dict[str, Any]:
    return {
        "id": name,
        "shape": list(codec.shape),
        "dtype": dtype,
        "axis": -2,
        "dist": distances[codec.predictor],
    }


def _is_plain_delta(codec: SegmentCodec) -> bool:
    # numcodecs' delta runs over the whole chunk, and adds floats as floats
    depth, rows, _, samples = codec.shape
    is_row = depth * rows * samples == 1
    return is_row and codec.predictor == 2 and np.dtype(codec.dtype).kind in "iu"


def _is_image(codec: SegmentCodec) -> bool:
    return compression_of(codec.compression).kind == "image"


def _has_odd_bits(codec: SegmentCodec) -> bool:
    width = np.dtype(codec.dtype).itemsize * 8
    return codec.dtype == "|b1" or (bool(codec.bits) and codec.bits != (width,))


def _has_no_id(codec: SegmentCodec) -> bool:
    row = compression_of(codec.compression)
    return row.standard is None and row.imagecodecs is None and codec.compression != _JPEG


def _has_odd_predictor(codec: SegmentCodec) -> bool:
    if _is_image(codec) or codec.predictor in (0, 1):
        return False
    dtype = np.dtype(codec.dtype)
    if codec.predictor in FLOATING_POINT:
        return dtype.kind != "f"
    return codec.predictor not in HORIZONTAL or dtype.kind not in "iuf"


_REASONS: tuple[tuple[Callable[[SegmentCodec], bool], str], ...] = (
    (_has_no_id, "no codec of others decodes this compression exactly"),
    (
        lambda codec: codec.compression == LZW and "ends_exactly" not in codec.parameters,
        "segments of LZW may lack their end code",
    ),
    (lambda codec: codec.fill_order == 2, "bits are stored backwards"),
    (lambda codec: codec.sample_format == 5, "samples are complex integers"),
    (_has_odd_bits, "samples are packed or not of a NumPy type"),
    (lambda codec: is_subsampled(codec) and not _is_image(codec), "chroma is subsampled"),
    (_has_odd_predictor, "no other codec undoes this predictor for such samples"),
    (lambda codec: "calibration" in codec.parameters, "samples are calibrated when read"),
    (lambda codec: "jpeg_header" in codec.parameters, "JPEG tiles lack their header"),
    (lambda codec: "jpeg_process" in codec.parameters, "the process of JPEG is not a common one"),
    (lambda codec: codec.edge is not None, "segments at the edge may be stored short or cropped"),
    (lambda codec: "lerc_mask" in codec.parameters, "a mask of LERC stands for NaN or for alpha"),
    (lambda codec: _is_image(codec) and codec.byteorder == ">", "bytes of an image are swapped"),
    (lambda codec: bool(codec.transposes), "Zarr v2 cannot transpose the samples of a chunk"),
)
"""Why a codec needs `tiffref_segment`: the first that applies is given, the most telling first."""


def raise_codec(given: Mapping[str, Any], chunks: Sequence[int]) -> SegmentCodec | None:
    """Build the codec that `to_zarr2` may have written this for; None if there is none.

    Parameters
    ----------
    given
        `dtype`, `filters` and `compressor` of Zarr v2 metadata.
    chunks
        Chunk shape.
    """
    dtype = np.dtype(given["dtype"])
    compressor = dict(given["compressor"] or {})
    filters = list(given["filters"] or ())
    if compressor.get("id") == SEGMENT_ID:
        del compressor["id"]
        return SegmentCodec.from_config(compressor)
    fields: dict[str, Any] = {
        "shape": _shape_of(chunks),
        "dtype": dtype.newbyteorder("<").str,
        "byteorder": ">" if dtype.byteorder == ">" else "<",
        "sample_format": _SAMPLE_FORMATS.get(dtype.kind, 1),
    }
    if compressor.get("id") == "imagecodecs_jpeg":
        return SegmentCodec(compression=_JPEG, parameters=_jpeg_parameters(compressor), **fields)
    has_alpha = compressor.pop("hasalpha", None)
    for row in _RAISED:
        if compressor == dict(row.standard if row.standard is not None else row.imagecodecs or {}):
            fields["compression"] = row.code
            fields["parameters"] = {"ends_exactly": True} if row.code == LZW else {}
            break
    else:
        return None
    if has_alpha is not None:
        fields["shape"] = (1, 1, max(1, math.prod(chunks) // 4), 4)
    if filters:
        fields |= _predictor_fields(filters, fields["shape"])
    return SegmentCodec(**fields)


def _jpeg_parameters(compressor: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {
        parameter: compressor[name] for name, parameter in _JPEG_NAMES.items() if name in compressor
    }
    if "tables" in compressor:
        parameters["jpeg_tables"] = base64.b64decode(compressor["tables"])
    return parameters


def _predictor_fields(filters: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> dict[str, Any]:
    (config,) = filters
    if config["id"] == "delta":
        return {"predictor": 2, "shape": (1, 1, math.prod(shape), 1)}
    distances = {"imagecodecs_delta": HORIZONTAL, "imagecodecs_floatpred": FLOATING_POINT}
    (predictor,) = (
        value for value, dist in distances[config["id"]].items() if dist == config["dist"]
    )
    return {"predictor": predictor, "shape": tuple(config["shape"])}


def _shape_of(chunks: Sequence[int]) -> tuple[int, int, int, int]:
    # the document does not tell rows from samples, and without a predictor it does not matter
    return (1, 1, 1, math.prod(chunks))


_SAMPLE_FORMATS = {"i": 2, "f": 3, "c": 6}
# of several numbers for one compression, the one in use comes first
_PREFERRED = (1, 8, 50000, 50001, 50002, 34712, 34934)
_RAISED = [COMPRESSIONS[code] for code in _PREFERRED] + [
    row for row in COMPRESSIONS.values() if row.standard is not None or row.imagecodecs is not None
]
