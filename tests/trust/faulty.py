"""An HTTP server that breaks what it says: changed files, redirects, and faults out of a seed."""

from __future__ import annotations

import asyncio
import email.utils
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from zarr.core.sync import sync

__all__ = ["FAULTS", "FaultyServer", "finish_zarr"]

FAULTS = (
    *("status 429", "status 500", "status 502", "status 503", "status 504", "status 403"),
    *("reset", "half a body", "no body", "whole file", "whole file without length"),
    *("wrong range", "no range", "one byte less", "one byte more", "wrong length", "gzip", "stall"),
)


def finish_zarr() -> None:
    """Wait for the chunks that zarr still reads.

    When one fails, zarr raises at once and reads the others to their end. They are requests and
    retries that would be counted while a later test runs.
    """
    sync(_finish_tasks(), timeout=60)


async def _finish_tasks() -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


class FaultyServer:
    """Serves bytes by path; `faults` happen with a probability.

    `etag` and `modified` choose which validators answers have. `redirects` maps paths to
    addresses. `requests` counts (method, path), `ranges` what was asked for, `n_bytes` what was
    sent. `headers` go with faults.
    The fault "drip" sends one byte after the other; "no range behind the end" refuses ranges that
    end there, and "at most 5000" sends no more bytes of a range, as some servers do.
    """

    def __init__(self, seed: int = 0) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.modified: dict[str, float] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str | None] = []
        self.n_bytes = 0
        self.headers: dict[str, str] = {}
        self.honours_conditions = self.answers_head = True
        self.probability = 0.0
        self.n_faults = 0
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        finish_zarr()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def pick_fault(self) -> str | None:
        with self.lock:
            if self.random.random() >= self.probability:
                return None
            self.n_faults += 1
            return self.random.choice(FAULTS)


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self._answer(None if server.answers_head else server.pick_fault())

        def do_GET(self) -> None:
            self._answer(server.pick_fault())

        def log_message(self, *args: Any) -> None:
            pass

        def _answer(self, fault: str | None) -> None:
            server.requests.append((self.command, self.path))
            server.ranges.append(self.headers.get("Range"))
            data = server.files.get(self.path)
            if self.path in server.redirects:
                self._send(302, b"", {"Location": server.redirects[self.path]})
            elif data is None:
                self._send(404, b"", {})
            elif fault is not None and fault.startswith("status "):
                self._send(int(fault[7:]), b"", server.headers)
            elif fault == "reset":
                self.close_connection = True
            elif not self._is_met():
                self._send(412, b"", {})
            else:
                self._send_data(data, fault)

        def _is_met(self) -> bool:
            etag, modified = server.etags.get(self.path), server.modified.get(self.path)
            if not server.honours_conditions:
                return True
            wanted = self.headers.get("If-Match")
            if wanted is not None and wanted != f'"{etag}"':
                return False
            since = self.headers.get("If-Unmodified-Since")
            if since is None or modified is None:
                return True
            return email.utils.parsedate_to_datetime(since).timestamp() >= modified

        def _send_data(self, data: bytes, fault: str | None) -> None:
            asked = self.headers.get("Range")
            headers = {"Accept-Ranges": "bytes"}
            if self.path in server.etags:
                headers["ETag"] = f'"{server.etags[self.path]}"'
            if self.path in server.modified:
                moment = email.utils.formatdate(server.modified[self.path], usegmt=True)
                headers["Last-Modified"] = moment
            if asked is None or fault in ("whole file", "whole file without length"):
                self._send(200, data, headers, fault)
                return
            first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
            is_refused = fault == "no range behind the end" and last >= len(data)
            if first >= len(data) or is_refused:
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            if fault is not None and fault.startswith("at most "):
                last = min(last, first + int(fault[8:]) - 1)
            body = data[first : last + 1]
            span = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
            if fault == "wrong range":
                body = data[first + 3 : last + 4]
                span = f"bytes {first + 3}-{first + 2 + len(body)}/{len(data)}"
            headers["Content-Range"] = span
            if fault == "no range":
                del headers["Content-Range"]
            self._send(206, body, headers, fault)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], fault: str | None = None
        ) -> None:
            length = len(body)
            if fault == "one byte less":
                body, length = body[:-1], length - 1
            elif fault == "one byte more":
                body, length = body + b"x", length + 1
            elif fault == "wrong length":
                length += 7
                self.close_connection = True
            elif fault in ("half a body", "no body"):
                body = body[: len(body) // 2] if fault == "half a body" else b""
                self.close_connection = True
            elif fault == "gzip":
                headers = {**headers, "Content-Encoding": "gzip"}
            elif fault == "stall":
                time.sleep(0.05)
            self.send_response(status)
            if fault == "whole file without length":
                self.close_connection = True
                headers = {**headers, "Connection": "close"}
            else:
                headers = {**headers, "Content-Length": str(length)}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            size = 1 if fault == "drip" else 1 << 16
            for start in range(0, len(body), size):
                # before it is sent: whoever has it may set the count to 0
                server.n_bytes += len(body[start : start + size])
                self.wfile.write(body[start : start + size])
                time.sleep(0.05 if fault == "drip" else 0)

    return Handler
