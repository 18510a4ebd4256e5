"""Seeded mutations of TIFFs: of any byte, and of directories in particular."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable

__all__ = ["find_entries", "mutate"]

_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF,
            2_147_000_000, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
_TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 277, 278, 279, 284, 292, 293, 317, 322, 323,
         324, 325, 330, 338, 339, 347, 512, 513, 514, 519, 529, 530, 532, 32997, 33550, 34735,
         42113, 50674, 65002, 33628, 34118, 50838, 51023)  # fmt: skip
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32766, 32771, 32773, 32809, 32946, 33003, 33005, 33007,
                 34676, 34677, 34712, 34887, 34892, 34925, 34926, 50000, 50001, 50002, 52546,
                 65000, 65001, 65002)  # fmt: skip

Spot = tuple[int, str, bool]
"""Where an entry begins, the byte order, and whether it is a BigTIFF's."""


def find_entries(data: bytes) -> list[Spot]:
    """Find the entries of the first directories of a chain."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    head, count, size, offset = ("QQ", "Q", 20, 8) if is_big else ("HI", "H", 12, 4)
    spots: list[Spot] = []
    try:
        (where,) = struct.unpack_from(f"{order}{head[1]}", data, 8 if is_big else 4)
        for _ in range(8):
            (n,) = struct.unpack_from(f"{order}{count}", data, where)
            first = where + struct.calcsize(count)
            spots += [(first + size * k, order, is_big) for k in range(min(n, 64))]
            (where,) = struct.unpack_from(
                f"{order}{'Q' if is_big else 'I'}", data, first + size * n
            )
            if not where:
                break
    except (struct.error, OverflowError):
        pass
    return [spot for spot in spots if spot[0] + size + offset <= len(data)]


def mutate(data: bytes, seed: int) -> bytes:
    """Return a mutation of a file: the same one for the same seed."""
    rng = random.Random(seed)
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        entries = find_entries(bytes(result))
        if entries and rng.random() < 0.7:
            rng.choice(_OF_ENTRIES)(result, rng, rng.choice(entries))
        elif result:
            rng.choice(_OF_BYTES)(result, rng)
    return bytes(result)


def _number(rng: random.Random, width: int) -> bytes:
    value = rng.choice(_NUMBERS) if rng.random() < 0.7 else rng.getrandbits(8 * width)
    return (value % (1 << 8 * width)).to_bytes(width, "little")


def _swap(order: str, raw: bytes) -> bytes:
    return raw if order == "<" else raw[::-1]


def _set_value(data: bytearray, rng: random.Random, spot: Spot) -> None:
    at, order, is_big = spot
    width = rng.choice((2, 4, 8) if is_big else (2, 4))
    where = at + (12 if is_big else 8)
    data[where : where + width] = _swap(order, _number(rng, width))


def _set_count(data: bytearray, rng: random.Random, spot: Spot) -> None:
    at, order, is_big = spot
    width = 8 if is_big else 4
    data[at + 4 : at + 4 + width] = _swap(order, _number(rng, width))


def _set_type(data: bytearray, rng: random.Random, spot: Spot) -> None:
    at, order, _ = spot
    data[at + 2 : at + 4] = _swap(order, rng.randrange(20).to_bytes(2, "little"))


def _set_tag(data: bytearray, rng: random.Random, spot: Spot) -> None:
    at, order, _ = spot
    data[at : at + 2] = _swap(order, rng.choice(_TAGS).to_bytes(2, "little"))


def _set_compression(data: bytearray, rng: random.Random, spot: Spot) -> None:
    for at, order, is_big in find_entries(bytes(data)):
        if int.from_bytes(_swap(order, bytes(data[at : at + 2])), "little") == 259:
            where = at + (12 if is_big else 8)
            data[where : where + 2] = _swap(order, rng.choice(_COMPRESSIONS).to_bytes(2, "little"))


def _spoil_value(data: bytearray, rng: random.Random, spot: Spot) -> None:
    """Change what lies where an entry points, or the value itself where it is short."""
    at, order, is_big = spot
    width = 8 if is_big else 4
    where = at + 4 + width
    count, offset = (
        int.from_bytes(_swap(order, bytes(data[one : one + width])), "little")
        for one in (at + 4, where)
    )
    start, end = (where, where + width) if count <= 2 else (offset, offset + 8 * count)
    if start >= len(data):
        return
    place = rng.randrange(start, max(start + 1, min(end, len(data))))
    new = rng.choice((b"\0", bytes([rng.randrange(256)]), _number(rng, 2), _double(rng, order)))
    data[place : place + len(new)] = new


def _double(rng: random.Random, order: str) -> bytes:
    value = rng.choice((0.0, -0.0, 1e300, 1e-300, -1.0, math.inf, math.nan, rng.random()))
    return struct.pack(f"{order}d", value)


def _copy_entry(data: bytearray, rng: random.Random, spot: Spot) -> None:
    at, _, is_big = spot
    size = 20 if is_big else 12
    other = rng.choice(find_entries(bytes(data)))[0]
    data[at : at + size] = data[other : other + size]


def _flip_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_word(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((2, 4, 8))
    at = rng.randrange(max(1, len(data) - width))
    data[at : at + width] = _number(rng, width)[: len(data) - at]


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _extend(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.randrange(1, 200))


def _erase(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    n = rng.randrange(1, 64)
    data[at : at + n] = bytes(len(data[at : at + n]))


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 32)]


def _copy(data: bytearray, rng: random.Random) -> None:
    n = rng.randrange(1, 64)
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    part = data[source : source + n]
    data[target : target + len(part)] = part


_OF_ENTRIES: tuple[Callable[[bytearray, random.Random, Spot], None], ...] = (
    _set_value, _set_value, _set_value, _set_count, _set_type, _set_tag, _set_compression,
    _spoil_value, _spoil_value, _copy_entry,
)  # fmt: skip
_OF_BYTES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bit, _set_byte, _set_word, _truncate, _extend, _erase, _remove, _copy
)  # fmt: skip
