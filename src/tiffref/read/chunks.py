"""Decode single chunks, and cache decoded chunks of local files.

Uncompressed samples are viewed without a copy; other chunks are decoded directly into the result if
possible, else into a scratch array. Decoding itself is in `codecs`, and in `codecs.foreign` for
documents of other programs.

Overlapping windows, and rows read one by one, need the same tile many times, and decompression
takes most of the time of a read. Readers of whole chunks need each only once. Therefore chunks are
cached if a read needs some only in part; of a large read, only the partial ones. The size limit is
for the whole process, which may have thousands of stores. The key of a chunk is the state of its
file (device, inode, size, modification times), the byte range and the codec, so that chunks of a
modified file are never found. Chunks are not cached if finding the state costs a request, or if the
file was modified so recently that its next change might get the same time.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.decode import SegmentDecoder, split_inlined, undo_transposes
from ..codecs.foreign import decode_foreign
from ..codecs.guard import check_expansion
from ..errors import SelectionError, checked
from ..io.clients import after_fork
from ..model.array import Array
from ..model.codec import ForeignCodec, SegmentCodec

_scratch = threading.local()

Decoder = SegmentDecoder | ForeignCodec
"""Decoder of all chunks of one codec."""


def make_decoder(codec: SegmentCodec | ForeignCodec) -> Decoder:
    """Return the decoder for chunks of a codec; errors as in `SegmentDecoder`."""
    return codec if isinstance(codec, ForeignCodec) else SegmentDecoder(codec)


def is_stored_plain(codec: SegmentCodec | ForeignCodec) -> bool:
    """Return whether the stored bytes are the uncompressed samples, in either byte order."""
    return isinstance(codec, SegmentCodec) and codec.is_plain


def stored_dtype(codec: SegmentCodec) -> np.dtype:
    """Return the dtype of the stored samples, with their byte order."""
    return np.dtype(codec.dtype).newbyteorder(">" if codec.byteorder == ">" else "<")


def view_plain(
    codec: SegmentCodec, data: Any, shape: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray:
    """View stored samples as an array, in their byte order.

    Parameters
    ----------
    codec
        A codec for which `is_stored_plain` is true.
    data
        The bytes from the first to the last sample of the view.
    shape
        Shape of the view.
    strides
        Strides in samples, not bytes.
    """
    dtype = stored_dtype(codec)
    return np.ndarray(shape, dtype, data, 0, tuple(n * dtype.itemsize for n in strides))


def decode_chunk(array: Array, decoder: Decoder, data: Any, target: NDArray, inner: Any) -> None:
    """Decode a chunk and copy its selected samples to a part of the result.

    Parameters
    ----------
    array
        Array of the chunk.
    decoder
        Decoder of the chunk's codec.
    data
        Bytes of the chunk.
    target
        Part of the result.
    inner
        Slices of the selected samples in the chunk; None for all.

    Raises
    ------
    MalformedTiff
        If the bytes are not such a chunk.
    """
    if isinstance(decoder, ForeignCodec):
        block = decode_foreign(decoder, data, array.chunks, array.dtype)
    elif inner is None and target.flags.c_contiguous and not decoder.codec.transposes:
        decoder.decode(data, target.reshape(decoder.codec.shape))
        return
    else:
        decoder.check_stored(len(data))
        samples = decoder.decode(data, _scratch_array(decoder))
        block = undo_transposes(decoder.codec, samples).reshape(array.chunks)
    target[...] = block if inner is None else block[inner]


def decode_whole(array: Array, decoder: Decoder, data: Any) -> NDArray:
    """Decode a chunk into a new array; parameters and errors as in `decode_chunk`."""
    block = np.empty(array.chunks, array.dtype)
    decode_chunk(array, decoder, data, block, None)
    return block


def decode_inlined(array: Array, flat: int) -> NDArray:
    """Decode an inlined chunk; errors as in `decode_chunk`."""
    codec, data = array.codecs[0], memoryview(array.manifest.data(flat))
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if isinstance(codec, SegmentCodec):
        own, data = split_inlined(codec, data)
        if own.transposes != codec.transposes:  # the array's transposes apply to all chunks
            own = replace(own, shape=codec.shape, transposes=codec.transposes)
        codec = own
        if is_stored_plain(codec) and len(data) == n_bytes:
            # also for dtypes that no segment has, such as strings of a coordinate
            return view_plain(codec, data, (math.prod(array.chunks),), (1,)).reshape(array.chunks)
    check_expansion(len(data), n_bytes)
    return decode_whole(array, make_decoder(codec), data)


def _scratch_array(decoder: SegmentDecoder) -> NDArray:
    """Return this thread's array for decoding, reused because new memory costs page faults."""
    dtype, shape = decoder.dtype, decoder.codec.shape
    array = getattr(_scratch, "array", None)
    if array is None or array.dtype != dtype or array.shape != shape:
        array = _scratch.array = np.empty(shape, dtype)
    return array


# ---- the cache

_MIN_ENTRIES = 4
"""Chunks, or all chunks of a read, are cached only if this many of the same size would fit."""


class ChunkCache:
    """LRU cache of decoded chunks.

    Parameters
    ----------
    max_bytes
        Size limit; 0 disables the cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._chunks: OrderedDict[Hashable, tuple[NDArray, Any]] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chunks)

    def accepts(self, n_bytes: int) -> bool:
        """Return whether chunks of this size are cached."""
        return n_bytes * _MIN_ENTRIES <= self.max_bytes

    def find(self, keys: Iterable[Hashable | None]) -> list[NDArray | None]:
        """Return the read-only samples of each chunk; None for those that are not cached."""
        with self._lock:
            return [self._find(key) for key in keys]

    def put(self, key: Hashable, samples: NDArray, owner: Any) -> None:
        """Add the samples of a chunk.

        Parameters
        ----------
        key
            Unique key of the chunk.
        samples
            Samples of the whole chunk; they become read-only.
        owner
            An object whose `id` is part of the key; it is kept alive with the chunk, so that no
            other object can get the same `id`.
        """
        samples.flags.writeable = False
        with self._lock:
            if key in self._chunks:
                self._n_bytes -= self._chunks.pop(key)[0].nbytes
            self._chunks[key] = (samples, owner)
            self._n_bytes += samples.nbytes
            self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Set the size limit, and evict chunks over it."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Remove all chunks."""
        with self._lock:
            self._chunks.clear()
            self._n_bytes = 0

    def _find(self, key: Hashable | None) -> NDArray | None:
        samples, _ = self._chunks.get(key, (None, None))
        if samples is not None:
            self._chunks.move_to_end(key)
        return samples

    def _shrink(self) -> None:
        while self._n_bytes > self.max_bytes:
            _, (samples, _) = self._chunks.popitem(last=False)
            self._n_bytes -= samples.nbytes


CACHE = ChunkCache(64 << 20)
"""The cache of this process."""


@checked()
def set_cache_size(max_bytes: int) -> None:
    """Set how many bytes of decoded chunks this process caches; 0 turns the cache off.

    Parameters
    ----------
    max_bytes
        Size of the cache. The default is 64 MiB.
    """
    if max_bytes < 0:
        raise SelectionError(f"max_bytes is {max_bytes}", expected="0 or more")
    CACHE.resize(max_bytes)


@after_fork
def _reset_cache() -> None:
    # another thread of the parent process may have held the lock when it forked
    CACHE.__init__(CACHE.max_bytes)  # type: ignore[misc]
