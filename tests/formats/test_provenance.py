"""What the provenance says; what is digested of chunks stays the same, else old seals break."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from schemas import load_schema

from tiffref.errors import InvalidReferences
from tiffref.formats.kerchunk import to_kerchunk
from tiffref.formats.provenance import (
    check_series,
    digest_chunks,
    format_provenance,
    parse_provenance,
)
from tiffref.model.array import Array, Group
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import Manifest, Source

SCHEMA = load_schema("provenance")
SERIES = [{"index": 0, "kind": "ome", "name": "a", "axes": "YX",
           "levels": [{"path": "image"}, {"refused": "UnsupportedTiff: ..."}]}]  # fmt: skip


def spell(sources: list[Source], series: Any = ()) -> Any:
    return format_provenance(sources, {source.url: source.url for source in sources}, series)


@pytest.mark.parametrize(
    "sources",
    [
        [Source("s3://b/a.tif", 10, 1.5e9, "abc")],
        [Source("s3://b/a.tif"), Source("s3://b/b.tif", 7), Source("s3://c/c.tif", None, 2.5)],
        [Source("/d/a.tif", 1), Source("memory://b.tif", 2)],
        [],
    ],
)
def test_round_trip(sources: list[Source]) -> None:
    text = spell(sources, SERIES)
    SCHEMA.validate(json.loads(text))
    found = parse_provenance(text)
    assert (found.sources, found.series, found.seal) == (sources, SERIES, None)


def test_nothing_to_say() -> None:
    assert spell([]) is None


def test_many_sources_stay_small() -> None:
    sources = [Source(f"s3://bucket/long/folder/image_{n:06}.tif", n) for n in range(1000)]
    text = spell(sources)
    assert len(text) < 30 * len(sources)
    assert parse_provenance(text).sources == sources


BAD: list[Any] = [
    "no JSON", 7, None, "[]", '{"version": 2, "sources": {"url": []}, "series": []}',
    '{"version": 1, "series": []}', '{"version": 1, "sources": {"url": []}}',
    '{"version": 1, "sources": [], "series": []}', '{"version": 1, "sources": {}, "series": []}',
    '{"version": 1, "sources": {"url": [1]}, "series": []}',
    '{"version": 1, "sources": {"url": "a"}, "series": []}',
    '{"version": 1, "sources": {"url": [], "prefix": 1}, "series": []}',
    '{"version": 1, "sources": {"url": []}, "series": [1]}',
    '{"version": 1, "sources": {"url": ["a"], "size": ["7"]}, "series": []}',
    '{"version": 1, "sources": {"url": ["a"], "mtime": ["7"]}, "series": []}',
    '{"version": 1, "sources": {"url": ["a"], "etag": [7]}, "series": []}',
    '{"version": true, "sources": {"url": []}, "series": []}',
    '{"version": 1, "sources": {"url": []}, "series": [], "more": 1}',
    '{"version": 1, "sources": {"url": ["a"], "size": [-1]}, "series": []}',
    '{"version": 1, "sources": {"url": ["a"], "mtime": [-0.5]}, "series": []}',
    '{"version": 1, "sources": {"url": ["a"], "more": ["b"]}, "series": []}',
    *(f'{{"version": 1, "sources": {{"url": []}}, "series": [], "seal": {seal}}}'
      for seal in ("null", "7", '"abc"', "[]")),
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_bad_texts(text: Any) -> None:
    with pytest.raises(InvalidReferences, match="the provenance"):
        parse_provenance(text)
    try:
        document = json.loads(text)
    except (TypeError, ValueError):
        return
    assert not SCHEMA.is_valid(document)


def test_files_from_before_1970() -> None:
    text = spell([Source("/a.tif", 7, -1.5), Source("/b.tif", 7, 2.5)])
    SCHEMA.validate(json.loads(text))
    assert [source.mtime for source in parse_provenance(text).sources] == [None, 2.5]


@pytest.mark.parametrize("mtime", ["NaN", "Infinity"])
def test_times_that_are_no_numbers(mtime: str) -> None:
    with pytest.raises(InvalidReferences, match="no valid table"):
        parse_provenance(
            f'{{"version": 1, "sources": {{"url": ["a"], "mtime": [{mtime}]}}, "series": []}}'
        )


def test_columns_of_other_lengths() -> None:
    with pytest.raises(InvalidReferences, match="columns of one length"):
        parse_provenance('{"version": 1, "sources": {"url": ["a"], "size": []}, "series": []}')


SEQUENCE = {"dims": ["i"], "pattern": None, "formats": {"i": "int"}, "concat": {}, "files": 2}
LEVELS = [{"path": "image"}]


def test_series_that_are_good() -> None:
    check_series(SERIES, {"image"})
    check_series([{"index": 0, "levels": LEVELS, "sequence": SEQUENCE}], {"image", "image_1"})


@pytest.mark.parametrize(
    "row",
    [
        {"levels": LEVELS}, {"index": 0}, {"index": "0", "levels": LEVELS},
        {"index": True, "levels": LEVELS}, {"index": -1, "levels": LEVELS},
        *({"index": 0, "levels": levels}
          for levels in (3, [], [3], [{}], [{"path": 3}], [{"path": "image", "refused": "so"}])),
        *({"index": 0, "levels": LEVELS, "sequence": sequence}
          for sequence in (None, [], {}, {"dims": 5}, {**SEQUENCE, "files": "x"},
                           {**SEQUENCE, "formats": 3}, {**SEQUENCE, "pattern": 3},
                           {**SEQUENCE, "concat": [1]}, {"dims": [1]},
                           {**SEQUENCE, "files": True}, {**SEQUENCE, "n_holes": -1})),
    ],
)  # fmt: skip
def test_series_that_are_none(row: Any) -> None:
    assert not SCHEMA.is_valid({"version": 1, "sources": {"url": []}, "series": [row]})
    with pytest.raises(InvalidReferences, match="the provenance has"):
        check_series([row], {"image"})


def test_missing_levels() -> None:
    with pytest.raises(InvalidReferences, match="does not exist, got 'image'"):
        check_series([{"index": 0, "levels": LEVELS}], {"other"})


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
    manifest = Manifest.from_columns((2,), (), [0, 0], [0, 0]).with_inlined({1: b"late", 0: b"1st"})
    assert _digested({"x": manifest}) == [b'[["x",[2],[],[[0,3],[1,4]]]]', b"1st", b"late"]


def test_inlined_chunks_come_behind_ranges() -> None:
    manifest = Manifest.from_columns((2,), Source("/a.tif"), [8, 0], [4, 0]).with_inlined(
        {1: b"late"}
    )
    head = b'[["x",[2],["/a.tif"],[[1,4]]]]'
    assert _digested({"x": manifest}) == [head, *_columns([0, -2], [8, 0], [4, 0]), b"late"]


def test_arrays_are_digested_in_the_order_of_their_paths() -> None:
    one = Manifest.from_columns((2,), Source("/a.tif"), [8, 16], [4, 5])
    two = Manifest.from_columns((2,), (), [0, 0], [0, 0]).with_inlined({0: b"y"})
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
