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
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import MissingSource, SourceError, UntrustedSource, safe_cause, unreadable
from ..model.manifest import Source
from ..signatures import public_url
from .clients import UNKNOWN_SIZE_BYTES, gather, run_coroutine, time_limit_s, with_timeout
from .source import check_unchanged, is_weak_etag, wrong_length_error

_CREDENTIALS = "The server needs credentials: pass them in storage_options."
_STATUS_HINTS = {
    200: "Copy the file to this machine, or to a server that supports them.",
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: "There is no such file.",
    410: "The file is no longer there.",
}
_NO_RANGES = "the server does not support range requests"

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
"""Statuses worth a retry; 404 and 403 are not. Those from 520 are Cloudflare's."""
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MIN_PART_BYTES = 1 << 12
"""Smallest part of a range that is accepted, unless the object ends there."""
_MAX_WHOLE_BYTES = 1 << 20
"""Largest whole file that is accepted, and sliced, as the response to a range request."""
_READ_BUFFER_BYTES = 1 << 20
"""Bytes buffered before the client makes the server wait; the default is 128 KiB."""
_STALL_S = 30.0
_SLOWEST_BYTES_PER_S = 1 << 14
_CONTENT_RANGE = re.compile(
    r"bytes[ =]+(?:(\d{1,18})-(\d{1,18})|\*) ?/ ?(?:(\d{1,18})|\*)", re.IGNORECASE | re.ASCII
)
_COMPRESSIONS = frozenset({"br", "compress", "deflate", "gzip", "x-compress", "x-gzip", "zstd"})
"""Content codings that change the bytes. Others are "aws-chunked" of some stores, and mistakes."""


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

    @property
    def content_range(self) -> tuple[int, int, int | None]:
        """First and last byte of the body in the object (-1, -2 if unknown), and its size."""
        match = _CONTENT_RANGE.fullmatch(self.headers.get("content-range", "").strip())
        first, last, size = match.groups() if match else (None, None, None)
        return int(first or -1), int(last or -2), None if size is None else int(size)

    def source(self, url: str) -> Source:
        """Return size, modification time and ETag of the object from the headers."""
        size = self.content_range[2]
        if self.status == 200:
            length = self.headers.get("content-length", "")
            size = int(length) if length.isdecimal() else None
        modified = self.headers.get("last-modified")
        etag = self.headers.get("etag")
        return Source(
            url,
            size,
            _parse_date(modified) if modified else None,
            etag.strip('"') if etag else None,
        )


class _TransientError(Exception):
    """An error that may not occur again on the next try."""

    def __init__(self, error: SourceError, wait_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.wait_s = error, wait_s


def is_http(fs: Any) -> bool:
    """Return whether a file system is fsspec's HTTP file system; caches have its methods too."""
    return hasattr(type(fs), "encode_url") and hasattr(type(fs), "set_session")


@dataclass(frozen=True, slots=True)
class HttpFile:
    """An object of an HTTP server.

    Its methods raise `SourceError` if there is no response, or not the requested one;
    `StaleSource` if the object differs from the `expected` source, which was recorded in the scan;
    and `UntrustedSource` if a redirect is not permitted.

    Parameters
    ----------
    fs, path
        File system of fsspec, and the path in it.
    url
        URL of the source, for errors.
    permits
        Function that returns whether a redirect may lead to a URL; None allows all.
    targets
        Where redirects led, by method: the address, and whether it has another origin.
    """

    fs: Any
    path: str
    url: str
    permits: Callable[[str], bool] | None = None
    targets: dict[str, tuple[Any, bool]] = field(default_factory=dict, repr=False)

    def open(self, length: int) -> tuple[Source, bytes]:
        """Read the first bytes; return them with the state of the object, size included."""
        return self._run(self._open, length, length)

    def read_ranges(
        self, ranges: Sequence[tuple[int, int]], expected: Source | None = None
    ) -> list[bytes]:
        """Read ranges (offset, length) concurrently; shorter ones only at the object's end."""

        def get(offset: int, length: int) -> Any:
            return _with_retries(self.url, length, self._get_range, offset, length, expected)

        return run_coroutine(self.fs, gather, get, ranges)

    def read_all(self, expected: Source | None = None) -> bytes:
        """Read the whole object."""
        return self._run(self._get_whole, UNKNOWN_SIZE_BYTES, {}, 1 << 62, expected)

    def read_document(self, max_bytes: int) -> bytes:
        """Read a whole document, which the server may compress; stop at about `max_bytes`."""
        headers = {"Accept-Encoding": "gzip, deflate"}
        return self._run(self._get_whole, UNKNOWN_SIZE_BYTES, headers, max_bytes)

    def state(self) -> Source:
        """Return size, modification time and ETag; None each if HEAD is not allowed."""
        return self._run(self._head, 0)

    def _run(self, send: Callable[..., Any], n_bytes: int, *arguments: Any) -> Any:
        return run_coroutine(self.fs, _with_retries, self.url, n_bytes, send, *arguments)

    async def _open(self, length: int) -> tuple[Source, bytes]:
        """Request the first bytes; if the server ignores the range, read at most one byte."""
        headers = {"Range": f"bytes=0-{length - 1}"}
        response = await self._request("GET", headers, length, max_whole=1)
        first, last, size = response.content_range
        if response.status == 416:
            # some servers refuse a range that ends beyond the file, and report its size
            size = size or (await self._head()).size or 0
            if 0 < size < length:
                return await self._open(size)
            if size:
                raise _status_error(response, self.url)
            return Source(self.url, 0), b""
        if response.status == 200:
            raise _status_error(response, self.url, _NO_RANGES, expected="HTTP status 206")
        _check_status(response, self.url, 206)
        if first == 0 and size is None:  # but HEAD may give it
            size = (await self._head()).size
        if first != 0 or size is None:
            raise SourceError(
                "the server does not report the size of the file",
                url=self.url,
                tag="Content-Range",
                got=response.headers.get("content-range"),
                expected=f"bytes 0-{length - 1}/SIZE",
            )
        most, n_bytes = min(length, size), len(response.body)
        if n_bytes <= last:
            raise _TransientError(wrong_length_error(self.url, 0, length, n_bytes, last + 1))
        if n_bytes != last + 1 or not min(most, _MIN_PART_BYTES) <= n_bytes <= most:
            raise wrong_length_error(self.url, 0, length, n_bytes, most)
        return replace(response.source(self.url), size=size), response.body

    async def _get_whole(
        self, headers: Mapping[str, str], max_bytes: int, expected: Source | None = None
    ) -> bytes:
        response = await self._request("GET", headers, max_bytes, max_whole=max_bytes)
        _check_status(response, self.url, 200)
        size = response.headers.get("content-length", "")
        if size.isdigit() and int(size) > max_bytes:
            at_most = f"at most {max_bytes} bytes"
            raise SourceError("is too large", url=self.url, got=f"{size} bytes", expected=at_most)
        check_unchanged(expected, response.source(self.url))
        return response.body

    async def _get_range(self, offset: int, length: int, expected: Source | None) -> bytes:
        """Read a range; servers may send less, and are asked for the rest (RFC 9110, 15.3.7)."""
        parts, n_left = [], length
        while n_left:
            part = await self._get_part(offset + length - n_left, n_left, expected)
            parts.append(part)
            n_left = n_left - len(part) if part else 0
        return b"".join(parts)

    async def _get_part(
        self, offset: int, length: int, expected: Source | None, is_conditional: bool = True
    ) -> bytes:
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        if is_conditional and expected is not None:
            headers |= _conditions(expected)
        response = await self._request("GET", headers, length)
        if response.status == 412:
            # compare by HEAD, and retry without a condition: some servers fail every condition
            check_unchanged(expected, await self._head())
            if not is_conditional:
                raise _status_error(response, self.url)
            return await self._get_part(offset, length, expected, is_conditional=False)
        if response.status == 200:
            size = response.headers.get("content-length", "")
            if not response.body or size != str(len(response.body)):
                span = f"bytes {offset} to {offset + length}"
                got = f"all {size} bytes".replace("  ", " ")
                hint = _STATUS_HINTS[200]
                raise SourceError(_NO_RANGES, url=self.url, tag=span, got=got, hint=hint)
        elif response.status != 416:
            _check_status(response, self.url, 206)
        check_unchanged(expected, response.source(self.url))
        if response.status == 416:
            return b""  # the object ends before the range
        if response.status == 200:
            return response.body[offset : offset + length]
        self._check_range(response, offset, length)
        return response.body

    def _check_range(self, response: Response, offset: int, length: int) -> None:
        got = response.headers.get("content-range", "")
        first, last, size = response.content_range
        most = length if size is None else min(length, size - offset)
        least = 1 if size is None else min(most, _MIN_PART_BYTES)
        n_bytes = last - first + 1
        if first != offset or not least <= n_bytes <= most:
            what = f"the response for bytes {offset} to {offset + length} is another"
            error = SourceError(
                f"{what} part of the file",
                url=self.url,
                got=f"Content-Range {got}" if got else "no Content-Range",
                expected=f"bytes {offset}-{offset + most - 1}",
            )
            raise _TransientError(error)
        if len(response.body) != n_bytes:
            error = wrong_length_error(self.url, offset, length, len(response.body), n_bytes)
            raise _TransientError(error)

    async def _head(self) -> Source:
        response = await self._request("HEAD", {}, 0)
        if response.status in (404, 410) or response.status in RETRIED_STATUSES:
            _check_status(response, self.url, 200)
        return response.source(self.url) if response.status == 200 else Source(self.url)

    async def _request(
        self,
        method: str,
        headers: Mapping[str, str],
        max_bytes: int,
        *,
        max_whole: int = _MAX_WHOLE_BYTES,
    ) -> Response:
        """Send one request, and follow redirects that are permitted.

        After a redirect to another origin, none of the caller's headers, cookies and credentials
        are sent, wherever the file system has them from; aiohttp itself would drop only
        `Authorization`. Later requests begin at the target, until it refuses one: targets of
        signed addresses expire.
        """
        import aiohttp

        fs = self.fs
        session = await fs.set_session()
        slowest_s = _STALL_S + min(max_bytes, 1 << 40) / _SLOWEST_BYTES_PER_S
        # a range of an encoded response is not a range of the file
        own = {"Accept-Encoding": "identity", **headers}
        options: dict[str, Any] = {
            "timeout": aiohttp.ClientTimeout(slowest_s, sock_connect=_STALL_S, sock_read=_STALL_S),
            **fs.kwargs,
            "allow_redirects": False,
            "read_bufsize": _READ_BUFFER_BYTES,
            "headers": {**fs.kwargs.get("headers", {}), **own},
        }
        known = self.targets.get(method)
        address, is_elsewhere = known or (fs.encode_url(self.path), False)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for n_redirects in range(_MAX_REDIRECTS + 1):
                    if is_elsewhere:
                        kept = options.keys() & _CROSS_ORIGIN_OPTIONS
                        options = {name: options[name] for name in kept} | {"headers": own}
                        if _has_credentials(fs):
                            session = await stack.enter_async_context(_bare_session(fs))
                    async with session.request(method, address, **options) as response:
                        location = response.headers.get("Location")
                        is_final = response.status not in _REDIRECT_STATUSES or not location
                        if known and (not is_final or 400 <= response.status != 416):
                            break
                        if is_final:
                            if n_redirects and response.status < 400:
                                self.targets[method] = address, is_elsewhere
                            body = await _read_body(response, max_bytes, max_whole, method)
                            lower = {name.lower(): text for name, text in response.headers.items()}
                            return Response(response.status, lower, body)
                        address = response.url.join(type(response.url)(location))
                        self._check_redirect(address)
                        is_elsewhere |= not _is_same_origin(response.url, address)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            self.targets.pop(method, None)
            if isinstance(error, SourceError):
                raise
            span = headers.get("Range", "").replace("bytes=", "bytes ").replace("-", " to ")
            failure = unreadable(self.url, error, f"{span} cannot be read".strip())
            if isinstance(error, aiohttp.InvalidURL):
                raise failure from safe_cause(error)
            raise _TransientError(failure) from safe_cause(error)
        self.targets.pop(method, None)
        if known:
            return await self._request(method, headers, max_bytes, max_whole=max_whole)
        got = f"{_MAX_REDIRECTS} redirects"
        raise SourceError("is redirected too often", url=self.url, got=got)

    def _check_redirect(self, target: Any) -> None:
        if target.scheme not in ("http", "https"):
            raise SourceError("is redirected to another protocol", url=self.url, got=target)
        if self.permits is not None and not self.permits(str(target)):
            raise UntrustedSource(
                "is redirected to a URL that is not allowed",
                url=self.url,
                got=str(target),
                hint="If you trust it, add its prefix to allow=[...].",
            )


async def _with_retries(url: str, n_bytes: int, send: Callable[..., Any], *arguments: Any) -> Any:
    """Call a coroutine function until it succeeds, within the limits of `RETRY`."""
    import asyncio

    retry = RETRY

    async def run() -> Any:
        for n_failed in range(1, retry.n_tries + 1):
            try:
                return await send(*arguments)
            except _TransientError as transient:
                if n_failed == retry.n_tries:
                    transient.error.hint = f"Tried {retry.n_tries} times."
                    raise transient.error from transient.__cause__
                await asyncio.sleep(retry.delay_s(n_failed - 1, transient.wait_s))

    return await with_timeout(url, time_limit_s(n_bytes, retry.total_s), run)


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
    proxy_options = {name: options[name] for name in ("trust_env", "proxy") if name in options}
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), **proxy_options)


async def _read_body(response: Any, max_bytes: int, max_whole: int, method: str) -> bytes:
    """Read the body, but not far beyond the limit; the caller checks the length."""
    if method == "HEAD" or response.status not in (200, 206):
        return b""
    encoding = response.headers.get("Content-Encoding", "")
    is_asked_for = response.request_info.headers["Accept-Encoding"] != "identity"
    if not is_asked_for and _COMPRESSIONS & set(re.split(r"[\s,]+", encoding.lower())):
        raise SourceError(
            "the server compresses the file, so that byte ranges cannot be read",
            url=str(response.url),
            got=f"Content-Encoding {encoding}",
            hint="Copy the file to this machine, or to a server that sends it as it is.",
        )
    limit = max_bytes if response.status == 206 else max_whole
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
    error = _status_error(response, url)
    if response.status in RETRIED_STATUSES:
        raise _TransientError(error, _parse_delay(response.headers.get("retry-after", "")))
    raise error


def _status_error(
    response: Response, url: str, what: str = "cannot be read", **fields: Any
) -> SourceError:
    status = response.status
    kind = MissingSource if status in (404, 410) else SourceError
    hint = _STATUS_HINTS.get(status)
    if hint == _CREDENTIALS and public_url(url) != url:
        hint = "Its signature or password may be wrong or out of date: get a new address."
    error = kind(what, url=url, got=f"HTTP status {status}", hint=hint, **fields)
    error.status = status
    return error


def _parse_delay(text: str) -> float:
    """Return the delay of a Retry-After header, in seconds; the header may be a date."""
    if text.isdecimal():
        return float(text)
    moment = _parse_date(text) if text else None
    return 0.0 if moment is None else max(0.0, moment - time.time())


def _parse_date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
