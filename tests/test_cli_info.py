"""`tiffref info` explains each codec: what it stands for, why, and who reads it."""

from __future__ import annotations

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
        tif.write(DATA[:32], compression="lzw", metadata=None)
        tif.write(DATA[:16], metadata=None)
    text = told(path, capsys)
    assert "tiffref_segment of image: no compression; samples are packed" in text
    assert "tiffref_segment of image_s1: TIFF compression LZW; no codec of others" in text
    assert "none: no compression opens" in text
