"""`tiffref scan`, `stack` and `append`: from TIFFs to a reference document.

Owns their arguments, the names of what they write, and what they report; the work is
`tiffref.scan`, `tiffref.scan_sequence`, `tiffref.append_sequence` and `References`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from ..references import References

__all__ = [
    "APPEND_EXAMPLES",
    "APPEND_HELP",
    "SCAN_EXAMPLES",
    "SCAN_HELP",
    "STACK_EXAMPLES",
    "STACK_HELP",
    "add_append_arguments",
    "add_scan_arguments",
    "add_stack_arguments",
    "run_append",
    "run_scan",
    "run_stack",
]

SCAN_HELP = "write kerchunk references of a TIFF file"
SCAN_EXAMPLES = """\
  tiffref scan image.tif                            writes image.json
  tiffref scan slide.svs -o slide.parq --level 0    parquet, the full-size level only
  tiffref scan s3://bucket/a.tif -o a.json --storage-option anon=true
  tiffref scan image.tif --url-prefix https://host/data/ -o image.json"""


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    console.add_source_arguments(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help=f"{console.OUTPUT_HELP}; - is standard output (default: the name of IMG, as .json)",
    )  # fmt: skip
    console.add_format_argument(parser)
    parser.add_argument(
        "--url-prefix", metavar="URL",
        help="where readers find the TIFF: this followed by its file name (s3://bucket/folder/)",
    )  # fmt: skip
    parser.add_argument("--series", type=int, metavar="N", help="one series only")
    parser.add_argument("--level", type=int, metavar="N", help="one pyramid level only")
    parser.add_argument(
        "--key", type=_parse_key, metavar="N",
        help="pages instead of series: one (3), several (0,2,5) or a range (0:10)",
    )  # fmt: skip
    parser.add_argument(
        "--layout", choices=("dataset", "tree"), default="dataset",
        help="all levels in the root group, or a group per level (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--axes", choices=("as-stored", "ngff", "bands-first"),
        help="order of axes: ngff is t, c, z, y, x, bands-first is band, y, x (default: as stored, "
        "but for microscopes in Zarr v3)",
    )  # fmt: skip
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=2,
        help="Zarr metadata to write; xarray's kerchunk engine reads 2 only (default: 2)",
    )  # fmt: skip
    _add_value_arguments(parser)
    parser.add_argument(
        "--strict", action="store_true", help="refuse a file whose metadata makes no sense"
    )
    parser.add_argument(
        "--allow-holes", action="store_true",
        help="leave chunks missing where a file of a set is not there",
    )  # fmt: skip
    _add_sidecars_argument(parser)
    console.add_dry_run_argument(parser)
    console.add_json_argument(parser)


def _add_sidecars_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sidecars", action=argparse.BooleanOptionalAction,
        help="read the world file, .aux.xml, .ovr and .msk beside a TIFF (default: of local files)",
    )  # fmt: skip


def _add_value_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `scan` and `stack` say of chunks, fill values and attributes."""
    parser.add_argument(
        "--chunkmode", choices=("tile", "strile"),
        help="one chunk for each strip or tile as stored",
    )  # fmt: skip
    parser.add_argument(
        "--fillvalue", type=_parse_number, metavar="N",
        help="value of missing chunks, instead of the nodata value of the file",
    )  # fmt: skip
    parser.add_argument(
        "--zattrs", action="append", default=[], type=_parse_attributes, metavar="NAME=VALUE",
        help="attribute to add at the root, or a JSON object of several; may be repeated",
    )  # fmt: skip


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
    if text.startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    name, value = console.parse_option(text)
    return {name: value}


def run_scan(arguments: argparse.Namespace) -> int:
    """Scan, write, and say what was written; 1 where a level could not be expressed."""
    from ..tiff.scan import scan

    image = console.only_image(arguments.image, "scan")
    to_stdout = arguments.output == "-"
    if to_stdout and arguments.json:
        raise console.UsageError("-o - and --json both write to standard output; choose one")
    output = console.default_output(arguments.output, _stem(image), arguments.format)
    if not to_stdout and _is_same_file(output, image):
        raise console.UsageError(f"{output}: the output would replace the image itself")
    with console.progress(f"scanning {image}"):
        references = scan(image, **_scan_options(arguments))
    if to_stdout:
        document = references.to_kerchunk(
            url=arguments.url_prefix, zarr_format=arguments.zarr_format
        )
        json.dump(document, sys.stdout)
        sys.stdout.write("\n")
    elif not arguments.dry_run:
        console.write_references(references, output, arguments.url_prefix, arguments.zarr_format)
    summary = summarise_scan(references, output)
    for refused in summary["refused"]:
        console.report(
            f"series {refused['series']} level {refused['level']} is left out: {refused['reason']}",
            "warning",
        )
    if arguments.json:
        console.print_json(summary)
    elif not to_stdout:
        would = "would write " if arguments.dry_run else ""
        console.say(f"{would}{output}: {console.format_counts(summary)}")
    return console.INVALID if summary["refused"] else console.OK


def _scan_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "series": arguments.series,
        "level": arguments.level,
        "key": arguments.key,
        "chunkmode": arguments.chunkmode,
        "fillvalue": arguments.fillvalue,
        "zattrs": _merge(arguments.zattrs),
        "layout": arguments.layout,
        "axes": arguments.axes,
        "strict": arguments.strict,
        "allow_holes": arguments.allow_holes,
        "sidecars": arguments.sidecars,
        "storage_options": dict(arguments.storage_option) or None,
    }


def _merge(attributes: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return {name: value for one in attributes for name, value in one.items()} or None


def _stem(name: str) -> str:
    """Return the name of an image without folders, query and ending.

    >>> _stem("https://host/data/a.b.tif?token=1")
    'a.b'
    """
    plain = name.partition("::")[0].partition("?")[0] if "://" in name else name
    return Path(plain.rstrip("/").rpartition("/")[2]).stem or "image"


def summarise_scan(references: References, where: str) -> dict[str, Any]:
    """Describe what a document holds and what was left out of it, as JSON values."""
    arrays = list(references.group.arrays())
    refused = [
        {"series": i, "level": j, "reason": level["refused"]}
        for i, series in enumerate(references.series)
        for j, level in enumerate(series["levels"])
        if "refused" in level
    ]
    return {
        "output": where,
        **console.count_arrays(references),
        "missing_chunks": sum(int(array.manifest.is_missing.sum()) for _, array in arrays),
        "refused": refused,
    }


def _is_same_file(where: str, image: str) -> bool:
    try:
        return Path(where).samefile(image)
    except OSError:
        return False  # one of them does not exist, or is a URL


STACK_HELP = "write kerchunk references of many TIFF files as one array"
STACK_EXAMPLES = """\
  tiffref stack 'S2_{time:%Y%m%d}_{band}.tif' -o cube.json    axes from the names
  tiffref stack 'scenes/*.tif' --pattern sentinel-2           writes stack.json
  tiffref stack tiles/*.tif --mosaic -o mosaic.json           placed by georeference
  tiffref stack 'img_*.tif' --time-from DateTime -o series.json
presets of --pattern: axes, cellvoyager, incell, landsat, micromanager, modis, opera, sentinel-2"""
_FILES_SHOWN = 3


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "files", nargs="+", metavar="FILES",
        help="TIFF files; a glob or a pattern such as 'S2_{time:%%Y%%m%%d}_{band}.tif', in quotes; "
        "or a CSV file or STAC items",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", help=f"{console.OUTPUT_HELP} (default: stack.json)"
    )
    console.add_format_argument(parser)
    _add_sequence_arguments(parser)
    _add_sidecars_argument(parser)
    parser.add_argument(
        "--axes", metavar="A,B",
        help="order of the new axes, as time,band; or of all axes: ngff (t, c, z, y, x), "
        "bands-first (band, y, x) or as-stored",
    )  # fmt: skip
    parser.add_argument(
        "--layout", choices=("dataset", "hcs"), default="dataset",
        help="one array, or an OME-NGFF plate with a group for each well and field "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--time-from", choices=("DateTime", "AcquisitionDate"),
        help="take an axis 'time' from this tag of the files",
    )  # fmt: skip
    parser.add_argument(
        "--concat", metavar="[FIELD=]DIM", action="append", default=[],
        help="join files along one of their own dimensions; may be repeated with a field of the "
        "pattern for each",
    )  # fmt: skip
    parser.add_argument("--mosaic", action="store_true", help="place files by their georeference")
    parser.add_argument(
        "--on-mismatch", choices=("error", "split"), default="error",
        help="what to do about files that do not combine (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ignore", action="append", default=[], choices=("georeference", "nodata"),
        help="differences between files to overlook; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=2, help="Zarr metadata to write"
    )


def _add_sequence_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `stack` and `append` share."""
    parser.add_argument(
        "--pattern", metavar="P",
        help="how names give coordinates: with {fields}, a regular expression, or a preset such as "
        "sentinel-2 (tiffref stack --help lists them)",
    )  # fmt: skip
    parser.add_argument("--level", type=int, metavar="N", help="one pyramid level only")
    parser.add_argument(
        "--chunkmode", choices=("tile",), help="one chunk for each strip or tile as stored"
    )
    parser.add_argument(
        "--allow-holes", action="store_true",
        help="leave chunks missing where no file is or a file cannot be read",
    )  # fmt: skip
    parser.add_argument("--url-prefix", metavar="URL", help="where readers find the TIFFs")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that read files")
    console.add_options_argument(parser, "--storage-option", "FILES")
    console.add_dry_run_argument(parser)
    console.add_json_argument(parser)


def run_stack(arguments: argparse.Namespace) -> int:
    """Scan all files, write, and say what was written."""
    from ..metadata.axes import AXES
    from ..sequences.stack import scan_sequence

    arguments.output = console.default_output(arguments.output, "stack", arguments.format)
    axes = arguments.axes if arguments.axes in AXES else None
    references = scan_sequence(
        arguments.files[0] if len(arguments.files) == 1 else arguments.files,
        pattern=arguments.pattern,
        axesorder=arguments.axes.split(",") if arguments.axes and axes is None else None,
        axes=axes,
        layout=arguments.layout,
        time_from=arguments.time_from,
        concat=_parse_concat(arguments.concat),
        mosaic=arguments.mosaic,
        on_mismatch=arguments.on_mismatch,
        ignore=arguments.ignore,
        allow_holes=arguments.allow_holes,
        level=arguments.level,
        chunkmode=arguments.chunkmode,
        sidecars=arguments.sidecars,
        storage_options=dict(arguments.storage_option) or None,
        workers=arguments.workers,
        progress=not arguments.quiet,
    )
    _offer_pattern(arguments)
    return _finish(references, arguments, arguments.zarr_format)


def _offer_pattern(arguments: argparse.Namespace) -> None:
    """Offer a pattern where names look like dates, bands or axes and none was given."""
    from ..sequences.inputs import list_files
    from ..sequences.names import has_fields, suggest_pattern

    files = arguments.files
    if arguments.pattern or arguments.time_from or arguments.mosaic or has_fields(files[0]):
        return
    names = list_files(files[0] if len(files) == 1 else files).urls
    pattern = suggest_pattern(names)
    if pattern is not None:
        console.report(f"names look like coordinates; to have axes: --pattern '{pattern}'", "note")


def _parse_concat(texts: list[str]) -> str | dict[str, str] | None:
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    if any(not equals for _, equals, _ in pairs):
        raise console.UsageError("--concat given more than once takes FIELD=DIM")
    return {field: dim for field, _, dim in pairs} or None


def _finish(references: References, arguments: argparse.Namespace, zarr_format: int) -> int:
    """Write the document and say what is in it; 1 where it lacks what nobody allowed it to."""
    if not arguments.dry_run:
        console.write_references(references, arguments.output, arguments.url_prefix, zarr_format)
    summary = summarise_stack(references, arguments.output)
    if arguments.json:
        console.print_json(summary)
    else:
        for array in summary["arrays"]:
            shape = ", ".join(f"{dim} {n}" for dim, n in array["shape"].items())
            files = console.count(summary["files"], "file")
            would = "would write " if arguments.dry_run else ""
            console.say(f"{would}{arguments.output}: {array['path']} ({shape}), {files}")
    for row in summary["unreadable"]:
        console.report(f"left out: {row['reason']}", "warning")
    if summary["holes"]:
        named = "; ".join(summary["empty"][:_FILES_SHOWN])
        more = "; ..." if named and summary["holes"] > _FILES_SHOWN else ""
        which = f": {named}{more}" if named else ""
        console.report(
            f"{console.count(summary['holes'], 'place')} without a file{which}", "warning"
        )
    is_short = summary["holes"] or summary["unreadable"]
    return console.INVALID if is_short and not arguments.allow_holes else console.OK


def summarise_stack(references: References, where: str) -> dict[str, Any]:
    """Describe what a document holds, as JSON values."""
    records = [row["sequence"] for row in references.series if "sequence" in row]
    paths = [
        level["path"] for row in references.series for level in row["levels"] if "path" in level
    ]
    arrays = [
        {"path": path, "shape": dict(zip(array.dims, array.shape, strict=True))}
        for path, array in references.group.arrays()
        if path in paths
    ]
    return {
        "output": where,
        "files": len(references.sources),
        "arrays": arrays,
        "holes": sum(record.get("n_holes", 0) for record in records),
        "empty": [place for record in records for place in record.get("holes", [])],
        "unreadable": [row for record in records for row in record.get("unreadable", [])],
    }


APPEND_HELP = "add files to a reference document of many TIFF files"
APPEND_EXAMPLES = """\
  tiffref append cube.json 'S2_202206*.tif'
  tiffref append cube.json new.tif -o cube-2.json"""


def add_append_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("document", metavar="DOC", help="what tiffref stack wrote")
    parser.add_argument("files", nargs="+", metavar="FILES", help="as for tiffref stack")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help=f"{console.OUTPUT_HELP}; by default DOC itself"
    )
    _add_sequence_arguments(parser)
    console.add_allow_argument(parser, "DOC")


def run_append(arguments: argparse.Namespace) -> int:
    """Add files, write, and say what was written."""
    from ..references import References
    from ..sequences.append import append_sequence

    arguments.output = arguments.output or arguments.document
    options = dict(arguments.storage_option) or None
    before = References.open(arguments.document, allow=arguments.allow)
    after = append_sequence(
        before,
        arguments.files[0] if len(arguments.files) == 1 else arguments.files,
        pattern=arguments.pattern,
        allow_holes=arguments.allow_holes,
        level=arguments.level,
        chunkmode=arguments.chunkmode,
        storage_options=options,
        workers=arguments.workers,
        progress=not arguments.quiet,
    )
    if after is before and arguments.output == arguments.document:
        if arguments.json:
            console.print_json(summarise_stack(after, arguments.output))
        else:
            console.say(f"{arguments.output}: nothing new")
        return console.OK
    return _finish(after, arguments, zarr_format=2)
