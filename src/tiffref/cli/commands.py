"""`tiffref scan`, `stack` and `append`: arguments, output names and messages.

See `tiffref.scan`, `tiffref.scan_sequence`, `tiffref.append_sequence` and `References`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import first_few
from ..formats.summary import count
from ..io.urls import directory_error, has_scheme, missing_file_error
from . import console

if TYPE_CHECKING:
    from ..references import References


def _parse_key(text: str) -> int | slice | list[int]:
    try:
        if ":" in text:
            return slice(*(int(part) if part else None for part in text.split(":")))
        return [int(part) for part in text.split(",")] if "," in text else int(text)
    except (TypeError, ValueError):
        message = f"{text!r} is not a page (3), pages (0,2) or a range (0:10)"
        raise argparse.ArgumentTypeError(message) from None


def _parse_number(text: str) -> int | float:
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _parse_attributes(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        return console.parse_option(text)
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None


_SIDECARS: console.Arguments = {
    "--sidecars": {
        "action": argparse.BooleanOptionalAction,
        "help": "read the world file, RPC, .aux.xml, .ovr and .msk next to a TIFF "
        "(default: for local files)",
    },
}
_SCAN_ARGUMENTS: console.Arguments = {
    "image": {"nargs": "+", "metavar": "IMG", "help": "TIFF file: a path or a URL"},
    **console.options_of("IMG"),
    "-o --output": {
        "metavar": "FILE",
        "help": f"{console.OUTPUT_HELP}; - for standard output (default: IMG with .json)",
    },
    **console.FORMAT,
    **console.ADDRESSES,
    "--series": {"type": int, "metavar": "N", "help": "only this series"},
    **console.LEVEL,
    "--key": {
        "type": _parse_key, "metavar": "N",
        "help": "pages to read instead of a series: 3, 0,2,5 or 0:10",
    },
    "--layout": {
        "choices": ("dataset", "tree"), "default": "dataset",
        "help": "all levels in the root group, or one group per level (default: %(default)s)",
    },
    "--axes": {
        "choices": ("as-stored", "ngff", "bands-first"),
        "help": "order of axes: t, c, z, y, x (ngff) or band, y, x (bands-first) (default: "
        "as-stored, except for microscopes in Zarr v3)",
    },
    **console.ZARR_FORMAT,
    "--chunkmode": {
        "choices": ("tile", "strile"), "help": "one chunk per strip or tile",
    },
    "--fillvalue": {
        "type": _parse_number, "metavar": "N",
        "help": "value of missing chunks (default: the nodata value of the file)",
    },
    "--zattrs": {
        "action": console.Merge, "type": _parse_attributes, "metavar": "NAME=VALUE",
        "help": "attribute to add to the root group, or a JSON object of several; may be repeated",
    },
    "--strict": {"action": "store_true", "help": "refuse a file with invalid metadata"},
    "--allow-holes": {
        "action": "store_true",
        "help": "leave chunks missing that are cut off or in a file that does not exist",
    },
    **_SIDECARS,
    **console.DRY_RUN,
    **console.JSON,
}  # fmt: skip


_STANDARD_OUTPUT = {"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}


def _scan(arguments: argparse.Namespace) -> int:
    """Scan an image and write references; return 1 if a level cannot be represented."""
    from ..tiff.scan import scan

    image = console.only_image(arguments.image, "scan")
    _check_image(image)
    to_stdout = arguments.output in _STANDARD_OUTPUT
    if to_stdout and arguments.json:
        raise console.UsageError("-o - and --json both write to standard output; choose one")
    given = "/dev/stdout" if to_stdout else arguments.output
    output = console.default_output(given, _stem(image), arguments.format)
    with contextlib.suppress(OSError):  # one of them does not exist, or is a URL
        if not to_stdout and Path(output).samefile(image):
            raise console.UsageError(f"{output}: the output would replace the image itself")
    names = (
        "series level key chunkmode fillvalue zattrs layout axes strict allow_holes sidecars "
        "storage_options"
    )
    with console.progress(f"scanning {image}") as show:
        references = scan(image, progress=show, **console.pick(arguments, names))
    addresses = console.pick(arguments, "url keep_signature")
    if to_stdout:
        document = references.to_kerchunk(zarr_format=arguments.zarr_format, **addresses)
        json.dump(document, sys.stdout)
        sys.stdout.write("\n")
    elif not arguments.dry_run:
        console.write_references(references, output, arguments.zarr_format, **addresses)
    summary = _summarize_scan(references, output)
    for refused in summary["refused"]:
        console.report(
            f"series {refused['series']} level {refused['level']} is left out: {refused['reason']}",
            "warning",
        )
    line = f"{output}: {console.format_counts(summary)}"
    console.show_result(arguments, summary, *([] if to_stdout else [line]))
    return console.INVALID if summary["refused"] else console.OK


def _check_image(name: str) -> None:
    """Report a folder or a missing file, before the output is named after it."""
    if os.path.isdir(name):  # noqa: PTH112 - takes names of any length
        raise directory_error(name)
    if not has_scheme(name) and not os.path.lexists(name):
        raise missing_file_error(name)


def _stem(name: str) -> str:
    """Return the name of an image without folders, query and extension.

    >>> _stem("https://host/data/a.b.tif?token=1")
    'a.b'
    """
    plain = name.partition("::")[0].partition("?")[0] if "://" in name else name
    return Path(plain.rstrip("/").rpartition("/")[2]).stem or "image"


def _summarize_scan(references: References, output: str) -> dict[str, Any]:
    refused = [
        {"series": i, "level": j, "reason": level["refused"]}
        for i, series in enumerate(references.series)
        for j, level in enumerate(series["levels"])
        if "refused" in level
    ]
    arrays = (array for _, array in references.group.arrays())
    return {
        "output": output,
        **console.count_arrays(references),
        "missing_chunks": sum(int(array.manifest.is_missing.sum()) for array in arrays),
        "refused": refused,
    }


_SEQUENCE_ARGUMENTS: console.Arguments = {
    "--pattern": {
        "metavar": "P",
        "help": "pattern of file names: {fields}, a regular expression, or a preset such as "
        "sentinel-2 (tiffref stack --help lists them)",
    },
    **console.LEVEL,
    "--chunkmode": {"choices": ("tile",), "help": "one chunk per strip or tile"},
    "--allow-holes": {
        "action": "store_true",
        "help": "leave chunks missing if their file does not exist or cannot be read",
    },
    **console.ADDRESSES,
    "--workers": {"type": int, "metavar": "N", "help": "number of threads that read files"},
    **console.options_of("FILES"),
    **console.DRY_RUN,
    **console.JSON,
}
"""Arguments of both `stack` and `append`."""
_STACK_ARGUMENTS: console.Arguments = {
    "files": {
        "nargs": "+", "action": console.OneOrMany, "metavar": "FILES",
        "help": "TIFF files; a glob or a pattern such as 'S2_{time:%%Y%%m%%d}_{band}.tif', in "
        "quotes; or a CSV file or STAC items",
    },
    "-o --output": {"metavar": "FILE", "help": f"{console.OUTPUT_HELP} (default: stack.json)"},
    **console.FORMAT,
    **_SEQUENCE_ARGUMENTS,
    **_SIDECARS,
    "--axes": {
        "metavar": "A,B",
        "help": "order of the new axes, such as time,band; or of all axes: ngff (t, c, z, y, x), "
        "bands-first (band, y, x) or as-stored",
    },
    "--layout": {
        "choices": ("dataset", "hcs"), "default": "dataset",
        "help": "one array, or an OME-NGFF plate with one group per well and field "
        "(default: %(default)s)",
    },
    "--time-from": {
        "choices": ("DateTime", "AcquisitionDate"),
        "help": "take an axis 'time' from this tag of the files",
    },
    "--concat": {
        "metavar": "[FIELD=]DIM", "action": "append", "default": [],
        "help": "join files along one of their own dimensions; may be repeated, with a field of "
        "the pattern each time",
    },
    "--mosaic": {"action": "store_true", "help": "join adjacent files by their georeference"},
    "--on-mismatch": {
        "choices": ("error", "split"), "default": "error",
        "help": "what to do if files do not combine (default: %(default)s)",
    },
    "--ignore": {
        "action": "append", "default": [], "choices": ("georeference", "nodata"),
        "help": "differences between files to ignore; may be repeated",
    },
    **console.ZARR_FORMAT,
}  # fmt: skip


def _stack(arguments: argparse.Namespace) -> int:
    from ..metadata.ngff import AXES
    from ..sequences.stack import scan_sequence

    arguments.output = console.default_output(arguments.output, "stack", arguments.format)
    order = arguments.axes if arguments.axes not in AXES else None
    names = (
        "pattern layout time_from mosaic on_mismatch ignore allow_holes level chunkmode sidecars "
        "storage_options workers"
    )
    references = scan_sequence(
        arguments.files,
        axes=None if order else arguments.axes,
        axesorder=order.split(",") if order else None,
        concat=_parse_concat(arguments.concat),
        progress=not arguments.quiet,
        **console.pick(arguments, names),
    )
    _suggest_pattern(arguments)
    return _write_and_report(references, arguments)


def _suggest_pattern(arguments: argparse.Namespace) -> None:
    """Suggest a pattern if file names seem to have dates, bands or axes and none was given."""
    from ..sequences.inputs import list_files
    from ..sequences.names import has_fields, suggest_pattern

    is_pattern = isinstance(arguments.files, str) and has_fields(arguments.files)
    if is_pattern or arguments.pattern or arguments.time_from or arguments.mosaic:
        return
    pattern = suggest_pattern(list_files(arguments.files).urls)
    if pattern is not None:
        console.report(f"file names seem to have fields: try --pattern '{pattern}'", "note")


def _parse_concat(texts: list[str]) -> str | dict[str, str] | None:
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    if any(not equals for _, equals, _ in pairs):
        raise console.UsageError("repeated --concat options must be FIELD=DIM")
    return {field: dim for field, _, dim in pairs} or None


def _write_and_report(references: References, arguments: argparse.Namespace) -> int:
    """Write the document and report its content; return 1 if files are missing without leave."""
    if not arguments.dry_run:
        addresses = console.pick(arguments, "url keep_signature")
        console.write_references(references, arguments.output, arguments.zarr_format, **addresses)
    summary = _summarize_stack(references, arguments.output)
    lines = []
    for array in summary["arrays"]:
        shape = ", ".join(f"{dim} {n}" for dim, n in array["shape"].items())
        files = count(array["files"], "file")
        lines.append(f"{arguments.output}: {array['path']} ({shape}), {files}")
    console.show_result(arguments, summary, *lines)
    for row in summary["unreadable"]:
        console.report(f"left out: {row['reason']}", "warning")
    if summary["holes"]:
        positions = f": {first_few(summary['empty'], '; ')}" if summary["empty"] else ""
        console.report(
            f"{count(summary['holes'], 'position')} without a file{positions}", "warning"
        )
    is_incomplete = summary["holes"] or summary["unreadable"]
    return console.INVALID if is_incomplete and not arguments.allow_holes else console.OK


def _summarize_stack(references: References, output: str) -> dict[str, Any]:
    from ..references import level_paths

    sequences = [series["sequence"] for series in references.series if "sequence" in series]
    paths = level_paths(references.series)
    arrays = [
        {"path": path, "shape": array.sizes, "files": len(array.manifest.sources)}
        for path, array in references.group.arrays()
        if path in paths
    ]
    return {
        "output": output,
        "files": len(references.sources),
        "arrays": arrays,
        "holes": sum(sequence.get("n_holes", 0) for sequence in sequences),
        "empty": [hole for sequence in sequences for hole in sequence.get("holes", [])],
        "unreadable": [file for sequence in sequences for file in sequence.get("unreadable", [])],
    }


_APPEND_ARGUMENTS: console.Arguments = {
    "document": {"metavar": "DOC", "help": "document written by tiffref stack"},
    "files": {
        "nargs": "+", "action": console.OneOrMany, "metavar": "FILES",
        "help": "as for tiffref stack",
    },
    "-o --output": {"metavar": "FILE", "help": f"{console.OUTPUT_HELP} (default: DOC)"},
    **_SEQUENCE_ARGUMENTS,
    **console.allow_of("DOC"),
}  # fmt: skip


def _append(arguments: argparse.Namespace) -> int:
    from ..formats.parquet import is_parquet
    from ..io.atomic import watch
    from ..references import read_references
    from ..sequences.stack import append_sequence

    arguments.output = arguments.output or arguments.document
    check_version = watch(arguments.document)
    before, parsed = read_references(arguments.document, allow=arguments.allow)
    names = "pattern allow_holes level chunkmode storage_options workers"
    after = append_sequence(
        before, arguments.files, progress=not arguments.quiet, **console.pick(arguments, names)
    )
    if after is not before or arguments.output != arguments.document:
        check_version()
        arguments.zarr_format = 2 if is_parquet(arguments.output) else parsed.zarr_format
        return _write_and_report(after, arguments)
    if arguments.json:
        console.print_json(_summarize_stack(after, arguments.output))
    else:
        console.say(f"{arguments.output}: no new files")
    return console.OK


COMMANDS = {
    "scan": console.Command(
        "write kerchunk references to a TIFF file",
        """\
  tiffref scan image.tif                            writes image.json
  tiffref scan slide.svs -o slide.parq --level 0    parquet, the full-size level only
  tiffref scan s3://bucket/a.tif -o a.json --storage-option anon=true
  tiffref scan image.tif --url-prefix https://host/data/ -o image.json""",
        _SCAN_ARGUMENTS,
        _scan,
    ),
    "stack": console.Command(
        "write kerchunk references to many TIFF files as one array",
        """\
  tiffref stack 'S2_{time:%Y%m%d}_{band}.tif' -o cube.json    axes from the names
  tiffref stack 'scenes/*.tif' --pattern sentinel-2           writes stack.json
  tiffref stack tiles/*.tif --mosaic -o mosaic.json           placed by georeference
  tiffref stack 'img_*.tif' --time-from DateTime -o series.json
presets of --pattern: axes, cellvoyager, incell, landsat, micromanager, modis, opera, sentinel-2""",
        _STACK_ARGUMENTS,
        _stack,
    ),
    "append": console.Command(
        "add files to a reference document of many TIFF files",
        """\
  tiffref append cube.json 'S2_202206*.tif'
  tiffref append cube.json new.tif -o cube-2.json""",
        _APPEND_ARGUMENTS,
        _append,
    ),
}
