"""Columns of a manifest that come in blocks, each loaded when one of its chunks is asked for.

Owns which block holds a chunk, and that each is loaded once. How a block is read is the business of
whoever makes the manifest: this room opens nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "Deferred"]


class Columns(NamedTuple):
    """What a manifest says of some chunks that follow one another, as its own columns do.

    `source`, `offset` and `length` are `(n,)`; `inlined` maps the place of a chunk among these
    chunks to its bytes.
    """

    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    inlined: Mapping[int, bytes]


class Deferred:
    """Blocks of columns, loaded when first needed.

    Parameters
    ----------
    n_blocks
        How many there are, at least 1.
    block_rows
        Chunks in each; the last may have fewer.
    load
        Gives the columns of a block by its number; asked once, by one thread at a time.
    """

    def __init__(self, n_blocks: int, block_rows: int, load: Callable[[int], Columns]) -> None:
        self._block_rows = block_rows
        self._load = load
        self._blocks: list[Columns | None] = [None] * n_blocks
        self._lock = threading.Lock()

    def at(self, flat: int) -> tuple[int, int, int]:
        """Give source, offset and length of one chunk."""
        number, row = divmod(flat, self._block_rows)
        source, offset, length, _ = self._block(number)
        return source.item(row), offset.item(row), length.item(row)

    def take(
        self, flat: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint64]]:
        """Give source, offset and length of some chunks, `(n,)`, by their index in C order."""
        number, row = np.divmod(flat, self._block_rows)
        source = np.empty(len(flat), np.int32)
        offset, length = np.empty(len(flat), np.uint64), np.empty(len(flat), np.uint64)
        for n in np.unique(number).tolist():
            here = number == n
            block = self._block(n)
            source[here] = block.source[row[here]]
            offset[here] = block.offset[row[here]]
            length[here] = block.length[row[here]]
        return source, offset, length

    def inlined(self, flat: int) -> bytes:
        """Give the bytes of one chunk that is inlined."""
        number, row = divmod(flat, self._block_rows)
        return self._block(number).inlined[row]

    def join(self) -> Columns:
        """Load all blocks and give their columns as one."""
        blocks = [self._block(number) for number in range(len(self._blocks))]
        inlined = {
            number * self._block_rows + row: data
            for number, block in enumerate(blocks)
            for row, data in block.inlined.items()
        }
        source, offset, length = (np.concatenate([block[i] for block in blocks]) for i in range(3))
        return Columns(source, offset, length, inlined)

    def _block(self, number: int) -> Columns:
        block = self._blocks[number]
        if block is None:
            with self._lock:
                block = self._blocks[number]
                if block is None:
                    block = self._blocks[number] = self._load(number)
        return block
