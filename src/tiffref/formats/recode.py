"""Small arrays stored anew, where a Zarr format cannot say how they are stored.

Owns what happens to codecs that are known only by their Zarr v2 name, as the shuffled coordinates
of `conventions.cf` are, when a document is written in Zarr v3: bytes that are in the manifest
itself are decoded and stored in a way that both formats can say. Bytes in files stay where they
are, and such an array is refused.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import numpy as np

from ..codecs.zarr2 import decode_foreign
from ..errors import InvalidReferences
from ..model.codec import ForeignCodec, SegmentCodec
from ..model.node import Array, Group

__all__ = ["in_format"]

_DEFLATE = 8


def in_format(group: Group, zarr_format: int, prefix: str = "") -> Group:
    """Give a group whose arrays can all be said in a Zarr format.

    Parameters
    ----------
    group
        The root, or the group at the path `prefix`, which ends with "/".
    zarr_format
        2 or 3.

    Raises
    ------
    InvalidReferences
        If an array has a codec of the other format, and bytes in files.
    """
    children: dict[str, Array | Group] = {}
    for name, child in group.children.items():
        if isinstance(child, Group):
            children[name] = in_format(child, zarr_format, f"{prefix}{name}/")
        else:
            children[name] = _array_in_format(prefix + name, child, zarr_format)
    return group.with_children(children)


def _array_in_format(path: str, array: Array, zarr_format: int) -> Array:
    codec = array.codecs[0]
    if not isinstance(codec, ForeignCodec) or codec.zarr_format == zarr_format:
        return array
    if zarr_format == 2 or (array.manifest.source >= 0).any():
        raise InvalidReferences(
            f"the codec is known only in Zarr v{codec.zarr_format}",
            tag=f"array '{path}'",
            got=f"zarr_format {zarr_format}",
            expected=f"zarr_format {codec.zarr_format}",
        )
    dtype = array.dtype.newbyteorder("<")
    inlined = {
        flat: zlib.compress(decode_foreign(codec, data, array.chunks).astype(dtype).tobytes())
        for flat, data in array.manifest.inlined.items()
    }
    own = SegmentCodec((1, 1, 1, math.prod(array.chunks)), np.dtype(dtype).str, _DEFLATE)
    return replace(array, codecs=(own,), manifest=replace(array.manifest, inlined=inlined))
