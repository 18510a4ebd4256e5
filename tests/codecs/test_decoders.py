"""SGILog in the value space of GDAL."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from tiffref.codecs.decode import decode_segment
from tiffref.model.codec import SegmentCodec


def test_sgilog_luminance():
    # one row of LogL: high bytes, then low bytes, as a run and as literals
    data = bytes([126 + 4, 0x40, 4, 1, 2, 3, 4])
    codec = SegmentCodec((1, 1, 4, 1), "<i2", 34676, bits=(16,), sample_format=2, photometric=32844)
    assert decode_segment(codec, data).ravel().tolist() == [0x4001, 0x4002, 0x4003, 0x4004]


def test_sgilog_luv_32():
    data = bytes([2, 0x40, 0xC0, 126 + 2, 7, 2, 86, 0, 126 + 2, 255])
    codec = SegmentCodec((1, 1, 2, 3), "<i2", 34676, bits=(16,), sample_format=2, photometric=32845)
    high = int(Fraction(511, 820) * 32768)
    expected = [
        [0x4007, int(Fraction(173, 820) * 32768), high],
        [0xC007 - 0x10000, int(Fraction(1, 820) * 32768), high],
    ]
    assert decode_segment(codec, data)[0, 0].tolist() == expected


def test_sgilog_luv_24_agrees_with_its_xyz():
    words = np.arange(1 << 14, dtype=">u4")
    words[:] |= 0x2A0 << 14
    data = words.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    codec = SegmentCodec(
        (1, 128, 128, 3), "<i2", 34677, bits=(16,), sample_format=2, photometric=32845
    )
    luv = decode_segment(codec, data).reshape(-1, 3)
    xyz = (
        decode_segment(
            SegmentCodec(
                (1, 128, 128, 3), "<f4", 34677, bits=(16,), sample_format=2, photometric=32845
            ),
            data,
        )
        .reshape(-1, 3)
        .astype("f8")
    )
    weight = xyz @ [1, 15, 3]
    np.testing.assert_allclose(luv[:, 1] / 32768, 4 * xyz[:, 0] / weight, atol=1 / 32000)
    np.testing.assert_allclose(luv[:, 2] / 32768, 9 * xyz[:, 1] / weight, atol=1 / 32000)
    # libtiff lets the highest bit of the chromaticity code into the lowest of the logarithm
    luminance = 2 ** ((luv[:, 0] + 0.5) / 256 - 64)
    is_clean = np.arange(1 << 14) < 1 << 12
    np.testing.assert_allclose(luminance[is_clean], xyz[is_clean, 1], rtol=0.0015)
    np.testing.assert_allclose(luminance, xyz[:, 1], rtol=0.005)
