"""XML that files hold, read with care.

Owns the refusal of document type definitions: metadata needs none, and entities that expand into
each other can fill the memory.
"""

from __future__ import annotations

from xml.etree import ElementTree

__all__ = ["XmlError", "local_name", "parse_xml"]

Element = ElementTree.Element


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
