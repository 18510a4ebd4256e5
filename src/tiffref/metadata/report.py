"""Report defects of metadata, and parse untrusted XML.

A defect of the metadata never hides pixels: it gives one warning, or an error in strict mode. XML
with a document type definition is refused: metadata needs none, and entity expansion can exhaust
memory.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

from ..errors import MalformedTiff, MetadataWarning, TiffrefError, TruncationWarning, warn

Element = ElementTree.Element


@dataclass(slots=True)
class Report:
    """Collects the defects of one file's metadata.

    `url` names the file. With `is_strict`, a defect raises `MalformedTiff` instead of warning.
    `defects` lists what was reported, as (key, what); `damage` is the first damage, without URL.
    """

    url: str | None = None
    is_strict: bool = False
    defects: list[tuple[str, str]] = field(default_factory=list)
    damage: str = ""

    def add(self, key: str, what: str, *, got: object = None, hint: str | None = None) -> None:
        """Report a defect, once for each key and text.

        Raises
        ------
        MalformedTiff
            In strict mode.
        """
        error = MalformedTiff(what, url=self.url, tag=key, got=got, hint=hint)
        if self.is_strict:
            raise error
        self._warn(error)

    def add_damage(
        self, error: TiffrefError, outcome: str | None = None, *, loses_pixels: bool = True
    ) -> None:
        """Warn that pixels are missing, or else metadata; raise the error in strict mode.

        `outcome` says what was done instead, in place of the hint of the error.
        """
        if self.is_strict:
            raise error
        error.hint = outcome or error.hint
        text, url = str(error), error.url
        error.url = None  # it may hold a signature, and readers may use another URL
        self.damage = self.damage or str(error)
        warn(
            TruncationWarning(text) if loses_pixels else MetadataWarning(text, url, f"{error.tag}")
        )

    def note(self, key: str, what: str, *, hint: str) -> None:
        """Warn of a limitation that is not a fault of the file; never an error."""
        self._warn(MalformedTiff(what, url=self.url, tag=key, hint=hint))

    def _warn(self, error: MalformedTiff) -> None:
        defect = f"{error.tag}", error.what
        if defect not in self.defects:
            self.defects.append(defect)
            warn(MetadataWarning(str(error), url=self.url, key=defect[0]))


@dataclass(slots=True)
class Recorder(Report):
    """Records defects alongside a cached result, so that `repeat` can report them again."""

    recorded: list[tuple[str, str, object, str | None]] = field(default_factory=list)

    def _warn(self, error: MalformedTiff) -> None:
        """Record a defect; of an exception only its text, to not keep its traceback alive."""
        got = str(error.got) if isinstance(error.got, Exception) else error.got
        self.recorded.append((str(error.tag), error.what, got, error.hint))

    def repeat(self, report: Report) -> None:
        """Report all recorded defects."""
        for key, what, got, hint in self.recorded:
            report.add(key, what, got=got, hint=hint)


class XmlError(ValueError):
    """The text is not well-formed XML, or has a document type definition."""


_UTF_16 = frozenset({b"\xff\xfe", b"\xfe\xff"})
"""Byte order marks."""
_ENCODING = re.compile(rb"<\?xml[^>]*\bencoding=[\"']([\w.-]+)")


def decode_xml(data: bytes) -> str:
    """Decode an XML document: UTF-8 if possible, otherwise UTF-16 or what it declares."""
    declared = _ENCODING.match(data)
    other = "utf-16" if data[:2] in _UTF_16 else declared[1].decode() if declared else "latin-1"
    for encoding in ("utf-8-sig", other):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return data.decode(encoding)
    return data.decode("utf-8", "replace")


def parse_xml(text: str) -> Element:
    """Parse an XML document.

    Raises
    ------
    XmlError
        If it is not well-formed, or has a document type definition.
    """
    text = text.strip("\0 \t\r\n\ufeff")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise XmlError("document type definitions are not allowed")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise XmlError(str(error)) from error


def local_name(element: Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]
