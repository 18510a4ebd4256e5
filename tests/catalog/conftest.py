"""Files and a catalog that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from archive import write_archive, write_image

import tiffref.catalog as catalog


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the files of a catalog."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, 12)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a catalog of two days of two tiles, with all that can be made of it."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("built")
    for n, (day, tile) in enumerate((d, t) for d in (1, 2) for t in ("A", "B")):
        x = 300000.0 + 960 * (tile == "B")
        write_image(folder / "in" / f"S_{tile}_2022050{day}.tif", x=x, value=n + 1)
    catalog.build(
        str(folder / "in" / "S_{tile}_{time:%Y%m%d}.tif"), folder / "c",
        stack=True, group_by=["tile"], stac=True,
    )  # fmt: skip
    return folder
