"""What documents may have; what a Parquet file takes to decode is found without decoding it."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

import tiffref  # noqa: E402
from tiffref.errors import InvalidReferences  # noqa: E402
from tiffref.formats.load import check_columns, check_footer  # noqa: E402
from tiffref.references import References  # noqa: E402

COLUMNS = ("path", "offset", "size", "raw")


def write(n_rows: int, raw: bytes | None = None, **options: object) -> bytes:
    paths = [f"https://host/{n}.tif" for n in range(n_rows)]
    columns = {"path": paths, "offset": list(range(n_rows)), "size": [9] * n_rows}
    columns["raw"] = pa.array([raw] * n_rows, pa.binary())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def check(data: bytes, n_rows: int) -> None:
    check_footer(data)
    check_columns(data, pq.read_metadata(io.BytesIO(data)), n_rows, COLUMNS)


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_honest_files_pass(compression: str, version: str) -> None:
    for dictionary in (True, False):
        data = write(5000, b"x" * 20, compression=compression, data_page_version=version,
                     use_dictionary=dictionary, row_group_size=700)  # fmt: skip
        check(data, 5000)
        check(data, 10)  # writers fill the last file up


def test_many_files_of_long_addresses_in_one_record_pass() -> None:
    """They compress to a hundredth, as what is refused does."""
    n_rows = 300_000
    paths = pa.array([f"s3://bucket/{'folder/' * 32}{n:09d}.tif" for n in range(n_rows)])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"path": paths}), buffer, compression="zstd", use_dictionary=False)
    data = buffer.getvalue()
    assert len(data) < 1 << 21
    check(data, n_rows)
    with pytest.raises(ValueError, match="bytes are more than"):
        check(data, 10)


def test_pages_are_added_up() -> None:
    check(write(1, bytes(15 << 20)), 1)
    with pytest.raises(ValueError, match="bytes are more than 16777216"):
        check(write(1, bytes(17 << 20), compression="zstd"), 1)


def test_values_that_repeat_parts_of_others_are_refused() -> None:
    data = write(9, use_dictionary=False, column_encoding={"path": "DELTA_BYTE_ARRAY"})
    with pytest.raises(ValueError, match="DELTA_BYTE_ARRAY"):
        check(data, 9)


@pytest.mark.parametrize("cut", [0, 7, 12])
def test_no_footer(cut: int) -> None:
    with pytest.raises(ValueError, match="footer is missing"):
        check_footer(write(3)[:cut])


def test_a_footer_of_many_parts() -> None:
    lists = bytes([0x49]) + bytes([0xFC]) + b"\xff\xff\x7f" + bytes(1 << 21)
    data = b"PAR1" + lists + len(lists).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match="too many items"):
        check_footer(data)


@pytest.mark.parametrize(
    "end", [b"", b"\x15", b"\x15\xff\xff", b"\x1d\x00", b"\x15\x02\x05\x02\x02"]
)
def test_footers_that_make_no_sense(end: bytes) -> None:
    data = b"PAR1" + end + len(end).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match=r"truncated|of type|occurs twice"):
        check_footer(data)


def zarray(shape: int, chunk: int) -> str:
    return json.dumps({"zarr_format": 2, "shape": [shape], "chunks": [chunk], "dtype": "|u1",
                       "order": "C", "compressor": None, "filters": None,
                       "fill_value": 0})  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "chunk", "what"),
    [
        ("a" + "/b" * 20_000, 8, 4, "the path is too deep"),
        ("a", 1 << 33, 1 << 32, "the chunks are too large"),
        ("a", 1 << 24, 1, "far more chunks than references"),
    ],
)
def test_arrays_beyond_the_limits_are_findings(
    name: str, shape: int, chunk: int, what: str
) -> None:
    """Opening ends with the first one; validation lists it, and what it finds beside it."""
    refs = {".zgroup": '{"zarr_format":2}', f"{name}/.zarray": zarray(shape, chunk)}
    refs |= {"b/.zarray": zarray(8, 4), "b/9": "x"}
    document = {"version": 1, "refs": refs}
    with pytest.raises(InvalidReferences, match=what):
        References.from_kerchunk(document)
    tracemalloc.start()
    try:
        found = [finding.what for finding in tiffref.validate(document).findings]
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()
    assert found == [what, "the key is not a chunk of any array"]
