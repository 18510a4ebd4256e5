"""A range server in a process of its own that answers late and counts.

`GET /count` gives requests and bytes since the last time as JSON.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import multiprocessing
import re
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def __init__(self, folder: str, delay_s: float, counts: dict, *args: Any) -> None:
        self.folder, self.delay_s, self.counts = folder, delay_s, counts
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(has_body=False)

    def do_GET(self) -> None:
        if self.path == "/count":
            body = json.dumps(self.counts).encode()
            self.counts.update(requests=0, bytes=0)
            self.send(200, body, len(body))
            return
        self.answer(has_body=True)

    def answer(self, has_body: bool) -> None:
        self.counts["requests"] += 1
        time.sleep(self.delay_s)
        path = Path(self.folder, self.path.lstrip("/"))
        if not path.is_file():
            self.send(404, b"", 0)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (
            (int(asked[1]), min(size, int(asked[2] or size - 1) + 1)) if asked else (0, size)
        )
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(end - start) if has_body else b""
        self.counts["bytes"] += len(body)
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if asked else {}
        self.send(206 if asked else 200, body, end - start, headers)

    def send(self, status: int, body: bytes, length: int, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)


def _serve(folder: str, delay_s: float, pipe: Any) -> None:
    counts = {"requests": 0, "bytes": 0}

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), partial(_Handler, folder, delay_s, counts))
    pipe.send(server.server_port)
    server.serve_forever()


@contextlib.contextmanager
def serving(folder: Path, delay_s: float = 0.02) -> Iterator[str]:
    """Serve a folder; gives the URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(str(folder), delay_s, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()


def count(url: str) -> dict[str, int]:
    """Requests and bytes since the last call."""
    with urllib.request.urlopen(f"{url}/count") as answer:
        return json.load(answer)
