"""Ctrl-C and the end of a program wait for no server; stalled ones end within a time limit.

The servers here hang until the child process is gone: a child that waited for them would not end.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tiffref
from tiffref.errors import SourceError
from tiffref.io.clients import DaemonPool
from tiffref.zarr import ZarrTiffStore

pytest.importorskip("aiohttp")


class HangingServer:
    """Answers the first requests of a file, then sends a byte now and then, or nothing.

    `is_hanging` is set once `n_hanging` requests wait.
    """

    def __init__(
        self, data: bytes, n_good: int, drip_s: float | None = None, n_hanging: int = 1
    ) -> None:
        self.is_hanging, self.is_over = threading.Event(), threading.Event()
        numbers = itertools.count(1)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                number = next(numbers)
                is_good = number <= n_good
                first, last = map(int, self.headers["Range"][6:].split("-"))
                last = min(last, len(data) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                self.send_header("Content-Length", str(last - first + 1))
                self.end_headers()
                if is_good:
                    self.wfile.write(data[first : last + 1])
                    return
                if number >= n_good + n_hanging:
                    outer.is_hanging.set()
                try:
                    while not outer.is_over.wait(drip_s) and drip_s is not None:
                        self.wfile.write(b"x")
                        self.wfile.flush()
                except OSError:
                    pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/a.tif"

    def close(self) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def large() -> bytes:
    """Return a TIFF whose tiles are not among the first bytes."""
    import io

    import numpy as np
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.arange(1 << 18, dtype="u4").reshape(512, 512), tile=(64, 64))
    return buffer.getvalue()


READERS = {
    "selection": "tiffref.zarr.ZarrTiffStore(references)[...]",
    "zarr": "import zarr; zarr.open_array(tiffref.zarr.ZarrTiffStore(references), mode='r')[...]",
    "validate": "tiffref.validate(references.to_kerchunk(), sources=True, pixels=1)",
    "scan": "tiffref.scan(sys.argv[1] + '?again')",
    "sequence": "tiffref.scan_sequence([f'{sys.argv[1]}?{n}' for n in range(9)])",
    "file system": "tiffref.zarr.ZarrTiffStore(references).fs.cat(['0.0', '3.3', '7.7'])",
    "xarray": "import xarray as xr; "
    "xr.open_dataset(references.to_kerchunk(), engine='tiffref').load()",
}
PROGRAM = """
import sys, tiffref, tiffref.zarr
references = tiffref.scan(sys.argv[1])
try:
    {read}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def interrupt(arguments: list[str], server: HangingServer) -> subprocess.CompletedProcess[bytes]:
    """Run Python, interrupt it once the server hangs, and wait for its end."""
    command = [sys.executable, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # what a shell runs in the background ignores SIGINT, and hands that on
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as child:
        try:
            assert server.is_hanging.wait(120)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
            server.close()
    return subprocess.CompletedProcess(command, child.returncode, out, err)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("reader", READERS)
def test_interrupted_reads_end(large: bytes, reader: str) -> None:
    server = HangingServer(large, n_good=1)
    code = PROGRAM.format(read=READERS[reader])
    done = interrupt(["-c", code, server.url], server)
    assert done.stdout.split() == [b"interrupted"], done.stderr.decode()[-2000:]
    assert done.returncode == 0
    if reader != "zarr":  # zarr cancels no task of its own, and asyncio complains of some at exit
        assert b"Traceback" not in done.stderr


PROGRAMS = {
    "dask": "import xarray; "
    "dataset = xarray.open_dataset(references.to_kerchunk(), engine='tiffref', chunks={'y': 128}); "
    "dataset.load(num_workers=2)",
    "catalog": "from tiffref import catalog; "
    "catalog.build([sys.argv[1] + '?again'], sys.argv[2], executor='processes', workers=2)",
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("program", PROGRAMS)
def test_interrupted_programs_end(large: bytes, tmp_path: Path, program: str) -> None:
    """Python waits for the threads and processes of others: requests in there are given up."""
    pytest.importorskip("dask")
    pytest.importorskip("pyarrow")
    # both threads of dask: Ctrl-C while the first one starts makes Python itself wait for ever
    server = HangingServer(large, n_good=1, n_hanging=2 if program == "dask" else 1)
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, tiffref\nif __name__ == '__main__':\n"
        f"    references = tiffref.scan(sys.argv[1])\n    {PROGRAMS[program]}\n"
    )
    done = interrupt([str(script), server.url, str(tmp_path / "catalog")], server)
    assert done.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize("drip_s", [None, 0.05])
def test_servers_that_hang_or_drip(
    large: bytes, drip_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HangingServer(large, n_good=1, drip_s=drip_s)
    try:
        references = tiffref.scan(server.url)
        monkeypatch.setenv("TIFFREF_TIMEOUT", "0.5")
        with pytest.raises(SourceError, match="TIFFREF_TIMEOUT"):
            ZarrTiffStore(references)[...]
    finally:
        server.close()


def test_reads_while_the_interpreter_ends(tmp_path: Path, large: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(large)
    code = """
import atexit, sys, tiffref.zarr
store = tiffref.zarr.ZarrTiffStore(sys.argv[1])
atexit.register(lambda: print(int(store[...].sum()), flush=True))
import threading
threading.Thread(target=lambda: store[...].sum()).start()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr
    assert int(done.stdout) == sum(range(1 << 18))


def test_a_pool_runs_what_it_is_given() -> None:
    pool = DaemonPool(3, "test")
    assert list(pool.map(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result()
    held = threading.Event()
    blocked = [pool.submit(held.wait) for _ in range(3)]
    late = [pool.submit(int) for _ in range(3)]
    held_back = late[0].cancel()
    held.set()
    assert held_back and all(future.result() for future in blocked)
    pool.shutdown(cancel_futures=True)
    assert all(future.done() for future in late)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)
    threads: Iterator[threading.Thread] = iter(threading.enumerate())
    assert not any(thread.name.startswith("test_") for thread in threads)
