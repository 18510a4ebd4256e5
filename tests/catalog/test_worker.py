"""Which errors are tried again, and how often."""

from __future__ import annotations

import errno

import pytest

from tiffref.catalog.worker import is_transient, retried
from tiffref.errors import MalformedTiff, SourceError


def caused(error: BaseException) -> SourceError:
    wrapped = SourceError("cannot be read")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (caused(TimeoutError()), True),
        (caused(ConnectionResetError()), True),
        (caused(OSError(errno.ESTALE, "stale")), True),
        (SourceError("cannot be read", got="HTTP status 503"), True),
        (SourceError("cannot be read", got="HTTP status 404"), False),
        (caused(FileNotFoundError(errno.ENOENT, "no")), False),
        (caused(PermissionError(errno.EACCES, "no")), False),
        (MalformedTiff("not a TIFF"), False),
    ],
)
def test_what_may_pass(error: BaseException, passes: bool) -> None:
    assert is_transient(error) is passes


def test_pauses_double_and_end() -> None:
    pauses: list[float] = []
    calls = []

    def fail() -> None:
        calls.append(1)
        raise caused(TimeoutError())

    with pytest.raises(SourceError):
        retried(fail, 3, 0.5, pauses.append)
    assert (len(calls), pauses) == (4, [0.5, 1.0, 2.0])
    with pytest.raises(MalformedTiff):
        retried(lambda: (_ for _ in ()).throw(MalformedTiff("bad")), 3, 0.5, pauses.append)
    assert len(pauses) == 3
    answers = iter([caused(TimeoutError()), "done"])

    def at_last() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retried(at_last, 1, 0.0, pauses.append) == "done"
