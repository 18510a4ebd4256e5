from __future__ import annotations

from tiffref.formats.findings import Finding
from tiffref.formats.kerchunk_read import expand_url


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
