"""Jobs of a build, its journal, and the record of how a catalog is built.

Owns what workers get (a job for each file, in batches; everything pickles), what the files of
references are called, and the journal: a file that is not in it is scanned again, whatever else
lies about. One process writes it, flushed to the disk batch by batch. Two small files keep the
plan, which must be the same in each build of a catalog, and the products, which are made again
each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CatalogError, SelectionError
from ..io.urls import shared_folder, to_document_url, warn_of_signatures
from ..sequences.inputs import FileList
from .storage import STATE, Folder, explain_output

__all__ = [
    "FORMATS",
    "Batch",
    "Job",
    "Journal",
    "Settings",
    "agree",
    "batches",
    "make_jobs",
    "plan_products",
    "record_products",
    "reference_path",
]

FORMATS: Mapping[str, str] = {"json": ".json", "parquet": ".parq"}
"""Format of the references of one file -> what their names end in."""
_UNSAFE = re.compile(r'[\x00-\x1f%?*:"<>|\\]')
_MAX_NAME_BYTES = 240
_BATCH_FILES = 64
"""Files in a batch: some 20 ms of work, against which handing it over costs little."""
_MIN_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Job:
    """One file to scan.

    Attributes
    ----------
    url
        Path or URL of the file.
    output
        Where its references go, below the catalog's folder.
    size, mtime, etag
        Of the file when it was scanned last, None for a new one. A worker that finds it so leaves
        it alone.
    fields
        What is known of the file besides: values of its name, or of the table it is listed in.
    bands
        What a STAC item says of its bands, as in `sequences.inputs.FileList`.
    """

    url: str
    output: str
    size: int | None = None
    mtime: float | None = None
    etag: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    bands: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all jobs of a build.

    Attributes
    ----------
    folder
        Of the catalog.
    root
        Address of the folder that the files of the first build share.
    prefix
        What documents say instead of `root`; None leaves addresses as they are.
    format
        "json" or "parquet".
    scan
        Further arguments of `scan`.
    storage_options
        For the file system of URLs.
    retries
        How often a file is tried again after an error that may pass.
    backoff_s
        Seconds before the first of these; each further one waits twice as long.
    """

    folder: Folder
    root: str
    prefix: str | None = None
    format: str = "json"
    scan: Mapping[str, Any] = field(default_factory=dict)
    storage_options: Mapping[str, Any] | None = None
    retries: int = 3
    backoff_s: float = 0.5

    def rename(self, url: str) -> str:
        """Return the address that documents have for a file."""
        address = _address(url)
        if self.prefix is None or not address.startswith(self.root):
            return address
        return self.prefix + address[len(self.root) :]


def _address(url: str) -> str:
    # paths of jobs are full already: no need to ask for the working folder, as others must
    return f"file://{url}" if url.startswith("/") else to_document_url(url)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that are handed to a worker together."""

    jobs: tuple[Job, ...]
    settings: Settings


def batches(jobs: Sequence[Job], settings: Settings, n_workers: int) -> Iterator[Batch]:
    """Cut jobs into batches: small enough that all workers have some."""
    size = max(1, min(_BATCH_FILES, len(jobs) // (_MIN_BATCHES * n_workers)))
    for start in range(0, len(jobs), size):
        yield Batch(tuple(jobs[start : start + size]), settings)


def make_jobs(
    found: FileList, fields: Mapping[str, Sequence[Any]], root: str, suffix: str
) -> list[Job]:
    """Return a job for each file, each file once.

    Raises
    ------
    SelectionError
        If two files would have the same references.
    """
    warn_of_signatures(found.urls, is_kept=True)  # the index names the files as they are read
    jobs: dict[str, Job] = {}
    outputs: dict[str, str] = {}
    for n, url in enumerate(found.urls):
        if url in jobs:
            continue
        output = reference_path(url, root, suffix)
        if outputs.setdefault(output, url) != url:
            raise SelectionError(
                "two files would have their references in one place",
                url=url,
                got=output,
                expected=f"another place than that of {outputs[output]}",
            )
        own = {name: values[n] for name, values in fields.items() if values[n] is not None}
        jobs[url] = Job(url, output, fields=own, bands=found.bands[n] if found.bands else ())
    return list(jobs.values())


def shared_root(urls: Sequence[str]) -> str:
    """Get the address of the folder that holds all files, "/" at its end; "" if there is none."""
    return shared_folder([to_document_url(url) for url in urls])


def reference_path(url: str, root: str, suffix: str) -> str:
    """Return where the references of a file go.

    Folders below the root stay, so that two files of the same name never meet, and so does the
    ending: `a.tif` and `a.tiff` may lie side by side.

    Examples
    --------
    >>> reference_path("/data/a/x.tif", "file:///data/", ".json")
    'references/a/x.tif.json'
    >>> reference_path("s3://other/x.tif", "file:///data/", ".json")
    'references/_elsewhere/s3/other/x.tif.json'
    """
    address = _address(url)
    if root and address.startswith(root):
        name = address[len(root) :]
    else:
        name = "_elsewhere/" + address.replace("://", "/", 1)
    parts = [_safe(part) for part in name.split("/") if part]
    parts[-1] = _shorten(parts[-1]) + suffix
    return "/".join(["references", *map(_shorten, parts[:-1]), parts[-1]])


def _safe(part: str) -> str:
    """Spell a part of an address so that every file system takes it, and no two become one."""
    if part in (".", ".."):
        return part.replace(".", "%2E")
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", part)


def _shorten(part: str) -> str:
    data = os.fsencode(part)
    if len(data) <= _MAX_NAME_BYTES:
        return part
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[: _MAX_NAME_BYTES - 17].decode('utf-8', 'ignore')}~{digest}"


class Journal:
    """Lines of JSON, each the latest that is known of one file.

    Only where each line lies is kept in memory.

    Parameters
    ----------
    path
        A local file, made if it is not there.
    keep
        Called with new lines before they count, to keep them elsewhere too.
    """

    def __init__(self, path: Path, keep: Callable[[bytes], None] | None = None) -> None:
        self._path = path
        self._keep = keep
        self._at: dict[str, int] = {}
        with explain_output(path):
            self._file = path.open("a+b")
            self._load()

    def _load(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                key = json.loads(line)["url"]
            except (ValueError, KeyError, TypeError):
                break  # what follows a torn line was never promised
            self._at[key] = end
            end += len(line)
        self._file.truncate(end)

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __getitem__(self, url: str) -> dict[str, Any]:
        self._file.seek(self._at[url])
        return json.loads(self._file.readline())

    def get(self, url: str) -> dict[str, Any] | None:
        """Return the line of a file, None if there is none."""
        return self[url] if url in self._at else None

    def rows(self, order: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Return the lines of files, one after the other."""
        for url in order:
            yield self[url]

    def append(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Add lines, through the disk.

        Parameters
        ----------
        rows
            URL, and the line with its end.
        """
        data = b"".join(line for _, line in rows)
        if self._keep is not None:
            self._keep(data)
        with explain_output(self._path):
            at = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        for url, line in rows:
            self._at[url] = at
            at += len(line)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


_PLAN = f"{STATE}/plan.json"
_PRODUCTS = f"{STATE}/products.json"
_VERSION = 1


def agree(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Record how a catalog is built, or check that it is built the same way as before.

    Returns
    -------
    The recorded plan.

    Raises
    ------
    CatalogError
        If it was built otherwise.
    """
    plan: dict[str, Any] = json.loads(json.dumps({"version": _VERSION, **wanted}))
    text = folder.read(_PLAN)
    if text is None:
        folder.put(_PLAN, json.dumps(plan, indent=1).encode())
        folder.flush()
        return plan
    known = _parse(folder, _PLAN, text)
    for name, value in plan.items():
        if name != "root" and known.get(name) != value:
            raise CatalogError(
                f"the catalog was built with another {name}",
                url=folder.address,
                got=value,
                expected=known.get(name) or "none",
                hint="Build into a new folder, or with the options it was built with.",
            )
    return known


def _parse(folder: Folder, name: str, text: bytes) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CatalogError(
            "the catalog's plan cannot be read", url=f"{folder.address}/{name}", got=str(error),
            hint="Build into a new folder.",
        ) from error  # fmt: skip


def plan_products(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Get what is to be made of a catalog besides its index: what is wanted, and what was before.

    What a build has made once, each later one keeps up: sets and items of files as they were before
    would be wrong.

    Parameters
    ----------
    folder
        Of the catalog.
    wanted
        Product -> how it is made; None or False for what this run does not ask for.
    """
    text = folder.read(_PRODUCTS)
    before = _parse(folder, _PRODUCTS, text) if text is not None else {}
    try:
        asked = json.loads(json.dumps({name: how for name, how in wanted.items() if how}))
    except TypeError as error:
        raise SelectionError(
            "options of combined sets are recorded as JSON", got=str(error),
            expected="texts, numbers and lists of these",
        ) from error  # fmt: skip
    return {**before, **asked}


def record_products(folder: Folder, products: Mapping[str, Any]) -> None:
    """Record what was made of a catalog."""
    data = json.dumps(products, indent=1).encode()
    if folder.read(_PRODUCTS) != data:
        folder.put(_PRODUCTS, data)
