"""Codecs become Zarr metadata that Zarr reads, and come back from it as they were."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segments import compress, values
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

import zarr
from tiffref.codecs.decode import decode_segment, wrap_inlined
from tiffref.codecs.foreign import decode_foreign
from tiffref.codecs.plugins import ReadOnlyCodec, TiffrefSegment
from tiffref.codecs.zarr_codecs import from_zarr2, from_zarr3, portability, to_zarr2, to_zarr3
from tiffref.errors import TiffrefError
from tiffref.model.array import Array, Group
from tiffref.model.codec import ForeignCodec, SegmentCodec
from tiffref.references import References

# zarr 3.1 says so of every codec of numcodecs
pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

FULL = (1, 8, 12, 1)
_FILLS = {"c": [0.0, 0.0], "b": False}
RGB = (1, 16, 16, 3)


def encode(codec: SegmentCodec, image: np.ndarray) -> bytes:
    """Store an image as a TIFF writer does."""
    raw = image
    if codec.predictor == 2:
        raw = imagecodecs.delta_encode(image, axis=-2)
    elif codec.predictor == 3:
        raw = imagecodecs.floatpred_encode(image, axis=-2)
    if codec.predictor != 3:
        raw = raw.astype(raw.dtype.newbyteorder(codec.byteorder))
    data = compress(codec.compression, raw.tobytes())
    return imagecodecs.bitorder_decode(data) if codec.fill_order == 2 else data


def document(codec: SegmentCodec, zarr_format: int) -> dict[str, bytes]:
    """Return the metadata of an array of one chunk."""
    shape = list(codec.shape)
    if zarr_format == 2:
        metadata = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": shape,
            "order": "C",
            "fill_value": None,
            **to_zarr2(codec),
        }
        return {".zarray": json.dumps(metadata).encode()}
    grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
    keys = {"name": "default", "configuration": {"separator": "/"}}
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "chunk_grid": grid,
        "chunk_key_encoding": keys,
        "attributes": {},
        "fill_value": _FILLS.get(np.dtype(codec.dtype).kind, 0),
        **to_zarr3(codec, chunks=shape),
    }
    return {"zarr.json": json.dumps(metadata).encode()}


def read(codec: SegmentCodec, data: bytes, zarr_format: int) -> np.ndarray:
    """Read a chunk through zarr."""
    chunk = "0.0.0.0" if zarr_format == 2 else "c/0/0/0/0"

    async def fill() -> MemoryStore:
        store = MemoryStore()
        for key, value in {**document(codec, zarr_format), chunk: data}.items():
            await store.set(key, cpu.Buffer.from_bytes(value))
        return store

    return np.asarray(zarr.open_array(asyncio.run(fill()), mode="r")[...])


BYTE_CODECS = [
    pytest.param(SegmentCodec(FULL, dtype, code, predictor, order, **more), id=name)
    for name, dtype, code, predictor, order, more in [
        ("raw", "<u2", 1, 1, "<", {}),
        ("raw big", "<u2", 1, 1, ">", {}),
        ("raw bytes", "|u1", 1, 1, ">", {}),
        ("raw complex big", "<c8", 1, 1, ">", {"sample_format": 6}),
        ("half big", "<f2", 1, 1, ">", {"sample_format": 3}),
        ("zlib big", "<i4", 8, 1, ">", {"sample_format": 2}),
        ("zlib", "<i8", 32946, 1, "<", {"sample_format": 2}),
        ("zstd", "<f8", 50000, 1, "<", {"sample_format": 3}),
        ("zstd big", "<u2", 50000, 1, ">", {}),
        ("lzma", "<u2", 34925, 1, ">", {}),
        ("lzw", "<u2", 5, 1, ">", {}),
        ("packbits", "<u2", 32773, 1, ">", {}),
        ("zlib delta", "<u2", 8, 2, "<", {}),
        ("zlib delta big", "<u4", 8, 2, ">", {}),
        ("raw delta", "|u1", 1, 2, "<", {}),
        ("packbits delta big", "<i2", 32773, 2, ">", {"sample_format": 2}),
        ("lzw delta big", "<i2", 5, 2, ">", {"sample_format": 2}),
        ("zlib floatpred", "<f4", 8, 3, "<", {"sample_format": 3}),
        ("zstd floatpred big", "<f8", 50000, 3, ">", {"sample_format": 3}),
        ("half floatpred big", "<f2", 8, 3, ">", {"sample_format": 3}),
        ("edge", "<u2", 8, 2, ">", {"edge": (1, 3, 12)}),
        ("backwards", "<u2", 1, 1, "<", {"fill_order": 2}),
    ]
]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("codec", BYTE_CODECS)
def test_zarr_decodes_the_stored_samples(codec, zarr_format):
    image = values(codec.shape, codec.dtype)
    got = read(codec, encode(codec, image), zarr_format)
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_one_row_with_the_horizontal_predictor(samples, zarr_format):
    for dtype, order in (("|u1", "<"), ("<u2", ">"), ("<i4", "<"), ("<f4", "<")):
        codec = SegmentCodec((1, 1, 12, samples), dtype, 8, 2, order)
        image = values(codec.shape, "u1").astype(dtype)
        raw = imagecodecs.delta_encode(image.view(f"u{image.itemsize}"), axis=-2)
        data = compress(8, raw.astype(raw.dtype.newbyteorder(order)).tobytes())
        np.testing.assert_array_equal(read(codec, data, zarr_format), image)
        is_standard = samples == 1 and dtype != "<f4"
        assert portability(codec)[0] == ("standard" if is_standard else "imagecodecs")


IMAGE_CODECS = {
    7: lambda image: imagecodecs.jpeg_encode(image, level=90),
    34712: imagecodecs.jpeg2k_encode,
    34887: imagecodecs.lerc_encode,
    34933: imagecodecs.png_encode,
    34934: imagecodecs.jpegxr_encode,
    50001: lambda image: imagecodecs.webp_encode(image, lossless=True),
    50002: lambda image: imagecodecs.jpegxl_encode(image, lossless=True),
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("compression", IMAGE_CODECS)
def test_zarr_reads_images_of_other_formats(compression, zarr_format):
    image = np.ascontiguousarray(values(RGB[1:], "u1"))
    data = IMAGE_CODECS[compression](image)
    parameters = {"outcolorspace": 2} if compression == 7 else {}
    codec = SegmentCodec(RGB, "|u1", compression, parameters=parameters)
    assert portability(codec)[0] == "imagecodecs"
    np.testing.assert_array_equal(read(codec, data, zarr_format), decode_segment(codec, data))


def test_webp_may_have_left_out_an_opaque_alpha_channel():
    image = np.ascontiguousarray(values(RGB[1:], "u1"))
    codec = SegmentCodec((1, 16, 16, 4), "|u1", 50001)
    data = imagecodecs.webp_encode(image, lossless=True)
    for got in (read(codec, data, 2), read(codec, data, 3)):
        np.testing.assert_array_equal(got[0, ..., :3], image)
        assert (got[..., 3] == 255).all()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_packed_samples(zarr_format):
    codec = SegmentCodec((1, 2, 12, 1), "|b1", bits=(1,))
    image = values(codec.shape, "?")
    data = np.packbits(image[0, ..., 0], axis=1).tobytes()
    np.testing.assert_array_equal(read(codec, data, zarr_format), image)


def test_self_describing_chunks_are_read_in_both_formats():
    codec = SegmentCodec(FULL, "<u2", 5)
    own = SegmentCodec(FULL, "<u2", 8, 2, ">")
    image = values(FULL, "u2")
    chunk = wrap_inlined(own, encode(own, image))
    for zarr_format in (2, 3):
        np.testing.assert_array_equal(read(codec, chunk, zarr_format), image)


def test_errors_of_a_broken_chunk_are_typed():
    codec = SegmentCodec(FULL, "<u2", 5)
    for zarr_format in (2, 3):
        with pytest.raises(TiffrefError, match="expected 192"):
            read(codec, compress(5, bytes(7)), zarr_format)


TIERS = {
    "raw": "standard",
    "zlib big": "standard",
    "zstd big": "standard",
    "lzma": "standard",
    "packbits": "imagecodecs",
    "zlib delta": "imagecodecs",
    "zlib floatpred": "imagecodecs",
    "lzw": "tiffref",
    "edge": "tiffref",
    "backwards": "tiffref",
}


def test_portability_names_readers_and_reasons():
    by_name = {param.id: param.values[0] for param in BYTE_CODECS}
    for name, tier in TIERS.items():
        found, reason = portability(by_name[name])
        assert found == tier, name
        assert reason
        ids = json.dumps(to_zarr2(by_name[name]))
        assert ("tiffref_segment" in ids) == (tier == "tiffref")
        assert ("imagecodecs_" in ids) == (tier == "imagecodecs")
    for codec in (
        SegmentCodec(FULL, "<u2", bits=(12,)),
        SegmentCodec(FULL, "<f4", bits=(24,), sample_format=3),
        SegmentCodec(FULL, "<c8", bits=(32,), sample_format=5),
        SegmentCodec(RGB, "|u1", bits=(5, 6, 5)),
        SegmentCodec(RGB, "|u1", photometric=6, parameters={"subsampling": (2, 2)}),
        SegmentCodec(RGB, "|u1", 7, parameters={"jpeg_header": b"\xff\xd8"}),
        SegmentCodec(RGB, "|u1", 7, parameters={"jpeg_process": 0xC3}),
        SegmentCodec(FULL, "<c8", 8, 2, sample_format=6),
        SegmentCodec(FULL, "|b1", 4, bits=(1,)),
    ):
        assert portability(codec)[0] == "tiffref"


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("predictor", [2, 3])
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((1, 8, 12, 1), (8, 12)), ((1, 8, 12, 3), (1, 8, 12, 3)), ((1, 1, 12, 1), (1, 12)),
     ((1, 8, 12, 1), (1, 8, 12, 1)), ((2, 8, 12, 1), (2, 8, 12))],
)  # fmt: skip
def test_predictors_in_zarr_v3_work_along_the_columns(shape, chunks, predictor, byteorder):
    dtype = "<f4" if predictor == 3 else "<u2"
    sample_format = 3 if predictor == 3 else 1
    codec = SegmentCodec(shape, dtype, 8, predictor, byteorder, sample_format=sample_format)
    written = to_zarr3(codec, chunks=chunks)
    assert written["codecs"][0]["name"].startswith("imagecodecs_")
    image = values(shape, dtype)
    chunk = Array.from_chunk(
        encode(codec, image), codec, chunks, np.dtype(dtype), "abcd"[: len(chunks)]
    )
    options = {"fo": References(Group({"image": chunk})).to_kerchunk(3)}
    group = zarr.open_group("reference://", mode="r", storage_options=options)
    np.testing.assert_array_equal(group["image"][...], image.reshape(chunks))
    grid = {"chunk_grid": {"configuration": {"chunk_shape": list(chunks)}}}
    back = from_zarr3(through_json({**written, **grid}))
    np.testing.assert_array_equal(decode_segment(back, encode(codec, image)).reshape(chunks),
                                  image.reshape(chunks))  # fmt: skip


def test_stores_name_our_own_codec_where_others_could_take_the_name():
    codec = SegmentCodec(RGB, "|u1", 7)
    (written,) = to_zarr3(codec, chunks=RGB, is_own=True)["codecs"]
    assert written["name"] == "tiffref_segment"
    grid = {"chunk_grid": {"configuration": {"chunk_shape": list(RGB)}}}
    own = {"data_type": "uint8", "codecs": [written], **grid}
    assert from_zarr3(through_json(own)) == codec
    plain = to_zarr3(SegmentCodec(FULL, "<u2", 8), chunks=FULL, is_own=True)["codecs"]
    assert [one["name"] for one in plain] == ["bytes", "numcodecs.zlib"]


# ---------------------------------------------------------------- back from metadata
def raised(codec: SegmentCodec) -> tuple[Any, Any]:
    zarray = {**to_zarr2(codec), "chunks": list(codec.shape), "order": "C"}
    grid = {"chunk_grid": {"configuration": {"chunk_shape": list(codec.shape)}}}
    v3 = to_zarr3(codec, chunks=codec.shape)
    return from_zarr2(through_json(zarray)), from_zarr3(through_json({**v3, **grid}))


def in_zarr3(codec: SegmentCodec, chunks: tuple[int, ...]) -> Any:
    return through_json(to_zarr3(codec, chunks=chunks))


def through_json(document: Any) -> Any:
    return json.loads(json.dumps(document))


@pytest.mark.parametrize("codec", BYTE_CODECS)
def test_metadata_comes_back_and_decodes_alike(codec):
    image = values(codec.shape, codec.dtype)
    data = encode(codec, image)
    v2, v3 = raised(codec)
    assert through_json(to_zarr2(v2)) == through_json(to_zarr2(codec))
    assert in_zarr3(v3, codec.shape) == in_zarr3(codec, codec.shape)
    for back in (v2, v3):
        assert isinstance(back, SegmentCodec)
        np.testing.assert_array_equal(decode_segment(back, data).ravel(), image.ravel())


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("compression", IMAGE_CODECS)
def test_images_come_back_from_metadata(compression, samples):
    image = values((1, 12, 20, samples), "u1")
    data = IMAGE_CODECS[compression](np.ascontiguousarray(image[0]))
    codec = SegmentCodec(image.shape, "|u1", compression)
    for back in raised(codec):
        assert isinstance(back, SegmentCodec)
        found = decode_segment(back, data)
        np.testing.assert_array_equal(found.ravel(), decode_segment(codec, data).ravel())


@settings(max_examples=80)
@given(
    compression=st.sampled_from([1, 2, 4, 5, 6, 7, 8, 34676, 34887, 50000, 50001, 50002]),
    predictor=st.sampled_from([1, 2, 3]),
    bits=st.sampled_from([(), (1,), (12,), (5, 6, 5)]),
    edge=st.sampled_from([None, (1, 2, 3)]),
    fill=st.sampled_from([None, 0, -9999, 0.5]),
    tables=st.binary(max_size=20),
)
def test_every_codec_survives_its_documents(compression, predictor, bits, edge, fill, tables):
    codec = SegmentCodec(
        (1, 4, 5, 3),
        "<u2",
        compression,
        predictor,
        ">",
        bits,
        edge=edge,
        fill=fill,
        parameters={"jpeg_tables": tables, "subsampling": (2, 1)},
    )
    v2, v3 = raised(codec)
    assert through_json(to_zarr2(v2)) == through_json(to_zarr2(codec))
    assert in_zarr3(v3, codec.shape) == in_zarr3(codec, codec.shape)
    if portability(codec)[0] == "tiffref":
        assert v2 == v3 == codec
    assert SegmentCodec.from_config(through_json(codec.to_config())) == codec


FOREIGN = [
    {"compressor": {"id": "zlib", "level": 9}},
    {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}},
    {"compressor": {"id": "imagecodecs_zstd", "level": 3}},
    {"filters": [{"id": "shuffle", "elementsize": 2}], "compressor": {"id": "zlib", "level": 1}},
    {"filters": [{"id": "delta", "dtype": "<u2", "astype": "<u4"}]},
    {"compressor": {"id": "tiffref_segment", "shape": [1, 2]}},
    {"compressor": {"id": "tiffref_segment", "unknown": 1}},
    {"order": "F"},
    {"dtype": [["a", "<u2"]]},
    {"dtype": "nonsense"},
    {"compressor": "text"},
]


@pytest.mark.parametrize("change", FOREIGN)
def test_foreign_metadata_is_kept_unchanged(change):
    zarray = {"dtype": "<u2", "filters": None, "compressor": None, "chunks": [4, 5], **change}
    codec = from_zarr2(zarray)
    assert isinstance(codec, ForeignCodec)
    assert to_zarr2(codec) == {name: zarray[name] for name in ("dtype", "filters", "compressor")}


def test_foreign_v3_metadata_is_kept_unchanged():
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "blosc"}]
    metadata = {"data_type": "uint16", "codecs": codecs}
    codec = from_zarr3(metadata)
    assert isinstance(codec, ForeignCodec)
    assert to_zarr3(codec) == metadata
    assert isinstance(from_zarr3({"data_type": "r16", "codecs": []}), ForeignCodec)


def test_foreign_chunks_are_decoded():
    import numcodecs

    image = values((4, 5), "u2")
    shuffle, zlib = numcodecs.Shuffle(2), numcodecs.Zlib(9)
    zarray = {"dtype": "<u2", "filters": [shuffle.get_config()], "compressor": zlib.get_config()}
    codec = from_zarr2(zarray)
    data = zlib.encode(shuffle.encode(image))
    np.testing.assert_array_equal(decode_foreign(codec, data, (4, 5), image.dtype), image)
    codec = from_zarr2({"dtype": ">u2", "order": "F", "filters": None, "compressor": None})
    data = image.astype(">u2").tobytes("F")
    np.testing.assert_array_equal(decode_foreign(codec, data, (4, 5), image.dtype), image)


# ---------------------------------------------------------------- tiffref_segment
def test_segment_codec_of_numcodecs():
    codec = SegmentCodec(FULL, "<u2", 5, 2, ">")
    image = values(FULL, "u2")
    data = encode(codec, image)
    segment = TiffrefSegment(**codec.to_config())
    assert TiffrefSegment.from_config(codec.to_config()) == segment
    assert segment.get_config() == {"id": "tiffref_segment", **codec.to_config()}
    np.testing.assert_array_equal(segment.decode(data), image)
    out = np.zeros(image.nbytes, np.uint8)
    assert segment.decode(data, out) is out
    assert out.tobytes() == image.tobytes()
    with pytest.raises(ReadOnlyCodec):
        segment.encode(image)


def test_both_codecs_are_found_without_importing_tiffref():
    config = SegmentCodec(FULL, "<u2").to_config()
    code = f"""
import sys, numcodecs, zarr.registry
assert "tiffref" not in sys.modules
assert numcodecs.get_codec({{"id": "tiffref_segment", **{config!r}}}).segment.n_samples == 96
assert zarr.registry.get_codec_class("tiffref_segment").__name__ == "TiffrefSegmentCodec"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
