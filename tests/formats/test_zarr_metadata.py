from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from groups import make_group, make_image

from tiffref.errors import Finding, InvalidReferences, ManifestMismatch
from tiffref.formats.zarr_metadata import OME_XML, parse_metadata, to_plain, to_texts
from tiffref.model.array import Array, Group
from tiffref.model.codec import ForeignCodec, SegmentCodec


def to_documents(group: Group, zarr_format: int) -> dict[str, Any]:
    texts = to_texts(group, zarr_format)
    return {key: text if key.endswith(OME_XML) else json.loads(text) for key, text in texts.items()}


def test_v2_documents(tmp_path: Path) -> None:
    documents = to_documents(make_group(tmp_path, byteorder=">"), 2)
    assert list(documents)[:3] == [".zgroup", ".zattrs", "image/.zarray"]
    assert documents[".zgroup"] == {"zarr_format": 2}
    assert documents["image/.zarray"] == {
        "zarr_format": 2,
        "shape": [12, 10],
        "chunks": [4, 5],
        "dtype": ">u2",
        "compressor": None,
        "fill_value": None,
        "order": "C",
        "filters": None,
        "dimension_separator": ".",
    }
    assert documents["image/.zattrs"]["_ARRAY_DIMENSIONS"] == ["y", "x"]
    assert documents["inner/.zgroup"] == {"zarr_format": 2}
    assert documents["inner/level/x/.zarray"]["shape"] == [10]
    assert documents["spatial_ref/.zarray"]["chunks"] == []


def test_v3_documents(tmp_path: Path) -> None:
    documents = to_documents(make_group(tmp_path, byteorder=">"), 3)
    assert next(iter(documents)) == "zarr.json"
    image = documents["image/zarr.json"]
    assert image["node_type"] == "array"
    assert image["dimension_names"] == ["y", "x"]
    assert image["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
    assert image["fill_value"] == 0
    assert image["codecs"] == [{"name": "bytes", "configuration": {"endian": "big"}}]
    assert "_FillValue" not in image["attributes"]
    assert "_ARRAY_DIMENSIONS" not in image["attributes"]


@pytest.mark.parametrize(
    ("dtype", "value", "v2", "v3"),
    [
        ("u2", None, None, 0),
        ("u2", np.uint16(7), 7, 7),
        ("f4", float("nan"), "NaN", "NaN"),
        ("f8", float("inf"), "Infinity", "Infinity"),
        ("f8", -np.inf, "-Infinity", "-Infinity"),
        ("f4", None, None, 0.0),
        ("i2", -9999.0, -9999, -9999),
        ("?", None, None, False),
        ("?", True, True, True),
        ("c8", None, None, [0.0, 0.0]),
        ("c8", complex(1, float("nan")), [1.0, "NaN"], [1.0, "NaN"]),
        ("U3", None, None, ""),
        ("M8[s]", np.datetime64(5, "s"), 5, 5),
    ],
)
def test_fill_values(dtype: str, value: object, v2: object, v3: object) -> None:
    array = Array.from_values(np.zeros(3, dtype), ("x",))
    array = Array(array.shape, array.chunks, array.dtype, array.dims, array.codecs, array.manifest,
                  value)  # fmt: skip
    group = Group({"a": array})
    assert to_documents(group, 2)["a/.zarray"]["fill_value"] == v2
    assert ("_FillValue" in to_documents(group, 2)["a/.zattrs"]) == (value is not None)
    if dtype[0] != "M":
        assert to_documents(group, 3)["a/zarr.json"]["fill_value"] == v3
    json.dumps(to_documents(group, 2), allow_nan=False)


def test_attributes_become_plain_json() -> None:
    attributes = {
        "nan": float("nan"),
        "inf": [np.inf, -np.inf],
        "array": np.arange(3, dtype=np.int16),
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "tuple": (1, "a", None),
        "nested": {"a": {1: 2}},
    }
    assert to_plain(attributes) == {
        "nan": "NaN",
        "inf": ["Infinity", "-Infinity"],
        "array": [0, 1, 2],
        "scalar": 0.5,
        "flag": True,
        "tuple": [1, "a", None],
        "nested": {"a": {"1": 2}},
    }


def test_attribute_that_is_no_json_value(tmp_path: Path) -> None:
    group = Group({"image": make_image(tmp_path, attributes={"raw": b"1"})})
    with pytest.raises(InvalidReferences, match=r"image/\.zattrs.*bytes"):
        to_documents(group, 2)


def test_several_codecs_are_refused(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    codecs = (image.codec, SegmentCodec((1, 1, 1, 20), "<u2", 8))
    mixed = Array(image.shape, image.chunks, image.dtype, image.dims, codecs, image.manifest)
    for zarr_format in (2, 3):
        with pytest.raises(ManifestMismatch, match=r"'image'.*2 codecs.*compression 8"):
            to_documents(Group({"image": mixed}), zarr_format)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("others", [True, 1.0])
def test_equal_values_of_codecs_stay_as_they_are(
    tmp_path: Path, others: object, zarr_format: int
) -> None:
    """What an earlier document had is equal, and not the same: strict readers refuse it."""
    image = make_image(tmp_path)

    def write(shuffle: object) -> str:
        blosc = {"cname": "lz4", "clevel": 5, "shuffle": shuffle}
        metadata: dict[str, Any] = {"dtype": "<u2", "filters": None}
        if zarr_format == 2:
            metadata["compressor"] = {"id": "blosc", **blosc}
        else:
            metadata = {"data_type": "uint16"}
            metadata["codecs"] = [{"name": "blosc", "configuration": blosc}]
        array = replace(image, codecs=(ForeignCodec(zarr_format, metadata),))
        return repr(to_documents(Group({"image": array}), zarr_format))

    assert f"'shuffle': {others!r}" in write(others)
    assert "'shuffle': 1}" in write(1)


def test_array_at_the_root(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    assert list(to_documents(Group({"": image}), 2)) == [".zarray", ".zattrs"]
    assert list(to_documents(Group({"": image}), 3)) == ["zarr.json"]
    both = Group({"other": image, "": image})
    keys = [".zgroup", ".zarray", ".zattrs", "other/.zarray", "other/.zattrs"]
    assert list(to_documents(both, 2)) == keys
    with pytest.raises(InvalidReferences, match="both an array and a group"):
        to_documents(both, 3)


def test_no_such_format(tmp_path: Path) -> None:
    with pytest.raises(InvalidReferences, match="got 4, expected 2 or 3"):
        to_documents(Group(), 4)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("chunk_grid", {"name": "regular", "configuration": [1]}),
        ("chunk_key_encoding", ["default"]),
        ("chunk_key_encoding", {"name": ["v2"]}),
        ("chunk_key_encoding", {"name": "default", "configuration": [1]}),
        ("data_type", None),
        ("data_type", ["uint8"]),
        ("data_type", {"name": ["bool"]}),
        ("data_type", {"name": "fixed_length_utf32", "configuration": {"length_bytes": "x"}}),
        ("data_type", {"name": "numpy.datetime64", "configuration": None}),
    ],
)
def test_members_of_the_wrong_type_are_findings(tmp_path: Path, member: str, value: object) -> None:
    documents = to_documents(make_group(tmp_path), 3)
    findings: list[Finding] = []
    nodes = parse_metadata(documents, findings.append)
    assert findings == []
    documents["image/zarr.json"][member] = value
    others = parse_metadata(documents, findings.append)
    assert [(finding.code, finding.key) for finding in findings] == [
        ("metadata", "image/zarr.json")
    ]
    assert nodes.arrays.keys() - others.arrays.keys() == {"image"}
