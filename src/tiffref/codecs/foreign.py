"""Decode chunks of documents from other programs, within bounds.

A document names its codecs, and its author may choose one that runs code (`pickle`), or a few bytes
that decode to gigabytes. A codec is allowed only if the size of its output can be bounded: by a
size in the stream, by a decoder that stops, or by arithmetic. The bound of each codec of a chain is
computed from the chunk's shape, by the largest output of the encoders before it. Other codecs are
refused. To allow a codec, add a row to `_ROWS`.

All such chunks are decoded here, for reading, validating, converting and writing; stores pass no
chunk to zarr that would be refused here.

References: Zarr storage specification version 2; Zarr core specification version 3, with the
codecs `bytes`, `transpose` and `crc32c`; RFC 1950, 1952, 8878; blosc's
README_CHUNK_FORMAT.rst.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff
from ..model.codec import ForeignCodec, SegmentCodec
from .decode import check_not_truncated, decode_chunk
from .guard import (
    DECODING_ERRORS,
    HAVE_END,
    HEADERS,
    check_expansion,
    check_size,
    clean_png,
    image_size,
    inflate,
    is_animated,
)
from .zarr_codecs import codec_chain, to_zarr2

_SLACK_BYTES = 1 << 22
"""Decoded streams may be twice as long as expected and this much longer: some writers pad."""
_TEXT_BYTES = 1 << 25
"""Allowance for variable-length strings, whose size does not follow from the number of items."""
_MAX_ITEM_BYTES = 1 << 16
_HARMLESS_SAMPLES = 1 << 22
"""Images of up to this many samples are always decoded."""

_Config = Mapping[str, Any]


def decode_foreign(
    codec: ForeignCodec, data: Any, chunks: Sequence[int], dtype: np.dtype
) -> NDArray:
    """Decode a chunk of a document that another program wrote.

    Parameters
    ----------
    codec
        Codec chain of the document.
    data
        The chunk.
    chunks, dtype
        Chunk shape and dtype of the array.

    Returns
    -------
    samples
        Array of shape `chunks`, in the byte order of the document.

    Raises
    ------
    MalformedTiff
        If the bytes are not such a chunk, decode to more, or a codec is not allowed.
    """
    check_expansion(len(data), math.prod(chunks) * dtype.itemsize)
    try:
        if codec.zarr_format == 2:
            samples = _decode_v2(codec.metadata, data, chunks)
        else:
            samples = _decode_v3(codec.metadata["codecs"], data, tuple(chunks), dtype)
    except MalformedTiff:
        raise
    except DECODING_ERRORS as error:
        raise MalformedTiff(
            f"chunk does not decode: {error}", got=f"{len(data)} bytes", expected=codec.metadata
        ) from error
    if samples.size != math.prod(chunks):
        raise MalformedTiff(
            "chunk has the wrong size", got=f"{samples.size} samples", expected=tuple(chunks)
        )
    return samples.reshape(tuple(chunks), order=codec.metadata.get("order", "C"))


def check_chunk(
    codec: ForeignCodec | SegmentCodec, data: Any, chunks: Sequence[int], dtype: np.dtype
) -> None:
    """Check that a chunk decodes within bounds, before another library decodes it.

    Parameters and errors as in `decode_foreign`.
    """
    if isinstance(codec, SegmentCodec):
        can_grow = codec.compression != 1
        codec = ForeignCodec(2, to_zarr2(codec))
    else:
        can_grow = bool(codec_names(codec))
    if can_grow:
        decode_foreign(codec, data, chunks, dtype)


# ---- allowed codecs


def unsafe_codecs(codec: ForeignCodec) -> list[str]:
    """Return the names of codecs of a chain that are not allowed."""
    allowed = _DECODERS if codec.zarr_format == 2 else _V3_DECODERS
    return [name for name in codec_names(codec) if _v2_name(name) not in allowed]


def codec_names(codec: ForeignCodec) -> list[str]:
    """Return the names of all codecs of a chain."""
    return [
        config if isinstance(config, str) else str(config.get("id", config.get("name")))
        for config in (*codec_chain(codec.metadata), *(codec.metadata.get("codecs") or ()))
    ]


def _v2_name(name: str) -> str:
    return name.removeprefix("numcodecs.")


def _as_bytes(value: Any) -> bytes:
    return np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else bytes(value)


# ---- decoders of one codec: functions of its configuration, the stored bytes, and the size limit


def make_codec(config: _Config) -> Any:
    """Return the codec of numcodecs with a configuration."""
    import numcodecs  # loads slowly, and few scans need it

    return numcodecs.get_codec(dict(config))


def _by_numcodecs(config: _Config, data: bytes, limit: int) -> Any:
    decoded = make_codec(config).decode(data)
    return decoded if isinstance(decoded, np.ndarray) else bytes(decoded)


def decode_limited(config: _Config, data: bytes, limit: int) -> Any:
    """Decode into a buffer of limited size, which numcodecs cannot."""
    decode = getattr(imagecodecs, f"{config['id'].removeprefix('imagecodecs_')}_decode")
    return bytes(decode(data, out=limit))


def decode_image(config: Mapping[str, Any], data: bytes, limit: int) -> Any:
    """Decode an image of another format with its codec of imagecodecs-numcodecs.

    Parameters
    ----------
    config
        Configuration of the codec.
    data
        The stream.
    limit
        Largest number of samples; a small image is always decoded.

    Raises
    ------
    MalformedTiff, ValueError
        If it has more samples, no size in its header, or is truncated.
    """
    name = config["id"].removeprefix("imagecodecs_")
    size = image_size(name, data)
    if size is None:
        raise ValueError(f"the {name} stream has no image size in its header")
    if name == "jpegxl" and is_animated(data):
        raise ValueError("the jpegxl stream has more than one frame")
    limit = max(limit, _HARMLESS_SAMPLES)
    check_size(config["id"], math.prod(size), limit)
    data = clean_png(data, 8 * limit) if name == "png" else data
    image = _by_numcodecs(config, data, limit)
    if name in HAVE_END and not HAVE_END[name](data):
        check_not_truncated(lambda stream: _by_numcodecs(config, stream, limit), data, image)
    return image


def _segment(config: _Config, data: bytes, limit: int) -> Any:
    codec = SegmentCodec.from_config({k: v for k, v in config.items() if k != "id"})
    check_size(config["id"], math.prod(codec.shape) * np.dtype(codec.dtype).itemsize, limit)
    return decode_chunk(codec, data)


def _json2(config: _Config, data: bytes, limit: int) -> Any:
    """Decode JSON: a list of the items, followed by their dtype and shape."""
    # nested lists take about twenty times the bytes of their text
    check_size(config["id"], 20 * len(data), max(limit, _TEXT_BYTES))
    items = json.loads(data.decode(str(config.get("encoding", "utf-8"))))
    shape = items[-1]
    if math.prod(shape) != len(items) - 2 or np.dtype(items[-2]).itemsize > _MAX_ITEM_BYTES:
        raise ValueError(f"{len(items) - 2} items cannot have the shape {shape}")
    array = np.empty(len(items) - 2, np.dtype(items[-2]))
    array[:] = items[:-2]
    return array.reshape(shape)


# ---- decoded size of stored bytes


def _text_size(config: _Config, data: bytes) -> int:
    """Return the size of variable-length strings: a count, then each with its length first."""
    (n_items,) = struct.unpack_from("<I", data)
    if 4 * n_items > len(data):
        raise ValueError(f"{n_items} items cannot be in {len(data)} bytes")
    return len(data)


def _items_size(config: _Config, data: bytes) -> int:
    stored, decoded = _item_types(config)
    return len(data) // stored.itemsize * decoded.itemsize


def _item_types(config: _Config) -> tuple[np.dtype, np.dtype]:
    """Return the dtypes of stored and decoded items of a filter that changes the dtype."""
    before = ("decode_dtype",) if config["id"] == "astype" else ("dtype",)
    after = "encode_dtype" if config["id"] == "astype" else "astype"
    return _dtype(config, after, *before), _dtype(config, *before)


def _dtype(config: _Config, *names: str) -> np.dtype:
    """Return the dtype in the first member that is set; objects and long strings are refused."""
    value = next((config[name] for name in names if config.get(name) is not None), None)
    dtype = np.dtype(value)
    if dtype.hasobject or not 0 < dtype.itemsize <= _MAX_ITEM_BYTES:
        raise ValueError(f"{config['id']} produces items of {dtype}")
    return dtype


# ---- largest encoded size of some bytes


def _compressed(config: _Config, n_bytes: int) -> int:
    """Return a bound for every compressor: incompressible bytes and their frame."""
    return n_bytes + n_bytes // 3 + 4096


def _as_text(config: _Config, n_bytes: int) -> int:
    return n_bytes + _TEXT_BYTES


def _converted(config: _Config, n_bytes: int) -> int:
    stored, decoded = _item_types(config)
    return n_bytes * stored.itemsize // decoded.itemsize


class _Decoder(NamedTuple):
    """How to decode one codec within bounds.

    `decoded_size` returns the decoded size of stored bytes; None if `decode` applies the limit.
    `encoded_size` returns the largest encoded size of some bytes. `kind` is the kind of codec in
    Zarr v3: "stream" bytes to bytes, "last" array to bytes, "array" array to array.
    """

    decoded_size: Callable[[_Config, bytes], int] | None = None
    decode: Callable[[_Config, bytes, int], Any] = _by_numcodecs
    encoded_size: Callable[[_Config, int], int] = _compressed
    kind: str = "stream"


_AS_LARGE = _Decoder(lambda config, data: len(data), encoded_size=lambda config, n_bytes: n_bytes)
_ROWS: Sequence[tuple[_Decoder, str]] = (
    (_Decoder(decode=inflate), "zlib gzip bz2 lzma"),
    (
        _Decoder(decode=decode_limited),
        "zstd imagecodecs_deflate imagecodecs_zlib imagecodecs_lzma imagecodecs_lzw"
        " imagecodecs_packbits imagecodecs_zstd imagecodecs_brotli imagecodecs_bz2",
    ),
    (_Decoder(lambda config, data: struct.unpack_from("<I", data)[0]), "lz4"),
    (_Decoder(lambda config, data: struct.unpack_from("<4xI8x", data)[0]), "blosc"),
    (
        _AS_LARGE._replace(encoded_size=_compressed),
        "adler32 crc32 crc32c fletcher32 jenkins_lookup3 base64",
    ),
    (
        _AS_LARGE,
        "shuffle imagecodecs_xor imagecodecs_bitorder imagecodecs_byteshuffle"
        " imagecodecs_bitshuffle",
    ),
    (_AS_LARGE._replace(kind="array"), "bitround imagecodecs_delta"),
    (_AS_LARGE._replace(kind="last"), "imagecodecs_floatpred"),
    (
        _Decoder(_items_size, encoded_size=_converted, kind="array"),
        "quantize delta fixedscaleoffset astype",
    ),
    (_Decoder(_text_size, encoded_size=_as_text, kind="last"), "vlen-utf8 vlen-bytes"),
    (_Decoder(decode=_json2, encoded_size=_as_text, kind="last"), "json2"),
    (_Decoder(decode=_segment, kind="last"), "tiffref_segment"),
    (
        _Decoder(decode=decode_image, kind="last"),
        " ".join(f"imagecodecs_{name}" for name in HEADERS),
    ),
)
_DECODERS = {name: decoder for decoder, names in _ROWS for name in names.split()}
"""The allowed codecs, by their name in Zarr v2."""
_V3_DECODERS: Mapping[str, _Decoder] = {
    **_DECODERS,
    "bytes": _AS_LARGE._replace(kind="last"),
    "transpose": _Decoder(kind="array"),
}
"""The allowed codecs of Zarr v3; `_decode_v3` handles the additional ones itself."""


def _decode_chain(configs: Sequence[_Config], value: Any, n_bytes: int) -> Any:
    """Decode a chain, given in the order of encoding, to about `n_bytes` bytes."""
    sizes = [n_bytes]
    for config in configs:
        sizes.append(_DECODERS[config["id"]].encoded_size(config, sizes[-1]))
    for config, size in zip(reversed(configs), reversed(sizes[:-1]), strict=True):
        decoder, data, limit = _DECODERS[config["id"]], _as_bytes(value), 2 * size + _SLACK_BYTES
        if decoder.decoded_size is not None:
            check_size(config["id"], decoder.decoded_size(config, data), limit)
        value = decoder.decode(config, data, limit)
    return value


# ---- Zarr v2


def _decode_v2(metadata: _Config, data: Any, chunks: Sequence[int]) -> NDArray:
    dtype = np.dtype(metadata["dtype"])
    configs = codec_chain(metadata)
    for config in configs if sum(n > 1 for n in chunks) > 1 else ():
        # VirtualiZarr 2.8 omits it: decoders then take the whole chunk for one row
        if config["id"] == "imagecodecs_delta" and config.get("shape") is None:
            raise ValueError("imagecodecs_delta has no shape")
    return _as_items(_decode_chain(configs, data, math.prod(chunks) * dtype.itemsize), dtype)


def _as_items(value: Any, dtype: np.dtype) -> NDArray:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.reshape(-1)
    return np.frombuffer(_as_bytes(value), dtype)


# ---- Zarr v3


def _decode_v3(
    codecs: Sequence[Any], data: Any, shape: tuple[int, ...], dtype: np.dtype
) -> NDArray:
    configs = list(map(_to_v2_config, codecs))
    kinds = [_V3_DECODERS[config["id"]].kind for config in configs]
    last = kinds.index("last") if "last" in kinds else -1
    if last < 0 or "stream" in kinds[:last]:
        raise ValueError("the codecs do not turn an array into bytes exactly once")
    arrays, to_bytes, streams = configs[:last], configs[last], configs[last + 1 :]
    forms = [(shape, dtype)]
    for config in arrays:
        forms.append(_encoded_form(config, *forms[-1]))
    _, stored_dtype = forms.pop()
    size = math.prod(shape) * stored_dtype.itemsize
    encoded_size = _V3_DECODERS[to_bytes["id"]].encoded_size(to_bytes, size)
    stored = _decode_chain(streams, data, encoded_size)
    if to_bytes["id"] == "bytes":
        order: Literal["<", ">"] = ">" if to_bytes.get("endian") == "big" else "<"
        samples = np.frombuffer(_as_bytes(stored), stored_dtype.newbyteorder(order))
    else:
        samples = _as_items(_decode_chain([to_bytes], stored, size), stored_dtype)
    for config, form in zip(reversed(arrays), reversed(forms), strict=True):
        samples = _decode_array(config, samples, *form)
    return samples


def _to_v2_config(config: Any) -> dict[str, Any]:
    """Return the configuration of a v3 codec in the form of v2."""
    if isinstance(config, str):
        return {"id": _v2_name(config)}
    return {**(config.get("configuration") or {}), "id": _v2_name(config["name"])}


def _encoded_form(
    config: _Config, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype after encoding by an array-to-array codec."""
    if config["id"] == "transpose":
        axes = config["order"]
        if sorted(axes) != list(range(len(shape))):
            raise ValueError(f"not an order of {len(shape)} axes: {axes}")
        return tuple(shape[axis] for axis in axes), dtype
    is_converted = _V3_DECODERS[config["id"]].encoded_size is _converted
    return shape, _item_types(config)[0] if is_converted else dtype


def _decode_array(
    config: _Config, samples: NDArray, shape: tuple[int, ...], dtype: np.dtype
) -> NDArray:
    """Decode an array-to-array codec to samples of this shape and dtype."""
    if config["id"] == "transpose":
        stored_shape, _ = _encoded_form(config, shape, dtype)
        return samples.reshape(stored_shape).transpose(np.argsort(config["order"]))
    native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    value = _decode_chain([config], native, math.prod(shape) * dtype.itemsize)
    return _as_items(value, dtype.newbyteorder("="))
