"""Open files: how many a process has, and that each is the one that was allowed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiffref
from tiffref.errors import SourceError, UntrustedSource
from tiffref.io import allow
from tiffref.zarr import ZarrTiffStore

PIXELS = np.arange(320, dtype="u2").reshape(16, 20)


@pytest.fixture
def tif(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    tifffile.imwrite(tmp_path / "data" / "a.tif", PIXELS, metadata=None)
    return tmp_path / "data" / "a.tif"


STORES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from tiffref.references import References
from tiffref.zarr import ZarrTiffStore
import tiffref
references = [tiffref.scan(name) for name in sys.argv[2:]]
stores = []
for n in range(int(sys.argv[1])):
    stores.append(ZarrTiffStore(references[n % len(references)]))
    assert stores[-1][0, 1] == 1
assert all(store[0, 2] == 2 for store in stores[::50])
print(len(stores))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_thousands_of_stores_at_256_descriptors(tif: Path) -> None:
    names = [str(tif)]
    for n in range(300):
        names.append(str(tif.with_name(f"{n}.tif")))
        os.link(tif, names[-1])
    command = [sys.executable, "-c", STORES, "2000", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2000"], done.stderr[-1000:]


def test_running_out_is_an_error_of_that_name(tif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ZarrTiffStore(tif)

    def refuse(path: str, *_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(os, "open", refuse)
    for read in (lambda: store[0], lambda: tiffref.scan(tif), lambda: ZarrTiffStore(tif)):
        with pytest.raises(SourceError, match="Too many open files") as caught:
            read()
        assert caught.value.errno == errno.EMFILE and "parsed" not in str(caught.value)


def test_without_positioned_reads(tif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none."""
    for name in ("pread", "preadv"):
        monkeypatch.delattr(os, name, raising=False)
    assert (ZarrTiffStore(tif)[...] == PIXELS).all()
    assert tiffref.scan(tif).group["image"].shape == PIXELS.shape


def swapping(link: Path, targets: list[Path], is_over: threading.Event) -> None:
    n = 0
    while not is_over.is_set():
        n += 1
        other = link.with_name("other")
        other.symlink_to(targets[n % 2])
        other.replace(link)


def test_links_that_are_swapped_meanwhile(tif: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.tif"
    secret.write_bytes(tif.read_bytes())
    tifffile.imwrite(secret, PIXELS[::-1].copy(), metadata=None)
    for path in (tif, secret):
        os.utime(path, (1e9, 1e9))
    link = tif.with_name("link.tif")
    link.symlink_to(tif)
    references = tiffref.scan(link)
    is_over = threading.Event()
    thread = threading.Thread(target=swapping, args=(link, [tif, secret], is_over))
    thread.start()
    outcomes = set()
    try:
        for _ in range(2000):
            try:
                pixels = ZarrTiffStore(references, allow=str(tif.parent))[...]
                assert (pixels == PIXELS).all()
                outcomes.add("read")
            except UntrustedSource:
                outcomes.add("refused")
    finally:
        is_over.set()
        thread.join()
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("has_proc", [True, False])
def test_where_an_open_file_is(tif: Path, has_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_proc:
        monkeypatch.setattr(os, "readlink", _no_proc(os.readlink))
    link = tif.with_name("link.tif")
    link.symlink_to(tif)
    real = os.path.realpath(tif)
    descriptor = os.open(link, os.O_RDONLY)
    try:
        assert allow._opened_path(str(link), descriptor) == real
        link.unlink()
        link.symlink_to(tif.with_name("other.tif"))
        assert allow._opened_path(str(link), descriptor) == (real if has_proc else None)
    finally:
        os.close(descriptor)


def _no_proc(readlink):
    def read(path, *arguments, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return readlink(path, *arguments, **options)

    return read
