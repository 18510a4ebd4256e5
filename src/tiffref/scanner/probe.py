"""Look at a few stored segments before promising how all of them decode.

Owns the check that the portable codec of an array really gives whole chunks, and the inlining of
the few chunks that need other treatment. Reads bytes through a function that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numcodecs
import numpy as np

from ..codecs.decode import decode_segment
from ..codecs.segment import wrap_inlined
from ..codecs.zarr2 import to_zarr2
from ..errors import MalformedTiff, ManifestMismatch
from ..model.codec import SegmentCodec
from ..model.manifest import Manifest
from ..model.node import Array

__all__ = ["inline_minority", "inline_partial_strips", "is_exact", "probe_indices"]

_MAX_INLINED_BYTES = 1 << 20
_MAX_INLINED_STRIPS = 64

Fetch = Callable[[str, int, int], bytes]
"""(url, offset, length) -> bytes."""


def probe_indices(manifest: Manifest) -> list[int]:
    """Choose chunks that would show irregular storage: first, last, shortest, longest."""
    here = np.flatnonzero(manifest.source >= 0)
    if not here.size:
        return []
    length = manifest.length[here]
    chosen = {here[0], here[-1], here[int(length.argmin())], here[int(length.argmax())]}
    return sorted(int(n) for n in chosen)


def is_exact(codec: SegmentCodec, data: bytes) -> bool:
    """Say whether the portable spelling of a codec turns this segment into a whole chunk.

    Raises
    ------
    MalformedTiff
        If not even our own decoder can make a segment of the bytes.
    """
    chain = to_zarr2(codec)
    encoders = [chain["compressor"], *reversed(chain["filters"] or [])]
    if any(config and config["id"] == "tiffref_segment" for config in encoders):
        decode_segment(codec, data)
        return True
    buffer = data
    try:
        for config in encoders:
            if config:
                buffer = numcodecs.get_codec(dict(config)).decode(buffer)
    except (RuntimeError, ValueError, TypeError, OSError, EOFError, ArithmeticError):
        return False  # the portable codec is stricter than ours
    except Exception as error:
        # zlib and lzma have error types of their own that derive from Exception alone
        if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
            raise
        return False
    n_bytes = codec.n_samples * np.dtype(codec.dtype).itemsize
    return memoryview(np.ascontiguousarray(buffer)).nbytes == n_bytes


def inline_partial_strips(array: Array, rows: Iterable[int], n_rows: int, fetch: Fetch) -> Array | None:
    """Inline the partial last strips of an array, padded and encoded anew without loss.

    Parameters
    ----------
    array
        Its codec takes segments for whole.
    rows
        Flat indices of the chunks with a partial strip.
    n_rows
        Rows of the image in each of them.

    Returns
    -------
    None if the codec cannot encode, or the strips are too many or too large.
    """
    codec = array.codec
    assert isinstance(codec, SegmentCodec)
    chain = to_zarr2(codec)
    n_bytes = codec.n_samples * np.dtype(codec.dtype).itemsize
    indices = [n for n in rows if array.manifest.source[n] >= 0]
    ids = {config["id"] for config in [chain["compressor"], *(chain["filters"] or [])] if config}
    if len(indices) > _MAX_INLINED_STRIPS or not ids <= {"zlib", "zstd", "lzma", "delta"}:
        return None
    if len(indices) * n_bytes > 64 * _MAX_INLINED_BYTES:
        return None
    short = replace(codec, edge=(codec.shape[0], n_rows, codec.shape[2]))
    inlined, total = {}, 0
    for n in indices:
        whole = decode_segment(short, _chunk_bytes(array.manifest, n, fetch))
        buffer: object = np.ascontiguousarray(whole.astype(chain["dtype"], copy=False))
        for config in [*(chain["filters"] or []), chain["compressor"]]:
            if config:
                buffer = numcodecs.get_codec(dict(config)).encode(buffer)
        inlined[n] = bytes(memoryview(np.ascontiguousarray(buffer)).cast("B"))
        total += len(inlined[n])
        if total > _MAX_INLINED_BYTES:
            return None
    return replace(array, manifest=array.manifest.with_inlined(inlined))


def inline_minority(array: Array, fetch: Fetch) -> Array:
    """Make one codec of several: chunks of the rarer ones are inlined with their own description.

    Raises
    ------
    ManifestMismatch
        If there are too many bytes to inline.
    """
    manifest = array.manifest
    codec_of = np.array([s.codec for s in manifest.sources])
    here = manifest.source >= 0
    of_chunk = np.where(here, codec_of[np.maximum(manifest.source, 0)], -1)
    bytes_of = [int(manifest.length[of_chunk == n].sum()) for n in range(len(array.codecs))]
    major = int(np.argmax(bytes_of))
    minor = np.flatnonzero(here & (of_chunk != major))
    if sum(bytes_of) - bytes_of[major] > _MAX_INLINED_BYTES:
        raise ManifestMismatch(
            "pages of one series are stored in different ways, and too many bytes to inline",
            url=manifest.sources[0].url,
            got=f"{len(array.codecs)} codecs over {manifest.n_chunks} chunks",
            hint="Scan the pages one by one with `key=`.",
        )
    main = replace(array.codecs[major], parameters={**array.codecs[major].parameters, "is_mixed": 1})
    inlined = {
        int(n): wrap_inlined(array.codecs[of_chunk[n]], _chunk_bytes(manifest, int(n), fetch))
        for n in minor
    }
    manifest = manifest.with_inlined(inlined).with_sources(lambda s: replace(s, codec=0))
    return replace(array, codecs=(main,), manifest=manifest)


def _chunk_bytes(manifest: Manifest, n: int, fetch: Fetch) -> bytes:
    source = manifest.sources[manifest.source[n]]
    data = fetch(source.url, int(manifest.offset[n]), int(manifest.length[n]))
    if len(data) != manifest.length[n]:
        raise MalformedTiff(
            "a segment is cut off", url=source.url, tag=f"segment {n}", got=f"{len(data)} bytes",
            expected=f"{int(manifest.length[n])} bytes",
        )  # fmt: skip
    return data


def fetch_chunk(manifest: Manifest, n: int, fetch: Fetch) -> bytes:
    """Read the stored bytes of one chunk."""
    return manifest.inlined[n] if n in manifest.inlined else _chunk_bytes(manifest, n, fetch)


def n_last_rows(length: int, rows: int) -> int:
    """Rows of the image in its last strip.

    >>> n_last_rows(100, 64)
    36
    """
    return length - (math.ceil(length / rows) - 1) * rows
