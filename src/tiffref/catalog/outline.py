"""What the index says of a file, from its references.

Owns the row of one file as plain values: what is measured of the image, and where it is. Rows are
written to the journal as they are; columns of the index are made of them by `index`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs.table import COMPRESSIONS
from ..conventions.time import read_time_coordinate
from ..model.codec import SegmentCodec
from ..model.manifest import MISSING, Source
from ..model.node import Array
from ..references import References

__all__ = ["encode_row", "file_facts", "main_path"]


def main_path(references: References) -> str:
    """Give the path of the array that a file is described by: level 0 of its first series."""
    for row in references.series:
        for level in row["levels"]:
            if "path" in level:
                return level["path"]
    return next(path for path, _ in references.group.arrays())


def file_facts(references: References) -> dict[str, Any]:
    """Measure the image of a file: its form, its place and time, and its chunks."""
    array = references.group[main_path(references)]
    assert isinstance(array, Array)
    attributes = references.group.attributes
    levels = [level for row in references.series[:1] for level in row["levels"]]
    refused = [
        level["refused"] for row in references.series for level in row["levels"]
        if "refused" in level
    ]  # fmt: skip
    return {
        "shape": list(array.shape),
        "dims": list(array.dims),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "codec": _name_codec(array),
        "nbytes": array.nbytes,
        "n_levels": len(levels),
        "n_series": len(references.series),
        "nodata": _number(array.fill_value),
        "crs": attributes.get("proj:code") or attributes.get("proj:wkt2"),
        "transform": attributes.get("spatial:transform"),
        "raster": attributes.get("spatial:shape"),
        "time": _time(references),
        "refused": refused,
        **_chunk_facts(references),
    }


def _name_codec(array: Array) -> str:
    codec = array.codecs[0]
    if not isinstance(codec, SegmentCodec):
        return "foreign"
    name = COMPRESSIONS[codec.compression].name if codec.compression in COMPRESSIONS else "unknown"
    return name if codec.predictor == 1 else f"{name}+predictor{codec.predictor}"


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, complex):
        return None
    number = float(value)
    return number if np.isfinite(number) else None


def _time(references: References) -> str | None:
    """Give when the image was taken, or else made, as ISO text."""
    variable = references.group.children.get("time")
    if isinstance(variable, Array) and variable.shape == ():
        units = str(variable.attributes.get("units", ""))
        data = variable.manifest.inlined.get(0, b"")
        if len(data) == 8:
            number = np.frombuffer(data, variable.dtype.newbyteorder("<"))[0]
            moment = read_time_coordinate(units, int(number))
            if moment is not None:
                return moment.replace(tzinfo=None).isoformat()
    array = references.group[main_path(references)]
    made = array.attributes.get("time_coverage_start") or array.attributes.get("date_created")
    return _iso(made)


def _iso(text: Any) -> str | None:
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return moment.isoformat()


def _chunk_facts(references: References) -> dict[str, Any]:
    """Measure the chunks of all arrays of a file together."""
    # looked at together: a look takes longer than the few chunks of a level
    manifests = [array.manifest for _, array in references.group.arrays() if array.manifest.sources]
    none: list[NDArray[Any]] = [np.empty(0, np.uint64)]
    source = np.concatenate([manifest.source for manifest in manifests] or none)
    length = np.concatenate([manifest.length for manifest in manifests] or none)
    n_chunks, n_missing = len(source), 0
    if n_chunks and source.min() < 0:
        n_missing = int((source == MISSING).sum())
        length = length[source >= 0]
    return {
        "n_chunks": n_chunks,
        "missing_chunks": n_missing,
        "stored_bytes": int(length.sum()),
        "largest_chunk": int(length.max(initial=0)),
        "main": main_path(references),
    }


def encode_row(
    url: str, source: Source | None, status: str, facts: Mapping[str, Any]
) -> tuple[str, bytes]:
    """Give the line of the journal for one file."""
    row: dict[str, Any] = {"url": url, "status": status}
    if source is not None:
        row.update(size=source.size, mtime=source.mtime, etag=source.etag)
    row.update(facts)
    return url, json.dumps(row, separators=(",", ":")).encode() + b"\n"
