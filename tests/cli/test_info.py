"""`tiffref info` explains each codec: what it stands for, why, and who reads it."""

from __future__ import annotations

import re

import imagecodecs
import numpy as np
import pytest
import tifffile

from tiffref.cli import main

DATA = np.arange(64 * 48, dtype="u2").reshape(64, 48)


def told(path, capsys):
    assert main(["info", str(path)]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("how", "meaning", "readers"),
    [
        ({}, "none: no compression", "zarrita.js"),
        ({"compression": "zlib"}, "zlib: TIFF compression deflate (Adobe)", "GDAL"),
        (
            {"compression": "zlib", "predictor": True},
            "imagecodecs_delta + zlib: TIFF compression deflate (Adobe), horizontal predictor",
            "with imagecodecs-numcodecs installed",
        ),
        (
            {"bitspersample": 12, "rowsperstrip": 20},
            "tiffref_segment: no compression; samples are packed or not of a NumPy type",
            "with tiffref installed",
        ),
    ],
)
def test_one_codec(tmp_path, capsys, how, meaning, readers):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DATA, metadata=None, **how)
    text = told(path, capsys)
    assert f"{meaning} opens in " in text
    assert readers in text


def test_codecs_of_one_name_that_differ(tmp_path, capsys):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(DATA, bitspersample=12, metadata=None)
        # a strip with more than its rows: codecs of others take LZW that ends exactly
        strips = iter([imagecodecs.lzw_encode(DATA.tobytes())])
        tif.write(strips, shape=(32, 48), dtype=DATA.dtype, compression="lzw", metadata=None)
        tif.write(DATA[:16], metadata=None)
    text = told(path, capsys)
    assert "tiffref_segment of image: no compression; samples are packed" in text
    assert "tiffref_segment of image_s1: TIFF compression LZW; segments of LZW may" in text
    assert "none: no compression opens" in text


def lines_of(path, capsys):
    assert main(["info", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in out.splitlines()
                if "  " in line.strip())  # fmt: skip


def test_what_a_microscopist_looks_for_first(tmp_path, capsys):
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
        "TimeIncrement": 0.0,  # as Micro-Manager writes it; no reason to warn
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    tifffile.imwrite(path, np.stack([DATA, DATA]), ome=True, metadata=metadata,
                     photometric="minisblack")  # fmt: skip
    lines = lines_of(path, capsys)
    assert lines["pixel size"] == "0.25 x 0.5 micrometer"
    assert lines["extent"] == "12 x 32 micrometer"
    assert lines["c"] == "DAPI, GFP"
    assert not {"x", "y", "channels"} & set(lines)


def test_channels_without_names_are_not_told(tmp_path, capsys):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.stack([DATA, DATA]), ome=True, metadata={"axes": "CYX"},
                     photometric="minisblack")  # fmt: skip
    assert not {"c", "channels"} & set(lines_of(path, capsys))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of older rasterio's own
def test_what_is_told_of_a_map(tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    profile = {"driver": "GTiff", "width": 48, "height": 64, "dtype": "uint8"}
    transform = rasterio.transform.from_origin(0, 64, 1, 1)
    # a system without parameters in CF: its name is in its WKT only
    with rasterio.open(tmp_path / "a.tif", "w", **profile, count=3, photometric="rgb", crs=3857,
                       transform=transform) as image:  # fmt: skip
        image.write(np.zeros((3, 64, 48), "u1"))
    lines = lines_of(tmp_path / "a.tif", capsys)
    assert lines["crs"] == "EPSG:3857 (WGS 84 / Pseudo-Mercator)"
    assert lines["pixel size"] == "1 x 1"
    assert lines["color_interpretation"] == "red, green, blue"
    assert "band" not in lines
    points = [rasterio.control.GroundControlPoint(n, n, n, n) for n in range(3)]
    with rasterio.open(tmp_path / "b.tif", "w", **profile, count=1, gcps=points, crs=4326) as image:
        image.write(np.zeros((1, 64, 48), "u1"))
    lines = lines_of(tmp_path / "b.tif", capsys)
    assert (lines["crs"], lines["control points"]) == ("EPSG:4326 (WGS 84)", "3")
