"""A small HTTP server that supports byte ranges, like object stores; for examples and tests.

`python examples/range_server.py FOLDER [PORT]` serves a folder; `serve(folder)` does the same
inside a program, and lists the requested ranges.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO


class RangeServer(ThreadingHTTPServer):
    """The server; `ranges` lists (path, first byte, length) of every range that was sent."""

    daemon_threads = True
    request_queue_size = 128  # browsers and Node.js connect many times at once

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), partial(RangeHandler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.ranges: list[tuple[str, int, int]] = []


class RangeHandler(SimpleHTTPRequestHandler):
    """Answers GET requests with a single range; leaves everything else to the base class."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms for an ACK of the headers
    server: RangeServer

    def send_head(self) -> BinaryIO | None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            return super().send_head()  # type: ignore[return-value]
        size, first = path.stat().st_size, int(asked[1])
        last = min(int(asked[2] or size), size - 1)
        if first > last:
            self.send_error(416)
            return None
        self.server.ranges.append((self.path, first, last - first + 1))
        self.send_response(206)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(first)
                self.wfile.write(file.read(last - first + 1))
        return None

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        """Log nothing: the requests are in `ranges`."""


@contextmanager
def serve(folder: Path) -> Iterator[RangeServer]:
    """Serve a folder on a free port until the block ends."""
    with RangeServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with RangeServer(Path(sys.argv[1]), int((sys.argv[2:] or ["8000"])[0])) as running:
        print(f"serving {sys.argv[1]} at {running.url}")
        running.serve_forever()
