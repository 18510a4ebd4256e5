"""Many pages at once: image file directories in bulk.

Owns reading the IFDs of a long chain as arrays: those that share one structure are compared and
taken apart together, without an object for each. Whatever is irregular is left out, and read page
by page by those who ask. Local files only: it reads all over the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .chain import Chain
from .ifd import TYPE_SIZES, Header
from .source import LocalSource

__all__ = ["BulkPages", "read_bulk_pages"]

_MIN_PAGES = 64
_MAX_GROUPS = 32
_MAX_ENTRIES = 512
_MAX_GATHERED_BYTES = 1 << 28
_OFFSETS, _LENGTHS = (273, 324), (279, 325)
_INTEGERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True, slots=True)
class BulkPages:
    """Pages of one chain that decode like its first page.

    `ifd_offset` is `(n,)` uint64 for the whole chain. `is_known` `(n,)` bool marks pages with the
    first page's decoding tags and segment count; for those, `offset` and `length` `(n, n_segments)`
    uint64 say where the segments are.
    """

    ifd_offset: NDArray[np.uint64]
    is_known: NDArray[np.bool_]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]


def read_bulk_pages(
    source: LocalSource, header: Header, chain: Chain, decoding_tags: frozenset[int]
) -> BulkPages | None:
    """Read all directories of a local file.

    Parameters
    ----------
    source, header, chain
        The file, and where its directories are.
    decoding_tags
        Tags whose values decide how segments decode.

    Returns
    -------
    None for short chains, and for those that only a full parser can follow.
    """
    if len(chain.offsets) < _MIN_PAGES or not chain.is_whole or max(chain.counts) > _MAX_ENTRIES:
        return None
    raw = np.frombuffer(source.look(), np.uint8)
    offsets, counts = np.array(chain.offsets, np.uint64), np.array(chain.counts)
    return _read(raw, header, offsets, counts, decoding_tags)


def _read(
    raw: NDArray[np.uint8],
    header: Header,
    ifd_offset: NDArray[np.uint64],
    counts: NDArray,
    decoding_tags: frozenset[int],
) -> BulkPages | None:
    groups = _groups(raw, header, ifd_offset, counts)
    if groups is None:
        return None
    parsed = [_parse_group(raw, header, entries, decoding_tags) for _, entries in groups]
    first = next(
        (one for (rows, _), one in zip(groups, parsed, strict=True) if one and 0 in rows), None
    )
    if first is None:
        return None
    n_segments = first.offset.shape[1]
    signature = first.signature[0]
    n = len(ifd_offset)
    is_known = np.zeros(n, bool)
    offset, length = (np.zeros((n, n_segments), np.uint64) for _ in range(2))
    for (rows, _), one in zip(groups, parsed, strict=True):
        if one is None or one.offset.shape[1] != n_segments:
            continue
        if one.signature.shape[1] != len(signature):
            continue
        like = (one.signature == signature).all(axis=1)
        is_known[rows[like]] = True
        offset[rows[like]] = one.offset[like]
        length[rows[like]] = one.length[like]
    return BulkPages(ifd_offset, is_known, offset, length)


def _groups(
    raw: NDArray[np.uint8], header: Header, ifd_offset: NDArray, counts: NDArray
) -> list[tuple[NDArray, NDArray]] | None:
    """Put pages of equal structure (tags, types, counts) together, as (rows, entries)."""
    names = ["code", "type", "count", "value"]
    formats = ["u2", "u2", *(["u8", "V8"] if header.is_big else ["u4", "V4"])]
    entry = np.dtype(
        [
            (n, f"{header.byteorder}{f}" if f[0] == "u" else f)
            for n, f in zip(names, formats, strict=True)
        ]
    )
    groups: list[tuple[NDArray, NDArray]] = []
    for n_entries in np.unique(counts):
        rows = np.flatnonzero(counts == n_entries)
        start = ifd_offset[rows] + np.uint64(struct.calcsize(header.count_format))
        entries = _gather(raw, start, int(n_entries) * entry.itemsize).view(entry)
        shape = entries[["code", "type", "count"]]
        while len(rows):
            same = (shape == shape[0]).all(axis=1)
            if same.all():  # nothing is copied
                groups.append((rows, entries))
                break
            groups.append((rows[same], entries[same]))
            if len(groups) > _MAX_GROUPS:
                return None
            rows, entries, shape = rows[~same], entries[~same], shape[~same]
    return groups


@dataclass(frozen=True, slots=True)
class _Parsed:
    signature: NDArray[np.uint8]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]


def _parse_group(
    raw: NDArray[np.uint8], header: Header, entries: NDArray, decoding_tags: frozenset[int]
) -> _Parsed | None:
    """Take apart pages of one structure; None if that needs a full parser."""
    columns: dict[str, NDArray] = {}
    texts = [np.zeros((len(entries), 0), np.uint8)]
    for column in range(entries.shape[1]):
        one = entries[:, column]
        code, kind, count = int(one["code"][0]), int(one["type"][0]), int(one["count"][0])
        if code == 330:
            return None  # pages with pages below them
        if code not in decoding_tags and code not in _OFFSETS and code not in _LENGTHS:
            continue
        n_bytes = TYPE_SIZES.get(kind, 0) * count
        values = _values(raw, header, one, n_bytes)
        if values is None:
            return None
        if code in decoding_tags:
            label = np.frombuffer(struct.pack("<HHQ", code, kind, count), np.uint8)
            texts += [np.broadcast_to(label, (len(entries), label.size)), values]
        elif kind in _INTEGERS and count:
            numbers = values.view(f"{header.byteorder}{_INTEGERS[kind]}").astype(np.uint64)
            columns["offset" if code in _OFFSETS else "length"] = numbers
        else:
            return None
    if set(columns) != {"offset", "length"} or columns["offset"].shape != columns["length"].shape:
        return None
    return _Parsed(np.concatenate(texts, axis=1), columns["offset"], columns["length"])


def _values(raw: NDArray, header: Header, entries: NDArray, n_bytes: int) -> NDArray | None:
    """Bytes of one tag's values on each page, `(n_pages, n_bytes)`."""
    inline = np.ascontiguousarray(entries["value"]).view(np.uint8).reshape(len(entries), -1)
    if n_bytes <= inline.shape[1]:
        return np.ascontiguousarray(inline[:, :n_bytes])
    where = inline.view(f"{header.byteorder}u{inline.shape[1]}").reshape(-1).astype(np.uint64)
    if (
        n_bytes * len(entries) > _MAX_GATHERED_BYTES
        or (where + np.uint64(n_bytes) > len(raw)).any()
    ):
        return None
    return _gather(raw, where, n_bytes)


def _gather(raw: NDArray[np.uint8], start: NDArray, n_bytes: int) -> NDArray[np.uint8]:
    return np.lib.stride_tricks.sliding_window_view(raw, n_bytes)[start]
