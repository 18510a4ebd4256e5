"""What the seal of a document covers.

Owns the digest of a document: all metadata as its text, and of each array which chunk lies where,
in the terms of the model, so that it is the same however the document is laid out. The seal itself
stands in the provenance; the text is digested with zeros in its place. Local sources that are
reached through links are recorded with where these lead (`links`): if one leads elsewhere when the
document is opened, it is no longer what was sealed.
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

from ..io.seal import is_own_seal, make_seal
from ..io.urls import has_scheme
from ..model.array import Array
from ..model.manifest import Manifest, Source

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
        Digests of all that is no metadata.
    """

    seal: str
    metadata: Mapping[str, Any]
    links: Mapping[str, str]
    parts: Iterable[bytes] = field(default=(), compare=False)

    def is_own(self, sources: Iterable[Source]) -> bool:
        """Return whether this user made the seal, of this very document and these files."""
        rows = list(sources)
        if not all(has_scheme(row.url) or os.path.isabs(row.url) for row in rows):  # noqa: PTH117
            return False  # a relative address is another file in every folder
        digest = _digest(self.metadata, self.parts, self.seal)
        return is_own_seal(self.seal, digest) and dict(find_links(rows)) == dict(self.links)


def seal_texts(metadata: Mapping[str, str], parts: Iterable[bytes]) -> Mapping[str, str]:
    """Put the seal into metadata that has `NO_SEAL` in its provenance.

    Parameters
    ----------
    metadata
        Key to JSON text.
    parts
        Digests of all that is no metadata.

    Returns
    -------
    metadata
        As it was where the user has no key: such a seal is nobody's.
    """
    seal = make_seal(_digest(metadata, parts, NO_SEAL))
    if seal is None:
        return metadata
    root = next(key for key in (".zattrs", "zarr.json") if key in metadata)
    return {**metadata, root: metadata[root].replace(NO_SEAL, seal)}


def digest_chunks(
    arrays: Iterable[tuple[str, Array]], addresses: Mapping[str, str]
) -> Iterator[bytes]:
    """Return the digest of each array's chunks, the arrays in the order of their paths.

    Parameters
    ----------
    arrays
        Path and array.
    addresses
        Address of each source in the document; sources that are not in it have their own.
    """
    for path, array in sorted(arrays, key=operator.itemgetter(0)):
        manifest = array.manifest
        found = hashlib.sha256(
            _join([path.encode("utf-8", "surrogatepass"), b"%a" % (manifest.shape,)])
        )
        if manifest.sources:
            names, columns = _named_ranges(manifest, addresses)
            found.update(_join(names))
            for column in columns:
                found.update(column)
        for flat, data in sorted(manifest.inlined.items()):
            found.update(_join([b"%d" % flat, data]))
        yield found.digest()


def digest_files(files: Mapping[str, Iterable[bytes]], record_size: int) -> Iterator[bytes]:
    """Return the digests of parquet references: the files of each array, in their order.

    Files are read when their turn comes, so that no more than one is in memory.
    """
    yield b"parquet %d" % record_size
    for path, parts in sorted(files.items()):
        yield path.encode("utf-8", "surrogatepass")
        for data in parts:
            yield hashlib.sha256(data).digest()


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


def _digest(metadata: Mapping[str, Any], parts: Iterable[bytes], seal: str) -> bytes:
    made, none = seal.encode(), NO_SEAL.encode()
    texts: list[bytes] = []
    for key, value in sorted(metadata.items()):
        text = value if isinstance(value, str | bytes) else _encode(value)
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        texts += key.encode("utf-8", "surrogatepass"), data.replace(made, none)
    return hashlib.sha256(_join([*texts, *parts])).digest()


def _join(texts: Iterable[bytes]) -> bytes:
    """Join data, each with its length, so that no two lists of texts look the same."""
    return b"".join([b"%d:%b" % (len(data), data) for data in texts])


_INT32, _UINT64 = np.dtype("<i4"), np.dtype("<u8")


def _named_ranges(
    manifest: Manifest, addresses: Mapping[str, str]
) -> tuple[list[bytes], list[NDArray]]:
    """Return the sources of the chunks as a text, and columns of source, offset and length."""
    urls = [addresses.get(source.url, source.url) for source in manifest.sources]
    source = manifest.source
    offset, length = manifest.offset, manifest.length
    if not source.size or source.max() < 0:
        return [], []
    order = {url: row for row, url in enumerate(sorted(set(urls)))}
    is_stored = source >= 0
    if len(urls) > 1:
        used = np.bincount(source[is_stored], minlength=len(urls)) > 0
        named = {url for url, is_used in zip(urls, used.tolist(), strict=True) if is_used}
        order = {url: row for row, url in enumerate(sorted(named))}
        rank = np.array([order.get(url, -1) for url in urls], np.int32)
        source = np.where(is_stored, rank[source], source)
    if np.count_nonzero(is_stored) < len(is_stored):
        offset, length = np.where(is_stored, offset, 0), np.where(is_stored, length, 0)
    columns = ((source, _INT32), (offset, _UINT64), (length, _UINT64))
    return (
        ["\0".join(order).encode("utf-8", "surrogatepass")],
        [np.ascontiguousarray(column, kind) for column, kind in columns],
    )
