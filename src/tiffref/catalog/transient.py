"""Which errors may pass when one tries again.

Owns the line between a busy network or server and a file that is wrong: only the former is tried
again, after a pause that doubles.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import SourceError

__all__ = ["is_transient", "retried"]

T = TypeVar("T")

_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET,
        errno.EHOSTUNREACH, errno.EINTR, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
        errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers by which a server says "later"; 404 and 403 say "never"."""
_STATUS = re.compile(r"HTTP status (\d{3})$")
_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"})
"""Codes of S3 and kin."""
_CLIENTS = ("aiohttp", "botocore", "urllib3", "requests", "gcsfs")
_KINDS = ("Timeout", "Connection", "Disconnected", "Incomplete", "Payload")


def is_transient(error: BaseException) -> bool:
    """Say whether an error may be gone the next time."""
    return isinstance(error, SourceError) and any(_may_pass(cause) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if getattr(error, "errno", None) in _ERRNOS or getattr(error, "status", None) in _STATUSES:
        return True
    if isinstance(error, SourceError):
        found = _STATUS.search(str(error.got))
        return found is not None and int(found[1]) in _STATUSES
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return answer.get("Error", {}).get("Code") in _CODES
    # clients have dozens of classes for this, that need not be installed
    is_client = type(error).__module__.startswith(_CLIENTS)
    return is_client and any(kind in type(error).__name__ for kind in _KINDS)


def retried(
    work: Callable[[], T],
    retries: int,
    backoff_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Do something, again after errors that may pass.

    Parameters
    ----------
    retries
        How often to try again.
    backoff_s
        Seconds before the first time; the pause doubles each time.
    """
    for attempt in range(retries):
        try:
            return work()
        except SourceError as error:
            if not is_transient(error):
                raise
        sleep(backoff_s * 2**attempt)
    return work()
