"""Metadata of flavours that is in more than one place of a file, or in a file beside it.

Owns what tifffile, or an older version of it, does not gather by itself: the labels of NDTiff's
axes, the descriptions of all pages of a QPTIFF, the XML of Ventana, the OME-XML of a set in another
of its files, positions of a MetaMorph stage, which have signs. All else is taken as tifffile gives
it (see `vendor`).

References: NDTiff version 3, "Index file": a record of each plane starts with its axes as JSON;
"PerkinElmer QPTIFF image format": the XML of each page says which channel it is; OME-TIFF
specification, "BinaryOnly"; MetaMorph Stack format, UIC4Tag.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..metadata.ome_xml import metadata_file

if TYPE_CHECKING:
    from tifffile import TiffFile

__all__ = ["OWN_METADATA"]

_XMP, _UIC2, _UIC4 = 700, 33629, 33631
_MAX_BYTES = 1 << 26
"""Of a file with metadata, or of a tag with it."""


def _ndtiff(tif: TiffFile) -> dict[str, Any]:
    """Return the file's own metadata, with the labels of each axis as `Labels`, by its name.

    They are in the order of their first use, which is that of tifffile's indices.
    """
    from tifffile import read_ndtiff_index

    labels: dict[str, dict[str, None]] = {}
    index = Path(tif.filehandle.dirname) / "NDTiff.index"
    for axes, *_ in read_ndtiff_index(index):
        for axis, place in axes.items():
            if isinstance(place, str):
                labels.setdefault(axis, {})[place] = None
    names = {axis: list(found) for axis, found in labels.items()}
    return {**(tif.micromanager_metadata or {}), "Labels": names}


def _qpi(tif: TiffFile) -> list[str]:
    """Return the XML of the pages of the main series, one for each channel."""
    return [page.aspage().description for page in tif.series[0] if page is not None]


def _bif(tif: TiffFile) -> Any:
    """Return the XML of the first page, whichever page is the image."""
    return tif.pages.first.tags.valueof(_XMP)


def _ome(tif: TiffFile) -> Any:
    """Return the OME-XML; for a member whose metadata is in another file, that file and its XML."""
    text = tif.ome_metadata
    name = metadata_file(text) if text else None
    if name is None:
        return text
    path = Path(tif.filehandle.dirname) / name
    # only a neighbour: the name is what the file says
    is_near = bool(tif.filehandle.dirname) and Path(name).name == name and path.is_file()
    return {"file": name, "xml": _read_ome(path) if is_near else ""}


def _read_ome(path: Path) -> str:
    """Read the OME-XML of a file that holds nothing else, or of a TIFF."""
    with path.open("rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            file.seek(0)
            return file.read(_MAX_BYTES).decode("utf-8-sig", "replace")
    from tifffile import TiffFile

    with TiffFile(path) as other:
        return other.ome_metadata or ""


def _stk(tif: TiffFile) -> dict[str, Any]:
    """Get what tifffile gives, with the positions of the stage as `Stage`, a pair for each plane.

    tifffile takes their numerators for unsigned numbers.
    """
    found = dict(tif.stk_metadata or {})
    tags = tif.pages.first.tags
    if _UIC4 in tags and _UIC2 in tags:
        tif.filehandle.seek(tags[_UIC4].valueoffset)
        data = tif.filehandle.read(_MAX_BYTES)
        found["Stage"] = list(_stage_positions(data, tags[_UIC2].count))
    return found


def _stage_positions(data: bytes, n_planes: int) -> Iterator[tuple[float, float]]:
    """Find record 28 of UIC4: x and y of each plane, as fractions of signed numbers.

    The records before it are those with a place for each plane, or a few numbers.
    """
    at = 0
    while at + 2 <= len(data):
        (code,) = struct.unpack_from("<H", data, at)
        at += 2
        if code == 28 and at + 16 * n_planes <= len(data):
            for x, x_unit, y, y_unit in struct.iter_unpack("<4i", data[at : at + 16 * n_planes]):
                yield x / (x_unit or 1), y / (y_unit or 1)
            return
        if code not in _UIC4_SIZES:
            return
        per_plane, fixed = _UIC4_SIZES[code]
        at += per_plane * n_planes + fixed
    return


_UIC4_SIZES = {
    **dict.fromkeys((0, 1, 2, 3, 8, 9, 11, 12, 13, 14, 15, 18, 26, 27, 47, 51, 56, 61), (0, 4)),
    **dict.fromkeys((4, 5, 16, 17, 21, 22, 23, 24, 38, 39), (0, 8)),
    29: (16, 0), 40: (8, 0), 41: (4, 0), 46: (0, 8),
}  # fmt: skip
"""Bytes of a record for each plane, and besides."""


OWN_METADATA: Mapping[str, Callable[[TiffFile], Any]] = {
    "ndtiff": _ndtiff,
    "qpi": _qpi,
    "bif": _bif,
    "ome": _ome,
    "stk": _stk,
}
"""Readers by flavour."""
