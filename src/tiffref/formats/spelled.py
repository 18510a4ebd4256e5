"""Reference documents of files that differ in little: spelled once, filled in for each.

Owns the text of a document in which only some things change: the record of the source, the byte
ranges, and texts that the caller names. It is taken from the document that `kerchunk` writes of one
file, and must give that one back.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.manifest import Source
from ..model.node import Array, Group
from .kerchunk import write_json
from .provenance import spell_provenance
from .rows import KeySpelling, spell_inlined

__all__ = ["SpelledDocument", "document_of", "spell_document"]

_MAX_CHUNKS = 4096
"""With more, writing by columns is as fast, and keys are many."""
_TAIL = b"\n}}\n"
_SERIES = ',"series":[]}'
_quote = json.JSONEncoder().encode
"""Made once: making it takes longer than most texts do."""


def document_of(
    group: Group, rename: Callable[[str], str], series: Sequence[Mapping[str, Any]]
) -> bytes:
    """Give the reference document that `kerchunk.write_json` writes by default, as bytes."""
    buffer = io.BytesIO()
    write_json(group, buffer, rename=rename, series=series)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class _Record:
    """Place of the record of the source."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Place of the byte ranges of an array, with the beginning of the line of each chunk.

    `pattern` is the text of all lines, for address, offset and length of each chunk: filling one
    long pattern is five times as quick as a short one for each line.
    """

    path: str
    lines: tuple[bytes, ...]
    pattern: bytes

    @classmethod
    def of(cls, path: str, lines: Sequence[bytes]) -> _Rows:
        """Take beginnings of lines up to the bracket."""
        pattern = b"".join(line.replace(b"%", b"%%") + b"%b,%d,%d]" for line in lines)
        return cls(path, tuple(lines), pattern)

    def fill(self, array: Array, quoted: bytes) -> bytes:
        """Give the lines of an array of the file whose address is `quoted`."""
        manifest = array.manifest
        offset, length = manifest.offset.tolist(), manifest.length.tolist()
        if manifest.source.min() >= 0:
            values: list[Any] = [quoted] * (3 * len(offset))
            values[1::3], values[2::3] = offset, length
            return self.pattern % tuple(values)
        rows = zip(self.lines, manifest.source.tolist(), offset, length, strict=True)
        return b"".join(
            b"%b%b,%d,%d]" % (line, quoted, o, n) for line, row, o, n in rows if row >= 0
        )


@dataclass(frozen=True, slots=True)
class SpelledDocument:
    """The document of one file, in pieces.

    Attributes
    ----------
    pieces
        Fixed text, places of what is filled in, and indices of the texts that the caller gives.
    """

    pieces: tuple[bytes | int | _Record | _Rows, ...]

    def fill(
        self,
        source: Source,
        address: str,
        arrays: Mapping[str, Array],
        texts: Sequence[bytes] = (),
    ) -> bytes:
        """Give the document of another file.

        Parameters
        ----------
        source, address
            The file, and what the document calls it.
        arrays
            Its arrays with byte ranges, by path.
        texts
            What stands where `spell_document` found its texts.
        """
        quoted = _quote(address).encode()
        parts: list[bytes] = []
        for piece in self.pieces:
            if isinstance(piece, bytes):
                parts.append(piece)
            elif isinstance(piece, int):
                parts.append(texts[piece])
            elif isinstance(piece, _Record):
                parts.append(_spell_record(source, address))
            else:
                parts.append(piece.fill(arrays[piece.path], quoted))
        return b"".join(parts)


def _spell_record(source: Source, address: str) -> bytes:
    """Escape the record as it stands in the text of an attribute in the text of a reference.

    What the record says of series is the same in all documents: it is left out.
    """
    record = spell_provenance([source], {source.url: address}) or ""
    return _quote(_quote(record.removesuffix(_SERIES))[1:-1])[1:-1].encode()


def spell_document(
    group: Group,
    source: Source,
    address: str,
    text: bytes,
    changing: Sequence[bytes] = (),
) -> SpelledDocument | None:
    """Take the document of a file to pieces.

    Parameters
    ----------
    group
        The root, with the arrays of one file.
    source, address
        The file, and what the document calls it.
    text
        The document.
    changing
        Texts in it, none of them empty, that are others in the documents of others.

    Returns
    -------
    None where the pieces would not give this document back.
    """
    arrays = dict(group.arrays())
    if sum(array.manifest.n_chunks for array in arrays.values()) > _MAX_CHUNKS:
        return None
    body = [_spell_body(path, array) for path, array in arrays.items()]
    body.append(_TAIL)
    own = {path: array for path, array in arrays.items() if array.manifest.sources}
    rows = SpelledDocument(tuple(body)).fill(source, address, own)
    record = _spell_record(source, address)
    head, found, middle = text.removesuffix(rows).partition(record)
    if not found:
        return None
    pieces: list[Any] = []
    for piece in (head, _Record(), middle, *body):
        pieces += _cut(piece, changing) if isinstance(piece, bytes) else [piece]
    spelled = SpelledDocument(tuple(pieces))
    return spelled if spelled.fill(source, address, own, changing) == text else None


def _cut(text: bytes, changing: Sequence[bytes]) -> Iterator[bytes | int]:
    """Cut fixed text where changing texts stand in it."""
    if not changing:
        yield text
        return
    # of texts that begin alike the longest counts
    order = sorted(changing, key=len, reverse=True)
    for n, part in enumerate(re.split(b"(" + b"|".join(map(re.escape, order)) + b")", text)):
        if n % 2:
            yield changing.index(part)
        elif part:
            yield part


def _spell_body(path: str, array: Array) -> bytes | _Rows:
    manifest = array.manifest
    keys = KeySpelling.of(path, 2).keys(array.grid, np.arange(manifest.n_chunks))
    lines = [b",\n" + _quote(key).encode() + b":" for key in keys]
    if manifest.sources:
        return _Rows.of(path, [line + b"[" for line in lines])
    return b"".join(
        lines[flat] + _quote(spell_inlined(data)).encode()
        for flat, data in sorted(manifest.inlined.items())
    )
