"""The commands `scan`, `stack`, `append`, `convert`, `rewrite` and `validate`.

Owns the arguments of each and how its result reads. The work is done by the functions of the same
names: `tiffref.scan`, `scan_sequence`, `append_sequence`, `catalog.convert`, `catalog.rewrite` and
`validate`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import console

if TYPE_CHECKING:
    from ..formats.findings import Finding
    from ..references import References
    from ..validation import Report

__all__ = [
    "APPEND_HELP",
    "CONVERT_HELP",
    "REWRITE_HELP",
    "SCAN_HELP",
    "STACK_HELP",
    "VALIDATE_HELP",
    "add_append_arguments",
    "add_convert_arguments",
    "add_rewrite_arguments",
    "add_scan_arguments",
    "add_sequence_arguments",
    "add_stack_arguments",
    "add_validate_arguments",
    "finish",
    "run_append",
    "run_convert",
    "run_rewrite",
    "run_scan",
    "run_stack",
    "run_validate",
]

SCAN_HELP = "write kerchunk references of a TIFF file"


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    console.add_source_arguments(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE",
        help=f"{console.OUTPUT_HELP}; - is standard output",
    )  # fmt: skip
    parser.add_argument(
        "--url-prefix", metavar="URL",
        help="where readers find the TIFF: this followed by its file name (s3://bucket/folder/)",
    )  # fmt: skip
    parser.add_argument("--series", type=int, metavar="N", help="one series only")
    parser.add_argument("--level", type=int, metavar="N", help="one pyramid level only")
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
    console.add_json_argument(parser)


def run_scan(arguments: argparse.Namespace) -> int:
    """Scan, write, and say what was written; 1 where a level could not be expressed."""
    from ..scanner.tiff import scan

    to_stdout = arguments.output == "-"
    if to_stdout and arguments.json:
        raise console.UsageError("-o - and --json both write to standard output; choose one")
    if not to_stdout and _is_same_file(arguments.output, arguments.image):
        raise console.UsageError(f"{arguments.output}: the output would replace the image itself")
    with console.progress(f"scanning {arguments.image}"):
        references = scan(
            arguments.image,
            series=arguments.series,
            level=arguments.level,
            layout=arguments.layout,
            axes=arguments.axes,
            storage_options=dict(arguments.storage_option) or None,
        )
    if to_stdout:
        document = references.to_kerchunk(
            url=arguments.url_prefix, zarr_format=arguments.zarr_format
        )
        json.dump(document, sys.stdout)
        sys.stdout.write("\n")
    else:
        console.write_references(
            references, arguments.output, arguments.url_prefix, arguments.zarr_format
        )
    summary = summarise_scan(references, arguments.output)
    for refused in summary["refused"]:
        console.report(
            f"series {refused['series']} level {refused['level']} is left out: {refused['reason']}",
            "warning",
        )
    if arguments.json:
        console.print_json(summary)
    elif not to_stdout:
        print(f"{arguments.output}: {console.tell_counts(summary)}")
    return console.INVALID if summary["refused"] else console.OK


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
_FILES_SHOWN = 3


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "files", nargs="+", metavar="FILES",
        help="TIFF files; a glob or a pattern such as 'S2_{time:%%Y%%m%%d}_{band}.tif', in quotes; "
        "or a CSV file or STAC items",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=console.OUTPUT_HELP)
    add_sequence_arguments(parser)
    parser.add_argument(
        "--axes", metavar="A,B",
        help="order of the new axes, as time,band; or of all axes: ngff (t, c, z, y, x), "
        "bands-first (band, y, x) or as-stored",
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


def add_sequence_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `stack` and `append` share."""
    parser.add_argument(
        "--pattern", metavar="P",
        help="how names give coordinates: with {fields}, a regular expression, or a preset such as "
        "sentinel-2",
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
    console.add_json_argument(parser)


def run_stack(arguments: argparse.Namespace) -> int:
    """Scan all files, write, and say what was written; 1 where places are left empty."""
    from ..metadata.axes import AXES
    from ..sequences.stack import scan_sequence

    axes = arguments.axes if arguments.axes in AXES else None
    references = scan_sequence(
        arguments.files[0] if len(arguments.files) == 1 else arguments.files,
        pattern=arguments.pattern,
        axesorder=arguments.axes.split(",") if arguments.axes and axes is None else None,
        axes=axes,
        time_from=arguments.time_from,
        concat=_parse_concat(arguments.concat),
        mosaic=arguments.mosaic,
        on_mismatch=arguments.on_mismatch,
        ignore=arguments.ignore,
        allow_holes=arguments.allow_holes,
        level=arguments.level,
        chunkmode=arguments.chunkmode,
        storage_options=dict(arguments.storage_option) or None,
        workers=arguments.workers,
        progress=True,
    )
    return finish(references, arguments, arguments.zarr_format)


def _parse_concat(texts: list[str]) -> str | dict[str, str] | None:
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    if any(not equals for _, equals, _ in pairs):
        raise console.UsageError("--concat given more than once takes FIELD=DIM")
    return {field: dim for field, _, dim in pairs} or None


def finish(references: References, arguments: argparse.Namespace, zarr_format: int) -> int:
    """Write the document and tell what is in it."""
    console.write_references(references, arguments.output, arguments.url_prefix, zarr_format)
    summary = summarise_stack(references, arguments.output)
    if arguments.json:
        console.print_json(summary)
    else:
        for array in summary["arrays"]:
            shape = ", ".join(f"{dim} {n}" for dim, n in array["shape"].items())
            files = console.count(summary["files"], "file")
            print(f"{arguments.output}: {array['path']} ({shape}), {files}")
    for row in summary["unreadable"]:
        console.report(f"left out: {row['reason']}", "warning")
    if summary["holes"]:
        named = "; ".join(summary["empty"][:_FILES_SHOWN])
        more = "; ..." if named and summary["holes"] > _FILES_SHOWN else ""
        which = f": {named}{more}" if named else ""
        console.report(
            f"{console.count(summary['holes'], 'place')} without a file{which}", "warning"
        )
    return console.INVALID if summary["holes"] or summary["unreadable"] else console.OK


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


def add_append_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("document", metavar="DOC", help="what tiffref stack wrote")
    parser.add_argument("files", nargs="+", metavar="FILES", help="as for tiffref stack")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help=f"{console.OUTPUT_HELP}; by default DOC itself"
    )
    add_sequence_arguments(parser)
    console.add_allow_argument(parser, "DOC")


def run_append(arguments: argparse.Namespace) -> int:
    """Add files and write; 1 where places are left empty."""
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
        progress=True,
    )
    if after is before and arguments.output == arguments.document:
        if arguments.json:
            console.print_json(summarise_stack(after, arguments.output))
        else:
            print(f"{arguments.output}: nothing new")
        return console.OK
    return finish(after, arguments, zarr_format=2)


CONVERT_HELP = "write references in another format: JSON, parquet, Zarr 3"


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("source", metavar="REFS", help="JSON file, or folder of parquet references")
    parser.add_argument(
        "target", metavar="TARGET", help="what to write; parquet if it ends in .parq or .parquet"
    )
    parser.add_argument(
        "--zarr-format", type=int, choices=(2, 3), default=2, help="of JSON (default: 2)"
    )
    parser.add_argument(
        "--reference-version", type=int, choices=(0, 1), default=1,
        help="of the JSON document (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--record-size", type=int, default=100_000, metavar="N",
        help="chunks in one parquet file (default: 100000)",
    )  # fmt: skip
    console.add_options_argument(parser, "--storage-option", "REFS and TARGET")
    console.add_allow_argument(parser, "REFS")
    console.add_json_argument(parser)


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from .. import catalog

    with console.progress(f"writing {arguments.target}"):
        references = catalog.convert(
            arguments.source,
            arguments.target,
            zarr_format=arguments.zarr_format,
            version=arguments.reference_version,
            record_size=arguments.record_size,
            storage_options=dict(arguments.storage_option) or None,
            allow=arguments.allow,
        )
    counts = console.count_arrays(references)
    if arguments.json:
        console.print_json({"output": arguments.target, **counts})
    else:
        print(f"{arguments.target}: {console.tell_counts(counts)}")
    return console.OK


REWRITE_HELP = "change the addresses of the files in references"


def add_rewrite_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "document", metavar="REFS", help="JSON file, or folder of parquet references"
    )
    parser.add_argument(
        "--from", dest="before", action="append", required=True, metavar="PREFIX",
        help="beginning of addresses, as s3://a/; may be repeated, with a --to for each",
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="after", action="append", required=True, metavar="PREFIX",
        help="what stands there instead, as https://b/",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="TARGET", help="what to write; by default REFS itself"
    )
    console.add_options_argument(parser, "--storage-option", "REFS and TARGET")
    console.add_allow_argument(parser, "REFS")
    console.add_json_argument(parser)


def run_rewrite(arguments: argparse.Namespace) -> int:
    """Rewrite, and say how many files have another address."""
    from .. import catalog

    if len(arguments.before) != len(arguments.after):
        raise console.UsageError("each --from needs a --to")
    target = arguments.output or arguments.document
    with console.progress(f"writing {target}"):
        n_moved = catalog.rewrite(
            arguments.document,
            target,
            dict(zip(arguments.before, arguments.after, strict=True)),
            storage_options=dict(arguments.storage_option) or None,
            allow=arguments.allow,
        )
    if arguments.json:
        console.print_json({"output": target, "moved": n_moved})
    else:
        print(f"{target}: {console.count(n_moved, 'file')} with another address")
    return console.OK


VALIDATE_HELP = "check a reference document, its sources and their pixels"


def add_validate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "document", metavar="REFS", help="JSON file, or folder of parquet references: path or URL"
    )
    parser.add_argument(
        "--sources", action="store_true",
        help="look whether the sources are there, unchanged, and long enough",
    )  # fmt: skip
    parser.add_argument(
        "--pixels", type=_parse_count, default=0, metavar="N",
        help="decode N chunks of each array, or all, and compare them with the TIFF",
    )  # fmt: skip
    parser.add_argument(
        "--untrusted", action="store_true",
        help="list every host and path that reading the document would touch; open none of them",
    )  # fmt: skip
    parser.add_argument(
        "--allow", action="append", metavar="PREFIX",
        help="open only sources whose URL begins so; may be repeated (default: all)",
    )  # fmt: skip
    console.add_options_argument(parser, "--storage-option", "REFS")
    console.add_options_argument(parser, "--source-option", "the sources")
    console.add_json_argument(parser)


def run_validate(arguments: argparse.Namespace) -> int:
    """Check and report; 1 where an error was found."""
    from ..validation import validate

    with console.progress(f"checking {arguments.document}"):
        report = validate(
            arguments.document,
            sources=arguments.sources and not arguments.untrusted,
            pixels=0 if arguments.untrusted else arguments.pixels,
            storage_options=dict(arguments.storage_option) or None,
            source_options=dict(arguments.source_option) or None,
            allow=arguments.allow,
        )
    if arguments.json:
        console.print_json(report.to_json())
    else:
        print("\n".join(tell(arguments.document, report, bool(arguments.pixels))))
        if arguments.untrusted:
            print("\n".join(tell_touches(report)))
    return console.OK if report.ok else console.INVALID


def tell(document: str, report: Report, compared: bool) -> Iterator[str]:
    """Return the lines that a person reads: the verdict, then each finding."""
    counts = [
        console.count(sum(finding.severity == kind for finding in report.findings), kind)
        for kind in ("error", "warning")
        if any(finding.severity == kind for finding in report.findings)
    ]
    verdict = ["valid"] if report.ok else []
    if compared:
        counts.append(f"{console.count(report.n_chunks_compared, 'chunk')} compared")
    yield f"{document}: {', '.join(verdict + counts)}"
    for finding in report.findings:
        yield f"  {_describe(finding)}"


def tell_touches(report: Report) -> Iterator[str]:
    """Return each host that reading would touch, and below it each path."""
    for host, paths in sorted(report.touches.items()):
        yield f"  touches {host}"
        yield from (f"    {path!r}" for path in sorted(set(paths)))


def _describe(finding: Finding) -> str:
    return f"{finding.severity}: {finding.to_error()}"


def _parse_count(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of chunks nor all")
    return int(text)
