"""`tiffref info`, `convert`, `rewrite`, `refresh` and `validate`: what is there already.

Owns their arguments and what they report, such as what the pixels of the main image mean:
coordinate system, bounds, axes, channels. All of it comes from the scan or the document; nothing is
worked out here but extents. The work is that of `tiffref.documents` and `tiffref.validate`; the
lines of arrays and codecs are those of `formats.summary`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import printable, redact
from ..formats.summary import count, format_table
from . import console

if TYPE_CHECKING:
    from ..io.progress import Progress
    from ..model.array import Array
    from ..references import References
    from ..validation import Report

_MAX_LABELS = 8
_MIDNIGHT = "T00:00:00+00:00"
_KEPT = (
    "date_created", "color_interpretation", "magnification", "magnification_setting",
    "numerical_aperture", "wavelength", "plate", "well", "site", "nodata",
    "scale_factor", "add_offset", "scales", "offsets", "long_name", "units",
)  # fmt: skip
"""Attributes of the image that are shown as they are."""

_WKT_NAME = re.compile(r'"([^"]+)"')
"""The first text in WKT is the name of the system, also where a BOUNDCRS is around it."""


def _describe_meaning(references: References) -> dict[str, Any]:
    """Return coordinate system, bounds, axes and channels of the main image as JSON values.

    What the file does not say is left out.
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
    date = _date(near["time"]) if "time" in near else None
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

    from ..metadata.cf import iso_text, read_time_coordinate
    from ..read import Fetcher, read_array

    found: dict[str, Any] = {"n": coordinate.shape[0]}
    if (coordinate.manifest.source >= 0).any():
        return found  # a document of others: what its coordinates are is in files
    values = read_array(coordinate, ..., fetch=Fetcher())
    if values.dtype.kind in "US":
        return found | {"labels": values.tolist()[:_MAX_LABELS]}
    if values.size:
        found |= {"first": values.reshape(-1)[0].item(), "last": values.reshape(-1)[-1].item()}
    unit = coordinate.attributes.get("units", "")
    if " since " in unit and values.size:
        first, last = (read_time_coordinate(unit, found[name]) for name in ("first", "last"))
        if first is not None and last is not None:
            return found | {"first": iso_text(first), "last": iso_text(last)}
    steps = np.diff(values.reshape(-1).astype(float))
    if steps.size and np.allclose(steps, steps[0]):
        found["step"] = float(np.median(steps))
    return found | ({"units": unit} if unit else {})


def _date(coordinate: Array) -> str | None:
    """Format the time of a scalar CF coordinate, with the zone only if the file names one."""
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


def _format_meaning(facts: Mapping[str, Any]) -> Iterator[str]:
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
    if "bounds" in facts or (plane := _format_plane(axes)):
        rows += [] if "bounds" in facts else plane
        axes = {name: axis for name, axis in axes.items() if name not in ("x", "y")}
    # numbers from 1 say no more than the shape does
    for name, axis in axes.items():
        if "units" in axis or (axis.get("first"), axis.get("last")) != (1, axis["n"]):
            rows.append([name, _format_axis(axis)])
    if facts.get("channels") and "labels" not in axes.get("c", {}):
        rows.append(["channels", _shorten(facts["channels"])])
    for name in ("time", *_KEPT):
        if name in facts:
            value = facts[name]
            rows.append([name, _shorten(value) if isinstance(value, list | tuple) else str(value)])
    if rows:
        yield ""
        yield format_table(rows)


def _format_plane(axes: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
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


def _format_axis(axis: Mapping[str, Any]) -> str:
    if "first" not in axis and "labels" not in axis:
        return count(axis["n"], "value")
    if "labels" in axis:
        more = axis["n"] - len(axis["labels"])
        return ", ".join(axis["labels"]) + (f" and {more} more" if more else "")
    if isinstance(axis.get("first"), str):
        ends = axis["first"], axis["last"]
        if all(end.endswith(_MIDNIGHT) for end in ends):
            ends = ends[0].removesuffix(_MIDNIGHT), ends[1].removesuffix(_MIDNIGHT)
        return f"{' to '.join(ends)}, {count(axis['n'], 'value')}"
    text = f"{axis['first']:.10g} to {axis['last']:.10g}" if axis["n"] else "no values"
    if "step" in axis:
        text += f" in steps of {axis['step']:.6g}"
    return f"{text} {axis['units']}" if "units" in axis else text


def _shorten(values: Any) -> str:
    shown = ", ".join(str(value) for value in values[:_MAX_LABELS])
    more = len(values) - _MAX_LABELS
    return f"{shown} and {more} more" if more > 0 else shown


def _info(arguments: argparse.Namespace) -> int:
    """Scan or open, and describe; 1 where a level cannot be represented."""
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
    facts["meaning"] = _describe_meaning(references)
    name = redact(name)
    for source in facts["sources"]:
        source["url"] = redact(source["url"])
    if arguments.json:
        console.print_json({"image": name, **facts})
    else:
        lines = [
            *format_arrays(name, facts),
            *_format_meaning(facts["meaning"]),
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
        references, found = read_references(name, options)
        return references, found.zarr_format
    return scan(name, storage_options=options, progress=show), 2  # a glob is no file, and says so


def _is_catalog(name: str) -> bool:
    """Recognize a catalog by the index in its folder, a remote one by the slash at its end."""
    is_remote = "://" in name
    return (
        name.endswith("catalog.parquet")
        or (is_remote and name.endswith("/"))
        or (not is_remote and Path(name, "catalog.parquet").is_file())
    )


_DOCUMENT: console.Arguments = {
    "document": {
        "metavar": "REFS", "help": "JSON file, or folder of parquet references: path or URL",
    },
}  # fmt: skip
_CONVERT_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "target": {
        "metavar": "TARGET", "help": "what to write; parquet if it ends in .parq or .parquet",
    },
    "--zarr-format": {
        "type": int, "choices": (2, 3), "default": 2,
        "help": "Zarr metadata to write, for JSON (default: 2)",
    },
    "--reference-version": {
        "type": int, "choices": (0, 1), "default": 1, "dest": "version",
        "help": "version of the JSON document (default: 1)",
    },
    "--record-size": {
        "type": int, "default": 100_000, "metavar": "N",
        "help": "chunks in one parquet file (default: 100000)",
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
        "help": "beginning of addresses, such as s3://a/; may be repeated, with a --to for each",
    },
    "--to": {
        "dest": "after", "action": "append", "required": True, "metavar": "PREFIX",
        "help": "what replaces it, such as https://b/",
    },
    "-o --output": {"metavar": "TARGET", "help": "what to write; by default REFS itself"},
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
    """Convert, and say what was written."""
    from ..documents import convert

    target = console.default_output(arguments.target, "", None)
    names = "zarr_format version record_size storage_options allow dry_run"
    with console.progress(f"writing {target}"):
        references = convert(arguments.document, target, **console.pick(arguments, names))
    counts = console.count_arrays(references)
    if arguments.json:
        console.print_json({"output": target, **counts})
    else:
        would = "would write " if arguments.dry_run else ""
        console.say(f"{would}{target}: {console.format_counts(counts)}")
    return console.OK


def _rewrite(arguments: argparse.Namespace) -> int:
    """Rewrite, and say how many files have another address."""
    from ..documents import rewrite

    if len(arguments.before) != len(arguments.after):
        raise console.UsageError("each --from needs a --to")
    moves = dict(zip(arguments.before, arguments.after, strict=True))
    target = arguments.document
    if arguments.output:
        target = console.default_output(arguments.output, "", None)
    options = console.pick(arguments, "storage_options allow dry_run")
    with console.progress(f"writing {target}"):
        n_moved = rewrite(arguments.document, target, moves, **options)
    if arguments.json:
        console.print_json({"output": target, "moved": n_moved})
    else:
        would = "would write " if arguments.dry_run else ""
        console.say(f"{would}{target}: {count(n_moved, 'file')} with another address")
    return console.OK


def _refresh(arguments: argparse.Namespace) -> int:
    """Refresh, and say what became of the files."""
    from ..documents import refresh

    options = console.pick(arguments, "storage_options source_options allow dry_run")
    with console.progress(f"refreshing {arguments.document}"):
        done = refresh(arguments.document, **options)
    if arguments.json:
        rows = {name: getattr(done, name) for name in ("unchanged", "accepted", "rescanned")}
        console.print_json({"output": arguments.document, **rows})
        return console.OK
    would = "would be" if arguments.dry_run else "was"
    for url in done.accepted:
        console.say(f"{url}: {would} accepted, its segments are the same")
    for url in done.rescanned:
        console.say(f"{url}: {would} scanned again")
    console.say(f"{arguments.document}: {count(len(done.unchanged), 'file')} unchanged")
    return console.OK


def _parse_count(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of chunks nor all")
    return int(text)


_VALIDATE_ARGUMENTS: console.Arguments = {
    **_DOCUMENT,
    "--sources": {
        "action": "store_true",
        "help": "check that the sources exist, are unchanged, and are long enough",
    },
    "--pixels": {
        "type": _parse_count, "default": 0, "metavar": "N",
        "help": "decode N chunks of each array, or all, and compare them with the TIFF",
    },
    "--untrusted": {
        "action": "store_true",
        "help": "list every host and path that the document would read, and open none of them",
    },
    "--allow": {
        "action": "append", "metavar": "PREFIX",
        "help": "open only sources whose URL starts with this; may be repeated (default: all)",
    },
    **console.options_of("REFS"),
    **console.options_of("the sources", "source"),
    **console.JSON,
}  # fmt: skip


def _validate(arguments: argparse.Namespace) -> int:
    """Check and report; 1 where an error was found."""
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
    """Return the lines that a person reads: the verdict, each finding, each host and its paths."""
    counts = [
        count(sum(finding.severity == kind for finding in report.findings), kind)
        for kind in ("error", "warning")
        if any(finding.severity == kind for finding in report.findings)
    ]
    verdict = ["valid"] if report.ok else []
    if arguments.pixels:
        counts.append(f"{count(report.n_chunks_compared, 'chunk')} compared")
    yield f"{arguments.document}: {', '.join(verdict + counts)}"
    for finding in report.findings:
        yield f"  {finding.severity}: {finding.to_error()}"
    for host, paths in sorted(report.touches.items()) if arguments.untrusted else ():
        yield f"  touches {host}"
        yield from (f"    {path!r}" for path in sorted(set(paths)))


COMMANDS = {
    "info": console.Command(
        "show what a TIFF, references or a catalog hold, and who can open them",
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
        "write references in another format: JSON, parquet, Zarr 3",
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
        "update references after their files changed",
        """\
  tiffref refresh refs.json
  tiffref refresh refs.json --dry-run""",
        _REFRESH_ARGUMENTS,
        _refresh,
    ),
    "validate": console.Command(
        "check a reference document, its sources and their pixels",
        """\
  tiffref validate refs.json
  tiffref validate refs.json --sources --pixels 10
  tiffref validate theirs.json --untrusted""",
        _VALIDATE_ARGUMENTS,
        _validate,
    ),
}
