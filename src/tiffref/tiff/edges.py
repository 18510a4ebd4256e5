"""Cropped tiles whose bytes do not say at which edge they lie.

Writers that crop tiles store those of the right edge narrower and those of the lower edge shorter.
Where both have as many bytes (square tiles of a square image), a decoder that knows one segment
takes the ones for the others. Owns finding those of the right edge, and giving them a codec of
their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..codecs.decode import decodes, has_twin_edges, wrap_inlined
from ..codecs.table import compression_of
from ..codecs.unpack import layout_of
from ..errors import UnsupportedTiff
from ..model.array import Array
from ..model.codec import SegmentCodec
from ..model.grid import chunk_grid
from ..model.tiff_facts import LevelFacts

__all__ = ["MAX_INLINED_BYTES", "with_told_edges"]

MAX_INLINED_BYTES = 1 << 20
"""Bytes of a file that references may hold themselves, for the sake of one codec for all."""
_SAMPLE = 16
"""Tiles of a right edge too large to inline that are looked at."""


def with_told_edges(level: LevelFacts, array: Array, read: Callable[[int], bytes]) -> Array:
    """Inline cropped tiles of the right edge with their own codec, where they need one.

    Parameters
    ----------
    level, array
        The level, and its plan with a codec that knows of cropped tiles.
    read
        Index of a chunk -> its bytes.

    Raises
    ------
    UnsupportedTiff
        If they are too many bytes.
    """
    codec = array.codecs[0]
    assert isinstance(codec, SegmentCodec)
    if len(array.codecs) > 1 or compression_of(codec.compression).kind != "bytes":
        return array
    layout = layout_of(codec)
    if not has_twin_edges(codec, lambda shape: layout.stored_bytes(codec, shape)):
        return array
    manifest = array.manifest
    column = _right_edge(level, array)
    column = column[manifest.source[column] >= 0]
    n_bytes = int(manifest.length[column].sum())
    is_small = n_bytes <= MAX_INLINED_BYTES
    looked_at = column if is_small else column[:: -(-len(column) // _SAMPLE)]
    assert codec.edge is not None
    whole = replace(codec, edge=None)
    narrow = replace(codec, edge=(*codec.shape[:2], codec.edge[2]))
    cropped = {}
    for n in looked_at.tolist():
        data = read(n)
        if not decodes(whole, data):
            cropped[n] = wrap_inlined(narrow, data)
    if cropped and not is_small:
        raise UnsupportedTiff(
            "cropped tiles of the right edge cannot be told from those of the lower edge",
            url=manifest.sources[0].url,
            got=f"{n_bytes} bytes at the right edge",
            expected=f"at most {MAX_INLINED_BYTES} to inline",
            hint="Rewrite the file with tiles of another size.",
        )
    return replace(array, manifest=manifest.with_inlined(cropped)) if cropped else array


def _right_edge(level: LevelFacts, array: Array) -> np.ndarray:
    """Return the indices of the chunks in the last column, save for the corner."""
    grid = chunk_grid(array.shape, array.chunks)
    index = np.arange(array.manifest.n_chunks).reshape(grid)
    y, x = level.axes.index("Y"), level.axes.index("X")
    column = index.take([-1], axis=x)
    return column.take(range(grid[y] - 1), axis=y).reshape(-1)
