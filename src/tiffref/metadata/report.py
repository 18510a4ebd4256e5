"""What to do about metadata that cannot be understood, and XML that files hold, read with care.

Owns the rule that a defect of the metadata never hides pixels: it is warned of once, or raised
where the caller asked for strictness; and the refusal of document type definitions: metadata needs
none, and entities that expand into each other can fill the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.etree import ElementTree

from ..errors import MalformedTiff, MetadataWarning, warn

__all__ = ["Recorder", "Report", "XmlError", "local_name", "parse_xml"]

Element = ElementTree.Element


@dataclass(slots=True)
class Report:
    """Where the defects of one file's metadata go.

    `url` names the file. With `is_strict`, a defect raises `MalformedTiff` instead of warning.
    `defects` lists what was reported, as (key, what).
    """

    url: str | None = None
    is_strict: bool = False
    defects: list[tuple[str, str]] = field(default_factory=list)

    def add(self, key: str, what: str, *, got: object = None, hint: str | None = None) -> None:
        """Report a defect: once for each key and text, however many levels have it.

        Raises
        ------
        MalformedTiff
            If strictness was asked for.
        """
        error = MalformedTiff(what, url=self.url, tag=key, got=got, hint=hint)
        if self.is_strict:
            raise error
        if (key, what) in self.defects:
            return
        self.defects.append((key, what))
        warn(MetadataWarning(str(error), url=self.url, key=key), stacklevel=3)

    def note(self, key: str, what: str, *, hint: str) -> None:
        """Describe what could not be done for another reason than the file; never an error."""
        if (key, what) not in self.defects:
            self.defects.append((key, what))
            error = MalformedTiff(what, url=self.url, tag=key, hint=hint)
            warn(MetadataWarning(str(error), url=self.url, key=key), stacklevel=3)


@dataclass(slots=True)
class Recorder(Report):
    """Keeps what is reported, for a result that is kept as well: `repeat` reports it again."""

    found: list[tuple[str, str, object, str | None]] = field(default_factory=list)

    def add(self, key: str, what: str, *, got: object = None, hint: str | None = None) -> None:
        """Keep a defect; of an exception its text, for it would hold on to all that led to it."""
        self.found.append((key, what, str(got) if isinstance(got, Exception) else got, hint))

    def repeat(self, report: Report) -> None:
        """Report everything to where it belongs."""
        for key, what, got, hint in self.found:
            report.add(key, what, got=got, hint=hint)


class XmlError(ValueError):
    """The text is not XML that we read; the message says why."""


def parse_xml(text: str) -> Element:
    """Read an XML document.

    Raises
    ------
    XmlError
        If it is not well-formed, or brings its own definitions.
    """
    text = text.strip("\0 \t\r\n\ufeff")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise XmlError("document type definitions are not read")
    try:
        # a declared encoding would contradict that this is text already
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise XmlError(str(error)) from error


def local_name(element: Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]
