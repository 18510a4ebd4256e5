"""Which errors are tried again, and how often."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref.catalog
from tiffref.catalog.worker import is_transient, with_retries
from tiffref.errors import MalformedTiff, SourceError


def caused(error: BaseException) -> SourceError:
    wrapped = SourceError("cannot be read")
    wrapped.__cause__ = error
    return wrapped


def responded(status: int) -> SourceError:
    """Return the error of a response, as it comes back from a worker process."""
    error = SourceError("cannot be read")
    error.status = status
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (caused(TimeoutError()), True),
        (caused(ConnectionResetError()), True),
        (caused(OSError(errno.ESTALE, "stale")), True),
        (responded(503), True),
        (responded(404), False),
        (caused(responded(429)), True),
        (SourceError("cannot be read", got="a text with HTTP status 503"), False),
        (caused(FileNotFoundError(errno.ENOENT, "no")), False),
        (caused(PermissionError(errno.EACCES, "no")), False),
        (MalformedTiff("not a TIFF"), False),
    ],
)
def test_transient_errors(error: BaseException, passes: bool) -> None:
    assert is_transient(error) is passes


def test_pauses_double_and_end() -> None:
    pauses: list[float] = []
    calls = []

    def fail() -> None:
        calls.append(1)
        raise caused(TimeoutError())

    with pytest.raises(SourceError):
        with_retries(fail, 3, 0.5, pauses.append)
    assert (len(calls), pauses) == (4, [0.5, 1.0, 2.0])
    with pytest.raises(MalformedTiff):
        with_retries(lambda: (_ for _ in ()).throw(MalformedTiff("bad")), 3, 0.5, pauses.append)
    assert len(pauses) == 3
    answers = iter([caused(TimeoutError()), "done"])

    def at_last() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert with_retries(at_last, 1, 0.0, pauses.append) == "done"


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_file_that_was_cut_short_is_not_ok(tmp_path: Path, byteorder: str, bigtiff: bool) -> None:
    """Pages and overviews that are lost are told by a scan; a row that is "ok" is whole."""
    folder = tmp_path / "in"
    folder.mkdir()
    image = np.arange(64 * 64, dtype="u2").reshape(64, 64)
    for name in ("whole.tif", "pages.tif", "overviews.tif"):
        with tifffile.TiffWriter(folder / name, byteorder=byteorder, bigtiff=bigtiff) as tif:
            for n in (1, 2, 4) if name == "overviews.tif" else (1, 1, 1):
                tif.write(
                    image[::n, ::n], subfiletype=int(n > 1), metadata=None, compression="zlib"
                )
        if name != "whole.tif":
            with tifffile.TiffFile(folder / name) as tif:
                end = tif.pages[2].offset + 20
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data[:end])
    summary = tiffref.catalog.build(folder, tmp_path / "out")
    rows = tiffref.catalog.open(tmp_path / "out").table.to_pylist()
    assert {Path(row["url"]).name: row["status"] for row in rows} == {
        "whole.tif": "ok", "pages.tif": "failed", "overviews.tif": "failed"
    }  # fmt: skip
    assert all("truncated" in row["error"] for row in rows if row["status"] == "failed")
    assert (summary.ok, summary.failed) == (1, 2)
