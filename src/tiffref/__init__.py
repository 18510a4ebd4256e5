"""Make TIFF files, and sequences of them, readable as Zarr without copying a byte.

The public names are loaded when they are first used: `import tiffref` itself loads NumPy and the
standard library only.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "compat": "CHUNKMODE TiffFile TiffSequence TiffWriter imread imwrite memmap",
    "errors": "CatalogError InvalidReferences MalformedTiff ManifestMismatch MetadataWarning "
    "MissingExtra MissingSource SelectionError SourceError StaleSource TiffrefError "
    "TruncationWarning UnknownArgument UnsupportedTiff UntrustedSource",
    "references": "References",
    "sequences.stack": "append_sequence scan_sequence",
    "documents": "refresh",
    "tiff.scan": "scan",
    "read.chunks": "set_cache_size",
    "validation": "validate",
}  # fmt: skip
"""Modules -> the public names that they hold."""

_PACKAGES = frozenset({"catalog", "zarr"})
"""Public packages, which `import tiffref` makes available without loading them."""

__all__ = [
    "CHUNKMODE", "CatalogError", "InvalidReferences", "MalformedTiff", "ManifestMismatch",
    "MetadataWarning", "MissingExtra", "MissingSource", "References", "SelectionError",
    "SourceError", "StaleSource", "TiffFile", "TiffSequence", "TiffWriter", "TiffrefError",
    "TruncationWarning", "UnknownArgument", "UnsupportedTiff", "UntrustedSource",
    "append_sequence", "imread", "imwrite", "memmap", "refresh", "scan", "scan_sequence",
    "set_cache_size", "validate",
]  # fmt: skip
"""A literal, since mypy --strict exports nothing else to users."""

if TYPE_CHECKING:
    from . import catalog as catalog
    from . import zarr as zarr
    from .compat import CHUNKMODE, TiffFile, TiffSequence, TiffWriter, imread, imwrite, memmap
    from .documents import refresh
    from .errors import (
        CatalogError,
        InvalidReferences,
        MalformedTiff,
        ManifestMismatch,
        MetadataWarning,
        MissingExtra,
        MissingSource,
        SelectionError,
        SourceError,
        StaleSource,
        TiffrefError,
        TruncationWarning,
        UnknownArgument,
        UnsupportedTiff,
        UntrustedSource,
    )
    from .read.chunks import set_cache_size
    from .references import References
    from .sequences.stack import append_sequence, scan_sequence
    from .tiff.scan import scan
    from .validation import validate


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    home = next((module for module, names in _HOMES.items() if name in names.split()), None)
    if home is None:
        # with the name, Python suggests the nearest one
        what = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(what, name=name, obj=sys.modules[__name__])
    value = getattr(import_module(f".{home}", __name__), name)
    # a submodule of the same name would otherwise shadow the function once it is imported
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
