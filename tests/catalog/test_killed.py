"""Builds that are killed: they go on where they stopped, and end in the same catalog."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from archive import contents, strays, write_archive

import tiffref.catalog as catalog

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and /proc")

_SLOW_SCAN = """
import sys, time
import tiffref.catalog as catalog
from tiffref.catalog import scanning
scan = scanning.FileScanner.scan
def slow(self, job):
    time.sleep(0.004)
    return scan(self, job)
scanning.FileScanner.scan = slow
if __name__ == "__main__":
    catalog.build(sys.argv[1], sys.argv[2], stac=True, stack=True,
                  stack_options={"mosaic": True}, workers=int(sys.argv[3]))
"""


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def _run_and_kill(
    script: Path, archive: Path, output: Path, rng: random.Random, workers: int, parent: bool
) -> bool:
    """Run a build and kill it, or a worker of it, at a random moment; say whether it ended."""
    command = [sys.executable, str(script), str(archive), str(output), str(workers)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal = output / ".tiffref" / "journal.jsonl"
    before = journal.stat().st_size if journal.exists() else 0
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > before):
        time.sleep(0.002)  # imports alone take most of the run: nothing to disturb yet
        if rng.random() < 0.001:
            break
    time.sleep(rng.uniform(0, 0.3))
    victims = [process.pid] if parent else _children(process.pid)
    for pid in victims[-1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.wait(300) == 0


def _kill_many(tmp_path: Path, n_files: int, n_kills: int, seed: int) -> None:
    script = tmp_path / "build.py"
    script.write_text(_SLOW_SCAN)
    write_archive(tmp_path / "archive", n_files)
    whole = tmp_path / "whole"
    options = {"stac": True, "stack": True, "stack_options": {"mosaic": True}}
    catalog.build(tmp_path / "archive", whole, **options)
    # a catalog carries the name of its folder
    whole.rename(tmp_path / "kept")
    rng = random.Random(seed)
    finished = 0
    for kill in range(n_kills):
        target = tmp_path / "whole"
        workers = 2 if kill % 2 else 1
        finished += _run_and_kill(
            script, tmp_path / "archive", target, rng, workers, parent=rng.random() < 0.6
        )
        if finished:  # begin again: there is nothing left to disturb
            assert contents(target) == contents(tmp_path / "kept")
            assert not strays(target)
            target.rename(tmp_path / f"done{kill}")
            finished = 0
    catalog.build(tmp_path / "archive", tmp_path / "whole", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "kept")
    assert not strays(tmp_path / "whole")


def test_a_few_kills(tmp_path: Path) -> None:
    _kill_many(tmp_path, 40, 4, seed=1)


@pytest.mark.slow
@pytest.mark.skipif("TIFFREF_KILLS" not in os.environ, reason="runs for minutes")
def test_fifty_kills(tmp_path: Path) -> None:
    _kill_many(tmp_path, 200, 50, seed=2)
