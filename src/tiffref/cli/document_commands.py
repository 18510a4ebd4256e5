"""`tiffref info`, `convert`, `rewrite`, `refresh` and `validate`: arguments and output.

`info` describes the metadata of the main image (CRS, bounds, axes, channels), as it is in the scan
or document; `formats.summary` describes arrays and codecs. For the rest, see `tiffref.documents`
and `tiffref.validate`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..errors import printable
from ..formats.summary import count, format_table
from ..signatures import redact
from . import console

if TYPE_CHECKING:
    from ..io.progress import Progress
    from ..model.array import Array
    from ..references import References
    from ..validation import Report

_MAX_LABELS = 8
_MIDNIGHT = "T00:00:00+00:00"
_ATTRIBUTES = (
    "date_created", "color_interpretation", "magnification", "magnification_setting",
    "numerical_aperture", "wavelength", "plate", "well", "site", "nodata",
    "scale_factor", "add_offset", "scales", "offsets", "long_name", "units",
)  # fmt: skip
"""Attributes of the image that are shown unchanged."""

_WKT_NAME = re.compile(r'"([^"]+)"')
"""The first string in WKT is the name of the CRS, even inside a BOUNDCRS."""
_WKT_METHOD = re.compile(r'METHOD\["([^"]+)"')


def _describe_metadata(references: References) -> dict[str, Any]:
    """Return CRS, bounds, axes and channels of the main image, if known, as JSON values."""
    from ..references import level_paths

    arrays = dict(references.group.arrays())
    path = next(iter(level_paths(references.series)), "")
    if path not in arrays:
        return {}
    image = arrays[path]
    folder = path.rpartition("/")[0]
    siblings = {name.removeprefix(f"{folder}/"): array for name, array in arrays.items()}
    facts = _georeference(image, siblings)
    code = references.group.attributes.get("proj:code")
    if code:
        facts["crs"] = f"{code} ({facts['crs']})" if facts.get("crs") else str(code)
    channels = image.attributes.get("channel_names")
    facts |= {
        "axes": {dim: _describe_axis(siblings[dim]) for dim in image.dims
                 if dim in siblings and siblings[dim].shape},
        "channels": channels if isinstance(channels, list | tuple) else None,
        "time": _date(siblings["time"]) if "time" in siblings else None,
    }  # fmt: skip
    facts = {name: value for name, value in facts.items() if value not in (None, [], {})}
    facts |= {name: image.attributes[name] for name in _ATTRIBUTES if name in image.attributes}
    if image.fill_value is not None:
        facts["nodata"] = image.fill_value
    return facts


def _georeference(image: Array, siblings: Mapping[str, Array]) -> dict[str, Any]:
    from ..metadata.geokeys import bounds_of, numbers

    mapping = siblings.get(str(image.attributes.get("grid_mapping")))
    if mapping is None:
        return {}
    attributes = mapping.attributes
    wkt = str(attributes.get("crs_wkt"))
    name, method = _WKT_NAME.search(wkt), _WKT_METHOD.search(wkt)
    facts: dict[str, Any] = {"crs": name[1] if name else None}
    if method and facts["crs"] in ("unknown", "unnamed"):
        facts["crs"] += f", {method[1]}"
    with contextlib.suppress(LookupError, TypeError, ValueError):  # those of others can be anything
        facts["control_points"] = len(json.loads(attributes["gcps"])["features"])
    if "rpcs" in attributes:
        facts["sensor_model"] = "RPC"
    transform = numbers(image.attributes.get("spatial:transform"))  # levels may share a mapping
    with contextlib.suppress(ValueError):
        x, dx, rx, y, ry, dy = map(float, str(attributes.get("GeoTransform")).split())
        transform = transform or (dx, rx, x, ry, dy, y)
    if len(transform) == 6:
        a, b, _, d, e, _ = transform
        sizes = image.sizes
        facts["bounds"] = bounds_of(transform, (sizes.get("y", 0), sizes.get("x", 0)))
        facts["pixel_size"] = [math.hypot(a, d), math.hypot(b, e)] if b or d else [a, e]
    return facts


def _describe_axis(coordinate: Array) -> dict[str, Any]:
    """Return first and last value, step (if constant) and unit of a coordinate."""
    import numpy as np

    from ..metadata.cf import iso_text, read_time_coordinate
    from ..read import Fetcher, read_array

    facts: dict[str, Any] = {"n": coordinate.shape[0]}
    if (coordinate.manifest.source >= 0).any():
        return facts  # a foreign document: reading the values would open its files
    values = read_array(coordinate, ..., fetch=Fetcher())
    if values.dtype.kind in "US":
        return facts | {"labels": values.tolist()[:_MAX_LABELS]}
    if values.size:
        facts |= {"first": values.reshape(-1)[0].item(), "last": values.reshape(-1)[-1].item()}
    unit = str(coordinate.attributes.get("units", ""))
    if " since " in unit and values.size:
        first, last = (read_time_coordinate(unit, facts[name]) for name in ("first", "last"))
        if first is not None and last is not None:
            return facts | {"first": iso_text(first), "last": iso_text(last)}
    steps = np.diff(values.reshape(-1).astype(float))
    if steps.size and np.allclose(steps, steps[0]):
        facts["step"] = float(np.median(steps))
    return facts | ({"units": unit} if unit else {})


def _date(coordinate: Array) -> str | None:
    """Format the time of a scalar CF coordinate, with a time zone only if the file has one."""
    from ..metadata.cf import iso_text, read_time_coordinate
    from ..read import Fetcher, read_array

    if coordinate.shape or (coordinate.manifest.source >= 0).any():
        return None
    number = int(read_array(coordinate, ..., fetch=Fetcher()))
    moment = read_time_coordinate(str(coordinate.attributes.get("units", "")), number)
    is_local = "comment" in coordinate.attributes
    if moment is None:
        return None
    return iso_text(moment.replace(tzinfo=None) if is_local else moment)


def _format_metadata(facts: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    if "crs" in facts:
        rows.append(["crs", facts["crs"]])
    if "bounds" in facts:
        west, south, east, north = (f"{n:.10g}" for n in facts["bounds"])
        rows.append(["bounds", f"x {west} to {east}, y {south} to {north}"])
        rows.append(["pixel size", " x ".join(f"{abs(n):.10g}" for n in facts["pixel_size"])])
    if "control_points" in facts:
        rows.append(["control points", str(facts["control_points"])])
    if "sensor_model" in facts:
        rows.append(["sensor model", facts["sensor_model"]])
    axes = dict(facts.get("axes", {}))
    if "bounds" in facts or (plane := _format_plane(axes)):
        rows += [] if "bounds" in facts else plane
        axes = {name: axis for name, axis in axes.items() if name not in ("x", "y")}
    # coordinates 1, 2, 3, ... add nothing to the shape
    for name, axis in axes.items():
        if "units" in axis or (axis.get("first"), axis.get("last")) != (1, axis["n"]):
            rows.append([name, _format_axis(axis)])
    if facts.get("channels") and "labels" not in axes.get("c", {}):
        rows.append(["channels", _shorten(facts["channels"])])
    for name in ("time", *_ATTRIBUTES):
        if name in facts:
            value = facts[name]
            rows.append([name, _shorten(value) if isinstance(value, list | tuple) else str(value)])
    if rows:
        yield ""
        yield format_table(rows)


def _format_plane(axes: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return pixel size and extent, if x and y have constant steps in the same unit."""
    x, y = axes.get("x", {}), axes.get("y", {})
    if "step" not in x or "step" not in y or x.get("units") != y.get("units"):
        return []
    unit = f" {x['units']}" if "units" in x else ""
    sizes = [f"{abs(axis['step']):.6g}" for axis in (x, y)]
    extents = [f"{abs(axis['step']) * axis['n']:.6g}" for axis in (x, y)]
    return [
        ["pixel size", f"{' x '.join(sizes)}{unit}"],
        ["extent", f"{' x '.join(extents)}{unit}"],
    ]


def _format_axis(axis: Mapping[str, Any]) -> str:
    if "labels" in axis:
        more = axis["n"] - len(axis["labels"])
        return ", ".join(axis["labels"]) + (f" and {more} more" if more else "")
    if "first" not in axis:
        return count(axis["n"], "value")
    if isinstance(axis["first"], str):
        ends = axis["first"], axis["last"]
        if all(end.endswith(_MIDNIGHT) for end in ends):
            ends = ends[0].removesuffix(_MIDNIGHT), ends[1].removesuffix(_MIDNIGHT)
        return f"{' to '.join(ends)}, {count(axis['n'], 'value')}"
    text = f"{axis['first']:.10g} to {axis['last']:.10g}"
    if "step" in axis:
        text += f" in steps of {axis['step']:.6g}"
    return f"{text} {axis['units']}" if "units" in axis else text


def _shorten(values: Any) -> str:
    shown = ", ".join(str(value) for value in values[:_MAX_LABELS])
    more = len(values) - _MAX_LABELS
    return f"{shown} and {more} more" if more > 0 else shown


def _info(arguments: argparse.Namespace) -> int:
    """Describe a TIFF, document or catalog; return 1 if a level cannot be represented."""
    from ..formats.summary import describe_arrays, format_arrays, format_readers
    from . import catalog_commands

    name = console.only_image(arguments.image, "info")
    options = arguments.storage_options
    if _is_catalog(name):
        from .. import catalog

        return catalog_commands.show(name, catalog.open(name, options), arguments.json)
    with console.progress(f"reading {name}") as show:
        references, zarr_format = _open(name, options, show)
    facts = describe_arrays(references.group, references.series, references.sources, zarr_format)
    facts["meaning"] = _describe_metadata(references)
    name = redact(name)
    if arguments.json:
        console.print_json({"image": name, **facts})
    else:
        lines = [
            *format_arrays(name, facts),
            *_format_metadata(facts["meaning"]),
            *format_readers(facts),
        ]
        print(printable("\n".join(lines), "\n"))
    levels = (level for series in facts["series"] for level in series["levels"])
    return console.INVALID if any("refused" in level for level in levels) else console.OK


def _open(
    name: str, options: Mapping[str, Any] | None, show: Progress | None
) -> tuple[References, int]:
    """Return the references of a TIFF or document, and the Zarr format of their metadata."""
    from ..references import is_document, read_references
    from ..tiff.scan import scan

    if is_document(name):
        references, parsed = read_references(name, options)
        return references, parsed.zarr_format
    return scan(name, storage_options=options, progress=show), 2


def _is_catalog(name: str) -> bool:
    """Return whether this is a catalog: a folder with an index, or a URL with a trailing slash."""
    if "://" in name:
        return name.endswith(("catalog.parquet", "/"))
    # takes names of any length, and in folders that may not be read
    return name.endswith("catalog.parquet") or os.path.isfile(f"{name}/catalog.parquet")  # noqa: PTH113


_DOCUMENT: console.Arguments = {
    "document": {
        "metavar": "REFS", "help": "JSON file, or folder of parquet references: path or URL",
    },
}  # fmt: skip
_CONVERT_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "target": {
        "metavar": "TARGET", "help": console.OUTPUT_HELP,
    },
    **console.ZARR_FORMAT,
    "--reference-version": {
        "type": int, "choices": (0, 1), "default": 1, "dest": "version",
        "help": "version of the JSON document (default: 1)",
    },
    "--record-size": {
        "type": int, "default": 100_000, "metavar": "N",
        "help": "chunks per parquet file (default: 100000)",
    },
    **console.options_of("REFS and TARGET"),
    **console.allow_of("REFS"),
    **console.DRY_RUN,
    **console.JSON,
}  # fmt: skip
_REWRITE_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "--from": {
        "dest": "before", "action": "append", "required": True, "metavar": "PREFIX",
        "help": "prefix of addresses, such as s3://a/; may be repeated, with a --to for each",
    },
    "--to": {
        "dest": "after", "action": "append", "required": True, "metavar": "PREFIX",
        "help": "its replacement, such as https://b/",
    },
    "-o --output": {"metavar": "TARGET", "help": f"{console.OUTPUT_HELP} (default: REFS)"},
    **console.options_of("REFS and TARGET"),
    **console.allow_of("REFS"),
    **console.DRY_RUN,
    **console.JSON,
}  # fmt: skip
_REFRESH_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    **console.options_of("REFS"),
    **console.options_of("the files", "source"),
    **console.allow_of("REFS"),
    **console.DRY_RUN,
    **console.JSON,
}


def _convert(arguments: argparse.Namespace) -> int:
    from ..documents import convert

    target = console.check_output(arguments.target)
    names = "zarr_format version record_size storage_options allow dry_run"
    with console.progress(f"writing {target}"):
        references = convert(arguments.document, target, **console.pick(arguments, names))
    counts = console.count_arrays(references)
    line = f"{target}: {console.format_counts(counts)}"
    console.show_result(arguments, {"output": target, **counts}, line)
    return console.OK


def _rewrite(arguments: argparse.Namespace) -> int:
    from ..documents import rewrite

    if len(arguments.before) != len(arguments.after):
        raise console.UsageError("each --from needs a --to")
    moves = dict(zip(arguments.before, arguments.after, strict=True))
    target = console.check_output(arguments.output) if arguments.output else arguments.document
    options = console.pick(arguments, "storage_options allow dry_run")
    with console.progress(f"writing {target}"):
        n_moved = rewrite(arguments.document, target, moves, **options)
    line = f"{target}: {count(n_moved, 'file')} with a new address"
    console.show_result(arguments, {"output": target, "moved": n_moved}, line)
    return console.OK


def _refresh(arguments: argparse.Namespace) -> int:
    from ..documents import refresh

    options = console.pick(arguments, "storage_options source_options allow dry_run")
    with console.progress(f"refreshing {arguments.document}"):
        result = refresh(arguments.document, **options)
    if arguments.json:
        rows = {name: getattr(result, name) for name in ("unchanged", "accepted", "rescanned")}
        console.print_json({"output": arguments.document, **rows})
        return console.OK
    would = "would be" if arguments.dry_run else "was"
    for url in result.accepted:
        console.say(f"{url}: {would} accepted, its segments have not changed")
    for url in result.rescanned:
        console.say(f"{url}: {would} scanned again")
    console.say(f"{arguments.document}: {count(len(result.unchanged), 'file')} unchanged")
    return console.OK


def _parse_count(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of chunks nor 'all'")
    return int(text)


_VALIDATE_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "--sources": {
        "action": "store_true",
        "help": "check that the sources exist, have not changed, and are large enough",
    },
    "--pixels": {
        "type": _parse_count, "default": 0, "metavar": "N",
        "help": "decode N chunks of each array, or all, and compare them with the TIFF",
    },
    "--untrusted": {
        "action": "store_true",
        "help": "list the hosts and paths that the document would read, without opening any",
    },
    "--allow": {
        "action": "append", "metavar": "PREFIX",
        "help": "open only sources whose address starts with this; may be repeated (default: all)",
    },
    **console.options_of("REFS"),
    **console.options_of("the sources", "source"),
    **console.JSON,
}  # fmt: skip


def _validate(arguments: argparse.Namespace) -> int:
    """Validate a document and print the report; return 1 if there are errors."""
    from ..validation import validate

    with console.progress(f"checking {arguments.document}"):
        report = validate(
            arguments.document,
            sources=arguments.sources and not arguments.untrusted,
            pixels=0 if arguments.untrusted else arguments.pixels,
            **console.pick(arguments, "storage_options source_options allow"),
        )
    if arguments.json:
        console.print_json(report.to_json())
    else:
        print("\n".join(_format_report(arguments, report)))
    return console.OK if report.ok else console.INVALID


def _format_report(arguments: argparse.Namespace, report: Report) -> Iterator[str]:
    """Return the report as lines of text: counts, findings, and hosts with their paths."""
    n = report.n_chunks_compared
    compared = f", {count(n, 'chunk')} compared" if arguments.pixels else ""
    yield f"{report.url}: {report.summary}{compared}"
    for finding in report.findings:
        yield f"  {finding.severity}: {finding.to_error()}"
    for host, paths in sorted(report.touches.items()) if arguments.untrusted else ():
        yield f"  would read {host}"
        yield from (f"    {path!r}" for path in sorted(set(paths)))


COMMANDS = {
    "info": console.Command(
        "describe a TIFF, reference document or catalog, and which readers can open it",
        """\
  tiffref info image.tif
  tiffref info s3://bucket/image.tif --storage-option anon=true
  tiffref info refs.json
  tiffref info catalog/""",
        {
            "image": {
                "nargs": "+",
                "metavar": "IMG",
                "help": "TIFF file, reference document or catalog: a path or a URL",
            },
            **console.options_of("IMG"),
            **console.JSON,
        },
        _info,
    ),
    "convert": console.Command(
        "convert references to another format: JSON, parquet, Zarr 3",
        """\
  tiffref convert refs.json refs.parq
  tiffref convert refs.json refs-v3.json --zarr-format 3""",
        _CONVERT_ARGUMENTS,
        _convert,
    ),
    "rewrite": console.Command(
        "change the addresses of the files in references",
        """\
  tiffref rewrite refs.json --from file:///data/ --to https://host/data/
  tiffref rewrite refs.json --from s3://a/ --to s3://b/ -o moved.json
  tiffref rewrite refs.json --from s3://a/ --to s3://b/ --dry-run""",
        _REWRITE_ARGUMENTS,
        _rewrite,
    ),
    "refresh": console.Command(
        "update references to files that have changed",
        """\
  tiffref refresh refs.json
  tiffref refresh refs.json --dry-run""",
        _REFRESH_ARGUMENTS,
        _refresh,
    ),
    "validate": console.Command(
        "check a reference document, its sources and its pixels",
        """\
  tiffref validate refs.json
  tiffref validate refs.json --sources --pixels 10
  tiffref validate theirs.json --untrusted""",
        _VALIDATE_ARGUMENTS,
        _validate,
    ),
}
