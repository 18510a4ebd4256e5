"""What is stored under a key: the bytes of a document or chunk, or a range of them."""

from __future__ import annotations

from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from ..read.fetch import Fetcher
from .keyspace import Chunk

__all__ = ["read_value", "resolve_range", "value_size"]


def read_value(found: bytes | Chunk | None, byte_range: ByteRequest | None, fetch: Fetcher) -> Any:
    """Give the bytes of what a key names, as a buffer; None where it names nothing.

    Parameters
    ----------
    found
        What the store's keys say of the key.
    byte_range
        The part wanted, or None for all.
    fetch
        How to reach the sources.
    """
    if not isinstance(found, Chunk):
        return None if found is None else _cut(found, byte_range)
    if found.served.is_decoded:
        return _cut(memoryview(found.served.decode(found.flat, fetch)), byte_range)
    place = found.location()
    if place is None:
        return _cut(found.inlined, byte_range)
    source, offset, length = place
    if not length:
        if byte_range is None:
            return fetch.read_all(source)
        length = fetch.size(source)
    start, stop = resolve_range(byte_range, length)
    return fetch.read(source, offset + start, stop - start) if stop > start else b""


def value_size(found: bytes | Chunk, fetch: Fetcher) -> int:
    """Give the bytes of what a key names without reading it."""
    if not isinstance(found, Chunk):
        return len(found)
    if found.served.is_decoded:
        return found.served.chunk_nbytes()
    place = found.location()
    if place is None:
        return len(found.inlined or b"")
    source, _, length = place
    return length or fetch.size(source)


def resolve_range(byte_range: ByteRequest | None, length: int) -> tuple[int, int]:
    """Give start and stop of a byte range inside a value of some length.

    Raises
    ------
    ValueError
        If it is none of zarr's three kinds of byte range.
    """
    if byte_range is None:
        return 0, length
    if isinstance(byte_range, RangeByteRequest):
        return min(byte_range.start, length), min(byte_range.end, length)
    if isinstance(byte_range, OffsetByteRequest):
        return min(byte_range.offset, length), length
    if isinstance(byte_range, SuffixByteRequest):
        return max(0, length - byte_range.suffix), length
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")


def _cut(data: Any, byte_range: ByteRequest | None) -> Any:
    if byte_range is None:
        return data
    start, stop = resolve_range(byte_range, len(data))
    return data[start:stop]
