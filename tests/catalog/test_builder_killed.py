"""Builds that are killed: they go on where they stopped, and end in the same catalog."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from archive import contents, strays, write_archive

import tiffref.catalog as catalog

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and /proc")

OPTIONS = {"stac": True, "stack": True, "stack_options": {"mosaic": True}}


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


def _run_and_kill(archive: Path, output: Path, rng: random.Random, workers: int) -> bool:
    """Run a build and kill it, or a worker of it, at a random moment; say whether it ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiffref.catalog", "pyarrow.parquet", "pystac"])
    options = {**OPTIONS, "workers": workers}
    process = context.Process(target=catalog.build, args=(archive, output), kwargs=options)
    process.start()
    journal = output / ".tiffref" / "journal.jsonl"
    before = journal.stat().st_size if journal.exists() else 0
    while process.is_alive() and not (journal.exists() and journal.stat().st_size > before):
        time.sleep(0.002)  # until then there is nothing to disturb
    time.sleep(rng.uniform(0, 0.1))
    assert process.pid is not None
    victims = [process.pid] if workers == 1 else [process.pid, *_children(process.pid)]
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(victims), signal.SIGKILL)
    process.join(300)
    return process.exitcode == 0


def _kill_many(tmp_path: Path, n_files: int, workers: list[int], seed: int) -> None:
    write_archive(tmp_path / "archive", n_files)
    target = tmp_path / "whole"  # a catalog carries the name of its folder
    catalog.build(tmp_path / "archive", target, **OPTIONS)
    target.rename(tmp_path / "kept")
    rng = random.Random(seed)
    for kill, n_workers in enumerate(workers):
        if _run_and_kill(tmp_path / "archive", target, rng, n_workers):
            assert contents(target) == contents(tmp_path / "kept")
            assert not strays(target)
            target.rename(tmp_path / f"done{kill}")  # begin again: there is nothing to disturb
    catalog.build(tmp_path / "archive", target, **OPTIONS)
    assert contents(target) == contents(tmp_path / "kept")
    assert not strays(target)


def test_a_few_kills(tmp_path: Path) -> None:
    _kill_many(tmp_path, 40, [1, 1, 2], seed=1)


@pytest.mark.slow
@pytest.mark.skipif("TIFFREF_KILLS" not in os.environ, reason="runs for minutes")
def test_fifty_kills(tmp_path: Path) -> None:
    _kill_many(tmp_path, 200, [1, 2] * 25, seed=2)
