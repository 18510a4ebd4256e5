"""Bytes of remote objects by offset, through the file systems that fsspec has for them.

Owns requests for ranges whatever the file system, and, for scans, where reads are small and many,
the sparse cache of byte ranges and the policy of what to fetch with a miss: a large first block,
read-ahead that grows while reads follow one another and shrinks when they jump, and, after a long
run of equal jumps, the next ones in advance. It knows nothing of TIFF.

Objects are read as they were when scanned: HTTP by `http`, S3, Google Cloud Storage and Azure by
conditional requests through s3fs, gcsfs and adlfs, which themselves try again where that can help.
S3 and Azure take the ETag that was recorded as a condition. Google names each state of an object by
a number, its generation, which is asked for once and then read.

References: Amazon S3 API, GetObject (If-Match, Range); Azure Blob Storage, Get Blob (If-Match);
Google Cloud Storage JSON API, Objects: get (generation).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import SourceError, UntrustedSource
from ..model.manifest import Source
from . import http
from .allow import AllowList
from .clients import (
    WHOLE_BYTES,
    ask_state,
    call_within,
    client_errors,
    source_of_info,
    typed_errors,
    wait_within,
)
from .source import ByteSource, check_same, stale

__all__ = ["RemoteFile", "RemoteSource", "find_range_reader"]


class RemoteFile(ByteSource):
    """A remote object; each read is a request.

    Parameters
    ----------
    fs, path
        File system of fsspec, and the address in there. A session of the `process` that made it
        does not work in a forked child.
    url
        Its address for others.
    allow
        Which addresses redirects may lead to; anywhere by default.
    """

    is_local = False

    def __init__(self, fs: Any, path: str, url: str, allow: AllowList | None = None) -> None:
        self.fs, self._path, self.allow = fs, path, allow
        self._permits = None if allow is None else allow.permits
        self.process = os.getpid()
        self.source = Source(url)
        self._is_http, self._read_range = http.is_http(fs), find_range_reader(fs)
        self.checks_answers = self._is_http or self._read_range is not None

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        return self._read_many([(offset, length)], expected)[0]

    def read_all(self, expected: Source | None = None) -> bytes:
        where = self.fs, self._path, self.source.url
        with typed_errors(self.source.url):
            if self._is_http:
                return http.read_all(*where, expected=expected, permits=self._permits)
            if self._read_range is not None:
                return self._read_range(*where, 0, None, expected)
            ask = partial(self.fs.cat_file, self._path)
            return call_within(self.fs, self.source.url, WHOLE_BYTES, ask)

    def state(self, is_listed: bool = False) -> Source:
        """Return what is known of the object now, or as it `is_listed` in its folder."""
        if self._is_http:
            return http.read_state(self.fs, self._path, self.source.url, self._permits)
        url = self.source.url
        try:
            found = ask_state(self.fs, self._path, url, is_listed=is_listed)
            return source_of_info(url, found)
        except SourceError:
            raise
        except client_errors():
            # some servers let a file be read but not asked about, as with signed URLs; where it
            # cannot be read either, the request that follows says so
            return Source(self.source.url)

    def _read_many(
        self, ranges: Sequence[tuple[int, int]], expected: Source | None = None
    ) -> list[bytes]:
        """Read ranges (offset, length) at the same time."""
        where = self.fs, self._path, self.source.url
        offset, length = ranges[0]
        what = f"bytes {offset} to {offset + length} cannot be read"
        with typed_errors(self.source.url, what):
            if self._is_http:
                options: Mapping[str, Any] = {"expected": expected, "permits": self._permits}
                return http.read_ranges(*where, ranges, **options)
            if self._read_range is not None and len(ranges) == 1:
                return [self._read_range(*where, offset, length, expected)]
            n_bytes = sum(length for _, length in ranges)
            return call_within(self.fs, self.source.url, n_bytes, partial(self._ask, ranges))

    def _ask(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        starts = [start for start, _ in ranges]
        ends = [start + length for start, length in ranges]
        if len(ranges) == 1:
            return [self.fs.cat_file(self._path, start=starts[0], end=ends[0])]
        return self.fs.cat_ranges([self._path] * len(ranges), starts, ends, on_error="raise")


_NOT_IN_NAMES = frozenset("/\\?#%:\0")
"""Of a file beside another one: what would lead to another address."""
_FIRST_BYTES = 1 << 16
_MIN_AHEAD_BYTES = 1 << 10
_MAX_AHEAD_BYTES = 1 << 22
_NEAR_BYTES = 1 << 12
"""A read that starts no farther than this behind the last one is no jump."""
_MIN_RUN = 8
"""Equal jumps before the next ones are guessed: fewer misfire on ordinary files."""
_MAX_GUESSES = 128
_MAX_WASTED_BYTES = 1 << 20


class RemoteSource(RemoteFile):
    """A remote object to scan, read through a sparse cache of ranges."""

    def __init__(self, fs: Any, path: str, url: str, allow: AllowList | None = None) -> None:
        super().__init__(fs, path, url, allow)
        self._starts: list[int] = []
        self._blocks: list[bytes] = []
        self._ahead = _FIRST_BYTES
        self._jumps: list[int] = []
        self._reaches: list[int] = []
        self._end = 0
        self._guessed: dict[int, int] = {}
        self.source, first = self._open()
        self.n_fetched = len(first)
        if first:
            self._keep(0, first)

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        missing = sorted(
            {
                (offset, min(length, self.size - offset))
                for offset, length in ranges
                if offset < self.size
                and self._find(offset, min(length, self.size - offset)) is None
            }
        )
        if len(missing) > 1:
            self._fetch(missing)

    def is_fetched(self, offset: int, length: int) -> bool:
        return self._find(offset, length) is not None

    def read(self, offset: int, length: int, expected: Source | None = None) -> bytes:
        length = max(0, min(length, self.size - offset))
        self._note(offset, length)
        found = self._find(offset, length)
        if found is None:
            self._miss(offset, length)
            found = self._find(offset, length)
            assert found is not None
        start, block = found
        return block[offset - start : offset - start + length]

    def beside(self, name: str) -> RemoteSource | None:
        if set(name) & _NOT_IN_NAMES or name in ("", ".", "..") or "::" in self.source.url:
            return None
        path, url = (
            f"{whole.partition('?')[0].rpartition('/')[0]}/{name}"
            for whole in (self._path, self.source.url)
        )
        if self.allow is not None:
            self.allow.check(url)
        try:
            return RemoteSource(self.fs, path, url, self.allow)
        except UntrustedSource:
            raise
        except SourceError:
            return None

    def _find(self, offset: int, length: int) -> tuple[int, bytes] | None:
        at = bisect.bisect_right(self._starts, offset) - 1
        if at < 0:
            return (offset, b"") if length == 0 else None
        start, block = self._starts[at], self._blocks[at]
        if offset + length > start + len(block):
            return (offset, b"") if length == 0 else None
        self._guessed.pop(start, None)
        return start, block

    def _keep(self, start: int, data: bytes) -> None:
        at = bisect.bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == start:
            if len(self._blocks[at]) < len(data):
                self._blocks[at] = data
            return
        self._starts.insert(at, start)
        self._blocks.insert(at, data)

    def _note(self, offset: int, length: int) -> None:
        """Remember where reads jumped to, and how far they read on from there."""
        if self._jumps and self._jumps[-1] <= offset <= self._end + _NEAR_BYTES:
            reach = max(self._reaches[-1], offset + length - self._jumps[-1])
            self._reaches[-1] = reach
        else:
            self._jumps = [*self._jumps[-_MIN_RUN:], offset]
            self._reaches = [*self._reaches[-_MIN_RUN:], length]
        self._end = offset + length

    def _miss(self, offset: int, length: int) -> None:
        """Fetch what was asked for, and what is likely to be asked for next."""
        guesses, size = self._guess(offset)
        if not guesses:
            before = bisect.bisect_right(self._starts, offset) - 1
            follows = before >= 0 and (
                offset <= self._starts[before] + len(self._blocks[before]) + self._ahead
            )
            if self._starts:
                grown = 2 * self._ahead if follows else self._ahead // 4
                self._ahead = max(_MIN_AHEAD_BYTES, min(grown, _MAX_AHEAD_BYTES))
            size = self._ahead
        size = max(length, size)
        self._fetch([(start, min(size, self.size - start)) for start in (offset, *guesses)])
        self._guessed.update((start, size) for start in guesses)

    def _guess(self, offset: int) -> tuple[list[int], int]:
        """Where the next reads will be if the last ones were evenly spaced, and how long."""
        steps = {after - before for before, after in itertools.pairwise(self._jumps)}
        if len(self._jumps) <= _MIN_RUN or len(steps) != 1 or self._jumps[-1] != offset:
            return [], 0
        (step,) = steps
        size = max(2 * max(self._reaches[:-1]), _MIN_AHEAD_BYTES)
        if step <= size or sum(self._guessed.values()) > _MAX_WASTED_BYTES:
            return [], 0
        return list(range(offset + step, self.size - size, step)[:_MAX_GUESSES]), size

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges (offset, length) and keep them."""
        for (start, length), data in zip(ranges, self._read_many(ranges, self.source), strict=True):
            if len(data) != length:
                raise SourceError(
                    f"the answer for bytes {start} to {start + length} has another length",
                    url=self.source.url,
                    got=f"{len(data)} bytes",
                    expected=f"{length} bytes",
                    hint="The server may not know range requests, or the file has changed.",
                )
            self.n_fetched += length
            self._keep(start, data)

    def _open(self) -> tuple[Source, bytes]:
        """Learn size and state of the object, with its first bytes where one request gives both."""
        url = self.source.url
        with typed_errors(url):
            if self._is_http:
                return _open_http(self.fs, self._path, url, self._permits)
            info = ask_state(self.fs, self._path, url, is_listed=True)
        if info.get("type") == "directory":
            raise SourceError("is a directory", url=url, expected="a TIFF file")
        if info.get("size") is None:
            raise SourceError("its file system does not give its length", url=url)
        return source_of_info(url, info), b""


def _open_http(fs: Any, path: str, url: str, permits: http.Permits | None) -> tuple[Source, bytes]:
    """Ask for the first bytes; the answer's headers say the rest (RFC 9110, section 14)."""
    answer = http.read_start(fs, path, url, _FIRST_BYTES, permits)
    status, lower, data = answer.status, answer.headers, answer.body
    if status == 416:
        return Source(url, 0), b""
    if status != 206:
        what = "the server does not answer range requests" if status == 200 else "cannot be read"
        raise http.refusal(status, url, what, expected="HTTP status 206")
    total = lower.get("content-range", "").rpartition("/")[2].strip()
    if total == "*":  # the server does not say so here; it may where it is asked
        total = str(http.read_state(fs, path, url, permits).size)
    if not lower.get("content-range", "").lower().startswith("bytes 0-") or not total.isdigit():
        raise SourceError(
            "the server does not give the length of the file",
            url=url,
            tag="Content-Range",
            got=lower.get("content-range"),
            expected=f"bytes 0-{_FIRST_BYTES - 1}/SIZE",
        )
    if len(data) != min(_FIRST_BYTES, int(total)):
        raise SourceError(
            "the answer has another length than asked for",
            url=url,
            got=f"{len(data)} bytes",
            expected=f"{min(_FIRST_BYTES, int(total))} bytes",
        )
    return replace(answer.source(url), size=int(total)), data


_RangeReader = Callable[[Any, str, str, int, int | None, Source | None], bytes]
"""Reads file system, path, URL, offset, length (None: to the end) and the source as recorded."""


def find_range_reader(fs: Any) -> _RangeReader | None:
    """Return what reads a file system's objects as they were scanned, None for other kinds."""
    if not hasattr(fs, "split_path"):
        return None
    if hasattr(fs, "_call_s3"):
        return _read_s3
    if hasattr(fs, "service_client"):
        return _read_azure
    return _read_gcs if "gs" in fs.protocol else None


def _read_s3(
    fs: Any, path: str, url: str, offset: int, length: int | None, expected: Source | None
) -> bytes:
    bucket, key, version = fs.split_path(path)
    options: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if version:
        options["VersionId"] = version
    if length is not None:
        options["Range"] = f"bytes={offset}-{offset + length - 1}"
    if expected is not None and expected.etag is not None:
        options["IfMatch"] = f'"{expected.etag}"'

    async def ask() -> tuple[dict[str, Any], bytes]:
        answer = await fs._call_s3("get_object", **options, **fs.req_kw)
        async with answer["Body"] as body:
            return answer, await body.read()

    try:
        answer, data = wait_within(fs, url, length or WHOLE_BYTES, ask)
    except OSError as error:
        return _nothing_or_raise(error, fs, path, expected)
    if expected is not None:
        check_same(expected, _answered(answer, url))
    span = str(answer.get("ContentRange", ""))
    if length is not None and not span.startswith(f"bytes {offset}-"):
        raise SourceError("the answer is another part of the object", url=url, got=span)
    return data


def _answered(answer: Mapping[str, Any], url: str) -> Source:
    """Return what an answer of S3 says of the whole object."""
    size = _total(answer.get("ContentRange") or answer.get("ContentLength", ""))
    return source_of_info(url, {**answer, "size": size})


def _total(content_range: object) -> int | None:
    """Return the bytes of the whole object, where an answer says them."""
    total = str(content_range).rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _read_azure(
    fs: Any, path: str, url: str, offset: int, length: int | None, expected: Source | None
) -> bytes:
    from azure.core import MatchConditions
    from azure.core.exceptions import HttpResponseError

    container, blob, version = fs.split_path(path)
    options: dict[str, Any] = {"offset": offset, "length": length, "version_id": version}
    if expected is not None and expected.etag is not None:
        options |= {
            "etag": f'"{expected.etag}"',
            "match_condition": MatchConditions.IfNotModified,
        }

    async def ask() -> tuple[Mapping[str, Any], bytes]:
        async with fs.service_client.get_blob_client(container=container, blob=blob) as client:
            answer = await client.download_blob(**options)
            return answer.properties, await answer.readall()

    try:
        properties, data = wait_within(fs, url, length or WHOLE_BYTES, ask)
    except HttpResponseError as error:
        return _nothing_or_raise(error, fs, path, expected)
    if expected is not None:
        total = _total(properties.get("content_range") or "")
        check_same(expected, source_of_info(url, {**properties, "size": total}))
    return data


def _read_gcs(
    fs: Any, path: str, url: str, offset: int, length: int | None, expected: Source | None
) -> bytes:
    span = {"start": offset, "end": None if length is None else offset + length}

    def read(**options: Any) -> bytes:
        ask = functools.partial(fs.cat_file, path, **span, **options)
        return call_within(fs, url, length or WHOLE_BYTES, ask)

    if expected is None:
        return read()
    try:
        return read(generation=_generation(fs, path, expected))
    except FileNotFoundError:
        check_same(expected, source_of_info(url, ask_state(fs, path, url)))
        raise


@functools.lru_cache(maxsize=4096)
def _generation(fs: Any, path: str, expected: Source) -> str | None:
    """Return the generation of an object that is what was scanned; it will never be another one."""
    info = ask_state(fs, path, expected.url)
    check_same(expected, source_of_info(expected.url, info))
    return info.get("generation")


def _nothing_or_raise(error: BaseException, fs: Any, path: str, expected: Source | None) -> bytes:
    """Return no bytes where the object ends before the range; raise what the error means."""
    status = _status(error)
    if status == 416:
        return b""
    if status != 412 or expected is None:
        raise error
    try:
        now = source_of_info(expected.url, ask_state(fs, path, expected.url)).etag
    except OSError:
        now = None
    raise stale(expected.url, f"another ETag ({now})", f"ETag {expected.etag}") from error


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error of a client."""
    cause: Any = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if hasattr(cause, "status_code"):
            return cause.status_code
        cause = cause.__cause__
    return None
