"""Which addresses prefixes allow; attacks on this are in `tests/trust`."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tiffref.errors import UntrustedSource
from tiffref.io.allow import (
    ANYWHERE,
    AllowList,
    allowed_by_environment,
    check_moved,
    is_local,
    location_prefix,
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
    with pytest.raises(UntrustedSource, match="outside the allowed addresses"):
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
    check_moved([secret], None, str(tmp_path / "refs.json"))
    check_moved([secret], [str(tmp_path)], str(tmp_path / "refs.json"))
    check_moved([secret], ["s3://a/"], str(tmp_path / "x" / "refs.json"))
    with pytest.raises(UntrustedSource, match="may not move to where this source lies"):
        check_moved([secret], ["s3://a/"], str(tmp_path / "refs.json"))
