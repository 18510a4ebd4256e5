"""Parquet references whose pages and footers lie about what they decode to, written by hand.

No writer of Parquet makes such files, so the structures are put together here: Thrift's compact
protocol, page headers, and the footer (Apache Parquet format 2.11, parquet.thrift).
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
N_ROWS = 2
I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
PLAIN, RLE_DICTIONARY, DELTA_BYTE_ARRAY = 0, 8, 7
INT64, BYTE_ARRAY, FIXED = 2, 6, 7
NONE, SNAPPY, GZIP, ZSTD, LZ4 = 0, 1, 2, 6, 7


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(value: int) -> tuple[int, bytes]:
    return I64, varint(value << 1 if value >= 0 else (-value << 1) - 1)


def small(value: int) -> tuple[int, bytes]:
    return I32, number(value)[1]


def text(value: str) -> tuple[int, bytes]:
    return BINARY, varint(len(value)) + value.encode()


def structure(fields: Mapping[int, tuple[int, bytes]]) -> tuple[int, bytes]:
    parts, last = [], 0
    for n, (kind, data) in sorted(fields.items()):
        parts += [bytes([(n - last) << 4 | kind]), data]
        last = n
    return STRUCT, b"".join([*parts, b"\0"])


def listing(members: list[tuple[int, bytes]], kind: int = STRUCT) -> tuple[int, bytes]:
    return LIST, bytes([0xF0 | kind]) + varint(len(members)) + b"".join(data for _, data in members)


@dataclass
class Page:
    """Stored bytes of a page, and what its header says of them."""

    stored: bytes
    n_bytes: int
    n_values: int
    encoding: int = PLAIN
    is_dictionary: bool = False

    def encode(self) -> bytes:
        own = {1: small(self.n_values), 2: small(self.encoding)}
        if not self.is_dictionary:
            own |= {3: small(3), 4: small(3)}
        head = {1: small(2 if self.is_dictionary else 0), 2: small(self.n_bytes),
                3: small(len(self.stored))}  # fmt: skip
        head[7 if self.is_dictionary else 5] = structure(own)
        return structure(head)[1] + self.stored


@dataclass
class Column:
    """A column, and what the footer says of it; `n_values` where that is not the number of rows."""

    name: str
    pages: list[Page]
    kind: int = BYTE_ARRAY
    codec: int = NONE
    n_values: int | None = None
    length: int = 0
    repetition: int = 0


def build(columns: list[Column], n_rows: int = N_ROWS) -> bytes:
    """Return a file whose footer says that all is small."""
    data, chunks, schema = b"PAR1", [], []
    for column in columns:
        start, places, dictionary = len(data), [], {}
        for page in column.pages:
            if page.is_dictionary:
                dictionary = {11: number(len(data))}
            else:
                places.append(len(data))
            data += page.encode()
        meta = {
            1: small(column.kind), 2: listing([small(PLAIN)], I32),
            3: listing([text(column.name)], BINARY), 4: small(column.codec),
            5: number(n_rows if column.n_values is None else column.n_values),
            6: number(64), 7: number(len(data) - start), 9: number(places[0]), **dictionary,
        }  # fmt: skip
        chunks.append(structure({2: number(start), 3: structure(meta)}))
        own = {1: small(column.kind), 3: small(column.repetition), 4: text(column.name)}
        own |= {2: small(column.length)} if column.length else {}
        own |= {6: small(0)} if column.name == "path" and column.kind == BYTE_ARRAY else {}
        schema.append(structure(own))
    root = structure({4: text("schema"), 5: small(len(columns))})
    group = structure({1: listing(chunks), 2: number(64), 3: number(n_rows)})
    footer = structure(
        {1: small(1), 2: listing([root, *schema]), 3: number(n_rows), 4: listing([group])}
    )[1]
    return data + footer + struct.pack("<I", len(footer)) + b"PAR1"


def run(n_values: int, bits: int = 1) -> bytes:
    """Return indices 0, as many as that, as one run of the RLE hybrid."""
    return bytes([bits]) + varint(n_values << 1) + b"\0"


def plain(value: bytes, n: int = N_ROWS) -> bytes:
    return (struct.pack("<I", len(value)) + value) * n


def texts(name: str, values: bytes = b"") -> Column:
    data = plain(values)
    return Column(name, [Page(data, len(data), N_ROWS)])


def numbers(name: str, n_rows: int = N_ROWS, **options: Any) -> Column:
    dictionary = Page(bytes(8), 8, 1, is_dictionary=True)
    indices = run(n_rows)
    page = Page(indices, len(indices), n_rows, RLE_DICTIONARY)
    return Column(name, [dictionary, page], INT64, **options)


def indexed(name: str, dictionary: Page, n_rows: int = N_ROWS, **options: Any) -> Column:
    """Return a column of one value of a dictionary; compressed, its indices are stored plainly."""
    indices = run(n_rows)
    stored = _compress(options.get("codec", NONE), indices)
    return Column(name, [dictionary, Page(stored, len(indices), n_rows, RLE_DICTIONARY)], **options)


def _compress(codec: int, data: bytes) -> bytes:
    import pyarrow

    names = {SNAPPY: "snappy", GZIP: "gzip", ZSTD: "zstd", LZ4: "lz4_raw"}
    return data if codec == NONE else pyarrow.compress(data, names[codec], asbytes=True)


def whole(column: Column, n_rows: int = N_ROWS) -> bytes:
    """Return a file of which one column is as given, and the others are small."""
    others = {
        name: indexed(name, Page(plain(b"", 1), 4, 1, is_dictionary=True), n_rows)
        for name in ("path", "raw")
    }
    others |= {name: numbers(name, n_rows) for name in ("offset", "size")}
    return build([column if name == column.name else one for name, one in others.items()], n_rows)


@functools.cache
def _zeros(codec: int, n_mib: int) -> bytes:
    return _compress(codec, struct.pack("<I", n_mib * MIB) + bytes(n_mib * MIB))


def of_pages(codec: int, name: str, n_mib: int, is_dictionary: bool) -> bytes:
    """Return pages of zeros that are in truth as large as their headers say."""
    page = Page(_zeros(codec, n_mib), 4 + n_mib * MIB, 1, is_dictionary=is_dictionary)
    if is_dictionary:
        return whole(indexed(name, page, codec=codec))
    return whole(Column(name, [page, page], codec=codec))


def of_headers(codec: int, n_bytes: int) -> bytes:
    """Return a page whose header says another number of bytes than it decompresses to."""
    stored = _compress(codec, plain(bytes(1000)))
    return whole(Column("raw", [Page(stored, n_bytes, N_ROWS)], codec=codec))


def of_prefixes() -> bytes:
    """Return values of which each repeats the first megabyte of the one before."""
    n_rows = 4000

    def deltas(first: int, step: int) -> bytes:
        """Return `first`, then values that differ by `step` and then by nothing (DELTA_BINARY)."""
        zigzag = [varint(value << 1 if value >= 0 else (-value << 1) - 1) for value in (first, 0)]
        blocks = b"".join(
            varint((step if n == 0 else 0) << 1) + bytes(4) if n else
            varint(0) + bytes([21 if step else 0, 0, 0, 0])
            + ((step).to_bytes(3, "little") + bytes(81) if step else b"")
            for n in range(-(-(n_rows - 1) // 128))
        )  # fmt: skip
        return varint(128) + varint(4) + varint(n_rows) + zigzag[0] + blocks

    data = deltas(0, MIB) + deltas(MIB, 0) + bytes(MIB)
    return whole(Column("raw", [Page(data, len(data), n_rows, DELTA_BYTE_ARRAY)]), n_rows)


def of_fixed_values(name: str) -> bytes:
    n_rows = 1 << 21
    dictionary = Page(bytes(1 << 10), 1 << 10, 1, is_dictionary=True)
    return whole(indexed(name, dictionary, n_rows, kind=FIXED, length=1 << 10), n_rows)


def of_empty_texts(name: str) -> bytes:
    n = 48 << 20
    dictionary = Page(_compress(ZSTD, bytes(4 * n)), 4 * n, n, is_dictionary=True)
    return whole(indexed(name, dictionary, codec=ZSTD))


def of_runs(n_rows: int, n_values: int) -> bytes:
    """Return offsets that are one run."""
    column = numbers("offset", n_values)
    column.n_values = n_values
    return build([texts("path"), column, numbers("size", n_rows), texts("raw")], n_rows)


def of_footers() -> bytes:
    """Return a footer of millions of row groups of one byte each."""
    inner = structure({1: listing([structure({})] * 900_000), 2: number(0), 3: number(0)})
    root = structure({4: text("schema"), 5: small(0)})
    footer = structure({1: small(1), 2: listing([root]), 3: number(0), 4: listing([inner] * 3)})[1]
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def of_twins() -> bytes:
    return build([texts("path"), *[numbers("offset", 1 << 22) for _ in range(64)],
                  numbers("size", 1 << 22), texts("raw")], 1 << 22)  # fmt: skip


def of_lists() -> bytes:
    column = numbers("offset", 1 << 28)
    column.repetition, column.n_values = 2, 1 << 28
    return build([texts("path"), column, numbers("size"), texts("raw")])


def of_doubled_fields() -> bytes:
    """Return a page whose header gives its size twice: a small one, and then another."""
    stored = _compress(ZSTD, bytes(768 * MIB))
    head = structure({1: small(0), 2: small(16), 3: small(len(stored))})[1][:-1]
    again = bytes([0x05]) + number(2)[1] + small(768 * MIB)[1]
    own = structure({1: small(1), 2: small(PLAIN), 3: small(3), 4: small(3)})[1]
    column = Column("raw", [], codec=ZSTD)
    page = head + again + bytes([0x3C]) + own + b"\0" + stored

    class Raw(Page):
        def encode(self) -> bytes:
            return page

    column.pages = [Raw(b"", 0, 1), Raw(b"", 0, 1)]
    return whole(column)


FILES: dict[str, Callable[[], bytes]] = {
    **{f"{what} of {name}, {label}":
       lambda codec=codec, name=name, d=what == "dictionary": of_pages(codec, name, 384, d)
       for label, codec in (("zstd", ZSTD), ("gzip", GZIP), ("lz4", LZ4), ("snappy", SNAPPY))
       for name, what in (("raw", "dictionary"), ("path", "pages"))},
    **{f"header of {n_bytes} bytes, {label}":
       lambda codec=codec, n_bytes=n_bytes: of_headers(codec, n_bytes)
       for label, codec in (("zstd", ZSTD), ("gzip", GZIP), ("lz4", LZ4), ("snappy", SNAPPY))
       for n_bytes in (-1, 8, (1 << 31) - 1)},
    "prefixes": of_prefixes,
    "fixed raw": lambda: of_fixed_values("raw"), "fixed path": lambda: of_fixed_values("path"),
    "empty raw": lambda: of_empty_texts("raw"), "empty path": lambda: of_empty_texts("path"),
    "a run of too many values": lambda: of_runs(N_ROWS, 1 << 30),
    "a run of too many rows": lambda: of_runs(1 << 30, 1 << 30),
    "footer": of_footers, "twins": of_twins, "lists": of_lists, "doubled": of_doubled_fields,
}  # fmt: skip


def parquet_documents(folder: Path, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Write parquet references of each kind, with one file of references each."""
    for n, (name, make) in enumerate(FILES.items()):
        path = folder / f"lies{n}.parq"
        (path / "a").mkdir(parents=True)
        documents = {".zgroup": {"zarr_format": 2}, "a/.zarray": metadata,
                     "a/.zattrs": {"_ARRAY_DIMENSIONS": ["x"]}}  # fmt: skip
        (path / ".zmetadata").write_text(json.dumps({"metadata": documents, "record_size": 10}))
        (path / "a" / "refs.0.parq").write_bytes(make())
        yield f"lies: {name}", path
