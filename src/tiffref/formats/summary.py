"""Summaries of references: arrays, chunks, codecs, and the readers that can open them.

Produces the part of `tiffref info` and `References.info` that follows from the arrays, as text and
as JSON values, and formats numbers and tables.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..signatures import redact

if TYPE_CHECKING:
    from ..model.array import Array, Group
    from ..model.codec import ForeignCodec, SegmentCodec
    from ..model.manifest import Source

READERS: Mapping[str, tuple[str, ...]] = {
    "standard": ("xarray, zarr and dask", "GDAL 3.12", "VirtualiZarr", "zarrita.js"),
    "imagecodecs": (
        "xarray, zarr and dask with imagecodecs-numcodecs installed",
        "VirtualiZarr with tiffref installed",
    ),
    "tiffref": ("xarray, zarr, dask and VirtualiZarr with tiffref installed",),
}
"""Readers for each tier of `codecs.zarr_codecs.portability`; checked by tests/interop."""
PREDICTORS: Mapping[int | None, str] = {
    **dict.fromkeys((2, 34892, 34893), "horizontal"),
    **dict.fromkeys((3, 34894, 34895), "floating-point"),
}
"""Names of values of tag 317."""
_MAX_SHOWN = 4
_MAX_ROWS = 8
_V3_READERS: Mapping[str, str] = {
    "xarray, zarr and dask with imagecodecs-numcodecs installed":
        "xarray, zarr and dask with imagecodecs-zarr installed",
    "VirtualiZarr with tiffref installed": "VirtualiZarr with imagecodecs-zarr installed",
}  # fmt: skip
ARRAY_HEADING = ("array", "shape", "dtype", "chunks")
"""Heading of the rows of `outline`."""
UNKNOWN_TO: Mapping[str, str] = {"lzma": "zarrita.js"}
"""Codec of the standard tier -> a reader without it."""


def describe_arrays(
    group: Group,
    series: Sequence[Mapping[str, Any]],
    sources: Sequence[Source],
    zarr_format: int = 2,
) -> dict[str, Any]:
    """Return sources, and series with their arrays, as JSON values.

    Documents of other programs record no series; all their arrays except coordinates count as one.
    Codecs and readers depend on the Zarr format.
    """
    arrays = dict(group.arrays())
    files = [{"url": redact(source.url), "size": source.size} for source in sources]
    rows = []
    for row in series or _as_series(arrays):
        levels = [dict(level) for level in row.get("levels", ())]
        for level in levels:
            if level.get("path", "") in arrays:
                level.update(_describe_array(arrays[level.get("path", "")], zarr_format))
        rows.append({**row, "levels": levels})
    return {"sources": files, "series": rows}


def outline(
    group: Group, series: Sequence[Mapping[str, Any]], sources: Sequence[Source]
) -> tuple[str, list[list[str]]]:
    """Return a one-line summary, and a table row for each of the first arrays."""
    arrays = dict(group.arrays())
    rows = series or _as_series(arrays)
    paths = [level.get("path") for row in rows for level in row.get("levels", ())]
    images = {path: arrays[path] for path in paths if path in arrays}
    n_chunks = sum(array.manifest.n_chunks for array in images.values())
    sizes = [source.size for source in sources]
    parts = [count(len(images), "array"), count(n_chunks, "chunk"), count(len(sizes), "file")]
    if sizes and None not in sizes:
        parts.append(format_bytes(sum(size or 0 for size in sizes)))
    cells = []
    for path, array in list(images.items())[:_MAX_ROWS]:
        shape = ", ".join(f"{d} {n}" for d, n in array.sizes.items())
        chunks = " x ".join(map(str, array.chunks))
        cells.append([path or "(root)", shape or "scalar", str(array.dtype), chunks])
    if len(images) > _MAX_ROWS:
        cells.append([f"and {len(images) - _MAX_ROWS} more", "", "", ""])
    return ", ".join(parts), cells


def html_table(title: str, rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> str:
    """Return a title and rows as HTML, for notebooks."""
    cells = [("th", heading)] if heading else []
    cells += [("td", row) for row in rows]
    body = "".join(
        f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
        for tag, row in cells
    )
    return f"<div><strong>{html.escape(title)}</strong><table>{body}</table></div>"


def _as_series(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    images = [path for path, array in arrays.items() if (array.manifest.source >= 0).any()]
    levels = [{"path": path} for path in images or arrays]
    return [{"index": 0, "kind": "references", "name": "", "axes": "", "levels": levels}]


def _describe_array(array: Array, zarr_format: int) -> dict[str, Any]:
    describe = _describe_codec if zarr_format == 2 else _describe_v3_codec
    manifest = array.manifest
    return {
        "shape": list(array.shape),
        "dims": list(array.dims),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "n_chunks": manifest.n_chunks,
        "missing_chunks": int(manifest.is_missing.sum()),
        "stored_bytes": int(manifest.length[manifest.source >= 0].sum()),
        "codecs": [describe(codec) for codec in array.codecs],
    }


def _describe_codec(codec: SegmentCodec | ForeignCodec) -> dict[str, Any]:
    from ..codecs.table import COMPRESSIONS
    from ..codecs.zarr_codecs import codec_chain, portability, to_zarr2

    tier, why = portability(codec)
    ids = [config["id"] for config in codec_chain(to_zarr2(codec))]
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


def _describe_v3_codec(codec: SegmentCodec | ForeignCodec) -> dict[str, Any]:
    """Describe a codec of a Zarr v3 document, which may include transposes."""
    from ..model.combine import is_self_inverse

    transposes: tuple[tuple[int, ...], ...] = getattr(codec, "transposes", ())
    stored: Any = replace(codec, transposes=()) if transposes else codec  # type: ignore[arg-type]
    v2 = _describe_codec(stored)
    absent = set()
    if not all(map(is_self_inverse, transposes)) or set(v2["ids"]) - {"zstd"}:
        absent.add("GDAL 3.12")
    if len(transposes) > 1:
        absent.add("zarrita.js")
    readers = [_V3_READERS.get(name, name) for name in v2["readers"] if name not in absent]
    ids = ["transpose"] * bool(transposes) + v2["ids"]
    return {**v2, "ids": ids, "readers": readers}


def format_arrays(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of sources, series and arrays."""
    sizes = [source["size"] for source in facts["sources"]]
    parts = [name]
    if sizes and None not in sizes:
        parts.append(format_bytes(sum(sizes)))
    if len(sizes) > 1:
        parts.append(f"{len(sizes)} files")
    yield ", ".join(parts)
    for n, series in enumerate(facts["series"]):
        yield ""
        title = f" {series['name']!r}" if series.get("name") else ""
        axes = f", axes {series['axes']}" if series.get("axes") else ""
        yield f"series {series.get('index', n)}{title}, {series.get('kind', 'references')}{axes}"
        yield from _format_levels(series["levels"])


def _format_levels(levels: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [["level", "array", "shape", "dtype", "chunks", "stored", "codec"]]
    rows += [_row(index, level) for index, level in enumerate(levels) if "codecs" in level]
    if len(rows) > 1:
        yield format_table(rows)
    for index, level in enumerate(levels):
        if "refused" in level:
            yield wrap(f"level {index} cannot be expressed: {level['refused']}")
        elif level.get("missing_chunks"):
            yield wrap(
                f"level {index}: {level['missing_chunks']:,} of "
                f"{count(level['n_chunks'], 'chunk')} not stored"
            )


def _row(index: int, level: Mapping[str, Any]) -> list[str]:
    shape = ", ".join(f"{d} {n}" for d, n in zip(level["dims"], level["shape"], strict=True))
    chunks = " x ".join(str(n) for n in level["chunks"])
    codecs = "; ".join(_name(codec) for codec in level["codecs"])
    stored = format_bytes(level["stored_bytes"])
    return [str(index), level["path"], shape, level["dtype"], chunks, stored, codecs]


def format_readers(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield for each codec its meaning and the readers that support it."""
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
        yield wrap(f"{name}{of}: {meaning}", indent="")
        yield wrap(f"opens in {'; '.join(codec['readers'])}")


def _meaning(codec: Mapping[str, Any]) -> str:
    """Return the TIFF compression and predictor of a codec, and why it is our own, if it is."""
    compression = codec["compression"] or "unknown"
    stored = "no compression" if compression == "none" else f"TIFF compression {compression}"
    predictor = PREDICTORS.get(codec["predictor"])
    why = f"; {codec['why']}" if codec["tier"] == "tiffref" else ""
    return f"{stored}{f', {predictor} predictor' if predictor else ''}{why}"


def _name(codec: Mapping[str, Any]) -> str:
    return " + ".join(codec["ids"]) or "none"


def format_bytes(n: int) -> str:
    """Format a number of bytes in binary units.

    >>> format_bytes(999), format_bytes(2048), format_bytes(5_000_000)
    ('999 B', '2.0 KiB', '4.8 MiB')
    """
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{n} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def count(n: int, noun: str) -> str:
    """Format a number of things.

    >>> count(1, "chunk"), count(2500, "chunk")
    ('1 chunk', '2,500 chunks')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def wrap(text: str, indent: str = "  ") -> str:
    """Wrap a sentence to 80 columns, with continuation lines indented."""
    return textwrap.fill(
        text,
        80,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_table(rows: list[list[str]]) -> str:
    """Format rows as indented, left-aligned columns; the first row is the heading."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
