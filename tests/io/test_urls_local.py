"""Paths of local files and their URLs, as Windows and others have them."""

from __future__ import annotations

import ntpath
import os
from pathlib import PureWindowsPath

import pytest

from tiffref.io import urls
from tiffref.io.urls import directory_error, file_url, is_file_url, local_path


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (PureWindowsPath("C:/data/a b.tif"), "file:///C:/data/a b.tif"),
        (PureWindowsPath("d:\\a.tif"), "file:///d:/a.tif"),
        (PureWindowsPath("//server/share/x/a.tif"), "file://server/share/x/a.tif"),
        (PureWindowsPath("C:/a#b%20.tif"), "file:///C:/a#b%20.tif"),
    ],
)
def test_windows(path: PureWindowsPath, url: str) -> None:
    assert file_url(str(path), is_windows=True) == url
    assert PureWindowsPath(local_path(url, is_windows=True)) == path
    assert is_file_url(url, is_windows=True) and not is_file_url("s3://b/a", is_windows=True)
    if path.drive.endswith(":"):  # as Python has it, but that nothing is quoted
        assert url.split("#")[0].replace(" ", "%20") == path.as_uri().split("%23")[0]


@pytest.mark.parametrize("path", ["/data/a b.tif", "/a/C:/b.tif", "/x\\y.tif"])
def test_others(path: str) -> None:
    assert file_url(path, is_windows=False) == f"file://{path}"
    assert local_path(f"file://{path}", is_windows=False) == path == local_path(path)


def test_addresses_of_documents_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("file_url", "local_path", "is_file_url"):
        function = getattr(urls, name)
        monkeypatch.setattr(urls, name, lambda url, function=function: function(url, True))
    monkeypatch.setattr(urls.os, "path", ntpath)
    for path in ("C:/data/a.tif", "//server/share/a.tif"):
        assert not urls.has_scheme(path)
        assert urls.from_document_url(urls.to_document_url(path)) == path
    rename = urls.plan_prefix("https://host/x", ["C:\\data\\a.tif", "C:\\data\\s\\b.tif"])
    assert rename("C:\\data\\s\\b.tif") == "https://host/x/s/b.tif"


def test_folders_of_many_files_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "listdir", lambda name: [f"a{n}.tif" for n in range(10_001)])
    error = str(directory_error("my data/"))
    assert "10,001 TIFF files, such as a0.tif" in error
    assert "tiffref stack 'my data/*.tif' -o refs.json" in error
    assert "tiffref catalog build 'my data' -o CATALOG" in error
