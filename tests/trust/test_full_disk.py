"""A disk that is full: no half-written output, and an error that names the output and the disk.

The disk is a limit on the size of files, which the system keeps for each process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("resource", reason="limits are set as Unix does")

PROGRAM = """
import contextlib, json, os, resource, shutil, sys, warnings
from pathlib import Path
import numpy as np, tifffile, tiffref
from tiffref import catalog

warnings.simplefilter("ignore")
work = Path(sys.argv[1])
for n in range(6):
    tifffile.imwrite(work / f"t{n}.tif", np.zeros((512, 512), "u1"), tile=(16, 16), metadata=None)
image, files = work / "t0.tif", [str(work / f"t{n}.tif") for n in range(6)]
out = work / "out"
moves = {f"{work}/": "s3://bucket/" + "x" * 99 + "/"}


@contextlib.contextmanager
def full(n_bytes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def scanned():
    return tiffref.scan(image, chunkmode="tile")


def written():
    scanned().write_fsspec(out / "r.json")


def parquet():
    scanned().to_parquet(out / "r.parq", record_size=500)


def changed():
    os.utime(image)
    written()
    os.utime(image, (1e9, 1e9))


KINDS = {
    "json": (None, written),
    "json in the place of another": (lambda: (out / "r.json").write_text("old"), written),
    "v3": (None, lambda: scanned().write_fsspec(out / "r.json", zarr_format=3)),
    "parquet": (None, parquet),
    "parquet in the place of another": (parquet, parquet),
    "convert": (written, lambda: catalog.convert(out / "r.json", out / "r.parq")),
    "rewrite": (written, lambda: catalog.rewrite(out / "r.json", out / "r.json", moves)),
    "refresh": (changed, lambda: tiffref.refresh(out / "r.json")),
    "catalog": (None, lambda: catalog.build(files, out / "catalog")),
    "catalog of parquet": (None, lambda: catalog.build(files, out / "catalog", format="parquet")),
    "catalog with sets": (None, lambda: catalog.build(files, out / "catalog", per_file=False,
                                                      stack=True, stac=True)),
}


def snapshot():
    return {str(one.relative_to(out)): one.read_bytes() for one in sorted(out.rglob("*"))
            if one.is_file() and ".tiffref" not in one.parts}


def attempt(kind, n_bytes):
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    prepare, act = KINDS[kind]
    if prepare is not None:
        prepare()
    before, error = snapshot(), None
    try:
        with full(n_bytes):
            act()
    except tiffref.TiffrefError as found:
        error = f"{type(found).__name__}: {found}"
    except BaseException as found:
        error = f"untyped {type(found).__name__}: {found}"
    after = snapshot()
    if not kind.startswith("catalog"):
        return error, after == before, None
    whole = all(json.loads(data) for name, data in after.items() if name.endswith(".json"))
    again = act()
    return error, whole, again.ok and not list(out.rglob("scratch*"))


print(json.dumps({kind: {n: attempt(kind, n) for n in map(int, sys.argv[2:])} for kind in KINDS}))
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    limits = ["0", "60", "700", "1400"]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    n_errors = 0
    for kind, by_limit in json.loads(done.stdout).items():
        for limit, (error, is_whole, is_resumed) in by_limit.items():
            assert is_whole and is_resumed is not False, (kind, limit)
            if error is None:
                continue
            n_errors += 1
            assert error.startswith(("SourceError", "CatalogError")), (kind, limit, error)
            assert "too large" in error and str(tmp_path / "out") in error, (kind, limit, error)
            assert f"{tmp_path}/t" not in error.replace(f"{tmp_path}/out", ""), (kind, error)
    assert n_errors > 30
