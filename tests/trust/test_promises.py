"""The page of promises names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")


def test_named_tests_exist() -> None:
    text = PAGE.read_text("utf-8")
    files = set(re.findall(r"`(tests/[\w/]+\.py)", text))
    assert len(files) > 8 and all((ROOT / file).is_file() for file in files)
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    known = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.M)}
    named = set(re.findall(r"(?:`|::)(test_\w+)`", text))
    assert len(named) > 20 and named - known == set()
