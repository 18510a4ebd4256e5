"""The napari reader gives levels, channels, colours and sizes, and napari's manifest is right."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.viewers.napari import get_reader, read_layers

OPTIONS = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}


@pytest.fixture(params=["<", ">"])
def cells(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.arange(2 * 256 * 192, dtype=np.uint16).reshape(2, 256, 192)
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.25,
        "Channel": {"Name": ["nuclei", "actin"], "Color": [0x0000FFFF, 0x00FF00FF]},
    }
    path = tmp_path / "cells.ome.tif"
    with tifffile.TiffWriter(path, ome=True, byteorder=request.param) as tif:
        tif.write(pixels, subifds=1, metadata=metadata, **OPTIONS)
        tif.write(pixels[:, ::2, ::2], subfiletype=1, **OPTIONS)
    return path, pixels


def test_a_pyramid_is_one_layer_of_all_levels(cells: tuple[Path, np.ndarray]) -> None:
    path, pixels = cells
    ((data, options, kind),) = read_layers(str(path))
    assert kind == "image"
    assert [level.shape for level in data] == [(2, 256, 192), (2, 128, 96)]
    np.testing.assert_array_equal(data[0].compute(), pixels)
    assert options["multiscale"] and options["channel_axis"] == 0
    assert options["name"] == ["nuclei", "actin"]
    assert options["colormap"] == ["#0000FF", "#00FF00"]
    assert options["contrast_limits"] == [None, None]  # those of the pixels
    assert options["scale"] == [0.25, 0.5] and options["translate"] == [0.0, 0.0]
    assert options["units"] == ["micrometer"] * 2 and options["axis_labels"] == ["y", "x"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_references_give_the_same_layers(
    cells: tuple[Path, np.ndarray], tmp_path: Path, zarr_format: int
) -> None:
    path, pixels = cells
    document = tmp_path / "cells.json"
    tiffref.scan(path).write_fsspec(document, zarr_format=zarr_format)
    ((data, options, _),) = get_reader(str(document))(str(document))
    np.testing.assert_array_equal(data[1].compute(), pixels[:, ::2, ::2])
    assert options["name"] == ["nuclei", "actin"]
    assert options["colormap"] == ["#0000FF", "#00FF00"]
    assert options["scale"] == [0.25, 0.5] and options["axis_labels"] == ["y", "x"]


@pytest.mark.parametrize("axes", ["CYX", "ZCYX"])
@pytest.mark.parametrize("zarr_format", [None, 2, 3])
def test_channels_have_the_contrast_and_colours_of_the_file(
    tmp_path: Path, zarr_format: int | None, axes: str
) -> None:
    path = tmp_path / "a.tif"
    ramp = np.arange(256, dtype=np.uint8)
    metadata = {
        "axes": axes,
        "mode": "composite",
        "Ranges": (100.0, 900.0, 0.0, 65535.0),
        "LUTs": [np.stack([ramp, ramp, 0 * ramp]), np.stack([0 * ramp, ramp, ramp])],
    }
    pixels = np.zeros((3, 2, 20, 24)[4 - len(axes) :], np.uint16)
    tifffile.imwrite(path, pixels, imagej=True, metadata=metadata)
    if zarr_format:
        tiffref.scan(path).write_fsspec(tmp_path / "a.json", zarr_format=zarr_format)
        path = tmp_path / "a.json"
    ((_, options, _),) = read_layers(str(path))
    assert options["name"] == ["channel 0", "channel 1"]
    assert options["contrast_limits"] == [[100.0, 900.0], None]
    assert options["colormap"] == ["#FFFF00", "#00FFFF"]


@pytest.mark.parametrize("planes", [1, 3])
def test_colour_images_are_one_layer(tmp_path: Path, planes: int) -> None:
    pixels = np.arange(planes * 32 * 40 * 3, dtype=np.uint8).reshape(planes, 32, 40, 3).squeeze()
    tifffile.imwrite(tmp_path / "rgb.tif", pixels, photometric="rgb")
    ((data, options, _),) = read_layers(str(tmp_path / "rgb.tif"))
    assert options["rgb"] is True and "channel_axis" not in options
    assert len(options["scale"]) == pixels.ndim - 1
    np.testing.assert_array_equal(data.compute(), pixels)


@pytest.mark.parametrize("zarr_format", [None, 2])
def test_further_images_have_their_colours_and_channels(
    tmp_path: Path, zarr_format: int | None
) -> None:
    pixels = np.arange(6 * 64 * 48, dtype=np.uint8).reshape(6, 64, 48)
    colours = np.moveaxis(pixels[:3], 0, -1)
    path = tmp_path / "cells.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(pixels[0], photometric="minisblack")
        tif.write(colours, photometric="rgb", metadata={"PhysicalSizeX": 0.5})
        tif.write(pixels[4:], photometric="minisblack", metadata={"axes": "CYX"})
    if zarr_format is not None:
        document = tmp_path / "cells.json"
        tiffref.scan(path).write_fsspec(document, zarr_format=zarr_format)
        path = document
    _, (rgb, of_rgb, _), (split, of_split, _) = read_layers(str(path))
    assert of_rgb["rgb"] and of_rgb["axis_labels"] == of_split["axis_labels"] == ["y", "x"]
    np.testing.assert_array_equal(rgb.compute(), colours)
    assert of_rgb["scale"] == [1.0, 0.5]
    assert of_split["channel_axis"] == 0
    assert of_split["name"] == ["Image2: channel 0", "Image2: channel 1"]
    np.testing.assert_array_equal(split.compute(), pixels[4:])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plates_have_a_layer_for_each_channel(tmp_path: Path, zarr_format: int) -> None:
    ramp = np.arange(256, dtype=np.uint8)
    metadata = {"axes": "ZCYX", "mode": "composite", "LUTs": [np.stack([ramp] * 3)] * 2}
    for well in ("A01", "B01"):
        pixels = np.zeros((3, 2, 20, 24), np.uint16)
        tifffile.imwrite(tmp_path / f"plane_{well}_DAPI.tif", pixels[0, 0], compression="zlib")
        tifffile.imwrite(tmp_path / f"stack_{well}.tif", pixels, imagej=True, metadata=metadata)
    for pattern, names, colours in (
        ("plane_{well}_{channel}", [["A/1/0/image: DAPI"], ["B/1/0/image: DAPI"]], None),
        (
            "stack_{well}",
            [[f"{w}/1/0/image: channel {n}" for n in (0, 1)] for w in "AB"],
            ["#FFFFFF", "#FFFFFF"],
        ),
    ):
        document = tmp_path / "plate.json"
        references = tiffref.scan_sequence(tmp_path / f"{pattern}.tif", layout="hcs")
        references.write_fsspec(document, zarr_format=zarr_format)
        layers = read_layers(str(document))
        assert [options["name"] for _, options, _ in layers] == names
        assert all(options.get("colormap") == colours for _, options, _ in layers)


def test_several_files_are_a_stack(tmp_path: Path) -> None:
    names = [str(tmp_path / f"t{n}.tif") for n in range(3)]
    for n, name in enumerate(names):
        tifffile.imwrite(name, np.full((8, 9), n, np.uint8))
    ((data, options, _),) = read_layers(names)
    assert data.shape == (3, 8, 9) and len(options["scale"]) == 3
    assert data[:, 0, 0].compute().tolist() == [0, 1, 2]


def test_other_files_are_left_to_other_readers(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"a": 1}))
    assert get_reader(str(other)) is None
    assert get_reader(str(tmp_path)) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # npe2's own
def test_napari_finds_the_reader() -> None:
    npe2 = pytest.importorskip("npe2")
    (entry,) = (one for one in entry_points(group="napari.manifest") if one.name == "tiffref")
    manifest = npe2.PluginManifest.from_file(
        Path(tiffref.__file__).parent / "viewers" / "napari.yaml"
    )
    assert entry.value == "tiffref.viewers:napari.yaml"
    (command,) = manifest.contributions.commands
    assert command.python_name == "tiffref.viewers.napari:get_reader"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # napari's own
def test_napari_shows_the_layers(cells: tuple[Path, np.ndarray]) -> None:
    components = pytest.importorskip("napari.components")
    path, pixels = cells
    viewer = components.ViewerModel()
    for data, options, _ in read_layers(str(path)):
        viewer.add_image(data, **options)
    assert [layer.name for layer in viewer.layers] == ["nuclei", "actin"]
    np.testing.assert_array_equal(viewer.layers[1].data[0], pixels[1])
    assert viewer.layers[0].scale.tolist() == [0.25, 0.5]
