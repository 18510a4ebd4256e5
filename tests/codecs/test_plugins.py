"""Documents with our v2 codecs open in clients that know v3 only."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import entry_points

import imagecodecs
import numpy as np
import pytest
from segments import compress, values
from zarr.core.buffer import cpu
from zarr.registry import get_codec_class
from zarr.storage import MemoryStore

import zarr
from tiffref.codecs.plugins import ReadOnlyCodec
from tiffref.codecs.table import COMPRESSIONS
from tiffref.codecs.zarr_codecs import to_zarr2
from tiffref.errors import MalformedTiff, TiffrefError
from tiffref.model.codec import SegmentCodec

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

FULL = (1, 8, 12, 1)


def to_v3(codec: SegmentCodec) -> list[dict]:
    """Turn v2 metadata into a v3 codec list as VirtualiZarr does."""
    lowered = to_zarr2(codec)
    configs = [*(lowered["filters"] or ()), lowered["compressor"]]
    found = []
    for config in configs:
        if config is not None:
            name = "numcodecs." + config["id"]
            configuration = {key: value for key, value in config.items() if key != "id"}
            found.append({"name": name, "configuration": configuration})
    kinds = [get_codec_class(entry["name"]).__mro__ for entry in found]
    if not any(zarr.abc.codec.ArrayBytesCodec in kind for kind in kinds):
        place = sum(zarr.abc.codec.ArrayArrayCodec in kind for kind in kinds)
        endian = "big" if lowered["dtype"].startswith(">") else "little"
        found.insert(place, {"name": "bytes", "configuration": {"endian": endian}})
    return found


def read(codec: SegmentCodec, data: bytes) -> np.ndarray:
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [8, 12],
        "data_type": np.dtype(codec.dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 12]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": to_v3(codec),
        "attributes": {},
    }

    async def fill() -> MemoryStore:
        store = MemoryStore()
        for key, value in (("zarr.json", json.dumps(metadata).encode()), ("c/0/0", data)):
            await store.set(key, cpu.Buffer.from_bytes(value))
        return store

    array = zarr.open_array(asyncio.run(fill()))
    with pytest.raises(ReadOnlyCodec):
        array[...] = 1
    return np.asarray(array[...])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(("compression", "predictor"), [(8, 2), (50000, 2), (1, 2), (5, 2)])
def test_horizontal_predictor(compression, predictor, byteorder):
    codec = SegmentCodec(FULL, "<u2", compression, predictor, byteorder)
    image = values(FULL, "u2")
    raw = imagecodecs.delta_encode(image, axis=-2).astype(f"{byteorder}u2")
    np.testing.assert_array_equal(
        read(codec, compress(compression, raw.tobytes())), image[0, ..., 0]
    )


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_floating_point_predictor(byteorder):
    codec = SegmentCodec(FULL, "<f4", 8, 3, byteorder, sample_format=3)
    image = values(FULL, "f4")
    data = compress(8, imagecodecs.floatpred_encode(image, axis=-2).tobytes())
    np.testing.assert_array_equal(read(codec, data), image[0, ..., 0])


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_packbits(byteorder):
    codec = SegmentCodec(FULL, "<u2", 32773, 1, byteorder)
    image = values(FULL, "u2")
    data = compress(32773, image.astype(f"{byteorder}u2").tobytes())
    np.testing.assert_array_equal(read(codec, data), image[0, ..., 0])


@pytest.mark.parametrize(
    ("compression", "encode"),
    [
        (34712, imagecodecs.jpeg2k_encode),
        (34887, imagecodecs.lerc_encode),
        (34933, imagecodecs.png_encode),
        (34934, imagecodecs.jpegxr_encode),
        (50002, lambda image: imagecodecs.jpegxl_encode(image, lossless=True)),
    ],
)
def test_images_of_other_formats(compression, encode):
    image = values(FULL[1:3], "u1")
    codec = SegmentCodec(FULL, "|u1", compression)
    np.testing.assert_array_equal(read(codec, encode(image)), image)


def test_images_of_wider_samples_are_refused() -> None:
    codec = SegmentCodec(FULL, "|u1", compression=34933)
    wide = np.full(FULL[1:3], 300, "u2")
    with pytest.raises(MalformedTiff, match="do not fit the type"):
        read(codec, imagecodecs.png_encode(wide))


def test_every_imagecodecs_id_has_its_bridge():
    ids = {row.zarr2["id"] for row in COMPRESSIONS.values() if row.zarr2}
    ids = {name for name in ids if name.startswith("imagecodecs_")}
    ids |= {"imagecodecs_delta", "imagecodecs_floatpred", "tiffref_segment"}
    entries = {entry.name: entry for entry in entry_points(group="zarr.codecs")}
    for name in ids:
        codec = entries[f"numcodecs.{name}"].load().from_dict({"configuration": {"axis": 1}})
        assert codec.codec_id == name
        assert codec.codec_config == {"id": name, "axis": 1}
        assert codec.to_dict() == {"name": f"numcodecs.{name}", "configuration": {"axis": 1}}
        with pytest.raises(TiffrefError, match="encoded size"):
            codec.compute_encoded_size(8, None)


def test_broken_png_never_reaches_its_decoder() -> None:
    """imagecodecs leaves libpng's errors with corrupted memory (see `codecs.pngstream`)."""
    codec = SegmentCodec(FULL, "|u1", compression=34933)
    data = imagecodecs.png_encode(values(FULL[1:3], "u1"))
    assert read(codec, data).shape == (8, 12)
    for broken in (data[:-20], data[:60] + b"\0" + data[61:], b"\0" * 100):
        with pytest.raises(ValueError, match="PNG"):
            read(codec, broken)
