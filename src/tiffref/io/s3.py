"""Byte ranges of S3 objects, each compared with the object that was scanned.

Owns conditional requests through s3fs, which itself tries again where that can help.

Reference: Amazon S3 API, GetObject (If-Match, Range).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SourceError, StaleSource
from ..model.manifest import Source
from .clients import wait_for
from .freshness import check_same

__all__ = ["is_s3", "read_range"]


def is_s3(fs: Any) -> bool:
    """Recognize s3fs, whose calls of the S3 interface can be used."""
    return hasattr(fs, "_call_s3") and hasattr(fs, "split_path")


def read_range(
    fs: Any,
    path: str,
    url: str,
    offset: int,
    length: int | None,
    *,
    expected: Source | None = None,
) -> bytes:
    """Read a byte range; parameters and errors as in `access.http.read_range`.

    `length` None reads to the end.
    """
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
        answer, data = wait_for(fs, ask)
    except OSError as error:
        if _status(error) == 416:
            return b""  # the object ends before the range
        if _status(error) != 412:
            raise
        raise StaleSource(
            "has changed since it was scanned",
            url=url,
            got=f"another ETag ({_current_etag(fs, path)})",
            expected=f"ETag {expected.etag if expected else None}",
            hint="Scan it again, or read it as it is with verify='never'.",
        ) from error
    if expected is not None:
        check_same(expected, _answered(answer, url))
    span = str(answer.get("ContentRange", ""))
    if length is not None and not span.startswith(f"bytes {offset}-"):
        raise SourceError("the answer is another part of the object", url=url, got=span)
    return data


def _answered(answer: Mapping[str, Any], url: str) -> Source:
    """Return what an answer says of the whole object."""
    total = str(answer.get("ContentRange") or answer.get("ContentLength", "")).rpartition("/")[2]
    modified = answer.get("LastModified")
    etag = answer.get("ETag")
    return Source(
        url,
        int(total) if total.isdigit() else None,
        modified.timestamp() if modified is not None else None,
        etag.strip('"') if etag else None,
    )


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error of s3fs."""
    cause: Any = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        cause = cause.__cause__
    return None


def _current_etag(fs: Any, path: str) -> str | None:
    try:
        return str(fs.info(path, refresh=True).get("ETag", "")).strip('"')
    except OSError:
        return None
