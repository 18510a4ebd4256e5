"""Convert `SegmentCodec` to Zarr filters and compressor (v2) or a codec list (v3), and back.

Chooses the most widely available codecs that decode a segment exactly: those of the v3
specification, of numcodecs, of imagecodecs-numcodecs and imagecodecs-zarr, or else our own. The
package virtual-tiff registers some names of imagecodecs-zarr for its own codecs, which zarr then
finds instead; our own readers do not look codecs up in zarr. Decoding is in `decode`.

References: Zarr storage specification version 2; Zarr core specification version 3, sections on
codecs and data types; field names of the numcodecs configurations.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import TiffrefError
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.combine import is_self_inverse, trim_order, with_transposes
from .table import COMPRESSIONS, compression_of
from .unpack import FLOATING_POINT, HORIZONTAL, NO_PREDICTOR, is_subsampled

SEGMENT_ID = "tiffref_segment"
"""Name of our own codec, in Zarr v2 and v3."""
LZW, _JPEG, _WEBP = 5, 7, (34927, 50001)
_PREDICTORS = {"imagecodecs_delta": HORIZONTAL, "imagecodecs_floatpred": FLOATING_POINT}
"""Codecs that undo predictors -> {value of tag 317: distance}."""
_JPEG_NAMES = {"colorspace_jpeg": "colorspace", "colorspace_data": "outcolorspace"}
"""Options of `imagecodecs_jpeg` -> our parameters."""
_PARSE_ERRORS = (TypeError, ValueError, LookupError, AttributeError, TiffrefError)
"""Exceptions that parsing metadata of other programs may raise; it is then kept unchanged."""


# ---- which readers can decode a codec


def _is_image(codec: SegmentCodec) -> bool:
    return compression_of(codec.compression).kind == "image"


def _has_odd_bits(codec: SegmentCodec) -> bool:
    width = np.dtype(codec.dtype).itemsize * 8
    return codec.dtype == "|b1" or (bool(codec.bits) and codec.bits != (width,))


def _has_odd_predictor(codec: SegmentCodec) -> bool:
    if _is_image(codec) or codec.predictor in NO_PREDICTOR:
        return False
    kind = np.dtype(codec.dtype).kind
    if codec.predictor in FLOATING_POINT:
        return kind != "f"
    return codec.predictor not in HORIZONTAL or kind not in "iuf"


_REASONS: tuple[tuple[Callable[[SegmentCodec], bool], str], ...] = (
    (
        lambda codec: compression_of(codec.compression).zarr2 is None,
        "no other codec decodes this compression exactly",
    ),
    (
        lambda codec: codec.compression == LZW and "ends_exactly" not in codec.parameters,
        "LZW segments may lack their end code",
    ),
    (lambda codec: codec.fill_order == 2, "bits are stored in reverse order"),
    (lambda codec: codec.sample_format == 5, "samples are complex integers"),
    (_has_odd_bits, "samples are packed or have no NumPy dtype"),
    (lambda codec: is_subsampled(codec) and not _is_image(codec), "chroma is subsampled"),
    (_has_odd_predictor, "no other codec undoes this predictor for such samples"),
    (lambda codec: "calibration" in codec.parameters, "samples are calibrated when read"),
    (lambda codec: "jpeg_header" in codec.parameters, "JPEG tiles lack their header"),
    (lambda codec: "jpeg_process" in codec.parameters, "the JPEG process is not a common one"),
    (lambda codec: codec.edge is not None, "segments at the edge may be stored short or cropped"),
    (lambda codec: "accepts_truncated" in codec.parameters, "segments are truncated"),
    (lambda codec: "lerc_mask" in codec.parameters, "a LERC mask stands for NaN or alpha"),
    (lambda codec: _is_image(codec) and codec.byteorder == ">", "bytes of the image are swapped"),
    (lambda codec: bool(codec.transposes), "Zarr v2 cannot transpose the samples of a chunk"),
)
"""Why a codec needs `tiffref_segment`, the most informative reason first."""


def reason_for_segment(codec: SegmentCodec) -> str | None:
    """Return in one line why only `tiffref_segment` decodes such segments; None if others do."""
    return next((reason for applies, reason in _REASONS if applies(codec)), None)


def portability(codec: SegmentCodec | ForeignCodec) -> tuple[str, str]:
    """Return which Zarr v2 readers can decode chunks of this codec.

    Returns
    -------
    tier, reason
        "standard": every Zarr reader with numcodecs' codecs; "imagecodecs": Python with
        imagecodecs-numcodecs; "tiffref": Python with tiffref. The reason is one line.
    """
    if isinstance(codec, ForeignCodec):
        return "standard", "codecs of the original document"
    reason = reason_for_segment(codec)
    if reason is not None:
        return "tiffref", reason
    names = [config["id"] for config in codec_chain(to_zarr2(codec))]
    is_standard = not any(name.startswith("imagecodecs_") for name in names)
    reason = f"decoded exactly by {' and '.join(names)}" if names else "needs no codec"
    return "standard" if is_standard else "imagecodecs", reason


# ---- Zarr v2


def codec_chain(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the filters and the compressor of a `.zarray`, in the order of encoding."""
    chain = [*(metadata.get("filters") or ()), metadata.get("compressor")]
    return [config for config in chain if config]


def to_zarr2(codec: SegmentCodec | ForeignCodec) -> dict[str, Any]:
    """Return `dtype`, `filters` and `compressor` of a `.zarray`.

    The dtype has the byte order of the file if the samples are not changed, else it is
    little-endian.
    """
    if isinstance(codec, ForeignCodec):
        return {name: codec.metadata.get(name) for name in ("dtype", "filters", "compressor")}
    if reason_for_segment(codec) is not None:
        config = {"id": SEGMENT_ID, **codec.to_config()}
        return {"dtype": codec.dtype, "filters": None, "compressor": config}
    compressor = _compressor(codec)
    if _is_image(codec):
        return {"dtype": codec.dtype, "filters": None, "compressor": compressor}
    dtype = np.dtype(codec.dtype)
    if dtype.itemsize > 1 and codec.predictor not in FLOATING_POINT:
        byteorder: Any = codec.byteorder
        dtype = dtype.newbyteorder(byteorder)
    filters = _filters(codec, dtype.str)
    return {"dtype": dtype.str, "filters": filters, "compressor": compressor or None}


def _compressor(codec: SegmentCodec) -> dict[str, Any]:
    """Return the configuration of a standard or imagecodecs compressor; empty for none."""
    config = dict(compression_of(codec.compression).zarr2 or {})
    if codec.compression in _WEBP and codec.shape[3] == 4:
        config["hasalpha"] = True
    if codec.compression == _JPEG:
        tables = codec.parameters.get("jpeg_tables")
        if tables is not None:
            config["tables"] = base64.b64encode(tables).decode("ascii")
        for name, parameter in _JPEG_NAMES.items():
            if parameter in codec.parameters:
                config[name] = codec.parameters[parameter]
    return config


def _filters(codec: SegmentCodec, dtype: str) -> list[dict[str, Any]] | None:
    """Return the most portable filters that undo the predictor."""
    depth, rows, _, samples = codec.shape
    # numcodecs' delta runs over the whole chunk, and adds floats as floats, not as integers
    is_row = depth * rows * samples == 1 and np.dtype(codec.dtype).kind in "iu"
    if is_row and codec.predictor == 2:
        return [{"id": "delta", "dtype": dtype, "astype": dtype}]
    return [
        {"id": name, "shape": list(codec.shape), "dtype": dtype, "axis": -2,
         "dist": distances[codec.predictor]}
        for name, distances in _PREDICTORS.items() if codec.predictor in distances
    ] or None  # fmt: skip


def from_zarr2(zarray: Mapping[str, Any]) -> SegmentCodec | ForeignCodec:
    """Read the codec part of a `.zarray`.

    Metadata written by `to_zarr2` becomes a `SegmentCodec`, anything else a `ForeignCodec` that
    keeps it unchanged, so that `to_zarr2` always returns what was read.
    """
    metadata = {name: zarray.get(name) for name in ("dtype", "filters", "compressor")}
    order = zarray.get("order", "C")
    try:
        codec = _parse_zarr2(metadata, zarray.get("chunks", ())) if order == "C" else None
        expected = {**metadata, "filters": metadata["filters"] or None}
        if codec is not None and isinstance(metadata["dtype"], str) and to_zarr2(codec) == expected:
            return codec
    except _PARSE_ERRORS:
        pass
    return ForeignCodec(2, {**metadata, "order": order})


def _parse_zarr2(metadata: Mapping[str, Any], chunks: Sequence[int]) -> SegmentCodec | None:
    """Return the codec for which `to_zarr2` may have written this; None if there is none."""
    dtype = np.dtype(metadata["dtype"])
    compressor = dict(metadata["compressor"] or {})
    filters = list(metadata["filters"] or ())
    if compressor.get("id") == SEGMENT_ID:
        del compressor["id"]
        return SegmentCodec.from_config(compressor)
    # rows and samples are not distinguished, which does not matter without a predictor
    shape, parameters = (1, 1, 1, math.prod(chunks)), {}
    if compressor.pop("hasalpha", None) is not None:
        *rows, columns, samples = chunks
        shape = (1, math.prod(rows), columns, samples)
    if compressor.get("id") == "imagecodecs_jpeg":
        for name, parameter in _JPEG_NAMES.items():
            if name in compressor:
                parameters[parameter] = compressor.pop(name)
        if "tables" in compressor:
            parameters["jpeg_tables"] = base64.b64decode(compressor.pop("tables"))
    row = next((row for row in _ROWS_BY_PREFERENCE if row.zarr2 == compressor), None)
    if row is None:
        return None
    if row.code == LZW:
        parameters["ends_exactly"] = True
    codec = SegmentCodec(
        shape,
        dtype.newbyteorder("<").str,
        row.code,
        byteorder=">" if dtype.byteorder == ">" else "<",
        sample_format=_SAMPLE_FORMATS.get(dtype.kind, 1),
        parameters=parameters,
    )
    return replace(codec, **_predictor_fields(filters, shape)) if filters else codec


def _predictor_fields(filters: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> dict[str, Any]:
    (config,) = filters
    if config["id"] == "delta":
        return {"predictor": 2, "shape": (1, 1, math.prod(shape), 1)}
    distances = _PREDICTORS[config["id"]].items()
    (predictor,) = (value for value, distance in distances if distance == config["dist"])
    return {"predictor": predictor, "shape": tuple(config["shape"])}


_SAMPLE_FORMATS = {"i": 2, "f": 3, "c": 6}
_PREFERRED = (1, 8, 50000, 50001, 50002, 34712, 34934)
_ROWS_BY_PREFERENCE = [
    *(COMPRESSIONS[code] for code in _PREFERRED),
    *(row for row in COMPRESSIONS.values() if row.zarr2 is not None),
]
"""Rows with a Zarr codec; of several numbers for one compression, the current one first."""


# ---- Zarr v3

_GDAL_BARRIER = {"name": "numcodecs.shuffle", "configuration": {"elementsize": 1}}
"""A codec that changes nothing. GDAL 3.12 silently decodes a transpose that is not its own inverse
the wrong way round; because it does not know this codec, it refuses the array instead."""


def to_zarr3(
    codec: SegmentCodec | ForeignCodec,
    *,
    chunks: Sequence[int] = (),
    is_own: bool = False,
) -> dict[str, Any]:
    """Return `data_type` and `codecs` of a `zarr.json`.

    Parameters
    ----------
    codec
        Codec of the segments.
    chunks
        Chunk shape of the array; `transpose` and predictors need it.
    is_own
        Use our own codec instead of imagecodecs' names, which other packages may redefine.
    """
    if isinstance(codec, ForeignCodec):
        return {name: codec.metadata[name] for name in ("data_type", "codecs")}
    if codec.transposes:
        first: list[dict[str, Any]] = []
        for order in codec.transposes:
            n_fixed = len(chunks) - len(order)
            full = [*range(n_fixed), *(n_fixed + axis for axis in order)]
            first.append({"name": "transpose", "configuration": {"order": full}})
            chunks = [chunks[axis] for axis in full]
        stored = to_zarr3(replace(codec, transposes=()), chunks=chunks, is_own=is_own)
        transposed = [*first, *stored["codecs"]]
        is_read_by_gdal = {entry["name"] for entry in transposed} <= {"transpose", "bytes", "zstd"}
        if is_read_by_gdal and not all(map(is_self_inverse, codec.transposes)):
            transposed.append(_GDAL_BARRIER)
        return {**stored, "codecs": transposed}
    codecs = None if reason_for_segment(codec) is not None else _portable(codec, chunks)
    if codecs is None or (is_own and any("imagecodecs_" in entry["name"] for entry in codecs)):
        codecs = [{"name": SEGMENT_ID, "configuration": codec.to_config()}]
    dtype = np.dtype(codec.dtype)
    data_type: Any = dtype.name
    if dtype.kind == "U":
        data_type = {
            "name": "fixed_length_utf32", "configuration": {"length_bytes": dtype.itemsize}
        }  # fmt: skip
    return {"data_type": data_type, "codecs": codecs}


def _portable(codec: SegmentCodec, chunks: Sequence[int]) -> list[dict[str, Any]] | None:
    """Return a codec list without our own codec; None if there is none."""
    compressor = _compressor(codec)
    last = [_v3_entry(compressor)] if compressor else []
    if _is_image(codec):
        return last
    plain: dict[str, Any] = {"name": "bytes"}
    if np.dtype(codec.dtype).itemsize > 1:
        plain["configuration"] = {"endian": "big" if codec.byteorder == ">" else "little"}
    if codec.predictor in NO_PREDICTOR:
        return [plain, *last]
    # axis of the chunk along which predictors work, counted from the last
    columns, samples = codec.shape[2:]
    axis = -1 if samples == 1 and tuple(chunks[-1:]) == (columns,) else -2
    if axis == -2 and tuple(chunks[-2:]) != (columns, samples):
        return None
    for name, distances in _PREDICTORS.items():
        if codec.predictor in distances:
            options = {"axis": axis, "dist": distances[codec.predictor]}
            inner = [] if name == "imagecodecs_floatpred" else [plain]
            return [{"name": name, "configuration": options}, *inner, *last]
    return None


_V3_NAMES = {"zlib": "numcodecs.zlib", "lzma": "numcodecs.lzma"}
_V3_EXTRA = {"zstd": {"checksum": False}}
"""v2 codecs that have another name, or more members, in v3."""


def _v3_entry(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the v3 codec list entry equivalent to a v2 configuration."""
    name = config["id"]
    options = {key: value for key, value in config.items() if key != "id"} | _V3_EXTRA.get(name, {})
    entry = {"name": _V3_NAMES.get(name, name)}
    return {**entry, "configuration": options} if options else entry


def _v2_config(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the v2 configuration equivalent to a v3 codec; inverse of `_v3_entry`."""
    v2_name = next((v2 for v2, v3 in _V3_NAMES.items() if v3 == name), name)
    extra = _V3_EXTRA.get(v2_name, {})
    return {"id": v2_name} | {key: value for key, value in options.items() if key not in extra}


def from_zarr3(metadata: Mapping[str, Any]) -> SegmentCodec | ForeignCodec:
    """Read the codec part of a `zarr.json`.

    Metadata written by `to_zarr3` becomes a `SegmentCodec`, anything else a `ForeignCodec` that
    keeps it unchanged, so that `to_zarr3` always returns what was read.
    """
    codec_part = {name: metadata.get(name) for name in ("data_type", "codecs")}
    grid = metadata.get("chunk_grid") or {}
    try:
        chunks = grid.get("configuration", {}).get("chunk_shape", ())
        codec = _parse_zarr3(codec_part, chunks)
        if codec is not None and codec_part in [
            to_zarr3(codec, chunks=chunks, is_own=is_own) for is_own in (False, True)
        ]:
            return codec
    except _PARSE_ERRORS:
        pass
    return ForeignCodec(3, codec_part)


def _parse_zarr3(metadata: Mapping[str, Any], chunks: Sequence[int]) -> SegmentCodec | None:
    """Return the codec for which `to_zarr3` may have written this; None if there is none."""
    codecs = list(metadata["codecs"])
    transposes = []
    while codecs and codecs[0]["name"] == "transpose":
        order = codecs.pop(0)["configuration"]["order"]
        chunks = [chunks[axis] for axis in order]
        transposes.append(trim_order(order))
    if transposes and codecs[-1:] == [_GDAL_BARRIER]:
        codecs.pop()
    if not codecs:
        return None
    if codecs[0]["name"] == SEGMENT_ID:
        codec: SegmentCodec | None = SegmentCodec.from_config(codecs[0]["configuration"])
    else:
        dtype = parse_data_type(metadata["data_type"])
        codec = _parse_zarr2(_to_zarr2_metadata(dtype, codecs, chunks), chunks)
    if codec is None or not transposes:
        return codec
    return with_transposes(codec, tuple(transposes), chunks)


def parse_data_type(data_type: Any) -> np.dtype:
    """Parse a data type of Zarr v3; invalid ones raise one of `_PARSE_ERRORS`."""
    if not isinstance(data_type, Mapping):
        return np.dtype(_DATA_TYPES.get(data_type, data_type))
    options, name = data_type.get("configuration", {}), data_type["name"]
    if "unit" in options:
        size: Any = f"{options.get('scale_factor', 1)}{options['unit']}"
    else:
        size = options.get("length_bytes", 0) // (4 if name == "fixed_length_utf32" else 1)
    return np.dtype(_DATA_TYPES[name].format(size))


_DATA_TYPES = {
    "string": "O",
    "fixed_length_utf32": "U{}",
    "null_terminated_bytes": "S{}",
    "raw_bytes": "V{}",
    "numpy.datetime64": "M8[{}]",
    "numpy.timedelta64": "m8[{}]",
}
"""Data types of Zarr v3 that NumPy names otherwise."""


def _to_zarr2_metadata(
    dtype: np.dtype, codecs: Sequence[Mapping[str, Any]], chunks: Sequence[int]
) -> dict[str, Any]:
    """Return Zarr v2 metadata equivalent to a codec list that `_portable` may have written."""
    filters, compressor = [], None
    for entry in codecs:
        name, options = entry["name"], entry.get("configuration", {})
        if name == "bytes" and options.get("endian") == "big":
            dtype = dtype.newbyteorder(">")
        elif name in _PREDICTORS:
            n_samples = 1 if options["axis"] == -1 else chunks[-1]
            columns = chunks[options["axis"]]
            rows = math.prod(chunks) // (n_samples * columns)
            shape = [1, rows, columns, n_samples]
            filters.append({"id": name, "shape": shape, "dist": options["dist"]})
        elif name != "bytes":
            compressor = _v2_config(name, options)
    return {"dtype": dtype.str, "filters": filters, "compressor": compressor}
