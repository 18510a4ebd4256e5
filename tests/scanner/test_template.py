"""Files told by another one: never where a parser might see a difference."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.scanner.imprint import take_imprint
from tiffref.scanner.skeleton import read_skeleton
from tiffref.scanner.source import LocalSource
from tiffref.scanner.template import Template, make_template


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.tif"
    data = np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)
    geo = (1, 1, 0, 1, 1024, 0, 1, 1)
    tags = [(34735, "H", len(geo), geo, True), (33550, "d", 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(path, data, tile=(32, 32), compression="zlib", metadata=None, extratags=tags)
    return path


def entry_of(path: Path, code: int) -> int:
    """Give the position of a tag's entry in the first directory."""
    with tifffile.TiffFile(path) as tif:
        return tif.pages.first.tags[code].offset


def changed(path: Path, position: int, data: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[position : position + len(data)] = data
    other = path.with_name("other.tif")
    other.write_bytes(whole)
    return other


def template_of(path: Path) -> Template | None:
    references = tiffref.scan(path)
    skeleton = read_skeleton(LocalSource(path))
    return make_template(dict(references.group.arrays()), references.series, skeleton)


def signature_of(path: Path) -> tuple | None:
    return read_skeleton(LocalSource(path)).signature


def test_a_tag_that_is_there_twice_is_irregular(image: Path) -> None:
    twice = changed(image, entry_of(image, 33550), struct.pack("<H", 34735))
    assert signature_of(image) is not None
    assert signature_of(twice) is None


def test_the_type_of_a_georeference_counts(image: Path) -> None:
    # of another type tifffile is not shown it at all, whatever its numbers
    other = changed(image, entry_of(image, 34735) + 2, struct.pack("<HI", 4, 4))
    assert signature_of(other) not in (None, signature_of(image))


def test_what_gdal_declares_counts(tmp_path: Path) -> None:
    files = []
    for layout in (b"LAYOUT=IFDS_BEFORE_DATA", b"LAYOUT=SOMETHING_ELSE__"):
        path = tmp_path / f"{len(files)}.tif"
        tifffile.imwrite(path, np.zeros((16, 16), "u1"), tile=(16, 16), metadata=None)
        data = bytearray(path.read_bytes())
        ghost = b"GDAL_STRUCTURAL_METADATA_SIZE=000024 bytes\n" + layout + b"\n"
        (first,) = struct.unpack_from("<I", data, 4)
        ifd = data[first : first + 2 + 12 * struct.unpack_from("<H", data, first)[0] + 4]
        place = len(data) + len(ghost) + 64
        path.write_bytes(data[:4] + struct.pack("<I", place) + ghost + data[8 + len(ghost) :]
                         + bytes(place - len(data)) + ifd)  # fmt: skip
        files.append(read_skeleton(LocalSource(path)))
    whole, other = files
    assert (whole.is_whole, other.is_whole) == (True, False)
    assert whole.signature != other.signature


def test_more_directories_than_asked_for_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, np.zeros((3, 16, 16), "u1"), metadata=None, compression="zlib",
                     photometric="minisblack")  # fmt: skip
    there = LocalSource(path)
    assert read_skeleton(there, 3).signature is not None
    assert read_skeleton(there, 2).signature is None


@pytest.mark.parametrize("offset", [2**32 - 1, 10**6])
def test_segments_behind_the_end_are_not_told(image: Path, offset: int) -> None:
    skeleton = read_skeleton(LocalSource(image))
    template = template_of(image)
    assert template is not None
    assert template.arrays_of(skeleton) is not None
    with tifffile.TiffFile(image) as tif:
        place = tif.pages.first.tags[324].valueoffset
    other = changed(image, place, struct.pack("<I", offset))
    assert template.arrays_of(read_skeleton(LocalSource(other))) is None


def test_an_end_that_wraps_around_is_behind_the_end(tmp_path: Path) -> None:
    path = tmp_path / "big.tif"
    data = np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)
    tifffile.imwrite(path, data, tile=(32, 32), compression="zlib", metadata=None, bigtiff=True)
    template = template_of(path)
    assert template is not None
    with tifffile.TiffFile(path) as tif:
        place = tif.pages.first.tags[324].valueoffset
        length = tif.pages.first.databytecounts[0]
    # offset and length come to 2**64 + 4, which is 4
    other = changed(path, place, struct.pack("<Q", 2**64 - length + 4))
    assert template.arrays_of(read_skeleton(LocalSource(other))) is None


def test_segments_of_no_length_are_not_told(tmp_path: Path) -> None:
    """A strip of which a writer left out the length is there, and is not missing."""
    for n in range(3):
        path = tmp_path / f"{n}.tif"
        tifffile.imwrite(path, np.full((64, 64), 7, np.uint8), metadata=None)
        with tifffile.TiffFile(path) as tif:
            places = [tif.pages.first.tags[code].valueoffset for code in (273, 279)]
        with path.open("r+b") as file:
            for place in places[n > 1 :]:
                file.seek(place)
                file.write(bytes(4))
        told = tiffref.scan(path)
        full = tiffref.scan(path, strict=True)
        assert told.group["image"].manifest == full.group["image"].manifest
    assert full.group["image"].manifest.length.sum() == 64 * 64


def test_a_beginning_that_is_cut_off_is_told_as_ever(image: Path, tmp_path: Path) -> None:
    there = LocalSource(image)
    imprint = take_imprint(there, read_skeleton(there))
    assert imprint is not None
    data = there.read(0, imprint.length)
    assert imprint.match(data, there.source) is not None
    for n in (imprint.length - 1, imprint.length // 2, 1, 0):
        assert imprint.match(data[:n], there.source) is None
