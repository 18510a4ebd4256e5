from __future__ import annotations

import pytest

from tiffref.formats.findings import Finding
from tiffref.formats.templates import expand_gen, expand_url


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


def test_generated_references() -> None:
    rules = [
        {"key": "a/{{i}}.{{j}}", "url": "{{u}}/{{ i*2 + j }}.tif", "offset": "{{(i + 1) * 1000}}",
         "length": "{{-(-7 // 2) + j % 2}}", "dimensions": {"i": {"stop": 2}, "j": [0, 5]}},
        {"key": "b/{{i}}", "url": "{{u}}",
         "dimensions": {"i": {"start": 4, "stop": 0, "step": -2}}},
    ]  # fmt: skip
    assert expand_gen(rules, {"u": "s3://b"}, fail) == {
        "a/0.0": ["s3://b/0.tif", 1000, 4],
        "a/0.5": ["s3://b/5.tif", 1000, 5],
        "a/1.0": ["s3://b/2.tif", 2000, 4],
        "a/1.5": ["s3://b/7.tif", 2000, 5],
        "b/4": ["s3://b"],
        "b/2": ["s3://b"],
    }


@pytest.mark.parametrize(
    "expression",
    ["i.real", "i()", "[i]", "i if i else 1", "lambda: 1", "i**2", "i/2", "i << 3", "'a'", "1.5",
     "k", "__import__('os')", "i;i", "", "i and i", "i == 1", "~i", "-" * 300 + "i", "(" * 150,
     "True", "9" * 5000, "i := 1", "f'{i}'", "*i"],
)  # fmt: skip
def test_everything_else_is_refused(expression: str) -> None:
    findings: list[Finding] = []
    rule = {"key": "{{" + expression + "}}", "url": "u", "dimensions": {"i": [1]}}
    assert expand_gen([rule], {}, findings.append) == {}
    assert [finding.code for finding in findings] == ["gen"]


def test_numbers_stay_small() -> None:
    findings: list[Finding] = []
    big = "9" * 18
    rule = {"key": f"{{{{{big}*{big}}}}}", "url": "u", "dimensions": {"i": [1]}}
    assert expand_gen([rule], {}, findings.append) == {}
    assert findings[0].expected == "numbers below 2**63"
