"""Make TIFF files, and sequences of them, readable as Zarr without copying a byte.

The public names are loaded when they are first used: `import tiffref` itself loads NumPy and the
standard library only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "CHUNKMODE": "compat",
    "InvalidReferences": "errors",
    "MalformedTiff": "errors",
    "ManifestMismatch": "errors",
    "MetadataWarning": "errors",
    "References": "references",
    "TiffFile": "compat",
    "TiffSequence": "compat",
    "TiffWriter": "compat",
    "TiffrefError": "errors",
    "UnsupportedTiff": "errors",
    "append_sequence": "sequences.append",
    "imread": "compat",
    "imwrite": "compat",
    "memmap": "compat",
    "scan": "scanner.tiff",
    "scan_sequence": "sequences.stack",
    "validate": "validation",
}
"""Public name -> the module that holds it."""

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from .compat import CHUNKMODE, TiffFile, TiffSequence, TiffWriter, imread, imwrite, memmap
    from .errors import (
        InvalidReferences,
        MalformedTiff,
        ManifestMismatch,
        MetadataWarning,
        TiffrefError,
        UnsupportedTiff,
    )
    from .references import References
    from .scanner.tiff import scan
    from .sequences.append import append_sequence
    from .sequences.stack import scan_sequence
    from .validation import validate


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    # a submodule of the same name would otherwise shadow the function once it is imported
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
