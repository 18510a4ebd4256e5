"""Reference documents of files that differ in little: spelled once, filled in for each.

Owns the text of a document in which only the record of the source and the byte ranges change. It is
taken from the document that `formats.kerchunk` writes of one file, and must give that one back.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats.kerchunk import write_json
from ..formats.provenance import spell_provenance
from ..formats.rows import KeySpelling, spell_inlined
from ..model.manifest import Source
from ..model.node import Array
from ..references import References

__all__ = ["SpelledDocument", "document_of", "spell_document"]

_MAX_CHUNKS = 4096
"""With more, writing by columns is as fast, and keys are many."""
_TAIL = b"\n}}\n"


def document_of(references: References, rename: Callable[[str], str]) -> bytes:
    """Give the whole reference document as bytes of JSON."""
    buffer = io.BytesIO()
    write_json(references.group, buffer, rename=rename, series=references.series)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class SpelledDocument:
    """The document of one file, in pieces.

    Attributes
    ----------
    head
        The text before and after the record of the source.
    body
        For each array in order: fixed text, or its path with the beginning of the line of each
        chunk.
    tail
        What ends the document.
    series
        For the record of the source.
    """

    head: tuple[bytes, bytes]
    body: tuple[bytes | tuple[str, tuple[bytes, ...]], ...]
    tail: bytes
    series: tuple[Mapping[str, Any], ...]

    def fill(self, source: Source, address: str, arrays: Mapping[str, Array]) -> bytes:
        """Give the document of another file.

        Parameters
        ----------
        source, address
            The file, and what the document calls it.
        arrays
            Its arrays with byte ranges, by path.
        """
        record = spell_provenance([source], {source.url: address}, self.series)
        quoted = json.dumps(address).encode() + b","
        parts = [self.head[0], _twice_escaped(record), self.head[1]]
        for piece in self.body:
            if isinstance(piece, bytes):
                parts.append(piece)
                continue
            path, lines = piece
            manifest = arrays[path].manifest
            columns = (
                lines, manifest.source.tolist(), manifest.offset.tolist(), manifest.length.tolist()
            )  # fmt: skip
            for line, row, offset, length in zip(*columns, strict=True):
                if row >= 0:
                    parts += (line, quoted, b"%d,%d]" % (offset, length))
        parts.append(self.tail)
        return b"".join(parts)


def _twice_escaped(record: str | None) -> bytes:
    """Escape the record as it stands in the text of an attribute in the text of a reference."""
    return json.dumps(json.dumps(record)[1:-1])[1:-1].encode()


def spell_document(
    references: References, rename: Callable[[str], str], text: bytes
) -> SpelledDocument | None:
    """Take the document of a file to pieces.

    Parameters
    ----------
    references
        Of one file.
    rename
        Gives what documents call a file.
    text
        Its document.

    Returns
    -------
    None where the pieces would not give this document back.
    """
    (source,) = references.sources
    address = rename(source.url)
    record = _twice_escaped(spell_provenance([source], {source.url: address}, references.series))
    head, found, rest = text.partition(record)
    arrays = dict(references.group.arrays())
    if not found or sum(array.manifest.n_chunks for array in arrays.values()) > _MAX_CHUNKS:
        return None
    body = tuple(_spell_body(path, array) for path, array in arrays.items())
    own = {path: array for path, array in arrays.items() if array.manifest.sources}
    unfilled = SpelledDocument((b"", b""), body, _TAIL, tuple(references.series))
    rows = unfilled.fill(source, address, own)[len(record) :]
    if not rest.endswith(rows):
        return None
    middle = rest[: len(rest) - len(rows)]
    spelled = SpelledDocument((head, middle), body, _TAIL, tuple(references.series))
    return spelled if spelled.fill(source, address, own) == text else None


def _spell_body(path: str, array: Array) -> bytes | tuple[str, tuple[bytes, ...]]:
    manifest = array.manifest
    keys = KeySpelling.of(path, 2).keys(array.grid, np.arange(manifest.n_chunks))
    lines = [b",\n" + json.dumps(key).encode() + b":" for key in keys]
    if manifest.sources:
        return path, tuple(line + b"[" for line in lines)
    return b"".join(
        lines[flat] + json.dumps(spell_inlined(data)).encode()
        for flat, data in sorted(manifest.inlined.items())
    )
