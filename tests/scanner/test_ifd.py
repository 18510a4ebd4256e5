"""Raw directories against tifffile."""

import io

import numpy as np
import pytest
import tifffile

from tiffref.errors import MalformedTiff
from tiffref.scanner.ifd import (
    Header,
    declares_whole_tiles,
    parse_header,
    read_array,
    read_declared,
    read_entries,
)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_entries_equal_those_of_tifffile(bigtiff, byteorder):
    buffer = io.BytesIO()
    data = np.zeros((100, 90), "u2")
    tifffile.imwrite(buffer, data, tile=(16, 16), bigtiff=bigtiff, byteorder=byteorder)
    raw = buffer.getvalue()

    def read(offset, length):
        return raw[offset : offset + length]

    header = parse_header(raw[:16])
    assert (header.byteorder, header.is_big) == (byteorder, bigtiff)
    entries, following = read_entries(read, header, header.first_ifd)
    assert following == 0
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as tif:
        page = tif.pages.first
        assert [e.code for e in entries] == [tag.code for tag in page.tags]
        assert [e.value_offset for e in entries] == [tag.valueoffset for tag in page.tags]
        offsets = next(e for e in entries if e.code == 324)
        assert read_array(read, header, offsets).tolist() == list(page.dataoffsets)


@pytest.mark.parametrize("data", [b"", b"II", b"PK\3\4aaaa", b"II+\0\x08\0\0\0"])
def test_what_is_no_header(data):
    with pytest.raises(MalformedTiff):
        parse_header(data)


@pytest.mark.parametrize("data", [b"II*\0", b"MM\0*\0\0\0", b"II+\0\x08\0\0\0"])
def test_a_header_that_is_cut_off_is_a_tiff_still(data):
    with pytest.raises(MalformedTiff, match=f"header is cut off, got {len(data)} bytes"):
        parse_header(data)


def test_an_unreadable_directory_has_no_entries():
    header = parse_header(b"II*\0\x08\0\0\0")
    assert read_entries(lambda offset, length: b"", header, 8) == ([], 0)
    assert read_entries(lambda offset, length: b"\xff" * length, header, 8) == ([], 0)


@pytest.mark.parametrize("is_big", [False, True])
def test_what_gdal_declares_lies_before_the_first_directory(is_big):
    start = 16 if is_big else 8
    text = b"GDAL_STRUCTURAL_METADATA_SIZE=000024 bytes\nLAYOUT=IFDS_BEFORE_DATA\n"
    raw = bytes(start) + text + b"directories"

    def read(offset, length):
        return raw[offset : offset + length]

    declared = read_declared(read, Header("<", is_big, start + len(text)))
    assert (declared, declares_whole_tiles(declared)) == (text, True)
    assert read_declared(read, Header("<", is_big, start - 8)) == b""
    assert not declares_whole_tiles(read_declared(read, Header("<", is_big, start + 44)))
    raw = bytes(start) + b"anything else LAYOUT=IFDS_BEFORE_DATA"
    assert read_declared(read, Header("<", is_big, len(raw))) == b""
