"""What is digested of a document's chunks stays the same: else seals of earlier versions break."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from tiffref.formats.kerchunk import to_kerchunk
from tiffref.formats.sealing import digest_chunks
from tiffref.model.array import Array, Group
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import Manifest, Source


def _array(manifest: Manifest) -> Array:
    codec = SegmentCodec((1, 1, 1, 4), "|u1")
    return Array((8,), (4,), np.dtype("u1"), ("x",), (codec,), manifest)


def _digested(arrays: dict[str, Manifest], addresses: dict[str, str] | None = None) -> list[bytes]:
    named = [(path, _array(manifest)) for path, manifest in arrays.items()]
    return [bytes(part) for part in digest_chunks(named, addresses or {})]


def _columns(source: list[int], offset: list[int], length: list[int]) -> list[bytes]:
    columns = (source, "<i4"), (offset, "<u8"), (length, "<u8")
    return [np.array(column, kind).tobytes() for column, kind in columns]


def test_ranges_are_digested_as_columns_behind_the_address() -> None:
    manifest = Manifest.from_columns((2,), Source("/a.tif"), [8, 0], [4, 0])
    head = b'[["image",[2],["/b.tif"],[]]]'
    expected = [head, *_columns([0, -1], [8, 0], [4, 0])]
    assert _digested({"image": manifest}, {"/a.tif": "/b.tif"}) == expected


def test_inlined_chunks_are_digested_with_their_index() -> None:
    manifest = Manifest.from_columns((2,), (), [0, 0], [0, 0], inlined={1: b"late", 0: b"1st"})
    assert _digested({"x": manifest}) == [b'[["x",[2],[],[[0,3],[1,4]]]]', b"1st", b"late"]


def test_inlined_chunks_come_behind_ranges() -> None:
    manifest = Manifest.from_columns((2,), Source("/a.tif"), [8, 0], [4, 0], inlined={1: b"late"})
    head = b'[["x",[2],["/a.tif"],[[1,4]]]]'
    assert _digested({"x": manifest}) == [head, *_columns([0, -2], [8, 0], [4, 0]), b"late"]


def test_arrays_are_digested_in_the_order_of_their_paths() -> None:
    one = Manifest.from_columns((2,), Source("/a.tif"), [8, 16], [4, 5])
    two = Manifest.from_columns((2,), (), [0, 0], [0, 0], inlined={0: b"y"})
    found = _digested({"x": two, "image": one})
    assert json.loads(found[0]) == [["image", [2], ["/a.tif"], []], ["x", [2], [], [[0, 1]]]]
    assert found[1:] == [*_columns([0, 0], [8, 16], [4, 5]), b"y"]
    assert found == _digested({"image": one, "x": two})


def test_the_order_of_sources_and_unused_ones_make_no_difference() -> None:
    a, b, c = (Source(f"/{name}.tif") for name in "abc")
    one = Manifest.from_columns((2,), (a, b), [8, 16], [4, 5], index=[0, 1])
    two = Manifest.from_columns((2,), (c, b, a), [8, 16], [4, 5], index=[2, 1])
    assert _digested({"x": one}) == _digested({"x": two})


def test_one_hash_seals_a_document(monkeypatch) -> None:
    made = []
    real = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *data: made.append(data) or real(*data))
    one = Manifest.from_columns((2,), Source("/a.tif"), [8, 16], [4, 5])
    group = Group({f"image_{n}": _array(one) for n in range(10)})
    to_kerchunk(group, is_sealed=True)
    assert len(made) == 1
