"""Install the lowest versions that pyproject.toml declares, and take the main paths with them.

`python dev.py lowest`, or this file with a PYTHON, makes an environment of its own with uv and ends
with 0 if all is right. It is no test of the suite: it installs packages.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "xarray,geo,dask,parquet,catalog,s3,http"

PATHS = """
import json, sys, warnings
import numpy as np
import tifffile
import tiffref
from tiffref import catalog
from tiffref.zarr import ZarrFileSequenceStore, ZarrTiffStore
import dask.array, fsspec, numcodecs.zstd, xarray, zarr

warnings.simplefilter("error", tiffref.MetadataWarning)
image = np.arange(512 * 384, dtype="u2").reshape(512, 384)
geo = [(33550, "d", 3, (10.0, 10.0, 0.0)), (33922, "d", 6, (0.0, 0, 0, 5e5, 5e6, 0)),
       (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632))]
for n in range(2):
    tifffile.imwrite(f"t{n}.tif", image, tile=(128, 128), compression="zlib", predictor=True,
                     extratags=[(*tag, True) for tag in geo], metadata=None)
references = tiffref.scan("t0.tif")
for zarr_format in (2, 3):
    references.write_fsspec(f"r{zarr_format}.json", zarr_format=zarr_format)
    assert tiffref.validate(f"r{zarr_format}.json", sources=True, pixels="all").ok
    assert (ZarrTiffStore(f"r{zarr_format}.json")[...] == image).all()
references.to_parquet("r.parq")
assert (ZarrTiffStore("r.parq")[...] == image).all()
with xarray.open_dataset("r2.json", engine="kerchunk") as dataset:
    assert (dataset.image.values == image).all()
# before 2025.6, xarray cannot read fill values of v3 with the zarr that we need
tiffref.scan("t0.tif", fillvalue=9).write_fsspec("fill.json", zarr_format=3)
with xarray.open_zarr("reference::fill.json", consolidated=False) as dataset:
    assert (dataset.image.fillna(9) == image).all()
with xarray.open_dataset("t1.tif", engine="tiffref", chunks={}) as dataset:
    assert (dataset.image.values == image).all()
    assert "32632" in str(dataset.spatial_ref.attrs)
store = ZarrTiffStore("t1.tif")
assert (zarr.open_array(store, mode="r")[100:300] == image[100:300]).all()
assert (dask.array.from_zarr(store).compute() == image).all()
assert (store.fs.cat("0.0") == store["0.0"])
series = ZarrFileSequenceStore("t*.tif")
assert (zarr.open_array(series, mode="r")[1] == image).all()
assert tiffref.scan_sequence("t{n}.tif").group["image"].shape == (2, 512, 384)
catalog.build(".", "c", stac=True)
assert catalog.open("c").query(bounds=(-180, -90, 180, 90)).stack().group["image"].shape[0] == 2
mapper = fsspec.get_mapper("reference://", fo="r2.json")
assert (zarr.open_group(mapper, mode="r")["image"][0] == image[0]).all()
# GDAL writes Zstandard frames without the size of their content
frame = bytes.fromhex("28b52ffd0000") + (100 << 3 | 3).to_bytes(3, "little") + b"x"
assert numcodecs.zstd.Zstd().decode(frame) == b"x" * 100
print("all right")
"""


def run(*command: str, cwd: Path = ROOT) -> int:
    print("$", " ".join(command)[:120], flush=True)
    return subprocess.run(command, cwd=cwd, check=False).returncode


def main(python: str = "3.11") -> int:
    with tempfile.TemporaryDirectory() as work:
        environment = Path(work, "lowest")
        program = str(environment / "bin" / "python")
        uv = [sys.executable, "-m", "uv"]
        failed = run(*uv, "venv", "-q", "--python", python, str(environment)) or run(
            *uv, "pip", "install", "-q", "--python", program, "--resolution", "lowest-direct",
            f"tiffref[{EXTRAS}] @ {ROOT.as_uri()}",
        )  # fmt: skip
        if failed:
            return failed
        run(*uv, "pip", "list", "-q", "--python", program)
        script = Path(work, "paths.py")
        script.write_text(PATHS)
        folder = Path(work, "files")
        folder.mkdir()
        return run(program, str(script), cwd=folder)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
