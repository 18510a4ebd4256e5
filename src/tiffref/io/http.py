"""Read byte ranges over HTTP, with checks, retries and redirects.

Requests use the session of fsspec's HTTP file system. fsspec itself does not check responses: a
server without range support would send the whole file each time, and the wrong bytes would shift
the pixels. Each response is therefore checked to be the requested range of the scanned object.

References: RFC 9110 (sections 13 to 15), RFC 6585 (429).
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MissingSource, SourceError, UntrustedSource, unreadable
from ..model.manifest import Source
from .clients import UNKNOWN_SIZE_BYTES, run_coroutine, time_limit_s, timeout_error
from .source import check_unchanged, is_weak_etag

__all__ = [
    "NO_RANGES",
    "Response",
    "Retry",
    "is_http",
    "read_all",
    "read_ranges",
    "read_start",
    "read_state",
    "status_error",
]

_CREDENTIALS = "The server needs credentials: pass them in storage_options."
_STATUS_HINTS = {
    200: "Copy the file to this machine, or to a server that supports them.",
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: "There is no such file.",
    410: "The file is no longer there.",
}
NO_RANGES = "the server does not support range requests"

_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_WHOLE_BYTES = 1 << 20
"""Largest whole file that is accepted, and sliced, as the response to a range request."""
_READ_BUFFER_BYTES = 1 << 20
"""Bytes buffered before the client makes the server wait; the default is 128 KiB."""
_MAX_CONCURRENT = 64
_STALL_S = 30.0
_SLOWEST_BYTES_PER_S = 1 << 14

Permits = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy: exponential backoff with full jitter.

    `total_s` is the timeout of one request with all its tries, in addition to the time for its
    bytes on a slow connection; the environment variable `TIFFREF_TIMEOUT` overrides it.
    """

    n_tries: int = 6
    first_s: float = 0.2
    longest_s: float = 10.0
    total_s: float = 90.0

    def delay_s(self, n_failed: int, asked_s: float = 0.0) -> float:
        """Return the delay after this many failures, plus the one that the server asked for."""
        wait = random.uniform(0, min(self.longest_s, self.first_s * 2**n_failed))
        return wait + min(asked_s, self.longest_s)


RETRY = Retry()


@dataclass(frozen=True, slots=True)
class Response:
    """A response of a server; the names in `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def source(self, url: str) -> Source:
        """Return size, modification time and ETag of the object from the headers."""
        total = self.headers.get("content-range", "").rpartition("/")[2]
        if self.status == 200:
            total = self.headers.get("content-length", "")
        modified = self.headers.get("last-modified")
        etag = self.headers.get("etag")
        return Source(
            url,
            int(total) if total.isdigit() else None,
            _parse_date(modified) if modified else None,
            etag.strip('"') if etag else None,
        )


class _TransientError(Exception):
    """An error that may not occur again on the next try."""

    def __init__(self, error: SourceError, wait_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.wait_s = error, wait_s


def is_http(fs: Any) -> bool:
    """Return whether a file system is fsspec's HTTP file system."""
    return hasattr(fs, "encode_url") and hasattr(fs, "set_session")


def read_ranges(
    fs: Any,
    path: str,
    url: str,
    ranges: Sequence[tuple[int, int]],
    *,
    expected: Source | None = None,
    permits: Permits | None = None,
) -> list[bytes]:
    """Read byte ranges concurrently.

    Parameters
    ----------
    fs, path
        File system of fsspec, and the path in it.
    url
        URL of the source, for errors.
    ranges
        Offset and length of each range, in bytes.
    expected
        Recorded source, with which responses are compared.
    permits
        Function that returns whether a redirect may lead to a URL; None allows all.

    Returns
    -------
    data
        Bytes of each range; fewer than its length only at the end of the object.

    Raises
    ------
    SourceError
        If there is no response, or a response is not the requested range.
    StaleSource
        If the object differs from the recorded one.
    UntrustedSource
        If a redirect is not permitted.
    """
    requests = [_RangeRequest(fs, path, url, *span, expected, permits) for span in ranges]
    return run_coroutine(fs, _run_all, requests)


async def _run_all(requests: Sequence[_RangeRequest]) -> list[bytes]:
    import asyncio

    if len(requests) == 1:
        return [await requests[0].run()]
    slots = asyncio.Semaphore(_MAX_CONCURRENT)  # timeouts start when a request gets its slot

    async def run(request: _RangeRequest) -> bytes:
        async with slots:
            return await request.run()

    tasks = [asyncio.ensure_future(run(request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def read_all(
    fs: Any,
    path: str,
    url: str,
    *,
    expected: Source | None = None,
    permits: Permits | None = None,
) -> bytes:
    """Read a whole object; parameters and errors as in `read_ranges`."""

    async def get() -> bytes:
        response = await _request(fs, "GET", path, url, {}, 1 << 62, permits)
        _check_status(response, url, 200)
        if expected is not None:
            check_unchanged(expected, response.source(url))
        return response.body

    return run_coroutine(fs, _with_retries, get, url, UNKNOWN_SIZE_BYTES)


def read_start(
    fs: Any, path: str, url: str, length: int, permits: Permits | None = None
) -> Response:
    """Request the first bytes of an object; the caller checks status and headers.

    If the server ignores the range, no more than one byte is read.
    """

    async def get() -> Response:
        headers = {"Range": f"bytes=0-{length - 1}"}
        response = await _request(fs, "GET", path, url, headers, length, permits, max_whole=1)
        if response.status in _RETRIED_STATUSES:
            _check_status(response, url, 206)
        span = _SPAN.match(response.headers.get("content-range", ""))
        n_bytes = int(span[2]) - int(span[1]) + 1 if span else 0
        if response.status == 206 and len(response.body) < n_bytes:
            raise _TransientError(_wrong_length(url, 0, length, len(response.body), n_bytes))
        return response

    return run_coroutine(fs, _with_retries, get, url, length)


_SPAN = re.compile(r"bytes (\d{1,18})-(\d{1,18})/", re.IGNORECASE)


def _wrong_length(url: str, offset: int, length: int, got: int, expected: int) -> SourceError:
    return SourceError(
        f"the response for bytes {offset} to {offset + length} has the wrong length",
        url=url,
        got=f"{got} bytes",
        expected=f"{expected} bytes",
    )


def read_state(fs: Any, path: str, url: str, permits: Permits | None = None) -> Source:
    """Return size, modification time and ETag of an object; None each if HEAD is not allowed.

    Raises
    ------
    SourceError
        If there is no such object, or no response.
    """

    async def head() -> Source:
        return await _head(fs, path, url, permits)

    return run_coroutine(fs, _with_retries, head, url, 0)


async def _head(fs: Any, path: str, url: str, permits: Permits | None) -> Source:
    response = await _request(fs, "HEAD", path, url, {}, 0, permits)
    if response.status in (404, 410) or response.status in _RETRIED_STATUSES:
        _check_status(response, url, 200)
    return response.source(url) if response.status == 200 else Source(url)


@dataclass(slots=True)
class _RangeRequest:
    """One byte range to read."""

    fs: Any
    path: str
    url: str
    offset: int
    length: int
    expected: Source | None
    permits: Permits | None
    is_conditional: bool = True

    async def run(self) -> bytes:
        return await _with_retries(self.get, self.url, self.length)

    async def get(self) -> bytes:
        """Send the request once."""
        headers = {"Range": f"bytes={self.offset}-{self.offset + self.length - 1}"}
        if self.is_conditional and self.expected is not None:
            headers |= _conditions(self.expected)
        response = await _request(
            self.fs, "GET", self.path, self.url, headers, self.length, self.permits
        )
        if response.status == 412:
            return await self._get_unconditionally()
        if response.status == 416:
            self._check_unchanged(response)
            return b""  # the object ends before the range
        if response.status == 200:
            return self._slice_whole(response)
        _check_status(response, self.url, 206)
        self._check_unchanged(response)
        self._check_range(response)
        return response.body

    async def _get_unconditionally(self) -> bytes:
        """Compare by HEAD, and retry without a condition: some servers fail every condition."""
        assert self.expected is not None
        check_unchanged(self.expected, await _head(self.fs, self.path, self.url, self.permits))
        if not self.is_conditional:
            raise SourceError("cannot be read", url=self.url, got="HTTP status 412")
        self.is_conditional = False
        return await self.get()

    def _check_unchanged(self, response: Response) -> None:
        if self.expected is not None:
            check_unchanged(self.expected, response.source(self.url))

    def _slice_whole(self, response: Response) -> bytes:
        """Return the range from a response with the whole object."""
        size = response.headers.get("content-length", "")
        if not response.body or not size.isdigit() or int(size) != len(response.body):
            got = f"all {size} bytes".replace("  ", " ")
            span = f"bytes {self.offset} to {self.offset + self.length}"
            raise SourceError(NO_RANGES, url=self.url, tag=span, got=got, hint=_STATUS_HINTS[200])
        self._check_unchanged(response)
        return response.body[self.offset : self.offset + self.length]

    def _check_range(self, response: Response) -> None:
        """Check that the response has the requested range, by its header and its length."""
        got = response.headers.get("content-range", "")
        span, _, total = got.lower().removeprefix("bytes ").partition("/")
        last = self.offset + self.length - 1
        if total.isdigit():
            last = min(last, int(total) - 1)
        elif total.strip() == "*":  # the server does not know the size of the object
            first, _, end = span.strip().partition("-")
            is_short = first == str(self.offset) and end.isdigit() and int(end) < last
            last = int(end) if is_short else last
        if span.strip() != f"{self.offset}-{last}":
            what = f"the response for bytes {self.offset} to {self.offset + self.length} is another"
            error = SourceError(
                f"{what} part of the file",
                url=self.url,
                got=f"Content-Range {got}" if got else "no Content-Range",
                expected=f"bytes {self.offset}-{last}",
            )
            raise _TransientError(error)
        n_bytes = last - self.offset + 1
        if len(response.body) != n_bytes:
            where = self.offset, self.length
            raise _TransientError(_wrong_length(self.url, *where, len(response.body), n_bytes))


async def _with_retries(send: Callable[[], Any], url: str, n_bytes: int) -> Any:
    """Call a coroutine function until it succeeds, within the limits of `RETRY`."""
    import asyncio

    limit_s = time_limit_s(n_bytes, RETRY.total_s)
    try:
        async with asyncio.timeout(limit_s):
            return await _retry(send)
    except TimeoutError as error:
        raise timeout_error(url, limit_s) from error


async def _retry(send: Callable[[], Any]) -> Any:
    import asyncio

    retry = RETRY
    for n_failed in range(retry.n_tries):
        try:
            return await send()
        except _TransientError as transient:
            if n_failed == retry.n_tries - 1:
                transient.error.hint = f"Tried {retry.n_tries} times."
                raise transient.error from transient.__cause__
            await asyncio.sleep(retry.delay_s(n_failed, transient.wait_s))
    raise AssertionError("RETRY.n_tries is 0")


async def _request(
    fs: Any,
    method: str,
    path: str,
    url: str,
    headers: Mapping[str, str],
    max_bytes: int,
    permits: Permits | None,
    *,
    max_whole: int = _MAX_WHOLE_BYTES,
) -> Response:
    """Send one request, and follow redirects that are permitted.

    After a redirect to another origin, none of the caller's headers, cookies and credentials are
    sent, wherever the file system has them from; aiohttp itself would drop only `Authorization`.
    """
    import aiohttp

    session = await fs.set_session()
    slowest_s = _STALL_S + min(max_bytes, 1 << 40) / _SLOWEST_BYTES_PER_S
    options: dict[str, Any] = {
        "timeout": aiohttp.ClientTimeout(slowest_s, sock_connect=_STALL_S, sock_read=_STALL_S),
        **{name: value for name, value in fs.kwargs.items() if name != "allow_redirects"},
        "allow_redirects": False,
        "read_bufsize": _READ_BUFFER_BYTES,
    }
    # a range of an encoded response is not a range of the file
    own = {"Accept-Encoding": "identity", **headers}
    options["headers"] = {**fs.kwargs.get("headers", {}), **own}
    address: Any = fs.encode_url(path)
    try:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(_MAX_REDIRECTS + 1):
                async with session.request(method, address, **options) as response:
                    location = response.headers.get("Location")
                    if response.status not in _REDIRECT_STATUSES or not location:
                        body = await _read_body(response, max_bytes, max_whole, method)
                        lower = {name.lower(): value for name, value in response.headers.items()}
                        return Response(response.status, lower, body)
                    address = response.url.join(type(response.url)(location))
                    if address.scheme not in ("http", "https"):
                        what = "is redirected to another protocol"
                        raise SourceError(what, url=url, got=address)
                    if permits is not None:
                        _check_redirect(str(address), url, permits)
                    if not _is_same_origin(response.url, address):
                        options = {"headers": own} | {
                            name: options[name] for name in _CROSS_ORIGIN_OPTIONS if name in options
                        }
                        if _has_credentials(fs):
                            session = await stack.enter_async_context(_bare_session(fs))
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
        if isinstance(error, SourceError):
            raise
        if isinstance(error, aiohttp.InvalidURL):
            raise _unreadable(url, error, headers) from error
        raise _TransientError(_unreadable(url, error, headers)) from error
    raise SourceError("is redirected too often", url=url, got=f"{_MAX_REDIRECTS} redirects")


_CROSS_ORIGIN_OPTIONS = ("timeout", "allow_redirects", "read_bufsize", "ssl", "proxy")
"""Options of a request that reveal nothing to another origin."""
_CREDENTIAL_OPTIONS = ("headers", "auth", "cookies", "cookie_jar", "connector")
"""Options of a session that may contain credentials."""


def _is_same_origin(before: Any, after: Any) -> bool:
    """Return whether two URLs have the same origin; http and https of a host count as the same."""
    ports = before.scheme, before.port, after.scheme, after.port
    is_upgrade = ports == ("http", 80, "https", 443)
    return before.host == after.host and (
        is_upgrade or (before.scheme, before.port) == (after.scheme, after.port)
    )


def _has_credentials(fs: Any) -> bool:
    """Return whether the session of a file system may send credentials with every request."""
    options = getattr(fs, "client_kwargs", None) or {}
    is_own = getattr(fs, "get_client", None) is not None and fs.get_client.__module__ != _CLIENT
    return is_own or any(options.get(name) for name in _CREDENTIAL_OPTIONS)


_CLIENT = "fsspec.implementations.http"
"""Module of fsspec's own `get_client`, which adds no credentials."""


def _bare_session(fs: Any) -> Any:
    """Create a session without headers, cookies or credentials, but with the same proxy."""
    import aiohttp

    options = getattr(fs, "client_kwargs", None) or {}
    kept = {name: options[name] for name in ("trust_env", "proxy") if name in options}
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), **kept)


def _check_redirect(target: str, url: str, permits: Permits) -> None:
    if not permits(target):
        raise UntrustedSource(
            "is redirected to a URL that is not allowed",
            url=url,
            got=target,
            hint="If you trust it, add its prefix to allow=[...].",
        )


async def _read_body(response: Any, max_bytes: int, max_whole: int, method: str) -> bytes:
    """Read the body, but not far beyond the limit; the caller checks the length."""
    if method == "HEAD" or response.status not in (200, 206):
        return b""
    encoding = response.headers.get("Content-Encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise SourceError(
            "the server compresses the file, so that byte ranges cannot be read",
            url=str(response.url),
            got=f"Content-Encoding {encoding}",
            hint="Copy the file to this machine, or to a server that sends it as it is.",
        )
    limit = max_bytes if response.status == 206 or max_bytes > 1 << 60 else max_whole
    size = response.content_length
    if size is not None and size > limit:
        if response.status == 200:
            return b""
        what, got = "the response is longer than requested", f"{size} bytes"
        expected = f"at most {limit} bytes"
        error = SourceError(what, url=str(response.url), got=got, expected=expected)
        raise _TransientError(error)
    pieces, n_read = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        n_read += len(piece)
        if n_read > limit:
            break
    return b"".join(pieces)


def _conditions(expected: Source) -> dict[str, str]:
    """Return the conditional headers. Only strong ETags match in If-Match (RFC 9110, 13.1.1)."""
    if not is_weak_etag(expected.etag):
        return {"If-Match": f'"{expected.etag}"'}
    if expected.etag is None and expected.mtime is not None:
        return {"If-Unmodified-Since": email.utils.formatdate(expected.mtime, usegmt=True)}
    return {}


def _check_status(response: Response, url: str, expected: int) -> None:
    if response.status == expected:
        return
    error = status_error(response.status, url)
    if response.status in _RETRIED_STATUSES:
        raise _TransientError(error, _parse_delay(response.headers.get("retry-after", "")))
    raise error


def status_error(status: int, url: str, what: str = "cannot be read", **fields: Any) -> SourceError:
    """Build the error for a response with an unexpected HTTP status."""
    kind = MissingSource if status in (404, 410) else SourceError
    hint = _STATUS_HINTS.get(status)
    return kind(what, url=url, got=f"HTTP status {status}", hint=hint, **fields)


def _parse_delay(text: str) -> float:
    """Return the delay of a Retry-After header, in seconds; the header may be a date."""
    if text.isdigit():
        return float(text)
    moment = _parse_date(text) if text else None
    return 0.0 if moment is None else max(0.0, moment - time.time())


def _parse_date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _unreadable(url: str, error: BaseException, headers: Mapping[str, str]) -> SourceError:
    what = headers.get("Range", "").replace("bytes=", "bytes ").replace("-", " to ")
    return unreadable(url, error, f"{what} cannot be read".strip())
