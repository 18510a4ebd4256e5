"""What the seal of a document covers.

Owns the digest of a document: all metadata as its text, and of each array which chunk lies where,
in the terms of the model, so that it is the same however the document is laid out. It is one hash
over few long texts: a hash for each array took as long as writing all else of a small document. The
seal itself stands in the provenance; the text is digested with zeros in its place. Local sources
that are reached through links are recorded with where these lead (`links`): if one leads elsewhere
when the document is opened, it is no longer what was sealed.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.allow import is_own_seal, make_seal
from ..io.urls import has_scheme
from ..model.array import Array
from ..model.manifest import Manifest, Source
from .zarr_metadata import to_text

__all__ = [
    "NO_SEAL",
    "Sealed",
    "digest_chunks",
    "digest_files",
    "find_links",
    "seal_texts",
]

NO_SEAL = "0" * 64
"""What stands in a document in place of a seal until it is made."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Sealed:
    """A document with a seal, which is not compared yet.

    Attributes
    ----------
    seal
        As the document has it.
    metadata
        Its metadata documents by key, as JSON text or objects.
    links
        Local source to the file that it was when the document was sealed, where that has another
        path.
    parts
        From `digest_chunks` or `digest_files`.
    """

    seal: str
    metadata: Mapping[str, Any]
    links: Mapping[str, str]
    parts: Iterable[bytes | NDArray] = field(default=(), compare=False)

    def is_own(self, sources: Iterable[Source]) -> bool:
        """Return whether this user made the seal, of this very document and these files."""
        rows = list(sources)
        if not all(has_scheme(row.url) or os.path.isabs(row.url) for row in rows):  # noqa: PTH117
            return False  # a relative address is another file in every folder
        digest = _digest(self.metadata, self.parts, self.seal)
        return is_own_seal(self.seal, digest) and dict(find_links(rows)) == dict(self.links)


def seal_texts(metadata: Mapping[str, str], parts: Iterable[bytes | NDArray]) -> Mapping[str, str]:
    """Put the seal into metadata that has `NO_SEAL` in its provenance.

    Parameters
    ----------
    metadata
        Key to JSON text.
    parts
        From `digest_chunks` or `digest_files`.

    Returns
    -------
    metadata
        As it was where the user has no key: such a seal is nobody's.
    """
    seal = make_seal(_digest(metadata, parts))
    if seal is None:
        return metadata
    root = next(key for key in (".zattrs", "zarr.json") if key in metadata)
    return {**metadata, root: metadata[root].replace(NO_SEAL, seal)}


def digest_chunks(
    arrays: Iterable[tuple[str, Array]], addresses: Mapping[str, str]
) -> Iterator[bytes | NDArray]:
    """Return what is digested of the chunks of arrays.

    First comes one text for all arrays in the order of their paths, which says what follows: of
    each array the columns of where its chunks lie, and its inlined chunks.

    Parameters
    ----------
    arrays
        Path and array.
    addresses
        Address of each source in the document; sources that are not in it have their own.
    """
    heads: list[Any] = []
    data: list[bytes | NDArray] = []
    for path, array in sorted(arrays, key=operator.itemgetter(0)):
        manifest = array.manifest
        urls, columns = _named_ranges(manifest, addresses) if manifest.sources else ([], ())
        inlined = sorted(manifest.inlined.items())
        heads.append((path, manifest.shape, urls, [(flat, len(found)) for flat, found in inlined]))
        data += columns
        data += [found for _, found in inlined]
    yield to_text(heads).encode()
    yield from data


def digest_files(files: Mapping[str, Iterable[bytes]], record_size: int) -> Iterator[bytes]:
    """Return what is digested of parquet references: the files of each array, in their order.

    Files are read when their turn comes, so that no more than one is in memory.
    """
    yield b"parquet %d" % record_size
    for path, parts in sorted(files.items()):
        digests = [hashlib.sha256(data).digest() for data in parts]
        yield b"%a" % ((path, len(digests)),)
        yield from digests


def find_links(sources: Iterable[Source]) -> Iterator[tuple[str, str]]:
    """Return local sources whose real path is another one, with that path."""
    folders: dict[str, str] = {}
    for source in sources:
        if has_scheme(source.url):
            continue
        path = os.path.abspath(source.url)  # noqa: PTH100
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)  # noqa: PTH118
        if os.path.islink(real):  # noqa: PTH114
            real = os.path.realpath(real)
        if real != path:
            yield source.url, real


def _digest(
    metadata: Mapping[str, Any], parts: Iterable[bytes | NDArray], seal: str = NO_SEAL
) -> bytes:
    """Digest all texts, behind their lengths so that no two lists of them look the same, and then
    the other parts."""
    keys = sorted(metadata)
    values = [metadata[key] for key in keys]
    texts = keys + [value if type(value) is str else _to_str(value) for value in values]
    joined = "".join(texts)
    if seal != NO_SEAL:
        joined = joined.replace(seal, NO_SEAL)
    found = hashlib.sha256(_encode([*map(len, texts)]).encode())
    found.update(joined.encode("utf-8", "surrogatepass"))
    for part in parts:
        found.update(part)
    return found.digest()


def _to_str(value: Any) -> str:
    is_text = isinstance(value, bytes)
    return value.decode("utf-8", "surrogateescape") if is_text else _encode(value)


_INT32, _UINT64 = np.dtype("<i4"), np.dtype("<u8")


def _named_ranges(
    manifest: Manifest, addresses: Mapping[str, str]
) -> tuple[list[str], list[NDArray]]:
    """Return the sources of the chunks, and columns of source, offset and length."""
    urls = [addresses.get(source.url, source.url) for source in manifest.sources]
    if not manifest.source.size:
        return [], []
    source, offset, length = manifest.source, manifest.offset, manifest.length
    if len(urls) > 1 or source.any():  # else all chunks lie in the one source
        is_stored = source >= 0
        used = np.bincount(source[is_stored], minlength=len(urls)) > 0
        named = {url for url, is_used in zip(urls, used.tolist(), strict=True) if is_used}
        if not named:
            return [], []
        if len(urls) > 1:
            order = {url: row for row, url in enumerate(sorted(named))}
            rank = np.array([order.get(url, -1) for url in urls], np.int32)
            source = np.where(is_stored, rank[source], source)
            urls = list(order)
        offset, length = np.where(is_stored, offset, 0), np.where(is_stored, length, 0)
    columns = ((source, _INT32), (offset, _UINT64), (length, _UINT64))
    return urls, [np.ascontiguousarray(column, kind) for column, kind in columns]
