"""`tiffref info`: what a TIFF holds, and who can open references to it.

Owns how a scan is shown to a person and as JSON: series and refusals, codecs and their readers,
coordinate system, bounds, axes and channels of the main image. All of it comes from the scan;
nothing is worked out here but extents.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from ..model.array import Array
    from ..model.codec import ForeignCodec, SegmentCodec
    from ..references import References

__all__ = ["HELP", "add_arguments", "describe_meaning", "run", "tell_meaning"]

_MAX_LABELS = 8
_KEPT = (
    "date_created", "color_interpretation", "magnification", "magnification_setting",
    "numerical_aperture", "wavelength", "plate", "well", "site", "nodata",
    "scale_factor", "add_offset", "scales", "offsets", "long_name", "units",
)  # fmt: skip
"""Attributes of the image that are told as they stand."""

_WKT_NAME = re.compile(r'"([^"]+)"')
"""The first text in WKT is the name of the system, also where a BOUNDCRS is around it."""


def describe_meaning(references: References) -> dict[str, Any]:
    """Return coordinate system, bounds, axes and channels of the main image as JSON values.

    What the file does not tell is left out.
    """
    from ..model.array import Array

    arrays = dict(references.group.arrays())
    path = next(
        (level["path"] for one in references.series for level in one["levels"] if "path" in level),
        None,
    )
    image = arrays.get(path) if path else None
    if not isinstance(image, Array):
        return {}
    folder = path.rpartition("/")[0] if path else ""
    near = {name.removeprefix(f"{folder}/"): one for name, one in arrays.items()}
    found = _georeference(image, near)
    code = references.group.attributes.get("proj:code")
    if code:
        found["crs"] = f"{code} ({found['crs']})" if found.get("crs") else code
    axes = {dim: _describe_axis(near[dim]) for dim in image.dims if dim in near and near[dim].shape}
    found |= {"axes": axes} if axes else {}
    channels = image.attributes.get("channel_names")
    found |= {"channels": list(channels)} if channels else {}
    date = _date(near["time"]) if "time" in near and not near["time"].shape else None
    found |= {"time": date} if date else {}
    found |= {name: image.attributes[name] for name in _KEPT if name in image.attributes}
    if image.fill_value is not None:
        found["nodata"] = image.fill_value
    return found


def _georeference(image: Array, near: Mapping[str, Array]) -> dict[str, Any]:
    mapping = near.get(image.attributes.get("grid_mapping", ""))
    if mapping is None:
        return {}
    attributes = mapping.attributes
    named = _WKT_NAME.search(attributes.get("crs_wkt", ""))
    found: dict[str, Any] = {"crs": named[1] if named else None}
    if "gcps" in attributes:
        found["control_points"] = len(json.loads(attributes["gcps"])["features"])
    if "GeoTransform" in attributes:
        x, dx, rx, y, ry, dy = (float(n) for n in attributes["GeoTransform"].split())
        sizes = dict(zip(image.dims, image.shape, strict=True))
        n_x, n_y = sizes.get("x", 0), sizes.get("y", 0)
        corners = [(x + i * dx + j * rx, y + i * ry + j * dy) for i in (0, n_x) for j in (0, n_y)]
        across, down = zip(*corners, strict=True)
        found["bounds"] = [min(across), min(down), max(across), max(down)]
        found["pixel_size"] = [dx, dy]
    return {name: value for name, value in found.items() if value is not None}


def _describe_axis(coordinate: Array) -> dict[str, Any]:
    """First and last value, step where it is even, and unit of a coordinate."""
    import numpy as np

    from ..read import Fetcher, read_array

    values = read_array(coordinate, ..., fetch=Fetcher())
    found: dict[str, Any] = {"n": int(values.size)}
    if values.dtype.kind in "US":
        return found | {"labels": values.tolist()[:_MAX_LABELS]}
    if values.size:
        found |= {"first": values.reshape(-1)[0].item(), "last": values.reshape(-1)[-1].item()}
    steps = np.diff(values.reshape(-1).astype(float))
    if steps.size and np.allclose(steps, steps[0]):
        found["step"] = float(np.median(steps))
    unit = coordinate.attributes.get("units")
    return found | ({"units": unit} if unit else {})


def _date(coordinate: Array) -> str | None:
    """Format the time of a scalar CF coordinate, with the zone only if the file names one."""
    from ..metadata.time import iso_text, read_time_coordinate
    from ..read import Fetcher, read_array

    number = int(read_array(coordinate, ..., fetch=Fetcher()))
    moment = read_time_coordinate(str(coordinate.attributes.get("units", "")), number)
    is_local = "comment" in coordinate.attributes
    if moment is None:
        return None
    return iso_text(moment.replace(tzinfo=None) if is_local else moment)


def tell_meaning(facts: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines that a person reads."""
    rows = []
    if "crs" in facts:
        rows.append(["crs", facts["crs"]])
    if "bounds" in facts:
        west, south, east, north = (f"{n:.10g}" for n in facts["bounds"])
        rows.append(["bounds", f"x {west} to {east}, y {south} to {north}"])
        rows.append(["pixel size", " x ".join(f"{abs(n):.10g}" for n in facts["pixel_size"])])
    if "control_points" in facts:
        rows.append(["control points", str(facts["control_points"])])
    axes = dict(facts.get("axes", {}))
    if "bounds" in facts or (plane := _tell_plane(axes)):
        rows += [] if "bounds" in facts else plane
        axes = {name: axis for name, axis in axes.items() if name not in ("x", "y")}
    # numbers from 1 say no more than the shape does
    rows += [[name, _tell_axis(axis)] for name, axis in axes.items() if not _only_counts(axis)]
    if facts.get("channels") and "labels" not in axes.get("c", {}):
        rows.append(["channels", _shorten(facts["channels"])])
    for name in ("time", *_KEPT):
        if name in facts:
            value = facts[name]
            rows.append([name, _shorten(value) if isinstance(value, list | tuple) else str(value)])
    if rows:
        yield ""
        yield console.format_table(rows)


def _tell_plane(axes: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Describe the size of pixels and of the image, where both axes have even steps in one unit."""
    across, down = axes.get("x", {}), axes.get("y", {})
    if "step" not in across or "step" not in down or across.get("units") != down.get("units"):
        return []
    unit = f" {across['units']}" if "units" in across else ""
    sizes = [f"{abs(axis['step']):.6g}" for axis in (across, down)]
    extents = [f"{abs(axis['step']) * axis['n']:.6g}" for axis in (across, down)]
    return [
        ["pixel size", f"{' x '.join(sizes)}{unit}"],
        ["extent", f"{' x '.join(extents)}{unit}"],
    ]


def _only_counts(axis: Mapping[str, Any]) -> bool:
    return "units" not in axis and (axis.get("first"), axis.get("last")) == (1, axis["n"])


def _tell_axis(axis: Mapping[str, Any]) -> str:
    if "labels" in axis:
        more = axis["n"] - len(axis["labels"])
        return ", ".join(axis["labels"]) + (f" and {more} more" if more else "")
    text = f"{axis['first']:.10g} to {axis['last']:.10g}" if axis["n"] else "no values"
    if "step" in axis:
        text += f" in steps of {axis['step']:.6g}"
    return f"{text} {axis['units']}" if "units" in axis else text


def _shorten(values: Any) -> str:
    shown = ", ".join(str(value) for value in values[:_MAX_LABELS])
    more = len(values) - _MAX_LABELS
    return f"{shown} and {more} more" if more > 0 else shown


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
    """Return the facts that the command tells, as JSON values."""
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
    """Return the lines that a person reads."""
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
    """List for each codec of the file what it stands for, why, and who reads it."""
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
    """Describe what of the TIFF a codec stands for, and why it has to be one of our own."""
    compression = codec["compression"] or "unknown"
    stored = "no compression" if compression == "none" else f"TIFF compression {compression}"
    predictor = PREDICTORS.get(codec["predictor"])
    # where a codec that everybody has says it, there is nothing to explain
    why = f"; {codec['why']}" if codec["tier"] == "tiffref" else ""
    return f"{stored}{f', {predictor} predictor' if predictor else ''}{why}"


def _name(codec: Mapping[str, Any]) -> str:
    return " + ".join(codec["ids"]) or "none"
