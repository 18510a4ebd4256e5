"""Which pages make an image: tifffile's series, and what is done where it finds none.

Owns corrections to tifffile's list of series that do not depend on the flavour of a file.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence

from tifffile import TiffFile, TiffPage, TiffPageSeries

from .talk import PARSE_ERRORS, quiet

__all__ = ["list_series", "squeeze"]

_MAX_PLANES = 1 << 22
"""Planes of one image; tifffile makes a list of as many as XML says, which may be any number."""
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*")
_SIZE = re.compile(r"\bSize[CZT]\s*=\s*[\"'](\d{1,18})")
_INDEX = re.compile(r"\b(?:IFD|PlaneCount|NumPlanes|First[CZT]|[czr]|ifd)\s*=\s*[\"'](\d+)")
"""Numbers of planes, in OME-XML and in that of Leica slides."""


def list_series(tif: TiffFile) -> tuple[list[TiffPageSeries], str]:
    """List the series of a file.

    Returns
    -------
    series, defect
        `defect` says why they are but the pages as they are: what a flavour's metadata says of the
        pages makes no sense, or is more than tifffile knows, which must not cost the pixels.

    Raises
    ------
    What tifffile raises, if there are no pages either.
    """
    try:
        with quiet():
            if tif.is_ome or tif.is_scn:
                _check_planes(tif.pages.first.description)
            return _with_bare_directories(tif), ""
    except OSError:
        raise  # a file of a set that is not there, or cannot be read
    except PARSE_ERRORS as error:
        series = _by_likeness(tif)
        if not series:
            raise
        return series, f"{type(error).__name__}: {error}"


def _check_planes(text: str) -> None:
    """Refuse XML that speaks of more planes than any file has, before lists are made of them.

    Raises
    ------
    ValueError
    """
    counts = [math.prod(map(int, _SIZE.findall(one))) for one in _PIXELS.findall(text)]
    counts += [int(number[:19]) for number in _INDEX.findall(text)]
    if max(counts, default=0) > _MAX_PLANES:
        raise ValueError(f"the XML speaks of {max(counts)} planes")


def _with_bare_directories(tif: TiffFile) -> list[TiffPageSeries]:
    """Add a series for each directory that holds no image.

    Newer versions of tifffile count them; the numbers of series should not depend on it.
    """
    series = list(tif.series)
    if series and series[0].kind == "qpi":
        return _by_image_type(tif) or series
    if any(one.kind != "generic" for one in series):
        return series
    known = {page.offset for one in series for page in one if page is not None}
    bare = [page for page in tif.pages if page.offset not in known and page.shape == ()]
    series += [TiffPageSeries([page], (1,), "f8", "I", parent=tif, kind="generic") for page in bare]
    return series


_IMAGE_TYPE = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
_QPI_NAMES = {"Overview": "Macro", "FullResolution": "Baseline"}
"""Names of series by ImageType, where they are not the same."""


def _by_image_type(tif: TiffFile) -> list[TiffPageSeries]:
    """Make the series of a QPTIFF by the ImageType of each page; none if a page has none.

    tifffile goes by the order of the pages, and leaves out those that it does not expect.
    """
    alike: dict[tuple[str, tuple[int, ...]], list[TiffPage]] = {}
    for page in tif.pages:
        full = page.aspage()
        found = _IMAGE_TYPE.search(full.description)
        if found is None or not full.size:
            return []
        alike.setdefault((found[1], full.shape), []).append(full)
    series: list[TiffPageSeries] = []
    for (kind, shape), pages in alike.items():
        name = _QPI_NAMES.get(kind, kind)
        one = TiffPageSeries(
            pages, (len(pages), *shape), pages[0].dtype, f"C{pages[0].axes}", name=name, kind="qpi"
        )
        main = series[0] if series else one
        if kind == "ReducedResolution" and len(pages) == len(main.pages):
            main.levels.append(one)
        else:
            series.append(one)
    return series


def _by_likeness(tif: TiffFile) -> list[TiffPageSeries]:
    """Make a series of all pages that are alike; none if pages cannot be read."""
    alike: dict[int, list[TiffPage]] = {}
    with contextlib.suppress(*PARSE_ERRORS), quiet():
        for page in tif.pages:
            full = page.aspage()
            if full.size:
                alike.setdefault(full.hash, []).append(full)
        return [_stacked(tif, pages) for pages in alike.values()]
    return []


def _stacked(tif: TiffFile, pages: list[TiffPage]) -> TiffPageSeries:
    first = pages[0]
    shape = (len(pages), *first.shape)
    return TiffPageSeries(pages, shape, first.dtype, f"I{first.axes}", parent=tif, kind="generic")


def squeeze(shape: Sequence[int], axes: str) -> tuple[tuple[int, ...], str]:
    """Leave out dimensions of length 1 but x and y, as `imread` does."""
    kept = [
        n
        for n, (size, axis) in enumerate(zip(shape, axes, strict=True))
        if size > 1 or axis in "XY"
    ]
    kept = kept or [len(shape) - 1]
    return tuple(shape[n] for n in kept), "".join(axes[n] for n in kept)
