"""API compatible with tifffile: `imread`, `TiffFile`, `TiffSequence`, `CHUNKMODE`.

Code written for tifffile runs with `import tiffref as tifffile`. Zarr stores are tiffref's;
everything else is tifffile's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import tifffile
from tifffile import TiffWriter, imwrite, memmap

from .errors import SelectionError, check_arguments
from .io.allow import is_local
from .io.urls import check_address
from .sequences.inputs import in_archive, is_many, list_files, reader_of
from .sequences.names import has_fields
from .zarr import ZarrFileSequenceStore, ZarrStore, ZarrTiffStore
from .zarr.keyspace import CHUNKMODE

__all__ = ["CHUNKMODE", "TiffFile", "TiffSequence", "TiffWriter", "imread", "imwrite", "memmap"]

_IGNORED = frozenset(
    {
        *("maxworkers", "buffersize", "ioworkers", "lock", "mode", "_useframes"),
        *("out_inplace", "chunkshape", "chunkdtype"),  # the last two are read from the first file
        "multiscales",  # stores of pyramids open as array and as group
    }
)
"""Arguments of tifffile that do not affect results; ignored."""

_UNSUPPORTED = {
    "squeeze": "Stores have no dimensions of length 1, which is also tifffile's default.",
    "kind": "Select one of tifffile's default series with series=.",
    "sort": "Pass the files as a list in the desired order.",
    "axestiled": "Use tiffref.scan_sequence(..., concat=...) to join files along an axis.",
    "dimension_names": "Rename the dimensions after opening the store.",
    "out": "Read the store into the array: out[...] = store[...].",
}
"""Arguments of tifffile that stores do not support, and what to do instead."""

_STORE_ARGUMENTS = frozenset({"chunkmode", "fillvalue", "zattrs", "storage_options", "verify"})
"""Arguments of stores, ignored when reading a whole local file."""

_OPEN_ARGUMENTS = frozenset({"name", "offset", "size", "omexml", "superres", "_multifile"})
"""Arguments for opening a file."""

_PATCHED_CLASSES = (tifffile.TiffPage, tifffile.TiffFrame, tifffile.TiffPageSeries)
"""Classes of tifffile with an `aszarr` method."""


class TiffFile(tifffile.TiffFile):  # type: ignore[misc]  # final to type checkers only
    """tifffile's `TiffFile`; its `aszarr`, also of pages and series, returns tiffref's stores."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for part in _PATCHED_CLASSES:
            _patch_aszarr(part)
        super().__init__(*args, **kwargs)

    def __enter__(self) -> Self:
        super().__enter__()  # to type checkers, it returns tifffile's class
        return self

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
            As in `ZarrTiffStore`, and arguments of tifffile's `aszarr` that do not affect results.

        Raises
        ------
        TypeError
            If an argument is unknown.
        """
        source: Any = self
        if isinstance(series, tifffile.TiffPageSeries):
            source, series = series, None
        return ZarrTiffStore(source, key=key, series=series, level=level, **_supported(options))


class TiffSequence(tifffile.TiffSequence):  # type: ignore[misc]  # as TiffFile
    """tifffile's `TiffSequence`; its `aszarr` returns tiffref's store."""

    def aszarr(  # type: ignore[override]  # another store
        self,
        *,
        imread: Callable[..., Any] | None = None,
        imreadargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> ZarrFileSequenceStore:
        """Return the files as a Zarr store.

        Parameters
        ----------
        imread, imreadargs
            As in `tiffref.imread`; the default is the function of the sequence.
        options
            As in `ZarrFileSequenceStore`.
        """
        reader, given = imread or reader_of(self), imreadargs or {}
        given = {"imread": functools.partial(reader, **given)} if reader else given
        return ZarrFileSequenceStore(self, **_supported(options), **given)


@functools.cache
def _patch_aszarr(part: Any) -> None:
    """Patch `aszarr` of a tifffile class to return our store for parts of our `TiffFile`.

    tifffile creates pages and series by class name, so subclasses cannot replace them. Files opened
    with tifffile itself keep tifffile's store. The patch is applied when the first `TiffFile` is
    opened, not on import.
    """
    original = part.aszarr

    @functools.wraps(original)
    def aszarr(self: Any, **options: Any) -> Any:
        if isinstance(self.parent, TiffFile):
            return ZarrTiffStore(self, **_supported(options))
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
        Region to read, as in NumPy's basic indexing. Only the required bytes are read.
    key, series, level
        As in `tiffref.zarr.ZarrTiffStore`.
    imread
        As in `tiffref.zarr.ZarrFileSequenceStore`.
    imreadargs
        Arguments of the function `imread`; without it, options for each file.
    container
        ZIP file that contains the files.
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
        If an argument is unknown.
    SelectionError
        If it is an argument of tifffile that stores do not support.

    Examples
    --------
    >>> import tiffref
    >>> tiffref.imread("image.tif", selection=(slice(2), slice(3)))
    array([[  0,   1,   2],
           [768, 769, 770]], dtype=uint16)
    """
    _check_options({"aszarr": aszarr or False})
    wants_store = aszarr or return_as == "zarr"
    choice: dict[str, Any] = {"key": key, "series": series, "level": level}
    naming = {name: options.pop(name, None) for name in ("pattern", "axesorder", "categories")}
    sequence = {"imread": imread, **naming}
    passed = {**choice, **sequence, "imreadargs": imreadargs, "container": container}
    first = files[0] if isinstance(files, list | tuple) and files else files
    is_url = isinstance(first, str) and ("://" in first or not is_local(first))
    if not wants_store and selection is None and not is_url:
        given = {name: value for name, value in options.items() if name not in _STORE_ARGUMENTS}
        given |= passed
        _check_options(given)
        return tifffile.imread(files, **_without_none({**given, "return_as": return_as}))
    from .sequences.stack import SequenceOptions, scan_sequence
    from .tiff.scan import scan

    stores = ZarrTiffStore, scan, ZarrFileSequenceStore, scan_sequence, SequenceOptions
    _check_options(options | passed, *stores)
    if imread is None:
        choice |= imreadargs or {}
    elif imreadargs:
        sequence["imread"] = functools.partial(imread, **imreadargs)
    if container is not None:  # always a sequence, as in tifffile
        files = files if isinstance(files, list | tuple) else [files or "*"]
        files = in_archive(files, check_address(container))
    elif not any(sequence.values()):
        files = _only_file(files, options.get("storage_options"))
    is_array = selection is not None or not wants_store
    out = options.pop("out", None) if is_array else None
    store = _open_store(files, _without_none(sequence), _without_none(choice) | _supported(options))
    if not is_array:
        return store
    with store:
        return store.read(... if selection is None else selection, out=out)


def _check_options(options: Mapping[str, Any], *functions: Callable[..., Any]) -> None:
    named = {name: value for name, value in options.items() if not name.startswith("is_")}
    check_arguments(named, imread, *functions, tifffile.imread, tifffile.TiffFile)


def _open_store(files: Any, sequence: dict[str, Any], options: dict[str, Any]) -> ZarrStore:
    names = [name for name in options if name in _OPEN_ARGUMENTS or name.startswith("is_")]
    opening = {name: options.pop(name) for name in names}
    if is_many(files):
        opening.pop("name", None)
        if refused := sorted(opening.keys() & _OPEN_ARGUMENTS - {"_multifile"}):
            raise SelectionError(f"{refused[0]}= applies to a single file")
        if opening or "imread" in sequence:  # a function, by default tifffile's, reads whole files
            parts = {n: options.pop(n) for n in ("key", "series", "level") if n in options}
            reader = sequence.get("imread", tifffile.imread)
            sequence["imread"] = functools.partial(reader, **opening, **parts)
        return ZarrFileSequenceStore(files, **sequence, **options)
    if not opening:
        return ZarrTiffStore(files, **options)
    with TiffFile(files, **opening) as tif:
        return tif.aszarr(**options)  # type: ignore[return-value]  # see TiffFile


def _only_file(files: Any, storage_options: Mapping[str, Any] | None) -> Any:
    """Return the file of a list or glob of one, which tifffile reads alone, or else the files."""
    names = files if isinstance(files, list | tuple) else ()
    if isinstance(files, str) and is_many(files) and not has_fields(files):
        names = list_files(files, storage_options=storage_options).urls
    return names[0] if len(names) == 1 else files


def _without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _supported(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without ignored ones; refuse those that stores do not support."""
    supported = {n: value for n, value in _without_none(options).items() if n not in _IGNORED}
    for name in ("squeeze", "sort"):
        if supported.get(name) is True:
            del supported[name]
    refused = next((name for name in supported if name in _UNSUPPORTED), None)
    if refused is not None:
        raise SelectionError(
            "stores do not support this argument of tifffile",
            got=f"{refused}={supported[refused]!r}",
            hint=_UNSUPPORTED[refused],
        )
    return supported
