"""Chunks that say themselves how they decode."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from segments import compress, values

from tiffref.codecs.decode import decode_chunk, wrap_inlined
from tiffref.errors import InvalidReferences
from tiffref.model.codec import SegmentCodec


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
        with pytest.raises(InvalidReferences, match="another shape or type"):
            decode_chunk(array, wrap_inlined(own, bytes(40)))
    chunk = wrap_inlined(own, b"")
    for garbled in (chunk[:18], chunk[:24], chunk.replace(b"shape", b"shbpe")):
        with pytest.raises(InvalidReferences, match="garbled"):
            decode_chunk(own, garbled)
