"""Which errors are tried again, and how often."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tiffref.catalog
from tiffref.catalog.storage import LocalFolder
from tiffref.catalog.worker import (
    Settings,
    file_facts,
    is_transient,
    make_jobs,
    reference_path,
    with_retries,
)
from tiffref.errors import MalformedTiff, SelectionError, SourceError
from tiffref.sequences.inputs import FileList


def caused(error: BaseException) -> SourceError:
    wrapped = SourceError("cannot be read")
    wrapped.__cause__ = error
    return wrapped


def responded(status: int) -> SourceError:
    """Return the error of a response, as it comes back from a worker process."""
    error = SourceError("cannot be read")
    error.status = status
    return pickle.loads(pickle.dumps(error))


def of_client(module: str, name: str, **fields: Any) -> SourceError:
    """Return an error with a cause of a client's own class."""
    return caused(type(name, (Exception,), {"__module__": module, **fields})())


def answer(code: str) -> dict[str, Any]:
    return {"response": {"Error": {"Code": code}}}


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (of_client("botocore.exceptions", "ClientError", **answer("SlowDown")), True),
        (of_client("botocore.exceptions", "ClientError", **answer("NoSuchKey")), False),
        (of_client("aiohttp.client_exceptions", "ServerDisconnectedError"), True),
        (of_client("aiohttp.client_exceptions", "InvalidURL"), False),
        (of_client("another", "ServerDisconnectedError"), False),
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


@pytest.mark.parametrize(
    ("url", "root", "expected"),
    [
        ("/d/a:b?.tif", "file:///d/", "references/a%3Ab%3F.tif.json"),
        ("/d/{a}.tif", "file:///d/", "references/%7Ba%7D.tif.json"),
        ("/d/../x.tif", "file:///d/", "references/%2E%2E/x.tif.json"),
        ("/d/a//x.tif", "file:///d/", "references/a/x.tif.json"),
        ("/d/x.tif", "", "references/_elsewhere/file/d/x.tif.json"),
        ("s3://b/x.tif", "s3://b/", "references/x.tif.json"),
    ],
)
def test_paths_of_references(url: str, root: str, expected: str) -> None:
    assert reference_path(url, root, ".json") == expected


def test_paths_of_references_of_long_names_differ() -> None:
    paths = {reference_path(f"/d/{'x' * 300}{n}.tif", "file:///d/", ".json") for n in range(3)}
    assert len(paths) == 3 and max(len(path.rpartition("/")[2]) for path in paths) < 255


def test_two_files_with_one_path_of_references(tmp_path: Path) -> None:
    settings = Settings(LocalFolder(str(tmp_path)), "file:///d/")
    files = FileList(["/d/a/x.tif", "/d/a/x.tif", "/d/a//x.tif"])
    with pytest.raises(
        SelectionError, match=r"same path, got references/a/x\.tif\.json, .*that of"
    ):
        make_jobs(files, {}, settings)
    jobs = make_jobs(FileList(files.urls[:2]), {"n": [1, None]}, settings)
    assert [(job.url, job.fields) for job in jobs] == [("/d/a/x.tif", {"n": 1})]


def test_pauses_double_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tiffref.catalog.worker.time.sleep", pauses.append)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise caused(TimeoutError())

    with pytest.raises(SourceError):
        with_retries(fail, 3, 0.5)
    assert (len(calls), pauses) == (4, [0.5, 1.0, 2.0])
    with pytest.raises(MalformedTiff):
        with_retries(lambda: (_ for _ in ()).throw(MalformedTiff("bad")), 3, 0.5)
    assert len(pauses) == 3
    answers = iter([caused(TimeoutError()), "done"])

    def at_last() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert with_retries(at_last, 1, 0.0) == "done"


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


def test_chunks_that_a_file_does_not_store_are_counted(tmp_path: Path) -> None:
    tiles = (np.full((16, 16), 1, "u1") if n < 3 else None for n in range(8))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(tiles, shape=(32, 64), dtype="u1", tile=(16, 16), metadata=None)
    references = tiffref.scan(tmp_path / "a.tif", chunkmode="tile")
    facts = file_facts(references)
    names = ("n_chunks", "missing_chunks", "stored_bytes", "largest_chunk")
    assert [facts[name] for name in names] == [8, 5, 3 * 256, 256]
