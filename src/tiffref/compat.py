"""The entrances that look like tifffile's: `imread`, `TiffFile`, `TiffSequence`, `CHUNKMODE`.

Owns tifffile's argument names and what they mean here, so that code written for tifffile runs with
`import tiffref as tifffile`. Stores are ours; everything that is no store is tifffile's own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tifffile
from tifffile import TiffWriter, imwrite, memmap

from .errors import SelectionError, check_arguments
from .io.allow import is_local
from .sequences.inputs import in_archive, is_many
from .zarr import ZarrFileSequenceStore, ZarrStore, ZarrTiffStore
from .zarr.keyspace import CHUNKMODE

__all__ = ["CHUNKMODE", "TiffFile", "TiffSequence", "TiffWriter", "imread", "imwrite", "memmap"]

_HINTS = frozenset(
    {
        *("maxworkers", "buffersize", "ioworkers", "lock"),
        *("chunkshape", "chunkdtype"),  # what a look into the first file tells
        "multiscales",  # stores of pyramids open as array and as group
    }
)
"""Arguments of tifffile that say how to work, not what comes out; here they change nothing."""

_REFUSED = {
    "squeeze": "Stores have no dimensions of length 1, as tifffile's have none by default.",
    "kind": "Choose with series= among the series that tifffile finds by default.",
    "sort": "Give the files as a list, in the order that they shall have.",
    "axestiled": "tiffref.scan_sequence(..., concat=...) joins files side by side.",
    "dimension_names": "Rename the dimensions where the store is read.",
    "out": "Read the store into the array: out[...] = store[...].",
}
"""Arguments of tifffile that stores do not have, and what to do instead."""

_OF_STORES = frozenset({"chunkmode", "fillvalue", "zattrs", "storage_options", "verify"})
"""Arguments of stores that a plain read of a local file has no use for."""

_OPEN_ARGUMENTS = frozenset({"mode", "name", "offset", "size", "omexml", "superres", "_multifile"})
"""Arguments that say how a file is opened as TIFF."""

_PARTS = (tifffile.TiffPage, tifffile.TiffFrame, tifffile.TiffPageSeries)
"""What tifffile makes of a file, each with an `aszarr` of its own."""


class TiffFile(tifffile.TiffFile):  # type: ignore[misc]  # final to type checkers only
    """tifffile's `TiffFile`; its `aszarr`, also of pages and series, returns tiffref's stores."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for part in _PARTS:
            _divert(part)
        super().__init__(*args, **kwargs)

    def aszarr(  # type: ignore[override]  # another store
        self,
        key: int | slice | Sequence[int] | None = None,
        *,
        series: int | tifffile.TiffPageSeries | None = None,
        level: int | None = None,
        **options: Any,
    ) -> ZarrTiffStore:
        """Return the file, or a part of it, as a Zarr store.

        Parameters
        ----------
        key, series, level
            Page or pages; series; pyramid level.
        options
            As of `ZarrTiffStore`, and arguments of tifffile's `aszarr` that only say how to work.

        Raises
        ------
        TypeError
            If there is no such argument.
        """
        source: Any = self
        if isinstance(series, tifffile.TiffPageSeries):
            source, series = series, None
        return ZarrTiffStore(source, key=key, series=series, level=level, **_accepted(options))


class TiffSequence(tifffile.TiffSequence):  # type: ignore[misc]  # as TiffFile
    """tifffile's `TiffSequence`; its `aszarr` returns tiffref's store."""

    def aszarr(self, **options: Any) -> ZarrFileSequenceStore:  # type: ignore[override]
        """Return the files as a Zarr store; options as of `ZarrFileSequenceStore`."""
        return ZarrFileSequenceStore(self, **_accepted(options))


@functools.cache
def _divert(part: Any) -> None:
    """Make the `aszarr` of one of tifffile's classes give our store, for our `TiffFile` alone.

    Functions of tifffile make pages and series by the names of its classes, so that no subclass of
    ours can take their place. Those of a file that tifffile opened keep tifffile's store. Importing
    tiffref changes nothing: this is done when the first `TiffFile` is opened.
    """
    original = part.aszarr

    @functools.wraps(original)
    def aszarr(self: Any, **options: Any) -> Any:
        if isinstance(self.parent, TiffFile):
            return ZarrTiffStore(self, **_accepted(options))
        return original(self, **options)

    part.aszarr = aszarr


def imread(
    files: Any = None,
    *,
    aszarr: bool = False,
    return_as: str | None = None,
    selection: Any = None,
    key: int | slice | Sequence[int] | None = None,
    series: int | None = None,
    level: int | None = None,
    imread: Callable[..., Any] | None = None,
    imreadargs: Mapping[str, Any] | None = None,
    container: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Read an image from one or many TIFF files, or open it as a Zarr store.

    Parameters
    ----------
    files
        Path, URL, open binary file, sequence of paths or URLs, or glob pattern.
    aszarr, return_as
        True or "zarr" returns a store instead of an array.
    selection
        Region to read, as in NumPy's basic indexing. Only the bytes for it are read.
    key, series, level
        As in `tiffref.zarr.ZarrTiffStore`.
    imread
        As in `tiffref.zarr.ZarrFileSequenceStore`.
    imreadargs
        Arguments of the function `imread`; without one, options for each file.
    container
        ZIP file that holds the files.
    options
        Further arguments of `tifffile.imread` and of the stores: `chunkmode`, `fillvalue`,
        `zattrs`, `storage_options`, `verify`, `pattern`, `axesorder`, `categories`, ...

    Returns
    -------
    store or array
        With `aszarr`, a `ZarrTiffStore` for one file and a `ZarrFileSequenceStore` for several;
        otherwise a NumPy array.

    Raises
    ------
    TypeError
        If there is no such argument.
    SelectionError
        If it is an argument of tifffile that stores do not support.
    """
    wants_store = aszarr or return_as == "zarr"
    choice: dict[str, Any] = {"key": key, "series": series, "level": level}
    naming = {name: options.pop(name, None) for name in ("pattern", "axesorder", "categories")}
    sequence = {"imread": imread, **naming}
    if not wants_store and selection is None and not _is_url(files):
        given = {name: value for name, value in options.items() if name not in _OF_STORES}
        _check_options(given)
        given |= {**choice, **sequence, "imreadargs": imreadargs, "container": container}
        return tifffile.imread(files, **_given({**given, "return_as": return_as}))
    _check_options(options, *_takers())
    if imread is None:
        choice |= imreadargs or {}
    elif imreadargs:
        sequence["imread"] = functools.partial(imread, **imreadargs)
    if container is not None:
        files = in_archive("*" if files is None else files, os.fspath(container))
    store = _open_store(files, sequence, {**choice, **_accepted(options)})
    if wants_store and selection is None:
        return store
    with store:
        return store[... if selection is None else selection]


def _check_options(options: Mapping[str, Any], *takers: Callable[..., Any]) -> None:
    named = [name for name in options if not name.startswith("is_")]
    check_arguments(named, imread, *takers, tifffile.imread, tifffile.TiffFile)


def _takers() -> tuple[Callable[..., Any], ...]:
    """Return what takes the arguments of stores."""
    from .sequences.stack import SequenceOptions, scan_sequence
    from .tiff.scan import scan

    return ZarrTiffStore, scan, ZarrFileSequenceStore, scan_sequence, SequenceOptions


def _open_store(files: Any, sequence: dict[str, Any], options: dict[str, Any]) -> ZarrStore:
    if isinstance(files, list | tuple) and len(files) == 1 and sequence["pattern"] is None:
        files = files[0]
    if is_many(files):
        return ZarrFileSequenceStore(files, **_given(sequence), **_given(options))
    names = {name for name in options if name in _OPEN_ARGUMENTS or name.startswith("is_")}
    opening = _given({name: options[name] for name in names})
    options = {name: value for name, value in options.items() if name not in names}
    if not opening:
        return ZarrTiffStore(files, **_given(options))
    with TiffFile(files, **opening) as tif:
        return tif.aszarr(**_given(options))  # type: ignore[return-value]  # see TiffFile


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _accepted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that matter here; refuse those of tifffile that stores do not have."""
    kept = {name: value for name, value in _given(options).items() if name not in _HINTS}
    if kept.get("squeeze") is True:
        del kept["squeeze"]
    refused = next((name for name in kept if name in _REFUSED), None)
    if refused is not None:
        raise SelectionError(
            "stores do not take this argument of tifffile",
            got=f"{refused}={kept[refused]!r}",
            hint=_REFUSED[refused],
        )
    return kept


def _is_url(files: Any) -> bool:
    first = files[0] if isinstance(files, list | tuple) and files else files
    return isinstance(first, str) and not is_local(first)
