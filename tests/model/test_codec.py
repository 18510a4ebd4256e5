from __future__ import annotations

import json
import pickle

import pytest

from tiffref.errors import InvalidReferences
from tiffref.model.codec import SegmentCodec


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"bits": (5, 6, 5), "edge": (1, 3, 4), "fill": 7},
        {"fill": float("nan")},
        {"fill": float("-inf"), "fill_order": 2},
        {"parameters": {"jpeg_tables": b"\xff\xd8", "subsampling": (2, 1)}},
    ],
)
def test_config_is_json_and_gives_the_codec_back(fields: dict) -> None:
    codec = SegmentCodec((1, 4, 4, 1), "<f4", 5, **fields)
    text = json.dumps(codec.to_config(), allow_nan=False)
    again = SegmentCodec.from_config(json.loads(text))
    assert again == codec
    assert hash(again) == hash(codec)
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert again.to_config() == codec.to_config()


GOOD = {"shape": [1, 4, 4, 1], "dtype": "<f4"}


@pytest.mark.parametrize(
    "config",
    [{}, {"shape": [1, 4, 4, 1]}, {"dtype": "<f4"}, GOOD | {"more": 1}, GOOD | {"shape": 7},
     GOOD | {"shape": [1, 4, -4, 1]}, GOOD | {"shape": [1, 4, 4.0, 1]}, GOOD | {"dtype": "x9"},
     GOOD | {"dtype": "O"}, GOOD | {"dtype": None}, GOOD | {"bits": ["8"]},
     GOOD | {"compression": "lzw"}, GOOD | {"predictor": True}, GOOD | {"edge": 4},
     GOOD | {"fill": "much"}, GOOD | {"parameters": []}, GOOD | {"parameters": {"tables": {}}},
     GOOD | {"transposes": [[0, "1"]]}],
)  # fmt: skip
def test_configurations_that_are_none(config: dict) -> None:
    with pytest.raises(InvalidReferences, match="codec tiffref_segment has an invalid"):
        SegmentCodec.from_config(config)


@pytest.mark.parametrize(
    "change",
    [{"fill": 0.0}, {"fill": None}, {"byteorder": ">"}, {"edge": (1, 2, 4)}, {"predictor": 2},
     {"parameters": {"t4_options": 1}}, {"photometric": 6}, {"sample_format": 3}],
)  # fmt: skip
def test_codecs_that_decode_differently_are_unequal(change: dict) -> None:
    fields = {"fill": float("nan")} | change
    codec = SegmentCodec((1, 4, 4, 1), "<f4", 5, fill=float("nan"))
    assert codec == SegmentCodec((1, 4, 4, 1), "<f4", 5, fill=float("nan"))
    assert codec != SegmentCodec((1, 4, 4, 1), "<f4", 5, **fields)
    assert codec != "codec"
