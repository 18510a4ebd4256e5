"""How errors read, and that they survive the way through worker processes."""

from __future__ import annotations

import pickle
import re
import tomllib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import (
    MalformedTiff,
    MetadataWarning,
    MissingExtra,
    MissingSource,
    TiffrefError,
    TruncationWarning,
    UnknownArgument,
    collect_warnings,
    install_hint,
    unreadable,
    warn,
)


def test_a_message_has_all_parts() -> None:
    error = MalformedTiff(
        "wrong", url="a.tif", ifd=3, tag="Width (256)", got=0, expected=1, hint="Mend it."
    )
    assert str(error) == "a.tif, IFD 3, Width (256): wrong, got 0, expected 1. Mend it."
    assert str(TiffrefError("wrong")) == "wrong"


@pytest.mark.parametrize("kind", [MalformedTiff, UnknownArgument, MissingSource, MissingExtra])
def test_errors_pickle_with_their_fields(kind: type[TiffrefError]) -> None:
    error = pickle.loads(pickle.dumps(kind("wrong", url="a.tif", got=0)))
    assert type(error) is kind
    assert (error.what, error.url, error.got) == ("wrong", "a.tif", 0)


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        (
            *("a.tif", FileNotFoundError(2, "No such file", "/folder/a.tif")),
            "a.tif: no such file",
        ),
        (
            *("/folder/a.tif", FileNotFoundError(2, "No such file", "/folder/a.tif")),
            "/folder/a.tif: no such file",
        ),
        ("a.tif", TimeoutError(), "a.tif: cannot be read, got TimeoutError"),
        (
            *("https://host/a.tif", ImportError("no aiohttp")),
            "https://host/a.tif: cannot be read, got ImportError: no aiohttp. "
            + install_hint("http"),
        ),
        (
            *("simplecache::s3://bucket/a.tif", ImportError("no s3fs")),
            "simplecache::s3://bucket/a.tif: cannot be read, got ImportError: no s3fs. "
            + install_hint("s3"),
        ),
        (
            *("gs://bucket/a.tif", ImportError("install gcsfs")),
            "gs://bucket/a.tif: cannot be read, got ImportError: install gcsfs",
        ),
    ],
)
def test_messages_of_file_systems_are_not_repeated(url: str, error: Exception, text: str) -> None:
    assert str(unreadable(url, error)) == text


def test_the_packages_of_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    for name in ("catalog", "dask", "geo", "http", "parquet", "s3", "xarray"):
        packages = (re.match(r"[\w\[\],-]+", one)[0] for one in extras[name])
        quoted = (f"'{one}'" if "[" in one else one for one in packages)
        assert install_hint(name) == f"pip install {' '.join(quoted)} (or tiffref[{name}])"


def test_our_own_warnings_are_collected() -> None:
    with pytest.warns(UserWarning, match="of others"), collect_warnings() as found:
        warn(MetadataWarning("odd"))
        warn(TruncationWarning("short"))
        warnings.warn("of others", stacklevel=1)
    assert found == ["odd", "short"]
    assert found.truncation == "short"
    with pytest.warns(MetadataWarning, match="odd") as shown:
        warn(MetadataWarning("odd"))
    assert shown[0].filename == __file__


def test_warnings_name_the_line_of_the_caller(tmp_path: Path) -> None:
    """Whatever calls lie between: a decorator, a store, a sequence, a document."""
    path = str(tmp_path / "a.tif")
    scale = [(42112, "s", 0, "<GDALMetadata><Item", True)]
    tifffile.imwrite(path, np.zeros((4, 4), "u1"), extratags=scale, metadata=None)
    calls: list[Callable[[], object]] = [
        lambda: tiffref.scan(path),
        lambda: tiffref.zarr.ZarrTiffStore(path),
        lambda: tiffref.imread(path, aszarr=True),
        lambda: tiffref.scan_sequence([path]),
    ]
    for call in calls:
        with pytest.warns(MetadataWarning, match="GDAL_METADATA") as shown:
            call()
        assert {one.filename for one in shown} == {__file__}


def test_threads_collect_their_own_warnings() -> None:
    both = Barrier(2)

    def work(name: str) -> list[str]:
        with collect_warnings() as found:
            both.wait()
            warn(MetadataWarning(name))
            both.wait()
        return found

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, "ab")) == [["a"], ["b"]]
