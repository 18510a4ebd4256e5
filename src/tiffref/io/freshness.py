"""Is a source still what it was when it was scanned?

Owns the comparison of what was recorded with what is found. It asks nobody.
"""

from __future__ import annotations

import datetime

from ..errors import StaleSource
from ..model.manifest import Source

__all__ = ["check_same", "stale"]

_MTIME_TOLERANCE_S = 1e-3
"""File systems and JSON both round modification times; a real change is further away."""


def check_same(recorded: Source, now: Source) -> None:
    """Compare a source with what was recorded; what is not known on both sides is skipped.

    An ETag that is equal and strong says that the bytes are equal (RFC 9110, section 8.8.3):
    the time may then differ, as it does between the servers of a mirror.

    Raises
    ------
    StaleSource
        If its size, ETag or modification time is another.
    """
    has_tags = recorded.etag is not None and now.etag is not None
    is_certain = has_tags and recorded.etag == now.etag and not is_weak(recorded.etag)
    known = [
        ("size", recorded.size, now.size, recorded.size == now.size),
        ("ETag", recorded.etag, now.etag, recorded.etag == now.etag),
        ("mtime", recorded.mtime, now.mtime, is_certain or _is_same_time(recorded, now)),
    ]
    for name, before, after, is_same in known:
        if before is not None and after is not None and not is_same:
            got = f"{name} {_describe(name, after)}"
            raise stale(recorded.url, got, f"{name} {_describe(name, before)}")


def stale(url: str, got: str, expected: str) -> StaleSource:
    """Make the error for a source that is not what was recorded."""
    return StaleSource(
        "has changed since it was scanned", url=url, got=got, expected=expected,
        hint="Scan it again, or read it as it is with verify='never'.",
    )  # fmt: skip


def _describe(name: str, value: object) -> str:
    if name != "mtime" or not isinstance(value, int | float):
        return str(value)
    try:
        return datetime.datetime.fromtimestamp(value, datetime.UTC).isoformat(" ")
    except (OverflowError, OSError, ValueError):  # documents of strangers can have any number
        return str(value)


def is_weak(etag: str | None) -> bool:
    """Return whether equal ETags mean no more than alike contents."""
    return etag is None or etag.startswith("W/")


def _is_same_time(recorded: Source, now: Source) -> bool:
    if recorded.mtime is None or now.mtime is None:
        return True
    return abs(recorded.mtime - now.mtime) <= _MTIME_TOLERANCE_S
