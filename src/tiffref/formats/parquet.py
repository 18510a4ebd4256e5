"""Reference documents of kerchunk, as a folder of parquet files.

Owns the layout: `.zmetadata` with all metadata and the `record_size`, and for each array
`<path>/refs.<n>.parq` with the references of `record_size` chunks in C order, in the columns
`path`, `offset`, `size` and `raw`. It takes pyarrow, which is asked for only when needed.

The layout leaves out what has no reference by a null in `path`, but fsspec (2026.9) with today's
pandas (3) takes that null for an address and fails. A missing chunk is therefore written as what it
reads as: a chunk of fill value in `raw`, stored once per file by parquet's dictionary. Its `size`
is 0, which tells it from inlined bytes of the same value; readers take no notice. Column
statistics stay on: without them fastparquet reads whole numbers as floats and fsspec fails.

Groups in groups are written, but fsspec finds the file system of such references by itself only
sometimes; readers then need the option `remote_protocol`.

Follows https://fsspec.github.io/kerchunk/spec.html, section "Parquet references", and fsspec's
`LazyReferenceMapper`, which knows Zarr v2 with "." in chunk keys only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidReferences
from ..model.manifest import INLINED, Manifest
from ..model.node import Array, Group
from .atomic import open_folder_atomic
from .fill import encode_fill_chunk
from .parquet_read import ZMETADATA, import_pyarrow
from .plan import plan_document
from .recode import in_format

__all__ = ["write_parquet"]


def write_parquet(
    group: Group,
    path: str | os.PathLike[str],
    *,
    rename: Callable[[str], str] | None = None,
    series: Sequence[Mapping[str, Any]] = (),
    record_size: int = 100_000,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write references as parquet, the whole folder or nothing.

    Parameters
    ----------
    group
        The root; no array may be at the root itself.
    path
        Folder or URL of a folder; references that are there already are replaced.
    rename
        Gives the address in the document for each source; by default local paths become "file://"
        addresses.
    series
        What `provenance` records of the series of the source.
    record_size
        Chunks in one file, at least 1; a reader loads whole files.
    storage_options
        For the file system of a URL.

    Raises
    ------
    MissingExtra
        If pyarrow is not installed.
    ManifestMismatch
        If an array has more than one codec, or missing chunks that its codec cannot store.
    InvalidReferences
        If the layout cannot say it.
    SourceError
        If the folder cannot be written.
    """
    import_pyarrow()
    if record_size < 1:
        raise InvalidReferences("bad record_size", got=record_size, expected="1 or more")
    if "" in group.children:
        raise InvalidReferences(
            "parquet references cannot hold an array at the root",
            hint="Give the array a name, or write JSON.",
        )
    group = in_format(group, 2)
    plan = plan_document(group, 2, rename, series)
    with open_folder_atomic(path, ZMETADATA, storage_options) as folder:
        for name, array in group.arrays():
            urls = [plan.addresses[source.url] for source in array.manifest.sources]
            _write_array(folder / name, name, array, urls, record_size)
        metadata = {"metadata": plan.documents, "record_size": record_size}
        (folder / ZMETADATA).write_text(json.dumps(metadata, allow_nan=False), encoding="ascii")


def _write_array(
    folder: Path, path: str, array: Array, urls: Sequence[str], record_size: int
) -> None:
    import pyarrow.parquet

    manifest = array.manifest
    folder.mkdir(parents=True, exist_ok=True)
    fill = b""
    if manifest.is_missing.any():
        fill = encode_fill_chunk(path, array.codec, array.chunks, array.fill_value)
    table = np.array(urls, object)
    for record, start in enumerate(range(0, manifest.n_chunks, record_size)):
        rows = slice(start, start + record_size)
        columns = _record_columns(manifest, rows, table, fill)
        pyarrow.parquet.write_table(
            pyarrow.table(columns), folder / f"refs.{record}.parq", compression="zstd"
        )


def _record_columns(
    manifest: Manifest, rows: slice, urls: NDArray[np.object_], fill: bytes
) -> dict[str, Any]:
    """Give the columns of one file; `raw` only where some chunk has it."""
    import pyarrow

    source = manifest.source[rows]
    is_stored = source >= 0
    used, codes = np.unique(source[is_stored], return_inverse=True)
    try:
        addresses = pyarrow.array(urls[used], pyarrow.string())
    except UnicodeEncodeError as error:  # of a name that is no UTF-8, which JSON can spell
        raise InvalidReferences(
            "parquet cannot hold the name of a file", got=ascii(error.object),
            hint="Rename the file, or write JSON.",
        ) from error  # fmt: skip
    paths = np.zeros(len(source), np.int32)
    paths[is_stored] = codes
    columns = {
        "path": pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(paths, mask=~is_stored), addresses
        ),
        "offset": np.where(is_stored, manifest.offset[rows], 0).astype(np.int64),
        "size": np.where(is_stored, manifest.length[rows], 0).astype(np.int64),
    }
    if not is_stored.all():
        inlined = {
            int(row): manifest.inlined[int(row) + rows.start]
            for row in np.flatnonzero(source == INLINED)
        }
        columns["raw"] = _raw_column(is_stored, inlined, fill)
        columns["size"][list(inlined)] = [len(data) for data in inlined.values()]
    return columns


def _raw_column(is_stored: NDArray[np.bool_], inlined: Mapping[int, bytes], fill: bytes) -> Any:
    """Give the bytes of inlined chunks, and for missing ones those of the fill value."""
    import pyarrow

    codes = np.zeros(len(is_stored), np.int32)
    codes[list(inlined)] = np.arange(1, len(inlined) + 1)
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(codes, mask=is_stored),
        pyarrow.array([fill, *inlined.values()], pyarrow.binary()),
    )
    return column.cast(pyarrow.binary())  # written as a dictionary all the same
