"""Files that the tests of stores share."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile
from store_images import STACK, TILES


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, **TILES)
    return path


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK[0], subifds=2, **TILES)
        writer.write(STACK[0, ::2, ::2], subfiletype=1, **TILES)
        writer.write(STACK[0, ::4, ::4], subfiletype=1, **TILES)
    return path
