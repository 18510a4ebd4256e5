"""What several test modules share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import samples
from chunked import CountingServer

from tiffref.io import http

# tests start hundreds of programs, which would each compile xarray and zarr anew
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# what tests write is sealed with a key of their own
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tiffref-tests-")
http.RETRY = http.Retry(first_s=0.01)  # tests need not wait for faults to go away

# the same examples in each run, however busy the machine; --hypothesis-profile=other tries others
for name in ("same", "other"):
    hypothesis.settings.register_profile(
        name, deadline=None, derandomize=name == "same",
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
hypothesis.settings.load_profile("same")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _same_samples() -> None:
    samples.begin_again()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the source tree that these tests belong to."""
    return REPOSITORY


@pytest.fixture
def examples_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter the folder that the examples of the manual and of docstrings run in."""
    import numpy as np
    import tifffile

    image = (np.arange(512 * 768) % 4099).astype(np.uint16).reshape(512, 768)
    options: dict[str, Any] = {"tile": (256, 256), "compression": "zlib"}
    options["photometric"] = "minisblack"
    with tifffile.TiffWriter(tmp_path / "image.tif", ome=True) as tif:
        tif.write(image, subifds=2, metadata={"axes": "YX"}, **options)
        tif.write(image[::2, ::2], subfiletype=1, **options)
        tif.write(image[::4, ::4], subfiletype=1, **options)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server() -> Iterator[CountingServer]:
    """Return a server that counts requests."""
    running = CountingServer()
    yield running
    running.close()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the folder of TIFF files that `TIFFREF_CORPUS` names, or skip where it names none."""
    folder = os.environ.get("TIFFREF_CORPUS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no corpus of TIFF files here (set TIFFREF_CORPUS)")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """Return the options of s3fs for an S3 on this machine, which has no buckets yet."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield {
        "key": "x",
        "secret": "y",
        "endpoint_url": f"http://127.0.0.1:{port}",
        "client_kwargs": {"region_name": "us-east-1"},
    }
    server.stop()
