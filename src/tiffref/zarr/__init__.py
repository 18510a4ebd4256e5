"""TIFF files as Zarr stores.

Owns the stores: `ZarrTiffStore` over one file or reference document, `ZarrFileSequenceStore` over
many files, and their base, `ZarrStore`. They read through `tiffref.read`.
"""

from .base import ZarrStore
from .sequence import ZarrFileSequenceStore
from .tiff import ZarrTiffStore

__all__ = ["ZarrFileSequenceStore", "ZarrStore", "ZarrTiffStore"]
