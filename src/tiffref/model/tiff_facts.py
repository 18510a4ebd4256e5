"""The parsed content of a TIFF file, as plain values.

Parsing returns these frozen records, which hold no tifffile types and no open file. Offsets and
lengths are arrays, so that a million segments cost no Python object each. Terms are those of
TIFF 6.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .manifest import Source


@dataclass(frozen=True, slots=True, eq=False)
class IfdFacts:
    """The tags of one IFD that describe its pixels.

    `shape` is normalized: (planes, depth, length, width, samples), where `planes` counts separate
    sample planes (PlanarConfiguration 2) and `samples` those stored together. `tile` is (depth,
    length, width) or None for strips. `bits` has one number if all samples have the same. `tags`
    maps tag numbers to plain values, without segment offsets and lengths. `tables` holds data that
    a decoder needs from elsewhere in the file, as bytes by name.
    """

    name: str
    byteorder: str
    shape: tuple[int, int, int, int, int]
    dtype: str | None
    compression: int
    predictor: int
    fill_order: int
    photometric: int
    bits: tuple[int, ...]
    sample_format: int | tuple[int, ...]
    tile: tuple[int, int, int] | None
    rows_per_strip: int
    is_separate: bool
    extra_samples: tuple[int, ...]
    subsampling: tuple[int, int]
    subfile_type: int
    tags: Mapping[int, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Size of the image in bytes, uncompressed."""
        return math.prod(self.shape) * (np.dtype(self.dtype).itemsize if self.dtype else 0)


@dataclass(frozen=True, slots=True, eq=False)
class LevelFacts:
    """One resolution level of a series: pages in C order of the leading dimensions.

    `shape` and `axes` are the same as in tifffile. `ifds` lists the distinct kinds of IFDs; `ifd`
    `(n_pages,)` int32 is the index in `ifds` of each page (-1: the page is missing). `source`
    `(n_pages,)` int32 is a row of `sources`. `offset` and `length` are `(n_pages, n_segments)`
    uint64.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: str
    ifds: tuple[IfdFacts, ...]
    sources: tuple[Source, ...]
    ifd: NDArray[np.int32]
    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]

    @property
    def sizes(self) -> dict[str, int]:
        """Length along each axis, by its code."""
        return dict(zip(self.axes, self.shape, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFacts:
    """One image of a file, with its pyramid levels; an exception if one cannot be represented.

    `index` is its position in the file, `number` that in the metadata, if these may describe more
    images.
    """

    index: int
    kind: str
    name: str
    axes: str
    levels: tuple[LevelFacts | Exception, ...]
    number: int | None = None

    @property
    def subfile_type(self) -> int:
        """NewSubfileType of the full-size level, 0 if it cannot be represented."""
        first = self.levels[0]
        return first.ifds[0].subfile_type if isinstance(first, LevelFacts) else 0


@dataclass(frozen=True, slots=True, eq=False)
class FileFacts:
    """One file: its series, and the metadata of its flavours (`ome`, `imagej`, ...) or None.

    If the series of the file's flavour cannot be used, `defect` is the reason, and the series are
    the plain pages of the file. `has_mask` is whether a mask is among its other series. `main` is
    the first series of the file, if only a mask or secondary image of it was selected.
    """

    source: Source
    series: tuple[SeriesFacts, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    defect: str = ""
    has_mask: bool = False
    main: SeriesFacts | None = None
