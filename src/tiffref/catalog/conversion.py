"""Reference documents to others: another format, another address of the files.

Owns reading a document whatever its format, and writing it as another. What stands in documents is
`formats`' business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InvalidReferences, SelectionError
from ..formats.kerchunk import write_json
from ..formats.load import load_document
from ..formats.parquet import is_parquet, write_parquet
from ..io.allow import check_moved, location_prefix
from ..io.urls import to_document_url
from ..references import References

__all__ = ["convert", "rewrite"]


def _read(
    path: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
    allow: str | Sequence[str] | None,
) -> tuple[References, int]:
    """Read references, and tell their Zarr format."""
    if is_parquet(path):
        return References.from_parquet(path, storage_options, allow=allow), 2
    document = load_document(path, storage_options)
    references = References.from_kerchunk(document, allow=allow)
    if allow is None and references.allow is not None:
        folder = location_prefix(os.fspath(path))
        references = replace(references, allow=(folder, *references.allow))
    refs = document.get("refs", document)
    return references, 3 if any(key.rpartition("/")[2] == "zarr.json" for key in refs) else 2


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    zarr_format: int = 2,
    version: int = 1,
    record_size: int = 100_000,
    storage_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
) -> References:
    """Write references in another format: JSON, or parquet where the name ends in ".parq".

    Parameters
    ----------
    source, target
        Paths or URLs; source and target may be the same.
    zarr_format, version
        Of a JSON document.
    record_size
        Chunks in one file of parquet references.
    storage_options
        For the file systems of URLs.
    allow
        Prefixes of addresses that the source is trusted with, as in `References.from_kerchunk`.

    Returns
    -------
    What was written.

    Raises
    ------
    InvalidReferences
        If the source is no valid document, or the target's format cannot say it.
    SourceError
        If one cannot be read or written.
    UntrustedSource
        If files that the source may not read lie beside the target, where anybody who opens the
        target would read them.
    """
    references, _ = _read(source, storage_options, allow)
    _write(references, target, None, zarr_format, version, record_size, storage_options)
    return references


def rewrite(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    moves: Mapping[str, str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] | None = None,
) -> int:
    """Write references to files that have moved.

    Parameters
    ----------
    source, target
        Documents; they may be the same.
    moves
        Beginning of an address -> what stands there instead: {"s3://a/": "https://b/"}. The longest
        that fits counts; a local folder stands for "file://" and itself.
    storage_options, allow
        As in `convert`; what `moves` changes needs no trust.

    Returns
    -------
    How many files have moved.

    Raises
    ------
    SelectionError
        If no address begins so.
    InvalidReferences
        If the source is no valid document, or two files would become one.
    UntrustedSource
        As in `convert`.
    """
    references, zarr_format = _read(source, storage_options, allow)
    rename = _plan_moves(moves)
    addresses = [to_document_url(one.url) for one in references.sources]
    moved = [rename(address) for address in addresses]
    n_moved = sum(before != after for before, after in zip(addresses, moved, strict=True))
    if not n_moved:
        raise SelectionError(
            "no address begins so", url=os.fspath(source), got=", ".join(moves),
            expected=f"the beginning of {addresses[0]}" if addresses else "references to files",
        )  # fmt: skip
    if len(set(moved)) < len(set(addresses)):
        raise InvalidReferences("two files would have one address", url=os.fspath(source))
    _write(references, target, rename, zarr_format, 1, 100_000, storage_options)
    return n_moved


def _plan_moves(moves: Mapping[str, str]) -> Callable[[str], str]:
    full = {_as_address(before): _as_address(after) for before, after in moves.items()}
    order = sorted(full, key=len, reverse=True)

    def rename(url: str) -> str:
        address = to_document_url(url)
        before = next((one for one in order if address.startswith(one)), None)
        return address if before is None else full[before] + address[len(before) :]

    return rename


def _as_address(prefix: str) -> str:
    return f"file://{prefix}" if prefix.startswith("/") else prefix


def _write(
    references: References,
    target: str | os.PathLike[str],
    rename: Callable[[str], str] | None,
    zarr_format: int,
    version: int,
    record_size: int,
    storage_options: Mapping[str, Any] | None,
) -> None:
    references = references.laid_out(zarr_format)
    kept = [one.url for one in references.sources
            if rename is None or rename(one.url) == to_document_url(one.url)]  # fmt: skip
    check_moved(kept, references.allow, os.fspath(target))
    options: dict[str, Any] = {
        "rename": rename, "series": references.series, "storage_options": storage_options,
        "is_sealed": references.allow is None,
    }  # fmt: skip
    if is_parquet(target):
        if zarr_format != 2:
            raise InvalidReferences(
                "parquet references hold Zarr v2 only", url=os.fspath(target), got=zarr_format,
                hint="Write JSON, or leave out zarr_format.",
            )  # fmt: skip
        write_parquet(references.group, target, record_size=record_size, **options)
    else:
        write_json(references.group, target, zarr_format=zarr_format, version=version, **options)
