"""Random access to remote objects through fsspec file systems.

Reads byte ranges from any file system. Scans make many small reads, so `RemoteSource` caches byte
ranges and reads ahead: a large first block, then more while reads are sequential, and less when
they jump.

Reads fail if the object has changed since the scan. HTTP is read by `http`; S3, Google Cloud
Storage and Azure by conditional requests through s3fs, gcsfs and adlfs, which retry by themselves.
S3 and Azure accept the recorded ETag as a condition. Google numbers the versions of an object: its
generation is looked up once, and then that generation is read.

References: Amazon S3 API, GetObject (If-Match, Range); Azure Blob Storage, Get Blob (If-Match);
Google Cloud Storage JSON API, Objects: get (generation).
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import MissingSource, SourceError, StaleSource, UntrustedSource
from ..model.manifest import Source
from .allow import AllowList, is_local
from .clients import (
    UNKNOWN_SIZE_BYTES,
    call_with_timeout,
    client_errors,
    fetch_info,
    find_file_system,
    gather,
    is_file_cache,
    protocols,
    run_coroutine,
    source_from_info,
    time_limit_s,
    typed_errors,
    with_timeout,
    without_cache,
)
from .http import HttpFile, is_http
from .source import (
    ByteSource,
    FileObjectSource,
    LocalSource,
    check_unchanged,
    stale_error,
    wrong_length_error,
)
from .urls import local_path


class RemoteFile(ByteSource):
    """A remote object; each read is a request.

    Parameters
    ----------
    fs, path
        File system of fsspec, and the path in it. Its session works only in the `process` that
        created it, not in a forked child. Of its caches, only those of whole files are used, and
        only if no redirect needs to be checked.
    url
        Full URL of the object.
    allow
        Allow-list for redirects; None allows all.
    """

    is_local = False

    def __init__(self, fs: Any, path: str, url: str, allow: AllowList | None = None) -> None:
        self._direct = direct = without_cache(fs)
        self._is_copied = allow is None and is_file_cache(fs)
        self.fs = fs if self._is_copied else direct
        self._path, self.allow = path, allow
        self.process = os.getpid()
        self.source = Source(url)
        permits = None if allow is None else allow.permits
        self._http_state = HttpFile(direct, path, url, permits) if is_http(direct) else None
        self._http = None if self._is_copied else self._http_state
        self._read_ranges = None if self._is_copied else find_range_reader(direct)
        self.verifies_reads = self._http is not None or self._read_ranges is not None

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        return self._read_many([(offset, length)], expected)[0]

    def read_all(self, expected: Source | None = None) -> bytes:
        url = self.source.url
        with typed_errors(url):
            if self._http is not None:
                return self._http.read_all(expected)
            if self._read_ranges is not None:
                return self._read_ranges(self.fs, self._path, url, [(0, None)], expected)[0]
            read = partial(self.fs.cat_file, self._path)
            return call_with_timeout(self.fs, url, UNKNOWN_SIZE_BYTES, read)

    def state(self, is_listed: bool = False) -> Source:
        """Return the current state of the object, or the one in a cached listing (`is_listed`)."""
        url = self.source.url
        try:
            now = Source(url)
            if self._http_state is not None:
                now = self._http_state.state()
            else:
                info = fetch_info(self._direct, self._path, url, is_listed=is_listed)
                now = source_from_info(url, info)
        except SourceError:
            raise
        except client_errors():
            # some servers allow GET but not HEAD, for example of signed URLs; if GET fails too, the
            # next request raises
            pass
        return self._check_copy(now) if self._is_copied else now

    def _check_copy(self, now: Source) -> Source:
        """Check that the copy in a cache is whole and newer than the object; return the state."""

        def find_copy() -> os.stat_result:
            with self.fs.open(self._path, "rb") as file:  # fetches it, unless there is a copy
                return os.fstat(file.fileno())

        url, http = self.source.url, self._http_state
        copy: os.stat_result | None = None
        with typed_errors(url), contextlib.suppress(*[FileNotFoundError] if http else []):
            n_bytes = now.size or UNKNOWN_SIZE_BYTES
            copy = call_with_timeout(self.fs, url, n_bytes, find_copy)
        if copy is None:
            if http:  # fsspec reports any HTTP status as a missing file
                http.open(1)
            raise MissingSource("no such file", url=url)
        if now.size in (None, copy.st_size) and copy.st_mtime >= (now.mtime or 0):
            return replace(now, size=copy.st_size)
        raise StaleSource(
            "the copy in the cache is incomplete, or older than the file",
            url=url,
            hint="Empty the cache, or open the URL without it.",
        )

    def _read_many(self, ranges: Sequence[tuple[int, int]], expected: Source | None) -> list[bytes]:
        url = self.source.url
        offset, length = ranges[0]
        with typed_errors(url, f"bytes {offset} to {offset + length} cannot be read"):
            if self._http is not None:
                return self._http.read_ranges(ranges, expected)
            if self._read_ranges is not None:
                return self._read_ranges(self.fs, self._path, url, ranges, expected)
            n_bytes = sum(length for _, length in ranges)
            cat = partial(self._cat_ranges, ranges)
            try:
                return call_with_timeout(self.fs, url, n_bytes, cat)
            except FileNotFoundError:
                if "ftp" not in protocols(self.fs):
                    raise
            # fsspec reports any fault of an FTP connection like this: ask once more by a new one
            return call_with_timeout(self.fs, url, n_bytes, partial(self._cat_anew, ranges))

    def _cat_anew(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        options = {**self.fs.storage_options, "skip_instance_cache": True}
        self.fs = type(self.fs)(*self.fs.storage_args, **options)
        return self._cat_ranges(ranges)

    def _cat_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        starts = [start for start, _ in ranges]
        ends = [start + length for start, length in ranges]
        if len(ranges) == 1:
            return [self.fs.cat_file(self._path, start=starts[0], end=ends[0])]
        return self.fs.cat_ranges([self._path] * len(ranges), starts, ends, on_error="raise")


_UNSAFE_CHARACTERS = frozenset("/\\?#%:\0")
"""Characters that may lead outside the folder in the name of a sibling file."""
_FIRST_BYTES = 1 << 16
_MIN_READ_AHEAD_BYTES = 1 << 10
_MAX_READ_AHEAD_BYTES = 1 << 22
_LOOKBEHIND_BYTES = 1 << 9


class RemoteSource(RemoteFile):
    """A remote object to scan, read through a sparse cache of byte ranges."""

    def __init__(self, fs: Any, path: str, url: str, allow: AllowList | None = None) -> None:
        super().__init__(fs, path, url, allow)
        self._starts: list[int] = []
        self._blocks: list[bytes] = []
        self._read_ahead = _FIRST_BYTES
        self.source, first = self._open()
        self.n_fetched = len(first)
        if first:
            self._add_block(0, first)

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        spans = {(start, min(n, self.size - start)) for start, n in ranges if start < self.size}
        missing = sorted(span for span in spans if not self.is_cached(*span))
        if len(missing) > 1:
            self._fetch(_merge_ranges(missing))

    def is_cached(self, offset: int, length: int) -> bool:
        return self._find_block(offset, length) is not None

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        length = max(0, min(length, self.size - offset))
        cached = self._find_block(offset, length)
        if cached is None:
            self._fetch_miss(offset, length)
            cached = self._find_block(offset, length)
            assert cached is not None
        start, block = cached
        return block[offset - start : offset - start + length]

    def open_sibling(self, name: str) -> RemoteSource | None:
        if set(name) & _UNSAFE_CHARACTERS or name in ("", ".", "..") or "::" in self.source.url:
            return None
        path, url = (
            f"{address.partition('?')[0].rpartition('/')[0]}/{name}"
            for address in (self._path, self.source.url)
        )
        if self.allow is not None:
            self.allow.check(url)
        try:
            return RemoteSource(self.fs, path, url, self.allow)
        except UntrustedSource:
            raise
        except SourceError:
            return None

    def _find_block(self, offset: int, length: int) -> tuple[int, bytes] | None:
        """Return start and data of the cached block with this range; None if there is none."""
        index = bisect.bisect_right(self._starts, offset) - 1
        if index < 0:
            return (offset, b"") if length == 0 else None
        start, block = self._starts[index], self._blocks[index]
        if offset + length > start + len(block):
            return (offset, b"") if length == 0 else None
        return start, block

    def _add_block(self, start: int, data: bytes) -> None:
        """Add a block, without those inside it, which would hide it from `_find_block`."""
        if self._find_block(start, len(data)) is not None:
            return
        index = end = bisect.bisect_left(self._starts, start)
        while end < len(self._starts) and (
            self._starts[end] + len(self._blocks[end]) <= start + len(data)
        ):
            end += 1
        self._starts[index:end], self._blocks[index:end] = [start], [data]

    def _fetch_miss(self, offset: int, length: int) -> None:
        """Fetch a range that is not cached, and what will probably be read next."""
        after = bisect.bisect_right(self._starts, offset)
        cached_to = self._starts[after - 1] + len(self._blocks[after - 1]) if after else 0
        cached_from = self._starts[after] if after < len(self._starts) else self.size
        if self._starts:
            follows = after and offset <= cached_to + self._read_ahead
            size = 2 * self._read_ahead if follows else self._read_ahead // 4
            self._read_ahead = max(_MIN_READ_AHEAD_BYTES, min(size, _MAX_READ_AHEAD_BYTES))
        # some writers put values before their IFD, which is read first
        start = min(offset, max(cached_to, offset - _LOOKBEHIND_BYTES))
        end = max(offset + length, min(offset + self._read_ahead, cached_from))
        self._fetch([(start, end - start)])

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        for (start, length), data in zip(ranges, self._read_many(ranges, self.source), strict=True):
            if len(data) != length:
                hint = "The server may not support range requests, or the file has changed."
                url = self.source.url
                raise wrong_length_error(url, start, length, len(data), length, hint)
            self.n_fetched += length
            self._add_block(start, data)

    def _open(self) -> tuple[Source, bytes]:
        """Return size and state of the object, with its first bytes if one request gets both."""
        url = self.source.url
        with typed_errors(url):
            if self._http is not None:
                return self._http.open(_FIRST_BYTES)
            if self._http_state is not None:
                return self._check_copy(self._http_state.state()), b""
            opened = None if self._is_copied else _open_object(self._direct, self._path, url)
            if opened is not None:
                return opened
            info = fetch_info(self._direct, self._path, url, is_listed=True)
        if info.get("type") == "directory":
            raise SourceError("is a directory", url=url, expected="a TIFF file")
        if info.get("size") is None:
            raise SourceError("the file system does not report the size of the file", url=url)
        source = source_from_info(url, info)
        return self._check_copy(source) if self._is_copied else source, b""


def _merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join sorted ranges (offset, length) that overlap or are close to each other."""
    merged: list[tuple[int, int]] = []
    for offset, length in ranges:
        start, size = merged[-1] if merged else (offset, 0)
        if offset - start - size <= _MIN_READ_AHEAD_BYTES:
            merged[-1:] = [(start, max(size, offset + length - start))]
        else:
            merged.append((offset, length))
    return merged


_Ranges = Sequence[tuple[int, int | None]]
"""Offsets and lengths; None means to the end."""
_RangeReader = Callable[[Any, str, str, _Ranges, Source | None], list[bytes]]
"""Function of file system, path, URL, ranges and expected source."""


def find_range_reader(fs: Any) -> _RangeReader | None:
    """Return the function for conditional reads from a file system; None if there is none."""
    fetch = _find_fetch(fs)
    if fetch is not None:
        return partial(_read_verified, fetch)
    return _read_gcs if hasattr(fs, "split_path") and "gs" in fs.protocol else None


def _find_fetch(fs: Any) -> Callable[..., Any] | None:
    """Return the function that reads a range of an object together with its state, if any."""
    fetch = _fetch_s3 if hasattr(fs, "_call_s3") else _fetch_azure
    is_known = hasattr(fs, "_call_s3") or hasattr(fs, "service_client")
    return fetch if is_known and hasattr(fs, "split_path") else None


def _open_object(fs: Any, path: str, url: str) -> tuple[Source, bytes] | None:
    """Return state and first bytes of an object by one request; None if it is empty or a folder."""
    fetch = _find_fetch(fs)
    if fetch is None:
        return None
    try:
        ((info, span, data),) = _fetch_all(fetch, fs, path, url, [(0, _FIRST_BYTES)], None)
    except SourceError:
        raise
    except client_errors():
        return None
    unit, _, total = span.rpartition("/")
    size = int(total) if total.isdecimal() and unit.startswith("bytes 0-") else -1
    is_right = len(data) == min(size, _FIRST_BYTES)
    return (source_from_info(url, {**info, "size": size}), data) if is_right else None


def _fetch_all(
    fetch: Callable[..., Any], fs: Any, path: str, url: str, ranges: _Ranges, etag: str | None
) -> list[tuple[Mapping[str, Any], str, bytes]]:
    """Fetch ranges of an object concurrently."""
    n_bytes = sum(length or UNKNOWN_SIZE_BYTES for _, length in ranges)
    calls = partial(fetch, fs, path, etag), ranges
    return run_coroutine(fs, with_timeout, url, time_limit_s(n_bytes), gather, *calls)


def _read_verified(
    fetch: Callable[..., Any], fs: Any, path: str, url: str, ranges: _Ranges,
    expected: Source | None,
) -> list[bytes]:  # fmt: skip
    """Read ranges under the condition that the object has the recorded ETag."""
    etag = None if expected is None or expected.etag is None else f'"{expected.etag}"'
    try:
        responses = _fetch_all(fetch, fs, path, url, ranges, etag)
    except client_errors() as error:
        status = _http_status(error)
        if status == 416:
            return [b""] * len(ranges)  # the object ends before the range
        if status != 412 or expected is None:
            raise
        try:
            now = source_from_info(url, fetch_info(fs, path, url)).etag
        except OSError:
            now = None
        raise stale_error(url, f"another ETag ({now})", f"ETag {expected.etag}") from error
    for (offset, length), (info, span, _) in zip(ranges, responses, strict=True):
        total = span.rpartition("/")[2]
        size = int(total) if total.isdigit() else None
        check_unchanged(expected, source_from_info(url, {**info, "size": size}))
        if length is not None and span and not span.startswith(f"bytes {offset}-"):
            raise SourceError("the response is another part of the object", url=url, got=span)
    return [data for _, _, data in responses]


async def _fetch_s3(
    fs: Any, path: str, etag: str | None, offset: int, length: int | None
) -> tuple[Mapping[str, Any], str, bytes]:
    """Return information, Content-Range, and bytes of an object; without a range, its length."""
    bucket, key, version = fs.split_path(path)
    span = None if length is None else f"bytes={offset}-{offset + length - 1}"
    options = {"Bucket": bucket, "Key": key, "VersionId": version, "Range": span, "IfMatch": etag}
    given = {name: value for name, value in options.items() if value}
    response = await fs._call_s3("get_object", **given, **fs.req_kw)
    is_range = span is None or "ContentRange" in response
    async with response["Body"] as body:
        data = await body.read() if is_range else b""  # not a whole object instead of a range
    return response, str(response.get("ContentRange") or response.get("ContentLength", "")), data


async def _fetch_azure(
    fs: Any, path: str, etag: str | None, offset: int, length: int | None
) -> tuple[Mapping[str, Any], str, bytes]:
    """Return information, Content-Range, and bytes of a blob."""
    from azure.core import MatchConditions

    container, blob, version = fs.split_path(path)
    options: dict[str, Any] = {"offset": offset, "length": length, "version_id": version}
    if etag is not None:
        options |= {"etag": etag, "match_condition": MatchConditions.IfNotModified}
    async with fs.service_client.get_blob_client(container=container, blob=blob) as client:
        response = await client.download_blob(**options)
        span = response.properties.get("content_range") or ""
        return response.properties, span, await response.readall()


def _read_gcs(
    fs: Any, path: str, url: str, ranges: _Ranges, expected: Source | None
) -> list[bytes]:
    starts = [offset for offset, _ in ranges]
    ends = [None if length is None else offset + length for offset, length in ranges]
    n_bytes = sum(length or UNKNOWN_SIZE_BYTES for _, length in ranges)

    paths = [path] * len(ranges)

    def read(**options: Any) -> list[bytes]:
        cat = partial(fs.cat_ranges, paths, starts, ends, on_error="raise", **options)
        return call_with_timeout(fs, url, n_bytes, cat)

    if expected is None:
        return read()
    try:
        return read(generation=_generation(fs, path, expected))
    except FileNotFoundError:
        check_unchanged(expected, source_from_info(url, fetch_info(fs, path, url)))
        raise


@functools.lru_cache(maxsize=4096)
def _generation(fs: Any, path: str, expected: Source) -> str | None:
    """Return the generation of the object as scanned; cached, because a generation is immutable."""
    info = fetch_info(fs, path, expected.url)
    check_unchanged(expected, source_from_info(expected.url, info))
    return info.get("generation")


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status of the response that caused an error of a client."""
    cause: Any = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if hasattr(cause, "status_code"):
            return cause.status_code
        cause = cause.__cause__
    return None


def open_source(
    file: str | os.PathLike[str] | Any,
    storage_options: Mapping[str, Any] | None = None,
    allow: AllowList | None = None,
) -> ByteSource:
    """Open a path, URL, fsspec OpenFile or binary file object for reading by offset.

    A `ByteSource` is returned unchanged.

    Parameters
    ----------
    file
        What to open.
    storage_options
        Options for the fsspec file system of a URL.
    allow
        Allow-list for the URL, its redirects and the files that it refers to; None allows all.

    Raises
    ------
    SourceError
        If it cannot be opened, or is a directory.
    UntrustedSource
        If it is not on the allow-list.
    """
    if isinstance(file, ByteSource):
        return file
    if hasattr(file, "fs") and hasattr(file, "path"):
        # an fsspec OpenFile or a file that fsspec opened: its URL also works for later readers
        url = file.fs.unstrip_protocol(file.path)
        if url.startswith("file://"):
            return LocalSource(local_path(url))
        return RemoteSource(file.fs, file.path, url)
    if isinstance(file, str | os.PathLike):
        name = os.fspath(file)
        if allow is not None:
            allow.check(name)
        if is_local(name) or os.path.isfile(name):  # noqa: PTH113 - a file may be called "a::b.tif"
            return LocalSource(local_path(name), allow=allow)
        fs, path = find_file_system(name, storage_options)
        return RemoteSource(fs, path, name, allow)
    if hasattr(file, "read") and hasattr(file, "seek"):
        name = getattr(file, "name", None)
        if isinstance(name, str) and _is_open_file(file, name):
            return LocalSource(name)
        return FileObjectSource(file)
    raise SourceError(
        f"cannot open {type(file).__name__}",
        expected="a path, URL, fsspec OpenFile or open binary file",
        hint="To read many files as one array, use `tiffref.scan_sequence`."
        if isinstance(file, list | tuple)
        else None,
    )


def _is_open_file(file: Any, name: str) -> bool:
    """Return whether the path leads to this open file; members of archives have a name too."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(name).stat())
    except (AttributeError, OSError, ValueError):
        return False
