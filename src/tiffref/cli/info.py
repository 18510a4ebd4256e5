"""`tiffref info`: what a TIFF holds, and who can open references to it.

Owns how a scan is told to a person and as JSON. It finds nothing out by itself: series and refusals
come from the scan, codecs and their readers from `codecs`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import console
from .meaning import describe_meaning, tell_meaning

if TYPE_CHECKING:
    from ..model.codec import ForeignCodec, SegmentCodec
    from ..model.node import Array
    from ..references import References

__all__ = ["HELP", "add_arguments", "run"]

HELP = "tell what a TIFF file holds and who can open references to it"

READERS: Mapping[str, tuple[str, ...]] = {
    "standard": ("xarray, zarr and dask", "GDAL 3.12", "VirtualiZarr", "zarrita.js"),
    "imagecodecs": (
        "xarray, zarr and dask with imagecodecs-numcodecs installed",
        "VirtualiZarr with tiffref installed",
    ),
    "tiffref": ("xarray, zarr, dask and VirtualiZarr with tiffref installed",),
}
"""Who opens an array, for each tier of `codecs.zarr2.portability`; held by tests/interop."""
PREDICTORS: Mapping[int | None, str] = {
    **dict.fromkeys((2, 34892, 34893), "horizontal"),
    **dict.fromkeys((3, 34894, 34895), "floating-point"),
}
"""Names of values of tag 317."""
_MAX_SHOWN = 4
UNKNOWN_TO: Mapping[str, str] = {"lzma": "zarrita.js"}
"""Codecs of the standard tier that a reader does not have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    console.add_source_arguments(parser)
    console.add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scan and tell; 1 where a level cannot be expressed."""
    from ..scanner.tiff import scan

    with console.progress(f"scanning {arguments.image}"):
        references = scan(arguments.image, storage_options=dict(arguments.storage_option) or None)
    facts = describe(references)
    if arguments.json:
        console.print_json({"image": arguments.image, **facts})
    else:
        print("\n".join(tell(arguments.image, facts)))
    levels = (level for series in facts["series"] for level in series["levels"])
    return console.INVALID if any("refused" in level for level in levels) else console.OK


def describe(references: References) -> dict[str, Any]:
    """Give the facts that the command tells, as JSON values."""
    arrays = dict(references.group.arrays())
    series = []
    for row in references.series:
        levels = [
            {**level, **_describe_array(arrays[level["path"]])} if "path" in level else level
            for level in row["levels"]
        ]
        series.append({**row, "levels": levels})
    sources = [{"url": source.url, "size": source.size} for source in references.sources]
    return {"sources": sources, "series": series, "meaning": describe_meaning(references)}


def _describe_array(array: Array) -> dict[str, Any]:
    manifest = array.manifest
    return {
        "shape": list(array.shape),
        "dims": list(array.dims),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "n_chunks": manifest.n_chunks,
        "missing_chunks": int(manifest.is_missing.sum()),
        "stored_bytes": int(manifest.length[manifest.source >= 0].sum()),
        "codecs": [_describe_codec(codec) for codec in array.codecs],
    }


def _describe_codec(codec: SegmentCodec | ForeignCodec) -> dict[str, Any]:
    from ..codecs.table import COMPRESSIONS
    from ..codecs.zarr2 import portability, to_zarr2

    tier, why = portability(codec)
    metadata = to_zarr2(codec)
    configs = [*(metadata["filters"] or ()), metadata["compressor"]]
    ids = [config["id"] for config in configs if config is not None]
    absent = {UNKNOWN_TO.get(name) for name in ids}
    compression = getattr(codec, "compression", None)
    return {
        "compression": COMPRESSIONS[compression].name if compression is not None else None,
        "predictor": getattr(codec, "predictor", None),
        "ids": ids,
        "tier": tier,
        "why": why,
        "readers": [name for name in READERS[tier] if name not in absent],
    }


def tell(image: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines that a person reads."""
    sizes = [source["size"] for source in facts["sources"]]
    parts = [image]
    if sizes and None not in sizes:
        parts.append(console.format_bytes(sum(sizes)))
    if len(sizes) > 1:
        parts.append(f"{len(sizes)} files")
    yield ", ".join(parts)
    for series in facts["series"]:
        yield ""
        name = f" {series['name']!r}" if series.get("name") else ""
        yield f"series {series['index']}{name}, {series['kind']}, axes {series['axes']}"
        rows = [["level", "array", "shape", "dtype", "chunks", "stored", "codec"]]
        rows += [
            _row(index, level)
            for index, level in enumerate(series["levels"])
            if "refused" not in level
        ]
        if len(rows) > 1:
            yield console.format_table(rows)
        for index, level in enumerate(series["levels"]):
            if "refused" in level:
                yield console.wrap(f"level {index} cannot be expressed: {level['refused']}")
            elif level["missing_chunks"]:
                yield console.wrap(
                    f"level {index}: {level['missing_chunks']:,} of "
                    f"{console.count(level['n_chunks'], 'chunk')} not stored"
                )
    yield from tell_meaning(facts["meaning"])
    yield from _tell_readers(facts)


def _row(index: int, level: Mapping[str, Any]) -> list[str]:
    shape = ", ".join(f"{d} {n}" for d, n in zip(level["dims"], level["shape"], strict=True))
    chunks = " x ".join(str(n) for n in level["chunks"])
    codecs = "; ".join(_name(codec) for codec in level["codecs"])
    stored = console.format_bytes(level["stored_bytes"])
    return [str(index), level["path"], shape, level["dtype"], chunks, stored, codecs]


def _tell_readers(facts: Mapping[str, Any]) -> Iterator[str]:
    """Say once for each codec of the file what it stands for, why, and who reads it."""
    users: dict[tuple[str, str], list[str]] = {}
    codecs: dict[tuple[str, str], Mapping[str, Any]] = {}
    for series in facts["series"]:
        for level in series["levels"]:
            for codec in level.get("codecs", ()):
                key = _name(codec), _meaning(codec)
                codecs[key] = codec
                users.setdefault(key, []).append(level["path"])
    names = [name for name, _ in codecs]
    for (name, meaning), codec in codecs.items():
        yield ""
        paths = users[name, meaning]
        more = f" and {len(paths) - _MAX_SHOWN} more" if len(paths) > _MAX_SHOWN else ""
        of = f" of {', '.join(paths[:_MAX_SHOWN])}{more}" if names.count(name) > 1 else ""
        yield console.wrap(f"{name}{of}: {meaning}", indent="")
        yield console.wrap(f"opens in {'; '.join(codec['readers'])}")


def _meaning(codec: Mapping[str, Any]) -> str:
    """Say what of the TIFF a codec stands for, and why it has to be one of our own."""
    compression = codec["compression"] or "unknown"
    stored = "no compression" if compression == "none" else f"TIFF compression {compression}"
    predictor = PREDICTORS.get(codec["predictor"])
    # where a codec that everybody has says it, there is nothing to explain
    why = f"; {codec['why']}" if codec["tier"] == "tiffref" else ""
    return f"{stored}{f', {predictor} predictor' if predictor else ''}{why}"


def _name(codec: Mapping[str, Any]) -> str:
    return " + ".join(codec["ids"]) or "none"
