"""Which codecs of other people's documents are run.

Owns the list of codecs that only turn bytes into bytes or numbers. A document names its codecs, and
whoever wrote it may name one that runs code (`pickle`) or one that nobody has thought of; what is
not listed here is refused before zarr or numcodecs hears of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..model.codec import ForeignCodec

__all__ = ["SAFE_CODECS", "unsafe_codecs"]

_BYTES = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "pcodec", "zfpy", "packbits")
_NUMBERS = ("astype", "bitround", "delta", "fixedscaleoffset", "quantize", "shuffle", "categorize")
_CHECKSUMS = ("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3")
_TEXTS = ("base64", "json2", "msgpack2", "vlen-bytes", "vlen-utf8", "vlen-array")
_OF_V3 = ("bytes", "transpose", "sharding_indexed", "cast_value", "scale_offset")
_OWN = ("tiffref_segment",)

SAFE_CODECS = frozenset((*_BYTES, *_NUMBERS, *_CHECKSUMS, *_TEXTS, *_OF_V3, *_OWN))
"""Names without the prefix `numcodecs.`; names that begin with `imagecodecs_` are safe as well."""


def unsafe_codecs(codec: ForeignCodec) -> list[str]:
    """Give the names of the codecs of a chain that are not run, those within others included."""
    metadata = codec.metadata
    configs = (metadata.get("filters"), metadata.get("compressor"), metadata.get("codecs"))
    return [name for config in configs for name in _names(config) if not _is_safe(name)]


def _names(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, list | tuple):
        for one in config:
            yield from _names(one)
    elif isinstance(config, Mapping):
        yield str(config.get("id", config.get("name")))
        options = config.get("configuration")
        if isinstance(options, Mapping):
            yield from _names(options.get("codecs"))
            yield from _names(options.get("index_codecs"))
    elif config is not None:
        yield repr(config)[:40]


def _is_safe(name: str) -> bool:
    return name.removeprefix("numcodecs.") in SAFE_CODECS or name.startswith("imagecodecs_")
