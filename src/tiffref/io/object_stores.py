"""Byte ranges of objects in S3, Google Cloud Storage and Azure, as they were when scanned.

Owns conditional requests through s3fs, gcsfs and adlfs, which themselves try again where that can
help. S3 and Azure take the ETag that was recorded as a condition. Google names each state of an
object by a number, its generation, which is asked for once and then read.

References: Amazon S3 API, GetObject (If-Match, Range); Azure Blob Storage, Get Blob (If-Match);
Google Cloud Storage JSON API, Objects: get (generation).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SourceError
from ..model.manifest import Source
from .clients import WHOLE_BYTES, ask_state, call_within, source_of_info, wait_within
from .source import check_same, stale

__all__ = ["RangeReader", "find_range_reader"]

RangeReader = Callable[[Any, str, str, int, int | None, Source | None], bytes]
"""Reads file system, path, URL, offset, length (None: to the end) and the source as recorded."""


def find_range_reader(fs: Any) -> RangeReader | None:
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
