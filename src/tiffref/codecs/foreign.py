"""Chunks of documents of others, decoded within bounds.

Owns the list of codecs that are run, and what each may make of a stream. A document names its
codecs, and whoever wrote it may name one that runs code (`pickle`), or have a few bytes decode to
gigabytes. A codec is run only if what it gives can be bounded before or while it is made: by a size
in the stream, by a decoder that stops, or by arithmetic. The bound is applied at each link of a
chain, and is what the link should give: from the chunk's shape upwards, each codec says what its
encoder would have been given. Codecs without a bound are refused by name.

This is the only decoder of such chunks: reading, validating, converting and writing go through it,
and stores hand zarr no chunk that it refuses.

References: Zarr storage specification version 2; Zarr core specification version 3, with the
codecs `bytes`, `transpose`, `crc32c` and `sharding_indexed`; RFC 1950, 1952, 8878.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import imagecodecs
import numcodecs
import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff, UnsupportedTiff
from ..model.codec import ForeignCodec, SegmentCodec
from .decode import decode_chunk
from .guard import (
    DECODING_ERRORS,
    HARMLESS_BYTES,
    MAX_EXPANSION,
    clean_png,
    declared_size,
    image_size,
    inflate,
    is_animated,
    zstd_size,
)
from .zarr2 import to_zarr2

__all__ = ["check_chunk", "decode_foreign", "unsafe_codecs"]

_SLACK_BYTES = 1 << 22
"""What a stream may be longer than it should be, besides twice: writers pad."""
_TEXT_BYTES = 1 << 25
"""Texts of any length stand in few items: so much of them is taken for granted."""
_MAX_ITEM_BYTES = 1 << 16
_HARMLESS_SAMPLES = 1 << 22
"""An image of up to so many samples is decoded whatever its chunk."""


def decode_foreign(
    codec: ForeignCodec,
    data: Any,
    chunks: Sequence[int],
    dtype: np.dtype,
    fill_value: Any = None,
) -> NDArray:
    """Decode a chunk of somebody else's array.

    Parameters
    ----------
    codec
        As the document has it.
    data
        The chunk.
    chunks, dtype, fill_value
        Of the array; `fill_value` is for what a shard leaves out.

    Returns
    -------
    samples
        Array of shape `chunks`, in the byte order of the document.

    Raises
    ------
    UnsupportedTiff
        If a codec is not one of those that are run.
    MalformedTiff
        If the bytes are not such a chunk, or decode to more.
    """
    refused = unsafe_codecs(codec)
    if refused:
        raise UnsupportedTiff("a codec is not one of those that are run", got=refused[0])
    n_bytes = math.prod(chunks) * dtype.itemsize
    if n_bytes > max(HARMLESS_BYTES, MAX_EXPANSION * len(data)):
        raise MalformedTiff(
            "the decoded size of a chunk is out of proportion to its stored bytes",
            got=f"{len(data)} bytes",
            expected=f"at least {n_bytes // MAX_EXPANSION} bytes",
        )
    try:
        if codec.zarr_format == 2:
            samples = _decode_v2(codec.metadata, data, math.prod(chunks))
        else:
            samples = _decode_v3(codec.metadata["codecs"], data, tuple(chunks), dtype, fill_value)
    except MalformedTiff:
        raise
    except DECODING_ERRORS as error:
        raise MalformedTiff(
            f"chunk does not decode: {error}", got=f"{len(data)} bytes", expected=codec.metadata
        ) from error
    if samples.size != math.prod(chunks):
        raise MalformedTiff(
            "chunk has another size", got=f"{samples.size} samples", expected=tuple(chunks)
        )
    return samples.reshape(tuple(chunks), order=codec.metadata.get("order", "C"))


def _can_grow(codec: ForeignCodec | SegmentCodec) -> bool:
    """Return whether chunks may decode to more than their bytes."""
    if isinstance(codec, SegmentCodec):
        return codec.compression != 1
    return any(_configs(codec.metadata))


def check_chunk(
    codec: ForeignCodec | SegmentCodec, data: Any, chunks: Sequence[int], dtype: np.dtype
) -> None:
    """Refuse a chunk that may decode to more, before somebody else decodes it.

    Parameters and errors are those of `decode_foreign`.
    """
    if _can_grow(codec):
        foreign = codec if isinstance(codec, ForeignCodec) else ForeignCodec(2, to_zarr2(codec))
        decode_foreign(foreign, data, chunks, dtype)


# ---- what is run


def unsafe_codecs(codec: ForeignCodec) -> list[str]:
    """Return the names of the codecs of a chain that are not run, those within others included."""
    known = _LINKS if codec.zarr_format == 2 else _V3
    return [name for name in _names(list(_configs(codec.metadata))) if _plain(name) not in known]


def _configs(metadata: Mapping[str, Any]) -> Iterator[Any]:
    for member in ("filters", "compressor", "codecs"):
        config = metadata.get(member)
        if config:
            yield config


def _names(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, list | tuple):
        for one in config:
            yield from _names(one)
    elif isinstance(config, Mapping):
        yield str(config.get("id", config.get("name")))
        options = config.get("configuration")
        if isinstance(options, Mapping):
            yield from _names(options.get("codecs"))
            yield from _names(options.get("index_codecs"))
    elif config is not None:
        yield repr(config)[:40]


def _plain(name: str) -> str:
    return name.removeprefix("numcodecs.")


# ---- links: each undoes one codec


class _Link(NamedTuple):
    """How a codec is undone, and what its encoder makes of so many bytes.

    `undo` takes the configuration, the value and the bytes that it may give; `grow` the
    configuration and the bytes before encoding.
    """

    undo: Callable[[Mapping[str, Any], Any, int], Any]
    grow: Callable[[Mapping[str, Any], int], int]


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tobytes()
    return bytes(value)


def _check(name: str, got: int, most: int) -> None:
    if got > most:
        raise MalformedTiff(
            f"{name} decodes to far more than its chunk",
            got=f"{got} bytes",
            expected=f"at most {most} bytes",
        )


def _by_numcodecs(config: Mapping[str, Any], value: Any) -> Any:
    found = numcodecs.get_codec(dict(config)).decode(value)
    return found if isinstance(found, np.ndarray) else bytes(found)


def _stream(config: Mapping[str, Any], value: Any, most: int) -> Any:
    """Undo a compression whose decoder stops at a bound."""
    return inflate(config, _as_bytes(value), most)


def _sized(config: Mapping[str, Any], value: Any, most: int) -> Any:
    """Undo a compression whose stream says its size."""
    data = _as_bytes(value)
    size = declared_size(config["id"], data)
    if size is None:
        raise ValueError(f"the stream of {config['id']} does not give its size")
    _check(config["id"], size, most)
    return _by_numcodecs(config, data)


def _zstd(config: Mapping[str, Any], value: Any, most: int) -> Any:
    """Undo Zstandard; numcodecs waits for ever for the end of a frame that is cut off."""
    data = _as_bytes(value)
    size = zstd_size(data)
    _check(config["id"], size.least, most)
    return bytes(imagecodecs.zstd_decode(data, out=min(size.most, most)))


def _same(config: Mapping[str, Any], value: Any, most: int) -> Any:
    """Undo what keeps the size."""
    data = _as_bytes(value)
    _check(config["id"], len(data), most)
    return _by_numcodecs(config, data)


def _into_buffer(config: Mapping[str, Any], value: Any, most: int) -> Any:
    """Undo a compression by imagecodecs into a buffer, which it does not leave."""
    decode = getattr(imagecodecs, f"{config['id'].removeprefix('imagecodecs_')}_decode")
    return bytes(decode(_as_bytes(value), out=most))


def _image(config: Mapping[str, Any], value: Any, most: int) -> Any:
    data, name = _as_bytes(value), config["id"].removeprefix("imagecodecs_")
    size = image_size(name, data)
    if size is None:
        raise ValueError(f"the {name} stream does not give the size of the image")
    most_samples = max(most, _HARMLESS_SAMPLES)
    _check(config["id"], math.prod(size) * _planes(name, data), most_samples)
    if name == "png":
        data = clean_png(data, 8 * most_samples)
    return _by_numcodecs(config, data)


def _planes(name: str, data: bytes) -> int:
    """Return how many values of a pixel a stream may have, where these are not few."""
    if name == "jpeg2k":
        start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
        return int.from_bytes(data[start + 40 : start + 42], "big")
    if name == "lerc":
        (version,) = struct.unpack_from("<i", data, 6)
        depth = struct.unpack_from("<i", data, 22)[0] if version >= 4 else 1
        return max(1, depth) * data.count(b"Lerc2 ")
    if name == "jpegxl" and is_animated(data):
        raise ValueError("the jpegxl stream has more than one frame")
    return 1


def _segment(config: Mapping[str, Any], value: Any, most: int) -> Any:
    codec = SegmentCodec.from_config({k: v for k, v in config.items() if k != "id"})
    _check(config["id"], math.prod(codec.shape) * np.dtype(codec.dtype).itemsize, most)
    return decode_chunk(codec, _as_bytes(value))


def _dtype(config: Mapping[str, Any], *names: str) -> np.dtype:
    """Return the type that the first of some members names: numbers, times or short texts."""
    given = next((config[name] for name in names if config.get(name) is not None), None)
    dtype = np.dtype(given)
    if dtype.hasobject or not 0 < dtype.itemsize <= _MAX_ITEM_BYTES:
        raise ValueError(f"{config['id']} makes items of {dtype}")
    return dtype


def _retyped(*before: str) -> Callable[[Mapping[str, Any], Any, int], Any]:
    """Make the way back of a filter that gives items of another type; `before` names that."""

    def undo(config: Mapping[str, Any], value: Any, most: int) -> Any:
        data = value if isinstance(value, np.ndarray) else np.frombuffer(value, np.uint8)
        stored = _dtype(config, *(_ENCODED.get(config["id"], ("astype",))), *before)
        n_items = data.nbytes // stored.itemsize
        _check(config["id"], n_items * _dtype(config, *before).itemsize, most)
        return _by_numcodecs(config, _as_bytes(data))

    return undo


_ENCODED = {"astype": ("encode_dtype",)}


def _grow_retyped(*before: str) -> Callable[[Mapping[str, Any], int], int]:
    def grow(config: Mapping[str, Any], n_bytes: int) -> int:
        stored = _dtype(config, *(_ENCODED.get(config["id"], ("astype",))), *before)
        return n_bytes * stored.itemsize // _dtype(config, *before).itemsize

    return grow


def _unpack_bits(config: Mapping[str, Any], value: Any, most: int) -> Any:
    data = _as_bytes(value)
    _check(config["id"], 8 * len(data), most)
    return _by_numcodecs(config, data)


def _categorize(config: Mapping[str, Any], value: Any, most: int) -> Any:
    data = _as_bytes(value)
    dtype = np.dtype(config["dtype"])
    width = 8 if dtype.hasobject else _dtype(config, "dtype").itemsize
    stored = _dtype({"id": config["id"], "astype": config.get("astype", "u1")}, "astype")
    _check(config["id"], len(data) // stored.itemsize * width, max(most, 8 * len(data)))
    return _by_numcodecs(config, data)


def _texts(config: Mapping[str, Any], value: Any, most: int) -> Any:
    """Undo texts or bytes of any length: a count, then each with its length before it."""
    data = _as_bytes(value)
    (n_items,) = struct.unpack_from("<I", data)
    if 4 * n_items > len(data):
        raise ValueError(f"{n_items} items cannot be in {len(data)} bytes")
    _check(config["id"], len(data), most)
    return _by_numcodecs(config, data)


def _json2(config: Mapping[str, Any], value: Any, most: int) -> Any:
    """Undo JSON: the items, then their type and shape, which must be of as many."""
    data = _as_bytes(value)
    # lists in lists take some twenty times the bytes of their text
    _check(config["id"], 20 * len(data), max(most, _TEXT_BYTES))
    items = json.loads(data.decode(str(config.get("encoding", "utf-8"))))
    shape = items[-1]
    if math.prod(shape) != len(items) - 2 or np.dtype(items[-2]).itemsize > _MAX_ITEM_BYTES:
        raise ValueError(f"{len(items) - 2} items cannot be of shape {shape}")
    found = np.empty(len(items) - 2, np.dtype(items[-2]))
    found[:] = items[:-2]
    return found.reshape(shape)


def _steady(config: Mapping[str, Any], n_bytes: int) -> int:
    return n_bytes


def _compressed(config: Mapping[str, Any], n_bytes: int) -> int:
    """Return what no compressor exceeds: bytes that cannot be compressed, and their frame."""
    return n_bytes + n_bytes // 3 + 4096


_STREAMS = ("zlib", "gzip", "bz2", "lzma")
_SIZED = ("blosc", "lz4")
_CHECKSUMS = ("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3")
_BUFFERED = ("deflate", "zlib", "lzma", "lzw", "packbits", "zstd", "brotli", "bz2")
_KEEPING = ("delta", "floatpred", "xor", "bitorder", "byteshuffle", "bitshuffle")
_IMAGES = ("jpeg", "jpeg2k", "jpegxl", "jpegxr", "lerc", "png", "webp")

_LINKS: Mapping[str, _Link] = {
    **{name: _Link(_stream, _compressed) for name in _STREAMS},
    **{name: _Link(_sized, _compressed) for name in _SIZED},
    **{name: _Link(_same, _compressed) for name in _CHECKSUMS},
    **{f"imagecodecs_{name}": _Link(_into_buffer, _compressed) for name in _BUFFERED},
    **{f"imagecodecs_{name}": _Link(_same, _steady) for name in _KEEPING},
    **{f"imagecodecs_{name}": _Link(_image, _compressed) for name in _IMAGES},
    "zstd": _Link(_zstd, _compressed),
    "tiffref_segment": _Link(_segment, _compressed),
    "shuffle": _Link(_same, _steady),
    "bitround": _Link(_same, _steady),
    "base64": _Link(_same, _compressed),
    "quantize": _Link(_retyped("dtype"), _grow_retyped("dtype")),
    "delta": _Link(_retyped("dtype"), _grow_retyped("dtype")),
    "fixedscaleoffset": _Link(_retyped("dtype"), _grow_retyped("dtype")),
    "astype": _Link(_retyped("decode_dtype"), _grow_retyped("decode_dtype")),
    "packbits": _Link(_unpack_bits, _compressed),
    "categorize": _Link(_categorize, _compressed),
    "vlen-utf8": _Link(_texts, lambda config, n_bytes: n_bytes + _TEXT_BYTES),
    "vlen-bytes": _Link(_texts, lambda config, n_bytes: n_bytes + _TEXT_BYTES),
    "json2": _Link(_json2, lambda config, n_bytes: n_bytes + _TEXT_BYTES),
}
"""The codecs that are run, by their name in Zarr v2."""


def _undo(configs: Sequence[Mapping[str, Any]], value: Any, n_bytes: int) -> Any:
    """Undo a chain, given in the order of encoding, whose last value takes `n_bytes`."""
    sizes = [n_bytes]
    for config in configs:
        sizes.append(_LINKS[config["id"]].grow(config, sizes[-1]))
    for config, size in zip(reversed(configs), reversed(sizes[:-1]), strict=True):
        value = _LINKS[config["id"]].undo(config, value, 2 * size + _SLACK_BYTES)
    return value


# ---- Zarr v2


def _decode_v2(metadata: Mapping[str, Any], data: Any, n_items: int) -> NDArray:
    dtype = np.dtype(metadata["dtype"])
    chain = [*(metadata.get("filters") or ()), metadata.get("compressor")]
    value = _undo([one for one in chain if one is not None], data, n_items * dtype.itemsize)
    return _as_items(value, dtype)


def _as_items(value: Any, dtype: np.dtype) -> NDArray:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.reshape(-1)
    return np.frombuffer(_as_bytes(value), dtype)


# ---- Zarr v3

_TO_BYTES = frozenset(
    ("bytes", "sharding_indexed", "vlen-utf8", "vlen-bytes", "tiffref_segment", "json2",
     "imagecodecs_floatpred", *(f"imagecodecs_{name}" for name in _IMAGES))
)  # fmt: skip
"""Codecs of v3 that turn arrays into bytes."""
_OF_ARRAYS = frozenset(
    ("transpose", "cast_value", "scale_offset", "delta", "astype", "fixedscaleoffset", "quantize",
     "bitround", "packbits", "imagecodecs_delta")
)  # fmt: skip
_BY_ZARR = frozenset(("cast_value", "scale_offset"))
"""Codecs of v3 that zarr decodes, from values that are bounded and to as many."""
_V3 = frozenset((*_LINKS, *_OF_ARRAYS, *_TO_BYTES)) - {"categorize"}


def _decode_v3(
    codecs: Sequence[Any], data: Any, shape: tuple[int, ...], dtype: np.dtype, fill_value: Any
) -> NDArray:
    configs = [_flat(one) for one in codecs]
    at = next((n for n, one in enumerate(configs) if one["id"] in _TO_BYTES), None)
    if at is None or any(one["id"] not in _OF_ARRAYS for one in configs[:at]):
        raise ValueError("the codecs do not turn an array into bytes, once")
    arrays, to_bytes, streams = configs[:at], configs[at], configs[at + 1 :]
    n_items = math.prod(shape)
    if to_bytes["id"] == "sharding_indexed":
        n_bytes = _shard_bytes(to_bytes, shape, dtype)
        stored = _undo(streams, data, n_bytes)
        samples = _decode_shard(to_bytes, _as_bytes(stored), shape, dtype, fill_value)
        return _undo_arrays(arrays, samples, shape, dtype)
    kept = dtype
    for one in arrays:
        kept = _stored_dtype(one, kept)
    size = n_items * kept.itemsize
    grown = size if to_bytes["id"] == "bytes" else _LINKS[to_bytes["id"]].grow(to_bytes, size)
    stored = _undo(streams, data, grown)
    if any(one["id"] in _BY_ZARR for one in arrays):
        return _decode_by_zarr(codecs[: at + 1], _as_bytes(stored), shape, dtype)
    if to_bytes["id"] == "bytes":
        order: Literal["<", ">"] = ">" if to_bytes.get("endian") == "big" else "<"
        samples = np.frombuffer(_as_bytes(stored), kept.newbyteorder(order))
    else:
        samples = _as_items(_undo([to_bytes], stored, size), kept)
    return _undo_arrays(arrays, samples, shape, dtype)


def _flat(config: Any) -> dict[str, Any]:
    """Return a codec of v3 in the form of v2."""
    if isinstance(config, str):
        return {"id": _plain(config)}
    return {**(config.get("configuration") or {}), "id": _plain(config["name"])}


def _stored_dtype(config: Mapping[str, Any], dtype: np.dtype) -> np.dtype:
    """Return the type of items that a codec of arrays makes of those of a type."""
    name = config["id"]
    if name == "packbits":
        return np.dtype("u1")
    if name in ("delta", "fixedscaleoffset", "quantize"):
        return _dtype(config, "astype", "dtype")
    return _dtype(config, "encode_dtype") if name == "astype" else dtype


def _undo_arrays(
    configs: Sequence[Mapping[str, Any]], samples: NDArray, shape: tuple[int, ...], dtype: np.dtype
) -> NDArray:
    """Undo codecs of arrays; transposes need the shape that the array had when it was turned."""
    shapes, kinds = [shape], [dtype]
    for config in configs:
        axes = _axes(config, len(shape))
        shapes.append(tuple(shapes[-1][axis] for axis in axes))
        kinds.append(_stored_dtype(config, kinds[-1]))
    for n in reversed(range(len(configs))):
        config = configs[n]
        if config["id"] == "transpose":
            back = np.argsort(_axes(config, len(shape)))
            samples = samples.reshape(shapes[n + 1]).transpose(back)
            continue
        n_bytes = math.prod(shape) * kinds[n].itemsize
        native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        value = _LINKS[config["id"]].undo(config, native, 2 * n_bytes + _SLACK_BYTES)
        samples = _as_items(value, kinds[n].newbyteorder("="))
    return samples


def _axes(config: Mapping[str, Any], n_dims: int) -> Sequence[int]:
    if config["id"] != "transpose":
        return range(n_dims)
    order = config["order"]
    axes = {"C": range(n_dims), "F": range(n_dims)[::-1]}.get(order) if isinstance(
        order, str
    ) else order  # fmt: skip
    if axes is None or sorted(axes) != list(range(n_dims)):
        raise ValueError(f"no order of {n_dims} axes: {order}")
    return axes


def _decode_by_zarr(
    codecs: Sequence[Any], data: bytes, shape: tuple[int, ...], dtype: np.dtype
) -> NDArray:
    """Let zarr read an array of this one chunk."""
    import zarr

    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
        "fill_value": 0,
        "attributes": {},
        "codecs": list(codecs),
    }
    key = ".".join("0" for _ in shape) or "0"
    to_buffer = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes
    store = zarr.storage.MemoryStore(
        {"zarr.json": to_buffer(json.dumps(document).encode()), key: to_buffer(data)},
        read_only=True,
    )
    return np.asarray(zarr.open_array(store, mode="r")[...])


# ---- shards

_NOTHING = 2**64 - 1


def _inner_shape(config: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    inner = tuple(config["chunk_shape"])
    if len(inner) != len(shape) or any(
        type(part) is not int or part < 1 or whole % part
        for part, whole in zip(inner, shape, strict=True)
    ):
        raise ValueError(f"chunks of {inner} do not fill a shard of {shape}")
    return inner


def _index_bytes(config: Mapping[str, Any], n_chunks: int) -> int:
    names = [_flat(one)["id"] for one in config.get("index_codecs", ())]
    if names[:1] != ["bytes"] or set(names[1:]) - {"crc32c"}:
        raise ValueError(f"the index of a shard is stored by {names}")
    return 16 * n_chunks + 4 * (len(names) - 1)


def _shard_bytes(config: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype) -> int:
    n_chunks = math.prod(shape) // max(1, math.prod(_inner_shape(config, shape)))
    n_bytes = math.prod(shape) * dtype.itemsize
    return _compressed({}, n_bytes) + 4096 * n_chunks + _index_bytes(config, n_chunks)


def _decode_shard(
    config: Mapping[str, Any], data: bytes, shape: tuple[int, ...], dtype: np.dtype, fill: Any
) -> NDArray:
    inner = _inner_shape(config, shape)
    grid = tuple(whole // part for whole, part in zip(shape, inner, strict=True))
    length = _index_bytes(config, math.prod(grid))
    if length > len(data):
        raise ValueError("the index of a shard is cut off")
    at_start = config.get("index_location", "end") == "start"
    raw = data[:length] if at_start else data[len(data) - length :]
    streams = [_flat(one) for one in config["index_codecs"]]
    order = ">" if streams[0].get("endian") == "big" else "<"
    index = np.frombuffer(_as_bytes(_undo(streams[1:], raw, 16 * math.prod(grid))), f"{order}u8")
    samples = np.full(shape, 0 if fill is None else fill, dtype)
    for place, (offset, n_bytes) in zip(
        np.ndindex(*grid), index.reshape(-1, 2).tolist(), strict=True
    ):
        if offset == n_bytes == _NOTHING:
            continue
        if offset + n_bytes > len(data):
            raise ValueError("a chunk lies outside of its shard")
        part = _decode_v3(config["codecs"], data[offset : offset + n_bytes], inner, dtype, fill)
        where = tuple(slice(n * size, (n + 1) * size) for n, size in zip(place, inner, strict=True))
        samples[where] = part.reshape(inner)
    return samples
