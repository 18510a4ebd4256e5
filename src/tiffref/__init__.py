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
    "CHUNKMODE": "compat",
    "CatalogError": "errors",
    "InvalidReferences": "errors",
    "MalformedTiff": "errors",
    "ManifestMismatch": "errors",
    "MetadataWarning": "errors",
    "MissingExtra": "errors",
    "MissingSource": "errors",
    "References": "references",
    "SelectionError": "errors",
    "SourceError": "errors",
    "StaleSource": "errors",
    "TiffFile": "compat",
    "TiffSequence": "compat",
    "TiffWriter": "compat",
    "TiffrefError": "errors",
    "TruncationWarning": "errors",
    "UnknownArgument": "errors",
    "UnsupportedTiff": "errors",
    "UntrustedSource": "errors",
    "append_sequence": "sequences.stack",
    "imread": "compat",
    "imwrite": "compat",
    "memmap": "compat",
    "refresh": "documents",
    "scan": "tiff.scan",
    "scan_sequence": "sequences.stack",
    "set_cache_size": "read.chunks",
    "validate": "validation",
}
"""Public name -> the module that holds it."""

_PACKAGES = frozenset({"catalog", "zarr"})
"""Public packages, which `import tiffref` makes available without loading them."""

__all__ = [*_HOMES]

if TYPE_CHECKING:
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
    if name not in _HOMES:
        # with the name, Python suggests the nearest one
        what = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(what, name=name, obj=sys.modules[__name__])
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    # a submodule of the same name would otherwise shadow the function once it is imported
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
