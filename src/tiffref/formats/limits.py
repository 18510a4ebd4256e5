"""How large a document may be, and how much it may make a reader allocate.

Owns the limits, and the check of what metadata asks for before anything of that size is made. A
line of JSON can ask for an array of a quadrillion chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..codecs.safe import unsafe_codecs
from ..model.codec import ForeignCodec, SegmentCodec
from .findings import Finding, Reporter
from .metadata import ArrayMetadata, Nodes

__all__ = ["LIMITS", "Limits", "check_counts", "check_nodes"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much of a document.

    `document_bytes` counts decompressed bytes; `depth` the parts of a path; `chunk_bytes` the
    decoded bytes of one chunk. All arrays of a document together may have `table_chunks` chunks,
    or, where that is more, `chunks_per_reference` for each reference that the document has.
    """

    document_bytes: int = 1 << 30
    references: int = 10_000_000
    inlined_bytes: int = 1 << 28
    depth: int = 32
    chunk_bytes: int = 1 << 31
    table_chunks: int = 1 << 22
    chunks_per_reference: int = 64


LIMITS = Limits()
"""The limits of this process: a million references take 110 MB, and 20 MB once read."""


def check_counts(n_references: int, n_inlined_bytes: int, report: Reporter) -> None:
    """Report too many references, or too many bytes inlined."""
    for what, got, most in (
        ("references", n_references, LIMITS.references),
        ("inlined bytes", n_inlined_bytes, LIMITS.inlined_bytes),
    ):
        if got > most:
            report(_limit(f"too many {what}", None, got, most))


def check_nodes(nodes: Nodes, n_references: int, report: Reporter) -> Nodes:
    """Report arrays that ask for too much or for codecs that are not run, and leave them out."""
    arrays, groups = dict(nodes.arrays), dict(nodes.groups)
    for path in [*groups, *arrays]:
        depth = path.count("/") + 1
        if depth > LIMITS.depth:
            report(_limit("too deep a path", f"{path[:60]}...", depth, LIMITS.depth))
            groups.pop(path, None)
            arrays.pop(path, None)
    for path, array in list(arrays.items()):
        found = list(_check_array(path, array))
        for finding in found:
            report(finding)
        if found:
            del arrays[path]
    most = max(LIMITS.table_chunks, LIMITS.chunks_per_reference * n_references)
    total = sum(math.prod(array.grid) for array in arrays.values())
    if total > most:
        report(_limit("far more chunks than references", None, total, most))
        arrays = {}
    order = [path for path in nodes.order if path in arrays or path in groups]
    return Nodes(groups, arrays, order)


def _check_array(path: str, array: ArrayMetadata) -> Iterator[Finding]:
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if n_bytes > LIMITS.chunk_bytes:
        yield _limit("too large a chunk", path, n_bytes, LIMITS.chunk_bytes)
    if isinstance(array.codec, SegmentCodec) and array.dtype.hasobject:
        yield Finding(
            "dtype", "metadata", "bytes are no objects", path, str(array.dtype), "numbers"
        )
    if isinstance(array.codec, ForeignCodec):
        for name in unsafe_codecs(array.codec):
            yield Finding(
                "unknown-codec",
                "metadata",
                "the codec is not one of those that are run",
                path,
                name,
                "a codec of numcodecs, imagecodecs or tiffref that only decodes bytes",
            )


def _limit(what: str, key: str | None, got: int, most: int) -> Finding:
    return Finding("limit", "metadata", what, key, str(got), f"at most {most}")
