"""Metadata of vendor formats: recognize them, check what they count, and read what tifffile omits.

Vendor files are recognized by tags and texts of their first IFDs (`is_vendor_file`). Metadata that
tifffile, or its older versions, do not collect is read here: the axis labels of NDTiff, the
descriptions of all pages of a QPTIFF, the XML of Ventana, OME-XML in another file of the set, and
signed stage positions of MetaMorph. Series are left to `vendor`.

References: NDTiff version 3, "Index file"; "PerkinElmer QPTIFF image format"; MetaMorph Stack
format, UIC4Tag.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MalformedTiff, TiffrefError
from ..metadata.microscopy import READERS
from .ifd import Directory, IfdFinding, TiffReader
from .ome import OmeFile
from .pages import Pages
from .series import MAX_PLANES

PARSE_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NotImplementedError,
    OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What tifffile raises on invalid files; SyntaxError comes from XML."""

_TAGS = frozenset(
    {33445, 33446, 33471, 33560, 33628, 33629, 33630, 33631, 34118, 34361, 34362, 34412, 34680,
     34682, 37706, 43314, 51123, 65420}
)  # fmt: skip
"""MD Gel, SIS, MetaMorph, Zeiss, FluoView, FEI, TVIPS, NIH, Micro-Manager, NDPI."""
TAG_VALUES = _TAGS - {33445, 33446, 65420}
"""Tags with structures that tifffile parses."""
_SOFTWARE = ("SI.", "PerkinElmer-QPI", "Philips DP", "IndicaLabsImageWriter", "MedScan",
             "TVX TIFF", "MetaSeries", "ScanOutputManager")  # fmt: skip
_DESCRIPTIONS = ("Aperio ", "Mikroscan Image Structure", "Motic ", "state.", "FLIMimage parameters")
_ARGOS_LABELS = frozenset({"Label Image", "Label_Image", "Probability_Image"})
_XMP, _UIC2, _UIC4, _SIS_INI = 700, 33629, 33631, 33471
_MD_SCALE, _MM_METADATA = 33446, 51123
_MM_MARKS = frozenset({54773648, 483765892, 99384722, 2355492, 483729})
"""Marks of index, display settings, comments and summary of Micro-Manager, and mark of NDTiff."""
_MAX_BYTES = 1 << 26
"""Largest metadata tag."""
_MAX_PROLOG = 2048
"""Characters before the first element of XML."""
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*")
_SIZE = re.compile(r"\bSize[CZT]\s*=\s*[\"'](\d{1,18})")
_INDEX = re.compile(
    r"\b(?:IFD|PlaneCount|NumPlanes|First[CZT]|[czr]|ifd|level|channel)\s*=\s*[\"'](-?\d+)"
)
"""Plane indices and counts in OME-XML and in the XML of Leica slides."""


def is_vendor_file(reader: TiffReader) -> bool:
    """Return whether this is a vendor file, whose series come from tifffile."""
    first = reader.first
    if _has_vendor_tags(first):
        return True
    if not first.next_offset:
        return False
    second = reader.chain(2)[1:]
    below = reader.directory(second[0]) if second else None
    return below is not None and 33445 in below  # MD Gel may store its tags on the second page


def _texts(ifd: Directory, *codes: int) -> list[str]:
    """Return the values of tags, "" for those without text."""
    values = [ifd.get(code) for code in codes]
    return [value if isinstance(value, str) else "" for value in values]


def _has_vendor_tags(ifd: Directory) -> bool:
    if not _TAGS.isdisjoint(ifd.entries):
        return True
    software, text, make = _texts(ifd, 305, 270, 271)
    return (
        software.startswith(_SOFTWARE)
        or text.startswith(_DESCRIPTIONS)
        or "<scn" in text[:_MAX_PROLOG]
        or "scanimage.SI" in text[-256:]
        or (700 in ifd and ("Ventana" in software or text in _ARGOS_LABELS))
        or (65000 in ifd and ifd.raw(65000, 6).startswith(b"<Argos"))
        or (65001 in ifd and ifd.raw(65001, 10).startswith(b"<metadata>"))
        or (text.startswith("# ") and software.startswith("TVX"))
        or make.startswith("Huron ")
    )


def claimed_formats(first: Directory) -> Iterator[str]:
    """Yield the formats that the first IFD claims, even if tifffile rejects them later because of
    truncated XML or missing pages."""
    software, text = _texts(first, 305, 270)
    if 34412 in first:
        yield "lsm"
    if _MD_SCALE in first:
        yield "mdgel"
    if software.startswith("Philips DP"):
        yield "philips"
    if text.startswith("Aperio ") and 322 not in first and first.next_offset:
        yield "svs"  # the first page is the slide, in tiles
    if "<scn" in text[:_MAX_PROLOG]:
        yield "scn"


def is_micromanager_stack(reader: TiffReader) -> bool:
    """Return whether the header has a mark of the blocks of a Micro-Manager stack or NDTiff."""
    if _MM_METADATA not in reader.first:
        return False
    marks = struct.unpack(f"{reader.header.byteorder}8I", reader.source.read(8, 32))
    return not _MM_MARKS.isdisjoint(marks)


@contextlib.contextmanager
def tifffile_errors(url: str, what: str = "cannot be parsed as TIFF") -> Iterator[None]:
    """Convert errors of tifffile to `MalformedTiff`."""
    try:
        with np.errstate(all="ignore"):  # rationals in MetaMorph tags may be 0/0
            yield
    except TiffrefError:
        raise
    except PARSE_ERRORS as error:
        raise MalformedTiff(what, url=url, got=f"{type(error).__name__}: {error}") from error


def vendor_metadata(file: Any) -> dict[str, Any]:
    """Return the metadata of a `VendorFile` by format."""
    metadata, tif, reader = {}, file.tif, file.reader
    for name in READERS:  # tifffile's names of formats
        try:
            with np.errstate(all="ignore"):
                if getattr(tif, f"is_{name}", False):
                    own = _OWN_METADATA.get(name)
                    value = own(file) if own else getattr(tif, f"{name}_metadata", None)
                    metadata[name] = value or None
        except SyntaxError as error:
            what = "the vendor's XML cannot be parsed"
            reader.findings.append(IfdFinding(what, reader.url, "0", 270, str(error), None, False))
        except PARSE_ERRORS:
            continue
    return metadata


# ---- corrections


_SIS_COUNT = re.compile(r"^\s*(?:Z|Band|Time|Count)\s*=\s*(\d+)", re.MULTILINE)


def check_planes(ifd: Directory) -> None:
    """Raise ValueError for XML or an INI file (Olympus SIS) of too many planes or negative indices.

    tifffile allocates lists of all planes.
    """
    text, ini = _texts(ifd, 270, _SIS_INI)
    counts = [math.prod(map(int, _SIZE.findall(sizes))) for sizes in _PIXELS.findall(text)]
    numbers = [*_INDEX.findall(text), *_SIS_COUNT.findall(ini)]
    counts += [int(number[:19]) for number in numbers]
    if min(counts, default=0) < 0:
        raise ValueError(f"the XML has the index {min(counts)}")
    if max(counts, default=0) > MAX_PLANES:
        raise ValueError(f"the metadata counts {max(counts)} planes")


def check_micromanager(tif: Any) -> None:
    """Raise ValueError if a Micro-Manager stack counts too many planes.

    tifffile allocates a list of those that the index spans, and in a set those of the summary.
    """
    metadata, handle = tif.micromanager_metadata or {}, tif.filehandle
    if "IndexMap" in metadata and isinstance(metadata.get("Summary"), Mapping):
        is_set = handle.is_file and len([*Path(handle.dirname).glob("*_MMStack*.tif")]) > 1
        summary = metadata["Summary"] if is_set else {}
        names = ("Channels", "Slices", "Frames", "Positions")
        last = zip(metadata["IndexMap"][:, :4].max(axis=0).tolist(), names, strict=True)
        n_planes = math.prod(max(n + 1, int(summary.get(name, 1))) for n, name in last)
        if n_planes > MAX_PLANES:
            raise ValueError(f"the index of Micro-Manager spans {n_planes} planes")


def has_pixels_element(ifd: Directory) -> bool:
    """Return whether the description is OME-XML with an image."""
    return bool(_PIXELS.search(_texts(ifd, 270)[0]))


_IMAGE_TYPE = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
_QPI_NAMES = {"Overview": "Macro", "FullResolution": "Baseline"}
"""Series names by ImageType, if different."""


def qptiff_series(tif: Any) -> list[Any]:
    """Return the series of a QPTIFF by the ImageType of each page; none if a page lacks it.

    tifffile relies on the order of the pages, and ignores unexpected ones.
    """
    from tifffile import TiffPageSeries

    if not tif.is_qpi:
        return []
    alike: dict[tuple[str, tuple[int, ...]], list[Any]] = {}
    for page in tif.pages:
        full = page.aspage()
        image_type = _IMAGE_TYPE.search(full.description)
        if image_type is None or not full.size:
            return []
        alike.setdefault((image_type[1], full.shape), []).append(full)
    series: list[Any] = []
    for (kind, shape), pages in alike.items():
        name = _QPI_NAMES.get(kind, kind)
        type_series = TiffPageSeries(
            pages, (len(pages), *shape), pages[0].dtype, f"C{pages[0].axes}", name=name, kind="qpi"
        )
        main = series[0] if series else type_series
        if kind == "ReducedResolution" and len(pages) == len(main.pages):
            main.levels.append(type_series)
        else:
            series.append(type_series)
    return series


# ---- metadata that tifffile does not collect


class NdtiffIndex:
    """The index of an NDTiff set, a record of each plane: position on each axis, file, offset.

    `labels` are the positions by name along each axis, in the order of first use, like tifffile's
    indices.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._first, self._is_cut_off = Path(folder), dict[str, int](), False
        axes_of, planes = dict[str, dict[Any, None]](), set()
        for record in _ndtiff_records((self._folder / "NDTiff.index").read_bytes()):
            if record is None:
                self._is_cut_off = True
                break
            axes, name, offset = record
            self._first.setdefault(name, offset)
            for axis, position in axes.items():
                axes_of.setdefault(axis, {})[position] = None
            planes.add((tuple(sorted(axes.items())), name, offset))
        labels = {axis: [n for n in some if isinstance(n, str)] for axis, some in axes_of.items()}
        self.labels = {axis: names for axis, names in labels.items() if names}
        self._n_spanned = math.prod(
            len(some) if axis in self.labels else int(max(some) - min(some) + 1)
            for axis, some in axes_of.items()
        )
        self._n_hidden = len(planes) - len({place for place, *_ in planes})

    def check(self, own_name: str, reader_of: Callable[[str], TiffReader]) -> None:
        """Raise ValueError for an index that tifffile would misread.

        tifffile allocates a list of as many planes as their positions span, and takes the first
        record of each file for its first page.
        """
        if self._n_spanned > MAX_PLANES:
            raise ValueError(f"NDTiff.index spans {self._n_spanned} planes")
        for name, offset in self._first.items():
            reader = reader_of("" if name == own_name else str(self._folder / name))
            if Pages(reader, [reader.first.offset]).columns.first_offset(0) != offset:
                what = f"the first plane of {name} in NDTiff.index is not its first page"
                raise ValueError(what)

    def defects(self) -> Iterator[str]:
        """Yield whether records are cut off, or at the place of others: tifffile reads the last."""
        if self._is_cut_off:
            yield "NDTiff.index is cut off"
        if self._n_hidden:
            yield f"{self._n_hidden} planes of NDTiff.index are at the place of others"


def _ndtiff_records(data: bytes) -> Iterator[tuple[dict[str, Any], str, int] | None]:
    """Yield axes, file and offset of each plane, and at last None if the index is cut off.

    A record is axes and file name, each with its length, and 32 bytes.
    """
    at = 0
    while at < len(data):
        try:
            (n_axes,) = struct.unpack_from("<I", data, at)
            (n_name,) = struct.unpack_from("<I", data, at + 4 + n_axes)
            end = at + 8 + n_axes + n_name
            (offset,) = struct.unpack_from("<I28x", data, end)
            axes = json.loads(data[at + 4 : at + 4 + n_axes])
        except (struct.error, ValueError):
            yield None
            return
        yield axes, data[end - n_name : end].decode("utf-8", "replace"), offset
        at = end + 32


def _ndtiff(file: Any) -> dict[str, Any]:
    """Return the file's metadata, with the labels of each axis as `Labels`."""
    return {**(file.tif.micromanager_metadata or {}), "Labels": file.ndtiff_index.labels}


def _qpi(file: Any) -> list[str]:
    """Return the XML of each page of the main series, one per channel."""
    return [page.aspage().description for page in file.tif.series[0] if page is not None]


def _ome(file: Any) -> Any:
    """Return the OME-XML; if another file of the set holds it, the name and XML of that file."""
    with contextlib.closing(OmeFile(file.reader)) as ome:
        return ome.metadata()["ome"]


def _stk(file: Any) -> dict[str, Any]:
    """Return tifffile's metadata, plus the stage position of each plane as `Stage`.

    tifffile reads the numerators of the positions as unsigned.
    """
    metadata = dict(file.tif.stk_metadata or {})
    tags = file.tif.pages.first.tags
    if _UIC4 in tags and _UIC2 in tags:
        file.tif.filehandle.seek(tags[_UIC4].valueoffset)
        data = file.tif.filehandle.read(_MAX_BYTES)
        metadata["Stage"] = list(_stage_positions(data, tags[_UIC2].count))
    return metadata


def _stage_positions(data: bytes, n_planes: int) -> Iterator[tuple[float, float]]:
    """Yield x and y of each plane from record 28 of UIC4, which are signed rationals.

    Earlier records are skipped; their sizes depend on the number of planes.
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


_UIC4_SIZES = {
    **dict.fromkeys((0, 1, 2, 3, 8, 9, 11, 12, 13, 14, 15, 18, 26, 27, 47, 51, 56, 61), (0, 4)),
    **dict.fromkeys((4, 5, 16, 17, 21, 22, 23, 24, 38, 39), (0, 8)),
    29: (16, 0), 40: (8, 0), 41: (4, 0), 46: (0, 8),
}  # fmt: skip
"""Size of UIC4 records: bytes per plane, and fixed bytes."""


def _sis(file: Any) -> Any:
    check_planes(file.reader.first)
    return file.tif.sis_metadata


_OWN_METADATA: Mapping[str, Callable[[Any], Any]] = {
    "sis": _sis,
    "ndtiff": _ndtiff,
    "qpi": _qpi,
    # the XML of the first page, even if another page is the image
    "bif": lambda file: file.tif.pages.first.tags.valueof(_XMP),
    "ome": _ome,
    "stk": _stk,
}
"""Readers of metadata that tifffile, or its older versions, do not collect, by format."""
