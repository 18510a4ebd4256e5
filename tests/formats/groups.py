"""Groups that the tests of documents share, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tiffref.codecs.zarr_codecs import to_zarr2
from tiffref.formats.kerchunk_read import read_document
from tiffref.formats.parquet import parse_parquet
from tiffref.model.array import Array, Group
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import MISSING, Manifest, Source

VALUES = np.arange(12 * 10, dtype=np.uint16).reshape(12, 10)
CHUNKS = (4, 5)
GRID = (3, 2)


def from_kerchunk(document: Any) -> Group:
    """Read a JSON document back."""
    return read_document(document).group


def from_parquet(path: str | Path) -> Group:
    """Read parquet references back."""
    return parse_parquet(path).group


def make_image(
    folder: Path, *, byteorder: str = "<", missing: tuple[int, ...] = (), **fields: object
) -> Array:
    """Write `VALUES` as plain segments into two files, and return the array over them.

    Chunks of even flat index lie in "a.bin", the others in "b.bin", both behind 16 other bytes.
    """
    columns: tuple[list[int], list[int]] = ([], [])
    data = [b"\xff" * 16, b"\xff" * 16]
    for flat in range(6):
        row, column = divmod(flat, 2)
        block = VALUES[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5]
        columns[0].append(flat % 2)
        columns[1].append(len(data[flat % 2]))
        data[flat % 2] += block.astype(f"{byteorder}u2").tobytes()
    sources = []
    for name, content in zip(("a.bin", "b.bin"), data, strict=True):
        (folder / name).write_bytes(content)
        sources.append(Source(str(folder / name), len(content), 1.5e9, f"tag-{name}"))
    manifest = Manifest.from_columns(GRID, sources, columns[1], [40] * 6, index=columns[0])
    manifest.source[list(missing)] = MISSING
    codec = SegmentCodec((1, 1, 1, 20), "<u2", byteorder=byteorder)
    return Array((12, 10), CHUNKS, np.dtype("u2"), ("y", "x"), (codec,), manifest, **fields)


def make_group(folder: Path, **fields: object) -> Group:
    """Return a group with an image, coordinates, a scalar and a group inside."""
    image = make_image(folder, attributes={"units": "m", "names": ["a", "é"]}, **fields)
    inner = Group({"image": image, "x": Array.from_values(np.arange(10.0), ("x",))})
    return Group(
        {
            "image": image,
            "y": Array.from_values(np.linspace(0, 1, 12), ("y",), {"axis": "Y"}),
            "spatial_ref": Array.from_values(np.int64(0)),
            "inner": Group({"level": inner}),
        },
        {"title": 'a "quoted" title', "n": 3},
    )


def make_flat(n_rows: int, n_columns: int, n_sources: int = 1, **fields: object) -> Group:
    """Return a group with one image of many chunks, in files that are not there."""
    n_chunks = n_rows * n_columns
    sources = [Source(f"/data/folder/image_{row:06}.tif", 10**9) for row in range(n_sources)]
    offset = np.arange(n_chunks, dtype=np.uint64) * 321 + 8
    manifest = Manifest.from_columns(
        (n_rows, n_columns),
        sources,
        offset,
        np.full(n_chunks, 256),
        index=np.arange(n_chunks) % n_sources,
    )
    codec = SegmentCodec((1, 1, 1, 256), "|u1", 8)
    image = Array(
        (n_rows * 16, n_columns * 16), (16, 16), np.dtype("u1"), ("y", "x"), (codec,), manifest
    )
    return Group({"image": image}, **fields)


def assert_same(one: Group, other: Group) -> None:
    """Compare two groups to the last chunk."""
    assert list(one.children) == list(other.children)
    assert dict(one.attributes) == dict(other.attributes)
    for name, here in one.children.items():
        there = other.children[name]
        assert type(here) is type(there), name
        if isinstance(here, Group):
            assert_same(here, there)
            continue
        for field in ("shape", "chunks", "dtype", "dims", "manifest"):
            assert getattr(here, field) == getattr(there, field), (name, field)
        assert dict(here.attributes) == dict(there.attributes)
        np.testing.assert_equal(here.fill_value, there.fill_value)
        assert to_zarr2(here.codec) == to_zarr2(there.codec)
