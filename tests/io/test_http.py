"""What answers say of an object, and how long to wait for the next try.

Servers that misbehave are in `tests/trust/test_faults` and `tests/trust/test_throttling`.
"""

from __future__ import annotations

import pytest

from tiffref.io.http import Response, Retry
from tiffref.model.manifest import Source


@pytest.mark.parametrize(
    ("status", "headers", "size"),
    [
        (206, {"content-range": "bytes 0-9/100", "content-length": "10"}, 100),
        (206, {"content-range": "bytes 0-9/*"}, None),
        (206, {"content-range": f"bytes 0-9/{1 << 70}"}, None),
        (206, {"content-range": "bytes 0-9/\u00b2"}, None),
        (200, {"content-length": "\u00b2"}, None),
        (200, {"content-length": "100"}, 100),
        (416, {"content-range": "bytes */100"}, 100),
        (206, {}, None),
    ],
)
def test_answers_say_how_large_an_object_is(
    status: int, headers: dict[str, str], size: int | None
) -> None:
    assert Response(status, headers, b"").source("u") == Source("u", size)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 5-9/100", (5, 9, 100)),
        ("Bytes  5-9 / 100", (5, 9, 100)),
        ("bytes=5-9/100", (5, 9, 100)),
        ("bytes 00005-00009/0100", (5, 9, 100)),
        ("bytes 5-9/*", (5, 9, None)),
        ("bytes */100", (-1, -2, 100)),
        ("bytes 5-9", (-1, -2, None)),
        ("bytes 5-9/100, bytes 0-4/100", (-1, -2, None)),
        (f"bytes 0-{1 << 70}/{1 << 71}", (-1, -2, None)),
    ],
)
def test_which_bytes_an_answer_has(text: str, expected: tuple[int, int, int | None]) -> None:
    assert Response(206, {"content-range": text}, b"").content_range == expected


def test_answers_say_when_and_by_which_tag() -> None:
    headers = {"etag": '"abc"', "last-modified": "Thu, 01 Jan 1970 00:00:09 GMT"}
    assert Response(200, headers, b"").source("u") == Source("u", None, 9.0, "abc")
    wrong = Response(200, {"last-modified": "yesterday"}, b"").source("u")
    assert wrong == Source("u")


def test_waits_grow_up_to_a_limit() -> None:
    retry = Retry(first_s=1.0, longest_s=4.0)
    for n_failed, longest in ((0, 1.0), (1, 2.0), (2, 4.0), (9, 4.0)):
        assert all(0 <= retry.delay_s(n_failed) <= longest for _ in range(20))
    assert 3.0 <= retry.delay_s(0, asked_s=3.0) <= 4.0
    assert retry.delay_s(0, asked_s=3600.0) <= 5.0
