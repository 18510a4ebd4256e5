"""Segments that tifffile or imagecodecs wrote decode to what tifffile reads."""

from __future__ import annotations

import io
import itertools
import math
import zlib
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from segments import BYTEORDERS, compress, decode_page, roundtrip, values

from tiffref.codecs.decode import decode_chunk, decode_segment, fit_image, lacks_end, wrap_inlined
from tiffref.codecs.guard import HARMLESS_PIXELS
from tiffref.codecs.zarr_codecs import portability
from tiffref.errors import InvalidReferences, MalformedTiff, UnsupportedTiff
from tiffref.model.codec import SegmentCodec

BYTES = ["none", "deflate", "lzw", "packbits", "zstd", "lzma"]
LAYOUTS = {
    "strips": {"rowsperstrip": 7},
    "one row": {"rowsperstrip": 1},
    "tiles": {"tile": (16, 32)},
}
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("byteorder", BYTEORDERS)
@pytest.mark.parametrize("compression", BYTES)
def test_every_type_without_predictor(compression, byteorder, layout):
    for dtype, samples in itertools.product(DTYPES, (1, 3)):
        image = values((19, 40, 3), dtype)[..., :samples]
        options = {"photometric": "rgb"} if samples == 3 else {"photometric": "minisblack"}
        for planar in ("contig", "separate") if samples == 3 else ("contig",):
            stored = np.moveaxis(image, -1, 0) if planar == "separate" else image
            roundtrip(
                np.ascontiguousarray(stored[..., 0] if samples == 1 else stored),
                compression=None if compression == "none" else compression,
                byteorder=byteorder,
                planarconfig=planar if samples == 3 else None,
                **LAYOUTS[layout],
                **options,
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("byteorder", BYTEORDERS)
@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd"])
def test_predictors(compression, byteorder, layout):
    kinds = [("u1", 2), ("u2", 2), ("i4", 2), ("u8", 2), ("f2", 3), ("f4", 3), ("f8", 3)]
    for (dtype, predictor), samples in itertools.product(kinds, (1, 3)):
        image = values((19, 40, 3), dtype)
        roundtrip(
            np.ascontiguousarray(image if samples == 3 else image[..., 0]),
            compression=compression,
            predictor=predictor,
            byteorder=byteorder,
            photometric="rgb" if samples == 3 else "minisblack",
            **LAYOUTS[layout],
        )


@pytest.mark.parametrize(
    "compression", ["jpeg", "jpeg2000", "webp", "png", "jpegxl", "jpegxr", "lerc"]
)
@pytest.mark.parametrize("layout", [{"rowsperstrip": 16}, {"tile": (32, 32)}])
def test_images_of_other_formats(compression, layout):
    image = values((64, 64, 3), "u1")
    roundtrip(image, compression=compression, photometric="rgb", **layout)
    if compression != "webp":
        gray = np.ascontiguousarray(image[..., 0])
        roundtrip(gray, compression=compression, photometric="minisblack", **layout)


IMAGES = {
    34887: lambda image: imagecodecs.lerc_encode(image),
    34927: lambda image: imagecodecs.webp_encode(image, lossless=True),
    50001: lambda image: imagecodecs.webp_encode(image, lossless=True),
}


@pytest.mark.parametrize("compression", IMAGES)
def test_images_in_reverse_bit_order(compression):
    image = values((12, 20, 3), "u1")
    data = imagecodecs.bitorder_decode(bytes(IMAGES[compression](image)))
    codec = SegmentCodec((1, 12, 20, 3), "|u1", compression, fill_order=2)
    np.testing.assert_array_equal(decode_segment(codec, data)[0], image)
    assert portability(codec)[0] == "tiffref"


@pytest.mark.parametrize("inner", ["deflate", "zstd"])
def test_lerc_with_inner_compression(inner):
    options = {"compression": inner}
    image = values((64, 64), "f4")
    roundtrip(image, compression="lerc", compressionargs=options, tile=(32, 32))


@pytest.mark.parametrize("inner", [None, "zstd"])
@pytest.mark.parametrize("samples", [1, 3])
def test_mask_of_lerc_stands_for_nan(samples, inner):
    image = values((1, 12, 20, samples), "f4")
    stored = np.ascontiguousarray(image[0]) if samples > 1 else image[0, ..., 0]
    mask = values((12, 20), "?")
    image[0, ~mask] = np.nan
    data = imagecodecs.lerc_encode(stored, masks=mask, compression=inner)
    codec = SegmentCodec(image.shape, "<f4", 34887, parameters={"lerc_mask": "nan"})
    np.testing.assert_array_equal(decode_segment(codec, data), image)
    out = np.empty(image.shape, "f4")
    np.testing.assert_array_equal(decode_segment(codec, data, out), image)


@pytest.mark.parametrize(("rows", "columns"), [(12, 20), (12, 3), (3, 3)])
def test_samples_of_lerc_may_have_a_mask_each(rows, columns):
    planes = values((3, rows, columns), "f4")
    masks = values((3, rows, columns), "?")
    data = imagecodecs.lerc_encode(planes, masks=masks, planar=True)
    codec = SegmentCodec((1, rows, columns, 3), "<f4", 34887, parameters={"lerc_mask": "nan"})
    expected = np.moveaxis(np.where(masks, planes, np.nan), 0, -1)[None]
    np.testing.assert_array_equal(decode_segment(codec, data), expected)


@pytest.mark.parametrize("samples", [2, 4])
def test_mask_of_lerc_stands_for_alpha(samples):
    mask = values((12, 20), "?")
    color = values((12, 20, samples - 1), "u1")
    codec = SegmentCodec((1, 12, 20, samples), "|u1", 34887, parameters={"lerc_mask": "alpha"})
    for valid in (mask, None):
        opaque = np.ones((12, 20, 1), bool) if valid is None else valid[..., None]
        # what is masked is not stored
        image = np.concatenate([np.where(opaque, color, 0), opaque * np.uint8(255)], axis=2)
        data = imagecodecs.lerc_encode(color.squeeze(), masks=valid)
        np.testing.assert_array_equal(decode_segment(codec, data)[0], image)
    # an alpha of other values is stored as it is
    graded = values((12, 20, samples), "u1")
    np.testing.assert_array_equal(decode_segment(codec, imagecodecs.lerc_encode(graded))[0], graded)


@pytest.mark.parametrize("dtype", ["<u2", "<i4", "<f4"])
def test_lerc_of_big_endian_files_is_swapped(dtype):
    image = values((12, 20), dtype)
    data = imagecodecs.lerc_encode(image.byteswap())
    codec = SegmentCodec((1, 12, 20, 1), dtype, 34887, byteorder=">")
    np.testing.assert_array_equal(decode_segment(codec, data)[0, ..., 0], image)
    assert portability(codec)[0] == "tiffref"


def test_volumetric_tiles():
    image = values((20, 30, 40), "u2")
    roundtrip(image, compression="deflate", predictor=2, tile=(16, 16, 16), volumetric=True)


def test_jpeg_color_spaces():
    image = values((32, 48, 4), "u1")
    rgb = np.ascontiguousarray(image[..., :3])
    roundtrip(rgb, compression="jpeg", photometric="ycbcr", tile=(16, 16))
    roundtrip(image, compression="jpeg", photometric="separated", tile=(16, 16))
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    # tifffile itself cannot read JPEG in separate planes
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        planes,
        photometric="rgb",
        planarconfig="separate",
        compression="jpeg",
        tile=(16, 16),
    )
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as tif:
        decoded = decode_page(tif.pages[0])
    assert decoded.shape == planes.shape
    assert np.abs(decoded.astype(int) - planes).mean() < 8


def test_jpeg_tables():
    image = np.ascontiguousarray(values((16, 16, 3), "u1"))
    stream = imagecodecs.jpeg_encode(image, level=90)
    start, frame = stream.index(b"\xff\xdb"), stream.index(b"\xff\xc0")
    huffman, scan = stream.index(b"\xff\xc4"), stream.index(b"\xff\xda")
    tables = b"\xff\xd8" + stream[start:frame] + stream[huffman:scan] + b"\xff\xd9"
    abbreviated = b"\xff\xd8" + stream[frame:huffman] + stream[scan:]
    codec = SegmentCodec(
        (1, 16, 16, 3),
        "|u1",
        7,
        photometric=6,
        parameters={
            "jpeg_tables": tables,
            "outcolorspace": 2,
        },
    )
    np.testing.assert_array_equal(
        decode_segment(codec, abbreviated)[0], imagecodecs.jpeg_decode(stream)
    )
    with pytest.raises(MalformedTiff, match="JPEG"):
        decode_segment(SegmentCodec((1, 16, 16, 3), "|u1", 7, photometric=6), abbreviated)


@pytest.mark.parametrize("precision", [2, 5, 8, 12, 16])
def test_lossless_jpeg(precision):
    dtype = "u1" if precision <= 8 else "u2"
    image = (values((16, 24), dtype) & ((1 << precision) - 1)).astype(dtype)
    stream = imagecodecs.ljpeg_encode(image, bitspersample=precision)
    codec = SegmentCodec(
        (1, 16, 24, 1), np.dtype(dtype).newbyteorder("<").str, 7, bits=(precision,)
    )
    np.testing.assert_array_equal(decode_segment(codec, stream)[0, ..., 0], image)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    samples=st.integers(1, 4),
    dtype=st.sampled_from(["|u1", "<i2", "<u4", "<f4", "<f8"]),
    byteorder=st.sampled_from(BYTEORDERS),
    predictor=st.sampled_from([1, 2, 3]),
    compression=st.sampled_from([1, 5, 8, 32773, 50000]),
    short=st.booleans(),
)
def test_the_standard_encoding_is_decoded(
    rows, columns, samples, dtype, byteorder, predictor, compression, short
):
    kind = np.dtype(dtype)
    if predictor == 3 and kind.kind != "f":
        predictor = 2
    stored_rows = max(1, rows // 2) if short else rows
    image = values((1, stored_rows, columns, samples), dtype)
    raw = image
    if predictor == 2:
        raw = imagecodecs.delta_encode(image.view(f"u{kind.itemsize}"), axis=-2)
    elif predictor == 3:
        raw = imagecodecs.floatpred_encode(image, axis=-2)
    if predictor != 3:
        raw = raw.astype(raw.dtype.newbyteorder(byteorder))
    codec = SegmentCodec(
        (1, rows, columns, samples),
        dtype,
        compression,
        predictor,
        byteorder,
        sample_format=3 if kind.kind == "f" else 1,
        edge=(1, stored_rows, columns) if stored_rows != rows else None,
    )
    decoded = decode_segment(codec, compress(compression, raw.tobytes()))
    np.testing.assert_array_equal(decoded[:, :stored_rows], image)
    assert not decoded[:, stored_rows:].any()


# ---- segments that are short, cropped, too long or broken

FILLS = [None, 7]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000, 34925])
def test_short_last_strip_is_padded(compression, fill):
    codec = SegmentCodec((1, 8, 6, 2), "<u2", compression, edge=(1, 3, 6), fill=fill)
    image = values((1, 3, 6, 2), "u2")
    decoded = decode_segment(codec, compress(compression, image.tobytes()))
    np.testing.assert_array_equal(decoded[:, :3], image)
    assert (decoded[:, 3:] == (fill or 0)).all()


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("stored", [(1, 16, 16, 1), (1, 5, 11, 1), (1, 5, 16, 1)])
def test_cropped_tiles_are_padded(stored, predictor):
    codec = SegmentCodec((1, 16, 16, 1), "<u2", 8, predictor, edge=(1, 5, 11), fill=9)
    image = values(stored, "u2")
    raw = imagecodecs.delta_encode(image, axis=-2) if predictor == 2 else image
    decoded = decode_segment(codec, compress(8, raw.tobytes()))
    np.testing.assert_array_equal(decoded[:, : stored[1], : stored[2]], image)
    assert (decoded[:, stored[1] :] == 9).all()
    assert (decoded[:, :, stored[2] :] == 9).all()


def test_cropped_image_tiles_are_padded():
    image = values((5, 11), "u1")
    codec = SegmentCodec((1, 16, 16, 1), "|u1", 34933, edge=(1, 5, 11), fill=3)
    decoded = decode_segment(codec, imagecodecs.png_encode(image))[0, ..., 0]
    np.testing.assert_array_equal(decoded[:5, :11], image)
    assert (decoded[5:] == 3).all()


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000, 34925])
@pytest.mark.parametrize("n_more", [6, 30_000])
def test_bytes_after_the_segment_are_dropped(compression, n_more):
    codec = SegmentCodec((1, 4, 5, 1), "<u2", compression)
    image = values(codec.shape, "u2")
    data = compress(compression, image.tobytes() + bytes(n_more))
    np.testing.assert_array_equal(decode_segment(codec, data), image)


@pytest.mark.parametrize("behind", [b"\0", b"junk" * 20, bytes(64), b"\x28\xb5\x2f"])
@pytest.mark.parametrize("compression", [5, 8, 32773, 34925, 50000])
def test_bytes_after_the_stream_are_not_read(compression, behind):
    """As byte counts that are too large have it; libtiff reads such files."""
    image = values((20, 30), "u1")
    codec = SegmentCodec((1, 20, 30, 1), "|u1", compression)
    data = compress(compression, image.tobytes()) + behind
    np.testing.assert_array_equal(decode_segment(codec, data)[0, :, :, 0], image)


@pytest.mark.parametrize("behind", [b"junk", b"junk!!" * 4])
@pytest.mark.parametrize("compression", [5, 8, 32773, 34925, 50000])
def test_bytes_behind_a_last_strip_of_fewer_rows_are_not_read(compression, behind):
    """Of PackBits the decoder looks for more rows there, and finds a run that is cut off."""
    image = values((1, 3, 30, 1), "u1")
    codec = SegmentCodec((1, 20, 30, 1), "|u1", compression, edge=(1, 3, 30))
    decoded = decode_segment(codec, compress(compression, image.tobytes()) + behind)
    np.testing.assert_array_equal(decoded[:, :3], image)
    assert not decoded[:, 3:].any()


@pytest.mark.parametrize("compression", [5, 8, 34925, 50000])
def test_the_segment_behind_a_last_strip_of_fewer_rows_is_not_read(compression):
    """Byte counts that are too large include it, or a part of it."""
    image = values((1, 3, 30, 1), "u1")
    other = np.random.default_rng(0).bytes(600)
    codec = SegmentCodec((1, 20, 30, 1), "|u1", compression, edge=(1, 3, 30))
    data, behind = compress(compression, image.tobytes()), compress(compression, other)
    for n_bytes in range(0, len(behind), 7):
        decoded = decode_segment(codec, data + behind[:n_bytes])
        np.testing.assert_array_equal(decoded[:, :3], image)


def test_xz_that_is_cut_off_is_refused():
    codec = SegmentCodec((1, 20, 30, 1), "|u1", 34925, edge=(1, 3, 30))
    stored = compress(34925, values(codec.shape, "u1").tobytes())
    for n_bytes in (len(stored) // 2, len(stored) // 9, 20):
        with pytest.raises(MalformedTiff):
            decode_segment(codec, stored[:n_bytes])


def test_last_strip_may_have_less_than_a_row_behind_it():
    codec = SegmentCodec((1, 8, 6, 1), "|u1", 1, edge=(1, 3, 6))
    image = values((1, 3, 6, 1), "u1")
    decoded = decode_segment(codec, image.tobytes() + b"\1\1\1\1\1")
    np.testing.assert_array_equal(decoded[:, :3], image)
    assert not decoded[:, 3:].any()
    with pytest.raises(MalformedTiff):
        decode_segment(codec, image.tobytes() + bytes(6))


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000])
@pytest.mark.parametrize("size", [0, 1, 39])
def test_segments_with_too_few_samples_are_refused(compression, size):
    codec = SegmentCodec((1, 4, 5, 1), "<u2", compression, edge=(1, 2, 3))
    with pytest.raises(MalformedTiff) as caught:
        decode_segment(codec, compress(compression, bytes(size)))
    assert caught.value.got is not None
    assert caught.value.expected is not None


@pytest.mark.parametrize(
    "compression",
    [2, 3, 4, 5, 6, 7, 8, 22610, 32773, 34712, 34887, 34925, 34933, 50000, 50001, 50002],
)
@settings(max_examples=15)
@given(data=st.binary(max_size=80))
def test_garbage_is_a_typed_error_or_samples(compression, data):
    codec = SegmentCodec((1, 8, 8, 1), "|u1", compression, bits=(8,), photometric=0)
    try:
        decoded = decode_segment(codec, data)
    except (MalformedTiff, UnsupportedTiff):
        return
    assert decoded.shape == codec.shape


def test_checksum_of_deflate_may_be_missing():
    codec = SegmentCodec((1, 4, 5, 1), "<u2", 8)
    image = values(codec.shape, "u2")
    data = compress(8, image.tobytes())
    for fill_order, stored in ((1, data), (2, imagecodecs.bitorder_decode(data))):
        codec = replace(codec, fill_order=fill_order)
        for n_less in (0, 1, 4):
            segment = stored[: len(stored) - n_less]
            np.testing.assert_array_equal(decode_segment(codec, segment), image)
            assert lacks_end(codec, segment) == (n_less > 0)
    codec, longer = replace(codec, fill_order=1), compress(8, image.tobytes() * 2)
    assert not lacks_end(codec, longer) and not lacks_end(replace(codec, compression=5), b"")


@pytest.mark.parametrize("n_more", [0, 1, 3000])
def test_damaged_deflate_is_refused(n_more):
    """Damage may show only behind the samples: by a wrong checksum, or no end."""
    codec = SegmentCodec((1, 64, 64, 1), "|u1", 8)
    noise = np.random.default_rng(0).integers(0, 60, (1, 64, 64, 1), "u1")
    whole = compress(8, noise.tobytes() + bytes(n_more))
    np.testing.assert_array_equal(decode_segment(codec, whole), noise)
    n = len(whole) // 2
    wrong = whole[:-1] + bytes([whole[-1] ^ 1])
    for damaged in (wrong, whole[:n] + bytes(len(whole) - n), whole[:n] + bytes(9 * n)):
        with pytest.raises(MalformedTiff, match="does not decode as deflate"):
            decode_segment(codec, damaged)


def test_bombs_are_refused_before_they_are_decoded():
    codec = SegmentCodec((1, 8, 8, 1), "|u1", 34933)
    side = math.isqrt(HARMLESS_PIXELS) + 1
    png = bytearray(imagecodecs.png_encode(np.zeros((8, 8), np.uint8)))
    png[16:24] = side.to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(MalformedTiff, match="far larger"):
        decode_segment(codec, bytes(png))
    # 64 MB of zeros in 64 kB never become more than the segment
    bomb = imagecodecs.deflate_encode(bytes(1 << 26))
    decoded = decode_segment(SegmentCodec((1, 8, 8, 1), "|u1", 8), bomb)
    assert decoded.nbytes == 64


def test_wider_samples_than_the_tags_say_are_refused():
    codec = SegmentCodec((1, 8, 8, 1), "|u1", 34933)
    with pytest.raises(MalformedTiff, match="do not fit the type"):
        decode_segment(codec, imagecodecs.png_encode(np.full((8, 8), 300, np.uint16)))


def test_out_need_not_be_contiguous_or_of_the_type():
    codec = SegmentCodec((1, 4, 5, 1), "<u2", 8)
    image = values(codec.shape, "u2")
    data = compress(8, image.tobytes())
    wide = np.zeros((1, 4, 10, 1), "f8")
    assert decode_segment(codec, data, wide[:, :, ::2]).base is wide
    np.testing.assert_array_equal(wide[:, :, ::2], image)
    assert not wide[:, :, 1::2].any()


@pytest.mark.parametrize(
    ("stored", "said", "samples"),
    [
        ("f4", "<i4", [1.5, 2.0]),
        ("f4", "<u4", [np.nan, 2.0]),
        ("f4", "<f2", [1e6, 2.0]),
        ("u4", "<f4", [(1 << 24) + 1, 2]),
        ("i1", "<u2", [-1, 2]),
        ("u2", "|u1", [256, 2]),
    ],
)
def test_samples_outside_their_type_are_refused(stored: str, said: str, samples: list) -> None:
    codec = SegmentCodec((1, 1, 2, 1), said, 34887)
    with pytest.raises(MalformedTiff, match="do not fit the type"):
        fit_image(codec, np.array([samples], stored))


@pytest.mark.parametrize(
    ("stored", "said", "samples", "expected"),
    [
        ("u2", "<i2", [65535, 2], [-1, 2]),
        ("u1", "|b1", [255, 0], [True, False]),
        ("f8", "<f4", [np.nan, 2.0], [np.nan, 2.0]),
        ("u2", "|u1", [255, 2], [255, 2]),
        ("f4", "<u1", [255.0, 2.0], [255, 2]),
    ],
)
def test_samples_of_another_type(stored: str, said: str, samples: list, expected: list) -> None:
    codec = SegmentCodec((1, 1, 2, 1), said, 34887)
    fitted = fit_image(codec, np.array([samples], stored))
    assert fitted.dtype == np.dtype(said)
    np.testing.assert_array_equal(fitted[0, 0, :, 0], expected)


# ---- chunks that say themselves how they decode


@pytest.mark.parametrize("compression", [7, 34712, 34887])
def test_more_than_one_bit_is_not_squeezed_into_one(compression):
    """BitsPerSample is 1 by default; bytes other than 0 and 1 are no values of NumPy's bool."""
    encode = {7: imagecodecs.jpeg8_encode, 34712: imagecodecs.jpeg2k_encode,
              34887: imagecodecs.lerc_encode}[compression]  # fmt: skip
    codec = SegmentCodec((1, 8, 8, 1), "|b1", compression)
    data = encode(np.arange(64, dtype=np.uint8).reshape(8, 8))
    with pytest.raises(MalformedTiff, match="do not fit the type"):
        decode_segment(codec, data)
    with pytest.raises(MalformedTiff, match="do not fit the type"):
        decode_segment(codec, data, np.empty((1, 8, 8, 1), bool))


def test_self_describing_chunks():
    array = SegmentCodec((1, 1, 1, 20), "<u2", 8)
    own = SegmentCodec((1, 4, 5, 1), "<u2", 5, 2, ">")
    image = values(own.shape, "u2")
    data = compress(5, imagecodecs.delta_encode(image, axis=-2).astype(">u2").tobytes())
    chunk = wrap_inlined(own, data)
    decoded = decode_chunk(array, chunk)
    assert decoded.shape == array.shape
    np.testing.assert_array_equal(decoded.ravel(), image.ravel())
    out = np.zeros(array.shape, "u2")
    assert decode_chunk(array, chunk, out) is out
    np.testing.assert_array_equal(out.ravel(), image.ravel())


def test_self_describing_chunks_must_fit_their_array():
    own = SegmentCodec((1, 4, 5, 1), "<u2")
    for array in (SegmentCodec((1, 4, 6, 1), "<u2"), SegmentCodec((1, 4, 5, 1), "<i2")):
        with pytest.raises(InvalidReferences, match="another shape or dtype"):
            decode_chunk(array, wrap_inlined(own, bytes(40)))
    chunk = wrap_inlined(own, b"")
    for garbled in (chunk[:18], chunk[:24], chunk.replace(b"shape", b"shbpe")):
        with pytest.raises(InvalidReferences, match="malformed"):
            decode_chunk(own, garbled)
