"""The chain of directories: where each is, whether it ends, and whether the file has room for it.

Owns one walk along the chain before a parser follows it. In a damaged or hostile file a directory
may be followed by one that was there before, or each may point into the middle of the last, so that
some kilobytes keep a parser busy for hours. Only the numbers of entries are looked at (TIFF 6.0
section 2, BigTIFF).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import MalformedTiff
from .bytesource import ByteSource
from .ifd import MAX_ENTRIES, TYPE_SIZES, Header

__all__ = ["Chain", "check_factors", "check_sizes", "follow_chain"]

_SUB_IFDS, _DEPTH = 330, 32997
_SPARE_ENTRIES = 1 << 14
_MAX_OVERLAP = 2
_SIZE_TAGS = frozenset({256, 257, 277, 32997})
_SIGNED_SIZES = {6: 1, 8: 2, 9: 4, 17: 8}
_FLOATS = frozenset({11, 12})
_FACTORS = frozenset({277, 32997})
_NUMBERS = frozenset({1, 3, 4, 6, 8, 9, 13, 16, 17, 18})
_MANY = 256
"""Directories from which on whole columns are quicker than one after the other."""


@dataclass(slots=True)
class Chain:
    """Directories of a file in their order.

    `offsets` and `counts` say where each is and how many entries it has. `is_whole` if the chain
    ends as it should. `patches` has the position of a pointer to a directory that was there before,
    if there is one, with the bytes that end the chain there, as libtiff does.
    """

    offsets: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    is_whole: bool = False
    patches: dict[int, bytes] = field(default_factory=dict)


def follow_chain(source: ByteSource, header: Header) -> Chain:
    """Follow the chain, and count the entries that a parser would read.

    What would cost a request is not looked at: the chain is then empty.

    Raises
    ------
    MalformedTiff
        If there are far more entries than the file has room for.
    """
    view = source.look()
    return Chain() if view is None else _follow(view, header, source)


def check_sizes(source: ByteSource, header: Header, chain: Chain) -> None:
    """Refuse images of less than no pixels: tifffile steps backwards over them, without an end.

    Only its own ("shaped") series are walked so. Large remote files are not looked at.

    Raises
    ------
    MalformedTiff
        If the width, length, depth or number of samples of an image is negative or no integer.
    """
    view = source.look()
    for offset, n in zip(chain.offsets, chain.counts, strict=True):
        body = _directory(view, header, offset, n)
        below = [_directory(view, header, one) for one in _sub_ifds(view, header, body)]
        if any(_has_odd_size(header, one) for one in (body, *below)):
            raise MalformedTiff(
                "an image has a negative size", url=source.source.url, ifd=f"@{offset}"
            )


def check_factors(entries: Iterable[tuple[int, int, int]]) -> None:
    """Refuse depths and numbers of samples that are no one number: of texts and of pairs tifffile
    makes as many copies as there are strips.

    Parameters
    ----------
    entries
        Tag, type and count of each.

    Raises
    ------
    MalformedTiff
        If there is such an entry.
    """
    for code, kind, count in entries:
        if code in _FACTORS and (kind not in _NUMBERS or count != 1):
            raise MalformedTiff(
                "is not one whole number",
                tag="ImageDepth (32997)" if code == 32997 else "SamplesPerPixel (277)",
                got=f"{count} values of type {kind}",
            )


def _has_odd_size(header: Header, body: bytes) -> bool:
    for code, kind, _, value in struct.iter_unpack(header.entry_format, body):
        if code in _SIZE_TAGS and (kind in _SIGNED_SIZES or kind in _FLOATS):
            sign = value[0 if header.byteorder == ">" else _SIGNED_SIZES.get(kind, 1) - 1]
            if kind in _FLOATS or sign >= 0x80:
                return True
    return False


def _directory(view: Any, header: Header, offset: int, n: int | None = None) -> bytes:
    """Give the entries of a directory as they are, as far as the file goes."""
    count = struct.Struct(header.count_format)
    if offset + count.size > len(view):
        return b""
    if n is None:
        (n,) = count.unpack_from(view, offset)
    size = struct.calcsize(header.entry_format)
    first = offset + count.size
    n = min(n, MAX_ENTRIES, max(0, len(view) - first) // size)
    return bytes(view[first : first + n * size])


def _follow(view: Any, header: Header, source: ByteSource) -> Chain:
    # a million directories are walked here: nothing is looked up or called twice
    entry_size = struct.calcsize(header.entry_format)
    count, following = struct.Struct(header.count_format), struct.Struct(header.offset_format)
    read_count, read_next, n_head = count.unpack_from, following.unpack_from, count.size
    size, last = len(view), len(view) - following.size
    most = _MAX_OVERLAP * size // entry_size + _SPARE_ENTRIES
    found: dict[int, int] = {}
    n_entries, patches = 0, {}
    offset = header.first_ifd
    while offset and offset + n_head <= size:
        (n,) = read_count(view, offset)
        if n > MAX_ENTRIES:
            break
        n_entries += n
        if n_entries > most:
            break
        found[offset] = n
        end = offset + n_head + n * entry_size
        if end > last:
            break
        (offset,) = read_next(view, end)
        if offset in found:
            patches[end] = bytes(following.size)
            break
    chain = Chain(list(found), list(found.values()), offset == 0, patches)
    n_entries += _check_rare(view, header, chain, most)
    if n_entries > most:
        raise MalformedTiff(
            "directories overlap",
            url=source.source.url,
            got=f"more than {most} entries",
            expected=f"as many as {size} bytes have room for",
        )
    return chain


def _check_rare(view: Any, header: Header, chain: Chain, most: int) -> int:
    """Count the entries below directories, and check the factors of those that have a depth."""
    n_below = 0
    find = _find_rare if len(chain.offsets) < _MANY else _find_rare_among_many
    for at in find(view, header, chain):
        body = _directory(view, header, chain.offsets[at], chain.counts[at])
        n_below += _count_below(view, header, body, most)
        if n_below > most:
            break
        entries = list(struct.iter_unpack(header.entry_format, body))
        if any(code == _DEPTH for code, *_ in entries):
            check_factors(entry[:3] for entry in entries)
    return n_below


def _find_rare(view: Any, header: Header, chain: Chain) -> list[int]:
    """Find the directories that may have SubIFDs or a depth, by their place in the chain."""
    marks = [struct.pack(f"{header.byteorder}H", code) for code in (_SUB_IFDS, _DEPTH)]
    size = struct.calcsize(header.entry_format)
    head = struct.calcsize(header.count_format)
    places = enumerate(zip(chain.offsets, chain.counts, strict=True))
    return [
        at
        for at, (offset, n) in places
        if any(view.find(mark, offset + head, offset + head + n * size) >= 0 for mark in marks)
    ]


def _find_rare_among_many(view: Any, header: Header, chain: Chain) -> list[int]:
    """Find the same by columns of tags: the first of each directory, the second of each, ..."""
    raw = np.frombuffer(view, np.uint8)
    size = struct.calcsize(header.entry_format)
    counts = np.array(chain.counts)
    # directories with many entries first, so that each column is the beginning of the last one
    order = np.argsort(-counts, kind="stable")
    start = np.array(chain.offsets)[order] + struct.calcsize(header.count_format)
    is_rare = np.zeros(len(order), bool)
    low, high = (0, 1) if header.byteorder == "<" else (1, 0)
    n_with_column = np.searchsorted(-counts[order], -np.arange(counts.max()), side="left")
    for column, n in enumerate(n_with_column.tolist()):
        at = np.minimum(start[:n] + column * size, len(raw) - 2)
        code = raw[at + low] + raw[at + high] * np.uint16(256)
        is_rare[:n] |= (code == _SUB_IFDS) | (code == _DEPTH)
    return sorted(order[is_rare].tolist())


def _count_below(view: Any, header: Header, body: bytes, most: int) -> int:
    """Count the entries of the directories below one; stop at `most`."""
    count = struct.Struct(header.count_format)
    n_entries = 0
    for offset in _sub_ifds(view, header, body):
        n_entries += 1
        if offset + count.size <= len(view):
            (n,) = count.unpack_from(view, offset)
            n_entries += n if n <= MAX_ENTRIES else 0
        if n_entries > most:
            break
    return n_entries


def _sub_ifds(view: Any, header: Header, body: bytes) -> Iterator[int]:
    entry = struct.Struct(header.entry_format)
    whole = body[: len(body) // entry.size * entry.size]
    for code, kind, n, value in entry.iter_unpack(whole):
        size = TYPE_SIZES.get(kind, 0)
        if code != _SUB_IFDS or size not in (2, 4, 8):
            continue
        data = value
        if n * size > len(value):
            (where,) = struct.unpack(header.offset_format, value)
            data = bytes(view[where : where + n * size]) if where < len(view) else b""
        form = f"{header.byteorder}{len(data) // size}{ {2: 'H', 4: 'I', 8: 'Q'}[size] }"
        yield from struct.unpack_from(form, data)
