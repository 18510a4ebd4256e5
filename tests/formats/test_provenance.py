from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tiffref.errors import InvalidReferences
from tiffref.formats.provenance import check_series, format_provenance, parse_provenance
from tiffref.model.manifest import Source
from tiffref.validation import load_schema

SCHEMA = jsonschema.Draft202012Validator(load_schema("provenance"))
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
        *({"index": 0, "levels": levels}
          for levels in (3, [], [3], [{}], [{"path": 3}], [{"path": "image", "refused": "so"}])),
        *({"index": 0, "levels": LEVELS, "sequence": sequence}
          for sequence in (None, [], {}, {"dims": 5}, {**SEQUENCE, "files": "x"},
                           {**SEQUENCE, "formats": 3}, {**SEQUENCE, "pattern": 3},
                           {**SEQUENCE, "concat": [1]})),
    ],
)  # fmt: skip
def test_series_that_are_none(row: Any) -> None:
    assert not SCHEMA.is_valid({"version": 1, "sources": {"url": []}, "series": [row]})
    with pytest.raises(InvalidReferences, match="the provenance has"):
        check_series([row], {"image"})


def test_levels_that_are_not_there() -> None:
    with pytest.raises(InvalidReferences, match="not there, got 'image'"):
        check_series([{"index": 0, "levels": LEVELS}], {"other"})
