"""TIFF files as Zarr stores.

Owns the stores: `ZarrTiffStore` over one file or reference document, `ZarrFileSequenceStore` over
many files, and their base, `ZarrStore`. They read through `tiffref.read`.
"""

from .sequence_store import ZarrFileSequenceStore
from .store import ZarrStore, ZarrTiffStore

__all__ = ["ZarrFileSequenceStore", "ZarrStore", "ZarrTiffStore"]
