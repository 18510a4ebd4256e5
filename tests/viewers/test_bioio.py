"""The bioio reader gives scenes, levels, channels and sizes of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref

exceptions = pytest.importorskip("bioio_base.exceptions")
bioio = pytest.importorskip("tiffref.viewers.bioio")

OPTIONS = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}


@pytest.fixture(params=["tiff", 2, 3, "parquet"], ids=["tiff", "v2", "v3", "parquet"])
def cells(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.arange(2 * 3 * 64 * 96, dtype=np.uint16).reshape(2, 3, 64, 96)
    metadata = {
        "axes": "CZYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.25,
        "PhysicalSizeZ": 2.0,
        "Channel": {"Name": ["nuclei", "actin"]},
    }
    path = tmp_path / "cells.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(pixels, subifds=1, metadata=metadata, **OPTIONS)
        tif.write(pixels[..., ::2, ::2], subfiletype=1, **OPTIONS)
    if request.param == "parquet":
        tiffref.scan(path).write_fsspec(tmp_path / "cells.parq")
        path = tmp_path / "cells.parq"
    elif request.param != "tiff":
        tiffref.scan(path).write_fsspec(tmp_path / "cells.json", zarr_format=request.param)
        path = tmp_path / "cells.json"
    return path, pixels


def test_scenes_levels_and_sizes(
    cells: tuple[Path, np.ndarray], request: pytest.FixtureRequest
) -> None:
    path, pixels = cells
    is_tree = "v3" in request.node.callspec.id  # which has a group for each level
    reader = bioio.Reader(path)
    assert reader.is_supported_image(path)
    assert reader.scenes == (
        ("0/image",) if is_tree else ("image",)
    ) and reader.resolution_levels == (0, 1)
    assert reader.dims.order == "CZYX"
    assert reader.channel_names == ["nuclei", "actin"]
    assert tuple(reader.physical_pixel_sizes) == (2.0, 0.25, 0.5)
    np.testing.assert_array_equal(reader.get_image_data("ZYX", C=1), pixels[1])
    reader.set_resolution_level(1)
    np.testing.assert_array_equal(reader.data, pixels[..., ::2, ::2])
    assert tuple(reader.physical_pixel_sizes) == (2.0, 0.5, 1.0)


@pytest.mark.parametrize("zarr_format", [None, 2, 3])
def test_each_image_is_a_scene(tmp_path: Path, zarr_format: int | None) -> None:
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.zeros((8, 9), np.uint8), photometric="minisblack")
        tif.write(np.ones((5, 6, 3), np.uint8), photometric="rgb")
    if zarr_format is not None:
        tiffref.scan(path).write_fsspec(tmp_path / "two.json", zarr_format=zarr_format)
        path = tmp_path / "two.json"
    reader = bioio.Reader(path)
    assert len(reader.scenes) == 2
    reader.set_scene(1)
    assert reader.dims.order == "YXS" and reader.data.shape == (5, 6, 3)


def test_channels_without_names_are_numbered(tmp_path: Path) -> None:
    pixels = np.zeros((3, 2, 20, 24), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "ZCYX"})
    tiffref.scan(tmp_path / "a.tif").write_fsspec(tmp_path / "a.json")
    for name in ("a.tif", "a.json"):
        reader = bioio.Reader(tmp_path / name)
        assert reader.channel_names == ["Channel:image:0", "Channel:image:1"]
        assert reader.get_image_data("CZYX").shape == (2, 3, 20, 24)


@pytest.mark.parametrize("zarr_format", [None, 2, 3])
@pytest.mark.parametrize(
    ("axes", "sizes", "order"),
    [("QYX", (3,), "ZYX"), ("TEZYX", (2, 4, 3), "TCZYX"), ("HYX", (4,), "TYX"),
     ("QPYX", (2, 3), "CZYX"), ("QPTYX", (2, 3, 2), "CZTYX")],
)  # fmt: skip
def test_no_plane_is_left_out(
    tmp_path: Path, axes: str, sizes: tuple[int, ...], order: str, zarr_format: int | None
) -> None:
    """BioImage shows only the first plane of dimensions that it does not have."""
    data = np.random.default_rng(0).integers(0, 99, (*sizes, 20, 24), np.uint16)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, data, metadata={"axes": axes}, photometric="minisblack")
    expected = tifffile.imread(path)
    if zarr_format is not None:
        tiffref.scan(path).write_fsspec(tmp_path / "a.json", zarr_format=zarr_format)
        path = tmp_path / "a.json"
    reader = bioio.Reader(path)
    assert reader.dims.order == order
    np.testing.assert_array_equal(reader.data, expected)


@pytest.mark.parametrize("zarr_format", [None, 2])
def test_positions_are_scenes(tmp_path: Path, zarr_format: int | None) -> None:
    data = np.arange(2 * 2 * 3 * 20 * 24, dtype=np.uint16).reshape(2, 2, 3, 20, 24)
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "TRCYX"}  # positions as Micro-Manager has them
    tifffile.imwrite(path, data, metadata=metadata, photometric="minisblack")
    if zarr_format is not None:
        tiffref.scan(path).write_fsspec(tmp_path / "a.json", zarr_format=zarr_format)
        path = tmp_path / "a.json"
    reader = bioio.Reader(path)
    assert reader.scenes == ("image R0", "image R1")
    for n in range(2):
        reader.set_scene(n)
        np.testing.assert_array_equal(reader.get_image_data("TCYX"), data[:, n])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tif"
    path.write_bytes(b"not a TIFF at all")
    assert not bioio.Reader.is_supported_image(path)
    assert not bioio.Reader.is_supported_image(tmp_path)
    with pytest.raises(exceptions.UnsupportedFileFormatError, match="tiffref"):
        bioio.Reader(path)


def test_bioio_finds_the_reader(cells: tuple[Path, np.ndarray]) -> None:
    found = pytest.importorskip("bioio.plugins").get_plugins(use_cache=False)
    readers = [one.metadata.get_reader() for one in found[".svs"]]
    assert bioio.Reader in readers
