"""Which addresses prefixes allow, and seals by the key of a user; attacks are in `tests/trust`."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from tiffref.errors import UntrustedSource
from tiffref.io.allow import (
    ANYWHERE,
    AllowList,
    allowed_by_environment,
    check_new_location,
    is_local,
    is_own_seal,
    location_prefix,
    make_seal,
)


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://host/data", True),
        ("https://host/data/a.tif", True),
        ("HTTPS://HOST/data/a.tif", True),
        ("https://host/database", False),
        ("https://host/data/../key", False),
        ("https://host/data/%2e%2e/key", False),
        ("https://other/data/a.tif", False),
        ("http://host/data/a.tif", False),
        ("zip://a.tif::https://host/data/a.zip", False),
        ("/data/a.tif", False),
        ("https://host/data/a\n.tif", False),
    ],
)
def test_prefixes_are_compared_part_by_part(url: str, is_allowed: bool) -> None:
    for allowed in (AllowList("https://host/data"), AllowList(["s3://b/", "https://host/data/"])):
        assert pickle.loads(pickle.dumps(allowed)).permits(url) == allowed.permits(url)
        if url != "https://host/data":
            assert allowed.permits(url) == is_allowed
    assert AllowList(ANYWHERE).permits(url)
    assert not AllowList([]).permits(url)


def test_local_files_by_the_place_that_links_lead_to(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()
    (outside / "a.tif").touch()
    (inside / "link.tif").symlink_to(outside / "a.tif")
    allowed = AllowList([inside])  # type: ignore[list-item]  # paths work too
    assert allowed.permits(f"file://{inside}/b.tif") and allowed.permits(str(inside / "b.tif"))
    with pytest.raises(UntrustedSource, match="is not allowed"):
        allowed.check(str(inside / "link.tif"))
    with (outside / "a.tif").open() as file, pytest.raises(UntrustedSource, match="path leads to"):
        allowed.check_opened(str(inside / "link.tif"), file.fileno())


def test_folders_of_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert location_prefix("refs.json") == f"{tmp_path}/"
    assert location_prefix("s3://bucket/x/refs.json?versionId=1") == "s3://bucket/x/"
    assert location_prefix("s3://bucket") == "s3://bucket/"
    assert is_local("a.tif") and is_local("file:///a.tif") and not is_local("zip://a::b.zip")
    monkeypatch.setenv("TIFFREF_ALLOW", " s3://a/ ,, /data ")
    assert allowed_by_environment() == ("s3://a/", "/data")


def test_documents_do_not_move_to_what_they_may_not_read(tmp_path: Path) -> None:
    secret = str(tmp_path / "secret.tif")
    check_new_location([secret], None, str(tmp_path / "refs.json"))
    check_new_location([secret], [str(tmp_path)], str(tmp_path / "refs.json"))
    check_new_location([secret], ["s3://a/"], str(tmp_path / "x" / "refs.json"))
    with pytest.raises(UntrustedSource, match="may not be written to its folder"):
        check_new_location([secret], ["s3://a/"], str(tmp_path / "refs.json"))


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
