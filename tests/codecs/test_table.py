"""Every TIFF compression has its row, and each row says all it must."""

from __future__ import annotations

import pytest
import tifffile

from tiffref.codecs.table import COMPRESSIONS, check_supported, compression_of, jpeg_colorspaces
from tiffref.errors import UnsupportedTiff
from tiffref.model.codec import SegmentCodec


def test_every_row_decodes_or_gives_its_reason():
    for code, row in COMPRESSIONS.items():
        assert row.code == code
        assert (row.decode is None) == bool(row.reason) == (row.kind == "")
        assert row.kind or row.zarr2 is None


def test_all_that_tifffile_decodes_is_decoded():
    for compression in tifffile.COMPRESSION:
        try:
            tifffile.TIFF.DECOMPRESSORS[compression]
        except KeyError:
            continue
        row = compression_of(compression)
        assert row.decode is not None or compression == 48124, row


@pytest.mark.parametrize("code", [34661, 48124, 32895, 4711])
def test_unsupported_compressions_give_a_reason(code):
    codec = SegmentCodec((1, 1, 1, 1), "|u1", code)
    with pytest.raises(UnsupportedTiff, match=compression_of(code).reason):
        check_supported(codec)


def test_jpeg_colorspaces_equal_those_of_tifffile():
    for photometric, jfif in ((0, True), (1, False), (2, True), (2, False), (5, True), (6, False)):
        for extra in ((), (2,)):
            found = jpeg_colorspaces(photometric, False, extra, jfif)
            expected = tifffile.tifffile.jpeg_decode_colorspace(photometric, 1, extra, jfif)
            assert (found.get("colorspace"), found.get("outcolorspace")) == expected
    assert jpeg_colorspaces(2, True, (), False) == {"colorspace": 1, "outcolorspace": 1}
