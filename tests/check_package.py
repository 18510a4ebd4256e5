"""Build wheel and sdist, look into them, and import tiffref from the wheel in an empty environment.

Run by `python dev.py package`; pytest does not collect it, since it installs packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_SDIST = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "src", "tests", "schemas"}
IN_WHEEL = {"tiffref/__init__.py", "tiffref/py.typed", "tiffref/schemas/kerchunk-v1.schema.json"}
SCRIPT = """
import pathlib, numpy, tifffile
import tiffref
tifffile.imwrite("a.tif", numpy.arange(64, dtype="u2").reshape(8, 8), compression="zlib")
tiffref.scan("a.tif").write_fsspec("a.json")
from tiffref.zarr import ZarrTiffStore
with ZarrTiffStore("a.json") as store:
    assert (store[:] == tifffile.imread("a.tif")).all()
print("tiffref", tiffref.__version__, "scans, writes and reads")
"""


def run(*command: str, **options: object) -> None:
    subprocess.run([*command], check=True, **options)  # type: ignore[call-overload]


def check_contents(wheel: Path, sdist: Path) -> None:
    """Compare the files in both archives with what belongs there."""
    files = set(zipfile.ZipFile(wheel).namelist())
    stray = {name.split("/")[0] for name in files if not name.startswith("tiffref")}
    assert files >= IN_WHEEL and not stray, (IN_WHEEL - files, stray)
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops >= IN_SDIST, IN_SDIST - tops


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--outdir", folder, str(ROOT))
        (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
        check_contents(wheel, sdist)
        run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
        empty = Path(folder) / "empty"
        venv.create(empty, with_pip=True)
        python = str(empty / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        run(python, "-m", "pip", "install", "--disable-pip-version-check", str(wheel))
        run(python, "-W", "error", "-c", SCRIPT, cwd=folder)
        for path in (wheel, sdist):
            (ROOT / "dist").mkdir(exist_ok=True)
            path.replace(ROOT / "dist" / path.name)


if __name__ == "__main__":
    main()
