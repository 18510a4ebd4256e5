from __future__ import annotations

import pytest

from tiffref.errors import ManifestMismatch, SelectionError
from tiffref.io.urls import from_document_url, plan_prefix, shared_folder, to_document_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("/data/a b%20.tif", "file:///data/a b%20.tif"),
        ("s3://bucket/a.tif", "s3://bucket/a.tif"),
        ("memory://a.tif", "memory://a.tif"),
        ("http://h:80/a.tif?x=1#y", "http://h:80/a.tif?x=1#y"),
    ],
)
def test_both_ways(url: str, address: str) -> None:
    assert to_document_url(url) == address
    assert from_document_url(address) == url


def test_relative_paths_become_absolute(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert to_document_url("a.tif") == f"file://{tmp_path}/a.tif"


@pytest.mark.parametrize(
    ("prefix", "urls", "expected"),
    [
        ("s3://b/x", ["/d/a.tif"], ["s3://b/x/a.tif"]),
        ("s3://b/x/", ["/d/a.tif", "/d/b.tif"], ["s3://b/x/a.tif", "s3://b/x/b.tif"]),
        ("s3://b", ["/d/a.tif", "/d/s/a.tif"], ["s3://b/a.tif", "s3://b/s/a.tif"]),
        ("s3://b", ["/d/t0/a.tif", "/d/t1/a.tif"], ["s3://b/t0/a.tif", "s3://b/t1/a.tif"]),
        ("s3://b", ["/d/ab/a.tif", "/d/ac/a.tif"], ["s3://b/ab/a.tif", "s3://b/ac/a.tif"]),
        ("https://h", ["/d/a b#.tif"], ["https://h/a%20b%23.tif"]),
        ("s3://b", ["/d/a b#.tif"], ["s3://b/a b#.tif"]),
        ("", ["/d/a.tif"], ["a.tif"]),
        ("C:\\data", ["/d/a.tif"], ["C:/data/a.tif"]),
        ("https://h", ["http://h/x/a%20%C3%A9%2B.tif?sig=S"], ["https://h/a%20%C3%A9%2B.tif"]),
        ("https://h", ["http://h/x/a b+é.tif?sig=S"], ["https://h/a%20b%2B%C3%A9.tif"]),
        (
            "https://h",
            ["http://h/x%20y/1/a%25.tif", "http://h/x%20y/2/a.tif"],
            ["https://h/1/a%25.tif", "https://h/2/a.tif"],
        ),
        ("s3://b", ["http://h/x/a%20b.tif?sig=S"], ["s3://b/a b.tif"]),
        ("s3://b", ["s3://c/a%20b.tif"], ["s3://b/a%20b.tif"]),
        ("s3://b", ["http://h/x/a.tif", "http://h/x/b.tif"], ["s3://b/a.tif", "s3://b/b.tif"]),
        (
            "https://h/y",
            ["zip://d/a b.tif::http://h/x/1%20.zip?sig=S", "zip://d/c?.tif::http://h/x/2.zip"],
            ["zip://d/a b.tif::https://h/y/1%20.zip", "zip://d/c?.tif::https://h/y/2.zip"],
        ),
        ("s3://b", ["zip://a.tif::/d/1.zip"], ["zip://a.tif::s3://b/1.zip"]),
        (
            "",
            ["zip://a.tif::s3://b/1.zip", "zip://b.tif::s3://b/1.zip"],
            ["zip://a.tif::1.zip", "zip://b.tif::1.zip"],
        ),
        ("s3://b", ["/d/a::b.tif"], ["s3://b/a::b.tif"]),
    ],
)
def test_prefix(prefix: str, urls: list[str], expected: list[str]) -> None:
    rename = plan_prefix(prefix, urls)
    assert [rename(url) for url in urls] == expected


def test_prefix_for_sources_without_a_folder() -> None:
    with pytest.raises(ManifestMismatch, match="no common folder"):
        plan_prefix("s3://b", ["/d/a.tif", "s3://c/a.tif"])


def test_shared_folder() -> None:
    assert shared_folder([]) == ""
    assert shared_folder(["s3://b/a/1", "s3://b/a/1"]) == "s3://b/a/"
    assert shared_folder(["s3://b/a/10", "s3://b/a/1", "s3://b/a/2/3"]) == "s3://b/a/"


@pytest.mark.parametrize("prefix", ["www.host.org/data", "s3:/bucket/x/", "/vsis3/bucket"])
def test_prefix_that_is_no_address(prefix: str) -> None:
    with pytest.raises(SelectionError, match="not a URL"):
        plan_prefix(prefix, ["/a/b.tif"])


@pytest.mark.parametrize(
    "prefix", ["", "data", "../data/", "/data", "C:/data", "s3://b/www.x.org/"]
)
def test_prefix_that_is_an_address(prefix: str) -> None:
    assert plan_prefix(prefix, ["/a/b.tif"])("/a/b.tif").endswith("b.tif")
