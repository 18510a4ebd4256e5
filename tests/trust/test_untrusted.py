"""`tiffref validate --untrusted`: what would a document touch?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attacks import refs

from tiffref.cli import main
from tiffref.validation import validate


def test_every_host_and_path_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = refs("https://example.invalid/data/a.tif")
    document["b/.zarray"] = document["a/.zarray"]
    document["b/0.0"] = ["/etc/passwd", 0, 16]
    path = tmp_path / "refs.json"
    path.write_text(json.dumps(document))
    assert main(["validate", "--untrusted", "--sources", "--pixels", "all", str(path)]) == 0
    said = capsys.readouterr().out
    assert "would read https://example.invalid\n    '/data/a.tif'" in said
    assert "would read file://\n    '/etc/passwd'" in said


def test_prefixes_of_validate_end_at_parts() -> None:
    report = validate(refs("s3://bucket/database"), allow=["s3://bucket/data"])
    assert [finding.code for finding in report.findings] == ["root-array", "not-allowed"][1:]
    assert report.touches == {"s3://bucket": ["/database"]}
