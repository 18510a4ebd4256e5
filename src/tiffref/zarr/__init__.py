"""Read-only Zarr stores: of one TIFF or reference document, and of sequences of files.

They read chunks with `tiffref.read`.
"""

from .sequence_store import ZarrFileSequenceStore
from .store import ZarrStore, ZarrTiffStore

__all__ = ["ZarrFileSequenceStore", "ZarrStore", "ZarrTiffStore"]
