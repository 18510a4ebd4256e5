"""Arrays of a document, checked beyond what their metadata says.

Owns what needs a look at codecs and chunks together. It opens nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..codecs.zarr2 import to_zarr2
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.node import Array
from .findings import Finding

__all__ = ["check_array", "name_chunk"]


def check_array(path: str, array: Array) -> Iterator[Finding]:
    """Find codecs that are not known here, and plain chunks of a wrong length."""
    yield from _check_codec(path, array)
    yield from _check_lengths(path, array)


def name_chunk(path: str, array: Array, flat: int) -> str:
    """Name a chunk by its array and its index, for people."""
    shape: Any = array.grid
    return f"{path} chunk {tuple(map(int, np.unravel_index(flat, shape)))}"


def _check_codec(path: str, array: Array) -> Iterator[Finding]:
    for codec in array.codecs:
        if isinstance(codec, ForeignCodec):
            for name in _unknown_codecs(codec):
                yield Finding(
                    "unknown-codec",
                    "metadata",
                    "the codec is not known here",
                    path,
                    name,
                    "a codec that some installed package registers",
                )


def _unknown_codecs(codec: ForeignCodec) -> list[str]:
    metadata = codec.metadata
    if codec.zarr_format == 2:
        import numcodecs.registry

        known = {*numcodecs.registry.codec_registry, *numcodecs.registry.entries}
        configs = [*(metadata.get("filters") or ()), metadata.get("compressor")]
        names = [str(config.get("id")) for config in configs if config]
        return [name for name in names if name not in known]
    configs = [*(metadata.get("codecs") or ())]
    names = [config if isinstance(config, str) else str(config.get("name")) for config in configs]
    return [name for name in names if not _is_zarr_codec(name)]


def _is_zarr_codec(name: str) -> bool:
    from zarr.registry import get_codec_class

    try:
        get_codec_class(name)
    except (KeyError, ValueError):  # zarr 3.1 and 3.4
        return False
    return True


def _check_lengths(path: str, array: Array) -> Iterator[Finding]:
    """Find chunks that are stored plain and have not as many bytes as their samples."""
    if not _is_plain(array):
        return
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    manifest = array.manifest
    has_range = (manifest.source >= 0) & (manifest.length > 0)
    bad = np.flatnonzero(has_range & (manifest.length != n_bytes)).tolist()
    bad += [flat for flat, data in manifest.inlined.items() if len(data) != n_bytes]
    if bad:
        flat = bad[0]
        data = manifest.inlined.get(flat)
        length = int(manifest.length[flat]) if data is None else len(data)
        yield Finding(
            "length",
            "chunks",
            "an uncompressed chunk has another number of bytes than its samples",
            name_chunk(path, array, flat),
            f"{length} bytes",
            f"{n_bytes} bytes",
            n_more=len(bad) - 1,
        )


def _is_plain(array: Array) -> bool:
    codec = array.codec
    if isinstance(codec, SegmentCodec) or codec.zarr_format == 2:
        encoding = to_zarr2(codec)
        return not encoding["filters"] and not encoding["compressor"]
    codecs = [*(codec.metadata.get("codecs") or ())]
    return len(codecs) == 1 and isinstance(codecs[0], Mapping) and codecs[0].get("name") == "bytes"
