"""Images with their levels and channels, from TIFFs and references of ours and of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import SourceError
from tiffref.viewers import open_images

OPTIONS = {"tile": (32, 32), "photometric": "minisblack"}
PIXELS = np.arange(2 * 96 * 64, dtype=np.uint16).reshape(2, 96, 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an OME-TIFF of a pyramid of two channels, and an image of one level."""
    metadata = {"axes": "CYX", "Channel": {"Name": ["nuclei", "actin"]}}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(PIXELS, subifds=1, metadata=metadata, **OPTIONS)
        tif.write(PIXELS[:, ::2, ::2], subfiletype=1, **OPTIONS)
        tif.write(PIXELS[0, :50], metadata={"axes": "YX"}, **OPTIONS)
    return tmp_path / "a.ome.tif"


@pytest.mark.parametrize("kind", ["tiff", "v2", "v3", "list"])
def test_every_image_has_its_levels(path: Path, kind: str) -> None:
    source = str(path)
    if kind in ("v2", "v3"):
        source = f"{path}.json"
        tiffref.scan(path).write_fsspec(source, zarr_format=int(kind[1]))
    first, second = open_images([source] if kind == "list" else source)
    for level, expected in zip(first.levels, (PIXELS, PIXELS[:, ::2, ::2]), strict=True):
        np.testing.assert_array_equal(level, expected)
    assert [one["label"] for one in first.channels] == ["nuclei", "actin"]
    (level,) = second.levels
    np.testing.assert_array_equal(np.squeeze(level), PIXELS[0, :50])


def test_several_files_are_one_image(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{n}.tif") for n in range(2)]
    for name, pixels in zip(names, PIXELS, strict=True):
        tifffile.imwrite(name, pixels, metadata=None, **OPTIONS)
    (image,) = open_images(names)
    np.testing.assert_array_equal(image.levels[0], PIXELS)
    assert image.channels == ()


def test_foreign_references_list_no_series(path: Path) -> None:
    document = tiffref.scan(path, series=0).to_kerchunk()
    attributes = json.loads(document["refs"][".zattrs"])
    foreign = {name: value for name, value in attributes.items() if "tiffref" not in name}
    document["refs"][".zattrs"] = json.dumps(foreign)
    target = path.with_name("foreign.json")
    target.write_text(json.dumps(document))
    (image,) = open_images(str(target))
    assert [level.shape for level in image.levels] == [(2, 96, 64), (2, 48, 32)]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_images("gone.tif")
