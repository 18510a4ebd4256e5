"""Images that tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from sequences import geo_tags, pixels, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(folder: Path) -> Path:
    """Write a pyramid of two levels: 3 x 2 tiles, and 2 x 1."""
    pixels = np.arange(96 * 64, dtype=np.uint16).reshape(96, 64)
    options = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}
    path = folder / "image.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(pixels, subifds=1, **options)
        tif.write(pixels[::2, ::2], subfiletype=1, **options)
    return path


@pytest.fixture
def series(tmp_path: Path) -> str:
    """Write images of two days, and return the pattern of their names."""
    for n, day in enumerate(("20220505", "20220510")):
        write(tmp_path / f"S_{day}.tif", pixels(n), extratags=geo_tags(0.0, 0.0))
    return str(tmp_path / "S_{time:%Y%m%d}.tif")


@pytest.fixture
def unsupported(folder: Path) -> Path:
    """Write a file with a compression that nobody here decodes (JBIG, 34661)."""
    path = folder / "jbig.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["Compression"].overwrite(34661)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an image of three pages, and two scenes whose names have dates."""
    monkeypatch.chdir(tmp_path)
    pages = np.arange(3 * 32 * 32, dtype=np.uint16).reshape(3, 32, 32)
    options = {"tile": (16, 16), "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "image.tif", pages, **options)
    (tmp_path / "scenes").mkdir()
    for day in ("20200101", "20200102"):
        tifffile.imwrite(tmp_path / "scenes" / f"S_{day}.tif", pages[0], **options)
    return tmp_path


@pytest.fixture
def scenes(folder: Path) -> Path:
    """Write four files of two days and two bands."""
    (folder / "scenes").mkdir()
    for day in ("20240101", "20240111"):
        for band in ("B02", "B03"):
            pixels = np.full((32, 32), int(band[1:]), np.uint16)
            tifffile.imwrite(folder / "scenes" / f"{day}_{band}.tif", pixels, metadata=None)
    return folder / "scenes"
