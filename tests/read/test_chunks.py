"""Chunks of codecs of others."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from tiffref.errors import MalformedTiff
from tiffref.model.array import Array
from tiffref.model.codec import ForeignCodec
from tiffref.model.manifest import Manifest
from tiffref.read.chunks import decode_whole

SAMPLES = np.arange(256, dtype="u1").reshape(16, 16)
XZ = {"id": "lzma", "format": lzma.FORMAT_XZ, "check": -1, "preset": None, "filters": None}
CODECS = [
    ({"id": "zlib", "level": 1}, zlib.compress),
    ({"id": "gzip", "level": 1}, gzip.compress),
    ({"id": "bz2", "level": 1}, bz2.compress),
    (XZ, lzma.compress),
    ({**XZ, "format": lzma.FORMAT_ALONE}, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
]


@pytest.mark.parametrize(("config", "encode"), CODECS, ids=["zlib", "gzip", "bz2", "xz", "alone"])
def test_streams_that_do_not_decode(config: dict, encode: Callable[[bytes], bytes]) -> None:
    codec = ForeignCodec(2, {"dtype": "|u1", "filters": None, "compressor": config, "order": "C"})
    manifest = Manifest.from_columns((1, 1), (), [0], [0])
    array = Array((16, 16), (16, 16), SAMPLES.dtype, ("y", "x"), (codec,), manifest)
    stream = encode(SAMPLES.tobytes())
    np.testing.assert_array_equal(decode_whole(array, codec, stream), SAMPLES)
    broken = bytearray(stream)
    broken[12:40] = b"\xff" * 28
    for data in (stream[: len(stream) // 2], bytes(broken), b""):
        with pytest.raises(MalformedTiff):
            decode_whole(array, codec, data)
