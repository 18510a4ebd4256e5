"""The reader of directories: both byte orders, BigTIFF, chains, and what does not hold in them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tiffref.errors import MalformedTiff
from tiffref.io.source import ByteSource, FileObjectSource, LocalSource
from tiffref.tiff.ifd import TiffReader, parse_header
from tiffref.tiff.pages import Pages

DIALECTS = [("<", False), (">", False), ("<", True), (">", True)]


def directories(order: str, is_big: bool, chain: Sequence[Sequence[tuple[int, int, int, int]]],
                last: int = 0) -> bytes:  # fmt: skip
    """Build a file of directories of (tag, type, count, value or offset), 200 bytes apart."""
    point, room = ("Q", 8) if is_big else ("I", 4)
    head = struct.pack(f"{order}HHH", 43, 8, 0) if is_big else struct.pack(f"{order}H", 42)
    out = bytearray((b"II" if order == "<" else b"MM") + head + struct.pack(order + point, 200))
    for n, entries in enumerate(chain):
        out = out.ljust(200 * (n + 1), b"\0")
        out += struct.pack(f"{order}{'Q' if is_big else 'H'}", len(entries))
        for code, kind, count, value in entries:
            form = {1: "B", 3: "H", 4: "I"}[kind] if count == 1 else point
            out += struct.pack(f"{order}HH{point}", code, kind, count)
            out += struct.pack(order + form, value).ljust(room, b"\0")
        out += struct.pack(order + point, 200 * (n + 2) if n + 1 < len(chain) else last)
    return bytes(out)


def opened(data: bytes) -> TiffReader:
    return TiffReader(FileObjectSource(io.BytesIO(data)))


@pytest.mark.parametrize(("order", "is_big"), DIALECTS)
def test_classic_and_bigtiff_in_both_byte_orders(order: str, is_big: bool) -> None:
    data = directories(order, is_big, [[(256, 3, 1, 20), (257, 4, 1, 70000)], [(256, 1, 1, 7)]])
    reader = opened(data)
    assert reader.chain() == [200, 400]
    assert reader.first.get(256) == 20
    assert reader.first.get(257) == 70000
    second = reader.directory(400)
    assert second is not None
    assert second.get(256) == b"\x07"
    assert second.name == "1"
    assert reader.findings == []
    assert reader.n_reads == 2


@pytest.mark.parametrize("n_ifds", [3, 300])
@pytest.mark.parametrize(("order", "is_big"), DIALECTS)
def test_ifds_that_were_not_written_completely_are_reported(
    tmp_path: Path, order: str, is_big: bool, n_ifds: int
) -> None:
    """As in a file to which a download gave its length at the start; the IFDs behind are lost."""
    path, one = tmp_path / "a.tif", [(256, 3, 1, 20), (257, 3, 1, 30)]
    whole = directories(order, is_big, [one] * n_ifds)
    n_last = 200 * (n_ifds - 1)
    n_head, n_entry = (8, 20) if is_big else (2, 12)
    for n_written in (0, n_head, n_head + 5, n_head + n_entry):
        path.write_bytes(whole[: n_last + n_written] + bytes(1000))
        reader = TiffReader(LocalSource(path))
        assert len(reader.chain()) == n_ifds - 1
        Pages(reader)
        finding = reader.findings[0]
        assert (finding.ifd, finding.loses_pixels) == (str(n_ifds - 2), True)
        assert "not written completely" in finding.what
    path.write_bytes(whole)
    reader = TiffReader(LocalSource(path))
    assert len(reader.chain()) == n_ifds
    assert reader.findings == []


@pytest.mark.parametrize("dtype", ["u1", "f4"])
@pytest.mark.parametrize(("order", "is_big"), DIALECTS)
def test_values_equal_those_of_tifffile(
    tmp_path: Path, order: str, is_big: bool, dtype: str
) -> None:
    path = tmp_path / "a.tif"
    tags = [
        (65000, "s", 0, "text é".encode(), False),
        (65001, "d", 3, (1.5, -2.0, 3.25), False),
        (65002, "H", 2000, tuple(range(2000)), False),
        (65003, "2I", 1, (1, 3), False),
        (65004, "B", 1, b"\x05", False),
        (65005, "h", 2, (-3, 4), False),
    ]
    image = np.zeros((40, 30), dtype)
    tifffile.imwrite(
        path, image, byteorder=order, bigtiff=is_big, tile=(16, 16), extratags=tags,
        resolution=(3, 4), description="hello", metadata=None,
    )  # fmt: skip
    one = TiffReader(LocalSource(path)).first
    with tifffile.TiffFile(path) as tif:
        for tag in tif.pages.first.tags:
            expected, got = tag.value, one.get(tag.code)
            if isinstance(expected, np.ndarray):
                assert np.array_equal(got, expected)
            else:
                assert got == expected, tag.code
                assert isinstance(got, tuple) == isinstance(expected, tuple)


@pytest.mark.parametrize(("order", "is_big"), DIALECTS)
@pytest.mark.parametrize("last", [200, 10**6, 5000])
def test_an_endless_chain_is_a_finding(order: str, is_big: bool, last: int) -> None:
    chain = [[(256, 3, 1, n)] for n in range(3)]
    reader = opened(directories(order, is_big, chain, last))
    assert reader.chain() == [200, 400, 600]
    (found,) = reader.findings
    assert found.tag == "next IFD"
    assert found.ifd == "2"
    assert found.loses_pixels == (last != 200)
    assert str(last) in str(found.to_error())


@pytest.mark.parametrize("last", [0, 200, 10**6])
def test_a_long_chain_is_followed_in_bulk(tmp_path: Path, last: int) -> None:
    chain = [[(256, 3, 1, 1)] for _ in range(500)]
    path = tmp_path / "long.tif"
    path.write_bytes(directories("<", False, chain, last))
    reader = TiffReader(LocalSource(path))
    assert reader.chain() == [200 * (n + 1) for n in range(500)]
    assert [one.ifd for one in reader.findings] == ["499"] * bool(last)
    assert reader.n_reads < 20


def test_values_outside_the_file() -> None:
    reader = opened(directories("<", False, [[(256, 3, 1, 20), (270, 1, 90, 10**6)]]))
    assert 270 not in reader.first
    (found,) = reader.findings
    assert (found.tag, found.loses_pixels) == (270, False)


def test_the_first_of_two_tags_counts() -> None:
    reader = opened(directories("<", False, [[(256, 3, 1, 20), (256, 3, 1, 30)]]))
    assert reader.first.get(256) == 20


def test_directories_that_overlap() -> None:
    # each directory starts two bytes behind the last, and claims the rest of the file
    data = bytearray(60000)
    data[:8] = b"II*\0" + struct.pack("<I", 8)
    n_entries = 4000
    for n in range(8, 9000, 2):
        struct.pack_into("<H", data, n, n_entries)
    reader = opened(bytes(data))
    with pytest.raises(MalformedTiff, match="overlap"):
        for n in range(8, 9000, 2):
            reader.directory(n)


def test_values_that_overlap() -> None:
    entries = [(60000 + n, 1, 90_000, 8) for n in range(400)]
    data = directories("<", False, [entries]).ljust(100_000, b"\0")
    reader = opened(data)
    with pytest.raises(MalformedTiff, match="overlap"):
        reader.first.tags(frozenset())


@pytest.mark.parametrize("offset", [0, 7, 10**9])
def test_a_missing_first_directory(offset: int) -> None:
    data = b"II*\0" + struct.pack("<I", offset) + bytes(20)
    with pytest.raises(MalformedTiff, match="first"):
        _ = opened(data).first


def test_billions_of_entries() -> None:
    data = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**63) + bytes(100)
    with pytest.raises(MalformedTiff, match="first"):
        _ = opened(data).first


def test_ndpi_offsets_of_eight_bytes() -> None:
    header = parse_header(b"II*\0" + struct.pack("<Q", 1 << 33), "a.NDPI")
    assert header.is_ndpi
    assert header.first_ifd == 1 << 33


class Counted(ByteSource):
    """A local file that counts reads."""

    def __init__(self, path: Path) -> None:
        self._inner = LocalSource(path)
        self.source = self._inner.source
        self.n_reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.n_reads += 1
        return self._inner.read(offset, length)

    def as_buffer(self) -> Any:
        return self._inner.as_buffer()


def test_reads_of_a_cog(tmp_path: Path) -> None:
    path = tmp_path / "cog.tif"
    with tifffile.TiffWriter(path) as tif:
        for step in (1, 2, 4):
            image = np.zeros((512 // step, 512 // step), np.uint8)
            tif.write(image, tile=(128, 128), subfiletype=int(step > 1), metadata=None)
    source = Counted(path)
    reader = TiffReader(source)
    columns = Pages(reader).columns
    assert len(columns) == 3
    assert reader.n_reads == 3
    assert source.n_reads <= 4


@pytest.mark.parametrize("n", [3, 100])
@pytest.mark.parametrize(("order", "is_big"), DIALECTS)
def test_columns_are_those_of_single_directories(
    tmp_path: Path, order: str, is_big: bool, n: int
) -> None:
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path, byteorder=order, bigtiff=is_big) as tif:
        for page in range(n):
            image = np.full((40, 30), page % 7, np.uint16)
            # texts of different lengths, and some pages of another kind
            tif.write(
                image, compression="zlib" if page % 5 == 1 else None, rowsperstrip=10,
                description="x" * (page % 11), metadata=None, contiguous=False,
            )  # fmt: skip
    reader = TiffReader(LocalSource(path))
    columns = Pages(reader).columns
    alone = opened(path.read_bytes())
    rows = np.arange(n)
    offset, length = columns.segments(rows, 4)
    for row, at in enumerate(alone.chain()):
        one = alone.directory(at)
        assert one is not None
        assert offset[row].tolist() == one.column(273).tolist()
        assert length[row].tolist() == one.column(279).tolist()
    assert columns.kind.tolist() == [int(page % 5 == 1) for page in range(n)]
    assert columns.first == [0, 1]


def test_lengths_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"0123456789")
    source = LocalSource(path)
    assert source.read(4, 1 << 60) == b"456789"
    assert source.read(40, 1 << 60) == b""
