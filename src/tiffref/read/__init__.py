"""Reading arrays through their manifests: byte ranges in, samples out.

Owns the read engine: `read_array` gives a region of an array as NumPy array, `fetch_chunks` the
stored bytes of chunks. It knows nothing of Zarr (see `tiffref.zarr`).
"""

from .chunks import set_cache_size
from .engine import read_array
from .fetch import Fetcher

__all__ = ["Fetcher", "read_array", "set_cache_size"]
