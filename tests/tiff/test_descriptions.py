"""ImageJ's binary metadata, and the IFDs of cameras: what tifffile reads, and no error of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from ifds import As, Ifd, image, write_tiff

import tiffref
from tiffref.errors import MalformedTiff, MetadataWarning
from tiffref.io.source import LocalSource
from tiffref.tiff.descriptions import imagej_metadata
from tiffref.tiff.ifd import TiffReader

RAMP = np.arange(768, dtype="u1").reshape(3, 256)
ITEMS: dict[str, Any] = {
    "Info": "Größe", "Labels": ["one", "zwölf"], "Ranges": (0.0, 1.5, -3.0, 4e300),
    "LUTs": [RAMP, RAMP[::-1]], "ROI": b"Iout1", "Overlays": [b"Iout22", b"Iout"],
    "Properties": {"a": "b", "ç": "d"},
}  # fmt: skip


def kept_tags(path: Path) -> dict[str, Any]:
    return json.loads(tiffref.scan(path).group["image"].attributes["tiff_tags"])


@pytest.mark.parametrize("byteorder", "<>")
def test_imagej_metadata(tmp_path: Path, byteorder: Any) -> None:
    path, pixels = tmp_path / "a.tif", np.zeros((2, 16, 16), "u1")
    tifffile.imwrite(path, pixels, imagej=True, byteorder=byteorder, metadata=ITEMS)
    with tifffile.TiffFile(path) as tif:
        expected = tif.imagej_metadata
        kept = tif.pages[0].tags["IJMetadata"].value
    source = LocalSource(path)
    found = imagej_metadata(TiffReader(source).first, byteorder)
    source.close()
    np.testing.assert_equal(found, expected)
    assert kept_tags(path)["IJMetadata"]["Properties"] == kept["Properties"] == ITEMS["Properties"]


@pytest.mark.parametrize("counts", [[], [4], [12, 99, 4], [28, 6], [1 << 20, 6]])
@pytest.mark.parametrize("data", [b"IJIJ" + b"info\0\0\0\1" + b"\0a\0b\0c", b"JIJIofni", b"x"])
def test_damaged_imagej_metadata_is_left_as_it_is(
    tmp_path: Path, counts: list[int], data: bytes
) -> None:
    tags = {270: "ImageJ=1.54f\nimages=1\n", 50839: As(1, data)} | (
        {50838: counts} if counts else {}
    )
    path = tmp_path / "a.tif"
    write_tiff(path, [image(np.ones((8, 8), "u1"), tags, order=">")], order=">")
    assert (tiffref.zarr.ZarrTiffStore(path)[...] == 1).all()
    assert "IJMetadata" in kept_tags(path)


@pytest.mark.parametrize("order", "<>")
def test_exif_and_gps(tmp_path: Path, order: str) -> None:
    comment = b"UNICODE\0" + "Größe".encode("utf-16")
    exif = {33434: As(5, [0.01]), 36864: b"0232", 36867: "2020:01:02 03:04:05", 37510: comment,
            65000: 7}  # fmt: skip
    gps = {1: "N", 2: As(5, [51.0, 30.0, 12.5])}
    offsets = write_tiff(tmp_path / "exif", [Ifd(exif), Ifd(gps), Ifd({1: "R98"})], order=order)
    tags = dict(zip((34665, 34853, 40965), (As(4, at) for at in offsets), strict=True))
    path, prefix = tmp_path / "a.tif", (tmp_path / "exif").read_bytes()[8:]
    write_tiff(path, [image(np.ones((8, 8), "u1"), tags, order=order)], order=order, prefix=prefix)
    found = kept_tags(path)
    with tifffile.TiffFile(path) as tif:
        for name, code in (("ExifIFD", 34665), ("GPSIFD", 34853), ("InteroperabilityIFD", 40965)):
            expected = tif.pages[0].tags[code].value
            assert found[name] == json.loads(json.dumps(expected)), name
    assert found["ExifIFD"]["UserComment"] == "Größe"


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        (b"ASCII\0\0\0hello\0", "hello"),
        (b"JIS\0\0\0\0\0abc", {"base64": "SklTAAAAAABhYmM="}),
        (b"ASCII\0\0\0\xff", {"base64": "QVNDSUkAAAD/"}),
    ],
)
def test_comments_in_other_encodings(tmp_path: Path, comment: bytes, expected: Any) -> None:
    (at,) = write_tiff(tmp_path / "exif", [Ifd({37510: comment})])
    path, prefix = tmp_path / "a.tif", (tmp_path / "exif").read_bytes()[8:]
    write_tiff(path, [image(np.ones((8, 8), "u1"), {34665: As(4, at)})], prefix=prefix)
    assert kept_tags(path)["ExifIFD"] == {"UserComment": expected}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [34665, 34853, 40965])
def test_an_ifd_of_exif_that_is_cut_off_is_reported(tmp_path: Path, code: int, order: str) -> None:
    path, pixels = tmp_path / "a.tif", np.ones((8, 8), "u1")
    write_tiff(path, [image(pixels, {code: As(4, 1 << 30)}, order=order)], order=order)
    with pytest.warns(MetadataWarning, match=rf"\({code}\): the tag points to no IFD, got offset"):
        assert 1 << 30 in kept_tags(path).values()
    with pytest.raises(MalformedTiff, match=str(code)):
        tiffref.scan(path, strict=True)
    write_tiff(path, [image(pixels, {code: As(4, 0)}, order=order)], order=order)
    tiffref.scan(path, strict=True)  # 0: there is none
