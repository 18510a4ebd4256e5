"""Byte ranges over HTTP, with everything that goes wrong there.

Owns requests through the session of fsspec's HTTP file system: the check that an answer is the
range that was asked for, of the object that was scanned; tries again where that can help; and
redirects. fsspec hands on whatever comes: a server that knows no ranges would send the whole file
each time, and other bytes of the right number would be shifted pixels.

References: RFC 9110 (sections 13 to 15), RFC 6585 (429).
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MissingSource, SourceError, UntrustedSource, unreadable
from ..model.manifest import Source
from .clients import WHOLE_BYTES, time_limit_s, too_slow, wait_for
from .source import check_same, is_weak

__all__ = [
    "Answer",
    "Retry",
    "is_http",
    "read_all",
    "read_ranges",
    "read_start",
    "read_state",
    "refusal",
]

_CREDENTIALS = "The server wants to know who asks: storage_options takes credentials."
_HINTS = {
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: "There is no such file.",
    410: "The file is there no longer.",
}
"""What answers mean that do not pass."""

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_SLICED_BYTES = 1 << 20
"""A whole file of so many bytes is taken as the answer to a range request, and cut."""
_READ_AHEAD_BYTES = 1 << 20
"""Kept by the client before it lets the server wait, which by default it does after 128 KiB."""
_MAX_AT_ONCE = 64
_STALL_S = 30.0
_SLOWEST_BYTES_PER_S = 1 << 14

Permits = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often to try, and how long to wait in between: a random part of a time that doubles.

    `total_s` is for all tries of one request, besides what its bytes take on a slow line; the
    environment variable `TIFFREF_TIMEOUT` sets another number of seconds.
    """

    n_tries: int = 6
    first_s: float = 0.2
    longest_s: float = 10.0
    total_s: float = 90.0

    def delay_s(self, n_failed: int, asked_s: float = 0.0) -> float:
        """Return the time to wait after so many failures; the server may have asked for some."""
        wait = random.uniform(0, min(self.longest_s, self.first_s * 2**n_failed))
        return wait + min(asked_s, self.longest_s)


RETRY = Retry()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def source(self, url: str) -> Source:
        """What the answer tells of the object."""
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


class _Passing(Exception):
    """A fault that may be gone with the next try."""

    def __init__(self, error: SourceError, wait_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.wait_s = error, wait_s


def is_http(fs: Any) -> bool:
    """Recognize fsspec's file system for HTTP, whose session can be used."""
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
    """Read byte ranges at the same time.

    Parameters
    ----------
    fs, path
        File system of fsspec, and the address in there.
    url
        What to call the source in errors.
    ranges
        Each an offset and a length in bytes.
    expected
        What was recorded of the source: another answer is an error.
    permits
        Which addresses redirects may lead to; anywhere by default.

    Returns
    -------
    data
        Of each range as many bytes as its length; fewer only where the object ends.

    Raises
    ------
    SourceError
        If there is no answer, or an answer is not the range asked for.
    StaleSource
        If the object is not the one recorded.
    UntrustedSource
        If a redirect leads to where it may not.
    """
    requests = [_RangeRequest(fs, path, url, *span, expected, permits) for span in ranges]
    return wait_for(fs, _run_all, requests)


async def _run_all(requests: Sequence[_RangeRequest]) -> list[bytes]:
    import asyncio

    if len(requests) == 1:
        return [await requests[0].run()]
    slots = asyncio.Semaphore(_MAX_AT_ONCE)  # the time of a request begins with its turn

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

    async def ask() -> bytes:
        answer = await _ask(fs, "GET", path, url, {}, 1 << 62, permits)
        _check_status(answer, url, 200)
        if expected is not None:
            check_same(expected, answer.source(url))
        return answer.body

    return wait_for(fs, _try_often, ask, url, WHOLE_BYTES)


def read_start(fs: Any, path: str, url: str, length: int, permits: Permits | None = None) -> Answer:
    """Ask for the first bytes of an object; the headers say the rest.

    A server that knows no ranges is asked for no more than one byte; the caller looks at `status`.
    """

    async def ask() -> Answer:
        headers = {"Range": f"bytes=0-{length - 1}"}
        answer = await _ask(fs, "GET", path, url, headers, length, permits, most_of_all=1)
        if answer.status in _RETRIED:
            _check_status(answer, url, 206)
        return answer

    return wait_for(fs, _try_often, ask, url, length)


def read_state(fs: Any, path: str, url: str, permits: Permits | None = None) -> Source:
    """Ask what can be told of an object; nothing where the server only lets it be read.

    Raises
    ------
    SourceError
        If there is no such object, or no answer.
    """

    async def ask() -> Source:
        return await _state(fs, path, url, permits)

    return wait_for(fs, _try_often, ask, url, 0)


async def _state(fs: Any, path: str, url: str, permits: Permits | None) -> Source:
    answer = await _ask(fs, "HEAD", path, url, {}, 0, permits)
    if answer.status in (404, 410) or answer.status in _RETRIED:
        _check_status(answer, url, 200)
    return answer.source(url) if answer.status == 200 else Source(url)


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
        return await _try_often(self.ask, self.url, self.length)

    async def ask(self) -> bytes:
        """Ask once."""
        headers = {"Range": f"bytes={self.offset}-{self.offset + self.length - 1}"}
        if self.is_conditional and self.expected is not None:
            headers |= _conditions(self.expected)
        answer = await _ask(self.fs, "GET", self.path, self.url, headers, self.length, self.permits)
        if answer.status == 412:
            return await self._ask_unconditionally()
        if answer.status == 416:
            self._compare(answer)
            return b""  # the object ends before the range
        if answer.status == 200:
            return self._cut(answer)
        _check_status(answer, self.url, 206)
        self._compare(answer)
        self._check_range(answer)
        return answer.body

    async def _ask_unconditionally(self) -> bytes:
        """See what is different; some servers take no condition at all as met."""
        assert self.expected is not None
        check_same(self.expected, await _state(self.fs, self.path, self.url, self.permits))
        if not self.is_conditional:
            raise SourceError("cannot be read", url=self.url, got="HTTP status 412")
        self.is_conditional = False
        return await self.ask()

    def _compare(self, answer: Answer) -> None:
        if self.expected is not None:
            check_same(self.expected, answer.source(self.url))

    def _cut(self, answer: Answer) -> bytes:
        """Take a range out of a whole object."""
        size = answer.headers.get("content-length", "")
        if not answer.body or not size.isdigit() or int(size) != len(answer.body):
            got = f"all {size} bytes".replace("  ", " ")
            raise self._wrong(got, "a server that answers range requests")
        self._compare(answer)
        return answer.body[self.offset : self.offset + self.length]

    def _check_range(self, answer: Answer) -> None:
        """Check that the answer says, and has, the range that was asked for."""
        got = answer.headers.get("content-range", "")
        span, _, total = got.lower().removeprefix("bytes ").partition("/")
        last = self.offset + self.length - 1
        if total.isdigit():
            last = min(last, int(total) - 1)
        elif total.strip() == "*":  # the server does not know how long the object is
            first, _, end = span.strip().partition("-")
            is_short = first == str(self.offset) and end.isdigit() and int(end) < last
            last = int(end) if is_short else last
        if span.strip() != f"{self.offset}-{last}":
            raise _Passing(self._wrong(f"Content-Range {got}", f"bytes {self.offset}-{last}"))
        if len(answer.body) != last - self.offset + 1:
            expected = f"{last - self.offset + 1} bytes"
            raise _Passing(self._wrong(f"{len(answer.body)} bytes", expected))

    def _wrong(self, got: str, expected: str) -> SourceError:
        what = f"the answer for bytes {self.offset} to {self.offset + self.length} is another part"
        return SourceError(f"{what} of the file", url=self.url, got=got, expected=expected)


async def _try_often(ask: Callable[[], Any], url: str, n_bytes: int) -> Any:
    """Ask until there is an answer, a bounded number of times and in a bounded time."""
    import asyncio

    limit_s = time_limit_s(n_bytes, RETRY.total_s)
    try:
        async with asyncio.timeout(limit_s):
            return await _try_again(ask)
    except TimeoutError as error:
        raise too_slow(url, limit_s) from error


async def _try_again(ask: Callable[[], Any]) -> Any:
    import asyncio

    retry = RETRY
    for n_failed in range(retry.n_tries):
        try:
            return await ask()
        except _Passing as fault:
            if n_failed == retry.n_tries - 1:
                fault.error.hint = f"Tried {retry.n_tries} times."
                raise fault.error from fault.__cause__
            await asyncio.sleep(retry.delay_s(n_failed, fault.wait_s))
    raise AssertionError("RETRY.n_tries is 0")


async def _ask(
    fs: Any,
    method: str,
    path: str,
    url: str,
    headers: Mapping[str, str],
    most: int,
    permits: Permits | None,
    *,
    most_of_all: int = _MAX_SLICED_BYTES,
) -> Answer:
    """Send one request, and follow redirects as far as they are permitted.

    Another origin than the first gets none of the caller's headers, cookies and credentials, by
    whatever way the file system has them: the client itself would keep back no more than
    `Authorization`.
    """
    import aiohttp

    session = await fs.set_session()
    slowest_s = _STALL_S + min(most, 1 << 40) / _SLOWEST_BYTES_PER_S
    options: dict[str, Any] = {
        "timeout": aiohttp.ClientTimeout(slowest_s, sock_connect=_STALL_S, sock_read=_STALL_S),
        **{name: value for name, value in fs.kwargs.items() if name != "allow_redirects"},
        "allow_redirects": False,
        "read_bufsize": _READ_AHEAD_BYTES,
    }
    # a range of compressed bytes is no range of the file
    own = {"Accept-Encoding": "identity", **headers}
    options["headers"] = {**fs.kwargs.get("headers", {}), **own}
    address: Any = fs.encode_url(path)
    try:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(_MAX_REDIRECTS + 1):
                async with session.request(method, address, **options) as answer:
                    location = answer.headers.get("Location")
                    if answer.status not in _REDIRECTS or not location:
                        body = await _read_body(answer, most, most_of_all, method)
                        named = {name.lower(): value for name, value in answer.headers.items()}
                        return Answer(answer.status, named, body)
                    address = answer.url.join(type(answer.url)(location))
                    if permits is not None:
                        _check_redirect(str(address), url, permits)
                    if not _is_same_origin(answer.url, address):
                        options = {"headers": own} | {
                            name: options[name]
                            for name in ("timeout", "allow_redirects", "read_bufsize", *_SAFE)
                            if name in options
                        }
                        if _has_credentials(fs):
                            session = await stack.enter_async_context(_bare_session(fs))
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
        if isinstance(error, SourceError):
            raise
        if isinstance(error, aiohttp.InvalidURL):
            raise _unreadable(url, error, headers) from error
        raise _Passing(_unreadable(url, error, headers)) from error
    raise SourceError("is redirected without an end", url=url, got=f"{_MAX_REDIRECTS} redirects")


_SAFE = ("ssl", "proxy")
"""Options of a request that tell another origin nothing."""
_TELLING = ("headers", "auth", "cookies", "cookie_jar", "connector")


def _is_same_origin(before: Any, after: Any) -> bool:
    """Return whether two addresses have one host; from http to https it stays the same."""
    is_raised = (before.scheme, before.port, after.scheme, after.port) == ("http", 80, "https", 443)
    return before.host == after.host and (
        is_raised or (before.scheme, before.port) == (after.scheme, after.port)
    )


def _has_credentials(fs: Any) -> bool:
    """Return whether all requests of a file system's session may carry something of the caller."""
    options = getattr(fs, "client_kwargs", None) or {}
    is_own = getattr(fs, "get_client", None) is not None and fs.get_client.__module__ != _CLIENT
    return is_own or any(options.get(name) for name in _TELLING)


_CLIENT = "fsspec.implementations.http"
"""Module of the function that makes sessions without anything of the caller."""


def _bare_session(fs: Any) -> Any:
    """Make a session without anything of the caller, which reaches the net by the same proxy."""
    import aiohttp

    options = getattr(fs, "client_kwargs", None) or {}
    kept = {name: options[name] for name in ("trust_env", "proxy") if name in options}
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), **kept)


def _check_redirect(target: str, url: str, permits: Permits) -> None:
    if not permits(target):
        raise UntrustedSource(
            "is redirected to outside the allowed addresses",
            url=url,
            got=target,
            hint="If you trust it, add its prefix to allow=[...].",
        )


async def _read_body(answer: Any, most: int, most_of_all: int, method: str) -> bytes:
    """Read no more than makes sense as an answer; what is more is left, and told by its length."""
    is_good = answer.status in (200, 206)
    if method == "HEAD" or not is_good:
        return b""
    encoding = answer.headers.get("Content-Encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise SourceError("the server encodes what it sends", url=str(answer.url), got=encoding)
    limit = most if answer.status == 206 or most > 1 << 60 else most_of_all
    size = answer.content_length
    if size is not None and size > limit:
        return b"" if answer.status == 200 else await answer.content.read(1)
    pieces, n_read = [], 0
    async for piece in answer.content.iter_any():
        pieces.append(piece)
        n_read += len(piece)
        if n_read > limit:
            break
    return b"".join(pieces)


def _conditions(expected: Source) -> dict[str, str]:
    """Describe which object is meant. Only strong ETags match in If-Match (RFC 9110, 13.1.1)."""
    if not is_weak(expected.etag):
        return {"If-Match": f'"{expected.etag}"'}
    if expected.etag is None and expected.mtime is not None:
        return {"If-Unmodified-Since": email.utils.formatdate(expected.mtime, usegmt=True)}
    return {}


def _check_status(answer: Answer, url: str, wanted: int) -> None:
    if answer.status == wanted:
        return
    error = refusal(answer.status, url)
    if answer.status in _RETRIED:
        raise _Passing(error, _parse_delay(answer.headers.get("retry-after", "")))
    raise error


def refusal(status: int, url: str, what: str = "cannot be read", **fields: Any) -> SourceError:
    """Make the error for an answer without the bytes that were asked for."""
    kind = MissingSource if status in (404, 410) else SourceError
    return kind(what, url=url, got=f"HTTP status {status}", hint=_HINTS.get(status), **fields)


def _parse_delay(text: str) -> float:
    """Return the seconds that a Retry-After asks to wait, given as such or as a date."""
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
