"""Scan and decode mutated TIFFs in a child process with limits on memory and time.

`python fuzzing.py FIRST COUNT` runs mutations FIRST to FIRST+COUNT, several children one after the
other, and prints one line of JSON: how many were refused or read, and what went wrong. Those from
`FIRST_HOSTILE` on are files built to do harm (`hostile`) instead.
"""

from __future__ import annotations

import collections
import faulthandler
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

CPU_SECONDS = 10
"""Processor time for one file; files of a few KiB take milliseconds."""
GROWTH_BYTES = 512 << 20
"""Memory that one file may make the process grow by."""
ADDRESS_BYTES = 6 << 30
STALL_SECONDS = 120
"""Wall time without progress after which a child is killed: it hangs outside of Python."""
BATCH = 2000
MAX_CHUNKS = 4
FIRST_HOSTILE = 1_000_000_000


class Hang(BaseException):
    """Too much processor time."""


def read_some(references: Any) -> None:
    """Decode some chunks of every array, each alone; small arrays as a whole."""
    from tiffref.errors import TiffrefError
    from tiffref.read import Fetcher, read_array

    fetch = Fetcher()
    for _, array in references.group.arrays():
        n = array.manifest.n_chunks
        selections: list[Any] = []
        for flat in sorted({0, n // 2, n - 1, int(array.manifest.length.argmax()) if n else 0}):
            if 0 <= flat < n:
                index = np.unravel_index(flat, array.grid)
                selections.append(
                    tuple(int(i) * c for i, c in zip(index, array.chunks, strict=True))
                )
        if array.nbytes <= 1 << 22:
            selections.append(...)
        for selection in selections[: MAX_CHUNKS + 1]:
            try:
                read_array(array, selection, fetch=fetch)
            except TiffrefError as error:
                if _is_out_of_memory(error):
                    raise MemoryError from error
    fetch.close()


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error was made of one of memory: something asked for far too much."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def try_file(path: Path) -> str:
    """Scan and read one file; return "read" or "refused"."""
    import tiffref
    from tiffref.errors import TiffrefError

    try:
        references = tiffref.scan(path)
    except TiffrefError as error:
        str(error)
        return "out of memory" if _is_out_of_memory(error) else "refused"
    references.to_kerchunk()
    read_some(references)
    return "read"


def make_case(seed: int) -> tuple[str, str, bytes]:
    """Return the kind, file name and bytes of a case."""
    if seed >= FIRST_HOSTILE:
        import hostile

        return hostile.make(seed)
    from mutate import mutate
    from seeds import SEEDS

    names = sorted(SEEDS)
    name = names[seed % len(names)]
    return name, "case.tif", mutate(_seed_file(name), seed)


@functools.cache
def _seed_file(name: str) -> bytes:
    from seeds import SEEDS

    return SEEDS[name]()


def run_child(first: int, count: int, folder: Path) -> None:
    """Run mutations one by one; leave the result of each in a file as soon as it is there."""
    import tiffref.errors

    warnings.simplefilter("ignore")
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _hang)
    log = (folder / "log").open("w", buffering=1)
    for seed in range(first, first + count):
        name, file, data = make_case(seed)
        path = folder / file
        path.write_bytes(data)
        log.write(f"{seed}\t{name}\tbegun\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            outcome = try_file(path)
        except Hang:
            outcome = "hang: " + _where(sys.exc_info()[2])
        except tiffref.errors.TiffrefError as error:
            outcome = "refused" if isinstance(error, ValueError) else f"untyped: {error!r}"
        except BaseException as error:
            outcome = (
                f"untyped: {type(error).__name__}: {error}"[:160] + " " + _where(sys.exc_info()[2])
            )
        signal.setitimer(signal.ITIMER_PROF, 0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        if grown > GROWTH_BYTES:
            outcome = f"memory: {grown >> 20} MiB ({outcome})"
        log.write(f"{seed}\t{name}\t{outcome}\n".replace("\n", " ").strip() + "\n")


def _hang(*_: Any) -> None:
    raise Hang


def _where(trace: Any) -> str:
    frames = traceback.extract_tb(trace)
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-7:-1])


def run(first: int, count: int) -> dict[str, Any]:
    """Run mutations in children; a child that dies is followed by another."""
    outcomes: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    at, end = first, first + count
    while at < end:
        with tempfile.TemporaryDirectory() as name:
            done, died = _run_batch(at, min(BATCH, end - at), Path(name))
        for seed, seed_name, outcome in done:
            outcomes[outcome.split(":")[0]] += 1
            if outcome not in ("read", "refused"):
                problems.append(f"{seed} {seed_name} {outcome}")
                print(problems[-1], file=sys.stderr, flush=True)
        print(at, dict(outcomes), file=sys.stderr, flush=True)
        at = done[-1][0] + 1 if done else at
        if died is not None:
            outcomes["crash"] += 1
            problems.append(died)
            print(died, file=sys.stderr, flush=True)
            at = int(died.split()[0]) + 1
    return {"first": first, "count": count, "outcomes": dict(outcomes), "problems": problems}


def _run_batch(
    first: int, count: int, folder: Path
) -> tuple[list[tuple[int, str, str]], str | None]:
    command = [sys.executable, __file__, "--child", str(first), str(count), str(folder)]
    with (folder / "stderr").open("wb") as stderr:
        child = subprocess.Popen(command, stderr=stderr, stdout=stderr)
        seen, since = -1, time.monotonic()
        while child.poll() is None:
            time.sleep(0.05)
            size = (folder / "log").stat().st_size if (folder / "log").exists() else 0
            if size != seen:
                seen, since = size, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                child.send_signal(signal.SIGKILL)
                child.wait()
    said = (folder / "stderr").read_text(errors="replace")
    said = said[max(0, said.rfind("Fatal Python error")) :][:1500]
    log = folder / "log"
    lines = [line.split("\t", 2) for line in log.read_text().splitlines()] if log.exists() else []
    if not lines:
        raise RuntimeError(f"the child did not start: {said}")
    done = [(int(s), name, outcome) for s, name, outcome in lines if outcome != "begun"]
    if child.returncode == 0:
        return done, None
    seed, name, _ = lines[-1]
    how = f"killed by signal {-child.returncode}" if child.returncode < 0 else "failed"
    return done, f"{seed} {name} crash: {how} {said!r}"


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        run_child(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2])), indent=1))
