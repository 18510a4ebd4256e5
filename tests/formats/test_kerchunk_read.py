from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from bad_documents import BAD, BEYOND_SCHEMA, GOOD, META, RANGE
from schemas import load_schema

from tiffref.errors import _TOLERATED, Finding, InvalidReferences
from tiffref.formats.kerchunk_read import expand_url, parse_structure, read_document
from tiffref.model.array import Array

SCHEMAS = [load_schema(f"kerchunk-v{version}") for version in (0, 1)]


def find(document: Any) -> list[Finding]:
    findings: list[Finding] = []
    parse_structure(document, findings.append)
    return [finding for finding in findings if finding.stage == "structure"]


def fits_schema(document: Any) -> bool:
    return any(schema.is_valid(document) for schema in SCHEMAS)


@pytest.mark.parametrize("name", ["kerchunk-v0", "kerchunk-v1", "provenance"])
def test_schemas_are_schemas(name: str) -> None:
    load_schema(name).check_schema(load_schema(name).schema)


@pytest.mark.parametrize("name", GOOD)
def test_good_documents(name: str) -> None:
    assert fits_schema(GOOD[name])
    assert find(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_bad_documents(name: str) -> None:
    document, code, key = BAD[name]
    assert not fits_schema(document)
    findings = find(document)
    assert [finding.code for finding in findings] == [code]
    if key is not None:
        assert key in str(findings[0].key)
        assert findings[0].got is not None
        assert findings[0].expected


@pytest.mark.parametrize("name", BEYOND_SCHEMA)
def test_rules_that_no_schema_expresses(name: str) -> None:
    document, code = BEYOND_SCHEMA[name]
    assert fits_schema(document)
    assert [finding.code for finding in find(document)] == [code]


@pytest.mark.parametrize("name", [name for name, row in BAD.items() if row[1] not in _TOLERATED])
def test_reading_a_bad_document_names_the_key(name: str) -> None:
    document, _, key = BAD[name]
    if isinstance(document, str):
        return  # would be taken for a path
    with pytest.raises((InvalidReferences, TypeError)) as caught:
        read_document(document)
    if isinstance(document, dict):
        assert isinstance(caught.value, InvalidReferences)
        assert caught.value.expected
        assert key in str(caught.value) or repr(key) in str(caught.value)


@pytest.mark.parametrize("path", ["spatial_ref", "a/b"])
@pytest.mark.parametrize("has_number", [False, True])
def test_scalars_that_virtualizarr_writes_without_a_number(path: str, has_number: bool) -> None:
    metadata = {"zarr_format": 2, "shape": [], "chunks": [], "dtype": "<i8", "fill_value": 0}
    metadata |= {"order": "C", "filters": None, "compressor": None}
    refs: dict[str, Any] = {f"{path}/.zarray": json.dumps(metadata)}
    refs[f"{path}/"] = "base64:BwAAAAAAAAA="
    if has_number:
        refs[f"{path}/0"] = "base64:CAAAAAAAAAA="
    array = read_document(refs).group[path]
    assert isinstance(array, Array)
    assert array.manifest.inlined == {0: bytes([8 if has_number else 7]) + bytes(7)}


def test_only_the_first_of_many_is_named() -> None:
    refs = {f"a/{n}": ["a.tif", -n, 5] for n in range(20)}
    (finding,) = find({".zgroup": META, **refs, "a/99": RANGE})
    assert (finding.key, finding.n_more) == ("a/1", 18)
    columns = parse_structure({**refs, "a/99": RANGE}, lambda finding: None)
    assert list(columns.keys) == ["a/0", "a/99"]
    assert columns.offset.tolist() == [0, 8]


def test_references_are_parsed_into_columns() -> None:
    document = {"version": 1, "templates": {"u": "s3://b"}, "refs": {
        "a/0": "text", "a/1": ["{{ u }}/1.tif"], ".zgroup": META, "a/2": ["{{u}}/2.tif", 3, 4],
        "a/3": "base64:AAE=", "a/4": ["{{u}}/1.tif", 5, 6],
    }}  # fmt: skip
    columns = parse_structure(json.loads(json.dumps(document)), pytest.fail)
    assert columns.metadata == {".zgroup": META.encode()}
    assert columns.keys == ["a/0", "a/1", "a/2", "a/3", "a/4"]
    urls = [None if row < 0 else columns.urls[row] for row in columns.source]
    assert urls == [None, "s3://b/1.tif", "s3://b/2.tif", None, "s3://b/1.tif"]
    assert columns.offset.tolist() == [0, 0, 3, 0, 5]
    assert columns.length.tolist() == [0, 0, 4, 0, 6]
    assert columns.inlined == {0: b"text", 3: b"\0\1"}


GROWTH = """
import resource
from tiffref.formats.kerchunk_read import parse_structure

document = {"a/0": "base64:" + "AAAA" * (3 << 20), "a" + "/b" * (1 << 20) + "/.": "text"}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parse_structure(document, print)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_texts_and_keys_take_about_as_much_memory_as_they_have() -> None:
    pytest.importorskip("resource")
    run = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[-1]) < 100 << 10


def test_lone_surrogates_do_not_stop_it() -> None:
    document = {"a/\ud800": "x\ud800", "a/0": RANGE}
    assert find(document) == []


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("image/0.0", "image/0.0: wrong"),
        ("image chunk (0, 1)", "image chunk (0, 1): wrong"),
        ("", "'': wrong"),
        ("a\nb", r"'a\nb': wrong"),
        (None, "wrong"),
    ],
)
def test_findings_name_their_key(key: str | None, told: str) -> None:
    assert str(Finding("code", "wrong", key).to_error()) == told


def fail(finding: Finding) -> None:
    raise AssertionError(finding)


def test_addresses() -> None:
    templates = {"u": "s3://bucket", "name_2": "x"}
    assert expand_url("{{u}}/{{ name_2 }}/{{u}}", templates, fail) == "s3://bucket/x/s3://bucket"
    assert expand_url("plain{0}", templates, fail) == "plain{0}"
    assert expand_url("{{u}}", {}, fail) == "{{u}}"  # without templates braces are plain


def test_a_template_is_not_run() -> None:
    findings: list[Finding] = []
    for url in ("{{u.__class__}}", "{{u[0]}}", "{{u}}{{", "{{7*7}}", "{{u|upper}}", "{{ }}"):
        assert expand_url(url, {"u": "x"}, findings.append) == url
    assert {finding.code for finding in findings} == {"template"}
    assert len(findings) == 6
