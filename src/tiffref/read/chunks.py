"""Chunks decoded: one at a time, by the shortest way there is, and kept for the next read.

Owns the choice between viewing stored samples as they are, decoding straight into the result and
decoding aside, and the cache of decoded chunks of local files. What decoding means is said by
`codecs`, of documents of others by `codecs.foreign`.

Windows that overlap, and rows read one by one, want the same tile many times, and inflating it
costs most of a read. Whoever reads whole chunks comes by each once: chunks are kept of reads that
touch some in part, and of large ones only these. The bound is for the whole process, which may have
thousands of stores. A chunk is found again only with the state of the very file it was read from
(device, inode, size, times of change), the byte range and the codec. A file that was written to has
another state, so that what was kept of it is never found again; sources that cannot be asked
without a request, and files written to a moment ago, whose next change might bear the same time,
are not kept at all.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import SegmentDecoder, split_inlined, undo_transposes
from ..codecs.foreign import decode_foreign
from ..codecs.guard import check_proportion
from ..errors import rejects_unknown_arguments
from ..model.array import Array
from ..model.codec import ForeignCodec, SegmentCodec

__all__ = [
    "CACHE",
    "ChunkCache",
    "Decoder",
    "decode_chunk",
    "decode_inlined",
    "decode_whole",
    "is_stored_plain",
    "make_decoder",
    "set_cache_size",
    "stored_dtype",
    "view_plain",
]

_scratch = threading.local()

Decoder = SegmentDecoder | ForeignCodec
"""What decodes all chunks of one codec."""


def make_decoder(codec: SegmentCodec | ForeignCodec) -> Decoder:
    """Return what decodes the chunks of a codec.

    Raises
    ------
    UnsupportedTiff
        If nothing does.
    """
    return codec if isinstance(codec, ForeignCodec) else SegmentDecoder(codec)


def is_stored_plain(codec: SegmentCodec | ForeignCodec) -> bool:
    """Return whether stored bytes are the samples as they stand, in either byte order."""
    if isinstance(codec, ForeignCodec):
        return False
    return codec.is_plain


def stored_dtype(codec: SegmentCodec) -> np.dtype:
    """Return the type of samples as they are stored, with their byte order."""
    dtype = np.dtype(codec.dtype)
    return dtype.newbyteorder(">") if codec.byteorder == ">" else dtype.newbyteorder("<")


def view_plain(
    codec: SegmentCodec, data: Any, shape: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray:
    """View stored samples as an array, in their byte order.

    Parameters
    ----------
    codec
        One that `is_stored_plain`.
    data
        The bytes from the first sample of the view to its last.
    shape
        Of the view.
    strides
        Samples, not bytes, between neighbours.
    """
    dtype = stored_dtype(codec)
    return np.ndarray(shape, dtype, data, 0, tuple(n * dtype.itemsize for n in strides))


def decode_chunk(array: Array, decoder: Decoder, data: Any, target: NDArray, inner: Any) -> None:
    """Decode a chunk and put its selected samples into a part of the result.

    Parameters
    ----------
    array
        That the chunk belongs to.
    decoder
        Of the codec of this chunk.
    data
        Its bytes.
    target
        Part of the result.
    inner
        The selected samples of the chunk as slices, or None for all of them.

    Raises
    ------
    MalformedTiff
        If the bytes are not such a chunk.
    """
    if isinstance(decoder, ForeignCodec):
        block = _decode_foreign(array, decoder, data)
    elif inner is None and target.flags.c_contiguous and not decoder.codec.transposes:
        decoder.decode(data, target.reshape(decoder.codec.shape))
        return
    else:
        decoder.check_stored(len(data))
        samples = decoder.decode(data, _scratch_for(decoder))
        block = undo_transposes(decoder.codec, samples).reshape(array.chunks)
    target[...] = block if inner is None else block[inner]


def decode_whole(array: Array, decoder: Decoder, data: Any) -> NDArray:
    """Decode a chunk into new memory; parameters and errors as in `decode_chunk`."""
    if isinstance(decoder, ForeignCodec):
        # what numcodecs gives may be a view of something that others write to
        return np.array(_decode_foreign(array, decoder, data))
    return undo_transposes(decoder.codec, decoder.decode(data)).reshape(array.chunks)


def decode_inlined(array: Array, flat: int) -> NDArray:
    """Decode a chunk whose bytes are in the manifest; errors as in `decode_chunk`."""
    codec, data = array.codecs[0], memoryview(array.manifest.data(flat))
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if isinstance(codec, SegmentCodec):
        shape, transposes = codec.shape, codec.transposes
        codec, data = split_inlined(codec, data)
        if transposes != codec.transposes:  # those of the array hold for all of its chunks
            codec = replace(codec, shape=shape, transposes=transposes)
        if is_stored_plain(codec) and len(data) == n_bytes:
            # also of types that no segment has, such as the strings of a coordinate
            return view_plain(codec, data, (math.prod(array.chunks),), (1,)).reshape(array.chunks)
    check_proportion(n_bytes, len(data))
    block = np.empty(array.chunks, array.dtype)
    decode_chunk(array, make_decoder(codec), data, block, None)
    return block


def _scratch_for(decoder: SegmentDecoder) -> NDArray:
    """Return this thread's array for decoding aside; new memory would cost page faults."""
    dtype, shape = decoder.dtype, decoder.codec.shape
    kept = getattr(_scratch, "array", None)
    if kept is None or kept.dtype != dtype or kept.shape != shape:
        kept = _scratch.array = np.empty(shape, dtype)
    return kept


def _decode_foreign(array: Array, codec: ForeignCodec, data: Any) -> NDArray:
    return decode_foreign(codec, data, array.chunks, array.dtype, array.fill_value)


# ---- the cache

_MAX_SHARE = 4
"""A chunk is kept only if so many like it could be, and all of a read if so many reads could be."""


class ChunkCache:
    """Decoded chunks, the least recently used of which make room for new ones.

    Parameters
    ----------
    max_bytes
        Of all samples together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._chunks: OrderedDict[Hashable, tuple[NDArray, Any]] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chunks)

    def takes(self, n_bytes: int) -> bool:
        """Return whether a chunk of so many bytes is kept at all."""
        return n_bytes * _MAX_SHARE <= self.max_bytes

    def find(self, keys: Iterable[Hashable | None]) -> list[NDArray | None]:
        """Return the samples of each chunk that is here, which cannot be changed, and None for
        others."""
        with self._lock:
            return [self._find(key) for key in keys]

    def put(self, key: Hashable, samples: NDArray, owner: Any) -> None:
        """Keep the samples of a chunk.

        Parameters
        ----------
        key
            All that tells the chunk from others.
        samples
            Of the whole chunk; nobody may write to them from now on.
        owner
            An object whose `id` is part of the key; it lives as long as its chunk, so that no
            other object can have its `id`.
        """
        samples.flags.writeable = False
        with self._lock:
            old = self._chunks.pop(key, None)
            self._n_bytes -= old[0].nbytes if old else 0
            self._chunks[key] = (samples, owner)
            self._n_bytes += samples.nbytes
            self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Set the bound, and forget what is over it."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._chunks.clear()
            self._n_bytes = 0

    def _find(self, key: Hashable | None) -> NDArray | None:
        found = self._chunks.get(key)
        if found is None:
            return None
        self._chunks.move_to_end(key)
        return found[0]

    def _shrink(self) -> None:
        while self._n_bytes > self.max_bytes:
            _, (samples, _) = self._chunks.popitem(last=False)
            self._n_bytes -= samples.nbytes


CACHE = ChunkCache(64 << 20)
"""Those of this process."""


@rejects_unknown_arguments
def set_cache_size(max_bytes: int) -> None:
    """Set how many bytes of decoded chunks this process caches; 0 turns the cache off.

    Parameters
    ----------
    max_bytes
        Size of the cache. The default is 64 MiB.
    """
    if max_bytes < 0:
        raise ValueError(f"max_bytes is {max_bytes}, expected 0 or more")
    CACHE.resize(max_bytes)


def _start_anew() -> None:
    # another thread of the parent process may have held the lock when it forked
    CACHE.__init__(CACHE.max_bytes)  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
