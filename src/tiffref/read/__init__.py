"""Read regions of arrays as NumPy arrays, from the byte ranges in their manifests.

Independent of Zarr; the Zarr stores are in `tiffref.zarr`.
"""

from .chunks import set_cache_size
from .engine import read_array
from .fetch import Fetcher

__all__ = ["Fetcher", "read_array", "set_cache_size"]
