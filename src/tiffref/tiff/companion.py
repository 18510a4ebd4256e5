"""OME-TIFF sets described by a file of their own: `name.companion.ome`.

Owns which page of which member each plane is, as the OME-XML says; members may lie in folders below
the companion file. tifffile reads such sets only from a member that holds all of the OME-XML.

Reference: OME-TIFF specification 6.3.1 "multi-file OME-TIFF filesets"; OME model 2016-06, elements
Pixels, TiffData and UUID.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from ..errors import MalformedTiff, SourceError
from ..metadata.xml import XmlError, local_name, parse_xml
from .vendor import PARSE_ERRORS

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

__all__ = ["is_companion", "missing_members", "open_companion"]

_MAX_DIGITS = 18
_MAX_PLANES = 1 << 24
"""Planes of one image: a few bytes of text say any number, and each takes a place in memory."""
_FILE_NAME = re.compile(r'FileName\s*=\s*"([^"]*)"')


def is_companion(source: Any) -> bool:
    """Return whether this is the path of a companion file, by its name."""
    if not isinstance(source, str | os.PathLike):
        return False
    return os.fspath(source).lower().endswith((".companion.ome", ".ome.xml"))


def missing_members(text: Any, folder: str) -> list[str]:
    """Name the files that an OME-XML document mentions and that are not there.

    >>> missing_members('<UUID FileName="no/such.ome.tif">', "/tmp")
    ['no/such.ome.tif']
    """
    names = dict.fromkeys(_FILE_NAME.findall(text)) if isinstance(text, str) else {}
    return [name for name in names if not (Path(folder) / name).is_file()]


@contextmanager
def open_companion(path: str | os.PathLike[str]) -> Iterator[tuple[TiffFile, list[TiffPageSeries]]]:
    """Read the images that a companion file describes.

    Yields
    ------
    tif, series
        A member that is there, and the images; pages of members that are not there are None.

    Raises
    ------
    SourceError
        If the companion file cannot be read, or no member is there.
    MalformedTiff
        If it not OME-XML, or describes planes that members do not have.
    """
    name = os.fspath(path)
    try:
        text = Path(name).read_text("utf-8-sig")
        root = parse_xml(text)
    except OSError as error:
        raise SourceError("cannot be read", url=name, got=error.strerror) from error
    except (XmlError, UnicodeDecodeError) as error:
        raise MalformedTiff("not OME-XML", url=name, got=error) from error
    with ExitStack() as stack:
        members = _Members(Path(name).absolute().parent, text, stack)
        images = [_read_image(one, members, name) for one in root if local_name(one) == "Image"]
        host = members.host
        if host is None or not images:
            raise SourceError(
                "none of the files of the set is there" if images else "describes no image",
                url=name,
                got=", ".join(missing_members(text, str(members.folder))[:3]) or None,
            )
        with np.errstate(all="ignore"):
            series = [image.to_series(host) for image in images if image.keyframe is not None]
        yield host, series


@dataclass
class _Members:
    """The files of a set: each is opened once, read, and closed but for the first."""

    folder: Path
    text: str
    stack: ExitStack
    host: TiffFile | None = None

    def __post_init__(self) -> None:
        self._pages: dict[str, list[TiffPage] | None] = {}

    def pages(self, name: str) -> list[TiffPage] | None:
        """Return the pages of a member, or None if it is not there."""
        if name not in self._pages:
            self._pages[name] = self._read(self.folder / name)
        return self._pages[name]

    def _read(self, path: Path) -> list[TiffPage] | None:
        if not path.is_file():
            return None
        try:
            with np.errstate(all="ignore"), ExitStack() as stack:
                from tifffile import TiffFile

                tif = stack.enter_context(TiffFile(path, omexml=self.text))
                # frames would take what decodes them from another page
                tif.pages.useframes = False
                pages: list[Any] = list(tif.pages)
                if self.host is None:
                    self.host = tif
                    self.stack.push(stack.pop_all())
        except PARSE_ERRORS as error:
            raise MalformedTiff(
                "cannot be parsed as TIFF",
                url=str(path),
                got=f"{type(error).__name__}: {error}",
            ) from error
        return pages


@dataclass(frozen=True, slots=True)
class _Image:
    """One image: its planes in the order of the array."""

    name: str
    axes: str
    shape: tuple[int, ...]
    planes: list[TiffPage | None]

    @property
    def keyframe(self) -> TiffPage | None:
        return next((plane for plane in self.planes if plane is not None), None)

    def to_series(self, host: TiffFile) -> TiffPageSeries:
        """Return the image as tifffile has it."""
        page = self.keyframe
        assert page is not None
        is_planar = page.planarconfig == 2 and page.samplesperpixel > 1
        shape, axes = (*self.shape, *page.shape), self.axes + page.axes
        if is_planar and not page.axes.startswith("S"):
            axes = f"{self.axes}S{page.axes.replace('S', '')}"
        from tifffile import TiffPageSeries

        return TiffPageSeries(
            self.planes, shape, page.dtype, axes, parent=host, name=self.name, kind="ome"
        )


def _read_image(image: Element, members: _Members, url: str) -> _Image:
    pixels = next((child for child in image if local_name(child) == "Pixels"), None)
    if pixels is None:
        raise MalformedTiff("an image has no Pixels", url=url, got=image.get("ID"))
    order = pixels.get("DimensionOrder", "XYCZT")[2:]
    channels = [child for child in pixels if local_name(child) == "Channel"]
    sizes = {axis: _number(pixels, f"Size{axis}", 1, url) for axis in "CZT"}
    # the samples of a page are counted among the channels
    sizes["C"] = len(channels) or sizes["C"]
    if sorted(order) != sorted(sizes):
        raise MalformedTiff(
            "no such order of dimensions", url=url, tag="DimensionOrder",
            got=repr(pixels.get("DimensionOrder", "")[:40]), expected="XYCZT, XYZTC, ...",
        )  # fmt: skip
    lead = tuple(sizes[axis] for axis in order[::-1])
    if math.prod(lead) > _MAX_PLANES:
        raise MalformedTiff(
            "an image has too many planes", url=url, got=lead, expected=f"{_MAX_PLANES} at most"
        )
    planes: list[TiffPage | None] = [None] * math.prod(lead)
    for data in (child for child in pixels if local_name(child) == "TiffData"):
        _place_planes(data, order, sizes, planes, members, url)
    return _Image(image.get("Name", ""), order[::-1], lead, planes)


def _place_planes(
    data: Element,
    order: str,
    sizes: dict[str, int],
    planes: list[TiffPage | None],
    members: _Members,
    url: str,
) -> None:
    """Put the pages that one TiffData element names where they belong."""
    uuid = next((child for child in data if local_name(child) == "UUID"), None)
    file = uuid.get("FileName") if uuid is not None else None
    if not file:
        raise MalformedTiff(
            "a TiffData element names no file", url=url, expected="UUID with a FileName"
        )
    pages = members.pages(file)
    first = _number(data, "IFD", 0, url)
    at, step = 0, 1
    for axis in order:
        index = _number(data, f"First{axis}", 0, url)
        if index >= sizes[axis]:  # would be a plane of the next axis
            raise MalformedTiff(
                "a TiffData element names a plane that is not there", url=url, tag=f"First{axis}",
                got=index, expected=f"less than {sizes[axis]}",
            )  # fmt: skip
        at += step * index
        step *= sizes[axis]
    default = 1 if data.get("IFD") is not None else len(pages or [None])
    count = _number(data, "PlaneCount", _number(data, "NumPlanes", default, url), url)
    if pages is None:
        return
    if first + count > len(pages) or at + count > len(planes):
        raise MalformedTiff(
            "a TiffData element names pages or planes that are not there",
            url=str(members.folder / file),
            got=f"pages {first} to {first + count} as planes {at} to {at + count}",
            expected=f"{len(pages)} pages and {len(planes)} planes",
        )
    planes[at : at + count] = pages[first : first + count]


def _number(element: Element, name: str, default: int, url: str) -> int:
    text = element.get(name)
    if text is None:
        return default
    if not (text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise MalformedTiff("not a number", url=url, tag=name, got=repr(text[:40]))
    return int(text)
