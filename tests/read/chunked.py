"""Arrays over byte ranges that tests build by hand, and a server that counts requests."""

from __future__ import annotations

import math
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from faulty import finish_zarr

from tiffref.model.array import Array
from tiffref.model.codec import SegmentCodec
from tiffref.model.manifest import Manifest, Source


def build_array(
    values: np.ndarray,
    chunks: tuple[int, ...],
    source: Source,
    *,
    compression: int = 1,
    byteorder: str = "<",
    gap_bytes: int = 0,
    base: int = 16,
    missing: tuple[int, ...] = (),
    fill_value: Any = None,
) -> tuple[bytes, Array]:
    """Store an array chunk by chunk, as a TIFF writer stores tiles, and describe where they are."""
    grid = tuple(-(-n // c) for n, c in zip(values.shape, chunks, strict=True))
    data, offsets, lengths = bytearray(base), [], []
    for flat in range(math.prod(grid)):
        index = np.unravel_index(flat, grid)
        region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        part = values[region]
        block = (
            np.pad(part, [(0, c - n) for n, c in zip(part.shape, chunks, strict=True)])
            if chunks
            else part
        )
        stored = block.astype(values.dtype.newbyteorder(byteorder)).tobytes()
        stored = zlib.compress(stored) if compression == 8 else stored
        here = flat not in missing
        offsets.append(len(data) if here else 0)
        lengths.append(len(stored) if here else 0)
        data += (stored if here else b"") + bytes(gap_bytes)
    manifest = Manifest.from_columns(grid, source, offsets, lengths)
    codec = SegmentCodec(
        (1, 1, 1, math.prod(chunks)),
        values.dtype.newbyteorder("<").str,
        compression=compression,
        byteorder=byteorder,
    )
    dims = tuple("tzyx"[-len(chunks) :]) if chunks else ()
    array = Array(values.shape, chunks, values.dtype, dims, (codec,), manifest, fill_value)
    return bytes(data), array


class CountingServer:
    """An HTTP server of bytes by path that honours ranges and counts what it is asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.n_connections = 0
        self.latency_s = 0.0
        self.behaviour = "ranges"
        self.etag: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        # clients hang up when an answer is not what they asked for; that is no news
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"

    @property
    def n_get(self) -> int:
        """Requests for bytes."""
        return sum(method == "GET" for method, _, _ in self.requests)

    @property
    def n_bytes(self) -> int:
        """Bytes sent."""
        return sum(n for _, _, n in self.requests)

    def close(self) -> None:
        finish_zarr()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                server.n_connections += 1
                super().setup()

            def do_HEAD(self) -> None:
                self._answer(send_body=False)

            def do_GET(self) -> None:
                self._answer(send_body=True)

            def _answer(self, send_body: bool) -> None:
                time.sleep(server.latency_s)
                data = server.files.get(self.path)
                if data is None:
                    self.send_error(server.statuses.get(self.path, 404))
                    return
                status, body = 200, data
                asked = self.headers.get("Range")
                if asked and server.behaviour != "no ranges":
                    first, last = asked.removeprefix("bytes=").split("-")
                    body = data[int(first) : int(last) + 1]
                    status = 206 if body else 416
                    if server.behaviour == "short":
                        body = body[:-1]
                server.requests.append((self.command, self.path, len(body) if send_body else 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if server.behaviour != "no ranges":
                    self.send_header("Accept-Ranges", "bytes")
                if status == 206:
                    begin = int(first) + (7 if server.behaviour == "shifted" else 0)
                    end = begin + len(body) - 1
                    self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
                if server.etag:
                    self.send_header("ETag", f'"{server.etag}"')
                self.end_headers()
                if send_body and server.behaviour == "closes early":
                    body = body[: len(body) // 2]
                    self.close_connection = True
                if send_body:
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
