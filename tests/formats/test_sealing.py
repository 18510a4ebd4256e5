"""The digest of a document's chunks stays the same: else seals of earlier versions break."""

from __future__ import annotations

import hashlib

import numpy as np

from tiffref.formats.sealing import digest_chunks
from tiffref.model.array import Array
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import Manifest, Source


def _framed(*texts: bytes) -> bytes:
    return b"".join(b"%d:" % len(text) + text for text in texts)


def _array(manifest: Manifest) -> Array:
    codec = SegmentCodec((1, 1, 1, 4), "|u1")
    return Array((8,), (4,), np.dtype("u1"), ("x",), (codec,), manifest)


def test_ranges_are_digested_as_columns_behind_the_address() -> None:
    manifest = Manifest.from_columns((2,), Source("/a.tif"), [8, 0], [4, 0])
    (found,) = digest_chunks([("image", _array(manifest))], {"/a.tif": "/b.tif"})
    columns = [
        np.array([0, -1], "<i4"), np.array([8, 0], "<u8"), np.array([4, 0], "<u8"),
    ]  # fmt: skip
    data = _framed(b"image", b"(2,)", b"/b.tif") + b"".join(map(bytes, columns))
    assert found == hashlib.sha256(data).digest()


def test_inlined_chunks_are_digested_with_their_index() -> None:
    manifest = Manifest.from_columns((2,), (), [0, 0], [0, 0], inlined={1: b"late", 0: b"1st"})
    (found,) = digest_chunks([("x", _array(manifest))], {})
    assert found == hashlib.sha256(_framed(b"x", b"(2,)", b"0", b"1st", b"1", b"late")).digest()


def test_inlined_chunks_come_behind_ranges() -> None:
    manifest = Manifest.from_columns((2,), Source("/a.tif"), [8, 0], [4, 0], inlined={1: b"late"})
    (found,) = digest_chunks([("x", _array(manifest))], {})
    source = np.array([0, manifest.source[1]], "<i4")
    columns = [source, np.array([8, 0], "<u8"), np.array([4, 0], "<u8")]
    head = _framed(b"x", b"(2,)", b"/a.tif") + b"".join(map(bytes, columns))
    assert found == hashlib.sha256(head + _framed(b"1", b"late")).digest()
