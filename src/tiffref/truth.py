"""What tifffile makes of the files behind an array, to hold against what references give.

Owns which file, and which part of its image, a chunk stands for. Not one byte is read by its
reference, so that a wrong reference cannot prove itself right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model.node import Array
from .references import References

__all__ = ["Truth", "find_truth"]

_MAX_DECODED_BYTES = 1 << 30
"""Of larger images only what is asked for is decoded; of others so many bytes are kept."""

_FAILURES = (OSError, ValueError, IndexError, KeyError, RuntimeError, ImportError)
"""What tifffile and the decoders raise for files that they cannot read."""


def find_truth(
    references: References, path: str, array: Array, options: Mapping[str, Any] | None = None
) -> Truth:
    """Give what an array is to be compared with.

    Parameters
    ----------
    path, array
        One of the arrays of `references`.
    options
        For the file systems of the sources.
    """
    for series in references.series:
        for level, row in enumerate(series.get("levels", ())):
            if row.get("path") == path and array.manifest.sources:
                n_new = len(series["sequence"]["dims"]) if "sequence" in series else None
                return Truth(array, (int(series["index"]), level), n_new, options)
    return Truth(array, None, None, options)


class Truth:
    """The images that tifffile decodes from the files of one array, while the context lasts.

    Parameters
    ----------
    array
        What references make of them.
    place
        Which image of each file it is: series and level; nothing for what is no image of a file,
        as coordinates are.
    n_new
        New axes of a sequence of files, each of which is a part of the array; or nothing where
        the first file gives it all: one TIFF, or an OME set, whose members name each other.
    options
        For the file systems of the files.
    """

    def __init__(
        self,
        array: Array,
        place: tuple[int, int] | None,
        n_new: int | None,
        options: Mapping[str, Any] | None,
    ) -> None:
        self._array = array
        self._place = place
        self._n_new = n_new
        self._options = dict(options or {})
        self._images: dict[int, Any] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Truth:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def _forget(self) -> None:
        """Forget the images, and close the files of large ones."""
        self._images.clear()
        self._open.close()

    def chunk(self, index: tuple[int, ...]) -> NDArray | str | None:
        """Give the samples that a chunk should have, without those past the end of the array.

        Parameters
        ----------
        index
            Of the chunk, along each dimension of the grid.

        Returns
        -------
        values
            What the file holds; or, in a clause, why that cannot be told; or nothing for a chunk
            without a file.
        """
        array, n_new = self._array, self._n_new or 0
        source = 0 if self._n_new is None else self._find_source(index)
        if source is None or self._place is None:
            return None
        image = self._decode(source, self._place)
        if isinstance(image, str):
            return image
        begin = self._find_begin(source, index[:n_new], image.shape)
        if begin is None:
            return f"tifffile gives another shape, {image.shape}"
        start = np.multiply(index, array.chunks)[n_new:]
        stop = np.minimum(start + array.chunks[n_new:], array.shape[n_new:])
        inside = tuple(slice(*pair) for pair in zip(start - begin, stop - begin, strict=True))
        try:
            return np.asarray(image[inside])[(np.newaxis,) * n_new]
        except _FAILURES as error:
            return _say_failure(error)

    def _find_source(self, index: tuple[int, ...]) -> int | None:
        """Find the file of a chunk; where no bytes of it are used, the only one at its place."""
        sources = self._array.manifest.source.reshape(self._array.grid)
        if sources[index] >= 0:
            return int(sources[index])
        near = np.unique(sources[index[: self._n_new]])
        near = near[near >= 0]
        return int(near[0]) if near.size == 1 else None

    def _find_begin(
        self, source: int, place: tuple[int, ...], shape: tuple[int, ...]
    ) -> NDArray[np.int64] | None:
        """Find where an image of this shape begins; nothing where it does not fit.

        Images that do not fill the array begin at the first of their chunks. If their chunks reach
        less far than they do, the first may be missing as well, and nothing is said.
        """
        array, n_new = self._array, len(place)
        begin = np.zeros(len(array.shape) - n_new, np.int64)
        if shape == array.shape[n_new:]:
            return begin
        if self._n_new is None or len(shape) != len(begin):
            return None
        own = np.argwhere(array.manifest.source.reshape(array.grid)[place] == source)
        chunks = np.array(array.chunks[n_new:])
        partial = np.array(shape) < array.shape[n_new:]
        begin[partial] = (own.min(axis=0) * chunks)[partial]
        last = (begin + shape - 1) // chunks
        return begin if np.array_equal(last[partial], own.max(axis=0)[partial]) else None

    def _decode(self, source: int, place: tuple[int, int]) -> Any:
        """Decode the image of a file once, or say why that cannot be."""
        if source not in self._images:
            kept = sum(one.nbytes for one in self._images.values() if not isinstance(one, str))
            if kept > _MAX_DECODED_BYTES:
                self._forget()
            self._images[source] = self._read(self._array.manifest.sources[source].url, *place)
        return self._images[source]

    def _read(self, url: str, series: int, level: int) -> Any:
        """Give the image of a file as an array, or as what is indexed like one if it is large."""
        import fsspec
        import tifffile

        import zarr

        try:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(fsspec.open(url, "rb", **self._options))
                tif = stack.enter_context(tifffile.TiffFile(file, name=url))
                image = tif.series[series].levels[level]
                if image.nbytes <= _MAX_DECODED_BYTES:
                    return image.asarray()
                array = zarr.open_array(stack.enter_context(image.aszarr()), mode="r")
                self._open.push(stack.pop_all())
                return array
        except _FAILURES as error:
            return _say_failure(error)


def _say_failure(error: Exception) -> str:
    return f"tifffile cannot decode it: {type(error).__name__}: {error}"
