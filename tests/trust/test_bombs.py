"""Chunks that decode to gigabytes: refused, or read in little memory, by every door.

Each codec, at each position of a chain, in JSON and parquet, in Zarr v2 and v3 (see `bombs`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bombs
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("xarray")
pytest.importorskip("resource", reason="memory is measured as Unix does")

MOST_MIB = 300
_ZARRS_OWN = "untyped: ValueError: No Zarr data type found"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    listed = [(name, str(path)) for name, path in bombs.documents(folder)]
    assert len(listed) > 80
    (folder / "made.json").write_text(json.dumps(listed))
    return folder / "made.json"


@pytest.mark.parametrize("door", bombs.DOORS)
def test_bombs_at_every_entry_point(made: Path, door: str) -> None:
    command = [sys.executable, "-W", "ignore", bombs.__file__, door, str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(json.loads(made.read_text()))
    large = {name: n_mib for name, (_, n_mib) in found.items() if n_mib > MOST_MIB}
    assert not large
    right = ("refused", "read", *([_ZARRS_OWN] if door in ("zarr", "store of v3") else []))
    wrong = {n: outcome for n, (outcome, _) in found.items() if not outcome.startswith(right)}
    assert not wrong
    if door in ("selection", "zarr", "engine", "dask", "store of v3"):
        honest = {
            name: outcome for name, (outcome, _) in found.items() if name.startswith("honest")
        }
        assert all(outcome == "read [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]"
                   for outcome in honest.values()), honest  # fmt: skip
        assert not any(outcome.startswith("read [") for name, (outcome, _) in found.items()
                       if not name.startswith("honest"))  # fmt: skip
