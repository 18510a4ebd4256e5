"""OME-TIFF: find the file and IFD of each plane.

Reads the TiffData elements into columns, opens the other files of a set, and finds SubIFD pyramids.
Pixel sizes, channels and times are left to `metadata.calibration`. The cost is linear in the number
of elements and planes of the XML.

Reference: OME-TIFF specification 6 (TiffData, multi-file filesets, sub-resolutions, BinaryOnly,
6D to 8D storage by modulo annotations); OME model 2016-06. Shapes and order are those of
`tifffile.imread`.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import compress, filterfalse
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ..errors import MalformedTiff, SourceError, TiffrefError, UntrustedSource
from ..io.clients import DaemonPool
from ..io.progress import ProgressCounter
from ..io.remote import open_source
from ..io.source import ByteSource, LocalSource
from ..metadata.calibration import MODULO, metadata_file, modulo_annotations, modulo_of
from ..metadata.report import XmlError, decode_xml, local_name, parse_xml
from ..model.tiff_facts import IfdFacts
from .ifd import TiffReader
from .pages import Level, Pages, Series, squeeze
from .series import MAX_PLANES, ImageFile, Listing, plain_series

_DESCRIPTION = 270
_MAX_DIGITS = 18
_MAX_BYTES = 1 << 26
"""Largest metadata file."""
_FILE_NAME = re.compile(r'FileName\s*=\s*"([^"]*)"')
_MAX_MISSING_NEIGHBORS, _MAX_NEIGHBORS = 8, 4096
_TYPES = {
    "int8": "i1", "int16": "i2", "int32": "i4", "uint8": "u1 b1", "uint16": "u2", "uint32": "u4",
    "float": "f4 f2", "double": "f8", "complex": "c8", "double-complex": "c16", "bit": "b1 u1",
}  # fmt: skip
"""Pixel types, and the dtypes in which pages may store them."""
_COMPANION = re.compile(r"\.(?:companion\.ome|ome\.xml)(?:\?|$)", re.IGNORECASE)
_ROOT = re.compile(r"<(?:\w+:)?OME[\s>]")
_MAX_PROLOG = 2048
_ROOT_ID = re.compile(r"<(?:\w+:)?OME\b[^>]*\bUUID\s*=\s*[\"']([^\"']*)")


class _InconsistentXml(ValueError):
    """The OME-XML is inconsistent; the pages are read as in a plain TIFF."""


def ome_text(reader: TiffReader) -> str | None:
    """Return the OME-XML in the first ImageDescription, even if cut off; else None."""
    text = reader.first.get(_DESCRIPTION)
    if not isinstance(text, str):
        return None
    is_whole = text[-10:].strip("\0 \t\r\n").endswith("OME>")
    is_begun = text.lstrip("\ufeff \t\r\n").startswith("<") and _ROOT.search(text[:_MAX_PROLOG])
    return text if is_whole or is_begun else None


class OmeFile(ImageFile):
    """A file with OME-XML; other files of its set are opened on demand."""

    def __init__(
        self, reader: TiffReader, siblings: dict[str, TiffReader | None] | None = None
    ) -> None:
        super().__init__(reader)
        self.described_by, self._counts, self._n_missing = reader.source, reader.counts, 0
        if siblings is not None:
            self._siblings = siblings

    def metadata(self) -> dict[str, Any]:
        """Return the OME-XML as item "ome".

        If another file holds the metadata (BinaryOnly), the item has the name of that `file`, its
        `xml`, which is empty if it cannot be read, and the `uuid` of this file.
        """
        text = ome_text(self.reader) or ""
        name = metadata_file(text)
        if name is None:
            return {"ome": text}
        xml, uuid = self._read_neighbor(name), _root_id(self.reader)
        return {"ome": {"file": name, "xml": xml, "uuid": uuid}}

    def _read_neighbor(self, name: str) -> str:
        """Read the OME-XML of a neighbouring file, which is a TIFF or the XML itself."""
        source = self.described_by.open_sibling(name)
        if source is None:
            return ""
        if source.read(0, 2) in (b"II", b"MM"):
            source.close()
            neighbor = self.find_neighbor(name)
            return (ome_text(neighbor) or "") if neighbor is not None else ""
        with closing(source):
            return decode_xml(source.read(0, min(source.size, _MAX_BYTES)))

    def find(self, path: str) -> TiffReader | None:
        """Return the reader of another file of the set, opened once; None if it does not exist."""
        if path not in self._siblings:
            try:
                source = open_source(path, allow=self.described_by.allow)
                self._siblings[path] = _read_chain(source, self._counts)
            except UntrustedSource:
                raise
            except SourceError:
                self._siblings[path] = None
        return self._siblings[path]

    def find_neighbor(self, name: str) -> TiffReader | None:
        """Return the reader of a neighbouring file, opened once; None if it does not exist."""
        self.open_neighbors([name])
        return self._siblings[name]

    def open_neighbors(self, names: Iterable[str]) -> None:
        """Open neighbouring files, several at the same time, as each costs requests.

        The search stops after several missing files.
        """
        left = [name for name in dict.fromkeys(names) if name not in self._siblings]
        pool = DaemonPool(_MAX_MISSING_NEIGHBORS, "tiffref-set")
        try:
            for n in range(0, len(left), _MAX_MISSING_NEIGHBORS):
                batch = left[n : n + _MAX_MISSING_NEIGHBORS]
                n_opened = len(self._siblings) - self._n_missing
                is_over = self._n_missing >= _MAX_MISSING_NEIGHBORS or n_opened >= _MAX_NEIGHBORS
                tasks = [pool.submit(self._open_neighbor, one) for one in batch if not is_over]
                readers = [task.result() for task in tasks]
                self._n_missing += readers.count(None)
                self._siblings |= dict.fromkeys(batch) | dict(zip(batch, readers, strict=False))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _open_neighbor(self, name: str) -> TiffReader | None:
        source = self.described_by.open_sibling(name)
        return None if source is None else _read_chain(source, self._counts)

    def list(self) -> Listing:
        """List the images of the OME-XML; fall back to plain series if it is inconsistent."""
        text = ome_text(self.reader) or ""
        try:
            root = parse_xml(text)
            if root.find("{*}BinaryOnly") is not None or root.find(".//{*}Pixels") is None:
                return plain_series(self.reader)  # the metadata is in another file, or of no image
            listing = _OmeSet(self, root).list()
            if listing.series:
                return listing
            why = "; ".join(listing.defects)
        except (XmlError, _InconsistentXml) as error:
            why = str(error)
        listing = plain_series(self.reader)
        reason = f": {why}" if why else ""
        listing.defects.append(f"the OME-XML does not match the pages{reason}")
        return listing


def _read_chain(source: ByteSource, counts: ProgressCounter | None) -> TiffReader | None:
    """Open another file of a set and read its chain of IFDs; None if it is not a TIFF."""
    try:
        reader = TiffReader(source, counts=counts)
        reader.chain()
    except TiffrefError:
        source.close()
        return None
    return reader


# ---- sets with a companion file


def is_companion(source: Any) -> bool:
    """Return whether this is the path or URL of a companion file, judging by its name."""
    is_path = isinstance(source, str | os.PathLike)
    return is_path and _COMPANION.search(os.fspath(source)) is not None


def missing_members(text: Any, folder: str) -> list[str]:
    """Return the names of files that OME-XML refers to and that do not exist.

    >>> missing_members('<UUID FileName="no/such.ome.tif">', "/tmp")
    ['no/such.ome.tif']
    """
    names = dict.fromkeys(_FILE_NAME.findall(text)) if isinstance(text, str) else {}
    return [name for name in names if not (Path(folder) / name).is_file()]


class Companion(OmeFile):
    """A set described by a file `name.companion.ome`; members may be in folders below it.

    tifffile reads such sets only from a member that holds all of the OME-XML. `reader` is that of
    the first member that exists.

    Raises
    ------
    SourceError
        If the companion file cannot be read, or no member exists.
    MalformedTiff
        If it is not OME-XML, or describes planes that members do not have.
    """

    def __init__(self, source: ByteSource, counts: ProgressCounter | None = None) -> None:
        self._siblings, self.sidecars, self.given = {}, {}, None
        self.described_by, self._counts, self._n_missing = source, counts, 0
        self._text, url = decode_xml(source.read(0, source.size)), source.source.url
        try:
            root = parse_xml(self._text)
            self._listing = _OmeSet(self, root, url).list()
        except XmlError as error:
            raise MalformedTiff("the companion file is not OME-XML", url=url, got=error) from error
        except _InconsistentXml as error:
            raise MalformedTiff("the OME-XML is inconsistent", url=url, got=error) from error
        if not self.others():
            is_empty = root.find("{*}Image") is None
            raise SourceError(
                "the OME-XML has no image" if is_empty else "no file of the set exists",
                url=url,
                got=", ".join(missing_members(self._text, str(Path(url).parent))[:3]) or None,
            )
        self.reader = self.others()[0]

    def metadata(self) -> dict[str, Any]:
        """Return the OME-XML of the companion file."""
        return {"ome": self._text}

    def list(self) -> Listing:
        """List the images that the companion file describes."""
        return self._listing


# ---- the files of a set


class _OmeSet:
    """The images of an OME-XML document, and the files of the set by number.

    `companion` is the path of the companion file, if any. Then each TiffData element must name a
    file, and the planes must exist.
    """

    def __init__(self, file: OmeFile, root: Element, companion: str = "") -> None:
        self.file, self.root, self.companion = file, root, companion
        self.pages: list[Pages] = [] if companion else [Pages(file.reader)]
        self._id = (root.get("UUID") or "").strip().lower()
        is_main = bool(self._id) and not companion
        self._numbers: dict[str, int | None] = {self._id: 0} if is_main else {}
        self._defects: list[str] = []
        uuids = [
            (uuid.get("FileName", ""), (uuid.text or "").strip().lower())
            for uuid in root.iterfind(".//{*}TiffData/{*}UUID")
        ]
        self._ids = {own_id for _, own_id in uuids} - {""}
        self._url = companion or file.reader.url
        self._folder = Path(self._url).parent
        self._is_local = isinstance(file.described_by, LocalSource)
        if not self._is_local:
            own = {"", Path(self._url).name, self._id}
            file.open_neighbors(name for name, own_id in uuids if own.isdisjoint((name, own_id)))

    def list(self) -> Listing:
        """List the images; `defects` lists what does not match the pages."""
        modulo = modulo_annotations(self.root)
        listing = Listing([])
        for n, image in enumerate(self.root.iterfind("{*}Image")):
            for pixels in image.iterfind("{*}Pixels"):
                parsed = _Image(self, image, pixels)
                level = parsed.level(listing.defects)
                if level is None:
                    continue
                level = _split_modulo_axes(level, modulo_of(image, modulo), listing.defects)
                levels = [level, *_sub_levels(level)]
                name = parsed.name or ("Baseline" if len(levels) > 1 else "")
                listing.series.append(Series("ome", levels, name, n))
        if listing.series:
            self._check_pages(listing)
        listing.defects += self._defects
        return listing

    def _check_pages(self, listing: Listing) -> None:
        """Add a defect for pages of the set that no plane uses, or several; both are an error."""
        ends = np.cumsum([0, *map(len, self.pages)])
        start = {id(pages): n for pages, n in zip(self.pages, ends.tolist(), strict=False)}
        n_planes = np.zeros(ends[-1], np.intp)  # in each page
        for level in (series.levels[0] for series in listing.series):
            starts = np.array([start[id(pages)] for pages in level.pages], np.intp)
            here = level.row >= 0
            first = starts[0] if level.file is None else starts[level.file[here]]
            np.add.at(n_planes, level.row[here] + first, 1)
        n_left, n_shared = (int(found.sum()) for found in (n_planes == 0, n_planes > 1))
        if n_left:
            listing.defects.append(f"{n_left} pages are not in the OME-XML")
        if n_shared:
            listing.defects.append(f"{n_shared} pages are in the OME-XML more than once")
        if n_left and n_shared:
            listing.missing = MalformedTiff(
                "planes of the OME-XML share pages, and other pages belong to none",
                url=self._url,
                got=f"{n_shared} shared and {n_left} unused of {len(n_planes)} pages",
                hint="Read the pages with key=, or accept the planes with allow_holes=True.",
            )

    def number(self, uuid: Element | None) -> int | None:
        """Return the number of the file that a UUID element names; None if it does not exist."""
        if self.companion and (uuid is None or not uuid.get("FileName")):
            what, expected = "a TiffData element names no file", "UUID with a FileName"
            raise MalformedTiff(what, url=self.companion, expected=expected)
        if uuid is None:
            return 0
        name, own_id = uuid.get("FileName", ""), (uuid.text or "").strip().lower()
        if not self.companion and not self._id and name.lower() == Path(self._url).name.lower():
            self._id = own_id
            self._numbers[own_id] = 0
        key = "" if self.companion else own_id
        key = key or f"file {name}"
        if key not in self._numbers:
            self._numbers[key] = self._open(name, own_id)
            if self._numbers[key] is None and self._has_one_file:
                self._numbers[key] = 0  # a single file that was renamed
                self._defects.append(
                    f"the only file of the set, '{name or own_id}', does not exist"
                )
        return self._numbers[key]

    @functools.cached_property
    def _has_one_file(self) -> bool:
        """Whether all TiffData elements name the same file, and this is no companion file."""
        elements = (element.find("{*}UUID") for element in self.root.iterfind(".//{*}TiffData"))
        files = {uuid if uuid is None else (uuid.get("FileName"), uuid.text) for uuid in elements}
        return len(files) == 1 and None not in files and not self.companion

    def _open(self, name: str, own_id: str) -> int | None:
        path = str(self._folder / name)
        if not name:
            return None
        reader = self.file.find(path) if self._is_local else self.file.find_neighbor(name)
        if reader is None:
            return None
        uuid = _root_id(reader) if own_id else ""
        is_same = uuid == own_id
        if self._is_local and not (uuid and is_same):
            folder = os.path.realpath(self._folder)
            if not Path(os.path.realpath(path)).is_relative_to(folder):
                return None  # files outside the folder of the set must match the UUID
        if not is_same and uuid in self._ids:
            self._defects.append(f"'{name}' has the UUID of another file, {uuid!r:.60}")
        self.pages.append(Pages(reader))
        return len(self.pages) - 1


def _root_id(reader: TiffReader) -> str:
    """Return the UUID of a file in lower case, "" if it has none, or reading it costs a request."""
    if _DESCRIPTION not in reader.first:
        return ""
    _, count, where, _ = reader.first.entries[_DESCRIPTION]
    is_cached = reader.source.is_cached(where, min(count, _MAX_PROLOG))
    text = reader.first.raw(_DESCRIPTION, _MAX_PROLOG) if is_cached else b""
    match = _ROOT_ID.search(text.decode("utf-8", "replace"))
    return match[1].strip().lower() if match else ""


# ---- one image


class _Image:
    """One Pixels element: its axes, and the file and row of each plane.

    Attributes
    ----------
    axes, shape
        Axes and shape, slowest first, without the samples of a pixel.
    """

    def __init__(self, owner: _OmeSet, image: Element, pixels: Element) -> None:
        self.owner, self.pixels = owner, pixels
        self.name = image.get("Name") or ""
        self.label = self.name or image.get("ID") or ""
        self.axes = (pixels.get("DimensionOrder") or "")[::-1]
        if sorted(self.axes) != sorted("XYZCT") or self.axes[3:] != "YX":
            raise _InconsistentXml(f"DimensionOrder is {pixels.get('DimensionOrder')!r:.40}")
        channels = pixels.iterfind("{*}Channel")
        samples = {_number(channel, "SamplesPerPixel", "1") for channel in channels}
        if len(samples) > 1:
            raise _InconsistentXml("channels differ in SamplesPerPixel")
        self.samples = max(1, *samples) if samples else 1
        self.shape = [
            _number(pixels, f"Size{axis}") // (self.samples if axis == "C" else 1)
            for axis in self.axes
        ]
        self.n_planes = math.prod(self.shape[:3])
        if self.n_planes > MAX_PLANES:
            raise _InconsistentXml(f"an image has {self.n_planes} planes")

    def level(self, defects: list[str]) -> Level | None:
        """Return level 0 of the image; None if its planes are missing or do not match the pages."""
        row, file = self._plane_locations(defects)
        if not (row >= 0).any():
            if self.pixels.find("{*}MetadataOnly") is None:
                defects.append(f"all planes of image '{self.label}' are missing")
            return None
        level = self._level_of_files(row, file, tuple(self.shape), self.axes)
        pages, first = level.first
        try:
            size, _ = pages.shape(first)
            is_separate = pages.facts(first).shape[0] > 1
        except MalformedTiff as error:
            return replace(level, error=error)
        shape, axes = list(self.shape), self.axes
        if self.samples > 1 and is_separate:
            shape, axes = [*shape[:-2], self.samples, *shape[-2:]], f"{axes[:-2]}S{axes[-2:]}"
        elif self.samples > 1:
            shape, axes = [*shape, self.samples], f"{axes}S"
        squeezed, squeezed_axes = squeeze(shape, axes)
        if self.samples == 1 and self._has_samples(pages.facts(first), int((row >= 0).sum())):
            defects.append(f"channels of one sample are stored in pages of {self.samples} samples")
            return self.level(defects)
        if size != squeezed[len(squeezed) - len(size) :]:
            defects.append(f"an image of shape {squeezed} is stored in pages of shape {size}")
            return None
        self._check_type(pages.facts(first).dtype, defects)
        n_planes = max(1, math.prod(shape) // max(1, math.prod(size)))
        if n_planes != len(row):
            n_new = (0, max(0, n_planes - len(row)))
            row = np.pad(row[:n_planes], n_new, constant_values=-1)
            file = np.pad(file[:n_planes], n_new)
            if not (row >= 0).any():
                defects.append(f"all {n_planes} pages of image '{self.label}' are missing")
                return None
        return self._level_of_files(row, file, squeezed, squeezed_axes)

    def _has_samples(self, ifd: IfdFacts, n_pages: int) -> bool:
        """Return whether channels are the samples of pages, against the OME-XML; adopt these."""
        at, n_samples = self.axes.index("C"), ifd.shape[0] * ifd.shape[4]
        is_possible = n_samples > 1 and n_pages * n_samples <= self.n_planes
        if not is_possible or self.shape[at] % n_samples:
            return False
        self.samples = n_samples
        self.shape[at] //= n_samples
        self.n_planes //= n_samples
        return True

    def _check_type(self, dtype: str | None, defects: list[str]) -> None:
        """Add a defect if the Type in the OME-XML is not that of the pages, which is used."""
        name = self.pixels.get("Type") or self.pixels.get("PixelType")
        held = np.dtype(dtype)
        if name and dtype and held.str[1:] not in _TYPES.get(name.lower(), ""):
            defects.append(f"an image of Type '{name:.40}' is stored in pages of {held}")

    def _plane_locations(self, defects: list[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return row and file of each plane from the TiffData elements; row -1 if missing."""
        elements = [element for element in self.pixels if local_name(element) == "TiffData"]
        numbers = [
            self.owner.number(element.find("{*}UUID") if len(element) else None)
            for element in elements
        ]
        is_inside, at = self._planes(elements)
        elements, at = list(compress(elements, is_inside)), at[is_inside]
        file = np.array([-1 if number is None else number for number in numbers], np.intp)
        file = file[is_inside]
        n_pages = np.array([*map(len, self.owner.pages), 0], np.intp)[file]
        first, count = _numbers(elements, "IFD"), _plane_counts(elements, n_pages)
        n_named = int(count.sum())
        if n_named > MAX_PLANES:
            raise _InconsistentXml(f"TiffData elements have {n_named} planes")
        self._reject(
            (file >= 0) & ((first + count > n_pages) | (at + count > self.n_planes)),
            {"IFD": first, "PlaneCount": count, "plane": at, "pages in the file": n_pages},
            f"existing pages, and fewer than {self.n_planes} planes",
        )
        n_there = np.clip(n_pages - first, 0, count)
        n_beyond = int((count - n_there)[file >= 0].sum())
        if n_beyond:
            defects.append(f"TiffData elements refer to {n_beyond} pages that do not exist")
        row = np.full((at + count).max(initial=0), -1, np.intp)
        files = np.zeros_like(row)
        nth = np.arange(n_there.sum()) - np.repeat(np.cumsum(n_there) - n_there, n_there)
        named = np.repeat(at, n_there) + nth
        # if several elements name the same plane, the last one counts
        row[named], files[named] = np.repeat(first, n_there) + nth, np.repeat(file, n_there)
        return row, files

    def _planes(self, elements: list[Element]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Return which elements' first plane is inside the image, and the index of that plane.

        When ImageJ crops an image, it keeps the elements of all planes.
        """
        at, step = np.zeros(len(elements), np.intp), 1
        is_inside = np.ones(len(elements), bool)
        for axis, size in zip(self.axes[2::-1], self.shape[2::-1], strict=True):
            index = _numbers(elements, f"First{axis}")
            self._reject(index >= size, {f"First{axis}": index}, f"less than {size}")
            is_inside &= index < size
            at += step * np.minimum(index, size)
            step *= size
        return is_inside, at

    def _reject(
        self, is_wrong: NDArray[np.bool_], got: Mapping[str, NDArray[np.intp]], expected: str
    ) -> None:
        """Raise for wrong elements of a companion file; in other files they are left out."""
        if self.owner.companion and is_wrong.any():
            n = is_wrong.argmax()
            raise MalformedTiff(
                "a TiffData element refers to a page or plane that does not exist",
                url=self.owner.companion,
                got=", ".join(f"{name} {column[n]}" for name, column in got.items()),
                expected=expected,
            )

    def _level_of_files(
        self, row: NDArray[np.intp], file: NDArray[np.intp], shape: tuple[int, ...], axes: str
    ) -> Level:
        """Build a level that refers only to the files its planes are in."""
        here = row >= 0
        used = np.unique(file[here])
        pages = tuple(self.owner.pages[number] for number in used.tolist())
        if len(used) == 1:
            return Level(pages, row, shape, axes)
        places = np.where(here, np.searchsorted(used, np.where(here, file, used[0])), 0)
        return Level(pages, row, shape, axes, places.astype(np.intp))


def _plane_counts(elements: list[Element], n_pages: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the number of planes of each element.

    The default is all pages of the file; for a missing file, the count of the previous element.
    """
    texts = [
        element.get("PlaneCount", element.get("NumPlanes", str(int("IFD" in element.attrib))))
        for element in elements
    ]
    count = _parse_numbers(texts, "PlaneCount")
    count = np.where(count > 0, count, n_pages)
    last = np.maximum.accumulate(np.where(count > 0, np.arange(len(count)), -1))
    if len(last) and last[0] < 0:
        raise _InconsistentXml("a TiffData element has no PlaneCount, and its file is missing")
    return count[last]


def _numbers(elements: list[Element], name: str) -> NDArray[np.intp]:
    """Return an attribute of all elements, 0 if absent."""
    return _parse_numbers([element.get(name, "0") for element in elements], name)


def _parse_numbers(texts: list[str], name: str) -> NDArray[np.intp]:
    wrong = next(filterfalse(_is_number, texts), None)
    if wrong is not None:
        raise _InconsistentXml(f"{name} of TiffData is {wrong!r:.40}")
    return np.array(list(map(int, texts)), np.intp)


def _number(element: Element, name: str, default: str | None = None) -> int:
    text = element.get(name, default)
    if text is None or not _is_number(text):
        raise _InconsistentXml(f"{name} of {local_name(element)} is {text!r:.40}")
    return int(text)


def _is_number(text: str) -> bool:
    return len(text) <= _MAX_DIGITS and text.strip().isdecimal()


# ---- modulo annotations


def _modulo_axis(along: Element) -> tuple[str, int]:
    axis = MODULO.get(along.get("Type", "other"))
    if axis is None:
        raise _InconsistentXml(f"a modulo annotation has type {along.get('Type')!r:.40}")
    if along.get("Start") is None:
        return axis, sum(1 for _ in along.iterfind("{*}Label"))
    try:
        start, stop, step = (float(along.get(n, "1")) for n in ("Start", "End", "Step"))
        size = len(range(math.ceil((stop + step - start) / step)))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise _InconsistentXml(f"a modulo annotation has an invalid range: {error}") from error
    return axis, size


def _split_modulo_axes(level: Level, modulo: Mapping[str, Element], defects: list[str]) -> Level:
    shape, axes = list(level.shape), level.axes
    for axis, along in modulo.items():
        new, size = _modulo_axis(along)
        if size == 1:
            continue  # without a dimension, like all axes of length 1
        if axis not in axes or size < 1 or shape[axes.index(axis)] % size:
            defects.append(f"a modulo annotation of size {size} does not divide axis {axis}")
            continue
        at = axes.index(axis)
        if shape[at] == size:
            axes = axes.replace(axis, new, 1)
        else:
            shape[at : at + 1] = [shape[at] // size, size]
            axes = axes.replace(axis, axis + new, 1)
    if axes == level.axes:
        return level
    return replace(level, shape=tuple(shape), axes=axes, is_squeezed=False)


# ---- pyramids


def _sub_levels(level: Level) -> Iterator[Level]:
    """Yield the overviews of an image, stored as SubIFDs of its planes."""
    if level.error is not None or not any(pages.has_sub_ifds for pages in level.pages):
        return
    below = []
    for number, pages in enumerate(level.pages):
        rows = np.unique(level.row[level.is_in(number)]).tolist()
        below.append(dict(zip(rows, pages.sub_ifds(rows), strict=True)))
    for n in range(max(len(some) for offsets in below for some in offsets.values())):
        sub_level = _sub_level(level, below, n)
        if sub_level is None:
            return
        yield sub_level


def _sub_level(level: Level, below: list[dict[int, list[int]]], n: int) -> Level | None:
    """Build overview `n`; None if no plane has it."""
    files, row = [], np.full(len(level.row), -1, np.intp)
    for number, (pages, offsets) in enumerate(zip(level.pages, below, strict=True)):
        there = {
            own: some[n]
            for own, some in offsets.items()
            if len(some) > n and some[n] >= 8 and pages.is_sub_ifd_readable(own, some[n])
        }
        files.append(Pages(pages.reader, list(there.values())))
        place = {own: at for at, own in enumerate(there)}
        here = level.is_in(number)
        row[here] = [place.get(own, -1) for own in level.row[here].tolist()]
    if not (row >= 0).any():
        return None
    sub_level = replace(level, pages=tuple(files), row=row)
    pages, first = sub_level.first
    try:
        size = pages.facts(first).shape
    except MalformedTiff as error:
        return replace(sub_level, error=error)
    lengths = {"Y": size[2], "X": size[3]}
    return replace(sub_level, shape=tuple(map(lengths.get, level.axes, level.shape)))
