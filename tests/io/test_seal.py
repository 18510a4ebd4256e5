"""The key of a user, and the seals that are made with it; attacks are in `tests/trust/test_own`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiffref.io.seal import is_own_seal, make_seal


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "tiffref" / "key"


@pytest.mark.skipif(os.name == "nt", reason="the key is elsewhere")
def test_a_seal_is_known_again(key: Path) -> None:
    assert not is_own_seal("0" * 64, b"digest") and not key.exists()
    seal = make_seal(b"digest")
    assert seal is not None and len(bytes.fromhex(seal)) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    assert make_seal(b"digest") == seal != make_seal(b"other")
    assert is_own_seal(seal, b"digest") and not is_own_seal(seal, b"other")
    key.write_bytes(bytes(32))
    assert not is_own_seal(seal, b"digest")


@pytest.mark.skipif(os.name == "nt", reason="the key is elsewhere")
def test_a_key_that_others_may_read_is_not_used(key: Path) -> None:
    seal = make_seal(b"digest")
    assert seal is not None
    key.chmod(0o644)
    assert make_seal(b"digest") is None and not is_own_seal(seal, b"digest")
