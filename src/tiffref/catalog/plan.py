"""The work of a build as data: one job for each file, in batches.

Owns what workers are told, and what the files of references are called. Nothing here opens or
writes; everything pickles, so that it travels to any executor.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import SelectionError
from ..formats.urls import shared_folder, to_document_url
from .folder import Folder

__all__ = ["FORMATS", "Batch", "Job", "Settings", "batches", "make_jobs", "reference_path"]

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
    """

    url: str
    output: str
    size: int | None = None
    mtime: float | None = None
    etag: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


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
        """Give the address that documents have for a file."""
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
    urls: Sequence[str], fields: Mapping[str, Sequence[Any]], root: str, suffix: str
) -> list[Job]:
    """Give a job for each file, each file once.

    Raises
    ------
    SelectionError
        If two files would have the same references.
    """
    jobs: dict[str, Job] = {}
    outputs: dict[str, str] = {}
    for n, url in enumerate(urls):
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
        jobs[url] = Job(url, output, fields=own)
    return list(jobs.values())


def shared_root(urls: Sequence[str]) -> str:
    """Give the address of the folder that holds all files, "/" at its end; "" if there is none."""
    return shared_folder([to_document_url(url) for url in urls])


def reference_path(url: str, root: str, suffix: str) -> str:
    """Say where the references of a file go.

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
