"""`scan(progress=...)`: directories and bytes, for callbacks and on terminals."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile

import tiffref

N_PAGES = 30


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for n in range(N_PAGES):
            page = np.full((16, 16 + n % 2), n, "u2")
            tif.write(page, photometric="minisblack", metadata=None, contiguous=False)
    return path


@pytest.mark.parametrize("where", ["local", "file object", "remote"])
def test_directories_and_bytes_are_counted(image: Path, where: str) -> None:
    source: Any = str(image)
    if where == "file object":
        source = io.BytesIO(image.read_bytes())
    elif where == "remote":
        fs = fsspec.filesystem("memory")
        fs.pipe("/progress/a.tif", image.read_bytes())
        source = "memory://progress/a.tif"
    told: list[tuple[int, int]] = []
    references = tiffref.scan(source, progress=lambda *counts: told.append(counts))
    assert repr(references) == repr(tiffref.scan(source))
    n_directories, n_bytes = zip(*told, strict=True)
    assert list(n_directories) == sorted(n_directories)
    assert list(n_bytes) == sorted(n_bytes)
    assert n_directories[-1] == N_PAGES
    assert n_bytes[-1] > 0


def test_members_of_a_set_are_counted(tmp_path: Path) -> None:
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="16" SizeY="16" SizeZ="2" '
        'SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        '<TiffData FirstZ="0" IFD="0"><UUID FileName="0.ome.tif">urn:uuid:0</UUID></TiffData>'
        '<TiffData FirstZ="1" IFD="0"><UUID FileName="1.ome.tif">urn:uuid:1</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    for n in range(2):
        values = np.full((16, 16), n, "u1")
        tifffile.imwrite(tmp_path / f"{n}.ome.tif", values, description=text, metadata=None)
    told: list[tuple[int, int]] = []
    tiffref.scan(tmp_path / "0.ome.tif", progress=lambda *counts: told.append(counts))
    assert told[-1][0] == 2


def test_a_callback_can_end_a_scan(image: Path) -> None:
    def stop(n_directories: int, n_bytes: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        tiffref.scan(image, progress=stop)


def test_a_line_is_drawn_on_terminals_only(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    tiffref.scan(image, progress=True)
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    tiffref.scan(image)
    assert sys.stderr.getvalue() == ""
    tiffref.scan(image, progress=True)
    text = sys.stderr.getvalue()
    assert f"scanning {image}: " in text
    assert " directories, 0.0 MB" in text
    assert text.endswith("\r\x1b[K")
