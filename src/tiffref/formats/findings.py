"""Findings: problems in a document.

Parsers pass each finding to a `report` function: reading raises the first error, validation
collects all findings. Checks that need both codecs and chunks are here, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..codecs.foreign import codec_names
from ..codecs.zarr_codecs import to_zarr2
from ..errors import InvalidReferences, MetadataWarning, redact, warn
from ..model.array import Array
from ..model.codec import ForeignCodec, SegmentCodec

_SIMPLE = re.compile(r"[!-~]+(?: [!-~]+)*")
"""Keys that need no quotes in a message."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem in a document.

    `code` is a short fixed name for programs; `severity` is "error" or "warning"; `key` is the key
    in the document; `n_more` is the number of further keys with the same problem. Signatures and
    passwords in the texts are hidden.
    """

    code: str
    what: str
    key: str | None = None
    got: str | None = None
    expected: str | None = None
    severity: str = "error"
    n_more: int = 0
    hint: str | None = None

    def __post_init__(self) -> None:
        for name in ("what", "got", "expected"):
            text = getattr(self, name)
            if text and "://" in text:
                object.__setattr__(self, name, redact(text))

    @property
    def stage(self) -> str:
        """One of "structure" (see the JSON Schemas), "metadata", "chunks", "sources", "pixels"."""
        return next((name for name, codes in _STAGES.items() if self.code in codes), "metadata")

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {"code": self.code, "stage": self.stage, **asdict(self)}

    def to_error(self, url: str | None = None) -> InvalidReferences:
        """Return the finding as an error."""
        hint = f"{self.n_more} more keys have the same problem." if self.n_more else self.hint
        return InvalidReferences(
            self.what,
            url=url,
            tag=self.key if self.key is None or _SIMPLE.fullmatch(self.key) else repr(self.key),
            got=self.got,
            expected=self.expected,
            hint=hint,
        )


_STAGES = {
    "structure": ("document", "version", "top-level", "template", "member", "gen", "key", "base64",
                  "value"),
    "chunks": ("stray", "length"),
    "sources": ("not-allowed", "unreachable", "stale", "range"),
    "pixels": ("undecodable", "pixels", "not-compared"),
}  # fmt: skip
"""Codes by stage; all others are "metadata"."""

Reporter = Callable[[Finding], None]

_TOLERATED = frozenset({"top-level"})
"""Codes of errors that do not change the meaning of the references."""


def raise_finding(finding: Finding) -> None:
    """Raise a finding that makes a document unusable; the `report` function of reading.

    If the provenance is invalid, warn: later changes of the files will not be noticed.
    """
    if finding.code == "provenance":
        what = f"{finding.what}. Changes of the files since they were scanned are not noticed."
        warn(MetadataWarning(what), stacklevel=3)
    if finding.severity == "error" and finding.code not in _TOLERATED:
        raise finding.to_error()


def check_array(path: str, array: Array) -> Iterator[Finding]:
    """Find codecs that are not installed, and uncompressed chunks of a wrong length."""
    for codec in array.codecs:
        for name in _unknown_codecs(codec) if isinstance(codec, ForeignCodec) else ():
            what, expected = "the codec is not installed", "a codec of an installed package"
            yield Finding("unknown-codec", what, path, name, expected)
    yield from _check_lengths(path, array)


def name_chunk(path: str, array: Array, flat: int) -> str:
    """Return the name of a chunk for messages: its array and index."""
    shape: Any = array.grid
    return f"{path} chunk {tuple(map(int, np.unravel_index(flat, shape)))}"


def _unknown_codecs(codec: ForeignCodec) -> list[str]:
    if codec.zarr_format == 3:
        return [name for name in codec_names(codec) if not _is_zarr_codec(name)]
    import numcodecs.registry

    installed = {*numcodecs.registry.codec_registry, *numcodecs.registry.entries}
    return [name for name in codec_names(codec) if name not in installed]


def _is_zarr_codec(name: str) -> bool:
    from zarr.registry import get_codec_class

    try:
        get_codec_class(name)
    except (KeyError, ValueError):  # zarr 3.1 and 3.4
        return False
    return True


def _check_lengths(path: str, array: Array) -> Iterator[Finding]:
    """Find uncompressed chunks whose number of bytes does not match their samples."""
    if not _is_plain(array):
        return
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    manifest = array.manifest
    has_range = (manifest.source >= 0) & (manifest.length > 0)
    bad = np.flatnonzero(has_range & (manifest.length != n_bytes)).tolist()
    bad += [flat for flat, data in manifest.inlined.items() if len(data) != n_bytes]
    if bad:
        data = manifest.inlined.get(bad[0])
        length = int(manifest.length[bad[0]]) if data is None else len(data)
        what = "the number of bytes of an uncompressed chunk does not match its samples"
        key, got, expected = name_chunk(path, array, bad[0]), f"{length} bytes", f"{n_bytes} bytes"
        yield Finding("length", what, key, got, expected, n_more=len(bad) - 1)


def _is_plain(array: Array) -> bool:
    codec = array.codec
    if isinstance(codec, SegmentCodec) or codec.zarr_format == 2:
        encoding = to_zarr2(codec)
        return not encoding["filters"] and not encoding["compressor"]
    codecs = [*(codec.metadata.get("codecs") or ())]
    return len(codecs) == 1 and isinstance(codecs[0], Mapping) and codecs[0].get("name") == "bytes"
