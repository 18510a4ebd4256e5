"""Chunks of documents that we did not write, decoded within bounds.

Owns the list of codecs that are run, and what each may make of a stream. A document names its
codecs, and whoever wrote it may name one that runs code (`pickle`), or have a few bytes decode to
gigabytes. A codec is run only if what it gives can be bounded before or while it is made: by a size
in the stream, by a decoder that stops, or by arithmetic. The bound is applied at each link of a
chain, and is what the link should give: from the chunk's shape upwards, each codec says what its
encoder would have been given. Codecs without a bound are refused by name. A new codec is a row of
`_LINKS`.

This is the only decoder of such chunks: reading, validating, converting and writing go through it,
and stores hand zarr no chunk that it refuses.

References: Zarr storage specification version 2; Zarr core specification version 3, with the
codecs `bytes`, `transpose`, `crc32c` and `sharding_indexed`; RFC 1950, 1952, 8878; blosc's
README_CHUNK_FORMAT.rst.
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
    check_proportion,
    check_size,
    clean_png,
    image_size,
    inflate,
    is_animated,
    zstd_size,
)
from .zarr_codecs import to_zarr2

_SLACK_BYTES = 1 << 22
"""What a stream may be longer than it should be, besides twice: writers pad."""
_TEXT_BYTES = 1 << 25
"""Texts of any length stand in few items: so much of them is taken for granted."""
_MAX_ITEM_BYTES = 1 << 16
_HARMLESS_SAMPLES = 1 << 22
"""An image of up to so many samples is decoded whatever its chunk."""

_Config = Mapping[str, Any]


def decode_foreign(
    codec: ForeignCodec, data: Any, chunks: Sequence[int], dtype: np.dtype, fill_value: Any = None
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
    check_proportion(math.prod(chunks) * dtype.itemsize, len(data))
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


def check_chunk(
    codec: ForeignCodec | SegmentCodec, data: Any, chunks: Sequence[int], dtype: np.dtype
) -> None:
    """Refuse a chunk that may decode to more than its bytes, before somebody else decodes it.

    Parameters and errors are those of `decode_foreign`.
    """
    if isinstance(codec, SegmentCodec):
        can_grow = codec.compression != 1
        codec = ForeignCodec(2, to_zarr2(codec))
    else:
        can_grow = any(_configs(codec.metadata))
    if can_grow:
        decode_foreign(codec, data, chunks, dtype)


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


def _as_bytes(value: Any) -> bytes:
    return np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else bytes(value)


# ---- how a codec is undone: from its configuration, the stored bytes, and the most it may give


def _by_numcodecs(config: _Config, data: bytes, most: int) -> Any:
    found = numcodecs.get_codec(dict(config)).decode(data)
    return found if isinstance(found, np.ndarray) else bytes(found)


def _zstd(config: _Config, data: bytes, most: int) -> Any:
    """Undo Zstandard; numcodecs waits for ever for the end of a frame that is cut off."""
    size = zstd_size(data)
    check_size(config["id"], size.least, most)
    return bytes(imagecodecs.zstd_decode(data, out=min(size.most, most)))


def _into_buffer(config: _Config, data: bytes, most: int) -> Any:
    """Undo a compression by imagecodecs into a buffer, which it does not leave."""
    decode = getattr(imagecodecs, f"{config['id'].removeprefix('imagecodecs_')}_decode")
    return bytes(decode(data, out=most))


def decode_image(config: Mapping[str, Any], data: bytes, most: int) -> Any:
    """Decode an image of another format by its codec of imagecodecs-numcodecs.

    Parameters
    ----------
    config
        Of the codec.
    data
        The stream.
    most
        Samples that the image may have; a small one is decoded in any case.

    Raises
    ------
    MalformedTiff, ValueError
        If it has more, or does not say its size, or is no whole PNG.
    """
    name = config["id"].removeprefix("imagecodecs_")
    size = image_size(name, data)
    if size is None:
        raise ValueError(f"the {name} stream does not give the size of the image")
    most = max(most, _HARMLESS_SAMPLES)
    check_size(config["id"], math.prod(size) * _planes(name, data), most)
    data = clean_png(data, 8 * most) if name == "png" else data
    return _by_numcodecs(config, data, most)


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


def _segment(config: _Config, data: bytes, most: int) -> Any:
    codec = SegmentCodec.from_config({k: v for k, v in config.items() if k != "id"})
    check_size(config["id"], math.prod(codec.shape) * np.dtype(codec.dtype).itemsize, most)
    return decode_chunk(codec, data)


def _json2(config: _Config, data: bytes, most: int) -> Any:
    """Undo JSON: the items, then their type and shape, which must be of as many."""
    # lists in lists take some twenty times the bytes of their text
    check_size(config["id"], 20 * len(data), max(most, _TEXT_BYTES))
    items = json.loads(data.decode(str(config.get("encoding", "utf-8"))))
    shape = items[-1]
    if math.prod(shape) != len(items) - 2 or np.dtype(items[-2]).itemsize > _MAX_ITEM_BYTES:
        raise ValueError(f"{len(items) - 2} items cannot be of shape {shape}")
    found = np.empty(len(items) - 2, np.dtype(items[-2]))
    found[:] = items[:-2]
    return found.reshape(shape)


# ---- how many bytes stored ones decode to


def _same(config: _Config, data: bytes) -> int:
    return len(data)


def _lz4_size(config: _Config, data: bytes) -> int:
    return int.from_bytes(_head(config, data, 0, 4), "little")


def _blosc_size(config: _Config, data: bytes) -> int:
    return int.from_bytes(_head(config, data, 4, 16)[:4], "little")


def _head(config: _Config, data: bytes, start: int, stop: int) -> bytes:
    if len(data) < stop:
        raise ValueError(f"the stream of {config['id']} does not give its size")
    return data[start:stop]


def _text_size(config: _Config, data: bytes) -> int:
    """Size texts or bytes of any length: a count, then each with its length before it."""
    (n_items,) = struct.unpack_from("<I", data)
    if 4 * n_items > len(data):
        raise ValueError(f"{n_items} items cannot be in {len(data)} bytes")
    return len(data)


def _items_size(config: _Config, data: bytes) -> int:
    stored, decoded = _item_types(config)
    return len(data) // stored.itemsize * decoded.itemsize


def _item_types(config: _Config) -> tuple[np.dtype, np.dtype]:
    """Return the types of stored and decoded items of a filter that changes them."""
    before = ("decode_dtype",) if config["id"] == "astype" else ("dtype",)
    after = "encode_dtype" if config["id"] == "astype" else "astype"
    return _dtype(config, after, *before), _dtype(config, *before)


def _dtype(config: _Config, *names: str) -> np.dtype:
    """Return the type that the first of some members names: numbers, times or short texts."""
    given = next((config[name] for name in names if config.get(name) is not None), None)
    dtype = np.dtype(given)
    if dtype.hasobject or not 0 < dtype.itemsize <= _MAX_ITEM_BYTES:
        raise ValueError(f"{config['id']} makes items of {dtype}")
    return dtype


def _categories_size(config: _Config, data: bytes) -> int:
    dtype = np.dtype(config["dtype"])
    width = 8 if dtype.hasobject else _dtype(config, "dtype").itemsize
    stored = _dtype({"id": config["id"], "astype": config.get("astype", "u1")}, "astype")
    return len(data) // stored.itemsize * width


# ---- how many bytes an encoder makes of some


def _kept(config: _Config, n_bytes: int) -> int:
    return n_bytes


def _compressed(config: _Config, n_bytes: int) -> int:
    """Return what no compressor exceeds: bytes that cannot be compressed, and their frame."""
    return n_bytes + n_bytes // 3 + 4096


def _written_out(config: _Config, n_bytes: int) -> int:
    return n_bytes + _TEXT_BYTES


def _retyped(config: _Config, n_bytes: int) -> int:
    stored, decoded = _item_types(config)
    return n_bytes * stored.itemsize // decoded.itemsize


class _Link(NamedTuple):
    """How one codec is undone within bounds.

    `size` says from the stored bytes how many they decode to, None where `undo` sees to the bound;
    `grow` what its encoder makes of so many bytes; `kind` what it turns into what in Zarr v3:
    "stream" bytes into bytes, "last" an array into bytes, "array" an array into an array.
    """

    size: Callable[[_Config, bytes], int] | None = None
    undo: Callable[[_Config, bytes, int], Any] = _by_numcodecs
    grow: Callable[[_Config, int], int] = _compressed
    kind: str = "stream"


_LINKS: Mapping[str, _Link] = {
    **dict.fromkeys(("zlib", "gzip", "bz2", "lzma"), _Link(undo=inflate)),
    "zstd": _Link(undo=_zstd),
    "lz4": _Link(_lz4_size),
    "blosc": _Link(_blosc_size),
    **dict.fromkeys(
        ("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3", "base64"), _Link(_same)
    ),
    "shuffle": _Link(_same, grow=_kept),
    "bitround": _Link(_same, grow=_kept, kind="array"),
    "packbits": _Link(lambda config, data: 8 * len(data), kind="array"),
    "categorize": _Link(_categories_size),
    **dict.fromkeys(
        ("quantize", "delta", "fixedscaleoffset", "astype"),
        _Link(_items_size, grow=_retyped, kind="array"),
    ),
    **dict.fromkeys(("vlen-utf8", "vlen-bytes"), _Link(_text_size, grow=_written_out, kind="last")),
    "json2": _Link(undo=_json2, grow=_written_out, kind="last"),
    "tiffref_segment": _Link(undo=_segment, kind="last"),
    **{
        f"imagecodecs_{name}": _Link(undo=_into_buffer)
        for name in ("deflate", "zlib", "lzma", "lzw", "packbits", "zstd", "brotli", "bz2")
    },
    **{
        f"imagecodecs_{name}": _Link(_same, grow=_kept)
        for name in ("xor", "bitorder", "byteshuffle", "bitshuffle")
    },
    "imagecodecs_delta": _Link(_same, grow=_kept, kind="array"),
    "imagecodecs_floatpred": _Link(_same, grow=_kept, kind="last"),
    **{
        f"imagecodecs_{name}": _Link(undo=decode_image, kind="last")
        for name in ("jpeg", "jpeg2k", "jpegxl", "jpegxr", "lerc", "png", "webp")
    },
}
"""The codecs that are run, by their name in Zarr v2."""
_BY_ZARR = frozenset(("cast_value", "scale_offset"))
"""Codecs of v3 that zarr decodes, from values that are bounded and to as many."""
_V3: Mapping[str, _Link] = {
    **{name: link for name, link in _LINKS.items() if name != "categorize"},
    **dict.fromkeys(("bytes", "sharding_indexed"), _Link(grow=_kept, kind="last")),
    **dict.fromkeys(("transpose", *_BY_ZARR), _Link(kind="array")),
}
"""Those of Zarr v3; some are undone by functions of their own."""


def _undo(configs: Sequence[_Config], value: Any, n_bytes: int) -> Any:
    """Undo a chain, given in the order of encoding, whose last value takes `n_bytes`."""
    sizes = [n_bytes]
    for config in configs:
        sizes.append(_LINKS[config["id"]].grow(config, sizes[-1]))
    for config, size in zip(reversed(configs), reversed(sizes[:-1]), strict=True):
        link, data, most = _LINKS[config["id"]], _as_bytes(value), 2 * size + _SLACK_BYTES
        if link.size is not None:
            check_size(config["id"], link.size(config, data), most)
        value = link.undo(config, data, most)
    return value


# ---- Zarr v2


def _decode_v2(metadata: _Config, data: Any, n_items: int) -> NDArray:
    dtype = np.dtype(metadata["dtype"])
    chain = [*(metadata.get("filters") or ()), metadata.get("compressor")]
    value = _undo([one for one in chain if one is not None], data, n_items * dtype.itemsize)
    return _as_items(value, dtype)


def _as_items(value: Any, dtype: np.dtype) -> NDArray:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.reshape(-1)
    return np.frombuffer(_as_bytes(value), dtype)


# ---- Zarr v3


def _decode_v3(
    codecs: Sequence[Any], data: Any, shape: tuple[int, ...], dtype: np.dtype, fill_value: Any
) -> NDArray:
    configs = [_flat(one) for one in codecs]
    kinds = [_V3[one["id"]].kind for one in configs]
    at = kinds.index("last") if "last" in kinds else -1
    if at < 0 or "stream" in kinds[:at]:
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
    stored = _undo(streams, data, _V3[to_bytes["id"]].grow(to_bytes, size))
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


def _stored_dtype(config: _Config, dtype: np.dtype) -> np.dtype:
    """Return the type of items that a codec of arrays makes of those of a type."""
    if config["id"] == "packbits":
        return np.dtype("u1")
    return _item_types(config)[0] if _V3[config["id"]].grow is _retyped else dtype


def _undo_arrays(
    configs: Sequence[_Config], samples: NDArray, shape: tuple[int, ...], dtype: np.dtype
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
        native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        value = _undo([config], native, math.prod(shape) * kinds[n].itemsize)
        samples = _as_items(value, kinds[n].newbyteorder("="))
    return samples


def _axes(config: _Config, n_dims: int) -> Sequence[int]:
    if config["id"] != "transpose":
        return range(n_dims)
    axes = config["order"]
    if isinstance(axes, str):
        axes = range(n_dims)[:: -1 if axes == "F" else 1]
    if sorted(axes) != list(range(n_dims)):
        raise ValueError(f"no order of {n_dims} axes: {axes}")
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


def _inner_shape(config: _Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    inner = tuple(config["chunk_shape"])
    if len(inner) != len(shape) or any(
        type(part) is not int or part < 1 or whole % part
        for part, whole in zip(inner, shape, strict=True)
    ):
        raise ValueError(f"chunks of {inner} do not fill a shard of {shape}")
    return inner


def _index_bytes(config: _Config, n_chunks: int) -> int:
    names = [_flat(one)["id"] for one in config.get("index_codecs", ())]
    if names[:1] != ["bytes"] or set(names[1:]) - {"crc32c"}:
        raise ValueError(f"the index of a shard is stored by {names}")
    return 16 * n_chunks + 4 * (len(names) - 1)


def _shard_bytes(config: _Config, shape: tuple[int, ...], dtype: np.dtype) -> int:
    n_chunks = math.prod(shape) // max(1, math.prod(_inner_shape(config, shape)))
    n_bytes = math.prod(shape) * dtype.itemsize
    return _compressed({}, n_bytes) + 4096 * n_chunks + _index_bytes(config, n_chunks)


def _decode_shard(
    config: _Config, data: bytes, shape: tuple[int, ...], dtype: np.dtype, fill: Any
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
